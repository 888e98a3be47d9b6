"""The model's image lies another way on the camera's frame than the images of its training did.

## What it looks at

The image that the model was given is registered to the raw frame that it was made of, at every query: which of the
eight ways to turn and mirror a rectangle was applied, whatever was cropped, resized, compressed or recoloured besides.
The frame is looked for among all cameras, in the query's own step first. The profile says which way the checkpoint was
trained on, relative to the frame as the environment is shipped.

In simulation a second question is asked: is the raw frame itself what it usually is? LIBERO's comes upside down, rows
from the bottom up as OpenGL stores them. Where the frames change follows the gripper, whose place in the picture the
simulator's camera tells; if that shows that the raw frames come another way up, the two are taken together: what counts
is how the model's image lies on the *true view*.

## Why it is bad

Nothing fails: a mirrored scene is as good a picture as any. `[::-1]` alone makes LIBERO's frames upright, looks right
to everybody, and is wrong for OpenVLA's LIBERO fine-tunes, which were trained on a rotation by 180 degrees: left and
right are exchanged for them. In a small OpenVLA-style policy that took 20 successes in 20 episodes to 0 in 10, and so
did the frame without any rotation.

| on LIBERO's raw frame | numpy | seen by somebody who looks at it |
|---|---|---|
| rot180 | `frame[::-1, ::-1]` | upright, left and right exchanged: what OpenVLA, OFT and openpi were trained on |
| flip-vertical | `frame[::-1]` | upright, as the scene is |
| identity | `frame` | mirrored top to bottom |

## Evidence

`seen` and `expected` are elements relative to the raw frame. `score` is the normalised cross-correlation of local
contrast between image and frame under `seen`, `runner_up_score` that of the next best element; `crop_scale` is the side
of the crop. `raw_view` is what carries the true view to the raw frame, with the mean log-likelihood ratio (nats) of the
changes under it and under the next best. The finding shows the raw frame, the model's image and what it should have
been.

## Fix

Do to the raw frame what was done to the training data, once, and nothing else:

```python
frame = obs["agentview_image"][::-1, ::-1]  # OpenVLA, OFT, openpi on LIBERO
```

Look for a second rotation in wrappers and processors: two of them undo each other. Leave
`robosuite.macros.IMAGE_CONVENTION` at "opengl", or take the change into account here.

## Known gaps

Nothing is said where the picture cannot tell (it is symmetric, or shows too little), where the profile names no
orientation, or where the image fits no recorded frame (VD103 says nothing then either). The question about the raw
frame needs the camera's geometry and a gripper that moves across the picture; without an answer the raw frame is taken
to be what it usually is. Only rotations by multiples of 90 degrees and mirrorings are told apart, and only the first
image of a query is looked at.

## References

- openvla/openvla#295: why LIBERO images are rotated by 180 degrees; point clouds fit the vertical flip only.
- Ke-Wang1017/openpi_subtask#3: trained on rotated images, evaluated on unrotated ones; fails across the board.
- huggingface/lerobot#3882, #3830: a "fix" to a horizontal flip that would have broken every checkpoint.
- ARISE-Initiative/robomimic#305, #203: two components flip; `IMAGE_CONVENTION = "opencv"` turns frames upside down.
- strands-labs/robots#168: the rotation was lost in a re-implementation, success rate 0.
- openvla/openvla#220: raw, vertically flipped frames given to the model.
- What training did: openvla/openvla@c8f03f4 experiments/robot/libero/libero_utils.py:56.
- ARISE-Initiative/robomimic#203: the macro IMAGE_CONVENTION has no effect, because frames are flipped all the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vladoctor.check import Abstention, Check, Clear, Fault, Problem, Severity, Stage, Verdict
from vladoctor.facts.camera import RawView, raw_view, usual_view
from vladoctor.facts.following import IMAGE
from vladoctor.facts.links import ImageLink, image_links
from vladoctor.facts.registration import (
    CONSEQUENCES,
    DESCRIPTIONS,
    IDIOMS,
    MIN_CONTRAST,
    MIN_MARGIN,
    MIN_SCORE,
    Registration,
    apply,
    between,
    compose,
)
from vladoctor.lint.judging import camera_of, last_place, replaced, wanted_element
from vladoctor.places import Fix, Hop

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.lint.facts import SourceFacts
    from vladoctor.loop import Loop

THRESHOLDS = {
    # When an element counts as decided; what these were measured on stands with the constants.
    "min_score": MIN_SCORE,
    "min_margin": MIN_MARGIN,
    "min_contrast": MIN_CONTRAST,
    # Share of decided queries that have to be wrong, so that a stray registration accuses nobody. In 10,000 pairs none
    # was wrong and decided.
    "min_share": 0.02,
    # Share from which the episode means nothing; a sporadic flip only costs success. Not a measurement.
    "stop_share": 0.1,
}


UPRIGHT = {**CONSEQUENCES, "identity": "upright and not mirrored"}
"""Element that carries the true view to the raw frame -> how the scene lies in it."""


def judge(facts: Facts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Compare the orientation of every query's image with the profile's."""
    expected = facts.profile.get("image.orientation")
    if expected is None:
        yield Abstention(f"profile {facts.profile.name} names no orientation of the image")
        return
    links = [link for link in image_links(facts) if link.slot == IMAGE]
    found = [link.registration for link in links if link.registration is not None]
    if not found:
        yield Abstention("the model's image and the raw frames before it were not both recorded", missing=True)
        return
    floor = limits["min_score"], limits["min_margin"], limits["min_contrast"]
    decided = [link for link in links if link.found and link.lies.decides(*floor)]
    if not decided:
        yield Abstention(_why_undecided(found, limits))
        return
    needed = {camera: needed_element(facts, camera, expected) for camera in {link.camera for link in decided}}
    wrong = [link for link in decided if link.lies.element != needed[link.camera]]
    if len(wrong) >= max(limits["min_share"] * len(decided), min(2, len(decided))):
        yield _problem(facts, wrong, decided, expected, limits)
    else:
        yield _clear(facts, decided, expected)


