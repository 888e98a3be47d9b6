r"""The prompt is not the one that the checkpoint was trained on, to the character.

## What it looks at

The text that the processor was given at each query, against the profile's template filled with the task's instruction
in the case that training used. Template and instruction are told apart: other *words* in the right template are not
this check's business, a capital letter or a second space is.

## Why it is bad

Nothing fails. A missing newline, a second trailing space or a capital letter becomes other token ids (in Llama-2's
vocabulary: pick 5839, Pick 23868; newline 13; two spaces 259), and a policy that saw one sentence frame in all of its
training is asked a question it has never read. In a small OpenVLA-style policy, the chat template of v0.1 and the bare
instruction each took 20 successes in 20 episodes to 0 in 10.

## Evidence

`expected` and `seen` are the two texts, `diff` leads from the first to the second character by character. What counts
is what reaches the model: if the checkpoint's own tokenizer makes the same ids of both (after `predict_action` has
appended 29871), nothing is said. A *single* trailing space is such a case.

## Fix

Build the prompt from the template, with the instruction in lower case, and let nothing strip, join or re-wrap it:

```python
prompt = f"In: What action should the robot take to {instruction.lower()}?\nOut:"
```

## Known gaps

Where only ids were recorded, and not those of the expected prompt, nothing can be said. Whether the words are the
task's is another question (VD302), and so is what the tokenizer makes of a right text (VD303).

## References

- moojink/openvla-oft#95: one full stop more at the end of the instruction, and the policy fails altogether.
- openvla/openvla#225: a shortened instruction makes the arm jitter at the start.
- DelinQu/SimplerEnv-OpenVLA@ccfe380 simpler_env/policies/openvla/openvla_model.py:95 and
  nchan18/xarm_openvla@023e089 openvla.py:45: the bare instruction, without template.
- MasonN808/vla-bench@4c7f88d src/benchmarks/openvla_policy_wrapper.py:101: a trailing space, which is harmless.
- Template: openvla/openvla@c8f03f4 experiments/robot/openvla_utils.py:158-163; lower case:
  prismatic/vla/datasets/datasets.py:42.
- openvla/openvla#303: a space between the newline and "Out:"; the gripper is wrong at 46 % of the steps of a replay.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from vladoctor.check import Abstention, Check, Clear, Fault, Problem, Severity, Stage, Verdict
from vladoctor.facts.prompt import (
    SLOT,
    PromptUse,
    difference,
    expected_ids,
    expected_prompt,
    followed_profile,
    follows_template,
    prompts_used,
    same_for_model,
    visible,
    words_of,
)
from vladoctor.lint.facts import Prompt
from vladoctor.lint.judging import replaced
from vladoctor.places import Fix
from vladoctor.profiles import Profile, load_profile

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.lint.facts import SourceFacts
    from vladoctor.loop import Loop

CONTEXT = 12
"""Characters shown before a difference."""

NAMES = {" ": "a space", "\n": "a newline", "\t": "a tab"}


def judge(facts: Facts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Compare every distinct prompt with the template; the first wrong one is shown."""
    profile, episode = facts.profile, facts.episode
    if not profile.get("prompt.template"):
        yield Abstention(f"profile {profile.name} names no prompt template")
        return
    uses = prompts_used(episode)
    language, ids = str(episode.task.get("language") or ""), expected_ids(episode)
    expected, append_id = expected_prompt(profile, language), profile.get("prompt.append_id")
    readable = [use for use in uses if use.text is not None or ids]
    if not readable:
        yield Abstention(
            "of the prompt only token ids were recorded, and not those of the expected one"
            if uses
            else "no prompt was recorded",
            missing=True,
        )
        return
    wrong = [
        use
        for use in readable
        if not same_for_model(use, expected, ids, append_id) and not follows_template(use, profile, language)
    ]
    if wrong:
        yield _problem(wrong, sum(len(use.steps) for use in uses), profile, language)
        return
    texts = [use.text for use in readable if use.text is not None]
    if not texts:
        yield Clear(f"the prompt's ids are those of the template of profile {profile.name}")
        return
    notes = {
        "a trailing space, which gives the same ids": any(text.endswith(" ") for text in texts),
        "other words than the task's": any(text.rstrip() != expected for text in texts),
    }
    but = " and ".join(note for note, holds in notes.items() if holds)
    yield Clear(f"the prompt is the template of profile {profile.name}{but and f', with {but}'}", {"prompt": texts[0]})


