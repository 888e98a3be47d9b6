"""Loops in which nothing is wrong, watched and judged: how often something is said all the same.

    python benchmarks/healthy.py --workers 32 --write docs/evidence.md [--python lerobot=PYTHON]

The reference loop and the programs of tests/clients, each over tasks, init states and seeds, run to its end or to the
suite's horizon, in processes of their own. What has its result below --out is not run again; recordings are kept of
those runs only in which something was said. `--scale 0.1` runs a tenth of the episodes.

What counts is an episode that ended, and any other in which something was found. The section `healthy` of
docs/evidence.md says how many, in which loops, what was found in them, and what was not varied.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from threading import Event
from time import monotonic
from typing import Any

from clients import CHECKPOINT, Bench, Client, clients, machine
from evidence import write_section

from vladoctor.check import Severity
from vladoctor.loop import HORIZONS
from vladoctor.matrix import NOTHING, matrix, trials_of
from vladoctor.report.json import write_atomically
from vladoctor.report.matrix import alarms, make_display, rate

STOPPED = Event()
"""Set when the campaign is stopped, and its programs with it."""

SUITE = "libero_object"
HORIZON = HORIZONS[SUITE]
REFERENCE = "reference"
SOLVED = "0"
"""The one official task that the small policy was trained on; in the others it moves, and fails."""
TOMATO = "pick_up_the_tomato_sauce_and_place_it_in_the_basket_scene0"
"""Its second instruction, in the same scene; ours, so that only the reference loop can be told of it."""
OTHERS = tuple(str(number) for number in range(1, 10))
HELD_OUT = range(30, 50)
INIT_STATES = 50
TOGETHER = 5
"""Episodes of one process, at most."""


@dataclass(frozen=True)
class Loop:
    """A healthy loop and how much of it is run.

    Attributes:
        client: name in clients.py of the program that it is; "" for the reference loop.
        solved: episodes of each task that the policy solves; others: of each of the suite's other tasks.
        options: what its command line says for a task, an init state, a number of episodes and a seed, in that order
            (`{task}`, `{first}`, `{count}`, `{seed}`).
        seeded, from_first: whether it takes a seed, and the number of its first init state; else that is 0.
    """

    name: str
    what: str
    client: str = ""
    solved: int = 0
    others: int = 0
    options: str = ""
    seeded: bool = True
    from_first: bool = True
    policy_works: bool = True

    def jobs(self, scale: float) -> Iterator[Job]:
        number = 0
        for task in [SOLVED, *OTHERS] if self.client else [SOLVED, TOMATO, *OTHERS]:
            wanted = self.solved if task in (SOLVED, TOMATO) else self.others
            wanted = max(1, round(scale * wanted)) if wanted else 0
            for first in range(0, wanted, TOGETHER):
                count = min(TOGETHER, wanted - first)
                yield Job(self, task, self.start(task) + first, count, seed=7 + number)
                number += 1

    def start(self, task: str) -> int:
        """Number of the first init state; others in each loop and task where the policy has seen none of them."""
        if not self.from_first:
            return 0
        if task in (SOLVED, TOMATO):
            return HELD_OUT[0]
        return (7 * int(task) + 11 * len(self.name)) % (INIT_STATES - TOGETHER)


@dataclass(frozen=True)
class Job:
    """Some episodes of a loop in one process."""

    loop: Loop
    task: str
    first: int
    count: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.loop.name}-{'tomato' if self.task == TOMATO else f'task{self.task}'}-{self.first}-{self.count}"

    @property
    def options(self) -> list[str]:
        values = {"task": self.task, "first": self.first, "count": self.count, "seed": self.seed}
        return [part.format(**values) for part in self.loop.options.split()]


LIBERO_GYM = "--task {task} --first {first} --episodes {count} --seed 0"
LEROBOT = "--env.task_ids=[{task}] --eval.n_episodes={count} --seed={seed}"

LOOPS = (
    Loop(REFERENCE, "vladoctor's own, OpenVLA's evaluation", solved=20, others=4),
    Loop("official", "official OpenVLA evaluation's shape", "official", 20, 4,
         "--task_id {task} --init_offset {first} --num_trials {count} --seed {seed}"),
    Loop("one_file", "one file, decoding by hand", "one_file", 20, 4,
         "--task {task} --first {first} --episodes {count}", seeded=False),
    Loop("openpi", "openpi's client and a server in another process", "openpi", 20, 4,
         "--task-id {task} --first {first} --episodes {count} --seed {seed}"),
    Loop("act", "REST /act, client and server", "act", 20, 2,
         "--task {task} --first {first} --episodes {count}", seeded=False),
    Loop("gym-async", "Gymnasium AsyncVectorEnv, two LIBERO in processes of their own", "gym-vector-async", 20, 2,
         LIBERO_GYM, seeded=False),
    Loop("gym-async-batched", "the same, both rows decoded in one batch", "gym-vector-async", 10, 0,
         f"{LIBERO_GYM} --batched", seeded=False),
    Loop("gym-sync", "LIBERO behind gymnasium.Env, SyncVectorEnv of one", "gym-vector-async", 10, 2,
         f"{LIBERO_GYM} --vectorization sync --num-envs 1", seeded=False),
    Loop("lerobot-smolvla", "`lerobot-eval`, SmolVLA with random weights", "lerobot-smolvla", 5, 2, LEROBOT,
         from_first=False, policy_works=False),
    Loop("lerobot-act", "`lerobot-eval`, ACT with random weights", "lerobot-act", 5, 1, LEROBOT,
         from_first=False, policy_works=False),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"loops; all by default: {', '.join(loop.name for loop in LOOPS)}")
    parser.add_argument("--python", action="append", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes at a time")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the episodes, at least one of each task")
    parser.add_argument("--steps", type=int, default=HORIZON, help="policy steps of an episode; the suite's horizon")
    parser.add_argument("--tasks", nargs="*", help="only these task numbers")
    parser.add_argument("--out", type=Path, default=Path("reports/healthy"))
    parser.add_argument("--write", type=Path, help="Markdown file whose section `healthy` is replaced")
    parser.add_argument("--from-results", action="store_true", help="run nothing; count what is there")
    arguments = parser.parse_args()
    if unknown := {*arguments.names} - {loop.name for loop in LOOPS}:
        parser.error(f"no such loop: {', '.join(sorted(unknown))}")
    loops = [loop for loop in LOOPS if not arguments.names or loop.name in arguments.names]
    jobs = [job for loop in loops for job in loop.jobs(arguments.scale)]
    jobs = [job for job in jobs if not arguments.tasks or job.task in arguments.tasks]
    arguments.out.mkdir(parents=True, exist_ok=True)
    crashed = [] if arguments.from_results else campaign(jobs, arguments)
    paths = [arguments.out / f"{job.name}.json" for job in jobs]
    rows = [json.loads(path.read_text("utf-8")) for path in paths if path.is_file()]
    text = section(rows, loops)
    print(text)
    if crashed:
        sys.exit("these ended without a report; the same command runs them again:\n" + "\n".join(crashed))
    if arguments.write:
        write_section(arguments.write, "healthy", text)


def campaign(jobs: Sequence[Job], arguments: argparse.Namespace) -> list[str]:
    """Run what has no result yet; the jobs that crashed, with the end of their logs."""
    out = arguments.out.resolve()
    pythons = {"main": sys.executable, "clients": sys.executable, **dict(p.split("=", 1) for p in arguments.python)}
    display = make_display()
    crashed = []
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(out, pythons, Path(scratch), arguments.steps)
        programs = {client.name: client for client in clients(arguments.steps, out)}
        lacking = {loop.name: lacks(bench, programs.get(loop.client)) for loop in {job.loop for job in jobs}}
        for name, what in lacking.items():
            if what:
                display.note(f"not run: {name}, which needs {what}")
        jobs = [job for job in jobs if not lacking[job.loop.name]]
        missing = [job for job in jobs if not (out / f"{job.name}.json").is_file()]
        display.start(len(jobs), len(jobs) - len(missing))
        try:
            with ThreadPoolExecutor(arguments.workers) as pool:
                futures = [pool.submit(run, bench, programs.get(job.loop.client), job) for job in missing]
                for future in as_completed(futures):
                    row, seconds, error = future.result()
                    display.ended(row, seconds)
                    if error:
                        crashed.append(f"{row['fault']}, {row['task']}:\n{error}")
        except KeyboardInterrupt:
            STOPPED.set()
            raise
        finally:
            display.finish()
    return crashed


def lacks(bench: Bench, program: Client | None) -> str:
    """What is missing here to run a program, "" for nothing; LeRobot's random checkpoint is made."""
    if program is None:
        return ""
    python = bench.pythons.get(program.python)
    if python is None or (program.needs and not bench.has(python, program.needs)):
        return program.needs or program.python
    if program.python == "lerobot":
        bench.make_policy(python, program.command)
    return ""


