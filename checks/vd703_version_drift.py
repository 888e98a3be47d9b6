"""The loop runs on code that is known to change what this family's policies do, under whatever version number.

## What it looks at

The versions of the libraries in the process, against a table of combinations that were reported or measured to break a
family in silence (`facts/known_breaks.json`, each with its source); and the *code* that is in use: the SHA-256 of the
files that the model's classes come from, against those of the releases on PyPI and of known forks. A fork carries the
number of the release it was made from, and the number says nothing.

What else differs from the versions that the family's own code asks for is listed and is no finding: hardly anybody runs
on all of them, and most differences change nothing.

## Why it is bad

OpenVLA-OFT predicts all actions at once and needs attention in both directions, which only its fork of transformers
has. Both call themselves 4.40.1. Under the stock one nothing raises and LIBERO-Spatial falls from 98 to 60 %. Another
package's requirements are enough to put the stock one in its place. The other way round, the fork's attention in a
checkpoint that was trained with the causal one changes every token of the prompt.

## Evidence

`code` is the file's hash and what it is known as; `version` what the library calls itself; `asked` what the family asks
for, with its source.

Severity is fix where the code in use is known to be the wrong one. Versions from the table are a *look*, and are passed
over where what they break was seen to be whole in this run (the vision tower was called).

## Fix

```
pip uninstall -y transformers
pip install "transformers @ git+https://github.com/moojink/transformers-openvla-oft.git"
```

last, after everything else that is installed into this environment.

## Known gaps

The table holds what was reported or measured, not every release; a file that is in no list is reported by its hash and
not judged. Methods replaced at run time are not seen, nor are the versions in another process. The hash is of the file
as it was when the model was first asked. Whether frames are really drawn darker is VD104's to say, whether the image is
used VD206's.

## References

- moojink/openvla-oft#12, moojink/openvla-oft#135, moojink/openvla-oft#106: the stock transformers in the place of the
  fork; 60.2 to 98.1 % after it was put right.
- moojink/transformers-openvla-oft@bc339d9: what the fork changes (LlamaSdpaAttention only).
- openvla/openvla#346, moojink/openvla-oft#108, pytorch/ao#3236: versions under which the image is ignored.
- Lifelong-Robot-Learning/LIBERO#140, openvla/openvla#282, LUOyk1999/SimVLA#14: success depends on the version of
  MuJoCo.
- huggingface/lerobot#3247, huggingface/lerobot#3252, huggingface/lerobot#2964, huggingface/lerobot#3249: old
  checkpoints of the pi0 family under new code.
- LUOyk1999/SimVLA#2: 0 % under another transformers.
- TensorAuto/OpenTau#378: LIBERO on robosuite 1.5.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vladoctor.check import Abstention, Check, Clear, Fault, Problem, Severity, Stage, Verdict
from vladoctor.facts import system

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.lint.facts import SourceFacts
    from vladoctor.loop import Loop

LLAMA = "transformers.models.llama.modeling_llama"
FORK = "moojink/transformers-openvla-oft"
BIDIRECTIONAL = ("openvla-oft",)
"""Beginnings of the names of profiles whose checkpoints need the fork."""

CAUSAL = ("openvla", "tracevla", "cogact", "univla")
"""Those whose checkpoints were trained on Llama as it is."""

PUT_FORK_BACK = (
    "Install the family's own transformers last, after everything else, and look at the hash again:\n```\n"
    "pip uninstall -y transformers\n"
    'pip install "transformers @ git+https://github.com/moojink/transformers-openvla-oft.git"\n```'
)
STOCK = "Give this checkpoint an environment of its own, with the release:\n```\npip install --force-reinstall "
"transformers=={}\n```"


def judge(facts: Facts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Look the code and the versions in use up in what is known to break this family."""
    versions = facts.episode.run.get("versions") or {}
    code = system.code_in_use(facts.episode, LLAMA)
    if not versions and code is None:
        yield Abstention("neither versions nor code were recorded")
        return
    problems = [one for one in (_code(facts, code), *_table(facts, versions)) if one is not None]
    yield from problems
    if not problems:
        wanted = system.wanted_versions(facts.episode, facts.profile)
        drifted = {one.library: f"{one.version}, asked for {one.asked}" for one in wanted if one.met is False}
        seen = ", ".join(f"{name} {versions[name]}" for name in _shown(facts, versions))
        others = f"; not what the family pins: {', '.join(drifted)}" if drifted else ""
        yield Clear(
            f"nothing is known against {seen or 'this code'}{others}",
            {"differs": drifted, **({"code": str(code)} if code else {})},
        )


def _code(facts: Facts, code: system.Code | None) -> Problem | None:
    """Whether the language model's attention is the one that the checkpoint was trained with."""
    name = facts.profile.name
    if code is None:
        return None
    standing = system.standings(facts.episode)[0]
    version = str((facts.episode.run.get("versions") or {}).get("transformers", "?"))
    evidence: dict[str, Any] = {"seen": str(code), "version": version}
    if name.startswith(BIDIRECTIONAL) and code.known.startswith("transformers "):
        return Problem(
            message=f"The language model's code is that of {code.known} as released. This family predicts all actions "
            f"at once and needs attention in both directions, which only its fork ({FORK}) has; the fork calls itself "
            "4.40.1 too. Reported: 60 instead of 98 % on LIBERO-Spatial.",
            remedy=PUT_FORK_BACK,
            severity=Severity.FIX,
            first_step=standing.step,
            evidence={"expected": f"{FORK}, 3aac24cec583a6ef", **evidence},
        )
    if name.startswith(CAUSAL) and not name.startswith(BIDIRECTIONAL) and code.both_directions:
        # The fork changes that one class only.
        if standing.state.get("attention") not in ("sdpa", None) and code.known.startswith(FORK):
            return None
        what = "OpenVLA-OFT's fork of transformers" if code.known.startswith(FORK) else "a changed copy of transformers"
        return Problem(
            message=f"The language model's code is {what}, which calls itself {version} as the release does. Its "
            "attention goes in both directions; this checkpoint was trained with the causal one.",
            remedy=STOCK.format(version),
            severity=Severity.FIX,
            first_step=standing.step,
            evidence={"expected": f"transformers {version} as released", **evidence},
        )
    return None


