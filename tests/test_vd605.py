"""VD605 success-accounting: before the policy, without it, and counted otherwise than said."""

from __future__ import annotations

from dataclasses import replace

from protocols import BEGIN, UNKNOWN, abstains, episode, is_clear, problem, without_policy

from vladoctor.check import Severity
from vladoctor.checks.vd605_success_accounting import CHECK
from vladoctor.records import Outcome

SUCCESS = Outcome("success", True, 20)
STILL = dict.fromkeys(range(20), (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0))


def test_success_that_ends_the_episode_and_failure_that_is_one_are_clear() -> None:
    assert is_clear(CHECK, episode(done=[19]))
    assert is_clear(CHECK, episode())
    assert is_clear(CHECK, episode(environment="libero"), UNKNOWN)


def test_done_before_the_policy_acts() -> None:
    found = problem(CHECK, episode(1, done=[-3]))
    assert found.severity is Severity.STOP
    assert "while the scene settles" in found.message
    assert "after one action" in problem(CHECK, episode(1, done=[0])).message
    calls = [*BEGIN, {"call": "check_success", "answer": True}]
    assert "at the reset" in problem(CHECK, episode(calls=calls)).message


def test_a_game_that_is_won_with_one_action_is_none() -> None:
    assert is_clear(CHECK, episode(1, done=[0], suite="", environment="gymnasium"), UNKNOWN)


def test_counted_otherwise_than_said() -> None:
    latched = problem(CHECK, episode(outcome=SUCCESS))
    assert latched.severity is Severity.STOP
    assert (latched.evidence["expected"], latched.evidence["seen"]) == ("failure", "success")
    lost = problem(CHECK, episode(done=[12], outcome=Outcome("horizon", False, 20)))
    assert "overwrites it" in lost.message
    assert lost.first_step == 12


def test_a_recording_that_breaks_off_does_not_say_how_it_was_counted() -> None:
    assert abstains(CHECK, replace(episode(outcome=SUCCESS), truncated=True))
    assert is_clear(CHECK, replace(episode(done=[19]), truncated=True))


def test_nothing_commanded() -> None:
    assert problem(CHECK, episode(executed=STILL)).severity is Severity.FIX
    assert problem(CHECK, episode(executed=STILL, done=[19])).severity is Severity.STOP
    assert is_clear(CHECK, episode(5, executed=STILL)), "too few steps to say"


def test_the_loop_goes_on_behind_success() -> None:
    found = problem(CHECK, episode(done=[12]))
    assert found.severity is Severity.LOOK
    assert (found.first_step, found.last_step) == (12, 19)
    assert "at the end it is not any more" in found.message


def test_nothing_is_said_without_a_policy_or_a_word_of_success() -> None:
    assert abstains(CHECK, without_policy())
    silent = episode()
    for step in silent.steps:
        step.success = None
    assert abstains(CHECK, silent)
