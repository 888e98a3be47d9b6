"""VD203 channel-order: which channel of the model's image is which of the raw frame."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rendered import LIBERO, RIGHT, facts, model_image, picture, recorded, rendered

from vladoctor.check import Abstention, Clear, Problem, Severity, Verdict
from vladoctor.checks.vd203_channel_order import CHECK
from vladoctor.profiles import Profile, load_profile
from vladoctor.records import Episode, Query, Step

SHOTS = rendered("agentview")


def judge(episode: Episode, profile: Profile = LIBERO) -> list[Verdict]:
    return list(CHECK.judge(facts(episode, profile), CHECK.thresholds))


def ordered(order: list[int], profile: Profile = LIBERO) -> Verdict:
    images = [model_image(shot.frame, RIGHT)[..., order] for shot in SHOTS]
    (verdict,) = judge(recorded(SHOTS, images=[np.ascontiguousarray(image) for image in images]), profile)
    return verdict


# Must fire.


@pytest.mark.parametrize("fault", CHECK.faults, ids=lambda fault: fault.name)
def test_faults(fault: Any) -> None:
    from vladoctor.adapters import image as pipeline

    stages = SimpleNamespace(orient=RIGHT, resize=lambda frame: pipeline.resize_lanczos3(frame, 112))
    fault.apply(SimpleNamespace(stages=stages))
    images = [pipeline.center_crop(stages.resize(stages.orient(shot.frame))) for shot in SHOTS]
    (found,) = judge(recorded(SHOTS, images=images))
    assert isinstance(found, Problem)
    assert (found.severity, found.first_step, found.last_step) == (Severity.STOP, 0, 11)
    assert (found.evidence["seen"], found.evidence["expected"]) == ("BGR", "RGB")
    assert "red and blue are exchanged" in found.message


@pytest.mark.parametrize(("order", "name"), [([1, 0, 2], "GRB"), ([0, 2, 1], "RBG"), ([2, 0, 1], "BRG")])
def test_other_orders(order: list[int], name: str) -> None:
    found = ordered(order)
    assert isinstance(found, Problem)
    assert found.evidence["seen"] == name


def test_one_camera_only() -> None:
    wrist = rendered("wrist")
    steps = []
    for number, (front, hand) in enumerate(zip(SHOTS, wrist * 6, strict=False)):
        images = [model_image(shot.frame, RIGHT) for shot in (front, hand)]
        query = Query(
            image=picture(images[0]), more_images={"image1": picture(np.ascontiguousarray(images[1][..., ::-1]))}
        )
        frames = {"agentview": picture(front.frame), "robot0_eye_in_hand": picture(hand.frame)}
        steps.append(Step(number, frames=frames, query=query))
    front_verdict, wrist_verdict = judge(replace(recorded(SHOTS), steps=steps))
    assert isinstance(front_verdict, Clear)
    assert isinstance(wrist_verdict, Problem)
    assert "the image of robot0_eye_in_hand (slot image1)" in wrist_verdict.message


# Must not fire.


@pytest.mark.parametrize("kind", ["agentview", "wrist"])
def test_reference_loop(kind: str) -> None:
    (verdict,) = judge(recorded(rendered(kind)))
    assert not isinstance(verdict, Problem)


@pytest.mark.parametrize("gains", [(0.8, 1.0, 1.2), (1.2, 0.9, 0.8)])
def test_tinted_pictures(gains: tuple[float, float, float]) -> None:
    images = [np.clip(model_image(shot.frame, RIGHT) * gains, 0, 255).astype(np.uint8) for shot in SHOTS]
    assert isinstance(judge(recorded(SHOTS, images=images))[0], Clear)


def test_a_checkpoint_of_bgr() -> None:
    profile = LIBERO.with_overrides({"image": {"channel_order": "BGR"}})
    assert isinstance(ordered([2, 1, 0], profile), Clear)
    assert isinstance(ordered([0, 1, 2], profile), Problem)


# Must abstain.


def test_grey_scenes() -> None:
    grey = [replace(shot, frame=np.repeat(shot.frame[..., 1:2], 3, axis=-1)) for shot in SHOTS]
    (verdict,) = judge(recorded(grey))
    assert isinstance(verdict, Abstention)
    assert "too little colour" in verdict.reason


def test_without_expectation_or_images() -> None:
    assert isinstance(judge(recorded(SHOTS), load_profile("unknown"))[0], Abstention)
    assert isinstance(judge(recorded(SHOTS, asked=False))[0], Abstention)
