"""VD403 constant-action: an answer that stays while ids or images do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from episodes import LIBERO_OBJECT, episode, some_ids, unnormalise
from recorded import recorded

from vladoctor.check import Abstention, Clear, Problem, Severity, Verdict
from vladoctor.checks.vd403_constant_action import CHECK
from vladoctor.facts import Facts
from vladoctor.facts.repeats import longest_repeat
from vladoctor.profiles import load_profile
from vladoctor.records import Episode, Frame

LIBERO = load_profile("openvla-libero")
RIGHT = unnormalise(LIBERO_OBJECT)


def judge(found: Episode) -> Verdict:
    assert CHECK.judge is not None
    (verdict,) = CHECK.judge(Facts(found, LIBERO), dict(CHECK.thresholds))
    return verdict


def shown(found: Episode, step_of_level: float) -> Episode:
    """With images that grow brighter by so many levels a step."""
    for number, step in enumerate(found.steps):
        picture = np.full((8, 8, 3), round(60 + number * step_of_level), dtype=np.uint8)
        assert step.query is not None
        step.query.image = Frame((8, 8), lambda picture=picture: picture)  # type: ignore[misc]
    return found


def alike(queries: int, period: int = 1, **arguments: Any) -> Episode:
    ids = some_ids(period)
    return episode(np.array([ids[number % period] for number in range(queries)]), returned=RIGHT, **arguments)


def test_different_answers_are_clear() -> None:
    assert isinstance(judge(shown(episode(returned=RIGHT), 1.0)), Clear)


@pytest.mark.parametrize("name", ["openvla", "openpi"])
def test_healthy_recordings_are_clear(name: str) -> None:
    assert isinstance(judge(recorded(name)), Clear)


def test_an_answer_kept_over_other_ids() -> None:
    first = RIGHT(np.zeros(7))
    verdict = judge(episode(returned=lambda n: first))
    assert isinstance(verdict, Problem)
    assert verdict.severity is Severity.STOP
    assert not verdict.symptom
    assert "30 different sets of ids" in verdict.message
    assert (verdict.first_step, verdict.last_step) == (0, 29)


def test_an_answer_kept_until_the_arm_stands_still() -> None:
    ids = np.concatenate([some_ids(20), np.repeat(some_ids(1), 200, axis=0)])
    first = RIGHT(np.zeros(7))
    verdict = judge(episode(ids, returned=lambda n: first))
    assert isinstance(verdict, Problem)
    assert verdict.severity is Severity.STOP


def test_a_few_ids_that_decode_alike_are_none() -> None:
    ids = np.repeat(some_ids(1), 20, axis=0)
    ids[::2, 2], ids[1::2, 2] = 31744, 31745
    assert isinstance(judge(shown(episode(ids, returned=RIGHT), 0.0)), Clear)


@pytest.mark.parametrize(
    ("queries", "level"),
    # The second: of tasks that the demo's policy was not trained on, in healthy loops, 139 queries in a row.
    [(40, 0.2), (140, 0.2), (80, 0.03)],
)
def test_the_same_answer_while_the_scene_changes(queries: int, level: float) -> None:
    verdict = judge(shown(alike(queries), level))
    assert isinstance(verdict, Problem)
    assert verdict.severity is Severity.LOOK
    assert "to the last digit" in verdict.message
    assert verdict.symptom


def test_two_answers_by_turns() -> None:
    verdict = judge(shown(alike(40, period=2), 0.5))
    assert isinstance(verdict, Problem)
    assert verdict.severity is Severity.LOOK
    assert "one of two answers by turns" in verdict.message


@pytest.mark.parametrize(("queries", "level"), [(100, 0.0), (11, 5.0)])
def test_a_scene_at_rest_and_a_straight_motion_are_clear(queries: int, level: float) -> None:
    assert isinstance(judge(shown(alike(queries), level)), Clear)


def test_without_pictures_the_same_ids_say_nothing() -> None:
    assert isinstance(judge(alike(100)), Clear)


def test_the_longest_row_is_found() -> None:
    ids = some_ids(30)
    ids[4:9], ids[12:20] = ids[4], ids[12]
    run = longest_repeat(episode(ids, returned=RIGHT))
    assert run is not None
    assert (run.steps[0], len(run)) == (12, 8)
    turns = longest_repeat(alike(9, period=2), 2)
    assert turns is not None
    assert len(turns) == 9


def test_nothing_recorded() -> None:
    verdict = judge(episode([[]] * 3))
    assert isinstance(verdict, Abstention)
    assert verdict.missing


def test_too_few() -> None:
    assert isinstance(judge(episode(some_ids(2), returned=RIGHT)), Abstention)
