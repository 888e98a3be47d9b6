"""Watches LIBERO's environment at its own boundary: `reset`, `set_init_state`, `step`, `check_success`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

import numpy as np

from vladoctor.taps.patch import undo_all, wrap
from vladoctor.taps.recorder import Recorder, describe, numbers
from vladoctor.taps.rendering import gl_facts

PROPRIO = (
    "robot0_eef_pos",
    "robot0_eef_quat",
    "robot0_gripper_qpos",
    "robot0_gripper_qvel",
    "robot0_joint_pos",
)
"""Observations that are recorded besides the frames: metres, quaternion xyzw, metres, metres/s, radians."""

START_STATE = "start_state"
"""Call under which the simulator's state before an episode's first step is kept."""


def watch_env(
    env: Any, recorder: Recorder, cameras: Sequence[str], *, proprio: Sequence[str] = PROPRIO
) -> Callable[[], None]:
    """Record what an environment is told and what it answers. Returns the call that ends it.

    A step's frames and proprio are those of the observation that was returned last before it, by `reset`,
    `set_init_state` or `step`. Resets, init states (with their values) and `check_success` are kept as
    `info["vladoctor"]["calls"]` of the step that comes after them; a `step` that raises is written as a step, with
    {"call": "step", "raised": ...} there.

    Args:
        env: LIBERO's `OffScreenRenderEnv`, or anything with its `step` and `reset`; that instance only is touched.
        cameras: names; frames are `obs["<name>_image"]`, uint8 (H, W, 3), rows as they come.
        proprio: names of observations to keep, where there are such.
    """
    depth = 0
    begun = False

    def look(obs: Any) -> None:
        if not isinstance(obs, Mapping):
            recorder.note(f"observations are not recorded: {type(obs).__name__} instead of a dict")
            return
        for camera in cameras:
            if f"{camera}_image" not in obs:
                recorder.note(f"camera {camera} is not recorded: the observation has no {camera}_image")
        frames = {camera: obs[f"{camera}_image"] for camera in cameras if f"{camera}_image" in obs}
        recorder.observed(frames, {name: obs[name] for name in proprio if name in obs})

    def tap_step(original: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            if not recorder.active:
                return original(*args, **kwargs)
            nonlocal begun
            with recorder.tap:
                if not begun:
                    begun = True
                    state = simulator_state(inner)
                    if state is not None:
                        recorder.called(START_STATE, state=state)
                recorder.acting(args[0] if args else kwargs.get("action"))
            began = perf_counter()
            try:
                result = original(*args, **kwargs)
            except BaseException as error:
                with recorder.tap:
                    recorder.took("execute", perf_counter() - began)
                    recorder.called("step", raised=describe(error))
                    recorder.stepped()
                raise
            elapsed = perf_counter() - began
            if recorder.active:
                with recorder.tap:
                    recorder.took("execute", elapsed)
                    obs, reward, *ends, info = result
                    # LIBERO's done is its success predicate and nothing else; Gymnasium's comes in two.
                    done = any(bool(end) for end in ends)
                    success = done if len(ends) == 1 else None
                    recorder.stepped(reward=float(reward), done=done, success=success, info=info)
                    look(obs)
                recorder.mark("observed")
            return result

        return step

    def tap_call(
        name: str, describe_call: Callable[..., Mapping[str, Any]], observes: bool = False
    ) -> Callable[..., Any]:
        def tap(original: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal depth, begun
                if not recorder.active:
                    return original(*args, **kwargs)
                depth += 1
                try:
                    result = original(*args, **kwargs)
                except BaseException as error:
                    with recorder.tap:
                        recorder.called(name, raised=describe(error))
                    raise
                finally:
                    depth -= 1
                # LIBERO's own reset calls the one below it: one call, one record.
                if depth == 0 and recorder.active:
                    with recorder.tap:
                        recorder.called(name, **describe_call(result, *args, **kwargs))
                        if observes:
                            begun = False
                            look(result[0] if isinstance(result, tuple) and result else result)
                    recorder.mark("observed")
                return result

            return call

        return tap

    inner = getattr(env, "env", None)
    undo = [wrap(env, "step", tap_step)]
    for owner, name, facts, observes in (
        (env, "reset", _nothing, True),
        (inner, "reset", _nothing, True),
        (env, "set_init_state", _state, True),
        (env, "check_success", _answer, False),
        (env, "seed", _seed, False),
    ):
        if callable(getattr(owner, name, None)):
            undo.append(wrap(owner, name, tap_call(name, facts, observes)))
    return recorder.attach(lambda: undo_all(undo))


def simulator_state(env: Any) -> list[float] | None:
    """Time, positions and velocities of a robosuite environment's simulator, as `set_init_state` takes them."""
    try:
        return list(numbers(env.sim.get_state().flatten()))
    except Exception:  # noqa: BLE001 - another simulator, or one that is closed
        return None


