"""VD205 pixel-normalisation: from the values of a vision tower back to the levels of the frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rendered import LIBERO, RIGHT, Rendered, facts, model_image, recorded, rendered

from vladoctor.check import Abstention, Clear, Problem, Severity, Verdict
from vladoctor.checks.vd205_pixel_normalisation import CHECK
from vladoctor.profiles import Profile, load_profile
from vladoctor.records import Episode

SHOTS = rendered("agentview")
MEANS = ((0.485, 0.456, 0.406), (0.5, 0.5, 0.5))
STDS = ((0.229, 0.224, 0.225), (0.5, 0.5, 0.5))

Normalise = Callable[[np.ndarray], np.ndarray]


def right(image: np.ndarray) -> np.ndarray:
    """What OpenVLA's processor makes of an image: float64 (6, H, W)."""
    towers = [(image / 255.0 - mean) / np.array(std) for mean, std in zip(MEANS, STDS, strict=True)]
    return np.concatenate(towers, axis=-1).transpose(2, 0, 1)


def statistics(values: np.ndarray) -> dict[str, Any]:
    flat = values.reshape(len(values), -1)
    return {"mean": flat.mean(1).tolist(), "min": flat.min(1).tolist(), "max": flat.max(1).tolist()}


def shown(values: np.ndarray) -> np.ndarray:
    """The picture that the tap records: un-normalised with the first tower's numbers."""
    return np.clip(255.0 * (values[:3].transpose(1, 2, 0) * STDS[0] + MEANS[0]) + 0.5, 0, 255).astype(np.uint8)


def episode(
    normalise: Normalise = right, *, shots: Sequence[Rendered] = SHOTS, frames: bool = True, dim: float = 1.0
) -> Episode:
    values = [normalise(model_image(shot.frame, RIGHT) * dim) for shot in shots]
    made = recorded(shots, images=[shown(one) for one in values], stats=[statistics(one) for one in values])
    return made if frames else replace(made, steps=[replace(step, frames={}) for step in made.steps])


def judge(made: Episode, profile: Profile = LIBERO) -> Verdict:
    (verdict,) = CHECK.judge(facts(made, profile), CHECK.thresholds)
    return verdict


def problem(made: Episode, profile: Profile = LIBERO) -> Problem:
    verdict = judge(made, profile)
    assert isinstance(verdict, Problem)
    return verdict


# Must fire.


WRONG: dict[str, tuple[Normalise, Severity, str]] = {
    "0 to 1": (
        lambda image: np.concatenate([image / 255.0] * 2, -1).transpose(2, 0, 1),
        Severity.STOP,
        "levels divided by 255",
    ),
    "0 to 255": (
        lambda image: np.concatenate([image * 1.0] * 2, -1).transpose(2, 0, 1),
        Severity.STOP,
        "levels of 0 to 255",
    ),
    "not divided": (lambda image: right(image * 255.0), Severity.STOP, "without being divided by 255 first"),
    "twice": (
        lambda image: (right(image) - np.ravel(MEANS)[:, None, None]) / np.ravel(STDS)[:, None, None],
        Severity.STOP,
        "normalised twice",
    ),
    "ImageNet": (lambda image: np.concatenate([right(image)[:3]] * 2), Severity.FIX, "ImageNet's mean and std"),
    "SigLIP": (lambda image: np.concatenate([right(image)[3:]] * 2), Severity.FIX, "mean and std 0.5"),
    "exchanged": (lambda image: np.roll(right(image), 3, axis=0), Severity.FIX, "second tower (channels 3 to 5)"),
}


@pytest.mark.parametrize("name", WRONG)
def test_known_mistakes(name: str) -> None:
    normalise, severity, said = WRONG[name]
    found = problem(episode(normalise))
    assert (found.severity, found.first_step, found.last_step) == (severity, 0, 11)
    assert said in found.message


def test_one_tower_is_named() -> None:
    found = problem(episode(WRONG["ImageNet"][0]))
    assert list(found.evidence["levels_seen"]) == ["second tower (channels 3 to 5)"]


def test_without_raw_frames_the_impossible_is_still_seen() -> None:
    assert problem(episode(WRONG["twice"][0], frames=False)).severity is Severity.STOP


@pytest.mark.torch
@pytest.mark.parametrize("fault", CHECK.faults, ids=lambda fault: fault.name)
def test_faults(fault: Any) -> None:
    torch = pytest.importorskip("torch")
    processor = SimpleNamespace(means=MEANS, stds=STDS)
    processor.apply_transform = lambda picture: torch.from_numpy(right(np.asarray(picture, np.float64))).float()
    policy = SimpleNamespace(processor=SimpleNamespace(image_processor=processor), prepare_inputs=lambda inputs: inputs)
    fault.apply(SimpleNamespace(policy=policy))

    def normalise(image: np.ndarray) -> np.ndarray:
        values = processor.apply_transform(Image.fromarray(image.astype(np.uint8)))[None]
        return np.asarray(policy.prepare_inputs({"pixel_values": values})["pixel_values"][0])

    assert isinstance(judge(episode(normalise)), Problem)


# Must not fire.


@pytest.mark.parametrize("kind", ["agentview", "wrist", "dark"])
def test_reference_loop(kind: str) -> None:
    verdict = judge(episode(shots=rendered(kind)))
    assert isinstance(verdict, Clear)
    assert verdict.evidence["largest_difference_in_levels"] < 4.0


def test_black_frames_are_normalised_too() -> None:
    black = [replace(shot, frame=np.zeros_like(shot.frame)) for shot in SHOTS]
    assert isinstance(judge(episode(shots=black)), Clear)


def test_exchanged_channels_are_another_checks_business() -> None:
    assert isinstance(judge(episode(lambda image: right(image[..., ::-1]))), Clear)


def test_the_checkpoint_says_it_where_the_profile_does_not() -> None:
    own = {"pixel_mean": np.ravel(MEANS).tolist(), "pixel_std": np.ravel(STDS).tolist()}
    made = replace(episode(), run={"checkpoint": own})
    assert isinstance(judge(made, load_profile("unknown")), Clear)
    made = replace(episode(WRONG["twice"][0]), run={"checkpoint": own})
    assert "twice" in problem(made, load_profile("unknown")).message


def test_another_checkpoints_own_statistics_are_a_look() -> None:
    """Its own processor says 0.5 for both towers: another file, or another kind of tower."""
    own = {"pixel_mean": [0.5] * 6, "pixel_std": [0.5] * 6}
    made = replace(episode(WRONG["SigLIP"][0]), run={"checkpoint": own})
    assert problem(made).severity is Severity.LOOK


def test_two_towers_with_the_same_picture() -> None:
    assert isinstance(judge(episode(frames=False)), Clear)


# Must abstain.


def test_a_picture_made_darker() -> None:
    verdict = judge(episode(dim=0.8))
    assert isinstance(verdict, Abstention)
    assert "brighter, darker" in verdict.reason


def test_without_expectation_or_values() -> None:
    assert isinstance(judge(episode(), load_profile("unknown")), Abstention)
    verdict = judge(recorded(SHOTS))
    assert isinstance(verdict, Abstention)
    assert verdict.missing
    verdict = judge(episode(WRONG["SigLIP"][0], frames=False))
    assert isinstance(verdict, Abstention)
    assert verdict.missing
