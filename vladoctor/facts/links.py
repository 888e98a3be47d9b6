"""How stages hang together, by content: which frame an image was made of, which query an executed action came from.

Wrappers, queues, helper functions and other processes may stand in between; nothing here asks what they are called. An
image belongs to the frame to which it registers, an executed action to the query one of whose rows it is, by value.

* **Images.** The frames of the query's own step come first, of all cameras. Neighbouring frames differ by a few pixels
  where an arm has moved, and that is enough: placed as the image was found to lie, the right frame correlates with it
  to 0.99, the one before it mostly to 0.98 or less (250 queries of LIBERO, thumbnails). So earlier frames are asked as
  well, and those that fit to within `ALIKE` of the best are named together: "steps 3 to 5" means that it cannot be told
  which of them it was.
* **Actions.** A row is executed as it is, or after a map that is the same all through the episode, value by value: a
  line, as un-normalising outside of the model is, or two values, as grippers are; and cut to what the environment
  takes. What no row explains was averaged over several, or is not the policy's.

What cannot be told has a reason in the place of a link.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vladoctor.facts.following import IMAGE, Match, Outlines, lying_as, track
from vladoctor.facts.registration import (
    ELEMENTS,
    MIN_CONTRAST,
    MIN_SCORE,
    PADDED,
    Registration,
    register,
    windows_of,
)
from vladoctor.facts.tokens import tokens_of

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.records import Episode, Frame

ALIKE = 0.002
"""Difference of two scores up to which an image fits both frames alike. Frames of a scene at rest: 0.0005."""

_NEAR, _FAR = 4, 64
"""Earlier frames that are asked at first, and where those leave a doubt."""

_SURE = 0.97
"""Score from which an image is not looked for among older frames."""

_BACK = (1, 2, 4, 8, 16, 32)
"""Steps back at which an image is looked for that fits no frame of its own step."""

_TRIES = 3
"""So many images of a slot are looked for in vain, before the others count as not to be found either."""

SAME = 1e-5
"""Two values are the same if they differ by no more than this share of the larger one, or of 1: float32 on the way."""

_ON_LINE = 1e-4
"""The same for a value that has been through a line that is itself measured, as a share of what the values span."""

_OFTEN = 0.5
"""Share of steps in which a map has to hold: exceptions, clipped values and other queries' rows are left."""

_OLDEST = 100
"""Steps back from which a row may still be executed; the longest chunks in use have 64 rows."""

_DELAYS = (0, 1, 2)
"""Steps by which an answer may regularly come late."""


@dataclass(frozen=True)
class ImageLink:
    """Which raw frame an image of a query was made of.

    Attributes:
        step: of the query.
        slot: which of its images.
        camera: "" where none was found.
        first, last: steps whose frames of that camera fit alike; the same where one fits best.
        registration: how the image lies on the best one; None where there was no frame to compare.
        reason: why there is no link, or why its element is not decided; else "".
    """

    step: int
    slot: str
    camera: str = ""
    first: int = 0
    last: int = 0
    registration: Registration | None = None
    reason: str = ""

    @property
    def found(self) -> bool:
        return bool(self.camera)

    @property
    def lies(self) -> Registration:
        """The registration, where there is a link."""
        assert self.registration is not None
        return self.registration

    @property
    def fresh(self) -> bool:
        """Whether it can be the frame of the query's own step."""
        return self.found and self.first <= self.step <= self.last

    @property
    def where(self) -> str:
        """For sentences: "agentview, step 3" or "agentview, one of steps 3 to 5"."""
        steps = f"step {self.first}" if self.first == self.last else f"one of steps {self.first} to {self.last}"
        return f"{self.camera}, {steps}"


@dataclass(frozen=True)
class Relation:
    """What becomes of one value of a row on its way to the environment, all through an episode.

    Attributes:
        kind: "same", "line" (slope * value + offset), "two" (one of two values, by a threshold), "fixed" (whatever the
            policy says) or "" (none of these).
        slope, offset: of a line.
        low, high: what small and large values become; of "fixed" both are the value.
        threshold: between small and large ones.
    """

    kind: str
    slope: float = 1.0
    offset: float = 0.0
    low: float = 0.0
    high: float = 0.0
    threshold: float = 0.0

    def values(self, column: np.ndarray) -> np.ndarray:
        """What the values of rows become: float64 of the same shape."""
        if self.kind in ("two", "fixed"):
            return np.where(column > self.threshold, self.high, self.low)
        return self.slope * column + self.offset


