"""The bench: every fault against every task and init state of a run, and what was said of each.

A row is `vladoctor diagnose RUN --fault NAME --task TASK`, run as a user runs it, in a process of its own; the healthy
loop has a row for each task too. A row is made in `.running` and moved to its place when its report is written, so a
row either is there as a whole or is run again: an interrupted matrix goes on where it stopped.

With `again` no loop is run: rows that are there are judged once more from their traces, with the checks as they are now
and the run file's limits and profile, and their reports replaced.

What is counted is a trial: an episode, or the whole run of a row where the fault's check needs several episodes to say
anything. Trials of healthy rows count false alarms. Two faults at once go by both names, "flip-vertical+gripper-raw":
both their codes have to be root causes, and no third.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

import vladoctor
from vladoctor.check import Check, Fault, Severity, Stage, all_checks, all_faults
from vladoctor.errors import UserError
from vladoctor.report.json import CONFIDENCE, success_interval

if TYPE_CHECKING:
    from vladoctor.runspec import EnvSpec, RunSpec

SCHEMA = "urn:vladoctor:schema:matrix:1"
"""Changes its number when a field changes its meaning or goes away; fields are added without."""

HEALTHY = "healthy"
"""What the loop without a fault is called: in tables, as a folder, and as a name to ask for."""

NOTHING = "none"
"""What stands in the place of a code where nothing was found."""

VERDICTS = ("right", "stage", "wrong", "nothing")
"""Of a trial: its fault's code first, another code of the same stage, of another stage, or no finding."""

AT_ONCE = (Stage.RENDER, Stage.OBSERVE, Stage.IMAGE, Stage.PROMPT, Stage.PROCESS, Stage.DECODE, Stage.UNNORMALISE)
"""Stages whose faults show in the first step that they touch: observation, image, prompt, tokens, statistics."""

BOTH = "+"
"""Stands between the names of two faults that are applied at once."""

PAIRS = (
    "flip-vertical+unnorm-bridge",
    "bgr+prompt-bare",
    "no-crop+gripper-raw",
    "prompt-capital+no-settle",
    "darker-floor+decode-edges",
    "instruction-other-task+action-dims-swapped",
    "observation-stale+prompt-two-spaces",
    "pixels-normalised-twice+init-state-wiped",
    "sampled+flip-horizontal",
    "control-rate-10+unnorm-identity",
    "train-mode+no-jpeg",
    "bos-twice+gripper-not-inverted",
)
"""Faults of different stages that have nothing to do with each other."""

_CHILD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "LP_NUM_THREADS": "1"}
"""A thread for each process: several that each take every core are slower than one."""

_TAIL = 3000
"""Characters of a crashed row's stderr that are kept in the matrix; all of it stands in a file."""


@dataclass(frozen=True)
class Job:
    """One row: a fault ("" for the healthy loop), or several at once, on a task."""

    fault: str
    task: str
    episodes: int

    @property
    def name(self) -> str:
        return self.fault or HEALTHY

    @property
    def place(self) -> Path:
        """Its folder, relative to that of the matrix."""
        return Path(self.name) / (Path(self.task).stem if self.task.endswith(".bddl") else self.task)


@dataclass(frozen=True)
class Ended:
    """How a job ended: the error is empty where it wrote a report."""

    job: Job
    seconds: float
    error: str = ""


class Display(Protocol):
    """What a matrix tells whoever watches it run, from one thread."""

    def start(self, total: int, kept: int) -> None:
        """`kept` of all rows are there from an earlier time."""

    def ended(self, row: Mapping[str, Any], seconds: float) -> None: ...

    def note(self, text: str) -> None: ...

    def finish(self) -> None: ...


@dataclass(frozen=True)
class Plan:
    """What is to be run, and which faults are left out and why."""

    source: str
    spec: RunSpec
    jobs: tuple[Job, ...]
    left_out: Mapping[str, str]


