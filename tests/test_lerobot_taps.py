"""Watching LeRobot's policies: the real library where it is installed, and classes of its shape for what it never does.

LeRobot asks for more than the project's own environment has; tests/clients/README.md says how to make one for it.
"""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from vladoctor.records import Episode, Query  # noqa: E402
from vladoctor.taps.libraries import lerobot as taps  # noqa: E402
from vladoctor.taps.recorder import CALLS  # noqa: E402
from vladoctor.taps.watch import Watch  # noqa: E402
from vladoctor.trace import find_traces, read_episode  # noqa: E402

pytestmark = pytest.mark.torch

CLIENTS = Path(__file__).parent / "clients"
TASK = "pick up the alphabet soup and place it in the basket"
MEAN, STD = torch.tensor([0.1, -0.2, 0.3]), torch.tensor([0.5, 0.25, 2.0])
IMAGE_MEAN, IMAGE_STD = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3])
IMAGE, STATE, TOKENS, MASK = (
    f"observation.{name}" for name in ("image", "state", "language.tokens", "language.attention_mask")
)
FRAME = np.random.default_rng(3).integers(0, 256, (64, 64, 3), dtype=np.uint8)


# Classes of LeRobot's shape.


def make_library() -> SimpleNamespace:
    """Modules with new classes, as taps change them for good measure."""

    class PreTrainedPolicy(torch.nn.Module):
        def __init__(self, config: Any) -> None:
            super().__init__()
            self.config = config
            self.rgb_encoder = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1))
            self.reset()

        def reset(self) -> None:
            self._action_queue: deque[Any] = deque()

        def model(self, batch: Any) -> Any:
            seen = self.rgb_encoder(batch[IMAGE]).mean((1, 2, 3))
            steps, places = (torch.arange(float(count), device=seen.device) for count in (4, 3))
            return torch.sin(seen[:, None, None] + steps[None, :, None] + places)

        @classmethod
        def from_pretrained(cls, name: str, **options: Any) -> Any:
            return cls(**options)

    class Chunked(PreTrainedPolicy):
        """As ACT: a queue that `predict_action_chunk` fills."""

        def predict_action_chunk(self, batch: Any) -> Any:
            return self.model(batch)

        def select_action(self, batch: Any) -> Any:
            batch.pop("action", None)
            if not self._action_queue:
                self._action_queue.extend(self.predict_action_chunk(batch)[:, :2].transpose(0, 1))
            return self._action_queue.popleft()

    class Single(PreTrainedPolicy):
        """As SAC: no chunk."""

        def select_action(self, batch: Any) -> Any:
            return self.model(batch)[:, 0]

    @dataclass
    class DataProcessorPipeline:
        steps: list[Any] = field(default_factory=list)
        name: str = "pipeline"

        def __call__(self, data: Any) -> Any:
            for step in self.steps:
                data = step(data)
            return data

    return SimpleNamespace(**locals())


@dataclass
class _Step:
    features: dict[str, Any]
    norm_map: dict[str, str]
    _tensor_stats: dict[str, dict[str, Any]]
    eps: float = 1e-8

    def __post_init__(self) -> None:
        self.stats = {
            key: {name: value.cpu().numpy() for name, value in one.items()} for key, one in self._tensor_stats.items()
        }

    def moments(self, key: str, kind: str) -> tuple[Any, Any] | None:
        found = self._tensor_stats.get(key) if self.norm_map.get(kind) == "MEAN_STD" else None
        return (found["mean"], found["std"]) if found else None


class NormalizerProcessorStep(_Step):
    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        made = dict(data)
        for key, feature in self.features.items():
            found = self.moments(key, feature.type)
            if key in made and found is not None:
                made[key] = (made[key] - found[0]) / (found[1] + self.eps)
        return made


class UnnormalizerProcessorStep(_Step):
    def __call__(self, action: Any) -> Any:
        found = self.moments("action", "ACTION")
        return action if found is None else action * found[1] + found[0]


