"""A pi0 server, asked from LIBERO."""

import collections
import dataclasses
import math
import pathlib

import numpy as np
from libero.libero import benchmark, get_libero_path
from libero.libero.envs import OffScreenRenderEnv
from openpi_client import image_tools, websocket_client_policy

REST = [0.0] * 6 + [-1.0]
LIMITS = {"libero_spatial": 220, "libero_object": 280, "libero_goal": 300, "libero_10": 520, "libero_90": 400}


@dataclasses.dataclass
class Args:
    host: str = "127.0.0.1"
    port: int = 8000
    replan: int = 5
    suite: str = "libero_spatial"
    wait: int = 10
    trials: int = 50
    seed: int = 7


def axis_angle(quat):
    w = min(max(quat[3], -1.0), 1.0)
    den = math.sqrt(1.0 - w * w)
    return np.zeros(3) if math.isclose(den, 0.0) else quat[:3] * 2.0 * math.acos(w) / den


def picture(frame):
    turned = np.ascontiguousarray(frame[::-1, ::-1])
    return image_tools.convert_to_uint8(image_tools.resize_with_pad(turned, 224, 224))


def query(client, obs, instruction):
    return client.infer(
        {
            "observation/image": picture(obs["agentview_image"]),
            "observation/wrist_image": picture(obs["robot0_eye_in_hand_image"]),
            "observation/state": np.concatenate(
                (obs["robot0_eef_pos"], axis_angle(obs["robot0_eef_quat"]), obs["robot0_gripper_qpos"])
            ),
            "prompt": str(instruction),
        }
    )["actions"]


def run_episode(env, state, instruction, client, args):
    env.reset()
    obs = env.set_init_state(state)
    plan = collections.deque()
    step = 0
    while step < LIMITS[args.suite]:  # expect: VD601
        if not plan:
            plan.extend(query(client, obs, instruction)[: args.replan])
        obs, _, done, _ = env.step(plan.popleft().tolist())
        if done:
            return True
        step += 1
    return False


def main(args):
    np.random.seed(args.seed)
    suite = benchmark.get_benchmark_dict()[args.suite]()
    client = websocket_client_policy.WebsocketClientPolicy(args.host, args.port)
    for task_id in range(suite.n_tasks):
        task = suite.get_task(task_id)
        states = suite.get_task_init_states(task_id)
        bddl = pathlib.Path(get_libero_path("bddl_files")) / task.problem_folder / task.bddl_file
        env = OffScreenRenderEnv(bddl_file_name=bddl, camera_heights=256, camera_widths=256)
        env.seed(args.seed)
        won = sum(run_episode(env, states[i], task.language, client, args) for i in range(args.trials))
        print(task.language, won / args.trials)


if __name__ == "__main__":
    main(Args())
