"""A YAML file as plain data together with the place of every key, so that each mistake in it can be pointed at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vladoctor.errors import UserError

ROOT = ""
"""Key path of the whole file."""

Positions = Mapping[str, tuple[int, int]]
"""Dotted key path -> (line, column) of the key, both from 1."""


@dataclass(frozen=True)
class Problem:
    """One mistake: at which key, what is wrong, what would be right."""

    key: str
    what: str
    remedy: str


def read_mapping(file: Path, shown: str, keys: Sequence[str]) -> tuple[dict[str, Any], Positions]:
    """Read a file that holds one mapping, as plain Python data, and where each of its keys stands.

    Args:
        shown: how to name the file in messages.
        keys: what the mapping may hold, for messages.

    Raises:
        UserError: with line and column where there are any.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    text = _read_text(file, shown)
    try:
        document: Any = YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        raise _syntax_error(error, text, shown) from error
    except RecursionError as error:
        raise UserError("the file is nested too deeply", where=shown, remedy="close the brackets") from error
    except YAMLError as error:
        raise UserError(
            f"this is not YAML: {' '.join(str(error).split())}",
            where=shown,
            remedy="remove the control characters, or name another file",
        ) from error
    if document is None:
        raise UserError(
            "the file is empty",
            where=shown,
            remedy="it needs at least `model: {path: ...}` and `env: {suite: ...}`; see: vladoctor schema",
        )
    if not isinstance(document, dict):
        kind = "a list" if isinstance(document, list) else f"the single value {show(document)}"
        raise UserError(
            f"a run file is a mapping with the keys {', '.join(keys)}; this file holds {kind}",
            where=f"{shown}:1",
            remedy="begin with `model:`, indent what belongs to it, and put a space after every colon",
        )
    positions: dict[str, tuple[int, int]] = {ROOT: (1, 1)}
    return dict(_plain(document, ROOT, positions)), positions


def _read_text(file: Path, shown: str) -> str:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UserError(
            f"the file cannot be read: {error.strerror}", where=shown, remedy="check its permissions"
        ) from error
    # PowerShell's `>` and Notepad write UTF-16 or a byte-order mark.
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(
            f"this is not a text file in UTF-8 (byte {error.start}, line {line})",
            where=shown,
            remedy="name a YAML file; a trace (.mcap) goes to: vladoctor replay",
        ) from error
    if "\0" in text:
        raise UserError(
            "this is a binary file", where=shown, remedy="name a YAML file; a trace (.mcap) goes to: vladoctor replay"
        )
    return text


def _syntax_error(error: Any, text: str, shown: str) -> UserError:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line, mark.column) if mark else (0, 0)
    problem = str(error.problem or error.context or "it cannot be read")
    lines = text.splitlines() or [""]
    source = lines[min(line, len(lines) - 1)]
    if type(error).__name__ == "DuplicateKeyError":
        key = problem.partition('"')[2].partition('"')[0]
        first = _first_line_of(key, lines, line)
        what = f"the key `{key}` stands here a second time" + (f" (first in line {first})" if first else "")
        remedy = "keep one of the two"
    elif "\t" in source[: column + 1] or "\\t" in problem:
        what, remedy = "a tab; YAML allows only spaces here", "replace tabs by spaces"
    elif "another document" in problem:
        what, remedy = "a second document begins here (`---`)", "put each run in a file of its own"
    elif "undefined alias" in problem:
        what, remedy = problem, "a value that begins with * needs quotes"
    elif "mapping values are not allowed" in problem:
        what = "a colon where none can stand"
        remedy = "put a space after the colon that ends a key, quote values that contain one, and align the keys"
    else:
        what = f"this is not YAML: {problem}" + (f" {error.context}" if error.context else "")
        remedy = "check brackets, quotes and indentation here and in the line above"
        if error.context_mark is not None and error.context_mark.line != line:
            remedy = f"what began in line {error.context_mark.line + 1} does not end properly; {remedy}"
    return UserError(f"{what}\n    {source.strip()}", where=f"{shown}:{line + 1}:{column + 1}", remedy=remedy)


def _first_line_of(key: str, lines: Sequence[str], before: int) -> int | None:
    """Line (from 1) of the nearest line above that begins with the same key at the same depth."""
    depth = len(lines[before]) - len(lines[before].lstrip()) if before < len(lines) else 0
    for number in range(min(before, len(lines)) - 1, -1, -1):
        line = lines[number]
        if line.strip() and len(line) - len(line.lstrip()) < depth:
            return None
        if line[depth:].startswith((f"{key}:", f'"{key}":', f"'{key}':")) and not line[:depth].strip():
            return number + 1
    return None


def _plain(node: Any, key: str, positions: dict[str, tuple[int, int]]) -> Any:
    """The node as plain Python data; notes on the way where each key and item stands."""
    if isinstance(node, Mapping):
        result = {}
        for name, item in node.items():
            child = f"{key}.{name}" if key else str(name)
            positions[child] = _position(node, "key", name, positions[key])
            result[str(name)] = _plain(item, child, positions)
        return result
    if isinstance(node, list):
        for index in range(len(node)):
            positions[f"{key}[{index}]"] = _position(node, "item", index, positions[key])
        return [_plain(item, f"{key}[{index}]", positions) for index, item in enumerate(node)]
    if isinstance(node, bool) or node is None:
        return node
    for kind in (int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return getattr(node, "value", node)


def _position(node: Any, kind: str, index: Any, default: tuple[int, int]) -> tuple[int, int]:
    try:
        line, column = getattr(node.lc, kind)(index)
    except (KeyError, TypeError, AttributeError):  # merged in from elsewhere (`<<`)
        return default
    return line + 1, column + 1


def raise_problems(problems: Sequence[Problem], shown: str, positions: Positions) -> None:
    """Raise what is wrong: one mistake as it is, several as a list in the order of the file."""
    unique = sorted(dict.fromkeys(problems), key=lambda problem: _nearest_position(positions, problem.key))
    if not unique:
        return
    if len(unique) == 1:
        problem = unique[0]
        raise UserError(problem.what, where=place_of(shown, positions, problem.key), remedy=problem.remedy)
    lines = [f"  {place_of(shown, positions, p.key)}: {p.what}\n      {p.remedy}" for p in unique]
    raise UserError(
        f"{len(unique)} things are wrong in {shown}\n" + "\n".join(lines),
        remedy="all keys, with what they mean: vladoctor schema",
    )


def place_of(shown: str, positions: Positions, key: str) -> str:
    """As in "run.yaml:3:10: model.path"; for a key that is not in the file, the place of what it would stand in."""
    line, column = _nearest_position(positions, key)
    return f"{shown}:{line}:{column}: {key}" if key else f"{shown}:{line}:{column}"


def _nearest_position(positions: Positions, key: str) -> tuple[int, int]:
    """Position of the key, or of the nearest thing around it that stands in the file."""
    while key not in positions and key:
        cut = max(key.rfind("."), key.rfind("["))
        key = key[:cut] if cut > 0 else ROOT
    return positions.get(key, (1, 1))


def show(value: Any) -> str:
    """A value for a message, as the reader wrote it."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:57] + "...")
    return str(value)
