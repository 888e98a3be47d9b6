"""A pre-flight in the terminal: a line for each look, what is wrong below its line, and what to do."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TextIO

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from vladoctor.preflight.machine import markdown
from vladoctor.preflight.result import ABSTAINED, CRASHED, OK, PROBLEM, Item, Preflight
from vladoctor.report.console import COLOURS, Glyphs, glyphs_for, hang, prose
from vladoctor.report.reported import without_paths
from vladoctor.result import FAILED, FINDINGS, INCOMPLETE

TITLES = ("files and versions", "machine, environment, checkpoint", "weights and a short episode", "whole episodes")
STATUS = {FINDINGS: "findings", FAILED: "a look crashed", INCOMPLETE: "not everything could be looked at"}


def print_preflight(done: Preflight, *, stream: TextIO | None = None) -> None:
    """Print what was looked at, what was found, and the exit status."""
    # Brackets in messages and paths are no markup.
    console = Console(file=stream or sys.stdout, highlight=False, markup=False, emoji=False)
    glyphs = glyphs_for(console)
    for part in _parts(done, glyphs):
        console.print(part)
    status = done.exit_status
    if status:
        console.print(Text(f"Exit status {status}: {STATUS[status]}", style="dim"))


def _parts(done: Preflight, glyphs: Glyphs) -> Iterator[RenderableType]:
    for level in sorted({item.level for item in done.items}):
        seconds = f", {done.seconds[level]:.1f} s" if level in done.seconds else ""
        yield Text(f"Level {level}: {TITLES[level]}{seconds}", style="bold")
        table = Table.grid(padding=(0, 1))
        table.add_column(width=1)
        table.add_column(min_width=22, max_width=24)
        table.add_column(overflow="fold")
        for item in done.items:
            if item.level == level:
                table.add_row(_sign(item, glyphs), item.what, _told(item))
        yield Padding(table, (0, 0, 0, 2))
    found = list(done.findings)
    if not found:
        yield Text("")
        yield Text(f"Nothing stands against this run, as far as level {done.level} looks.")
        return
    for one in found:
        where = f"  {one.place}" if one.place is not None else ""
        yield Text("")
        yield Text.assemble(
            (f"{one.code} {one.name}", "bold"), "  ", (one.severity.value, COLOURS[one.severity]), (where, "dim")
        )
        yield Padding(Text(one.message), (0, 0, 0, 2))
        yield Padding(hang(glyphs.do, prose(one.remedy)), (0, 0, 0, 2))
        yield Padding(Text(f"vladoctor explain {one.code}", style="dim"), (0, 0, 0, 2))
    yield Text("")


def _sign(item: Item, glyphs: Glyphs) -> Text:
    if item.state == OK:
        return Text(glyphs.right, style="green")
    if item.state == PROBLEM and item.finding is not None:
        return Text(glyphs.wrong, style=COLOURS[item.finding.severity])
    return Text("!" if item.state == CRASHED else glyphs.silent, style="dim" if item.state == ABSTAINED else "bold red")


def _told(item: Item) -> Text:
    if item.state == ABSTAINED:
        return Text(item.reason, style="dim")
    if item.state == CRASHED:
        return Text(f"this look crashed, which is a defect of vladoctor\n{item.reason.strip()}")
    text = Text(item.value or (item.finding.message if item.finding else ""))
    if item.finding is not None:
        text = Text(f"{item.finding.code} ").append_text(text)
    if item.expected and item.expected != item.value:
        text.append(f"  (expected: {item.expected})", style="dim")
    return text


def report(done: Preflight) -> str:
    """Markdown to paste into an issue: the lines, and the machine."""
    rows = [
        f"| {item.level} | {item.what} | {_word(item)} | {_cell(item.value or item.reason)} | {_cell(item.expected)} |"
        for item in done.items
    ]
    found = [f"- {one.code} {one.severity.value}: {_cell(one.message)}" for one in done.findings]
    parts = [
        f"### vladoctor preflight, level {done.level}, profile {done.profile['name']}",
        "\n".join(["| level | looked at | state | value | expected |", "|---|---|---|---|---|", *rows]),
        "\n".join(found),
        markdown(done.machine),
    ]
    return "\n\n".join(part for part in parts if part)


def _word(item: Item) -> str:
    return f"{item.state} {item.finding.code}" if item.finding is not None else item.state


def _cell(text: str) -> str:
    return " ".join(without_paths(text).replace("|", "\\|").split())[:300]
