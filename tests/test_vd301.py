"""VD301 prompt-template: fires on what reaches the model, is silent on what does not, says what it cannot see."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from episodes import LANGUAGE, PROMPT, episode

from vladoctor.check import Abstention, Clear, Fault, Problem, Severity, Stage, Verdict
from vladoctor.checks.vd301_prompt_template import CHECK, HARMLESS
from vladoctor.facts import Facts
from vladoctor.profiles import Profile, find_profile, load_profile

FRAME = "In: What action should the robot take to "
LIBERO = load_profile("openvla-libero")

# Llama-2's own ids around the end of a prompt: "?" 29973, newline 13, "Out" 3744, ":" 29901.
PROMPT_IDS = [1, 512, 29901, 1724, 3158, 29973, 13, 3744, 29901]


def judge(prompt: str | None, profile: Profile = LIBERO, **arguments: Any) -> Verdict:
    (verdict,) = CHECK.judge(Facts(episode(prompt=prompt, **arguments), profile), dict(CHECK.thresholds))
    return verdict


FAULTS = {fault.name: fault for fault in CHECK.faults}


def said_by(fault: Fault) -> str:
    loop: Any = SimpleNamespace(stages=SimpleNamespace(prompt=None))
    assert fault.apply is not None
    fault.apply(loop)
    return str(loop.stages.prompt(LANGUAGE))


def test_the_right_prompt_is_clear() -> None:
    verdict = judge(PROMPT)
    assert isinstance(verdict, Clear)
    assert "character by character" not in verdict.message
    assert verdict.evidence["prompt"] == PROMPT


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        ("prompt-no-newline", "it has a space in the place of a newline after `the basket?`"),
        ("prompt-v01", "it follows the template of openvla-v01"),
        ("prompt-bare", "it is the bare instruction"),
        ("prompt-capital", "it holds capitals (`Pick`)"),
        ("prompt-two-spaces", "it has 2 spaces after"),
        ("prompt-space-before-out", "it has a space"),
    ],
)
def test_faults_fire(fault: str, what: str) -> None:
    found = FAULTS[fault]
    verdict = judge(said_by(found))
    assert isinstance(verdict, Problem)
    assert what in verdict.message
    assert verdict.severity is Severity.FIX
    assert CHECK.stage is Stage.PROMPT
    assert (verdict.first_step, verdict.last_step) == (0, 29)
    assert verdict.evidence["expected"] == PROMPT
    assert verdict.evidence["seen"] == said_by(found)


def test_all_faults_are_tested() -> None:
    (mark,) = (mark for mark in test_faults_fire.pytestmark if mark.name == "parametrize")
    assert {fault for fault, _ in mark.args[1]} == set(FAULTS)


@pytest.mark.parametrize(
    ("prompt", "what"),
    [
        (f"{FRAME}{LANGUAGE}?\nOut", "it lacks `:` after"),
        (f"{FRAME}{LANGUAGE}?\n", "it lacks `Out:` after"),
        (f"{FRAME}{LANGUAGE}?\nOut:\n", "it has a newline after"),
        (f"{FRAME}{LANGUAGE}?\nOut:\t", "it has a tab after"),
        (f"{FRAME}{LANGUAGE}? \nOut:", "it has a space after"),
        (f"{FRAME} {LANGUAGE}?\nOut:", "it has a space after"),
        (f" {FRAME}{LANGUAGE}?\nOut:", "it has a space at the start"),
        (f"<s>{FRAME}{LANGUAGE}?\nOut:", "so that there are two"),
        (f"{FRAME}{LANGUAGE}\nOut:", "it lacks `?` after"),
        (f"{LANGUAGE}.", "it is the bare instruction"),
        ("", "it is empty"),
        ("xyz", "nothing of the template is in it"),
        (f"{FRAME}Pick up the milk?\nOut:", "it holds capitals (`Pick`)"),
        (f"{FRAME}pick up  the milk?\nOut:", "it has a space after `to pick up`"),
        (f"{FRAME}pick up the milk? Out:", "it has a space in the place of a newline"),
    ],
)
def test_other_departures_fire(prompt: str, what: str) -> None:
    verdict = judge(prompt)
    assert isinstance(verdict, Problem)
    assert what in verdict.message


@pytest.mark.parametrize("prompt", [said_by(fault) for fault in CHECK.faults])
def test_the_difference_leads_from_one_text_to_the_other(prompt: str) -> None:
    verdict = judge(prompt)
    assert isinstance(verdict, Problem)
    diff = verdict.evidence["diff"]
    assert "".join(text for op, text in diff if op != "+") == verdict.evidence["expected"]
    assert "".join(text for op, text in diff if op != "-") == verdict.evidence["seen"]


def test_wrong_words_are_not_mixed_into_the_difference() -> None:
    verdict = judge(f"{FRAME}open the drawer? Out:")
    assert isinstance(verdict, Problem)
    assert [op for op, _ in verdict.evidence["diff"]] == ["=", "-", "+", "="]


def test_the_remedy_is_code_that_builds_the_expected_prompt() -> None:
    verdict = judge(LANGUAGE)
    assert isinstance(verdict, Problem)
    code = verdict.remedy.split("```python\n")[1].split("\n```")[0]
    names: dict[str, Any] = {"instruction": LANGUAGE.capitalize()}
    exec(code, names)
    assert names["prompt"] == PROMPT


def test_another_familys_template_names_its_profile() -> None:
    verdict = judge(said_by(FAULTS["prompt-v01"]))
    assert isinstance(verdict, Problem)
    assert "{name: openvla-v01}" in verdict.remedy


def test_v01_is_judged_by_its_own_template() -> None:
    v01 = load_profile("openvla-v01")
    assert isinstance(judge(said_by(FAULTS["prompt-v01"]), v01), Clear)
    verdict = judge(PROMPT, v01)
    assert isinstance(verdict, Problem)
    assert "the template of openvla" in verdict.message


@pytest.mark.parametrize("ids", [[], [*PROMPT_IDS, 29871]])
def test_one_trailing_space_is_silent(ids: list[int]) -> None:
    verdict = judge(said_by(HARMLESS), input_ids=ids)
    assert isinstance(verdict, Clear)
    assert "a trailing space, which gives the same ids" in verdict.message


def test_one_trailing_space_fires_where_it_became_another_id() -> None:
    assert isinstance(judge(said_by(HARMLESS), input_ids=[*PROMPT_IDS, 29871, 259]), Problem)


def test_equal_ids_silence_any_difference_in_the_text() -> None:
    task = {"expected_prompt_ids": PROMPT_IDS}
    assert isinstance(judge("In another notation", input_ids=PROMPT_IDS, task=task), Clear)
    assert isinstance(judge("In another notation", input_ids=[*PROMPT_IDS, 29871], task=task), Clear)
    assert isinstance(judge("In another notation", input_ids=[*PROMPT_IDS, 259], task=task), Problem)


def test_ids_alone_are_enough_if_the_expected_ones_are_known() -> None:
    task = {"expected_prompt_ids": PROMPT_IDS}
    assert isinstance(judge(None, input_ids=PROMPT_IDS, task=task), Clear)
    verdict = judge(None, input_ids=[*PROMPT_IDS, 13], task=task)
    assert isinstance(verdict, Problem)
    assert "its token ids are not those of the template" in verdict.message


@pytest.mark.parametrize("words", ["pick up the milk", f"{LANGUAGE}.", "do something", ""])
def test_other_words_are_left_to_another_check(words: str) -> None:
    verdict = judge(f"{FRAME}{words}?\nOut:")
    assert isinstance(verdict, Clear)
    assert "other words than the task's" in verdict.message


def test_a_task_in_capitals_is_lower_cased() -> None:
    assert isinstance(judge(PROMPT, task={"language": LANGUAGE.upper()}), Clear)


def test_case_does_not_matter_where_the_profile_does_not_say() -> None:
    profile = LIBERO.with_overrides({"prompt.lowercase": False})
    assert isinstance(judge(f"{FRAME}Pick Up?\nOut:", profile, task={"language": "Pick Up"}), Clear)


def test_without_the_tasks_language_the_template_is_still_judged() -> None:
    assert isinstance(judge(PROMPT, task={"language": ""}), Clear)
    assert isinstance(judge(f"{FRAME}{LANGUAGE}? Out:", task={"language": ""}), Problem)


def test_only_the_wrong_steps_are_named() -> None:
    recorded = episode(prompt=PROMPT)
    for step in recorded.steps[7:12]:
        assert step.query is not None
        step.query.prompt = LANGUAGE
    (verdict,) = CHECK.judge(Facts(recorded, LIBERO), {})
    assert isinstance(verdict, Problem)
    assert (verdict.first_step, verdict.last_step) == (7, 11)
    assert verdict.evidence["queries_with_it"] == "5 of 30"


def test_nothing_recorded() -> None:
    verdict = judge(None)
    assert isinstance(verdict, Abstention)
    assert verdict.missing


def test_only_ids_recorded() -> None:
    verdict = judge(None, input_ids=PROMPT_IDS)
    assert isinstance(verdict, Abstention)
    assert verdict.missing


def test_no_template_expected() -> None:
    verdict = judge(PROMPT, find_profile({"model_type": "octo"}, "libero_object"))
    assert isinstance(verdict, Abstention)
    assert not verdict.missing
