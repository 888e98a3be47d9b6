"""What several commands share: options, and how their values are read. Importing it costs click and nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

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
