"""The action was not un-normalised with the statistics that the checkpoint and the environment call for.

## What it looks at

The ids of each query, from which the action is recomputed with every set of statistics that is known, the checkpoint's
own and the published ones, in every way of using them that is known: q01/q99 under the mask (right), the mask
ignored, twice, not at all, min/max, mean/std. (Ids that were decoded in another way are VD405's.) What reproduces
*all* of the returned actions is what was used. The same is done for what was executed, since a loop can un-normalise a
right action once more. What the loop asked for by name is held against what was used: a key can be ignored, consumed by
nothing, or looked up where it is not and passed over.

Sets are compared by what they give, not by name: another key with the same numbers is right.

## Why it is bad

Nothing fails, the arm moves, and every motion has the wrong size. Bridge's statistics make LIBERO motions 20 to 28
times too small in x, y and z; a normalised action is up to 13 times too large in rotation; un-normalised twice it is as
much too small; with the mask ignored a closed gripper (0) becomes 0.5, which 2g - 1 turns into "hold".

## Evidence

`span_used` and `span_expected` are the distances between what -1 and +1 stand for, in units of the action, and
`scale_ratio` their quotient: 0.05 means that motions came out at a twentieth. `seen` is what reproduces the actions,
`also_possible` what reproduces them as well. Where no known set does, the spans are measured from the actions.

Severity is stop from a ratio of 3 on, up or down, in any arm dimension, and if the gripper can no longer close. The
four LIBERO suites' own statistics differ among themselves by up to 2.4; those of the base checkpoint's 25 data sets
differ from libero_object's by 3.6 or more in at least one dimension (norm_stats of the published checkpoints). Up to
one bin's width nothing is said about statistics: it is no more than the model's own resolution.

## Fix

```python
action = model.predict_action(**inputs, unnorm_key="libero_object", do_sample=False)
```

and use what comes back as it is, but for the gripper. A checkpoint that has no statistics for the environment was not
trained on it; another data set's key only removes the error.

## Known gaps

If the statistics in the checkpoint's own folder were overwritten with others, they are taken for right. Actions that do
not follow from the ids at all (averaged over queries, delayed), and right ones that the loop then scales, swaps or
drops, are left to VD503, the gripper's convention to VD502.

## References

- openvla/openvla#118: the base model has no LIBERO key; users substitute another one.
- openvla/openvla#225: the object suite with the spatial suite's key, no success.
- huggingface/lerobot#4415: un-normalisation skipped in silence where the key is not found.
- openvla/openvla#126: un-normalised by hand, and the replay is far off.
- openvla/openvla#215: outputs a hundred times too small.
- moojink/openvla-oft#156: several keys in one checkpoint, each of them valid.
- openvla/openvla#81: statistics in two places, config.json and dataset_statistics.json.
- parastoopil/openvla-1bit@f93b469 eval_libero.py:99,109: falls back to bridge_orig, and ignores the mask.
- huggingface/lerobot#4446: the same after a migration script.
- strands-labs/robots#985: the statistics' keys match no feature, and raw z-scores go to the robot.
- Formula: openvla/openvla@c8f03f4 prismatic/extern/hf/modeling_prismatic.py:521-534.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from vladoctor.check import Abstention, Check, Clear, Fault, Problem, Severity, Stage, Verdict
from vladoctor.facts import statistics as st
from vladoctor.facts.tokens import DECODES, token_layout
from vladoctor.lint.facts import Seen, UnnormKey
from vladoctor.lint.families import BASE_CHECKPOINTS, BASE_KEYS
from vladoctor.lint.judging import unseen

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.lint.facts import SourceFacts
    from vladoctor.loop import Loop

PASS_ON = "Pass `predict_action`'s result on as it is: its first six values already are in the environment's units."


def judge(facts: Facts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Recompute the actions from the ids and compare what reproduces them with what should."""
    episode, profile = facts.episode, facts.profile
    layout = token_layout(profile)
    if layout is None or profile.get("unnorm.method") != "q01_q99":
        yield Abstention(f"profile {profile.name} does not say how actions are un-normalised")
        return
    found = st.unnormalised(facts, layout)
    own, expected, seen = found.own, found.expected, found.seen
    if expected is None:
        yield Abstention("the checkpoint's statistics (norm_stats) were not recorded", missing=True)
        return
    if seen is None:
        yield Abstention("no query was recorded with both its ids and its action", missing=True)
        return
    departure = found.departure or st.unmasked_gripper(seen, expected)
    if departure is None:
        off = expected.bins_off(seen, seen.final)
        yield Clear(
            f"{expected.statistics.label} reproduces all {len(seen.steps)} actions; {expected.reason}",
            {"largest_difference_in_bins": round(off, 3)},
        )
        return
    best = departure.ways[0] if departure.ways else None
    small = departure.bins_off <= limits["harmless_bins"]
    decoded = best is not None and best.how != "centres"
    if best is not None and decoded and any(replace(best, how=r.how).equals(r, expected.arm) for r in expected.ways):
        # How the ids became normalised values is VD405's to say.
        yield Clear(
            f"{expected.statistics.label} reproduces all {len(departure.seen.steps)} actions, from ids that were "
            f"decoded by {DECODES[best.how]}; {expected.reason}"
        )
    elif small and (best is None or best.rule != st.UNMASKED):
        yield Clear(
            f"{expected.statistics.label} gives all {len(seen.steps)} actions to within a bin; {expected.reason}",
            {"largest_difference_in_bins": round(departure.bins_off, 3)},
        )
    elif best is None and departure.right_before:
        # What became of it afterwards is VD503's to say.
        yield Clear(
            f"{expected.statistics.label} reproduces what predict_action returned at {len(seen.steps)} queries; "
            f"{expected.reason}"
        )
    elif best is None and not departure.line.holds(expected.arm):
        yield Abstention(
            f"at {len(departure.seen.steps)} of {len(seen.steps)} queries, first at step {departure.seen.steps[0]}, "
            f"what was {departure.place} follows from the ids in no known way"
        )
    else:
        beyond = st.beyond_reach(seen, profile, layout.dimensions)
        rule = str(profile.get("gripper.rule") or "")
        key = _Key(st.passed_on(episode), tuple(own))
        yield _problem(expected, departure, best, key, layout.dimensions, beyond, rule, limits)


