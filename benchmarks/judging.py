"""How fast recorded episodes are judged again, and what takes the time: the section `judging` of docs/evidence.md.

    python benchmarks/judging.py --write docs/evidence.md
    python benchmarks/judging.py TRACE_OR_FOLDER... --episodes 100

Without traces, a set of different ones is recorded first below --record, by `vladoctor faults`: the reference loop as
it is, and with faults spread over the catalogue, one episode each, to success or the horizon: some 40 minutes on two
cores. The set stays there, and what is there already is not recorded again. Copies of the set are judged as
`vladoctor replay` judges them, in one process on one core, until there are --episodes of them. Steps are policy steps;
times are the processor's. Reading (records and those pictures that a check asks for) is part of it; what each check
takes is measured in turn, so a fact that several checks share is counted where it is measured first.
"""

from __future__ import annotations

import os

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"

import argparse  # noqa: E402 - numpy reads the number of threads when it is imported
import cProfile  # noqa: E402
import gc  # noqa: E402
import io  # noqa: E402
import platform  # noqa: E402
import pstats  # noqa: E402
import resource  # noqa: E402
import shutil  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
from collections import defaultdict  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from itertools import cycle, islice  # noqa: E402
from pathlib import Path  # noqa: E402
from time import process_time  # noqa: E402

from evidence import write_section  # noqa: E402

from vladoctor.check import all_faults  # noqa: E402
from vladoctor.diagnosis import run_check  # noqa: E402
from vladoctor.facts import Facts  # noqa: E402
from vladoctor.facts.coverage import coverage  # noqa: E402
from vladoctor.facts.links import summary  # noqa: E402
from vladoctor.facts.sampling import spread  # noqa: E402
from vladoctor.runspec import recorded_run  # noqa: E402
from vladoctor.session import choose_profile, judge, judge_run, replay_session, selected_checks  # noqa: E402
from vladoctor.trace import READ_JSON, find_traces, read_episode  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
RUN = ROOT / "fixtures" / "runs" / "evidence.yaml"

SHOWN = 12
"""Checks in the table."""


@dataclass(frozen=True)
class Replayed:
    """What judging so many copies took: seconds of one core, and the most memory."""

    episodes: int
    steps: int
    seconds: float
    gigabytes: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", nargs="*", type=Path)
    parser.add_argument("--record", type=Path, default=Path("reports/judging"), help="where the set is recorded")
    parser.add_argument("--healthy", type=int, default=4, help="healthy episodes of the set")
    parser.add_argument("--faults", type=int, default=14, help="episodes with a fault, another one each")
    parser.add_argument("--workers", type=int, default=1, help="processes that record")
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--write", type=Path, help="Markdown file whose section `judging` is replaced")
    parser.add_argument("--profile", action="store_true", help="print where the time goes, by function")
    arguments = parser.parse_args()
    if not arguments.traces:
        record(arguments.record, arguments.healthy, arguments.faults, arguments.workers)
    traces = [found for trace in arguments.traces or [arguments.record] for found in find_traces(trace)]
    if arguments.profile:
        print(profiled(traces))
        return
    replay_session(traces)  # imports, tables that are made once, and the files are in memory
    # First, as memory that a thousand episodes have left behind is slower.
    gc.collect()
    gc.disable()  # as `judge_traces` does
    parts = by_part(traces)
    gc.enable()
    text = section(traces, replayed(traces, arguments.episodes), *parts)
    if arguments.write:
        write_section(arguments.write, "judging", text)
    print(text)


def record(folder: Path, healthy: int, faults: int, workers: int) -> None:
    """Record the set: task 0 of the run, the healthy loop from several init states, each fault from the first."""
    single = [name for name, (fault, _) in all_faults().items() if fault.episodes == 1]
    chosen = [single[place] for place in spread(len(single), faults)]
    command = [sys.executable, "-m", "vladoctor", "faults", str(RUN), "--task", "0", "--episodes", "1"]
    command += ["--healthy", str(healthy), "--fault", "healthy", "--workers", str(workers), "--out", str(folder)]
    for name in chosen:
        command += ["--fault", name]
    status = subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode
    if status not in (0, 1):  # 1: some fault was not named first, which is no matter here
        raise SystemExit(f"recording ended with status {status}")