def needed_element(facts: Facts, camera: str, expected: str) -> str:
    """What has to be done to the raw frames, as they come in this episode, to give the model what it expects.

    That is the profile's element, unless the frames are known to come another way up than usual.
    """
    usual = usual_view(facts)
    view = raw_view(facts, camera)
    return between(view.element, compose(usual, expected)) if usual and view.decisive else expected


def _problem(
    facts: Facts, wrong: Sequence[ImageLink], decided: Sequence[ImageLink], expected: str, limits: Mapping[str, float]
) -> Problem:
    (seen, camera), _ = Counter((match.lies.element, match.camera) for match in wrong).most_common(1)[0]
    first = next(match for match in wrong if (match.lies.element, match.camera) == (seen, camera))
    needed, view = needed_element(facts, camera, expected), raw_view(facts, camera)
    # Right for frames as they usually come: then it is the frames that are wrong.
    upstream = needed != expected and seen == expected
    message = _when(wrong, decided) + _what(seen, needed, expected, camera, view)
    return Problem(
        message=f"{message[0].upper()}{message[1:]}, so compared with its training the scene is "
        f"{CONSEQUENCES[between(needed, seen)]}.",
        remedy=_remedy(seen, needed, expected, camera, len(wrong) < len(decided)),
        severity=Severity.STOP if len(wrong) >= limits["stop_share"] * len(decided) else Severity.FIX,
        first_step=wrong[0].step,
        last_step=wrong[-1].step,
        evidence={
            "expected": needed,
            "seen": seen,
            "wrong_queries": f"{len(wrong)} of {len(decided)} that could be decided",
            "trained_on": f"{expected} ({facts.profile.source('image.orientation')})",
            **_numbers(first, view),
        },
        frames=(
            {"title": f"raw {camera} frame", "step": first.last, "camera": camera},
            {"title": "what the model was given", "step": first.step, "model": True},
            {"title": "what it should have seen", "step": first.last, "camera": camera, "transform": needed},
        ),
        stage=Stage.OBSERVE if upstream else Stage.IMAGE,
    )


