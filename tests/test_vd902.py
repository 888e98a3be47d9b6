"""VD902 evidence-incomplete: holes fire, what lies in how a loop is built does not."""

from __future__ import annotations

import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rendered import LIBERO, RIGHT, recorded, rendered, turned
from test_coverage import CLIENT, whole

from vladoctor.adapters.openvla import load_policy
from vladoctor.check import Abstention, Clear, Problem, Severity, Stage, Verdict
from vladoctor.checks.vd902_evidence_incomplete import CHECK
from vladoctor.diagnosis import diagnose
from vladoctor.facts import Facts
from vladoctor.profiles import load_profile
from vladoctor.records import Episode
from vladoctor.result import INCOMPLETE, RunResult
from vladoctor.runspec import RunSpec, load_run
from vladoctor.session import run_session

RUNS = Path(__file__).parents[1] / "fixtures" / "runs"
POLICY = RUNS.parent / "tiny-openvla"


def judge(episode: Episode, profile: Any = LIBERO) -> list[Verdict]:
    return list(CHECK.judge(Facts(episode, profile), dict(CHECK.thresholds)))


def problem(episode: Episode) -> Problem:
    (found,) = [verdict for verdict in judge(episode) if isinstance(verdict, Problem)]
    assert found.severity is Severity.LOOK
    assert found.remedy
    return found


# Must fire.


def test_no_frames() -> None:
    episode = whole()
    found = problem(replace(episode, steps=[replace(step, frames={}, proprio={}) for step in episode.steps]))
    assert found.message.startswith("No picture was found in the observations; nothing of render and observe was seen.")
    assert found.stage is Stage.RENDER
    assert "VD201" in found.evidence["silent_checks"]
    assert "VD501" not in found.evidence["silent_checks"]
    assert (found.first_step, found.last_step) == (0, 11)


def test_no_query() -> None:
    episode = whole()
    steps = [replace(step, number=step.number - 12, query=None) for step in episode.steps]
    found = problem(replace(episode, steps=steps))
    assert found.message.startswith("No policy that vladoctor knows was asked")
    assert "doctor.asked" in found.remedy


def test_images_at_some_queries_only() -> None:
    episode = whole()
    steps = [
        step if step.number < 3 or step.query is None else replace(step, query=replace(step.query, image=None))
        for step in episode.steps
    ]
    noted = replace(episode, steps=steps, notes=("the model's image is not recorded: pixel_values is (1, 2, 3)",))
    assert problem(noted).message.startswith("Not at 9 of 12 queries: the model's image is not recorded")


@pytest.mark.parametrize(
    ("note", "remedy"),
    [
        ("recording stopped after 12 steps: OSError: [Errno 28] No space left on device", "ulimit -f"),
        ("recording stopped: KeyError: 'pixel_values'", "defect of a tap"),
        ("", "SIGTERM"),
    ],
)
def test_a_recording_that_was_cut_off(note: str, remedy: str) -> None:
    found = problem(replace(whole(), truncated=True, notes=(note,) if note else ()))
    assert (found.first_step, found.stage) == (11, Stage.SCORE)
    assert remedy in found.remedy


@pytest.mark.parametrize(
    ("damage", "steps", "message", "remedy"),
    [
        (
            "is damaged at byte 9,000 of 20,000",
            True,
            "The recording is damaged at byte 9,000 of 20,000 (the last step that could be read is 11); nothing is "
            "known of what was lost.",
            "Copy the recording again",
        ),
        ("is empty: its file has no bytes", False, "The recording is empty: its file has no bytes; ", "SIGTERM"),
    ],
)
def test_a_recording_that_is_damaged_or_empty(damage: str, steps: bool, message: str, remedy: str) -> None:
    episode = replace(whole(), truncated=True, damage=damage)
    found = problem(episode if steps else replace(episode, steps=[]))
    assert found.message.startswith(message)
    assert remedy in found.remedy


def test_a_recording_without_a_step_says_only_that() -> None:
    found = problem(replace(whole(), truncated=True, steps=[]))
    assert found.message.startswith("The recording ends before its first step")
    assert "SIGTERM" in found.remedy


def of_no_frame(*, wrong: int, orient: Callable[[np.ndarray], np.ndarray]) -> list[Problem]:
    """What is said of twelve images, the first `wrong` of which were made in a wrong way."""
    shots = (rendered("agentview") * 12)[:12]
    orients = [orient if index < wrong else RIGHT for index in range(12)]
    found = judge(recorded(shots, orient=orients))
    return [one for one in found if isinstance(one, Problem) and "fits no camera frame" in one.message]


def signed(frame: np.ndarray) -> np.ndarray:
    """RIGHT, and bright values that wrap around."""
    return RIGHT(((frame / 127.5 - 1.0) * 127.0).astype(np.int8).view(np.uint8))


