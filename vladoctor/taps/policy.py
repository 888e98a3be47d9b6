"""Watches an OpenVLA-like policy at the libraries' own boundaries: processor, `predict_action`, `generate`, the head.

Of every generated token three numbers are kept, from the logits that the output head returned for it: the probability
mass on the action ids, the log-probability by which the best id leads, and the entropy within the action ids.

On a CPU they are computed when the query ends, row by row through memory that is kept, because fresh arrays of that
size cost more than the arithmetic; the image when it begins, while it is still in the cache. On a GPU the arithmetic is
queued with the query's own, on the stream of the program, and the results copied to pinned memory without waiting. The
program waits for its ids anyway; the values are taken once an event says that they are there, if need be a step later.
No call here synchronises.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from vladoctor.records import Query
from vladoctor.taps.patch import undo_all, wrap
from vladoctor.taps.recorder import Recorder, describe, numbers
from vladoctor.trace import Picture, area_average, picture

if TYPE_CHECKING:
    import torch

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
        self.tokens = _TokenStatistics(*action_ids)
        self.images = _ModelImages(pixel_mean, pixel_std, recorder)
        self.asked: _Asked | None = None
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

        asked = self.asked = _Asked()
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


class _TokenStatistics:
    """Mass on the action ids, margin and entropy of generated tokens, from one row of logits each."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.stop = first, last + 1
        self.scratch: torch.Tensor | None = None

    def take(self, asked: _Asked) -> None:
        logits, query = asked.logits, asked.query
        if any(one.dim() != 3 or one.shape[:2] != (1, 1) or one.shape[2] <= self.first for one in logits):
            return

        def store(found: Sequence[Sequence[float]]) -> None:
            query.action_mass, query.margin, query.entropy = (
                tuple(round(value, digits) for value in values) for values, digits in zip(found, (9, 6, 6), strict=True)
            )

        if logits[0].is_cuda:
            asked.fetch(self.on_gpu(logits), lambda found: store(found.tolist()))
        else:
            store(self.on_cpu(logits))

    def on_cpu(self, logits: Sequence[torch.Tensor]) -> tuple[list[float], list[float], list[float]]:
        import torch

        width = logits[0].shape[2]
        if self.scratch is None or len(self.scratch) != width:
            # Outside of inference mode, so that it can be written to in and outside of it.
            with torch.inference_mode(False):
                self.scratch = torch.empty(width, dtype=torch.float32, device="cpu")
        exponentials = self.scratch
        weights = exponentials.numpy()
        inside = np.empty((len(logits), min(self.stop, width) - self.first))
        total, margin = [], []
        # A broken model's logits may be infinite or NaN: so are these numbers then, without a warning to the program.
        with np.errstate(all="ignore"):
            for index, one in enumerate(logits):
                row = one.view(width) if one.dtype == torch.float32 else one.view(width).float()
                values = row.numpy()
                best = int(values.argmax())
                peak = float(values[best])
                inside[index] = values[self.first : self.stop]
                if -60.0 < peak < 60.0:
                    torch.exp(row, out=exponentials)
                else:
                    inside[index] -= peak
                    torch.sub(row, peak, out=exponentials).exp_()
                total.append(float(exponentials.sum()))
                weights[best] = 0.0
                second = int(weights.argmax())
                # Where all others are too small to be told from nothing, they are compared as they are.
                rest = values[second] if weights[second] > 0.0 else np.delete(values, best).max()
                margin.append(peak - float(rest))
            top = np.maximum(inside.max(1), -1e30)
            inside -= top[:, None]
            share = np.exp(inside)
            sums = share.sum(1)
            entropy = np.log(sums) - (share * inside).sum(1) / sums
            return (sums * np.exp(top) / total).tolist(), margin, entropy.tolist()

    def on_gpu(self, logits: Sequence[torch.Tensor]) -> torch.Tensor:
        """As `on_cpu`, float32 (3, tokens), on the GPU."""
        import torch

        with torch.inference_mode():
            rows = torch.cat([one[0] for one in logits]).float()
            inside = rows[:, self.first : self.stop]
            within = torch.log_softmax(inside, 1)
            mass = (torch.logsumexp(inside, 1) - torch.logsumexp(rows, 1)).exp()
            top = rows.topk(2, 1).values
            return torch.stack([mass, top[:, 0] - top[:, 1], -(within.exp() * within).sum(1)])


