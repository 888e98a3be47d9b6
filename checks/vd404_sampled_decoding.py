r"""Ids were drawn at random where training's best id is wanted.

## What it looks at

The options of each query: `do_sample`, as an argument of the call or, where it is left out, as `generate` found it in
the model's generation config, against what the checkpoint's own evaluation does. And queries that were asked the very
same (the same ids, the same image by its thumbnail and its exact channel statistics, the same state) but answered
otherwise.

## Why it is bad

Nothing fails. The gripper is drawn as everything else is, so that it opens now and then on the way, arm motions jitter
by the spread of the model's distribution, and no run can be repeated: the same init state succeeds in one run and fails
in the next. It is also how a wrong prompt or image hides.

## Evidence

`options` are those of the call that matter. `twins` lists pairs of steps with equal questions and unequal answers, the
largest difference of their ids in bins, and the smallest lead of a best id over the second best where they differ: two
ids that are next to equally likely may change places on a GPU, by rounding alone, so such a pair counts only from
0.25 nats on: four roundings of bfloat16 at logits of 8 to 16.

## Fix

```python
action = model.predict_action(**inputs, unnorm_key=key, do_sample=False)
```

Where `do_sample` is not passed, `generation_config.json` decides; set `model.generation_config.do_sample = False` once.

## Known gaps

Equal questions are rare in an episode: where there are none, only the options speak. Policies that draw noise by design
(diffusion, flow matching) are not judged by their answers. Whether ids were drawn cannot be seen from them.

## References

- openvla/openvla@c8f03f4 experiments/robot/openvla_utils.py:127-169: `do_sample=False`.
- OpenDriveLab/UniVLA#35: the same image, two different outputs (there it was a part that had never been trained).
- OpenDriveLab/UniVLA@0ab9e9d experiments/robot/openvla_utils.py:219: a family that does sample.
- openvla/openvla#142: results that cannot be reproduced.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from vladoctor.check import Abstention, Check, Clear, Fault, Problem, Severity, Stage, Verdict
from vladoctor.facts.repeats import Twins, twins
from vladoctor.lint.judging import replaced

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.lint.facts import SourceFacts
    from vladoctor.loop import Loop
    from vladoctor.records import Query

OPTIONS = ("do_sample", "temperature", "top_k", "top_p", "num_beams", "generation_config.do_sample")
"""Options that say how ids are chosen."""

LISTED = 8


def judge(facts: Facts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Look at the options, then for equal questions with unequal answers."""
    profile = facts.profile
    expected = profile.get("tokens.do_sample")
    if expected is None:
        yield Abstention(f"profile {profile.name} does not say how ids are chosen")
        return
    queries = list(facts.episode.queries())
    known = [(step, query, drawn) for step, query in queries if (drawn := _drawn(query)) is not None]
    if not known:
        yield Abstention("the options of the queries were not recorded", missing=bool(queries))
        return
    if expected:
        yield Abstention(f"profile {profile.name} says that ids are drawn at random")
        return
    random = [(step, query) for step, query, drawn in known if drawn]
    if random:
        yield _sampled(random, len(known))
        return
    count, pairs = twins(facts.episode)
    apart = [one for one in pairs if one.margin is not None and one.margin >= limits["least_margin"]]
    if apart:
        yield _unequal(apart, count)
        return
    note = f", and {count} queries that were asked the same were answered the same" if count and not pairs else ""
    yield Clear(f"the best id was taken in all {len(known)} queries{note}", _options(known[0][1]))


def _drawn(query: Query) -> bool | None:
    """Whether ids were drawn at random; None where that was not recorded."""
    named = query.options.get("do_sample", query.options.get("generation_config.do_sample"))
    if named is None:
        return None
    # Of one candidate there is nothing to draw.
    return bool(named) and query.options.get("top_k") != 1


def _options(query: Query) -> dict[str, Any]:
    return {name: query.options[name] for name in OPTIONS if name in query.options}


