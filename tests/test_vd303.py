"""VD303 prompt-tokens: ids of a right text that are not those of training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from episodes import PROMPT, episode

from vladoctor.check import Abstention, Clear, Problem, Verdict
from vladoctor.checks.vd303_prompt_tokens import CHECK
from vladoctor.facts import Facts
from vladoctor.profiles import Profile, load_profile
from vladoctor.records import Episode, Query, Step

LIBERO = load_profile("openvla-libero")

# Llama-2's own ids around the end of a prompt: "?" 29973, newline 13, "Out" 3744, ":" 29901.
IDS = [1, 512, 29901, 1724, 3158, 881, 278, 19964, 2125, 29973, 13, 3744, 29901]
KNOWN = {"expected_prompt_ids": IDS}


def judge(ids: list[int], profile: Profile = LIBERO, *, boundary: str = "predict_action", **arguments: Any) -> Verdict:
    options = {"prompt_ids_added": [29871], **arguments.pop("options", {})}
    recorded = episode(input_ids=ids, **{"options": options, "task": KNOWN, **arguments})
    return said(_at(recorded, boundary), profile)


def said(recorded: Episode, profile: Profile = LIBERO) -> Verdict:
    assert CHECK.judge is not None
    (verdict,) = CHECK.judge(Facts(recorded, profile), dict(CHECK.thresholds))
    return verdict


def _at(recorded: Episode, boundary: str) -> Episode:
    steps = [replace(step, query=replace(step.query or Query(), boundary=boundary)) for step in recorded.steps]
    return replace(recorded, steps=steps)


def test_the_right_ids_are_clear() -> None:
    verdict = judge(IDS)
    assert isinstance(verdict, Clear)
    assert "29871 stands behind them" in verdict.message
    assert "those of the checkpoint's tokenizer" in verdict.message


def test_an_id_that_the_loop_has_appended_itself() -> None:
    assert isinstance(judge([*IDS, 29871], options={"prompt_ids_added": []}), Clear)


def test_padding_in_front_is_clear() -> None:
    assert isinstance(judge(IDS, options={"padding": [7, 0, 0]}), Clear)


@pytest.mark.parametrize(
    ("ids", "options", "what"),
    [
        ([1, *IDS], {}, "the beginning-of-text id (1) stands in it 2 times"),
        (IDS[1:], {}, "the beginning-of-text id (1) is missing"),
        (IDS, {"prompt_ids_added": []}, "the id 29871, behind which every answer of training begins, is missing"),
        ([*IDS, 29871], {}, "the id 29871 stands 2 times"),
        (IDS[:8], {}, "it was cut to 8 ids: of 13, the end is missing"),
        ([1, *IDS[6:]], {}, "it was cut to 8 ids: of 13, the beginning is missing"),
        ([*IDS, 13], {}, "1 ids (13) stand behind it"),
        ([*IDS[:4], 4000, *IDS[5:]], {}, "not those that the checkpoint's own tokenizer makes"),
        (IDS, {"padding": [0, 0, 5]}, "behind it stand 5 ids of padding"),
        (IDS, {"padding": [0, 2, 0]}, "in it stand 2 ids of padding"),
        ([*IDS, 32000, 32000], {}, "2 ids of padding (32000) stand in it that no attention mask hides"),
    ],
)
def test_other_ids_fire(ids: list[int], options: dict[str, Any], what: str) -> None:
    verdict = judge(ids, options=options)
    assert isinstance(verdict, Problem)
    assert what in verdict.message
    assert (verdict.first_step, verdict.last_step) == (0, 29)
    assert verdict.evidence["expected_ids"][: len(IDS)] == IDS


def test_a_loop_that_calls_generate_itself() -> None:
    recorded = _at(episode(input_ids=IDS), "generate")
    verdict = said(recorded)
    assert isinstance(verdict, Problem)
    assert "29871" in verdict.message
    assert isinstance(said(_at(episode(input_ids=[*IDS, 29871]), "generate")), Clear)


def test_what_was_not_seen_is_not_judged() -> None:
    verdict = said(_at(episode(input_ids=IDS), "predict_action"))
    assert isinstance(verdict, Clear)
    assert "what stands behind them was not seen" in verdict.message


def test_other_words_are_no_other_tokenizer() -> None:
    text = PROMPT.replace("soup", "stew")
    assert isinstance(judge([*IDS[:4], 4000, *IDS[5:]], prompt=text), Clear)


def test_without_the_expected_ids_the_ends_are_judged() -> None:
    assert isinstance(judge(IDS[:8], task={}), Clear)
    assert isinstance(judge([1, *IDS], task={}), Problem)


def test_only_the_wrong_steps_are_named() -> None:
    recorded = episode(input_ids=IDS, options={"prompt_ids_added": [29871]}, task=KNOWN)
    wrong: Step = recorded.steps[9]
    assert wrong.query is not None
    wrong.query.input_ids = (1, *IDS)
    verdict = said(recorded)
    assert isinstance(verdict, Problem)
    assert (verdict.first_step, verdict.last_step) == (9, 9)
    assert verdict.evidence["queries_with_it"] == "1 of 30"


def test_no_ids_recorded() -> None:
    verdict = judge([])
    assert isinstance(verdict, Abstention)
    assert verdict.missing


def test_nothing_expected() -> None:
    verdict = judge(IDS, load_profile("unknown"), task={})
    assert isinstance(verdict, Abstention)
    assert not verdict.missing
