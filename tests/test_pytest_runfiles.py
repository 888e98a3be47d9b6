"""`*.run.yaml` as tests, from outside: collected without running, run once, judged by their report."""

from __future__ import annotations

import json
import os
import textwrap
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from programs import write

from vladoctor.adapters.libero import LiberoTask
from vladoctor.check import all_checks
from vladoctor.runspec import load_run
from vladoctor.session import task_label
from vladoctor.testing.runfiles import SUITE_SIZES, Episodes, groups

DEMO = Path(__file__).resolve().parents[1] / "fixtures" / "runs" / "demo.yaml"
MODEL = DEMO.parent.parent / "tiny-openvla"

PROGRAM = """
import pathlib
from disc import Disc, roll_out

with pathlib.Path("runs").open("a") as file:
    file.write("once more\\n")
for _ in roll_out(Disc({fail_at}), episodes=2):
    pass
"""


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.delenv("CI", raising=False)  # pytest cuts nothing off in CI
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    for name in [name for name in os.environ if name.startswith("PYTEST_XDIST")]:
        monkeypatch.delenv(name)
    pytester.makeini("[pytest]\naddopts = --strict-markers --strict-config -p no:cacheprovider")
    return pytester


def run_file(suite: pytest.Pytester, text: str, name: str = "eval.run.yaml") -> Path:
    path = suite.path / name
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


def own_loop(suite: pytest.Pytester, *, fail_at: int = 0, select: str = "[VD101, VD102, VD201, VD604]") -> None:
    write(suite.path, PROGRAM.format(fail_at=fail_at))
    run_file(suite, f"loop: {{command: [program.py]}}\nchecks: {{select: {select}}}\n")


def demo(horizon: int, fault: str = "null") -> str:
    return f"""
        model: {{path: {MODEL}, device: cpu, unnorm_key: libero_object, threads: 1}}
        env: {{suite: libero_object, tasks: [0], init_states: [30], horizon: {horizon}, assets: stand-in}}
        fault: {fault}
        """


# --- Collecting ---


def test_collecting_names_every_episode_and_check_and_loads_nothing_heavy(suite: pytest.Pytester) -> None:
    suite.makeconftest(
        """
        import sys

        def pytest_collection_modifyitems(items):
            # What pytest-xdist's loadgroup goes by.
            assert {item.get_closest_marker("xdist_group").args for item in items} == {("eval.run.yaml",)}

        def pytest_sessionfinish():
            heavy = "torch transformers mujoco robosuite libero scipy cv2 jinja2 rich".split()
            assert not set(heavy) & set(sys.modules)
        """
    )
    run_file(
        suite,
        f"""
        model: {{path: {MODEL}}}
        env: {{suite: libero_object, tasks: [3, pick_up_the_milk_and_place_it_in_the_basket], init_states: [30, 31]}}
        checks: {{select: [VD201, VD604, VD802, VD901]}}
        """,
    )
    result = suite.runpytest_subprocess("--collect-only", "-q")
    assert result.ret == pytest.ExitCode.OK
    labels = ["task3", "pick-up-the-milk-and-place-it-in-the-basket"]
    expected = [
        f"eval.run.yaml::{label}-init{state}::{code}"
        for label in labels
        for state in (30, 31)
        for code in ("VD201", "VD604", "VD901")
    ]
    expected += ["eval.run.yaml::run::VD604", "eval.run.yaml::run::VD802"]
    assert [line for line in result.outlines if "::" in line] == expected
    assert [path.name for path in suite.path.iterdir() if path.is_dir() and path.name == "reports"] == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "model: {path: x}\nenv: {suite: libero_object, task: 0}\n",
            "eval.run.yaml:2:29: env.task: there is no such key",
        ),
        ("model:\n\tpath: x\n", "eval.run.yaml:2:1: a tab; YAML allows only spaces here"),
        ("", "eval.run.yaml: the file is empty"),
        (
            "model: {path: x}\nenv: {suite: libero_object}\nchecks: {select: [VD999]}\n",
            "eval.run.yaml:3:19: checks.select",
        ),
    ],
)
def test_what_is_wrong_with_a_run_file_is_said_with_line_and_column(
    suite: pytest.Pytester, text: str, said: str
) -> None:
    (suite.path / "eval.run.yaml").write_text(text, encoding="utf-8")
    result = suite.runpytest_inprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*ERROR collecting eval.run.yaml*", f"{said}*"])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_a_wrong_code_of_the_suite_is_said_by_pytests_name_of_it(suite: pytest.Pytester) -> None:
    run_file(suite, "loop: {command: [program.py]}\n", "a.run.yaml")
    result = suite.runpytest_inprocess("-o", "vladoctor_select=VD999")
    result.stdout.fnmatch_lines(["vladoctor_select: there is no check 'VD999'"])


def test_files_with_other_names_are_left_alone(suite: pytest.Pytester) -> None:
    run_file(suite, "not: ours", "settings.yaml")
    run_file(suite, "not: ours either", "x.run.yml")
    assert suite.runpytest_inprocess().ret == pytest.ExitCode.NO_TESTS_COLLECTED
    run_file(suite, "not: ours", "other.run.yaml")
    none = suite.runpytest_inprocess("-o", "vladoctor_run_files=")
    assert none.ret == pytest.ExitCode.NO_TESTS_COLLECTED


