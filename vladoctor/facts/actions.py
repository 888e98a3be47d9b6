"""What the policy answered for each control step, beside what was executed at it, and how the arm moved.

A query answers for one step, or with a chunk of rows for several. `plan` lays the rows out in order from the step of
their query on, which is how a loop executes them unless something else is wrong (VD505 looks at that).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from vladoctor.profiles import Profile
    from vladoctor.records import Episode, Query

SAME = 1e-5
"""Relative difference that counts as none: float32 is off by 6e-8, a command of a trace written as text by 1e-6."""

ROUNDED = 4e-3
"""The same for values that went through bfloat16, which keeps 8 bits."""

TINY = 1e-8
"""Absolute difference that always counts as none."""

DISTINCT = 3
"""Values that a dimension must have taken before a relation is read off it."""

POSITION = ("robot0_eef_pos", "eef_pos", "ee_pos", "tcp_pos")
"""Names of the hand's position in an observation, metres."""

_OLDER = 3
"""Answers before the latest one whose rows may still be executed."""

GRIPPER = "gripper"

FACTORS: Mapping[str, float] = {
    "180/pi, radians taken for degrees": 180.0 / np.pi,
    "pi/180, degrees taken for radians": np.pi / 180.0,
    "1000, metres taken for millimetres": 1000.0,
    "1/1000, millimetres taken for metres": 1e-3,
    "the controller's 0.05 m, which it applies itself": 0.05,
    "the controller's 0.5 rad, which it applies itself": 0.5,
    "1 through the controller's 0.05 m": 20.0,
}
"""Factors that have a meaning, by what they are."""


@dataclass(frozen=True, eq=False)
class Plan:
    """The control steps of an episode from the first query on.

    Attributes:
        steps: int (steps,).
        asked: bool (steps,), whether the policy was asked at the step.
        row: int (steps,), number of the answer's row that is due; -1 where the answer has no such row.
        planned: float64 (steps, dim), that row, NaN where there is none.
        executed: float64 (steps, dim), NaN where nothing, or another number of values, was recorded.
    """

    steps: np.ndarray
    asked: np.ndarray
    row: np.ndarray
    planned: np.ndarray
    executed: np.ndarray

    @property
    def comparable(self) -> np.ndarray:
        """Steps at which both are known: bool (steps,)."""
        both: np.ndarray = np.isfinite(self.planned).all(axis=1) & np.isfinite(self.executed).all(axis=1)
        return both


@dataclass(frozen=True)
class Late:
    """The executed actions are those of `by` queries earlier."""

    by: int


@dataclass(frozen=True)
class Dimension:
    """What one executed dimension was made of.

    Attributes:
        kind: "same", "moved" (another dimension's value), "negated", "constant", "line", "ratio" (as on a line, but the
            values hardly changed), or "unknown".
        source: dimension that it is made of.
        slope, offset: of the line; of a constant its value is the offset.
    """

    kind: str
    source: int
    slope: float = 1.0
    offset: float = 0.0


def dimensions(profile: Profile, size: int) -> tuple[str, ...]:
    """Names of an action's dimensions; numbers where the profile names none or another number of them."""
    names = profile.get("action.dimensions") or ()
    return tuple(map(str, names)) if len(names) == size else tuple(f"dimension {number}" for number in range(size))


def answer(query: Query) -> np.ndarray | None:
    """The rows of an answer, float64 (rows, dim); None where no action was recorded."""
    rows = _rows(query)
    return np.asarray(rows, dtype=np.float64) if rows else None


def _rows(query: Query) -> Sequence[Sequence[float]]:
    """The rows of an answer; none where they differ in length."""
    rows = query.chunk or ((query.action,) if query.action is not None else ())
    if len(rows) < 2:
        return rows if rows and len(rows[0]) else ()
    return rows if len(rows[0]) and all(len(row) == len(rows[0]) for row in rows) else ()


