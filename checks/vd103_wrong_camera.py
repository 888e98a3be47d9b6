"""The model is given another camera's frame than the one that it was trained on, or not all of them.

## What it looks at

Every image that the model was given is looked for on the frames of all recorded cameras, slot by slot: the camera is
the one whose frame it registers to, whatever anybody calls it. That is compared with the cameras that the checkpoint
was trained on, in their order; a slot whose name says that it is the wrist's (`wrist_image`) has to show a camera on
the robot. Seen are

* **another camera** in a slot, two cameras exchanged, one camera in two slots,
* **an empty slot**: zeros or one colour where a camera should be, while the camera's frames are fine,
* **a slot too few** or one too many.

A second question is whether the cameras are what they are called. When the robot moves, everything moves in a camera
that is mounted on it, and in a fixed one only the robot does. A name that says "hand" on frames of a fixed camera, or
the reverse, is an alias that went wrong; two cameras that deliver one picture are one camera.

## Why it is bad

Both pictures are healthy, of the right scene, of the right moment, and the policy answers with confidence. In a small
OpenVLA-style policy the wrist camera's frame in the place of agentview made the gripper open and close 27 times in 100
steps.

## Evidence

For each slot the camera that it shows, in how many queries, and the correlation. For names: the share of the picture
that changes while the gripper moves 3 cm (agentview in LIBERO 0.03 to 0.19, the wrist camera 0.24 to 0.37).

## Fix

Write the mapping from cameras to slots once, by name, and check it on one frame with your own eyes:

```python
observation = {
    "observation/image": obs["agentview_image"][::-1, ::-1],
    "observation/wrist_image": obs["robot0_eye_in_hand_image"][::-1, ::-1],
}
```

## Known gaps

An image that fits no recorded frame (a mosaic of several, a heavy augmentation, a camera that was not recorded) is left
alone. So are cameras whose names the profile does not know, and slots of which neither name nor order says what they
should show. Whether a camera stands where it should is VD104's; a camera that was moved a little is nobody's.

## References

- strands-labs/robots#168: `wrist_image` was a fixed fallback camera, not `robot0_eye_in_hand`; success rate 0.
- strands-labs/robots#818, #3496: a mapping of cameras ignored on one of two paths, or applied twice.
- allenai/vla-evaluation-harness#16: `num_images_in_input` 1 in the place of 2, the wrist image was missing.
- starVLA/starVLA#430: the evaluation sent one image, the training had two. starVLA/starVLA#320: the other way round.
- moojink/openvla-oft#141: a checkpoint with and without wrist images.
- openvla/openvla#220: `frontview` given to a model trained on another view.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vladoctor.check import Abstention, Check, Clear, Fault, Problem, Severity, Stage, Verdict
from vladoctor.facts.camera import raw_view
from vladoctor.facts.following import IMAGE
from vladoctor.facts.frames import camera_views, changes, on_robot, repeats
from vladoctor.facts.links import ImageLink, image_links, image_slots
from vladoctor.lint.judging import camera_of, last_place
from vladoctor.profiles import environment_profile, load_profile

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.lint.facts import SourceFacts
    from vladoctor.loop import Loop

THRESHOLDS = {
    # Share of a slot's linked images that have to show another camera, so that a stray registration accuses nobody. In
    # 255 recordings with one or two cameras none did.
    "min_share": 0.02,
    # Pairs of frames, a stride of the robot apart, from which names are looked at; and how many times more has to
    # change in the fixed camera than in the one on the robot to say that they are not. LIBERO: 0.2 to 0.6 times.
    "pairs": 3.0,
    "times": 1.25,
    # Mean log-likelihood ratio (nats) of a fixed camera's changes beside the gripper, below which it is not where the
    # simulator says. 0.7 to 2.5 for agentview where decided; below -0.5 for the wrist camera.
    "elsewhere": -0.3,
    # Spread of the values of an empty slot, in levels.
    "empty_std": 2.0,
}

WRIST = "robot0_eye_in_hand"


@dataclass(frozen=True)
class Shown:
    """What a slot showed over an episode.

    Attributes:
        slot: its name; "" for the query's own image.
        wanted: the camera that it should show; "" where nothing says so.
        links: those of its images that were found on a frame.
        images: how many there were.
        empty: how many of them are one colour all over.
        stated: whether the profile says so, and not only the slot's name.
    """

    slot: str
    wanted: str
    links: tuple[ImageLink, ...]
    images: int
    empty: int
    stated: bool

    @property
    def camera(self) -> str:
        """The camera that most of them are of; "" where none was found."""
        found = Counter(link.camera for link in self.links).most_common(1)
        return found[0][0] if found else ""

    @property
    def wrong(self) -> list[ImageLink]:
        return [link for link in self.links if self.wanted and link.camera != self.wanted]

    @property
    def title(self) -> str:
        return f"the image {self.slot}" if self.slot else "the model's image"


def judge(facts: Facts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Compare the camera of every slot with the profile's, and the cameras with their names."""
    misnamed = list(_names(facts, limits))
    yield from misnamed
    cameras = sorted({name for step in facts.episode.steps for name in step.frames})
    # What was sent to a server whose model was given other images is none of the model's slots (`facts.serving`).
    slots = [slot for slot in image_slots(facts.episode) if not slot.startswith("sent/")]
    if not cameras or not slots:
        if not misnamed:
            yield Abstention("the model's images and the raw frames before them were not both recorded", missing=True)
        return
    if misnamed:
        return
    expected = _expected(facts, cameras)
    shown = [_shown(facts, slot, expected, cameras, limits) for slot in slots]
    wrong = [one for one in shown if len(one.wrong) >= max(limits["min_share"] * len(one.links), min(2, one.images))]
    if wrong:
        yield _exchanged(facts, wrong, shown)
        return
    problems = [*_empty(facts, shown, expected), *_number(facts, shown, expected)]
    yield from problems
    if problems:
        return
    told = [one for one in shown if one.wanted and one.links]
    if told:
        yield _clear(told)
    else:
        yield Abstention(_why_not(facts, shown, expected, cameras))


