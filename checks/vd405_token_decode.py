r"""The ids of an action were turned into numbers in another way than the model was trained with.

## What it looks at

The ids of each query and the action that was made of them. The action is recomputed with every known set of statistics
and every way of decoding: 255 bin centres counted down from the last id of the vocabulary (OpenVLA's), bin edges, 256
centres, counting down from the padded vocabulary of 32064, counting up, one bin off. What reproduces *all* of the
actions is what was done. Which statistics were used is VD501's question; here only the way from ids to [-1, 1] is.

## Why it is bad

Nothing fails, every number lies in [-1, 1]. Counted up, every motion is the reverse of what the model meant, and the
gripper opens to grasp. From the padded vocabulary every value is 64 bins, half of the half range, too high, and what is
above the upper end stays there. Edges and 256 centres are off by up to half a bin, 0.4 % of the half range: a small
drift to one side, in all dimensions at once.

## Evidence

`seen` is the way of decoding that gives the actions, `expected` the family's; `largest_difference_in_bins` the greatest
distance between the two among the actions of this run. Severity: stop from 8 bins on, fix above one, look up to one,
which is the model's own resolution.

## Fix

```python
k = np.clip(model.vocab_size - ids - 1, 0, len(model.bin_centers) - 1)  # vocab_size is 32000, bin_centers 255 long
n = model.bin_centers[k]
```

`model.vocab_size` of OpenVLA is the tokenizer's size; `model.config.text_config.vocab_size`, the output head's number
of rows and `len(logits)` are 64 larger.

## Known gaps

Decoding is told from the answers where the statistics are among the checkpoint's own, or none were used. In an action
that was rounded to bfloat16 half a bin is not seen. Where the answer was changed by something else as well, nothing is.

## References

- openvla/openvla#267: the output head has 32064 rows, the tokenizer 32000 ids.
- openvla/openvla#290: the last 256 columns of the logits, 64 ids too far.
- openvla/openvla#226, openvla/openvla#246: ids that went through text and came back as others.
- google-research/robotics_transformer@4569641 tokenizers/action_tokenizer.py:150-153: edges, counted up.
- SpatialVLA/SpatialVLA@e480753 model/action_tokenizer.py:59-330: counted up.
- Right: openvla/openvla@c8f03f4 prismatic/extern/hf/modeling_prismatic.py:500-501,521-524.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vladoctor.check import Abstention, Check, Clear, Fault, Problem, Severity, Stage, Verdict
from vladoctor.facts import statistics as st
from vladoctor.facts.tokens import DECODES, token_layout

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.lint.facts import SourceFacts
    from vladoctor.loop import Loop

EFFECTS = {
    "edges": "Every value is half a bin too low: a drift to one side in all dimensions.",
    "256 centres": "Values are off by up to half a bin, most at the upper end.",
    "padded vocabulary": "Every value is 64 bins too high, and what is in the upper quarter becomes the upper end.",
    "ascending": "Every motion is the reverse of what the model meant, and so is the gripper.",
    "ascending edges": "Every motion is the reverse of what the model meant, and so is the gripper.",
    "one bin up": "Every value is one bin too high: a drift to one side in all dimensions.",
    "one bin down": "Every value is one bin too low: a drift to one side in all dimensions.",
}


def judge(facts: Facts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Recompute the actions from the ids, and look by which way of decoding they come out."""
    profile = facts.profile
    layout = token_layout(profile)
    if layout is None or profile.get("unnorm.method") != "q01_q99" or profile.get("tokens.direction") == "ascending":
        yield Abstention(f"profile {profile.name} does not say how ids become an action")
        return
    found = st.unnormalised(facts, layout)
    seen, departure = found.seen, found.departure
    if found.expected is None:
        yield Abstention("the checkpoint's statistics (norm_stats) were not recorded", missing=True)
        return
    if seen is None:
        yield Abstention("no query was recorded with both its ids and its action", missing=True)
        return
    if departure is None:
        yield Clear(f"all {len(seen.steps)} actions come from their ids by {DECODES['centres']}")
        return
    best = departure.ways[0] if departure.ways else None
    if departure.right_before or (best is not None and best.how == "centres"):
        yield Clear(f"{len(seen.steps)} actions come from their ids by {DECODES['centres']}")
    elif best is None:
        yield Abstention(
            f"at {len(departure.seen.steps)} of {len(seen.steps)} queries the {departure.place} action follows from "
            "the ids in no known way"
        )
    else:
        yield _problem(departure, best, limits)