def answer_size(episode: Episode) -> int | None:
    """Values of an answered action; None where none was recorded or they differ."""
    sizes = {len(rows[0]) for _, query in episode.queries() if (rows := _rows(query))}
    return sizes.pop() if len(sizes) == 1 else None


def executed_size(episode: Episode) -> int | None:
    """Values of an executed action after the first query; None where none was recorded or they differ."""
    sizes = {len(step.executed) for step in episode.policy_steps() if step.executed}
    return sizes.pop() if len(sizes) == 1 else None


def plan(episode: Episode) -> Plan | None:
    """Answers beside commands; None where no answer of one size was recorded.

    A policy that answers with more values than are executed is compared in those: padded answers are cut by the loop.
    """
    size, wide = executed_size(episode), answer_size(episode)
    if wide is None or size is None or wide < size:
        return None
    steps, asked, places, planned, executed = [], [], [], [], []
    rows: Sequence[Sequence[float]] = ()
    began = 0
    nothing = (np.nan,) * size
    for step in episode.policy_steps():
        if step.query is not None:
            rows, began = _rows(step.query), step.number
        place = step.number - began
        known = place < len(rows)
        steps.append(step.number)
        asked.append(step.query is not None)
        places.append(place if known else -1)
        planned.append(rows[place][:size] if known else nothing)
        executed.append(step.executed if len(step.executed) == size else nothing)
    if not steps:
        return None
    made = [np.array(values, dtype=np.float64) for values in (planned, executed)]
    return Plan(np.array(steps), np.array(asked), np.array(places), *made)


def same(
    a: np.ndarray, b: np.ndarray, limits: tuple[float, float] = (-np.inf, np.inf), relative: float = SAME
) -> np.ndarray:
    """Element by element, whether two actions are one; what the controller clips alike is alike."""
    a, b = np.clip(a, *limits), np.clip(b, *limits)
    close: np.ndarray = np.abs(a - b) <= TINY + relative * np.maximum(np.abs(a), np.abs(b))
    return close


def late(planned: np.ndarray, executed: np.ndarray, limits: tuple[float, float], most: int = 5) -> Late | None:
    """By how many queries what is executed lags behind; None where it does not, or cannot be told.

    Args:
        planned, executed: float64 (queries, dim) of the arm's dimensions.
    """
    for by in range(1, min(most, len(planned) - DISTINCT) + 1):
        matched = same(planned[:-by], executed[by:], limits, ROUNDED).all(axis=1)
        telling = ~same(planned[by:], executed[by:], limits, ROUNDED).all(axis=1)
        if matched.all() and telling.sum() >= DISTINCT:
            return Late(by)
    return None


def made_of(
    planned: np.ndarray, executed: np.ndarray, limits: tuple[float, float], candidates: Sequence[int]
) -> dict[int, Dimension]:
    """For each of the candidate dimensions, what its executed values were made of.

    Args:
        planned, executed: float64 (queries, dim).
        candidates: dimensions to look at, and among which to look for a source.
    """
    found: dict[int, Dimension] = {}
    for dim in candidates:
        x = executed[:, dim]
        others = [dim, *(other for other in candidates if other != dim)]
        found[dim] = next(
            (
                Dimension(kind, other, sign)
                for sign, other, kind in (
                    *((1.0, other, "same" if other == dim else "moved") for other in others),
                    *((-1.0, other, "negated") for other in others),
                )
                if same(sign * planned[:, other], x, limits, ROUNDED if other == dim else SAME).all()
                and (other == dim or _telling(planned[:, other]))
            ),
            _line(dim, planned[:, dim], x),
        )
    return found


def absolute(planned: np.ndarray, executed: np.ndarray, positions: np.ndarray) -> float | None:
    """The factor s of executed = position + s * planned, where that holds; None where it does not.

    Args:
        planned, executed, positions: float64 (queries, 3), positions of the hand at the queries, metres.
    """
    good = np.isfinite(positions).all(axis=1)
    p, x, m = positions[good], executed[good], planned[good]
    if len(p) < DISTINCT or np.ptp(m, axis=0).max() < 1e-3 or np.abs(p).max() < 0.05:
        return None
    rest = x - p
    scale = float((rest * m).sum() / (m * m).sum())
    off = np.abs(rest - scale * m).max()
    return scale if scale > 0.0 and off <= 1e-4 + 0.02 * np.abs(rest).max() else None


