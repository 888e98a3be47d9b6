"""A camera's frames stay as they are, or are old ones, while the robot moves.

## What it looks at

Every frame of every recorded camera is compared with every other one of the episode. Two frames of different moments
are never the same picture, value by value, if anything moves in front of the camera: a simulator draws another one, a
real camera has noise. So frames that are identical although the robot's state is another one are not of their steps,
whether they follow each other (**frozen**) or come back after other ones (**old frames**).

The robot's state is the gripper's position; where that is not recorded, the proprioceptive value that changes most.
Pictures are compared as recorded, as thumbnails of 64 pixels.

A frame that comes two or three times in a row is left alone: cameras may be slower than the control loop.

## Why it is bad

Nothing fails. The policy sees a scene in which its own arm does not move, repeats what it did, and overshoots; every
frame looks healthy by itself, and so do mean, contrast and orientation. Only their order is wrong.

## Evidence

The camera, how many frames are one picture, the steps, and how far the gripper went between them.

## Fix

Take the frame from the observation that `env.step` returned last, and render once for every step. Look for:

* a cache or buffer between the renderer and the observation that is filled once, or at the wrong moment;
* a camera with a sampling rate of its own (robosuite: `sampling_rate` of an observable);
* a camera thread that has died while its buffers are still read;
* drawing in another thread than the one that made the environment: nothing is drawn, and what comes back is whatever
  the memory held, older frames among black ones.

```python
before, after = env.step(action)[0], env.step(action)[0]
assert (before["agentview_image"] != after["agentview_image"]).any()
```

## Known gaps

A frozen picture with fresh noise on it (a still image through a lossy stream) is not found. Where the state was not
recorded nothing is said; nor is it where a camera that the policy does not use, and that may not see the robot at all,
always shows the same. That the *model's* image stands still while the camera's frames change is VD105.

## References

- openai/mujoco-py#441: after `set_state` nothing is drawn any more (there the image is one value all over).
- google-deepmind/mujoco#863: the first run renders, the next ones return what the buffer holds.
- Measured with hf-libero 0.1.4, robosuite 1.4.0, mujoco 3.8.1: drawing in another thread, or after another environment
  of the process was closed, returns memory that nobody filled, in which older frames are found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from vladoctor.check import Abstention, Check, Clear, Fault, Problem, Severity, Stage, Verdict
from vladoctor.facts.frames import Motion, View, camera_views, motion, repeats

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.loop import Loop

THRESHOLDS = {
    # Measured on 325 recordings (24,400 steps: the reference loop, LIBERO under LeRobot and openpi clients, vector
    # environments and own ones; healthy and with faults of other stages): no two frames with anything in them were
    # identical while the robot moved, except where frames really were not drawn.
    #
    # Distance between the gripper's positions (m) from which two identical frames cannot both be right. A pixel of a
    # thumbnail of agentview is about 2 cm wide, and a tenth of it shows.
    "moved": 0.02,
    # The same for other states, as a share of what they do in the whole episode, and in their own units.
    "moved_share": 0.25,
    "moved_units": 0.05,
    # Identical frames in a row that a slow camera explains. Not a measurement.
    "slow_camera": 3.0,
    # Frames of a group from which it counts; a single frame that comes back is one dropped frame.
    "least_frames": 3.0,
    # Standard deviation, in levels, of a frame that shows nothing: black or one colour, which is VD101's.
    "blank_std": 1.0,
    # Share of frames from which the episode means nothing. Not a measurement.
    "stop_share": 0.1,
}


@dataclass(frozen=True)
class Frozen:
    """Frames of a camera that are not of their steps.

    Attributes:
        groups: steps that share one picture, for each such picture.
        total: recorded frames of the camera.
        spread: how far the robot went between the frames of a group, the largest of them.
        longest: steps in a row with one picture, at most.
        returns: whether a picture comes back after another one.
    """

    camera: str
    groups: tuple[tuple[int, ...], ...]
    total: int
    spread: float
    longest: int
    returns: bool

    @property
    def steps(self) -> list[int]:
        return sorted(step for group in self.groups for step in group)


def judge(facts: Facts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Look for identical frames at steps at which the robot is elsewhere."""
    views = [view for view in camera_views(facts) if len(view.frames) > 1]
    if not views:
        yield Abstention("no camera's frames were recorded", missing=True)
        return
    moved = motion(facts)
    repeated = {view.camera: repeats(view) for view in views}
    if moved is None:
        same = [camera for camera, groups in repeated.items() if groups]
        if same:
            yield Abstention(f"frames of {_listed(same)} repeat, and the robot's state was not recorded")
        else:
            yield _clear(views, None)
        return
    found = [one for view in views if (one := _frozen(view, repeated[view.camera], moved, limits))]
    yield from (_problem(facts, group, moved, limits) for group in _alike(found))
    if not found and moved.whole < _least(moved, limits):
        yield Abstention(f"the robot hardly moved ({moved.name} by {moved.whole:.2g})")
    elif not found:
        yield _clear(views, moved)


