"""`vladoctor lint` as people call it, on loops with and without a fault."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from vladoctor import cli
from vladoctor.schemas import load_schema

LOOPS = Path(__file__).parent / "lint"
BAD = LOOPS / "vd201" / "pi0_flipped_only.bad.py"
"""Two cameras that are flipped in one place."""

GOOD = LOOPS / "vd201" / "pi0.good.py"
LINE = next(n for n, line in enumerate(BAD.read_text().splitlines(), 1) if "expect: VD201" in line)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copy(BAD, "bad.py")
    shutil.copy(GOOD, "good.py")
    return tmp_path


def _run(*words: str) -> int:
    return cli.run(["lint", *words])


def test_says_what_is_wrong_and_where(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("bad.py") == 1
    out, err = capsys.readouterr()
    assert f"bad.py:{LINE}:" in out
    assert "VD201 image-orientation [stop]" in out
    assert "np.ascontiguousarray(frame[::-1, :, :])" in out
    assert "^" * len("[::-1, :, :]") in out
    assert "agentview_image bad.py:" in out
    assert "rot180" in out
    assert "2 findings (2 stop) in 1 evaluation loop; 1 file looked at" in out
    assert err == ""


def test_a_healthy_loop_is_left_in_peace(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("good.py") == 0
    assert capsys.readouterr().out.startswith("nothing found in 1 evaluation loop; 1 file looked at")


def test_without_paths_the_current_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("--output-format", "concise") == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.startswith(f"bad.py:{LINE}:")
        assert ": VD201 [stop] image-orientation: " in line


def test_nothing_that_is_read_is_run(folder: Path) -> None:
    file = folder / "bad.py"
    file.write_text(f"{file.read_text()}\nopen('ran', 'w').close()\n")
    assert _run("bad.py") == 1
    assert not (folder / "ran").exists()


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["--ignore", "VD201"], 0),
        (["--select", "VD3"], 0),
        (["--select", "image-orientation"], 1),
        (["--fail-on", "stop"], 1),
        (["missing.py"], 2),
        (["--select", "VD2O1"], 2),
        (["--write-baseline"], 2),
        (["--profile", "openvla-libro"], 2),
        (["--config", "missing.toml"], 2),
    ],
)
def test_exit_status(words: list[str], status: int) -> None:
    assert _run("bad.py", *words) == status


def test_a_file_that_does_not_parse_is_status_2(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "broken.py").write_text(f"{BAD.read_text()}\nif (\n")
    assert _run("broken.py", "--output-format", "concise") == 2
    assert "broken.py:" in (out := capsys.readouterr().out)
    assert "error: " in out


def test_json_sarif_and_junit(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("bad.py", "--output-format", "json", "--sarif", "a.sarif", "--junit", "a.xml") == 1
    found = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator(load_schema("lint")).validate(found)
    assert found["findings"][0]["place"]["line"] == LINE
    result, _ = json.loads(Path("a.sarif").read_text())["runs"][0]["results"]
    region = result["locations"][0]["physicalLocation"]["region"]
    assert (region["startLine"], "[::-1, :, :]" in region["snippet"]["text"]) == (LINE, True)
    assert "<failure" in Path("a.xml").read_text()


def test_all_that_is_found_fits_the_schemas(capsys: pytest.CaptureFixture[str]) -> None:
    """Every check's findings, in every format."""
    assert _run(str(LOOPS), "--output-format", "json", "--sarif", "a.sarif", "--junit", "a.xml") == 1
    found = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator(load_schema("lint")).validate(found)
    results = json.loads(Path("a.sarif").read_text())["runs"][0]["results"]
    assert len(results) == len(found["findings"]) > 50
    assert {one["ruleId"] for one in results} == {one["code"] for one in found["findings"]}