def _expected(facts: Facts, cameras: Sequence[str]) -> list[str]:
    """The cameras that the profile names, in order; empty where it names none, or calls them otherwise."""
    wanted = [str(name) for name in facts.profile.get("image.cameras") or ()]
    if set(wanted) & set(cameras):
        return wanted
    suite = environment_profile(facts.episode.task.get("suite"))
    simulated = facts.episode.task.get("cameras") or {}
    ours = set(load_profile(suite).get("environment.cameras") or ()) if suite else set()
    return wanted if set(wanted) <= ours and set(cameras) <= set(simulated) else []


def _shown(
    facts: Facts, slot: str, expected: Sequence[str], cameras: Sequence[str], limits: Mapping[str, float]
) -> Shown:
    links = tuple(link for link in image_links(facts) if link.slot == slot)
    images = [
        image
        for _, query in facts.episode.queries()
        if (image := query.image if slot == IMAGE else query.more_images.get(slot)) is not None
    ]
    empty = sum(image.statistics.std <= limits["empty_std"] for image in images)
    wanted, stated = _wanted(slot, expected, cameras)
    return Shown(slot, wanted, tuple(link for link in links if link.found), len(images), empty, stated)


def _wanted(slot: str, expected: Sequence[str], cameras: Sequence[str]) -> tuple[str, bool]:
    """The camera that a slot should show, and whether the profile says so."""
    if slot == IMAGE:
        return (expected[0], True) if expected else ("", False)
    name = slot.rpartition("/")[2]
    if name in expected:
        return name, True
    if on_robot(name):
        known = [camera for camera in expected or cameras if on_robot(camera)]
        # Of several arms only one may have a camera, and the other slots are filled with zeros.
        return (known[0], bool(expected)) if len(known) == 1 and not name.startswith("right") else ("", False)
    number = name.removeprefix("image")
    if expected and number.isdigit() and 0 < int(number) < len(expected):
        return expected[int(number)], True
    return "", False


