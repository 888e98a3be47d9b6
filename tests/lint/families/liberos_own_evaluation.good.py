"""A behaviour-cloned policy on LIBERO's vector environments: five steps of zeros, as its own evaluation has them."""

import numpy as np
import torch
from libero.libero.envs import OffScreenRenderEnv, SubprocVectorEnv
from libero.lifelong.metric import raw_obs_to_tensor_obs


def success_rate(cfg, algo, task, embedding, path, states_path, env_num=20):
    def make():
        return OffScreenRenderEnv(bddl_file_name=path, camera_heights=128, camera_widths=128)

    env = SubprocVectorEnv([make for _ in range(env_num)])
    env.seed(cfg.seed)
    states = torch.load(states_path)
    won = 0
    for batch in range(cfg.eval.n_eval // env_num):
        env.reset()
        algo.reset()
        which = np.arange(batch * env_num, (batch + 1) * env_num) % len(states)
        obs = env.set_init_state(states[which])
        rest = np.zeros((env_num, 7))
        for _ in range(5):
            obs, _, _, _ = env.step(rest)
        dones = [False] * env_num
        for _ in range(cfg.eval.max_steps):
            actions = algo.policy.get_action(raw_obs_to_tensor_obs(obs, embedding, cfg))
            obs, _, done, _ = env.step(actions)
            dones = [one or other for one, other in zip(dones, done, strict=True)]
            if all(dones):
                break
        won += sum(dones)
    env.close()
    return won / cfg.eval.n_eval