class Tokenizer:
    """Adds a newline and ids, as SmolVLA's steps do."""

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        texts = [f"{text}\n" for text in data["task"]]
        ids = torch.arange(5, device=data[STATE].device).repeat(len(texts), 1)
        return {**data, "task": texts, TOKENS: ids, MASK: ids < 3}


class Clip:
    """A step of somebody's own."""

    def __call__(self, action: Any) -> Any:
        return action.clamp(-0.1, 0.1)


class World:
    """A policy with its pipelines, in a recording.

    Args:
        rows: size of the batch.
        statistics: keys of the normaliser's statistics that are there.
    """

    def __init__(
        self, folder: Path, library: Any, kind: str = "Chunked", statistics: Any = (IMAGE, STATE), device: str = "cpu"
    ):
        self.device = torch.device(device)
        features = {
            IMAGE: SimpleNamespace(type="VISUAL", shape=(3, 64, 64)),
            STATE: SimpleNamespace(type="STATE", shape=(2,)),
        }
        action = SimpleNamespace(type="ACTION", shape=(3,))
        self.config = SimpleNamespace(
            type="chunked", image_features={IMAGE: features[IMAGE]}, input_features=features,
            output_features={"action": action}, n_action_steps=2, chunk_size=4, pretrained_path=None,
            normalization_mapping={"VISUAL": "MEAN_STD", "STATE": "MEAN_STD", "ACTION": "MEAN_STD"},
        )  # fmt: skip
        known = {
            IMAGE: {"mean": IMAGE_MEAN.reshape(3, 1, 1), "std": IMAGE_STD.reshape(3, 1, 1)},
            STATE: {"mean": torch.zeros(2), "std": torch.full((2,), 2.0)},
        }
        stats = {key: {name: one.to(self.device) for name, one in known[key].items()} for key in statistics}
        modes = self.config.normalization_mapping
        action_stats = {"action": {"mean": MEAN.to(self.device), "std": STD.to(self.device)}}
        self.before = library.DataProcessorPipeline([Tokenizer(), NormalizerProcessorStep(features, modes, stats)])
        self.after = library.DataProcessorPipeline([UnnormalizerProcessorStep({"action": action}, modes, action_stats)])
        self.folder, self.library = folder, library
        self.watch = Watch(folder)
        self.watch.start()
        for name, hook in taps.HOOKS.items():
            if "libero" not in name:
                self.watch._attach_to(hook, SimpleNamespace(__name__=name, **vars(library)))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.policy = getattr(library, kind)(self.config).to(self.device)

    def observation(self, step: int, rows: int = 1) -> dict[str, Any]:
        pictures = np.stack([np.roll(FRAME, step + row, 0) for row in range(rows)])
        pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
        state = torch.stack([torch.tensor([float(step), float(row)]) for row in range(rows)])
        return {IMAGE: pixels.to(self.device), STATE: state.to(self.device), "task": [TASK] * rows}

    def step(self, step: int, rows: int = 1, *, copied: bool = False) -> np.ndarray:
        with torch.inference_mode():
            action = self.policy.select_action(self.before(self.observation(step, rows)))
        return self.after(action.clone() if copied else action).cpu().numpy()

    def queries(self) -> list[Query]:
        return [query for _, query in self.episode().queries()]

    def episode(self) -> Episode:
        self.watch.close()
        assert not self.watch.errors
        (trace,) = find_traces(self.folder)
        return read_episode(trace)


@pytest.fixture
def library() -> SimpleNamespace:
    return make_library()


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    from vladoctor.taps import watch

    if watch._current is not None:
        watch._current.close()


