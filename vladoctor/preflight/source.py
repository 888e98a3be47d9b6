"""Level 0: what files, variables and metadata say. Under a second; imports nothing of the run's."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vladoctor.check import Severity
from vladoctor.errors import UserError
from vladoctor.facts import system
from vladoctor.preflight import known
from vladoctor.preflight.looks import Context, Look, TroubleError
from vladoctor.preflight.result import ABSTAINED, OK, Item, judged
from vladoctor.records import Query
from vladoctor.runspec import RunSpec
from vladoctor.snapshot import Snapshot, read_json
from vladoctor.taps.rendering import gl_facts
from vladoctor.versions import versions

BACKENDS = ("", "egl", "osmesa", "glfw", "glx", "enable", "enabled", "on", "true", "1")
SWITCHED_OFF = ("disable", "disabled", "off", "false", "0")
"""Values of MUJOCO_GL that mujoco knows (mujoco 3.8.1 gl_context.py); robosuite puts egl in the place of the latter."""

LEAST_SPACE = 500e6
"""Bytes that should be free for recordings: some 40 episodes of 128 steps. Not a limit of anything."""

OWN = "the program's own; `vladoctor diagnose` watches it as it runs"


def looks(context: Context) -> list[Look]:
    """What is looked at, of this run."""
    if context.spec.loop is not None:
        return [
            Look(0, "program", "VD902", _program, "loop"),
            Look(0, "libraries", "VD703", _libraries, "loop"),
            Look(0, "rendering variables", "VD607", _variables, "loop"),
            Look(0, "LIBERO's configuration", "VD602", _question, "loop"),
            Look(0, "report folder", "VD902", _folder, "report.folder"),
        ]
    return [
        Look(0, "run file", "VD803", _run_file, "env"),
        Look(0, "model folder", "VD704", _model, "model.path"),
        Look(0, "profile", "VD703", _profile, "profile.name"),
        Look(0, "libraries", "VD703", _libraries, "model"),
        Look(0, "rendering variables", "VD607", _variables, "env"),
        Look(0, "LIBERO's configuration", "VD602", _configuration, "env.suite"),
        Look(0, "assets", "VD104", _assets, "env.assets"),
        Look(0, "report folder", "VD902", _folder, "report.folder"),
    ]


def _run_file(context: Context) -> Iterator[Item]:
    model, env = context.spec.own_loop()
    tasks = env.tasks if isinstance(env.tasks, str) else ", ".join(_short(task) for task in env.tasks)
    states = f"{len(env.init_states)} init state{'s' if len(env.init_states) != 1 else ''}"
    published = context.profile.get(f"loop.horizon.{env.suite}") if context.profile.get("loop.horizon") else None
    horizon = f", {env.horizon or published} steps at most" if env.horizon or published else ""
    told = f"{model.path.name} in {env.suite}, tasks {tasks}, {states}{horizon}"
    yield Item(0, "run file", OK, told, f"{published} steps" if published else "")


def _short(task: int | str) -> str:
    return str(task) if isinstance(task, int) else Path(task).stem[:40]


def _model(context: Context) -> Iterator[Item]:
    context.spec.require_files()
    model, _ = context.spec.own_loop()
    folder = Snapshot(model.path)
    kind = folder.config.get("model_type") or "?"
    if not folder.is_openvla():
        raise TroubleError(
            "VD704",
            f"The checkpoint is a {kind} ({', '.join(folder.config.get('architectures') or ['?'])}); vladoctor's own "
            "loop runs checkpoints in OpenVLA's format.",
            "Watch your own loop instead: vladoctor diagnose -- python eval.py",
            evidence={"seen": kind, "expected": "OpenVLA's format"},
            key="model.path",
        )
    _small_files(folder)
    files = folder.weights.files
    if not files:
        why = "; ".join(folder.weights.problems)
        raise TroubleError(
            "VD704",
            f"There are no weights in {model.path.name}: {why}.",
            "Download the whole snapshot; a git clone without git-lfs leaves the weights out.",
            evidence={"seen": why, "expected": "*.safetensors"},
            key="model.path",
        )
    lacking = [name for name in ("preprocessor_config.json", "tokenizer_config.json") if not _in(model.path, name)]
    if lacking:
        raise TroubleError(
            "VD303",
            f"{' and '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} not in the model folder: there is no "
            "processor to make prompts and images with.",
            "Copy the processor's files from the snapshot, or from the base checkpoint that was fine-tuned.",
            evidence={"seen": "missing", "expected": ", ".join(lacking)},
            key="model.path",
        )
    size = sum(files.values())
    yield Item(
        0, "model folder", OK, f"{kind}, {len(files)} file{'s' if len(files) > 1 else ''} of weights, {_bytes(size)}"
    )


def _small_files(folder: Snapshot) -> None:
    """Read the JSON files of a snapshot, each of which a line of level 1 stands on.

    Raises:
        TroubleError: one is damaged, under the code of what it is for.
    """
    for name, code in (
        ("dataset_statistics.json", "VD501"),
        ("preprocessor_config.json", "VD303"),
        ("tokenizer_config.json", "VD303"),
    ):
        if _in(folder.path, name):
            with _under(code):
                read_json(folder.path / name)
    with _under("VD501"):
        _ = folder.statistics
    with _under("VD303"):
        _ = folder.pixel_norm


@contextmanager
def _under(code: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        error.code = code  # type: ignore[attr-defined]
        raise


def _in(folder: Path, name: str) -> bool:
    return (folder / name).is_file()


def _bytes(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def _profile(context: Context) -> Iterator[Item]:
    profile = context.profile
    if profile.name == "unknown":
        yield Item(0, "profile", ABSTAINED, reason=f"nothing is expected: {profile.reason}")
    else:
        why = f" ({profile.reason})" if profile.reason else ""
        yield Item(0, "profile", OK, f"{profile.name}{why}")


def _libraries(context: Context) -> Iterator[Item]:
    """What vladoctor's own loop needs, then what the profile's family is written for."""
    found = versions()
    if context.spec.loop is None:
        yield from _needed(found, context)
    run = {"versions": found}
    query = None
    if context.spec.model is not None:
        # Of the published modelling file some versions are known to drop the image; of others nothing is known.
        try:
            published = Snapshot(context.spec.model.path).config.get("model_type") == "openvla"
        except (OSError, UserError):
            published = False  # said in the model folder's own line
        query = Query(known.BOUNDARY) if published else None
    episode = known.episode(context.spec, run=run, query=query)
    pins = system.wanted_versions(episode, context.profile)
    expected = ", ".join(f"{one.library}{one.asked}" for one in pins)
    yield from judged(
        0, "versions", known.ask("VD703", episode, context.profile, context.spec), expected=expected, quiet=True
    )


def _needed(found: dict[str, str], context: Context) -> Iterator[Item]:
    """What is installed against what the extras `torch` and `libero` ask for, which is what was tried."""
    missing: list[str] = []
    for library, asked in _requirements().items():
        module = {"PyYAML": "yaml"}.get(library, library)
        version = found.get(library.lower()) or _version(library)
        if version is None and importlib.util.find_spec(module) is None:
            missing.append(library)
        elif version is not None and asked and system.within(version, asked) is False:
            pin = context.profile.values.get(f"versions.{library}")
            if not (isinstance(pin, str) and system.within(version, pin)):
                raise _outside(library, version, asked)
    if importlib.util.find_spec("libero") is None:
        missing.append("libero")
    if missing:
        raise TroubleError(
            "VD703",
            f"Not installed: {', '.join(missing)}. The loop cannot be run without.",
            'Run: pip install "vladoctor[torch]" (docs/install.md).'
            if set(missing) <= {"torch", "transformers", "safetensors"}
            else 'Run: pip install "vladoctor[torch,libero]"; for LIBERO itself see docs/install.md.',
            evidence={"seen": "missing", "expected": ", ".join(missing)},
        )
    named = ("torch", "transformers", "mujoco", "robosuite")
    yield Item(0, "libraries", OK, ", ".join(f"{name} {found[name]}" for name in named if name in found))


def _outside(library: str, version: str, asked: str) -> TroubleError:
    return TroubleError(
        "VD703",
        f"{library} {version} is outside of what this loop was tried with, {asked}.",
        f"Run: pip install '{library}{asked}', or see at level 2 that a short episode is as it should be. "
        "docs/install.md says what was tried.",
        # Another version may do as well; older libraries of models lack what the loader calls.
        severity=Severity.FIX if library in ("torch", "transformers") else Severity.LOOK,
        evidence={"seen": f"{library} {version}", "expected": f"{library}{asked}"},
    )


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def _requirements() -> dict[str, str]:
    """Library -> version specifier, of the extras that the own loop needs, as this package's metadata have them."""
    try:
        lines = importlib.metadata.requires("vladoctor") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    found: dict[str, str] = {}
    for line in lines:
        parts = re.fullmatch(r"""([\w.-]+)\s*([^;]*?)\s*;\s*extra == ['"](?:torch|libero)['"]""", line)
        if parts is not None:
            found[parts[1]] = parts[2] or found.get(parts[1], "")
    return found


