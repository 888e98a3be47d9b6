"""The reference loop: OpenVLA in LIBERO, step for step as the official evaluation runs it.

Source: openvla/openvla@c8f03f4, experiments/robot/libero/run_libero_eval.py, libero_utils.py, robot_utils.py. Where it
departs:

* an exception in the loop ends the episode as an error, not as a failure of the policy;
* one camera is rendered, not LIBERO's two, and the reset cannot spin for ever (adapters.libero);
* JPEG, Lanczos and crop are Pillow's and numpy's, not TensorFlow's (adapters.image);
* transformers chooses the attention unless the run file does, and cuDNN is left as it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from vladoctor.adapters import image, libero
from vladoctor.adapters.openvla import OpenVLAPolicy
from vladoctor.records import Outcome

HORIZONS: Mapping[str, int] = {
    "libero_spatial": 220,
    "libero_object": 280,
    "libero_goal": 300,
    "libero_10": 520,
    "libero_90": 400,
}
"""Policy steps per episode. Source: run_libero_eval.py:165-175."""

PROMPT = "In: What action should the robot take to {instruction}?\nOut:"
PROMPT_V01 = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. USER: What action should the robot take to {instruction}? ASSISTANT:"
)
"""Source of both: openvla_utils.py:24-27,158-163; v0.1 is told from the name of its checkpoint, as there."""


@dataclass
class Stages:
    """What the loop does between the environment and the policy: one replaceable callable a stage.

    Attributes:
        orient: raw frame uint8 (H, W, 3) -> frame in the orientation of the training data.
        resize: -> uint8 (S, S, 3), JPEG round trip and Lanczos.
        crop: -> uint8 (S, S, 3), centre crop of area 0.9, or the identity.
        prompt: instruction -> prompt.
        query: (prompt, RGB image) -> un-normalised action, float64 (7,), gripper 0 = closed, 1 = open.
        command: un-normalised action -> what the environment takes, 7 floats, gripper -1 = open, +1 = closed.
    """

    orient: Callable[[np.ndarray], np.ndarray]
    resize: Callable[[np.ndarray], np.ndarray]
    crop: Callable[[np.ndarray], np.ndarray]
    prompt: Callable[[str], str]
    query: Callable[[str, Image.Image], np.ndarray]
    command: Callable[[np.ndarray], list[float]]


def reference_stages(policy: OpenVLAPolicy, *, center_crop: bool = True) -> Stages:
    """The stages as the official evaluation has them; `center_crop` for checkpoints trained with image augmentation."""
    template = PROMPT_V01 if "openvla-v01" in policy.path.name else PROMPT
    return Stages(
        orient=image.rotate_180,
        resize=lambda frame: image.resize_lanczos3(image.jpeg_round_trip(frame), policy.image_size),
        crop=image.center_crop if center_crop else lambda frame: frame,
        prompt=lambda instruction: template.format(instruction=instruction.lower()),
        query=policy.query,
        command=libero_command,
    )


def libero_command(action: np.ndarray) -> list[float]:
    """Map the gripper from the model's [0, 1] (1 = open) to LIBERO's sign (-1 = open, +1 = closed); keep the rest.

    Source: robot_utils.py:75-102 (2g - 1, sign, negate).
    """
    command = np.array(action, dtype=np.float64)
    command[-1] = -np.sign(2.0 * command[-1] - 1.0)
    return [float(value) for value in command]


@dataclass
class Loop:
    """One environment, one policy and the stages between them.

    Attributes:
        env: LIBERO's OffScreenRenderEnv.
        task: the task it was made for.
        camera: camera whose frame the policy is given.
        settle_steps: steps before the first query in which objects drop into place.
        settle_action: what is sent meanwhile.
        horizon: policy steps after which an episode counts as failed.
    """

    env: Any
    policy: OpenVLAPolicy
    task: libero.LiberoTask
    stages: Stages
    camera: str = "agentview"
    settle_steps: int = libero.WAIT_STEPS
    settle_action: Sequence[float] = libero.WAIT_ACTION
    horizon: int = 280

    @property
    def cameras(self) -> list[str]:
        """Every camera that the environment renders, the policy's first."""
        rendered = getattr(getattr(self.env, "env", None), "camera_names", None) or ()
        return [self.camera, *(str(name) for name in rendered if name != self.camera)]

    def run_episode(self, init_state: np.ndarray, on_step: Callable[[int, float], None] | None = None) -> Outcome:
        """Run one episode from an init state, float64 (1 + nq + nv,).

        Args:
            on_step: called after every policy step with its number and its duration in milliseconds.
        """
        obs = self.begin(init_state)
        for number in range(self.horizon):
            started = time.perf_counter()
            action = self.act(obs)
            obs, done = self.execute(action)
            if on_step is not None:
                on_step(number, (time.perf_counter() - started) * 1e3)
            if done:
                return Outcome("success", True, number + 1)
        return Outcome("horizon", False, self.horizon)

    def begin(self, init_state: np.ndarray) -> dict[str, Any]:
        """Reset, set the init state, let objects drop into place; the observation then."""
        obs = libero.reset_to(self.env, init_state)
        return libero.settle(self.env, obs, self.settle_steps, self.settle_action)

    def execute(self, action: list[float]) -> tuple[dict[str, Any], bool]:
        """Execute an action; the observation then, and whether the task is done."""
        obs, _, done, _ = self.env.step(action)
        return obs, bool(done)

    def act(self, obs: Mapping[str, Any]) -> list[float]:
        """Observation to environment action, through every stage."""
        stages = self.stages
        frame = stages.crop(stages.resize(stages.orient(obs[f"{self.camera}_image"])))
        picture = Image.fromarray(np.ascontiguousarray(frame)).convert("RGB")
        return stages.command(stages.query(stages.prompt(self.task.language), picture))
