"""What the linter found, in every format."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest
from diagnoses import ORIENTATION, PROMPT, diagnosis, result
from linted import CRASHED, EVAL, finding, loop, mirrored, place_of, write_sample

from vladoctor.check import Severity
from vladoctor.lint.result import LintResult
from vladoctor.places import Place
from vladoctor.report import concise, github, junit, sarif
from vladoctor.report.json import lint_report
from vladoctor.report.lint import print_lint
from vladoctor.report.reported import BASELINE, Report, of_lint, of_run, relative
from vladoctor.schemas import load_schema


@pytest.fixture
def sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LintResult:
    monkeypatch.chdir(tmp_path)
    return write_sample(tmp_path)


def _full(report: Report, found: LintResult, **options: object) -> str:
    stream = io.StringIO()
    print_lint(report, found, stream=stream, width=100, colour=False, **options)  # type: ignore[arg-type]
    return "".join(f"{line.rstrip()}\n" for line in stream.getvalue().splitlines())


def test_a_finding_in_a_shared_helper_is_told_once(sample: LintResult) -> None:
    report = of_lint(sample)
    assert [(one.finding.code, one.where, len(one.subjects)) for one in report.found] == [
        ("VD301", "eval one.py:7:18", 1),
        ("VD201", "helpers.py:2:35", 2),
    ]


def test_concise_is_one_line_each(sample: LintResult) -> None:
    assert concise.to_text(of_lint(sample)) == (
        "eval one.py:7:18: VD301 [look] prompt-template: 100% wrong: a, b\n"
        "helpers.py:2:35: VD201 [stop] image-orientation: The frame is flipped vertically; this checkpoint was trained "
        "on a rotation by 180 degrees.\n"
        "broken.py:3:1: error: it does not parse: invalid syntax\n"
    )


def test_full_shows_source_way_and_remedy(sample: LintResult) -> None:
    text = _full(of_lint(sample), sample, abstentions=True)
    assert "helpers.py:2:35: VD201 image-orientation [stop]" in text
    assert '2 |     frame = obs["agentview_image"][::-1]\n' in text
    shown = next(line for line in text.splitlines() if "[::-1]" in line and " | " in line)
    flip = [line for line in text.splitlines() if line.strip(" |") == "^^^^^^"]
    assert flip[0].index("^") == shown.index("[::-1]")
    assert "agentview_image helpers.py:2 -> [::-1] helpers.py:2 -> processor" in text
    assert "expected rot180" in text
    assert "--fix does it: rotate by 180 degrees" in text
    assert "more: vladoctor explain VD201" in text
    assert "VD602 initial-state: the task suite comes from a function" in text
    assert text.splitlines()[-1].startswith("2 findings (1 stop, 1 look) in 2 evaluation loops; 2 files looked at")
    assert "\x1b" not in text


def test_underlines_below_wide_characters_and_tabs(tmp_path: Path) -> None:
    from rich.cells import cell_len

    source = '\tx = "画像", obs["a"][::-1]\n'
    file = tmp_path / "wide.py"
    found = LintResult(
        [loop(Place(str(file), 1), [mirrored(place_of(file, source, "[::-1]"))])], texts={str(file): source}
    )
    lines = _full(of_lint(found), found).splitlines()
    shown = next(line for line in lines if "[::-1]" in line and " | " in line)
    mark = next(line for line in lines if line.strip(" |") == "^^^^^^")
    assert cell_len(shown[: shown.index("[::-1]")]) == mark.index("^")


def test_json_fits_its_schema(sample: LintResult) -> None:
    report = of_lint(replace(sample, suppressed=[sample.loops[0].findings[1]]), {})
    document = json.loads(json.dumps(lint_report(report, sample), allow_nan=False))
    jsonschema.Draft202012Validator(load_schema("lint")).validate(document)
    assert document["summary"]["findings"] == {"stop": 1, "fix": 0, "look": 0}
    assert document["summary"]["accepted"] == 1
    assert {one["accepted"] for one in document["findings"]} == {None, "comment"}
    assert document["findings"][1]["fix"]["edits"][0]["text"] == "[::-1, ::-1]"


def test_github_escapes_what_would_end_a_command(sample: LintResult) -> None:
    lines = github.to_text(of_lint(sample)).splitlines()
    assert lines[0].startswith(
        "::error file=helpers.py,line=2,endLine=2,col=35,endColumn=41,title=VD201 image-orientation::The frame"
    )
    assert "::100%25 wrong:%0Aa, b" in lines[1]
    assert lines[1].startswith("::notice file=eval one.py,line=7")
    assert lines[2] == (
        "::error file=broken.py,line=3,endLine=3,col=1,endColumn=1,title=vladoctor lint::"
        "broken.py:3:1: it does not parse: invalid syntax"
    )
    assert github.command("notice", "a\r\nb", {"file": "a,b:c%.py"}, "t") == (
        "::notice file=a%2Cb%3Ac%25.py,title=t::a%0D%0Ab"
    )


def test_junit_has_a_case_for_each_check(sample: LintResult) -> None:
    root = ElementTree.fromstring(junit.to_text(of_lint(sample)).encode())
    assert {name: root.get(name) for name in ("tests", "failures", "errors")} == {
        "tests": "7",
        "failures": "3",
        "errors": "1",
    }
    failure = root.find(".//testcase[@name='VD201 image-orientation']/failure")
    assert failure is not None
    assert "the way there: agentview_image" in (failure.text or "")
    assert root.find(".//testcase[@name='VD602 initial-state']/skipped") is not None


def test_junit_counts_as_failure_what_the_exit_status_counts(sample: LintResult) -> None:
    root = ElementTree.fromstring(junit.to_text(of_lint(replace(sample, fail_on=Severity.STOP))).encode())
    case = root.find(".//testcase[@name='VD301 prompt-template']")
    assert case is not None
    assert case.find("failure") is None
    assert "100% wrong" in (case.findtext("system-out") or "")


def test_sarif_names_files_from_the_working_folder(sample: LintResult) -> None:
    (run,) = sarif.log(of_lint(sample))["runs"]
    prompt, flip = run["results"]
    assert (prompt["level"], flip["level"]) == ("note", "error")
    where = prompt["locations"][0]["physicalLocation"]
    assert where["artifactLocation"] == {"uri": "eval%20one.py", "uriBaseId": "%SRCROOT%"}
    assert flip["locations"][0]["physicalLocation"]["region"] == {
        "startLine": 2,
        "startColumn": 35,
        "endLine": 2,
        "endColumn": 41,
        "snippet": {"text": '    frame = obs["agentview_image"][::-1]'},
    }
    steps = flip["codeFlows"][0]["threadFlows"][0]["locations"]
    assert [step["location"]["message"]["text"] for step in steps] == ["agentview_image", "[::-1]", "processor"]
    assert flip["fixes"][0]["artifactChanges"][0]["replacements"][0]["insertedContent"] == {"text": "[::-1, ::-1]"}
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == ["VD201", "VD301"]
    assert flip["ruleIndex"] == 0
    assert "## Why it is bad" in run["tool"]["driver"]["rules"][0]["help"]["markdown"]
    assert run["invocations"][0]["executionSuccessful"] is False


def test_sarif_says_what_is_accepted(sample: LintResult) -> None:
    known = replace(sample, suppressed=[one for each in sample.loops for one in each.findings if one.code == "VD201"])
    report = of_lint(known, {id(one): BASELINE for one in known.suppressed})
    results = sarif.log(report)["runs"][0]["results"]
    assert [one.get("suppressions", [{}])[0].get("kind") for one in results] == [None, "external"]
    assert "VD201" not in concise.to_text(report)
    assert "VD201" not in github.to_text(report)


def test_sarif_leaves_out_what_no_viewer_takes(sample: LintResult, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sarif, "MOST_RESULTS", 1)
    (run,) = sarif.log(of_lint(sample))["runs"]
    assert [one["ruleId"] for one in run["results"]] == ["VD201"]
    assert "1 more findings are left out" in run["invocations"][0]["toolExecutionNotifications"][-1]["message"]["text"]


def test_a_notebook_is_shown_at_the_line_of_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = ["import numpy\n", 'image = obs["agentview_image"][::-1]\n']
    cells = [{"cell_type": "markdown", "source": ["# hi"]}, {"cell_type": "code", "source": code}]
    text = json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}, indent=1)
    place = place_of("demo.ipynb", "".join(code), "[::-1]", cell=1)
    found = LintResult([loop(place, [mirrored(place)])], texts={"demo.ipynb": text})
    report = of_lint(found)
    line = next(number for number, row in enumerate(text.splitlines(), 1) if "[::-1]" in row)
    assert concise.to_text(report).startswith("demo.ipynb:cell 1:2:31: VD201")
    assert f"file=demo.ipynb,line={line},title" in github.to_text(report)
    (result,) = sarif.log(report)["runs"][0]["results"]
    assert result["locations"][0]["physicalLocation"]["region"] == {"startLine": line}
    assert result["message"]["text"].startswith("demo.ipynb:cell 1:2:31:")
    assert "fixes" not in result
    assert '2 | image = obs["agentview_image"][::-1]' in _full(report, found)


# --- Fingerprints ---


def _prints(folder: Path, text: str, parts: list[str]) -> list[str]:
    file = folder / "a.py"
    findings = [mirrored(place_of(file, text, part, nth=parts[:n].count(part))) for n, part in enumerate(parts)]
    found = LintResult([loop(Place(str(file), 1), findings)], texts={str(file): text})
    return [one.fingerprint for one in of_lint(found, base=folder).found]


def test_a_fingerprint_survives_that_lines_move(tmp_path: Path) -> None:
    line = 'image = obs["agentview_image"][::-1]\n'
    before = _prints(tmp_path, line, ["[::-1]"])
    assert _prints(tmp_path, f"import numpy\n\nif True:\n        {line}", ["[::-1]"]) == before
    assert _prints(tmp_path, line.replace("image = ", "frame = "), ["[::-1]"]) != before


def test_the_same_line_twice_is_two_findings(tmp_path: Path) -> None:
    line = 'image = obs["agentview_image"][::-1]\n'
    first, second = _prints(tmp_path, line + line, ["[::-1]", "[::-1]"])
    assert first != second
    assert first == _prints(tmp_path, line, ["[::-1]"])[0]


def test_files_are_named_from_the_folder_or_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    assert relative("deep/../a.py") in ("a.py", "deep/../a.py")
    assert relative(str(tmp_path / "in" / "a.py")) == "a.py"
    assert relative(str(tmp_path / "out.py")) == (tmp_path / "out.py").as_posix()


def test_github_is_told_files_from_the_root_of_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step with a `working-directory` names them from there, and GitHub would show nothing."""
    (tmp_path / "robots").mkdir()
    monkeypatch.chdir(tmp_path / "robots")
    file = tmp_path / "robots" / "eval.py"
    file.write_text(EVAL)
    place = Place(str(file), 1)
    report = of_lint(LintResult([loop(place, [finding("VD301", "prompt-template", Severity.LOOK, place)])]))
    for workspace, name in ((tmp_path, "robots/eval.py"), (tmp_path / "elsewhere", "eval.py")):
        monkeypatch.setenv("GITHUB_WORKSPACE", str(workspace))
        assert github.to_text(report).startswith(f"::notice file={name},line=1,")
        part = sarif.log(report)["runs"][0]
        where = part["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        assert where == name
        assert f"{part['originalUriBaseIds']['%SRCROOT%']['uri']}{where}" == file.as_uri()


# --- Runs ---


def test_a_finding_of_many_episodes_is_one() -> None:
    run = result(diagnosis(1, [ORIENTATION]), diagnosis(2, [ORIENTATION]), diagnosis(3, [PROMPT]))
    report = of_run(run)
    assert [(one.finding.code, len(one.subjects)) for one in report.found] == [("VD201", 2), ("VD301", 1)]
    (first, _) = sarif.log(report)["runs"][0]["results"]
    assert first["occurrenceCount"] == 2
    assert first["message"]["text"].startswith("task0-init1-ep0 and 1 more: The model's image")
    line = concise.to_text(report).splitlines()[0]
    assert re.match(r"task0-init1-ep0 and 1 more: VD201 \[stop\] image-orientation: ", line)


def test_a_run_is_shown_at_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("eval.py").write_text(EVAL)
    from vladoctor.runspec import command_run

    run = replace(result(diagnosis(1, [ORIENTATION])), spec=command_run(["python", "eval.py"]))
    report = of_run(run)
    assert report.home == Place("eval.py", 1)
    assert github.to_text(report).startswith("::error file=eval.py,line=1,endLine=1,col=1")
    where = sarif.log(report)["runs"][0]["results"][0]["locations"][0]["physicalLocation"]
    assert where["artifactLocation"]["uri"] == "eval.py"


def test_a_finding_of_recordings_alone_is_shown_at_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at the first that was judged, which may be a healthy one."""
    monkeypatch.chdir(tmp_path)
    judged = []
    for number, findings in ((1, []), (2, [PROMPT])):
        Path(f"{number}.mcap").touch()
        one = diagnosis(number, findings)
        judged.append(replace(one, episode=replace(one.episode, source=f"{number}.mcap")))
    report = of_run(result(*judged))
    assert github.to_text(report).startswith("::warning file=2.mcap,line=1,")
    where = sarif.log(report)["runs"][0]["results"][0]["locations"][0]["physicalLocation"]
    assert where["artifactLocation"]["uri"] == "2.mcap"


def test_what_crashed_is_told_in_every_format(tmp_path: Path) -> None:
    place = Place(str(tmp_path / "a.py"), 1)
    report = of_lint(LintResult([loop(place, [finding("VD301", "prompt-template", Severity.LOOK, place)], CRASHED)]))
    assert report.exit_status == 2
    assert "VD603 horizon crashed: ValueError: no <such> thing" in concise.to_text(report)
    root = ElementTree.fromstring(junit.to_text(report).encode())
    assert root.find(".//testcase[@name='VD603 horizon']/error") is not None
