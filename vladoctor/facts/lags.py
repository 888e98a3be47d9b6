"""How old the frames are that the model was given: every image of a query beside every frame of its camera.

Neighbouring frames hardly differ, so this is decided on what changes. The window of the frame that the model's image
shows is known from registration (`vladoctor.facts.links`) and is the same all through an episode; cut to it, frames and
images are compared pixel by pixel at 32 x 32 in grey. What the way to the model does to every picture alike (a resize,
JPEG, a gain, an offset) is measured over the episode and taken away; what is left is the step.

Measured on 40 episodes of libero_object: an image is 0.4 to 0.9 levels² from the frame that it was made of, and
neighbouring frames are 12 apart at the median (5 % of them, at rest, under 0.1).
"""

from __future__ import annotations

import weakref
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vladoctor.facts.links import IMAGE, ImageLink, image_links, image_slots
from vladoctor.facts.registration import Registration, grey, window_of

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.records import Frame, Step

_GRID, _SIZE = 64, 32

_ROUNDS = 3
"""Rounds in which the steps and what the way does to every picture are found in turn."""

_ENOUGH = 5
"""Queries from which what the way does to every picture is measured."""

_FLOOR = 1.0
"""Levels² by which two frames have to differ to be told apart, at least."""

_TIMES = 3.0
"""And the same in times the residual of a picture and the frame that it was made of."""

_LONGEST = 4000
"""Frames of an episode that are compared, the latest first; beyond that memory and time count."""


@dataclass(frozen=True)
class Age:
    """Which steps' frames an image can be of.

    Attributes:
        step: of the query.
        first, last: steps whose frames fit alike; those between them too.
        residual: of the best of them, mean square in levels².
        own: of the frame of the query's own step.
        frames: how many recorded frames lie between `last` and the query's own; 0 where its own fits.
        told: whether any earlier frame differs enough from the own one to be told from it.
        again: the image is, value by value, that of the query before, and the frame of the own step is not the same.
    """

    step: int
    first: int
    last: int
    residual: float
    own: float
    frames: int
    told: bool
    again: bool

    @property
    def stale(self) -> bool:
        return self.last < self.step


@dataclass(frozen=True)
class SlotAges:
    """The ages of the images of one slot."""

    slot: str
    camera: str
    ages: tuple[Age, ...]

    @property
    def decided(self) -> list[Age]:
        return [age for age in self.ages if age.stale or age.told]

    @property
    def stale(self) -> list[Age]:
        return [age for age in self.ages if age.stale]


_ages: weakref.WeakKeyDictionary[Facts, tuple[SlotAges, ...]] = weakref.WeakKeyDictionary()


def image_ages(facts: Facts) -> tuple[SlotAges, ...]:
    """Measure the age of every image, slot by slot; slots that fit no camera are left out. Computed once."""
    if facts not in _ages:
        links: dict[str, list[ImageLink]] = defaultdict(list)
        for link in image_links(facts):
            if link.found:
                links[link.slot].append(link)
        found = (_slot_ages(facts, slot, links[slot]) for slot in image_slots(facts.episode) if links.get(slot))
        _ages[facts] = tuple(one for one in found if one is not None)
    return _ages[facts]


def _slot_ages(facts: Facts, slot: str, links: Sequence[ImageLink]) -> SlotAges | None:
    (camera, element), _ = Counter((link.camera, link.lies.element) for link in links).most_common(1)[0]
    lying = [link.lies for link in links if (link.camera, link.lies.element) == (camera, element)]
    # Any one of them will do, and the best the best.
    known = max(lying, key=lambda one: one.score)
    steps = [step for step in facts.episode.steps if camera in step.frames][-_LONGEST:]
    asked = [place for place, step in enumerate(steps) if _image(step, slot) is not None]
    if not asked or len(steps) < 2:
        return None
    images = [_given(steps[place], slot) for place in asked]
    frames, given = _pictures(steps, camera, images, known)
    distances = _distances(frames, given, asked)
    return SlotAges(slot, camera, tuple(_read(steps, asked, images, frames, distances)))


