"""The model's image has its colour channels in another order than the images of its training.

## What it looks at

Every image of a query is laid over the raw frame that it was made of, of every camera, and the colours of both are
compared in all six orders of the channels. Brightness is taken away first, and with it any tint, gain or normalisation;
what counts is where the picture is redder and where it is bluer than elsewhere. In pictures without colour nothing can
be seen, and nothing is said.

## Why it is bad

Nothing fails: the scene is complete, sharp and the right way up, and red things are blue. OpenCV reads, decodes and
draws in BGR, nearly everything else in RGB, so one `cvtColor` too many or too few does it. Policies tell objects apart
by colour: in a small OpenVLA-style policy BGR took 20 successes in 20 episodes to 0 in 4, while entropy and the mass
off the action ids stayed where they were.

## Evidence

`seen` is the order of the image's channels in terms of the raw frame's. `score` is the correlation of the colours in
that order, `as_is` that without exchanging anything, `runner_up` that of the next best order; `chroma` how much colour
there is, in levels.

## Fix

```python
frame = frame[..., ::-1]  # once, where the frame comes from OpenCV, or not at all
```

Simulators and PIL give RGB. `cv2.imread`, `cv2.VideoCapture` and `cv2.imdecode` give BGR.

## Known gaps

If the channels were exchanged before the frame was recorded, in the camera's driver or a wrapper below the taps, frame
and image agree, and the raw frame is taken for RGB. Grey scenes cannot be judged.

## References

- XPolicyLab/XPolicyLab#53: wrong channel order in one policy's adapter.
- pollen-robotics/pollen-vision#155: perception in BGR, blue objects found as orange ones.
- RGB in training and evaluation: openvla/openvla@c8f03f4 experiments/robot/openvla_utils.py:127-169.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from vladoctor.check import Abstention, Check, Clear, Fault, Problem, Severity, Stage, Verdict
from vladoctor.facts.colours import ColourOrder, colour_orders
from vladoctor.lint.judging import last_place

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.lint.facts import SourceFacts
    from vladoctor.loop import Loop

THRESHOLDS = {
    # Measured on 120 frames of LIBERO (6 tasks, both cameras, stand-in assets), as they are, in BGR, tinted by 20 %,
    # normalised twice, at a third of the brightness and with a tenth of the colour; thumbnails.
    #
    # Colour under which nothing is said, in levels. 5.6 for agentview, 0.1 to 17 for the wrist camera, 0.0 in grey.
    "min_chroma": 1.0,
    # Correlation from which colours agree, and lead over the next best order. Right orders: 0.95 and 0.4 for agentview.
    "min_score": 0.8,
    "min_margin": 0.2,
    # Correlation without exchanging anything above which nobody is accused. BGR: -0.6 and less for agentview.
    "max_as_is": 0.5,
    # Share of the decided images of a camera that have to be wrong. Not a measurement.
    "min_share": 0.1,
}


def judge(facts: Facts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Compare the order of the channels in every slot with the profile's."""
    expected = facts.profile.get("image.channel_order")
    if expected not in ("RGB", "BGR"):
        yield Abstention(f"profile {facts.profile.name} names no order of the channels")
        return
    found = colour_orders(facts)
    if not found:
        yield Abstention("no image of a query could be laid over a raw frame")
        return
    for slot in dict.fromkeys(one.slot for one in found):
        yield _slot([one for one in found if one.slot == slot], expected, limits)


