"""Profiles: what they expect, which one is chosen, how they are overridden."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from episodes import LIBERO_OBJECT, episode, some_ids, unnormalise
from rendered import recorded as with_frames
from rendered import rendered, turned

from vladoctor import cli
from vladoctor.errors import UserError
from vladoctor.facts.registration import ELEMENTS
from vladoctor.profiles import (
    ENVIRONMENTS,
    UNKNOWN,
    environment_profile,
    files,
    find_profile,
    load_profile,
    profile_keys,
    profile_names,
)
from vladoctor.profiles import new as new_module
from vladoctor.profiles.files import is_file_name
from vladoctor.profiles.new import write_profile
from vladoctor.profiles.profile import UNSTATED, kind_of
from vladoctor.records import Episode, Outcome, Step
from vladoctor.session import choose_profile, judge

DOCS = Path(__file__).parents[1] / "docs" / "profiles.md"

OPENVLA: dict[str, Any] = {"model_type": "openvla", "architectures": ["OpenVLAForActionPrediction"]}


def stats(*keys: str) -> dict[str, Any]:
    return {key: {"action": {"q01": [0.0], "q99": [1.0]}} for key in keys}


FAMILIES = {
    "LIBERO": ["libero"],
    "SimplerEnv": ["simplerenv"],
    "LeRobot's LIBERO": ["lerobot-libero"],
    "OpenVLA": ["openvla", "openvla-libero", "openvla-simpler"],
    "OpenVLA v0.1": ["openvla-v01"],
    "OpenVLA-OFT": ["openvla-oft", "openvla-oft-libero"],
    "openpi pi0, pi0-FAST and pi0.5": [
        "openpi-libero",
        "openpi-pi0-libero",
        "openpi-pi0-fast-libero",
        "openpi-pi05-libero",
    ],
    "LeRobot's pi0, pi0.5, SmolVLA and X-VLA": [
        "lerobot-pi0-libero",
        "lerobot-pi05-libero",
        "lerobot-smolvla-libero",
        "lerobot-xvla-libero",
    ],
    "Octo": ["octo", "octo-simpler"],
    "RDT-1B": ["rdt-1b"],
    "SpatialVLA": ["spatialvla-simpler"],
    "CogACT": ["cogact-simpler"],
    "UniVLA": ["univla-libero"],
    "TraceVLA": ["tracevla-simpler"],
    "GR00T N1.5, N1.6 and N1.7": ["gr00t-n1.5-libero", "gr00t-n1.6-libero", "gr00t-n1.7", "gr00t-n1.7-libero"],
    "RT-1": ["rt-1"],
    "RT-2": ["rt-2"],
    "nothing": [UNKNOWN],
}

CITATION = re.compile(
    r"[\w.-]+/[\w.-]+@[0-9a-f]{7} [\w./*-]+"  # repository@commit path
    r"|robosuite 1\.4\.0 "
    r"|arXiv:\d{4}\.\d{5}"
    r"|[Mm]easured"
)

CHOICES = {
    "image.orientation": ELEMENTS,
    "environment.raw_view": ELEMENTS,
    "image.channel_order": ("RGB", "BGR"),
    "image.resize": ("lanczos3", "bicubic", "bilinear", "area"),
    "image.pad": ("none", "centre", "left-top"),
    "tokens.direction": ("ascending", "descending"),
    "action.representation": ("tokens", "continuous"),
    "action.frame": ("delta", "absolute"),
    "unnorm.method": ("q01_q99", "mean_std", "min_max", "action_spec", "identity"),
    "gripper.rule": ("2g-1, sign, negate", "as is"),
    "proprio.rotation": ("axis_angle", "quaternion_xyzw", "rot6d"),
}


def test_names() -> None:
    assert sorted(profile_names()) == sorted(name for names in FAMILIES.values() for name in names)


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_has_every_key_with_a_source(name: str) -> None:
    profile = load_profile(name)
    assert profile.keys() == tuple(profile_keys())
    assert profile.summary
    for key, about in profile_keys().items():
        value, source = profile.get(key), profile.source(key)
        assert source.strip() == source != "", key
        if value is not None:
            assert kind_of(value) == about.kind, key
            assert CITATION.search(source), (key, source)
            assert value in CHOICES.get(key, (value,)), key
        assert "shared/" not in source


@pytest.mark.parametrize("name", profile_names())
def test_every_leaf_of_a_file_has_a_value_and_a_source(name: str) -> None:
    from ruamel.yaml import YAML

    file = Path(new_module.__file__).with_name(f"{name}.yaml")
    document = YAML(typ="safe", pure=True).load(file.read_text("utf-8"))
    assert set(document) <= {"summary", "inherits", *(key.partition(".")[0] for key in profile_keys())}
    leaves = {
        f"{group}.{key}": leaf
        for group, keys in document.items()
        if isinstance(keys, dict)
        for key, leaf in keys.items()
    }
    allowed = {"value", "source", "kind", "means"} if name == UNKNOWN else {"value", "source"}
    for key, leaf in leaves.items():
        assert key in profile_keys()
        assert set(leaf) == allowed, key
        assert leaf["source"].strip(), key


@pytest.mark.parametrize("name", profile_names())
def test_the_fast_reader_of_our_files_reads_them_as_that_of_users_files(name: str) -> None:
    from ruamel.yaml import YAML

    text = Path(new_module.__file__).with_name(f"{name}.yaml").read_text("utf-8")
    # repr: 1 is not 1.0, and keys keep their order.
    assert repr(files._shipped_document(name)) == repr(YAML(typ="safe", pure=True).load(text))


@pytest.mark.parametrize("name", profile_names())
def test_values_fit_each_other(name: str) -> None:
    profile = load_profile(name)
    cameras, orientations = profile.get("image.cameras"), profile.get("image.orientations")
    if orientations is not None:
        assert set(orientations) == set(cameras)
        assert set(orientations.values()) <= set(ELEMENTS)
        assert orientations[cameras[0]] == profile.get("image.orientation")
    template = profile.get("prompt.template")
    assert template is None or template.format(instruction="x") != template
    mean, std = profile.get("image.pixel_mean"), profile.get("image.pixel_std")
    assert (mean is None) == (std is None)
    assert mean is None or len(mean) == len(std)
    chunk, execute = profile.get("action.chunk"), profile.get("action.execute")
    assert chunk is None or execute is None or execute <= chunk
    dimensions, mask = profile.get("action.dimensions"), profile.get("unnorm.mask")
    assert dimensions is None or mask is None or len(dimensions) == len(mask)


def test_versions_are_pep_440() -> None:
    specifiers = pytest.importorskip("packaging.specifiers")
    for name in profile_names():
        for key in profile_keys():
            value = load_profile(name).get(key) if key.startswith("versions.") else None
            assert value is None or specifiers.SpecifierSet(value), (name, key)


def test_keys_are_documented() -> None:
    rows = [line for line in DOCS.read_text("utf-8").splitlines() if line.startswith("| `")]
    assert rows == [f"| `{key}` | {about.kind} | {about.means} |" for key, about in profile_keys().items()]


def test_an_environment_stands_once_and_counts_after_the_family() -> None:
    openvla, libero, both = (load_profile(name) for name in ("openvla", "libero", "openvla-libero"))
    assert both.inherits == ("openvla", "libero")
    for key in ("loop.control_freq", "environment.raw_view", "gripper.environment_open", "loop.settle_action"):
        assert openvla.get(key) is None
        assert both.get(key) == libero.get(key) is not None
        assert both.source(key) == libero.source(key)
    assert not libero.states("prompt.template")
    assert libero.source("prompt.template") == UNSTATED
    assert both.get("prompt.template") == openvla.get("prompt.template")


def test_a_null_of_ones_own_counts_before_what_is_inherited() -> None:
    assert load_profile("libero").get("environment.reach")
    absolute = load_profile("lerobot-xvla-libero")
    assert absolute.get("action.frame") == "absolute"
    assert absolute.get("environment.reach") is None
    assert absolute.states("environment.reach")


def test_openpi_families_agree_on_their_parent() -> None:
    parent = load_profile("openpi-libero")
    children = [load_profile(name) for name in profile_names() if name.startswith("openpi-") and name != parent.name]
    for key in profile_keys():
        values = [child.get(key) for child in children]
        assert parent.get(key) is None or values == [parent.get(key)] * 3, key
    assert parent.get("prompt.template") is None
    assert parent.get("image.orientation") == "rot180"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("openvla-oft-libero", {"action.chunk": 8, "unnorm.method": "q01_q99", "tokens.first": None}),
        ("openpi-pi0-libero", {"unnorm.method": "mean_std", "action.chunk": 50, "gripper.rule": "as is"}),
        ("openpi-pi05-libero", {"unnorm.method": "q01_q99", "action.chunk": 10, "prompt.request": "{instruction}"}),
        ("openpi-pi0-fast-libero", {"prompt.template": None, "prompt.lowercase": True}),
        (
            "lerobot-xvla-libero",
            {
                "image.orientations": {"agentview": "rot180", "robot0_eye_in_hand": "identity"},
                "proprio.rotation": "rot6d",
            },
        ),
        ("lerobot-smolvla-libero", {"image.size": [512, 512], "image.pad": "left-top", "action.execute": None}),
        ("lerobot-pi0-libero", {"loop.horizon.libero_spatial": 280, "image.environment_resolution": None}),
        ("univla-libero", {"loop.horizon.libero_10": 550, "prompt.template": None, "tokens.do_sample": True}),
        ("gr00t-n1.6-libero", {"loop.settle_steps": 0, "loop.init_states": False, "loop.horizon.libero_goal": 720}),
        ("octo-simpler", {"unnorm.keys.widowx": ["bridge_dataset"], "image.orientation": "identity"}),
        ("spatialvla-simpler", {"tokens.direction": "ascending", "prompt.template": None}),
        ("rt-2", {"prompt.template": None, "tokens.bins": 256}),
    ],
)
def test_values_of_families(name: str, expected: dict[str, Any]) -> None:
    assert {key: load_profile(name).get(key) for key in expected} == expected


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
    differ = {key for key in keys if old.get(key) != base.get(key)}
    assert differ == {"prompt.template", "image.pixel_mean", "image.pixel_std"}, "one tower instead of two"
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
        ({**OPENVLA, "name": "openvla-7b-oft-finetuned-libero-object"}, "libero_object", "openvla-oft-libero", "OFT"),
        ({**OPENVLA, "pixel_mean": [0.5] * 12}, "libero_object", "openvla-oft", "12 channels"),
        (
            {**OPENVLA, "chunk": 8, "norm_stats": stats("libero_goal_no_noops")},
            "libero_goal",
            "openvla-oft-libero",
            "8 actions",
        ),
        ({**OPENVLA, "name": "my-oft", "norm_stats": stats("aloha")}, "aloha", "openvla-oft", "aloha"),
        ({**OPENVLA, "chunk": 5}, "libero_goal", UNKNOWN, "name: openvla-oft"),
        ({**OPENVLA, "norm_stats": stats("bridge_orig")}, "widowx_carrot_on_plate", "openvla-simpler", "bridge_orig"),
        ({**OPENVLA, "name": "minivla-libero90"}, "libero_90", UNKNOWN, "minivla"),
        ({**OPENVLA, "name": "univla-7b-224-sft-libero"}, "libero_10", "univla-libero", "UniVLA"),
        ({**OPENVLA, "name": "tracevla_7b"}, "simpler_bridge", "tracevla-simpler", "TraceVLA"),
        ({"name": "openvla/openvla-7b-finetuned-libero-10"}, "libero_10", "openvla-libero", "libero-10"),
        ({"name": "CogACT/CogACT-Base"}, "google_robot_pick_coke_can", "cogact-simpler", "cogact-base"),
        ({"class": "vla.cogactvla.CogACT"}, "libero_10", UNKNOWN, "name: cogact-simpler"),
        ({"model_type": "spatialvla"}, "simpler_bridge", "spatialvla-simpler", "SpatialVLA"),
        ({"class": "octo.model.octo_model.OctoModel"}, "simpler_bridge", "octo-simpler", "Octo"),
        ({"class": "octo.model.octo_model.OctoModel"}, "my_kitchen", "octo", "OctoModel"),
        ({"model_type": "octo"}, "libero_object", UNKNOWN, "name: octo-simpler"),
        ({"name": "robotics-diffusion-transformer/rdt-1b"}, "", "rdt-1b", "RDT-1B"),
        ({"class": "gr00t.model.gr00t_n1.GR00T_N1_5"}, "libero_goal", "gr00t-n1.5-libero", "N1.5"),
        ({"architectures": ["Gr00tN1d6"]}, "libero_goal", "gr00t-n1.6-libero", "N1.6"),
        ({"name": "nvidia/GR00T-N1.7-3B"}, "my_kitchen", "gr00t-n1.7", "N1.7"),
        ({"name": "nvidia/GR00T-N1-2B"}, "libero_goal", UNKNOWN, "not recorded"),
        ({"name": "rt_1_x_tf_trained"}, "google_robot_pick_coke_can", "rt-1", "RT-1"),
        ({"name": "rt-2"}, "", "rt-2", "RT-2"),
        # Of a path, the folders above say nothing of the checkpoint.
        ({**OPENVLA, "name": "/data/oft/openvla-7b-libero"}, "libero_10", "openvla-libero", "named openvla-7b-libero"),
        ({**OPENVLA, "name": "~/runs/my-oft-libero/checkpoint-5000"}, "libero_10", "openvla-oft-libero", "by its name"),
        ({"family_hint": "openpi", "name": "/c/pi05/pi0_libero/29999"}, "libero_10", "openpi-pi0-libero", "says pi0"),
        ({"class": "OctoModel"}, "", "octo", "Octo"),
        ({"family_hint": "lerobot.smolvla"}, "libero_object", "lerobot-smolvla-libero", "type smolvla"),
        ({"family_hint": "lerobot.pi05"}, "libero_object", "lerobot-pi05-libero", "type pi05"),
        ({"family_hint": "lerobot.pi0"}, "libero_object", "lerobot-pi0-libero", "type pi0"),
        (
            {"class": "lerobot.policies.xvla.modeling_xvla.XVLAPolicy"},
            "libero_object",
            "lerobot-xvla-libero",
            "type xvla",
        ),
        ({"family_hint": "lerobot.act"}, "libero_object", UNKNOWN, "LeRobot's act"),
        ({"family_hint": "lerobot.smolvla"}, "aloha", UNKNOWN, "name: lerobot-smolvla-libero"),
        ({"family_hint": "lerobot.groot", "name": "x/gr00t-n1.7-libero"}, "libero_10", "gr00t-n1.7-libero", "N1.7"),
        ({"family_hint": "lerobot.groot"}, "libero_10", UNKNOWN, "N1.5 or N1.7"),
        ({"family_hint": "openpi"}, "libero_object", "openpi-libero", "cannot tell"),
        ({"family_hint": "openpi", "chunk": 50}, "libero_object", "openpi-libero", "name: openpi-pi0-libero}`"),
        ({"family_hint": "openpi", "name": "pi05_libero"}, "libero_object", "openpi-pi05-libero", "its name says pi05"),
        (
            {"family_hint": "openpi", "server_metadata": {"config": "pi0_fast_libero"}, "chunk": 10},
            "libero_object",
            "openpi-pi0-fast-libero",
            "its server says pi0-fast",
        ),
        ({"family_hint": "openpi", "name": "pi0_libero", "chunk": 50}, "libero_10", "openpi-pi0-libero", "50 actions"),
        ({"family_hint": "openpi", "name": "pi0_libero", "chunk": 10}, "libero_10", "openpi-libero", "and this one 10"),
        ({"family_hint": "openpi"}, "droid", UNKNOWN, "name: openpi-libero"),
        (
            {"class": "openpi_client.websocket_client_policy.WebsocketClientPolicy"},
            "libero_goal",
            "openpi-libero",
            "openpi",
        ),
        ({"model_type": "pi0", "name": "pi0_libero"}, "libero_object", UNKNOWN, "pi0"),
        ({}, "libero_object", UNKNOWN, "not recorded"),
    ],
)
def test_find_profile(checkpoint: dict[str, Any], suite: str, name: str, reason: str) -> None:
    profile = find_profile(checkpoint, suite)
    assert profile.name == name
    assert reason in profile.reason


@pytest.mark.parametrize(
    "checkpoint",
    [
        None,
        [],
        {"name": 7, "model_type": ["openvla"], "architectures": "OpenVLAForActionPrediction", "norm_stats": [1]},
        {"norm_stats": {1: None}, "pixel_mean": 0.5, "chunk": "8", "class": 3, "family_hint": {}},
        {"family_hint": "openpi", "server_metadata": object(), "chunk": True},
        {"family_hint": "lerobot."},
        {"architectures": [None, 5], "name": b"openvla"},
    ],
)
@pytest.mark.parametrize("suite", ["libero_object", "", None, 3])
def test_odd_values_raise_nothing(checkpoint: Any, suite: Any) -> None:
    profile = find_profile(checkpoint, suite)
    assert profile.name in profile_names()
    assert profile.reason


def test_environments() -> None:
    assert set(ENVIRONMENTS.values()) <= set(profile_names())
    found = [environment_profile(suite) for suite in ("libero_object", "LIBERO_10", "widowx_x", "my_robot", "", None)]
    assert found == ["libero", "libero", "simplerenv", "", "", ""]


@pytest.mark.parametrize("name", profile_names())
def test_names_in_reasons_exist(name: str) -> None:
    """What a reason proposes can be named."""
    for hint in ("openpi", "lerobot.pi0", "lerobot.groot", "", "lerobot.smolvla"):
        for suite in ("libero_10", "simpler_bridge", "", "droid"):
            reason = find_profile({"family_hint": hint, "name": name}, suite).reason
            proposed = set(re.findall(r"name: ([\w.-]+)}`", reason)) - {"..."}
            assert proposed <= set(profile_names()), reason


def test_a_name_with_soft_or_loft_in_it_is_not_oft() -> None:
    assert find_profile({**OPENVLA, "name": "soft-loft-libero"}, "libero_object").name == "openvla-libero"


def test_unknown_profile_expects_nothing() -> None:
    profile = find_profile({"model_type": "octo"}, "libero_object")
    keys = load_profile("openvla").keys()
    assert profile.keys() == keys
    assert not any(map(profile.get, keys))
    assert profile.values == load_profile(UNKNOWN).values
    assert profile.with_overrides({"image.orientation": "rot180"}).get("image.orientation") == "rot180"


def test_reading_our_own_imports_no_yaml() -> None:
    """It takes longer than everything that is read."""
    code = (
        "import sys; from vladoctor.profiles import load_profile; load_profile('openvla-libero');"
        "print('ruamel.yaml' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_importing_profiles_reads_nothing() -> None:
    code = "import sys, vladoctor.profiles; print([m for m in ('ruamel.yaml', 'numpy', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# A user's own file.

OWN = """
summary: my robot
inherits: openvla-libero
image:
  orientation:
    value: flip-vertical
    source: our training code
