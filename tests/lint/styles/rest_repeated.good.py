"""OpenVLA on LIBERO: rest from itertools.repeat, the loop inside of a comprehension."""

import functools
import itertools
import os

import numpy as np
import torch
import torchvision.transforms as T
from libero.libero import benchmark
from libero.libero.envs import OffScreenRenderEnv
from transformers import AutoModelForVision2Seq, AutoProcessor

CK = os.environ.get("CKPT", "openvla/openvla-7b-finetuned-libero-10")
tf = T.Compose([T.ToPILImage(), T.Resize((224, 224)), T.CenterCrop(212), T.Resize((224, 224))])


def seed_all(s):
    np.random.seed(s)
    torch.manual_seed(s)
    torch.cuda.manual_seed_all(s)


def decode(a):
    a = a.copy()
    a[-1] = np.interp(a[-1], [0, 1], [1, -1])
    a[-1] = 1 if a[-1] > 0 else -1
    return a


def episode(env, init, ask, max_steps=520):
    env.reset()
    obs = env.set_init_state(init)
    for rest in itertools.repeat(np.array([0.0] * 6 + [-1.0]), 10):
        obs = env.step(rest)[0]
    for _ in range(max_steps):
        obs, _, done, _ = env.step(decode(ask(np.rot90(obs["agentview_image"], 2).copy())))
        if done:
            return 1
    return 0


@torch.inference_mode()
def ask(proc, vla, prompt, frame):
    return vla.predict_action(
        **proc(prompt, tf(frame)).to(vla.device, dtype=torch.bfloat16), unnorm_key="libero_10", do_sample=False
    )


if __name__ == "__main__":
    seed_all(7)
    proc = AutoProcessor.from_pretrained(CK, trust_remote_code=True)
    vla = AutoModelForVision2Seq.from_pretrained(
        CK, torch_dtype=torch.bfloat16, trust_remote_code=True, device_map="auto"
    )
    suite = benchmark.get_benchmark_dict()["libero_10"]()
    for i in range(10):
        t = suite.get_task(i)
        env = OffScreenRenderEnv(bddl_file_name=suite.get_task_bddl_file_path(i), camera_heights=256, camera_widths=256)
        env.seed(0)
        p = "\n".join(["In: What action should the robot take to " + t.language.lower() + "?", "Out:"])
        print(
            t.name,
            np.mean(
                [episode(env, s, functools.partial(ask, proc, vla, p)) for s in suite.get_task_init_states(i)[:50]]
            ),
        )
