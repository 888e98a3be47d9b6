"""The command line. Importing this module costs click and nothing else: each command imports what it needs, late.

stdout carries results only (the summary, or what `--output-format` asks for); progress, notes, errors and whatever
libraries print go to stderr.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import vladoctor
from vladoctor.cli.lint import lint_command
from vladoctor.cli.options import DEBUG, FAILED, FORMATS, Outputs, baseline_options, output_options
from vladoctor.cli.options import debug as _debug
from vladoctor.cli.options import format_option as _format_option
from vladoctor.cli.options import require_writable as _require_writable
from vladoctor.cli.options import split as _split
from vladoctor.cli.options import traceback_option as _traceback_option
from vladoctor.errors import UserError, refused

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from vladoctor.result import RunResult
    from vladoctor.runspec import RunSpec

INTERRUPTED, PIPE_CLOSED = 130, 141
"""Exit statuses as a shell counts SIGINT and SIGPIPE, beside those of `RunResult.exit_status`."""

_THREADS = "OPENBLAS_NUM_THREADS"
_SET_HERE: list[str] = []
"""Variables of the environment that are for this process, not for the programs that it runs."""


class _Commands(click.Group):
    """Commands in the order in which they are written; a wrong one is answered with the right one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            if name.endswith((".yaml", ".yml")):
                hint = f"did you mean: vladoctor diagnose {name}"
            elif name.endswith(".mcap"):
                hint = f"did you mean: vladoctor replay {name}"
            else:
                near = get_close_matches(name, [*self.commands, "demo"], n=1)
                meant = "diagnose demo" if near == ["demo"] else near[0] if near else ""
                hint = f"did you mean: vladoctor {meant}" if meant else f"there are {', '.join(self.commands)}"
            raise click.UsageError(f"there is no command {name!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    # Not the docstring: a raw one keeps the mark that tells click to leave lines as they are.
    help="Find what quietly breaks the closed loop of a vision-language-action model.\n\n\b\n"
    "Try it:  vladoctor diagnose demo\n"
    "Break it on purpose:  vladoctor diagnose demo --fault flip-vertical\n"
    "Watch a loop of your own:  vladoctor diagnose -- python eval.py --its options",
    epilog="Exit status of diagnose and replay: 0 nothing to report, 1 findings, 2 the loop or the tool failed, "
    "3 evidence incomplete. Of `diagnose -- COMMAND` the command's own, if it is not 0.",
)
@click.version_option(vladoctor.__version__, prog_name="vladoctor", message="%(prog)s %(version)s")
@click.option("--traceback", "show_traceback", is_flag=True, help=f"Show where an error comes from (or {DEBUG}=1).")
def cli(show_traceback: bool) -> None:
    """The program's own options."""
    _debug(show_traceback)


