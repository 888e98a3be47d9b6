"""The code cells of a notebook: their text, and their text put back without touching a byte of the rest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from vladoctor.places import Place


@dataclass(frozen=True)
class Cell:
    """A code cell's source.

    Attributes:
        text: of the cell, lines joined.
        start, end: where its JSON value (a list of strings, or one) stands in the file's text.
        lines: (start, end) of each string of that value in the file's text; of one string alone its own.
    """

    text: str
    start: int
    end: int
    lines: tuple[tuple[int, int], ...]


def is_notebook(file: str) -> bool:
    """By its name."""
    return file.endswith(".ipynb")


@lru_cache(maxsize=8)
def code_cells(text: str) -> tuple[Cell, ...]:
    """The code cells of a notebook's JSON, in order; the first is number 1.

    Raises:
        ValueError: this is no notebook.
    """
    found: list[Cell] = []
    document = json.loads(text)
    if not isinstance(document, dict) or not isinstance(document.get("cells"), list):
        raise ValueError("this is no notebook: it has no list of cells")
    spans = _Spans(text)
    for path, start, end in spans.values():
        if len(path) == 3 and path[0] == "cells" and path[2] == "source":
            cell = document["cells"][path[1]]
            if cell.get("cell_type") != "code":
                continue
            source = cell["source"]
            lines = spans.strings(start, end) if isinstance(source, list) else [(start, end)]
            found.append(Cell("".join(source), start, end, tuple(lines)))
    return tuple(found)


def text_at(place: Place, texts: Mapping[str, str]) -> str:
    """The text that a place's line counts in: of the file, or of the notebook's cell; "" where it is not at hand."""
    text = texts.get(place.file, "")
    if place.cell is None or not text:
        return text
    try:
        return code_cells(text)[place.cell - 1].text
    except (ValueError, IndexError):
        return ""


def line_in_file(place: Place, texts: Mapping[str, str]) -> int:
    """The line of the file itself, also for a place in a notebook's cell; 0 where that is not known."""
    text = texts.get(place.file, "")
    if place.cell is None or not text or not place.line:
        return place.line if place.cell is None else 0
    try:
        cell = code_cells(text)[place.cell - 1]
        start = cell.lines[min(place.line, len(cell.lines)) - 1][0]
    except (ValueError, IndexError):
        return 0
    return text.count("\n", 0, start) + 1


def with_cell(text: str, number: int, source: str) -> str:
    """The notebook's JSON with another source of code cell `number` (from 1), written as it was written before."""
    cell = code_cells(text)[number - 1]
    old = text[cell.start : cell.end]
    ascii_only = old.isascii()
    if old.startswith('"'):
        new = json.dumps(source, ensure_ascii=ascii_only)
    else:
        # What stands before the first string, between two, and behind the last is the file's own indentation.
        first = text[cell.start : cell.lines[0][0]] if cell.lines else "["
        between = text[cell.lines[0][1] : cell.lines[1][0]] if len(cell.lines) > 1 else f",{first[1:]}"
        last = text[cell.lines[-1][1] : cell.end] if cell.lines else "]"
        lines = [json.dumps(line, ensure_ascii=ascii_only) for line in source.splitlines(keepends=True)]
        new = first + between.join(lines) + last
    return text[: cell.start] + new + text[cell.end :]


class _Spans:
    """Where the values of a JSON text stand. The text has been parsed before: nothing is checked here."""

    def __init__(self, text: str) -> None:
        self.text = text

    def values(self) -> list[tuple[tuple[Any, ...], int, int]]:
        """(path, start, end) of every value down to the third level, which is where a cell's source is."""
        found: list[tuple[tuple[Any, ...], int, int]] = []
        self._value(self._skip(0), (), found)
        return found

    def strings(self, start: int, end: int) -> list[tuple[int, int]]:
        """(start, end) of the strings of a list of strings."""
        found = []
        at = self._skip(start + 1)
        while at < end - 1:
            behind = _DECODER.raw_decode(self.text, at)[1]
            found.append((at, behind))
            at = self._skip(self._skip(behind) + 1)
        return found

    def _skip(self, at: int) -> int:
        while at < len(self.text) and self.text[at] in " \t\r\n":
            at += 1
        return at

    def _value(self, at: int, path: tuple[Any, ...], found: list[tuple[tuple[Any, ...], int, int]]) -> int:
        if len(path) > 2:
            end: int = _DECODER.raw_decode(self.text, at)[1]
            found.append((path, at, end))
            return end
        sign = self.text[at]
        if sign not in "{[":
            return int(_DECODER.raw_decode(self.text, at)[1])
        start, index = at, 0
        at = self._skip(at + 1)
        while self.text[at] not in "}]":
            name: Any = index
            if sign == "{":
                name, at = _DECODER.raw_decode(self.text, at)
                at = self._skip(self._skip(at) + 1)
            at = self._skip(self._value(at, (*path, name), found))
            if self.text[at] == ",":
                at = self._skip(at + 1)
            index += 1
        found.append((path, start, at + 1))
        return at + 1


_DECODER = json.JSONDecoder()
