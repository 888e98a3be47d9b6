"""The pytest plugin from outside: suites that are run by pytest, in this process or in one of their own."""

from __future__ import annotations

import importlib
import json
import os
import sys
import types
from pathlib import Path
from xml.etree import ElementTree

import pytest

from vladoctor.check import all_checks
from vladoctor.testing import gpus
from vladoctor.testing.once import WorkerLostError, once
from vladoctor.testing.report import slug
from vladoctor.trace import find_traces

# Suites that are run in this process leave no module behind that was not here before; numpy and what is built on it
# cannot be imported twice.
all_checks()
for _name in ("report.html", "session", "taps.watch", "testing.doctor", "testing.index", "testing.runfiles"):
    importlib.import_module(f"vladoctor.{_name}")

ROBOT = '''
import numpy as np
import vladoctor


class Robot:
    """An environment of nobody's library: a picture and two joints; three steps are an episode."""

    def __init__(self, lit=True):
        self.lit = lit

    def reset(self):
        self.count = 0
        return self.look()

    def step(self, action):
        self.count += 1
        return {**self.look(), "over": self.count == 3, "won": self.count == 3}

    def look(self):
        rows, columns = np.mgrid[:32, :32]
        picture = np.repeat((60 + 80 * ((rows // 8 + columns // 8 + self.count) % 2))[..., None], 3, 2) * self.lit
        return {"camera": picture.astype(np.uint8), "joints": np.array([0.1, 0.2 * self.count])}


ADAPTER = vladoctor.EnvAdapter(
    "robot", read_step=lambda result: vladoctor.Transition(result, done=result["over"], success=result["won"])
)


def evaluate(doctor, lit=True, episodes=1, ask=True, fail=False):
    """A loop that asks a policy which no tap knows."""
    robot = doctor.watch_env(Robot(lit), ADAPTER)
    for _ in range(episodes):
        seen = robot.reset()
        while not seen.get("over"):
            action = np.array([0.1, -0.1 * robot.count])
            if ask:
                doctor.asked(prompt="pick it up", image=seen["camera"], action=action)
            if fail:
                raise RuntimeError("the arm fell off")
            seen = robot.step(action)
'''

UNSEEN = "VD205,VD206"
"""What cannot be seen of a policy that is told of by hand."""


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.delenv("CI", raising=False)  # pytest cuts nothing off in CI
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    for name in [name for name in os.environ if name.startswith("PYTEST_XDIST")]:
        monkeypatch.delenv(name)
    pytester.makepyfile(robot=ROBOT)
    pytester.makeini("[pytest]\naddopts = --strict-markers --strict-config")
    return pytester


def run(suite: pytest.Pytester, *options: str) -> pytest.RunResult:
    return suite.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:randomly", *options)


# --- It costs other suites nothing ---


def test_a_suite_that_does_not_use_it_imports_nothing_for_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_it():
            mine = sorted(name for name in sys.modules if name.split(".")[0] == "vladoctor")
            assert mine == ["vladoctor", "vladoctor.pytest_plugin"]
            heavy = "numpy scipy click rich jinja2 ruamel jsonschema torch PIL mcap wrapt".split()
            assert not set(heavy) & set(sys.modules)
        """
    )
    pytester.makefile(".yaml", settings="a: 1")
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*= vladoctor =*")


def test_it_can_be_turned_off(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("import sys\ndef test_it(): assert 'vladoctor' not in sys.modules")
    pytester.runpytest_subprocess("-p", "no:vladoctor").assert_outcomes(passed=1)


# --- The fixture ---


def test_a_healthy_loop_passes_and_is_told_of(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        f"""
        from robot import evaluate

        def test_loop(vla_doctor, vla_trace):
            with vla_doctor.watch(ignore="{UNSEEN}") as run:
                evaluate(run, episodes=2)
            vla_doctor.assert_healthy()
            assert vla_doctor.findings() == []
            assert len(vla_doctor.diagnoses) == 2
            assert [len(episode.steps) for episode in vla_trace.episodes] == [3, 3]
            assert all(path.suffix == ".mcap" and path.is_file() for path in vla_trace.paths)
            assert "2 of 2 episodes" in vla_doctor.summary()

        def test_another_in_the_same_process(vla_doctor, vla_trace):
            with vla_doctor.watch(ignore="{UNSEEN}") as run:
                evaluate(run)
            assert vla_trace.episode is vla_doctor.diagnosis.episode
            assert vla_trace.path.is_file()

        def test_without():
            assert True
        """
    )
    result = run(suite)
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(
        [
            "*= vladoctor =*",
            "*::test_another_in_the_same_process: 1 episode, 1 of 1 succeeded; nothing found",
            "*::test_loop: 2 episodes, 2 of 2 succeeded; nothing found",
            "2 runs, 3 episodes watched: nothing found",
        ]
    )


FAILING = f"""
from robot import evaluate

