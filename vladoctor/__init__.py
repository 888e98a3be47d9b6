"""vladoctor finds what quietly breaks closed-loop evaluation of vision-language-action models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vladoctor.taps.environments import EnvAdapter, Transition
    from vladoctor.watching import Doctor, watch

__version__ = "0.1.0"

__all__ = ["Doctor", "EnvAdapter", "Transition", "__version__", "watch"]

_HOMES = {
    "Doctor": "vladoctor.watching",
    "EnvAdapter": "vladoctor.taps.environments",
    "Transition": "vladoctor.taps.environments",
    "watch": "vladoctor.watching",
}


def __getattr__(name: str) -> Any:
    # Late, so that `import vladoctor` costs nothing.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value
