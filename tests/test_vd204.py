"""VD204 image-resize: shape, resolution, detail, filter and JPEG of the model's image."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rendered import LIBERO, RIGHT, facts, picture, recorded, rendered

from vladoctor.adapters import image as pipeline
from vladoctor.check import Abstention, Clear, Problem, Severity, Verdict
from vladoctor.checks.vd204_image_resize import CHECK
from vladoctor.profiles import Profile, load_profile
from vladoctor.records import Episode

SHOTS = rendered("agentview")[:3]
TRAINED = LIBERO.with_overrides({"image": {"environment_resolution": [128, 128]}})
"""The frames at hand have 128 pixels a side."""

SIZE = 64
Make = Callable[[np.ndarray], np.ndarray]


def fault(name: str) -> Any:
    return next(fault for fault in CHECK.faults if fault.name == name)


def stages_of(name: str = "") -> Any:
    """The reference loop's stages for a model of 64 pixels, with a fault."""
    stages = SimpleNamespace(
        orient=RIGHT, resize=lambda frame: pipeline.resize_lanczos3(pipeline.jpeg_round_trip(frame), SIZE)
    )
    if name:
        fault(name).apply(SimpleNamespace(stages=stages, policy=SimpleNamespace(image_size=SIZE)))
    return stages


def through(stages: Any) -> Make:
    return lambda frame: pipeline.center_crop(stages.resize(stages.orient(frame)))


def episode(make: Make, *, full: bool = True, raw: Make = lambda frame: frame) -> Episode:
    frames = [np.ascontiguousarray(raw(shot.frame)) for shot in SHOTS]
    made = recorded(SHOTS)
    steps = []
    for step, frame in zip(made.steps, frames, strict=True):
        assert step.query is not None
        query = replace(step.query, image=picture(make(frame), full=full))
        steps.append(replace(step, frames={"agentview": picture(frame, full=full)}, query=query))
    return replace(made, steps=steps)


def judge(made: Episode, profile: Profile = TRAINED) -> list[Verdict]:
    return list(CHECK.judge(facts(made, profile), CHECK.thresholds))


def problem(made: Episode, profile: Profile = TRAINED) -> Problem:
    (verdict,) = judge(made, profile)
    assert isinstance(verdict, Problem)
    return verdict


def wide(frame: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(np.pad(frame, ((0, 0), (21, 21), (0, 0)), mode="reflect")))


# Must fire.


def test_squashed() -> None:
    found = problem(episode(through(stages_of()), raw=wide))
    assert found.severity is Severity.FIX
    assert found.evidence["pixel_aspect"] == pytest.approx(170 / 128, abs=0.02)
    assert "128 x 170 pixels" in found.message
    assert re.search("2[45] % narrower", found.message)  # 24.5, measured


def test_squashed_where_training_padded() -> None:
    profile = TRAINED.with_overrides({"image": {"pad": "centre"}})
    found = problem(episode(through(stages_of()), raw=wide), profile)
    assert "pads frames" in found.message


def test_padded_where_training_did_not() -> None:
    def make(frame: np.ndarray) -> np.ndarray:
        small = pipeline.resize_lanczos3(RIGHT(frame), 48)
        return np.pad(small, ((8, 8), (8, 8), (0, 0)))

    assert "has padding" in problem(episode(make)).message


def test_low_resolution() -> None:
    def half(frame: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(frame).resize((48, 48), Image.Resampling.BOX))

    found = problem(episode(through(stages_of()), raw=half), LIBERO)
    assert found.severity is Severity.FIX
    assert (found.evidence["seen"], found.evidence["expected"]) == ("48 x 48", "256 x 256")
    assert "enlarged to the model's 64 x 64" in found.message


def test_less_than_training_but_enough_is_a_look() -> None:
    assert problem(episode(through(stages_of())), LIBERO).severity is Severity.LOOK


