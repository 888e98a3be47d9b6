"""VD302 wrong-instruction: what the policy is told against what the environment runs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from episodes import LANGUAGE, PROMPT, episode

from vladoctor.check import Abstention, Clear, Problem, Severity, Verdict
from vladoctor.checks.vd302_wrong_instruction import CHECK
from vladoctor.facts import Facts
from vladoctor.profiles import Profile, load_profile

LIBERO, UNKNOWN = load_profile("openvla-libero"), load_profile("unknown")
SUITE = [LANGUAGE, "pick up the cream cheese and place it in the basket", "pick up the milk and place it in the basket"]
STOVE = "turn on the stove and put the moka pot on it"
FAULTS = {fault.name: fault for fault in CHECK.faults}


def prompt(words: str) -> str:
    return PROMPT.replace(LANGUAGE, words)


def judge(text: str | None, profile: Profile = LIBERO, **task: Any) -> Verdict:
    recorded = episode(prompt=text, task={"suite_languages": SUITE, **task})
    assert CHECK.judge is not None
    (verdict,) = CHECK.judge(Facts(recorded, profile), dict(CHECK.thresholds))
    return verdict


@pytest.mark.parametrize("text", [PROMPT, prompt(LANGUAGE.upper()), prompt(f" {LANGUAGE} "), LANGUAGE])
def test_the_tasks_words_are_clear(text: str) -> None:
    assert isinstance(judge(text), Clear), "case, white space and template are VD301's"


def test_the_words_of_the_file_are_right_as_well() -> None:
    assert isinstance(judge(prompt("put the soup away"), bddl_language="put the soup away"), Clear)


@pytest.mark.parametrize(
    ("words", "what", "severity"),
    [
        ("", "is empty", Severity.STOP),
        (".", "is empty", Severity.STOP),
        ("{instruction}", "is a placeholder, `{instruction}`", Severity.STOP),
        ("<INSTRUCTION>", "is a placeholder", Severity.STOP),
        ("None", "is a placeholder", Severity.STOP),
        ("todo", "is a placeholder", Severity.STOP),
        ("%s", "is a placeholder", Severity.STOP),
        (SUITE[2], f"is that of another task of the suite, `{SUITE[2]}`", Severity.STOP),
        (f"{SUITE[2]}.", "is that of another task", Severity.STOP),
        (SUITE[1].replace(" ", "_"), "is that of another task", Severity.STOP),
        (f"{LANGUAGE}.", "ends with a full stop", Severity.FIX),
        (f'"{LANGUAGE}"', "written out", Severity.FIX),
        (f"['{LANGUAGE}']", "written out as a list", Severity.FIX),
        (LANGUAGE.replace(" ", "_"), "underscores stayed", Severity.FIX),
        (f"{LANGUAGE.replace(' ', '_')}.bddl", "underscores and the ending `.bddl` stayed", Severity.FIX),
        (f"please {LANGUAGE} now", "has more words", Severity.LOOK),
        ("grab the soup and drop it into the basket", "puts the task in other words", Severity.LOOK),
        ("wave", "says something else", Severity.FIX),
    ],
)
def test_other_words_fire(words: str, what: str, severity: Severity) -> None:
    verdict = judge(prompt(words))
    assert isinstance(verdict, Problem)
    assert what in verdict.message
    assert verdict.severity is severity
    assert (verdict.first_step, verdict.last_step) == (0, 29)
    assert verdict.evidence["expected"] == LANGUAGE


@pytest.mark.parametrize("words", [f"KITCHEN_SCENE3_{STOVE.replace(' ', '_')}", f"KITCHEN SCENE3 {STOVE}"])
def test_the_scene_in_the_names_of_libero_90(words: str) -> None:
    verdict = judge(prompt(words), language=STOVE, suite="libero_90", suite_languages=[STOVE])
    assert isinstance(verdict, Problem)
    assert "the scene (`kitchen scene3`)" in verdict.message


def test_a_prompt_of_an_earlier_task_is_found_at_its_steps() -> None:
    recorded = episode(prompt=PROMPT, task={"suite_languages": SUITE})
    for step in recorded.steps[:4]:
        assert step.query is not None
        step.query.prompt = prompt(SUITE[1])
    assert CHECK.judge is not None
    (verdict,) = CHECK.judge(Facts(recorded, LIBERO), {})
    assert isinstance(verdict, Problem)
    assert "in 4 of 30 queries" in verdict.message
    assert (verdict.first_step, verdict.last_step) == (0, 3)


def test_elsewhere_a_full_stop_is_only_looked_at() -> None:
    verdict = judge(prompt(f"{LANGUAGE}."), UNKNOWN, suite="")
    assert isinstance(verdict, Problem)
    assert verdict.severity is Severity.LOOK


def test_what_a_client_hands_over_is_judged() -> None:
    recorded = episode(prompt=None, options={"instruction": SUITE[1]}, task={"suite_languages": SUITE})
    assert CHECK.judge is not None
    (verdict,) = CHECK.judge(Facts(recorded, load_profile("openpi-libero")), {})
    assert isinstance(verdict, Problem)


@pytest.mark.parametrize("profile", [UNKNOWN, load_profile("lerobot-pi05-libero")])
def test_a_prompt_with_other_things_in_it(profile: Profile) -> None:
    text = "Task: {}, State: 12 34 56;\nAction: "
    assert isinstance(judge(text.format(LANGUAGE), profile), Clear)
    other = judge(text.format(SUITE[1]), profile)
    assert isinstance(other, Problem)
    assert "another task" in other.message
    assert isinstance(judge(text.format("do it"), profile), Abstention)


def test_an_environment_without_words() -> None:
    nothing: dict[str, Any] = {"language": None, "suite": "", "suite_languages": None}
    assert isinstance(judge(PROMPT, **nothing), Abstention)
    placeholder = judge(prompt("<instruction>"), **nothing)
    assert isinstance(placeholder, Problem)
    empty = judge(prompt(""), **nothing)
    assert isinstance(empty, Problem)


def test_a_policy_that_is_told_nothing_by_design() -> None:
    verdict = judge("", UNKNOWN, language=None, suite="", suite_languages=None)
    assert isinstance(verdict, Abstention)


def test_an_empty_text_in_the_place_of_the_whole_prompt_is_left_to_the_template() -> None:
    assert isinstance(judge(""), Abstention)


def test_nothing_recorded() -> None:
    verdict = judge(None)
    assert isinstance(verdict, Abstention)
    assert verdict.missing
    verdict = judge(None, UNKNOWN)
    assert isinstance(verdict, Abstention)
    assert not verdict.missing


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("instruction-empty", ""),
        ("instruction-none", "None"),
        ("instruction-placeholder", "{instruction}"),
        ("instruction-full-stop", f"{LANGUAGE}."),
        ("instruction-list", f"['{LANGUAGE}']"),
        ("instruction-paraphrase", "grab the alphabet soup and drop it into the basket"),
    ],
)
def test_faults_are_made_in_the_loop(name: str, said: str) -> None:
    stages = SimpleNamespace(prompt=lambda words: f"<{words}>")
    loop: Any = SimpleNamespace(stages=stages, env=object(), task=SimpleNamespace(language=LANGUAGE))
    apply = FAULTS[name].apply
    assert apply is not None
    apply(loop)
    assert stages.prompt(LANGUAGE) == f"<{said}>"
