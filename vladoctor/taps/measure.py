"""Takes what a model was given and what it answered, on the CPU at once, on a GPU without ever waiting for it.

Of every generated token three numbers are kept, from the logits that the output head returned for it: the probability
mass on the action ids, the log-probability by which the best id leads, and the entropy within the action ids. Where it
is not known which ids are actions, only the second.

All of it is computed by the worker (`vladoctor.taps.worker`), from copies; on a CPU row by row through memory that is
kept, because fresh arrays of that size cost more than the arithmetic. On a GPU the copies are queued with the query's
own kernels. Once an event says that they are there, if need be a step later, the worker computes on a stream of its own
and copies the results to pinned memory. No call here synchronises.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from vladoctor.records import Query
from vladoctor.taps.budget import PICTURES
from vladoctor.trace import Picture, area_average, picture

if TYPE_CHECKING:
    import torch

    from vladoctor.taps.recorder import Recorder
    from vladoctor.taps.watch import Watch


class TokenStatistics:
    """Mass on the action ids, margin and entropy of generated tokens, from one row of logits each.

    Args:
        first, last: action ids; None where they are not known.
    """

    def __init__(self, first: int | None, last: int | None) -> None:
        self.first, self.stop = first, None if last is None else last + 1
        self.scratch: torch.Tensor | None = None

    def take(self, logits: Sequence[torch.Tensor], queries: Sequence[Query], asked: Asked) -> None:
        """Take the statistics of a batch.

        Args:
            logits: one a token, (rows, 1, vocabulary); ours to write to.
            queries: one a row.
        """
        if self.first is not None and any(one.shape[2] <= self.first for one in logits):
            return
        if logits[0].is_cuda:
            found = self.margins_on_gpu(logits) if self.first is None else self.on_gpu(logits)
            asked.fetch(found, lambda landed: self.store(queries, landed.transpose(1, 2).tolist()))
            return
        for row, query in enumerate(queries):
            own = [one[row : row + 1] for one in logits]
            self.store(
                [query], [[found] for found in ([self.margins(own)] if self.first is None else self.on_cpu(own))]
            )

    def store(self, queries: Sequence[Query], found: Sequence[Sequence[Sequence[float]]]) -> None:
        """Args: found: mass, margin and entropy, or the margin alone, of every row's every token."""
        names, digits = ("action_mass", "margin", "entropy"), (9, 6, 6)
        if len(found) == 1:
            names, digits = names[1:2], digits[1:2]  # type: ignore[assignment]
        for name, places, rows in zip(names, digits, found, strict=True):
            for query, values in zip(queries, rows, strict=True):
                setattr(query, name, (*getattr(query, name), *(round(value, places) for value in values)))

    def margins(self, logits: Sequence[torch.Tensor]) -> list[float]:
        """Log-probability by which the best id leads, of (1, 1, vocabulary) each; they are written to."""
        found = []
        with np.errstate(all="ignore"):
            for one in logits:
                values = one.view(-1).float().numpy()
                best = int(values.argmax())
                peak, values[best] = float(values[best]), -np.inf
                found.append(peak - float(values.max()))
        return found

    def on_cpu(self, logits: Sequence[torch.Tensor]) -> tuple[list[float], list[float], list[float]]:
        import torch

        assert self.first is not None
        assert self.stop is not None
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
        """As `on_cpu`, float32 (3, tokens, rows), on the GPU."""
        import torch

        with torch.inference_mode():
            rows = torch.cat([one.transpose(0, 1) for one in logits]).float()
            inside = rows[..., self.first : self.stop]
            within = torch.log_softmax(inside, -1)
            mass = (torch.logsumexp(inside, -1) - torch.logsumexp(rows, -1)).exp()
            top = rows.topk(2, -1).values
            return torch.stack([mass, top[..., 0] - top[..., 1], -(within.exp() * within).sum(-1)])

    def margins_on_gpu(self, logits: Sequence[torch.Tensor]) -> torch.Tensor:
        """As `margins`, float32 (1, tokens, rows), on the GPU."""
        import torch

        with torch.inference_mode():
            top = torch.cat([one.transpose(0, 1) for one in logits]).float().topk(2, -1).values
            return (top[..., 0] - top[..., 1])[None]


