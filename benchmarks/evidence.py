"""Shared by the commands that write docs/evidence.md: intervals, and sections that are replaced in place."""

from __future__ import annotations

from pathlib import Path

from scipy.stats import binomtest


def interval(successes: int, trials: int) -> str:
    """ "18/20 = 90 % (70–97)": share with its Wilson 95 % interval."""
    if trials == 0:
        return "0/0"
    bounds = binomtest(successes, trials).proportion_ci(method="wilson")
    share = 100 * successes / trials
    return f"{successes}/{trials} = {share:.0f} % ({100 * bounds.low:.0f}–{100 * bounds.high:.0f})"


def write_section(path: Path, name: str, text: str) -> None:
    """Replace what stands between `<!-- begin: NAME -->` and `<!-- end: NAME -->`; the rest of the file is prose."""
    begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
    old = path.read_text("utf-8")
    if begin not in old or end not in old:
        raise SystemExit(f"{path} has no section {begin} ... {end}")
    head, rest = old.split(begin, 1)
    path.write_text(f"{head}{begin}\n{text.strip()}\n{end}{rest.split(end, 1)[1]}", "utf-8")
