"""Of which family a policy is, by its class, its checkpoint's name and the words of the files around the query."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

BY_NAME: tuple[tuple[str, str], ...] = (
    (r"mini-?vla|prism-qwen|openvla-mini|minivla", "minivla"),
    (r"vla[-_]?adapter|ecot", "relative"),
    (r"cogact", "cogact"),
    (r"spatial[-_]?vla", "spatialvla"),
    (r"trace[-_]?vla", "tracevla"),
    (r"(?<![a-z])univla|latent_action", "univla"),
    (r"gr00t|groot", "gr00t"),
    (r"(?<![a-z])octo(?![a-z])|octomodel|octoinference", "octo"),
    (r"(?<![a-z])rt[-_]?1|rt1inference", "rt-1"),
    (r"(?<![a-z])rdt(?![a-z])|roboticdiffusiontransformer", "rdt"),
    (r"smolvla", "lerobot.smolvla"),
    (r"(?<![a-z])xvla", "lerobot.xvla"),
    (r"openvla[-_]?oft|(?<![a-z])oft(?![a-z])", "openvla-oft"),
    (r"openvla", "openvla"),
)
"""What a name of a class, a module or a checkpoint says, the surer first."""

_LEROBOT = re.compile(r"lerobot\.(?:common\.)?policies\.(\w+)")
_LEROBOT_CLASS: Mapping[str, str] = {
    "PI0Policy": "lerobot.pi0",
    "PI05Policy": "lerobot.pi05",
    "PI0FASTPolicy": "lerobot.pi0fast",
    "SmolVLAPolicy": "lerobot.smolvla",
    "XVLAPolicy": "lerobot.xvla",
    "ACTPolicy": "lerobot.act",
    "DiffusionPolicy": "lerobot.diffusion",
}

OPENVLA_LIKE = frozenset({"openvla", "openvla-oft", "univla", "tracevla", "minivla"})
"""Answer one gripper value in 0..1, 1 open, and take a prompt that the loop makes."""

OPEN_IS_ONE = OPENVLA_LIKE | {"cogact", "spatialvla", "octo"}
"""Families whose gripper is 1 for open, 0 for closed."""

MAKE_THEIR_PROMPT = frozenset({"openpi", "octo", "cogact", "gr00t", "rt-1", "rdt", "spatialvla"})
"""Families that are given the instruction and make the prompt themselves."""


BASE_CHECKPOINTS = frozenset({"openvla/openvla-7b", "openvla-7b", "openvla/openvla-v01-7b"})
"""OpenVLA as it was pretrained: 25 datasets, none of them LIBERO."""

BASE_KEYS = frozenset(
    {"austin_buds_dataset_converted_externally_to_rlds", "austin_sailor_dataset_converted_externally_to_rlds",
     "austin_sirius_dataset_converted_externally_to_rlds", "bc_z", "berkeley_autolab_ur5", "berkeley_cable_routing",
     "berkeley_fanuc_manipulation", "bridge_orig", "cmu_stretch",
     "dlr_edan_shared_control_converted_externally_to_rlds", "dobbe", "fmb_dataset", "fractal20220817_data",
     "furniture_bench_dataset_converted_externally_to_rlds", "iamlab_cmu_pickup_insert_converted_externally_to_rlds",
     "jaco_play", "kuka", "nyu_franka_play_dataset_converted_externally_to_rlds", "roboturk",
     "stanford_hydra_dataset_converted_externally_to_rlds", "taco_play", "toto",
     "ucsd_kitchen_dataset_converted_externally_to_rlds", "utaustin_mutex", "viola"}
)  # fmt: skip
"""Keys of openvla-7b's statistics (OpenHelix-Team/VLA-Adapter@838a36d pretrained_models/configs/config.json)."""


def named(text: str) -> str:
    """The family that a name says; empty where it says none."""
    lowered = text.lower()
    return next((family for pattern, family in BY_NAME if re.search(pattern, lowered)), "")


def guess(
    owner: str, method: str, keywords: Iterable[str], checkpoint: str, text: str, texts: Iterable[str], has_ids: bool
) -> str:
    """The family of the policy that a query asks; empty where it is not known.

    Args:
        owner: qualified name of its class, as far as it is known.
        method: name of the method that is called. keywords: of its arguments.
        checkpoint: id or path, empty where not known.
        text: of the file with the query. texts: of all files that were followed.
        has_ids: whether it is given tokenised text, so that the loop made the prompt.
    """
    given = set(keywords)
    short = owner.rpartition(".")[2]
    if short in _LEROBOT_CLASS:
        return _LEROBOT_CLASS[short]
    policy = _LEROBOT.search(owner)
    if policy:
        return f"lerobot.{policy[1]}"
    if "openpi" in owner or short in ("WebsocketClientPolicy", "WebsocketPolicy"):
        return "openpi"
    if short in ("PrismaticVLM", "load_vla") or owner.startswith("prismatic"):
        return "openvla.prismatic"
    by_name = named(short) or named(checkpoint)
    if "apply_chat_template" in text and by_name in ("", "openvla"):
        return ""  # another language model's prompt
    if method == "predict_action":
        if owner.endswith("AutoModel.from_pretrained") and "input_ids" not in given:
            return "spatialvla" if "spatialvla" in text.lower() or not by_name else by_name
        if given & {"action_head", "proprio", "proprio_projector", "use_film", "noisy_action_projector"}:
            return "openvla-oft" if by_name in ("", "openvla", "openvla-oft") else by_name
        if given & {"cfg_scale", "use_ddim", "num_ddim_steps"}:
            return "cogact"
        if by_name in ("", "openvla"):
            around = _words(text)
            if around in ("cogact", "spatialvla", "univla", "tracevla", "minivla", "relative"):
                return around
            if by_name or has_ids or "unnorm_key" in given:
                return "openvla" if has_ids or by_name or "openvla" in text.lower() else ""
        return by_name
    if by_name:
        return by_name
    if method == "sample_actions":
        return "octo"
    if method in ("select_action", "select_action_chunk", "predict_action_chunk"):
        found = {f"lerobot.{kind}" for one in (text, *texts) for kind in _LEROBOT.findall(one)}
        found = {one for one in found if one not in ("lerobot.factory", "lerobot.pretrained", "lerobot.utils")}
        return found.pop() if len(found) == 1 else "lerobot"
    if method == "infer" and any("openpi" in one for one in (text, *texts)):
        return "openpi"
    around = _words(text) if not short[:1].isupper() else ""
    # That a text speaks of OpenVLA says little: most files that compare policies do.
    return around if around != "openvla" or has_ids or method in ("get_action", "get_vla_action") else ""


@lru_cache(maxsize=256)
def _words(text: str) -> str:
    """The one family that a text speaks of besides OpenVLA, which others are made of; empty where several."""
    lowered = text.lower()
    found = [family for pattern, family in BY_NAME if family != "openvla" and re.search(pattern, lowered)]
    if len(set(found)) == 1:
        return found[0]
    return "openvla" if not found and "openvla" in lowered else ""
