"""Answers that repeat themselves, and questions that do: when the policy said the same, and when it was asked the same.

Answers are compared exactly. A model whose image has changed gives another answer at least in the last digit; only an
answer that is made of bins can come out the same by right, and then its ids have come out the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from vladoctor.records import Episode, Query

Answer = tuple[float, ...]


@dataclass(frozen=True)
class Run:
    """Queries in a row that were answered alike.

    Attributes:
        steps: numbers of the steps.
        answers: the different answers that take turns in it: one, or two.
        ids: how many different sets of ids they came with; 0 where not all ids were recorded.
        change: largest mean difference of the model's image, or where that was not recorded of a raw frame, from the
            first one in it, in levels (0..255); None where no two were recorded.
    """

    steps: tuple[int, ...]
    answers: tuple[Answer, ...]
    ids: int
    change: float | None

    def __len__(self) -> int:
        return len(self.steps)


@dataclass(frozen=True)
class Twins:
    """Two queries that were asked the very same, and did not answer the same.

    Attributes:
        first, second: numbers of the steps.
        bins: largest difference of two ids at the same place; 0 where they have none.
        margin: smallest lead of a best id over the second best among those that differ, nats; None where not recorded.
    """

    first: int
    second: int
    bins: int
    margin: float | None


def answer_of(query: Query) -> Answer:
    """Everything that a query was answered: the chunk, the action, or only the ids."""
    if query.chunk:
        return tuple(value for row in query.chunk for value in row)
    return query.action if query.action is not None else tuple(map(float, query.ids))


def longest_repeat(episode: Episode, period: int = 1) -> Run | None:
    """The longest row of queries in which `period` answers take turns; None where there is none of two turns.

    Args:
        period: 1 for an answer that stays the same, 2 for two different ones by turns.
    """
    asked = [(step, query, answer_of(query)) for step, query in episode.queries()]
    asked = [one for one in asked if one[2]]
    best, start = range(0), 0
    for place in range(len(asked) + 1):
        ended = place == len(asked)
        if ended or (place - start >= period and asked[place][2] != asked[place - period][2]):
            if place - start > len(best):
                best = range(start, place)
            # What follows may share its beginning with what has ended.
            start = max(start, place - period + 1)
            while not ended and place - start >= period and asked[place][2] != asked[place - period][2]:
                start += 1
    chosen = [asked[place] for place in best]
    answers = tuple(dict.fromkeys(answer for _, _, answer in chosen))
    if len(chosen) < 2 * period or len(answers) != period:
        return None
    ids = {query.ids for _, query, _ in chosen}
    steps = tuple(step for step, _, _ in chosen)
    return Run(steps, answers, 0 if () in ids else len(ids), _change(episode, steps))


def twins(episode: Episode) -> tuple[int, list[Twins]]:
    """How many queries were asked the same as one before, and those of them whose answers differ from that one's."""
    first: dict[tuple[object, ...], list[tuple[int, Query]]] = {}
    count, found = 0, []
    for step, query in episode.queries():
        asked = _question(query)
        if asked is None or not answer_of(query):
            continue
        known = first.setdefault(asked, [])
        before = next((one for one in known if _picture(one[1]) == _picture(query)), None)
        if before is None:
            known.append((step, query))
            continue
        count += 1
        if answer_of(before[1]) != answer_of(query):
            found.append(Twins(before[0], step, *_apart(before[1], query)))
    return count, found


def _question(query: Query) -> tuple[object, ...] | None:
    """What a query was asked but for its picture; None where its image was not recorded closely enough to be told."""
    if query.image is None or not query.pixel_stats or query.more_images or not (query.input_ids or query.prompt):
        return None
    pixels = tuple((name, tuple(values)) for name, values in sorted(query.pixel_stats.items()))
    state = tuple((name, tuple(values)) for name, values in sorted(query.proprio.items()))
    return query.prompt, query.input_ids, pixels, state


def _picture(query: Query) -> bytes:
    assert query.image is not None
    return query.image.identity


def _apart(one: Query, other: Query) -> tuple[int, float | None]:
    if len(one.ids) != len(other.ids):
        return 0, None
    places = [place for place, pair in enumerate(zip(one.ids, other.ids, strict=True)) if pair[0] != pair[1]]
    bins = max((abs(one.ids[place] - other.ids[place]) for place in places), default=0)
    # Ids behind the first that differs were generated from another text.
    leads = [query.margin[places[0]] for query in (one, other) if places and len(query.margin) > places[0]]
    return bins, min(leads, default=None)


def _change(episode: Episode, steps: Iterable[int]) -> float | None:
    wanted = set(steps)
    chosen = [step for step in episode.steps if step.number in wanted]
    pictures = [step.query.image for step in chosen if step.query is not None and step.query.image is not None]
    if len(pictures) < 2:
        cameras = sorted(set().union(*(step.frames for step in chosen))) if chosen else []
        pictures = [step.frames[cameras[0]] for step in chosen if cameras and cameras[0] in step.frames]
    if len(pictures) < 2:
        return None
    # A few, spread over all of them: a scene that comes back to where it was has still changed.
    places = np.unique(np.linspace(0, len(pictures) - 1, 9).round().astype(int))
    shown = [pictures[place].thumbnail.astype(np.float64) for place in places]
    alike = [one for one in shown if one.shape == shown[0].shape]
    return float(max(np.abs(one - alike[0]).mean() for one in alike))
