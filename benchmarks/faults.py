"""What each fault does to a run, and what vladoctor says of it: the table in docs/evidence.md.

    python benchmarks/faults.py fixtures/runs/evidence.yaml --workers 2 --write docs/evidence.md

Every row is `vladoctor diagnose RUN --fault NAME --task TASK --format json`, run as a user runs it, in a process of its
own for each task. What has its report below --out is not run again, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from evidence import interval, write_section

from vladoctor.check import all_faults
from vladoctor.runspec import load_run

HEALTHY = "(healthy)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--faults", nargs="*", help="names; by default all of them and the healthy loop")
    parser.add_argument("--episodes", type=int, help="episodes of each task, instead of the run file's")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("reports/faults"))
    parser.add_argument("--write", type=Path, help="Markdown file whose section `faults` is replaced")
    parser.add_argument("--machine", help="what to call the machine in the table; by default its cores are counted")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    arguments = parser.parse_args()
    names = arguments.faults or [HEALTHY, *all_faults()]
    tasks = [str(task) for task in load_run(arguments.run).own_loop()[1].tasks]
    jobs = [(name, task) for name in names for task in tasks]
    with ThreadPoolExecutor(arguments.workers) as pool:
        reports = list(
            pool.map(lambda job: report(arguments.run, job[0], job[1], arguments.out, arguments.episodes), jobs)
        )
    rows = [
        row(
            name,
            [
                episode
                for job, found in zip(jobs, reports, strict=True)
                if job[0] == name
                for episode in found["episodes"]
            ],
        )
        for name in names
    ]
    if arguments.json:
        print(json.dumps(rows, indent=1))
    machine = arguments.machine or f"{platform.machine()}, {os.cpu_count()} cores, {arguments.workers} processes"
    text = table(rows, reports[0], machine)
    if arguments.write:
        write_section(arguments.write, "faults", text)
    if not arguments.json:
        print(text)


def report(run: Path, name: str, task: str, out: Path, episodes: int | None) -> dict[str, Any]:
    """The run report for a fault and a task, from an earlier run if there is one."""
    folder = out / name.strip("()") / task
    path = folder / "report.json"
    if not path.is_file():
        command = [sys.executable, "-m", "vladoctor", "diagnose", str(run), "--task", task]
        command += ["--out", str(folder), "--format", "json"]
        if episodes:
            command += ["--episodes", str(episodes)]
        if name != HEALTHY:
            command += ["--fault", name]
        environment = {"OMP_NUM_THREADS": "1", "LP_NUM_THREADS": "1"}
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if not path.is_file():
            raise SystemExit(f"{name}: no report (exit {done.returncode})\n{done.stderr[-3000:]}")
        print(f"{name}, {task}: exit {done.returncode}", file=sys.stderr, flush=True)
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def row(name: str, episodes: list[dict[str, Any]]) -> dict[str, Any]:
    """One row of the table: counts over episodes."""
    own = all_faults()[name][1].code if name != HEALTHY else ""
    headlines = Counter(e["findings"][0]["code"] if e["findings"] else "none" for e in episodes)
    roots = Counter(
        code for e in episodes for code in {f["code"] for f in e["findings"] if not f["explained_by"]} - {own}
    )
    consequences = Counter(code for e in episodes for code in {f["code"] for f in e["findings"] if f["explained_by"]})
    steps = [next((f["first_step"] for f in e["findings"] if f["code"] == own), None) for e in episodes]
    return {
        "fault": name,
        "code": own or "none",
        "episodes": len(episodes),
        "successes": sum(bool(e["success"]) for e in episodes),
        "headlines": dict(headlines),
        "named": sum(step is not None for step in steps) if own else None,
        "first_step": [step for step in steps if step is not None],
        "wrong": dict(roots),
        "consequences": dict(consequences),
    }


def table(rows: list[dict[str, Any]], sample: dict[str, Any], machine: str) -> str:
    """The section as Markdown."""
    lines = [
        "| fault | its code | episodes | success (95 % interval) | first code reported | first step, median (max) "
        "| other root codes | consequences under it |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        steps = sorted(r["first_step"])
        place = f"{steps[len(steps) // 2]} ({steps[-1]})" if steps else "–"
        lines.append(
            f"| {r['fault']} | {r['code']} | {r['episodes']} | {interval(r['successes'], r['episodes'])} "
            f"| {_counts(r['headlines'], r['episodes'])} | {place} | {_counts(r['wrong'], r['episodes'])} "
            f"| {_counts(r['consequences'], r['episodes'])} |"
        )
    run = sample["run"]
    versions = run["versions"]
    return "\n".join(
        [
            f"Machine: {machine}. Versions: "
            + ", ".join(
                f"{name} {versions.get(name, '?')}"
                for name in ("python", "torch", "transformers", "mujoco", "robosuite", "numpy")
            )
            + f". Assets: {run['assets']['kind']}. Policy on {run['device']}, greedy.",
            "",
            *lines,
        ]
    )


def _counts(counter: dict[str, int], total: int) -> str:
    return ", ".join(f"{code} {count}/{total}" for code, count in sorted(counter.items())) or "–"


if __name__ == "__main__":
    main()
