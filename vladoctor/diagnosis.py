"""From verdicts to a diagnosis: which finding is the root cause, which follow from it, what was found right."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from vladoctor.check import Abstention, Check, Clear, Problem, Severity, Stage, Verdict
from vladoctor.places import Fix, Hop, Place

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.facts.coverage import Coverage
    from vladoctor.lint.facts import SourceFacts
    from vladoctor.records import Episode


@dataclass(frozen=True)
class Finding:
    """A problem with its identity. `explained_by` is the code of the finding it follows from, or "".

    Of the whole run (`whole_run`), and of what was read from source (`in_source`), its steps say nothing.
    """

    code: str
    name: str
    stage: Stage
    severity: Severity
    first_step: int
    last_step: int | None
    message: str
    remedy: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    frames: tuple[Mapping[str, Any], ...] = ()
    explained_by: str = ""
    symptom: bool = False
    about_evidence: bool = False
    whole_run: bool = False
    in_source: bool = False
    place: Place | None = None
    trail: tuple[Hop, ...] = ()
    fix: Fix | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "code": self.code,
            "name": self.name,
            "severity": self.severity.value,
            "stage": self.stage.value,
            "scope": "source" if self.in_source else "run" if self.whole_run else "episode",
            "first_step": self.first_step,
            "last_step": self.last_step,
            "message": self.message,
            "remedy": self.remedy,
            "explained_by": self.explained_by or None,
            "evidence": dict(self.evidence),
            "frames": [dict(frame) for frame in self.frames],
            "place": self.place.to_json() if self.place else None,
            "trail": [hop.to_json() for hop in self.trail],
            "page": f"vladoctor explain {self.code}",
        }


@dataclass(frozen=True)
class CheckResult:
    """What one check said: state is "failed", "passed", "abstained" or "crashed" (never a pass, never a finding)."""

    code: str
    name: str
    state: str
    findings: tuple[Finding, ...] = ()
    clears: tuple[Clear, ...] = ()
    abstentions: tuple[Abstention, ...] = ()
    error: str = ""
    about_evidence: bool = False

    @property
    def judged(self) -> bool:
        """Whether it says something about the loop."""
        return self.state in ("passed", "failed") and not self.about_evidence


@dataclass(frozen=True)
class Diagnosis:
    """One episode, judged.

    Attributes:
        findings: in causal order: root causes first, each followed by its consequences.
        covered: what was seen of each stage; empty where that was not looked at.
        links: how the stages hang together, a sentence each.
    """

    episode: Episode
    results: tuple[CheckResult, ...]
    findings: tuple[Finding, ...]
    covered: tuple[Coverage, ...] = ()
    links: tuple[str, ...] = ()

    @property
    def headline(self) -> Finding | None:
        return self.findings[0] if self.findings else None

    @property
    def crashed(self) -> tuple[CheckResult, ...]:
        return tuple(result for result in self.results if result.state == "crashed")

    @property
    def evidence_missing(self) -> tuple[str, ...]:
        """Why some checks could say nothing: what was not recorded."""
        reasons = [f"{r.code} {r.name}: {a.reason}" for r in self.results for a in r.abstentions if a.missing]
        if self.episode.truncated:
            reasons.insert(0, f"the recording {self.episode.damage or 'ends without its closing record'}")
        return tuple(reasons)


@dataclass(frozen=True)
class RunDiagnosis:
    """What the episodes of a run say together, and none of them alone.

    Attributes:
        results: of the checks that look at runs; empty where there was no episode.
        findings: in causal order. Those that follow from what was found in episodes stand last, with its code.
    """

    results: tuple[CheckResult, ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def headline(self) -> Finding | None:
        """The first root cause; None where everything follows from what was found in episodes."""
        return next((finding for finding in self.findings if not finding.explained_by), None)

    @property
    def crashed(self) -> tuple[CheckResult, ...]:
        return tuple(result for result in self.results if result.state == "crashed")

    @property
    def evidence_missing(self) -> tuple[str, ...]:
        """Why some checks could say nothing: what was not recorded."""
        return tuple(f"{r.code} {r.name}: {a.reason}" for r in self.results for a in r.abstentions if a.missing)


@dataclass(frozen=True)
class SourceDiagnosis:
    """One loop, judged by its source.

    Attributes:
        facts: what was read.
        findings: in causal order.
    """

    facts: SourceFacts
    results: tuple[CheckResult, ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def crashed(self) -> tuple[CheckResult, ...]:
        return tuple(result for result in self.results if result.state == "crashed")


def run_check(check: Check, facts: Facts, limits: Mapping[str, float]) -> CheckResult:
    """Run one check on an episode. An exception in it becomes the state "crashed" with its traceback."""
    return _ask(check, check.judge, facts, limits)


def _ask(
    check: Check,
    judge: Callable[[Any, Mapping[str, float]], Iterator[Verdict]] | None,
    facts: Any,
    limits: Mapping[str, float],
    *,
    whole_run: bool = False,
    in_source: bool = False,
) -> CheckResult:
    try:
        verdicts = list(judge(facts, {**check.thresholds, **limits})) if judge else []
    except Exception:  # noqa: BLE001 - a check that crashes is a state of its own, never the end of the run
        error = traceback.format_exc()
        return CheckResult(check.code, check.name, "crashed", error=error, about_evidence=check.about_evidence)
    findings = tuple(
        _finding(check, verdict, whole_run, in_source) for verdict in verdicts if isinstance(verdict, Problem)
    )
    clears = tuple(verdict for verdict in verdicts if isinstance(verdict, Clear))
    abstentions = tuple(verdict for verdict in verdicts if isinstance(verdict, Abstention))
    state = "failed" if findings else "passed" if clears else "abstained"
    return CheckResult(
        check.code, check.name, state, findings, clears, abstentions, about_evidence=check.about_evidence
    )


def diagnose(
    facts: Facts, checks: Sequence[Check], thresholds: Mapping[str, Mapping[str, float]] | None = None
) -> Diagnosis:
    """Judge one episode with the given checks; `thresholds` maps a code to overridden limits."""
    limits = thresholds or {}
    results = tuple(run_check(check, facts, limits.get(check.code, {})) for check in checks if check.judge)
    about = [
        _ask(check, check.judge_checks, results, limits.get(check.code, {})) for check in checks if check.judge_checks
    ]
    results = tuple(sorted((*results, *about), key=lambda result: result.code)) if about else results
    found = [finding for result in results for finding in result.findings]
    covered, links = _observed(facts)
    return Diagnosis(facts.episode, results, causal_order(found, checks), covered, links)


def diagnose_run(
    runs: Sequence[Facts],
    diagnoses: Sequence[Diagnosis],
    checks: Sequence[Check],
    thresholds: Mapping[str, Mapping[str, float]] | None = None,
) -> RunDiagnosis:
    """Judge a run as a whole.

    Args:
        runs: of every episode, in the order in which they ran.
        diagnoses: what was found in them: a root cause of one can explain what is found here.
    """
    if not runs:
        return RunDiagnosis()
    limits = thresholds or {}
    results = tuple(
        _ask(check, check.judge_run, runs, limits.get(check.code, {}), whole_run=True)
        for check in checks
        if check.judge_run
    )
    known = {root.code: root for one in diagnoses for root in one.findings if not root.explained_by}
    found = [finding for result in results for finding in result.findings]
    return RunDiagnosis(results, causal_order(found, checks, tuple(known.values())))


def diagnose_source(
    facts: SourceFacts, checks: Sequence[Check], thresholds: Mapping[str, Mapping[str, float]] | None = None
) -> SourceDiagnosis:
    """Judge a loop by its source with the given checks; `thresholds` maps a code to overridden limits."""
    limits = thresholds or {}
    results = tuple(
        _ask(check, check.judge_source, facts, limits.get(check.code, {}), in_source=True)
        for check in checks
        if check.judge_source
    )
    found = [finding for result in results for finding in result.findings]
    # What was read stands where it was read and has to be mended there: nothing follows from anything.
    return SourceDiagnosis(facts, results, causal_order(found, ()))


def _observed(facts: Facts) -> tuple[tuple[Coverage, ...], tuple[str, ...]]:
    # Not above: this module is imported by what starts without numpy.
    from vladoctor.facts.coverage import coverage
    from vladoctor.facts.links import summary

    try:
        return coverage(facts), tuple(summary(facts))
    except Exception:  # noqa: BLE001 - for the reader only; a check that needs the same says that it crashed
        return (), ()


def causal_order(
    findings: Sequence[Finding], checks: Sequence[Check], known: Sequence[Finding] = ()
) -> tuple[Finding, ...]:
    """Order findings by cause: by stage, mere looks behind, then symptoms, and last what is about the evidence.

    Consequences stand behind their cause. A finding is explained by the earliest root that is no symptom, is at least
    as severe, and either is named in its check's `explained_by`, or, for a symptom, is any at all. Explanations do not
    chain: the root carries all.

    Args:
        known: roots that were found elsewhere, in single episodes of a run; what follows from them stands last.
    """
    by_code = {check.code: check for check in checks}

    def rank(finding: Finding) -> tuple[bool, bool, bool, int, int, str]:
        mere_look, place = finding.severity is Severity.LOOK, (finding.stage.order, finding.first_step, finding.code)
        return finding.about_evidence, finding.symptom, mere_look, *place

    ordered = sorted(findings, key=rank)
    roots: list[Finding] = []
    consequences: list[Finding] = []
    for finding in ordered:
        causes = by_code[finding.code].explained_by if finding.code in by_code else ()
        cause = next(
            (
                root
                for root in (*known, *roots)
                if root.code != finding.code
                and not root.symptom
                and not root.about_evidence
                and root.severity.at_least(finding.severity)
                and (finding.symptom or root.code in causes)
            ),
            None,
        )
        if cause is None:
            roots.append(finding)
        else:
            consequences.append(replace(finding, explained_by=cause.code))
    # A code can have several roots (two prompts, say); its consequences stand once, behind the last of them.
    last_of = {root.code: index for index, root in enumerate(roots)}
    ordered_roots: list[Finding] = []
    for index, root in enumerate(roots):
        ordered_roots.append(root)
        if last_of[root.code] == index:
            ordered_roots.extend(c for c in consequences if c.explained_by == root.code)
    ordered_roots.extend(c for c in consequences if c.explained_by not in last_of)
    return tuple(ordered_roots)


def _finding(check: Check, problem: Problem, whole_run: bool, in_source: bool) -> Finding:
    return Finding(
        code=check.code,
        name=check.name,
        stage=problem.stage or check.stage,
        severity=problem.severity,
        first_step=problem.first_step,
        last_step=problem.last_step,
        message=problem.message,
        remedy=problem.remedy,
        evidence=problem.evidence,
        frames=problem.frames,
        symptom=check.symptom or problem.symptom,
        about_evidence=check.about_evidence,
        whole_run=whole_run,
        in_source=in_source,
        place=problem.place,
        trail=problem.trail,
        fix=problem.fix,
    )
