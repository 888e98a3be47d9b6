"""Files that nobody meant for the linter: it says that it cannot read them, or nothing, and executes none of them."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import lint_robustness

from vladoctor.check import all_checks
from vladoctor.lint.result import LintResult
from vladoctor.lint.run import lint_paths

HEALTHY = (Path(__file__).parent / "lint" / "vd201" / "rot180.good.py").read_text("utf-8")
WORDS = "# openvla: model.predict_action(...), env.step(...)\n"


def lint(path: Path, root: Path) -> LintResult:
    result = lint_paths([path], all_checks(), {}, root)
    assert not [crashed.error for loop in result.loops for crashed in loop.crashed]
    return result


@pytest.mark.parametrize(
    ("content", "skipped"),
    [
        (b"", False),
        (b"\xef\xbb\xbf" + HEALTHY.encode(), False),
        (HEALTHY.replace("\n", "\r\n").encode(), False),
        (HEALTHY.replace("\n", "\r").encode(), False),
        ("# -*- coding: latin-1 -*-\n# ü\n".encode("latin-1") + HEALTHY.encode(), False),
        (b"# -*- coding: no-such-code -*-\n" + WORDS.encode(), True),
        (WORDS.encode() + b"x = '\xff\xfe'\n", True),
        (WORDS.encode() + b"x = \x00\n", True),
        (WORDS.encode() + b"def broken(:\n", True),
        (WORDS.encode() + b"print 'two'\n", True),
        (WORDS.encode() + b"x = " + b"(" * 5000 + b")" * 5000 + b"\n", None),
        (WORDS.encode() + b"x = a" + b".b" * 3000 + b"\n", None),
        (WORDS.encode() + b"x = 1" + b" + 1" * 3000 + b"\n", None),
        (WORDS.encode() + b"if a:\n    pass\n" + b"elif b:\n    pass\n" * 1500, None),
        (WORDS.encode() + b"x = " + b"[" * 90 + b"]" * 90 + b"\n", False),
        (HEALTHY.encode() + b"\nwhile True:\n    main()\n", False),
        (HEALTHY.encode() + b"\ndef f():\n    return f()\n\n\nf()\n", False),
        (HEALTHY.encode() + b"\nimport loop\nfrom loop import *\nfrom . import loop\n", False),
        (
            HEALTHY.encode()
            + b"\nclass A(A):\n    pass\n\n\nclass B(C):\n    pass\n\n\nclass C(B):\n    pass\n\n\nC().x\n",
            False,
        ),
    ],
)
def test_odd_files(content: bytes, skipped: bool | None, tmp_path: Path) -> None:
    """`skipped` is None where it depends on how deep the running Python parses."""
    path = tmp_path / "loop.py"
    path.write_bytes(content)
    started = time.process_time()
    result = lint(path, tmp_path)
    assert time.process_time() - started < 3
    if skipped is not None:
        assert bool(result.skipped) == skipped, [one.reason for one in result.skipped]


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"cells": 3}', '{"cells": [{"cell_type": "code"}]}', "{", "\x00"])
def test_odd_notebooks(content: str, tmp_path: Path) -> None:
    path = tmp_path / "loop.ipynb"
    path.write_text(content + " " * bool(content) + '"predict_action openvla .step("' * (content == ""), "utf-8")
    lint(path, tmp_path)


BOMBS = [
    '"x" * 10**9',
    "[0] * 10**9",
    "np.zeros(10**10)",
    "10**10**9",
    "1 << 10**9",
    "list(range(10**12))",
    "sum(range(10**12))",
    '"%0999999999d" % 3',
    'f"{3:0999999999d}"',
    '"{:>9999999999}".format("x")',
    '"ab".ljust(10**10)',
    "np.tile(np.zeros(10), 10**9)",
    "np.linspace(0, 1, 10**10)",
    "np.ones((10**5, 10**5)) @ np.ones((10**5, 10**5))",
    "bytes(10**10)",
    "pow(3, 10**9)",
]


@pytest.mark.parametrize("bomb", BOMBS)
def test_nothing_big_is_computed(bomb: str, tmp_path: Path) -> None:
    path = tmp_path / "loop.py"
    path.write_text(HEALTHY.replace("REST = [", f"BIG = {bomb}\nREST = ["), "utf-8")
    started = time.process_time()
    assert len(lint(path, tmp_path).loops) == 1
    assert time.process_time() - started < 1


def test_nothing_is_executed(tmp_path: Path) -> None:
    lint_robustness.planted(tmp_path)
    path = tmp_path / "loop.py"
    path.write_text(lint_robustness.IMPORTS + lint_robustness.TRAP + HEALTHY, "utf-8")
    before = set(sys.modules), list(sys.path)
    assert len(lint(path, tmp_path).loops) == 1
    assert not list(tmp_path.rglob("EXECUTED*"))
    assert not {"lab", "helpers", "robot_tools", "loop"} & (set(sys.modules) - before[0])
    assert sys.path == before[1]


def test_the_trap_works(tmp_path: Path) -> None:
    """What `test_nothing_is_executed` looks for does appear where something is imported."""
    lint_robustness.planted(tmp_path)
    exec(compile(lint_robustness.TRAP, str(tmp_path / "loop.py"), "exec"), {"__file__": str(tmp_path / "loop.py")})
    assert list(tmp_path.rglob("EXECUTED*"))


def test_mutants(tmp_path: Path) -> None:
    """A few of the thousands that benchmarks/lint_robustness.py makes."""
    mutator = lint_robustness.Mutator(lint_robustness.sources(None), random.Random(7))
    for number in range(60):
        folder = tmp_path / f"{number:02}"
        folder.mkdir()
        path = folder / "loop.py"
        path.write_text(mutator.mutant(), "utf-8")
        lint(path, folder)


def test_a_folder_of_everything(tmp_path: Path) -> None:
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "gone.py").symlink_to(tmp_path / "nowhere.py")
    (tmp_path / "circle").symlink_to(tmp_path)
    (tmp_path / "loop.py").write_text(HEALTHY, "utf-8")
    result = lint(tmp_path, tmp_path)
    assert len(result.loops) == 1
