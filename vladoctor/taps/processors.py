"""What was given to tokenizers, image processors and the processors that hold both, to be found again by content.

Nothing says which text the ids belong to that a model is given: there may be queues, batches and helper functions in
between. So the last texts are kept with the ids that were made of them, and with every size of image the normalisation
that it went through.
"""

from __future__ import annotations

import inspect
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

from vladoctor.taps.measure import Normalisation
from vladoctor.taps.recorder import describe

if TYPE_CHECKING:
    from vladoctor.taps.watch import Watch

_TEXTS = 64
"""So many texts are kept."""

_LONGEST = 8192
"""Texts of more ids are no prompts."""

_ADDED = 4
"""So many ids a program may put around those of a text: BOS, or OpenVLA's 29871. Not a measurement."""

_TEXT = ("text", "texts", "prompt", "prompts", "instruction")
"""Names under which processors take text."""

Ids = tuple[int, ...]


class Given:
    """What processors were given in one recording."""

    def __init__(self) -> None:
        self._texts: deque[tuple[tuple[Ids, ...], str]] = deque(maxlen=_TEXTS)
        self._normalisations: dict[tuple[int, ...], Normalisation] = {}

    def tokenised(self, texts: Sequence[str], encoded: Any) -> None:
        """Texts have become ids: a mapping with `input_ids`, or the ids alone."""
        for text, row in zip(texts, _rows(encoded, len(texts)), strict=False):
            self._texts.append((row, text))

    def text_of(self, ids: Ids) -> str | None:
        """The latest text that these ids were made of, or the longest that they hold but for a few at the ends."""
        best, length = None, 0
        for rows, text in reversed(self._texts):
            for row in rows:
                if row == ids:
                    return text
                if length < len(row) < len(ids) <= len(row) + _ADDED and _within(row, ids):
                    best, length = text, len(row)
        return best

    def normalised(self, shape: tuple[int, ...], normalisation: Normalisation | None) -> None:
        """An image processor has made pixel values of this shape: channels, height, width."""
        self._normalisations.pop(shape, None)
        if normalisation is not None:
            self._normalisations[shape] = normalisation

    def normalisation(self, channels: int, height: int, width: int) -> tuple[Normalisation, int] | None:
        """How pixel values of a size were normalised, and the channels of one image: several may lie in a row."""
        for (made, *size), known in reversed(self._normalisations.items()):
            if size == [height, width] and channels % made == 0:
                return known, made
        return None


def given_to(watch: Watch) -> Given:
    """What is known of processors in a recording."""
    found = _given.get(watch)
    if found is None:
        found = _given[watch] = Given()
    return found


