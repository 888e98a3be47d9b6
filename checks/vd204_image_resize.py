"""The frame was rendered or resized otherwise than for training: its shape, its resolution, its filter, its JPEG.

## What it looks at

- **Shape.** Registration gives the window that the model's image shows, in both directions. Pixels that are not square
  on the raw frame mean that it was squashed or stretched; a window larger than the frame means padding.
- **Resolution.** The size at which the environment rendered, against the profile, and against the model's image: what
  is smaller than that was enlarged. The size of the model's image, against the checkpoint's.
- **Detail, filter and JPEG.** At the first query, of which the full frames are kept, the model's image is computed
  anew from the raw frame in some 30 ways (OpenVLA's: through JPEG, Lanczos, crop) and compared: which way gives the
  very image? Where none does, only a lack of fine detail is reported.

## Why it is bad

Nothing fails, as resizing never does. A squashed frame makes everything narrower than it was in training; an enlarged
one is blurred, and the gripper's fingers, a pixel or two wide, are gone. LIBERO renders 128 x 128 unless told
otherwise, and OpenVLA's input is 224. A filter or a missing JPEG changes values by one to two levels only (nearest
neighbour by 4 to 6): that may be harmless, or cost a few percent, and is a *look*.

## Evidence

`raw_size`, `image_size` in pixels, height first. `pixel_aspect` is how many of the raw frame's pixels one pixel of the
image is wide, over how many it is high: 1 is undistorted. `detail` is the image's fine detail over that of what was
expected. `error_expected` and `error_seen` are the root mean square differences, in levels, of the image from what the
expected and the named way make of the raw frame.

## Fix

```python
env = OffScreenRenderEnv(**args, camera_heights=256, camera_widths=256)  # LIBERO's default is 128
```

and what training did, once: for OpenVLA's LIBERO fine-tunes a round trip through JPEG and an antialiased Lanczos
resize. A camera that is not square is cut or padded to a square, as the training data were; never squeezed unless they
were.

## Known gaps

Filter and JPEG need the full frames and a profile that names them, and are not looked at in padded images, or of
further cameras. JPEG cannot be told where something unknown was done besides. Frames that came blurred or compressed
out of the environment are taken as they are. Where the crop is made, before or after resizing, is not held against
anybody.

## References

- OpenDriveLab/UniVLA#21: an image of 480 x 640 is accepted silently; preprocessing has to be that of training.
- openvla/openvla#201: two official ways to the model, of which one does not resize as training did.
- pytorch/rl#3995: order of operations changed, bicubic for Lanczos, no JPEG.
- huggingface/transformers#27601, #46496, #47233: filters that differ between libraries and versions.
- ZhangYuanhan-AI/NOAH#28: JPEG on small images costs a classifier 20 points.
- What the official evaluation does: openvla/openvla@c8f03f4 experiments/robot/libero/libero_utils.py:33-60.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from vladoctor.check import Abstention, Check, Clear, Fault, Problem, Severity, Stage, Verdict
from vladoctor.facts.following import Match, matches
from vladoctor.facts.resampling import Reproduction, expected_ways, reproduction

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.lint.facts import SourceFacts
    from vladoctor.loop import Loop

THRESHOLDS = {
    # Distortion from which pixels are not square. Both sides of a window are known to 0.5 % (see VD202).
    "min_distortion": 0.04,
    # Window, as a multiple of the frame, above which an image is padded.
    "padded": 1.03,
    # Share of the model's pixels that the raw frame may have less, along a side, before it counts as enlarged.
    "min_pixels": 0.95,
    # Error of the expected way, in levels, up to which it is right. 0.27 for itself, 0.8 for bicubic in Lanczos's
    # place; 1.1 to 1.8 without JPEG, 1.2 and more for all other filters. What facts/resampling says it was measured on.
    "harmless_error": 1.0,
    # Error of another way, as a share of that, from which it is named. 0.26 levels for the right one.
    "named_share": 0.5,
    # Fine detail under which the image was enlarged. 0.75 for a bilinear filter, 0.50 to 0.65 and less for an
    # intermediate picture of half as many pixels a side.
    "least_detail": 0.7,
}

Sizes = tuple[int, int]


def judge(facts: Facts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Shape, then resolution, then detail, filter and JPEG: the first that is wrong."""
    decided = [match for match in matches(facts) if match.registration.decisive]
    found = [match for match in decided if match.measured]
    if decided and not found:
        yield Abstention(
            "the model's image fits the raw frame too badly for its window to be known: something is drawn over it, or "
            "it is of another moment"
        )
        return
    if not found:
        seen = any(query.image is not None for _, query in facts.episode.queries())
        if seen and any(step.frames for step in facts.episode.steps):
            yield Abstention("the model's image cannot be laid over the raw frame with certainty")
        else:
            yield Abstention(
                "the model's image and the raw frame of the same step were not both recorded", missing=True
            )
        return
    stage = next(
        (query.options.get("image_stage") for step, query in facts.episode.queries() if step == found[0].step), None
    )
    if stage:
        yield Abstention(f"the image was seen {stage}, and not as the model was given it")
        return
    raw, image = _sizes(facts, found[0])
    size = _size(facts)
    for problem in (_shape(facts, found, raw, image, limits), _resolution(facts, found[0], raw, image, size, limits)):
        if problem is not None:
            yield problem
            return
    yield from _way(facts, found[0], raw, image, limits)


