#!/usr/bin/env python3
"""Set up an environment for this repository and run things in it. Needs Python 3.10 or newer and nothing else.

    python3 dev.py demo [options of `vladoctor diagnose`]     diagnose the demo
    python3 dev.py test [arguments of pytest]                 run the tests
    python3 dev.py lint                                       ruff, mypy
    python3 dev.py compat                                     the versions that OpenVLA itself pins
    python3 dev.py setup [compat]                             only set up

The first call makes .venv (about 2.5 GB, most of it torch and robosuite) from the exact versions in requirements/;
later calls see from a stamp in it that nothing has changed. `compat` has an environment of its own, .venv-compat.
Nothing outside this folder is touched, with one exception: where the GL libraries that MuJoCo draws with are missing
and this runs as root on Debian or Ubuntu, they are installed with apt-get.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent
REQUIREMENTS = ROOT / "requirements"
OLDEST_PYTHON = (3, 10)
OLDEST_PIP = (23, 1)
"""Older ones lack --report."""

GL_LIBRARIES = ("libEGL.so.1", "libGL.so.1", "libglib-2.0.so.0")
GL_VENDORS = Path("/usr/share/glvnd/egl_vendor.d"), Path("/etc/glvnd/egl_vendor.d")
GL_PACKAGES = ("libegl1", "libegl-mesa0", "libgl1-mesa-dri", "libgl1", "libglib2.0-0")

NOT_IN_COMPAT = (
    "test_packaging.py",
    "test_session.py",
    "test_matrix.py::test_two_faults_and_the_healthy_loop_for_real",
    "test_official_formats.py",
    "test_trackers.py",
)
"""The first needs build tools; the second takes minutes, the third one, and two episodes of the demo stand for both;
the others need what only requirements/main.in names."""


class SetupError(Exception):
    """What is wrong and what to do about it; printed without a traceback."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment and the file of exact versions that belongs into it."""

    folder: Path
    pins: Path

    @property
    def python(self) -> Path:
        return self.program("python")

    @property
    def stamp(self) -> Path:
        return self.folder / "dev-stamp"

    def program(self, name: str) -> Path:
        return self.folder / ("Scripts" if os.name == "nt" else "bin") / name

    def digest(self) -> str:
        """Changes whenever this environment has to be brought up to date."""
        files = [self.pins, REQUIREMENTS / "torch.txt", REQUIREMENTS / "libero.txt", ROOT / "pyproject.toml"]
        parts = [sys.version, str(ROOT), *(file.read_text(encoding="utf-8") for file in files)]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()


MAIN = Environment(ROOT / ".venv", REQUIREMENTS / "main.txt")
COMPAT = Environment(ROOT / ".venv-compat", REQUIREMENTS / "compat.txt")


def set_up(environment: Environment) -> None:
    """Make the environment, or bring it up to date; quick when it is."""
    digest = environment.digest()
    if environment.stamp.is_file() and environment.stamp.read_text() == digest and environment.python.exists():
        return
    started = time.monotonic()
    news = "bringing up to date" if environment.folder.exists() else "setting up, once, a few minutes:"
    say(f"{news} {environment.folder.name}")
    environment.stamp.unlink(missing_ok=True)
    make_venv(environment)
    install_torch(environment)
    torch = installed(environment)["torch"]
    say(f"everything in requirements/{environment.pins.name}")
    pip(environment, "install", "--requirement", environment.pins, "--constraint", REQUIREMENTS / "torch.txt")
    say("robosuite, bddl, hf-libero (200 MB) and openpi-client, without what they ask for")
    pip(environment, "install", "--no-deps", "--requirement", REQUIREMENTS / "libero.txt")
    with alone():
        pip(environment, "install", "--no-deps", "--no-build-isolation", "--editable", ROOT)
    check_torch(environment, torch)
    environment.stamp.write_text(digest)
    say(f"{environment.folder.name} is ready after {time.monotonic() - started:.0f} s")


def make_venv(environment: Environment) -> None:
    if not works(environment.python, "-m", "pip", "--version"):
        shutil.rmtree(environment.folder, ignore_errors=True)
        if importlib.util.find_spec("ensurepip") is None:
            # Debian packs it apart.
            name = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
            apt_install([name], "this Python cannot make virtual environments")
        run([sys.executable, "-m", "venv", environment.folder])
    words = output([environment.python, "-m", "pip", "--version"]).split()
    if tuple(int(part) for part in words[1].split(".")[:2]) < OLDEST_PIP:
        pip(environment, "install", "--upgrade", "pip")


