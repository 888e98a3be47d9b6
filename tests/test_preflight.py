"""The pre-flight as a user sees it, a process with its exit status and its JSON; its parts where they decide alone."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import preflight_faults as faults
import pytest

from vladoctor.check import Severity
from vladoctor.init import write_run
from vladoctor.preflight import looks, show, source
from vladoctor.preflight.looks import BlockedError, Context, Look, TroubleError
from vladoctor.preflight.machine import machine, markdown
from vladoctor.preflight.plan import run_preflight
from vladoctor.preflight.result import ABSTAINED, CRASHED, OK, Item, Preflight
from vladoctor.profiles import load_profile
from vladoctor.report.reported import without_paths
from vladoctor.runspec import load_run
from vladoctor.schemas import load_schema


def by_name(name: str) -> faults.Fault:
    return next(fault for fault in faults.FAULTS if fault.name == name)


# The command.


def test_level_0_of_the_demo_says_nothing_against_it() -> None:
    done = run_preflight(load_run("demo"), 0)
    assert {item.state for item in done.items} <= {OK}
    assert done.exit_status == 0
    jsonschema.validate(json.loads(json.dumps(done.to_json())), load_schema("preflight"))


def test_level_0_imports_neither_torch_nor_a_simulator() -> None:
    program = (
        "import sys\nfrom vladoctor.preflight.plan import run_preflight\nfrom vladoctor.runspec import load_run\n"
        "run_preflight(load_run('demo'), 0)\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & "
        "{'torch', 'transformers', 'mujoco', 'robosuite', 'libero'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.simulator
@pytest.mark.torch
def test_level_2_of_what_init_writes(tmp_path: Path) -> None:
    """Everything is looked at, nothing is found; a query and a short episode too."""
    written = write_run(faults.CHECKPOINT, None, tmp_path / "run.yaml")
    done = faults.run(faults.Case(str(written.file), options=("--device", "cpu")), 2)
    assert done.status == 0, done.errors
    assert done.document is not None
    jsonschema.validate(done.document, load_schema("preflight"))
    states = {item["what"]: item["state"] for item in done.document["items"]}
    assert states.pop("hashes") == ABSTAINED
    assert set(states.values()) == {OK}, states
    assert {"weights", "action tokens", "prompt ids", "model code and weights", "init state", "control rate", "arm",
            "gripper", "hold", "frames under motion", "GL backend", "loading", "one query",
            "short episode"} <= set(states)  # fmt: skip
    assert {file.name for file in tmp_path.iterdir()} == {"run.yaml"}


QUICK = [fault.name for fault in faults.FAULTS if fault.level == 0]


@pytest.mark.simulator
@pytest.mark.parametrize("name", QUICK)
def test_faults_that_level_0_sees(name: str, tmp_path: Path) -> None:
    fault = by_name(name)
    done = faults.run(fault.make(tmp_path), 0)
    assert [one["code"] for one in done.findings] == [fault.code], done.errors
    assert done.status == 1
    assert all(one["remedy"] for one in done.findings)


@pytest.mark.simulator
@pytest.mark.torch
@pytest.mark.parametrize("stdin", ["silent", "terminal", "closed"])
def test_nothing_is_asked_and_no_gl_is_said(stdin: str, tmp_path: Path) -> None:
    """Two in one process: LIBERO has no configuration and would ask on stdin; and there is no GL."""
    case = by_name("config-question").make(tmp_path)
    case.environment |= {"__EGL_VENDOR_LIBRARY_FILENAMES": "/nonexistent"}
    done = faults.run(case, 1, timeout=120, stdin=stdin)
    assert [one["code"] for one in done.findings] == ["VD607"]
    assert "apt-get install" in done.findings[0]["remedy"]
    assert done.document is not None
    states = {item["what"]: item["state"] for item in done.document["items"]}
    assert states["LIBERO's configuration"] == OK
    # What needs the environment says that it could not look.
    assert states["probes"] == ABSTAINED


def test_a_problem_names_its_place_in_the_run_file(tmp_path: Path) -> None:
    run = faults.run_file(tmp_path, model=tmp_path / "nowhere")
    done = run_preflight(load_run(run), 0)
    (found,) = done.findings
    assert found.code == "VD704"
    assert found.place is not None
    assert found.place.file == run
    assert found.place.line == 1
    assert done.exit_status == 1


def _edit(name: str, **changed: Any) -> Callable[[Path], None]:
    def change(copy: Path) -> None:
        content = json.loads((copy / name).read_text("utf-8"))
        (copy / name).write_text(json.dumps({**content, **changed}), "utf-8")

    return change


def _write(name: str, content: bytes) -> Callable[[Path], None]:
    def change(copy: Path) -> None:
        (copy / name).write_bytes(content)

    return change


def _link_to_nothing(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    (copy / "model.safetensors").symlink_to("blobs/gone")


def _statistics_in_config(copy: Path) -> None:
    (copy / "dataset_statistics.json").unlink()
    _edit("config.json", norm_stats=["libero_object"])(copy)


DAMAGED: dict[str, tuple[Callable[[Path], None], str, str, str]] = {
    # what is done to the folder, the code, what is said, where
    "config-no-json": (_write("config.json", b"{not json"), "VD704", "not JSON", "config.json"),
    "config-not-text": (_write("config.json", b"\xff\xfe\x00"), "VD704", "not JSON", "config.json"),
    "config-empty": (lambda copy: os.truncate(copy / "config.json", 0), "VD704", "empty", "config.json"),
    "config-list": (_write("config.json", b"[1]"), "VD704", "no mapping", "config.json"),
    "config-missing": (lambda copy: (copy / "config.json").unlink(), "VD704", "No config.json", "tiny-openvla"),
    "architectures": (_edit("config.json", architectures=3), "VD704", "`architectures` is not a list", "config.json"),
    "norm-stats": (_statistics_in_config, "VD501", "`norm_stats` is no mapping", "config.json"),
    "statistics": (_write("dataset_statistics.json", b"{"), "VD501", "not JSON", "dataset_statistics.json"),
    "preprocessor": (_write("preprocessor_config.json", b"{"), "VD303", "not JSON", "preprocessor_config.json"),
    "means": (_edit("preprocessor_config.json", means=["a"]), "VD303", "no list of numbers", "preprocessor_config"),
    "tokenizer": (_write("tokenizer_config.json", b"<html>"), "VD303", "not JSON", "tokenizer_config.json"),
    "weights-link": (_link_to_nothing, "VD704", "is a link to blobs/gone, which is not there", "model.safetensors"),
    "folder-locked": (lambda copy: copy.chmod(0), "VD704", "Permission denied", "tiny-openvla"),
    "folder-unlistable": (lambda copy: copy.chmod(0o111), "VD704", "Permission denied", "tiny-openvla"),
    "parent-locked": (lambda copy: copy.parent.chmod(0), "VD704", "Permission denied", "tiny-openvla"),
    "config-locked": (lambda copy: (copy / "config.json").chmod(0), "VD704", "Permission denied", "config.json"),
    "weights-locked": (lambda copy: (copy / "model.safetensors").chmod(0), "VD704", "Permission denied", "model.safe"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_model_folder_has_its_line(name: str, tmp_path: Path) -> None:
    """What, where and what to do, as text and as JSON; and that alone."""
    damage, code, said, where = DAMAGED[name]
    (tmp_path / "weights").mkdir()
    copy = faults.checkpoint_copy(tmp_path / "weights")
    damage(copy)
    case = faults.Case(faults.run_file(tmp_path, model=copy))
    try:
        done = faults.run(case, 0, first=faults.without_privileges)
        told = faults.run(case, 0, form="text", first=faults.without_privileges)
    finally:
        for folder in (copy.parent, copy):
            folder.chmod(0o755)
    assert done.document is not None, done.errors
    jsonschema.validate(done.document, load_schema("preflight"))
    (found,) = done.findings
    assert (done.status, found["code"], found["severity"]) == (1, code, "stop")
    (item,) = (item for item in done.document["items"] if item["finding"])
    assert item["what"] == "model folder"
    assert item["value"]
    assert said in found["message"]
    assert where in found["message"]
    assert found["remedy"]
    assert found["place"]["line"] == 1
    assert told.status == 1
    assert f"{code} " in told.output
    assert " ".join(found["remedy"].split()[:4]) in " ".join(told.output.split())


@pytest.mark.parametrize("name", ["a-file", "x" * 300])
def test_a_model_path_that_is_no_folder_has_its_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "a-file").touch()
    done = faults.run(faults.Case(faults.run_file(tmp_path, model=tmp_path / name)), 0)
    (found,) = done.findings
    assert (done.status, found["code"]) == (1, "VD704")
    assert name[:100] in found["message"]
    assert found["remedy"] in ("name the model folder", "use a shorter path")


def test_what_the_system_refuses_is_no_defect(context: Context) -> None:
    def refused(context: Context) -> Iterator[Item]:
        raise OSError(errno.ESTALE, "Stale file handle", "/mnt/weights")
        yield

    (item,) = looks.take(Look(1, "thing", "VD704", refused, "model.path"), context)
    assert item.finding is not None
    assert "/mnt/weights" in item.finding.message
    assert "network drive" in item.finding.remedy


def test_what_the_run_file_ignores_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJUCO_GL", "egl")
    file = Path(faults.run_file(tmp_path))
    assert run_preflight(load_run(file), 0).exit_status == 1
    file.write_text(file.read_text("utf-8") + "checks: {ignore: [gl-backend]}\n", "utf-8")
    done = run_preflight(load_run(file), 0)
    assert done.exit_status == 0
    assert not list(done.findings)
    (told,) = [item.reason for item in done.items if item.what == "rendering variables"]
    assert told.startswith("the run file accepts it: VD607 The variable MUJUCO_GL is set")
    jsonschema.validate(json.loads(json.dumps(done.to_json())), load_schema("preflight"))


def test_a_baseline_accepts_what_is_known_and_nothing_else(tmp_path: Path) -> None:
    known = tmp_path / "known.json"

    def status(*options: str, **variables: str) -> tuple[int, list[str]]:
        case = faults.Case(run, variables, ("--baseline", str(known), *options))
        done = faults.run(case, 0)
        return done.status, [one["code"] for one in done.findings]

    run = faults.run_file(tmp_path)
    assert status(MUJUCO_GL="egl") == (2, [])  # there is none yet
    assert status("--write-baseline", MUJUCO_GL="egl") == (0, [])
    assert status(MUJUCO_GL="egl") == (0, [])
    assert status(MUJUCO_GL="egl", MUJOCO_GL="egll") == (1, ["VD607"])
    copy = faults.checkpoint_copy(tmp_path)
    (copy / "config.json").unlink()
    run = faults.run_file(tmp_path, model=copy)
    assert status(MUJUCO_GL="egl") == (1, ["VD704"])


def test_a_baseline_of_a_missing_folder_accepts_no_damaged_one(tmp_path: Path) -> None:
    """Both come as words alone, under one code and at one line."""
    known = str(tmp_path / "known.json")

    def status(model: Path, *options: str) -> int:
        run = faults.run_file(tmp_path, model=model)
        return faults.run(faults.Case(run, options=("--baseline", known, *options)), 0).status

    assert status(tmp_path / "here" / "nowhere", "--write-baseline") == 0
    assert status(tmp_path / "elsewhere" / "nowhere") == 0
    copy = faults.checkpoint_copy(tmp_path)
    (copy / "config.json").write_text("{")
    assert status(copy) == 1


@pytest.mark.simulator
def test_stand_in_assets_are_not_right_for_a_suite_that_they_do_not_have(tmp_path: Path) -> None:
    run = Path(faults.run_file(tmp_path))
    run.write_text(run.read_text("utf-8").replace("libero_object", "libero_goal"), "utf-8")
    found = [one.message for one in run_preflight(load_run(run), 0).findings if one.code == "VD104"]
    assert len(found) == 1
    assert "serve libero_object only, not libero_goal" in found[0]


def test_a_wrong_run_file_is_an_error_as_for_diagnose(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("model: {path: .}\nenv: {siute: libero_object}\n", "utf-8")
    done = faults.run(faults.Case(str(file)), 0)
    assert done.status == 2
    assert "did you mean `suite`?" in done.errors


def test_a_wrong_run_file_is_said_where_machines_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pull request shows nothing of stderr, and the step that uploads SARIF wants its file."""
    from vladoctor.cli import run

    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text("model: {path: .}\nenv: {siute: libero_object}\n", "utf-8")
    assert run(["preflight", "run.yaml", "--output-format", "github", "--sarif", "out.sarif"]) == 2
    said = capsys.readouterr().out
    assert said.startswith("::error file=run.yaml,line=2,endLine=2,col=7,")
    assert "::run.yaml:2:7: env.siute: " in said
    assert "did you mean `suite`?" in said
    (part,) = json.loads(Path("out.sarif").read_text("utf-8"))["runs"]
    assert part["invocations"][0]["exitCode"] == 2
    (told,) = part["invocations"][0]["toolExecutionNotifications"]
    assert told["locations"][0]["physicalLocation"]["region"]["startLine"] == 2
    assert run(["preflight", "no.yaml", "--output-format", "junit"]) == 2
    assert "no.yaml: there is no such run file" in capsys.readouterr().out


