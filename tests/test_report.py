"""The run's result and its JSON report."""

from __future__ import annotations

import json
import os
import stat
import threading
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from diagnoses import ORIENTATION, PROMPT, SATURATION, SCALE, diagnosis, result

from vladoctor.check import Abstention, Severity
from vladoctor.diagnosis import Finding
from vladoctor.records import Outcome
from vladoctor.report.json import run_report, success_interval, to_text, write_atomically, write_json
from vladoctor.result import RunResult
from vladoctor.runspec import EnvSpec, ModelSpec, ReportSpec, RunSpec
from vladoctor.schemas import load_schema

EXCEPTION = Outcome("exception", False, 12, "RuntimeError: CUDA out of memory")
MISSING = {"VD301": Abstention("no prompt was recorded", missing=True)}
UNSURE = {"VD201": Abstention("the frames are symmetric")}
ALL_SILENT = dict.fromkeys(("VD101", "VD201", "VD301", "VD401", "VD402", "VD501"), Abstention("nothing to see"))


def _spec(fail_on: str) -> RunSpec:
    return RunSpec(ModelSpec(Path("m")), EnvSpec("libero_object"), ReportSpec(Path("out"), fail_on=fail_on))


def _validate(report: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(load_schema("report")).validate(report)


@pytest.mark.parametrize(
    ("run", "status"),
    [
        (result(diagnosis()), 0),
        (result(diagnosis(), diagnosis(31, [SATURATION])), 1),
        (result(diagnosis(findings=[ORIENTATION], abstained=MISSING)), 1),
        (result(diagnosis(outcome=EXCEPTION)), 2),
        (result(diagnosis(findings=[ORIENTATION], outcome=EXCEPTION)), 2),
        (result(diagnosis(crashed=["VD501"])), 2),
        (result(diagnosis(), failures=["task 3 does not exist"]), 2),
        (result(diagnosis(abstained=MISSING)), 3),
        (result(diagnosis(abstained=UNSURE)), 0),
        (result(diagnosis(truncated=True)), 3),
        (result(diagnosis(outcome=Outcome("interrupted", False, 4))), 3),
        (result(diagnosis(), diagnosis(31, abstained=ALL_SILENT)), 3),
        (result(), 3),
    ],
)
def test_exit_status(run: RunResult, status: int) -> None:
    assert run.exit_status == status
    assert run_report(run)["summary"]["exit_status"] == status


@pytest.mark.parametrize(
    ("finding", "fail_on", "status"),
    [(SATURATION, "look", 1), (SATURATION, "fix", 0), (PROMPT, "fix", 1), (PROMPT, "stop", 0), (SCALE, "stop", 1)],
)
def test_fail_on_is_the_mildest_severity_that_counts(finding: Finding, fail_on: str, status: int) -> None:
    assert RunResult(_spec(fail_on), {}, [diagnosis(findings=[finding])]).exit_status == status


def test_report_follows_its_schema() -> None:
    run = result(
        diagnosis(findings=[ORIENTATION, SATURATION]),
        diagnosis(31, [PROMPT]),
        diagnosis(32, [SCALE]),
        diagnosis(33, outcome=EXCEPTION),
        diagnosis(34, abstained=MISSING, crashed=["VD501"], truncated=True),
        folder=Path("/somewhere/reports/demo"),
        failures=["task 3 does not exist"],
        fault="flip-vertical",
    )
    report = run_report(run)
    _validate(report)
    assert json.loads(to_text(report)) == report
    _validate(run_report(RunResult(_spec("stop"), {}, [])))


def test_schema_refuses_what_is_not_a_report() -> None:
    report = run_report(result(diagnosis(findings=[ORIENTATION])))
    report["episodes"][0]["findings"][0]["severity"] = "error"
    with pytest.raises(jsonschema.ValidationError, match="'error' is not one of"):
        _validate(report)
    del report["episodes"][0]["findings"][0]["remedy"]
    with pytest.raises(jsonschema.ValidationError):
        _validate(report)


def test_report_says_what_others_rely_on() -> None:
    run = result(
        diagnosis(findings=[ORIENTATION, SATURATION]), diagnosis(31), folder=Path("/somewhere/reports/demo"), fault="f"
    )
    report = run_report(run)
    first, second = report["episodes"]
    assert [finding["code"] for finding in first["findings"]] == ["VD201", "VD402"]
    headline = first["findings"][0]
    assert {"code", "severity", "stage", "first_step", "message", "remedy"} <= headline.keys()
    assert (headline["severity"], headline["stage"], headline["explained_by"]) == ("stop", "image", None)
    assert first["findings"][1]["explained_by"] == "VD201"
    assert first["trace"] == "traces/task0-init30-ep0.mcap"
    assert first["timings"]["query"] == {"median_ms": 31.0, "max_ms": 32.0}
    assert first["instruction"] == "pick up the alphabet soup and place it in the basket"
    assert second["findings"] == []
    assert {check["state"] for check in second["checks"]} == {"passed"}
    assert all(check["notes"] for check in second["checks"])
    assert report["run"]["fault"] == "f"
    assert report["run"]["assets"]["kind"] == "stand-in"
    assert report["run"]["model"]["statistics"] == ["libero_object"]
    assert "norm_stats" not in report["run"]["model"]
    summary = report["summary"]
    assert (summary["episodes"], summary["trials"], summary["successes"], summary["success_rate"]) == (2, 2, 1, 0.5)
    assert summary["headlines"] == [{"code": "VD201", "name": "image-orientation", "episodes": 1}]
    assert [c["failed"] for c in summary["checks"] if c["code"] == "VD201"] == [1]


def test_episodes_that_broke_are_no_trials() -> None:
    run = result(diagnosis(), diagnosis(31, outcome=EXCEPTION), diagnosis(32, outcome=Outcome("interrupted", False, 3)))
    summary = run_report(run)["summary"]
    assert (summary["episodes"], summary["trials"], summary["success_rate"]) == (3, 1, 1.0)


def test_wilson_interval() -> None:
    # Newcombe, Statistics in Medicine 17 (1998) 857-872, table I: 81 of 263 and 0 of 20, method 3.
    assert success_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert success_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert success_interval(0, 0) is None


def test_evidence_of_any_kind_becomes_json() -> None:
    evidence = {
        "array": np.arange(3),
        "scalar": np.float32(0.5),
        "flag": np.bool_(True),
        "nan": float("nan"),
        "infinite": np.array([np.inf, 1.0]),
        "path": Path("a/b"),
        "tuple": (1, (2,)),
        "severity": Severity.STOP,
        "surrogate": "\ud800 ↵",
        3: "number as key",
    }
    finding = Finding(**{**vars(ORIENTATION), "evidence": evidence})
    text = to_text(run_report(result(diagnosis(findings=[finding]))))
    assert text.isascii()
    read = json.loads(text)["episodes"][0]["findings"][0]["evidence"]
    assert read == {
        "array": [0, 1, 2],
        "scalar": 0.5,
        "flag": True,
        "nan": None,
        "infinite": [None, 1.0],
        "path": "a/b",
        "tuple": [1, [2]],
        "severity": "stop",
        "surrogate": "\ud800 ↵",
        "3": "number as key",
    }


def test_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "deep" / "report.json"
    write_json(result(diagnosis()), file)
    before = file.read_text()
    assert json.loads(before)["summary"]["episodes"] == 1
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~mask

    def fail(_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(file, "half of it")
    assert file.read_text() == before
    assert list(file.parent.iterdir()) == [file]


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    """As with /dev/null and /dev/stdout, in whose place a rename would put a file."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    write_atomically(pipe, "all of it\n")
    reader.join(10)
    assert got == ["all of it\n"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_link_stays_one(tmp_path: Path) -> None:
    link = tmp_path / "link.json"
    link.symlink_to(tmp_path / "file.json")
    write_atomically(link, "{}")
    assert link.is_symlink()
    assert (tmp_path / "file.json").read_text() == "{}"
