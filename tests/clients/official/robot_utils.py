"""Everything that depends neither on the simulator nor on the model."""

import os
import random
import time

import numpy as np
import torch
from openvla_utils import get_vla_action

ACTION_DIM = 7
STARTED = time.strftime("%Y%m%d-%H%M%S")

np.set_printoptions(precision=3, suppress=True)


def set_seed_everywhere(seed):
    os.environ["PYTHONHASHSEED"] = str(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)


def get_action(cfg, model, processor, observation, task_label):
    action = get_vla_action(
        model,
        processor,
        cfg.pretrained_checkpoint,
        observation,
        task_label,
        cfg.unnorm_key,
        center_crop=cfg.center_crop,
    )
    assert action.shape == (ACTION_DIM,), f"unexpected action shape {action.shape}"
    return action


def normalize_gripper_action(action, binarize=True):
    """Last entry from [0, 1] to [-1, 1], in place."""
    action[..., -1] = 2.0 * action[..., -1] - 1.0
    if binarize:
        action[..., -1] = np.sign(action[..., -1])
    return action


def invert_gripper_action(action):
    """Training data say 1 = open, the simulator wants -1 = open; in place."""
    action[..., -1] *= -1.0
    return action
