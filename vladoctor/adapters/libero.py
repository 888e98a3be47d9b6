"""What this project needs of LIBERO, with the traps of its installation, its reset and its rendering closed.

LIBERO's own classes, BDDL files, init states and success predicates run unchanged; this module only stands around them:

* the first import of LIBERO asks a question on stdin when it finds no config file: `prepare` writes one beforehand;
* LIBERO downloads its assets without asking when it finds none: here it cannot, and the user is told instead;
* `ControlEnv.reset` swallows every exception and tries again for ever: `reset_to` calls the env below it;
* a second env in one process draws with the first one's textures, silently: `make_env` refuses it;
* `set_init_state` takes any vector of any task: `reset_to` checks its length.

Nothing heavy is imported with this module; libero, robosuite, mujoco and torch are imported in the functions that need
them. Lengths are in metres, images as LIBERO gives them: uint8 (H, W, 3), RGB, rows from the bottom up.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import hashlib
import importlib.resources
import importlib.util
import io
import os
import re
import sys
import tempfile
import types
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vladoctor.errors import UserError

if TYPE_CHECKING:
    from libero.libero.envs import OffScreenRenderEnv

INSTALL = 'run: pip install "vladoctor[libero]" and then: pip install --no-deps hf-libero==0.1.4'
GL_PACKAGES = "libegl1 libegl-mesa0 libgl1-mesa-dri libgl1 libglib2.0-0"
ASSET_FOLDERS = ("articulated_objects", "stable_scanned_objects", "turbosquid_objects", "stable_hope_objects")
"""Folders by which LIBERO's own download code recognises a complete copy below ~/.cache/libero/assets."""

WAIT_ACTION = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0)
"""Stand still, gripper open: what the official evaluation sends while objects drop into place."""

WAIT_STEPS = 10
"""Source: openvla/openvla@c8f03f4, experiments/robot/libero/run_libero_eval.py, num_steps_wait."""

_PLACEMENT_ATTEMPTS = 100
_REAL_ASSETS = (
    "download them from the Hugging Face hub (hf download lerobot/libero-assets --repo-type dataset --local-dir "
    "~/.cache/libero/assets)"
)

_source: AssetSource | None = None
_live: weakref.ref[Any] | None = None


@dataclass(frozen=True)
class AssetSource:
    """Where LIBERO takes meshes, textures and scenes from.

    Attributes:
        kind: "real" (LIBERO's own), "stand-in" (this project's) or "folder" (one named by the user).
        path: the folder.
        note: one sentence for reports.
    """

    kind: str
    path: Path
    note: str


@dataclass(frozen=True)
class LiberoTask:
    """One task: which env to build, what to say to the policy, where episodes start.

    Attributes:
        suite: e.g. "libero_object".
        task_id: index in the suite; for a BDDL file of one's own the index of the task whose scene it shares.
        name: file name of the BDDL file without its suffix.
        language: the instruction as the official evaluation passes it on, in lower case as written.
        bddl_file: absolute path.
        init_states: float64 (n, 1 + nq + nv), flattened simulator states (time, qpos, qvel).
    """

    suite: str
    task_id: int
    name: str
    language: str
    bddl_file: Path
    init_states: np.ndarray = field(repr=False, compare=False)


def prepare(assets: str = "auto") -> AssetSource:
    """Make LIBERO importable without questions, downloads or a display, and choose its assets.

    Call it before anything imports libero or mujoco; `load_task` and `make_env` call it with the last choice (or
    "auto") if nobody has.

    Args:
        assets: "auto" (the real ones if they are on this machine), "real", "stand-in", or a folder.

    Raises:
        UserError: LIBERO is not installed, or the assets asked for are not there.
    """
    global _source
    root = _package_root()
    source = _find_assets(assets, root)
    _write_config(root)
    _set_rendering()
    libero = _import_libero("libero.libero")
    libero._assets_path_cache = str(source.path)
    _forbid_download()
    _source = source
    return source


@dataclass(frozen=True)
class Installation:
    """LIBERO on the disk, seen without importing it.

    Attributes:
        root: folder of the package libero.libero.
        config: the user's config.yaml, which LIBERO reads; None where there is none and its first import would ask.
        asked_at: where it would look for one.
        folders: "bddl_files" and "init_states" -> folder, by that file, else LIBERO's own.
    """

    root: Path
    config: Path | None
    asked_at: Path
    folders: Mapping[str, Path]


