"""Something raised and the loop went on: it counts as the policy's failure, or a default action was executed.

## What it looks at

Exceptions of the policy and of `env.step` that passed through the taps and did not end the loop: what was executed
then, and how the episode ended. Episodes that this project's loop ended before its limit, without success. Steps at
which a policy that is asked at every step was not asked, and zeros were executed.

## Why it is bad

The success rate counts the software's failures as the policy's. `try: ... except Exception: break` around an episode
turns a missing dependency into 0 %, after the whole benchmark has run; zeros in an except branch turn it into an arm
that hesitates.

## Evidence

`seen` is the first exception as it was raised, `steps` those at which there was one. A query that was repeated with
success is none, nor is a reset. Severity: stop where an episode counts that ended by an exception; fix where the loop
went on with another action.

## Fix

Let exceptions through: one episode that crashes costs less than a table of wrong numbers. Where a run must survive,
count such episodes apart:

```python
except Exception:
    crashed += 1
    raise        # or: continue, with the crashed episodes out of the success rate and in the report
```

## Known gaps

An exception in code that no tap surrounds (the loop's own preprocessing) is seen only by what follows from it, and in
other programs' loops only if zeros follow. What another process raised shows as what its client raised.

## References

- lihzha/lap#3: "Caught exception: Unsupported policy type" in the log, success rate 0.
- siyuhsu/vla-cache#5: the wrong package was imported; the exception was swallowed in the loop.
- The published loop itself: openvla/openvla@c8f03f4 experiments/robot/libero/run_libero_eval.py:229-231 catches every
  exception and counts the episode as failed.
- strands-labs/robots#896: 2400 steps with unresolved action keys, status=success.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vladoctor.check import Abstention, Check, Clear, Fault, Problem, Severity, Stage, Verdict
from vladoctor.facts.protocol import TERMINATED, beginning, own_loop, policy_steps, swallowed

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.lint.facts import SourceFacts
    from vladoctor.loop import Loop
    from vladoctor.records import Episode, Outcome

LET_THROUGH = (
    "Let it through, mend its cause, and run again: take the `try`/`except Exception` around the episode (or the "
    "query) away, or count such episodes apart from the policy's failures."
)


def judge(facts: Facts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Look for exceptions behind which the loop went on."""
    episode = facts.episode
    if beginning(episode) is None:
        yield Abstention("no policy was seen in a loop")
        return
    # A step after the environment's own horizon is VD603's.
    raised = [call for call in swallowed(episode) if TERMINATED not in call.raised]
    if raised:
        yield _went_on(episode, raised)
        return
    if _ended_early(episode):
        yield _early(episode)
        return
    idle = _idle(facts)
    if idle:
        yield Problem(
            message=f"At {len(idle)} of {len(policy_steps(episode))} steps the policy was not asked, and zeros were "
            "executed: what an except branch returns, most likely.",
            remedy=LET_THROUGH,
            severity=Severity.FIX,
            first_step=idle[0],
            last_step=idle[-1],
            evidence={"expected": "a query at every step", "seen": "zeros", "steps": idle[:20]},
        )
    elif episode.outcome.ended in ("success", "horizon"):
        yield Clear("nothing that was raised was swallowed")
    else:
        yield Abstention(f"the episode ended by {episode.outcome.ended}, openly")


def _went_on(episode: Episode, raised: Sequence[Any]) -> Problem:
    first = raised[0]
    steps = sorted({call.step for call in raised})
    executed = {step.number: step.executed for step in episode.steps}
    after = [executed[step] for step in steps if executed.get(step)]
    goes_on = any(step.executed and step.number >= steps[0] for step in episode.steps) and first.name != "step"
    if goes_on or any(number > steps[0] for number in executed):
        zeros = bool(after) and all(not np.any(np.asarray(action)[:-1]) for action in after)
        what = "with zeros" if zeros else "with another action" if after else "without it"
        message = f"{_where(first.name)} raised at {_steps(steps)}, and the loop went on {what}: {_said(first.raised)}."
        severity = Severity.FIX
    else:
        message = (
            f"{_where(first.name)} raised at {_steps(steps)}, which ended the episode, and it counts as a failure of "
            f"the policy: {_said(first.raised)}."
        )
        severity = Severity.STOP
    return Problem(
        message=message,
        remedy=LET_THROUGH,
        severity=severity,
        first_step=steps[0],
        last_step=steps[-1],
        evidence={"expected": "the exception ends the run", "seen": first.raised[:300], "steps": steps[:20]},
    )