def test_shrunk_on_the_way() -> None:
    found = problem(episode(through(stages_of("low-resolution-transport"))))
    assert found.severity is Severity.FIX
    assert found.evidence["detail"] < 0.7


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("nearest-resize", "through JPEG, resized by nearest neighbour"),
        ("no-jpeg", "without JPEG, resized by Lanczos"),
    ],
)
def test_filter_and_jpeg_are_looks(name: str, seen: str) -> None:
    found = problem(episode(through(stages_of(name))))
    assert (found.severity, found.evidence["seen"]) == (Severity.LOOK, seen)
    assert found.evidence["error_seen"] < 0.4 < 1.0 < found.evidence["error_expected"]


def test_jpeg_where_training_had_none() -> None:
    profile = TRAINED.with_overrides({"image": {"jpeg_round_trip": False}})
    found = problem(episode(through(stages_of())), profile)
    assert "went through JPEG" in found.message


def test_another_size_than_the_checkpoints() -> None:
    made = replace(episode(through(stages_of())), run={"checkpoint": {"image_size": 112}})
    assert "trained on 112 x 112" in problem(made).message


def test_what_the_faults_ask_of_the_renderer() -> None:
    inner = SimpleNamespace(camera_names=["agentview"], camera_heights=[256], camera_widths=[256])
    loop: Any = SimpleNamespace(env=SimpleNamespace(env=inner), policy=SimpleNamespace(image_size=224))
    fault("squash").apply(loop)
    assert (inner.camera_heights, inner.camera_widths) == ([240], [320])
    fault("low-resolution").apply(loop)
    assert (inner.camera_heights, inner.camera_widths) == ([112], [112])


# Must not fire.


def test_reference_loop() -> None:
    (verdict,) = judge(episode(through(stages_of())))
    assert isinstance(verdict, Clear)
    assert "through JPEG, resized by Lanczos, as in training" in verdict.message


def test_bicubic_is_near_enough() -> None:
    stages = stages_of()
    stages.resize = lambda frame: np.asarray(
        Image.fromarray(pipeline.jpeg_round_trip(frame)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    )
    assert not any(isinstance(verdict, Problem) for verdict in judge(episode(through(stages))))


def test_turned_exchanged_and_brightened() -> None:
    """Other checks' business."""
    stages = stages_of()
    stages.orient = lambda frame: frame[::-1]

    def make(frame: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.clip(through(stages)(frame) * 0.9 + 10, 0, 255).astype(np.uint8)[..., ::-1])

    assert isinstance(judge(episode(make))[0], Clear)


# Must abstain.


def test_without_full_frames() -> None:
    clear, abstention = judge(episode(through(stages_of("nearest-resize")), full=False))
    assert isinstance(clear, Clear)
    assert isinstance(abstention, Abstention)
    assert "full frames" in abstention.reason


def test_what_no_known_way_gives() -> None:
    def make(frame: np.ndarray) -> np.ndarray:
        noise = np.random.default_rng(0).normal(0, 8, (SIZE, SIZE, 3))
        return np.clip(through(stages_of())(frame) + noise, 0, 255).astype(np.uint8)

    verdicts = judge(episode(make))
    assert isinstance(verdicts[-1], Abstention)
    assert "in no known way" in verdicts[-1].reason


def test_without_expectation_or_images() -> None:
    (verdict,) = judge(episode(through(stages_of())), load_profile("unknown"))
    assert isinstance(verdict, Abstention)
    (verdict,) = judge(recorded(SHOTS, asked=False))
    assert isinstance(verdict, Abstention)
    assert verdict.missing


def test_a_shifted_frame() -> None:
    """Its window begins before the frame does, which is VD202's to say."""
    stages = stages_of()
    stages.orient = lambda frame: np.roll(frame[::-1, ::-1], round(0.05 * frame.shape[1]), axis=1)
    assert not any(isinstance(verdict, Problem) for verdict in judge(episode(through(stages))))
