"""Environments, benchmarks, models and processors: what they return, and what of it is written down.

What a model answers becomes sample numbers that are followed from there; what an environment returns becomes cameras'
frames and a sample state.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from vladoctor.lint import arrays, families, vision
from vladoctor.lint.facts import ImageWay
from vladoctor.lint.families import BASE_CHECKPOINTS, BASE_KEYS
from vladoctor.lint.values import (
    NONE,
    UNKNOWN,
    WORLDS,
    Alt,
    Answer,
    Class,
    Const,
    Counter,
    Dict,
    Ext,
    Hole,
    Image,
    List,
    Num,
    Obj,
    Partial,
    Ref,
    Slice,
    Text,
    Thing,
    Tup,
    Unknown,
    Value,
    alternatives,
    options,
    plain,
    taints,
    text_of,
    unknown,
)
from vladoctor.places import Hop

if TYPE_CHECKING:
    from vladoctor.lint.interpret import Event, Interpreter

Args = tuple[Value, ...]
Kwargs = Mapping[str, Value]

SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90", "libero_100")

RAW_ENVIRONMENTS = frozenset({"OffScreenRenderEnv", "ControlEnv", "SegmentationRenderEnv", "DemoRenderEnv"})
"""LIBERO's own environments: their frames and states come as robosuite makes them, and nothing settles by itself."""

VECTOR_ENVIRONMENTS = frozenset({"DummyVectorEnv", "SubprocVectorEnv", "RayVectorEnv", "BaseVectorEnv"})

QUERIES = frozenset(
    {"predict_action", "select_action", "infer", "sample_actions", "get_action", "act", "inference",
     "get_vla_action", "predict_action_chunk", "select_action_chunk", "get_actions", "predict", "generate", "query"}
)  # fmt: skip
SURE_QUERIES = frozenset(
    {"predict_action", "select_action", "infer", "sample_actions", "get_vla_action", "predict_action_chunk"}
)

# The sample answers. Worlds 0 and 1, and 6 and 7, share the gripper's value, so that what depends on the gripper alone
# can be told from what does not.
GRIPPER = (0.0, 0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.0)
ARM = np.array(
    [[round(((w * 7 + d * 13 + w * d * 5) % 23 - 11) / 23, 4) or 0.017 for d in range(6)] for w in range(WORLDS)]
)
TOKENS = (31744, 31800, 31840, 31872, 31881, 31905, 31950, 31999)
LOW = np.array([-0.62, -0.55, -0.71, -0.11, -0.16, -0.09, 0.0])
HIGH = np.array([0.83, 0.77, 0.91, 0.13, 0.19, 0.15, 0.996])
"""Sample statistics (q01 and q99), by dimension."""

STATE: Mapping[str, np.ndarray] = {
    "robot0_eef_pos": np.array([-0.1234, 0.0567, 1.0345]),
    "robot0_eef_quat": np.array([0.36, -0.48, 0.64, 0.48]),
    "robot0_gripper_qpos": np.array([0.0389, -0.0391]),
    "robot0_joint_pos": np.array([0.101, 0.202, 0.303, -2.404, 0.505, 1.606, 0.707]),
}
"""A sample of what LIBERO's observation says of the robot: metres, x y z w, metres."""


@dataclass(frozen=True, eq=False)
class Asked:
    """What a query was given, gathered from its arguments."""

    images: tuple[tuple[str, Value], ...] = ()
    texts: tuple[tuple[str, Value], ...] = ()
    ids: tuple[Thing, ...] = ()
    states: tuple[tuple[str, Value], ...] = ()
    opaque: bool = False
    """Something was given that was made of pictures or texts in a way that is not known."""


@dataclass(eq=False)
class _Gathering:
    images: list[tuple[str, Value]] = field(default_factory=list)
    texts: list[tuple[str, Value]] = field(default_factory=list)
    ids: list[Thing] = field(default_factory=list)
    states: list[tuple[str, Value]] = field(default_factory=list)
    opaque: bool = False


NEVER = "<info>"
"""Origin of what LIBERO's info says of success: nothing."""


def is_suite(value: Any) -> bool:
    """Whether a value is the name of one of LIBERO's suites."""
    return isinstance(value, str) and value in SUITES


# -- environments --------------------------------------------------------------------------------------------------


def environment(interp: Interpreter, name: str, args: Args, kwargs: Kwargs, node: ast.AST) -> Thing:
    """An environment that is made."""
    short = name.rpartition(".")[2]
    kind, raw = "", False
    if short in RAW_ENVIRONMENTS or short in VECTOR_ENVIRONMENTS:
        kind, raw = "libero", True
        if short in VECTOR_ENVIRONMENTS:
            inner = next((one for one in _made(interp, args[0] if args else None, node)), None)
            if inner is not None:
                return replace(inner, name=short)
            return Thing("env", short, {"kind": kind, "raw": True}, next(interp._ids))
    elif name.startswith(("simpler_env", "mani_skill", "ManiSkill")):
        kind = "simplerenv"
    elif name.startswith("robosuite"):
        kind = "robosuite"
    elif name.startswith(("gym", "gymnasium")):
        text = " ".join(interp.files)
        imports = "".join(one.text[:4000] for one in interp.files.values())
        kind = "simplerenv" if re.search(r"mani_?skill|simpler_env", imports, re.I) else "gym"
        del text
    elif "lerobot" in name:
        kind = "lerobot"
    height, width = (vision.integers(interp, kwargs.get(key)) for key in ("camera_heights", "camera_widths"))
    rendered = (
        (height[0], width[0])
        if height and width
        else (128, 128)
        if raw and not {"camera_heights"} & set(kwargs)
        else None
    )
    made = Thing("env", short, {"kind": kind, "raw": raw, "rendered": rendered}, next(interp._ids))
    interp.event(
        "env",
        node,
        env=made,
        task=args[0] if args else kwargs.get("id"),
        bddl=kwargs.get("bddl_file_name", args[0] if args and raw else None),
        kwargs=kwargs,
    )
    return made


