"""The policy was asked before the scene was at rest, or the robot was moved while it settled.

## What it looks at

The control steps between the last reset (or init state) and the policy's first query: how many there are, and what
they executed, against the profile's published evaluation.

## Why it is bad

Init states hold objects a little above the table. The published evaluations send a fixed action for ten steps first,
while objects drop and the fingers open. A policy that is asked at once acts on frames with falling objects, which are
in no training data; one whose fingers were not opened, or were closed, sees another gripper than in any demonstration.

## Evidence

`seen` is the number of settle steps and what they executed. Severity: fix where there was no settling at all although
the profile calls for it, where the gripper was closed meanwhile or the arm was moved; look where it was shorter than
80 % of what was published, or where the gripper was left as it was (LIBERO's own evaluation sends five steps of
zeros). Waiting longer does no harm and is clear. In LIBERO-Object objects fall with up to 1 m/s in the fifth control
step, 7 cm/s in the sixth, and rest from the eighth on (10 init states, stand-in assets, whose collisions are LIBERO's
own); the fingers go from 21 to 38 mm meanwhile.

## Fix

```python
for _ in range(10):
    obs, reward, done, info = env.step([0, 0, 0, 0, 0, 0, -1])   # stand still, gripper open
```
before the first query, and not counted against the episode's limit.

## Known gaps

Says nothing where the recording began after the reset, where no policy was seen, and where the arm was given several
actions before the first query that was seen (they are an earlier plan's, VD505, or a query was missed). A scene that
moves by itself is not looked for in the frames.

## References

- RLinf/RLinf#656: 0.60 in one harness and 22 % in another with the same weights; wait steps among the differences.
- open-edge-platform/physical-ai-studio#826: a scene that had not come to rest, with the juice fallen over.
- The published loop: openvla/openvla@c8f03f4 experiments/robot/libero/run_libero_eval.py:72,182-188; LIBERO's own:
  Lifelong-Robot-Learning/LIBERO@8f1084e libero/lifelong/metric.py:119-122.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vladoctor.check import Abstention, Check, Clear, Fault, Problem, Severity, Stage, Verdict
from vladoctor.facts.gripper import gripper_place
from vladoctor.facts.protocol import beginning
from vladoctor.lint.judging import replaced, unseen

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.lint.facts import SourceFacts
    from vladoctor.loop import Loop
    from vladoctor.records import Step


def judge(facts: Facts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Compare the steps before the first query with the published ones."""
    expected, action = facts.profile.get("loop.settle_steps"), facts.profile.get("loop.settle_action")
    begun = beginning(facts.episode)
    if expected is None:
        yield Abstention(f"profile {facts.profile.name} does not say how long a scene settles")
    elif begun is None or not begun.seen:
        yield Abstention("the recording does not show how the episode began")
    elif _acted(begun.settled, action, limits):
        yield Abstention(
            "before the first query that was seen the arm was moved, by one that was not seen or by a queue (VD505)"
        )
    else:
        yield from _count(len(begun.settled), int(expected), action, limits)
        if begun.settled and action is not None:
            yield from _action(
                [step.executed for step in begun.settled], begun.settled[0].number, action, facts, limits
            )


def _acted(settled: Sequence[Step], action: Any, limits: Mapping[str, float]) -> bool:
    """Whether the arm was given actions that differ from each other: a policy's, and no settling."""
    executed = [step.executed for step in settled if len(step.executed) > 1]
    if action is None or not executed or len({len(row) for row in executed}) > 1:
        return False
    arm = np.array(executed)[:, :-1]
    return bool(np.ptp(arm, axis=0).max() > limits["arm"])


def _count(count: int, expected: int, action: Any, limits: Mapping[str, float]) -> Iterator[Verdict]:
    if count >= expected * limits["share"]:
        more = f" (published: {expected})" if count != expected else ""
        yield Clear(f"{count} settle steps before the first query{more}", {"settle_steps": count})
        return
    sent = f"{[float(value) for value in action]}" if action is not None else "an action that moves nothing"
    yield Problem(
        message=(
            "The policy is asked in the very frame of the reset: objects are still in the air and the fingers half "
            "open, which no training data show."
            if count == 0
            else f"The policy is asked after {count} settle steps; the published evaluation waits {expected}. Objects "
            "may still be falling and the fingers opening."
        ),
        remedy=f"Send `{sent}` for {expected} control steps after the init state is set, before the policy is asked, "
        "and do not count them against the episode's limit.",
        severity=Severity.FIX if count == 0 else Severity.LOOK,
        first_step=-count,
        last_step=0,
        evidence={"expected": f"{expected} settle steps", "seen": f"{count} settle steps"},
    )


