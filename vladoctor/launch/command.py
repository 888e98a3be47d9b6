"""Starts a program with the taps attached, waits for it, and tells what its processes saw."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import vladoctor
from vladoctor.errors import UserError
from vladoctor.launch.attach import FORMAT

if TYPE_CHECKING:
    from vladoctor.runspec import RunSpec

BOOTSTRAP = Path(__file__).resolve().parent / "bootstrap"
"""Holds the `sitecustomize` that attaches the taps."""

SETTINGS = "watch.json"
PROCESSES = "processes"

IN_THIS_PROCESS = "vladoctor.watch() inside the program: see docs/observer.md"

_FORWARDED = (signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Watched:
    """A program that has ended.

    Attributes:
        status: its exit status as a shell would give it: 128 + n where signal n ended it.
        signal: name of that signal, or "".
        processes: what its Pythons left, in the order in which they began; see `attach.Process.record`.
    """

    status: int
    signal: str
    processes: Sequence[Mapping[str, Any]]

    @property
    def ended(self) -> str:
        """How it ended, as a reason for an exit status."""
        return f"the program was ended by {self.signal}" if self.signal else "the program's own"

    @property
    def problems(self) -> list[str]:
        """Why some of its processes were not watched, or not to the end; one sentence each."""
        found: dict[str, None] = {}
        for process in self.processes:
            if process.get("missing") in ("vladoctor", "wrapt"):
                found[
                    f"{process['executable']} is not watched: it has no {process['missing']}; "
                    f"install it there: {process['executable']} -m pip install vladoctor"
                ] = None
            elif process.get("error"):
                found[f"{process['executable']} is not watched: {process['error']}"] = None
            elif not process["closed"] and process["hooked"] and _alive(process["pid"]):
                found[f"process {process['pid']} is still running; judged is what it had recorded"] = None
            for problem in process.get("problems", ()):
                found[problem] = None
        return list(found)

    @property
    def why_nothing(self) -> str:
        """What was seen of a program of which nothing was recorded, and what to do."""
        attached = [process for process in self.processes if not process.get("error")]
        if not self.processes:
            return (
                "nothing was attached: no Python that reads PYTHONPATH was started. `python -I`, `-E` and `-S` do not, "
                f"nor do containers and other machines; use {IN_THIS_PROCESS}"
            )
        if not attached:
            return "nothing was recorded: no Python of the program has vladoctor installed"
        seen = list(dict.fromkeys(name for process in attached for name in process["imported"]))
        count = f"{len(attached)} process{'es' if len(attached) > 1 else ''}"
        if "numpy" not in seen:
            return f"nothing was recorded: {count} attached, without numpy, so that there was no loop to see"
        hooked = list(dict.fromkeys(name for process in attached for name in process["hooked"]))
        where = f"taps were on {', '.join(hooked)}" if hooked else "no library that vladoctor has taps for was imported"
        return (
            f"nothing was recorded: {count} attached, which imported {', '.join(seen)}; {where}; no environment that "
            "vladoctor knows was stepped and no policy asked. Name yours with `doctor.watch_env` or "
            f"`doctor.watch_calls` ({IN_THIS_PROCESS})"
        )


def python_command(words: Sequence[str]) -> list[str]:
    """The command to run: words that begin with a script or an option of Python's are run by this Python."""
    if words[0].startswith("-") or words[0].endswith(".py"):
        return [sys.executable, *words]
    return list(words)


def find_program(word: str) -> str:
    """Where a program is: as a shell finds it, else beside this Python, whose environment need not be activated.

    Raises:
        UserError: nowhere.
    """
    found = shutil.which(word) or shutil.which(word, path=str(Path(sys.executable).parent))
    if found is None:
        there = Path(word).is_file()
        raise UserError(
            f"{word} is not a program" if there else f"there is no program {word}",
            where="-- COMMAND",
            remedy=f"run it with its interpreter, for example: -- bash {word}" if there else "write it as in the shell",
        )
    return found