def test_a_query_is_a_call_in_which_the_model_ran(tmp_path: Path, library: Any) -> None:
    world = World(tmp_path, library)
    executed = [world.step(number)[0] for number in range(4)]
    first, second = world.queries()
    assert first.boundary == "lerobot.select_action"
    assert [query.options["fresh"] for query in (first, second)] == [True, True]
    np.testing.assert_array_equal(first.action, executed[0])
    np.testing.assert_array_equal(second.action, executed[2])
    assert len(first.chunk) == 4
    np.testing.assert_array_equal(np.float32(first.chunk)[:2], executed[:2])
    np.testing.assert_allclose((executed[0] - MEAN.numpy()) / STD.numpy(), first.normalised, atol=1e-6)
    assert first.vision_calls == 1
    assert first.options["n_action_steps"] == 2


def test_what_the_policy_is_given(tmp_path: Path, library: Any) -> None:
    world = World(tmp_path, library)
    world.step(0)
    (query,) = world.queries()
    assert (query.prompt, query.options["task"]) == (f"{TASK}\n", TASK)
    assert query.input_ids == (0, 1, 2), "padding is no part of the prompt"
    assert query.image is not None
    np.testing.assert_array_equal(query.image.full, FRAME)
    assert query.options["image_scale"] == "mean_std"
    assert query.options["given"] == {"image": "float32 (3, 64, 64)"}
    assert query.options["encoder_input"] == "float32 (3, 64, 64)"
    normalised = (FRAME / 255 - IMAGE_MEAN.numpy()) / IMAGE_STD.numpy()
    np.testing.assert_allclose(query.pixel_stats["mean"], normalised.mean((0, 1)), atol=1e-5)
    np.testing.assert_allclose(query.pixel_stats["max"], normalised.max((0, 1)), atol=1e-5)
    assert query.proprio == {STATE: (0.0, 0.0), f"model/{STATE}": (0.0, 0.0)}


def test_rows_of_a_batch_are_queries_of_their_own(tmp_path: Path, library: Any) -> None:
    world = World(tmp_path, library)
    executed = world.step(5, rows=3)
    queries = world.queries()
    assert len(queries) == 3
    for row, query in enumerate(queries):
        np.testing.assert_array_equal(query.action, executed[row])
        np.testing.assert_array_equal(query.chunk[0], query.action)
        assert query.proprio[STATE] == (5.0, float(row))
        assert query.image is not None
        # A thumbnail is a JPEG; another row's picture would be off by 85.
        assert np.abs(query.image.thumbnail - np.roll(FRAME, 5 + row, 0).astype(float)).mean() < 15


def test_a_policy_without_chunks_is_asked_every_time(tmp_path: Path, library: Any) -> None:
    world = World(tmp_path, library, "Single")
    executed = [world.step(number)[0] for number in range(3)]
    queries = world.queries()
    np.testing.assert_array_equal([query.action for query in queries], executed)
    assert [query.options["fresh"] for query in queries] == [None] * 3
    assert [query.chunk for query in queries] == [()] * 3
    assert [query.vision_calls for query in queries] == [None] * 3, "nothing was counted, which is not zero"


def test_a_chunk_that_is_asked_for_directly(tmp_path: Path, library: Any) -> None:
    world = World(tmp_path, library)
    chunk = world.after(world.policy.predict_action_chunk(world.before(world.observation(0))))
    (query,) = world.queries()
    assert query.boundary == "lerobot.predict_action_chunk"
    np.testing.assert_array_equal(query.chunk, chunk[0].detach().numpy())
    np.testing.assert_array_equal(query.action, query.chunk[0])


def test_the_command_is_found_by_value_where_the_tensor_was_copied(tmp_path: Path, library: Any) -> None:
    world = World(tmp_path, library)
    executed = world.step(0, copied=True)[0]
    (query,) = world.queries()
    np.testing.assert_array_equal(query.action, executed)
    np.testing.assert_array_equal(query.chunk[0], executed)


def test_rows_stay_normalised_where_a_pipeline_does_more(tmp_path: Path, library: Any) -> None:
    world = World(tmp_path, library)
    world.after.steps.append(Clip())
    executed = world.step(0)[0]
    (query,) = world.queries()
    np.testing.assert_array_equal(query.action, executed)
    assert query.chunk == ()
    np.testing.assert_allclose(query.options["normalised_chunk"][0], query.normalised)