def installation() -> Installation:
    """Where LIBERO and its configuration are; imports and writes nothing.

    Raises:
        UserError: LIBERO is not installed, or its configuration cannot be read.
    """
    root = _package_root()
    asked_at = _own_config()
    config = asked_at if asked_at.is_file() else None
    names = {"bddl_files": root / "bddl_files", "init_states": root / "init_files"}
    if config is not None:
        try:
            written = _read_yaml(config)
        except Exception as error:
            raise UserError(
                f"LIBERO's configuration cannot be read: {error}",
                where=str(config),
                remedy="correct or remove that file; without it vladoctor writes one of its own",
            ) from error
        names = {name: Path(str(written.get(name, folder))) for name, folder in names.items()}
    return Installation(root, config, asked_at, names)


def find_assets(assets: str = "auto") -> AssetSource:
    """Where `prepare` would take assets from; imports and writes nothing. Raises UserError like it."""
    return _find_assets(assets, _package_root())


def require_assets_for(suite: str, source: AssetSource) -> None:
    """Check that a suite's scenes can be made of these assets.

    Raises:
        UserError: they cannot.
    """
    if source.kind == "stand-in" and suite != "libero_object":
        raise UserError(
            f"the stand-in assets serve libero_object only, not {suite}",
            where="env.assets",
            remedy=f"say libero_object, or {_REAL_ASSETS}",
        )


def load_task(suite: str, task: int | str) -> LiberoTask:
    """Look up a task and read its init states.

    Args:
        suite: name of a suite, e.g. "libero_object".
        task: index in the suite, name of one of its tasks, name of one of the BDDL files in fixtures/bddl, or the path
            of a BDDL file. The last two take their init states from the official task that `scenes.yaml`, next to the
            file, names.

    Raises:
        UserError: unknown suite, task or file; broken LIBERO configuration.
    """
    source = _prepared()
    benchmark = _benchmark(suite)
    require_assets_for(suite, source)
    names = benchmark.get_task_names()
    if isinstance(task, str) and not task.lstrip("-").isdigit():
        if task in names:
            return _official(suite, benchmark, names.index(task))
        return _own(suite, task, names)
    index = int(task)
    if not 0 <= index < len(names):
        raise UserError(f"suite {suite} has no task {index}", where="task", remedy=f"use 0 to {len(names) - 1}")
    return _official(suite, benchmark, index)


def suite_tasks(suite: str) -> list[str]:
    """Names of a suite's tasks, in its order.

    Raises:
        UserError: unknown suite.
    """
    _prepared()
    names: list[str] = _benchmark(suite).get_task_names()
    return names


def suite_languages(suite: str) -> list[str]:
    """What a suite's tasks are called for policies, in its order."""
    _prepared()
    benchmark = _benchmark(suite)
    return [str(benchmark.get_task(index).language) for index in range(benchmark.get_num_tasks())]


def make_env(
    task: LiberoTask,
    *,
    resolution: int = 256,
    cameras: Sequence[str] = ("agentview",),
    seed: int = 0,
    control_freq: int = 20,
) -> OffScreenRenderEnv:
    """Build LIBERO's own OffScreenRenderEnv for a task and seed it as the official evaluation does.

    `seed` seeds numpy's *global* generator (LIBERO's doing); it matters only for states other than init states.

    Args:
        resolution: height and width of the frames in pixels.
        cameras: names of the cameras to render at every step.
        control_freq: control steps per second.

    Raises:
        UserError: another env is alive in this process, assets or GL libraries are missing.
    """
    global _live
    source = _prepared()
    if live_env() is not None:
        gc.collect()
    if live_env() is not None:
        raise UserError(
            "another LIBERO env is alive in this process; two of them draw with each other's textures, silently",
            where="make_env",
            remedy="close it first (vladoctor.adapters.libero.close_env), or use a process of its own",
        )
    if not source.path.is_dir():
        raise UserError("the folder of LIBERO's assets is gone", where=str(source.path), remedy=_assets_remedy())
    envs = _import_libero("libero.libero.envs")
    with _gl_errors(), _build_errors(source), _egl_device():
        env = envs.OffScreenRenderEnv(
            bddl_file_name=str(task.bddl_file),
            camera_heights=resolution,
            camera_widths=resolution,
            camera_names=list(cameras),
            control_freq=control_freq,
        )
    env.seed(seed)
    _live = weakref.ref(env)
    # Registered after robosuite's own handler and so run before it: an env that outlives EGL prints tracebacks at exit.
    atexit.unregister(_close_at_exit)
    atexit.register(_close_at_exit)
    return env


