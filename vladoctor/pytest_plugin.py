"""The pytest plugin: fixtures to watch a loop in a test, and `*.run.yaml` files as tests. For users: docs/pytest.md.

pytest imports this module in every suite of an environment in which vladoctor is installed, so it imports nothing that
pytest has not. What the hooks do is in `vladoctor.testing`, which is imported when a test, a marker or a run file asks
for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from vladoctor.testing.doctor import VlaDoctor, VlaTrace

MARKER = (
    "vla(profile=None, select=(), ignore=(), thresholds={}, fail_on=None, complete=True, watch=False): how vladoctor "
    "judges what this test watches; with watch=True the whole test is watched and has to be healthy."
)

GPUS = ("auto", "worker", "off")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("vladoctor", "closed loops of vision-language-action models")
    group.addoption(
        "--vladoctor-report",
        metavar="DIR",
        dest="vladoctor_report_dir",
        help="Keep reports and traces of everything that is watched in this folder, with an index.html.",
    )
    group.addoption(
        "--vladoctor-profile",
        metavar="NAME",
        help="What the checkpoint expects: a profile, or a YAML file of your own.",
    )
    group.addoption("--vladoctor-select", metavar="CODES", help="Run only these checks: VD201,VD301 or VD2.")
    group.addoption("--vladoctor-ignore", metavar="CODES", help="Leave these checks out.")
    group.addoption(
        "--vladoctor-fail-on", choices=("stop", "fix", "look"), help="The mildest severity that fails a test (look)."
    )
    group.addoption(
        "--vladoctor-gpus",
        choices=GPUS,
        help="Give each worker of pytest-xdist a GPU of its own: always, never, or (auto) where an option or the ini "
        "file says anything of vladoctor.",
    )
    parser.addini(
        "vladoctor_report_dir", "Folder of reports and traces, relative to the root of the suite.", default=""
    )
    parser.addini("vladoctor_profile", "Profile to judge by; by default the one that fits the checkpoint.", default="")
    parser.addini("vladoctor_select", "Codes of the checks to run; all by default.", type="args", default=[])
    parser.addini("vladoctor_ignore", "Codes of the checks to leave out.", type="args", default=[])
    parser.addini("vladoctor_fail_on", "The mildest severity that fails a test: stop, fix or look.", default="")
    parser.addini("vladoctor_gpus", "As --vladoctor-gpus.", default="")
    parser.addini(
        "vladoctor_run_files", "Patterns of the files that are run files.", type="args", default=["*.run.yaml"]
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARKER)
    gpus = config.getini("vladoctor_gpus")
    if gpus not in ("", *GPUS):
        raise pytest.UsageError(f"vladoctor_gpus is one of {', '.join(GPUS)}, not {gpus!r}")
    if config.getoption("vladoctor_report_dir") or config.getini("vladoctor_report_dir"):
        from vladoctor.testing.settings import require_folder

        require_folder(config)
    if hasattr(config, "workerinput"):
        from vladoctor.testing.gpus import assign

        # Before a test module is imported: libraries read these variables only once.
        assign(config)
    else:
        config.pluginmanager.register(Gathered(config), "vladoctor-gathered")


class Gathered:
    """What was watched, in whichever process; told at the end, in the one that people look at."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.runs: dict[str, dict[str, Any]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for run in getattr(report, "vladoctor", ()):
            self.runs[run["name"]] = run

    def pytest_sessionfinish(self) -> None:
        if self.runs:
            from vladoctor.testing.index import write_index

            write_index(self.config, list(self.runs.values()))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.runs:
            from vladoctor.testing.index import print_runs

            print_runs(terminalreporter, self.config, list(self.runs.values()))


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if file_path.suffix not in (".yaml", ".yml"):
        return None
    if not any(file_path.match(pattern) for pattern in parent.config.getini("vladoctor_run_files")):
        return None
    from vladoctor.testing.runfiles import RunFile

    _watch_tests(parent.config)
    return RunFile.from_parent(parent, path=file_path)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if any("vla_doctor" in getattr(item, "fixturenames", ()) or item.get_closest_marker("vla") for item in items):
        _watch_tests(config)


def _watch_tests(config: pytest.Config) -> None:
    """Register what is called for every test, several times, only where some test is ours."""
    if not config.pluginmanager.has_plugin("vladoctor-watching"):
        from vladoctor.testing import hooks

        config.pluginmanager.register(hooks, "vladoctor-watching")


@pytest.fixture
def vla_doctor(request: pytest.FixtureRequest) -> VlaDoctor:
    """Watches a block of the test and judges it: `with vla_doctor.watch(): ...`, then `vla_doctor.assert_healthy()`."""
    return _doctor(request.node)


@pytest.fixture
def vla_trace(vla_doctor: VlaDoctor) -> VlaTrace:
    """What `vla_doctor` recorded: `vla_trace.episode`, `vla_trace.path`, and both in the plural."""
    return vla_doctor.trace


def _doctor(item: pytest.Item) -> VlaDoctor:
    from vladoctor.testing.hooks import doctor_of

    # A test that asks for the fixture by name while it runs is seen here for the first time.
    _watch_tests(item.config)
    return doctor_of(item)