def _sizes(facts: Facts, match: Match) -> tuple[Sizes, Sizes]:
    """Height and width in pixels of the raw frame as it lies under the image, and of the image."""
    step = next(step for step in facts.episode.steps if step.number == match.step)
    assert step.query is not None
    assert step.query.image is not None
    height, width = step.frames[match.camera].shape
    turned = match.registration.element in ("rot90", "rot270", "transpose", "anti-transpose")
    return ((width, height) if turned else (height, width)), step.query.image.shape


def _size(facts: Facts) -> Sizes | None:
    """Size of the image that the checkpoint asks for: by the profile, else by its own configuration."""
    stated = facts.profile.get("image.size")
    if stated and len(stated) == 2:
        return int(stated[0]), int(stated[1])
    own = facts.episode.run.get("checkpoint", {}).get("image_size")
    return (int(own), int(own)) if isinstance(own, int) else None


def _shape(facts: Facts, found: list[Match], raw: Sizes, image: Sizes, limits: Mapping[str, float]) -> Problem | None:
    """A frame that was squashed, stretched or padded although it was not in training."""
    profile, match = facts.profile, found[0]
    pad, rendered = profile.get("image.pad"), profile.get("image.environment_resolution")
    vertical, horizontal = (median(one.registration.scales[axis] for one in found) for axis in (0, 1))
    aspect = (horizontal * raw[1] / image[1]) / (vertical * raw[0] / image[0])
    padded = max(vertical, horizontal) > limits["padded"]
    evidence: dict[str, Any] = {"pixel_aspect": round(aspect, 3), "raw_size": list(raw), "image_size": list(image)}
    if pad in ("centre", "left-top"):
        expected = 1.0
    elif rendered and pad in (None, "none"):
        # A frame of training's own shape comes out as training's did; a number of the profile's, so not turned.
        expected = (rendered[1] / rendered[0]) / (image[1] / image[0])
    else:
        return None
    distorted = abs(np.log(aspect / expected)) > np.log1p(limits["min_distortion"])
    shape = f"{raw[0]} x {raw[1]}"
    if distorted:
        evidence |= {"expected": f"pixel aspect {expected:.2f}", "seen": f"pixel aspect {aspect:.2f}"}
        ratio = aspect / expected
        effect = f"{100 * (1 - 1 / ratio):.0f} % narrower" if ratio > 1 else f"{100 * (1 / ratio - 1):.0f} % wider"
        if pad in ("centre", "left-top"):
            wanted, remedy = "pads frames to the model's shape", _PAD
        else:
            wanted = f"renders {rendered[0]} x {rendered[1]}" if rendered else "does not"
            remedy = (
                f"Render at {rendered[0]} x {rendered[1]} as for training:\n```python\nenv = "
                f"OffScreenRenderEnv(**args, "
                f"camera_heights={rendered[0]}, camera_widths={rendered[1]})\n```\nor, with a camera of another "
                f"shape, cut "
                "its middle out before resizing."
            )
        return _problem(
            match,
            f"The {match.camera} frame of {shape} pixels (height x width) was squeezed into the model's {image[0]} x "
            f"{image[1]}; this checkpoint's training {wanted}, so everything looks {effect} than it did there.",
            remedy,
            Severity.FIX,
            evidence,
        )
    if padded and pad == "none":
        evidence |= {"expected": "no padding", "seen": f"window {vertical:.2f} x {horizontal:.2f} of the frame"}
        return _problem(
            match,
            f"The model's image has padding around the {match.camera} frame, which covers only {100 / vertical:.0f} % "
            f"x "
            f"{100 / horizontal:.0f} % of it; this checkpoint's training did not pad.",
            "Resize the frame to the model's size without padding, as training did.",
            Severity.FIX,
            evidence,
        )
    return None


