"""Episodes are cut off earlier, or go on longer, than in the published evaluation.

## What it looks at

After how many policy steps episodes without success end, and how late success still counts, against the limit of the
suite in the profile, or the one that the run file asks for. And whether the environment itself refused a step.

## Why it is bad

A limit that is too short ends episodes that would have succeeded: one default for all suites cuts LIBERO-10, whose
longest demonstration has 505 steps, at 300. A longer one makes the success rate larger than anything it is compared
with (three times the steps: 5 percent points). Robosuite refuses every step after its own horizon of 1000 control
steps since the reset, which many loops catch and count as a failure.

## Evidence

`expected` and `seen` are policy steps, settle steps not counted. Of this project's own loop each episode that ended
without success tells; of another program the length that its longest failed episodes share, from two on, because a
single one may have been cut by hand, and none of less than half of the limit, which is a quick try more likely than a
mistake. Severity: fix for less than 95 % of the published limit; look for up to 5 % less (settle steps counted,
mostly) and for more than 110 %.

## Fix

libero_spatial 220, libero_object 280, libero_goal 300, libero_10 520, libero_90 400 policy steps for OpenVLA, and the
settle steps on top of them: `while t < max_steps + num_steps_wait`.

## Known gaps

Where every episode succeeds early, the limit never shows, and nothing is said. Families publish different limits: what
is compared with is the profile's (GR00T N1.6: 720 for all suites).

## References

- open-edge-platform/physical-ai-studio#485: one default for all suites, shorter than LIBERO-10's longest
  demonstration.
- 2toinf/X-VLA#26: a hard-coded number of chunks ends episodes early.
- LinqingZhong/LIBERO-plus#7: three times the published steps.
- moojink/openvla-oft#85, Lifelong-Robot-Learning/LIBERO#40: what the limit is, and "executing action in terminated
  episode".
- Source: openvla/openvla@c8f03f4 experiments/robot/libero/run_libero_eval.py:165-175,184.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vladoctor.check import Abstention, Check, Clear, Fault, Problem, Severity, Stage, Verdict
from vladoctor.disturb import never_done
from vladoctor.facts.protocol import TERMINATED, beginning, calls, own_loop, successes, suite_of, swallowed
from vladoctor.lint.judging import LONGEST_DEMONSTRATION, unseen

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.lint.facts import SourceFacts
    from vladoctor.loop import Loop
    from vladoctor.records import Episode


def judge(facts: Facts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Compare how the episode ended with the suite's limit."""
    episode = facts.episode
    refused = next((call for call in calls(episode) if TERMINATED in call.raised), None)
    if refused is not None or TERMINATED in episode.outcome.error:
        yield _refused(facts, refused.step if refused is not None else _length(episode))
        return
    expected = _limit(facts)
    if expected is None or beginning(episode) is None:
        yield Abstention(f"profile {facts.profile.name} has no limit for {suite_of(episode) or 'this environment'}")
        return
    length, late = _length(episode), successes(episode)
    if late and late[0] >= expected * limits["long"]:
        yield _longer(expected, late[0] + 1, "Success still counted")
    elif late:
        yield Clear(f"success after {late[0] + 1} policy steps, within the limit of {expected}")
    elif not _at_its_limit(episode):
        yield Abstention(f"it ended after {length} steps, not at a limit")
    elif length > expected * limits["long"]:
        yield _longer(expected, length, "The episode went on")
    elif length == expected or not own_loop(episode):
        # Of a program that is not ours the run tells: a single episode may have been cut by hand.
        if length == expected:
            yield Clear(f"it ended at the limit of {expected} policy steps")
        else:
            yield Abstention(f"it ended after {length} of {expected} steps; a single episode may have been cut by hand")
    elif length < expected:
        yield _shorter(expected, length, "The episode was cut off", limits, length - 1)
    else:
        yield Clear(f"it ended after {length} policy steps (published: {expected})")