def plan(
    source: str,
    spec: RunSpec,
    *,
    faults: Sequence[str] = (),
    tasks: Sequence[str] = (),
    episodes: int | None = None,
    healthy: int | None = None,
    again: bool = False,
) -> Plan:
    """The rows of a matrix, the healthy ones first.

    Args:
        source: the run file, as it was named.
        faults: names, of which `HEALTHY` is one, and two with `BOTH` between them; all and the healthy loop by default.
        episodes: of each task; at least as many as a fault needs. The run file's by default.
        healthy: of the healthy loop, of each task; 0 leaves it out. By default as many as of a fault.
        again: nothing is to be run, so that the model need not be there.

    Raises:
        UserError: an unknown fault or task, or a run of somebody's own loop.
    """
    spec = spec.with_options(tasks=tasks)
    _, env = spec.own_loop()
    if not again:
        spec.require_files()
    known = all_faults()
    for name in (part for asked in faults for part in asked.split(BOTH)):
        if name not in known and name != HEALTHY:
            near = get_close_matches(name, [*known, HEALTHY], n=1)
            hint = f"did you mean {near[0]}?" if near else "see: vladoctor faults --list"
            raise UserError(f"there is no fault {name!r}", where="--fault", remedy=hint)
    count = episodes or env.episodes or len(env.init_states)
    horizon = _horizon(env)
    names = _tasks(env)
    jobs: list[Job] = []
    left_out: dict[str, str] = {}
    if healthy is None:
        healthy = count if not faults or HEALTHY in faults else 0
    if healthy:
        jobs += [Job("", task, healthy) for task in names]
    for name in dict.fromkeys(faults or known):
        if name == HEALTHY:
            continue
        applied = [fault for fault, _ in _applied(name)]
        steps = max(fault.steps for fault in applied)
        if horizon < steps:
            left_out[name] = f"it takes {steps} steps until it can be seen, and the horizon is {horizon}"
            continue
        jobs += [Job(name, task, max(count, *(fault.episodes for fault in applied))) for task in names]
    return Plan(source, spec, tuple(jobs), left_out)


def run_matrix(what: Plan, out: Path, *, workers: int, display: Display, again: bool = False) -> dict[str, Any]:
    """Run the rows that are not below `out`, and count them all.

    Ctrl-C ends it with the rows that are complete; the matrix then says that it was interrupted.

    Args:
        again: judge the rows that are below `out` once more, and run none.

    Returns:
        the matrix, valid against `schemas/matrix.schema.json`.

    Raises:
        UserError: `out` holds rows of another run, or there is nothing to judge again.
    """
    rows: dict[Job, dict[str, Any]] = {}
    trials: list[dict[str, Any]] = []
    about: dict[str, Any] = {}

    def take(ended: Ended) -> dict[str, Any]:
        row, found = _row(ended, out, about)
        rows[ended.job] = row
        trials.extend(found)
        return row

    there = [job for job in what.jobs if (out / job.place / "report.json").is_file()]
    for job in there:
        _require_same(what, job, out, ("model", "env") if again else ("model", "env", "profile", "checks"))
    if again:
        what = replace(what, jobs=tuple(there))
        if not there:
            raise UserError("there is no row to judge again", where=str(out), remedy="run it first, without --rejudge")
    kept = [] if again else there
    for job in kept:
        take(Ended(job, 0.0))
    missing = [job for job in what.jobs if job not in rows]
    interrupted = False
    display.start(len(what.jobs), len(kept))
    for name, why in what.left_out.items():
        display.note(f"left out: {name}: {why}")
    try:
        with _Judges(what.spec, out, workers) if again else _Workers(what.source, out, workers) as pool:
            for ended in pool.run(missing):
                display.ended(take(ended), ended.seconds)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        display.finish()
    about["machine"] = f"{os.cpu_count()} cores, {platform.machine()}, {workers} processes"
    ordered = [rows[job] for job in what.jobs if job in rows]
    places = {(job.name, job.task): place for place, job in enumerate(what.jobs)}
    trials.sort(key=lambda trial: places[trial["fault"], trial["task"]])
    return matrix(ordered, trials, about=about, plan=what, interrupted=interrupted)


