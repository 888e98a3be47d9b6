"""A VLA on CALVIN: the gripper is inverted in the loop and again in the wrapper, which is right there."""

import numpy as np
import torch
from calvin_agent.evaluation.multistep_sequences import get_sequences
from calvin_agent.evaluation.utils import get_env_state_for_initial_condition
from calvin_env.envs.play_table_env import get_env
from PIL import Image
from transformers import AutoModelForVision2Seq, AutoProcessor

CHECKPOINT = "lab/openvla-7b-calvin"
KEY = "calvin_abc"


class Wrapper:
    def __init__(self, env):
        self.env = env

    def reset(self, robot_obs, scene_obs):
        return self.env.reset(robot_obs=robot_obs, scene_obs=scene_obs)

    def step(self, action):
        action = np.array(action)
        action[-1] = -action[-1]
        return self.env.step(action)


def act(model, processor, obs, instruction):
    image = Image.fromarray(obs["rgb_obs"]["rgb_static"])
    inputs = processor(f"In: What action should the robot take to {instruction.lower()}?\nOut:", image)
    inputs = inputs.to("cuda", dtype=torch.bfloat16)
    action = model.predict_action(**inputs, unnorm_key=KEY, do_sample=False)
    action[-1] = -np.sign(2 * action[-1] - 1)
    return action


def main(annotations, oracle):
    processor = AutoProcessor.from_pretrained(CHECKPOINT, trust_remote_code=True)
    model = AutoModelForVision2Seq.from_pretrained(CHECKPOINT, torch_dtype=torch.bfloat16, trust_remote_code=True)
    model = model.to("cuda").eval()
    env = Wrapper(get_env("task_ABC_D/validation", show_gui=False))
    for initial, subtasks in get_sequences(1000):
        obs = env.reset(*get_env_state_for_initial_condition(initial))
        for subtask in subtasks:
            before = env.env.get_info()
            for _ in range(360):
                obs, _, _, info = env.step(act(model, processor, obs, annotations[subtask][0]))
                if oracle.get_task_info_for_set(before, info, {subtask}):
                    break
            else:
                break
