"""Annotations of a GitHub workflow: lines on stdout that GitHub shows at the code of a pull request.

    ::error file=eval.py,line=57,endLine=57,col=9,endColumn=31,title=VD201 image-orientation::message

Levels: stop = error, fix = warning, look = notice. GitHub shows ten of each level and step, fifty a job: the gravest
come first, and all of them stand in SARIF.
"""

from __future__ import annotations

from collections.abc import Mapping

from vladoctor.check import Severity
from vladoctor.lint.cells import line_in_file
from vladoctor.places import Place
from vladoctor.report.reported import Report, checkout, relative, short_way, shown

LEVELS = {Severity.STOP: "error", Severity.FIX: "warning", Severity.LOOK: "notice"}


def to_text(report: Report) -> str:
    """A line for each finding that counts and for what could not be looked at."""
    lines = []
    for one in sorted(report.counted, key=lambda one: list(Severity).index(one.finding.severity)):
        finding = one.finding
        place = one.place or one.home or report.home
        parts = [finding.message]
        if one.place is None or (place is not None and place.cell is not None):
            parts.insert(0, f"{one.where}:")
        parts += [f"The way there: {short_way(finding.trail)}"] if finding.trail else []
        parts += [finding.remedy, f"more: vladoctor explain {finding.code}"]
        title = f"{finding.code} {finding.name}"
        lines.append(command(LEVELS[finding.severity], "\n".join(parts), _where(place, report.texts), title))
    told = [("error", one) for one in report.troubles] + [("notice", one) for one in report.warnings]
    for level, trouble in told:
        where = _where(trouble.place or report.home, report.texts)
        message = f"{shown(trouble.place)}: {trouble.message}" if trouble.place else trouble.message
        lines.append(command(level, message, where, f"vladoctor {report.command}"))
    return "".join(f"{line}\n" for line in lines)


def command(level: str, message: str, where: Mapping[str, str | int], title: str) -> str:
    """One workflow command, escaped as GitHub's own toolkit does: a value ends at a comma, a message at a newline."""
    properties = ",".join(
        f"{name}={_escaped(str(value), property=True)}" for name, value in (*where.items(), ("title", title))
    )
    return f"::{level} {properties}::{_escaped(message)}"


def _where(place: Place | None, texts: Mapping[str, str]) -> dict[str, str | int]:
    if place is None:
        return {}
    where: dict[str, str | int] = {"file": relative(place.file, checkout())}
    line = line_in_file(place, texts)
    if line:
        where["line"] = line
    if line and place.cell is None:
        where["endLine"] = max(place.end_line, line)
        # Columns mark only within one line.
        if place.end_line in (0, place.line):
            where["col"] = place.column
            where["endColumn"] = max(place.end_column, place.column)
    return where


def _escaped(text: str, *, property: bool = False) -> str:
    text = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return text.replace(":", "%3A").replace(",", "%2C") if property else text
