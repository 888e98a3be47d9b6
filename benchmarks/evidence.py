"""Writes docs/evidence.md: runs the command of every section, or renders it again from what was kept.

    python benchmarks/evidence.py --list
    python benchmarks/evidence.py --all [--workers N] [--python lerobot=PYTHON]
    python benchmarks/evidence.py --only catalogue --matrix FOLDER
    python benchmarks/evidence.py --only overhead healthy --again

Results are kept below --keep-results. A command that keeps its own goes on where it stopped and renders the rest from
there; of the others the section's text is kept, and written again unless `--again` asks for a new run. What this
machine lacks is not run, and said so at the end; its section stays as it is. Only text between markers is replaced.

The other commands of this folder import what they share from here: intervals, and sections that are replaced in place.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scipy.stats import binomtest

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "evidence.md"
RUN = HERE.parent / "fixtures" / "runs" / "evidence.yaml"


@dataclass(frozen=True)
class Section:
    """A section of the page and how it is made.

    Attributes:
        command: script of this folder and its arguments; `{kept}` is a folder of the section's own, `{sources}` that of
            public evaluation scripts, `{here}` this one, `{workers}`, `{run}`; `{pythons}` and `{matrix}` stand for
            whole options.
        resumes: the command keeps results in `{kept}` and does not run again what is there.
        needs: "gpu", or a file or folder (as in `command`) that has to be there.
        minutes: about how long it takes on two cores; on one GPU, where that is needed.
    """

    name: str
    command: str
    resumes: bool = False
    needs: str = ""
    minutes: int = 1


SECTIONS = (
    Section("policy", "policy.py --workers {workers} --out {kept}", resumes=True, minutes=12),
    Section("catalogue", "faults.py {run} --workers {workers} --out {kept}", resumes=True, minutes=1500),
    Section("clients", "clients.py --out {kept} {pythons}", resumes=True, minutes=60),
    Section(
        "client-faults",
        "clients.py --faults --steps 64 --workers {workers} --out {kept} {pythons}",
        resumes=True,
        minutes=90,
    ),
    Section("healthy", "healthy.py --workers {workers} --out {kept} {pythons}", resumes=True, minutes=240),
    Section("peers", "peers.py --workers {workers} --out {kept} {matrix}", resumes=True, minutes=45),
    Section("overhead", "overhead.py --threads 1 --steps 20 --repeats 16", minutes=4),
    Section("startup", "startup.py", minutes=1),
    Section("plugin", "plugin.py", minutes=4),
    Section("judging", "judging.py", minutes=25),
    Section("full-size", "full_size.py", needs="gpu", minutes=5),
    Section("lint-corpus", "lint_corpus.py {sources}", needs="{sources}", minutes=1),
    Section(
        "lint-unlabelled", "lint_corpus.py {sources} --labels {here}/lint_unlabelled.json", needs="{sources}", minutes=2
    ),
    Section("lint-speed", "lint_speed.py", minutes=4),
    Section("lint-robustness", "lint_robustness.py", minutes=20),
    Section("preflight-levels", "preflight.py levels", minutes=10),
    Section("preflight-faults", "preflight.py faults", minutes=10),
    Section("preflight-full-size", "preflight.py full-size", needs="gpu", minutes=5),
    Section("preflight-probes", "preflight.py probes", minutes=10),
)
"""A line for each section of the page; `begin` and `end` markers of its name stand in the page."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--list", action="store_true", help="what there is")
    which.add_argument("--all", action="store_true")
    which.add_argument("--only", nargs="+", metavar="SECTION", choices=[section.name for section in SECTIONS])
    parser.add_argument("--keep-results", type=Path, default=Path("reports/evidence"), metavar="FOLDER")
    parser.add_argument("--matrix", type=Path, metavar="FOLDER", help="of a `vladoctor faults` run that is there")
    parser.add_argument("--again", action="store_true", help="run what has only its text kept")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--python", action="append", default=[], metavar="NAME=PYTHON", help="see clients.py")
    parser.add_argument(
        "--sources", type=Path, default=Path("sources"), help="fetched repositories; see lint_corpus.py"
    )
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args()
    if arguments.list:
        for section in SECTIONS:
            needs = f", needs {section.needs}" if section.needs else ""
            print(f"{section.name:14}{section.command.split()[0]:15}{section.minutes} minutes{needs}")
        return
    chosen = [section for section in SECTIONS if arguments.all or section.name in arguments.only]
    ended = {section.name: make(section, arguments) for section in chosen}
    print("\n".join(f"{name}: {what}" for name, what in ended.items()))
    sys.exit(any(what.startswith("failed") for what in ended.values()))