@pytest.mark.simulator
def test_the_answer_to_liberos_question_can_be_pasted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIBERO_CONFIG_PATH", str(tmp_path / "configuration"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    Path("eval.py").write_text("from libero.libero import benchmark\n", "utf-8")
    Path("run.yaml").write_text("loop: {command: [python, eval.py]}\n", "utf-8")
    done = run_preflight(load_run("run.yaml"), 0)
    assert [one.code for one in done.findings] == ["VD602"]
    stream = io.StringIO()
    show.print_preflight(done, stream=stream)
    (command,) = [line for line in stream.getvalue().splitlines() if "import libero" in line]
    subprocess.run(["bash", "-c", command], check=True, timeout=60)
    assert not list(run_preflight(load_run("run.yaml"), 0).findings)


def test_a_program_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("loop: {command: [python, no_such_eval.py]}\n", "utf-8")
    done = faults.run(faults.Case(str(file)), 0)
    assert done.status == 2
    assert "no_such_eval.py" in done.errors


def test_a_program_of_ones_own_says_what_it_cannot_say(tmp_path: Path) -> None:
    (tmp_path / "eval.py").write_text("print('hello')\n", "utf-8")
    file = tmp_path / "run.yaml"
    file.write_text(f"loop: {{command: [python, {tmp_path / 'eval.py'}]}}\n", "utf-8")
    done = run_preflight(load_run(str(file)), 0)
    states = {item.what: item for item in done.items}
    assert states["program"].state == OK
    assert states["model"].state == states["environment"].state == ABSTAINED
    assert "diagnose" in states["model"].reason
    assert done.exit_status == 0