def close_env(env: OffScreenRenderEnv) -> None:
    """Close an env and let the next one be made. Harmless when it is closed already."""
    global _live
    if hasattr(env, "env"):
        env.close()
    if _live is not None and _live() in (env, None):
        _live = None


def live_env() -> OffScreenRenderEnv | None:
    """The env that `make_env` made in this process and nobody has closed, if any."""
    env = _live() if _live is not None else None
    return env if env is not None and hasattr(env, "env") else None


def reset_to(env: OffScreenRenderEnv, init_state: np.ndarray) -> dict[str, Any]:
    """Reset an env, put it into an init state and return the observation there.

    The reset is needed although the state is set afterwards: without it the controller's goal, the gripper's state and
    the solver's warm start leak from the episode before, and episodes are no longer reproducible.

    Args:
        init_state: float (1 + nq + nv,), a row of `LiberoTask.init_states`.

    Raises:
        UserError: the state does not fit the model.
        Exception: whatever the env's reset raises.
    """
    errors = _import_libero("robosuite.utils.errors")
    for attempt in range(_PLACEMENT_ATTEMPTS):
        try:
            with _egl_device():
                env.env.reset()
            break
        except errors.RandomizationError:
            # Placement is drawn at random before the init state overwrites it; a failed draw says nothing.
            if attempt == _PLACEMENT_ATTEMPTS - 1:
                raise
    state = np.asarray(init_state, dtype=np.float64)
    model = env.sim.model
    expected = 1 + int(model.nq) + int(model.nv)
    if state.shape != (expected,):
        raise UserError(
            f"the init state has shape {state.shape}; this task's model needs ({expected},): "
            f"time, {model.nq} positions, {model.nv} velocities",
            where="init_state",
            remedy="use a row of the same task's init states (load_task(...).init_states[i])",
        )
    return dict(env.set_init_state(state))


def settle(
    env: OffScreenRenderEnv, obs: dict[str, Any], steps: int = WAIT_STEPS, action: Sequence[float] = WAIT_ACTION
) -> dict[str, Any]:
    """Send the same action for some control steps, as the official evaluation does first; return the observation."""
    for _ in range(steps):
        obs = env.step(list(action))[0]
    return obs


def _prepared() -> AssetSource:
    return _source if _source is not None else prepare()


def _package_root() -> Path:
    """Folder of the package libero.libero, found without importing it."""
    spec = importlib.util.find_spec("libero")
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        if (Path(folder) / "libero" / "benchmark").is_dir():
            return Path(folder) / "libero"
    raise UserError("LIBERO is not installed", where="import libero", remedy=INSTALL)


def _find_assets(assets: str, root: Path) -> AssetSource:
    if assets == "stand-in":
        folder = _fixtures() / "libero-assets"
        if not (folder / "scenes").is_dir():
            raise UserError(
                "the stand-in assets are missing",
                where=str(folder),
                remedy="run: python -m vladoctor.fixtures.build.assets",
            )
        return AssetSource("stand-in", folder, "procedural stand-ins (libero_object only), not LIBERO's own meshes")
    if assets in ("auto", "real"):
        cache = Path.home() / ".cache" / "libero" / "assets"
        if (root / "assets" / "scenes").is_dir():
            return AssetSource("real", root / "assets", "LIBERO's own assets, next to its code")
        if all((cache / name).is_dir() for name in ASSET_FOLDERS):
            return AssetSource("real", cache, "LIBERO's own assets, from its download folder")
        raise UserError(
            "LIBERO's assets are not on this machine", where=f"{root / 'assets'}, {cache}", remedy=_assets_remedy()
        )
    folder = Path(assets).expanduser().resolve()
    if not (folder / "scenes").is_dir():
        raise UserError(
            f"assets: {assets!r} is neither auto, real, stand-in nor a folder with LIBERO's assets",
            where=str(folder),
            remedy="name the folder that contains scenes/, textures/ and stable_hope_objects/",
        )
    return AssetSource("folder", folder, "assets from a folder named by the user")


