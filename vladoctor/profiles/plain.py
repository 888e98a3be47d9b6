"""The part of YAML that our own profiles are written in, read ten times as fast as by a reader of all of YAML.

Blocks of `key: value`, where a value is a block, a scalar, folded text (`>-`), or a list or mapping in brackets on one
line; whole lines of comment. Whatever else YAML has is refused. A user's file, which can hold anything, is read by
`vladoctor.yamlfile`, which also knows where everything stands in it; that both read ours the same is tested.
"""

from __future__ import annotations

import json
import re
from typing import Any

_LINE = re.compile(r" *([\w.-]+):(?: +(\S.*?))? *")
_TOKEN = re.compile(r' *("(?:[^"\\]|\\.)*"|[][{},]|:(?= )|(?:[^][{},:"]|:(?! ))+)')
_NUMBER = re.compile(r"[-+]?\d+(\.\d*)?(e[-+]?\d+)?")
_WORDS = {"null": None, "true": True, "false": False}


def read(text: str) -> dict[str, Any]:
    """The mapping that a file of ours holds.

    Raises:
        ValueError: a line is written in another way than those above; names it.
    """
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    lines.reverse()
    found = _block(lines)
    if lines:
        raise _refused(lines[-1])
    return found


def _block(lines: list[str]) -> dict[str, Any]:
    """Take the lines of one depth, and what is below them, from the end of `lines`."""
    found: dict[str, Any] = {}
    depth = _depth(lines[-1]) if lines else 0
    while lines and _depth(lines[-1]) == depth:
        line = lines.pop()
        parts = _LINE.fullmatch(line)
        if parts is None or parts[1] in found:
            raise _refused(line)
        below = bool(lines) and _depth(lines[-1]) > depth
        if parts[2] is None and below:
            found[parts[1]] = _block(lines)
        elif parts[2] == ">-" and below:
            folded = []
            while lines and _depth(lines[-1]) > depth:
                folded.append(lines.pop().strip())
            found[parts[1]] = " ".join(folded)
        elif parts[2] is None or below:
            raise _refused(line)
        else:
            try:
                found[parts[1]] = _value(parts[2])
            except (ValueError, IndexError):
                raise _refused(line) from None
    return found


def _value(text: str) -> Any:
    if text[0] not in "[{":
        return _scalar(text)
    tokens = _TOKEN.findall(text)
    if "".join(tokens).replace(" ", "") != text.replace(" ", ""):
        raise ValueError(text)
    tokens.reverse()
    value = _in_brackets(tokens)
    if tokens:
        raise ValueError(text)
    return value


def _in_brackets(tokens: list[str]) -> Any:
    """Take one value from the end of `tokens`."""
    first = tokens.pop()
    if first not in ("[", "{"):
        return _scalar(first.strip())
    items: list[Any] = []
    pairs: dict[str, Any] = {}
    end = "]" if first == "[" else "}"
    while tokens[-1] != end:
        item = _in_brackets(tokens)
        if end == "}":
            if tokens.pop() != ":":
                raise ValueError(first)
            pairs[item] = _in_brackets(tokens)
        else:
            items.append(item)
        if tokens[-1] == ",":
            tokens.pop()
        elif tokens[-1] != end:
            raise ValueError(tokens[-1])
    tokens.pop()
    return items if end == "]" else pairs


def _scalar(text: str) -> Any:
    if text[0] == '"':
        return json.loads(text)
    if text[0] == "'":
        if not re.fullmatch(r"'([^']|'')*'", text):
            raise ValueError(text)
        return text[1:-1].replace("''", "'")
    if text in _WORDS:
        return _WORDS[text]
    if number := _NUMBER.fullmatch(text):
        return float(text) if number[1] or number[2] else int(text)
    if text[0] in "&*!|>%@`,]}[{" or text.startswith(("- ", "? ")) or ": " in text or " #" in text or text[-1] == ":":
        raise ValueError(text)
    return text


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _refused(line: str) -> ValueError:
    return ValueError(f"a profile of ours is not written like this (profiles/plain.py): {line.strip()}")
