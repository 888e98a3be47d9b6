"""Watches an OpenVLA-like policy at the libraries' own boundaries: processor, `predict_action`, `generate`, the head.

Of every generated token three numbers are kept, from the logits that the output head returned for it: the probability
mass on the action ids, the log-probability by which the best id leads, and the entropy within the action ids.

On a CPU they are computed once after the query, row by row into memory that is kept: fresh arrays of that size cost
more in page faults than the arithmetic does. On a GPU everything is computed there on the stream of the program and
copied to pinned memory without waiting. The program waits for its ids anyway, and the values are taken when
`env.step` has returned, if an event says that they are there, or else a step later: no call here synchronises.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from vladoctor.records import Query
from vladoctor.taps.recorder import Recorder, describe, numbers, undo_all, wrap
from vladoctor.trace import Picture, area_average, picture

if TYPE_CHECKING:
    import torch

ACTION_IDS = (31744, 31999)
"""First and last action id of OpenVLA. Source: openvla/openvla@c8f03f4, modeling_prismatic.py:504."""


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
        self.model = model
        self.recorder = recorder
        self.mean, self.std = _first_tower(pixel_mean), _first_tower(pixel_std)
        self.first, self.last = action_ids
        self.asked: _Asked | None = None
        self.began_vision = 0.0
        self.scratch: torch.Tensor | None = None
        self.constants: dict[torch.device, torch.Tensor] = {}

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
        with self.recorder.tap:
            logits = output.detach()
            if logits.dim() != 3 or logits.shape[0] != 1:
                asked.rows = None
            elif asked.rows is not None:
                row = logits[0, -1]
                # A prompt's logits would stay in memory as a whole; a compiled model writes into the same memory again.
                asked.rows.append(row.clone() if logits.shape[1] > 1 or logits.is_cuda else row)

    def begin(self, arguments: Mapping[str, Any]) -> None:
        """Look at what the model is given, before it is given to it."""
        import torch

        asked = self.asked = _Asked(self.recorder)
        query = asked.query
        input_ids = arguments.get("input_ids", arguments.get("inputs"))
        if isinstance(input_ids, torch.Tensor) and input_ids.dim() == 2:
            asked.fetch(input_ids[0], lambda ids: setattr(query, "input_ids", tuple(ids.tolist())))
        pixels = arguments.get("pixel_values")
        if isinstance(pixels, torch.Tensor) and pixels.dim() == 4:
            with torch.inference_mode():
                self.look(asked, pixels.detach()[0])
        elif pixels is not None:
            self.recorder.note(f"the model's image is not recorded: pixel_values is {_shape(pixels)}")
        query.options = {
            name: value
            for name, value in arguments.items()
            if not isinstance(value, torch.Tensor)
            and name not in ("input_ids", "inputs", "pixel_values", "attention_mask")
        }
        query.vision_calls = 0 if getattr(self.model, "vision_backbone", None) is not None else None

    def look(self, asked: _Asked, pixels: torch.Tensor) -> None:
        """Take a picture of `pixel_values`, float (channels, H, W), and their statistics by channel."""
        import torch

        query, longest = asked.query, self.recorder.writer.thumbnail
        shape = int(pixels.shape[1]), int(pixels.shape[2])
        factor = -(-max(shape) // longest)
        fits = self.mean is not None and self.std is not None and pixels.shape[0] >= 3
        small = fits and not (shape[0] % factor or shape[1] % factor)
        # Where blocks of whole pixels do not make up the image, its thumbnail is made of all of it.
        full = fits and (self.recorder.writer.full_due or not small)
        taken: dict[str, np.ndarray] = {}

        if pixels.is_cuda:
            values = pixels.float()
            asked.fetch(
                torch.stack([values.mean((1, 2)), values.amin((1, 2)), values.amax((1, 2))]),
                lambda found: taken.update(statistics=found.numpy()),
            )
            if small:
                pooled = torch.nn.functional.avg_pool2d(values[:3], factor)
                asked.fetch(self.bytes_on_gpu(pooled), lambda found: taken.update(small=found.numpy()))
            if full:
                asked.fetch(self.bytes_on_gpu(values[:3]), lambda found: taken.update(full=found.numpy()))
        else:
            array = (pixels if pixels.dtype == torch.float32 else pixels.float()).numpy()
            flat = array.reshape(len(array), -1)
            taken["statistics"] = np.stack([array.sum(1).mean(1) / shape[0], flat.min(1), flat.max(1)])
            if small:
                taken["small"] = self.to_bytes(_pool(array[:3], factor))
            if full:
                taken["full"] = self.to_bytes(array[:3])

        def finish() -> None:
            statistics = taken["statistics"].astype(np.float64)
            rounded = np.round(statistics, 6).tolist()
            query.pixel_stats = dict(zip(("mean", "min", "max"), rounded, strict=True))
            if not fits:
                return
            whole = taken.get("full")
            thumbnail = taken["small"] if small else area_average(taken["full"], longest)
            query.image = self.picture(thumbnail, shape, whole, statistics)

        asked.then(finish)

    def picture(
        self, small: np.ndarray, shape: tuple[int, int], full: np.ndarray | None, statistics: np.ndarray
    ) -> Picture:
        assert self.mean is not None
        assert self.std is not None
        with np.errstate(invalid="ignore"):
            ends = (statistics[1:, :3] * self.std + self.mean) * 255.0
        low, high = np.clip(np.rint(ends), 0.0, 255.0)
        return picture(
            small,
            shape,
            load_full=None if full is None else lambda: full,
            minimum=float(low.min()),
            maximum=float(high.max()),
        )

    def to_bytes(self, pixels: np.ndarray) -> np.ndarray:
        """Undo the first tower's normalisation: float (3, h, w) to uint8 (h, w, 3)."""
        assert self.mean is not None
        assert self.std is not None
        scale, shift = (255.0 * self.std)[:, None, None], (255.0 * self.mean + 0.5)[:, None, None]
        levels = pixels * scale.astype(np.float32) + shift.astype(np.float32)
        with np.errstate(invalid="ignore"):
            return np.ascontiguousarray(np.clip(levels, 0.0, 255.0).astype(np.uint8).transpose(1, 2, 0))

    def bytes_on_gpu(self, pixels: torch.Tensor) -> torch.Tensor:
        """As `to_bytes`, but on the GPU."""
        import torch

        assert self.mean is not None
        assert self.std is not None
        constants = self.constants.get(pixels.device)
        if constants is None:
            # Filled on the GPU: copying them there from ordinary memory would wait for it.
            constants = self.constants[pixels.device] = torch.empty(2, 3, 1, 1, device=pixels.device)
            for index, values in enumerate((255.0 * self.std, 255.0 * self.mean + 0.5)):
                for channel, value in enumerate(values.tolist()):
                    constants[index, channel].fill_(value)
        levels = (pixels * constants[0] + constants[1]).permute(1, 2, 0)
        return levels.clamp(0.0, 255.0).to(torch.uint8).contiguous()

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
        """Close the query: the action, the numbers of its tokens."""
        import torch

        asked, self.asked = self.asked, None
        if asked is None:
            return
        recorder, query = self.recorder, asked.query
        recorder.took("forward", elapsed)
        if query.vision_calls is not None:
            query.vision_calls = asked.vision_calls
        memory: dict[str, int] = {}
        rows = asked.rows
        if rows:
            with torch.inference_mode():
                if rows[0].is_cuda:
                    asked.fetch(self.token_statistics_on_gpu(rows), lambda found: _store(query, found.numpy()))
                else:
                    _store(query, self.token_statistics(rows))
        if rows and rows[0].is_cuda:
            allocated = torch.cuda.memory_stats_as_nested_dict(rows[0].device)["allocated_bytes"]["all"]["current"]
            memory["cuda"] = int(allocated)
        elif asked.vision_calls:
            recorder.took("vision", asked.vision_seconds)
        if isinstance(action, torch.Tensor):
            asked.fetch(action.detach().double().flatten(), lambda found: self.answer(query, found.numpy()))
        elif action is not None:
            values = np.asarray(action, dtype=np.float64).ravel()
            asked.then(lambda: self.answer(query, values))
        asked.seal()
        recorder.asked(query, complete=None if asked.complete() else asked.complete, memory=memory)

    def answer(self, query: Query, action: np.ndarray) -> None:
        query.action = tuple(action.tolist())
        query.normalised = normalised(self.model, query.ids[-len(action) :]) if len(query.ids) >= len(action) else None

    def token_statistics(self, rows: Sequence[torch.Tensor]) -> np.ndarray:
        """Mass on the action ids, margin and entropy, float64 (3, tokens), of one row of logits a token."""
        import torch

        width = rows[0].shape[-1]
        first, last = min(self.first, width - 1), min(self.last, width - 1)
        if self.scratch is None or len(self.scratch) != width:
            self.scratch = torch.empty(width, dtype=torch.float32, device="cpu")
        exponentials = self.scratch
        inside = np.empty((len(rows), last + 1 - first), np.float64)
        total, best, second = (np.empty(len(rows), np.float64) for _ in range(3))
        for index, row in enumerate(rows):
            logits = row if row.dtype == torch.float32 else row.float()
            values = logits.numpy()
            inside[index] = values[first : last + 1]
            where = int(values.argmax())
            best[index] = peak = values[where]
            second[index] = max(
                values[:where].max(initial=-np.inf),
                values[where + 1 :].max(initial=-np.inf),
            )
            torch.sub(logits, float(peak), out=exponentials)
            total[index] = exponentials.exp_().sum()
        # A broken model's logits may be infinite or NaN: so are these numbers then, without a warning to the program.
        with np.errstate(all="ignore"):
            shifted = inside - inside.max(1, keepdims=True)
            weights = np.exp(shifted)
            sums = weights.sum(1)
            mass = np.exp(inside - best[:, None]).sum(1) / total
            entropy = np.log(sums) - (weights * shifted).sum(1) / sums
            return np.stack([mass, best - second, entropy])

    def token_statistics_on_gpu(self, rows: Sequence[torch.Tensor]) -> torch.Tensor:
        """As `token_statistics`, float32 on the GPU."""
        import torch

        logits = torch.stack(list(rows)).float()
        inside = logits[:, self.first : self.last + 1]
        within = torch.log_softmax(inside, 1)
        mass = (torch.logsumexp(inside, 1) - torch.logsumexp(logits, 1)).exp()
        top = logits.topk(2, 1).values
        return torch.stack([mass, top[:, 0] - top[:, 1], -(within.exp() * within).sum(1)])


