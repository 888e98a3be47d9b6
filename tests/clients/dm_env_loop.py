"""A dm_env environment and a scripted agent: a point mass on a table, two cameras.

python dm_env_loop.py --episodes 3 --max-steps 80
"""

from __future__ import annotations

import argparse
from typing import Any

import dm_env
import numpy as np
from dm_env import specs

INSTRUCTION = "bring the green puck to the white ring"


class PuckTable(dm_env.Environment):
    """Observation: `pixels` of the fixed camera, `wrist_pixels` around the puck, `position`, `velocity`."""

    def __init__(self, size: int = 96, time_limit: int = 80, seed: int = 0) -> None:
        self._size, self._limit = size, time_limit
        self._random = np.random.default_rng(seed)
        self._over = True

    def reset(self) -> dm_env.TimeStep:
        self._position = self._random.uniform(-0.8, 0.8, 2)
        self._ring = self._random.uniform(-0.7, 0.7, 2)
        self._velocity = np.zeros(2)
        self._steps, self._over = 0, False
        return dm_env.restart(self._look())

    def step(self, action: np.ndarray) -> dm_env.TimeStep:
        if self._over:
            return self.reset()
        self._velocity = 0.8 * self._velocity + 0.05 * np.clip(action, -1.0, 1.0)
        self._position = np.clip(self._position + self._velocity, -0.95, 0.95)
        self._steps += 1
        distance = float(np.hypot(*(self._position - self._ring)))
        reward = float(distance < 0.1)
        if reward:
            self._over = True
            return dm_env.termination(reward, self._look())
        if self._steps >= self._limit:
            self._over = True
            return dm_env.truncation(reward, self._look())
        return dm_env.transition(reward, self._look())

    def observation_spec(self) -> dict[str, specs.Array]:
        picture = specs.BoundedArray((self._size, self._size, 3), np.uint8, 0, 255)
        return {
            "pixels": picture.replace(name="pixels"),
            "wrist_pixels": picture.replace(name="wrist_pixels"),
            "position": specs.Array((2,), np.float64, name="position"),
            "velocity": specs.Array((2,), np.float64, name="velocity"),
        }

    def action_spec(self) -> specs.BoundedArray:
        return specs.BoundedArray((2,), np.float64, -1.0, 1.0, name="force")

    def _look(self) -> dict[str, np.ndarray]:
        return {
            "pixels": self._draw(np.zeros(2), 1.0),
            "wrist_pixels": self._draw(self._position, 0.4),
            "position": self._position.copy(),
            "velocity": self._velocity.copy(),
        }

    def _draw(self, centre: np.ndarray, reach: float) -> np.ndarray:
        axis = np.linspace(-reach, reach, self._size)
        x, y = np.meshgrid(centre[0] + axis, centre[1] - axis)
        frame = np.empty((self._size, self._size, 3), np.uint8)
        frame[...] = (120, 80, 50)
        frame[((np.floor(x * 5) + np.floor(y * 5)) % 2).astype(bool)] = (140, 95, 60)
        away = np.hypot(x - self._ring[0], y - self._ring[1])
        frame[(away > 0.1) & (away < 0.15)] = 250
        frame[np.hypot(x - self._position[0], y - self._position[1]) < 0.08] = (20, 180, 60)
        frame[np.maximum(np.abs(x), np.abs(y)) > 1.0] = (30, 30, 30)
        return frame


class Agent:
    """Finds puck and ring in the picture and pushes, with damping."""

    def select_action(self, observation: dict[str, np.ndarray]) -> np.ndarray:
        frame = observation["pixels"].astype(int)
        puck = np.argwhere((frame[..., 1] - frame[..., 0]) > 100)
        ring = np.argwhere(frame.min(axis=-1) > 230)
        if not len(puck) or not len(ring):
            return np.zeros(2)
        row, col = (ring.max(0) + ring.min(0)) / 2 - (puck.max(0) + puck.min(0)) / 2
        gap = np.array([col, -row]) * 2.0 / frame.shape[0]
        return np.clip(3.0 * gap - 2.0 * observation["velocity"], -1.0, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--episodes", type=int, default=3)
    parser.add_argument("--max-steps", type=int, default=80)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    environment: dm_env.Environment = PuckTable(time_limit=args.max_steps, seed=args.seed)
    agent: Any = Agent()
    print("task:", INSTRUCTION)
    solved = 0
    for episode in range(args.episodes):
        timestep, length = environment.reset(), 0
        while not timestep.last():
            timestep = environment.step(agent.select_action(timestep.observation))
            length += 1
        success = timestep.discount == 0.0
        solved += success
        print(f"episode {episode}: {length} steps, reward {timestep.reward}, success {success}")
    environment.close()
    print(f"success rate: {solved / args.episodes:.2f}")


if __name__ == "__main__":
    main()