def _exchanged(facts: Facts, wrong: Sequence[Shown], shown: Sequence[Shown]) -> Problem:
    first = wrong[0]
    link = first.wrong[0]
    seen = Counter(each.camera for each in first.wrong).most_common(1)[0][0]
    parts = [
        f"{one.title} is the frame of {Counter(each.camera for each in one.wrong).most_common(1)[0][0]}"
        + (f" in {len(one.wrong)} of {len(one.links)} queries" if len(one.wrong) < len(one.links) else "")
        + (f" (it should be {one.wanted})" if len(wrong) > 1 else "")
        for one in wrong
    ]
    message = " and ".join(parts)
    why = (
        f"this checkpoint was trained on {' and '.join(facts.profile.get('image.cameras') or ())}"
        if first.stated
        else f"its name says that it is {first.wanted}'s"
    )
    twice = [one for one in shown if one not in wrong and one.camera == seen]
    also = f" The image {twice[0].slot or 'that comes first'} shows the same camera." if twice else ""
    return Problem(
        message=f"{message[0].upper()}{message[1:]}; {why}.{also}",
        remedy="Take the frame of the camera that the checkpoint was trained on, by its name:\n"
        f'```python\nframe = obs["{first.wanted}_image"]\n```\n'
        "If the names are right already, look for a wrapper or a mapping that renames cameras, and for one that is "
        "applied twice.",
        severity=Severity.STOP if first.stated else Severity.FIX,
        first_step=min(one.wrong[0].step for one in wrong),
        last_step=max(one.wrong[-1].step for one in wrong),
        evidence={
            "expected": first.wanted,
            "seen": seen,
            "slots": {one.slot or "image": one.camera or "not found" for one in shown},
            "wrong_queries": f"{len(first.wrong)} of {len(first.links)} that were found on a frame",
            "score": round(link.lies.score, 3),
            **({"trained_on": facts.profile.source("image.cameras")} if first.stated else {}),
        },
        frames=(
            {"title": "what the model was given", "step": link.step, "model": True},
            {"title": f"raw {link.camera} frame", "step": link.last, "camera": link.camera},
            {"title": f"raw {first.wanted} frame", "step": link.step, "camera": first.wanted},
        ),
        stage=Stage.OBSERVE,
    )


def _empty(facts: Facts, shown: Sequence[Shown], expected: Sequence[str]) -> Iterator[Problem]:
    """Slots that hold nothing although their camera's frames are there, and are in no other slot."""
    elsewhere = {one.camera for one in shown if one.camera}
    recorded = {name for step in facts.episode.steps for name in step.frames}
    for one in shown:
        # The query's own image is VD101's.
        if one.slot == IMAGE or not one.wanted or one.wanted not in recorded or one.wanted in elsewhere:
            continue
        if one.empty == one.images > 0:
            yield Problem(
                message=f"The image {one.slot} is one colour all over in all {one.images} queries, although the frames "
                f"of {one.wanted} are there; this checkpoint was trained with them.",
                remedy=f'Fill the slot with the camera\'s frame:\n```python\nframe = obs["{one.wanted}_image"]\n```\n'
                "Zeros stand in for a camera that is missing; look at how the slot gets its picture.",
                severity=Severity.FIX,
                first_step=next(step for step, query in facts.episode.queries() if one.slot in query.more_images),
                evidence={"expected": one.wanted, "seen": "one colour", "slot": one.slot, "queries": one.images},
                frames=({"title": f"raw {one.wanted} frame", "step": 0, "camera": one.wanted},),
                stage=Stage.IMAGE,
            )


def _number(facts: Facts, shown: Sequence[Shown], expected: Sequence[str]) -> Iterator[Problem]:
    """Cameras that no slot shows, or slots that show a camera which the checkpoint does not know."""
    lost = any("not recorded" in note or "not be decoded" in note for note in facts.episode.notes)
    if not expected or lost or not all(one.camera for one in shown):
        return
    missing = [camera for camera in expected if camera not in {one.camera for one in shown}]
    extra = [one for one in shown if one.camera not in expected]
    if missing and len(shown) < len(expected):
        yield Problem(
            message=f"The model is given {_number_of(shown)}; this checkpoint was trained on {' and '.join(expected)}, "
            f"and {' and '.join(missing)} is missing.",
            remedy="Give it as many images as it was trained on, in the same order (OpenVLA-OFT: "
            "`num_images_in_input`). If this checkpoint was trained without, say so with "
            f"`profile.overrides: {{image.cameras: [{', '.join(c for c in expected if c not in missing)}]}}`.",
            severity=Severity.LOOK,
            evidence={
                "expected": ", ".join(expected),
                "seen": ", ".join(one.camera for one in shown),
                "trained_on": facts.profile.source("image.cameras"),
            },
            frames=({"title": "what the model was given", "step": shown[0].links[0].step, "model": True},),
        )
    elif extra and not missing:
        yield Problem(
            message=f"The model is given {_number_of(shown)}, {extra[0].title} being the frame of {extra[0].camera}; "
            f"this checkpoint was trained on {' and '.join(expected)} only.",
            remedy="Leave out what it was not trained on, or name the checkpoint's own cameras with "
            "`profile.overrides: {image.cameras: [...]}`.",
            severity=Severity.LOOK,
            evidence={"expected": ", ".join(expected), "seen": ", ".join(one.camera for one in shown)},
        )


def _number_of(shown: Sequence[Shown]) -> str:
    return "one image" if len(shown) == 1 else f"{len(shown)} images"


