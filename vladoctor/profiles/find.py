"""Which profile a checkpoint in an environment is judged by, and why.

What is looked at, the surer first: the policy's own type, where a tap could see it (`family_hint`, `class`), what the
checkpoint's config says (`model_type`, `architectures`), its statistics, the channels of its input and the rows of its
answers, and last its name. What fits several families, or a family in an environment of which nobody has published how
it runs there, gets the profile that expects nothing, and the reason says which could be named.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from vladoctor.profiles.files import UNKNOWN, load_profile
from vladoctor.profiles.profile import Profile

ENVIRONMENTS: Mapping[str, str] = {
    "libero": "libero",
    "simpler": "simplerenv",
    "google_robot": "simplerenv",
    "widowx": "simplerenv",
}
"""Start of a suite's name -> profile of its environment."""

LEROBOT: Mapping[str, str] = {"pi0": "pi0", "pi05": "pi05", "smolvla": "smolvla", "xvla": "xvla"}
"""`policy.config.type` of LeRobot -> middle part of its profile's name."""


@dataclass(frozen=True)
class _Family:
    """A family that is known by a word in its class, its config or its name.

    Attributes:
        label: as people write it.
        pattern: regular expression, lower case.
        profiles: environment's profile ("" for any other) -> the family's profile there.
    """

    label: str
    pattern: str
    profiles: Mapping[str, str]


FAMILIES = (
    _Family("CogACT", r"cogact", {"simplerenv": "cogact-simpler"}),
    _Family("TraceVLA", r"trace[-_]?vla", {"simplerenv": "tracevla-simpler"}),
    _Family("SpatialVLA", r"spatial[-_]?vla", {"simplerenv": "spatialvla-simpler"}),
    _Family("UniVLA", r"(?<![a-z])univla(?![a-z])", {"libero": "univla-libero"}),
    _Family("GR00T N1.5", r"gr00t[-_ ]?n1[._d-]?5", {"libero": "gr00t-n1.5-libero"}),
    _Family("GR00T N1.6", r"gr00t[-_ ]?n1[._d-]?6", {"libero": "gr00t-n1.6-libero"}),
    _Family("GR00T N1.7", r"gr00t[-_ ]?n1[._d-]?7", {"": "gr00t-n1.7", "libero": "gr00t-n1.7-libero"}),
    _Family("Octo", r"(?<![a-z])octo(?![a-z])|octomodel", {"": "octo", "simplerenv": "octo-simpler"}),
    _Family("RDT-1B", r"(?<![a-z])rdt[-_]?1b|rdt_?runner|roboticdiffusiontransformer", {"": "rdt-1b"}),
    _Family("RT-1", r"(?<![a-z])rt[-_]?1(?![0-9])", {"": "rt-1", "simplerenv": "rt-1"}),
    _Family("RT-2", r"(?<![a-z])rt[-_]?2(?![0-9])", {"": "rt-2"}),
)
"""Families apart from OpenVLA, openpi and LeRobot, which need more than a word."""

RELATIVES = r"mini[-_]?vla|vla[-_]?adapter|(?<![a-z])ecot(?![a-z])"
"""Names of models that load as OpenVLA and expect other things; none has a profile."""

_STEP_FOLDER = r"(checkpoints?|steps?|epoch)?[-_]?\d*|last|latest|best|final|params|pretrained_model"
"""Names of folders within a checkpoint's own."""

_PI = r"(?<![a-z])pi[-_]?0"


def environment_profile(suite: Any) -> str:
    """Name of the profile of a suite's environment, "libero" for "libero_object"; "" where there is none."""
    name = _word(suite)
    return next((profile for start, profile in ENVIRONMENTS.items() if name.startswith(start)), "")


def find_profile(checkpoint: Mapping[str, Any], suite: str) -> Profile:
    """Choose the profile for a checkpoint in an environment; `Profile.reason` says why it was chosen.

    A checkpoint that is of no known family gets a profile that expects nothing: what needs no expectation is still
    checked. Values of another type than is written here count as not recorded; nothing is raised.

    Args:
        checkpoint: `records.Episode.run["checkpoint"]`, of which are looked at: name (path or hub id), model_type,
            architectures, norm_stats (by key), pixel_mean (by channel of the input), and where a tap recorded them
            family_hint ("lerobot.smolvla", "openpi"), server_metadata (of an openpi server), class (qualified name of
            the policy's or the model's class) and chunk (rows that one query returns).
        suite: name of the environment's suite, "libero_object"; may be empty.
    """
    seen = _Seen.of(checkpoint, suite)
    name, reason = _choose(seen)
    return replace(load_profile(name), reason=reason)


