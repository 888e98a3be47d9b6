"""What is in the frames at all: brightness and structure of every camera's every frame, and of the model's image; and
which of them are one and the same picture.
"""

from __future__ import annotations

import hashlib
import re
import weakref
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.records import Episode, Frame, Query

EEF = "robot0_eef_pos"
"""Name of the gripper's position among the proprioceptive values: metres, world frame."""

_PLACES = (EEF, "eef_pos", "ee_pos", "tcp_pos")
"""Names of the hand's position in observations, metres."""

_DEGREE = 3


@dataclass(frozen=True)
class FrameStatistics:
    """One frame in numbers, in levels of 0..255.

    Attributes:
        step: step number.
        mean: over all pixels and channels.
        colour: mean of each channel.
        std: standard deviation over the pixels, of the channel that varies most.
        structure: what is left of `std` after a smooth surface (a cubic polynomial) has been taken away: 0 for a
            uniform picture or a sky gradient.
        brightest: 99 % of the thumbnail's values are at most this, so that hot pixels do not count.
        grain: median difference between neighbouring pixels, down plus across; 0 for smooth surfaces, twice the `std`
            for white noise.
        agreement: mean correlation between the channels' differences from their neighbours, -1..1: the same edges in
            all of them (1), or channels that know nothing of each other (0), as in noise.
        minimum, maximum: over the full frame where that was measured, else over the thumbnail.
    """

    step: int
    mean: float
    colour: tuple[float, ...]
    std: float
    structure: float
    brightest: float
    grain: float
    agreement: float
    minimum: float
    maximum: float


@dataclass(frozen=True)
class View:
    """The frames of one camera, or the images that the model was given, with their statistics, by step.

    Attributes:
        camera: its name; "" for the model's image.
        frames, statistics: of the same length, in the order in which they were taken.
    """

    camera: str
    frames: tuple[Frame, ...]
    statistics: tuple[FrameStatistics, ...]


@dataclass(frozen=True)
class Stretch:
    """Some frames of one view, alike in some way, in order but not necessarily one after the other.

    Attributes:
        kind: in which way.
        indices: their places in `view.frames`.
    """

    view: View
    kind: str
    indices: tuple[int, ...]

    @cached_property
    def statistics(self) -> tuple[FrameStatistics, ...]:
        return tuple(self.view.statistics[index] for index in self.indices)

    @cached_property
    def steps(self) -> tuple[int, ...]:
        return tuple(statistics.step for statistics in self.statistics)

    @property
    def longest_run(self) -> int:
        """Frames in the longest part without a gap."""
        places = np.array(self.indices)
        return max(len(run) for run in np.split(places, np.flatnonzero(np.diff(places) > 1) + 1))

    @property
    def span(self) -> str:
        """Where it lies, for sentences: "from step 30 to the end (90 of 120 frames)"."""
        first, last, total = self.steps[0], self.steps[-1], len(self.view.statistics)
        count = f"{len(self.steps)} of {total} frames"
        if len(self.steps) == total:
            return f"in all {total} recorded frames" if total > 1 else "in the only recorded frame"
        if len(self.steps) == 1:
            return f"at step {first} ({count})"
        if self.longest_run < len(self.steps):
            return f"between step {first} and step {last} ({count})"
        return f"from step {first} to {'the end' if self.indices[-1] == total - 1 else f'step {last}'} ({count})"


def measure(frame: Frame, step: int) -> FrameStatistics:
    """Measure one frame on its thumbnail; the extremes are the full frame's."""
    values = frame.thumbnail.astype(np.float32)
    flat = values.reshape(-1, values.shape[-1])
    surface = _surfaces(*values.shape[:2])
    left = flat - surface @ (surface.T @ flat)
    # Each channel in one piece: numpy takes several times as long across them.
    channels, structure = np.ascontiguousarray(flat.T), np.ascontiguousarray(left.T).std(axis=1)
    grain, agreement = _texture(values)
    return FrameStatistics(
        step=step,
        mean=float(flat.mean()),
        colour=tuple(float(mean) for mean in channels.mean(axis=1)),
        std=float(channels.std(axis=1).max()),
        structure=float(structure.max()),
        brightest=float(np.quantile(flat, 0.99)),
        grain=grain,
        agreement=agreement,
        minimum=float(flat.min()) if frame.minimum is None else float(frame.minimum),
        maximum=float(flat.max()) if frame.maximum is None else float(frame.maximum),
    )


