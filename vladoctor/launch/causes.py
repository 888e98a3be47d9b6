"""Where in the program's source a finding of its run comes from.

After a program was judged, the linter reads the scripts that it ran, and what they import from their own repository. A
finding of the run gets the place, the way and the fix of the source's finding, if that is the same: the same check, the
same thing seen, and no second place in question. The source is held against the profile that the run was judged by.

The run's verdict does not depend on it: whatever goes wrong here, or takes too long, is a note.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vladoctor.check import all_checks
from vladoctor.report.reported import relative

if TYPE_CHECKING:
    from vladoctor.diagnosis import Finding
    from vladoctor.result import RunResult

BUDGET_S = 10.0
"""Seconds; the linter needs well under one for a script and what it imports."""

_ROUNDED = 1e-3
"""What is left of a number that is told with three digits."""

_HOLES = re.compile(r"\\\{(?:instruction|\\\?)\\\}")


def with_causes(result: RunResult, processes: Sequence[Mapping[str, Any]], budget: float = BUDGET_S) -> RunResult:
    """The result with places in the source where they are certain."""
    codes = {finding.code for finding in result.findings}
    if not codes:
        return result
    said: list[RunResult] = []

    def look() -> None:
        try:
            said.append(_with_causes(result, processes, codes))
        except Exception as error:  # noqa: BLE001 - the verdict stands without it
            said.append(_noted(result, f"the source was not searched for causes: {type(error).__name__}: {error}"))

    # A daemon: what does not end in time is left to its fate, and ends with this process.
    thread = threading.Thread(target=look, daemon=True, name="vladoctor-causes")
    thread.start()
    thread.join(budget)
    if said:
        return said[0]
    return _noted(result, f"the source was not searched for causes to the end: it took longer than {budget:g} s")


def scripts(processes: Iterable[Mapping[str, Any]]) -> list[Path]:
    """The files that processes ran, those of libraries left out; each once."""
    found: dict[Path, None] = {}
    for process in processes:
        folder = Path(process.get("folder") or ".")
        for file in _script(list(process.get("arguments", ())), folder):
            file = file.absolute()
            installed = {"site-packages", "dist-packages"} & set(file.parts)
            if file.is_file() and file.suffix == ".py" and not installed and _OURS not in file.parents:
                found[file] = None
    return list(found)


def root_of(script: Path) -> Path:
    """The repository that a script belongs to: the nearest folder with a sign of one, else the script's own."""
    signs = (".git", "pyproject.toml", "setup.py", "setup.cfg")
    home = Path.home()
    for folder in script.parents:
        if folder == home:
            break
        if any((folder / sign).exists() for sign in signs):
            return folder
    return script.parent


def same(run: Finding, source: Finding) -> bool:
    """Whether a finding of a run can come from one of the source: the same check, and nothing else seen.

    What was seen is compared where both speak the same words, which shows in what they expect: a run says "10 settle
    steps" where the source says 10, "reset, set_init_state" where it says nothing.
    """
    if run.code != source.code:
        return False
    if _fits(run.evidence.get("expected"), source.evidence.get("expected")) is not True:
        return True
    return _fits(run.evidence.get("seen"), source.evidence.get("seen")) is not False


def _fits(said: object, read: object) -> bool | None:
    """Whether a run's words can mean what was read in the source; None where they cannot be compared."""
    if not isinstance(said, str):
        return None
    if isinstance(read, bool):
        return said.endswith(str(read))
    if isinstance(read, (int, float)):
        numbers = re.findall(r"-?\d+(?:\.\d+)?", said)
        return abs(float(numbers[0]) - read) <= _ROUNDED if numbers else None
    if isinstance(read, str):
        # A prompt in the source has a hole where the run's has an instruction.
        if re.fullmatch(_HOLES.sub("(?s:.*)", re.escape(read)), said):
            return True
        # "side 1.000" and "the whole frame" can be one thing.
        measured = [any(map(str.isdigit, text)) for text in (said, read)]
        return False if measured[0] == measured[1] else None
    return None


_OURS = Path(__file__).resolve().parents[1]


def _script(arguments: list[str], folder: Path) -> Iterator[Path]:
    """What `python ...` runs: a file, a module, or the function of a run file's `callable`."""
    words = iter(arguments[1:])
    for word in words:
        if word == "-m":
            module = next(words, "")
            if module == "vladoctor.launch.call":
                module = next(words, "").partition(":")[0]
            path = folder.joinpath(*module.split("."))
            yield from (path.with_suffix(".py"), path / "__main__.py", path / "__init__.py")
            return
        if word in ("-c", "-"):
            return
        if word in ("-W", "-X"):
            next(words, "")
        elif not word.startswith("-"):
            yield folder / word
            return


def _with_causes(result: RunResult, processes: Sequence[Mapping[str, Any]], codes: set[str]) -> RunResult:
    from vladoctor.lint.command import judge

    found = scripts(processes)
    if not found:
        return result
    name = (result.run.get("profile") or {}).get("name") or ""
    thresholds = result.spec.checks.thresholds if result.spec else {}
    checks = [check for check in all_checks() if check.code in codes and check.judge_source]
    linted = [
        judge([Path(relative(str(script)))], checks, thresholds, root_of(script), lambda _: str(name))
        for script in found
    ]
    sources = [
        (replace(finding, place=finding.place or loop.facts.place), loop.facts.place.file in map(str, found))
        for one in linted
        for loop in one.loops
        for finding in loop.findings
    ]

    def placed(finding: Finding) -> Finding:
        fitting = [(source, own) for source, own in sources if same(finding, source)]
        # Loops of the scripts themselves come before those of what they import.
        best = [source for source, own in fitting if own] or [source for source, _ in fitting]
        if len({source.place for source in best}) != 1 or finding.place is not None:
            return finding
        return replace(finding, place=best[0].place, trail=best[0].trail, fix=best[0].fix)

    return replace(
        result,
        diagnoses=[replace(one, findings=tuple(map(placed, one.findings))) for one in result.diagnoses],
        overall=replace(result.overall, findings=tuple(map(placed, result.overall.findings))),
        texts={**result.texts, **{file: text for one in linted for file, text in one.texts.items()}},
    )


def _noted(result: RunResult, note: str) -> RunResult:
    return replace(result, notes=(*result.notes, note))
