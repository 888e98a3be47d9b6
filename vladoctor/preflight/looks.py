"""A look at one thing, with its time limit, and what runs looks: here, or in a child process that can hang or die.

A child has no stdin (a question there is an EOFError, not a wait) and no terminal, is offline to model hubs, and tells
the parent which look it begins and what came of it. A look that takes longer than its limit ends the child and is
reported with what it was doing; one that kills the process (a GL driver can) likewise.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vladoctor.check import Severity, all_checks
from vladoctor.diagnosis import Finding
from vladoctor.errors import UserError, refused
from vladoctor.places import Place
from vladoctor.preflight.result import ABSTAINED, CRASHED, PROBLEM, Item
from vladoctor.runspec import RunSpec

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
"""A pre-flight downloads nothing; vladoctor's own loop takes checkpoints from folders only."""

STARTING = 30.0
"""Seconds that a child may take until its first look begins: an interpreter and numpy, from a cold network drive."""

IMPORTING = 300.0
"""Seconds for a look that imports torch, transformers or a simulator: minutes from a network drive that is busy."""

TAIL = 12
"""Lines of a dead child's output that are shown."""


@dataclass
class Context:
    """What looks share: the run, its profile, and what earlier looks have made (`have`)."""

    spec: RunSpec
    profile: Any
    have: dict[str, Any] = field(default_factory=dict)

    def need(self, name: str) -> Any:
        """What an earlier look has made.

        Raises:
            BlockedError: it has not.
        """
        if name not in self.have:
            raise BlockedError(f"there is no {name}, for the reason given above")
        return self.have[name]


class BlockedError(Exception):
    """A look cannot be had because an earlier one failed."""


class TroubleError(Exception):
    """Something is wrong, in the words of a `UserError`, under a code of the catalogue."""

    def __init__(
        self,
        code: str,
        message: str,
        remedy: str,
        *,
        severity: Severity = Severity.STOP,
        evidence: Mapping[str, Any] | None = None,
        key: str = "",
    ) -> None:
        super().__init__(message)
        self.code, self.message, self.remedy, self.severity = code, message, remedy, severity
        self.evidence, self.key = dict(evidence or {}), key


@dataclass(frozen=True)
class Look:
    """One look.

    Attributes:
        what: "weights".
        code: of the check whose fact this is; what goes wrong here without a code of its own gets this one.
        see: yields lines, or raises `TroubleError`, `UserError` or `BlockedError`.
        key: of the run file, for the finding's place.
        limit: seconds.
    """

    level: int
    what: str
    code: str
    see: Callable[[Context], Iterable[Item]]
    key: str = ""
    limit: float = 120.0


def finding(
    code: str,
    message: str,
    remedy: str,
    severity: Severity,
    evidence: Mapping[str, Any] | None = None,
    place: Place | None = None,
) -> Finding:
    """A finding of the whole run under a code of the catalogue."""
    check = next(one for one in all_checks() if one.code == code)
    return Finding(
        code=code,
        name=check.name,
        stage=check.stage,
        severity=severity,
        first_step=0,
        last_step=None,
        message=message,
        remedy=remedy,
        evidence=dict(evidence or {}),
        about_evidence=check.about_evidence,
        whole_run=True,
        place=place,
    )


def place_in(spec: RunSpec, key: str) -> Place | None:
    """Where a key stands in the run file, or what it would stand in."""
    if not spec.source or not spec.positions:
        return None
    while key and key not in spec.positions:
        cut = max(key.rfind("."), key.rfind("["))
        key = key[:cut] if cut > 0 else ""
    line, column = spec.positions.get(key, (1, 1))
    return Place(spec.source, line, column)


def take(look: Look, context: Context) -> list[Item]:
    """Take one look; whatever is raised in it becomes a line."""
    began = time.perf_counter()
    items: list[Item] = []
    try:
        items.extend(look.see(context))
    except BlockedError as error:
        items.append(Item(look.level, look.what, ABSTAINED, reason=str(error), missing=True))
    except TroubleError as error:
        items.append(_trouble(look, context, error))
    except UserError as error:
        items.append(_trouble(look, context, _in_words(look, context, error)))
    except Exception as error:  # noqa: BLE001 - a look that crashes is a state of its own, never the end of it all
        known = refused(error) if isinstance(error, OSError) else None
        if known is not None:
            items.append(_trouble(look, context, _in_words(look, context, known)))
        else:
            items.append(Item(look.level, look.what, CRASHED, reason=traceback.format_exc()))
    placed = [_placed(item, look, context) for item in items]
    if placed:
        placed[0] = replace(placed[0], seconds=time.perf_counter() - began)
    return placed


def _in_words(look: Look, context: Context, error: UserError) -> TroubleError:
    # The run file's own line is the finding's place, and need not be said twice.
    where = "" if error.where.startswith(f"{context.spec.source}:") else error.where
    told = error.what[:1].upper() + error.what[1:] + (f" ({where})" if where else "")
    return TroubleError(getattr(error, "code", look.code), told, error.remedy)


def _trouble(look: Look, context: Context, error: TroubleError) -> Item:
    place = place_in(context.spec, error.key or look.key)
    found = finding(error.code, error.message, error.remedy, error.severity, error.evidence, place)
    seen, wanted = error.evidence.get("seen", error.message), error.evidence.get("expected", "")
    return Item(look.level, look.what, PROBLEM, str(seen), str(wanted), found)


def _placed(item: Item, look: Look, context: Context) -> Item:
    if item.finding is None or item.finding.place is not None:
        return item
    return replace(item, finding=replace(item.finding, place=place_in(context.spec, look.key), whole_run=True))


# In another process.