@dataclass(frozen=True)
class _Key:
    """Which statistics were asked for by name, and which there are.

    Attributes:
        asked: names that the queries passed on.
        own: the checkpoint's.
    """

    asked: tuple[str, ...]
    own: tuple[str, ...]

    def fate(self, used: str | None) -> str:
        """What became of the name that was asked for; `used` is the name of what was used, None if nothing was."""
        if not self.asked or used in self.asked:
            return ", as `unnorm_key` says" if self.asked else ""
        asked = self.asked[0]
        if asked not in self.own:
            return (
                f", and `unnorm_key` names {asked}, which the checkpoint does not have (it has {', '.join(self.own)}): "
                "a lookup that finds nothing was passed over in silence"
            )
        done = "nothing consumed it" if used is None else "the key was ignored"
        return f", although `unnorm_key` asks for {asked}: {done}"


def _problem(
    expected: st.Expectation,
    departure: st.Departure,
    best: st.Candidate | None,
    asked: _Key,
    dimensions: tuple[str, ...],
    beyond: list[float | None] | None,
    gripper_rule: str,
    limits: Mapping[str, float],
) -> Problem:
    used, right = (best.span if best else 2.0 * departure.line.slope), expected.ways[0].span
    measured = np.isfinite(used) & (np.abs(right) > st.ROUNDING)
    ratio = np.divide(used, right, out=np.full(len(right), np.nan), where=measured)
    arm = ratio[expected.arm & measured]
    with np.errstate(divide="ignore"):
        worst = float(np.maximum(np.abs(arm), 1.0 / np.abs(arm)).max(initial=1.0))
    never_closes = best is not None and best.rule == st.UNMASKED and gripper_rule.startswith("2g-1")
    severity = Severity.LOOK if expected.lacking else Severity.FIX
    if worst >= limits["stop_ratio"] or never_closes:
        severity = Severity.STOP
    table = {"scale_ratio": ratio, "span_used": used, "span_expected": right}
    evidence: dict[str, Any] = {
        "expected": f"the statistics of {expected.statistics.label}, by q01/q99 under the mask",
        "seen": st.describe(best),
        "per_dimension": {name: [_number(value) for value in values] for name, values in table.items()},
        "queries_concerned": len(departure.seen.steps),
        "largest_difference_in_bins": _number(departure.bins_off),
    }
    others = [way for way in departure.ways[1:] if best and not way.equals(best, expected.arm)]
    if others:
        evidence["also_possible"] = [st.describe(way) for way in others[:3]]
    if beyond is not None and any(beyond):
        evidence["per_dimension"]["share_beyond_reach"] = beyond
    effect = _effect(best, ratio, expected.arm, dimensions)
    if never_closes:
        effect = "A closed gripper (0) comes out as 0.5, which 2g - 1 turns into 0: the gripper holds and never closes."
    return Problem(
        message=f"{_what(best, departure, asked)}; {expected.reason}. {effect}",
        remedy=_remedy(best, departure, expected, asked),
        severity=severity,
        first_step=int(departure.seen.steps[0]),
        last_step=int(departure.seen.steps[-1]),
        evidence=evidence,
    )