_PAD = (
    "Resize both sides by the same factor and pad what is left with black, as training did: `resize_with_pad` in "
    "openpi "
    "and LeRobot."
)


def _resolution(
    facts: Facts, match: Match, raw: Sizes, image: Sizes, size: Sizes | None, limits: Mapping[str, float]
) -> Problem | None:
    """A frame that was enlarged, or a model's image of another size than the checkpoint's."""
    evidence: dict[str, Any] = {"raw_size": list(raw), "image_size": list(image)}
    if size is not None and tuple(image) != tuple(size):
        evidence |= {"expected": f"{size[0]} x {size[1]}", "seen": f"{image[0]} x {image[1]}"}
        return _problem(
            match,
            f"The model's image has {image[0]} x {image[1]} pixels; this checkpoint was trained on {size[0]} x "
            f"{size[1]}, "
            "and a vision tower that takes other sizes interpolates its positions.",
            f"Resize frames to {size[0]} x {size[1]}.",
            Severity.FIX,
            evidence,
        )
    rendered = facts.profile.get("image.environment_resolution")
    if not rendered or tuple(rendered) == raw or tuple(rendered) == raw[::-1]:
        return None
    evidence |= {"expected": f"{rendered[0]} x {rendered[1]}", "seen": f"{raw[0]} x {raw[1]}"}
    enlarged = min(raw[0] / image[0], raw[1] / image[1]) < limits["min_pixels"]
    if enlarged and min(raw) < min(rendered):
        said = (
            f"enlarged to the model's {image[0]} x {image[1]}: what the camera did not see cannot come back, and the "
            f"image "
            "is blurred compared with training"
        )
    elif min(raw) >= min(rendered):
        return None
    else:
        said = "which is enough for the model's image, but not what its training images were made of"
    return _problem(
        match,
        f"The {match.camera} camera renders {raw[0]} x {raw[1]} pixels, {said}, which rendered {rendered[0]} x "
        f"{rendered[1]}."
        if enlarged
        else f"The {match.camera} camera renders {raw[0]} x {raw[1]} pixels, {said} ({rendered[0]} x {rendered[1]}).",
        f"Say the size when the environment is made:\n```python\nenv = OffScreenRenderEnv(**args, camera_heights="
        f"{rendered[0]}, camera_widths={rendered[1]})\n```",
        Severity.FIX if enlarged else Severity.LOOK,
        evidence,
    )


