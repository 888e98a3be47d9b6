"""What a run is acquitted of: stage by stage, with numbers, and as a whole only where every stage was judged."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from dataclasses import replace

import jsonschema
import pytest
from diagnoses import ORIENTATION, RIGHT, diagnosis, result

from vladoctor.check import Clear, Stage, all_checks
from vladoctor.diagnosis import CheckResult, Diagnosis, RunDiagnosis
from vladoctor.report.acquittal import ACQUITTED, acquitted, lacking, stages
from vladoctor.report.html import render
from vladoctor.report.json import run_report
from vladoctor.report.terminal import print_summary
from vladoctor.result import RunResult
from vladoctor.schemas import load_schema


def whole(without: Sequence[str] = ()) -> Diagnosis:
    """An episode in which every check of an episode found right what it looked at."""
    results = [
        CheckResult(check.code, check.name, "passed", clears=(Clear(f"all is well with {check.name}", {"steps": 128}),))
        for check in all_checks()
        if check.judge and not check.about_evidence and check.stage.value not in without
    ]
    return replace(diagnosis(), results=tuple(results))


def told(run: RunResult) -> str:
    out = io.StringIO()
    print_summary(run, stream=out, width=100, colour=False)
    return " ".join(out.getvalue().split())


def test_a_loop_judged_at_every_stage_leaves_the_policy() -> None:
    run = result(whole(), whole())
    assert acquitted(run, stages(run))
    assert lacking(run, stages(run)) == ""
    assert [one.stage for one in stages(run)] == list(Stage)
    assert ACQUITTED in told(run)
    assert ACQUITTED in render(run)
    found = run_report(run)
    jsonschema.validate(found["acquittal"], load_schema("report")["properties"]["acquittal"])
    assert found["acquittal"]["acquitted"]


@pytest.mark.parametrize(
    ("episodes", "said"),
    [
        ([whole(["process"])], "judged by no check: process"),
        ([whole(), whole(["render", "score"])], "judged in some episodes only: render (1 of 2), score (1 of 2)"),
    ],
)
def test_a_stage_that_was_not_judged_is_named_in_the_place_of_it(episodes: list[Diagnosis], said: str) -> None:
    run = result(*episodes)
    assert not acquitted(run, stages(run))
    assert lacking(run, stages(run)) == said
    assert said in told(run).replace("Judged", "judged")
    assert said in render(run)
    for page in (told(run), render(run)):
        assert ACQUITTED not in page
    assert run_report(run)["acquittal"]["lacking"] == said


def test_what_the_run_shows_judges_a_stage_too() -> None:
    right = CheckResult("VD802", "too-few-trials", "passed", clears=(Clear("95 of 100 succeeded"),))
    run = replace(result(whole(["score"])), overall=RunDiagnosis((right,)))
    assert acquitted(run, stages(run))
    assert "over the run: 95 of 100 succeeded" in told(run)


@pytest.mark.parametrize(
    "run",
    [
        result(whole(), diagnosis(31, [ORIENTATION])),
        result(whole(), failures=["task 3 could not start"]),
        result(replace(whole(), episode=replace(whole().episode, truncated=True))),
        result(),
    ],
)
def test_nothing_is_acquitted_beside_a_finding_or_a_failure(run: RunResult) -> None:
    assert not acquitted(run, stages(run))
    assert ACQUITTED not in told(run)
    assert ACQUITTED not in render(run)


def test_what_was_found_right_stands_by_stage_with_its_numbers() -> None:
    run = result(diagnosis())
    shown = told(run)
    places = [shown.index(word) for word in ("render", RIGHT["VD101"], "image ✓", RIGHT["VD201"], RIGHT["VD301"])]
    assert places == sorted(places)
    page = html.unescape(render(run))
    assert all(said in page for said in RIGHT.values())
    image = next(one for one in run_report(run)["acquittal"]["stages"] if one["stage"] == "image")
    assert (image["state"], image["codes"]) == ("right", ["VD201"])
    assert image["right"][0]["said"] == RIGHT["VD201"]


def test_beside_a_finding_it_is_folded_away() -> None:
    page = render(result(diagnosis(30, [ORIENTATION])))
    assert '<details class="acquittal">' in page
    assert RIGHT["VD301"] in page
    assert '<details class="acquittal" open>' in render(result(diagnosis()))
