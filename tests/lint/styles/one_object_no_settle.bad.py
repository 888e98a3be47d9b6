"""Success rate of an OpenVLA checkpoint on one LIBERO suite."""

import io
import os
import random

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


def seed_everything(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def make_env(task):
    bddl = os.path.join(get_libero_path("bddl_files"), task.problem_folder, task.bddl_file)
    env = OffScreenRenderEnv(bddl_file_name=bddl, camera_heights=256, camera_widths=256)
    env.seed(0)
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


class Evaluation:
    """Everything in one object."""

    center_crop: bool = True

    def __init__(self, suite=SUITE):
        self.suite_name = suite
        self.suite = benchmark.get_benchmark_dict()[suite]()
        self.processor = AutoProcessor.from_pretrained(CHECKPOINT, trust_remote_code=True)
        self.vla = AutoModelForVision2Seq.from_pretrained(
            CHECKPOINT, torch_dtype=torch.bfloat16, trust_remote_code=True
        ).cuda()
        self.vla.eval()

    @property
    def limit(self):
        return MAX_STEPS[self.suite_name]

    @staticmethod
    def turn(frame):
        return frame[::-1, ::-1]

    def see(self):
        image = through_jpeg(Image.fromarray(self.turn(self.obs["agentview_image"])))
        image = image.resize((224, 224), Image.LANCZOS)
        return centre_crop(image) if self.center_crop else image

    def think(self):
        prompt = f"In: What action should the robot take to {self.task.language.lower()}?\nOut:"
        inputs = self.processor(prompt, self.see()).to("cuda", dtype=torch.bfloat16)
        return self.vla.predict_action(**inputs, unnorm_key=self.suite_name, do_sample=False)

    def do(self, action):
        self.obs, self.reward, self.done, _ = self.env.step(action)

    def begin(self, number):
        self.env.reset()
        self.obs = self.env.set_init_state(self.states[number])

    def episode(self, number):
        self.begin(number)
        for _ in range(self.limit):  # expect: VD601
            action = self.think()
            action[-1] = 1.0 - 2.0 * (action[-1] > 0.5)
            self.do(action.tolist())
            if self.done:
                break
        return self.done

    def run(self):
        for number in range(self.suite.n_tasks):
            self.task, self.states = self.suite.get_task(number), self.suite.get_task_init_states(number)
            self.env = make_env(self.task)
            print(self.task.name, sum(self.episode(trial) for trial in range(TRIALS)))


if __name__ == "__main__":
    seed_everything(7)
    Evaluation().run()
