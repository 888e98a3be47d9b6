"""The fault matrix: what is counted of reports, what is run and what is kept, and two faults for real."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from rendered import recorded, rendered, turned

from vladoctor import cli, matrix
from vladoctor.errors import UserError
from vladoctor.matrix import HEALTHY, difference, exit_status, plan, share, trials_of, upper_bound
from vladoctor.records import Outcome
from vladoctor.report.matrix import brief, make_display, print_matrix, section, setting, to_markdown
from vladoctor.runspec import RunSpec, load_run
from vladoctor.schemas import load_schema
from vladoctor.trace import TraceWriter

PYTHON = sys.executable
FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"


def finding(code: str, stage: str, *, severity: str = "stop", because: str = "", step: int = 0, scope: str = "episode"):  # type: ignore[no-untyped-def]
    return {
        "code": code,
        "stage": stage,
        "severity": severity,
        "explained_by": because or None,
        "first_step": step,
        "scope": scope,
    }


IMAGE = finding("VD201", "image")
CROP = finding("VD202", "image", severity="fix")
SCALE = finding("VD501", "un-normalise", step=3)
SATURATION = finding("VD402", "decode", severity="look", because="VD201")


def episode(*findings: Mapping[str, Any], success: bool = False, outcome: str = "", number: int = 0) -> dict[str, Any]:
    return {
        "name": f"task0-init{30 + number}-ep{number}",
        "init_state": 30 + number,
        "outcome": outcome or ("success" if success else "horizon"),
        "success": success,
        "findings": list(findings),
        "checks": [],
    }


def report(*episodes: Mapping[str, Any], overall: tuple[Mapping[str, Any], ...] = ()) -> dict[str, Any]:
    return {
        "run": {"versions": {"python": "3.11"}, "device": "cpu", "assets": {"kind": "stand-in"}},
        "episodes": list(episodes),
        "overall": {"findings": list(overall), "checks": []},
        "failures": [],
    }


# Trials.


@pytest.mark.parametrize(
    ("found", "verdict", "named"),
    [
        ([IMAGE, SATURATION], "right", True),
        ([CROP, IMAGE], "stage", True),
        ([SCALE], "wrong", False),
        ([], "nothing", False),
    ],
)
def test_what_comes_first_is_the_verdict(found: list[Any], verdict: str, named: bool) -> None:
    (trial,) = trials_of(report(episode(*found)), "flip-vertical", "0")
    assert (trial["verdict"], trial["named"]) == (verdict, named)
    assert trial["others"] == sorted({one["code"] for one in found} - {"VD201", "VD402"})
    assert trial["consequences"] == (["VD402"] if SATURATION in found else [])


def test_an_episode_without_findings_is_judged_by_what_is_said_of_the_run() -> None:
    overall = finding("VD603", "score", scope="run")
    (trial,) = trials_of(report(episode(), overall=(overall,)), "horizon-long", "0")
    assert (trial["verdict"], trial["step"]) == ("right", None)


def test_a_fault_that_needs_several_episodes_is_one_trial_a_run() -> None:
    overall = finding("VD801", "execute", scope="run")
    (trial,) = trials_of(report(episode(success=True), episode(number=1), overall=(overall,)), "seed-ignored", "0")
    assert (trial["episode"], trial["first"], trial["verdict"]) == (None, "VD801", "right")
    assert (trial["trials"], trial["successes"]) == (2, 1)


@pytest.mark.parametrize(
    ("found", "verdict", "named", "others"),
    [
        ([IMAGE, SCALE, SATURATION], "right", True, []),
        ([IMAGE], "right", False, []),
        ([IMAGE, {**SCALE, "explained_by": "VD201"}], "right", False, []),
        ([CROP, IMAGE, SCALE], "stage", True, ["VD202"]),
    ],
)
def test_of_two_faults_at_once_both_are_roots(found: list[Any], verdict: str, named: bool, others: list[str]) -> None:
    (trial,) = trials_of(report(episode(*found)), "flip-vertical+unnorm-bridge", "0")
    assert (trial["verdict"], trial["named"], trial["others"]) == (verdict, named, others)


def test_pairs_are_counted_by_themselves() -> None:
    trials = [
        *trials_of(report(episode(IMAGE, SCALE)), "flip-vertical+unnorm-bridge", "0"),
        *trials_of(report(episode(SCALE)), "unnorm-bridge", "0"),
    ]
    found = matrix.matrix([], trials, about={})
    jsonschema.validate(found, load_schema("matrix"))
    one, both = found["faults"]
    assert (both["code"], both["stage"]) == ("VD201+VD501", "image+un-normalise")
    assert one["reports"] == ["openvla/openvla#118"]
    assert [(each["code"], each["recall"]["of"], each["elsewhere"]) for each in found["checks"]] == [("VD501", 1, 0)]
    assert found["total"]["alone"]["count"] == 2


def test_pairs_are_of_different_stages() -> None:
    faults = matrix.all_faults()
    for pair in matrix.PAIRS:
        one, other = (faults[name][1] for name in pair.split(matrix.BOTH))
        assert one.stage is not other.stage


def test_an_episode_that_was_broken_off_is_no_trial_of_the_policy() -> None:
    (trial,) = trials_of(report(episode(IMAGE, outcome="exception")), "flip-vertical", "0")
    assert (trial["named"], trial["trials"]) == (True, 0)


# Counting.


@pytest.mark.parametrize(
    ("fault", "code", "stage", "step", "near"),
    [
        ("black-image", "VD101", "render", -10, 1),  # there from the start: the settle steps show it
        ("black-image", "VD101", "render", 2, 0),
        ("black-image-late", "VD101", "render", 30, 1),
        ("black-image-late", "VD101", "render", 31, 1),
        ("black-image-late", "VD101", "render", 32, 0),
        ("black-image-late", "VD101", "render", 0, 0),
    ],
)
def test_a_fault_is_found_in_time_where_its_begin_is_named(
    fault: str, code: str, stage: str, step: int, near: int
) -> None:
    trials = trials_of(report(episode(finding(code, stage, step=step))), fault, "0")
    total = matrix.matrix([], trials, about={})["total"]
    assert (total["within_step"]["count"], total["within_step"]["of"]) == (near, 1)


def test_a_fault_that_is_not_found_is_not_found_in_time_and_what_a_run_shows_has_no_step() -> None:
    missed = trials_of(report(episode()), "flip-vertical", "0")
    of_run = trials_of(report(episode(), overall=(finding("VD201", "image", scope="run"),)), "flip-vertical", "0")
    total = matrix.matrix([], [*missed, *of_run], about={})["total"]
    assert (total["within_step"]["count"], total["within_step"]["of"]) == (0, 1)


def test_a_late_fault_begins_when_its_summary_says() -> None:
    faults = {name: fault for name, (fault, _) in matrix.all_faults().items()}
    for name in ("black-image-late", "frozen-render-late", "frozen-old"):
        assert f"step {faults[name].begins}" in faults[name].summary


def counted() -> dict[str, Any]:
    healthy = [episode(success=True, number=number) for number in range(9)] + [episode(CROP, number=9)]
    flipped = [episode(IMAGE, SATURATION, number=number) for number in range(3)] + [episode(CROP, number=3)]
    scaled = [episode(SCALE, success=True), episode(number=1)]
    trials = [
        *trials_of(report(*healthy), "", "0"),
        *trials_of(report(*flipped), "flip-vertical", "0"),
        *trials_of(report(*scaled), "unnorm-bridge", "0"),
    ]
    rows = [
        {"fault": name, "task": "0", "state": "done", "error": None, "report": "", "failures": [], "crashed_checks": []}
        | {"first": {}}
        for name in (HEALTHY, "flip-vertical", "unnorm-bridge")
    ]
    rows.append({**rows[0], "fault": "bgr", "state": "crashed", "error": "no report, exit status 2\nKilled"})
    return matrix.matrix(rows, trials, about={"versions": {"python": "3.11"}})


def test_the_matrix_of_made_up_reports() -> None:
    found = counted()
    jsonschema.validate(found, load_schema("matrix"))
    assert found["confusion"] == {
        HEALTHY: {"VD202": 1, "none": 9},
        "flip-vertical": {"VD201": 3, "VD202": 1},
        "unnorm-bridge": {"VD501": 1, "none": 1},
    }
    total = found["total"]
    assert total["verdicts"] == {"right": 4, "stage": 1, "wrong": 0, "nothing": 1}
    assert (total["recall"]["count"], total["recall"]["of"], total["crashed"]) == (4, 6, 1)
    assert found["healthy"]["alarms"] == 1
    assert found["healthy"]["codes"] == {"VD202": 1}
    checks = {each["code"]: each for each in found["checks"]}
    assert checks["VD201"]["recall"]["count"] == 3
    assert checks["VD201"]["recall"]["low"] == pytest.approx(0.3006, abs=1e-3)
    assert "VD202" not in checks
    scaled = next(each for each in found["faults"] if each["fault"] == "unnorm-bridge")
    assert scaled["step"] == {"median": 3, "max": 3}
    assert scaled["effect"]["points"] == pytest.approx(-0.4)
    assert exit_status(found) == 2


def test_a_matrix_is_told_in_tables_and_in_short(capsys: pytest.CaptureFixture[str]) -> None:
    found = counted()
    page = section(found)
    assert "| flip-vertical | VD201 | 4 | 0/4 = 0 % (0–49) |" in page
    assert "VD201 3/4, VD202 1/4" in page
    assert "| (healthy) | none | 10 |" in page
    assert "Crashed, and counted nowhere: bgr on 0: Killed" in page
    assert to_markdown(found).startswith("# Fault matrix of a run\n")
    short = brief(found)
    assert "| image | 1 | 3/4 = 75 % (30–95) | 3/4 = 75 % (30–95) | 3/4 = 75 % (30–95) | 1 of 1 |" in short
    assert "- flip-vertical (VD201): first VD201 3/4, VD202 1/4; beside it VD202 1/4" in short
    assert "| unnorm-bridge | VD501 | 1/2 | 1/2 | 3 | 1/2 | −40" in short
    print_matrix(found)
    shown = capsys.readouterr().out
    assert "its code found 4/6 = 67 %" in shown
    assert "  unnorm-bridge (VD501): VD501 1/2, none 1/2" in shown


def test_rows_of_several_machines_are_told() -> None:
    where = {"machine": "2 cores", "rows_by_platform": {"Linux-6, Python 3.12.3": 65, "Linux-5, Python 3.11.7": 66}}
    found = {"vladoctor": "0.1.0", "run": where}
    assert "Rows of 2 machines: 65 on Linux-6, Python 3.12.3; 66 on Linux-5, Python 3.11.7." in setting(found)
    where["rows_by_platform"] = {"Linux-6, Python 3.12.3": 131}
    assert "Rows of" not in setting(found)


def test_one_is_no_plural(capsys: pytest.CaptureFixture[str]) -> None:
    found = counted()
    one = {**found, "rows": found["rows"][:1], "planned": 1, "complete": False}
    one["total"] = {**found["total"], "faults": 1, "trials": 1}
    one["healthy"] = {**found["healthy"], "episodes": 1}
    print_matrix(one)
    shown = capsys.readouterr().out
    assert shown.startswith("1 of 1 row, ")
    assert "1 fault, 1 trial: " in shown
    assert "1 healthy episode: " in shown
    assert "Interrupted: 1 of 1 row is complete." in to_markdown(one)


def test_progress_counts_rows() -> None:
    told = io.StringIO()
    make_display(told).start(1, 0)
    assert told.getvalue() == "1 row\n"


def test_nothing_counted_is_no_number() -> None:
    found = matrix.matrix([], [], about={})
    jsonschema.validate(found, load_schema("matrix"))
    assert found["total"]["recall"]["rate"] is None
    assert found["healthy"]["alarm_bound"] is None
    assert section(found)


def test_bounds() -> None:
    assert upper_bound(0, 300) == pytest.approx(0.00994, abs=1e-4)
    assert upper_bound(3, 3) == 1.0
    gap = difference(share(56, 70), share(48, 80))
    assert gap is not None  # Newcombe (1998), table II, example (a), method 10: 0.0524 to 0.3339
    assert (gap["low"], gap["high"]) == (pytest.approx(0.0524, abs=1e-4), pytest.approx(0.3339, abs=1e-4))


# What is run.


@pytest.fixture
def spec() -> RunSpec:
    return load_run(FIXTURES / "runs" / "evidence.yaml")


def test_the_plan_has_a_row_for_each_fault_and_task(spec: RunSpec) -> None:
    what = plan("run.yaml", spec)
    names = {job.name for job in what.jobs}
    assert what.jobs[0].name == HEALTHY
    assert names == {HEALTHY, *matrix.all_faults()}
    assert len(what.jobs) == 2 * len(names)
    assert not what.left_out


def test_a_fault_gets_the_episodes_that_it_needs(spec: RunSpec) -> None:
    what = plan("run.yaml", spec, faults=["one-init-state", "bgr"], tasks=["0"], episodes=1, healthy=5)
    assert [(job.name, job.episodes) for job in what.jobs] == [(HEALTHY, 5), ("one-init-state", 4), ("bgr", 1)]


def test_two_faults_at_once_are_a_row(spec: RunSpec) -> None:
    what = plan("run.yaml", spec, faults=["one-init-state+bgr"], tasks=["0"], episodes=1)
    assert [(job.name, job.episodes) for job in what.jobs] == [("one-init-state+bgr", 4)]
    with pytest.raises(UserError, match="did you mean flip-vertical"):
        plan("run.yaml", spec, faults=["bgr+flip-verticl"])


def test_a_fault_that_the_horizon_cannot_show_is_left_out(spec: RunSpec) -> None:
    what = plan("run.yaml", spec.with_options(horizon=24), faults=["stepped-after-done", "bgr"])
    assert {job.name for job in what.jobs} == {"bgr"}
    assert "170 steps" in what.left_out["stepped-after-done"]


def test_a_wrong_name_is_answered_with_the_right_one(spec: RunSpec) -> None:
    with pytest.raises(UserError, match="did you mean flip-vertical"):
        plan("run.yaml", spec, faults=["flip-verticl"])


DIAGNOSE = """
    import json, os, sys, time
    from pathlib import Path
    from vladoctor.runspec import load_run

    words = sys.argv[1:]
    option = lambda name: words[words.index(name) + 1] if name in words else None
    out, fault = Path(option("--out")), option("--fault")
    with open(os.environ["STARTED"], "a") as log:
        print(fault or "healthy", file=log)
    if fault == "bgr":
        sys.exit("the simulator is on fire")
    if fault == "transpose" and "SLOW" in os.environ:
        time.sleep(60)
    spec = load_run(words[1]).with_options(tasks=[option("--task")], episodes=int(option("--episodes")))
    code = {"flip-vertical": "VD201", "transpose": "VD201"}.get(fault)
    found = {"code": code, "stage": "image", "severity": "stop", "explained_by": None, "first_step": 0}
    episode = {"name": "e", "init_state": 30, "outcome": "horizon", "success": False, "checks": []}
    plain = json.loads(json.dumps(spec.to_json()))
    report = {"run": {"spec": plain, "versions": {}}, "failures": [], "overall": {"findings": [], "checks": []}}
    report["episodes"] = [{**episode, "findings": [found] if code else []}]
    (out / "report.json").write_text(json.dumps(report))