def test_dark(vla_doctor):
    with vla_doctor.watch(ignore="{UNSEEN}") as run:
        evaluate(run, lit=False, episodes=2)
    assert [finding.code for finding in vla_doctor.findings("VD101")] == ["VD101", "VD101"]
    assert vla_doctor.findings("VD102") == []
    vla_doctor.assert_healthy(ignore=["VD2"])
"""


def test_a_failure_shows_the_evidence_and_nothing_of_the_inside(suite: pytest.Pytester) -> None:
    suite.makepyfile(FAILING)
    result = run(suite, "--junitxml=junit.xml", "--vladoctor-report=kept")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            ">       vla_doctor.assert_healthy(*",
            "E       AssertionError: VD101 black-image",
            "E       VD101 black-image in robot-ep0",
            "E           stop * stage render * steps 0 to 2",
            "E             expected a picture of the scene",
            "E             seen     black *",
            "E           more: vladoctor explain VD101",
            "E           also in robot-ep1",
            "E           pictures:",
            "E             raw camera frame, step 0: *frames*VD101*.png",
            "E       report: *report.html",
            "*= vladoctor =*",
            "*::test_dark: 2 episodes*; VD101 black-image in 2 of 2 (stop)*",
            "FAILED *::test_dark*",
        ]
    )
    result.stdout.no_fnmatch_line("*vladoctor/testing/*")
    (picture, *_) = sorted((suite.path / "kept").rglob("VD101*.png"))
    assert picture.read_bytes().startswith(b"\x89PNG")
    properties = {
        one.get("name"): one.get("value") for one in ElementTree.parse(suite.path / "junit.xml").iter("property")
    }
    assert properties["vladoctor_code"].startswith("VD101")
    assert (properties["vladoctor_severity"], properties["vladoctor_stage"]) == ("stop", "render")
    assert find_traces(Path(properties["vladoctor_trace"]))


def test_reports_are_kept_and_indexed_and_renewed(suite: pytest.Pytester) -> None:
    suite.makepyfile(FAILING)
    for _ in range(2):
        run(suite, "--vladoctor-report=kept").stdout.fnmatch_lines(["reports: *kept/index.html"])
    (entry,) = json.loads((suite.path / "kept" / "index.json").read_text())["runs"]
    assert entry["findings"][0] == {
        "code": "VD101",
        "name": "black-image",
        "severity": "stop",
        "episodes": 2,
        "fails": True,
    }
    folder = suite.path / "kept" / entry["folder"]
    assert len(find_traces(folder)) == 2
    assert json.loads((folder / "report.json").read_text())["episodes"][0]["trace"].startswith("traces/")
    assert f'href="{entry["page"]}"' in (suite.path / "kept" / "index.html").read_text()
    assert (suite.path / "kept" / entry["page"]).is_file()


def test_the_programs_exception_passes_untouched_with_the_diagnosis_beside_it(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import pytest
        from robot import evaluate

        def test_falls(vla_doctor):
            with vla_doctor.watch() as run:
                evaluate(run, lit=False, fail=True)

        def test_expected(vla_doctor):
            with pytest.raises(RuntimeError, match="fell off"), vla_doctor.watch() as run:
                evaluate(run, fail=True)
            assert vla_doctor.diagnosis.episode.outcome.ended == "exception"
            with pytest.raises(AssertionError, match="raised an exception: RuntimeError: the arm fell off"):
                vla_doctor.assert_healthy(ignore="VD604,VD902")
        """
    )
    result = run(suite)
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(
        [
            "E                   RuntimeError: the arm fell off",
            "*- vladoctor -*",
            "*::test_falls: 1 episode; VD101 black-image*; broken: *: the loop raised an exception: RuntimeError: *",
            "VD101 black-image in *",
        ]
    )


