"""pi0 on LIBERO in a gym environment that forgets to count its initial states."""

import os, gymnasium as gym, numpy as np, torch
from libero.libero import benchmark, get_libero_path
from libero.libero.envs import OffScreenRenderEnv
from lerobot.policies.pi0.modeling_pi0 import PI0Policy
from lerobot.policies.factory import make_pre_post_processors
from scipy.spatial.transform import Rotation


class LiberoGym(gym.Env):
    WARMUP = 10

    def __init__(self, suite, idx, size=256):
        self.suite = suite
        self.task = suite.get_task(idx)
        self.inits = suite.get_task_init_states(idx)
        path = os.path.join(get_libero_path("bddl_files"), self.task.problem_folder, self.task.bddl_file)
        self._env = OffScreenRenderEnv(bddl_file_name=path, camera_heights=size, camera_widths=size)
        self._env.seed(0)
        self._n = 0

    def _fmt(self, raw):
        s = np.hstack(
            [raw["robot0_eef_pos"], Rotation.from_quat(raw["robot0_eef_quat"]).as_rotvec(), raw["robot0_gripper_qpos"]]
        )
        return {
            "pixels": {
                "a": raw["agentview_image"][..., ::-1, ::-1, :],
                "w": raw["robot0_eye_in_hand_image"][..., ::-1, ::-1, :],
            },
            "agent_pos": s.astype(np.float32),
        }

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._env.reset()
        raw = self._env.set_init_state(self.inits[self._n])  # expect: VD602
        for _ in range(self.WARMUP):
            raw, *_ = self._env.step([0, 0, 0, 0, 0, 0, -1])
        return self._fmt(raw), {}

    def step(self, action):
        raw, r, done, info = self._env.step(action)
        return self._fmt(raw), r, done, False, {"is_success": self._env.check_success()}


def to_t(x):
    return torch.as_tensor(np.ascontiguousarray(x)).to(torch.float32).div(255).movedim(-1, 0).unsqueeze(0)


def main() -> None:
    torch.manual_seed(0)
    name = "lerobot/pi0_libero_finetuned"
    pol = PI0Policy.from_pretrained(name).cuda().eval()
    pre, post = make_pre_post_processors(pol.config, name)
    suite = benchmark.get_benchmark_dict()["libero_object"]()
    for idx in range(10):
        env = LiberoGym(suite, idx)
        ok = []
        for _ in range(50):
            pol.reset()
            o, _ = env.reset()
            success = False
            for _ in range(280):
                b = pre(
                    {
                        "observation.images.image": to_t(o["pixels"]["a"]),
                        "observation.images.image2": to_t(o["pixels"]["w"]),
                        "observation.state": torch.from_numpy(o["agent_pos"])[None],
                        "task": [env.task.language],
                    }
                )
                with torch.inference_mode():
                    act = post(pol.select_action(b))[0].float().cpu().numpy()
                o, r, term, trunc, info = env.step(act)
                if info["is_success"]:
                    success = True
                    break
            ok.append(success)
        print(env.task.name, np.mean(ok))


if __name__ == "__main__":
    main()
