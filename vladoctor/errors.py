"""Errors that a user can act on. The command line prints them without a traceback and exits with 2."""

from __future__ import annotations


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