def _names(facts: Facts, limits: Mapping[str, float]) -> Iterator[Problem]:
    """Cameras that are not what they are called."""
    views = {view.camera: view for view in camera_views(facts)}
    wanted = [name for name in facts.profile.get("image.cameras") or () if name in views]
    fixed = [name for name in views if not on_robot(name)]
    mounted = [name for name in views if on_robot(name)]
    moving = {name: changes(facts, view) for name, view in views.items()}
    alive = {name for name, view in views.items() if len(repeats(view)) == 0}
    for hand in mounted:
        for other in fixed:
            if {hand, other} <= alive and min(moving[hand].pairs, moving[other].pairs) >= limits["pairs"]:
                more, less = moving[other].share, moving[hand].share
                if more > limits["times"] * less and not _follows(facts, other, limits):
                    yield _misnamed(facts, [other, hand], f"{more:.2f} and {less:.2f}", wanted)
                    return
    if not mounted:
        for name in fixed:
            view = raw_view(facts, name)
            usable = view.element and name in alive and view.pairs >= 5
            # Everything moves in it, and not where the gripper is.
            if usable and view.score < limits["elsewhere"] and moving[name].share > 0.2:
                yield _misnamed(facts, [name], f"{moving[name].share:.2f}", wanted)
                return
    for place, name in enumerate(wanted):
        for other in wanted[place + 1 :]:
            if _same_picture(facts, name, other):
                yield _one_picture(facts, name, other)
                return


def _follows(facts: Facts, camera: str, limits: Mapping[str, float]) -> bool:
    """Whether a fixed camera's frames change where the gripper is, by the simulator's geometry."""
    view = raw_view(facts, camera)
    return bool(view.element) and view.pairs >= limits["pairs"] and view.score > 0.0


def _misnamed(facts: Facts, names: Sequence[str], shares: str, wanted: Sequence[str]) -> Problem:
    name, used = names[0], not wanted or bool(set(wanted) & set(names))
    first = facts.episode.steps[0].number
    both = len(names) > 1
    return Problem(
        message=(
            f"The frames called {name} are of a camera that moves with the robot, and those called {names[1]} of one "
            "that stands still: they are exchanged"
            if both
            else f"The frames called {name} are not of that camera: all of the picture moves with the robot, and not "
            "where the simulator's camera would see the gripper"
        )
        + ("." if used else f"; the policy uses another camera ({', '.join(wanted)})."),
        remedy="Look at a frame, and at what gives the cameras their names: a wrapper that renames them, an alias, a "
        "camera that was not found and was replaced.\n```python\n"
        f'Image.fromarray(obs["{name}_image"]).save("{name}.png")\n```',
        severity=Severity.STOP if used else Severity.LOOK,
        first_step=first,
        evidence={
            "expected": f"{name} stands still" + (f", {names[1]} moves with the robot" if both else ""),
            "seen": "the other way round" if both else "it moves with the robot",
            "share_that_changes": f"{shares} of the picture, while the gripper moves 3 cm ({', '.join(names)})",
        },
        frames=tuple({"title": f"raw {each} frame", "step": 0, "camera": each} for each in names),
        stage=Stage.RENDER,
    )


def _same_picture(facts: Facts, one: str, other: str) -> bool:
    pairs = [(step.frames[one], step.frames[other]) for step in facts.episode.steps if {one, other} <= set(step.frames)]
    return len(pairs) > 1 and all(
        a.shape == b.shape and a.identity == b.identity and a.statistics.std > 2.0 for a, b in pairs
    )


def _one_picture(facts: Facts, one: str, other: str) -> Problem:
    return Problem(
        message=f"The frames of {one} and {other} are one and the same picture at every step: one camera stands in for "
        "both, and the policy does not see what the other would.",
        remedy="Look at what gives the cameras their names, and at which camera each of them renders:\n"
        f'```python\nassert (obs["{one}_image"] != obs["{other}_image"]).any()\n```',
        severity=Severity.STOP,
        first_step=facts.episode.steps[0].number,
        evidence={"expected": "two pictures", "seen": "one", "camera": f"{one}, {other}"},
        frames=tuple({"title": f"raw {each} frame", "step": 0, "camera": each} for each in (one, other)),
        stage=Stage.RENDER,
    )


def _clear(told: Sequence[Shown]) -> Clear:
    parts = [f"{one.title} is the frame of {one.camera} ({len(one.links)} queries)" for one in told]
    return Clear(", ".join(parts), {"slots": {one.slot or "image": one.camera for one in told}})


