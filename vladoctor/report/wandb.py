"""The run in Weights & Biases: numbers in the run's summary, the findings as a table, the page as it is.

Where a run is active in this process it is added to; else one is made, which WANDB_MODE, WANDB_DIR, WANDB_RUN_ID and
the other variables of wandb's steer.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vladoctor.errors import UserError
from vladoctor.report.reported import of_run
from vladoctor.report.scalars import PREFIX, scalars, summary_text

if TYPE_CHECKING:
    from vladoctor.result import RunResult

COLUMNS = ("code", "name", "severity", "stage", "found in", "message", "remedy", "place")


def require_wandb() -> None:
    """Find out before the run that nothing could be logged.

    Raises:
        UserError: wandb is not installed.
    """
    if find_spec("wandb") is None:
        raise UserError("wandb is not installed", where="report.wandb", remedy="pip install wandb")


def log_wandb(result: RunResult, project: str | None = None) -> str:
    """Log the run; returns wandb's id of it.

    Args:
        project: of a run that is made for it; wandb's own default where none is named.

    Raises:
        UserError: wandb is not installed.
    """
    require_wandb()
    import wandb

    active = wandb.run
    run: Any = active or wandb.init(
        project=project,
        name=result.folder.name if result.folder else None,
        job_type=PREFIX,
        config={PREFIX: _config(result)},
    )
    try:
        numbers = scalars(result)
        table = wandb.Table(columns=list(COLUMNS), data=[_row(one) for one in of_run(result).counted])
        logged: dict[str, Any] = {**numbers, f"{PREFIX}/findings_table": table}
        page = result.folder / "report.html" if result.folder else Path()
        if page.is_file():
            logged[f"{PREFIX}/report"] = wandb.Html(page.read_text(encoding="utf-8"))
        run.log(logged)
        run.summary[f"{PREFIX}/summary"] = summary_text(result)
        return str(run.id)
    finally:
        if active is None:
            run.finish()


def _config(result: RunResult) -> dict[str, Any]:
    run = result.run
    return {
        "profile": (run.get("profile") or {}).get("name"),
        "checkpoint": (run.get("checkpoint") or {}).get("name"),
        "fault": run.get("fault") or None,
        "versions": dict(run.get("versions") or {}),
    }


def _row(one: Any) -> list[str]:
    finding = one.finding
    found_in = ", ".join(one.subjects[:20]) + (" ..." if len(one.subjects) > 20 else "")
    place = str(finding.place) if finding.place else ""
    names = (finding.code, finding.name, finding.severity.value, finding.stage.value)
    return [*names, found_in, finding.message, finding.remedy, place]