def _problem(wrong: list[PromptUse], queries: int, profile: Profile, language: str) -> Problem:
    template, first = str(profile.get("prompt.template")), wrong[0]
    steps = sorted(step for use in wrong for step in use.steps)
    evidence: dict[str, Any] = {
        "expected": expected_prompt(profile, language),
        "seen": first.text,
        "queries_with_it": f"{len(steps)} of {queries}",
    }
    if len(wrong) > 1:
        evidence["different_wrong_prompts"] = str(len(wrong))
    what, other = "its token ids are not those of the template", None
    if first.text is not None:
        # Other words than the task's are left to VD302: they are not to hide what is wrong with the template.
        words = words_of(first.text, template) or language
        reference = expected_prompt(profile, words)
        diff = difference(reference, first.text)
        evidence.update({"expected": reference, "diff": diff})
        other = followed_profile(first.text, profile)
        what = _describe(first.text, reference, words, diff, other)
    call = template.replace(SLOT, "{instruction.lower()}" if profile.get("prompt.lowercase") else SLOT)
    source = call.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
    remedy = f'Build the prompt as\n```python\nprompt = f"{source}"\n```'
    if other:
        remedy += (
            f"\nIf this is a checkpoint of that family after all, say so in run.yaml: `profile: {{name: {other}}}`."
        )
    return Problem(
        message=f"The prompt is not the one of training: {what}. The model reads other token ids than in training.",
        remedy=remedy,
        severity=Severity.FIX,
        first_step=steps[0],
        last_step=steps[-1],
        evidence=evidence,
    )


def _describe(seen: str, expected: str, words: str, diff: list[list[str]], other: str | None) -> str:
    if other:
        return f"it follows the template of {other} ({load_profile(other).summary})"
    if seen.strip().rstrip(".").lower() == words.strip().lower():
        return "it is the bare instruction, without the template around it"
    if seen.startswith("<s>"):
        return (
            "it begins with a written-out `<s>`, and the tokenizer puts one in front by itself, so that there are two"
        )
    if seen.lower() == expected.lower():
        capital = next(word for word, right in zip(seen.split(), expected.split(), strict=True) if word != right)
        return f"it holds capitals (`{capital}`) where training had none, and a capital changes the ids"
    if not any(op == "=" for op, _ in diff):
        return "nothing of the template is in it" if seen else "it is empty"
    edits: list[str] = []
    before = ""
    for index, (op, text) in enumerate(diff):
        if op == "=":
            before = text
            continue
        place = f"after `{visible(before[-CONTEXT:].strip(' '), spaces=False)}`" if before else "at the start"
        replaced = diff[index - 1][1] if op == "+" and index and diff[index - 1][0] == "-" else None
        if replaced is not None:
            edits[-1] = f"it has {_named(text)} in the place of {_named(replaced)} {place}"
        else:
            edits.append(f"it {'lacks' if op == '-' else 'has'} {_named(text)} {place}")
    return "; ".join(edits) if len(edits) <= 3 else f"it differs in {len(edits)} places"


def _named(text: str) -> str:
    """Text for a sentence; white space by its name."""
    if text in NAMES:
        return NAMES[text]
    return f"{len(text)} spaces" if not text.strip(" ") else f"`{visible(text)}`"


def _prompt(build: Callable[[str], str]) -> Callable[[Loop], None]:
    def apply(loop: Loop) -> None:
        loop.stages.prompt = build

    return apply


def _filled(profile: str, instruction: str) -> str:
    return str(load_profile(profile).get("prompt.template")).replace(SLOT, instruction)


HARMLESS = Fault(
    "prompt-trailing-space",
    "the prompt ends in one space, which becomes the id that predict_action appends anyway: nothing is to be said",
    _prompt(lambda instruction: f"In: What action should the robot take to {instruction.lower()}?\nOut: "),
)