def replayed(traces: list[Path], episodes: int) -> Replayed:
    """Judge a folder of so many copies, as `vladoctor replay` does."""
    with tempfile.TemporaryDirectory(prefix="vladoctor-judging-") as folder:
        for number, trace in enumerate(islice(cycle(traces), episodes)):
            shutil.copyfile(trace, Path(folder) / f"{number:05d}.mcap")
        began = process_time()
        result = replay_session([Path(folder)])
        seconds = process_time() - began
    if result.failures:
        raise SystemExit(result.failures[0])
    steps = sum(len(list(one.episode.policy_steps())) for one in result.diagnoses)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return Replayed(len(result.diagnoses), steps, seconds, most)


def by_part(traces: list[Path]) -> tuple[dict[str, float], int]:
    """Seconds by part (reading, each check, what reports say of the stages, the run as a whole), and policy steps."""
    parts: dict[str, float] = defaultdict(float)
    steps = 0
    diagnoses, profiles, asked = [], [], None
    for trace in traces:
        began = process_time()
        episode = read_episode(trace)
        parts["reading the records"] += process_time() - began
        asked = recorded_run(episode.run.get("spec") or {})
        profile = choose_profile(episode.run, asked, str(episode.task.get("suite") or ""))
        limits = asked.checks.thresholds if asked else {}
        facts = Facts(episode, profile)
        for check in selected_checks(asked):
            if check.judge is not None:
                began = process_time()
                run_check(check, facts, limits.get(check.code, {}))
                parts[f"{check.code} {check.name}"] += process_time() - began
        began = process_time()
        coverage(facts), summary(facts)
        parts["stages seen, links in words"] += process_time() - began
        steps += len(list(episode.policy_steps()))
        diagnoses.append(judge(episode, profile, asked))
        profiles.append(profile)
    began = process_time()
    judge_run(diagnoses, profiles, asked)
    parts["the run as a whole"] += process_time() - began
    return parts, steps


def profiled(traces: list[Path]) -> str:
    """The dearest functions, by their own time and with what they call."""
    replay_session(traces[:1])
    profiler = cProfile.Profile()
    profiler.enable()
    replay_session(traces)
    profiler.disable()
    text = io.StringIO()
    pstats.Stats(profiler, stream=text).sort_stats("tottime").print_stats(25)
    pstats.Stats(profiler, stream=text).sort_stats("cumtime").print_stats(40)
    return text.getvalue()


def section(traces: list[Path], found: Replayed, parts: dict[str, float], sampled: int) -> str:
    total = sum(parts.values())
    dearest = sorted(parts.items(), key=lambda part: -part[1])[:SHOWN]
    rows = [f"| {name} | {1e6 * each / sampled:.0f} | {100 * each / total:.0f} % |" for name, each in dearest]
    rest = total - sum(each for _, each in dearest)
    recorded = [read_episode(trace) for trace in traces]
    faulty = sum(bool(episode.task.get("fault")) for episode in recorded)
    seen = sum(bool(step.frames) for episode in recorded for step in episode.policy_steps())
    size = sum(trace.stat().st_size for trace in traces) / sampled
    where = f"{processor()}, Python {platform.python_version()}, one process on one core"
    kinds = f"{len(traces) - faulty} healthy, {faulty} with a fault"
    steps = f"{sampled / len(traces):.0f} policy steps on average, {seen / sampled:.0%} of them with a frame"
    load = os.getloadavg()[0]
    return "\n".join(
        [
            f"{where}, records read by {READ_JSON.__module__}, load {load:.1f} on {os.cpu_count()} cores. "
            f"{found.episodes} episodes of {found.steps} policy steps, copies of {len(traces)} different recordings "
            f"({kinds}; {steps}, {size / 1e3:.0f} KB a step): {found.seconds:.1f} s, "
            f"**{found.steps / found.seconds:.0f} steps a second**, {found.gigabytes:.1f} GB of memory.",
            "",
            "| part | us a step | share |",
            "|---|---|---|",
            *rows,
            f"| the other {len(parts) - SHOWN} | {1e6 * rest / sampled:.0f} | {100 * rest / total:.0f} % |",
        ]
    )


def processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} ({platform.machine()})" if names else platform.machine()


if __name__ == "__main__":
    main()