def _problem(departure: st.Departure, best: st.Candidate, limits: Mapping[str, float]) -> Problem:
    right, used = (departure.seen.normalised[how] for how in ("centres", best.how))
    off = float(np.abs(used - right).max() / (2.0 / 255.0))
    severity = Severity.LOOK if off <= limits["harmless_bins"] + 1e-6 else Severity.FIX
    if off >= limits["stop_bins"]:
        severity = Severity.STOP
    return Problem(
        message=f"The ids were decoded by {DECODES[best.how]}; this checkpoint was trained with {DECODES['centres']}. "
        + EFFECTS[best.how],
        remedy="Decode as the model itself does, or have `predict_action` do it:\n```python\n"
        "k = np.clip(model.vocab_size - ids - 1, 0, len(model.bin_centers) - 1)  # 32000 ids, 255 centres\n"
        "n = model.bin_centers[k]\n```",
        severity=severity,
        first_step=int(departure.seen.steps[0]),
        last_step=int(departure.seen.steps[-1]),
        evidence={
            "expected": DECODES["centres"],
            "seen": DECODES[best.how],
            "queries_concerned": len(departure.seen.steps),
            "largest_difference_in_bins": round(off, 3),
        },
    )


def _decoding(bins: Callable[[np.ndarray, Any], np.ndarray]) -> Callable[[Loop], None]:
    """Have the action decoded by hand, as scripts do that generate the ids themselves.

    Args:
        bins: (ids, model) -> normalised values.
    """

    def apply(loop: Loop) -> None:
        model = loop.policy.model

        def predict_action(input_ids: Any, unnorm_key: str | None = None, **kwargs: Any) -> np.ndarray:
            import torch

            stats = model.get_action_stats(unnorm_key)
            size = len(stats["q01"])
            if input_ids[0, -1] != 29871:
                input_ids = torch.cat([input_ids, torch.full_like(input_ids[:, :1], 29871)], dim=1)
                mask = kwargs.get("attention_mask")
                if mask is not None:
                    kwargs["attention_mask"] = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
            ids = model.generate(input_ids, max_new_tokens=size, **kwargs)[0, -size:].cpu().numpy()
            normalised = bins(ids, model)
            low, high, masked = (np.asarray(stats[name]) for name in ("q01", "q99", "mask"))
            return np.where(masked, 0.5 * (normalised + 1) * (high - low) + low, normalised)

        model.predict_action = predict_action

    return apply


def _own_bins(bins: np.ndarray, last: Callable[[Any], int]) -> Callable[[np.ndarray, Any], np.ndarray]:
    """Values of bins that are counted down from a last id."""
    return lambda ids, model: bins[np.clip(last(model) - ids, 0, len(bins) - 1)]


_EDGES = np.linspace(-1.0, 1.0, 256)
_CENTRES = (_EDGES[:-1] + _EDGES[1:]) / 2.0
_FINER = np.linspace(-1.0, 1.0, 257)


def _counted_up(ids: np.ndarray, model: Any) -> np.ndarray:
    return np.asarray(_CENTRES[np.clip(ids - (model.vocab_size - 256), 0, 254)])


