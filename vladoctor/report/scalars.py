"""A run in numbers, for experiment trackers, where evaluations are set beside each other."""

from __future__ import annotations

import io
from collections import Counter
from typing import TYPE_CHECKING

from vladoctor.check import Severity
from vladoctor.report.json import success_interval, trials
from vladoctor.report.reported import of_run
from vladoctor.report.seen import cost

if TYPE_CHECKING:
    from vladoctor.result import RunResult

PREFIX = "vladoctor"


def scalars(result: RunResult) -> dict[str, float]:
    """Name -> number.

    `findings/SEVERITY`: different findings that count; `episodes_with/CODE`: share of the episodes that it was found
    in; `success_rate` with its interval, where episodes ran to an end; `overhead/...`: what the taps took of a step.
    """
    report = of_run(result)
    severities = Counter(one.finding.severity for one in report.counted)
    numbers: dict[str, float] = {f"findings/{severity.value}": severities[severity] for severity in Severity}
    episodes = len(result.diagnoses)
    codes = Counter(code for one in result.diagnoses for code in {finding.code for finding in one.findings})
    numbers |= {f"episodes_with/{code}": count / episodes for code, count in sorted(codes.items())}
    counted = trials(result.diagnoses)
    successes = sum(one.episode.outcome.success for one in counted)
    numbers |= {"episodes": episodes, "exit_status": result.exit_status}
    interval = success_interval(successes, len(counted))
    if interval is not None:
        numbers |= {"success_rate": successes / len(counted), "success_low": interval[0], "success_high": interval[1]}
    overhead = cost(one.episode for one in result.diagnoses)
    if overhead is not None:
        numbers |= {"overhead/ms_per_step": overhead.taps, "overhead/share": overhead.share}
    return {f"{PREFIX}/{name}": float(value) for name, value in numbers.items()}


def summary_text(result: RunResult) -> str:
    """What the terminal shows, as plain text."""
    from vladoctor.report.terminal import print_summary

    stream = io.StringIO()
    print_summary(result, stream=stream, width=100, colour=False)
    return "\n".join(line.rstrip() for line in stream.getvalue().strip("\n").splitlines())
