"""Evaluates an OpenVLA checkpoint on a task of LIBERO: python evaluate.py weights/tiny-openvla --task 0"""

import argparse
import io
from pathlib import Path

import numpy as np
import torch
import transformers
from libero.libero import benchmark, get_libero_path
from libero.libero.envs import OffScreenRenderEnv
from PIL import Image

from fixtures import STATES

SIZE = 256
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = torch.bfloat16 if DEVICE == "cuda" else torch.float32
Model = getattr(transformers, "AutoModelForVision2Seq", None) or transformers.AutoModelForImageTextToText


class Policy:
    def __init__(self, path, unnorm_key="libero_object"):
        self.processor = transformers.AutoProcessor.from_pretrained(path, trust_remote_code=True)
        self.model = Model.from_pretrained(path, trust_remote_code=True).to(DEVICE, DTYPE).eval()
        self.unnorm_key = unnorm_key

    def act(self, frame, instruction):
        """What the environment is to execute, (7,)."""
        picture = prepare(frame, self.model.config.image_sizes[0])
        prompt = f"In: What action should the robot take to {instruction.lower()}?\nOut:"
        inputs = self.processor(prompt, picture).to(DEVICE, dtype=DTYPE)
        with torch.inference_mode():
            action = self.model.predict_action(**inputs, unnorm_key=self.unnorm_key, do_sample=False)
        action = np.array(action, dtype=float)
        action[6] = -np.sign(2 * action[6] - 1)  # the model opens at 1, the environment at -1
        return action


def prepare(frame, size):
    """The picture as it was in training: turned by 180 degrees, through JPEG, 90 % of its area, resized."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(frame[::-1, ::-1])).save(buffer, "JPEG", quality=95)
    margin = SIZE * (1 - 0.9**0.5) / 2
    box = (margin, margin, SIZE - margin, SIZE - margin)
    return Image.open(buffer).convert("RGB").resize((size, size), Image.Resampling.LANCZOS, box=box)


def make_env(number, suite="libero_object"):
    """The environment of a task, its instruction and its init states."""
    tasks = benchmark.get_benchmark_dict()[suite]()
    task = tasks.get_task(number)
    file = Path(get_libero_path("bddl_files"), task.problem_folder, task.bddl_file)
    env = OffScreenRenderEnv(
        bddl_file_name=str(file), camera_names=["agentview"], camera_heights=SIZE, camera_widths=SIZE
    )
    env.seed(0)
    return env, task.language, tasks.get_task_init_states(number)


def evaluate(policy, env, instruction, init_state, max_steps=280):
    """Run an episode; whether it succeeded."""
    env.reset()
    obs = env.set_init_state(init_state)
    for _ in range(10):
        obs, *_ = env.step([0, 0, 0, 0, 0, 0, -1])
    for _ in range(max_steps):
        obs, _, done, _ = env.step(policy.act(obs["agentview_image"], instruction))
        if done:
            return True
    return False


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint")
    parser.add_argument("--task", type=int, default=0)
    arguments = parser.parse_args()
    policy = Policy(arguments.checkpoint)
    env, instruction, init_states = make_env(arguments.task)
    results = [evaluate(policy, env, instruction, init_states[state]) for state in STATES]
    print(f"{sum(results)} of {len(results)} episodes succeeded")
    env.close()


if __name__ == "__main__":
    main()
