"""Run a suite."""

import random
from dataclasses import dataclass

import numpy as np
import torch

from evaluation.policies import make_policy
from evaluation.simulator import Episode, tasks_of


@dataclass
class Config:
    policy: str = "openvla"
    checkpoint: str = "openvla/openvla-7b-finetuned-libero-object"
    suite: str = "libero_object"
    center_crop: bool = True
    trials: int = 50
    seed: int = 7
    device: str = "cuda:0"


def main(config):
    random.seed(config.seed)
    np.random.seed(config.seed)
    torch.manual_seed(config.seed)
    policy = make_policy(config)
    for task, states in tasks_of(config.suite):
        won = 0
        for trial in range(config.trials):
            policy.reset()
            won += Episode(task, states[trial], config.suite).run(policy)
        print(task.name, won / config.trials)


if __name__ == "__main__":
    main(Config())
