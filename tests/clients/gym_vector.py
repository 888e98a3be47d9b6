"""Batched roll-outs of one policy in Gymnasium vector environments.

python gym_vector.py --env disc --num-envs 4                            # a light environment, scripted policy
python gym_vector.py --env disc --num-envs 4 --policy openvla --checkpoint PATH
python gym_vector.py --env libero --num-envs 2 --vectorization async --policy openvla --checkpoint PATH
python gym_vector.py --env libero --num-envs 1 --vectorization sync  --policy openvla --checkpoint PATH
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from PIL import Image

ACTION_TOKENS = 7


class DiscReach(gymnasium.Env):
    """A blue disc has to be pushed onto a red square; seen from above, no physics engine."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    instruction = "move the blue disc to the red square"

    def __init__(self, size: int = 96, horizon: int = 60, render_mode: str | None = None) -> None:
        self.size, self.horizon, self.render_mode = size, horizon, render_mode
        self.observation_space = spaces.Dict(
            {
                "agentview": spaces.Box(0, 255, (size, size, 3), np.uint8),
                "state": spaces.Box(-1.0, 1.0, (2,), np.float32),
            }
        )
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        super().reset(seed=seed)
        self.disc, self.goal = self.np_random.uniform(-0.8, 0.8, (2, 2)).astype(np.float32)
        self.count = 0
        return self._observation(), {"instruction": self.instruction}

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict]:
        self.disc = np.clip(self.disc + 0.08 * np.clip(action, -1, 1), -0.95, 0.95).astype(np.float32)
        self.count += 1
        distance = float(np.linalg.norm(self.disc - self.goal))
        success = distance < 0.08
        return self._observation(), -distance, success, self.count >= self.horizon, {"success": success}

    def render(self) -> np.ndarray:
        axis = np.linspace(-1, 1, self.size, dtype=np.float32)
        x, y = np.meshgrid(axis, -axis)  # y up
        frame = np.empty((self.size, self.size, 3), np.uint8)
        frame[...] = 200
        frame[:, :, 1] -= (np.abs(y) * 60).astype(np.uint8)
        frame[np.maximum(np.abs(x - self.goal[0]), np.abs(y - self.goal[1])) < 0.1] = (220, 30, 30)
        frame[np.hypot(x - self.disc[0], y - self.disc[1]) < 0.08] = (30, 60, 220)
        return frame

    def _observation(self) -> dict:
        return {"agentview": self.render(), "state": self.disc.copy()}


