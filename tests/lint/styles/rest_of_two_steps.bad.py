"""OpenVLA on LIBERO: one env.step executes what rests and what the policy answers."""

import io

import numpy as np
import torch
from libero.libero import benchmark
from libero.libero.envs import OffScreenRenderEnv
from PIL import Image
from transformers import AutoModelForVision2Seq, AutoProcessor

REST = [0, 0, 0, 0, 0, 0, -1]
name = "libero_goal"
checkpoint = f"openvla/openvla-7b-finetuned-{name.replace('_', '-')}"
torch.manual_seed(7)
np.random.seed(7)
processor = AutoProcessor.from_pretrained(checkpoint, trust_remote_code=True)
vla = (
    AutoModelForVision2Seq.from_pretrained(checkpoint, torch_dtype=torch.bfloat16, trust_remote_code=True).cuda().eval()
)
suite = benchmark.get_benchmark(name)()


def act(obs, prompt):
    buffer = io.BytesIO()
    Image.fromarray(obs["agentview_image"][::-1, ::-1]).save(buffer, "JPEG")
    image = Image.open(buffer).resize((224, 224), Image.LANCZOS)
    image = image.crop((6, 6, 218, 218)).resize((224, 224), Image.BILINEAR)
    inputs = processor(prompt, image).to("cuda", dtype=torch.bfloat16)
    action = vla.predict_action(**inputs, unnorm_key=name, do_sample=False)
    return np.concatenate([action[:6], np.where(action[6:] > 0.5, -1.0, 1.0)])


for task_id in range(suite.n_tasks):
    task = suite.get_task(task_id)
    states = suite.get_task_init_states(task_id)
    env = OffScreenRenderEnv(
        bddl_file_name=suite.get_task_bddl_file_path(task_id), camera_heights=256, camera_widths=256
    )
    env.seed(0)
    prompt = "In: What action should the robot take to " + task.language.lower() + "?\nOut:"
    wins = 0
    for trial in range(50):
        env.reset()
        obs = env.set_init_state(states[trial % len(states)])
        for t in range(310):
            if t >= 2:  # look: VD601
                action = act(obs, prompt)
            else:
                action = np.array(REST)
            obs, reward, done, info = env.step(action)
            if done:
                wins += 1
                break
    print(task.language, wins / 50)
    env.close()
