"""An environment that is two functions and a policy that is one: steer a car along a road.

python callable_env.py --episodes 2 --max-steps 100
"""

import argparse

import numpy as np

INSTRUCTION = "stay on the road"
HEIGHT, WIDTH = 72, 128

world = {}
rng = np.random.default_rng(0)


def draw():
    """What the driver sees: sky, grass, a grey road with a white middle line."""
    frame = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    frame[: HEIGHT // 3] = (150, 190, 240)
    frame[HEIGHT // 3 :] = (50, 130, 40)
    for row in range(HEIGHT // 3, HEIGHT):
        near = (row - HEIGHT // 3 + 1) / (HEIGHT - HEIGHT // 3)
        bend = np.sin(0.08 * (world["mile"] + 10 * (1 - near)))
        middle = WIDTH / 2 + near * 60 * (bend - world["offset"])
        half = 4 + 40 * near
        left, right = int(np.clip(middle - half, 0, WIDTH)), int(np.clip(middle + half, 0, WIDTH))
        frame[row, left:right] = 100
        frame[row, int(np.clip(middle - 1, 0, WIDTH)) : int(np.clip(middle + 2, 0, WIDTH))] = 255
    return frame


def reset():
    world.update(mile=float(rng.uniform(0, 50)), offset=0.0, steps=0)
    world["offset"] = float(np.sin(0.08 * world["mile"]))
    return draw()


def step(action):
    world["mile"] += 1.0
    world["offset"] += 0.15 * float(np.clip(action, -1, 1)[0])
    world["steps"] += 1
    off = abs(world["offset"] - np.sin(0.08 * world["mile"])) > 0.6
    return draw(), bool(off)


def policy(image, instruction):
    """Steer towards the white line in the lower part of the picture."""
    line = np.argwhere(image[HEIGHT // 2 :].min(axis=-1) == 255)
    if not len(line):
        return np.zeros(1)
    return np.clip([(line[:, 1].mean() - WIDTH / 2) / 12.0], -1, 1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--episodes", type=int, default=2)
    parser.add_argument("--max-steps", type=int, default=100)
    args = parser.parse_args()

    good = 0
    for episode in range(args.episodes):
        image = reset()
        off_road = False
        for count in range(args.max_steps):  # noqa: B007
            image, off_road = step(policy(image, INSTRUCTION))
            if off_road:
                break
        good += not off_road
        print(f"episode {episode}: {'crashed' if off_road else 'success'} after {count + 1} steps")
    print(f"success rate {good / args.episodes:.2f}")