class LiberoGym(gymnasium.Env):
    """One LIBERO task as a Gymnasium environment.

    The simulator is made at the first reset and not before: a vector environment makes one copy in the parent just to
    look at its spaces, and a GL context there would hang the forked workers.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012

    def __init__(
        self,
        suite: str = "libero_object",
        task: int = 0,
        first: int = 30,
        horizon: int = 280,
        size: int = 256,
        render_mode: str | None = None,
    ) -> None:
        self.suite, self.task_id, self.first, self.next_state = suite, task, first, first
        self.horizon, self.size, self.render_mode = horizon, size, render_mode
        self.observation_space = spaces.Dict(
            {
                "agentview": spaces.Box(0, 255, (size, size, 3), np.uint8),
                "state": spaces.Box(-np.inf, np.inf, (9,), np.float64),
            }
        )
        self.action_space = spaces.Box(-1.0, 1.0, (ACTION_TOKENS,), np.float32)
        self.sim: Any = None

    def _build(self) -> None:
        from libero.libero import benchmark, get_libero_path
        from libero.libero.envs import OffScreenRenderEnv

        suite = benchmark.get_benchmark_dict()[self.suite]()
        task = suite.get_task(self.task_id)
        self.instruction = task.language
        self.states = suite.get_task_init_states(self.task_id)
        self.sim = OffScreenRenderEnv(
            bddl_file_name=str(Path(get_libero_path("bddl_files")) / task.problem_folder / task.bddl_file),
            camera_names=["agentview"],
            camera_heights=self.size,
            camera_widths=self.size,
        )
        self.sim.seed(0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        super().reset(seed=seed)
        if seed is not None:  # a vector environment counts seeds up, so that no two workers begin alike
            self.next_state = self.first + seed
        if self.sim is None:
            self._build()
        self.sim.reset()
        raw = self.sim.set_init_state(self.states[self.next_state % len(self.states)])
        self.next_state += 1
        for _ in range(10):
            raw, *_ = self.sim.step([0.0] * 6 + [-1.0])
        self.count = 0
        return self._observation(raw), {"instruction": self.instruction}

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict]:
        raw, reward, done, _ = self.sim.step(np.asarray(action, dtype=np.float64))
        self.count += 1
        return self._observation(raw), float(reward), bool(done), self.count >= self.horizon, {"success": bool(done)}

    def render(self) -> np.ndarray:
        return self.last

    def close(self) -> None:
        if self.sim is not None:
            self.sim.close()
            self.sim = None

    def _observation(self, raw: dict) -> dict:
        # turned here, so that everything downstream sees frames the right way round
        self.last = np.ascontiguousarray(raw["agentview_image"][::-1, ::-1])
        state = np.concatenate([raw["robot0_eef_pos"], raw["robot0_eef_quat"], raw["robot0_gripper_qpos"]])
        return {"agentview": self.last, "state": state}


class ScriptedPolicy:
    """Looks for the two colours and pushes one towards the other; all environments at once."""

    def __call__(self, observations: dict, instructions: list[str]) -> np.ndarray:
        frames = observations["agentview"].astype(np.int32)
        blue = frames[..., 2] - frames[..., 0] > 80
        red = frames[..., 0] - frames[..., 2] > 80
        return np.stack([self._push(*pair) for pair in zip(blue, red, strict=True)]).astype(np.float32)

    @staticmethod
    def _push(blue: np.ndarray, red: np.ndarray) -> np.ndarray:
        if not blue.any() or not red.any():
            return np.zeros(2)
        (disc_row, disc_col), (goal_row, goal_col) = np.argwhere(blue).mean(0), np.argwhere(red).mean(0)
        return np.clip(np.array([goal_col - disc_col, disc_row - goal_row]) / 6.0, -1.0, 1.0)


class OpenVLAPolicy:
    """A batch of frames and instructions to a batch of actions."""

    def __init__(self, checkpoint: str, unnorm_key: str, dims: int, batched: bool) -> None:
        import torch
        import transformers

        auto = getattr(transformers, "AutoModelForVision2Seq", None) or transformers.AutoModelForImageTextToText
        self.torch, self.unnorm_key, self.dims, self.batched = torch, unnorm_key, dims, batched
        self.processor = transformers.AutoProcessor.from_pretrained(checkpoint, trust_remote_code=True)
        self.model = auto.from_pretrained(checkpoint, trust_remote_code=True).float().eval()
        self.side = int(self.model.config.image_sizes[0])

    def __call__(self, observations: dict, instructions: list[str]) -> np.ndarray:
        pictures = [self._picture(frame) for frame in observations["agentview"]]
        prompts = [f"In: What action should the robot take to {text.lower()}?\nOut:" for text in instructions]
        if self.batched:
            actions = self._together(prompts, pictures)
        else:
            actions = np.stack([self._single(*pair) for pair in zip(prompts, pictures, strict=True)])
        if self.dims == ACTION_TOKENS:
            actions[:, -1] = -np.sign(2 * actions[:, -1] - 1)  # 1 = open in the data, -1 = open in the simulator
        return actions[:, : self.dims].astype(np.float32)

    def _picture(self, frame: np.ndarray) -> Image.Image:
        width = frame.shape[1]
        margin = width * (1 - 0.9**0.5) / 2
        box = (margin, margin, width - margin, width - margin)
        return Image.fromarray(frame).resize((self.side, self.side), Image.Resampling.LANCZOS, box=box)

    def _single(self, prompt: str, picture: Image.Image) -> np.ndarray:
        inputs = self.processor(prompt, picture)
        return self.model.predict_action(**inputs, unnorm_key=self.unnorm_key, do_sample=False)

    def _together(self, prompts: list[str], pictures: list[Image.Image]) -> np.ndarray:
        """Greedy decoding of the whole batch by hand, since generate() wants one query at a time."""
        torch = self.torch
        inputs = self.processor(prompts, pictures)
        mark = torch.full((len(prompts), 1), 29871, dtype=torch.long)
        call = {"input_ids": torch.cat([inputs["input_ids"], mark], dim=1), "pixel_values": inputs["pixel_values"]}
        cache, tokens = None, []
        with torch.inference_mode():
            for _ in range(ACTION_TOKENS):
                out = self.model(**call, past_key_values=cache, use_cache=True, logits_to_keep=1)
                cache = out.past_key_values
                tokens.append(out.logits[:, -1].argmax(-1, keepdim=True))
                call = {"input_ids": tokens[-1]}
        ids = torch.cat(tokens, dim=1).cpu().numpy()
        stats = self.model.norm_stats[self.unnorm_key]["action"]
        low, high, mask = (np.asarray(stats[name]) for name in ("q01", "q99", "mask"))
        bins = np.clip(self.model.vocab_size - ids - 1, 0, len(self.model.bin_centers) - 1)
        values = self.model.bin_centers[bins]
        return np.where(mask, low + (values + 1) / 2 * (high - low), values)


gymnasium.register("clients/DiscReach-v0", entry_point=DiscReach)
gymnasium.register("clients/Libero-v0", entry_point=LiberoGym)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--env", choices=["disc", "libero"], default="disc")
    parser.add_argument("--num-envs", type=int, default=4)
    parser.add_argument("--vectorization", choices=["sync", "async"], default="sync")
    parser.add_argument("--policy", choices=["scripted", "openvla"], default="scripted")
    parser.add_argument("--checkpoint", default="")
    parser.add_argument("--unnorm-key", default="libero_object")
    parser.add_argument("--batched", action="store_true", help="decode all rows together instead of row by row")
    parser.add_argument("--task", type=int, default=0)
    parser.add_argument("--first", type=int, default=30, help="LIBERO: the first worker's first init state")
    parser.add_argument("--episodes", type=int, default=4)
    parser.add_argument("--max-steps", type=int, default=280, help="horizon of an episode")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.env == "libero" and args.policy == "scripted":
        parser.error("the scripted policy only knows discs")

    name = {"disc": "clients/DiscReach-v0", "libero": "clients/Libero-v0"}[args.env]
    extra: dict[str, Any] = {"horizon": args.max_steps}
    if args.env == "libero":
        extra.update(task=args.task, first=args.first)
    envs = gymnasium.make_vec(name, num_envs=args.num_envs, vectorization_mode=args.vectorization, **extra)
    print(f"{envs}: {args.num_envs} x {args.env}, {args.vectorization}")
    observations, infos = envs.reset(seed=args.seed)  # before torch is loaded, as forked workers prefer

    dims = envs.single_action_space.shape[0]
    policy: Any = ScriptedPolicy()
    if args.policy == "openvla":
        policy = OpenVLAPolicy(args.checkpoint, args.unnorm_key, dims, args.batched)

    instructions = list(infos["instruction"])
    finished, successes, steps = 0, 0, 0
    restarting = np.zeros(args.num_envs, dtype=bool)
    started = time.perf_counter()
    while finished < args.episodes:
        actions = policy(observations, instructions)
        observations, _, terminated, truncated, _ = envs.step(actions)
        steps += 1
        ended = (terminated | truncated) & ~restarting  # the step after an end is the reset
        for index in np.flatnonzero(ended):
            finished += 1
            successes += int(terminated[index])
            print(f"env {index}: {'success' if terminated[index] else 'failure'} ({finished} done)")
        restarting = terminated | truncated
    spent = time.perf_counter() - started
    envs.close()
    print(f"{steps} vector steps, {spent / steps * 1e3:.0f} ms each")
    print(f"success rate: {successes}/{finished} = {successes / finished:.2f}")


if __name__ == "__main__":
    main()
