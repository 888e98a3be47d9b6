"""Episodes built by hand with what a loop does around the policy: calls, settle steps, success, exceptions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vladoctor.check import Abstention, Check, Clear, Problem, Verdict
from vladoctor.facts import Facts
from vladoctor.profiles import Profile, load_profile
from vladoctor.records import Episode, Outcome, Query, Step

LIBERO = load_profile("openvla-libero")
UNKNOWN = load_profile("unknown")
WAIT = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0)
STATE = [0.0, *np.linspace(-1.0, 1.0, 20).tolist()]
OTHER = [0.0, *np.linspace(-1.0, 0.9, 20).tolist()]
BEGIN: Sequence[Mapping[str, Any]] = (
    {"call": "reset"},
    {"call": "set_init_state", "state": STATE},
    {"call": "start_state", "state": STATE},
)
FOREIGN: dict[str, Any] = {"environment": "libero", "start_state": STATE}


def action(number: int) -> tuple[float, ...]:
    """Some motion of the arm."""
    return (0.1 + 0.01 * number, -0.2, 0.05, 0.0, 0.0, 0.0, -1.0)


def episode(
    steps: int = 20,
    *,
    calls: Any = BEGIN,
    settle: Sequence[tuple[float, ...]] = (WAIT,) * 10,
    executed: Mapping[int, tuple[float, ...]] | None = None,
    silent: Sequence[int] = (),
    unanswered: Sequence[int] = (),
    done: Sequence[int] = (),
    success: bool | None = None,
    outcome: Outcome | None = None,
    spec: Mapping[str, Any] | None = None,
    run: Mapping[str, Any] | None = None,
    **task: Any,
) -> Episode:
    """An episode with a query at every step.

    Args:
        calls: those before a step, by its number; a list is of the first one.
        settle: what is executed before the first query.
        executed: step -> what is executed instead.
        silent: steps without a query; unanswered: steps whose query has no action.
        done: steps after which the environment says that the task is done.
        success: what the environment says at the others.
        spec: the run file's `env`.
    """
    if "environment" not in task:
        # What this project's own loop says of itself.
        task.setdefault("horizon", steps)
    at = dict(calls) if isinstance(calls, Mapping) else {-len(settle): calls}
    rows: list[Step] = []
    for number in range(-len(settle), steps):
        query = Query("predict_action", action=None if number in unanswered else action(number))
        row = (executed or {}).get(number, settle[number] if number < 0 else action(number))
        said = False if success is None else success
        rows.append(
            Step(
                number,
                query=query if number >= 0 and number not in silent else None,
                executed=row,
                done=number in done,
                success=True if number in done else said,
                info={"vladoctor": {"calls": list(at[number])}} if number in at else {},
            )
        )
    ended = outcome or (Outcome("success", True, steps) if done else Outcome("horizon", False, steps))
    return Episode(
        {"spec": {"env": {"horizon": None, **(spec or {})}}, "process": 1, **(run or {})},
        {"suite": "libero_object", "task_id": 0, "name": "soup", "language": "pick up the soup", **task},
        rows,
        ended,
    )


def verdicts(check: Check, recorded: Episode, profile: Profile = LIBERO) -> list[Verdict]:
    """All that a check says of an episode."""
    assert check.judge is not None
    return list(check.judge(Facts(recorded, profile), dict(check.thresholds)))


def judge(check: Check, recorded: Episode, profile: Profile = LIBERO) -> Verdict:
    """The only verdict, or the first problem."""
    found = verdicts(check, recorded, profile)
    return next((one for one in found if isinstance(one, Problem)), found[0])


def problem(check: Check, recorded: Episode, profile: Profile = LIBERO) -> Problem:
    """The first problem; there has to be one."""
    found = judge(check, recorded, profile)
    assert isinstance(found, Problem), found
    return found


def only_problem(check: Check, recorded: Episode, profile: Profile = LIBERO) -> Problem:
    """The problem, where there is exactly one."""
    found = [verdict for verdict in verdicts(check, recorded, profile) if isinstance(verdict, Problem)]
    assert len(found) == 1
    return found[0]


def is_clear(check: Check, recorded: Episode, profile: Profile = LIBERO) -> bool:
    """Whether all that is said is that it is right."""
    return all(isinstance(one, Clear) for one in verdicts(check, recorded, profile))


def abstains(check: Check, recorded: Episode, profile: Profile = LIBERO) -> bool:
    """Whether nothing is said."""
    return all(isinstance(one, Abstention) for one in verdicts(check, recorded, profile))


def over_run(check: Check, recorded: Sequence[Episode], profile: Profile = LIBERO) -> list[Verdict]:
    """All that a check says of a run."""
    assert check.judge_run is not None
    return list(check.judge_run([Facts(one, profile) for one in recorded], dict(check.thresholds)))


def without_policy() -> Episode:
    """A loop in which no policy was seen."""
    return episode(silent=range(20))
