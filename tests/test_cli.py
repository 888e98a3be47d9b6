"""The command line from outside: what it prints where, and its exit status.

The session, which needs a simulator and a model, is replaced here; it has tests of its own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from diagnoses import ORIENTATION, PROMPT, SATURATION, diagnosis, result

import vladoctor
from vladoctor import check, cli
from vladoctor.check import Check, Fault, Stage
from vladoctor.errors import UserError
from vladoctor.result import RunResult
from vladoctor.runspec import find_check
from vladoctor.schemas import load_schema

HERE = Path(__file__).resolve().parent
RUN = "model: {path: m, device: cuda}\nenv: {suite: libero_object}\n"


def _judge(_: Any, __: Any) -> Any:
    return iter(())


CHECKS = (
    Check("VD201", "image-orientation", Stage.IMAGE, _judge, faults=(Fault("flip-vertical", "mirrors the frame"),)),
    Check("VD402", "bin-saturation", Stage.DECODE, _judge, thresholds={"share": 0.5}),
)


class Session(types.ModuleType):
    """Stands in for `vladoctor.session`: remembers how it was called and gives what it was told to give."""

    def __init__(self) -> None:
        super().__init__("vladoctor.session")
        self.outcome: RunResult | BaseException = result(diagnosis())
        self.called: dict[str, Any] = {}

    def run_session(self, spec: Any, *, fault: tuple[str, ...], out: Path, progress: Any) -> RunResult:
        self.called = {"spec": spec, "fault": fault, "out": out}
        print("printed by a library")
        (out / "traces").mkdir(parents=True)
        (out / "traces" / "task0-init30-ep0.mcap").touch()
        return self._end()

    def replay_session(
        self, traces: Sequence[Path], *, spec: Any, out: Path | None, workers: int, select: list[str], ignore: list[str]
    ) -> RunResult:
        self.called = {"spec": spec, "traces": traces, "out": out, "select": select, "ignore": ignore}
        print("printed by a library")
        return self._end()

    def _end(self) -> RunResult:
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Session:
    fake = Session()
    html = types.ModuleType("vladoctor.report.html")
    html.write_html = lambda result, path: path.write_text("<html>")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vladoctor.session", fake)
    monkeypatch.setitem(sys.modules, "vladoctor.report.html", html)
    monkeypatch.setattr(check, "all_checks", lambda: CHECKS)
    monkeypatch.delenv(cli.DEBUG, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").mkdir()
    (tmp_path / "run.yaml").write_text(RUN)
    return fake


def _python(code: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    """A fresh interpreter that runs `code` with the tests' helpers at hand."""
    environment = {**os.environ, "PYTHONPATH": str(HERE), "VLADOCTOR_DEBUG": ""}
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        # A shell that starts tests in the background has its children ignore SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **options,
    )


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "vladoctor", *arguments], capture_output=True, text=True, check=False)


# --- What it costs to start ---


def test_starting_imports_nothing_heavy() -> None:
    code = """
        import sys
        import vladoctor.cli, vladoctor.result
        heavy = {"numpy", "rich", "torch", "scipy", "PIL", "ruamel", "jsonschema", "transformers", "mujoco", "jinja2"}
        print(sorted(heavy & set(sys.modules)))
    """
    out, _ = _python(code).communicate()
    assert out.strip() == "[]"


def test_help_and_version() -> None:
    shown = _run("--help")
    assert shown.returncode == 0
    for command in ("diagnose", "replay", "faults", "checks", "explain", "profiles", "schema"):
        assert command in shown.stdout
    assert _run("--version").stdout == f"vladoctor {vladoctor.__version__}\n"


# --- diagnose ---


def test_text_goes_to_stdout_and_everything_else_to_stderr(
    session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["diagnose", "run.yaml"]) == 0
    out, err = capsys.readouterr()
    assert "Healthy" in out
    assert "reports/run/report.html" in out
    assert "printed by a library" in err
    assert "printed by a library" not in out
    assert json.loads(Path("reports/run/report.json").read_text())["summary"]["episodes"] == 1
    assert Path("reports/run/report.html").read_text() == "<html>"


