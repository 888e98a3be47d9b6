"""Real environments of real libraries, watched from outside."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vladoctor.records import Episode, Query
from vladoctor.taps.recorder import CALLS
from vladoctor.taps.watch import Watch
from vladoctor.trace import find_traces, read_episode

gymnasium = pytest.importorskip("gymnasium")

from gymnasium import spaces, wrappers  # noqa: E402
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv  # noqa: E402

CLIENTS = Path(__file__).resolve().parent / "clients"


class Recording:
    """A watch, and what it wrote."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder
        self.watch = Watch(folder, **options)
        self.watch.start()

    def ask(self, *actions: Any) -> None:
        self.watch.asked_all([Query(boundary="test", action=tuple(map(float, action))) for action in actions])

    def all_episodes(self) -> dict[str, Episode]:
        self.watch.close()
        return {path.stem: read_episode(path) for path in sorted(find_traces(self.folder, missing_ok=True))}

    def episodes(self) -> dict[str, Episode]:
        """Those of this process."""
        return {name: one for name, one in self.all_episodes().items() if not name.startswith("process")}


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Callable[..., Recording]]:
    made: list[Recording] = []

    def make(**options: Any) -> Recording:
        made.append(Recording(tmp_path / f"{len(made)}", **{"full_every": 1, **options}))
        return made[-1]

    yield make
    for one in made:
        one.watch.close()


def picture(seed: int, count: int) -> np.ndarray:
    """Another one for every environment and step."""
    return np.random.default_rng(1000 * seed + count).integers(0, 256, (24, 24, 3), dtype=np.uint8)