def _least(moved: Motion, limits: Mapping[str, float]) -> float:
    """Spread of the states from which identical frames are wrong."""
    if moved.metres:
        return limits["moved"]
    return max(limits["moved_units"], limits["moved_share"] * moved.whole)


def _frozen(
    view: View, repeated: Sequence[tuple[int, ...]], moved: Motion, limits: Mapping[str, float]
) -> Frozen | None:
    numbers = [one.step for one in view.statistics]
    groups, spreads, longest, returns = [], [], 0, False
    for places in repeated:
        steps = tuple(numbers[place] for place in places)
        spread = moved.spread(steps)
        blank = view.statistics[places[0]].std <= limits["blank_std"]
        if blank or len(places) < limits["least_frames"] or spread < _least(moved, limits):
            continue
        in_a_row = places[-1] - places[0] + 1 == len(places)
        if in_a_row and len(places) <= limits["slow_camera"]:
            continue
        groups.append(steps)
        spreads.append(spread)
        longest = max(longest, _longest(places))
        returns = returns or not in_a_row
    if not groups:
        return None
    return Frozen(view.camera, tuple(groups), len(view.frames), max(spreads), longest, returns)


def _longest(places: Sequence[int]) -> int:
    best = run = 1
    for before, after in pairwise(places):
        run = run + 1 if after == before + 1 else 1
        best = max(best, run)
    return best


def _alike(found: Sequence[Frozen]) -> list[list[Frozen]]:
    """Cameras that stand still at the same steps make one problem."""
    alike: dict[tuple[tuple[int, ...], ...], list[Frozen]] = {}
    for one in found:
        alike.setdefault(one.groups, []).append(one)
    return list(alike.values())


def _problem(facts: Facts, group: Sequence[Frozen], moved: Motion, limits: Mapping[str, float]) -> Problem:
    one, names = group[0], [each.camera for each in group]
    wrong = sum(len(steps) - 1 for steps in one.groups)
    severity = Severity.STOP if wrong >= limits["stop_share"] * one.total else Severity.FIX
    consequence = "the policy sees another moment than the one it acts in"
    used = _used(facts)
    if used and not used & set(names):
        severity, consequence = Severity.LOOK, f"the policy uses another camera ({', '.join(sorted(used))})"
    elif one.steps[-1] <= 0:
        severity, consequence = Severity.LOOK, "the policy was not asked at these steps"
    far = f"{one.spread * 100:.0f} cm" if moved.metres else f"{one.spread:.2g} in {moved.name}"
    whole = f"while the {'gripper' if moved.metres else 'robot'} moves by up to {far}"
    return Problem(
        message=f"The frames of {_listed(names)} {_what(one)} {whole}; {consequence}.",
        remedy=_remedy(one),
        severity=severity,
        first_step=one.groups[0][1] if not one.returns else min(steps[1] for steps in one.groups),
        last_step=one.steps[-1],
        evidence={
            "expected": "another picture at every step at which the robot is elsewhere",
            "seen": f"{wrong} of {one.total} frames are an earlier one",
            "camera": ", ".join(names),
            "pictures": len(one.groups),
            "longest_run": one.longest,
            "come_back": one.returns,
            "moved": f"{one.spread:.4g} ({moved.name})",
        },
        frames=(
            {"title": f"raw {names[0]} frame", "step": one.groups[0][0], "camera": names[0]},
            {"title": "the same picture again", "step": one.groups[0][-1], "camera": names[0]},
        ),
        stage=Stage.RENDER,
    )


def _used(facts: Facts) -> set[str]:
    in_use = facts.episode.task.get("camera")
    return {*(facts.profile.get("image.cameras") or ()), *([in_use] if in_use else ())}


def _what(one: Frozen) -> str:
    if one.returns:
        several = f"{len(one.groups)} old pictures come" if len(one.groups) > 1 else "one old picture comes"
        return f"are not of their steps: {several} again and again between step {one.steps[0]} and step {one.steps[-1]}"
    if len(one.groups) == 1:
        first, last = one.groups[0][0], one.groups[0][-1]
        return f"are one and the same picture from step {first} to step {last}"
    return f"change only every {one.longest} steps or so, between step {one.steps[0]} and step {one.steps[-1]},"


