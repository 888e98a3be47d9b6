"""The values that the vision tower was given are not the frame's, normalised as the checkpoint's were.

## What it looks at

Mean, least and greatest value of every channel of `pixel_values`, tower by tower: the OpenVLA family stacks two, DINOv2
with ImageNet's statistics in channels 0 to 2 and SigLIP with 0.5 in channels 3 to 5. The levels of the raw frame, in
the part that the model's image shows, say what they should be. Where they are not, the known mistakes are tried: not
normalised at all (0 to 1, or 0 to 255), twice, without being divided by 255, divided twice, or with another tower's
statistics.

Without a raw frame what is asked is whether both towers were given the same picture, and one that lies in 0..255.

## Why it is bad

Nothing fails: a tensor of the right shape is a tensor. Values of 0 to 1 are a pale picture without contrast to the
tower, values normalised twice one of glaring contrast, values of 0 to 255 nothing at all; it answers all the same, and
so does the policy.

## Evidence

`levels_seen` is what the channels' means stand for, in levels of 0..255, if the checkpoint's statistics had been used,
and `levels_of_frame` what they should be. `range_seen` are the least and greatest value of each tower. A black image is
-1.49 on average over OpenVLA's two towers, not 0.

## Fix

```python
inputs = processor(prompt, Image.fromarray(frame))  # uint8, 0 to 255: it rescales and normalises, once
```

Give the processor what it asks for, and the model what it returns.

## Known gaps

Pictures that are made brighter or darker on the way are left alone, as augmentation may be meant. Small differences, up
to 6 levels, count as none. Further cameras' values, and padded images, are not looked at.

## References

- huggingface/lerobot#1065: pi0 assumes images in 0..1, and nothing checks it; 0..255 gives wrong SigLIP inputs.
- huggingface/lerobot#61: statistics of 0..255 applied to images divided by 255 already.
- huggingface/lerobot#4415, #4446: normalisation skipped in silence where the key is not found.
- huggingface/lerobot#2954: a published configuration lacks the ImageNet normalisation.
- Both towers' numbers: openvla/openvla@c8f03f4 prismatic/extern/hf/processing_prismatic.py:133-145.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vladoctor.check import Abstention, Check, Clear, Fault, Problem, Severity, Stage, Verdict
from vladoctor.facts.pixels import KNOWN, OTHERS, RIGHT, Line, Pixels, departures, lines, outside, pixels
from vladoctor.lint.judging import last_place

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.lint.facts import SourceFacts
    from vladoctor.loop import Loop

THRESHOLDS = {
    # Differences in levels. Measured on 40 healthy episodes of libero_object, 24 queries each, on thumbnails: means are
    # 0.2 to 0.3 from the frame's.
    #
    # Of the channels' means from the frame's, at the place where the image was found, and where that is only supposed.
    "same_mean": 6.0,
    "about_same_mean": 10.0,
    # Of the extremes, beyond the full frame's (filters overshoot) and short of its thumbnail's.
    "overshoot": 25.0,
    "shortfall": 25.0,
    # Levels outside of 0..255 that no picture reaches, whatever was done to its brightness.
    "impossible": 60.0,
    # Difference of two towers' means, in levels, where there is no frame to compare.
    "same_picture": 2.0,
    # Share of the queries looked at that have to be wrong. Not a measurement.
    "min_share": 0.1,
}

_TOWERS = ("first", "second", "third", "fourth")


def judge(facts: Facts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Take the values back to levels, and compare these with the raw frame's."""
    found = pixels(facts)
    if not found:
        yield Abstention("no statistics of pixel_values were recorded", missing=True)
        return
    towers = len(found[0].values)
    found = tuple(one for one in found if len(one.values) == towers)
    expected = _expected(facts, towers)
    if expected is None:
        yield Abstention(
            f"neither profile {facts.profile.name} nor the checkpoint says how {3 * towers} channels are normalised"
        )
        return
    mean, std, source = expected
    known = [lines(mean[start : start + 3], std[start : start + 3]) for start in range(0, 3 * towers, 3)]
    if all(one.frame is None for one in found):
        yield _without_frames(found, known, limits)
        return
    found = tuple(one for one in found if one.frame is not None)
    fits = [[_name(known[tower], one.values[tower], one, limits) for tower in range(towers)] for one in found]
    wrong = [index for index, names in enumerate(fits) if any(name not in (RIGHT, "") for name in names)]
    if len(wrong) >= max(limits["min_share"] * len(found), min(2, len(found))):
        yield _problem(
            facts, [found[index] for index in wrong], [fits[index] for index in wrong], len(found), known, source
        )
        return
    right = [index for index, names in enumerate(fits) if all(name == RIGHT for name in names)]
    if right:
        worst = max(
            departures(known[tower][0], found[index].values[tower], found[index]).mean
            for index in right
            for tower in range(towers)
        )
        yield Clear(
            f"pixel_values are the frame's levels, normalised as the checkpoint's are, in "
            f"{'each tower' if towers > 1 else 'the tower'}",
            {"largest_difference_in_levels": round(worst, 2), "queries": len(right), "statistics": source},
        )
        return
    yield Abstention(
        "the model's image is brighter, darker or of another contrast than the raw frame, in no way that is known"
    )


