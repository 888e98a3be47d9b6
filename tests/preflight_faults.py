"""What breaks a run before it starts, made where it breaks in life: in files, variables and installed libraries.

Used by tests and by `benchmarks/preflight.py`. A fault prepares a folder; the pre-flight then is run as a user runs it.
Faults of an environment are made in LIBERO's and robosuite's classes by a `sitecustomize`, as a fork or a wrapper has
them, so that nothing of vladoctor knows of them.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
CHECKPOINT = FIXTURES / "tiny-openvla"

RUN = """\
model: {{path: {model}, device: {device}, threads: 1}}
env: {{suite: libero_object, tasks: [0], init_states: [{state}], assets: {assets}}}
report: {{folder: {folder}/reports}}
"""


@dataclass
class Case:
    """A run to look at: its file, what is set in the environment beside what is there, what is taken out of it."""

    run: str
    environment: dict[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fault:
    """`code` is what is to be said, "" for nothing; at `level`, and not below it."""

    name: str
    summary: str
    code: str
    level: int
    make: Callable[[Path], Case]


@dataclass(frozen=True)
class Outcome:
    """What a pre-flight came to; `document` is its JSON, None where there is none."""

    status: int
    document: Mapping[str, Any] | None
    errors: str
    seconds: float
    cpu: float
    output: str = ""

    @property
    def findings(self) -> list[Mapping[str, Any]]:
        items = (self.document or {}).get("items", ())
        return [item["finding"] for item in items if item["finding"] is not None]


def run(
    case: Case,
    level: int,
    timeout: float = 300.0,
    *,
    stdin: str = "silent",
    form: str = "json",
    first: Callable[[], None] | None = None,
) -> Outcome:
    """Run `vladoctor preflight` on it.

    Args:
        stdin: "silent" stays open, "terminal" is one at which nobody answers, so that a question would wait until the
            timeout; "closed".
        form: of its output; only "json" makes a document.
        first: called in the process before the program starts.
    """
    environment = {**os.environ, **case.environment}
    command = [sys.executable, "-c", "from vladoctor.cli import main; main()", "preflight", case.run]
    began, before = time.perf_counter(), os.times()
    silent, waiting = os.openpty() if stdin == "terminal" else os.pipe()[::-1]

    def prepare() -> None:
        if stdin == "closed":
            os.close(0)
        if first is not None:
            first()

    try:
        done = subprocess.run(
            [*command, "--output-format", form, "--level", str(level), *case.options],
            stdin=waiting,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=environment,
            preexec_fn=prepare,
        )
    finally:
        os.close(waiting)
        os.close(silent)
    took, after = time.perf_counter() - began, os.times()
    cpu = after.children_user - before.children_user + after.children_system - before.children_system
    document = json.loads(done.stdout) if form == "json" and done.stdout.strip() else None
    return Outcome(done.returncode, document, done.stderr, took, cpu, done.stdout)


def without_privileges() -> None:
    """Before a program starts: take root's power to read whatever it likes; of others there is nothing to take."""
    import ctypes

    drop, read_anything, write_anything = 24, 2, 1  # PR_CAPBSET_DROP, CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE
    for capability in (read_anything, write_anything):
        ctypes.CDLL(None).prctl(drop, capability, 0, 0, 0)


def run_file(
    folder: Path, *, model: Path = CHECKPOINT, assets: str = "stand-in", state: int = 30, device: str = "cpu"
) -> str:
    """A run file of the fixture's checkpoint, in `folder`."""
    file = folder / "run.yaml"
    file.write_text(RUN.format(model=model, assets=assets, state=state, folder=folder, device=device), "utf-8")
    return str(file)


def checkpoint_copy(folder: Path) -> Path:
    copy = folder / "tiny-openvla"
    shutil.copytree(CHECKPOINT, copy)
    return copy


def _variables(**values: str) -> Callable[[Path], Case]:
    def make(folder: Path) -> Case:
        return Case(run_file(folder), dict(values))

    return make


def _checkpoint(change: Callable[[Path], None]) -> Callable[[Path], Case]:
    def make(folder: Path) -> Case:
        copy = checkpoint_copy(folder)
        change(copy)
        return Case(run_file(folder, model=copy))

    return make


