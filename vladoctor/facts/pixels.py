"""How the values that a vision tower was given came out of levels of 0..255.

Every normalisation in use is a line for each channel, value = slope * level + offset, and so is every way of getting it
wrong that is known here: left out, done twice, done to 0..255, with another tower's numbers. The trace has mean, least
and greatest value of each channel of `pixel_values`. The levels they should have come from are those of the part of the
raw frame that registration finds under the image; where the image cannot be registered, as its values are so far off,
the part that the profile's crop would keep. A line that is right takes the three values back to the levels that the
frame has there.

Without a raw frame, what is left is that several towers are given the same picture, and that a picture lies in 0..255.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vladoctor.facts.following import matches
from vladoctor.facts.registration import Registration, shown_of
from vladoctor.facts.sampling import spread

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.records import Frame, Step

KNOWN: Mapping[str, tuple[Sequence[float], Sequence[float]]] = {
    "ImageNet's mean and std": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "mean and std 0.5": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "CLIP's mean and std": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}
"""Mean and std of pixels in 0..1. Sources: torchvision's models; SigLIP's processor; openai/CLIP clip/clip.py."""

RIGHT = "right"
OTHERS = "with "
"""Begins the name of a line with other statistics."""

_SIZE = 32
_MOST = 8
"""So many queries are looked at, spread over the episode, and each where the values are other than before it."""

_JUMP = 0.15, 0.5, 0.5
"""Of mean, least and greatest value, in units of `pixel_values`, from one query to the next."""

_PADDED = 1.03


@dataclass(frozen=True, eq=False)
class Line:
    """value = slope * level + offset, by channel of one tower: float64 (3,) each."""

    name: str
    slope: np.ndarray
    offset: np.ndarray

    def levels(self, values: np.ndarray) -> np.ndarray:
        return np.asarray((values - self.offset) / self.slope)


@dataclass(frozen=True, eq=False)
class Pixels:
    """One query's `pixel_values` and what they should have come from.

    Attributes:
        step: of the query.
        values: float64 (towers, 3, 3): by tower and channel mean, least and greatest value.
        frame: float64 (3, 3): by channel mean, least and greatest level of the raw frame's part under the image, of its
            thumbnail; None where there is no raw frame.
        extremes: least and greatest level of the full raw frame.
        placed: whether the part was found by registration.
    """

    step: int
    values: np.ndarray
    frame: np.ndarray | None
    extremes: tuple[float, float]
    placed: bool


@dataclass(frozen=True)
class Departures:
    """How far a line is from one tower's values, in levels of 0..255.

    Attributes:
        mean: largest difference of a channel's mean from the frame's; also with red and blue exchanged.
        beyond: how far the least and greatest values lie outside of the levels that the frame has.
        short: how far they fall short of those of its thumbnail.
    """

    mean: float
    beyond: float
    short: float


_pixels: weakref.WeakKeyDictionary[Facts, tuple[Pixels, ...]] = weakref.WeakKeyDictionary()


def pixels(facts: Facts) -> tuple[Pixels, ...]:
    """The values of an episode's images, a choice of its queries. Computed once for each `Facts`."""
    if facts not in _pixels:
        _pixels[facts] = tuple(_all(facts))
    return _pixels[facts]


def lines(mean: Sequence[float], std: Sequence[float]) -> list[Line]:
    """The right line of a tower first, then the wrong ones.

    Args:
        mean, std: of pixels in 0..1, three each.
    """
    middle, spread = np.asarray(mean, np.float64), np.asarray(std, np.float64)
    right = Line(RIGHT, 1.0 / (255.0 * spread), -middle / spread)
    ones = np.ones(3)
    found = [
        right,
        Line("not at all: they are levels divided by 255", ones / 255.0, 0.0 * ones),
        Line("not at all: they are levels of 0 to 255", ones, 0.0 * ones),
        Line("twice", right.slope / spread, (right.offset - middle) / spread),
        Line("without being divided by 255 first", 1.0 / spread, right.offset),
        Line("after being divided by 255 twice", right.slope / 255.0, right.offset),
    ]
    for name, (other_mean, other_std) in KNOWN.items():
        scale, shift = np.asarray(other_std), np.asarray(other_mean)
        line = Line(f"{OTHERS}{name}", 1.0 / (255.0 * scale), -shift / scale)
        if not (np.allclose(line.slope, right.slope) and np.allclose(line.offset, right.offset)):
            found.append(line)
    return found


