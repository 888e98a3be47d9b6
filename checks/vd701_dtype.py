"""The model computes in other numbers than the run asks for or its family is evaluated in.

## What it looks at

The dtype of every weight as the model stood at its first query, counted in values, beside what the run file asks for
and what the family's published evaluation keeps its weights in; the dtype of the inputs, autocast, and the device.

## Why it is bad

Nobody is told. `from_pretrained` of transformers 4 makes float32 of whatever the file holds unless it is told
otherwise: OpenVLA's 7.53 billion weights then take 28.0 GiB for 14.0, and every action takes about twice as long.
float16 in the place of bfloat16 ends at 65504, and a checkpoint that was trained in bfloat16 may go beyond: NaN, or
actions that are almost right.

## Evidence

`values` counts the weights by dtype, `gib` is what they take, `gib_expected` what they would take. Weights in more than
one dtype (a head in float32, quantised layers) are shown and are no finding.

float32 where less was asked for is a *look*, as it costs memory and time, not success. float16 for bfloat16 is *fix*
where the run asked for bfloat16, else a *look*. On a CPU float32 is as expected, whatever the published evaluation has.

## Fix

```python
model = AutoModelForVision2Seq.from_pretrained(path, torch_dtype=torch.bfloat16)  # dtype= in transformers 5
inputs = processor(prompt, image).to("cuda:0", dtype=torch.bfloat16)
```

## Known gaps

What a method computes in inside (an upcast softmax, a kernel's accumulator) is not seen. Of models in another process
nothing is known. Whether an overflow happened is not looked at.

## References

- Sizes: 7.53e9 parameters, counted from the shapes in openvla-7b's configuration.
- openvla/openvla@c8f03f4 experiments/robot/openvla_utils.py:43-51: bfloat16.
- openvla/openvla#133: NaN with float16 on a GPU without bfloat16.
- openvla/openvla#324: post-training quantisation alone loses no success in 500 episodes, which is why it is no finding.
- pytorch/ao#3236: four bits, and twice as slow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from vladoctor.check import Abstention, Check, Clear, Fault, Problem, Severity, Stage, Verdict
from vladoctor.facts import system
from vladoctor.facts.system import FLOATS, Standing

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.lint.facts import SourceFacts
    from vladoctor.loop import Loop

HALVES = ("bfloat16", "float16")


def judge(facts: Facts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Hold the weights' dtype against what was asked for, else against what the family is evaluated in."""
    standings = system.standings(facts.episode)
    known = [one for one in standings if one.dtypes]
    if not known:
        yield Abstention("what numbers the model computes in was not recorded")
        return
    asked, usual = system.asked_dtype(facts.episode), str(facts.profile.get("weights.dtype") or "")
    found = [problem for one in known if (problem := _problem(one, asked, usual, limits)) is not None]
    if found:
        yield found[0]
        return
    one = known[0]
    why = "as asked" if one.dtype == asked else f"on {one.device}" if one.device else "no other was asked for"
    yield Clear(f"weights are {_listed(one)} ({why}), {one.gigabytes:.2g} GiB", _evidence(one))