def main() -> None:
    """The program: runs the command line and exits."""
    sys.exit(run())


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; no exception leaves it."""
    # Judging multiplies many small matrices; OpenBLAS with a thread for each core takes up to ten times as long for
    # them. It reads this once, when numpy is imported.
    if _THREADS not in os.environ:
        os.environ[_THREADS] = "1"
        _SET_HERE.append(_THREADS)
    if sys.stdin is None:
        # Closed by the caller, as in `<&-`. The next file would get its number, and a pipe to a child process lose it.
        sys.stdin = Path(os.devnull).open(encoding="utf-8")  # noqa: SIM115 - open until the end
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the caller, as in `>&-`
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - open until the end
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        status = _run(argv)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output has seen enough (`| head`). Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return PIPE_CLOSED
    return status


def _run(argv: Sequence[str] | None) -> int:
    try:
        status = cli.main(args=None if argv is None else list(argv), prog_name="vladoctor", standalone_mode=False)
    except UserError as error:
        if os.environ.get(DEBUG, "0") not in ("", "0"):
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except click.UsageError as error:
        if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
            error.show()
            return FAILED
        command = error.ctx.command_path if error.ctx else "vladoctor"
        print(f"error: {error.format_message()}\n  see: {command} --help", file=sys.stderr)
        return FAILED
    except (KeyboardInterrupt, click.Abort):
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except SystemExit as error:
        # In this mode click exits by itself only for a closed pipe, and with 1, which here means findings; and for
        # shell completion.
        if error.code == 1 and "_VLADOCTOR_COMPLETE" not in os.environ:
            raise BrokenPipeError from None
        raise
    except OSError as error:
        told = refused(error)
        if told is None:
            return _defect(error)
        if os.environ.get(DEBUG, "0") not in ("", "0"):
            traceback.print_exc()
        print(f"error: {told}", file=sys.stderr)
        return FAILED
    except Exception as error:  # noqa: BLE001 - the last place that can turn it into a message and a status
        return _defect(error)
    return status if isinstance(status, int) else 0


def _defect(error: Exception) -> int:
    traceback.print_exc()
    print(f"error: this is a defect of vladoctor, not of your loop: {type(error).__name__}", file=sys.stderr)
    return FAILED


class _Diagnose(click.Command):
    """What stands behind `--` is a command, with options of its own."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            cut = args.index("--")
            ctx.meta[_COMMAND] = args[cut + 1 :]
            args = args[:cut]
        rest = super().parse_args(ctx, args)
        named, command = ctx.params.get("run_file"), ctx.meta.get(_COMMAND)
        if not ctx.resilient_parsing and (command == [] or (command is None and named is None)):
            raise click.UsageError("name a run file, or a command: vladoctor diagnose -- python eval.py", ctx)
        if command is not None and named is not None:
            raise click.UsageError(f"a run file and a command: leave out {named}, or the command", ctx)
        return rest


_COMMAND = "vladoctor.command"


@cli.command(
    cls=_Diagnose,
    short_help="Run a loop, watch it, judge it.",
    options_metavar="[OPTIONS]",
    epilog="With a command, the exit status is the program's own unless that is 0, 128 + n if signal n ended it; then "
    "0, 1 or 3 as for a run file.",
)
@click.argument("run_file", metavar="RUN | -- COMMAND...", required=False)
@click.option("--out", type=click.Path(path_type=Path), help="Folder of report and traces, instead of the run file's.")
@click.option("--profile", metavar="NAME", help="What the checkpoint expects: a profile, or a YAML file of your own.")
@click.option("--fault", "fault", multiple=True, metavar="NAME", help="Disturb the loop on purpose; may be repeated.")
@click.option("--task", "tasks", multiple=True, metavar="TASK", help="Only this task of the run; may be repeated.")
@click.option("--episodes", type=click.IntRange(min=1), help="Episodes of each task.")
@click.option("--select", multiple=True, metavar="CODES", help="Run only these checks: VD201,VD301 or VD2.")
@click.option("--ignore", multiple=True, metavar="CODES", help="Leave these checks out.")
@click.option("--device", help="cpu, cuda, cuda:N or auto.")
@click.option(
    "--exit-status",
    "status_of",
    type=click.Choice(["verdict", "program"]),
    default="verdict",
    help="Of a command that ends well: the verdict's status, or its own, always.",
)
@output_options("text", "json", *FORMATS, trackers=True)
@baseline_options
@_traceback_option
@click.pass_context
def diagnose(
    ctx: click.Context,
    run_file: str | None,
    out: Path | None,
    profile: str | None,
    fault: tuple[str, ...],
    tasks: tuple[str, ...],
    episodes: int | None,
    select: tuple[str, ...],
    ignore: tuple[str, ...],
    device: str | None,
    status_of: str,
    outputs: Outputs,
    baseline: Path | None,
    write_baseline: bool,
) -> int:
    """Run a loop, watch it, and say what is wrong with it.

    RUN is a YAML file (its keys: vladoctor schema), or the name of a run that comes with vladoctor, such as demo.

    COMMAND is a program of your own, as you run it: python eval.py --its options. It is watched from outside, in all
    its processes, and its stdout stays its own: the summary goes to stderr, other formats into the folder.
    A COMMAND that begins with a script (eval.py) or an option (-m package) is run by the Python that runs vladoctor.
    """
    from vladoctor.runspec import command_run, load_run

    command = ctx.meta.get(_COMMAND)
    if command is None and run_file is not None and run_file.endswith(".py"):
        raise click.UsageError(f"{run_file} is a program; to watch it: vladoctor diagnose -- {run_file}", ctx)
    spec = load_run(str(run_file)) if command is None else command_run(command)
    spec = spec.with_options(
        fault=fault,
        device=device,
        episodes=episodes,
        tasks=tasks,
        profile=profile,
        select=_split(select),
        ignore=_split(ignore),
        folder=out,
    )
    spec.require_files()
    folder = spec.report.folder if out is not None else _unused(spec.report.folder)
    _require_writable(folder)
    accepted = _baseline(baseline, write_baseline)
    outputs = replace(
        outputs,
        tensorboard=outputs.tensorboard or spec.report.tensorboard,
        wandb=outputs.wandb or spec.report.wandb,
    )
    _require_trackers(outputs)
    if spec.loop is not None:
        return _diagnose_program(spec, folder, outputs, status_of, accepted)

    from vladoctor.report.terminal import make_progress

    progress = make_progress()
    with _stdout_to_stderr():
        try:
            from vladoctor.session import run_session

            result = run_session(spec, fault=spec.fault, out=folder, progress=progress)
        except UserError as error:
            asked = {"model.device": device, "fault": fault, "env.tasks": tasks}
            _locate(error, spec, {key: f"--{key.rpartition('.')[2].rstrip('s')}" for key in asked if asked[key]})
            raise
        except KeyboardInterrupt:
            progress.finish()
            _say_kept(folder)
            return INTERRUPTED
        except Exception:
            progress.finish()
            _say_kept(folder)
            raise
    return _deliver(accepted(result), folder, outputs, html=spec.report.html)


