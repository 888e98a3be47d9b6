"""What a run comes to: every episode judged, what went wrong with the run itself, and the exit status.

Plain data between the session that makes it and the renderers of `vladoctor.report`. Also what a session tells whoever
watches it run (`Progress`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from vladoctor.check import Severity
from vladoctor.diagnosis import RunDiagnosis

if TYPE_CHECKING:
    from vladoctor.diagnosis import Diagnosis, Finding
    from vladoctor.records import Outcome
    from vladoctor.runspec import RunSpec

NOTHING, FINDINGS, FAILED, INCOMPLETE = 0, 1, 2, 3


@dataclass(frozen=True)
class RunResult:
    """A run, judged.

    Attributes:
        spec: the run.yaml it came from; None where traces were replayed without one.
        run: what holds for the whole run: everything in `records.Episode.run` (`versions`, `spec`, `assets` as
            {"kind", "note"}, `device`, `checkpoint`), and `profile` as {"name", "reason"}, `fault` (name or "").
        diagnoses: one for each episode, in the order in which they ran.
        folder: where the reports and traces are; None where nothing is written.
        failures: what kept the run from being complete, one sentence each: an episode that could not start, a trace
            that could not be read. Exceptions that ended a recorded episode stand in that episode's outcome.
        notes: what else is worth knowing of the run, one sentence each: recordings that were not judged, processes that
            were not watched.
        overall: what the episodes say together: which checks of whole runs found what.
        accepted: what a baseline accepts, which stands in no diagnosis: (name of the episode, or
            `report.reported.WHOLE_RUN`, finding).
        texts: file -> its text, of the files of the program that findings name.
    """

    spec: RunSpec | None
    run: Mapping[str, Any]
    diagnoses: Sequence[Diagnosis] = ()
    folder: Path | None = None
    failures: Sequence[str] = field(default=())
    notes: Sequence[str] = ()
    overall: RunDiagnosis = field(default_factory=RunDiagnosis)
    accepted: Sequence[tuple[str, Finding]] = ()
    texts: Mapping[str, str] = field(default_factory=dict)

    @property
    def findings(self) -> Iterator[Finding]:
        """All findings: of every episode, then of the run as a whole."""
        for diagnosis in self.diagnoses:
            yield from diagnosis.findings
        yield from self.overall.findings

    @property
    def fail_on(self) -> Severity:
        """The mildest severity that makes the exit status 1; without a run.yaml any finding does."""
        return Severity(self.spec.report.fail_on) if self.spec else Severity.LOOK

    @property
    def failed(self) -> bool:
        """The loop or this tool broke: the verdicts do not cover what was asked for."""
        return bool(self.failures or self.overall.crashed) or any(
            diagnosis.crashed or diagnosis.episode.outcome.ended == "exception" for diagnosis in self.diagnoses
        )

    @property
    def incomplete(self) -> bool:
        """Some check could not see what it needs, or some episode (or the whole run) got no verdict at all."""
        if not self.diagnoses or self.overall.evidence_missing or any(one.about_evidence for one in self.findings):
            return True
        return any(
            diagnosis.evidence_missing
            or diagnosis.episode.outcome.ended == "interrupted"
            or not any(result.judged for result in diagnosis.results)
            for diagnosis in self.diagnoses
        )

    @property
    def exit_status(self) -> int:
        """0 nothing to report, 1 findings at or above `fail_on`, 2 the loop or the tool failed, 3 evidence incomplete.

        A failure outranks findings: they stand in the report, but they are not all that there would have been. Findings
        about the evidence say that it is incomplete, whatever `fail_on` is.
        """
        if self.failed:
            return FAILED
        if any(one.severity.at_least(self.fail_on) and not one.about_evidence for one in self.findings):
            return FINDINGS
        return INCOMPLETE if self.incomplete else NOTHING


class Progress(Protocol):
    """What a session tells whoever watches it run. Calls come in this order, from the thread that runs the loop."""

    def start(self, total_episodes: int) -> None: ...

    def episode_start(self, name: str) -> None: ...

    def step(self, number: int, horizon: int, milliseconds: float) -> None:
        """After each control step from the first query on; `milliseconds` is what this step took."""

    def episode_end(self, name: str, outcome: Outcome, findings: Sequence[Finding]) -> None: ...

    def note(self, text: str) -> None:
        """Something worth a line: loading the model, building the environment, stand-in assets. At any time."""

    def finish(self) -> None:
        """The end, also after an error: leave the terminal as it was found."""


class Silent:
    """A `Progress` that says nothing."""

    def start(self, total_episodes: int) -> None: ...

    def episode_start(self, name: str) -> None: ...

    def step(self, number: int, horizon: int, milliseconds: float) -> None: ...

    def episode_end(self, name: str, outcome: Outcome, findings: Sequence[Finding]) -> None: ...

    def note(self, text: str) -> None: ...

    def finish(self) -> None: ...
