"""`*.run.yaml` as tests: one for each episode and check, and one for each check of the run as a whole.

    demo.run.yaml::task0-init30::VD201
    demo.run.yaml::run::VD802

The run itself is `vladoctor diagnose` in a process of its own, so that neither its simulator nor its seeds meet those
of other tests. It is started by the first test that needs it, once in a session (`vladoctor.testing.once`), and leaves
a report from which every test reads its part. Collecting needs only the run file: how often a program of one's own
(`loop:`) resets its environment stands nowhere, so that its episodes are judged together, under `episodes`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from vladoctor.check import Check
from vladoctor.errors import UserError
from vladoctor.runspec import EnvSpec, RunSpec, load_run
from vladoctor.session import selected_checks
from vladoctor.testing import gpus, report
from vladoctor.testing.hooks import runs_key
from vladoctor.testing.once import WorkerLostError, once
from vladoctor.testing.settings import Settings, report_folder

SUITE_SIZES = {"libero_spatial": 10, "libero_object": 10, "libero_goal": 10, "libero_10": 10, "libero_90": 90}
"""Tasks of a suite. Source: LIBERO@8f1084e libero/libero/benchmark/libero_suite_task_map.py."""

Episode = Mapping[str, Any]
"""An episode of a run report."""

LOG_LINES = 12


class RunFile(pytest.File):
    """A run file. What is wrong with it is an error of the collection, with line and column."""

    def collect(self) -> Iterator[pytest.Collector]:
        shown = os.path.relpath(self.path, self.config.rootpath)
        try:
            options = Settings().with_options(self.config)
            spec = Settings.of_suite(self.config).over(load_run(self.path), options)
        except UserError as error:
            error.where = error.where.replace(str(self.path), shown)
            if error.where.startswith("--"):  # as vladoctor's command line has it, which nobody has typed here
                error.where = f"vladoctor_{error.where[2:].replace('-', '_')}"
            raise self.CollectError(str(error)) from error
        run = Run(self.config, self.path, shown, spec)
        checks = selected_checks(spec)
        for group in groups(spec):
            yield Group.from_parent(self, name=group.name, run=run, group=group, checks=checks)
        whole = [check for check in checks if check.judge_run]
        yield Group.from_parent(self, name="run", run=run, group=None, checks=whole)


@dataclass(frozen=True)
class Episodes:
    """Which episodes of a run's report tests are about.

    Attributes:
        task: number, name or BDDL file, as the run file has it; None for all episodes there are.
    """

    name: str
    task: int | str | None = None
    init_state: int = 0
    number: int = 0

    def of(self, found: Sequence[Episode]) -> list[Episode]:
        if self.task is None:
            return list(found)
        return [
            one
            for one in found
            if one["init_state"] == self.init_state
            and one["name"].endswith(f"-ep{self.number}")
            and self._is_task(one["task"], one["name"])
        ]

    def _is_task(self, task: Mapping[str, Any], name: str) -> bool:
        if isinstance(self.task, int):
            # A BDDL file of one's own has the number of the task whose scene it shares.
            return name.startswith(f"task{self.task}-init")
        return bool(task["name"] == Path(str(self.task)).stem)


def groups(spec: RunSpec) -> list[Episodes]:
    """The episodes that a run will have, in its order, with names to call their tests by."""
    if spec.env is None:
        return [Episodes("episodes")]
    found: list[Episodes] = []
    for task in _tasks(spec.env):
        label = f"task{task}" if isinstance(task, int) else Path(task).stem.replace("_", "-")
        states = spec.env.init_states
        count = spec.env.episodes or len(states)
        for number in range(count):
            state = states[number % len(states)]
            again = f"-ep{number}" if count > len(set(states)) else ""
            found.append(Episodes(f"{label}-init{state}{again}", task, state, number))
    return found


def _tasks(env: EnvSpec) -> Iterable[int | str]:
    if env.tasks != "all":
        return env.tasks
    return range(SUITE_SIZES.get(env.suite, 10))


class Group(pytest.Collector):
    """An episode of a run, or the run as a whole."""

    def __init__(self, *, run: Run, group: Episodes | None, checks: Sequence[Check], **options: Any) -> None:
        super().__init__(**options)
        self.run, self.group, self.checks = run, group, checks

    def collect(self) -> Iterator[pytest.Item]:
        for check in self.checks:
            if self.group is None or check.judge or check.judge_checks:
                yield CheckItem.from_parent(self, name=check.code, run=self.run, group=self.group, check=check)


class CheckItem(pytest.Item):
    """What one check says of an episode, or of the run as a whole.

    A finding fails it. Where the check says nothing it is skipped, with the reason: what was not looked at is not
    green. Where the run broke, or the check did, it is an error.
    """

    def __init__(self, *, run: Run, group: Episodes | None, check: Check, **options: Any) -> None:
        super().__init__(**options)
        self.run, self.group, self.check = run, group, check
        self.add_marker("vla")
        self.extra_keyword_matches.add(check.name)
        if self.config.pluginmanager.hasplugin("xdist"):
            # With --dist loadgroup the tests of a run stay together, and no worker waits for another's run.
            self.add_marker(pytest.mark.xdist_group(run.shown))
        self.judged: list[tuple[Episode | None, Mapping[str, Any]]] = []

    def setup(self) -> None:
        """Have the run done, and find what this test is about; what is missing is an error."""
        found = self.run.found()
        if isinstance(found, str):
            pytest.fail(found, pytrace=False)
        self.stash[runs_key] = [self.run.told]
        episodes = [None] if self.group is None else self.group.of(found["episodes"])
        self.judged = [
            (one, check)
            for one in episodes
            for check in (one["checks"] if one is not None else found["overall"]["checks"])
            if check["code"] == self.check.code
        ]
        # What was found stands; but nothing is right of what broke or did not get to its end.
        if not any(check["state"] == "failed" for _, check in self.judged):
            said = [*self._broken(found, episodes), *self.run.failed()]
            if said:
                pytest.fail("\n".join([*said, *self.run.evidence()]), pytrace=False)

    def _broken(self, found: Mapping[str, Any], episodes: Sequence[Episode | None]) -> Iterator[str]:
        if self.group is None or not episodes:
            yield from found["failures"]
        if not episodes and not found["failures"]:
            yield from found["notes"] or ["there is no such episode in the run's report"]
        told = [one for one in episodes if one is not None]
        for one in told:
            if one["outcome"] == "exception":
                yield f"{one['name']}: the loop raised an exception: {one['error'] or 'no message'}"
        # Of a vector environment the last episodes are seldom run to their end.
        if told and all(one["outcome"] == "interrupted" for one in told):
            yield f"{told[0]['name']}: the recording ends before the episode does"
        yield from filter(None, (report.crash(check) for _, check in self.judged))

    def runtest(self) -> None:
        found = self.run.found()
        assert not isinstance(found, str)
        mine: report.Found = [
            (episode, report.finding(one))
            for episode, _ in self.judged
            for one in (episode or found["overall"])["findings"]
            if one["code"] == self.check.code
        ]
        episodes = [one for one, _ in self.judged if one is not None]
        traces = {**found, "episodes": episodes}
        self.user_properties += report.properties(mine, self.run.folder, traces, self.check.code)
        fatal = report.grave(mine, self.run.spec.report.fail_on)
        if fatal:
            lines = [report.explain(fatal, self.run.folder).strip("\n"), *self.run.evidence()]
            pytest.fail("\n".join(lines), pytrace=False)
        if any(check["state"] in ("passed", "failed") for _, check in self.judged):
            return
        groups = [episode or found["overall"] for episode, _ in self.judged]
        missing = any(text.startswith(f"{self.check.code} ") for one in groups for text in one["missing"])
        reasons = [note for _, check in self.judged for note in check["notes"]]
        reason = "; ".join(dict.fromkeys(reasons)) or "it has nothing to say of this run"
        # At the run file, not at the line here.
        raise pytest.skip.Exception(
            f"{self.check.code} {'could not see' if missing else 'abstained'}: {reason}", _use_item_location=True
        )

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return self.path, 0, f"{self.run.shown}::{self.parent.name if self.parent else ''}::{self.name}"


class Run:
    """A run file's run, as this process knows it."""

    def __init__(self, config: pytest.Config, path: Path, shown: str, spec: RunSpec) -> None:
        self.config, self.path, self.shown, self.spec = config, path, shown, spec
        self.told: dict[str, Any] = {}
        self.folder = Path()
        self._found: Mapping[str, Any] | str | None = None
        self._said_in_full = False

    def found(self) -> Mapping[str, Any] | str:
        """The run's report; or why there is none, which is said in full once."""
        if self._found is None:
            self._found = self._read()
        if isinstance(self._found, str):
            text = self._found
            if self._said_in_full:
                text = f"{text.splitlines()[0]} (in full at the first test of {self.shown})"
            self._said_in_full = True
            return text
        return self._found

    def failed(self) -> list[str]:
        """How a program of one's own failed, if it did; its exit status is not the verdict's."""
        found = self._found
        program = (found["run"]["program"] if isinstance(found, Mapping) else None) or {}
        if not program.get("status"):
            return []
        ended = f"by {program['signal']}" if program.get("signal") else f"with status {program['status']}"
        return [f"the program ended {ended}; its output: {self.folder / 'run.log'}"]

    def evidence(self) -> list[str]:
        """Where more of the run is to be seen."""
        return ["", f"report: {self.folder / 'report.html'}"]

    def _read(self) -> Mapping[str, Any] | str:
        # Workers of pytest-xdist have folders of their own in that of the session.
        base = self.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
        worker = getattr(self.config, "workerinput", {}).get("workerid", "")
        shared = (base.parent if worker else base) / "vladoctor" / report.slug(self.shown)
        kept = report_folder(self.config)
        folder = kept / report.slug(self.shown) if kept is not None else shared / "report"
        try:
            left = once(shared, worker or "this process", lambda: self._run(folder))
        except WorkerLostError as lost:
            return f"the run was begun by {lost}, which has ended without leaving a report"
        self.folder = folder
        if not left["report"]:
            return str(left["error"])
        found: Mapping[str, Any] = json.loads((folder / "report.json").read_text("utf-8"))
        page = folder / "report.html"
        self.told = report.told(found, self.shown, folder, page if page.is_file() else None, self.spec.report.fail_on)
        return found

    def _run(self, folder: Path) -> dict[str, Any]:
        """Run `vladoctor diagnose` and leave its report in the folder."""
        report.fresh(folder)
        command = [sys.executable, "-m", "vladoctor", "diagnose", str(self.path), "--out", str(folder)]
        if self.spec.profile.name != "auto":
            command += ["--profile", self.spec.profile.name]
        for option, codes in (("--select", self.spec.checks.select), ("--ignore", self.spec.checks.ignore)):
            if codes:
                command += [option, ",".join(codes)]
        log = folder / "run.log"
        environment = {**os.environ, **gpus.of_worker(self.config)}
        started = time.monotonic()
        with log.open("wb") as stream:
            done = subprocess.run(
                command,
                cwd=self.config.rootpath,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                check=False,
            )
        written = (folder / "report.json").is_file()
        left = {"status": done.returncode, "seconds": round(time.monotonic() - started, 1), "report": written}
        return left if written else {**left, "error": _last_words(log, done.returncode)}


def _last_words(log: Path, status: int) -> str:
    """Why a run left no report: what it said is wrong, or the end of what it said."""
    lines = log.read_text("utf-8", "replace").splitlines()
    begins = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    if begins:
        text = "\n".join(lines[begins[-1] :]).removeprefix("error: ")
    else:
        ended = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        text = "\n".join([f"the run {ended} and left no report; the end of its output:", *lines[-LOG_LINES:]])
    return f"{text}\noutput: {log}"
