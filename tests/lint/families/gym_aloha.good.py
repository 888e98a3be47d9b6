"""pi0 on gym-aloha: frames are upright as they come."""

import einops
import gymnasium
import gym_aloha  # noqa: F401 - registers the environments
import numpy as np
from openpi_client import image_tools, websocket_client_policy


def main(seed=0, episodes=50):
    np.random.seed(seed)
    env = gymnasium.make("gym_aloha/AlohaTransferCube-v0", obs_type="pixels_agent_pos")
    client = websocket_client_policy.WebsocketClientPolicy("localhost", 8000)
    won = 0
    for episode in range(episodes):
        obs, _ = env.reset(seed=seed + episode)
        best, plan = 0.0, []
        while True:
            if not plan:
                picture = image_tools.convert_to_uint8(image_tools.resize_with_pad(obs["pixels"]["top"], 224, 224))
                picture = einops.rearrange(picture, "h w c -> c h w")
                plan = list(client.infer({"state": obs["agent_pos"], "images": {"cam_high": picture}})["actions"][:10])
            obs, reward, terminated, truncated, _ = env.step(plan.pop(0))
            best = max(best, reward)
            if terminated or truncated:
                break
        won += best == 4
    print(won / episodes)


if __name__ == "__main__":
    main()
