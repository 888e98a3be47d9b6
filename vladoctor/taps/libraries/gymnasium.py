"""Gymnasium's environments of every kind, and old Gym's, from which they differ in nothing that matters here.

Vector environments whose single ones live in this process are known by those; of the others (worker processes, one
simulation for all) the batch is taken apart.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from vladoctor.taps.environments import INSTRUCTIONS, EnvAdapter, Part, Transition, first, row, scalar, success_in
from vladoctor.taps.libraries.environment import tap
from vladoctor.taps.patch import Undo, wrap_classes


def describe(env: Any) -> Mapping[str, Any]:
    """Registered name, time limit, and the instruction where it is a plain attribute; no property is asked."""
    base = getattr(env, "unwrapped", env)
    spec = getattr(base, "spec", None)
    name = str(getattr(spec, "id", None) or type(base).__name__)
    facts = {"name": name, "label": name, "environment_horizon": getattr(spec, "max_episode_steps", None)}
    for attribute in INSTRUCTIONS:
        text = inspect.getattr_static(base, attribute, None)
        if isinstance(text, str) and text:
            return {**facts, "language": text}
    return facts


def inside(env: Any) -> Any:
    """The environment below all wrappers."""
    return getattr(env, "unwrapped", None)


def size(env: Any) -> int | None:
    """How many environments a vector environment holds."""
    found = getattr(env, "num_envs", None)
    return int(found) if isinstance(found, (int, np.integer)) else None


def autoreset(env: Any) -> str:
    """When a vector environment begins the next episode.

    Sources: Farama-Foundation/Gymnasium v1.1, vector/vector_env.py, AutoresetMode in the metadata ("NextStep",
    "SameStep", "Disabled"); 1.0 knows the first only; before it, and in Gym, the second.
    """
    mode = (getattr(env, "metadata", None) or {}).get("autoreset_mode")
    if mode is not None:
        return {"NextStep": "next", "SameStep": "same"}.get(str(getattr(mode, "value", mode)), "")
    return "next" if _version(env) >= 1 else "same"


def split(env: Any, kind: str, given: Mapping[str, Any], result: Any) -> Iterator[Part]:
    """One part for each environment: arrays by row, dicts of arrays, infos with their masks ("_key") or as a list."""
    count = size(env) or 0
    if kind == "reset":
        batch = first(result)
        infos = result[1] if batch is not result else {}
        chosen = (given.get("options") or {}).get("reset_mask")
        for place in range(count):
            if chosen is None or chosen[place]:
                yield Part(place, Transition(row(batch, place), info=info_of(infos, place)))
    elif kind == "step" and isinstance(result, tuple) and len(result) in (4, 5):
        batch, rewards, *ends, infos = result
        actions = next((given[name] for name in ("actions", "action") if name in given), None)
        for place in range(count):
            info = info_of(infos, place)
            done = any(bool(scalar(row(end, place))) for end in ends)
            transition = Transition(row(batch, place), scalar(row(rewards, place)), done, success_in(info), info)
            yield Part(place, transition, row(actions, place))


def info_of(infos: Any, place: int) -> Mapping[str, Any]:
    """What a vector environment's info says of one of them.

    Source: Farama-Foundation/Gymnasium v1.1, vector/vector_env.py, `_add_info`. Elsewhere it is a list.
    """
    if isinstance(infos, (list, tuple)):
        return infos[place] if place < len(infos) else {}
    if not isinstance(infos, Mapping):
        return {}
    found: dict[str, Any] = {}
    for name, value in infos.items():
        mask = infos.get(f"_{name}")
        is_mask = str(name).startswith("_") and str(name)[1:] in infos
        if is_mask or (mask is not None and not mask[place]):
            continue
        found[name] = info_of(value, place) if isinstance(value, Mapping) else row(value, place)
    return found


ADAPTER = EnvAdapter("gymnasium", describe=describe, inner=inside)
VECTOR = EnvAdapter("gymnasium", describe=describe, split=split, size=size, autoreset=autoreset)


def tap_env(module: ModuleType, adapter: EnvAdapter) -> Undo:
    """Tap `module.Env` and all classes below it."""
    makers = {
        "reset": tap(adapter, "reset"),
        "step": tap(adapter, "step"),
        "render": tap(adapter, "render"),
        "seed": tap(adapter, "call", "seed"),
        "get_language_instruction": tap(adapter, "call", "get_language_instruction"),
        "close": tap(adapter, "close"),
    }
    return wrap_classes(module.Env, makers)


def tap_vector(base: type, adapter: EnvAdapter) -> Undo:
    """Tap a class of vector environments and all below it; some have `step` in two halves."""
    makers = {
        "reset": tap(adapter, "reset"),
        "reset_wait": tap(adapter, "reset"),
        "step": tap(adapter, "step"),
        "step_async": tap(adapter, "send"),
        "step_wait": tap(adapter, "step"),
        "close": tap(adapter, "close"),
    }
    return wrap_classes(base, makers)


def _version(env: Any) -> int:
    library = next((name for one in type(env).__mro__ if (name := one.__module__.partition(".")[0]) in _NAMES), "")
    number = str(getattr(sys.modules.get(library), "__version__", "0")).partition(".")[0]
    return int(number) if number.isdigit() and library == "gymnasium" else 0


_NAMES = ("gymnasium", "gym")


def _hook(module: ModuleType) -> Sequence[Undo]:
    return [tap_env(module, ADAPTER)]


def _hook_vector(module: ModuleType) -> Sequence[Undo]:
    return [tap_vector(module.VectorEnv, VECTOR)]


HOOKS = {"gymnasium.core": _hook, "gymnasium.vector.vector_env": _hook_vector}