def judge_run(runs: Sequence[Facts], limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Compare the length that the failed episodes of a foreign loop share with the suite's limit."""
    suites: dict[str, list[Facts]] = {}
    for facts in runs:
        episode = facts.episode
        if own_loop(episode) or _limit(facts) is None or beginning(episode) is None or successes(episode):
            continue
        if _at_its_limit(episode):
            suites.setdefault(suite_of(episode), []).append(facts)
    for suite, found in suites.items():
        length, count = Counter(_length(facts.episode) for facts in found).most_common(1)[0]
        expected = _limit(found[0])
        assert expected is not None
        longest = max(_length(facts.episode) for facts in found)
        if count < limits["failed"] or length >= expected or length < longest:
            continue
        if length < expected * limits["try"]:
            yield Abstention(
                f"failed episodes of {suite} end after {length} of {expected} steps: a quick try, most likely"
            )
        else:
            yield _shorter(expected, length, f"Failed episodes of {suite} are cut off", limits, 0)


def _limit(facts: Facts) -> int | None:
    """Policy steps after which an episode ends: as the run file says, else as published."""
    asked = ((facts.episode.run.get("spec") or {}).get("env") or {}).get("horizon") if own_loop(facts.episode) else None
    table: Any = facts.profile.get("loop.horizon")
    published = table.get(suite_of(facts.episode)) if isinstance(table, Mapping) else None
    found = asked or published
    return int(found) if found else None


def _length(episode: Episode) -> int:
    return sum(1 for _ in episode.policy_steps())


def _at_its_limit(episode: Episode) -> bool:
    """Whether the loop ended it, and not an exception, an interruption or a recording that breaks off."""
    ended = episode.outcome.ended == "horizon" and not episode.truncated
    return ended and not any(step.done for step in episode.steps) and not swallowed(episode)


def _shorter(expected: int, length: int, what: str, limits: Mapping[str, float], step: int) -> Problem:
    slight = length >= expected * limits["short"]
    return Problem(
        message=f"{what} after {length} policy steps without success; the limit is {expected}."
        + (
            " The difference is what settle steps take, if they are counted."
            if slight
            else " Slower successes are lost."
        ),
        remedy=f"Let episodes run for {expected} policy steps, settle steps not counted: "
        f"`while t < {expected} + num_steps_wait`.",
        severity=Severity.LOOK if slight else Severity.FIX,
        first_step=step,
        evidence={"expected": f"{expected} steps", "seen": f"{length} steps"},
    )


def _longer(expected: int, length: int, what: str) -> Problem:
    return Problem(
        message=f"{what} after {length} policy steps; the limit is {expected}. The success rate is larger than what it "
        "can be compared with.",
        remedy=f"End episodes after {expected} policy steps where the rate is compared with published ones.",
        severity=Severity.LOOK,
        first_step=expected,
        evidence={"expected": f"{expected} steps", "seen": f"{length} steps"},
    )


def _refused(facts: Facts, step: int) -> Problem:
    limit = facts.episode.task.get("environment_horizon") or facts.profile.get("environment.horizon")
    steps = f"{limit:.0f} control steps" if limit else "its own horizon"
    return Problem(
        message=f"The environment refused a step: it allows {steps} after a reset, settle steps included, and raises "
        "afterwards.",
        remedy="End the episode before that, or make the environment with a larger `horizon`. If the loop went on "
        "without a reset, reset at the start of each episode.",
        severity=Severity.FIX,
        first_step=step,
        evidence={"expected": f"at most {steps}", "seen": "executing action in terminated episode"},
    )


def _three_quarters(loop: Loop) -> None:
    # One default for all suites, and this one needs a third more.
    never_done(loop)
    loop.horizon = loop.horizon * 3 // 4


def _doubled(loop: Loop) -> None:
    never_done(loop)
    loop.horizon = loop.horizon * 2


def judge_source(facts: SourceFacts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Compare the loop's limit for each suite that it can run with the published one."""
    table = facts.profile.get("loop.horizon")
    known = table is not None or facts.environment != "libero"
    expected = table if known else LONGEST_DEMONSTRATION
    if not isinstance(expected, Mapping) or not facts.horizon.known or not facts.suites:
        yield unseen(facts.horizon, "the limit of an episode") if expected else Abstention("no limit is published")
        return
    seen = facts.horizon.value or {}
    pairs = [(suite, seen.get(suite, seen.get("")), expected.get(suite)) for suite in facts.suites]
    if any(have is not None and want and have < want * limits["source_try"] for _, have, want in pairs):
        yield Abstention(
            f"the loop ends after {min(have for _, have, _ in pairs if have is not None)} steps: a quick try"
        )
        return
    short = [(s, have, want) for s, have, want in pairs if have is not None and want and have < want * limits["short"]]
    long = [(s, have, want) for s, have, want in pairs if have and want and have > want * limits["long"]]
    if short:
        what = "published" if known else "the longest demonstration"
        # Of several suites those count that run where no option asks for another.
        certain = len(short) == len(facts.suites) or any(suite in facts.default_suites for suite, _, _ in short)
        listed = ", ".join(f"{suite} after {have} ({what}: {want})" for suite, have, want in short)
        yield Problem(
            message=f"Episodes are cut off: {listed}. Slower successes are lost.",
            remedy="Let each suite run for its own number of steps, settle steps not counted.",
            severity=Severity.FIX if certain else Severity.LOOK,
            evidence={
                "expected": _steps((s, want) for s, _, want in short),
                "seen": _steps((s, n) for s, n, _ in short),
            },
            place=facts.horizon.place,
            trail=facts.horizon.trail,
        )
    elif long and known:
        listed = ", ".join(f"{suite} after {have} (published: {want})" for suite, have, want in long)
        yield Problem(
            message=f"Episodes go on longer than published: {listed}.",
            remedy="End them at the published number of steps where the rate is compared with published ones.",
            severity=Severity.LOOK,
            evidence={"expected": _steps((s, want) for s, _, want in long), "seen": _steps((s, n) for s, n, _ in long)},
            place=facts.horizon.place,
            trail=facts.horizon.trail,
        )
    else:
        yield Clear("episodes end where they end in the published evaluation")


def _steps(pairs: Iterable[tuple[str, Any]]) -> str:
    """ "220 steps" of one suite, "libero_10 520 steps, ..." of several."""
    listed = list(pairs)
    return ", ".join(f"{steps} steps" if len(listed) == 1 else f"{suite} {steps} steps" for suite, steps in listed)


CHECK = Check(
    code="VD603",
    name="horizon",
    stage=Stage.SCORE,
    judge=judge,
    judge_run=judge_run,
    judge_source=judge_source,
    needs=(Stage.EXECUTE,),
    thresholds={"short": 0.95, "long": 1.1, "failed": 2, "try": 0.5, "source_try": 0.2},
    explained_by=("VD505", "VD604"),
    faults=(
        Fault(
            "horizon-short",
            "one limit for all suites, too short for this one, in an episode without success",
            _three_quarters,
            reports=("open-edge-platform/physical-ai-studio#485",),
        ),
        Fault(
            "horizon-long",
            "twice the published steps, in an episode without success",
            _doubled,
            reports=("LinqingZhong/LIBERO-plus#7",),
        ),
    ),
)
