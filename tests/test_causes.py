"""A run's finding gets the place in the source that it comes from, and never more than that."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from diagnoses import ORIENTATION, PROMPT, SATURATION, diagnosis, result
from linted import finding, loop, mirrored
from programs import bare, watched

from vladoctor.check import Severity
from vladoctor.launch import causes
from vladoctor.launch.causes import root_of, same, scripts, with_causes
from vladoctor.lint import command
from vladoctor.lint.result import LintResult
from vladoctor.places import Place
from vladoctor.report import sarif
from vladoctor.report.reported import of_run
from vladoctor.report.scalars import summary_text


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Callable[..., LintResult]], None]:
    """Puts something in the place of the linter that fails as a linter can, or finds what is wanted."""
    monkeypatch.chdir(tmp_path)
    Path("eval.py").write_text("evaluate()\n")

    def put(function: Callable[..., LintResult]) -> None:
        monkeypatch.setattr(command, "lint_paths", function)

    return put


def _program(*words: str, folder: Path | None = None) -> list[dict[str, Any]]:
    return [{"arguments": list(words), "folder": str(folder or Path.cwd())}]


def _finds(*places: Place, file: str = "eval.py", **other: Any) -> Callable[..., LintResult]:
    return lambda *_, **__: LintResult([loop(Place(file, 1), [mirrored(place, **other) for place in places])])


def test_the_same_finding_gets_its_place(engine: Any) -> None:
    place = Place("helpers.py", 2, 3, 2, 9)
    engine(_finds(place))
    run = with_causes(result(diagnosis(1, [ORIENTATION, SATURATION]), diagnosis(2)), _program("python", "eval.py"))
    first, second = run.diagnoses[0].findings
    assert (first.place, first.trail[1].label) == (place, "[::-1]")
    assert first.message == ORIENTATION.message
    assert second.place is None


@pytest.mark.parametrize(
    "found",
    [
        _finds(Place("a.py", 2), evidence={"expected": "rot180", "seen": "identity"}),
        _finds(Place("a.py", 2), Place("b.py", 2)),
        _finds(),
        lambda *_, **__: LintResult(
            [loop(Place("eval.py", 1), [finding("VD301", "prompt-template", Severity.FIX, Place("a.py", 1))])]
        ),
    ],
    ids=["another element", "two places", "nothing", "another check"],
)
def test_what_is_not_certain_gets_none(engine: Any, found: Callable[..., LintResult]) -> None:
    engine(found)
    run = with_causes(result(diagnosis(1, [ORIENTATION])), _program("python", "eval.py"))
    assert run.diagnoses[0].findings == (ORIENTATION,)
    assert run.notes == ()


def test_the_loop_of_the_script_itself_comes_first(engine: Any) -> None:
    own = Path("eval.py").absolute()
    engine(
        lambda *_, **__: LintResult(
            [
                loop(Place("other.py", 1), [mirrored(Place("other.py", 9))]),
                loop(Place(str(own), 1), [mirrored(Place("mine.py", 9))]),
            ]
        )
    )
    run = with_causes(result(diagnosis(1, [ORIENTATION])), _program("python", "eval.py"))
    assert run.diagnoses[0].findings[0].place == Place("mine.py", 9)


def test_a_linter_that_fails_is_a_note(engine: Any) -> None:
    def fail(*_: Any, **__: Any) -> LintResult:
        raise RecursionError("too deep")

    engine(fail)
    before = result(diagnosis(1, [ORIENTATION]))
    run = with_causes(before, _program("python", "eval.py"))
    assert run.notes == ("the source was not searched for causes: RecursionError: too deep",)
    assert (run.diagnoses, run.exit_status) == (before.diagnoses, before.exit_status)


def test_a_linter_that_takes_too_long_is_a_note(engine: Any) -> None:
    def sleep(*_: Any, **__: Any) -> LintResult:
        time.sleep(5)
        return LintResult()

    engine(sleep)
    started = time.monotonic()
    run = with_causes(result(diagnosis(1, [ORIENTATION])), _program("python", "eval.py"), budget=0.1)
    assert time.monotonic() - started < 2
    assert "it took longer than 0.1 s" in run.notes[0]


def test_a_healthy_run_is_not_linted(engine: Any) -> None:
    def fail(*_: Any, **__: Any) -> LintResult:
        raise AssertionError

    engine(fail)
    assert with_causes(result(diagnosis(1)), _program("python", "eval.py")).notes == ()


@pytest.mark.parametrize(
    ("words", "ran"),
    [
        (["python", "eval.py", "--x", "other.py"], ["eval.py"]),
        (["python", "-u", "-W", "ignore", "eval.py"], ["eval.py"]),
        (["python", "-m", "pkg.main", "eval.py"], ["pkg/main.py"]),
        (["python", "-m", "pkg"], ["pkg/__main__.py", "pkg/__init__.py"]),
        (["python", "-m", "vladoctor.launch.call", "pkg.main:evaluate", "{}"], ["pkg/main.py"]),
        (["python", "-c", "import eval", "eval.py"], []),
        (["python", "missing.py"], []),
        (["python", "site-packages/tool.py"], []),
        (["python"], []),
    ],
)
def test_scripts_of_a_program(tmp_path: Path, words: list[str], ran: list[str]) -> None:
    for name in ("eval.py", "pkg/main.py", "pkg/__main__.py", "pkg/__init__.py", "site-packages/tool.py", "other.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert scripts(_program(*words, folder=tmp_path)) == [tmp_path / name for name in ran]


def test_vladoctors_own_files_are_nobodys_loop() -> None:
    assert scripts(_program("python", str(Path(causes.__file__)))) == []


def test_the_repository_of_a_script(tmp_path: Path) -> None:
    (tmp_path / "repo" / "deep").mkdir(parents=True)
    script = tmp_path / "repo" / "deep" / "eval.py"
    assert root_of(script) == script.parent
    (tmp_path / "repo" / "pyproject.toml").touch()
    assert root_of(script) == tmp_path / "repo"


@pytest.mark.parametrize(
    ("said", "read", "can_be"),
    [
        (("rot180", "identity"), ("rot180", "identity"), True),
        (("rot180", "identity"), ("rot180", "flip-vertical"), False),
        (("10 settle steps", "0 settle steps"), (10, 0), True),
        (("10 settle steps", "3 settle steps"), (10, 0), False),
        (("side 0.949 (area 0.90)", "side 1.000 (area 1.00), top 0.000"), (0.9487, 1.0), True),
        (("side 0.949", "side 1.000"), ("side 0.949", "the whole frame"), True),
        (("side 0.949", "side 1.000"), ("side 0.949", "side 0.800"), False),
        (("do_sample=False", "do_sample=True"), (False, True), True),
        (("reset, set_init_state", "reset"), (None, "missing"), True),
        (("2g-1, sign, negate", "as it is"), ("1 opens", [[0.0, 0.0], [1.0, 1.0]]), True),
    ],
)
def test_what_was_seen_is_compared_where_both_say_it_alike(
    said: tuple[str, str], read: tuple[object, object], can_be: bool
) -> None:
    run = replace(ORIENTATION, evidence={"expected": said[0], "seen": said[1]})
    assert same(run, replace(ORIENTATION, evidence={"expected": read[0], "seen": read[1]})) == can_be


def test_a_prompt_in_the_source_has_a_hole_where_the_instruction_goes() -> None:
    template = "In: What action should the robot take to {instruction}?\nOut:"
    seen = template.replace("\n", " ")
    read = finding("VD301", "prompt-template", Severity.FIX, None, evidence={"expected": template, "seen": seen})
    assert same(PROMPT, read)
    other = {"expected": template, "seen": seen.replace("take", "make")}
    assert not same(PROMPT, replace(read, evidence=other))


# --- With the linter itself ---

LOOPS = Path(__file__).parent / "lint" / "vd201"
CLIENT = Path(__file__).parent / "clients" / "official"


def test_the_line_of_a_flip_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(LOOPS / "pi0_flipped_only.bad.py", "eval.py")
    before = result(diagnosis(1, [ORIENTATION, SATURATION]), diagnosis(2, [PROMPT]), profile={"name": "openpi-libero"})
    run = with_causes(before, _program("python", "eval.py", "--task", "0"))
    assert run.notes == ()
    place = run.diagnoses[0].findings[0].place
    assert place is not None
    line = run.texts[place.file].splitlines()[place.line - 1]
    assert (place.file, "frame[::-1, :, :]" in line) == ("eval.py", True)
    assert [one.place for one in run.findings] == [place, None, None]
    assert f" eval.py:{place.line}:{place.column}\n" in summary_text(run)
    first = sarif.log(of_run(run))["runs"][0]["results"][0]
    assert first["locations"][0]["physicalLocation"]["region"]["snippet"]["text"] == line
    assert "[::-1, :, :]" in first["codeFlows"][0]["threadFlows"][0]["locations"][1]["location"]["message"]["text"]


def test_a_healthy_source_names_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault was made elsewhere, in the environment say: the source has no place for it."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(CLIENT, tmp_path / "client")
    run = with_causes(
        result(diagnosis(1, [ORIENTATION])), _program("python", "client/run_libero_eval.py", folder=tmp_path)
    )
    assert run.diagnoses[0].findings == (ORIENTATION,)
    assert run.notes == ()


PROGRAM = """\
import os
import sys