@pytest.mark.simulator
def test_a_program_of_ones_own_has_its_drawing_tried(tmp_path: Path) -> None:
    (tmp_path / "eval.py").write_text("print('hello')\n", "utf-8")
    file = tmp_path / "run.yaml"
    file.write_text(f"loop: {{command: [python, {tmp_path / 'eval.py'}]}}\n", "utf-8")
    healthy = faults.run(faults.Case(str(file)), 1)
    assert healthy.status == 0, healthy.document
    broken = faults.run(faults.Case(str(file), {"__EGL_VENDOR_LIBRARY_FILENAMES": "/nonexistent"}), 1)
    assert [one["code"] for one in broken.findings] == ["VD607"]


# Looks.


@pytest.fixture
def context() -> Context:
    return Context(load_run("demo"), load_profile("openvla-libero"))


def see_nothing(context: Context) -> Iterator[Item]:
    yield Item(1, "thing", OK, "here")


def test_what_a_look_raises_becomes_a_line(context: Context) -> None:
    def trouble(context: Context) -> Iterator[Item]:
        raise TroubleError("VD607", "It does not draw.", "Draw.", severity=Severity.FIX)

    def blocked(context: Context) -> Iterator[Item]:
        context.need("environment")
        yield from see_nothing(context)

    def defect(context: Context) -> Iterator[Item]:
        yield Item(1, "thing", OK)
        raise ZeroDivisionError

    (item,) = looks.take(Look(1, "thing", "VD101", trouble, "env.camera"), context)
    assert item.finding is not None
    assert (item.finding.code, item.finding.severity) == ("VD607", Severity.FIX)
    assert item.finding.place is not None
    (item,) = looks.take(Look(1, "thing", "VD101", blocked), context)
    assert (item.state, item.missing) == (ABSTAINED, True)
    items = looks.take(Look(1, "thing", "VD101", defect), context)
    assert [item.state for item in items] == [OK, CRASHED]
    assert "ZeroDivisionError" in items[1].reason