def environment_facts(env: Any) -> dict[str, Any]:
    """What a robosuite environment was made with, as `records.Episode.task` wants it; what is not known is left out.

    Returns:
        control_freq (Hz), environment_horizon (control steps after which it refuses another), model_timestep (seconds),
        and `gl`: how it draws, see `taps.rendering.gl_facts`.
    """
    below = getattr(env, "env", env)
    found = {
        "control_freq": getattr(below, "control_freq", None),
        "environment_horizon": getattr(below, "horizon", None),
        "model_timestep": getattr(below, "model_timestep", None),
    }
    facts: dict[str, Any] = {name: float(value) for name, value in found.items() if isinstance(value, (int, float))}
    return {**facts, "gl": gl_facts()}


def camera_geometry(env: Any, cameras: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Read where cameras are from the simulator's model, as `records.Episode.task` wants it; renders nothing.

    Returns:
        camera -> {"position": 3 metres in the world frame, "rotation": 9, row-major camera-to-world in MuJoCo's axes (x
        right, y up, looking along -z), "fovy_deg": vertical field of view, "height", "width": of its frames in pixels}.
        Cameras that the simulator does not know are left out, all of them where there is no simulator.
    """
    below = getattr(env, "env", env)
    sim: Any = getattr(below, "sim", None)
    geometry: dict[str, dict[str, Any]] = {}
    for camera in cameras:
        try:
            index = sim.model.camera_name2id(camera)
        except (AttributeError, ValueError, KeyError):
            continue
        height, width = _frame_size(below, camera)
        geometry[camera] = {
            "position": list(numbers(sim.data.cam_xpos[index])),
            "rotation": list(numbers(sim.data.cam_xmat[index])),
            "fovy_deg": float(sim.model.cam_fovy[index]),
            "height": height,
            "width": width,
        }
    return geometry


def _frame_size(env: Any, camera: str) -> tuple[int | None, int | None]:
    names = list(getattr(env, "camera_names", ()))
    if camera not in names:
        return None, None
    heights, widths = numbers(env.camera_heights), numbers(env.camera_widths)
    index = names.index(camera)
    return int(heights[index % len(heights)]), int(widths[index % len(widths)])


def _nothing(result: Any, *args: Any, **kwargs: Any) -> Mapping[str, Any]:
    return {}


def _state(result: Any, *args: Any, **kwargs: Any) -> Mapping[str, Any]:
    state = args[0] if args else next(iter(kwargs.values()), None)
    return {"state": list(numbers(state))} if state is not None else {}


def _seed(result: Any, *args: Any, **kwargs: Any) -> Mapping[str, Any]:
    seed = args[0] if args else next(iter(kwargs.values()), None)
    return {"seed": int(seed)} if isinstance(seed, (int, np.integer)) else {}


def _answer(result: Any, *args: Any, **kwargs: Any) -> Mapping[str, Any]:
    return {"answer": bool(result)}