def test_json_is_the_report_and_nothing_else(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    session.outcome = result(diagnosis(findings=[ORIENTATION, SATURATION]))
    assert cli.run(["diagnose", "run.yaml", "--format", "json", "--out", "x", "--fault", "flip-vertical"]) == 1
    report = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator(load_schema("report")).validate(report)
    assert report["episodes"][0]["findings"][0]["code"] == "VD201"
    assert json.loads(Path("x/report.json").read_text()) == report
    assert session.called["fault"] == ("flip-vertical",)
    assert session.called["out"] == Path("x")


def test_files_are_written_besides(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    session.outcome = result(diagnosis(findings=[ORIENTATION]))
    assert cli.run(["diagnose", "run.yaml", "--sarif", "new/a.sarif", "--junit", "a.xml"]) == 1
    out = capsys.readouterr().out
    assert "Report: new/a.sarif" in out
    assert json.loads(Path("new/a.sarif").read_text())["runs"][0]["results"][0]["ruleId"] == "VD201"
    assert Path("a.xml").read_text().startswith("<?xml")


@pytest.mark.parametrize("option", ["-o", "--sarif", "--junit"])
@pytest.mark.parametrize("command", [["diagnose", "run.yaml"], ["replay", "a.mcap"]])
def test_a_file_that_cannot_be_written_is_said_before_the_run(
    session: Session, capsys: pytest.CaptureFixture[str], command: list[str], option: str
) -> None:
    assert cli.run([*command, option, "run.yaml/below/report"]) == 2
    assert "run.yaml: this is a file, not a folder" in capsys.readouterr().err
    assert "out" not in session.called
    assert cli.run([*command, option, "/dev/null"]) == 0


def test_another_format_is_alone_on_stdout(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    session.outcome = result(diagnosis(findings=[ORIENTATION]))
    assert cli.run(["diagnose", "run.yaml", "--output-format", "concise"]) == 1
    out, _ = capsys.readouterr()
    assert out.startswith("task0-init30-ep0: VD201 [stop] image-orientation: The model's image")
    assert cli.run(["diagnose", "run.yaml", "--output-format", "github"]) == 1
    out, err = capsys.readouterr()
    assert out.startswith("::error file=run.yaml,line=1,")
    assert "root cause: VD201" in err
    assert cli.run(["replay", "a.mcap", "--output-format", "sarif", "-o", "b.sarif"]) == 1
    assert capsys.readouterr().out == ""
    assert json.loads(Path("b.sarif").read_text())["version"] == "2.1.0"


def test_a_baseline_is_written_and_then_accepts(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    session.outcome = result(diagnosis(findings=[ORIENTATION]))
    assert cli.run(["diagnose", "run.yaml", "--baseline", "known.json"]) == 2
    assert "no such baseline" in capsys.readouterr().err
    assert "out" not in session.called
    assert cli.run(["diagnose", "run.yaml", "--write-baseline"]) == 2
    assert cli.run(["diagnose", "run.yaml", "--baseline", "known.json", "--write-baseline"]) == 0
    assert "known.json: 1 finding accepted from now on" in capsys.readouterr().err
    assert cli.run(["diagnose", "run.yaml", "--baseline", "known.json", "--format", "json"]) == 0
    report = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator(load_schema("report")).validate(report)
    assert report["accepted"][0]["episode"] == "task0-init30-ep0"
    assert report["episodes"][0]["findings"] == []
    session.outcome = result(diagnosis(findings=[PROMPT]))
    assert cli.run(["replay", "a.mcap", "--baseline", "known.json"]) == 1


def test_options_reach_the_session(session: Session) -> None:
    assert cli.run(["diagnose", "run.yaml", "--episodes", "3", "--select", "VD201,VD4", "--device", "cpu"]) == 0
    spec = session.called["spec"]
    assert (spec.env.episodes, spec.checks.select, spec.model.device) == (3, ("VD201", "VD402"), "cpu")


def test_an_earlier_run_is_not_overwritten(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["diagnose", "run.yaml"]) == 0
    assert cli.run(["diagnose", "run.yaml"]) == 0
    assert session.called["out"] == Path("reports/run-2")
    assert "reports/run holds an earlier run; this one goes to reports/run-2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["diagnose", "rnu.yaml"], ["rnu.yaml: there is no such run file", "did you mean run.yaml?", "demo"]),
        (["diagnose", "run.yaml", "--fault", "flip-vertcal"], ["--fault", "did you mean flip-vertical?"]),
        (["diagnose", "run.yaml", "--select", "VD210"], ["--select", "did you mean VD201"]),
        (["diagnose", "run.yaml", "--device", "gpu"], ["--device", "cuda:N"]),
        (["diagnose", "run.yaml", "--episodes", "0"], ["--episodes", "x>=1"]),
        (["diagnose", "run.yaml", "--format", "yaml"], ["--format", "'text', 'json'"]),
        (["diagnose", "run.yaml", "--out", "run.yaml"], ["run.yaml: this is a file", "--out"]),
        (["diagnose"], ["name a run file, or a command", "vladoctor diagnose --help"]),
        (["diagnos", "run.yaml"], ["no command 'diagnos'", "vladoctor diagnose"]),
        (["run.yaml"], ["vladoctor diagnose run.yaml"]),
        (["demo"], ["vladoctor diagnose demo"]),
        (["a.mcap"], ["vladoctor replay a.mcap"]),
        (["explain", "VD20"], ["no check 'VD20'", "that is the beginning of VD201;"]),
        (["explain", "VD210"], ["no check 'VD210'", "did you mean VD201 (image-orientation)?"]),
        (["profiles", "openvla-libreo"], ["openvla-libero"]),
        (["schema", "reports"], ["'run', 'report', 'finding'"]),
        (["replay"], ["TRACE", "vladoctor replay --help"]),
    ],
)
def test_mistakes_are_answered_with_what_was_meant(
    session: Session, capsys: pytest.CaptureFixture[str], arguments: list[str], parts: list[str]
) -> None:
    assert cli.run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert "Traceback" not in err
    for part in parts:
        assert part in err
    assert session.called == {}


def test_errors_of_the_run_point_at_the_line_that_asked_for_it(
    session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    session.outcome = UserError("no usable GPU was found", where="model.device", remedy="say `device: cpu`")
    assert cli.run(["diagnose", "run.yaml", "--out", "a"]) == 2
    assert "error: run.yaml:1:18: model.device: no usable GPU was found\n  say `device: cpu`" in capsys.readouterr().err
    session.outcome = UserError("no usable GPU was found", where="model.device: cuda:3", remedy="say `device: cpu`")
    assert cli.run(["diagnose", "run.yaml", "--out", "b", "--device", "cuda:3"]) == 2
    assert "error: --device: cuda:3: no usable GPU" in capsys.readouterr().err
    session.outcome = UserError("there is none", where="/some/folder", remedy="make one")
    assert cli.run(["diagnose", "run.yaml", "--out", "c"]) == 2
    assert "error: /some/folder: there is none" in capsys.readouterr().err


def test_missing_model_is_found_before_anything_runs(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    Path("m").rmdir()
    assert cli.run(["diagnose", "run.yaml"]) == 2
    assert "run.yaml:1:9: model.path: there is no model folder" in capsys.readouterr().err
    assert session.called == {}
    assert not Path("reports").exists()


@pytest.mark.parametrize("place", [["--traceback", "diagnose", "run.yaml"], ["diagnose", "run.yaml", "--traceback"]])
def test_traceback_on_demand(
    session: Session, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, place: list[str]
) -> None:
    monkeypatch.setenv(cli.DEBUG, "")
    session.outcome = UserError("no usable GPU was found", where="model.device", remedy="say `device: cpu`")
    assert cli.run(place) == 2
    assert "Traceback" in capsys.readouterr().err


def test_defect_of_the_program_shows_its_traceback_and_keeps_the_traces(
    session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    session.outcome = ZeroDivisionError("division by zero")
    assert cli.run(["diagnose", "run.yaml"]) == 2
    err = capsys.readouterr().err
    assert "ZeroDivisionError: division by zero" in err
    assert "defect of vladoctor" in err
    assert "vladoctor replay reports/run/traces" in err
    assert not Path("reports/run/report.json").exists()


def test_interrupted_run_says_where_its_traces_are(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    session.outcome = KeyboardInterrupt()
    assert cli.run(["diagnose", "run.yaml"]) == 130
    err = capsys.readouterr().err
    assert "vladoctor replay reports/run/traces" in err
    assert "Traceback" not in err


def test_page_that_cannot_be_drawn_does_not_cost_the_report(
    session: Session, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: RunResult, __: Path) -> None:
        raise ValueError("no such frame")

    monkeypatch.setattr(sys.modules["vladoctor.report.html"], "write_html", fail)
    assert cli.run(["diagnose", "run.yaml"]) == 2
    out, err = capsys.readouterr()
    assert "Healthy" in out
    assert "the HTML report could not be written" in err
    assert "Exit status 2: not all that was asked for was written" in out
    assert Path("reports/run/report.json").exists()


def test_html_can_be_switched_off(session: Session) -> None:
    Path("run.yaml").write_text(RUN + "report: {html: false}\n")
    assert cli.run(["diagnose", "run.yaml"]) == 0
    assert not Path("reports/run/report.html").exists()


# --- replay ---


def test_replay_writes_only_where_told(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    session.outcome = result(diagnosis(findings=[ORIENTATION]))
    assert cli.run(["replay", "a.mcap", "folder"]) == 1
    traces = (Path("a.mcap"), Path("folder"))
    assert session.called == {"spec": None, "traces": traces, "out": None, "select": [], "ignore": []}
    assert "VD201" in capsys.readouterr().out
    assert not list(Path().rglob("report.json"))
    assert cli.run(["replay", "a.mcap", "--out", "again", "--run", "run.yaml", "--format", "json"]) == 1
    assert session.called["spec"].env.suite == "libero_object"
    assert json.loads(capsys.readouterr().out) == json.loads(Path("again/report.json").read_text())


def test_replay_takes_the_checks_that_diagnose_takes(session: Session) -> None:
    assert cli.run(["replay", "a.mcap", "--select", "VD201,VD3", "--select", "VD402", "--ignore", "vision-bypass"]) == 0
    assert session.called["select"] == ["VD201", "VD3", "VD402"]
    assert session.called["ignore"] == ["vision-bypass"]


# --- The lists ---


def test_faults_for_scripts_and_for_people(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["faults", "--list"]) == 0
    assert capsys.readouterr().out == "flip-vertical VD201 image\n"
    assert cli.run(["faults"]) == 0
    assert "mirrors the frame" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["VD402", "vd402", "bin-saturation"])
def test_explain_prints_page_limits_and_proofs(session: Session, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert cli.run(["explain", name]) == 0
    page = capsys.readouterr().out
    assert page.startswith("# VD402 bin-saturation\n")
    assert "`share`: 0.5" in page


@pytest.mark.parametrize(("name", "seen"), [("VD201", True), ("VD402", False)])
def test_explain_says_whether_the_linter_sees_it(capsys: pytest.CaptureFixture[str], name: str, seen: bool) -> None:
    assert (find_check(name).judge_source is not None) is seen
    assert cli.run(["explain", name]) == 0
    assert ("Also seen by `vladoctor lint`" in capsys.readouterr().out) is seen


def test_explain_takes_a_fault(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["explain", "flip-vertical"]) == 0
    assert "# VD201 image-orientation" in capsys.readouterr().out


def test_checks_and_profiles(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["checks"]) == 0
    assert capsys.readouterr().out.splitlines()[0].split()[:3] == ["VD201", "image-orientation", "image"]
    assert cli.run(["profiles"]) == 0
    assert "openvla-libero" in capsys.readouterr().out
    assert cli.run(["profiles", "openvla-libero"]) == 0
    text = capsys.readouterr().out
    assert "image.orientation: 'rot180'" in text
    assert "libero_utils.py" in text


@pytest.mark.parametrize("name", ["", "run", "report", "finding", "config", "lint"])
def test_schema_is_json(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert cli.run(["schema", *filter(None, [name])]) == 0
    assert json.loads(capsys.readouterr().out)["$id"] == f"urn:vladoctor:schema:{name or 'run'}:1"


# --- As a process ---

LOUD = """
    import atexit, os, subprocess, sys, types
    from pathlib import Path
    from diagnoses import diagnosis, result

    fake = types.ModuleType("vladoctor.session")
    def run_session(spec, *, fault, out, progress):
        print("from Python")
        os.write(1, b"from below Python\\n")
        subprocess.run(["echo", "from a child"])
        atexit.register(print, "at exit")
        atexit.register(os.write, 1, b"at exit, from below\\n")
        progress.start(1)
        progress.episode_start("task0-init30-ep0")
        progress.step(0, 280, 30.0)
        {what}
        return result(diagnosis())
    fake.run_session = run_session
    sys.modules["vladoctor.session"] = fake
    from vladoctor.cli import main
    sys.argv = ["vladoctor", *sys.argv[1:]]
    main()
"""


@pytest.fixture
def run_file(tmp_path: Path) -> str:
    (tmp_path / "m").mkdir()
    (tmp_path / "run.yaml").write_text(RUN + "report: {html: false}\n")
    return str(tmp_path / "run.yaml")


def test_stdout_is_json_whatever_anything_prints(tmp_path: Path, run_file: str) -> None:
    process = _python(LOUD.format(what="pass"), "diagnose", run_file, "--format", "json", cwd=tmp_path)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert json.loads(out)["summary"]["episodes"] == 1
    for line in ("from Python", "from below Python", "from a child", "at exit", "at exit, from below"):
        assert line in err.splitlines()


def test_interrupt_from_the_keyboard(tmp_path: Path, run_file: str) -> None:
    what = (
        "(out / 'traces').mkdir(parents=True); (out / 'traces' / 'a.mcap').touch(); "
        "print('ready', file=sys.stderr, flush=True); import time; time.sleep(60)"
    )
    process = _python(LOUD.format(what=what), "diagnose", run_file, cwd=tmp_path)
    assert process.stderr is not None
    for line in process.stderr:
        if "ready" in line:
            break
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == ""
    assert "vladoctor replay reports/run/traces" in err
    assert "Traceback" not in err


def test_reader_that_stops_reading() -> None:
    command = f"{sys.executable} -m vladoctor schema report | sleep 0; echo ${{PIPESTATUS[0]}}"
    shown = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (shown.stdout, shown.stderr) == ("141\n", "")


def test_stdin_that_is_closed() -> None:
    """The number 0 stays taken: a pipe that got it would be lost to a child process."""
    program = "import os; from vladoctor.cli import run; run(['schema', 'finding']); print('next is', os.pipe())"
    shown = subprocess.run(
        ["bash", "-c", f'{sys.executable} -c "{program}" <&-'], capture_output=True, text=True, check=False
    )
    assert shown.stderr == ""
    assert "next is (3, 4)" in shown.stdout


def test_stdout_that_is_closed() -> None:
    shown = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m vladoctor schema >&-"], capture_output=True, text=True, check=False
    )
    assert (shown.returncode, shown.stderr) == (0, "")