def judge_source(facts: SourceFacts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Compare the loop's own decoder, by what it makes of sample ids, with the family's."""
    last, bins = facts.profile.get("tokens.last"), facts.profile.get("tokens.bins")
    decode = facts.decode.value
    if last is None or bins is None or decode is None or not decode.pairs:
        yield Abstention("the loop leaves decoding to the model, or its decoder was not followed")
        return
    width = 2 / (bins - 1)
    wanted = [(-1 + (min(max(last - id_, 0), bins - 2) + 0.5) * width) for id_, _ in decode.pairs]
    off = [abs(value - right) / width for (_, value), right in zip(decode.pairs, wanted, strict=True)]
    place, trail = facts.decode.place, facts.decode.trail
    if max(off) > limits["harmless_bins"]:
        rising = decode.pairs[-1][1] > decode.pairs[0][1]
        yield Problem(
            message=(
                "A higher id is decoded to a higher value; this family's ids fall as values rise, so every dimension "
                "is mirrored."
                if rising
                else f"Ids are decoded up to {max(off):.0f} bins away from the values of training."
            ),
            remedy=f"`k = np.clip({last} - ids, 0, {bins - 2})`, then the centres of the bins, "
            f"`-1 + (k + 0.5) * 2 / {bins - 1}`.",
            severity=Severity.STOP if max(off) > limits["stop_bins"] else Severity.FIX,
            evidence={"expected": _pairs(decode.pairs, wanted), "seen": _pairs(decode.pairs)},
            place=place,
            trail=trail,
        )
    else:
        yield Clear("ids are decoded as in training")
    mask = facts.profile.get("unnorm.mask") or ()
    if decode.masked is False and list(mask[6:7]) == [False]:
        yield Problem(
            message="The gripper is un-normalised with the rest; its statistics are masked, and its value is used as "
            "decoded.",
            remedy="`np.where(mask, 0.5 * (n + 1) * (q99 - q01) + q01, n)` with the statistics' own mask.",
            severity=Severity.FIX,
            evidence={"expected": "the gripper as decoded", "seen": "the gripper un-normalised"},
            place=decode.unnormalised or place,
            trail=trail,
        )


def _pairs(pairs: Sequence[tuple[int, float]], values: Sequence[float] | None = None) -> str:
    """Ids and what they are decoded to: "31744: 0.996, 31999: -0.996"."""
    shown = values if values is not None else [value for _, value in pairs]
    return ", ".join(f"{id_}: {value:.3g}" for (id_, _), value in zip(pairs, shown, strict=True))


CHECK = Check(
    code="VD405",
    name="token-decode",
    stage=Stage.DECODE,
    judge=judge,
    judge_source=judge_source,
    needs=(Stage.DECODE,),
    # Not measured: one bin is the model's own resolution, eight are 6 % of the half range.
    thresholds={"harmless_bins": 1.0, "stop_bins": 8.0},
    faults=(
        Fault(
            "decode-edges",
            "the ids are decoded by hand with the 256 edges of np.linspace(-1, 1, 256) in the place of the centres",
            _decoding(_own_bins(_EDGES, lambda model: model.vocab_size - 1)),
        ),
        Fault(
            "decode-256-centres",
            "the ids are decoded by hand with the 256 centres of np.linspace(-1, 1, 257)",
            _decoding(_own_bins((_FINER[:-1] + _FINER[1:]) / 2.0, lambda model: model.vocab_size - 1)),
        ),
        Fault(
            "decode-vocab-32064",
            "the ids are counted down from the padded vocabulary, 64 too far",
            _decoding(_own_bins(_CENTRES, lambda model: model.get_output_embeddings().weight.shape[0] - 1)),
            reports=("openvla/openvla#267", "openvla/openvla#290"),
        ),
        Fault(
            "decode-ascending",
            "the ids are counted up from the first action id, as another family's are",
            _decoding(_counted_up),
        ),
        Fault(
            "decode-off-by-one",
            "`vocab_size - ids` in the place of `vocab_size - ids - 1`",
            _decoding(_own_bins(_CENTRES, lambda model: model.vocab_size)),
        ),
    ),
)
