"""VD404 sampled-decoding: ids drawn at random, said by the options or shown by equal questions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from episodes import LIBERO_OBJECT, episode, some_ids, unnormalise

from vladoctor.check import Abstention, Clear, Problem, Severity, Verdict
from vladoctor.checks.vd404_sampled_decoding import CHECK
from vladoctor.facts import Facts
from vladoctor.facts.repeats import twins
from vladoctor.profiles import Profile, load_profile
from vladoctor.records import Episode, Frame

LIBERO = load_profile("openvla-libero")
GREEDY = {"do_sample": False}


def judge(options: dict[str, Any], profile: Profile = LIBERO, found: Episode | None = None) -> Verdict:
    found = found or episode(returned=unnormalise(LIBERO_OBJECT), options=options)
    assert CHECK.judge is not None
    (verdict,) = CHECK.judge(Facts(found, profile), dict(CHECK.thresholds))
    return verdict


def asked_the_same(margin: float, *, differ: bool = True) -> Episode:
    """Two questions by turns, the second of them answered otherwise every time."""
    ids = some_ids(6)
    for row in range(2, 6):
        ids[row] = ids[row % 2]
    if differ:
        ids[3, 1] += 5
    found = episode(ids, returned=unnormalise(LIBERO_OBJECT), options=GREEDY, input_ids=[1, 2, 3])
    for number, step in enumerate(found.steps):
        assert step.query is not None
        step.query.pixel_stats = {"mean": [0.1 * (number % 2), 0.2, 0.3]}
        step.query.image = Frame((8, 8), lambda level=number % 2: np.full((8, 8, 3), level, np.uint8))  # type: ignore[misc]
        step.query.margin = (margin,) * 7
    return found


@pytest.mark.parametrize(
    "options",
    [GREEDY, {"generation_config.do_sample": False}, {"do_sample": True, "top_k": 1}, {**GREEDY, "temperature": 0.7}],
)
def test_the_best_id_is_clear(options: dict[str, Any]) -> None:
    assert isinstance(judge(options), Clear)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"do_sample": True, "temperature": 1.0}, "at temperature 1;"),
        ({"do_sample": True}, "drawn at random;"),
        ({"generation_config.do_sample": True}, "because the model's generation config says so"),
    ],
)
def test_drawn_ids_fire(options: dict[str, Any], what: str) -> None:
    verdict = judge(options)
    assert isinstance(verdict, Problem)
    assert what in verdict.message
    assert verdict.severity is Severity.FIX
    assert (verdict.first_step, verdict.last_step) == (0, 29)


def test_equal_questions_with_other_answers() -> None:
    verdict = judge(GREEDY, found=asked_the_same(2.0))
    assert isinstance(verdict, Problem)
    assert verdict.severity is Severity.LOOK
    assert verdict.evidence["twins"] == [{"first": 1, "second": 3, "bins": 5, "margin": 2.0}]


def test_ids_that_are_next_to_equally_likely_prove_nothing() -> None:
    assert isinstance(judge(GREEDY, found=asked_the_same(0.01)), Clear)


def test_one_rounding_of_bfloat16_proves_nothing() -> None:
    assert isinstance(judge(GREEDY, found=asked_the_same(0.0625)), Clear)


def test_questions_whose_pictures_were_left_out_are_not_known_to_be_the_same() -> None:
    found = asked_the_same(2.0)
    for step in found.steps:
        assert step.query is not None
        step.query.image = None
    assert twins(found) == (0, [])
    assert isinstance(judge(GREEDY, found=found), Clear)


def test_equal_questions_with_equal_answers() -> None:
    found = asked_the_same(2.0, differ=False)
    assert twins(found) == (4, [])
    verdict = judge(GREEDY, found=found)
    assert isinstance(verdict, Clear)
    assert "4 queries that were asked the same" in verdict.message


@pytest.mark.parametrize("name", ["univla-libero", "unknown", "openpi-libero"])
def test_families_that_draw_or_of_which_nothing_is_known(name: str) -> None:
    verdict = judge({"do_sample": True}, load_profile(name))
    assert isinstance(verdict, Abstention)
    assert not verdict.missing


def test_options_not_recorded() -> None:
    verdict = judge({})
    assert isinstance(verdict, Abstention)
    assert verdict.missing