def _number(value: float) -> float | None:
    return float(f"{value:.4g}") if np.isfinite(value) else None


def _what(best: st.Candidate | None, departure: st.Departure, asked: _Key) -> str:
    subject = f"{'the' if departure.right_before else 'The'} {departure.place} action"
    before = "`predict_action` returned the right action, but " if departure.right_before else ""
    if best is None:
        if not np.abs(departure.line.slope[departure.line.known]).max() > st.ROUNDING:
            return f"{before}{subject} is the same whatever the model says"
        return f"{subject} was un-normalised with statistics that are known from nowhere"
    if best.statistics is None:
        fate = "" if before else asked.fate(None)
        return f"{before}{subject} is the normalised one: it was never un-normalised{fate}"
    if best.rule == st.AGAIN:
        return f"{before}{subject} was un-normalised a second time, with the statistics of {best.statistics.label}"
    if best.rule == st.DOUBLED:
        return f"{before}{subject} was un-normalised twice with the statistics of {best.statistics.label}"
    if best.rule != st.MASKED or best.how != "centres":
        return f"{before}{subject} comes from {st.describe(best)}"
    said = asked.fate(best.statistics.key)
    return f"{before}{subject} was un-normalised with the statistics of {best.statistics.label}{said}"


def _effect(best: st.Candidate | None, ratio: np.ndarray, arm: np.ndarray, dimensions: tuple[str, ...]) -> str:
    if best is not None and best.rule == st.UNMASKED and np.allclose(ratio[arm & np.isfinite(ratio)], 1.0):
        return "A closed gripper (0) comes out as 0.5, and an open one as 1."
    named = zip(dimensions, ratio, arm, strict=True)
    listed = ", ".join(f"{name} {value:.2g}" for name, value, normal in named if normal and np.isfinite(value))
    return f"Motions come out at these multiples of what the model meant: {listed}."


def _remedy(best: st.Candidate | None, departure: st.Departure, expected: st.Expectation, asked: _Key) -> str:
    key = expected.statistics.key
    if expected.lacking:
        return (
            f"Use a checkpoint that was fine-tuned for this environment and has statistics of {key}; for LIBERO these "
            "are openvla/openvla-7b-finetuned-libero-*. Another data set's key only removes the error message."
        )
    if departure.right_before:
        return PASS_ON
    line = f'action = model.predict_action(**inputs, unnorm_key="{key}", do_sample=False)'
    call = f"Un-normalise with the statistics of {key}:\n```python\n{line}\n```"
    if best is not None and best.rule == st.MASKED and best.statistics is not None and key not in asked.asked:
        return call
    if asked.asked and asked.asked[0] not in asked.own and key not in asked.asked:
        call += "\nand have the lookup raise where there is no such key: `model.norm_stats[unnorm_key]`, no `.get`."
    elif best is not None and best.rule == st.MASKED and best.how == "centres" and key in asked.asked:
        call = (
            "The key is right, and what is called does not use it: look for a predict_action (a subclass, a wrapper, "
            f"a server) that takes `unnorm_key` in **kwargs and drops it. {call}"
        )
    if best is None:
        call = f"Compare norm_stats in config.json with dataset_statistics.json: which did the model load? {call}"
    return (
        f"{call}\nor, if you decode the ids yourself:\n```python\n"
        "k = np.clip(model.vocab_size - ids - 1, 0, len(model.bin_centers) - 1)\n"
        f'stats = model.get_action_stats("{key}")\n'
        'low, high, mask = (np.array(stats[name]) for name in ("q01", "q99", "mask"))\n'
        "n = model.bin_centers[k]\n"
        "action = np.where(mask, 0.5 * (n + 1) * (high - low) + low, n)\n```"
    )


def _use_bridge(loop: Loop) -> None:
    _use_bridge_too(loop)
    loop.policy.unnorm_key = "bridge_orig"


def _use_bridge_too(loop: Loop) -> None:
    _has_too(loop, "bridge_orig")


def _use_another_suite(loop: Loop) -> None:
    """A checkpoint that was trained on several suites has statistics of each; the loop names the wrong ones."""
    _has_too(loop, "libero_spatial")
    loop.policy.unnorm_key = "libero_spatial"


