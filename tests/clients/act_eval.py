"""LIBERO client of an OpenVLA server with POST /act.

python act_eval.py --url http://127.0.0.1:8001/act --episodes 1
"""

import argparse
import time
from pathlib import Path

import json_numpy
import numpy as np
import requests
from libero.libero import benchmark, get_libero_path
from libero.libero.envs import OffScreenRenderEnv
from PIL import Image


def model_image(obs):
    """Rotate, crop 90 % of the area and resize; the server takes the picture as it comes."""
    frame = np.ascontiguousarray(obs["agentview_image"][::-1, ::-1])
    side = frame.shape[0]
    margin = side * (1 - 0.9**0.5) / 2
    box = (margin, margin, side - margin, side - margin)
    return np.asarray(Image.fromarray(frame).resize((224, 224), Image.LANCZOS, box=box))


def query(session, url, image, instruction, unnorm_key):
    reply = session.post(url, json={"image": image, "instruction": instruction, "unnorm_key": unnorm_key}, timeout=60)
    reply.raise_for_status()
    action = reply.json()
    if isinstance(action, str):
        raise RuntimeError(f"the server says {action!r}; see its log")
    return np.array(action, dtype=np.float64)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", default="http://127.0.0.1:8001/act")
    parser.add_argument("--suite", default="libero_object")
    parser.add_argument("--task", type=int, default=0)
    parser.add_argument("--unnorm-key", default="libero_object")
    parser.add_argument("--episodes", type=int, default=1)
    parser.add_argument("--first", type=int, default=30)
    parser.add_argument("--max-steps", type=int, default=280)
    args = parser.parse_args()

    suite = benchmark.get_benchmark_dict()[args.suite]()
    task = suite.get_task(args.task)
    states = suite.get_task_init_states(args.task)
    env = OffScreenRenderEnv(
        bddl_file_name=str(Path(get_libero_path("bddl_files")) / task.problem_folder / task.bddl_file),
        camera_heights=256,
        camera_widths=256,
    )
    env.seed(0)
    json_numpy.patch()  # only now: json_numpy 2.1 breaks the import of scipy, which robosuite needs
    session = requests.Session()

    results = []
    for episode in range(args.episodes):
        env.reset()
        obs = env.set_init_state(states[args.first + episode])
        for _ in range(10):
            obs, *_ = env.step([0, 0, 0, 0, 0, 0, -1])
        done, begun = False, time.time()
        for count in range(1, args.max_steps + 1):  # noqa: B007
            action = query(session, args.url, model_image(obs), task.language, args.unnorm_key)
            action[-1] = -np.sign(2 * action[-1] - 1)
            obs, _, done, _ = env.step(action)
            if done:
                break
        results.append(bool(done))
        rate = (time.time() - begun) / count * 1e3
        print(f"episode {episode}: {'success' if done else 'failure'}, {count} steps, {rate:.0f} ms a step")
    env.close()
    print(f"success rate {np.mean(results):.2f}")


if __name__ == "__main__":
    main()
