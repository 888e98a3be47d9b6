from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vladoctor.adapters import libero
from vladoctor.errors import UserError

pytestmark = [
    pytest.mark.simulator,
    pytest.mark.skipif(importlib.util.find_spec("libero") is None, reason="LIBERO is not installed"),
]

TOMATO = "pick_up_the_tomato_sauce_and_place_it_in_the_basket_scene0"


@pytest.fixture(scope="module", autouse=True)
def _stand_ins() -> None:
    libero.prepare("stand-in")


@pytest.fixture
def soup() -> Iterator[tuple[libero.LiberoTask, Any]]:
    task = libero.load_task("libero_object", 0)
    env = libero.make_env(task, resolution=64)
    yield task, env
    libero.close_env(env)


def test_tasks_of_the_suite() -> None:
    tasks = [libero.load_task("libero_object", index) for index in range(10)]
    assert len({task.name for task in tasks}) == 10
    for task in tasks:
        assert task.bddl_file.is_file()
        assert task.language == task.name.replace("_", " ")
        assert task.init_states.shape == (50, 110)
        assert task.init_states.dtype == np.float64
    assert libero.load_task("libero_object", tasks[3].name).task_id == 3


def test_own_bddl_takes_its_scene_and_its_language() -> None:
    ours, official = libero.load_task("libero_object", TOMATO), libero.load_task("libero_object", 0)
    assert ours.language == "pick up the tomato sauce and place it in the basket"
    assert np.array_equal(ours.init_states, official.init_states)
    assert libero.load_task("libero_object", str(ours.bddl_file)).name == TOMATO


@pytest.mark.parametrize(
    ("suite", "task", "said"),
    [
        ("libero_objects", 0, "did you mean libero_object"),
        ("libero_object", 10, "use 0 to 9"),
        ("libero_object", -1, "use 0 to 9"),
        ("libero_object", "pick_up_the_milk", "did you mean pick_up_the_milk_and_place_it_in_the_basket"),
        ("libero_goal", TOMATO, "say libero_object"),
    ],
)
def test_unknown_names_are_answered_with_known_ones(suite: str, task: int | str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        libero.load_task(suite, task)


def test_own_bddl_without_a_scene_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.bddl"
    file.write_text("(define (problem LIBERO_Floor_Manipulation) (:language do it))", encoding="utf-8")
    with pytest.raises(UserError, match="which official task's scene"):
        libero.load_task("libero_object", str(file))


def test_no_assets_no_download() -> None:
    root = libero._package_root()
    if (root / "assets").is_dir() or (Path.home() / ".cache" / "libero" / "assets").is_dir():
        pytest.skip("the real assets are on this machine")
    with pytest.raises(UserError, match="stand-in"):
        libero.prepare("real")
    with pytest.raises(UserError, match="neither auto, real, stand-in"):
        libero.prepare("standin")
    with pytest.raises(UserError, match="does not download"):
        sys.modules["libero.libero.utils.download_utils"].download_assets_from_huggingface()  # type: ignore[attr-defined]


def test_episodes_repeat_bit_by_bit(soup: tuple[libero.LiberoTask, Any]) -> None:
    task, env = soup
    actions = np.random.default_rng(0).uniform(-0.5, 0.5, (8, 7))

    def episode() -> list[np.ndarray]:
        first = libero.reset_to(env, task.init_states[0])["agentview_image"]
        return [first] + [env.step(action)[0]["agentview_image"] for action in actions]

    once, again = episode(), episode()
    assert all(np.array_equal(a, b) for a, b in zip(once, again, strict=True))
    assert once[0].shape == (64, 64, 3)
    assert once[0].std() > 20
    assert not np.array_equal(once[0], once[-1])


def test_init_state_of_another_model_is_refused(soup: tuple[libero.LiberoTask, Any]) -> None:
    task, env = soup
    with pytest.raises(UserError, match=r"shape \(109,\).*needs \(110,\)"):
        libero.reset_to(env, task.init_states[0][:-1])


def test_second_env_is_refused_until_the_first_is_closed(soup: tuple[libero.LiberoTask, Any]) -> None:
    task, env = soup
    with pytest.raises(UserError, match="another LIBERO env is alive"):
        libero.make_env(task, resolution=64)
    assert libero.live_env() is env
    libero.close_env(env)
    libero.close_env(env)
    assert libero.live_env() is None


def test_reset_raises_what_libero_swallows(tmp_path: Path) -> None:
    assets = tmp_path / "assets"
    shutil.copytree(libero.prepare("stand-in").path, assets)
    try:
        assert libero.prepare(str(assets)).kind == "folder"
        task = libero.load_task("libero_object", 0)
        env = libero.make_env(task, resolution=64)
        # LIBERO's own reset() would spin on this for ever.
        shutil.rmtree(assets)
        with pytest.raises(FileNotFoundError):
            libero.reset_to(env, task.init_states[0])
        libero.close_env(env)
        with pytest.raises(UserError, match="is gone"):
            libero.make_env(task, resolution=64)
    finally:
        libero.prepare("stand-in")


def test_objects_of_the_suite_settle_on_the_floor() -> None:
    # The other seven tasks hold the same eleven objects; a benchmark of the fixtures covers them.
    for index in (0, 3, 7):
        task = libero.load_task("libero_object", index)
        env = libero.make_env(task, resolution=64)
        obs = libero.settle(env, libero.reset_to(env, task.init_states[0]))
        heights = {key: obs[key][2] for key in obs if key.endswith("_1_pos")}
        assert len(heights) == 7
        assert all(-0.01 < height < 0.08 for height in heights.values()), heights
        libero.close_env(env)


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_bare_home_and_hidden_gpus(tmp_path: Path, hidden: str) -> None:
    script = (
        "import json, os, sys\n"
        "from vladoctor.adapters import libero\n"
        "assert not {'torch', 'mujoco', 'libero'} & set(sys.modules)\n"
        "libero.prepare('stand-in')\n"
        "task = libero.load_task('libero_object', 0)\n"
        "env = libero.make_env(task, resolution=64)\n"
        "image = libero.reset_to(env, task.init_states[0])['agentview_image']\n"
        "print(json.dumps([float(image.std()), os.environ['CUDA_VISIBLE_DEVICES']]))\n"
    )
    environment = {
        key: value for key, value in os.environ.items() if key not in ("LIBERO_CONFIG_PATH", "XDG_CACHE_HOME")
    }
    environment |= {"HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": hidden}
    environment.pop("MUJOCO_EGL_DEVICE_ID", None)
    done = subprocess.run(
        [sys.executable, "-c", script],
        stdin=subprocess.DEVNULL,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    deviation, visible = json.loads(done.stdout)
    assert deviation > 20
    assert visible == hidden
    assert "Exception ignored" not in done.stderr
    assert not (tmp_path / ".libero").exists()


def test_a_backend_that_needs_a_display_is_an_error_that_says_so() -> None:
    """GLX without a display: MuJoCo's own words say nothing of MUJOCO_GL."""
    script = (
        "from vladoctor.adapters import libero\n"
        "libero.prepare('stand-in')\n"
        "libero.make_env(libero.load_task('libero_object', 0), resolution=64)\n"
    )
    environment = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "PYOPENGL_PLATFORM")}
    done = subprocess.run(
        [sys.executable, "-c", script],
        stdin=subprocess.DEVNULL,
        env={**environment, "MUJOCO_GL": "glx"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "UserError: MUJOCO_GL=glx: MuJoCo cannot draw without a display: FatalError" in done.stderr
    assert "set MUJOCO_GL=egl" in done.stderr
