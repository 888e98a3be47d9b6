"""What people accept: comments in the source, settings in pyproject.toml, a baseline."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from diagnoses import ORIENTATION, PROMPT, SATURATION, diagnosis, result
from linted import finding, loop, mirrored, place_of

from vladoctor.baseline import accept_known, known_in_run, read_baseline, write_baseline
from vladoctor.check import Severity, all_checks
from vladoctor.errors import UserError
from vladoctor.lint.command import accept, write_known
from vladoctor.lint.config import LintConfig, find_config, fits, load_config, with_options
from vladoctor.lint.result import LintResult
from vladoctor.lint.suppress import Ignores
from vladoctor.places import Place
from vladoctor.report import acquittal, concise
from vladoctor.report.scalars import summary_text
from vladoctor.result import FINDINGS, NOTHING
from vladoctor.schemas import load_schema

FLIP = 'obs["agentview_image"][::-1]'


# --- Comments ---


def _accepted(
    text: str, *, part: str = "[::-1]", file: str = "eval.py", cell: int | None = None, within: str = ""
) -> bool:
    place = place_of(file, within or text, part, cell=cell)
    return Ignores({file: text}).accept("VD201", "image-orientation", place)


@pytest.mark.parametrize(
    "comment",
    [
        "# vladoctor: ignore[VD201]",
        "# vladoctor: ignore[VD301, VD201]  the camera hangs upside down",
        "#vladoctor:ignore[vd201]",
        "# vladoctor: ignore[image-orientation]",
        "# vladoctor: ignore[VD2]",
        "# vladoctor: ignore",
        "# noqa: E501  # vladoctor: ignore[VD201]",
    ],
)
def test_a_comment_accepts(comment: str) -> None:
    assert _accepted(f"image = {FLIP}  {comment}\n")


@pytest.mark.parametrize(
    "comment",
    ["# vladoctor: ignore[VD301]", "# vladoctor: ignored", "# noqa", "# vladoctor: ignore[VD20]  ", "# vladoctor"],
)
def test_another_comment_does_not(comment: str) -> None:
    accepted = _accepted(f"image = {FLIP}  {comment}\n")
    assert accepted == ("VD20]" in comment)


def test_any_line_of_the_statement_will_do() -> None:
    lines = ["image = prepare(\n", f"    {FLIP},\n", "    size=224,\n", ")\n"]
    for number in range(len(lines)):
        marked = [
            f"{line.rstrip()}  # vladoctor: ignore[VD201]\n" if n == number else line for n, line in enumerate(lines)
        ]
        assert _accepted("".join(marked)), number
    assert not _accepted("x = 1  # vladoctor: ignore[VD201]\n" + "".join(lines))


def test_of_a_statement_with_a_body_only_its_head() -> None:
    text = f"def prepare(obs):  # vladoctor: ignore[VD201]\n    return {FLIP}\n"
    assert not _accepted(text)
    text = f"for image in (  # vladoctor: ignore[VD201]\n    {FLIP},\n):\n    pass\n"
    assert _accepted(text)


def test_a_string_that_looks_like_one_is_none() -> None:
    assert not _accepted(f'image = {FLIP}; note = "# vladoctor: ignore[VD201]"\n')


def test_a_comment_of_the_whole_file() -> None:
    assert _accepted(f"image = {FLIP}\n\n# vladoctor: ignore-file[VD201]\n")
    assert not _accepted(f"image = {FLIP}\n\n# vladoctor: ignore-file[VD301]\n")


def test_in_notebooks() -> None:
    cells = [f"image = {FLIP}  # vladoctor: ignore[VD201]\n", f"image = {FLIP}\n", "%time\n"]
    text = json.dumps({"cells": [{"cell_type": "code", "source": [cell]} for cell in cells]})
    assert _accepted(text, file="a.ipynb", cell=1, within=cells[0])
    assert not _accepted(text, file="a.ipynb", cell=2, within=cells[1])
    whole = text.replace("%time\\n", "# vladoctor: ignore-file\\n")
    assert _accepted(whole, file="a.ipynb", cell=2, within=cells[1])


def test_a_file_that_does_not_parse_keeps_its_comments() -> None:
    assert _accepted(f"image = {FLIP}  # vladoctor: ignore[VD201]\nif (\n")


def test_comments_that_accept_nothing() -> None:
    text = f"image = {FLIP}  # vladoctor: ignore[VD201, VD301, VD999]\n"
    text += "x = 1  # vladoctor: ignore\n# vladoctor: ignore-file[VD6]\n"
    ignores = Ignores({"eval.py": text})
    ignores.accept("VD201", "image-orientation", place_of("eval.py", text, "[::-1]"))
    known = [("VD201", "image-orientation"), ("VD301", "prompt-template")]
    assert [(place.line, what.partition(";")[0]) for place, what in ignores.unused(["eval.py"], known)] == [
        (1, "VD301 is not found here: remove it from this comment"),
        (1, "there is no check 'VD999'"),
        (2, "this comment accepts nothing: remove it"),
        # VD6 may be used when those checks are asked.
    ]


# --- Together ---


def _found(folder: Path, text: str) -> LintResult:
    file = folder / "eval.py"
    file.write_text(text)
    places = [place_of(file, text, "[::-1]", nth=nth) for nth in range(text.count("[::-1]"))]
    return LintResult([loop(Place(str(file), 1), [mirrored(place) for place in places])], 1, texts={str(file): text})


def _config(folder: Path, **values: object) -> LintConfig:
    return replace(LintConfig(folder), **values)  # type: ignore[arg-type]


def test_what_is_accepted_does_not_count(tmp_path: Path) -> None:
    found = _found(tmp_path, f"a = {FLIP}  # vladoctor: ignore[VD201]\nb = {FLIP}\n")
    linted = accept(found, _config(tmp_path), all_checks())
    assert [one.accepted for one in linted.report.found] == ["comment", ""]
    assert linted.exit_status == 1
    linted = accept(found, _config(tmp_path, per_file_ignores={"eval.py": ("VD2",)}), all_checks())
    assert {one.accepted for one in linted.report.found} == {"comment", "configuration"}
    assert linted.exit_status == 0
    assert linted.result.exit_status == 0


def test_unused_comments_make_the_exit_status_1_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = _found(tmp_path, "x = 1  # vladoctor: ignore[VD201]\n")
    assert accept(found, _config(tmp_path), all_checks()).exit_status == 0
    linted = accept(found, _config(tmp_path, warn_unused_ignores=True), all_checks())
    assert linted.exit_status == 1
    assert (
        concise.to_text(linted.report) == "eval.py:1:8: warning: VD201 is not found here: remove it from this comment\n"
    )


def test_a_baseline_accepts_what_is_known_and_nothing_new(tmp_path: Path) -> None:
    known = _found(tmp_path, f"a = {FLIP}\na = {FLIP}\n")
    config = _config(tmp_path, baseline=tmp_path / "known.json")
    assert write_known(accept(known, config, all_checks(), baseline=False), tmp_path / "known.json") == 2
    moved = _found(tmp_path, f"import numpy\n\nif True:\n    a = {FLIP}\n    a = {FLIP}\nb = {FLIP}\n")
    linted = accept(moved, config, all_checks())
    assert [(one.accepted, one.place.line) for one in linted.report.found if one.place] == [
        ("baseline", 4),
        ("baseline", 5),
        ("", 6),
    ]
    assert linted.exit_status == 1


def test_a_baseline_is_no_other_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such baseline"):
        read_baseline(tmp_path / "known.json")
    for text in ("", "[]", '{"schema": "urn:vladoctor:schema:report:1", "findings": []}', '{"findings": [{}]}'):
        (tmp_path / "known.json").write_text(text)
        with pytest.raises(UserError, match="this is no baseline"):
            read_baseline(tmp_path / "known.json")


# --- The baseline of a run ---


def test_a_run_knows_findings_by_task_and_what_was_seen(tmp_path: Path) -> None:
    before = result(diagnosis(1, [ORIENTATION, SATURATION]), diagnosis(2, [ORIENTATION]))
    file = tmp_path / "known.json"
    assert write_baseline(file, known_in_run(before)) == 2
    after = accept_known(before, read_baseline(file))
    assert before.exit_status == FINDINGS
    assert after.exit_status == NOTHING
    assert [subject for subject, _ in after.accepted] == ["task0-init1-ep0"] * 2 + ["task0-init2-ep0"]
    assert after.notes == ("3 findings that the baseline accepts are left out",)
    told = summary_text(after)
    assert "Nothing was found but what the baseline accepts: VD201, VD402." in told
    assert "Healthy" not in told
    assert not acquittal.acquitted(after, acquittal.stages(after))
    other = replace(ORIENTATION, evidence={"expected": "rot180", "seen": "identity"})
    assert accept_known(result(diagnosis(1, [other])), read_baseline(file)).exit_status == FINDINGS
    assert accept_known(result(diagnosis(1, [PROMPT])), read_baseline(file)).accepted == ()


def test_what_follows_from_an_accepted_finding_is_a_root_of_its_own(tmp_path: Path) -> None:
    write_baseline(tmp_path / "known.json", known_in_run(result(diagnosis(1, [ORIENTATION]))))
    after = accept_known(result(diagnosis(1, [ORIENTATION, SATURATION])), read_baseline(tmp_path / "known.json"))
    (left,) = after.findings
    assert (left.code, left.explained_by) == ("VD402", "")


# --- Settings ---


def _settings(folder: Path, text: str) -> LintConfig:
    (folder / "pyproject.toml").write_text(text)
    return load_config(folder / "pyproject.toml")


def test_settings(tmp_path: Path) -> None:
    config = _settings(
        tmp_path,
        """