def test_the_suite_speaks_where_the_run_file_is_silent(suite: pytest.Pytester) -> None:
    run_file(suite, "loop: {command: [program.py]}\n", "a.run.yaml")
    run_file(suite, "loop: {command: [program.py]}\nchecks: {select: [VD301, VD302]}\n", "b.run.yaml")

    def names(*options: str) -> list[str]:
        result = suite.runpytest_inprocess("--collect-only", "-q", *options)
        return [line.replace(".run.yaml::episodes", "") for line in result.outlines if "::" in line]

    ini = ("-o", "vladoctor_select=VD201 VD202", "-o", "vladoctor_ignore=VD202,VD302")
    assert names(*ini) == ["a::VD201", "b::VD301"]
    assert names(*ini, "--vladoctor-select=VD401,VD402,VD403", "--vladoctor-ignore=VD403") == [
        "a::VD401", "a::VD402", "b::VD401", "b::VD402",
    ]  # fmt: skip
    wrong = suite.runpytest_inprocess("--vladoctor-profile=nobody")
    wrong.stdout.fnmatch_lines(["*there is no profile 'nobody'*"])


def test_episodes_are_named_and_found_again_as_a_run_names_them(tmp_path: Path) -> None:
    def names(text: str) -> list[str]:
        (tmp_path / "x.run.yaml").write_text(f"model: {{path: x}}\nenv: {{suite: libero_object, {text}}}\n")
        return [group.name for group in groups(load_run(tmp_path / "x.run.yaml"))]

    assert names("tasks: [4], init_states: [7]") == ["task4-init7"]
    assert names("tasks: [4], init_states: [7, 8], episodes: 3") == [
        "task4-init7-ep0",
        "task4-init8-ep1",
        "task4-init7-ep2",
    ]
    assert len(names("tasks: all, init_states: 0")) == SUITE_SIZES["libero_object"]

    spec = load_run(DEMO)
    assert spec.env is not None
    folder = Path("bddl")
    tasks = [
        LiberoTask("libero_object", 0, "soup", "", folder / "libero_object" / "soup.bddl", np.zeros((50, 1))),
        LiberoTask(
            "libero_object", 0, str(spec.env.tasks[1]), "", folder / f"{spec.env.tasks[1]}.bddl", np.zeros((50, 1))
        ),
    ]
    ran = [
        {"name": f"{task_label(task)}-init{state}-ep{number}", "init_state": state, "task": {"name": task.name}}
        for task in tasks
        for number, state in enumerate(spec.env.init_states)
    ]
    assert [group.of(ran) for group in groups(spec)] == [[one] for one in ran]
    assert Episodes("episodes").of(ran) == ran
    # The last episode could not be run.
    assert [len(group.of(ran[:-1])) for group in groups(spec)] == [1, 1, 1, 0]


@pytest.mark.simulator
def test_the_suites_have_as_many_tasks_as_libero_says() -> None:
    from vladoctor.adapters import libero

    libero.prepare("stand-in")
    assert {suite: len(libero.suite_tasks(suite)) for suite in SUITE_SIZES} == SUITE_SIZES


# --- Running ---


def test_a_program_is_run_once_and_its_checks_pass_or_say_why_not(suite: pytest.Pytester) -> None:
    own_loop(suite)
    suite.makepyfile("def test_other(): pass")
    result = suite.runpytest_subprocess("-n", "2", "--dist", "load", "-rs", "--vladoctor-report", "kept")
    result.assert_outcomes(passed=3, skipped=3)
    result.stdout.fnmatch_lines_random(
        [
            "SKIPPED * eval.run.yaml:1: VD201 abstained: *",
            "eval.run.yaml: 2 episodes*",
            "1 run, 2 episodes watched: *",
        ]
    )
    assert (suite.path / "runs").read_text() == "once more\n"
    (entry,) = json.loads((suite.path / "kept" / "index.json").read_text())["runs"]
    assert (suite.path / "kept" / entry["page"]).is_file()


def test_some_of_the_tests_of_a_run_can_be_chosen(suite: pytest.Pytester) -> None:
    own_loop(suite)
    suite.makepyfile("def test_other(): pass")
    again = suite.runpytest_subprocess("-k", "black-image", "-m", "vla", "--vladoctor-report", "kept")
    again.assert_outcomes(passed=1, deselected=5)
    assert (suite.path / "runs").read_text() == "once more\n"
    unselected = suite.runpytest_subprocess("-m", "not vla")
    unselected.assert_outcomes(passed=1, deselected=5)
    assert (suite.path / "runs").read_text() == "once more\n"


def test_a_program_that_fails_is_an_error_of_its_tests(suite: pytest.Pytester) -> None:
    own_loop(suite, fail_at=3, select="[VD101, VD802]")
    result = suite.runpytest_inprocess()
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(
        [
            "*ERROR at setup of eval.run.yaml::episodes::VD101*",
            "*: the loop raised an exception: RuntimeError: the arm fell off",
            "*ERROR at setup of eval.run.yaml::run::VD802*",
            "the program ended with status 1; its output: *run.log",
        ]
    )