@dataclass(frozen=True)
class _Seen:
    """What is known of a checkpoint, as plain lower-case words.

    Attributes:
        name: id on a hub, or of a path the folder that is named after the checkpoint.
        described: what its config and class say, as written.
        hint: "lerobot.<type>", "openpi" or "".
        environment: name of the environment's profile, or "".
        metadata: everything that an openpi server says of itself, as one text.
    """

    name: str
    described: tuple[str, ...]
    hint: str
    keys: tuple[str, ...]
    channels: int
    chunk: int
    metadata: str
    suite: str
    environment: str

    @classmethod
    def of(cls, checkpoint: Any, suite: Any) -> _Seen:
        known: Mapping[str, Any] = checkpoint if isinstance(checkpoint, Mapping) else {}
        chunk, statistics, kind = known.get("chunk"), known.get("norm_stats"), _word(known.get("class"))
        hint = _word(known.get("family_hint"))
        policy = re.match(r"lerobot\.(?:common\.)?policies\.(\w+)\.", kind)
        if not hint and policy:
            hint = f"lerobot.{policy[1]}"
        elif not hint and kind.startswith("openpi"):
            hint = "openpi"
        texts = (_text(known.get("model_type")), *_texts(known.get("architectures")), _text(known.get("class")))
        return cls(
            name=_short(_word(known.get("name"))),
            described=tuple(filter(None, texts)),
            hint=hint,
            keys=tuple(map(str, statistics)) if isinstance(statistics, Mapping) else (),
            channels=len(_texts(known.get("pixel_mean"))),
            chunk=chunk if isinstance(chunk, int) and not isinstance(chunk, bool) else 0,
            metadata=str(known.get("server_metadata") or "").lower(),
            suite=_text(suite),
            environment=environment_profile(suite),
        )

    @property
    def place(self) -> str:
        return self.suite or "an environment that was not recorded"

    def says(self, pattern: str) -> bool:
        """Whether config or class say a word."""
        return any(re.search(pattern, text.lower()) for text in self.described)


def _choose(seen: _Seen) -> tuple[str, str]:
    """Name of the profile and the reason."""
    if seen.hint.startswith("lerobot."):
        return _lerobot(seen, seen.hint.partition(".")[2])
    if seen.hint == "openpi":
        return _openpi(seen)
    for family in FAMILIES:
        if seen.says(family.pattern):
            return _in_place(seen, family, f"the model describes itself as {_listed(seen.described)}")
    if seen.says("openvla") or (not seen.described and "openvla" in seen.name):
        return _openvla(seen)
    for family in FAMILIES:
        if not seen.described and re.search(family.pattern, seen.name):
            return _in_place(seen, family, f"its name is {seen.name}")
    if seen.says(_PI) or re.search(_PI, seen.name):
        return UNKNOWN, (
            f"a pi0 or pi0.5 ({_listed(seen.described) or seen.name}), which runs differently in openpi and in LeRobot"
            + _could_be("openpi-libero", "lerobot-pi0-libero", "lerobot-pi05-libero")
        )
    return UNKNOWN, f"no profile knows this kind of model ({_listed(seen.described) or 'not recorded'})" + _could_be()


def _in_place(seen: _Seen, family: _Family, why: str) -> tuple[str, str]:
    """The family's profile in the environment; none where nobody has published how it runs there."""
    found = family.profiles.get(seen.environment)
    if found:
        return found, f"{family.label}: {why}"
    return UNKNOWN, f"{family.label} has no profile in {seen.place} ({why})" + _could_be(*family.profiles.values())


def _lerobot(seen: _Seen, kind: str) -> tuple[str, str]:
    if kind == "groot":
        for family in FAMILIES:
            if family.label == "GR00T N1.7" and (re.search(family.pattern, seen.name) or seen.says(family.pattern)):
                return _in_place(seen, family, "a groot policy of LeRobot whose name says N1.7")
        return UNKNOWN, "a groot policy of LeRobot, which can be GR00T N1.5 or N1.7" + _could_be("gr00t-n1.7-libero")
    if kind not in LEROBOT:
        return UNKNOWN, f"no profile knows LeRobot's {kind or 'policy'}" + _could_be()
    found = f"lerobot-{LEROBOT[kind]}-libero"
    if seen.environment != "libero":
        return UNKNOWN, f"LeRobot's {kind} has no profile in {seen.place}" + _could_be(found)
    return found, f"a policy of LeRobot of type {kind}"


def _openpi(seen: _Seen) -> tuple[str, str]:
    if seen.environment != "libero":
        return UNKNOWN, f"an openpi policy, which has no profile in {seen.place}" + _could_be("openpi-libero")
    said = {where: _pi(text) for where, text in (("its server", seen.metadata), ("its name", seen.name))}
    found = {kind for kind in said.values() if kind}
    chunks = {"pi0": 50, "pi0-fast": 10, "pi05": 10}
    answers = f"; one query answers {seen.chunk} actions" if seen.chunk else ""
    names = [f"openpi-{kind}-libero" for kind, rows in chunks.items() if seen.chunk in (0, rows)]
    if len(found) == 1:
        (kind,) = found
        where = " and ".join(place for place, says in said.items() if says)
        if seen.chunk in (0, chunks[kind]):
            return f"openpi-{kind}-libero", f"an openpi policy, and {where} says {kind}{answers}"
        return "openpi-libero", (
            f"an openpi policy; {where} says {kind}, which answers {chunks[kind]} actions a query, and this one "
            f"{seen.chunk}: held against what all openpi policies expect" + _could_be(*names)
        )
    return "openpi-libero", (
        f"an openpi policy{answers}: a client cannot tell pi0, pi0-FAST and pi0.5 apart, so held against what all of "
        "them expect" + _could_be(*names)
    )


