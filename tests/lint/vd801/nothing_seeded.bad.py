"""Success rate of an OpenVLA checkpoint on one LIBERO suite."""

import io
import os

import numpy as np
import torch
from libero.libero import benchmark, get_libero_path
from libero.libero.envs import OffScreenRenderEnv
from PIL import Image
from transformers import AutoModelForVision2Seq, AutoProcessor

CHECKPOINT = "openvla/openvla-7b-finetuned-libero-spatial"
SUITE = "libero_spatial"
MAX_STEPS = {"libero_spatial": 220, "libero_object": 280, "libero_goal": 300, "libero_10": 520, "libero_90": 400}
SETTLE_STEPS = 10
TRIALS = 50
REST = [0, 0, 0, 0, 0, 0, -1]


def load():
    processor = AutoProcessor.from_pretrained(CHECKPOINT, trust_remote_code=True)
    model = AutoModelForVision2Seq.from_pretrained(
        CHECKPOINT, torch_dtype=torch.bfloat16, low_cpu_mem_usage=True, trust_remote_code=True
    )
    return model.to("cuda:0").eval(), processor


def make_env(task):
    bddl = os.path.join(get_libero_path("bddl_files"), task.problem_folder, task.bddl_file)
    env = OffScreenRenderEnv(bddl_file_name=bddl, camera_heights=256, camera_widths=256)
    return env


def through_jpeg(image):
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=95)
    buffer.seek(0)
    return Image.open(buffer).convert("RGB")


def centre_crop(image, area=0.9):
    width, height = image.size
    new_width, new_height = int(width * area**0.5), int(height * area**0.5)
    left, top = (width - new_width) // 2, (height - new_height) // 2
    return image.crop((left, top, left + new_width, top + new_height)).resize((width, height), Image.BILINEAR)


def picture(obs):
    frame = obs["agentview_image"][::-1, ::-1]
    image = through_jpeg(Image.fromarray(frame)).resize((224, 224), Image.LANCZOS)
    return centre_crop(image)


def predict(model, processor, image, instruction):
    prompt = f"In: What action should the robot take to {instruction.lower()}?\nOut:"
    inputs = processor(prompt, image).to("cuda:0", dtype=torch.bfloat16)
    return model.predict_action(**inputs, unnorm_key=SUITE, do_sample=False)


def to_env(action):
    action = np.array(action)
    action[-1] = -np.sign(2 * action[-1] - 1)
    return action


def run_episode(env, state, instruction, model, processor):
    env.reset()  # look: VD801
    obs = env.set_init_state(state)
    for _ in range(SETTLE_STEPS):
        obs, _, _, _ = env.step(REST)
    for _ in range(MAX_STEPS[SUITE]):
        action = predict(model, processor, picture(obs), instruction)
        obs, _, done, _ = env.step(to_env(action).tolist())
        if done:
            return True
    return False


def main():
    model, processor = load()
    suite = benchmark.get_benchmark_dict()[SUITE]()
    for task_id in range(suite.n_tasks):
        task = suite.get_task(task_id)
        states = suite.get_task_init_states(task_id)
        env = make_env(task)
        successes = sum(run_episode(env, states[i], task.language, model, processor) for i in range(TRIALS))
        print(f"{task.name}: {successes}/{TRIALS}")
        env.close()


if __name__ == "__main__":
    main()
