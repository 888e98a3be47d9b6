"""SpatialVLA in SimplerEnv: own processor, own decoder, raw instruction."""

import numpy as np
import simpler_env
import torch
from PIL import Image
from simpler_env.utils.env.observation_utils import get_image_from_maniskill2_obs_dict
from transformers import AutoModel, AutoProcessor
from transforms3d.euler import euler2axangle

CHECKPOINT = "IPEC-COMMUNITY/spatialvla-4b-224-sft-bridge"
KEY = "bridge_orig/1.0.0"


class Policy:
    def __init__(self):
        self.processor = AutoProcessor.from_pretrained(CHECKPOINT, trust_remote_code=True)
        self.model = (
            AutoModel.from_pretrained(CHECKPOINT, trust_remote_code=True, torch_dtype=torch.bfloat16).eval().cuda()
        )

    def act(self, frame, instruction):
        image = Image.fromarray(frame).convert("RGB")
        inputs = self.processor(images=[image], text=instruction, unnorm_key=KEY, return_tensors="pt")
        with torch.no_grad():
            made = self.model.predict_action(inputs)
        action = self.processor.decode_actions(made, unnorm_key=KEY)["actions"][0]
        axis, angle = euler2axangle(*action[3:6])
        return np.concatenate([action[:3], axis * angle, [2.0 * (action[6] > 0.5) - 1.0]])


def main():
    policy = Policy()
    env = simpler_env.make("widowx_stack_cube")
    for episode in range(24):
        obs, _ = env.reset(seed=episode)
        instruction = env.get_language_instruction()
        done = truncated = False
        while not (done or truncated):
            obs, _, done, truncated, _ = env.step(policy.act(get_image_from_maniskill2_obs_dict(env, obs), instruction))
        print(episode, done)


if __name__ == "__main__":
    main()