def _pi(text: str) -> str:
    """Which of openpi's families a text names; "" where none, or more than one."""
    fast, five = re.search(rf"{_PI}[-_ ]?fast", text), re.search(rf"{_PI}[._]?5", text)
    plain = re.search(rf"{_PI}(?![._]?5|[-_ ]?fast)", text)
    named = [kind for kind, found in (("pi0-fast", fast), ("pi05", five), ("pi0", plain)) if found]
    return named[0] if len(named) == 1 else ""


def _openvla(seen: _Seen) -> tuple[str, str]:
    """OpenVLA and what loads as it."""
    name, keys = seen.name, seen.keys
    if re.search(RELATIVES, name):
        return UNKNOWN, f"the checkpoint's name ({name}) says a relative of OpenVLA that has no profile" + _could_be()
    for family in FAMILIES:
        if family.label in ("UniVLA", "TraceVLA", "CogACT", "SpatialVLA") and re.search(family.pattern, name):
            return _in_place(seen, family, f"it loads as OpenVLA, and its name is {name}")
    own = [key for key in keys if key.startswith("libero")]
    fine_tuned = f"statistics of {_listed(own)}" if own else f"the name {name}" if "libero" in name else ""
    oft = _why_oft(seen)
    if oft:
        if seen.environment != "libero":
            return "openvla-oft", f"OpenVLA-OFT ({oft}) in an environment without profile ({seen.suite})"
        if not fine_tuned:
            return (
                "openvla-oft",
                f"OpenVLA-OFT ({oft}) without statistics of LIBERO ({_listed(keys) or 'none recorded'})",
            )
        return "openvla-oft-libero", f"OpenVLA-OFT ({oft}) with {fine_tuned}"
    if seen.chunk > 1:
        return UNKNOWN, (
            f"it loads as OpenVLA, and one query answers {seen.chunk} actions, as none of OpenVLA's own does"
            + _could_be("openvla-oft", "univla-libero")
        )
    # The hub's name is openvla-7b-v01; the official code tests for "openvla-v01" in one place and "v01" in another.
    if re.search(r"(?<![a-z0-9])v01(?![0-9])", name):
        return "openvla-v01", f"the checkpoint's name ({name}) says v01"
    if seen.environment == "simplerenv" and {"bridge_orig", "fractal20220817_data"} & set(keys):
        of = _listed([key for key in keys if key in ("bridge_orig", "fractal20220817_data")])
        return "openvla-simpler", f"an OpenVLA model with statistics of {of}"
    if seen.environment == "simplerenv":
        return "openvla", f"an OpenVLA model without statistics of SimplerEnv's robots, in {seen.suite}"
    if seen.environment != "libero":
        return "openvla", f"an OpenVLA model in an environment without profile ({seen.suite})"
    if own:
        return "openvla-libero", f"an OpenVLA model with statistics of {', '.join(own)}"
    if "libero" in name:
        return "openvla-libero", f"an OpenVLA model named {name}"
    return "openvla", (
        f"an OpenVLA model without statistics of LIBERO ({_listed(keys) or 'none recorded'}): "
        "what its images should look like is not known"
    )


def _why_oft(seen: _Seen) -> str:
    if re.search(r"(?<![a-z])oft(?![a-z])", seen.name):
        return "by its name"
    if seen.channels > 6:
        return f"its input has {seen.channels} channels"
    return "one query answers 8 actions" if seen.chunk == 8 else ""


def _could_be(*names: str) -> str:
    """How to name a profile after all."""
    listed = " or ".join(f"`profile: {{name: {name}}}`" for name in dict.fromkeys(names))
    return f"; if it is one, say so: {listed}" if names else "; `profile: {name: ...}` names one, or a file of your own"


def _short(name: str) -> str:
    """An id on a hub as it is; of a path the last folder that is not named after a step of training.

    The folders above say where somebody keeps checkpoints, not what this one is.
    """
    parts = [part for part in re.split(r"[/\\]", name) if part]
    if len(parts) <= 2 and not name.startswith(("/", "~", ".")):
        return name
    while len(parts) > 1 and re.fullmatch(_STEP_FOLDER, parts[-1]):
        parts.pop()
    return parts[-1] if parts else name


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _word(value: Any) -> str:
    return _text(value).lower()


def _texts(value: Any) -> tuple[str, ...]:
    """The items of a list as texts; a single text is a list of one."""
    if isinstance(value, str):
        return (value,)
    return tuple(map(str, value)) if isinstance(value, (list, tuple)) else ()


def _listed(names: Iterable[str], most: int = 3) -> str:
    named = list(names)
    return ", ".join(named[:most]) + (f" and {len(named) - most} more" if len(named) > most else "")
