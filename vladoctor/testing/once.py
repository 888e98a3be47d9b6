"""Something that is done once in a test session, however many processes it has, and told to all of them.

The processes of a session share a folder. Whoever comes first holds a lock on a file in it while it works; the system
lets go of the lock when its holder ends, however it does. Those who come later wait, and read what the first has left.
A mark says that the work was begun, so that what has killed one process is not tried again by the next.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vladoctor.report.json import write_atomically


class WorkerLostError(Exception):
    """The process that did it has ended before it could leave anything."""


def once(folder: Path, who: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `work` returns (JSON-able), which is called in one of the processes.

    Args:
        folder: that all processes of the session share, and no other session.
        who: this process, for others to name it.

    Raises:
        WorkerLostError: another process began it, and is gone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / "lock"):
        left, begun = folder / "left.json", folder / "begun"
        if left.is_file():
            found: dict[str, Any] = json.loads(left.read_text("utf-8"))
            return found
        if begun.is_file():
            raise WorkerLostError(begun.read_text("utf-8"))
        begun.write_text(who, encoding="utf-8")
        try:
            done = work()
        except KeyboardInterrupt:
            begun.unlink()
            raise
        write_atomically(left, json.dumps(done))
        return done


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # not on Windows; there nothing is shared but the result
        yield
        return
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