CHILD = """
import os, signal, sys, time
from vladoctor.preflight.looks import Look
from vladoctor.preflight.result import OK, Item

def first(context):
    yield Item(1, "first", OK)

def asks(context):
    yield Item(1, "asks", OK, input("where? "))

def hangs(context):
    print("waiting for a hub", flush=True)
    time.sleep(600)
    yield

def dies(context):
    os.kill(os.getpid(), signal.SIGSEGV)
    yield

def looks(context):
    return [Look(1, "first", "VD101", first), Look(1, "second", "VD607", globals()[WHAT], "env", limit=1.5),
            Look(1, "third", "VD602", first)]
"""


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, context: Context) -> Any:
    """Take the looks of a module of one's own in a child process."""
    import vladoctor.preflight as package

    def run(what: str) -> list[Item]:
        (tmp_path / "told.py").write_text(CHILD.replace("WHAT", repr(what)), "utf-8")
        (tmp_path / "sitecustomize.py").write_text(
            f"import vladoctor.preflight as package\npackage.__path__.append({str(tmp_path)!r})\n", "utf-8"
        )
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
        sys.modules.pop("vladoctor.preflight.told", None)
        from importlib import import_module

        listed = import_module("vladoctor.preflight.told").looks(context)
        return looks.in_children({"told": listed}, context, lambda _: None)

    return run


