"""What counts as success is not what the environment said, or says nothing about the policy.

## What it looks at

When the environment said that the task is done, against when the policy began, what was executed, whether the loop
went on afterwards, and, of this project's loop, how the episode was counted.

## Why it is bad

A success rate of 100 % for a policy that commanded nothing, because the goal holds at the reset already. A variable
that is never cleared, so that every episode behind the first success counts. A loop that looks at the last step only,
and loses the success that the arm has knocked over again; or one that goes on for hundreds of steps after it. The
number looks like any other.

## Evidence

`success_at` are the steps after which the environment said that the task is done. Severity: stop where it was done
before the first action of the policy, where an episode counts as a success that none of its steps was, or the other
way round, and where nothing was commanded in a success; fix where no action moved the arm in a failure; look where the
loop went on after success.

## Fix

```python
done = False                                  # for each episode anew
assert not env.check_success()                # before the first action
while t < max_steps and not done: ...
successes += done
```

## Known gaps

What a program that is not ours counts is not seen, only what its environment says. Whether the predicate is a good one
(a cube that only touches the gripper) is not judged. Environments that say nothing of success are VD902's.

## References

- strands-labs/robots#3633, strands-labs/robots#3639: the predicate is true at reset; success 1.0 for a policy that
  does nothing.
- strands-labs/robots#3680: an episode in which the robot was never commanded counts.
- huggingface/lerobot#470: success was read from a key that the environment no longer sets: always 0.
- simpler-env/SimplerEnv#129, MarkFzp/act-plus-plus#11: success said too early.
- Lifelong-Robot-Learning/LIBERO#40: what `done` means in LIBERO; steps after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from vladoctor.check import Abstention, Check, Clear, Fault, Problem, Severity, Stage, Verdict
from vladoctor.disturb import never_done
from vladoctor.facts.protocol import beginning, calls, own_loop, policy_steps, successes, suite_of
from vladoctor.lint.judging import unseen

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.lint.facts import SourceFacts
    from vladoctor.loop import Loop
    from vladoctor.records import Episode, Outcome

ANEW = "Clear the variable at the start of each episode, and count what the environment says in this one."


def judge(facts: Facts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Compare success with what was done for it and with how it was counted."""
    episode = facts.episode
    steps = policy_steps(episode)
    if beginning(episode) is None or not steps:
        yield Abstention("no policy was seen in a loop")
        return
    known = any(step.success is not None for step in episode.steps) or any(
        "answer" in call.facts for call in calls(episode)
    )
    done = successes(episode)
    at_start = _at_start(episode)
    idle = _idle(episode, limits)
    if at_start is not None:
        yield Problem(
            message=f"The environment says that the task is done {at_start}, before the policy can have done it: a "
            "success here says nothing about it.",
            remedy="Ask `env.check_success()` before the first action, and leave out (or mend) episodes in which it "
            "holds. Look at the goal of the task: an empty goal always holds, and one of another task's objects may.",
            severity=Severity.STOP,
            first_step=min(done[0] if done else 0, 0),
            evidence={
                "expected": "not done before the policy acts",
                "seen": f"done {at_start}",
                "success_at": done[:20],
            },
        )
    elif (
        own_loop(episode)
        and known
        and not episode.truncated
        and episode.outcome.ended in ("success", "horizon")
        and (bool(done) != episode.outcome.success)
    ):
        yield _miscounted(episode, done)
    elif idle is not None:
        yield idle
    elif done and steps[-1].number > done[0]:
        yield _went_on(episode, done)
    elif episode.truncated and not done:
        yield Abstention("the recording breaks off before the episode's end", missing=True)
    elif known:
        what = (
            f"success at step {done[0]}, where the episode ended" if done else "no step was a success, and none counts"
        )
        yield Clear(what, {"success_at": done[:20]})
    else:
        yield Abstention("the environment says nothing of success")


def _at_start(episode: Episode) -> str | None:
    if any(step.success for step in episode.steps if step.number < 0):
        return "while the scene settles"
    # Nothing is picked up and put down within one control step.
    if suite_of(episode).startswith("libero") and any(step.success for step in episode.steps if step.number == 0):
        return "after one action"
    for call in calls(episode):
        if call.step > 0:
            break
        if call.name == "check_success" and call.facts.get("answer") is True:
            return "at the reset"
    return None


