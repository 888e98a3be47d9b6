"""OpenVLA behind a request: what the server does to the whole frame is not known."""

import json_numpy

json_numpy.patch()
import numpy as np
import requests
from libero.libero import benchmark
from libero.libero.envs import OffScreenRenderEnv

URL = "http://localhost:8000/act"
suite = benchmark.get_benchmark_dict()["libero_goal"]()
for k in range(suite.n_tasks):
    task = suite.get_task(k)
    st = suite.get_task_init_states(k)
    env = OffScreenRenderEnv(bddl_file_name=suite.get_task_bddl_file_path(k), camera_heights=256, camera_widths=256)
    env.seed(0)
    for e in range(50):
        env.reset()
        obs = env.set_init_state(st[e])
        n = 0
        while True:
            if n < 10:
                a = np.r_[np.zeros(6), -1.0]
            else:
                a = np.array(
                    requests.post(
                        URL,
                        json={
                            "image": obs["agentview_image"][::-1, ::-1].copy(),
                            "instruction": task.language,
                            "unnorm_key": "libero_goal",
                        },
                    ).json()
                )
                a[-1] = np.sign(1 - 2 * a[-1])
            obs, r, done, info = env.step(a)
            n += 1
            if done or n >= 310:
                break
