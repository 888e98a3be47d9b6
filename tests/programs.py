"""Small programs that step a real Gymnasium environment, for the tests of watching from outside."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DISC = '''
import hashlib
import pickle
import random
import sys

import gymnasium
import numpy as np


class Disc(gymnasium.Env):
    """A square that moves over a chequered floor; five steps are an episode."""

    metadata = {"render_modes": []}
    observation_space = gymnasium.spaces.Box(0, 255, (48, 48, 3), np.uint8)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self, fail_at=0):
        self.fail_at = fail_at

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count, self.place = 0, self.np_random.uniform(8, 40, 2)
        return self.draw(), {}

    def step(self, action):
        """Move by four pixels at most."""
        self.count += 1
        if self.count == self.fail_at:
            raise RuntimeError("the arm fell off")
        self.place = np.clip(self.place + 4 * np.asarray(action), 4, 44)
        return self.draw(), float(self.place.sum()), False, self.count >= 5, {"count": self.count}

    def draw(self):
        rows, columns = np.mgrid[:48, :48]
        frame = np.repeat((60 + 80 * ((rows // 8 + columns // 8) % 2))[..., None], 3, 2).astype(np.uint8)
        row, column = self.place.astype(int)
        frame[row - 4 : row + 4, column - 4 : column + 4] = (220, 40, 40)
        return frame


def roll_out(env, episodes=1, seed=0):
    env.action_space.seed(seed)
    for episode in range(episodes):
        env.reset(seed=seed + episode)
        over = False
        while not over:
            *_, terminated, truncated, _ = env.step(env.action_space.sample())
            over = terminated or truncated
            yield env


def states():
    """A digest of every random generator's state."""
    found = [random.getstate(), np.random.get_state()]
    if "torch" in sys.modules:
        found.append(sys.modules["torch"].get_rng_state().numpy().tobytes())
    return hashlib.sha256(pickle.dumps(found)).hexdigest()
'''


@dataclass(frozen=True)
class Ended:
    """A process that has ended: exit status, stdout and stderr, and the folder that the watched one recorded in."""

    status: int
    out: str
    err: str
    folder: Path


def write(folder: Path, text: str, name: str = "program.py") -> Path:
    """Write a program, and beside it the module `disc` with the environment."""
    (folder / "disc.py").write_text(DISC, encoding="utf-8")
    file = folder / name
    file.write_text(textwrap.dedent(text), encoding="utf-8")
    return file


def bare(words: Sequence[Any], cwd: Path, **options: Any) -> Ended:
    """Run a command as it is."""
    return _run([str(word) for word in words], cwd, cwd, **options)


def watched(words: Sequence[Any], cwd: Path, *options: str, out: str = "watched", **more: Any) -> Ended:
    """Run a command under `vladoctor diagnose`."""
    command = [sys.executable, "-m", "vladoctor", "diagnose", *options, "--out", out, "--"]
    return _run([*command, *map(str, words)], cwd, cwd / out, **more)


def _run(command: Sequence[str], cwd: Path, folder: Path, env: dict[str, str] | None = None, **options: Any) -> Ended:
    # Messages on one line each, so that paths in them stay whole.
    variables = {**os.environ, "COLUMNS": "1000", **(env or {})}
    done = subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, check=False, **options)
    return Ended(done.returncode, done.stdout, done.stderr, folder)
