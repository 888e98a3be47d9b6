"""Takes what a model was given and what it answered, on the CPU at once, on a GPU without ever waiting for it.

Of every generated token three numbers are kept, from the logits that the output head returned for it: the probability
mass on the action ids, the log-probability by which the best id leads, and the entropy within the action ids.

On a CPU they are computed when the query ends, row by row through memory that is kept, because fresh arrays of that
size cost more than the arithmetic; the image when it begins, while it is still in the cache. On a GPU the arithmetic is
queued with the query's own, on the stream of the program, and the results copied to pinned memory without waiting. The
program waits for its ids anyway; the values are taken once an event says that they are there, if need be a step later.
No call here synchronises.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from vladoctor.records import Query
from vladoctor.trace import Picture, area_average, picture

if TYPE_CHECKING:
    import torch

    from vladoctor.taps.recorder import Recorder


class TokenStatistics:
    """Mass on the action ids, margin and entropy of generated tokens, from one row of logits each."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.stop = first, last + 1
        self.scratch: torch.Tensor | None = None

    def take(self, asked: Asked) -> None:
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


class ModelImages:
    """What the model was given as an image, and its statistics by channel."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], recorder: Recorder) -> None:
        self.recorder = recorder
        self.known = len(mean) >= 3 and len(std) >= 3
        self.mean, self.std = ([float(value) for value in values[:3]] for values in (mean, std))
        self.scale = np.asarray([255.0 * value for value in self.std], np.float32)
        # Half a level more, as making integers of floats cuts off.
        self.shift = np.asarray([255.0 * value + 0.5 for value in self.mean], np.float32)
        self.on_device: dict[torch.device, torch.Tensor] = {}

    def take(self, asked: Asked, pixels: torch.Tensor) -> None:
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


class Asked:
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
