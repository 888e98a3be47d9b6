"""A camera's frames, or the model's own image, are black, blank or noise.

## What it looks at

Every frame of every recorded camera, at every step, settle steps included, and every image that the model was given.
These are told apart:

- **black**: 99 % of the values are at most 10 of 255. A dark scene is not black: LIBERO with all lights off has a mean
  of 42 to 59 and values up to 77.
- **noise**: neighbouring pixels differ as much as distant ones do, and the colour channels have nothing in common, as
  in memory into which nothing was drawn.
- **uniform**: one colour all over, white or grey, say.
- **empty**: a smooth gradient and nothing in it, such as the sky behind a camera that looks past the scene. That alone
  proves nothing; it has to stay the same while the robot moves.
- **very dark**: not black, but darker than a scene without lights. This is only a *look*.

Where the frame of a step is fine and the model's image is black, noise or uniform, the fault lies between the two.

## Why it is bad

Nothing fails. The policy acts on what it remembers of its training, usually by moving to the same place each time, and
its probabilities look healthy: in a small OpenVLA-style policy a black image took 20 successes in 20 episodes to 0 in
10, and left entropy and the mass off the action ids where they were. Every success rate measured this way is a
measurement of something else.

## Evidence

The camera, the steps, and of the darkest frame mean, standard deviation and extremes, in levels of 0..255. `structure`
is what is left of the standard deviation once a smooth surface is taken away, `grain` the median difference between
neighbours, `agreement` the correlation of the channels' fine detail. The extremes are those of the full frame; the rest
is measured on the thumbnail. Do not look for zeros in `pixel_values`: black is about -1.49 there, on average over
OpenVLA's two towers (-2.12, -2.04 and -1.80 in the first, -1 in the second).

## Fix

An OpenGL context belongs to the thread that made it; in another one nothing is drawn, and what comes back is whatever
the buffer held before: zeros, most often, or noise. Make the environment, reset it and step it in one and the same
thread; keep one environment a process; start processes with `spawn`, before any of them has rendered:

```python
with ThreadPoolExecutor(max_workers=1) as simulator:  # one thread for everything that renders
    env = simulator.submit(make_env).result()
    obs = simulator.submit(env.reset).result()
    obs, *_ = simulator.submit(env.step, action).result()
```

If frames turn black in mid-episode, look at what else began to render at that step: a second environment, a video
writer with a renderer of its own, a `close()` too early.

## Known gaps

A frame that shows *another* scene is not empty: two environments in one process draw with each other's textures, mean
and standard deviation look normal, and this check is silent (VD104). So it is on frames left over in memory from an
earlier step. A camera that shows one smooth surface while the robot stands still is left undecided.

## References

- openai/mujoco-py#441: after `set_state` every pixel of the offscreen image has the same value.
- google-deepmind/mujoco#863: the first run renders, the next ones return noise; mixed and misspelt GL back ends.
- strands-labs/robots#166: success rate 0.00; the camera's view turns to near-uniform yellow (178, 177, 36).
- Measured with hf-libero 0.1.4, robosuite 1.4.0, mujoco 3.8.1: `env.step` in another thread than the one that made the
  environment returns a buffer that nobody filled, without a word. In the first environment of a process that is zeros
  (EGL and OSMesa), later it is noise (EGL).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from vladoctor.check import Abstention, Check, Clear, Fault, Problem, Severity, Stage, Verdict
from vladoctor.facts.frames import (
    FrameStatistics,
    Stretch,
    View,
    camera_views,
    change,
    model_view,
    pixel_spread,
    travel,
)

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.loop import Loop

BLACK, NOISE, UNIFORM, EMPTY, DARK, FINE = "black", "noise", "uniform", "empty", "very dark", "fine"

THRESHOLDS = {
    # Measured on 1,440 frames of 18 episodes of libero_object: both cameras, own and stand-in assets, of which 40 with
    # the scene's lights off and 40 with all lights off; 20 frames of the sky; 5 buffers that nothing was drawn into.
    #
    # Value that 99 % of a black frame do not exceed. 0 for a black frame; 77 with all lights off.
    "black_max": 10.0,
    # Noise has at least this grain, in levels and as a share of the standard deviation, and at most this agreement of
    # the channels. Buffers: 30, 0.70 and 0.64. Frames: up to 11 and 0.37, and, where there is light, 0.71 and more.
    "noise_grain": 18.0,
    "noise_grain_share": 0.55,
    "noise_agreement": 0.7,
    # Mean of a very dark frame. 58 with all lights off (42 measured apart, with LIBERO's own assets).
    "dark_mean": 20.0,
    # Standard deviation of a uniform frame. 0 to 0.5 for one colour through JPEG; 6.5 for the sky; frames 10 and more.
    "uniform_std": 1.0,
    # Structure of an empty frame. 0.7 for the sky; frames 8 and more with all lights off, 23 with them on.
    "empty_structure": 2.5,
    # Change by which a frame is alive, and gripper travel (m) after which it has to be. 0.0 for the sky; 2.5 to 9.5 for
    # agentview over an episode in which the gripper travels 0.2 to 0.5 m.
    "alive_change": 0.5,
    "alive_travel": 0.05,
    # A wrist camera that passes close to a wall may be uniform for fewer frames than this. Not a measurement.
    "uniform_run": 3.0,
    # Spread within a channel of pixel_values above which an image is not uniform, whatever its un-normalised copy, cut
    # to 0..255, looks like; about 15 levels in OpenVLA's first tower. 0 for black images; 4.0 to 4.4 for frames
    # with lights on.
    "pixel_spread": 0.25,
}


def judge(facts: Facts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Look at every camera, and at the model's image where the cameras' frames are fine."""
    cameras, model = camera_views(facts), model_view(facts)
    if not cameras and model is None:
        yield Abstention("neither frames nor the model's images were recorded", missing=True)
        return
    bad: list[Stretch] = []
    doubts: list[Abstention] = []
    for stretch in (stretch for view in cameras for stretch in _stretches(view, limits)):
        wrong = stretch.kind != EMPTY or _is_empty(facts, stretch, limits)
        if wrong:
            bad.append(stretch)
        elif wrong is None:
            doubts.append(_doubt(stretch))
    blind = _blind_steps(facts, model, {step for stretch in bad for step in stretch.steps}, limits) if model else []
    yield from (_camera_problem(facts, group, limits) for group in _alike(bad))
    yield from (_model_problem(stretch, bool(cameras)) for stretch in blind)
    yield from doubts
    if not bad and not blind and not doubts:
        yield _clear([*cameras, *([model] if model else [])])


