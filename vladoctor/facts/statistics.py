"""Which statistics, used how, turn the ids of an action into what was returned and executed.

OpenVLA un-normalises a bin centre n by `q01 + (n + 1) / 2 * (q99 - q01)` where the mask is true and leaves it alone
elsewhere (openvla/openvla@c8f03f4 prismatic/extern/hf/modeling_prismatic.py:527-534). That, and every way of getting it
wrong that is known here, is a line for each dimension: slope * n + offset. So the action is recomputed from the ids
along every such line and compared; and where none fits, the line is measured.

Nothing is compared by name: two sets of statistics are the same when they give the same actions.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from vladoctor.facts.links import executed_by_query
from vladoctor.facts.tokens import DECODES, TokenLayout, action_tokens, decode

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.profiles import Profile
    from vladoctor.records import Episode

OWN, PUBLISHED = "checkpoint", "published"

MASKED, UNMASKED, DOUBLED = "q01/q99", "q01/q99, mask ignored", "q01/q99, twice"
AGAIN = "q01/q99, after the right way"
MINMAX, ZSCORE, IDENTITY = "min/max", "mean/std", "not at all"

SAME = 0.02
"""Share of a bin's width by which a recomputed value may be off. Float32 is off by 1e-5 of it, bin edges by 0.5."""

ROUNDED = 1.0
"""The same for values that have been rounded on their way: bfloat16 is off by up to half a bin around its middle."""

ROUNDING = 1e-7
"""Absolute difference that is always allowed: float32 at values around 1."""

_UNLIMITED = (-np.inf, np.inf)

MEASURABLE = 3
"""Distinct values that a dimension must have taken before its line is measured: two lie on a line in any case."""


@dataclass(frozen=True, eq=False)
class Statistics:
    """Action statistics of one data set; arrays are float64 (action_dim,), in the units of the data.

    Attributes:
        key: name under which the statistics are kept.
        origin: "checkpoint" or "published".
        q01, q99: quantiles that -1 and +1 stand for.
        mask: bool, which dimensions are normalised at all.
        minimum, maximum, mean, std: None where they were not stored.
        source: where published statistics were read.
        mask_stored: False where no mask was stored and `mask` is what the code then assumes: true throughout.
    """

    key: str
    origin: str
    q01: np.ndarray
    q99: np.ndarray
    mask: np.ndarray
    minimum: np.ndarray | None = None
    maximum: np.ndarray | None = None
    mean: np.ndarray | None = None
    std: np.ndarray | None = None
    source: str = ""
    mask_stored: bool = True

    @property
    def span(self) -> np.ndarray:
        return self.q99 - self.q01

    @property
    def label(self) -> str:
        return f"{self.key} (published)" if self.origin == PUBLISHED else self.key


@dataclass(frozen=True, eq=False)
class Candidate:
    """One way from normalised values to actions: slope * n + offset, both float64 (action_dim,).

    Attributes:
        statistics: None where none are involved.
        rule: how they are used.
        how: how ids become normalised values, one of `tokens.DECODES`.
    """

    statistics: Statistics | None
    rule: str
    slope: np.ndarray
    offset: np.ndarray
    how: str = "centres"

    @property
    def span(self) -> np.ndarray:
        """From n = -1 to n = +1, in units of the action."""
        return 2.0 * self.slope

    def values(self, normalised: Mapping[str, np.ndarray]) -> np.ndarray:
        """Actions, float64 (queries, action_dim), from normalised values by way of decoding."""
        return self.slope * normalised[self.how] + self.offset

    def tolerance(self, bins: float = SAME) -> np.ndarray:
        """Largest difference from `values` that counts as none, float64 (action_dim,); `bins` in widths of a bin."""
        return tolerance(self.slope, self.offset, bins)

    def gives(
        self,
        normalised: Mapping[str, np.ndarray],
        actions: np.ndarray,
        dims: np.ndarray,
        limits: tuple[float, float] = _UNLIMITED,
        bins: float = SAME,
    ) -> np.ndarray:
        """At which queries it gives the actions in the chosen dimensions: bool (queries,).

        Args:
            normalised: way of decoding -> float64 (queries, action_dim).
            actions: float64 (queries, action_dim); NaN is given by nothing.
            dims: bool (action_dim,).
            limits: differences outside of them do not count, because something behind clips to them anyway.
            bins: see `tolerance`.
        """
        close = np.abs(np.clip(self.values(normalised), *limits) - np.clip(actions, *limits)) <= self.tolerance(bins)
        return np.asarray(close[:, dims].all(axis=1))

    def equals(self, other: Candidate, dims: np.ndarray) -> bool:
        """Whether both give the same actions whatever the ids are, as far as `SAME` tells them apart."""
        off = np.abs(self.slope - other.slope) + np.abs(self.offset - other.offset)
        return self.how == other.how and bool((off <= self.tolerance())[dims].all())


