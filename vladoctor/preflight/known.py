"""What is known before a run, in the shape of the episode that it would be recorded as, so that checks can judge it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vladoctor.check import all_checks
from vladoctor.diagnosis import CheckResult, run_check
from vladoctor.facts import Facts
from vladoctor.profiles import Profile
from vladoctor.records import Episode, Outcome, Query, Step
from vladoctor.runspec import RunSpec

BOUNDARY = "preflight"
"""`Query.boundary` of the question that stands for the policy's, which was not asked."""


def episode(
    spec: RunSpec,
    *,
    run: Mapping[str, Any] | None = None,
    task: Mapping[str, Any] | None = None,
    query: Query | None = None,
    steps: Sequence[Step] | None = None,
) -> Episode:
    """An episode of which only this is known."""
    found = steps if steps is not None else [Step(0, query=query)] if query is not None else []
    suite = spec.env.suite if spec.env is not None else ""
    return Episode(
        run={"spec": spec.to_json(), **(run or {})},
        task={"suite": suite, **(task or {})},
        steps=found,
        outcome=Outcome("interrupted", False, 0),
    )


def thresholds(code: str) -> Mapping[str, float]:
    """Those that a check comes with."""
    return next(one for one in all_checks() if one.code == code).thresholds


def ask(code: str, known: Episode, profile: Profile, spec: RunSpec) -> CheckResult:
    """What a check says of it, with the run's own thresholds."""
    check = next(one for one in all_checks() if one.code == code)
    return run_check(check, Facts(known, profile), spec.checks.thresholds.get(code, {}))
