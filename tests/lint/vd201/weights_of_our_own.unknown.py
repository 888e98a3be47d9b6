"""SmolVLA on LIBERO, with LeRobot's policy and our own rollout."""

import os

import numpy as np
import torch
from lerobot.policies.factory import make_pre_post_processors
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
from libero.libero import benchmark, get_libero_path
from libero.libero.envs import OffScreenRenderEnv
from robosuite.utils.transform_utils import quat2axisangle

CHECKPOINT = "HuggingFaceVLA/smolvla_libero"
SUITE = "libero_10"
LIMIT = 520
DEVICE = "cuda"


def tensor(frame):
    upright = np.ascontiguousarray(frame)
    return torch.from_numpy(upright).permute(2, 0, 1).float().div(255).unsqueeze(0).to(DEVICE)


def batch(obs, instruction):
    state = np.concatenate([obs["robot0_eef_pos"], quat2axisangle(obs["robot0_eef_quat"]), obs["robot0_gripper_qpos"]])
    return {
        "observation.images.image": tensor(obs["agentview_image"]),
        "observation.images.image2": tensor(obs["robot0_eye_in_hand_image"]),
        "observation.state": torch.from_numpy(state).float().unsqueeze(0).to(DEVICE),
        "task": instruction,
    }


def rollout(env, state, instruction, policy, before, after):
    policy.reset()
    env.reset()
    obs = env.set_init_state(state)
    for _ in range(10):
        obs, _, _, _ = env.step([0, 0, 0, 0, 0, 0, -1])
    for _ in range(LIMIT):
        with torch.inference_mode():
            action = after(policy.select_action(before(batch(obs, instruction))))
        obs, _, done, _ = env.step(action.squeeze(0).cpu().numpy())
        if done:
            return True
    return False


def main():
    torch.manual_seed(7)
    np.random.seed(7)
    policy = SmolVLAPolicy.from_pretrained(CHECKPOINT)
    policy.load_state_dict(torch.load("outputs/run_7/last.pt")["model"])
    policy = policy.to(DEVICE).eval()
    before, after = make_pre_post_processors(policy.config, pretrained_path=CHECKPOINT)
    suite = benchmark.get_benchmark_dict()[SUITE]()
    for task_id in range(suite.n_tasks):
        task = suite.get_task(task_id)
        states = suite.get_task_init_states(task_id)
        path = os.path.join(get_libero_path("bddl_files"), task.problem_folder, task.bddl_file)
        env = OffScreenRenderEnv(bddl_file_name=path, camera_heights=256, camera_widths=256)
        env.seed(0)
        wins = [rollout(env, states[i], task.language, policy, before, after) for i in range(50)]
        print(task.name, np.mean(wins))


if __name__ == "__main__":
    main()
