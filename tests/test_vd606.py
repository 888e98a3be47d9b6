"""VD606 control-rate: the environment's frequency, and actions that are executed several times."""

from __future__ import annotations

from dataclasses import replace

import pytest
from protocols import LIBERO, UNKNOWN, abstains, action, episode, is_clear, problem, without_policy

from vladoctor.check import Severity
from vladoctor.checks.vd606_control_rate import CHECK
from vladoctor.records import Episode


def repeated(times: int = 2, answers: int = 15) -> Episode:
    steps = times * answers
    silent = [number for number in range(steps) if number % times]
    return episode(steps, silent=silent, executed={n: action(n // times) for n in range(steps)}, control_freq=20.0)


@pytest.mark.parametrize("frequency", [20, 20.0, 20.1])
def test_the_datas_frequency_is_clear(frequency: float) -> None:
    assert is_clear(CHECK, episode(control_freq=frequency))


@pytest.mark.parametrize(("frequency", "words"), [(10, "2 times as long"), (30, "0.667 of the time")])
def test_another_frequency(frequency: int, words: str) -> None:
    found = problem(CHECK, episode(control_freq=frequency))
    assert found.severity is Severity.FIX
    assert words in found.message
    assert (found.evidence["expected"], found.evidence["seen"]) == ("20 Hz", f"{frequency} Hz")


@pytest.mark.parametrize("times", [2, 4])
def test_actions_that_are_executed_again(times: int) -> None:
    found = problem(CHECK, repeated(times))
    assert f"executed {times} times" in found.message
    assert found.severity is Severity.FIX
    assert problem(CHECK, repeated(times), UNKNOWN).severity is Severity.LOOK


def test_chunks_and_short_episodes_are_no_repetition() -> None:
    assert is_clear(CHECK, repeated(2, 5))
    chunked = repeated()
    for step in chunked.steps:
        if step.query is not None:
            step.query = replace(step.query, chunk=(action(1), action(2)))
    assert is_clear(CHECK, chunked)
    asked_for_more = LIBERO.with_overrides({"action": {"execute": 8}})
    assert is_clear(CHECK, repeated(), asked_for_more)


def test_nothing_is_said_of_what_is_not_known() -> None:
    assert abstains(CHECK, episode())
    assert abstains(CHECK, episode(control_freq=20), UNKNOWN)
    assert abstains(CHECK, without_policy())