def _when(wrong: Sequence[ImageLink], decided: Sequence[ImageLink]) -> str:
    if len(wrong) == len(decided):
        return ""
    first = decided.index(wrong[0])
    if list(decided[first:]) == list(wrong):
        return f"From step {wrong[0].step} on: "
    return f"In {len(wrong)} of {len(decided)} queries, the first at step {wrong[0].step}: "


def _what(seen: str, needed: str, expected: str, camera: str, view: RawView) -> str:
    if needed != expected and seen == expected:
        return (
            f"the raw {camera} frames come {UPRIGHT[view.element]}, which is not how the environment is shipped, and "
            f"{DESCRIPTIONS[seen]} is applied as if they came as usual"
        )
    only = " only" if expected == "rot180" and seen in ("flip-vertical", "flip-horizontal") else ""
    image = f"the raw {camera} frame" + (" as it is" if seen == "identity" else f" after {DESCRIPTIONS[seen]}{only}")
    if needed != expected:
        wanted = f"as raw frames come {UPRIGHT[view.element]} here, this checkpoint needs {DESCRIPTIONS[needed]}"
    else:
        wanted = f"this checkpoint was trained on {DESCRIPTIONS[expected]}"
    return f"the model's image is {image}; {wanted}"


def _remedy(seen: str, needed: str, expected: str, camera: str, sometimes: bool) -> str:
    code = IDIOMS[needed].replace("frame", f'obs["{camera}_image"]')
    remedy = (
        f"Do this to the frame that the environment returns, once, and nothing else:\n```python\nframe = {code}\n```"
    )
    if needed != expected and seen == expected:
        return (
            'Leave `robosuite.macros.IMAGE_CONVENTION` at "opengl" when the environment is made, or, if you want '
            f"frames that way up, change what the loop does to them:\n```python\nframe = {code}\n```"
        )
    if seen == "identity" and compose(needed, needed) == "identity":
        remedy += "\nIf the loop does that already, a wrapper or a processor does it too: the two undo each other."
    if sometimes:
        remedy += "\nAt other steps it is right: look for a second way to the model, or a random flip left on."
    return remedy


def _clear(facts: Facts, decided: Sequence[ImageLink], expected: str) -> Clear:
    camera, registration = decided[0].camera, decided[0].lies
    view = raw_view(facts, camera)
    done = "as it is" if registration.element == "identity" else f"after {DESCRIPTIONS[registration.element]}"
    note = "as in training" if registration.element == expected else "which the way the raw frames come calls for"
    return Clear(
        f"the model's image is the raw {camera} frame {done}, {note} ({len(decided)} queries decided)",
        {
            "lowest_score": round(min(match.lies.score for match in decided), 3),
            "least_margin": round(min(match.lies.margin for match in decided), 3),
            **_numbers(decided[0], view),
        },
    )


def _numbers(match: ImageLink, view: RawView) -> dict[str, Any]:
    found = match.lies
    return {
        "camera": match.camera,
        "score": round(found.score, 3),
        "runner_up": found.runner_up,
        "runner_up_score": round(found.runner_up_score, 3),
        "crop_scale": round(found.scale, 4),
        "raw_view": f"{view.element} ({view.score:.2f} nats, then {view.runner_up} {view.runner_up_score:.2f})"
        if view.decisive
        else f"not known: {view.reason}",
    }


def _why_undecided(found: Sequence[Registration], limits: Mapping[str, float]) -> str:
    best = max(found, key=lambda registration: registration.score)
    if best.contrast < limits["min_contrast"]:
        return "the pictures show too little to tell which way up they are"
    if best.score < limits["min_score"]:
        return f"the model's image fits no frame that was recorded (best correlation {best.score:.2f})"
    return f"the pictures look alike under {best.element} and {best.runner_up}"


def _orient(element: str) -> Callable[[Loop], None]:
    def apply_to(loop: Loop) -> None:
        loop.stages.orient = lambda frame: apply(element, frame)

    return apply_to


def _opencv_convention() -> Callable[[], None]:
    import robosuite.macros as macros

    before = macros.IMAGE_CONVENTION
    macros.IMAGE_CONVENTION = "opencv"

    def undo() -> None:
        macros.IMAGE_CONVENTION = before

    return undo


