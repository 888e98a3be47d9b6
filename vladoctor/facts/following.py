"""The images of an episode's queries beside the raw frames, from one query to the next.

From one query to the next little changes, so what was searched for once (`vladoctor.facts.registration`) is confirmed
for many queries together: all eight elements are scored at the window that is known, by the same score as a search
does, in a few matrix products (0.05 ms a query, where a search takes 5 ms). At the first query for which it does not
hold clearly, whichever that is, the image is searched for again, so a single odd one in the middle is found as it would
be if every one was searched for.

What is compared are outlines: pictures cut to what frame and image both show, 48 x 48 pixels, less their shading, of
zero mean and unit length, so that a product of two is their correlation; folded (`registration.folded`), so that those
under all eight elements are few more products. They are kept for the length of a judgement,
as `vladoctor.facts.links` compares the same ones with those of neighbouring steps.
"""

from __future__ import annotations

import weakref
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from vladoctor.facts.registration import (
    ELEMENTS,
    FINAL,
    GRID,
    MIN_CONTRAST,
    MIN_SCORE,
    PADDED,
    WHOLE,
    Registration,
    content_of,
    folded_turned,
    grey,
    holds,
    inside,
    inverse,
    outlines,
    placed,
    refine,
    register,
    resampled,
    sharpened,
    stretches,
    under_elements,
    window_of,
    windows_of,
)

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.profiles import Profile
    from vladoctor.records import Frame, Query, Step

IMAGE = ""
"""Slot of a query's own image; others are named as in `Query.more_images`."""

_LAST_BLOCK, _GROWTH = 256, 16
"""Queries that are confirmed at once in the end; from one on, so many times more whenever all were."""

_WINDOWS = 32
"""Windows whose outlines are kept at a time, of some eight that are known under eight elements in a few places each: of
images that are cropped at random every one has windows of its own, 9 kB of outline for each frame of the episode."""

_CHUNK = 64
"""Pictures of which outlines are made at once: more do not stay in the processor's cache."""

_KEPT = 7
"""Registrations that are tried again before a search, besides the latest: there are eight elements."""

_TRIES, _HOPELESS = 3, 0.35
"""After so many searches in a row that found nothing an image is looked at once, and searched for if the best element's
score is above this. Of 500 pictures of the other camera 95 % reached 0.25 where the window was searched for."""

_SURE, _AHEAD = 0.9, 0.2
"""Score and lead over the next element from which an image that lies as it is expected to is not searched for."""

_BETTER = 0.05
"""Score by which an image may fit a known window better than the one on which it was found. One of another moment gives
a window of its own: found at 0.73 on the last frame of the episode before, confirmed at 0.92 by the images after it,
and 3 % too narrow."""

_SAME_PLACE = 0.004
"""Fractions of the frame within which windows of different elements are taken for one: a quarter of a pixel."""

_MOVED = 0.006
"""Fractions of the frame by which a window on thumbnails may differ from what is known, before full frames are
asked."""

_SIZE, _STEPS = 32, 3
"""Pixels and rounds in which that is measured."""

MEASURED = 0.85
"""Score from which a window is known as exactly as VD202 says. Under every fault and filter of an image, and with noise
of 25 levels, it is 0.92 and more; 0.7 to 0.78 for the frame of another episode, for one with a banner over a tenth of
it, and for one that is tilted by 2 degrees, of which the best window is 2 to 7 % narrower than what was cut out."""

Window = tuple[float, float, float, float]


@dataclass(frozen=True)
class Match:
    """The registration of one query's image: to the raw frame of which camera, at which step."""

    step: int
    camera: str
    registration: Registration

    @property
    def measured(self) -> bool:
        """Whether the image fits so well that its window is known, and not only how it lies."""
        return self.registration.decisive and self.registration.score >= MEASURED


