"""VD104 scene-mismatch: another scene, another light; other init states, turned frames, unknown scenes are left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rendered import LIBERO, Rendered, facts, recorded, rendered

from vladoctor.check import Abstention, Clear, Problem, Severity, Stage, Verdict
from vladoctor.checks.vd104_scene_mismatch import CHECK
from vladoctor.errors import UserError
from vladoctor.facts.scene import compare, document, fingerprint, read_references, shipped
from vladoctor.fingerprints import write_fingerprints
from vladoctor.profiles import Profile
from vladoctor.records import Episode, Outcome
from vladoctor.trace import TraceWriter

SHOTS = rendered("agentview")
TASK = {"suite": "my_suite", "name": "stack the cups", "init_state": 3, "episode": 0}


def episode(frame: np.ndarray = SHOTS[0].frame, **task: object) -> Episode:
    made = recorded([Rendered(frame, 0, SHOTS[0].eef), *SHOTS[1:]])
    return replace(made, task={**TASK, **task}, run={"assets": {"kind": "real"}, "versions": {"mujoco": "3.8.1"}})


@pytest.fixture
def profile(tmp_path: Path) -> Profile:
    """A profile that names a reference of the first two frames."""
    file = tmp_path / "scenes.json"
    file.write_text(json.dumps(document([episode(), episode(SHOTS[1].frame, init_state=4)])))
    return LIBERO.with_overrides({"environment.scenes": str(file)})


def judge(made: Episode, profile: Profile = LIBERO) -> Verdict:
    (verdict,) = CHECK.judge(facts(made, profile), CHECK.thresholds)  # type: ignore[misc]
    return verdict


def problem(made: Episode, profile: Profile) -> Problem:
    verdict = judge(made, profile)
    assert isinstance(verdict, Problem)
    return verdict


# Must fire.


@pytest.mark.parametrize("other", ["wrist", "sky"])
def test_another_scene(other: str, profile: Profile) -> None:
    found = problem(episode(rendered(other)[0].frame), profile)
    assert (found.severity, found.stage, found.first_step) == (Severity.STOP, Stage.RENDER, 0)
    assert "does not show this task's scene" in found.message
    assert found.evidence["seen"] == "another scene"


def test_something_large_that_does_not_belong_there(profile: Profile) -> None:
    frame = SHOTS[0].frame.copy()
    frame[60:100, 20:60] = (20, 200, 30)
    found = problem(episode(frame), profile)
    assert found.severity is Severity.STOP
    assert found.evidence["seen"] == "another scene"


@pytest.mark.parametrize(("gain", "word"), [(0.7, "darker"), (1.2, "brighter")])
def test_another_light_is_a_look(gain: float, word: str, profile: Profile) -> None:
    found = problem(episode(np.clip(SHOTS[0].frame * gain, 0, 255).astype(np.uint8)), profile)
    assert found.severity is Severity.LOOK
    assert f"{word} at a middle grey" in found.message
    assert "mujoco==3.3.2" in found.remedy


def test_versions_are_named(profile: Profile) -> None:
    dark = episode((SHOTS[0].frame * 0.7).astype(np.uint8))
    newer = replace(dark, run={**dark.run, "versions": {"mujoco": "3.9.0"}})
    assert "This is mujoco 3.9.0, the reference was drawn by 3.8.1" in problem(newer, profile).message


# Must not fire.


@pytest.mark.parametrize("place", [0, 1])
def test_the_same_scene(place: int, profile: Profile) -> None:
    assert isinstance(judge(episode(SHOTS[place].frame), profile), Clear)


def test_a_little_noise_and_light(profile: Profile) -> None:
    noise = np.random.default_rng(0).normal(2, 6, SHOTS[0].frame.shape)
    assert isinstance(judge(episode(np.clip(SHOTS[0].frame + noise, 0, 255).astype(np.uint8)), profile), Clear)


def test_every_shipped_state_beside_the_others() -> None:
    (reference,) = shipped()
    assert (reference.suite, reference.camera, reference.assets) == ("libero_object", "agentview", "stand-in")
    correlations = []
    for place, colours in enumerate(reference.colours):
        rest = replace(
            reference,
            states=tuple(np.delete(np.array(reference.states), place)),
            colours=np.delete(reference.colours, place, axis=0),
        )
        frame = recorded([Rendered(colours.repeat(4, axis=0).repeat(4, axis=1), 0, (0, 0, 0))]).steps[0].frames
        found = compare(frame["agentview"], rest)
        assert (found.turned, found.far) == ("identity", 0.0)
        assert found.difference < CHECK.thresholds["light"] / 3
        correlations.append(found.correlation)
    assert min(correlations) > 0.99


# Must abstain.


@pytest.mark.parametrize("turn", [lambda f: f[::-1], lambda f: f[::-1, ::-1], lambda f: f[..., ::-1]])
def test_the_right_scene_that_comes_another_way(turn: object, profile: Profile) -> None:
    verdict = judge(episode(np.ascontiguousarray(turn(SHOTS[0].frame))), profile)  # type: ignore[operator]
    assert isinstance(verdict, Abstention)
    assert "show the scene, but only as" in verdict.reason


@pytest.mark.parametrize("task", [{"suite": "libero_goal"}, {"name": "another"}, {"name": None}])
def test_no_reference(task: dict[str, object], profile: Profile) -> None:
    verdict = judge(episode(**task), profile)
    assert isinstance(verdict, Abstention)
    assert "vladoctor fingerprint" in verdict.reason


def test_other_assets_are_another_scene(profile: Profile) -> None:
    assert isinstance(judge(replace(episode(), run={}), profile), Abstention)


def test_recording_that_began_later(profile: Profile) -> None:
    made = episode()
    late = replace(made, steps=[replace(step, number=step.number + 5) for step in made.steps])
    assert isinstance(judge(late, profile), Abstention)
    assert isinstance(judge(replace(made, steps=[]), profile), Abstention)


@pytest.mark.parametrize("text", ["{}", "not json", '{"format": 1, "scenes": [{}]}'])
def test_a_file_that_is_none(text: str, tmp_path: Path) -> None:
    file = tmp_path / "scenes.json"
    file.write_text(text)
    verdict = judge(episode(), LIBERO.with_overrides({"environment.scenes": str(file)}))
    assert isinstance(verdict, Abstention)
    assert verdict.missing


# The command.


def trace(folder: Path, **task: object) -> Path:
    made = episode(**task)
    path = folder / f"{task.get('init_state', 3)}.mcap"
    with TraceWriter(path, made.run, made.task) as writer:
        for step in made.steps:
            writer.write_step(step)
        writer.close(Outcome("horizon", False, len(made.steps)))
    return path


def test_fingerprints_of_traces(tmp_path: Path) -> None:
    trace(tmp_path, init_state=1)
    trace(tmp_path, init_state=2, fault="black-image")
    written = write_fingerprints([str(tmp_path)], tmp_path / "made" / "scenes.json")
    assert written.rows == [("my_suite", "stack the cups", "agentview", "real", "1 init state")]
    assert len(written.warnings) == 1
    (reference,) = read_references(written.file)
    assert reference.states == ("1",)
    assert np.array_equal(reference.colours[0], fingerprint(episode().steps[0].frames["agentview"]))


def test_nothing_to_keep(tmp_path: Path) -> None:
    trace(tmp_path, fault="black-image")
    with pytest.raises(UserError, match="no scene could be kept"):
        write_fingerprints([str(tmp_path)], tmp_path / "scenes.json")


# For real, in a process of its own: what a second renderer leaves behind stays with the process.


@pytest.mark.simulator
@pytest.mark.torch
def test_a_second_environment_is_named(tmp_path: Path) -> None:
    run = Path(__file__).resolve().parents[1] / "fixtures" / "runs" / "evidence.yaml"
    text = run.read_text().replace("../tiny-openvla", str(run.parents[1] / "tiny-openvla"))
    (tmp_path / "run.yaml").write_text(text.replace("env:\n", "env:\n  horizon: 8\n"))
    command = [sys.executable, "-m", "vladoctor", "diagnose", "run.yaml", "--task", "0", "--episodes", "1"]
    done = subprocess.run(
        [*command, "--fault", "second-env", "--format", "json", "--out", "out"],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    headline = json.loads(done.stdout)["episodes"][0]["findings"][0]
    assert (headline["code"], headline["severity"]) == ("VD104", "stop")
