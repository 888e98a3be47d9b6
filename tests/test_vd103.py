"""VD103 wrong-camera: swapped, doubled, empty, missing, misnamed cameras; other names and slots are left alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rendered import LIBERO, RIGHT, facts, model_image, picture, recorded, rendered

from vladoctor.check import Abstention, Clear, Problem, Severity, Stage, Verdict
from vladoctor.checks.vd103_wrong_camera import CHECK
from vladoctor.profiles import Profile, load_profile
from vladoctor.records import Episode, Frame

MAIN, WRIST = "agentview", "robot0_eye_in_hand"
SHOTS = rendered("agentview")
HAND = (rendered("wrist") * 12)[:12]
OFT = load_profile("openvla-oft-libero")
UNKNOWN = load_profile("unknown")
BLACK = np.zeros((64, 64, 3), np.uint8)


def judge(episode: Episode, profile: Profile = OFT) -> list[Verdict]:
    return list(CHECK.judge(facts(episode, profile), CHECK.thresholds))  # type: ignore[misc]


def problem(episode: Episode, profile: Profile = OFT) -> Problem:
    (verdict,) = judge(episode, profile)
    assert isinstance(verdict, Problem)
    return verdict


def frame_of(camera: str, number: int) -> np.ndarray:
    return (SHOTS if camera == MAIN else HAND)[number].frame


def made(
    slots: Mapping[str, str], *, names: Mapping[str, str] | None = None, wrong_at: tuple[int, ...] | None = None
) -> Episode:
    """Two cameras, and a model that is given slot -> camera ("black" for zeros).

    Args:
        names: camera -> what its frames are called.
        wrong_at: steps at which that is so; at others slots are filled in the right order.
    """
    episode = recorded(SHOTS)
    called = names or {MAIN: MAIN, WRIST: WRIST}
    steps = []
    for step in episode.steps:
        right = dict(zip(slots, (MAIN, WRIST), strict=False))
        chosen = slots if wrong_at is None or step.number in wrong_at else right
        given: dict[str, Frame] = {
            slot: picture(BLACK if camera == "black" else model_image(frame_of(camera, step.number), RIGHT))
            for slot, camera in chosen.items()
        }
        assert step.query is not None
        more = {slot: image for slot, image in given.items() if slot}
        query = replace(step.query, image=given.get(""), more_images=more)
        frames = {called[camera]: picture(frame_of(camera, step.number)) for camera in (MAIN, WRIST)}
        steps.append(replace(step, query=query, frames=frames))
    return replace(episode, steps=steps)


# Must fire.


@pytest.mark.parametrize("profile", [LIBERO, OFT])
def test_the_wrist_camera_in_the_place_of_the_main_one(profile: Profile) -> None:
    found = problem(made({"": WRIST}), profile)
    assert (found.severity, found.stage, found.first_step, found.last_step) == (Severity.STOP, Stage.OBSERVE, 0, 11)
    assert "The model's image is the frame of robot0_eye_in_hand" in found.message
    assert 'obs["agentview_image"]' in found.remedy
    assert (found.evidence["expected"], found.evidence["seen"]) == (MAIN, WRIST)


def test_exchanged() -> None:
    found = problem(made({"": WRIST, "wrist_image": MAIN}))
    assert "(it should be agentview)" in found.message
    assert "(it should be robot0_eye_in_hand)" in found.message


def test_one_camera_in_two_slots() -> None:
    found = problem(made({"": MAIN, "image1": MAIN}))
    assert found.message.startswith("The image image1 is the frame of agentview")
    assert "The image that comes first shows the same camera" in found.message


def test_only_now_and_then() -> None:
    found = problem(made({"": WRIST, "wrist_image": MAIN}, wrong_at=(3, 4, 9)))
    assert "in 3 of 12 queries" in found.message
    assert (found.first_step, found.last_step) == (3, 9)


def test_a_slot_that_is_called_wrist_needs_no_profile() -> None:
    found = problem(made({"": MAIN, "observation/wrist_image": MAIN}), UNKNOWN)
    assert (found.severity, found.evidence["expected"]) == (Severity.FIX, WRIST)
    assert "its name says that it is robot0_eye_in_hand's" in found.message


def test_an_empty_slot() -> None:
    found = problem(made({"": MAIN, "wrist_image": "black"}))
    assert (found.severity, found.stage) == (Severity.FIX, Stage.IMAGE)
    assert "although the frames of robot0_eye_in_hand are there" in found.message


def test_a_camera_that_is_missing_is_a_look() -> None:
    found = problem(made({"": MAIN}))
    assert found.severity is Severity.LOOK
    assert "given one image; this checkpoint was trained on agentview and robot0_eye_in_hand" in found.message


def test_a_camera_too_many_is_a_look() -> None:
    found = problem(made({"": MAIN, "image1": WRIST}), LIBERO)
    assert found.severity is Severity.LOOK
    assert "was trained on agentview only" in found.message


def test_names_that_are_exchanged() -> None:
    """Everything moves in what is called agentview, and only the arm in what is called the hand's camera."""
    episode = made({"": MAIN, "wrist_image": WRIST}, names={MAIN: WRIST, WRIST: MAIN})
    steps = [
        replace(
            step,
            frames={MAIN: picture(np.roll(HAND[0].frame, 17 * step.number, axis=1)), WRIST: step.frames[WRIST]},
        )
        for step in episode.steps
    ]
    found = problem(replace(episode, steps=steps, task={"suite": "libero_object"}))
    assert (found.severity, found.stage) == (Severity.STOP, Stage.RENDER)
    assert "they are exchanged" in found.message


