"""Faults for programs that are not to be edited, made where they would happen in life.

A fault is a list of ways; every way that fits the program at hand is taken:

* `Library`: a function is replaced in robosuite or LIBERO, below everything the program itself does;
* `Modules`: a function of the helper modules beside the script (official/) is replaced before the script starts;
* `Text`: the script runs as a changed copy, as if its author had written it so;
* `Snapshot`: the program is given a changed copy of its checkpoint (the weights are links);
* `Arguments`: the program is called with other arguments.

Names are those of `vladoctor faults` where it has the fault too. Nothing of vladoctor is imported.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SETTLE_STEPS = 10
CHAT = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
)
FIRST_ACTION_ID, LAST_ACTION_ID, MIDDLE_ID, STRETCH = 31744, 31999, 31872, 24


class Unfit(Exception):  # noqa: N818
    """This way does not fit this program."""


@dataclass
class Program:
    """What is about to run; ways change it.

    Attributes:
        script: the file named by the user.
        arguments: its arguments.
        folder: an empty folder for copies.
        text: the script's source, changed by `Text`.
    """

    script: Path
    arguments: list[str]
    folder: Path
    text: str

    def snapshot(self) -> int:
        """Index of the argument that names a checkpoint folder."""
        for index, argument in enumerate(self.arguments):
            if argument and (Path(argument) / "config.json").is_file():
                return index
        raise Unfit("none of its arguments is a folder with a config.json")


@dataclass(frozen=True)
class Library:
    patch: Callable[[], None]

    def apply(self, program: Program) -> None:
        self.patch()


@dataclass(frozen=True)
class Modules:
    """Replacement attributes: {"module.attribute": original -> replacement}."""

    replacements: dict[str, Callable[[Any], Any]]

    def apply(self, program: Program) -> None:
        for dotted in self.replacements:
            if not (program.script.parent / f"{dotted.split('.')[0]}.py").is_file():
                raise Unfit(f"no {dotted.split('.')[0]}.py beside it")
        for dotted, replace in self.replacements.items():
            name, attribute = dotted.split(".")
            module = importlib.import_module(name)
            original = getattr(module, attribute)
            changed = replace(original)
            for other in list(sys.modules.values()):
                # also where it has been imported by name; of the script's own modules, no others
                beside = Path(getattr(other, "__file__", None) or "/").parent == program.script.parent
                if beside and getattr(other, attribute, None) is original:
                    setattr(other, attribute, changed)


@dataclass(frozen=True)
class Text:
    """Replaces every match of a pattern; without one it does not fit."""

    pattern: str
    replacement: str | Callable[[re.Match[str]], str]

    def apply(self, program: Program) -> None:
        program.text, count = re.subn(self.pattern, self.replacement, program.text)
        if not count:
            raise Unfit(f"nothing in it matches {self.pattern!r}")


@dataclass(frozen=True)
class Texts:
    """Several replacements that make sense together only."""

    parts: Sequence[Text]

    def apply(self, program: Program) -> None:
        before = program.text
        try:
            for part in self.parts:
                part.apply(program)
        except Unfit:
            program.text = before
            raise


@dataclass(frozen=True)
class Snapshot:
    change: Callable[[Path], None]

    def apply(self, program: Program) -> None:
        index = program.snapshot()
        source = Path(program.arguments[index]).resolve()
        copy = program.folder / f"{source.name}-changed"
        copy.mkdir()
        for file in source.iterdir():
            if file.suffix in (".safetensors", ".bin"):
                (copy / file.name).symlink_to(file)
            elif file.is_file():
                (copy / file.name).write_bytes(file.read_bytes())
        self.change(copy)
        program.arguments[index] = str(copy)


@dataclass(frozen=True)
class Arguments:
    """Further arguments for programs in whose source the pattern is found."""

    pattern: str
    arguments: Sequence[str]

    def apply(self, program: Program) -> None:
        if not re.search(self.pattern, program.text):
            raise Unfit(f"nothing in it matches {self.pattern!r}")
        program.arguments += self.arguments


Way = Library | Modules | Text | Texts | Snapshot | Arguments


@dataclass(frozen=True)
class Fault:
    """Attributes: name; check: the code that should speak, "" if none should; what; ways."""

    name: str
    check: str
    what: str
    ways: Sequence[Way]

    def apply(self, program: Program) -> None:
        reasons = []
        for way in self.ways:
            try:
                way.apply(program)
            except Unfit as error:
                reasons.append(f"{type(way).__name__}: {error}")
        if self.ways and len(reasons) == len(self.ways):
            raise Unfit("; ".join(reasons))


# ---- rendering


def _blacken(first_step: int) -> Callable[[], None]:
    """Zeros from the renderer itself, from that control step after settling on."""

    def patch() -> None:
        from robosuite.environments.base import MujocoEnv
        from robosuite.utils.binding_utils import MjRenderContext

        taken = 0
        step, reset, read_pixels = MujocoEnv.step, MujocoEnv.reset, MjRenderContext.read_pixels

        def counted_step(self: Any, action: Any) -> Any:
            nonlocal taken
            taken += 1
            return step(self, action)

        def counted_reset(self: Any) -> Any:
            nonlocal taken
            taken = 0
            return reset(self)

        def black(self: Any, *args: Any, **kwargs: Any) -> Any:
            pixels = read_pixels(self, *args, **kwargs)
            if taken - SETTLE_STEPS < first_step:
                return pixels
            return tuple(np.zeros_like(p) for p in pixels) if isinstance(pixels, tuple) else np.zeros_like(pixels)

        MujocoEnv.step, MujocoEnv.reset, MjRenderContext.read_pixels = counted_step, counted_reset, black

    return patch


def _step_in_another_thread() -> None:
    from libero.libero.envs.env_wrapper import ControlEnv

    step = ControlEnv.step
    workers = ThreadPoolExecutor(max_workers=1, thread_name_prefix="simulator")
    ControlEnv.step = lambda self, action: workers.submit(step, self, action).result()


def _opencv_convention() -> None:
    import robosuite.macros

    robosuite.macros.IMAGE_CONVENTION = "opencv"


# ---- image, prompt, gripper


def _instead(function: Callable[..., Any]) -> Callable[[Any], Any]:
    return lambda original: function


def _turned(name: str, what: str, turn: Callable[[np.ndarray], np.ndarray], text: str) -> Fault:
    ways: list[Way] = [Modules({"libero_utils.rotate_image": _instead(turn)}), Text(r"\[::-1, ::-1\]", text)]
    return Fault(name, "VD201", what, ways)


def _prompted(name: str, what: str, build: Callable[[str], str], literal: str, check: str = "VD301") -> Fault:
    r"""`literal` is the new f-string without quotes, with \1 for the expression of the instruction."""
    pattern = r'f"In: What action should the robot take to \{(.+?)\.lower\(\)\}\?\\nOut:"'
    module = Modules({"openvla_utils.build_prompt": _instead(lambda _, label: build(label))})
    return Fault(name, check, what, [module, Text(pattern, f'f"{literal}"')])


# ---- decoding


def clip_labels(input_ids: Any, scores: Any) -> Any:
    """Logits processor: answer as a checkpoint whose labels were clipped by too narrow statistics."""
    import torch

    best = FIRST_ACTION_ID + scores[:, FIRST_ACTION_ID : LAST_ACTION_ID + 1].argmax(dim=-1, keepdim=True)
    stretched = (MIDDLE_ID + STRETCH * (best - MIDDLE_ID)).clamp(FIRST_ACTION_ID, LAST_ACTION_ID)
    return torch.full_like(scores, -torch.inf).scatter_(-1, stretched, 0.0)


def _generating(name: str, check: str, what: str, option: dict[str, Any], text: str) -> Fault:
    module = Modules({"openvla_utils.PREDICT_KWARGS": lambda original: {**original, **option}})
    return Fault(name, check, what, [module, Text(r"do_sample=False", f"do_sample=False, {text}")])


def _untie(snapshot: Path) -> None:
    """Then transformers finds no output head in the file, makes one at random and warns."""
    file = snapshot / "config.json"
    config = json.loads(file.read_text())
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = False
    file.write_text(json.dumps(config, indent=2))


# ---- un-normalisation

OWN_LINE = r"np\.where\(mask, low \+ \((\w+) \+ 1\) / 2 \* \(high - low\), \1\)"
MODEL_LINE = r"return np\.where\(mask, (low \+ 0\.5 \* \(normalized \+ 1\.0\) \* \(high - low\)), normalized\)"


def _remodelled(replacement: str) -> Snapshot:
    def change(snapshot: Path) -> None:
        count = 0
        for file in snapshot.glob("modeling*.py"):
            text, found = re.subn(MODEL_LINE, replacement, file.read_text())
            file.write_text(text)
            count += found
        if not count:
            raise Unfit("the checkpoint's code has no such line")

    return Snapshot(change)


def _unnormalise_again(get_action: Callable[..., Any]) -> Callable[..., Any]:
    def again(cfg: Any, *args: Any, **kwargs: Any) -> Any:
        action = get_action(cfg, *args, **kwargs)
        table = json.loads((Path(cfg.pretrained_checkpoint) / "dataset_statistics.json").read_text())
        stats = next(iter(table.values()))["action"]
        low, high, mask = (np.asarray(stats[name]) for name in ("q01", "q99", "mask"))
        return np.where(mask, low + (action + 1) / 2 * (high - low), action)

    return again


# ---- state and chunk, of openpi's client

STATE = r'\(obs\["robot0_eef_pos"\], axis_angle\(obs\["robot0_eef_quat"\]\), obs\["robot0_gripper_qpos"\]\)'
SCIPY = '__import__("scipy.spatial.transform").spatial.transform.Rotation'
ROTATION = f'{SCIPY}.from_quat(obs["robot0_eef_quat"])'


def _state(name: str, what: str, state: str = "{position}, {rotation}, {fingers}", **parts: str) -> Fault:
    """The line that puts the state together, with another expression for one of its parts, or for all of it."""
    own = {
        "position": 'obs["robot0_eef_pos"]',
        "rotation": 'axis_angle(obs["robot0_eef_quat"])',
        "fingers": 'obs["robot0_gripper_qpos"]',
    }
    text = f"({state.format(**{**own, **parts})})"
    return Fault(name, "VD504", what, [Text(STATE, text.replace("\\", r"\\"))])


def _chunk(name: str, what: str, pattern: str, replacement: str) -> Fault:
    return Fault(name, "VD505", what, [Text(pattern, replacement)])


STATE_AND_CHUNK = (
    _state("proprio-zeros", "the state is zeros, left from before there was one", "np.zeros(8),"),
    _state("proprio-gripper-zero", "the fingers' elements are 0 (2toinf/X-VLA#21)", fingers="np.zeros(2)"),
    _state(
        "proprio-wxyz",
        "the quaternion is put into the order wxyz before it is converted (ARISE-Initiative/robosuite#685)",
        rotation='axis_angle(np.roll(obs["robot0_eef_quat"], 1))',
    ),
    _state(
        "proprio-euler",
        "Euler angles for axis times angle (thu-ml/RoboticsDiffusionTransformer#102)",
        rotation=f'{ROTATION}.as_euler("xyz")',
    ),
    _state(
        "proprio-rotvec",
        "scipy's as_rotvec, whose angle stays within pi (allenai/vla-evaluation-harness, common-pitfalls.md)",
        rotation=f"{ROTATION}.as_rotvec()",
    ),
    _state(
        "proprio-site-frame",
        "the orientation of the site, 90 degrees from the body's (strands-labs/robots#168)",
        rotation=f'axis_angle(({ROTATION} * {SCIPY}.from_euler("z", 90, degrees=True)).as_quat())',
    ),
    _state("proprio-order", "the fingers first", "{fingers}, {position}, {rotation}"),
    _state(
        "proprio-one-finger",
        "7 values: one finger (NVIDIA/Isaac-GR00T#136)",
        fingers='obs["robot0_gripper_qpos"][:1]',
    ),
    _state("proprio-millimetres", "the position in millimetres", position='1000 * obs["robot0_eef_pos"]'),
    _state(
        "proprio-first",
        "the state of the first observation, never renewed",
        "*[(lambda obs: ({position}, {rotation}, {fingers}))(globals().setdefault('first', obs))][0],",
    ),
    Fault(
        "proprio-stale",
        "VD504",
        "the state of one step before: kept from the last turn of the loop",
        [
            Texts(
                (
                    Text(STATE, lambda match: str(match[0]).replace("obs[", "before[")),
                    Text(r"obs, _, done, _ = env\.step\(", "before = obs; obs, _, done, _ = env.step("),
                )
            )
        ],
    ),
    Fault(
        "proprio-missing",
        "VD504",
        "the loop was written for a policy without a state",
        [Text(r'"observation/state": np\.concatenate\(\s*' + STATE + r"\s*\),", "")],
    ),
    _chunk(
        "chunk-all-rows",
        "all rows of an answer are executed before the next query (huggingface/lerobot#4614)",
        r"plan\.extend\(chunk\[: args\.replan_steps\]\)",
        "plan.extend(chunk)",
    ),
    _chunk(
        "chunk-first-row",
        "the first row again and again (NVIDIA/Isaac-GR00T#722, without asking again)",
        r"plan\.extend\(chunk\[: args\.replan_steps\]\)",
        "plan.extend(chunk[:1].repeat(args.replan_steps, 0))",
    ),
    _chunk("chunk-reversed", "rows are taken from the wrong end", r"plan\.popleft\(\)", "plan.pop()"),
    _chunk(
        "chunk-skips-first",
        "the rows are taken from 1 on",
        r"chunk\[: args\.replan_steps\]",
        "chunk[1 : args.replan_steps + 1]",
    ),
    _chunk(
        "chunk-tail",
        "the queue outlives the episode",
        r"plan: collections\.deque = collections\.deque\(\)",
        'plan = globals().setdefault("plan", collections.deque())',
    ),
)

QUESTION = "What action should the robot take to"

FAULTS: dict[str, Fault] = {
    fault.name: fault
    for fault in (
        Fault("none", "", "nothing is wrong", []),
        Fault("black-image", "VD101", "every frame is zeros as the renderer returns it", [Library(_blacken(-1_000))]),
        Fault("black-image-late", "VD101", "the same from control step 30 on", [Library(_blacken(30))]),
        Fault("render-thread", "VD101", "`env.step` runs in another thread", [Library(_step_in_another_thread)]),
        _turned("flip-vertical", "frames are only flipped vertically", lambda f: f[::-1], "[::-1]"),
        _turned("flip-horizontal", "frames are only mirrored", lambda f: f[:, ::-1], "[:, ::-1]"),
        _turned("no-rotation", "the model is given the raw frame", lambda f: f, ""),
        _turned("transpose", "rows and columns exchanged", lambda f: f.swapaxes(0, 1), ".swapaxes(0, 1)"),
        Fault(
            "opencv-convention",
            "VD201",
            'robosuite.macros.IMAGE_CONVENTION is "opencv", and frames are rotated still',
            [Library(_opencv_convention)],
        ),
        _prompted(
            "prompt-no-newline",
            "a space in the place of the newline",
            lambda label: f"In: {QUESTION} {label.lower()}? Out:",
            rf"In: {QUESTION} {{\1.lower()}}? Out:",
        ),
        _prompted(
            "prompt-v01",
            "the chat template of OpenVLA v0.1",
            lambda label: f"{CHAT}USER: {QUESTION} {label.lower()}? ASSISTANT:",
            rf"{CHAT}USER: {QUESTION} {{\1.lower()}}? ASSISTANT:",
        ),
        _prompted("prompt-bare", "no template", lambda label: label.lower(), r"{\1.lower()}"),
        _prompted(
            "prompt-capital",
            "the instruction begins with a capital letter",
            lambda label: f"In: {QUESTION} {label.capitalize()}?\nOut:",
            rf"In: {QUESTION} {{\1.capitalize()}}?\\nOut:",
        ),
        _prompted(
            "prompt-two-spaces",
            "two trailing spaces",
            lambda label: f"In: {QUESTION} {label.lower()}?\nOut:  ",
            rf"In: {QUESTION} {{\1.lower()}}?\\nOut:  ",
        ),
        _prompted(
            "prompt-trailing-space",
            "one trailing space, which does no harm: nothing is to be said",
            lambda label: f"In: {QUESTION} {label.lower()}?\nOut: ",
            rf"In: {QUESTION} {{\1.lower()}}?\\nOut: ",
            check="",
        ),
        Fault("untied-head", "VD704", "the output head is not in the checkpoint: a random one", [Snapshot(_untie)]),
        _generating(
            "generation-cut",
            "VD401",
            "generate(max_time=...): one id instead of seven",
            {"max_time": 1e-6},
            "max_time=1e-6",
        ),
        _generating(
            "labels-clipped",
            "VD402",
            "a checkpoint whose training labels were clipped",
            {"logits_processor": [clip_labels]},
            'logits_processor=[__import__("faults").clip_labels]',
        ),
        Fault(
            "unnorm-bridge",
            "VD501",
            "Bridge's statistics, which the checkpoint also has",
            [
                Arguments(r"--unnorm-key|unnorm_key: str = ", ["--unnorm-key", "bridge_orig"]),
                Text(r'stats_key = "libero_object"', 'stats_key = "bridge_orig"'),
            ],
        ),
        Fault(
            "unnorm-identity",
            "VD501",
            "bin centres are taken for actions",
            [Text(OWN_LINE, r"\1.copy()"), _remodelled("return normalized")],
        ),
        Fault(
            "unnorm-doubled",
            "VD501",
            "un-normalised twice",
            [
                Modules({"robot_utils.get_action": _unnormalise_again}),
                Text(OWN_LINE, r"(lambda a: np.where(mask, low + (a + 1) / 2 * (high - low), a))(\g<0>)"),
            ],
        ),
        Fault(
            "unnorm-mask-ignored",
            "VD501",
            "the gripper is un-normalised too",
            [Text(OWN_LINE, r"low + (\1 + 1) / 2 * (high - low)"), _remodelled(r"return \1")],
        ),
        Fault(
            "gripper-not-inverted",
            "VD502",
            "the sign of the gripper is left as the data have it",
            [
                Modules({"robot_utils.invert_gripper_action": _instead(lambda action: action)}),
                Text(r"-1\.0 if action\[6\] > 0\.5 else 1\.0", "1.0 if action[6] > 0.5 else -1.0"),
                Text(r"-np\.sign\(2 \* ", "np.sign(2 * "),
                Text(r"> 0\.5, -1\.0, 1\.0\)", "> 0.5, 1.0, -1.0)"),
            ],
        ),
        Fault(
            "gripper-raw",
            "VD502",
            "the model's gripper value, 0 to 1, goes to the simulator as it is",
            [
                Modules(
                    {
                        "robot_utils.normalize_gripper_action": _instead(lambda action, binarize=True: action),
                        "robot_utils.invert_gripper_action": _instead(lambda action: action),
                    }
                ),
                Text(r"-1\.0 if action\[6\] > 0\.5 else 1\.0", "action[6]"),
                Text(r"= -np\.sign\(2 \* (.+?) - 1\)", r"= \1"),
                Text(r"np\.where\((.+?) > 0\.5, -1\.0, 1\.0\)", r"\1"),
            ],
        ),
        *STATE_AND_CHUNK,
    )
}
