"""In which order the model's image has the channels of the raw frame.

The image is laid over the frame at the place where it was found (`registration.aligned`). What goes along with the
brightness of the pixels is taken away, which leaves colour alone, whatever tint or normalisation the channels have been
through. Of the six orders, the one counts in which the colours of both correlate best.

Where a picture has no colour to speak of, or colours of which two channels say the same, there is no answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np

from vladoctor.facts.following import image_in
from vladoctor.facts.links import ImageLink, image_links
from vladoctor.facts.registration import MIN_SCORE, Registration, aligned
from vladoctor.facts.sampling import spread

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.records import Frame

_SIZE = 32
_MOST, _FEW = 40, 8
"""So many images of a slot are looked at, spread over the episode; a few where exchanged channels would show in the
mean colour, as then every change of it is seen."""

_TINTED = 2.0
"""Levels between the means of red and blue from which that is so. What lies between them in the image less what lies
between them in the frame changes by half a level from one query to the next, and by twice as much as lies between them
if they are exchanged."""

_ORDERS = tuple(permutations(range(3)))


@dataclass(frozen=True)
class ColourOrder:
    """The channels of one image, in terms of the raw frame's.

    Attributes:
        step, slot, camera: which image, and the camera whose frame it was made of.
        order: "RGB" where they are as in the raw frame, "BGR" where the first and last are exchanged, and so on.
        score: correlation of the colours in that order, -1..1; as_is: in the raw frame's own order.
        runner_up: that of the next best order.
        chroma: the weaker of both pictures' colour, standard deviation in levels of 0..255.
    """

    step: int
    slot: str
    camera: str
    order: str
    score: float
    as_is: float
    runner_up: float
    chroma: float

    @property
    def margin(self) -> float:
        return self.score - self.runner_up


def channel_order(raw: np.ndarray, image: np.ndarray, found: Registration) -> tuple[str, float, float, float, float]:
    """Order, score, score as it is, runner-up and chroma; see `ColourOrder`.

    Args:
        raw, image: uint8 (H, W, 3), of any size.
        found: how the image lies on the frame.
    """
    scene, seen = (_chroma(one) for one in aligned(raw, image, found, _SIZE))
    both = np.sqrt((scene**2).sum() * (seen**2).sum())
    products = scene @ seen.T
    scores = np.array([products[order, range(3)].sum() for order in _ORDERS]) / max(float(both), 1e-6)
    best, second = np.argsort(-scores)[:2]
    chroma = float(min(scene.std(), seen.std()))
    name = "".join("RGB"[channel] for channel in _ORDERS[best])
    return name, float(scores[best]), float(scores[0]), float(scores[second]), chroma


def colour_orders(facts: Facts) -> tuple[ColourOrder, ...]:
    """The order of the channels in the images of an episode, of all slots, as far as their frames are known."""
    steps = {step.number: step for step in facts.episode.steps}
    by_slot: dict[str, list[ColourOrder]] = {}
    links = [link for link in image_links(facts) if link.registration is not None and link.found]
    for slot in dict.fromkeys(link.slot for link in links):
        pairs: list[tuple[ImageLink, Frame, Frame]] = []
        for link in links:
            if link.slot == slot and link.lies.score >= MIN_SCORE:
                image = image_in(steps[link.step].query, slot)
                raw = steps[link.last].frames.get(link.camera) if link.last in steps else None
                if image is not None and raw is not None:
                    pairs.append((link, image, raw))
        for place in _chosen(pairs):
            link, image, raw = pairs[place]
            measured = channel_order(raw.thumbnail, image.thumbnail, link.lies)
            by_slot.setdefault(slot, []).append(ColourOrder(link.step, slot, link.camera, *measured))
    return tuple(one for found in by_slot.values() for one in found)


def _chosen(pairs: Sequence[tuple[ImageLink, Frame, Frame]]) -> list[int]:
    """Which images of a slot to look at, given each with the frame that it was made of."""
    if len(pairs) <= _FEW:
        return list(range(len(pairs)))
    colours = np.array([(image.statistics.colour, raw.statistics.colour) for _, image, raw in pairs])
    tints = colours[..., 0] - colours[..., 2]
    tint = float(np.median(np.abs(tints[:, 1])))
    if tint < _TINTED:
        return spread(len(pairs), _MOST)
    changed = np.concatenate([[False], np.abs(np.diff(tints[:, 0] - tints[:, 1])) > tint])
    return spread(len(pairs), _FEW, changed)


def _chroma(picture: np.ndarray) -> np.ndarray:
    """What is left of float (h, w, 3) without all that goes along with the pixels' brightness: (3, h * w)."""
    flat = np.ascontiguousarray(picture.transpose(2, 0, 1)).reshape(3, -1)
    flat -= flat.mean(axis=1, keepdims=True)
    grey = (flat[0] + flat[1] + flat[2]) / 3.0
    return np.asarray(flat - np.outer(flat @ grey / max(float(grey @ grey), 1e-6), grey))
