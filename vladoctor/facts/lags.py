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
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vladoctor.facts.following import MEASURED, greys, image_in
from vladoctor.facts.links import ImageLink, image_links, image_slots
from vladoctor.facts.registration import Registration, inside, resampled, turned, window_of

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.records import Frame, Step

_SIZE = 32

_ROUNDS = 3
"""Rounds in which the steps and what the way does to every picture are found in turn."""

_ENOUGH = 5
"""Queries from which what the way does to every picture is measured."""

_FLOOR = 1.0
"""Levels² by which two frames have to differ to be told apart, at least."""

_TIMES = 3.0
"""And the same in times the residual of a picture and the frame that it was made of."""

_SOME = 16
"""Frames with which every one is compared first, to see whether anything changes."""

_LONGEST = 4000
"""Frames of an episode that are compared, the latest first; beyond that memory and time count."""


class Age(NamedTuple):
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
    if known.score < MEASURED:
        # Tilted by a few degrees, say: what is left between images and frames is more than their age.
        return None
    steps = [step for step in facts.episode.steps if camera in step.frames][-_LONGEST:]
    pairs = [(place, image) for place, step in enumerate(steps) if (image := image_in(step.query, slot)) is not None]
    if not pairs or len(steps) < 2:
        return None
    asked, images = np.array([place for place, _ in pairs]), [image for _, image in pairs]
    frames, given = _pictures(steps, camera, images, known)
    distances = _distances(frames, given, asked)
    return SlotAges(slot, camera, tuple(_read(steps, asked, images, frames, given, distances)))


def _pictures(
    steps: Sequence[Step], camera: str, images: Sequence[Frame], known: Registration
) -> tuple[np.ndarray, np.ndarray]:
    """Frames and images, cut to what both show: float32 (n, 1024) each."""
    cut = window_of(known, images[0].grey)
    shapes = {image.grey.shape for image in images}
    groups = [np.stack([image.grey for image in images])] if len(shapes) == 1 else [one.grey[None] for one in images]
    shown = np.concatenate([turned(cut.undo, resampled(inside(group, cut.content), _SIZE)) for group in groups])
    frames = cut.of_frames(greys([step.frames[camera] for step in steps]), _SIZE)
    return frames.reshape(len(frames), -1), shown.reshape(len(shown), -1)


def _distances(frames: np.ndarray, given: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Mean square difference of every image and every frame up to its own: float (queries, frames), inf beyond."""
    later = np.arange(len(frames))[None] > asked[:, None]
    before = None
    # Of the distances only what is done to the frames changes from round to round: the products are made once, around
    # the means, so that float32 does not lose small differences.
    centre, middle = frames.mean(axis=0), given.mean(axis=0)
    seen, shown = frames - centre, given - middle
    products = shown @ seen.T
    own, squares = (np.einsum("np,np->n", one, one, dtype=np.float64) for one in (seen, shown))
    best = frames[asked].mean(axis=0)
    gain = _slope(*_spreads(best, middle))
    # By how much the mean image differs from the middle of the frames, gain and offset taken away.
    rest = middle - middle.mean() - gain * (centre - best.mean())
    for turn in range(_ROUNDS):
        sums = (squares + 2.0 * (shown @ rest) + float(rest @ rest)) / gain**2
        distances = np.maximum(sums[:, None] + own - 2.0 / gain * (products + rest @ seen.T), 0.0) / frames.shape[1]
        distances[later] = np.inf
        nearest = distances.argmin(axis=1)
        if turn == _ROUNDS - 1 or len(given) < _ENOUGH or (before is not None and (nearest == before).all()):
            break
        before, moved = nearest, seen[nearest].mean(axis=0)
        best = centre + moved
        # Over all pixels of all pictures: what they have around their means, and what the means have.
        covariance, variance = _spreads(best, middle)
        covariance += float(products[np.arange(len(given)), nearest].mean(dtype=np.float64))
        variance += float(own[nearest].mean()) - float(moved @ moved)
        gain = _slope(covariance, variance)
        # What the way does to each pixel is taken away as well from now on; of the means, their frames are left.
        rest = gain * moved
    return distances


def _spreads(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """Covariance of two pictures with each other and variance of the first, each times the number of pixels."""
    centred = ours - ours.mean()
    return float(centred @ (theirs - theirs.mean())), float(centred @ centred)


def _slope(covariance: float, variance: float) -> float:
    """Slope of the line from frames to images, within what brightness and contrast are ever set to."""
    return min(max(covariance / max(variance, 1e-6), 0.2), 5.0)


def _square(ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Mean square difference of rows, float64 (n, m)."""
    # Around their common mean, so that float32 does not lose the small differences.
    centre = others.mean(axis=0)
    a, b = (ones - centre).astype(np.float32), (others - centre).astype(np.float32)
    sums = (a.astype(np.float64) ** 2).sum(axis=1)[:, None] + (b.astype(np.float64) ** 2).sum(axis=1)[None]
    return np.maximum(sums - 2.0 * (a @ b.T), 0.0) / a.shape[1]


def _read(
    steps: Sequence[Step],
    asked: np.ndarray,
    images: Sequence[Frame],
    frames: np.ndarray,
    given: np.ndarray,
    distances: np.ndarray,
) -> list[Age]:
    rows = np.arange(len(asked))
    least = distances.min(axis=1)
    gap = max(_FLOOR, (_TIMES - 1.0) * float(np.median(least)))
    alike = distances <= (least + np.maximum(gap, (_TIMES - 1.0) * least))[:, None]
    # The usual case: the own frame fits, and the one before it does not.
    clear = alike[rows, asked] & ~((asked > 0) & alike[rows, np.maximum(asked - 1, 0)])
    told = _told(frames, asked, 2.0 * gap)
    before = np.concatenate([asked[:1], asked[:-1]])
    moved = ((frames[asked] - frames[before]) ** 2).mean(axis=1) > gap
    same = np.concatenate([[False], (given[1:] == given[:-1]).all(axis=1)])
    own = distances[rows, asked]
    numbers = [step.number for step in steps]
    ages: list[Age] = []
    for row, place in enumerate(asked.tolist()):
        first = last = place
        if not clear[row]:
            first = last = place if alike[row, place] else int(distances[row, : place + 1].argmin())
            while first > 0 and alike[row, first - 1]:
                first -= 1
            while last < place and alike[row, last + 1]:
                last += 1
        again = bool(same[row] and moved[row]) and images[row].identity == images[row - 1].identity
        ages.append(
            Age(
                numbers[place],
                numbers[first],
                numbers[last],
                float(least[row]),
                float(own[row]),
                place - last,
                bool(told[row]),
                again,
            )
        )
    return ages


def _told(frames: np.ndarray, asked: np.ndarray, far: float) -> np.ndarray:
    """Whether any frame before each of some is further from it than `far`, in levels²: bool (n,)."""
    # Some frames spread over the episode tell it of almost all others.
    some = np.unique(np.linspace(0, len(frames) - 1, _SOME).astype(int))
    told = ((_square(frames[asked], frames[some]) > far) & (some[None] < asked[:, None])).any(axis=1)
    for row in np.flatnonzero(~told):
        earlier = frames[: asked[row]]
        told[row] = len(earlier) > 0 and bool((((earlier - frames[asked[row]]) ** 2).mean(axis=1) > far).any())
    return told
