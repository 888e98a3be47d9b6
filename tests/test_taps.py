from __future__ import annotations

import copy
import logging
import random
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from PIL import Image  # noqa: E402

from vladoctor.adapters.openvla import OpenVLAPolicy, load_policy  # noqa: E402
from vladoctor.records import Episode, Outcome, Query  # noqa: E402
from vladoctor.taps.env import camera_geometry, watch_env  # noqa: E402
from vladoctor.taps.measure import TokenStatistics  # noqa: E402
from vladoctor.taps.policy import ACTION_IDS, watch_policy  # noqa: E402
from vladoctor.taps.recorder import CALLS, Recorder  # noqa: E402
from vladoctor.trace import TraceWriter, area_average, read_episode  # noqa: E402

FOLDER = Path(__file__).resolve().parents[1] / "fixtures" / "tiny-openvla"
PROMPT = "In: What action should the robot take to pick up the alphabet soup and place it in the basket?\nOut:"
END = Outcome("horizon", False, 3)

pytestmark = pytest.mark.torch


def load(device: str = "cpu", dtype: str | None = None) -> OpenVLAPolicy:
    return load_policy(FOLDER, device=device, dtype=dtype, suite="libero_object")


@pytest.fixture(scope="module")
def policy() -> OpenVLAPolicy:
    return load()


class Below:
    """The env below LIBERO's wrapper."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.camera_names, self.camera_heights, self.camera_widths = ["agentview"], [64], [64]
        data = SimpleNamespace(cam_xpos=np.array([[1.0, 2.0, 3.0]]), cam_xmat=np.arange(9.0)[None])
        model = SimpleNamespace(camera_name2id={"agentview": 0}.__getitem__, cam_fovy=np.array([45.0]))
        self.sim = SimpleNamespace(model=model, data=data)

    def observe(self) -> dict[str, Any]:
        coarse = Image.fromarray(self.rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        return {
            "agentview_image": np.array(coarse.resize((64, 64))),
            "robot0_eef_pos": self.rng.standard_normal(3),
            "robot0_gripper_qpos": np.array([0.04, -0.04]),
            "object-state": np.zeros(200),
        }

    def reset(self) -> dict[str, Any]:
        return self.observe()


class Env:
    """Looks like LIBERO's OffScreenRenderEnv."""

    def __init__(self) -> None:
        self.env = Below()
        self.raises: BaseException | None = None

    def reset(self) -> dict[str, Any]:
        return self.env.reset()

    def set_init_state(self, state: np.ndarray) -> dict[str, Any]:
        return self.env.observe()

    def step(self, action: list[float]) -> tuple[dict[str, Any], float, bool, dict[str, Any]]:
        if self.raises is not None:
            raise self.raises
        return self.env.observe(), 0.5, False, {"k": 1}

    def check_success(self) -> bool:
        return True


def picture_of(obs: Mapping[str, Any]) -> Image.Image:
    return Image.fromarray(obs["agentview_image"][::-1, ::-1]).resize((128, 128))


def roll(env: Any, policy: OpenVLAPolicy, steps: int = 3, **options: Any) -> list[Any]:
    """A small loop; returns all that it saw."""
    seen: list[Any] = []
    obs = env.reset()
    obs = env.set_init_state(np.arange(4.0))
    obs = env.step([0.0] * 7)[0]
    for _ in range(steps):
        inputs = policy.processor(PROMPT, picture_of(obs))
        action = policy.model.predict_action(**inputs, unnorm_key="libero_object", **options)
        seen.append(action.copy())
        action[-1] = 1.0
        obs, *rest = env.step(action.tolist())
        seen.append((obs, *rest))
    return seen