def positions(episode: Episode, steps: np.ndarray) -> np.ndarray:
    """The hand's position before each of the steps, float64 (steps, 3) metres, NaN where it was not recorded."""
    of_step = {step.number: step for step in episode.steps}
    found = []
    for number in steps:
        proprio = of_step[int(number)].proprio if int(number) in of_step else {}
        values = next((proprio[name] for name in POSITION if len(proprio.get(name, ())) == 3), None)
        found.append(values if values is not None else (np.nan,) * 3)
    return np.array(found, dtype=np.float64).reshape(-1, 3)


@dataclass(frozen=True)
class Drift:
    """How far the hand went while the arm was commanded zeros: metres, over the steps `first` to `last`."""

    metres: float
    first: int
    last: int


def drift(episode: Episode, least: int = 5) -> Drift | None:
    """The longest way that the hand went while it was told zeros for at least so many steps; None where it never was.

    A command of zeros is no motion to a controller that takes displacements, and the way to the base to one that takes
    places. What an earlier motion carries on is left out: a run counts from its third step on, or from a reset on.
    """
    steps = [step for step in episode.steps if len(step.executed) >= 6]
    if not steps:
        return None
    p = positions(episode, np.array([step.number for step in steps]))
    found: Drift | None = None
    start = 0
    for end in range(len(steps) + 1):
        if end < len(steps) and not any(steps[end].executed[:6]):
            continue
        begin = start if start == 0 else start + 2
        if end - begin >= least:
            # Up to the observation behind the run, where there is one.
            last = min(end, len(steps) - 1)
            way = float(np.linalg.norm(p[begin : last + 1] - p[begin], axis=1).max())
            if np.isfinite(way) and (found is None or way > found.metres):
                found = Drift(way, steps[begin].number, steps[last].number)
        start = end + 1
    return found


@dataclass(frozen=True)
class Motion:
    """How the hand answers to the commands, by the share of its motion that each reading explains (0 to 1).

    Attributes:
        steps: how many control steps were looked at.
        delta: the command is a displacement.
        absolute: the command is the place to go to.
        moved: how far the hand moved altogether, metres.
    """

    steps: int
    delta: float
    absolute: float
    moved: float


def motion(episode: Episode, limits: tuple[float, float] = (-1.0, 1.0)) -> Motion | None:
    """Read off the hand's motion whether the environment takes displacements or places; None where it cannot be.

    Each reading explains the displacement from one observation to the next by the command one step before it (the
    controller's lag at 20 Hz, where the correlation is highest in LIBERO) with one factor for all three axes.
    """
    steps = [step for step in episode.steps if len(step.executed) >= 3]
    if len(steps) < 2 + 2 * DISTINCT:
        return None
    numbers = np.array([step.number for step in steps])
    p = positions(episode, numbers)
    x = np.array([step.executed[:3] for step in steps], dtype=np.float64)
    d = p[2:] - p[1:-1]
    lagged, place = x[:-2], p[1:-1]
    good = np.isfinite(d).all(axis=1) & np.isfinite(place).all(axis=1) & np.isfinite(lagged).all(axis=1)
    d, lagged, place = d[good], lagged[good], place[good]
    if len(d) < 2 * DISTINCT:
        return None
    whole = float((d * d).sum())
    if whole < 1e-10:
        return None
    readings = [_explains(np.clip(lagged, *limits), d), _explains(lagged - place, d)]
    return Motion(len(d), readings[0], readings[1], float(np.linalg.norm(d, axis=1).sum()))