def test_a_fixture_that_is_asked_for_by_name_is_told_of(suite: pytest.Pytester) -> None:
    """While the test runs, so that nothing was known of it before."""
    suite.makepyfile(
        """
        from robot import evaluate

        def test_of_something_else():
            pass

        def test_late(request):
            doctor = request.getfixturevalue("vla_doctor")
            with doctor.watch() as run:
                evaluate(run, lit=False)
            doctor.assert_healthy()
        """
    )
    result = run(suite, "--junitxml=junit.xml")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["E *AssertionError: VD101 black-image*", "*::test_late: 1 episode*VD101 black-image*"])
    assert "VD101" in [one.get("value") for one in ElementTree.parse(suite.path / "junit.xml").iter("property")]


def test_a_suite_of_something_else_has_no_hook_around_its_tests(suite: pytest.Pytester) -> None:
    """What is called for every test, and several times, is there only where a test is vladoctor's."""
    suite.makeconftest(
        """
        def pytest_runtestloop(session):
            caller = session.config.hook.pytest_runtest_makereport
            names = [impl.plugin_name for impl in caller.get_hookimpls()]
            print("HOOKS", "vladoctor" in str(names))
        """
    )
    suite.makepyfile(test_other="def test_other(tmp_path): pass")
    suite.makepyfile(test_ours="def test_ours(vla_trace): pass")
    run(suite, "-s", "test_other.py").stdout.fnmatch_lines(["HOOKS False"])
    run(suite, "-s", "test_other.py", "test_ours.py").stdout.fnmatch_lines(["HOOKS True"])


def test_what_was_not_seen_is_not_healthy(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        from robot import evaluate

        def test_nothing(vla_doctor):
            with vla_doctor.watch():
                pass
            vla_doctor.assert_healthy(complete=False)

        def test_no_policy(vla_doctor):
            with vla_doctor.watch() as run:
                evaluate(run, ask=False)
            vla_doctor.assert_healthy(ignore=["VD902"])

        def test_incomplete(vla_doctor):
            with vla_doctor.watch(select=["VD205", "VD101"]) as run:
                evaluate(run)
            vla_doctor.assert_healthy()

        def test_known(vla_doctor):
            with vla_doctor.watch(select=["VD205", "VD101"]) as run:
                evaluate(run)
            vla_doctor.assert_healthy(complete=False)

        def test_never_watched(vla_doctor):
            vla_doctor.assert_healthy()

        def test_inside(vla_doctor):
            with vla_doctor.watch():
                vla_doctor.assert_healthy()

        def test_nested(vla_doctor):
            with vla_doctor.watch(), vla_doctor.watch():
                pass
        """
    )
    result = run(suite)
    result.assert_outcomes(failed=6, passed=1)
    result.stdout.fnmatch_lines(
        [
            "E       AssertionError: nothing was recorded",
            "E       AssertionError: no policy was asked",
            "E       AssertionError: evidence incomplete",
            "E           VD205 pixel-normalisation: *",
            "E       *UserError: *nothing has been watched in this test",
            "E       *UserError: *the block that is watched has not ended yet",
            "E       *UserError: *this process is being watched already",
        ]
    )
    result.stdout.no_fnmatch_line("*vladoctor/testing/*")


def test_what_was_watched_once_for_several_tests(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import pytest
        import vladoctor
        from robot import evaluate

        @pytest.fixture(scope="module")
        def evaluation():
            with vladoctor.watch(select=["VD101", "VD102"]) as doctor:
                evaluate(doctor, lit=False)
            return doctor

        def test_dark(vla_doctor, evaluation):
            vla_doctor.include(evaluation)
            vla_doctor.assert_healthy()

        def test_frozen(vla_doctor, evaluation):
            vla_doctor.include(evaluation)
            assert not vla_doctor.findings("VD102")
        """
    )
    result = run(suite)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["E       AssertionError: VD101 black-image", "E             *step 0: *VD101*.png"])