@dataclass(frozen=True, eq=False)
class Observations:
    """Actions of an episode beside the ids they were decoded from.

    Attributes:
        steps: int (queries,).
        normalised: way of decoding -> float64 (queries, action_dim), clipped as OpenVLA clips what is no action id.
        returned: float64 (queries, action_dim), what `predict_action` returned; NaN where nothing was recorded.
        executed: float64 (queries, action_dim), what `env.step` received; NaN where nothing was recorded.
    """

    steps: np.ndarray
    normalised: Mapping[str, np.ndarray]
    returned: np.ndarray
    executed: np.ndarray

    @property
    def final(self) -> np.ndarray:
        """What was executed, or where that was not recorded, what was returned."""
        return np.where(np.isfinite(self.executed).all(axis=1)[:, None], self.executed, self.returned)

    def only(self, rows: np.ndarray) -> Observations:
        """A choice of queries; `rows` is bool (queries,)."""
        normalised = {how: values[rows] for how, values in self.normalised.items()}
        return Observations(self.steps[rows], normalised, self.returned[rows], self.executed[rows])


@dataclass(frozen=True, eq=False)
class Expectation:
    """How the actions of an episode should have been un-normalised.

    Attributes:
        ways: any of them is right; the first one is named to the user.
        reason: a clause that says why.
        lacking: the checkpoint has no such statistics itself.
    """

    ways: tuple[Candidate, ...]
    reason: str
    lacking: bool = False

    @property
    def statistics(self) -> Statistics:
        statistics = self.ways[0].statistics
        assert statistics is not None
        return statistics

    @property
    def arm(self) -> np.ndarray:
        """The normalised dimensions, bool (action_dim,): all but the gripper."""
        return self.statistics.mask

    def given(
        self, seen: Observations, actions: np.ndarray, limits: tuple[float, float], dims: np.ndarray | None = None
    ) -> np.ndarray:
        """At which queries the actions are as expected: bool (queries,); `dims` are the arm's unless given."""
        given = np.zeros(len(seen.steps), dtype=bool)
        for way in self.ways:
            given |= way.gives(seen.normalised, actions, self.arm if dims is None else dims, limits)
        return given

    def bins_off(self, seen: Observations, actions: np.ndarray) -> float:
        """Largest distance of an arm value from the expected one, in widths of its bin; infinite if a bin has none."""
        distance = np.abs(self.ways[0].values(seen.normalised) - actions)[:, self.arm]
        width = np.abs(self.ways[0].slope)[self.arm] * (2.0 / 255.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            off = np.where(distance <= ROUNDING, 0.0, distance / width)
        return float(off.max()) if off.size else 0.0


@dataclass(frozen=True, eq=False)
class Departure:
    """Where actions leave the expected way, and where they go.

    Attributes:
        place: "returned" by predict_action, or "executed" if that was right or was not recorded.
        right_before: what was returned was recorded, and right.
        seen: the queries concerned.
        actions: float64 (queries, action_dim), what was returned or executed at them.
        ways: the known ways that give all of these, likelier ones first.
        line: measured from normalised values to actions.
        bins_off: see `Expectation.bins_off`.
    """

    place: str
    right_before: bool
    seen: Observations
    actions: np.ndarray
    ways: tuple[Candidate, ...]
    line: Line
    bins_off: float


@dataclass(frozen=True, eq=False)
class Line:
    """A measured relation actions = slope * inputs + offset.

    Attributes:
        slope, offset: float64 (action_dim,), NaN where a dimension took fewer than `MEASURABLE` values.
        residual: float64 (action_dim,), largest distance from the line, NaN likewise.
    """

    slope: np.ndarray
    offset: np.ndarray
    residual: np.ndarray

    @property
    def known(self) -> np.ndarray:
        return np.isfinite(self.slope)

    def holds(self, dims: np.ndarray) -> bool:
        """Whether the measured ones among the dimensions are on a line, and there is at least one."""
        known = self.known & dims
        on_it = self.residual <= ROUNDED * np.abs(self.slope) * (2.0 / 255.0) + 10.0 * ROUNDING
        return bool(known.any() and on_it[known].all())


@dataclass(frozen=True, eq=False)
class Unnormalised:
    """How the actions of an episode were un-normalised, beside how they should have been.

    Attributes:
        own: the checkpoint's statistics by key.
        expected: None where the checkpoint's statistics were not recorded.
        seen: None where no query was recorded with both its ids and its action.
        departure: None where the arm's actions are as expected, or where one of the above is missing.
    """

    own: Mapping[str, Statistics]
    expected: Expectation | None
    seen: Observations | None
    departure: Departure | None


_unnormalised: weakref.WeakKeyDictionary[Facts, Unnormalised] = weakref.WeakKeyDictionary()


def unnormalised(facts: Facts, layout: TokenLayout) -> Unnormalised:
    """Compare an episode's actions with the expected and all known ways to them. Computed once for each `Facts`."""
    if facts not in _unnormalised:
        _unnormalised[facts] = _compare(facts, layout)
    return _unnormalised[facts]


def _compare(facts: Facts, layout: TokenLayout) -> Unnormalised:
    episode, profile, size = facts.episode, facts.profile, len(layout.dimensions)
    own = checkpoint_statistics(episode)
    expected = expectation(episode, profile, own, size)
    seen = observe(episode, layout, executed_by_query(facts))
    if expected is None or seen is None:
        return Unnormalised(own, expected, seen, None)
    ways = candidates(own.values(), published_statistics().values(), size, asked_for(episode))
    low, high = profile.get("environment.input_range") or (-np.inf, np.inf)
    return Unnormalised(own, expected, seen, departure(seen, expected, ways, (float(low), float(high))))


def read_statistics(key: str, action: Mapping[str, Any], origin: str, source: str = "") -> Statistics | None:
    """Statistics from an `action` table of norm_stats; None where it holds no quantiles and nothing to replace them.

    A missing mask counts as all true, as in openvla/openvla@c8f03f4 prismatic/extern/hf/modeling_prismatic.py:528.
    """

    def array(name: str) -> np.ndarray | None:
        values = action.get(name)
        return None if values is None else np.asarray(values, dtype=np.float64).reshape(-1)

    low, high = array("q01"), array("q99")
    if low is None or high is None or low.shape != high.shape:
        return None
    mask = action.get("mask")
    flags = np.ones(low.shape, dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
    if flags.shape != low.shape:
        return None
    rest = [array(name) for name in ("min", "max", "mean", "std")]
    minimum, maximum, mean, std = (None if part is None or part.shape != low.shape else part for part in rest)
    return Statistics(key, origin, low, high, flags, minimum, maximum, mean, std, source, mask is not None)


def checkpoint_statistics(episode: Episode) -> dict[str, Statistics]:
    """The checkpoint's own statistics by key, those that can be read."""
    stored = (episode.run.get("checkpoint") or {}).get("norm_stats") or {}
    read = {}
    for key, entry in stored.items():
        action = entry.get("action", entry) if isinstance(entry, Mapping) else {}
        found = read_statistics(str(key), action, OWN)
        if found is not None:
            read[str(key)] = found
    return read


@cache
def published_statistics() -> dict[str, Statistics]:
    """Statistics of published checkpoints by key. Each one's `source` says where it was read."""
    file = resources.files("vladoctor.facts").joinpath("published_statistics.json")
    sets = json.loads(file.read_text("utf-8"))["sets"]
    read = {row["key"]: read_statistics(row["key"], row, PUBLISHED, row["source"]) for row in sets}
    return {key: found for key, found in read.items() if found is not None}


def observe(
    episode: Episode, layout: TokenLayout, executed_of: Mapping[int, Sequence[float]] | None = None
) -> Observations | None:
    """Every action of which both the ids and a value were recorded; None if there is none.

    Args:
        executed_of: step of a query -> what was executed of its answer (`links.executed_by_query`); by default, what
            was executed at its own step.
    """
    size = len(layout.dimensions)
    of_step = {step.number: step for step in episode.steps}
    seen = action_tokens(episode, layout)
    if not seen:
        return None
    steps, ids = np.array([tokens.step for tokens in seen]), np.array([tokens.ids for tokens in seen])
    if executed_of is None:
        executed_of = {number: step.executed for number, step in of_step.items()}
    queries = [of_step[tokens.step].query for tokens in seen]
    returned = _rows([query.action if query else None for query in queries], size)
    executed = _rows([executed_of.get(tokens.step) for tokens in seen], size)
    known = np.isfinite(returned).all(axis=1) | np.isfinite(executed).all(axis=1)
    if not known.any():
        return None
    normalised = {how: decode(ids[known], layout, how) for how in DECODES}
    return Observations(steps[known], normalised, returned[known], executed[known])


def expectation(episode: Episode, profile: Profile, own: Mapping[str, Statistics], size: int) -> Expectation | None:
    """How the profile, the suite and the checkpoint together call for actions to be un-normalised.

    In this order: the checkpoint's statistics under a key that the profile accepts for the suite; those of its
    statistics that equal the suite's published ones, whatever their key; those asked for (or the only ones), if they
    are the checkpoint's own and no other published data set's; the suite's published ones, which the checkpoint then
    lacks; those asked for, whatever they are. None if the checkpoint has none at all.
    """
    suite = str(episode.task.get("suite") or "")
    accepted = (profile.get("unnorm.keys") or {}).get(suite) or [suite]
    own = {key: _with_mask(found, profile, size) for key, found in own.items() if found.q01.size == size}
    known = {key: found for key, found in published_statistics().items() if found.q01.size == size}
    if not own:
        return None

    def expect(sets: Iterable[Statistics], reason: str, lacking: bool = False) -> Expectation | None:
        ways = tuple(map(use, sets))
        return Expectation(ways, reason, lacking) if ways else None

    alike = [found for found in own.values() for key in accepted if key in known and _alike(found, known[key])]
    only = list(own.values()) if len(own) == 1 else []
    asked = [own[key] for key in asked_for(episode) if key in own] or only
    private = [
        found
        for found in asked
        if found.key.removesuffix("_no_noops") not in known
        and not any(_alike(found, other) for other in known.values())
    ]
    return (
        expect((own[key] for key in accepted if key in own), f"the suite {suite} calls for {accepted[0]}")
        or expect(alike, f"the suite {suite} calls for statistics like these")
        or expect(private[:1], "they are this checkpoint's own")
        or expect(
            (known[key] for key in accepted if key in known),
            f"the suite {suite} calls for {accepted[0]}, of which this checkpoint has no statistics",
            lacking=True,
        )
        or expect(asked[:1], "they were asked for")
    )


def describe(way: Candidate | None) -> str:
    """A way in words, to follow "by"; None stands for one that is not known."""
    if way is None:
        return "statistics that are known from nowhere; the spans are measured"
    if way.statistics is None:
        return "the normalised action, as it came from the bins"
    rules = {
        MASKED: "by q01/q99 under the mask",
        UNMASKED: "by q01/q99 with the mask ignored",
        DOUBLED: "by q01/q99 under the mask, twice",
        AGAIN: "by q01/q99 under the mask, on top of the right way",
        MINMAX: "by min/max in the place of q01/q99",
        ZSCORE: "by mean and standard deviation in the place of q01/q99",
    }
    how = "" if way.how == "centres" else f", decoded with {DECODES[way.how]}"
    return f"the statistics of {way.statistics.label}, {rules[way.rule]}{how}"


def asked_for(episode: Episode) -> list[str]:
    """The statistic keys that the loop passed on or set, in order of first use."""
    keys = [*passed_on(episode), (episode.run.get("checkpoint") or {}).get("unnorm_key")]
    return list(dict.fromkeys(str(key) for key in keys if key))


def passed_on(episode: Episode) -> tuple[str, ...]:
    """The statistic keys that were named in the calls themselves, in order of first use."""
    keys = [query.options.get("unnorm_key") for _, query in episode.queries()]
    return tuple(dict.fromkeys(str(key) for key in keys if key))


def departure(
    seen: Observations, expected: Expectation, ways: Iterable[Candidate], limits: tuple[float, float]
) -> Departure | None:
    """Where the arm's actions are not as expected; None if they are, wherever they were recorded.

    What counts is what was executed, or where that was not recorded, what was returned. Values outside of `limits` are
    clipped by the controller and compared as such.
    """
    was_executed, was_returned = (np.isfinite(values).all(axis=1) for values in (seen.executed, seen.returned))
    wrong = ~expected.given(seen, seen.final, limits)
    if not wrong.any():
        return None
    right_before = bool(expected.given(seen, seen.returned, _UNLIMITED)[wrong & was_returned].all())
    right_before &= bool((wrong & was_returned).any())
    place = "executed" if right_before or not was_returned[wrong].any() else "returned"
    rest = seen.only(wrong & (was_executed if place == "executed" else was_returned))
    actions = rest.executed if place == "executed" else rest.returned
    ways = list(ways)
    if right_before:
        ways = [*_again(expected.ways[0], ways), *ways]
    # The gripper of an executed action has been through conversions of its own, which are no business of this.
    everything = expected.arm if place == "executed" else np.ones_like(expected.arm)
    centred = [way for way in ways if way.how == "centres"]
    tried = ((ways, everything, SAME), (ways, expected.arm, SAME), (centred, expected.arm, ROUNDED))
    found: list[Candidate] = []
    for some, dims, bins in tried:
        giving = reproducing(some, rest.normalised, actions, dims, bins)
        found = [way for way in giving if not any(way.equals(right, expected.arm) for right in expected.ways)]
        if found:
            break
    line = measure(rest.normalised["centres"], actions)
    return Departure(place, right_before, rest, actions, tuple(found), line, expected.bins_off(rest, actions))


def tolerance(slope: np.ndarray, offset: np.ndarray, bins: float) -> np.ndarray:
    """See `Candidate.tolerance`; in the shape of slope and offset."""
    return np.asarray(bins * np.abs(slope) * (2.0 / 255.0) + ROUNDING * (1.0 + np.abs(offset)))


def use(statistics: Statistics, how: str = "centres") -> Candidate:
    """Statistics used as OpenVLA uses them."""
    return _way(statistics, MASKED, statistics.span / 2.0, (statistics.q99 + statistics.q01) / 2.0, how)


def unmasked_gripper(seen: Observations, expected: Expectation) -> Departure | None:
    """Where the unmasked dimensions were returned un-normalised although the mask says not to; None if nowhere.

    Any other value of theirs is no business of statistics.
    """
    rest = ~expected.arm
    recorded = np.isfinite(seen.returned).all(axis=1)
    wrong = recorded & ~expected.given(seen, seen.returned, _UNLIMITED, rest)
    way = next((way for way in misuses(expected.statistics) if way.rule == UNMASKED), None)
    if way is None or not wrong.any() or not way.gives(seen.normalised, seen.returned, rest)[wrong].all():
        return None
    part = seen.only(wrong)
    return Departure(
        "returned", False, part, part.returned, (way,), measure(part.normalised["centres"], part.returned), 0.0
    )


def likely_extremes(statistics: Statistics, bins: int) -> np.ndarray | None:
    """How often the data reach an outermost bin at most: float64 (action_dim,); None where mean or std is not stored.

    From what the statistics alone allow. A side whose quantile lies inside of the data holds 1 % by the quantile's
    definition, and one that no value reaches holds nothing. Where the quantile is the data's own end, many values can
    sit on it: there Cantelli's inequality bounds each side and the second moment both. A dimension without a span gets
    1: whatever its ids are, they decode to one value.
    """
    if statistics.mean is None or statistics.std is None:
        return None
    half, middle = statistics.span / 2.0, (statistics.q99 + statistics.q01) / 2.0
    with np.errstate(divide="ignore", invalid="ignore"):
        mean, std = (statistics.mean - middle) / half, statistics.std / half
        edge = 1.0 - 2.0 / (bins - 1)
        sides = []
        for sign, end in ((-1.0, statistics.minimum), (1.0, statistics.maximum)):
            gap = np.maximum(edge - sign * mean, 0.0)
            share = std**2 / (std**2 + gap**2)
            if end is not None:
                furthest = sign * (end - middle) / half
                share = np.where(furthest > 1.0 + 1e-6, np.minimum(share, 0.01), share)
                share = np.where(furthest < edge, 0.0, share)
            sides.append(np.nan_to_num(share, nan=1.0))
        both = np.minimum(sides[0] + sides[1], np.nan_to_num((mean**2 + std**2) / edge**2, nan=1.0))
    return np.where(half > ROUNDING, np.clip(both, 0.0, 1.0), 1.0)


def beyond_reach(seen: Observations, profile: Profile, dimensions: Sequence[str]) -> list[float | None] | None:
    """Per dimension, the share of executed actions larger than any in the environment's data; None if not known."""
    reach = profile.get("environment.reach")
    executed = seen.executed[np.isfinite(seen.executed).all(axis=1)]
    if not reach or not len(executed):
        return None
    kinds = {**dict.fromkeys("xyz", "translation"), **dict.fromkeys(("roll", "pitch", "yaw"), "rotation")}
    limits = [reach.get(kinds.get(name, "")) for name in dimensions]
    return [
        None if limit is None else float((np.abs(column) > limit + ROUNDING).mean())
        for column, limit in zip(executed.T, limits, strict=True)
    ]


def misuses(statistics: Statistics) -> Iterator[Candidate]:
    """Statistics used in other ways, as far as they hold what those need."""
    half, middle = statistics.span / 2.0, (statistics.q99 + statistics.q01) / 2.0
    yield _way(statistics, DOUBLED, half * half, half * middle + middle)
    if not statistics.mask.all():
        yield Candidate(statistics, UNMASKED, half, middle)
    low, high = statistics.minimum, statistics.maximum
    if low is not None and high is not None:
        yield _way(statistics, MINMAX, (high - low) / 2.0, (high + low) / 2.0)
    if statistics.mean is not None and statistics.std is not None:
        yield _way(statistics, ZSCORE, statistics.std, statistics.mean)


@lru_cache(maxsize=256)
def _uses(statistics: Statistics) -> tuple[Candidate, ...]:
    """Statistics as OpenVLA uses them, and all misuses. Those of published ones are the same for every episode."""
    return (use(statistics), *misuses(statistics))


def candidates(
    own: Iterable[Statistics], published: Iterable[Statistics], size: int, first: Sequence[str] = ()
) -> Iterator[Candidate]:
    """Every known way to an action of `size` dimensions, the likelier ones first.

    Args:
        first: keys to try before the others, those that were asked for.
    """
    own = sorted((s for s in own if s.q01.size == size), key=lambda s: s.key not in first)
    others = [s for s in published if s.q01.size == size]
    yield from map(use, own)
    yield Candidate(None, IDENTITY, np.ones(size), np.zeros(size))
    for found in own:
        yield from misuses(found)
        yield from (use(found, how) for how in list(DECODES)[1:])
    yield from (Candidate(None, IDENTITY, np.ones(size), np.zeros(size), how) for how in list(DECODES)[1:])
    known = [_uses(found) for found in others]
    yield from (right for right, *_ in known)
    for _, *wrong in known:
        yield from wrong


def reproducing(
    ways: Iterable[Candidate],
    normalised: Mapping[str, np.ndarray],
    actions: np.ndarray,
    dims: np.ndarray,
    bins: float = SAME,
) -> list[Candidate]:
    """Those of the ways that give all of the actions in the chosen dimensions, in their order.

    Args:
        normalised: way of decoding -> float64 (queries, action_dim).
        actions: float64 (queries, action_dim).
        dims: bool (action_dim,).
        bins: see `Candidate.tolerance`.
    """
    ways = list(ways)
    if not ways or not len(actions):
        return ways
    # Most give not even the first action, which one comparison says of all of them.
    first = np.array([normalised[way.how][0] for way in ways])
    slope, offset = np.array([way.slope for way in ways]), np.array([way.offset for way in ways])
    close = np.abs(slope * first + offset - actions[0]) <= tolerance(slope, offset, bins)
    likely = np.asarray(close[:, dims].all(axis=1)).tolist()
    return [
        way
        for way, give in zip(ways, likely, strict=True)
        if give and way.gives(normalised, actions, dims, bins=bins).all()
    ]


def measure(inputs: np.ndarray, actions: np.ndarray) -> Line:
    """Fit a line for each dimension by least squares; both arrays are float64 (queries, action_dim)."""
    size = inputs.shape[1]
    slope, offset, residual = (np.full(size, np.nan) for _ in range(3))
    for dim in range(size):
        x, y = inputs[:, dim], actions[:, dim]
        if len(np.unique(np.round(x, 6))) < MEASURABLE:
            continue
        centred = x - x.mean()
        slope[dim] = (centred @ (y - y.mean())) / (centred @ centred)
        offset[dim] = y.mean() - slope[dim] * x.mean()
        residual[dim] = np.abs(slope[dim] * x + offset[dim] - y).max()
    return Line(slope, offset, residual)


def _way(statistics: Statistics, rule: str, half: np.ndarray, middle: np.ndarray, how: str = "centres") -> Candidate:
    return Candidate(
        statistics, rule, np.where(statistics.mask, half, 1.0), np.where(statistics.mask, middle, 0.0), how
    )


def _again(first: Candidate, ways: Iterable[Candidate]) -> Iterator[Candidate]:
    """Actions un-normalised as they should be, and then a second time with any of the sets."""
    for way in ways:
        if way.statistics is not None and way.rule == MASKED and way.how == "centres":
            arm = way.statistics.mask
            slope = np.where(arm, way.slope * first.slope, first.slope)
            offset = np.where(arm, way.slope * first.offset + way.offset, first.offset)
            yield Candidate(way.statistics, AGAIN, slope, offset)


def _alike(one: Statistics, other: Statistics) -> bool:
    return use(one).equals(use(other), np.ones(one.q01.size, dtype=bool))


def _with_mask(statistics: Statistics, profile: Profile, size: int) -> Statistics:
    """Statistics with the profile's mask if they were stored without one."""
    mask = profile.get("unnorm.mask")
    if statistics.mask_stored or mask is None or len(mask) != size:
        return statistics
    return replace(statistics, mask=np.asarray(mask, dtype=bool))


def _rows(actions: Sequence[Sequence[float] | None], size: int) -> np.ndarray:
    """Actions as float64 (n, size); a row is NaN throughout where there is none or one of another size."""
    nothing = (np.nan,) * size
    rows = np.array([one if one is not None and len(one) == size else nothing for one in actions], np.float64)
    rows[~np.isfinite(rows).all(axis=1)] = np.nan
    return rows
