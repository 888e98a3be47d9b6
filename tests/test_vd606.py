"""VD606 control-rate: the environment's frequency."""

from __future__ import annotations

import pytest
from protocols import UNKNOWN, abstains, action, episode, is_clear, problem, without_policy

from vladoctor.check import Severity
from vladoctor.checks.vd606_control_rate import CHECK


@pytest.mark.parametrize("frequency", [20, 20.0, 20.1])
def test_the_datas_frequency_is_clear(frequency: float) -> None:
    assert is_clear(CHECK, episode(control_freq=frequency))


@pytest.mark.parametrize(("frequency", "words"), [(10, "2 times as long"), (30, "0.667 of the time")])
def test_another_frequency(frequency: int, words: str) -> None:
    found = problem(CHECK, episode(control_freq=frequency))
    assert found.severity is Severity.FIX
    assert words in found.message
    assert (found.evidence["expected"], found.evidence["seen"]) == ("20 Hz", f"{frequency} Hz")


def test_actions_that_are_executed_again_are_another_s_to_say() -> None:
    twice = episode(40, silent=range(1, 40, 2), executed={n: action(n // 2) for n in range(40)}, control_freq=20.0)
    assert is_clear(CHECK, twice)


def test_nothing_is_said_of_what_is_not_known() -> None:
    assert abstains(CHECK, episode())
    assert abstains(CHECK, episode(control_freq=20), UNKNOWN)
    assert abstains(CHECK, without_policy())