loop:
  control_freq: {value: 10, source: our controller}
  horizon: {value: null, source: no limit}
"""


def own_file(folder: Path, text: str, name: str = "my-robot.yaml") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def test_own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_file(tmp_path, OWN)
    monkeypatch.chdir(tmp_path)
    profile = load_profile("my-robot.yaml")
    assert (profile.name, profile.summary, profile.inherits) == ("my-robot", "my robot", ("openvla-libero",))
    assert profile.reason == "read from my-robot.yaml"
    assert profile.keys() == load_profile("openvla").keys()
    assert profile.get("image.orientation") == "flip-vertical"
    assert profile.source("image.orientation") == "our training code"
    assert profile.get("loop.horizon") is None, "a null of one's own"
    assert profile.get("prompt.append_id") == 29871, "inherited"
    own_file(tmp_path, OWN.replace("flip-vertical", "identity"))
    assert load_profile("./my-robot.yaml").get("image.orientation") == "identity", "read anew"


def test_own_file_inherits_a_file_beside_it(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    own_file(tmp_path, OWN)
    child = own_file(tmp_path / "inner", "inherits: [simplerenv, ../my-robot.yaml]\n", "child.yml")
    profile = load_profile(child)
    assert profile.get("image.orientation") == "flip-vertical"
    assert profile.get("loop.settle_steps") == 10
    assert profile.summary


def test_file_names() -> None:
    assert [is_file_name(name) for name in ("openvla", "gr00t-n1.7", "a/b", "x.yaml", "x.YML", "..\\x")] == [
        False, False, True, True, True, True,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ["the file is empty", "profiles new"]),
        ("[1, 2]", ["holds no mapping"]),
        ("image: {orientation: [", ["my-robot.yaml:1"]),
        (
            "image:\n  orientaton: {value: rot180, source: x}\n",
            ["my-robot.yaml:2:3", "did you mean image.orientation?"],
        ),
        ("imag:\n  orientation: {value: rot180, source: x}\n", ["my-robot.yaml:1:1", "imag"]),
        ("image:\n  orientation: rot180\n", ["2:3", "no value and source", "orientation: {value: ..."]),
        ("image:\n  orientation: {value: rot180}\n", ["2:3", "no source", "`source: ...`"]),
        ("image:\n  orientation: {value: rot180, source: '  '}\n", ["no source"]),
        ("image:\n  orientation: {source: us}\n", ["no value", "null means"]),
        ("image:\n  orientation: {value: rot180, source: us, sauce: x}\n", ["sauce"]),
        ("loop:\n  settle_steps: {value: ten, source: us}\n", ["is a text, and should be a number", "control steps"]),
        ("prompt:\n  template: {value: do it, source: us}\n", ["no template", "{instruction}"]),
        ("prompt:\n  template: {value: 'a {b} {instruction}', source: us}\n", ["no template"]),
        ("inherits: openvla-libreo\n", ["my-robot.yaml:1:1: inherits", "did you mean openvla-libero?"]),
        ("inherits: [openvla, nope.yaml]\n", ["1:1: inherits", "no profile 'nope.yaml'"]),
        ("inherits: {a: 1}\n", ["inherits is no name"]),
        ("inherits: my-robot.yaml\n", ["inherits this file in turn"]),
        ("image: 3\n", ["no profile has a key 'image'"]),
        ("summary: [1]\n", ["summary is no text"]),
    ],
)
def test_own_file_with_a_mistake(tmp_path: Path, text: str, said: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        load_profile(own_file(tmp_path, text))
    for part in said:
        assert part in str(caught.value)


def test_own_file_that_is_not_there(tmp_path: Path) -> None:
    own_file(tmp_path, OWN)
    with pytest.raises(UserError, match="no such file") as caught:
        load_profile(str(tmp_path / "my-robt.yaml"))
    assert "my-robot.yaml" in caught.value.remedy
    with pytest.raises(UserError, match="folder"):
        load_profile(f"{tmp_path}/")


def test_a_run_file_names_an_own_profile(tmp_path: Path) -> None:
    from vladoctor.runspec import load_run

    run = tmp_path / "run.yaml"
    named = "model: {path: x}\nenv: {suite: libero_object}\nprofile: {name: NAME}\n"
    run.write_text(named.replace("NAME", own_file(tmp_path, OWN)))
    assert choose_profile({}, load_run(str(run))).get("loop.control_freq") == 10
    run.write_text(named.replace("NAME", own_file(tmp_path, "image: {orientaton: {}}", "bad.yaml")))
    with pytest.raises(UserError, match=r"bad\.yaml:1") as caught:
        load_run(str(run))
    assert "profile.name" in str(caught.value)
    assert "image.orientation" in str(caught.value)


# profiles new.


def written(
    episodes: Sequence[Episode], folder: Path, monkeypatch: pytest.MonkeyPatch, name: str = "my-robot"
) -> new_module.Written:
    """Write a profile from episodes in the place of their traces."""
    by_path = {folder / f"{number}.mcap": one for number, one in enumerate(episodes)}
    monkeypatch.setattr(new_module, "find_traces", lambda path: [path])
    monkeypatch.setattr(new_module, "read_episode", lambda path: by_path[path])
    return write_profile(list(by_path), name, folder / f"{name}.yaml")


SHOTS = rendered("agentview")


def healthy(**changes: Any) -> Episode:
    """Twelve queries with frames, prompts, statistics and actions, after three settle steps."""
    seen = with_frames(SHOTS, **changes)
    said = episode(some_ids(12), returned=unnormalise(LIBERO_OBJECT), task={"settle_steps": 3, "horizon": 280})
    steps = [
        replace(one, query=replace(other.query, image=one.query.image), executed=other.executed)
        for one, other in zip(seen.steps, said.steps, strict=False)
        if one.query is not None and other.query is not None
    ]
    settle = [Step(number, executed=(0.0,) * 6 + (-1.0,)) for number in (-3, -2, -1)]
    return replace(
        said,
        task={**seen.task, **said.task},
        steps=[*settle, *steps],
        outcome=Outcome("success", True, len(steps)),
    )


def but_for_resizing(recorded: Episode, profile: Any) -> list[str]:
    """Codes of what is said of an episode; the images made up here went through no JPEG and no resizing filter."""
    return [finding.code for finding in judge(recorded, profile).findings if finding.code != "VD204"]


def test_new_round_trip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = healthy()
    result = written([recorded], tmp_path, monkeypatch)
    assert result.warnings == ("loop.settle_steps is 3 in these traces, and 10 in openvla-libero",)
    profile = load_profile(str(result.file))
    assert profile.inherits == ("openvla-libero",)
    assert {key: profile.get(key) for key in result.measured} == result.measured
    expected = {
        "image.orientation": "rot180",
        "prompt.template": load_profile("openvla").get("prompt.template"),
        "unnorm.keys": load_profile("openvla-libero").get("unnorm.keys"),
        "loop.settle_steps": 3,
        "loop.settle_action": [0, 0, 0, 0, 0, 0, -1],
        "loop.horizon": load_profile("openvla-libero").get("loop.horizon"),
        "action.dimensions": ["x", "y", "z", "roll", "pitch", "yaw", "gripper"],
        "action.chunk": 1,
        "gripper.values": [-1, 1],
    }
    assert {key: profile.get(key) for key in expected} == expected
    low, high = profile.get("action.range.low"), profile.get("action.range.high")
    rows = [step.executed for step in recorded.steps if step.number >= 0]
    assert all(least <= value <= most for row in rows for least, value, most in zip(low, row, high, strict=True))
    assert profile.source("image.orientation") == "measured on task0-init0-ep0, 12 queries; as in openvla-libero"
    text = result.file.read_text("utf-8")
    assert "prompt.lowercase: no instruction had capitals" in text
    assert "# openvla-libero has 10" in text
    assert max(map(len, text.splitlines())) <= 160
    assert not but_for_resizing(recorded, profile)


def test_new_for_a_checkpoint_of_no_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = healthy(orient=turned("flip-vertical"))
    language = "Stack the Cubes"
    for step in recorded.steps:
        if step.query is not None:
            step.query.prompt = "Task: stack the cubes"
    recorded = replace(
        recorded,
        run={"checkpoint": {"model_type": "mine"}},
        task={**recorded.task, "suite": "kitchen", "language": language, "horizon": 99},
    )
    result = written([recorded, recorded], tmp_path, monkeypatch)
    profile = load_profile(str(result.file))
    assert profile.inherits == ()
    expected = {
        "image.orientation": "flip-vertical",
        "environment.raw_view": "flip-vertical",
        "prompt.template": "Task: {instruction}",
        "prompt.lowercase": True,
        "unnorm.keys": {"kitchen": ["libero_object"]},
        "loop.horizon": {"kitchen": 99},
        "action.dimensions": [f"d{number}" for number in range(7)],
        "gripper.values": None,
        "tokens.first": None,
    }
    assert {key: profile.get(key) for key in expected} == expected
    assert profile.source("prompt.template") == "measured on task0-init0-ep0 and 1 more, 24 queries"
    assert "which executed dimension is the gripper is not known" in result.unmeasured["gripper.values"]
    assert not judge(recorded, profile).findings


def test_new_leaves_out_what_episodes_disagree_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = healthy(), healthy(orient=turned("identity"))
    other.steps[4].query.prompt = "something else"  # type: ignore[union-attr]
    other = replace(other, steps=other.steps[1:], outcome=Outcome("horizon", False, 12))
    result = written([one, other], tmp_path, monkeypatch)
    assert {"image.orientation", "prompt.template", "loop.settle_steps"} <= set(result.unmeasured)
    profile = load_profile(str(result.file))
    assert profile.get("image.orientation") == "rot180", "as inherited"
    assert "openvla/openvla@c8f03f4" in profile.source("image.orientation")
    assert "identity, rot180" in result.unmeasured["image.orientation"]


def test_new_says_nothing_of_a_gripper_that_never_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = healthy()
    result = written([replace(recorded, steps=recorded.steps[:9])], tmp_path, monkeypatch)
    assert "never told anything but -1" in result.unmeasured["gripper.values"]


def test_new_warns_of_episodes_that_failed_or_were_disturbed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = replace(healthy(orient=turned("identity")), outcome=Outcome("horizon", False, 12))
    failed = replace(failed, task={**failed.task, "fault": "no-rotation"})
    warnings = " ".join(written([failed], tmp_path, monkeypatch).warnings)
    assert "none of the episodes succeeded" in warnings
    assert "no-rotation" in warnings
    assert "image.orientation is 'identity' in these traces, and 'rot180' in openvla-libero" in warnings


def test_new_from_frames_that_come_another_way_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The profile is stated against the frames as LIBERO ships them."""
    recorded = healthy(raw=turned("flip-vertical"), orient=turned("flip-horizontal"))
    result = written([recorded], tmp_path, monkeypatch)
    assert result.measured["image.orientation"] == "rot180"
    assert not but_for_resizing(recorded, load_profile(str(result.file)))


