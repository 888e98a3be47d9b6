"""The reference loop with a model of OpenVLA-7B's full shape and random weights, watched and bare, on a GPU.

    python benchmarks/full_size.py --write docs/evidence.md

Answers what a step costs stage by stage, what watching adds, how much memory it takes, and what is said of a model that
knows nothing. The model is this repository's own modelling file at full size; nothing of OpenVLA's weights is used.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from evidence import write_section
from overhead import SUITE, measure

import vladoctor.fixtures
from vladoctor.adapters import libero
from vladoctor.adapters.openvla import OpenVLAPolicy
from vladoctor.fixtures.build import full_size
from vladoctor.runspec import load_run
from vladoctor.session import run_session

IMAGE_SIZE = 224
STAGES = {
    "observe->process": "image preparation (rotate, JPEG, Lanczos, crop) and prompt",
    "process": "processor (tokenizer, normalisation)",
    "forward": "predict_action (vision, prefill, 7 tokens, decode)",
    "post-process": "gripper",
    "execute": "env.step (physics and rendering)",
    "taps": "of which the taps' own time",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60, help="policy steps of the watched episode")
    parser.add_argument("--repeats", type=int, default=4, help="times that both loops are run, 20 steps each")
    parser.add_argument("--write", type=Path, help="Markdown file whose section `full-size` is replaced")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    arguments = parser.parse_args()
    source = libero.prepare("stand-in")
    started = time.perf_counter()
    policy = load()
    loading = time.perf_counter() - started
    numbers: dict[str, Any] = {"overhead": measure(policy, 20, arguments.repeats), "seconds_to_make": loading}
    numbers |= episode(policy, arguments.steps)
    numbers |= {
        "parameters": full_size.count_parameters(policy.model),
        "gpu": torch.cuda.get_device_name(),
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
        "torch": torch.__version__,
        "renderer": os.environ.get("MUJOCO_GL", "MuJoCo's default"),
        "assets": source.kind,
    }
    text = section(numbers)
    if arguments.json:
        arguments.json.write_text(json.dumps(numbers, indent=1), "utf-8")
    if arguments.write:
        write_section(arguments.write, "full-size", text)
    print(text)


def load() -> OpenVLAPolicy:
    """The model in bfloat16 on the GPU, with the fixture's tokenizer and its image processor set to 224 px."""
    import transformers

    processor = transformers.AutoProcessor.from_pretrained(full_size.SNAPSHOT, trust_remote_code=True)
    processor.image_processor.input_sizes = [[3, IMAGE_SIZE, IMAGE_SIZE]] * 2
    return OpenVLAPolicy(
        model=full_size.build("cuda", torch.bfloat16, seed=0),
        processor=processor,
        path=Path("openvla-7b-shape-random"),
        device="cuda",
        dtype="bfloat16",
        unnorm_key=SUITE,
        image_size=IMAGE_SIZE,
    )


def episode(policy: OpenVLAPolicy, steps: int) -> dict[str, Any]:
    """One watched episode: time by stage over its steps, and the diagnosis."""
    run_file = Path(str(vladoctor.fixtures.__file__)).parent / "runs" / "evidence.yaml"
    spec = load_run(run_file).with_options(tasks=("0",), episodes=1, horizon=steps)
    with tempfile.TemporaryDirectory() as folder:
        result = run_session(spec, out=Path(folder), policy=policy)
    diagnosis = result.diagnoses[0]
    times: dict[str, list[float]] = defaultdict(list)
    for step in diagnosis.episode.policy_steps():
        for stage, milliseconds in step.timings.items():
            times[stage].append(milliseconds)
    queries = [query for _, query in diagnosis.episode.queries()]
    return {
        "steps": len(queries),
        "stages_ms": {stage: statistics.median(values) for stage, values in times.items()},
        "action_mass": statistics.median(mass for query in queries for mass in query.action_mass),
        "findings": [(f.code, f.first_step, f.message, f.explained_by) for f in diagnosis.findings],
        "failures": list(result.failures),
    }


def section(numbers: dict[str, Any]) -> str:
    overhead = numbers["overhead"]
    rows = [
        f"| {words} | {numbers['stages_ms'][stage]:.2f} |"
        for stage, words in STAGES.items()
        if stage in numbers["stages_ms"]
    ]
    findings = [
        f"- {code}, first at step {step}{f', explained by {cause}' if cause else ''}: {message}"
        for code, step, message, cause in numbers["findings"]
    ]
    return "\n".join(
        [
            f"{numbers['parameters'] / 1e9:.2f} B parameters, bfloat16, random weights (seed 0), {numbers['gpu']}, "
            f"torch {numbers['torch']}, MUJOCO_GL={numbers['renderer']}, assets: {numbers['assets']}; "
            f"{numbers['steps']} policy steps of one watched episode. Peak GPU memory {numbers['peak_gib']:.1f} GiB.",
            "",
            "| stage | median ms |",
            "|---|---|",
            *rows,
            "",
            f"Watched against bare, in turns, {overhead['steps']} steps each: {overhead['ms_watched']:.1f} ms against "
            f"{overhead['ms_bare']:.1f} ms, ratio of medians {overhead['ratio']:.4f}; the taps' own time "
            f"{overhead['us_per_step']:.0f} us a step; actions identical: {overhead['identical_actions']}.",
            "",
            f"What is said of it (median mass on action ids {numbers['action_mass']:.3f}):",
            "",
            *(findings or ["- nothing"]),
        ]
    )


if __name__ == "__main__":
    main()