def judge_source(facts: SourceFacts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Compare what is done to each camera's frame on its way to the model with the profile's element."""
    judged = False
    for slot in facts.images:
        camera = camera_of(slot)
        expected = wanted_element(facts.profile, camera)
        if expected is None or (facts.environment == "libero" and not camera) or not slot.way.known:
            continue
        if any(one.value.element is None for one in slot.way.seen):
            continue
        judged = True
        wrong = slot.way.wrong(lambda way, expected=expected: way.element != expected)  # type: ignore[misc]
        if wrong is None and not slot.way.right(lambda way, expected=expected: way.element != expected):  # type: ignore[misc]
            yield Abstention(f"{slot.name}: right on some ways through the code, on others not")
            continue
        if wrong is None:
            yield Clear(f"{slot.name}: {expected} of the raw {camera or 'camera'} frame")
            continue
        seen, turns = str(wrong.value.element), wrong.value.turns
        done = "as it is" if seen == "identity" else f"after {DESCRIPTIONS[seen]}"
        yield Problem(
            message=f"The model's image is the raw {camera or 'camera'} frame {done}; this checkpoint was trained on "
            f"{DESCRIPTIONS[expected]}, so compared with its training the scene is "
            f"{CONSEQUENCES[between(expected, seen)]}.",
            remedy=_remedy(seen, expected, expected, camera or "camera", False),
            severity=Severity.STOP,
            evidence={"expected": expected, "seen": seen, "camera": camera},
            place=turns[-1].place if turns else last_place(wrong.trail, wrong.place),
            trail=wrong.trail,
            fix=_fix(expected, turns),
        )
    if not judged:
        yield Abstention(
            f"profile {facts.profile.name} names no orientation of the image"
            if facts.profile.get("image.orientation") is None
            else "the way of the picture from the environment to the model was not followed"
        )


def _fix(expected: str, turns: Sequence[Hop]) -> Fix | None:
    """Where a single slice flips the frame, or a single `cv2.flip`: the slice or the code that is wanted."""
    slices = {"rot180": "[::-1, ::-1]", "flip-vertical": "[::-1]", "flip-horizontal": "[:, ::-1]"}
    codes = {"rot180": "-1", "flip-vertical": "0", "flip-horizontal": "1"}
    if len(turns) != 1 or expected not in slices:
        return None
    if turns[0].label.startswith("cv2.flip") and turns[0].literal is not None:
        return replaced(turns[0].literal, codes[expected], f"turn the frame as in training: code {codes[expected]}")
    if not turns[0].label.startswith("[") or ":" not in turns[0].label:
        return None
    return replaced(turns[0].place, slices[expected], f"turn the frame as in training: {slices[expected]}")


CHECK = Check(
    code="VD201",
    name="image-orientation",
    stage=Stage.IMAGE,
    judge=judge,
    judge_source=judge_source,
    needs=(Stage.RENDER, Stage.IMAGE),
    thresholds=THRESHOLDS,
    faults=(
        Fault(
            "flip-vertical",
            "the loop flips frames vertically, `[::-1]`, and no more",
            _orient("flip-vertical"),
            reports=("openvla/openvla#295",),
        ),
        Fault(
            "flip-horizontal",
            "the loop mirrors frames, `[:, ::-1]`, and no more",
            _orient("flip-horizontal"),
            reports=("huggingface/lerobot#3882",),
        ),
        Fault(
            "no-rotation",
            "the model is given the raw frame as it is",
            _orient("identity"),
            reports=("Ke-Wang1017/openpi_subtask#3", "strands-labs/robots#168"),
        ),
        Fault("transpose", "the loop exchanges rows and columns", _orient("transpose")),
        Fault(
            "opencv-convention",
            'robosuite.macros.IMAGE_CONVENTION is "opencv": raw frames come upright, and the loop rotates them still',
            before_env=_opencv_convention,
            steps=110,
            reports=("ARISE-Initiative/robomimic#305", "ARISE-Initiative/robomimic#203"),
        ),
    ),
)
