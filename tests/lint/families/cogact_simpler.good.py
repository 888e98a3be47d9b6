"""CogACT in SimplerEnv: the library makes its own prompt, and frames are upright."""

import numpy as np
import simpler_env
import torch
from PIL import Image
from simpler_env.utils.env.observation_utils import get_image_from_maniskill2_obs_dict
from transforms3d.euler import euler2axangle
from vla import load_vla

model = load_vla("CogACT/CogACT-Base", load_for_training=False, action_model_type="DiT-B", future_action_window_size=15)
model.vlm = model.vlm.to(torch.bfloat16)
model = model.to("cuda").eval()


def answer(frame, instruction):
    actions, _ = model.predict_action(
        Image.fromarray(frame), instruction, unnorm_key="bridge_orig", cfg_scale=1.5, use_ddim=True, num_ddim_steps=10
    )
    first = actions[0]
    axis, angle = euler2axangle(*first[3:6])
    return np.concatenate([first[:3], axis * angle, [2.0 * (first[6] > 0.5) - 1.0]])


def main():
    env = simpler_env.make("widowx_spoon_on_towel")
    wins = []
    for episode in range(24):
        obs, _ = env.reset(seed=episode)
        instruction = env.get_language_instruction()
        done = truncated = False
        while not (done or truncated):
            frame = get_image_from_maniskill2_obs_dict(env, obs)
            obs, _, done, truncated, _ = env.step(answer(frame, instruction))
        wins.append(done)
    print(np.mean(wins))


if __name__ == "__main__":
    main()