def test_a_feature_without_statistics_is_seen_to_pass_as_it_is(tmp_path: Path, library: Any) -> None:
    world = World(tmp_path, library, statistics=(STATE,))
    world.step(0)
    episode = world.episode()
    assert episode.run["checkpoint"]["normalisation"][IMAGE] == {"mode": "MEAN_STD", "statistics": None}
    ((_, query),) = episode.queries()
    assert query.image is not None
    np.testing.assert_array_equal(query.image.full, FRAME)
    assert query.options["image_scale"] == "0..1"


def test_an_image_that_is_out_of_range_shows_shapes_only(tmp_path: Path, library: Any) -> None:
    world = World(tmp_path, library)
    seen = world.observation(0)
    seen[IMAGE] = seen[IMAGE] * 4 - 2
    world.policy.select_action(world.before(seen))
    (query,) = world.queries()
    assert query.options["image_scale"] == "relative"


def test_what_the_run_knows_of_the_checkpoint(tmp_path: Path, library: Any) -> None:
    world = World(tmp_path, library)
    world.policy = library.Chunked.from_pretrained("somebody/policy", config=world.config)
    world.step(0)
    checkpoint = world.episode().run["checkpoint"]
    assert checkpoint["family_hint"] == "lerobot.chunked"
    assert checkpoint["name"] == "somebody/policy"
    assert checkpoint["parameters"] == 12
    assert checkpoint["features"] == {IMAGE: [3, 64, 64], STATE: [2], "action": [3]}
    np.testing.assert_allclose(checkpoint["norm_stats"]["lerobot"]["action"]["std"], STD)
    assert checkpoint["normalisation"]["action"]["mode"] == "MEAN_STD"


def test_resets_are_recorded(tmp_path: Path, library: Any) -> None:
    world = World(tmp_path, library)
    world.policy.reset()
    world.step(0)
    calls = [call for step in world.episode().steps for call in step.info.get(CALLS, {}).get("calls", [])]
    assert {"call": "policy.reset", "of": world.library.Chunked.__qualname__} in calls


def test_an_error_of_the_model_passes_and_its_query_is_recorded(tmp_path: Path, library: Any) -> None:
    world = World(tmp_path, library)
    world.policy.rgb_encoder[0].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError) as caught:
        world.step(0)
    assert caught.value.__context__ is None
    episode = world.episode()
    ((_, query),) = episode.queries()
    assert query.image is not None
    assert query.action is None
    assert "ZeroDivisionError" in str([step.info for step in episode.steps])
    assert not world.policy.rgb_encoder[0]._forward_hooks or len(world.policy.rgb_encoder[0]._forward_hooks) == 1


def test_an_error_of_ours_never_reaches_the_program(
    tmp_path: Path, library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = make_library()
    for broken in ("take", "answered"):
        world = World(tmp_path / broken, library)
        monkeypatch.setattr(taps._Call, broken, lambda *_: 1 / 0)
        executed = [world.step(number) for number in range(3)]
        world.watch.close()
        monkeypatch.undo()
        assert "ZeroDivisionError" in world.watch.errors[0]
        with torch.random.fork_rng():
            torch.manual_seed(0)
            bare = plain.Chunked(world.config)
        world.policy = bare
        np.testing.assert_array_equal([world.step(number) for number in range(3)], executed)


def test_nothing_is_left_and_nothing_changed(tmp_path: Path, library: Any) -> None:
    before = {
        cls: dict(vars(cls)) for cls in (library.Chunked, library.PreTrainedPolicy, library.DataProcessorPipeline)
    }
    world = World(tmp_path, library)
    batch = world.before(world.observation(0))
    kept = {name: copy.deepcopy(value) for name, value in batch.items()}
    state = torch.get_rng_state()
    with torch.no_grad():
        result = world.policy.select_action(batch)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, kept[name]) for name, value in batch.items() if name != "task")
    assert world.after(result) is not result
    assert not world.policy.rgb_encoder[0]._forward_hooks
    assert copy.deepcopy(world.policy).state_dict().keys() == world.policy.state_dict().keys()
    world.watch.close()
    for cls, members in before.items():
        assert {name: one for name, one in vars(cls).items() if name in members} == members


