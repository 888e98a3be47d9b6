"""A loop from the days of gym: four values from step(), a bare observation from reset().

python old_gym.py                      # the class itself, as old code does
python old_gym.py --via-make           # gym.make(...), brought back to four values by a wrapper
"""

import argparse

import gym
import numpy as np
from gym import spaces

INSTRUCTION = "catch the ball with the paddle"


class Catch(gym.Env):
    """A ball falls, a paddle at the bottom moves left (0), not at all (1) or right (2)."""

    metadata = {"render.modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, size=80, horizon=40):
        self.size, self.horizon = size, horizon
        self.observation_space = spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.action_space = spaces.Discrete(3)
        self.seed(0)

    def seed(self, seed=None):
        self.rng = np.random.RandomState(seed)
        return [seed]

    def reset(self):
        self.ball = np.array([4.0, self.rng.randint(8, self.size - 8)])
        self.drift = self.rng.uniform(-0.7, 0.7)
        self.paddle = self.size / 2
        self.t = 0
        return self.render()

    def step(self, action):
        self.t += 1
        self.paddle = float(np.clip(self.paddle + 3 * (int(action) - 1), 6, self.size - 7))
        self.ball += np.array([2.0, self.drift])
        self.ball[1] = np.clip(self.ball[1], 3, self.size - 4)
        landed = bool(self.ball[0] >= self.size - 6)
        caught = landed and abs(self.ball[1] - self.paddle) <= 7
        done = bool(landed or self.t >= self.horizon)
        return self.render(), float(caught), done, {"is_success": bool(caught)}

    def render(self, mode="rgb_array"):
        frame = np.zeros((self.size, self.size, 3), np.uint8)
        frame[..., 2] = np.linspace(40, 140, self.size)[:, None]
        row, col = round(self.ball[0]), round(self.ball[1])
        frame[max(0, row - 2) : row + 3, max(0, col - 2) : col + 3] = (250, 220, 40)
        left = int(self.paddle) - 6
        frame[self.size - 4 : self.size - 1, max(0, left) : left + 13] = (230, 230, 230)
        return frame


gym.register(id="CatchPixels-v0", entry_point=Catch, disable_env_checker=True)


def act(frame):
    """Go where the ball is."""
    frame = frame.astype(int)
    ball = np.argwhere(frame[..., 0] - frame[..., 2] > 100)
    paddle = np.argwhere(frame[-4:].min(axis=-1) > 200)
    if not len(ball) or not len(paddle):
        return 1
    gap = ball[:, 1].mean() - paddle[:, 1].mean()
    return 1 + int(np.sign(gap)) * int(abs(gap) > 1.5)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--episodes", type=int, default=5)
    parser.add_argument("--max-steps", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--via-make", action="store_true")
    args = parser.parse_args()

    if args.via_make:
        made = gym.make("CatchPixels-v0", horizon=args.max_steps, apply_api_compatibility=True)
        env = gym.wrappers.StepAPICompatibility(made, output_truncation_bool=False)
    else:
        env = Catch(horizon=args.max_steps)
        env.seed(args.seed)

    print("task:", INSTRUCTION)
    caught = 0
    for episode in range(args.episodes):
        obs = env.reset()
        obs = obs[0] if isinstance(obs, tuple) else obs
        done, total, length = False, 0.0, 0
        while not done:
            obs, reward, done, info = env.step(act(obs))
            total += reward
            length += 1
        caught += bool(info["is_success"])
        print(f"episode {episode}: return {total:.0f}, length {length}, success {info['is_success']}")
    env.close()
    print(f"success rate: {caught / args.episodes:.2f}")


if __name__ == "__main__":
    main()
