"""Profiles: what they expect, which one is chosen, how they are overridden."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from vladoctor.errors import UserError
from vladoctor.profiles import UNKNOWN, find_profile, load_profile, profile_names

OPENVLA: dict[str, Any] = {"model_type": "openvla", "architectures": ["OpenVLAForActionPrediction"]}


def stats(*keys: str) -> dict[str, Any]:
    return {key: {"action": {"q01": [0.0], "q99": [1.0]}} for key in keys}


def test_names() -> None:
    assert profile_names() == ("openvla", "openvla-libero", "openvla-v01")


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_has_every_key_with_a_source(name: str) -> None:
    profile = load_profile(name)
    assert profile.keys() == load_profile("openvla").keys()
    assert profile.summary
    assert all(map(profile.source, profile.keys()))


def test_libero_values() -> None:
    profile = load_profile("openvla-libero")
    expected = {
        "image.orientation": "rot180",
        "image.center_crop_area": 0.9,
        "image.channel_order": "RGB",
        "image.jpeg_round_trip": True,
        "prompt.template": "In: What action should the robot take to {instruction}?\nOut:",
        "prompt.lowercase": True,
        "prompt.append_id": 29871,
        "tokens.first": 31744,
        "tokens.last": 31999,
        "tokens.vocabulary": 32000,
        "tokens.embedding_rows": 32064,
        "tokens.action_dim": 7,
        "tokens.bins": 256,
        "unnorm.method": "q01_q99",
        "unnorm.mask": [True] * 6 + [False],
        "unnorm.keys.libero_object": ["libero_object", "libero_object_no_noops"],
        "loop.settle_steps": 10,
        "loop.settle_action": [0, 0, 0, 0, 0, 0, -1],
        "loop.horizon": {
            "libero_spatial": 220,
            "libero_object": 280,
            "libero_goal": 300,
            "libero_10": 520,
            "libero_90": 400,
        },
        "loop.control_freq": 20,
        "environment.reach": {"translation": 0.9375, "rotation": 0.375},
    }
    assert {key: profile.get(key) for key in expected} == expected
    assert profile.get("loop.horizon.libero_goal") == 300
    assert profile.get("loop.horizon.another_suite") is None
    assert "openvla/openvla@c8f03f4" in profile.source("image.orientation")


def test_base_expects_nothing_of_the_environment() -> None:
    profile = load_profile("openvla")
    for key in ("image.orientation", "image.center_crop_area", "unnorm.keys", "gripper.rule", "loop.horizon"):
        assert profile.get(key) is None, key
    assert profile.get("prompt.template") == load_profile("openvla-libero").get("prompt.template")


def test_v01_differs_in_its_prompt() -> None:
    old, base = load_profile("openvla-v01"), load_profile("openvla")
    keys = base.keys()
    assert {key for key in keys if old.get(key) != base.get(key)} == {"prompt.template"}
    assert old.get("prompt.template") == (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. USER: What action should the robot take to "
        "{instruction}? ASSISTANT:"
    )


def test_unknown_key_of_get_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(KeyError, match=r"image\.orientation"):
        load_profile("openvla").get("image.orientaton")


def test_unknown_name() -> None:
    with pytest.raises(UserError, match="openvla-libro") as caught:
        load_profile("openvla-libro")
    assert "openvla-libero" in caught.value.remedy


def test_overrides_dotted_and_nested() -> None:
    profile = load_profile("openvla-libero")
    changed = profile.with_overrides(
        {
            "image.orientation": "flip-vertical",
            "image": {"center_crop_area": None},
            "loop": {"horizon": {"libero_object": 100}, "settle_steps": 5},
            "unnorm.keys.my_suite": ["my_data"],
        }
    )
    assert changed.get("image.orientation") == "flip-vertical"
    assert changed.get("image.center_crop_area") is None
    assert changed.get("loop.horizon.libero_object") == 100
    assert changed.get("loop.horizon.libero_goal") == 300, "tables are merged"
    assert changed.get("unnorm.keys.my_suite") == ["my_data"]
    assert "user" in changed.source("loop.settle_steps")
    assert profile.get("loop.settle_steps") == 10, "the profile itself is unchanged"


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"image.orientaton": "rot180"}, "image.orientation"),
        ({"image": {"crop": 0.9}}, "image.center_crop_area"),
        ({"orientation": "rot180"}, "image.orientation"),
        ({"nonsense.of.a.kind": 1}, "image.cameras"),
    ],
)
def test_unknown_override_names_the_nearest(overrides: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError) as caught:
        load_profile("openvla-libero").with_overrides(overrides, where="run.yaml:profile")
    assert named in caught.value.remedy
    assert caught.value.where == "run.yaml:profile"


@pytest.mark.parametrize(
    "overrides",
    [{"loop.settle_steps": "ten"}, {"prompt.lowercase": 1}, {"unnorm.mask": True}, {"loop.horizon": 100}],
)
def test_override_of_another_kind(overrides: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="another kind"):
        load_profile("openvla-libero").with_overrides(overrides)


@pytest.mark.parametrize(
    ("checkpoint", "suite", "name", "reason"),
    [
        ({**OPENVLA, "norm_stats": stats("libero_object")}, "libero_object", "openvla-libero", "libero_object"),
        ({**OPENVLA, "norm_stats": stats("libero_10_no_noops")}, "libero_10", "openvla-libero", "libero_10_no_noops"),
        (
            {"model_type": "tiny_openvla", "norm_stats": stats("libero_object", "bridge_orig")},
            "libero_object",
            "openvla-libero",
            "statistics of libero_object",
        ),
        (
            {"architectures": ["TinyOpenVLAForActionPrediction"], "name": "x-libero"},
            "libero_goal",
            "openvla-libero",
            "x",
        ),
        (
            {**OPENVLA, "norm_stats": stats("bridge_orig", "kuka", "toto", "viola")},
            "libero_object",
            "openvla",
            "1 more",
        ),
        ({**OPENVLA, "norm_stats": stats("my_data")}, "libero_object", "openvla", "my_data"),
        ({**OPENVLA, "norm_stats": stats("libero_object")}, "simpler_bridge", "openvla", "simpler_bridge"),
        ({**OPENVLA, "name": "openvla-7b-v01"}, "libero_object", "openvla-v01", "v01"),
        ({**OPENVLA, "name": "openvla-v01-7b"}, "", "openvla-v01", "v01"),
        ({**OPENVLA, "name": "openvla-7b-oft-finetuned-libero-object"}, "libero_object", UNKNOWN, "OFT"),
        ({**OPENVLA, "pixel_mean": [0.5] * 12}, "libero_object", UNKNOWN, "OFT"),
        ({"model_type": "pi0", "name": "pi0_libero"}, "libero_object", UNKNOWN, "pi0"),
        ({}, "libero_object", UNKNOWN, "not recorded"),
    ],
)
def test_find_profile(checkpoint: dict[str, Any], suite: str, name: str, reason: str) -> None:
    profile = find_profile(checkpoint, suite)
    assert profile.name == name
    assert reason in profile.reason


def test_a_name_with_soft_or_loft_in_it_is_not_oft() -> None:
    assert find_profile({**OPENVLA, "name": "soft-loft-libero"}, "libero_object").name == "openvla-libero"


def test_unknown_profile_expects_nothing() -> None:
    profile = find_profile({"model_type": "octo"}, "libero_object")
    keys = load_profile("openvla").keys()
    assert profile.keys() == keys
    assert not any(map(profile.get, keys))
    assert profile.with_overrides({"image.orientation": "rot180"}).get("image.orientation") == "rot180"


def test_importing_profiles_reads_nothing() -> None:
    code = "import sys, vladoctor.profiles; print([m for m in ('ruamel.yaml', 'numpy', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