class _Workers:
    """Runs rows in processes of their own; leaving it ends those that still run."""

    def __init__(self, source: str, out: Path, count: int) -> None:
        self.source, self.out = source, out
        self.pool = ThreadPoolExecutor(count)
        self.lock = threading.Lock()
        self.stopped = threading.Event()
        self.running: set[subprocess.Popen[bytes]] = set()

    def __enter__(self) -> _Workers:
        return self

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.stopped.set()
            for process in self.running:
                process.terminate()
        self.pool.shutdown(wait=True, cancel_futures=True)
        shutil.rmtree(self.out / ".running", ignore_errors=True)

    def run(self, jobs: Sequence[Job]) -> Iterator[Ended]:
        futures: list[Future[Ended]] = [self.pool.submit(self._run, job) for job in jobs]
        for future in as_completed(futures):
            yield future.result()

    def _run(self, job: Job) -> Ended:
        began = monotonic()
        place, final = self.out / ".running" / job.place, self.out / job.place
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        command = [sys.executable, "-m", "vladoctor", "diagnose", self.source, "--task", job.task]
        command += ["--episodes", str(job.episodes), "--out", str(place), "--format", "json"]
        command += [word for fault, _ in _applied(job.fault) for word in ("--fault", fault.name)]
        log = place / "stderr.txt"
        # transformers copies a checkpoint's code into it, one process at a time: with one folder for all, rows spend
        # most of their time waiting for each other.
        modules = self.out / ".running" / "modules" / job.place
        with log.open("wb") as stderr:
            with self.lock:
                if self.stopped.is_set():
                    return Ended(job, 0.0, "interrupted")
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=stderr,
                    env={**os.environ, **_CHILD, "HF_MODULES_CACHE": str(modules.absolute())},
                    # Ctrl-C is for the matrix, which then ends its rows; they need not all say so.
                    start_new_session=True,
                )
                self.running.add(process)
            status = self._wait(process)
        shutil.rmtree(modules, ignore_errors=True)
        seconds = monotonic() - began
        if self.stopped.is_set():
            return Ended(job, seconds, "interrupted")
        error = ""
        if not (place / "report.json").is_file():
            error = f"no report, exit status {status}\n{log.read_text('utf-8', 'replace')[-_TAIL:]}".strip()
        if error:
            # Kept apart: a folder of its name would say that the row is there.
            final = self.out / "crashed" / job.place
        shutil.rmtree(final, ignore_errors=True)
        final.parent.mkdir(parents=True, exist_ok=True)
        os.replace(place, final)
        return Ended(job, seconds, error)

    def _wait(self, process: subprocess.Popen[bytes]) -> int:
        try:
            while True:
                try:
                    return process.wait(5.0)
                except subprocess.TimeoutExpired:
                    if self.stopped.is_set():
                        process.kill()
        finally:
            with self.lock:
                self.running.discard(process)


class _Judges:
    """Judges rows again, from their traces, in processes of their own."""

    def __init__(self, spec: RunSpec, out: Path, count: int) -> None:
        self.spec, self.out = spec, out
        self.pool = ProcessPoolExecutor(count)

    def __enter__(self) -> _Judges:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(wait=True, cancel_futures=True)

    def run(self, jobs: Sequence[Job]) -> Iterator[Ended]:
        for future in as_completed([self.pool.submit(_judge_again, self.spec, job, self.out) for job in jobs]):
            yield future.result()


