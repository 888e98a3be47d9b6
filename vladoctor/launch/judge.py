"""Judges what a watched program did, in all its processes, and looks in its source for where that comes from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vladoctor.launch.causes import with_causes
from vladoctor.session import judge_traces
from vladoctor.trace import find_traces

if TYPE_CHECKING:
    from vladoctor.launch.command import Watched
    from vladoctor.result import RunResult
    from vladoctor.runspec import RunSpec


def judge_watched(watched: Watched, folder: Path, spec: RunSpec) -> RunResult:
    """Judge every recording in a program's folder; what was not seen is in the result's notes."""
    parents = {process["pid"]: process["parent"] for process in watched.processes}
    traces = find_traces(folder / "traces", missing_ok=True)
    result = judge_traces(traces, spec=spec, out=folder, processes=parents)
    program = {
        "command": list(spec.loop.words) if spec.loop else [],
        "status": watched.status,
        "signal": watched.signal,
        "processes": list(watched.processes),
    }
    notes = [*result.notes, *watched.problems, *([] if traces else [watched.why_nothing])]
    result = replace(result, run={**result.run, "program": program}, notes=tuple(dict.fromkeys(notes)))
    return with_causes(result, watched.processes)
