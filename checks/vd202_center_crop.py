"""The model's image is another part of the camera's frame than the images of its training were.

## What it looks at

Registration finds the window of the raw frame that the model's image shows, at every query: its height and width as
fractions of the frame, and where it begins. The profile says which share of the frame's *area* a centre crop keeps:
0.9 for OpenVLA's fine-tunes, whose training cut random windows of that area out of every image. The side of the window
is the square root of it, 0.9487, and (1 - 0.9487) / 2 is left out at each edge.

Frames that are not square are let be where the window is as high or as wide as expected: what was done about their
shape is VD204's.

## Why it is bad

Nothing fails: objects are 5 % smaller, or 5 % larger, or 2.5 % of the picture away from where they were in training,
and so is where the policy reaches. In a small OpenVLA-style policy the forgotten crop took 20 successes in 20 episodes
to 0 in 6; for the published checkpoints some 3 points are reported.

## Evidence

`side` is the window's side as a fraction of the frame's (geometric mean of both), `area` its square, `height` and
`width` the sides, `top` and `left` where it begins, all medians over the queries in question. `off_centre` is how far
the middle of the window lies from the middle of the frame.

## Fix

```python
side = 0.9 ** 0.5  # the share is one of area
height, width = frame.shape[:2]
top, left = round((1 - side) / 2 * height), round((1 - side) / 2 * width)
frame = frame[top : height - top, left : width - left]  # and resize to the model's size again
```

once, and on test images only for checkpoints that were trained with random crops.

## Known gaps

A crop done twice (0.9487 of 0.9487) and one of side 0.9 are the same window, and cannot be told apart. Padded images
are left out, and so is the crop of further cameras. Where the picture cannot be registered, or fits its
frame too badly for its window to be known (something is drawn over it), nothing is said.

## References

- openvla/openvla#201: deploy.py has no center_crop, unlike the official evaluation.
- pytorch/rl#3995: a re-implementation of OpenVLA's preprocessing; the crop keeps 0.9 of the area.
- NVlabs/vla0#35: a list of the settings that finally worked, a crop of 1.0 among them.
- allenai/vla-evaluation-harness@e1ee9ad docs/reproductions/common-pitfalls.md: about 3 points for OpenVLA's crop.
- What the official evaluation does: openvla/openvla@c8f03f4 experiments/robot/openvla_utils.py:81-155.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vladoctor.check import Abstention, Check, Clear, Fault, Problem, Severity, Stage, Verdict
from vladoctor.facts.following import Match, matches, track
from vladoctor.lint.judging import last_place, longest_side, replaced, wanted_area
from vladoctor.places import Fix, Place

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.lint.facts import SourceFacts
    from vladoctor.loop import Loop

THRESHOLDS = {
    # Measured on 1,200 pairs: frames of LIBERO (6 tasks, both cameras) resized to 128 and 224 pixels and cropped to
    # sides of 0.9 to 1, in the middle and in a corner. Thumbnails give every side and edge to 0.005 (95 % quantile of
    # the largest error; 0.014 at most, wrist camera), full frames to 0.001. A crop of whole pixels may be off by 0.008.
    "tolerance": 0.015,
    # Share of decided queries that have to be wrong. Not a measurement.
    "min_share": 0.1,
    # Sides above this are an image that was padded, not cropped.
    "padded": 1.03,
}


_CLOSE = 0.006
"""Two sides are the same, for what a message says of them."""


def judge(facts: Facts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Compare the window of every query's image with the profile's."""
    area = facts.profile.get("image.center_crop_area")
    if not isinstance(area, (int, float)) or not 0.0 < area <= 1.0:
        yield Abstention(f"profile {facts.profile.name} names no crop of the image")
        return
    found = matches(facts)
    if not found:
        yield Abstention("the model's image and the raw frame of the same step were not both recorded", missing=True)
        return
    decided = [match for match in found if match.registration.decisive]
    if not decided:
        yield Abstention("the model's image cannot be laid over the raw frame with certainty")
        return
    measured = [match for match in decided if match.measured]
    if not measured:
        yield Abstention(
            "the model's image fits the raw frame too badly for its window to be known: something is drawn over it, or "
            "it is of another moment"
        )
        return
    whole = [match for match in measured if max(match.registration.scales) <= limits["padded"]]
    if not whole:
        yield Abstention("the model's image has padding around the frame")
        return
    side = float(np.sqrt(area))
    wrong = [match for match in whole if not _fits(facts, match, side, limits["tolerance"])]
    if len(wrong) >= max(limits["min_share"] * len(whole), min(2, len(whole))):
        yield _problem(facts, wrong, whole, side)
    else:
        yield _clear(whole, side)


def _fits(facts: Facts, match: Match, side: float, tolerance: float) -> bool:
    """Whether a window is the expected one, in the middle; of a frame that is not square also its largest square."""
    shape = _turned_shape(facts, match)
    height, width = min(1.0, shape[1] / shape[0]), min(1.0, shape[0] / shape[1])
    return any(
        all(
            abs(seen - wanted) <= tolerance and abs(start - (1.0 - wanted) / 2.0) <= tolerance
            for seen, start, wanted in zip(match.registration.scales, match.registration.offset, sides, strict=True)
        )
        for sides in ((side, side), (side * height, side * width))
    )


