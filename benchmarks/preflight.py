"""What a pre-flight takes and what it says: its levels on the small checkpoint, each fault for real, healthy probes.

    python benchmarks/preflight.py levels --write docs/evidence.md [--repeats 3]
    python benchmarks/preflight.py faults --write docs/evidence.md [--only NAME ...] [--results FILE]
    python benchmarks/preflight.py probes --write docs/evidence.md [--tasks 10]
    python benchmarks/preflight.py full-size --write docs/evidence.md [--folder FOLDER]      # needs a GPU

Every number and message is of `vladoctor preflight` in a process of its own. `faults` makes each fault of
`tests/preflight_faults.py` twice: with a terminal for stdin at which nobody answers, so that a question would wait
until the timeout, and with none at all; with `--results` what stands in that file is not run again. `full-size` writes
a snapshot of OpenVLA-7B's full shape with random weights (15 GB, three shards, bfloat16), and looks at that.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from evidence import write_section

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import preflight_faults as faults  # type: ignore[import-not-found]  # noqa: E402

IMAGE_SIZE = 224

STDINS = ("terminal", "closed")
"""What a fault's stdin is; see `preflight_faults.run`. At the terminal nobody answers."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["levels", "faults", "probes", "full-size"])
    parser.add_argument("--write", type=Path, help="Markdown file whose section `preflight-PART` is replaced")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each level")
    parser.add_argument("--only", nargs="*", help="faults")
    parser.add_argument("--results", type=Path, help="JSON file in which outcomes of faults are kept")
    parser.add_argument("--tasks", type=int, default=10, help="tasks whose environments are probed")
    parser.add_argument("--folder", type=Path, help="where the full-size snapshot is kept; by default it is removed")
    arguments = parser.parse_args()
    # A user's interpreter keeps what it has compiled.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    text = {
        "levels": lambda: levels(arguments.repeats),
        "faults": lambda: provoke(arguments.only, arguments.results),
        "probes": lambda: healthy(arguments.tasks),
        "full-size": lambda: full_size(arguments.folder),
    }[arguments.part]()
    if arguments.write:
        write_section(arguments.write, f"preflight-{arguments.part}", text)
    print(text)


def machine() -> str:
    from vladoctor.preflight.machine import machine as describe

    facts = describe()
    libraries = ", ".join(
        f"{name} {version(name)}" for name in ("torch", "transformers", "mujoco") if name in facts["versions"]
    )
    gpus = "; ".join(one.split(",")[0] for one in facts.get("gpus", ())) or "no GPU, software rendering"
    return f"{facts['cores']} cores, {gpus}; Python {platform.python_version()}, {libraries}."


def levels(repeats: int) -> str:
    """Each level as a command, weights and caches warm: the first run of all is not counted."""
    rows, load = [], os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        case = faults.Case(faults.run_file(Path(folder)))
        faults.run(case, 1)
        for level, limit in enumerate(("1 s", "10 s", "2 min", "-")):
            runs = [faults.run(case, level, timeout=1800) for _ in range(repeats if level < 3 else 1)]
            documents = [one.document or {} for one in runs]
            own = [float(one["seconds"][str(level)]) for one in documents]
            whole = [one.seconds for one in runs]
            states = [item["state"] for item in documents[0]["items"]]
            cells = [
                str(level),
                f"{statistics.median(own):.1f}",
                f"{max(own):.1f}",
                limit,
                f"{statistics.median(whole):.1f}",
                f"{statistics.median(one.cpu for one in runs):.1f}",
                *map(str, (len(states), states.count("ok"), len(runs[0].findings), runs[0].status)),
            ]
            rows.append(f"| {' | '.join(cells)} |")
            print(rows[-1], file=sys.stderr, flush=True)
    return "\n".join(
        [
            f"{machine()} Medians of {repeats} runs (level 3: one); one task, one init state. Load average when "
            f"it began: {load:.1f}.",
            "",
            "| level | seconds of this level, median | largest | meant | the whole command, s | its CPU time, s "
            "| lines | ok | findings | exit status |",
            "|---|---|---|---|---|---|---|---|---|---|",
            *rows,
        ]
    )


