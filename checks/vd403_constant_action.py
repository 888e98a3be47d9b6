r"""The policy's answer stays the same while the scene does not.

## What it looks at

The longest row of queries that were answered alike, to the last digit: one answer, or two by turns. Beside it, whether
the *ids* behind the answers changed, and by how many levels the model's image (or the camera's frame) did.

## Why it is bad

An answer that stays while the ids change was not made of them: something between the model and the loop kept it, a
cache, a queue that is not emptied, an array that is overwritten in the wrong place. The loop is open then: the arm
repeats one motion until it stands at a wall. Where the ids stay as well, the model itself says the same, because its
image does not reach it or means nothing to it.

## Evidence

`answers_alike` is the number of queries in the row, `different_ids` with how many different sets of ids they came, and
`image_change` the largest mean difference of the images from the row's first, in levels. An answer kept over other ids
is a fact, and stops the run. An answer made of the same ids over a scene that changes is a symptom, and never more than
a look: in healthy episodes of the demo's policy at most 11 queries in a row were answered alike while the arm moved
(five episodes, images 5 to 12 levels apart), but on tasks that it was not trained on, in loops as right as those, up to
139 (images up to 7 levels apart): a policy that is lost pushes on. Under a mirrored image or a wrong instruction it was
up to 111.

## Fix

Ask the model anew at every step, or for chunks, whenever the queue is empty, and keep nothing from one query to the
next:

```python
action = model.predict_action(**inputs, unnorm_key=key, do_sample=False)
env.step(to_command(np.array(action)))  # a copy: nobody else writes into it
```

## Known gaps

A scene at rest is no evidence: an answer may stay the same over it. A policy that is asked no more at all is VD505's,
an image that stays the same VD102's, and one that the model does not look at VD206's.

## References

- openvla/openvla#346: the same ids for every image.
- DelinQu/SimplerEnv-OpenVLA#32, buaa-colalab/UAV-Flow#7: the same raw action whatever the image.
- huggingface/lerobot#1024, Physical-Intelligence/openpi#232: actions that were kept from before.
- moojink/openvla-oft#145: the arm freezes in front of the object.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from vladoctor.check import Abstention, Check, Clear, Fault, Problem, Severity, Stage, Verdict
from vladoctor.facts.repeats import Run, longest_repeat

if TYPE_CHECKING:
    import numpy as np

    from vladoctor.facts import Facts
    from vladoctor.loop import Loop
    from vladoctor.records import Episode


def judge(facts: Facts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Look at the longest row of answers that are alike, then of two that take turns."""
    episode = facts.episode
    asked = [query for _, query in episode.queries()]
    answered = [query for query in asked if query.chunk or query.action is not None or query.ids]
    if not answered:
        yield Abstention("no answer of the policy was recorded", missing=bool(asked))
        return
    same, turns = longest_repeat(episode), longest_repeat(episode, 2)
    if same is not None and _kept(same, episode, limits):
        yield _kept_answer(same, len(answered))
        return
    for run in (same, turns):
        if run is not None and _repeated(run, limits):
            yield _same_answer(run, len(answered))
            return
    if len(answered) < limits["least_queries"]:
        yield Abstention(f"{len(answered)} queries are too few to tell")
    elif same is None:
        yield Clear(f"no two of {len(answered)} answers in a row are alike")
    else:
        change = "" if same.change is None else f", while the image changed by {same.change:.1f} levels"
        yield Clear(
            f"at most {len(same)} of {len(answered)} answers in a row are alike{change}",
            {"answers_alike": len(same)},
        )


def _kept(run: Run, episode: Episode, limits: Mapping[str, float]) -> bool:
    """Whether an answer stayed although the ids did not; some bins share a value, so that two sets prove nothing.

    Any stretch of the row is proof enough: an arm that has come to its end shows the model one scene and makes it say
    one thing, however long that goes on.
    """
    if len(run) < limits["least_kept"] or run.ids < limits["least_ids"]:
        return False
    within = set(run.steps)
    ids = [query.ids for step, query in episode.queries() if step in within]
    stretch = int(limits["least_ids"] / limits["least_share"])
    return any(
        len(set(ids[start : start + stretch])) >= limits["least_ids"] for start in range(max(1, len(ids) - stretch + 1))
    )


def _repeated(run: Run, limits: Mapping[str, float]) -> bool:
    return len(run) >= limits["look_queries"] and (run.change or 0.0) >= limits["look_change"]