class _ModelImages:
    """What the model was given as an image, and its statistics by channel."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], recorder: Recorder) -> None:
        self.recorder = recorder
        self.known = len(mean) >= 3 and len(std) >= 3
        self.mean, self.std = ([float(value) for value in values[:3]] for values in (mean, std))
        self.scale = np.asarray([255.0 * value for value in self.std], np.float32)
        # Half a level more, as making integers of floats cuts off.
        self.shift = np.asarray([255.0 * value + 0.5 for value in self.mean], np.float32)
        self.on_device: dict[torch.device, torch.Tensor] = {}

    def take(self, asked: _Asked, pixels: torch.Tensor) -> None:
        """Take `pixel_values`, float (channels, H, W); the image is made of the first three."""
        import torch

        height, width = int(pixels.shape[1]), int(pixels.shape[2])
        factor = -(-max(height, width) // self.recorder.thumbnail)
        image = self.known and pixels.shape[0] >= 3
        small = image and not (height % factor or width % factor)
        # Where whole pixels do not make up its blocks, the thumbnail is made of the full image.
        full = image and (self.recorder.full_due or not small)
        taken: dict[str, np.ndarray] = {}

        def finish() -> None:
            low, high = taken["low"].tolist(), taken["high"].tolist()
            asked.query.pixel_stats = {"mean": taken["mean"].tolist(), "min": low, "max": high}
            if image:
                thumbnail = taken["small"] if small else area_average(taken["full"], self.recorder.thumbnail)
                asked.query.image = self.picture(thumbnail, (height, width), taken.get("full"), low, high)

        if pixels.is_cuda:
            with torch.inference_mode():
                values = pixels.float()
                mean, low, high = values.mean((1, 2)), values.amin((1, 2)), values.amax((1, 2))
                found = {"mean": mean, "low": low, "high": high}
                if small:
                    found["small"] = self.bytes_on_gpu(torch.nn.functional.avg_pool2d(values[:3], factor))
                if full:
                    found["full"] = self.bytes_on_gpu(values[:3])
                for name, one in found.items():
                    asked.fetch(one, lambda landed, name=name: taken.update({name: landed.numpy()}))  # type: ignore[misc]
            asked.then(finish)
            return
        array = (pixels if pixels.dtype == torch.float32 else pixels.float()).numpy()
        flat = array.reshape(len(array), -1)
        taken["low"], taken["high"] = flat.min(1), flat.max(1)
        taken["mean"] = np.add.reduce(np.add.reduce(array, axis=1), axis=1) / (height * width)
        if small:
            taken["small"] = self.to_bytes(_pool(array[:3], factor))
        if full:
            taken["full"] = self.to_bytes(array[:3])
        finish()

    def picture(
        self,
        small: np.ndarray,
        shape: tuple[int, int],
        full: np.ndarray | None,
        low: Sequence[float],
        high: Sequence[float],
    ) -> Picture:
        def levels(values: Sequence[float]) -> list[float]:
            return [255.0 * (value * std + mean) for value, mean, std in zip(values, self.mean, self.std, strict=False)]

        return picture(
            small,
            shape,
            load_full=None if full is None else lambda: full,
            minimum=max(0.0, min(255.0, round(min(levels(low)), 3))),
            maximum=max(0.0, min(255.0, round(max(levels(high)), 3))),
        )

    def to_bytes(self, pixels: np.ndarray) -> np.ndarray:
        """Undo the first tower's normalisation: float32 (3, h, w) to uint8 (h, w, 3)."""
        levels = pixels * self.scale[:, None, None]
        levels += self.shift[:, None, None]
        with np.errstate(invalid="ignore"):
            np.maximum(levels, 0.0, out=levels)
            np.minimum(levels, 255.0, out=levels)
            return np.ascontiguousarray(levels.astype(np.uint8).transpose(1, 2, 0))

    def bytes_on_gpu(self, pixels: torch.Tensor) -> torch.Tensor:
        """As `to_bytes`, on the GPU."""
        import torch

        constants = self.on_device.get(pixels.device)
        if constants is None:
            # Filled on the GPU: copying them there from ordinary memory would wait for it.
            constants = self.on_device[pixels.device] = torch.empty(2, 3, device=pixels.device)
            for row, values in enumerate((self.scale, self.shift)):
                for channel, value in enumerate(values.tolist()):
                    constants[row, channel].fill_(value)
        levels = pixels.permute(1, 2, 0) * constants[0] + constants[1]
        return levels.clamp(0.0, 255.0).to(torch.uint8).contiguous()


