"""What a checkpoint's folder says, read from its files alone: no torch, and no value of a weight.

Source of the formats: safetensors (8 bytes little-endian length, JSON header, then the values, at offsets that the
header gives); transformers' index of shards (`weight_map`); huggingface_hub's notes beside downloads
(`.cache/huggingface/download/<file>.metadata`: commit, ETag, time) and its cache, in which a file is a link to a blob
that is named by its hash. An ETag is the SHA-256 of a file in LFS, else git's SHA-1 of its blob.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
import time
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from vladoctor.errors import UserError

DTYPES: Mapping[str, str] = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool", "F8_E4M3": "float8_e4m3", "F8_E5M2": "float8_e5m2",
}  # fmt: skip
"""safetensors' names of dtypes -> torch's."""

SIZES: Mapping[str, int] = {"float64": 8, "int64": 8, "float32": 4, "int32": 4, "float16": 2, "bfloat16": 2, "int16": 2}
"""Bytes of a value; those not listed take 1."""

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
LFS = b"version https://git-lfs"
LARGEST_HEADER = 100_000_000
"""safetensors' own limit."""

AGAIN = "compare the folder with the published snapshot, and copy or download what differs again"


@dataclass(frozen=True)
class Tensor:
    """One entry of a header."""

    dtype: str
    shape: tuple[int, ...]
    file: str

    @property
    def values(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Weights:
    """The files of weights, by their headers.

    Attributes:
        files: name -> bytes on the disk.
        tensors: of safetensors files; those of others cannot be listed without loading them.
        problems: what is wrong with the files, a sentence each; whole where there are none.
        complete: whether every file's tensors are listed.
    """

    files: Mapping[str, int]
    tensors: Mapping[str, Tensor]
    problems: Sequence[str] = ()
    complete: bool = True

    @property
    def dtypes(self) -> dict[str, int]:
        """Dtype -> number of values."""
        counted: Counter[str] = Counter()
        for tensor in self.tensors.values():
            counted[tensor.dtype] += tensor.values
        return dict(counted)

    @property
    def values(self) -> int:
        return sum(self.dtypes.values())

    @property
    def floats(self) -> int:
        """Number of values that a dtype of the model's own choice can hold."""
        return sum(count for name, count in self.dtypes.items() if "float" in name)

    @property
    def dtype(self) -> str:
        """Of most values; "" where none is listed."""
        return max(self.dtypes, key=lambda name: self.dtypes[name], default="")


@dataclass(frozen=True)
class Snapshot:
    """A checkpoint's folder."""

    path: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.json.

        Raises:
            UserError: it is missing or damaged.
        """
        file = self.path / "config.json"
        if not file.is_file():
            raise UserError(
                "no config.json in the model folder", where=str(self.path), remedy="name the snapshot's own folder"
            )
        found = read_json(file)
        for name, kind, what in (("model_type", str, "text"), ("architectures", list, "a list")):
            if not isinstance(found.get(name), (kind, type(None))):
                raise UserError(f"`{name}` is not {what}", where=str(file), remedy=AGAIN)
        return found

    @cached_property
    def statistics(self) -> tuple[dict[str, Any], str]:
        """What un-normalises actions, by data set, and the file that it stands in ("" where there is none).

        As the official evaluation reads it: dataset_statistics.json where there is one, else config.json's norm_stats.

        Raises:
            UserError: the file is damaged.
        """
        file = self.path / "dataset_statistics.json"
        if file.is_file():
            return read_json(file), file.name
        table = self.config.get("norm_stats") or {}
        if not isinstance(table, dict):
            raise UserError("`norm_stats` is no mapping", where=str(self.path / "config.json"), remedy=AGAIN)
        return table, "config.json" if table else ""

    @cached_property
    def preprocessor(self) -> dict[str, Any]:
        """preprocessor_config.json, empty where there is none."""
        file = self.path / "preprocessor_config.json"
        return read_json(file) if file.is_file() else {}

    @property
    def image_size(self) -> int | None:
        """Side of the model's square input in pixels."""
        sizes = self.config.get("image_sizes") or self.config.get("image_size")
        side = sizes[0] if isinstance(sizes, list) and sizes else sizes
        return side if isinstance(side, int) else None

    @property
    def pixel_norm(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation by channel of the input, all towers'; empty where they are not stated.

        Raises:
            UserError: they are no numbers.
        """

        def flat(*names: str) -> list[float]:
            name = next((name for name in names if name in self.preprocessor), "")
            value: Any = self.preprocessor.get(name, [])
            try:
                rows = value if value and isinstance(value[0], list) else [value]
                return [float(number) for row in rows for number in row]
            except (TypeError, ValueError, KeyError):
                file = self.path / "preprocessor_config.json"
                raise UserError(f"`{name}` is no list of numbers", where=str(file), remedy=AGAIN) from None

        return flat("means", "image_mean"), flat("stds", "image_std")

    def facts(self) -> dict[str, Any]:
        """In the shape of `records.Episode.run["checkpoint"]`, as far as the files say it."""
        mean, std = self.pixel_norm
        adapter = self.path / "adapter_config.json"
        found = {
            "name": self.path.name,
            "model_type": self.config.get("model_type"),
            "architectures": self.config.get("architectures"),
            "norm_stats": self.statistics[0] or None,
            "n_action_bins": self.config.get("n_action_bins"),
            "image_size": self.image_size,
            "pixel_mean": mean or None,
            "pixel_std": std or None,
            "adapter_file": adapter.name if adapter.is_file() else None,
        }
        return {name: value for name, value in found.items() if value is not None}

    @cached_property
    def weights(self) -> Weights:
        """The files of weights, each held against its own header and all against the index of shards."""
        return read_weights(self.path)

    def is_openvla(self) -> bool:
        """Whether vladoctor's own loop can load it: a checkpoint with its own code in OpenVLA's format."""
        told = " ".join([str(self.config.get("model_type")), *map(str, self.config.get("architectures") or ())])
        return "openvla" in told.lower()


def read_json(file: Path) -> dict[str, Any]:
    """A JSON file that holds one mapping.

    Raises:
        OSError: it cannot be read.
        UserError: it holds something else.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        what = f"this is not JSON: {error}" if file.stat().st_size else "this file is empty"
        raise UserError(what, where=str(file), remedy=AGAIN) from error
    if not isinstance(content, dict):
        raise UserError("this is JSON, but no mapping", where=str(file), remedy=AGAIN)
    return content


def read_weights(folder: Path) -> Weights:
    """Read the headers of a folder's files of weights, and what is wrong with them.

    Raises:
        OSError: the folder or a file cannot be read.
    """
    tensors: dict[str, Tensor] = {}
    problems: list[str] = []
    # Not `glob`, which takes a folder that cannot be listed for an empty one.
    listed = sorted(folder.iterdir())
    found = [file for file in listed if file.match("*.safetensors")]
    others = [file for file in listed if file.match("pytorch_model*.bin") or file.match("*.pt")]
    others = [] if found else others
    files: dict[str, int] = {}
    for file in [*found, *others]:
        if file.is_file():
            files[file.name] = file.stat().st_size
        elif file.is_symlink():
            problems.append(f"{file.name} is a link to {file.readlink()}, which is not there")
        else:
            problems.append(f"{file.name} is a folder")
    found, others = ([file for file in some if file.name in files] for some in (found, others))
    for file in found:
        try:
            tensors.update(_header(file))
        except _DamagedError as error:
            problems.append(f"{file.name} {error}")
    for file in others:
        if _is_pointer(file):
            problems.append(f"{file.name} is a git-lfs pointer, not weights")
        elif not zipfile.is_zipfile(file):
            problems.append(f"{file.name} is cut off: its table of contents, at the end, is missing")
    problems += _index_problems(folder, files, tensors)
    if not files and not problems:
        problems.append("no *.safetensors in the folder")
    return Weights(files, tensors, tuple(problems), complete=bool(found) and not problems)


class _DamagedError(Exception):
    pass


def _is_pointer(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(len(LFS)) == LFS


def _header(file: Path) -> dict[str, Tensor]:
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        if (start + stream.read(len(LFS) - 8)) == LFS:
            raise _DamagedError("is a git-lfs pointer, not weights")
        if len(start) < 8:
            raise _DamagedError(f"is cut off: it has {size} bytes")
        (length,) = struct.unpack("<Q", start)
        if length > LARGEST_HEADER:
            raise _DamagedError("is no safetensors file")
        if 8 + length > size:
            raise _DamagedError(f"is cut off in its header: {size:,} bytes of at least {8 + length:,}")
        stream.seek(8)
        try:
            header = json.loads(stream.read(length))
        except ValueError:
            raise _DamagedError("has a header that is no JSON") from None
    header.pop("__metadata__", None)
    try:
        end = 8 + length + max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
        tensors = {
            name: Tensor(DTYPES.get(entry["dtype"], str(entry["dtype"]).lower()), tuple(entry["shape"]), file.name)
            for name, entry in header.items()
        }
    except (KeyError, TypeError, IndexError, ValueError):
        raise _DamagedError("has a header that describes no tensors") from None
    if size < end:
        raise _DamagedError(f"is cut off: {size:,} bytes of {end:,}, {(end - size) / end:.0%} are missing")
    if size > end:
        raise _DamagedError(f"is longer than its header says: {size:,} bytes, {end:,} expected")
    return tensors


def _index_problems(folder: Path, files: Mapping[str, int], tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """What the index names and is not there."""
    for name in INDEXES:
        file = folder / name
        if not file.is_file() or (name.startswith("pytorch") and any(one.endswith(".safetensors") for one in files)):
            continue
        try:
            listed = json.loads(file.read_text("utf-8"))["weight_map"]
            shards = sorted(set(listed.values()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            yield f"{name} is no index of shards"
            continue
        absent = [shard for shard in shards if shard not in files]
        if absent:
            yield f"{len(absent)} of {len(shards)} shards that {name} names are missing: {_some(absent)}"
        lost = [
            key for key, shard in listed.items() if shard in files and shard.endswith(".safetensors")
            and not (key in tensors and tensors[key].file == shard)
        ]  # fmt: skip
        damaged = {shard for shard in shards if shard in files and not any(t.file == shard for t in tensors.values())}
        lost = [key for key in lost if listed[key] not in damaged]
        if lost:
            yield f"{len(lost)} weights are not in the shard that {name} names for them: {_some(lost)}"
    if not any((folder / name).is_file() for name in INDEXES):
        numbered = [re.search(r"-(\d+)-of-(\d+)\.", name) for name in files]
        counts = {int(found[2]) for found in numbered if found}
        if counts and len(files) < max(counts):
            yield f"{len(files)} of {max(counts)} shards are there, and no index"


@dataclass(frozen=True)
class Hashed:
    """Files held against the hashes that lie beside them.

    Attributes:
        known: how many files a hash is known of.
        checked: how many were held against it.
        wrong: those that differ.
        source: where the hashes come from.
        skipped_bytes: of files that were left out because they are large.
    """

    known: int
    checked: int
    wrong: tuple[str, ...]
    source: str
    skipped_bytes: int = 0


def check_hashes(folder: Path, *, seconds: float) -> Hashed | None:
    """Hold files against the hashes in the folder, the small ones first, as far as the time goes; None without hashes.

    Args:
        seconds: a file whose reading would go beyond it, at the speed of those before, is left out.
    """
    known, source = _known_hashes(folder)
    if not known:
        return None
    began, read, wrong, checked, skipped = time.perf_counter(), 0, [], 0, 0
    for name, digest in sorted(known.items(), key=lambda entry: _size(folder / entry[0])):
        file = folder / name
        size = _size(file)
        spent = time.perf_counter() - began
        speed = read / spent if read > 50e6 and spent > 0 else 300e6
        if spent + size / speed > seconds:
            skipped += size
            continue
        if not file.is_file():
            wrong.append(f"{name} (missing)")
        elif _digest(file, digest) != digest:
            wrong.append(name)
        checked, read = checked + 1, read + size
    return Hashed(len(known), checked, tuple(wrong), source, skipped)


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def _known_hashes(folder: Path) -> tuple[dict[str, str], str]:
    """Name -> hash in hexadecimal digits: 64 of SHA-256, or 40 of git's SHA-1."""
    found: dict[str, str] = {}
    for name in ("SHA256SUMS", "SHA256SUMS.txt", "sha256sums.txt"):
        if (folder / name).is_file():
            lines = re.findall(r"^([0-9a-f]{64}) [ *](.+)$", (folder / name).read_text("utf-8", "replace"), re.M)
            found |= {entry: digest for digest, entry in lines}
            return found, name
    notes = folder / ".cache" / "huggingface" / "download"
    for note in sorted(notes.rglob("*.metadata")) if notes.is_dir() else ():
        lines = note.read_text("utf-8", "replace").splitlines()
        if len(lines) > 1 and re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", lines[1].strip('"')):
            found[str(note.relative_to(notes)).removesuffix(".metadata")] = lines[1].strip('"')
    if found:
        return found, "the notes of the download (.cache/huggingface)"
    for file in sorted(folder.iterdir()):
        if file.is_symlink():
            blob = file.resolve().name
            if file.resolve().parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", blob):
                found[file.name] = blob
    return found, "the names of the cache's blobs"


def _digest(file: Path, like: str) -> str:
    hasher = hashlib.sha256() if len(like) == 64 else hashlib.sha1(b"blob %d\0" % file.stat().st_size)
    with file.open("rb") as stream:
        while block := stream.read(1 << 22):
            hasher.update(block)
    return hasher.hexdigest()


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
