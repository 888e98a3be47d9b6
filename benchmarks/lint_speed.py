"""How long `vladoctor lint` takes, beside ruff and flake8 on the same files in one run: the section `lint-speed`.

    pip install flake8
    python benchmarks/lint_speed.py [--runs 5] [--flake8 PROGRAM] [--ruff PROGRAM] [--write docs/evidence.md]

Two things are linted, one process each time, the programs in turn so that a busy machine slows all alike:

- a script of 500 lines: a loop of `tests/lint`, and functions that ask no policy beside it. Work beyond start-up is the
  process less the same program on an empty file;
- a tree of 1,500 files and 400,000 lines: every healthy loop of `tests/lint`, and files of the standard library and of
  the installed packages in the order of a hash of their names.

Seconds are medians; processor seconds are user and system of the process and its children.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evidence import write_section

LOOPS = Path(__file__).parents[1] / "tests" / "lint"
SCRIPT_LINES, TREE_FILES, TREE_LINES = 500, 1_500, 400_000


@dataclass
class Times:
    """Of one program on one thing, a value a run."""

    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{statistics.median(self.wall):.2f} | {statistics.median(self.processor):.2f}"


def programs(ruff: str, flake8: str) -> dict[str, list[str]]:
    """The linters that there are, by name, each without caches and with its own rules alone."""
    own = Path(sys.executable).with_name("vladoctor")
    found = {"vladoctor lint": [str(own), "lint"] if own.is_file() else [sys.executable, "-m", "vladoctor", "lint"]}
    for name, program, options in (
        ("ruff check", ruff, ["check", "--isolated", "--no-cache", "--quiet"]),
        ("flake8", flake8, ["--isolated", "--jobs=1", "--quiet"]),
    ):
        if where := shutil.which(program):
            found[name] = [where, *options]
    return found


def script(target: Path) -> Path:
    """A script of 500 lines: one loop, and functions and classes beside it that ask no policy."""
    head, _, tail = (LOOPS / "vd201" / "rot180.good.py").read_text("utf-8").partition("\n\n\ndef main")
    lines = head.splitlines()
    room = SCRIPT_LINES - len(lines) - len(tail.splitlines()) - 3
    beside: list[str] = []
    for number, path in enumerate(sorted(LOOPS.glob("*/*.good.py"))):
        text = path.read_text("utf-8")
        for node in ast.parse(text).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                source = (ast.get_source_segment(text, node) or "").splitlines()
                if any(word in line for line in source for word in ("predict", "step(", "infer", "act(", "def main")):
                    continue
                source[0] = source[0].replace(f" {node.name}", f" {node.name}_{number}", 1)
                if len(beside) + len(source) + 2 <= room:
                    beside += ["", "", *source]
    beside += ["#"] * (room - len(beside))
    target.write_text("\n".join([*lines, *beside, "", "", f"def main{tail}"]) + "\n", "utf-8")
    compile(target.read_text("utf-8"), str(target), "exec")
    return target


def library() -> Iterator[tuple[Path, int]]:
    """Files of the standard library and the installed packages that parse, in an order that is the same everywhere."""
    roots = [Path(sysconfig.get_paths()[name]) for name in ("stdlib", "purelib")]
    files = {path for root in roots for path in root.rglob("*.py") if path.is_file()}
    for path in sorted(files, key=lambda path: hashlib.sha256(path.name.encode() + path.parent.name.encode()).digest()):
        text = path.read_bytes()
        if text.isascii() and 20 <= (lines := text.count(b"\n")) <= 3000:
            yield path, lines


def tree(folder: Path) -> tuple[int, int, int]:
    """Make the tree; (files, lines, loops)."""
    loops = sorted(LOOPS.rglob("*.good.py"))
    lines = 0
    for number, path in enumerate(loops):
        target = folder / "loops" / f"loop_{number}.py"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        lines += path.read_bytes().count(b"\n")
    number = len(loops)
    for path, count in library():
        if number == TREE_FILES:
            break
        # Keep to the mean, so that files and lines run out together.
        left = TREE_FILES - number
        if not (TREE_LINES - lines) / left * 0.2 <= count <= max((TREE_LINES - lines) / left, 40) * 5:
            continue
        if left <= 50 and not (TREE_LINES - lines) / left * 0.9 <= count:
            continue
        target = folder / f"package_{number % 60}" / f"module_{number}.py"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        lines += count
        number += 1
    return number, lines, len(loops)


def timed(command: Sequence[str], folder: Path) -> tuple[float, float]:
    """(wall, processor) seconds. Findings are welcome; anything else than 0 or 1 ends the measurement."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in (0, 1):
        raise SystemExit(f"{command[0]} ended with {done.returncode}: {done.stderr.decode()[-500:]}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(found: dict[str, list[str]], things: dict[str, Path], runs: int) -> dict[str, dict[str, Times]]:
    """Program -> thing -> times."""
    times = {name: {thing: Times() for thing in things} for name in found}
    for turn in range(runs + 1):
        for thing, path in things.items():
            for name, command in found.items():
                wall, processor = timed([*command, str(path)], path if path.is_dir() else path.parent)
                if turn:
                    times[name][thing].wall.append(wall)
                    times[name][thing].processor.append(processor)
    return times


def beyond(whole: Sequence[float], start: Sequence[float]) -> float:
    """Milliseconds, the median of the differences."""
    return statistics.median(1000 * (one - other) for one, other in zip(whole, start, strict=True))


def section(times: dict[str, dict[str, Times]], sizes: tuple[int, int, int], lines: int, runs: int) -> str:
    files, tree_lines, loops = sizes
    rows = [
        f"Machine: {platform.machine()}, {os.cpu_count()} cores; python {platform.python_version()}. Medians of {runs} "
        f"runs after one that is not counted. The script has {lines} lines; the tree {files:,} files and "
        f"{tree_lines:,} lines, {loops} of its files loops.",
        "",
        "| linter | empty file, s | its processor s | script, s | its processor s | script beyond start-up, ms "
        "| of the processor, ms | tree, s | its processor s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, things in times.items():
        wall = beyond(things["script"].wall, things["empty"].wall)
        processor = beyond(things["script"].processor, things["empty"].processor)
        rows.append(
            f"| {name} | {things['empty']} | {things['script']} | {wall:.0f} | {processor:.0f} | {things['tree']} |"
        )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--ruff", default=str(Path(sys.executable).with_name("ruff")))
    parser.add_argument("--flake8", default="flake8")
    parser.add_argument("--write", type=Path, help="Markdown file whose section `lint-speed` is replaced")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("empty", "script", "tree"):
            (folder / part).mkdir()
        empty = folder / "empty" / "empty.py"
        empty.write_text("", "utf-8")
        one = script(folder / "script" / "script.py")
        sizes = tree(folder / "tree")
        things = {"empty": empty, "script": one, "tree": folder / "tree"}
        times = measure(programs(arguments.ruff, arguments.flake8), things, arguments.runs)
        text = section(times, sizes, one.read_bytes().count(b"\n"), arguments.runs)
    if arguments.write:
        write_section(arguments.write, "lint-speed", text)
    print(text)


if __name__ == "__main__":
    main()
