"""What the episodes of a run say together: in the exit status, the terminal, the page and the JSON."""

from __future__ import annotations

import io
from dataclasses import replace

import jsonschema
import pytest
from diagnoses import ONE_STATE, ORIENTATION, diagnosis, overall, result

from vladoctor.check import Abstention, Severity
from vladoctor.diagnosis import CheckResult, Finding, RunDiagnosis
from vladoctor.report import html
from vladoctor.report.json import run_report
from vladoctor.report.terminal import print_summary
from vladoctor.result import RunResult
from vladoctor.schemas import load_schema
from vladoctor.testing.report import unseen

ALONE = replace(result(diagnosis(), diagnosis(31)), overall=overall(ONE_STATE))
BESIDE = replace(result(diagnosis(30, [ORIENTATION]), diagnosis(31)), overall=overall(ONE_STATE))
FOLLOWS = replace(
    result(diagnosis(30, [ORIENTATION])), overall=overall(replace(ONE_STATE, explained_by="VD201", code="VD803"))
)
RIGHT = replace(result(diagnosis()), overall=overall())


def said(run: RunResult) -> str:
    stream = io.StringIO()
    print_summary(run, stream=stream, width=100, colour=False)
    return " ".join(stream.getvalue().split())


UNSEEN = replace(
    RIGHT,
    overall=RunDiagnosis((CheckResult("VD802", "too-few-trials", "abstained", abstentions=(Abstention("x", True),)),)),
)


@pytest.mark.parametrize(
    ("run", "status"),
    [
        (RIGHT, 0),
        (ALONE, 1),
        (replace(RIGHT, overall=RunDiagnosis((CheckResult("VD802", "n", "crashed", error="E\n"),))), 2),
        (UNSEEN, 3),
    ],
)
def test_exit_status(run: RunResult, status: int) -> None:
    assert run.exit_status == status


def test_it_is_told_behind_the_episodes() -> None:
    text = said(BESIDE)
    assert text.index("VD201 image-orientation") < text.index("the run as a whole: VD602 initial-state")
    assert "fix · stage observe · the run as a whole" in text
    assert "All 50 episodes of this task began" in text
    assert "from step" not in text.split("the run as a whole: VD602")[1].split("Found right")[0]
    assert "VD802 too-few-trials over the run" in text


def test_a_run_whose_episodes_are_right_is_not_called_healthy() -> None:
    text = said(ALONE)
    assert "Healthy" not in text
    assert "Something is wrong in the run as a whole: VD602. Fix: it costs success." in text
    assert "Exit status 1" in text


def test_what_follows_from_an_episodes_finding_leads_nothing() -> None:
    text = said(FOLLOWS)
    assert "Over the run as a whole follows from VD201: └ VD803 initial-state (fix): All 50 episodes" in text
    assert "root cause: VD201" in text
    assert FOLLOWS.overall.headline is None


def test_a_healthy_run_says_what_was_found_right_over_it() -> None:
    assert "VD802 too-few-trials over the run: 500 episodes tell 5 points apart" in said(RIGHT)


def test_the_json_report_has_it_apart() -> None:
    report = run_report(BESIDE)
    jsonschema.Draft202012Validator(load_schema("report")).validate(report)
    (found,) = report["overall"]["findings"]
    assert (found["code"], found["scope"]) == ("VD602", "run")
    assert [check["state"] for check in report["overall"]["checks"]] == ["failed", "passed"]
    assert report["episodes"][0]["findings"][0]["scope"] == "episode"


def test_the_json_report_says_what_of_it_was_not_seen() -> None:
    report = run_report(UNSEEN)
    jsonschema.Draft202012Validator(load_schema("report")).validate(report)
    assert report["overall"]["missing"] == ["VD802 too-few-trials: x"]
    assert run_report(RIGHT)["overall"]["missing"] == []
    assert unseen(report) == ["VD802 too-few-trials: x"]
    assert unseen(report, ["VD802"]) == []


def test_the_page_has_a_section_of_it() -> None:
    page = html.render(BESIDE)
    assert "The episodes together" in page
    assert "All 50 episodes of this task began" in page
    assert "over the run as a whole: VD602 initial-state" in page
    assert "The episodes together" not in html.render(result(diagnosis()))


def test_the_page_leads_with_it_where_no_episode_shows_anything() -> None:
    page = html.render(ALONE)
    assert "The run as a whole: all 50 episodes of this task began in one and the same state (VD602)." in page
    assert 'href="#overall"' in page
    assert "Healthy" not in page


def test_findings_are_the_episodes_first() -> None:
    codes: list[Finding] = list(BESIDE.findings)
    assert [finding.code for finding in codes] == ["VD201", "VD602"]
    assert max(codes, key=lambda finding: finding.whole_run).severity is Severity.FIX