def _judge_again(spec: RunSpec, job: Job, out: Path) -> Ended:
    began = monotonic()
    try:
        judge_row(_spec_of(spec, job), out / job.place)
    except UserError as error:
        return Ended(job, monotonic() - began, str(error))
    except Exception:  # noqa: BLE001 - one row must not cost all others
        return Ended(job, monotonic() - began, traceback.format_exc()[-_TAIL:].strip())
    return Ended(job, monotonic() - began)


def judge_row(spec: RunSpec, place: Path) -> None:
    """Judge the traces of a row again and replace its reports; what failed when it was run is kept.

    Raises:
        UserError: it has no traces.
    """
    from vladoctor.report.html import write_html
    from vladoctor.report.json import write_json
    from vladoctor.session import replay_session

    before = _read(place / "report.json")
    result = replay_session([place], spec=spec, out=place)
    result = replace(result, failures=tuple(dict.fromkeys([*before["failures"], *result.failures])))
    write_json(result, place / "report.json")
    if (place / "report.html").is_file():
        write_html(result, place / "report.html")


def _spec_of(spec: RunSpec, job: Job) -> RunSpec:
    """The run file as a row has it, with what its faults change of it."""
    spec = spec.with_options(tasks=[job.task], episodes=job.episodes)
    for fault, _ in _applied(job.fault):
        spec = fault.configure(spec) if fault.configure else spec
    return spec


def _require_same(what: Plan, job: Job, out: Path, sections: Sequence[str]) -> None:
    """An earlier row has to be of the same model and tasks, number of episodes and, as a rule, checks."""
    path = out / job.place / "report.json"
    found = (_read(path).get("run") or {}).get("spec") or {}
    asked = json.loads(json.dumps(_spec_of(what.spec, job).to_json()))
    for section in sections:
        for key in sorted({*(asked.get(section) or {}), *(found.get(section) or {})}):
            then, now = (found.get(section) or {}).get(key), (asked.get(section) or {}).get(key)
            if (section, key) == ("model", "path") and Path(str(then)).name == Path(str(now)).name:
                continue  # run elsewhere, or moved since
            if then != now:
                raise UserError(
                    f"this row was run with {section}.{key} {json.dumps(then)}, and {json.dumps(now)} is asked for",
                    where=str(path.parent),
                    remedy="name another folder with --out, or remove that row",
                )


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def _tasks(env: EnvSpec) -> list[str]:
    if env.tasks != "all":
        return [str(task) for task in env.tasks]
    from vladoctor.adapters import libero

    libero.prepare(env.assets)
    return [str(number) for number in range(len(libero.suite_tasks(env.suite)))]


def _horizon(env: EnvSpec) -> int:
    from vladoctor.loop import HORIZONS

    return env.horizon or HORIZONS.get(env.suite, 280)


# --- From reports to trials ---


