"""`vladoctor preflight`, `report-machine`, `init` and `completion`: arguments in, exit status out."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vladoctor.cli.options import (
    FORMATS,
    Outputs,
    baseline_options,
    output_options,
    require_writable,
    traceback_option,
)
from vladoctor.errors import UserError

if TYPE_CHECKING:
    from vladoctor.preflight.result import Preflight


@click.command(
    short_help="Look at a run before it starts.",
    epilog="In a job script:  vladoctor preflight run.yaml --level 1 || exit 1. Exit status as of diagnose: 0 nothing "
    "to report, 1 findings, 2 the run file is wrong or a look crashed, 3 not everything could be looked at.",
)
@click.argument("run_file", metavar="RUN")
@click.option(
    "--level",
    type=click.IntRange(0, 3),
    default=1,
    show_default=True,
    help="0: files and versions (1 s). 1: GPU, drawing, environment, checkpoint (10 s). 2: weights, a query, a short "
    "episode (2 min). 3: whole episodes.",
)
@click.option("--device", help="cpu, cuda, cuda:N or auto.")
@click.option("--task", "tasks", multiple=True, metavar="TASK", help="Only this task of the run; may be repeated.")
@click.option("--profile", metavar="NAME", help="What the checkpoint expects: a profile, or a YAML file of your own.")
@click.option("--json", "as_json", is_flag=True, help="As JSON (its schema: vladoctor schema preflight).")
@click.option("--report", is_flag=True, help="As Markdown to paste into an issue, with the machine.")
@output_options("text", "json", *FORMATS)
@baseline_options
@traceback_option
def preflight(
    run_file: str,
    level: int,
    device: str | None,
    tasks: tuple[str, ...],
    profile: str | None,
    as_json: bool,
    report: bool,
    outputs: Outputs,
    baseline: Path | None,
    write_baseline: bool,
) -> int:
    """Look at a run before it starts: what would break it, and what would make its numbers mean nothing.

    RUN is a run file as for `diagnose`. Each level comes after those below it and stops where they found what would
    stop the run. Nothing is downloaded and no question is asked. The environment of levels 1 to 3 is one of its own,
    and is driven about (probes).
    """
    from vladoctor.cli import _stdout_to_stderr
    from vladoctor.preflight.looks import end_children
    from vladoctor.preflight.plan import run_preflight
    from vladoctor.runspec import load_run

    accepted = _baseline(baseline, write=write_baseline)
    try:
        spec = load_run(run_file).with_options(device=device, tasks=tasks, profile=profile)
        with _stdout_to_stderr(), _progress() as note:
            try:
                done = run_preflight(spec, level, note)
            finally:
                end_children()
    except UserError as error:
        _deliver_refusal(error, run_file, outputs)
        raise
    done = accepted(done)
    _deliver(done, replace(outputs, form="json") if as_json else outputs, as_issue=report)
    return done.exit_status


def _baseline(file: Path | None, *, write: bool) -> Callable[[Preflight], Preflight]:
    """What takes out of a pre-flight what the baseline accepts; read before it."""
    if file is None:
        if write:
            raise UserError("there is no file to write", where="--write-baseline", remedy="name it: --baseline FILE")
        return lambda done: done
    from vladoctor.baseline import accept_known_items, known_in_preflight, read_baseline
    from vladoctor.baseline import write_baseline as write_to

    known = file
    if not write:
        fingerprints = read_baseline(known)
        return lambda done: accept_known_items(done, fingerprints)
    require_writable(known.absolute().parent, "name another file with --baseline")

    def accept_all(done: Preflight) -> Preflight:
        count = write_to(known, known_in_preflight(done))
        print(f"{known}: {count} finding{'' if count == 1 else 's'} accepted from now on", file=sys.stderr)
        return accept_known_items(done, read_baseline(known))

    return accept_all


def _deliver_refusal(error: UserError, run_file: str, outputs: Outputs) -> None:
    """Say what is wrong with a run file where machines look, too: a pull request shows nothing of stderr."""
    from vladoctor.report.formats import render, write_files
    from vladoctor.report.reported import of_refusal

    report = of_refusal("preflight", error, run_file)
    write_files(report, outputs.files)
    if outputs.form in FORMATS and outputs.form != "concise":  # people read both streams
        outputs.put(render(report, outputs.form))


def _deliver(done: Preflight, outputs: Outputs, *, as_issue: bool) -> None:
    from vladoctor.preflight.show import print_preflight
    from vladoctor.preflight.show import report as as_report
    from vladoctor.report.formats import render, write_files
    from vladoctor.report.reported import of_preflight

    write_files(of_preflight(done), outputs.files)
    if as_issue:
        outputs.put(f"{as_report(done)}\n")
    elif outputs.form == "json":
        outputs.put(json.dumps(done.to_json(), indent=2, ensure_ascii=False) + "\n")
    elif outputs.form == "text":
        stream = io.StringIO() if outputs.file else None
        print_preflight(done, stream=stream)
        if stream is not None:
            outputs.put(stream.getvalue())
    else:
        if outputs.form == "github":
            # The annotations are for GitHub, the lines for who reads the log.
            print_preflight(done, stream=sys.stderr)
        outputs.put(render(of_preflight(done), outputs.form))


class _progress:  # noqa: N801 - used as a function
    """One line on a terminal that says what is being looked at; nothing in a log."""

    def __enter__(self) -> _progress:
        self.tty = sys.stderr.isatty()
        return self

    def __call__(self, what: str) -> None:
        if self.tty:
            print(f"\r\x1b[2Klooking at {what} ...", end="", file=sys.stderr, flush=True)

    def __exit__(self, *_: object) -> None:
        if self.tty:
            print("\r\x1b[2K", end="", file=sys.stderr, flush=True)


@click.command("report-machine", short_help="Describe this machine, for an issue.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, for scripts.")
@traceback_option
def report_machine(as_json: bool) -> None:
    """Describe this machine for an issue: system, GPUs, versions, the variables that decide how a run draws.

    No names of people or hosts and no paths are in it.
    """
    from vladoctor.preflight.machine import machine, markdown

    facts = machine()
    print(json.dumps(facts, indent=2, ensure_ascii=False) if as_json else markdown(facts))


@click.command(short_help="Write a run file for a checkpoint.")
@click.option(
    "--checkpoint", type=click.Path(path_type=Path), help="The snapshot's folder; by default what is found in this one."
)
@click.option("--suite", help="LIBERO's suite; by default the one that the checkpoint has statistics of.")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=Path("run.yaml"), help="File to write.")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@traceback_option
def init(checkpoint: Path | None, suite: str | None, out: Path, force: bool) -> None:
    """Write a run file by asking the checkpoint's files, not you; comments say where each value comes from."""
    from vladoctor.init import write_run

    require_writable(out.resolve().parent, "name another file with -o")
    written = write_run(checkpoint, suite, out, force=force)
    for warning in written.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"Run file: {written.file}")
    print(f"next: vladoctor preflight {written.file}")


@click.command(
    short_help="Print shell completion.",
    # Not the docstring: a raw one keeps the mark that tells click to leave lines as they are.
    help="Print what makes SHELL complete commands, options, codes, faults, profiles and runs.\n\n\b\n"
    'bash:  eval "$(vladoctor completion bash)"      in ~/.bashrc\n'
    'zsh:   eval "$(vladoctor completion zsh)"       in ~/.zshrc, behind compinit\n'
    "fish:  vladoctor completion fish > ~/.config/fish/completions/vladoctor.fish",
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@traceback_option
def completion(shell: str) -> None:
    """Print a shell's completion script."""
    from vladoctor.cli import cli
    from vladoctor.cli.completing import script

    print(script(cli, shell))


COMMANDS = (preflight, report_machine, init, completion)
