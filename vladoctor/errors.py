"""Errors that a user can act on. The command line prints them without a traceback and exits with 2."""

from __future__ import annotations

import errno

REFUSED = {
    errno.EACCES: "give yourself the right to it, or name another place",
    errno.EPERM: "give yourself the right to it, or name another place",
    errno.EROFS: "name a place that can be written to with --out",
    errno.ENOSPC: "free some space, or name another place with --out",
    errno.EDQUOT: "free some of your quota, or name another place with --out",
    errno.ENAMETOOLONG: "use a shorter path",
    errno.EEXIST: "a part of this path is a file; name another place",
    errno.ENOTDIR: "a part of this path is a file; name another place",
    errno.EISDIR: "this is a folder; name a file",
    errno.EIO: "the disk or network drive fails; try again, or use another",
    errno.ESTALE: "the network drive has lost it; try again, or use another",
}
"""What the operating system refused, and what to do; other errors of its are defects of the program."""


class UserError(Exception):
    """Something the user can put right: what is wrong, where, and what to do.

    Args:
        what: one sentence naming the thing that is wrong, with its value.
        where: file, line, key or place in the environment; may be empty.
        remedy: what to do, as an instruction.
    """

    def __init__(self, what: str, *, where: str = "", remedy: str) -> None:
        super().__init__(what)
        self.what, self.where, self.remedy = what, where, remedy

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        return f"{place}{self.what}\n  {self.remedy}"


def refused(error: OSError) -> UserError | None:
    """What the user can do where the operating system refused something; None where that is not known."""
    if error.errno not in REFUSED:
        return None
    place = str(error.filename)[:300] if error.filename else ""
    return UserError(error.strerror or str(error), where=place, remedy=REFUSED[error.errno])
