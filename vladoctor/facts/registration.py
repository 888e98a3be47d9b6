"""How the image that the model was given lies on the camera's raw frame: turned, mirrored, cropped.

The eight ways to lay a rectangle onto itself are the dihedral group of the square. An element says what was done to the
raw frame, row 0 being the first row of the array: whether that makes the scene upright is the renderer's business (see
`vladoctor.facts.camera`). Something done twice, or once upstream and once more in the loop, is an element again:
`compose` says which.

How `register` works, and what it trades:

* Colour is dropped (mean of the channels), so that swapped channels do not matter. Brightness and contrast are dropped
  by normalising each window, shading by subtracting a blurred copy before the final score.
* Every element, 11 sizes of window from the whole frame down to half its side, and every place at a sixteenth of the
  window are compared at 16 x 16 pixels: some 1,000 windows in two matrix products a size.
* The four elements that do best there are refined with Gauss-Newton steps in top, left, height and width, together
  with a gain and an offset of the brightness, at 32 x 32 pixels; full frames once more at 96 x 96.
* The score is the normalised cross-correlation of local contrast at the best alignment, at 48 x 48 pixels.

It takes 5 ms for a pair of thumbnails on one core (full frames 20 ms), and finds the place of the window to 0.4 % of
the frame (95 % quantile). It does not look for rotations by other angles, perspective, or windows under half the side
of the frame.

An episode is not searched step by step: see `vladoctor.facts.following`.

Measured on 10,000 pairs: thumbnails of LIBERO's frames (15 episodes, both cameras, own and stand-in assets, lights on
and off) against the same frame turned by any element, cropped to an area of 0.5 to 1 at any place, resized to 64 to 256
pixels by any filter, and by chance JPEG, brightness, contrast, gamma, noise and BGR. None was decided wrongly, 13 were
not decided (the wrist camera where its view is symmetric, mostly).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

_PARTS: Mapping[str, tuple[bool, bool, bool]] = {
    "identity": (False, False, False),
    "rot90": (True, True, False),
    "rot180": (False, True, True),
    "rot270": (True, False, True),
    "flip-vertical": (False, True, False),
    "flip-horizontal": (False, False, True),
    "transpose": (True, False, False),
    "anti-transpose": (True, True, True),
}
"""Element -> transpose, then reverse the rows, then reverse the columns."""

_NAMES = {parts: name for name, parts in _PARTS.items()}

ELEMENTS: tuple[str, ...] = tuple(_PARTS)

IDIOMS: Mapping[str, str] = {
    "identity": "frame",
    "rot90": "np.rot90(frame)",
    "rot180": "frame[::-1, ::-1]",
    "rot270": "np.rot90(frame, -1)",
    "flip-vertical": "frame[::-1]",
    "flip-horizontal": "frame[:, ::-1]",
    "transpose": "frame.swapaxes(0, 1)",
    "anti-transpose": "frame[::-1, ::-1].swapaxes(0, 1)",
}
"""Element -> numpy expression that does it to a `frame` of shape (H, W, 3)."""

DESCRIPTIONS: Mapping[str, str] = {
    "identity": "the frame as it is",
    "rot90": "a rotation by 90 degrees counter-clockwise",
    "rot180": "a rotation by 180 degrees",
    "rot270": "a rotation by 90 degrees clockwise",
    "flip-vertical": "a vertical flip (top and bottom exchanged)",
    "flip-horizontal": "a horizontal flip (left and right exchanged)",
    "transpose": "a transposition (rows and columns exchanged)",
    "anti-transpose": "a transposition along the other diagonal",
}

CONSEQUENCES: Mapping[str, str] = {
    "identity": "as it should be",
    "rot90": "turned by 90 degrees counter-clockwise",
    "rot180": "upside down, turned by 180 degrees",
    "rot270": "turned by 90 degrees clockwise",
    "flip-vertical": "mirrored top to bottom",
    "flip-horizontal": "mirrored left to right",
    "transpose": "turned by 90 degrees and mirrored",
    "anti-transpose": "turned by 90 degrees and mirrored",
}
"""Element -> how a scene looks to which it was done, to somebody who knows it without."""

MIN_SCORE = 0.7
"""Score from which a picture counts as registered. Of the 10,000 pairs 99.5 % scored 0.93 and more; 500 pictures of the
other camera up to 0.47, 95 % of them up to 0.25."""

MIN_MARGIN = 0.04
"""Lead over the runner-up from which the element counts as decided. 2,000 frames made symmetric reached 0.004."""

MIN_CONTRAST = 1.5
"""Local contrast, in levels, under which nothing is decided. LIBERO's sky has 0.2 to 0.8, a scene with all lights off
2.4 and more unless it is darkened further."""

GRID, _COARSE, _FINE, FINAL, _FULL = 64, 16, 32, 48, 96
_SIDES: tuple[float, ...] = tuple(float(side) for side in np.geomspace(1.0, 0.5, 11))
_REFINED = 4
_STEPS = 6

_BLUR = 1.0 / 16.0
"""Standard deviation of the blur that is subtracted as shading, as a fraction of the window's side."""

