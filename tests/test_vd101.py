"""VD101 black-image: black, uniform and empty fire; a dark scene, a wall for a moment and a lively gradient do not."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rendered import LIBERO, Rendered, facts, model_image, picture, recorded, rendered, turned

from vladoctor.check import Abstention, Clear, Problem, Severity, Stage, Verdict
from vladoctor.checks.vd101_black_image import CHECK
from vladoctor.checks.vd201_image_orientation import CHECK as ORIENTATION
from vladoctor.records import Episode, Frame

SHOTS = rendered("agentview")
DARK = rendered("dark")
SKY = rendered("sky")[0].frame
BLACK = np.zeros_like(SKY)


def judge(episode: Episode, **limits: float) -> list[Verdict]:
    return list(CHECK.judge(facts(episode), {**CHECK.thresholds, **limits}))


def problem(episode: Episode) -> Problem:
    (verdict,) = judge(episode)
    assert isinstance(verdict, Problem)
    return verdict


def showing(frame: np.ndarray, shots: list[Rendered] = SHOTS) -> list[Rendered]:
    """The same picture at every step, while the robot moves as it did."""
    return [replace(shot, frame=frame) for shot in shots]


def colour(*values: int) -> np.ndarray:
    return np.full_like(SKY, values)


# Must fire.


def test_black_from_the_start() -> None:
    found = problem(recorded(showing(BLACK), numbers=range(-2, len(SHOTS) - 2)))
    assert (found.severity, found.stage) == (Severity.STOP, Stage.RENDER)
    assert (found.first_step, found.last_step) == (-2, len(SHOTS) - 3)
    assert "camera agentview are black in all 12 recorded frames, 99 % of the values at most 0 of 255" in found.message
    assert found.evidence["camera"] == "agentview"
    assert found.evidence["mean"] == 0.0


def test_black_from_a_later_step_on() -> None:
    found = problem(recorded(SHOTS[:7] + showing(BLACK, SHOTS[7:])))
    assert (found.severity, found.first_step, found.last_step) == (Severity.STOP, 7, 11)
    assert "from step 7 to the end (5 of 12 frames)" in found.message
    assert "in another thread" in found.remedy.replace("\n", " ")
    assert found.frames[0] == {"title": "raw agentview frame", "step": 7, "camera": "agentview"}


def test_one_black_frame() -> None:
    found = problem(recorded([*SHOTS[:5], *showing(BLACK, SHOTS[5:6]), *SHOTS[6:]]))
    assert (found.severity, found.first_step, found.last_step) == (Severity.STOP, 5, 5)
    assert "at step 5 (1 of 12 frames)" in found.message


def test_nearly_black_with_sensor_noise() -> None:
    noise = np.random.default_rng(0).integers(0, 9, SKY.shape).astype(np.uint8)
    assert "are black" in problem(recorded(showing(noise))).message


def test_hot_pixels_do_not_hide_black() -> None:
    frame = BLACK.copy()
    frame[::32, ::32] = 30
    found = problem(recorded(showing(frame)))
    assert found.evidence["seen"].startswith("black")
    assert found.evidence["maximum"] == 30


@pytest.mark.parametrize("values", [(255, 255, 255), (124, 116, 104), (178, 177, 36)])
def test_one_colour_all_over(values: tuple[int, int, int]) -> None:
    found = problem(recorded(showing(colour(*values))))
    assert (found.severity, found.stage) == (Severity.STOP, Stage.RENDER)
    assert "one colour all over" in found.message


def test_noise() -> None:
    rng = np.random.default_rng(0)
    shots = [replace(shot, frame=rng.integers(0, 256, SKY.shape).astype(np.uint8)) for shot in SHOTS]
    found = problem(recorded(SHOTS[:3] + shots[3:]))
    assert (found.severity, found.stage, found.first_step) == (Severity.STOP, Stage.RENDER, 3)
    assert "are noise from step 3 to the end" in found.message


@pytest.mark.parametrize("width", [17, 100, 131, 255])
def test_memory_that_nothing_was_drawn_into(width: int) -> None:
    """Machine words, pointers and text in bands, as buffers really come back."""
    rng = np.random.default_rng(width)
    words = np.tile(rng.integers(0, 2**31, width).astype("<u8").view(np.uint8), 128 * 128 * 3 // (8 * width) + 1)
    memory = np.where(np.arange(128 * 128 * 3) // 4096 % 2, words[: 128 * 128 * 3], rng.integers(0, 256, 128 * 128 * 3))
    found = problem(recorded(showing(memory.astype(np.uint8).reshape(128, 128, 3))))
    assert found.evidence["seen"].startswith("noise")


def test_sky_only_while_the_robot_moves() -> None:
    found = problem(recorded(showing(SKY)))
    assert (found.severity, found.stage) == (Severity.STOP, Stage.RENDER)
    assert "smooth gradient that does not change while the robot moves" in found.message
    assert found.evidence["std"] > 3


def test_every_camera_is_looked_at() -> None:
    wrist = rendered("wrist") * 3
    both = recorded(SHOTS)
    steps = [
        replace(step, frames={**step.frames, "robot0_eye_in_hand": picture(BLACK if step.number > 3 else other.frame)})
        for step, other in zip(both.steps, wrist, strict=True)
    ]
    profile = LIBERO.with_overrides({"image": {"cameras": None}})
    (found,) = CHECK.judge(facts(replace(both, steps=steps), profile), CHECK.thresholds)
    assert isinstance(found, Problem)
    assert (found.severity, found.first_step) == (Severity.STOP, 4)
    assert "camera robot0_eye_in_hand" in found.message
    spare = problem(replace(both, steps=steps))
    assert spare.severity is Severity.LOOK
    assert "uses another camera (agentview)" in spare.message


def test_cameras_that_are_black_together_make_one_finding() -> None:
    episode = recorded(SHOTS[:2] + showing(BLACK, SHOTS[2:]))
    steps = [
        replace(step, frames={**step.frames, "robot0_eye_in_hand": step.frames["agentview"]}) for step in episode.steps
    ]
    assert "cameras agentview and robot0_eye_in_hand are black" in problem(replace(episode, steps=steps)).message


@pytest.mark.parametrize(("value", "pixels"), [(0, (-2.1, -1.0)), (1, (-2.08, -0.99))])
def test_model_image_black_though_the_frame_is_fine(value: int, pixels: tuple[float, float]) -> None:
    stats = {
        "mean": [pixels[0]] * 3 + [pixels[1]] * 3,
        "min": [pixels[0]] * 3 + [-1.0] * 3,
        "max": [pixels[0]] * 3 + [pixels[1]] * 3,
    }
    images: list[np.ndarray | None] = [np.full((112, 112, 3), value, np.uint8)] * len(SHOTS)
    found = problem(recorded(SHOTS, images=images, stats=[stats] * len(SHOTS)))
    assert (found.severity, found.stage) == (Severity.STOP, Stage.IMAGE)
    assert "The model's image is black" in found.message
    assert found.frames[0]["model"]


def test_model_image_grey_from_a_step_on() -> None:
    """pixel_values of zero are the mean colour of ImageNet."""
    images: list[np.ndarray | None] = [model_image(shot.frame, turned("rot180")) for shot in SHOTS[:6]]
    images += [np.full((112, 112, 3), (124, 116, 104), np.uint8)] * 6
    found = problem(recorded(SHOTS, images=images))
    assert (found.stage, found.first_step, found.last_step) == (Stage.IMAGE, 6, 11)
    assert "RGB 124, 116, 10" in found.message


def test_black_frame_and_black_image_are_one_finding() -> None:
    found = problem(recorded(showing(BLACK)))
    assert found.stage is Stage.RENDER


def test_model_image_alone() -> None:
    episode = recorded(showing(BLACK))
    steps = [replace(step, frames={}) for step in episode.steps]
    assert "were not recorded" in problem(replace(episode, steps=steps)).message


# Must not fire.


def clear(episode: Episode) -> Clear:
    (verdict,) = judge(episode)
    assert isinstance(verdict, Clear)
    return verdict


def test_healthy_episode() -> None:
    assert "12 frames of agentview and 12 model images show something" in clear(recorded(SHOTS)).message


def test_lights_off_is_dark_not_black() -> None:
    assert clear(recorded(DARK)).evidence["darkest_mean"] < 60


@pytest.mark.parametrize("kind", ["agentview", "wrist", "dark"])
@pytest.mark.parametrize("brightness", [0.6, 1.0, 1.3])
def test_real_frames_pass_in_other_light(kind: str, brightness: float) -> None:
    shots = [replace(s, frame=np.clip(s.frame * brightness, 0, 255).astype(np.uint8)) for s in rendered(kind)]
    assert isinstance(clear(recorded(shots)), Clear)


@pytest.mark.parametrize("kind", ["agentview", "wrist", "dark"])
def test_sensor_noise_is_a_picture(kind: str) -> None:
    rng = np.random.default_rng(0)
    shots = [
        replace(shot, frame=np.clip(shot.frame + rng.normal(0, 12, SKY.shape), 0, 255).astype(np.uint8))
        for shot in rendered(kind)
    ]
    assert isinstance(clear(recorded(shots)), Clear)


def test_half_covered_lens() -> None:
    shots = [replace(shot, frame=np.where(np.arange(128)[:, None, None] < 90, 0, shot.frame)) for shot in SHOTS]
    assert isinstance(clear(recorded(shots)), Clear)


def test_gradient_that_changes_is_a_picture() -> None:
    """A wrist camera over a smooth wall."""
    shots = [replace(shot, frame=(SKY.astype(int) - 4 * index).astype(np.uint8)) for index, shot in enumerate(SHOTS)]
    verdicts = judge(recorded(shots))
    assert not any(isinstance(verdict, Problem) for verdict in verdicts)


def test_image_far_out_of_range_is_not_blank() -> None:
    """Un-normalised and cut to 0..255 for the recording, it looks white; the model saw something."""
    stats = {"mean": [300.0] * 6, "min": [-2.0] * 6, "max": [600.0] * 6}
    images: list[np.ndarray | None] = [np.full((112, 112, 3), 255, np.uint8)] * len(SHOTS)
    assert isinstance(clear(recorded(SHOTS, images=images, stats=[stats] * len(SHOTS))), Clear)


# A look at most.


def test_very_dark_is_a_look() -> None:
    found = problem(recorded([replace(shot, frame=(shot.frame * 0.12).astype(np.uint8)) for shot in SHOTS]))
    assert found.severity is Severity.LOOK
    assert "very dark" in found.message


def test_two_uniform_frames_are_a_look() -> None:
    found = problem(recorded([*SHOTS[:5], *showing(colour(200, 200, 200), SHOTS[5:7]), *SHOTS[7:]]))
    assert (found.severity, found.first_step, found.last_step) == (Severity.LOOK, 5, 6)


def test_black_before_the_first_query_only_is_a_look() -> None:
    episode = recorded(showing(BLACK, SHOTS[:2]) + SHOTS[2:], numbers=range(-2, len(SHOTS) - 2))
    assert problem(episode).severity is Severity.LOOK


# Must abstain.


def test_nothing_recorded() -> None:
    episode = recorded(SHOTS)
    steps = [replace(step, frames={}, query=None) for step in episode.steps]
    (verdict,) = judge(replace(episode, steps=steps))
    assert isinstance(verdict, Abstention)
    assert verdict.missing


def test_smooth_picture_of_a_robot_that_stands_still_or_is_unknown() -> None:
    still = [replace(shot, eef=SHOTS[0].eef) for shot in showing(SKY)]
    for episode in (recorded(still), recorded(showing(SKY), eef=False)):
        (verdict,) = judge(episode)
        assert isinstance(verdict, Abstention)
        assert not verdict.missing
        assert "smooth surface" in verdict.reason


def test_extremes_that_were_not_measured() -> None:
    episode = recorded(SHOTS)
    steps = [
        replace(step, frames={"agentview": Frame((128, 128), step.frames["agentview"].load_thumbnail)})
        for step in episode.steps
    ]
    assert isinstance(clear(replace(episode, steps=steps)), Clear)


@pytest.mark.parametrize("frame", [BLACK, colour(255, 255, 255), SKY], ids=["black", "white", "sky"])
def test_orientation_is_silent_where_this_fires(frame: np.ndarray) -> None:
    (verdict,) = ORIENTATION.judge(facts(recorded(showing(frame))), ORIENTATION.thresholds)
    assert isinstance(verdict, Abstention)


# The faults do what they say.


class Env:
    """A stand-in environment: numbers its observations."""

    def __init__(self) -> None:
        self.taken = 0

    def observation(self) -> dict[str, Any]:
        return {"agentview_image": SHOTS[0].frame, "robot0_eef_pos": np.ones(3)}

    def set_init_state(self, state: Any) -> dict[str, Any]:
        self.taken = 0
        return self.observation()

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, dict[str, Any]]:
        self.taken += 1
        return self.observation(), 0.0, False, {}


@pytest.mark.parametrize(("name", "first"), [("black-image", -10), ("black-image-late", 30)])
def test_black_faults(name: str, first: int) -> None:
    loop: Any = SimpleNamespace(env=Env(), settle_steps=10)
    fault = next(fault for fault in CHECK.faults if fault.name == name)
    assert fault.apply is not None
    fault.apply(loop)
    for _ in range(2):
        before = {-10: loop.env.set_init_state(None)}
        before.update({taken - 10: loop.env.step(None)[0] for taken in range(1, 50)})
        black = [step for step, obs in before.items() if not obs["agentview_image"].any()]
        assert black == [step for step in before if step >= first]
        assert all(obs["robot0_eef_pos"].any() for obs in before.values())


@pytest.mark.simulator
def test_render_thread_fault_really_draws_nothing(libero_env: Any) -> None:
    """Zeros or noise: what the buffer held before. Either is found."""
    from vladoctor.adapters import libero

    env, task = libero_env()
    loop: Any = SimpleNamespace(env=env, settle_steps=2)
    fault = next(fault for fault in CHECK.faults if fault.name == "render-thread")
    assert fault.apply is not None
    before = env.step
    fault.apply(loop)
    try:
        frames = [libero.reset_to(env, task.init_states[0])["agentview_image"]]
        frames += [env.step(libero.WAIT_ACTION)[0]["agentview_image"] for _ in range(5)]
    finally:
        env.step = before
    found = judge(recorded([Rendered(frame, 0, (0.0, 0.0, 1.0)) for frame in frames], asked=False))
    # What the buffer held may change from noise to black on the way, which is two problems; the first begins at once.
    assert min(verdict.first_step for verdict in found if isinstance(verdict, Problem)) == 1
    assert env.step(libero.WAIT_ACTION)[0]["agentview_image"].mean() > 50
