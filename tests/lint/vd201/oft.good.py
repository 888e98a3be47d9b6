"""OpenVLA-OFT on LIBERO: chunks of eight, two cameras, own processing."""

import json
import os
from collections import deque

import numpy as np
import torch
from huggingface_hub import hf_hub_download
from libero.libero import benchmark, get_libero_path
from libero.libero.envs import OffScreenRenderEnv
from PIL import Image
from robosuite.utils.transform_utils import quat2axisangle
from transformers import AutoModelForVision2Seq, AutoProcessor

CHECKPOINT = "moojink/openvla-7b-oft-finetuned-libero-spatial"
SUITE = "libero_spatial"
KEY = "libero_spatial_no_noops"
HORIZON = 220
CHUNK = 8


def crop(image):
    side = int(round(224 * np.sqrt(0.9)))
    low = (224 - side) // 2
    return image.crop((low, low, low + side, low + side)).resize((224, 224), Image.BILINEAR)


def picture(frame):
    upright = np.rot90(frame, 2)
    return crop(Image.fromarray(np.ascontiguousarray(upright)).resize((224, 224), Image.LANCZOS))


def query(model, processor, obs, instruction, statistics):
    text = "In: What action should the robot take to {}?\nOut:".format(instruction.lower())
    inputs = processor(text, picture(obs["agentview_image"])).to("cuda", dtype=torch.bfloat16)
    wrist = processor(text, picture(obs["robot0_eye_in_hand_image"])).to("cuda", dtype=torch.bfloat16)
    inputs["pixel_values"] = torch.cat([inputs["pixel_values"], wrist["pixel_values"]], dim=1)
    state = np.concatenate([obs["robot0_eef_pos"], quat2axisangle(obs["robot0_eef_quat"]), obs["robot0_gripper_qpos"]])
    low, high = np.array(statistics["q01"]), np.array(statistics["q99"])
    proprio = np.clip(2 * (state - low) / (high - low + 1e-8) - 1, -1, 1)
    actions, _ = model.predict_action(**inputs, unnorm_key=KEY, do_sample=False, proprio=proprio)
    return actions


def to_env(action):
    action = np.array(action)
    action[-1] = 2 * action[-1] - 1
    action[-1] = np.sign(action[-1])
    action[-1] *= -1
    return action


def run_episode(env, state, instruction, model, processor, statistics):
    env.reset()
    obs = env.set_init_state(state)
    queue = deque(maxlen=CHUNK)
    t = 0
    while t < HORIZON + 10:
        if t < 10:
            obs, _, done, _ = env.step([0, 0, 0, 0, 0, 0, -1])
            t += 1
            continue
        if len(queue) == 0:
            queue.extend(query(model, processor, obs, instruction, statistics))
        obs, _, done, _ = env.step(to_env(queue.popleft()).tolist())
        if done:
            return True
        t += 1
    return False


def main():
    torch.manual_seed(7)
    np.random.seed(7)
    processor = AutoProcessor.from_pretrained(CHECKPOINT, trust_remote_code=True)
    model = AutoModelForVision2Seq.from_pretrained(CHECKPOINT, torch_dtype=torch.bfloat16, trust_remote_code=True)
    model = model.to("cuda").eval()
    with open(hf_hub_download(CHECKPOINT, "dataset_statistics.json")) as file:
        statistics = json.load(file)[KEY]["proprio"]
    suite = benchmark.get_benchmark_dict()[SUITE]()
    for number in range(suite.n_tasks):
        task, states = suite.get_task(number), suite.get_task_init_states(number)
        bddl = os.path.join(get_libero_path("bddl_files"), task.problem_folder, task.bddl_file)
        env = OffScreenRenderEnv(bddl_file_name=bddl, camera_heights=256, camera_widths=256)
        env.seed(0)
        for trial in range(50):
            print(number, trial, run_episode(env, states[trial], task.language, model, processor, statistics))


if __name__ == "__main__":
    main()