def run(bench: Bench, program: Client | None, job: Job) -> tuple[dict[str, Any], float, str]:
    """Run a job and keep its result; a row to show, seconds, and the end of the log where there is no report."""
    began = monotonic()
    with tempfile.TemporaryDirectory(prefix=f"{job.name}-", dir=bench.out) as folder:
        inside = copy(bench)
        inside.out = Path(folder)
        # Processes that copy a checkpoint's code into the same folder wait for each other, or import half a file.
        inside.environment = {**bench.environment, "HF_MODULES_CACHE": str(inside.out / "modules")}
        report, log = (_reference if program is None else _program)(inside, program, job)
        seconds = monotonic() - began
        row = {"fault": job.loop.name, "task": job.name.removeprefix(f"{job.loop.name}-"), "state": "done"}
        if not report.get("episodes"):
            return {**row, "state": "crashed", "first": {}}, seconds, log[-2000:]
        if STOPPED.is_set():
            # Its program was stopped with it; what it had not done would count as done.
            return {**row, "state": "crashed", "first": {}}, seconds, "interrupted"
        trials = trials_of(report, "", job.task)
        if any(trial["severity"] for trial in trials):
            shutil.copytree(folder, bench.out / "findings" / job.name, dirs_exist_ok=True)
    result = {
        "loop": job.loop.name,
        "job": {"task": job.task, "first": job.first, "count": job.count, "seed": job.seed, "steps": bench.steps},
        "machine": machine(),
        "seconds": seconds,
        "report": report,
    }
    write_atomically(bench.out / f"{job.name}.json", json.dumps(result, indent=1))
    return {**row, "first": dict(Counter(trial["first"] or NOTHING for trial in trials))}, seconds, ""


