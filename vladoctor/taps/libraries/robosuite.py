"""robosuite's environments, below all wrappers: `reset`, `step`, and the success predicate where the program asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from vladoctor.taps.env import PROPRIO, camera_geometry, environment_facts, simulator_state
from vladoctor.taps.environments import EnvAdapter, Transition, gym_transition, pictures
from vladoctor.taps.libraries.environment import tap
from vladoctor.taps.patch import Undo, wrap_classes


def read_step(result: Any) -> Transition:
    """As in old Gym; `done` is the horizon, and for LIBERO's environments (`libero.py`) success."""
    return gym_transition(result)


def proprio(observation: Any) -> dict[str, Any]:
    """The gripper's pose, opening and the joints: metres, quaternion xyzw, radians."""
    return {name: observation[name] for name in PROPRIO if name in observation}


def describe(env: Any) -> Mapping[str, Any]:
    """What holds for an episode: cameras and their geometry, control rate, horizon, how it draws, where it begins."""
    cameras = [str(name) for name in getattr(env, "camera_names", ()) or ()]
    return {
        **environment_facts(env),
        "name": type(env).__name__,
        "label": type(env).__name__,
        "cameras": camera_geometry(env, cameras) if getattr(env, "use_camera_obs", False) else {},
        "start_state": simulator_state(env),
    }


ADAPTER = EnvAdapter("robosuite", read_step=read_step, frames=pictures, proprio=proprio, describe=describe)


def _hook(module: ModuleType) -> Sequence[Undo]:
    makers = {
        "reset": tap(ADAPTER, "reset"),
        "step": tap(ADAPTER, "step"),
        # Where a reward asks for it, every step's success is known.
        "_check_success": tap(ADAPTER, "call", "check_success"),
        "close": tap(ADAPTER, "close"),
    }
    return [wrap_classes(module.MujocoEnv, makers)]


HOOKS = {"robosuite.environments.base": _hook}
