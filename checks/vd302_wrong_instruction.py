r"""The policy was told something else than the task that the environment runs and scores.

## What it looks at

The words of each query's instruction, without the template around them, against the words of the environment's task:
nothing at all, a placeholder (`<instruction>`, `None`, `{task}`), another task's of the same suite, a full stop too
many, what is left of a file's name (`_`, `KITCHEN_SCENE3`, `.bddl`), the brackets of a list, other words. White space
and capitals are VD301's. Of LIBERO, both the words of the BDDL file and those of its name count as right.

## Why it is bad

The environment scores its own task, whatever the policy was told. A policy that obeys is counted as failing; one that
was told nothing does what it has seen most. And a fine-tuned policy knows each task by one sentence: one full stop more
made OpenVLA-OFT fail altogether (moojink/openvla-oft#95), while in the small policy of the demo another object's name
moves the arm to that object.

## Evidence

`expected` and `seen` are the two instructions, `diff` leads from the first to the second, `queries_with_it` says at how
many of the queries. Severity: stop where the policy was told nothing, a placeholder, or another task of the suite; fix
where it is the same sentence with something left on it, in a suite whose sentences are fixed; look where the sentence
was put in other words, which may be the very thing that is being tried.

## Fix

Take the instruction from the task that the environment was made for, anew for every episode:

```python
task = benchmark.get_benchmark(suite)().get_task(task_id)
env = OffScreenRenderEnv(bddl_file_name=os.path.join(bddl_folder, task.problem_folder, task.bddl_file))
prompt = f"In: What action should the robot take to {task.language.lower()}?\nOut:"
```

## Known gaps

Where the environment says no instruction, only emptiness and placeholders can be told. Where the prompt follows no
template that is known, it is only looked whether it holds the task's words. Which of the suite's other tasks was named
is known where the suite was recorded. That the model pays heed to the words is another question.

## References

- moojink/openvla-oft#95: one full stop more at the end of the instruction, and the policy fails altogether.
- openvla/openvla#225: instructions shortened, and taken from file names.
- openvla/openvla#221: are the instructions of training and evaluation the same?
- starVLA/starVLA#400: the first environment's instruction for all of a batch.
- huggingface/lerobot#1424: the environment has no attribute for the task, and the policy is told nothing.
- Physical-Intelligence/openpi#423: "trace the prompt field".
- Names to words: Lifelong-Robot-Learning/LIBERO@8f1084e libero/libero/benchmark/__init__.py,
  grab_language_from_filename.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vladoctor.check import Abstention, Check, Clear, Fault, Problem, Severity, Stage, Verdict
from vladoctor.facts.prompt import (
    SLOT,
    Instruction,
    difference,
    from_file_name,
    instructions_said,
    is_placeholder,
    plain,
    visible,
    without_marks,
    without_wrapping,
)

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.lint.facts import SourceFacts
    from vladoctor.loop import Loop

FILLERS = frozenset(
    {
        "a", "an", "the", "it", "its", "and", "or", "to", "of", "in", "on", "at", "into", "onto", "from", "with", "up",
        "down", "then", "your", "please", "robot",
    }
)  # fmt: skip
"""Words that say nothing about which task it is."""


@dataclass(frozen=True)
class _Task:
    """What the environment runs.

    Attributes:
        languages: its instruction, in each of the forms that are right; empty where it says none.
        others: instructions of the suite's other tasks.
        fixed: the suite's sentences are the very ones of the checkpoint's training.
    """

    languages: tuple[str, ...]
    others: tuple[str, ...]
    fixed: bool

    @property
    def language(self) -> str:
        return self.languages[0]


@dataclass(frozen=True)
class _Wrong:
    """What is wrong with an instruction, in a clause that follows "the instruction", and what follows from it."""

    what: str
    effect: str
    severity: Severity


def judge(facts: Facts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Compare every distinct instruction with the task's; the gravest wrong one is shown."""
    said = instructions_said(facts.episode, facts.profile)
    if not said:
        yield Abstention("no text was recorded that tells the policy what to do", missing=_text_expected(facts))
        return
    task = _task(facts)
    template = str(facts.profile.get("prompt.template") or "")
    own_words = bool(template.replace(SLOT, "").strip())
    found = [(one, _wrong(one, task, _text_expected(facts), own_words)) for one in said]
    wrong = [(one, about) for one, about in found if about is not None]
    if wrong:
        gravest = min(wrong, key=lambda pair: (list(Severity).index(pair[1].severity), pair[0].steps[0]))
        queries = sum(len(one.steps) for one in said)
        yield _problem(*gravest, [one for one, _ in wrong], task, queries)
    elif not task.languages:
        yield Abstention("the environment does not say what its task is called")
    elif any(one.words is None and not _holds(one.prompt, task.languages) for one in said):
        yield Abstention("the prompt follows no template that is known, and the task's words are not in it")
    else:
        yield Clear("the instruction is the task's at all queries", {"instruction": said[0].words or task.language})