def install_torch(environment: Environment) -> None:
    """Install the pinned torch without CUDA.

    For Linux, PyPI has builds with CUDA only. Where the package index in use offers one, uv takes the CPU build from
    PyTorch's own index, whose address it knows.
    """
    pinned: list[str | Path] = ["--requirement", REQUIREMENTS / "torch.txt"]
    say(pinned_torch())
    plan = json.loads(output(pip_command(environment, "install", "--dry-run", "--report", "-", *pinned)))
    if not cuda_packages(entry["metadata"]["name"] for entry in plan["install"]):
        pip(environment, "install", *pinned)
        return
    say("this package index offers a build with CUDA (several GB); taking PyTorch's own CPU build")
    pip(environment, "install", "uv")
    try:
        run([environment.program("uv"), "pip", "install", "--quiet", "--python", environment.python,
             "--torch-backend", "cpu", *pinned])  # fmt: skip
    except subprocess.CalledProcessError as error:
        raise SetupError(
            f"could not get a CPU build of {pinned_torch()}\n"
            f"  install one into {environment.folder.name} as PyTorch's installation page says, then repeat the command"
        ) from error


def check_torch(environment: Environment, version: str) -> None:
    """Make sure that nothing that came after torch has replaced it or brought CUDA along."""
    found = installed(environment)
    if found["torch"] != version or cuda_packages(found):
        raise SetupError(
            f"torch was {version} and is {found['torch']}, CUDA packages: {', '.join(cuda_packages(found)) or 'none'}\n"
            f"  something in requirements/ replaced torch; remove {environment.folder.name} and correct that file"
        )


def installed(environment: Environment) -> dict[str, str]:
    """Name -> version of every package in the environment."""
    script = (
        "import json, importlib.metadata as m; "
        "print(json.dumps({d.metadata['Name'].lower(): d.version for d in m.distributions()}))"
    )
    found: dict[str, str] = json.loads(output([environment.python, "-c", script]))
    return found


def pinned_torch() -> str:
    lines = (REQUIREMENTS / "torch.txt").read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith("torch=="))


def cuda_packages(names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if name.startswith(("nvidia-", "cuda-", "triton")))


def check_gl() -> None:
    """MuJoCo draws through EGL, on a machine without a GPU by way of Mesa."""
    if not sys.platform.startswith("linux"):
        return
    missing = [name for name in GL_LIBRARIES if not loadable(name)]
    if not any(folder.is_dir() and any(folder.iterdir()) for folder in GL_VENDORS):
        missing.append("an EGL driver")
    if missing:
        apt_install(GL_PACKAGES, f"missing for drawing without a display: {', '.join(missing)}")


