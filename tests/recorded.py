"""Healthy episodes that were recorded in LIBERO, without their pictures: what was observed, asked, answered, executed.

`openvla`: the reference loop, task 0 of libero_object, init state 30, all of its 138 steps. `openpi`: the client and
server of `clients/`, the same task and state, its first 40 steps; chunks of ten rows, asked every five steps.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from vladoctor.records import Episode, Outcome, Query, Step

DATA = Path(__file__).parent / "data"


@cache
def _table(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DATA / f"{name}-libero-object.json").read_text("utf-8"))
    return found


def recorded(name: str) -> Episode:
    """One of the recorded episodes, "openvla" or "openpi"."""
    table = _table(name)
    steps = [
        Step(
            number=row["step"],
            proprio={key: tuple(values) for key, values in row["proprio"].items()},
            executed=tuple(row["executed"]),
            query=_query(row["query"]) if "query" in row else None,
        )
        for row in table["steps"]
    ]
    return Episode(
        run={"checkpoint": {}}, task=table["task"], steps=steps, outcome=Outcome("horizon", False, len(steps))
    )


def _query(row: dict[str, Any]) -> Query:
    return Query(
        boundary=row["boundary"],
        action=tuple(row["action"]),
        chunk=tuple(map(tuple, row.get("chunk", ()))),
        proprio={key: tuple(values) for key, values in row.get("proprio", {}).items()},
    )


def changed(episode: Episode, change: Callable[[Step], Step], first: int = 0) -> Episode:
    """The episode with its steps from `first` on changed."""
    return replace(episode, steps=[change(step) if step.number >= first else step for step in episode.steps])


def executing(episode: Episode, loop: Callable[[Iterator[Step]], Iterator[Any]]) -> Episode:
    """The episode as if another loop had executed its answers.

    Args:
        loop: the steps from the first query on -> for each of them what it executes.
    """
    steps = [step for step in episode.steps if step.number >= 0]
    before = [step for step in episode.steps if step.number < 0]
    done = [
        replace(step, executed=tuple(map(float, action)))
        for step, action in zip(steps, loop(iter(steps)), strict=False)
    ]
    return replace(episode, steps=[*before, *done])
