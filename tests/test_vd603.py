"""VD603 horizon: too short, too long, and refused by the environment."""

from __future__ import annotations

from typing import Any

import pytest
from protocols import BEGIN, UNKNOWN, abstains, episode, is_clear, over_run, problem, without_policy

from vladoctor.check import Abstention, Problem, Severity
from vladoctor.checks.vd603_horizon import CHECK
from vladoctor.records import Outcome

REFUSED = "ValueError: executing action in terminated episode"


def test_the_published_limit_is_clear() -> None:
    assert is_clear(CHECK, episode(280))
    assert is_clear(CHECK, episode(290))


def test_what_the_run_file_asks_for_is_the_limit() -> None:
    assert is_clear(CHECK, episode(40, spec={"horizon": 40}))
    assert "the limit is 40" in problem(CHECK, episode(30, spec={"horizon": 40})).message


@pytest.mark.parametrize(
    ("steps", "severity"), [(220, Severity.FIX), (100, Severity.FIX), (270, Severity.LOOK), (560, Severity.LOOK)]
)
def test_another_limit(steps: int, severity: Severity) -> None:
    found = problem(CHECK, episode(steps))
    assert found.severity is severity
    assert (found.evidence["expected"], found.evidence["seen"]) == ("280 steps", f"{steps} steps")


def test_success_within_the_limit_is_clear_and_far_behind_it_is_not() -> None:
    assert is_clear(CHECK, episode(100, done=[99]))
    assert "Success still counted" in problem(CHECK, episode(400, done=[399])).message


def test_a_refused_step() -> None:
    calls = {-10: BEGIN, 19: [{"call": "step", "raised": REFUSED}]}
    found = problem(CHECK, episode(calls=calls, environment_horizon=1000.0))
    assert found.severity is Severity.FIX
    assert "allows 1000 control steps" in found.message
    assert "refused a step" in problem(CHECK, episode(outcome=Outcome("exception", False, 20, REFUSED))).message


def test_nothing_is_said_of_what_is_not_known() -> None:
    assert abstains(CHECK, episode(100), UNKNOWN)
    assert abstains(CHECK, episode(100, suite="libero_mine"))
    assert abstains(CHECK, without_policy())
    assert abstains(CHECK, episode(100, outcome=Outcome("exception", False, 100, "KeyError")))
    assert abstains(CHECK, episode(100, outcome=Outcome("interrupted", False, 100)))
    assert abstains(CHECK, episode(200, environment="libero")), "one episode may have been cut by hand"


def foreign(steps: int, **more: Any) -> Any:
    return episode(steps, environment="libero", **more)


def test_of_another_program_its_failed_episodes_tell_together() -> None:
    (found,) = over_run(CHECK, [foreign(220), foreign(220), foreign(90, done=[89])])
    assert isinstance(found, Problem)
    assert found.severity is Severity.FIX
    assert "Failed episodes of libero_object are cut off after 220 policy steps" in found.message


@pytest.mark.parametrize("lengths", [[220], [220, 150], [280, 280], [220, 220, 280], [220, 219]])
def test_lengths_that_are_no_limit(lengths: list[int]) -> None:
    assert over_run(CHECK, [foreign(length) for length in lengths]) == []


def test_a_quick_try_is_left_in_peace() -> None:
    (found,) = over_run(CHECK, [foreign(50)] * 5)
    assert isinstance(found, Abstention)