def _variables(context: Context) -> Iterator[Item]:
    asked = os.environ.get("MUJOCO_GL", "").strip().lower()
    gl = gl_facts()
    if asked not in (*BACKENDS, *SWITCHED_OFF):
        raise TroubleError(
            "VD607",
            f"MUJOCO_GL is {os.environ['MUJOCO_GL']!r}, which is no backend: importing MuJoCo raises a RuntimeError.",
            "Set MUJOCO_GL=egl (or osmesa), or leave it unset.",
            evidence={"seen": os.environ["MUJOCO_GL"], "expected": "egl, osmesa or unset"},
        )
    if asked == "glx" and not os.environ.get("DISPLAY"):
        raise TroubleError(
            "VD607",
            "MUJOCO_GL is glx, which needs a display, and DISPLAY is not set: making the environment ends in a "
            "FatalError of MuJoCo's.",
            "Set MUJOCO_GL=egl (or osmesa), or leave it unset.",
            evidence={"seen": "glx", "expected": "egl, osmesa or unset"},
        )
    platform = os.environ.get("PYOPENGL_PLATFORM", "").lower()
    if platform and asked in ("egl", "osmesa") and platform != asked:
        raise TroubleError(
            "VD607",
            f"MUJOCO_GL asks for {asked} and PYOPENGL_PLATFORM for {platform}: MuJoCo raises an ImportError.",
            f"Take PYOPENGL_PLATFORM away, or set it to {asked}.",
            evidence={"seen": f"PYOPENGL_PLATFORM={platform}", "expected": asked},
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    hidden = visible is not None and re.fullmatch(r"\d+(,\d+)*", visible.replace(" ", "")) is None
    if hidden and "MUJOCO_EGL_DEVICE_ID" not in os.environ and context.spec.loop is not None and _robosuite():
        raise TroubleError(
            "VD607",
            f"CUDA_VISIBLE_DEVICES is {visible!r}, to keep torch off the GPU; robosuite reads it as a list of EGL "
            "devices and raises a ValueError.",
            "Unset it, or set MUJOCO_EGL_DEVICE_ID=0 beside it, which comes first and which torch does not read.",
            severity=Severity.FIX,
            evidence={"seen": f"CUDA_VISIBLE_DEVICES={visible}", "expected": "numbers, or MUJOCO_EGL_DEVICE_ID"},
        )
    misspelt = known.ask(
        "VD607",
        known.episode(context.spec, task={"gl": {**gl, "asked": {}, "backend": asked or "egl", "gpus": []}}),
        context.profile,
        context.spec,
    )
    if misspelt.findings:
        yield from judged(0, "rendering variables", misspelt)
        return
    told = ", ".join(f"{name}={value}" for name, value in gl["asked"].items()) or "none set"
    note = "; CUDA_VISIBLE_DEVICES hides the GPUs from robosuite too, which is taken care of" if hidden else ""
    yield Item(0, "rendering variables", OK, told + note)


def _robosuite() -> bool:
    return importlib.util.find_spec("robosuite") is not None


def _configuration(context: Context) -> Iterator[Item]:
    from vladoctor.adapters import libero

    if importlib.util.find_spec("libero") is None:
        yield Item(0, "LIBERO's configuration", ABSTAINED, reason="LIBERO is not installed")
        return
    found = libero.installation()
    _, env = context.spec.own_loop()
    for name, folder in found.folders.items():
        if not (folder / env.suite).is_dir() and (found.root / "bddl_files" / env.suite).is_dir():
            raise TroubleError(
                "VD602",
                f"LIBERO's configuration says that {name} are in {folder}, and there is no folder {env.suite} in it.",
                f"Correct `{name}` in {found.config}, or remove that file: vladoctor then writes one of its own.",
                evidence={"seen": "missing", "expected": str(folder / env.suite)},
            )
    where = f"{found.config}" if found.config else "none; vladoctor writes one of its own, so that nothing is asked"
    yield Item(0, "LIBERO's configuration", OK, where)


def _question(context: Context) -> Iterator[Item]:
    """Whether the program's first import of LIBERO would ask a question on stdin."""
    from vladoctor.adapters import libero

    what = "LIBERO's configuration"
    if importlib.util.find_spec("libero") is None:
        yield Item(0, what, ABSTAINED, reason="LIBERO is not installed here")
        return
    found = libero.installation()
    if found.config is not None:
        yield Item(0, what, OK, str(found.config))
        return
    text = _program_text(context)
    if text is None or "libero" not in text.lower():
        yield Item(0, what, ABSTAINED, reason="the program is not seen to use LIBERO")
        return
    if re.search(r"LIBERO_CONFIG_PATH|[/'\"]\.libero\b", text):
        yield Item(0, what, OK, "none; the program names LIBERO_CONFIG_PATH itself")
        return
    raise TroubleError(
        "VD602",
        f"LIBERO has no configuration ({found.asked_at}): its first import asks on stdin where its files are. In a job "
        "script that is an EOFError, at a terminal a program that waits for ever.",
        "Answer it once, beforehand; LIBERO then writes its own paths into that file (LIBERO_CONFIG_PATH names another "
        "folder):\n```\necho N | python -c 'import libero.libero'\n```",
        severity=Severity.FIX,
        evidence={"seen": "no config.yaml", "expected": str(found.asked_at)},
    )


def _assets(context: Context) -> Iterator[Item]:
    from vladoctor.adapters import libero

    if importlib.util.find_spec("libero") is None:
        yield Item(0, "assets", ABSTAINED, reason="LIBERO is not installed")
        return
    _, env = context.spec.own_loop()
    source = libero.find_assets(env.assets)
    libero.require_assets_for(env.suite, source)
    yield Item(0, "assets", OK, f"{source.kind}: {source.note}")


def require_program(spec: RunSpec) -> None:
    """Check that the program of a run with `loop` is there.

    Raises:
        UserError: it is not.
    """
    loop = spec.loop
    if loop is None:
        return
    missing, key = "", "loop.command"
    if loop.callable:
        module, key = loop.callable.partition(":")[0], "loop.callable"
        missing = "" if _spec_of(module) is not None else f"there is no module {module}"
    else:
        first, script = loop.words[0], _script(spec)
        if script is not None and not script.is_file():
            missing = f"there is no program {script}"
        elif not first.endswith(".py") and not first.startswith("-") and shutil.which(first) is None:
            missing = f"there is no command {first}"
    if missing:
        raise UserError(missing, where=spec.where(key), remedy="paths are relative to the current folder")


def _program(context: Context) -> Iterator[Item]:
    loop = context.spec.loop
    assert loop is not None
    yield Item(0, "program", OK, loop.callable or " ".join(loop.words))
    for what in ("model", "environment"):
        yield Item(0, what, ABSTAINED, reason=OWN)


def _spec_of(module: str) -> object | None:
    try:
        return importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None


def _script(spec: RunSpec) -> Path | None:
    """The script that the program is; None for modules and commands."""
    words = spec.loop.words if spec.loop is not None else ()
    return next((Path(word) for word in words[:4] if word.endswith(".py")), None)


def _program_text(context: Context) -> str | None:
    file, loop = _script(context.spec), context.spec.loop
    if file is None and loop is not None and loop.callable:
        origin = getattr(_spec_of(loop.callable.partition(":")[0]), "origin", None)
        file = Path(origin) if origin else None
    try:
        return file.read_text("utf-8", "replace") if file is not None else None
    except OSError:
        return None


def _folder(context: Context) -> Iterator[Item]:
    folder = context.spec.report.folder.absolute()
    place = folder
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise TroubleError(
            "VD902",
            f"Nothing can be written to {place}: neither recordings nor the report.",
            "Name a folder of yours: `report: {folder: ...}`, or --out.",
            evidence={"seen": "not writable", "expected": str(folder)},
        )
    free = shutil.disk_usage(place).free
    if free < LEAST_SPACE:
        raise TroubleError(
            "VD902",
            f"{_bytes(free)} are free for recordings in {place}.",
            "Free some space, or name another folder with `report: {folder: ...}`.",
            severity=Severity.LOOK,
            evidence={"seen": _bytes(free), "expected": _bytes(LEAST_SPACE)},
        )
    yield Item(0, "report folder", OK, f"{_bytes(free)} free")
