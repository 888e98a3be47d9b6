"""What a run of the linter comes to: plain data between `vladoctor.lint.run` that makes it and the renderers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vladoctor.check import Severity
from vladoctor.places import Place

if TYPE_CHECKING:
    from vladoctor.diagnosis import Finding, SourceDiagnosis

NOTHING, FINDINGS, FAILED = 0, 1, 2


@dataclass(frozen=True)
class Skipped:
    """A file, or a cell of one, that was not read, and why: it does not parse, it is no text, it took too long."""

    place: Place
    reason: str


@dataclass(frozen=True)
class LintResult:
    """Paths, linted.

    Attributes:
        loops: one for each evaluation loop that was found, in the order of file and line.
        files: how many files were looked at.
        skipped: those that could not be read.
        left_out: cells of notebooks that do not parse; the others of their notebooks were read.
        suppressed: findings that a comment, the configuration or a baseline accepts; not in `findings`.
        texts: file -> its text, of every file that a finding names, for excerpts.
        fail_on: the mildest severity that makes the exit status 1.
    """

    loops: Sequence[SourceDiagnosis] = ()
    files: int = 0
    skipped: Sequence[Skipped] = ()
    left_out: Sequence[Skipped] = ()
    suppressed: Sequence[Finding] = ()
    texts: Mapping[str, str] = field(default_factory=dict)
    fail_on: Severity = Severity.LOOK

    @property
    def findings(self) -> Iterator[Finding]:
        """What counts: what is suppressed left out."""
        hidden = {id(finding) for finding in self.suppressed}
        for loop in self.loops:
            yield from (finding for finding in loop.findings if id(finding) not in hidden)

    @property
    def exit_status(self) -> int:
        """0 nothing to report, 1 findings at or above `fail_on`, 2 a file could not be read or a check crashed."""
        if self.skipped or any(loop.crashed for loop in self.loops):
            return FAILED
        return FINDINGS if any(one.severity.at_least(self.fail_on) for one in self.findings) else NOTHING