@dataclass(frozen=True)
class ActionLink:
    """Which query's row was executed at a step.

    Attributes:
        step: at which it was executed.
        query: step of the query; None where there is no link.
        row: its row, 0 for the first or only one; None likewise.
        relation: "same", "mapped" or "clipped"; "" without a link.
        reason: why there is no link; else "".
    """

    step: int
    query: int | None = None
    row: int | None = None
    relation: str = ""
    reason: str = ""


@dataclass(frozen=True)
class ActionLinks:
    """The executed actions of an episode, from its first query on.

    Attributes:
        links: in order; steps at which nothing was executed are left out.
        relations: one a value of the action; empty where nothing could be compared.
        source: what rows were compared: "returned" by the policy, or "normalised", where only its ids are known.
        rows: how many rows an answer has, the most frequent number.
    """

    links: tuple[ActionLink, ...] = ()
    relations: tuple[Relation, ...] = ()
    source: str = "returned"
    rows: int = 0

    @property
    def explained(self) -> tuple[ActionLink, ...]:
        return tuple(link for link in self.links if link.query is not None)


# Images.

_image_links: weakref.WeakKeyDictionary[Facts, tuple[ImageLink, ...]] = weakref.WeakKeyDictionary()


def image_links(facts: Facts) -> tuple[ImageLink, ...]:
    """Find the frame of every image of every query, slot by slot. Computed once for each `Facts`."""
    if facts not in _image_links:
        found: list[ImageLink] = []
        for slot in image_slots(facts.episode):
            found.extend(_Slot(facts, slot).links())
        _image_links[facts] = tuple(found)
    return _image_links[facts]


def image_slots(episode: Episode) -> list[str]:
    """Names of the images that queries were given, `IMAGE` first."""
    slots: dict[str, None] = {}
    for _, query in episode.queries():
        slots.update(dict.fromkeys([*([IMAGE] if query.image is not None else []), *query.more_images]))
    return sorted(slots, key=lambda slot: slot != IMAGE)


