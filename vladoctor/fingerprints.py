"""`vladoctor fingerprint`: references of scenes (`vladoctor.facts.scene`), made of a run or of traces of one."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vladoctor.errors import UserError
from vladoctor.facts.scene import document
from vladoctor.records import Episode
from vladoctor.trace import find_traces, read_episode


@dataclass
class Written:
    """What was written: the file, a row for each scene (suite, tasks, camera, init states), and warnings."""

    file: Path
    rows: list[tuple[str, ...]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def write_fingerprints(sources: Sequence[str], out: Path) -> Written:
    """Write references of the scenes in traces, or in a run, of which one step an episode is run.

    Args:
        sources: run files (or names of runs that come with vladoctor), trace files, folders of traces.

    Raises:
        UserError: there is nothing to take them from.
    """
    written = Written(out)
    with tempfile.TemporaryDirectory(prefix="vladoctor-fingerprint-") as folder:
        paths = [path for number, source in enumerate(sources) for path in _traces(source, Path(folder) / str(number))]
        made = document(_healthy(paths, written))
    if not made["scenes"]:
        raise UserError(
            "no scene could be kept",
            where=", ".join(sources),
            remedy="name traces of a healthy run that were recorded from the reset on, with frames and the task's name",
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    for scene in made["scenes"]:
        states = len(scene["states"])
        row = (
            scene["suite"] or "-",
            " and ".join(scene["tasks"]),
            scene["camera"],
            scene["assets"] or "-",
            f"{states} init state{'s' if states > 1 else ''}",
        )
        written.rows.append(row)
    return written


def _traces(source: str, folder: Path) -> list[Path]:
    """The traces that a source names; a run is made to leave some in `folder`."""
    path = Path(source)
    if path.is_dir() or source.endswith(".mcap"):
        return find_traces(path)
    from vladoctor.runspec import load_run
    from vladoctor.session import run_session

    spec = load_run(source).with_options(horizon=1)
    spec.require_files()
    result = run_session(spec, out=folder)
    if result.failures:
        raise UserError(
            f"the run failed: {result.failures[0]}",
            where=source,
            remedy=f"see what it says with: vladoctor diagnose {source}",
        )
    return find_traces(folder)


def _healthy(paths: Sequence[Path], written: Written) -> Iterator[Episode]:
    for path in paths:
        episode = read_episode(path)
        if episode.task.get("fault"):
            written.warnings.append(f"{path.name} is left out: fault {episode.task['fault']} was applied on purpose")
        else:
            yield episode