def _has_too(loop: Loop, key: str) -> None:
    found = st.published_statistics()[key]
    table = {"q01": found.q01.tolist(), "q99": found.q99.tolist(), "mask": found.mask.tolist()}
    loop.policy.model.norm_stats.setdefault(key, {"action": table})


def _change_result(
    change: Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray],
) -> Callable[[Loop], None]:
    """Replace predict_action by one that changes what it returns: (action, q01, q99, mask) -> action."""

    def apply(loop: Loop) -> None:
        model, key = loop.policy.model, loop.policy.unnorm_key
        # The class's own method: a model that serves several loops must not be changed twice.
        original = type(model).predict_action

        def predict_action(*args: Any, **kwargs: Any) -> np.ndarray:
            stats = model.get_action_stats(kwargs.get("unnorm_key") or key)
            low, high, mask = (np.asarray(stats[name]) for name in ("q01", "q99", "mask"))
            return change(np.asarray(original(model, *args, **kwargs), dtype=np.float64), low, high, mask)

        model.predict_action = predict_action

    return apply


def _normalised(action: np.ndarray, low: np.ndarray, high: np.ndarray, mask: np.ndarray) -> np.ndarray:
    span = np.where(mask & (high > low), high - low, 1.0)
    return np.where(mask, 2.0 * (action - low) / span - 1.0, action)


def _swallow_the_key(loop: Loop) -> None:
    """A wrapper that has no such argument takes the first statistics that the checkpoint has."""
    _use_bridge_too(loop)
    model = loop.policy.model
    original = type(model).predict_action

    def predict_action(*args: Any, unnorm_key: str | None = None, **kwargs: Any) -> np.ndarray:
        return np.asarray(original(model, *args, unnorm_key=sorted(model.norm_stats)[0], **kwargs))

    model.predict_action = predict_action


def _pass_over_the_key(loop: Loop) -> None:
    """The loop asks by the name of another checkpoint; `norm_stats.get(key)` finds nothing, and nothing is done."""
    loop.policy.unnorm_key = "libero_object_no_noops"
    model = loop.policy.model
    original, there = type(model).predict_action, next(key for key in model.norm_stats if key.startswith("libero"))

    def predict_action(*args: Any, unnorm_key: str | None = None, **kwargs: Any) -> np.ndarray:
        action = np.asarray(original(model, *args, unnorm_key=there, **kwargs), dtype=np.float64)
        if model.norm_stats.get(unnorm_key) is not None:
            return action
        stats = model.get_action_stats(there)
        low, high, mask = (np.asarray(stats[name]) for name in ("q01", "q99", "mask"))
        return _normalised(action, low, high, mask)

    model.predict_action = predict_action


def _by_mean_and_std(loop: Loop) -> None:
    """Un-normalisation of another family (LeRobot's and Octo's mean/std) in the place of q01/q99."""
    model = loop.policy.model
    stats = model.get_action_stats(loop.policy.unnorm_key)
    mean, std = (np.asarray(stats[name], dtype=np.float64) for name in ("mean", "std"))

    def change(action: np.ndarray, low: np.ndarray, high: np.ndarray, mask: np.ndarray) -> np.ndarray:
        normalised = _normalised(action, low, high, mask)
        return np.where(mask, normalised * std + mean, normalised)

    _change_result(change)(loop)


