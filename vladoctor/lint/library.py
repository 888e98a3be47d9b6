"""What Python itself, its standard library and the libraries of a loop do: dispatch by name.

`vision` knows pictures and arrays, `robots` environments and models; here is the rest: builtins, texts, containers,
command lines and configurations.
"""

from __future__ import annotations

import ast
import math
import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vladoctor.lint import arrays, robots, vision
from vladoctor.lint.families import BASE_KEYS
from vladoctor.lint.values import (
    NONE,
    UNKNOWN,
    Alt,
    Bound,
    Class,
    Const,
    Content,
    Counter,
    Dict,
    Ext,
    Func,
    Hole,
    Image,
    List,
    Module,
    Num,
    Obj,
    Partial,
    Ref,
    Slice,
    Text,
    Thing,
    Tup,
    Value,
    alternatives,
    numbers,
    options,
    plain,
    same,
    taints,
    text_of,
    unknown,
)

if TYPE_CHECKING:
    from vladoctor.lint.interpret import Interpreter

Args = tuple[Value, ...]
Kwargs = dict[str, Value]

LIBRARIES = frozenset(
    {"numpy", "torch", "tensorflow", "cv2", "PIL", "torchvision", "transformers", "libero", "robosuite", "gym",
     "gymnasium", "os", "sys", "math", "json", "time", "random", "argparse", "dataclasses", "pathlib", "collections",
     "functools", "itertools", "logging", "typing", "re", "copy", "datetime", "draccus", "tyro", "hydra",
     "omegaconf", "tqdm", "wandb", "imageio", "matplotlib", "scipy", "einops", "jax", "flax", "lerobot", "requests",
     "fastapi", "uvicorn", "pydantic", "simpler_env", "mani_skill", "mani_skill2_real2sim", "octo", "openpi_client",
     "peft", "accelerate", "h5py", "yaml", "collections.abc", "enum", "abc", "contextlib", "subprocess", "shutil",
     "warnings", "io", "base64", "pickle", "mujoco", "dm_control", "timm", "tokenizers", "huggingface_hub",
     "websockets", "zmq", "msgpack", "json_numpy", "transforms3d", "safetensors", "absl", "click", "typer", "fire",
     "simple_parsing", "pyrallis", "attr", "attrs", "rich", "threading", "multiprocessing", "queue", "uuid",
     "tempfile", "glob", "string", "operator", "statistics", "traceback", "signal", "socket", "urllib", "pandas",
     "sklearn", "moviepy", "IPython", "ipywidgets", "google"}
)  # fmt: skip
"""Libraries: modules of these names are not looked for in the project."""


_VENDORED = re.compile(r"(?<![\w])libero\.libero(?!\w)")
"""LIBERO, wherever somebody keeps a copy of it."""


def is_library(name: str) -> bool:
    """Whether a module's name is a library's."""
    return name.partition(".")[0] in LIBRARIES or _VENDORED.search(name) is not None


def canonical(name: str) -> str:
    """A library's name as the tables here have it."""
    vendored = _VENDORED.search(name)
    if vendored is not None:
        return name[vendored.start() :]
    if name.startswith("jax.numpy"):
        return f"jax{name[len('jax.numpy') :]}"
    return name.replace("collections.abc", "collections") if name.startswith("collections.abc") else name


is_suite = robots.is_suite

SUITES = robots.SUITES[:5]
"""Those with a published limit; the sixth, libero_100, is what the last two together are."""


def key_of(value: Value) -> Any:
    """What a value is as a key of a dict; None where that is not known."""
    if isinstance(value, Const):
        try:
            hash(value.value)
        except TypeError:
            return None
        return "<None>" if value.value is None else value.value
    if isinstance(value, Ext):
        return value.name
    if isinstance(value, Tup):
        parts = tuple(key_of(item) for item in value.items)
        return None if any(part is None for part in parts) else parts
    return None


# -- calls ---------------------------------------------------------------------------------------------------------


