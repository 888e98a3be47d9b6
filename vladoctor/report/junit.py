"""JUnit XML, as Jenkins, GitLab and others read it: a suite for each subject, a test case for each check.

A finding that counts for the exit status is a failure; a milder one, and one that is accepted, stands in the output
of a test case that passed. A check that could say nothing was skipped, one that crashed is an error. Valid against the
schema of Jenkins's xUnit plugin.
"""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

import vladoctor
from vladoctor.diagnosis import Finding
from vladoctor.report.reported import Looked, Report, Trouble, short_way, shown


def to_text(report: Report) -> str:
    """The whole document."""
    root = ElementTree.Element("testsuites", name=f"vladoctor {report.command}")
    suites: dict[str, list[Looked]] = {}
    for looked in report.looked:
        suites.setdefault(looked.subject, []).append(looked)
    # A subject that nothing was asked of says nothing.
    elements = [_suite(report, subject, cases) for subject, cases in suites.items()]
    if report.troubles or not elements:
        elements.append(_troubles(report.troubles, report.command))
    root.extend(elements)
    for name in ("tests", "failures", "errors"):
        root.set(name, str(sum(int(element.get(name, "0")) for element in elements)))
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _suite(report: Report, subject: str, cases: list[Looked]) -> ElementTree.Element:
    suite = ElementTree.Element("testsuite", name=_text(subject))
    file = next((case.file for case in cases if case.file), "")
    if file:
        suite.set("file", _text(file))
    properties = ElementTree.SubElement(suite, "properties")
    ElementTree.SubElement(properties, "property", name="vladoctor", value=vladoctor.__version__)
    for looked in cases:
        case = ElementTree.SubElement(
            suite,
            "testcase",
            name=_text(f"{looked.code} {looked.name}".strip()),
            classname=_text(f"vladoctor.{report.command}.{subject}"),
        )
        output: list[str] = list(looked.notes) if looked.state == "passed" else []
        for finding in looked.found:
            if finding.severity.at_least(report.fail_on):
                failure = ElementTree.SubElement(
                    case, "failure", type=finding.severity.value, message=_text(finding.message)
                )
                failure.text = _text(_told(finding))
            else:
                output.append(f"{finding.severity.value}: {_told(finding)}")
        output += [f"accepted: {_told(finding)}" for finding in looked.accepted]
        if looked.state == "crashed":
            error = ElementTree.SubElement(case, "error", type="crashed", message="the check crashed")
            error.text = _text(looked.error)
        elif looked.state == "abstained":
            ElementTree.SubElement(case, "skipped", message=_text("; ".join(looked.notes)))
        if output:
            ElementTree.SubElement(case, "system-out").text = _text("\n\n".join(output))
    return _counted(suite)


def _troubles(troubles: Sequence[Trouble], command: str) -> ElementTree.Element:
    suite = ElementTree.Element("testsuite", name="what could not be looked at")
    for trouble in troubles:
        name = shown(trouble.place) if trouble.place else trouble.message.partition(":")[0]
        case = ElementTree.SubElement(suite, "testcase", name=_text(name), classname=f"vladoctor.{command}")
        ElementTree.SubElement(case, "error", type="trouble", message=_text(trouble.message))
    return _counted(suite)


def _counted(suite: ElementTree.Element) -> ElementTree.Element:
    cases = suite.findall("testcase")
    for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(name, str(sum(case.find(tag) is not None for case in cases)))
    suite.set("tests", str(len(cases)))
    return suite


def _told(finding: Finding) -> str:
    parts = [finding.message]
    if finding.place is not None:
        parts.append(f"at {shown(finding.place)}")
    if finding.trail:
        parts.append(f"the way there: {short_way(finding.trail)}")
    parts += [
        f"{key}: {finding.evidence[key]}" for key in ("expected", "seen") if finding.evidence.get(key) is not None
    ]
    if finding.explained_by:
        parts.append(f"follows from {finding.explained_by}")
    return "\n".join([*parts, finding.remedy, f"more: vladoctor explain {finding.code}"])


def _text(text: str) -> str:
    """Without the characters that XML 1.0 cannot hold, not even escaped; they are spelt out."""
    return "".join(sign if _allowed(sign) else f"\\u{ord(sign):04x}" for sign in text)


def _allowed(sign: str) -> bool:
    code = ord(sign)
    return sign in "\t\n\r" or 0x20 <= code <= 0xD7FF or 0xE000 <= code <= 0xFFFD or code >= 0x10000