def _miscounted(episode: Episode, done: list[int]) -> Problem:
    if done:
        message = (
            f"The environment said at step {done[0]} that the task is done, and the episode counts as a failure: what "
            "is said later overwrites it."
        )
        remedy = "End the episode at the first success, or keep it: `success = success or done`."
    else:
        message = (
            "The episode counts as a success, and the environment said at none of its steps that the task is done: "
            "what is counted is something else, an earlier episode's success, say, or that nothing was raised."
        )
        remedy = ANEW
    return Problem(
        message=message,
        remedy=remedy,
        severity=Severity.STOP,
        first_step=done[0] if done else 0,
        evidence={
            "expected": "success" if done else "failure",
            "seen": "failure" if done else "success",
            "success_at": done[:20],
        },
    )


def _idle(episode: Episode, limits: Mapping[str, float]) -> Problem | None:
    steps = policy_steps(episode)
    if len(steps) < limits["steps"] or any(len(step.executed) < 2 for step in steps):
        return None
    largest = max(float(np.abs(np.asarray(step.executed)[:-1]).max()) for step in steps)
    if largest > limits["nothing"]:
        return None
    return Problem(
        message=f"Nothing was commanded: in {len(steps)} steps no action moves the arm"
        + (", and the episode counts as a success." if episode.outcome.success else "."),
        remedy="Look at what becomes of the policy's answer on its way to `env.step`: an except branch, a key that is "
        "not found, a queue that stays empty.",
        severity=Severity.STOP if episode.outcome.success else Severity.FIX,
        first_step=steps[0].number,
        last_step=steps[-1].number,
        evidence={"expected": "actions", "seen": f"none larger than {largest:.2g}"},
    )


def _went_on(episode: Episode, done: list[int]) -> Verdict:
    last = policy_steps(episode)[-1].number
    lost = episode.steps[-1].success is False
    return Problem(
        message=f"The loop went on for {last - done[0]} steps after the environment had said, at step {done[0]}, that "
        "the task is done"
        + ("; at the end it is not any more, and a loop that asks then counts a failure." if lost else "."),
        remedy="End the episode at the first `done`.",
        severity=Severity.LOOK,
        first_step=done[0],
        last_step=last,
        evidence={
            "expected": f"the episode ends at step {done[0]}",
            "seen": f"it ends at step {last}",
            "success_at": done[:20],
        },
    )


def _goal_holds(loop: Loop) -> None:
    # A BDDL file whose (:goal (And)) is empty: LIBERO's predicate over no conditions is true.
    loop.env.env.parsed_problem["goal_state"] = []


def _by_completion(loop: Loop) -> None:
    from vladoctor.records import Outcome

    never_done(loop)
    run = loop.run_episode

    def run_episode(init_state: np.ndarray, on_step: Any = None) -> Outcome:
        outcome = run(init_state, on_step)
        return Outcome("success", True, outcome.steps)

    loop.run_episode = run_episode  # type: ignore[method-assign]


def _after_done(loop: Loop) -> None:
    from vladoctor.records import Outcome

    def run_episode(init_state: np.ndarray, on_step: Any = None) -> Outcome:
        obs, success = loop.begin(init_state), False
        for number in range(loop.horizon):
            obs, done = loop.execute(loop.act(obs))
            success = success or done
            if on_step is not None:
                on_step(number, 0.0)
        return Outcome("success" if success else "horizon", success, loop.horizon)

    loop.run_episode = run_episode  # type: ignore[method-assign]


def judge_source(facts: SourceFacts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Look for a count of successes that does not depend on what the environment said."""
    if not facts.success.known:
        yield unseen(facts.success, "how success is counted")
        return
    always = facts.success.value == "always"
    yield Problem(
        message="Every episode counts as a success, those that end at their limit as well."
        if always
        else "No episode can count as a success: what is asked is never set by this environment.",
        remedy="In LIBERO `done` means success: count it, and nothing else.",
        severity=Severity.STOP,
        evidence={"expected": "done", "seen": str(facts.success.value)},
        place=facts.success.place,
        trail=facts.success.trail,
    )


CHECK = Check(
    code="VD605",
    name="success-accounting",
    stage=Stage.SCORE,
    judge=judge,
    judge_source=judge_source,
    needs=(Stage.SCORE,),
    # Not a measurement: an arm that is commanded less than a thousandth of its range for half a second does nothing.
    thresholds={"steps": 10, "nothing": 1e-3},
    explained_by=("VD403", "VD501", "VD503", "VD604"),
    faults=(
        Fault(
            "success-at-start",
            "the goal holds at the reset already",
            _goal_holds,
            reports=("strands-labs/robots#3633", "strands-labs/robots#3639"),
        ),
        Fault(
            "success-by-completion",
            "an episode that fails and raises nothing counts as a success",
            _by_completion,
        ),
        Fault("stepped-after-done", "the loop goes on after success until its limit", _after_done, steps=170),
    ),
)