def _way(facts: Facts, match: Match, raw: Sizes, image: Sizes, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Detail, filter and JPEG."""
    profile = facts.profile
    sizes = {"raw_size": list(raw), "image_size": list(image)}
    resize, jpeg = profile.get("image.resize"), profile.get("image.jpeg_round_trip")
    expected = expected_ways(resize, jpeg)
    if not expected:
        if profile.get("image.environment_resolution") or profile.get("image.pad"):
            yield Clear(f"the {match.camera} frame is neither squashed nor enlarged nor padded", sizes)
        yield Abstention(f"profile {profile.name} names neither filter nor JPEG")
        return
    area = profile.get("image.center_crop_area")
    found = reproduction(facts, expected, float(np.sqrt(area)) if area else None, limits["harmless_error"])
    if found is None:
        yield Clear(f"the {match.camera} frame is neither squashed nor enlarged", sizes)
        yield Abstention("full frames that could tell filter and JPEG were not recorded, or the image is padded")
        return
    numbers = {**sizes, **_numbers(found)}
    if found.expected_error <= limits["harmless_error"]:
        yield Clear(
            f"the {match.camera} frame {found.expected.described}, as in training, gives the model's image to "
            f"{found.expected_error:.2f} levels",
            numbers,
        )
        return
    named = found.error <= limits["named_share"] * found.expected_error
    if found.detail < limits["least_detail"]:
        yield _blurred(match, found, named, numbers)
    elif named:
        yield _other_way(match, found, numbers)
    else:
        yield Clear(f"the {match.camera} frame is neither squashed nor enlarged", sizes)
        yield Abstention(
            f"the model's image is made of the raw frame in no known way ({found.expected_error:.1f} levels from the "
            "expected one), so filter and JPEG cannot be told"
        )


def _numbers(found: Reproduction) -> dict[str, float]:
    return {
        "detail": round(found.detail, 3),
        "error_expected": round(found.expected_error, 2),
        "error_seen": round(found.error, 2),
    }


def _blurred(match: Match, found: Reproduction, named: bool, numbers: Mapping[str, Any]) -> Problem:
    how = f": it is the frame {found.best.described}" if named else ""
    return _problem(
        match,
        f"The model's image has {100 * found.detail:.0f} % of the fine detail that the {match.camera} frame would "
        f"give it"
        f"{how}. A smaller picture stood in between.",
        "Give the frame itself to the one resize that training had; look for wrappers, video writers or a transport "
        "that "
        "shrink frames on the way.",
        Severity.FIX,
        {"expected": found.expected.described, "seen": found.best.described if named else "blurred", **numbers},
    )


def _other_way(match: Match, found: Reproduction, numbers: Mapping[str, Any]) -> Problem:
    best, wanted = found.best, found.expected
    if best.filter == wanted.filter:
        what = "did not go through JPEG" if wanted.jpeg else "went through JPEG"
        remedy = (
            "Encode the frame as JPEG (quality 95) and decode it again before it is resized, as the training data were "
            "stored:\n```python\nbuffer = io.BytesIO()\nImage.fromarray(frame).save(buffer, 'JPEG', quality=95)\n"
            "frame = np.asarray(Image.open(buffer))\n```"
            if wanted.jpeg
            else "Take the JPEG round trip out."
        )
    else:
        what = f"went {best.described}"
        remedy = (
            f"Resize as training did ({wanted.described}):\n```python\nframe = "
            f"np.asarray(Image.fromarray(frame).resize((size"
            f", size), Image.Resampling.{_CONSTANTS.get(wanted.filter, 'LANCZOS')}))\n```"
        )
    return _problem(
        match,
        f"On its way to the model the {match.camera} frame {what}, where training had {wanted.described}; the image is "
        f"{found.expected_error:.1f} levels (root mean square) from what it would be then. That may be harmless.",
        remedy,
        Severity.LOOK,
        {"expected": wanted.described, "seen": best.described, **numbers},
    )


_CONSTANTS = {"lanczos3": "LANCZOS", "bicubic": "BICUBIC", "bilinear": "BILINEAR", "area": "BOX"}


def _problem(match: Match, message: str, remedy: str, severity: Severity, evidence: Mapping[str, Any]) -> Problem:
    return Problem(
        message=message,
        remedy=remedy,
        severity=severity,
        first_step=match.step,
        evidence=evidence,
        frames=(
            {"title": f"raw {match.camera} frame", "step": match.step, "camera": match.camera},
            {"title": "what the model was given", "step": match.step, "model": True},
        ),
    )


def _render(loop: Loop, height: int, width: int) -> None:
    """What `camera_heights` and `camera_widths` are, robosuite reads when it is reset."""
    inner = loop.env.env
    inner.camera_heights = [height] * len(inner.camera_names)
    inner.camera_widths = [width] * len(inner.camera_names)


def _wide(loop: Loop) -> None:
    _render(loop, 240, 320)


def _small_frames(loop: Loop) -> None:
    """Half as many pixels a side as the model takes, as LIBERO's default of 128 is for OpenVLA's 224."""
    side = loop.policy.image_size // 2
    _render(loop, side, side)


def _small_transport(loop: Loop) -> None:
    """A wrapper shrinks frames for its buffer or its socket, and the policy's side enlarges them again."""
    from PIL import Image

    orient, side = loop.stages.orient, loop.policy.image_size // 2

    def shrunk(frame: np.ndarray) -> np.ndarray:
        picture = Image.fromarray(np.ascontiguousarray(orient(frame)))
        return np.asarray(picture.resize((side, side), Image.Resampling.BOX))

    loop.stages.orient = shrunk


def _nearest(loop: Loop) -> None:
    """`frame[::2, ::2]`, or cv2.resize with INTER_NEAREST."""
    from PIL import Image

    from vladoctor.adapters.image import jpeg_round_trip

    side = loop.policy.image_size
    loop.stages.resize = lambda frame: np.asarray(
        Image.fromarray(jpeg_round_trip(frame)).resize((side, side), Image.Resampling.NEAREST)
    )


def _no_jpeg(loop: Loop) -> None:
    from vladoctor.adapters.image import resize_lanczos3

    side = loop.policy.image_size
    loop.stages.resize = lambda frame: resize_lanczos3(np.ascontiguousarray(frame), side)


def judge_source(facts: SourceFacts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Compare the filter of the first resize, and the size at which the environment renders, with the profile's."""
    wanted, rendered = facts.profile.get("image.resize"), facts.profile.get("image.environment_resolution")
    slot = next((slot for slot in facts.images if slot.way.known), None)
    if slot is None or (wanted is None and rendered is None):
        yield Abstention("the resize of the frame, or what it should be, is not known")
        return
    way = slot.way.seen[0].value
    first = way.resizes[0] if way.resizes else None
    if wanted and first is not None and first.filter and first.filter != wanted:
        yield Problem(
            message=f"The frame is resized with {first.filter}; the training data were resized with {wanted}.",
            remedy=f"Resize with {wanted}.",
            severity=Severity.LOOK,
            evidence={"expected": wanted, "seen": first.filter},
            place=first.place,
            trail=slot.way.trail,
        )
    elif rendered and way.rendered and list(way.rendered) != list(rendered):
        yield Problem(
            message=f"The environment renders at {way.rendered[0]}x{way.rendered[1]}; the training data were rendered "
            f"at {rendered[0]}x{rendered[1]} and resized.",
            remedy=f"Make the environment with camera_heights={rendered[0]}, camera_widths={rendered[1]}.",
            severity=Severity.LOOK,
            evidence={
                "expected": f"{rendered[0]} x {rendered[1]}",
                "seen": f"{way.rendered[0]} x {way.rendered[1]}",
            },
            place=facts.rendered_at.place or slot.way.place,
            trail=slot.way.trail,
        )
    else:
        yield Abstention("nothing of the resize contradicts the training")


CHECK = Check(
    code="VD204",
    name="image-resize",
    stage=Stage.IMAGE,
    judge=judge,
    judge_source=judge_source,
    thresholds=THRESHOLDS,
    explained_by=("VD101", "VD103", "VD104", "VD105", "VD202"),
    faults=(
        Fault(
            "squash",
            "the camera is 4:3, and the loop squeezes it to a square",
            _wide,
            reports=("OpenDriveLab/UniVLA#21",),
        ),
        Fault("low-resolution", "the environment renders half as many pixels as the model takes", _small_frames),
        Fault("low-resolution-transport", "a wrapper shrinks frames, and they are enlarged again", _small_transport),
        Fault("nearest-resize", "frames are resized without a filter, by dropping pixels", _nearest),
        Fault(
            "no-jpeg", "the JPEG round trip of the training data is left out", _no_jpeg, reports=("pytorch/rl#3995",)
        ),
    ),
)