def truncated(copy: Path) -> None:
    """A download that was broken off: the last tenth is missing."""
    file = copy / "model.safetensors"
    os.truncate(file, file.stat().st_size * 9 // 10)


def shard_missing(copy: Path) -> None:
    """Two shards and an index, and the second shard not there."""
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    names = list(weights)
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in halves.items():
        save_file({name: weights[name] for name in part}, copy / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, part in halves.items() for name in part}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    (copy / "model.safetensors").unlink()
    (copy / "model-00002-of-00002.safetensors").unlink()


def pointer(copy: Path) -> None:
    """Cloned without git-lfs."""
    (copy / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 14063712\n", "utf-8"
    )


def tensor_missing(copy: Path) -> None:
    """Saved without its projector."""
    from safetensors.torch import load_file, save_file

    weights = {name: value for name, value in load_file(copy / "model.safetensors").items() if "projector" not in name}
    save_file(weights, copy / "new.safetensors", metadata={"format": "pt"})
    (copy / "new.safetensors").replace(copy / "model.safetensors")


def changed_by_one_byte(copy: Path) -> None:
    """A bit that fell over on the way, in a folder in which `hf download` has left its notes."""
    import hashlib

    notes = copy / ".cache" / "huggingface" / "download"
    notes.mkdir(parents=True)
    for file in sorted(file for file in copy.iterdir() if file.is_file()):
        if file.suffix == ".safetensors":
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
        else:
            digest = hashlib.sha1(b"blob %d\0" % file.stat().st_size + file.read_bytes()).hexdigest()
        (notes / f"{file.name}.metadata").write_text(f"{'0' * 40}\n{digest}\n0\n")
    with (copy / "model.safetensors").open("r+b") as stream:
        stream.seek(-100, os.SEEK_END)
        byte = stream.read(1)
        stream.seek(-100, os.SEEK_END)
        stream.write(bytes([byte[0] ^ 1]))


def no_statistics(copy: Path) -> None:
    (copy / "dataset_statistics.json").unlink()
    config = json.loads((copy / "config.json").read_text("utf-8"))
    del config["norm_stats"]
    (copy / "config.json").write_text(json.dumps(config), "utf-8")


def other_statistics(copy: Path) -> None:
    """Of another robot only, as the base checkpoint has them."""
    table = json.loads((copy / "dataset_statistics.json").read_text("utf-8"))
    (copy / "dataset_statistics.json").write_text(json.dumps({"bridge_orig": next(iter(table.values()))}), "utf-8")


def code_for_another_version(copy: Path) -> None:
    """Code that is written for another release: a name that transformers 5 no longer has, and one that 4 never had."""
    file = copy / "modeling_tiny_openvla.py"
    import transformers

    newer = int(transformers.__version__.split(".")[0]) >= 5
    name = "AutoModelForVision2Seq" if newer else "AutoModelForMultimodalLM"
    text = file.read_text("utf-8")
    head, mark, rest = text.partition("import torch")
    file.write_text(f"{head}from transformers import {name}\n{mark}{rest}", "utf-8")


def tokens_added(copy: Path) -> None:
    """Special tokens put in the place of action tokens' ids, as when a tokenizer is extended before fine-tuning."""
    tokenizer = json.loads((copy / "tokenizer.json").read_text("utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    names = {number: token for token, number in vocabulary.items()}
    for number in range(31990, 31994):
        content = names.pop(number)
        tokenizer["added_tokens"].append(
            {"id": number, "content": content, "special": True, "single_word": False, "lstrip": False,
             "rstrip": False, "normalized": False}
        )  # fmt: skip
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    config = json.loads((copy / "tokenizer_config.json").read_text("utf-8"))
    for entry in tokenizer["added_tokens"]:
        known = {name: value for name, value in entry.items() if name != "id"}
        config["added_tokens_decoder"][str(entry["id"])] = known
    config["additional_special_tokens"] = [
        entry["content"] for entry in tokenizer["added_tokens"] if 31990 <= entry["id"] < 31994
    ]
    (copy / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")


def larger_than_memory(copy: Path) -> None:
    """A file of weights of 4 TB by its header, and as long as that, though sparse."""
    values = 10**12
    header = json.dumps({"large": {"dtype": "F32", "shape": [values], "data_offsets": [0, 4 * values]}}).encode()
    with (copy / "model.safetensors").open("wb") as stream:
        stream.write(struct.pack("<Q", len(header)) + header)
        stream.truncate(8 + len(header) + 4 * values)


def _other_transformers(folder: Path) -> Case:
    """An environment whose metadata say that transformers is older than anything that this loop runs on."""
    stub = folder / "site" / "transformers-4.30.2.dist-info"
    stub.mkdir(parents=True)
    (stub / "METADATA").write_text("Metadata-Version: 2.1\nName: transformers\nVersion: 4.30.2\n", "utf-8")
    return Case(run_file(folder), {"PYTHONPATH": str(folder / "site")})


def _libero_config(folder: Path, **changed: str) -> dict[str, str]:
    """A configuration of the user's own."""
    from vladoctor.adapters import libero

    root = libero.installation().root
    values = {
        "benchmark_root": root, "bddl_files": root / "bddl_files", "init_states": root / "init_files",
        "datasets": root.parent / "datasets", "assets": root / "assets", **changed,
    }  # fmt: skip
    (folder / "libero").mkdir()
    text = "".join(f"{name}: {value}\n" for name, value in values.items())
    (folder / "libero" / "config.yaml").write_text(text, "utf-8")
    return {"LIBERO_CONFIG_PATH": str(folder / "libero")}


def _no_init_file(folder: Path) -> Case:
    """The file of one task's init states is not there."""
    from vladoctor.adapters import libero

    copy = folder / "init_files"
    shutil.copytree(libero.installation().folders["init_states"] / "libero_object", copy / "libero_object")
    for file in copy.glob("libero_object/pick_up_the_alphabet_soup*"):
        file.unlink()
    return Case(run_file(folder), _libero_config(folder, init_states=str(copy)))


def _no_init_folder(folder: Path) -> Case:
    return Case(run_file(folder), _libero_config(folder, init_states=str(folder / "nowhere")))


def _no_such_state(folder: Path) -> Case:
    return Case(run_file(folder, state=70))


def _no_assets(folder: Path) -> Case:
    """LIBERO's own assets, which its first environment would try to download, are asked for and are not there."""
    (folder / "home").mkdir()
    return Case(run_file(folder, assets="real"), {"HOME": str(folder / "home")})


def _asset_missing(folder: Path) -> Case:
    """One object's folder is not there: LIBERO's own reset swallows that and tries again for ever."""
    copy = folder / "assets"
    shutil.copytree(FIXTURES / "libero-assets", copy)
    shutil.rmtree(copy / "stable_hope_objects" / "alphabet_soup")
    return Case(run_file(folder, assets=str(copy)))


def _no_config(folder: Path) -> Case:
    """No configuration of LIBERO's anywhere: its first import asks on stdin. vladoctor's loop writes one before it."""
    (folder / "empty").mkdir()
    return Case(
        run_file(folder), {"LIBERO_CONFIG_PATH": str(folder / "empty"), "XDG_CACHE_HOME": str(folder / "cache")}
    )


def _program_would_ask(folder: Path) -> Case:
    """The same for a program of one's own, which vladoctor does not start."""
    (folder / "empty").mkdir()
    (folder / "eval.py").write_text("from libero.libero import benchmark\n", "utf-8")
    file = folder / "run.yaml"
    file.write_text(f"loop: {{command: [python, {folder / 'eval.py'}]}}\n", "utf-8")
    return Case(str(file), {"LIBERO_CONFIG_PATH": str(folder / "empty")})


def _libero_as(patch: str) -> Callable[[Path], Case]:
    """LIBERO's environment as a fork or a wrapper makes it; `patch` is Python, in which `module` is env_wrapper."""

    def make(folder: Path) -> Case:
        site = folder / "site"
        site.mkdir()
        (site / "sitecustomize.py").write_text(
            SITE.replace("PATCH", "\n    ".join(patch.strip().splitlines())), "utf-8"
        )
        return Case(run_file(folder), {"PYTHONPATH": str(site)})

    return make


SITE = """
import wrapt

@wrapt.when_imported("libero.libero.envs.env_wrapper")
def _patch(module):
    import numpy as np
    env = module.ControlEnv
    step, begin, state = env.step, env.__init__, env.set_init_state
    PATCH
"""

STEP = """
def changed(self, action):
    action = np.array(action, dtype=float)
    {}
    return step(self, action)
env.step = changed
"""

FAULTS: tuple[Fault, ...] = (
    Fault("no-gl", "no GL library (no EGL vendor)", "VD607", 1,
          _variables(__EGL_VENDOR_LIBRARY_FILENAMES="/nonexistent")),
    Fault("gl-no-backend", "MUJOCO_GL=egll", "VD607", 0, _variables(MUJOCO_GL="egll")),
    Fault("gl-glx", "MUJOCO_GL=glx without a display", "VD607", 0, _variables(MUJOCO_GL="glx", DISPLAY="")),
    Fault("gl-name-misspelt", "MUJUCO_GL=egl", "VD607", 0, _variables(MUJUCO_GL="egl")),
    Fault("init-file-missing", "a task's file of init states is missing", "VD602", 1, _no_init_file),
    Fault("init-folder-missing", "LIBERO's configuration names a folder that is gone", "VD602", 0, _no_init_folder),
    Fault("init-state-number", "init state 70 of 50", "VD602", 1, _no_such_state),
    Fault("weights-truncated", "a safetensors file that is cut off", "VD704", 1, _checkpoint(truncated)),
    Fault("shard-missing", "a shard that the index names is missing", "VD704", 1, _checkpoint(shard_missing)),
    Fault("lfs-pointer", "a git-lfs pointer in the place of weights", "VD704", 1, _checkpoint(pointer)),
    Fault("tensor-missing", "the projector is not in the file", "VD704", 1, _checkpoint(tensor_missing)),
    Fault("one-bit", "one bit of the weights differs from the download's hash", "VD704", 1,
          _checkpoint(changed_by_one_byte)),
    Fault("statistics-missing", "no statistics at all", "VD501", 1, _checkpoint(no_statistics)),
    Fault("statistics-other", "statistics of another robot only", "VD501", 1, _checkpoint(other_statistics)),
    Fault("transformers-version", "transformers is too old by its metadata", "VD703", 0, _other_transformers),
    Fault("transformers-code", "the checkpoint's code is for another transformers", "VD703", 1,
          _checkpoint(code_for_another_version)),
    Fault("action-tokens", "special tokens in the place of action tokens", "VD401", 1, _checkpoint(tokens_added)),
    Fault("too-little-memory", "weights that are larger than the memory", "VD701", 1, _checkpoint(larger_than_memory)),
    Fault("assets-missing", "LIBERO's assets, which come from a hub, are not there", "VD104", 0, _no_assets),
    Fault("asset-missing", "one object's files are not there", "VD104", 1, _asset_missing),
    Fault("config-question", "no configuration of LIBERO: its import would ask on stdin", "", 1, _no_config),
    Fault("config-question-program", "the same, for a program of one's own", "VD602", 0, _program_would_ask),
    Fault("gripper-inverted", "a wrapper negates the gripper", "VD502", 1,
          _libero_as(STEP.format("action[-1] = -action[-1]"))),
    Fault("gripper-dropped", "a wrapper writes 0 into the gripper", "VD502", 1,
          _libero_as(STEP.format("action[-1] = 0"))),
    Fault("axes-swapped", "a wrapper exchanges x and y", "VD503", 1,
          _libero_as(STEP.format("action[:2] = action[1::-1].copy()"))),
    Fault("rotation-dropped", "a wrapper drops the rotation", "VD503", 1, _libero_as(STEP.format("action[3:6] = 0"))),
    Fault("hand-frame", "commands are taken in the frame of the hand", "VD503", 1, _libero_as(STEP.format(
        "robot = self.env.robots[0]\n"
        "    site = self.sim.model.site_name2id(robot.gripper.important_sites['grip_site'])\n"
        "    turn = self.sim.data.site_xmat[site].reshape(3, 3)\n"
        "    action[:3], action[3:6] = turn @ action[:3], turn @ action[3:6]"))),
    Fault("controller-scale", "osc_pose.json was edited: output_max 0.15 m", "VD503", 1, _libero_as("""
load = module.suite.load_controller_config
def edited(*args, **kwargs):
    config = load(*args, **kwargs)
    return {**config, "output_max": [0.15] * 3 + [0.5] * 3, "output_min": [-0.15] * 3 + [-0.5] * 3}
module.suite.load_controller_config = edited
""")),
    Fault("controller-places", "the controller takes places (control_delta false)", "VD503", 1, _libero_as("""
load = module.suite.load_controller_config
module.suite.load_controller_config = lambda *args, **kwargs: {**load(*args, **kwargs), "control_delta": False}
""")),
    Fault("controller-joints", "a controller of joints (JOINT_VELOCITY)", "VD503", 1, _libero_as("""
def made(self, *args, **kwargs):
    begin(self, *args, **{**kwargs, "controller": "JOINT_VELOCITY"})
env.__init__ = made
""")),
    Fault("control-freq-10", "an environment made for 10 Hz", "VD606", 1, _libero_as("""
def made(self, *args, **kwargs):
    begin(self, *args, **{**kwargs, "control_freq": 10})
env.__init__ = made
""")),
    Fault("init-state-wiped", "a reset inside set_init_state", "VD602", 1, _libero_as("""
def wiped(self, init_state):
    state(self, init_state)
    return self.env.reset() and self.env._get_observations() or self.env._get_observations()
env.set_init_state = wiped
""")),
    Fault("frames-black", "GL hands out a buffer that nothing was drawn into", "VD101", 1, _libero_as("""
from robosuite.utils import binding_utils
context = binding_utils.MjRenderContext
read = context.read_pixels
context.read_pixels = lambda self, *args, **kwargs: np.zeros_like(read(self, *args, **kwargs))
""")),
    Fault("frames-frozen", "GL hands out the first frame again and again", "VD102", 1, _libero_as("""
from robosuite.utils import binding_utils
context, kept = binding_utils.MjRenderContext, []
read = context.read_pixels
def again(self, *args, **kwargs):
    kept.append(read(self, *args, **kwargs))
    return kept[0].copy()
context.read_pixels = again
""")),
)  # fmt: skip
"""By the order of what is looked at."""
