"""What a checkpoint's folder says of itself, by its files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import preflight_faults as faults
import pytest

from vladoctor.errors import UserError
from vladoctor.snapshot import Snapshot, check_hashes, read_weights


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return faults.checkpoint_copy(tmp_path)


def test_the_fixture_is_whole() -> None:
    snapshot = Snapshot(faults.CHECKPOINT)
    weights = snapshot.weights
    assert weights.problems == ()
    assert weights.complete
    assert (weights.dtype, len(weights.tensors), weights.values) == ("float16", 159, 7_022_336)
    assert snapshot.image_size == 128
    assert snapshot.is_openvla()
    assert snapshot.statistics[1] == "dataset_statistics.json"
    assert len(snapshot.pixel_norm[0]) == 6


def test_it_says_the_same_as_the_loaded_model() -> None:
    """Against what safetensors itself reads."""
    safetensors = pytest.importorskip("safetensors")
    with safetensors.safe_open(faults.CHECKPOINT / "model.safetensors", "np") as opened:
        shapes = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    assert {name: tensor.shape for name, tensor in read_weights(faults.CHECKPOINT).tensors.items()} == shapes


@pytest.mark.parametrize("length", [0, 5, 100, 20_000, 14_063_711])
def test_any_cut_is_seen(copy: Path, length: int) -> None:
    with (copy / "model.safetensors").open("r+b") as stream:
        stream.truncate(length)
    (problem,) = read_weights(copy).problems
    assert "cut off" in problem


def test_other_damage(copy: Path) -> None:
    file = copy / "model.safetensors"
    whole = file.read_bytes()
    for content, words in (
        (whole + b"x", "longer than its header"),
        (b"\xff" * 100, "no safetensors"),
        (whole[:8] + b"x" * (len(whole) - 8), "no JSON"),
        (b"<!DOCTYPE html>" * 9, "no safetensors"),
    ):
        file.write_bytes(content)
        (problem,) = read_weights(copy).problems
        assert words in problem


def test_an_index_and_its_shards(copy: Path) -> None:
    pytest.importorskip("torch")
    faults.shard_missing(copy)
    (problem,) = read_weights(copy).problems
    assert "1 of 2 shards" in problem
    index = json.loads((copy / "model.safetensors.index.json").read_text())
    first = "model-00001-of-00002.safetensors"
    index["weight_map"] = dict.fromkeys(index["weight_map"], first)
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    (problem,) = read_weights(copy).problems
    assert "are not in the shard" in problem
    (copy / "model.safetensors.index.json").unlink()
    (problem,) = read_weights(copy).problems
    assert "1 of 2 shards are there" in problem


def test_hashes(copy: Path) -> None:
    assert check_hashes(copy, seconds=10) is None
    faults.changed_by_one_byte(copy)
    found = check_hashes(copy, seconds=10)
    assert found is not None
    assert found.wrong == ("model.safetensors",)
    assert found.checked == found.known > 5
    left = check_hashes(copy, seconds=0.01)
    assert left is not None
    assert left.skipped_bytes > 10e6
    digest = hashlib.sha256((copy / "config.json").read_bytes()).hexdigest()
    (copy / "SHA256SUMS").write_text(f"{digest}  config.json\n{'0' * 64}  gone.json\n")
    found = check_hashes(copy, seconds=10)
    assert found is not None
    assert found.wrong == ("gone.json (missing)",)


def test_hashes_of_a_cache(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    content = b"{}"
    digest = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    (tmp_path / "blobs" / digest).write_bytes(content)
    (tmp_path / "snapshot" / "config.json").symlink_to(tmp_path / "blobs" / digest)
    found = check_hashes(tmp_path / "snapshot", seconds=10)
    assert found is not None
    assert (found.checked, found.wrong) == (1, ())


def test_damaged_files_are_told(copy: Path) -> None:
    (copy / "dataset_statistics.json").write_text("{", "utf-8")
    with pytest.raises(UserError, match="not JSON"):
        _ = Snapshot(copy).statistics
    (copy / "config.json").unlink()
    with pytest.raises(UserError, match=r"no config\.json"):
        _ = Snapshot(copy).config
