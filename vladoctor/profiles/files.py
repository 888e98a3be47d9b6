"""Profiles as YAML: those that come with vladoctor, and a user's own.

    summary: my robot
    inherits: [openvla, libero]        # a name, a file beside this one, or several; a later one wins
    image:
      orientation:
        value: rot180
        source: our training script, line 12

Every profile has the keys of `unknown.yaml`. A file holds those of which it says something, and that counts before what
it inherits, a null too; of several parents the last one that says anything counts. So a family comes first and the
environment that it is used in after it. What neither says is null.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from vladoctor.errors import UserError
from vladoctor.profiles.profile import UNSTATED, Profile, advice, kind_of

UNKNOWN = "unknown"
"""Name of the profile that expects nothing, for checkpoints of families that have none."""

SUFFIXES = (".yaml", ".yml")

_OWN = ("summary", "inherits")
_LEAF = ("value", "source", "kind", "means")


@dataclass(frozen=True)
class Key:
    """A key that profiles have: the kind of its values (text, number, truth, list, table) and what it means."""

    kind: str
    means: str


@dataclass(frozen=True)
class _Stated:
    """What a file and those that it inherits say: key -> (value, source)."""

    summary: str
    inherits: tuple[str, ...]
    leaves: Mapping[str, tuple[Any, str]]


def profile_names() -> tuple[str, ...]:
    """Names of the profiles that come with vladoctor."""
    files = resources.files(__package__).iterdir()
    return tuple(sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml")))


def is_file_name(name: str) -> bool:
    """Whether a profile's name is that of a user's own file: it has a path separator, or ends in .yaml or .yml."""
    return "/" in name or "\\" in name or name.lower().endswith(SUFFIXES)


@cache
def profile_keys() -> Mapping[str, Key]:
    """Every key that a profile can have, in the order in which they are shown."""
    leaves = dict(_leaves(_shipped_document(UNKNOWN)))
    return {key: Key(leaf["kind"], leaf["means"]) for key, leaf in leaves.items()}


def load_profile(name: str) -> Profile:
    """Read a profile: one that comes with vladoctor by its name, or a user's own by the path of its file.

    Args:
        name: "openvla-libero", or a path relative to the current folder, "profiles/my-robot.yaml".

    Raises:
        UserError: there is no such profile or file, or what stands in it is none; names file, line and key.
    """
    if is_file_name(name):
        # Not kept: a file can be mended while the program runs.
        return _complete(Path(name).stem, _read_own(Path(name).expanduser(), name, ()), f"read from {name}")
    return _load_shipped(name)


@cache
def _load_shipped(name: str) -> Profile:
    return _complete(name, _stated_shipped(name), "chosen by name")


def _complete(name: str, stated: _Stated, reason: str) -> Profile:
    found = {key: stated.leaves.get(key, (None, UNSTATED)) for key in profile_keys()}
    return Profile(
        name,
        stated.summary,
        {key: value for key, (value, _) in found.items()},
        {key: source for key, (_, source) in found.items()},
        reason,
        stated.inherits,
    )


@cache
def _stated_shipped(name: str) -> _Stated:
    if name not in profile_names():
        known = profile_names()
        raise UserError(
            f"there is no profile {name!r}", where="profile", remedy=advice(name, known, "the profiles are")
        )
    document = _shipped_document(name)
    own = {key: (leaf["value"], leaf["source"]) for key, leaf in _leaves(document)} if name != UNKNOWN else {}
    parents = _parents(document.get("inherits"))
    inherited = [_stated_shipped(parent).leaves for parent in parents]
    return _Stated(document["summary"], parents, _merged([*inherited, own]))


@cache
def _shipped_document(name: str) -> Mapping[str, Any]:
    # ruamel, which reads users' files, takes ten times as long: docs/decisions/0002-dependencies.md.
    import yaml

    text = resources.files(__package__).joinpath(f"{name}.yaml").read_text("utf-8")
    document: Mapping[str, Any] = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return document


def _parents(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())


def _merged(sayings: list[Mapping[str, tuple[Any, str]]]) -> Mapping[str, tuple[Any, str]]:
    return {key: leaf for said in sayings for key, leaf in said.items()}


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Dotted keys and leaves of a document of ours."""
    for key, node in tree.items():
        if prefix or key not in _OWN:
            if "value" in node:
                yield f"{prefix}{key}", node
            else:
                yield from _leaves(node, f"{prefix}{key}.")