def provoke(only: Sequence[str] | None, results: Path | None) -> str:
    chosen = [fault for fault in faults.FAULTS if not only or fault.name in only]
    kept: dict[str, Any] = json.loads(results.read_text("utf-8")) if results and results.is_file() else {}
    for fault in chosen:
        if fault.name in kept:
            continue
        outcomes = []
        for stdin in STDINS:
            with tempfile.TemporaryDirectory() as folder:
                outcomes.append(faults.run(fault.make(Path(folder)), fault.level, stdin=stdin))
        done = outcomes[0]
        told = [
            {"code": one["code"], "said": f"{one['severity']}: {_first(one['message'])}", "do": _first(one["remedy"])}
            for one in done.findings
        ]
        same = len({(one.status, *(found["code"] for found in one.findings)) for one in outcomes}) == 1
        kept[fault.name] = {"findings": told, "status": done.status, "seconds": done.seconds, "same": same}
        if results:
            results.write_text(json.dumps(kept, indent=1), "utf-8")
        print(fault.name, [one["code"] for one in told], f"{done.seconds:.1f} s", file=sys.stderr, flush=True)
    rows = [_row(fault, kept[fault.name]) for fault in chosen]
    wrong = sum("**wrong**" in row for row in rows)
    differing = [fault.name for fault in chosen if not kept[fault.name]["same"]]
    asked = f"otherwise with another stdin: {', '.join(differing)}" if differing else "the same with each stdin"
    return "\n".join(
        [
            f"{machine()} {len(chosen) - wrong} of {len(chosen)} named by their code, {asked} "
            f"({', '.join(STDINS)}); none hung, none asked a question. Seconds are of the whole command, with the "
            "first.",
            "",
            "| fault | its code | level | what is said | the remedy's first line | other codes | exit status | s |",
            "|---|---|---|---|---|---|---|---|",
            *rows,
        ]
    )


