"""What a loop runs on: how its model stands, in which numbers, from which weights and code, and how long it takes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from vladoctor.profiles import Profile
    from vladoctor.records import Episode

BYTES = {"float64": 8, "float32": 4, "int32": 4, "bfloat16": 2, "float16": 2, "int16": 2}
"""Bytes of a number; what is quantised has 1 or less."""

FLOATS = ("float64", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Standing:
    """How the model stood from a query on; see `taps.checkpoint.model_state`.

    Attributes:
        step: number of the first step for which it holds.
    """

    step: int
    state: Mapping[str, Any]

    @property
    def dtypes(self) -> Mapping[str, int]:
        """Dtype -> number of values."""
        found: Mapping[str, int] = self.state.get("dtypes") or {}
        return found

    @property
    def dtype(self) -> str:
        """In which most values are kept; "" where that is not known."""
        return max(self.dtypes, key=lambda name: self.dtypes[name], default="")

    @property
    def gigabytes(self) -> float:
        """What the weights take, in GiB."""
        return gigabytes(self.dtypes)

    @property
    def device(self) -> str:
        """Where most values are: "cpu", "cuda:0"; "" where that is not known."""
        devices: Mapping[str, int] = self.state.get("devices") or {}
        return max(devices, key=lambda name: devices[name], default="")


def gigabytes(dtypes: Mapping[str, int]) -> float:
    """GiB of so many values in each dtype."""
    return sum(count * BYTES.get(name, 1) for name, count in dtypes.items()) / 2**30


def standings(episode: Episode) -> list[Standing]:
    """How the model stood, the first query first; what only the run says of it where no query does. May be empty."""
    found = [Standing(number, query.model) for number, query in episode.queries() if query.model]
    state = (episode.run.get("checkpoint") or {}).get("state") or {}
    return found or ([Standing(0, state)] if state and any(True for _ in episode.queries()) else [])


def asked_dtype(episode: Episode) -> str:
    """The dtype that the run file asks for, or ""."""
    model = (episode.run.get("spec") or {}).get("model") or {}
    return str(model.get("dtype") or "")


# Versions.


def release(version: str) -> tuple[int, ...]:
    """The numbers of a version: "5.23.0" -> (5, 23, 0), "2.13.0+cpu" -> (2, 13, 0); () where it begins with none."""
    found = re.match(r"\s*v?(\d+(?:\.\d+)*)", version)
    return tuple(int(part) for part in found[1].split(".")) if found else ()


def within(version: str, asked: str) -> bool | None:
    """Whether a version is one of those that a specifier such as ">=4.56,<5,!=4.57.1" means; None if that is unclear.

    Compares released numbers only: "4.56.0rc1" counts as 4.56.0.
    """
    own = release(version)
    if not own:
        return None
    for part in asked.split(","):
        found = re.fullmatch(r"\s*(==|!=|>=|<=|<|>)\s*([\d.]+)(\.\*)?\s*", part)
        if found is None:
            return None
        other, starred = release(found[2]), bool(found[3])
        length = len(other) if starred else max(len(own), len(other))
        one, two = (tuple([*numbers, *[0] * length][:length]) for numbers in (own, other))
        if not {"==": one == two, "!=": one != two, ">=": one >= two, "<=": one <= two, "<": one < two, ">": one > two}[
            found[1]
        ]:
            return False
    return True


@dataclass(frozen=True)
class Wanted:
    """A version that the family's own code asks for, and the one in use."""

    library: str
    version: str
    asked: str
    source: str
    met: bool | None


def wanted_versions(episode: Episode, profile: Profile) -> list[Wanted]:
    """What the profile asks for of every library that was seen."""
    versions = episode.run.get("versions") or {}
    found = []
    for key in profile.values:
        group, _, library = key.partition(".")
        asked = profile.get(key) if group == "versions" else None
        if isinstance(asked, str) and library in versions:
            version = str(versions[library])
            found.append(Wanted(library, version, asked, profile.source(key), within(version, asked)))
    return found


