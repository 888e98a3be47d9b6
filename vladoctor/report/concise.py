"""One line a finding, as editors and `grep` read them: `eval.py:57:9: VD201 [stop] image-orientation: message`."""

from __future__ import annotations

from vladoctor.report.reported import Report, Trouble, shown


def to_text(report: Report) -> str:
    """Findings that count, then what could not be looked at."""
    lines = []
    for one in report.counted:
        finding = one.finding
        lines.append(f"{one.where}: {finding.code} [{finding.severity.value}] {finding.name}: {flat(finding.message)}")
    lines += [trouble_line(trouble) for trouble in report.troubles]
    lines += [trouble_line(warning, "warning") for warning in report.warnings]
    return "".join(f"{line}\n" for line in lines)


def trouble_line(trouble: Trouble, level: str = "error") -> str:
    """As a line: "eval.py:3: error: it does not parse"."""
    where = f"{shown(trouble.place)}: " if trouble.place else ""
    return f"{where}{level}: {flat(trouble.message)}"


def flat(text: str) -> str:
    """On one line."""
    return " ".join(text.split())