def call(interp: Interpreter, name: str, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """Call a function or a class of a library."""
    handler = _FUNCTIONS.get(name)
    if handler is not None:
        return handler(interp, args, kwargs, node)
    array = vision.find(name)
    if array is not None:
        return array(interp, args, kwargs, node)
    short = name.rpartition(".")[2]
    if re.fullmatch(r"make_(?!env)\w*pre_post_processors", short):  # LeRobot's: they normalise, and do not turn
        return Tup((Thing("passing"), Thing("passing")))
    written = _written(interp, short, args, kwargs, node)
    if written is not None:
        return written
    by_name = _BY_LAST_NAME.get(short)
    if by_name is not None:
        found = by_name(interp, name, args, kwargs, node)
        if found is not None:
            return found
    official = robots.delegated(interp, name, args, kwargs, node)
    if official is not None:
        return official
    if name.startswith(("PIL.Image.", "torchvision")) and vision.images_in(interp, args[0] if args else None):
        return unknown(f"{name} of a picture", *args)
    if short.endswith(("Env", "VecEnv", "VectorEnv")) and short[:1].isupper() and not name.startswith("builtins"):
        return robots.environment(interp, name, args, kwargs, node)
    if _is_policy_class(name, short):
        return robots.load(interp, name, args, kwargs, node)
    if short in robots.SURE_QUERIES:
        return robots.query(interp, Ext(name), short, args, kwargs, node)
    _escape(interp, (*args, *kwargs.values()), node)
    if short[:1].isupper():
        return Thing("object", name, {"kwargs": dict(kwargs), "args": args}, next(interp._ids))
    if short in robots.QUERIES and "observation" in _all_taints(interp, args, kwargs):
        return robots.query(interp, Ext(name), short, args, kwargs, node)
    return unknown(f"{name} is not known", *args, *kwargs.values())


def _written(interp: Interpreter, short: str, args: Args, kwargs: Kwargs, node: ast.AST) -> Value | None:
    """Numpy's functions that write into their first argument; None for any other."""
    if not args or not isinstance(args[0], Num) or not isinstance(node, ast.Call) or not node.args:
        return None
    if short == "put" and len(args) >= 3:
        found: Value = arrays.put(interp, args[0], args[1], args[2], node) or unknown("written into", *args)
    elif short in ("copyto", "place", "putmask", "fill_diagonal", "shuffle"):
        found = args[1] if short == "copyto" and len(args) > 1 else unknown("written into", *args)
    else:
        return None
    interp.write_later(node.args[0], found)
    return NONE


def _is_policy_class(name: str, short: str) -> bool:
    return bool(
        re.search(r"Policy$|PolicyClient$|Inference$|ClientPolicy$|VLA$|ForActionPrediction$", short)
        and short[:1].isupper()
    ) and not name.startswith("builtins")


def _all_taints(interp: Interpreter, args: Args, kwargs: Mapping[str, Value]) -> frozenset[str]:
    asked = robots.gather(interp, args, kwargs)
    found = frozenset().union(*(taints(value) for value in (*args, *kwargs.values())))
    return found | ({"observation"} if asked.images or asked.texts or asked.opaque else frozenset())


def _escape(interp: Interpreter, values: Sequence[Value], node: ast.AST) -> None:
    """Write down that an environment was given to something that is not known."""
    for value in values:
        env = robots.env_of(interp, value)
        if env is not None:
            interp.event("escape", node, env=env)


QUERIES = robots.QUERIES
NEVER = robots.NEVER


def own_query(interp: Interpreter, owner: Value, name: str, args: Args, kwargs: Kwargs, node: ast.AST) -> Value | None:
    """A query of a policy whose class is the program's own and could not be followed; None where it is none."""
    asked = robots.gather(interp, args, kwargs)
    if not asked.images and not (name in robots.SURE_QUERIES and asked.opaque):
        return None
    content = interp.content(owner)
    if not isinstance(content, Obj) or content.cls is None:
        return None
    parts = content.cls.source.path.with_suffix("").parts
    inside = parts[parts.index("prismatic") :] if "prismatic" in parts else parts[-1:]
    known_as = ".".join((*inside, content.cls.node.name))
    return robots.query(interp, Thing("policy", known_as), name, args, kwargs, node)


def call_value(interp: Interpreter, func: Value, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """Call an object of a library, or something that is not known."""
    if isinstance(func, Thing):
        if func.kind in ("processor", "tokenizer"):
            return robots.process(interp, func, args, kwargs, node)
        if func.kind in ("transform", "transforms"):
            return vision.transform(interp, func, args[0] if args else UNKNOWN, node)
        if func.kind == "suite_class":
            return Thing("suite", info=func.info, id=next(interp._ids))
        if func.kind == "model":
            return robots.forward(interp, func, args, kwargs, node)
        if func.kind in ("key", "pixels", "ids"):
            return func
        if func.kind == "passing":
            return args[0] if args else UNKNOWN
        if func.kind == "loaded_class":
            return robots.load(interp, func.name, args, kwargs, node)
        if func.kind == "env":
            return func
    _escape(interp, (*args, *kwargs.values()), node)
    return unknown("a call of something", func, *args, *kwargs.values())


def call_method(interp: Interpreter, owner: Value, name: str, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """Call a method of anything but an object of the program."""
    if isinstance(owner, Text | Const):
        return text_method(interp, owner, name, args, kwargs, node)
    if isinstance(owner, Image):
        return vision.image_method(interp, owner, name, args, kwargs, node)
    if isinstance(owner, Num):
        return vision.number_method(interp, owner, name, args, kwargs, node)
    if isinstance(owner, Tup):
        return UNKNOWN
    content = interp.content(owner)
    if isinstance(content, List) and isinstance(owner, Ref):
        return list_method(interp, owner, content, name, args, kwargs, node)
    if isinstance(content, Dict) and isinstance(owner, Ref):
        return dict_method(interp, owner, content, name, args, kwargs, node)
    if isinstance(content, Obj):
        return _inherited_method(interp, owner, content, name, args, kwargs, node)
    if isinstance(owner, Ext):
        return call(interp, f"{owner.name}.{name}", args, kwargs, node)
    if isinstance(owner, Thing):
        if owner.kind == "super":
            return _super_method(interp, owner, name, args, kwargs, node)
        if owner.kind == "parser":
            return _parser_method(interp, owner, name, args, kwargs, node)
        if owner.kind == "loaded_class" and name == "from_pretrained":
            return robots.load(interp, f"{owner.name}.from_pretrained", args, kwargs, node)
        found = robots.thing_method(interp, owner, name, args, kwargs, node)
        if found is not None:
            return found
    return _unknown_method(interp, owner, name, args, kwargs, node)


def _unknown_method(interp: Interpreter, owner: Value, name: str, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """A method of something that is not known: perhaps an environment's or a policy's."""
    owner_name = owner.name if isinstance(owner, Thing) else ""
    called = _receiver(node)
    if name in (
        "to",
        "cuda",
        "cpu",
        "float",
        "half",
        "detach",
        "copy",
        "numpy",
        "eval",
        "contiguous",
        "clone",
        "bfloat16",
    ):
        return owner
    given = _all_taints(interp, args, kwargs)
    like_env = bool(re.search(r"env|sim|world", called, re.I)) and not re.search(r"environ|simil", called, re.I)
    if name == "step" and args and (like_env or taints(args[0]) & {"action", "token"}):
        asked = robots.gather(interp, args, kwargs)
        if not asked.images and not asked.texts:
            env = Thing("env", owner_name or called, {"kind": "", "raw": False})
            return robots.env_method(interp, env, "step", args, kwargs, node)
    if like_env and name in ("reset", "set_init_state", "seed", "get_observation", "get_language_instruction"):
        env = Thing("env", owner_name or called, {"kind": "", "raw": False})
        return robots.env_method(interp, env, name, args, kwargs, node)
    if name in robots.SURE_QUERIES or (
        (name in robots.QUERIES or name == "step") and given & {"observation", "image", "instruction"}
    ):
        return robots.query(interp, owner, name, args, kwargs, node)
    if name == "reset" and re.search(r"policy|model|agent|client|vla", called, re.I):
        interp.event("policy_reset", node, owner=owner)
        return NONE
    if name in ("set_gripper_position", "set_gripper", "move_gripper"):
        interp.event("robot", node, args=args, name=name)
    _escape(interp, (*args, *kwargs.values()), node)
    return unknown(f"{name} is not known", owner, *args, *kwargs.values())


def _receiver(node: ast.AST) -> str:
    """The last name of what a method is called on: `self.env.step` gives "env"."""
    func = node.func if isinstance(node, ast.Call) else None
    value = func.value if isinstance(func, ast.Attribute) else None
    return value.attr if isinstance(value, ast.Attribute) else value.id if isinstance(value, ast.Name) else ""


def constructed(interp: Interpreter, made: Ref, base: str, args: Args, kwargs: Kwargs, node: ast.AST) -> None:
    """An object of the program was made whose class inherits from a library's: make what it is besides."""
    short = base.rpartition(".")[2]
    content = interp.heap[made.id]
    if not isinstance(content, Obj) or not short:
        return
    thing: Thing | None = None
    if short in robots.RAW_ENVIRONMENTS or short in robots.VECTOR_ENVIRONMENTS:
        thing = robots.environment(interp, base, args, kwargs, node)
    elif short.endswith("Policy"):
        thing = Thing("model", base, {}, next(interp._ids))
    if thing is not None:
        interp.heap[made.id] = replace(content, attrs={**content.attrs, "__thing__": thing})


def inherited(interp: Interpreter, owner: Value, content: Obj, name: str, node: ast.AST) -> Value:
    """An attribute that an object of the program may have from a library's class."""
    thing = content.attrs.get("__thing__")
    if isinstance(thing, Thing):
        return attribute(interp, thing, name, node)
    if content.base.endswith("Wrapper") and "env" in content.attrs:
        return interp.attribute(content.attrs["env"], name, node)
    if content.base:
        return Bound(owner, name)
    return unknown(f"attribute {name}")


def inherited_item(interp: Interpreter, owner: Value, content: Obj, index: Value, node: ast.AST) -> Value:
    """`owner[index]` of an object of the program without `__getitem__`."""
    name = plain(index)
    return content.attrs[name] if isinstance(name, str) and name in content.attrs else unknown("an item")


def _inherited_method(
    interp: Interpreter, owner: Value, content: Obj, name: str, args: Args, kwargs: Kwargs, node: ast.AST
) -> Value:
    thing = content.attrs.get("__thing__")
    if isinstance(thing, Thing):
        return call_method(interp, thing, name, args, kwargs, node)
    return _unknown_method(interp, owner, name, args, kwargs, node)


def _super_method(interp: Interpreter, owner: Thing, name: str, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    cls, self_value = owner.info["owner"], owner.info["self"]
    for base in cls.bases:
        if isinstance(base, Class):
            member = interp.class_member(base, name)
            if isinstance(member, Func):
                return interp.call_func(member, args, kwargs, self_value, node)
    content = interp.content(self_value)
    if name == "__init__" and isinstance(self_value, Ref) and isinstance(content, Obj):
        base_name = interp.library_base(cls)
        constructed(interp, self_value, base_name, args, kwargs, node)
        if base_name.endswith("Wrapper") and args:
            _set(interp, self_value, "env", args[0])
        return NONE
    if isinstance(content, Obj):
        thing = content.attrs.get("__thing__")
        if isinstance(thing, Thing):
            return call_method(interp, thing, name, args, kwargs, node)
        if content.base.endswith("Wrapper") and "env" in content.attrs:
            bound = interp.attribute(content.attrs["env"], name, node)
            return interp.call(bound, args, kwargs, node)
    return unknown(f"super().{name}", *args)


def _set(interp: Interpreter, ref: Ref, name: str, value: Value) -> None:
    content = interp.heap[ref.id]
    if isinstance(content, Obj):
        interp.heap[ref.id] = replace(content, attrs={**content.attrs, name: value})


# -- attributes and items ------------------------------------------------------------------------------------------


def attribute(interp: Interpreter, owner: Value, name: str, node: ast.AST) -> Value:
    """`owner.name` of anything but objects and classes of the program."""
    if isinstance(owner, Image):
        found = vision.image_attribute(owner, name)
        return found if found is not None else Bound(owner, name)
    if isinstance(owner, Num):
        found = vision.number_attribute(owner, name)
        return found if found is not None else Bound(owner, name)
    if isinstance(owner, Thing):
        if owner.kind == "super":
            return Bound(owner, name)
        found = robots.thing_attribute(interp, owner, name, node)
        return found if found is not None else Bound(owner, name)
    content = interp.content(owner)
    if isinstance(content, Dict):
        if name in content.items and name not in ("items", "keys", "values", "get", "pop", "update", "copy"):
            return content.items[name]
        return Bound(owner, name)
    if isinstance(owner, Const) and name in ("value", "name") and isinstance(owner.value, str):
        return owner  # an enum's member
    if isinstance(owner, Func) and name == "__wrapped__":
        return owner
    if isinstance(owner, Partial | Func):
        return unknown(name)
    if isinstance(owner, Tup) and name in ("ndims", "rank"):
        return Const(len(owner.items))
    return Bound(owner, name)


def set_attribute(interp: Interpreter, owner: Value, name: str, value: Value, node: ast.AST) -> None:
    """`owner.name = value` of anything but objects of the program."""
    if isinstance(owner, Thing) and owner.kind == "model" and name in ("norm_stats", "language_model"):
        interp.event("set_model", node, owner=owner, name=name, value=value)


def set_item(interp: Interpreter, owner: Thing, index: Value, value: Value, node: ast.AST) -> None:
    """`owner[index] = value` of an object of a library."""


def subscript(interp: Interpreter, owner: Value, index: Value, node: ast.AST) -> Value:
    """`owner[index]` of anything but containers and objects of the program."""
    if isinstance(owner, Image):
        return arrays.image_item(interp, owner, index, node)
    if isinstance(owner, Num):
        return arrays.item(interp, owner, index, node)
    if isinstance(owner, Thing):
        return robots.thing_item(interp, owner, index, node)
    if isinstance(owner, Const | Text):
        at = arrays.native_index(interp, index)
        if isinstance(owner, Const) and isinstance(owner.value, str | tuple | bytes) and isinstance(at, int | slice):
            try:
                return Const(owner.value[at], owner.at)
            except (IndexError, TypeError):
                return UNKNOWN
        if isinstance(owner, Text) and isinstance(at, int):
            return unknown("a letter")
        return unknown("a part of a text", owner)
    if isinstance(owner, Ext):
        return owner if owner.name.startswith(("typing", "builtins", "collections")) else Ext(f"{owner.name}[]")
    if isinstance(owner, Counter):
        return UNKNOWN
    return unknown("an item", owner, index if isinstance(index, Num) else None)


def dict_item(
    interp: Interpreter, content: Dict, index: Value, default: Value | None, node: ast.AST | None = None
) -> Value:
    """An item of a dict; of one that is keyed by suites, one for each, the default suite's first."""
    key = key_of(index)
    suites = [name for name in content.items if is_suite(name)]
    if suites and len(suites) == len([name for name in content.items if isinstance(name, str) and name != "default"]):
        free = not isinstance(index, Const) or bool(index.origin)
        if free:
            ordered = sorted(suites, key=lambda name: name != key)
            choices = index.choices if isinstance(index, Const) and index.choices else None
            kept = [name for name in ordered if choices is None or name in choices] or ordered
            return alternatives([((("suite", name),), content.items[name]) for name in kept])
    if key is not None:
        if key in content.items:
            return content.items[key]
        if isinstance(content.rest, Thing) and content.rest.kind == "observation":
            return robots.observation_item(interp, content.rest, index, node or ast.Constant(None))
        if content.rest is not None:
            return content.rest
        return default if default is not None else unknown(f"no key {key!r}")
    found = [((), value) for value in content.items.values()]
    if content.rest is not None:
        found.append(((), content.rest))
    if not found or len(found) > 8:
        return unknown("a key", index)
    return alternatives([*found, *([((), default)] if default is not None else [])])


def element(interp: Interpreter, value: Value, node: ast.expr) -> tuple[Value, Value | None]:
    """Any item of something that is iterated over, and how many there are, where that is known."""
    if isinstance(value, Num):
        found = arrays.rows(value)
        return (
            (alternatives([((), one) for one in found]), Const(len(found)))
            if found
            else (unknown("a row", value), None)
        )
    content = interp.content(value)
    if isinstance(content, Dict):
        return (alternatives([((), Const(key)) for key in list(content.items)[:8]]) if content.items else UNKNOWN), None
    if isinstance(value, Thing):
        if value.kind in ("init_states",):
            return Thing("init_state"), None
        if value.kind == "env":
            return value, None
        return unknown("an item", value), None
    if isinstance(value, Image) and value.axes.startswith("N"):
        return replace(value, axes=value.axes[1:]), None
    return unknown("an item", value), None


def unpacked(interp: Interpreter, value: Value, wanted: int, node: ast.AST) -> tuple[Value, ...] | None:
    """The parts of what an environment or a model returns, where they are known."""
    if isinstance(value, Thing) and value.kind == "stepped":
        first = Thing("observation", info=value.info, id=value.id)
        return (first, *(robots.stepped_part(value, place) for place in range(1, wanted)))
    if isinstance(value, Thing) and value.kind == "observation":
        return (value, *(unknown("info") for _ in range(wanted - 1))) if wanted == 2 else None
    if isinstance(value, Num) and value.native is not None and wanted in (2, 3) and value.native.kind == "01":
        event = value.native.query
        if event is not None and all(len(one) == 7 for one in value.samples if hasattr(one, "__len__")):
            chunk = robots.samples(interp, event, "01", 8)
            event.data["family"] = "openvla-oft" if event.data["family"] in ("openvla", "") else event.data["family"]
            return (chunk, *(UNKNOWN for _ in range(wanted - 1)))
    return None


def contains(interp: Interpreter, container: Value, item: Value) -> bool | None:
    """Whether something is in a container; None where that is not known."""
    if isinstance(container, Const) and isinstance(item, Const):
        try:
            return item.value in container.value
        except TypeError:
            return None
    content = interp.content(container)
    key = key_of(item)
    if isinstance(content, Dict):
        if key is not None and key in content.items:
            return True
        return False if key is not None and content.rest is None else None
    items = content.items if isinstance(content, List) else container.items if isinstance(container, Tup) else None
    if items is not None and isinstance(item, Const):
        if any(isinstance(one, Const) and one.value == item.value for one in items):
            return True
        return False if all(isinstance(one, Const) for one in items) else None
    if isinstance(container, Text) and isinstance(item, Const) and isinstance(item.value, str):
        return True if any(isinstance(part, str) and item.value in part for part in container.parts) else None
    if isinstance(container, Thing) and container.kind == "norm_stats" and isinstance(item, Const):
        return item.value in BASE_KEYS if robots.is_base(container) else None
    return None


def entered(interp: Interpreter, value: Value) -> Value:
    """What `with value as name` binds."""
    return value if isinstance(value, Thing) else unknown("a context")


# -- texts ---------------------------------------------------------------------------------------------------------


def joined_texts(interp: Interpreter, op: ast.operator, left: Value, right: Value, node: ast.AST) -> Value | None:
    """`left + right`, `left % right` or `path / name` of texts; None where they are none."""
    if isinstance(op, ast.Add) and (isinstance(left, Text) or isinstance(right, Text)):
        first, second = text_of(left), text_of(right)
        parts = [*(first.parts if first else (Hole("?"),)), *(second.parts if second else (Hole("?"),))]
        trail = max(first.trail if first else (), second.trail if second else (), key=len)
        return interp.text(parts, node, trail)
    if isinstance(op, ast.Mod):
        template = plain(left)
        if isinstance(template, str):
            return _percent(interp, template, right, node)
    if isinstance(op, ast.Div) and (isinstance(left, Text) or (isinstance(left, Thing) and left.kind == "path")):
        second = text_of(right)
        first = text_of(left)
        return interp.text(
            [*(first.parts if first else (Hole("?"),)), "/", *(second.parts if second else (Hole("?"),))], node, ()
        )
    return None


def _percent(interp: Interpreter, template: str, right: Value, node: ast.AST) -> Value:
    values = list(right.items) if isinstance(right, Tup) else [right]
    content = interp.content(right)
    parts: list[str | Hole] = []
    position = 0
    trail: tuple[Any, ...] = ()
    for found in re.finditer(r"%(?:\((\w+)\))?([-#0 +]*\d*(?:\.\d+)?)([diouxXeEfFgGcrsa%])", template):
        parts.append(template[position : found.start()])
        position = found.end()
        if found[3] == "%":
            parts.append("%")
            continue
        value: Value = UNKNOWN
        if found[1] and isinstance(content, Dict):
            value = content.items.get(found[1], UNKNOWN)
        elif values:
            value = values.pop(0)
        text = text_of(value) if found[3] == "s" and not found[2] else None
        parts.extend(text.parts if text is not None else (Hole("?"),))
        trail = text.trail if text is not None and text.trail else trail
    parts.append(template[position:])
    return interp.text(parts, node, trail)


def text_method(
    interp: Interpreter, owner: Text | Const, name: str, args: Args, kwargs: Kwargs, node: ast.AST
) -> Value:
    """A method of a text."""
    literal = plain(owner)
    if isinstance(owner, Const) and not isinstance(literal, str):
        return unknown(f"{name} of {type(literal).__name__}")
    text = text_of(owner)
    assert text is not None
    if name == "format":
        return _formatted(interp, text, args, kwargs, node)
    if name == "join" and args:
        return _joined(interp, owner, args[0], node)
    if isinstance(owner, Const):
        given = [plain(one) for one in args]
        if all(isinstance(one, Const) for one in args) and name in _TEXT_METHODS:
            try:
                found = getattr(literal, name)(*given)
            except Exception:  # noqa: BLE001 - the program's own values
                return UNKNOWN
            if isinstance(found, list):
                return interp.new(List(tuple(Const(one) for one in found)))
            if isinstance(found, tuple):
                return Tup(tuple(Const(one) for one in found))
            return Const(found, owner.at, owner.origin, owner.choices) if isinstance(found, str) else Const(found)
        if name == "replace" and len(args) == 2:
            return _replaced(interp, text, args[0], args[1], node)
        return unknown(name, *args)
    return _text_with_holes(interp, text, name, args, node)


_TEXT_METHODS = frozenset(
    {"lower", "upper", "strip", "lstrip", "rstrip", "replace", "split", "startswith", "endswith", "title",
     "capitalize", "removeprefix", "removesuffix", "splitlines", "rsplit", "partition", "rpartition", "isdigit",
     "find", "count", "casefold", "swapcase", "zfill"}
)  # fmt: skip


def _cased(hole: Hole, name: str) -> Hole:
    return replace(hole, lower=False, case=name) if hole.kind == "instruction" else Hole("?")


def _text_with_holes(interp: Interpreter, text: Text, name: str, args: Args, node: ast.AST) -> Value:
    given = [plain(one) for one in args]
    hop = interp.hop(f".{name}()", node)

    def changed(parts: Sequence[str | Hole]) -> Value:
        return Text(tuple(parts), text.place, (*text.trail, hop))

    if name in ("lower", "casefold"):
        return changed([p.lower() if isinstance(p, str) else replace(p, lower=True, case="") for p in text.parts])
    if name in ("strip", "rstrip", "lstrip"):
        letters = given[0] if given and isinstance(given[0], str) else None
        parts = list(text.parts)
        if name != "rstrip" and parts and isinstance(parts[0], str):
            parts[0] = parts[0].lstrip(letters)
        if name != "lstrip" and parts and isinstance(parts[-1], str):
            parts[-1] = parts[-1].rstrip(letters)
        return changed([part for part in parts if part != ""])
    if name == "replace" and len(args) == 2:
        return _replaced(interp, text, args[0], args[1], node)
    if name in ("upper", "title", "capitalize", "swapcase"):
        return changed([_cased(p, name) if isinstance(p, Hole) else getattr(p, name)() for p in text.parts])
    if name in ("removeprefix", "removesuffix"):
        return text
    if name in ("startswith", "endswith"):
        edge = text.parts[0 if name == "startswith" else -1] if text.parts else ""
        if isinstance(edge, str) and given and isinstance(given[0], str) and len(edge) >= len(given[0]):
            return Const(getattr(edge, name)(given[0]))
        return unknown(name)
    if name in ("encode", "decode"):
        return text
    if name in ("split", "splitlines", "rsplit"):
        return interp.new(List(None, unknown("a word", text)))
    return unknown(f"{name} of a text", text)


def _replaced(interp: Interpreter, text: Text, old: Value, new: Value, node: ast.AST) -> Value:
    before, after = plain(old), text_of(new)
    if not isinstance(before, str) or after is None:
        return unknown("a text with something replaced", text, new)
    parts: list[str | Hole] = []
    for part in text.parts:
        if isinstance(part, Hole):
            parts.append(part)
            continue
        pieces = part.split(before) if before else [part]
        for index, piece in enumerate(pieces):
            if index:
                parts.extend(after.parts)
            parts.append(piece)
    made = interp.text(parts, node, (*(text.trail or after.trail), interp.hop(f".replace({before!r}, ...)", node)))
    return replace(made, place=text.place) if isinstance(made, Text) and text.place is not None else made


def _joined(interp: Interpreter, glue: Value, values: Value, node: ast.AST) -> Value:
    items = interp.items(values)
    between = text_of(glue)
    if items is None or between is None:
        element_value, _ = interp.element(values, ast.Constant(None))
        return unknown("joined texts", values, element_value)
    parts: list[str | Hole] = []
    trail: tuple[Any, ...] = ()
    for index, item in enumerate(items):
        if index:
            parts.extend(between.parts)
        text = text_of(item)
        parts.extend(text.parts if text is not None else (Hole("?"),))
        trail = text.trail if text is not None and text.trail else trail
    return interp.text(parts, node, trail)


def _formatted(interp: Interpreter, text: Text, args: Args, kwargs: Mapping[str, Value], node: ast.AST) -> Value:
    parts: list[str | Hole] = []
    trail: tuple[Any, ...] = text.trail
    position = 0
    values = dict(kwargs)
    for part in text.parts:
        if isinstance(part, Hole):
            parts.append(part)
            continue
        try:
            fields = list(string.Formatter().parse(part))
        except ValueError:
            return unknown("a template", text)
        for literal, name, spec, _ in fields:
            parts.append(literal)
            if name is None:
                continue
            value: Value = UNKNOWN
            base = re.match(r"\w*", name)
            key = base[0] if base else ""
            if key == "" and name == "":
                value = args[position] if position < len(args) else UNKNOWN
                position += 1
            elif key.isdigit():
                value = args[int(key)] if int(key) < len(args) else UNKNOWN
            elif key == name:
                value = values.get(key, UNKNOWN)
            if isinstance(value, Alt):
                return interp.lift(
                    lambda one, key=key, value=value: _formatted(  # type: ignore[misc]
                        interp,
                        text,
                        tuple(one if arg is value else arg for arg in args),
                        {k: one if v is value else v for k, v in values.items()},
                        node,
                    ),
                    value,
                )
            found = text_of(value) if not spec else None
            parts.extend(found.parts if found is not None else (Hole("?"),))
            trail = found.trail if found is not None and found.trail else trail
    made = interp.text(parts, node, trail)
    return replace(made, place=text.place or made.place) if isinstance(made, Text) else made


# -- containers ----------------------------------------------------------------------------------------------------


def extend(interp: Interpreter, ref: Value, content: List, added: Value) -> None:
    """`list.extend(added)`."""
    if not isinstance(ref, Ref):
        return
    items = interp.items(added)
    if content.most is not None and items is not None and len(items) > content.most:
        items = items[: content.most]
    rowed = [one for one in items or () if isinstance(one, Num) and one.rows is not None]
    if items and len(rowed) == len(items):
        whole = isinstance(added, Num) and added.rows is not None and added.rows[1] is None and content.most is None
        executed = None if whole else len(items)
        items = tuple(replace(one, rows=(one.rows[0], executed)) for one in rowed if one.rows is not None)
    if content.items is not None and items is not None and len(content.items) + len(items) <= 256:
        interp.heap[ref.id] = replace(content, items=(*content.items, *items))
        return
    known = [*(content.items or ()), *(items or (interp.element(added, ast.Constant(None))[0],))]
    if content.element is not None:
        known.append(content.element)
    interp.heap[ref.id] = replace(content, items=None, element=alternatives([((), one) for one in known[:12]]))


def list_method(
    interp: Interpreter, ref: Ref, content: List, name: str, args: Args, kwargs: Kwargs, node: ast.AST
) -> Value:
    """A method of a list, set or deque."""
    if name in ("append", "add", "appendleft", "put", "put_nowait") and args:
        if content.items is not None and len(content.items) < 256:
            items = (*content.items, args[0])
            if content.most is not None and len(items) > content.most:
                items = items[-content.most :]
            interp.heap[ref.id] = replace(content, items=items)
        else:
            both = alternatives([((), content.element), ((), args[0])]) if content.element is not None else args[0]
            interp.heap[ref.id] = replace(content, items=None, element=both)
        return NONE
    if name in ("extend", "extendleft") and args:
        extend(interp, ref, content, args[0])
        return NONE
    if name == "insert" and len(args) == 2 and content.items is not None:
        at = plain(args[0])
        if isinstance(at, int):
            items_list = list(content.items)
            items_list.insert(at, args[1])
            interp.heap[ref.id] = replace(content, items=tuple(items_list))
        return NONE
    if name in ("pop", "popleft", "get", "get_nowait"):
        if content.items:
            at = plain(args[0]) if args else (0 if name != "pop" else -1)
            at = at if isinstance(at, int) and -len(content.items) <= at < len(content.items) else -1
            left = list(content.items)
            taken = left.pop(at)
            interp.heap[ref.id] = replace(content, items=tuple(left))
            _taken(interp, ref, taken, node)
            return taken
        if content.element is not None:
            _taken(interp, ref, content.element, node)
        return content.element or unknown("an item of an empty list")
    if name == "clear":
        interp.event("emptied", node, id=ref.id)
        interp.heap[ref.id] = replace(content, items=(), element=None)
        return NONE
    if name == "copy":
        return interp.new(content)
    if name in ("reverse", "sort"):
        if name == "reverse" and content.items is not None:
            interp.heap[ref.id] = replace(content, items=content.items[::-1])
        return NONE
    if name in ("index", "count"):
        return UNKNOWN
    if name in ("to",):
        return ref
    return unknown(f"{name} of a list")


def _taken(interp: Interpreter, ref: Ref, taken: Value, node: ast.AST) -> None:
    """Write down that an action is taken out of a plan, and in which loops the plan was made."""
    if "action" in robots.deep_taints(interp, taken):
        interp.event("take", node, id=ref.id, made=interp.made.get(ref.id))


def dict_method(
    interp: Interpreter, ref: Ref, content: Dict, name: str, args: Args, kwargs: Kwargs, node: ast.AST
) -> Value:
    """A method of a dict, or of a batch."""
    if name == "get" and args:
        default = args[1] if len(args) > 1 else NONE
        if not content.items and content.rest is None and _receiver(node) == "info" and "succ" in str(plain(args[0])):
            return Const(plain(default) or False, (interp.source, node), NEVER)
        return interp.lift(lambda one: dict_item(interp, content, one, default, node), args[0], keep_none=True)
    if name in ("setdefault", "pop") and args:
        key = key_of(args[0])
        if key is not None and key in content.items:
            found = content.items[key]
            if name == "pop":
                interp.heap[ref.id] = replace(content, items={k: v for k, v in content.items.items() if k != key})
            return found
        if name == "setdefault" and key is not None and len(args) > 1:
            interp.heap[ref.id] = replace(content, items={**content.items, key: args[1]})
        return args[1] if len(args) > 1 else content.rest or UNKNOWN
    if name == "update":
        items, rest = dict(content.items), content.rest
        for given in args:
            other = interp.content(given)
            if isinstance(other, Dict):
                items.update(other.items)
                rest = rest or other.rest
            else:
                rest = unknown("what a dict is updated with", given)
        items.update(kwargs)
        interp.heap[ref.id] = replace(content, items=items, rest=rest)
        return NONE
    if name == "copy":
        return interp.new(content)
    if name == "items":
        return (
            interp.new(List(tuple(Tup((Const(key), value)) for key, value in content.items.items())))
            if (content.rest is None)
            else interp.new(List(None, Tup((UNKNOWN, content.rest))))
        )
    if name == "keys":
        return interp.new(List(tuple(Const(key) for key in content.items) if content.rest is None else None))
    if name == "values":
        values = tuple(content.items.values())
        return interp.new(List(values if content.rest is None else None, content.rest))
    if name in ("to", "cuda", "cpu", "half", "float", "convert_to_tensors"):
        return ref
    return unknown(f"{name} of a dict")


# -- builtins and the standard library -----------------------------------------------------------------------------

Handler = Callable[["Interpreter", Args, Kwargs, ast.AST], Value]


def _first(interp: Interpreter, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return args[0] if args else next(iter(kwargs.values()), UNKNOWN)


def _len(interp: Interpreter, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    def one(value: Value) -> Value:
        if isinstance(value, Num) and value.rows is not None and value.rows[0] is None:
            return unknown("the rows of an answer")
        if isinstance(value, Num) and all(hasattr(sample, "__len__") for sample in value.samples):
            return Const(len(value.samples[0]))
        items = interp.items(value) if not isinstance(value, Const) else None
        if items is not None:
            return Const(len(items))
        if isinstance(value, Const) and isinstance(value.value, str):
            return Const(len(value.value))
        return unknown("a length")

    return interp.lift(one, args[0]) if args else UNKNOWN


def _range(interp: Interpreter, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    bounds = [plain(one) for one in args]
    if (
        bounds
        and all(isinstance(one, int) for one in bounds)
        and not any(isinstance(a, Const) and a.origin for a in args)
    ):
        try:
            found = range(*bounds)
        except (TypeError, ValueError):
            return UNKNOWN
        if len(found) <= 8:
            return Thing(
                "sequence",
                info={
                    "items": tuple(Const(one) for one in found),
                    "element": Counter(0, args[-1]),
                    "count": Const(len(found), args[-1].at if isinstance(args[-1], Const) else None),
                },
            )
        start = found.start
    else:
        start = bounds[0] if len(args) > 1 and isinstance(bounds[0], int) else 0
    stop = args[1] if len(args) > 1 else args[0] if args else UNKNOWN
    count = interp.lift(lambda one: arrays.binary(interp, ast.Sub(), one, Const(start), node), stop) if start else stop
    return Thing("sequence", info={"element": Counter(start, stop), "count": count})


def _small(interp: Interpreter, value: Value) -> Value:
    """A range of few numbers, gone through one by one."""
    return value


def _enumerate(interp: Interpreter, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    items = interp.items(args[0]) if args else None
    if items is not None and len(items) <= 64:
        return interp.new(List(tuple(Tup((Const(i), item)) for i, item in enumerate(items))))
    found, count = interp.element(args[0], ast.Constant(None)) if args else (UNKNOWN, None)
    return Thing("sequence", info={"element": Tup((Counter(0, count), found)), "count": count})


def _repeated(interp: Interpreter, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    if not args:
        return UNKNOWN
    count = kwargs.get("times", args[1] if len(args) > 1 else None)
    return Thing("sequence", info={"element": args[0], "count": count})


def _zip(interp: Interpreter, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    items = [interp.items(one) for one in args]
    if items and all(one is not None for one in items):
        return interp.new(List(tuple(Tup(tuple(parts)) for parts in zip(*(one or () for one in items), strict=False))))
    found = [interp.element(one, ast.Constant(None)) for one in args]
    return Thing("sequence", info={"element": Tup(tuple(one for one, _ in found)), "count": None})


def _listed(interp: Interpreter, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    if not args:
        return interp.new(List(()))
    items = interp.items(args[0])
    if items is not None:
        return interp.new(List(items))
    if isinstance(args[0], Thing):
        return args[0]
    return interp.new(List(None, interp.element(args[0], ast.Constant(None))[0]))


def _tupled(interp: Interpreter, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    items = interp.items(args[0]) if args else ()
    return Tup(items) if items is not None else _listed(interp, args, kwargs, node)


def _deque(interp: Interpreter, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    items = interp.items(args[0]) if args else ()
    most = plain(kwargs.get("maxlen", args[1] if len(args) > 1 else NONE))
    return interp.new(List(items, None, most if isinstance(most, int) else None))


def _dicted(interp: Interpreter, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    items: dict[Any, Value] = {}
    rest: Value | None = None
    for given in args:
        content = interp.content(given)
        if isinstance(content, Dict):
            items.update(content.items)
            rest = content.rest
        elif isinstance(given, Thing) and given.kind == "observation":
            rest = given
        elif not isinstance(given, Ext | Func):
            rest = unknown("a dict", given)
    items.update(kwargs)
    return interp.new(Dict(items, rest))


def _str(interp: Interpreter, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    def one(value: Value) -> Value:
        if isinstance(value, Text | Const) and (isinstance(value, Text) or isinstance(value.value, str)):
            return value
        text = text_of(value)
        return interp.text(text.parts, node, ()) if text is not None else unknown("a text", value)

    return interp.lift(one, args[0]) if args else Const("")


def _number(kind: Callable[[Any], Any]) -> Handler:
    def run(interp: Interpreter, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
        def one(value: Value) -> Value:
            if isinstance(value, Const):
                try:
                    return Const(kind(value.value), value.at, value.origin)
                except (TypeError, ValueError, OverflowError):
                    return UNKNOWN
            if isinstance(value, Num):
                return arrays.apply(interp, lambda a: kind(a), (value,), node, "" if kind is not float else "-")
            return value if isinstance(value, Counter) else unknown("a number", value)

        return interp.lift(one, args[0]) if args else Const(kind())  # type: ignore[call-arg]

    return run


def _bool(interp: Interpreter, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    truth = interp.truth(args[0]) if args else False
    if isinstance(truth, bool):
        first = args[0] if args else None
        return replace(first, value=truth) if isinstance(first, Const) else Const(truth)
    return Num(truth, "action") if truth is not None else unknown("a condition", *args)


def _arithmetic(do: Callable[..., Any]) -> Handler:
    def run(interp: Interpreter, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
        given: Sequence[Value] = args
        if len(args) == 1:
            items = interp.items(args[0])
            if items is not None and do in (min, max, sum):
                given = items
        if any(isinstance(one, Alt) for one in given) and len(given) == 2:
            return interp.lift2(lambda a, b: run(interp, (a, b), kwargs, node), given[0], given[1])
        if not given:
            return UNKNOWN
        if all(isinstance(one, Const) for one in given):
            try:
                values = [plain(one) for one in given]
                found = do(values) if do is sum else do(*values)
            except Exception:  # noqa: BLE001 - the program's own values
                return UNKNOWN
            first = next((one for one in given if isinstance(one, Const) and one.value == found), None)
            return replace(first, value=found) if isinstance(first, Const) else Const(found)
        if len(args) == 1 and do in (min, max, sum):
            return unknown("one of several", *given)
        return arrays.apply(interp, do, given, node)

    return run


def _isinstance(interp: Interpreter, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    if len(args) != 2:
        return UNKNOWN
    value, kinds = args
    names = [one.name if isinstance(one, Ext) else "" for one in (kinds.items if isinstance(kinds, Tup) else (kinds,))]
    short = {name.rpartition(".")[2] for name in names}
    content = interp.content(value)
    actual: set[str] = set()
    if isinstance(value, Const) and value.value is not None:
        actual = {type(value.value).__name__}
        if isinstance(value.value, bool):
            actual.add("int")
    elif isinstance(value, Text):
        actual = {"str"}
    elif isinstance(content, Dict):
        actual = {"dict", "Mapping"}
    elif isinstance(content, List):
        actual = {"list", "Sequence"}
    elif isinstance(value, Tup):
        actual = {"tuple", "Sequence"}
    elif isinstance(value, Counter):
        actual = {"int"}
    if not actual:
        return unknown("a type", value)
    if isinstance(value, Const | Text | Tup | Counter) or isinstance(content, Dict | List):
        if all(
            name.startswith("builtins.") or name.rpartition(".")[2] in ("ndarray", "Tensor", "Image") for name in names
        ):
            return Const(bool(actual & short))
        return Const(True) if actual & short else unknown("a type", value)
    return UNKNOWN


def _hasattr(interp: Interpreter, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    name = plain(args[1]) if len(args) > 1 else None
    content = interp.content(args[0]) if args else None
    if isinstance(content, Obj) and isinstance(name, str):
        if name in content.attrs or interp.class_member(content.cls, name) is not None:
            return Const(True)
        return Const(False) if not content.base else UNKNOWN
    return UNKNOWN


def _getattr(interp: Interpreter, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    name = plain(args[1]) if len(args) > 1 else None
    if not isinstance(name, str):
        return unknown("an attribute", *args[:1])
    if len(args) > 2:
        has = _hasattr(interp, args[:2], {}, node)
        if plain(has) is False:
            return args[2]
    return interp.attribute(args[0], name, node)


def _setattr(interp: Interpreter, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    name = plain(args[1]) if len(args) == 3 else None
    if isinstance(name, str):
        interp._set_attribute(args[0], name, args[2], node)
    return NONE


def _map(interp: Interpreter, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    if len(args) < 2:
        return UNKNOWN
    items = interp.items(args[1])
    if items is not None and len(items) <= 16:
        return interp.new(List(tuple(interp.call(args[0], (item,), {}, node) for item in items)))
    return interp.new(List(None, interp.call(args[0], (interp.element(args[1], ast.Constant(None))[0],), {}, node)))


def _next(interp: Interpreter, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    if not args:
        return UNKNOWN
    if isinstance(args[0], Thing) and args[0].kind == "norm_stats":
        if robots.only_one(interp):
            return unknown("the only key of norm_stats")
        interp.event("statistics", node, key=Thing("key", "first"), owner=args[0], got=True)
        return Thing("key", "first", {"at": interp.place(node)})
    found, _ = interp.element(args[0], ast.Constant(None))
    if isinstance(found, Thing) and found.kind in ("stats", "key") and found.name == "first":
        if robots.only_one(interp):
            return unknown("the only key of norm_stats")
        interp.event("statistics", node, key=Thing("key", "first"), owner=args[0], got=True)
        return replace(found, info={**found.info, "key": Thing("key", "first"), "at": interp.place(node)})
    return found


def _any(interp: Interpreter, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    items = interp.items(args[0]) if args else None
    if items is not None:
        found = [interp.truth(one) for one in items]
        if any(one is True for one in found):
            return Const(True)
        if all(one is False for one in found):
            return Const(False)
    return unknown("a condition", *args)


def _all(interp: Interpreter, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    items = interp.items(args[0]) if args else None
    if items is not None:
        found = [interp.truth(one) for one in items]
        if all(one is True for one in found):
            return Const(True)
        if any(one is False for one in found):
            return Const(False)
    return unknown("a condition", *args)


def _reversed(interp: Interpreter, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    items = interp.items(args[0]) if args else None
    return interp.new(List(items[::-1])) if items is not None else _listed(interp, args, kwargs, node)


def _slice(interp: Interpreter, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    parts = [None if vision.plain_none(one) else one for one in args]
    if len(parts) == 1:
        return Slice(None, parts[0], None)
    return Slice(*(parts + [None] * 3)[:3])


def _partial(interp: Interpreter, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return Partial(args[0], args[1:], dict(kwargs)) if args else UNKNOWN


def _join_path(interp: Interpreter, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    parts: list[str | Hole] = []
    for index, value in enumerate(args):
        if index:
            parts.append("/")
        text = text_of(value)
        parts.extend(text.parts if text is not None else (Hole("?"),))
    return interp.text(parts, node, ())


def _seed(of: str) -> Handler:
    def run(interp: Interpreter, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
        interp.event("seed", node, value=args[0] if args else next(iter(kwargs.values()), NONE), of=of)
        return NONE

    return run


def _copied(interp: Interpreter, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    content = interp.content(args[0]) if args else None
    return interp.new(content) if content is not None else _first(interp, args, kwargs, node)


def _replaced_fields(interp: Interpreter, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    content = interp.content(args[0]) if args else None
    if isinstance(content, Obj):
        return interp.new(replace(content, attrs={**content.attrs, **kwargs}))
    return UNKNOWN


def _field(interp: Interpreter, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    if "default" in kwargs:
        return Thing("field", info={"default": kwargs["default"]})
    if "default_factory" in kwargs:
        return Thing("field", info={"default": interp.call(kwargs["default_factory"], (), {}, node)})
    return Thing("field", info={"default": args[0]} if args else {})


def _nothing(interp: Interpreter, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return UNKNOWN


def _none(interp: Interpreter, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return NONE


def _defaultdict(interp: Interpreter, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    rest = interp.call(args[0], (), {}, node) if args and isinstance(args[0], Ext | Func | Class) else UNKNOWN
    return interp.new(Dict({}, rest))


def _get_environ(interp: Interpreter, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    default = args[1] if len(args) > 1 else None
    return default if default is not None and not vision.plain_none(default) else unknown("the environment's variable")


def _opened(interp: Interpreter, args: Args, node: ast.AST) -> Value:
    """`Image.open`: what was saved to a buffer, else a picture that is not known."""
    content = interp.content(args[0]) if args else None
    held = content.attrs.get("__image__") if isinstance(content, Obj) else args[0] if args else None
    if isinstance(held, Image | Alt):
        return held
    return Image(_external_way(), "HWC", (interp.hop("a picture from a file", node),))


def save_image(interp: Interpreter, image: Image, args: Args, kwargs: Mapping[str, Value], node: ast.AST) -> None:
    """`image.save(buffer, format="JPEG")`."""
    target = args[0] if args else kwargs.get("fp")
    content = interp.content(target)
    if isinstance(content, Obj) and content.base == "io.BytesIO" and isinstance(target, Ref):
        given = plain(kwargs.get("format", args[1] if len(args) > 1 else NONE))
        if isinstance(given, str) and given.upper() in ("JPEG", "JPG"):
            image = replace(image, way=replace(image.way, jpeg=True), trail=(*image.trail, interp.hop("JPEG", node)))
        _set(interp, target, "__image__", image)


def _encoded(interp: Interpreter, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    image = args[1] if len(args) > 1 else kwargs.get("img", UNKNOWN)
    suffix = plain(args[0]) if args else None
    if isinstance(image, Image) and isinstance(suffix, str) and suffix.lower() in (".jpg", ".jpeg"):
        image = replace(image, way=replace(image.way, jpeg=True), trail=(*image.trail, interp.hop("JPEG", node)))
    return Tup((Const(True), image))


def _chr(interp: Interpreter, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    code = plain(args[0]) if args else None
    return Const(chr(code)) if isinstance(code, int) and 0 <= code < 0x110000 else UNKNOWN


# -- command lines and configurations ------------------------------------------------------------------------------


def _parser(interp: Interpreter, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return Thing("parser", id=interp.new(Dict({})).id)


def _parser_method(interp: Interpreter, thing: Thing, name: str, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    if name in ("add_argument_group", "add_mutually_exclusive_group", "add_subparsers", "add_parser"):
        return thing
    content = interp.heap.get(thing.id)
    if not isinstance(content, Dict):
        return UNKNOWN
    if name == "add_argument":
        found = _option(interp, args, kwargs, node, content)
        if found is not None:
            interp.heap[thing.id] = replace(content, items={**content.items, found[0]: found[1]})
        return UNKNOWN
    if name == "set_defaults":
        interp.heap[thing.id] = replace(content, items={**content.items, **kwargs})
        return UNKNOWN
    if name in ("parse_args", "parse_known_args", "parse_intermixed_args"):
        made = interp.new(Obj(None, dict(content.items)))
        return Tup((made, UNKNOWN)) if name == "parse_known_args" else made
    return UNKNOWN


def _option(interp: Interpreter, args: Args, kwargs: Kwargs, node: ast.AST, known: Dict) -> tuple[str, Value] | None:
    names = [plain(one) for one in args if isinstance(plain(one), str)]
    if not names:
        return None
    flag = next((name for name in names if name.startswith("--")), names[0])
    target = plain(kwargs["dest"]) if "dest" in kwargs else flag.lstrip("-").replace("-", "_")
    if not isinstance(target, str):
        return None
    action, default = plain(kwargs.get("action", NONE)), kwargs.get("default")
    choices = tuple(plain(one) for one in interp.items(kwargs["choices"]) or ()) if "choices" in kwargs else ()
    choices = tuple(one for one in choices if isinstance(one, str))
    if target in known.items and default is None:
        return target, known.items[target]
    if default is None and action in ("store_true", "store_false"):
        return target, Const(action == "store_false", (interp.source, node), flag)
    if default is None:
        return target, unknown(f"{flag} has no default")
    if isinstance(default, Const):
        text_type = kwargs.get("type")
        value = default.value
        if (
            isinstance(text_type, Ext)
            and isinstance(value, str)
            and text_type.name in ("builtins.int", "builtins.float")
        ):
            value = _cast(value, text_type.name)
        return target, Const(value, default.at or (interp.source, node), flag, choices)
    return target, default


def _cast(value: str, name: str) -> Any:
    try:
        return int(value) if name.endswith("int") else float(value)
    except ValueError:
        return value


def _run_with_defaults(interp: Interpreter, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """`tyro.cli(f)`, `draccus.parse(Config)`, `fire.Fire(f)`: a function or a class with its defaults."""
    target = args[0] if args else kwargs.get("config_class", kwargs.get("f", UNKNOWN))
    if isinstance(target, Func | Class | Bound):
        return interp.call(target, (), {}, node)
    content = interp.content(target)
    return interp.new(content) if content is not None else unknown("a configuration")


def configuration(interp: Interpreter, path: Value) -> Value:
    """A YAML file's contents as options with their defaults; not known where it is not found beside the program."""
    name = plain(path)
    found = interp.sources.configuration(name, interp.source) if isinstance(name, str) else None
    if found is None:
        return unknown("a configuration file")
    file, root = found
    return _yaml_value(interp, file, root, "")


def _yaml_value(interp: Interpreter, file: Any, node: Any, name: str) -> Value:
    kind = type(node).__name__
    if kind == "MappingNode":
        items = {str(key.value): _yaml_value(interp, file, value, str(key.value)) for key, value in node.value}
        return interp.new(Dict(items, None, "config"))
    if kind == "SequenceNode":
        return interp.new(List(tuple(_yaml_value(interp, file, one, name) for one in node.value)))
    start, end = node.start_mark, node.end_mark
    at = ast.Pass(lineno=start.line + 1, col_offset=start.column, end_lineno=end.line + 1, end_col_offset=end.column)
    return Const(_scalar(node), (file, at), name)


def _scalar(node: Any) -> Any:
    value, tag = node.value, node.tag.rpartition(":")[2]
    try:
        if tag == "bool":
            return value.lower() in ("true", "yes", "on")
        if tag == "int":
            return int(value.replace("_", ""), 0)
        if tag == "float":
            return float(value.replace("_", ""))
    except ValueError:
        return value
    return None if tag == "null" else value


# -- by the last name ----------------------------------------------------------------------------------------------


def _load_named(interp: Interpreter, name: str, args: Args, kwargs: Kwargs, node: ast.AST) -> Value | None:
    return robots.load(interp, name, args, kwargs, node)


def _environment(interp: Interpreter, name: str, args: Args, kwargs: Kwargs, node: ast.AST) -> Value | None:
    if name.endswith(".make") and not name.startswith(("gym", "simpler_env", "robosuite", "mani_skill")):
        return None
    return robots.environment(interp, name, args, kwargs, node)


def _benchmarks(interp: Interpreter, name: str, args: Args, kwargs: Kwargs, node: ast.AST) -> Value | None:
    return Thing("benchmarks")


def _benchmark(interp: Interpreter, name: str, args: Args, kwargs: Kwargs, node: ast.AST) -> Value | None:
    interp.event("suite", node, value=args[0] if args else UNKNOWN)
    return Thing("suite_class", info={"name": args[0] if args else UNKNOWN})


def _libero_path(interp: Interpreter, name: str, args: Args, kwargs: Kwargs, node: ast.AST) -> Value | None:
    return Text((Hole("folder"),))


def _sim_image(interp: Interpreter, name: str, args: Args, kwargs: Kwargs, node: ast.AST) -> Value | None:
    from vladoctor.lint.facts import ImageWay

    return Image(ImageWay("", "identity"), "HWC", (interp.hop("the environment's picture", node),))


def _dynamic_class(interp: Interpreter, name: str, args: Args, kwargs: Kwargs, node: ast.AST) -> Value | None:
    text = plain(args[0]) if args else None
    return Thing("loaded_class", text if isinstance(text, str) else "a class")


def _post(interp: Interpreter, name: str, args: Args, kwargs: Kwargs, node: ast.AST) -> Value | None:
    payload = kwargs.get("json", kwargs.get("data", args[1] if len(args) > 1 else None))
    if payload is None or not name.startswith(("requests", "httpx", "aiohttp")):
        return None
    content = interp.content(payload)
    keyed = isinstance(content, Dict) and "unnorm_key" in content.items
    asked = robots.gather(interp, (payload,), {})
    if not asked.texts and not keyed:
        return None
    event = interp.event(
        "query", node, owner=UNKNOWN, method="post", args=args, kwargs={}, asked=asked,
        family="openvla" if keyed else "", where=None, client=True,
    )  # fmt: skip
    return Thing("response", info={"answer": robots.answer(interp, event, event.data["family"])})


def _axis_angle(interp: Interpreter, name: str, args: Args, kwargs: Kwargs, node: ast.AST) -> Value | None:
    """Robosuite's own conversion (robosuite 1.4.0 utils/transform_utils.py): x y z w to an axis times an angle."""
    import numpy as np

    def do(quat: Any) -> Any:
        quat = np.array(quat, dtype=float)
        w = float(np.clip(quat[3], -1.0, 1.0))
        den = math.sqrt(max(1.0 - w * w, 0.0))
        return np.zeros(3) if den < 1e-9 else quat[:3] * 2.0 * math.acos(w) / den

    return arrays.apply(interp, do, args[:1], node, "-")


def _euler_axis_angle(interp: Interpreter, name: str, args: Args, kwargs: Kwargs, node: ast.AST) -> Value | None:
    """transforms3d's conversion of roll, pitch and yaw about fixed axes to an axis and an angle."""
    import numpy as np

    def do(roll: Any, pitch: Any, yaw: Any) -> Any:
        half = [0.5 * float(np.ravel(one)[0]) for one in (roll, pitch, yaw)]
        (cr, cp, cy), (sr, sp, sy) = [math.cos(h) for h in half], [math.sin(h) for h in half]
        w = cr * cp * cy + sr * sp * sy
        xyz = np.array(
            [sr * cp * cy - cr * sp * sy, cr * sp * cy + sr * cp * sy, cr * cp * sy - sr * sp * cy], dtype=float
        )
        length = float(np.linalg.norm(xyz))
        axis = xyz / length if length > 1e-12 else np.array([1.0, 0.0, 0.0])
        return np.append(axis, 2 * math.atan2(length, w))

    found = arrays.apply(interp, do, args[:3], node) if len(args) >= 3 else UNKNOWN
    if not isinstance(found, Num):
        return None
    index: list[Value] = [Slice(None, Const(3), None), Const(3)]
    return Tup(tuple(arrays.item(interp, found, one, node) for one in index))


def _yaml(interp: Interpreter, name: str, args: Args, kwargs: Kwargs, node: ast.AST) -> Value | None:
    file = args[0] if args else None
    return configuration(interp, file.info["path"]) if isinstance(file, Thing) and file.kind == "file" else None


def _peft(interp: Interpreter, name: str, args: Args, kwargs: Kwargs, node: ast.AST) -> Value | None:
    model = next((one for one in args if isinstance(one, Thing) and one.kind == "model"), None)
    if model is not None and "Peft" in name:
        interp.event("adapter", node, owner=model)
        return replace(model, info={**model.info, "where": unknown("an adapter")})
    return robots.load(interp, name, args, kwargs, node)


_BY_LAST_NAME: Mapping[str, Callable[..., Value | None]] = {
    "from_pretrained": _peft,
    "load_pretrained": _load_named,
    "load_vla": _load_named,
    "create_trained_policy": _load_named,
    "make_policy": _load_named,
    "make": _environment,
    **dict.fromkeys((*robots.RAW_ENVIRONMENTS, *robots.VECTOR_ENVIRONMENTS), _environment),
    "get_benchmark_dict": _benchmarks,
    "get_benchmark": _benchmark,
    "get_libero_path": _libero_path,
    "get_image_from_maniskill2_obs_dict": _sim_image,
    "get_image_from_maniskill3_obs_dict": _sim_image,
    "get_class_from_dynamic_module": _dynamic_class,
    "post": _post,
    "quat2axisangle": _axis_angle,
    **{
        name: lambda interp, name, args, kwargs, node: robots.rotation(interp, name, args, kwargs, node)
        for name in ("from_euler", "from_quat", "from_rotvec", "from_matrix")
    },
    "euler2axangle": _euler_axis_angle,
    "VideoCapture": lambda interp, name, args, kwargs, node: Thing("capture"),
    "safe_load": _yaml,
    "full_load": _yaml,
    "ActionTokenizer": lambda interp, name, args, kwargs, node: Thing("action_tokenizer"),
}

BUFFER = Obj(None, {}, "io.BytesIO")

_FUNCTIONS: dict[str, Handler] = {
    **{f"builtins.{name}": do for name, do in {
        "len": _len, "range": _range, "enumerate": _enumerate, "zip": _zip, "list": _listed, "set": _listed,
        "tuple": _tupled, "sorted": _listed, "iter": _first, "dict": _dicted, "str": _str, "int": _number(int),
        "float": _number(float), "bool": _bool, "abs": _arithmetic(abs), "min": _arithmetic(min),
        "max": _arithmetic(max), "sum": _arithmetic(sum), "round": _arithmetic(round),
        "isinstance": _isinstance, "hasattr": _hasattr,
        "getattr": _getattr, "setattr": _setattr, "map": _map, "next": _next, "any": _any, "all": _all,
        "reversed": _reversed, "slice": _slice, "print": _none, "filter": _nothing, "type": _nothing,
        "input": lambda i, a, k, n: Text((Hole("instruction"),), i.place(n)), "frozenset": _listed, "vars": _copied,
        "property": _first, "staticmethod": _first,
    }.items()},
    "functools.partial": _partial,
    "itertools.repeat": _repeated,
    "collections.deque": _deque,
    "collections.defaultdict": _defaultdict,
    "collections.OrderedDict": _dicted,
    "copy.deepcopy": _copied,
    "copy.copy": _copied,
    "queue.Queue": _deque,
    "yaml.load": lambda i, a, k, n: _yaml(i, "yaml.load", a, k, n) or UNKNOWN,
    "omegaconf.OmegaConf.load": lambda i, a, k, n: configuration(i, a[0]) if a else UNKNOWN,
    "omegaconf.OmegaConf.create": _first,
    "omegaconf.OmegaConf.to_container": _first,
    "builtins.open": lambda i, a, k, n: Thing("file", info={"path": a[0]}) if a else UNKNOWN,
    "builtins.chr": _chr,
    "io.BytesIO": lambda i, a, k, n: a[0] if a and isinstance(a[0], Ref | Image) else i.new(BUFFER),
    "os.path.join": _join_path,
    "os.path.expanduser": _first,
    "os.path.abspath": _first,
    "os.environ.get": _get_environ,
    "os.getenv": _get_environ,
    "pathlib.Path": lambda i, a, k, n: _join_path(i, a, k, n) if a else UNKNOWN,
    "tqdm.tqdm": _first,
    "tqdm.trange": _range,
    "tqdm.auto.tqdm": _first,
    "tqdm.notebook.tqdm": _first,
    "tqdm.auto.trange": _range,
    "rich.progress.track": _first,
    "dataclasses.field": _field,
    "pydantic.Field": _field,
    "dataclasses.replace": _replaced_fields,
    "dataclasses.asdict": lambda i, a, k, n: i.attribute(a[0], "__dict__", n) if a else UNKNOWN,
    "argparse.ArgumentParser": _parser,
    "argparse.Namespace": lambda i, a, k, n: i.new(Obj(None, dict(k))),
    "types.SimpleNamespace": lambda i, a, k, n: i.new(Obj(None, dict(k))),
    "tyro.cli": _run_with_defaults,
    "draccus.parse": _run_with_defaults,
    "draccus.wrap": _nothing,
    "fire.Fire": _run_with_defaults,
    "typer.run": _run_with_defaults,
    "absl.app.run": lambda i, a, k, n: i.call(a[0], (UNKNOWN,), {}, n) if a else UNKNOWN,
    "simple_parsing.parse": _run_with_defaults,
    "pyrallis.parse": _run_with_defaults,
    "asyncio.run": _first,
    "numpy.random.seed": _seed("numpy"),
    "numpy.random.default_rng": _seed("generator"),
    "torch.manual_seed": _seed("torch"),
    "random.seed": _seed("python"),
    "torch.cuda.manual_seed_all": _seed("cuda"),
    "torch.cuda.manual_seed": _seed("cuda"),
    "transformers.set_seed": _seed("all"),
    "accelerate.utils.set_seed": _seed("all"),
    "lerobot.utils.random_utils.set_seed": _seed("all"),
    "lerobot.common.utils.random_utils.set_seed": _seed("all"),
    "lightning.seed_everything": _seed("all"),
    "pytorch_lightning.seed_everything": _seed("all"),
    "PIL.Image.open": lambda i, a, k, n: _opened(i, a, n),
    "cv2.imencode": _encoded,
    "cv2.imdecode": _first,
    "numpy.frombuffer": _first,
    "base64.b64encode": _first,
    "base64.b64decode": _first,
    "cv2.imread": lambda i, a, k, n: Image(_external_way("BGR"), "HWC", (i.hop("cv2.imread", n),)),
    "imageio.imread": lambda i, a, k, n: Image(_external_way(), "HWC", (i.hop("a picture from a file", n),)),
}  # fmt: skip


def _external_way(channels: str = "RGB") -> Any:
    from vladoctor.lint.facts import ImageWay

    return ImageWay("", None, channels=channels)


__all__ = ["Content", "Module", "numbers", "options", "same"]
