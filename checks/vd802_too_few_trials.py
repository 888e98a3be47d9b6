"""There are too few episodes for what the success rate seems to say.

## What it looks at

The success rate over all episodes that ended by themselves, Wilson's 95 % interval, and by how much two such runs have
to differ before that is more than chance.

## Why it is bad

Of 25 episodes of a policy that succeeds in three of ten, between 4 and 10 or more will succeed: the same checkpoint
"has" 16 % one day and 40 % the next, and a change that did nothing looks like progress or harm.

## Evidence

`interval` and `difference`, in shares of 1. Every run is told its interval. A *look* comes only from runs that are long
enough to be read as a result (25 episodes or more) and still cannot tell 25 points apart; a try of a few episodes is
none, and neither is a run that always or never succeeds.

## Fix

Run more episodes (at a rate of one half, an interval of 20 points takes 93, one of 10 points 381), or compare two
policies on the same init states, pair by pair (McNemar's test).

## Known gaps

Episodes of one task are more alike than those of several: the interval counts them as independent. Episodes that repeat
one another (VD602, VD801) are counted each.

## References

- simpler-env/SimplerEnv#108: 16 to 40 % for one checkpoint with 25 trials; 75 and more are advised.
- huggingface/lerobot#2107: 7.5 % with one episode for each task.
- lovellai-dev/odyssey#61: two episodes, and the render backend under suspicion.
- moojink/openvla-oft#150: 93.2 for 97.6 % over 500 episodes each, which *is* a difference.
- huggingface/lerobot#4614: a difference shown with McNemar's test.
- Wilson, J. Am. Stat. Assoc. 22 (1927) 209.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vladoctor.check import Abstention, Check, Clear, Fault, Problem, Severity, Stage, Verdict
from vladoctor.facts import trials

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.loop import Loop
    from vladoctor.runspec import RunSpec


def judge_run(runs: Sequence[Facts], limits: Mapping[str, float]) -> Iterator[Verdict]:
    """The success rate and what it can tell."""
    asked = [facts.episode for facts in runs if any(True for _ in facts.episode.queries())]
    rate = trials.success_rate(asked)
    if rate is None or not any(_tells(episode) for episode in asked):
        yield Abstention("no episode ended by itself in an environment that tells of success")
        return
    said = f"{rate.successes} of {rate.trials} episodes succeeded: {rate.low:.0%} to {rate.high:.0%}"
    evidence = {
        "interval": [round(rate.low, 4), round(rate.high, 4)],
        "difference": round(rate.difference, 4),
        "trials": rate.trials,
    }
    if rate.trials >= limits["episodes"] and 0 < rate.successes < rate.trials and rate.width > limits["width"]:
        yield Problem(
            message=f"{said} at 95 %. Two runs of so many episodes have to differ by {100 * rate.difference:.0f} "
            "points before that is more than chance.",
            remedy="Run more episodes before you compare (an interval of 20 points takes about 93, one of 10 about "
            "381), or compare on the same init states, pair by pair.",
            severity=Severity.LOOK,
            evidence={
                "expected": f"an interval of at most {100 * limits['width']:.0f} points",
                "seen": said,
                **evidence,
            },
        )
    else:
        yield Clear(f"{said}; two such runs differ from {100 * rate.difference:.0f} points on", evidence)


def _tells(episode: object) -> bool:
    """Whether anything but a time limit could have ended an episode."""
    outcome, steps = getattr(episode, "outcome", None), getattr(episode, "steps", ())
    return bool(getattr(outcome, "success", False)) or any(step.success is not None for step in steps)


def _half_of_the_scenes(loop: Loop) -> None:
    """A task that can be done in about half of the scenes: where the basket stands on the one side, and by moving."""
    inner = loop.env.env
    basket = next(name for name in inner.objects_dict if inner.parsed_problem["goal_state"][0][-1].startswith(name))
    # Of an init state: the time, then the positions, of a free body x, y, z first.
    place = 2 + inner.sim.model.get_joint_qpos_addr(inner.objects_dict[basket].joints[0])[0]
    middle = float(np.mean(loop.task.init_states[:, place]))
    begin, start = loop.begin, {"hand": np.zeros(3), "there": False}

    def hand() -> np.ndarray:
        return np.array(inner.sim.data.site_xpos[inner.robots[0].eef_site_id])

    def begun(init_state: np.ndarray) -> dict[str, Any]:
        start["there"] = False
        obs = begin(init_state)
        start.update(hand=hand(), there=bool(init_state[place] > middle))
        return obs

    loop.begin = begun  # type: ignore[method-assign]
    inner._check_success = lambda: bool(start["there"]) and float(np.linalg.norm(hand() - start["hand"])) > 0.02


def _short(spec: RunSpec) -> RunSpec:
    return spec.with_options(horizon=min((spec.env.horizon if spec.env else None) or 60, 60))


CHECK = Check(
    code="VD802",
    name="too-few-trials",
    stage=Stage.SCORE,
    judge_run=judge_run,
    # Episodes from which a run is read as a result, and the interval that it should then have. 25 episodes at 28 %
    # (SimplerEnv#108)
    # have one of 33 points; 40 healthy ones of the demo, 38 or more of them successful, one of 15.
    thresholds={"episodes": 25, "width": 0.25},
    explained_by=("VD604", "VD605"),
    faults=(
        Fault(
            "trials-25",
            "25 episodes of a task that can be done in half of its scenes, and a success rate made of them",
            _half_of_the_scenes,
            configure=_short,
            episodes=25,
            steps=10,
            reports=("simpler-env/SimplerEnv#108",),
        ),
    ),
)
