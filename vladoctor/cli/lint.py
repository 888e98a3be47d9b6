"""`vladoctor lint`: arguments in, exit status out. Importing it costs click and nothing else."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vladoctor.cli.options import FORMATS, Outputs, baseline_options, output_options, split, traceback_option
from vladoctor.errors import UserError

if TYPE_CHECKING:
    from vladoctor.lint.command import Linted
    from vladoctor.lint.fixes import Mended

FINDINGS = 1


@click.command(
    "lint",
    short_help="Read a loop's source and find what will quietly fail.",
    epilog="Exit status: 0 nothing to report, 1 findings, 2 a file could not be read or a check crashed.",
)
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path), metavar="[PATH]...")
@click.option("--select", multiple=True, metavar="CODES", help="Only these checks: VD201,VD301 or VD2.")
@click.option("--ignore", multiple=True, metavar="CODES", help="Leave these checks out.")
@click.option("--fail-on", type=click.Choice(["stop", "fix", "look"]), help="Mildest severity of exit status 1.")
@click.option("--profile", metavar="NAME", help="What the checkpoint expects, instead of what the source suggests.")
@click.option("--fix", is_flag=True, help="Mend what can be mended without changing what the program means.")
@click.option("--unsafe-fixes", is_flag=True, help="With --fix or --diff: also what may change what it means.")
@click.option("--diff", is_flag=True, help="Show what --fix would do, and write nothing.")
@baseline_options
@click.option("--warn-unused-ignores", is_flag=True, help="Report comments that accept nothing.")
@click.option("--show-abstentions", is_flag=True, help="Say what the source does not show, and why.")
@click.option("--statistics", is_flag=True, help="Only count what was found, by check.")
@click.option(
    "--config", "config_file", type=click.Path(path_type=Path), help="A pyproject.toml to take settings from."
)
@click.option("--isolated", is_flag=True, help="Take settings from no file.")
@output_options("full", "json", *FORMATS)
@traceback_option
def lint_command(
    paths: tuple[Path, ...],
    select: tuple[str, ...],
    ignore: tuple[str, ...],
    fail_on: str | None,
    profile: str | None,
    fix: bool,
    unsafe_fixes: bool,
    diff: bool,
    baseline: Path | None,
    write_baseline: bool,
    warn_unused_ignores: bool,
    show_abstentions: bool,
    statistics: bool,
    config_file: Path | None,
    isolated: bool,
    outputs: Outputs,
) -> int:
    """Read the source of evaluation loops and find what will quietly fail, without importing or running it.

    PATHs are scripts, notebooks and folders; by default the current one. Settings stand in [tool.vladoctor] of the
    nearest pyproject.toml (vladoctor schema config); options come before them. To accept a finding, write
    `# vladoctor: ignore[VD201]` behind its line, or `# vladoctor: ignore-file[VD201]` anywhere in the file.
    """
    from vladoctor.lint import command
    from vladoctor.lint.config import find_config, load_config, with_options

    places = paths or (Path(),)
    if config_file is not None and not config_file.is_file():
        raise UserError("there is no such file", where=f"--config {config_file}", remedy="name a pyproject.toml")
    if config_file is None and not isolated:
        config_file = find_config(places)
    config = with_options(
        load_config(config_file),
        select=split(select),
        ignore=split(ignore),
        fail_on=fail_on,
        profile=profile,
        baseline=baseline,
        warn_unused_ignores=warn_unused_ignores,
    )
    if write_baseline:
        if config.baseline is None:
            raise UserError("there is no file to write", where="--write-baseline", remedy="name it: --baseline FILE")
        count = command.write_known(command.lint(places, config, baseline=False), config.baseline)
        print(f"{config.baseline}: {count} finding{'' if count == 1 else 's'} accepted from now on", file=sys.stderr)
        return 0
    linted = command.lint(places, config)
    if diff:
        planned = command.plan(linted, unsafe=unsafe_fixes)
        outputs.put(planned.diff())
        left = 0 if unsafe_fixes else len(command.plan(linted, unsafe=True).fixed) - len(planned.fixed)
        print("; ".join([_would(planned, left), *_without_fix(linted)]), file=sys.stderr)
        return FINDINGS if planned.files else 0
    from vladoctor.report.reported import shown

    notes: list[str] = []
    if fix:
        linted, mended = command.mend(places, config, linted, unsafe=unsafe_fixes)
        notes += [*_told(mended), *_without_fix(linted)]
    notes += [f"{shown(cell.place)}: left out, {cell.reason}" for cell in linted.result.left_out]
    _deliver(linted, outputs, notes, abstentions=show_abstentions, statistics=statistics)
    return linted.exit_status


def _deliver(linted: Linted, outputs: Outputs, notes: list[str], *, abstentions: bool, statistics: bool) -> None:
    from vladoctor.report.formats import render, write_files

    written = write_files(linted.report, outputs.files)
    if statistics:
        from vladoctor.report.lint import print_statistics

        print_statistics(linted.report)
    elif outputs.form in FORMATS:
        outputs.put(render(linted.report, outputs.form))
    elif outputs.form == "json":
        from vladoctor.report.json import lint_report, to_text

        outputs.put(to_text(lint_report(linted.report, linted.result)))
    else:
        from vladoctor.report.lint import print_lint

        stream = io.StringIO() if outputs.file else None
        notes = [*notes, *(f"Report: {path}" for path in written)]
        print_lint(linted.report, linted.result, abstentions=abstentions, notes=notes, stream=stream)
        if stream is not None:
            outputs.put(stream.getvalue())
        return
    for line in notes:
        print(line, file=sys.stderr)


def _told(mended: Mended) -> list[str]:
    from vladoctor.report.reported import relative, shown

    told = [f"mended {relative(file)}" for file in sorted(mended.files)]
    for finding, why in mended.refused:
        place = f"{shown(finding.place)}: " if finding.place else ""
        told.append(f"{place}{finding.code} is not mended: {why}")
    return told


def _without_fix(linted: Linted) -> list[str]:
    count = sum(one.finding.fix is None for one in linted.report.counted)
    return [f"{count} {'finding has' if count == 1 else 'findings have'} no fix, only advice"] if count else []


def _would(planned: Mended, unsafe: int) -> str:
    count, files = len(planned.fixed), len(planned.files)
    more = f"; {unsafe} more with --unsafe-fixes" if unsafe else ""
    if not count:
        return f"nothing that can be mended{more}"
    return f"would mend {count} finding{'' if count == 1 else 's'} in {files} file{'' if files == 1 else 's'}{more}"