class _Asked:
    """One query, and what is still on its way to it: from a GPU everything, until an event has passed."""

    def __init__(self, recorder: Recorder) -> None:
        self.query = Query()
        self.rows: list[torch.Tensor] | None = []
        self.vision_calls = 0
        self.vision_seconds = 0.0
        self._steps: list[Callable[[], None]] = []
        self._devices: set[torch.device] = set()
        self._events: list[torch.cuda.Event] = []
        self._kept: list[torch.Tensor] = []

    def fetch(self, values: torch.Tensor, use: Callable[[torch.Tensor], None]) -> None:
        """Have `use` called with the values in the CPU's memory."""
        import torch

        if not values.is_cuda:
            use(values)
            return
        landing = torch.empty(values.shape, dtype=values.dtype, device="cpu", pin_memory=True)
        landing.copy_(values, non_blocking=True)
        self._devices.add(values.device)
        self._kept.append(values)
        self.then(lambda: use(landing))

    def then(self, use: Callable[[], None]) -> None:
        self._steps.append(use)

    def seal(self) -> None:
        """Nothing more will be asked for."""
        import torch

        for device in self._devices:
            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(device))
            self._events.append(event)

    def complete(self) -> bool:
        """Fill in the query if everything has arrived."""
        if not all(event.query() for event in self._events):
            return False
        for use in self._steps:
            use()
        self._steps.clear()
        self._kept.clear()
        self.rows = None
        return True


