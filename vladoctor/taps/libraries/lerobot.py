"""LeRobot's policies and the pipelines around them: `select_action`, `predict_action_chunk`, `DataProcessorPipeline`.

    observation ── pipelines ──> batch ── select_action ──> action ── pipelines ──> command
                                               └── a queue, which predict_action_chunk fills when it is empty

A query is a call in which the model ran. An action that came out of the queue belongs to the query that filled it, and
its step has none of its own. Which methods fill a queue differs from policy to policy: where none of them was ever seen
within `select_action`, every call is a query, and its option `fresh` is None instead of True.

Nothing says which pipeline made a batch, or which answer a pipeline makes a command of. Both are found by content: the
images of the batch are the tensors that the pipeline returned, and what the next pipeline is given is the tensor that
the policy returned, or one of the same values. What a policy is given is taken when its model is about to run.

Tried with lerobot 0.4.4. Before 0.4 policies normalised by themselves and there were no pipelines; then an answer is
the command, and images are taken for what their values look like.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from vladoctor.records import Query
from vladoctor.taps.checkpoint import checkpoint_facts
from vladoctor.taps.libraries import gymnasium
from vladoctor.taps.libraries.environment import specialise
from vladoctor.taps.measure import Asked, ModelImages, Normalisation
from vladoctor.taps.patch import Maker, Undo, wrap_classes
from vladoctor.taps.policy import Hook, compiling, is_compiled
from vladoctor.taps.processors import given_to
from vladoctor.taps.recorder import describe, numbers
from vladoctor.taps.watch import Watch, current
from vladoctor.versions import device_name

if TYPE_CHECKING:
    import torch

_CHUNKS = ("predict_action_chunk", "_get_action_chunk")
"""Methods that run the model. SmolVLA and X-VLA call the second one from `select_action`, the others the first."""

_ACTION, _IMAGE, _STATE, _TASK = "action", "observation.image", "observation.state", "task"
_TOKENS, _MASK = "observation.language.tokens", "observation.language.attention_mask"
"""Keys of a batch. Source: huggingface/lerobot v0.4.4, src/lerobot/utils/constants.py."""

MODEL_SLOT = "model/"
"""How the name of a state begins as the policy was given it, normalised, where what it was before is recorded too."""

_VISION = (
    "vision_tower", "vision_model", "visual", "vision_encoder", "image_encoder", "rgb_encoder", "backbone",
    "image_enc_layers",
)  # fmt: skip
"""Names of vision encoders in LeRobot's policies, the surer first."""

_SETTINGS = ("n_action_steps", "chunk_size", "horizon", "n_obs_steps", "temporal_ensemble_coeff")
"""Of a policy's configuration, what decides how often its model is asked."""

_MOST_VALUES = 64
"""Values up to which an array counts as a state or as statistics of an action."""

_STAGE = "before the policy resizes and scales it"
"""Where images are seen. Most policies do that within the call."""

_ROUNDING = 1e-6
"""Relative: a command that is recomputed from statistics is off by float32's rounding at most."""


