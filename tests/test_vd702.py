"""VD702 train-mode: modules in train mode, and what acts in them."""

from __future__ import annotations

from typing import Any

import pytest
from episodes import standing

from vladoctor.check import Abstention, Clear, Problem, Severity, Verdict
from vladoctor.checks.vd702_train_mode import CHECK
from vladoctor.facts import Facts
from vladoctor.profiles import load_profile
from vladoctor.records import Episode


def judge(recorded: Episode) -> Verdict:
    assert CHECK.judge is not None
    (verdict,) = CHECK.judge(Facts(recorded, load_profile("unknown")), dict(CHECK.thresholds))
    return verdict


def problem(**state: Any) -> Problem:
    verdict = judge(standing(**state))
    assert isinstance(verdict, Problem)
    return verdict


def test_dropout_that_acts_is_to_be_fixed() -> None:
    found = problem(training=True, training_modules=169, active={"Dropout(p=0.1)": 4})
    assert found.severity is Severity.FIX
    assert "Dropout(p=0.1) (4 of them)" in found.message


def test_one_dropout_in_a_model_in_eval_mode_is_enough() -> None:
    assert problem(training_modules=1, active={"Dropout(p=0.3)": 1}).severity is Severity.FIX


def test_train_mode_without_effect_is_for_a_look() -> None:
    assert problem(training=True, training_modules=169).severity is Severity.LOOK


def test_it_names_the_step_from_which_it_holds() -> None:
    found = problem(at=3, training=True, training_modules=169, active={"Dropout(p=0.1)": 4})
    assert found.first_step == 3
    assert "from step 3 on" in found.message


def test_eval_mode_is_clear() -> None:
    assert isinstance(judge(standing()), Clear)


def test_a_few_modules_without_effect_in_train_mode_are_clear() -> None:
    # What was put into a model after `eval()`.
    verdict = judge(standing(training_modules=2))
    assert isinstance(verdict, Clear)
    assert "2 without effect" in verdict.message


def test_old_traces_say_nothing() -> None:
    assert isinstance(judge(standing(model=False)), Abstention)


@pytest.mark.torch
def test_what_acts_in_train_mode_is_found_in_real_modules() -> None:
    import torch

    from vladoctor.taps.checkpoint import model_state

    class Attention(torch.nn.Module):
        def __init__(self, p: float) -> None:
            super().__init__()
            self.attention_dropout = p

    model = torch.nn.Sequential(
        torch.nn.Linear(2, 2),
        torch.nn.Dropout(0.1),
        torch.nn.Dropout(0.0),
        torch.nn.BatchNorm1d(2),
        Attention(0.2),
        Attention(0.0),
    )
    assert model_state(model.train())["active"] == {
        "Dropout(p=0.1)": 1,
        "BatchNorm1d": 1,
        "Attention.attention_dropout=0.2": 1,
    }
    evaluating = model_state(model.eval())
    assert (evaluating["active"], evaluating["training_modules"], evaluating["modules"]) == ({}, 0, 7)
    model[1].train()
    assert model_state(model)["active"] == {"Dropout(p=0.1)": 1}