@cache
def known_breaks() -> Sequence[Mapping[str, Any]]:
    """Combinations that are known to change what a policy does; see known_breaks.json."""
    entries: list[dict[str, Any]] = json.loads((Path(__file__).parent / "known_breaks.json").read_text("utf-8"))[
        "breaks"
    ]
    return entries


@cache
def known_code() -> Mapping[str, Mapping[str, str]]:
    """Name of a module -> first 16 characters of its file's SHA-256 -> which release or fork it is of."""
    found: dict[str, dict[str, str]] = json.loads((Path(__file__).parent / "known_breaks.json").read_text("utf-8"))[
        "code"
    ]
    return found


@dataclass(frozen=True)
class Code:
    """A file of code that the model's classes come from.

    Attributes:
        digest: first 16 characters of its SHA-256.
        known: the release or the fork that it is of; "" where that is not known.
        both_directions: whether attention in it is not causal.
    """

    digest: str
    known: str
    both_directions: bool

    def __str__(self) -> str:
        return f"{self.digest} ({self.known or 'in no list'})"


def code_in_use(episode: Episode, module: str) -> Code | None:
    """The file that a module was read from; None where the model has no class of it, or that was not recorded."""
    for standing in standings(episode):
        identity = (standing.state.get("code") or {}).get(module)
        if identity:
            digest = str(identity.get("sha256", ""))
            return Code(digest, known_code().get(module, {}).get(digest, ""), bool(identity.get("both_directions")))
    return None


# Time.


@dataclass(frozen=True)
class Times:
    """Milliseconds that the steps of an episode took.

    Attributes:
        steps: numbers of the steps that are looked at; the first query and its step warm up and are not.
        policy: from the observation to the action, without what the taps took.
        execute: in env.step.
    """

    steps: np.ndarray
    policy: np.ndarray
    execute: np.ndarray


NOT_POLICY = ("execute", "taps", "vision")
"""Stages in `Step.timings` that are none of the policy's, or are counted in another one."""


def times(episode: Episode) -> Times | None:
    """How long the policy and the environment took; None where there are fewer than two steps with times."""
    rows = [
        (
            step.number,
            sum(
                value
                for name, value in step.timings.items()
                if name not in NOT_POLICY and not name.startswith("server ")
            ),
            float(step.timings.get("execute", 0.0)),
        )
        for step in episode.policy_steps()
        if "execute" in step.timings
    ][1:]
    if len(rows) < 2:
        return None
    table = np.array(rows, dtype=np.float64)
    return Times(table[:, 0].astype(int), table[:, 1], table[:, 2])


# Which suite a checkpoint is of.

SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90")


def suites_in(name: str) -> list[str]:
    """LIBERO suites that a checkpoint's name or a statistics key speaks of."""
    plain = re.sub(r"[^a-z0-9]+", "_", name.lower())
    if "libero" not in plain:
        return []
    words = {"libero_spatial": "spatial", "libero_object": "object", "libero_goal": "goal"}
    found = [suite for suite, word in words.items() if re.search(rf"(^|_){word}(_|$)", plain)]
    return found + [f"libero_{size}" for size in ("10", "90") if re.search(rf"(^|_)(libero_|long_?){size}(_|$)", plain)]


def statistics_keys(episode: Episode) -> list[str]:
    """Names of the checkpoint's own statistics."""
    return sorted((episode.run.get("checkpoint") or {}).get("norm_stats") or {})


def other_sets(keys: Sequence[str], accepted: Sequence[str], published: Mapping[str, Any]) -> Iterator[str]:
    """Keys that are known to be of something else than what is accepted."""
    for key in keys:
        if key in accepted:
            continue
        bare = key.removesuffix("_no_noops")
        if bare in SUITES or bare in published or key in published:
            yield key
