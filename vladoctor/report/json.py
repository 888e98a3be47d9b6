"""The run report as JSON (schemas/report.schema.json), for programs. Nothing is ever left half-written."""

from __future__ import annotations

import contextlib
import json
import math
import os
import statistics
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import vladoctor
from vladoctor.check import Severity
from vladoctor.report import acquittal
from vladoctor.report.seen import cost, of_run

if TYPE_CHECKING:
    from vladoctor.diagnosis import CheckResult, Diagnosis
    from vladoctor.lint.result import LintResult
    from vladoctor.places import Fix
    from vladoctor.records import Episode
    from vladoctor.report.reported import Report
    from vladoctor.result import RunResult

SCHEMA = "urn:vladoctor:schema:report:1"
"""Changes its number when a field changes its meaning or goes away; fields are added without."""

LINT_SCHEMA = "urn:vladoctor:schema:lint:1"

CONFIDENCE = 0.95
STATES = ("failed", "passed", "abstained", "crashed")


def run_report(result: RunResult) -> dict[str, Any]:
    """The whole run as JSON-able data: valid against the shipped schema, no NaN, headline first in each episode."""
    report = {
        "schema": SCHEMA,
        "vladoctor": vladoctor.__version__,
        "run": _run(result),
        "summary": _summary(result),
        "acquittal": acquittal.to_json(result),
        "overall": {
            "findings": [finding.to_json() for finding in result.overall.findings],
            "checks": [_check(check) for check in result.overall.results],
            "missing": list(result.overall.evidence_missing),
        },
        "episodes": [_episode(diagnosis, result.folder) for diagnosis in result.diagnoses],
        "accepted": [{"episode": name, **finding.to_json()} for name, finding in result.accepted],
        "failures": list(result.failures),
        "notes": list(result.notes),
    }
    plain: dict[str, Any] = _jsonable(report)
    return plain


def lint_report(report: Report, result: LintResult) -> dict[str, Any]:
    """What the linter found, as JSON-able data: valid against schemas/lint.schema.json."""
    severities = [one.finding.severity.value for one in report.counted]
    document = {
        "schema": LINT_SCHEMA,
        "vladoctor": vladoctor.__version__,
        "summary": {
            "files": result.files,
            "loops": len(result.loops),
            "findings": {severity.value: severities.count(severity.value) for severity in Severity},
            "accepted": len(report.found) - len(severities),
            "exit_status": report.exit_status,
        },
        "findings": [
            {
                **one.finding.to_json(),
                "evidence": _worded(one.finding.evidence),
                "place": one.place.to_json() if one.place else None,
                "found_in": list(one.subjects),
                "fingerprint": one.fingerprint,
                "accepted": one.accepted or None,
                "fix": _fix(one.finding.fix),
            }
            for one in report.found
        ],
        "loops": [
            {
                "place": loop.facts.place.to_json(),
                "profile": loop.facts.profile.name,
                "checks": [_check(check) for check in loop.results],
            }
            for loop in result.loops
        ],
        "warnings": [
            {"place": one.place.to_json() if one.place else None, "message": one.message} for one in report.warnings
        ],
        "skipped": [{"place": one.place.to_json(), "reason": one.reason} for one in result.skipped],
    }
    plain: dict[str, Any] = _jsonable(document)
    return plain


def to_text(report: Mapping[str, Any]) -> str:
    """As text, ASCII only: any terminal, pipe or file takes it."""
    return json.dumps(report, indent=2, allow_nan=False) + "\n"


def write_json(result: RunResult, path: Path) -> None:
    """Write the run report; after a crash at any moment there is the old file or the new one.

    Raises:
        OSError: the folder cannot be written to.
    """
    write_atomically(path, to_text(run_report(result)))


