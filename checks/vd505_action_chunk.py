"""An answer is executed for too long, or its rows in another order, or an old one's.

## What it looks at

Which row of which answer every executed action is, by value, in the arm's dimensions; how many control steps lie
between two queries; and what was executed before the episode's first query. The number of steps is compared with the
profile's published evaluation. An answer can be a chunk of many rows, or a single action, which is a chunk of one.

## Why it is bad

A chunk is a plan from one frame. Executed to its end without another look it drifts (50 of 50 rows for 10 of 50: 15 to
20 percent points in LIBERO). Executed in another order, or its first row again and again, it is another motion: a
single action that is executed twice, by a frame skip or because the policy is asked now and then only, moves the arm
twice as far as was meant. And a queue that is not emptied between episodes starts the next one with the end of the last
one's plan, from where the robot no longer is.

## Evidence

`asked_every` is the median number of steps between queries, `expected` the profile's. `rows` counts which rows were
executed. Severity: fix from twice as many steps as published, and whenever rows come from the wrong place; look where
the policy is asked more often, or a little less often, than published: that may be meant. Rows are compared by value to
1e-5; nothing is said of their order unless at least 80 % of the actions are rows of some answer. A single action counts
as repeated where at least 80 % of ten or more answers are executed again, to the bit, at steps without a query; of
policies of which the profile does not say how many steps an answer is for, that is a look.

What is executed before the first query counts as a leftover if it moves the arm where the profile's settling action
does not, in an episode that is not the first of its process, for fewer steps than an answer has rows.

## Fix

```python
plan = collections.deque()                      # a new one for each episode; policy.reset() where the policy keeps it
...
if not plan:
    plan.extend(policy.infer(element)["actions"][:replan_steps])
obs, reward, done, info = env.step(plan.popleft().tolist())
```

## Known gaps

Averages over several chunks (temporal ensembles) are rows of none: nothing is said of them. A policy that keeps its
queue inside and is seen once a step looks like one that answers with single actions. A leftover shows from the second
episode of a process on.

## References

- huggingface/lerobot#4614: the default executes the whole chunk: 20 to 23 percent points less.
- huggingface/lerobot#2156, huggingface/lerobot#2114: 50 rows executed: 75 %, 10: 90 %.
- NVIDIA/Isaac-GR00T#722: only the first row of each chunk executed.
- thu-ml/RoboticsDiffusionTransformer#42: jerks between chunks of 64.
- simpler-env/SimplerEnv#10: horizon and ensemble ported from another policy, never checked.
- The client: Physical-Intelligence/openpi@15a9616 examples/libero/main.py:29,125-150.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from vladoctor.check import Abstention, Check, Clear, Fault, Problem, Severity, Stage, Verdict
from vladoctor.facts import actions as ac
from vladoctor.facts.gripper import gripper_place

if TYPE_CHECKING:
    from PIL import Image

    from vladoctor.facts import Facts
    from vladoctor.lint.facts import SourceFacts
    from vladoctor.loop import Loop


def judge(facts: Facts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Follow every executed action to the row of the answer that it is."""
    repeated = _repetition(facts, limits)
    if repeated is not None:
        yield repeated
        return
    asked = [step for step, _ in facts.episode.queries()]
    steps = [step for step in facts.episode.policy_steps() if step.executed]
    if not asked or not steps:
        yield Abstention("no query was recorded, or nothing executed after one", missing=not asked)
        return
    rows = [len(query.chunk) or 1 for _, query in facts.episode.queries() if query.chunk or query.action is not None]
    if not rows and facts.profile.get("action.chunk") != 1:
        yield Abstention("what the policy answered was not recorded, only that it was asked")
        return
    length = Counter(rows).most_common(1)[0][0] if rows else 1
    origins = _origins(facts)
    leftover = _leftover(facts, length)
    order = _order(origins, length, limits)
    if leftover is not None:
        yield leftover
    if order is not None:
        yield order
    yield from _often(facts, asked, len(steps), length, origins, limits, order is None and leftover is None)


