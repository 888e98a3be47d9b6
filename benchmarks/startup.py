"""What starting costs: `import vladoctor` and `vladoctor --help`, beside a bare interpreter.

    python benchmarks/startup.py [--runs 20] [--json] [--write docs/evidence.md]

Each round runs all three once, so that a busy machine slows all three alike. Milliseconds are medians of whole
processes; `over_bare_ms` and `ratio` compare with `python -c pass` of the same interpreter.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

BARE = "python -c pass"


def commands() -> dict[str, list[str]]:
    script = Path(sys.executable).with_name("vladoctor")
    program = [str(script)] if script.is_file() else [sys.executable, "-c", "from vladoctor.cli import main; main()"]
    return {
        BARE: [sys.executable, "-c", "pass"],
        "import vladoctor": [sys.executable, "-c", "import vladoctor"],
        "vladoctor --help": [*program, "--help"],
    }


def measure(runs: int) -> dict[str, dict[str, float]]:
    chosen = commands()
    for command in chosen.values():
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    times: dict[str, list[float]] = {name: [] for name in chosen}
    for _ in range(runs):
        for name, command in chosen.items():
            started = time.perf_counter()
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            times[name].append((time.perf_counter() - started) * 1e3)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        name: {
            "ms": round(median, 2),
            "over_bare_ms": round(median - medians[BARE], 2),
            "ratio": round(median / medians[BARE], 3),
        }
        for name, median in medians.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", type=Path, help="Markdown file whose section `startup` is replaced")
    arguments = parser.parse_args()
    results = measure(arguments.runs)
    if arguments.write:
        from evidence import write_section

        write_section(arguments.write, "startup", table(results, arguments.runs))
    if arguments.json:
        print(json.dumps({"runs": arguments.runs, "python": platform.python_version(), "commands": results}, indent=2))
    else:
        print(table(results, arguments.runs))


def table(results: dict[str, dict[str, float]], runs: int) -> str:
    rows = [
        f"Medians of {runs} interleaved runs, Python {platform.python_version()}, {platform.machine()}.",
        "",
        "| process | ms | over bare, ms | ratio |",
        "|---|---|---|---|",
    ]
    rows += [f"| `{n}` | {r['ms']:.1f} | {r['over_bare_ms']:+.1f} | {r['ratio']:.2f} |" for n, r in results.items()]
    return "\n".join(rows)


if __name__ == "__main__":
    main()
