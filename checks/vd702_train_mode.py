"""The model answers in train mode.

## What it looks at

Whether the model, or any module in it, was in train mode at its first query and wherever that changed later; and what
in those modules acts only then: dropout with p > 0 (as a module, or as a probability that attention uses), stochastic
depth, batch normalisation.

## Why it is bad

Dropout throws away a share of what the model computes, another share at every query: two queries with the same picture
give two actions, and each of them is worse than it need be. Batch normalisation uses the statistics of this one picture
in the place of those of training, and goes on learning from it. Nothing raises, and success falls by as much as the
dropout takes.

## Evidence

`acting` names what acts and how often it stands in the model; `training_modules` of `modules` are in train mode.

Severity is fix if something acts. If nothing in the model does anything otherwise in train mode (openvla-7b has no
dropout), it is a *look*: this run is as good, the next model's may not be.

## Fix

```python
model.eval()  # after loading, after load_adapter, and after every piece of training in between
```

`torch.no_grad()` and `inference_mode()` do not switch dropout off.

## Known gaps

The modules are looked at once, and again when the model's own flag has changed: a single module that is switched later
is not seen. A dropout that is called with `training=True` whatever the mode is looks like any other. Compiled or
exported models and policies in another process say nothing.

## References

- ipolharvard/ethos-ares#20: published results were produced with dropout on; no `model.eval()`.
- huggingface/lerobot#3668: evaluation within training that does not put the mode back (the other way round).
- `attention_dropout`: huggingface/transformers v4.40.1 src/transformers/models/llama/modeling_llama.py:289,407.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from vladoctor.check import Abstention, Check, Clear, Fault, Problem, Severity, Stage, Verdict
from vladoctor.facts import system

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.lint.facts import SourceFacts
    from vladoctor.loop import Loop

EVAL = (
    "Switch to evaluation before the first query, and again after every piece of training in between:\n"
    "```python\nmodel.eval()\n```\n`torch.no_grad()` does not do that."
)


def judge(facts: Facts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Look for modules in train mode, and for what acts in them."""
    known = [one for one in system.standings(facts.episode) if "modules" in one.state]
    if not known:
        yield Abstention("the model's mode was not recorded")
        return
    # The gravest: where something acts, then where anything is in train mode.
    worst = max(known, key=lambda one: (bool(one.state.get("active")), int(one.state.get("training_modules", 0))))
    acting: Mapping[str, int] = worst.state.get("active") or {}
    count, total = int(worst.state.get("training_modules", 0)), int(worst.state["modules"])
    evidence = {
        "expected": "eval mode",
        "seen": f"{count} of {total} modules in train mode",
        "training_modules": count,
        "modules": total,
        "acting": dict(acting),
    }
    where = "" if worst is known[0] else f" from step {worst.step} on"
    if acting:
        named = ", ".join(f"{name} ({number} of them)" for name, number in list(acting.items())[:3])
        yield Problem(
            message=f"The model answers in train mode{where}: {named} acts at every query, so that the same picture "
            "gives another action each time, and a worse one.",
            remedy=EVAL,
            severity=Severity.FIX,
            first_step=worst.step,
            evidence=evidence,
        )
    elif worst.state.get("training") or count >= limits["share"] * total:
        yield Problem(
            message=f"The model is in train mode{where} ({count} of {total} modules). Nothing in this one acts "
            "otherwise than in eval mode, as it has no dropout above 0 and no batch normalisation; the next one may.",
            remedy=EVAL,
            severity=Severity.LOOK,
            first_step=worst.step,
            evidence=evidence,
        )
    else:
        inside = f", {count} without effect in train mode" if count else ""
        yield Clear(f"the model answers in eval mode ({total} modules{inside})", evidence)


def _train_with_dropout(loop: Loop) -> None:
    """Left in train mode by a fine-tuning script whose configuration has attention_dropout=0.1."""
    from transformers.models.llama import modeling_llama

    model = loop.policy.model
    model.config.text_config.attention_dropout = 0.1
    for module in model.modules():
        if isinstance(module, modeling_llama.LlamaAttention):
            module.attention_dropout = 0.1
    model.train()


def _dropout_layer(loop: Loop) -> None:
    """A dropout behind the projector that was put there for fine-tuning; `no_grad`, but no `eval`."""
    import torch

    model = loop.policy.model
    if not hasattr(model.projector, "regularised"):
        model.projector.regularised = torch.nn.Dropout(0.3)
        model.projector.register_forward_hook(lambda module, args, output: module.regularised(output))
    model.projector.train()


def _train_flag(loop: Loop) -> None:
    loop.policy.model.train()


def judge_source(facts: SourceFacts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Look for a policy that is put to train mode and left there."""
    if not facts.training.known:
        yield Abstention("the source does not put the policy to train mode")
    elif facts.training.value:
        yield Problem(
            message="The policy is put to train mode and evaluated in it: dropout draws at random.",
            remedy="`model.eval()` before the first query.",
            severity=Severity.FIX,
            evidence={"expected": "eval mode", "seen": "train mode"},
            place=facts.training.place,
        )
    else:
        yield Clear("the policy is put to evaluation mode")


CHECK = Check(
    code="VD702",
    name="train-mode",
    stage=Stage.FORWARD,
    judge=judge,
    judge_source=judge_source,
    # Share of modules in train mode, of a model that is in eval mode itself, from which that is said although nothing
    # acts in
    # them. Not a measurement.
    thresholds={"share": 0.5},
    explained_by=(),
    faults=(
        Fault(
            "train-mode",
            "model.train() is left over from fine-tuning, with attention_dropout=0.1",
            _train_with_dropout,
            reports=("ipolharvard/ethos-ares#20",),
        ),
        Fault(
            "dropout-layer",
            "a dropout of 0.3 behind the projector is left in train mode, in a model that is in eval mode",
            _dropout_layer,
        ),
        Fault("train-flag", "model.train() on a model without dropout: no effect, as yet", _train_flag),
    ),
)
