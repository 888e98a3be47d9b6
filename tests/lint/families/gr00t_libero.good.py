"""GR00T N1.5 behind its server, on LIBERO."""

import os

import numpy as np
from gr00t.eval.service import ExternalRobotInferenceClient
from libero.libero import benchmark, get_libero_path
from libero.libero.envs import OffScreenRenderEnv
from robosuite.utils.transform_utils import quat2axisangle

LIMITS = {"libero_spatial": 220, "libero_object": 280, "libero_goal": 600, "libero_10": 1000, "libero_90": 400}
PARTS = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")


def observation(obs, instruction):
    angles = quat2axisangle(obs["robot0_eef_quat"])
    position = obs["robot0_eef_pos"]
    return {
        "video.image": np.ascontiguousarray(obs["agentview_image"][::-1, ::-1])[None],
        "video.wrist_image": np.ascontiguousarray(obs["robot0_eye_in_hand_image"][::-1, ::-1])[None],
        "state.x": position[None, 0:1],
        "state.y": position[None, 1:2],
        "state.z": position[None, 2:3],
        "state.roll": angles[None, 0:1],
        "state.pitch": angles[None, 1:2],
        "state.yaw": angles[None, 2:3],
        "state.gripper": obs["robot0_gripper_qpos"][None],
        "annotation.human.action.task_description": [instruction],
    }


def to_env(chunk, row=0):
    action = np.concatenate([np.atleast_1d(chunk[f"action.{part}"][row]) for part in PARTS])
    action[-1] = np.sign(1 - 2 * action[-1])
    return action


def run(env, client, state, instruction, limit):
    env.reset()
    obs = env.set_init_state(state)
    for _ in range(10):
        obs, _, _, _ = env.step([0, 0, 0, 0, 0, 0, -1])
    for _ in range(limit):
        chunk = client.get_action(observation(obs, instruction))
        obs, _, done, _ = env.step(to_env(chunk).tolist())
        if done:
            return True
    return False


def main(name="libero_spatial"):
    client = ExternalRobotInferenceClient(host="localhost", port=5555)
    suite = benchmark.get_benchmark_dict()[name]()
    for number in range(suite.n_tasks):
        task, states = suite.get_task(number), suite.get_task_init_states(number)
        path = os.path.join(get_libero_path("bddl_files"), task.problem_folder, task.bddl_file)
        env = OffScreenRenderEnv(bddl_file_name=path, camera_heights=256, camera_widths=256)
        env.seed(0)
        print(task.name, [run(env, client, states[i], task.language, LIMITS[name]) for i in range(5)])


if __name__ == "__main__":
    main()
