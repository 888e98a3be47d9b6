"""The rendered scene is not the one of the suite: other objects, another robot, another camera, other light.

## What it looks at

The first frame of every camera, before anything has moved, beside fingerprints of first frames of a healthy run (mean
colours in 16 x 16 cells, for each suite, task, camera and kind of assets). Light and exposure are fitted first, so that
two things are told apart:

* **another scene**: the cells do not correlate with those of any init state, or some of them hold other colours
  altogether;
* **another light**: everything is where it should be, and darker, brighter or tinted. Only a *look*: it may be meant.

A frame that fits once it is turned, mirrored, or its red and blue are exchanged shows the right scene; how it comes is
VD201's and VD203's to say. Objects that lie elsewhere are within what other init states look like.

The shipped reference is of the stand-in assets. For LIBERO's own, and any other environment, make one of a run that you
trust, and name it in the run file:

```
vladoctor fingerprint run.yaml -o scenes.json
```

```yaml
profile:
  overrides: {environment.scenes: scenes.json}
```

## Why it is bad

A policy has seen a few hundred episodes of one renderer. MuJoCo from 3.3.3 on draws LIBERO's floors darker, and
success on LIBERO-Object went from 88 % to 68 % with nothing else changed. Two environments, or a second renderer, in
one process draw with each other's meshes and textures: no error, mean and standard deviation of the frames often as
usual, and objects that are not there.

## Evidence

`correlation` of the cells with the nearest reference, the mean `difference` in levels, `gain` and `offset` from the
reference to the frame, and the share of cells that are `far` off once these are taken away; MuJoCo's version here and
there.

## Fix

One environment and one renderer a process (spawned, not forked). For the light: `pip install mujoco==3.3.2`, or the
version that your checkpoint's success was measured with.

## Known gaps

Only first frames are compared, so a second renderer that is made later is not found, and only where there is a
reference for the task; without one nothing is said. Another texture of the same colour is not seen. How much a GPU's
drawing differs from llvmpipe's, of which the shipped reference is, was not measured here.

## References

- openvla/openvla#282: 68 % in the place of 88 % on LIBERO-Object, solved with mujoco 3.3.2.
- Lifelong-Robot-Learning/LIBERO#140: images darker than those of the training; the version should be pinned.
- LUOyk1999/SimVLA#14: success from 98 % to 91 % by MuJoCo's version.
- strands-labs/robots#166, #167: fallback cameras and a second robot in the scene.
- Measured with robosuite 1.4.0, mujoco 3.8.1: an environment with another robot, made and reset in the same process,
  fills agentview with one enlarged mesh; nothing is raised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from vladoctor.check import Abstention, Check, Clear, Fault, Problem, Severity, Stage, Verdict
from vladoctor.facts.scene import REFERENCE, Likeness, Reference, cameras_of, compare, first_frame, references, scene_of

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.loop import Loop

THRESHOLDS = {
    # Measured on libero_object, stand-in assets, llvmpipe: init states 0 to 29 and 8 random placements against the 20
    # states of the shipped reference (30 to 49), these against each other, and the faults.
    #
    # Correlation from which the cells are those of the scene. Healthy 0.994 and more; lights at two thirds 0.986;
    # another camera, or another environment's meshes, below 0.
    "correlation": 0.97,
    # Share of cells that may be far off. Healthy up to 0.008.
    "far": 0.03,
    # Mean difference in levels from which the light is another one. Healthy up to 1.3; lights at two thirds 27.
    "light": 5.0,
    # Standard deviation, in levels, of a frame that shows nothing: VD101's.
    "blank_std": 1.0,
}


def judge(facts: Facts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Compare the first frames with the nearest fingerprint of their scene."""
    try:
        known = references(facts)
    except (OSError, ValueError) as error:
        yield Abstention(f"the fingerprints of {facts.profile.get(REFERENCE)} could not be read: {error}", missing=True)
        return
    if not known:
        suite, task, assets = scene_of(facts.episode)
        what = f"{suite or 'no known suite'}, task {task or 'not known'}, assets {assets or 'not known'}"
        yield Abstention(f"there are no fingerprints of this scene ({what}); vladoctor fingerprint makes them")
        return
    clear: list[tuple[str, Likeness]] = []
    said = False
    for camera in cameras_of(known):
        frame = first_frame(facts.episode, camera)
        if frame is None or float(frame.thumbnail.std()) <= limits["blank_std"]:
            continue
        found = [(compare(frame, one), one) for one in known if one.camera == camera]
        likeness, reference = max(found, key=lambda pair: (_right(pair[0], limits), pair[0].correlation))
        if likeness.turned != "identity":
            said = True
            yield Abstention(f"the {camera} frames show the scene, but only as {likeness.turned}")
        elif _right(likeness, limits):
            clear.append((camera, likeness))
        else:
            said = True
            yield _problem(facts, camera, likeness, reference, limits)
    if clear and not said:
        yield _clear(clear)
    elif not said:
        yield Abstention(
            "the first frames of the cameras that there are fingerprints of were not recorded, or show nothing"
        )


def _is_scene(likeness: Likeness, limits: Mapping[str, float]) -> bool:
    return likeness.correlation >= limits["correlation"] and likeness.far <= limits["far"]


