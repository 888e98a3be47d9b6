"""Stable-Baselines3's vector environments: an array of rewards and of ends, a list of infos, the next reset at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

from vladoctor.taps.environments import Part
from vladoctor.taps.libraries import gymnasium
from vladoctor.taps.patch import Undo


def split(env: Any, kind: str, given: Mapping[str, Any], result: Any) -> Iterator[Part]:
    """As Gymnasium's; `reset` returns observations alone."""
    return gymnasium.split(env, kind, given, (result, {}) if kind == "reset" else result)


def describe(env: Any) -> Mapping[str, Any]:
    """Its class; the environments below are in other processes."""
    return {"name": type(env).__name__, "label": type(env).__name__}


def autoreset(env: Any) -> str:
    """Always in the step that ends an episode.

    Source: DLR-RM/stable-baselines3 v2.3, common/vec_env/subproc_vec_env.py, `_worker`.
    """
    return "same"


VECTOR = replace(gymnasium.VECTOR, name="stable-baselines3", describe=describe, split=split, autoreset=autoreset)


def _hook(module: ModuleType) -> Sequence[Undo]:
    return [gymnasium.tap_vector(module.VecEnv, VECTOR)]


HOOKS = {"stable_baselines3.common.vec_env.base_vec_env": _hook}