def _row(ended: Ended, out: Path, about: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A job as a row of the matrix, and its trials. `about` takes what the first report says of the whole run."""
    job = ended.job
    row: dict[str, Any] = {"fault": job.name, "task": job.task, "state": "done", "error": None}
    if ended.error:
        return {
            **row,
            "state": "crashed",
            "error": ended.error,
            "report": None,
            "failures": [],
            "crashed_checks": [],
            "first": {},
        }, []
    report = _read(out / job.place / "report.json")
    if not about:
        about.update({key: report["run"].get(key) for key in ("versions", "assets", "device", "profile", "model")})
        about["rows_by_platform"] = {}
    versions = report["run"].get("versions") or {}
    platform_name = f"{versions.get('platform') or '?'}, Python {versions.get('python') or '?'}"
    about["rows_by_platform"][platform_name] = about["rows_by_platform"].get(platform_name, 0) + 1
    judged = [each["checks"] for each in (*report["episodes"], report.get("overall") or {"checks": []})]
    row |= {
        "report": (job.place / "report.json").as_posix(),
        "failures": list(report["failures"]),
        "crashed_checks": sorted({check["code"] for checks in judged for check in checks if check["error"]}),
    }
    trials = trials_of(report, job.fault, job.task)
    row["first"] = dict(sorted(Counter(trial["first"] or NOTHING for trial in trials).items()))
    return row, trials


def trials_of(report: Mapping[str, Any], fault: str, task: str) -> list[dict[str, Any]]:
    """The trials of a row, from its run report.

    An episode of which nothing is said by itself is judged by what is said of its run.
    """
    overall = (report.get("overall") or {}).get("findings") or []
    over = next((finding for finding in overall if not finding["explained_by"]), None)
    episodes = report["episodes"]
    checks = [check for _, check in _applied(fault)]
    if fault and _needs_run(fault):
        first = next((each["findings"][0] for each in episodes if each["findings"]), over)
        findings = [finding for each in episodes for finding in each["findings"]] + list(overall)
        return [_trial(fault, task, None, first, findings, checks, episodes)] if episodes else []
    return [
        _trial(
            fault,
            task,
            each,
            each["findings"][0] if each["findings"] else over,
            [*each["findings"], *overall],
            checks,
            [each],
        )
        for each in episodes
    ]


def _needs_run(fault: str) -> bool:
    """Whether it takes several episodes until the fault can be seen, so that a run is one trial."""
    return any(
        found.episodes > 1 or (check.judge is None and check.judge_run is not None) for found, check in _applied(fault)
    )


def _begins(name: str) -> int:
    return min(fault.begins for fault, _ in _applied(name))


def _applied(name: str) -> list[tuple[Fault, Check]]:
    """The faults that a name stands for, each with the check that it proves."""
    return [all_faults()[part] for part in name.split(BOTH)] if name else []


def _trial(
    fault: str,
    task: str,
    episode: Mapping[str, Any] | None,
    first: Mapping[str, Any] | None,
    findings: Sequence[Mapping[str, Any]],
    checks: Sequence[Check],
    episodes: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    own = {check.code for check in checks}
    roots = {one["code"] for one in findings if not one["explained_by"]}
    # Of two faults at once neither follows from the other.
    named = roots if len(checks) > 1 else {one["code"] for one in findings}
    steps = [one["first_step"] for one in findings if one["code"] in own and one.get("scope") != "run"]
    counted = [one for one in episodes if one["outcome"] in ("success", "horizon")]
    severities = {one["severity"] for one in findings}
    if first is None:
        verdict = "nothing"
    elif first["code"] in own:
        verdict = "right"
    else:
        verdict = "stage" if first["stage"] in {check.stage.value for check in checks} else "wrong"
    return {
        "fault": fault or HEALTHY,
        "task": task,
        "episode": episode["name"] if episode else None,
        "init_state": episode["init_state"] if episode else None,
        "first": first["code"] if first else None,
        "verdict": verdict if checks else None,
        "named": own <= named if checks else None,
        "step": min(steps, default=None),
        "others": sorted(roots - own),
        "consequences": sorted({one["code"] for one in findings if one["explained_by"]} - own),
        "severity": next((each.value for each in Severity if each.value in severities), None),
        "trials": len(counted),
        "successes": sum(bool(one["success"]) for one in counted),
    }


# --- From trials to the matrix ---


def matrix(
    rows: Sequence[Mapping[str, Any]],
    trials: Sequence[Mapping[str, Any]],
    *,
    about: Mapping[str, Any],
    plan: Plan | None = None,
    interrupted: bool = False,
) -> dict[str, Any]:
    """Count trials: by fault, by check, healthy, and in all."""
    healthy = [trial for trial in trials if trial["fault"] == HEALTHY]
    broken = [trial for trial in trials if trial["fault"] != HEALTHY]
    by_fault = {name: [each for each in broken if each["fault"] == name] for name in _in_order(broken)}
    return {
        "schema": SCHEMA,
        "vladoctor": vladoctor.__version__,
        "run": {
            "source": plan.source if plan else None,
            "spec": json.loads(json.dumps(plan.spec.to_json())) if plan else None,
            **about,
        },
        "confidence": CONFIDENCE,
        "complete": not interrupted and (plan is None or len(rows) == len(plan.jobs)),
        "planned": len(plan.jobs) if plan else len(rows),
        "left_out": dict(plan.left_out) if plan else {},
        "total": _total(rows, broken, by_fault),
        "healthy": _healthy(healthy),
        "faults": [_of_fault(name, found, healthy) for name, found in by_fault.items()],
        "checks": _checks(broken),
        "confusion": {
            name: dict(sorted(Counter(each["first"] or NOTHING for each in found).items()))
            for name, found in {**({HEALTHY: healthy} if healthy else {}), **by_fault}.items()
        },
        "rows": [dict(row) for row in rows],
        "trials": [dict(trial) for trial in trials],
    }


def exit_status(found: Mapping[str, Any]) -> int:
    """0 every fault's code came first and no healthy episode had a finding to act on, 1 not so, 2 a row crashed."""
    if any(row["state"] == "crashed" or row["crashed_checks"] for row in found["rows"]):
        return 2
    right = found["total"]["verdicts"]["right"] == found["total"]["trials"]
    return 0 if right and not found["healthy"]["alarms"] else 1


def share(count: int, total: int) -> dict[str, Any]:
    """A share with Wilson's interval at `CONFIDENCE`; without trials it has neither."""
    bounds = success_interval(count, total)
    low, high = bounds if bounds else (None, None)
    return {"count": count, "of": total, "rate": count / total if total else None, "low": low, "high": high}


def upper_bound(count: int, total: int) -> float | None:
    """Largest rate at which so few in so many trials are still as likely as 1 - `CONFIDENCE` (one-sided, exact).

    Of 0 in n it is about 3/n.
    """
    if not total:
        return None
    from scipy.stats import beta

    return 1.0 if count >= total else float(beta.ppf(CONFIDENCE, count + 1, total - count))


def difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, float] | None:
    """Difference of two shares with Newcombe's interval, made of their Wilson intervals."""
    if not one["of"] or not other["of"]:
        return None
    found = one["rate"] - other["rate"]
    down = ((one["rate"] - one["low"]) ** 2 + (other["high"] - other["rate"]) ** 2) ** 0.5
    up = ((one["high"] - one["rate"]) ** 2 + (other["rate"] - other["low"]) ** 2) ** 0.5
    return {"points": found, "low": max(-1.0, found - down), "high": min(1.0, found + up)}


