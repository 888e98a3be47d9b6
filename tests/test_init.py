"""`vladoctor init` asks the files; what it writes is a run that can be run. And shell completion."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import preflight_faults as faults
import pytest

from vladoctor.cli import run
from vladoctor.errors import UserError
from vladoctor.init import write_run
from vladoctor.runspec import load_run


def test_the_fixtures_run_file(tmp_path: Path) -> None:
    written = write_run(faults.CHECKPOINT, None, tmp_path / "run.yaml")
    spec = load_run(written.file)
    spec.require_files()
    model, env = spec.own_loop()
    assert model.path == faults.CHECKPOINT
    assert (model.unnorm_key, model.center_crop, model.dtype) == ("libero_object", True, None)
    assert env.suite == "libero_object"
    assert written.warnings == ()
    text = written.file.read_text("utf-8")
    assert "dataset_statistics.json" in text
    assert "by default bfloat16 on a GPU" in text


def test_it_says_what_to_do_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """That its file runs is shown by the pre-flight's own test."""
    file = tmp_path / "run.yaml"
    assert run(["init", "--checkpoint", str(faults.CHECKPOINT), "-o", str(file)]) == 0
    assert f"vladoctor preflight {file}" in capsys.readouterr().out


def test_it_does_not_write_over_a_file(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("mine", "utf-8")
    with pytest.raises(UserError, match="there already"):
        write_run(faults.CHECKPOINT, None, file)
    assert file.read_text("utf-8") == "mine"
    write_run(faults.CHECKPOINT, None, file, force=True)
    assert "libero_object" in file.read_text("utf-8")


def test_a_place_that_cannot_be_written_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    command = ["init", "--checkpoint", str(faults.CHECKPOINT), "--force", "-o"]
    assert run([*command, str(tmp_path / "file" / "run.yaml")]) == 2
    assert "this is a file, not a folder" in capsys.readouterr().err
    assert run([*command, str(tmp_path)]) == 2
    assert "this is a folder" in capsys.readouterr().err
    assert [one.name for one in tmp_path.iterdir()] == ["file"]
    assert not list(tmp_path.parent.glob(f".{tmp_path.name}*"))


def test_what_the_files_do_not_say_is_asked_for(tmp_path: Path) -> None:
    copy = faults.checkpoint_copy(tmp_path)
    table = json.loads((copy / "dataset_statistics.json").read_text("utf-8"))
    (entry,) = table.values() if len(table) == 1 else [next(iter(table.values()))]
    both = {"libero_spatial_no_noops": entry, "libero_goal": entry}
    (copy / "dataset_statistics.json").write_text(json.dumps(both), "utf-8")
    with pytest.raises(UserError, match="2 suites: libero_spatial, libero_goal"):
        write_run(copy, None, tmp_path / "run.yaml")
    written = write_run(copy, "libero_spatial", tmp_path / "run.yaml")
    assert load_run(written.file).own_loop()[0].unnorm_key == "libero_spatial_no_noops"
    other = write_run(copy, "libero_10", tmp_path / "other.yaml")
    assert "no statistics of libero_10" in other.warnings[0]
    (copy / "dataset_statistics.json").write_text(json.dumps({"bridge_orig": entry}), "utf-8")
    with pytest.raises(UserError, match="bridge_orig"):
        write_run(copy, None, tmp_path / "third.yaml")
    assert not (tmp_path / "third.yaml").exists()


def test_a_checkpoint_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no checkpoint was found"):
        write_run(None, None, Path("run.yaml"))
    (tmp_path / "weights").mkdir()
    faults.checkpoint_copy(tmp_path / "weights")
    written = write_run(None, None, Path("run.yaml"))
    assert "path: weights/tiny-openvla" in written.file.read_text("utf-8")
    faults.checkpoint_copy(tmp_path)
    with pytest.raises(UserError, match="2 checkpoints"):
        write_run(None, None, Path("other.yaml"))


def test_another_family_is_sent_to_its_own_loop(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"type": "smolvla"}), "utf-8")
    with pytest.raises(UserError, match="smolvla") as raised:
        write_run(tmp_path, "libero_object", tmp_path / "run.yaml")
    assert "diagnose --" in raised.value.remedy


# Completion.


def completed(*words: str) -> list[str]:
    environment = {
        **os.environ, "_VLADOCTOR_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(["vladoctor", *words]),
        "COMP_CWORD": str(len(words)),
    }  # fmt: skip
    program = "from vladoctor.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


def test_completion() -> None:
    assert "preflight" in completed("pre")
    assert completed("explain", "VD60")[:2] == ["VD601", "VD602"]
    assert "flip-vertical" in completed("diagnose", "demo", "--fault", "flip")
    assert "VD201,VD301" in completed("diagnose", "--select", "VD201,VD30")
    assert "openvla-libero" in completed("diagnose", "--profile", "openvla-l")
    assert "demo" in completed("preflight", "de")
    assert {"openvla-libero", "openvla-oft"} <= set(completed("profiles", "openvla"))
    assert "show" in completed("profiles", "sh")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", shell]) == 0
    assert "_VLADOCTOR_COMPLETE" in capsys.readouterr().out


def test_bash_offers_names_beside_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """click's own script drops every name where files can stand as well."""
    assert run(["completion", "bash"]) == 0
    (tmp_path / "desk run.yaml").touch()
    program = tmp_path / "vladoctor"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m vladoctor "$@"\n', "utf-8")
    program.chmod(0o755)
    asked = """
    compopt() { :; }  # only works while a key is handled
    COMP_WORDS=(vladoctor preflight de); COMP_CWORD=2
    _vladoctor_completion vladoctor de preflight
    printf '%s\\n' "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "-c", capsys.readouterr().out + asked],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["demo", "desk run.yaml"], done.stderr


def test_help_of_completion_keeps_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", "--help"]) == 0
    lines = [line.split()[0] for line in capsys.readouterr().out.splitlines() if "vladoctor completion " in line]
    assert lines == ["Usage:", "bash:", "zsh:", "fish:"]
