"""VD705 latency-budget: the policy's time against the control period."""

from __future__ import annotations

from typing import Any

import pytest
from episodes import LIBERO_OBJECT, episode, some_ids, unnormalise

from vladoctor.check import Abstention, Clear, Problem, Severity, Verdict
from vladoctor.checks.vd705_latency_budget import CHECK
from vladoctor.facts import Facts
from vladoctor.profiles import load_profile
from vladoctor.records import Episode


def timed(forward: float = 120.0, execute: float = 30.0, *, every: int = 1, steps: int = 24, **task: Any) -> Episode:
    """A query every few steps, in an environment of 20 Hz; the first one takes ten times as long."""
    found = episode(some_ids(steps), returned=unnormalise(LIBERO_OBJECT), task={"control_freq": 20.0, **task})
    for step in found.steps:
        asked = step.number % every == 0
        step.query = step.query if asked else None
        step.timings = {"execute": execute, "taps": 1.0}
        if asked:
            step.timings = {**step.timings, "forward": forward * (10 if step.number == 0 else 1), "vision": forward / 2}
    return found


def judge(recorded: Episode) -> Verdict:
    assert CHECK.judge is not None
    (verdict,) = CHECK.judge(Facts(recorded, load_profile("openvla-libero")), dict(CHECK.thresholds))
    return verdict


def test_a_simulator_waits() -> None:
    verdict = judge(timed())
    assert isinstance(verdict, Clear)
    assert "an action takes 120 ms" in verdict.message
    assert verdict.evidence["policy_ms"][0] == 120.0


def test_a_robot_does_not() -> None:
    verdict = judge(timed(real_time=True))
    assert isinstance(verdict, Problem)
    assert verdict.severity is Severity.LOOK
    assert "100% of the actions come late" in verdict.message
    assert verdict.evidence["expected"] == "50 ms"


@pytest.mark.parametrize(
    "recorded", [timed(40.0, real_time=True), timed(180.0, every=4, real_time=True)], ids=["fast", "chunks"]
)
def test_in_time_is_clear(recorded: Episode) -> None:
    assert isinstance(judge(recorded), Clear)


def test_a_chunk_that_takes_longer_than_it_lasts() -> None:
    assert isinstance(judge(timed(220.0, every=4, real_time=True)), Problem)


def test_without_times_nothing_is_said() -> None:
    assert isinstance(judge(episode(some_ids(6))), Abstention)
    assert isinstance(judge(timed(steps=4, real_time=True)), Abstention)