def _diagnose_program(
    spec: RunSpec, folder: Path, outputs: Outputs, status_of: str, accepted: Callable[[RunResult], RunResult]
) -> int:
    """Run somebody's program under the taps and judge what it did. stdout is the program's."""
    from vladoctor.launch.command import refuse_recordings, watch_command

    assert spec.loop is not None
    refuse_recordings(folder)
    folder.mkdir(parents=True, exist_ok=True)
    watched = watch_command(spec.loop.words, folder, spec, drop=_SET_HERE)
    with _stdout_to_stderr():
        try:
            from vladoctor.launch.judge import judge_watched

            result = accepted(judge_watched(watched, folder, spec))
            written, status = _write_reports(result, folder, outputs, html=spec.report.html)
        except KeyboardInterrupt:
            _say_kept(folder)
            return INTERRUPTED
        except Exception:
            _say_kept(folder)
            raise
        reason = ""
        if watched.status or (status_of == "program" and status != FAILED):
            status, reason = watched.status, watched.ended
        told = (status, reason) if reason else _not_told(result, status)
        if outputs.form in ("sarif", "junit") or outputs.file is not None:
            # Its stdout is not ours.
            target = outputs.file or folder / _IN_FOLDER[outputs.form]
            _put(result, replace(outputs, file=target), written, told)
            written.append(target)
        if outputs.form in ("concise", "github"):
            sys.stderr.write(_rendered(result, outputs.form))
        if outputs.form == "json":
            print(*(f"Report: {path}" for path in written), sep="\n", file=sys.stderr)
        elif outputs.form != "concise":
            from vladoctor.report.terminal import print_summary

            print_summary(result, reports=written, stream=sys.stderr, status=told)
    return status


_IN_FOLDER = {"sarif": "report.sarif", "junit": "junit.xml"}


cli.add_command(lint_command)


