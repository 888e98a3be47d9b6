"""Makes the frames that the tests of registration, VD101 and VD201 stand on, from the stand-in assets.

    python tests/data/make_frames.py

Writes, next to itself, raw 128-pixel frames of both cameras along an episode of the scripted expert (libero_object
task 0, init state 0), the same scene with all lights off, what the camera sees from below the floor, and `frames.json`:
gripper positions (metres, world frame) and camera geometry as in `records.Episode.task["cameras"]`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from vladoctor.adapters import libero
from vladoctor.fixtures.build import expert
from vladoctor.taps.env import camera_geometry

FOLDER = Path(__file__).parent
CAMERAS = {"agentview": "agentview", "wrist": "robot0_eye_in_hand"}
STEPS = {"agentview": (0, 6, 12, 20, 28, 36, 66, 74, 80, 86, 92, 98), "wrist": (0, 20, 60, 98)}
DARK_STEPS = (0, 20)


def main() -> None:
    libero.prepare("stand-in")
    task = libero.load_task("libero_object", 0)
    env = libero.make_env(task, resolution=128, cameras=tuple(CAMERAS.values()))
    frames: list[dict[str, Any]] = []

    def record(kind: str, camera: str, step: int, obs: dict[str, Any]) -> None:
        file = f"{kind}-{step:03d}.png"
        Image.fromarray(obs[f"{camera}_image"]).save(FOLDER / file, optimize=True)
        eef = [round(float(value), 5) for value in obs["robot0_eef_pos"]]
        frames.append({"file": file, "kind": kind, "camera": camera, "step": step, "eef": eef})

    def run(steps: int, look: Callable[[int, dict[str, Any]], None], disturb: Callable[[], None] | None = None) -> None:
        obs = libero.reset_to(env, task.init_states[0])
        if disturb is not None:
            disturb()
        obs = libero.settle(env, obs)
        for step in range(steps + 1):
            look(step, obs)
            obs = env.step(expert.act(expert.read_state(env, obs)).tolist())[0]

    def along(step: int, obs: dict[str, Any]) -> None:
        for kind, camera in CAMERAS.items():
            if step in STEPS[kind]:
                record(kind, camera, step, obs)

    def dark(step: int, obs: dict[str, Any]) -> None:
        if step in DARK_STEPS:
            record("dark", "agentview", step, obs)

    def sky(step: int, obs: dict[str, Any]) -> None:
        record("sky", "agentview", step, obs)

    def lights_off() -> None:
        env.sim.model.light_active[:] = 0
        env.sim.model.vis.headlight.active = 0

    def below_the_floor() -> None:
        env.sim.model.cam_pos[env.sim.model.camera_name2id("agentview")] = [0.5, 0.0, -1.0]

    run(max(STEPS["agentview"]), along)
    geometry = camera_geometry(env, tuple(CAMERAS.values()))
    run(max(DARK_STEPS), dark, lights_off)
    run(0, sky, below_the_floor)
    libero.close_env(env)
    (FOLDER / "frames.json").write_text(json.dumps({"cameras": geometry, "frames": frames}, indent=1) + "\n")


if __name__ == "__main__":
    main()
