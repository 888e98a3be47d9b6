"""OpenVLA side of the evaluation: checkpoint, processor, prompt, one action."""

import json
import os

import numpy as np
import torch
import transformers
from PIL import Image
from transformers import AutoProcessor

# transformers 5 has dropped the old name
AutoModelForVLA = getattr(transformers, "AutoModelForVision2Seq", None) or transformers.AutoModelForImageTextToText

DEVICE = torch.device("cuda:0") if torch.cuda.is_available() else torch.device("cpu")
DTYPE = torch.bfloat16 if torch.cuda.is_available() else torch.float32
CROP_AREA = 0.9
PREDICT_KWARGS = {"do_sample": False}
CHAT_PREAMBLE = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


def get_vla(cfg):
    print(f"[*] Loading {cfg.pretrained_checkpoint} on {DEVICE} in {DTYPE}")
    dtype_name = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"
    vla = AutoModelForVLA.from_pretrained(cfg.pretrained_checkpoint, trust_remote_code=True, **{dtype_name: DTYPE})
    vla = vla.to(DEVICE)
    vla.eval()
    statistics = os.path.join(cfg.pretrained_checkpoint, "dataset_statistics.json")  # noqa: PTH118
    if os.path.isfile(statistics):  # noqa: PTH113
        with open(statistics) as f:  # noqa: PTH123
            vla.norm_stats = json.load(f)
    else:
        print("WARNING: no dataset_statistics.json next to the weights; using those of config.json")
    return vla


def get_processor(cfg):
    return AutoProcessor.from_pretrained(cfg.pretrained_checkpoint, trust_remote_code=True)


def get_image_size(vla):
    return int(vla.config.image_sizes[0])


def lerp_axis(values, at, axis):
    lower = np.floor(at).astype(np.int64)
    upper = np.minimum(lower + 1, values.shape[axis] - 1)
    share = (at - lower).astype(np.float32)
    share = share[:, None, None] if axis == 0 else share[None, :, None]
    return values.take(lower, axis=axis) * (1 - share) + values.take(upper, axis=axis) * share


def crop_to_center(frame, area=CROP_AREA):
    """Central window of that area, bilinearly blown up to the old size, corners on corners."""
    scale = np.sqrt(area)
    out = frame.astype(np.float32)
    for axis in (0, 1):
        length = frame.shape[axis]
        start = (1.0 - scale) / 2.0
        at = (start + scale * np.linspace(0.0, 1.0, length)) * (length - 1)
        out = lerp_axis(out, at, axis)
    return np.rint(out).clip(0, 255).astype(np.uint8)


def build_prompt(base_vla_name, task_label):
    if "openvla-v01" in str(base_vla_name):
        return f"{CHAT_PREAMBLE} USER: What action should the robot take to {task_label.lower()}? ASSISTANT:"
    return f"In: What action should the robot take to {task_label.lower()}?\nOut:"


def get_vla_action(vla, processor, base_vla_name, observation, task_label, unnorm_key, center_crop=False):
    """One action of 7 numbers: x, y, z, roll, pitch, yaw in the environment's units, gripper 1 = open."""
    frame = observation["full_image"]
    if center_crop:
        frame = crop_to_center(frame)
    picture = Image.fromarray(frame).convert("RGB")
    prompt = build_prompt(base_vla_name, task_label)
    inputs = processor(prompt, picture).to(DEVICE, dtype=DTYPE)
    return vla.predict_action(**inputs, unnorm_key=unnorm_key, **PREDICT_KWARGS)