@cli.command(short_help="Judge recorded episodes again.")
@click.argument("traces", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="TRACE...")
@click.option("--run", "run_file", metavar="RUN", help="Run file to take checks, thresholds and profile from.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write the report into; none by default.")
@click.option("--workers", type=click.IntRange(min=1), default=1, help="Processes that judge; one by default.")
@click.option("--select", multiple=True, metavar="CODES", help="Run only these checks: VD201,VD301 or VD2.")
@click.option("--ignore", multiple=True, metavar="CODES", help="Leave these checks out.")
@output_options("text", "json", *FORMATS, trackers=True)
@baseline_options
@_traceback_option
def replay(
    traces: tuple[Path, ...],
    run_file: str | None,
    out: Path | None,
    workers: int,
    select: tuple[str, ...],
    ignore: tuple[str, ...],
    outputs: Outputs,
    baseline: Path | None,
    write_baseline: bool,
) -> int:
    """Judge recorded episodes again: trace files, or folders of them. Needs neither simulator nor GPU.

    By the checks, thresholds and profile of each episode's own run, unless --run names another. --select and --ignore
    go before what stands in either.
    """
    spec = None
    if run_file is not None:
        from vladoctor.runspec import load_run

        spec = load_run(run_file)
    if out is not None:
        _require_writable(out)
    accepted = _baseline(baseline, write_baseline)
    _require_trackers(outputs)
    with _stdout_to_stderr():
        from vladoctor.session import replay_session

        try:
            result = replay_session(
                traces, spec=spec, out=out, workers=workers, select=_split(select), ignore=_split(ignore)
            )
        except UserError as error:
            if spec is not None:
                _locate(error, spec, {})
            raise
    return _deliver(accepted(result), out, outputs, html=spec.report.html if spec else True)


@cli.command(short_help="Keep what a scene looks like, for VD104.")
@click.argument("sources", nargs=-1, required=True, metavar="RUN | TRACE...")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=Path("scenes.json"), help="File to write.")
@_traceback_option
def fingerprint(sources: tuple[str, ...], out: Path) -> None:
    """Keep what scenes look like in a run that you trust, as the reference of VD104 (scene-mismatch).

    Of trace files, or folders of them, the first frames are taken; of a RUN one step of every episode is run first. Use
    it with `profile: {overrides: {environment.scenes: FILE}}` in a run file.
    """
    from vladoctor.fingerprints import write_fingerprints

    with _stdout_to_stderr():
        written = write_fingerprints(sources, out)
    for warning in written.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    _print_columns(written.rows)
    print(f"Fingerprints: {written.file}")


