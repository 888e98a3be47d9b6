"""The formats that machines read, by name; what makes them is imported when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vladoctor.report.json import write_atomically

if TYPE_CHECKING:
    from vladoctor.report.reported import Report


def render(report: Report, form: str) -> str:
    """The report in one of `cli.options.FORMATS`."""
    text: str = importlib.import_module(f"vladoctor.report.{form}").to_text(report)
    return text


def write_files(report: Report, files: Mapping[str, Path | None]) -> list[Path]:
    """Write the report into files, by format; returns those that were written.

    Raises:
        OSError: one cannot be written.
    """
    written = []
    for form, path in files.items():
        if path is not None:
            write_atomically(path, render(report, form))
            written.append(path)
    return written