def _made(interp: Interpreter, value: Value | None, node: ast.AST) -> Iterator[Thing]:
    """Environments that a list of functions makes."""
    if value is None:
        return
    element, _ = interp.element(value, ast.Constant(None))
    if not isinstance(element, Unknown | Const):
        made = interp.call(element, (), {}, node)
        if isinstance(made, Thing) and made.kind == "env":
            yield made


def deep_taints(interp: Interpreter, value: Value, depth: int = 0) -> frozenset[str]:
    """What a value was made of, what stands in it on the heap included."""
    found = taints(value)
    content = interp.content(value)
    inner: tuple[Value, ...] = ()
    if isinstance(content, List):
        inner = content.items or ((content.element,) if content.element is not None else ())
    elif isinstance(content, Dict):
        inner = tuple(content.items.values())
    elif isinstance(value, Tup):
        inner = value.items
    elif isinstance(value, Alt):
        inner = tuple(option for _, option in value.options)
    if depth < 4:
        found = found.union(*(deep_taints(interp, one, depth + 1) for one in inner[:16]))
    return found


def env_of(interp: Interpreter, value: Value) -> Thing | None:
    """The environment that a value is, or that an object of the program inherits from."""
    if isinstance(value, Thing) and value.kind == "env":
        return value
    content = interp.content(value)
    if isinstance(content, Obj):
        held = content.attrs.get("__thing__")
        return held if isinstance(held, Thing) and held.kind == "env" else None
    return None