def _assets_remedy() -> str:
    return (
        f"{_REAL_ASSETS}, or say `assets: stand-in` to use the stand-ins that come with vladoctor (libero_object only)"
    )


def _fixtures() -> Path:
    return Path(str(importlib.resources.files("vladoctor.fixtures"))).resolve()


def _own_config() -> Path:
    return Path(os.environ.get("LIBERO_CONFIG_PATH") or Path.home() / ".libero") / "config.yaml"


def _write_config(root: Path) -> None:
    """Give LIBERO a config file of ours, unless the user has one."""
    if _own_config().is_file():
        return
    text = "".join(
        f"{key}: {value}\n"
        for key, value in {
            "benchmark_root": root,
            "bddl_files": root / "bddl_files",
            "init_states": root / "init_files",
            "datasets": root.parent / "datasets",
            "assets": root / "assets",
        }.items()
    )
    folder = _cache_folder() / f"libero-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder)
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="vladoctor-libero-"))
        handle, name = tempfile.mkstemp(dir=folder)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(name, folder / "config.yaml")
    os.environ["LIBERO_CONFIG_PATH"] = str(folder)


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vladoctor"


def _set_rendering() -> None:
    if "MUJOCO_GL" not in os.environ and sys.platform.startswith("linux"):
        os.environ["MUJOCO_GL"] = "egl"
    # robosuite reads CUDA_VISIBLE_DEVICES as a list of EGL devices, so that hiding the GPUs from torch ("" or -1)
    # stops it from drawing at all. MUJOCO_EGL_DEVICE_ID takes precedence and torch does not look at it.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and not _device_list(visible):
        os.environ.setdefault("MUJOCO_EGL_DEVICE_ID", "0")


def _device_list(value: str) -> bool:
    return re.fullmatch(r"\d+(,\d+)*", value.replace(" ", "")) is not None


