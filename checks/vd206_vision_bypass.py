"""What the policy answers does not depend on what it sees.

## What it looks at

How often the model's vision tower runs in a query, and whether the answers follow the images. Queries with the same
prompt and state are put together by their answer in every digit that was recorded: ids, and for each of them margin,
entropy and probability mass. A model that sees never gives two different frames exactly the same probabilities; if it
does, the image does not reach its answer, whatever the tower did.

- **stop**: equal to every digit over images that clearly differ; or the same ids and no run of the tower.
- **look**: the tower did not run, but that the answers ignore the image is not shown; or the tower runs once for every
  token, which costs time only.

The same ids alone, without the probabilities behind them, are no more than a symptom (VD403) and accuse nobody.

## Why it is bad

Nothing fails. From transformers 4.56 on, OpenVLA's modelling file takes an empty cache for a filled one: the prompt is
cut to its last id, the vision tower is never called, and black, white and real frames give the same seven ids. The
robot moves, always alike, success is 0 %, and the model's probabilities look as they always do.

## Evidence

`vision_calls` lists how often the tower ran, with the number of queries. `identical` is how many queries gave the same
answer to every digit, `image_change` how far apart their images are, mean over all pixels in levels of 0..255.

## Fix

For OpenVLA, use the version that its checkpoint was published with, or test the cache's length in place of its truth:

```python
assert transformers.__version__ == "4.40.1"
```

Elsewhere look for features, key-value caches or embeddings that are kept from one query to the next.

## Known gaps

Towers that are compiled, or not found, are not counted; answers are compared all the same. Probabilities are recorded
of models with an output head only, and not throughout where that would cost too much time. An episode whose images are
all alike proves nothing. A policy that uses old images now and then, to save time, gives answers that change and is not
seen here (VD105).

## References

- openvla/openvla#346: same tokens for real, black, white and noise frames; the vision tower gets 0 calls.
- openvla/openvla#348: the fix, the cache's length.
- moojink/openvla-oft#108: the loud error was patched away, and the image is no longer consumed.
- Measured with the public modelling file at full size: 1 call a query under transformers 4.40.1 to 4.53.3, 0 under
  4.56.2.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from vladoctor.check import Abstention, Check, Clear, Fault, Problem, Severity, Stage, Verdict
from vladoctor.facts.vision import Same, Vision, vision

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.loop import Loop

THRESHOLDS = {
    # Queries that have to be answered alike to every digit. In 40 healthy episodes of libero_object (4,800 queries) no
    # two of different images were.
    "min_identical": 2.0,
    # How far apart their images have to be, in levels; thumbnails of one frame through JPEG twice: 0.0, consecutive
    # frames of a moving arm: 0.3 to 2.
    "min_change": 0.5,
    # The same for ids alone, where the tower did not run.
    "min_change_ids": 1.5,
}


def judge(facts: Facts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Look for answers that do not change with the image, then for a tower that does not run."""
    found = vision(facts)
    if not found.tokens:
        yield Abstention("no query was recorded", missing=True)
        return
    blind = set(found.unseeing)
    proof = [
        one
        for one in found.same
        if one.exact and len(one.steps) >= limits["min_identical"] and one.change >= limits["min_change"]
    ]
    symptom = [
        one
        for one in found.same
        if not one.exact and one.change >= limits["min_change_ids"] and blind >= set(one.steps[1:])
    ]
    if proof or (symptom and blind):
        yield _ignored(facts, found, max(proof or symptom, key=lambda one: len(one.steps)))
    elif blind:
        yield _not_run(facts, found)
    elif _repeated(found):
        yield _many(found)
    elif found.different and found.calls:
        yield Clear(
            f"the vision tower runs {_times(found)} a query, and answers change with the image",
            {"vision_calls": _calls(found), "answers_that_changed": found.different},
        )
    elif found.different:
        yield Clear("answers change with the image", {"answers_that_changed": found.different})
    elif found.calls:
        yield Clear(
            f"the vision tower runs {_times(found)} a query; whether answers follow the image, this recording cannot "
            f"show",
            {"vision_calls": _calls(found)},
        )
    else:
        yield Abstention("neither the vision tower's runs nor the probabilities of tokens were recorded", missing=True)


