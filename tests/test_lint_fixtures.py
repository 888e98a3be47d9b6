"""Loops in files: `bad` fires its code at the marked line and nothing else, `good` nothing, `unknown` abstains.

tests/lint/vd201/flipped_only.bad.py     `# expect: VD201` stands on the line of the finding
tests/lint/packages/NAME/run.py          one loop in several modules; marks in any of them
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from vladoctor.check import Severity, all_checks
from vladoctor.lint.result import LintResult
from vladoctor.lint.run import lint_paths

FIXTURES = Path(__file__).parent / "lint"
MARK = re.compile(r"#\s*expect:\s*(VD\d{3}(?:,\s*VD\d{3})*)")
LOOK = re.compile(r"#\s*look:\s*(VD\d{3})")
SCRIPTS = sorted(
    path for path in FIXTURES.rglob("*") if path.suffixes[-2:-1] in ([".bad"], [".good"]) and path.suffix != ".yaml"
)
UNKNOWN = sorted(FIXTURES.rglob("*.unknown.py"))
PACKAGES = sorted(path.parent for path in FIXTURES.glob("packages/*/run.py"))


def name(path: Path) -> str:
    return path.relative_to(FIXTURES).as_posix()


def lint(path: Path, root: Path) -> LintResult:
    return lint_paths([path], all_checks(), {}, root)


def expected(files: list[Path], mark: re.Pattern[str] = MARK) -> set[tuple[str, int | None, int, str]]:
    """(file, cell, line, code) of every mark."""
    marks: set[tuple[str, int | None, int, str]] = set()
    for file in files:
        for cell, text in cells(file):
            for number, line in enumerate(text.splitlines(), 1):
                if found := mark.search(line):
                    marks.update((file.name, cell, number, code.strip()) for code in found[1].split(","))
    return marks


def cells(file: Path) -> Iterator[tuple[int | None, str]]:
    if file.suffix != ".ipynb":
        yield None, file.read_text("utf-8")
        return
    code = [cell for cell in json.loads(file.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(code, 1):
        yield number, "".join(cell["source"])


def looked(result: LintResult) -> set[tuple[str, int | None, int, str]]:
    return {
        (Path(one.place.file).name, one.place.cell, one.place.line, one.code)
        for one in result.findings
        if one.place and one.severity is Severity.LOOK
    }


def said(result: LintResult) -> set[tuple[str, int | None, int, str]]:
    """What is accused: consequences of another finding stand beside it and are not counted."""
    return {
        (Path(one.place.file).name, one.place.cell, one.place.line, one.code)
        for one in result.findings
        if one.place and not one.explained_by and one.severity.at_least(Severity.FIX)
    }


def check(result: LintResult, marks: set[tuple[str, int | None, int, str]]) -> None:
    assert not result.skipped
    assert not [crashed.error for loop in result.loops for crashed in loop.crashed]
    assert said(result) == marks


@pytest.mark.parametrize("path", [*SCRIPTS, FIXTURES / "tutorial_loop.py"], ids=name)
def test_script(path: Path) -> None:
    marks, looks = expected([path]), expected([path], LOOK)
    assert bool(marks | looks) == (".good" not in path.suffixes), "a bad fixture has marks, a good one none"
    result = lint(path, path.parent)
    check(result, marks)
    assert looks <= looked(result)


@pytest.mark.parametrize("path", UNKNOWN, ids=name)
def test_unknown_is_never_a_finding(path: Path) -> None:
    result = lint(path, path.parent)
    assert not said(result)
    code = path.parent.name.upper()
    states = {one.state for loop in result.loops for one in loop.results if one.code == code}
    assert states == {"abstained"}, "found, and not judged"


@pytest.mark.parametrize("folder", PACKAGES, ids=name)
def test_package(folder: Path) -> None:
    files = sorted(file for file in folder.rglob("*") if file.suffix in (".py", ".yaml"))
    marks = expected(files)
    assert bool(marks) == folder.name.endswith("_bad")
    check(lint(folder / "run.py", folder), marks)


def test_every_code_has_a_fixture() -> None:
    """Of each code that judges sources there is one that fires."""
    files = [*SCRIPTS, FIXTURES / "tutorial_loop.py"]
    marked = {code for path in files for mark in (MARK, LOOK) for *_, code in expected([path], mark)}
    judging = {check.code for check in all_checks() if check.judge_source}
    assert judging - marked == set()


def test_remedy_of_the_gripper_fits_the_environment() -> None:
    """SimplerEnv's WidowX opens at +1, LIBERO's Panda at -1: what mends the one is the fault of the other."""
    path = FIXTURES / "vd502" / "simpler_as_it_comes.bad.py"
    (found,) = (one for one in lint(path, path.parent).findings if one.code == "VD502")
    assert "= np.sign(2.0 * action[-1] - 1.0)" in found.remedy
    assert "-np.sign" not in found.remedy
    assert "closes at -1" in found.message
    path = FIXTURES / "vd502" / "as_it_comes.bad.py"
    (found,) = (one for one in lint(path, path.parent).findings if one.code == "VD502")
    assert "= -np.sign(2.0 * action[-1] - 1.0)" in found.remedy
    assert "opens at -1" in found.message
