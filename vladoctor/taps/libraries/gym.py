"""Old Gym's environments: four values of a step up to 0.25, five since; bare observations of a reset up to 0.25."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import ModuleType

from vladoctor.taps.libraries import gymnasium
from vladoctor.taps.libraries.environment import specialise
from vladoctor.taps.patch import Undo

ADAPTER = replace(gymnasium.ADAPTER, name="gym")
VECTOR = replace(gymnasium.VECTOR, name="gym")


def _hook(module: ModuleType) -> Sequence[Undo]:
    return [gymnasium.tap_env(module, ADAPTER)]


def _hook_vector(module: ModuleType) -> Sequence[Undo]:
    # Before 0.26 a vector environment was an Env as well.
    return [gymnasium.tap_vector(module.VectorEnv, VECTOR), specialise(module.VectorEnv, VECTOR)]


HOOKS = {"gym.core": _hook, "gym.vector.vector_env": _hook_vector}