def _texture(values: np.ndarray) -> tuple[float, float]:
    """Median difference between neighbours, and the channels' agreement about it, of a float (h, w, channels)."""
    if min(values.shape[:2]) < 3:
        return 0.0, 1.0
    across, down = np.abs(np.diff(values, axis=1)), np.abs(np.diff(values, axis=0))
    around = values[:-2, 1:-1] + values[2:, 1:-1] + values[1:-1, :-2] + values[1:-1, 2:]
    detail = np.ascontiguousarray((values[1:-1, 1:-1] - around / 4.0).reshape(-1, values.shape[-1]).T)
    detail = detail - detail.mean(axis=1, keepdims=True)
    length = np.maximum(np.sqrt((detail**2).sum(axis=1)), 1e-6)
    correlation = (detail @ detail.T) / np.outer(length, length)
    between = correlation[np.triu_indices(len(correlation), 1)]
    return float(np.median(across) + np.median(down)), float(between.mean())


_views: weakref.WeakKeyDictionary[Facts, tuple[View, ...]] = weakref.WeakKeyDictionary()


def camera_views(facts: Facts) -> tuple[View, ...]:
    """Every camera of which frames were recorded, settle steps included."""
    return tuple(view for view in _all_views(facts) if view.camera)


def model_view(facts: Facts) -> View | None:
    """The images that the model was given; None where none was recorded.

    Those of which the levels are not known are left out, unless they are of one value all over.
    """
    return next((view for view in _all_views(facts) if not view.camera), None)


def change(stretch: Stretch) -> float:
    """How far any of the frames is from the first, in levels: mean over the thumbnail's values."""
    first, *others = (stretch.view.frames[index].thumbnail.astype(np.float32) for index in stretch.indices)
    return max((float(np.abs(other - first).mean()) for other in others), default=0.0)


def travel(facts: Facts, steps: Collection[int]) -> float | None:
    """How far apart the gripper was at some steps, in metres along the longest axis; None where not recorded."""
    positions = [step.proprio.get(EEF, ()) for step in facts.episode.steps if step.number in set(steps)]
    known = np.array([position for position in positions if len(position) == 3], dtype=np.float64)
    return float(np.ptp(known, axis=0).max()) if len(known) else None


_WRIST = re.compile(r"wrist|hand|gripper|eef|ego", re.IGNORECASE)

_STRIDE, _STRIDE_SHARE = 0.03, 0.15
"""Metres that the gripper moves between two frames that are compared; of other states, the share of their range."""

_CHANGED = 6.0
"""Levels by which a pixel changes, at least; JPEG alone makes 2."""


def on_robot(name: str) -> bool:
    """Whether a camera's or a slot's name says that it is mounted on the robot: "robot0_eye_in_hand", "wrist_image"."""
    return bool(_WRIST.search(name))


@dataclass(frozen=True)
class Changes:
    """How much of a camera's picture changes while the robot moves by a stride.

    Attributes:
        share: of the pixels, median over the pairs, 0..1: the robot's own in a fixed camera, the scene in one on it.
        pairs: of frames that were compared.
    """

    share: float
    pairs: int


def changes(facts: Facts, view: View) -> Changes:
    """Compare frames between which the robot moved by a stride, with 32 x 32 pixels each."""
    moved = motion(facts)
    if moved is None:
        return Changes(0.0, 0)
    stride = _STRIDE if moved.metres else max(_STRIDE_SHARE * moved.whole, 1e-6)
    shares: list[float] = []
    last: tuple[np.ndarray, np.ndarray] | None = None
    for statistics, frame in zip(view.statistics, view.frames, strict=True):
        place = moved.at.get(statistics.step)
        if place is None:
            continue
        if last is None or float(np.abs(place - last[0]).max()) >= stride:
            small = _small(frame.thumbnail)
            if last is not None and small.shape == last[1].shape:
                shares.append(float((np.abs(small - last[1]) > _CHANGED).mean()))
            last = place, small
    return Changes(float(np.median(shares)) if shares else 0.0, len(shares))


