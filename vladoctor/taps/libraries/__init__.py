"""The taps on other people's libraries: one file each, none of which imports the library.

A file has `HOOKS`: module name -> what to do with that module once it is imported. It is given the module, wraps what
is to be seen, and returns the calls that undo it. A file is added here, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from types import ModuleType

from vladoctor.taps.patch import Undo

Hook = Callable[[ModuleType], Sequence[Undo]]

LIBRARIES = (
    "robosuite",
    "libero",
    "gymnasium",
    "gym",
    "dm_env",
    "stable_baselines3",
    "torch",
    "transformers",
    "loading",
    "lerobot",
    "openpi",
    "http",
    "servers",
    "vllm",
)
"""In the order in which they attach; the order decides nothing."""


def hooks() -> Iterator[tuple[str, Hook]]:
    """(module, hook) of all libraries."""
    for library in LIBRARIES:
        found: dict[str, Hook] = import_module(f"{__name__}.{library}").HOOKS
        yield from found.items()
