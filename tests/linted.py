"""Results of the linter built by hand: what renderers, comments, settings and fixes are tested on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vladoctor.check import Abstention, Clear, Severity, Stage
from vladoctor.diagnosis import CheckResult, Finding, SourceDiagnosis
from vladoctor.lint.facts import SourceFacts
from vladoctor.lint.result import LintResult, Skipped
from vladoctor.places import Edit, Fix, Hop, Place
from vladoctor.profiles import load_profile

EVAL = """\
from helpers import prepare

def evaluate(env, vla, processor):
    obs = env.reset()
    for t in range(280):
        image = prepare(obs)
        prompt = "In: What action should the robot take to pick up the soup? Out:"
        action = vla.predict_action(**processor(prompt, image))
        obs, reward, done, info = env.step(action)
"""
HELPERS = """\
def prepare(obs):
    frame = obs["agentview_image"][::-1]
    return frame
"""


def place_of(file: Path | str, text: str, part: str, *, cell: int | None = None, nth: int = 0) -> Place:
    """Where `part` stands in a text."""
    at = -1
    for _ in range(nth + 1):
        at = text.index(part, at + 1)
    line, column = text.count("\n", 0, at) + 1, at - (text.rfind("\n", 0, at) + 1) + 1
    end = at + len(part)
    end_line, end_column = text.count("\n", 0, end) + 1, end - (text.rfind("\n", 0, end) + 1) + 1
    return Place(str(file), line, column, end_line, end_column, cell)


def mirrored(
    place: Place, source: Place | None = None, *, fix: bool = True, safe: bool = True, **other: Any
) -> Finding:
    """VD201 at `[::-1]`, with a fix."""
    mend = Fix("rotate by 180 degrees", (Edit(place, "[::-1, ::-1]"),), safe) if fix else None
    values: dict[str, Any] = {
        "message": "The frame is flipped vertically; this checkpoint was trained on a rotation by 180 degrees.",
        "remedy": "Write `[::-1, ::-1]`.",
        "evidence": {"expected": "rot180", "seen": "flip-vertical"},
        "trail": (Hop("agentview_image", source), Hop("[::-1]", place), Hop("processor")),
        "fix": mend,
        "place": place,
        **other,
    }
    return Finding("VD201", "image-orientation", Stage.IMAGE, Severity.STOP, 0, None, in_source=True, **values)


def finding(code: str, name: str, severity: Severity, place: Place | None, **other: Any) -> Finding:
    values: dict[str, Any] = {"message": f"{name} is wrong.", "remedy": f"Mend {name}.", **other}
    return Finding(code, name, Stage.PROMPT, severity, 0, None, in_source=True, place=place, **values)


def loop(place: Place, findings: Sequence[Finding], *more: CheckResult) -> SourceDiagnosis:
    by_check: dict[str, list[Finding]] = {}
    for one in findings:
        by_check.setdefault(one.code, []).append(one)
    results = [CheckResult(code, found[0].name, "failed", tuple(found)) for code, found in by_check.items()]
    return SourceDiagnosis(SourceFacts(place, load_profile("openvla-libero")), (*results, *more), tuple(findings))


PASSED = CheckResult("VD501", "unnorm-scale", "passed", clears=(Clear("libero_object, as expected"),))
SILENT = CheckResult(
    "VD602", "initial-state", "abstained", abstentions=(Abstention("the task suite comes from a function", True),)
)
CRASHED = CheckResult("VD603", "horizon", "crashed", error="Traceback ...\nValueError: no <such> thing\x00")


def write_sample(folder: Path) -> LintResult:
    """The two files, and what a linter says of them: a flip in a helper that two loops use, and a prompt."""
    script, helpers = folder / "eval one.py", folder / "helpers.py"
    script.write_text(EVAL)
    helpers.write_text(HELPERS)
    flip = place_of(helpers, HELPERS, "[::-1]")
    source = place_of(helpers, HELPERS, 'obs["agentview_image"]')
    prompt = place_of(script, EVAL, '"In: What action should the robot take to pick up the soup? Out:"')
    step = place_of(script, EVAL, "env.step(action)")
    told = finding("VD301", "prompt-template", Severity.LOOK, prompt, message="100% wrong:\na, b")
    first = loop(step, [mirrored(flip, source), told], PASSED, SILENT)
    second = loop(place_of(script, EVAL, "vla.predict_action"), [mirrored(flip, source)], PASSED)
    return LintResult(
        [first, second],
        files=2,
        texts={str(script): EVAL, str(helpers): HELPERS},
        skipped=[Skipped(Place(str(folder / "broken.py"), 3), "it does not parse: invalid syntax")],
    )