# --- Markers and options ---


def test_a_test_that_is_watched_as_a_whole(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        f"""
        import pytest
        from robot import evaluate

        pytestmark = pytest.mark.vla(ignore="{UNSEEN}")

        @pytest.mark.vla(watch=True)
        def test_healthy(vla_doctor):
            evaluate(vla_doctor.runs[0].doctor)

        @pytest.mark.vla(watch=True)
        def test_dark(vla_doctor):
            evaluate(vla_doctor.runs[0].doctor, lit=False)

        @pytest.mark.vla(watch=True)
        def test_asked(vla_doctor):
            evaluate(vla_doctor.runs[0].doctor, lit=False)
            assert vla_doctor.findings("VD101")

        @pytest.mark.vla(watch=True)
        def test_no_fixture():
            pass

        @pytest.mark.vla(watch=True)
        def test_raises():
            raise RuntimeError("mine")

        @pytest.mark.vla(watch=True, ignore="VD101")
        def test_ignored(vla_doctor):
            evaluate(vla_doctor.runs[0].doctor, lit=False)
        """
    )
    result = run(suite)
    result.assert_outcomes(passed=3, failed=3)
    result.stdout.fnmatch_lines(
        [
            "*_ test_dark _*",
            "VD101 black-image",
            "    stop * stage render * steps 0 to 2",
            "*_ test_no_fixture _*",
            "nothing was recorded",
            "E       RuntimeError: mine",
        ]
    )
    for internal in ("*pluggy/*", "*vladoctor/testing/*"):
        result.stdout.no_fnmatch_line(internal)


def test_options_before_markers_before_the_ini_file(suite: pytest.Pytester) -> None:
    suite.makeini("[pytest]\nvladoctor_select = VD2 VD101\nvladoctor_ignore = VD205,VD206\nvladoctor_profile = unknown")
    suite.makepyfile(
        """
        import pytest
        from robot import evaluate

        def codes(doctor):
            return sorted(check.code for check in doctor.diagnosis.results)

        def test_suite(vla_doctor):
            with vla_doctor.watch() as run:
                evaluate(run)
            assert codes(vla_doctor) == ["VD101", "VD201", "VD202", "VD203", "VD204"]
            assert vla_doctor.result.run["profile"]["name"] == "unknown"

        @pytest.mark.vla(profile="openvla-libero", select=["VD101", "VD102"], ignore="VD102",
                         thresholds={"VD101": {"black_max": 255}})
        def test_marker(vla_doctor):
            with vla_doctor.watch() as run:
                evaluate(run)
            assert codes(vla_doctor) == ["VD101"]
            assert vla_doctor.result.run["profile"]["name"] == "openvla-libero"
        """
    )
    run(suite).assert_outcomes(passed=2)
    suite.makepyfile(
        """
        import pytest
        from robot import evaluate

        @pytest.mark.vla(profile="unknown", select="VD101")
        def test_option(vla_doctor):
            with vla_doctor.watch() as run:
                evaluate(run, lit=False)
            assert [check.code for check in vla_doctor.diagnosis.results] == ["VD201", "VD203"]
            assert vla_doctor.result.run["profile"]["name"] == "openvla-libero"
        """
    )
    options = ["--vladoctor-select=VD201,VD203,VD101", "--vladoctor-ignore=VD101", "--vladoctor-profile=openvla-libero"]
    run(suite, *options, "-k", "test_option").assert_outcomes(passed=1)


