"""The loop that tutorials print: twenty-five lines from a task to an action, and most of them off by something."""

import torch
from libero.libero import benchmark
from libero.libero.envs import OffScreenRenderEnv
from PIL import Image
from transformers import AutoModelForVision2Seq, AutoProcessor

checkpoint = "openvla/openvla-7b"  # expect: VD704
processor = AutoProcessor.from_pretrained(checkpoint, trust_remote_code=True)
vla = AutoModelForVision2Seq.from_pretrained(checkpoint, torch_dtype=torch.bfloat16, trust_remote_code=True)
vla = vla.to("cuda:0").eval()

suite = benchmark.get_benchmark_dict()["libero_object"]()
task = suite.get_task(0)
env = OffScreenRenderEnv(bddl_file_name=task.bddl_file, camera_heights=256, camera_widths=256)  # expect: VD803
obs = env.reset()  # expect: VD602
prompt = f"In: What action should the robot take to {task.language}?\nOut:"

for step in range(300):  # expect: VD601
    image = Image.fromarray(obs["agentview_image"][::-1])  # expect: VD201
    inputs = processor(prompt, image).to("cuda:0", dtype=torch.bfloat16)  # expect: VD202
    action = vla.predict_action(**inputs, unnorm_key="libero_object", do_sample=False)  # expect: VD501
    obs, reward, done, info = env.step(action)  # expect: VD502
    if done:
        print("done after", step)
        break
env.close()
