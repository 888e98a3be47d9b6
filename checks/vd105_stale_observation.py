"""The model is given an older frame than that of the step in which its action is executed.

## What it looks at

Every image that the model was given is compared with all frames of its camera up to its own step, in the part that
both show. What the way to the model does to every picture (crop, resize, JPEG, brightness) is measured over the episode
and taken away. An image counts as stale where an earlier frame fits it and the frame of its own step does not; where
nothing moved, nothing is decided. Over the episode the stale ones show how they came about:

| seen | usually |
|---|---|
| always the same number of steps late | the loop passes on the observation from before the last step, or a queue |
| always the first frame | a closure or a default argument that holds the first observation |
| the same image for k queries, then a new one | a frame buffer that is filled every k-th step |

An image that no frame of the episode up to its step fits, though the others of the episode fit theirs, is a *look*: the
last frame of the episode before, say, in the first query, or something that was drawn over it.

## Why it is bad

The policy sees where the arm was, corrects an error that is gone, and overshoots. One step late costs precision and
grasps; the first frame for ever is an open loop. Every image is a good picture of the right scene from the right
camera, so nothing else finds this.

## Evidence

How many images are stale of those that could be decided, how late they are, and of the worst one the mean square
differences, in levels², from the frame that it was made of (`fits`) and from the frame of its own step (`own`).

## Fix

Give the policy the observation that the last `env.step` returned:

```python
obs, reward, done, info = env.step(action)  # the same name as the policy reads: not next_obs
action = policy(obs)
```

## Known gaps

It needs the camera's frames, motion in them, and an image that can be found on them. A policy that is asked ahead of
time, while older actions are still being executed, is late by design: where the answers have several rows and the delay
is shorter than they are, this is only a *look*. Frames that are old already when the environment returns them are
VD102's.

## References

- Physical-Intelligence/openpi#232: a loop that acts on what an earlier episode left in its buffers.
- strands-labs/robots#704: the policy runs, and is starved of observations.
- Measured on 276 recordings of other loops and faults, 40 healthy episodes of libero_object among them (5,100 images):
  none was taken for stale.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from vladoctor.check import Abstention, Check, Clear, Fault, Problem, Severity, Stage, Verdict
from vladoctor.facts.following import IMAGE
from vladoctor.facts.lags import Age, SlotAges, image_ages
from vladoctor.facts.links import image_links

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.loop import Loop

THRESHOLDS = {
    # Stale images that it takes, in number and as a share of those that could be decided. Of 5,100 images of 40 healthy
    # episodes of libero_object none was.
    "least": 3.0,
    "min_share": 0.05,
    # Share of the stale images that have to show a pattern for it to be named. Not a measurement.
    "pattern_share": 0.9,
    # Share of stale images from which an episode means nothing, if they are always of one step. Not a measurement.
    "stop_share": 0.5,
    # Levels² from the nearest frame, and times the median of the episode's images, from which an image is of no frame
    # of it. 128 to 150 for the last frame of the episode before; in 170 recordings of faults and healthy loops none.
    "foreign": 25.0,
    "foreign_times": 20.0,
    # Images of an episode from which that is asked. Not a measurement.
    "foreign_of": 8.0,
}


@dataclass(frozen=True)
class Pattern:
    """How stale images came about: kind is "first", "late", "held" or "" (none of these); `by` in steps or queries."""

    kind: str
    by: int = 0


def judge(facts: Facts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Look for images that are not of their own step, slot by slot."""
    slots = _freshest(image_ages(facts))
    if not slots:
        asked = any(query.image is not None for _, query in facts.episode.queries())
        frames = any(step.frames for step in facts.episode.steps)
        if asked and frames:
            yield Abstention("the model's image could not be found on any recorded frame")
        else:
            yield Abstention("the model's image and the raw frames before it were not both recorded", missing=True)
        return
    wrong = [slot for slot in slots if _is_stale(slot, limits)]
    yield from (_problem(facts, slot, limits) for slot in wrong)
    if wrong:
        return
    foreign = {slot.slot: found for slot in slots if (found := _foreign(facts, slot, limits))}
    yield from (_of_no_frame(slot, foreign[slot.slot]) for slot in slots if slot.slot in foreign)
    decided = [slot for slot in slots if slot.decided]
    if foreign:
        return
    if decided:
        yield _clear(decided)
    else:
        yield Abstention("the frames hardly change, so that it cannot be told of which step an image is")


