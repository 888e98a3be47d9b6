"""How the raw frame became the model's image: by which filter, through JPEG or not, and with how much of its detail.

Only full frames can say, which a trace has of the first query and of every 25th. The image is computed anew from the
raw frame in every way that is known here (turned, through JPEG or not, resized by one of seven filters, cut out at the
place where registration found it, before or after), each compared with what the model was really given. A gain and an
offset of each channel and exchanged channels are allowed for, as they are no matter of resampling.

Measured on 120 frames of LIBERO (6 tasks, both cameras) resized from 256 to 128 and to 224 pixels: the way that was
taken is found again to 0.0 levels (root mean square), any other differs: left-out JPEG by 1.2 to 1.8, a bicubic filter
for Lanczos by 0.6 to 0.8, bilinear by 1.5 to 2.1, no antialiasing by 0.8 to 2.1, nearest neighbour by 3.9 to 5.5, and
an intermediate picture of half as many pixels by 3.4 to 8.
"""

from __future__ import annotations

import io
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from vladoctor.facts.following import Match, matches
from vladoctor.facts.frames import levels_known
from vladoctor.facts.registration import Registration, apply

if TYPE_CHECKING:
    from vladoctor.facts import Facts

FILTERS: Mapping[str, str] = {
    "lanczos3": "Lanczos",
    "bicubic": "bicubic",
    "bilinear": "bilinear",
    "area": "area average",
    "bilinear, no antialiasing": "bilinear without antialiasing, as in cv2.resize",
    "nearest": "nearest neighbour",
    "nearest, upper left": "nearest neighbour, as in cv2.resize",
}

_PILLOW = {
    "lanczos3": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "area": Image.Resampling.BOX,
    "nearest": Image.Resampling.NEAREST,
}

_QUALITY = 95
"""Of the JPEG. Source: default of tf.image.encode_jpeg, see openvla/openvla@c8f03f4 libero_utils.py:42-43."""

_SNAP = 0.015
"""A window this close to the expected one is taken to be that. VD202 lets it pass; a filter that drops pixels shifts
the picture by half of one, 0.004 of a frame of 128."""

_EDGE = 4
"""Pixels along the edges that are not compared: filters differ in what they think lies outside."""

_SMALL = (32, 48, 56, 64, 80, 84, 96, 112, 120, 128, 160, 192, 200, 224)
"""Sides of intermediate pictures that are tried."""

_BLURRED = 0.85
"""Share of the expected detail under which intermediate pictures are thought of."""

_EXACT = 0.05
"""Levels by which ways that did the same differ."""


@dataclass(frozen=True)
class Way:
    """One way from the raw frame to the model's image.

    Attributes:
        filter: one of `FILTERS`.
        jpeg: through JPEG before it is resized.
        crop_first: the window is cut out before resizing, and not after it.
        small: side of an intermediate picture, or None.
    """

    filter: str
    jpeg: bool = False
    crop_first: bool = False
    small: int | None = None

    @property
    def described(self) -> str:
        jpeg = "through JPEG" if self.jpeg else "without JPEG"
        if self.small is not None:
            return f"{jpeg}, shrunk to {self.small} pixels and enlarged again ({FILTERS[self.filter]})"
        return f"{jpeg}, resized by {FILTERS[self.filter]}"


@dataclass(frozen=True)
class Reproduction:
    """How well known ways reproduce one image.

    Attributes:
        step, camera: which image.
        expected: the best of the ways that were expected; expected_error: its error, root mean square in levels.
        best: the best of all that were tried; error: its error.
        detail: fine detail of the image over that of the expected one, 1 where they are alike.
    """

    step: int
    camera: str
    expected: Way
    expected_error: float
    best: Way
    error: float
    detail: float


_found: weakref.WeakKeyDictionary[Facts, Reproduction | None] = weakref.WeakKeyDictionary()


