"""What the shipped policy can do, and what is said of it when nothing is wrong: 20 unseen init states a task.

    python benchmarks/policy.py --workers 2 --write docs/evidence.md

Runs `vladoctor diagnose fixtures/runs/held-out.yaml`, a process a task. What has its report below --out is not run
again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path
from statistics import median
from typing import Any

from evidence import interval, write_section

from vladoctor.matrix import HEALTHY, plan, run_matrix
from vladoctor.report.matrix import make_display
from vladoctor.runspec import load_run

RUN = Path(__file__).resolve().parents[1] / "fixtures" / "runs" / "held-out.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("reports/held-out"))
    parser.add_argument("--write", type=Path, help="Markdown file whose section `policy` is replaced")
    arguments = parser.parse_args()
    what = plan(str(RUN), load_run(RUN), faults=[HEALTHY])
    found = run_matrix(what, arguments.out, workers=arguments.workers, display=make_display())
    if not found["complete"] or found["total"]["crashed"]:
        sys.exit(f"not all rows are there: {found['rows']}")
    reports = [json.loads((arguments.out / row["report"]).read_text("utf-8")) for row in found["rows"]]
    text = section(reports)
    if arguments.write:
        write_section(arguments.write, "policy", text)
    print(text)


def section(reports: list[dict[str, Any]]) -> str:
    rows = []
    for found in reports:
        episodes = found["episodes"]
        won = [episode for episode in episodes if episode["success"]]
        findings = sum(len(episode["findings"]) for episode in episodes)
        steps = f"{median(e['steps'] for e in won):.0f}" if won else "–"
        rows.append(
            f"| {episodes[0]['instruction']} | {interval(len(won), len(episodes))} | {steps} | {findings} "
            f"| {_checks(episodes)} |"
        )
    versions = reports[0]["run"]["versions"]
    named = ", ".join(f"{name} {versions[name]}" for name in ("python", "torch", "transformers", "mujoco", "numpy"))
    return "\n".join(
        [
            f"Machine: {platform.machine()}, {os.cpu_count()} cores, software rendering; {named}.",
            "",
            "| instruction | success (95 % interval) | steps of a success, median | findings | checks passed |",
            "|---|---|---|---|---|",
            *rows,
        ]
    )


def _checks(episodes: list[dict[str, Any]]) -> str:
    states = [check["state"] for episode in episodes for check in episode["checks"]]
    return f"{states.count('passed')} of {len(states)}"


if __name__ == "__main__":
    main()