class Outlines:
    """Outlines of many pictures, folded (`registration.outlines`), made as they are asked for.

    Args:
        count: of pictures.
        make: places (n,) -> outlines of those pictures, and their contrast.

    Attributes:
        contrast: float32 (count,), of those that were made, in levels.
    """

    def __init__(self, count: int, make: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]) -> None:
        self.contrast: np.ndarray = np.zeros(count, np.float32)
        self._make = make
        self._made: np.ndarray = np.empty((count, 4, FINAL // 2, FINAL // 2), np.float32)
        self._there: np.ndarray = np.zeros(count, bool)

    def __getitem__(self, places: np.ndarray) -> np.ndarray:
        """Those at some places: float32 (n, 4, 24, 24)."""
        missing = places[~self._there[places]]
        missing = np.unique(missing) if len(missing) else missing
        for first in range(0, len(missing), _CHUNK):
            some = missing[first : first + _CHUNK]
            made, self.contrast[some] = self._make(some)
            if some[-1] - some[0] + 1 == len(some):
                self._made[some[0] : some[-1] + 1] = made
            else:
                self._made[some] = made
            self._there[some] = True
        first, last = (int(places[0]), int(places[-1])) if len(places) else (0, -1)
        if last - first + 1 == len(places) and (np.diff(places) == 1).all():
            return self._made[first : last + 1]  # in place
        return np.asarray(self._made[places])


class Camera:
    """The raw frames of one camera, in order.

    Attributes:
        numbers: of their steps. places: step number -> place among them.
    """

    def __init__(self, name: str, steps: Sequence[Step]) -> None:
        shown = [(step.number, step.frames[name]) for step in steps if name in step.frames]
        self.numbers = [number for number, _ in shown]
        self.frames = [frame for _, frame in shown]
        self.places = {number: place for place, number in enumerate(self.numbers)}
        self._outlines: dict[Window, Outlines] = {}

    def last(self, step: int) -> int:
        """Place of the latest frame up to a step; -1 where there is none."""
        return bisect_right(self.numbers, step) - 1

    def outlines(self, window: Window) -> Outlines:
        """Outlines of the frames, cut to a window; one that differs by rounding is the same."""
        key = tuple(round(part, 4) for part in window)
        known = self._outlines.pop(key, None)  # type: ignore[arg-type]
        if known is None:
            # Without `self`: in a circle, outlines would stay in memory until the next collection.
            frames = self.frames
            rows, columns = stretches((GRID, GRID), window, FINAL)

            def make(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
                return outlines(greys([frames[place] for place in places]), rows, columns)

            known = Outlines(len(frames), make)
            if len(self._outlines) >= _WINDOWS:
                del self._outlines[next(iter(self._outlines))]
        self._outlines[key] = known  # type: ignore[index]
        return known


class Track:
    """The images of one slot beside the frames of their steps.

    Args:
        guess: how the checkpoint expects its images to lie, for where to look first.

    Attributes:
        asked: the queries that have an image in this slot: step and image.
        places: step number -> place among them.
    """

    def __init__(self, steps: Sequence[Step], slot: str = IMAGE, guess: Registration | None = None) -> None:
        self.steps = steps
        self.guess = guess
        found = [(step, image_in(step.query, slot)) for step in steps if step.query is not None]
        self.asked = [(step, image) for step, image in found if image is not None]
        self.places = {step.number: place for place, (step, _) in enumerate(self.asked)}
        self._cameras: dict[str, Camera] = {}
        self._images: dict[bytes, Outlines] = {}
        self._matches: tuple[Match, ...] | None = None

    @property
    def matches(self) -> tuple[Match, ...]:
        """The registration of every image to a frame of its step, as far as there are any."""
        if self._matches is None:
            self._matches = tuple(self._follow())
        return self._matches

    def camera(self, name: str) -> Camera:
        if name not in self._cameras:
            self._cameras[name] = Camera(name, self.steps)
        return self._cameras[name]

    def content(self, known: Registration, place: int) -> np.ndarray:
        """The part of the images that is not padding; one of them tells."""
        return content_of(self.asked[place][1].grey) if max(known.scales) > PADDED else WHOLE

    def images(self, content: np.ndarray) -> Outlines:
        """Outlines of the images, as they are, without padding."""
        key = content.tobytes()
        if key not in self._images:
            asked = self.asked

            def make(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
                pictures = [asked[place][1].grey for place in places]
                if len({picture.shape for picture in pictures}) > 1:
                    made, contrast = zip(*(_outlines(picture[None], content) for picture in pictures), strict=True)
                    return np.concatenate(made), np.concatenate(contrast)
                return _outlines(np.stack(pictures), content)

            self._images[key] = Outlines(len(asked), make)
        return self._images[key]

    def look(self, places: np.ndarray, camera: str, known: Registration) -> list[Registration]:
        """The best element of each query, if its image shows the window of its step's frame that `known` says."""
        content, shown = self.content(known, int(places[0])), self.camera(camera)
        at = np.array([shown.places[self.asked[place][0].number] for place in places])
        # The known element's own window comes first and is exact; others share one that lies close by.
        windows = windows_of(known, content)
        groups: dict[Window, list[int]] = {}
        for element in sorted(range(len(ELEMENTS)), key=lambda place: ELEMENTS[place] != known.element):
            near = (one for one in groups if _apart(one, windows[element]) < _SAME_PLACE)
            groups.setdefault(next(near, windows[element]), []).append(element)
        given = self.images(content)
        pictures = given[places]
        weakest = given.contrast[places]
        scores: np.ndarray = np.empty((len(ELEMENTS), len(places)), np.float32)
        for number, (window, members) in enumerate(groups.items()):
            seen = shown.outlines(window)
            frames = seen[at]
            for first in range(0, len(places), _CHUNK):
                some = slice(first, first + _CHUNK)
                scores[members, some] = under_elements(frames[some], pictures[some], members)
            if not number:
                weakest = np.minimum(weakest, seen.contrast[at])
        ranked = np.argsort(-scores, axis=0)[:2]
        best, second = np.take_along_axis(scores, ranked, axis=0).tolist()
        return [
            Registration(ELEMENTS[element], score, ELEMENTS[other], behind, known.scales, known.offset, contrast)
            for element, score, other, behind, contrast in zip(
                ranked[0].tolist(), best, ranked[1].tolist(), second, weakest.tolist(), strict=True
            )
        ]

    def _follow(self) -> Iterator[Match]:
        asked = [place for place, (step, _) in enumerate(self.asked) if step.frames]
        known: list[Match] = []
        place, block, failed = 0, 1, 0
        while place < len(asked):
            held: list[Match] = []
            # The latest first: what comes and goes, a flip at random say, is searched for once.
            for match in reversed(known):
                held = self._confirmed(asked[place : place + block], match)
                if held:
                    known = [*(one for one in known if one is not match), match]
                    break
            if held:
                yield from held
                block = min(_GROWTH * block, _LAST_BLOCK) if len(held) == block else 1
                place, failed = place + len(held), 0
                continue
            if failed >= _TRIES and (empty := self._empty(asked[place : place + _LAST_BLOCK])):
                yield from empty
                place, block = place + len(empty), 1
                continue
            found = self._guessed(asked[place]) if not known and not failed else None
            if found is None and failed >= _TRIES:
                found = self._glance(asked[place])
            if found is None:
                found = self._searched(asked[place])
                failed = 0 if found.registration.score >= MIN_SCORE else failed + 1
            if found.registration.decisive:
                known = [*known[-_KEPT:], found]
            place, block = place + 1, 1
            yield found

    def _confirmed(self, places: Sequence[int], known: Match) -> list[Match]:
        """Matches of the queries up to the first one for which what is known does not hold."""
        shape = self.asked[places[0]][1].grey.shape
        count = 0
        for place in places:
            step, image = self.asked[place]
            if known.camera not in step.frames or image.grey.shape != shape:
                break
            count += 1
        if not count:
            return []
        found: list[Match] = []
        looks = self.look(np.array(places[:count]), known.camera, known.registration)
        for place, registration in zip(places, looks, strict=False):
            if not holds(registration, known.registration) or registration.score > known.registration.score + _BETTER:
                break
            found.append(Match(self.asked[place][0].number, known.camera, registration))
        # A window that has moved by less than a score tells is found where it can be measured exactly: on full frames.
        full = [number for number, place in enumerate(places[: len(found)]) if self._has_full(place, known.camera)]
        moved = self._moved([places[number] for number in full], known) > _MOVED
        return found[: full[int(np.argmax(moved))]] if moved.any() else found

    def _has_full(self, place: int, camera: str) -> bool:
        step, image = self.asked[place]
        return bool(image.load_full and step.frames[camera].load_full)

    def _moved(self, places: Sequence[int], known: Match) -> np.ndarray:
        """How far the windows of images, refined on thumbnails, are from the known one, as fractions of the frame."""
        if not places:
            return np.zeros(0)
        before = [window_of(known.registration, self.asked[place][1].grey).window for place in places]
        change = self._refined(places, known, _STEPS) - np.array(before)
        ends = np.abs(np.stack([change[:, ::2], change[:, ::2] + change[:, 1::2]]))
        return np.asarray(ends.max(axis=(0, 2)))

    def _refined(self, places: Sequence[int], known: Match, steps: int) -> np.ndarray:
        """The windows of images of one shape, measured on thumbnails from what is known on.

        Returns:
            top, height, left, width of each: (n, 4).
        """
        cuts = [window_of(known.registration, self.asked[place][1].grey) for place in places]
        images = [cut.of_images(self.asked[place][1].grey[None], GRID) for cut, place in zip(cuts, places, strict=True)]
        scenes = greys([self.asked[place][0].frames[known.camera] for place in places])
        windows = np.array([cut.window for cut in cuts], np.float32)
        return refine(scenes, np.ascontiguousarray(np.concatenate(images)), windows, _SIZE, steps)

    def _guessed(self, place: int) -> Match | None:
        """The first image, if it lies as the checkpoint expects: refined and scored as by a search, without one."""
        step, _ = self.asked[place]
        if self.guess is None:
            return None
        at = np.array([place])
        best = max(
            (Match(step.number, camera, self.look(at, camera, self.guess)[0]) for camera in step.frames),
            key=lambda match: match.registration.score,
        )
        if best.registration.element != self.guess.element or best.registration.score < MIN_SCORE:
            return None
        scales, offset = placed(best.registration.element, self._refined([place], best, _STEPS)[0], WHOLE)
        found = replace(best, registration=replace(best.registration, scales=scales, offset=offset))
        found = replace(best, registration=self.look(at, best.camera, found.registration)[0])
        found_at = found.registration
        if not (found_at.decisive and found_at.score >= _SURE and found_at.margin >= _AHEAD):
            return None
        # What thumbnails cannot tell from what is expected, full frames need not say either.
        pairs = zip(found_at.scales + found_at.offset, self.guess.scales + self.guess.offset, strict=True)
        return found if max(abs(seen - wanted) for seen, wanted in pairs) <= _MOVED else self._on_full(place, found)

    def _empty(self, places: Sequence[int]) -> list[Match]:
        """Matches of the images up to the first one that shows something: one look says all there is to say of them."""
        camera = next(iter(self.asked[places[0]][0].frames))
        count = 0
        for place in places:
            if camera not in self.asked[place][0].frames:
                break
            count += 1
        given, some = self.images(WHOLE), np.array(places[:count])
        given[some]
        shows = given.contrast[some] >= MIN_CONTRAST
        some = some[: int(np.argmax(shows))] if shows.any() else some
        looks = self.look(some, camera, _centred(1.0)) if len(some) else []
        return [
            Match(self.asked[place][0].number, camera, found) for place, found in zip(some.tolist(), looks, strict=True)
        ]

    def _glance(self, place: int) -> Match | None:
        """What one look at the whole frame says of an image that will fit none, as others did not; None: search."""
        step, _ = self.asked[place]
        looks = [
            Match(step.number, camera, found)
            for camera in step.frames
            for side in (1.0, 0.95)
            for found in self.look(np.array([place]), camera, _centred(side))
        ]
        best = max(looks, key=lambda match: match.registration.score)
        hopeless = best.registration.score < _HOPELESS or best.registration.contrast < MIN_CONTRAST
        return best if hopeless else None

    def _searched(self, place: int) -> Match:
        """Search among the frames of a step; where full frames were kept, the window is found on them in the end."""
        step, image = self.asked[place]
        found = [Match(step.number, name, register(frame.grey, image.grey)) for name, frame in step.frames.items()]
        best = max(found, key=lambda match: match.registration.score)
        raw, given = step.frames[best.camera], image.full
        if given is None or raw.full is None:
            return best
        if best.registration.decisive and max(best.registration.scales) <= PADDED:
            return self._on_full(place, best)
        exact = [
            Match(step.number, name, register(frame.full, given))
            for name, frame in step.frames.items()
            if frame.full is not None
        ]
        return max(exact, key=lambda match: match.registration.score)

    def _on_full(self, place: int, found: Match) -> Match:
        """A decided match with its window found on the full frames, where both were kept."""
        step, image = self.asked[place]
        raw = step.frames[found.camera]
        if raw.full is None or image.full is None:
            return found
        return replace(found, registration=sharpened(raw.full, image.full, found.registration))


_tracks: weakref.WeakKeyDictionary[Facts, dict[str, Track]] = weakref.WeakKeyDictionary()


def track(facts: Facts, slot: str = IMAGE) -> Track:
    """The images of one slot of an episode. Made once for each `Facts`."""
    known = _tracks.setdefault(facts, {})
    if slot not in known:
        known[slot] = Track(facts.episode.steps, slot, _expected(facts.profile))
    return known[slot]


def _expected(profile: Profile) -> Registration | None:
    element, area = profile.get("image.orientation"), profile.get("image.center_crop_area")
    if element not in ELEMENTS:
        return None
    whole = not isinstance(area, (int, float)) or not 0.0 < area <= 1.0
    return replace(_centred(1.0 if whole else float(np.sqrt(area))), element=element)


def matches(facts: Facts) -> tuple[Match, ...]:
    """Register the image of every query of an episode to the raw frame of the same step.

    The first query is searched among all cameras; of later ones what was found is confirmed, and searched for again
    where it does not hold. Thumbnails are used, and the full frames where both were kept and are needed. Queries of
    which the image or every raw frame is missing are left out.
    """
    return track(facts).matches


def image_in(query: Query | None, slot: str) -> Frame | None:
    """The image of a query in a slot."""
    if query is None:
        return None
    return query.image if slot == IMAGE else query.more_images.get(slot)


def greys(frames: Sequence[Frame], size: int = GRID) -> np.ndarray:
    """`registration.grey` of the thumbnails of several frames: float32 (n, size, size)."""
    pictures = [frame.grey for frame in frames]
    if len({picture.shape for picture in pictures}) > 1:
        return np.stack([grey(picture, size) for picture in pictures])
    return resampled(np.stack(pictures), size)


def lying_as(known: Registration, images: np.ndarray) -> np.ndarray:
    """Outlines of images, (n, 4, 24, 24), turned back as the frame is."""
    return folded_turned(inverse(known.element), images)


def _outlines(images: np.ndarray, content: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    shown = inside(images, content)
    return outlines(shown, *stretches(shown.shape[1:], (0.0, 1.0, 0.0, 1.0), FINAL))


def _apart(one: Window, other: Window) -> float:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def _centred(side: float) -> Registration:
    return Registration("identity", 0.0, "identity", 0.0, (side, side), ((1.0 - side) / 2.0,) * 2, 0.0)