def _repetition(facts: Facts, limits: Mapping[str, float]) -> Problem | None:
    """A single action that is executed again, to the bit, until the next query."""
    per_answer = facts.profile.get("action.execute")
    steps = [step for step in facts.episode.policy_steps() if step.executed]
    if per_answer not in (None, 1) or any(step.query is not None and step.query.chunk for step in steps):
        return None
    starts = [index for index, step in enumerate(steps) if step.query is not None]
    runs: list[int] = []
    for here, there in pairwise(starts):
        same = all(step.executed == steps[here].executed for step in steps[here:there])
        runs.append(there - here if same else 0)
    again = [run for run in runs if run > 1]
    if len(runs) < limits["answers"] or len(again) < limits["repeated"] * len(runs):
        return None
    times = sorted(again)[len(again) // 2]
    return Problem(
        message=f"Each answer of the policy is executed {times} times: its motions are {times} times as large as it "
        f"means, and it sees one frame in {times}.",
        remedy="Ask the policy at every step, and call `env.step` once for each answer. Look for a frame skip or an "
        "action repeat in a wrapper, or for a loop that asks only now and then.",
        severity=Severity.FIX if per_answer == 1 else Severity.LOOK,
        first_step=steps[starts[0]].number,
        last_step=steps[-1].number,
        evidence={"expected": "1 step for each answer", "seen": f"{times} steps for each answer"},
    )


def _origins(facts: Facts) -> list[ac.Origin]:
    size = ac.executed_size(facts.episode) or 0
    place = gripper_place(facts.profile)
    arm = [dim for dim in range(size) if dim != (size - 1 if place is None else place)]
    low, high = facts.profile.get("environment.input_range") or (-np.inf, np.inf)
    return ac.origins(facts.episode, arm, (float(low), float(high))) if arm else []


def _explained(origins: Sequence[ac.Origin], limits: Mapping[str, float]) -> bool:
    known = sum(origin.query is not None for origin in origins)
    return bool(origins) and known >= limits["explained"] * len(origins)


def _order(origins: Sequence[ac.Origin], length: int, limits: Mapping[str, float]) -> Problem | None:
    """Rows of a chunk that are executed at the wrong moment."""
    if length < 2 or not _explained(origins, limits):
        return None
    known = [origin for origin in origins if origin.query is not None]
    wrong = [one for one in known if one.query != one.latest or one.row != one.step - one.latest]
    if len(wrong) < limits["steps"] or len(wrong) < limits["share"] * len(known):
        return None
    rows = Counter(one.row for one in known)
    ahead = {one.row - (one.step - one.latest) for one in wrong if one.query == one.latest}
    old = [one for one in wrong if one.query != one.latest]
    if len(old) > len(wrong) / 2:
        what = (
            f"At {len(old)} of {len(known)} steps a row of an older answer is executed though a newer one was there: "
            "the queue is filled before it is empty"
        )
        remedy = "Ask only when the queue is empty, or clear it before it is filled."
    elif len(rows) == 1:
        (row,) = rows
        what = f"Only row {row} of {length} is executed, again and again until the policy is asked once more"
        remedy = "Take the rows one after the other: plan.extend(chunk[:n]), then plan.popleft()."
    elif len(ahead) == 1 and len(known) == len(wrong):
        (by,) = ahead
        what = f"The rows begin with row {by}: the first {by} of every answer {'is' if by == 1 else 'are'} left out"
        remedy = "The first row belongs to the frame that was just given. Start with it, unless the delay is real."
    else:
        first = next(one for one in known if one.query == known[0].query)
        seen = [one.row for one in known if one.query == first.query]
        what = f"The rows of an answer are executed in the order {', '.join(map(str, seen[:8]))}"
        remedy = "Take the rows from the front: plan.popleft() of a deque, or chunk[t - asked]; pop() takes the last."
    return Problem(
        message=f"{what}. The arm makes another motion than the one that was planned.",
        remedy=remedy,
        severity=Severity.FIX,
        first_step=wrong[0].step,
        last_step=wrong[-1].step,
        evidence={
            "expected": "rows 0, 1, 2 ... of the latest answer",
            "seen": ", ".join(str(one.row) for one in known[:12]),
            "rows": {str(row): count for row, count in sorted(rows.items())},
        },
    )


def _leftover(facts: Facts, length: int) -> Problem | None:
    """Actions before the first query that no query of this episode answered with."""
    settle = facts.profile.get("loop.settle_action")
    number = facts.episode.task.get("episode")
    if not isinstance(number, int) or number < 1 or not settle or length < 2:
        return None
    before = [step for step in facts.episode.steps if step.number < 0 and len(step.executed) == len(settle)]
    count = 0
    for step in reversed(before):
        if np.abs(np.array(step.executed) - np.array(settle, dtype=np.float64))[:-1].max() <= 1e-6:
            break
        count += 1
    if not 0 < count < length:
        return None
    return Problem(
        message=f"{count} {'action was' if count == 1 else 'actions were'} executed in this episode before the policy "
        f"was asked for the first time: what was left of the last episode's chunk of {length} rows, planned from "
        "where the robot no longer is.",
        remedy="Empty the queue at every reset: a new deque for each episode, or policy.reset() where the "
        "policy keeps it.",
        severity=Severity.FIX,
        first_step=-count,
        last_step=-1,
        evidence={"expected": "the first action answers the first frame", "seen": f"{count} actions before it"},
    )


def _often(
    facts: Facts,
    asked: Sequence[int],
    steps: int,
    length: int,
    origins: Sequence[ac.Origin],
    limits: Mapping[str, float],
    in_order: bool,
) -> Iterator[Verdict]:
    """How many control steps one answer serves for."""
    expected = facts.profile.get("action.execute")
    gaps = np.diff(np.array(asked))
    only = len(gaps) < 2
    # Of one or two queries, the longest that the loop went on without another.
    every = max([*map(int, gaps), steps - (asked[-1] - asked[0])]) if only else int(np.median(gaps))
    times = "once" if len(asked) == 1 else f"{len(asked)} times"
    seen = ("every step" if every == 1 else f"every {every} steps") if not only else f"{times} in {steps} steps"
    if expected is None:
        yield Abstention(f"profile {facts.profile.name} does not say after how many steps the policy is asked again")
        return
    expected = int(expected)
    if every == expected or (only and every <= expected):
        if in_order:
            rows = f"rows of {length} in their order" if length > 1 else "single actions"
            yield Clear(f"the policy is asked {seen}, as published; {rows}", {"asked_every": every})
        return
    if only and every < limits["often"] * expected:
        yield Abstention(f"the policy was asked {seen}: too few to tell how often")
        return
    if not _explained(origins, limits):
        yield Abstention("what was executed between two queries are no rows of their answers, so there may be others")
        return
    more = every > expected
    severity = Severity.FIX if every >= limits["often"] * expected else Severity.LOOK
    yield Problem(
        message=_message(every, expected, length, seen, origins),
        remedy=f"Execute {expected} {'row' if expected == 1 else 'rows'} of an answer and ask again"
        + (": n_action_steps, replan_steps or execution_horizon is the setting." if length > 1 else ", at every step.")
        + ("" if more else " If it is meant, set `profile: {overrides: {action.execute: " + str(every) + "}}`."),
        severity=severity,
        first_step=asked[0] + min(expected, every),
        last_step=None,
        evidence={"expected": f"asked after {expected}", "seen": f"asked {seen}", "asked_every": every, "rows": length},
    )


def _message(every: int, expected: int, length: int, seen: str, origins: Sequence[ac.Origin]) -> str:
    published = f"the published evaluation asks after {expected}"
    if length == 1:
        again = {one.row for one in origins if one.query is not None} == {0}
        kept = "each action is executed again until then" if again else "something else is executed in between"
        return f"The policy answers with one action and is asked {seen}: {kept}; {published}. It moves without looking."
    if every > expected:
        whole = "all of its" if every >= length else f"{every} of"
        return (
            f"The policy is asked {seen} and {whole} {length} rows are executed without another look; {published}. "
            "The arm goes on with a plan that no longer fits."
        )
    return f"The policy is asked {seen}; {published}. It takes more time, and plans are cut off early."


def _skip_frames(loop: Loop) -> None:
    execute = loop.execute

    def twice(action: list[float]) -> tuple[dict[str, Any], bool]:
        obs, done = execute(action)
        return (obs, done) if done else execute(action)

    loop.execute = twice  # type: ignore[method-assign]


def _repeat(loop: Loop) -> None:
    """To save time, the policy is asked at every fourth step, and its answer used until then."""
    query = loop.stages.query
    last: list[Any] = [None]
    count = 0

    def sometimes(prompt: str, image: Image.Image) -> np.ndarray:
        nonlocal count
        if count % 4 == 0:
            last[0] = query(prompt, image)
        count += 1
        return np.array(last[0])

    loop.stages.query = sometimes


def judge_source(facts: SourceFacts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Look for answers that survive their episode, and for rows executed beyond what a query answers."""
    if facts.policy_reset.known and facts.policy_reset.value is False:
        yield Problem(
            message="Nothing empties the policy's queue between episodes: an episode begins with actions that were "
            "predicted in the one before.",
            remedy="Call `policy.reset()`, or clear the plan, whenever the environment is reset.",
            severity=Severity.FIX,
            place=facts.policy_reset.place,
        )
        return
    chunk, execute = facts.chunk.value, facts.profile.get("action.execute")
    if chunk is None or chunk.executed is None:
        yield (
            Abstention("no chunk of actions was followed")
            if not facts.policy_reset.known
            else Clear("the policy's queue is emptied between episodes")
        )
        return
    rows = chunk.predicted or facts.profile.get("action.chunk")
    if rows is not None and chunk.executed > rows:
        yield Problem(
            message=f"{chunk.executed} steps are executed of an answer of {rows} rows.",
            remedy=f"Ask again after at most {rows} steps.",
            severity=Severity.FIX,
            place=facts.chunk.place,
        )
    elif execute is not None and chunk.executed < execute and chunk.executed == 1:
        yield Problem(
            message=f"Of each answer one row is executed; the published evaluation executes {execute}.",
            remedy=f"Execute {execute} rows before the policy is asked again where results are compared.",
            severity=Severity.LOOK,
            place=facts.chunk.place,
        )
    else:
        yield Clear(f"{chunk.executed} rows of each answer are executed")


CHECK = Check(
    code="VD505",
    name="action-chunk",
    stage=Stage.EXECUTE,
    judge=judge,
    judge_source=judge_source,
    needs=(Stage.EXECUTE,),
    # Not measurements: twice as many steps as published is no rounding, and a few odd rows or answers decide nothing.
    thresholds={"often": 2.0, "explained": 0.8, "steps": 3, "share": 0.2, "answers": 10, "repeated": 0.8},
    explained_by=("VD503",),
    faults=(
        Fault(
            "action-repeated",
            "the policy is asked at every fourth step and its single action repeated in between, to save time",
            _repeat,
            steps=24,
        ),
        Fault("action-repeat", "a frame skip of two: every action is executed twice", _skip_frames),
    ),
)