def expected_ways(resize: str | None, jpeg: bool | None) -> list[Way]:
    """The ways that a profile's `image.resize` and `image.jpeg_round_trip` allow; none if it says nothing of either."""
    if (resize is None and jpeg is None) or (resize is not None and resize not in FILTERS):
        return []
    filters = list(FILTERS)[:4] if resize is None else [resize]
    return [Way(*one) for one in product(filters, (True, False) if jpeg is None else (jpeg,), (False, True))]


def reproduction(facts: Facts, expected: Sequence[Way], side: float | None, good: float) -> Reproduction | None:
    """Compare the first image of which full frames were kept with what known ways make of its raw frame.

    Args:
        side: of the centre crop that is expected, as a fraction; None where that is not known.
        good: error up to which the expected way is right, and no other one is looked for.

    Returns:
        None where there are no full frames, or where the image is padded, or lies on none of them.
    """
    if facts not in _found:
        _found[facts] = _reproduce(facts, expected, side, good)
    return _found[facts]


def _reproduce(facts: Facts, expected: Sequence[Way], side: float | None, good: float) -> Reproduction | None:
    steps = {step.number: step for step in facts.episode.steps}
    for match in matches(facts):
        step = steps[match.step]
        query = step.query
        if query is None or query.image is None or not match.measured or not levels_known(query):
            continue
        raw, image = step.frames[match.camera].full, query.image.full
        if raw is None or image is None:
            continue
        if max(match.registration.scales) > 1.02 or min(*raw.shape[:2], *image.shape[:2]) < 4 * _EDGE:
            return None
        return _compare(match, raw, image, expected, side, good)
    return None


def _compare(
    match: Match, raw: np.ndarray, image: np.ndarray, expected: Sequence[Way], side: float | None, good: float
) -> Reproduction:
    window = _window(match.registration, side)
    frame = np.ascontiguousarray(apply(match.registration.element, raw))
    tried: dict[Way, float] = {}
    made: dict[Way, np.ndarray] = {}

    through_jpeg: list[np.ndarray] = []

    def source(way: Way) -> np.ndarray:
        if not way.jpeg:
            return frame
        if not through_jpeg:
            through_jpeg.append(_through_jpeg(frame))
        return through_jpeg[0]

    def errors(ways: Sequence[Way]) -> float:
        for way in ways:
            if way not in tried:
                made[way] = take(source(way), replace(way, jpeg=False), image.shape[:2], window)
                tried[way] = difference(image, made[way])
            if tried[way] <= good / 3.0:
                break
        return min(tried.values())

    errors(expected)
    wanted = min((way for way in expected if way in tried), key=tried.__getitem__)
    if tried[wanted] > good:
        errors([Way(*one) for one in product(FILTERS, (True, False), (False, True))])
        if min(tried.values()) > good and detail(image) < _BLURRED * detail(made[wanted]):
            small = [one for one in _SMALL if one < min(*frame.shape[:2], *image.shape[:2])]
            errors([Way(*one) for one in product(list(FILTERS)[:3], (wanted.jpeg,), (False,), small)])
    best = min(tried, key=lambda way: (tried[way] > min(tried.values()) + _EXACT, way not in expected))
    return Reproduction(
        match.step,
        match.camera,
        wanted,
        tried[wanted],
        best,
        tried[best],
        detail(image) / max(detail(made[wanted]), 1e-6),
    )


def take(frame: np.ndarray, way: Way, shape: tuple[int, int], window: tuple[float, float, float, float]) -> np.ndarray:
    """Make an image of a frame, float32 (*shape, 3), in levels.

    Args:
        frame: uint8 (H, W, 3), turned already.
        window: top, height, left, width, as fractions of the frame.
    """
    picture = _through_jpeg(frame) if way.jpeg else frame
    whole = window == (0.0, 1.0, 0.0, 1.0)
    if way.crop_first and not whole:
        top, height, left, width = window
        # A frame that was shifted shows less than there is on one side: nothing before its first pixel can be cut out.
        first, low = max(round(top * picture.shape[0]), 0), max(round(left * picture.shape[1]), 0)
        last, high = round((top + height) * picture.shape[0]), round((left + width) * picture.shape[1])
        picture = np.ascontiguousarray(picture[first:last, low:high])
    if way.small is not None:
        picture = _resize(picture, (way.small, way.small), "area")
    picture = _resize(picture, shape, way.filter)
    if not way.crop_first and not whole:
        rows, columns = (_inside(length, *part) for length, part in zip(shape, (window[:2], window[2:]), strict=True))
        return _bilinear(picture.astype(np.float32), rows, columns)
    return picture.astype(np.float32)