def make(section: Section, arguments: argparse.Namespace) -> str:
    """Write a section; what was done, in words."""
    kept = arguments.keep_results.resolve()
    text = kept / f"{section.name}.md"
    if section.name == "catalogue" and arguments.matrix:
        section = Section("catalogue", f"faults.py --matrix {arguments.matrix.resolve()}", resumes=True)
    if text.is_file() and not section.resumes and not arguments.again:
        write_section(arguments.page, section.name, text.read_text("utf-8"))
        return "written again from what was kept; --again runs it"
    words = [word for part in section.command.split() for word in filled(part, section, arguments)]
    (needed,) = filled(section.needs, section, arguments) or ("",)
    if needed == "gpu" and not Path("/dev/nvidia0").exists():
        return "not run on this machine: it has no GPU"
    if needed not in ("", "gpu") and not Path(needed).exists():
        return f"not run: {needed} is not there"
    kept.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(HERE / words[0]), *words[1:], "--write", str(arguments.page.resolve())]
    print(f"{section.name}: {' '.join(command)}", flush=True)
    status = subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode
    if status:
        return f"failed with status {status}; the section is as it was"
    text.write_text(read_section(arguments.page, section.name), "utf-8")
    return "written"


def filled(part: str, section: Section, arguments: argparse.Namespace) -> Sequence[str]:
    """A word of a command with its places filled; an option that was not given is no word."""
    kept = arguments.keep_results.resolve()
    if part == "{pythons}":
        return [word for pair in arguments.python for word in ("--python", pair)]
    if part == "{matrix}":
        folder = arguments.matrix or kept / "catalogue"
        return ["--matrix", str(folder.resolve())] if (folder / "matrix.json").is_file() else []
    places = {"kept": kept / section.name, "workers": arguments.workers, "run": RUN, "here": HERE}
    places["sources"] = arguments.sources.resolve()
    return [part.format(**places)] if part else []


# --- What the commands share ---


def interval(successes: int, trials: int) -> str:
    """ "18/20 = 90 % (70–97)": share with its Wilson 95 % interval."""
    if trials == 0:
        return "0/0"
    bounds = binomtest(successes, trials).proportion_ci(method="wilson")
    share = 100 * successes / trials
    return f"{successes}/{trials} = {share:.0f} % ({100 * bounds.low:.0f}–{100 * bounds.high:.0f})"


def write_section(path: Path, name: str, text: str) -> None:
    """Replace what stands between `<!-- begin: NAME -->` and `<!-- end: NAME -->`; the rest of the file is prose."""
    head, _, tail = _split(path, name)
    path.write_text(f"{head}\n{text.strip()}\n{tail}", "utf-8")


def read_section(path: Path, name: str) -> str:
    """What stands there."""
    return _split(path, name)[1].strip()


def _split(path: Path, name: str) -> tuple[str, str, str]:
    """The file up to the end of the first marker, what is between, and from the second marker on."""
    begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
    old = path.read_text("utf-8")
    if begin not in old or end not in old:
        raise SystemExit(f"{path} has no section {begin} ... {end}")
    head, rest = old.split(begin, 1)
    text, tail = rest.split(end, 1)
    return head + begin, text, end + tail


if __name__ == "__main__":
    main()
