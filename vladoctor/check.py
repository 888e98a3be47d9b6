"""What a check is, and how checks are found.

A check is one module of `vladoctor.checks` with a `CHECK`. Its docstring is its page: `vladoctor explain` prints it,
the HTML report links it. `judge` yields what it found, what it looked at and found right, or why it says nothing;
identity, order and time are added by `vladoctor.diagnosis`.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Any

from vladoctor.places import Fix, Hop, Place

if TYPE_CHECKING:
    from vladoctor.diagnosis import CheckResult
    from vladoctor.facts import Facts
    from vladoctor.lint.facts import SourceFacts
    from vladoctor.loop import Loop
    from vladoctor.runspec import RunSpec


class Stage(str, Enum):
    """Where in the loop; declared in causal order."""

    RENDER = "render"
    OBSERVE = "observe"
    IMAGE = "image"
    PROMPT = "prompt"
    PROCESS = "process"
    FORWARD = "forward"
    DECODE = "decode"
    UNNORMALISE = "un-normalise"
    POSTPROCESS = "post-process"
    EXECUTE = "execute"
    SCORE = "score"

    @property
    def order(self) -> int:
        return list(Stage).index(self)


class Severity(str, Enum):
    """Named by the action to take; declared from the gravest."""

    STOP = "stop"
    FIX = "fix"
    LOOK = "look"

    def at_least(self, other: Severity) -> bool:
        grades = list(Severity)
        return grades.index(self) <= grades.index(other)


@dataclass(frozen=True)
class Problem:
    """Something is wrong: what, since which step, with which evidence, and what to do about it.

    Attributes:
        message: one or two sentences: what was done, what this checkpoint expects, what follows from it.
        remedy: an instruction, with code where code is the remedy.
        first_step, last_step: step numbers counted from the first query (see `records.Step`); of a problem of the whole
            run they say nothing.
        evidence: JSON-able numbers and strings. Known keys, which renderers draw: "expected", "seen" (strings),
            "diff" (list of [op, text], op in "=", "-", "+"), "per_dimension" (name -> list of numbers).
        frames: what renderers show side by side: list of {"title", "step", "camera" or "model": true,
            "transform": name of the dihedral element to apply, or ""}.
        symptom: this one is only a symptom, though others of its check are facts.
        place: where in the source, if that is known; trail: the way that data took to it; fix: how to mend it.
    """

    message: str
    remedy: str
    severity: Severity
    first_step: int = 0
    last_step: int | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)
    frames: tuple[Mapping[str, Any], ...] = ()
    stage: Stage | None = None
    symptom: bool = False
    place: Place | None = None
    trail: tuple[Hop, ...] = ()
    fix: Fix | None = None


@dataclass(frozen=True)
class Clear:
    """Looked at and found right, with the numbers."""

    message: str
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Abstention:
    """Nothing can be said. `missing` where the evidence was not recorded, as opposed to not being decisive."""

    reason: str
    missing: bool = False


@dataclass(frozen=True)
class Fault:
    """A disturbance of one stage of the running reference loop, made where it would happen in life.

    `apply(loop)` is called once the environment and the policy exist and before the taps attach; it may replace
    `loop.stages.*`, wrap `loop.env` or change `loop.policy`, and must bear to be applied again, as a run has a loop for
    each task but one model. `before_env()` is called before the environment is made and returns the call that undoes
    it. `configure(spec)` is for a mistake that is made in the run file: the run as such a file asks for it.

    Attributes:
        episodes, steps: how many episodes of a task, and policy steps of each, it takes until it can be seen.
        begins: policy step from which on something is wrong.
        reports: "owner/repository#number" of the threads whose cause it reconstructs, as a loop or a setting.
    """

    name: str
    summary: str
    apply: Callable[[Loop], None] | None = None
    before_env: Callable[[], Callable[[], None]] | None = None
    episodes: int = 1
    steps: int = 8
    begins: int = 0
    configure: Callable[[RunSpec], RunSpec] | None = None
    reports: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """What it does, and after what."""
        return f"{self.summary} ({', '.join(self.reports)})" if self.reports else self.summary


Verdict = Problem | Clear | Abstention


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        code: "VD201"; never reused. name: named after what is wrong, "image-orientation".
        stage: where the fault sits when the check fires (a Problem may say otherwise).
        judge: (facts of an episode, limits) -> verdicts; pure, reads facts and profile only. None where one episode
            says nothing.
        judge_run: (facts of every episode in the order in which they ran, limits) -> verdicts about the run as a whole;
            asked once, after the last episode, and likewise pure. It is for what no single episode shows, and leaves to
            `judge` what one does.
        judge_checks: (what all others said of an episode, limits) -> verdicts about the checks themselves.
        judge_source: (facts read from the source of a loop, limits) -> verdicts: the same question, without running
            anything. What the source does not show is an abstention, never a problem.
        thresholds: name -> default; run.yaml can override them. What they were measured on stands in the page.
        symptom: a symptom never stands as root cause beside a finding that is not one.
        explained_by: codes whose finding, if present, makes this one a consequence.
        faults: what proves the check.
        needs: stages of which something must have been seen for it to say anything.
        about_evidence: its findings are about what was seen, not about the loop: they stand behind all others, and make
            the exit status "evidence incomplete".
    """

    code: str
    name: str
    stage: Stage
    judge: Callable[[Facts, Mapping[str, float]], Iterator[Verdict]] | None = None
    judge_run: Callable[[Sequence[Facts], Mapping[str, float]], Iterator[Verdict]] | None = None
    judge_checks: Callable[[Sequence[CheckResult], Mapping[str, float]], Iterator[Verdict]] | None = None
    judge_source: Callable[[SourceFacts, Mapping[str, float]], Iterator[Verdict]] | None = None
    thresholds: Mapping[str, float] = field(default_factory=dict)
    symptom: bool = False
    explained_by: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()
    needs: tuple[Stage, ...] = ()
    about_evidence: bool = False

    @property
    def page(self) -> str:
        """The check's page: its module's docstring (Markdown)."""
        judge = self.judge or self.judge_run or self.judge_checks or self.judge_source
        return (sys.modules[judge.__module__].__doc__ or "") if judge else ""

    @property
    def summary(self) -> str:
        return self.page.strip().split("\n", 1)[0]


@cache
def all_checks() -> tuple[Check, ...]:
    """Every check in `vladoctor.checks`, by code."""
    package = importlib.import_module("vladoctor.checks")
    modules = [importlib.import_module(f"vladoctor.checks.{m.name}") for m in pkgutil.iter_modules(package.__path__)]
    return tuple(sorted((m.CHECK for m in modules if hasattr(m, "CHECK")), key=lambda check: check.code))


def all_faults() -> dict[str, tuple[Fault, Check]]:
    """Fault name -> (fault, the check it proves)."""
    return {fault.name: (fault, check) for check in all_checks() for fault in check.faults}
