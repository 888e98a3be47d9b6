"""Episodes do not begin in the states that they are counted under.

## What it looks at

In each episode: whether an init state was set after the last reset, and whether the simulator really was in it before
the first step. Over the run: how many different states the episodes of a task began in.

## Why it is bad

LIBERO's benchmark is fifty fixed states for each task. Set before the reset they are wiped by it, without a word, and
objects stand where the reset's random draw, or the same draw every time, has put them: success rates of two policies
compare scenes instead of policies. Fifty episodes that all begin in one state are one episode, counted fifty times, if
the policy is greedy.

## Evidence

`seen` says which call came last. Values are compared with the simulator's time, positions and velocities to 1e-6.
Severity: fix where a state was set and is not in force, where none was set although the published evaluation sets
them, and where four or more episodes of a task began in one and the same state; look where there are fewer than half
as many states as episodes, and for tasks that are not the suite's own. Where the run file itself lists a state several
times, nothing is said.

## Fix

```python
env.reset()
obs = env.set_init_state(init_states[episode])      # after the reset, another one for each episode
```

## Known gaps

Environments other than LIBERO set their states in ways that are not known here: nothing is said of them. Of
environments in other processes only what was set is seen, not whether it is in force. Which of the suite's states it
was is not compared with a published order.

## References

- capgym/cap-x#23: reset after set_init_state: all fifty states unused, the scene always the same.
- open-edge-platform/physical-ai-studio#836: the state set before the reset, and its number stuck at 0.
- open-edge-platform/physical-ai-studio#826: reset and state the wrong way round, objects fallen over.
- huggingface/lerobot#2899: only as many states as environments in a batch were ever evaluated.
- huggingface/lerobot#4152: which states are used depends on when the policy ends its episodes.
- Source: Lifelong-Robot-Learning/LIBERO@8f1084e libero/libero/envs/env_wrapper.py:136-145.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vladoctor.check import Abstention, Check, Clear, Fault, Problem, Severity, Stage, Verdict
from vladoctor.facts.protocol import SAME_STATE, Beginning, beginning, own_loop, suite_of, task_key
from vladoctor.lint.judging import unseen

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.lint.facts import SourceFacts
    from vladoctor.loop import Loop

ORDER = (
    "Reset first, then set the state, and ask the policy only after that:\n```python\nenv.reset()\n"
    "obs = env.set_init_state(init_states[episode])\n```"
)


def judge(facts: Facts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Look at whether the state that was set is the one in which the episode began."""
    begun = beginning(facts.episode)
    if begun is None or not begun.seen:
        yield Abstention("the recording does not show how the episode began")
    elif begun.wiped:
        yield Problem(
            message="The init state was set before the reset, which throws it away: the episode begins where the "
            "reset's random placement has put things.",
            remedy=ORDER,
            severity=Severity.FIX,
            first_step=-len(begun.settled),
            evidence={"expected": "reset, set_init_state", "seen": "set_init_state, reset"},
        )
    elif begun.in_force is False:
        yield _not_in_force(begun)
    elif begun.set_state is not None:
        measured = ", and the simulator was in it" if begun.in_force else ""
        yield Clear(f"an init state was set after the reset{measured}")
    else:
        yield from _never_set(facts, begun)


def _not_in_force(begun: Beginning) -> Problem:
    assert begun.set_state is not None
    assert begun.state is not None
    apart = np.abs(begun.set_state - begun.state)
    return Problem(
        message=f"An init state was set, and before the first step the simulator is in another one (by up to "
        f"{apart.max():.3g} in {int((apart > SAME_STATE).sum())} of {apart.size} values).",
        remedy="Look at what is done between set_init_state and the first step: a second reset inside of a wrapper, "
        f"objects placed anew. {ORDER}",
        severity=Severity.FIX,
        first_step=-len(begun.settled),
        evidence={
            "expected": "the state that was set",
            "seen": "another state",
            "largest_difference": float(apart.max()),
        },
    )


def _never_set(facts: Facts, begun: Beginning) -> Iterator[Verdict]:
    episode = facts.episode
    if not suite_of(episode).startswith("libero") or facts.profile.get("loop.init_states") is not True:
        yield Abstention("no init state was set, and none is called for")
        return
    number = None if own_loop(episode) else episode.task.get("init_state")
    if number is not None:
        yield Clear(f"the simulator was in the suite's init state {number}")
        return
    own = episode.task.get("task_id") is None
    yield Problem(
        message="No init state was set: the episode begins where the reset's random placement has put things. The "
        "published evaluation of this checkpoint uses the suite's fixed states.",
        remedy=ORDER + "\nThey come from `task_suite.get_task_init_states(task_id)`.",
        severity=Severity.LOOK if own else Severity.FIX,
        first_step=-len(begun.settled),
        evidence={"expected": "reset, set_init_state", "seen": "reset"},
    )