class Watched:
    """A recording of a small loop, ended by `episode`."""

    def __init__(self, folder: Path, env: Any, policy: OpenVLAPolicy | None, name: str = "a", **options: Any) -> None:
        self.path = folder / f"{name}.mcap"
        self.recorder = Recorder(TraceWriter(self.path, {}, {}, **options))
        self.detach: list[Callable[[], None]] = [watch_env(env, self.recorder, ["agentview"])]
        if policy is not None:
            self.detach.append(watch_policy(policy.model, policy.processor, self.recorder))

    def episode(self) -> Episode:
        for undo in reversed(self.detach):
            undo()
        self.recorder.close(END)
        return read_episode(self.path)


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Callable[..., Watched]]:
    made: list[Watched] = []

    def make(env: Any, policy: OpenVLAPolicy | None = None, **options: Any) -> Watched:
        made.append(Watched(tmp_path, env, policy, f"trace{len(made)}", **options))
        return made[-1]

    yield make
    for one in made:
        for undo in one.detach:
            undo()
        one.recorder.close(END)


def rng_states() -> tuple[Any, ...]:
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    return random.getstate(), kind, tuple(keys), tuple(rest), tuple(torch.get_rng_state().tolist())


def seed() -> None:
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.tobytes() == other.tobytes()
    if isinstance(one, Mapping):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.mark.parametrize("options", [{"do_sample": False}, {"do_sample": True, "temperature": 5.0}])
def test_the_program_sees_no_difference(
    policy: OpenVLAPolicy, watch: Callable[..., Watched], options: dict[str, Any]
) -> None:
    seed()
    bare = roll(Env(), policy, **options)
    bare_rng = rng_states()
    env = Env()
    seed()
    recording = watch(env, policy)
    watched = roll(env, policy, **options)
    episode = recording.episode()
    assert rng_states() == bare_rng
    assert same(bare, watched)
    assert recording.recorder.errors == []
    assert len(episode.steps) == 4