class _Policy:
    """What is known of one policy in one recording. Holds no reference to it, which would keep it alive.

    Attributes:
        queues: whether it was seen to run its model within `select_action`, so that a call without that took its action
            from a queue.
        settings: see `_SETTINGS`.
    """

    def __init__(self, watch: Watch, policy: Any) -> None:
        self.watch = watch
        self.images = ModelImages(watch)
        self.queues = False
        self.described_input = self.described_answer = False
        config = getattr(policy, "config", None)
        self.kind = str(getattr(config, "type", None) or getattr(policy, "name", ""))
        found = {name: getattr(config, name, None) for name in _SETTINGS}
        self.settings = {name: value for name, value in found.items() if value is not None}
        self.features = tuple(getattr(config, "image_features", None) or ())
        eye = _eye(policy)
        self._eye = None if eye is None or any(map(is_compiled, policy.modules())) else weakref.ref(eye)
        known = watch.run.get("checkpoint") or {}
        if known.get("predicts_actions"):
            watch.note(f"there is a further policy, {type(policy).__name__}, of which only the calls are recorded")
            self.described_input = self.described_answer = True
        else:
            watch.run.pop("checkpoint", None)
            self._describe(policy, config)

    @property
    def eye(self) -> Any:
        """The module that counts how often images were looked at, or None."""
        return None if self._eye is None else self._eye()

    def _describe(self, policy: Any, config: Any) -> None:
        both = (getattr(config, name, None) or {} for name in ("input_features", "output_features"))
        features = {name: feature for one in both for name, feature in one.items()}
        modes = getattr(config, "normalization_mapping", None) or {}
        facts = {
            **checkpoint_facts(policy),
            "family_hint": f"lerobot.{self.kind}",
            "class": f"{type(policy).__module__}.{type(policy).__qualname__}",
            "name": _names.get(policy) or str(getattr(config, "pretrained_path", None) or "") or None,
            "predicts_actions": True,
            "normalization_mapping": {_word(kind): _word(mode) for kind, mode in modes.items()},
            "features": {name: list(getattr(feature, "shape", ())) for name, feature in features.items()},
            **self.settings,
        }
        self.watch.learn(checkpoint={name: value for name, value in facts.items() if value is not None})
        if facts.get("device"):
            self.watch.learn(device=device_name(facts["device"]))

    def learn_input(self, step: Any) -> None:
        """Tell the run how a preprocessor normalises; LeRobot leaves a feature without statistics as it is."""
        if not self.described_input:
            self.described_input = True
            found = {key: _normalising(step, key) for key in step.features if key != _ACTION}
            self.watch.learn(checkpoint={"normalisation": found})

    def learn_answer(self, step: Any) -> None:
        """Tell the run how a postprocessor un-normalises actions."""
        if not self.described_answer:
            self.described_answer = True
            checkpoint = self.watch.run.get("checkpoint") or {}
            found = _normalising(step, _ACTION)
            facts: dict[str, Any] = {"normalisation": {**checkpoint.get("normalisation", {}), _ACTION: found}}
            if found["statistics"]:
                facts["norm_stats"] = {"lerobot": {"action": found["statistics"]}}
            self.watch.learn(checkpoint=facts)