def _program(bench: Bench, program: Client | None, job: Job) -> tuple[dict[str, Any], str]:
    assert program is not None
    # Of an option that is there twice, argparse takes the last. One thread draws: several are slower side by side.
    environment = {**program.environment, "LP_NUM_THREADS": "1"}
    changed = replace(program, command=[*program.command, *job.options], timed="", environment=environment)
    _, report = bench.run(changed, bench.pythons[program.python], True, job.name, must=False)
    return report, "\n".join(path.read_text("utf-8", "replace") for path in bench.out.glob("*/log.txt"))


def _reference(bench: Bench, _: Client | None, job: Job) -> tuple[dict[str, Any], str]:
    spec = {
        "model": {"path": str(CHECKPOINT), "device": "cpu", "dtype": "float32", "unnorm_key": SUITE, "threads": 1},
        "env": {
            "suite": SUITE,
            "tasks": [int(job.task) if job.task.isdigit() else job.task],
            "init_states": {"first": job.first, "count": job.count},
            "seed": job.seed,
            "env_seed": job.seed,
            "horizon": bench.steps,
            "assets": "stand-in",
        },
    }
    file = bench.out / "run.yaml"
    file.write_text(json.dumps(spec, indent=1), "utf-8")
    command = [bench.pythons["main"], "-m", "vladoctor", "diagnose", str(file), "--out", str(bench.out / "report")]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LP_NUM_THREADS"), "1")
    done = subprocess.run(
        command,
        env={**os.environ, **threads, "HF_MODULES_CACHE": bench.environment["HF_MODULES_CACHE"]},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    report = bench.out / "report" / "report.json"
    return (json.loads(report.read_text("utf-8")) if report.is_file() else {}), done.stdout


# --- Counting ---


def counted(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The episodes of a result that count, as trials of the matrix: those that ended, and those with a finding."""
    found = trials_of(row["report"], "", row["job"]["task"])
    return [trial for trial in found if trial["trials"] or trial["severity"]]


def section(rows: Sequence[Mapping[str, Any]], loops: Sequence[Loop]) -> str:
    by_loop = {loop.name: [row for row in rows if row["loop"] == loop.name] for loop in loops}
    heads = ["loop", "episodes (processes)", "tasks", "init states", "seeds", "success where the policy was trained",
             "checks with a verdict", "stop", "fix", "look", "stop or fix: at most"]  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    everything: list[dict[str, Any]] = []
    for loop in loops:
        own = by_loop[loop.name]
        if not own:
            lines.append(f"| {loop.name}: {loop.what} | not run |{' |' * (len(heads) - 2)}")
            continue
        trials = [trial for row in own for trial in counted(row)]
        everything += trials
        lines.append(_line(f"{loop.name}: {loop.what}", own, trials, loop.policy_works))
    used = [row for loop in loops for row in by_loop[loop.name]]
    if not used:
        return "Nothing was run."
    lines.append(_line("**all**", used, everything, False))
    total = _healthy(everything)
    machines = sorted({row["machine"] for row in used})
    versions = used[0]["report"]["run"].get("versions") or {}
    named = ", ".join(f"{name} {versions.get(name) or '?'}" for name in ("torch", "transformers", "mujoco", "numpy"))
    steps = sorted({row["job"]["steps"] for row in used})
    intro = (
        f"{'; '.join(machines)}; {named}. {total['episodes']} episodes in {len(used)} processes, with a finding to "
        f"stop or fix: **{alarms(total['alarms'], total['alarm_bound'])}**; with nothing but a look: "
        f"{alarms(total['looks'], total['look_bound'])}. Episodes end with success or after "
        f"{' or '.join(map(str, steps))} policy steps{'' if steps != [HORIZON] else ', the horizon of the suite'}. "
        "In the table: episodes by their gravest finding, the one-sided 95 % bound of their share, and how many "
        "checks had enough evidence for a verdict on an episode (median)."
    )
    return "\n".join([intro, "", *lines, "", *_findings(used), "", *_not_varied(used)])


def _healthy(trials: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return dict(matrix([], trials, about={})["healthy"])


def _line(name: str, rows: Sequence[Mapping[str, Any]], trials: Sequence[Mapping[str, Any]], works: bool) -> str:
    found = _healthy(trials)
    solved = _healthy([trial for trial in trials if trial["task"] in (SOLVED, TOMATO)])["success"]
    grave = Counter(trial["severity"] for trial in trials)
    jobs = [row["job"] for row in rows]
    checks = [episode["checks"] for row in rows for episode in row["report"]["episodes"]]
    judged = [sum(check["state"] in ("passed", "failed") for check in each) for each in checks]
    total = max(map(len, checks), default=0)
    states = {state for job in jobs for state in range(job["first"], job["first"] + job["count"])}
    seeded = {loop.name for loop in LOOPS if loop.seeded}
    seeds = {row["job"]["seed"] for row in rows if row["loop"] in seeded}
    cells = [
        f"{found['episodes']} ({len(rows)})",
        str(len({job["task"] for job in jobs})),
        str(len(states)),
        str(len(seeds) or 1),
        rate(solved) if works else "–",
        f"{median(judged):g} of {total}" if judged else "–",
        *(str(grave[severity.value]) for severity in Severity),
        f"{100 * found['alarm_bound']:.2g} %" if found["episodes"] else "–",
    ]
    return f"| {name} | {' | '.join(cells)} |"


def _findings(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every finding that there was, those that say the same of the same loop together."""
    seen: dict[tuple[str, str, str, str], list[str]] = {}
    for row in rows:
        report = row["report"]
        overall = [("the run", one) for one in (report.get("overall") or {}).get("findings", ())]
        single = [(episode["name"], one) for episode in report["episodes"] for one in episode["findings"]]
        for where, one in [*single, *overall]:
            about = "under another" if one.get("explained_by") else ""
            key = (row["loop"], f"{one['code']} {one['name']}", one["severity"], about)
            seen.setdefault(key, []).append(f"task {row['job']['task']}, {where}: {one['message']}")
    if not seen:
        return ["Nothing was found in any of them."]
    lines = ["Everything that was found:", ""]
    for (loop, code, severity, about), said in sorted(seen.items()):
        lines.append(f"- {loop}, {code}, {severity}, {len(said)} times{about and f' ({about})'}. The first: {said[0]}")
    return lines


def _not_varied(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    profiles = sorted({str((row["report"]["run"].get("profile") or {}).get("name")) for row in rows})
    return [
        "Varied: the loop, the task and with it instruction and scene, the init state, the seed where a loop takes one "
        f"(one_file, act and the Gymnasium ones set their own), single and vector environments; profiles: "
        f"{', '.join(profiles)}. "
        f"Not varied: the suite ({SUITE}), the stand-in assets, the robot, the cameras' size (256 px), the control "
        "rate, the checkpoint of a loop (the small policy; LeRobot's are random), greedy decoding, the machine. "
        "Episodes of one process share a model and an environment, so they are not quite independent.",
    ]


if __name__ == "__main__":
    main()
