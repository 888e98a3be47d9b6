"""Watches an OpenVLA-like policy at the libraries' own boundaries: processor, `predict_action`, `generate`, head."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from vladoctor.taps.measure import Asked, ModelImages, TokenStatistics
from vladoctor.taps.patch import undo_all, wrap
from vladoctor.taps.recorder import Recorder, describe, numbers

if TYPE_CHECKING:
    from vladoctor.records import Query

ACTION_IDS = (31744, 31999)
"""First and last action id of OpenVLA. Source: openvla/openvla@c8f03f4, modeling_prismatic.py:504."""

_INPUTS = ("inputs", "input_ids", "attention_mask", "pixel_values")


def watch_policy(
    model: Any,
    processor: Any,
    recorder: Recorder,
    *,
    pixel_mean: Sequence[float] | None = None,
    pixel_std: Sequence[float] | None = None,
    action_ids: tuple[int, int] = ACTION_IDS,
) -> Callable[[], None]:
    """Record what a policy is given and what it answers. Returns the call that ends it.

    Args:
        model: has `predict_action` (or `generate` alone), `vision_backbone`, and an output head; that instance only is
            touched.
        processor: called with the prompt as `text`; None where there is none. Its class gets another `__call__`, as
            Python looks that up on the class, but other instances are passed through.
        pixel_mean, pixel_std: by channel of `pixel_values`; by default what the processor's image processor says.
        action_ids: first and last action id.
    """
    if pixel_mean is None or pixel_std is None:
        pixel_mean, pixel_std = pixel_normalisation(processor)
    taps = _PolicyTaps(model, recorder, pixel_mean, pixel_std, action_ids)
    undo = []
    if processor is not None:
        undo.append(_watch_processor(processor, recorder))
    for name in ("predict_action", "generate"):
        if callable(getattr(model, name, None)):
            undo.append(wrap(model, name, taps.tap_predict if name == "predict_action" else taps.tap_generate))
    vision = getattr(model, "vision_backbone", None)
    if vision is not None:
        undo.append(vision.register_forward_pre_hook(taps.before_vision).remove)
        undo.append(vision.register_forward_hook(taps.after_vision).remove)
    head = output_head(model)
    if head is None:
        recorder.note("the tokens' probabilities are not recorded: the model has no output head")
    else:
        undo.append(head.register_forward_hook(taps.after_head).remove)
    return recorder.attach(lambda: undo_all(undo))


def pixel_normalisation(processor: Any) -> tuple[list[float], list[float]]:
    """Mean and standard deviation by channel of `pixel_values`, all towers in a row; empty where they are not known."""
    images = getattr(processor, "image_processor", None)

    def flat(name: str) -> list[float]:
        return [float(value) for tower in getattr(images, name, None) or () for value in tower]

    return flat("means"), flat("stds")


def output_head(model: Any) -> Any:
    """The module that makes the logits, or None."""
    for owner in (getattr(model, "language_model", None), model):
        get = getattr(owner, "get_output_embeddings", None)
        head = get() if callable(get) else getattr(owner, "lm_head", None)
        if head is not None:
            return head
    return None


def _watch_processor(processor: Any, recorder: Recorder) -> Callable[[], None]:
    kind = type(processor)
    try:
        names = list(inspect.signature(kind.__call__).parameters)[1:]
    except (TypeError, ValueError):
        names = []
    attached = True

    def tap(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            if self is not processor or not attached or not recorder.active:
                return original(self, *args, **kwargs)
            with recorder.tap:
                recorder.prompted(_text({**dict(zip(names, args, strict=False)), **kwargs}, args))
            began = perf_counter()
            try:
                return original(self, *args, **kwargs)
            except BaseException as error:
                with recorder.tap:
                    recorder.called("processor", raised=describe(error))
                raise
            finally:
                elapsed = perf_counter() - began
                with recorder.tap:
                    recorder.took("process", elapsed)

        return call

    put_back = wrap(kind, "__call__", tap)

    def undo() -> None:
        nonlocal attached
        attached = False
        put_back()

    return undo


def _text(arguments: Mapping[str, Any], args: tuple[Any, ...]) -> str | None:
    """The prompt among a processor's arguments: `text`, or else the first string."""
    for value in (arguments.get("text"), *args, *arguments.values()):
        if isinstance(value, (list, tuple)) and value:
            value = value[0]
        if isinstance(value, str):
            return value
    return None