class _Slot:
    """The images of one slot, in the order in which the policy was given them."""

    def __init__(self, facts: Facts, slot: str) -> None:
        self.slot = slot
        self.steps = facts.episode.steps
        self.places = {step.number: place for place, step in enumerate(self.steps)}
        self.track = track(facts, slot)
        self.own = {match.step: match for match in self.track.matches}
        self.failed = 0
        self._compared: dict[int, np.ndarray] = {}

    def links(self) -> Iterator[ImageLink]:
        clear = self._clear()
        for step, image in self.track.asked:
            if step.number in clear:
                self.failed = 0
                match = self.own[step.number]
                reason = "" if match.registration.decisive else _why_not(match.registration)
                yield ImageLink(
                    step.number, self.slot, match.camera, step.number, step.number, match.registration, reason
                )
            else:
                yield self._link(step.number, image)

    def _clear(self) -> set[int]:
        """Steps whose image fits the frame of its own step, and better than those just before it.

        That is the usual case, and decided for all queries together.
        """
        groups: dict[tuple[str, str, tuple[float, ...], tuple[float, ...]], list[Match]] = {}
        for match in self.own.values():
            known = match.registration
            if known.score >= MIN_SCORE and known.contrast >= MIN_CONTRAST:
                groups.setdefault((match.camera, known.element, known.scales, known.offset), []).append(match)
        found: set[int] = set()
        for group in groups.values():
            camera = self.track.camera(group[0].camera)
            steps = np.array([match.step for match in group])
            own = np.array([camera.places[match.step] for match in group])
            given = self._given(group[0], np.array([self.track.places[match.step] for match in group]))
            seen = camera.outlines(self._window(group[0]))
            scores = np.full((_NEAR + 1, len(group)), -1.0, np.float32)
            for back in range(_NEAR + 1):
                there = np.flatnonzero(own >= back)
                images = given if len(there) == len(given) else given[there]
                scores[back, there] = np.einsum("nqij,nqij->n", seen[own[there] - back], images)
            clear = (scores[0] >= _SURE) & (scores[1:].max(axis=0) < scores[0] - ALIKE)
            found.update(steps[clear].tolist())
            if max(group[0].registration.scales) <= PADDED:
                rest = np.flatnonzero(~clear)
                self._compare(steps[rest], own[rest], given[rest], seen)
        return found

    def _compare(self, steps: np.ndarray, own: np.ndarray, given: np.ndarray, seen: Outlines) -> None:
        """Compare images with the `_FAR` frames before their own: those close to each other in one product.

        Args:
            own: place of each one's own frame, rising.
            given: outlines of the images, as they lie on the frame.
        """
        first = 0
        while first < len(own):
            last = int(np.searchsorted(own, own[first] + _FAR, side="right"))
            start = max(0, int(own[first]) - _FAR)
            earlier = seen[np.arange(start, int(own[last - 1]) + 1)]
            scores = given[first:last].reshape(last - first, -1) @ earlier.reshape(len(earlier), -1).T
            for step, place, row in zip(steps[first:last].tolist(), own[first:last].tolist(), scores, strict=True):
                self._compared[step] = row[max(0, place - _FAR) - start : place + 1 - start]
            first = last

    def _link(self, step: int, image: Frame) -> ImageLink:
        match = self.own.get(step)
        if match is not None and match.registration.contrast < MIN_CONTRAST:
            # Greys are exact, and even what is left in a black picture may correlate.
            return ImageLink(step, self.slot, registration=match.registration, reason=_why_not(match.registration))
        if match is None or match.registration.score < MIN_SCORE:
            earlier = None if self.failed >= _TRIES else self._earlier(step, image)
            if earlier is not None:
                match = max((one for one in (match, earlier) if one), key=lambda one: one.registration.score)
            if match is None:
                return ImageLink(step, self.slot, reason="no frame was recorded at its step or before")
            if match.registration.score < MIN_SCORE:
                self.failed += 1
                return ImageLink(step, self.slot, registration=match.registration, reason=_why_not(match.registration))
        self.failed = 0
        best, first, last = self._steps_alike(step, match)
        found = match.registration
        if best != match.step and not first <= match.step <= last:
            better = register(self._frame(best, match.camera).grey, image.grey)
            found = better if better.score > found.score else found
        reason = "" if found.decisive else _why_not(found)
        return ImageLink(step, self.slot, match.camera, first, last, found, reason)

    def _earlier(self, step: int, image: Frame) -> Match | None:
        """The frame of any camera that fits best, a few steps back."""
        place = self.places[step]
        places = sorted({place - back for back in _BACK if back <= place} | {0}, reverse=True)
        found = [
            Match(self.steps[one].number, camera, register(frame.grey, image.grey))
            for one in places
            if one < place
            for camera, frame in self.steps[one].frames.items()
        ]
        return max(found, key=lambda match: match.registration.score, default=None)

    def _steps_alike(self, step: int, match: Match) -> tuple[int, int, int]:
        """The step whose frame fits best, and the first and last of those around it that fit as well."""
        # What was compared with those just before it already, and is asked about, needs more.
        near = _FAR if self._known(match) else _NEAR
        steps, scores = self._scores(step, match, near)
        own = scores[-1] if steps[-1] == step else -1.0
        if near < _FAR and (own < _SURE or (scores[:-1] >= own - ALIKE).any()):
            steps, scores = self._scores(step, match, _FAR)
        best, peak = int(np.argmax(scores)), float(scores.max())
        if steps[-1] == step and scores[-1] >= peak - ALIKE:
            best = len(steps) - 1
        alike = (scores >= peak - ALIKE).tolist()
        low = high = best
        while low > 0 and alike[low - 1]:
            low -= 1
        while high + 1 < len(steps) and alike[high + 1]:
            high += 1
        return steps[best], steps[low], steps[high]

    def _scores(self, step: int, match: Match, back: int) -> tuple[list[int], np.ndarray]:
        camera = self.track.camera(match.camera)
        last = camera.last(step)
        first, own = max(0, last - back), camera.places[match.step]
        numbers = camera.numbers[first : last + 1]
        if match.step == step and self._known(match):
            return numbers, self._compared[step]
        places: np.ndarray = np.arange(first, last + 1)
        if not first <= own <= last:
            numbers, places = [match.step, *numbers], np.concatenate([[own], places])
        place = self.track.places[step]
        given = self._given(match, np.array([place]), place)[0]
        seen = camera.outlines(self._window(match, place))[places]
        return numbers, seen.reshape(len(places), -1) @ given.ravel()

    def _known(self, match: Match) -> bool:
        """Whether a match is that of the image to its own step, and was compared with the frames before."""
        return match.step in self._compared and match is self.own.get(match.step)

    def _given(self, known: Match, places: np.ndarray, place: int | None = None) -> np.ndarray:
        """Outlines of the images at some places, as they lie on the frame."""
        content = self.track.content(known.registration, self.track.places[known.step] if place is None else place)
        return lying_as(known.registration, self.track.images(content)[places])

    def _window(self, known: Match, place: int | None = None) -> tuple[float, float, float, float]:
        content = self.track.content(known.registration, self.track.places[known.step] if place is None else place)
        return windows_of(known.registration, content)[ELEMENTS.index(known.registration.element)]

    def _frame(self, step: int, camera: str) -> Frame:
        return self.steps[self.places[step]].frames[camera]