@pytest.mark.may_skip
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_on_a_gpu_all_of_it_arrives_without_waiting(tmp_path: Path, library: Any) -> None:
    world = World(tmp_path, library, device="cuda")
    world.step(0)
    world.policy.reset()
    batch = world.before(world.observation(1))
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.inference_mode():
            action = world.after(world.policy.select_action(batch))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    executed = action.cpu().numpy()[0]
    query = world.queries()[-1]
    np.testing.assert_array_equal(query.action, executed)
    np.testing.assert_allclose(query.chunk[0], executed, rtol=1e-6)
    assert query.options["image_scale"] == "mean_std, assumed"
    assert query.prompt == f"{TASK}\n"


# LeRobot itself.


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("lerobot", reason="LeRobot has an environment of its own (tests/clients/README.md)")
    folder = tmp_path_factory.mktemp("lerobot")
    for kind in ("smolvla", "act", "diffusion"):
        maker = CLIENTS / "make_lerobot_policy.py"
        subprocess.run([sys.executable, maker, folder / kind, "--type", kind], check=True, capture_output=True)
    return folder


_TURNED, _AS_IT_IS = (slice(None, None, -1),) * 2, (slice(None),) * 2

LOOP = """
import pickle, sys, random
from pathlib import Path
folder, checkpoint, rows = sys.argv[1], sys.argv[2], int(sys.argv[3])
watch = None
if folder:
    from vladoctor.taps.watch import Watch
    watch = Watch(Path(folder))
    watch.start()
import numpy as np
import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
config = PreTrainedConfig.from_pretrained(checkpoint)
policy = get_policy_class(config.type).from_pretrained(checkpoint)
before, after = make_pre_post_processors(config, pretrained_path=checkpoint)
random.seed(0)
torch.manual_seed(0)
seen = []
policy.reset()
pictures = np.random.default_rng(0)
for step in range(11):
    pixels = torch.from_numpy(pictures.random((2, rows, 3, 8, 8), dtype=np.float32)).repeat_interleave(32, -1)
    pixels = pixels.repeat_interleave(32, -2)
    state = torch.arange(8.0).repeat(rows, 1) + step
    observation = {"observation.images.image": pixels[0], "observation.images.image2": pixels[1]}
    observation = {**observation, "observation.state": state, "task": ["pick up the milk"] * rows}
    batch = before(observation)
    with torch.inference_mode():
        action = policy.select_action(batch)
    draws = torch.get_rng_state().numpy().tobytes(), random.getstate()
    seen.append((after(action).numpy().tobytes(), *draws, sorted(batch)))
if watch is not None:
    watch.close()
    assert not watch.errors, watch.errors
sys.stdout.buffer.write(pickle.dumps(seen))
"""


def run_loop(folder: Path | str, checkpoint: Path, rows: int) -> list[Any]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", LOOP, str(folder), str(checkpoint), str(rows)],
        capture_output=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    # LeRobot prints while it loads.
    return pickle.loads(done.stdout[done.stdout.index(b"\x80\x04\x95") :])