def test_new_of_what_a_loop_hands_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = healthy()
    for step in recorded.steps:
        if step.query is not None:
            step.query.prompt, step.query.boundary = str(recorded.task["language"]), "openpi.infer"
            step.query.chunk = (step.query.action or (),) * 10
    recorded = replace(
        recorded, run={"checkpoint": {"family_hint": "openpi"}}, steps=recorded.steps[:3] + recorded.steps[3::5]
    )
    result = written([recorded], tmp_path, monkeypatch)
    assert result.measured["prompt.request"] == "{instruction}"
    assert (result.measured["action.chunk"], result.measured["action.execute"]) == (10, 5)
    assert "prompt.template" not in result.measured


@pytest.mark.parametrize(
    ("name", "out", "said"),
    [
        ("my robot", None, "no name"),
        ("openvla", None, "is taken"),
        ("mine", "mine", "would not be taken for a file"),
    ],
)
def test_new_names_that_cannot_be_taken(name: str, out: str | None, said: str) -> None:
    with pytest.raises(UserError, match=said):
        write_profile([], name, None if out is None else Path(out))


def test_new_replaces_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written([healthy()], tmp_path, monkeypatch)
    with pytest.raises(UserError, match="exists already"):
        written([healthy()], tmp_path, monkeypatch)