def departures(line: Line, tower: np.ndarray, seen: Pixels) -> Departures:
    """Compare what a line makes of one tower's values, (3, 3), with the raw frame's levels."""
    assert seen.frame is not None
    levels = line.levels(tower.T).T
    means, least, greatest = levels[:, 0], levels[:, 1], levels[:, 2]
    frame = seen.frame
    mean = min(float(np.abs(means - order).max()) for order in (frame[:, 0], frame[::-1, 0]))
    low, high = seen.extremes
    beyond = max(low - float(least.min()), float(greatest.max()) - high)
    short = max(float(least.min()) - float(frame[:, 1].min()), float(frame[:, 2].max()) - float(greatest.max()))
    return Departures(mean, beyond, short)


def outside(line: Line, tower: np.ndarray) -> float:
    """How far a tower's values lie outside of 0..255 if the line holds, in levels; negative where they lie inside."""
    levels = line.levels(tower.T).T
    return max(-float(levels[:, 1].min()), float(levels[:, 2].max()) - 255.0)


def _all(facts: Facts) -> list[Pixels]:
    placed = {match.step: match for match in matches(facts) if match.registration.decisive}
    steps = [step for step in facts.episode.steps if step.query is not None and step.query.pixel_stats.get("mean")]
    if len(steps) > _MOST:
        steps = [steps[place] for place in spread(len(steps), _MOST, _changed(steps))]
    found = []
    for step in steps:
        assert step.query is not None
        stats = step.query.pixel_stats
        values = np.array([stats.get(name) or () for name in ("mean", "min", "max")], np.float64)
        if values.ndim != 2 or values.shape[1] % 3 or not values.shape[1] or not np.isfinite(values).all():
            continue
        towers = values.T.reshape(-1, 3, 3)
        match = placed.get(step.number)
        raw = step.frames[match.camera] if match is not None else _usual(facts, step.frames)
        if raw is None:
            found.append(Pixels(step.number, towers, None, (0.0, 255.0), False))
            continue
        if match is not None and step.query.image is not None:
            if max(match.registration.scales) > _PADDED:
                found.append(Pixels(step.number, towers, None, (0.0, 255.0), False))
                continue
            part = shown_of(raw.thumbnail, match.registration, _SIZE)
        else:
            area = facts.profile.get("image.center_crop_area") or 1.0
            side = float(np.sqrt(area))
            edge = (1.0 - side) / 2.0
            window = Registration("identity", 0.0, "identity", 0.0, (side, side), (edge, edge), 0.0)
            part = shown_of(raw.thumbnail, window, _SIZE)
        flat = part.reshape(-1, 3)
        frame = np.stack([flat.mean(axis=0), flat.min(axis=0), flat.max(axis=0)], axis=1).astype(np.float64)
        found.append(Pixels(step.number, towers, frame, _extremes(raw), match is not None))
    return found


def _changed(steps: Sequence[Step]) -> np.ndarray | None:
    """At which queries the values are other than in the one before; None where that cannot be compared."""
    tables = [[step.query.pixel_stats.get(name) for step in steps if step.query] for name in ("mean", "min", "max")]
    if len({len(row) if row else 0 for table in tables for row in table}) != 1 or not tables[0][0]:
        return None
    jumps = [
        np.abs(np.diff(np.array(table, np.float64), axis=0)).max(axis=1) > limit
        for table, limit in zip(tables, _JUMP, strict=True)
    ]
    return np.concatenate([[False], np.any(jumps, axis=0)])


def _usual(facts: Facts, frames: Mapping[str, Frame]) -> Frame | None:
    """The frame of the camera that the policy is given, if that is known."""
    names = [facts.episode.task.get("camera"), *(facts.profile.get("image.cameras") or ())]
    known = next((name for name in names if name in frames), None)
    if known is None and len(frames) == 1:
        known = next(iter(frames))
    return frames[known] if known is not None else None


def _extremes(raw: Frame) -> tuple[float, float]:
    low = raw.thumbnail.min() if raw.minimum is None else raw.minimum
    high = raw.thumbnail.max() if raw.maximum is None else raw.maximum
    return float(low), float(high)