def _why_not(found: Registration) -> str:
    if found.contrast < MIN_CONTRAST:
        return "the pictures show too little"
    if found.score < MIN_SCORE:
        return f"it fits no frame that was recorded (best correlation {found.score:.2f})"
    return f"it looks alike under {found.element} and {found.runner_up}"


# Actions.

_action_links: weakref.WeakKeyDictionary[Facts, ActionLinks] = weakref.WeakKeyDictionary()


def action_links(facts: Facts) -> ActionLinks:
    """Find the query, and its row, behind every executed action. Computed once for each `Facts`."""
    if facts not in _action_links:
        _action_links[facts] = _link_actions(facts)
    return _action_links[facts]


def _link_actions(facts: Facts) -> ActionLinks:
    steps = [step for step in facts.episode.policy_steps() if step.executed]
    if not steps:
        return ActionLinks()
    low, high = facts.profile.get("environment.input_range") or (-1.0, 1.0)
    limits = float(low), float(high)
    source, answers = _answers(facts)
    if not answers:
        reason = "neither an answer nor the ids of one were recorded"
        return ActionLinks(tuple(ActionLink(step.number, reason=reason) for step in steps))
    size = Counter(len(step.executed) for step in steps).most_common(1)[0][0]
    width = Counter(rows.shape[1] for rows in answers.values()).most_common(1)[0][0]
    count = Counter(len(rows) for rows in answers.values()).most_common(1)[0][0]
    if width < size:
        reason = f"an answer has {width} values, the environment takes {size}"
        return ActionLinks(tuple(ActionLink(step.number, reason=reason) for step in steps), (), source, count)
    # Models with a fixed number of values pad shorter actions behind.
    answers = {number: rows[:, :size] for number, rows in answers.items() if rows.shape[1] >= size}
    executed = {step.number: np.asarray(step.executed, np.float64) for step in steps if len(step.executed) == size}
    best: tuple[float, int] = (-1.0, 0)
    usual: dict[int, tuple[int, int]] = {}
    relations: tuple[Relation, ...] = ()
    for delay in _DELAYS:
        pairs = _in_turn(answers, executed, delay)
        if delay and _at_most(answers, executed, pairs, limits) <= best[0]:
            continue
        found = _relations(answers, executed, pairs, limits)
        if (_strength(found), -delay) > best:
            best, usual, relations = (_strength(found), -delay), pairs, found
        if found and _strength(found) == len(found):
            break  # nothing is stronger than all values as they were
    finder = _Finder(answers, relations, limits)
    expected = finder.in_turn(executed, usual)
    links = tuple(expected.get(step.number) or finder.link(step.number, executed.get(step.number)) for step in steps)
    return ActionLinks(links, relations, source, count)