def normalised(model: Any, ids: Sequence[int]) -> tuple[float, ...] | None:
    """What the model's own bin centres give for action ids, in [-1, 1]; ids outside the range count as its nearest end.

    Source: openvla/openvla@c8f03f4, modeling_prismatic.py:518-524.
    """
    centers, size = getattr(model, "bin_centers", None), getattr(model, "vocab_size", None)
    if not isinstance(centers, np.ndarray) or not isinstance(size, (int, np.integer)):
        return None
    return tuple(centers[np.clip(int(size) - np.asarray(ids) - 1, 0, len(centers) - 1)].tolist())


def _store(query: Query, found: np.ndarray) -> None:
    mass, margin, entropy = found.astype(np.float64)
    query.action_mass = numbers(mass)
    query.margin = numbers(np.round(margin, 6))
    query.entropy = numbers(np.round(entropy, 6))


def _pool(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Mean of every block of factor x factor: float32 (3, H, W) to (3, H / factor, W / factor)."""
    rows = _sum(pixels[:, index::factor] for index in range(factor))
    return _sum(rows[:, :, index::factor] for index in range(factor)) / np.float32(factor * factor)


def _sum(parts: Iterator[np.ndarray]) -> np.ndarray:
    total = next(parts).copy()
    for part in parts:
        total += part
    return total


def _first_tower(values: Sequence[float]) -> np.ndarray | None:
    return np.asarray(values[:3], np.float64) if len(values) >= 3 else None


def _parameters(function: Callable[..., Any]) -> list[str]:
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return []


def _shape(values: Any) -> str:
    shape = getattr(values, "shape", None)
    return type(values).__name__ if shape is None else f"of shape {tuple(shape)}"
