"""Mending files: the fixes that findings carry, each as a whole, and never in a file that has changed since.

A file keeps its encoding, its byte-order mark, its line ends, its permissions, and, as a notebook, the formatting of
its JSON. What would not parse any more is not written. A file is replaced in one step: whoever looks at any moment sees
the old one or the new one.
"""

from __future__ import annotations

import ast
import codecs
import contextlib
import difflib
import io
import os
import re
import tempfile
import tokenize
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vladoctor.diagnosis import Finding
from vladoctor.lint.cells import code_cells, is_notebook, with_cell
from vladoctor.places import Edit, Fix
from vladoctor.report.reported import relative

_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n|$)")


@dataclass
class Mended:
    """What came of it.

    Attributes:
        files: file -> (bytes before, bytes after).
        fixed: findings whose fix is in it.
        refused: findings whose fix is not, and why.
    """

    files: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)
    fixed: list[Finding] = field(default_factory=list)
    refused: list[tuple[Finding, str]] = field(default_factory=list)

    def diff(self) -> str:
        """As a unified diff, file by file."""
        parts: list[str] = []
        for file, (before, after) in sorted(self.files.items()):
            name = relative(file)
            old, new = (_lines(_decode(data)[0]) for data in (before, after))
            for line in difflib.unified_diff(old, new, name, name):
                end = "" if line.endswith(("\n", "\r")) else "\n\\ No newline at end of file\n"
                parts.append(line + end)
        return "".join(parts)

    def write(self) -> None:
        """Write the files.

        Raises:
            OSError: one cannot be written; those before it are.
        """
        for file, (before, after) in self.files.items():
            target = Path(file).resolve()
            if target.read_bytes() == before:
                _replace(target, after)


def plan_fixes(findings: Iterable[Finding], texts: Mapping[str, str], *, unsafe: bool = False) -> Mended:
    """What the fixes of findings make of their files; nothing is written.

    A fix is taken as a whole, in the order of findings; one that overlaps with an earlier one has to wait for the next
    round. One that several findings carry is taken once.

    Args:
        texts: file -> its text as it was linted.
        unsafe: take those too that may change what the program means.
    """
    mended = Mended()
    sources: dict[str, _Source | str] = {}
    chosen: list[tuple[Finding, Fix]] = []
    taken: dict[Fix, None] = {}
    for finding in findings:
        fix = finding.fix
        if fix is None or not (fix.safe or unsafe):
            continue
        if fix in taken:
            mended.fixed.append(finding)
            continue
        for edit in fix.edits:
            if edit.place.file not in sources:
                sources[edit.place.file] = _Source.read(edit.place.file, texts)
        problem = next((s for e in fix.edits if isinstance(s := sources[e.place.file], str)), "")
        if not problem and not all(isinstance(s := sources[e.place.file], _Source) and s.spans(e) for e in fix.edits):
            problem = "it names a place that is not in the file"
        if not problem and _overlaps(fix, [other for _, other in chosen]):
            problem = "it overlaps with another fix; run it again"
        # One at a time, so that a fix that breaks the file is known by itself.
        if not problem:
            problem = _unparsable([*(other for _, other in chosen), fix], fix, sources)
        if problem:
            mended.refused.append((finding, problem))
        else:
            chosen.append((finding, fix))
            taken[fix] = None
            mended.fixed.append(finding)
    edits = [edit for _, fix in chosen for edit in fix.edits]
    for file, source in sources.items():
        mine = [edit for edit in edits if edit.place.file == file]
        if mine and isinstance(source, _Source):
            mended.files[file] = (source.data, source.encoded(source.edited(mine)))
    return mended


