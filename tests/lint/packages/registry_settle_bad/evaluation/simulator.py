"""LIBERO, an episode at a time."""

import os

from libero.libero import benchmark, get_libero_path
from libero.libero.envs import OffScreenRenderEnv

LIMITS = {"libero_spatial": 220, "libero_object": 280, "libero_goal": 300, "libero_10": 520, "libero_90": 400}


def tasks_of(name):
    suite = benchmark.get_benchmark_dict()[name]()
    for number in range(suite.n_tasks):
        yield suite.get_task(number), suite.get_task_init_states(number)


class Episode:
    def __init__(self, task, state, suite):
        path = os.path.join(get_libero_path("bddl_files"), task.problem_folder, task.bddl_file)
        self.env = OffScreenRenderEnv(bddl_file_name=path, camera_heights=256, camera_widths=256)
        self.env.seed(0)
        self.instruction, self.state, self.limit = task.language, state, LIMITS[suite]

    def begin(self):
        self.env.reset()
        self.obs = self.env.set_init_state(self.state)

    def run(self, policy):
        self.begin()
        for _ in range(self.limit):  # expect: VD601
            action = policy.act(self.obs, self.instruction)
            self.obs, _, done, _ = self.env.step(action.tolist())
            if done:
                return True
        return False
