"""Whether what the policy answers depends on what it sees.

Ids are few, and a policy that waits answers the same ones to many frames. The probabilities behind them are another
matter: of a model that sees, no two different frames give the same margin, entropy and mass to six digits in every
token. So queries that were asked the same (ids of the prompt, state) are put together by their exact answer, and the
images within such a group compared.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.records import Frame, Query, Step


_MOST = 12
"""Images of which the colours are compared with those of the first that was answered the same."""


@dataclass(frozen=True)
class Same:
    """Queries that were asked the same and answered the same.

    Attributes:
        steps: of the queries, in order.
        exact: whether the tokens' probabilities are equal as well, to every recorded digit; else ids or actions alone
            are. change: how far any of their images is from the first, mean over the thumbnail's values in levels.
            furthest: step of that image.
    """

    steps: tuple[int, ...]
    exact: bool
    change: float
    furthest: int


@dataclass(frozen=True)
class Vision:
    """What an episode's queries show of vision.

    Attributes:
        calls: step -> how often the vision tower ran, where that was seen.
        tokens: step -> ids generated.
        images: step -> images that the model was given.
        same: groups of two queries and more, the largest change first.
        different: queries asked the same whose exact answers differ from the one before, with images that differ.
    """

    calls: dict[int, int]
    tokens: dict[int, int]
    images: dict[int, int]
    same: tuple[Same, ...]
    different: int

    @property
    def unseeing(self) -> tuple[int, ...]:
        """Steps of the queries in which the tower did not run."""
        return tuple(step for step, count in self.calls.items() if count == 0)


_found: weakref.WeakKeyDictionary[Facts, Vision] = weakref.WeakKeyDictionary()


def vision(facts: Facts) -> Vision:
    """Compare the answers of an episode. Computed once for each `Facts`."""
    if facts not in _found:
        _found[facts] = _vision([step for step in facts.episode.steps if step.query is not None])
    return _found[facts]


def _vision(steps: Sequence[Step]) -> Vision:
    queries = {step.number: step.query for step in steps if step.query is not None}
    groups: dict[Any, list[Step]] = {}
    different, before = 0, None
    for step in steps:
        query = step.query
        assert query is not None
        exact, answer = _answer(query)
        if answer is None:
            continue
        asked = (query.input_ids or query.prompt, tuple(sorted((name, tuple(v)) for name, v in query.proprio.items())))
        groups.setdefault((asked, exact, answer), []).append(step)
        if before is not None and exact and before[0] == asked and before[1] != answer:
            different += 1
        before = (asked, answer) if exact else before
    same = [_same(group, key[1]) for key, group in groups.items() if len(group) > 1]
    return Vision(
        calls={number: query.vision_calls for number, query in queries.items() if query.vision_calls is not None},
        tokens={number: len(query.ids) for number, query in queries.items()},
        images={number: (query.image is not None) + len(query.more_images) for number, query in queries.items()},
        same=tuple(sorted(same, key=lambda one: (-one.exact, -one.change))),
        different=different,
    )


def _answer(query: Query) -> tuple[bool, Any]:
    """Whether an answer is known in every digit, and the answer; None for none."""
    if query.ids and len(query.margin) == len(query.ids):
        values = (query.margin, query.entropy, query.action_mass)
        if all(map(math.isfinite, chain.from_iterable(values))):
            return True, (query.ids, *values)
    if query.ids:
        return False, query.ids
    rows = query.chunk or ((query.action,) if query.action is not None else ())
    return False, rows or None


def _same(group: Sequence[Step], exact: bool) -> Same:
    first = _pictures(group[0])
    change, furthest = 0.0, group[0].number
    for step in _furthest(group):
        pairs = zip(first, _pictures(step), strict=False)
        for one, other in pairs:
            if one.identity != other.identity and one.thumbnail.shape == other.thumbnail.shape:
                far = float(np.abs(one.thumbnail.astype(np.float32) - other.thumbnail).mean())
                if far > change:
                    change, furthest = far, step.number
    return Same(tuple(step.number for step in group), exact, change, furthest)


def _furthest(group: Sequence[Step]) -> list[Step]:
    """The steps of a group among which to look for the one whose images are furthest from the first's.

    Of a large group some, by their greys, which need no decoding: colours alone do not change.
    """
    others = list(group[1:])
    if len(others) <= _MOST:
        return others
    first = [frame.grey.astype(np.int16) for frame in _pictures(group[0])]

    def change(step: Step) -> float:
        pairs = zip(first, _pictures(step), strict=False)
        return max(
            (float(np.abs(one - other.grey).mean()) for one, other in pairs if one.shape == other.grey.shape),
            default=0.0,
        )

    return [
        others[place]
        for place in sorted(np.argsort([-change(step) for step in others], kind="stable")[:_MOST].tolist())
    ]


def _pictures(step: Step) -> list[Frame]:
    """What the model was given, else what the cameras showed."""
    return list(_images(step.query)) or [frame for _, frame in sorted(step.frames.items())]


def _images(query: Query | None) -> Iterator[Frame]:
    if query is not None:
        if query.image is not None:
            yield query.image
        yield from (frame for _, frame in sorted(query.more_images.items()))