import numpy as np
import torch
import transformers
from libero.libero import benchmark, get_libero_path
from libero.libero.envs import OffScreenRenderEnv
from pictures import for_the_model
from transformers import AutoProcessor

Model = getattr(transformers, "AutoModelForVision2Seq", None) or transformers.AutoModelForImageTextToText
checkpoint = sys.argv[1]
processor = AutoProcessor.from_pretrained(checkpoint, trust_remote_code=True)
vla = Model.from_pretrained(checkpoint, trust_remote_code=True).float().eval()
suite = benchmark.get_benchmark_dict()["libero_object"]()
task = suite.get_task(0)
bddl = os.path.join(get_libero_path("bddl_files"), task.problem_folder, task.bddl_file)
env = OffScreenRenderEnv(bddl_file_name=bddl, camera_heights=256, camera_widths=256)
env.seed(0)
env.reset()
obs = env.set_init_state(suite.get_task_init_states(0)[30])
for _ in range(10):
    obs, reward, done, info = env.step([0, 0, 0, 0, 0, 0, -1])
prompt = f"In: What action should the robot take to {task.language.lower()}?\\nOut:"
for step in range(4):
    inputs = processor(prompt, for_the_model(obs)).to("cpu", dtype=torch.float32)
    action = vla.predict_action(**inputs, unnorm_key="libero_object", do_sample=False)
    action[6] = -np.sign(2 * action[6] - 1)
    obs, reward, done, info = env.step(action.tolist())
