#!/usr/bin/env python3
"""Write a small checkpoint of one of LeRobot's own policy classes, with random weights, that `lerobot-eval` loads.

    python tests/clients/make_lerobot_policy.py FOLDER --type smolvla|act|diffusion

Classes, files and processing steps are LeRobot's; only the sizes are ours, and nothing is downloaded. The statistics
are made up, no two of them alike, so that a wrong one shows.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

SIZE = 256
"""Height and width of the frames; LeRobot's LIBERO env makes no others."""

CAMERAS = ("observation.images.image", "observation.images.image2")

# Position and axis-angle of the hand, the two fingers. Of the order of what LIBERO's arm does, otherwise made up.
STATE_MEAN = (-0.05, 0.02, 0.95, 3.05, -0.1, -0.05, 0.026, -0.027)
STATE_STD = (0.1, 0.14, 0.2, 0.31, 0.42, 0.23, 0.014, 0.013)
# Translation, rotation and gripper; small, so that the arm trembles where it stands.
ACTION_MEAN = (0.07, 0.01, -0.06, 0.001, 0.004, -0.003, -0.15)
ACTION_STD = (0.31, 0.28, 0.33, 0.038, 0.057, 0.064, 0.97)
IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)

WORDS = (
    "pick up the alphabet soup and place it in the basket",
    "pick up the cream cheese and place it in the basket",
    "pick up the salad dressing and place it in the basket",
    "pick up the bbq sauce and place it in the basket",
    "pick up the ketchup and place it in the basket",
    "pick up the tomato sauce and place it in the basket",
    "pick up the butter and place it in the basket",
    "pick up the milk and place it in the basket",
    "pick up the chocolate pudding and place it in the basket",
    "pick up the orange juice and place it in the basket",
)
PAD, END = "<|im_end|>", "<end_of_utterance>"
VLM_TOKENS = {
    "image_token": "<image>",
    "fake_image_token": "<fake_token_around_image>",
    "global_image_token": "<global-img>",
    "end_of_utterance_token": END,
}
PATCH, SCALE, RESIZED = 16, 4, 512


def make_policy(folder: Path, kind: str, seed: int = 0) -> Path:
    """Write the checkpoint and return its folder: config, weights, both processors and, for SmolVLA, its `vlm`."""
    import torch
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.policies.factory import get_policy_class, make_policy_config, make_pre_post_processors

    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    options = {"smolvla": _smolvla, "act": _act, "diffusion": _diffusion}[kind](folder)
    state = PolicyFeature(type=FeatureType.STATE, shape=(len(STATE_MEAN),))
    cameras = {name: PolicyFeature(type=FeatureType.VISUAL, shape=(3, SIZE, SIZE)) for name in CAMERAS}
    config = make_policy_config(
        kind,
        input_features={"observation.state": state, **cameras},
        output_features={"action": PolicyFeature(type=FeatureType.ACTION, shape=(len(ACTION_MEAN),))},
        device="cpu",
        push_to_hub=False,
        **options,
    )
    policy = get_policy_class(kind)(config)
    policy.save_pretrained(folder)
    for processor in make_pre_post_processors(config, dataset_stats=_statistics()):
        processor.save_pretrained(folder)
    return folder


def _statistics() -> dict[str, dict[str, Any]]:
    import torch

    def moments(mean: tuple[float, ...], std: tuple[float, ...]) -> dict[str, Any]:
        middle, spread = torch.tensor(mean), torch.tensor(std)
        low, high = middle - 3 * spread, middle + 3 * spread
        return {"mean": middle, "std": spread, "min": low, "max": high, "q01": low * 0.9, "q99": high * 0.9}

    image = {name: value.reshape(3, 1, 1) for name, value in moments(IMAGE_MEAN, IMAGE_STD).items()}
    return {
        "observation.state": moments(STATE_MEAN, STATE_STD),
        "action": moments(ACTION_MEAN, ACTION_STD),
        **dict.fromkeys(CAMERAS, image),
    }


def _act(_: Path) -> dict[str, Any]:
    return {
        "chunk_size": 20,
        "n_action_steps": 5,
        "pretrained_backbone_weights": None,  # by default they are downloaded
        "dim_model": 32,
        "n_heads": 2,
        "dim_feedforward": 64,
        "n_encoder_layers": 1,
        "n_vae_encoder_layers": 1,
        "latent_dim": 4,
    }


def _diffusion(_: Path) -> dict[str, Any]:
    return {
        "horizon": 8,
        "n_action_steps": 4,
        "resize_shape": (96, 96),
        "down_dims": (16, 32),
        "diffusion_step_embed_dim": 16,
        "spatial_softmax_num_keypoints": 8,
        "noise_scheduler_type": "DDIM",
        "num_inference_steps": 4,
    }


def _smolvla(folder: Path) -> dict[str, Any]:
    _save_vlm(folder / "vlm")
    return {
        # Absolute, because LeRobot passes it to transformers as it stands, which would take it for a name on the hub.
        "vlm_model_name": str(folder / "vlm"),
        "load_vlm_weights": False,  # the policy's own file holds the VLM's weights as well
        "resize_imgs_with_padding": (RESIZED, RESIZED),
        "n_action_steps": 10,
        "num_steps": 4,
        "num_vlm_layers": 2,
    }


def _save_vlm(folder: Path) -> None:
    """Write what SmolVLA reads of its VLM: config, tokenizer and processor, no weights."""
    from transformers import SmolVLMConfig, SmolVLMImageProcessor, SmolVLMProcessor, SmolVLMVideoProcessor

    tokenizer = _tokenizer()
    heads, width = 4, 64
    config = SmolVLMConfig(
        image_token_id=tokenizer.image_token_id,
        pad_token_id=tokenizer.pad_token_id,
        scale_factor=SCALE,
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": RESIZED,
            "patch_size": PATCH,
        },
        text_config={
            "model_type": "llama",
            "hidden_size": width,
            "intermediate_size": 2 * width,
            "num_hidden_layers": 2,
            "num_attention_heads": heads,
            "num_key_value_heads": heads // 2,
            "head_dim": width // heads,
            "vocab_size": len(tokenizer),
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
        },
    )
    config.save_pretrained(folder)
    edge = {"longest_edge": RESIZED}
    SmolVLMProcessor(
        SmolVLMImageProcessor(size=edge, max_image_size=edge),
        tokenizer,
        SmolVLMVideoProcessor(size=edge, max_image_size=edge),
        image_seq_len=(RESIZED // PATCH // SCALE) ** 2,
    ).save_pretrained(folder)


def _tokenizer() -> Any:
    """A byte-level BPE of LIBERO's instructions: every byte has an id, so that any text survives."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2TokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[PAD, *VLM_TOKENS.values()],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(WORDS, trainer)
    return GPT2TokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        bos_token=PAD,
        unk_token=PAD,
        extra_special_tokens=VLM_TOKENS,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a small random checkpoint that lerobot-eval loads.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--type", dest="kind", choices=("smolvla", "act", "diffusion"), default="smolvla")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(make_policy(arguments.folder, arguments.kind, arguments.seed))


if __name__ == "__main__":
    main()
