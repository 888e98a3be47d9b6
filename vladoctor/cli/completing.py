"""Shell completion: what can stand where a command takes a code, a fault, a profile or a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import click
from click.shell_completion import CompletionItem

Source = Callable[[str], Iterator[CompletionItem]]


def codes(incomplete: str) -> Iterator[CompletionItem]:
    """Codes and names of checks, by the names of their files: importing them takes half a second. "VD2" is a family."""
    import importlib

    head, comma, last = incomplete.rpartition(",")
    for folder in importlib.import_module("vladoctor.checks").__path__:
        for file in sorted(Path(folder).glob("vd[0-9]*_*.py")):
            code, _, name = file.stem.partition("_")
            code, name = code.upper(), name.replace("_", "-")
            for word in (code, name):
                if word.casefold().startswith(last.casefold()) and (word == code or last):
                    yield CompletionItem(f"{head}{comma}{word}", help=name if word == code else code)


def faults(incomplete: str) -> Iterator[CompletionItem]:
    """Names of faults."""
    from vladoctor.check import all_faults

    for name, (fault, check) in all_faults().items():
        if name.startswith(incomplete):
            yield CompletionItem(name, help=f"{check.code} {fault.summary}")


def pages(incomplete: str) -> Iterator[CompletionItem]:
    """What `explain` takes."""
    yield from codes(incomplete)
    if incomplete and not incomplete.casefold().startswith("vd"):
        yield from faults(incomplete)


def profiles(incomplete: str) -> Iterator[CompletionItem]:
    """Names of profiles, and files."""
    from vladoctor.profiles import profile_names

    yield from (CompletionItem(name) for name in profile_names() if name.startswith(incomplete))
    yield CompletionItem(incomplete, type="file")


def runs(incomplete: str) -> Iterator[CompletionItem]:
    """Names of runs that come with vladoctor, and files."""
    from vladoctor.runspec import shipped_runs

    yield from (CompletionItem(name) for name in shipped_runs() if name.startswith(incomplete))
    yield CompletionItem(incomplete, type="file")


def stages(incomplete: str) -> Iterator[CompletionItem]:
    """The loop's stages."""
    from vladoctor.check import Stage

    yield from (CompletionItem(stage.value) for stage in Stage if stage.value.startswith(incomplete))


def suites(incomplete: str) -> Iterator[CompletionItem]:
    """LIBERO's suites."""
    from vladoctor.loop import HORIZONS

    yield from (CompletionItem(name) for name in HORIZONS if name.startswith(incomplete))


SOURCES: dict[str, Source] = {
    "run_file": runs, "fault": faults, "names": faults, "select": codes, "ignore": codes, "code": pages,
    "profile": profiles, "suite": suites, "stages": stages,
}  # fmt: skip
"""Name of a parameter -> what completes it."""


def attach(group: click.Group) -> None:
    """Give every parameter of these names its completion."""
    for command in _commands(group):
        for parameter in command.params:
            source = SOURCES.get(str(parameter.name))
            if command.name == "show":  # profiles show NAME
                source = profiles if parameter.name == "name" else source
            if source is not None:
                parameter._custom_shell_complete = _complete(source)


def _complete(source: Source) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    def complete(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return list(source(incomplete))

    return complete


def _commands(group: click.Group) -> Iterable[click.Command]:
    for command in group.commands.values():
        yield command
        if isinstance(command, click.Group):
            yield from _commands(command)


BASH = """\
%(complete_func)s() {
    local line at
    COMPREPLY=()
    while IFS= read -r line; do
        at=${#COMPREPLY[@]}
        case "$line" in
            plain,*) COMPREPLY+=("${line#plain,}") ;;
            dir,*) compopt -o filenames; mapfile -t -O $at COMPREPLY < <(compgen -d -- "${line#dir,}") ;;
            file,*) compopt -o filenames; mapfile -t -O $at COMPREPLY < <(compgen -f -- "${line#file,}") ;;
        esac
    done < <(COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD %(complete_var)s=bash_complete "$1")
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""
"""click's own drops all words where files can stand as well: the runs and profiles that come with vladoctor."""


def script(group: click.Group, shell: str) -> str:
    """What the shell is to read."""
    from click.shell_completion import BashComplete, get_completion_class

    class Bash(BashComplete):
        source_template = BASH

    kind = Bash if shell == "bash" else get_completion_class(shell)
    assert kind is not None
    return kind(group, {}, "vladoctor", "_VLADOCTOR_COMPLETE").source()