def _text_expected(facts: Facts) -> bool:
    return bool(facts.profile.get("prompt.template") or facts.profile.get("prompt.request"))


def _task(facts: Facts) -> _Task:
    task = facts.episode.task
    stated = [task.get(name) for name in ("language", "bddl_language")]
    languages = tuple(dict.fromkeys(one for one in stated if isinstance(one, str) and one.strip()))
    known = {plain(one) for one in languages}
    suite = task.get("suite_languages") or ()
    others = tuple(one for one in suite if isinstance(one, str) and plain(one) not in known)
    fixed = str(task.get("suite") or "").startswith("libero") and bool(facts.profile.get("prompt.template"))
    return _Task(languages, others if languages else (), fixed)


def _wrong(said: Instruction, task: _Task, conditioned: bool, templated: bool) -> _Wrong | None:
    """What is wrong with an instruction; None where nothing is, or nothing can be told.

    Args:
        conditioned: the profile says that the policy is told something.
        templated: and that there are words around it, which VD301 misses where they are not there.
    """
    fixed = Severity.FIX if task.fixed else Severity.LOOK
    if said.words is None:
        other = None if _holds(said.prompt, task.languages) else _held(said.prompt, task.others)
        if other or templated or (said.prompt.strip() and not is_placeholder(said.prompt)):
            return _other_task(other) if other else None
    words = plain(said.prompt if said.words is None else said.words)
    rights = [plain(one) for one in task.languages]
    if words in rights:
        return None
    if not without_marks(words):
        if not words and not task.languages and not conditioned:
            return None
        grave = Severity.STOP if conditioned else Severity.LOOK
        return _Wrong("is empty", "The policy is not told what to do.", grave)
    if without_wrapping(words) in rights:
        return _Wrong("is written out as a list, with its brackets or quotation marks", _UNSEEN, fixed)
    if is_placeholder(words):
        return _Wrong(f"is a placeholder, `{visible(words)}`", "The policy is not told what to do.", Severity.STOP)
    if not rights:
        return None
    marked = [one for one in rights if without_marks(words) == without_marks(one)]
    if marked:
        return _Wrong(_marks(words, marked[0]), _UNSEEN, fixed)
    named, left = from_file_name(words)
    if left and without_marks(named) in map(without_marks, rights):
        return _Wrong(f"was made of a file's name, of which {' and '.join(left)} stayed", _UNSEEN, fixed)
    other = next((one for one in task.others if without_marks(one) in (without_marks(words), named)), None)
    if other is not None:
        return _other_task(other)
    if _holds(words, task.languages):
        return _Wrong("has more words than the task's", _UNSEEN, Severity.LOOK)
    if _content(words) & set().union(*map(_content, rights)):
        return _Wrong("puts the task in other words", f"If that is not what is being tried: {_UNSEEN}", Severity.LOOK)
    return _Wrong("says something else than the task", "The environment scores its own task.", fixed)


_UNSEEN = "This checkpoint has not been trained on this sentence."


def _other_task(other: str) -> _Wrong:
    return _Wrong(
        f"is that of another task of the suite, `{other}`",
        "The policy is told to do one thing, and the environment waits for another.",
        Severity.STOP,
    )


def _marks(seen: str, right: str) -> str:
    if seen.rstrip(".") == right:
        return "ends with a full stop, and the task's has none"
    if right.rstrip(".") == seen:
        return "lacks the full stop at the end of the task's"
    return "has other punctuation than the task's"


def _content(words: str) -> set[str]:
    return set(re.findall(r"[^\W\d_]+", words)) - FILLERS


def _holds(text: str, languages: tuple[str, ...]) -> bool:
    return _held(text, languages) is not None


def _held(text: str, languages: tuple[str, ...]) -> str | None:
    """The first of the instructions whose words a text holds in a row."""
    bounded = plain(text)
    for one in languages:
        if re.search(rf"(?<!\w){re.escape(without_marks(one))}(?!\w)", bounded):
            return one
    return None


