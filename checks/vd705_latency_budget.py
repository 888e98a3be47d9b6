"""The policy needs longer for an action than the robot gives it.

## What it looks at

How long each query took, from the observation to the action, against the control period times the actions that were
executed of its answer; and how long the environment's step took. The first step is left out, as it warms up. The taps'
own time is not counted.

## Why it is bad

A real robot does not wait. An action that comes four periods late was computed for where the arm was then; deltas are
executed for longer than they are meant for, or the controller holds in between, and a policy that is right step by step
circles round its aim. In a simulator nothing of this happens: time stands still while the policy thinks. There it is a
matter of patience only, and the numbers are told without a finding.

## Evidence

`policy_ms` and `execute_ms` are medians and 95th percentiles; `stages_ms` the medians of what makes them up; `late` the
share of queries over budget. A loop counts as real time where its environment's adapter says so (`describe` with
`real_time: True`, and `control_freq` in Hz). It is then a *look* from 10 % late queries on.

## Fix

Ask for chunks and execute several actions of each, compute in bfloat16 on a GPU, keep the model warm, ask the next one
while the last is being executed; or run the robot at the rate that the policy can keep, if it was trained at that rate.

## Known gaps

That a loop is real time is not found out by itself. Of a policy behind a socket the answer's way is part of its time. A
loop that asks in another thread while it executes is counted as if it waited. A GPU works on after a call has returned,
so that a stage's share can show up in the next one.

## References

- pytorch/ao#3236: weights in four bits, and every action takes twice as long.
- moojink/openvla-oft#145: an arm that freezes at 5 Hz.
- TensorAuto/OpenTau#312: the same checkpoint at 20 and at 10 Hz: 92 and 39 %.
- huggingface/lerobot#4615: another rate changes what a delta means.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from vladoctor.check import Abstention, Check, Clear, Fault, Problem, Severity, Stage, Verdict
from vladoctor.facts import system

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.loop import Loop


def judge(facts: Facts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Hold the policy's time against the control period; a finding only where the robot does not wait."""
    episode = facts.episode
    taken = system.times(episode)
    asked = {number for number, _ in episode.queries()}
    if taken is None or not asked:
        yield Abstention("how long the policy took was not recorded")
        return
    queries = np.array([number in asked for number in taken.steps])
    if queries.sum() < limits["queries"]:
        yield Abstention(f"{int(queries.sum())} queries are too few to time the loop by")
        return
    frequency = float(episode.task.get("control_freq") or facts.profile.get("loop.control_freq") or 0.0)
    times = taken.policy[queries]
    # An answer is good for as many periods as there are steps to the next.
    places = np.append(taken.steps[queries], taken.steps[-1] + 1)
    evidence: dict[str, Any] = {
        "policy_ms": _spread(times),
        "execute_ms": _spread(taken.execute),
        "stages_ms": _stages(facts),
    }
    if frequency <= 0:
        yield Clear(f"an action takes {_ms(times)}; the control rate is not known", evidence)
        return
    budget = np.diff(places) * 1e3 / frequency
    late = float((times > budget).mean())
    evidence |= {"period_ms": 1e3 / frequency, "late": round(late, 3)}
    if not episode.task.get("real_time"):
        yield Clear(
            f"an action takes {_ms(times)}, a step of the environment {_ms(taken.execute)}; the control period is "
            f"{1e3 / frequency:.0f} ms, and a simulator waits",
            evidence,
        )
    elif late < limits["late"]:
        yield Clear(f"{1 - late:.0%} of the actions come in time ({_ms(times)} of {np.median(budget):.0f})", evidence)
    else:
        first = int(places[:-1][np.argmax(times > budget)])
        yield Problem(
            message=f"{late:.0%} of the actions come late: the policy takes {_ms(times)}, and the robot has "
            f"{np.median(budget):.0f} ms for it. It acts upon what was seen {np.median(times) * frequency / 1e3:.0f} "
            "control periods ago.",
            remedy="Execute several actions of each answer if the policy gives chunks, compute in bfloat16 on a GPU, "
            "keep the model loaded and warm, and ask for the next answer while the last is being executed. Slow the "
            "robot down only if the policy was trained at that rate.",
            severity=Severity.LOOK,
            first_step=first,
            evidence={"expected": f"{np.median(budget):.0f} ms", "seen": _ms(times), **evidence},
        )


def _spread(values: np.ndarray) -> list[float]:
    return [round(float(one), 1) for one in np.percentile(values, (50, 95))]


def _ms(values: np.ndarray) -> str:
    middle = float(np.median(values))
    return f"{middle:.0f} ms" if middle >= 10 else f"{middle:.1f} ms"


def _stages(facts: Facts) -> dict[str, float]:
    """Median of every stage over the steps in which it was timed, the first one left out."""
    found: dict[str, list[float]] = {}
    for step in list(facts.episode.policy_steps())[1:]:
        for name, value in step.timings.items():
            found.setdefault(name, []).append(float(value))
    return {name: round(float(np.median(values)), 1) for name, values in found.items()}


def _on_a_robot(loop: Loop) -> None:
    """The environment keeps to the wall clock as hardware does, and the policy shares its machine with others."""
    env, query = loop.env, loop.stages.query
    step, period = env.step, 1.0 / float(getattr(env.env, "control_freq", 20))
    env.real_time = True
    begun = time.perf_counter()

    def paced(action: Any) -> Any:
        result = step(action)
        # The next tick of the clock, however late this one is.
        time.sleep(-(time.perf_counter() - begun) % period)
        return result

    def slow(*args: Any) -> Any:
        time.sleep(2 * period)
        return query(*args)

    env.step, loop.stages.query = paced, slow


CHECK = Check(
    code="VD705",
    name="latency-budget",
    stage=Stage.FORWARD,
    judge=judge,
    # Queries to time a loop by, and share of late ones from which that is said of a real robot. Not measurements: a
    # garbage
    # collection now and then is nobody's business.
    thresholds={"queries": 5, "late": 0.1},
    faults=(
        Fault(
            "slow-policy",
            "an environment that keeps to the wall clock, and a policy that needs two periods more",
            _on_a_robot,
        ),
    ),
)