"""
"""Stands in for `vladoctor diagnose`."""


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`vladoctor faults run.yaml` with the stand-in below; the names of what was started go to `started`."""
    program = tmp_path / "python"
    program.write_text(f"#!{sys.executable}\n" + textwrap.dedent(DIAGNOSE).replace("sys.argv[1:]", "sys.argv[3:]"))
    program.chmod(0o755)
    text = (FIXTURES / "runs" / "evidence.yaml").read_text()
    (tmp_path / "run.yaml").write_text(text.replace("../tiny-openvla", str(FIXTURES / "tiny-openvla")))
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setenv("STARTED", str(tmp_path / "started"))
    monkeypatch.chdir(tmp_path)

    def run(*options: str) -> int:
        (tmp_path / "started").write_text("")
        return cli.run(["faults", "run.yaml", "--task", "0", "--episodes", "1", "--workers", "2", *options])

    return run


def started() -> list[str]:
    return sorted(Path("started").read_text().split())


def test_what_is_there_is_not_run_again(bench: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--fault", "flip-vertical", "--fault", "healthy", "--out", "out")
    assert bench(*options) == 0
    assert started() == ["flip-vertical", "healthy"]
    assert bench(*options, "--fault", "transpose", "--format", "json") == 0
    assert started() == ["transpose"]
    out, err = capsys.readouterr()
    found = json.loads(out[out.index("{\n") :])
    jsonschema.validate(found, load_schema("matrix"))
    assert found == json.loads(Path("out/matrix.json").read_text())
    assert found["complete"]
    assert f"Machine: {os.cpu_count()} cores, " in Path("out/matrix.md").read_text()
    assert [row["fault"] for row in found["rows"]] == ["healthy", "flip-vertical", "transpose"]
    assert "2 of them from an earlier time" in err
    assert "3 of 3: transpose, 0: VD201 1/1" in err


def test_a_row_that_crashes_is_told_kept_and_tried_again(
    bench: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--fault", "bgr", "--fault", "flip-vertical", "--out", "out")
    assert bench(*options) == 2
    assert "bgr on 0: the simulator is on fire" in capsys.readouterr().out
    assert Path("out/crashed/bgr/0/stderr.txt").read_text() == "the simulator is on fire\n"
    assert not Path("out/.running").exists()
    assert bench(*options) == 2
    assert started() == ["bgr"]


def test_rows_of_another_run_are_refused(bench: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("--fault", "flip-vertical", "--out", "out") == 0
    assert bench("--fault", "flip-vertical", "--out", "out", "--episodes", "2") == 2
    assert "env.episodes 1, and 2 is asked for" in capsys.readouterr().err


@pytest.mark.usefixtures("bench")
def test_ctrl_c_keeps_what_is_complete() -> None:
    code = "import sys; from vladoctor import cli; sys.executable = './python'; sys.exit(cli.run(sys.argv[1:]))"
    options = ["--task", "0", "--episodes", "1", "--workers", "2", "--fault", "flip-vertical", "--fault", "transpose"]
    process = subprocess.Popen(
        [PYTHON, "-c", code, "faults", "run.yaml", "--out", "out", *options],
        env={**os.environ, "SLOW": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not Path("out/flip-vertical/0/report.json").is_file() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "the same command goes on with the rest" in err
    found = json.loads(Path("out/matrix.json").read_text())
    assert not found["complete"]
    assert [row["fault"] for row in found["rows"]] == ["flip-vertical"]
    assert not Path("out/transpose").exists()
    assert not Path("out/.running").exists()


@pytest.fixture
def recorded_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A matrix folder with traces of a row, as it was left by another day's checks, and its run file."""
    monkeypatch.chdir(tmp_path)
    text = (FIXTURES / "runs" / "evidence.yaml").read_text()
    # Of a model that need not be there any more.
    text = text.replace("../tiny-openvla", "gone/tiny-openvla")
    Path("run.yaml").write_text(f"{text}profile:\n  name: openvla-libero\nchecks:\n  select: [VD201]\n")
    spec = load_run("run.yaml").with_options(tasks=["0"], episodes=1)
    row = tmp_path / "out" / "flip-vertical" / "0"
    episode = recorded(rendered("agentview"), orient=turned("flip-vertical"))
    run = {**episode.run, "spec": json.loads(json.dumps(spec.to_json()))}
    task = {**episode.task, "fault": "flip-vertical"}
    with TraceWriter(row / "traces" / "task0-init30-ep0.mcap", run, task) as trace:
        for step in episode.steps:
            trace.write_step(step)
        trace.close(Outcome("horizon", False, len(episode.steps)))
    report = {
        "run": {"spec": run["spec"], "versions": {}}, "failures": ["the disk was full"], "episodes": [],
        "overall": {"findings": [], "checks": []},
    }  # fmt: skip
    (row / "report.json").write_text(json.dumps(report))
    (row / "report.html").write_text("old")
    return row


def rejudge(*options: str) -> dict[str, Any]:
    cli.run(["faults", "run.yaml", "--task", "0", "--episodes", "1", "--out", "out", "--rejudge", *options])
    found: dict[str, Any] = json.loads(Path("out/matrix.json").read_text())
    jsonschema.validate(found, load_schema("matrix"))
    return found


def test_rows_are_judged_again_without_a_loop(recorded_rows: Path) -> None:
    found = rejudge()
    assert [(row["fault"], row["state"], row["failures"]) for row in found["rows"]] == [
        ("flip-vertical", "done", ["the disk was full"])
    ]
    assert found["complete"]
    assert [trial["first"] for trial in found["trials"]] == ["VD201"]
    report = json.loads((recorded_rows / "report.json").read_text())
    jsonschema.validate(report, load_schema("report"))
    assert "VD201" in (recorded_rows / "report.html").read_text()
    assert report["episodes"][0]["trace"] == "traces/task0-init30-ep0.mcap"


@pytest.mark.usefixtures("recorded_rows")
def test_rows_are_judged_again_by_other_limits() -> None:
    with Path("run.yaml").open("a") as run:
        run.write("  thresholds:\n    VD201: {min_score: 1.5}\n")
    found = rejudge("--fault", "flip-vertical")
    assert [(trial["first"], trial["verdict"]) for trial in found["trials"]] == [(None, "nothing")]


def test_a_row_whose_traces_are_gone_is_told_and_kept(recorded_rows: Path) -> None:
    before = (recorded_rows / "report.json").read_text()
    for trace in recorded_rows.rglob("*.mcap"):
        trace.unlink()
    (row,) = rejudge()["rows"]
    assert row["state"] == "crashed"
    assert "no trace" in row["error"]
    assert (recorded_rows / "report.json").read_text() == before


@pytest.mark.usefixtures("recorded_rows")
def test_nothing_to_judge_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["faults", "run.yaml", "--out", "elsewhere", "--rejudge"]) == 2
    assert "there is no row to judge again" in capsys.readouterr().err


def test_options_without_a_run_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["faults", "--fault", "bgr"]) == 2
    assert "name a run file" in capsys.readouterr().err


@pytest.mark.simulator
@pytest.mark.torch
@pytest.mark.slow
def test_two_faults_and_the_healthy_loop_for_real(tmp_path: Path) -> None:
    text = (FIXTURES / "runs" / "evidence.yaml").read_text().replace("../tiny-openvla", str(FIXTURES / "tiny-openvla"))
    run = tmp_path / "run.yaml"
    run.write_text(text.replace("env:\n", "env:\n  horizon: 8\n"))
    spec = load_run(run)
    what = plan(str(run), spec, faults=["flip-vertical", "unnorm-bridge"], tasks=["0"], episodes=1, healthy=1)
    found = matrix.run_matrix(what, tmp_path / "out", workers=1, display=make_display())
    jsonschema.validate(found, load_schema("matrix"))
    assert found["confusion"] == {HEALTHY: {"none": 1}, "flip-vertical": {"VD201": 1}, "unnorm-bridge": {"VD501": 1}}
    assert found["total"]["alone"]["count"] == 2
    assert [each["step"]["max"] for each in found["faults"]] == [0, 0]
    assert exit_status(found) == 0
    assert (tmp_path / "out" / "flip-vertical" / "0" / "report.html").is_file()