@cli.command(short_help="List what --fault can apply, or try all of it.", options_metavar="[OPTIONS]")
@click.argument("run_file", metavar="[RUN]", required=False)
@click.option("--list", "bare", is_flag=True, help="Only `name code stage`, one a line, for scripts.")
@click.option("--fault", "names", multiple=True, help="Only this one, `healthy`, or two as A+B; may be repeated.")
@click.option("--pairs", is_flag=True, help="Faults that have nothing to do with each other, two at a time.")
@click.option("--task", "tasks", multiple=True, metavar="TASK", help="Only this task of the run; may be repeated.")
@click.option("--episodes", type=click.IntRange(min=1), help="Episodes of each task; more where a fault needs more.")
@click.option("--healthy", type=click.IntRange(min=0), help="Episodes of each task without a fault; 0 for none.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes at a time; by default one for each core.")
@click.option("--rejudge", is_flag=True, help="Run nothing: judge the rows that are there again, from their traces.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder of the matrix; by default the run file's, with -faults."
)
@_format_option
@_traceback_option
def faults(
    run_file: str | None,
    bare: bool,
    names: tuple[str, ...],
    pairs: bool,
    tasks: tuple[str, ...],
    episodes: int | None,
    healthy: int | None,
    workers: int | None,
    rejudge: bool,
    out: Path | None,
    form: str,
) -> int:
    """List the faults that `diagnose --fault` can apply, and the check that each proves.

    With RUN, a run file, apply every fault to it in turn, each on every task and init state of the run, and count what
    is said: FOLDER/matrix.json, FOLDER/matrix.md, and each run's own report below FOLDER. What is there already is not
    run again; with --rejudge it is judged again, by the checks as they are now and the limits and profile of RUN.

    Exit status with RUN: 0 every fault was named first and the healthy loop left in peace, 1 not so, 2 a run or a check
    crashed.
    """
    if run_file is None:
        given = names or pairs or tasks or episodes or healthy is not None or workers or rejudge or out
        if given or form != "text":
            raise click.UsageError(
                "name a run file to try faults on: vladoctor faults RUN", click.get_current_context()
            )
        _list_faults(bare)
        return 0
    from vladoctor.matrix import PAIRS, exit_status, plan, run_matrix
    from vladoctor.report.matrix import make_display, print_matrix, write_matrix
    from vladoctor.runspec import load_run

    spec = load_run(run_file)
    folder = out or spec.report.folder.with_name(f"{spec.report.folder.name}-faults")
    _require_writable(folder)
    with _stdout_to_stderr():
        what = plan(
            run_file,
            spec,
            faults=(*names, *(PAIRS if pairs else ())),
            tasks=tasks,
            episodes=episodes,
            healthy=healthy,
            again=rejudge,
        )
        found = run_matrix(what, folder, workers=workers or _cores(), display=make_display(), again=rejudge)
        written = write_matrix(found, folder)
    if form == "json":
        _print_json(found)
    else:
        print_matrix(found, reports=written)
    sys.stdout.flush()
    if not found["complete"]:
        print("interrupted; what is complete is kept, the same command goes on with the rest", file=sys.stderr)
        return INTERRUPTED
    return exit_status(found)


def _list_faults(bare: bool) -> None:
    from vladoctor.check import all_faults

    known = all_faults()
    if bare:
        for name, (_, check) in known.items():
            print(name, check.code, check.stage.value)
    else:
        _print_columns([(name, f"{check.code} {check.name}", fault.text) for name, (fault, check) in known.items()])


def _cores() -> int:
    """Cores that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1


@cli.command(short_help="List the checks.")
@click.option("--stage", "stages", multiple=True, metavar="STAGE", help="Only those of this stage; may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, for scripts.")
@_traceback_option
def checks(stages: tuple[str, ...], as_json: bool) -> None:
    """List the checks, in the order of the loop's stages: code, name, stage, what they say."""
    from vladoctor.check import Stage, all_checks

    known = [stage.value for stage in Stage]
    unknown = next((stage for stage in stages if stage not in known), None)
    if unknown is not None:
        raise UserError(f"there is no stage {unknown!r}", where="--stage", remedy=f"the stages are {', '.join(known)}")
    found = [check for check in all_checks() if not stages or check.stage.value in stages]
    if not as_json:
        _print_columns([(check.code, check.name, check.stage.value, check.summary) for check in found])
        return
    from vladoctor.preflight.pages import before

    _print_json(
        [
            {
                "code": check.code,
                "name": check.name,
                "stage": check.stage.value,
                "summary": check.summary,
                "symptom": check.symptom,
                "thresholds": dict(check.thresholds),
                "faults": [fault.name for fault in check.faults],
                "explained_by": list(check.explained_by),
                "before_a_run": before(check.code) or None,
            }
            for check in found
        ]
    )