def test_results_are_the_very_objects(policy: OpenVLAPolicy, watch: Callable[..., Watched]) -> None:
    env: Any = Env()
    results: list[Any] = []
    model = policy.model

    def spy(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            results.append(original(*args, **kwargs))
            return results[-1]

        setattr(owner, name, call)

    for owner, name in ((env, "reset"), (env, "set_init_state"), (env, "step"), (env, "check_success")):
        spy(owner, name)
    spy(model, "predict_action")
    spy(model, "generate")
    try:
        watch(env, policy)
        assert env.reset() is results[-1]
        obs = env.set_init_state(np.zeros(3))
        assert obs is results[-1]
        inputs = policy.processor(PROMPT, picture_of(obs))
        action = model.predict_action(**inputs, unnorm_key="libero_object", do_sample=False)
        assert action is results[-1]
        assert env.step(action.tolist()) is results[-1]
        assert env.check_success() is results[-1]
        assert model.generate(**inputs, max_new_tokens=2, do_sample=False) is results[-1]
    finally:
        for name in ("predict_action", "generate"):
            vars(model).pop(name)


def test_what_is_recorded_of_a_query(policy: OpenVLAPolicy, watch: Callable[..., Watched]) -> None:
    env, rows, kept = Env(), [], []
    hook = policy.model.language_model.lm_head.register_forward_hook(
        lambda module, args, output: rows.append(output[0, -1].double().clone())
    )
    try:
        recording = watch(env, policy, full_every=2)
        obs = env.reset()
        for _ in range(3):
            inputs = policy.processor(text=PROMPT, images=picture_of(obs))
            kept.append((obs["agentview_image"], np.asarray(picture_of(obs)), inputs))
            action = policy.model.predict_action(**inputs, unnorm_key="libero_object", do_sample=False)
            obs = env.step(action.tolist())[0]
    finally:
        hook.remove()
    episode = recording.episode()
    assert recording.recorder.errors == []
    logits = torch.stack(rows).reshape(3, 7, -1)
    for number, query in episode.queries():
        raw, picture, inputs = kept[number]
        with torch.no_grad():
            ids = policy.model.generate(**inputs, max_new_tokens=7, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        assert query.prompt == PROMPT
        assert query.input_ids == tuple(inputs["input_ids"][0].tolist())
        assert query.vision_calls == 1
        told = {"unnorm_key": "libero_object", "do_sample": False, "prompt_ids_added": [29871]}
        assert query.options == told
        assert len(query.ids) == 7
        assert query.action == tuple(episode.steps[number].executed)
        check_statistics(query, logits[number])
        expected = policy.model.bin_centers[np.clip(32000 - np.array(query.ids) - 1, 0, 254)]
        assert query.normalised == tuple(expected.tolist())
        assert len(ids) == 7

        assert query.image is not None
        assert query.image.shape == (128, 128)
        assert query.image.minimum == pytest.approx(picture.min(), abs=0.01)
        assert query.image.maximum == pytest.approx(picture.max(), abs=0.01)
        assert np.abs(query.image.thumbnail.astype(int) - area_average(picture, 64)).mean() < 6
        if number in (0, 2):
            np.testing.assert_array_equal(query.image.full, picture)
            np.testing.assert_array_equal(episode.steps[number].frames["agentview"].full, raw)
        else:
            assert query.image.full is None
        pixels = inputs["pixel_values"][0].double()
        for name, values in (
            ("mean", pixels.mean((1, 2))),
            ("min", pixels.amin((1, 2))),
            ("max", pixels.amax((1, 2))),
        ):
            np.testing.assert_allclose(query.pixel_stats[name], values, atol=2e-6)


def check_statistics(query: Query, logits: Any, tolerance: float = 1e-5) -> None:
    """Compare with a softmax over everything, in float64."""
    first, last = ACTION_IDS
    probabilities = torch.softmax(logits, -1)
    mass = probabilities[:, first : last + 1].sum(-1)
    inside = probabilities[:, first : last + 1] / mass[:, None]
    top = torch.log_softmax(logits, -1).topk(2, -1).values
    np.testing.assert_allclose(query.action_mass, mass, atol=tolerance)
    np.testing.assert_allclose(query.margin, top[:, 0] - top[:, 1], atol=tolerance * 100)
    np.testing.assert_allclose(query.entropy, torch.special.entr(inside).sum(-1), atol=tolerance * 10)
    assert all(0.0 <= value <= 1.0 for value in query.action_mass)


@pytest.mark.parametrize("shift", [0.0, 200.0, -300.0])
@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
@pytest.mark.parametrize("peak", [None, 31800, 5, 32063])
def test_token_statistics(shift: float, scale: float, peak: int | None) -> None:
    torch.manual_seed(0)
    logits = [torch.randn(1, 1, 32064) * scale + shift for _ in range(3)]
    if peak is not None:
        for one in logits:
            one[0, 0, peak] += 20.0 * scale
    before = [one.clone() for one in logits]
    mass, margin, entropy = TokenStatistics(*ACTION_IDS).on_cpu(logits)
    assert all(torch.equal(one, other) for one, other in zip(logits, before, strict=True))
    found = Query(action_mass=tuple(mass), margin=tuple(margin), entropy=tuple(entropy))
    check_statistics(found, torch.cat(logits)[:, 0].double())


def test_logits_of_a_broken_model_raise_no_warning() -> None:
    nothing, wild = torch.full((1, 1, 32064), float("nan")), torch.full((1, 1, 32064), float("-inf"))
    one = wild.clone()
    one[0, 0, 7] = 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mass, margin, _ = TokenStatistics(*ACTION_IDS).on_cpu([nothing, wild, one])
    assert np.isnan(mass[0])
    assert (mass[2], margin[2]) == (0.0, float("inf"))


def test_half_precision(tmp_path: Path) -> None:
    policy = load(dtype="bfloat16")
    env = Env()
    recording = Watched(tmp_path, env, policy)
    obs = env.reset()
    rows: list[Any] = []
    hook = policy.model.language_model.lm_head.register_forward_hook(
        lambda module, args, output: rows.append(output[0, -1].double())
    )
    inputs = policy.processor(PROMPT, picture_of(obs)).to("cpu", dtype=torch.bfloat16)
    policy.model.predict_action(**inputs, unnorm_key="libero_object", do_sample=False)
    env.step([0.0] * 7)
    hook.remove()
    query = recording.episode().steps[0].query
    assert recording.recorder.errors == []
    assert query is not None
    check_statistics(query, torch.stack(rows))
    assert query.image is not None
    full = query.image.full
    assert full is not None
    assert np.abs(full.astype(int) - np.asarray(picture_of(obs))).max() <= 2


def test_an_image_that_is_no_multiple_of_its_thumbnail(policy: OpenVLAPolicy, watch: Callable[..., Watched]) -> None:
    env = Env()
    recording = watch(env, policy, thumbnail=50, full_every=2)
    roll(env, policy, do_sample=False)
    for number, query in recording.episode().queries():
        assert query.image is not None
        assert query.image.thumbnail.shape == (43, 43, 3)
        assert (query.image.full is not None) == (number in (0, 2))


def test_torchs_modes_may_change(policy: OpenVLAPolicy, watch: Callable[..., Watched]) -> None:
    env = Env()
    recording = watch(env, policy)
    inputs = policy.processor(PROMPT, picture_of(env.reset()))
    for mode in (torch.inference_mode, torch.no_grad, torch.enable_grad, torch.inference_mode):
        with mode():
            policy.model.predict_action(**inputs, unnorm_key="libero_object", do_sample=False)
            env.step([0.0] * 7)
    queries = [query for _, query in recording.episode().queries()]
    assert recording.recorder.errors == []
    assert len({query.action_mass for query in queries}) == 1


def test_a_step_has_the_observation_before_it(policy: OpenVLAPolicy, watch: Callable[..., Watched]) -> None:
    env = Env()
    recording = watch(env, full_every=1)
    env.reset()
    seen = [copy.deepcopy(env.set_init_state(np.arange(3.0)))]
    for _ in range(3):
        obs = env.step([0.0] * 7)[0]
        seen.append(copy.deepcopy(obs))
        obs["agentview_image"][:] = 0
        obs["robot0_eef_pos"][:] = 0
    steps = recording.episode().steps
    for obs, one in zip(seen, steps, strict=False):
        picture = one.frames["agentview"]
        assert (picture.minimum, picture.maximum) == (obs["agentview_image"].min(), obs["agentview_image"].max())
        assert one.proprio["robot0_eef_pos"] == tuple(obs["robot0_eef_pos"])
        assert set(one.proprio) == {"robot0_eef_pos", "robot0_gripper_qpos"}
    assert (steps[0].reward, steps[0].done, steps[0].success) == (0.5, False, False)


def test_calls_between_steps(watch: Callable[..., Watched]) -> None:
    env = Env()
    recording = watch(env)
    env.reset()
    env.set_init_state(np.array([1.0, 2.0]))
    env.step([0.0] * 7)
    env.check_success()
    env.env.reset()
    env.step([0.0] * 7)
    env.step([0.0] * 7)
    steps = recording.episode().steps
    assert steps[0].info == {
        "k": 1,
        CALLS: {"calls": [{"call": "reset"}, {"call": "set_init_state", "state": [1.0, 2.0]}]},
    }
    assert steps[1].info[CALLS] == {"calls": [{"call": "check_success", "answer": True}, {"call": "reset"}]}
    assert steps[2].info == {"k": 1}


def test_timings_and_memory(policy: OpenVLAPolicy, watch: Callable[..., Watched]) -> None:
    env = Env()
    recording = watch(env, policy)
    roll(env, policy, do_sample=False)
    settle, *queried = recording.episode().steps
    assert set(settle.timings) == {"execute", "taps"}
    for one in queried:
        assert set(one.timings) == {
            "observe->process",
            "process",
            "forward",
            "vision",
            "post-process",
            "execute",
            "taps",
        }
        assert all(value >= 0 for value in one.timings.values())
        assert one.timings["forward"] > one.timings["vision"]
        assert one.memory["rss"] > 50e6


def test_detaching_puts_everything_back(policy: OpenVLAPolicy, watch: Callable[..., Watched]) -> None:
    env = Env()
    own = env.step
    env.step = own  # type: ignore[method-assign]
    model, kind = policy.model, type(policy.processor)

    def state() -> tuple[Any, ...]:
        hooked = (model.vision_backbone, model.language_model.lm_head)
        return (
            dict(vars(env)),
            dict(vars(env.env)),
            {name: value for name, value in vars(model).items() if callable(value)},
            kind.__dict__["__call__"],
            [len(one._forward_hooks) + len(one._forward_pre_hooks) for one in hooked],
        )

    before = state()
    recording = watch(env, policy)
    assert state() != before
    for undo in recording.detach:
        undo()
        undo()
    assert state() == before
    assert env.step is own


def test_a_wrapper_that_somebody_kept_goes_on_working(policy: OpenVLAPolicy, watch: Callable[..., Watched]) -> None:
    env = Env()
    recording = watch(env, policy)
    kept = env.step
    outer_calls = []

    def outer(action: Any) -> Any:
        outer_calls.append(action)
        return kept(action)

    env.step = outer  # type: ignore[method-assign]
    env.reset()
    env.step([0.0] * 7)
    episode = recording.episode()
    assert env.step is outer
    assert len(env.step([1.0] * 7)) == 4
    assert len(outer_calls) == 2
    assert len(episode.steps) == 1


def test_other_instances_are_left_alone(policy: OpenVLAPolicy, watch: Callable[..., Watched]) -> None:
    env, other = Env(), copy.deepcopy(policy.processor)
    recording = watch(env, policy)
    obs = env.reset()
    other("another prompt", picture_of(obs))
    inputs = policy.processor(PROMPT, picture_of(obs))
    other("another prompt", picture_of(obs))
    policy.model.predict_action(**inputs, unnorm_key="libero_object", do_sample=False)
    env.step([0.0] * 7)
    Env().step([0.0] * 7)
    (one,) = recording.episode().steps
    assert one.query is not None
    assert one.query.prompt == PROMPT


@pytest.mark.parametrize("broken", ["observed", "prompted", "acting", "stepped", "asked", "called"])
def test_an_error_of_ours_never_reaches_the_program(
    policy: OpenVLAPolicy, watch: Callable[..., Watched], caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    bare = roll(Env(), policy, do_sample=False)
    env = Env()
    recording = watch(env, policy)
    env.reset()
    env.step([0.0] * 7)
    before = recording.recorder.writer.steps

    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("a bug of ours")

    setattr(recording.recorder, broken, fail)
    env.env.rng = np.random.default_rng(0)
    with caplog.at_level(logging.WARNING):
        assert same(roll(env, policy, do_sample=False), bare)
    (error,) = recording.recorder.errors
    assert "RuntimeError: a bug of ours" in error
    assert len(caplog.records) == 1
    assert "step" not in vars(env)
    assert "predict_action" not in vars(policy.model)
    episode = recording.episode()
    assert episode.truncated
    assert len(episode.steps) >= before


def test_a_full_disk_never_reaches_the_program(policy: OpenVLAPolicy, watch: Callable[..., Watched]) -> None:
    env = Env()
    recording = watch(env, policy)
    env.reset()
    env.step([0.0] * 7)
    recording.recorder._worker.wait(lambda: recording.recorder.writer.steps == 1, 5.0)
    mcap: Any = recording.recorder.writer._mcap
    file = mcap._file

    def fill_up(data: bytes) -> int:
        if len(data) <= 10:
            raise OSError(28, "No space left on device")
        return int(file.write(data[:-10]))

    mcap._file = SimpleNamespace(write=fill_up, truncate=file.truncate, close=file.close, closed=False)
    roll(env, policy, do_sample=False)
    (error,) = recording.recorder.errors
    assert "No space left" in error
    episode = recording.episode()
    assert episode.truncated
    assert len(episode.steps) == 1


class Stop(BaseException):
    pass


@pytest.mark.parametrize("kind", [ValueError, Stop, KeyboardInterrupt])
def test_the_environments_exceptions_pass_through(watch: Callable[..., Watched], kind: type[BaseException]) -> None:
    env = Env()
    recording = watch(env)
    env.reset()
    env.step([0.0] * 7)
    env.raises = kind("executing action in terminated episode")
    with pytest.raises(kind) as caught:
        env.step([1.0] * 7)
    assert caught.value is env.raises
    assert caught.value.__context__ is None
    frames = [one.name for one in traceback.extract_tb(caught.value.__traceback__)]
    assert frames == ["test_the_environments_exceptions_pass_through", "step", "step"]
    episode = recording.episode()
    assert recording.recorder.errors == []
    assert len(episode.steps) == 2
    last = episode.steps[-1]
    assert last.executed == (1.0,) * 7
    (call,) = last.info[CALLS]["calls"]
    assert call == {"call": "step", "raised": f"{kind.__name__}: executing action in terminated episode"}


def test_the_policys_exceptions_pass_through(policy: OpenVLAPolicy, watch: Callable[..., Watched]) -> None:
    env = Env()
    recording = watch(env, policy)
    inputs = policy.processor(PROMPT, picture_of(env.reset()))
    with pytest.raises(AssertionError, match="unnorm_key"):
        policy.model.predict_action(**inputs, unnorm_key="nowhere", do_sample=False)
    with pytest.raises(TypeError):
        policy.processor(PROMPT, picture_of(env.reset()), nonsense=1)
    env.step([0.0] * 7)
    (one,) = recording.episode().steps
    assert recording.recorder.errors == []
    assert one.query is not None
    assert one.query.action is None
    assert one.query.options["unnorm_key"] == "nowhere"
    calls = one.info[CALLS]["calls"]
    assert [call["call"] for call in calls] == ["reset", "predict_action", "reset", "processor"]
    assert "AssertionError" in calls[1]["raised"]
    assert "TypeError" in calls[3]["raised"]


def test_generate_alone_is_a_query(policy: OpenVLAPolicy, watch: Callable[..., Watched]) -> None:
    env = Env()
    recording = watch(env, policy)
    inputs = policy.processor(PROMPT, picture_of(env.reset()))
    output = policy.model.generate(**inputs, max_new_tokens=5, do_sample=False)
    env.step([0.0] * 7)
    query = recording.episode().steps[0].query
    assert query is not None
    assert query.ids == tuple(output[0, inputs["input_ids"].shape[1] :].tolist())
    assert len(query.action_mass) == 5
    assert query.action is None


def test_odd_observations_are_noted_and_left_out(watch: Callable[..., Watched]) -> None:
    env = Env()
    recording = watch(env)
    observe = env.env.observe
    env.reset()
    for change in ({"agentview_image": np.zeros((3, 8, 8))}, {"agentview_image": None}):
        env.env.observe = lambda change=change: {**observe(), **change}  # type: ignore[method-assign, misc]
        env.step([0.0] * 7)
    env.env.observe = lambda: {"other": 1}  # type: ignore[method-assign]
    env.step([0.0] * 7)
    env.step(["left", "right"])  # type: ignore[list-item]
    episode = recording.episode()
    assert [list(one.frames) for one in episode.steps] == [["agentview"], [], [], []]
    assert len(recording.recorder.errors) == 4
    assert not episode.truncated


def test_values_that_are_late_keep_their_step_waiting(watch: Callable[..., Watched]) -> None:
    env = Env()
    recording = watch(env)
    recorder = recording.recorder
    late = Query()
    arrived: list[bool] = []

    def complete() -> bool:
        late.action = (1.0,)
        return bool(arrived)

    env.reset()
    recorder.asked(late, complete=complete)
    env.step([0.0] * 7)
    env.step([0.0] * 7)
    assert recorder.writer.steps == 0
    arrived.append(True)
    env.step([0.0] * 7)
    recorder._worker.wait(lambda: recorder.writer.steps == 3, 5.0)
    assert recorder.writer.steps == 3
    episode = recording.episode()
    assert [one.query is None for one in episode.steps] == [False, True, True]
    assert [one.number for one in episode.steps] == [0, 1, 2]


def test_values_that_never_come_are_given_up_at_the_end(
    watch: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vladoctor.taps.recorder._PATIENCE", 0.05)
    env = Env()
    recording = watch(env)
    env.reset()
    recording.recorder.asked(Query(), complete=lambda: False)
    env.step([0.0] * 7)
    env.step([0.0] * 7)
    episode = recording.episode()
    assert len(episode.steps) == 2
    assert not episode.truncated


def test_two_queries_before_one_step(policy: OpenVLAPolicy, watch: Callable[..., Watched]) -> None:
    env = Env()
    recording = watch(env, policy)
    inputs = policy.processor(PROMPT, picture_of(env.reset()))
    for _ in range(2):
        policy.model.predict_action(**inputs, unnorm_key="libero_object", do_sample=False)
    env.step([0.0] * 7)
    (one,) = recording.episode().steps
    assert {"call": "predict_action", "superseded": True} in one.info[CALLS]["calls"]


def test_five_values_from_step(watch: Callable[..., Watched]) -> None:
    class Gymnasium(Env):
        def step(self, action: list[float]) -> Any:
            return self.env.observe(), 1.0, False, True, {}

    env = Gymnasium()
    recording = watch(env)
    env.reset()
    assert len(env.step([0.0] * 7)) == 5
    (one,) = recording.episode().steps
    assert (one.reward, one.done, one.success) == (1.0, True, None)


def test_camera_geometry() -> None:
    assert camera_geometry(Env(), ["agentview", "absent"]) == {
        "agentview": {
            "position": [1.0, 2.0, 3.0],
            "rotation": list(map(float, range(9))),
            "fovy_deg": 45.0,
            "height": 64,
            "width": 64,
        }
    }
    assert camera_geometry(object(), ["agentview"]) == {}


@pytest.mark.may_skip
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_on_a_gpu_nothing_waits(tmp_path: Path, dtype: str) -> None:
    policy = load("cuda", dtype)
    env = Env()
    recording = Watched(tmp_path, env, policy, full_every=2)
    rows: list[Any] = []
    hook = policy.model.language_model.lm_head.register_forward_hook(
        lambda module, args, output: rows.append(output[0, -1].double())
    )
    guard = type(recording.recorder.tap)
    enter, leave = guard.__enter__, guard.__exit__

    def strict(self: Any) -> None:
        torch.cuda.set_sync_debug_mode("error")
        enter(self)

    def relaxed(self: Any, *args: Any) -> bool:
        torch.cuda.set_sync_debug_mode("default")
        return leave(self, *args)

    guard.__enter__, guard.__exit__ = strict, relaxed  # type: ignore[method-assign]
    pictures = []
    try:
        obs = env.reset()
        for _ in range(3):
            pictures.append(picture_of(obs))
            inputs = policy.processor(PROMPT, pictures[-1]).to("cuda", dtype=getattr(torch, dtype))
            action = policy.model.predict_action(**inputs, unnorm_key="libero_object", do_sample=False)
            obs = env.step(action.tolist())[0]
    finally:
        guard.__enter__, guard.__exit__ = enter, leave  # type: ignore[method-assign]
        hook.remove()
    episode = recording.episode()
    assert recording.recorder.errors == []
    assert len(episode.steps) == 3
    for number, query in episode.queries():
        assert len(query.ids) == 7
        assert query.vision_calls == 1
        assert query.action == episode.steps[number].executed
        check_statistics(query, torch.stack(rows[7 * number : 7 * number + 7]).cpu(), 1e-5)
        assert query.image is not None
        assert (query.image.full is not None) == (number != 1)
        if query.image.full is not None:
            limit = 0 if dtype == "float32" else 2
            assert np.abs(query.image.full.astype(int) - np.asarray(pictures[number])).max() <= limit
        assert episode.steps[number].memory["cuda"] > 1e6