def env_method(interp: Interpreter, env: Thing, name: str, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """A method of an environment."""
    observed = Thing("observation", info={"env": env}, id=env.id)
    if name == "reset":
        interp.event("reset", node, env=env, kwargs=kwargs)
        if "seed" in kwargs:
            interp.event("env_seed", node, env=env, value=kwargs["seed"])
        return observed
    if name in ("set_init_state", "regenerate_obs_from_state"):
        interp.event("init_state", node, env=env, value=args[0] if args else None)
        return observed
    if name == "seed":
        interp.event("env_seed", node, env=env, value=args[0] if args else next(iter(kwargs.values()), UNKNOWN))
        return NONE
    if name == "step":
        action = args[0] if args else kwargs.get("action", UNKNOWN)
        interp.event("step", node, env=env, action=action, deep=deep_taints(interp, action))
        return Thing("stepped", info={"env": env}, id=env.id)
    if name in ("get_observation", "_get_observations", "get_obs", "_get_obs", "observation"):
        return observed
    if name in ("get_language_instruction", "get_instruction"):
        return instruction("environment", interp, node)
    if name in (
        "get_sim_state",
        "close",
        "render",
        "check_success",
        "get_segmentation_instances",
        "get_segmentation_of_interest",
    ):
        return unknown(f"{name} of an environment")
    if name in ("set_state", "set_state_from_flattened", "reset_to"):
        interp.event("init_state", node, env=env, value=args[0] if args else None)
        return observed
    return unknown(f"{name} of an environment", *args)


def instruction(source: str, interp: Interpreter, node: ast.AST) -> Text:
    """The task's instruction. LIBERO's are lower case without punctuation."""
    return Text((Hole("instruction", clean=source == "libero"),), None, (interp.hop("the instruction", node),))


def observation_item(interp: Interpreter, thing: Thing, index: Value, node: ast.AST) -> Value:
    """`observation[key]`."""
    key = plain(index)
    env = thing.info.get("env")
    kind = env.info.get("kind", "") if isinstance(env, Thing) else ""
    if isinstance(key, int):
        return thing
    if not isinstance(key, str):
        return Unknown("an observation", frozenset({"observation"}))
    path = (*thing.info.get("path", ()), key)
    known_environment = kind in ("libero", "robosuite", "")
    camera = re.fullmatch(r"(.+)_image", key)
    if camera and known_environment and not thing.info.get("path"):
        rendered = env.info.get("rendered") if isinstance(env, Thing) else None
        raw = kind in ("libero", "robosuite") or camera[1] in ("agentview", "robot0_eye_in_hand")
        way = ImageWay(camera[1] if raw else "", "identity" if raw else None, rendered=rendered)
        return Image(way, "HWC", (interp.hop(key, node),), rendered)
    if key in STATE and known_environment:
        return Num((STATE[key],) * WORLDS, "state", place=interp.place(node))
    if kind == "simplerenv" and key in ("rgb", "Color", "color"):
        return Image(
            ImageWay(next((p for p in path if "camera" in p), ""), "identity"), "HWC", (interp.hop(key, node),)
        )
    if (
        re.search(r"(^|[._/])(image|images?_?\w*|rgb|pixels|full_image|wrist_image|\w*_rgb|cam\w*|\w+_image)$", key)
        and kind != "simplerenv"
    ):
        # Whoever named it may have turned it already.
        if not re.search(r"image$|rgb$|image\d*$", key):
            return replace(thing, info={**thing.info, "path": path})
        return Image(ImageWay("", None), "HWC", (interp.hop(key, node),))
    if key in ("state", "proprio", "robot_state", "agent", "task"):
        return Unknown(f"observation[{key!r}]", frozenset({"observation"}))
    return replace(thing, info={**thing.info, "path": path})


# -- checkpoints ---------------------------------------------------------------------------------------------------


def load(interp: Interpreter, call: str, args: Args, kwargs: Kwargs, node: ast.AST) -> Thing:
    """A model, a processor, a tokenizer or a configuration that is loaded."""
    class_name = call.rpartition(".")[0].rpartition(".")[2] or call.rpartition(".")[2]
    where = next(
        (
            kwargs[k]
            for k in ("pretrained_model_name_or_path", "pretrained_name_or_path", "model_name", "checkpoint_path")
            if k in kwargs
        ),
        args[0] if args else UNKNOWN,
    )
    lowered = class_name.lower()
    kind = (
        "processor"
        if "processor" in lowered or "feature" in lowered
        else "tokenizer"
        if "tokenizer" in lowered
        else "config"
        if "config" in lowered
        else "model"
    )
    event = interp.event(
        "load", node, call=call, what=kind, where=where, kwargs=dict(kwargs), evaluated=False, text_only=False
    )
    return Thing(kind, call, {"where": where, "load": event}, next(interp._ids))


def checkpoint_of(owner: Value) -> Value | None:
    """Where a model came from."""
    if isinstance(owner, Alt):
        return next((found for _, one in owner.options if (found := checkpoint_of(one)) is not None), None)
    return owner.info.get("where") if isinstance(owner, Thing) else None


def is_base(owner: Value | None) -> bool:
    """Whether a model is OpenVLA's base checkpoint."""
    where = checkpoint_of(owner) if owner is not None else None
    return isinstance(where, Const) and where.value in BASE_CHECKPOINTS


def process(interp: Interpreter, thing: Thing, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """`processor(prompt, image)` or `tokenizer(text)`: a batch."""
    found = gather(interp, args, kwargs)
    text = next((value for _, value in found.texts), None)
    if text is None and thing.kind == "processor" and not found.opaque:
        text = next((one for one in (*args, kwargs.get("text")) if one is not None and text_of(one) is not None), None)
    if text is None and thing.kind == "tokenizer":
        text = args[0] if args else kwargs.get("text")
    ids = Thing("ids", info={"text": text, "at": interp.place(node), "appended": ()})
    items: dict[Any, Value] = {"input_ids": ids, "attention_mask": Thing("mask")}
    if found.images or thing.kind == "processor":
        hop = interp.hop("processor", node)
        images = tuple(interp.lift(lambda one: _passed(one, hop), value) for _, value in found.images)
        items["pixel_values"] = Thing("pixels", info={"images": images, "processed": True})
    return interp.new(Dict(items, None, "batch"))


def _passed(value: Value, hop: Hop) -> Value:
    """A picture that is given to a processor, which scales it itself."""
    if not isinstance(value, Image):
        return value
    way = replace(value.way, normalised=value.way.normalised or value.scaled)
    return replace(value, way=way, trail=(*value.trail, hop))


def gather(interp: Interpreter, args: Args, kwargs: Kwargs) -> Asked:
    """Pictures, texts and states among the arguments of a query, with the names that they have there."""
    found = _Gathering()
    for position, value in enumerate(args):
        _gather(interp, value, f"#{position}", found, 0)
    for name, value in kwargs.items():
        _gather(interp, value, name, found, 0)
    return Asked(tuple(found.images), tuple(found.texts), tuple(found.ids), tuple(found.states), found.opaque)


_NO_PROMPT = re.compile(r"unnorm|key|dataset|device|dtype|path|name|checkpoint|url|model|id$|suite", re.I)


def _gather(interp: Interpreter, value: Value, name: str, found: _Gathering, depth: int) -> None:
    if depth > 6:
        return
    if isinstance(value, Image):
        found.images.append((name, value))
    elif isinstance(value, Text):
        if not _NO_PROMPT.search(name) and any(hole.kind in ("instruction", "?") for hole in value.holes):
            found.texts.append((name, value))
    elif isinstance(value, Const):
        if isinstance(value.value, str) and _prompt_like(value.value, name):
            found.texts.append((name, value))
    elif isinstance(value, Num):
        if value.origin == "state":
            found.states.append((name, value))
    elif isinstance(value, Thing):
        if value.kind == "pixels":
            found.images.extend(
                (f"{name}[{i}]" if i else name, image) for i, image in enumerate(value.info.get("images", ()))
            )
        elif value.kind == "ids":
            found.ids.append(value)
            if value.info.get("text") is not None:
                found.texts.append((name, value.info["text"]))
        elif value.kind == "observation":
            found.opaque = True
    elif isinstance(value, Unknown):
        found.opaque = found.opaque or bool(value.taints & {"image", "observation", "instruction"})
    elif isinstance(value, Tup):
        for item in value.items:
            _gather(interp, item, name, found, depth + 1)
    elif isinstance(value, Alt):
        kinds = {
            type(option) for _, option in value.options if not (isinstance(option, Const) and option.value is None)
        }
        if kinds <= {Image}:
            found.images.append((name, value))
        elif kinds <= {Text, Const} and Text in kinds:
            found.texts.append((name, value))
        else:
            for _, option in value.options:
                _gather(interp, option, name, found, depth + 1)
    else:
        content = interp.content(value)
        if isinstance(content, Dict):
            for key, item in content.items.items():
                _gather(interp, item, str(key), found, depth + 1)
            if content.rest is not None:
                _gather(interp, content.rest, name, found, depth + 1)
        elif isinstance(content, List):
            for item in content.items or (() if content.element is None else (content.element,)):
                _gather(interp, item, name, found, depth + 1)


def _prompt_like(text: str, name: str) -> bool:
    if _NO_PROMPT.search(name):
        return False
    return " " in text.strip() and len(text) > 8 and "/" not in text


def query(interp: Interpreter, owner: Value, method: str, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """A policy that is asked for an action: written down, and answered with samples."""
    asked = gather(interp, args, kwargs)
    name = owner.name if isinstance(owner, Thing | Ext) else ""
    where = checkpoint_of(owner)
    checkpoint = str(plain(where)) if isinstance(where, Const) and isinstance(where.value, str) else ""
    texts = [one.text for one in interp.files.values()]
    family = families.guess(name, method, kwargs, checkpoint, interp.source.text, texts, bool(asked.ids))
    event = interp.event(
        "query",
        node,
        owner=owner,
        method=method,
        args=args,
        kwargs=dict(kwargs),
        asked=asked,
        family=family,
        where=where,
    )
    return answer(interp, event, family)


def answer(interp: Interpreter, event: Event, family: str) -> Value:
    """What a policy of a family answers."""
    method = event.data["method"]
    if family in ("openvla", "univla", "tracevla", "minivla", "openvla.prismatic", "relative") and method != "generate":
        return samples(interp, event, "01", None)
    if family == "openvla-oft":
        return Tup((samples(interp, event, "01", 8), UNKNOWN))
    if family == "cogact":
        chunk = samples(interp, event, "01", 16)
        return Tup((chunk, unknown("normalised actions")))
    if family == "openpi":
        return interp.new(Dict({"actions": samples(interp, event, "native", 10, predicted=None)}, UNKNOWN))
    if family.startswith("lerobot."):
        return samples(interp, event, "native", 1 if method == "select_action" else 50)
    return Unknown("what a policy answers", frozenset({"action"}))


def samples(interp: Interpreter, event: Event, kind: str, rows: int | None, predicted: int | None = 0) -> Num:
    """Sample actions of 7 numbers, `rows` of them at once (None: one, without an axis for it)."""
    grip = np.array(GRIPPER) if kind == "01" else 2 * np.array(GRIPPER) - 1
    made = []
    for world in range(WORLDS):
        row = np.concatenate([ARM[world], [grip[world]]])
        made.append(row if rows is None else np.tile(row, (rows, 1)))
    chunk = (
        None if rows is None or rows == 1 else (rows if predicted == 0 else predicted, rows if predicted == 0 else None)
    )
    found = Answer(tuple(np.concatenate([ARM[w], [grip[w]]]) for w in range(WORLDS)), kind, event)
    return Num(tuple(made), "action", (interp.hop("the policy's answer", event.node),), None, chunk, found)


def tokens(interp: Interpreter, logits: Thing, node: ast.AST) -> Value:
    """The ids with the highest logits."""
    event = logits.info.get("query")
    one = logits.info.get("one", False)
    made = tuple(np.int64(TOKENS[w]) if one else np.full(7, TOKENS[w], dtype=np.int64) for w in range(WORLDS))
    return Num(made, "token", (), None, None, Answer(made, "token", event), interp.place(node))


def generated(interp: Interpreter, event: Event, node: ast.AST) -> Value:
    """What `generate` returns: the prompt's ids and 7 more; all of them count as action ids here."""
    made = tuple(np.full((1, 20), TOKENS[w], dtype=np.int64) for w in range(WORLDS))
    return Num(made, "token", (), None, None, Answer(made, "token", event), interp.place(node))


def forward(interp: Interpreter, thing: Thing, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """A model that is called: with pictures and ids it is a query, whose answer the loop decodes itself."""
    asked = gather(interp, args, kwargs)
    if not asked.images and not asked.ids:
        return unknown("what a model answers", *args, *kwargs.values())
    where = checkpoint_of(thing)
    checkpoint = str(plain(where)) if isinstance(where, Const) and isinstance(where.value, str) else ""
    texts = [one.text for one in interp.files.values()]
    family = families.guess(thing.name, "forward", kwargs, checkpoint, interp.source.text, texts, bool(asked.ids))
    event = interp.event(
        "query",
        node,
        owner=thing,
        method="forward",
        args=args,
        kwargs=dict(kwargs),
        asked=asked,
        family=family,
        where=where,
    )
    return Thing("output", info={"query": event})


def statistics(interp: Interpreter, owner: Thing, key: Value, node: ast.AST, default: Value | None = None) -> Value:
    """`norm_stats[key]` or, with a default, `norm_stats.get(key, default)`."""
    interp.event("statistics", node, key=key, owner=owner, got=default is not None)
    found = Thing("stats", info={"key": key, "at": interp.place(node)}, id=owner.id)
    if default is None:
        return found
    if is_base(owner) and isinstance(key, Const) and isinstance(key.value, str):
        return found if key.value in BASE_KEYS else default
    asked = f"{plain(key) if isinstance(key, Const) else 'the key'} is in norm_stats"
    return alternatives([(((asked, "true"),), found), (((asked, "false"),), default)])


def stats_item(interp: Interpreter, thing: Thing, index: Value, node: ast.AST) -> Value:
    """Entries of one dataset's statistics."""
    key = plain(index)
    if key in ("action", "proprio"):
        return replace(thing, info={**thing.info, "of": key})
    mean, std = (LOW + HIGH) / 2 + 0.03, (HIGH - LOW) / 5
    known: Mapping[Any, Any] = {
        "q01": LOW,
        "q99": HIGH,
        "p01": LOW,
        "p99": HIGH,
        "min": LOW * 1.3,
        "max": HIGH * 1.3,
        "mean": mean,
        "std": std,
        "mask": np.array([True] * 6 + [False]),
    }
    if key in known and thing.info.get("of") != "proprio":
        return Num((known[key],) * WORLDS, "statistics", place=interp.place(node))
    return unknown("statistics")


def thing_attribute(interp: Interpreter, thing: Thing, name: str, node: ast.AST) -> Value | None:
    """`thing.name`; None where it is a method."""
    kind = thing.kind
    if kind == "task":
        if name in ("language", "language_instruction", "instruction"):
            return instruction("libero", interp, node)
        if name in ("bddl_file", "problem_folder"):
            return Text((Hole(name),), interp.place(node))
        return unknown(f"task.{name}")
    if kind == "suite":
        if name in ("n_tasks", "num_tasks"):
            return unknown("the number of tasks")
        if name == "tasks":
            return Thing("sequence", info={"element": Thing("task")})
    if kind == "model":
        if name in ("norm_stats", "dataset_statistics"):
            return Thing("norm_stats", info={"where": thing.info.get("where"), "model": thing}, id=thing.id)
        if name == "bin_centers":
            edges = np.linspace(-1, 1, 256)
            return Num(((edges[:-1] + edges[1:]) / 2,) * WORLDS)
        if name == "bins":
            return Num((np.linspace(-1, 1, 256),) * WORLDS)
        if name == "vocab_size":
            return Const(32000)
        if name == "config":
            return Thing("model_config", info=thing.info, id=thing.id)
        if name in ("device", "dtype"):
            return Unknown(name)
        if name in ("model", "module", "policy", "vla", "base_model", "_orig_mod"):
            return thing
        if name in ("action_tokenizer",):
            return Thing("action_tokenizer")
    if kind == "model_config":
        if name in ("norm_stats", "dataset_statistics"):
            return Thing("norm_stats", info=thing.info, id=thing.id)
        if name == "text_config":
            return thing
        if name == "vocab_size":
            return Const(32064)
        if name == "pad_to_multiple_of":
            return Const(64)
        if name == "n_action_bins":
            return Const(256)
        return unknown(f"config.{name}")
    if kind == "processor" and name == "tokenizer":
        return replace(thing, kind="tokenizer")
    if kind in ("tokenizer", "action_tokenizer") and name == "vocab_size":
        return Const(32000)
    if kind == "env":
        if name in ("env", "unwrapped", "envs", "_env", "venv"):
            return thing
        if name in ("language_instruction", "task_description", "language", "instruction"):
            return instruction("environment", interp, node)
        if name in (
            "action_space",
            "observation_space",
            "sim",
            "robots",
            "metadata",
            "spec",
            "robot_uid",
            "robot_uids",
            "num_envs",
        ):
            return unknown(name) if name != "sim" else thing
        if name.startswith("_max_episode") or name in ("max_episode_steps",):
            return unknown(name)
    if kind == "output":
        if name in ("logits", "action_logits"):
            return Thing("logits", info=thing.info)
        return Unknown(name, frozenset({"action"}))
    if kind in ("ids", "pixels", "mask") and name in ("shape", "device", "dtype", "ndim"):
        return Unknown(name)
    if kind == "observation" and name in ("shape",):
        return Unknown(name)
    if kind == "object":
        kwargs = thing.info.get("kwargs", {})
        if name in kwargs:
            return kwargs[name]
    return None


def _counts_on(tree: ast.Module, index: ast.expr) -> bool:
    """Whether an index is made of an attribute that is counted on somewhere, as `self.number += 1` in a reset."""
    named = {one.attr for one in ast.walk(index) if isinstance(one, ast.Attribute)}
    if not named:
        return False
    for one in ast.walk(tree):
        if isinstance(one, ast.AugAssign):
            if isinstance(one.target, ast.Attribute) and one.target.attr in named:
                return True
        elif isinstance(one, ast.Assign):
            targets = {to.attr for to in one.targets if isinstance(to, ast.Attribute)} & named
            if targets & {part.attr for part in ast.walk(one.value) if isinstance(part, ast.Attribute)}:
                return True
    return False


def thing_item(interp: Interpreter, thing: Thing, index: Value, node: ast.AST) -> Value:
    """`thing[index]`."""
    kind = thing.kind
    if kind == "observation":
        return interp.lift(lambda one: observation_item(interp, thing, one, node), index)
    if kind == "stepped":
        place = plain(index)
        return Thing("observation", info=thing.info, id=thing.id) if place == 0 else stepped_part(thing, place)
    if kind == "benchmarks":
        interp.event("suite", node, value=index)
        return Thing("suite_class", info={"name": index})
    if kind == "norm_stats":
        return statistics(interp, thing, index, node)
    if kind == "stats":
        return stats_item(interp, thing, index, node)
    if kind == "init_states":
        if isinstance(node, ast.Subscript) and _counts_on(interp.source.tree, node.slice):
            index = unknown("a counter")
        return Thing("init_state", info={"index": index, "at": interp.place(node)})
    if kind == "logits":
        parts = index.items if isinstance(index, Tup) else (index,)
        one = any(isinstance(part, Const) and part.value == -1 for part in parts)
        return replace(thing, info={**thing.info, "one": thing.info.get("one", False) or one})
    if kind == "ids":
        return replace(thing, info={**thing.info, "at": interp.place(node)})
    if kind == "pixels":
        return thing
    if kind == "output":
        key = plain(index)
        return Thing("logits", info=thing.info) if key in ("logits", 0) else Unknown("an output", frozenset({"action"}))
    if kind == "sequence" and thing.info.get("first") and only_one(interp):
        return unknown("the only key of norm_stats")
    if kind == "sequence":
        return thing.info.get("element", UNKNOWN) if not isinstance(index, Slice) else thing
    if kind == "object":
        key = plain(index)
        kwargs = thing.info.get("kwargs", {})
        return kwargs.get(key, unknown("an item", *kwargs.values())) if isinstance(key, str) else UNKNOWN
    if kind == "key":
        return thing
    if kind == "env":
        return thing
    return unknown(f"an item of {kind}", thing)


def only_one(interp: Interpreter) -> bool:
    """Whether what is followed makes sure that there is but one of something: `len(keys) == 1`, `len(keys) != 1`."""
    func = interp.frames[-1].func
    inside: ast.AST = func.node if func is not None else interp.source.tree
    return any(
        isinstance(one, ast.Compare)
        and isinstance(one.left, ast.Call)
        and isinstance(one.left.func, ast.Name)
        and one.left.func.id == "len"
        and any(isinstance(other, ast.Constant) and other.value == 1 for other in one.comparators)
        for one in ast.walk(inside)
    )


def stepped_part(thing: Thing, place: Any) -> Value:
    """What `env.step` returns behind the observation."""
    return Thing("stepped_part", str(place), thing.info, thing.id) if isinstance(place, int) else UNKNOWN


def thing_method(
    interp: Interpreter, thing: Thing, name: str, args: Args, kwargs: Kwargs, node: ast.AST
) -> Value | None:
    """`thing.name(...)`; None where it is nothing that is known."""
    kind = thing.kind
    if kind == "env":
        return env_method(interp, thing, name, args, kwargs, node)
    if kind == "model":
        return model_method(interp, thing, name, args, kwargs, node)
    if kind in ("processor", "tokenizer"):
        if name in ("__call__", "encode", "batch_encode_plus", "encode_plus"):
            found = process(interp, thing, args, kwargs, node)
            return library_item(interp, found, "input_ids") if name == "encode" else found
        if name in ("to", "eval"):
            return thing
        if name in ("decode", "batch_decode", "decode_actions"):
            return unknown(name, *args)
        return unknown(f"{name} of a {kind}", *args)
    if kind == "action_tokenizer":
        if name in ("decode_token_ids_to_actions", "decode"):
            return decoded(interp, args[0] if args else UNKNOWN, node)
        return unknown(name, *args)
    if kind == "suite":
        if name == "get_task":
            interp.event("task", node)
            return Thing("task")
        if name in ("get_task_init_states",):
            return Thing("init_states")
        if name in ("get_task_bddl_file_path",):
            return Text((Hole("problem_folder"), "/", Hole("bddl_file")))
        if name in ("get_num_tasks",):
            return unknown("the number of tasks")
        if name in ("get_task_names",):
            return Thing("sequence", info={"element": unknown("a task's name")})
        return unknown(f"{name} of a suite")
    if kind == "suite_class":
        return None
    if kind == "norm_stats":
        if name == "get":
            return interp.lift(
                lambda one: statistics(interp, thing, one, node, args[1] if len(args) > 1 else NONE),
                args[0] if args else UNKNOWN,
            )
        if name == "keys":
            return Thing("sequence", info={"element": Thing("key", "first", {"at": interp.place(node)}), "first": True})
        if name == "values":
            return Thing(
                "sequence",
                info={
                    "element": Thing("stats", "first", {"key": Thing("key", "first"), "at": interp.place(node)}),
                    "owner": thing,
                },
            )
        if name == "items":
            return Thing("sequence", info={"element": Tup((Thing("key", "first"), Thing("stats", "first")))})
        return unknown(name)
    if kind == "stats":
        if name == "get":
            key = plain(args[0]) if args else None
            found = stats_item(interp, thing, args[0] if args else UNKNOWN, node)
            if key == "action" and thing.info.get("of") == "action":
                return thing
            if isinstance(found, Unknown) and len(args) > 1:
                return args[1]
            if key == "mask" and len(args) > 1:
                return found
            return found
        return unknown(name)
    if kind == "logits":
        if name == "argmax":
            return tokens(interp, thing, node)
        if name in ("float", "cpu", "detach", "softmax", "to", "squeeze", "log_softmax"):
            return thing
        return Unknown(name, frozenset({"token"}))
    if kind == "capture":
        if name == "read":
            way = ImageWay("", None, channels="BGR")
            frame = Image(way, "HWC", (interp.hop("cv2.VideoCapture", node),))
            return Tup((unknown("whether there is a frame"), frame))
        return unknown(f"{name} of a camera")
    if kind == "rotation":
        return rotation_method(interp, thing, name, args, kwargs, node)
    if kind in ("ids", "pixels", "mask"):
        if name in (
            "to",
            "cuda",
            "cpu",
            "bool",
            "long",
            "unsqueeze",
            "squeeze",
            "clone",
            "contiguous",
            "float",
            "half",
            "type",
            "expand",
            "repeat",
            "detach",
        ):
            return thing
        return unknown(name, thing)
    if kind in ("observation", "init_states", "init_state", "output", "sequence", "transform", "transforms"):
        if kind == "observation":
            if name == "get" and args:
                return thing_item(interp, thing, args[0], node)
            if name in ("copy", "items", "keys", "values"):
                return thing if name == "copy" else unknown(name, thing)
        if name in ("copy", "to", "cpu", "numpy", "tolist"):
            return thing
        return unknown(name, thing)
    if kind == "stepped_part" and name == "get" and args:
        env = thing.info.get("env")
        raw = isinstance(env, Thing) and env.info.get("raw") and thing.name == "3"
        if raw and re.search(r"succ", str(plain(args[0]) or ""), re.I):
            # LIBERO's info is an empty dict (measured).
            default = args[1] if len(args) > 1 else Const(False)
            value = plain(default)
            return Const(value or False, (interp.source, node), NEVER) if not isinstance(default, Thing) else default
        return unknown("an item of info", thing)
    if kind == "response":
        if name in ("json",):
            return thing.info.get("answer", UNKNOWN)
        return unknown(name, thing)
    if kind == "key":
        return thing
    return None


def rotation(interp: Interpreter, name: str, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """`scipy.spatial.transform.Rotation.from_...`."""
    from scipy.spatial.transform import Rotation

    short = name.rpartition(".")[2]
    degrees = plain(kwargs.get("degrees", Const(False)))
    if short == "from_euler" and len(args) >= 2:
        sequence = plain(args[0])
        if not isinstance(sequence, str):
            return UNKNOWN
        matrix = arrays.apply(
            interp, lambda a: Rotation.from_euler(sequence, a, degrees=bool(degrees)).as_matrix(), args[1:2], node
        )
    elif short in ("from_quat", "from_rotvec", "from_matrix"):
        matrix = arrays.apply(interp, lambda a: getattr(Rotation, short)(a).as_matrix(), args[:1], node)
    else:
        return UNKNOWN
    return Thing("rotation", info={"matrix": matrix})


def rotation_method(interp: Interpreter, thing: Thing, name: str, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """`rotation.as_...()`."""
    from scipy.spatial.transform import Rotation

    matrix = thing.info["matrix"]
    degrees = bool(plain(kwargs.get("degrees", Const(False))))
    if name == "as_euler" and args:
        sequence = plain(args[0])
        if isinstance(sequence, str):
            return arrays.apply(
                interp, lambda a: Rotation.from_matrix(a).as_euler(sequence, degrees=degrees), (matrix,), node
            )
    if name in ("as_rotvec", "as_quat", "as_matrix"):
        return arrays.apply(interp, lambda a: getattr(Rotation.from_matrix(a), name)(), (matrix,), node)
    return unknown(name, matrix)


def library_item(interp: Interpreter, value: Value, key: str) -> Value:
    """An item of a batch."""
    content = interp.content(value)
    return content.items.get(key, UNKNOWN) if isinstance(content, Dict) else UNKNOWN


def decoded(interp: Interpreter, ids: Value, node: ast.AST) -> Value:
    """Ids decoded by OpenVLA's own action tokenizer: normalised values."""
    edges = np.linspace(-1, 1, 256)
    centres = (edges[:-1] + edges[1:]) / 2
    return arrays.apply(
        interp, lambda a: centres[np.clip(32000 - np.asarray(a, dtype=int) - 1, 0, 254)], (ids,), node, "decode ids"
    )


_SAME_MODEL = frozenset(
    {"to", "cuda", "cpu", "half", "bfloat16", "float", "eval", "train", "requires_grad_", "compile",
     "merge_and_unload", "prepare", "unwrap", "module"}
)  # fmt: skip


def model_method(interp: Interpreter, thing: Thing, name: str, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """A method of a model or a policy."""
    if name in _SAME_MODEL:
        loaded = thing.info.get("load")
        if name == "eval":
            interp.event("eval", node, owner=thing)
            if loaded is not None:
                loaded.data["evaluated"] = True
        if name == "train":
            mode = plain(args[0]) if args else True
            interp.event("train", node, owner=thing, on=mode)
        if name in ("half", "bfloat16", "float", "to"):
            interp.event("cast", node, owner=thing, name=name, args=args, kwargs=kwargs)
        return thing
    if name == "reset":
        interp.event("policy_reset", node, owner=thing)
        return NONE
    if name == "generate":
        asked = gather(interp, args, kwargs)
        if asked.ids or asked.images:
            query(interp, thing, name, args, kwargs, node)
            return generated(interp, interp.events[-1], node)
        return unknown("a text", *args)
    if name in QUERIES or name == "step" or name == "__call__":
        return query(interp, thing, name, args, kwargs, node)
    if name in ("get_action_stats",):
        stats = Thing("norm_stats", info={"where": thing.info.get("where")}, id=thing.id)
        found = statistics(interp, stats, args[0] if args else kwargs.get("unnorm_key", NONE), node)
        return replace(found, info={**found.info, "of": "action"}) if isinstance(found, Thing) else found
    if name in ("get_action_dim",):
        return Const(7)
    if name == "load_state_dict":
        interp.event(
            "load",
            node,
            call="load_state_dict",
            what="state_dict",
            where=args[0] if args else UNKNOWN,
            kwargs=dict(kwargs),
            evaluated=None,
        )
        return UNKNOWN
    if name in ("create_tasks",):
        return interp.new(Dict({f"task:{key}": value for key, value in (*enumerate(args), *kwargs.items())}))
    if name == "forward":
        return forward(interp, thing, args, kwargs, node)
    if name in ("parameters", "named_parameters", "state_dict", "modules"):
        return UNKNOWN
    return unknown(f"{name} of a model", *args)


def delegated(interp: Interpreter, name: str, args: Args, kwargs: Kwargs, node: ast.AST) -> Value | None:
    """A function of OpenVLA's own evaluation code that is not in the project; None where it is none of these."""
    short = name.replace(".__wrapped__", "").rpartition(".")[2]
    if not re.search(r"experiments\.robot|openvla|prismatic", name):
        return None
    cfg = next((one for one in (*args, *kwargs.values()) if _is_config(interp, one)), None)
    if short in ("get_vla", "get_model") and (args or kwargs):
        where = _config_item(interp, cfg, "pretrained_checkpoint", "model_path", "checkpoint") or (
            args[0] if args else UNKNOWN
        )
        event = interp.event(
            "load", node, call=name, what="model", where=where, kwargs={}, evaluated=True, official=True
        )
        return Thing("model", name, {"where": where, "load": event, "cfg": cfg}, next(interp._ids))
    if short in ("get_processor",):
        return Thing("processor", name, {"cfg": cfg}, next(interp._ids))
    if short in ("get_action", "get_vla_action") and len(args) + len(kwargs) >= 4:
        asked = gather(interp, args, kwargs)
        # OFT's take the configuration first, and answer with a chunk (moojink/openvla-oft experiments/robot).
        oft = "action_head" in kwargs or (short == "get_vla_action" and bool(args) and _is_config(interp, args[0]))
        old = args if short == "get_vla_action" and not oft else ()
        crop = kwargs.get("center_crop") or _config_item(interp, cfg, "center_crop")
        checkpoint = _config_item(interp, cfg, "pretrained_checkpoint") or (old[2] if len(old) > 2 else None)
        key = _config_item(interp, cfg, "unnorm_key") or kwargs.get("unnorm_key") or (old[5] if len(old) > 5 else None)
        event = interp.event(
            "query", node, owner=UNKNOWN, method=short, args=args,
            kwargs={"unnorm_key": key} if key is not None else {},
            asked=asked, family="openvla-oft" if oft else "openvla", where=checkpoint, official=True, crop=crop,
        )  # fmt: skip
        return samples(interp, event, "01", 8 if oft else None)
    if short in ("eval_libero", "run_libero_eval", "main") and "run_libero_eval" in name:
        interp.event(
            "query", node, owner=UNKNOWN, method=short, args=args, kwargs={}, asked=Asked(opaque=True),
            family="openvla-oft" if "oft" in name else "openvla", official=True, whole=True,
            where=_config_item(interp, cfg, "pretrained_checkpoint"), crop=_config_item(interp, cfg, "center_crop"),
            suite=_config_item(interp, cfg, "task_suite_name"),
        )  # fmt: skip
        return UNKNOWN
    if short in ("normalize_gripper_action", "invert_gripper_action") and args:
        return official_gripper(interp, short, args, kwargs, node)
    if short == "get_libero_image":
        found = args[0] if args else UNKNOWN
        image = observation_item(interp, found, Const("agentview_image"), node) if isinstance(found, Thing) else UNKNOWN
        if isinstance(image, Image):
            turned = arrays.turned(image, "rot180", interp.hop("get_libero_image", node))
            return replace(turned, way=replace(turned.way, jpeg=True), size=(224, 224))
        return unknown("an image", *args)
    if short == "get_libero_env":
        env = Thing(
            "env", "OffScreenRenderEnv", {"kind": "libero", "raw": True, "rendered": (256, 256)}, next(interp._ids)
        )
        interp.event("env", node, env=env, bddl=None, kwargs={})
        interp.event("env_seed", node, env=env, value=Const(0))
        return Tup((env, instruction("libero", interp, node)))
    if short == "get_libero_dummy_action":
        return interp.new(List(tuple(Const(value) for value in (0, 0, 0, 0, 0, 0, -1))))
    if short == "set_seed_everywhere":
        interp.event("seed", node, value=args[0] if args else next(iter(kwargs.values()), UNKNOWN), of="all")
        return NONE
    return None


def official_gripper(interp: Interpreter, short: str, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """OpenVLA's own two helpers (openvla/openvla@c8f03f4 experiments/robot/robot_utils.py:75-102)."""
    binarize = plain(kwargs.get("binarize", args[1] if len(args) > 1 else Const(True)))

    def do(array: Any) -> Any:
        out = np.array(array, dtype=float)
        if short == "invert_gripper_action":
            out[..., -1] *= -1.0
        else:
            out[..., -1] = 2 * out[..., -1] - 1
            if binarize:
                out[..., -1] = np.sign(out[..., -1])
        return out

    return arrays.apply(interp, do, args[:1], node, short)


def _is_config(interp: Interpreter, value: Value) -> bool:
    content = interp.content(value)
    if isinstance(content, Obj):
        return any(name in content.attrs for name in ("pretrained_checkpoint", "center_crop", "unnorm_key")) or (
            content.cls is not None
            and any(
                interp.class_member(content.cls, name) is not None for name in ("pretrained_checkpoint", "center_crop")
            )
        )
    return (
        isinstance(value, Thing) and value.kind == "object" and "pretrained_checkpoint" in value.info.get("kwargs", {})
    )


def _config_item(interp: Interpreter, cfg: Value | None, *names: str) -> Value | None:
    content = interp.content(cfg)
    for name in names:
        if isinstance(content, Obj):
            found = content.attrs.get(name)
            if found is None and content.cls is not None:
                found = interp.class_member(content.cls, name)
            if found is not None:
                return found
        elif isinstance(cfg, Thing):
            given: Value | None = cfg.info.get("kwargs", {}).get(name)
            if given is not None:
                return given
    return None


__all__ = ["Asked", "Class", "Counter", "Partial", "Ref", "options", "taints"]
