"""What several commands share: options, and how their values are read. Importing it costs click and nothing else."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from vladoctor.errors import UserError

F = TypeVar("F", bound=Callable[..., Any])

FAILED = 2
"""Exit status where the tool failed."""

DEBUG = "VLADOCTOR_DEBUG"


def debug(asked: bool) -> None:
    """Show tracebacks from here on."""
    if asked:
        os.environ[DEBUG] = "1"


def traceback_option(command: F) -> F:
    """`--traceback` also after the command's name, where an error message makes people type it."""

    def switch(_: click.Context, __: click.Parameter, value: bool) -> None:
        debug(value)

    return click.option(
        "--traceback", is_flag=True, expose_value=False, callback=switch, help="Show where an error comes from."
    )(command)


def format_option(command: F) -> F:
    """`--format`: what goes to stdout."""
    return click.option(
        "--format",
        "form",
        type=click.Choice(["text", "json"]),
        default="text",
        help="What goes to stdout: a summary, or the run report.",
    )(command)


def split(values: Sequence[str]) -> list[str]:
    """The codes of an option that may be repeated and may hold several, with commas."""
    return [part.strip() for value in values for part in value.split(",") if part.strip()]


def require_writable(folder: Path, remedy: str = "name another with --out") -> None:
    """Find out before the run, not after it, that something cannot be written into a folder.

    Raises:
        UserError: it cannot.
    """
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise UserError("this is a file, not a folder", where=str(place), remedy=remedy)
    try:
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        raise UserError(f"nothing can be written here: {error.strerror}", where=str(place), remedy=remedy) from error


@dataclass(frozen=True)
class Outputs:
    """Where what was found goes.

    Attributes:
        form: of stdout, or of `file`.
        file: what would go to stdout; None for stdout itself.
        sarif, junit: written besides.
        tensorboard, wandb: folder and project of experiment trackers that get a summary.
    """

    form: str
    file: Path | None = None
    sarif: Path | None = None
    junit: Path | None = None
    tensorboard: Path | None = None
    wandb: str | None = None

    @property
    def files(self) -> dict[str, Path | None]:
        """What is written besides, by format."""
        return {"sarif": self.sarif, "junit": self.junit}

    def put(self, text: str) -> None:
        """Write what was asked for to stdout, or into the file."""
        if self.file is None:
            sys.stdout.write(text)
            sys.stdout.flush()
        else:
            from vladoctor.report.json import write_atomically

            write_atomically(self.file, text)


FORMATS = ("concise", "sarif", "github", "junit")
"""What every command can write besides its own formats; see `report.formats`."""


def baseline_options(command: F) -> F:
    """`--baseline` and `--write-baseline`."""
    file = click.Path(path_type=Path, dir_okay=False)
    command = click.option(
        "--write-baseline", is_flag=True, help="Accept what is found now: write it into the baseline."
    )(command)
    return click.option("--baseline", type=file, metavar="FILE", help="Known findings, which are accepted.")(command)


def output_options(first: str, *others: str, trackers: bool = False) -> Callable[[F], F]:
    """The options of all commands that report findings, as one argument `outputs`; the first format is the default.

    Args:
        trackers: with those of experiment trackers, which take summaries of runs.
    """
    file = click.Path(path_type=Path, dir_okay=False)

    def decorate(command: F) -> F:
        @wraps(command)
        def call(
            *words: Any,
            form: str,
            output_file: Path | None,
            sarif: Path | None,
            junit: Path | None,
            tensorboard: Path | None = None,
            wandb: str | None = None,
            **options: Any,
        ) -> Any:
            for file in (output_file, sarif, junit):
                # Not /dev/stdout, a pipe and the like, which are written to as they are.
                if file is not None and (file.is_file() or not file.exists()):
                    require_writable(file.resolve().parent, "name another file")
            outputs = Outputs(form, output_file, sarif, junit, tensorboard, wandb)
            return command(*words, outputs=outputs, **options)

        folder = click.Path(path_type=Path, file_okay=False)
        trackings = (
            click.option("--tensorboard", type=folder, metavar="FOLDER", help="Also write a summary for TensorBoard."),
            click.option("--wandb", metavar="PROJECT", help="Also log a summary to Weights & Biases."),
        )
        for option in reversed(
            (
                click.option(
                    "--output-format",
                    "--format",
                    "form",
                    type=click.Choice([first, *others]),
                    default=first,
                    show_default=True,
                    help="What goes to stdout.",
                ),
                click.option("-o", "--output-file", type=file, help="Write that into a file instead."),
                click.option(
                    "--sarif", type=file, metavar="FILE", help="Also write SARIF 2.1.0 (GitHub code scanning)."
                ),
                click.option("--junit", type=file, metavar="FILE", help="Also write JUnit XML (Jenkins, GitLab)."),
                *(trackings if trackers else ()),
            )
        ):
            call = option(call)
        return cast("F", call)

    return decorate
