"""What numpy, torch, TensorFlow, OpenCV, Pillow, torchvision and einops do to pictures and numbers.

A function that is not here gives something that is not known.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from vladoctor.lint import arrays
from vladoctor.lint.facts import ImageWay, Resize
from vladoctor.lint.values import (
    WORLDS,
    Alt,
    Const,
    Ext,
    Image,
    List,
    Num,
    Text,
    Thing,
    Tup,
    Unknown,
    Value,
    alternatives,
    plain,
    unknown,
)

if TYPE_CHECKING:
    from vladoctor.lint.interpret import Interpreter

Args = tuple[Value, ...]
Kwargs = Mapping[str, Value]
Handler = Callable[["Interpreter", Args, Kwargs, ast.AST], Value]

LIBRARIES = ("numpy", "torch", "tensorflow", "cv2", "PIL", "torchvision", "einops", "scipy", "jax", "imageio", "math")


def find(name: str) -> Handler | None:
    """The function of that name; None where it is not known here."""
    top, _, rest = name.partition(".")
    if top not in LIBRARIES and top not in ("openpi_client", "image_tools"):
        return None
    last = rest.rpartition(".")[2] or rest
    if top == "tensorflow" and rest.startswith(("image.", "io.")):
        return _TF_IMAGE.get(last)
    if top == "cv2":
        return _CV2.get(last)
    if top == "PIL":
        return _PIL.get(rest.replace("Image.Image.", "Image."))
    if top == "torchvision":
        return _TORCHVISION.get(last)
    if top == "einops":
        return _EINOPS.get(last)
    if top == "openpi_client":
        return _OPENPI.get(last)
    if top in ("numpy", "torch", "tensorflow", "jax", "math"):
        if ".random." in f".{rest}":
            return None
        return _ARRAYS.get(last)
    return None


def argument(args: Args, kwargs: Kwargs, position: int, *names: str) -> Value | None:
    """An argument by its position or one of its names."""
    if position < len(args):
        return args[position]
    return next((kwargs[name] for name in names if name in kwargs), None)


def images_in(interp: Interpreter, value: Value | None, depth: int = 0) -> list[Image]:
    """Pictures in a value, in order."""
    if isinstance(value, Image):
        return [value]
    if value is None or depth > 4:
        return []
    content = interp.content(value)
    inner = value.items if isinstance(value, Tup) else content.items if isinstance(content, List) else None
    if inner is None and isinstance(content, List) and content.element is not None:
        inner = (content.element,)
    return [found for one in inner or () for found in images_in(interp, one, depth + 1)]


def integers(interp: Interpreter, value: Value | None) -> list[int] | None:
    """A whole number or a sequence of them; None where it is not known."""
    if value is None:
        return None
    found = arrays.worlds(interp, value)
    if found is None:
        return None
    try:
        return [int(one) for one in np.atleast_1d(np.asarray(found[0])).tolist()]
    except (TypeError, ValueError):
        return None


def pair(interp: Interpreter, value: Value | None) -> tuple[int, int] | None:
    """Two whole numbers; one stands for both."""
    found = integers(interp, value)
    if not found or len(found) > 2:
        return None
    return (found[0], found[-1])


def constant_name(value: Value | None) -> str:
    """The last part of a library's constant: "INTER_AREA"; of a text the text itself; "" where it is neither."""
    if isinstance(value, Ext):
        return value.name.rpartition(".")[2]
    if isinstance(value, Const) and isinstance(value.value, str):
        return value.value
    return ""


def method_of(value: Value | None) -> str:
    """The filter of a resize, as profiles name it."""
    name = constant_name(value).lower()
    for word, filter_name in _FILTERS:
        if word in name:
            return filter_name
    return ""


_FILTERS = (
    ("lanczos3", "lanczos3"),
    ("lanczos", "lanczos3"),
    ("bicubic", "bicubic"),
    ("cubic", "bicubic"),
    ("bilinear", "bilinear"),
    ("linear", "bilinear"),
    ("area", "area"),
    ("nearest", "nearest"),
)


def resized(
    interp: Interpreter,
    image: Image,
    size: tuple[int, int] | None,
    node: ast.AST,
    filter_name: str = "",
    pad: str = "none",
) -> Image:
    """A picture after a resize to (height, width)."""
    height, width = size if size is not None else (None, None)
    way = replace(image.way, resizes=(*image.way.resizes, Resize(height, width, filter_name, pad, interp.place(node))))
    label = f"resize {height}x{width}" if size is not None else "resize"
    return replace(image, way=way, size=size, trail=(*image.trail, interp.hop(label, node)))


def boxed(interp: Interpreter, image: Image, box: Sequence[float], node: ast.AST) -> Image:
    """A picture after a crop to (top, left, bottom, right) as shares of the frame."""
    top, left, bottom, right = box
    share = max(bottom - top, 0.0) * max(right - left, 0.0)
    centred = abs((top + bottom) / 2 - 0.5) < 0.03 and abs((left + right) / 2 - 0.5) < 0.03
    hop = interp.hop(f"crop to {share:.0%}", node)
    size = image.size
    if size is not None:
        size = (round(size[0] * (bottom - top)), round(size[1] * (right - left)))
    return arrays.cropped(image, share if centred else None, hop, size)


# -- functions of arrays -------------------------------------------------------------------------------------------