_NOTHING = 1e-30
"""Weight of a pixel in a blur that counts for none: a hundred such pixels do not change a float32 of their sum."""

_LEAST = 1e-3
"""Length below which an outline is left as short as it is: that of a blank picture is rounding."""

_FLAT = 2.0
"""Levels by which padding may vary; JPEG is not exact."""

_SURE = 0.9
"""Score from which padding is not asked about."""

PADDED = 1.05
"""A window larger than this share of the frame means padding."""

_SLACK = 0.03
"""So much lower than when it was found may a score be for it to hold."""

WHOLE = np.array([[0.0, 0.0], [1.0, 1.0]])


@dataclass(frozen=True)
class Registration:
    """Where the model's image lies on the raw frame: `image ~ resize(window of apply(element, raw))`.

    Attributes:
        element: name of the dihedral element that was applied to the raw frame.
        score: normalised cross-correlation of local contrast under it, -1..1.
        runner_up, runner_up_score: the next best element, at its own best alignment.
        scales: height and width of the window as fractions of the turned frame's; above 1 where the image was padded.
        offset: its top and left edge, likewise; (1 - scale) / 2 is a centre crop.
        contrast: the weaker of both pictures' local contrast, standard deviation in levels of 0..255.
    """

    element: str
    score: float
    runner_up: str
    runner_up_score: float
    scales: tuple[float, float]
    offset: tuple[float, float]
    contrast: float

    @property
    def scale(self) -> float:
        """Side of the window as a fraction of the frame's (geometric mean of both sides); its square is the area."""
        return float(np.sqrt(self.scales[0] * self.scales[1]))

    @property
    def margin(self) -> float:
        return self.score - self.runner_up_score

    @property
    def decisive(self) -> bool:
        """Whether the element can be relied upon, at the limits that this module ships with."""
        return self.decides(MIN_SCORE, MIN_MARGIN)

    def decides(self, min_score: float, min_margin: float, min_contrast: float = MIN_CONTRAST) -> bool:
        return self.score >= min_score and self.margin >= min_margin and self.contrast >= min_contrast


def apply(element: str, frame: np.ndarray) -> np.ndarray:
    """Apply an element to the first two axes of an array (H, W, ...); returns a view."""
    transposed, rows, columns = _PARTS[element]
    turned = np.swapaxes(frame, 0, 1) if transposed else frame
    return turned[:: -1 if rows else 1, :: -1 if columns else 1]


def turned(element: str, pictures: np.ndarray) -> np.ndarray:
    """Apply an element to pictures (n, h, w); returns a view."""
    return np.moveaxis(apply(element, np.moveaxis(pictures, 0, -1)), -1, 0)


def compose(first: str, then: str) -> str:
    """The element that does `first` and afterwards `then`."""
    transposed, rows, columns = _PARTS[first]
    also_transposed, more_rows, more_columns = _PARTS[then]
    if also_transposed:
        rows, columns = columns, rows
    return _NAMES[(transposed != also_transposed, rows != more_rows, columns != more_columns)]


def inverse(element: str) -> str:
    """The element that undoes another."""
    return {"rot90": "rot270", "rot270": "rot90"}.get(element, element)


