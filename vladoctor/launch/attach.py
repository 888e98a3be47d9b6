"""Attaches the taps in a process of somebody's program. Runs before the program does, and imports next to nothing.

The taps need numpy, and numpy reads the environment when it is imported (OPENBLAS_NUM_THREADS and its like), which the
program may set first. So nothing of the taps is imported before the program itself has imported numpy; a process that
never does steps no environment and costs nothing more.

Nothing here raises into the program or prints. What went wrong is in the process's record.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from importlib.machinery import ModuleSpec

    from vladoctor.taps.watch import Watch

FORMAT = 1
"""Of `watch.json`; another vladoctor in the program's environment may be older or newer than the one that wrote it."""

NOTABLE = (
    "torch", "jax", "tensorflow", "transformers", "vllm", "lerobot", "openpi_client", "requests", "websockets",
    "gymnasium", "gym", "robosuite", "libero", "mani_skill", "simpler_env", "dm_env", "mujoco", "numpy",
)  # fmt: skip
"""Libraries worth naming in a report where nothing could be recorded."""


def attach(settings_file: str) -> None:
    """Watch this process as `watch.json` says.

    Raises:
        OSError, ValueError: the file or the folder is not usable, or another version of vladoctor wrote it.
    """
    with open(settings_file, encoding="utf-8") as file:  # noqa: PTH123 - pathlib takes 8 ms to import
        settings = json.load(file)
    if settings["format"] != FORMAT:
        raise ValueError(f"{settings_file} was written by another version of vladoctor")
    process = Process(os.path.dirname(settings_file), settings)  # noqa: PTH120
    process.save()
    atexit.register(process.close)
    os.register_at_fork(after_in_child=process.forked)
    sys.meta_path.insert(0, _WaitForNumpy(process))


class Process:
    """What is known of a process of the program, and its watch.

    Attributes:
        watch: None until the process has imported numpy.
        record: as it is saved: `pid`, `parent` (its process id), `executable`, `arguments`, `folder` (where it began),
            `python`, `hooked` (modules on which taps are), `imported` (those of `NOTABLE`), `own_seconds` (spent in
            taps), `problems` (sentences), `closed` (whether it ended in order).
    """

    def __init__(self, folder: str, settings: dict[str, Any]) -> None:
        self.folder = folder
        self.settings = settings
        self.watch: Watch | None = None
        self.main = os.getppid() == settings["launcher"]
        self._first = os.getpid()
        self._begin()

    def _begin(self) -> None:
        self.record: dict[str, Any] = {
            "pid": os.getpid(),
            "parent": os.getppid(),
            "executable": sys.executable,
            "arguments": list(sys.orig_argv),
            "folder": _folder(),
            "python": sys.version.split()[0],
            "hooked": [],
            "imported": [],
            "own_seconds": 0.0,
            "problems": [],
            "closed": False,
        }
        # A process id can be used again, and `exec` keeps it.
        self._file = f"{self.folder}/processes/{os.getpid()}-{time.time_ns()}.json"

    def start(self) -> None:
        """Attach the taps; numpy is there."""
        if self.watch is not None:
            return
        began = time.perf_counter()
        try:
            from pathlib import Path

            from vladoctor.taps.watch import Watch

            silence()
            forked = os.getpid() != self._first
            run = {"process": os.getpid(), "parent": os.getppid(), **self.settings["run"]}
            watch = Watch(Path(self.folder), run=run, facts=run_facts, **self.settings["trace"])
            if forked or not self.main:
                watch.process = f"process{os.getpid()}-"
            watch.start()
            self.watch = watch
        except Exception as error:  # noqa: BLE001 - the program runs on unwatched
            self.record["problems"].append(f"not watched: {type(error).__name__}: {error}")
        self.record["started_seconds"] = round(time.perf_counter() - began, 4)
        self.save()

    def forked(self) -> None:
        """In a process that was just forked: it has a record of its own, written when it ends."""
        self._begin()
        util = sys.modules.get("multiprocessing.util")
        if util is not None:
            # Processes of multiprocessing end without atexit, and forget what was registered before this moment.
            util.register_after_fork(self, _finalize)

    def close(self) -> None:
        """The process ends: close what is open and save what was seen."""
        try:
            if self.watch is not None:
                self.watch.close()
                self.record["own_seconds"] = round(self.watch.tap.seconds, 4)
                self.record["problems"] += [text for text in self.watch.errors if text not in self.record["problems"]]
                self.record["hooked"] = self.watch.hooked
        except Exception as error:  # noqa: BLE001 - the program ends as it would
            self.record["problems"].append(f"not closed: {type(error).__name__}: {error}")
        self.record["closed"] = True
        self.save()

    def save(self) -> None:
        self.record["imported"] = [name for name in NOTABLE if name in sys.modules]
        try:
            with open(self._file, "w", encoding="utf-8") as file:  # noqa: PTH123
                json.dump(self.record, file)
        except Exception:  # noqa: BLE001 - the disk is full, say; traces say so themselves
            return


def run_facts() -> dict[str, Any]:
    """What holds for a run, for `records.Episode.run`, as far as it can be seen from outside."""
    from PIL import Image

    from vladoctor.versions import device_in_use, versions

    # PIL imports its formats when it first saves a picture. Were that after the program's end, its exit status after a
    # KeyboardInterrupt would be another: code that is made of strings, as in namedtuple, makes Python forget why it
    # ends (CPython, Python/pythonrun.c, run_eval_code_obj).
    Image.preinit()
    return {"versions": versions(), "device": device_in_use()}


def silence() -> Callable[[], None]:
    """Keep vladoctor's log out of the program's: what it says stands in traces and reports. Returns the undoing."""
    import logging

    log, handler = logging.getLogger("vladoctor"), logging.NullHandler()
    before = log.propagate
    log.propagate = False
    log.addHandler(handler)

    def undo() -> None:
        log.propagate = before
        log.removeHandler(handler)

    return undo


class _WaitForNumpy:
    """On `sys.meta_path` until the program asks for numpy for the first time.

    Only then is wrapt imported (70 ms), which calls back when numpy is there.
    """

    def __init__(self, process: Process) -> None:
        self.process = process

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != "numpy":
            return None
        from importlib.util import find_spec

        if self in sys.meta_path:
            sys.meta_path.remove(self)
        try:
            from wrapt import register_post_import_hook

            register_post_import_hook(lambda _: self.process.start(), name)
        except Exception as error:  # noqa: BLE001 - the import is the program's own
            self.process.record["problems"].append(f"not watched: {type(error).__name__}: {error}")
        return find_spec(name)


def _finalize(process: Process) -> None:
    from multiprocessing import util

    util.Finalize(None, process.close, exitpriority=50)


def _folder() -> str:
    try:
        return os.getcwd()  # noqa: PTH109
    except OSError:  # it was removed
        return ""