def test_what_does_not_fail_at_this_severity_is_told_all_the_same(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        from robot import evaluate

        def test_looks(vla_doctor):
            # The camera of that policy has another name.
            with vla_doctor.watch("openvla-libero", select="VD101") as run:
                evaluate(run, lit=False)
            assert vla_doctor.findings("VD101")[0].severity.value == "look"
            vla_doctor.assert_healthy(complete=False)
        """
    )
    result = run(suite, "--vladoctor-fail-on=fix")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*::test_looks: *VD101 black-image (look)*"])
    run(suite).assert_outcomes(failed=1)


def test_reports_need_a_folder(suite: pytest.Pytester) -> None:
    (suite.path / "kept").touch()
    suite.makepyfile("def test_it(): pass")
    result = run(suite, "--vladoctor-report=kept")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: vladoctor's reports: *kept is a file, name a folder"])


def test_a_diagnosis_that_cannot_be_told_does_not_end_the_session(suite: pytest.Pytester) -> None:
    suite.makeconftest(
        """
        import pytest
        from vladoctor.testing import report

        @pytest.fixture(autouse=True)
        def broken(monkeypatch):
            monkeypatch.setattr(report, "explain", lambda *_, **__: 1 / 0)
        """
    )
    suite.makepyfile(
        """
        from robot import evaluate

        def test_falls(vla_doctor):
            with vla_doctor.watch() as run:
                evaluate(run, lit=False, fail=True)

        def test_next():
            pass
        """
    )
    result = run(suite)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*RuntimeError: the arm fell off", "the diagnosis cannot be told, which is a defect"])


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ("profil='unknown'", "the marker `vla` knows no `profil`*did you mean `profile`?"),
        ("'unknown'", "the marker `vla` takes no values without a name*"),
        ("profile='nobody'", "*there is no profile 'nobody'*"),
        ("select='VD999'", "*there is no check 'VD999'*"),
        ("fail_on='bad'", "*there is no severity 'bad'*fail_on is one of stop, fix, look"),
    ],
)
def test_a_wrong_marker_is_an_error_that_says_so(suite: pytest.Pytester, marker: str, message: str) -> None:
    suite.makepyfile(
        f"""
        import pytest

        @pytest.mark.vla({marker})
        def test_it(vla_doctor):
            with vla_doctor.watch():
                pass
        """
    )
    result = run(suite)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    said = " ".join(line.removeprefix("E").strip() for line in result.outlines)
    assert "test_it: " in said
    for part in message.split("*"):
        assert part in said
    # In the test's words: no line of vladoctor's own code.
    result.stdout.no_re_match_line(r".*vladoctor/\w+.*\.py:\d+.*")


def test_recorded_traces_are_judged_without_a_loop(suite: pytest.Pytester) -> None:
    suite.makepyfile(FAILING)
    run(suite, "--vladoctor-report=kept")
    suite.makepyfile(
        test_replay="""
        import pytest
        from vladoctor.errors import UserError

        def test_it(vla_doctor, vla_trace):
            vla_doctor.replay("kept")
            assert vla_doctor.findings("VD101")
            assert len(vla_trace.episodes) == 2
            with pytest.raises(UserError, match="there are 2"):
                vla_trace.episode
            with pytest.raises(AssertionError, match="VD101"):
                vla_doctor.assert_healthy()
        """
    )
    run(suite, "-k", "test_replay").assert_outcomes(passed=1, deselected=1)


# --- pytest-xdist ---


def test_workers_tell_the_controller(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_first=FAILING, test_second=FAILING)
    result = suite.runpytest_subprocess("-p", "no:cacheprovider", "-n", "2", "--vladoctor-report=kept")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            "test_first.py::test_dark: *",
            "test_second.py::test_dark: *",
            "2 runs, 4 episodes watched: VD101 black-image in 2*",
        ]
    )
    assert len(json.loads((suite.path / "kept" / "index.json").read_text())["runs"]) == 2


def test_an_ini_file_can_not_misspell_what_an_option_can_not(suite: pytest.Pytester) -> None:
    suite.makeini("[pytest]\nvladoctor_gpus = wrker")
    suite.makepyfile("def test_it(): pass")
    result = run(suite)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*vladoctor_gpus is one of auto, worker, off, not 'wrker'*"])


@pytest.mark.parametrize(
    ("visible", "number", "given"),
    [
        ("0,1", 0, {"CUDA_VISIBLE_DEVICES": "0", "MUJOCO_EGL_DEVICE_ID": "0"}),
        ("2, 5", 1, {"CUDA_VISIBLE_DEVICES": "5", "MUJOCO_EGL_DEVICE_ID": "5"}),
        ("2,5", 2, {"CUDA_VISIBLE_DEVICES": "2", "MUJOCO_EGL_DEVICE_ID": "2"}),
        ("GPU-1f,GPU-2e", 1, {"CUDA_VISIBLE_DEVICES": "GPU-2e"}),
        ("3", 1, {}),
        ("", 1, {}),
        ("-1", 1, {}),
        ("0,-1,1", 1, {}),
        (None, 1, {"CUDA_VISIBLE_DEVICES": "1", "MUJOCO_EGL_DEVICE_ID": "1"}),
    ],
)
def test_workers_take_turns_over_the_gpus(
    visible: str | None, number: int, given: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("nvidia3", "nvidia7", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    monkeypatch.setattr(gpus, "DEVICES", str(tmp_path))
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert gpus.for_number(number, environment) == given


@pytest.mark.parametrize(
    ("options", "told"), [((), "None"), (("--vladoctor-gpus=worker",), "5"), (("--vladoctor-select=VD2",), "5")]
)
def test_a_worker_gets_its_gpu_before_test_modules_are_imported(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], told: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,6")
    monkeypatch.delenv("MUJOCO_EGL_DEVICE_ID", raising=False)
    suite.makepyfile(
        f"""
        import os

        AT_IMPORT = str(os.environ.get("MUJOCO_EGL_DEVICE_ID")), os.environ["CUDA_VISIBLE_DEVICES"]

        def test_it():
            assert AT_IMPORT == ("{told}", "{"5,6" if told == "None" else told}")
        """
    )
    suite.runpytest_subprocess("-p", "no:cacheprovider", "-n", "1", *options).assert_outcomes(passed=1)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5,6"


@pytest.mark.parametrize("late", [False, True])
def test_a_worker_gets_its_gpu_with_the_first_doctor_if_it_is_not_too_late(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,6")
    monkeypatch.delenv("MUJOCO_EGL_DEVICE_ID", raising=False)
    suite.makepyfile(mujoco="")
    suite.makepyfile(
        f"""
        import os
        {"import mujoco" if late else ""}

        def test_it(vla_doctor):
            assert os.environ["CUDA_VISIBLE_DEVICES"] == "{"5,6" if late else "5"}"
        """
    )
    result = suite.runpytest_subprocess("-p", "no:cacheprovider", "-n", "1")
    result.assert_outcomes(passed=1, warnings=int(late))
    if late:
        result.stdout.fnmatch_lines(["*PytestWarning: this worker has no GPU of its own, because mujoco was imported*"])


@pytest.mark.parametrize("late", [False, True])
def test_a_run_file_s_process_gets_the_worker_s_gpu_whatever_was_asked_before_or_is_asked_after(
    monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    config = types.SimpleNamespace(
        workerinput={"workerid": "gw1"}, stash=pytest.Stash(), getoption=lambda _: None, getini=lambda _: ""
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,6")
    # So that it is taken away afterwards.
    monkeypatch.setenv("MUJOCO_EGL_DEVICE_ID", "0")
    monkeypatch.delenv("MUJOCO_EGL_DEVICE_ID")
    for name in ("torch", "mujoco", "jax"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    given = {"CUDA_VISIBLE_DEVICES": "6", "MUJOCO_EGL_DEVICE_ID": "6"}
    assert gpus.of_worker(config) == given  # type: ignore[arg-type]
    if late:
        monkeypatch.setitem(sys.modules, "mujoco", types.ModuleType("mujoco"))
        with pytest.warns(pytest.PytestWarning, match="no GPU of its own"):
            gpus.assign_late(config)  # type: ignore[arg-type]
        gpus.assign_late(config)  # type: ignore[arg-type]
        assert gpus.of_worker(config) == given  # type: ignore[arg-type]
    else:
        gpus.assign_late(config)  # type: ignore[arg-type]
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "6"
        assert gpus.of_worker(config) == {}  # type: ignore[arg-type]


def test_something_is_done_once_and_not_again_by_the_next_where_it_killed_the_first(tmp_path: Path) -> None:
    calls = []
    for _ in range(2):
        assert once(tmp_path / "a", "gw0", lambda: calls.append(1) or {"n": len(calls)}) == {"n": 1}
    with pytest.raises(SystemExit):
        once(tmp_path / "b", "gw1", lambda: sys.exit(1))
    with pytest.raises(WorkerLostError, match="gw1"):
        once(tmp_path / "b", "gw0", dict)


def test_names_of_folders_differ_where_those_of_tests_do() -> None:
    names = [
        "tests/test_a.py::test[x/y]",
        "tests/test_a.py::test[x-y]",
        "tests/test_a.py::test[x:y]",
        "é",
        "è",
        "a" * 300,
    ]
    found = [slug(name) for name in names]
    assert len(set(found)) == len(names)
    assert all(name and len(name) <= 100 and "/" not in name for name in found)


def test_a_check_that_does_not_exist_is_never_found_right(suite: pytest.Pytester) -> None:
    """`assert not vla_doctor.findings("VD2O1")` would pass whatever the loop does; "VD1" are those that begin so."""
    suite.makepyfile(
        f"""
        import pytest
        from robot import evaluate
        from vladoctor.errors import UserError

        def test_it(vla_doctor):
            with vla_doctor.watch(ignore="{UNSEEN}") as run:
                evaluate(run, lit=False)
            for same in ("VD101", "vd101", "black-image", "VD1", "VD10"):
                assert [one.code for one in vla_doctor.findings(same)] == ["VD101"]
            with pytest.raises(UserError, match="VD2 said nothing of what was watched: "):
                vla_doctor.findings("VD2")
            with pytest.raises(UserError, match="there is no check 'VD1O1'"):
                vla_doctor.findings("VD1O1")
            with pytest.raises(UserError, match="there is no check 'VD999'"):
                vla_doctor.assert_healthy(ignore=["VD999"])
        """
    )
    run(suite).assert_outcomes(passed=1)


def test_what_a_check_did_not_look_at_is_not_without_findings(suite: pytest.Pytester) -> None:
    """`assert not vla_doctor.findings("VD102")` would pass whatever the loop does."""
    suite.makepyfile(
        """
        import pytest
        from robot import evaluate
        from vladoctor.errors import UserError

        def test_it(vla_doctor):
            with vla_doctor.watch(select="VD101") as run:
                evaluate(run)
            assert vla_doctor.findings("VD101") == []
            with pytest.raises(UserError, match="VD102 said nothing of what was watched: it was not selected"):
                vla_doctor.findings("VD102")
        """
    )
    run(suite).assert_outcomes(passed=1)


def test_the_last_line_does_not_call_broken_runs_right(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        f"""
        from robot import evaluate

        def test_broken(vla_doctor):
            with vla_doctor.watch(ignore="{UNSEEN}") as run:
                evaluate(run, fail=True)

        def test_nothing(vla_doctor):
            with vla_doctor.watch():
                pass
        """
    )
    result = run(suite)
    result.stdout.fnmatch_lines(["2 runs, 1 episode watched: nothing found; 1 broke; 1 not seen whole"])