def test_a_hang_is_ended_and_said(child: Any) -> None:
    first, second, third = child("hangs")
    assert first.state == OK
    assert second.finding.code == "VD607"
    assert "had not ended after 2 s" in second.finding.message
    assert "waiting for a hub" in second.finding.remedy
    assert (third.state, third.missing) == (ABSTAINED, True)


def test_a_question_on_stdin_ends_at_once(child: Any) -> None:
    _, second, third = child("asks")
    assert second.state == CRASHED
    assert "EOFError" in second.reason
    assert third.state == OK


@pytest.mark.simulator
@pytest.mark.torch
def test_children_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    """Killed outright, as a scheduler does it."""
    run = faults.run_file(tmp_path)
    program = "from vladoctor.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", program, "preflight", run], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as parent:

        def children() -> list[Path]:
            found = []
            for status in Path("/proc").glob("[0-9]*/status"):
                with contextlib.suppress(OSError):
                    text = status.read_text("utf-8", "replace")
                    if f"\nPPid:\t{parent.pid}\n" in text and "State:\tZ" not in text:
                        found.append(status.parent)
            return found

        deadline = time.monotonic() + 60
        while not (mine := children()) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert mine
        parent.kill()
        parent.wait()
    # A zombie that nobody has waited for yet has ended too.
    while any(alive(one) for one in mine) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(one) for one in mine)


def alive(process: Path) -> bool:
    try:
        return "State:\tZ" not in (process / "status").read_text("utf-8", "replace")
    except OSError:
        return False


def test_a_process_that_dies_is_said(child: Any) -> None:
    _, second, third = child("dies")
    assert second.finding.evidence["seen"] == "SIGSEGV"
    assert third.state == ABSTAINED


