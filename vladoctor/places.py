"""Where in somebody's source something stands, the way that data took to get there, and how to mend it.

Plain data, without imports: `check.Problem` carries it, renderers print it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Place:
    """A place in a file.

    Attributes:
        file: path as it was found; renderers show it relative to the working folder.
        line, end_line: counted from 1; in a notebook within its cell. 0 where only the file is known.
        column, end_column: counted from 1, in characters; the end is the first character that no longer belongs to it.
        cell: of a notebook, the number of its code cell, counted from 1; None in a script.
    """

    file: str
    line: int = 0
    column: int = 1
    end_line: int = 0
    end_column: int = 0
    cell: int | None = None

    def __str__(self) -> str:
        cell = f":cell {self.cell}" if self.cell is not None else ""
        return f"{self.file}{cell}:{self.line}" if self.line else f"{self.file}{cell}"

    def to_json(self) -> dict[str, str | int | None]:
        return {
            "file": self.file,
            "line": self.line or None,
            "column": self.column if self.line else None,
            "end_line": self.end_line or None,
            "end_column": self.end_column or None,
            "cell": self.cell,
        }


@dataclass(frozen=True)
class Hop:
    """One thing that was done to data on its way: `label` says what ("[::-1]"), `place` where.

    `literal` is where a number in the call says how ("cv2.flip 0"), so that it can be replaced.
    """

    label: str
    place: Place | None = None
    literal: Place | None = None

    def __str__(self) -> str:
        return f"{self.label} {self.place}" if self.place else self.label

    def to_json(self) -> dict[str, object]:
        return {"label": self.label, "place": self.place.to_json() if self.place else None}


def way(trail: tuple[Hop, ...]) -> str:
    """The way that data took, in one line: "agentview_image -> [::-1] libero_utils.py:57 -> processor"."""
    return " -> ".join(str(hop) for hop in trail)


@dataclass(frozen=True)
class Edit:
    """Put `text` in the place of what stands from the start to the end of `place`."""

    place: Place
    text: str


@dataclass(frozen=True)
class Fix:
    """How to mend a problem in the source. `safe`: it cannot change what the program means otherwise."""

    summary: str
    edits: tuple[Edit, ...]
    safe: bool = False
