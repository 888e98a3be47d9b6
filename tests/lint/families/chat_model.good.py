"""A vision-language-action model with a chat template: its messages are its own prompt, and it is no OpenVLA."""

import os

import numpy as np
import torch
from libero.libero import benchmark, get_libero_path
from libero.libero.envs import OffScreenRenderEnv
from PIL import Image
from qwen_vl_utils import process_vision_info
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

CHECKPOINT = "lab/qwen-vla-fast"
LOW, HIGH = np.array([-0.9] * 6 + [0.0]), np.array([0.9] * 6 + [1.0])


class Policy:
    def __init__(self):
        self.processor = AutoProcessor.from_pretrained(CHECKPOINT)
        self.fast = AutoProcessor.from_pretrained("physical-intelligence/fast", trust_remote_code=True)
        self.model = Qwen2_5_VLForConditionalGeneration.from_pretrained(CHECKPOINT, torch_dtype=torch.bfloat16)
        self.model.cuda().eval()

    def act(self, frame, instruction):
        content = [{"type": "image", "image": Image.fromarray(frame)}, {"type": "text", "text": instruction}]
        messages = [{"role": "user", "content": content}]
        text = self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        pictures, _ = process_vision_info(messages)
        inputs = self.processor(text=[text], images=pictures, return_tensors="pt").to("cuda")
        made = self.model.generate(**inputs, max_new_tokens=64, do_sample=False)[0]
        normalised = self.fast.decode([made[made > 150000] - 151665])[0][0]
        action = 0.5 * (normalised + 1) * (HIGH - LOW) + LOW
        action[-1] = 1.0 - 2.0 * (action[-1] > 0.5)
        return action


def main(name="libero_goal"):
    torch.manual_seed(7)
    policy = Policy()
    suite = benchmark.get_benchmark_dict()[name]()
    for number in range(suite.n_tasks):
        task, states = suite.get_task(number), suite.get_task_init_states(number)
        path = os.path.join(get_libero_path("bddl_files"), task.problem_folder, task.bddl_file)
        env = OffScreenRenderEnv(bddl_file_name=path, camera_heights=256, camera_widths=256)
        env.seed(0)
        won = 0
        for trial in range(50):
            env.reset()
            obs = env.set_init_state(states[trial])
            for t in range(310):
                if t < 10:
                    obs, _, done, _ = env.step([0, 0, 0, 0, 0, 0, -1])
                    continue
                obs, _, done, _ = env.step(policy.act(obs["agentview_image"][::-1, ::-1], task.language))
                if done:
                    won += 1
                    break
        print(task.name, won / 50)


if __name__ == "__main__":
    main()