# The result.


def preflight(*items: Item) -> Preflight:
    return Preflight("run.yaml", 1, items, {"name": "x", "reason": ""}, {0: 0.1})


def test_exit_status(context: Context) -> None:
    fine, unknown = Item(1, "a", OK), Item(1, "b", ABSTAINED, reason="nothing to see")
    blind, broken = replace(unknown, missing=True), Item(1, "c", CRASHED, reason="...")

    def trouble(context: Context) -> Iterator[Item]:
        raise TroubleError("VD607", "It does not draw.", "Draw.", severity=Severity.LOOK)

    (wrong,) = looks.take(Look(1, "thing", "VD607", trouble), context)
    assert preflight(fine, unknown).exit_status == 0
    assert preflight(fine, wrong, blind).exit_status == 1
    assert preflight(fine, wrong, broken).exit_status == 2
    assert preflight(fine, blind).exit_status == 3
    assert replace(preflight(fine, wrong), fail_on=Severity.FIX).exit_status == 0


def test_blocked_looks_are_raised_by_name(context: Context) -> None:
    with pytest.raises(BlockedError, match="environment"):
        context.need("environment")


def test_the_machine_report_holds_no_paths_and_no_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "/home/somebody/secret:0")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    text = markdown(machine(load_run("demo")))
    assert "somebody" not in text
    assert "hf_secret" not in text
    assert os.uname().nodename not in text
    assert "transformers" in text or "numpy" in text


def test_the_report_to_paste_holds_no_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home = tmp_path / "some body"
    copy = faults.checkpoint_copy(home)
    (copy / "config.json").write_text("{")
    monkeypatch.setenv("HOME", str(home))
    text = show.report(run_preflight(load_run(faults.run_file(tmp_path, model=copy)), 0))
    assert "<path>/config.json" in text
    assert str(tmp_path) not in text
    assert "some body" not in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("not JSON (/home/somebody/w/config.json)", "not JSON (<path>/config.json)"),
        ("no folder /home/somebody.", "no folder <path>"),
        ("EGL at ~/x:/home/y", "EGL at <path>:<path>"),
        ("see https://example.org/a, 20 steps / s, m/s, weights/tiny", None),
    ],
)
def test_what_a_path_is(text: str, shown: str | None) -> None:
    assert without_paths(text) == (text if shown is None else shown)


@pytest.mark.parametrize("key", [None, "libero_object", "bridge_orig"])
def test_statistics_of_another_robot_are_not_right_because_they_are_there(key: str | None, context: Context) -> None:
    """The fixture's checkpoint has both, and the run itself would be VD501's to stop."""
    from vladoctor.preflight.checkpoint import _statistics

    model, _ = context.spec.own_loop()
    context.spec = replace(context.spec, model=replace(model, unnorm_key=key))
    items = looks.take(Look(1, "statistics", "VD501", _statistics, "model.unnorm_key"), context)
    assert [item.what for item in items] == ["trained for", "statistics"]
    found = items[1].finding
    if key != "bridge_orig":
        assert (items[1].state, found) == (OK, None)
        return
    assert found is not None
    assert (found.code, found.severity) == ("VD501", Severity.STOP)
    assert found.remedy == "Write `unnorm_key: libero_object`."


# Names in files against names in models.