def _unmasked(action: np.ndarray, low: np.ndarray, high: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.where(mask, action, low + 0.5 * (action + 1.0) * (high - low))


def _unnormalise_again(loop: Loop) -> None:
    command, stats = loop.stages.command, st.published_statistics()["libero_object"]

    def again(action: np.ndarray) -> list[float]:
        return command(np.where(stats.mask, stats.q01 + 0.5 * (action + 1.0) * stats.span, action))

    loop.stages.command = again


def judge_source(facts: SourceFacts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Compare the key of the statistics with those of the suite, and with those that the checkpoint has."""
    if not facts.unnorm_key.known:
        yield unseen(facts.unnorm_key, "the key of the statistics")
        return
    found = False
    for wrong, message in _wrong_keys(facts):
        found = True
        yield Problem(
            message=message,
            remedy="Name the statistics of the data that the checkpoint was trained on in this environment, and let an "
            "absent key be an error: `assert key in model.norm_stats`.",
            severity=Severity.STOP,
            evidence={"seen": wrong.value.key or wrong.value.how},
            place=wrong.place,
            trail=wrong.trail,
        )
        break
    method, seen = facts.profile.get("unnorm.method"), facts.decode.value.method if facts.decode.value else ""
    if method and seen and seen not in (method, "other"):
        found = True
        yield Problem(
            message=f"The action is un-normalised by {seen}; this family's statistics are used by {method}.",
            remedy="`0.5 * (n + 1) * (q99 - q01) + q01`." if method == "q01_q99" else f"Use {method}.",
            severity=Severity.STOP,
            evidence={"expected": method, "seen": seen},
            place=facts.decode.place,
            trail=facts.decode.trail,
        )
    if not found:
        yield Clear(f"un-normalised with {facts.unnorm_key.value.key if facts.unnorm_key.value else '?'}")


def _wrong_keys(facts: SourceFacts) -> Iterator[tuple[Seen[UnnormKey], str]]:
    fact, table = facts.unnorm_key, facts.profile.get("unnorm.keys")
    base = facts.checkpoint.known and facts.checkpoint.value in BASE_CHECKPOINTS
    borrowed = fact.wrong(lambda key: key.borrowed)
    some = next((one for one in fact.seen if one.value.borrowed), None)
    if borrowed or some:
        chosen = borrowed or some
        assert chosen is not None
        yield (
            chosen,
            (
                f"Where the wanted statistics are absent, others are borrowed ({chosen.value.how}): the error is "
                "silenced, and every action has another scale."
            ),
        )
        return
    if base and facts.environment == "libero":
        absent = fact.wrong(lambda key: key.key is not None and key.key not in BASE_KEYS)
        if absent:
            yield absent, f"The base checkpoint has no statistics of {absent.value.key!r}: `predict_action` raises."
            return
    if facts.environment == "libero":
        foreign = fact.wrong(lambda key: key.key in BASE_KEYS)
        if foreign:
            yield (
                foreign,
                (
                    f"Actions are un-normalised with the statistics of {foreign.value.key!r}, another robot's; in "
                    "LIBERO the arm hardly moves."
                ),
            )
            return
    if isinstance(table, Mapping):
        places = [facts.robot] if facts.robot else list(facts.suites) if len(facts.suites) == 1 else []
        allowed = [name for place in places for name in table.get(place, ())]
        others = [name for names in table.values() for name in names if name not in allowed]
        another = fact.wrong(lambda key: key.key in others) if allowed else None
        if another:
            yield (
                another,
                (
                    f"Actions are un-normalised with the statistics of {another.value.key!r}; {places[0]} calls for "
                    f"{' or '.join(allowed)}."
                ),
            )


CHECK = Check(
    code="VD501",
    name="unnorm-scale",
    stage=Stage.UNNORMALISE,
    judge=judge,
    judge_source=judge_source,
    needs=(Stage.DECODE, Stage.EXECUTE),
    thresholds={"stop_ratio": 3.0, "harmless_bins": 1.0},
    explained_by=("VD403", "VD704"),
    faults=(
        Fault(
            "unnorm-bridge",
            "`unnorm_key` names Bridge's statistics, which the checkpoint also has",
            _use_bridge,
            reports=("openvla/openvla#118",),
        ),
        Fault(
            "unnorm-other-suite",
            "`unnorm_key` names the spatial suite's statistics, which the checkpoint also has, in the object suite",
            _use_another_suite,
            reports=("openvla/openvla#225", "moojink/openvla-oft#156"),
        ),
        Fault(
            "unnorm-identity",
            "predict_action returns the bin centres, un-normalisation left out, as in a copy that returns logits too",
            _change_result(_normalised),
        ),
        Fault(
            "unnorm-doubled",
            "the loop un-normalises what predict_action has un-normalised already, with statistics written out in it",
            _unnormalise_again,
        ),
        Fault(
            "unnorm-mask-ignored",
            "the gripper is un-normalised too, as in decoding by hand without the mask",
            _change_result(_unmasked),
        ),
        Fault(
            "unnorm-key-ignored",
            "`unnorm_key` is right, and a wrapper of predict_action swallows it and takes the checkpoint's first set",
            _swallow_the_key,
        ),
        Fault(
            "unnorm-key-passed-over",
            "`unnorm_key` is another checkpoint's, and the lookup that finds nothing is passed over in silence",
            _pass_over_the_key,
            reports=("huggingface/lerobot#4415", "huggingface/lerobot#4446", "strands-labs/robots#985"),
        ),
        Fault(
            "unnorm-mean-std",
            "un-normalised by mean and standard deviation, as another family does it",
            _by_mean_and_std,
        ),
    ),
)