def judge_source(facts: SourceFacts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Compare the text that the loop makes with what the profile expects of the loop."""
    given = facts.profile.get("prompt.request") if facts.by_policy else None
    template = given or (None if facts.by_policy else facts.profile.get("prompt.template"))
    if template is None or not facts.prompt.known:
        yield Abstention(
            f"profile {facts.profile.name} names no prompt"
            if template is None
            else f"the prompt: {facts.prompt.reason}"
        )
        return
    lower = bool(facts.profile.get("prompt.lowercase")) and given is None
    texts = [one.value for one in facts.prompt.seen]
    if any("{?}" in one.text for one in texts):
        yield Abstention("a part of the prompt is not known")
        return
    if facts.probe and all(one.fixed for one in texts):
        yield Abstention("a single query that nothing executes: a probe, most likely")
        return
    if facts.family == "spatialvla" or any("<|" in one.text for one in texts):
        yield Abstention("the checkpoint is given several prompts in use, or is built on another language model")
        return
    wrong = facts.prompt.wrong(lambda prompt: _differs(prompt, str(template), lower))
    if wrong is None and not facts.prompt.right(lambda prompt: _differs(prompt, str(template), lower)):
        yield Abstention("the prompt is right on some ways through the code, on others not")
        return
    if wrong is None:
        yield Clear("the prompt is the one of training, to the character")
        return
    seen = wrong.value
    bare = seen.text.strip() == "{instruction}" or (seen.fixed and not _framed(seen.text, str(template)))
    yield Problem(
        message=(
            "The policy is given the bare instruction"
            if bare and template != "{instruction}"
            else f"The prompt is {seen.text!r}"
        )
        + f"; the checkpoint was trained on {template!r}"
        + (" with the instruction in lower case." if lower else "."),
        remedy=f"Build it as in training:\n```python\nprompt = {_as_code(str(template), lower)}\n```",
        severity=Severity.STOP if not given else Severity.FIX,
        evidence={"expected": template, "seen": seen.text},
        place=wrong.place,
        trail=wrong.trail,
        fix=_fix(seen, str(template), lower),
    )


def _fix(prompt: Prompt, template: str, lower: bool) -> Fix | None:
    """Where the prompt is an f-string with the instruction in it and nothing else: the one of training."""
    if not prompt.filled or prompt.template is None or prompt.by_policy or "{instruction}" not in prompt.text:
        return None
    filled = f"{prompt.filled}.lower()" if lower and not prompt.filled.endswith(".lower()") else prompt.filled
    if any(mark in filled for mark in "\\'\"{}"):
        return None
    code = "f" + json.dumps(template.replace("{instruction}", f"{{{filled}}}"))
    return replaced(prompt.template, code, "the prompt of training, to the character", safe=True)


def _differs(prompt: Prompt, template: str, lower: bool) -> bool:
    """Whether the checkpoint reads another prompt than in training; one trailing space is read as none."""
    wanted = template.rstrip("\n") if prompt.by_policy else template
    if prompt.fixed:
        if not _framed(prompt.text, wanted):
            return True
        before, _, behind = wanted.partition("{instruction}")
        words = prompt.text.rstrip(" ")[len(before) : len(prompt.text.rstrip(" ")) - len(behind)]
        return lower and words != words.lower()
    text = prompt.text
    if text not in (wanted, f"{wanted} ") and not (prompt.by_policy and text.strip() == wanted.strip()):
        return True
    return lower and not prompt.lowercase


def _framed(text: str, template: str) -> bool:
    before, _, behind = template.partition("{instruction}")
    return text.startswith(before) and (text.endswith(behind) or text.removesuffix(" ").endswith(behind))


def _as_code(template: str, lower: bool) -> str:
    filled = template.replace("{instruction}", "{instruction.lower()}" if lower else "{instruction}")
    return "f" + repr(filled)


CHECK = Check(
    code="VD301",
    name="prompt-template",
    stage=Stage.PROMPT,
    judge=judge,
    judge_source=judge_source,
    needs=(Stage.PROMPT,),
    faults=(
        Fault(
            "prompt-no-newline",
            "a space in the place of the newline before “Out:”, as when a prompt is joined from lines",
            _prompt(lambda instruction: f"In: What action should the robot take to {instruction.lower()}? Out:"),
        ),
        Fault(
            "prompt-space-before-out",
            "a space between the newline and “Out:”, as when the template is indented",
            _prompt(lambda instruction: f"In: What action should the robot take to {instruction.lower()}?\n Out:"),
            reports=("openvla/openvla#303",),
        ),
        Fault(
            "prompt-v01",
            "the chat template of OpenVLA v0.1, as in the repository's older examples",
            _prompt(lambda instruction: _filled("openvla-v01", instruction.lower())),
        ),
        Fault(
            "prompt-bare",
            "the bare instruction, without a template",
            _prompt(lambda instruction: instruction.lower()),
        ),
        Fault(
            "prompt-capital",
            "the instruction begins with a capital letter, as people write it",
            _prompt(lambda instruction: _filled("openvla", instruction.capitalize())),
        ),
        Fault(
            "prompt-two-spaces",
            "two trailing spaces behind “Out:”",
            _prompt(lambda instruction: f"{_filled('openvla', instruction.lower())}  "),
        ),
    ),
)