[tool.vladoctor]
select = ["VD2", "prompt-template"]
ignore = ["VD204"]
exclude = ["third_party", "old/*.py"]
fail-on = "fix"
profile = "openvla-libero"
baseline = "known.json"
warn-unused-ignores = true

[tool.vladoctor.per-file-ignores]
"tests/*" = ["VD6"]

[tool.vladoctor.profiles]
"mine/**" = "own.yaml"

[tool.vladoctor.thresholds.VD601]
share = 3
""",
    )
    assert config.fail_on is Severity.FIX
    assert config.baseline == tmp_path / "known.json"
    assert config.thresholds == {"VD601": {"share": 3.0}}
    assert config.excluded(str(tmp_path / "src/third_party/a.py"))
    assert config.excluded(str(tmp_path / "old/a.py"))
    assert not config.excluded(str(tmp_path / "src/old/a.py"))
    assert config.ignored(str(tmp_path / "tests/deep/a.py")) == ("VD6",)
    assert config.profile_of(str(tmp_path / "mine/a.py")) == str(tmp_path / "own.yaml")
    assert config.profile_of(str(tmp_path / "a.py")) == "openvla-libero"
    told = with_options(config, select=["VD301"], fail_on="stop", profile="openvla-simpler")
    assert (told.select, told.fail_on, told.profiles, told.ignore) == (("VD301",), Severity.STOP, {}, ("VD204",))


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ('[tool.vladoctor]\nselekt = ["VD2"]', 2, "did you mean `select`?"),
        ('[tool.vladoctor]\nfail_on = "fix"', 2, "did you mean `fail-on`?"),
        ('[tool.vladoctor]\nfail-on = "stopp"', 2, "did you mean 'stop'?"),
        ('[tool.vladoctor]\nselect = "VD2"', 2, "must be a list of codes or names of checks, not 'VD2'"),
        ('[tool.vladoctor]\nselect = ["VD2O1"]', 2, "did you mean VD201"),
        ('[tool.vladoctor]\nprofile = "openvla-libro"', 2, "did you mean openvla-libero?"),
        ('[tool.vladoctor]\n[tool.vladoctor.per-file-ignores]\n"a.py" = ["X"]', 3, "there is no check 'X'"),
        ("[tool.vladoctor.thresholds.VD601]\nshar = 1", 2, "did you mean `share`?"),
        ("[tool.vladoctor.thresholds.VD2]\nx = 1", 1, "there is no check 'VD2'"),
        ("[tool.vladoctor.thresholds.VD601]\nshare = 'a'", 2, "must be a number, not 'a'"),
        ("[tool]\nvladoctor = 3", 0, "has to be a table"),
        ("[tool.vladoctor]\nselect = [", 0, "this is not TOML"),
        ("tool = 'vladoctor'", 0, "there is no [tool.vladoctor] in it"),
        ("[project]", 0, "there is no [tool.vladoctor] in it"),
    ],
)
def test_mistakes_are_pointed_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, line: int, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        _settings(tmp_path, text)
    assert says in str(error.value)
    assert str(error.value).startswith(f"pyproject.toml:{line}:" if line else "pyproject.toml")


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="2 things are wrong"):
        _settings(tmp_path, '[tool.vladoctor]\nselekt = []\nfail-on = "x"\n')


def test_the_nearest_settings_are_taken(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text("[tool.vladoctor]\n")
    (tmp_path / "a" / "pyproject.toml").write_text("[tool.ruff]\n# vladoctor\n")
    assert find_config([tmp_path / "a" / "b" / "eval.py"]) == tmp_path / "pyproject.toml"
    (tmp_path / "a" / "pyproject.toml").write_text("[tool.vladoctor]\n")
    assert find_config([tmp_path / "a" / "b", tmp_path / "a"]) == tmp_path / "a" / "pyproject.toml"
    assert find_config([tmp_path / "a", tmp_path / "other.py"]) == tmp_path / "pyproject.toml"


@pytest.mark.parametrize(
    ("pattern", "file", "meant"),
    [
        ("*.py", "a/b.py", True),
        ("old", "a/old/b.py", True),
        ("./old/", "old/b.py", True),
        ("a/old", "a/old/deep/b.py", True),
        ("a/old", "x/a/old/b.py", False),
        ("a/*.py", "a/b.py", True),
    ],
)
def test_patterns(pattern: str, file: str, meant: bool) -> None:
    assert fits(pattern, file) == meant


def test_unknown_names_of_options_are_pointed_at(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no check 'VD2O1'") as error:
        with_options(LintConfig(tmp_path), select=["VD2O1"])
    assert error.value.where == "--select"


def test_every_setting_is_in_the_schema() -> None:
    fields = {name.replace("_", "-") for name in vars(LintConfig(Path()))} - {"root", "source"}
    assert fields == set(load_schema("config")["properties"])


def test_select_and_ignore_take_names_and_families(tmp_path: Path) -> None:
    from vladoctor.lint.command import selected

    codes = [check.code for check in selected(_config(tmp_path, select=("VD2",), ignore=("image-orientation",)))]
    assert all(code.startswith("VD2") and code != "VD201" for code in codes)
    assert finding("VD301", "prompt-template", Severity.LOOK, None).in_source
