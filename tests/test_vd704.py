"""VD704 wrong-weights: what the file lacked, adapters that do nothing, checkpoints of another suite."""

from __future__ import annotations

from typing import Any

import pytest
from episodes import BRIDGE, LIBERO_OBJECT, RIGHT_STATE, standing

from vladoctor.check import Abstention, Clear, Problem, Severity, Verdict
from vladoctor.checks.vd704_wrong_weights import CHECK
from vladoctor.facts import Facts
from vladoctor.facts.system import suites_in
from vladoctor.profiles import load_profile
from vladoctor.records import Episode


def judge(recorded: Episode, profile: str = "openvla-libero") -> list[Verdict]:
    assert CHECK.judge is not None
    return list(CHECK.judge(Facts(recorded, load_profile(profile)), dict(CHECK.thresholds)))


def problem(recorded: Episode) -> Problem:
    (verdict,) = judge(recorded)
    assert isinstance(verdict, Problem)
    return verdict


def said(**counts: Any) -> Episode:
    return standing(loading={**RIGHT_STATE["loading"], **counts})


def checkpoint(recorded: Episode, keys: tuple[str, ...] = (), **facts: Any) -> Episode:
    table = {key: {"action": LIBERO_OBJECT if "libero" in key else BRIDGE} for key in keys}
    recorded.run = {"checkpoint": {**recorded.run["checkpoint"], **({"norm_stats": table} if keys else {}), **facts}}
    return recorded


def test_weights_that_the_file_lacked() -> None:
    found = problem(said(missing=["projector.fc1.weight"], missing_count=1, missing_values=702_233))
    assert found.severity is Severity.STOP
    assert "One weight of the model is not in the checkpoint's files" in found.message
    assert "10.0% of its values" in found.message


def test_weights_of_another_shape() -> None:
    assert "there in another shape" in problem(said(mismatched=["lm_head.weight"], mismatched_count=1)).message


def test_an_adapter_that_was_not_merged() -> None:
    found = problem(said(unexpected=["q_proj.lora_A.default.weight"], unexpected_count=1, adapter_keys=1))
    assert found.severity is Severity.STOP
    assert "what acts is the base model" in found.message
    assert "merge_and_unload" in found.remedy


def test_names_that_the_model_has_no_place_for_alone_are_clear() -> None:
    (verdict,) = judge(said(unexpected=["rotary_emb.inv_freq"], unexpected_count=1))
    assert isinstance(verdict, Clear)


def test_layers_of_an_adapter_that_are_switched_off() -> None:
    found = problem(standing(adapters={"layers": 8, "disabled": 8, "merged": 0, "names": ["default"]}))
    assert found.severity is Severity.LOOK
    assert isinstance(
        judge(standing(adapters={"layers": 8, "disabled": 0, "merged": 0, "names": ["default"]}))[0], Clear
    )


def test_an_adapter_s_file_beside_the_weights() -> None:
    assert problem(checkpoint(standing(), adapter_file="adapter_config.json")).severity is Severity.LOOK


def test_the_checkpoint_of_another_suite() -> None:
    found = problem(checkpoint(standing(), ("libero_spatial",)))
    assert found.severity is Severity.FIX
    assert "its own statistics are of libero_spatial" in found.message


def test_the_base_checkpoint() -> None:
    found = problem(checkpoint(standing(), ("bridge_orig", "fractal20220817_data")))
    assert found.severity is Severity.STOP


@pytest.mark.parametrize("keys", [("libero_object_no_noops",), ("my_own_mix",), ("libero_spatial", "libero_object")])
def test_statistics_of_the_suite_or_of_something_unknown_are_clear(keys: tuple[str, ...]) -> None:
    assert not any(isinstance(verdict, Problem) for verdict in judge(checkpoint(standing(), keys)))


def test_a_name_alone_is_for_a_look() -> None:
    named = checkpoint(standing(), name="pi05-libero-goal")
    named.run = {"checkpoint": {"name": "pi05-libero-goal"}}
    assert problem(named).severity is Severity.LOOK
    both = standing()
    both.run = {"checkpoint": {"name": "openvla-7b-oft-finetuned-libero-spatial-object-goal-10"}}
    assert isinstance(judge(both)[0], Clear)


def test_names_of_suites() -> None:
    assert suites_in("openvla/openvla-7b-finetuned-libero-10") == ["libero_10"]
    assert suites_in("openvla-7b-oft-finetuned-libero-spatial-object-goal-10") == [
        "libero_spatial", "libero_object", "libero_goal",
    ]  # fmt: skip
    assert suites_in("pi05_libero") == suites_in("object-detector-90") == []


def test_nothing_known_says_nothing() -> None:
    bare = standing(model=False, task={"suite": None})
    bare.run = {}
    assert isinstance(judge(bare, "unknown")[0], Abstention)


@pytest.mark.torch
def test_what_a_lenient_load_left_out_is_seen_in_a_foreign_program() -> None:
    import tempfile
    from pathlib import Path

    import torch

    from vladoctor.taps.checkpoint import model_state
    from vladoctor.taps.watch import Watch

    def made() -> torch.nn.Module:
        model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3, bias=False), torch.nn.Linear(3, 2))
        # Tied: the file has it under one name only.
        model[1].weight = model[0].weight
        return model

    original = torch.nn.Module.load_state_dict
    weights = {
        "0.weight": torch.zeros(3, 3),
        "0.bias": torch.zeros(3),
        "2.bias": torch.zeros(2),
        "head.weight": torch.zeros(1),
    }
    with tempfile.TemporaryDirectory() as folder:
        watch = Watch(Path(folder))
        watch.start()
        try:
            model = made()
            model.load_state_dict(weights, strict=False)
            found = model_state(model)["loading"]
            # A second file brings the rest.
            model.load_state_dict({"2.weight": torch.zeros(2, 3)}, strict=False)
            rest = model_state(model)["loading"]
        finally:
            watch.close()
    assert (found["missing"], found["missing_values"], found["unexpected"]) == (["2.weight"], 6, ["head.weight"])
    assert rest["missing"] == []
    assert torch.nn.Module.load_state_dict is original
