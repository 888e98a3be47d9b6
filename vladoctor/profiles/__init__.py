"""What a checkpoint expects of the loop around it: one YAML file a family, each value with its source.

A value of null means that nothing is expected and nothing is checked. A file may name another one under `inherits` and
then holds only what differs from it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from typing import Any

from vladoctor.errors import UserError

UNKNOWN = "unknown"
"""Name of the profile that expects nothing, for checkpoints of families that have none."""


@dataclass(frozen=True)
class Profile:
    """What one checkpoint family expects; keys are dotted, "image.orientation".

    Attributes:
        name: file name without its suffix, or "unknown".
        summary: one line for people.
        reason: why this profile was chosen for a checkpoint.
    """

    name: str
    summary: str = ""
    values: Mapping[str, Any] = field(default_factory=dict, repr=False)
    sources: Mapping[str, str] = field(default_factory=dict, repr=False)
    reason: str = ""

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
                    f"no profile has a key {key!r}", where=where, remedy=_advice(key, self.values, "the keys are")
                ) from None
            for part in reversed(inner):
                value = {part: value}
            old = values[known]
            if not _same_kind(old, value):
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
        raise KeyError(f"no profile has a key {key!r}; {_advice(key, self.values, 'the keys are')}")


def profile_names() -> tuple[str, ...]:
    """Names of the profiles that come with vladoctor."""
    files = resources.files(__package__).iterdir()
    return tuple(sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml")))


@cache
def load_profile(name: str) -> Profile:
    """Read a profile by name.

    Raises:
        UserError: there is no such profile.
    """
    if name not in profile_names():
        raise UserError(
            f"there is no profile {name!r}", where="profile", remedy=_advice(name, profile_names(), "the profiles are")
        )
    from ruamel.yaml import YAML

    file = resources.files(__package__).joinpath(f"{name}.yaml")
    document: dict[str, Any] = YAML(typ="safe", pure=True).load(file.read_text("utf-8"))
    parent = load_profile(document["inherits"]) if "inherits" in document else Profile(name)
    leaves = dict(_leaves({key: node for key, node in document.items() if isinstance(node, Mapping)}))
    return Profile(
        name,
        document["summary"],
        {**parent.values, **{key: leaf["value"] for key, leaf in leaves.items()}},
        {**parent.sources, **{key: leaf["source"] for key, leaf in leaves.items()}},
        reason="chosen by name",
    )


def find_profile(checkpoint: Mapping[str, Any], suite: str) -> Profile:
    """Choose the profile for a checkpoint in an environment; `Profile.reason` says why it was chosen.

    A checkpoint that is of no known family gets a profile that expects nothing: what needs no expectation is still
    checked.

    Args:
        checkpoint: `records.Episode.run["checkpoint"]`: model_type, architectures, name, norm_stats, pixel_mean.
        suite: name of the environment's suite, "libero_object"; may be empty.
    """
    name = str(checkpoint.get("name") or "").lower()
    described = [str(checkpoint.get("model_type") or ""), *map(str, checkpoint.get("architectures") or ())]
    keys = [str(key) for key in checkpoint.get("norm_stats") or {}]
    if not any("openvla" in text.lower() for text in described):
        kind = ", ".join(filter(None, described)) or "not recorded"
        return _unknown(f"no profile knows this kind of model ({kind})")
    if re.search(r"(?<![a-z])oft(?![a-z])", name) or len(checkpoint.get("pixel_mean") or ()) > 6:
        return _unknown("OpenVLA-OFT has no profile yet")
    # The hub's name is openvla-7b-v01; the official code tests for "openvla-v01" in one place and "v01" in another.
    if re.search(r"(?<![a-z0-9])v01(?![0-9])", name):
        return replace(load_profile("openvla-v01"), reason=f"the checkpoint's name ({name}) says v01")
    if not suite.startswith("libero"):
        return replace(load_profile("openvla"), reason=f"an OpenVLA model in an environment without profile ({suite})")
    own = [key for key in keys if key.startswith("libero")]
    if own:
        return replace(load_profile("openvla-libero"), reason=f"an OpenVLA model with statistics of {', '.join(own)}")
    if "libero" in name:
        return replace(load_profile("openvla-libero"), reason=f"an OpenVLA model named {name}")
    return replace(
        load_profile("openvla"),
        reason=f"an OpenVLA model without statistics of LIBERO ({_listed(keys) or 'none recorded'}): "
        "what its images should look like is not known",
    )


def _unknown(reason: str) -> Profile:
    keys = load_profile("openvla").keys()
    return Profile(UNKNOWN, "nothing is expected", dict.fromkeys(keys), dict.fromkeys(keys, "not known"), reason)


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    for key, node in tree.items():
        if "value" in node:
            yield f"{prefix}{key}", node
        else:
            yield from _leaves(node, f"{prefix}{key}.")


def _flatten(tree: Mapping[str, Any], known: Iterable[str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values; a table is entered only as long as it is a group of keys and not a value."""
    for name, value in tree.items():
        key = f"{prefix}{name}"
        group = any(other.startswith(f"{key}.") for other in known)
        if isinstance(value, Mapping) and (group or not prefix):
            yield from _flatten(value, known, f"{key}.")
        else:
            yield key, value


def _same_kind(old: Any, new: Any) -> bool:
    def kind(value: Any) -> str:
        if isinstance(value, bool):
            return "truth"
        if isinstance(value, (int, float)):
            return "number"
        return "table" if isinstance(value, Mapping) else "list" if isinstance(value, (list, tuple)) else "text"

    return old is None or new is None or kind(old) == kind(new)


def _advice(name: str, known: Iterable[str], listing: str) -> str:
    names = list(known)
    last = name.rsplit(".", 1)[-1]
    near = [key for key in names if last and last in key.rsplit(".", 1)[-1]]
    near = near or difflib.get_close_matches(name, names, 1)
    return f"did you mean {near[0]}?" if near else f"{listing} {', '.join(names)}"


def _listed(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