def _repeated(found: Vision) -> bool:
    """Whether the tower runs anew for every generated id."""
    return bool(found.calls) and all(
        found.tokens[step] >= 2 and count >= found.tokens[step] and count > found.images[step]
        for step, count in found.calls.items()
    )


def _times(found: Vision) -> str:
    (count, _), *others = Counter(found.calls.values()).most_common()
    return f"{count} times" if count != 1 else "once" if not others else "mostly once"


def _calls(found: Vision) -> dict[str, int]:
    return {f"{count} a query": queries for count, queries in sorted(Counter(found.calls.values()).items())}


def _ignored(facts: Facts, found: Vision, same: Same) -> Problem:
    total = len(found.tokens)
    digits = ", to every digit of their probabilities" if same.exact else ""
    message = (
        f"{len(same.steps)} of {total} queries gave the same answer{digits}, over images that differ by up to "
        f"{same.change:.1f} levels on average: the policy does not see. {_tower(found)}"
    )
    return Problem(
        message=message,
        remedy=_remedy(facts, found),
        severity=Severity.STOP,
        first_step=same.steps[0],
        last_step=same.steps[-1],
        evidence={
            "expected": "answers that change with the image, and a vision tower that runs once a query",
            "seen": f"{len(same.steps)} identical answers",
            "identical": len(same.steps),
            "image_change": round(same.change, 2),
            "vision_calls": _calls(found) or "not recorded",
            "transformers": str(facts.episode.run.get("versions", {}).get("transformers", "not known")),
        },
        frames=(
            {"title": f"what the model was given at step {same.steps[0]}", "step": same.steps[0], "model": True},
            {"title": f"at step {same.furthest}, same answer", "step": same.furthest, "model": True},
        ),
    )


def _tower(found: Vision) -> str:
    ran = [step for step, count in found.calls.items() if count]
    if not found.calls:
        return "Whether its vision tower ran was not seen."
    if not ran:
        return f"Its vision tower ran 0 times in {len(found.calls)} queries."
    if len(ran) == 1:
        return (
            f"Its vision tower ran at step {ran[0]}, and never again: what it saw then is used for all other queries."
        )
    if found.unseeing:
        return f"Its vision tower ran in {len(ran)} of {len(found.calls)} queries."
    return "Its vision tower ran in each query, but what it returned was not used."


def _remedy(facts: Facts, found: Vision) -> str:
    ran = any(found.calls.values())
    if not ran and found.calls:
        version = facts.episode.run.get("versions", {}).get("transformers")
        have = f" (this is {version})" if version else ""
        return (
            f"For OpenVLA's own modelling file install transformers 4.40.1{have}; from 4.56 on an empty cache is "
            f"handed over, "
            "which it takes for a filled one. Or change in `prepare_inputs_for_generation` and `forward` the test of "
            "`past_key_values` to one of its length:\n```python\n"
            "filled = past_key_values is not None and past_key_values.get_seq_length() > 0\n```\n"
            "For other models, look where `pixel_values` is lost between the processor and the vision tower."
        )
    return (
        "Look for what is kept from one query to the next: image features or embeddings in a cache whose key does not "
        "hold the "
        "image, `past_key_values` that are passed on, an output buffer. Empty it before every query:\n```python\n"
        "action = model.predict_action(**inputs, unnorm_key=key, do_sample=False, past_key_values=None)\n```"
    )