def _slot(found: Sequence[ColourOrder], expected: str, limits: Mapping[str, float]) -> Verdict:
    decided = [
        one
        for one in found
        if one.chroma >= limits["min_chroma"]
        and one.score >= limits["min_score"]
        and one.margin >= limits["min_margin"]
    ]
    name = f"the image of {found[0].camera}" if found[0].slot else "the model's image"
    if not decided:
        return Abstention(f"{name} has too little colour to tell the order of its channels")
    as_is = 1.0 if expected == "BGR" else limits["max_as_is"]
    wrong = [one for one in decided if one.order != expected and one.as_is <= as_is]
    if len(wrong) < max(limits["min_share"] * len(decided), min(2, len(decided))):
        return Clear(
            f"{name} has its channels in the order {expected} ({len(decided)} queries looked at)",
            {
                "lowest_score": round(min(one.score for one in decided), 3),
                "least_margin": round(min(one.margin for one in decided), 3),
                "least_chroma": round(min(one.chroma for one in decided), 2),
            },
        )
    order = Counter(one.order for one in wrong).most_common(1)[0][0]
    first = next(one for one in wrong if one.order == order)
    when = "" if len(wrong) == len(decided) else f"in {len(wrong)} of {len(decided)} queries that were looked at, "
    slot = f" (slot {first.slot})" if first.slot else ""
    message = (
        f"{when}the channels of {name}{slot} come as {order}; this checkpoint was trained on {expected}, so "
        f"{'red and blue are exchanged' if {order, expected} == {'RGB', 'BGR'} else 'colours are exchanged'} for it."
    )
    return Problem(
        message=f"{message[0].upper()}{message[1:]}",
        remedy="Leave the channels as the environment gives them, or exchange them once where a frame comes from "
        "OpenCV:\n"
        "```python\nframe = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)  # only for frames read or decoded by cv2\n```",
        severity=Severity.STOP,
        first_step=wrong[0].step,
        last_step=wrong[-1].step,
        evidence={
            "expected": expected,
            "seen": order,
            "camera": first.camera,
            "wrong_queries": f"{len(wrong)} of {len(decided)} that could be decided",
            "score": round(first.score, 3),
            "as_is": round(first.as_is, 3),
            "runner_up": round(first.runner_up, 3),
            "chroma": round(first.chroma, 2),
        },
        frames=(
            {"title": f"raw {first.camera} frame", "step": first.step, "camera": first.camera},
            {"title": "what the model was given", "step": first.step, "model": True},
        ),
    )


def _exchange(loop: Loop) -> None:
    """A frame that is RGB already goes through cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), as for cv2.imwrite."""
    orient = loop.stages.orient
    loop.stages.orient = lambda frame: np.ascontiguousarray(orient(frame)[..., ::-1])


def _decoded_by_opencv(loop: Loop) -> None:
    """Frames go to the policy's server as JPEG; cv2.imdecode gives BGR, and nobody turns it round."""
    resize = loop.stages.resize
    loop.stages.resize = lambda frame: np.ascontiguousarray(resize(frame)[..., ::-1])


def judge_source(facts: SourceFacts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Compare the order of the channels that reach the model with the profile's."""
    expected = facts.profile.get("image.channel_order") or ("RGB" if facts.family else None)
    judged = False
    for slot in facts.images:
        if expected is None or not slot.way.known or any(one.value.channels is None for one in slot.way.seen):
            continue
        judged = True
        wrong = slot.way.wrong(lambda way: way.channels != expected)
        if wrong is None:
            yield Clear(f"{slot.name}: {expected}")
            continue
        swaps = wrong.value.swaps
        yield Problem(
            message=f"The model's image ({slot.name}) is {wrong.value.channels}; this checkpoint was trained on "
            f"{expected}.",
            remedy="Take the exchange of channels out."
            if swaps
            else "OpenCV's pictures are BGR: `cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)`.",
            severity=Severity.STOP,
            evidence={"expected": expected, "seen": wrong.value.channels},
            place=swaps[-1].place if swaps else last_place(wrong.trail, wrong.place),
            trail=wrong.trail,
        )
    if not judged:
        yield Abstention("the order of the channels was not followed")


CHECK = Check(
    code="VD203",
    name="channel-order",
    stage=Stage.IMAGE,
    judge=judge,
    judge_source=judge_source,
    thresholds=THRESHOLDS,
    explained_by=("VD101", "VD103", "VD104", "VD105"),
    faults=(
        Fault(
            "bgr", "the loop converts frames to BGR, as for OpenCV", _exchange, reports=("XPolicyLab/XPolicyLab#53",)
        ),
        Fault(
            "bgr-decoded",
            "frames travel as JPEG and are decoded by OpenCV, which gives BGR",
            _decoded_by_opencv,
            reports=("pollen-robotics/pollen-vision#155",),
        ),
    ),
)
