"""Gymnasium's environments of every kind."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

from vladoctor.taps.environments import EnvAdapter
from vladoctor.taps.libraries.environment import tap
from vladoctor.taps.patch import Undo, wrap_classes

ADAPTER = EnvAdapter("gymnasium")


def _hook(module: ModuleType) -> Sequence[Undo]:
    return [wrap_classes(module.Env, {"reset": tap(ADAPTER, "reset"), "step": tap(ADAPTER, "step")})]


HOOKS = {"gymnasium.core": _hook}
