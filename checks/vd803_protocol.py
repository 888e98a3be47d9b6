"""The run covers the benchmark, but not as it was published: its success rate is not to be set beside the paper's.

## What it looks at

For runs over all tasks of a suite: the episodes of each task against the number in the published evaluation. For all
runs of a suite: whether successes came after the step at which the published evaluation gives up. And whether tasks of
one run were given different numbers of episodes or different limits.

## Why it is bad

Tables compare numbers. With three times the steps an episode has time for a second and a third attempt, and five points
come from nowhere; with five episodes of each task in the place of fifty the number is a lottery; with more of the easy
tasks the mean is of those.

## Evidence

`trials` by task, the published number, `late_successes` with their steps. All of it is a *look*: it is wrong only where
the number is set beside others. Runs over some of the tasks are tries, of which nothing is said.

## Fix

```python
num_trials_per_task = 50
max_steps = {"libero_spatial": 220, "libero_object": 280, "libero_goal": 300, "libero_10": 520, "libero_90": 400}[suite]
```

or say beside the number what was different.

## Known gaps

Knows the protocol that stands in the profile (`loop.trials`, `loop.horizon`); several are in use for LIBERO alone. Runs
that are spread over several processes or folders are seen one by one. Settle steps are VD601's, init states VD602's,
limits that are too short VD603's.

## References

- LinqingZhong/LIBERO-plus#7: three times the steps, five points more.
- moojink/openvla-oft#85: limits of several papers that cannot be compared.
- RLinf/RLinf#656: the same weights, 60 and 22 % in two harnesses; horizon, chunk and seeds differ.
- simpler-env/SimplerEnv#10: a mean over tasks without episodes.
- huggingface/lerobot#2107: 7.5 % with one episode for each task.
- Protocol: openvla/openvla@c8f03f4 experiments/robot/libero/run_libero_eval.py:55-82,165-175.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from vladoctor.check import Abstention, Check, Clear, Fault, Problem, Severity, Stage, Verdict
from vladoctor.facts.protocol import successes, suite_of
from vladoctor.facts.trials import SUITE_TASKS
from vladoctor.lint.judging import unseen

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.lint.facts import SourceFacts
    from vladoctor.runspec import RunSpec


def judge_run(runs: Sequence[Facts], limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Compare a run over a whole suite with how it is published."""
    suites: dict[str, list[Facts]] = {}
    for facts in runs:
        if suite_of(facts.episode) in SUITE_TASKS and any(True for _ in facts.episode.queries()):
            suites.setdefault(suite_of(facts.episode), []).append(facts)
    if not suites:
        yield Abstention("no episodes of a suite whose evaluation is published")
        return
    for suite, found in suites.items():
        problems = [*_late(suite, found), *_few(suite, found)]
        yield from problems
        if not problems:
            yield _as_published(suite, found)


def _late(suite: str, found: Sequence[Facts]) -> Iterator[Problem]:
    """Successes that the published evaluation would not have waited for."""
    table = found[0].profile.get("loop.horizon")
    limit = table.get(suite) if isinstance(table, Mapping) else None
    if not limit:
        return
    firsts = {facts.episode.name: min(steps) for facts in found if (steps := successes(facts.episode))}
    late = {name: step for name, step in firsts.items() if step >= limit}
    if late:
        yield Problem(
            message=f"{len(late)} of {len(firsts)} successes in {suite} came after step {limit}, at which the "
            "published evaluation has given up: the success rate is higher than by its rules.",
            remedy=f"Count what was done by step {limit}, settle steps not counted, or say beside the number that "
            "there were more.",
            severity=Severity.LOOK,
            evidence={
                "expected": f"success within {limit} steps",
                "seen": f"{len(late)} later",
                "late_successes": dict(list(late.items())[:10]),
            },
        )


def _few(suite: str, found: Sequence[Facts]) -> Iterator[Problem]:
    """All tasks of a suite, and not as often as published, or not each as often."""
    published = found[0].profile.get("loop.trials")
    counts = _counts(found)
    if len(counts) < SUITE_TASKS[suite] or not published:
        return
    fewest, most = min(counts.values()), max(counts.values())
    if fewest >= published:
        return
    uneven = f", and not each as often ({fewest} to {most})" if fewest != most else ""
    yield Problem(
        message=f"The run covers all {len(counts)} tasks of {suite} with {fewest} episodes each{uneven} where "
        f"{published} are published: its success rate is not to be set beside the paper's without saying so.",
        remedy=f"Run {published} episodes of each task (`init_states: {{first: 0, count: {published}}}` in a run "
        "file), or give the number of episodes and the interval with the success rate.",
        severity=Severity.LOOK,
        evidence={"expected": f"{published} of each task", "seen": f"{fewest} to {most}", "trials": counts},
    )


def _as_published(suite: str, found: Sequence[Facts]) -> Verdict:
    counts, published = _counts(found), found[0].profile.get("loop.trials")
    if len(counts) < SUITE_TASKS[suite]:
        some = "1 episode" if len(found) == 1 else f"{len(found)} episodes"
        return Abstention(
            f"{some} of {len(counts)} of the {SUITE_TASKS[suite]} tasks of {suite}: a try, not its benchmark"
        )
    if not published:
        return Abstention(f"profile {found[0].profile.name} does not say how many episodes are published")
    return Clear(f"all {len(counts)} tasks of {suite} with {min(counts.values())} episodes and more, as published")


def _counts(found: Sequence[Facts]) -> dict[str, int]:
    """Task -> episodes; of the suite's own tasks, by number or name."""
    counts: dict[str, int] = {}
    for facts in found:
        task = facts.episode.task
        own = str(task.get("label") or "").startswith("task") and "-" in str(task.get("label"))
        if not own:
            key = str(task.get("name") or task.get("task_id") or task.get("language"))
            counts[key] = counts.get(key, 0) + 1
    return counts


def _one_of_each(spec: RunSpec) -> RunSpec:
    """A run file with `tasks: all` and `episodes: 1`, for a quick number."""
    env = spec.env
    assert env is not None
    return replace(spec, env=replace(env, tasks="all", episodes=1, horizon=min(env.horizon or 20, 20)))


def judge_source(facts: SourceFacts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Look whether the environment is made from the whole path of the task's file."""
    if not facts.bddl.known:
        yield unseen(facts.bddl, "the task's file")
    elif facts.bddl.value == "bare":
        yield Problem(
            message="`task.bddl_file` is a bare file name: LIBERO looks for it in the working folder, and raises.",
            remedy='`os.path.join(get_libero_path("bddl_files"), task.problem_folder, task.bddl_file)`.',
            severity=Severity.STOP,
            evidence={"seen": "task.bddl_file"},
            place=facts.bddl.place,
            trail=facts.bddl.trail,
        )
    else:
        yield Clear("the task's file is named with its folder")


CHECK = Check(
    code="VD803",
    name="protocol",
    stage=Stage.SCORE,
    judge_run=judge_run,
    judge_source=judge_source,
    explained_by=("VD603", "VD604"),
    faults=(
        Fault(
            "one-episode-a-task",
            "the run file asks for all tasks of the suite, and for one episode of each",
            configure=_one_of_each,
            steps=2,
            reports=("huggingface/lerobot#2107",),
        ),
    ),
)
