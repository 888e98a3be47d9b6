"""How fast recorded episodes are judged again, and what takes the time: the section `judging` of docs/evidence.md.

    python benchmarks/judging.py TRACE_OR_FOLDER... --write docs/evidence.md

Copies of the recordings named are judged as `vladoctor replay` judges them, one after the other on one core, until
there are --episodes of them. Steps are policy steps; times are the processor's. Reading (records and those pictures
that a check asks for) is part of it; what each check takes is measured in turn, so a fact that several checks share is
counted where it is measured first.
"""

from __future__ import annotations

import os

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"

import argparse  # noqa: E402 - numpy reads the number of threads when it is imported
import cProfile  # noqa: E402
import io  # noqa: E402
import platform  # noqa: E402
import pstats  # noqa: E402
import shutil  # noqa: E402
import tempfile  # noqa: E402
from collections import defaultdict  # noqa: E402
from itertools import cycle, islice  # noqa: E402
from pathlib import Path  # noqa: E402
from time import process_time  # noqa: E402

from evidence import write_section  # noqa: E402

from vladoctor.diagnosis import run_check  # noqa: E402
from vladoctor.facts import Facts  # noqa: E402
from vladoctor.facts.coverage import coverage  # noqa: E402
from vladoctor.facts.links import summary  # noqa: E402
from vladoctor.runspec import recorded_run  # noqa: E402
from vladoctor.session import choose_profile, judge, judge_run, replay_session, selected_checks  # noqa: E402
from vladoctor.trace import find_traces, read_episode  # noqa: E402

SHOWN = 12
"""Checks in the table."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", nargs="+", type=Path)
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--write", type=Path, help="Markdown file whose section `judging` is replaced")
    parser.add_argument("--profile", action="store_true", help="print where the time goes, by function")
    arguments = parser.parse_args()
    traces = [found for trace in arguments.traces for found in find_traces(trace)]
    if arguments.profile:
        print(profiled(traces))
        return
    seconds, steps = replayed(traces, arguments.episodes)
    parts, sampled = by_part(traces)
    text = section(traces, arguments.episodes, seconds, steps, parts, sampled)
    if arguments.write:
        write_section(arguments.write, "judging", text)
    print(text)


def replayed(traces: list[Path], episodes: int) -> tuple[float, int]:
    """Seconds and policy steps of judging a folder of so many copies, as `vladoctor replay` does."""
    with tempfile.TemporaryDirectory(prefix="vladoctor-judging-") as folder:
        for number, trace in enumerate(islice(cycle(traces), episodes)):
            shutil.copyfile(trace, Path(folder) / f"{number:05d}.mcap")
        replay_session(traces[:1])  # imports, and tables that are made once
        began = process_time()
        result = replay_session([Path(folder)])
        seconds = process_time() - began
    if result.failures:
        raise SystemExit(result.failures[0])
    return seconds, sum(len(list(one.episode.policy_steps())) for one in result.diagnoses)


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


def section(
    traces: list[Path], episodes: int, seconds: float, steps: int, parts: dict[str, float], sampled: int
) -> str:
    total = sum(parts.values())
    dearest = sorted(parts.items(), key=lambda part: -part[1])[:SHOWN]
    rows = [f"| {name} | {1e3 * each / sampled:.3f} | {100 * each / total:.0f} % |" for name, each in dearest]
    rest = total - sum(each for _, each in dearest)
    return "\n".join(
        [
            f"{platform.machine()}, Python {platform.python_version()}, one core. {episodes} episodes, copies of "
            f"{len(traces)}, {steps} policy steps: {seconds:.1f} s, **{steps / seconds:.0f} steps a second**.",
            "",
            "| part | ms a step | share |",
            "|---|---|---|",
            *rows,
            f"| the other {len(parts) - SHOWN} | {1e3 * rest / sampled:.3f} | {100 * rest / total:.0f} % |",
        ]
    )


if __name__ == "__main__":
    main()