@cli.command(short_help="Print a check's page.")
@click.argument("code")
@_traceback_option
def explain(code: str) -> None:
    """Print a check's page: what it looks at, why that matters, what to do. CODE is a code or a name."""
    from vladoctor.check import all_faults
    from vladoctor.runspec import find_check

    known = all_faults()
    check = known[code][1] if code in known else find_check(code)
    page = f"# {check.code} {check.name}\n\n{check.page.strip()}\n"
    if check.thresholds:
        limits = "\n".join(f"- `{name}`: {value:g}" for name, value in check.thresholds.items())
        page += f"\n## Limits (`checks.thresholds.{check.code}` in run.yaml)\n\n{limits}\n"
    from vladoctor.preflight.pages import before

    if before(check.code):
        page += f"\n## Before a run\n\n{before(check.code)}\n"
    if check.judge_source is not None:
        seen = "Also seen" if check.judge or check.judge_run or check.judge_checks else "Seen"
        page += f"\n## In the source\n\n{seen} by `vladoctor lint`, before anything is run.\n"
    if check.faults:
        proofs = "\n".join(f"- `{fault.name}`: {fault.text}" for fault in check.faults)
        page += f"\n## Faults that prove it\n\n{proofs}\n"
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.markdown import Markdown

        Console(width=None).print(Markdown(page))
    else:
        print(page, end="")


class _Profiles(click.Group):
    """A word that is no command of its own is the name of a profile to show."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        return super().resolve_command(ctx, args if args[0] in self.commands else ["show", *args])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from vladoctor.cli.completing import profiles as names

        return [*super().shell_complete(ctx, incomplete), *(names(incomplete) if incomplete[:1] != "-" else ())]


_json_option = click.option("--json", "as_json", is_flag=True, help="As JSON, for scripts.")


@cli.group(
    cls=_Profiles,
    invoke_without_command=True,
    short_help="List, print or write what checkpoints expect.",
    subcommand_metavar="[NAME | new TRACE...]",
)
@_json_option
@_traceback_option
@click.pass_context
def profiles(ctx: click.Context, as_json: bool) -> None:
    """List the profiles of what checkpoints expect; print one (NAME, or a file of your own); or write one (new)."""
    ctx.obj = as_json
    if ctx.invoked_subcommand is not None:
        return
    from vladoctor.profiles import load_profile, profile_names

    rows = [(known, load_profile(known).summary) for known in profile_names()]
    if as_json:
        _print_json([{"name": known, "summary": summary} for known, summary in rows])
    else:
        _print_columns(rows)


@profiles.command("show", short_help="Print a profile (also without this word).")
@click.argument("name")
@_json_option
@_traceback_option
@click.pass_context
def show_profile(ctx: click.Context, name: str, as_json: bool) -> None:
    """Print a profile: each value with its source. NAME is one of `vladoctor profiles`, or a file of your own."""
    from vladoctor.profiles import load_profile

    profile = load_profile(name)
    if as_json or ctx.obj:
        entries = {key: {"value": profile.get(key), "source": profile.source(key)} for key in profile.values}
        about = {"name": profile.name, "summary": profile.summary, "inherits": list(profile.inherits)}
        _print_json({**about, "values": entries})
        return
    print(f"{profile.name}: {profile.summary}")
    if profile.inherits:
        print(f"inherits {', '.join(profile.inherits)}")
    for key in profile.values:
        value = profile.get(key)
        print(f"\n{key}: {'null (nothing is expected)' if value is None else _compact(value)}")
        print(f"  {profile.source(key)}")


@profiles.command("new", short_help="Write a profile of your own from healthy traces.")
@click.argument("traces", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="TRACE...")
@click.option("--name", required=True, help="Name of the profile, such as my-robot.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="File to write; NAME.yaml by default.")
@_traceback_option
def new_profile(traces: tuple[Path, ...], name: str, out: Path | None) -> None:
    """Write a profile of your own, measured from traces of a loop that works: trace files, or folders of them.

    It inherits the profile that fits the checkpoint, and holds what the traces show. Use it with
    `profile: {name: FILE}` in a run file.
    """
    from vladoctor.profiles.new import write_profile

    written = write_profile(traces, name, out)
    for warning in written.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    _print_columns([(key, _compact(value)) for key, value in written.measured.items()])
    print(f"Profile: {written.file}")


@cli.command(short_help="Print a JSON Schema.")
@click.argument(
    "name", type=click.Choice(["run", "report", "finding", "matrix", "config", "lint", "preflight"]), default="run"
)
@_traceback_option
def schema(name: str) -> None:
    """Print the JSON Schema of run files (the default), of the run report, of a finding, of a fault matrix,
    of the settings in pyproject.toml (config), or of what `lint` or `preflight` writes.
    """
    import json

    from vladoctor.schemas import load_schema

    print(json.dumps(load_schema(name), indent=2))


def _deliver(result: RunResult, folder: Path | None, outputs: Outputs, *, html: bool) -> int:
    """Write the reports, print what was asked for, return the exit status."""
    written, status = _write_reports(result, folder, outputs, html=html)
    if outputs.form == "github":
        # The annotations are for GitHub, the summary for who reads the log.
        from vladoctor.report.terminal import print_summary

        print_summary(result, reports=written, stream=sys.stderr, status=_not_told(result, status))
    _put(result, outputs, written, _not_told(result, status))
    return status


def _not_told(result: RunResult, status: int) -> tuple[int, str] | None:
    """An exit status that is not the verdict's, and why."""
    return None if status == result.exit_status else (status, "not all that was asked for was written, see above")


