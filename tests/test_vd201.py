"""VD201 image-orientation: what the loop does to the frame, and which way up the frame comes in the first place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rendered import LIBERO, RIGHT, facts, model_image, picture, recorded, rendered, turned

from vladoctor.check import Abstention, Clear, Problem, Severity, Stage, Verdict
from vladoctor.checks.vd201_image_orientation import CHECK
from vladoctor.facts.registration import ELEMENTS, IDIOMS, apply
from vladoctor.profiles import Profile, load_profile
from vladoctor.records import Episode

SHOTS = rendered("agentview")
WRONG = [element for element in ELEMENTS if element != "rot180"]


def judge(episode: Episode, profile: Profile = LIBERO, **limits: float) -> Verdict:
    (verdict,) = CHECK.judge(facts(episode, profile), {**CHECK.thresholds, **limits})
    return verdict


def problem(episode: Episode, profile: Profile = LIBERO) -> Problem:
    verdict = judge(episode, profile)
    assert isinstance(verdict, Problem)
    return verdict


def trained_on(element: str | None) -> Profile:
    return LIBERO.with_overrides({"image": {"orientation": element}})


# Must fire.


@pytest.mark.parametrize("geometry", [True, False], ids=["with camera geometry", "without"])
@pytest.mark.parametrize("element", WRONG)
def test_wrong_orientation_is_named(element: str, geometry: bool) -> None:
    found = problem(recorded(SHOTS, orient=turned(element), geometry=geometry))
    assert (found.severity, found.stage) == (Severity.STOP, Stage.IMAGE)
    assert (found.first_step, found.last_step) == (0, 11)
    assert (found.evidence["seen"], found.evidence["expected"]) == (element, "rot180")
    assert found.evidence["crop_scale"] == pytest.approx(0.9487, abs=0.01)
    assert found.evidence["score"] > found.evidence["runner_up_score"] + 0.04
    assert "a rotation by 180 degrees" in found.message
    assert 'obs["agentview_image"][::-1, ::-1]' in found.remedy
    assert [frame.get("transform", "") for frame in found.frames] == ["", "", "rot180"]


@pytest.mark.parametrize(
    ("element", "done", "effect"),
    [
        ("flip-vertical", "after a vertical flip (top and bottom exchanged) only", "mirrored left to right"),
        ("flip-horizontal", "after a horizontal flip (left and right exchanged) only", "mirrored top to bottom"),
        ("identity", "frame as it is", "upside down, turned by 180 degrees"),
    ],
)
def test_message_says_what_was_done_and_what_follows(element: str, done: str, effect: str) -> None:
    message = problem(recorded(SHOTS, orient=turned(element))).message
    assert message.startswith("The model's image is the raw agentview frame")
    assert done in message
    assert f"compared with its training the scene is {effect}." in message


@pytest.mark.parametrize("expected", WRONG)
def test_other_checkpoints_expect_other_things(expected: str) -> None:
    assert isinstance(judge(recorded(SHOTS, orient=turned(expected)), trained_on(expected)), Clear)
    found = problem(recorded(SHOTS), trained_on(expected))
    assert (found.evidence["seen"], found.evidence["expected"]) == ("rot180", expected)
    assert IDIOMS[expected].replace("frame", 'obs["agentview_image"]') in found.remedy


def test_change_in_mid_episode() -> None:
    found = problem(recorded(SHOTS, orient=[RIGHT] * 7 + [turned("flip-vertical")] * 5))
    assert (found.first_step, found.last_step) == (7, 11)
    assert found.message.startswith("From step 7 on: the model's image")
    assert found.evidence["wrong_queries"] == "5 of 12 that could be decided"


def test_random_flip_left_on() -> None:
    orient = [turned("flip-vertical") if step in (2, 5, 6, 9) else RIGHT for step in range(12)]
    found = problem(recorded(SHOTS, orient=orient))
    assert found.message.startswith("In 4 of 12 queries, the first at step 2:")
    assert "random flip" in found.remedy


def test_single_query() -> None:
    assert problem(recorded(SHOTS[:1], orient=turned("identity"))).first_step == 0


def test_rotated_twice() -> None:
    found = problem(recorded(SHOTS, orient=lambda frame: apply("rot180", apply("rot180", frame))))
    assert found.evidence["seen"] == "identity"
    assert "undo each other" in found.remedy


def test_swapped_channels_and_no_crop_do_not_hide_it() -> None:
    images = [np.ascontiguousarray(apply("flip-vertical", shot.frame)[..., ::-1]) for shot in SHOTS]
    assert problem(recorded(SHOTS, images=images)).evidence["seen"] == "flip-vertical"


def test_frames_that_come_upright_and_are_rotated_still() -> None:
    """robosuite's IMAGE_CONVENTION is "opencv": the registration alone is what the profile wants."""
    found = problem(recorded(SHOTS, raw=turned("flip-vertical")))
    assert (found.severity, found.stage, found.first_step) == (Severity.STOP, Stage.OBSERVE, 0)
    assert (found.evidence["seen"], found.evidence["expected"]) == ("rot180", "flip-horizontal")
    assert found.message == (
        "The raw agentview frames come upright and not mirrored, which is not how the environment is shipped, and a "
        "rotation by 180 degrees is applied as if they came as usual, so compared with its training the scene is "
        "mirrored top to bottom."
    )
    assert "IMAGE_CONVENTION" in found.remedy
    assert 'obs["agentview_image"][:, ::-1]' in found.remedy


def test_frames_that_come_upright_and_are_flipped_the_wrong_way() -> None:
    found = problem(recorded(SHOTS, raw=turned("flip-vertical"), orient=turned("flip-vertical")))
    assert found.stage is Stage.IMAGE
    assert (found.evidence["seen"], found.evidence["expected"]) == ("flip-vertical", "flip-horizontal")
    assert "as raw frames come upright and not mirrored here" in found.message