def between(start: str, goal: str) -> str:
    """The element that turns `start` applied to a frame into `goal` applied to the same frame."""
    return compose(inverse(start), goal)


def move_points(element: str, points: np.ndarray) -> np.ndarray:
    """Where points go when an element is applied to their frame.

    Args:
        points: float (..., 2), row and column as fractions of height and width, 0 at the top left edge.
    """
    transposed, rows, columns = _PARTS[element]
    row, column = points[..., 0], points[..., 1]
    if transposed:
        row, column = column, row
    return np.stack([1.0 - row if rows else row, 1.0 - column if columns else column], axis=-1)


def register(raw: np.ndarray, image: np.ndarray) -> Registration:
    """Find how the model's image lies on the raw frame.

    Args:
        raw: uint8 (H, W, 3), the frame as the environment returned it, any size; or its grey, uint8 (H, W).
        image: uint8 (h, w, 3), what the model was given, any size; or its grey.

    Returns:
        The best element and its window. Look at `decisive` before believing it: on a symmetric, an empty or an
        unrelated picture some element is the best one too.
    """
    whole = _register(raw, image, WHOLE)
    content = content_of(image)
    if content is WHOLE or whole.score >= _SURE:
        return whole
    return max(whole, _register(raw, image, content), key=lambda found: found.score)


def windows_of(known: Registration, content: np.ndarray) -> list[tuple[float, float, float, float]]:
    """Where the window that `known` says would lie on the frame as it is, if its element were each of `ELEMENTS`.

    Args:
        content: the part of the image that is not padding, as fractions: top left and bottom right, (2, 2).
    """
    return _windows_of(known.offset, known.scales, tuple(map(tuple, content.tolist())))


@lru_cache(maxsize=256)
def _windows_of(
    offset: tuple[float, float], scales: tuple[float, float], content: tuple[tuple[float, float], ...]
) -> list[tuple[float, float, float, float]]:
    corners = np.array(offset) + np.array(content) * np.array(scales)
    return [_window(np.sort(move_points(inverse(element), corners), axis=0)) for element in ELEMENTS]


def holds(found: Registration, known: Registration) -> bool:
    """Whether what one look found, `following.look`, says clearly that what was known before is still so."""
    return found.element == known.element and found.decisive and found.score >= known.score - _SLACK


def under_elements(seen: np.ndarray, pictures: np.ndarray, members: Sequence[int]) -> np.ndarray:
    """Products of windows with images that are turned back by each of some elements: (members, n).

    Both are folded, (n, 4, s / 2, s / 2), see `folded`: four products of parts give four elements, and four more those
    that also exchange rows and columns.
    """
    straight, crossed = (
        np.einsum("nqp,nqp->qn", seen.reshape(len(seen), 4, -1), one.reshape(len(seen), 4, -1))
        for one in (pictures, _transposed(pictures))
    )
    found = []
    for place in members:
        transposed = _PARTS[inverse(ELEMENTS[place])][0]
        signs = _signs(inverse(ELEMENTS[place])).astype(straight.dtype)
        found.append(signs @ (crossed if transposed else straight))
    return np.stack(found)


def folded(pictures: np.ndarray) -> np.ndarray:
    """Even-even, even-odd, odd-even and odd-odd parts (rows, then columns) of pictures (n, s, s): (n, 4, s / 2, s / 2).

    Of each its upper left quarter, as the others repeat it, scaled so that the product of two pictures is the sum of
    their parts' products. To reverse an axis only changes the sign of what is odd along it, so all eight elements of a
    folded picture are had by signs and one transposition. Sides s are even.
    """
    half = pictures.shape[1] // 2
    upper, lower = pictures[:, :half], pictures[:, : half - 1 : -1]
    parts = []
    for one in (upper + lower, upper - lower):
        left, right = one[:, :, :half], one[:, :, : half - 1 : -1]
        parts += [left + right, left - right]
    return np.asarray(np.stack(parts, axis=1) * pictures.dtype.type(0.5))


def folded_turned(element: str, pictures: np.ndarray) -> np.ndarray:
    """Apply an element to folded pictures, (n, 4, s / 2, s / 2); may return them as they are."""
    signs = _signs(element)
    turned_so_far = _transposed(pictures) if _PARTS[element][0] else pictures
    return turned_so_far if (signs > 0).all() else turned_so_far * signs[:, None, None].astype(pictures.dtype)