def test_output_file_and_statistics(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("bad.py", "-o", "out.txt") == 1
    assert capsys.readouterr().out == ""
    assert "VD201" in Path("out.txt").read_text()
    assert _run("bad.py", "--statistics") == 1
    assert capsys.readouterr().out == "    2  VD201  image-orientation [stop]\n"


def test_comments_settings_and_baseline(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = folder / "bad.py"
    source = file.read_text()
    file.write_text(source.replace("# expect: VD201", "# vladoctor: ignore[VD201]"))
    assert _run("bad.py") == 0
    assert "2 accepted (2 by comment)" in capsys.readouterr().out
    file.write_text(source)
    (folder / "pyproject.toml").write_text('[tool.vladoctor.per-file-ignores]\n"bad.py" = ["VD2"]\n')
    assert _run() == 0
    assert _run("--isolated") == 1
    (folder / "pyproject.toml").write_text('[tool.vladoctor]\nbaseline = "known.json"\nexclude = ["old"]\n')
    assert _run("--write-baseline") == 0
    assert _run() == 0
    (folder / "old").mkdir()
    shutil.copy("bad.py", "old/bad.py")
    assert _run() == 0
    shutil.copy("bad.py", "new.py")
    capsys.readouterr()
    assert _run("--output-format", "concise") == 1
    assert {line.partition(":")[0] for line in capsys.readouterr().out.splitlines()} == {"new.py"}


def test_comments_in_notebooks(folder: Path) -> None:
    cells = [part.splitlines(keepends=True) for part in BAD.read_text().split("\n\n\n")]
    code = [{"cell_type": "code", "metadata": {}, "outputs": [], "source": cell} for cell in cells]
    text = json.dumps({"cells": code, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}, indent=1)
    (folder / "a.ipynb").write_text(text)
    assert _run("a.ipynb") == 1
    (folder / "a.ipynb").write_text(text.replace("# expect: VD201", "# vladoctor: ignore[VD201]"))
    assert _run("a.ipynb") == 0


def test_unused_comments(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = folder / "good.py"
    file.write_text(f"{file.read_text()}x = 1  # vladoctor: ignore[VD201]\n")
    assert _run("good.py") == 0
    assert _run("good.py", "--warn-unused-ignores") == 1
    assert "VD201 is not found here" in capsys.readouterr().out


def test_diff_shows_and_fix_mends(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (folder / "bad.py").read_text()
    assert _run("bad.py", "--diff") == 0
    assert capsys.readouterr().err == "nothing that can be mended; 2 more with --unsafe-fixes\n"
    assert _run("bad.py", "--diff", "--unsafe-fixes") == 1
    out, err = capsys.readouterr()
    assert out.startswith("--- bad.py\n+++ bad.py\n")
    assert "would mend 2 findings in 1 file" in err
    assert (folder / "bad.py").read_text() == before
    assert _run("bad.py", "--fix", "--unsafe-fixes") == 0
    assert "mended bad.py" in capsys.readouterr().out
    assert (folder / "bad.py").read_text() == before.replace("[::-1, :, :]", "[::-1, ::-1]")


def test_starting_costs_nothing_until_it_lints() -> None:
    code = "import sys, vladoctor.cli; print(sorted({'numpy', 'rich', 'ast', 'vladoctor.lint.run'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() in ("[]", "['ast']")


def test_a_pipe_gets_plain_text() -> None:
    environment = {**os.environ, "TERM": "xterm-256color", "PYTHONIOENCODING": "ascii"}
    words = [sys.executable, "-m", "vladoctor", "lint", "bad.py"]
    shown = subprocess.run(words, capture_output=True, env=environment, check=False)
    assert shown.returncode == 1, shown.stderr
    assert b"\x1b" not in shown.stdout
    shown.stdout.decode("ascii")


def test_a_named_file_that_does_not_parse_is_told_whatever_it_is_about(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "broken.py").write_text("def f(:\n")
    assert _run("broken.py") == 2
    assert "broken.py:1:7: error: is no Python" in capsys.readouterr().out
    # In a folder it is one of many files that are somebody else's.
    (folder / "sub").mkdir()
    (folder / "broken.py").rename(folder / "sub" / "broken.py")
    assert _run("sub") == 0


def test_a_cell_that_does_not_parse_is_told_and_hides_no_other(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loop = (folder / "bad.py").read_text()
    sources = ["%matplotlib inline\n!ls\n", "x = 1\ny = = 2\n", loop, "z = = 3\n", "%%bash\nif [ 1 ]; then\n"]
    cells = [{"cell_type": "code", "source": source} for source in sources]
    (folder / "demo.ipynb").write_text(json.dumps({"cells": cells}))
    assert _run("demo.ipynb", "--format", "concise") == 1
    printed = capsys.readouterr()
    assert "demo.ipynb:cell 3:" in printed.out
    assert [line for line in printed.err.splitlines() if "left out" in line] == [
        "demo.ipynb:cell 2:2:5: left out, is no Python: invalid syntax",
        "demo.ipynb:cell 4:1:5: left out, is no Python: invalid syntax",
    ]
    _run("demo.ipynb")
    assert "demo.ipynb:cell 2:2:5: left out" in capsys.readouterr().out


def test_what_has_no_fix_is_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (folder / "bad.py").read_text()
    (folder / "bad.py").write_text(text.replace("frame[::-1, :, :]", "np.flipud(frame)"))
    _run("bad.py", "--select", "VD201", "--diff")
    assert "2 findings have no fix, only advice" in capsys.readouterr().err
    _run("bad.py", "--select", "VD201", "--fix")
    assert "2 findings have no fix, only advice" in capsys.readouterr().out
