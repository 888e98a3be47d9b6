"""OpenVLA in SimplerEnv, one task."""

import cv2
import numpy as np
import simpler_env
import torch
from PIL import Image
from simpler_env.utils.env.observation_utils import get_image_from_maniskill2_obs_dict
from transformers import AutoModelForVision2Seq, AutoProcessor
from transforms3d.euler import euler2axangle

CHECKPOINT = "openvla/openvla-7b"

processor = AutoProcessor.from_pretrained(CHECKPOINT, trust_remote_code=True)
model = AutoModelForVision2Seq.from_pretrained(CHECKPOINT, torch_dtype=torch.bfloat16, trust_remote_code=True)
model = model.to("cuda").eval()


def predict(frame, instruction):
    # LIBERO would need frame[::-1, ::-1] here; ManiSkill renders upright.
    image = Image.fromarray(cv2.resize(frame, (224, 224), interpolation=cv2.INTER_LANCZOS4))
    prompt = f"In: What action should the robot take to {instruction.lower()}?\nOut:"
    inputs = processor(prompt, image).to("cuda", dtype=torch.bfloat16)
    return model.predict_action(**inputs, unnorm_key="bridge_orig", do_sample=False)


def act(raw):
    axis, angle = euler2axangle(*raw[3:6])
    gripper = 2.0 * (raw[6] > 0.5) - 1.0
    return np.concatenate([raw[:3], axis * angle, [gripper]])


def main(episodes=24):
    torch.manual_seed(0)
    env = simpler_env.make("widowx_carrot_on_plate")
    wins = 0
    for episode in range(episodes):
        obs, _ = env.reset(seed=episode)
        instruction = env.get_language_instruction()
        truncated = done = False
        while not (done or truncated):
            frame = get_image_from_maniskill2_obs_dict(env, obs)
            obs, _, done, truncated, _ = env.step(act(predict(frame, instruction)))
        wins += done
    print(wins / episodes)


if __name__ == "__main__":
    main()