def in_children(groups: Mapping[str, Sequence[Look]], context: Context, note: Callable[[str], None]) -> list[Item]:
    """Take groups of looks, each group in a child of its own, all at the same time; lines in the groups' order.

    Args:
        groups: name of a module of this package that has `looks(context)` -> the looks that it will take, as this
            process knows them too.
        note: told what begins.
    """
    found: dict[str, list[Item]] = {}

    def run(module: str) -> None:
        found[module] = _in_child(module, groups[module], context, note)

    threads = [threading.Thread(target=run, args=(module,), daemon=True) for module in groups]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [item for module in groups for item in found.get(module, ())]


_children: set[int] = set()
"""Process groups that run."""


def end_children() -> None:
    """End what still runs, after an interrupt."""
    for group in list(_children):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


def _in_child(module: str, looks: Sequence[Look], context: Context, note: Callable[[str], None]) -> list[Item]:
    items: list[Item] = []
    waiting = list(looks)
    with tempfile.TemporaryDirectory(prefix="vladoctor-preflight-") as folder:
        order, output = Path(folder) / "order", Path(folder) / "output"
        order.write_bytes(pickle.dumps((context.spec, context.profile, dict(context.have))))
        read, write = os.pipe()
        # Nothing is written to it: it ends when this process does, however that comes about, and the child with it.
        alive, held = os.pipe()
        with output.open("wb") as sink:
            child = subprocess.Popen(
                [sys.executable, "-m", "vladoctor.preflight.looks", module, str(order), str(write), str(alive)],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                pass_fds=(write, alive),
                start_new_session=True,
                env={**os.environ, **OFFLINE, "PYTHONFAULTHANDLER": "1"},
            )
        os.close(write)
        os.close(alive)
        _children.add(child.pid)
        said: queue.Queue[Any] = queue.Queue()
        threading.Thread(target=_listen, args=(read, said), daemon=True).start()
        current, limit = None, STARTING
        overdue = False
        try:
            while True:
                try:
                    kind, content = said.get(timeout=limit)
                except queue.Empty:
                    overdue = True
                    break
                if kind == "end":
                    break
                if kind == "begin":
                    current = next((look for look in waiting if look.what == content), None)
                    limit = current.limit if current else STARTING
                    note(str(content))
                else:
                    items.extend(content)
                    waiting = [look for look in waiting if current is None or look.what != current.what]
                    current, limit = None, STARTING
        finally:
            if overdue or child.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    if not overdue:
                        child.wait(20)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            os.close(held)
            _children.discard(child.pid)
        if current is not None or (waiting and looks):
            items.extend(_cut_off(current, waiting, context, overdue, limit, child.returncode, output))
    return items


def _cut_off(
    current: Look | None,
    waiting: Sequence[Look],
    context: Context,
    overdue: bool,
    limit: float,
    status: int,
    output: Path,
) -> Iterator[Item]:
    """What became of looks that were not taken."""
    last = output.read_text("utf-8", "replace").strip().splitlines()[-TAIL:]
    look = current or (waiting[0] if waiting else None)
    if look is None:
        return
    if overdue and current is not None:
        yield _trouble(
            look,
            context,
            TroubleError(
                look.code,
                f"This had not ended after {limit:.0f} s and was stopped: the run would hang here.",
                "Look at what it waits for: a download, a question on the terminal, an environment whose reset tries "
                "again for ever because an asset is missing, a network drive."
                + (f" The last that it printed: {last[-1][:200]}" if last else ""),
                evidence={"seen": f"more than {limit:.0f} s", "output": last},
                key=look.key,
            ),
        )
    elif status < 0 and not overdue:
        name = signal.Signals(-status).name
        yield _trouble(
            look,
            context,
            TroubleError(
                look.code,
                f"The process died of {name} here; the run would too.",
                "SIGKILL is most often the kernel's answer to too little memory, SIGSEGV and SIGABRT a graphics driver "
                "or a library built for another version. See what it printed last, in the JSON output.",
                evidence={"seen": name, "output": last},
                key=look.key,
            ),
        )
    else:
        reason = "\n".join(last) or f"the process ended with status {status}"
        yield Item(look.level, look.what, CRASHED, reason=reason)
    for other in waiting:
        if other.what != look.what:
            yield Item(other.level, other.what, ABSTAINED, reason=f"not looked at: {look.what} ended it", missing=True)


def _listen(read: int, said: queue.Queue[Any]) -> None:
    with os.fdopen(read, "rb") as stream:
        while True:
            try:
                said.put(pickle.load(stream))
            except (EOFError, pickle.UnpicklingError):
                said.put(("end", None))
                return


def _end_with(alive: int) -> None:
    os.read(alive, 1)
    os._exit(1)


def main(arguments: Sequence[str]) -> None:
    """The child: takes the looks of a module and tells the parent through a pipe."""
    import importlib

    module, order, pipe, alive = arguments
    threading.Thread(target=_end_with, args=(int(alive),), daemon=True).start()
    spec, profile, have = pickle.loads(Path(order).read_bytes())
    context = Context(spec, profile, have)
    with os.fdopen(int(pipe), "wb") as tell:
        for look in importlib.import_module(f"vladoctor.preflight.{module}").looks(context):
            pickle.dump(("begin", look.what), tell)
            tell.flush()
            items = take(look, context)
            pickle.dump(("items", items), tell)
            tell.flush()
        close = context.have.get("close")
        if close is not None:
            close()
    # An interpreter with a GL context and threads of a tokenizer in it takes seconds to end, and can die in it.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    # Under its own name, so that what is pickled here is known there.
    from vladoctor.preflight.looks import main as run_child

    run_child(sys.argv[1:])
