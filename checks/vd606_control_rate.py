"""An action lasts longer or shorter than in the data, because the environment has another control frequency.

## What it looks at

The control frequency with which the environment was made, against the profile's.

## Why it is bad

A displacement is meant for one control step. At 10 Hz instead of 20 a controller has twice the time to reach it, and
the policy sees half as many frames: the same checkpoint falls from 92 to 39 %.

## Evidence

`expected` and `seen` in Hz. Severity: fix.

## Fix

```python
env = OffScreenRenderEnv(bddl_file_name=..., control_freq=20, ...)     # LIBERO's default
```

## Known gaps

Environments that do not tell their frequency. Actions that are executed several times are VD505's; those that a wrapper
repeats below the boundary that is watched (in this project's own loop LIBERO's environment, in others the innermost
one) are not seen.

## References

- TensorAuto/OpenTau#312: 20 Hz 92 %, 10 Hz 39 %, the same checkpoint; the setting was a dead field.
- huggingface/lerobot#4615, ZibinDong/actioncodec#4: data that say 10 or 30 frames a second, and were recorded at 20
  Hz.
- openvla/openvla#135: data recorded at 50 Hz.
- Source: Lifelong-Robot-Learning/LIBERO@8f1084e libero/libero/envs/env_wrapper.py:27.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from vladoctor.check import Abstention, Check, Clear, Fault, Problem, Severity, Stage, Verdict
from vladoctor.facts.protocol import beginning

if TYPE_CHECKING:
    from vladoctor.facts import Facts


def judge(facts: Facts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Compare the frequency with what is expected."""
    if beginning(facts.episode) is None:
        yield Abstention("no policy was seen in a loop")
        return
    expected, seen = facts.profile.get("loop.control_freq"), facts.episode.task.get("control_freq")
    if expected is None or not isinstance(seen, (int, float)):
        who = f"profile {facts.profile.name}" if expected is None else "the environment"
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


def _made_with(frequency: int) -> Callable[[], Callable[[], None]]:
    def before() -> Callable[[], None]:
        from vladoctor.adapters import libero

        make = libero.make_env

        def other(*args: Any, **kwargs: Any) -> Any:
            return make(*args, **{**kwargs, "control_freq": frequency})

        libero.make_env = other
        return lambda: setattr(libero, "make_env", make)

    return before


CHECK = Check(
    code="VD606",
    name="control-rate",
    stage=Stage.OBSERVE,
    judge=judge,
    needs=(Stage.EXECUTE,),
    # Not a measurement: rounding of a period (1/30 s as 0.033) is no other frequency.
    thresholds={"same": 0.01},
    faults=(
        Fault(
            "control-rate-10",
            "an environment made for 10 Hz, as the converted data say",
            before_env=_made_with(10),
            reports=("TensorAuto/OpenTau#312",),
        ),
        Fault(
            "control-rate-30",
            "an environment made for 30 Hz, LeRobot's default until #4124",
            before_env=_made_with(30),
            reports=("huggingface/lerobot#4615",),
        ),
    ),
)
