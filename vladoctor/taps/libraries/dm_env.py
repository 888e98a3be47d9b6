"""Environments in the manner of dm_env: `reset` and `step` return a time step, and a step after the end is a reset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from vladoctor.taps.environments import EnvAdapter, Transition, scalar
from vladoctor.taps.libraries.environment import tap
from vladoctor.taps.patch import Undo, wrap_classes

_FIRST, _LAST = 0, 2
"""Of `dm_env.StepType`. Source: google-deepmind/dm_env v1.6, _environment.py:56-67."""


def read_reset(result: Any) -> Any:
    """The observation in a time step."""
    return getattr(result, "observation", result)


def read_step(result: Any) -> Transition:
    """A time step says nothing of success: a discount of 0 ends an episode, well or badly."""
    kind = getattr(result, "step_type", None)
    discount = scalar(getattr(result, "discount", None))
    return Transition(
        read_reset(result),
        scalar(getattr(result, "reward", None)),
        kind == _LAST,
        info={} if discount is None else {"discount": discount},
        restarted=kind == _FIRST,
    )


def describe(env: Any) -> Mapping[str, Any]:
    """The class of the environment, or of the task that dm_control's hold."""
    task = vars(env).get("_task") if hasattr(env, "__dict__") else None
    name = type(env if task is None else task).__name__
    return {"name": name, "label": name}


ADAPTER = EnvAdapter("dm_env", read_reset=read_reset, read_step=read_step, describe=describe)


def _hook(module: ModuleType) -> Sequence[Undo]:
    makers = {"reset": tap(ADAPTER, "reset"), "step": tap(ADAPTER, "step"), "close": tap(ADAPTER, "close")}
    return [wrap_classes(module.Environment, makers)]


HOOKS = {"dm_env._environment": _hook}
