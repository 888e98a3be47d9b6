"""An action lasts longer or shorter than in the data: another control frequency, or executed several times.

## What it looks at

The control frequency with which the environment was made, against the profile's; and how many control steps each
answer is executed for, of a policy that answers for one.

## Why it is bad

A displacement is meant for one control step. At 10 Hz instead of 20 a controller has twice the time to reach it, and
the policy sees half as many frames: the same checkpoint falls from 92 to 39 %. Executed twice, each motion is twice as
large.

## Evidence

`expected` and `seen` in Hz, or in steps for each answer. Severity: fix. Repetition counts where at least 80 % of ten
or more answers of a single action are executed again, to the bit, at steps without a query; of policies of which the
profile does not say how many steps an answer is for, it is a look.

## Fix

```python
env = OffScreenRenderEnv(bddl_file_name=..., control_freq=20, ...)     # LIBERO's default
```
and one `env.step` for each answer.

## Known gaps

Environments that do not tell their frequency. A wrapper that repeats actions below the boundary that is watched: in
this project's own loop LIBERO's environment, in others the innermost one.

## References

- TensorAuto/OpenTau#312: 20 Hz 92 %, 10 Hz 39 %, the same checkpoint; the setting was a dead field.
- huggingface/lerobot#4615, ZibinDong/actioncodec#4: data that say 10 or 30 frames a second, and were recorded at 20
  Hz.
- openvla/openvla#135: data recorded at 50 Hz.
- Source: Lifelong-Robot-Learning/LIBERO@8f1084e libero/libero/envs/env_wrapper.py:27.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from vladoctor.check import Abstention, Check, Clear, Fault, Problem, Severity, Stage, Verdict
from vladoctor.facts.protocol import beginning, policy_steps

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.loop import Loop


def judge(facts: Facts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Compare the frequency and the number of steps an action is executed for with what is expected."""
    if beginning(facts.episode) is None:
        yield Abstention("no policy was seen in a loop")
        return
    expected, seen = facts.profile.get("loop.control_freq"), facts.episode.task.get("control_freq")
    repeated = _repetition(facts, limits)
    if repeated is not None:
        yield repeated
    if expected is None or not isinstance(seen, (int, float)):
        who = f"profile {facts.profile.name}" if expected is None else "the environment"
        if repeated is None:
            yield Abstention(f"{who} does not say how often a second actions are executed")
    elif abs(seen - expected) <= limits["same"] * expected:
        yield Clear(f"{seen:.4g} control steps a second", {"control_freq": float(seen)})
    else:
        ratio = expected / seen
        times = f"{ratio:.3g} times as long" if ratio > 1 else f"{ratio:.3g} of the time"
        yield Problem(
            message=f"The environment executes {seen:.4g} control steps a second; the data have {expected:.4g}. Each "
            f"action lasts {times}, and the arm moves further or less far with it than the policy means.",
            remedy=f"Make the environment with `control_freq={expected:.4g}`.",
            severity=Severity.FIX,
            first_step=-len(facts.episode.steps) if not facts.episode.steps else facts.episode.steps[0].number,
            evidence={"expected": f"{expected:.4g} Hz", "seen": f"{seen:.4g} Hz"},
        )


def _repetition(facts: Facts, limits: Mapping[str, float]) -> Problem | None:
    per_answer = facts.profile.get("action.execute")
    steps = policy_steps(facts.episode)
    if per_answer not in (None, 1) or any(step.query is not None and step.query.chunk for step in steps):
        return None
    starts = [index for index, step in enumerate(steps) if step.query is not None]
    runs: list[int] = []
    for here, there in pairwise(starts):
        same = all(step.executed == steps[here].executed for step in steps[here:there])
        runs.append(there - here if same else 0)
    again = [run for run in runs if run > 1]
    if len(runs) < limits["answers"] or len(again) < limits["repeated"] * len(runs):
        return None
    times = sorted(again)[len(again) // 2]
    return Problem(
        message=f"Each answer of the policy is executed {times} times: its motions are {times} times as large as it "
        f"means, and it sees one frame in {times}.",
        remedy="Call `env.step` once for each answer. Look for a frame skip or an action repeat in a wrapper.",
        severity=Severity.FIX if per_answer == 1 else Severity.LOOK,
        first_step=steps[starts[0]].number,
        last_step=steps[-1].number,
        evidence={"expected": "1 step for each answer", "seen": f"{times} steps for each answer"},
    )


def _made_with(frequency: int) -> Callable[[], Callable[[], None]]:
    def before() -> Callable[[], None]:
        from vladoctor.adapters import libero

        make = libero.make_env

        def other(*args: Any, **kwargs: Any) -> Any:
            return make(*args, **{**kwargs, "control_freq": frequency})

        libero.make_env = other
        return lambda: setattr(libero, "make_env", make)

    return before


def _repeat(loop: Loop) -> None:
    execute = loop.execute

    def twice(action: list[float]) -> tuple[dict[str, Any], bool]:
        obs, done = execute(action)
        return (obs, done) if done else execute(action)

    loop.execute = twice  # type: ignore[method-assign]


CHECK = Check(
    code="VD606",
    name="control-rate",
    stage=Stage.OBSERVE,
    judge=judge,
    needs=(Stage.EXECUTE,),
    thresholds={"same": 0.01, "answers": 10, "repeated": 0.8},
    faults=(
        Fault(
            "control-rate-10",
            "an environment made for 10 Hz, as the converted data say, as in TensorAuto/OpenTau#312",
            before_env=_made_with(10),
        ),
        Fault(
            "control-rate-30", "an environment made for 30 Hz, LeRobot's default until #4124", before_env=_made_with(30)
        ),
        Fault("action-repeat", "a frame skip of two: every action is executed twice", _repeat),
    ),
)