def executed_by_query(facts: Facts) -> dict[int, tuple[float, ...]]:
    """What was executed of the first row of each query: step of the query -> action.

    Where nothing is known to be, it is what was executed at the query's own step, unless that is another query's.
    """
    steps = {step.number: step for step in facts.episode.steps}
    links = {link.step: link for link in action_links(facts).links}
    found = {
        number: steps[number].executed
        for number, _ in facts.episode.queries()
        if number not in links or links[number].query in (None, number)
    }
    for link in action_links(facts).explained:
        if link.row == 0 and link.query is not None and link.query not in found:
            found[link.query] = steps[link.step].executed
    return found


def _answers(facts: Facts) -> tuple[str, dict[int, np.ndarray]]:
    """What queries answered: step -> rows (n, values), as returned, or normalised where only ids are known."""
    queries = list(facts.episode.queries())
    returned = {
        step: np.asarray(query.chunk or (query.action,), np.float64)
        for step, query in queries
        if query.chunk or query.action is not None
    }
    if returned:
        return "returned", returned
    decoded = {one.step: one.centres for one in tokens_of(facts)}
    decoded.update({step: np.asarray(query.normalised) for step, query in queries if query.normalised is not None})
    return "normalised", {step: np.asarray(values, np.float64)[None] for step, values in decoded.items()}


def _in_turn(
    answers: Mapping[int, np.ndarray], executed: Mapping[int, np.ndarray], delay: int
) -> dict[int, tuple[int, int]]:
    """Step -> (query, row), if every answer's rows are executed one after the other until the next one comes."""
    asked, steps = np.array(sorted(answers)), np.array(list(executed), dtype=int)
    places = np.searchsorted(asked, steps - delay, side="right") - 1
    queries = asked[np.maximum(places, 0)]
    candidates = zip(steps.tolist(), places.tolist(), queries.tolist(), strict=True)
    return {
        step: (query, step - delay - query)
        for step, place, query in candidates
        if place >= 0 and step - delay - query < len(answers[query])
    }


def _relations(
    answers: Mapping[int, np.ndarray],
    executed: Mapping[int, np.ndarray],
    pairs: Mapping[int, tuple[int, int]],
    limits: tuple[float, float],
) -> tuple[Relation, ...]:
    if not pairs:
        return ()
    rows = np.array([answers[query][row] for query, row in pairs.values()])
    values = np.array([executed[step] for step in pairs])
    return tuple(_relation(row, value, limits) for row, value in zip(rows.T, values.T, strict=True))


def _at_most(
    answers: Mapping[int, np.ndarray],
    executed: Mapping[int, np.ndarray],
    pairs: Mapping[int, tuple[int, int]],
    limits: tuple[float, float],
) -> float:
    """What `_strength` cannot exceed; to fit lines takes much longer."""
    if not pairs:
        return 0.0
    rows = np.array([answers[query][row] for query, row in pairs.values()])
    values = np.array([executed[step] for step in pairs])
    same = (_same(rows, values) | _same(np.clip(rows, *limits), values)).mean(axis=0) >= _OFTEN
    return float(np.where(same, _WORTH["same"], _WORTH["line"]).sum())


def _relation(row: np.ndarray, value: np.ndarray, limits: tuple[float, float]) -> Relation:
    """What becomes of one value, from all steps together; both are float64 (steps,)."""
    if (_same(row, value) | _same(np.clip(row, *limits), value)).mean() >= _OFTEN:
        return Relation("same")
    kinds = np.unique(np.round(value, 6))
    if len(kinds) == 1:
        return Relation("fixed", low=float(value[0]), high=float(value[0]))
    if len(kinds) == 2:
        upper = value > kinds.mean()
        for flipped in (False, True):
            large = upper != flipped
            if row[~large].max() < row[large].min():
                ends = (kinds[1], kinds[0]) if flipped else (kinds[0], kinds[1])
                threshold = (row[~large].max() + row[large].min()) / 2.0
                return Relation("two", low=float(ends[0]), high=float(ends[1]), threshold=float(threshold))
    inside = (value > limits[0]) & (value < limits[1])
    for _ in range(3):
        if len(np.unique(np.round(row[inside], 6))) < 3:
            return Relation("")
        slope, offset = np.polyfit(row[inside], value[inside], 1)
        off = np.abs(slope * row + offset - value)
        close = off <= _ON_LINE * np.ptp(value)
        if close[inside].mean() >= 0.9:
            return Relation("line", float(slope), float(offset))
        inside &= off <= np.quantile(off[inside], 0.8)
    return Relation("")


