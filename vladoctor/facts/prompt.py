"""What the prompt should have been, what it was, and whether the difference reaches the model.

A difference in the text is harmless when the model is given the same ids. Where the ids of the expected prompt were
recorded (`task["expected_prompt_ids"]`, from the checkpoint's own tokenizer), they decide. Where not, one rule is
known, measured with Llama-2's tokenizer: a single trailing space is the very id that `predict_action` appends, while
two trailing spaces (id 259) or a trailing newline (id 13) are not. Source of the appending:
openvla/openvla@c8f03f4 prismatic/extern/hf/modeling_prismatic.py:510-515.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vladoctor.facts.tokens import prompt_ids
from vladoctor.profiles import load_profile, profile_names

if TYPE_CHECKING:
    from vladoctor.profiles import Profile
    from vladoctor.records import Episode

SLOT = "{instruction}"
MARKS = {" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍", "\u00a0": "⍽", "\u200b": "∅", "\ufeff": "∅"}
"""How white space, and what looks like nothing, is drawn."""

SHORTEST_ISLAND = 4
"""Equal runs shorter than this between two changes are counted as changed: single letters that happen to agree."""


@dataclass(frozen=True)
class PromptUse:
    """One prompt, and the steps at which it was used.

    Attributes:
        text: what the processor was given; None where only ids were seen.
        ids: ids of the prompt as they came from the processor.
        steps: numbers of the steps.
    """

    text: str | None
    ids: tuple[int, ...]
    steps: tuple[int, ...]


def prompts_used(episode: Episode) -> list[PromptUse]:
    """The distinct prompts of an episode, in order of their first use."""
    steps: dict[tuple[str | None, tuple[int, ...]], list[int]] = {}
    for step, query in episode.queries():
        if query.prompt is not None or query.input_ids:
            steps.setdefault((query.prompt, tuple(query.input_ids)), []).append(step)
    return [PromptUse(text, ids, tuple(numbers)) for (text, ids), numbers in steps.items()]


def expected_instruction(profile: Profile, language: str) -> str:
    """The task's instruction as the checkpoint was trained on it."""
    return language.lower() if profile.get("prompt.lowercase") else language


def expected_prompt(profile: Profile, language: str) -> str:
    """The prompt for an instruction; the template's own {instruction} stays where the instruction is not known."""
    return str(profile.get("prompt.template")).replace(SLOT, expected_instruction(profile, language) or SLOT)


def expected_ids(episode: Episode) -> tuple[int, ...] | None:
    """Ids that the checkpoint's tokenizer gives for the expected prompt; None where they were not recorded."""
    ids = episode.task.get("expected_prompt_ids")
    return tuple(int(value) for value in ids) if ids else None


def same_for_model(use: PromptUse, expected: str, ids: Sequence[int] | None, append_id: int | None) -> bool:
    """Whether the model is given what it would be given with the expected prompt.

    Args:
        expected: the expected prompt.
        ids: its ids, if known.
        append_id: id that `predict_action` appends unless it is there.
    """
    if use.text == expected:
        return True
    if ids and use.ids:
        return prompt_ids(use.ids, append_id) == prompt_ids(ids, append_id)
    return use.text is not None and without_harmless_space(use, append_id) == expected


def without_harmless_space(use: PromptUse, append_id: int | None) -> str:
    """The prompt's text, less a single trailing space where that becomes the id that is appended anyway."""
    text = use.text or ""
    single = text.endswith(" ") and not text[:-1].endswith((" ", "\n", "\t"))
    harmless = single and append_id is not None and (not use.ids or use.ids[-1] == append_id)
    return text[:-1] if harmless else text


def instruction_in(prompt: str, template: str) -> str | None:
    """The words that fill the template in a prompt; None where the prompt does not follow the template."""
    before, _, after = template.partition(SLOT)
    if len(prompt) < len(before) + len(after) or not (prompt.startswith(before) and prompt.endswith(after)):
        return None
    return prompt[len(before) : len(prompt) - len(after)]


def follows_template(use: PromptUse, profile: Profile, language: str) -> bool:
    """Whether all but the choice of words is as in training.

    Words other than the task's count as followed, if they are spelt as training spells them: which words they should be
    is another question.
    """
    if use.text is None:
        return False
    said = instruction_in(without_harmless_space(use, profile.get("prompt.append_id")), profile.get("prompt.template"))
    if said is None:
        return False
    if is_placeholder(said) or _SCENE.match(said):
        return True
    if said != " ".join(said.split()) or said != expected_instruction(profile, said):
        return False
    return said.lower() != language.lower() or said == expected_instruction(profile, language)


def words_of(prompt: str, template: str) -> str | None:
    """The words that fill the template in a prompt, whatever white space and case; None where it is another text."""
    before, _, after = (r"\s*".join(map(re.escape, part.split())) for part in template.partition(SLOT))
    found = re.fullmatch(rf"\s*{before}\s*(.*?)\s*{after}\s*", prompt, re.DOTALL | re.IGNORECASE)
    return " ".join(found[1].split()) if found else None


def followed_profile(prompt: str, than: Profile) -> str | None:
    """Name of another profile whose template the prompt follows, whatever surrounds it.

    Several families share a template: a relative of the profile is named first, then the one with the shortest name.
    A template without words of its own, which any prompt follows, is none to be named.
    """
    own, family = than.get("prompt.template"), than.name.partition("-")[0]
    for name in sorted(profile_names(), key=lambda known: (known.partition("-")[0] != family, len(known))):
        template = load_profile(name).get("prompt.template")
        words = template and template.replace(SLOT, "").strip()
        if words and template != own and instruction_in(prompt.strip(), template) is not None:
            return name
    return None