@pytest.mark.slow
@pytest.mark.may_skip
@pytest.mark.parametrize(("kind", "every"), [("smolvla", 10), ("act", 5), ("diffusion", 4)])
@pytest.mark.parametrize("rows", [1, 2])
def test_real_policies_act_the_same_and_are_seen(
    tmp_path: Path, checkpoints: Path, kind: str, every: int, rows: int
) -> None:
    watched, bare = (run_loop(folder, checkpoints / kind, rows) for folder in (tmp_path, ""))
    assert watched == bare, "actions, what torch and random would draw next, and the batch's keys"
    (trace,) = find_traces(tmp_path)
    episode = read_episode(trace)
    queries = [query for _, query in episode.queries()]
    assert len(queries) == rows * len(range(0, 11, every))
    executed = [np.frombuffer(action, np.float32).reshape(rows, 7) for action, *_ in watched]
    for number, query in enumerate(queries):
        step, row = number // rows * every, number % rows
        np.testing.assert_array_equal(query.action, executed[step][row])
        until = min(every, 11 - step)
        later = [executed[step + one][row] for one in range(until)]
        np.testing.assert_allclose(np.array(query.chunk)[:until], later, rtol=1e-6, atol=1e-7)
        assert query.prompt == ("pick up the milk\n" if kind == "smolvla" else None)
        assert query.proprio[STATE] == tuple(float(value + step) for value in range(8))
        assert query.options["image_scale"] == ("0..1" if kind == "smolvla" else "mean_std")
        assert list(query.more_images) == ["image2"]
        size = {"smolvla": "512, 512", "act": "256, 256"}.get(kind)
        assert query.options.get("encoder_input") == (size and f"float32 (3, {size})")
        assert bool(query.pixel_stats) == bool(size)
        assert query.vision_calls == (1 if kind == "diffusion" else 2)
    assert episode.run["checkpoint"]["family_hint"] == f"lerobot.{kind}"
    modes = {"smolvla": "MEAN_STD", "act": "MEAN_STD", "diffusion": "MIN_MAX"}
    assert episode.run["checkpoint"]["normalisation"]["action"]["mode"] == modes[kind]


@pytest.mark.slow
@pytest.mark.simulator
@pytest.mark.may_skip
def test_lerobot_eval_from_outside(tmp_path: Path, checkpoints: Path) -> None:
    """The console script itself, in LIBERO, two environments at a time, two rounds."""
    sys.path.insert(0, str(CLIENTS))
    try:
        from libero_home import make_libero_home
    finally:
        sys.path.remove(str(CLIENTS))
    environment = {**os.environ, **make_libero_home(tmp_path / "home"), "OMP_NUM_THREADS": "1", "SLURM_JOB_ID": "1"}
    program = (
        "import sys; from pathlib import Path; from vladoctor.taps.watch import Watch; "
        f"watch = Watch(Path({str(tmp_path / 'seen')!r})); watch.start(); "
        "from lerobot.scripts.lerobot_eval import main; main(); watch.close(); assert not watch.errors, watch.errors"
    )
    options = (
        f"--policy.path={checkpoints / 'smolvla'}", "--policy.device=cpu", "--env.type=libero",
        "--env.task=libero_object", "--env.episode_length=6", "--env.task_ids=[0]", "--eval.batch_size=2",
        "--eval.n_episodes=4", f"--output_dir={tmp_path / 'out'}",
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", program, *options],
        env=environment,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    episodes = [read_episode(trace) for trace in find_traces(tmp_path / "seen")]
    assert sorted(episode.task["init_state"] for episode in episodes) == [0, 1, 2, 3]
    for episode in episodes:
        assert [step.number for step in episode.steps] == list(range(-10, 6))
        assert episode.outcome.ended == "horizon"
        assert episode.task["horizon"] == 6
        ((number, query),) = episode.queries()
        assert number == 0
        executed = [step.executed for step in episode.policy_steps()]
        np.testing.assert_allclose(np.array(query.chunk)[:6], executed, rtol=1e-6, atol=1e-7)
        assert query.prompt == f"{episode.task['language']}\n"
        calls = [call["call"] for step in episode.steps for call in step.info.get(CALLS, {}).get("calls", [])]
        assert "policy.reset" in calls
        # LeRobot's own step turns what LIBERO draws by 180 degrees.
        raw = episode.steps[10].frames["agentview"]
        assert query.image is not None
        off = [
            np.abs(query.image.thumbnail[turn] - raw.thumbnail.astype(float)).mean() for turn in (_TURNED, _AS_IT_IS)
        ]
        assert off[0] < 1 < 5 < off[1]
