"""The model's actions sit at the ends of their range far more than its training data did.

## What it looks at

The outermost bins, lowest and highest, of each arm dimension (the gripper lives in them), in three ways: several
dimensions at an end *together*, one dimension at the same end *without a break*, and one dimension at an end *most of
the time* although the data hardly ever are. What the data do is taken from the checkpoint's own statistics: an end
whose quantile lies inside of the data holds 1 % of them, one that is the data's own end holds no more than mean and
standard deviation allow (Cantelli).

## Why it is bad

It is a symptom, not an illness: a policy at the ends of its range is mostly one that is shown or told something it was
not trained on. It is reported by itself only if nothing else is found, and then means: look.

## Evidence

`share_lowest` and `share_highest` are the shares of the episode's actions in the two outermost bins, `share_likely` is
what the statistics allow, `longest_run` the longest stay at one end, in queries.

Healthy policies go at full speed in a straight line, so one dimension alone at its end is nothing. Thresholds:

- four arm dimensions at an end together in half of 20 queries, or three in nine tenths of 40, and three times as often
  as the statistics allow (Markov: the sum of the dimensions' shares, divided by four or three).
- one dimension at the same end for 80 queries: at full speed this is further than the arm reaches. The longest such
  run in a hundred noisy demonstrations of the reference tasks was 44, in y, from the table to the basket.
- a dimension that the statistics allow 10 % at most, at an end in half of 100 queries or more. Among ten tasks of equal
  size none can spend more than a tenth of its time beyond a 1 % quantile.

## Fix

Look at the checks that compare the image, the prompt and the statistics with what the checkpoint expects, and whether
all weights were loaded (`output_loading_info=True`; `missing_keys` must be empty).

## Known gaps

Most faults drive a policy to the middle of its range, not to the ends: of eleven in a small OpenVLA-style policy two
raised the share of extreme x, y and z (from 0.18 to 0.47 and 0.53), six lowered it. Silence here says nothing.

## References

- openvla/openvla#305: "random movements" under every key that was tried.
- openvla/openvla#318: ids that are no action ids end up in the extreme bins.
- openvla/openvla#135: deltas so small that they fall into a few central bins, the opposite case.
- Clipping at the quantiles in training: openvla/openvla@c8f03f4
  prismatic/vla/datasets/rlds/utils/data_utils.py:240-262.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vladoctor.check import Abstention, Check, Clear, Fault, Problem, Severity, Stage, Verdict
from vladoctor.facts import statistics as st
from vladoctor.facts.tokens import action_tokens, extreme_bins, longest_run, token_layout

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.loop import Loop


@dataclass(frozen=True, eq=False)
class _Ends:
    """Which actions sit at an end: `at` as from `extreme_bins`, `likely` as from `likely_extremes`, of the arm only."""

    at: np.ndarray
    likely: np.ndarray
    names: tuple[str, ...]


def judge(facts: Facts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Compare how often the outermost bins occur with how often the training data can reach them."""
    layout = token_layout(facts.profile)
    if layout is None:
        yield Abstention(f"profile {facts.profile.name} names no action ids")
        return
    actions = action_tokens(facts.episode, layout)
    own = st.checkpoint_statistics(facts.episode)
    expected = st.expectation(facts.episode, facts.profile, own, len(layout.dimensions))
    likely = None if expected is None else st.likely_extremes(expected.statistics, layout.bins)
    if not actions or expected is None or likely is None:
        what = "generated ids" if not actions else "statistics of the checkpoint with mean and standard deviation"
        yield Abstention(f"no {what} were recorded", missing=True)
        return
    if len(actions) < limits["window"]:
        yield Abstention(f"{len(actions)} queries are too few to say; it takes {limits['window']:.0f}")
        return
    at = extreme_bins(actions, layout)
    arm = np.flatnonzero(expected.arm & (likely < 1.0))
    ends = _Ends(at[:, arm], likely[arm], tuple(layout.dimensions[dim] for dim in arm))
    found = _together(ends, limits) or _without_a_break(ends, limits) or _most_of_the_time(ends, limits)
    runs = [max(longest_run(column == sign)[1] for sign in (-1, 1)) for column in at.T]
    if found is None:
        share = (ends.at != 0).mean(axis=0).max(initial=0.0)
        yield Clear(f"no arm dimension is in an outermost bin in more than {share:.0%} of {len(actions)} queries")
        return
    first, what = found
    yield Problem(
        message=f"{what}. The policy is probably shown or told something that it was not trained on.",
        remedy="Look at what the checkpoint is given: image, prompt, statistics. Then check that all of its weights "
        "were loaded: `from_pretrained(..., output_loading_info=True)`, and `missing_keys` must be empty.",
        severity=Severity.LOOK,
        first_step=actions[first].step,
        last_step=actions[-1].step,
        evidence={
            "per_dimension": {
                "share_lowest": [round(float(value), 3) for value in (at < 0).mean(axis=0)],
                "share_highest": [round(float(value), 3) for value in (at > 0).mean(axis=0)],
                "share_likely": [round(float(value), 3) for value in likely],
                "longest_run": runs,
            }
        },
    )


