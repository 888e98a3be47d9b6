from __future__ import annotations

import copy
import gc
import multiprocessing
import os
import pickle
import random
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vladoctor.records import Episode, Query
from vladoctor.taps import environments
from vladoctor.taps.environments import EnvAdapter, Part, Transition, gym_transition, pictures, remarks, vectors
from vladoctor.taps.patch import is_wrapped
from vladoctor.taps.recorder import CALLS
from vladoctor.taps.watch import Watch, current
from vladoctor.trace import find_traces, read_episode

GYM = EnvAdapter("own", describe=lambda env: {"name": "Own"})


def picture(number: int) -> np.ndarray:
    """Another one for every number."""
    return np.random.default_rng(number).integers(0, 256, (24, 32, 3), dtype=np.uint8)


class Env:
    """Old Gym's four values; frame n after n steps of this process's life."""

    def __init__(self, length: int = 3) -> None:
        self.length = length
        self.drawn = 0
        self.seen: list[np.ndarray] = []
        self.given: list[Any] = []

    def look(self) -> dict[str, np.ndarray]:
        self.drawn += 1
        self.seen.append(picture(self.drawn))
        return {"front_image": self.seen[-1], "state": np.array([self.drawn, 0.1])}

    def reset(self) -> dict[str, np.ndarray]:
        self.steps = 0
        return self.look()

    def step(self, action: Any) -> tuple[dict[str, np.ndarray], float, bool, dict[str, Any]]:
        self.given.append(action)
        self.steps += 1
        done = self.steps >= self.length
        return self.look(), 0.5, done, {"success": done, "k": [1]}

    def close(self) -> None:
        pass