def _turned_shape(facts: Facts, match: Match) -> tuple[int, int]:
    """Height and width of the raw frame as it lies under the model's image."""
    camera = track(facts).camera(match.camera)
    height, width = camera.frames[camera.places[match.step]].shape
    turned = match.registration.element in ("rot90", "rot270", "transpose", "anti-transpose")
    return (width, height) if turned else (height, width)


def _problem(facts: Facts, wrong: Sequence[Match], whole: Sequence[Match], side: float) -> Problem:
    numbers = _numbers(wrong)
    meant = facts.episode.run.get("checkpoint", {}).get("center_crop") is False and side < 1.0
    when = "" if len(wrong) == len(whole) else f"In {len(wrong)} of {len(whole)} queries, from step {wrong[0].step}: "
    message = f"{when}{_what(numbers, side, wrong[0].camera)}"
    remedy = _remedy(side)
    if meant:
        remedy = (
            "The run file says `center_crop: false`. That is right only for a checkpoint that was trained without "
            "random crops; if this is one, say `image.center_crop_area: 1` in the profile's overrides. " + remedy
        )
    return Problem(
        message=f"{message[0].upper()}{message[1:]}",
        remedy=remedy,
        severity=Severity.LOOK if meant else Severity.FIX,
        first_step=wrong[0].step,
        last_step=wrong[-1].step,
        evidence={
            "expected": f"side {side:.3f} (area {side**2:.2f}), in the middle",
            "seen": f"side {numbers['side']:.3f} (area {numbers['area']:.2f}), top {abs(numbers['top']):.3f}, "
            f"left {abs(numbers['left']):.3f}",
            **numbers,
            "queries_concerned": f"{len(wrong)} of {len(whole)}",
            "trained_on": f"{side**2:.2f} ({facts.profile.source('image.center_crop_area')})",
        },
        frames=(
            {"title": f"raw {wrong[0].camera} frame", "step": wrong[0].step, "camera": wrong[0].camera},
            {"title": "what the model was given", "step": wrong[0].step, "model": True},
        ),
    )


def _what(numbers: Mapping[str, float], side: float, camera: str) -> str:
    seen, area = numbers["side"], f"{100 * side**2:.0f} %"
    size = f"{100 * abs(seen / side - 1.0):.0f} % {'smaller' if seen > side else 'larger'}"
    if numbers["off_centre"] > 0.01 and abs(seen - side) <= 0.012:
        top, left = (f"{abs(100 * numbers[edge]):.1f} % of the frame from the {edge}" for edge in ("top", "left"))
        return (
            f"the crop has the right size, but is not in the middle of the {camera} frame: it begins {top} and "
            f"{left}, in "
            f"place of {100 * (1 - side) / 2:.1f} %, and everything is shifted by that difference."
        )
    if seen > 1.0 - _CLOSE and side < 1.0:
        return (
            f"the model's image is the whole {camera} frame; this checkpoint was trained on crops of {area} of its "
            f"area "
            f"and needs a centre crop. Everything looks {size} than in training."
        )
    if side == 1.0:
        return (
            f"the model's image is a crop of the {camera} frame, {100 * seen:.0f} % of its side; this checkpoint was "
            f"trained on the whole frame. Everything looks {size} than in training."
        )
    if abs(seen - side**2) <= _CLOSE:
        return (
            f"the crop keeps {100 * seen:.0f} % of the {camera} frame's side; this checkpoint was trained on {area} "
            f"of its "
            f"*area*, {100 * side:.1f} % of the side. Either {side**2:g} was taken for the side, or the crop is made "
            f"twice. Everything looks {size} than in training."
        )
    where = "" if numbers["off_centre"] <= 0.01 else ", not in the middle"
    return (
        f"the model's image is {100 * seen:.1f} % of the {camera} frame's side{where}; this checkpoint was trained on "
        f"{100 * side:.1f} % ({area} of the area), in the middle. Everything looks {size} than in training."
    )


def _remedy(side: float) -> str:
    if side == 1.0:
        return "Give the model the whole frame: take out the crop, or switch `center_crop` off."
    return (
        f"Cut out the middle of the frame, once, and resize it to the model's size again:\n```python\nside = "
        f"{side**2:g} ** 0.5  # the share is one of area\ntop, left = (round((1 - side) / 2 * n) for n in "
        f"frame.shape[:2])\n"
        "frame = frame[top : frame.shape[0] - top, left : frame.shape[1] - left]\n```"
    )


def _numbers(found: Sequence[Match]) -> dict[str, float]:
    window = np.median([(*match.registration.scales, *match.registration.offset) for match in found], axis=0)
    height, width, top, left = (float(value) for value in window)
    off = max(abs(top + height / 2.0 - 0.5), abs(left + width / 2.0 - 0.5))
    side = float(np.sqrt(height * width))
    values = {
        "side": side,
        "area": side**2,
        "height": height,
        "width": width,
        "top": top,
        "left": left,
        "off_centre": off,
    }
    return {name: round(value, 4) + 0.0 for name, value in values.items()}