def test_two_names_for_one_picture() -> None:
    episode = made({"": MAIN, "wrist_image": WRIST})
    steps = [replace(step, frames={MAIN: step.frames[MAIN], WRIST: step.frames[MAIN]}) for step in episode.steps]
    assert "are one and the same picture at every step" in problem(replace(episode, steps=steps)).message


# Must not fire.


@pytest.mark.parametrize(
    ("slots", "profile"),
    [
        ({"": MAIN}, LIBERO),
        ({"": MAIN, "wrist_image": WRIST}, OFT),
        ({"": MAIN, "image1": WRIST}, OFT),
        ({"": MAIN, "model/left_wrist_0_rgb": WRIST, "model/right_wrist_0_rgb": "black"}, OFT),
        ({"": MAIN, "observation/wrist_image": WRIST}, UNKNOWN),
    ],
)
def test_cameras_in_their_places(slots: dict[str, str], profile: Profile) -> None:
    (verdict,) = judge(made(slots), profile)
    assert isinstance(verdict, Clear)


def test_one_stray_query() -> None:
    (verdict,) = judge(made({"": WRIST, "wrist_image": MAIN}, wrong_at=(5,)))
    assert isinstance(verdict, Clear)


# Must abstain.


def test_cameras_that_go_by_other_names() -> None:
    (verdict,) = judge(made({"": WRIST}, names={MAIN: "front", WRIST: "side"}))
    assert isinstance(verdict, Abstention)
    assert "go by other names here: front, side" in verdict.reason


def test_a_profile_without_cameras() -> None:
    (verdict,) = judge(made({"": WRIST}), UNKNOWN)
    assert isinstance(verdict, Abstention)
    assert "names no cameras" in verdict.reason


def test_an_image_that_fits_nothing() -> None:
    noise: list[np.ndarray | None] = [np.random.default_rng(0).integers(0, 255, (112, 112, 3), dtype=np.uint8)]
    (verdict,) = judge(recorded(SHOTS, images=noise * 12), LIBERO)
    assert isinstance(verdict, Abstention)
    assert "fits no frame" in verdict.reason


def test_nothing_recorded() -> None:
    episode = recorded(SHOTS)
    for steps in ([replace(step, frames={}) for step in episode.steps], []):
        (verdict,) = judge(replace(episode, steps=steps))
        assert isinstance(verdict, Abstention)
        assert verdict.missing


# The faults.


def test_what_an_alias_returns() -> None:
    class Env:
        env = SimpleNamespace(camera_names=[MAIN, WRIST])

        def set_init_state(self, state: Any) -> dict[str, Any]:
            return {f"{MAIN}_image": 1, f"{WRIST}_image": 2, "robot0_eef_pos": 3}

        def step(self, action: Any) -> tuple[dict[str, Any], float]:
            return Env().set_init_state(None), 0.0

    loop: Any = SimpleNamespace(env=Env(), camera=MAIN, act=lambda obs: obs)
    by_name = {fault.name: fault for fault in CHECK.faults}
    apply = by_name["camera-alias"].apply
    assert apply is not None
    apply(loop)
    assert loop.env.step(None)[0] == {f"{WRIST}_image": 1, f"{MAIN}_image": 2, "robot0_eef_pos": 3}
    swap = by_name["camera-swapped"].apply
    assert swap is not None
    swap(loop)
    assert loop.act(Env().set_init_state(None))[f"{MAIN}_image"] == 2