def _expected(facts: Facts, towers: int) -> tuple[list[float], list[float], str] | None:
    """Mean and std by channel: the profile's, else those that the checkpoint's own processor states."""
    own = facts.episode.run.get("checkpoint", {})
    stated = (facts.profile.get("image.pixel_mean"), facts.profile.get("image.pixel_std"))
    for (mean, std), source in (
        (stated, f"profile {facts.profile.name}"),
        ((own.get("pixel_mean"), own.get("pixel_std")), "the checkpoint's own processor"),
    ):
        if mean and std and len(mean) == len(std) == 3 * towers and all(value > 0 for value in std):
            return list(mean), list(std), source
    return None


def _name(known: Sequence[Line], tower: np.ndarray, seen: Pixels, limits: Mapping[str, float]) -> str:
    """The line that a tower's values lie on: the right one if that does, else the nearest that does; "" if none."""
    near = limits["same_mean"] if seen.placed else limits["about_same_mean"]
    best, distance = "", np.inf
    for line in known:
        far = departures(line, tower, seen)
        if far.mean <= near and far.beyond <= limits["overshoot"] and far.short <= limits["shortfall"]:
            if line.name == RIGHT:
                return RIGHT
            if far.mean < distance:
                best, distance = line.name, far.mean
    if not best and outside(known[0], tower) > limits["impossible"]:
        return "in a way that is not known"
    return best


def _problem(
    facts: Facts,
    wrong: Sequence[Pixels],
    fits: Sequence[list[str]],
    looked: int,
    known: Sequence[list[Line]],
    source: str,
) -> Problem:
    first, names = wrong[0], fits[0]
    bad = {tower: name for tower, name in enumerate(names) if name not in (RIGHT, "")}
    others = all(name.startswith(OTHERS) for name in bad.values())
    declared = others and _declared(facts, first.values)
    when = (
        ""
        if len(wrong) == looked
        else f"In {len(wrong)} of {looked} queries that were looked at, from step {first.step}: "
    )
    message = f"{when}{_what(bad, len(names))}; {_effect(bad)}"
    assert first.frame is not None
    seen = [[round(float(value), 1) for value in known[tower][0].levels(first.values[tower][:, 0])] for tower in bad]
    remedy = (
        "Give the processor the frame as it is (uint8, 0 to 255) and pass what it returns on to the model unchanged:\n"
        "```python\ninputs = processor(prompt, Image.fromarray(frame)).to(device, dtype=torch.bfloat16)\n"
        "action = model.predict_action(**inputs, ...)\n```"
    )
    if others:
        remedy = (
            "Use the image processor of this checkpoint's own folder (preprocessor_config.json), which has each "
            "tower's own "
            f"mean and std. {remedy}"
        )
    return Problem(
        message=f"{message[0].upper()}{message[1:]}",
        remedy=remedy,
        severity=Severity.LOOK if declared else Severity.FIX if others else Severity.STOP,
        first_step=first.step,
        last_step=wrong[-1].step,
        evidence={
            "expected": f"(level / 255 - mean) / std, by {source}",
            "seen": "; ".join(f"{_tower(tower, len(names))}: {_short(name)}" for tower, name in bad.items()),
            "levels_seen": {_tower(tower, len(names)): levels for tower, levels in zip(bad, seen, strict=True)},
            "levels_of_frame": [round(float(value), 1) for value in first.frame[:, 0]],
            "range_seen": {
                _tower(tower, len(names)): [
                    round(float(first.values[tower][:, 1].min()), 3),
                    round(float(first.values[tower][:, 2].max()), 3),
                ]
                for tower in bad
            },
            "wrong_queries": f"{len(wrong)} of {looked} that were looked at",
        },
        frames=({"title": "what the model was given", "step": first.step, "model": True},),
    )


