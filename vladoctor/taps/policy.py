"""Watches policies made of transformers models at the libraries' own boundaries: `predict_action`, `generate`, head.

Calls that lie inside one another are one query: what is given is taken from the outermost that says it, the generated
ids from the innermost `generate`, the answer from the outermost. Hooks sit on the vision tower and on the output head
during a call only, so that a model that is copied, saved or compiled between calls is as its program made it.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from vladoctor.records import Query
from vladoctor.taps.budget import TOKENS
from vladoctor.taps.checkpoint import action_bins, checkpoint_facts, inputs_state, model_state
from vladoctor.taps.measure import Asked, ModelImages, Normalisation, TokenStatistics
from vladoctor.taps.patch import Undo, undo_all, wrap
from vladoctor.taps.processors import given_to, normalisation_of, parameters, processed
from vladoctor.taps.recorder import Recorder, describe, numbers
from vladoctor.versions import device_name

if TYPE_CHECKING:
    import torch

    from vladoctor.taps.watch import Watch

ACTION_IDS = (31744, 31999)
"""First and last action id of OpenVLA. Source: openvla/openvla@c8f03f4, modeling_prismatic.py:504."""

METHODS = ("predict_action", "generate")

PADDING, ADDED = "padding", "prompt_ids_added"
"""Options of a query: how many ids of its prompt were masked in front, inside and behind (absent where none were), and
what the model's own code put behind them (absent where `generate` was not seen inside of another call)."""

_VISION = ("vision_backbone", "vision_tower", "vision_model", "visual", "vision_encoder", "image_encoder")
"""Names of vision towers in transformers and in remote code."""

_WITHIN = ("model", "vlm", "base_model")
"""Names of modules that hold them."""

_PROPRIO = ("proprio", "state", "states", "robot_state")

_INPUTS = ("inputs", "input_ids", "attention_mask", "pixel_values", "inputs_embeds", *_PROPRIO)

_MOST_IMAGES = 8
"""Images of one query that are kept."""

_MOST_STATES = 256
"""Values of a robot's state; what is larger is something else."""

_LONGEST, _MOST_OPTIONS = 200, 16
"""Characters of an option that are kept, and values of one."""

# Attaching.