def _together(ends: _Ends, limits: Mapping[str, float]) -> tuple[int, str] | None:
    """Several dimensions at an end in the same queries: index of the first one, and what is wrong."""
    for kind in ("", "_long"):
        window, joint = int(limits[f"window{kind}"]), limits[f"joint{kind}"]
        together = (ends.at != 0).sum(axis=1) >= joint
        likely = float(ends.likely.sum()) / joint
        # "full" keeps to windows that lie within the episode; "valid" would turn a short episode and the window around.
        frequency = np.convolve(together, np.ones(window), "full")[window - 1 : len(together)] / window
        wrong = np.flatnonzero(frequency >= max(limits[f"share{kind}"], limits["excess"] * likely))
        if len(wrong):
            return int(wrong[0] + together[wrong[0] :].argmax()), (
                f"{joint:.0f} or more arm dimensions sit in an outermost bin together in {frequency[wrong].max():.0%} "
                f"of {window} queries; the training statistics allow {min(likely, 1.0):.0%}"
            )
    return None


def _without_a_break(ends: _Ends, limits: Mapping[str, float]) -> tuple[int, str] | None:
    for name, column in zip(ends.names, ends.at.T, strict=True):
        for sign, side in ((-1, "lowest"), (1, "highest")):
            start, length = longest_run(column == sign)
            if length >= limits["long_run"]:
                return start, (
                    f"{name} sits in its {side} bin for {length} queries without a break; "
                    "at full speed that is further than the arm reaches"
                )
    return None


def _most_of_the_time(ends: _Ends, limits: Mapping[str, float]) -> tuple[int, str] | None:
    share = (ends.at != 0).mean(axis=0)
    wrong = np.flatnonzero((ends.likely <= limits["seldom"]) & (share >= limits["often"]))
    if not len(wrong) or len(ends.at) < limits["often_queries"]:
        return None
    worst = wrong[share[wrong].argmax()]
    return int((ends.at[:, worst] != 0).argmax()), (
        f"{ends.names[worst]} sits in an outermost bin in {share[worst]:.0%} of {len(ends.at)} queries; "
        f"the training statistics allow {ends.likely[worst]:.0%}"
    )


def _lose_projector(loop: Loop) -> None:
    import torch

    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in loop.policy.model.projector.named_parameters():
            new = torch.zeros(value.shape)
            value.copy_(new if name.endswith("bias") else new.normal_(0.0, 0.02, generator=noise))


CHECK = Check(
    code="VD402",
    name="bin-saturation",
    stage=Stage.DECODE,
    judge=judge,
    symptom=True,
    thresholds={
        "window": 20,
        "joint": 4,
        "share": 0.5,
        "window_long": 40,
        "joint_long": 3,
        "share_long": 0.9,
        "excess": 3.0,
        "long_run": 80,
        "seldom": 0.1,
        "often": 0.5,
        "often_queries": 100,
    },
    faults=(
        Fault(
            "lost-projector",
            "the projector between vision and language was not in the checkpoint and was newly initialised, N(0, 0.02)",
            _lose_projector,
        ),
    ),
)
