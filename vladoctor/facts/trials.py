"""What the episodes of a run are together: how many, begun how, and what their number can tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

from vladoctor.facts.protocol import SAME_STATE, beginning, calls, policy_steps, task_key

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.records import Episode

Z = 1.959964
"""Quantile of the normal distribution for 95 %."""

SUITE_TASKS = {"libero_spatial": 10, "libero_object": 10, "libero_goal": 10, "libero_10": 10, "libero_90": 90}
"""Tasks in each suite.

Source: Lifelong-Robot-Learning/LIBERO@8f1084e libero/libero/benchmark/libero_suite_task_map.py.
"""


@dataclass(frozen=True)
class Rate:
    """A success rate with Wilson's 95 % interval.

    Attributes:
        successes, trials: of how many.
        low, high: ends of the interval.
    """

    successes: int
    trials: int
    low: float
    high: float

    @property
    def value(self) -> float:
        return self.successes / self.trials

    @property
    def width(self) -> float:
        return self.high - self.low

    @property
    def difference(self) -> float:
        """By how much two runs of so many trials at such rates have to differ, to differ at 95 %.

        Of a rate of 0 or 1 the interval's middle is taken for it.
        """
        rate = self.value if 0 < self.value < 1 else (self.low + self.high) / 2
        return min(1.0, Z * sqrt(2 * rate * (1 - rate) / self.trials))


def success_rate(episodes: Sequence[Episode]) -> Rate | None:
    """Of the episodes that ended by themselves; None without any."""
    counted = [one for one in episodes if one.outcome.ended in ("success", "horizon") and not one.truncated]
    trials, successes = len(counted), sum(one.outcome.success for one in counted)
    if not trials:
        return None
    rate, weight = successes / trials, Z * Z / trials
    centre = (rate + weight / 2) / (1 + weight)
    half = Z * sqrt(rate * (1 - rate) / trials + weight / (4 * trials)) / (1 + weight)
    return Rate(successes, trials, max(0.0, centre - half), min(1.0, centre + half))


def by_task(runs: Sequence[Facts]) -> dict[tuple[str, str], list[Facts]]:
    """The episodes of each task, in order; of those with a query."""
    found: dict[tuple[str, str], list[Facts]] = {}
    for facts in runs:
        if any(True for _ in facts.episode.queries()):
            found.setdefault(task_key(facts.episode), []).append(facts)
    return found


@dataclass(frozen=True, eq=False)
class Start:
    """How an episode began, and its course.

    Attributes:
        seed: that was given last before the first query, with `seed` or `reset`; None where none was.
        set_state: the init state that was set; None where none was.
        state: what it began in: the simulator's state, else the robot's own observation; None where neither is known.
        whole: whether `state` is the simulator's.
        actions: what was executed, (steps, action_dim); proprio: the observation before each step, (steps, values).
    """

    facts: Facts
    seed: int | None
    set_state: np.ndarray | None
    state: np.ndarray | None
    whole: bool
    actions: np.ndarray
    proprio: np.ndarray


def start(facts: Facts) -> Start | None:
    """None where the recording does not show how the episode began."""
    episode = facts.episode
    begun = beginning(episode)
    if begun is None or not begun.seen:
        return None
    seed: int | None = None
    for call in calls(episode):
        if call.step > 0:
            break
        value = call.facts.get("seed")
        if call.name in ("seed", "reset") and isinstance(value, int) and not call.raised:
            seed = value
    steps = policy_steps(episode)
    actions = _table([step.executed for step in steps])
    names = sorted(steps[0].proprio) if steps else []
    proprio = _table([[value for name in names for value in step.proprio.get(name, ())] for step in steps])
    state = begun.known_state
    first = proprio[0] if len(proprio) and proprio.shape[1] else None
    return Start(facts, seed, begun.set_state, first if state is None else state, state is not None, actions, proprio)


def same(one: np.ndarray | None, two: np.ndarray | None) -> bool:
    """Whether two states are one, to within `SAME_STATE`; None is like None only."""
    if one is None or two is None:
        return one is two
    return one.shape == two.shape and bool(np.abs(one - two).max(initial=0.0) <= SAME_STATE)


def same_course(one: Start, two: Start) -> bool:
    """Whether two episodes executed the same actions, as far as both go."""
    length = min(len(one.actions), len(two.actions))
    fits = one.actions.shape[1:] == two.actions.shape[1:]
    return bool(length) and fits and bool(np.array_equal(one.actions[:length], two.actions[:length]))


def parted(one: Start, two: Start) -> int | None:
    """The step at which two episodes came to differ although the same actions had been executed up to it, or None."""
    length = min(len(one.actions), len(two.actions), len(one.proprio), len(two.proprio))
    if not length or one.actions.shape[1:] != two.actions.shape[1:] or one.proprio.shape[1:] != two.proprio.shape[1:]:
        return None
    apart = np.abs(one.proprio[:length] - two.proprio[:length]).max(axis=1, initial=0.0) > SAME_STATE
    other = (one.actions[:length] != two.actions[:length]).any(axis=1)
    first = int(np.argmax(apart)) if apart.any() else length
    # What differs after another action was executed says nothing.
    return first if first < length and not other[:first].any() else None


def _table(rows: Sequence[Sequence[float]]) -> np.ndarray:
    """The rows up to the first of another length."""
    width = len(rows[0]) if rows else 0
    length = next((place for place, row in enumerate(rows) if len(row) != width), len(rows))
    return np.array([list(row) for row in rows[:length]], dtype=np.float64).reshape(length, width)
