"""Wheel, sdist and editable install each hold what is needed, in an environment of their own, away from the source."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"vladoctor": "vladoctor", "checks": "vladoctor/checks", "fixtures": "vladoctor/fixtures"}
"""Folder in the source -> folder in the wheel."""

HEAVY = ("numpy", "scipy", "PIL", "torch", "transformers", "mujoco", "robosuite", "libero")
INSTALLS = ("wheel", "wheel from sdist", "editable")

PROBE = """
import importlib.metadata, json
from pathlib import Path
import vladoctor.checks, vladoctor.fixtures, vladoctor.fixtures.build
from vladoctor.check import all_checks
from vladoctor.runspec import load_run
fixtures = Path(vladoctor.fixtures.__file__).parent
print(json.dumps({
    "version": importlib.metadata.version("vladoctor"),
    "packages": [vladoctor.__file__, vladoctor.checks.__file__, vladoctor.fixtures.__file__],
    "codes": [check.code for check in all_checks()],
    "demo": str(load_run("demo").model.path),
    "fixtures": sorted(path.relative_to(fixtures).as_posix() for path in fixtures.rglob("*") if path.is_file()),
}))
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository as a clone would be, so that no build folder of an earlier state gets in."""
    folder = tmp_path_factory.mktemp("source") / "vladoctor"
    anywhere = shutil.ignore_patterns("__pycache__", ".*_cache", "*.egg-info")
    at_the_top = shutil.ignore_patterns(".git", ".venv*", ".data", "build", "dist", "reports", "weights")

    def ignore(place: str, names: list[str]) -> set[str]:
        return anywhere(place, names) | (at_the_top(place, names) if Path(place) == ROOT else set())

    shutil.copytree(ROOT, folder, ignore=ignore)
    return folder


@pytest.fixture(scope="module")
def artefacts(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    direct, by_way = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("sdist")
    build = [sys.executable, "-m", "build", "--no-isolation", str(source)]
    _run([*build, "--wheel", "--outdir", str(direct)])
    _run([*build, "--outdir", str(by_way)])
    return {
        "wheel": next(direct.glob("*.whl")),
        "wheel from sdist": next(by_way.glob("*.whl")),
        "sdist": next(by_way.glob("*.tar.gz")),
        "editable": source,
    }


@pytest.fixture(scope="module", params=INSTALLS)
def installed(
    request: pytest.FixtureRequest, artefacts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """(kind of install, folder of its programs); the dependencies are those of the environment that runs the tests."""
    target = [*(["--editable"] if request.param == "editable" else []), str(artefacts[request.param])]
    return request.param, _install(tmp_path_factory.mktemp("venv"), *target)


def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(source: Path, artefacts: dict[str, Path]) -> None:
    names = _names_in_wheel(artefacts["wheel"])
    expected = {
        f"{target}/{path.relative_to(source / folder).as_posix()}"
        for folder, target in PACKAGES.items()
        for path in (source / folder).rglob("*")
        if path.is_file()
    }
    metadata = {name for name in names if name.startswith("vladoctor-") and ".dist-info/" in name}
    assert names - metadata == expected
    assert any(name.endswith("licenses/LICENSE") for name in metadata)


def test_the_sdist_holds_what_is_needed_to_test_it(source: Path, artefacts: dict[str, Path]) -> None:
    with tarfile.open(artefacts["sdist"]) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    wanted = {"conftest.py", "dev.py", ".ci/run", "LICENSE", "README.md", "CHANGELOG.md", "CONTRIBUTING.md"}
    for folder in (*PACKAGES, "tests", "docs", "examples", "benchmarks", "requirements"):
        wanted |= {path.relative_to(source).as_posix() for path in (source / folder).rglob("*") if path.is_file()}
    assert wanted - names == set()
    assert _names_in_wheel(artefacts["wheel from sdist"]) == _names_in_wheel(artefacts["wheel"])


def test_it_works_away_from_its_source(installed: tuple[str, Path], source: Path, tmp_path: Path) -> None:
    kind, programs = installed
    found = json.loads(_run([str(programs / "python"), "-c", PROBE], cwd=tmp_path))
    home = source if kind == "editable" else programs.parent
    assert all(Path(file).is_relative_to(home) for file in found["packages"])
    assert Path(found["demo"]).is_relative_to(home)
    shipped = {path.relative_to(source / "fixtures").as_posix() for path in (source / "fixtures").rglob("*")}
    assert shipped & {"runs/demo.yaml", "bddl/scenes.yaml", "tiny-openvla/model.safetensors"} <= set(found["fixtures"])
    assert any(name.startswith("libero-assets/") for name in found["fixtures"])
    assert found["codes"]

    program = str(programs / "vladoctor")
    assert _run([program, "--version"], cwd=tmp_path).strip() == f"vladoctor {found['version']}"
    assert [line.split()[0] for line in _run([program, "checks"], cwd=tmp_path).splitlines()] == found["codes"]
    assert json.loads(_run([program, "schema"], cwd=tmp_path))["$schema"]


def test_the_users_own_checks_and_fixtures_are_not_shadowed(installed: tuple[str, Path], tmp_path: Path) -> None:
    python = str(installed[1] / "python")
    for name in ("checks", "fixtures"):
        lookup = f"import importlib.util as u; print(u.find_spec({name!r}))"
        assert _run([python, "-c", lookup], cwd=tmp_path).strip() == "None"
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("WHOSE = 'mine'\n", encoding="utf-8")
    script = "import vladoctor.checks, vladoctor.fixtures, checks, fixtures; print(checks.WHOSE, fixtures.WHOSE)"
    assert _run([python, "-c", script], cwd=tmp_path).split() == ["mine", "mine"]


@pytest.mark.parametrize(
    "script",
    [
        "import vladoctor",
        "import vladoctor.checks, vladoctor.fixtures, vladoctor.schemas",
        "from vladoctor.cli import run; run(['--help'])",
        "from vladoctor.cli import run; run(['--version'])",
    ],
)
def test_starting_imports_nothing_heavy(script: str, tmp_path: Path) -> None:
    listing = f"{script}\nimport sys; print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    command = [sys.executable, "-c", listing]
    done = subprocess.run(command, cwd=tmp_path, env=_environment(), capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


@pytest.mark.simulator
@pytest.mark.torch
def test_a_users_repository_is_tested_with_the_wheel(artefacts: dict[str, Path], tmp_path: Path) -> None:
    programs = _install(tmp_path / "venv", str(artefacts["wheel"]))
    suite = tmp_path / "suite"
    shutil.copytree(ROOT / "examples" / "libero-suite", suite, ignore=shutil.ignore_patterns("__pycache__", ".*_cache"))
    python = str(programs / "python")
    _run([python, "get_weights.py"], cwd=suite)
    told = _run([python, "-m", "pytest", "-n", "2", "-rs", "--junitxml=junit.xml", "-p", "no:cacheprovider"], cwd=suite)
    summary = told.partition("= vladoctor =")[2]
    for line in (
        r"^tests/test_loop.py::test_a_picture_that_is_only_flipped.*; VD201 image-orientation \(stop\)$",
        r"^tests/test_loop.py::test_the_loop_is_healthy: 1 episode, .*; nothing found$",
        r"^tiny.run.yaml: 1 episode, .*; nothing found$",
        r"^3 runs, 3 episodes watched: VD201 image-orientation in 1$",
    ):
        assert re.search(line, summary, re.MULTILINE), told
    cases = list(ElementTree.parse(suite / "junit.xml").iter("testcase"))
    assert {str(case.get("classname")).split(".")[0] for case in cases} == {"tests", "tiny"}
    # Checks of the run as a whole, which has a single episode.
    skipped = {str(case.get("name")) for case in cases if case.find("skipped") is not None}
    assert skipped <= {"VD602", "VD604", "VD801"}, told
    index = json.loads((suite / "reports" / "index.json").read_text(encoding="utf-8"))
    assert all((suite / "reports" / run["page"]).is_file() for run in index["runs"])
    assert len(list((suite / "reports").rglob("*.mcap"))) == 3


def _install(venv: Path, *target: str) -> Path:
    """Install into a new environment that borrows the dependencies of this one; the folder of its programs."""
    _run([sys.executable, "-m", "venv", "--without-pip", str(venv)])
    programs = venv / "bin"
    site = _run([str(programs / "python"), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip()
    # A plain path in a .pth file: no .pth file over there is read, so that its own vladoctor stays out of sight.
    (Path(site) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--ignore-installed", "--quiet"]
    _run([sys.executable, "-m", "pip", "--python", str(programs / "python"), "install", *options, *target])
    return programs


def _names_in_wheel(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def _run(command: list[str], cwd: Path | None = None) -> str:
    done = subprocess.run(
        command, cwd=cwd, env=_environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout
