r"""The prompt's text is right, and the model read other token ids than those of training.

## What it looks at

The ids that the model was given at each query: whether the beginning-of-text id stands in front exactly once; whether
padding was read as text, or stands where the answer is to follow; whether all of the prompt is there; whether the ids
are those that the checkpoint's own tokenizer makes of this text (where these were recorded); and whether the id that
OpenVLA's own code puts behind every prompt, 29871, is there once when generating begins.

## Why it is bad

The text looks right in every log. But a second `<s>`, a missing 29871, padding in front of the answer or a prompt cut
to 16 ids shift every later position or take words away, and nothing raises. Without 29871 a small OpenVLA-style policy
fell from 20 successes in 20 episodes to 0 in 5.

## Evidence

`ids` are the ids as the model was given them, `expected_ids` those of the checkpoint's tokenizer where they are known.

## Fix

Let the processor make the ids, one prompt at a time, and change nothing about them:

```python
inputs = processor(prompt, image)  # no padding, no truncation, add_special_tokens as it is
```

and where you call `generate` yourself, put behind them what `predict_action` would:

```python
if input_ids[0, -1] != 29871:
    input_ids = torch.cat([input_ids, torch.tensor([[29871]], device=input_ids.device)], dim=1)
```

## Known gaps

In loops that are not vladoctor's own, the ids that the tokenizer should have made are not known: there a cut prompt or
another tokenizer is not noticed. What is put behind the prompt is seen where the model's code calls `generate`.
Positions and attention masks of other shapes are not looked at.

## References

- Appending 29871: openvla/openvla@c8f03f4 prismatic/extern/hf/modeling_prismatic.py:510-515.
- openvla/openvla#58: 29871 is appended to the ids and not to the attention mask.
- huggingface/transformers#29029: logits that differ with padding.
- openvla/openvla#246, openvla/openvla#226: another tokenizer, and ids that do not survive being written as text.
- openvla/openvla#303: a prompt with a space more.
- NVlabs/vla0#18: with padding behind the prompt the text of the action is not valid.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vladoctor.check import Abstention, Check, Clear, Fault, Problem, Severity, Stage, Verdict
from vladoctor.facts.prompt import expected_ids, expected_prompt
from vladoctor.facts.tokens import PromptIds, prompts_given

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.lint.facts import SourceFacts
    from vladoctor.loop import Loop

LISTED = 64
"""So many ids are listed in the evidence."""


@dataclass(frozen=True)
class _Family:
    """What a family's prompts look like in ids; None where that is not known.

    Attributes:
        bos: stands once in front of every prompt.
        append: stands once behind it when generating begins.
        vocabulary: ids from here on are no text.
        expected: ids of the expected prompt, as the checkpoint's tokenizer makes them, and its text.
    """

    bos: int | None
    append: int | None
    vocabulary: int | None
    expected: tuple[int, ...] | None
    text: str


@dataclass(frozen=True)
class _Wrong:
    what: str
    remedy: str


AS_IT_IS = (
    "Let the processor make the ids and hand them on as they are:\n```python\ninputs = processor(prompt, image)\n```"
)


def judge(facts: Facts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Look at every distinct prompt's ids; the first wrong ones are shown."""
    profile, episode = facts.profile, facts.episode
    text = expected_prompt(profile, str(episode.task.get("language") or "")) if profile.get("prompt.template") else ""
    family = _Family(
        profile.get("prompt.bos_id"),
        profile.get("prompt.append_id"),
        profile.get("tokens.vocabulary"),
        expected_ids(episode),
        text,
    )
    if family.bos is None and family.expected is None:
        yield Abstention(f"profile {profile.name} does not say what its prompts are in ids")
        return
    given = prompts_given(episode)
    if not given:
        yield Abstention("no ids of a prompt were recorded", missing=bool(list(episode.queries())))
        return
    found = [(one, _wrong(one, family)) for one in given]
    wrong = [(one, about) for one, about in found if about is not None]
    if wrong:
        yield _problem(*wrong[0], [one for one, _ in wrong], family, sum(len(one.steps) for one in given))
        return
    ends = [one.final for one in given]
    seen = ["the first id stands once"] if family.bos is not None else []
    if family.expected is not None and any(one.text == family.text for one in given):
        seen.append("they are those of the checkpoint's tokenizer")
    if family.append is not None:
        seen.append("what stands behind them was not seen" if None in ends else f"{family.append} stands behind them")
    yield Clear(f"the prompt's {len(given[0].given)} ids are right: {', '.join(seen)}", {"ids": list(given[0].given)})


def _wrong(prompt: PromptIds, family: _Family) -> _Wrong | None:
    return _padded(prompt, family) or _begins(prompt, family) or _differs(prompt, family) or _ends(prompt, family)


def _padded(prompt: PromptIds, family: _Family) -> _Wrong | None:
    _, inside, right = prompt.padding
    one_by_one = f"Ask for one prompt at a time, without padding; in a batch, pad in front:\n```python\n{LEFT}\n```"
    if right or inside:
        where = f"behind it stand {right} ids of padding" if right else f"in it stand {inside} ids of padding"
        return _Wrong(f"{where}, and the answer is generated behind those", one_by_one)
    if family.vocabulary is None or family.append is None:
        return None
    pads = [one for one in prompt.given if one >= (family.vocabulary or 0)]
    if pads:
        return _Wrong(
            f"{len(pads)} ids of padding ({pads[0]}) stand in it that no attention mask hides, and are read as text",
            f"{one_by_one}\nand hand the attention mask on: `model.predict_action(**inputs, ...)`.",
        )
    return None


LEFT = 'processor.tokenizer.padding_side = "left"'


def _begins(prompt: PromptIds, family: _Family) -> _Wrong | None:
    if family.bos is None:
        return None
    count = prompt.given.count(family.bos)
    if count > 1:
        return _Wrong(
            f"the beginning-of-text id ({family.bos}) stands in it {count} times",
            "The tokenizer puts it in front by itself: do not write `<s>` into the prompt and do not join it on.\n"
            f"{AS_IT_IS}",
        )
    if prompt.given[0] != family.bos:
        return _Wrong(
            f"the beginning-of-text id ({family.bos}) is missing in front",
            f"Leave out `add_special_tokens=False`, and do not cut the first id off. {AS_IT_IS}",
        )
    return None


def _differs(prompt: PromptIds, family: _Family) -> _Wrong | None:
    """Compare with the checkpoint's tokenizer, where the text is the one that it was asked to encode."""
    if family.expected is None or prompt.text != family.text:
        return None
    seen, right = (_bare(ids, family) for ids in (prompt.given, family.expected))
    if seen == right:
        return None
    if len(seen) < len(right) and (seen == right[: len(seen)] or seen[1:] == right[len(right) - len(seen) + 1 :]):
        end = "the end" if seen == right[: len(seen)] else "the beginning"
        return _Wrong(
            f"it was cut to {len(prompt.given)} ids: of {len(right)}, {end} is missing",
            f"Take out `truncation` and `max_length`, or raise the limit above the longest prompt. {AS_IT_IS}",
        )
    if len(seen) > len(right) and seen[: len(right)] == right:
        extra = seen[len(right) :]
        return _Wrong(
            f"{len(extra)} ids ({', '.join(map(str, extra[:4]))}) stand behind it that are no part of it", AS_IT_IS
        )
    return _Wrong(
        "its ids are not those that the checkpoint's own tokenizer makes of this text",
        "Load the tokenizer from the checkpoint's own folder:\n```python\n"
        "processor = AutoProcessor.from_pretrained(path, trust_remote_code=True)\n```",
    )


def _bare(ids: tuple[int, ...], family: _Family) -> tuple[int, ...]:
    return ids[:-1] if ids and ids[-1] == family.append else ids


def _ends(prompt: PromptIds, family: _Family) -> _Wrong | None:
    final = prompt.final
    if family.append is None or final is None:
        return None
    count = next((place for place, one in enumerate(reversed(final)) if one != family.append), len(final))
    if count == 1:
        return None
    append = (
        f"```python\nif input_ids[0, -1] != {family.append}:\n    more = torch.tensor([[{family.append}]], "
        "device=input_ids.device)\n    input_ids = torch.cat([input_ids, more], dim=1)\n```"
    )
    if not count:
        return _Wrong(
            f"the id {family.append}, behind which every answer of training begins, is missing at its end",
            f"`predict_action` puts it there; where you call `generate` yourself, do so too:\n{append}",
        )
    return _Wrong(
        f"the id {family.append} stands {count} times at its end, where training had it once",
        f"Append it only where it is not there:\n{append}",
    )


def _problem(first: PromptIds, about: _Wrong, wrong: list[PromptIds], family: _Family, queries: int) -> Problem:
    steps = sorted(step for one in wrong for step in one.steps)
    evidence: dict[str, Any] = {
        "ids": list(first.final or first.given)[:LISTED],
        "queries_with_it": f"{len(steps)} of {queries}",
    }
    if family.expected is not None and first.text == family.text:
        ended = () if family.append is None or first.final is None else (family.append,)
        evidence["expected_ids"] = [*_bare(family.expected, family), *ended][:LISTED]
    if any(first.padding):
        evidence["masked_ids"] = dict(zip(("in front", "inside", "behind"), first.padding, strict=True))
    return Problem(
        message=f"The prompt's token ids are not those of training: {about.what}. Its text shows nothing of it.",
        remedy=about.remedy,
        severity=Severity.FIX,
        first_step=steps[0],
        last_step=steps[-1],
        evidence=evidence,
    )


def _processing(**options: Any) -> Callable[[Loop], None]:
    """Have the processor called with further arguments."""

    def apply(loop: Loop) -> None:
        base = type(loop.policy.processor)

        class Configured(base):  # type: ignore[misc, valid-type]
            def __call__(self, *args: Any, **kwargs: Any) -> Any:
                return base.__call__(self, *args, **{**kwargs, **options})

        loop.policy.processor = copy.copy(loop.policy.processor)
        loop.policy.processor.__class__ = Configured

    return apply


def _second_bos(loop: Loop) -> None:
    """The code puts an id in front that the tokenizer has put there already."""
    import torch

    def prepare(inputs: Any) -> Any:
        first = torch.full_like(inputs["input_ids"][:, :1], loop.policy.model.config.text_config.bos_token_id)
        inputs["input_ids"] = torch.cat([first, inputs["input_ids"]], dim=1)
        inputs["attention_mask"] = torch.cat([torch.ones_like(first), inputs["attention_mask"]], dim=1)
        return inputs

    loop.policy.prepare_inputs = prepare


def _no_special_ids(loop: Loop) -> None:
    """The prompt is encoded apart from the image, without special ids, as a text to be continued would be."""
    tokenizer = loop.policy.processor.tokenizer

    def prepare(inputs: Any) -> Any:
        text = tokenizer.decode(inputs["input_ids"][0], skip_special_tokens=True)
        encoded = tokenizer(text, add_special_tokens=False, return_tensors="pt").to(inputs["input_ids"].device)
        return {**inputs, "input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}

    loop.policy.prepare_inputs = prepare


def _own_generate(loop: Loop) -> None:
    """Generating and decoding by hand, as in scripts that want the ids; 29871 is forgotten."""
    import numpy as np

    model = loop.policy.model

    def predict_action(input_ids: Any, unnorm_key: str | None = None, **kwargs: Any) -> np.ndarray:
        stats = model.get_action_stats(unnorm_key)
        size = len(stats["q01"])
        ids = model.generate(input_ids, max_new_tokens=size, **kwargs)[0, -size:].cpu().numpy()
        normalised = model.bin_centers[np.clip(model.vocab_size - ids - 1, 0, len(model.bin_centers) - 1)]
        low, high, mask = (np.asarray(stats[name]) for name in ("q01", "q99", "mask"))
        return np.where(mask, 0.5 * (normalised + 1) * (high - low) + low, normalised)

    model.predict_action = predict_action


def judge_source(facts: SourceFacts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Where the loop generates ids itself, look whether it appends what `predict_action` would."""
    wanted = facts.profile.get("prompt.append_id")
    decode = facts.decode.value
    if wanted is None or decode is None or decode.appended is None or not decode.pairs or not facts.prompt.known:
        yield Abstention("the loop leaves the prompt's ids to the model, or they were not followed")
        return
    spaced = all(one.value.text.endswith(" ") and not one.value.text.endswith("  ") for one in facts.prompt.seen)
    if wanted in decode.appended or -1 in decode.appended or spaced:
        yield Clear(f"id {wanted} is appended")
        return
    yield Problem(
        message=f"The prompt's ids go to the model without {wanted}, which `predict_action` appends and training had: "
        "the action is generated behind a text that the model never saw.",
        remedy="Append it:\n```python\nids = torch.cat([ids, "
        f"torch.tensor([[{wanted}]], device=ids.device)], dim=1)\n```",
        severity=Severity.FIX,
        evidence={"expected": f"... {wanted}", "seen": "the prompt alone"},
        place=facts.ids_at.place or facts.place,
    )


CHECK = Check(
    code="VD303",
    name="prompt-tokens",
    stage=Stage.PROCESS,
    judge=judge,
    judge_source=judge_source,
    explained_by=("VD301",),
    needs=(Stage.PROMPT,),
    faults=(
        Fault("bos-twice", "`<s>` is joined on in front of ids that begin with it already", _second_bos),
        Fault("bos-missing", "the prompt is encoded with `add_special_tokens=False`", _no_special_ids),
        Fault(
            "append-id-missing",
            "the loop calls `generate` itself, and not with the id that predict_action puts behind the prompt",
            _own_generate,
        ),
        Fault(
            "prompt-truncated",
            "the processor is called with `truncation=True, max_length=16`",
            _processing(truncation=True, max_length=16),
        ),
        Fault(
            "padded-right",
            'the processor is called with `padding="max_length"`, and the tokenizer pads behind',
            _processing(padding="max_length", max_length=40),
            reports=("NVlabs/vla0#18",),
        ),
    ),
)