def _small(picture: np.ndarray) -> np.ndarray:
    """Grey, averaged over 2 x 2 pixels."""
    grey = picture.mean(axis=-1, dtype=np.float32)
    rows, columns = (side // 2 * 2 for side in grey.shape)
    return np.asarray(grey[:rows, :columns].reshape(rows // 2, 2, columns // 2, 2).mean(axis=(1, 3)))


@dataclass(frozen=True)
class Motion:
    """How the robot's state changed over an episode.

    Attributes:
        name: of the proprioceptive value that was followed.
        metres: whether it is the gripper's position; else it is in units of its own.
        at: step number -> float64 (n,).
        whole: how far it went in the whole episode, along its longest axis.
    """

    name: str
    metres: bool
    at: Mapping[int, np.ndarray]
    whole: float

    def spread(self, steps: Collection[int]) -> float:
        """How far apart the states of some steps are, along the longest axis; 0 where fewer than two are known."""
        known = [self.at[step] for step in steps if step in self.at]
        return float(np.ptp(np.array(known), axis=0).max()) if len(known) > 1 else 0.0


def motion(facts: Facts) -> Motion | None:
    """Follow the gripper's position, or where that is not recorded the proprioceptive value that changes most."""
    found: dict[str, dict[int, np.ndarray]] = {}
    for step in facts.episode.steps:
        for name, values in step.proprio.items():
            found.setdefault(name, {})[step.number] = np.asarray(values, dtype=np.float64).reshape(-1)
    known: list[Motion] = []
    for name, at in found.items():
        sizes = {len(values) for values in at.values()}
        if len(at) > 1 and len(sizes) == 1 and sizes != {0}:
            stack = np.array(list(at.values()))
            if np.isfinite(stack).all():
                is_place = name in _PLACES and sizes == {3}
                known.append(Motion(name, is_place, at, float(np.ptp(stack, axis=0).max())))
    # Velocities come back to the same value everywhere, and say nothing of where the robot is.
    known = [one for one in known if "vel" not in one.name]
    return max(known, key=lambda one: (one.metres, one.whole), default=None)


def repeats(view: View) -> list[tuple[int, ...]]:
    """Places in `view.frames` that hold one and the same picture, value by value; of at least two frames each.

    Pictures are compared as recorded: a thumbnail of 64 pixels through JPEG, which is the same for the same frame.
    """
    groups: dict[bytes, list[int]] = {}
    for place, frame in enumerate(view.frames):
        groups.setdefault(hashlib.sha1(frame.thumbnail.tobytes(), usedforsecurity=False).digest(), []).append(place)
    return [tuple(places) for places in groups.values() if len(places) > 1]


def pixel_spread(query: Query) -> float | None:
    """Largest difference within a channel of `pixel_values`, in their own units; None where it was not recorded.

    An image is un-normalised and cut to 0..255 for recording, so one far out of range looks uniform and is not.
    """
    lowest, highest = query.pixel_stats.get("min"), query.pixel_stats.get("max")
    if not lowest or not highest:
        return None
    return max(high - low for low, high in zip(lowest, highest, strict=True))


def levels_known(query: Query) -> bool:
    """Whether the model's image shows how bright it is, or shapes only, as its normalisation could not be seen."""
    return query.options.get("image_scale") != "relative"


def _all_views(facts: Facts) -> tuple[View, ...]:
    if facts not in _views:
        _views[facts] = tuple(_view(name, taken) for name, taken in _taken(facts.episode).items() if taken)
    return _views[facts]


def _taken(episode: Episode) -> Mapping[str, list[tuple[int, Frame]]]:
    found: dict[str, list[tuple[int, Frame]]] = {"": []}
    for step in episode.steps:
        for name, frame in step.frames.items():
            found.setdefault(name, []).append((step.number, frame))
        query = step.query
        if query is not None and query.image is not None and (levels_known(query) or pixel_spread(query) == 0.0):
            found[""].append((step.number, query.image))
    return found


def _view(camera: str, taken: Sequence[tuple[int, Frame]]) -> View:
    return View(camera, tuple(frame for _, frame in taken), tuple(measure(frame, step) for step, frame in taken))


@lru_cache(maxsize=16)
def _surfaces(height: int, width: int) -> np.ndarray:
    """Orthonormal basis of the polynomials up to the third degree on a grid, float32 (height * width, 10)."""
    rows, columns = np.meshgrid(np.linspace(-1.0, 1.0, height), np.linspace(-1.0, 1.0, width), indexing="ij")
    powers = [(i, j) for i in range(_DEGREE + 1) for j in range(_DEGREE + 1 - i)]
    basis = np.stack([rows**i * columns**j for i, j in powers], axis=-1).reshape(height * width, -1)
    return np.linalg.qr(basis)[0].astype(np.float32)