class _Call:
    """A call of a policy that is going on; calls within it are part of it.

    Attributes:
        chunk: what the model answered in it, (rows, steps, action_dim); None where it has not run.
        queries: one a row; empty until the policy's input was taken.
        thread: whose forward passes are its own.
    """

    def __init__(self, known: _Policy, name: str, policy: Any, batch: Any) -> None:
        self.known = known
        self.watch = known.watch
        self.name = name
        self.policy = policy
        self.batch: Mapping[str, Any] = batch if isinstance(batch, Mapping) else {}
        self.chunk: Any = None
        self.asked = Asked()
        self.queries: list[Query] = []
        self.thread = threading.get_ident()
        self.looked = 0
        self._levels: list[Any] = []
        self._hook: Any = None

    @property
    def boundary(self) -> str:
        return f"lerobot.{self.name.lstrip('_')}"

    def unhook(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def take(self) -> None:
        """Take what the policy is given: its model is about to run."""
        import torch

        tensors = {name: value.detach() for name, value in self.batch.items() if isinstance(value, torch.Tensor)}
        images = {name: tensors[name] for name in self._image_names(tensors)}
        first = next((one for one in (*images.values(), *map(tensors.get, (_STATE, _TOKENS))) if one is not None), None)
        self.queries = [Query(boundary=self.boundary) for _ in range(1 if first is None else len(first))]
        made, raw = _state.made, _state.task
        normaliser = next((step for one in reversed(made) if (step := one.normaliser) is not None), None)
        if normaliser is not None:
            self.known.learn_input(normaliser)
        options = {**self.known.settings, "given": {_slot(name): _form(one) for name, one in images.items()}}
        for row, query in enumerate(self.queries):
            task = raw[row] if isinstance(raw, (list, tuple)) and len(raw) == len(self.queries) else raw
            query.options = {**options, _TASK: task} if isinstance(task, str) else dict(options)
        self._take_images(images)
        before = next((one.state for one in reversed(made) if one.normaliser is not None), None)
        if before is not None:
            self._take_state(_STATE, before.detach())
        if _STATE in tensors:
            self._take_state(_STATE if before is None else f"{MODEL_SLOT}{_STATE}", tensors[_STATE])
        self._take_text(tensors)
        eye = self.known.eye
        if eye is not None and self.chunk is None:
            self._hook = eye.register_forward_hook(_Look(self))

    def _image_names(self, tensors: Mapping[str, Any]) -> list[str]:
        names = [name for name in self.known.features if name in tensors]
        return names or [name for name in tensors if name.startswith(_IMAGE) and tensors[name].dim() >= 4]

    def _take_images(self, images: Mapping[str, torch.Tensor]) -> None:
        scales: dict[str, str] = {}
        for name, pixels in images.items():
            last = pixels[:, -1] if pixels.dim() == 5 else pixels
            if last.dim() != 4 or last.shape[1] != 3 or len(last) != len(self.queries):
                self.watch.note(f"{name} is not recorded: it has shape {tuple(pixels.shape)}")
                continue
            known, scales[_slot(name)] = _scale(name, self.batch[name], last)
            slot = _slot(name) if len(scales) > 1 else ""
            for query, image in zip(self.queries, last, strict=True):
                self.known.images.take(self.asked, query, image, known, slot)
        if not scales:
            return
        said = next(iter(scales.values())) if len(set(scales.values())) == 1 else scales
        for query in self.queries:
            query.options = {**query.options, "image_scale": said, "image_stage": _STAGE}
        self.asked.then(self._store_levels)

    def look(self, inputs: tuple[Any, ...]) -> None:
        """Images have come to the vision encoder, the first ones first, as the policy has made them."""
        import torch

        self.looked += 1
        pixels = inputs[0] if inputs else None
        if self.looked > 1 or not isinstance(pixels, torch.Tensor) or pixels.dim() != 4:
            return
        if tuple(pixels.shape[:2]) != (len(self.queries), 3):
            return
        with torch.inference_mode():
            values = pixels.detach().float()
            found = torch.stack([values.mean((2, 3)), values.amin((2, 3)), values.amax((2, 3))], 1)
        self.asked.fetch(found, lambda landed: self._levels.extend(landed.tolist()))
        for query in self.queries:
            query.options = {**query.options, "encoder_input": _form(pixels)}

    def _store_levels(self) -> None:
        # Up to now they are of what the policy was given, and not of the pixel values that it makes of it.
        found = self._levels or [()] * len(self.queries)
        for query, levels in zip(self.queries, found, strict=True):
            query.pixel_stats = dict(zip(("mean", "min", "max"), map(tuple, levels), strict=False))

    def _take_state(self, name: str, values: torch.Tensor) -> None:
        last = values[:, -1] if values.dim() == 3 else values
        if last.dim() != 2 or len(last) != len(self.queries) or last.shape[1] > _MOST_VALUES:
            return

        def store(found: torch.Tensor) -> None:
            for query, row in zip(self.queries, found.double().numpy(), strict=True):
                query.proprio = {**query.proprio, name: numbers(row)}

        self.asked.fetch(last.clone(), store)

    def _take_text(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """The prompt is the text that the ids were made of; the batch's own one only where that is not known."""
        ids, mask = tensors.get(_TOKENS), tensors.get(_MASK)
        texts = self.batch.get(_TASK)
        texts = [texts] if isinstance(texts, str) else texts
        if ids is None or ids.dim() != 2 or len(ids) != len(self.queries):
            return
        kept: list[list[bool] | None] = [None] * len(ids)
        if mask is not None and mask.shape == ids.shape:
            self.asked.fetch(mask.bool(), lambda found: kept.__setitem__(slice(None), found.tolist()))

        def store(found: torch.Tensor) -> None:
            for row, (query, values) in enumerate(zip(self.queries, found.tolist(), strict=True)):
                shown = kept[row] or [True] * len(values)
                query.input_ids = tuple(one for one, keep in zip(values, shown, strict=True) if keep)
                query.prompt = given_to(self.watch).text_of(query.input_ids)
                if query.prompt is None and isinstance(texts, (list, tuple)) and len(texts) == len(self.queries):
                    query.prompt = texts[row] if isinstance(texts[row], str) else None

        self.asked.fetch(ids, store)

    def answered(self, result: Any, elapsed: float) -> None:
        """Close the queries with what the policy returned, unless that came out of its queue."""
        import torch

        known, selects = self.known, self.name == "select_action"
        if selects and self.chunk is not None:
            known.queues = True
        if not isinstance(result, torch.Tensor):
            self.watch.note(f"the answer of {self.boundary} is not recorded: it is no tensor")
            return
        if selects and self.chunk is None and known.queues:
            _answers.append((weakref.ref(result), None))
            return
        if not self.queries:
            self.take()
        fresh = True if not selects or self.chunk is not None else None
        for query in self.queries:
            query.options = {**query.options, "fresh": fresh}
            if known.eye is not None and fresh:
                query.vision_calls = self.looked
        chunk = self.chunk if selects else result
        if isinstance(chunk, torch.Tensor) and known.kind == "tdmpc":
            chunk = chunk.transpose(0, 1)
        answer = _Answer(self, result, chunk)
        _answers.append((weakref.ref(result), answer))
        self.watch.took("forward", elapsed)
        memory: dict[str, int] = {}
        if result.is_cuda:
            found = torch.cuda.memory_stats_as_nested_dict(result.device)["allocated_bytes"]["all"]["current"]
            memory["cuda"] = int(found)
        self.asked.seal()
        self.watch.asked_all(self.queries, complete=answer.complete, memory=memory)

    def failed(self, error: BaseException) -> None:
        self.watch.called(self.boundary, raised=describe(error))
        if self.queries:
            self.asked.seal()
            self.watch.asked_all(self.queries, complete=self.asked.complete)


class _Look(Hook):
    """Counts how often images were looked at."""

    def passed(self, *args: Any) -> None:
        with self.call.watch.tap:
            self.call.look(args[1])


class _Answer:
    """What a policy has answered, and what pipelines make of it.

    Until a pipeline has spoken, the answer counts as the command. The rows of a chunk are un-normalised as the pipeline
    un-normalises, if that gives the very command that it gave for the action; else they are kept as the model gave
    them, as the option "normalised_chunk".
    """

    def __init__(self, call: _Call, action: torch.Tensor, chunk: Any) -> None:
        self.known, self.watch, self.queries = call.known, call.watch, call.queries
        self.action: torch.Tensor | None = None
        self.chunk: torch.Tensor | None = None
        self.command: torch.Tensor | None = None
        self._asked = [call.asked]
        self._ways: list[Callable[[torch.Tensor], torch.Tensor] | None] = []
        rows = len(call.queries)
        if hasattr(chunk, "dim") and chunk.dim() == 3 and len(chunk) == rows and chunk.shape[1] > 1:
            call.asked.fetch(chunk.detach().clone(), self._store_chunk)
        if action.dim() == 3 and len(action) == rows:
            action = action[:, 0]
        if action.dim() == 1 and rows == 1:
            action = action[None]
        if action.dim() == 2 and len(action) == rows:
            call.asked.fetch(action.detach().clone(), self._store_action)
        else:
            self.watch.note(f"the answer is not recorded: it has shape {tuple(action.shape)} for {rows} rows")

    def is_made_of(self, values: torch.Tensor) -> bool:
        """Whether a tensor holds the values of the action; of one on a GPU nobody asks."""
        own = self.action
        if own is None or values.is_cuda or values.numel() != own.numel() or values.dtype != own.dtype:
            return False
        return bool((values.reshape(-1) == own.reshape(-1)).all())

    def made(self, pipeline: Any, command: torch.Tensor) -> None:
        """A pipeline has made a command of it, or of what another one had made."""
        for step in pipeline.steps:
            if _is(step, "UnnormalizerProcessorStep"):
                self.known.learn_answer(step)
        self._ways.append(_way(pipeline))
        asked = Asked()
        asked.fetch(command.detach().clone(), self._store_command)
        asked.then(self._finish)
        asked.seal()
        self._asked.append(asked)
        if self.action is not None:
            # Steps are matched with queries by their actions: at once, where nothing is on its way from a GPU.
            asked.complete()

    def complete(self) -> bool:
        """Fill in the queries, if everything is there; see `Asked.complete`."""
        return all(asked.complete() for asked in list(self._asked))

    def _store_action(self, found: torch.Tensor) -> None:
        self.action = found
        for query, row in zip(self.queries, found.double().numpy(), strict=True):
            query.normalised = numbers(row)
            query.action = query.action or query.normalised

    def _store_chunk(self, found: torch.Tensor) -> None:
        self.chunk = found
        self._rows("chunk", found)

    def _store_command(self, found: torch.Tensor) -> None:
        self.command = found.reshape(len(self.queries), -1, found.shape[-1])[:, 0]
        for query, row in zip(self.queries, self.command.double().numpy(), strict=True):
            query.action = numbers(row)

    def _finish(self) -> None:
        """Make commands of the rows of the chunk."""
        if self.chunk is None or self.action is None or self.command is None:
            return
        action, chunk, ways = self.action, self.chunk, [way for way in self._ways if way is not None]
        for way in ways:
            action, chunk = way(action), way(chunk)
        if len(ways) == len(self._ways) and action.shape == self.command.shape and _same(action, self.command):
            self._rows("chunk", chunk)
            return
        for query in self.queries:
            query.chunk = ()
        self._rows("normalised_chunk", self.chunk)

    def _rows(self, name: str, chunk: torch.Tensor) -> None:
        for query, rows in zip(self.queries, chunk.double().numpy(), strict=True):
            found = tuple(numbers(row) for row in rows)
            if name == "chunk":
                query.chunk = found
            else:
                query.options = {**query.options, name: found}


class _Made:
    """What a pipeline has made of an observation, as far as a policy may be given it; keeps no picture alive.

    Attributes:
        images: key -> the tensor.
        state: what the pipeline was given as the robot's state, or None.
        normaliser: its step that normalises, or None.
    """

    def __init__(self, pipeline: Any, data: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        self.images = {
            name: weakref.ref(value)
            for name, value in result.items()
            if isinstance(name, str) and name.startswith(_IMAGE) and hasattr(value, "dim")
        }
        state: Any = data.get(_STATE)
        small = hasattr(state, "dim") and state.dim() == 2 and state.shape[1] <= _MOST_VALUES
        self.state = state if small else None
        self.normaliser = next((one for one in pipeline.steps if _is(one, "NormalizerProcessorStep")), None)


class _State(threading.local):
    """What a thread is at.

    Attributes:
        call: the policy's that is going on.
        made: what pipelines have made since the last one, the latest last.
        task: what the first of those pipelines was given as the task, a text for each row or for all.
    """

    def __init__(self) -> None:
        self.call: _Call | None = None
        self.made: deque[_Made] = deque(maxlen=4)
        self.task: Any = None

    def forget(self) -> None:
        self.made.clear()
        self.task = None


_state = _State()
_policies: weakref.WeakKeyDictionary[Any, _Policy] = weakref.WeakKeyDictionary()
_names: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
_answers: deque[tuple[Callable[[], Any], _Answer | None]] = deque(maxlen=8)
"""What policies have returned last, with None for what came out of a queue."""


# The wrappers.


def _tap_policy(name: str) -> Maker:
    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            watch = None if compiling() else current()
            if watch is None:
                return original(self, *args, **kwargs)
            return _ask(watch, name, original, self, args, kwargs)

        return method

    return make


def _ask(watch: Watch, name: str, original: Callable[..., Any], policy: Any, args: Any, kwargs: Any) -> Any:
    outer = _state.call
    if outer is not None:
        return _ask_within(outer, name, original, policy, args, kwargs)
    call: _Call | None = None
    with watch.tap:
        known = _policies.get(policy)
        if known is None or known.watch is not watch:
            known = _policies[policy] = _Policy(watch, policy)
        call = _Call(known, name, policy, args[0] if args else kwargs.get("batch"))
        if name != "select_action":
            call.take()
    if call is None:
        return original(policy, *args, **kwargs)
    _state.call = call
    began = perf_counter()
    try:
        result = original(policy, *args, **kwargs)
    except BaseException as error:
        with watch.tap:
            call.failed(error)
        raise
    finally:
        _state.call = None
        call.unhook()
    elapsed = perf_counter() - began
    if watch.active:
        with watch.tap:
            call.answered(result, elapsed)
            _state.forget()
        watch.mark("answered")
    return result


def _ask_within(outer: _Call, name: str, original: Callable[..., Any], policy: Any, args: Any, kwargs: Any) -> Any:
    """A call within another: of the policy itself, to run its model, or of one that it holds."""
    runs = policy is outer.policy and name in _CHUNKS
    if runs and not outer.queries and outer.watch.active:
        with outer.watch.tap:
            outer.take()
    result = original(policy, *args, **kwargs)
    if runs:
        outer.chunk = result
    return result


def _tap_pipeline(original: Callable[..., Any]) -> Callable[..., Any]:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        watch = None if compiling() else current()
        if watch is None:
            return original(self, *args, **kwargs)
        began = perf_counter()
        try:
            result = original(self, *args, **kwargs)
        except BaseException as error:
            with watch.tap:
                watch.called("lerobot.pipeline", of=str(getattr(self, "name", "")), raised=describe(error))
            raise
        elapsed = perf_counter() - began
        if watch.active:
            with watch.tap:
                _processed(watch, self, args[0] if args else next(iter(kwargs.values()), None), result, elapsed)
        return result

    return call


def _processed(watch: Watch, pipeline: Any, data: Any, result: Any, elapsed: float) -> None:
    given, made = (one.get(_ACTION) if isinstance(one, Mapping) else one for one in (data, result))
    if hasattr(given, "dim") and hasattr(made, "dim"):
        answer = _answer_of(given)
        if answer is not None and answer.watch is watch:
            answer.made(pipeline, made)
        _renamed(given, made)
    elif isinstance(data, Mapping) and isinstance(result, Mapping):
        _state.made.append(_Made(pipeline, data, result))
        if _state.task is None:
            _state.task = data.get(_TASK)
        watch.took("preprocess", elapsed)


def _answer_of(values: Any) -> _Answer | None:
    """The answer that a tensor is, or is a copy of."""
    for reference, answer in reversed(_answers):
        if reference() is values:
            return answer
    return next((answer for _, answer in reversed(_answers) if answer is not None and answer.is_made_of(values)), None)


def _renamed(given: Any, made: Any) -> None:
    """What a pipeline has made of an answer stands for it from now on."""
    for reference, answer in reversed(_answers):
        if reference() is given:
            _answers.append((weakref.ref(made), answer))
            return


def _tap_reset(original: Callable[..., Any]) -> Callable[..., Any]:
    def reset(self: Any, *args: Any, **kwargs: Any) -> Any:
        watch = current()
        if watch is not None:
            with watch.tap:
                watch.called("policy.reset", of=type(self).__qualname__)
        return original(self, *args, **kwargs)

    return reset


def _tap_loading(original: Callable[..., Any]) -> Callable[..., Any]:
    def from_pretrained(cls: type, *args: Any, **kwargs: Any) -> Any:
        policy = original(cls, *args, **kwargs)
        watch = current()
        if watch is not None:
            with watch.tap:
                name = args[0] if args else kwargs.get("pretrained_name_or_path")
                if name is not None:
                    _names[policy] = str(name)
        return policy

    return from_pretrained


# What LeRobot's processors do.


def _is(step: Any, name: str) -> bool:
    return any(cls.__name__ == name for cls in type(step).__mro__)


def _mode(step: Any, key: str) -> str:
    """How a (un-)normalising step treats a feature, "MEAN_STD" say; "" for one that it does not know."""
    kinds = {name: getattr(feature, "type", None) for name, feature in (step.features or {}).items()}
    kind = _word(kinds.get(key)) or ("ACTION" if key == _ACTION else "")
    chosen = getattr(step, "normalize_observation_keys", None)
    if not kind or (key != _ACTION and chosen is not None and key not in chosen):
        return ""
    modes = {_word(name): _word(mode) for name, mode in (step.norm_map or {}).items()}
    return modes.get(kind, "IDENTITY")


def _statistics(step: Any, key: str) -> dict[str, list[float]] | None:
    """The statistics that a step uses for a feature, flat; None where it has none. Nothing is fetched from a GPU."""
    own = step._tensor_stats.get(key)
    if own is None:
        return None
    found = {}
    for name, value in own.items():
        if value.is_cuda:
            value = ((step.stats or {}).get(key) or {}).get(name)
        if value is not None and not getattr(value, "is_cuda", False):
            found[str(name)] = np.asarray(value, np.float64).ravel().tolist()
    return {name: values for name, values in found.items() if len(values) <= _MOST_VALUES}


def _normalising(step: Any, key: str) -> dict[str, Any]:
    return {"mode": _mode(step, key), "statistics": _statistics(step, key)}


def _ends(mode: str) -> tuple[str, str] | None:
    """The statistics that -1 and +1 stand for."""
    return {"MIN_MAX": ("min", "max"), "QUANTILES": ("q01", "q99"), "QUANTILE10": ("q10", "q90")}.get(mode)


def _way(pipeline: Any) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """What a pipeline does to any action; None where it has a step that may do more than un-normalise.

    Source: huggingface/lerobot v0.4.4, src/lerobot/processor/normalize_processor.py, `_apply_transform`.
    """
    steps = []
    for step in pipeline.steps:
        if _is(step, "UnnormalizerProcessorStep"):
            steps.append((_mode(step, _ACTION), _statistics(step, _ACTION), float(step.eps)))
        elif type(step).__name__ not in ("DeviceProcessorStep", "IdentityProcessorStep"):
            return None

    def way(values: torch.Tensor) -> torch.Tensor:
        for mode, statistics, eps in steps:
            ends = _ends(mode)
            if mode == "IDENTITY" or not statistics:
                continue
            row = {name: values.new_tensor(numbers) for name, numbers in statistics.items()}
            if mode == "MEAN_STD":
                values = values * row["std"] + row["mean"]
            elif ends is not None:
                span = row[ends[1]] - row[ends[0]]
                span[span == 0] = eps
                values = (values + 1) / 2 * span + row[ends[0]]
        return values

    return way


def _scale(name: str, made: Any, pixels: torch.Tensor) -> tuple[Normalisation | None, str]:
    """How levels became the values of an image, and in words what that was taken from.

    Args:
        made: the tensor in the batch.
        pixels: (rows, 3, H, W).
    """
    steps = [(one.images[name]() is made, one.normaliser) for one in reversed(_state.made) if name in one.images]
    # By the very tensor; where that was moved or copied, by name.
    same, step = next(((same, step) for same, step in sorted(steps, key=lambda s: not s[0]) if step), (True, None))
    mode = _mode(step, name) if step is not None else ""
    statistics = (_statistics(step, name) or {}) if step is not None else {}
    known, said = Normalisation([0.0] * 3, [1.0] * 3), "0..1"
    if mode not in ("", "IDENTITY") and statistics:
        found = _normalisation(mode, statistics)
        if found is None:
            return None, "relative"
        known, said = found, mode.lower()
    elif not pixels.is_floating_point():
        return Normalisation([0.0] * 3, [1 / 255] * 3), "0..255"
    if pixels.is_cuda:
        return known, f"{said}, assumed"
    low, high = (float(end) for end in pixels.aminmax())
    spread, middle = min(known.std), (min(known.mean), max(known.mean))
    if said == "0..1" and 1.0 < high <= 255.0 and low >= 0.0:
        return Normalisation([0.0] * 3, [1 / 255] * 3), "0..255"
    if low * spread + middle[1] < -0.02 or high * spread + middle[0] > 1.02:
        return None, "relative"
    return known, said if same else f"{said}, assumed"


def _normalisation(mode: str, statistics: Mapping[str, Sequence[float]]) -> Normalisation | None:
    names = ("mean", "std") if mode == "MEAN_STD" else _ends(mode)
    rows = [statistics.get(name) for name in names or ()]
    if len(rows) != 2 or any(row is None or len(row) not in (1, 3) for row in rows):
        return None
    one, two = (np.broadcast_to(np.asarray(row), 3) for row in rows)
    if mode != "MEAN_STD":
        one, two = (two + one) / 2, (two - one) / 2
    return Normalisation(one.tolist(), two.tolist()) if (two > 0).all() else None


def _same(one: torch.Tensor, two: torch.Tensor) -> bool:
    a, b = (tensor.double().numpy() for tensor in (one, two))
    return bool(np.allclose(a, b, rtol=_ROUNDING, atol=_ROUNDING))


def _eye(policy: Any) -> Any:
    """The first convolution of the policy's vision encoder, which every image passes once; None where none is found.

    Not the encoder itself: X-VLA calls other methods of it than `forward`.
    """
    import torch

    modules = list(policy.named_modules())
    towers = (module for name in _VISION for path, module in modules if path.rpartition(".")[2] == name)
    kinds = (torch.nn.Conv2d, torch.nn.Conv3d)
    return next((part for tower in towers for part in tower.modules() if isinstance(part, kinds)), None)


def _slot(name: str) -> str:
    """observation.images.wrist -> wrist; observation.image -> image."""
    return name.removeprefix("observation.").removeprefix("images.")


def _form(values: torch.Tensor) -> str:
    return f"{str(values.dtype).removeprefix('torch.')} {tuple(values.shape[1:])}"


def _word(value: Any) -> str:
    """The value of LeRobot's enumerations."""
    found = getattr(value, "value", value)
    return found if isinstance(found, str) else ""


# Environments.


def describe_env(env: Any) -> Mapping[str, Any]:
    """What LeRobot's LIBERO environment adds to LIBERO's: its own step limit, waiting steps and control mode."""
    names = {"horizon": "_max_episode_steps", "settle_steps": "num_steps_wait", "control_mode": "control_mode"}
    return {fact: getattr(env, name, None) for fact, name in names.items()}


LIBERO = replace(gymnasium.ADAPTER, name="lerobot", describe=describe_env)


# Attaching.


def _hook_policies(module: ModuleType) -> Sequence[Undo]:
    makers = {name: _tap_policy(name) for name in ("select_action", *_CHUNKS)}
    more = {"reset": _tap_reset, "from_pretrained": _tap_loading}
    return [_answers.clear, wrap_classes(module.PreTrainedPolicy, {**makers, **more})]


def _hook_pipelines(module: ModuleType) -> Sequence[Undo]:
    return [wrap_classes(module.DataProcessorPipeline, {"__call__": _tap_pipeline})]


def _hook_libero(module: ModuleType) -> Sequence[Undo]:
    return [specialise(module.LiberoEnv, LIBERO)]


HOOKS = {
    "lerobot.policies.pretrained": _hook_policies,
    "lerobot.processor.pipeline": _hook_pipelines,
    "lerobot.envs.libero": _hook_libero,
}
