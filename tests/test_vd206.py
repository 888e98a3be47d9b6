"""VD206 vision-bypass: whether the vision tower runs, and whether answers follow the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from rendered import facts, recorded, rendered

from vladoctor.check import Abstention, Clear, Problem, Severity, Verdict
from vladoctor.checks.vd206_vision_bypass import CHECK
from vladoctor.profiles import load_profile
from vladoctor.records import Episode

SHOTS = rendered("agentview")
IDS = (31900, 31890, 31880, 31870, 31860, 31850, 31872)


def episode(
    *,
    calls: Sequence[int | None] | int | None = 1,
    sees: bool = True,
    margins: bool = True,
    moving: bool = True,
    **same: Any,
) -> Episode:
    """Twelve queries; a model that sees gives other probabilities each time."""
    made = recorded(SHOTS if moving else [SHOTS[0]] * len(SHOTS))
    steps = []
    for index, step in enumerate(made.steps):
        assert step.query is not None
        shift = 0.001 * index if sees else 0.0
        count = calls[index] if isinstance(calls, Sequence) else calls
        more = (
            {"margin": tuple(1.5 + shift for _ in IDS), "entropy": tuple(2.0 - shift for _ in IDS)} if margins else {}
        )
        query = replace(step.query, ids=IDS, input_ids=(1, 2, 3), vision_calls=count, **more, **same)
        steps.append(replace(step, query=query))
    return replace(made, steps=steps)


def judge(made: Episode) -> Verdict:
    (verdict,) = CHECK.judge(facts(made, load_profile("unknown")), CHECK.thresholds)
    return verdict


def problem(made: Episode) -> Problem:
    verdict = judge(made)
    assert isinstance(verdict, Problem)
    return verdict


# Must fire.


@pytest.mark.parametrize(
    ("calls", "said"),
    [
        (0, "ran 0 times in 12 queries"),
        ([1] + [0] * 11, "ran at step 0, and never again"),
        (1, "ran in each query, but what it returned was not used"),
        (None, "Whether its vision tower ran was not seen"),
    ],
)
def test_equal_to_every_digit(calls: Any, said: str) -> None:
    found = problem(episode(calls=calls, sees=False))
    assert (found.severity, found.first_step, found.evidence["identical"]) == (Severity.STOP, 0, 12)
    assert said in found.message


def test_equal_ids_of_a_tower_that_does_not_run() -> None:
    assert problem(episode(calls=0, sees=False, margins=False)).severity is Severity.STOP


def test_no_run_that_cannot_be_proven_is_a_look() -> None:
    assert problem(episode(calls=0, sees=False, moving=False)).severity is Severity.LOOK
    found = problem(episode(calls=0))
    assert found.severity is Severity.LOOK
    assert "computed elsewhere" in found.message


def test_a_run_for_every_token() -> None:
    found = problem(episode(calls=7))
    assert found.severity is Severity.LOOK
    assert "use_cache=True" in found.remedy


# Must not fire.


@pytest.mark.parametrize("calls", [1, 2, None])
def test_a_model_that_sees(calls: int | None) -> None:
    assert isinstance(judge(episode(calls=calls)), Clear)


def test_the_same_image_may_give_the_same_answer() -> None:
    assert isinstance(judge(episode(sees=False, moving=False)), Clear)


def test_equal_ids_alone_accuse_nobody() -> None:
    """A policy that waits."""
    assert isinstance(judge(episode(sees=False, margins=False)), Clear)


def test_probabilities_that_are_no_numbers() -> None:
    made = episode()
    steps = [replace(step, query=replace(step.query, margin=(float("nan"),) * 7)) for step in made.steps if step.query]
    assert isinstance(judge(replace(made, steps=steps)), Clear)


# Must abstain.


def test_without_evidence() -> None:
    for made in (recorded(SHOTS, asked=False), episode(calls=None, margins=False, sees=False)):
        verdict = judge(made)
        assert isinstance(verdict, Abstention)
        assert verdict.missing
