"""Diagnoses built by hand, as if checks had judged: what the renderers are tested on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vladoctor.check import Abstention, Clear, Severity, Stage
from vladoctor.diagnosis import CheckResult, Diagnosis, Finding, RunDiagnosis
from vladoctor.records import Episode, Outcome, Step
from vladoctor.result import RunResult

RUN: dict[str, Any] = {
    "versions": {"python": "3.11.7", "torch": "2.13.0"},
    "spec": {"model": {"path": "tiny-openvla"}},
    "assets": {"kind": "stand-in", "note": "procedural stand-ins for LIBERO's meshes; not the published scenes"},
    "device": "cpu",
    "checkpoint": {"name": "tiny-openvla", "dtype": "float32", "norm_stats": {"libero_object": {}}},
    "profile": {"name": "openvla-libero", "reason": "an OpenVLA model with statistics of libero_object"},
    "fault": "",
}

ORIENTATION = Finding(
    "VD201",
    "image-orientation",
    Stage.IMAGE,
    Severity.STOP,
    0,
    None,
    "The model's image is the camera's frame flipped vertically only; this checkpoint was trained on a 180-degree "
    "rotation, so the scene is mirrored: left and right are exchanged.",
    "Rotate by 180 degrees: `frame = frame[::-1, ::-1]`.",
    evidence={"expected": "rot180", "seen": "flip-vertical"},
)
PROMPT = Finding(
    "VD301",
    "prompt-template",
    Stage.PROMPT,
    Severity.FIX,
    0,
    None,
    "The prompt differs from the template that this checkpoint was trained with.",
    'Send exactly: f"In: What action should the robot take to {instruction.lower()}?\\nOut:"',
    evidence={
        "expected": "In: What action should the robot take to pick up the soup?\nOut:",
        "seen": "In: What action should the robot take to pick up the soup? Out:",
        "diff": [
            ["=", "In: What action should the robot take to pick up the soup?"],
            ["-", "\n"],
            ["+", " "],
            ["=", "Out:"],
        ],
    },
)
SCALE = Finding(
    "VD501",
    "unnorm-scale",
    Stage.UNNORMALISE,
    Severity.STOP,
    0,
    None,
    "The actions were un-normalised with the statistics of bridge_orig; this environment calls for libero_object.",
    "Pass unnorm_key='libero_object' to predict_action.",
    evidence={
        "expected": "libero_object",
        "seen": "bridge_orig",
        "per_dimension": {"ratio": [0.0358, 0.0421, 0.0377, 0.11, 0.09, 0.21, 1.0]},
    },
)
SATURATION = Finding(
    "VD402",
    "bin-saturation",
    Stage.DECODE,
    Severity.LOOK,
    14,
    63,
    "Dimension x is in an extreme bin in 61 % of the steps.",
    "Look at the actions; usually something before this stage is wrong.",
    symptom=True,
)
CHECKS = {
    "VD101": "black-image",
    "VD201": "image-orientation",
    "VD301": "prompt-template",
    "VD401": "non-action-token",
    "VD402": "bin-saturation",
    "VD501": "unnorm-scale",
}
RIGHT = {
    "VD101": "93 frames of agentview have content (contrast 31 to 35 levels)",
    "VD201": "the model's image is the frame rotated by 180 degrees, as expected (correlation 0.998, next 0.41)",
    "VD301": "1 prompt, equal to the template",
    "VD401": "651 tokens, all within 31744 to 31999",
    "VD402": "no dimension saturates (largest share 8 %, limit 50 %)",
    "VD501": "libero_object reproduces every action to 1e-7",
}


def episode(init_state: int = 30, outcome: Outcome | None = None, *, truncated: bool = False, **task: Any) -> Episode:
    known = {
        "suite": "libero_object",
        "task_id": 0,
        "name": "pick_up_the_alphabet_soup_and_place_it_in_the_basket",
        "language": "pick up the alphabet soup and place it in the basket",
        "init_state": init_state,
        "episode": 0,
        "horizon": 280,
    }
    steps = [Step(number, timings={"query": 30.0 + number, "execute": 8.0}) for number in range(3)]
    return Episode(
        RUN,
        {**known, **task},
        steps,
        outcome or Outcome("success", True, 93),
        truncated,
        source=f"/somewhere/reports/demo/traces/task0-init{init_state}-ep0.mcap",
    )


def diagnosis(
    init_state: int = 30,
    findings: Sequence[Finding] = (),
    *,
    outcome: Outcome | None = None,
    abstained: dict[str, Abstention] | None = None,
    crashed: Sequence[str] = (),
    truncated: bool = False,
) -> Diagnosis:
    """Findings as given, in the order given, the first explaining the symptoms; all other checks pass."""
    if findings:
        outcome = outcome or Outcome("horizon", False, 280)
        root = findings[0]
        findings = [root] + [replace(f, explained_by=root.code) if f.symptom else f for f in findings[1:]]
    results = []
    for code, name in CHECKS.items():
        own = tuple(finding for finding in findings if finding.code == code)
        if own:
            results.append(CheckResult(code, name, "failed", own))
        elif code in crashed:
            error = "Traceback (most recent call last):\n  ...\nZeroDivisionError: division by zero\n"
            results.append(CheckResult(code, name, "crashed", error=error))
        elif abstained and code in abstained:
            results.append(CheckResult(code, name, "abstained", abstentions=(abstained[code],)))
        else:
            results.append(CheckResult(code, name, "passed", clears=(Clear(RIGHT[code]),)))
    return Diagnosis(episode(init_state, outcome, truncated=truncated), tuple(results), tuple(findings))


ONE_STATE = Finding(
    "VD602",
    "initial-state",
    Stage.OBSERVE,
    Severity.FIX,
    0,
    None,
    "All 50 episodes of this task began in one and the same state.",
    "Set another init state for every episode: `env.set_init_state(init_states[episode])`.",
    evidence={"expected": "50 states", "seen": "1 state"},
    whole_run=True,
)


def overall(*findings: Finding) -> RunDiagnosis:
    """What the episodes say together: findings as given."""
    said = [CheckResult(finding.code, finding.name, "failed", (finding,)) for finding in findings]
    right = CheckResult("VD802", "too-few-trials", "passed", clears=(Clear("500 episodes tell 5 points apart"),))
    return RunDiagnosis((*said, right), findings)


def result(*diagnoses: Diagnosis, folder: Path | None = None, failures: Sequence[str] = (), **run: Any) -> RunResult:
    return RunResult(None, {**RUN, **run}, diagnoses, folder, failures)
