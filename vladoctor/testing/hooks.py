"""What the pytest plugin does around each test, registered where a test is vladoctor's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from vladoctor.errors import UserError
from vladoctor.testing.doctor import VlaDoctor

doctor_key = pytest.StashKey[VlaDoctor]()
runs_key = pytest.StashKey[list[dict[str, Any]]]()
"""What is told of the runs that a test watched, as plain data; see `vladoctor.testing.report.told`."""


def doctor_of(item: pytest.Item) -> VlaDoctor:
    """The test's own."""
    if doctor_key not in item.stash:
        try:
            item.stash[doctor_key] = VlaDoctor.of(item)
        except UserError as error:
            # Where it was found out says nothing to who wrote the marker.
            raise pytest.fail.Exception(str(error), pytrace=False) from None
    return item.stash[doctor_key]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    # The test may be run for the second time.
    if doctor_key in item.stash:
        del item.stash[doctor_key]
    item.stash[runs_key] = []
    if any(marker.kwargs.get("watch") for marker in item.iter_markers("vla")):
        doctor_of(item).start()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    outcome: Any = yield
    doctor = item.stash.get(doctor_key, None)
    if doctor is not None:
        unhealthy = doctor.end_of_test(outcome.excinfo[1] if outcome.excinfo else None)
        if unhealthy is not None:
            outcome.force_exception(unhealthy)
        _tell(item, doctor)


def _tell(item: pytest.Item, doctor: VlaDoctor) -> None:
    item.stash[runs_key] = doctor.told()
    item.user_properties.extend(doctor.properties())


def pytest_runtest_teardown(item: pytest.Item) -> None:
    doctor = item.stash.get(doctor_key, None)
    if doctor is not None:
        doctor.close()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    doctor = item.stash.get(doctor_key, None)
    if doctor is not None and call.when == "call" and runs_key not in item.stash:
        # A test that asks for the fixture while it runs, the first of all: there were no hooks around its call.
        with suppress(Exception):
            _tell(item, doctor)
    outcome: Any = yield
    runs = item.stash.get(runs_key, None)
    if runs:
        # pytest-xdist carries what a report has to the process that collects them, if it is plain data.
        outcome.get_result().vladoctor = runs
    if doctor is not None and call.when == "call" and call.excinfo is not None:
        outcome.get_result().sections.extend(doctor.sections(call.excinfo.value))