def test_a_program_that_is_killed_or_has_no_loop_is_an_error(suite: pytest.Pytester) -> None:
    write(suite.path, PROGRAM.format(fail_at=0) + "\nimport os\nos.kill(os.getpid(), 9)\n")
    run_file(suite, "loop: {command: [program.py]}\nchecks: {select: [VD101]}\n", "killed.run.yaml")
    suite.makepyfile(silent="print('nothing to do')")
    run_file(suite, "loop: {command: [silent.py]}\nchecks: {select: [VD101]}\n", "silent.run.yaml")
    result = suite.runpytest_inprocess()
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(
        ["*the program ended by SIGKILL; its output: *", "nothing was recorded: 1 process attached, without numpy*"]
    )


def test_a_run_that_leaves_no_report_says_why_once_in_full(suite: pytest.Pytester) -> None:
    run_file(suite, demo(20).replace(str(MODEL), "nowhere") + "checks: {select: [VD101, VD102]}")
    suite.path.joinpath("eval.run.yaml").write_text(
        textwrap.dedent(demo(20)).replace(str(MODEL), "nowhere") + "checks: {select: [VD101, VD102]}\n"
    )
    result = suite.runpytest_inprocess()
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(
        [
            "*ERROR at setup of eval.run.yaml::task0-init30::VD101*",
            "*eval.run.yaml:2:9: model.path: there is no model folder *nowhere",
            "output: *run.log",
            "*ERROR at setup of eval.run.yaml::task0-init30::VD102*",
            "*(in full at the first test of eval.run.yaml)",
        ]
    )


def test_a_check_that_crashes_is_an_error_and_no_pass(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    own_loop(suite, select="[VD101, VD102]")
    suite.makepyfile(
        sitecustomize="""
        from wrapt import register_post_import_hook

        def breaks(module):
            def judge(facts, limits):
                raise ZeroDivisionError("broken on purpose")
                yield
            object.__setattr__(module.CHECK, "judge", judge)

        register_post_import_hook(breaks, "vladoctor.checks.vd102_frozen_image")
        """
    )
    monkeypatch.setenv("PYTHONPATH", str(suite.path))
    result = suite.runpytest_inprocess()
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(
        ["VD102 frozen-image crashed, which is a defect of vladoctor: ZeroDivisionError: broken on*"]
    )


def test_a_run_that_kills_its_worker_is_not_tried_by_the_next(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        program="""
        import os, pathlib, signal, time

        parent = pathlib.Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()[1]
        with pathlib.Path("runs").open("a") as file:
            file.write("once more\\n")
        os.kill(int(parent), signal.SIGKILL)  # below vladoctor, which is below the worker
        time.sleep(1)
        """
    )
    run_file(suite, "loop: {command: [program.py]}\nchecks: {select: [VD101, VD102, VD103, VD105]}\n")
    result = suite.runpytest_subprocess("-n", "2", "--dist", "load")
    result.assert_outcomes(failed=1, errors=3)
    result.stdout.fnmatch_lines_random(
        [
            "worker 'gw[01]' crashed while running *",
            "the run was begun by gw[01], which has ended without leaving a report",
        ]
    )
    assert (suite.path / "runs").read_text() == "once more\n"


@pytest.mark.simulator
@pytest.mark.torch
def test_the_demo_broken_on_purpose_in_two_workers(suite: pytest.Pytester) -> None:
    run_file(suite, demo(8, "flip-vertical"), "demo.run.yaml")
    options = ["-n", "2", "--dist", "load", "--vladoctor-report=kept", "--junitxml=junit.xml", "-rs"]
    result = suite.runpytest_subprocess(*options)
    result.stdout.fnmatch_lines(
        [
            "*_ demo.run.yaml::task0-init30::VD201 _*",
            "VD201 image-orientation in task0-init30-ep0",
            "    stop * stage image * steps 0 to 7",
            "      expected rot180",
            "      seen     flip-vertical",
            "      what the model was given, step 0: *frames*.png",
            "report: *report.html",
            "*= vladoctor =*",
            "demo.run.yaml: 1 episode, 0 of 1 succeeded; VD201 image-orientation (stop)*",
        ]
    )
    outcomes = result.parseoutcomes()
    judged = [check for check in all_checks() if check.judge or check.judge_checks]
    whole = [check for check in all_checks() if check.judge_run]
    assert (outcomes["failed"], sum(outcomes.values())) == (1, len(judged) + len(whole))
    assert len(list((suite.path / "kept").rglob("*.mcap"))) == 1
    assert len(list((suite.path / "kept").rglob("frames/*.png"))) == 3
    cases = {one.get("name"): one for one in ElementTree.parse(suite.path / "junit.xml").iter("testcase")}
    said = {one.get("name"): str(one.get("value")) for one in cases["VD201"].iter("property")}
    assert (said["vladoctor_code"], said["vladoctor_severity"], said["vladoctor_stage"]) == ("VD201", "stop", "image")
    assert Path(said["vladoctor_trace"]).is_file()