def _table(facts: Facts, versions: Mapping[str, Any]) -> Iterator[Problem]:
    """Entries of the table that this run meets."""
    suite = str(facts.episode.task.get("suite") or "")
    for entry in system.known_breaks():
        library = entry["library"]
        if library not in versions or not facts.profile.name.startswith(tuple(entry["profiles"])):
            continue
        if entry["suites"] and suite not in entry["suites"]:
            continue
        if not system.within(str(versions[library]), entry["versions"]) or not _needed(facts, entry["needs"]):
            continue
        yield Problem(
            message=f"{library} {versions[library]}: {entry['what']}.",
            remedy=entry["remedy"],
            severity=Severity(entry["severity"]),
            evidence={
                "expected": f"{library} outside of {entry['versions']}",
                "seen": f"{library} {versions[library]}",
                "source": entry["source"],
            },
        )


def _needed(facts: Facts, needs: str) -> bool:
    """Whether the further condition of an entry holds."""
    episode = facts.episode
    if needs == "vision not counted":
        # Where it was counted, VD206 knows better.
        queries = [query for _, query in episode.queries()]
        return bool(queries) and all(query.vision_calls is None for query in queries)
    if needs == "real assets":
        kind = str((episode.run.get("assets") or {}).get("kind") or "")
        return kind not in ("", "stand-in")
    return not needs


def _shown(facts: Facts, versions: Mapping[str, Any]) -> list[str]:
    asked = [
        key.partition(".")[2] for key in facts.profile.values if key.startswith("versions.") and facts.profile.get(key)
    ]
    return [
        name for name in dict.fromkeys([*asked, "torch", "transformers", "mujoco", "robosuite"]) if name in versions
    ][:5]


def _fork_installed() -> Callable[[], None]:
    """Llama's file in site-packages is one whose attention is not causal, under the release's number.

    A copy of the installed file, changed as OpenVLA-OFT's fork changes its own, is imported in its place.
    """
    import importlib.util

    released = sys.modules[LLAMA]
    folder = tempfile.TemporaryDirectory(prefix="vladoctor-")
    file = Path(folder.name) / "modeling_llama.py"
    text = Path(str(released.__file__)).read_text("utf-8")
    text, count = re.subn(r"is_causal = True|is_causal=causal_mask is None and q_len > 1", _not_causal, text)
    if not count:
        raise RuntimeError("this release of transformers writes its attention in another way")
    file.write_text(text, "utf-8")
    spec = importlib.util.spec_from_file_location(LLAMA, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[LLAMA] = module
    spec.loader.exec_module(module)

    def undo() -> None:
        sys.modules[LLAMA] = released
        folder.cleanup()

    return undo


def _not_causal(found: re.Match[str]) -> str:
    return f"{found[0].partition('=')[0]}= False" if " = " in found[0] else "is_causal=False"


def _of_the_fork(loop: Loop) -> None:
    """The model is of the classes that are installed: what a load under the fork would have made of it."""
    installed = sys.modules[LLAMA]
    for module in loop.policy.model.modules():
        if type(module).__module__ == LLAMA:
            module.__class__ = getattr(installed, type(module).__name__)
            if hasattr(module, "is_causal"):
                module.is_causal = False


def judge_source(facts: SourceFacts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Look for code that is patched at run time, and for code of a hub that nothing pins."""
    said = False
    for one in facts.workarounds:
        if one.kind == "patched-attention":
            said = True
            yield Problem(
                message=f"`{one.detail}` makes transformers believe that the model supports SDPA: what was refused "
                "loudly runs with a mask that nobody checked.",
                remedy='Load with `attn_implementation="eager"`, or the versions that the family asks for.',
                severity=Severity.FIX,
                place=one.place,
            )
    for load in facts.loads:
        if load.values.get("trust_remote_code") is True and "revision" not in load.given and _hub(load.checkpoint):
            said = True
            yield Problem(
                message=f"Code of {load.checkpoint} is run as it is on the hub today (trust_remote_code without "
                "revision).",
                remedy="Pin it: `revision=...` with the commit that you evaluated.",
                severity=Severity.LOOK,
                evidence={"checkpoint": load.checkpoint},
                place=load.place,
            )
            break
    if not said:
        yield Abstention("the source patches no library and pins what it loads, as far as was seen")


def _hub(checkpoint: str | None) -> bool:
    return bool(checkpoint) and str(checkpoint).count("/") == 1 and not str(checkpoint).startswith((".", "/", "~"))


CHECK = Check(
    code="VD703",
    name="version-drift",
    stage=Stage.FORWARD,
    judge=judge,
    judge_source=judge_source,
    faults=(
        Fault(
            "transformers-fork",
            "a fork with attention in both directions is installed under the release's number "
            "(moojink/openvla-oft#12, the other way round)",
            _of_the_fork,
            _fork_installed,
        ),
    ),
)