def _not_run(facts: Facts, found: Vision) -> Problem:
    blind = found.unseeing
    changing = " The answers change all the same: " if found.different else " "
    return Problem(
        message=f"The vision tower did not run in {len(blind)} of {len(found.calls)} queries, the first at step "
        f"{blind[0]}."
        f"{changing}either its features are computed elsewhere, which may be meant, or the policy does not see.",
        remedy=_remedy(facts, found),
        severity=Severity.LOOK,
        first_step=blind[0],
        last_step=blind[-1],
        evidence={
            "expected": "one run a query",
            "seen": f"0 runs in {len(blind)} of {len(found.calls)} queries",
            "vision_calls": _calls(found),
        },
    )


def _many(found: Vision) -> Problem:
    steps = list(found.calls)
    return Problem(
        message=f"The vision tower runs {_times(found)} in a query, once for every id that is generated: the answer "
        f"is right, and "
        "most of its time is wasted.",
        remedy="Let generation keep its cache: `use_cache=True`, in the call and in `model.config` and "
        "`model.generation_config`.",
        severity=Severity.LOOK,
        first_step=steps[0],
        last_step=steps[-1],
        evidence={"expected": "one run a query", "seen": f"{_times(found)} a query", "vision_calls": _calls(found)},
    )


def _empty_cache_counts_as_filled(loop: Loop) -> None:
    """As OpenVLA's file does with transformers' empty DynamicCache: only the last id, and no image."""
    model = loop.policy.model
    original = type(model).prepare_inputs_for_generation

    def prepare_inputs_for_generation(*args: Any, **kwargs: Any) -> dict[str, Any]:
        inputs: dict[str, Any] = original(model, *args, **kwargs)
        return {**inputs, "input_ids": inputs["input_ids"][:, -1:], "pixel_values": None}

    model.prepare_inputs_for_generation = prepare_inputs_for_generation


def _image_dropped(loop: Loop) -> None:
    """The prompt arrives, the image does not: a keyword that `prepare_inputs_for_generation` does not pass on."""
    model = loop.policy.model
    original = type(model).prepare_inputs_for_generation

    def prepare_inputs_for_generation(*args: Any, **kwargs: Any) -> dict[str, Any]:
        inputs: dict[str, Any] = original(model, *args, **kwargs)
        return {**inputs, "pixel_values": None}

    model.prepare_inputs_for_generation = prepare_inputs_for_generation


def _features_cached(loop: Loop) -> None:
    """Image features are kept by prompt, which saves a third of the time and never changes within an episode."""
    import torch

    model = loop.policy.model
    features: dict[bytes, Any] = {}

    def embed(input_ids: Any, pixel_values: Any) -> Any:
        key = input_ids.cpu().numpy().tobytes()
        if key not in features:
            features[key] = model.projector(model.vision_backbone(pixel_values))
        words = model.get_input_embeddings()(input_ids)
        return torch.cat([words[:, :1], features[key].to(words.dtype), words[:, 1:]], dim=1)

    model.embed = embed


def _tower_output_kept(loop: Loop) -> None:
    """The tower writes into a buffer that is filled once, as a graph captured at the first query and never replayed."""
    tower = loop.policy.model.vision_backbone
    forward, kept = type(tower).forward, []

    def first_output(pixel_values: Any) -> Any:
        fresh = forward(tower, pixel_values)
        kept.append(fresh)
        del kept[1:]
        return kept[0]

    tower.forward = first_output


CHECK = Check(
    code="VD206",
    name="vision-bypass",
    stage=Stage.FORWARD,
    judge=judge,
    thresholds=THRESHOLDS,
    explained_by=("VD101", "VD102", "VD205"),
    faults=(
        Fault(
            "vision-dropped",
            "an empty cache counts as filled: only the last id and no image",
            _empty_cache_counts_as_filled,
            reports=("openvla/openvla#346", "openvla/openvla#348", "moojink/openvla-oft#108"),
        ),
        Fault("vision-pixels-lost", "generate loses pixel_values", _image_dropped),
        Fault("vision-cached", "image features are kept by prompt, from the first query on", _features_cached),
        Fault("vision-output-kept", "the tower runs, and its first output is used for ever", _tower_output_kept),
    ),
)