def _read_own(file: Path, shown: str, below: tuple[Path, ...]) -> _Stated:
    """Read a user's file and what it inherits.

    Args:
        shown: how the user named it.
        below: files that inherit this one, the first read first.
    """
    from vladoctor.yamlfile import place_of, read_mapping

    if not file.is_file():
        what = "this is a folder" if file.is_dir() else "there is no such file"
        raise UserError(
            f"{what}, and a profile's name with a path or .yaml in it is that of a file",
            where=shown,
            remedy=_beside(file) or "paths are relative to the current folder; `vladoctor profiles` lists names",
        )
    _check_document(file, shown)
    document, positions = read_mapping(file, shown, [])

    def wrong(key: str, what: str, remedy: str) -> UserError:
        return UserError(what, where=place_of(shown, positions, key), remedy=remedy)

    summary = document.get("summary")
    if summary is not None and not isinstance(summary, str):
        raise wrong("summary", "summary is no text", "write one line that says what the profile is for")
    names = document.get("inherits")
    if not (names is None or isinstance(names, str)) and not (
        isinstance(names, list) and all(isinstance(name, str) for name in names)
    ):
        raise wrong("inherits", "inherits is no name", "write the name of a profile, or a list of names")
    inherited = []
    for parent in _parents(names):
        if is_file_name(parent):
            path = (file.parent / Path(parent).expanduser()).resolve()
            if path in (*below, file.resolve()):
                raise wrong("inherits", f"{parent} inherits this file in turn", "take one of the two out")
            try:
                inherited.append(_read_own(path, str(path), (*below, file.resolve())).leaves)
            except UserError as error:
                if error.where == str(path):
                    raise wrong("inherits", f"there is no profile {parent!r}", error.remedy) from error
                raise
        elif parent in profile_names():
            inherited.append(_stated_shipped(parent).leaves)
        else:
            known = profile_names()
            raise wrong(
                "inherits", f"there is no profile {parent!r}", advice(parent, known, "there are files (.yaml) and")
            )
    own: dict[str, tuple[Any, str]] = {}
    for key, node in _nodes(document):
        try:
            own[key] = _checked(key, node)
        except UserError as error:
            raise wrong(key, error.what, error.remedy) from None
    return _Stated(summary or f"{file.name}, a profile of your own", _parents(names), _merged([*inherited, own]))


def _check_document(file: Path, shown: str) -> None:
    """Say what a profile would be where a file is YAML and holds something else."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        document = YAML(typ="safe", pure=True).load(file.read_text("utf-8"))
    except (YAMLError, OSError, UnicodeDecodeError, RecursionError):
        return  # read_mapping says what is wrong, and where
    if not isinstance(document, dict):
        what = "the file is empty" if document is None else "the file holds no mapping"
        raise UserError(
            what,
            where=shown,
            remedy="a profile has `summary`, `inherits` and groups of keys; to begin with one: vladoctor profiles new",
        )


def _nodes(document: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Dotted keys of a user's file and what stands there; groups are entered, whatever else is found is given."""
    groups = {key.partition(".")[0] for key in profile_keys()}
    for name, node in document.items():
        if name in _OWN:
            continue
        if name in groups and isinstance(node, Mapping) and not set(node) & set(_LEAF[:2]):
            for inner, leaf in node.items():
                yield f"{name}.{inner}", leaf
        else:
            yield name, node


def _checked(key: str, node: Any) -> tuple[Any, str]:
    """A leaf of a user's file as (value, source).

    Raises:
        UserError: what is wrong with it and what to do, without the place.
    """
    keys = profile_keys()
    if key not in keys:
        raise UserError(f"no profile has a key {key!r}", remedy=advice(key, (*keys, *_OWN), "the keys are"))
    last, kind = key.rpartition(".")[2], keys[key].kind
    example = f"write `{last}: {{value: ..., source: where it is known from}}`"
    if not isinstance(node, Mapping):
        raise UserError(f"{key} has no value and source", remedy=example)
    extra = [name for name in node if name not in _LEAF]
    if extra:
        raise UserError(f"{key} has a value and a source, and no {extra[0]!r}", remedy=example)
    if "value" not in node:
        raise UserError(f"{key} has no value", remedy=f"{example}; null means that it is not checked")
    value, source = node["value"], node.get("source")
    if not isinstance(source, str) or not source.strip():
        raise UserError(f"{key} has no source", remedy="say where the value is known from: `source: ...`")
    if value is not None and kind_of(value) != kind:
        raise UserError(f"{key} is a {kind_of(value)}, and should be a {kind}", remedy=f"it means: {keys[key].means}")
    if key in ("prompt.template", "prompt.request") and value is not None and not _is_template(value):
        raise UserError(
            f"{value!r} is no template",
            remedy="write {instruction} where the instruction goes, and {{ and }} for braces",
        )
    return value, source


def _is_template(text: str) -> bool:
    try:
        return text.format(instruction="\0") != text.format(instruction="")
    except (LookupError, ValueError, AttributeError):
        return False


def _beside(file: Path) -> str:
    """ "did you mean ...?" where a file of a similar name lies there."""
    from difflib import get_close_matches

    beside = [entry.name for entry in file.parent.iterdir()] if file.parent.is_dir() else []
    near = get_close_matches(file.name, beside, n=1, cutoff=0.7)
    return f"did you mean {file.parent / near[0]}?" if near else ""