def _evidence(run: Run, queries: int) -> dict[str, Any]:
    return {
        "answers_alike": len(run),
        "queries": queries,
        "different_ids": run.ids or "not recorded",
        "image_change": None if run.change is None else round(run.change, 2),
        "answer": [round(value, 6) for value in run.answers[0][:14]],
    }


def _kept_answer(run: Run, queries: int) -> Problem:
    return Problem(
        message=f"{len(run)} of {queries} queries in a row returned the very same action, although the model generated "
        f"{run.ids} different sets of ids for them: what was returned is not what the model said.",
        remedy="Look for what keeps an answer between the model and the loop (a cache whose key does not hold the "
        "image, `if self.action is None`, a queue that is never emptied, an array that is returned and written to "
        "again), and return what was decoded in this very call:\n```python\naction = model.predict_action(**inputs, "
        "unnorm_key=key, do_sample=False)\n```",
        severity=Severity.STOP,
        first_step=run.steps[0],
        last_step=run.steps[-1],
        evidence=_evidence(run, queries),
    )


def _same_answer(run: Run, queries: int) -> Problem:
    what = "were answered alike, to the last digit" if len(run.answers) == 1 else "got one of two answers by turns"
    return Problem(
        message=f"{len(run)} of {queries} queries in a row {what}, while the image changed by {run.change:.1f} levels: "
        "the policy does not respond to what it is shown.",
        remedy="Give the policy a black image in the place of one of these: if the answer stays the same, the image "
        "does not reach the model (VD206), or an answer is kept in between. If it changes, what the policy is shown or "
        "told means nothing to it: compare image and prompt with those of its training.",
        severity=Severity.LOOK,
        symptom=True,
        first_step=run.steps[0],
        last_step=run.steps[-1],
        evidence=_evidence(run, queries),
        frames=tuple(
            {"title": f"at step {step}", "step": step, "model": True} for step in (run.steps[0], run.steps[-1])
        ),
    )


def _keep_the_first(loop: Loop) -> None:
    """`if self.action is None`: a wrapper keeps what it was answered first; the model is asked all the same."""
    model = loop.policy.model
    original = type(model).predict_action
    kept: list[np.ndarray] = []

    def predict_action(*args: Any, **kwargs: Any) -> np.ndarray:
        action = original(model, *args, **kwargs)
        if not kept:
            kept.append(action)
        return kept[0].copy()

    model.predict_action = predict_action


def _buffer_of_one_episode(loop: Loop) -> None:
    """An answer is written into a buffer after it has been read: the buffer is renewed every 16th time only."""
    model = loop.policy.model
    original = type(model).predict_action
    buffer: list[np.ndarray] = []
    asked = 0

    def predict_action(*args: Any, **kwargs: Any) -> np.ndarray:
        nonlocal asked
        action = original(model, *args, **kwargs)
        if asked % 16 == 0:
            buffer[:] = [action]
        asked += 1
        return buffer[0].copy()

    model.predict_action = predict_action


CHECK = Check(
    code="VD403",
    name="constant-action",
    stage=Stage.DECODE,
    judge=judge,
    needs=(Stage.FORWARD,),
    thresholds={
        # Queries from which a row says something. Healthy episodes of the demo's policy (two tasks, five episodes): no
        # answer ever stayed over different ids; over the same ids at most 11 in a row.
        "least_queries": 5.0,
        "least_kept": 5.0,
        "least_ids": 4.0,
        # Different sets of ids for each answer, in some stretch of the row.
        "least_share": 0.3,
        "look_queries": 30.0,
        # Levels; a scene in which only the light of a moving arm changes a little is below.
        "look_change": 2.0,
    },
    explained_by=(
        "VD101", "VD102", "VD103", "VD104", "VD105", "VD201", "VD202", "VD203", "VD204", "VD205", "VD206", "VD301",
        "VD302", "VD303", "VD401", "VD405", "VD501", "VD502", "VD503", "VD504", "VD505", "VD602", "VD702", "VD704",
    ),
    faults=(
        Fault(
            "action-frozen",
            "a wrapper keeps the first answer (`if self.action is None`) and returns it for all queries",
            _keep_the_first,
        ),
        Fault(
            "action-buffer",
            "an answer is kept in a buffer that is renewed every 16th query only, though the model is asked at each",
            _buffer_of_one_episode,
        ),
    ),
)  # fmt: skip