@contextlib.contextmanager
def _egl_device() -> Iterator[None]:
    """Show robosuite an empty CUDA_VISIBLE_DEVICES where it would reject the true one, which is put back afterwards."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None or visible == "" or _device_list(visible):
        yield
        return
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    try:
        yield
    finally:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible


def _forbid_download() -> None:
    """Make LIBERO's download function raise, whether its module is imported already or not.

    A stub module, because importing the real one needs huggingface_hub, which LIBERO does not depend on.
    """

    def refuse(*_: object, **__: object) -> str:
        raise UserError("vladoctor does not download LIBERO's assets", where="libero", remedy=_assets_remedy())

    name = "libero.libero.utils.download_utils"
    module = sys.modules.setdefault(name, types.ModuleType(name))
    module.download_assets_from_huggingface = refuse  # type: ignore[attr-defined]


def _import_libero(name: str) -> Any:
    with _gl_errors(), _egl_device(), contextlib.redirect_stdout(io.StringIO()):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise UserError(f"LIBERO cannot be imported: {error}", where=f"import {name}", remedy=INSTALL) from error


@contextlib.contextmanager
def _gl_errors() -> Iterator[None]:
    """Turn the many shapes of "no GL library" into one that says which packages to install."""
    try:
        yield
    except Exception as error:  # mujoco.FatalError among others
        shape = r"EGL|OpenGL|libGL|OSMesa|glGetError|gladLoad|MUJOCO_GL"
        if isinstance(error, (ModuleNotFoundError, UserError)) or not re.search(shape, str(error)):
            raise
        chosen = os.environ.get("MUJOCO_GL", "")
        other = "" if chosen.lower() == "egl" else "set MUJOCO_GL=egl, or leave it unset; if that fails too, "
        raise UserError(
            f"MuJoCo cannot draw without a display: {type(error).__name__}: {error}",
            where=f"MUJOCO_GL={chosen}",
            remedy=f"{other}on Debian or Ubuntu: apt-get install --no-install-recommends {GL_PACKAGES}; without root, "
            "a container that has them",
        ) from error


@contextlib.contextmanager
def _build_errors(source: AssetSource) -> Iterator[None]:
    """Say which file of the assets is missing, or which cameras there are."""
    try:
        yield
    except ValueError as error:
        reason = error.__context__ or error  # robosuite raises another over the one that names the cameras
        if '"camera"' not in str(reason):
            raise
        raise UserError(
            f"the camera cannot be used: {reason}",
            where="env.camera",
            remedy="use agentview, as the official evaluation",
        ) from error
    except FileNotFoundError as error:
        if not str(error.filename or "").startswith(str(source.path)):
            raise
        raise UserError(
            f"the assets ({source.kind}) do not have what this task needs: no such file",
            where=str(error.filename),
            remedy=f"{'complete that folder, or ' if source.kind == 'folder' else ''}{_assets_remedy()}",
        ) from error


def _benchmark(suite: str) -> Any:
    module = _import_libero("libero.libero.benchmark")
    known = [name for name in module.libero_suites if name in module.task_maps]
    if suite not in known:
        near = get_close_matches(suite, known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(
            f"LIBERO has no suite {suite!r}", where="suite", remedy=f"{hint}the suites are {', '.join(known)}"
        )
    # Its constructor prints to stdout, which would spoil a command's JSON.
    with contextlib.redirect_stdout(io.StringIO()):
        return module.get_benchmark(suite)()


def _official(suite: str, benchmark: Any, index: int) -> LiberoTask:
    task = benchmark.get_task(index)
    return LiberoTask(
        suite=suite,
        task_id=index,
        name=task.name,
        language=task.language,
        bddl_file=_libero_path("bddl_files") / task.problem_folder / task.bddl_file,
        init_states=_init_states(_libero_path("init_states") / task.problem_folder / task.init_states_file),
    )


def _own(suite: str, task: str, official: list[str]) -> LiberoTask:
    path = Path(task).expanduser()
    if path.suffix != ".bddl":
        path = _fixtures() / "bddl" / f"{task}.bddl"
    path = path.resolve()
    if not path.is_file():
        ours = sorted(file.stem for file in (_fixtures() / "bddl").glob("*.bddl"))
        near = get_close_matches(task, official + ours, n=1, cutoff=0.4)
        names = (
            f"did you mean {near[0]}? A task is" if near else f"there are {', '.join(official + ours)}; a task is also"
        )
        raise UserError(
            f"suite {suite} has no task {task!r}, and there is no such BDDL file",
            where=f"task: {path}" if task.endswith(".bddl") else "task",
            remedy=f"{names} an index from 0 to {len(official) - 1}, or the path of a BDDL file",
        )
    table = path.parent / "scenes.yaml"
    scene = _read_yaml(table).get(path.stem) if table.is_file() else None
    if not isinstance(scene, dict) or not {"suite", "task"} <= scene.keys():
        raise UserError(
            f"nothing says which official task's scene {path.name} shares, so that it has no init states",
            where=str(table),
            remedy=f"add an entry `{path.stem}: {{suite: ..., task: ...}}` to that file",
        )
    if scene["suite"] != suite:
        raise UserError(
            f"{path.name} belongs to {scene['suite']}, not to {suite}", where=str(table), remedy=f"say {scene['suite']}"
        )
    base = _official(suite, _benchmark(suite), int(scene["task"]))
    found = re.search(r"\(:language\s+([^()]+?)\s*\)", path.read_text(encoding="utf-8"))
    if found is None:
        raise UserError("the BDDL file has no (:language ...) entry", where=str(path), remedy="add the instruction")
    return LiberoTask(
        suite=suite,
        task_id=base.task_id,
        name=path.stem,
        language=" ".join(found[1].split()),
        bddl_file=path,
        init_states=base.init_states,
    )


def _read_yaml(path: Path) -> dict[str, Any]:
    from ruamel.yaml import YAML

    content = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}


def _libero_path(key: str) -> Path:
    libero = _import_libero("libero.libero")
    try:
        return Path(libero.get_libero_path(key)).resolve()
    except Exception as error:
        raise UserError(
            f"LIBERO's configuration has no usable {key!r}: {error}",
            where=libero.config_file,
            remedy="correct or remove that file; without it vladoctor writes one of its own",
        ) from error


def _init_states(path: Path) -> np.ndarray:
    import torch

    if not path.is_file():
        raise UserError(
            "the file of init states is missing",
            where=str(path),
            remedy="install LIBERO again, which brings it, or correct `init_states` in "
            f"{installation().config or 'the configuration of LIBERO'}",
        )
    # A pickled numpy array that comes with LIBERO's own package; torch refuses it by default since 2.6.
    return np.asarray(torch.load(path, weights_only=False), dtype=np.float64)


def _close_at_exit() -> None:
    env = live_env()
    if env is not None:
        with contextlib.suppress(Exception):
            close_env(env)
