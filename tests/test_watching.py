"""`with vladoctor.watch() as doctor:` in a program of one's own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vladoctor
from vladoctor.errors import UserError
from vladoctor.trace import find_traces, read_episode


class Robot:
    """An environment of nobody's library: a picture and two joints; three steps are an episode."""

    def __init__(self) -> None:
        self.count = 0

    def reset(self) -> dict[str, Any]:
        self.count = 0
        return self.look()

    def step(self, action: Any) -> dict[str, Any]:
        self.count += 1
        return {**self.look(), "over": self.count == 3, "won": self.count == 3}

    def look(self) -> dict[str, Any]:
        rows, columns = np.mgrid[:32, :32]
        picture = np.repeat((60 + 80 * ((rows // 8 + columns // 8 + self.count) % 2))[..., None], 3, 2)
        return {"camera": picture.astype(np.uint8), "joints": np.array([0.1, 0.2 * self.count])}


ADAPTER = vladoctor.EnvAdapter(
    "robot",
    read_step=lambda result: vladoctor.Transition(result, done=result["over"], success=result["won"]),
)


def roll_out(reset: Any, step: Any, episodes: int = 1) -> None:
    for _ in range(episodes):
        reset()
        while not step(np.array([0.1, -0.2]))["over"]:
            pass


def dark(robot: Robot) -> dict[str, Any]:
    return {"camera": np.zeros((32, 32, 3), np.uint8), "joints": np.zeros(2)}


def test_objects_that_were_made_before_are_watched() -> None:
    robot = Robot()
    with vladoctor.watch(ignore=["VD902"]) as doctor:
        assert doctor.diagnoses == ()
        assert doctor.summary() == "watching"
        assert doctor.watch_env(robot, ADAPTER) is robot
        roll_out(robot.reset, robot.step, episodes=2)
    assert [diagnosis.episode.outcome.ended for diagnosis in doctor.diagnoses] == ["success", "success"]
    episode = doctor.diagnoses[0].episode
    assert [len(step.frames) for step in episode.steps] == [1, 1, 1]
    assert [step.executed for step in episode.steps] == [(0.1, -0.2)] * 3
    assert episode.run["versions"]["numpy"] == np.__version__
    assert doctor.findings() == []
    assert not hasattr(Robot.step, "__wrapped__")


def test_an_environment_of_two_functions() -> None:
    robot = Robot()
    with vladoctor.watch() as doctor:
        reset, step = doctor.watch_calls(robot.reset, robot.step, ADAPTER)
        roll_out(reset, step)
    assert [len(diagnosis.episode.steps) for diagnosis in doctor.diagnoses] == [3]
    roll_out(reset, step)
    assert len(doctor.diagnoses) == 1


def test_queries_that_are_given_as_data() -> None:
    robot = Robot()
    picture = np.full((24, 24, 3), 90, np.uint8)
    with vladoctor.watch() as doctor:
        doctor.learn(checkpoint={"name": "by hand"})
        doctor.watch_env(robot, ADAPTER)
        robot.reset()
        for number in range(3):
            doctor.asked(
                prompt="pick it up",
                image=picture,
                input_ids=[1, 2],
                token_ids=[31800 + number, 31900],
                action=[0.1, 0.2],
                options={"temperature": 0.0},
            )
            robot.step(np.array([0.1, 0.2]))
    episode = doctor.diagnoses[0].episode
    queries = [query for _, query in episode.queries()]
    assert [query.ids for query in queries] == [(31800, 31900), (31801, 31900), (31802, 31900)]
    assert {query.prompt for query in queries} == {"pick it up"}
    assert [query.input_ids for query in queries] == [(1, 2)] * 3
    assert queries[0].action == (0.1, 0.2)
    assert queries[0].options["temperature"] == 0.0
    assert queries[0].image is not None
    assert queries[0].image.shape == (24, 24)
    assert episode.run["checkpoint"] == {"name": "by hand"}


def test_findings_by_code_and_the_reports(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Robot, "look", dark)
    robot = Robot()
    with vladoctor.watch(out=tmp_path / "kept", ignore=["VD902"]) as doctor:
        doctor.watch_env(robot, ADAPTER)
        roll_out(robot.reset, robot.step)
    assert [finding.code for finding in doctor.findings("VD101")] == ["VD101"]
    assert doctor.findings("black-image") == doctor.findings()
    assert doctor.findings("VD201") == []
    assert "VD101 black-image" in doctor.summary()
    assert repr(doctor) == "<Doctor: 1 episodes, VD101>"
    assert doctor._repr_html_().startswith("<pre>vladoctor ")
    assert "<Doctor" not in doctor._repr_html_()
    found = json.loads(doctor.report(tmp_path / "kept" / "report.json").read_text())
    assert found["episodes"][0]["trace"].startswith("traces/")
    assert "VD101" in doctor.report(tmp_path / "page.html").read_text()
    assert json.loads(doctor.report(tmp_path / "a.sarif").read_text())["runs"][0]["results"][0]["ruleId"] == "VD101"
    assert "VD101 black-image" in doctor.report(tmp_path / "junit.xml").read_text()
    with pytest.raises(UserError, match=r"\.html, \.json, \.sarif, \.xml"):
        doctor.report(tmp_path / "page.pdf")
    (trace,) = find_traces(tmp_path / "kept")
    assert read_episode(trace).run["spec"]["loop"]["command"] == []
    with pytest.raises(UserError, match="traces of an earlier run"):
        vladoctor.watch(out=tmp_path / "kept").start()


def test_checks_and_profile_are_those_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Robot, "look", dark)
    robot = Robot()
    with vladoctor.watch("openvla-libero", ignore=["VD101", "VD902"]) as doctor:
        doctor.watch_env(robot, ADAPTER)
        roll_out(robot.reset, robot.step)
    assert doctor.findings() == []
    assert doctor.result is not None
    assert doctor.result.run["profile"]["name"] == "openvla-libero"
    assert "VD101" not in {check.code for check in doctor.diagnoses[0].results}
    for wrong in ({"profile": "nobody"}, {"select": ["VD999"]}):
        with pytest.raises(UserError):
            vladoctor.watch(**wrong)


def broken_off(error: BaseException) -> vladoctor.Doctor:
    """The doctor of a loop that ends with an error after its first step."""
    robot, doctor = Robot(), vladoctor.watch()

    def loop() -> None:
        with doctor:
            doctor.watch_env(robot, ADAPTER)
            robot.reset()
            robot.step(np.zeros(2))
            raise error

    with pytest.raises(type(error)) as caught:
        loop()
    assert caught.value is error
    assert caught.traceback[-1].name == "loop"
    return doctor


def test_an_exception_passes_and_the_doctor_still_knows() -> None:
    outcome = broken_off(RuntimeError("out of memory")).diagnoses[0].episode.outcome
    assert (outcome.ended, outcome.error) == ("exception", "RuntimeError: out of memory")


def test_a_keyboards_interrupt_is_no_exception_of_the_loop() -> None:
    assert broken_off(KeyboardInterrupt()).diagnoses[0].episode.outcome.ended == "interrupted"


def test_a_second_one_is_refused_and_the_first_goes_on() -> None:
    robot = Robot()
    with vladoctor.watch() as doctor:
        doctor.watch_env(robot, ADAPTER)
        with pytest.raises(UserError, match="being watched already"):
            vladoctor.watch().start()
        roll_out(robot.reset, robot.step)
        with pytest.raises(UserError, match="nothing to report yet"):
            doctor.report("report.html")
    assert len(doctor.diagnoses) == 1
    with pytest.raises(UserError, match="has been used"):
        doctor.start()


def test_over_several_cells() -> None:
    robot = Robot()
    doctor = vladoctor.watch()
    doctor.start()
    doctor.watch_env(robot, ADAPTER)
    roll_out(robot.reset, robot.step)
    doctor.close()
    doctor.close()
    assert len(doctor.diagnoses) == 1


def test_nothing_seen_is_said() -> None:
    with vladoctor.watch() as doctor:
        pass
    assert doctor.result is not None
    assert doctor.result.exit_status == 3
    assert "doctor.watch_env" in doctor.summary()
    assert repr(doctor) == "<Doctor: 0 episodes, nothing found>"


def test_without_a_folder_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    robot = Robot()
    with vladoctor.watch() as doctor:
        doctor.watch_env(robot, ADAPTER)
        roll_out(robot.reset, robot.step)
        assert list(tmp_path.iterdir())
    assert list(tmp_path.iterdir()) == []
    # The pictures are in memory.
    assert doctor.diagnoses[0].episode.steps[0].frames["camera"].best.shape == (32, 32, 3)


def test_importing_vladoctor_imports_nothing_else() -> None:
    code = "import sys, vladoctor; before = set(sys.modules); print(vladoctor.__all__, [name for name in ('numpy', " \
        "'click', 'json') if name in before]); vladoctor.watch; print('numpy' in sys.modules)"  # fmt: skip
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:  # installed by a path hook, which `-S` leaves out
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "['Doctor', 'EnvAdapter', 'Transition', '__version__', 'watch'] []\nTrue\n"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = vladoctor.nothing