def _freshest(slots: Sequence[SlotAges]) -> list[SlotAges]:
    """One a camera: where several images of a query are of one camera, a history say, the freshest of them counts."""
    by_camera: dict[str, list[SlotAges]] = {}
    for slot in slots:
        by_camera.setdefault(slot.camera, []).append(slot)
    found: list[SlotAges] = []
    for group in by_camera.values():
        best: dict[int, Age] = {}
        for slot in group:
            for age in slot.ages:
                known = best.get(age.step)
                if known is None or (age.last, not age.stale) > (known.last, not known.stale):
                    best[age.step] = age
        found.append(replace(group[0], ages=tuple(best[step] for step in sorted(best))))
    return found


def _is_stale(slot: SlotAges, limits: Mapping[str, float]) -> bool:
    return len(slot.stale) >= max(limits["least"], limits["min_share"] * len(slot.decided))


def _foreign(facts: Facts, slot: SlotAges, limits: Mapping[str, float]) -> list[Age]:
    """Images that no frame of the episode fits, as its others do; not those that lie another way (VD201, VD103)."""
    if len(slot.ages) < limits["foreign_of"]:
        return []
    far = max(limits["foreign"], limits["foreign_times"] * float(np.median([age.residual for age in slot.ages])))
    lies = {
        link.step: link.lies.element
        for link in image_links(facts)
        if (link.slot, link.camera) == (slot.slot, slot.camera)
    }
    usual = Counter(lies.values()).most_common(1)[0][0]
    return [age for age in slot.ages if age.residual > far and lies.get(age.step) == usual]


def _of_no_frame(slot: SlotAges, foreign: Sequence[Age]) -> Problem:
    what = "the model's image" if slot.slot == IMAGE else f"the image {slot.slot}"
    worst = max(foreign, key=lambda age: (age.residual, -age.step))
    usual = float(np.median([age.residual for age in slot.ages]))
    return Problem(
        message=f"In {len(foreign)} of {len(slot.ages)} queries, the first at step {foreign[0].step}, {what} fits no "
        f"{slot.camera} frame that this episode has had, as those of its other queries do: it is of another episode, "
        "or something is drawn over it.",
        remedy="Empty frame buffers and queues at every reset, and read the observation that the reset, or the last "
        "settle step, returned. Draw on copies of frames: a video's text does not belong on what the policy is given.",
        severity=Severity.LOOK,
        first_step=foreign[0].step,
        last_step=foreign[-1].step,
        evidence={
            "expected": f"the {slot.camera} frame of the query's own step",
            "seen": f"{worst.residual:.0f} levels² from the nearest frame of the episode; {usual:.1f} in the median",
            "camera": slot.camera,
            **({"slot": slot.slot} if slot.slot else {}),
            "step": worst.step,
        },
        frames=(
            {"title": "what the model was given", "step": worst.step, "model": True},
            {"title": "the frame of its own step", "step": worst.step, "camera": slot.camera},
        ),
        stage=Stage.OBSERVE,
    )


def _pattern(facts: Facts, slot: SlotAges, limits: Mapping[str, float]) -> Pattern:
    stale, wanted = slot.stale, limits["pattern_share"] * len(slot.decided)
    once = Counter(step for age in slot.decided for step in range(age.first, age.last + 1))
    if once and len(stale) >= limits["stop_share"] * len(slot.decided):
        first, count = min(once.items(), key=lambda item: (-item[1], item[0] < 0, abs(item[0])))
        if count >= wanted and len(slot.decided) > 2:
            return Pattern("first", first)
    begin = min(step.number for step in facts.episode.steps)
    # Before there is a frame so old, the first one is given.
    late = Counter(
        delay
        for age in slot.decided
        for delay in range(1, 65)
        if age.first <= max(age.step - delay, begin) <= age.last or (age.step < delay and age.first <= 0 <= age.last)
    )
    if late:
        delay, count = min(late.items(), key=lambda item: (-item[1], item[0]))
        if count >= wanted:
            return Pattern("late", delay)
    runs = _runs(slot.ages)
    if runs and len(stale) >= limits["min_share"] * len(slot.ages):
        usual, count = Counter(runs).most_common(1)[0]
        if usual > 1 and count >= limits["pattern_share"] * len(runs) - 1:
            return Pattern("held", usual)
    return Pattern("")


def _runs(ages: Sequence[Age]) -> list[int]:
    """How many queries in a row were given one image; the first and the last run may be cut short."""
    starts = [place for place, age in enumerate(ages) if not age.again]
    return [int(length) for length in np.diff(starts)]