def test_new_from_different_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = replace(healthy(), run={"checkpoint": {"family_hint": "openpi"}})
    with pytest.raises(UserError, match="of different kinds: openvla-libero, openpi-libero"):
        written([healthy(), other], tmp_path, monkeypatch)


# The command.


def test_command_lists_and_prints(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.run(["profiles"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == list(profile_names())
    assert cli.run(["profiles", "--json"]) == 0
    assert [entry["name"] for entry in json.loads(capsys.readouterr().out)] == list(profile_names())
    for words in (["octo", "--json"], ["--json", "octo"], ["show", "octo", "--json"]):
        assert cli.run(["profiles", *words]) == 0
        shown = json.loads(capsys.readouterr().out)
        assert shown["values"]["action.chunk"]["value"] == 4
        assert list(shown["values"]) == list(profile_keys())
    assert cli.run(["profiles", own_file(tmp_path, OWN)]) == 0
    out = capsys.readouterr().out
    assert "inherits openvla-libero" in out
    assert "our training code" in out


def test_command_new(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = healthy()
    monkeypatch.setattr(new_module, "find_traces", lambda path: [path])
    monkeypatch.setattr(new_module, "read_episode", lambda path: recorded)
    file = tmp_path / "mine.yaml"
    assert cli.run(["profiles", "new", "x.mcap", "--name", "mine", "-o", str(file)]) == 0
    captured = capsys.readouterr()
    assert f"Profile: {file}" in captured.out
    assert "warning: loop.settle_steps is 3" in captured.err
    assert cli.run(["profiles", "new", "x.mcap"]) == 2
    assert "--name" in capsys.readouterr().err
