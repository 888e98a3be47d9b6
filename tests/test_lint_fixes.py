"""Mending files: what must never happen to somebody's source."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from linted import mirrored, place_of

from vladoctor.check import Severity
from vladoctor.diagnosis import Finding
from vladoctor.lint.fixes import Mended, plan_fixes
from vladoctor.places import Edit, Fix, Place

LINE = 'image = obs["agentview_image"][::-1]'


def _write(folder: Path, text: str, *, encoding: str = "utf-8", name: str = "eval.py") -> Path:
    file = folder / name
    file.write_bytes(text.encode(encoding))
    return file


def _flip(file: Path, text: str, **options: Any) -> Finding:
    return mirrored(place_of(file, text, "[::-1]"), **options)


def _plan(file: Path, text: str, *findings: Finding, unsafe: bool = False) -> Mended:
    return plan_fixes(findings or [_flip(file, text)], {str(file): text}, unsafe=unsafe)


def _mended(file: Path, text: str, *findings: Finding, unsafe: bool = False) -> bytes:
    plan = _plan(file, text, *findings, unsafe=unsafe)
    assert not plan.refused
    plan.write()
    return file.read_bytes()


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_keeps_line_ends(tmp_path: Path, end: str) -> None:
    text = f"import numpy{end}{LINE}{end}x = 1{end}"
    file = _write(tmp_path, text)
    # The engine reads with universal newlines.
    plain = text.replace("\r\n", "\n").replace("\r", "\n")
    finding = mirrored(place_of(file, plain, "[::-1]"))
    assert _mended(file, plain, finding) == text.replace("[::-1]", "[::-1, ::-1]").encode()


def test_new_lines_are_the_files_own(tmp_path: Path) -> None:
    text = f"{LINE}\r\nx = 1\r\n"
    file = _write(tmp_path, text)
    at = Place(str(file), 2, 1, 2, 1)
    finding = mirrored(at, fix=False)
    added = replace(finding, fix=Fix("add", (Edit(at, "y = 2\nz = 3\n"),), True))
    assert _mended(file, text, added) == f"{LINE}\r\ny = 2\r\nz = 3\r\nx = 1\r\n".encode()


@pytest.mark.parametrize(
    ("head", "encoding"),
    [("\ufeff", "utf-8"), ("# -*- coding: latin-1 -*-\n", "latin-1"), ("# coding: shift_jis\n# 画像\n", "shift_jis")],
)
def test_keeps_encoding_and_byte_order_mark(tmp_path: Path, head: str, encoding: str) -> None:
    text = f"{head}# ü\n{LINE}\n" if encoding != "shift_jis" else f"{head}{LINE}\n"
    file = _write(tmp_path, text, encoding=encoding)
    plain = text.lstrip("\ufeff")
    assert _mended(file, plain) == text.replace("[::-1]", "[::-1, ::-1]").encode(encoding)


def test_columns_count_characters(tmp_path: Path) -> None:
    text = 'x = "画像 é 🤖"; image = obs["a"][::-1]\x0c\n'
    file = _write(tmp_path, text)
    assert _mended(file, text) == text.replace("[::-1]", "[::-1, ::-1]").encode()


def test_keeps_permissions_and_links(tmp_path: Path) -> None:
    text = f"#!/usr/bin/env python\n{LINE}\n"
    real = _write(tmp_path, text, name="real.py")
    real.chmod(0o750)
    link = tmp_path / "link.py"
    link.symlink_to(real)
    _mended(link, text)
    assert link.is_symlink()
    assert "[::-1, ::-1]" in real.read_text()
    assert real.stat().st_mode & 0o777 == 0o750
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.py", "real.py"]


def test_a_file_that_changed_since_is_left_alone(tmp_path: Path) -> None:
    file = _write(tmp_path, f"# somebody wrote here meanwhile\n{LINE}\n")
    plan = _plan(file, f"{LINE}\n")
    assert not plan.files
    assert "has changed" in plan.refused[0][1]


def test_a_file_that_changes_between_plan_and_write_is_left_alone(tmp_path: Path) -> None:
    file = _write(tmp_path, f"{LINE}\n")
    plan = _plan(file, f"{LINE}\n")
    file.write_text("other\n")
    plan.write()
    assert file.read_text() == "other\n"


def test_what_would_not_parse_is_not_written(tmp_path: Path) -> None:
    text = f"{LINE}\nother = obs['b'][::-1]\n"
    file = _write(tmp_path, text)
    broken = place_of(file, text, "[::-1]")
    bad = Finding(**{**vars(mirrored(broken)), "fix": Fix("break it", (Edit(broken, "[::-1"),), True)})
    good = mirrored(place_of(file, text, "[::-1]", nth=1))
    plan = _plan(file, text, bad, good)
    assert [why for _, why in plan.refused] == ["the file would not parse any more"]
    plan.write()
    assert file.read_text() == text.replace("'b'][::-1]", "'b'][::-1, ::-1]")


def test_overlapping_fixes_wait(tmp_path: Path) -> None:
    text = f"{LINE}\n"
    file = _write(tmp_path, text)
    whole = place_of(file, text, 'obs["agentview_image"][::-1]')
    other = Finding(**{**vars(mirrored(whole)), "fix": Fix("np.rot90", (Edit(whole, "np.rot90(obs, 2)"),), True)})
    plan = _plan(file, text, _flip(file, text), other)
    assert "overlaps" in plan.refused[0][1]
    plan.write()
    assert file.read_text() == text.replace("[::-1]", "[::-1, ::-1]")


def test_two_edits_of_one_fix_go_together(tmp_path: Path) -> None:
    text = "a = x[::-1]\nb = y[::-1]\n"
    file = _write(tmp_path, text)
    places = [place_of(file, text, "[::-1]", nth=nth) for nth in (0, 1)]
    both = Fix("both", tuple(Edit(place, "[::-1, ::-1]") for place in places), True)
    finding = Finding(**{**vars(mirrored(places[0])), "fix": both})
    gone = Finding(
        **{**vars(mirrored(places[1])), "fix": Fix("out", (*both.edits[:1], Edit(Place(str(file), 9, 1), "x")), True)}
    )
    assert "not in the file" in _plan(file, text, gone).refused[0][1]
    assert _mended(file, text, finding, finding).count(b"::-1, ::-1") == 2


def test_unsafe_fixes_have_to_be_asked_for(tmp_path: Path) -> None:
    text = f"{LINE}\n"
    file = _write(tmp_path, text)
    finding = _flip(file, text, safe=False)
    assert not _plan(file, text, finding).files
    assert _plan(file, text, finding, unsafe=True).files


def test_the_diff_applies_with_patch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = f"import numpy\n{LINE}"
    file = _write(tmp_path, text)
    plan = _plan(file, text)
    assert plan.diff() == (
        "--- eval.py\n+++ eval.py\n@@ -1,2 +1,2 @@\n import numpy\n"
        f"-{LINE}\n\\ No newline at end of file\n"
        f"+{LINE.replace('[::-1]', '[::-1, ::-1]')}\n\\ No newline at end of file\n"
    )
    assert file.read_text() == text


@pytest.mark.parametrize(
    "layout", [{"indent": 1}, {}, {"indent": 4, "ensure_ascii": False}, {"separators": (",", ":")}]
)
def test_notebooks_keep_their_json(tmp_path: Path, layout: dict[str, Any]) -> None:
    code = ["%matplotlib inline\n", "# ü\n", f"{LINE}\n", "x = 1"]
    notebook = {
        "cells": [
            {"cell_type": "markdown", "metadata": {}, "source": [LINE]},
            {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [{"text": LINE}], "source": code},
            {"cell_type": "code", "metadata": {}, "outputs": [], "source": f"{LINE}\ny = 2"},
        ],
        "metadata": {"kernelspec": {"name": "ü"}},
        "nbformat": 4,
    }
    text = json.dumps(notebook, **layout) + "\n"
    file = _write(tmp_path, text, name="demo.ipynb")
    findings = [
        mirrored(place_of(file, "".join(code), "[::-1]", cell=1)),
        mirrored(place_of(file, f"{LINE}\ny = 2", "[::-1]", cell=2)),
    ]
    after = _mended(file, text, *findings).decode()
    wanted = json.loads(text)
    wanted["cells"][1]["source"][2] = LINE.replace("[::-1]", "[::-1, ::-1]") + "\n"
    wanted["cells"][2]["source"] = LINE.replace("[::-1]", "[::-1, ::-1]") + "\ny = 2"
    assert after == json.dumps(wanted, **layout) + "\n"


def test_no_fix_no_file(tmp_path: Path) -> None:
    text = f"{LINE}\n"
    file = _write(tmp_path, text)
    finding = _flip(file, text, fix=False)
    assert finding.severity is Severity.STOP
    assert _plan(file, text, finding).files == {}