def loadable(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def apt_install(packages: Sequence[str], reason: str) -> None:
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise SetupError(f"{reason}\n  as root, on Debian or Ubuntu: {' '.join(command)}")
    say(f"{reason}; installing {' '.join(packages)}")
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with alone():
        # A fresh container has no package lists; one in use has, and need not fetch them again.
        if subprocess.run(command, env=quiet, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode:
            run(["apt-get", "update", "-qq"], env=quiet)
            run(command, env=quiet)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Keep the other environment's setting up out meanwhile: the two run side by side in CI, and share apt and ROOT."""
    try:
        import fcntl
    except ImportError:  # Windows, where nobody runs two at once
        yield
        return
    with (ROOT / "dev.py").open(encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def setup(arguments: list[str]) -> int:
    """The environment of the tests; `setup compat`, the other one."""
    set_up(COMPAT if arguments == ["compat"] else MAIN)
    check_gl()
    return 0


def demo(arguments: list[str]) -> int:
    set_up(MAIN)
    check_gl()
    return call([MAIN.program("vladoctor"), "diagnose", "demo", *arguments])


def test(arguments: list[str]) -> int:
    set_up(MAIN)
    check_gl()
    return call([MAIN.python, "-m", "pytest", "-n", "2", "--dist", "loadfile", *arguments])


def lint(arguments: list[str]) -> int:
    """Ruff and mypy, all of them even where one fails."""
    set_up(MAIN)
    ruff: list[str | Path] = [MAIN.python, "-m", "ruff"]
    results = {
        "ruff check": call([*ruff, "check", *arguments, ROOT]),
        "ruff format": call([*ruff, "format", "--check", "--quiet", ROOT]),
        "mypy": mypy(),
    }
    for name, status in results.items():
        say(f"{name}: {'failed' if status else 'clean'}")
    return max(results.values())


def mypy() -> int:
    """Type-check the package in the layout that a wheel has.

    An editable install maps checks/ and fixtures/ into the package through an import hook, which mypy cannot see.
    """
    view = MAIN.folder / "mypy-view"
    shutil.rmtree(view, ignore_errors=True)
    (view / "vladoctor").mkdir(parents=True)
    for path in [*(ROOT / "vladoctor").iterdir(), ROOT / "checks", ROOT / "fixtures"]:
        if path.name != "__pycache__":
            (view / "vladoctor" / path.name).symlink_to(path)
    command: list[str | Path] = [MAIN.python, "-m", "mypy", f"--cache-dir={ROOT / '.mypy_cache'}"]
    command.append(f"--config-file={ROOT / 'pyproject.toml'}")
    scripts = [ROOT / "dev.py", ROOT / "conftest.py", *sorted((ROOT / "benchmarks").glob("*.py"))]
    status = mypy_call([*command, "-p", "vladoctor"], view)
    return max(status, mypy_call([*command, "--scripts-are-modules", *scripts], ROOT, MYPYPATH=str(view)))


def mypy_call(command: list[str | Path], folder: Path, **variables: str) -> int:
    words = [str(word) for word in command]
    done = subprocess.run(
        words, cwd=folder, env={**os.environ, **variables}, stdout=subprocess.PIPE, text=True, check=False
    )
    text = done.stdout
    for name in ("checks", "fixtures"):
        text = text.replace(f"vladoctor/{name}/", f"{name}/")
    print(text, end="", flush=True)
    return done.returncode


def compat(arguments: list[str]) -> int:
    set_up(COMPAT)
    check_gl()
    left_out = [f"--{'deselect' if '::' in name else 'ignore'}=tests/{name}" for name in NOT_IN_COMPAT]
    status = call([COMPAT.python, "-m", "pytest", "-n", "2", "--dist", "loadfile", *left_out, *arguments])
    say("one episode of each of the demo's tasks")
    with tempfile.TemporaryDirectory() as folder:
        return max(status, call([COMPAT.program("vladoctor"), "diagnose", "demo", "--episodes", "1", "--out", folder]))


def say(text: str) -> None:
    print(f"dev.py: {text}", file=sys.stderr, flush=True)


def pip(environment: Environment, *arguments: str | Path) -> None:
    run(pip_command(environment, *arguments))


def pip_command(environment: Environment, *arguments: str | Path) -> list[str | Path]:
    # One --quiet would leave a warning for each package that one of several package indexes does not have.
    common = ["--disable-pip-version-check", "--no-input", "--quiet", "--quiet"]
    return [environment.python, "-m", "pip", *arguments, *common]


def run(command: Sequence[str | Path], env: dict[str, str] | None = None) -> None:
    subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, env=env, check=True)


def output(command: Sequence[str | Path]) -> str:
    words = [str(word) for word in command]
    return subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True).stdout


def call(command: Sequence[str | Path], env: dict[str, str] | None = None, cwd: Path = ROOT) -> int:
    """Run a command whose exit status is the answer."""
    return subprocess.run([str(word) for word in command], cwd=cwd, env=env, check=False).returncode


def works(*command: str | Path) -> bool:
    try:
        words = [str(word) for word in command]
        return subprocess.run(words, capture_output=True, stdin=subprocess.DEVNULL, check=False).returncode == 0
    except OSError:
        return False


def main() -> int:
    if sys.version_info < OLDEST_PYTHON:
        print("dev.py: needs Python 3.10 or newer", file=sys.stderr)
        return 2
    commands = {"demo": demo, "test": test, "lint": lint, "compat": compat, "setup": setup}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=commands)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="passed on")
    chosen = parser.parse_args()
    try:
        return commands[chosen.command](chosen.arguments)
    except SetupError as error:
        print(f"dev.py: {error}", file=sys.stderr)
    except subprocess.CalledProcessError as error:
        print(f"dev.py: this failed with exit status {error.returncode}: {' '.join(error.cmd)}", file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    return 2


if __name__ == "__main__":
    sys.exit(main())