def refuse_recordings(folder: Path) -> None:
    """Make sure that recordings of two runs do not mix.

    Raises:
        UserError: the folder holds some.
    """
    if any(folder.glob("traces/*.mcap")) or any(folder.glob("*.mcap")):
        raise UserError(
            "the folder already holds traces of an earlier run",
            where=str(folder),
            remedy="name another with --out, or remove it",
        )


def watch_command(command: Sequence[str], folder: Path, spec: RunSpec, *, drop: Sequence[str] = ()) -> Watched:
    """Run a program with the taps attached and wait for its end. Terminal, files and exit status are its own.

    The keyboard's interrupt goes to the program, which decides what to do with it; SIGTERM and SIGHUP are passed on.

    Args:
        folder: of traces and of what the processes leave; it has to exist.
        drop: variables of the environment that vladoctor has set for itself.

    Raises:
        UserError: there is no such program, or it cannot be started.
    """
    words = python_command(command)
    program = find_program(words[0])
    # As a shell does it, but for a program that is not on the path: Python finds its libraries by its own name.
    words[0] = words[0] if shutil.which(words[0]) else program
    shutil.rmtree(folder / PROCESSES, ignore_errors=True)
    (folder / PROCESSES).mkdir()
    settings = {
        "format": FORMAT,
        "launcher": os.getpid(),
        "trace": {"thumbnail": spec.trace.thumbnail, "full_every": spec.trace.full_every},
        "run": {"spec": spec.to_json(), "vladoctor": vladoctor.__version__},
    }
    file = folder.resolve() / SETTINGS
    file.write_text(json.dumps(settings), encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name not in drop}
    # An empty entry would put the current folder on the program's path.
    path = [str(BOOTSTRAP), *filter(None, [environment.get("PYTHONPATH")])]
    environment |= {"PYTHONPATH": os.pathsep.join(path), "VLADOCTOR_WATCH": str(file)}
    with _signals() as forward_to:
        try:
            # Files that the shell has opened for the program (`<(...)`) stay open; Python's own close by themselves.
            child = subprocess.Popen(words, executable=program, env=environment, close_fds=False)
        except OSError as error:
            raise UserError(
                f"{program} cannot be started: {error.strerror}",
                where="-- COMMAND",
                remedy=f"run it with its interpreter, for example: -- bash {words[0]}",
            ) from error
        forward_to.append(child)
        code = child.wait()
    name = signal.Signals(-code).name if code < 0 and -code in {*signal.Signals} else ""
    return Watched(code if code >= 0 else 128 - code, name, read_processes(folder))


def read_processes(folder: Path) -> list[Mapping[str, Any]]:
    """What the processes of a program have left in the folder, in the order in which they began."""
    files = sorted((folder / PROCESSES).glob("*.json"), key=lambda file: file.name.partition("-")[2])
    found = []
    for file in files:
        # One that was killed while it wrote leaves half of it.
        with suppress(OSError, ValueError):
            found.append(json.loads(file.read_text(encoding="utf-8")))
    return found


@contextmanager
def _signals() -> Iterator[list[subprocess.Popen[bytes]]]:
    """While a child runs, leave the keyboard's interrupt to it, and pass on what asks to end."""
    children: list[subprocess.Popen[bytes]] = []

    def forward(number: int, _: Any) -> None:
        for child in children:
            with suppress(ProcessLookupError):
                child.send_signal(number)

    # What is ignored (nohup) stays ignored, here and in the child. A handler is not inherited by it, and None is one
    # that was not set from Python.
    wanted = {signal.SIGINT: lambda *_: None, **dict.fromkeys(_FORWARDED, forward)}
    before = {number: signal.getsignal(number) for number in wanted}
    changed = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    for number in changed:
        signal.signal(number, wanted[number])
    try:
        yield children
    finally:
        for number in changed:
            signal.signal(number, before[number])


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True
