"""What the pytest plugin costs a suite that has nothing to do with it.

    python benchmarks/plugin.py [--runs 40] [--tests 50] [--json] [--write docs/evidence.md]

A trivial suite is run by three pytests, once each in every round, in an order that changes from round to round: in an
environment with vladoctor's wheel installed; in the same with `-p no:vladoctor`; and in one without vladoctor. Both
environments see the same other packages. Milliseconds are of whole processes, by the clock and of CPU time (user and
system), which a busy machine changes less. What the plugin costs is the median of the differences within a round, with
its quartiles; beside it stands the difference of the fastest runs, which nobody disturbed. Where valgrind is installed,
instructions are counted as well, once for each: a count that other work on the machine does not change.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import resource
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLUGIN, BLOCKED, WITHOUT = "with the plugin", "with `-p no:vladoctor`", "without vladoctor"


@dataclass(frozen=True)
class Difference:
    """Of whole processes, in milliseconds: median and quartiles of the rounds, and between the fastest of each side.

    `ratio` is that of the two fastest.
    """

    against: str
    measured: str
    median_ms: float
    lower_ms: float
    upper_ms: float
    fastest_ms: float
    ratio: float


def environments(scratch: Path) -> tuple[Path, Path]:
    """Pythons of two environments with the same packages, the first with vladoctor's wheel besides."""
    wheels = scratch / "wheels"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    options = ["--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*pip, "wheel", *options, "--wheel-dir", str(wheels), str(ROOT)], check=True)
    (wheel,) = wheels.glob("*.whl")
    pythons = []
    for name in ("with", "without"):
        folder = scratch / name
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        python = folder / "bin" / "python"
        find = "import sysconfig; print(sysconfig.get_path('purelib'))"
        site = Path(subprocess.run([python, "-c", find], check=True, capture_output=True, text=True).stdout.strip())
        for entry in Path(sysconfig.get_path("purelib")).iterdir():
            # Links and no path to the folder, whose own vladoctor would be found in it.
            if "vladoctor" not in entry.name and entry.suffix != ".pth" and entry.name != "__pycache__":
                (site / entry.name).symlink_to(entry)
        pythons.append(python)
    options = ["--no-deps", "--no-index", "--ignore-installed"]
    subprocess.run([*pip, "--python", str(pythons[0]), "install", *options, str(wheel)], check=True)
    return pythons[0], pythons[1]


@dataclass(frozen=True)
class Suites:
    """The trivial suite, and what runs it."""

    commands: Mapping[str, Sequence[str]]
    folder: Path
    variables: Mapping[str, str]

    def run(self, name: str, before: Sequence[str] = (), **more: str) -> str:
        """Run one of them, under another program perhaps; what stands on stderr."""
        command, env = [*before, *self.commands[name]], {**self.variables, **more}
        kept = subprocess.run(command, cwd=self.folder, env=env, check=True, capture_output=True, text=True)
        return kept.stderr


@contextmanager
def made(tests: int) -> Iterator[Suites]:
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        having, lacking = environments(scratch)
        suite = scratch / "suite"
        suite.mkdir()
        lines = "".join(f"def test_{number}(): assert True\n" for number in range(tests))
        (suite / "test_trivial.py").write_text(lines, encoding="utf-8")
        common = ["-m", "pytest", "-q", "-p", "no:cacheprovider"]
        commands = {
            PLUGIN: [str(having), *common],
            BLOCKED: [str(having), *common, "-p", "no:vladoctor"],
            WITHOUT: [str(lacking), *common],
        }
        variables = {name: value for name, value in os.environ.items() if not name.startswith("PY")}
        yield Suites(commands, suite, variables)


def measure(suites: Suites, runs: int) -> dict[str, list[tuple[float, float]]]:
    """Milliseconds of each round, by the clock and of CPU time, by what was run."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in suites.commands}
    order = list(suites.commands)
    shuffle = random.Random(0).shuffle
    for number in range(runs + 2):
        shuffle(order)
        for name in order:
            started, used = time.perf_counter(), cpu_seconds()
            suites.run(name)
            if number > 1:  # the first two compile and warm up
                spent = (time.perf_counter() - started) * 1e3, (cpu_seconds() - used) * 1e3
                times[name].append(spent)
    return times


def count(suites: Suites) -> dict[str, int]:
    """Instructions of each, as callgrind counts them; nothing where it is not installed."""
    if shutil.which("valgrind") is None:
        return {}
    counter = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    found = {}
    for name in suites.commands:
        told = suites.run(name, counter, PYTHONHASHSEED="0")
        (number,) = re.findall(r"refs:\s*([\d,]+)", told)
        found[name] = int(number.replace(",", ""))
    return found


def cpu_seconds() -> float:
    """Of all child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def differences(times: dict[str, list[tuple[float, float]]]) -> list[Difference]:
    found = []
    for other in (BLOCKED, WITHOUT):
        for index, measured in enumerate(("clock", "CPU time")):
            mine, theirs = ([one[index] for one in times[name]] for name in (PLUGIN, other))
            each = [a - b for a, b in zip(mine, theirs, strict=True)]
            lower, median, upper = statistics.quantiles(each, n=4)
            fastest, ratio = min(mine) - min(theirs), min(mine) / min(theirs)
            found.append(Difference(other, measured, median, lower, upper, fastest, ratio))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--tests", type=int, default=50, help="number of tests in the trivial suite")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", type=Path, help="Markdown file whose section `plugin` is replaced")
    arguments = parser.parse_args()
    with made(arguments.tests) as suites:
        times, counted = measure(suites, arguments.runs), count(suites)
    found = differences(times)
    if arguments.write:
        from evidence import write_section

        write_section(arguments.write, "plugin", table(times, found, counted, arguments.tests))
    if arguments.json:
        differing = [asdict(one) for one in found]
        print(json.dumps({"times_ms": times, "differences": differing, "instructions": counted}, indent=2))
    else:
        print(table(times, found, counted, arguments.tests))


def table(
    times: Mapping[str, Sequence[tuple[float, float]]],
    found: Sequence[Difference],
    counted: Mapping[str, int],
    tests: int,
) -> str:
    import pytest

    clock, used = (statistics.median(one[index] for one in times[PLUGIN]) for index in (0, 1))
    rows = [
        f"{len(times[PLUGIN])} rounds, {tests} empty tests, pytest {pytest.__version__}, Python "
        f"{platform.python_version()}, {os.cpu_count()} cores ({platform.machine()}). A run with the plugin takes "
        f"{clock:.0f} ms by the clock, {used:.0f} ms of CPU time.",
        "",
        "| compared with the same suite | measured | the plugin adds, ms (quartiles) | fastest runs, ms (ratio) |",
        "|---|---|---|---|",
    ]
    for one in found:
        span = f"{one.median_ms:+.1f} ({one.lower_ms:+.1f} to {one.upper_ms:+.1f})"
        rows.append(f"| {one.against} | {one.measured} | {span} | {one.fastest_ms:+.1f} ({one.ratio:.3f}) |")
    for other in (BLOCKED, WITHOUT) if counted else ():
        ratio = counted[PLUGIN] / counted[other]
        more = (
            f"{(counted[PLUGIN] - counted[other]) / 1e6:.1f} million: {(1 - 1 / ratio) * used:.1f} of the CPU time's ms"
        )
        rows.append(f"| {other} | instructions | {more} | ({ratio:.4f}) |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
