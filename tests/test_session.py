"""The whole way, for real: LIBERO, the trained checkpoint, taps, trace, facts, checks, diagnosis. Short episodes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vladoctor.check import all_checks, all_faults
from vladoctor.errors import UserError
from vladoctor.matrix import BOTH, PAIRS
from vladoctor.report.json import run_report
from vladoctor.result import RunResult
from vladoctor.runspec import RunSpec, load_run
from vladoctor.session import replay_session, run_session
from vladoctor.trace import find_traces, read_episode

pytestmark = [pytest.mark.simulator, pytest.mark.torch]

RUNS = Path(__file__).resolve().parents[1] / "fixtures" / "runs"
STEPS = 24
"""Enough for VD402, which looks at 20 queries together."""

SLOW = "opencv-convention"
"""A fault that shows only once the arm has moved across the picture."""

APART = ("frozen-render-late", "frozen-old", "second-env", "trials-25")
"""Faults that begin later, that spoil the renderer for the rest of the process, or that take long: see test_vd102.py,
test_vd104.py and below."""

AT_ONCE = sorted(
    name
    for name, (_, check) in all_faults().items()
    if check.code != "VD101" and not check.about_evidence and name not in (SLOW, *APART)
)
"""Faults that show from the first query on; those of VD101 have a step of their own, those of VD902 a test file."""

CODES = tuple(check.code for check in all_checks() if check.judge or check.judge_checks)


def spec_of(**options: Any) -> RunSpec:
    return load_run(RUNS / "evidence.yaml").with_options(
        **{"tasks": ("0",), "episodes": 1, "horizon": STEPS, **options}
    )


@pytest.fixture(scope="module")
def policy() -> Any:
    from vladoctor.adapters.openvla import load_policy

    return load_policy(RUNS.parent / "tiny-openvla", device="cpu", suite="libero_object", threads=1)


@pytest.fixture(scope="module")
def healthy(policy: Any, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return run_session(spec_of(), out=tmp_path_factory.mktemp("healthy"), policy=policy)


def test_a_healthy_loop_is_left_in_peace(healthy: RunResult) -> None:
    diagnosis = healthy.diagnoses[0]
    assert [finding.message for finding in diagnosis.findings] == []
    states = {result.code: result.state for result in diagnosis.results}
    assert tuple(states) == CODES
    assert {states[code] for code in ("VD101", "VD201", "VD301", "VD401", "VD402", "VD501", "VD902")} == {"passed"}
    assert set(states.values()) <= {"passed", "abstained"}
    assert diagnosis.episode.outcome.ended == "horizon"
    assert len(list(diagnosis.episode.queries())) == STEPS
    assert healthy.exit_status == 0


def test_the_trace_gives_the_same_report_again(healthy: RunResult) -> None:
    assert healthy.folder is not None
    again = replay_session([healthy.folder], spec=healthy.spec, out=healthy.folder)
    first, second = run_report(healthy), run_report(again)
    assert json.dumps(first["episodes"], sort_keys=True) == json.dumps(second["episodes"], sort_keys=True)


def test_a_recording_that_was_damaged_later_is_judged_up_to_there(healthy: RunResult, tmp_path: Path) -> None:
    """And is not taken for one that was cut off; of which it has the same steps."""
    assert healthy.folder is not None
    (trace,) = find_traces(healthy.folder)
    data = bytearray(trace.read_bytes())
    (tmp_path / "cut.mcap").write_bytes(data[: len(data) // 2])
    data[len(data) // 2] ^= 0x10
    (tmp_path / "damaged.mcap").write_bytes(data)
    (tmp_path / "empty.mcap").touch()
    cut, damaged, empty = (read_episode(tmp_path / f"{name}.mcap") for name in ("cut", "damaged", "empty"))
    assert 10 < len(damaged.steps) == len(cut.steps) < len(read_episode(trace).steps)
    assert (cut.damage, empty.damage) == ("", "is empty: its file has no bytes")
    assert damaged.damage.startswith("is damaged at byte ")
    told = replay_session([tmp_path / "damaged.mcap"]).diagnoses[0]
    assert told.evidence_missing[0] == f"the recording {damaged.damage}"
    assert [finding.code for finding in told.findings] == ["VD902"]
    assert damaged.damage in told.findings[0].message


def test_replay_judges_by_the_run_that_made_the_trace(policy: Any, tmp_path: Path) -> None:
    spec = spec_of(horizon=3)
    spec = replace(
        spec,
        profile=replace(spec.profile, overrides={"image.orientation": "flip-vertical"}),
        checks=replace(spec.checks, ignore=("VD402",)),
        report=replace(spec.report, fail_on="stop"),
    )
    result = run_session(spec, out=tmp_path, policy=policy)
    again = replay_session([tmp_path])
    assert [finding.code for finding in result.diagnoses[0].findings] == ["VD201"]
    assert again.diagnoses[0].findings == result.diagnoses[0].findings
    assert [each.code for each in again.diagnoses[0].results] == [code for code in CODES if code != "VD402"]
    assert again.fail_on == result.fail_on


def test_the_query_that_raises_is_in_the_trace(policy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(policy.model, "generate", breaks)
    result = run_session(spec_of(horizon=3), out=tmp_path, policy=policy)
    queries = [query for _, query in result.diagnoses[0].episode.queries()]
    assert result.exit_status == 2
    assert len(queries) == 1
    assert str(queries[0].prompt).startswith("In: What action")


def fresh_policy() -> Any:
    from vladoctor.adapters.openvla import load_policy

    return load_policy(RUNS.parent / "tiny-openvla", device="cpu", suite="libero_object", threads=1)


@pytest.mark.parametrize("name", AT_ONCE)
def test_a_fault_is_named_first_and_at_once(name: str, tmp_path: Path) -> None:
    # A policy of its own: some faults change the model.
    fault, check = all_faults()[name]
    spec = spec_of(episodes=fault.episodes, horizon=fault.steps)
    result = run_session(spec, fault=name, out=tmp_path, policy=fresh_policy())
    headline = result.diagnoses[0].headline or result.overall.headline
    assert headline is not None
    assert headline.code == check.code
    if check.code not in ("VD603", "VD604", "VD605"):
        # Those show where an episode breaks off, or at its end.
        assert headline.first_step <= (20 if headline.code == "VD402" else 1)
    roots = {finding.code for finding in result.findings if not finding.explained_by}
    assert roots == {headline.code}
    assert result.exit_status == 1


@pytest.mark.parametrize("pair", PAIRS)
def test_two_faults_at_once_are_two_root_causes(pair: str, tmp_path: Path) -> None:
    names = pair.split(BOTH)
    result = run_session(spec_of(horizon=8), fault=names, out=tmp_path, policy=fresh_policy())
    roots = {finding.code for finding in result.findings if not finding.explained_by}
    assert roots == {all_faults()[name][1].code for name in names}
    assert run_report(result)["run"]["fault"] == ", ".join(names)


def test_a_rate_of_few_episodes_is_looked_at(tmp_path: Path) -> None:
    # The fault takes 25 episodes; the limit is a number, and four show the same.
    spec = spec_of(episodes=4, horizon=12)
    spec = replace(spec, checks=replace(spec.checks, thresholds={"VD802": {"episodes": 4.0}}))
    result = run_session(spec, fault="trials-25", out=tmp_path, policy=fresh_policy())
    assert {diagnosis.episode.outcome.success for diagnosis in result.diagnoses} == {True, False}
    assert [finding.code for finding in result.findings] == ["VD802"]


def test_frames_that_come_upright_are_told_from_the_moving_arm(policy: Any, tmp_path: Path) -> None:
    # Measured from this init state: the arm has moved far enough after 30 of the fault's own 110 steps.
    result = run_session(spec_of(horizon=50), fault=SLOW, out=tmp_path, policy=policy)
    headline = result.diagnoses[0].headline
    assert headline is not None
    assert headline.code == "VD201"
    assert "IMAGE_CONVENTION" in headline.remedy


@pytest.mark.parametrize(("name", "first"), [("black-image", -10), ("black-image-late", 30)])
def test_lost_frames_are_named_at_the_step_where_they_are_lost(
    name: str, first: int, policy: Any, tmp_path: Path
) -> None:
    result = run_session(spec_of(horizon=34), fault=name, out=tmp_path, policy=policy)
    headline = result.diagnoses[0].headline
    assert headline is not None
    assert (headline.code, headline.first_step) == ("VD101", first)


def test_a_thread_that_draws_nothing_is_named(tmp_path: Path) -> None:
    # In a process of its own, as users have it: what an unfilled buffer holds depends on what was drawn before.
    process = diagnose(tmp_path, "--fault", "render-thread", "--format", "json", horizon=8)
    report = json.loads(process.communicate(timeout=200)[0])
    headline = report["episodes"][0]["findings"][0]
    assert (headline["code"], headline["first_step"]) == ("VD101", -9)


def diagnose(folder: Path, *options: str, horizon: int = 20) -> subprocess.Popen[str]:
    """`vladoctor diagnose` on one episode of task 0, as a process."""
    run = folder / "run.yaml"
    text = (RUNS / "evidence.yaml").read_text().replace("../tiny-openvla", str(RUNS.parent / "tiny-openvla"))
    run.write_text(text.replace("env:\n", f"env:\n  horizon: {horizon}\n"))
    command = [sys.executable, "-m", "vladoctor", "diagnose", str(run), "--task", "0", "--episodes", "1"]
    return subprocess.Popen(
        [*command, "--out", str(folder / "out"), *options], cwd=folder, stdin=subprocess.DEVNULL, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_a_loop_that_raises_keeps_its_trace_and_fails_the_run(
    policy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vladoctor.loop import Loop

    act, calls = Loop.act, 0

    def breaks(self: Loop, obs: Any) -> list[float]:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise FloatingPointError("the arm is on fire")
        return act(self, obs)

    monkeypatch.setattr(Loop, "act", breaks)
    result = run_session(spec_of(), out=tmp_path, policy=policy)
    episode = read_episode(find_traces(tmp_path)[0])
    assert result.exit_status == 2
    assert (episode.outcome.ended, episode.outcome.error) == ("exception", "FloatingPointError: the arm is on fire")
    assert len(list(episode.queries())) == 5


def test_traces_of_an_earlier_run_are_never_overwritten(healthy: RunResult, policy: Any) -> None:
    assert healthy.folder is not None
    before = find_traces(healthy.folder)[0].read_bytes()
    with pytest.raises(UserError, match="already holds traces"):
        run_session(spec_of(), out=healthy.folder, policy=policy)
    assert find_traces(healthy.folder)[0].read_bytes() == before


def test_a_killed_run_can_be_judged_up_to_its_last_step(tmp_path: Path) -> None:
    process = diagnose(tmp_path, "--fault", "flip-vertical", horizon=280)
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            traces = find_traces(tmp_path / "out", missing_ok=True)
            if traces and len(list(read_episode(traces[0]).queries())) >= 5:
                break
            time.sleep(0.5)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()
    result = replay_session([tmp_path / "out"])
    diagnosis = result.diagnoses[0]
    assert diagnosis.episode.truncated
    assert len(list(diagnosis.episode.queries())) >= 5
    assert diagnosis.headline is not None
    assert diagnosis.headline.code == "VD201"
