"""What a pre-flight comes to: a line for everything that was looked at, and the exit status."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from vladoctor.check import Severity
from vladoctor.diagnosis import CheckResult, Finding
from vladoctor.result import FAILED, FINDINGS, INCOMPLETE, NOTHING

OK, PROBLEM, ABSTAINED, CRASHED = "ok", "problem", "abstained", "crashed"


@dataclass(frozen=True)
class Item:
    """One line.

    Attributes:
        level: 0 to 3.
        what: what was looked at, "weights".
        state: "ok", "problem", "abstained" or "crashed" (never a pass, never a finding).
        value: what was seen. expected: what it was held against; may be empty.
        finding: of a problem, with its code, severity, remedy and place in the run file.
        reason: why nothing can be said, or how the look crashed.
        missing: it says nothing because it could not look, as opposed to there being nothing to look at.
        seconds: what the look took; the first line of a look carries it.
    """

    level: int
    what: str
    state: str
    value: str = ""
    expected: str = ""
    finding: Finding | None = None
    reason: str = ""
    missing: bool = False
    seconds: float = 0.0

    @property
    def stops(self) -> bool:
        """Whether it makes looking further pointless."""
        return self.finding is not None and self.finding.severity is Severity.STOP

    def accepted(self, by: str) -> Item:
        """The same line where its finding does not count, by what somebody said ("the run file")."""
        if self.finding is None:
            return self
        told = f"{by} accepts it: {self.finding.code} {self.finding.message}"
        return replace(self, state=ABSTAINED, finding=None, reason=told)

    def to_json(self) -> dict[str, Any]:
        return {
            "level": self.level,
            "what": self.what,
            "state": self.state,
            "value": self.value,
            "expected": self.expected or None,
            "finding": self.finding.to_json() if self.finding else None,
            "reason": self.reason or None,
            "missing": self.missing,
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True)
class Preflight:
    """A pre-flight, done.

    Attributes:
        source: the run file as it was named.
        level: the highest level that was asked for.
        profile: {"name", "reason"} of what the run is held against.
        seconds: level -> wall time, those below not counted.
        fail_on: mildest severity that makes the exit status 1.
        machine: what it ran on; see `preflight.machine`.
    """

    source: str
    level: int
    items: Sequence[Item]
    profile: Mapping[str, str]
    seconds: Mapping[int, float]
    fail_on: Severity = Severity.LOOK
    machine: Mapping[str, Any] = field(default_factory=dict)

    @property
    def findings(self) -> Iterator[Finding]:
        """In the order in which they were found; the same one only once."""
        seen: set[tuple[str, str]] = set()
        for item in self.items:
            if item.finding is not None and (item.finding.code, item.finding.message) not in seen:
                seen.add((item.finding.code, item.finding.message))
                yield item.finding

    @property
    def exit_status(self) -> int:
        """As of `diagnose`: 0 nothing to report, 1 findings at or above `fail_on`, 2 a look crashed, 3 incomplete."""
        if any(item.state == CRASHED for item in self.items):
            return FAILED
        if any(one.severity.at_least(self.fail_on) and not one.about_evidence for one in self.findings):
            return FINDINGS
        about_evidence = any(one.about_evidence for one in self.findings)
        return INCOMPLETE if about_evidence or any(item.missing for item in self.items) else NOTHING

    def to_json(self) -> dict[str, Any]:
        """As `schemas/preflight.schema.json` describes it."""
        import vladoctor

        return {
            "schema": 1,
            "vladoctor": vladoctor.__version__,
            "run": self.source,
            "level": self.level,
            "profile": dict(self.profile),
            "exit_status": self.exit_status,
            "seconds": {str(level): round(value, 3) for level, value in self.seconds.items()},
            "machine": dict(self.machine),
            "items": [item.to_json() for item in self.items],
        }


def problem(level: int, what: str, finding: Finding, *, value: str = "", expected: str = "") -> Item:
    """A line of something wrong; value and expectation are the finding's evidence unless they are given."""
    seen, wanted = finding.evidence.get("seen"), finding.evidence.get("expected")
    return Item(level, what, PROBLEM, value or str(seen or ""), expected or str(wanted or ""), finding, seconds=0.0)


def judged(level: int, what: str, result: CheckResult, *, expected: str = "", quiet: bool = False) -> Iterator[Item]:
    """The lines that a check's verdict makes.

    Args:
        quiet: leave out abstentions: the check was asked about a part of what it judges.
    """
    if result.state == "crashed":
        yield Item(level, what, CRASHED, reason=f"{result.code} {result.name}: {result.error}")
    for finding in result.findings:
        yield problem(level, what, finding)
    if result.findings:
        return
    for clear in result.clears:
        yield Item(level, what, OK, clear.message, expected)
    if not result.clears and not quiet:
        for abstention in result.abstentions:
            yield Item(level, what, ABSTAINED, reason=abstention.reason, missing=abstention.missing)
