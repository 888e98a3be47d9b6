"""VD703 version-drift: versions and code that are known to change what a family's policies do."""

from __future__ import annotations

from typing import Any

import pytest
from episodes import standing

from vladoctor.check import Abstention, Clear, Problem, Severity, Verdict
from vladoctor.checks.vd703_version_drift import CHECK, LLAMA
from vladoctor.facts import Facts
from vladoctor.facts.system import known_breaks, within
from vladoctor.profiles import load_profile
from vladoctor.records import Episode

STOCK = {"sha256": "b5fb3c99e3e118d5", "bytes": 73442}
FORK = {"sha256": "3aac24cec583a6ef", "bytes": 75897, "both_directions": True}


def recorded(
    versions: dict[str, str] | None = None, *, vision: int | None = 1, assets: str = "", code: Any = None, **state: Any
) -> Episode:
    found = standing(code={LLAMA: code} if code else None, **state)
    for _, query in found.queries():
        query.vision_calls = vision
    found.run = {**found.run, "versions": {"transformers": "4.40.1"} if versions is None else versions}
    if assets:
        found.run = {**found.run, "assets": {"kind": assets}}
    return found


def judge(episode: Episode, profile: str = "openvla-libero") -> list[Verdict]:
    assert CHECK.judge is not None
    return list(CHECK.judge(Facts(episode, load_profile(profile)), dict(CHECK.thresholds)))


def problem(episode: Episode, profile: str = "openvla-libero") -> Problem:
    (verdict,) = judge(episode, profile)
    assert isinstance(verdict, Problem)
    return verdict


def is_clear(episode: Episode, profile: str = "openvla-libero") -> bool:
    return all(isinstance(verdict, Clear) for verdict in judge(episode, profile))


def test_the_release_in_the_place_of_ofts_fork() -> None:
    found = problem(recorded(code=STOCK), "openvla-oft-libero")
    assert found.severity is Severity.FIX
    assert "transformers 4.40.1 as released" in found.message
    assert "transformers-openvla-oft" in found.remedy


def test_ofts_fork_is_right_for_oft_and_wrong_for_others() -> None:
    assert is_clear(recorded(code=FORK), "openvla-oft-libero")
    found = problem(recorded(code=FORK))
    assert found.severity is Severity.FIX
    assert "OpenVLA-OFT's fork" in found.message


def test_the_fork_changes_one_kind_of_attention_only() -> None:
    assert is_clear(recorded(code=FORK, attention="flash_attention_2"))


def test_a_copy_changed_by_hand_is_told_by_what_it_says() -> None:
    assert "a changed copy" in problem(recorded(code={"sha256": "0" * 16, "bytes": 1, "both_directions": True})).message
    assert is_clear(recorded(code={"sha256": "0" * 16, "bytes": 1}))


def test_a_version_under_which_the_image_is_ignored_unless_it_was_seen() -> None:
    versions = {"transformers": "4.56.2"}
    assert "openvla/openvla#346" in problem(recorded(versions, vision=None)).evidence["source"]
    assert is_clear(recorded(versions, vision=1))
    # VD206 has seen it.
    assert is_clear(recorded(versions, vision=0))


def test_darker_floors_need_libero_s_own_assets() -> None:
    versions = {"mujoco": "3.8.1"}
    assert "drawn darker" in problem(recorded(versions, assets="real")).message
    assert is_clear(recorded(versions, assets="stand-in"))
    assert is_clear(recorded(versions))
    assert is_clear(recorded({"mujoco": "3.3.2"}, assets="real"))


def test_other_versions_than_the_pins_are_listed_and_no_finding() -> None:
    (verdict,) = judge(recorded({"transformers": "5.23.0", "torch": "2.13.0+cpu", "robosuite": "1.4.0"}))
    assert isinstance(verdict, Clear)
    assert verdict.evidence["differs"] == {
        "transformers": "5.23.0, asked for ==4.40.1",
        "torch": "2.13.0+cpu, asked for ==2.2.0",
    }


def test_without_versions_nothing_is_said() -> None:
    (verdict,) = judge(recorded({}))
    assert isinstance(verdict, Abstention)


@pytest.mark.parametrize(
    ("version", "asked", "expected"),
    [
        ("4.56.2", ">=4.54,<5", True),
        ("5.0.0", ">=4.54,<5", False),
        ("2.2.0+cu121", "==2.2.0", True),
        ("2.2", "==2.2.0", True),
        ("4.57.1", "==4.57.*", True),
        ("0.9.13", ">=0.9.10,<=0.9.16,!=0.9.13", False),
        ("unknown", ">=1", None),
        ("1.0", "~=1.0", None),
    ],
)
def test_specifiers(version: str, asked: str, expected: bool | None) -> None:
    assert within(version, asked) is expected


def test_every_entry_of_the_table_has_a_source_and_can_be_read() -> None:
    for entry in known_breaks():
        assert entry["source"]
        assert entry["remedy"]
        assert within("1.0", entry["versions"]) is not None
        assert Severity(entry["severity"])


@pytest.mark.torch
def test_the_hash_of_the_installed_code_is_taken() -> None:
    import hashlib
    from pathlib import Path

    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.models.llama import modeling_llama

    from vladoctor.taps.checkpoint import model_state

    small = LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    found = model_state(LlamaForCausalLM(small))["code"][LLAMA]
    content = Path(modeling_llama.__file__).read_bytes()
    assert found == {"sha256": hashlib.sha256(content).hexdigest()[:16], "bytes": len(content)}
