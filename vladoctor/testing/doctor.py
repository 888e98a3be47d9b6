"""What `vla_doctor` and `vla_trace` are in a test."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import vladoctor
from vladoctor.errors import UserError
from vladoctor.runspec import RunSpec
from vladoctor.testing import gpus
from vladoctor.testing.settings import Settings, codes, require_checks

if TYPE_CHECKING:
    from vladoctor.diagnosis import Diagnosis, Finding
    from vladoctor.records import Episode
    from vladoctor.result import RunResult
    from vladoctor.watching import Doctor


@dataclass
class Run:
    """A block that was watched, or traces that were replayed.

    Attributes:
        folder: of its traces, and of its report where one is written.
        doctor: who watches the block; None of traces.
        judged: of traces.
    """

    name: str
    folder: Path
    spec: RunSpec
    doctor: Doctor | None = None
    judged: RunResult | None = None
    page: Path | None = None

    @property
    def result(self) -> RunResult | None:
        return self.doctor.result if self.doctor is not None else self.judged

    def write(self) -> None:
        """Write report.json and report.html; what cannot be written is left out, the verdict stands without it."""
        if self.result is None or self.page is not None:
            return
        from vladoctor.report.html import write_html
        from vladoctor.report.json import write_json

        with suppress(Exception):
            write_json(self.result, self.folder / "report.json")
            write_html(self.result, self.folder / "report.html")
            self.page = self.folder / "report.html"


class VlaDoctor:
    """Watches blocks of a test, judges what they did, and fails the test where something is wrong.

    Attributes:
        runs: what was watched and replayed in this test so far.
        trace: what was recorded; the fixture `vla_trace`.
    """

    def __init__(self, name: str, settings: Settings, base: Path) -> None:
        self.name = name
        self.settings = settings
        self.runs: list[Run] = []
        self.trace = VlaTrace(self)
        self._base = base
        self._whole: Run | None = None
        self._asked = False

    @classmethod
    def of(cls, item: pytest.Item) -> VlaDoctor:
        """That of a test.

        Raises:
            UserError: its markers, the options or the ini file say something that there is not.
        """
        gpus.assign_late(item.config)
        settings = Settings.of_item(item)
        base = settings.report or item.config._tmp_path_factory.getbasetemp() / "vladoctor"  # type: ignore[attr-defined]
        return cls(item.nodeid, settings, base)

    # Watching.

    def watch(
        self,
        profile: str | None = None,
        *,
        select: str | Sequence[str] = (),
        ignore: str | Sequence[str] = (),
        overrides: Mapping[str, Any] | None = None,
        thresholds: Mapping[str, Mapping[str, float]] | None = None,
    ) -> Doctor:
        """Watch a `with` block, as `vladoctor.watch`; what is not said here is the marker's, or the suite's.

        Raises:
            UserError: there is no such profile or check. Entering the block raises it where this process is being
                watched already.
        """
        __tracebackhide__ = True
        return self._begin(
            replace(
                self.settings,
                profile=profile or self.settings.profile,
                select=codes(select) or self.settings.select,
                ignore=self.settings.ignore + codes(ignore),
                thresholds={**self.settings.thresholds, **(thresholds or {})},
            ),
            overrides,
        )

    def replay(self, *traces: Path | str) -> RunResult:
        """Judge recorded episodes (trace files, or folders of them) as if they had been watched just now.

        Raises:
            UserError: there is none at a place that is named.
        """
        from vladoctor.session import replay_session

        __tracebackhide__ = True
        doctor = self._doctor(self.settings, None, None)
        name, folder = self._place()
        run = Run(name, folder, replace(doctor.spec, source=name))
        try:
            run.judged = replay_session([Path(trace) for trace in traces], spec=run.spec, out=folder)
        except UserError as error:
            # At the test's own line, not where it was found out.
            raise error.with_traceback(None) from None
        self.runs.append(run)
        return run.judged

    def include(self, doctor: Doctor) -> None:
        """Take in a `vladoctor.watch()` that has ended elsewhere, in a fixture of wider scope for one."""
        name, folder = self._place()
        self.runs.append(Run(name, doctor.folder or folder, doctor.spec, doctor))

    def _begin(self, settings: Settings, overrides: Mapping[str, Any] | None = None) -> Doctor:
        from vladoctor.testing.report import fresh

        __tracebackhide__ = True
        if self._whole is not None and self._whole.result is None:
            raise UserError(
                "this test is watched as a whole already",
                where=self.name,
                remedy="leave out watch=True in its marker, or the `with` block",
            )
        name, folder = self._place()
        doctor = self._doctor(settings, fresh(folder), overrides)
        doctor.spec = replace(doctor.spec, source=name)
        self.runs.append(Run(name, folder, doctor.spec, doctor))
        return doctor

    def _doctor(self, settings: Settings, folder: Path | None, overrides: Mapping[str, Any] | None) -> Doctor:
        __tracebackhide__ = True
        try:
            doctor = vladoctor.watch(
                settings.profile,
                folder,
                select=settings.select,
                ignore=settings.ignore,
                overrides=overrides,
                thresholds=settings.thresholds,
            )
        except UserError as error:
            # It was not said on vladoctor's command line, whose options these are.
            error.where = f"{self.name}: {error.where.lstrip('-')}"
            # At the test's own line, not where it was found out.
            raise error.with_traceback(None) from None
        fail_on = settings.fail_on or doctor.spec.report.fail_on
        doctor.spec = replace(doctor.spec, report=replace(doctor.spec.report, fail_on=fail_on))
        return doctor

    def _place(self) -> tuple[str, Path]:
        from vladoctor.testing.report import slug

        number = f" ({len(self.runs) + 1})" if self.runs else ""
        return f"{self.name}{number}", self._base / slug(f"{self.name}{number}")

    # What was found.

    @property
    def result(self) -> RunResult:
        """The outcome of the last run of this test.

        Raises:
            UserError: nothing has been watched yet.
        """
        __tracebackhide__ = True
        return self._judged()[-1][1]

    @property
    def diagnoses(self) -> list[Diagnosis]:
        """One for each episode, of all runs of this test."""
        __tracebackhide__ = True
        return [diagnosis for _, result in self._judged() for diagnosis in result.diagnoses]

    @property
    def diagnosis(self) -> Diagnosis:
        """That of the only episode.

        Raises:
            UserError: there are none, or several.
        """
        __tracebackhide__ = True
        return _only(self.diagnoses, "diagnosis", "diagnoses", self.name)

    def findings(self, code: str | None = None) -> list[Finding]:
        """All findings, root causes first in each episode; those of checks by code, name or beginning of the code.

        Raises:
            UserError: nothing has been watched yet, there is no such check, or it could not say anything of what was
                watched: that nothing was found would then mean nothing.
        """
        __tracebackhide__ = True
        from vladoctor.testing.report import named

        judged = [result for _, result in self._judged()]
        found = [finding for result in judged for finding in result.findings]
        if code is None:
            return found
        wanted = require_checks(codes(code), self.name)
        chosen = [one for one in found if named(one.code, one.name, wanted)]
        said = [
            one
            for result in judged
            for results in (*(each.results for each in result.diagnoses), result.overall.results)
            for one in results
            if named(one.code, one.name, wanted)
        ]
        if not chosen and not any(one.state in ("passed", "failed") for one in said):
            reasons = [abstention.reason for one in said for abstention in one.abstentions]
            raise UserError(
                f"{code} said nothing of what was watched: {reasons[0] if reasons else 'it was not selected'}",
                where=self.name,
                remedy="give it what it needs, or leave this assertion out",
            )
        return chosen

    def summary(self, width: int = 100) -> str:
        """What was found, as text."""
        from vladoctor.report.terminal import summary_text

        __tracebackhide__ = True
        return "\n\n".join(summary_text(result, width) for _, result in self._judged())

    def assert_healthy(
        self, *, ignore: str | Sequence[str] = (), fail_on: str | None = None, complete: bool | None = None
    ) -> None:
        """Fail unless everything that was watched in this test was found right.

        Args:
            ignore: codes of checks whose findings do not count here.
            fail_on: the mildest severity that counts: "stop", "fix" or "look".
            complete: whether it also fails where something could not be judged because it was not seen; by default it
                does, unless the test's marker says otherwise.

        Raises:
            AssertionError: something was found, or could not be looked at; says what, with the evidence.
            UserError: nothing has been watched yet, or there is no such severity or check.
        """
        __tracebackhide__ = True
        self._judged()
        replace(self.settings, fail_on=fail_on or self.settings.fail_on).checked(self.name)
        said = self._unhealthy(
            require_checks(codes(ignore), self.name), fail_on, self.settings.complete if complete is None else complete
        )
        if said:
            raise AssertionError(said)

    def _judged(self) -> list[tuple[Run, RunResult]]:
        __tracebackhide__ = True
        self._asked = True
        if self._whole is not None and self._whole.doctor is not None:
            self._whole.doctor.close()
        judged = [(run, run.result) for run in self.runs if run.result is not None]
        if len(judged) < len(self.runs):
            raise UserError(
                "the block that is watched has not ended yet",
                where=self.name,
                remedy="ask behind the `with vla_doctor.watch():` block, not inside of it",
            )
        if not judged:
            raise UserError(
                "nothing has been watched in this test",
                where=self.name,
                remedy="put what runs your loop into a block: `with vla_doctor.watch(): evaluate(policy, env)`",
            )
        return [(run, result) for run, result in judged if result is not None]

    def _unhealthy(self, ignore: Sequence[str], fail_on: str | None, complete: bool) -> str:
        """What is wrong with the runs of this test; empty if nothing is."""
        from vladoctor.report.json import run_report
        from vladoctor.testing import report
        from vladoctor.watching import NOTHING_SEEN

        heads: list[str] = []
        parts: list[str] = []
        for run, result in self._judged():
            data = run_report(result)
            found = report.grave(report.findings(data, ignore), fail_on or result.fail_on.value)
            lines: list[str] = []
            if not data["episodes"]:
                heads.append("nothing was recorded")
                lines += data["failures"] or NOTHING_SEEN.partition(": ")[2].split("; ")
            elif not any(True for one in result.diagnoses for _ in one.episode.queries()):
                heads.append("no policy was asked")
                lines.append(report.NO_QUERY)
            for failure in report.broken(data) if data["episodes"] else ():
                heads.append("the run broke")
                lines.append(failure)
            if found:
                roots = [one for _, one in found if not one.explained_by] or [one for _, one in found]
                heads += [f"{one.code} {one.name}" for one in roots]
                lines.append(report.explain(found, run.folder, episodes=[one.episode for one in result.diagnoses]))
            missing = report.unseen(data, ignore)
            if complete and missing and not lines:
                heads.append("evidence incomplete")
                lines.append("nothing wrong was seen, but not everything could be looked at:")
                lines += [f"    {text}" for text in missing]
                lines.append("if that is known: ignore these checks, or assert_healthy(complete=False)")
            if lines:
                run.write()
                lines += ["", f"report: {run.page}"] if run.page else ["", f"traces: {run.folder}"]
                parts.append("\n".join(lines))
        return "\n".join([", ".join(dict.fromkeys(heads)), *parts]) if parts else ""

    # For the plugin.

    def start(self) -> None:
        """Watch the whole test; it ends with it, or when something is asked."""
        self._begin(self.settings).start()
        self._whole = self.runs[-1]

    def end_of_test(self, error: BaseException | None) -> BaseException | None:
        """The test function has ended, with this error or without; what the test fails with, if it was watched."""
        if self._whole is None or self._whole.doctor is None:
            return None
        self._whole.doctor.close(error)
        if error is not None or self._asked:
            return None
        said = self._unhealthy((), None, self.settings.complete)
        return pytest.fail.Exception(said, pytrace=False) if said else None

    def close(self) -> None:
        """End what has not ended: a block that was started by hand, a test whose setup failed."""
        for run in self.runs:
            if run.doctor is not None:
                run.doctor.close()

    def told(self) -> list[dict[str, Any]]:
        """Every run in a few words; with a folder for reports, they are written."""
        from vladoctor.report.json import run_report
        from vladoctor.testing import report

        said = []
        for run in self.runs:
            if run.result is not None:
                if self.settings.report is not None:
                    run.write()
                data = run_report(run.result)
                said.append(report.told(data, run.name, run.folder, run.page, run.result.fail_on.value))
        return said

    def properties(self) -> list[tuple[str, str]]:
        """For JUnit's XML."""
        from vladoctor.report.json import run_report
        from vladoctor.testing import report

        said: list[tuple[str, str]] = []
        for run in self.runs:
            if run.result is not None:
                data = run_report(run.result)
                said += report.properties(report.findings(data), run.folder, data)
        return said

    def sections(self, error: BaseException) -> list[tuple[str, str]]:
        """What is added to the report of a test that failed otherwise: why, perhaps."""
        if isinstance(error, pytest.fail.Exception) or (isinstance(error, AssertionError) and self._asked):
            return []
        try:
            return self._section()
        except Exception:  # noqa: BLE001 - here pytest takes it for its own, and ends the whole session
            return [("vladoctor", f"the diagnosis cannot be told, which is a defect\n{traceback.format_exc()}")]

    def _section(self) -> list[tuple[str, str]]:
        from vladoctor.report.json import run_report
        from vladoctor.testing import report

        said = []
        for run, told in zip([run for run in self.runs if run.result is not None], self.told(), strict=True):
            said.append(f"{run.name}: {report.in_words(told)}")
            if run.result is not None and told["findings"]:
                episodes = [one.episode for one in run.result.diagnoses]
                found = report.findings(run_report(run.result))
                said.append(report.explain(found, run.folder, episodes=episodes))
        return [("vladoctor", "\n".join(said))] if said else []