def _problem(one: Standing, asked: str, usual: str, limits: Mapping[str, float]) -> Problem | None:
    wanted = asked or (usual if not one.device.startswith("cpu") else "")
    used, autocast = one.dtype, str(one.state.get("autocast") or "")
    if used not in FLOATS:
        return None
    overflows = "float16" in (used, autocast) and (asked or usual) == "bfloat16"
    if overflows and one.dtypes.get("float16", 0) + (autocast == "float16") > 0:
        where = "under autocast" if autocast == "float16" and used != "float16" else f"for {_share(one, 'float16')}"
        return Problem(
            message=f"The model computes in float16 {where} where {_by(asked)} bfloat16: float16 ends at 65504, and "
            "what was trained in bfloat16 can go beyond and become inf or NaN.",
            remedy="Keep the weights in bfloat16; on a GPU without it, in float32:\n```python\n"
            "model = model.to(torch.bfloat16)\n```",
            severity=Severity.FIX if asked else Severity.LOOK,
            first_step=one.step,
            evidence={"expected": "bfloat16", "seen": autocast or used, **_evidence(one)},
        )
    if used == "float32" and wanted in HALVES:
        expected = system.gigabytes({wanted: sum(one.dtypes.values())})
        return Problem(
            message=f"The weights are float32 where {_by(asked)} {wanted}: {_size(one.gigabytes)} instead of "
            f"{_size(expected)}, and about twice the time for an action. Nothing raises; the actions are as good.",
            remedy="Say so when the model is loaded, and convert nothing back afterwards (`.float()`, a merged "
            f"adapter):\n```python\nmodel = AutoModelForVision2Seq.from_pretrained(path, torch_dtype=torch.{wanted}, "
            "trust_remote_code=True)  # dtype= in transformers 5\n```\nIf float32 is meant, ask for it: `model: "
            f"{{dtype: float32}}`.",
            severity=Severity.LOOK,
            first_step=one.step,
            evidence={"expected": wanted, "seen": used, "gib_expected": round(expected, 3), **_evidence(one)},
        )
    if used in FLOATS and asked in FLOATS and used != asked and one.dtypes[used] >= limits["most"] * _total(one):
        return Problem(
            message=f"The weights are {used} where the run asks for {asked}.",
            remedy=f"Find what converts them after loading (`.to(...)`, `.half()`), and remove it, or ask for {used}.",
            severity=Severity.LOOK,
            first_step=one.step,
            evidence={"expected": asked, "seen": used, **_evidence(one)},
        )
    return None


def _by(asked: str) -> str:
    return "the run asks for" if asked else "the published evaluation has"


def _total(one: Standing) -> int:
    return sum(one.dtypes.values())


def _share(one: Standing, dtype: str) -> str:
    return f"{one.dtypes.get(dtype, 0) / max(_total(one), 1):.0%} of its weights"


def _size(gib: float) -> str:
    return f"{gib:.1f} GiB" if gib >= 1 else f"{gib * 1024:.0f} MiB"


def _listed(one: Standing) -> str:
    total = max(_total(one), 1)
    ranked = sorted(one.dtypes.items(), key=lambda item: -item[1])
    return " and ".join(name if count == total else f"{name} ({count / total:.0%})" for name, count in ranked[:3])


def _evidence(one: Standing) -> dict[str, object]:
    found: dict[str, object] = {"values": dict(one.dtypes), "gib": round(one.gigabytes, 3), "device": one.device}
    for name in ("inputs", "autocast"):
        if one.state.get(name):
            found[name] = one.state[name]
    return found


def _half_weights(loop: Loop) -> None:
    """`.half()` in the place of bfloat16, and inputs alike."""
    import torch

    loop.policy.model.to(torch.float16)
    loop.policy.dtype = "float16"


def judge_source(facts: SourceFacts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Compare the dtype in which the model is loaded with the family's."""
    expected = facts.profile.get("weights.dtype")
    models = [one for one in facts.loads if one.what == "model" and one.dtype and one.checkpoint is not None]
    if expected is None or not models:
        yield Abstention("the dtype of the weights, or what it should be, is not known")
        return
    for one in models:
        if one.dtype != expected and one.dtype == "float16":
            yield Problem(
                message=f"The model is loaded in {one.dtype}; its family is evaluated in {expected}.",
                remedy=f"`torch_dtype=torch.{expected}`.",
                severity=Severity.LOOK,
                evidence={"expected": expected, "seen": one.dtype},
                place=one.place,
            )
            return
    yield Clear(f"loaded in {models[0].dtype}")


CHECK = Check(
    code="VD701",
    name="dtype",
    stage=Stage.FORWARD,
    judge=judge,
    judge_source=judge_source,
    # Share of the weights from which their dtype counts as the model's. Not a measurement: heads and norms that are
    # kept in
    # float32 on purpose are a few per cent.
    thresholds={"most": 0.9},
    faults=(
        Fault(
            "half-weights",
            "the weights are converted by .half() after loading, which is float16 and not what was asked for",
            _half_weights,
            reports=("openvla/openvla#133",),
        ),
    ),
)