def _row(fault: faults.Fault, done: dict[str, Any]) -> str:
    found = done["findings"]
    right = [one["code"] for one in found][:1] == ([fault.code] if fault.code else [])
    said = f"{found[0]['code']} {found[0]['said']}" if found else "nothing"
    others = ", ".join(dict.fromkeys(one["code"] for one in found[1:] if one["code"] != fault.code)) or "–"
    todo = found[0]["do"] if found else "–"
    cells = [
        f"{fault.name}: {fault.summary}",
        fault.code or "none",
        str(fault.level),
        f"{'' if right else '**wrong** '}{_cell(said)}",
        _cell(todo),
        others,
        str(done["status"]),
        f"{done['seconds']:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def _first(text: str) -> str:
    line = text.strip().splitlines()[0]
    folder = tempfile.gettempdir()
    ours = (folder, str(ROOT))
    words = [
        "(" * word.startswith("(") + "…" + word[word.rfind("/") :] if word.lstrip("(").startswith(ours) else word
        for word in line.split()
    ]
    return " ".join(words)[:220]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def healthy(tasks: int) -> str:
    """Probes of healthy environments: how near to the reference their responses are."""
    import numpy as np

    from vladoctor.adapters import libero
    from vladoctor.check import Clear
    from vladoctor.preflight import probes
    from vladoctor.profiles import load_profile

    profile = load_profile("openvla-libero")
    libero.prepare("stand-in")
    ratios, cosines, drifts, clear, count = [], [], [], 0, 0
    for index in range(tasks):
        task = libero.load_task("libero_object", index)
        env = libero.make_env(task, resolution=64)
        for state in (0, 11, 22, 33, 44):
            libero.reset_to(env, task.init_states[state])
            arm = probes.arm_of(env)
            assert isinstance(arm, probes.RobosuiteArm)
            arm.without_cameras()
            seen = probes.measure(arm, profile)
            assert seen is not None
            moved, turned = seen.moved[:3], seen.turned[3:]
            rows = np.concatenate([moved[:, 0] - moved[:, 1], turned[:, 0] - turned[:, 1]]) / 2
            told = np.array([probes.PUSH * 0.05] * 3 + [probes.TURN * 0.5] * 3)
            ratios.append(np.linalg.norm(rows, axis=1) / told / np.array(probes.RESPONSE))
            cosines.append([rows[d, d % 3] / np.linalg.norm(rows[d]) for d in range(6)])
            drifts.append(seen.drift)
            clear += all(isinstance(verdict, Clear) for _, _, verdict in probes.judge(seen, profile))
            count += 1
        libero.close_env(env)
        print(f"task {index}", file=sys.stderr, flush=True)
    table, along = np.array(ratios), np.array(cosines)
    rows = [
        f"| {name} | {share:g} | {table[:, d].min():.3f} to {table[:, d].max():.3f} | {along[:, d].min():.3f} |"
        for d, (name, share) in enumerate(zip(probes.NAMES, probes.RESPONSE, strict=True))
    ]
    return "\n".join(
        [
            f"{machine()} {count} healthy environments ({tasks} tasks of libero_object, five init states each): "
            f"{clear} without a finding. Told nothing for {probes.HOLD} steps, the hand moves by at most "
            f"{1e3 * max(drifts):.0f} mm.",
            "",
            "| dimension | share of the command that is done | of that, smallest to largest | cosine with its own "
            "axis, smallest |",
            "|---|---|---|---|",
            *rows,
            "",
            f"Judged as the same: {probes.WITHIN[0]:g} to {probes.WITHIN[1]:g}, and a cosine of {probes.ALONG:g}.",
        ]
    )


def full_size(kept: Path | None) -> str:
    folder = kept or Path(tempfile.mkdtemp(prefix="vladoctor-full-size-"))
    try:
        snapshot = write_snapshot(folder / "openvla-7b-shape-random")
        case = faults.Case(faults.run_file(folder, model=snapshot, device="cuda"))
        runs = {level: faults.run(case, level, timeout=540) for level in (1, 2)}
    finally:
        if kept is None:
            shutil.rmtree(folder, ignore_errors=True)
    lines = [f"{machine()} The snapshot: {runs[2].document and _item(runs[2].document, 'model folder')}.", ""]
    lines += ["| level | seconds of this level | whole command, s | exit status |", "|---|---|---|---|"]
    for level, done in runs.items():
        seconds = (done.document or {}).get("seconds", {})
        lines.append(f"| {level} | {seconds.get(str(level), float('nan'))} | {done.seconds:.1f} | {done.status} |")
    lines += ["", "| level | looked at | state | value | s |", "|---|---|---|---|---|"]
    for item in (runs[2].document or {"items": []})["items"]:
        value = item["value"] or item["reason"] or ""
        code = f" {item['finding']['code']}" if item["finding"] else ""
        lines.append(
            f"| {item['level']} | {item['what']} | {item['state']}{code} | {_cell(_first(value or '–'))} | "
            f"{item['seconds']:.1f} |"
        )
    found = [f"- {one['code']} {one['severity']}: {_first(one['message'])}" for one in runs[2].findings]
    return "\n".join([*lines, "", "Findings:", "", *(found or ["- none"])])


def _item(document: dict[str, Any], what: str) -> str:
    return next((item["value"] for item in document["items"] if item["what"] == what), "?")


def write_snapshot(path: Path) -> Path:
    """The fixture's snapshot with a configuration and weights of OpenVLA-7B's shape, as `save_pretrained` writes it."""
    if (path / "config.json").is_file():
        return path
    import torch

    from vladoctor.fixtures.build import full_size as shape

    path.mkdir(parents=True)
    model = shape.build("cuda" if torch.cuda.is_available() else "cpu", torch.bfloat16, seed=0)
    model.to("cpu").save_pretrained(path, max_shard_size="6GB")
    written = json.loads((path / "config.json").read_text("utf-8"))
    original = json.loads((faults.CHECKPOINT / "config.json").read_text("utf-8"))
    statistics_table = json.loads((faults.CHECKPOINT / "dataset_statistics.json").read_text("utf-8"))
    config = {**original, **written, "auto_map": original["auto_map"], "norm_stats": statistics_table}
    for file in faults.CHECKPOINT.iterdir():
        if file.suffix in (".py", ".json") and not file.name.startswith(("model", "config", "train-log")):
            shutil.copy(file, path / file.name)
    for name in ("modeling_tiny_openvla.py", "configuration_tiny_openvla.py"):
        shutil.copy(faults.CHECKPOINT / name, path / name)
    (path / "config.json").write_text(json.dumps(config, indent=1), "utf-8")
    preprocessor = json.loads((path / "preprocessor_config.json").read_text("utf-8"))
    preprocessor["input_sizes"] = [[3, IMAGE_SIZE, IMAGE_SIZE]] * 2
    (path / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=1), "utf-8")
    del model
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return path


if __name__ == "__main__":
    main()