def test_frames_that_are_rotated_in_a_wrapper_and_again_in_the_loop() -> None:
    found = problem(recorded(SHOTS, raw=RIGHT))
    assert found.stage is Stage.OBSERVE
    assert found.evidence["expected"] == "identity"
    assert "come mirrored left to right" in found.message


# Must not fire.


@pytest.mark.parametrize("kind", ["agentview", "dark"])
def test_reference_loop(kind: str) -> None:
    verdict = judge(recorded(rendered(kind)))
    assert isinstance(verdict, Clear)
    assert "after a rotation by 180 degrees, as in training" in verdict.message


def test_upright_frames_that_are_mirrored_are_right() -> None:
    """The other way round: relative to the raw frame it is not what the profile says, and yet the model sees it."""
    verdict = judge(recorded(SHOTS, raw=turned("flip-vertical"), orient=turned("flip-horizontal")))
    assert isinstance(verdict, Clear)
    assert "which the way the raw frames come calls for" in verdict.message


def test_one_stray_registration_accuses_nobody() -> None:
    orient = [turned("flip-vertical") if step == 3 else RIGHT for step in range(12)]
    assert isinstance(judge(recorded(SHOTS, orient=orient)), Clear)


def test_other_environments_are_not_asked_about_their_raw_frames() -> None:
    """What their raw frames usually are is not known."""
    assert isinstance(judge(recorded(SHOTS, raw=turned("flip-vertical"), suite="simpler")), Clear)


# Must abstain.


def abstains(episode: Episode, reason: str, profile: Profile = LIBERO, missing: bool = False) -> None:
    verdict = judge(episode, profile)
    assert isinstance(verdict, Abstention)
    assert reason in verdict.reason
    assert verdict.missing is missing


def test_without_expectation() -> None:
    abstains(recorded(SHOTS, orient=turned("identity")), "names no orientation", load_profile("openvla"))


def test_without_images_or_frames() -> None:
    episode = recorded(SHOTS)
    abstains(recorded(SHOTS, asked=False), "not both recorded", missing=True)
    steps = [replace(step, frames={}) for step in episode.steps]
    abstains(replace(episode, steps=steps), "not both recorded", missing=True)


@pytest.mark.parametrize("element", ELEMENTS)
def test_symmetric_scene(element: str) -> None:
    even = [
        replace(shot, frame=((shot.frame.astype(int) + shot.frame[:, ::-1]) // 2).astype(np.uint8)) for shot in SHOTS
    ]
    abstains(recorded(even, orient=turned(element)), "look alike under")


@pytest.mark.parametrize("frame", [np.zeros((128, 128, 3), np.uint8), rendered("sky")[0].frame], ids=["black", "sky"])
def test_empty_pictures(frame: np.ndarray) -> None:
    shots = [replace(shot, frame=frame) for shot in SHOTS]
    abstains(recorded(shots, orient=turned("identity")), "show too little")


def test_another_cameras_image() -> None:
    others: Sequence[np.ndarray] = [model_image(shot.frame, RIGHT) for shot in rendered("wrist") * 3]
    abstains(recorded(SHOTS, images=others), "fits no frame")


def test_undecided_steps_do_not_count() -> None:
    black = np.zeros((128, 128, 3), np.uint8)
    shots = [replace(shot, frame=black) if index > 5 else shot for index, shot in enumerate(SHOTS)]
    verdict = judge(recorded(shots))
    assert isinstance(verdict, Clear)
    assert "(6 queries decided)" in verdict.message


# The faults do what they say.


def fault(name: str) -> Any:
    return next(fault for fault in CHECK.faults if fault.name == name)


@pytest.mark.parametrize(
    ("name", "element"),
    [
        ("flip-vertical", "flip-vertical"),
        ("flip-horizontal", "flip-horizontal"),
        ("no-rotation", "identity"),
        ("transpose", "transpose"),
    ],
)
def test_orientation_faults(name: str, element: str) -> None:
    loop: Any = SimpleNamespace(stages=SimpleNamespace(orient=None))
    fault(name).apply(loop)
    assert np.array_equal(loop.stages.orient(SHOTS[0].frame), apply(element, SHOTS[0].frame))
    assert problem(recorded(SHOTS, orient=loop.stages.orient)).evidence["seen"] == element


@pytest.mark.simulator
@pytest.mark.slow
def test_opencv_convention_fault_in_the_simulator(libero_env: Any) -> None:
    """The raw view is found from a real episode, healthy and with the fault; it acts when the env is made."""
    import robosuite.macros as macros

    from vladoctor.adapters import libero
    from vladoctor.facts.camera import find_view
    from vladoctor.fixtures.build import expert
    from vladoctor.records import Step
    from vladoctor.taps.env import camera_geometry

    def view(env: Any, task: Any) -> str:
        obs = libero.settle(env, libero.reset_to(env, task.init_states[5]))
        steps = []
        for number in range(60):
            frames = {"agentview": picture(obs["agentview_image"])}
            steps.append(Step(number, frames=frames, proprio={"robot0_eef_pos": tuple(obs["robot0_eef_pos"])}))
            obs = env.step(expert.act(expert.read_state(env, obs)).tolist())[0]
        found = find_view(steps, "agentview", camera_geometry(env, ["agentview"])["agentview"])
        assert found.decisive, found
        return found.element

    assert view(*libero_env(0)) == "flip-vertical"
    undo = fault("opencv-convention").before_env()
    try:
        assert view(*libero_env(0, resolution=112)) == "identity"
    finally:
        undo()
    assert macros.IMAGE_CONVENTION == "opengl"
    libero_env(0)