def _clear(whole: Sequence[Match], side: float) -> Clear:
    what = "the whole frame" if side == 1.0 else f"a centre crop of side {side:.4f} (area {side**2:.2f})"
    return Clear(f"the model's image is {what}, as in training ({len(whole)} queries)", _numbers(whole))


def _crop(crop: Callable[[np.ndarray], np.ndarray]) -> Callable[[Loop], None]:
    def apply(loop: Loop) -> None:
        loop.stages.crop = crop

    return apply


def _middle(frame: np.ndarray, share: float) -> np.ndarray:
    """As torchvision's CenterCrop(share * size) and Resize do: the share is taken for one of the side."""
    from PIL import Image

    height, width = frame.shape[:2]
    inner, other = round(share * height), round(share * width)
    top, left = (height - inner) // 2, (width - other) // 2
    return _resized(Image.fromarray(np.ascontiguousarray(frame[top : top + inner, left : left + other])), frame)


def _corner(frame: np.ndarray) -> np.ndarray:
    """The right size, cut from the first rows and columns on."""
    from PIL import Image

    rows, columns = (round(0.9**0.5 * length) for length in frame.shape[:2])
    return _resized(Image.fromarray(np.ascontiguousarray(frame[:rows, :columns])), frame)


def _resized(picture: Any, like: np.ndarray) -> np.ndarray:
    from PIL import Image

    return np.asarray(picture.resize(like.shape[1::-1], Image.Resampling.BILINEAR))


def _crop_again(loop: Loop) -> None:
    """The policy's side crops too, as in a processor or a server with `center_crop` on."""
    from PIL import Image

    from vladoctor.adapters.image import center_crop

    query = loop.stages.query
    loop.stages.query = lambda prompt, picture: query(prompt, Image.fromarray(center_crop(np.asarray(picture))))


def judge_source(facts: SourceFacts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Compare the centre crop that the loop makes with the profile's."""
    expected = wanted_area(facts)
    slot = next((slot for slot in facts.images if slot.way.known), None)
    if expected is None or slot is None or facts.kind == "server":
        yield Abstention("whether the frame is to be cropped, or is, is not known")
        return
    areas = [one.value.crop_area for one in slot.way.seen]
    if any(area is None for area in areas):
        yield Abstention("how much the crop keeps is not known")
        return
    wrong = slot.way.wrong(lambda way: abs((way.crop_area or 0) - expected) > 0.03)
    if wrong is None and not slot.way.right(lambda way: abs((way.crop_area or 0) - expected) > 0.03):
        yield Abstention("cropped as in training on some ways through the code, on others not")
        return
    if wrong is None:
        yield Clear(f"a centre crop keeps {expected:.0%} of the frame's area")
        return
    seen = wrong.value.crop_area or 0.0
    if facts.client and seen == 1:
        yield Abstention("the whole frame is sent; the server may crop it")
        return
    option = facts.crop_option.value if seen == 1 else None
    crops = wrong.value.crops
    place = facts.crop_option.place if option else crops[-1].place if crops else last_place(wrong.trail, wrong.place)
    done = "is given the whole frame" if seen == 1 else f"is given {seen:.0%} of the frame's area"
    yield Problem(
        message=f"The model {done}"
        + (f" unless {option} is set" if option else "")
        + "; this checkpoint was trained on "
        + (f"crops of {expected:.0%} and is evaluated on the central one." if expected < 1 else "whole frames."),
        remedy=f"Crop the centre to a share of {expected} of the area (a side of {longest_side(expected):.4f}) and "
        "resize back."
        if expected < 1
        else "Leave the crop out.",
        severity=Severity.FIX,
        evidence={"expected": _share(expected), "seen": _share(seen)},
        place=place,
        trail=wrong.trail,
        fix=_fix(place) if option and expected < 1 else None,
    )


def _fix(place: Place | None) -> Fix | None:
    """Where the option's default is the literal False: True."""
    literal = place is not None and place.end_line == place.line and place.end_column - place.column == len("False")
    return replaced(place, "True", "crop the centre by default") if literal else None


def _share(area: float) -> str:
    return f"side {longest_side(area):.3f} (area {area:.2f}), in the middle" if area < 1 else "the whole frame"


CHECK = Check(
    code="VD202",
    name="center-crop",
    stage=Stage.IMAGE,
    judge=judge,
    judge_source=judge_source,
    thresholds=THRESHOLDS,
    explained_by=("VD101", "VD103", "VD104", "VD105"),
    faults=(
        Fault("no-crop", "the centre crop is left out", _crop(lambda frame: frame), reports=("openvla/openvla#201",)),
        Fault("crop-side", "0.9 is taken for the crop's side, not its area", _crop(lambda frame: _middle(frame, 0.9))),
        Fault("crop-twice", "the loop crops, and the policy's own preprocessing crops again", _crop_again),
        Fault("crop-corner", "the crop is cut from the upper left corner, not the middle", _crop(_corner)),
    ),
)
