"""LIBERO side of the evaluation: environments, frames, proprioception."""

import io
import math
import os

import numpy as np
from libero.libero import get_libero_path
from libero.libero.envs import OffScreenRenderEnv
from PIL import Image

CAMERA_KEY = "agentview_image"


def get_libero_env(task, resolution=256, seed=0):
    """Return (env, instruction) for a task of a benchmark suite."""
    bddl = os.path.join(get_libero_path("bddl_files"), task.problem_folder, task.bddl_file)  # noqa: PTH118
    env = OffScreenRenderEnv(bddl_file_name=bddl, camera_heights=resolution, camera_widths=resolution)
    env.seed(seed)
    return env, task.language


def get_dummy_action():
    """Stay where you are, with open fingers."""
    return [0.0] * 6 + [-1.0]


def rotate_image(frame):
    """The demonstrations were stored turned by 180 degrees, so turn every frame by 180 degrees."""
    return frame[::-1, ::-1]


def jpeg_then_lanczos(frame, side):
    """Repeat what happened to the training frames: stored as JPEG, then resized."""
    stored = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(frame)).save(stored, format="JPEG", quality=95, subsampling=2)
    stored.seek(0)
    with Image.open(stored) as picture:
        return np.asarray(picture.convert("RGB").resize((side, side), Image.LANCZOS))


def get_libero_image(obs, side):
    """Camera frame of an observation as the policy was trained on it: uint8 (side, side, 3)."""
    return jpeg_then_lanczos(rotate_image(obs[CAMERA_KEY]), side)


def quat2axisangle(quat):
    """Quaternion (x, y, z, w) to a rotation vector of three numbers."""
    w = min(1.0, max(-1.0, float(quat[3])))
    norm = math.sqrt(1.0 - w * w)
    if math.isclose(norm, 0.0, abs_tol=1e-9):
        return np.zeros(3)
    return 2.0 * math.acos(w) / norm * np.asarray(quat[:3])


def get_proprio(obs):
    return np.concatenate(
        (obs["robot0_eef_pos"], quat2axisangle(obs["robot0_eef_quat"]), obs["robot0_gripper_qpos"])
    ).astype(np.float32)