@dataclass
class _Source:
    """A file as it is: its bytes, and its text with line ends untouched."""

    file: str
    data: bytes
    text: str
    encoding: str
    mark: bytes

    @classmethod
    def read(cls, file: str, texts: Mapping[str, str]) -> _Source | str:
        """The file, or why it cannot be mended."""
        try:
            data = Path(file).read_bytes()
            text, encoding, mark = _decode(data)
        except OSError as error:
            return f"it cannot be read: {error.strerror}"
        except (SyntaxError, UnicodeError, LookupError):
            return "its encoding is unknown"
        if file in texts and _plain(texts[file]) != _plain(text):
            return "the file has changed since it was read"
        return cls(file, data, text, encoding, mark)

    def spans(self, edit: Edit) -> tuple[int, int] | None:
        """Start and end of an edit in its text; None where it does not lie in it."""
        place, text = edit.place, self._text(edit.place.cell)
        if text is None:
            return None
        lines = _lines(text)
        starts = [0]
        for line in lines:
            starts.append(starts[-1] + len(line))
        end_line = place.end_line or place.line
        end_column = place.end_column or place.column
        found = []
        for number, column in ((place.line, place.column), (end_line, end_column)):
            # The line behind the last is where something can be added.
            length = len(lines[number - 1].rstrip("\r\n")) if 0 < number <= len(lines) else 0
            if not 0 < number <= len(lines) + 1 or not 1 <= column <= length + 1:
                return None
            found.append(starts[number - 1] + column - 1)
        return (found[0], found[1]) if found[0] <= found[1] else None

    def edited(self, edits: Sequence[Edit]) -> str:
        """The text with the edits in it, last first so that places stay true."""
        text = self.text
        for cell in sorted({edit.place.cell or 0 for edit in edits}):
            part = self._text(cell or None) or ""
            end = "\r\n" if "\r\n" in part else "\r" if "\r" in part and "\n" not in part else "\n"
            for edit in sorted(
                (one for one in edits if (one.place.cell or 0) == cell),
                key=lambda e: self.spans(e) or (0, 0),
                reverse=True,
            ):
                start, stop = self.spans(edit) or (0, 0)
                part = part[:start] + edit.text.replace("\r\n", "\n").replace("\n", end) + part[stop:]
            text = with_cell(text, cell, part) if cell else part
        return text

    def encoded(self, text: str) -> bytes:
        return self.mark + text.encode(self.encoding)

    def parts(self, text: str) -> list[str]:
        """What has to parse: the text, or the cells."""
        return [cell.text for cell in code_cells(text)] if is_notebook(self.file) else [text]

    def _text(self, cell: int | None) -> str | None:
        if cell is None:
            return None if is_notebook(self.file) else self.text
        try:
            return code_cells(self.text)[cell - 1].text
        except (ValueError, IndexError):
            return None


def _unparsable(fixes: Sequence[Fix], last: Fix, sources: Mapping[str, _Source | str]) -> str:
    """Why the files would not parse with these fixes, or ""."""
    for file in {edit.place.file for edit in last.edits}:
        source = sources[file]
        assert isinstance(source, _Source)
        edits = [edit for fix in fixes for edit in fix.edits if edit.place.file == file]
        text = source.edited(edits)
        before, after = source.parts(source.text), source.parts(text)
        # A cell with magics parses neither before nor after.
        if any(_parses(old) and not _parses(new) for old, new in zip(before, after, strict=True)):
            return "the file would not parse any more"
        try:
            source.encoded(text)
        except UnicodeError:
            return f"it has characters that the file's encoding ({source.encoding}) has not"
    return ""


def _overlaps(fix: Fix, others: Sequence[Fix]) -> bool:
    def span(edit: Edit) -> tuple[tuple[int, int], tuple[int, int]]:
        place = edit.place
        start = (place.line, place.column)
        return start, (place.end_line or place.line, place.end_column or place.column)

    for edit in fix.edits:
        start, end = span(edit)
        for other in (one for each in others for one in each.edits):
            same = (other.place.file, other.place.cell) == (edit.place.file, edit.place.cell)
            first, last = span(other)
            # Two insertions at one place have no order; what only touches does not overlap.
            if same and (start == first or (start < last and first < end)):
                return True
    return False


def _parses(text: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of literals and escapes, which are not ours to judge
            ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _decode(data: bytes) -> tuple[str, str, bytes]:
    """Text with its line ends, encoding, and byte-order mark."""
    encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
    if encoding == "utf-8-sig":
        return data[len(codecs.BOM_UTF8) :].decode("utf-8"), "utf-8", codecs.BOM_UTF8
    return data.decode(encoding), encoding, b""


def _lines(text: str) -> list[str]:
    """As Python counts them: form feeds and Unicode's separators end no line."""
    return [line for line in _LINE.findall(text) if line]


def _plain(text: str) -> str:
    return text.lstrip("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def _replace(target: Path, data: bytes) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(target.stat().st_mode & 0o7777)
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