"""
PICTURES = """\
from PIL import Image


def for_the_model(obs):
    frame = obs["agentview_image"]
    upright = frame[::-1]
    return Image.fromarray(upright).resize((224, 224), Image.LANCZOS)
"""


@pytest.mark.simulator
@pytest.mark.torch
@pytest.mark.slow
def test_a_watched_program_names_its_line(tmp_path: Path) -> None:
    """All of it: a flip in a helper's module, in LIBERO, watched, judged, and the source read."""
    (tmp_path / "eval.py").write_text(PROGRAM)
    (tmp_path / "pictures.py").write_text(PICTURES)
    exports = bare([sys.executable, CLIENT.parent / "libero_home.py", tmp_path / "home"], tmp_path).out.splitlines()
    env = dict(shlex.split(row)[1].split("=", 1) for row in exports)
    checkpoint = CLIENT.parents[2] / "fixtures" / "tiny-openvla"
    ended = watched([sys.executable, "eval.py", checkpoint], tmp_path, "--sarif", "a.sarif", env=env)
    found = json.loads((ended.folder / "report.json").read_text())
    flip = next(one for one in found["episodes"][0]["findings"] if one["code"] == "VD201")
    line = PICTURES.splitlines().index("    upright = frame[::-1]") + 1
    assert (flip["place"]["file"], flip["place"]["line"]) == ("pictures.py", line), ended.err
    assert f"pictures.py:{line}:" in ended.err
    assert f"pictures.py:{line}:" in (ended.folder / "report.html").read_text()
    results = json.loads((tmp_path / "a.sarif").read_text())["runs"][0]["results"]
    where = next(one for one in results if one["ruleId"] == "VD201")["locations"][0]["physicalLocation"]
    assert (where["artifactLocation"]["uri"], where["region"]["startLine"]) == ("pictures.py", line)
