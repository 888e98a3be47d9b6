"""OFT on LIBERO by the functions of its own repository: inverted, and not scaled before."""

from collections import deque
from dataclasses import dataclass
from pathlib import Path

import draccus
import numpy as np
from experiments.robot.openvla_utils import (
    get_action_head,
    get_processor,
    get_proprio_projector,
    get_vla,
    get_vla_action,
    resize_image_for_policy,
)
from experiments.robot.robot_utils import (
    invert_gripper_action,
    set_seed_everywhere,
)
from libero.libero import benchmark, get_libero_path
from libero.libero.envs import OffScreenRenderEnv

HORIZON = dict(libero_spatial=220, libero_object=280, libero_goal=300, libero_10=520)


@dataclass
class Cfg:
    model_family: str = "openvla"
    pretrained_checkpoint: str = "moojink/openvla-7b-oft-finetuned-libero-spatial"
    use_l1_regression: bool = True
    use_diffusion: bool = False
    use_film: bool = False
    num_images_in_input: int = 2
    use_proprio: bool = True
    center_crop: bool = True
    num_open_loop_steps: int = 8
    unnorm_key: str = "libero_spatial_no_noops"
    task_suite_name: str = "libero_spatial"
    load_in_8bit: bool = False
    load_in_4bit: bool = False
    seed: int = 7


def quat2axisangle(q):
    q = q.copy()
    q[3] = np.clip(q[3], -1, 1)
    den = np.sqrt(1 - q[3] ** 2)
    if np.isclose(den, 0):
        return np.zeros(3)
    return q[:3] * 2 * np.arccos(q[3]) / den


@draccus.wrap()
def main(cfg: Cfg):
    set_seed_everywhere(cfg.seed)
    vla = get_vla(cfg)
    proc = get_processor(cfg)
    head = get_action_head(cfg, vla.llm_dim)
    pp = get_proprio_projector(cfg, vla.llm_dim, 8)
    suite = benchmark.get_benchmark_dict()[cfg.task_suite_name]()
    for tid in range(suite.n_tasks):
        task = suite.get_task(tid)
        inits = suite.get_task_init_states(tid)
        env = OffScreenRenderEnv(
            bddl_file_name=str(Path(get_libero_path("bddl_files")) / task.problem_folder / task.bddl_file),
            camera_heights=256,
            camera_widths=256,
        )
        env.seed(0)
        ok = 0
        for ep in range(50):
            env.reset()
            obs = env.set_init_state(inits[ep])
            queue = deque(maxlen=cfg.num_open_loop_steps)
            t = 0
            while t < HORIZON[cfg.task_suite_name] + 10:
                if t < 10:
                    obs, *_ = env.step([0.0] * 6 + [-1.0])
                    t += 1
                    continue
                if len(queue) == 0:
                    o = {
                        "full_image": resize_image_for_policy(np.rot90(obs["agentview_image"], 2), 224),
                        "wrist_image": resize_image_for_policy(np.rot90(obs["robot0_eye_in_hand_image"], k=2), 224),
                        "state": np.concatenate(
                            (obs["robot0_eef_pos"], quat2axisangle(obs["robot0_eef_quat"]), obs["robot0_gripper_qpos"])
                        ),
                    }
                    queue.extend(get_vla_action(cfg, vla, proc, o, task.language, head, pp))
                a = queue.popleft()
                a = invert_gripper_action(a)
                obs, r, done, info = env.step(a.tolist())  # expect: VD502
                t += 1
                if done:
                    ok += 1
                    break
        print(task.language, ok)
        env.close()


if __name__ == "__main__":
    main()
