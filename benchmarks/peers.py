"""Other tools on the same faults, run, not read: the section `peers` of docs/evidence.md.

    python benchmarks/peers.py --peers-env .venv-peers --workers 2 --write docs/evidence.md [--matrix FOLDER]

The tools (requirements/peers.txt) are installed into a folder of their own, once, unless it is there already. Each
fault is shown to all of them in a process (peers_shown.py says how); what has its result below --out is not run again.
`--matrix` names the folder of a `vladoctor faults` run, of which the last two columns are made: what vladoctor says,
and what the success rate alone does.

What a tool says of a fault counts where it does not say the same, but for numbers, of the healthy loop. It *names* the
fault where it speaks of the thing that is wrong (`SPEAKS_OF`), and otherwise *warns*. All raw output is kept in
peers.json.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from evidence import write_section

from vladoctor.check import all_faults
from vladoctor.matrix import HEALTHY
from vladoctor.report.json import write_atomically
from vladoctor.report.matrix import make_display, rate

HERE = Path(__file__).resolve().parent
PINS = HERE.parent / "requirements" / "peers.txt"

FAULTS = (
    "black-image", "darker-floor", "frozen-render", "camera-swapped", "camera-frontview", "observation-stale",
    "no-settle", "init-state-skipped", "flip-vertical", "no-rotation", "no-crop", "bgr", "squash", "low-resolution",
    "prompt-no-newline", "prompt-v01", "instruction-empty", "instruction-other-task", "pixels-not-normalised",
    "bos-missing", "vision-dropped", "missing-tensors", "half-weights", "zeros-on-exception", "untied-head", "sampled",
    "decode-256-centres", "unnorm-bridge", "unnorm-doubled", "gripper-not-inverted", "gripper-raw",
    "action-dims-swapped", "action-rotation-dropped", "action-absolute-target", "controller-absolute", "action-frozen",
    "action-repeated", "control-rate-10", "horizon-short", "success-at-start", "exception-as-failure",
)  # fmt: skip
"""Shown by default: of every stage of the loop, and all that a tool's declarations have a word for."""

SPEAKS_OF: Mapping[str, str] = {
    "VD101": r"black|blank|zero variance.*image|image.*zero variance",
    "VD102": r"image|frame|video",
    "VD103": r"camera|frontview|agentview",
    "VD105": r"stale|delay|observation",
    "VD204": r"size|shape|resolution|aspect",
    "VD403": r"frozen|static|zero variance|identical",
    "VD502": r"gripper|action\[6\]",
    "VD503": r"position|control_mode|action \[|action\[[0-5]\]|outside",
    "VD505": r"control_rate|frozen|identical",
    "VD601": r"settle|moving|velocity",
    "VD602": r"duplicate|seed|initial",
    "VD604": r"raised|exception|zero variance|frozen|identical",
    "VD605": r"done|success|terminated|length",
    "VD606": r"control_rate|fps|Hz|timestamp",
    "VD801": r"seed|determinis",
}
"""Words in which a message names what a check's faults break; a check that is missing has none in any of the tools."""

