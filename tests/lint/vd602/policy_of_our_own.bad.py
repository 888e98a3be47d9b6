"""A policy of our own on LIBERO: its pictures and its gripper are its own business, the protocol is not."""

import argparse
import os

import numpy as np
import torch
from libero.libero import benchmark, get_libero_path
from libero.libero.envs import OffScreenRenderEnv
from torchvision import transforms

from ourlab.networks import Transformer

TO_TENSOR = transforms.Compose([transforms.ToTensor(), transforms.Resize((224, 224))])


class Agent:
    def __init__(self, path):
        self.network = Transformer(width=512)
        self.network.load_state_dict(torch.load(path))
        self.network.cuda().eval()

    @torch.no_grad()
    def act(self, obs, text):
        picture = TO_TENSOR(obs["agentview_image"][::-1].copy()).unsqueeze(0).cuda()
        return self.network(picture, [text])[0].cpu().numpy()


def evaluate(agent, task, states, steps):
    path = os.path.join(get_libero_path("bddl_files"), task.problem_folder, task.bddl_file)
    env = OffScreenRenderEnv(bddl_file_name=path, camera_heights=128, camera_widths=128)
    env.seed(0)
    won = 0
    for trial in range(20):
        obs = env.reset()  # expect: VD602
        for _ in range(5):
            obs, _, _, _ = env.step(np.zeros(7))
        for _ in range(steps):
            obs, _, done, _ = env.step(np.clip(agent.act(obs, task.language), -1, 1))
            if done:
                won += 1
                break
    env.close()
    return won / 20


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint")
    parser.add_argument("--suite", default="libero_10")
    parser.add_argument("--max-steps", type=int, default=600)
    args = parser.parse_args()
    np.random.seed(0)
    torch.manual_seed(0)
    agent = Agent(args.checkpoint)
    suite = benchmark.get_benchmark_dict()[args.suite]()
    for number in range(suite.n_tasks):
        print(evaluate(agent, suite.get_task(number), suite.get_task_init_states(number), args.max_steps))


if __name__ == "__main__":
    main()
