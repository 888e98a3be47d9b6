"""VD601 settle-steps: how many, and what they execute."""

from __future__ import annotations

import pytest
from protocols import BEGIN, LIBERO, UNKNOWN, WAIT, abstains, action, episode, is_clear, problem, without_policy

from vladoctor.check import Severity
from vladoctor.checks.vd601_settle_steps import CHECK

ZEROS = (0.0,) * 7
CLOSED = (*ZEROS[:6], 1.0)
MOVED = (0.3, *ZEROS[1:6], -1.0)


@pytest.mark.parametrize("count", [8, 10, 15, 30])
def test_settling_as_published_or_longer_is_clear(count: int) -> None:
    assert is_clear(CHECK, episode(settle=(WAIT,) * count))


def test_settling_within_a_reset_of_a_layer_above_counts() -> None:
    assert is_clear(CHECK, episode(environment="libero"))


@pytest.mark.parametrize(
    ("settle", "severity", "words"),
    [
        ((), Severity.FIX, "in the very frame of the reset"),
        ((WAIT,) * 3, Severity.LOOK, "after 3 settle steps"),
        ((ZEROS,) * 10, Severity.LOOK, "published loops open it"),
        ((CLOSED,) * 10, Severity.FIX, "The gripper is closed"),
        ((MOVED,) * 10, Severity.FIX, "The arm is moved"),
    ],
)
def test_each_mistake_is_named(settle: tuple[tuple[float, ...], ...], severity: Severity, words: str) -> None:
    found = problem(CHECK, episode(settle=settle))
    assert found.severity is severity
    assert words in found.message
    assert found.remedy


def test_steps_before_the_init_state_do_not_count() -> None:
    late = {-10: [{"call": "reset"}], -1: list(BEGIN[1:])}
    assert "after 1 settle steps" in problem(CHECK, episode(calls=late)).message


def test_a_plan_that_is_left_over_is_no_settling() -> None:
    settle = (*(WAIT,) * 8, action(1), action(2))
    assert abstains(CHECK, episode(settle=settle))


def test_nothing_is_said_without_evidence_or_expectation() -> None:
    assert abstains(CHECK, episode(), UNKNOWN)
    assert abstains(CHECK, episode(calls=[]))
    assert abstains(CHECK, without_policy())
    assert abstains(CHECK, episode(settle=()), LIBERO.with_overrides({"loop": {"settle_steps": None}}))


def test_actions_of_another_length_are_left_alone() -> None:
    assert is_clear(CHECK, episode(settle=((0.0,) * 14,) * 10))
