"""What is kept of a picture beside the picture: numbers that tell a scene from black, noise or nothing, and its grey.

Both are made of the thumbnail, once, when a frame is recorded (in the worker, see `vladoctor.taps.worker`), and stand
in the trace, so that judging thousands of steps decodes the few pictures that a check has to look at. Recordings
without them are measured when they are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

_DEGREE = 3

_DIGITS = 3
"""Decimals that a trace keeps; everything is in levels of 0..255, but for `agreement`."""


class PictureStatistics(NamedTuple):
    """One picture in numbers, in levels of 0..255.

    Attributes:
        mean: over all pixels and channels.
        colour: mean of each channel.
        std: standard deviation over the pixels, of the channel that varies most.
        structure: what is left of `std` after a smooth surface (a cubic polynomial) has been taken away: 0 for a
            uniform picture or a sky gradient.
        brightest: 99 % of the values are at most this, so that hot pixels do not count.
        grain: median difference between neighbouring pixels, down plus across; 0 for smooth surfaces, twice the `std`
            for white noise.
        agreement: mean correlation between the channels' differences from their neighbours, -1..1: the same edges in
            all of them (1), or channels that know nothing of each other (0), as in noise.
        least, greatest: value.
    """

    mean: float
    colour: tuple[float, ...]
    std: float
    structure: float
    brightest: float
    grain: float
    agreement: float
    least: float
    greatest: float

    def to_json(self) -> dict[str, Any]:
        """As a trace keeps it."""
        return {
            name: tuple(round(one, _DIGITS) for one in value) if name == "colour" else round(value, _DIGITS)
            for name, value in self._asdict().items()
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> PictureStatistics | None:
        """Read back what `to_json` made; None where a field is missing."""
        try:
            mean, colour, *others = _IN_ORDER(record)
            return cls(mean, tuple(colour), *others)
        except (KeyError, TypeError):
            return None


_IN_ORDER = itemgetter(*PictureStatistics._fields)


def measure(picture: np.ndarray) -> PictureStatistics:
    """Measure a picture, uint8 (h, w, channels)."""
    height, width, count = picture.shape
    # Each channel in one piece: numpy takes several times as long across them.
    values = np.ascontiguousarray(picture.transpose(2, 0, 1), np.float32)
    flat = values.reshape(count, -1)
    colour = flat.mean(axis=1, dtype=np.float64)
    centred = flat - colour.astype(np.float32)[:, None]
    squares = np.einsum("cp,cp->c", centred, centred)
    # The surfaces are orthonormal: what they explain of the squares needs no residual.
    explained = ((centred @ _surfaces(height, width)) ** 2).sum(axis=1)
    grain, agreement = _texture(picture, values)
    return PictureStatistics(
        mean=float(colour.mean()),
        colour=tuple(colour.tolist()),
        std=float(np.sqrt(squares.max() / flat.shape[1])),
        structure=float(np.sqrt(max(float((squares - explained).max()), 0.0) / flat.shape[1])),
        brightest=_quantile(picture, 0.99),
        grain=grain,
        agreement=agreement,
        least=float(picture.min()),
        greatest=float(picture.max()),
    )


def greyed(picture: np.ndarray) -> np.ndarray:
    """Mean of the channels of uint8 (h, w, 3), rounded to a level: uint8 (h, w)."""
    total = picture[..., 0].astype(np.uint16)
    total += picture[..., 1]
    total += picture[..., 2]
    total += 1
    return np.asarray(total // np.uint16(3), np.uint8)


def _texture(picture: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Median difference between neighbours, and the channels' agreement about it, at every second row.

    Args:
        picture: uint8 (h, w, channels); values: the same as float32 (channels, h, w).
    """
    height, width = picture.shape[:2]
    if min(height, width) < 3:
        return 0.0, 1.0
    levels = picture.astype(np.int16)
    here = levels[: height - 1 : 2]
    across, down = np.abs(here[:, 1:] - here[:, :-1]), np.abs(levels[1::2] - here)
    middle = values[:, 1:-1:2]
    detail = values[:, :-2:2, 1:-1] + values[:, 2::2, 1:-1]
    detail += middle[:, :, :-2]
    detail += middle[:, :, 2:]
    detail *= -0.25
    detail += middle[:, :, 1:-1]
    flat = detail.reshape(len(values), -1)
    flat -= flat.mean(axis=1, keepdims=True)
    products = np.einsum("ap,bp->ab", flat, flat)
    length = np.maximum(np.sqrt(np.diagonal(products)), 1e-6)
    correlation = products / np.outer(length, length)
    pairs = len(flat) * (len(flat) - 1)
    agreement = float((correlation.sum() - np.trace(correlation)) / pairs) if pairs else 1.0
    return _quantile(across, 0.5) + _quantile(down, 0.5), agreement


def _quantile(values: np.ndarray, share: float) -> float:
    """As `np.quantile`, of whole numbers of 0 to 255: counted, which takes a tenth of the time of sorting."""
    below = np.cumsum(np.bincount(values.ravel(), minlength=256))
    place = share * (values.size - 1)
    low, high = np.searchsorted(below, [int(place), min(int(place) + 1, values.size - 1)], side="right").tolist()
    return float(low + (place - int(place)) * (high - low))


@lru_cache(maxsize=16)
def _surfaces(height: int, width: int) -> np.ndarray:
    """Orthonormal basis of the polynomials up to the third degree on a grid, float32 (height * width, 10)."""
    rows, columns = np.meshgrid(np.linspace(-1.0, 1.0, height), np.linspace(-1.0, 1.0, width), indexing="ij")
    powers = [(i, j) for i in range(_DEGREE + 1) for j in range(_DEGREE + 1 - i)]
    basis = np.stack([rows**i * columns**j for i, j in powers], axis=-1).reshape(height * width, -1)
    return np.linalg.qr(basis)[0].astype(np.float32)
