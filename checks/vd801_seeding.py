"""Seeds are set and change nothing, or do not repeat what they are said to repeat.

## What it looks at

Over the episodes of a run: the seed that the environment was given before each (`seed(n)`, `reset(seed=n)`), the state
in which it began, the actions that were executed and what the robot said of itself. Episodes of one task are compared
in pairs: same state and another seed; same seed; same state and the same actions.

## Why it is bad

With fixed init states and greedy decoding three seeds give the same episodes three times. "97.6 ± 0.0 over three seeds"
then says how often the same was counted. The other way round, an environment that begins otherwise at the same seed, or
takes another course at the same actions, cannot be used to compare two policies episode by episode, nor to find out
what went wrong.

## Evidence

`seeds` that were seen; `alike` pairs with different seeds that were the same episode, action by action; `apart` pairs
that should have been one, with the step at which they part. States are the simulator's where it tells them, else the
robot's own observation, to 1e-6.

All of it is a *look*. Seeds that were never set are told only of runs with ten or more episodes of a task.

## Fix

Report how many *different* episodes there were, and vary what counts: other init states, or sampling that is meant. For
an environment without fixed states:

```python
obs, info = env.reset(seed=1000 + episode)   # gymnasium; LIBERO: env.seed(n) before reset(), then set_init_state
```

and `env.reset()` before every `set_init_state`: without it the controller's goal is that of the episode before.

## Known gaps

Seeds of Python, numpy and torch are not seen. A policy that samples makes other episodes of the same seed, which is
VD404's to say. Environments that tell neither their state nor the robot's are not compared.

## References

- openvla/openvla#172: the seed has no effect on the evaluation; a standard deviation over seeds means nothing.
- huggingface/lerobot#4315: reset(42) twice gives two scenes.
- starVLA/starVLA#31: results that cannot be repeated from run to run.
- open-edge-platform/physical-ai-studio#826: with certain seeds objects are missing from the scene.
- Measured with robosuite 1.4.0 and mujoco 3.8.1: after reset and set_init_state the same actions give bit-identical
  states whatever the seed is; without the reset they do not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from vladoctor.check import Abstention, Check, Clear, Fault, Problem, Severity, Stage, Verdict
from vladoctor.facts import trials
from vladoctor.facts.trials import Start
from vladoctor.lint.judging import unseen

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.lint.facts import SourceFacts
    from vladoctor.loop import Loop

MOST = 60
"""Episodes of a task that are compared with each other."""


def judge_run(runs: Sequence[Facts], limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Compare the episodes of each task in pairs."""
    alike: list[tuple[Start, Start]] = []
    different = repeated = 0
    apart: list[tuple[Start, Start, int]] = []
    unset: list[list[Start]] = []
    for found in trials.by_task(runs).values():
        starts = [one for facts in found[:MOST] if (one := trials.start(facts)) is not None and one.state is not None]
        for one, two in combinations(starts, 2):
            if not trials.same(one.set_state, two.set_state):
                continue
            began_alike = trials.same(one.state, two.state)
            if one.seed is not None and two.seed is not None and one.seed != two.seed:
                if began_alike and trials.same_course(one, two):
                    alike.append((one, two))
                else:
                    different += 1
            elif one.set_state is not None or one.seed is not None:
                if not began_alike and one.seed == two.seed and one.set_state is None:
                    apart.append((one, two, 0))
                elif began_alike and (step := trials.parted(one, two)) is not None:
                    apart.append((one, two, step))
                elif began_alike:
                    repeated += 1
        if starts and all(one.seed is None and one.set_state is None for one in starts):
            unset.append(starts)
    problems = [*_without_effect(alike, different), *_apart(apart), *_unset(unset, limits)]
    yield from problems
    if problems:
        return
    if different or repeated:
        said = [f"{different} pairs of episodes with different seeds differ"] if different else []
        said += (
            [f"{repeated} pairs with the same beginning take the same course at the same actions"] if repeated else []
        )
        yield Clear("; ".join(said), {"different": different, "repeated": repeated})
    else:
        yield Abstention("no two episodes were begun alike, or with seeds of their own")


def _without_effect(alike: Sequence[tuple[Start, Start]], different: int) -> Iterator[Problem]:
    if not alike or different:
        return
    seeds = sorted({start.seed for pair in alike for start in pair if start.seed is not None})
    fixed = all(one.set_state is not None for one, _ in alike)
    why = (
        "the init state decides the scene, and the policy is greedy"
        if fixed
        else "the seed is set where nothing draws from it any more, or on another environment"
    )
    yield Problem(
        message=f"The seeds {_listed(seeds)} change nothing: {_pairs(len(alike))} with different seeds "
        f"{_were(len(alike))} the same episode, action by action; {why}. A spread over these seeds says nothing.",
        remedy="Count each init state once, and give an interval over episodes (`binomtest(k, n).proportion_ci()`) in "
        "the place of a deviation over seeds. To have other episodes, use other init states."
        if fixed
        else "Seed before the reset that it is meant for, on the environment itself:\n```python\n"
        "env.seed(n); env.reset()        # LIBERO, gym\nenv.reset(seed=n)               # gymnasium\n```",
        severity=Severity.LOOK,
        evidence={"expected": "other episodes for other seeds", "seen": f"{len(alike)} pairs alike", "seeds": seeds},
    )


