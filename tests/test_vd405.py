"""VD405 token-decode: from ids to numbers, in each way that is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from episodes import BRIDGE, LIBERO_OBJECT, episode, some_ids, unnormalise

from vladoctor.check import Abstention, Clear, Problem, Severity, Stage, Verdict
from vladoctor.checks.vd405_token_decode import CHECK
from vladoctor.facts import Facts
from vladoctor.profiles import Profile, load_profile

LIBERO = load_profile("openvla-libero")
RIGHT = unnormalise(LIBERO_OBJECT)

WRONG = [
    (lambda k: -1 + 2 * np.clip(k, 0, 255) / 255, "bin edges k/255, as RT-1", Severity.LOOK),
    (lambda k: -1 + (2 * np.clip(k, 0, 255) + 1) / 256, "256 bin centres", Severity.LOOK),
    (lambda k: -1 + (2 * np.clip(k + 1, 0, 254) + 1) / 255, "one bin too high", Severity.LOOK),
    (lambda k: -1 + (2 * np.clip(k - 1, 0, 254) + 1) / 255, "one bin too low", Severity.LOOK),
    (lambda k: -1 + (2 * np.clip(k + 64, 0, 254) + 1) / 255, "padded vocabulary", Severity.STOP),
    (lambda k: -1 + (2 * np.clip(255 - k, 0, 254) + 1) / 255, "centres, counted up", Severity.STOP),
    (lambda k: -1 + 2 * (255 - k) / 255, "edges k/255, counted up", Severity.STOP),
]


def judge(returned: Any = RIGHT, profile: Profile = LIBERO, **arguments: Any) -> Verdict:
    assert CHECK.judge is not None
    (verdict,) = CHECK.judge(Facts(episode(returned=returned, **arguments), profile), dict(CHECK.thresholds))
    return verdict


def decoded(values: Callable[[np.ndarray], np.ndarray], after: Callable[[np.ndarray], np.ndarray] = RIGHT) -> Any:
    """What is returned if ids are decoded so: k is 31999 - id."""
    rows = iter(after(values(31999 - row)) for row in some_ids())
    return lambda n: next(rows)


@pytest.mark.parametrize(("values", "how", "severity"), WRONG)
def test_other_ways_fire(values: Any, how: str, severity: Severity) -> None:
    verdict = judge(decoded(values))
    assert isinstance(verdict, Problem)
    assert how in verdict.message
    assert verdict.severity is severity
    assert CHECK.stage is Stage.DECODE
    assert (verdict.first_step, verdict.last_step) == (0, 29)


@pytest.mark.parametrize(("values", "how", "severity"), WRONG)
def test_other_ways_fire_where_nothing_was_unnormalised(values: Any, how: str, severity: Severity) -> None:
    verdict = judge(decoded(values, lambda n: n))
    assert isinstance(verdict, Problem)
    assert how in verdict.message


@pytest.mark.parametrize("returned", [RIGHT, unnormalise(BRIDGE), lambda n: n, lambda n: RIGHT(n).astype(np.float32)])
def test_bin_centres_are_clear_whatever_the_statistics(returned: Any) -> None:
    stats = {"libero_object": LIBERO_OBJECT, "bridge_orig": BRIDGE}
    assert isinstance(judge(returned, norm_stats=stats), Clear)


def test_what_the_loop_does_afterwards_is_not_looked_at() -> None:
    assert isinstance(judge(RIGHT, executed=lambda action: action[::-1] * 0.5), Clear)


def test_actions_that_do_not_follow_from_the_ids() -> None:
    noise = np.random.default_rng(1)
    verdict = judge(lambda n: noise.normal(size=7))
    assert isinstance(verdict, Abstention)
    assert not verdict.missing


def test_nothing_recorded() -> None:
    verdict = judge(ids=[[]] * 3)
    assert isinstance(verdict, Abstention)
    assert verdict.missing
    verdict = judge(norm_stats={})
    assert isinstance(verdict, Abstention)
    assert verdict.missing


@pytest.mark.parametrize("name", ["unknown", "rt-1", "openpi-libero"])
def test_families_without_such_ids(name: str) -> None:
    verdict = judge(profile=load_profile(name))
    assert isinstance(verdict, Abstention)
    assert not verdict.missing
