"""The model's actions sit at the ends of their range far more than its training data did.

## What it looks at

The outermost bins, lowest and highest, of each arm dimension (the gripper lives in them), in three ways: several
dimensions at an end *together*, one dimension at the same end *without a break*, and one dimension at an end *most of
the time* although the data hardly ever are. What the data do is taken from the checkpoint's own statistics: an end
whose quantile lies inside of the data holds 1 % of them, one that is the data's own end holds no more than mean and
standard deviation allow (Cantelli).

## Why it is bad

It is a symptom, not an illness. A policy at the ends of its range may be one that is shown or told something it was not
trained on, one of whose weights a part is missing, or one that was trained on labels which too narrow statistics had
clipped. It is reported by itself only if nothing else is found, and then means: look.

## Evidence

`share_lowest` and `share_highest` are the shares of the episode's actions in the two outermost bins, `share_likely` is
what the statistics allow, `longest_run` the longest stay at one end, in queries.

Healthy policies go at full speed in a straight line, so one dimension alone at its end is nothing. Thresholds:

- four arm dimensions at an end together in half of 20 queries, or three in nine tenths of 40, and three times as often
  as the statistics allow (Markov: the sum of the dimensions' shares, divided by four or three). In the hundred noisy
  demonstrations of the reference tasks and in 17 healthy episodes of two trainings no window of 20 holds four at once,
  and none three at once in more than a tenth.
- one dimension at the same end for 80 queries: at full speed this is further than the arm reaches. The longest such
  run in those demonstrations was 46, in y, from the table to the basket.
- a dimension that the statistics allow 10 % at most, at an end in half of 100 queries or more. Among ten tasks of equal
  size none can spend more than a tenth of its time beyond a 1 % quantile.

## Fix

Look at the checks that compare the image, the prompt and the statistics with what the checkpoint expects, and whether
all weights were loaded (`output_loading_info=True`; `missing_keys` must be empty). If you trained the checkpoint, count
the extreme bins in its labels: more than a few per cent in a dimension means that its statistics are not its data's.

## Known gaps

Silence here says nothing. Where a fault drives a policy is a matter of chance: of eleven faults in one small
OpenVLA-style policy two raised the share of extreme x, y and z and six lowered it, and of nineteen faults of image and
weights in two trainings of the reference checkpoint six brought four dimensions to their ends together in the first,
and none in the second. The fault that proves this check, `labels-clipped`, is therefore made at the model's output: it
answers as a checkpoint would whose labels had been clipped, and is no such checkpoint.

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
from vladoctor.facts.tokens import extreme_bins, longest_run, token_layout, tokens_of
from vladoctor.profiles import load_profile

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.loop import Loop


NARROWER = 24
"""So many times narrower is bridge_orig's x than libero_object's (spans of q01..q99 in the published statistics)."""


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
    actions = tokens_of(facts)
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
        message=f"{what}. The policy may be given something that it was not trained on, or be broken itself.",
        remedy="Look at what the checkpoint is given: image, prompt, statistics. Then check that all of its weights "
        "were loaded: `from_pretrained(..., output_loading_info=True)`, and `missing_keys` must be empty. If you "
        "trained it, count the extreme bins in its labels.",
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


def _clip_labels(loop: Loop) -> None:
    """Answer as a checkpoint does whose labels were normalised with too narrow statistics, and so were clipped."""
    import torch

    layout = token_layout(load_profile("openvla"))
    assert layout is not None
    middle = layout.last - (layout.bins - 1) // 2

    def clipped(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        best = layout.first + scores[:, layout.first : layout.last + 1].argmax(dim=-1, keepdim=True)
        stretched = (middle + NARROWER * (best - middle)).clamp(layout.first, layout.last)
        return torch.full_like(scores, -torch.inf).scatter_(-1, stretched, 0.0)

    loop.policy.options["logits_processor"] = [clipped]


CHECK = Check(
    code="VD402",
    name="bin-saturation",
    stage=Stage.DECODE,
    judge=judge,
    needs=(Stage.DECODE,),
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
            "labels-clipped",
            "a checkpoint that was fine-tuned with Bridge's statistics on LIBERO's actions: all but the smallest "
            "labels were clipped to the ends",
            _clip_labels,
            steps=24,
        ),
    ),
)