class Recording:
    """A watch, and what it wrote."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder
        self.watch = Watch(folder, **options)
        self.watch.start()

    def episodes(self) -> dict[str, Episode]:
        self.watch.close()
        return {path.stem: read_episode(path) for path in sorted(find_traces(self.folder))}

    def ask(self, action: Any = (), **facts: Any) -> None:
        self.watch.asked(Query(boundary="test", action=tuple(map(float, action)), **facts))


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Callable[..., Recording]]:
    made: list[Recording] = []

    def make(**options: Any) -> Recording:
        made.append(Recording(tmp_path / f"{len(made)}", **options))
        return made[-1]

    yield make
    for one in made:
        one.watch.close()
    assert current() is None
    assert not is_wrapped(Env.step), "a tap is left"


def roll(env: Any, episodes: int = 2, ask: Callable[..., None] | None = None) -> None:
    for _ in range(episodes):
        env.reset()
        done, count = False, 0
        while not done:
            action = np.array([0.1 * count, 1 / 3, -1.0])
            if ask is not None:
                ask(action)
            _, _, done, _ = env.step(action)
            count += 1


def calls(episode: Episode) -> list[list[str]]:
    return [[call["call"] for call in step.info.get(CALLS, {}).get("calls", [])] for step in episode.steps]


def test_an_environment_of_ones_own(record: Callable[..., Recording]) -> None:
    recording = record(full_every=1)
    env = Env()
    assert recording.watch.watch_env(env, GYM) is env
    roll(env, ask=recording.ask)
    found = recording.episodes()
    assert list(found) == ["Own-ep0", "Own-ep1"]
    for number, episode in enumerate(found.values()):
        assert episode.task["environment"] == "own"
        assert (episode.outcome.ended, episode.outcome.success, episode.outcome.steps) == ("success", True, 3)
        assert [step.number for step in episode.steps] == [0, 1, 2]
        for count, step in enumerate(episode.steps):
            shown = env.seen[4 * number + count]
            assert np.array_equal(step.frames["front"].full, shown)
            assert (step.frames["front"].minimum, step.frames["front"].maximum) == (shown.min(), shown.max())
            assert step.executed == tuple(env.given[3 * number + count].tolist())
            assert step.proprio["state"] == (4 * number + count + 1, 0.1)
            assert (step.reward, step.done, step.success) == (0.5, count == 2, count == 2)
            assert step.query is not None
            assert step.query.action == step.executed
        assert calls(episode) == [["reset"], [], []]


def test_the_program_gets_what_it_would_have_got(record: Callable[..., Recording]) -> None:
    results: list[Any] = []

    class Fixed(Env):
        def step(self, action: Any) -> Any:
            results.append(super().step(action))
            return results[-1]

    recording = record()
    env = recording.watch.watch_env(Fixed(), GYM)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    env.reset()
    given = [1.0, 2.0]
    states = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[union-attr]  # noqa: NPY002
    assert env.step(given) is results[0]
    assert env.given[0] is given
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states  # type: ignore[union-attr]  # noqa: NPY002
    (episode,) = recording.episodes().values()
    assert len(episode.steps) == 1, "a method that calls its parent's is one step"


def test_two_functions(record: Callable[..., Recording]) -> None:
    recording = record()
    shown: list[np.ndarray] = []

    def reset() -> np.ndarray:
        shown.append(picture(100))
        return shown[-1]

    def step(action: float) -> tuple[np.ndarray, bool]:
        shown.append(picture(100 + len(shown)))
        return shown[-1], len(shown) > 3

    adapter = EnvAdapter("road", read_step=lambda result: Transition(result[0], done=result[1]))
    watched_reset, watched_step = recording.watch.watch_calls(reset, step, adapter)
    assert watched_reset() is shown[0]
    over = False
    while not over:
        _, over = watched_step(0.25)
    (episode,) = recording.episodes().values()
    assert [step.executed for step in episode.steps] == [(0.25,)] * 3
    assert [step.done for step in episode.steps] == [False, False, True]
    assert list(episode.notes) == ["the environment says nothing of success; it counts as not reached"]
    assert watched_step(1.0)[1], "after the end it is a plain call"


def test_the_example_in_the_documentation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = environments.__doc__ or ""
    code = textwrap.dedent(text[text.index("    import vladoctor") :])

    class MyEnv:
        def reset(self) -> np.ndarray:
            return picture(1)

        def step(self, action: Any) -> dict[str, Any]:
            return {"camera": picture(2), "over": action == [0.75]}

    def evaluate(env: MyEnv) -> None:
        env.reset()
        for action in ([0.5], [0.75]):
            env.step(action)

    exec(code, {"MyEnv": MyEnv, "evaluate": evaluate})
    assert "1 episode" in capsys.readouterr().out
    (path,) = (tmp_path / "reports" / "own").rglob("*.mcap")
    episode = read_episode(path)
    assert [step.executed for step in episode.steps] == [(0.5,), (0.75,)]
    assert [step.done for step in episode.steps] == [False, True]
    assert [list(step.frames) for step in episode.steps] == [["front"], ["front"]]


class Layer:
    """A wrapper around an environment."""

    def __init__(self, env: Any) -> None:
        self.env = env

    def reset(self) -> Any:
        return self.env.reset()

    def step(self, action: Any) -> Any:
        return self.env.step(action)


def test_steps_that_settle_the_scene_within_a_reset_answer_no_query(record: Callable[..., Recording]) -> None:
    class Settled(Layer):
        def reset(self) -> Any:
            self.env.reset()
            for _ in range(2):
                observation, *_ = self.env.step([0.0, 0.0, 0.0])
            return observation

    recording = record()
    below = recording.watch.watch_env(Env(length=4), GYM)
    between = recording.watch.watch_env(Layer(below), GYM)
    env = recording.watch.watch_env(Settled(between), GYM)
    recording.ask([9.0, 9.0, 9.0])
    env.reset()
    recording.ask([1.0, 2.0, 3.0])
    env.step([1.0, 2.0, -3.0])
    (episode,) = recording.episodes().values()
    assert [step.number for step in episode.steps] == [-2, -1, 0]
    assert [step.query is None for step in episode.steps] == [True, True, False]
    assert episode.steps[2].query.action == (1.0, 2.0, 3.0)
    assert calls(episode)[2] == ["test"], "the query before the reset was never executed"


def test_layers_are_one_environment(record: Callable[..., Recording]) -> None:
    class Bare(Env):
        def look(self) -> dict[str, np.ndarray]:
            return {"state": super().look()["state"]}

        def step(self, action: Any) -> Any:
            observation, _, _, _ = super().step(action)
            return observation, 0.25, False, {}

    class Pixels(Layer):
        def reset(self) -> Any:
            return {**self.env.reset(), "pixels": self.env.seen[-1]}

        def step(self, action: Any) -> Any:
            for _ in range(2):
                observation, *_ = self.env.step(2 * np.asarray(action))
            return {**observation, "pixels": self.env.seen[-1]}, 7.0, True, {"is_success": True}

    recording = record(full_every=1)
    below = recording.watch.watch_env(Bare(), GYM)
    env = recording.watch.watch_env(Pixels(below), GYM)
    env.reset()
    for _ in range(2):
        recording.ask([2.0, 4.0])
        env.step([1.0, 2.0])
    (episode,) = recording.episodes().values()
    assert [step.executed for step in episode.steps] == [(2.0, 4.0)] * 4, "what the simulator was given"
    assert [step.reward for step in episode.steps] == [0.25] * 4
    assert [step.success for step in episode.steps] == [None, True, None, True]
    assert [step.done for step in episode.steps] == [False, True, False, True]
    assert [step.query is not None for step in episode.steps] == [True, False, True, False]
    assert np.array_equal(episode.steps[0].frames["pixels"].full, below.seen[0])
    assert np.array_equal(episode.steps[2].frames["pixels"].full, below.seen[2])


def test_a_step_that_resets(record: Callable[..., Recording]) -> None:
    class Endless(Env):
        def step(self, action: Any) -> Any:
            observation, reward, done, info = super().step(action)
            return (self.reset() if done else observation), reward, done, info

    recording = record(full_every=1)
    env = recording.watch.watch_env(Endless(length=2), GYM)
    env.reset()
    for _ in range(4):
        recording.ask([1.0, 1.0])
        env.step([1.0, 1.0])
    found = list(recording.episodes().values())
    assert [len(episode.steps) for episode in found] == [2, 2]
    assert [episode.outcome.success for episode in found] == [True, True]
    # Drawn: reset, step, step, reset in it.
    assert np.array_equal(found[1].steps[0].frames["front"].full, env.seen[3])


def test_a_step_after_the_end_that_is_a_reset(record: Callable[..., Recording]) -> None:
    class Forgiving(Env):
        over = True

        def step(self, action: Any) -> Any:
            if self.over:
                self.over = False
                return self.reset(), 0.0, False, {}
            observation, reward, self.over, info = super().step(action)
            return observation, reward, self.over, info

    recording = record(full_every=1)
    env = recording.watch.watch_env(Forgiving(length=2), GYM)
    env.over = False
    env.reset()
    for count in range(5):
        recording.ask([count, 1.0])
        env.step([float(count), 1.0])
    found = list(recording.episodes().values())
    assert [[step.executed[0] for step in episode.steps] for episode in found] == [[0.0, 1.0], [3.0, 4.0]]
    assert [[step.query.action[0] for step in episode.steps] for episode in found] == [[0.0, 1.0], [3.0, 4.0]]
    assert [call["call"] for call in found[0].task["calls_after"]] == ["test"], "an action that was ignored"


@pytest.mark.parametrize(("kind", "ended"), [(ValueError, "exception"), (KeyboardInterrupt, "interrupted")])
def test_a_step_that_raises(record: Callable[..., Recording], kind: type[BaseException], ended: str) -> None:
    class Fragile(Env):
        breaks: BaseException | None = None

        def step(self, action: Any) -> Any:
            if self.breaks is not None:
                raise self.breaks
            return super().step(action)

    recording = record()
    below = recording.watch.watch_env(Fragile(), GYM)
    env = recording.watch.watch_env(Layer(below), GYM)
    env.reset()
    env.step([1.0])
    below.breaks = kind("broken")
    with pytest.raises(kind) as caught:
        env.step([2.0])
    assert caught.value is below.breaks
    assert caught.traceback[-1].name == "step"
    below.breaks = None
    env.reset()
    env.step([3.0])
    first, second = recording.episodes().values()
    assert [step.executed for step in first.steps] == [(1.0,), (2.0,)]
    assert first.steps[1].info[CALLS]["calls"] == [{"call": "step", "raised": f"{kind.__name__}: broken"}]
    assert (first.outcome.ended, first.outcome.error) == (ended, f"{kind.__name__}: broken")
    assert [step.executed for step in second.steps] == [(3.0,)]
    assert second.outcome.ended == "horizon"


def test_closing_ends_the_episode(record: Callable[..., Recording]) -> None:
    recording = record()
    env = recording.watch.watch_env(Env(), GYM)
    with pytest.raises(LookupError):  # noqa: PT012
        try:
            env.reset()
            env.step([1.0])
            raise LookupError("the policy failed")
        finally:
            env.close()
    env.reset()
    env.step([1.0])
    env.close()
    first, second = recording.episodes().values()
    assert (first.outcome.ended, first.outcome.error) == ("exception", "LookupError: the policy failed")
    assert second.outcome.ended == "horizon"


def test_environments_that_are_no_more(record: Callable[..., Recording]) -> None:
    recording = record()
    handles = Path("/proc/self/fd")
    before = len(list(handles.iterdir())) if handles.exists() else 0
    for _ in range(12):
        env = recording.watch.watch_env(Env(), GYM)
        env.reset()
        env.step([1.0])
        del env
        gc.collect()
    assert len(recording.watch.streams()) <= 2
    if before:
        assert len(list(handles.iterdir())) <= before + 6
    found = recording.episodes()
    assert list(found) == sorted(f"Own-ep{number}" for number in range(12))
    assert [episode.task["episode"] for episode in found.values()] == [int(name[6:]) for name in found]
    assert all(len(episode.steps) == 1 for episode in found.values())


def test_threads_with_an_environment_each(record: Callable[..., Recording]) -> None:
    recording = record(full_every=1)
    envs = [recording.watch.watch_env(Env(length=20), EnvAdapter("t", describe=lambda env: {"name": env.name}))]
    envs.append(recording.watch.watch_env(Env(length=20), EnvAdapter("t", describe=lambda env: {"name": env.name})))
    for number, env in enumerate(envs):
        env.name, env.drawn = f"thread{number}", 1000 * number

    def run(number: int) -> None:
        env = envs[number]
        env.reset()
        for count in range(20):
            action = [float(number), float(count), 0.0]
            recording.ask(action)
            env.step(action)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = recording.episodes()
    assert list(found) == ["thread0-ep0", "thread1-ep0"]
    for number, episode in enumerate(found.values()):
        assert [step.executed for step in episode.steps] == [(number, count, 0) for count in range(20)]
        assert [step.query.action for step in episode.steps] == [step.executed for step in episode.steps]
        assert all(
            np.array_equal(step.frames["front"].full, shown)
            for step, shown in zip(episode.steps, envs[number].seen, strict=False)
        )


def in_a_child(env: Env) -> None:
    env.step([5.0])
    env.reset()
    env.step([6.0])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.may_skip
def test_a_forked_process_records_for_itself(record: Callable[..., Recording]) -> None:
    recording = record()
    env = recording.watch.watch_env(Env(), GYM)
    env.reset()
    env.step([1.0])
    process = multiprocessing.get_context("fork").Process(target=in_a_child, args=(env,))
    process.start()
    process.join(20)
    assert process.exitcode == 0
    env.step([2.0])
    found = recording.episodes()
    assert [step.executed for step in found.pop("Own-ep0").steps] == [(1.0,), (2.0,)]
    assert all(name.startswith("process") for name in found)
    assert [[step.executed for step in episode.steps] for episode in found.values()] == [[(5.0,)], [(6.0,)]]
    assert not any(episode.truncated for episode in found.values())
    assert {episode.run["parent"] for episode in found.values()} == {os.getpid()}


def test_copies_and_pickles(record: Callable[..., Recording]) -> None:
    recording = record()
    env = recording.watch.watch_env(Env(), GYM)
    env.reset()
    twin = copy.deepcopy(env)
    other = pickle.loads(pickle.dumps(env))
    env.step([1.0])
    twin.step([2.0])
    other.step([3.0])
    assert [len(one.given) for one in (env, twin, other)] == [1, 1, 1]
    found = recording.episodes()
    assert [[step.executed for step in episode.steps] for episode in found.values()] == [[(1.0,)], [(2.0,)], [(3.0,)]]


def test_an_object_that_was_given_its_methods(record: Callable[..., Recording]) -> None:
    class Holder:
        pass

    inside, holder = Env(), Holder()
    holder.reset, holder.step = inside.reset, inside.step  # type: ignore[attr-defined]
    before = dict(vars(holder))
    recording = record()
    env = recording.watch.watch_env(holder, GYM)
    env.reset()
    env.step([1.0])
    (episode,) = recording.episodes().values()
    assert [step.executed for step in episode.steps] == [(1.0,)]
    assert vars(holder) == before


def test_what_cannot_be_watched_runs_on_unwatched(record: Callable[..., Recording]) -> None:
    recording = record()
    assert recording.watch.watch_env((1, 2), GYM) == (1, 2)

    class Slots:
        __slots__ = ("count",)

        def reset(self) -> np.ndarray:
            self.count = 0
            return picture(1)

        def step(self, action: Any) -> tuple[np.ndarray, float, bool, dict[str, Any]]:
            self.count += 1
            return picture(2), 0.0, False, {}

    env = recording.watch.watch_env(Slots(), GYM)
    env.reset()
    env.step([1.0])
    assert len(recording.episodes()) == 1, "it has no weak references and no attributes, and is watched by its class"


def test_an_adapter_that_fails_costs_the_recording_alone(record: Callable[..., Recording]) -> None:
    def fails(_: Any) -> Mapping[str, Any]:
        raise KeyError("no such camera")

    recording = record()
    env = recording.watch.watch_env(Env(), EnvAdapter("own", frames=fails, describe=fails))
    roll(env, 1)
    (episode,) = recording.episodes().values()
    assert len(episode.steps) == 3
    assert {note.partition(":")[0] for note in episode.notes} == {
        "an observation could not be read",
        "the environment could not be described",
    }

    recording = record()
    env = recording.watch.watch_env(Env(), EnvAdapter("own", read_step=fails))  # type: ignore[arg-type]
    roll(env, 1)
    assert recording.watch.errors == ["recording stopped: KeyError: 'no such camera'"]


def test_frames_of_an_adapter_in_other_forms(record: Callable[..., Recording]) -> None:
    frames = {"floats": RGB / 255.0, "channels_first": RGB.transpose(2, 0, 1), "text": "none", "small": RGB[:4, :4]}
    recording = record(full_every=1)
    env = recording.watch.watch_env(Env(), EnvAdapter("own", frames=lambda _: frames))
    env.reset()
    recording.ask([1.0, 2.0])
    env.step([1.0, 2.0])
    (episode,) = recording.episodes().values()
    assert list(episode.steps[0].frames) == ["floats", "channels_first"]
    assert all(np.array_equal(frame.full, RGB) for frame in episode.steps[0].frames.values())
    assert [note.partition(" ")[0] for note in episode.notes] == ["text", "small"]


def test_full_frames_of_the_queries_that_are_due(record: Callable[..., Recording]) -> None:
    recording = record(full_every=3)
    env = recording.watch.watch_env(Env(length=8), GYM)
    roll(env, 1, ask=recording.ask)
    (episode,) = recording.episodes().values()
    assert [step.frames["front"].full is not None for step in episode.steps] == [number % 3 == 0 for number in range(8)]
    assert np.array_equal(episode.steps[6].frames["front"].full, env.seen[6])


def test_what_the_program_changes_afterwards_was_recorded_before(record: Callable[..., Recording]) -> None:
    recording = record(full_every=1)
    env = recording.watch.watch_env(Env(), GYM)
    observation = env.reset()
    action = np.array([1.0, 2.0])
    for _ in range(2):
        recording.ask(action)
        shown = env.seen[-1].copy()
        observation["front_image"][:] = 0
        observation, _, _, info = env.step(action)
        info["k"].append(2)
        info["later"] = True
    action[:] = 9.0
    (episode,) = recording.episodes().values()
    assert [step.executed for step in episode.steps] == [(1.0, 2.0)] * 2
    assert [step.info["k"] for step in episode.steps] == [[1], [1]]
    assert all("later" not in step.info for step in episode.steps)
    assert np.array_equal(episode.steps[1].frames["front"].full, shown)


class Rows:
    """A vector environment of two, in other processes so to speak."""

    num_envs = 2

    def __init__(self) -> None:
        self.count = 0

    def reset(self, seed: Any = None) -> np.ndarray:
        return np.stack([picture(1), picture(2)])

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        self.count += 1
        shown = np.stack([picture(10 * self.count), picture(10 * self.count + 1)])
        return shown, np.array([0.5, 1.0]), np.array([self.count == 2, False])


def split_rows(env: Any, kind: str, given: Mapping[str, Any], result: Any) -> list[Part]:
    if kind == "reset":
        return [Part(place, Transition(result[place])) for place in range(2)]
    frames, rewards, ends = result
    return [
        Part(place, Transition(frames[place], float(rewards[place]), bool(ends[place])), given["actions"][place])
        for place in range(2)
    ]


def test_queries_asked_one_by_one_for_a_vector_environment(record: Callable[..., Recording]) -> None:
    recording = record(full_every=1)
    adapter = EnvAdapter("rows", split=split_rows, size=lambda env: env.num_envs, autoreset=lambda env: "next")
    env = recording.watch.watch_env(Rows(), adapter)
    env.reset(seed=4)
    for count in range(4):
        for place in range(2):
            # Nothing that could be told apart by value.
            recording.ask([], prompt=f"{count} {place}")
        env.step(np.full((2, 3), float(count)))
    found = recording.episodes()
    assert list(found) == ["rows-env0-ep0", "rows-env0-ep1", "rows-env1-ep0"]
    prompts = [[step.query.prompt for step in episode.steps] for episode in found.values()]
    assert prompts == [["0 0", "1 0"], ["3 0"], ["0 1", "1 1", "2 1", "3 1"]]
    assert [step.executed[0] for step in found["rows-env0-ep1"].steps] == [3.0]
    assert [episode.task["place"] for episode in found.values()] == [0, 0, 1]
    assert found["rows-env1-ep0"].steps[0].info[CALLS]["calls"] == [{"call": "reset", "seed": 5}]
    assert np.array_equal(found["rows-env0-ep1"].steps[0].frames["image"].full, picture(30))
    assert found["rows-env0-ep0"].outcome.ended == "horizon"
    assert found["rows-env0-ep1"].outcome.ended == "interrupted", "nobody ended it"


def test_nothing_is_left_behind(record: Callable[..., Recording]) -> None:
    before = dict(vars(Env))
    recording = record()
    recording.watch.watch_env(Env(), GYM)
    recording.watch.watch_env(Env(), GYM)
    assert is_wrapped(Env.step)
    recording.watch.close()
    assert dict(vars(Env)) == before
    assert [thread for thread in threading.enumerate() if thread.name == "vladoctor"] == []


def test_one_watch_at_a_time(record: Callable[..., Recording], tmp_path: Path) -> None:
    recording = record()
    with pytest.raises(RuntimeError, match="watched already"):
        Watch(tmp_path / "other").start()
    recording.watch.close()
    assert record().watch is current()


def test_an_old_exception_of_a_notebook_ends_no_episode(
    record: Callable[..., Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "last_value", ValueError("an earlier cell"), raising=False)
    recording = record()
    env = recording.watch.watch_env(Env(), GYM)
    env.reset()
    env.step([1.0])
    (episode,) = recording.episodes().values()
    assert episode.outcome.ended == "horizon"


# Reading observations.

RGB = picture(7)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (RGB, RGB),
        (RGB[::-1, ::-1], RGB[::-1, ::-1]),
        (RGB.transpose(2, 0, 1), RGB),
        (RGB[None], RGB),
        (np.concatenate([RGB, RGB[:, :, :1]], axis=2), RGB),
        (RGB[:, :, 0], np.repeat(RGB[:, :, :1], 3, axis=2)),
        (RGB[:, :, :1], np.repeat(RGB[:, :, :1], 3, axis=2)),
        ((RGB / 255).astype(np.float32), RGB),
        (RGB.astype(np.float64), RGB),
        ((RGB / 255).astype(np.float32).transpose(2, 0, 1), RGB),
    ],
)
def test_pictures_of_every_form(given: np.ndarray, expected: np.ndarray) -> None:
    (found,) = pictures({"front_image": given}).values()
    assert found.dtype == np.uint8
    assert np.array_equal(found, expected)


def test_pictures_in_layers_and_of_other_libraries() -> None:
    image = pytest.importorskip("PIL.Image")
    torch = pytest.importorskip("torch")
    found = pictures({"pixels": {"a": RGB}, "b_image": torch.from_numpy(RGB), "c": image.fromarray(RGB)})
    assert list(found) == ["pixels/a", "b", "c"]
    assert all(np.array_equal(one, RGB) for one in found.values())
    assert list(pictures(RGB)) == ["image"]


@pytest.mark.parametrize(
    "given",
    [
        np.zeros((8, 32, 3), np.uint8),
        np.zeros((2, 24, 32, 3), np.uint8),
        np.zeros((24, 32), np.float32),
        np.full((24, 32, 3), -0.5, np.float32),
        np.full((24, 32, 3), np.nan, np.float32),
        np.zeros((24, 32, 5), np.uint8),
        np.zeros((24, 32, 3), np.int64),
        "a text",
        None,
    ],
)
def test_what_is_no_picture(given: Any) -> None:
    assert pictures({"x": given}) == {}


class OnGpu:
    """Anything that is done with it would wait for the GPU."""

    is_cuda = True
    shape = (1, 24, 32, 3)

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was asked of a tensor on a GPU")

    def __array__(self, *_: Any) -> Any:
        raise AssertionError("a tensor on a GPU was fetched")

    __float__ = __bool__ = __iter__ = __len__ = __repr__ = __str__ = __array__  # type: ignore[assignment]


def test_nothing_is_fetched_from_a_gpu(record: Callable[..., Recording]) -> None:
    class Fast(Env):
        def look(self) -> Any:
            return {"rgb": OnGpu(), "state": OnGpu()}

        def step(self, action: Any) -> Any:
            super().step(action)
            return self.look(), OnGpu(), OnGpu(), OnGpu(), {"success": OnGpu(), "all": [OnGpu()]}

    recording = record()
    env = recording.watch.watch_env(Fast(), GYM)
    env.reset()
    env.step(OnGpu())
    env.step(OnGpu())
    (episode,) = recording.episodes().values()
    assert [(step.frames, step.executed, step.success) for step in episode.steps] == [({}, (), None)] * 2
    assert [note for note in episode.notes if "GPU" in note] == [
        "rgb is not recorded: it lies on a GPU, and fetching it would make the program wait",
        "state is not recorded: it lies on a GPU, and fetching it would make the program wait",
        "an action is not recorded: it is on a GPU, or no numbers",
    ]


def test_remarks() -> None:
    assert remarks({"a": RGB, "b": np.zeros(7)}) == []
    assert remarks({"a": (RGB / 255).astype(np.float32)}) == [
        "a is float32 from 0 to 1; it is recorded as uint8 from 0 to 255"
    ]
    assert remarks({"a": np.stack([RGB, RGB])}) == ["a is not recorded: it is a batch of 2 pictures"]


def test_vectors() -> None:
    found = vectors({"state": np.arange(3.0), "deep": {"q": 1.5}, "flag": True, "text": "x", "many": np.zeros(100)})
    assert {name: np.asarray(values).tolist() for name, values in found.items()} == {
        "state": [0, 1, 2],
        "deep/q": 1.5,
    }


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (("o", 1, True, {}), ("o", 1.0, True, None)),
        (("o", np.float32(0.5), False, True, {"is_success": np.bool_(True)}), ("o", 0.5, True, True)),
        (("o", np.array([2.0]), np.array([False]), {"success": 0}), ("o", 2.0, False, False)),
        (("o", None, False, {"final_info": {"is_success": True}}), ("o", None, False, True)),
        (("o", "no number", False, None), ("o", None, False, None)),
        ("o", ("o", None, None, None)),
    ],
)
def test_what_a_step_of_gym_returned(result: Any, expected: tuple[Any, ...]) -> None:
    assert gym_transition(result)[:4] == expected


def test_the_page_shows_the_same_example() -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "environments.md").read_text(encoding="utf-8")
    code = page[page.index("```python\n") + 10 :].partition("```")[0]
    example = textwrap.dedent(
        (environments.__doc__ or "")[(environments.__doc__ or "").index("    import vladoctor") :]
    )
    kept = [line.partition(" # ")[0].rstrip() for line in example.strip().splitlines()]
    assert code.strip().splitlines() == kept