def _total(
    rows: Sequence[Mapping[str, Any]],
    broken: Sequence[Mapping[str, Any]],
    by_fault: Mapping[str, Sequence[Mapping[str, Any]]],
) -> dict[str, Any]:
    count = len(broken)
    verdicts = Counter(trial["verdict"] for trial in broken)
    return {
        "rows": len(rows),
        "crashed": sum(row["state"] == "crashed" for row in rows),
        "faults": len(by_fault),
        "trials": count,
        "recall": share(sum(trial["named"] for trial in broken), count),
        "right_first": share(verdicts["right"], count),
        "alone": share(sum(trial["verdict"] == "right" and not trial["others"] for trial in broken), count),
        "verdicts": {name: verdicts[name] for name in VERDICTS},
        "faults_always_first": sum(all(t["verdict"] == "right" for t in found) for found in by_fault.values()),
        "within_step": _within_step([trial for trial in broken if _shows_at_once(trial["fault"])]),
        "reports": len({report for name in by_fault for fault, _ in _applied(name) for report in fault.reports}),
    }


def _healthy(trials: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    grave = [trial for trial in trials if trial["severity"] in (Severity.STOP.value, Severity.FIX.value)]
    looks = [trial for trial in trials if trial["severity"] == Severity.LOOK.value]
    return {
        "episodes": len(trials),
        "alarms": len(grave),
        "alarm_rate": len(grave) / len(trials) if trials else None,
        "alarm_bound": upper_bound(len(grave), len(trials)),
        "looks": len(looks),
        "look_bound": upper_bound(len(looks), len(trials)),
        "codes": dict(sorted(Counter(code for trial in trials for code in trial["others"]).items())),
        "success": _success(trials),
    }


def _of_fault(name: str, trials: Sequence[Mapping[str, Any]], healthy: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    applied = _applied(name)
    verdicts = Counter(trial["verdict"] for trial in trials)
    steps = [trial["step"] for trial in trials if trial["step"] is not None]
    tasks = {trial["task"] for trial in trials}
    success = _success(trials)
    return {
        "fault": name,
        "code": BOTH.join(check.code for _, check in applied),
        "check": BOTH.join(check.name for _, check in applied),
        "stage": BOTH.join(check.stage.value for _, check in applied),
        "reports": [report for fault, _ in applied for report in fault.reports],
        "unit": "run" if _needs_run(name) else "episode",
        "trials": len(trials),
        "recall": share(sum(trial["named"] for trial in trials), len(trials)),
        "verdicts": {verdict: verdicts[verdict] for verdict in VERDICTS},
        "first": dict(sorted(Counter(trial["first"] or NOTHING for trial in trials).items())),
        "others": dict(sorted(Counter(code for trial in trials for code in trial["others"]).items())),
        "consequences": dict(sorted(Counter(code for trial in trials for code in trial["consequences"]).items())),
        "step": {"median": statistics.median(steps), "max": max(steps)} if steps else None,
        "begins": _begins(name),
        "within_step": _within_step(trials),
        "success": success,
        "effect": difference(success, _success([trial for trial in healthy if trial["task"] in tasks])),
    }


def _shows_at_once(fault: str) -> bool:
    """A symptom takes its time; of two faults at once each has a row of its own."""
    checks = [check for _, check in _applied(fault)]
    return len(checks) == 1 and checks[0].stage in AT_ONCE and not checks[0].symptom


def _within_step(trials: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Of the trials in which an episode can show the step: those whose code is found where the fault begins, give or
    take a step. One that is there from the start may be seen in the settle steps.
    """
    near = total = 0
    for trial in trials:
        if _needs_run(trial["fault"]) or (trial["named"] and trial["step"] is None):
            continue  # the run as a whole says it
        total += 1
        begins = _begins(trial["fault"])
        near += trial["step"] is not None and (begins - 1 if begins else -1_000) <= trial["step"] <= begins + 1
    return share(near, total)


def _checks(broken: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """By check: of the trials of its own faults, and how often it stood beside other faults as a root of its own."""
    owners = {name: {check.code for _, check in _applied(name)} for name in _in_order(broken)}
    found = []
    for check in all_checks():
        own = [trial for trial in broken if owners[trial["fault"]] == {check.code}]
        elsewhere = [trial for trial in broken if check.code not in owners[trial["fault"]]]
        if not own:
            continue
        found.append(
            {
                "code": check.code,
                "name": check.name,
                "faults": len({trial["fault"] for trial in own}),
                "recall": share(sum(trial["named"] for trial in own), len(own)),
                "right_first": share(sum(trial["verdict"] == "right" for trial in own), len(own)),
                "elsewhere": sum(check.code in trial["others"] for trial in elsewhere),
            }
        )
    return found


def _success(trials: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    listed = list(trials)
    return share(sum(trial["successes"] for trial in listed), sum(trial["trials"] for trial in listed))


def _in_order(trials: Sequence[Mapping[str, Any]]) -> list[str]:
    """Faults in the order in which the program lists them, then those that were applied together."""
    there = dict.fromkeys(trial["fault"] for trial in trials)
    return [*(name for name in all_faults() if name in there), *(name for name in there if BOTH in name)]
