"""Evaluate an OpenVLA checkpoint in LIBERO.

python run_libero_eval.py --pretrained_checkpoint PATH --task_suite_name libero_object --num_trials 5
"""

import argparse
import dataclasses

import numpy as np
import tqdm
from libero.libero import benchmark
from libero_utils import get_dummy_action, get_libero_env, get_libero_image, get_proprio
from openvla_utils import get_image_size, get_processor, get_vla
from robot_utils import STARTED, get_action, invert_gripper_action, normalize_gripper_action, set_seed_everywhere

MAX_STEPS = {
    "libero_spatial": 220,
    "libero_object": 280,
    "libero_goal": 300,
    "libero_10": 520,
    "libero_90": 400,
}


@dataclasses.dataclass
class GenerateConfig:
    pretrained_checkpoint: str = ""
    center_crop: bool = True
    task_suite_name: str = "libero_object"
    task_id: int = -1
    num_steps_wait: int = 10
    num_trials: int = 50
    init_offset: int = 0
    max_steps: int = 0
    seed: int = 7
    unnorm_key: str = ""


def parse_args():
    parser = argparse.ArgumentParser()
    for field in dataclasses.fields(GenerateConfig):
        kind = (
            (lambda text: text.lower() in ("1", "true", "yes")) if field.type in (bool, "bool") else type(field.default)
        )
        names = {f"--{field.name}", f"--{field.name.replace('_', '-')}"}
        if field.name == "num_trials":
            names.add("--episodes")
        parser.add_argument(*sorted(names), dest=field.name, type=kind, default=field.default)
    return GenerateConfig(**vars(parser.parse_args()))


def eval_libero(cfg):
    assert cfg.pretrained_checkpoint, "--pretrained_checkpoint is needed"
    set_seed_everywhere(cfg.seed)

    model = get_vla(cfg)
    cfg.unnorm_key = cfg.unnorm_key or cfg.task_suite_name
    if cfg.unnorm_key not in model.norm_stats and f"{cfg.unnorm_key}_no_noops" in model.norm_stats:
        cfg.unnorm_key = f"{cfg.unnorm_key}_no_noops"
    assert cfg.unnorm_key in model.norm_stats, f"no statistics for {cfg.unnorm_key!r} in the checkpoint"
    processor = get_processor(cfg)
    side = get_image_size(model)

    suite = benchmark.get_benchmark_dict()[cfg.task_suite_name]()
    print(f"EVAL-{cfg.task_suite_name}-openvla-{STARTED}")
    task_ids = range(suite.n_tasks) if cfg.task_id < 0 else [cfg.task_id]
    max_steps = cfg.max_steps or MAX_STEPS[cfg.task_suite_name]

    total_episodes, total_successes = 0, 0
    for task_id in tqdm.tqdm(task_ids):
        task = suite.get_task(task_id)
        initial_states = suite.get_task_init_states(task_id)
        env, task_description = get_libero_env(task, resolution=256)

        task_episodes, task_successes = 0, 0
        for trial in tqdm.tqdm(range(cfg.num_trials)):
            print(f"\nTask: {task_description}")
            env.reset()
            obs = env.set_init_state(initial_states[cfg.init_offset + trial])

            t, done, replay_images = 0, False, []
            print(f"Starting episode {task_episodes + 1}...")
            while t < max_steps + cfg.num_steps_wait:
                try:
                    if t < cfg.num_steps_wait:  # let the objects fall first
                        obs, _, done, _ = env.step(get_dummy_action())
                        t += 1
                        continue

                    img = get_libero_image(obs, side)
                    replay_images.append(img)
                    observation = {"full_image": img, "state": get_proprio(obs)}
                    action = get_action(cfg, model, processor, observation, task_description)
                    action = normalize_gripper_action(action, binarize=True)
                    action = invert_gripper_action(action)

                    obs, _, done, _ = env.step(action.tolist())
                    if done:
                        task_successes += 1
                        total_successes += 1
                        break
                    t += 1
                except Exception as e:  # noqa: BLE001
                    print(f"Caught exception: {e}")
                    break

            task_episodes += 1
            total_episodes += 1
            print(f"Success: {bool(done)}")
            print(f"# policy steps: {len(replay_images)}, last image mean {np.mean(replay_images[-1:]):.1f}")
            print(f"# episodes completed so far: {total_episodes}")
            print(f"# successes: {total_successes} ({total_successes / total_episodes * 100:.1f}%)")

        print(f"Current task success rate: {task_successes / task_episodes}")
        env.close()

    print(f"Total success rate: {total_successes / total_episodes}")


if __name__ == "__main__":
    eval_libero(parse_args())