def _declared(facts: Facts, values: np.ndarray) -> bool:
    """Whether the processor itself states statistics that are not the profile's: another checkpoint's, or meant."""
    own, profile = facts.episode.run.get("checkpoint", {}), facts.profile.get("image.pixel_mean")
    mean, std = own.get("pixel_mean"), own.get("pixel_std")
    if not (mean and std and profile and len(mean) == len(profile) == 3 * len(values)):
        return False
    return not (np.allclose(mean, profile) and np.allclose(std, facts.profile.get("image.pixel_std")))


def _short(name: str) -> str:
    return name.removeprefix("not at all: they are ") if name.startswith("not at all") else f"normalised {name}"


def _what(bad: Mapping[int, str], towers: int) -> str:
    names = set(bad.values())
    if len(names) == 1:
        (name,) = names
        whose = "" if len(bad) == towers else f", {_tower(next(iter(bad)), towers)},"
        if name.startswith("not at all: "):
            left = name.removeprefix("not at all: they are ")
            return f"the values given to the vision tower{whose} are not normalised at all: {left}"
        return f"the values given to the vision tower{whose} were normalised {name}"
    return "the values given to the vision towers were normalised wrongly: " + ", ".join(
        f"those of the {_tower(tower, towers)} {name}" for tower, name in bad.items()
    )


def _effect(bad: Mapping[int, str]) -> str:
    name = next(iter(bad.values()))
    if name.startswith(OTHERS):
        return "this checkpoint's was trained with others, so brightness and contrast are not what it knows."
    if "divided by 255" in name and "without" not in name:
        return "the tower sees a pale picture with hardly any contrast."
    if name == "twice":
        return "the tower sees contrast several times too strong."
    return "the tower was trained on values of about -2 to 2.6 and sees nothing that it knows."


def _tower(tower: int, towers: int) -> str:
    if towers == 1:
        return "vision tower"
    return f"{_TOWERS[tower] if tower < len(_TOWERS) else tower + 1} tower (channels {3 * tower} to {3 * tower + 2})"


def _without_frames(found: Sequence[Pixels], known: Sequence[list[Line]], limits: Mapping[str, float]) -> Verdict:
    """What can be said without a raw frame: that the values are impossible, or that two towers agree."""
    beyond = [max(outside(known[tower][0], values) for tower, values in enumerate(one.values)) for one in found]
    wrong = [one for one, far in zip(found, beyond, strict=True) if far > limits["impossible"]]
    if len(wrong) >= max(limits["min_share"] * len(found), min(2, len(found))):
        values = wrong[0].values
        return Problem(
            message=f"The values given to the vision tower reach from {values[..., 1].min():.1f} to "
            f"{values[..., 2].max():.1f}, which no picture does "
            "that was normalised as this checkpoint's were: they were normalised twice, or not at all.",
            remedy="Give the processor the frame as it is (uint8, 0 to 255) and pass what it returns on unchanged.",
            severity=Severity.STOP,
            first_step=wrong[0].step,
            last_step=wrong[-1].step,
            evidence={"expected": "levels of 0 to 255", "seen": f"{max(beyond):.0f} levels outside of 0 to 255"},
        )
    if len(known) > 1 and max(beyond) <= limits["overshoot"]:
        pictures = np.array(
            [[known[tower][0].levels(row[:, 0]) for tower, row in enumerate(one.values)] for one in found]
        )
        apart = float(np.abs(pictures - pictures[:, :1]).max())
        if apart <= limits["same_picture"]:
            return Clear(
                "all towers are given the same picture, within 0 to 255",
                {"largest_difference_in_levels": round(apart, 2)},
            )
    return Abstention("the raw frames that would tell how pixel_values should be were not recorded", missing=True)