def _put(result: RunResult, outputs: Outputs, written: Sequence[Path], told: tuple[int, str] | None) -> None:
    """Print what was asked for, or write it into its file.

    Args:
        told: the exit status and why, where it is not the verdict's.
    """
    if outputs.form == "text":
        from vladoctor.report.terminal import print_summary

        if outputs.file is None:
            print_summary(result, reports=written, status=told)
        else:
            stream = io.StringIO()
            print_summary(result, reports=written, stream=stream, status=told)
            outputs.put(stream.getvalue())
        sys.stdout.flush()
    else:
        outputs.put(_rendered(result, outputs.form))


def _rendered(result: RunResult, form: str) -> str:
    if form == "json":
        from vladoctor.report.json import run_report, to_text

        return to_text(run_report(result))
    from vladoctor.report.formats import render
    from vladoctor.report.reported import of_run

    return render(of_run(result), form)


def _baseline(file: Path | None, write: bool) -> Callable[[RunResult], RunResult]:
    """What takes out of a result what the baseline accepts; read before the run, which may take hours."""
    if write:
        if file is None:
            raise UserError("there is no file to write", where="--write-baseline", remedy="name it: --baseline FILE")
        _require_writable(file.absolute().parent, "name another file with --baseline")
        known = file

        def accept_all(result: RunResult) -> RunResult:
            from vladoctor.baseline import accept_known, known_in_run, read_baseline, write_baseline

            count = write_baseline(known, known_in_run(result))
            print(f"{known}: {count} finding{'' if count == 1 else 's'} accepted from now on", file=sys.stderr)
            return accept_known(result, read_baseline(known))

        return accept_all
    if file is None:
        return lambda result: result
    from vladoctor.baseline import accept_known, read_baseline

    fingerprints = read_baseline(file)
    return lambda result: accept_known(result, fingerprints)


def _write_reports(result: RunResult, folder: Path | None, outputs: Outputs, *, html: bool) -> tuple[list[Path], int]:
    """Write the reports; returns those that were written, and the exit status."""
    from vladoctor.report.json import write_json

    status = result.exit_status
    written: list[Path] = []
    if folder is not None:
        try:
            write_json(result, folder / "report.json")
            written.append(folder / "report.json")
        except OSError as error:
            print(f"error: report.json could not be written to {folder}: {error.strerror}", file=sys.stderr)
            print("  judge again with: vladoctor replay TRACES --out FOLDER", file=sys.stderr)
            status, html = FAILED, False
        if html:
            try:
                from vladoctor.report.html import write_html

                write_html(result, folder / "report.html")
                written.insert(0, folder / "report.html")
            except Exception:  # noqa: BLE001 - it must not cost the verdict of a run that may have taken hours
                traceback.print_exc()
                print("error: the HTML report could not be written; report.json was", file=sys.stderr)
                status = FAILED
    if any(outputs.files.values()):
        from vladoctor.report.formats import write_files
        from vladoctor.report.reported import of_run

        try:
            written += write_files(of_run(result), outputs.files)
        except OSError as error:
            print(f"error: {error.filename or 'a report'}: {error.strerror}", file=sys.stderr)
            status = FAILED
    return written, status if _track(result, outputs) else FAILED