def _remedy(one: Frozen) -> str:
    if one.returns:
        return (
            "Make the environment, reset it and step it in one and the same thread, and keep one environment a "
            "process: what a renderer returns without its context is memory that held older frames."
        )
    if len(one.groups) > 1:
        return (
            "Let the camera be rendered at every control step: look for a sampling rate of its own, or a loop that "
            "renders every n-th step only, and pass the frame of the observation that `env.step` returned last."
        )
    return (
        "Take the frame from the observation that `env.step` returned last, and look at what is between it and the "
        f"renderer: a cache, or a buffer that is filled once. Check:\n```python\nbefore, after = "
        f"env.step(action)[0], env.step(action)[0]\nassert (before[{one.camera + '_image'!r}] != "
        f"after[{one.camera + '_image'!r}]).any()\n```"
    )


def _listed(cameras: Sequence[str]) -> str:
    return f"camera {cameras[0]}" if len(cameras) == 1 else f"cameras {' and '.join(cameras)}"


def _clear(views: Sequence[View], moved: Motion | None) -> Clear:
    frames = ", ".join(f"{len(view.frames)} frames of {view.camera}" for view in views)
    far = "" if moved is None else f"; {moved.name} moved by {moved.whole:.2g}" + (" m" if moved.metres else "")
    return Clear(f"{frames}: no old ones among them{far}", {"moved": None if moved is None else round(moved.whole, 4)})


def _cached_render(first: int) -> Callable[[Loop], None]:
    """A cache of rendered frames by camera name, filled at the given control step and never emptied in an episode."""

    def apply(loop: Loop) -> None:
        env = loop.env
        step, set_init_state = env.step, env.set_init_state
        kept: dict[str, Any] = {}
        taken = 0

        def drawn(obs: Mapping[str, Any]) -> dict[str, Any]:
            if taken - loop.settle_steps < first:
                return dict(obs)
            return {
                name: kept.setdefault(name, value.copy()) if name.endswith("_image") else value
                for name, value in obs.items()
            }

        def stepped(action: Any) -> Any:
            nonlocal taken
            taken += 1
            obs, *rest = step(action)
            return (drawn(obs), *rest)

        def started(state: Any) -> Any:
            nonlocal taken
            taken = 0
            kept.clear()
            return set_init_state(state)

        env.step, env.set_init_state = stepped, started

    return apply


def _slow_camera(loop: Loop) -> None:
    """Give the camera's observable a rate of its own, 1 Hz in place of the control rate's 20."""
    inner = loop.env.env
    inner.modify_observable(f"{loop.camera}_image", "sampling_rate", 1.0)


def _ring(loop: Loop) -> None:
    """A camera thread that died at step 10 leaves a ring of four frames, which is read on and on."""
    step, started = loop.env.step, loop.env.set_init_state
    ring: list[Mapping[str, Any]] = []
    taken = 0

    def stepped(action: Any) -> Any:
        nonlocal taken
        taken += 1
        obs, *rest = step(action)
        frames = {name: value for name, value in obs.items() if name.endswith("_image")}
        if taken - loop.settle_steps < 10:
            ring[:] = [*ring[-3:], frames]
            return (obs, *rest)
        return ({**obs, **ring[taken % len(ring)]}, *rest)

    def begun(state: Any) -> Any:
        nonlocal taken
        taken = 0
        ring.clear()
        return started(state)

    loop.env.step, loop.env.set_init_state = stepped, begun


CHECK = Check(
    code="VD102",
    name="frozen-image",
    stage=Stage.RENDER,
    judge=judge,
    needs=(Stage.RENDER,),
    thresholds=THRESHOLDS,
    explained_by=("VD101",),
    faults=(
        Fault(
            "frozen-render",
            "rendered frames are cached by the camera's name: the first frame of the episode is returned for ever",
            _cached_render(-1_000),
        ),
        Fault("frozen-render-late", "the same from control step 10 on", _cached_render(10), steps=24, begins=10),
        Fault("camera-1hz", "the camera is sampled at 1 Hz, the control loop runs at 20 Hz", _slow_camera),
        Fault(
            "frozen-old",
            "the camera's thread dies at step 10, and its ring of four frames is read on",
            _ring,
            steps=24,
            begins=10,
        ),
    ),
)
