"""What a run is acquitted of: stage by stage, what was looked at and found right, with the numbers.

The whole loop is acquitted, and only the policy left, where nothing was found and every stage was judged in every
episode. A page without findings says no more than that nothing was found in what was looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vladoctor.check import Stage, all_checks
from vladoctor.facts.coverage import UNSEEN
from vladoctor.report import seen

if TYPE_CHECKING:
    from vladoctor.diagnosis import CheckResult
    from vladoctor.result import RunResult

ACQUITTED = "the loop is as this checkpoint expects; what is left is the policy"

RIGHT, PARTLY, UNJUDGED, HIDDEN, BROKEN, FOLLOWS = "right", "partly", "unjudged", "unseen", "broken", "follows"
"""Of a stage: found right in every episode, in some, judged by no check, not even seen, with a root cause, or with what
follows from one."""


@dataclass(frozen=True)
class Looked:
    """A check that found what it looked at right.

    Attributes:
        episodes: in how many; None for what the run shows as a whole.
        said: in words with numbers, of the first of these episodes; numbers: the same as data.
    """

    code: str
    name: str
    episodes: int | None
    said: str
    numbers: Mapping[str, Any]


@dataclass(frozen=True)
class StageView:
    """A stage, and what came of it over all episodes.

    Attributes:
        state: one of the names above.
        codes: of the checks that say so.
        looked: what was found right, also where something else was found wrong.
        judged: in how many episodes any check found something right.
    """

    stage: Stage
    state: str
    codes: tuple[str, ...]
    looked: tuple[Looked, ...]
    judged: int


def stages(result: RunResult) -> list[StageView]:
    """The stages in causal order."""
    stage_of = {check.code: check.stage for check in all_checks()}
    roots = [finding for finding in result.findings if not finding.explained_by and not finding.about_evidence]
    consequences = [finding for finding in result.findings if finding.explained_by]
    # A check may pass on what it found elsewhere: the model's images for want of frames, say.
    hidden = {one.stage for one in seen.of_run(result.diagnoses) if one.state == UNSEEN}
    right = _right(result)
    found = []
    for stage in Stage:
        here = tuple(one for one in right if stage_of.get(one.code) is stage)
        codes = [one.code for one in here]
        judged = sum(
            any(check.state == "passed" and check.judged and stage_of.get(check.code) is stage for check in one.results)
            for one in result.diagnoses
        )
        over_run = any(one.episodes is None for one in here)
        state = RIGHT if here and (over_run or judged == len(result.diagnoses)) else PARTLY if here else UNJUDGED
        state = HIDDEN if stage.value in hidden else state
        for kind, findings in ((FOLLOWS, consequences), (BROKEN, roots)):
            of_stage = {finding.code for finding in findings if finding.stage is stage}
            if of_stage:
                state, codes = kind, sorted(of_stage)
        found.append(StageView(stage, state, tuple(codes), here, judged))
    return found


def acquitted(result: RunResult, found: Sequence[StageView]) -> bool:
    """Whether what is left is the policy."""
    clean = not any(result.findings) and not result.accepted and not result.failed and not result.incomplete
    return clean and bool(result.diagnoses) and all(one.state == RIGHT for one in found)


def lacking(result: RunResult, found: Sequence[StageView]) -> str:
    """Which stages stand in the way of an acquittal: "judged by no check: process, forward", or ""."""
    total = len(result.diagnoses)
    kinds = {UNJUDGED: "judged by no check", HIDDEN: "not seen"}
    parts = [
        f"{said}: {', '.join(one.stage.value for one in found if one.state == state)}"
        for state, said in kinds.items()
        if any(one.state == state for one in found)
    ]
    some = [f"{one.stage.value} ({one.judged} of {total})" for one in found if one.state == PARTLY]
    return "; ".join([*parts, *([f"judged in some episodes only: {', '.join(some)}"] if some else [])])


def _right(result: RunResult) -> list[Looked]:
    passed: dict[str, list[CheckResult]] = {}
    for diagnosis in result.diagnoses:
        for check in diagnosis.results:
            if check.state == "passed" and check.judged:
                passed.setdefault(check.code, []).append(check)
    listed = [_looked(checks[0], len(checks)) for _, checks in sorted(passed.items())]
    overall = [check for check in result.overall.results if check.state == "passed" and check.judged]
    return listed + [_looked(check, None) for check in overall]


def _looked(check: CheckResult, episodes: int | None) -> Looked:
    said = "; ".join(dict.fromkeys(clear.message for clear in check.clears))
    numbers: dict[str, Any] = {}
    for clear in check.clears:
        numbers.update(clear.evidence)
    return Looked(check.code, check.name, episodes, said, numbers)


def to_json(result: RunResult) -> dict[str, Any]:
    """As it stands in the report."""
    found = stages(result)
    return {
        "acquitted": acquitted(result, found),
        "lacking": lacking(result, found) or None,
        "stages": [
            {
                "stage": one.stage.value,
                "state": one.state,
                "codes": list(one.codes),
                "right": [vars(each) for each in one.looked],
            }
            for one in found
        ],
    }
