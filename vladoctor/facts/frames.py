"""What is in the frames at all: brightness and structure of every camera's every frame, and of the model's image; and
which of them are one and the same picture.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.records import Episode, Frame, Query

EEF = "robot0_eef_pos"
"""Name of the gripper's position among the proprioceptive values: metres, world frame."""

_PLACES = (EEF, "eef_pos", "ee_pos", "tcp_pos")
"""Names of the hand's position in observations, metres."""


class FrameStatistics(NamedTuple):
    """One frame in numbers, in levels of 0..255; see `pictures.PictureStatistics` for those that are not named here.

    Attributes:
        step: step number.
        minimum, maximum: over the full frame where that was measured, else over the thumbnail.
    """

    step: int
    minimum: float
    maximum: float
    mean: float
    colour: tuple[float, ...]
    std: float
    structure: float
    brightest: float
    grain: float
    agreement: float


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
    """The numbers of one frame, which are its thumbnail's; the extremes are the full frame's."""
    seen = frame.statistics
    minimum = seen.least if frame.minimum is None else float(frame.minimum)
    maximum = seen.greatest if frame.maximum is None else float(frame.maximum)
    return FrameStatistics(step, minimum, maximum, *seen[:7])


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
    last: tuple[list[float], np.ndarray] | None = None
    for statistics, frame in zip(view.statistics, view.frames, strict=True):
        at = moved.at.get(statistics.step)
        if at is None:
            continue
        place = at.tolist()
        if last is None or max(abs(now - before) for now, before in zip(place, last[0], strict=True)) >= stride:
            small = _small(frame.grey)
            if last is not None and small.shape == last[1].shape:
                shares.append(float((np.abs(small - last[1]) > _CHANGED).mean()))
            last = place, small
    return Changes(float(np.median(shares)) if shares else 0.0, len(shares))


def _small(grey: np.ndarray) -> np.ndarray:
    """Averaged over 2 x 2 pixels."""
    rows, columns = (side // 2 * 2 for side in grey.shape)
    pairs = grey[:rows:2, :columns].astype(np.float32) + grey[1:rows:2, :columns]
    return np.asarray((pairs[:, ::2] + pairs[:, 1::2]) / 4.0)


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


_motions: weakref.WeakKeyDictionary[Facts, Motion | None] = weakref.WeakKeyDictionary()


def motion(facts: Facts) -> Motion | None:
    """Follow the gripper's position, or where that is not recorded the proprioceptive value that changes most.

    Computed once for each `Facts`.
    """
    if facts not in _motions:
        found: dict[str, dict[int, Sequence[float]]] = {}
        for step in facts.episode.steps:
            for name, values in step.proprio.items():
                # Velocities come back to the same value everywhere, and say nothing of where the robot is.
                if "vel" not in name:
                    found.setdefault(name, {})[step.number] = values
        places = [one for name in _PLACES if (one := _motion(name, found.get(name, {}))) and one.metres]
        known = places or [one for name, at in found.items() if (one := _motion(name, at))]
        _motions[facts] = max(known, key=lambda one: one.whole, default=None)
    return _motions[facts]


def _motion(name: str, at: Mapping[int, Sequence[float]]) -> Motion | None:
    """How one proprioceptive value changed; None where it was not recorded alike at every step."""
    sizes = {np.size(values) for values in at.values()}
    if len(at) < 2 or len(sizes) > 1 or sizes == {0}:
        return None
    stack = np.array(list(at.values()), dtype=np.float64).reshape(len(at), -1)
    if not np.isfinite(stack).all():
        return None
    metres = name in _PLACES and sizes == {3}
    return Motion(name, metres, dict(zip(at, stack, strict=True)), float(np.ptp(stack, axis=0).max()))


def repeats(view: View) -> list[tuple[int, ...]]:
    """Places in `view.frames` that hold one and the same picture, value by value; of at least two frames each.

    Pictures are compared as recorded: a thumbnail of 64 pixels through JPEG, which is the same for the same frame.
    """
    alike: dict[bytes, list[int]] = {}
    for place, frame in enumerate(view.frames):
        alike.setdefault(frame.grey.tobytes(), []).append(place)
    groups: dict[bytes, list[int]] = {}
    for places in alike.values():
        for place in places if len(places) > 1 else ():
            groups.setdefault(view.frames[place].identity, []).append(place)
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