class _PolicyTaps:
    """The taps on one model, and the query that is going on."""

    def __init__(
        self,
        model: Any,
        recorder: Recorder,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        action_ids: tuple[int, int],
    ) -> None:
        self.recorder = recorder
        self.watches_vision = getattr(model, "vision_backbone", None) is not None
        self.decode = _decoder(model)
        self.tokens = TokenStatistics(*action_ids)
        self.images = ModelImages(pixel_mean, pixel_std, recorder)
        self.asked: Asked | None = None
        self.began_vision = 0.0

    def tap_predict(self, original: Callable[..., Any]) -> Callable[..., Any]:
        recorder = self.recorder
        names = _parameters(original)

        def predict_action(*args: Any, **kwargs: Any) -> Any:
            if not recorder.active:
                return original(*args, **kwargs)
            with recorder.tap:
                self.begin({**dict(zip(names, args, strict=False)), **kwargs})
            began = perf_counter()
            try:
                action = original(*args, **kwargs)
            except BaseException as error:
                with recorder.tap:
                    recorder.called("predict_action", raised=describe(error))
                    self.end(None, perf_counter() - began)
                raise
            elapsed = perf_counter() - began
            if recorder.active:
                with recorder.tap:
                    self.end(action[0] if isinstance(action, tuple) else action, elapsed)
                recorder.mark("answered")
            return action

        return predict_action

    def tap_generate(self, original: Callable[..., Any]) -> Callable[..., Any]:
        recorder = self.recorder
        names = _parameters(original)

        def generate(*args: Any, **kwargs: Any) -> Any:
            if not recorder.active:
                return original(*args, **kwargs)
            alone = self.asked is None
            arguments = {**dict(zip(names, args, strict=False)), **kwargs}
            if alone:
                with recorder.tap:
                    self.begin(arguments)
            began = perf_counter()
            try:
                output = original(*args, **kwargs)
            except BaseException as error:
                if alone:
                    with recorder.tap:
                        recorder.called("generate", raised=describe(error))
                        self.end(None, perf_counter() - began)
                raise
            elapsed = perf_counter() - began
            if recorder.active:
                with recorder.tap:
                    self.generated(arguments, output)
                    if alone:
                        self.end(None, elapsed)
                if alone:
                    recorder.mark("answered")
            return output

        return generate

    def before_vision(self, module: Any, args: Any) -> None:
        self.began_vision = perf_counter()

    def after_vision(self, module: Any, args: Any, output: Any) -> None:
        asked = self.asked
        if asked is not None:
            asked.vision_calls += 1
            asked.vision_seconds += perf_counter() - self.began_vision

    def after_head(self, module: Any, args: Any, output: Any) -> None:
        asked = self.asked
        if asked is None:
            return
        if asked.logits and not asked.logits[0].is_cuda:
            asked.logits.append(output.detach())
            return
        with self.recorder.tap:
            # A prompt's logits would stay in memory as a whole; a compiled model writes into the same memory again.
            asked.logits.append(output.detach()[:, -1:].clone())

    def begin(self, arguments: Mapping[str, Any]) -> None:
        """Take what the model is given, before it is given to it."""
        import torch

        asked = self.asked = Asked()
        query = asked.query
        input_ids = arguments.get("input_ids", arguments.get("inputs"))
        if isinstance(input_ids, torch.Tensor) and input_ids.dim() == 2:
            asked.fetch(input_ids[0], lambda ids: setattr(query, "input_ids", tuple(ids.tolist())))
        pixels = arguments.get("pixel_values")
        if isinstance(pixels, torch.Tensor) and pixels.dim() == 4:
            self.images.take(asked, pixels.detach()[0])
        elif pixels is not None:
            self.recorder.note(f"the model's image is not recorded: pixel_values is {_shape(pixels)}")
        query.options = {
            name: value
            for name, value in arguments.items()
            if not isinstance(value, torch.Tensor) and name not in _INPUTS
        }

    def generated(self, arguments: Mapping[str, Any], output: Any) -> None:
        """Take the ids that `generate` has added to the prompt."""
        import torch

        sequences = output if isinstance(output, torch.Tensor) else getattr(output, "sequences", None)
        asked = self.asked
        if asked is None or not isinstance(sequences, torch.Tensor) or sequences.dim() != 2:
            return
        prompt = arguments.get("inputs", arguments.get("input_ids"))
        given = int(prompt.shape[1]) if isinstance(prompt, torch.Tensor) else 0
        # Generating from embeddings returns the new ids alone.
        new = sequences[0, given:] if sequences.shape[1] > given else sequences[0]
        query = asked.query
        asked.fetch(new.detach(), lambda ids: setattr(query, "ids", tuple(ids.tolist())))

    def end(self, action: Any, elapsed: float) -> None:
        """Close the query with its action."""
        import torch

        asked, self.asked = self.asked, None
        if asked is None:
            return
        recorder, query = self.recorder, asked.query
        recorder.took("forward", elapsed)
        if self.watches_vision:
            query.vision_calls = asked.vision_calls
        memory: dict[str, int] = {}
        if asked.logits:
            self.tokens.take(asked)
            if asked.logits[0].is_cuda:
                device = asked.logits[0].device
                memory["cuda"] = int(
                    torch.cuda.memory_stats_as_nested_dict(device)["allocated_bytes"]["all"]["current"]
                )
            elif asked.vision_calls:
                recorder.took("vision", asked.vision_seconds)
        if isinstance(action, torch.Tensor):
            asked.fetch(action.detach().double().flatten(), lambda found: self.answer(query, numbers(found.numpy())))
        elif action is not None:
            # At once: the official evaluation maps the gripper in the very array that was returned.
            values = numbers(action)
            asked.then(lambda: self.answer(query, values))
        asked.seal()
        recorder.asked(query, complete=asked.complete, memory=memory)

    def answer(self, query: Query, action: tuple[float, ...]) -> None:
        query.action = action
        if len(query.ids) >= len(action) and self.decode is not None:
            query.normalised = self.decode(query.ids[-len(action) :])


def _decoder(model: Any) -> Callable[[Sequence[int]], tuple[float, ...]] | None:
    """Ids to what the model's own bin centres make of them, in [-1, 1]; ids outside count as the nearest end.

    Source: openvla/openvla@c8f03f4, modeling_prismatic.py:518-524.
    """
    centers, size = getattr(model, "bin_centers", None), getattr(model, "vocab_size", None)
    if not isinstance(centers, np.ndarray) or centers.ndim != 1 or not isinstance(size, (int, np.integer)):
        return None
    values, last, top = centers.tolist(), len(centers) - 1, int(size) - 1
    return lambda ids: tuple(values[min(max(top - token, 0), last)] for token in ids)


def _parameters(function: Callable[..., Any]) -> list[str]:
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return []


def _shape(values: Any) -> str:
    shape = getattr(values, "shape", None)
    return type(values).__name__ if shape is None else f"of shape {tuple(shape)}"