def _require_trackers(outputs: Outputs) -> None:
    if outputs.tensorboard is not None:
        from vladoctor.report.tensorboard import require_tensorboard

        require_tensorboard()
    if outputs.wandb is not None:
        from vladoctor.report.wandb import require_wandb

        require_wandb()


def _track(result: RunResult, outputs: Outputs) -> bool:
    """Give experiment trackers their summary; False where one did not take it."""
    try:
        if outputs.tensorboard is not None:
            from vladoctor.report.tensorboard import write_tensorboard

            write_tensorboard(result, outputs.tensorboard)
        if outputs.wandb is not None:
            from vladoctor.report.wandb import log_wandb

            with _stdout_to_stderr():
                log_wandb(result, outputs.wandb)
    except Exception:  # noqa: BLE001 - somebody else's program, which must not cost the verdict
        traceback.print_exc()
        print("error: an experiment tracker did not take the summary", file=sys.stderr)
        return False
    return True


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Send whatever is printed to stdout meanwhile to stderr, below Python too: robosuite and C libraries print.

    Afterwards, what is printed while the interpreter shuts down (robosuite again) also goes to stderr.
    """
    try:
        ours = sys.stdout.fileno() == 1 and sys.stderr.fileno() == 2
    except (OSError, ValueError):
        ours = False  # stdout has been replaced, by a test's capture for one
    with contextlib.ExitStack() as undo:
        if ours:
            sys.stdout.flush()
            saved = os.dup(1)
            undo.callback(os.close, saved)
            undo.callback(os.dup2, saved, 1)
            os.dup2(2, 1)
            # Handlers run in reverse order: registered last, this one runs first.
            undo.callback(atexit.register, os.dup2, 2, 1)
        undo.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield


def _locate(error: UserError, spec: RunSpec, options: dict[str, str]) -> None:
    """Turn a key that an error names into its place in the run file, or into the option that set it."""
    key, colon, rest = error.where.partition(":")
    key = {"suite": "env.suite", "task": "env.tasks", "model": "model"}.get(key, key)
    if options.get(key):
        error.where = f"{options[key]}{colon}{rest}"
    elif key.partition(".")[0] in ("model", "env", "profile", "checks", "fault", "trace", "report"):
        error.where = f"{spec.where(key)}{colon}{rest}"


def _unused(folder: Path) -> Path:
    """The folder, or where it holds traces of an earlier run the first of folder-2, folder-3 ... that does not."""
    candidate, number = folder, 1
    while any(candidate.glob("*.mcap")) or any(candidate.glob("traces/*.mcap")):
        number += 1
        candidate = folder.with_name(f"{folder.name}-{number}")
    if candidate != folder:
        print(f"{folder} holds an earlier run; this one goes to {candidate}", file=sys.stderr)
    return candidate


def _say_kept(folder: Path) -> None:
    kept = sorted(folder.glob("**/*.mcap"))
    if kept:
        number = "1 recording is" if len(kept) == 1 else f"{len(kept)} recordings are"
        print(f"stopped; {number} kept, judge with: vladoctor replay {kept[0].parent}", file=sys.stderr)
    else:
        print("stopped; nothing had been recorded", file=sys.stderr)


def _compact(value: Any) -> str:
    return repr(value) if isinstance(value, str) else str(value)


def _print_json(document: Any) -> None:
    import json

    print(json.dumps(document, indent=2, ensure_ascii=False))


def _print_columns(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)] if rows else []
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


# Behind the rest: each of these modules needs what stands here.
from vladoctor.cli import completing, preflight  # noqa: E402

for _command in preflight.COMMANDS:
    cli.add_command(_command)
completing.attach(cli)

if __name__ == "__main__":
    main()
