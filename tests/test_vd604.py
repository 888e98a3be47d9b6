"""VD604 swallowed-exception: what raised, and what the loop did then."""

from __future__ import annotations

from typing import Any

from protocols import BEGIN, UNKNOWN, abstains, episode, is_clear, over_run, problem, without_policy

from vladoctor.check import Problem, Severity
from vladoctor.checks.vd604_swallowed_exception import CHECK
from vladoctor.records import Outcome

ZEROS = (0.0,) * 7
RAISED = {"call": "predict_action", "raised": "RuntimeError: CUDA out of memory"}


def raising(step: int, call: dict[str, Any] = RAISED) -> dict[int, Any]:
    return {-10: BEGIN, step: [call]}


def test_nothing_raised_is_clear() -> None:
    assert is_clear(CHECK, episode())
    assert is_clear(CHECK, episode(), UNKNOWN)


def test_the_loop_goes_on_with_zeros() -> None:
    found = problem(CHECK, episode(calls=raising(6), unanswered=[6], executed={6: ZEROS}))
    assert found.severity is Severity.FIX
    assert (found.first_step, found.evidence["seen"]) == (6, RAISED["raised"])
    assert "went on with zeros: RuntimeError: CUDA out of memory." in found.message


def test_the_episode_counts_as_a_failure() -> None:
    found = problem(CHECK, episode(calls=raising(19), unanswered=[19], executed={19: ()}))
    assert found.severity is Severity.STOP
    assert "counts as a failure" in found.message


def test_a_step_that_raises_and_ends_the_episode() -> None:
    call = {"call": "step", "raised": "FatalError: nan"}
    found = problem(CHECK, episode(calls=raising(19, call)))
    assert found.severity is Severity.STOP
    assert found.message.startswith("env.step raised at step 19")


def test_what_is_raised_behind_the_last_step() -> None:
    found = problem(CHECK, episode(environment="libero", calls_after=[RAISED]))
    assert found.severity is Severity.STOP


def test_a_query_that_is_repeated_with_success_is_none() -> None:
    assert is_clear(CHECK, episode(calls=raising(6)))


def test_resets_may_raise() -> None:
    calls = [{"call": "reset", "raised": "RandomizationError"}, *BEGIN]
    assert is_clear(CHECK, episode(calls=calls))


def test_an_exception_that_ends_the_loop_is_none() -> None:
    ended = Outcome("exception", False, 20, "RuntimeError: CUDA out of memory")
    assert abstains(CHECK, episode(calls=raising(19), unanswered=[19], executed={19: ()}, outcome=ended))


def test_the_own_loop_that_ends_early() -> None:
    assert "ended after 20 of 280 steps" in problem(CHECK, episode(horizon=280)).message
    assert is_clear(CHECK, episode(horizon=20))
    assert is_clear(CHECK, episode(horizon=280, done=[19]))
    assert is_clear(CHECK, episode(horizon=280, environment="libero")), "not ours: its limit may be another"


def test_zeros_at_steps_without_a_query() -> None:
    found = problem(CHECK, episode(silent=[4, 9], executed={4: ZEROS, 9: ZEROS}))
    assert found.evidence["steps"] == [4, 9]
    assert is_clear(CHECK, episode(silent=[4, 9], executed={4: ZEROS, 9: ZEROS}), UNKNOWN)


def test_a_policy_that_is_not_there_is_not_judged() -> None:
    assert abstains(CHECK, without_policy())


def test_a_program_that_goes_on_behind_an_exception() -> None:
    broken = episode(environment="libero", outcome=Outcome("exception", False, 20, "KeyError: 'LAP'"))
    whole = episode(environment="libero")
    (found,) = over_run(CHECK, [broken, whole])
    assert isinstance(found, Problem)
    assert "1 of 2 episodes ended by an exception, and the program went on" in found.message
    assert over_run(CHECK, [whole, broken]) == [], "it ended the program"
    assert over_run(CHECK, [episode(outcome=broken.outcome), episode()]) == [], "our own says so itself"
    other = episode(environment="libero", run={"process": 2})
    assert over_run(CHECK, [broken, other]) == []
