"""What the taps of all environment libraries share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vladoctor.taps.environments import EnvAdapter
from vladoctor.taps.patch import Maker, Undo
from vladoctor.taps.watch import current

_special: dict[type, EnvAdapter] = {}


def tap(adapter: EnvAdapter, kind: str, name: str = "") -> Maker:
    """The maker of a wrapper for a method of an environment's class; see `Watch.env_call`.

    Args:
        adapter: how to read it, unless `specialise` has named another for the object's class.
    """

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            watch = current()
            if watch is None:
                return original(self, *args, **kwargs)
            chosen = adapter_of(type(self), adapter)
            return watch.env_call(chosen, kind, self, original.__get__(self), args, kwargs, name=name)

        return call

    return make


def tap_object(env: Any, adapter: EnvAdapter, kind: str, name: str = "") -> Maker:
    """As `tap`, for what one object has been given as its method."""

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            watch = current()
            if watch is None:
                return original(*args, **kwargs)
            return watch.env_call(adapter, kind, env, original, args, kwargs, name=name)

        return call

    return make


def specialise(cls: type, adapter: EnvAdapter) -> Undo:
    """Have environments of this class, and of classes below it, read by another adapter than their library's."""
    _special[cls] = adapter

    def undo() -> None:
        _special.pop(cls, None)

    return undo


def adapter_of(cls: type, default: EnvAdapter) -> EnvAdapter:
    """The adapter of a class: that of the nearest class above it that has one."""
    return next((_special[one] for one in cls.__mro__ if one in _special), default) if _special else default