def _apart(apart: Sequence[tuple[Start, Start, int]]) -> Iterator[Problem]:
    if not apart:
        return
    one, two, step = apart[0]
    begun = "the same init state" if one.set_state is not None else f"the same seed ({one.seed})"
    where = f"part at step {step}, though the same was executed until then"
    if step == 0:
        where = "differ at the first query already" if one.set_state is not None else "begin in different states"
    yield Problem(
        message=f"{_pairs(len(apart)).capitalize()} of episodes with {begun} {_are(len(apart))} not one: "
        f"{one.facts.episode.name} and {two.facts.episode.name} {where}.",
        remedy="Reset before every set_init_state, and seed before every reset, on the environment itself:\n```python\n"
        "env.seed(0)\nenv.reset()\nobs = env.set_init_state(init_states[episode])\n```",
        severity=Severity.LOOK,
        evidence={
            "expected": "the same course",
            "seen": f"{len(apart)} pairs that part, the first at step {step}",
            "apart": [[first.facts.episode.name, second.facts.episode.name, at] for first, second, at in apart[:10]],
        },
    )


def _unset(unset: Sequence[Sequence[Start]], limits: Mapping[str, float]) -> Iterator[Problem]:
    long = [starts for starts in unset if len(starts) >= limits["episodes"]]
    # A scene that is always the same needs no seed.
    drawn = [starts for starts in long if any(not trials.same(starts[0].state, one.state) for one in starts[1:])]
    if drawn:
        count = sum(map(len, drawn))
        yield Problem(
            message=f"{count} episodes began in scenes drawn at random, and the environment was never given a seed: "
            "none of them can be repeated, and another policy will be tried on others.",
            remedy="Give every episode a seed of its own, and note it:\n```python\nobs, info = env.reset(seed=1000 + "
            "episode)\n```",
            severity=Severity.LOOK,
            evidence={"expected": "a seed for every episode", "seen": "none"},
        )


def _pairs(count: int) -> str:
    return "one pair" if count == 1 else f"{count} pairs"


def _were(count: int) -> str:
    return "was" if count == 1 else "were"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _listed(seeds: Sequence[Any]) -> str:
    return ", ".join(map(str, seeds[:6])) + (f" and {len(seeds) - 6} more" if len(seeds) > 6 else "")


def _grid(loop: Loop, reset: bool = True, seeds: tuple[int, ...] = (7, 8)) -> None:
    """Every init state with each of the seeds, one after the other; an evaluation over seeds in one run."""
    from vladoctor.adapters import libero

    episodes = 0

    def begin(init_state: np.ndarray) -> dict[str, Any]:
        nonlocal episodes
        number, seed = divmod(episodes, len(seeds))
        episodes += 1
        loop.env.seed(seeds[seed])
        if reset or episodes == 1:
            loop.env.reset()
        obs = loop.env.set_init_state(loop.task.init_states[30 + number])
        return libero.settle(loop.env, obs, loop.settle_steps, loop.settle_action)

    loop.begin = begin  # type: ignore[method-assign]


def judge_source(facts: SourceFacts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Look whether the environment is seeded where the published evaluation seeds it."""
    expected = facts.profile.get("loop.environment_seed")
    if expected is None or not facts.environment_seed.known:
        yield unseen(facts.environment_seed, "the environment's seed")
        return
    if facts.environment_seed.wrong(lambda value: value is None) is None or facts.environment_seed.value is not None:
        yield Clear("the environment is seeded")
        return
    yield Problem(
        message=f"The environment is not seeded; the published evaluation calls env.seed({expected}), which moves "
        "objects even where initial states are set.",
        remedy=f"`env.seed({expected})` after making it.",
        severity=Severity.LOOK,
        evidence={"expected": f"env.seed({expected})", "seen": "none"},
        place=facts.environment_seed.place,
    )


CHECK = Check(
    code="VD801",
    name="seeding",
    stage=Stage.SCORE,
    judge_run=judge_run,
    judge_source=judge_source,
    # Episodes of a task from which a missing seed is told: fewer are a try. Not a measurement.
    thresholds={"episodes": 10},
    explained_by=("VD404", "VD602", "VD604"),
    faults=(
        Fault(
            "seed-ignored",
            "every init state is evaluated with two seeds, which change nothing",
            _grid,
            episodes=2,
            reports=("openvla/openvla#172",),
        ),
        Fault(
            "state-without-reset",
            "set_init_state without a reset before it: the same state twice, and two courses",
            lambda loop: _grid(loop, reset=False, seeds=(7, 7)),
            episodes=2,
        ),
    ),
)
