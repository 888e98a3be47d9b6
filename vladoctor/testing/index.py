"""What is told when all tests are over, of all processes of the session: the summary's section, an index of runs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pytest

import vladoctor
from vladoctor.report.json import to_text, write_atomically
from vladoctor.testing.report import in_words
from vladoctor.testing.settings import report_folder

Told = Sequence[Mapping[str, Any]]
"""Runs, as `vladoctor.testing.report.told` tells of them."""

LINES = 20
PAGE, DATA = "index.html", "index.json"


def write_index(config: pytest.Config, runs: Told) -> None:
    """Write an index of the reports beside them, where the suite has a folder for them."""
    folder = report_folder(config)
    if folder is None:
        return
    rows = [{**run, **{key: _relative(run[key], folder) for key in ("folder", "page")}} for run in _sorted(runs)]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vladoctor.report", "templates"), autoescape=True, trim_blocks=True
    )
    page = environment.get_template("index.html.jinja").render(
        runs=[(run, in_words(run), state(run)) for run in rows], version=vladoctor.__version__, total=total(rows)
    )
    try:
        write_atomically(folder / DATA, to_text({"vladoctor": vladoctor.__version__, "runs": rows}))
        write_atomically(folder / PAGE, page)
    except OSError as error:
        config.issue_config_time_warning(
            pytest.PytestWarning(f"vladoctor's index of reports could not be written: {error}"), stacklevel=2
        )


def print_runs(terminal: pytest.TerminalReporter, config: pytest.Config, runs: Told) -> None:
    """The section of the terminal's summary: a line a run, those with findings first."""
    terminal.section("vladoctor")
    ordered = sorted(_sorted(runs), key=lambda run: state(run) == "right")
    for run in ordered[:LINES]:
        terminal.write_line(f"{run['name']}: {in_words(run)}", **({} if state(run) == "right" else {"yellow": True}))
        if run["page"] and state(run) != "right":
            terminal.write_line(f"    {run['page']}")
    if len(ordered) > LINES:
        terminal.write_line(f"and {len(ordered) - LINES} more")
    terminal.write_line(total(runs))
    folder = report_folder(config)
    if folder is not None:
        terminal.write_line(f"reports: {folder / PAGE}")


def total(runs: Told) -> str:
    """All runs in a line."""
    codes = Counter(f"{entry['code']} {entry['name']}" for run in runs for entry in run["findings"])
    found = ", ".join(f"{code} in {count}" for code, count in sorted(codes.items())) or "nothing found"
    episodes = sum(run["episodes"] for run in runs)
    counted = f"{len(runs)} run{'s' * (len(runs) != 1)}, {episodes} episode{'s' * (episodes != 1)}"
    # "Nothing found" alone would read as if all had been looked at.
    broken, unseen = sum(bool(run["broken"]) for run in runs), sum(state(run) == "unseen" for run in runs)
    more = [f"{count} {what}" for count, what in ((broken, "broke"), (unseen, "not seen whole")) if count]
    return "; ".join([f"{counted} watched: {found}", *more])


def state(run: Mapping[str, Any]) -> str:
    """ "wrong", "unseen" (not enough of it) or "right"."""
    if run["broken"] or run["findings"]:
        return "wrong"
    return "unseen" if run["unseen"] or not run["episodes"] else "right"


def _sorted(runs: Told) -> list[Mapping[str, Any]]:
    # Workers end in any order.
    return sorted(runs, key=lambda run: str(run["name"]))


def _relative(path: str | None, folder: Path) -> str | None:
    return os.path.relpath(path, folder) if path else None