def processed(watch: Watch, kind: str, original: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Call a method of a processor for the program, and remember what it made of what.

    Args:
        kind: "text" of processors and tokenizers, of which the outermost counts; "image" of image processors.
        args: begin with the processor itself.
    """
    if getattr(_inside, kind, False):
        return original(*args, **kwargs)
    outermost = not (getattr(_inside, "text", False) or getattr(_inside, "image", False))
    texts: list[str] = []
    if kind == "text":
        with watch.tap:
            texts = texts_of(original, args, kwargs)
            if texts:
                watch.prompted(texts[0])
    setattr(_inside, kind, True)
    began = perf_counter()
    try:
        result = original(*args, **kwargs)
    except BaseException as error:
        if outermost:
            with watch.tap:
                watch.called("processor", raised=describe(error))
        raise
    finally:
        setattr(_inside, kind, False)
    elapsed = perf_counter() - began
    if watch.active:
        with watch.tap:
            given = given_to(watch)
            if kind == "image":
                shape = _shape(result)
                if shape is not None:
                    given.normalised(shape, normalisation_of(args[0], kwargs))
            elif texts:
                given.tokenised(texts, result)
            if outermost:
                watch.took("process", elapsed)
    return result


def texts_of(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[str]:
    """The prompts among a processor's arguments: the first string, or list of strings, that is no option."""
    named = {**dict(zip(parameters(function), args, strict=False)), **kwargs}
    for value in (*map(named.get, _TEXT), *args[1:]):
        if isinstance(value, str):
            return [value]
        if isinstance(value, (list, tuple)) and value and all(isinstance(one, str) for one in value):
            return list(value)
    return []


def normalisation_of(processor: Any, arguments: Mapping[str, Any] | None = None) -> Normalisation | None:
    """What an image processor does to pixels; None where it does not say.

    Args:
        arguments: of the call, which go before the processor's own settings.
    """

    def setting(name: str, default: Any = None) -> Any:
        value = (arguments or {}).get(name)
        return getattr(processor, name, default) if value is None else value

    parts = bool(setting("do_image_splitting", False))
    # OpenVLA's has a mean a tower. Source: openvla/openvla@c8f03f4, prismatic/extern/hf/processing_prismatic.py:69-76.
    mean, std = setting("means"), setting("stds")
    if mean and std:
        mean, std = ([value for tower in towers for value in tower] for towers in (mean, std))
    else:
        mean, std = setting("image_mean"), setting("image_std")
        mean, std = (value if isinstance(value, (list, tuple)) else [value] * 3 for value in (mean, std))
        if not setting("do_normalize", True):
            mean, std = [0.0] * 3, [1.0] * 3
        factor = setting("rescale_factor", 1 / 255) if setting("do_rescale", True) else 1.0
        if None in mean or None in std or len(mean) < 3 or len(std) < 3 or not isinstance(factor, (int, float)):
            return None
        # Pixels are multiplied by the factor, and not divided by 255.
        mean, std = ([float(value) / (255.0 * factor) for value in values] for values in (mean, std))
    return Normalisation([float(value) for value in mean], [float(value) for value in std], parts)


def _rows(encoded: Any, count: int) -> Iterator[tuple[Ids, ...]]:
    """The ids of every text, with and without padding; nothing where they are not in the CPU's memory."""
    mapping = isinstance(encoded, Mapping) or hasattr(encoded, "keys")
    ids = encoded.get("input_ids") if mapping else encoded
    mask = encoded.get("attention_mask") if mapping else None
    values, kept = _lists(ids), _lists(mask)
    if values and not isinstance(values[0], list):
        values, kept = [values], [kept]
    if not values or len(values) != count:
        return
    for row, shown in zip(values, kept if kept and len(kept) == count else [None] * count, strict=True):
        if len(row) > _LONGEST or not all(isinstance(one, int) for one in row):
            yield ()
            continue
        whole = tuple(row)
        without = tuple(one for one, seen in zip(row, shown, strict=False) if seen) if shown else whole
        yield (whole,) if without == whole else (without, whole)


def _lists(values: Any) -> list[Any]:
    if values is None or getattr(values, "is_cuda", False):
        return []
    if hasattr(values, "tolist"):
        values = values.tolist()
    if not isinstance(values, (list, tuple)):
        return []
    return [one.tolist() if hasattr(one, "tolist") and not getattr(one, "is_cuda", False) else one for one in values]


def _within(part: Ids, whole: Ids) -> bool:
    return any(whole[start : start + len(part)] == part for start in range(len(whole) - len(part) + 1))


def _shape(result: Any) -> tuple[int, ...] | None:
    """Channels, height and width of the pixel values that an image processor has made."""
    pixels = result.get("pixel_values") if hasattr(result, "get") else None
    while isinstance(pixels, (list, tuple)) and pixels:
        pixels = pixels[0]
    shape = tuple(getattr(pixels, "shape", ()))
    return tuple(int(side) for side in shape[-3:]) if len(shape) >= 3 else None


def parameters(function: Callable[..., Any]) -> Sequence[str]:
    """Names of a function's parameters, `self` included; empty where they cannot be known."""
    found = _names.get(function)
    if found is None:
        try:
            found = tuple(inspect.signature(function).parameters)
        except (TypeError, ValueError):
            found = ()
        _names[function] = found
    return found


_given: weakref.WeakKeyDictionary[Any, Given] = weakref.WeakKeyDictionary()
_names: weakref.WeakKeyDictionary[Callable[..., Any], Sequence[str]] = weakref.WeakKeyDictionary()
_inside = threading.local()
