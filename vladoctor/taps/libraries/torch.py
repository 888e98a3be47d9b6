"""Compilation in PyTorch: what is compiled is to hold nothing of ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from vladoctor.taps.patch import Undo, wrap
from vladoctor.taps.policy import before_compile


def _compile(original: Callable[..., Any]) -> Callable[..., Any]:
    def compile(*args: Any, **kwargs: Any) -> Any:
        before_compile()
        return original(*args, **kwargs)

    return compile


def _hook(module: ModuleType) -> Sequence[Undo]:
    # `torch.nn.Module.compile` and transformers call this one.
    return [wrap(module, "compile", _compile)]


HOOKS = {"torch": _hook}