def _sampled(random: list[tuple[int, Query]], queries: int) -> Problem:
    options = _options(random[0][1])
    by_config = "do_sample" not in options
    temperature = options.get("temperature")
    heat = f" at temperature {temperature:g}" if isinstance(temperature, (int, float)) else ""
    where = " because the model's generation config says so and the call does not" if by_config else ""
    return Problem(
        message=f"In {len(random)} of {queries} queries the ids were drawn at random{heat}{where}; this checkpoint's "
        "evaluation takes the best one. Actions jitter, and no run can be repeated.",
        remedy="Take the best id:\n```python\n"
        "action = model.predict_action(**inputs, unnorm_key=key, do_sample=False)\n```"
        + ("\nor, once: `model.generation_config.do_sample = False`." if by_config else ""),
        severity=Severity.FIX,
        first_step=random[0][0],
        last_step=random[-1][0],
        evidence={"expected": "do_sample=False", "seen": "do_sample=True", "options": options},
    )


def _unequal(apart: list[Twins], count: int) -> Problem:
    first = apart[0]
    return Problem(
        message=f"{len(apart)} of {count} queries that were asked exactly what one before was asked got another "
        f"answer (first at step {first.second}, against step {first.first}), although no ids are drawn at random: "
        "something in the model is.",
        remedy="Put the model into evaluation mode and hand nothing on from one query to the next:\n```python\n"
        "model.eval()\n```\nIf that changes nothing, look for weights that were not in the checkpoint and are "
        "new in every process, and for a history of earlier frames.",
        severity=Severity.LOOK,
        first_step=first.second,
        last_step=apart[-1].second,
        evidence={
            "twins": [
                {"first": one.first, "second": one.second, "bins": one.bins, "margin": one.margin}
                for one in apart[:LISTED]
            ]
        },
    )


def _sample(loop: Loop) -> None:
    loop.policy.options.update(do_sample=True, temperature=1.0)


def _leave_it_out(loop: Loop) -> None:
    """The call says nothing of sampling, and the snapshot's generation config, from the base model, does."""
    loop.policy.options.pop("do_sample", None)
    loop.policy.model.generation_config.do_sample = True


def judge_source(facts: SourceFacts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Look for sampling in the query where the family decodes greedily."""
    if facts.profile.get("tokens.do_sample") is not False or facts.family == "univla" or not facts.do_sample.known:
        yield Abstention("whether ids are sampled, or may be, is not known")
        return
    wrong = facts.do_sample.wrong(lambda value: value is True)
    if wrong is None:
        yield Clear("ids are not sampled")
        return
    yield Problem(
        message="The ids of the action are drawn at random (do_sample=True); this family takes the best one.",
        remedy="`do_sample=False`.",
        severity=Severity.FIX,
        evidence={"expected": "do_sample=False", "seen": "do_sample=True"},
        place=wrong.place,
        fix=replaced(wrong.place, "False", "take the best id: do_sample=False", safe=True),
    )


CHECK = Check(
    code="VD404",
    name="sampled-decoding",
    stage=Stage.FORWARD,
    judge=judge,
    judge_source=judge_source,
    needs=(Stage.FORWARD,),
    # Nats. At logits of 8 to 16 bfloat16 has steps of 0.0625, and the one healthy pair in 362 episodes was so far apart
    # (H200, bfloat16). Greedy runs of the demo's policy on a CPU: 285 equal questions in 3 episodes (black images), all
    # answered alike.
    thresholds={"least_margin": 0.25},
    explained_by=("VD702", "VD704"),
    faults=(
        Fault("sampled", "`do_sample=True, temperature=1.0`, as chat models are asked", _sample),
        Fault(
            "sampled-by-config",
            "`do_sample` is left out of the call, and the snapshot's generation_config.json says true",
            _leave_it_out,
        ),
    ),
)