def _why_not(facts: Facts, shown: Sequence[Shown], expected: Sequence[str], cameras: Sequence[str]) -> str:
    if not facts.profile.get("image.cameras"):
        return f"profile {facts.profile.name} names no cameras"
    if not expected:
        return f"the profile's cameras ({', '.join(facts.profile.get('image.cameras'))}) go by other names here: " + (
            ", ".join(cameras)
        )
    return "the model's image fits no frame that was recorded"


def _also_render(loop: Loop, camera: str) -> None:
    """Have the environment render a second camera, as LIBERO's does unless told otherwise."""
    inner = loop.env.env
    if camera in inner.camera_names:
        return
    inner.camera_names = [*inner.camera_names, camera]
    for name in ("camera_heights", "camera_widths", "camera_depths", "camera_segmentations"):
        values = list(getattr(inner, name))
        setattr(inner, name, [*values, values[0]])
    inner.num_cameras = len(inner.camera_names)
    inner._observables = inner._setup_observables()


def _swapped(loop: Loop) -> None:
    """The loop takes the other camera's frame."""
    _also_render(loop, WRIST)
    act, main = loop.act, f"{loop.camera}_image"
    loop.act = lambda obs: act({**obs, main: obs[f"{WRIST}_image"]})  # type: ignore[method-assign]


def _frontview(loop: Loop) -> None:
    """The run is set up with another of LIBERO's fixed cameras."""
    _also_render(loop, "frontview")
    loop.camera = "frontview"


def _alias(loop: Loop) -> None:
    """A wrapper renames cameras, and exchanges the two."""
    _also_render(loop, WRIST)
    step, started = loop.env.step, loop.env.set_init_state
    names = {f"{loop.camera}_image": f"{WRIST}_image", f"{WRIST}_image": f"{loop.camera}_image"}

    def renamed(obs: Mapping[str, Any]) -> dict[str, Any]:
        return {names.get(name, name): value for name, value in obs.items()}

    def stepped(action: Any) -> Any:
        obs, *rest = step(action)
        return (renamed(obs), *rest)

    loop.env.step, loop.env.set_init_state = stepped, lambda state: renamed(started(state))


def judge_source(facts: SourceFacts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Compare the cameras in the model's slots with the profile's, by the slots' names where they have some."""
    expected = list(facts.profile.get("image.cameras") or ())
    seen = [(slot, camera_of(slot)) for slot in facts.images]
    if not expected or not any(camera for _, camera in seen):
        yield Abstention("which cameras the model is given, or should be, is not known")
        return
    found = False
    for place, (slot, camera) in enumerate(seen):
        wanted = _belongs(slot.name, place, expected)
        if not camera or not wanted or camera == wanted:
            continue
        found = True
        twice = any(other == camera for _, other in seen[:place])
        yield Problem(
            message=f"The slot {slot.name!r} is given the frame of {camera}"
            + (", which another slot is given as well" if twice else "")
            + f"; the checkpoint was trained with {wanted} there.",
            remedy=f'Give it `obs["{wanted}_image"]`.',
            severity=Severity.STOP,
            evidence={"expected": wanted, "seen": camera, "slot": slot.name},
            place=last_place(slot.way.trail, slot.way.place),
            trail=slot.way.trail,
        )
    if not found:
        yield Clear(f"the model is given {', '.join(camera for _, camera in seen if camera)}")


def _belongs(slot: str, place: int, expected: Sequence[str]) -> str:
    """The camera that belongs into a slot: by its name, else by its place."""
    if len(expected) == 2 and not slot.startswith(("image", "pixel_values")):
        return expected[1] if re.search(r"wrist|hand|image_?2|grip", slot) else expected[0]
    return expected[place] if place < len(expected) else ""


CHECK = Check(
    code="VD103",
    name="wrong-camera",
    stage=Stage.OBSERVE,
    judge=judge,
    judge_source=judge_source,
    needs=(Stage.RENDER, Stage.IMAGE),
    thresholds=THRESHOLDS,
    explained_by=("VD101", "VD102"),
    faults=(
        Fault(
            "camera-swapped",
            "the loop gives the model the wrist camera's frame as the main one",
            _swapped,
        ),
        Fault(
            "camera-frontview",
            "the loop takes `frontview`, another fixed camera of the scene",
            _frontview,
            reports=("openvla/openvla#220",),
        ),
        Fault(
            "camera-alias",
            "a wrapper renames the cameras and exchanges them",
            _alias,
            steps=24,
            reports=("strands-labs/robots#168",),
        ),
    ),
)