def _transposed(pictures: np.ndarray) -> np.ndarray:
    """What was even along rows and odd along columns is so the other way round."""
    return np.ascontiguousarray(pictures[:, [0, 2, 1, 3]].transpose(0, 1, 3, 2))


def _signs(element: str) -> np.ndarray:
    """What an element, once it has exchanged rows and columns or not, does to the four parts of a folded picture."""
    _, rows, columns = _PARTS[element]
    return np.array([1.0, -1.0 if columns else 1.0, -1.0 if rows else 1.0, -1.0 if rows != columns else 1.0])


@dataclass(frozen=True, eq=False)
class Cut:
    """What a frame and an image that was registered to it both show.

    Attributes:
        undo: the element that turns the image as the frame is.
        window: of the frame: top, height, left, width, as fractions.
        content: of the image, what is not padding: top left and bottom right, (2, 2).
    """

    undo: str
    window: tuple[float, float, float, float]
    content: np.ndarray

    def of_frames(self, scenes: np.ndarray, size: int) -> np.ndarray:
        """Cut frames, float32 (n, 64, 64), each `grey(frame, 64)`: float32 (n, size, size)."""
        return cut_out(scenes, np.array([self.window], np.float32), size)

    def of_images(self, images: np.ndarray, size: int) -> np.ndarray:
        """Cut and turn the grey of images, uint8 (n, h, w): float32 (n, size, size)."""
        return turned(self.undo, resampled(inside(images, self.content), size))


def window_of(known: Registration, image: np.ndarray) -> Cut:
    """What images that lie as `known` says show of the frame; one of them, or its grey, tells the padding."""
    content = content_of(image) if max(known.scales) > PADDED else WHOLE
    corners = np.array(known.offset) + content * np.array(known.scales)
    undo = inverse(known.element)
    return Cut(undo, _window(np.sort(move_points(undo, corners), axis=0)), content)


