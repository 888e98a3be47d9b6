"""VD901 check-crashed: a check that raises is neither a pass nor a finding, and is told."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from episodes import LIBERO_OBJECT, episode, some_ids, unnormalise

from vladoctor.check import Abstention, Check, Clear, Stage, Verdict, all_checks
from vladoctor.checks.vd901_check_crashed import CHECK
from vladoctor.diagnosis import CheckResult, Diagnosis, diagnose
from vladoctor.facts import Facts
from vladoctor.profiles import load_profile
from vladoctor.records import Episode
from vladoctor.report.terminal import print_summary
from vladoctor.result import RunResult
from vladoctor.trace import TraceWriter, read_episode


def judged(recorded: Episode) -> Diagnosis:
    return diagnose(Facts(recorded, load_profile("openvla-libero")), all_checks())


def result(diagnosis: Diagnosis) -> CheckResult:
    (found,) = [one for one in diagnosis.results if one.code == "VD901"]
    return found


def recorded() -> Episode:
    return episode(some_ids(6), returned=unnormalise(LIBERO_OBJECT))


def malformed() -> Episode:
    """Statistics as somebody's converter wrote them: numbers as text, a value short."""
    broken = {**LIBERO_OBJECT, "q01": ["a", "b"]}
    return episode(some_ids(6), returned=unnormalise(LIBERO_OBJECT), norm_stats={"libero_object": broken})


def test_all_came_to_their_end() -> None:
    found = result(judged(recorded()))
    assert found.state == "passed"
    assert isinstance(found.clears[0], Clear)


def test_a_check_that_raised_is_named() -> None:
    assert CHECK.judge_checks is not None
    crashed = CheckResult("VD501", "unnorm-scale", "crashed", error="Traceback ...\nValueError: not a number: 'a'")
    (verdict,) = CHECK.judge_checks([crashed], {})
    assert isinstance(verdict, Abstention)
    assert verdict.missing
    assert verdict.reason == "VD501 unnorm-scale raised ValueError: not a number: 'a'"


def test_a_trace_that_makes_a_check_raise(tmp_path: Path) -> None:
    def naive(facts: Facts, limits: Mapping[str, float]) -> Iterator[Verdict]:
        stats = facts.episode.run["checkpoint"]["norm_stats"]["libero_object"]["action"]
        yield Clear(f"the span of x is {float(stats['q99'][0]) - float(stats['q01'][0])}")

    check = Check("VD999", "naive", Stage.UNNORMALISE, naive)
    diagnosis = diagnose(Facts(replayed(malformed(), tmp_path), load_profile("openvla-libero")), [check, CHECK])
    assert [one.code for one in diagnosis.crashed] == ["VD999"]
    (reason,) = result(diagnosis).abstentions
    assert reason.reason == "VD999 naive raised ValueError: could not convert string to float: 'a'"
    assert (diagnosis.findings, result(diagnosis).findings) == ((), ())
    whole = RunResult(None, {}, (diagnosis,), None)
    assert whole.exit_status == 2
    screen = io.StringIO()
    print_summary(whole, stream=screen, width=100)
    assert "vladoctor explain VD901" in " ".join(screen.getvalue().split())


def test_all_checks_are_asked_about_the_same_trace(tmp_path: Path) -> None:
    diagnosis = judged(replayed(malformed(), tmp_path))
    named = {reason.reason.split(" ")[0] for reason in result(diagnosis).abstentions}
    assert named == {one.code for one in diagnosis.crashed}


def replayed(recorded: Episode, folder: Path) -> Episode:
    """Written to a trace, and read again."""
    path = folder / "traces" / "task0-ep0.mcap"
    writer = TraceWriter(path, recorded.run, recorded.task)
    for step in recorded.steps:
        writer.write_step(step)
    writer.close(recorded.outcome, [])
    return read_episode(path)


def test_it_has_a_page() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "vladoctor", "explain", "VD901"], capture_output=True, text=True, check=True
    )
    assert "A check raised, and says nothing." in shown.stdout


def test_it_can_be_written_as_json() -> None:
    found: Any = [abstention.reason for abstention in result(judged(recorded())).abstentions]
    assert json.dumps(found) == "[]"
