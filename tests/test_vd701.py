"""VD701 dtype: which numbers the model computes in, and which it was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from episodes import RIGHT_STATE, standing

from vladoctor.check import Abstention, Clear, Problem, Severity, Verdict
from vladoctor.checks.vd701_dtype import CHECK
from vladoctor.facts import Facts
from vladoctor.profiles import load_profile
from vladoctor.records import Episode

OPENVLA, UNKNOWN = load_profile("openvla-libero"), load_profile("unknown")
BILLIONS = 7_530_000_000


def judge(recorded: Episode, profile: Any = OPENVLA) -> Verdict:
    assert CHECK.judge is not None
    (verdict,) = CHECK.judge(Facts(recorded, profile), dict(CHECK.thresholds))
    return verdict


def on_gpu(dtype: str, asked: str | None = None, **state: Any) -> Episode:
    found = standing(dtypes={dtype: BILLIONS}, devices={"cuda:0": BILLIONS}, **state)
    if asked:
        found.run = {**found.run, "spec": {"model": {"dtype": asked}}}
    return found


def test_float32_on_a_gpu_is_told_with_its_size() -> None:
    verdict = judge(on_gpu("float32"))
    assert isinstance(verdict, Problem)
    assert verdict.severity is Severity.LOOK
    assert "28.1 GiB instead of 14.0 GiB" in verdict.message
    assert "published evaluation has bfloat16" in verdict.message


def test_float16_in_the_place_of_bfloat16_may_overflow() -> None:
    verdict = judge(on_gpu("float16", asked="bfloat16"))
    assert isinstance(verdict, Problem)
    assert verdict.severity is Severity.FIX
    assert "65504" in verdict.message


def test_autocast_to_float16_counts_as_such() -> None:
    verdict = judge(on_gpu("bfloat16", autocast="float16"))
    assert isinstance(verdict, Problem)
    assert "under autocast" in verdict.message


@pytest.mark.parametrize(
    "recorded",
    [
        on_gpu("bfloat16"),
        on_gpu("float32", asked="float32"),
        on_gpu("float16", asked="float16"),
        on_gpu("uint8"),
        on_gpu("bfloat16", autocast="bfloat16"),
        standing(),
        standing(dtypes={"bfloat16": 100, "float32": 4}, devices={"cuda:0": 104}),
    ],
    ids=["as published", "asked", "half asked", "quantised", "autocast", "on a CPU", "a head in float32"],
)
def test_what_is_as_asked_is_clear(recorded: Episode) -> None:
    assert isinstance(judge(recorded), Clear)


def test_a_family_of_which_nothing_is_known_is_clear() -> None:
    assert isinstance(judge(on_gpu("float32"), UNKNOWN), Clear)


def test_without_a_model_nothing_is_said() -> None:
    assert isinstance(judge(standing(model=False)), Abstention)


def test_the_state_that_a_trace_before_this_check_has_is_none() -> None:
    assert "dtypes" in RIGHT_STATE


@pytest.mark.simulator
@pytest.mark.torch
def test_a_run_for_bfloat16_that_computes_in_float32(tmp_path: Path) -> None:
    from dataclasses import replace

    from vladoctor.adapters.openvla import load_policy
    from vladoctor.runspec import load_run
    from vladoctor.session import run_session

    runs = Path(__file__).resolve().parents[1] / "fixtures" / "runs"
    spec = load_run(runs / "evidence.yaml").with_options(tasks=("0",), episodes=1, horizon=2)
    assert spec.model is not None
    spec = replace(spec, model=replace(spec.model, dtype="bfloat16"))
    policy = load_policy(runs.parent / "tiny-openvla", device="cpu", dtype="bfloat16", suite="libero_object", threads=1)
    # What merging an adapter in float32 leaves behind.
    policy.model.float()
    policy.dtype = "float32"
    headline = run_session(spec, out=tmp_path, policy=policy).diagnoses[0].headline
    assert headline is not None
    assert (headline.code, headline.evidence["seen"], headline.evidence["expected"]) == ("VD701", "float32", "bfloat16")
