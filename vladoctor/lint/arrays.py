"""What arithmetic, indexing and numpy's functions do to pictures and to the worlds of numbers."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from vladoctor.facts.registration import compose
from vladoctor.lint.values import (
    UNKNOWN,
    WORLDS,
    Const,
    Counter,
    Image,
    List,
    Num,
    Slice,
    Text,
    Tup,
    Unknown,
    Value,
    numbers,
    plain,
    unknown,
)
from vladoctor.places import Hop

if TYPE_CHECKING:
    from vladoctor.lint.interpret import Interpreter

LARGEST = 20_000
"""Elements of an array that is computed with."""

LONGEST_WAY = 24

_BINARY: Mapping[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.MatMult: operator.matmul,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
}

_UNARY: Mapping[type, Callable[[Any], Any]] = {
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Invert: operator.invert,
}


def value_of(samples: Sequence[Any], like: Num | None = None, **changes: Any) -> Value:
    """Samples as a value: a constant where they are all one Python number."""
    first = samples[0]
    if like is None and isinstance(first, bool | int | float) and all(one is first for one in samples):
        return Const(first)
    if any(np.size(one) > LARGEST for one in samples):
        return unknown("a large array")
    base = like or Num(tuple(samples))
    return replace(base, samples=tuple(samples), **changes)


def worlds(interp: Interpreter, value: Value, depth: int = 0) -> tuple[Any, ...] | None:
    """The worlds of a number, an array, or nested lists of such; None where it is none."""
    found = numbers(value)
    if found is not None or depth > 4:
        return found
    content = interp.content(value)
    items = value.items if isinstance(value, Tup) else content.items if isinstance(content, List) else None
    if items is None or len(items) > 512:
        return None
    parts = [worlds(interp, item, depth + 1) for item in items]
    if any(part is None for part in parts):
        return None
    whole = tuple([part[w] for part in parts if part is not None] for w in range(WORLDS))
    if not any(isinstance(item, Num) for item in items) and depth == 0:
        whole = (whole[0],) * WORLDS
    return whole


def made_of(interp: Interpreter, *values: Value, depth: int = 0) -> Num | None:
    """The number among values that says where they come from."""
    best: Num | None = None
    for value in values:
        content = interp.content(value)
        inner = value.items if isinstance(value, Tup) else content.items if isinstance(content, List) else None
        found = (
            value
            if isinstance(value, Num)
            else made_of(interp, *inner, depth=depth + 1)
            if inner and depth < 4
            else None
        )
        if found is not None and (best is None or _rank(found) > _rank(best)):
            best = found
    return best


def _rank(value: Num) -> tuple[int, int]:
    return ("", "statistics", "state", "token", "action").index(value.origin), len(value.trail)


def apply(
    interp: Interpreter, do: Callable[..., Any], values: Sequence[Value], node: ast.AST, label: str = "", **kwargs: Any
) -> Value:
    """Do something to numbers, world by world; not known where they are none or it fails."""
    found = [worlds(interp, value) for value in values]
    if any(one is None for one in found):
        return unknown("not numbers", *values)
    like = made_of(interp, *values)
    same_everywhere = like is None or all(all(one is part[0] for one in part) for part in found if part is not None)
    count = 1 if same_everywhere else WORLDS
    results = []
    try:
        with np.errstate(all="ignore"):
            for world in range(count):
                results.append(do(*(part[world] for part in found if part is not None), **kwargs))
    except Exception:  # noqa: BLE001 - the program's own numbers; what fails here would fail there
        return unknown("an operation that fails", *values)
    if any(isinstance(one, complex) or one is NotImplemented for one in results):
        return UNKNOWN
    samples = tuple(results) if count == WORLDS else (results[0],) * WORLDS
    if like is None:
        if isinstance(samples[0], np.generic):
            return Const(samples[0].item())
        return value_of(samples)
    stats = like.stats
    if like.origin in ("action", "token") and stats is None and _mixes_statistics(interp, values):
        stats = interp.place(node)
    return Num(
        samples,
        like.origin,
        _longer(interp, like, label, node),
        stats,
        like.rows,
        like.native,
        like.place,
        samples if like.origin == "token" and _is_vector(samples[0]) else like.whole,
    )


def _is_vector(sample: Any) -> bool:
    return np.ndim(sample) == 1 and len(sample) >= 7


def _mixes_statistics(interp: Interpreter, values: Sequence[Value]) -> bool:
    return any(isinstance(value, Num) and value.origin == "statistics" for value in values)


def _longer(interp: Interpreter, like: Num, label: str, node: ast.AST) -> tuple[Hop, ...]:
    if like.origin not in ("action", "token") or label == "-" or len(like.trail) >= LONGEST_WAY:
        return like.trail
    text = label or interp.source.segment(node)
    return (*like.trail, interp.hop(text if len(text) <= 60 else f"{text[:57]}...", node))


def binary(interp: Interpreter, op: ast.operator, left: Value, right: Value, node: ast.AST) -> Value:
    """An arithmetic operation on numbers, arrays and pictures."""
    for one, other in ((left, right), (right, left)):
        if isinstance(one, Image):
            return _image_arithmetic(one, op, other)
        if isinstance(one, Counter):
            amount = plain(other)
            if isinstance(amount, int | float) and isinstance(op, ast.Add | ast.Sub) and one is left:
                return Counter(one.start + (amount if isinstance(op, ast.Add) else -amount), one.bound)
            return unknown("a counter", left, right)
    do = _BINARY.get(type(op))
    if do is None or _explodes(op, left, right):
        return unknown("an operation", left, right)
    if isinstance(left, Const) and isinstance(right, Const):
        try:
            found = do(left.value, right.value)
        except Exception:  # noqa: BLE001 - the program's own values
            return UNKNOWN
        if isinstance(found, str | bytes | list | tuple) and len(found) > LARGEST:
            return UNKNOWN
        return Const(found, left.at or right.at, left.origin)
    if isinstance(op, ast.Add | ast.Mult):
        sequence = _sequence_arithmetic(interp, op, left, right)
        if sequence is not None:
            return sequence
    return apply(interp, lambda a, b: do(_array(a), _array(b)), (left, right), node)


def _array(value: Any) -> Any:
    return np.asarray(value) if isinstance(value, list | tuple) else value


def _explodes(op: ast.operator, left: Value, right: Value) -> bool:
    if isinstance(op, ast.Pow | ast.LShift):
        first, second = plain(left), plain(right)
        return isinstance(second, int | float) and (abs(second) > 64 or (isinstance(first, int) and abs(first) > 10**6))
    if isinstance(op, ast.Mult):
        for one, other in ((left, right), (right, left)):
            text, times = plain(one), plain(other)
            if isinstance(text, str | bytes | tuple) and isinstance(times, int):
                return len(text) * times > LARGEST
            if isinstance(text, int) and isinstance(times, int):
                return text.bit_length() + times.bit_length() > 4096
    return False


def _sequence_arithmetic(interp: Interpreter, op: ast.operator, left: Value, right: Value) -> Value | None:
    def items(value: Value) -> tuple[Value, ...] | None:
        content = interp.content(value)
        return value.items if isinstance(value, Tup) else content.items if isinstance(content, List) else None

    def is_list(value: Value) -> bool:
        return isinstance(value, Tup) or isinstance(interp.content(value), List)

    if isinstance(op, ast.Add) and is_list(left) and is_list(right):
        first, second = items(left), items(right)
        if first is None or second is None:
            return interp.new(List(None, None))
        both = (*first, *second)
        return Tup(both) if isinstance(left, Tup) else interp.new(List(both))
    if isinstance(op, ast.Mult):
        for one, other in ((left, right), (right, left)):
            times = plain(other)
            if is_list(one) and isinstance(times, int):
                found = items(one)
                if found is None or len(found) * times > 4096:
                    return interp.new(List(None, None))
                return Tup(found * times) if isinstance(one, Tup) else interp.new(List(found * times))
    return None


def unary(interp: Interpreter, op: ast.unaryop, value: Value, node: ast.AST) -> Value:
    """A unary operation on numbers."""
    do = _UNARY.get(type(op))
    if do is None:
        return UNKNOWN
    if isinstance(value, Const):
        try:
            return Const(do(value.value), value.at, value.origin)
        except Exception:  # noqa: BLE001 - the program's own values
            return UNKNOWN
    return apply(interp, lambda a: do(_array(a)), (value,), node)


def comparison(do: Callable[[Any, Any], Any], left: Value, right: Value) -> Value:
    """A comparison, world by world."""
    first, second = numbers(left), numbers(right)
    if first is None or second is None:
        return unknown("a comparison", left, right)
    try:
        with np.errstate(all="ignore"):
            samples = tuple(do(a, b) for a, b in zip(first, second, strict=True))
    except Exception:  # noqa: BLE001 - the program's own numbers
        return UNKNOWN
    like = left if isinstance(left, Num) else right
    assert isinstance(like, Num)
    return replace(like, samples=samples)


def truth(value: Num) -> bool | tuple[bool, ...] | None:
    """Whether a number holds as a condition."""
    try:
        found = tuple(bool(np.all(one)) if np.size(one) == 1 else None for one in value.samples)
    except Exception:  # noqa: BLE001 - the program's own numbers
        return None
    if any(one is None for one in found):
        return None
    kept = tuple(bool(one) for one in found)
    return kept[0] if len(set(kept)) == 1 else kept


def rows(value: Num) -> tuple[Value, ...] | None:
    """What iterating over an array gives."""
    if any(np.ndim(one) == 0 for one in value.samples):
        return None
    lengths = {len(one) for one in value.samples}
    if len(lengths) != 1:
        return None
    (length,) = lengths
    if length > 64:
        return None
    return tuple(_part(value, tuple(one[i] for one in value.samples)) for i in range(length))


def _part(value: Num, samples: tuple[Any, ...], chunk: tuple[int | None, int | None] | None = None) -> Value:
    if value.uniform:
        samples = (samples[0],) * WORLDS
    return replace(value, samples=samples, rows=chunk if chunk is not None else value.rows)


def native_index(interp: Interpreter, index: Value) -> Any:
    """An index as numpy takes it, or "?" where it is not known; worlds are not looked at."""
    if isinstance(index, Tup):
        found = tuple(native_index(interp, item) for item in index.items)
        return "?" if any(isinstance(one, str) for one in found) else found
    if isinstance(index, Slice):
        parts = [None if part is None else plain(part) for part in (index.low, index.high, index.step)]
        for part, given in zip(parts, (index.low, index.high, index.step), strict=True):
            if given is not None and not isinstance(part, int) and plain(given) is not None:
                return "?"
            if given is not None and part is None and not (isinstance(given, Const) and given.value is None):
                return "?"
        return slice(*parts)
    if isinstance(index, Const):
        return index.value if index.value is None or index.value is Ellipsis or isinstance(index.value, int) else "?"
    array = worlds(interp, index)
    if array is not None and all(one is array[0] for one in array):
        return np.asarray(array[0]) if isinstance(array[0], list) else array[0]
    return "?"


def item(interp: Interpreter, value: Num, index: Value, node: ast.AST) -> Value:
    """`value[index]` of an array."""
    if isinstance(index, Num) and not index.uniform:
        like = index if _rank(index) >= _rank(value) else value
        found = apply(interp, lambda array, at: np.asarray(array)[np.asarray(at)], (value, index), node)
        return replace(found, origin=like.origin, native=like.native) if isinstance(found, Num) else found
    at = native_index(interp, index)
    if isinstance(at, str):
        if isinstance(index, Counter | Unknown) and value.rows is not None and np.ndim(value.samples[0]) == 2:
            return _part(value, tuple(one[0] for one in value.samples), (value.rows[0], None))
        return unknown("an index", value, index)
    chunk = None
    try:
        if value.uniform:
            one = np.asarray(value.samples[0])[at]
            samples: tuple[Any, ...] = (one,) * WORLDS
        else:
            samples = tuple(np.asarray(one)[at] for one in value.samples)
    except Exception:  # noqa: BLE001 - an index that does not fit
        return unknown("an index that does not fit", value)
    if value.rows is not None and np.ndim(value.samples[0]) == 2:
        if np.ndim(samples[0]) == 2:
            chunk = (value.rows[0], len(samples[0]) if len(samples[0]) != len(value.samples[0]) else value.rows[1])
        elif isinstance(at, int):
            chunk = (value.rows[0], 1)
    if not value.origin and isinstance(samples[0], np.generic):
        return Const(samples[0].item())
    return _part(value, samples, chunk)


def put(interp: Interpreter, owner: Value, index: Value, value: Value, node: ast.AST) -> Value | None:
    """An array after `owner[index] = value`; None where it cannot be told."""
    if not isinstance(owner, Num):
        return owner if isinstance(owner, Image) else None
    at = native_index(interp, index)
    written = worlds(interp, value)
    if written is None or (isinstance(at, str) and not isinstance(index, Num)):
        return unknown("written into", owner, value)
    try:
        samples = []
        for world in range(WORLDS):
            array = np.array(owner.samples[world], dtype=np.float64)
            place = np.asarray(index.samples[world]) if isinstance(at, str) and isinstance(index, Num) else at
            array[place] = np.asarray(written[world], dtype=np.float64)
            samples.append(array)
    except Exception:  # noqa: BLE001 - what does not fit
        return unknown("written into", owner, value)
    like = made_of(interp, owner, value) or owner
    label = interp.source.segment(node)
    return replace(
        owner,
        samples=tuple(samples),
        origin=like.origin,
        native=owner.native or like.native,
        rows=owner.rows or like.rows,
        trail=(*max(owner.trail, like.trail, key=len), interp.hop(label, node))[:LONGEST_WAY],
        stats=owner.stats or like.stats,
    )


# -- pictures ------------------------------------------------------------------------------------------------------


def _image_arithmetic(image: Image, op: ast.operator, other: Value) -> Value:
    amount = plain(other)
    if isinstance(op, ast.Div) and amount in (255, 255.0, 256, 256.0):
        return replace(image, scaled=True)
    if isinstance(op, ast.Mult) and amount in (255, 255.0, 1 / 255.0):
        return replace(image, scaled=amount == 1 / 255.0)
    if isinstance(op, ast.Mult) and amount in (1, 1.0):
        return image
    if isinstance(other, Image):
        return _blended(image, other)
    if isinstance(op, ast.Mult) and amount is None:
        return replace(image, scaled=True)  # weights, element by element
    return replace(image, scaled=True, way=replace(image.way, normalised=True))


def _blended(one: Image, other: Image) -> Value:
    """Two pictures of one frame, mixed: the same picture, of which only the part that it shows may be another."""
    same_frame = (one.way.camera, one.way.element, one.way.channels) == (
        other.way.camera,
        other.way.element,
        other.way.channels,
    )
    if not same_frame or not one.trail or not other.trail or one.trail[0] != other.trail[0]:
        return unknown("two pictures", one, other)
    area = one.way.crop_area if one.way.crop_area == other.way.crop_area else None
    longer = one if len(one.trail) >= len(other.trail) else other
    return replace(longer, way=replace(longer.way, crop_area=area))


def turned(image: Image, element: str, hop: Hop) -> Image:
    """A picture after an element of the dihedral group was done to it."""
    if element == "identity" or image.way.element is None:
        return image
    size = (
        image.size[::-1] if image.size and element in ("rot90", "rot270", "transpose", "anti-transpose") else image.size
    )
    way = replace(image.way, element=compose(image.way.element, element), turns=(*image.way.turns, hop))
    return replace(image, way=way, trail=(*image.trail, hop), size=size)


def swapped(image: Image, hop: Hop) -> Image:
    """A picture after its channels were put in the opposite order."""
    order = {"RGB": "BGR", "BGR": "RGB"}.get(image.way.channels or "")
    way = replace(image.way, channels=order, swaps=(*image.way.swaps, hop))
    return replace(image, way=way, trail=(*image.trail, hop))


def cropped(image: Image, share: float | None, hop: Hop, size: tuple[int, int] | None = None) -> Image:
    """A picture after a crop to a share of its area, None where that is not known."""
    area = image.way.crop_area * share if share is not None and image.way.crop_area is not None else None
    way = replace(image.way, crop_area=area, crops=(*image.way.crops, hop))
    return replace(image, way=way, trail=(*image.trail, hop), size=size)


def flipped(image: Image, axes: Sequence[int], hop: Hop) -> Value:
    """A picture after some of its axes were reversed."""
    result = image
    names = []
    for axis in axes:
        if not -len(image.axes) <= axis < len(image.axes):
            return unknown("an axis that the picture has not", image)
        names.append(image.axes[axis])
    rows, columns = names.count("H") % 2 == 1, names.count("W") % 2 == 1
    element = {(True, True): "rot180", (True, False): "flip-vertical", (False, True): "flip-horizontal"}
    result = turned(result, element.get((rows, columns), "identity"), hop)
    return swapped(result, hop) if names.count("C") % 2 == 1 else result


def permuted(image: Image, order: Sequence[int], hop: Hop) -> Value:
    """A picture after its axes were put in another order."""
    count = len(image.axes)
    if len(order) != count or sorted(axis % count for axis in order) != list(range(count)):
        return unknown("axes that the picture has not", image)
    axes = "".join(image.axes[axis] for axis in order)
    if axes.index("W") > axes.index("H"):
        return replace(image, axes=axes)
    exchanged = axes.replace("W", "?").replace("H", "W").replace("?", "H")
    return replace(turned(image, "transpose", hop), axes=exchanged)


def image_item(interp: Interpreter, image: Image, index: Value, node: ast.AST) -> Value:
    """`image[index]`: flips, crops, swapped channels, axes taken off and added."""
    parts = list(index.items) if isinstance(index, Tup) else [index]
    ellipsis = [i for i, part in enumerate(parts) if isinstance(part, Const) and part.value is Ellipsis]
    consuming = sum(1 for part in parts if not (isinstance(part, Const) and part.value in (None, Ellipsis)))
    if ellipsis:
        fill = [Slice()] * max(len(image.axes) - consuming, 0)
        parts[ellipsis[0] : ellipsis[0] + 1] = fill
    axes, axis, reverse = "", 0, []
    shares: list[float | None] = []
    size: list[int | None] = list(image.size) if image.size else [None, None]
    hop = interp.hop(f"[{interp.source.segment(node.slice)}]" if isinstance(node, ast.Subscript) else "[...]", node)
    if isinstance(node, ast.Subscript):
        # Of `value[...]` the brackets: what an edit would replace.
        place, behind = interp.place(node), interp.place(node.value)
        hop = replace(hop, place=replace(place, line=behind.end_line, column=behind.end_column))
    swap = False
    for part in parts:
        if isinstance(part, Const) and part.value is None:
            axes += "N"
            continue
        if axis >= len(image.axes):
            return unknown("an axis that the picture has not", image)
        letter = image.axes[axis]
        axis += 1
        if isinstance(part, Slice):
            axes += letter
            step = plain(part.step) if part.step is not None else None
            if step == -1 and part.low is None and part.high is None:
                reverse.append(axis - 1)
            elif (part.step is not None and step not in (1, None)) or (
                part.step is not None and step is None and not isinstance(part.step, Const)
            ):
                return unknown("a stride", image)
            elif (part.low is not None or part.high is not None) and letter in "HW":
                at = "HW".index(letter)
                share, length = _kept(part, size[at])
                size[at] = length
                shares.append(share)
        elif letter == "C":
            order = native_index(interp, part)
            listed = list(order) if isinstance(order, np.ndarray | tuple | list) else None
            if listed == [2, 1, 0]:
                swap = True
            elif listed != [0, 1, 2]:
                return unknown("one channel", image)
            axes += letter
        elif letter == "N":
            continue
        else:
            return unknown("a row or column", image)
    axes += image.axes[axis:]
    result: Value = flipped(image, reverse, hop) if reverse else image
    if swap and isinstance(result, Image):
        result = swapped(result, hop)
    if shares and isinstance(result, Image):
        share = None if any(one is None for one in shares) else math.prod(one for one in shares if one is not None)
        known_size = (size[0], size[1]) if size[0] is not None and size[1] is not None else None
        result = cropped(result, share, hop, known_size)
    return replace(result, axes=axes) if isinstance(result, Image) else result


def _kept(part: Slice, length: int | None) -> tuple[float | None, int | None]:
    """The share of an axis that a slice keeps, and its length after it."""
    low, high = plain(part.low) if part.low is not None else 0, plain(part.high) if part.high is not None else None
    if part.low is not None and not isinstance(low, int):
        return None, None
    if part.high is not None and not isinstance(high, int):
        return None, None
    if length is None:
        if low >= 0 and isinstance(high, int) and high > low:
            return None, high - low
        return None, None
    start, stop, _ = slice(low, high).indices(length)
    kept = max(stop - start, 0)
    return kept / length if length else None, kept


def text_length(value: Text) -> None:
    """A text with holes has no known length."""
    return


_NUMPY_SAME = frozenset(
    {"float32", "float64", "float16", "int32", "int64", "uint8", "asarray", "array", "ascontiguousarray", "asanyarray"}
)
