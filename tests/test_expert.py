from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vladoctor.fixtures.build import collect, expert

needs_libero = [
    pytest.mark.simulator,
    pytest.mark.skipif(importlib.util.find_spec("libero") is None, reason="LIBERO is not installed"),
]

CAN, BASKET = np.array([-0.12, -0.24, expert.REST_HEIGHT]), np.array([0.0, 0.26, 0.0])


def state(
    *, over: float = 0.0, beside: float = 0.0, lifted: float = 0.0, gap: float = 0.079, held: bool = False
) -> expert.State:
    item = CAN + np.array([0, 0, lifted])
    gripper = item + np.array([0, beside, expert.GRASP_ABOVE + over])
    return expert.State(gripper=gripper, item=item, basket=BASKET, gap=gap, held=held)


@pytest.mark.parametrize(
    ("name", "seen", "up", "gripper"),
    [
        ("high above the can", state(over=0.10), -1, expert.OPEN),
        ("just above the can: still fast", state(over=0.02), -1, expert.OPEN),
        ("low beside the can: back up first", state(over=0.0, beside=0.05), 1, expert.OPEN),
        ("around the can: close while rising", state(), 1, expert.CLOSE),
        ("closing", state(over=0.01, gap=0.070), 1, expert.CLOSE),
        ("closed on nothing", state(gap=0.01), 1, expert.OPEN),
        ("held, on the floor", state(gap=0.063, held=True), 1, expert.CLOSE),
        ("held, off the floor", state(lifted=0.05, gap=0.063, held=True), 1, expert.CLOSE),
    ],
)
def test_decisions(name: str, seen: expert.State, up: int, gripper: float) -> None:
    action = expert.act(seen)
    assert action.shape == (7,)
    assert action.dtype == np.float32
    assert np.sign(action[2]) == up, name
    assert action[6] == gripper, name
    assert not action[3:6].any()


def test_descending_never_looks_like_lifting() -> None:
    for over in np.linspace(0.007, 0.12, 30):
        assert expert.act(state(over=float(over)))[2] <= -0.4


def test_opens_over_the_basket() -> None:
    item = BASKET + np.array([0, 0, 0.195])
    over = expert.State(gripper=item + np.array([0, 0, 0.01]), item=item, basket=BASKET, gap=0.063, held=True)
    assert expert.act(over)[6] == expert.OPEN


def test_noise_leaves_label_and_gripper_alone() -> None:
    action = np.array([0.5, 0, -0.5, 0, 0, 0, 1], dtype=np.float32)
    noise = collect.Noise(0.2, np.random.default_rng(1))
    disturbed = np.stack([noise(action) for _ in range(400)])
    assert np.array_equal(action, np.array([0.5, 0, -0.5, 0, 0, 0, 1], dtype=np.float32))
    assert (np.abs(disturbed[:, :3]) <= 1).all()
    assert disturbed[:, 1].std() > 0.1
    assert np.array_equal(disturbed[:, 3:], np.tile(action[3:], (400, 1)))
    again = collect.Noise(0.2, np.random.default_rng(1))
    assert np.array_equal(disturbed, np.stack([again(action) for _ in range(400)]))


def test_labels_speak_the_models_gripper_convention() -> None:
    assert collect.label_of(np.array([0, 0, 0, 0, 0, 0, expert.OPEN]))[6] == 1.0
    assert collect.label_of(np.array([0, 0, 0, 0, 0, 0, expert.CLOSE]))[6] == 0.0


def episode(number: int, steps: int = 3) -> dict[str, Any]:
    rng = np.random.default_rng(number)
    return {
        "frames": rng.integers(0, 256, (steps, 128, 128, 3), dtype=np.uint8),
        "actions": rng.uniform(-1, 1, (steps, 7)).astype(np.float32),
        "instruction": "pick up the can",
        "init": number % collect.TRAIN_INITS,
        "seed": collect.attempt_seed(0, number),
        "number": number,
        "success": True,
    }


def test_archive_returns_what_was_packed(tmp_path: Path) -> None:
    for task_index in range(len(collect.TASKS)):
        for number in (0, 2, 3):
            np.savez(collect._file(tmp_path, task_index, number), **episode(number))
        collect._file(tmp_path, task_index, 1).with_suffix(".failed").touch()
    path = tmp_path / "demos.pack"
    assert collect.pack(tmp_path, path, episodes=2, workers=1) == path.stat().st_size
    read = collect.load_pack(path)
    assert [item["init"] for item in read] == [0, 2, 0, 2]
    for item, number in zip(read, (0, 2, 0, 2), strict=True):
        wanted = episode(number)
        assert item["frames"].dtype == np.uint8
        assert np.array_equal(item["frames"], wanted["frames"])
        assert item["actions"].dtype == np.float32
        assert np.array_equal(item["actions"], wanted["actions"])
        assert (item["instruction"], item["seed"]) == (wanted["instruction"], wanted["seed"])


def test_foreign_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"not ours")
    with pytest.raises(ValueError, match="not an archive"):
        collect.load_pack(tmp_path / "x")


def test_statistics_keep_rotation_visible() -> None:
    episodes = [episode(0, 50), episode(1, 50)]
    for item in episodes:
        item["actions"][:, 3:6] = 0
    table = collect.statistics(episodes)["libero_object"]
    assert (table["num_transitions"], table["num_trajectories"]) == (100, 2)
    action = table["action"]
    assert action["q01"][3:6] == pytest.approx(collect.REACH[0][3:6])
    assert action["q99"][3:6] == pytest.approx(collect.REACH[1][3:6])
    assert all(low < 0 < high for low, high in zip(action["q01"][3:6], action["q99"][3:6], strict=True))
    assert action["mask"] == [True] * 6 + [False]
    assert all(len(action[key]) == 7 for key in ("mean", "std", "min", "max", "q01", "q99", "mask"))


def test_labels_stay_within_reach_and_the_grippers_are_left_alone() -> None:
    item = episode(0, 50)
    item["actions"][:, :6] = 1.0
    item["actions"][:, 6] = 1.0
    (clipped,) = collect.within_reach([item])
    assert clipped["actions"][0] == pytest.approx([*collect.REACH[1], 1.0])
    assert item["actions"][0, 0] == 1.0


class TestInTheSimulator:
    pytestmark = needs_libero

    @pytest.mark.parametrize(("task", "init"), [(collect.TASKS[0], 0), (collect.TASKS[1], 0)])
    def test_expert_succeeds(self, task: int | str, init: int) -> None:
        from vladoctor.adapters import libero

        libero.prepare("stand-in")
        chosen = libero.load_task(collect.SUITE, task)
        env = libero.make_env(chosen, resolution=32)
        try:
            obs = libero.settle(env, libero.reset_to(env, chosen.init_states[init]))
            for _ in range(160):
                obs, _, success, _ = env.step(expert.act(expert.read_state(env, obs)))
                if success:
                    break
            assert success
        finally:
            libero.close_env(env)

    def test_attempts_are_reproducible(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from vladoctor.adapters import libero

        monkeypatch.setattr(collect, "MAX_STEPS", 8)
        libero.prepare("stand-in")
        task = libero.load_task(collect.SUITE, collect.TASKS[0])
        env = libero.make_env(task, resolution=collect.RENDER_SIZE)
        try:
            once, again = (collect.run_attempt(env, task, 0, 7) for _ in range(2))
        finally:
            libero.close_env(env)
        assert once["frames"].shape == (8, 128, 128, 3)
        assert np.array_equal(once["frames"], again["frames"])
        assert np.array_equal(once["actions"], again["actions"])
        assert once["init"] == 7 % collect.TRAIN_INITS