def _kind(frame: FrameStatistics, limits: Mapping[str, float]) -> str:
    if frame.brightest <= limits["black_max"]:
        return BLACK
    coarse = frame.grain >= max(limits["noise_grain"], limits["noise_grain_share"] * frame.std)
    if coarse and frame.agreement <= limits["noise_agreement"]:
        return NOISE
    if frame.std <= limits["uniform_std"]:
        return UNIFORM
    if frame.structure <= limits["empty_structure"]:
        return EMPTY
    return DARK if frame.mean < limits["dark_mean"] else FINE


def _stretches(view: View, limits: Mapping[str, float]) -> list[Stretch]:
    kinds = [_kind(frame, limits) for frame in view.statistics]
    return [
        Stretch(view, kind, tuple(index for index, seen in enumerate(kinds) if seen == kind))
        for kind in (BLACK, NOISE, UNIFORM, EMPTY, DARK)
        if kind in kinds
    ]


def _is_empty(facts: Facts, stretch: Stretch, limits: Mapping[str, float]) -> bool | None:
    """Whether a smooth picture is one of nothing: it stays as it is while the robot moves. None: cannot be told."""
    if change(stretch) > limits["alive_change"]:
        return False
    moved = travel(facts, stretch.steps)
    return True if moved is not None and moved >= limits["alive_travel"] else None


def _doubt(stretch: Stretch) -> Abstention:
    return Abstention(
        f"camera {stretch.view.camera} shows a smooth surface and nothing else {stretch.span}, and the robot is not "
        "known to have moved meanwhile, so that may be all there is to see"
    )