@dataclass(eq=False)
class Normalisation:
    """How pixels became `pixel_values`: (levels / 255 - mean) / std.

    Attributes:
        mean, std: one a channel, all towers in a row: 3 numbers, or 6 for a fused tower.
        whole_last: of several images, the last is the whole one and the others are parts of it.
    """

    mean: Sequence[float]
    std: Sequence[float]
    whole_last: bool = False
    on_device: dict[torch.device, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.scale = np.asarray([255.0 * value for value in self.std[:3]], np.float32)
        # Half a level more, as making integers of floats cuts off.
        self.shift = np.asarray([255.0 * value + 0.5 for value in self.mean[:3]], np.float32)

    def constants(self, device: torch.device) -> torch.Tensor:
        """Scale and shift, float32 (2, 3)."""
        import torch

        constants = self.on_device.get(device)
        if constants is None:
            # Filled on the GPU: copying them there from ordinary memory would wait for it.
            constants = self.on_device[device] = torch.empty(2, 3, device=device)
            for row, values in enumerate((self.scale, self.shift)):
                for channel, value in enumerate(values.tolist()):
                    constants[row, channel].fill_(value)
        return constants


class ModelImages:
    """What the model was given as an image, and its statistics by channel."""

    def __init__(self, recorder: Recorder | Watch) -> None:
        self.recorder = recorder

    def take(self, asked: Asked, query: Query, pixels: torch.Tensor, known: Normalisation | None, slot: str) -> None:
        """Take one image of `pixel_values`, float (channels, H, W); the picture is made of the first three.

        Without a normalisation its values are stretched to 0..255, and `options["image_scale"]` says "relative": such a
        picture shows shapes, but not how bright they are. Of a single value nothing can be stretched, and it is grey.

        Args:
            slot: name of a further image; "" for the first.
        """
        import torch

        if not self.recorder.budget.keeps(PICTURES):
            return
        height, width = int(pixels.shape[1]), int(pixels.shape[2])
        factor = -(-max(height, width) // self.recorder.thumbnail)
        image = pixels.shape[0] >= 3
        small = image and not (height % factor or width % factor)
        # Where whole pixels do not make up its blocks, the thumbnail is made of the full image.
        full = image and (self.recorder.full_due or not small)
        taken: dict[str, np.ndarray] = {}
        if image and known is None:
            query.options = {**query.options, "image_scale": "relative"}

        def finish() -> None:
            low, high = taken["low"].tolist(), taken["high"].tolist()
            if not slot:
                query.pixel_stats = {"mean": taken["mean"].tolist(), "min": low, "max": high}
            if not image:
                return
            thumbnail = taken["small"] if small else area_average(taken["full"], self.recorder.thumbnail)
            made = _picture(thumbnail, (height, width), taken.get("full"), low, high, known)
            if slot:
                query.more_images = {**query.more_images, slot: made}
            else:
                query.image = made

        # A copy, since the program may use its memory again; what it takes to measure it can wait.
        copy = pixels.detach().clone()

        def measure() -> None:
            array = copy.float().numpy()
            flat = array.reshape(len(array), -1)
            taken["low"], taken["high"] = flat.min(1), flat.max(1)
            taken["mean"] = np.add.reduce(np.add.reduce(array, axis=1), axis=1) / (height * width)
            if image:
                factors = (known.scale, known.shift) if known is not None else _stretch(taken["low"], taken["high"])
                if small:
                    taken["small"] = _to_bytes(_pool(array[:3], factor), *factors)
                if full:
                    taken["full"] = _to_bytes(array[:3], *factors)
            finish()

        def measure_on_gpu() -> None:
            with torch.inference_mode():
                values = copy.float()
                found = {"mean": values.mean((1, 2)), "low": values.amin((1, 2)), "high": values.amax((1, 2))}
                if image:
                    if known is not None:
                        scale, shift = known.constants(copy.device)
                    else:
                        bottom, top = found["low"][:3].min(), found["high"][:3].max()
                        scale = 255.0 / (top - bottom)
                        shift = 0.5 - bottom * scale
                    if small:
                        pooled = torch.nn.functional.avg_pool2d(values[:3], factor)
                        found["small"] = _bytes_on_gpu(pooled, scale, shift)
                    if full:
                        found["full"] = _bytes_on_gpu(values[:3], scale, shift)
            for name, one in found.items():
                asked.fetch(one, lambda landed, name=name: taken.update({name: landed.numpy()}))  # type: ignore[misc]
            asked.then(finish)

        asked.keep(copy)
        asked.then(measure_on_gpu if copy.is_cuda else measure)


def _picture(
    small: np.ndarray,
    shape: tuple[int, int],
    full: np.ndarray | None,
    low: Sequence[float],
    high: Sequence[float],
    known: Normalisation | None,
) -> Picture:
    if known is None:
        if not max(high[:3]) > min(low[:3]):
            small, full = (None if one is None else np.full_like(one, 128) for one in (small, full))  # type: ignore[assignment]
        return picture(small, shape, load_full=None if full is None else lambda: full)
    mean, std = known.mean, known.std

    def levels(values: Sequence[float]) -> list[float]:
        triples = zip(values[:3], mean[:3], std[:3], strict=True)
        return [255.0 * (value * spread + middle) for value, middle, spread in triples]

    return picture(
        small,
        shape,
        load_full=None if full is None else lambda: full,
        minimum=max(0.0, min(255.0, round(min(levels(low)), 3))),
        maximum=max(0.0, min(255.0, round(max(levels(high)), 3))),
    )


def _stretch(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scale and shift that bring values to 0..255, the same in all channels."""
    bottom, top = float(low[:3].min()), float(high[:3].max())
    scale = 255.0 / (top - bottom) if top > bottom else 0.0
    return np.full(3, scale, np.float32), np.full(3, 0.5 - bottom * scale, np.float32)


def _to_bytes(pixels: np.ndarray, scale: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Make levels of float32 (3, h, w): uint8 (h, w, 3)."""
    levels = pixels * scale[:, None, None]
    levels += shift[:, None, None]
    with np.errstate(invalid="ignore"):
        np.maximum(levels, 0.0, out=levels)
        np.minimum(levels, 255.0, out=levels)
        return np.ascontiguousarray(levels.astype(np.uint8).transpose(1, 2, 0))


def _bytes_on_gpu(pixels: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """As `_to_bytes`, on the GPU."""
    import torch

    levels = pixels.permute(1, 2, 0) * scale + shift
    return levels.clamp(0.0, 255.0).to(torch.uint8).contiguous()


class Asked:
    """One call of the policy, and what is still to be done for it: from a GPU, once an event has passed.

    The program's thread only copies and records an event on its own stream. What was asked for is done by whoever calls
    `complete`, the worker as a rule: once the copies are there, and on a stream beside the program's.

    Attributes:
        queries: one a row of the batch; empty until the number of rows is known.
    """

    def __init__(self) -> None:
        self.queries: list[Query] = []
        self._steps: list[Callable[[], None]] = []
        self._last: list[Callable[[], None]] = []
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

    def keep(self, values: torch.Tensor) -> None:
        """Have what is asked for wait until these values are there."""
        self._kept.append(values)

    def then(self, use: Callable[[], None]) -> None:
        """Have `use` called, after what was asked for before. It may fetch and ask for more."""
        self._steps.append(use)

    def at_last(self, use: Callable[[], None]) -> None:
        """Have `use` called when everything else has been done."""
        self._last.append(use)

    def seal(self) -> None:
        """Nothing more will be asked for, for now."""
        import torch

        for device in {values.device for values in self._kept if values.is_cuda}:
            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(device))
            self._events.append(event)

    def complete(self) -> bool:
        """Fill in the query, if everything is there."""
        while self._steps or self._events:
            if not all(event.query() for event in self._events):
                return False
            steps, self._steps = self._steps, []
            # Kept until here, so that their memory is not given to others while another stream reads it.
            kept, self._kept = self._kept, []
            self._events = []
            with _aside(next((values.device for values in kept if values.is_cuda), None)):
                for use in steps:
                    use()
                self.seal()
        last, self._last = self._last, []
        for use in last:
            use()
        return True


_streams: dict[torch.device, torch.cuda.Stream] = {}


def _aside(device: torch.device | None) -> AbstractContextManager[Any]:
    """Work on a stream of our own, so that nothing of ours is queued between the program's kernels."""
    import torch

    if device is None:
        return nullcontext()
    if device not in _streams:
        _streams[device] = torch.cuda.Stream(device)
    return torch.cuda.stream(_streams[device])


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
