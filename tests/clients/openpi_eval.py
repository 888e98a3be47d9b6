"""LIBERO client of a websocket policy server, in openpi's manner.

python openpi_eval.py --host 127.0.0.1 --port 8000 --task-suite-name libero_object --task-id 0 --episodes 1
"""

import argparse
import collections
import logging
import math
import pathlib

import numpy as np
from libero.libero import benchmark, get_libero_path
from libero.libero.envs import OffScreenRenderEnv
from openpi_client import image_tools
from openpi_client.websocket_client_policy import WebsocketClientPolicy

DUMMY_ACTION = [0.0] * 6 + [-1.0]
RESOLUTION = 256
MAX_STEPS = {"libero_spatial": 220, "libero_object": 280, "libero_goal": 300, "libero_10": 520, "libero_90": 400}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--resize-size", type=int, default=224)
    parser.add_argument("--replan-steps", type=int, default=5)
    parser.add_argument("--task-suite-name", default="libero_object")
    parser.add_argument("--task-id", type=int, default=0)
    parser.add_argument("--num-steps-wait", type=int, default=10)
    parser.add_argument("--episodes", type=int, default=1)
    parser.add_argument("--first", type=int, default=30)
    parser.add_argument("--max-steps", type=int, default=0)
    parser.add_argument("--seed", type=int, default=7)
    return parser.parse_args()


def make_env(task, seed):
    bddl = pathlib.Path(get_libero_path("bddl_files")) / task.problem_folder / task.bddl_file
    env = OffScreenRenderEnv(bddl_file_name=bddl, camera_heights=RESOLUTION, camera_widths=RESOLUTION)
    env.seed(seed)
    return env, task.language


def axis_angle(quat):
    real = min(max(quat[3], -1.0), 1.0)
    length = math.sqrt(1.0 - real * real)
    return np.zeros(3) if math.isclose(length, 0.0) else np.asarray(quat[:3]) * 2.0 * math.acos(real) / length


def prepare(frame, size):
    turned = np.ascontiguousarray(frame[::-1, ::-1])
    return image_tools.convert_to_uint8(image_tools.resize_with_pad(turned, size, size))


def main() -> None:
    args = parse_args()
    np.random.seed(args.seed)  # noqa: NPY002
    suite = benchmark.get_benchmark_dict()[args.task_suite_name]()
    limit = args.max_steps or MAX_STEPS[args.task_suite_name]

    client = WebsocketClientPolicy(args.host, args.port)
    logging.info("server: %s", client.get_server_metadata())

    task = suite.get_task(args.task_id)
    states = suite.get_task_init_states(args.task_id)
    env, description = make_env(task, args.seed)
    logging.info("task: %s", description)

    successes = 0
    for episode in range(args.episodes):
        env.reset()
        plan: collections.deque = collections.deque()
        obs = env.set_init_state(states[args.first + episode])
        t, done = 0, False
        while t < limit + args.num_steps_wait:
            if t < args.num_steps_wait:
                obs, _, done, _ = env.step(DUMMY_ACTION)
                t += 1
                continue
            img = prepare(obs["agentview_image"], args.resize_size)
            wrist = prepare(obs["robot0_eye_in_hand_image"], args.resize_size)
            if not plan:
                element = {
                    "observation/image": img,
                    "observation/wrist_image": wrist,
                    "observation/state": np.concatenate(
                        (obs["robot0_eef_pos"], axis_angle(obs["robot0_eef_quat"]), obs["robot0_gripper_qpos"])
                    ),
                    "prompt": str(description),
                }
                chunk = client.infer(element)["actions"]
                assert len(chunk) >= args.replan_steps, f"{len(chunk)} actions for {args.replan_steps} steps"
                plan.extend(chunk[: args.replan_steps])
            action = plan.popleft()
            obs, _, done, _ = env.step(action.tolist())
            if done:
                successes += 1
                break
            t += 1
        logging.info("episode %d: success %s after %d steps", episode, bool(done), t - args.num_steps_wait)

    env.close()
    logging.info("Total success rate: %.3f", successes / args.episodes)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    main()