def _alike(stretches: Iterable[Stretch]) -> list[list[Stretch]]:
    """Cameras that are bad in the same way at the same steps make one problem."""
    groups: dict[tuple[str, tuple[int, ...]], list[Stretch]] = {}
    for stretch in stretches:
        groups.setdefault((stretch.kind, stretch.steps), []).append(stretch)
    return list(groups.values())


def _blind_steps(facts: Facts, model: View, bad: set[int], limits: Mapping[str, float]) -> list[Stretch]:
    """Where the model's image is black, noise or uniform although the frames of the same step are fine."""
    spreads = {step: pixel_spread(query) or 0.0 for step, query in facts.episode.queries()}
    found: list[Stretch] = []
    for stretch in _stretches(model, limits):
        places = zip(stretch.indices, stretch.steps, strict=True)
        kept = tuple(index for index, step in places if step not in bad and spreads[step] <= limits["pixel_spread"])
        if kept and stretch.kind in (BLACK, NOISE, UNIFORM):
            found.append(Stretch(model, stretch.kind, kept))
    return found


def _camera_problem(facts: Facts, group: Sequence[Stretch], limits: Mapping[str, float]) -> Problem:
    stretch, names = group[0], [each.view.camera for each in group]
    severity, consequence = Severity.STOP, "the policy is blind there, and a success rate means nothing"
    in_use = facts.episode.task.get("camera")
    used = {*(facts.profile.get("image.cameras") or ()), *([in_use] if in_use else ())}
    if used and not used & set(names):
        severity, consequence = Severity.LOOK, f"this checkpoint uses another camera ({', '.join(sorted(used))})"
    elif stretch.steps[-1] < 0:
        severity, consequence = Severity.LOOK, "the policy was not asked at these steps"
    elif stretch.kind == DARK or (stretch.kind == UNIFORM and stretch.longest_run < limits["uniform_run"]):
        severity, consequence = Severity.LOOK, "it may be meant"
    return Problem(
        message=f"The frames of {_listed(names)} are {_seen(stretch)}; {consequence}.",
        remedy=_remedy(stretch),
        severity=severity,
        first_step=stretch.steps[0],
        last_step=stretch.steps[-1],
        evidence={"camera": ", ".join(names), **_numbers(stretch)},
        frames=({"title": f"raw {names[0]} frame", "step": stretch.steps[0], "camera": names[0]},),
        stage=Stage.RENDER,
    )


def _model_problem(stretch: Stretch, frames_known: bool) -> Problem:
    contrast = "although the camera's frame is not" if frames_known else "and the camera's frames were not recorded"
    return Problem(
        message=f"The model's image is {_seen(stretch)}, {contrast}; the policy is blind there.",
        remedy="Look at what stands between the frame and `pixel_values`. A picture scaled to 0..1 and then taken for "
        "0..255 is black, and so is a buffer that nobody filled:\n"
        "```python\nassert frame.dtype == np.uint8 and frame.max() > 1, (frame.dtype, frame.max())\n```",
        severity=Severity.STOP,
        first_step=stretch.steps[0],
        last_step=stretch.steps[-1],
        evidence={"camera": "the model's image", **_numbers(stretch)},
        frames=({"title": "what the model was given", "step": stretch.steps[0], "model": True},),
        stage=Stage.IMAGE,
    )


def _seen(stretch: Stretch) -> str:
    """What the frames look like, and when."""
    frames = stretch.statistics
    if stretch.kind == BLACK:
        return f"black {stretch.span}, 99 % of the values at most {max(frame.brightest for frame in frames):.0f} of 255"
    if stretch.kind == NOISE:
        return f"noise {stretch.span}, as of memory into which nothing was drawn"
    if stretch.kind == UNIFORM:
        return f"one colour all over, RGB {', '.join(f'{value:.0f}' for value in frames[0].colour)}, {stretch.span}"
    if stretch.kind == EMPTY:
        return f"a smooth gradient that does not change while the robot moves {stretch.span}"
    return f"very dark {stretch.span}, down to a mean of {min(frame.mean for frame in frames):.0f} of 255, not black"


