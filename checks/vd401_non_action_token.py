"""The model generated ids that are no action ids, and they were decoded as an action all the same.

## What it looks at

The ids that each action was decoded from: the last seven of prompt and answer together. An action id lies in
31744..31999. It also looks at how many ids were generated: if the answer ended early, by an end-of-text id or by a
limit on its length or time, ids of the *prompt* stand among those seven.

## Why it is bad

`predict_action` does not raise; it clips. Any id below 31744 (text, end of text, ids of the prompt) becomes the upper
end of its dimension (+0.996), any id from 32000 on (padding rows) the lower end (-0.996). The robot gets full speed in
a direction that the model never chose, and the loop runs on.

## Evidence

`ids` lists the first of them: step, dimension, id, the normalised value it was turned into, and what was returned for
it. The normalised value is what stock code makes of the id.

## Fix

A healthy checkpoint asked with a prompt of its training never does this, so look at what the model was given and
whether all of it was loaded:

```python
model, info = AutoModelForVision2Seq.from_pretrained(path, trust_remote_code=True, output_loading_info=True)
assert not info["missing_keys"], info["missing_keys"]
```

If the answer is cut short, generate as many ids as the action has dimensions, without a limit on time. To make it loud:

```python
assert ((ids >= 31744) & (ids <= 31999)).all()
```

## Known gaps

A model that has learnt to answer with action ids whatever it is shown will not trip this: in a small OpenVLA-style
policy less than 1 % of the probability left the action ids under any of eleven faults of image, prompt and statistics.

## References

- openvla/openvla#318: a logits processor that allows action ids only, "prevents text hallucination during control".
- openvla/openvla#267: 32064 rows in the output head, 32000 ids in the tokenizer.
- huggingface/lerobot#4713: a half randomly initialised model, because missing keys were not reported.
- vllm-project/speculators#1131: random weights after a conversion that only warned.
- Clipping: openvla/openvla@c8f03f4 prismatic/extern/hf/modeling_prismatic.py:518-524.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from vladoctor.check import Abstention, Check, Clear, Fault, Problem, Severity, Stage, Verdict
from vladoctor.facts.tokens import UNKNOWN_ID, ActionTokens, TokenLayout, token_layout, tokens_of

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.loop import Loop

LISTED = 20
"""So many ids are listed in the evidence."""

LOADED = (
    "Check that every weight was loaded, the output head above all:\n```python\nmodel, info = AutoModelForVision2Seq."
    "from_pretrained(path, trust_remote_code=True, output_loading_info=True)\n"
    'assert not info["missing_keys"], info["missing_keys"]\n```'
)


def judge(facts: Facts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Look for ids outside the action range among those that were decoded."""
    layout = token_layout(facts.profile)
    if layout is None:
        yield Abstention(f"profile {facts.profile.name} names no action ids")
        return
    actions = tokens_of(facts)
    if not actions:
        yield Abstention("no generated ids were recorded", missing=True)
        return
    wrong = [tokens for tokens in actions if tokens.outside]
    if not wrong:
        used = sorted({value for tokens in actions for value in tokens.ids})
        yield Clear(
            f"all ids of {len(actions)} actions lie in {layout.first}..{layout.last}",
            {"smallest_id": used[0], "largest_id": used[-1]},
        )
        return
    share = len(wrong) / len(actions)
    cut = [tokens for tokens in wrong if tokens.from_prompt]
    outside = sum(len(tokens.outside) for tokens in wrong)
    what = f"{outside} of {len(actions) * len(layout.dimensions)} decoded ids are no action ids"
    remedy = f"{LOADED}\nThen compare the prompt and the image with what the checkpoint was trained on."
    if cut and all(tokens.ended for tokens in cut):
        what = f"the model ended its answer early, after {_counts(cut)} of {len(layout.dimensions)} ids, and {what}"
    elif cut:
        what = f"the answer was cut off after {_counts(cut)} of {len(layout.dimensions)} ids, and {what}"
        remedy = (
            f"Let `generate` make {len(layout.dimensions)} new ids: take out `max_time`, stopping criteria and limits "
            "on the length. If an action takes too long, that is not the way to make it faster."
        )
    yield Problem(
        message=f"In {len(wrong)} of {len(actions)} queries {what}{', ids of the prompt among them' if cut else ''}. "
        "They were clipped to the ends of their dimensions without a word: full scale, and never chosen by the model.",
        remedy=remedy,
        severity=Severity.STOP if share >= limits["stop_share"] else Severity.FIX,
        first_step=wrong[0].step,
        last_step=wrong[-1].step,
        evidence={
            "expected": f"ids {layout.first}..{layout.last}",
            "seen": ", ".join(_named(value, layout) for value in wrong[0].ids),
            "queries_with_them": f"{len(wrong)} of {len(actions)}",
            "per_dimension": {
                "share_outside": [
                    sum(index in tokens.outside for tokens in actions) / len(actions)
                    for index in range(len(layout.dimensions))
                ]
            },
            "ids": _listed(facts, wrong, layout),
        },
    )


def _listed(facts: Facts, wrong: list[ActionTokens], layout: TokenLayout) -> list[dict[str, Any]]:
    returned = {step: query.action for step, query in facts.episode.queries()}
    rows: list[dict[str, Any]] = []
    for tokens in wrong:
        action = returned[tokens.step] or ()
        for index in tokens.outside:
            rows.append(
                {
                    "step": tokens.step,
                    "dimension": layout.dimensions[index],
                    "id": None if tokens.ids[index] == UNKNOWN_ID else tokens.ids[index],
                    "from_prompt": index < tokens.from_prompt,
                    "normalised": round(float(tokens.centres[index]), 4),
                    "returned": float(action[index]) if len(action) == len(layout.dimensions) else None,
                }
            )
    return rows[:LISTED]


def _counts(cut: list[ActionTokens]) -> str:
    counts = sorted({tokens.generated for tokens in cut})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _named(value: int, layout: TokenLayout) -> str:
    if layout.is_action(value):
        return str(value)
    if value == UNKNOWN_ID:
        return "prompt"
    kind = "end of text" if value == layout.eos else "padding" if value >= layout.vocabulary else "text"
    return f"{value} ({kind})"


def _untie_head(loop: Loop) -> None:
    import torch

    head = loop.policy.model.get_output_embeddings()
    noise = torch.empty(head.weight.shape).normal_(0.0, 0.02, generator=torch.Generator().manual_seed(0))
    head.weight = torch.nn.Parameter(noise.to(head.weight), requires_grad=False)


def _limit_time(loop: Loop) -> None:
    loop.policy.options["max_time"] = 1e-6


CHECK = Check(
    code="VD401",
    name="non-action-token",
    stage=Stage.DECODE,
    judge=judge,
    needs=(Stage.DECODE,),
    # Not a measurement: one action in a hundred at full speed the wrong way still leaves a number that means something,
    # one in twenty does not.
    thresholds={"stop_share": 0.05},
    explained_by=("VD101", "VD201", "VD202", "VD203", "VD204", "VD205", "VD206", "VD301", "VD702", "VD703", "VD704"),
    faults=(
        Fault(
            "untied-head",
            "the output head was not in the checkpoint and was newly initialised, N(0, 0.02): a warning, no error",
            _untie_head,
        ),
        Fault(
            "generation-cut",
            "`generate(max_time=...)`, to hold the control rate: one id is generated, six are the prompt's",
            _limit_time,
        ),
    ),
)