def _strength(relations: Sequence[Relation]) -> float:
    return sum(_WORTH.get(relation.kind, 0.0) for relation in relations)


_WORTH = {"same": 1.0, "line": 0.6, "two": 0.3}
"""Of a kind of relation, for telling that answers and commands belong together."""


class _Finder:
    """Finds rows by value, under relations that hold for the episode."""

    def __init__(
        self, answers: Mapping[int, np.ndarray], relations: Sequence[Relation], limits: tuple[float, float]
    ) -> None:
        self.relations = [relation if relation.kind else Relation("same") for relation in relations]
        self.limits = limits
        self.mapped = any(relation.kind != "same" for relation in self.relations)
        # Something of the policy's has to come through: a value that is one of two comes from anywhere.
        self.tells = any(relation.kind not in ("two", "fixed") for relation in relations)
        owners, rows = [], []
        for query, own in sorted(answers.items()):
            owners += [(query, row) for row in range(len(own))]
            rows.append(own)
        self.owners = np.array(owners)
        values = np.concatenate(rows)
        self.values = (
            np.stack([one.values(column) for one, column in zip(self.relations, values.T, strict=True)], axis=1)
            if self.relations
            else values
        )
        spans = np.ptp(self.values, axis=0)
        self.slack = np.where([relation.kind == "line" for relation in self.relations], 2.0 * _ON_LINE * spans, 0.0)
        self.index = {(int(query), int(row)): place for place, (query, row) in enumerate(self.owners)}

    def in_turn(
        self, executed: Mapping[int, np.ndarray], pairs: Mapping[int, tuple[int, int]]
    ) -> dict[int, ActionLink]:
        """Links of the steps that execute the row of their turn, (query, row); the others are for `link`."""
        if not (pairs and self.relations and self.tells):
            return {}
        places = np.array([self.index[pair] for pair in pairs.values()])
        wanted = np.array([executed[step] for step in pairs])
        held = self._gives(wanted, places)
        clipped = self._clipped(wanted, places)
        return {
            step: ActionLink(step, *pair, self._relation(cut))
            for (step, pair), holds, cut in zip(pairs.items(), held.tolist(), clipped.tolist(), strict=True)
            if holds
        }

    def link(self, step: int, executed: np.ndarray | None) -> ActionLink:
        if executed is None:
            return ActionLink(step, reason="it has another number of values than the others")
        if not self.relations or not self.tells:
            return ActionLink(step, reason="what was executed does not depend on what the policy answered")
        near = np.flatnonzero((self.owners[:, 0] <= step) & (self.owners[:, 0] >= step - _OLDEST))
        held = near[self._gives(executed, near)]
        if not len(held):
            return ActionLink(step, reason="it is no row of any answer: averaged over several, or not the policy's")
        # Of several that are equal, the earliest row of the latest answer.
        latest = held[self.owners[held, 0] == self.owners[held, 0].max()]
        return self._found(step, executed, int(latest[0]))

    def _gives(self, executed: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Which of the rows at `places` give what was executed: one action (values,), or one for each (n, values)."""
        wanted = np.clip(executed, *self.limits)
        values = np.clip(self.values[places], *self.limits)
        return np.asarray((np.abs(values - wanted) <= self._room(wanted)).all(axis=1))

    def _clipped(self, executed: np.ndarray, places: np.ndarray) -> np.ndarray:
        return np.asarray((np.abs(self.values[places] - executed) > self._room(executed)).any(axis=1))

    def _room(self, wanted: np.ndarray) -> np.ndarray:
        return np.maximum(self.slack, SAME * np.maximum(1.0, np.abs(wanted)))

    def _found(self, step: int, executed: np.ndarray, place: int) -> ActionLink:
        query, row = (int(value) for value in self.owners[place])
        return ActionLink(step, query, row, self._relation(bool(self._clipped(executed, np.array([place]))[0])))

    def _relation(self, clipped: bool) -> str:
        return "clipped" if clipped else "mapped" if self.mapped else "same"


def _same(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.asarray(np.abs(one - other) <= SAME * np.maximum(1.0, np.abs(one)))


# In words.


def summary(facts: Facts) -> list[str]:
    """What was found, for reports: sentences without a full stop."""
    said: list[str] = []
    for slot in image_slots(facts.episode):
        said.extend(_images_in_words([link for link in image_links(facts) if link.slot == slot], slot))
    said.extend(_actions_in_words(facts))
    return said


def _images_in_words(links: Sequence[ImageLink], slot: str) -> Iterator[str]:
    total, what = len(links), f"images {slot}" if slot else "model images"
    groups = Counter((link.camera, link.lies.element) for link in links if link.found)
    for (camera, element), count in groups.most_common(2):
        group = [link for link in links if link.camera == camera and link.lies.element == element]
        stale = [link for link in group if not link.fresh]
        done = "as it is" if element == "identity" else f"after {element}"
        when = "of the query's own step" if not stale else f"of an earlier step in {len(stale)} of them"
        yield f"{count} of {total} {what} are the {camera} frame {when}, {done}"
    lost = [link for link in links if not link.found]
    if lost:
        reason = Counter(link.reason for link in lost).most_common(1)[0][0]
        yield f"{len(lost)} of {total} {what} could not be linked to a frame: {reason}"


def _actions_in_words(facts: Facts) -> Iterator[str]:
    found = action_links(facts)
    total = len(found.links)
    if not total:
        return
    explained = found.explained
    if explained:
        delays = Counter(link.step - (link.query or 0) - (link.row or 0) for link in explained)
        delay, usual = delays.most_common(1)[0]
        late = f", {delay} step{'s' if delay > 1 else ''} late" if delay > 0 else ""
        if found.rows > 1:
            used = Counter(link.query for link in explained)
            most = Counter(used.values()).most_common(1)[0][0]
            rows = f"{most} of every {found.rows} rows were executed{late}"
            yield f"{len(explained)} of {total} executed actions are rows of an answer; {rows}"
        elif delay == 0 and usual == len(explained):
            yield f"{usual} of {total} executed actions are the answer of the query of the same step"
        else:
            again = f"; {len(explained) - usual} repeat an older one" if usual < len(explained) else ""
            yield f"{usual} of {total} executed actions are the latest answer{late}{again}"
        names = facts.profile.get("action.dimensions") or ()
        changes = list(_relations_in_words(found, names))
        if changes:
            yield f"on the way to the environment {'; '.join(changes)}"
        clipped = sum(link.relation == "clipped" for link in explained)
        if clipped:
            yield f"{clipped} executed actions were cut to what the environment takes"
    lost = [link for link in found.links if link.query is None]
    if lost:
        reason = Counter(link.reason for link in lost).most_common(1)[0][0]
        yield f"{len(lost)} of {total} executed actions, the first at step {lost[0].step}, come from no query: {reason}"


def _relations_in_words(found: ActionLinks, names: Sequence[str]) -> Iterator[str]:
    if len(names) != len(found.relations):
        names = [f"value {place + 1}" for place in range(len(found.relations))]
    lines = [name for name, relation in zip(names, found.relations, strict=True) if relation.kind == "line"]
    if lines:
        changed = "un-normalised" if found.source == "normalised" else "rescaled"
        yield f"{', '.join(lines)} {'is' if len(lines) == 1 else 'are'} {changed}"
    # Of another value than the gripper, which is the last, it only says that it took two values so far.
    for name, relation in zip(names[-1:], found.relations[-1:], strict=True):
        if relation.kind == "two":
            yield f"{name} becomes {relation.low:g} up to {relation.threshold:.2g} and {relation.high:g} above"