def _problem(said: Instruction, about: _Wrong, wrong: list[Instruction], task: _Task, queries: int) -> Problem:
    steps = sorted(step for one in wrong for step in one.steps)
    seen = said.prompt if said.words is None else said.words
    evidence: dict[str, Any] = {"expected": task.language if task.languages else "an instruction", "seen": seen}
    if task.languages and said.words is not None:
        evidence["diff"] = difference(str(task.language), str(seen))
    evidence["queries_with_it"] = f"{len(steps)} of {queries}"
    where = "" if len(steps) == queries else f" in {len(steps)} of {queries} queries"
    meant = f' The task is "{task.language}".' if task.languages else ""
    return Problem(
        message=f"The instruction{where} {about.what}.{meant} {about.effect}",
        remedy="Take the instruction from the task that the environment was made for, anew for every episode, and hand "
        "it on as it is:\n```python\ntask = benchmark.get_task(task_id)\n"
        "prompt = build_prompt(task.language)\n```\nPrint it once an episode, right before the processor is called.",
        severity=about.severity,
        first_step=steps[0],
        last_step=steps[-1],
        evidence=evidence,
    )


def _saying(change: Callable[[Loop], str]) -> Callable[[Loop], None]:
    """Have the loop say something else than its task's instruction."""

    def apply(loop: Loop) -> None:
        build, words = loop.stages.prompt, change(loop)
        loop.stages.prompt = lambda instruction: build(words)

    return apply


def _unfilled(loop: Loop) -> None:
    """The template is filled in one place and not in the other: an f is missing in front of the string."""
    build = loop.stages.prompt
    loop.stages.prompt = lambda instruction: build(SLOT)


def _suite(loop: Loop) -> list[str]:
    from vladoctor.adapters.libero import suite_languages

    return suite_languages(loop.task.suite)


def _counted_from_one(loop: Loop) -> str:
    languages = _suite(loop)
    return languages[(loop.task.task_id + 1) % len(languages)]


def _first_one_kept(loop: Loop) -> None:
    """A wrapper of the policy keeps the instruction that X text is renewed."""
    build, languages, asked = loop.stages.prompt, _suite(loop), 0
    # The task before this one in the suite.
    kept = languages[loop.task.task_id - 1]

    def prompt(instruction: str) -> str:
        nonlocal asked
        asked += 1
        return build(kept if asked <= _RENEWED else instruction)

    loop.stages.prompt = prompt


_RENEWED = 20

_GRAMMAR = re.compile(r"pick up the (.+) and place it in the (.+)")


def _reworded(loop: Loop) -> str:
    return _GRAMMAR.sub(r"grab the \1 and drop it into the \2", loop.task.language)


def judge_source(facts: SourceFacts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Look for one instruction in the source where the loop goes through a benchmark's tasks."""
    if not facts.prompt.known or facts.environment != "libero" or facts.kind != "loop":
        yield Abstention("what the policy is told, or which tasks are run, is not known")
        return
    wrong = facts.prompt.wrong(lambda prompt: prompt.fixed)
    if wrong is None:
        yield Clear("the instruction is the task's")
        return
    yield Problem(
        message=f"The policy is told {wrong.value.text!r} whatever the task is; LIBERO has an instruction for each.",
        remedy="Tell it `task.language`.",
        severity=Severity.FIX,
        evidence={"seen": wrong.value.text},
        place=wrong.place,
        trail=wrong.trail,
    )


CHECK = Check(
    code="VD302",
    name="wrong-instruction",
    stage=Stage.PROMPT,
    judge=judge,
    judge_source=judge_source,
    needs=(Stage.PROMPT,),
    faults=(
        Fault(
            "instruction-empty",
            "the task is read from an attribute that the environment does not have, and the default is the empty text",
            _saying(lambda loop: getattr(loop.env, "task_description", "")),
            reports=("huggingface/lerobot#1424",),
        ),
        Fault(
            "instruction-placeholder",
            "the instruction's name in braces instead of the instruction: an f is missing in front of the string",
            _unfilled,
        ),
        Fault(
            "instruction-none",
            "an attribute of the environment that is None is formatted into the prompt",
            _saying(lambda loop: str(getattr(loop.env, "task_description", None))),
        ),
        Fault(
            "instruction-other-task",
            "the instructions' list is counted from one, the environments' from zero",
            _saying(_counted_from_one),
        ),
        Fault(
            "instruction-stale",
            "a wrapper of the policy keeps the instruction of the task before, for the first 20 queries",
            _first_one_kept,
        ),
        Fault(
            "instruction-full-stop",
            "a full stop behind the instruction, as people write it",
            _saying(lambda loop: f"{loop.task.language}."),
            reports=("moojink/openvla-oft#95",),
        ),
        Fault(
            "instruction-underscores",
            "the name of the task's file in the place of its instruction",
            _saying(lambda loop: loop.task.bddl_file.stem),
            reports=("openvla/openvla#225",),
        ),
        Fault(
            "instruction-list",
            "the instruction is handed over in a list of one, and the list is formatted into the prompt",
            _saying(lambda loop: str([loop.task.language])),
        ),
        Fault(
            "instruction-paraphrase",
            "the task in other words",
            _saying(_reworded),
        ),
    ),
)