def _problem(facts: Facts, slot: SlotAges, limits: Mapping[str, float]) -> Problem:
    stale, pattern = slot.stale, _pattern(facts, slot, limits)
    worst = max(stale, key=lambda age: (age.own - age.residual, -age.step))
    rows = max((len(query.chunk) for _, query in facts.episode.queries()), default=0)
    meant = pattern.kind == "late" and 1 < rows > pattern.by
    severity = Severity.STOP if pattern.kind == "first" else Severity.LOOK if meant else Severity.FIX
    what = "The model's image" if slot.slot == IMAGE else f"The image {slot.slot}"
    count = f"{len(stale)} of the {len(slot.decided)} queries in which it can be told"
    return Problem(
        message=f"{what} is not the {slot.camera} frame of its own step in {count}: {_how(pattern, worst)}; "
        + ("that may be meant, as answers are asked for ahead of time." if meant else _therefore(pattern)),
        remedy=_remedy(pattern, slot),
        severity=severity,
        first_step=stale[0].step,
        last_step=stale[-1].step,
        evidence={
            "expected": f"the {slot.camera} frame of the query's own step",
            "seen": _how(pattern, worst),
            "camera": slot.camera,
            **({"slot": slot.slot} if slot.slot else {}),
            "stale_queries": f"{len(stale)} of {len(slot.decided)} that could be decided",
            "step": worst.step,
            "fits": f"step {worst.last}: {worst.residual:.2f} levels²",
            "own": f"step {worst.step}: {worst.own:.2f} levels²",
        },
        frames=(
            {"title": "what the model was given", "step": worst.step, "model": True},
            {"title": f"the {slot.camera} frame that it is", "step": worst.last, "camera": slot.camera},
            {"title": "the frame of its own step", "step": worst.step, "camera": slot.camera},
        ),
        stage=Stage.OBSERVE,
    )


def _how(pattern: Pattern, worst: Age) -> str:
    if pattern.kind == "first":
        return f"it is always that of step {pattern.by}"
    if pattern.kind == "late":
        return f"it is always {pattern.by} step{'s' if pattern.by > 1 else ''} late"
    if pattern.kind == "held":
        return f"it changes only at every {_ordinal(pattern.by)} query"
    return f"it is up to {worst.step - worst.last} steps old"


def _ordinal(number: int) -> str:
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number if number < 20 else number % 10, 'th') }"


def _therefore(pattern: Pattern) -> str:
    return (
        "the policy does not see what it does, and the loop is open."
        if pattern.kind == "first"
        else "the policy corrects errors that are gone."
    )


def _remedy(pattern: Pattern, slot: SlotAges) -> str:
    code = "```python\nobs, reward, done, info = env.step(action)\naction = policy(obs)\n```"
    if pattern.kind == "first":
        return (
            "Read the observation anew at every step; look for a closure, a default argument or a cache that holds the "
            f"first one:\n{code}"
        )
    if pattern.kind == "held":
        return f"Fill the frame buffer at every step, not at every {_ordinal(pattern.by)} one:\n{code}"
    return (
        "Give the policy the observation that the last `env.step` returned, under the name that the policy reads (not "
        f"`next_obs`), and look for queues and threads between camera and policy:\n{code}"
    )


def _clear(slots: Sequence[SlotAges]) -> Clear:
    decided = [age for slot in slots for age in slot.decided]
    fresh = [age for age in decided if not age.stale]
    cameras = ", ".join(dict.fromkeys(slot.camera for slot in slots))
    return Clear(
        f"the model's image is of its own step in {len(fresh)} of {len(decided)} queries that could be decided "
        f"({cameras})",
        {"residual": round(float(np.median([age.residual for age in decided])), 3)},
    )


def _given(choose: Callable[[list[Any]], Any]) -> Callable[[Loop], None]:
    """The policy acts on one of the observations so far, the latest last, in the place of the latest."""

    def apply(loop: Loop) -> None:
        act, started = loop.act, loop.env.set_init_state
        seen: list[Any] = []

        def acted(obs: Mapping[str, Any]) -> list[float]:
            seen.append(obs)
            return act(choose(seen))

        def begun(state: Any) -> Any:
            seen.clear()
            return started(state)

        loop.act, loop.env.set_init_state = acted, begun  # type: ignore[method-assign]

    return apply


CHECK = Check(
    code="VD105",
    name="stale-observation",
    stage=Stage.OBSERVE,
    judge=judge,
    needs=(Stage.RENDER, Stage.IMAGE),
    thresholds=THRESHOLDS,
    explained_by=("VD101", "VD102", "VD103"),
    faults=(
        Fault(
            "observation-stale",
            "the loop writes `next_obs` and reads `obs`: the policy is given the observation of the step before",
            _given(lambda seen: seen[-2:][0]),
        ),
        Fault("observation-first", "a closure keeps the first observation", _given(lambda seen: seen[0])),
        Fault(
            "obs-every-4",
            "the frame buffer is filled every fourth step, the policy is asked at each",
            _given(lambda seen: seen[(len(seen) - 1) // 4 * 4]),
        ),
    ),
)