class _Asked:
    """One query, and what is still to be done for it: from a GPU, once an event has passed."""

    def __init__(self) -> None:
        self.query = Query()
        self.logits: list[torch.Tensor] = []
        self.vision_calls = 0
        self.vision_seconds = 0.0
        self._steps: list[Callable[[], None]] = []
        self._kept: list[torch.Tensor] = []
        self._events: list[torch.cuda.Event] = []

    def fetch(self, values: torch.Tensor, use: Callable[[torch.Tensor], None]) -> None:
        """Have `use` called with the values in the CPU's memory."""
        import torch

        if not values.is_cuda:
            use(values)
            return
        landing = torch.empty(values.shape, dtype=values.dtype, device="cpu", pin_memory=True)
        landing.copy_(values, non_blocking=True)
        self._kept.append(values)
        self.then(lambda: use(landing))

    def then(self, use: Callable[[], None]) -> None:
        """Have `use` called, after what was asked for before."""
        self._steps.append(use)

    def seal(self) -> None:
        """Nothing more will be asked for."""
        import torch

        for device in {values.device for values in self._kept}:
            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(device))
            self._events.append(event)

    def complete(self) -> bool:
        """Fill in the query, if everything is there."""
        if not all(event.query() for event in self._events):
            return False
        for use in self._steps:
            use()
        self._steps, self._kept, self.logits = [], [], []
        return True


def _decoder(model: Any) -> Callable[[Sequence[int]], tuple[float, ...]] | None:
    """Ids to what the model's own bin centres make of them, in [-1, 1]; ids outside count as the nearest end.

    Source: openvla/openvla@c8f03f4, modeling_prismatic.py:518-524.
    """
    centers, size = getattr(model, "bin_centers", None), getattr(model, "vocab_size", None)
    if not isinstance(centers, np.ndarray) or centers.ndim != 1 or not isinstance(size, (int, np.integer)):
        return None
    values, last, top = centers.tolist(), len(centers) - 1, int(size) - 1
    return lambda ids: tuple(values[min(max(top - token, 0), last)] for token in ids)


def _pool(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Mean of every block of factor x factor: float32 (3, H, W) to (3, H / factor, W / factor)."""
    rows = pixels[:, ::factor].copy()
    for index in range(1, factor):
        rows += pixels[:, index::factor]
    total = rows[:, :, ::factor].copy()
    for index in range(1, factor):
        total += rows[:, :, index::factor]
    total *= np.float32(1.0 / (factor * factor))
    return total


def _parameters(function: Callable[..., Any]) -> list[str]:
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return []


def _shape(values: Any) -> str:
    shape = getattr(values, "shape", None)
    return type(values).__name__ if shape is None else f"of shape {tuple(shape)}"