def _numbers(stretch: Stretch) -> dict[str, Any]:
    darkest = min(stretch.statistics, key=lambda frame: frame.mean)
    return {
        "expected": "a picture of the scene",
        "seen": f"{stretch.kind} {stretch.span}",
        "mean": round(darkest.mean, 2),
        "std": round(darkest.std, 2),
        "structure": round(darkest.structure, 2),
        "grain": round(darkest.grain, 2),
        "agreement": round(darkest.agreement, 2),
        "minimum": darkest.minimum,
        "maximum": darkest.maximum,
    }


def _remedy(stretch: Stretch) -> str:
    if stretch.kind == EMPTY:
        return (
            "The camera looks past the scene: check its position and rotation, its near and far planes, and whether a "
            "wall or the floor is in between."
        )
    if stretch.kind == DARK:
        return "Look at a frame. If the scene has lights, check that they are on and that its assets were loaded."
    remedy = (
        "Make the environment, reset it and step it in one and the same thread, keep one environment a process, and "
        f"check that something is rendered:\n```python\nassert obs[{stretch.view.camera + '_image'!r}].any()\n```"
    )
    if len(stretch.indices) < len(stretch.view.statistics):
        remedy += (
            f"\nOther frames are fine, so look at what is different at step {stretch.steps[0]}: `env.step` in another "
            "thread than the one that made the environment, a second environment or renderer in this process, or one "
            "that was closed."
        )
    return remedy


def _listed(cameras: Sequence[str]) -> str:
    return f"camera {cameras[0]}" if len(cameras) == 1 else f"cameras {' and '.join(cameras)}"


def _clear(views: Sequence[View]) -> Clear:
    frames = [frame for view in views for frame in view.statistics]
    darkest = min(frames, key=lambda frame: frame.mean)
    seen = [f"{len(view.statistics)} {f'frames of {view.camera}' if view.camera else 'model images'}" for view in views]
    return Clear(
        f"{' and '.join(seen)} show something; the darkest has a mean of {darkest.mean:.0f} of 255",
        {
            "darkest_mean": round(darkest.mean, 1),
            "darkest_step": darkest.step,
            "least_structure": round(min(frame.structure for frame in frames), 1),
        },
    )


def _blacken(first: int) -> Callable[[Loop], None]:
    """Zero every frame that the environment returns from the given control step on; None of them in settle steps."""

    def apply(loop: Loop) -> None:
        env = loop.env
        step, set_init_state = env.step, env.set_init_state
        taken = 0

        def blackened(obs: Mapping[str, Any], number: int) -> dict[str, Any]:
            if number < first:
                return dict(obs)
            return {name: value * 0 if name.endswith("_image") else value for name, value in obs.items()}

        def stepped(action: Any) -> Any:
            nonlocal taken
            taken += 1
            obs, *rest = step(action)
            return (blackened(obs, taken - loop.settle_steps), *rest)

        def started(state: Any) -> Any:
            nonlocal taken
            taken = 0
            return blackened(set_init_state(state), -loop.settle_steps)

        env.step, env.set_init_state = stepped, started

    return apply


def _step_in_another_thread(loop: Loop) -> None:
    step = loop.env.step
    worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="simulator")
    loop.env.step = lambda action: worker.submit(step, action).result()


CHECK = Check(
    code="VD101",
    name="black-image",
    stage=Stage.RENDER,
    judge=judge,
    thresholds=THRESHOLDS,
    faults=(
        Fault(
            "black-image",
            "every camera frame is zeros as the environment returns it, at every step",
            _blacken(-1_000),
        ),
        Fault(
            "black-image-late",
            "the same from control step 30 on",
            _blacken(30),
            steps=34,
            begins=30,
        ),
        Fault(
            "render-thread",
            "`env.step` runs in another thread than the one that made the environment, which really draws nothing",
            _step_in_another_thread,
        ),
    ),
)