def judge_run(runs: Sequence[Facts], limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Look for episodes of a foreign loop that ended by an exception, and after which it went on."""
    found: list[Episode] = []
    for index, facts in enumerate(runs):
        episode = facts.episode
        if own_loop(episode) or episode.outcome.ended != "exception" or TERMINATED in episode.outcome.error:
            continue
        later = (other.episode for other in runs[index + 1 :])
        if any(other.run.get("process") == episode.run.get("process") for other in later):
            found.append(episode)
    if found:
        count = f"{len(found)} of {len(runs)} episodes"
        yield Problem(
            message=f"{count} ended by an exception, and the program went on with the next one: "
            f"{_said(found[0].outcome.error)}. If it counts them as failures, they are none of the policy's.",
            remedy=LET_THROUGH,
            severity=Severity.STOP,
            evidence={"expected": "0 episodes", "seen": count, "episodes": [one.name for one in found[:20]]},
        )


def _ended_early(episode: Episode) -> bool:
    limit = episode.task.get("horizon")
    quiet = episode.outcome.ended == "horizon" and not episode.truncated and not any(s.success for s in episode.steps)
    return own_loop(episode) and quiet and isinstance(limit, int) and len(policy_steps(episode)) < limit


def _early(episode: Episode) -> Problem:
    length, limit = len(policy_steps(episode)), int(episode.task["horizon"])
    return Problem(
        message=f"The episode ended after {length} of {limit} steps, neither by success nor at its limit, and counts "
        "as a failure of the policy: an exception was caught, most likely in the loop's own code.",
        remedy=LET_THROUGH,
        severity=Severity.STOP,
        first_step=max(length - 1, 0),
        evidence={"expected": f"{limit} steps or success", "seen": f"{length} steps"},
    )


def _idle(facts: Facts) -> list[int]:
    """Steps with zeros for the arm and without a query, of a policy that is asked at every other one."""
    steps = policy_steps(facts.episode)
    if facts.profile.get("action.execute") != 1 or any(step.query and step.query.chunk for step in steps):
        return []
    asked = [step for step in steps if step.query is not None]
    idle = [step.number for step in steps if step.query is None and not np.any(np.asarray(step.executed)[:-1])]
    lively = any(np.any(np.asarray(step.executed)[:-1]) for step in asked)
    return idle if lively and 0 < len(idle) < len(asked) else []


def _where(call: str) -> str:
    return "env.step" if call == "step" else f"The policy ({call})"


def _said(error: str) -> str:
    line = error.strip().split("\n", 1)[0]
    return line.rstrip(".") if len(line) <= 160 else f"{line[:157]}.."


def _steps(steps: Sequence[int]) -> str:
    return f"step {steps[0]}" if len(steps) == 1 else f"{len(steps)} steps, the first of them {steps[0]}"


def _break_once(loop: Loop, at: int = 6) -> None:
    """Have the model raise in one query, as a GPU does that somebody else fills."""
    asked = 0

    def raises(input_ids: Any, scores: Any) -> Any:
        nonlocal asked
        if input_ids.shape[-1] <= first[0]:
            asked += 1
            if asked == at + 1:
                raise RuntimeError("CUDA out of memory. Tried to allocate 260.00 MiB.")
        return scores

    # Once for each query: when its first id is drawn.
    first = [10**9]

    def prepare(inputs: Any) -> Any:
        first[0] = int(inputs["input_ids"].shape[-1]) + 1
        return inputs

    loop.policy.prepare_inputs = prepare
    loop.policy.options["logits_processor"] = [raises]


def _count_as_failure(loop: Loop) -> None:
    from vladoctor.records import Outcome

    run = loop.run_episode

    def run_episode(init_state: np.ndarray, on_step: Any = None) -> Outcome:
        steps = 0

        def count(number: int, milliseconds: float) -> None:
            nonlocal steps
            steps = number + 1
            if on_step is not None:
                on_step(number, milliseconds)

        try:
            return run(init_state, count)
        except Exception as error:  # noqa: BLE001 - the fault itself, as in the published loop
            print(f"Caught exception: {error}")
            return Outcome("horizon", False, steps)

    loop.run_episode = run_episode  # type: ignore[method-assign]


def _exception_as_failure(loop: Loop) -> None:
    _break_once(loop)
    _count_as_failure(loop)


def _own_code_as_failure(loop: Loop) -> None:
    """An exception in the loop's own preprocessing, which no tap surrounds."""
    resize, frames = loop.stages.resize, 0

    def breaks(frame: np.ndarray) -> np.ndarray:
        nonlocal frames
        frames += 1
        if frames == 7:
            raise OSError("[Errno 28] No space left on device: 'rollouts/frame.png'")
        return resize(frame)

    loop.stages.resize = breaks
    _count_as_failure(loop)


def _zeros_on_exception(loop: Loop) -> None:
    _break_once(loop)
    query = loop.stages.query

    def careful(prompt: str, picture: Any) -> np.ndarray:
        try:
            return query(prompt, picture)
        except Exception as error:  # noqa: BLE001 - the fault itself
            print(f"Error in inference: {error}")
            return np.zeros(7)

    loop.stages.query = careful


def judge_source(facts: SourceFacts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Look at what the loop does with an exception of the policy or the environment."""
    said = False
    for handler in facts.handlers:
        if handler.effect == "zeros":
            said = True
            yield Problem(
                message="When the policy raises, an action of zeros is executed in the place of its answer: a broken "
                "policy looks like one that hesitates.",
                remedy="Let it raise, or count the episode apart.",
                severity=Severity.FIX,
                evidence={"expected": "the exception ends the run", "seen": f"{handler.caught}: zeros"},
                place=handler.place,
            )
        elif handler.effect == "ignored" and handler.around == "query":
            said = True
            yield Problem(
                message="When the policy raises, the loop goes on with what it had before, an old action most likely.",
                remedy="Let it raise, or count the episode apart.",
                severity=Severity.FIX,
                evidence={"expected": "the exception ends the run", "seen": f"{handler.caught}: ignored"},
                place=handler.place,
            )
        elif handler.effect == "counted":
            said = True
            yield Problem(
                message="An exception within the episode counts as a failure of the policy.",
                remedy="Count episodes that raised apart, and report how many there were.",
                severity=Severity.LOOK,
                evidence={"expected": "the exception ends the run", "seen": f"{handler.caught}: a failure"},
                place=handler.place,
            )
    if not said:
        yield Abstention("no exception of the policy or the environment is swallowed, as far as was seen")


CHECK = Check(
    code="VD604",
    name="swallowed-exception",
    stage=Stage.FORWARD,
    judge=judge,
    judge_run=judge_run,
    judge_source=judge_source,
    needs=(Stage.EXECUTE,),
    faults=(
        Fault(
            "exception-as-failure",
            "a query raises, and the loop prints it and counts the episode as failed",
            _exception_as_failure,
            reports=("lihzha/lap#3",),
        ),
        Fault(
            "own-exception-as-failure",
            "the loop's own code raises, and the episode counts as failed",
            _own_code_as_failure,
            reports=("siyuhsu/vla-cache#5",),
        ),
        Fault("zeros-on-exception", "an except branch answers with zeros when a query raises", _zeros_on_exception),
    ),
)
