"""VD801 seeding: seeds without effect, and beginnings that do not repeat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from episodes import LIBERO_OBJECT, episode, some_ids, unnormalise

from vladoctor.check import Abstention, Clear, Problem, Severity, Verdict
from vladoctor.checks.vd801_seeding import CHECK
from vladoctor.facts import Facts
from vladoctor.profiles import load_profile
from vladoctor.records import Episode


def began(
    seed: int | None = None, state: float | None = None, course: int = 0, at: float = 0.0, drift: int | None = None
) -> Episode:
    """An episode that was begun with a seed and an init state, is at `at` then, and takes a course.

    Args:
        drift: step from which the robot is elsewhere.
    """
    found = episode(some_ids(8, course), returned=unnormalise(LIBERO_OBJECT))
    calls: list[dict[str, Any]] = [{"call": "seed", "seed": seed}] if seed is not None else []
    calls.append({"call": "reset"})
    if state is not None:
        calls.append({"call": "set_init_state", "state": [state] * 5})
    found.steps[0].info = {"vladoctor": {"calls": calls}}
    path = np.cumsum([(0.0, 0.0, 0.0), *(step.executed[:3] for step in found.steps)], axis=0) * 0.01
    for step in found.steps:
        moved = path[step.number] + at + (1e-3 if drift is not None and step.number >= drift else 0.0)
        step.proprio = {"robot0_eef_pos": tuple(moved.tolist())}
    return found


def judge(episodes: Sequence[Episode]) -> list[Verdict]:
    assert CHECK.judge_run is not None
    profile = load_profile("openvla-libero")
    return list(CHECK.judge_run([Facts(one, profile) for one in episodes], dict(CHECK.thresholds)))


def problem(episodes: Sequence[Episode]) -> Problem:
    (verdict,) = judge(episodes)
    assert isinstance(verdict, Problem)
    assert verdict.severity is Severity.LOOK
    return verdict


def test_seeds_over_fixed_states_change_nothing() -> None:
    found = problem([began(7, 0.1), began(8, 0.1), began(7, 0.2, 1), began(8, 0.2, 1)])
    assert "The seeds 7, 8 change nothing: 2 pairs" in found.message
    assert "the init state decides the scene" in found.message


def test_seeds_without_states_change_nothing() -> None:
    assert "Seed before the reset" in problem([began(1), began(2), began(3)]).remedy


def test_seeds_with_an_effect_are_clear() -> None:
    assert isinstance(judge([began(1, course=1, at=0.1), began(2, course=2, at=0.2)])[0], Clear)
    # Another course from the same state: the policy samples.
    assert isinstance(judge([began(1, 0.1, 1), began(2, 0.1, 2)])[0], Clear)


def test_the_same_seed_begins_otherwise() -> None:
    assert "begin in different states" in problem([began(42, at=0.1, course=1), began(42, at=0.2, course=2)]).message


def test_the_same_state_and_actions_take_another_course() -> None:
    found = problem([began(7, 0.1), began(7, 0.1, drift=3)])
    assert "part at step 3" in found.message


def test_the_same_state_and_seed_repeat() -> None:
    assert isinstance(judge([began(7, 0.1), began(7, 0.1)])[0], Clear)


@pytest.mark.parametrize("episodes", [9, 10])
def test_seeds_that_were_never_set_count_from_ten_episodes_on(episodes: int) -> None:
    drawn = [began(at=number / 10, course=number) for number in range(episodes)]
    assert isinstance(judge(drawn)[0], Abstention if episodes < 10 else Problem)


def test_a_scene_that_is_always_the_same_needs_no_seed() -> None:
    assert isinstance(judge([began(course=number) for number in range(12)])[0], Abstention)


@pytest.mark.parametrize("episodes", [[], [began(7, 0.1)], [began(7, 0.1), began(7, 0.2, 1)], [episode(), episode()]])
def test_nothing_to_compare_says_nothing(episodes: list[Episode]) -> None:
    assert isinstance(judge(episodes)[0], Abstention)
