"""How anything is said on a terminal: signs, prose, code, and tables without lines. Nothing relies on colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from vladoctor.check import Severity

COLOURS = {Severity.STOP: "bold red", Severity.FIX: "bold yellow", Severity.LOOK: "bold cyan"}


@dataclass(frozen=True)
class Glyphs:
    """Signs that a terminal may lack."""

    wrong: str = "✗"
    right: str = "✓"
    silent: str = "?"
    follows: str = "└ "
    do: str = "→ "
    space: str = "·"
    newline: str = "↵"
    tab: str = "⇥"
    dot: str = "·"


ASCII = Glyphs("x", "+", "?", "\\ ", "> ", "_", "\\n", "\\t", "-")


def glyphs_for(console: Console) -> Glyphs:
    """Signs that the console's encoding has."""
    try:
        "".join(vars(Glyphs()).values()).encode(console.encoding)
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return Glyphs()


def visible(text: str, glyphs: Glyphs, *, spaces: bool = True) -> str:
    """Text with its white space (or only line ends and tabs) and other invisible characters made visible."""
    shown = text.replace("\r", "\\r").replace("\n", glyphs.newline).replace("\t", glyphs.tab)
    shown = "".join(sign if sign.isprintable() else f"\\u{ord(sign):04x}" for sign in shown)
    return shown.replace(" ", glyphs.space) if spaces else shown


def table(rows: Sequence[tuple[str, RenderableType]]) -> Table:
    """Labels, and what belongs to each."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, value in rows:
        grid.add_row(label, value)
    return grid


def prose(text: str) -> RenderableType:
    """Text as it is, with fenced code indented instead of fenced."""
    parts: list[RenderableType] = []
    for index, part in enumerate(text.split("```")):
        body = part.partition("\n")[2] if index % 2 else part
        body = body.strip("\n")
        if body.strip():
            parts.append(Padding(Text(body, "cyan"), (0, 0, 0, 4)) if index % 2 else Text(body, overflow="fold"))
    return parts[0] if len(parts) == 1 else Group(*parts)


def hang(sign: str, text: RenderableType, *, style: str = "") -> Table:
    """Text with a sign before it, its further lines indented under its first."""
    table = Table.grid()
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(Text(sign, style=style), text)
    return table


def plural(count: int, word: str) -> str:
    """As in "1 step", "3 steps"."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def short(path: Path) -> str:
    """Relative to the current folder where it is inside it."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def make_console(stream: TextIO, *, width: int | None = None, colour: bool | None = None) -> Console:
    """No highlighting of its own and no markup: brackets in prompts and paths stay as they are."""
    return Console(
        file=stream,
        width=width,
        force_terminal=colour,
        no_color=True if colour is False else None,
        highlight=False,
        markup=False,
        emoji=False,
    )
