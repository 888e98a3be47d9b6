"""The faults as a catalogue: how many, how they are named, and which reports from the field they reconstruct."""

from __future__ import annotations

import re

import pytest

from vladoctor.check import Check, Fault, all_checks, all_faults

REPORT = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9._-]+#[1-9][0-9]*")
"""A thread of a public repository, as GitHub links it."""

FAULTS = [pytest.param(fault, check, id=name) for name, (fault, check) in all_faults().items()]


def test_no_two_faults_share_a_name() -> None:
    names = [fault.name for check in all_checks() for fault in check.faults]
    assert len(names) == len(set(names))


def test_there_are_faults_enough_and_reports_behind_them() -> None:
    found = [fault for fault, _ in all_faults().values()]
    assert len(found) >= 60
    assert sum(bool(fault.reports) for fault in found) >= 20
    assert len({report for fault in found for report in fault.reports}) >= 20


@pytest.mark.parametrize(("fault", "check"), FAULTS)
def test_a_fault_does_something_and_cites_its_report(fault: Fault, check: Check) -> None:
    assert fault.apply or fault.before_env or fault.configure
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", fault.name)
    assert fault.summary.strip()
    assert not fault.summary.endswith(".")
    for report in fault.reports:
        assert REPORT.fullmatch(report)
        assert report in check.page.partition("## References")[2], f"{check.code} does not refer to {report}"
    assert len(set(fault.reports)) == len(fault.reports)
    assert all(report in fault.text for report in fault.reports)


def test_every_check_of_the_loop_has_a_fault_that_proves_it() -> None:
    # VD504: the shipped policy is given no state. VD901: a check that crashes is no fault of a loop.
    assert {check.code for check in all_checks() if not check.faults} == {"VD504", "VD901"}
