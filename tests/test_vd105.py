"""VD105 stale-observation: images of earlier steps, and how they came about; fresh ones and frames at rest do not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rendered import LIBERO, RIGHT, Rendered, facts, model_image, picture, recorded, rendered, turned

from vladoctor.check import Abstention, Clear, Problem, Severity, Stage, Verdict
from vladoctor.checks.vd105_stale_observation import CHECK
from vladoctor.facts.lags import image_ages
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


def given(choose: Callable[[int], int], shots: list[Rendered] = SHOTS) -> Episode:
    """A loop that gives the model the frame of another step."""
    return recorded(shots, images=[model_image(shots[choose(number)].frame, RIGHT) for number in range(len(shots))])


# Must fire.


@pytest.mark.parametrize("delay", [1, 2, 5])
@pytest.mark.parametrize("profile", [LIBERO, UNKNOWN])
def test_always_so_many_steps_late(delay: int, profile: Profile) -> None:
    found = problem(given(lambda number: max(0, number - delay)), profile)
    assert (found.severity, found.stage, found.first_step) == (Severity.FIX, Stage.OBSERVE, 1)
    assert f"it is always {delay} step{'s' if delay > 1 else ''} late" in found.message
    assert found.evidence["stale_queries"].startswith("11 of 1")
    assert "next_obs" in found.remedy


def test_the_first_frame_for_ever() -> None:
    found = problem(given(lambda _: 0))
    assert (found.severity, found.first_step, found.last_step) == (Severity.STOP, 1, 11)
    assert "it is always that of step 0" in found.message
    assert "closure" in found.remedy


def test_a_buffer_that_is_filled_every_fourth_step() -> None:
    found = problem(given(lambda number: number // 4 * 4))
    assert "it changes only at every 4th query" in found.message
    assert found.evidence["stale_queries"].startswith("9 of")


def test_now_and_then() -> None:
    found = problem(given(lambda number: number - 2 if number in (4, 7, 8) else number))
    assert (found.severity, found.first_step, found.last_step) == (Severity.FIX, 4, 8)
    assert "it is up to 2 steps old" in found.message


def test_another_image_of_the_query() -> None:
    episode, late = recorded(SHOTS), given(lambda number: max(0, number - 1))
    wrist = [replace(shot, frame=np.roll(shot.frame, 40, axis=1)) for shot in SHOTS]
    steps = []
    for step, other, shot in zip(episode.steps, late.steps, wrist, strict=True):
        before = wrist[max(0, step.number - 1)]
        assert step.query is not None
        query = replace(step.query, more_images={"wrist_image": picture(model_image(before.frame, RIGHT))})
        steps.append(replace(step, query=query, frames={**step.frames, "robot0_eye_in_hand": picture(shot.frame)}))
        assert other.query is not None
    found = problem(replace(episode, steps=steps))
    assert found.message.startswith("The image wrist_image is not the robot0_eye_in_hand frame of its own step")


def test_asked_ahead_of_time_is_a_look() -> None:
    episode = given(lambda number: max(0, number - 2))
    rows = ((0.0,) * 7,) * 8
    steps = [replace(step, query=replace(step.query, chunk=rows)) for step in episode.steps if step.query]
    found = problem(replace(episode, steps=steps))
    assert found.severity is Severity.LOOK
    assert "that may be meant" in found.message


def test_the_frame_of_another_episode() -> None:
    """In the first query only: frames that no later one of the episode resembles."""
    images = [model_image(shot.frame, RIGHT) for shot in SHOTS]
    other = model_image(np.roll(SHOTS[-1].frame, 6, axis=1), RIGHT)
    found = problem(recorded(SHOTS, images=[other, *images[1:]]))
    assert (found.severity, found.first_step, found.last_step) == (Severity.LOOK, 0, 0)
    assert "another episode" in found.message


# Must not fire.


@pytest.mark.parametrize("kind", ["agentview", "wrist", "dark"])
@pytest.mark.parametrize("element", ["rot180", "identity", "transpose"])
def test_fresh_images(kind: str, element: str) -> None:
    (verdict,) = judge(recorded(rendered(kind), orient=turned(element)))
    assert isinstance(verdict, Clear)


@pytest.mark.parametrize("gain", [0.6, 1.3])
def test_brightness_and_noise_are_no_age(gain: float) -> None:
    rng = np.random.default_rng(0)
    images = [
        np.clip(model_image(shot.frame, RIGHT) * gain + rng.normal(0, 8, (112, 112, 3)), 0, 255).astype(np.uint8)
        for shot in SHOTS
    ]
    assert not any(isinstance(verdict, Problem) for verdict in judge(recorded(SHOTS, images=list(images))))


def test_a_history_with_the_newest_frame_in_it() -> None:
    episode = recorded(SHOTS)
    steps = []
    for step in episode.steps:
        older = picture(model_image(SHOTS[max(0, step.number - 3)].frame, RIGHT))
        assert step.query is not None
        steps.append(replace(step, query=replace(step.query, image=older, more_images={"image1": step.query.image})))
    (verdict,) = judge(replace(episode, steps=steps))
    assert isinstance(verdict, Clear)


def test_one_stray_image() -> None:
    (verdict,) = judge(given(lambda number: number - 2 if number == 5 else number))
    assert isinstance(verdict, Clear)
    assert "10 of 11 queries" in verdict.message


# Must abstain.


def test_frames_at_rest() -> None:
    (verdict,) = judge(recorded([SHOTS[0]] * 8))
    assert isinstance(verdict, Abstention)
    assert "hardly change" in verdict.reason


def test_an_image_of_something_else() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (112, 112, 3), dtype=np.uint8)
    (verdict,) = judge(recorded(SHOTS, images=[noise] * len(SHOTS)))
    assert isinstance(verdict, Abstention)
    assert not verdict.missing


@pytest.mark.parametrize("degrees", [2, 4])
def test_images_that_lie_badly_on_every_frame(degrees: int) -> None:
    turn = [
        Image.fromarray(model_image(shot.frame, RIGHT)).rotate(degrees, Image.Resampling.BILINEAR) for shot in SHOTS
    ]
    (verdict,) = judge(recorded(SHOTS, images=[np.asarray(image) for image in turn]))
    assert isinstance(verdict, Abstention)


def test_nothing_recorded() -> None:
    episode = recorded(SHOTS)
    for steps in (
        [replace(step, frames={}) for step in episode.steps],
        [replace(step, query=None) for step in episode.steps],
        [],
    ):
        (verdict,) = judge(replace(episode, steps=steps))
        assert isinstance(verdict, Abstention)
        assert verdict.missing


# The measurement and the faults.


def test_what_is_measured() -> None:
    (slot,) = image_ages(facts(given(lambda number: max(0, number - 3))))
    assert slot.camera == "agentview"
    late = slot.ages[7]
    assert (late.first, late.last, late.frames, late.stale) == (4, 4, 3, True)
    assert late.own > 5 * late.residual


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("observation-stale", [0, 0, 1, 2, 3, 4, 5, 6, 7]),
        ("observation-first", [0] * 9),
        ("obs-every-4", [0, 0, 0, 0, 4, 4, 4, 4, 8]),
    ],
)
def test_what_the_faults_give(name: str, seen: list[int]) -> None:
    env = SimpleNamespace(set_init_state=lambda state: state)
    loop: Any = SimpleNamespace(env=env, act=lambda obs: obs)
    (fault,) = (fault for fault in CHECK.faults if fault.name == name)
    assert fault.apply is not None
    fault.apply(loop)
    for _ in range(2):
        loop.env.set_init_state(None)
        assert [loop.act(number) for number in range(9)] == seen
