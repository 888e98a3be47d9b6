"""What reports say of the observing itself: stages, links, the program, what the taps cost."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from test_coverage import CLIENT, whole
from test_html import Page

from vladoctor.check import all_checks
from vladoctor.diagnosis import Diagnosis, diagnose
from vladoctor.facts import Facts
from vladoctor.profiles import load_profile
from vladoctor.records import Episode
from vladoctor.report.html import render
from vladoctor.report.json import run_report
from vladoctor.report.seen import budget_in_words, cost, of_run, processes
from vladoctor.report.terminal import print_summary
from vladoctor.result import RunResult

PROGRAM: dict[str, Any] = {
    "command": ["python", "eval.py", "--suite", "two words"],
    "status": 0,
    "signal": "",
    "processes": [
        {"arguments": ["python", "eval.py"], "hooked": ["robosuite.environments.base", "robosuite.wrappers"]},
        {"arguments": ["python", "-c", "x"], "missing": "wrapt", "hooked": []},
        {"arguments": ["python", "helper.py"], "hooked": []},
    ],
}


def judged(episode: Episode, profile: str = "openvla-libero") -> Diagnosis:
    return diagnose(Facts(episode, load_profile(profile)), all_checks())


def timed(taps: float) -> Episode:
    episode = whole()
    timings = {"forward": 60.0, "vision": 30.0, "execute": 40.0, "taps": taps}
    return replace(episode, steps=[replace(step, timings=timings) for step in episode.steps])


def result(*diagnoses: Diagnosis, **run: Any) -> RunResult:
    return RunResult(None, {"profile": {"name": "openvla-libero", "reason": "by its statistics"}, **run}, diagnoses)


def terminal(made: RunResult) -> str:
    stream = io.StringIO()
    print_summary(made, stream=stream, width=400, colour=False)
    return stream.getvalue()


def test_the_cost_is_stated_against_the_loops_own_time() -> None:
    found = cost([timed(1.5)])
    assert found is not None
    # What lies within another stage, and the taps themselves, are none of the loop's.
    assert (found.taps, found.step, found.steps) == (1.5, 100.0, 12)
    assert found.sentence == "the taps took 1.5 ms of a 100 ms step (1.5 %)"
    assert cost([whole()]) is None
    made = result(judged(timed(1.5)), budget={"limit": 0.01, "shed": ["full frames"]})
    assert (
        "Cost: the taps took 1.5 ms of a 100 ms step (1.5 %); limit 1 %; left out to keep it: full frames"
        in terminal(made)
    )
    assert "Watching: the taps took 1.5 ms of a 100 ms step (1.5 %); limit 1 %" in Page(render(made)).words
    taps = run_report(made)["run"]["taps"]
    assert (taps["ms_per_step"], taps["share"]) == (1.5, 0.015)


@pytest.mark.parametrize("odd", [None, {}, {"limit": None}, 3, {"other": 1}])
def test_a_budget_of_another_kind_is_left_out(odd: Any) -> None:
    assert budget_in_words(odd) == ""


def test_stages_of_a_client_are_told_from_those_of_a_whole_loop() -> None:
    client = result(judged(whole(**CLIENT), "openpi-libero"))
    text = terminal(client)
    assert (
        "Seen: render, observe, image, prompt, post-process, execute, score; not seen: process, forward, decode, "
        in text
    )
    assert "un-normalise (the policy runs in another process)" in text
    page = Page(render(client)).words
    assert "What was seen" in page
    assert "what openpi.infer was given" in page
    seen = {stage["stage"]: stage["state"] for stage in run_report(client)["episodes"][0]["seen"]}
    assert (seen["image"], seen["forward"]) == ("seen", "not")
    assert "; not seen:" not in terminal(result(judged(whole())))


def test_episodes_are_put_together() -> None:
    one, other = judged(whole()), judged(whole(**CLIENT))
    covered = {stage.stage: stage for stage in of_run([one, other])}
    assert covered["forward"].state == "partly"
    assert covered["forward"].why.startswith("in 1 of 2 episodes, the policy runs in another process")
    assert (covered["image"].state, covered["image"].steps, covered["image"].total) == ("seen", 24, 24)
    assert of_run([]) == ()


def test_links_are_in_the_page_and_the_data() -> None:
    made = result(judged(whole()))
    sentence = "12 of 12 executed actions are the answer of the query of the same step"
    assert sentence in run_report(made)["episodes"][0]["links"]
    assert sentence in Page(render(made)).words


def test_the_program_stands_in_the_place_of_vladoctors_own_loop() -> None:
    made = result(judged(whole()), program=PROGRAM)
    assert "program python eval.py --suite 'two words' (3 processes)" in terminal(made)
    page = Page(render(made)).words
    assert "python eval.py --suite 'two words'" in page
    assert "Fault injected" not in page
    assert processes(PROGRAM) == [
        ("python eval.py", "taps on robosuite"),
        ("python -c x", "not watched: it has no wrapt"),
        ("python helper.py", "nothing in it to watch"),
    ]


def test_the_profile_and_its_reason_stand_on_top() -> None:
    page = Page(render(result(judged(whole())))).words
    assert page.index("Compared with the profile openvla-libero") < page.index("by its statistics")
    assert page.index("by its statistics") < page.index("The run")


def test_what_was_not_seen_is_no_stage_that_is_right() -> None:
    episode = whole()
    bare = replace(episode, steps=[replace(step, frames={}) for step in episode.steps], notes=("one remark",))
    made = result(judged(bare))
    page = Page(render(made)).words
    assert "render not seen" in page
    assert "So not everything could be judged." in page
    assert "one remark" in page
    assert run_report(made)["episodes"][0]["notes"] == ["one remark"]
    assert "not everything could be judged" in terminal(made)


def test_an_episode_without_a_number_goes_by_its_name() -> None:
    episode = replace(whole(), task={"environment": "gymnasium", "label": "Disc", "episode": 3})
    page = Page(render(result(judged(episode)))).words
    assert "Disc-ep3" in page
    assert "task ?" not in page
    assert "Environment gymnasium" in page