@pytest.mark.torch
def test_names_are_held_against_the_model_as_transformers_would() -> None:
    import torch

    from vladoctor.preflight.checkpoint import held_against
    from vladoctor.snapshot import Tensor, Weights

    def weights(**shapes: tuple[int, ...]) -> Weights:
        tensors = {name.replace("__", "."): Tensor("float32", shape, "f") for name, shape in shapes.items()}
        return Weights({"f": 1}, tensors)

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = torch.nn.Linear(2, 3, device="meta"), torch.nn.Linear(3, 4, device="meta")

    whole = {"body__weight": (3, 2), "body__bias": (3,), "head__weight": (4, 3), "head__bias": (4,)}
    said = held_against(Model(), weights(**whole))
    assert said is not None
    assert (said["missing_count"], said["unexpected_count"], said["mismatched_count"]) == (0, 0, 0)
    lacking = {name: shape for name, shape in whole.items() if name != "head__bias"}
    said = held_against(Model(), weights(**{**lacking, "head__weight": (5, 3)}))
    assert said is not None
    assert (said["missing"], said["mismatched"]) == (["head.bias"], ["head.weight"])
    ignoring = Model()
    ignoring._keys_to_ignore_on_load_missing = [r"head\.bias"]  # type: ignore[assignment]
    said = held_against(ignoring, weights(**lacking))
    assert said is not None
    assert said["missing_count"] == 0
    # Names that differ throughout, or a class that renames: nothing is claimed.
    assert held_against(Model(), weights(**{f"_orig_mod__{name}": shape for name, shape in whole.items()})) is None
    renaming = Model()
    renaming._checkpoint_conversion_mapping = {"^head": "lm_head"}  # type: ignore[assignment]
    assert held_against(renaming, weights(**lacking)) is None


# What is expected, in words.


def test_no_expectation_names_what_the_profile_does_not_say(context: Context) -> None:
    from vladoctor.preflight.scene import _expected

    assert _expected("arm", context).endswith("1 = 0.05 m, 0.5 rad")
    unknown = context.profile.with_overrides({"environment.action_scale": None})
    assert _expected("arm", replace(context, profile=unknown)) == "displacements in the base's frame"


def test_missing_libraries_name_all_extras_that_hold_them(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other would be two rounds."""

    def remedy(*missing: str) -> str:
        monkeypatch.setattr(source, "_version", lambda name: None)
        monkeypatch.setattr(source.importlib.util, "find_spec", lambda name: None if name in missing else object())
        with pytest.raises(TroubleError) as raised:
            list(source._needed({}, context))
        return raised.value.remedy

    assert 'vladoctor[torch]"' in remedy("torch", "transformers")
    assert 'vladoctor[torch,libero]"' in remedy("mujoco")
    assert 'vladoctor[torch,libero]"' in remedy("torch", "mujoco")


def test_a_library_that_is_missing_is_not_one_of_another_version(context: Context) -> None:
    import types

    from vladoctor.preflight.checkpoint import _needs_library

    transformers = types.SimpleNamespace(__version__="5.23.0")
    missing = _needs_library(ModuleNotFoundError("No module named 'timm'", name="timm"), transformers, context)
    assert "not installed" in missing.message
    assert missing.remedy.startswith("Run: pip install timm")
    other = _needs_library(ImportError("cannot import name 'AutoModelForVision2Seq'"), transformers, context)
    assert "other versions than are installed (transformers 5.23.0)" in other.message
    assert "transformers==4.40.1" in other.remedy
    assert "robosuite" not in other.remedy


# What `explain` says of it.


def test_every_code_that_a_preflight_uses_has_its_sentence() -> None:
    import re

    import vladoctor.preflight
    from vladoctor.check import all_checks
    from vladoctor.preflight.pages import BEFORE, before

    folder = Path(next(iter(vladoctor.preflight.__path__)))
    written = {file: set(re.findall(r'"(VD\d{3})"', file.read_text("utf-8"))) for file in folder.glob("*.py")}
    used = set().union(*(codes for file, codes in written.items() if file.stem != "pages"))
    assert used - {"VD802"} == set(BEFORE)
    assert set(BEFORE) <= {check.code for check in all_checks()}
    assert before("VD201") == ""


def test_explain_and_checks_tell_it(capsys: pytest.CaptureFixture[str]) -> None:
    from vladoctor.cli import run

    assert run(["explain", "VD607"]) == 0
    assert "## Before a run" in capsys.readouterr().out
    assert run(["checks", "--stage", "render", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {entry["stage"] for entry in listed} == {"render"}
    assert next(entry for entry in listed if entry["code"] == "VD607")["before_a_run"]
    assert run(["checks", "--stage", "nowhere"]) == 2