def _right(likeness: Likeness, limits: Mapping[str, float]) -> bool:
    return _is_scene(likeness, limits) and likeness.difference <= limits["light"]


def _problem(
    facts: Facts, camera: str, likeness: Likeness, reference: Reference, limits: Mapping[str, float]
) -> Problem:
    scene = _is_scene(likeness, limits)
    here = str((facts.episode.run.get("versions") or {}).get("mujoco") or "")
    versions = ""
    if here and reference.mujoco and here != reference.mujoco:
        versions = f" This is mujoco {here}, the reference was drawn by {reference.mujoco}."
    first = facts.episode.steps[0].number
    return Problem(
        message=(
            f"The first frame of camera {camera} shows the scene in another light: {_light_of(likeness)} than in the "
            f"reference.{versions} Where that is not meant, the policy sees what it was not trained on."
            if scene
            else f"The first frame of camera {camera} does not show this task's scene: {_scene_of(likeness, limits)}."
            f"{versions} What the policy sees is not what it acts in."
        ),
        remedy=(
            "Use the MuJoCo version that the checkpoint's success was measured with (from 3.3.3 on LIBERO's floors "
            "are darker: `pip install mujoco==3.3.2`), and look at what changes the scene's lights. If this light is "
            "meant, make a reference of it: `vladoctor fingerprint`."
            if scene
            else "Look at the frame. Keep one environment and one renderer a process: a second one draws with the "
            "other one's meshes and textures. If this is another scene on purpose, make a reference of it: "
            "`vladoctor fingerprint`."
        ),
        severity=Severity.LOOK if scene else Severity.STOP,
        first_step=first,
        evidence={
            "expected": f"the scene as in {reference.source} (init state {likeness.state})",
            "seen": "another light" if scene else "another scene",
            "camera": camera,
            "correlation": round(likeness.correlation, 3),
            "difference": round(likeness.difference, 1),
            "gain": round(likeness.gain, 3),
            "offset": round(likeness.offset, 1),
            "far": round(likeness.far, 3),
            "mujoco": f"{here or 'not known'} (reference: {reference.mujoco or 'not known'})",
        },
        frames=({"title": f"first {camera} frame", "step": first, "camera": camera},),
        stage=Stage.RENDER,
    )


def _scene_of(likeness: Likeness, limits: Mapping[str, float]) -> str:
    if likeness.correlation >= limits["correlation"]:
        return f"{likeness.far:.0%} of the picture has other colours altogether than the nearest reference"
    return f"its colours correlate to {likeness.correlation:.2f} with the nearest reference, where 0.99 is usual"


def _light_of(likeness: Likeness) -> str:
    # At a middle grey, where both gain and offset count.
    change = likeness.gain * 128.0 + likeness.offset - 128.0
    return f"{abs(change):.0f} levels {'darker' if change < 0 else 'brighter'} at a middle grey"


def _clear(found: list[tuple[str, Likeness]]) -> Clear:
    cameras = ", ".join(camera for camera, _ in found)
    worst = max((likeness for _, likeness in found), key=lambda likeness: likeness.difference)
    return Clear(
        f"the first frame of {cameras} shows the scene of the reference, {worst.difference:.1f} levels off on average",
        {"correlation": round(worst.correlation, 4), "difference": round(worst.difference, 2), "state": worst.state},
    )


def _second_env(loop: Loop) -> None:
    """Make an environment with another robot in the same process, and reset, step and draw both in turn."""
    import robosuite

    second = robosuite.make(
        "Lift",
        robots="UR5e",
        has_renderer=False,
        has_offscreen_renderer=True,
        use_camera_obs=True,
        camera_names=["agentview"],
        camera_heights=64,
        camera_widths=64,
        ignore_done=True,
    )
    still = [0.0] * second.action_dim
    step, started, close = loop.env.step, loop.env.set_init_state, loop.env.close

    def stepped(action: Any) -> Any:
        second.step(still)
        return step(action)

    def begun(state: Any) -> Any:
        second.reset()
        return started(state)

    def closed() -> None:
        second.close()
        close()

    loop.env.step, loop.env.set_init_state, loop.env.close = stepped, begun, closed


def _light(factor: float) -> Callable[[Loop], None]:
    """Scene lights weaker by a factor, the rest as it was."""

    def apply(loop: Loop) -> None:
        started = loop.env.set_init_state

        def begun(state: Any) -> Any:
            model = loop.env.sim.model
            model.light_diffuse[:] *= factor
            model.light_ambient[:] *= factor
            model.light_specular[:] *= factor
            return started(state)

        loop.env.set_init_state = begun

    return apply


CHECK = Check(
    code="VD104",
    name="scene-mismatch",
    stage=Stage.RENDER,
    judge=judge,
    needs=(Stage.RENDER,),
    thresholds=THRESHOLDS,
    explained_by=("VD101", "VD103"),
    faults=(
        Fault(
            "second-env",
            "an environment with another robot is made, reset and stepped in the same process",
            _second_env,
        ),
        Fault(
            "darker-floor",
            "the scene's lights are weaker by a third, as under another MuJoCo version",
            _light(0.65),
            reports=("openvla/openvla#282", "Lifelong-Robot-Learning/LIBERO#140"),
        ),
    ),
)
