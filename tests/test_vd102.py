"""VD102 frozen-image: frames that stay or come back while the robot moves; a slow camera and a robot at rest do not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rendered import LIBERO, Rendered, facts, recorded, rendered

from vladoctor.check import Abstention, Clear, Problem, Severity, Stage, Verdict
from vladoctor.checks.vd102_frozen_image import CHECK
from vladoctor.profiles import Profile, load_profile
from vladoctor.records import Episode

SHOTS = rendered("agentview")
UNKNOWN = load_profile("unknown")


def judge(episode: Episode, profile: Profile = LIBERO) -> list[Verdict]:
    return list(CHECK.judge(facts(episode, profile), CHECK.thresholds))  # type: ignore[misc]


def problem(episode: Episode, profile: Profile = LIBERO) -> Problem:
    (verdict,) = judge(episode, profile)
    assert isinstance(verdict, Problem)
    return verdict


def showing(*places: int) -> list[Rendered]:
    """The frames at some places, while the robot moves as it did."""
    return [replace(shot, frame=SHOTS[place].frame) for shot, place in zip(SHOTS, places, strict=False)]


# Must fire.


def test_one_frame_for_ever() -> None:
    found = problem(recorded(showing(*[0] * 12)))
    assert (found.severity, found.stage, found.first_step, found.last_step) == (Severity.STOP, Stage.RENDER, 1, 11)
    assert "one and the same picture from step 0 to step 11" in found.message
    assert found.evidence["seen"] == "11 of 12 frames are an earlier one"


def test_frozen_from_a_step_on() -> None:
    found = problem(recorded(showing(0, 1, 2, 3, 4, 5, 5, 5, 5, 5, 5, 5)))
    assert (found.first_step, found.severity) == (6, Severity.STOP)


def test_old_frames_that_come_back() -> None:
    found = problem(recorded(showing(0, 1, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3)))
    assert found.evidence["come_back"]
    assert "2 old pictures come again and again" in found.message
    assert "one and the same thread" in found.remedy


def test_a_camera_that_is_sampled_too_seldom() -> None:
    found = problem(recorded(showing(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8)))
    assert "change only every 4 steps or so" in found.message
    assert "sampling rate" in found.remedy


def test_any_state_will_do() -> None:
    episode = recorded(showing(*[0] * 12), eef=False)
    steps = [replace(step, proprio={"agent_pos": (0.1 * step.number, 1.0)}) for step in episode.steps]
    assert "1.1 in agent_pos" in problem(replace(episode, steps=steps, task={}), UNKNOWN).message


def test_cameras_that_stand_still_together_make_one_finding() -> None:
    episode = recorded(showing(*[0] * 12))
    steps = [replace(step, frames={**step.frames, "wrist": step.frames["agentview"]}) for step in episode.steps]
    assert "cameras agentview and wrist" in problem(replace(episode, steps=steps)).message


def test_a_camera_that_the_policy_does_not_use_is_a_look() -> None:
    episode = recorded(SHOTS)
    still = recorded(showing(*[0] * 12))
    steps = [
        replace(step, frames={**step.frames, "birdview": other.frames["agentview"]})
        for step, other in zip(episode.steps, still.steps, strict=True)
    ]
    found = problem(replace(episode, steps=steps))
    assert (found.severity, found.evidence["camera"]) == (Severity.LOOK, "birdview")


# Must not fire.


def test_a_healthy_episode() -> None:
    (verdict,) = judge(recorded(SHOTS))
    assert isinstance(verdict, Clear)
    assert "12 frames of agentview: no old ones among them" in verdict.message


@pytest.mark.parametrize("places", [(0, 0, 2, 2, 4, 4, 6, 6, 8, 8, 10, 10), (0, 0, 0, 3, 3, 3, 6, 6, 6, 9, 9, 9)])
def test_a_camera_of_half_or_a_third_of_the_rate(places: tuple[int, ...]) -> None:
    (verdict,) = judge(recorded(showing(*places)))
    assert isinstance(verdict, Clear)


def test_one_dropped_frame() -> None:
    (verdict,) = judge(recorded(showing(0, 1, 2, 2, 4, 5, 6, 7, 8, 9, 10, 11)))
    assert isinstance(verdict, Clear)


# Must abstain.


def test_a_robot_at_rest() -> None:
    (verdict,) = judge(recorded([replace(shot, frame=SHOTS[0].frame, eef=SHOTS[0].eef) for shot in SHOTS]))
    assert isinstance(verdict, Abstention)
    assert "hardly moved" in verdict.reason


def test_frames_that_repeat_and_no_state() -> None:
    (verdict,) = judge(recorded(showing(*[0] * 12), eef=False))
    assert isinstance(verdict, Abstention)
    (verdict,) = judge(recorded(SHOTS, eef=False))
    assert isinstance(verdict, Clear)


def test_no_frames() -> None:
    episode = recorded(SHOTS)
    (verdict,) = judge(replace(episode, steps=[replace(step, frames={}) for step in episode.steps]))
    assert isinstance(verdict, Abstention)
    assert verdict.missing


# The faults do what they say.


class Env:
    """A stand-in environment: numbers its observations."""

    def __init__(self) -> None:
        self.taken = 0

    def observation(self) -> dict[str, Any]:
        return {"agentview_image": np.full((4, 4, 3), self.taken, np.uint8), "robot0_eef_pos": np.ones(3) * self.taken}

    def set_init_state(self, state: Any) -> dict[str, Any]:
        self.taken = 0
        return self.observation()

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, dict[str, Any]]:
        self.taken += 1
        return self.observation(), 0.0, False, {}


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("frozen-render", [0, *[1] * 30]),
        ("frozen-render-late", [*range(21), *[20] * 10]),
        ("frozen-old", [*range(20), 16, 17, 18, 19, 16, 17, 18, 19, 16, 17, 18]),
    ],
)
def test_what_the_faults_return(name: str, seen: list[int]) -> None:
    loop: Any = SimpleNamespace(env=Env(), settle_steps=10)
    (fault,) = (fault for fault in CHECK.faults if fault.name == name)
    assert fault.apply is not None
    fault.apply(loop)
    for _ in range(2):
        taken = [loop.env.set_init_state(None), *(loop.env.step(None)[0] for _ in range(30))]
        frames = [int(obs["agentview_image"][0, 0, 0]) for obs in taken]
        assert frames == seen
        assert [obs["robot0_eef_pos"][0] for obs in taken] == list(range(31))


@pytest.mark.simulator
@pytest.mark.torch
@pytest.mark.parametrize(("name", "first"), [("frozen-render-late", 11), ("frozen-old", 10)])
def test_frames_that_stop_are_named_where_they_stop(name: str, first: int, tmp_path: Path) -> None:
    from vladoctor.runspec import load_run
    from vladoctor.session import run_session

    run = Path(__file__).resolve().parents[1] / "fixtures" / "runs" / "evidence.yaml"
    spec = load_run(run).with_options(tasks=("0",), episodes=1, horizon=24)
    result = run_session(spec, fault=name, out=tmp_path)
    headline = result.diagnoses[0].headline
    assert headline is not None
    assert (headline.code, headline.first_step) == ("VD102", first)