def _explains(inputs: np.ndarray, outputs: np.ndarray) -> float:
    """Share of the outputs' energy that one positive factor of the inputs explains."""
    power = float((inputs * inputs).sum())
    if power <= 0.0:
        return 0.0
    factor = max(float((inputs * outputs).sum()) / power, 0.0)
    left = float(((outputs - factor * inputs) ** 2).sum())
    return max(1.0 - left / float((outputs * outputs).sum()), 0.0)


def _telling(values: np.ndarray) -> bool:
    return len(np.unique(np.round(values, 9))) >= DISTINCT


def _line(dim: int, m: np.ndarray, x: np.ndarray) -> Dimension:
    if np.ptp(x) <= TINY:
        # Exactly nothing, where the model never said so; or the same whatever it said.
        dropped = (x == 0.0).all() and (np.abs(m) > TINY).all() and len(x) >= DISTINCT
        if dropped or _telling(m):
            return Dimension("constant", dim, 0.0, float(x[0]))
    if not _telling(m):
        ratio = x / m if (np.abs(m) > TINY).all() else np.array([np.nan])
        steady = bool(np.isfinite(ratio).all() and np.ptp(ratio) <= ROUNDED * np.abs(ratio).max())
        return Dimension("ratio", dim, float(ratio.mean())) if steady else Dimension("unknown", dim)
    centred = m - m.mean()
    slope = float((centred @ (x - x.mean())) / (centred @ centred))
    offset = float(x.mean() - slope * m.mean())
    residual = np.abs(slope * m + offset - x).max()
    span = max(float(np.ptp(x)), 1e-6)
    if residual > ROUNDED * span or abs(slope) < 1e-6:
        return Dimension("unknown", dim)
    return Dimension("line", dim, slope, 0.0 if abs(offset) <= ROUNDED * span else offset)


@dataclass(frozen=True)
class Origin:
    """Where an executed action came from, by value.

    Attributes:
        step: at which it was executed.
        query: step of the query whose answer it is a row of; None where it is none's.
        row: the row, 0 for the first; -1 where there is none.
        latest: step of the last query before or at the step.
    """

    step: int
    query: int | None
    row: int
    latest: int


def origins(episode: Episode, arm: Sequence[int], limits: tuple[float, float] = (-np.inf, np.inf)) -> list[Origin]:
    """For each action from the first query on, the row that it is: by value, in the dimensions of the arm.

    Of rows that are alike, the one whose turn it is comes first, then those of the same answer, then older answers'.
    """
    laid = plan(episode)
    if laid is None:
        return []
    answers = {number: rows for number, query in episode.queries() if (rows := answer(query)) is not None}
    dims = list(arm)
    known = np.isfinite(laid.executed).all(axis=1)
    # A row that is not there is NaN, which is the same as nothing.
    in_turn = np.asarray(same(laid.planned[:, dims], laid.executed[:, dims], limits).all(axis=1))
    found = []
    numbers = sorted(answers)
    latest: int | None = None
    for place, step in enumerate(laid.steps.tolist()):
        latest = step if step in answers else latest
        if latest is None or not known[place]:
            continue
        if in_turn[place]:
            found.append(Origin(step, latest, step - latest, latest))
        else:
            before = bisect_left(numbers, latest)
            near = [latest, *reversed(numbers[max(0, before - _OLDER) : before])]
            found.append(_origin(step, laid.executed[place, dims], near, answers, dims, limits))
    return found


def _origin(
    step: int,
    executed: np.ndarray,
    near: Sequence[int],
    answers: Mapping[int, np.ndarray],
    dims: list[int],
    limits: tuple[float, float],
) -> Origin:
    """Look among the rows of some queries, the latest first."""
    for query in near:
        rows = answers[query][:, dims]
        alike = np.flatnonzero(same(rows, executed[None], limits).all(axis=1))
        if len(alike):
            due = step - query
            return Origin(step, query, due if due in alike else int(alike[0]), near[0])
    return Origin(step, None, -1, near[0])