class VlaTrace:
    """What the runs of a test recorded: episodes as data (`vladoctor.records`), and the files that hold them."""

    def __init__(self, doctor: VlaDoctor) -> None:
        self._doctor = doctor

    @property
    def episodes(self) -> list[Episode]:
        """All, in the order in which they ran."""
        __tracebackhide__ = True
        return [diagnosis.episode for diagnosis in self._doctor.diagnoses]

    @property
    def episode(self) -> Episode:
        """The only one.

        Raises:
            UserError: there are none, or several.
        """
        __tracebackhide__ = True
        return _only(self.episodes, "episode", "episodes", self._doctor.name)

    @property
    def paths(self) -> list[Path]:
        """The files (MCAP) of all."""
        __tracebackhide__ = True
        return [Path(episode.source) for episode in self.episodes]

    @property
    def path(self) -> Path:
        """The file of the only one.

        Raises:
            UserError: there are none, or several.
        """
        __tracebackhide__ = True
        return _only(self.paths, "path", "paths", self._doctor.name)


def _only(found: Sequence[Any], one: str, several: str, where: str) -> Any:
    __tracebackhide__ = True
    if len(found) != 1:
        raise UserError(
            f"`{one}` is for a single episode, and there are {len(found)}", where=where, remedy=f"use `{several}`"
        )
    return found[0]
