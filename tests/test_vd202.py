"""VD202 center-crop: which window of the raw frame the model's image is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rendered import LIBERO, RIGHT, facts, model_image, picture, recorded, rendered

from vladoctor.adapters.image import crop_at
from vladoctor.check import Abstention, Clear, Problem, Severity, Verdict
from vladoctor.checks.vd202_center_crop import CHECK
from vladoctor.profiles import Profile, load_profile
from vladoctor.records import Episode

SHOTS = rendered("agentview")
WHOLE = [model_image(shot.frame, RIGHT, area=1.0) for shot in SHOTS]
SIDE = 0.9**0.5


def judge(episode: Episode, profile: Profile = LIBERO) -> Verdict:
    (verdict,) = CHECK.judge(facts(episode, profile), CHECK.thresholds)
    return verdict


def problem(episode: Episode, profile: Profile = LIBERO) -> Problem:
    verdict = judge(episode, profile)
    assert isinstance(verdict, Problem)
    return verdict


def cropped(crop: Callable[[np.ndarray], np.ndarray]) -> Episode:
    return recorded(SHOTS, images=[crop(image) for image in WHOLE])


def trained_with(area: float | None) -> Profile:
    return LIBERO.with_overrides({"image": {"center_crop_area": area}})


def fault(name: str) -> Any:
    return next(fault for fault in CHECK.faults if fault.name == name)


# Must fire.


@pytest.mark.parametrize(
    ("name", "side", "said"),
    [
        ("no-crop", 1.0, "the whole agentview frame"),
        ("crop-side", 0.9, "Either 0.9 was taken for the side, or the crop is made twice"),
        ("crop-corner", SIDE, "is not in the middle of the agentview frame: it begins 0.0 % of the frame from the top"),
    ],
)
def test_faults(name: str, side: float, said: str) -> None:
    loop: Any = SimpleNamespace(stages=SimpleNamespace(crop=None))
    fault(name).apply(loop)
    found = problem(cropped(loop.stages.crop))
    assert (found.severity, found.first_step, found.last_step) == (Severity.FIX, 0, 11)
    assert found.evidence["side"] == pytest.approx(side, abs=0.006)
    assert said in found.message


def test_cropped_twice() -> None:
    from PIL import Image

    seen: list[np.ndarray] = []
    loop: Any = SimpleNamespace(stages=SimpleNamespace(query=lambda prompt, image: seen.append(np.asarray(image))))
    fault("crop-twice").apply(loop)
    for shot in SHOTS:
        loop.stages.query("", Image.fromarray(model_image(shot.frame, RIGHT)))
    found = problem(recorded(SHOTS, images=seen))
    assert found.evidence["side"] == pytest.approx(0.9, abs=0.005)
    assert "the crop is made twice" in found.message


def test_cropped_where_training_did_not() -> None:
    found = problem(recorded(SHOTS), trained_with(1.0))
    assert "trained on the whole frame" in found.message
    assert "5 % larger" in found.message


def test_from_some_step_on() -> None:
    images = [model_image(shot.frame, RIGHT, area=0.9 if index < 7 else 1.0) for index, shot in enumerate(SHOTS)]
    found = problem(recorded(SHOTS, images=images))
    assert (found.first_step, found.last_step) == (7, 11)
    assert found.message.startswith("In 5 of 12 queries, from step 7: ")


def test_a_crop_that_the_run_file_leaves_out_is_only_a_look() -> None:
    episode = replace(recorded(SHOTS, images=WHOLE), run={"checkpoint": {"center_crop": False}})
    found = problem(episode)
    assert found.severity is Severity.LOOK
    assert "center_crop: false" in found.remedy


# Must not fire.


@pytest.mark.parametrize("kind", ["agentview", "dark"])
def test_reference_loop(kind: str) -> None:
    assert isinstance(judge(recorded(rendered(kind))), Clear)


def test_whole_pixels_are_near_enough() -> None:
    """Cut out with slices: 106 of 112 pixels."""
    assert isinstance(judge(cropped(lambda image: crop_at(image, 3 / 112, 3 / 112, 106 / 112))), Clear)


def test_other_areas() -> None:
    assert isinstance(judge(cropped(lambda image: crop_at(image, 0.025, 0.025, 0.95)), trained_with(0.9025)), Clear)
    assert isinstance(judge(recorded(SHOTS, images=WHOLE), trained_with(1.0)), Clear)


def test_the_middle_square_of_a_wide_frame() -> None:
    """A frame of 3:2, of which the loop cuts the middle square before anything else."""
    wide = [np.pad(shot.frame, ((0, 0), (32, 32), (0, 0)), mode="reflect") for shot in SHOTS]
    shots = [replace(shot, frame=frame) for shot, frame in zip(SHOTS, wide, strict=True)]
    episode = recorded(shots, images=[model_image(frame[:, 32:-32], RIGHT) for frame in wide])
    assert isinstance(judge(episode), Clear)


# Must abstain.


def test_without_expectation_or_evidence() -> None:
    verdict = judge(recorded(SHOTS, images=WHOLE), load_profile("openvla"))
    assert isinstance(verdict, Abstention)
    assert not verdict.missing
    verdict = judge(recorded(SHOTS, asked=False))
    assert isinstance(verdict, Abstention)
    assert verdict.missing


def test_padding_and_pictures_of_nothing() -> None:
    padded = [np.pad(image, ((14, 14), (0, 0), (0, 0))) for image in WHOLE]
    assert isinstance(judge(recorded(SHOTS, images=padded)), Abstention)
    sky = [replace(shot, frame=rendered("sky")[0].frame) for shot in SHOTS]
    assert isinstance(judge(recorded(sky)), Abstention)
    assert picture(padded[0]).shape == (140, 112)
