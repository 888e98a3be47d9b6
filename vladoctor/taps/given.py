"""Makes queries of what a policy was given and answered as plain data: dicts of arrays, JSON, or given by hand.

Policies in another process are given no `pixel_values` that a tap could see, but an observation: pictures, state
vectors, an instruction, under names that everybody chooses. `sort` finds them by what they are. Arrays are copied at
once, as the program may write to them; encoded pictures, which it cannot, are decoded when the query is written.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from vladoctor.records import Frame, Query
from vladoctor.taps.environments import on_gpu, pictures
from vladoctor.taps.recorder import describe, numbers
from vladoctor.trace import capture

if TYPE_CHECKING:
    from vladoctor.taps.watch import Watch

Load = Callable[[], "np.ndarray | None"]
"""Decodes a picture, of any kind that `as_picture` takes."""

INSTRUCTIONS = ("instruction", "prompt", "task_description", "language", "task", "text")
"""Names under which instructions are sent, the surest first; a part of the key is enough."""

ACTIONS = ("actions", "action", "action_chunk", "predicted_actions", "result")
"""Names under which actions are answered."""

_LARGEST_VECTOR = 64
_LONGEST_TEXT = 500
_DEEPEST = 4
_MOST_FRAMES = 8
_PICTURE_TEXTS = ("data:image/", "iVBORw0KGgo", "/9j/")
"""Starts of a data URI, and of PNG and JPEG in base64."""

_PICTURE_BYTES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
_DECODER = json.JSONDecoder()
"""Not `json.loads`, which json_numpy replaces."""


@dataclass
class Sorted:
    """What was given, by kind; the keys are the paths in it ("observation/image").

    Attributes:
        pictures: uint8 (H, W, 3), which may still be the program's own, or how to decode one.
        vectors: short arrays of numbers.
        texts: strings.
        others: single numbers, truth values.
        forms: how the arrays were given, "float32 (3, 224, 224)".
    """

    pictures: dict[str, np.ndarray | Load] = field(default_factory=dict)
    vectors: dict[str, tuple[float, ...]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    others: dict[str, Any] = field(default_factory=dict)
    forms: dict[str, str] = field(default_factory=dict)

    def instruction(self) -> tuple[str, str] | None:
        """(key, text) of the instruction, or None."""
        for name in INSTRUCTIONS:
            for key, text in self.texts.items():
                if name in key.lower():
                    return key, text
        return None


def sort(payload: Any) -> Sorted:
    """Find pictures, state vectors and texts in nested dicts of arrays, lists, strings and JSON in strings.

    What is none of these is left out. Nothing is changed, and nothing fetched from a GPU.
    """
    found = Sorted()
    _sort(found, "", payload, 0)
    return found


def as_picture(array: np.ndarray) -> np.ndarray | None:
    """An array as uint8 (H, W, 3), rows as they come, or None where it is no picture.

    Args:
        array: (H, W, 3 or 4), (3, H, W), and for uint8 also (H, W); of uint8, of other integers or floats in 0..255, of
            floats in 0..1 or in -1..1 (with values below 0).
    """
    if array.dtype != np.uint8:
        levels = _levels(array) if array.ndim == 3 and 3 in (array.shape[0], array.shape[2]) else None
        if levels is None:
            return None
        array = levels
    return next(iter(pictures(array).values()), None)


def rows(answer: Any, names: Sequence[str] = ACTIONS) -> tuple[tuple[float, ...], ...]:
    """The actions in an answer, (rows, action_dim), of a single action one row; empty where there are none.

    Args:
        answer: an array, nested lists, json_numpy's dicts, JSON in a string, or a dict that has one of these under one
            of `names`.
    """
    if isinstance(answer, str):
        answer = parse(answer)
    if isinstance(answer, Mapping) and "__numpy__" not in answer:
        return next((found for name in names if name in answer and (found := rows(answer[name], ()))), ())
    array = _array(answer)
    if array is None or array.dtype.kind not in "fiu" or not array.size:
        return ()
    while array.ndim > 2 and len(array) == 1:
        array = array[0]
    if array.ndim not in (1, 2) or not 1 < array.shape[-1] <= _LARGEST_VECTOR:
        return ()
    return tuple(numbers(row) for row in array.reshape(-1, array.shape[-1]))


def parse(text: str | bytes) -> Any:
    """What a text means as JSON, or None where it is none."""
    try:
        if isinstance(text, bytes):
            text = text.decode(json.detect_encoding(text))
        return _DECODER.decode(text)
    except (ValueError, RecursionError):
        return None


class Question:
    """A query of a policy in another process: taken before it is asked, told to the watch when it was answered.

    Attributes:
        query: as far as it is known.
    """

    def __init__(self, watch: Watch, boundary: str, found: Sorted, **options: Any) -> None:
        self.watch = watch
        self.query = Query(boundary=boundary, proprio=found.vectors)
        texts = {name: text[:_LONGEST_TEXT] for name, text in found.texts.items()}
        self.query.options = {**texts, **found.others, **options}
        if found.forms:
            self.query.options["given"] = found.forms
        self._order = list(found.pictures)
        self._frames: dict[str, Frame] = {}
        self._later: dict[str, Load] = {}
        self._keep = watch.full_due
        for slot, picture in found.pictures.items():
            if callable(picture):
                self._later[slot] = picture
            else:
                self._frames[slot] = capture(picture, watch.thumbnail, keep=self._keep, later=True)
        self._place()

    def answered(self, actions: Sequence[Sequence[float]], **options: Any) -> None:
        """Tell the watch; `actions` are empty where there was no answer."""
        self.answer(actions, **options)
        self.watch.asked(self.query, complete=self.complete if self._later else None)

    def answer(self, actions: Sequence[Sequence[float]], **options: Any) -> None:
        """Take an answer without telling the watch yet."""
        if actions:
            self.query.action = tuple(actions[0])
            self.query.chunk = tuple(map(tuple, actions)) if len(actions) > 1 else ()
        self.query.options = {**self.query.options, **options}

    def complete(self) -> bool:
        """Decode what was given encoded; where that fails, the query has no such picture."""
        for slot, load in self._later.items():
            try:
                picture = load()
                if picture is not None and (picture := as_picture(picture)) is not None:
                    self._frames[slot] = capture(np.ascontiguousarray(picture), self.watch.thumbnail, keep=self._keep)
            except Exception as error:  # noqa: BLE001 - whatever is wrong with a picture, the query is recorded
                self.watch.note(f"the picture {slot} could not be decoded: {describe(error)}")
        self._later.clear()
        self._place()
        return True

    def _place(self) -> None:
        """The first picture that is no wrist camera's counts as the query's image, a plain "image" before others."""
        slots = sorted((slot for slot in self._order if slot in self._frames), key=_rank)
        self.query.image = self._frames[slots[0]] if slots else None
        self.query.more_images = {slot: self._frames[slot] for slot in slots[1:]}
        given = self.query.options.get("given")
        if slots and given:
            # By this order the name of the image's own slot is known.
            order = [*slots, *(name for name in given if name not in slots)]
            self.query.options = {**self.query.options, "given": {name: given[name] for name in order if name in given}}


def given(
    watch: Watch,
    *,
    prompt: str | Sequence[str] | None = None,
    image: Any = None,
    images: Mapping[str, Any] | Sequence[Any] | None = None,
    state: Any = None,
    token_ids: Any = None,
    action: Any = None,
    chunk: Any = None,
    options: Mapping[str, Any] | None = None,
    input_ids: Any = None,
    boundary: str = "given",
) -> None:
    """Record queries that no tap can see, from data: of an engine that returns token ids, say.

    What cannot be read is left out, and noted. A batch is given as lists: every other value is then either a list (or
    an array with one dimension more) by row, or the same for all.

    Args:
        prompt: text that the policy was given.
        image: as `as_picture` takes it, a PIL image, or an encoded one.
        images: slot -> further images, or a list of them.
        state: numbers, or name -> numbers.
        token_ids: generated ids, flat; a list of lists is a batch.
        action: (action_dim,), as it was returned.
        chunk: (rows, action_dim).
        options: whatever else is known of the call.
        input_ids: ids of the prompt.
    """
    nested = _nested(token_ids)
    size = len(token_ids) if nested else len(prompt) if isinstance(prompt, (list, tuple)) else 1
    batch = nested or isinstance(prompt, (list, tuple))
    more = dict(images) if isinstance(images, Mapping) else {f"image{n}": one for n, one in enumerate(images or (), 1)}
    states = state if isinstance(state, Mapping) else {} if state is None else {"state": state}
    questions = []
    for row in range(size):

        def of(value: Any, single: int, row: int = row) -> Any:
            return _of(value, row, size, single) if batch else value

        seen = {"image": image, **more} if image is not None else more
        found = sort({name: of(value, 3) for name, value in seen.items()})
        found.vectors = {name: values for name, one in states.items() if (values := _numbers(of(one, 1)))}
        question = Question(watch, boundary, found, **(options or {}))
        query = question.query
        text = of(prompt, 0)
        query.prompt = text if isinstance(text, str) else None
        query.ids = _ids(of(token_ids, 1))
        query.input_ids = _ids(of(input_ids, 1))
        question.answer(rows(of(chunk, 2), ()))
        if action is not None:
            query.action = _numbers(of(action, 1)) or query.action
        questions.append(question)
        if seen and query.image is None and not found.pictures:
            watch.note(f"{boundary}: no picture among what was given as one")
    completes = [question.complete for question in questions]
    # Each is completed by any of them: they are written one after the other.
    watch.asked_all([question.query for question in questions], complete=lambda: all(one() for one in completes))


def _sort(found: Sorted, path: str, value: Any, depth: int) -> None:
    if isinstance(value, Mapping):
        if "__numpy__" in value:
            _encoded_array(found, path, value)
        elif depth < _DEEPEST:
            for key, item in value.items():
                _sort(found, f"{path}/{key}" if path else str(key), item, depth + 1)
    elif isinstance(value, str):
        _text(found, path, value, depth)
    elif isinstance(value, (bytes, bytearray)):
        data = bytes(value)
        if data.startswith(_PICTURE_BYTES):
            found.pictures[path or "image"] = lambda: _open(data)
    elif isinstance(value, (bool, np.bool_, int, float)) or value is None:
        if value is not None:
            found.others[path] = value
    elif isinstance(value, (list, tuple)):
        _list(found, path, value, depth)
    else:
        array = _array(value)
        if array is not None:
            _sort_array(found, path, array)


def _sort_array(found: Sorted, path: str, array: np.ndarray) -> None:
    found.forms[path or "image"] = f"{array.dtype} {tuple(map(int, array.shape))}"
    while array.ndim > 3 and len(array) == 1:
        array = array[0]
    if array.dtype.kind not in "fiu":
        return
    if array.ndim == 4 and len(array) <= _MOST_FRAMES:
        # A history of frames, the latest last.
        for index in reversed(range(len(array))):
            _take(found, f"{path or 'image'}/{index}", array[index])
    elif 0 < array.size <= _LARGEST_VECTOR:
        found.vectors[path or "state"] = numbers(array)
    else:
        _take(found, path or "image", array)


def _take(found: Sorted, path: str, array: np.ndarray) -> None:
    picture = as_picture(array)
    if picture is not None:
        found.pictures[path] = np.ascontiguousarray(picture)


def _encoded_array(found: Sorted, path: str, value: Mapping[str, Any]) -> None:
    """An array as json_numpy writes it; a large one is decoded later."""
    try:
        shape, kind = tuple(int(side) for side in value["shape"]), np.dtype(value["dtype"])
    except (KeyError, TypeError, ValueError):
        return
    if np.prod(shape, dtype=np.int64) <= _LARGEST_VECTOR:
        array = _array(value)
        if array is not None:
            _sort_array(found, path, array)
        return
    found.forms[path or "image"] = f"{kind} {shape}"
    encoded = dict(value)
    if 2 <= len(shape) - shape[:-3].count(1) <= 3:
        found.pictures[path or "image"] = lambda: _squeezed(_array(encoded))


def _text(found: Sorted, path: str, text: str, depth: int) -> None:
    if text.startswith(_PICTURE_TEXTS) and len(text) > 64:
        body = text.partition(",")[2] if text.startswith("data:") else text
        found.pictures[path or "image"] = lambda: _open(base64.b64decode(body))
    elif text.startswith("{") and depth < _DEEPEST and isinstance(value := parse(text), Mapping):
        # JSON in JSON, as OpenVLA's deployment takes it under "encoded": its keys are the payload's.
        for key, item in value.items():
            _sort(found, str(key), item, depth + 1)
    else:
        found.texts[path or "text"] = text


def _list(found: Sorted, path: str, values: Sequence[Any], depth: int) -> None:
    if len(values) == 1 and isinstance(values[0], str):
        _sort(found, path, values[0], depth)
        return
    inner: Any = values
    levels = 0
    while isinstance(inner, (list, tuple)) and inner:
        inner, levels = inner[0], levels + 1
    if levels >= 3 and isinstance(inner, (int, float)):
        # Nobody writes to a hundred thousand numbers in a list, and making an array of them takes milliseconds.
        found.pictures[path or "image"] = lambda: _squeezed(_array(values))
    elif isinstance(inner, (int, float, np.number)):
        array = _array(values)
        if array is not None:
            _sort_array(found, path, array)
    elif isinstance(inner, np.ndarray) or type(inner).__module__.startswith("PIL."):
        for index, value in enumerate(values[:_MOST_FRAMES]):
            _sort(found, f"{path or 'image'}/{index}", value, depth + 1)


def _array(value: Any) -> np.ndarray | None:
    """A value as an array, or None where it is none, or lies on a GPU."""
    if isinstance(value, Mapping):
        try:
            data = base64.b64decode(value["__numpy__"])
            flat = np.frombuffer(data, np.dtype(value["dtype"]))
            return flat.reshape([int(side) for side in value["shape"]])
        except (KeyError, TypeError, ValueError, binascii.Error):
            return None
    if isinstance(value, (str, bytes)) or value is None or on_gpu(value):
        return None
    if type(value).__module__.startswith("PIL."):
        value = value.convert("RGB")
    elif callable(getattr(value, "detach", None)):
        value = value.detach()
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):
        return None
    return array if array.dtype.kind in "fiub" else None


def _squeezed(array: np.ndarray | None) -> np.ndarray | None:
    while array is not None and array.ndim > 3 and len(array) == 1:
        array = array[0]
    return array


def _levels(array: np.ndarray) -> np.ndarray | None:
    """Integers or floats as uint8, by the range that they are in; None where that is no known one."""
    low, high = float(array.min()), float(array.max())
    if array.dtype.kind in "iu":
        return array.astype(np.uint8) if low >= 0 and high <= 255 else None
    if not (np.isfinite(low) and np.isfinite(high)) or low < -1.001 or high > 255.5:
        return None
    if high <= 1.001:
        array = (array + 1.0) * 127.5 if low < 0 else array * 255.0
    elif low < 0:
        return None
    return np.asarray(np.clip(np.rint(array), 0, 255).astype(np.uint8))


def _open(data: bytes) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB"))


def _rank(slot: str) -> tuple[bool, bool, bool]:
    name = slot.lower().rpartition("/")[2]
    return any(word in slot.lower() for word in ("wrist", "hand", "gripper")), name != "image", slot != "image"


def _nested(values: Any) -> bool:
    if isinstance(values, np.ndarray):
        return values.ndim == 2
    return isinstance(values, (list, tuple)) and bool(values) and isinstance(values[0], (list, tuple, np.ndarray))


def _of(value: Any, row: int, size: int, single: int) -> Any:
    """One row's share of what was given for a batch."""
    dimensions = getattr(value, "ndim", None)
    if isinstance(value, (list, tuple)) and len(value) == size and (single != 1 or not _is_number(value[0])):
        return value[row]
    return value[row] if dimensions is not None and dimensions > single and len(value) == size else value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number))


def _numbers(value: Any) -> tuple[float, ...]:
    array = _array(value)
    return () if array is None else numbers(array)


def _ids(value: Any) -> tuple[int, ...]:
    array = _array(value)
    return () if array is None else tuple(int(one) for one in array.ravel())