def _transform(change: Callable[[Any, Any], Any]) -> Callable[[Loop], None]:
    """Another transform in the place of the image processor's: (processor, picture) -> values, (channels, H, W)."""

    def apply(loop: Loop) -> None:
        processor = loop.policy.processor.image_processor
        processor.apply_transform = lambda picture: change(processor, picture)

    return apply


def _levels(processor: Any, picture: Any) -> Any:
    """The picture as float32 (3, H, W), 0..255."""
    import torch

    return torch.from_numpy(np.array(picture.convert("RGB"), np.float32)).permute(2, 0, 1)


def _with(mean: Sequence[float], std: Sequence[float]) -> Callable[[Any, Any], Any]:
    """One pair of statistics for every tower, as `torchvision.transforms.Normalize` takes it."""

    def change(processor: Any, picture: Any) -> Any:
        import torch

        values = (_levels(processor, picture) / 255.0 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[
            :, None, None
        ]
        return torch.cat([values] * len(processor.means))

    return change


def _normalise_again(loop: Loop) -> None:
    """What the processor returns goes through the model's own transform once more."""
    import torch

    processor = loop.policy.processor.image_processor

    def again(inputs: Any) -> Any:
        pixel_values = inputs["pixel_values"]
        mean, std = (
            torch.tensor([value for tower in towers for value in tower], dtype=pixel_values.dtype)[:, None, None]
            for towers in (processor.means, processor.stds)
        )
        inputs["pixel_values"] = (pixel_values - mean.to(pixel_values.device)) / std.to(pixel_values.device)
        return inputs

    loop.policy.prepare_inputs = again


def judge_source(facts: SourceFacts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Look for pixels that were scaled or normalised before a processor that does so itself."""
    for slot in facts.images:
        wrong = slot.way.wrong(lambda way: way.normalised) if facts.by_processor else None
        if wrong is not None:
            yield Problem(
                message="The picture is scaled or normalised before the processor, which does so once more.",
                remedy="Give the processor the picture as it is: uint8, 0 to 255.",
                severity=Severity.FIX,
                evidence={"slot": slot.name},
                place=last_place(wrong.trail, wrong.place),
                trail=wrong.trail,
            )
            return
    yield Abstention("the source shows no normalisation of its own")


CHECK = Check(
    code="VD205",
    name="pixel-normalisation",
    stage=Stage.PROCESS,
    judge=judge,
    judge_source=judge_source,
    thresholds=THRESHOLDS,
    explained_by=("VD101", "VD103", "VD105"),
    faults=(
        Fault(
            "pixels-not-normalised",
            "own preprocessing ends with ToTensor: values of 0 to 1",
            _transform(
                lambda processor, picture: _levels(processor, picture).repeat(len(processor.means), 1, 1) / 255.0
            ),
            reports=("huggingface/lerobot#2954",),
        ),
        Fault("pixels-normalised-twice", "what the processor returns is normalised once more", _normalise_again),
        Fault(
            "pixels-0-255",
            "the model is given levels of 0 to 255",
            _transform(lambda processor, picture: _levels(processor, picture).repeat(len(processor.means), 1, 1)),
            reports=("huggingface/lerobot#1065",),
        ),
        Fault(
            "imagenet-statistics",
            "ImageNet's mean and std for both towers, of which the second was trained with 0.5",
            _transform(_with(*KNOWN["ImageNet's mean and std"])),
        ),
        Fault(
            "siglip-statistics",
            "0.5 for both towers, as if the first were no DINOv2",
            _transform(_with(*KNOWN["mean and std 0.5"])),
        ),
    ),
)