class Pixels(gymnasium.Env):
    """Observes pictures; the number of the episode's first one is the seed times 1000. Ends after `length` steps."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = spaces.Dict(
        {"front": spaces.Box(0, 255, (24, 24, 3), np.uint8), "state": spaces.Box(-1e9, 1e9, (2,), np.float64)}
    )
    action_space = spaces.Box(-10.0, 10.0, (3,), np.float32)

    def __init__(self, length: int = 3, name: int = 0, render_mode: str | None = "rgb_array") -> None:
        self.length, self.name, self.render_mode = length, name, render_mode
        self.count = 0

    def look(self) -> dict[str, np.ndarray]:
        self.count += 1
        return {"front": picture(self.name, self.count), "state": np.array([self.name, self.count], float)}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return self.look(), {"instruction": f"push {self.name}"}

    def step(self, action: np.ndarray) -> Any:
        self.steps += 1
        done = self.steps >= self.length
        info = {"is_success": done} if done else {"other": self.steps}
        return self.look(), 0.5, done, False, info

    def render(self) -> np.ndarray:
        return np.flipud(picture(self.name, self.count))


class Blind(Pixels):
    """The same, observing numbers alone."""

    observation_space = spaces.Box(-1e9, 1e9, (2,), np.float64)

    def look(self) -> Any:
        return super().look()["state"]


def roll(env: Any, recording: Recording, steps: int, **reset: Any) -> list[Any]:
    """Step, with a query before each; returns the observations that the program saw before its actions."""
    seen = [env.reset(**reset)[0]]
    for count in range(steps):
        action = np.array([count, 1 / 3, -1.0], np.float32)
        recording.ask(action)
        observation, _, terminated, truncated, _ = env.step(action)
        seen.append(env.reset()[0] if terminated or truncated else observation)
    return seen


def counts(episode: Episode, name: str = "state") -> list[int]:
    """Numbers of the pictures that the steps began with."""
    return [int(step.proprio[name][1]) for step in episode.steps]


def check_frames(episode: Episode, camera: str, name: int, numbers: list[int], flip: bool = False) -> None:
    assert len(episode.steps) == len(numbers)
    for step, number in zip(episode.steps, numbers, strict=True):
        assert list(step.frames) == [camera]
        shown = picture(name, number)
        full = step.frames[camera].full
        if full is not None:
            assert np.array_equal(full, shown[::-1] if flip else shown)
        assert step.frames[camera].minimum == shown.min()


def test_gymnasium(record: Callable[..., Recording]) -> None:
    recording = record()
    env = Pixels()
    roll(env, recording, 5, seed=11)
    first, second = recording.episodes().values()
    assert (first.outcome.ended, second.outcome.ended) == ("success", "horizon")
    assert first.task["language"] == "push 0"
    assert first.task["environment"] == "gymnasium"
    assert first.steps[0].info[CALLS]["calls"] == [{"call": "reset", "seed": 11}]
    assert [step.executed for step in first.steps] == [
        tuple(np.array([count, 1 / 3, -1.0], np.float32).tolist()) for count in range(3)
    ]
    assert [step.success for step in first.steps] == [None, None, True]
    assert all(step.query.action == step.executed for step in first.steps)
    check_frames(first, "front", 0, [1, 2, 3])
    check_frames(second, "front", 0, [5, 6])


@pytest.mark.parametrize(
    "wrap",
    [
        lambda env: wrappers.TimeLimit(env, 10),
        lambda env: wrappers.OrderEnforcing(wrappers.PassiveEnvChecker(env)),
        lambda env: wrappers.RecordEpisodeStatistics(env),
        lambda env: wrappers.FrameStackObservation(env, 3),
        lambda env: wrappers.FilterObservation(env, ["state"]),
        lambda env: wrappers.RescaleAction(env, np.float32(-1), np.float32(1)),
    ],
)
def test_wrappers_are_one_environment(record: Callable[..., Recording], wrap: Any) -> None:
    recording = record()
    env = wrap(Pixels(length=4))
    env.reset(seed=3)
    for _ in range(4):
        env.step(np.zeros(3, np.float32))
    (episode,) = recording.episodes().values()
    check_frames(episode, "front", 0, [1, 2, 3, 4])
    assert [step.done for step in episode.steps] == [False, False, False, True]


def test_an_environment_that_is_asked_for_its_instruction(record: Callable[..., Recording]) -> None:
    class Told(Blind):
        def reset(self, **options: Any) -> Any:
            return super().reset(**options)[0], {}

        def get_language_instruction(self) -> str:
            return "push the cube"

    recording = record()
    env = wrappers.TimeLimit(Told(), 5)
    env.reset()
    assert env.unwrapped.get_language_instruction() == "push the cube"
    env.step(np.zeros(3, np.float32))
    (episode,) = recording.episodes().values()
    assert episode.task["language"] == "push the cube"


def test_observations_in_tensors(record: Callable[..., Recording]) -> None:
    """One environment of a simulator that makes batches of tensors, here on the CPU."""
    torch = pytest.importorskip("torch")

    class Batch(Pixels):
        def look(self) -> Any:
            seen = super().look()
            return {
                "sensor": {"front": torch.from_numpy(seen["front"])[None]},
                "state": torch.from_numpy(seen["state"])[None],
            }

        def step(self, action: Any) -> Any:
            look, reward, done, _, _ = super().step(action)
            flag = torch.tensor([done])
            return look, torch.tensor([reward]), flag, torch.tensor([False]), {"success": flag}

    recording = record()
    env = Batch()
    env.reset()
    for _ in range(3):
        env.step(torch.full((1, 3), 1 / 3))
    (episode,) = recording.episodes().values()
    check_frames(episode, "sensor/front", 0, [1, 2, 3])
    assert {step.executed for step in episode.steps} == {(float(np.float32(1 / 3)),) * 3}
    assert [(step.reward, step.done, step.success) for step in episode.steps] == [
        (0.5, False, False),
        (0.5, False, False),
        (0.5, True, True),
    ]


def test_a_time_limit_is_an_end(record: Callable[..., Recording]) -> None:
    recording = record()
    env = wrappers.TimeLimit(Pixels(length=9), 2)
    env.reset()
    for _ in range(2):
        env.step(np.zeros(3, np.float32))
    (episode,) = recording.episodes().values()
    assert [step.done for step in episode.steps] == [False, True]


def test_an_action_repeat(record: Callable[..., Recording]) -> None:
    class Repeat(gymnasium.Wrapper):
        def step(self, action: Any) -> Any:
            self.env.step(action)
            return self.env.step(action)

    recording = record()
    env = Repeat(Pixels(length=9))
    env.reset()
    for count in range(2):
        recording.ask([count, 2.0, 3.0])
        env.step(np.array([count, 2.0, -3.0]))
    (episode,) = recording.episodes().values()
    assert [step.executed[0] for step in episode.steps] == [0.0, 0.0, 1.0, 1.0]
    assert [step.query is not None for step in episode.steps] == [True, False, True, False]
    check_frames(episode, "front", 0, [1, 2, 3, 4])


def test_pictures_that_are_drawn_apart(record: Callable[..., Recording]) -> None:
    recording = record()
    env = wrappers.AddRenderObservation(Blind(), render_only=False)
    roll(env, recording, 2)
    (episode,) = recording.episodes().values()
    # The wrapper itself resets once, to see what it will get.
    check_frames(episode, "pixels", 0, [2, 3], flip=True)

    recording = record()
    env = wrappers.TimeLimit(Blind(), 10)
    env.reset()
    for count in range(3):
        if count:
            env.render()
        env.step(np.zeros(3, np.float32))
    (episode,) = recording.episodes().values()
    assert [list(step.frames) for step in episode.steps] == [[], ["render"], ["render"]]
    assert np.array_equal(episode.steps[1].frames["render"].minimum, picture(0, 2).min())


def test_a_film_of_the_run_is_no_observation(record: Callable[..., Recording]) -> None:
    class Film(gymnasium.Wrapper):
        """As RecordVideo, without its film."""

        def step(self, action: Any) -> Any:
            result = self.env.step(action)
            self.env.render()
            return result

    recording = record()
    env = Film(Blind())
    env.reset()
    for _ in range(2):
        env.step(np.zeros(3, np.float32))
    (episode,) = recording.episodes().values()
    assert [dict(step.frames) for step in episode.steps] == [{}, {}]


def test_autoreset_of_one_environment(record: Callable[..., Recording]) -> None:
    recording = record()
    env = wrappers.Autoreset(Pixels(length=2))
    env.reset()
    for count in range(5):
        recording.ask([count, 1.0, 1.0])
        env.step(np.array([count, 1.0, 1.0], np.float32))
    first, second = recording.episodes().values()
    assert [[step.executed[0] for step in episode.steps] for episode in (first, second)] == [[0.0, 1.0], [3.0, 4.0]]
    assert [step.query.action[0] for step in second.steps] == [3.0, 4.0]


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("kind", [SyncVectorEnv, AsyncVectorEnv])
def test_vector_environments(record: Callable[..., Recording], kind: Any, mode: AutoresetMode) -> None:
    recording = record()
    makers = [lambda: Pixels(length=2, name=1), lambda: Pixels(length=3, name=2)]
    envs = kind(makers, autoreset_mode=mode)
    envs.reset(seed=5)
    shown = [np.zeros((2, 24, 24, 3), np.uint8)]
    for count in range(5):
        actions = np.array([[count, 1.0, 1 / 3], [count, 2.0, 1 / 3]], np.float32)
        recording.ask(*actions)
        observations, _, terminated, truncated, _ = envs.step(actions)
        ended = terminated | truncated
        if mode == AutoresetMode.DISABLED and ended.any():
            observations, _ = envs.reset(options={"reset_mask": ended})
        shown.append(observations["front"])
    envs.close()
    found = recording.episodes()
    # In the mode "next", every third call only resets the first.
    next_step = mode == AutoresetMode.NEXT_STEP
    first, second = [[1, 2], [4, 5]], [[1, 2, 3], [5] if next_step else [5, 6]]
    if not next_step:
        first.append([7])
    by_place = {place: [episode for episode in found.values() if episode.task["place"] == place] for place in range(2)}
    assert {place: [counts(episode) for episode in episodes] for place, episodes in by_place.items()} == {
        0: first,
        1: second,
    }
    for place, episodes in by_place.items():
        for episode in episodes:
            check_frames(episode, "front", place + 1, counts(episode))
            assert all(step.query.action == step.executed for step in episode.steps)
            assert [step.executed[1] for step in episode.steps] == [place + 1.0] * len(episode.steps)
            assert episode.task["language"] == f"push {place + 1}"
        assert episodes[0].outcome.ended == "success"
        assert [step.success for step in episodes[0].steps] == [None] * (len(episodes[0].steps) - 1) + [True]
        assert episodes[0].steps[0].info[CALLS]["calls"] == [{"call": "reset", "seed": 5 + place}]
    last = by_place[1][-1]
    assert last.outcome.ended == ("horizon" if mode == AutoresetMode.DISABLED else "interrupted")


def test_processes_of_a_vector_environment_record_for_themselves(record: Callable[..., Recording]) -> None:
    recording = record()
    envs = AsyncVectorEnv([lambda: Pixels(length=2, name=1), lambda: Pixels(length=2, name=2)])
    envs.reset()
    for _ in range(4):
        envs.step(np.zeros((2, 3), np.float32))
    envs.close()
    found = recording.all_episodes()
    workers = {name: episode for name, episode in found.items() if name.startswith("process")}
    own = {name: episode for name, episode in found.items() if name not in workers}
    assert sorted(counts(episode) for episode in workers.values()) == [[1, 2], [1, 2], [4], [4]]
    assert sorted(counts(episode) for episode in own.values()) == [[1, 2], [1, 2], [4], [4]]
    assert all(episode.queries and not list(episode.queries()) for episode in workers.values())
    assert not any(episode.truncated for episode in found.values())


def test_a_vector_environment_in_two_halves(record: Callable[..., Recording]) -> None:
    recording = record()
    envs = AsyncVectorEnv([lambda: Pixels(name=1), lambda: Pixels(name=2)])
    envs.reset_async()
    envs.reset_wait()
    actions = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], np.float32)
    for _ in range(2):
        envs.step_async(actions)
        kept = actions.copy()
        actions += 1.0
        envs.step_wait()
    envs.close()
    assert kept[0, 0] == 2.0
    one, other = recording.episodes().values()
    assert [step.executed for step in one.steps] == [(1.0, 2.0, 3.0), (2.0, 3.0, 4.0)]
    assert [step.executed for step in other.steps] == [(4.0, 5.0, 6.0), (5.0, 6.0, 7.0)]


def test_wrappers_of_a_vector_environment(record: Callable[..., Recording]) -> None:
    gymnasium.register("tests/Pixels-v0", entry_point=Pixels)
    recording = record()
    envs = gymnasium.make_vec("tests/Pixels-v0", num_envs=2, vectorization_mode="sync")
    envs = gymnasium.wrappers.vector.RecordEpisodeStatistics(envs)
    envs.reset()
    envs.step(np.zeros((2, 3), np.float32))
    found = recording.episodes()
    assert list(found) == ["tests-Pixels-v0-env0-ep0", "tests-Pixels-v0-env1-ep0"]
    assert [len(episode.steps) for episode in found.values()] == [1, 1]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_worker_that_raises(record: Callable[..., Recording]) -> None:
    class Fragile(Pixels):
        def step(self, action: Any) -> Any:
            if self.steps == 1 and self.name == 2:
                raise ArithmeticError("out of reach")
            return super().step(action)

    recording = record()
    envs = AsyncVectorEnv([lambda: Fragile(name=1), lambda: Fragile(name=2)])
    envs.reset()
    envs.step(np.zeros((2, 3), np.float32))
    with pytest.raises(ArithmeticError, match="out of reach"):
        envs.step(np.zeros((2, 3), np.float32))
    envs.close(terminate=True)
    for episode in recording.episodes().values():
        assert episode.steps[1].info[CALLS]["calls"] == [{"call": "step", "raised": "ArithmeticError: out of reach"}]
        assert episode.outcome.ended == "exception"


def test_spawned_workers_get_the_class_as_it_is(tmp_path: Path) -> None:
    """Wrapped classes have to reach processes that do not inherit them: classes of __main__ travel by value."""
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "import gymnasium, numpy as np\n"
        "class Env(gymnasium.Env):\n"
        "    observation_space = gymnasium.spaces.Box(0, 255, (24, 24, 3), np.uint8)\n"
        "    action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)\n"
        "    def reset(self, *, seed=None, options=None):\n"
        "        return np.full((24, 24, 3), 7, np.uint8), {}\n"
        "    def step(self, action):\n"
        "        return np.full((24, 24, 3), 9, np.uint8), 0.0, False, False, {}\n"
        "if __name__ == '__main__':\n"
        "    from vladoctor.taps.watch import Watch\n"
        "    watch = Watch(Path(sys.argv[1]))\n"
        "    watch.start()\n"
        "    envs = gymnasium.vector.AsyncVectorEnv([Env, Env], context='spawn')\n"
        "    envs.reset()\n"
        "    envs.step(np.zeros((2, 2), np.float32))\n"
        "    envs.close()\n"
        "    watch.close()\n"
        "    print(watch.errors)\n"
    )
    done = subprocess.run(
        [sys.executable, str(program), str(tmp_path / "out")], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
    found = [read_episode(path) for path in find_traces(tmp_path / "out")]
    assert [(len(one.steps), one.steps[0].frames["image"].minimum) for one in found] == [(1, 7.0)] * 2


# Programs that nobody here runs otherwise.


def run_client(tmp_path: Path, name: str, *arguments: str) -> dict[str, Episode]:
    """Run a program of tests/clients watched, in a process of its own."""
    code = (
        "import runpy, sys\nfrom pathlib import Path\nfrom vladoctor.taps.watch import Watch\n"
        "watch = Watch(Path(sys.argv.pop(1)))\nwatch.start()\nsys.argv.pop(0)\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\nwatch.close()\nprint(watch.errors)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path), str(CLIENTS / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("[]\n")
    plain = subprocess.run(command[:1] + command[4:], capture_output=True, text=True, timeout=120, check=False)
    assert [line for line in plain.stdout.splitlines() if " ms " not in line] == [
        line for line in done.stdout.splitlines()[:-1] if " ms " not in line
    ]
    return {path.stem: read_episode(path) for path in sorted(find_traces(tmp_path))}


@pytest.mark.may_skip
@pytest.mark.parametrize("arguments", [(), ("--via-make",)])
def test_old_gym(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    gym = pytest.importorskip("gym")
    if arguments and np.lib.NumpyVersion(np.__version__) >= "2.0.0":
        pytest.skip(f"gym {gym.__version__} needs numpy 1")
    found = run_client(tmp_path, "old_gym.py", "--episodes", "2", *arguments)
    assert [(len(one.steps), one.outcome.ended) for one in found.values()] == [(35, "success")] * 2
    assert {one.task["environment"] for one in found.values()} == {"gym"}
    assert all(list(step.frames) == ["image"] for one in found.values() for step in one.steps)


@pytest.mark.may_skip
def test_dm_env(tmp_path: Path) -> None:
    pytest.importorskip("dm_env")
    found = run_client(tmp_path, "dm_env_loop.py", "--episodes", "2", "--max-steps", "20")
    for episode in found.values():
        assert all(list(step.frames) == ["pixels", "wrist_pixels"] for step in episode.steps)
        assert list(episode.steps[0].proprio) == ["position", "velocity"]
        assert [step.done for step in episode.steps] == [False] * (len(episode.steps) - 1) + [True]
        assert episode.outcome.success is False
        assert "the environment says nothing of success; it counts as not reached" in episode.notes


@pytest.mark.may_skip
def test_dm_env_steps_after_the_end_are_resets(record: Callable[..., Recording]) -> None:
    dm_env = pytest.importorskip("dm_env")
    recording = record()

    class Short(dm_env.Environment):
        count = 0

        def reset(self) -> Any:
            self.left = 2
            self.count += 1
            return dm_env.restart({"pixels": picture(0, self.count)})

        def step(self, action: Any) -> Any:
            if not self.left:
                return self.reset()
            self.left -= 1
            self.count += 1
            end = dm_env.transition if self.left else dm_env.termination
            return end(reward=1.0, observation={"pixels": picture(0, self.count)})

        def observation_spec(self) -> Any: ...

        def action_spec(self) -> Any: ...

    env = Short()
    env.reset()
    for count in range(5):
        recording.ask([count, 1.0])
        env.step(np.array([count, 1.0]))
    first, second = recording.episodes().values()
    check_frames(first, "pixels", 0, [1, 2])
    check_frames(second, "pixels", 0, [4, 5])
    assert [step.query.action[0] for step in second.steps] == [3.0, 4.0]


@pytest.mark.may_skip
@pytest.mark.parametrize("kind", ["DummyVecEnv", "SubprocVecEnv"])
def test_stable_baselines3(record: Callable[..., Recording], kind: str) -> None:
    vec_env = pytest.importorskip("stable_baselines3.common.vec_env")
    recording = record()
    makers = [lambda: Pixels(length=2, name=1), lambda: Pixels(length=2, name=2)]
    options = {"start_method": "fork"} if kind == "SubprocVecEnv" else {}
    envs = vec_env.VecTransposeImage(getattr(vec_env, kind)(makers, **options))
    envs.reset()
    for count in range(3):
        actions = np.array([[count, 1.0, 1.0], [count, 2.0, 1.0]], np.float32)
        recording.ask(*actions)
        envs.step(actions)
    envs.close()
    found = recording.episodes()
    assert [counts(episode) for episode in found.values()] == [[1, 2], [4], [1, 2], [4]]
    assert [episode.outcome.ended for episode in found.values()] == ["success", "interrupted"] * 2
    for episode in found.values():
        check_frames(episode, "front", episode.task["place"] + 1, counts(episode))
        assert all(step.query.action == step.executed for step in episode.steps)


def test_gym_vector_client(tmp_path: Path) -> None:
    options = ("--num-envs", "2", "--episodes", "3", "--max-steps", "20", "--vectorization")
    sync = run_client(tmp_path / "sync", "gym_vector.py", *options, "sync")
    both = run_client(tmp_path / "async", "gym_vector.py", *options, "async")
    parallel = {name: episode for name, episode in both.items() if not name.startswith("process")}

    def seen(found: dict[str, Episode]) -> str:
        return json.dumps(
            {
                name: [(step.executed, step.proprio["state"], step.reward, step.success) for step in one.steps]
                for name, one in found.items()
            }
        )

    assert len(both) > len(parallel)
    assert seen(sync) == seen(parallel)
    assert {one.task["language"] for one in parallel.values()} == {"move the blue disc to the red square"}


# The simulator.


@pytest.mark.simulator
def test_libero(record: Callable[..., Recording], libero_env: Callable[..., tuple[Any, Any]]) -> None:
    from vladoctor.adapters import libero
    from vladoctor.taps.env import camera_geometry

    recording = record()
    env, task = libero_env(3, resolution=64, cameras=("agentview", "robot0_eye_in_hand"))
    seen, geometry = [], {}
    for number in (5, 6):
        env.seed(7)
        env.reset()
        observation = env.set_init_state(task.init_states[number])
        geometry[number] = camera_geometry(env, ["agentview", "robot0_eye_in_hand"])
        observation = libero.settle(env, observation, 2)
        for count in range(2):
            action = [0.1 * count, 1 / 3, 0.0, 0.0, 0.0, 0.0, -1.0]
            recording.ask(action)
            seen.append({name: np.array(value) for name, value in observation.items()})
            observation, *_ = env.step(action)
        env.check_success()
    found = recording.episodes()
    assert list(found) == ["libero_object-task3-ep0", "libero_object-task3-ep1"]
    for number, episode in zip((5, 6), found.values(), strict=True):
        facts = episode.task
        assert (facts["suite"], facts["task_id"], facts["name"]) == ("libero_object", 3, task.name)
        assert facts["language"] == task.language == "pick up the bbq sauce and place it in the basket"
        assert facts["bddl_language"] == "pick the bbq sauce and place it in the basket"
        assert facts["init_state"] == number
        assert episode.name == f"libero_object-task3-init{number}-ep{number - 5}"
        assert facts["control_freq"] == 20
        assert facts["cameras"] == geometry[number], "as they are before the first step"
        assert [step.number for step in episode.steps] == [-2, -1, 0, 1]
        said = episode.steps[0].info[CALLS]["calls"]
        # Making the environment may have seeded it as well.
        assert [call["call"] for call in said][-3:] == ["seed", "reset", "set_init_state"]
        assert said[-3]["seed"] == 7
        assert said[-1]["state"] == task.init_states[number].tolist()
        assert facts["calls_after"] == [{"call": "check_success", "answer": False}]
        assert {step.success for step in episode.steps} == {False}
        for count in range(2):
            step, shown = episode.steps[2 + count], seen[2 * (number - 5) + count]
            assert step.executed == (0.1 * count, 1 / 3, 0.0, 0.0, 0.0, 0.0, -1.0)
            assert list(step.frames) == ["agentview", "robot0_eye_in_hand"]
            for camera, frame in step.frames.items():
                assert np.array_equal(frame.full, shown[f"{camera}_image"])
            assert step.proprio["robot0_eef_pos"] == tuple(shown["robot0_eef_pos"].tolist())


@pytest.mark.simulator
def test_a_state_of_ones_own_has_no_number(
    record: Callable[..., Recording], libero_env: Callable[..., tuple[Any, Any]]
) -> None:
    recording = record()
    env, task = libero_env(3, resolution=64)
    env.reset()
    state = task.init_states[0].copy()
    state[1] += 0.01
    env.set_init_state(state)
    env.step([0.0] * 7)
    (episode,) = recording.episodes().values()
    assert episode.task.get("init_state") is None


@pytest.mark.simulator
@pytest.mark.parametrize("kind", ["DummyVectorEnv", "SubprocVectorEnv"])
def test_vector_environments_of_libero(tmp_path: Path, kind: str) -> None:
    """In a process of its own: two simulators in one draw with each other's textures."""
    code = (
        "import sys\nfrom pathlib import Path\nimport numpy as np\n"
        "from vladoctor.adapters import libero\nlibero.prepare('stand-in')\n"
        "task = libero.load_task('libero_object', 3)\n"
        "from vladoctor.records import Query\nfrom vladoctor.taps.watch import Watch\n"
        "watch = Watch(Path(sys.argv[1]), full_every=1)\nwatch.start()\n"
        "from libero.libero.envs import OffScreenRenderEnv, venv\n"
        "make = lambda: OffScreenRenderEnv(bddl_file_name=str(task.bddl_file), camera_heights=64, camera_widths=64)\n"
        f"envs = venv.{kind}([make, make])\n"
        "envs.seed(7)\nenvs.reset()\nobservations = envs.set_init_state(task.init_states[5:7])\n"
        "for count in range(2):\n"
        "    actions = np.array([[count, place, 0, 0, 0, 0, -1.0] for place in range(2)]) / 3\n"
        "    watch.asked_all([Query(action=tuple(row)) for row in actions.tolist()])\n"
        "    np.save(Path(sys.argv[1]) / f'shown{count}.npy', np.stack([o['agentview_image'] for o in observations]))\n"
        "    observations, *_ = envs.step(actions)\n"
        "envs.step(np.zeros((1, 7)), id=[1])\nenvs.close()\nwatch.close()\nprint(watch.errors)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("[]\n")
    everything = {path.stem: read_episode(path) for path in sorted(find_traces(tmp_path))}
    found = [episode for name, episode in everything.items() if not name.startswith("process")]
    shown = [np.load(tmp_path / f"shown{count}.npy") for count in range(2)]
    assert [episode.task["place"] for episode in found] == [0, 1]
    assert [len(episode.steps) for episode in found] == [2, 3]
    for place, episode in enumerate(found):
        for count, step in enumerate(episode.steps[:2]):
            assert step.executed == tuple((np.array([count, place, 0, 0, 0, 0, -1.0]) / 3).tolist())
            assert step.query.action == step.executed
            assert np.array_equal(step.frames["agentview"].full, shown[count][place])
        said = episode.steps[0].info[CALLS]["calls"]
        assert len(said[-1]["state"]) == 110
        if kind == "DummyVectorEnv":
            assert episode.task["init_state"] == 5 + place
            assert said[0] == {"call": "seed", "seed": 7 + place}


@pytest.mark.simulator
def test_robosuite(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nimport numpy as np\n"
        "from vladoctor.adapters import libero\nlibero.prepare('stand-in')\n"
        "from vladoctor.taps.watch import Watch\nwatch = Watch(Path(sys.argv[1]))\nwatch.start()\n"
        "import robosuite\n"
        "env = robosuite.make('Lift', robots='Panda', has_renderer=False, use_camera_obs=True,\n"
        "    camera_names=['frontview'], camera_heights=64, camera_widths=64, horizon=3)\n"
        "for _ in range(2):\n"
        "    env.reset()\n"
        "    for _ in range(3):\n"
        "        result = env.step(np.full(8, 1 / 3))\n"
        "env.close()\nwatch.close()\nprint(watch.errors)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("[]\n")
    found = {path.stem: read_episode(path) for path in sorted(find_traces(tmp_path))}
    assert list(found) == ["Lift-ep0", "Lift-ep1"]
    for episode in found.values():
        assert [step.done for step in episode.steps] == [False, False, True]
        assert [step.success for step in episode.steps] == [False] * 3, "its reward asks whether it is reached"
        assert {tuple(step.frames) for step in episode.steps} == {("frontview",)}
        assert {step.executed for step in episode.steps} == {(1 / 3,) * 8}
        assert list(episode.task["cameras"]) == ["frontview"]
        assert episode.task["environment_horizon"] == 3
        assert list(episode.notes) == []
