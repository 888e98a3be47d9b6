"""What the linter found, for people: place, source, the way the data took, remedy; then one line that counts it all."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TextIO

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from vladoctor.check import Severity
from vladoctor.diagnosis import Finding
from vladoctor.lint.cells import text_at
from vladoctor.lint.result import LintResult
from vladoctor.places import Place
from vladoctor.report import concise
from vladoctor.report.console import COLOURS, Glyphs, glyphs_for, hang, make_console, plural, prose, table
from vladoctor.report.reported import Report, Reported, short_way, shown

CONTEXT = 1
"""Lines shown before and after what is meant."""

LONGEST = 6
"""Lines of one excerpt; a whole loop is shown by its beginning."""


def print_lint(
    report: Report,
    result: LintResult,
    *,
    abstentions: bool = False,
    notes: Sequence[str] = (),
    stream: TextIO | None = None,
    width: int | None = None,
    colour: bool | None = None,
) -> None:
    """Print all findings that count and a summary.

    Args:
        abstentions: also say what was looked for and not found out, loop by loop.
        notes: said before the summary: fixes that were applied.
    """
    target = stream or sys.stdout
    console = make_console(target, width=width, colour=colour)
    view = _View(report, glyphs_for(console))
    with console.capture() as captured:
        for part in (*view.findings(), *view.troubles(), *(view.silent(result) if abstentions else ())):
            # Lines that begin with a place stay whole, so that they can be clicked and searched for.
            console.print(part, soft_wrap=isinstance(part, Text))
        for note in notes:
            console.print(Text(note, style="yellow"), soft_wrap=True)
        console.print(Text(summary(report, result), style=_style(report)), soft_wrap=True)
    # rich fills lines up with spaces, which in a file are only in the way.
    target.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))
    target.flush()


def print_statistics(report: Report, *, stream: TextIO | None = None) -> None:
    """Print how often each check found something, the most frequent first."""
    console = make_console(stream or sys.stdout)
    counts = Counter(one.finding.code for one in report.counted)
    names = {one.finding.code: one.finding for one in report.counted}
    for code, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        severity = names[code].severity
        console.print(
            Text(f"{count:5}  ").append(code, COLOURS[severity]).append(f"  {names[code].name} [{severity.value}]"),
            soft_wrap=True,
        )


def summary(report: Report, result: LintResult) -> str:
    """One line: "3 findings (2 stop, 1 look) in 1 loop; 412 files, 2 accepted"."""
    counts = Counter(one.finding.severity for one in report.counted)
    number = sum(counts.values())
    grave = ", ".join(f"{counts[severity]} {severity.value}" for severity in Severity if counts[severity])
    found = f"{plural(number, 'finding')} ({grave})" if number else "nothing found"
    loops = plural(len(result.loops), "evaluation loop")
    parts = [f"{found} in {loops}" if result.loops or number else "no evaluation loop was found"]
    parts[0] += f"; {plural(result.files, 'file')} looked at"
    safe = sum(one.finding.fix.safe for one in report.counted if one.finding.fix)
    unsafe = sum(one.finding.fix is not None for one in report.counted) - safe
    parts += [f"{safe} can be mended (--fix)"] if safe else []
    parts += [f"{unsafe} can be mended (--fix --unsafe-fixes)"] if unsafe else []
    accepted = Counter(one.accepted for one in report.found if one.accepted)
    if accepted:
        parts.append(f"{sum(accepted.values())} accepted ({', '.join(f'{n} by {by}' for by, n in accepted.items())})")
    if result.skipped:
        parts.append(f"{plural(len(result.skipped), 'file')} not read")
    silent = {(look.subject, look.code) for look in report.looked if look.state == "abstained"}
    if silent:
        checks = f"{plural(len(silent), 'question')} without an answer"
        parts.append(f"{checks} (--show-abstentions)")
    return ", ".join(parts)


def _style(report: Report) -> str:
    severities = [one.finding.severity for one in report.counted]
    if severities:
        return COLOURS[min(severities, key=list(Severity).index)]
    return "bold red" if report.troubles else "bold green"


@dataclass
class _View:
    report: Report
    glyphs: Glyphs

    def findings(self) -> Iterable[RenderableType]:
        for one in self.report.counted:
            yield self._head(one.finding, one.where)
            yield Padding(Group(*self._body(one)), (0, 0, 1, 4))

    def troubles(self) -> Iterable[RenderableType]:
        for trouble in self.report.troubles:
            yield Text(concise.trouble_line(trouble), style="bold red", overflow="fold")
        for warning in self.report.warnings:
            yield Text(concise.trouble_line(warning, "warning"), style="yellow", overflow="fold")

    def silent(self, result: LintResult) -> Iterable[RenderableType]:
        """What the source does not show, and why."""
        for loop in result.loops:
            rows = [check for check in loop.results if check.state == "abstained"]
            if rows:
                yield Text(f"{shown(loop.facts.place)}: not answered by the source", style="dim")
            for check in rows:
                reasons = "; ".join(dict.fromkeys(note.reason for note in check.abstentions)) or "it does not apply"
                yield hang(f"  {self.glyphs.silent} ", Text(f"{check.code} {check.name}: {reasons}", overflow="fold"))

    def _head(self, finding: Finding, where: str) -> Text:
        head = Text(overflow="fold").append(where, "bold").append(": ")
        head.append(f"{finding.code} {finding.name}", COLOURS[finding.severity])
        head.append(f" [{finding.severity.value}]")
        return head.append(f" (follows from {finding.explained_by})", "dim") if finding.explained_by else head

    def _body(self, one: Reported) -> Iterable[RenderableType]:
        finding = one.finding
        yield prose(finding.message)
        if one.place is not None:
            yield from self._excerpt(one.place)
        rows: list[tuple[str, RenderableType]] = [
            (key, Text(str(finding.evidence[key]), overflow="fold"))
            for key in ("expected", "seen")
            if finding.evidence.get(key) is not None
        ]
        if finding.trail:
            rows.insert(0, ("way", Text(short_way(finding.trail), overflow="fold")))
        if rows:
            yield Padding(table(rows), (0, 0, 0, 2))
        yield hang(self.glyphs.do, prose(finding.remedy), style="bold green")
        if finding.fix is not None:
            how = "--fix does it" if finding.fix.safe else "--fix --unsafe-fixes does it"
            yield Text(f"{how}: {finding.fix.summary}", style="dim")
        if len(one.subjects) > 1:
            yield Text(f"in the loops at {', '.join(one.subjects)}", style="dim")
        yield Text(f"more: vladoctor explain {finding.code}", style="dim")

    def _excerpt(self, place: Place) -> Iterable[RenderableType]:
        """The lines around a place, what is meant underlined."""
        # As Python counts lines: form feeds end none.
        lines = text_at(place, self.report.texts).replace("\r\n", "\n").replace("\r", "\n").split("\n")
        if not 0 < place.line <= len(lines) or not any(lines):
            return
        end = min(max(place.end_line, place.line), place.line + LONGEST - 1, len(lines))
        first, last = max(1, place.line - CONTEXT), min(len(lines), end + CONTEXT)
        digits = len(str(last))
        yield Text("")
        for number in range(first, last + 1):
            source = lines[number - 1]
            meant = place.line <= number <= end
            row = Text(f"{number:{digits}} | ", style="" if meant else "dim", no_wrap=True, overflow="ellipsis")
            yield row.append(_cells(source))
            if meant:
                start = place.column - 1 if number == place.line else len(source) - len(source.lstrip())
                stop = place.end_column - 1 if number == place.end_line else len(source)
                if number == place.line and place.end_line in (0, place.line) and stop <= start:
                    stop = start + 1
                mark = "^" * max(cell_len(_cells(source[start:stop])), 1 if source.strip() else 0)
                before = " " * cell_len(_cells(source[:start]))
                yield Text(f"{'':{digits}} | {before}", no_wrap=True, overflow="crop").append(mark, "bold red")
        yield Text("")


def _cells(source: str) -> str:
    """Without what would move the cursor; a tab is four columns."""
    return "".join(sign if sign.isprintable() else " " for sign in source.replace("\t", "    "))
