"""Comments that accept findings.

    image = obs["agentview_image"][::-1]  # vladoctor: ignore[VD201] this checkpoint was trained so
    # vladoctor: ignore-file[VD602, VD603]

`ignore` holds for the statement that it stands on, on whichever of its lines; of a statement with a body (`for`, `def`)
for its head. `ignore-file` stands anywhere in the file, in a notebook in any code cell, and holds for all of it. Codes,
names and beginnings of codes (VD2) may be given; without brackets everything is accepted. Only comments count, not
strings that look like one.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from vladoctor.lint.cells import code_cells, is_notebook
from vladoctor.places import Place

_COMMENT = re.compile(r"#\s*vladoctor\s*:\s*ignore(?P<file>-file)?\b\s*(\[(?P<codes>[^\]]*)\])?", re.IGNORECASE)


@dataclass
class Ignore:
    """One comment.

    Attributes:
        place: of the comment.
        lines: first and last line that it holds for; None for the whole file.
        codes: as they were written; empty for all.
        used: those of them that accepted something.
    """

    place: Place
    lines: tuple[int, int] | None
    codes: tuple[str, ...]
    used: set[str] = field(default_factory=set)
    hit: bool = False

    def accepts(self, code: str, name: str, place: Place) -> bool:
        """Whether it accepts this finding; remembers if so."""
        if self.lines is not None:
            first, last = self.lines
            if place.cell != self.place.cell or not (place.line <= last and (place.end_line or place.line) >= first):
                return False
            # A finding of many lines, such as a whole loop, is accepted where it begins.
            if not first <= place.line <= last:
                return False
        matching = {written for written in self.codes if matches(written, code, name)}
        if self.codes and not matching:
            return False
        self.used |= matching
        self.hit = True
        return True

    @property
    def unused(self) -> tuple[str, ...]:
        """Codes that accepted nothing, or ("",) where the comment as a whole did not."""
        if not self.codes:
            return () if self.hit else ("",)
        return tuple(code for code in self.codes if code not in self.used)


def matches(written: str, code: str, name: str) -> bool:
    """Whether a code, a name, or the beginning of a code means this check."""
    text = written.strip().casefold()
    if text in (code.casefold(), name.casefold()):
        return True
    return len(text) > 2 and text[:2] == "vd" and text[2:].isdigit() and code.casefold().startswith(text)


class Ignores:
    """The comments of all files, read as they are asked for."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = texts
        self._files: dict[str, list[Ignore]] = {}

    def accept(self, code: str, name: str, place: Place) -> bool:
        """Whether a comment accepts this finding."""
        # All are asked: each that accepts it is used.
        return sum(ignore.accepts(code, name, place) for ignore in self.of(place.file)) > 0

    def of(self, file: str) -> list[Ignore]:
        """The comments of a file."""
        if file not in self._files:
            self._files[file] = read_ignores(file, self._texts.get(file, ""))
        return self._files[file]

    def unused(self, files: Iterable[str], known: Iterable[tuple[str, str]]) -> Iterator[tuple[Place, str]]:
        """(place, what is wrong with it) of comments that accept nothing.

        Args:
            known: (code, name) of the checks that were asked; a comment for another one may be used some other day.
        """
        asked = list(known)
        for file in files:
            for ignore in self.of(file):
                for written in ignore.unused:
                    if not written:
                        yield ignore.place, "this comment accepts nothing: remove it"
                    elif any(matches(written, code, name) for code, name in asked):
                        yield ignore.place, f"{written} is not found here: remove it from this comment"
                    elif not _is_check(written):
                        yield ignore.place, f"there is no check {written!r}; see: vladoctor checks"


def read_ignores(file: str, text: str) -> list[Ignore]:
    """The comments of a file's text; of one that does not parse those that can be found."""
    if "vladoctor" not in text:
        return []
    if not is_notebook(file):
        return list(_ignores(file, text, None))
    try:
        cells = code_cells(text)
    except ValueError:
        return []
    return [ignore for number, cell in enumerate(cells, 1) for ignore in _ignores(file, cell.text, number)]


def _ignores(file: str, text: str, cell: int | None) -> Iterator[Ignore]:
    if "vladoctor" not in text:
        return
    heads: list[tuple[int, int]] | None = None
    for line, column, comment in _comments(text):
        found = _COMMENT.search(comment)
        if found is None:
            continue
        if heads is None:
            heads = _statements(text)
        codes = tuple(part.strip() for part in (found["codes"] or "").split(",") if part.strip())
        around = [head for head in heads if head[0] <= line <= head[1]]
        # The innermost: a lambda's body is none, so that statements lie in each other only as bodies in heads.
        lines = None if found["file"] else max(around, default=(line, line))
        yield Ignore(Place(file, line, column + 1 + found.start(), cell=cell), lines, codes)


def _comments(text: str) -> Iterator[tuple[int, int, str]]:
    """(line, column from 0, text) of each comment."""
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                yield (*token.start, token.string)
    except (tokenize.TokenError, SyntaxError):
        # A cell with magics, or a broken file: what came before it was good. Nothing more can be said.
        return


def _statements(text: str) -> list[tuple[int, int]]:
    """First and last line of every statement, of one with a body of its head."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of literals and escapes, which are not ours to judge
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    spans = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.stmt, ast.excepthandler, ast.match_case)):
            first = getattr(node, "lineno", None) or getattr(node, "pattern").lineno  # noqa: B009 - of match_case
            last = getattr(node, "end_lineno", None) or first
            body = getattr(node, "body", None)
            if isinstance(body, list) and body:
                decorators = getattr(body[0], "decorator_list", None)
                begin = decorators[0].lineno if decorators else body[0].lineno
                last = max(first, begin - 1)
            spans.append((first, last))
    return spans


def _is_check(written: str) -> bool:
    from vladoctor.check import all_checks

    return any(matches(written, check.code, check.name) for check in all_checks())
