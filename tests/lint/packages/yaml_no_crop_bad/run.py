"""Run a suite."""

import random
from types import SimpleNamespace

import numpy as np
import torch
import yaml

from evaluation.policies import make_policy
from evaluation.simulator import Episode, tasks_of


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
    with open("config.yaml") as file:
        main(SimpleNamespace(**yaml.safe_load(file)))
