"""What the tests share: one simulator a process, one thread a worker, and no gap hidden by a skip.

A test that needs LIBERO carries `@pytest.mark.simulator`, one that needs torch and transformers `@pytest.mark.torch`.
Where those are not installed it is skipped and says why; with CI=true in the environment every skip is a failure,
unless the test carries `@pytest.mark.may_skip`.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest_plugins = ("pytester",)

NEEDS = {"simulator": ("libero", "robosuite", "mujoco", "torch"), "torch": ("torch", "transformers")}
SHARED_OUT = (
    "tests/test_session.py::test_a_fault_is_named_first_and_at_once[",
    "tests/test_session.py::test_two_faults_at_once_are_two_root_causes[",
)
"""Long rows of tests that share nothing: workers take them one by one, and not as a file."""

IN_CI = os.environ.get("CI", "").lower() in ("1", "true")

# torch reads these once, when it is imported; the processes that tests start inherit them. Two workers that each take
# every core run slower than one.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def pytest_configure(config: pytest.Config) -> None:
    # transformers copies a checkpoint's code to this folder before it imports it; workers that share it race.
    if "HF_MODULES_CACHE" not in os.environ or hasattr(config, "workerinput"):
        folder = tempfile.mkdtemp(prefix="vladoctor-hf-modules-")
        os.environ["HF_MODULES_CACHE"] = folder
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """What `--dist loadfile` does, but for the tests of `SHARED_OUT`."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return nodeid if nodeid.startswith(SHARED_OUT) else nodeid.partition("::")[0]

    return ByFile(config, log)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker, packages in NEEDS.items():
        missing = [name for name in packages if importlib.util.find_spec(name) is None]
        if missing and item.get_closest_marker(marker):
            pytest.skip(f"not installed: {', '.join(missing)} (docs/install.md)")
    if item.get_closest_marker("simulator"):
        if "libero_env" not in getattr(item, "fixturenames", ()):
            _simulator.close()
        _set_imports_apart()


def _set_imports_apart() -> None:
    """Once it is all there, leave what torch and the simulator made at import out of garbage collection.

    robosuite collects at every reset, twice in an episode, which takes longer than the reset.
    """
    if gc.get_freeze_count() or not {"torch", "transformers", "robosuite"} <= {*sys.modules}:
        return
    from vladoctor.adapters import libero

    # What is frozen is not collected any more, so nothing that draws must be among it.
    if libero.live_env() is None:
        gc.collect()
        gc.freeze()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome: Any = yield
    report: pytest.TestReport = outcome.get_result()
    if IN_CI and report.skipped and not hasattr(report, "wasxfail") and not item.get_closest_marker("may_skip"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which hides a gap in CI: {_reason(report.longrepr)}"


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    outcome: Any = yield
    report: pytest.CollectReport = outcome.get_result()
    if IN_CI and report.outcome == "skipped":
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid} skipped, which hides a gap in CI: {_reason(report.longrepr)}"


def _reason(longrepr: Any) -> str:
    return str(longrepr[2]) if isinstance(longrepr, tuple) else str(longrepr)


class Simulator:
    """The one LIBERO env of this process: kept while the same one is asked for, closed before another is made."""

    def __init__(self) -> None:
        self.asked: tuple[Any, ...] = ()
        self.env: Any = None
        self.task: Any = None

    def open(
        self,
        task: int | str = 0,
        *,
        suite: str = "libero_object",
        resolution: int = 128,
        cameras: tuple[str, ...] = ("agentview",),
    ) -> tuple[Any, Any]:
        """An env on the stand-in assets, and its task. Reset it before use (`libero.reset_to`)."""
        from vladoctor.adapters import libero

        asked = (task, suite, resolution, cameras)
        if asked != self.asked or self.env is None or libero.live_env() is not self.env:
            self.close()
            libero.prepare("stand-in")
            self.task = libero.load_task(suite, task)
            self.env = libero.make_env(self.task, resolution=resolution, cameras=cameras)
            self.asked = asked
        return self.env, self.task

    def close(self) -> None:
        if self.env is not None:
            from vladoctor.adapters import libero

            libero.close_env(self.env)
            self.env = None


_simulator = Simulator()


@pytest.fixture(scope="session")
def _close_simulator() -> Iterator[None]:
    yield
    _simulator.close()


@pytest.fixture
def libero_env(_close_simulator: None) -> Callable[..., tuple[Any, Any]]:
    """`libero_env(task=0, resolution=128, cameras=("agentview",))` -> (env, task); one env at a time in a process."""
    return _simulator.open
