"""SARIF 2.1.0, for GitHub's code scanning and whatever else shows findings at the code.

Levels: stop = error, fix = warning, look = note. Files are named relative to `%SRCROOT%` (`checkout`). The
rules are the checks, with their pages as help. A place in a notebook is shown at the cell's line in the file; cell and
column stand in the message.

GitHub's limits: 25,000 results of a run (it shows 5,000), 1,000 locations of a result, 10,000 steps of a code flow, 10
MB when compressed. A finding of many episodes is one result, so that none of them is near; what is beyond is left out,
the mildest first, and said in a notification.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import vladoctor
from vladoctor.check import Severity, all_checks
from vladoctor.diagnosis import Finding
from vladoctor.lint.cells import line_in_file, text_at
from vladoctor.places import Edit, Fix, Place
from vladoctor.report.reported import COMMENT, Report, Reported, Trouble, checkout, relative, short_way, shown

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
LEVELS = {Severity.STOP: "error", Severity.FIX: "warning", Severity.LOOK: "note"}
PRECISION = {False: "high", True: "low"}
"""By whether a check is a symptom."""

ROOT = "%SRCROOT%"
MOST_RESULTS = 25_000
MOST_STEPS = 1_000

_FINGERPRINT = "vladoctorFinding/v1"


def to_text(report: Report) -> str:
    """The whole log."""
    return json.dumps(log(report), indent=2, ensure_ascii=True) + "\n"


def log(report: Report) -> dict[str, Any]:
    """The whole SARIF log, as plain data."""
    rules = _rules(report.found)
    number = {rule["id"]: index for index, rule in enumerate(rules)}
    ranked = sorted(report.found, key=lambda one: (bool(one.accepted), list(Severity).index(one.finding.severity)))
    kept = {id(one) for one in ranked[:MOST_RESULTS]}
    troubles = list(report.troubles)
    if len(ranked) > MOST_RESULTS:
        troubles.append(Trouble(f"{len(ranked) - MOST_RESULTS} more findings are left out: SARIF viewers take no more"))
    run = {
        "tool": {
            "driver": {
                "name": "vladoctor",
                "semanticVersion": vladoctor.__version__,
                "version": vladoctor.__version__,
                "rules": rules,
            }
        },
        "automationDetails": {"id": f"vladoctor/{report.command}/"},
        "columnKind": "unicodeCodePoints",
        "originalUriBaseIds": {
            ROOT: {"uri": f"{checkout().as_uri()}/", "description": {"text": "The folder that files are named from."}}
        },
        "invocations": [
            {
                "executionSuccessful": report.exit_status != 2,
                "exitCode": report.exit_status,
                "toolExecutionNotifications": [
                    *(_notification(trouble, report.texts) for trouble in troubles),
                    *(_notification(warning, report.texts, "note") for warning in report.warnings),
                ],
            }
        ],
        "results": [_result(one, number, report) for one in report.found if id(one) in kept],
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _rules(found: Iterable[Reported]) -> list[dict[str, Any]]:
    """Of the checks that found something: their pages are long, and GitHub takes only those it needs."""
    codes = {one.finding.code for one in found}
    worst = {
        code: min((o.finding.severity for o in found if o.finding.code == code), key=list(Severity).index)
        for code in codes
    }
    rules = []
    for check in all_checks():
        if check.code in codes:
            title, _, page = check.page.strip().partition("\n")
            rules.append(
                {
                    "id": check.code,
                    "name": "".join(word.capitalize() for word in check.name.split("-")),
                    "shortDescription": {"text": title},
                    "fullDescription": {"text": title},
                    "help": {
                        "text": page.strip() or title,
                        "markdown": f"# {check.code} {check.name}\n\n{check.page.strip()}\n",
                    },
                    "defaultConfiguration": {"level": LEVELS[worst[check.code]]},
                    "properties": {
                        "tags": ["vladoctor", f"stage/{check.stage.value}"],
                        "precision": PRECISION[check.symptom],
                        "problem.severity": _PROBLEM[worst[check.code]],
                    },
                }
            )
    return rules


_PROBLEM = {Severity.STOP: "error", Severity.FIX: "warning", Severity.LOOK: "recommendation"}


def _result(one: Reported, number: Mapping[str, int], report: Report) -> dict[str, Any]:
    finding = one.finding
    place = one.place or one.home or report.home
    result: dict[str, Any] = {
        "ruleId": finding.code,
        **({"ruleIndex": number[finding.code]} if finding.code in number else {}),
        "level": LEVELS[finding.severity],
        "message": {"text": _message(one)},
        "locations": [_location(place, report.texts)] if place else [],
        "partialFingerprints": {_FINGERPRINT: one.fingerprint},
        "properties": {
            "severity": finding.severity.value,
            "stage": finding.stage.value,
            "foundIn": list(one.subjects[:MOST_STEPS]),
            **{
                key: str(finding.evidence[key]) for key in ("expected", "seen") if finding.evidence.get(key) is not None
            },
            **({"follows": finding.explained_by} if finding.explained_by else {}),
        },
    }
    if len(one.subjects) > 1:
        result["occurrenceCount"] = len(one.subjects)
    if finding.trail:
        result["codeFlows"] = [_flow(finding, report.texts)]
    if finding.fix is not None:
        fix = _fix(finding.fix, report.texts)
        if fix is not None:
            result["fixes"] = [fix]
    if one.accepted:
        kind = "inSource" if one.accepted == COMMENT else "external"
        result["suppressions"] = [{"kind": kind, "justification": f"accepted by a {one.accepted}"}]
    return result


def _message(one: Reported) -> str:
    finding = one.finding
    parts = [finding.message]
    if one.place is None or one.place.cell is not None:
        parts.insert(0, f"{one.where}:")
    if finding.trail:
        parts.append(f"The way there: {short_way(finding.trail)}.")
    # `[text](target)` would be a link; code can look like one.
    return " ".join([*parts, finding.remedy]).replace("](", "] (")


def _flow(finding: Finding, texts: Mapping[str, str]) -> dict[str, Any]:
    steps = []
    for hop in finding.trail[:MOST_STEPS]:
        location: dict[str, Any] = _location(hop.place, texts) if hop.place else {}
        location["message"] = {"text": hop.label.replace("](", "] (")}
        steps.append({"location": location})
    return {"threadFlows": [{"locations": steps}]}


def _location(place: Place, texts: Mapping[str, str]) -> dict[str, Any]:
    physical: dict[str, Any] = {"artifactLocation": _artifact(place.file)}
    # GitHub places nothing without a region.
    physical["region"] = _region(place, texts) or {"startLine": 1}
    return {"physicalLocation": physical}


def _region(place: Place, texts: Mapping[str, str]) -> dict[str, Any]:
    line = line_in_file(place, texts)
    if not line:
        return {}
    region: dict[str, Any] = {"startLine": line}
    if place.cell is None:
        region["startColumn"] = max(place.column, 1)
        if (place.end_line or place.line, place.end_column) > (place.line, place.column):
            region |= {"endLine": place.end_line or place.line, "endColumn": place.end_column}
        snippet = text_at(place, texts).splitlines()[place.line - 1 : (place.end_line or place.line)]
        if snippet:
            region["snippet"] = {"text": "\n".join(snippet)}
    return region


def _fix(fix: Fix, texts: Mapping[str, str]) -> dict[str, Any] | None:
    """None in a notebook, whose file is another text than that of its cells."""
    if any(edit.place.cell is not None for edit in fix.edits):
        return None
    changes: dict[str, list[Edit]] = {}
    for edit in fix.edits:
        changes.setdefault(edit.place.file, []).append(edit)
    return {
        "description": {"text": f"{fix.summary} ({'safe' if fix.safe else 'unsafe'})"},
        "artifactChanges": [
            {
                "artifactLocation": _artifact(file),
                "replacements": [
                    {"deletedRegion": _deleted(edit.place), "insertedContent": {"text": edit.text}} for edit in edits
                ],
            }
            for file, edits in changes.items()
        ],
    }


def _deleted(place: Place) -> dict[str, Any]:
    return {
        "startLine": place.line,
        "startColumn": place.column,
        "endLine": place.end_line or place.line,
        "endColumn": place.end_column or place.column,
    }


def _artifact(file: str) -> dict[str, Any]:
    name = relative(file, checkout())
    if Path(name).is_absolute():
        return {"uri": Path(name).as_uri()}
    return {"uri": quote(name), "uriBaseId": ROOT}


def _notification(trouble: Trouble, texts: Mapping[str, str], level: str = "error") -> dict[str, Any]:
    where: Sequence[Any] = [_location(trouble.place, texts)] if trouble.place else []
    text = f"{shown(trouble.place)}: {trouble.message}" if trouble.place else trouble.message
    return {"level": level, "message": {"text": text}, **({"locations": where} if where else {})}
