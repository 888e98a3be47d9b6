"""The instrument keeps to its own limit: it measures its time and leaves out what is needed least."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from vladoctor.records import Outcome
from vladoctor.taps.budget import FULL_FRAMES, MOST_WAITING, ORDER, PICTURES, WINDOW, Budget
from vladoctor.taps.environments import EnvAdapter, Transition
from vladoctor.taps.recorder import Recorder
from vladoctor.taps.watch import Watch
from vladoctor.trace import TraceWriter, find_traces, read_episode


def test_a_cheap_instrument_leaves_nothing_out() -> None:
    budget = Budget()
    for _ in range(3 * WINDOW):
        assert budget.step(1e-4, 0) is None
    assert budget.shed == ()


def test_what_is_over_the_limit_leaves_out_one_thing_after_the_other() -> None:
    budget = Budget()
    said = [budget.step(0.01, 0) for _ in range(5 * WINDOW)]
    assert [what for what in said if what] == list(ORDER)
    assert not budget.keeps(FULL_FRAMES)
    kept = []
    for _ in range(10):
        kept.append(budget.keeps(PICTURES))
        budget.step(0.01, 0)
    assert sum(kept) == 2


def test_a_worker_that_cannot_keep_up_is_relieved_at_once() -> None:
    budget = Budget()
    budget.step(0.0, 0)
    assert budget.step(0.0, MOST_WAITING + 1) == FULL_FRAMES


def test_time_between_episodes_is_no_step() -> None:
    budget = Budget()
    budget.step(0.0, 0)
    budget.pause()
    time.sleep(0.05)
    budget.step(0.0, 0)
    assert budget.taken == 0.0


class Camera:
    """Frames so large that copying them breaks the limit for real."""

    def __init__(self) -> None:
        self.frames = np.random.default_rng(0).integers(0, 255, (2, 1600, 1600, 3), np.uint8)

    def reset(self) -> dict[str, Any]:
        return {"front": self.frames[0], "back": self.frames[1]}

    def step(self, action: np.ndarray) -> dict[str, Any]:
        time.sleep(0.002)
        return {"front": self.frames[0], "back": self.frames[1]}


def test_a_loop_with_large_frames_is_watched_within_the_limit_and_told(tmp_path: Path) -> None:
    watch = Watch(tmp_path)
    watch.start()
    try:
        env = Camera()
        adapter = EnvAdapter("camera", read_step=Transition)
        watch.watch_env(env, adapter)
        env.reset()
        for _ in range(4 * WINDOW):
            env.step(np.zeros(3))
    finally:
        watch.close()
    (path,) = find_traces(tmp_path)
    episode = read_episode(path)
    assert len(episode.steps) == 4 * WINDOW
    assert episode.run["budget"]["shed"] == list(ORDER)
    assert any(FULL_FRAMES in note for note in episode.notes)
    pictured = [bool(step.frames) for step in episode.steps]
    assert all(pictured[:WINDOW])
    assert 0 < sum(pictured[-WINDOW:]) <= WINDOW // 2


def test_what_was_left_out_stands_in_the_trace_of_the_reference_loop_too(tmp_path: Path) -> None:
    recorder = Recorder(TraceWriter(tmp_path / "a.mcap", {}, {}), budget=Budget(limit=0.0))
    for _ in range(2 * WINDOW):
        with recorder.tap:
            time.sleep(0.001)
            recorder.acting([0.0])
            recorder.stepped()
    recorder.close(Outcome("horizon", False, 2 * WINDOW))
    assert any(FULL_FRAMES in note for note in read_episode(tmp_path / "a.mcap").notes)