def difference(seen: np.ndarray, made: np.ndarray) -> float:
    """Root mean square difference in levels, away from the edges, after the best gain and offset of each channel."""
    inside = (slice(_EDGE, -_EDGE), slice(_EDGE, -_EDGE))
    # Each channel in one piece: numpy takes several times as long across them.
    one, other = (
        np.ascontiguousarray(picture[inside].transpose(2, 0, 1), np.float64).reshape(3, -1) for picture in (seen, made)
    )
    one -= one.mean(axis=1, keepdims=True)
    other -= other.mean(axis=1, keepdims=True)
    # What the best gain of each channel leaves needs no residual, only the products.
    products, squares = one @ other.T, np.maximum(np.einsum("cp,cp->c", other, other), 1e-6)
    left = [
        float(np.vdot(one, one)) - (np.diagonal(crossed) ** 2 / size).sum()
        for crossed, size in ((products, squares), (products[:, ::-1], squares[::-1]))
    ]
    return float(np.sqrt(max(min(left), 0.0) / one.size))


def detail(picture: np.ndarray) -> float:
    """Standard deviation of what each pixel differs by from its four neighbours' mean, in levels."""
    grey = picture[..., 0].astype(np.float32)
    for channel in range(1, picture.shape[2]):
        grey += picture[..., channel]
    grey /= np.float32(picture.shape[2])
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return float((grey[1:-1, 1:-1] - around / 4.0).std())


def _window(found: Registration, side: float | None) -> tuple[float, float, float, float]:
    """Top, height, left and width of the image in the turned frame, set right where a window is expected nearby."""
    values = (found.offset[0], found.scales[0], found.offset[1], found.scales[1])
    for expected in (side, 1.0):
        if expected is not None:
            usual = ((1.0 - expected) / 2.0, expected) * 2
            if all(abs(value - other) <= _SNAP for value, other in zip(values, usual, strict=True)):
                return usual[0], usual[1], usual[2], usual[3]
    return values


def _inside(length: int, start: float, side: float) -> np.ndarray:
    """Where a window's pixels lie among `length` of the frame: corner on corner, as tf.image.crop_and_resize has it."""
    return (start + side * (np.arange(length) + 0.5) / length) * length - 0.5


def _resize(picture: np.ndarray, shape: tuple[int, int], name: str) -> np.ndarray:
    if picture.shape[:2] == shape:
        return picture
    if name in _PILLOW:
        return np.asarray(Image.fromarray(picture).resize(shape[::-1], _PILLOW[name]))
    if name == "nearest, upper left":
        rows, columns = (np.arange(new) * old // new for new, old in zip(shape, picture.shape, strict=False))
        return picture[rows[:, None], columns]
    rows, columns = ((np.arange(new) + 0.5) * old / new - 0.5 for new, old in zip(shape, picture.shape, strict=False))
    return np.rint(_bilinear(picture.astype(np.float32), rows, columns)).astype(np.uint8)


def _bilinear(picture: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Interpolate float32 (H, W, 3) between its pixels, without antialiasing."""
    for axis, places in enumerate((rows, columns)):
        places = np.clip(places, 0.0, picture.shape[axis] - 1.0)
        low = np.floor(places).astype(int)
        high = np.minimum(low + 1, picture.shape[axis] - 1)
        weight = (places - low).astype(np.float32).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        picture = np.take(picture, low, axis) * (1 - weight) + np.take(picture, high, axis) * weight
    return picture


def _through_jpeg(frame: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=_QUALITY, subsampling="4:2:0")
    return np.asarray(Image.open(buffer))
