"""VD802 too-few-trials: what a success rate can tell."""

from __future__ import annotations

from typing import Any

import pytest
from episodes import episode, some_ids
from scipy.stats import binomtest

from vladoctor.check import Abstention, Clear, Problem, Severity, Verdict
from vladoctor.checks.vd802_too_few_trials import CHECK
from vladoctor.facts import Facts
from vladoctor.facts.trials import success_rate
from vladoctor.profiles import load_profile
from vladoctor.records import Episode, Outcome


def ended(success: bool, ended: str = "") -> Episode:
    found = episode(some_ids(2))
    found.steps[-1].success = success
    found.outcome = Outcome(ended or ("success" if success else "horizon"), success, 2)
    return found


def judge(episodes: list[Episode]) -> Verdict:
    assert CHECK.judge_run is not None
    (verdict,) = CHECK.judge_run([Facts(one, load_profile("unknown")) for one in episodes], dict(CHECK.thresholds))
    return verdict


def run(successes: int, trials: int) -> list[Episode]:
    return [ended(number < successes) for number in range(trials)]


@pytest.mark.parametrize(("successes", "trials"), [(0, 1), (4, 25), (10, 25), (20, 20), (0, 40), (488, 500)])
def test_the_interval_is_wilson_s(successes: int, trials: int) -> None:
    rate = success_rate(run(successes, trials))
    assert rate is not None
    wanted = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    assert (rate.low, rate.high) == pytest.approx((wanted.low, wanted.high), abs=1e-6)
    assert 0 < rate.difference <= 1


def test_25_episodes_of_a_middling_policy() -> None:
    verdict = judge(run(7, 25))
    assert isinstance(verdict, Problem)
    assert verdict.severity is Severity.LOOK
    assert "7 of 25 episodes succeeded: 14% to 48%" in verdict.message


@pytest.mark.parametrize(("successes", "trials"), [(1, 4), (10, 20), (20, 20), (0, 25), (38, 40), (50, 100)])
def test_tries_and_clear_results_are_told_without_a_finding(successes: int, trials: int) -> None:
    assert isinstance(judge(run(successes, trials)), Clear)


def test_episodes_that_did_not_end_by_themselves_do_not_count() -> None:
    rate = success_rate([*run(1, 2), ended(False, "exception"), ended(False, "interrupted")])
    assert rate is not None
    assert rate.trials == 2


@pytest.mark.parametrize("outcome", ["exception", "interrupted"])
def test_nothing_to_count_says_nothing(outcome: str) -> None:
    assert isinstance(judge([]), Abstention)
    assert isinstance(judge([ended(False, outcome)]), Abstention)


def test_an_environment_that_knows_no_success_says_nothing() -> None:
    def blind() -> Any:
        found = ended(False)
        found.steps[-1].success = None
        return found

    assert isinstance(judge([blind() for _ in range(30)]), Abstention)
