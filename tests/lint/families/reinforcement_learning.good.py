"""A gymnasium loop without a VLA: none of our business."""

import gymnasium
import numpy as np


def main(policy, episodes=10):
    env = gymnasium.make("CarRacing-v3", render_mode="rgb_array")
    returns = []
    for _ in range(episodes):
        obs, _ = env.reset()
        total, done = 0.0, False
        while not done:
            action = policy(obs[::-1])
            action[-1] = -action[-1]
            obs, reward, terminated, truncated, _ = env.step(action)
            total += reward
            done = terminated or truncated
        returns.append(total)
    print(np.mean(returns))