def watch_policy(
    model: Any,
    processor: Any,
    recorder: Recorder,
    *,
    pixel_mean: Sequence[float] | None = None,
    pixel_std: Sequence[float] | None = None,
    action_ids: tuple[int, int] = ACTION_IDS,
) -> Callable[[], None]:
    """Record what one policy is given and what it answers. Returns the call that ends it.

    Args:
        model: has `predict_action` (or `generate` alone); that instance only is touched.
        processor: called with the prompt as `text`; None where there is none. Its class gets another `__call__`, as
            Python looks that up on the class, but other instances are passed through.
        pixel_mean, pixel_std: by channel of `pixel_values`; by default what the processor's image processor says.
        action_ids: first and last action id.
    """
    if pixel_mean is None or pixel_std is None:
        normalisation = normalisation_of(getattr(processor, "image_processor", None))
    else:
        normalisation = Normalisation(pixel_mean, pixel_std) if len(pixel_mean) >= 3 <= len(pixel_std) else None
    policy = Policy(recorder, action_ids, action_bins(model), normalisation)
    undo: list[Undo] = []
    if processor is not None:
        undo.append(_watch_processor(processor, recorder))

    def tap(boundary: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def method(*args: Any, **kwargs: Any) -> Any:
            if not recorder.active:
                return original(*args, **kwargs)
            return policy.call(boundary, model, original, args, kwargs)

        return method

    for name in METHODS:
        if callable(getattr(model, name, None)):
            undo.append(wrap(model, name, partial(tap, name)))
    if output_head(model) is None:
        recorder.note("the tokens' probabilities are not recorded: the model has no output head")
    return recorder.attach(lambda: undo_all(undo))


def _watch_processor(processor: Any, recorder: Any) -> Undo:
    attached = True

    def tap(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            if self is not processor or not attached or not recorder.active:
                return original(self, *args, **kwargs)
            return processed(recorder, "text", original, (self, *args), kwargs)

        return call

    put_back = wrap(type(processor), "__call__", tap)

    def undo() -> None:
        nonlocal attached
        attached = False
        put_back()

    return undo


def asked(watch: Watch, boundary: str, original: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Call a model's method for the program that `watch` watches, and record it.

    Args:
        original: the function of the class; `args` begin with the model.
    """
    model = args[0]
    policy = None
    with watch.tap:
        policy = _policies.get(model)
        if policy is None or policy.recorder is not watch:
            policy = _policies[model] = _found(model, watch)
    if policy is None:
        return original(*args, **kwargs)
    return policy.call(boundary, model, partial(original, model), args[1:], kwargs)


def compiling() -> bool:
    """Whether TorchDynamo is tracing this very call: it is to find nothing of ours in it."""
    import torch

    return torch.compiler.is_compiling()


def before_compile() -> None:
    """Something is about to be compiled, during a call perhaps: our hooks are not to be part of it."""
    global _compilations
    _compilations += 1
    for call in _calls():
        call.unhook()
        call.sees_vision = False


def _found(model: Any, watch: Watch) -> Policy:
    """Begin to watch a model that was met in a foreign program."""
    bins = action_bins(model)
    ids = None
    if bins is not None:
        # One bin more than centres, and the last ids of the vocabulary.
        count = getattr(getattr(model, "config", None), "n_action_bins", None) or len(bins[0]) + 1
        ids = (bins[1] - int(count), bins[1] - 1)
    return Policy(watch, ids, bins)


_policies: weakref.WeakKeyDictionary[Any, Policy] = weakref.WeakKeyDictionary()
_acting: weakref.WeakSet[Any] = weakref.WeakSet()
"""Recordings whose checkpoint was described by a model that predicts actions."""
_compilations = 0


class Policy:
    """What is known of one model in one recording.

    Holds no reference to the model, which it would keep alive.

    Args:
        recorder: a `Watch`, or the `Recorder` of a loop whose checkpoint and processor are known.
        action_ids: first and last; None where they are not known.
        bins: see `checkpoint.action_bins`.
        normalisation: of `pixel_values`; by default that of the processors that were seen.
    """

    def __init__(
        self,
        recorder: Recorder | Watch,
        action_ids: tuple[int, int] | None,
        bins: tuple[list[float], int] | None,
        normalisation: Normalisation | None = None,
    ) -> None:
        self.recorder: Any = recorder
        self.foreign = not isinstance(recorder, Recorder)
        self.bins = bins
        self.normalisation = normalisation
        self.tokens = TokenStatistics(*(action_ids or (None, None)))
        self.images = ModelImages(self.recorder)
        self._describes: bool | None = None if self.foreign else False
        self._told: Normalisation | None = None
        self._compiled: tuple[int, bool] = (-1, False)
        self._training: bool | None = None

    def call(self, boundary: str, model: Any, original: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Call one of the model's methods for the program, and record it.

        Args:
            original: takes `args` and `kwargs`.
        """
        recorder, calls = self.recorder, _calls()
        call = _Call(boundary, calls[0] if calls else None)
        began = perf_counter()
        try:
            with recorder.tap:
                self.begin(call, model, {**dict(zip(_names(original), args, strict=False)), **kwargs})
            calls.append(call)
            began = perf_counter()
            result = original(*args, **kwargs)
        except BaseException as error:
            elapsed = perf_counter() - began
            if call.outermost and recorder.active:
                with recorder.tap:
                    recorder.called(boundary, raised=describe(error))
                    self.end(call, None, elapsed)
            raise
        finally:
            # By identity and not the last: an interrupt may strike on the way in or out.
            calls[:] = [one for one in calls if one is not call]
            call.unhook()
        elapsed = perf_counter() - began
        if recorder.active:
            with recorder.tap:
                if boundary == "generate":
                    self.generated(call, model, result)
                if call.outermost:
                    self.end(call, None if boundary == "generate" else result, elapsed)
            if call.outermost:
                recorder.mark("answered")
        return result

    def begin(self, call: _Call, model: Any, arguments: Mapping[str, Any]) -> None:
        """Take what the model is given, before it is given to it, and put the hooks on."""
        import torch

        recorder, first = self.recorder, call.first
        call.arguments, call.earlier = arguments, first.generations
        if call.outermost:
            if self._describes is None:
                self._describes = self.describe(model)
            call.describes = self._describes
            if self._training is not bool(model.training):
                # The checkpoint's description has just told it.
                first_time = self._training is None
                self._training = bool(model.training)
                told = recorder.run["checkpoint"].get("state") if call.describes and first_time else None
                call.model = {**(told or model_state(model)), **inputs_state(model, arguments)}
                if call.describes:
                    recorder.learn(checkpoint={"training": self._training, "state": call.model})
        ids, pixels = arguments.get("input_ids", arguments.get("inputs")), arguments.get("pixel_values")
        ids = ids if isinstance(ids, torch.Tensor) and ids.dim() == 2 and not ids.is_floating_point() else None
        if not first.queries:
            given = (ids, arguments.get("inputs_embeds"), pixels)
            rows = next((len(one) for one in given if isinstance(one, torch.Tensor) and one.dim() > 1), 0)
            first.queries = [Query() for _ in range(rows)]
        if ids is not None and len(ids) == len(first.queries):
            if not first.saw_ids:
                first.saw_ids, first.prompt_length = True, ids.shape[1]
                self.take_ids(first, ids, arguments.get("attention_mask"))
            elif call.boundary == "generate" and ids.shape[1] >= first.prompt_length:
                self.take_added(first, ids[:, first.prompt_length :])
        if pixels is not None and not first.saw_pixels and first.queries:
            first.saw_pixels = True
            self.take_pixels(first, pixels)
        if call.outermost:
            call.options = _options(arguments)
            for name in _PROPRIO:
                call.proprio[name] = _copied(arguments.get(name))
        if call.boundary == "generate" and "do_sample" not in first.options:
            first.options["generation_config.do_sample"] = _samples(model, arguments)
        self.put_hooks(call, model)

    def put_hooks(self, call: _Call, model: Any) -> None:
        """Hook the vision tower, and the head for `generate`; nothing of a model that is compiled."""
        found: dict[str, Any] = {"vision": vision_tower(model)}
        if call.boundary == "generate" and self.recorder.budget.keeps(TOKENS):
            found["head"] = output_head(model)
            if found["head"] is None:
                self.recorder.note("the tokens' probabilities are not recorded: the model has no output head")
        first = call.first
        # A call inside another one of the same model finds them hooked.
        wanted = {
            name: one
            for name, one in found.items()
            if one is not None and not any(other.has_hooked(one) for other in _calls())
        }
        if not wanted or self.compiled(model):
            return
        if "vision" in wanted:
            first.sees_vision = True
            call.hook(wanted["vision"], _BeforeVision(first), before=True)
            call.hook(wanted["vision"], _AfterVision(first))
        if "head" in wanted:
            call.hook(wanted["head"], _AfterHead(first))

    def compiled(self, model: Any) -> bool:
        """Whether any part of a model is compiled."""
        if self._compiled[0] != _compilations:
            found = any(map(is_compiled, model.modules()))
            self._compiled = (_compilations, found)
            if found:
                self.recorder.note(
                    "the tokens' probabilities and the vision tower's calls are not recorded: parts of the model are "
                    "compiled, and are left as they are"
                )
        return self._compiled[1]

    def describe(self, model: Any) -> bool:
        """Tell the run which checkpoint this is, unless it has one; one that predicts actions goes before others."""
        watch, acts = self.recorder, hasattr(model, "predict_action")
        if watch.run.get("checkpoint") and (watch in _acting or not acts):
            watch.note(f"there is a further model, {type(model).__name__}, of which only the calls are recorded")
            return False
        if acts:
            _acting.add(watch)
        facts = checkpoint_facts(model)
        watch.run.pop("checkpoint", None)
        watch.learn(checkpoint=facts)
        if "device" in facts:
            watch.learn(device=device_name(facts["device"]))
        return True

    def take_ids(self, first: _Call, ids: torch.Tensor, mask: Any) -> None:
        """Take the prompts' ids, (rows, T), without the padding that a mask of the same shape tells of."""
        import torch

        shown: list[Any] = [None] * len(ids)

        def keep(found: torch.Tensor) -> None:
            shown[:] = found.tolist()

        def store(found: torch.Tensor) -> None:
            for query, row, seen in zip(first.queries, found.tolist(), shown, strict=True):
                query.input_ids = tuple(row if seen is None else [one for one, real in zip(row, seen) if real])  # noqa: B905
                if seen is not None and not all(seen):
                    query.options = {**query.options, PADDING: _padding(seen)}

        if isinstance(mask, torch.Tensor) and mask.shape == ids.shape:
            first.asked.fetch(mask.detach(), keep)
        first.asked.fetch(ids.detach(), store)

    def take_added(self, first: _Call, added: torch.Tensor) -> None:
        """Take what the model's own code has put behind the prompts before it generates, (rows, 0 or more)."""

        def store(found: torch.Tensor) -> None:
            for query, row in zip(first.queries, found.tolist(), strict=True):
                query.options = {**query.options, ADDED: row}

        first.asked.fetch(added.detach(), store)

    def take_pixels(self, first: _Call, pixels: Any) -> None:
        """Take the images of every row."""
        import torch

        if isinstance(pixels, Mapping):
            # The native code's, of one image a tower: {"dino": ..., "siglip": ...}.
            pixels = next((one for one in pixels.values() if isinstance(one, torch.Tensor)), pixels)
        rows, shape = len(first.queries), tuple(getattr(pixels, "shape", ()))
        if not isinstance(pixels, torch.Tensor) or len(shape) not in (4, 5) or not pixels.is_floating_point():
            self.recorder.note(f"the model's image is not recorded: pixel_values is {_shape(pixels)}")
            return
        if shape[0] % rows:
            self.recorder.note(f"the model's images are not recorded: {shape[0]} of them for {rows} prompts")
            return
        known, channels = self._normalised(first, *shape[-3:])
        # Several images of one prompt stand in a dimension of their own, or one after the other in the first.
        for query, images in zip(first.queries, pixels.detach().reshape(rows, -1, *shape[-3:]), strict=True):
            # Of several cameras, OpenVLA-OFT puts the channels in a row.
            parts = [part for image in images for part in image.split(channels)]
            if known is not None and known.whole_last:
                parts = [parts[-1], *parts[:-1]]
            for index, part in enumerate(parts[:_MOST_IMAGES]):
                self.images.take(first.asked, query, part, known, f"image{index}" if index else "")

    def _normalised(self, first: _Call, channels: int, height: int, width: int) -> tuple[Normalisation | None, int]:
        """How `pixel_values` were normalised, and how many channels an image has."""
        if not self.foreign:
            known = self.normalisation
            return known, len(known.mean) if known is not None and channels % len(known.mean) == 0 else channels
        found = given_to(self.recorder).normalisation(channels, height, width)
        if found is None:
            self.recorder.note(
                "how pixel_values were normalised is not known: the model's image shows what is in it, not how bright"
            )
            return None, next((one for one in (6, 3) if channels % one == 0), channels)
        known, made = found
        if first.describes and known is not self._told:
            self._told = known
            mean, std = (list(values) * (channels // made) for values in (known.mean, known.std))
            self.recorder.learn(checkpoint={"pixel_mean": mean, "pixel_std": std})
        return found

    def generated(self, call: _Call, model: Any, output: Any) -> None:
        """Take the ids that `generate` has added to the prompt; of several inside one another, the innermost's."""
        import torch

        first = call.first
        if first.generations != call.earlier:
            return
        first.generations += 1
        logits, first.logits = first.logits, []
        sequences = output if isinstance(output, torch.Tensor) else getattr(output, "sequences", None)
        if not isinstance(sequences, torch.Tensor) or sequences.dim() != 2:
            return
        queries = first.queries = first.queries or [Query() for _ in range(len(sequences))]
        if len(sequences) != len(queries):
            self.recorder.note(
                f"generated ids are not recorded: there are {len(sequences)} answers to {len(queries)} prompts"
            )
            return
        new = sequences[:, _prompt_length(call.arguments, model) :].detach()
        ends = _ends(model, call.arguments) if len(queries) > 1 else frozenset()

        def store(found: torch.Tensor) -> None:
            for query, row in zip(queries, found.tolist(), strict=True):
                query.ids = (*query.ids, *_until(row, ends))

        first.asked.fetch(new, store)
        if not logits:
            return
        if len(logits) != new.shape[1] or any(one.shape[:2] != (len(queries), 1) for one in logits):
            self.recorder.note(
                "the tokens' probabilities are not recorded: the head was not asked once a token for every prompt"
            )
            return
        first.device = logits[0].device
        for one in logits:
            first.asked.keep(one)
        first.asked.then(lambda: self.tokens.take(logits, queries, first.asked))

    def end(self, call: _Call, result: Any, elapsed: float) -> None:
        """Close the query with its answer."""
        import torch

        recorder, asked = self.recorder, call.asked
        queries = call.queries = call.queries or [Query()]
        recorder.took("forward", elapsed)
        memory: dict[str, int] = {}
        if call.device is not None and call.device.type == "cuda":
            memory["cuda"] = int(
                torch.cuda.memory_stats_as_nested_dict(call.device)["allocated_bytes"]["all"]["current"]
            )
        elif call.vision_calls:
            recorder.took("vision", call.vision_seconds)
        for query in queries:
            query.boundary = call.boundary
            query.options = {**call.options, **query.options}
            query.model = call.model
            if call.sees_vision:
                query.vision_calls = call.vision_calls
        for name, values in call.proprio.items():
            if values is not None:
                asked.fetch(values, partial(_store_state, queries, name))
        self.take_answer(call, result)
        asked.at_last(partial(self.finish, queries))
        asked.seal()
        recorder.asked_all(queries, complete=asked.complete, memory=memory)

    def finish(self, queries: Sequence[Query]) -> None:
        """Fill in what follows from the values that have arrived."""
        for query in queries:
            # The end of an answer that is padded to the length of the longest in its batch.
            for name in ("action_mass", "margin", "entropy"):
                setattr(query, name, getattr(query, name)[: len(query.ids)])
            if query.action is not None and self.bins is not None and len(query.ids) >= len(query.action):
                query.normalised = _centres(query.ids[-len(query.action) :], *self.bins)
            if self.foreign and query.input_ids:
                query.prompt = given_to(self.recorder).text_of(query.input_ids)

    def take_answer(self, call: _Call, result: Any) -> None:
        """Take the action, or the chunk of actions, of every row."""
        import torch

        def store(found: np.ndarray) -> None:
            rows = _per_row(found, len(call.queries))
            if rows is None:
                self.recorder.note(
                    f"an answer is not recorded: it has shape {found.shape}, for {len(call.queries)} prompts"
                )
                return
            for query, actions in zip(call.queries, rows, strict=True):
                query.action = numbers(actions[0])
                query.chunk = tuple(map(numbers, actions)) if len(actions) > 1 else ()
            if call.describes:
                self.recorder.learn(checkpoint={"chunk": len(rows[0])})

        answer = _answer(result)
        if isinstance(answer, torch.Tensor):
            call.asked.fetch(answer.detach().double(), lambda landed: store(landed.numpy()))
        elif answer is not None:
            # At once: the official evaluation maps the gripper in the very array that was returned.
            store(answer)


class _Call:
    """A call of a model's method that is going on. The outermost of those inside one another stands for all of them.

    Attributes:
        first: the outermost, which may be itself; what follows is its.
        generations: how many `generate` have returned, and `earlier` how many had when this call began.
        thread: the only one whose forward passes are its own.
        describes: whether the run's checkpoint is its model.
    """

    def __init__(self, boundary: str, first: _Call | None) -> None:
        self.boundary = boundary
        self.first = first or self
        self.arguments: Mapping[str, Any] = {}
        self.generations = self.earlier = 0
        self.thread = threading.get_ident()
        self.asked = Asked()
        self.queries: list[Query] = []
        self.options: dict[str, Any] = {}
        self.model: dict[str, Any] = {}
        self.proprio: dict[str, torch.Tensor | None] = {}
        self.describes = self.saw_ids = self.saw_pixels = self.sees_vision = False
        self.prompt_length = 0
        self.logits: list[torch.Tensor] = []
        self.device: torch.device | None = None
        self.vision_calls = 0
        self.vision_began = self.vision_seconds = 0.0
        self._hooks: list[tuple[Any, Any]] = []

    @property
    def outermost(self) -> bool:
        return self.first is self

    def hook(self, module: Any, hook: Hook, *, before: bool = False) -> None:
        """Have a hook called at a module's forward passes, until the call ends."""
        register = module.register_forward_pre_hook if before else module.register_forward_hook
        self._hooks.append((module, register(hook)))

    def has_hooked(self, module: Any) -> bool:
        return any(one is module for one, _ in self._hooks)

    def unhook(self) -> None:
        while self._hooks:
            self._hooks.pop()[1].remove()


class Hook:
    """A hook of a module that does nothing in other threads, in compiled code, and where it was copied to.

    Args:
        call: what is going on, with `thread`: the thread that it goes on in.
    """

    def __init__(self, call: Any) -> None:
        self.call = call

    def __call__(self, *args: Any) -> None:
        if not compiling() and threading.get_ident() == self.call.thread:
            self.passed(*args)

    def passed(self, *args: Any) -> None:
        """A forward pass begins: (module, args), or has ended: (module, args, output)."""

    def __deepcopy__(self, memo: Any) -> Callable[..., None]:
        return _nothing

    def __reduce__(self) -> tuple[Any, ...]:
        return type(_nothing), ()


class _BeforeVision(Hook):
    def passed(self, *args: Any) -> None:
        self.call.vision_began = perf_counter()


class _AfterVision(Hook):
    def passed(self, *args: Any) -> None:
        self.call.vision_calls += 1
        self.call.vision_seconds += perf_counter() - self.call.vision_began


class _AfterHead(Hook):
    def passed(self, *args: Any) -> None:
        # A copy: a prompt's logits would stay in memory as a whole, and a program may write into the last ones.
        self.call.logits.append(args[-1].detach()[:, -1:].clone())


class _Nothing:
    """A hook that is left of one of ours in a copy."""

    def __call__(self, *args: Any) -> None:
        pass


_nothing = _Nothing()


def vision_tower(model: Any) -> Any:
    """The module that images go through first, or None."""
    for owner in _owners(model):
        for name in _VISION:
            found = owner._modules.get(name)
            if found is not None:
                return found
    return None


def output_head(model: Any) -> Any:
    """The module that makes the logits, or None."""
    for owner in (getattr(model, "language_model", None), model):
        get = getattr(owner, "get_output_embeddings", None)
        head = get() if callable(get) else getattr(owner, "lm_head", None)
        if head is not None:
            return head
    return None


def _owners(model: Any, depth: int = 2) -> Iterator[Any]:
    """The model and what it holds its parts in."""
    yield model
    for name in _WITHIN if depth else ():
        inner = model._modules.get(name)
        if inner is not None:
            yield from _owners(inner, depth - 1)


def is_compiled(module: Any) -> bool:
    """Whether a module's forward pass is compiled; those of the modules in it may be as well."""
    own = vars(module)
    return (
        own.get("_compiled_call_impl") is not None
        or own.get("_compiled_call") is not None
        or "_orig_mod" in module._modules
        or hasattr(own.get("forward"), "_torchdynamo_orig_callable")
    )


def _prompt_length(arguments: Mapping[str, Any], model: Any) -> int:
    """How many of the ids that `generate` returns were given to it."""
    import torch

    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        started = arguments.get("decoder_input_ids")
        return int(started.shape[1]) if isinstance(started, torch.Tensor) else 1
    prompt = arguments.get("input_ids", arguments.get("inputs"))
    # Generating from embeddings alone returns the new ids alone.
    ids = isinstance(prompt, torch.Tensor) and prompt.dim() == 2 and not prompt.is_floating_point()
    return int(prompt.shape[1]) if ids else 0


def _setting(model: Any, arguments: Mapping[str, Any], name: str) -> Any:
    """What `generate` goes by: its argument, else the configuration it is given, else the model's."""
    for owner in (arguments.get("generation_config"), getattr(model, "generation_config", None)):
        value = arguments.get(name, getattr(owner, name, None))
        if value is not None:
            return value
    return None


def _samples(model: Any, arguments: Mapping[str, Any]) -> bool:
    return bool(_setting(model, arguments, "do_sample"))


def _ends(model: Any, arguments: Mapping[str, Any]) -> frozenset[int]:
    """Ids that end an answer."""
    found = _setting(model, arguments, "eos_token_id")
    found = found if isinstance(found, (list, tuple)) else [found]
    return frozenset(one for one in found if isinstance(one, int))


def _until(row: list[int], ends: frozenset[int]) -> list[int]:
    """An answer up to its end: what follows in a batch is padding."""
    return row[: next((place + 1 for place, one in enumerate(row) if one in ends), len(row))]


def _answer(result: Any) -> Any:
    """The actions among what `predict_action` returns, as a tensor or a numpy array of floats; None for ids.

    OpenVLA-OFT returns them in front of hidden states. Source: moojink/openvla-oft@e4287e9,
    prismatic/extern/hf/modeling_prismatic.py, `predict_action`.
    """
    import torch

    if isinstance(result, Mapping):
        names = ("actions", "action", "predicted_actions", "pred_actions")
        result = next((result[name] for name in names if name in result), None)
    elif isinstance(result, (list, tuple)) and result and not isinstance(result[0], (int, float, np.number)):
        result = result[0]
    if isinstance(result, torch.Tensor):
        return result if result.is_floating_point() and result.dim() else None
    try:
        array = np.asarray(result)
    except (TypeError, ValueError):
        return None
    return array if array.dtype.kind == "f" and array.ndim else None


def _per_row(actions: np.ndarray, rows: int) -> Sequence[Sequence[Any]] | None:
    """The actions of every prompt, one or more each; None where the shape does not say whose they are."""
    if not actions.size:
        return None
    while actions.ndim > 3 and actions.shape[0] == 1:
        actions = actions[0]
    if rows == 1:
        return [[*actions.reshape(-1, actions.shape[-1])]] if actions.ndim <= 2 or actions.shape[0] == 1 else None
    if actions.ndim == 1 or actions.shape[0] != rows or actions.ndim > 3:
        return None
    return [*actions.reshape(rows, -1, actions.shape[-1])]


def _centres(ids: Sequence[int], centres: Sequence[float], size: int) -> tuple[float, ...]:
    """Ids to what the model's own bin centres make of them, in [-1, 1]; ids outside count as the nearest end."""
    return tuple(centres[min(max(size - 1 - token, 0), len(centres) - 1)] for token in ids)


def _copied(values: Any) -> torch.Tensor | None:
    """A robot's state, to be kept; None for anything else."""
    import torch

    if isinstance(values, (np.ndarray, list, tuple)):
        try:
            array = np.array(values, np.float64)
        except (TypeError, ValueError):
            return None
        return torch.from_numpy(array) if 0 < array.size <= _MOST_STATES and array.ndim else None
    if isinstance(values, torch.Tensor) and values.dim() and 0 < values.numel() <= _MOST_STATES:
        return values.detach().clone()
    return None


def _store_state(queries: Sequence[Query], name: str, found: torch.Tensor) -> None:
    rows = found if len(found) == len(queries) else [found] * len(queries)
    for query, row in zip(queries, rows, strict=True):
        query.proprio = {**query.proprio, name: numbers(row.double().numpy())}


def _options(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What else was asked for, in plain values; of anything large or foreign its type."""
    import torch

    return {
        name: _plain(value)
        for name, value in arguments.items()
        if value is not None and name not in _INPUTS and not isinstance(value, (torch.Tensor, np.ndarray))
    }


def _plain(value: Any, depth: int = 2) -> Any:
    if isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str):
        return value if len(value) <= _LONGEST else f"{value[:_LONGEST]}…"
    if isinstance(value, np.generic):
        return value.item()
    if depth and isinstance(value, (list, tuple)) and len(value) <= _MOST_OPTIONS:
        return [_plain(one, depth - 1) for one in value]
    if depth and isinstance(value, Mapping) and len(value) <= _MOST_OPTIONS:
        return {str(name): _plain(one, depth - 1) for name, one in value.items()}
    name = getattr(value, "__qualname__", None)
    return f"<{name or type(value).__qualname__}>"


def _names(function: Callable[..., Any]) -> Sequence[str]:
    """Names of the parameters that a bound or free function takes."""
    if isinstance(function, partial):
        return parameters(function.func)[len(function.args) :]
    return parameters(getattr(function, "__func__", function))[1 if hasattr(function, "__func__") else 0 :]


def _padding(shown: Sequence[int]) -> list[int]:
    """How many ids of a prompt are masked: in front, between others, behind."""
    real = [place for place, one in enumerate(shown) if one]
    if not real:
        return [len(shown), 0, 0]
    left, right = real[0], len(shown) - 1 - real[-1]
    return [left, len(shown) - left - right - len(real), right]


def _shape(values: Any) -> str:
    shape = getattr(values, "shape", None)
    return type(values).__name__ if shape is None else f"of shape {tuple(shape)}"


def _calls() -> list[_Call]:
    """The calls that this thread is in, the outermost first."""
    try:
        return _going_on.calls
    except AttributeError:
        _going_on.calls = []
        return _going_on.calls


_going_on = threading.local()
