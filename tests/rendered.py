"""Frames that LIBERO really rendered (tests/data/make_frames.py), and episodes built from them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vladoctor.adapters import image as pipeline
from vladoctor.facts import Facts
from vladoctor.facts.registration import apply
from vladoctor.profiles import Profile, load_profile
from vladoctor.records import Episode, Outcome, Query, Step
from vladoctor.trace import Picture, capture

DATA = Path(__file__).parent / "data"
INDEX: dict[str, Any] = json.loads((DATA / "frames.json").read_text())
GEOMETRY: dict[str, Any] = INDEX["cameras"]
LIBERO = load_profile("openvla-libero")

Orient = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Rendered:
    """A raw 128-pixel frame, its control step and the gripper's position then."""

    frame: np.ndarray
    step: int
    eef: tuple[float, ...]


def rendered(kind: str) -> list[Rendered]:
    """Frames of one kind: "agentview", "wrist", "dark" (all lights off), "sky" (seen from below the floor)."""
    return [
        Rendered(np.asarray(Image.open(DATA / entry["file"]).convert("RGB")), entry["step"], tuple(entry["eef"]))
        for entry in INDEX["frames"]
        if entry["kind"] == kind
    ]


def turned(element: str) -> Orient:
    return lambda frame: apply(element, frame)


RIGHT, AS_RENDERED = turned("rot180"), turned("identity")
"""What OpenVLA's LIBERO checkpoints were trained on, and nothing."""


def model_image(frame: np.ndarray, orient: Orient, size: int = 112, area: float = 0.9) -> np.ndarray:
    """What the reference loop gives the model: turned, JPEG, Lanczos, centre crop."""
    small = pipeline.resize_lanczos3(pipeline.jpeg_round_trip(orient(frame)), size)
    return pipeline.center_crop(small, area)


def picture(frame: np.ndarray, *, full: bool = False) -> Picture:
    """A frame as it stands in a trace: the thumbnail through JPEG, the full frame only if asked for."""
    taken = capture(frame, keep=full)
    return Picture(taken.shape, taken.load_thumbnail, taken.load_full, taken.minimum, taken.maximum)


def recorded(
    frames: Sequence[Rendered],
    *,
    orient: Orient | Sequence[Orient] = RIGHT,
    raw: Orient = AS_RENDERED,
    camera: str = "agentview",
    suite: str = "libero_object",
    geometry: bool = True,
    eef: bool = True,
    asked: bool = True,
    images: Sequence[np.ndarray | None] | None = None,
    stats: Sequence[dict[str, Any]] | None = None,
    numbers: Sequence[int] | None = None,
) -> Episode:
    """An episode with one query a step.

    Args:
        orient: what the loop does to the frame, always or by step.
        raw: what happened to the frame before it was recorded.
        images: the model's images, in the place of the reference pipeline's.
        stats: `pixel_stats` by step.
        numbers: step numbers; 0, 1, 2 ... by default.
    """
    steps = []
    for index, shot in enumerate(frames):
        frame = np.ascontiguousarray(raw(shot.frame))
        turn = orient[index] if isinstance(orient, Sequence) else orient
        given = model_image(frame, turn) if images is None else images[index]
        query = Query(
            image=None if given is None else picture(given), pixel_stats=stats[index] if stats is not None else {}
        )
        steps.append(
            Step(
                number=numbers[index] if numbers is not None else index,
                frames={camera: picture(frame)},
                proprio={"robot0_eef_pos": shot.eef} if eef else {},
                query=query if asked and (numbers is None or numbers[index] >= 0) else None,
            )
        )
    return Episode(
        run={},
        task={"suite": suite, "cameras": GEOMETRY if geometry else {}},
        steps=steps,
        outcome=Outcome("horizon", False, len(steps)),
    )


def facts(episode: Episode, profile: Profile = LIBERO) -> Facts:
    return Facts(episode, profile)