def judge_run(runs: Sequence[Facts], limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Count the states in which the episodes of each task began."""
    tasks: dict[tuple[str, str], list[tuple[Facts, np.ndarray]]] = {}
    for facts in runs:
        begun = beginning(facts.episode)
        # What an episode shows by itself is told there.
        if begun is None or begun.wiped or begun.in_force is False or begun.known_state is None:
            continue
        tasks.setdefault(task_key(facts.episode), []).append((facts, begun.known_state))
    counted: list[str] = []
    few: list[tuple[str, int, int]] = []
    for key, found in tasks.items():
        if len(found) < limits["episodes"] or _asked_for(found):
            continue
        states = len(_distinct([state for _, state in found]))
        name = found[0][0].episode.task.get("language") or key[1]
        counted.append(f"{states} states in {len(found)} episodes of {name!r}")
        if states < limits["share"] * len(found):
            few.append((str(name), states, len(found)))
    for name, states, episodes in few:
        one = states == 1
        yield Problem(
            message=f"All {episodes} episodes of {name!r} began in one and the same state: for a greedy policy they "
            "are one episode, counted again and again."
            if one
            else f"The {episodes} episodes of {name!r} began in only {states} different states: they are fewer trials "
            "than they seem.",
            remedy="Set another state for every episode: `env.set_init_state(init_states[episode % "
            "len(init_states)])`. Look for a counter that is never advanced, or that every environment of a batch "
            "begins anew.",
            severity=Severity.FIX if one else Severity.LOOK,
            evidence={"expected": f"{min(episodes, 50)} states", "seen": f"{states} state{'s' if states > 1 else ''}"},
        )
    if counted and not few:
        yield Clear("; ".join(counted))


def _asked_for(found: Sequence[tuple[Facts, np.ndarray]]) -> bool:
    """Whether a run file of this project's own loop names states repeatedly."""
    if not all(own_loop(facts.episode) for facts, _ in found):
        return False
    named = [facts.episode.task.get("init_state") for facts, _ in found]
    return len(set(named)) <= len(named) / 2


def _distinct(states: Sequence[np.ndarray]) -> list[np.ndarray]:
    found: list[np.ndarray] = []
    for state in states:
        if not any(one.shape == state.shape and np.abs(one - state).max() <= SAME_STATE for one in found):
            found.append(state)
    return found


def _skipped(loop: Loop) -> None:
    def begin(init_state: np.ndarray) -> dict[str, Any]:
        obs = loop.env.reset()
        return settle(loop, obs)

    loop.begin = begin  # type: ignore[method-assign]


def _wiped(loop: Loop) -> None:
    def begin(init_state: np.ndarray) -> dict[str, Any]:
        loop.env.set_init_state(init_state)
        return settle(loop, loop.env.reset())

    loop.begin = begin  # type: ignore[method-assign]


def _stuck(loop: Loop) -> None:
    def begin(init_state: np.ndarray) -> dict[str, Any]:
        loop.env.reset()
        # The index of the state is kept in an object that each episode makes anew.
        return settle(loop, loop.env.set_init_state(loop.task.init_states[0]))

    loop.begin = begin  # type: ignore[method-assign]


def settle(loop: Loop, obs: dict[str, Any]) -> dict[str, Any]:
    """As the reference loop does it."""
    from vladoctor.adapters import libero

    return libero.settle(loop.env, obs, loop.settle_steps, loop.settle_action)


SEEN = {"missing": "reset", "wiped": "set_init_state, reset", "first": "1 state"}


def judge_source(facts: SourceFacts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Look whether the suite's initial states are set, each once, and not wiped by a reset."""
    expected = facts.profile.get("loop.init_states")
    if expected is False or (expected is None and facts.environment != "libero") or not facts.init_state.known:
        yield unseen(facts.init_state, "initial states") if expected is not False else Abstention("none are expected")
        return
    messages = {
        "missing": "No initial state is set: objects lie where the reset puts them by chance, not as in the benchmark.",
        "wiped": "The initial state is set and then a reset wipes it: objects lie where the reset puts them by chance.",
        "first": "Every episode begins in the same initial state: the episodes are no sample of the benchmark's.",
    }
    if facts.init_state.wrong(lambda value: value in messages) is None:
        yield Clear("the suite's initial states are set")
        return
    for one in facts.init_state.seen:
        yield Problem(
            message=messages[one.value],
            remedy="```python\nenv.reset()\nobs = env.set_init_state(initial_states[episode])\n```",
            severity=Severity.FIX,
            evidence={"expected": "reset, set_init_state", "seen": SEEN[one.value]},
            place=one.place,
            trail=one.trail,
        )


CHECK = Check(
    code="VD602",
    name="initial-state",
    stage=Stage.OBSERVE,
    judge=judge,
    judge_run=judge_run,
    judge_source=judge_source,
    needs=(Stage.EXECUTE,),
    thresholds={"episodes": 4, "share": 0.5},
    faults=(
        Fault("init-state-skipped", "the environment is reset, and its init states are never set", _skipped),
        Fault(
            "init-state-wiped",
            "the reset comes after set_init_state",
            _wiped,
            reports=(
                "capgym/cap-x#23",
                "open-edge-platform/physical-ai-studio#826",
                "open-edge-platform/physical-ai-studio#836",
            ),
        ),
        Fault(
            "one-init-state",
            "the number of the init state never advances",
            _stuck,
            episodes=4,
            reports=("open-edge-platform/physical-ai-studio#836", "huggingface/lerobot#2899"),
        ),
    ),
)
