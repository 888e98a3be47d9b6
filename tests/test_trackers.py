"""Runs in TensorBoard and Weights & Biases: written by those programs and read back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from diagnoses import ORIENTATION, SATURATION, diagnosis, result

import vladoctor
from vladoctor.errors import UserError
from vladoctor.report import tensorboard, wandb
from vladoctor.report.scalars import scalars
from vladoctor.result import RunResult


@pytest.fixture
def run(tmp_path: Path) -> RunResult:
    (tmp_path / "report.html").write_text("<html>report</html>")
    return result(diagnosis(1, [ORIENTATION, SATURATION]), diagnosis(2), folder=tmp_path)


def test_numbers(run: RunResult) -> None:
    numbers = scalars(run)
    assert numbers["vladoctor/findings/stop"] == 1
    assert numbers["vladoctor/findings/look"] == 1
    assert numbers["vladoctor/episodes_with/VD201"] == 0.5
    assert numbers["vladoctor/success_rate"] == 0.5
    assert 0 < numbers["vladoctor/success_low"] < 0.5 < numbers["vladoctor/success_high"] < 1
    assert numbers["vladoctor/exit_status"] == 1
    assert "vladoctor/success_rate" not in scalars(result())


def test_tensorboard_reads_it_back(run: RunResult, tmp_path: Path) -> None:
    import struct

    from tensorboardX.proto.event_pb2 import Event

    tensorboard.write_tensorboard(run, tmp_path / "tb", step=7)
    (file,) = (tmp_path / "tb").glob("events.out.tfevents.*")
    data, events = file.read_bytes(), []
    while data:  # a record: length, its checksum, the event, its checksum
        (length,) = struct.unpack("<Q", data[:8])
        events.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    values = {value.tag: value for event in events if event.step == 7 for value in event.summary.value}
    read = {tag: value.simple_value for tag, value in values.items() if value.HasField("simple_value")}
    assert read == pytest.approx(scalars(run))
    text = values["vladoctor/summary/text_summary"].tensor.string_val[0].decode()
    assert "VD201 image-orientation" in text


def test_a_watched_block_is_tracked(run: RunResult, tmp_path: Path) -> None:
    doctor = vladoctor.watch()
    with pytest.raises(UserError, match="nothing to track yet"):
        doctor.track(wandb=True)
    doctor.result = run
    doctor.track(tensorboard=tmp_path / "tb", step=3)
    assert len(list((tmp_path / "tb").glob("events.out.tfevents.*"))) == 1


def test_tensorboard_that_is_missing_is_said_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorboard, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="neither tensorboardX"):
        tensorboard.require_tensorboard()
    monkeypatch.setattr(wandb, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="wandb is not installed"):
        wandb.require_wandb()


WANDB = """
import sys
from pathlib import Path
from test_trackers import ORIENTATION, SATURATION, diagnosis, result
import wandb
from vladoctor.report.wandb import log_wandb

run = result(diagnosis(1, [ORIENTATION, SATURATION]), diagnosis(2), folder=Path("report"))
print(log_wandb(run, "robots"))
mine = wandb.init(project="robots", dir=".")
assert log_wandb(run) == mine.id
mine.log({"still": 1})
mine.finish()
"""


def test_wandb_takes_it_offline(run: RunResult, tmp_path: Path) -> None:
    """In a process of its own: wandb leaves hooks in the one that it is used in."""
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.html").write_text("<html>report</html>")
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "PYTHONPATH": str(Path(__file__).parent),
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(tmp_path),
        "WANDB_SILENT": "true",
    }
    done = subprocess.run(
        [sys.executable, "-c", WANDB], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    folders = sorted((tmp_path / "wandb").glob("offline-run-*"))
    assert len(folders) == 2
    assert any(done.stdout.strip() in folder.name for folder in folders)
    for folder in folders:
        (table,) = folder.glob("files/media/table/vladoctor/findings_table_*.table.json")
        rows = json.loads(table.read_text())["data"]
        assert [row[0] for row in rows] == ["VD201", "VD402"]
        (log,) = folder.glob("run-*.wandb")
        assert b"vladoctor/success_rate" in log.read_bytes()
        assert list(folder.glob("files/media/html/vladoctor/report_*.html"))
