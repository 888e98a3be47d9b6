"""VD402 bin-saturation: a symptom that stays silent on full speed, and speaks where the ends cannot be meant."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from episodes import BRIDGE, LIBERO_OBJECT, MASK, episode, some_ids, unnormalise

from vladoctor.check import Abstention, Clear, Problem, Severity, Verdict
from vladoctor.checks.vd402_bin_saturation import CHECK
from vladoctor.facts import Facts
from vladoctor.profiles import Profile, find_profile, load_profile

LIBERO = load_profile("openvla-libero")
RIGHT = unnormalise(LIBERO_OBJECT)
HIGHEST, SAME_BIN, LOWEST = 31744, 31745, 31999

FIXTURE: dict[str, Any] = {
    "q01": [-1.0, -1.0, -1.0, -0.1, -0.1, -0.1, 0.0],
    "q99": [1.0, 1.0, 1.0, 0.1, 0.1, 0.1, 1.0],
    "min": [-1.0, -1.0, -1.0, 0.0, 0.0, 0.0, 0.0],
    "max": [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0],
    "mean": [0.09, 0.15, -0.04, 0.0, 0.0, 0.0, 0.53],
    "std": [0.39, 0.48, 0.47, 0.0, 0.0, 0.0, 0.5],
    "mask": MASK,
}
"""Statistics of the reference tasks' kind: full speed in translation, rotation never used."""


def judge(ids: Any, profile: Profile = LIBERO, stats: dict[str, Any] | None = None, **arguments: Any) -> Verdict:
    stats = LIBERO_OBJECT if stats is None else stats
    recorded = episode(ids, returned=RIGHT, norm_stats={"libero_object": stats}, **arguments)
    (verdict,) = CHECK.judge(Facts(recorded, profile), dict(CHECK.thresholds))
    return verdict


def calm(queries: int) -> np.ndarray:
    """Ids that stay away from the ends."""
    return np.clip(some_ids(queries), 31750, 31990)


def at(ids: np.ndarray, rows: slice, columns: Any, value: int) -> np.ndarray:
    ids[rows, columns] = value
    return ids


def test_it_is_a_symptom() -> None:
    assert CHECK.symptom


@pytest.mark.parametrize("stats", [LIBERO_OBJECT, FIXTURE])
@pytest.mark.parametrize("value", [HIGHEST, SAME_BIN, LOWEST])
def test_four_dimensions_together_fire_within_twenty_queries(value: int, stats: dict[str, Any]) -> None:
    verdict = judge(at(calm(20), slice(3, 18), [0, 2, 3, 5], value), stats=stats)
    assert isinstance(verdict, Problem)
    assert verdict.severity is Severity.LOOK
    assert verdict.first_step == 3
    assert "4 or more arm dimensions" in verdict.message
    table = verdict.evidence["per_dimension"]
    side = "share_lowest" if value == LOWEST else "share_highest"
    assert table[side][:6] == [0.75, 0.0, 0.75, 0.75, 0.0, 0.75]
    assert table["longest_run"][0] == 15


@pytest.mark.parametrize("stats", [LIBERO_OBJECT, FIXTURE])
def test_three_dimensions_together_take_longer(stats: dict[str, Any]) -> None:
    assert isinstance(judge(at(calm(60), slice(0, 34), [0, 1, 2], HIGHEST), stats=stats), Clear)
    verdict = judge(at(calm(60), slice(5, 45), [0, 1, 2], HIGHEST), stats=stats)
    assert isinstance(verdict, Problem)
    assert verdict.first_step == 5
    assert "3 or more arm dimensions sit in an outermost bin together in 100% of 40 queries" in verdict.message


@pytest.mark.parametrize("stats", [LIBERO_OBJECT, FIXTURE])
def test_a_run_further_than_the_arm_reaches_fires(stats: dict[str, Any]) -> None:
    verdict = judge(at(calm(120), slice(10, 95), 1, LOWEST), stats=stats)
    assert isinstance(verdict, Problem)
    assert verdict.first_step == 10
    assert "y sits in its lowest bin for 85 queries" in verdict.message


def test_a_dimension_that_the_data_hardly_ever_drive_to_its_end_fires() -> None:
    ids = calm(100)
    ids[::3, 4], ids[1::3, 4] = HIGHEST, LOWEST
    verdict = judge(ids)
    assert isinstance(verdict, Problem)
    assert "pitch sits in an outermost bin in 67% of 100 queries; the training statistics allow 2%" in verdict.message


@pytest.mark.parametrize("stats", [LIBERO_OBJECT, FIXTURE])
def test_full_speed_in_a_straight_line_is_silent(stats: dict[str, Any]) -> None:
    # The longest run of a hundred demonstrations, and all three translations at once for half a second.
    ids = at(calm(150), slice(20, 64), 1, HIGHEST)
    ids[20:30, :3] = LOWEST
    verdict = judge(ids, stats=stats)
    assert isinstance(verdict, Clear)


def test_turning_something_at_full_rate_is_silent() -> None:
    assert isinstance(judge(at(calm(150), slice(60, 100), [0, 5], HIGHEST)), Clear)


def test_the_gripper_lives_at_its_ends() -> None:
    assert isinstance(judge(at(calm(200), slice(0, 200), 6, HIGHEST)), Clear)


def test_dimensions_without_a_span_do_not_count() -> None:
    flat = {
        **LIBERO_OBJECT,
        "q01": [*LIBERO_OBJECT["q01"][:3], 0, 0, 0, 0],
        "q99": [*LIBERO_OBJECT["q99"][:3], 0, 0, 0, 1],
    }
    assert isinstance(judge(at(calm(200), slice(0, 200), [3, 4, 5], HIGHEST), stats=flat), Clear)


def test_too_few_queries() -> None:
    verdict = judge(at(calm(19), slice(0, 19), slice(0, 6), HIGHEST))
    assert isinstance(verdict, Abstention)
    assert not verdict.missing


def test_statistics_without_mean_and_standard_deviation() -> None:
    verdict = judge(calm(40), stats={**BRIDGE, "mask": MASK})
    assert isinstance(verdict, Abstention)
    assert verdict.missing


def test_no_ids_recorded() -> None:
    verdict = judge([[]] * 30)
    assert isinstance(verdict, Abstention)
    assert verdict.missing


def test_no_layout_expected() -> None:
    verdict = judge(calm(40), find_profile({"model_type": "octo"}, "libero_object"))
    assert isinstance(verdict, Abstention)
    assert not verdict.missing


@pytest.mark.torch
def test_clipped_labels_stretch_every_dimension_about_its_middle() -> None:
    import torch

    loop: Any = SimpleNamespace(policy=SimpleNamespace(options={"do_sample": False}))
    (fault,) = CHECK.faults
    assert fault.apply is not None
    fault.apply(loop)
    (processor,) = loop.policy.options["logits_processor"]
    # The gripper's two ids, closed (0) and open (1), stay; a twentieth of the range becomes all of it.
    for before, after in [(31872, 31872), (31744, 31744), (31873, 31896), (31880, 31999), (31860, 31744)]:
        scores = torch.zeros(1, 32064)
        scores[0, before] = 1.0
        scores[0, 7] = 9.0
        assert int(processor(torch.tensor([[1]]), scores).argmax()) == after
