"""VD401 non-action-token: ids that are no action ids, answers cut short, and what became of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from episodes import LIBERO_OBJECT, episode, some_ids, unnormalise

from vladoctor.check import Abstention, Clear, Problem, Severity, Verdict
from vladoctor.checks.vd401_non_action_token import CHECK
from vladoctor.facts import Facts
from vladoctor.profiles import Profile, find_profile, load_profile

LIBERO = load_profile("openvla-libero")
RIGHT = unnormalise(LIBERO_OBJECT)
PROMPT_IDS = [1, 512, 29901, 1724, 3158, 881, 278, 19964, 2125, 29973, 13, 3744, 29901]
FAULTS = {fault.name: fault for fault in CHECK.faults}


def judge(ids: Any, profile: Profile = LIBERO, **arguments: Any) -> Verdict:
    recorded = episode(ids, **{"returned": RIGHT, "input_ids": PROMPT_IDS, **arguments})
    (verdict,) = CHECK.judge(Facts(recorded, profile), dict(CHECK.thresholds))
    return verdict


def with_one(value: int, row: int = 3, column: int = 1, queries: int = 30) -> np.ndarray:
    ids = some_ids(queries)
    ids[row, column] = value
    return ids


def test_action_ids_are_clear() -> None:
    verdict = judge(some_ids())
    assert isinstance(verdict, Clear)
    assert "all ids of 30 actions lie in 31744..31999" in verdict.message


@pytest.mark.parametrize("value", [31744, 31999])
def test_both_ends_of_the_range_belong_to_it(value: int) -> None:
    assert isinstance(judge(with_one(value)), Clear)


@pytest.mark.parametrize(
    ("value", "normalised", "returned", "kind"),
    [
        # k = clip(31999 - id, 0, 254); centre -1 + (2k + 1) / 255; y of libero_object.
        (31743, 0.9961, 0.84037, "text"),
        (2, 0.9961, 0.84037, "end of text"),
        (29871, 0.9961, 0.84037, "text"),
        (32000, -0.9961, -0.87252, "padding"),
        (32063, -0.9961, -0.87252, "padding"),
    ],
)
def test_what_an_id_was_turned_into(value: int, normalised: float, returned: float, kind: str) -> None:
    verdict = judge(with_one(value))
    assert isinstance(verdict, Problem)
    assert (verdict.first_step, verdict.last_step) == (3, 3)
    assert verdict.severity is Severity.FIX, "one query in thirty"
    (row,) = verdict.evidence["ids"]
    assert (row["step"], row["dimension"], row["id"], row["from_prompt"]) == (3, "y", value, False)
    assert row["normalised"] == pytest.approx(normalised, abs=5e-5)
    assert row["returned"] == pytest.approx(returned, abs=5e-5)
    assert f"{value} ({kind})" in verdict.evidence["seen"]
    shares = verdict.evidence["per_dimension"]["share_outside"]
    assert shares == pytest.approx([0, 1 / 30, 0, 0, 0, 0, 0])


def test_many_stop_the_run() -> None:
    ids = some_ids(40)
    ids[10:12] = 17
    verdict = judge(ids)
    assert isinstance(verdict, Problem)
    assert verdict.severity is Severity.STOP
    assert "14 of 280 decoded ids" in verdict.message
    assert "output_loading_info" in verdict.remedy


def test_an_early_end_of_text() -> None:
    ids = [list(row) for row in some_ids(20)]
    ids[5] = [*ids[5][:3], 2]
    verdict = judge(ids)
    assert isinstance(verdict, Problem)
    assert "the model ended its answer early, after 4 of 7 ids" in verdict.message
    assert "ids of the prompt among them" in verdict.message
    listed = verdict.evidence["ids"]
    assert [row["from_prompt"] for row in listed] == [True, True, True, False]
    assert [row["id"] for row in listed] == [3744, 29901, 29871, 2], "29871 is appended by predict_action"


def test_a_cut_answer() -> None:
    verdict = judge([row[:1] for row in some_ids(20)])
    assert isinstance(verdict, Problem)
    assert verdict.severity is Severity.STOP
    assert "the answer was cut off after 1 of 7 ids" in verdict.message
    assert "max_time" in verdict.remedy


def test_a_cut_answer_without_the_prompts_ids() -> None:
    verdict = judge([[31900]] * 5, input_ids=[])
    assert isinstance(verdict, Problem)
    assert verdict.evidence["ids"][0]["id"] is None
    assert verdict.evidence["seen"].startswith("prompt, prompt")


def test_the_list_is_short() -> None:
    verdict = judge(np.full((200, 7), 17))
    assert isinstance(verdict, Problem)
    assert len(verdict.evidence["ids"]) == 20


def test_nothing_recorded() -> None:
    verdict = judge([[]] * 3)
    assert isinstance(verdict, Abstention)
    assert verdict.missing


def test_no_layout_expected() -> None:
    verdict = judge(some_ids(), find_profile({"model_type": "octo"}, "libero_object"))
    assert isinstance(verdict, Abstention)
    assert not verdict.missing


def test_a_cut_answer_is_made_by_an_option_of_generate() -> None:
    loop: Any = SimpleNamespace(policy=SimpleNamespace(options={"do_sample": False}))
    apply = FAULTS["generation-cut"].apply
    assert apply is not None
    apply(loop)
    assert loop.policy.options["do_sample"] is False
    assert 0 < loop.policy.options["max_time"] < 1e-3


@pytest.mark.torch
def test_the_untied_head_leaves_the_embedding_alone() -> None:
    import torch

    embedding = torch.nn.Embedding(32064, 8)
    head = torch.nn.Linear(8, 32064, bias=False)
    head.weight = embedding.weight
    before = embedding.weight.detach().clone()
    loop: Any = SimpleNamespace(policy=SimpleNamespace(model=SimpleNamespace(get_output_embeddings=lambda: head)))
    apply = FAULTS["untied-head"].apply
    assert apply is not None
    apply(loop)
    first = head.weight.detach().clone()
    apply(loop)
    assert torch.equal(embedding.weight, before)
    assert torch.equal(head.weight, first), "seeded"
    assert head.weight is not embedding.weight
    assert float(head.weight.std()) == pytest.approx(0.02, rel=0.05)
