# Quick evaluation of an OpenVLA checkpoint on one LIBERO task, without predict_action.
# usage: python one_file.py --checkpoint PATH [--task 0] [--episodes 1] [--first 30] [--max-steps 280]
import argparse
import io
import json
import os
import time

import numpy as np
import torch
import transformers
from libero.libero import benchmark, get_libero_path
from libero.libero.envs import OffScreenRenderEnv
from PIL import Image

parser = argparse.ArgumentParser()
parser.add_argument("--checkpoint", required=True)
parser.add_argument("--suite", default="libero_object")
parser.add_argument("--task", type=int, default=0)
parser.add_argument("--episodes", type=int, default=1)
parser.add_argument("--first", type=int, default=30)
parser.add_argument("--max-steps", type=int, default=280)
args = parser.parse_args()

torch.manual_seed(0)
device = "cuda:0" if torch.cuda.is_available() else "cpu"
dtype = torch.bfloat16 if device != "cpu" else torch.float32

# ---- model
processor = transformers.AutoProcessor.from_pretrained(args.checkpoint, trust_remote_code=True)
try:
    auto = transformers.AutoModelForVision2Seq
except AttributeError:
    auto = transformers.AutoModelForImageTextToText
model = auto.from_pretrained(args.checkpoint, trust_remote_code=True).to(device, dtype).eval()

# ---- statistics
cfg = json.load(open(os.path.join(args.checkpoint, "config.json")))  # noqa: PTH118, PTH123, SIM115
stats = json.load(open(os.path.join(args.checkpoint, "dataset_statistics.json")))  # noqa: PTH118, PTH123, SIM115
stats_key = "libero_object"
low = np.array(stats[stats_key]["action"]["q01"])
high = np.array(stats[stats_key]["action"]["q99"])
mask = np.array(stats[stats_key]["action"]["mask"])
edges = np.linspace(-1, 1, cfg["n_action_bins"])
centers = (edges[:-1] + edges[1:]) / 2
n_vocab = cfg["text_config"]["vocab_size"] - cfg["pad_to_multiple_of"]
size = cfg["image_sizes"][0]

# ---- environment
suite = benchmark.get_benchmark_dict()[args.suite]()
task = suite.get_task(args.task)
init_states = suite.get_task_init_states(args.task)
env = OffScreenRenderEnv(
    bddl_file_name=os.path.join(get_libero_path("bddl_files"), task.problem_folder, task.bddl_file),  # noqa: PTH118
    camera_names=["agentview"],
    camera_heights=256,
    camera_widths=256,
)
env.seed(0)
instruction = task.language
print("instruction:", instruction)

wins = 0
for episode in range(args.episodes):
    env.reset()
    obs = env.set_init_state(init_states[args.first + episode])
    for _ in range(10):
        obs, reward, done, info = env.step([0, 0, 0, 0, 0, 0, -1])

    done = False
    started = time.time()
    for step in range(args.max_steps):
        image = obs["agentview_image"]
        image = image[::-1, ::-1]
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(image)).save(buffer, "JPEG", quality=95)
        picture = Image.open(buffer).convert("RGB")
        # 90 % of the area in the middle, straight to the model's size
        margin = 256 * (1 - 0.9**0.5) / 2
        picture = picture.resize((size, size), Image.LANCZOS, box=(margin, margin, 256 - margin, 256 - margin))

        prompt = f"In: What action should the robot take to {instruction.lower()}?\nOut:"
        inputs = processor(prompt, picture).to(device, dtype=dtype)
        ids = inputs["input_ids"]
        if ids[0, -1] != 29871:
            ids = torch.cat([ids, torch.tensor([[29871]], device=device)], dim=1)
        with torch.inference_mode():
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                pixel_values=inputs["pixel_values"],
                max_new_tokens=7,
                do_sample=False,
            )
        tokens = out[0, -7:].cpu().numpy()
        bins = np.clip(n_vocab - tokens - 1, 0, len(centers) - 1)
        normalized = centers[bins]
        action = np.where(mask, low + (normalized + 1) / 2 * (high - low), normalized)
        action[6] = -1.0 if action[6] > 0.5 else 1.0

        obs, reward, done, info = env.step(action)
        if step % 20 == 0:
            print(f"  step {step:3d}  tokens {tokens.tolist()}  action {np.round(action, 3).tolist()}")
        if done:
            break

    wins += int(done)
    print(
        f"episode {episode}: {'success' if done else 'failure'} after {step + 1} steps, {time.time() - started:.1f} s"
    )

env.close()
print(f"success rate {wins}/{args.episodes} = {wins / args.episodes:.2f}")