def write_atomically(path: Path, text: str) -> None:
    """Write UTF-8 into a temporary file beside `path`, then rename it into place.

    The data is synced before the rename: without that a power cut can leave an empty file under the final name. What is
    no file (/dev/null, /dev/stdout, a pipe) is written to as it is: a rename would put a file in its place.
    """
    if path.exists() and not path.is_file():
        with path.open("w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
        return
    # A link stays one.
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        # mkstemp makes the file private; a report is as readable as any other new file.
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def success_interval(successes: int, trials: int) -> tuple[float, float] | None:
    """Wilson's interval at `CONFIDENCE` for a success rate; None without trials."""
    if not trials:
        return None
    from scipy.stats import binomtest

    interval = binomtest(successes, trials).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def trials(diagnoses: Iterable[Diagnosis]) -> list[Diagnosis]:
    """Episodes that say something about the policy: those that ran to success or to the horizon."""
    return [diagnosis for diagnosis in diagnoses if diagnosis.episode.outcome.ended in ("success", "horizon")]


def trace_name(episode: Episode, folder: Path | None) -> str | None:
    """The episode's trace, relative to the report's folder."""
    if not episode.source:
        return None
    return os.path.relpath(episode.source, folder) if folder else episode.source


def stage_times(episode: Episode) -> dict[str, dict[str, float]]:
    """Stage -> median and largest time in milliseconds over the steps that have it."""
    times: dict[str, list[float]] = {}
    for step in episode.policy_steps():
        for stage, milliseconds in step.timings.items():
            times.setdefault(stage, []).append(milliseconds)
    return {stage: {"median_ms": statistics.median(ms), "max_ms": max(ms)} for stage, ms in times.items()}


def _run(result: RunResult) -> dict[str, Any]:
    run = dict(result.run)
    checkpoint = {key: value for key, value in run.get("checkpoint", {}).items() if key != "norm_stats"}
    if "norm_stats" in run.get("checkpoint", {}):
        checkpoint["statistics"] = list(run["checkpoint"]["norm_stats"])
    return {
        "source": result.spec.source if result.spec else None,
        "spec": result.spec.to_json() if result.spec else run.get("spec"),
        "versions": run.get("versions", {}),
        "assets": run.get("assets"),
        "model": checkpoint,
        "profile": run.get("profile"),
        "device": run.get("device"),
        "fault": run.get("fault") or None,
        "program": run.get("program"),
        "taps": _taps(result),
    }


def _taps(result: RunResult) -> dict[str, Any] | None:
    found = cost(diagnosis.episode for diagnosis in result.diagnoses)
    if found is None:
        return None
    return {
        "ms_per_step": round(found.taps, 3),
        "step_ms": round(found.step, 3),
        "share": round(found.share, 5),
        "steps": found.steps,
        "budget": result.run.get("budget"),
    }


def _summary(result: RunResult) -> dict[str, Any]:
    counted = trials(result.diagnoses)
    successes = sum(diagnosis.episode.outcome.success for diagnosis in counted)
    interval = success_interval(successes, len(counted))
    headlines: dict[str, dict[str, Any]] = {}
    checks: dict[str, dict[str, Any]] = {}
    for diagnosis in result.diagnoses:
        if diagnosis.headline:
            entry = headlines.setdefault(
                diagnosis.headline.code,
                {"code": diagnosis.headline.code, "name": diagnosis.headline.name, "episodes": 0},
            )
            entry["episodes"] += 1
        for check in diagnosis.results:
            states = checks.setdefault(check.code, {"code": check.code, "name": check.name, **dict.fromkeys(STATES, 0)})
            states[check.state] += 1
    return {
        "episodes": len(result.diagnoses),
        "trials": len(counted),
        "successes": successes,
        "success_rate": successes / len(counted) if counted else None,
        "success_interval": {
            "low": interval[0],
            "high": interval[1],
            "confidence": CONFIDENCE,
            "method": "wilson",
        }
        if interval
        else None,
        "seen": [{"stage": one.stage, "state": one.state, "why": one.why} for one in of_run(result.diagnoses)],
        "without_findings": sum(not diagnosis.findings for diagnosis in result.diagnoses),
        "headlines": sorted(headlines.values(), key=lambda entry: (-entry["episodes"], entry["code"])),
        "checks": sorted(checks.values(), key=lambda entry: str(entry["code"])),
        "exit_status": result.exit_status,
    }


def _episode(diagnosis: Diagnosis, folder: Path | None) -> dict[str, Any]:
    episode, outcome = diagnosis.episode, diagnosis.episode.outcome
    return {
        "name": episode.name,
        "task": {key: episode.task.get(key) for key in ("suite", "task_id", "name")},
        "instruction": episode.task.get("language"),
        "init_state": episode.task.get("init_state"),
        "outcome": outcome.ended,
        "success": outcome.success,
        "steps": outcome.steps,
        "error": outcome.error or None,
        "truncated": episode.truncated,
        "damage": episode.damage or None,
        "trace": trace_name(episode, folder),
        "findings": [finding.to_json() for finding in diagnosis.findings],
        "checks": [_check(check) for check in diagnosis.results],
        "missing": list(diagnosis.evidence_missing),
        "notes": list(episode.notes),
        "seen": [vars(stage) for stage in diagnosis.covered],
        "links": list(diagnosis.links),
        "timings": stage_times(episode),
    }


def _check(check: CheckResult) -> dict[str, Any]:
    return {
        "code": check.code,
        "name": check.name,
        "state": check.state,
        "notes": [clear.message for clear in check.clears] + [note.reason for note in check.abstentions],
        "error": check.error or None,
    }


def _worded(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """Evidence with what was expected and seen in words; a source says a number where a run says a sentence."""
    words = {key: str(evidence[key]) for key in ("expected", "seen") if evidence.get(key) is not None}
    return {**evidence, **words}


def _fix(fix: Fix | None) -> dict[str, Any] | None:
    if fix is None:
        return None
    edits = [{"place": edit.place.to_json(), "text": edit.text} for edit in fix.edits]
    return {"summary": fix.summary, "safe": fix.safe, "edits": edits}


def _jsonable(value: Any) -> Any:
    """Plain data: numpy's scalars and arrays, paths and tuples become what JSON has; NaN and infinity become null."""
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, Enum):
        return _jsonable(value.value)
    if value is None or isinstance(value, (bool, str)):
        return value
    if hasattr(value, "tolist"):
        return _jsonable(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int):
        return int(value)
    if isinstance(value, (Sequence, set, frozenset)) and not isinstance(value, (bytes, bytearray)):
        return [_jsonable(item) for item in value]
    return str(value)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