SILENT, WARNS, NAMES, NOT_SHOWN, NOT_RUN = "silent", "warns", "**names**", "–", "not run"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--peers-env", type=Path, default=Path(".venv-peers"), help="folder of the tools; made if missing"
    )
    parser.add_argument("--faults", nargs="*", help="names; by default a choice, and `all` for all")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("reports/peers"))
    parser.add_argument("--matrix", type=Path, help="folder with a matrix.json")
    parser.add_argument("--write", type=Path, help="Markdown file whose section `peers` is replaced")
    parser.add_argument("--from-results", action="store_true", help="run nothing; show what is there")
    arguments = parser.parse_args()
    chosen = list(FAULTS if not arguments.faults else all_faults() if arguments.faults == ["all"] else arguments.faults)
    if unknown := {*chosen} - {*all_faults()}:
        parser.error(f"no such fault: {', '.join(sorted(unknown))}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    failed: dict[str, str] = {}
    if not arguments.from_results:
        install(arguments.peers_env.resolve())
        failed = show_all([HEALTHY, *chosen], arguments.peers_env.resolve(), arguments.out.resolve(), arguments.workers)
    paths = {name: arguments.out / f"{name}.json" for name in (HEALTHY, *chosen)}
    results = {name: json.loads(path.read_text("utf-8")) for name, path in paths.items() if path.is_file()}
    if HEALTHY not in results:
        sys.exit("the healthy loop was not shown: " + failed.get(HEALTHY, "nothing is there"))
    found = json.loads((arguments.matrix / "matrix.json").read_text("utf-8")) if arguments.matrix else None
    cells = {name: verdicts(name, result, results[HEALTHY]) for name, result in results.items()}
    write_atomically(arguments.out / "peers.json", json.dumps({"results": results, "verdicts": cells}, indent=1))
    text = section(results, cells, found, failed)
    print(text)
    if failed:
        sys.exit("\n".join(f"{name} could not be shown:\n{why}" for name, why in failed.items()))
    if arguments.write:
        write_section(arguments.write, "peers", text)


def install(folder: Path) -> None:
    """Install the tools without touching this Python's own packages, which they use for the rest.

    A folder that this has not made is taken as it is.
    """
    stamp, wanted = folder / "peers-stamp", f"{sys.version}\n{PINS.read_text('utf-8')}"
    if folder.is_dir() and (not stamp.is_file() or stamp.read_text("utf-8") == wanted):
        return
    folder.mkdir(parents=True, exist_ok=True)
    stamp.write_text("unfinished", "utf-8")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target", str(folder)]
    subprocess.run([*command, "-r", str(PINS)], stdin=subprocess.DEVNULL, check=True)
    stamp.write_text(wanted, "utf-8")


def show_all(names: Sequence[str], peers: Path, out: Path, workers: int) -> dict[str, str]:
    """Show every fault that has no result yet; the end of the log of those that could not be."""
    missing = [name for name in names if not (out / f"{name}.json").is_file()]
    display = make_display()
    display.start(len(names), len(names) - len(missing))
    failed = {}
    path = os.pathsep.join(filter(None, [str(peers), os.environ.get("PYTHONPATH")]))
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LP_NUM_THREADS"), "1")
    environment = {**os.environ, **threads, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}

    def show(name: str) -> tuple[str, int, str]:
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "shown.json"
            done = subprocess.run(
                [sys.executable, str(HERE / "peers_shown.py"), name, str(made)],
                cwd=folder,
                env={**environment, "HF_MODULES_CACHE": str(Path(folder) / "modules")},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
            if made.is_file():
                write_atomically(out / f"{name}.json", made.read_text("utf-8"))
                return name, 0, ""
            return name, done.returncode, done.stderr[-2000:]

    try:
        with ThreadPoolExecutor(workers) as pool:
            for name, status, log in pool.map(show, missing):
                display.note(f"{name}: {'shown' if not log else f'status {status}'}")
                if log:
                    failed[name] = log
    finally:
        display.finish()
    return failed


def verdicts(fault: str, result: Mapping[str, Any], healthy: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Of each tool the verdict on a fault, and what it says that it does not say of the healthy loop.

    Of the healthy loop itself: how much it says.
    """
    words = "" if fault == HEALTHY else SPEAKS_OF.get(all_faults()[fault][1].code, "")
    cells = {}
    for tool, told in result["tools"].items():
        if "not_shown" in told:
            cells[tool] = {"verdict": NOT_SHOWN, "new": [], "why": told["not_shown"]}
            continue
        if "not_run" in told or "not_run" in healthy["tools"][tool]:
            cells[tool] = {"verdict": NOT_RUN, "new": [], "why": told.get("not_run", "nor was the healthy loop")}
            continue
        if fault == HEALTHY:
            cells[tool] = {"verdict": f"{len(told['said'])} said" if told["said"] else SILENT, "new": told["said"]}
            continue
        usual = {without_numbers(line) for line in healthy["tools"][tool].get("said", ())}
        new = [line for line in told["said"] if without_numbers(line) not in usual]
        named = words and any(re.search(words, line, re.IGNORECASE) for line in new)
        cells[tool] = {"verdict": NAMES if named else WARNS if new else SILENT, "new": new}
    return cells


def without_numbers(line: str) -> str:
    """A message with its numbers left out, but for the places in brackets that it speaks of."""
    return re.sub(r"(?<![\w\[])-?\d+(\.\d+)?(e-?\d+)?%?", "#", line)


def section(
    results: Mapping[str, Any],
    cells: Mapping[str, Mapping[str, Mapping[str, Any]]],
    found: Mapping[str, Any] | None,
    failed: Mapping[str, str],
) -> str:
    tools = list(results[HEALTHY]["tools"])
    ours = {each["fault"]: each for each in found["faults"]} if found else {}
    heads = ["fault", "stage", *tools, "success rate alone", "vladoctor: its code first"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    healthy = [cells[HEALTHY][tool]["verdict"] for tool in tools]
    own = "–"
    if found and found["healthy"]["episodes"]:
        own = f"{found['healthy']['alarms']} of {found['healthy']['episodes']} episodes with a finding"
        healthy.append(rate(found["healthy"]["success"]))
    else:
        healthy.append("–")
    lines.append(f"| (healthy) | | {' | '.join(healthy)} | {own} |")
    counts: dict[str, dict[str, int]] = {tool: {} for tool in tools}
    faults = [name for name in cells if name != HEALTHY]
    for name in sorted(faults, key=lambda name: (all_faults()[name][1].stage.order, all_faults()[name][1].code)):
        _, check = all_faults()[name]
        for tool in tools:
            verdict = cells[name][tool]["verdict"]
            counts[tool][verdict] = counts[tool].get(verdict, 0) + 1
        row = ours.get(name)
        last = [_success(row), rate(_first(row)) if row else "–"]
        shown = [cells[name][tool]["verdict"] for tool in tools]
        lines.append(f"| {name} | {check.stage.value}, {check.code} | {' | '.join([*shown, *last])} |")
    total = [
        " / ".join(str(counts[tool].get(verdict, 0)) for verdict in (NAMES, WARNS, SILENT, NOT_SHOWN)) for tool in tools
    ]
    known = [ours[name] for name in faults if name in ours]
    drops = sum(_success(row) == "drops" for row in known)
    right = sum(row["verdicts"]["right"] == row["trials"] for row in known)
    lines.append(
        f"| names / warns / silent / cannot be shown, of {len(faults)} | | {' | '.join(total)} | "
        f"{f'drops in {drops} of {len(known)}' if known else '–'} | "
        f"{f'always in {right} of {len(known)}' if known else '–'} |"
    )
    versions = ", ".join(f"{name} {number or '(missing)'}" for name, number in results[HEALTHY]["versions"].items())
    said = [
        f"- {name}, {tool}: {'; '.join(f'`{line}`' for line in cell['new'][:3])}"
        + (f" and {len(cell['new']) - 3} more" if len(cell["new"]) > 3 else "")
        for name, of_tool in cells.items()
        for tool, cell in of_tool.items()
        if cell["new"]
    ]
    lines += ["", "What was said, of the healthy loop first:", "", *said]
    lines += [f"- Could not be run: {name}: {why.strip().splitlines()[-1]}" for name, why in failed.items()]
    missing = {
        f"{tool}: {cells[HEALTHY][tool]['why']}" for tool in tools if "not_run" in results[HEALTHY]["tools"][tool]
    }
    lines += [f"- Not run on this machine: {why}" for why in sorted(missing)]
    machines = sorted({result["machine"] for result in results.values()})
    return "\n".join([f"{versions}; {' and '.join(machines)}.", "", *lines])


def _first(row: Mapping[str, Any]) -> dict[str, Any]:
    from vladoctor.matrix import share

    return share(row["verdicts"]["right"], row["trials"])


def _success(row: Mapping[str, Any] | None) -> str:
    """Whether the success rate lies below the healthy loop's, by the interval of their difference."""
    if row is None or row["effect"] is None:
        return "–"
    return "drops" if row["effect"]["high"] < 0 else "does not drop"


if __name__ == "__main__":
    main()