def _image(step: Step, slot: str) -> Frame | None:
    if step.query is None:
        return None
    return step.query.image if slot == IMAGE else step.query.more_images.get(slot)


def _given(step: Step, slot: str) -> np.ndarray:
    image = _image(step, slot)
    assert image is not None
    return image.thumbnail


def _pictures(
    steps: Sequence[Step], camera: str, images: Sequence[np.ndarray], known: Registration
) -> tuple[np.ndarray, np.ndarray]:
    """Frames and images, cut to what both show: float32 (n, 1024) each."""
    frames = np.stack([grey(step.frames[camera].thumbnail, _GRID) for step in steps])
    cut = window_of(known, images[0])
    return cut.of_frames(frames, _SIZE).reshape(len(steps), -1), np.stack(
        [cut.of_image(image, _SIZE).ravel() for image in images]
    )


def _distances(frames: np.ndarray, given: np.ndarray, asked: Sequence[int]) -> np.ndarray:
    """Mean square difference of every image and every frame up to its own: float (queries, frames), inf beyond."""
    later = np.arange(len(frames))[None] > np.asarray(asked)[:, None]
    mean_frame, mean_given = frames[asked].mean(axis=0), given.mean(axis=0)
    gain, shift, way = _line(mean_frame, mean_given), 0.0, np.zeros_like(mean_frame)
    shift = float(mean_given.mean() - gain * mean_frame.mean())
    for turn in range(_ROUNDS):
        wanted = (given - shift - way) / gain
        distances = _square(wanted, frames)
        distances[later] = np.inf
        if turn == _ROUNDS - 1 or len(given) < _ENOUGH:
            break
        best = frames[distances.argmin(axis=1)]
        gain = _line(best.ravel(), given.ravel())
        shift = float(given.mean() - gain * best.mean())
        way = (given - gain * best - shift).mean(axis=0)
    return distances


def _line(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Slope of the line from frames to images, within what brightness and contrast are ever set to."""
    centred = ours - ours.mean()
    slope = float(centred @ (theirs - theirs.mean()) / max(float(centred @ centred), 1e-6))
    return min(max(slope, 0.2), 5.0)


def _square(ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Mean square difference of rows, float64 (n, m)."""
    # Around their common mean, so that float32 does not lose the small differences.
    centre = others.mean(axis=0)
    a, b = (ones - centre).astype(np.float32), (others - centre).astype(np.float32)
    sums = (a.astype(np.float64) ** 2).sum(axis=1)[:, None] + (b.astype(np.float64) ** 2).sum(axis=1)[None]
    return np.maximum(sums - 2.0 * (a @ b.T), 0.0) / a.shape[1]


def _read(
    steps: Sequence[Step],
    asked: Sequence[int],
    images: Sequence[np.ndarray],
    frames: np.ndarray,
    distances: np.ndarray,
) -> list[Age]:
    least = distances.min(axis=1)
    gap = max(_FLOOR, (_TIMES - 1.0) * float(np.median(least)))
    ages: list[Age] = []
    for row, own in enumerate(asked):
        scores = distances[row, : own + 1]
        alike = np.flatnonzero(scores <= least[row] + max(gap, (_TIMES - 1.0) * least[row]))
        fits = own if own in alike else int(scores.argmin())
        first = last = fits
        among = set(alike.tolist())
        while first - 1 in among:
            first -= 1
        while last + 1 in among:
            last += 1
        told = bool((((frames[:own] - frames[own]) ** 2).mean(axis=1) > 2.0 * gap).any()) if own else False
        before = asked[row - 1] if row else own
        moved = row > 0 and float(((frames[own] - frames[before]) ** 2).mean()) > gap
        ages.append(
            Age(
                step=steps[own].number,
                first=steps[first].number,
                last=steps[last].number,
                residual=float(least[row]),
                own=float(scores[-1]),
                frames=own - last,
                told=told,
                again=bool(moved and np.array_equal(images[row], images[row - 1])),
            )
        )
    return ages
