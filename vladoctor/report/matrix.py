"""The fault matrix for people: progress while it runs, a summary on the terminal, and tables in Markdown.

The confusion matrix is written by its entries: "VD501 19/20, none 1/20" in the row of a fault. The whole of it is in
the JSON.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

from vladoctor.check import Stage
from vladoctor.matrix import HEALTHY, Display, share
from vladoctor.report.console import plural
from vladoctor.report.json import to_text, write_atomically

VERSIONS = ("python", "torch", "transformers", "mujoco", "robosuite", "numpy")
"""Whose versions are named above the tables: what can change a policy's answers or the pictures."""

_AT_ONCE = "faults of observation, image, prompt, tokens, statistics: found within a step of their begin"

MISSED_SHOWN = 20
"""Faults that were not named first every time are listed on the terminal up to so many."""


def write_matrix(found: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write matrix.json and matrix.md.

    Raises:
        OSError: the folder cannot be written to.
    """
    written = [folder / "matrix.md", folder / "matrix.json"]
    write_atomically(written[1], to_text(found))
    write_atomically(written[0], to_markdown(found))
    return written


# --- Tables ---


def to_markdown(found: Mapping[str, Any]) -> str:
    """The matrix as a page of its own."""
    heading = f"# Fault matrix of {found['run']['source'] or 'a run'}"
    parts = [heading, "", setting(found), "", *_incomplete(found), section(found)]
    return "\n".join(parts) + "\n"


def brief(found: Mapping[str, Any]) -> str:
    """The same for a page that says more than this: in all, by stage, by check, what went wrong, and each fault in a
    line.
    """
    parts = [_totals(found), _stages(found), _checks(found), _missed(found), _left_out(found), _crashed(found)]
    lines = _table(
        ("fault", "its code", "found", "first", "first step", "success", "against healthy, points"),
        [
            (
                each["fault"],
                each["code"],
                f"{each['recall']['count']}/{each['trials']}" + " runs" * (each["unit"] == "run"),
                f"{each['verdicts']['right']}/{each['trials']}",
                f"{each['step']['median']:g}" if each["step"] else "–",
                f"{each['success']['count']}/{each['success']['of']}",
                _effect(each["effect"]),
            )
            for each in found["faults"]
        ],
    )
    parts.append(f"<details><summary>Every fault</summary>\n\n{lines}\n\n</details>")
    return "\n\n".join(part for part in parts if part)


def section(found: Mapping[str, Any]) -> str:
    """The tables without a heading: in all, healthy, by fault, by check, and what crashed."""
    parts = [_totals(found)]
    if found["faults"]:
        parts += [_faults(found), _checks(found)]
    parts += [part for part in (_left_out(found), _crashed(found)) if part]
    return "\n\n".join(parts)


def setting(found: Mapping[str, Any], machine: str = "") -> str:
    """Where the numbers come from, in one line."""
    run = found["run"]
    versions = run.get("versions") or {}
    machine = machine or run.get("machine") or ""
    said = [f"Machine: {machine}."] if machine else []
    # Rows are kept from an earlier time, which may have been somewhere else.
    platforms = run.get("rows_by_platform") or {}
    if len(platforms) > 1:
        each = "; ".join(f"{count} on {name}" for name, count in platforms.items())
        said.append(f"Rows of {len(platforms)} machines: {each}. What follows is the first one's.")
    said.append(
        f"vladoctor {found['vladoctor']}, " + ", ".join(f"{n} {versions.get(n) or '?'}" for n in VERSIONS) + "."
    )
    assets = run.get("assets") or {}
    if assets.get("kind"):
        said.append(f"Assets: {assets['kind']}.")
    if run.get("device"):
        said.append(f"Policy on {run['device']}, greedy.")
    return " ".join(said)


def rate(of: Mapping[str, Any]) -> str:
    """ "18/20 = 90 % (70–97)": a share with its interval."""
    if not of["of"]:
        return "–"
    return f"{of['count']}/{of['of']} = {_percent(of['rate'])} % ({_percent(of['low'])}–{_percent(of['high'])})"


def _totals(found: Mapping[str, Any]) -> str:
    total, healthy = found["total"], found["healthy"]
    rows = [
        ("rows (a fault on a task)", f"{total['rows']}" + (f", {total['crashed']} crashed" * bool(total["crashed"])))
    ]
    if total["trials"]:
        verdicts = total["verdicts"]
        rows += [
            ("faults", f"{total['faults']}, in every trial named first: {total['faults_always_first']}"),
            ("reports from the field that they reconstruct", str(total["reports"])),
            ("trials with a fault", str(total["trials"])),
            ("recall: its code is found", rate(total["recall"])),
            ("right code first", rate(total["right_first"])),
            ("right code first, and no other root", rate(total["alone"])),
            (
                "first finding: right code / right stage / wrong / nothing",
                f"{verdicts['right']} / {verdicts['stage']} / {verdicts['wrong']} / {verdicts['nothing']}",
            ),
        ]
    if total.get("within_step", {}).get("of"):
        rows.append((_AT_ONCE, rate(total["within_step"])))
    if healthy["episodes"]:
        rows += [
            ("healthy episodes", f"{healthy['episodes']}, success {rate(healthy['success'])}"),
            ("of them with a finding to stop or fix", alarms(healthy["alarms"], healthy["alarm_bound"])),
            ("of them with nothing but a look", alarms(healthy["looks"], healthy["look_bound"])),
        ]
        if healthy["codes"]:
            rows.append(("codes found in them", _counts(healthy["codes"], healthy["episodes"])))
    return _table(("in all", ""), rows)


def _faults(found: Mapping[str, Any]) -> str:
    heads = (
        "fault",
        "its code",
        "trials",
        "success (95 % interval)",
        "against healthy, points",
        "first code reported",
        "first step, median (max)",
        "other root codes",
        "consequences under it",
        "after",
    )
    rows = [
        (
            each["fault"],
            each["code"],
            f"{each['trials']}" + (" runs" if each["unit"] == "run" else ""),
            rate(each["success"]),
            _effect(each["effect"]),
            _counts(each["first"], each["trials"]),
            f"{each['step']['median']:g} ({each['step']['max']})" if each["step"] else "–",
            _counts(each["others"], each["trials"]),
            _counts(each["consequences"], each["trials"]),
            ", ".join(each["reports"]) or "–",
        )
        for each in found["faults"]
    ]
    healthy = found["healthy"]
    if healthy["episodes"]:
        first = _counts(found["confusion"][HEALTHY], healthy["episodes"])
        others = _counts(healthy["codes"], healthy["episodes"])
        rows.insert(
            0,
            (
                "(healthy)",
                "none",
                f"{healthy['episodes']}",
                rate(healthy["success"]),
                "–",
                first,
                "–",
                others,
                "–",
                "–",
            ),
        )
    return _table(heads, rows)


def _checks(found: Mapping[str, Any]) -> str:
    rows = [
        (f"{each['code']} {each['name']}", str(each["faults"]), rate(each["recall"]), rate(each["right_first"]),
         str(each["elsewhere"]))
        for each in found["checks"]
    ]  # fmt: skip
    return _table(("check", "faults", "recall (95 % interval)", "first (95 % interval)", "beside other faults"), rows)


def _stages(found: Mapping[str, Any]) -> str:
    """By stage of the loop: what is found, what comes first, when, and in how many faults success falls."""
    stages: dict[str, list[Mapping[str, Any]]] = {}
    for each in sorted(found["faults"], key=lambda each: Stage(each["stage"]).order):
        stages.setdefault(each["stage"], []).append(each)
    rows = []
    for stage, faults in stages.items():
        trials = sum(each["trials"] for each in faults)
        near = [each.get("within_step") or share(0, 0) for each in faults]
        told = [each["effect"] for each in faults if each["effect"]]
        rows.append(
            (
                stage,
                str(len(faults)),
                rate(share(sum(each["recall"]["count"] for each in faults), trials)),
                rate(share(sum(each["verdicts"]["right"] for each in faults), trials)),
                rate(share(sum(each["count"] for each in near), sum(each["of"] for each in near))),
                f"{sum(each['high'] < 0 for each in told)} of {len(told)}" if told else "–",
            )
        )
    heads = ("stage", "faults", "found", "first", "within a step of its begin", "faults that lower the success rate")
    return _table(heads, rows) if rows else ""


def _missed(found: Mapping[str, Any]) -> str:
    lines = [
        f"- {each['fault']} ({each['code']}): first {_counts(each['first'], each['trials'])}"
        + (f"; beside it {_counts(each['others'], each['trials'])}" if each["others"] else "")
        for each in found["faults"]
        if each["verdicts"]["right"] < each["trials"] or each["others"]
    ]
    return "\n".join(["Not first every time, or not alone:", "", *lines]) if lines else ""


def _left_out(found: Mapping[str, Any]) -> str:
    return "\n".join(f"- Left out: {name}: {why}." for name, why in found["left_out"].items())


def _crashed(found: Mapping[str, Any]) -> str:
    lines = [
        f"- Crashed, and counted nowhere: {row['fault']} on {row['task']}: {row['error'].strip().splitlines()[-1]}"
        for row in found["rows"]
        if row["state"] == "crashed"
    ]
    lines += [
        f"- Checks that crashed under {row['fault']} on {row['task']}: {', '.join(row['crashed_checks'])}"
        for row in found["rows"]
        if row["crashed_checks"]
    ]
    return "\n".join(lines)


def _incomplete(found: Mapping[str, Any]) -> list[str]:
    if found["complete"]:
        return []
    count, planned = len(found["rows"]), plural(found["planned"], "row")
    return [f"Interrupted: {count} of {planned} {'is' if count == 1 else 'are'} complete.", ""]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in cells)


def _counts(counter: Mapping[str, int], total: int) -> str:
    return ", ".join(f"{code} {count}/{total}" for code, count in counter.items()) or "–"


def _effect(effect: Mapping[str, float] | None) -> str:
    if effect is None:
        return "–"
    return " ".join(
        (f"{100 * effect['points']:+.0f}", f"({100 * effect['low']:+.0f} to {100 * effect['high']:+.0f})")
    ).replace("-", "−")


def alarms(count: int, bound: float | None) -> str:
    """How many episodes, with the upper bound of their share; see `matrix.upper_bound`."""
    return f"{count} (at 95 % confidence at most {100 * (bound or 0.0):.2g} % of episodes)"


def _percent(value: float) -> str:
    """Whole percents, but never 100 for what is less than all, or 0 for what is more than none."""
    shown = round(100 * value)
    return f"{100 * value:.1f}" if shown in (0, 100) and 0.0 < value < 1.0 else str(shown)


# --- On the terminal ---


def print_matrix(found: Mapping[str, Any], *, reports: Sequence[Path] = (), stream: TextIO | None = None) -> None:
    """Print the summary, and every fault that was not named first each time."""
    out = stream or sys.stdout
    total, healthy = found["total"], found["healthy"]
    lines = [
        f"{len(found['rows'])} of {plural(found['planned'], 'row')}"
        + (f", {total['crashed']} crashed" * bool(total["crashed"]))
    ]
    if total["trials"]:
        lines += [
            f"{plural(total['faults'], 'fault')}, {plural(total['trials'], 'trial')}: its code found "
            f"{rate(total['recall'])}, first {rate(total['right_first'])}",
        ]
    if healthy["episodes"]:
        lines += [
            f"{plural(healthy['episodes'], 'healthy episode')}: success {rate(healthy['success'])}",
            f"  with a finding to stop or fix: {alarms(healthy['alarms'], healthy['alarm_bound'])}",
            f"  with nothing but a look: {alarms(healthy['looks'], healthy['look_bound'])}",
        ]
        if healthy["codes"]:
            lines.append(f"  codes: {_counts(healthy['codes'], healthy['episodes'])}")
    missed = [each for each in found["faults"] if each["verdicts"]["right"] < each["trials"] or each["others"]]
    if missed:
        lines.append("Not named first, or not alone:")
        for each in missed[:MISSED_SHOWN]:
            beside = f"; beside it {_counts(each['others'], each['trials'])}" if each["others"] else ""
            lines.append(f"  {each['fault']} ({each['code']}): {_counts(each['first'], each['trials'])}{beside}")
        if len(missed) > MISSED_SHOWN:
            lines.append(f"  and {len(missed) - MISSED_SHOWN} more")
    lines += [
        line.removeprefix("- ") for part in (_left_out(found), _crashed(found)) if part for line in part.split("\n")
    ]
    lines += [f"Report: {path}" for path in reports]
    print("\n".join(lines), file=out)


def make_display(stream: TextIO | None = None) -> Display:
    """A bar on a terminal, lines in a log file or pipe."""
    console = Console(file=stream or sys.stderr, highlight=False, markup=False, emoji=False)
    return _Bar(console) if console.is_terminal and not console.is_dumb_terminal else _Lines(console)


class _Lines:
    """A line for each row that ends."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.total = self.done = 0
        self.began = 0.0

    def start(self, total: int, kept: int) -> None:
        self.total, self.done, self.began = total, kept, time.monotonic()
        self.note(plural(total, "row") + (f", {kept} of them from an earlier time" if kept else ""))

    def ended(self, row: Mapping[str, Any], seconds: float) -> None:
        self.done += 1
        what = "crashed" if row["state"] == "crashed" else _counts(row["first"], sum(row["first"].values()))
        self.note(f"{self.done} of {self.total}: {row['fault']}, {row['task']}: {what} ({seconds:.0f} s)")

    def note(self, text: str) -> None:
        self.console.print(Text(text), soft_wrap=True)
        self.console.file.flush()

    def finish(self) -> None:
        self.console.file.flush()


class _Bar(_Lines):
    """The same above a bar with the time that is left."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        super().__init__(console)
        self.bar = Progress(
            TextColumn("rows"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            refresh_per_second=2,
            transient=True,
            expand=True,
            speed_estimate_period=600.0,
        )
        self.task = self.bar.add_task("rows", total=None)

    def start(self, total: int, kept: int) -> None:
        super().start(total, kept)
        self.bar.update(self.task, total=total, completed=kept)
        self.bar.start()

    def ended(self, row: Mapping[str, Any], seconds: float) -> None:
        super().ended(row, seconds)
        self.bar.update(self.task, completed=self.done)

    def finish(self) -> None:
        self.bar.stop()