def _action(
    executed: list[tuple[float, ...]], first: int, action: Any, facts: Facts, limits: Mapping[str, float]
) -> Iterator[Verdict]:
    expected = np.asarray(action, np.float64)
    rows = [np.asarray(row) for row in executed if len(row) == len(expected)]
    if len(rows) < len(executed) or not rows:
        return
    sent = np.array(rows)
    place = gripper_place(facts.profile)
    place = len(expected) - 1 if place is None else place
    arm = np.delete(np.abs(sent - expected), place, axis=1).max(initial=0.0)
    wrong = np.sign(sent[:, place]) != np.sign(expected[place])
    closed = wrong & (np.sign(sent[:, place]) == -np.sign(expected[place]))
    seen = ", ".join(f"{value:.3g}" for value in sent[0])
    evidence = {"expected": ", ".join(f"{value:.3g}" for value in expected), "seen": seen}
    remedy = f"Send `{[float(value) for value in expected]}` while the scene settles."
    if arm > limits["arm"]:
        what = (
            f"The arm is moved while the scene settles (up to {arm:.2g} of full speed): episodes begin from "
            "another pose."
        )
        yield Problem(what, remedy, Severity.FIX, first, -1, evidence)
    elif closed.any():
        what = "The gripper is closed while the scene settles: the policy's first frames show closed fingers, which no "
        yield Problem(f"{what}demonstration begins with.", remedy, Severity.FIX, first, -1, evidence)
    elif wrong.sum() > len(wrong) / 2:
        what = (
            "The gripper is left as the reset leaves it, half open, while the scene settles; published loops open it."
        )
        yield Problem(what, remedy, Severity.LOOK, first, -1, evidence)
    else:
        yield Clear("they stand still with the gripper as published")


def _no_settling(loop: Loop) -> None:
    loop.settle_steps = 0


def _three_steps(loop: Loop) -> None:
    loop.settle_steps = 3


def _zeros(loop: Loop) -> None:
    loop.settle_action = [0.0] * 7


def _gripper_closed(loop: Loop) -> None:
    loop.settle_action = [0.0] * 6 + [1.0]


def judge_source(facts: SourceFacts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Compare the steps between reset and the first query with the profile's; LIBERO's objects have to fall first."""
    expected = facts.profile.get("loop.settle_steps")
    unstated = expected is None
    if unstated and facts.environment == "libero":
        expected = (
            5  # LIBERO's own evaluation: Lifelong-Robot-Learning/LIBERO@8f1084e libero/lifelong/metric.py:119-122
        )
    if not expected or facts.settle.value is None:
        yield (
            unseen(facts.settle, "settle steps")
            if expected
            else Abstention("nothing has to settle, as far as is known")
        )
        return
    seen = facts.settle.value.steps
    if seen == 0:
        yield Problem(
            message=f"The policy is asked right after the reset, while objects still fall; {expected} steps of rest "
            "come first in the published evaluation.",
            remedy=f"After the reset:\n```python\nfor _ in range({expected}):\n    obs, _, _, _ = "
            "env.step([0, 0, 0, 0, 0, 0, -1])\n```",
            severity=Severity.FIX,
            evidence={"expected": f"{expected} settle steps", "seen": "0 settle steps"},
            place=facts.settle.place,
            fix=replaced(facts.settle.value.constant, str(expected), f"wait {expected} steps"),
        )
    elif seen < expected and not unstated and seen < 5:
        yield Problem(
            message=f"{seen} steps of rest come before the first query; the published evaluation has {expected}.",
            remedy=f"Wait {expected} steps.",
            severity=Severity.LOOK,
            evidence={"expected": f"{expected} settle steps", "seen": f"{seen} settle steps"},
            place=facts.settle.place,
        )
    else:
        yield Clear(f"{seen} steps of rest before the first query")


CHECK = Check(
    code="VD601",
    name="settle-steps",
    stage=Stage.OBSERVE,
    judge=judge,
    judge_source=judge_source,
    needs=(Stage.EXECUTE,),
    # `share` as measured on the page: of ten published steps the objects need eight. `arm` is no measurement: a
    # hundredth of the controller's range is no motion.
    thresholds={"share": 0.8, "arm": 0.01},
    faults=(
        Fault("no-settle", "the policy is asked in the frame of the reset", _no_settling),
        Fault("settle-few", "three settle steps where ten are published", _three_steps),
        Fault("settle-with-zeros", "settle steps of zeros, which leave the fingers half open", _zeros),
        Fault("settle-with-gripper-closed", "settle steps with the sign of the gripper the wrong way", _gripper_closed),
    ),
)