def test_images_that_fit_no_frame() -> None:
    (found,) = of_no_frame(wrong=12, orient=signed)
    assert found.message.startswith("In 12 of 12 queries the model's image fits no camera frame that was recorded")
    assert (found.severity, found.stage) == (Severity.LOOK, Stage.IMAGE)
    assert (found.first_step, found.last_step) == (0, 11)
    assert [one["title"] for one in found.frames] == ["what the model was given", "the agentview frame of that step"]


# Must not.


@pytest.mark.parametrize(
    ("wrong", "orient"),
    [
        (0, signed),
        (6, signed),
        (12, turned("flip-vertical")),
        (12, np.zeros_like),
        (12, lambda frame: RIGHT(frame) // 2),
    ],
)
def test_some_images_or_such_that_other_checks_know_are_not_of_no_frame(
    wrong: int, orient: Callable[[np.ndarray], np.ndarray]
) -> None:
    assert of_no_frame(wrong=wrong, orient=orient) == []


def test_a_loop_that_is_seen_whole_is_clear() -> None:
    (verdict,) = judge(whole())
    assert isinstance(verdict, Clear)
    assert verdict.evidence["decode"] == "12 of 12 queries"


def test_a_client_alone_is_no_finding() -> None:
    abstention, clear = judge(whole(**CLIENT), load_profile("openpi-libero"))
    assert isinstance(clear, Clear)
    assert isinstance(abstention, Abstention)
    assert not abstention.missing
    assert abstention.reason.startswith("process, forward, decode and un-normalise: the policy runs in another process")
    assert "VD401" in abstention.reason


def test_a_server_that_was_killed_is_no_finding() -> None:
    episode = whole()
    steps = [replace(step, frames={}, proprio={}, executed=()) for step in episode.steps]
    alone = replace(episode, task={"environment": "policy alone"}, steps=steps, truncated=True)
    (verdict,) = judge(alone)
    assert isinstance(verdict, Abstention)


def test_actions_of_no_query_are_said_and_accuse_nobody() -> None:
    episode = whole()
    steps = [replace(step, executed=tuple(0.3 * value**3 + 0.01 for value in step.executed)) for step in episode.steps]
    verdicts = judge(replace(episode, steps=steps))
    assert not any(isinstance(verdict, Problem) for verdict in verdicts)
    assert any(isinstance(v, Abstention) and "could not be linked to a query" in v.reason for v in verdicts)


# What it comes to.


def test_it_makes_the_evidence_incomplete_and_never_leads() -> None:
    episode = whole()
    bare = replace(episode, steps=[replace(step, frames={}) for step in episode.steps])
    diagnosis = diagnose(Facts(bare, LIBERO), (CHECK,))
    assert RunResult(None, {}, (diagnosis,)).exit_status == INCOMPLETE
    assert not diagnosis.results[0].judged
    whole_but_unjudged = diagnose(Facts(episode, LIBERO), (CHECK,))
    assert RunResult(None, {}, (whole_but_unjudged,)).exit_status == INCOMPLETE


# Faults, in the reference loop.


def spec(horizon: int) -> RunSpec:
    return load_run(RUNS / "evidence.yaml").with_options(tasks=("0",), episodes=1, horizon=horizon)


def run(fault: str, horizon: int, out: Path) -> RunResult:
    policy = load_policy(POLICY, device="cpu", suite="libero_object", threads=1)
    return run_session(spec(horizon), fault=fault, out=out, policy=policy)


def test_frames_under_another_name(tmp_path: Path) -> None:
    result = run("frames-unseen", 6, tmp_path)
    (finding,) = result.diagnoses[0].findings
    assert (finding.code, finding.stage) == ("VD902", Stage.RENDER)
    assert "the observation has no agentview_image" in finding.message
    assert result.exit_status == INCOMPLETE


def test_levels_that_wrap_around(tmp_path: Path) -> None:
    result = run("image-signed", 8, tmp_path)
    (finding,) = result.diagnoses[0].findings
    assert (finding.code, finding.stage) == ("VD902", Stage.IMAGE)
    assert "In 8 of 8 queries the model's image fits no camera frame" in finding.message
    assert result.exit_status == INCOMPLETE


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    result = run("tap-stopped", 60, tmp_path)
    (finding,) = result.diagnoses[0].findings
    assert finding.code == "VD902"
    assert "File too large" in finding.message
    assert "ulimit -f" in finding.remedy
    assert result.diagnoses[0].episode.outcome.steps == 60
    assert len(result.diagnoses[0].episode.steps) < 60
    assert resource.getrlimit(resource.RLIMIT_FSIZE) == before