def aligned(raw: np.ndarray, image: np.ndarray, found: Registration, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The part of the raw frame that the image shows, and that part of the image, pixel by pixel.

    Returns:
        Two float32 (size, size, 3), in levels. Padding is left out of both.
    """
    start, side = np.array(found.offset), np.array(found.scales)
    low, high = np.clip(start, 0.0, 1.0), np.clip(start + side, 0.0, 1.0)
    return shown_of(raw, found, size), _part(image, (low - start) / side, (high - start) / side, size)


def shown_of(raw: np.ndarray, found: Registration, size: int) -> np.ndarray:
    """The part of a raw frame that an image shows, turned as the image is: float32 (size, size, 3), in levels."""
    start, side = np.array(found.offset), np.array(found.scales)
    return _part(apply(found.element, raw), np.clip(start, 0.0, 1.0), np.clip(start + side, 0.0, 1.0), size)


def _part(frame: np.ndarray, low: np.ndarray, high: np.ndarray, size: int) -> np.ndarray:
    rows, columns = (
        _stretch(sides, size, float(first), float(last - first))
        for sides, first, last in zip(frame.shape[:2], low, high, strict=True)
    )
    channels = np.ascontiguousarray(frame.transpose(2, 0, 1), np.float32)
    return np.asarray(rows @ (channels @ columns.T)).transpose(1, 2, 0)


def grey(frame: np.ndarray, size: int) -> np.ndarray:
    """Mean of the channels of a frame (H, W, 3), or its grey (H, W), with antialiasing: float32 (size, size)."""
    return resampled(_greyed(frame)[None], size)[0]


def _greyed(frame: np.ndarray) -> np.ndarray:
    """Float32 mean of the channels; by planes, as numpy takes ten times as long across them."""
    if frame.ndim == 2:
        return frame
    total = frame[..., 0].astype(np.float32)
    for channel in range(1, frame.shape[2]):
        total += frame[..., channel]
    return np.asarray(total / np.float32(frame.shape[2]))


def resampled(pictures: np.ndarray, size: int) -> np.ndarray:
    """Pictures (n, h, w) with antialiasing: float32 (n, size, size)."""
    pictures = pictures.astype(np.float32, copy=False)
    if pictures.shape[1:] == (size, size):
        return pictures
    return _resampler(pictures.shape[1], size) @ _columns(pictures, _resampler(pictures.shape[2], size))


def _columns(pictures: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """`pictures @ matrix.T` of pictures (n, h, w), as one product in place of n."""
    rows = pictures.reshape(-1, pictures.shape[-1]) @ matrix.T
    return np.asarray(rows.reshape(*pictures.shape[:-1], len(matrix)))


def inside(images: np.ndarray, content: np.ndarray) -> np.ndarray:
    """The part of images (n, h, w) that is not padding."""
    (top, left), (bottom, right) = np.rint(content * images.shape[1:]).astype(int)
    return images[:, top:bottom, left:right]


def sharpened(raw: np.ndarray, image: np.ndarray, known: Registration) -> Registration:
    """The window of a decided registration without padding, found on thumbnails, once more on the full frames."""
    large = min(*raw.shape[:2], *image.shape[:2]) > _FULL
    grid, size, steps = (_FULL, _FULL, _STEPS // 2) if large else (GRID, _FINE, _STEPS)
    scene, candidate = grey(raw, 2 * _FULL if large else GRID), grey(image, grid)
    cut = window_of(known, image)
    lying = np.ascontiguousarray(apply(cut.undo, candidate))[None]
    windows = refine(scene, lying, np.array([cut.window], np.float32), size, steps)
    seen, wanted = local_contrast(cut_out(scene, windows, FINAL)), local_contrast(_shrink(lying, FINAL))
    score = float((normalise(seen) @ normalise(wanted).T)[0, 0])
    if score < known.score - _SLACK:
        return known
    scales, offset = placed(known.element, windows[0], WHOLE)
    return replace(known, score=score, scales=scales, offset=offset, contrast=float(min(seen.std(), wanted.std())))


def _register(raw: np.ndarray, image: np.ndarray, content: np.ndarray) -> Registration:
    """Register the part of the image that `content` names, as fractions: top left and bottom right, (2, 2)."""
    scene, candidates = grey(raw, GRID), _candidates(image, content, GRID)
    scores, windows = _search(scene, candidates, raw.shape[0] / raw.shape[1])
    chosen = np.argsort(-scores)[:_REFINED]
    windows[chosen] = refine(scene, candidates[chosen], windows[chosen], _FINE, _STEPS)
    if min(*raw.shape[:2], *image.shape[:2]) > _FULL:
        scene, candidates = grey(raw, 2 * _FULL), _candidates(image, content, _FULL)
        windows[chosen] = refine(scene, candidates[chosen], windows[chosen], _FULL, _STEPS // 2)
    return _result(scene, candidates, windows, chosen, content)


def _result(
    scene: np.ndarray, candidates: np.ndarray, windows: np.ndarray, chosen: np.ndarray, content: np.ndarray
) -> Registration:
    """Score the chosen elements at their windows and express the best one in the turned frame."""
    seen = local_contrast(cut_out(scene, windows[chosen], FINAL))
    wanted = local_contrast(_shrink(candidates[chosen], FINAL))
    scores = np.einsum("ep,ep->e", normalise(seen), normalise(wanted))
    best, second = np.argsort(-scores)[:2]
    element = ELEMENTS[chosen[best]]
    scales, offset = placed(element, windows[chosen[best]], content)
    return Registration(
        element=element,
        score=float(scores[best]),
        runner_up=ELEMENTS[chosen[second]],
        runner_up_score=float(scores[second]),
        scales=scales,
        offset=offset,
        contrast=float(min(seen[best].std(), wanted[best].std())),
    )


def placed(element: str, window: np.ndarray, content: np.ndarray) -> tuple[tuple[float, float], tuple[float, float]]:
    """Scales and offset in the turned frame of a window (top, height, left, width) of the frame as it is."""
    top, height, left, width = window.astype(float)
    ends = np.sort(move_points(element, np.array([[top, left], [top + height, left + width]])), axis=0)
    # The window belongs to the image without its padding; the whole image reaches as much further as was padded.
    scales = (ends[1] - ends[0]) / (content[1] - content[0])
    corner = ends[0] - content[0] * scales
    return (float(scales[0]), float(scales[1])), (float(corner[0]), float(corner[1]))


def _window(corners: np.ndarray) -> tuple[float, float, float, float]:
    """Top left and bottom right (2, 2) -> top, height, left, width."""
    (top, left), (bottom, right) = corners.tolist()
    return top, bottom - top, left, right - left


def _candidates(image: np.ndarray, content: np.ndarray, size: int) -> np.ndarray:
    """The image without its padding, turned back by each element: float32 (8, size, size)."""
    (top, left), (bottom, right) = np.rint(content * image.shape[:2]).astype(int)
    picture = grey(image[top:bottom, left:right], size)
    return np.stack([apply(inverse(element), picture) for element in ELEMENTS])


def content_of(image: np.ndarray) -> np.ndarray:
    """Where the image is not padding: top left and bottom right (2, 2), as fractions of its height and width.

    Padding is a band along an edge in which nothing varies. `WHOLE` where there is none.
    """
    found = WHOLE.copy()
    for axis in (0, 1):
        lines = np.moveaxis(_greyed(image), axis, 0).astype(np.float32, copy=False)
        flat, means = lines.std(axis=1) <= _FLAT, lines.mean(axis=1)
        before = _run(flat & (np.abs(means - means[0]) <= _FLAT))
        after = _run((flat & (np.abs(means - means[-1]) <= _FLAT))[::-1])
        if before + after <= len(lines) / 2:
            # The line between padding and picture is a mixture of both.
            found[0, axis] = (before + 1) / len(lines) if before > 1 else 0.0
            found[1, axis] = 1.0 - ((after + 1) / len(lines) if after > 1 else 0.0)
    return WHOLE if (found == WHOLE).all() else found


def _run(holds: np.ndarray) -> int:
    """How many values at the start are true."""
    return int(np.argmin(holds)) if not holds.all() else len(holds)


def _search(scene: np.ndarray, candidates: np.ndarray, aspect: float) -> tuple[np.ndarray, np.ndarray]:
    """Compare all elements with all windows at low resolution.

    Returns:
        Best score (8,) and its window (8, 4): top, height, left, width as fractions of the scene.
    """
    wanted = normalise(_shrink(candidates, _COARSE).reshape(len(candidates), -1))
    best: np.ndarray = np.full(len(candidates), -2.0, np.float32)
    windows: np.ndarray = np.zeros((len(candidates), 4), np.float32)
    shapes = [(side, side) for side in _SIDES]
    if aspect != 1.0:
        # A frame that is not square may have been squeezed (above) or cut to a square.
        shapes += [(side * min(1.0, 1.0 / aspect), side * min(1.0, aspect)) for side in _SIDES]
    for height, width in shapes:
        tops, rows = _bank(height)
        lefts, columns = _bank(width)
        views = (rows @ scene @ columns.T).reshape(len(tops), _COARSE, len(lefts), _COARSE)
        views = views.transpose(0, 2, 1, 3).reshape(len(tops) * len(lefts), -1)
        scores = wanted @ normalise(views).T
        places = scores.argmax(axis=1)
        peaks = scores[np.arange(len(scores)), places]
        top, left = np.divmod(places, len(lefts))
        found = np.stack([tops[top], np.full(len(top), height), lefts[left], np.full(len(top), width)], axis=1)
        better = peaks > best
        best = np.where(better, peaks, best)
        windows = np.where(better[:, None], found, windows).astype(np.float32)
    return best, windows


def refine(scene: np.ndarray, candidates: np.ndarray, windows: np.ndarray, size: int, steps: int) -> np.ndarray:
    """Gauss-Newton in top, height, left and width of each candidate's window; keeps the best window on the way.

    Args:
        scene: (s, s), or one for each candidate, (n, s, s).
    """
    count = len(candidates)
    wanted = normalise(_shrink(candidates, size).reshape(count, -1))
    ramp = (np.arange(size, dtype=np.float32) + 0.5) / size
    window, best = windows.copy(), windows.copy()
    peak: np.ndarray = np.full(count, -2.0, np.float32)
    diagonal = np.arange(6)
    for step in range(steps + 1):
        view = cut_out(scene, window, size)
        flat = view.reshape(count, -1)
        score = np.einsum("ep,ep->e", normalise(flat), wanted)
        better = score > peak
        peak = np.where(better, score, peak)
        best = np.where(better[:, None], window, best)
        if step == steps:
            break
        down, right = _slopes(view)
        down *= size / window[:, 1, None, None]
        right *= size / window[:, 3, None, None]
        # view + J d = gain * wanted + offset, solved for d, gain and offset together.
        slopes = np.stack([down, down * ramp[:, None], right, right * ramp], axis=1).reshape(count, 4, -1)
        system = np.concatenate([slopes, -wanted[:, None], -np.ones_like(wanted)[:, None]], axis=1)
        normal = system @ system.transpose(0, 2, 1)
        normal[:, diagonal, diagonal] = normal[:, diagonal, diagonal] * 1.001 + 1e-3
        move = np.linalg.solve(normal, -(system @ flat[..., None]))[:, :4, 0]
        window = window + np.clip(move, -0.1, 0.1)
        window[:, 1::2] = np.clip(window[:, 1::2], 0.45, 1.02)
        window[:, 0::2] = np.clip(window[:, 0::2], -0.02, 1.02 - window[:, 1::2])
    return best


def _slopes(pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `np.gradient` of pictures (n, s, s) along rows and columns, in less time."""
    down, right = np.empty_like(pictures), np.empty_like(pictures)
    for slopes, last in ((down, pictures), (right.transpose(0, 2, 1), pictures.transpose(0, 2, 1))):
        np.subtract(last[:, 2:], last[:, :-2], out=slopes[:, 1:-1])
        slopes[:, 1:-1] *= 0.5
        slopes[:, 0], slopes[:, -1] = last[:, 1] - last[:, 0], last[:, -1] - last[:, -2]
    return down, right


def _shrink(pictures: np.ndarray, size: int) -> np.ndarray:
    resampler = _resampler(pictures.shape[-1], size)
    return resampler @ pictures @ resampler.T


def cut_out(scene: np.ndarray, windows: np.ndarray, size: int) -> np.ndarray:
    """Windows (n, 4) of a scene, or one of several scenes (n, h, w), or each of another: float32 (n, size, size)."""
    rows = _weights(scene.shape[-2], size, windows[:, 0], windows[:, 1])
    columns = _weights(scene.shape[-1], size, windows[:, 2], windows[:, 3])
    if len(windows) == 1:
        # A product with one matrix for all takes less than one for each.
        return rows[0] @ _columns(scene, columns[0]) if scene.ndim == 3 else rows @ (scene @ columns[0].T)
    return rows @ scene @ columns.transpose(0, 2, 1)


def _weights(source: int, size: int, start: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Matrices (..., size, source) that resample with an antialiased triangle, like PIL's BILINEAR."""
    start = np.asarray(start, np.float32)[..., None]
    width = np.asarray(width, np.float32)[..., None]
    steps = (np.arange(size, dtype=np.float32) + 0.5) / size
    centres = (start + steps * width) * source - 0.5
    radius = np.maximum(1.0, width * source / size)[..., None]
    weights = np.maximum(0.0, 1.0 - np.abs(np.arange(source, dtype=np.float32) - centres[..., None]) / radius)
    return weights / np.maximum(weights.sum(axis=-1, keepdims=True), 1e-6)


def stretches(sides: Sequence[int], window: Sequence[float], size: int) -> tuple[np.ndarray, np.ndarray]:
    """What resamples a window (top, height, left, width) of pictures of such sides: rows and columns, (size, side)."""
    top, height, left, width = window
    return _stretch(sides[0], size, top, height), _stretch(sides[1], size, left, width)


@lru_cache(maxsize=256)
def _stretch(source: int, size: int, start: float, width: float) -> np.ndarray:
    """As `_weights`, of one window: from query to query it mostly is the same."""
    return _weights(source, size, np.array(start), np.array(width))


@lru_cache(maxsize=64)
def _resampler(source: int, size: int) -> np.ndarray:
    return _weights(source, size, np.zeros(()), np.ones(()))


@lru_cache(maxsize=64)
def _bank(side: float) -> tuple[np.ndarray, np.ndarray]:
    """Starts (n,) of all windows of one side, a sixteenth of it apart, and their resamplers (n * 16, 64)."""
    count = 1 + int(np.ceil((1.0 - side) / (side / _COARSE) - 1e-6))
    starts = np.linspace(0.0, 1.0 - side, count)
    return starts, _weights(GRID, _COARSE, starts, np.full(count, side)).reshape(count * _COARSE, GRID)


@lru_cache(maxsize=8)
def _blur(size: int) -> np.ndarray:
    distance = np.arange(size)[:, None] - np.arange(size)
    weights = np.exp(-0.5 * (distance / (_BLUR * size)) ** 2)
    # Numbers that float32 holds only as subnormal ones add nothing, and a product with them takes ten times as long.
    weights[weights < _NOTHING] = 0.0
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def local_contrast(pictures: np.ndarray) -> np.ndarray:
    """Pictures (n, s, s) less their blurred copies, flattened to (n, s * s)."""
    blur = _blur(pictures.shape[-1])
    blurred = blur @ _columns(pictures, blur)
    return np.asarray(np.subtract(pictures, blurred, out=blurred).reshape(len(pictures), -1))


def outlines(pictures: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Local contrast of pictures (n, h, w), folded, of zero mean and unit length; and its standard deviation in levels.

    Args:
        rows, columns: resample to `FINAL` pixels: (48, h) and (48, w).

    Returns:
        float32 (n, 4, 24, 24), see `folded`, and float32 (n,). What shows nothing is left shorter.
    """
    half, count = FINAL // 2, len(pictures)
    fold, even, odd = _folding(FINAL), *_folded_blur(FINAL)
    views = (fold @ rows) @ _columns(pictures.astype(np.float32, copy=False), fold @ columns)
    flat = views.reshape(-1, FINAL)
    # The blur is the same from both ends, so that even parts stay even and odd ones odd.
    across = [
        (flat[:, :half] @ even.T).reshape(count, FINAL, half),
        (flat[:, half:] @ odd.T).reshape(count, FINAL, half),
    ]
    found = np.empty((count, 4, half, half), np.float32)
    for part in range(4):
        down = slice(half, FINAL) if part >> 1 else slice(half)
        right = slice(half, FINAL) if part & 1 else slice(half)
        blurred = (odd if part >> 1 else even) @ across[part & 1][:, down]
        np.subtract(views[:, down, right], blurred, out=found[:, part])
    # Only what is even both ways has a mean.
    level = found[:, 0].reshape(count, -1).mean(axis=1)
    found[:, 0] -= level[:, None, None]
    lengths = np.sqrt(np.einsum("nqij,nqij->n", found, found))
    found /= np.maximum(lengths, _LEAST)[:, None, None, None]
    return found, lengths / np.float32(FINAL)


@lru_cache(maxsize=8)
def _folding(size: int) -> np.ndarray:
    """Orthonormal matrix whose first half of rows adds each value to its mirror image, and whose other subtracts it."""
    one = np.eye(size, dtype=np.float32)[: size // 2]
    other = one[:, ::-1]
    return np.concatenate([one + other, one - other]) * np.float32(np.sqrt(0.5))


@lru_cache(maxsize=8)
def _folded_blur(size: int) -> tuple[np.ndarray, np.ndarray]:
    """`_blur` of even and of odd parts, (size / 2, size / 2) each."""
    fold = _folding(size).astype(np.float64)
    matrix, half = (fold @ _blur(size) @ fold.T).astype(np.float32), size // 2
    return np.ascontiguousarray(matrix[:half, :half]), np.ascontiguousarray(matrix[half:, half:])


def normalise(rows: np.ndarray) -> np.ndarray:
    """Rows of zero mean and unit length; a constant row becomes zero."""
    centred = rows - rows.mean(axis=-1, keepdims=True)
    return centred / np.maximum(np.sqrt(np.einsum("...p,...p->...", centred, centred))[..., None], 1e-3)