def _each_image(do: Callable[[Interpreter, Image, Args, Kwargs, ast.AST], Value]) -> Handler:
    """A function of a picture: alternatives one by one, anything else is not known."""

    def run(interp: Interpreter, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
        first = (
            args[0]
            if args
            else next((kwargs[k] for k in ("image", "img", "src", "a", "m", "input", "images") if k in kwargs), None)
        )
        rest = args[1:]
        if first is None:
            return Unknown("no argument")

        def one(value: Value) -> Value:
            if isinstance(value, Image):
                return do(interp, value, rest, kwargs, node)
            return unknown("no picture", value)

        return interp.lift(one, first)

    return run


def _image_or(do_image: Callable[[Interpreter, Image, Args, Kwargs, ast.AST], Value], do_array: Handler) -> Handler:
    """A function of a picture or of numbers."""

    def run(interp: Interpreter, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
        if not args:
            return do_array(interp, args, kwargs, node)
        first, rest = args[0], args[1:]

        def one(value: Value) -> Value:
            if isinstance(value, Image):
                return do_image(interp, value, rest, kwargs, node)
            return do_array(interp, (value, *rest), kwargs, node)

        return interp.lift(one, first)

    return run


def _keep(interp: Interpreter, image: Image, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return image


def _pass(interp: Interpreter, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """What only changes the container or the type of numbers."""
    if not args:
        return Unknown("no argument")
    first = args[0]
    if isinstance(first, Num | Thing | Unknown | Text | Alt):
        return first
    pictures = images_in(interp, first)
    if pictures:
        return _stacked(pictures)
    content = interp.content(first)
    if isinstance(content, List) and content.items is None:
        element = content.element
        return (
            element
            if isinstance(element, Num | Thing)
            else unknown("an array", *(() if element is None else (element,)))
        )
    things = [one for one in (content.items if isinstance(content, List) else ()) or () if isinstance(one, Thing)]
    if things:
        return things[0]
    return arrays.apply(interp, lambda a: np.asarray(a), (first,), node, "-")


def _stacked(pictures: Sequence[Image]) -> Value:
    first = pictures[0]
    if len(pictures) == 1:
        return replace(first, axes=f"N{first.axes}")
    return Thing("pixels", info={"images": tuple(pictures)})


def _flip(interp: Interpreter, image: Image, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    where = argument(args, kwargs, 0, "axis", "dims")
    axes = list(range(len(image.axes))) if where is None or plain_none(where) else integers(interp, where)
    if axes is None:
        return replace(image, way=replace(image.way, element=None))
    return arrays.flipped(image, axes, interp.hop(interp.source.segment(node)[:40], node))


def plain_none(value: Value) -> bool:
    """Whether a value is None."""
    return isinstance(value, Const) and value.value is None


def _flip_axis(axis: int) -> Callable[..., Value]:
    def run(interp: Interpreter, image: Image, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
        return arrays.flipped(image, (axis,), interp.hop(("flipud", "fliplr")[axis], node))

    return run


def _rot90(interp: Interpreter, image: Image, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    turns = argument(args, kwargs, 0, "k")
    times = 1 if turns is None else plain(turns)
    axes = integers(interp, argument(args, kwargs, 1, "axes", "dims")) or [0, 1]
    if not isinstance(times, int) or len(axes) != 2:
        return replace(image, way=replace(image.way, element=None))
    letters = [image.axes[axis] for axis in axes if -len(image.axes) <= axis < len(image.axes)]
    if sorted(letters) != ["H", "W"]:
        return unknown("a rotation of other axes", image)
    quarter = times % 4 if letters == ["H", "W"] else -times % 4
    element = ("identity", "rot90", "rot180", "rot270")[quarter]
    return arrays.turned(image, element, interp.hop(f"rot90 x{quarter}", node))


def _transpose(interp: Interpreter, image: Image, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    given = argument(args, kwargs, 0, "axes", "dims", "perm")
    if isinstance(given, Const) and isinstance(given.value, int) and len(args) > 1:
        order = [plain(one) for one in args]
    elif given is None:
        order = list(reversed(range(len(image.axes))))
    else:
        order = integers(interp, given) or []
    if not all(isinstance(one, int) for one in order):
        return replace(image, way=replace(image.way, element=None))
    return arrays.permuted(image, order, interp.hop(interp.source.segment(node)[:40], node))


def _swapaxes(interp: Interpreter, image: Image, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    found = [plain(one) for one in args[:2]]
    if len(found) < 2 or not all(isinstance(one, int) for one in found):
        return replace(image, way=replace(image.way, element=None))
    order = list(range(len(image.axes)))
    one, other = found[0] % len(order), found[1] % len(order)
    order[one], order[other] = order[other], order[one]
    return arrays.permuted(image, order, interp.hop(interp.source.segment(node)[:40], node))


def _moveaxis(interp: Interpreter, image: Image, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    start, goal = integers(interp, args[0] if args else None), integers(interp, args[1] if len(args) > 1 else None)
    if not start or not goal or len(start) != len(goal):
        return replace(image, way=replace(image.way, element=None))
    try:
        order = np.moveaxis(np.empty([1] * len(image.axes)), start, goal)
        moved = np.moveaxis(np.arange(len(image.axes)).reshape([-1] + [1] * 0), 0, 0)
        del order, moved
        count = len(image.axes)
        rest = [axis for axis in range(count) if axis not in [s % count for s in start]]
        for target, source in sorted(zip([g % count for g in goal], [s % count for s in start], strict=True)):
            rest.insert(target, source)
    except Exception:  # noqa: BLE001 - axes that the picture has not
        return unknown("axes that the picture has not", image)
    return arrays.permuted(image, rest, interp.hop(interp.source.segment(node)[:40], node))


def _expand(interp: Interpreter, image: Image, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    where = argument(args, kwargs, 0, "axis", "dim")
    axis = plain(where) if where is not None else 0
    if not isinstance(axis, int):
        return unknown("an axis", image)
    place = axis if axis >= 0 else len(image.axes) + 1 + axis
    return replace(image, axes=f"{image.axes[:place]}N{image.axes[place:]}")


def _squeeze(interp: Interpreter, image: Image, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return replace(image, axes=image.axes.replace("N", ""))


def _scaled(interp: Interpreter, image: Image, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return replace(image, scaled=True)


def _numpy(name: str, label: str = "") -> Handler:
    """A function of numpy, really called."""
    do = getattr(np, name)

    def run(interp: Interpreter, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
        options: dict[str, Any] = {}
        for key, value in kwargs.items():
            renamed = {
                "dim": "axis",
                "perm": "axes",
                "min": "a_min",
                "max": "a_max",
                "clip_value_min": "a_min",
                "clip_value_max": "a_max",
            }.get(key, key)
            if renamed in ("axis", "axes", "shape", "a_min", "a_max", "num", "endpoint", "k", "fill_value", "keepdims"):
                found = arrays.worlds(interp, value)
                if found is None:
                    if isinstance(value, Const):
                        options[renamed] = value.value
                        continue
                    return unknown("an argument", *args, value)
                options[renamed] = tuple(found[0]) if isinstance(found[0], list) else found[0]
        made = arrays.apply(interp, lambda *given: _guarded(do, given, options), args, node, label)
        if isinstance(made, Unknown) and getattr(do, "__name__", "") in FILLED:
            return replace(made, taints=made.taints | {"constant"})
        return made

    return run


FILLED = ("zeros", "ones", "full")
"""What they make is nobody's answer, also where its size is not known."""


def _guarded(do: Callable[..., Any], given: Sequence[Any], options: Mapping[str, Any]) -> Any:
    """Call a function of numpy unless what it would make is large."""
    if getattr(do, "__name__", "") in ("zeros", "ones", "full", "empty", "linspace", "arange", "eye", "repeat", "tile"):
        asked = [*given, *options.values()]
        if any(
            np.size(one) > 64 or np.any(np.abs(np.asarray(one, dtype=float)) > 10_000)
            for one in asked
            if one is not None
        ):
            raise ValueError("large")
    return do(*given, **options)


def _clip(interp: Interpreter, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    low = argument(args, kwargs, 1, "min", "a_min", "clip_value_min")
    high = argument(args, kwargs, 2, "max", "a_max", "clip_value_max")
    given = [args[0], *(one for one in (low, high) if one is not None and not plain_none(one))]
    has_low = low is not None and not plain_none(low)

    def do(array: Any, *bounds: Any) -> Any:
        lower = bounds[0] if has_low else None
        upper = bounds[1] if len(bounds) == 2 else (None if has_low else bounds[0] if bounds else None)
        return np.clip(np.asarray(array), lower, upper)

    return arrays.apply(interp, do, given, node)


def _concatenate(interp: Interpreter, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    first = args[0] if args else kwargs.get("tensors", kwargs.get("arrays"))
    if first is None:
        return Unknown("no argument")
    pictures = images_in(interp, first)
    things = things_in(interp, first)
    if pictures or any(thing.kind == "pixels" for thing in things):
        found = [*pictures, *(one for thing in things for one in thing.info.get("images", ()))]
        return Thing("pixels", info={"images": tuple(found)})
    ids = next((thing for thing in things if thing.kind == "ids"), None)
    if ids is not None:
        content = interp.content(first)
        items = content.items if isinstance(content, List) else first.items if isinstance(first, Tup) else ()
        added: list[int] = []
        for item in items or ():
            if not isinstance(item, Thing):
                values = arrays.worlds(interp, item)
                if values is None:
                    added.append(-1)
                else:
                    added.extend(int(one) for one in np.ravel(np.asarray(values[0], dtype=float)).tolist()[:8])
        return replace(ids, info={**ids.info, "appended": (*ids.info.get("appended", ()), *added)})
    axis = argument(args, kwargs, 1, "axis", "dim")
    at = plain(axis) if axis is not None else 0

    def do(parts: Any) -> Any:
        return np.concatenate(
            [np.atleast_1d(np.asarray(part)) for part in parts], axis=at if isinstance(at, int) else 0
        )

    return arrays.apply(interp, do, (first,), node)


def things_in(interp: Interpreter, value: Value | None, depth: int = 0) -> list[Thing]:
    """Objects of libraries in a value, in order."""
    if isinstance(value, Thing):
        return [value]
    if value is None or depth > 3:
        return []
    content = interp.content(value)
    inner = value.items if isinstance(value, Tup) else content.items if isinstance(content, List) else None
    return [found for one in inner or () for found in things_in(interp, one, depth + 1)]


def _stack(interp: Interpreter, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    first = args[0] if args else None
    if first is None:
        return Unknown("no argument")
    pictures = images_in(interp, first)
    if pictures:
        return _stacked(pictures)
    if any(thing.kind in ("pixels", "ids") for thing in things_in(interp, first)):
        return things_in(interp, first)[0]
    axis = argument(args, kwargs, 1, "axis", "dim")
    at = plain(axis) if axis is not None else 0
    return arrays.apply(
        interp,
        lambda parts: np.stack([np.asarray(part) for part in parts], axis=at if isinstance(at, int) else 0),
        (first,),
        node,
    )


def _where(interp: Interpreter, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return arrays.apply(interp, np.where, args, node) if len(args) == 3 else unknown("where", *args)


def _reshape(interp: Interpreter, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    shape = argument(args, kwargs, 1, "shape", "newshape")
    order = [plain(one) for one in args[1:]] if len(args) > 2 else integers(interp, shape) or []
    if not order or not all(isinstance(one, int) for one in order):
        return unknown("a shape", *args)
    return arrays.apply(interp, lambda a: np.reshape(np.asarray(a), order), args[:1], node, "-")


def _argmax(interp: Interpreter, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    from vladoctor.lint import robots

    if args and isinstance(args[0], Thing) and args[0].kind == "logits":
        return robots.tokens(interp, args[0], node)
    return _numpy("argmax")(interp, args, kwargs, node)


def _range(interp: Interpreter, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return _numpy("arange")(interp, args, kwargs, node)


def _isclose(interp: Interpreter, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return arrays.apply(interp, lambda a, b: bool(np.all(np.isclose(a, b))), args[:2], node, "-")


def _maths(name: str) -> Handler:
    do = getattr(math, name)
    return lambda interp, args, kwargs, node: arrays.apply(
        interp, lambda *given: do(*(float(one) for one in given)), args, node
    )


def _array_first(name: str) -> Handler:
    do = getattr(np, name)
    return lambda interp, args, kwargs, node: arrays.apply(
        interp, lambda *given: do(*map(np.asarray, given)), args, node
    )


def _take(interp: Interpreter, image: Image, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """Rows or columns picked by index: another part of the picture, unless they are all of them backwards."""
    axis = plain(argument(args, kwargs, 1, "axis") or Const(None))
    if not isinstance(axis, int) or not -len(image.axes) <= axis < len(image.axes) or image.axes[axis] not in "HW":
        return unknown("picked by index", image)
    indices = integers(interp, argument(args, kwargs, 0, "indices"))
    if indices is not None and indices[0] > indices[-1]:
        return replace(image, way=replace(image.way, element=None))
    return arrays.cropped(image, None, interp.hop("take", node))


_ARRAYS: dict[str, Handler] = {
    **{name: _array_first(name) for name in (
        "sign", "abs", "absolute", "round", "rint", "floor", "ceil", "exp", "negative", "maximum", "minimum",
        "logical_not", "logical_and", "logical_or", "square", "sqrt", "multiply", "add", "subtract", "divide",
        "tanh", "arctan2", "arccos", "sin", "cos", "dot", "power", "argmin"
    )},
    **{name: _numpy(name) for name in (
        "linspace", "zeros", "ones", "full", "arange", "eye", "mean", "sum", "prod", "max", "min", "isnan",
        "median", "digitize", "repeat", "tile", "atleast_1d", "atleast_2d", "append", "std", "all", "any", "ravel",
        "zeros_like", "ones_like", "array_equal"
    )},
    **{name: _maths(name) for name in (
        "acos", "asin", "atan2", "sqrt", "radians", "degrees", "isclose"
    )},
    "sqrt": _array_first("sqrt"),
    "interp": lambda interp, args, kwargs, node: arrays.apply(interp, np.interp, args[:3], node),
    "isclose": _isclose,
    "allclose": _isclose,
    "concat": _concatenate,
    "concatenate": _concatenate,
    "cat": _concatenate,
    "hstack": _concatenate,
    "stack": _stack,
    "where": _where,
    "clip": _image_or(_keep, _clip),
    "clamp": _image_or(_keep, _clip),
    "clip_by_value": _image_or(_keep, _clip),
    "reshape": _image_or(lambda i, image, a, k, n: unknown("a reshape", image), _reshape),
    "argmax": _argmax,
    "range": _range,
    "flip": _image_or(_flip, _numpy("flip")),
    "flipud": _image_or(_flip_axis(0), _numpy("flipud")),
    "fliplr": _image_or(_flip_axis(1), _numpy("fliplr")),
    "rot90": _each_image(_rot90),
    "transpose": _image_or(_transpose, _numpy("transpose")),
    "permute": _image_or(_transpose, _numpy("transpose")),
    "permute_dims": _image_or(_transpose, _numpy("transpose")),
    "swapaxes": _image_or(_swapaxes, _numpy("swapaxes")),
    "moveaxis": _image_or(_moveaxis, _numpy("moveaxis")),
    "movedim": _image_or(_moveaxis, _numpy("moveaxis")),
    "expand_dims": _image_or(_expand, _numpy("expand_dims", "-")),
    "unsqueeze": _image_or(_expand, _numpy("expand_dims", "-")),
    "squeeze": _image_or(_squeeze, _numpy("squeeze", "-")),
    "take": _image_or(_take, _numpy("take")),
    "round": _image_or(_keep, _array_first("round")),
    "rint": _image_or(_keep, _array_first("rint")),
    "floor": _image_or(_keep, _array_first("floor")),
    **{name: _image_or(_keep, _pass) for name in (
        "array", "asarray", "ascontiguousarray", "asanyarray", "copy", "uint8", "float32", "float64", "float16",
        "float", "int32", "int64", "from_numpy", "as_tensor", "tensor", "FloatTensor", "LongTensor", "cast",
        "convert_to_tensor", "constant", "device_put", "squeeze_", "contiguous", "nan_to_num", "asfortranarray",
        "Tensor", "identity"
    )},
}  # fmt: skip


# -- pictures ------------------------------------------------------------------------------------------------------


def _tf_resize(interp: Interpreter, image: Image, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    size = pair(interp, argument(args, kwargs, 0, "size"))
    method = argument(args, kwargs, 1, "method")
    return resized(interp, image, size, node, method_of(method) if method is not None else "bilinear")


def _tf_pad(interp: Interpreter, image: Image, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    sizes = [integers(interp, one) for one in args[:2]]
    known = (sizes[0][0], sizes[1][0]) if len(sizes) == 2 and sizes[0] and sizes[1] else None
    return resized(interp, image, known, node, method_of(kwargs.get("method")) or "bilinear", "centre")


def _jpeg(interp: Interpreter, image: Image, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return replace(image, way=replace(image.way, jpeg=True), trail=(*image.trail, interp.hop("JPEG", node)))


def _crop_and_resize(interp: Interpreter, image: Image, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    boxes = argument(args, kwargs, 0, "boxes")
    found = arrays.worlds(interp, boxes) if boxes is not None else None
    size = pair(interp, argument(args, kwargs, 2, "crop_size"))
    if found is None:
        cropped = arrays.cropped(image, None, interp.hop("crop", node))
    else:
        box = np.ravel(np.asarray(found[0], dtype=float))[:4]
        if len(box) < 4:
            return unknown("a box", image)
        cropped = boxed(interp, image, box.tolist(), node)
    return replace(cropped, size=size)


def _central_crop(interp: Interpreter, image: Image, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    share = plain(argument(args, kwargs, 0, "central_fraction") or Const(None))
    if not isinstance(share, int | float):
        return arrays.cropped(image, None, interp.hop("central crop", node))
    half = share / 2
    return boxed(interp, image, (0.5 - half, 0.5 - half, 0.5 + half, 0.5 + half), node)


def _element(name: str, label: str) -> Callable[..., Value]:
    def run(interp: Interpreter, image: Image, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
        return arrays.turned(image, name, interp.hop(label, node))

    return run


def _convert_dtype(interp: Interpreter, image: Image, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    wanted = constant_name(argument(args, kwargs, 0, "dtype"))
    return replace(image, scaled="float" in wanted)


_TF_IMAGE: dict[str, Handler] = {
    "resize": _each_image(_tf_resize),
    "resize_with_pad": _each_image(_tf_pad),
    "encode_jpeg": _each_image(_jpeg),
    "decode_jpeg": _each_image(_keep),
    "decode_image": _each_image(_keep),
    "crop_and_resize": _each_image(_crop_and_resize),
    "central_crop": _each_image(_central_crop),
    "flip_left_right": _each_image(_element("flip-horizontal", "flip_left_right")),
    "flip_up_down": _each_image(_element("flip-vertical", "flip_up_down")),
    "rot90": _each_image(_rot90),
    "transpose": _each_image(_element("transpose", "transpose")),
    "convert_image_dtype": _each_image(_convert_dtype),
    "adjust_jpeg_quality": _each_image(_jpeg),
}


def _cv_flip(interp: Interpreter, image: Image, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    code = plain(argument(args, kwargs, 0, "flipCode") or Const(None))
    if not isinstance(code, int):
        return replace(image, way=replace(image.way, element=None))
    element = "flip-vertical" if code == 0 else "flip-horizontal" if code > 0 else "rot180"
    hop = interp.hop(f"cv2.flip {code}", node)
    written = _written(node, 1, "flipCode")
    return arrays.turned(image, element, replace(hop, literal=interp.source.place(written)) if written else hop)


def _written(call: ast.AST, nth: int, name: str) -> ast.expr | None:
    """The number that stands in a call itself as an argument; None where it is anything but a literal."""
    if not isinstance(call, ast.Call) or any(isinstance(one, ast.Starred) for one in call.args):
        return None
    named = [keyword.value for keyword in call.keywords if keyword.arg == name]
    found = named[0] if named else call.args[nth] if len(call.args) > nth else None
    inner = found.operand if isinstance(found, ast.UnaryOp) else found
    return found if isinstance(inner, ast.Constant) else None


def _cv_rotate(interp: Interpreter, image: Image, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    given = argument(args, kwargs, 0, "rotateCode")
    number = plain(given) if given is not None else None
    code = constant_name(given) or {0: "ROTATE_90_CLOCKWISE", 1: "ROTATE_180", 2: "ROTATE_90_COUNTERCLOCKWISE"}.get(
        int(number) if isinstance(number, int) else -1, ""
    )
    element = {"ROTATE_180": "rot180", "ROTATE_90_CLOCKWISE": "rot270", "ROTATE_90_COUNTERCLOCKWISE": "rot90"}.get(code)
    if element is None:
        return replace(image, way=replace(image.way, element=None))
    return arrays.turned(image, element, interp.hop(f"cv2.rotate {code}", node))


def _cv_color(interp: Interpreter, image: Image, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    code = constant_name(argument(args, kwargs, 0, "code"))
    if code in ("COLOR_RGB2BGR", "COLOR_BGR2RGB", "COLOR_RGBA2BGR", "COLOR_BGRA2RGB"):
        return arrays.swapped(image, interp.hop(code, node))
    if code in ("COLOR_RGBA2RGB", "COLOR_BGRA2BGR"):
        return image
    return replace(image, way=replace(image.way, channels=None))


def _cv_resize(interp: Interpreter, image: Image, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    size = pair(interp, argument(args, kwargs, 0, "dsize"))
    method = kwargs.get("interpolation", args[4] if len(args) > 4 else None)
    filter_name = method_of(method) if method is not None else "bilinear"
    return resized(interp, image, size[::-1] if size else None, node, filter_name)


_CV2: dict[str, Handler] = {
    "flip": _each_image(_cv_flip),
    "rotate": _each_image(_cv_rotate),
    "cvtColor": _each_image(_cv_color),
    "resize": _each_image(_cv_resize),
    "transpose": _each_image(_element("transpose", "cv2.transpose")),
}


def _fromarray(interp: Interpreter, image: Image, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return replace(image, axes="HWC") if image.axes in ("HWC", "NHWC") else unknown("no rows and columns", image)


def _border_crop(interp: Interpreter, image: Image, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    border = plain(argument(args, kwargs, 0, "border") or Const(0))
    if not isinstance(border, int) or image.size is None:
        return arrays.cropped(image, None, interp.hop("crop", node))
    rows, columns = image.size
    box = (border / rows, border / columns, 1 - border / rows, 1 - border / columns)
    return boxed(interp, image, box, node)


_PIL: dict[str, Handler] = {
    "Image.fromarray": _each_image(_fromarray),
    "ImageOps.flip": _each_image(_element("flip-vertical", "ImageOps.flip")),
    "ImageOps.mirror": _each_image(_element("flip-horizontal", "ImageOps.mirror")),
    "ImageOps.exif_transpose": _each_image(_keep),
    "ImageOps.crop": _each_image(_border_crop),
}


def pil_element(value: Value | None) -> str | None:
    """The element of a transposition that Pillow names; None where it is not known."""
    name = constant_name(value)
    by_name = {
        "FLIP_LEFT_RIGHT": "flip-horizontal",
        "FLIP_TOP_BOTTOM": "flip-vertical",
        "ROTATE_90": "rot90",
        "ROTATE_180": "rot180",
        "ROTATE_270": "rot270",
        "TRANSPOSE": "transpose",
        "TRANSVERSE": "anti-transpose",
    }
    numbered = dict(enumerate(by_name.values()))
    if name in by_name:
        return by_name[name]
    number = plain(value) if value is not None else None
    return numbered.get(number) if isinstance(number, int) else None


def _center_crop(interp: Interpreter, image: Image, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    size = pair(interp, argument(args, kwargs, 0, "output_size", "size"))
    hop = interp.hop("center crop", node)
    if size is None or image.size is None:
        return arrays.cropped(image, None, hop, size)
    share = min(size[0] / image.size[0], 1.0) * min(size[1] / image.size[1], 1.0)
    return arrays.cropped(image, share, hop, size)


def _tv_resize(interp: Interpreter, image: Image, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    size = pair(interp, argument(args, kwargs, 0, "size"))
    method = argument(args, kwargs, 1, "interpolation")
    return resized(interp, image, size, node, method_of(method) if method is not None else "bilinear")


def _resized_crop(interp: Interpreter, image: Image, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    numbers = [
        plain(argument(args, kwargs, i, name) or Const(None))
        for i, name in enumerate(("top", "left", "height", "width"))
    ]
    size = pair(interp, argument(args, kwargs, 4, "size"))
    if image.size is None or not all(isinstance(one, int) for one in numbers):
        return replace(arrays.cropped(image, None, interp.hop("crop", node)), size=size)
    top, left, height, width = numbers
    rows, columns = image.size
    box = (top / rows, left / columns, (top + height) / rows, (left + width) / columns)
    return replace(boxed(interp, image, box, node), size=size)


def _tv_crop(interp: Interpreter, image: Image, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return _resized_crop(interp, image, args, kwargs, node)


def _to_tensor(interp: Interpreter, image: Image, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return replace(image, axes="CHW" if image.axes == "HWC" else image.axes, scaled=True)


def _tv_rotate(interp: Interpreter, image: Image, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    angle = plain(argument(args, kwargs, 0, "angle") or Const(None))
    return rotated(interp, image, angle, node)


def rotated(interp: Interpreter, image: Image, angle: Any, node: ast.AST) -> Image:
    """A picture turned counter-clockwise by degrees."""
    element = {0: "identity", 90: "rot90", 180: "rot180", 270: "rot270"}.get(
        int(angle) % 360 if isinstance(angle, int | float) and angle == int(angle) else -1
    )
    if element is None:
        return replace(image, way=replace(image.way, element=None))
    return arrays.turned(image, element, interp.hop(f"rotate {angle}", node))


def _normalise(interp: Interpreter, image: Image, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return replace(image, way=replace(image.way, normalised=True))


def _transform(do: Callable[..., Value]) -> Handler:
    """A class of torchvision whose objects do something to a picture."""

    def make(interp: Interpreter, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
        return Thing("transform", info={"do": do, "args": args, "kwargs": dict(kwargs)})

    return make


def _compose(interp: Interpreter, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    found = interp.items(args[0]) if args else None
    return Thing("transforms", info={"each": found}) if found is not None else unknown("transforms")


_FUNCTIONAL: dict[str, Callable[..., Value]] = {
    "hflip": _element("flip-horizontal", "hflip"),
    "vflip": _element("flip-vertical", "vflip"),
    "horizontal_flip": _element("flip-horizontal", "hflip"),
    "vertical_flip": _element("flip-vertical", "vflip"),
    "rotate": _tv_rotate,
    "center_crop": _center_crop,
    "resize": _tv_resize,
    "resized_crop": _resized_crop,
    "crop": _tv_crop,
    "to_tensor": _to_tensor,
    "pil_to_tensor": _to_tensor,
    "to_image": _to_tensor,
    "to_pil_image": lambda i, image, a, k, n: replace(image, axes="HWC", scaled=False),
    "normalize": _normalise,
    "convert_image_dtype": _scaled,
    "to_dtype": _scaled,
}

_TORCHVISION: dict[str, Handler] = {
    **{name: _each_image(do) for name, do in _FUNCTIONAL.items()},
    "Compose": _compose,
    "Resize": _transform(_tv_resize),
    "CenterCrop": _transform(_center_crop),
    "ToTensor": _transform(_to_tensor),
    "PILToTensor": _transform(_to_tensor),
    "ToImage": _transform(_to_tensor),
    "ToDtype": _transform(_scaled),
    "ConvertImageDtype": _transform(_scaled),
    "Normalize": _transform(_normalise),
    "ToPILImage": _transform(lambda i, image, a, k, n: replace(image, axes="HWC", scaled=False)),
}


def transform(interp: Interpreter, thing: Thing, value: Value, node: ast.AST) -> Value:
    """What an object of torchvision does to a picture."""
    if thing.kind == "transforms":
        for one in thing.info["each"]:
            value = interp.call(one, (value,), {}, node)
        return value
    do = thing.info["do"]
    return interp.lift(
        lambda one: (
            do(interp, one, thing.info["args"], thing.info["kwargs"], node)
            if isinstance(one, Image)
            else unknown("no picture", one)
        ),
        value,
    )


def _rearrange(interp: Interpreter, image: Image, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    pattern = plain(argument(args, kwargs, 0, "pattern") or Const(None))
    if not isinstance(pattern, str) or "->" not in pattern or "(" in pattern:
        return unknown("a rearrangement", image)
    before, after = ([*re.findall(r"\w+|\.\.\.", side)] for side in pattern.split("->"))
    if len(before) != len(image.axes) or sorted(before) != sorted(after):
        if len(before) == len(image.axes) and set(before) < set(after):
            grown = replace(image, axes="N" * (len(after) - len(before)) + image.axes)
            return grown if [one for one in after if one in before] == before else unknown("a rearrangement", image)
        return unknown("a rearrangement", image)
    return arrays.permuted(image, [before.index(one) for one in after], interp.hop("rearrange", node))


_EINOPS: dict[str, Handler] = {"rearrange": _each_image(_rearrange)}


def _resize_with_pad(interp: Interpreter, image: Image, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    height, width = (
        integers(interp, argument(args, kwargs, 0, "height")),
        integers(interp, argument(args, kwargs, 1, "width")),
    )
    size = (height[0], width[0]) if height and width else None
    return resized(interp, image, size, node, "bilinear", "centre")


_OPENPI: dict[str, Handler] = {
    "resize_with_pad": _each_image(_resize_with_pad),
    "convert_to_uint8": _each_image(
        lambda i, image, a, k, n: replace(image, scaled=False, trail=(*image.trail, i.hop("convert_to_uint8", n)))
    ),
}


# -- methods -------------------------------------------------------------------------------------------------------

_KEPT_METHODS = frozenset(
    {"copy", "contiguous", "to", "cpu", "cuda", "numpy", "detach", "clone", "float", "half", "astype", "type",
     "byte", "int", "long", "double", "convert", "round", "item", "clamp", "clip", "bool", "requires_grad_",
     "tobytes_", "bfloat16", "as_subclass", "pin_memory", "asnumpy", "eval_", "mul_"}
)  # fmt: skip


def image_method(interp: Interpreter, image: Image, name: str, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """`image.name(...)` of an array, a tensor or a picture of Pillow."""
    if name == "transpose" and len(args) == 1 and pil_element(args[0]) is not None and not isinstance(args[0], Tup):
        element = pil_element(args[0])
        assert element is not None
        return arrays.turned(image, element, interp.hop(f"transpose {constant_name(args[0]) or element}", node))
    if name == "rotate":
        return rotated(interp, image, plain(argument(args, kwargs, 0, "angle") or Const(None)), node)
    if name == "resize":
        size = pair(interp, argument(args, kwargs, 0, "size"))
        method = argument(args, kwargs, 1, "resample")
        filter_name = method_of(method) if method is not None else "bicubic"
        window = argument(args, kwargs, 2, "box")
        if window is not None and not plain_none(window):
            image = _window(interp, image, window, node)
        return resized(interp, image, size[::-1] if size else None, node, filter_name)
    if name == "crop":
        return _window(interp, image, argument(args, kwargs, 0, "box"), node)
    if name == "take":
        return _take(interp, image, args, kwargs, node)
    if name in ("permute", "transpose", "swapaxes", "flip", "rot90", "unsqueeze", "squeeze", "movedim"):
        if name == "transpose" and len(args) == 2 and len(image.axes) > 2:
            return _swapaxes(interp, image, args, kwargs, node)
        if name in ("permute", "transpose") and args:
            return _transpose(interp, image, args, kwargs, node)
        if name == "flip":
            given = argument(args, kwargs, 0, "dims")
            axes = integers(interp, given if len(args) < 2 else Tup(args))
            if axes is None:
                return replace(image, way=replace(image.way, element=None))
            return arrays.flipped(image, axes, interp.hop(interp.source.segment(node)[-40:], node))
        handler = _ARRAYS[name]
        return handler(interp, (image, *args), kwargs, node)
    if name == "div" and args:
        return arrays.binary(interp, ast.Div(), image, args[0], node)
    if name == "convert" and plain(args[0] if args else Const(None)) == "L":
        return replace(image, way=replace(image.way, channels=None))
    if name == "save":
        from vladoctor.lint import library

        library.save_image(interp, image, args, kwargs, node)
        return Const(None)
    if name == "thumbnail":
        return Const(None)
    if name in _KEPT_METHODS:
        return image
    if name in ("tolist", "tobytes"):
        return image
    if name in ("expand", "repeat", "reshape", "view"):
        return unknown("a reshape", image)
    if name in ("min", "max", "mean", "std", "sum"):
        return Unknown(f"{name} of a picture")
    return unknown(f"{name} of a picture", image)


def _window(interp: Interpreter, image: Image, window: Value | None, node: ast.AST) -> Image:
    """A crop to (left, top, right, bottom) in pixels."""
    found = arrays.worlds(interp, window) if window is not None else None
    box = np.ravel(np.asarray(found[0], dtype=float)).tolist() if found is not None else []
    if len(box) != 4 or image.size is None:
        return arrays.cropped(image, None, interp.hop("crop", node))
    left, top, right, bottom = box
    rows, columns = image.size
    return boxed(interp, image, (top / rows, left / columns, bottom / rows, right / columns), node)


def image_attribute(image: Image, name: str) -> Value | None:
    """`image.name`; None where it is a method."""
    rows, columns = (
        (Const(image.size[0]), Const(image.size[1])) if image.size else (Unknown("height"), Unknown("width"))
    )
    if name == "shape":
        return Tup(tuple({"H": rows, "W": columns, "C": Const(3)}.get(axis, Const(1)) for axis in image.axes))
    if name == "size":
        return Tup((columns, rows))
    if name in ("width", "height"):
        return columns if name == "width" else rows
    if name == "ndim":
        return Const(len(image.axes))
    if name == "dtype":
        return Unknown("a dtype")
    if name in ("T", "mT"):
        return arrays.permuted(image, list(reversed(range(len(image.axes)))), image.trail[-1]) if image.trail else None
    if name in ("device", "mode", "format", "_value"):
        return Unknown(name)
    if name == "data":
        return image
    return None


def number_method(interp: Interpreter, value: Num, name: str, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """`value.name(...)` of an array or a tensor."""
    if name in ("tolist", "item", "numpy", "cpu", "cuda", "detach", "clone", "copy", "float", "double", "half", "to",
                "contiguous", "squeeze_", "requires_grad_", "type", "bfloat16", "long", "int", "eval"):  # fmt: skip
        if name == "item":
            return arrays.apply(interp, lambda a: np.asarray(a).reshape(-1)[0], (value,), node, "-")
        return listed(interp, value) if name == "tolist" else value
    if name == "astype":
        if constant_name(args[0] if args else None).startswith(("int", "uint")) or _is_int(args):
            return arrays.apply(interp, lambda a: np.asarray(a).astype(np.int64), (value,), node)
        return value
    if name in ("flatten", "ravel", "view", "reshape"):
        if name in ("flatten", "ravel"):
            return arrays.apply(interp, lambda a: np.ravel(np.asarray(a)), (value,), node, "-")
        return _reshape(interp, (value, *args), kwargs, node)
    if name in ("clip", "clamp", "clamp_", "clip_"):
        return _clip(interp, (value, *args), kwargs, node)
    if name in ("sign", "abs", "round", "floor", "neg", "sqrt", "tanh", "exp"):
        renamed = {"neg": "negative"}.get(name, name)
        return _ARRAYS[renamed](interp, (value, *args), {}, node)
    if name in (
        "squeeze",
        "unsqueeze",
        "transpose",
        "mean",
        "sum",
        "max",
        "min",
        "argmax",
        "any",
        "all",
        "flip",
        "repeat",
    ):
        return _ARRAYS[name](interp, (value, *args), kwargs, node) if name in _ARRAYS else unknown(name, value)
    if name in ("mul", "add", "sub", "div"):
        op = {"mul": ast.Mult(), "add": ast.Add(), "sub": ast.Sub(), "div": ast.Div()}[name]
        return arrays.binary(interp, op, value, args[0], node) if args else UNKNOWN_METHOD
    if name in ("gt", "lt", "ge", "le") and args:
        do = {"gt": np.greater, "lt": np.less, "ge": np.greater_equal, "le": np.less_equal}[name]
        return arrays.apply(interp, do, (value, args[0]), node)
    return unknown(f"{name} of numbers", value)


def listed(interp: Interpreter, value: Value, depth: int = 0) -> Value:
    """`value.tolist()`: nested lists of numbers."""
    rows = arrays.rows(value) if isinstance(value, Num) and depth < 3 else None
    return interp.new(List(tuple(listed(interp, row, depth + 1) for row in rows))) if rows is not None else value


UNKNOWN_METHOD = Unknown("a method")


def _is_int(args: Args) -> bool:
    return bool(args) and isinstance(args[0], Ext) and args[0].name == "builtins.int"


def number_attribute(value: Num, name: str) -> Value | None:
    """`value.name` of an array; None where it is a method."""
    if name == "shape":
        return Tup(tuple(Const(int(length)) for length in np.shape(value.samples[0])))
    if name == "ndim":
        return Const(np.ndim(value.samples[0]))
    if name == "size":
        return Const(int(np.size(value.samples[0])))
    if name in ("dtype", "device"):
        return Unknown(name)
    if name == "T":
        return replace(value, samples=tuple(np.transpose(np.asarray(one)) for one in value.samples))
    return None


def camera_image(way: ImageWay, place_trail: tuple[Any, ...] = (), size: tuple[int, int] | None = None) -> Image:
    """A camera's frame as the environment returns it."""
    return Image(way, "HWC", place_trail, size)


def every(value: Value) -> Value:
    """The same value; where it has alternatives, one value of them."""
    return alternatives(value.options) if isinstance(value, Alt) else value


def constant(array: Any) -> Num:
    """Numbers that are the same in every world."""
    return Num((array,) * WORLDS)