@dataclass(frozen=True)
class Instruction:
    """The words that one or more queries told the policy.

    Attributes:
        words: without the template around them; None where the prompt follows no template that is known.
        prompt: the text that they were found in.
        steps: numbers of the steps.
    """

    words: str | None
    prompt: str
    steps: tuple[int, ...]


def instructions_said(episode: Episode, profile: Profile) -> list[Instruction]:
    """The distinct instructions of an episode, in order of their first use; queries without any text are left out."""
    steps: dict[tuple[str | None, str], list[int]] = {}
    known: dict[str, str | None] = {}
    for step, query in episode.queries():
        asked = query.options.get("instruction")
        if isinstance(asked, str):
            # What a client hands over, before anything is made of it.
            steps.setdefault((asked, asked), []).append(step)
        elif query.prompt is not None:
            text = query.prompt
            if text not in known:
                known[text] = _words_in(text, profile)
            steps.setdefault((known[text], text), []).append(step)
    return [Instruction(words, text, tuple(numbers)) for (words, text), numbers in steps.items()]


def _words_in(prompt: str, profile: Profile) -> str | None:
    others = {str(load_profile(name).get("prompt.template") or "") for name in profile_names()}
    others = {template for template in others if template.replace(SLOT, "").strip()}
    for template in [profile.get("prompt.template"), *sorted(others)]:
        words = template and words_of(prompt, template)
        if words is not None and template:
            return str(words)
    return None


def plain(text: str) -> str:
    """Words in lower case, a space between any two."""
    return " ".join(text.lower().split())


def is_placeholder(words: str) -> bool:
    """Whether words stand where an instruction was to be put in, or say that there is none."""
    bare = plain(words).strip("\"'`")
    return bare in _PLACEHOLDERS or bool(_SLOT_LEFT.fullmatch(bare)) or bool(re.fullmatch(r"[.x_?-]{2,}", bare))


def without_marks(words: str) -> str:
    """Words without punctuation and quotation marks at their ends."""
    return plain(words).strip(" .,;:!?\"'`")


def without_wrapping(words: str) -> str:
    """Words that were written out as a list, a tuple or bytes, without what Python puts around them."""
    found = re.fullmatch(r"[\[(\s]*b?(['\"]?)(.*?)\1,?[\])\s]*", plain(words))
    return found[2] if found else plain(words)


def from_file_name(words: str) -> tuple[str, list[str]]:
    """An instruction that was made of a file's name, and what of the name was left in it."""
    text, left = plain(words), []
    if "_" in text:
        text, left = plain(text.replace("_", " ")), ["underscores"]
    text = text.rsplit("/", 1)[-1]
    found = re.search(r"(\.bddl|\.hdf5|[ .]demo(\.hdf5)?)$", text)
    if found:
        text, left = text[: found.start()], [*left, f"the ending `{found[0].strip()}`"]
    scene = _SCENE.match(text)
    if scene:
        text, left = text[scene.end() :], [*left, f"the scene (`{scene[0].strip()}`)"]
    return plain(text), left


_PLACEHOLDERS = frozenset(
    {
        "none", "null", "nan", "nil", "todo", "tbd", "fixme", "n/a", "na", "xxx", "undefined", "instruction",
        "instructions", "task", "prompt", "string", "text", "lang", "language", "description", "placeholder", "dummy",
        "default", "task description", "task_description", "language instruction", "language_instruction",
        "task instruction", "your instruction here", "instruction here", "insert instruction here", "your task here",
        "no instruction",
        "no task", "the instruction", "default task", "dummy task",
    }
)  # fmt: skip
_SLOT_LEFT = re.compile(r"[<\[{]+[^<>\[\]{}'\"]*[>\]}]+|<.* (object|function|method|class) .*>|\$\w+|%\(?\w*\)?s")
"""`{instruction}`, `<INSTRUCTION>`, `[task]`, `%s`, `$TASK`; and what Python writes of an object."""

_SCENE = re.compile(r"(?:[a-z]+[ _]){0,3}scene[ _]?\d+[ _]", re.IGNORECASE)
"""What names of tasks of libero_90 and libero_10 begin with: KITCHEN_SCENE3_."""


def visible(text: str, *, spaces: bool = True) -> str:
    """Text with white space drawn (or all of it but spaces), for use within a sentence."""
    return "".join(sign if sign == " " and not spaces else MARKS.get(sign, sign) for sign in text)


def difference(expected: str, seen: str) -> list[list[str]]:
    """What turns the expected prompt into the one seen: [op, text] with op "=" kept, "-" missing, "+" put in."""
    matcher = difflib.SequenceMatcher(None, expected, seen, autojunk=False)
    # (missing, put in) for a change, (kept, None) for an equal run.
    parts: list[tuple[str, str | None]] = []
    blocks = matcher.get_opcodes()
    for number, (op, low, high, seen_low, seen_high) in enumerate(blocks):
        island = 0 < number < len(blocks) - 1 and high - low < SHORTEST_ISLAND
        if op == "equal" and not island:
            parts.append((expected[low:high], None))
            continue
        missing, extra = expected[low:high], seen[seen_low:seen_high]
        if parts and parts[-1][1] is not None:
            before = parts.pop()
            missing, extra = before[0] + missing, (before[1] or "") + extra
        parts.append((missing, extra))
    listed: list[list[str]] = []
    for kept, put_in in parts:
        changes = (("=", kept),) if put_in is None else (("-", kept), ("+", put_in))
        listed.extend([op, text] for op, text in changes if text)
    return listed
