"""The profile itself: values, where each comes from, and how a user replaces some."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from vladoctor.errors import UserError

UNSTATED = "not known"
"""Source of a key of which no file and no user says anything."""


@dataclass(frozen=True)
class Profile:
    """What one checkpoint family expects; keys are dotted, "image.orientation".

    Attributes:
        name: file name without its suffix.
        summary: one line for people.
        reason: why this profile was chosen for a checkpoint.
        inherits: names of the profiles that this one begins with, as its file has them.
    """

    name: str
    summary: str = ""
    values: Mapping[str, Any] = field(default_factory=dict, repr=False)
    sources: Mapping[str, str] = field(default_factory=dict, repr=False)
    reason: str = ""
    inherits: tuple[str, ...] = ()

    def get(self, key: str) -> Any:
        """The value expected for a key; None where nothing is expected.

        A value that is a table can be entered: `get("loop.horizon.libero_object")`.

        Raises:
            KeyError: no profile has such a key.
        """
        known, inner = self._split(key)
        value = self.values[known]
        for part in inner:
            value = value.get(part) if isinstance(value, Mapping) else None
        return value

    def source(self, key: str) -> str:
        """Where the value of a key comes from. Raises KeyError like `get`."""
        return self.sources[self._split(key)[0]]

    def states(self, key: str) -> bool:
        """Whether the profile or its user says anything about a key, be it that nothing is to be expected."""
        return self.get(key) is not None or self.source(key) != UNSTATED

    def keys(self) -> tuple[str, ...]:
        return tuple(self.values)

    def with_overrides(self, overrides: Mapping[str, Any], *, where: str = "profile") -> Profile:
        """A copy in which some values are replaced.

        Args:
            overrides: dotted or nested keys to values; null switches a comparison off. Tables (values per suite) are
                merged, everything else is replaced.
            where: the place in the user's file, for errors.

        Raises:
            UserError: a key that no profile has, or a value of another kind than the profile's own.
        """
        values, sources = dict(self.values), dict(self.sources)
        for key, value in _flatten(overrides, values):
            try:
                known, inner = self._split(key)
            except KeyError:
                raise UserError(
                    f"no profile has a key {key!r}", where=where, remedy=advice(key, self.values, "the keys are")
                ) from None
            for part in reversed(inner):
                value = {part: value}
            old = values[known]
            if not same_kind(old, value):
                raise UserError(
                    f"{known} is {value!r}, which is another kind of value than {old!r}",
                    where=f"{where}.{known}",
                    remedy="write a value of the same kind, or null to switch the comparison off",
                )
            table = isinstance(old, Mapping) and isinstance(value, Mapping)
            values[known] = {**old, **value} if table else value
            sources[known] = f"set by the user in {where}"
        return replace(self, values=values, sources=sources)

    def _split(self, key: str) -> tuple[str, list[str]]:
        """The known key that `key` is or lies in, and the parts that follow."""
        parts = key.split(".")
        for length in range(len(parts), 0, -1):
            known = ".".join(parts[:length])
            if known in self.values:
                return known, parts[length:]
        raise KeyError(f"no profile has a key {key!r}; {advice(key, self.values, 'the keys are')}")


def kind_of(value: Any) -> str:
    """truth, number, table, list or text."""
    if isinstance(value, bool):
        return "truth"
    if isinstance(value, (int, float)):
        return "number"
    return "table" if isinstance(value, Mapping) else "list" if isinstance(value, (list, tuple)) else "text"


def same_kind(old: Any, new: Any) -> bool:
    """Whether one value can stand in the place of the other; null can always."""
    return old is None or new is None or kind_of(old) == kind_of(new)


def advice(name: str, known: Iterable[str], listing: str) -> str:
    """ "did you mean ...?" where something near is known, else everything that is."""
    names = list(known)
    last = name.rsplit(".", 1)[-1]
    near = [key for key in names if last and last in key.rsplit(".", 1)[-1]]
    near = near or difflib.get_close_matches(name, names, 1)
    return f"did you mean {near[0]}?" if near else f"{listing} {', '.join(names)}"


def _flatten(tree: Mapping[str, Any], known: Iterable[str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values; a table is entered only as long as it is a group of keys and not a value."""
    for name, value in tree.items():
        key = f"{prefix}{name}"
        group = any(other.startswith(f"{key}.") for other in known)
        if isinstance(value, Mapping) and (group or not prefix):
            yield from _flatten(value, known, f"{key}.")
        else:
            yield key, value
