"""The recording of one episode: an append-only MCAP file, its writer and its reader.

Every step is one MCAP chunk, uncompressed and checksummed: first the step's pictures, last its record on `/step`. A
chunk goes to the operating system in a single write before `write_step` returns. So a process may be killed at any
moment and loses at most the step it was in; a file cut at any byte is read up to its last whole chunk. Nothing is
flushed to the disk itself: a power cut can cost the last seconds. An episode that was closed also has MCAP's index, so
viewers can seek; one that was not is read from front to back.

Pictures are `foxglove.CompressedImage`, or `foxglove.RawImage`, in Protobuf, everything else is JSON with a schema, so
Foxglove, Rerun and the plain `mcap` package open a trace without this one:

    /run, /task                 at the start, and again where something was learnt later: the last one counts
    /camera/<name>/thumbnail    JPEG, every step: the observation before its action
    /grey/camera/<name>         its grey, uncompressed: to judge an episode, decoding JPEGs would take the most time
    /camera/<name>/full         PNG, at the first query and at every `full_every`-th one after it
    /model/image/thumbnail      JPEG, every query: what the model was given
    /grey/model/image           as above
    /model/image/full           PNG, as above
    /model/<slot>/...           the same of a query's further images
    /step                       `records.Step` without its pictures
    /outcome                    once, at the end; a file without it is truncated

JSON knows no NaN and no infinity: they are written as the strings "NaN", "Infinity" and "-Infinity", as Protobuf's JSON
does, and read back as numbers. What JSON cannot express otherwise is written as its `repr`. Fields that are None are
left out. Why all this: docs/decisions/0001-trace-format.md.
"""

from __future__ import annotations

import io
import json
import math
import re
import struct
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from mcap.data_stream import ReadDataStream, RecordBuilder
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.records import (
    Channel,
    Chunk,
    ChunkIndex,
    DataEnd,
    Header,
    McapRecord,
    Schema,
    Statistics,
    SummaryOffset,
)
from mcap.stream_reader import get_chunk_data_stream
from PIL import Image

from vladoctor import __version__
from vladoctor.errors import UserError
from vladoctor.pictures import PictureStatistics, greyed, measure
from vladoctor.records import Episode, Frame, Outcome, Query, Step

READ_JSON: Callable[[bytes], Any] = json.loads
with suppress(ImportError):
    # The extra `fast`: a step's record in 10 us, for which Python's own takes 40.
    from orjson import loads as READ_JSON

SUFFIX = ".mcap"

FORMAT = 1
"""Counted up when an old reader could misread a new file; new fields and topics alone do not change it."""

PROFILE = f"vladoctor/{FORMAT}"
"""The MCAP header's profile, by which a trace is told from other MCAP files."""

THUMBNAIL = 64
"""Longest side of a thumbnail in pixels."""

GREY = 64
"""Longest side of the grey that is kept: what registration looks at."""

FULL_EVERY = 25
"""Queries from one full frame to the next."""

JPEG_QUALITY = 90
"""Without chroma subsampling: off by 2 levels on average, 2.2 KB for a thumbnail of a LIBERO frame."""

_MAGIC = b"\x89MCAP0\r\n"
_LARGEST_ARRAY = 4096
_LONGEST_REPR = 500
_DEEPEST = 20


@dataclass
class Picture(Frame):
    """A frame with its encoded forms: the thumbnail as JPEG, the full frame as PNG where it was encoded.

    Attributes:
        develop: makes the thumbnail and the extremes, where that is still to be done.
    """

    jpeg: bytes = field(default=b"", repr=False)
    develop: Callable[[], None] | None = field(default=None, repr=False)

    @property
    def identity(self) -> bytes:
        return self.jpeg or super().identity

    def describe(self, small: np.ndarray) -> None:
        """Keep what is measured on the thumbnail before it is compressed."""
        grey = greyed(area_average(small, GREY))
        self.load_grey, self.measured = lambda: grey, measure(small)


def capture(frame: np.ndarray, thumbnail: int = THUMBNAIL, *, keep: bool = True, later: bool = False) -> Picture:
    """Take a picture of a frame: its thumbnail, its extremes and, if asked for, a copy of all of it.

    Args:
        frame: uint8 (H, W, 3), RGB; not changed, and free to be changed afterwards.
        thumbnail: longest side of the thumbnail in pixels; smaller frames are kept as they are.
        keep: whether the full frame may be needed.
        later: only copy it now; `Picture.develop` does the rest, which `TraceWriter.write_step` calls.

    Raises:
        ValueError: the frame is of another shape or type.
    """
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or not frame.size:
        raise ValueError(f"a frame must be uint8 (H, W, 3), not {frame.dtype} {frame.shape}")
    copy = np.array(frame) if keep or later else frame
    taken = Picture(
        (int(frame.shape[0]), int(frame.shape[1])),
        lambda: area_average(copy, thumbnail),
        (lambda: copy) if keep else None,
    )

    def develop() -> None:
        nonlocal copy
        taken.develop = None
        small = area_average(copy, thumbnail)
        jpeg = taken.jpeg = encode_jpeg(small)
        taken.describe(small)
        taken.minimum, taken.maximum = float(copy.min()), float(copy.max())
        taken.load_thumbnail = lambda: _decode(jpeg)
        if not keep:
            copy = np.empty(0, np.uint8)

    taken.develop = develop
    if not later:
        develop()
    return taken


def picture(
    small: np.ndarray,
    shape: tuple[int, int],
    *,
    load_full: Callable[[], np.ndarray] | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
) -> Picture:
    """Make a picture of a thumbnail, uint8 (h, w, 3), of a frame of `shape` (H, W)."""
    jpeg = encode_jpeg(small)
    made = Picture(shape, lambda: _decode(jpeg), load_full, minimum, maximum, jpeg=jpeg)
    made.describe(small)
    return made


def area_average(frame: np.ndarray, longest: int) -> np.ndarray:
    """Shrink a frame, uint8 (H, W, 3), by a whole factor so that no side exceeds `longest`: the mean of every block."""
    height, width = frame.shape[:2]
    factor = -(-max(height, width) // longest)
    if factor <= 1:
        return np.ascontiguousarray(frame)
    if height % factor or width % factor or factor > 16 or not frame.flags.c_contiguous:
        # Blocks that do not fit are averaged with fractional weights at their edges, so that nothing is cut off.
        size = (max(1, round(width / factor)), max(1, round(height / factor)))
        return np.asarray(Image.fromarray(np.ascontiguousarray(frame)).resize(size, Image.Resampling.BOX))
    # Exact in uint16 up to blocks of 16 x 16, and half the time of PIL's `reduce`.
    rows = np.add.reduce(frame.reshape(height // factor, factor, width * 3), axis=1, dtype=np.uint16)
    blocks = rows.reshape(height // factor, width // factor, factor, 3)
    small = np.empty((height // factor, width // factor, 3), np.uint8)
    for channel in range(3):
        total = blocks[:, :, 0, channel] + np.uint16(factor * factor // 2)
        for index in range(1, factor):
            total += blocks[:, :, index, channel]
        small[:, :, channel] = total // np.uint16(factor * factor)
    return small


def encode_jpeg(frame: np.ndarray) -> bytes:
    """Encode uint8 (H, W, 3) as JPEG with full-resolution colour."""
    buffer = io.BytesIO()
    height, width = frame.shape[:2]
    Image.frombytes("RGB", (width, height), frame.tobytes()).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def encode_png(frame: np.ndarray) -> bytes:
    """Encode uint8 (H, W, 3) as PNG.

    PIL chooses a filter for every row, which takes four times as long for a file that is a tenth smaller.
    """
    height, width = frame.shape[:2]
    rows = np.ascontiguousarray(frame).reshape(height, width * 3)
    filtered = np.empty((height, 1 + width * 3), np.uint8)
    filtered[:, 0] = 2
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    deflate = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_FILTERED)
    data = deflate.compress(filtered.tobytes()) + deflate.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


class TraceWriter:
    """Writes one episode.

    Args:
        path: the file to make; its folders are made where they are missing.
        run, task: what `records.Episode` says of them.
        thumbnail: longest side of a thumbnail in pixels.
        full_every: queries from one full frame to the next; the first query's is always kept.

    Attributes:
        steps, queries: how many have been written.

    Raises:
        UserError: the file exists, or cannot be made.
    """

    def __init__(
        self,
        path: Path | str,
        run: Mapping[str, Any],
        task: Mapping[str, Any],
        *,
        thumbnail: int = THUMBNAIL,
        full_every: int = FULL_EVERY,
    ) -> None:
        self.path = Path(path)
        self.thumbnail = thumbnail
        self.full_every = full_every
        self.steps = self.queries = 0
        self._time = 0
        self._intact = True
        file = _create(self.path)
        try:
            self._mcap = _Mcap(file)
            self._tick()
            self._add_json("/run", "vladoctor.Run", run)
            self._add_json("/task", "vladoctor.Task", task)
            self._mcap.commit(self._time)
        except BaseException as error:
            file.close()
            self.path.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise _unwritable(self.path, error) from error
            raise

    def __enter__(self) -> TraceWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def full_due(self) -> bool:
        """Whether the next step with a query will be written with its full frames, as far as it has them."""
        return self.queries % self.full_every == 0 if self.full_every > 0 else self.queries == 0

    def describe(self, run: Mapping[str, Any], task: Mapping[str, Any]) -> None:
        """Say again what holds for run and episode; it replaces what was said at the start.

        Raises:
            OSError: it could not be written.
        """
        self._check_open()
        self._tick()
        self._add_json("/run", "vladoctor.Run", run)
        self._add_json("/task", "vladoctor.Task", task)
        self._mcap.commit(self._time)

    def write_step(self, step: Step) -> None:
        """Write one step. When this returns, the death of the process can no longer lose it.

        Args:
            step: `number` is the control step counted from the reset, 0 being the first; the reader counts from the
                first query. Pictures made by `capture` are written as they are, others encoded.

        Raises:
            OSError: the step could not be written. The file ends after the step before, and takes no more.
        """
        self._check_open()
        self._intact = False
        full = step.query is not None and self.full_due
        for frame in pictures_of(step):
            if isinstance(frame, Picture) and frame.develop is not None:
                frame.develop()
        self._tick()
        for camera, frame in step.frames.items():
            self._add_frame(f"/camera/{camera}", camera, frame, full)
        if step.query is not None and step.query.image is not None:
            self._add_frame("/model/image", "model", step.query.image, full)
        for slot, frame in (step.query.more_images if step.query is not None else {}).items():
            self._add_frame(f"/model/{slot}", slot, frame, full)
        self._add_json("/step", "vladoctor.Step", _step_record(step))
        self._mcap.commit(self._time)
        self._intact = True
        self.steps += 1
        self.queries += step.query is not None

    def close(self, outcome: Outcome | None = None, notes: Sequence[str] = ()) -> None:
        """End the recording with its closing record and the index; without an outcome it will count as interrupted.

        Args:
            notes: what could not be recorded and why; kept with the outcome.

        Closing again does nothing. After a step that could not be written the file is left as it is.

        Raises:
            OSError: the closing record could not be written.
        """
        if self._mcap.closed:
            return
        try:
            if self._intact:
                self._tick()
                if outcome is not None:
                    self._add_json("/outcome", "vladoctor.Outcome", {**vars(outcome), "notes": list(notes)})
                    self._mcap.commit(self._time)
                self._mcap.finish()
        finally:
            self._mcap.close()

    def abandon(self) -> None:
        """Write nothing more: in a forked process, whose parent goes on writing."""
        self._mcap.close()

    def _check_open(self) -> None:
        if self._mcap.closed or not self._intact:
            raise OSError(f"{self.path} is closed" if self._mcap.closed else f"{self.path} takes no more steps")

    def _tick(self) -> None:
        # Viewers order messages by time, so it must never run backwards, whatever the clock does.
        self._time = max(time.time_ns(), self._time + 1)

    def _add_frame(self, topic: str, name: str, frame: Frame, full: bool) -> None:
        self._add_image(f"{topic}/thumbnail", name, "jpeg", self._thumbnail(frame))
        self._mcap.add(f"/grey{topic}", _RAW, self._time, self.steps, _encode_raw(self._time, name, frame.grey))
        if full and frame.load_full is not None:
            self._add_image(f"{topic}/full", name, "png", encode_png(frame.load_full()))

    def _thumbnail(self, frame: Frame) -> bytes:
        """The thumbnail as it is written; a picture that was not captured is measured on the way."""
        if isinstance(frame, _Recorded) or (isinstance(frame, Picture) and frame.jpeg):
            return frame.identity
        small = area_average(np.asarray(frame.load_thumbnail()), self.thumbnail)
        if frame.load_grey is None or frame.measured is None:
            grey = greyed(area_average(small, GREY))
            frame.load_grey, frame.measured = lambda: grey, measure(small)
        return encode_jpeg(small)

    def _add_image(self, topic: str, name: str, kind: str, data: bytes) -> None:
        message = _encode_image(self._time, name, kind, data)
        self._mcap.add(topic, _COMPRESSED, self._time, self.steps, message)

    def _add_json(self, topic: str, schema: str, value: Mapping[str, Any]) -> None:
        self._mcap.add(topic, schema, self._time, self.steps, encode_json(value))


def pictures_of(step: Step) -> Iterator[Frame]:
    """Every picture of a step: the cameras' frames and the images that the model was given."""
    yield from step.frames.values()
    if step.query is not None:
        if step.query.image is not None:
            yield step.query.image
        yield from step.query.more_images.values()


def read_episode(path: Path | str) -> Episode:
    """Read a trace, as far as it goes: up to where it was cut off, or up to the first place where it is damaged.

    Step numbers are counted from the first query; steps before it are negative, all of them if there is none. Pictures
    are loaded when they are looked at: from memory, or once `Frame.release` was called, from the file.

    Raises:
        UserError: there is no such file, it is not a trace, or a newer vladoctor wrote it.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"the trace cannot be read: {error.strerror}", where=str(path), remedy="name an existing trace (*.mcap)"
        ) from error
    _check_kind(path, data)
    run: Mapping[str, Any] = {}
    task: Mapping[str, Any] = {}
    outcome: Outcome | None = None
    notes: Sequence[str] = ()
    steps: list[Step] = []
    images: dict[str, _Place] = {}
    messages, damage = _messages(_Data(data, path))
    for topic, place in messages:
        if topic == "/step":
            steps.append(_read_step(decode_json(_bytes_at(place)), images))
            images = {}
        elif topic == "/run":
            run = decode_json(_bytes_at(place))
        elif topic == "/task":
            task = decode_json(_bytes_at(place))
        elif topic == "/outcome":
            record = decode_json(_bytes_at(place))
            outcome = Outcome(record["ended"], record["success"], record["steps"], record.get("error", ""))
            notes = record.get("notes", ())
        else:
            images[topic] = place
    _renumber(steps)
    return Episode(
        run,
        task,
        steps,
        outcome or Outcome("interrupted", False, sum(step.number >= 0 for step in steps)),
        truncated=outcome is None or bool(damage),
        source=str(path),
        notes=tuple(notes),
        damage=damage,
    )


def find_traces(path: Path | str, *, missing_ok: bool = False) -> list[Path]:
    """Find the traces in a folder and the folders below it, in natural order, or return the one that is named.

    Args:
        missing_ok: return an empty list where there is none.

    Raises:
        UserError: nothing there.
    """
    path = Path(path)
    if path.is_dir():
        found = sorted((file for file in path.rglob(f"*{SUFFIX}") if file.is_file()), key=_natural)
    else:
        found = [path] if path.is_file() else []
    if not found and not missing_ok:
        what = f"no trace (*{SUFFIX}) in this folder" if path.is_dir() else "no such file or folder"
        raise UserError(what, where=str(path), remedy="name a trace, or a folder in which vladoctor has recorded some")
    return found


def encode_json(value: Any) -> bytes:
    """Encode anything as JSON: numbers keep every digit, non-finite ones become strings, the rest its `repr`."""
    try:
        return _STRICT.encode(value).encode()
    except (ValueError, TypeError, RecursionError):
        return _STRICT.encode(_plain(value, _DEEPEST)).encode()


def decode_json(data: bytes) -> Any:
    """Decode what `encode_json` made, with its non-finite numbers."""
    try:
        value = READ_JSON(data)
    except ValueError:
        # What a stricter reader will not take: half of a surrogate pair, say.
        value = json.loads(data)
    # From behind, which takes a third of the time of `in`.
    return _restore(value) if data.rfind(b'NaN"') >= 0 or data.rfind(b'Infinity"') >= 0 else value


class _Mcap:
    """An MCAP file that grows by chunks, each handed to the operating system as a whole or not at all.

    mcap's own writer would make the same file, but takes twice as long over a chunk as small as a step, and cannot take
    back what a failed write has left.
    """

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self._size = 0
        self._messages = 0
        self._counts: dict[int, int] = {}
        self._channels: dict[str, Channel] = {}
        self._chunks: list[ChunkIndex] = []
        self._body: list[bytes] = []
        self._length = 0
        self._offsets: dict[int, list[int]] = {}
        header = Header(profile=PROFILE, library=f"vladoctor {__version__}")
        self._write(_MAGIC + _records([header, *_SCHEMAS.values()]))

    @property
    def closed(self) -> bool:
        return self._file.closed

    def add(self, topic: str, schema: str, time: int, sequence: int, message: bytes) -> None:
        """Add a message to the next chunk. All messages of a chunk have the same time, in nanoseconds."""
        channel = self._channels.get(topic)
        if channel is None:
            encoding = "json" if _SCHEMAS[schema].encoding == "jsonschema" else "protobuf"
            channel = Channel(len(self._channels) + 1, topic, encoding, {}, _SCHEMAS[schema].id)
            self._channels[topic] = channel
            self._gather(_records([channel]))
        self._offsets.setdefault(channel.id, []).append(self._length)
        self._gather(_MESSAGE.pack(Opcode.MESSAGE, 22 + len(message), channel.id, sequence, time, time))
        self._gather(message)

    def commit(self, time: int) -> None:
        """Write the chunk.

        Raises:
            OSError: it could not be written; the file is as it was before.
        """
        body = b"".join(self._body)
        parts = [_CHUNK.pack(Opcode.CHUNK, 40 + len(body), time, time, len(body), zlib.crc32(body), 0, len(body)), body]
        start, end = self._size, self._size + len(parts[0]) + len(body)
        places: dict[int, int] = {}
        position = end
        for channel, offsets in self._offsets.items():
            places[channel] = position
            index = b"".join(_ENTRY.pack(time, offset) for offset in offsets)
            parts.append(_INDEX.pack(Opcode.MESSAGE_INDEX, 6 + len(index), channel, len(index)) + index)
            position += len(parts[-1])
        self._write(b"".join(parts))
        self._chunks.append(
            ChunkIndex(
                chunk_length=end - start,
                chunk_start_offset=start,
                compression="",
                compressed_size=len(body),
                message_end_time=time,
                message_index_length=position - end,
                message_index_offsets=places,
                message_start_time=time,
                uncompressed_size=len(body),
            )
        )
        for channel, offsets in self._offsets.items():
            self._counts[channel] = self._counts.get(channel, 0) + len(offsets)
        self._body, self._length, self._offsets = [], 0, {}

    def finish(self) -> None:
        """Write the index by which viewers find their way."""
        statistics = Statistics(
            attachment_count=0,
            channel_count=len(self._channels),
            channel_message_counts=self._counts,
            chunk_count=len(self._chunks),
            message_count=sum(self._counts.values()),
            message_end_time=max((chunk.message_end_time for chunk in self._chunks), default=0),
            message_start_time=min((chunk.message_start_time for chunk in self._chunks), default=0),
            metadata_count=0,
            schema_count=len(_SCHEMAS),
        )
        end_of_data = _records([DataEnd(0)])
        start = position = self._size + len(end_of_data)
        groups: list[bytes] = []
        offsets: list[McapRecord] = []
        for opcode, group in (
            (Opcode.SCHEMA, list(_SCHEMAS.values())),
            (Opcode.CHANNEL, list(self._channels.values())),
            (Opcode.STATISTICS, [statistics]),
            (Opcode.CHUNK_INDEX, self._chunks),
        ):
            data = _records(group)
            offsets.append(SummaryOffset(group_length=len(data), group_opcode=opcode, group_start=position))
            groups.append(data)
            position += len(data)
        summary = b"".join(groups) + _records(offsets)
        footer = struct.pack("<BQQQ", Opcode.FOOTER, 20, start, position)
        checksum = struct.pack("<I", zlib.crc32(summary + footer))
        self._write(end_of_data + summary + footer + checksum + _MAGIC)

    def close(self) -> None:
        self._file.close()

    def _gather(self, data: bytes) -> None:
        self._body.append(data)
        self._length += len(data)

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
        except BaseException:
            self._file.truncate(self._size)
            raise
        self._size += len(data)


_MESSAGE = struct.Struct("<BQHIQQ")
_CHUNK = struct.Struct("<BQQQQIIQ")
_INDEX = struct.Struct("<BQHI")
_ENTRY = struct.Struct("<QQ")


def _records(group: Iterable[McapRecord]) -> bytes:
    builder = RecordBuilder()
    for record in group:
        record.write(builder)
    return builder.end()


def _create(path: Path) -> io.FileIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return io.FileIO(path, "xb")
    except FileExistsError as error:
        if not path.exists():
            raise _unwritable(path, error) from error
        raise UserError(
            "the trace exists already and is never overwritten",
            where=str(path),
            remedy="record into another folder, or remove the file",
        ) from error
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"the trace cannot be written: {error.strerror or error}",
        where=str(path),
        remedy="record into a folder on a disk that has room and that you may write to",
    )


def _check_kind(path: Path, data: bytes) -> None:
    profile = _profile(data)
    if profile == PROFILE or (profile is None and data[: len(_MAGIC)] == _MAGIC[: len(data)]):
        return
    family, _, version = (profile or "").partition("/")
    if family == "vladoctor" and version.isdigit():
        raise UserError(
            f"the trace has format {version}; this vladoctor reads format {FORMAT}",
            where=str(path),
            remedy="read it with the vladoctor that wrote it, or upgrade",
        )
    raise UserError("this is not a trace of vladoctor's", where=str(path), remedy=f"name a trace (*{SUFFIX})")


def _profile(data: bytes) -> str | None:
    """The MCAP header's profile; None where there is no whole header."""
    start = len(_MAGIC) + 9
    if data[: len(_MAGIC)] != _MAGIC or len(data) < start + 4 or data[len(_MAGIC)] != 1:
        return None
    end = start + 4 + int.from_bytes(data[start : start + 4], "little")
    return data[start + 4 : end].decode("utf-8", "replace") if end <= len(data) else None


class _Data:
    """The bytes of a trace: in memory, or once they were released only while they are looked at.

    Args:
        path: the file; None of bytes that stand in none, which are never released.
    """

    def __init__(self, data: bytes, path: Path | None = None) -> None:
        self.path = path
        self._bytes: bytes | None = data
        self._released = False

    @property
    def held(self) -> bytes:
        """All of them."""
        if self._bytes is None:
            assert self.path is not None
            self._bytes = self.path.read_bytes()
        return self._bytes

    def part(self, start: int, stop: int) -> bytes:
        if self._bytes is not None:
            return self._bytes[start:stop]
        assert self.path is not None
        with self.path.open("rb") as file:
            file.seek(start)
            return file.read(stop - start)

    def release(self) -> None:
        """From now on, let go at every `forget`."""
        self._released = self.path is not None

    def forget(self) -> None:
        if self._released:
            self._bytes = None


_Place = tuple[_Data, int, int]
"""Where a message's own data stand: start and stop."""


def _bytes_at(place: _Place) -> bytes:
    data, start, stop = place
    return data.part(start, stop)


def _messages(whole: _Data) -> tuple[list[tuple[str, _Place]], str]:
    """Topic and place of every message up to the first record that is not whole and undamaged; and the damage, if any.

    A file that was cut off ends within a record, or with the zeros of room that it was given and did not use. Anything
    else is damage: a closing that stands behind a record longer than the file, a chunk with another checksum, a record
    of no kind, messages that the closing counts and that are not there.

    mcap's own reader would take a record that is cut short for a shorter one, and four times as long.
    """
    held, found, topics = whole.held, list[tuple[str, _Place]](), dict[int, str]()
    if not held:
        return found, "is empty: its file has no bytes"
    position, damaged = len(_MAGIC), False
    try:
        while position + _RECORD.size <= len(held):
            opcode, length = _RECORD.unpack_from(held, position)
            start = position + _RECORD.size
            end = start + length
            if end > len(held):
                damaged = held.endswith(_MAGIC)
                break
            if opcode == _DATA_END:
                missing = _counted(held) - len(found)
                return found, f"is damaged: {missing} of its messages are missing" if missing > 0 else ""
            if opcode == _ONE_CHUNK:
                _gather_messages(*_chunk(whole, start, end), topics, found)
            elif opcode in (_ONE_CHANNEL, _ONE_MESSAGE):
                _gather_messages(whole, position, end, topics, found)
            elif opcode not in _OPCODES and opcode < _PRIVATE:
                raise ValueError("a record of no kind")
            position = end
    except (McapError, ValueError, LookupError, struct.error):
        damaged = bool(held[position:].strip(b"\0"))
    return found, f"is damaged at byte {position:,} of {len(held):,}" if damaged else ""


def _counted(held: bytes) -> int:
    """How many messages a file was closed with; 0 where its closing is damaged itself or does not say so."""
    footer = len(held) - len(_MAGIC) - _FOOTER.size
    if footer < 0:
        return 0
    opcode, _, position, _, checksum = _FOOTER.unpack_from(held, footer)
    intact = opcode == _ONE_FOOTER and zlib.crc32(memoryview(held)[position : footer + _FOOTER.size - 4]) == checksum
    while intact and len(_MAGIC) < position < footer:
        opcode, length = _RECORD.unpack_from(held, position)
        position += _RECORD.size
        if opcode == _ONE_STATISTICS:
            return int.from_bytes(held[position : position + 8], "little")
        position += length
    return 0


def _gather_messages(
    data: _Data, position: int, end: int, topics: dict[int, str], found: list[tuple[str, _Place]]
) -> None:
    held, head, size = data.held, _NUMBERED.unpack_from, _NUMBERED.size
    add = found.append
    while position + size <= end:
        opcode, length, number = head(held, position)
        start = position + _RECORD.size
        position = start + length
        if position > end:
            return
        if opcode == _ONE_MESSAGE:
            add((topics[number], (data, start + _IN_MESSAGE, position)))
        elif opcode == _ONE_CHANNEL:
            number, _, length = _CHANNEL_HEAD.unpack_from(held, start)
            first = start + _CHANNEL_HEAD.size
            topics[number] = held[first : first + length].decode()


def _chunk(data: _Data, start: int, stop: int) -> _Place:
    """Where a chunk's records stand: as a rule in the file itself, as our own chunks are not compressed.

    Raises:
        ValueError: it is damaged.
    """
    held = data.held
    _, _, _, checksum, name = _CHUNK_HEAD.unpack_from(held, start)
    if name:
        # Rewritten by another tool.
        content = ReadDataStream(io.BytesIO(held[start:stop]))
        stream, length = get_chunk_data_stream(Chunk.read(content), validate_crc=True)
        return _Data(stream.read(length)), 0, length
    first = start + _CHUNK_HEAD.size + 8
    if first + int.from_bytes(held[first - 8 : first], "little") != stop or (
        checksum and checksum != zlib.crc32(memoryview(held)[first:stop])
    ):
        raise ValueError("a damaged chunk")
    return data, first, stop


# As numbers: to compare members of an enumeration takes several times as long.
_ONE_MESSAGE, _ONE_CHUNK = int(Opcode.MESSAGE), int(Opcode.CHUNK)
_ONE_CHANNEL, _DATA_END = int(Opcode.CHANNEL), int(Opcode.DATA_END)
_ONE_STATISTICS, _ONE_FOOTER = int(Opcode.STATISTICS), int(Opcode.FOOTER)
_OPCODES = frozenset(int(opcode) for opcode in Opcode)
_PRIVATE = 0x80
"""From here on opcodes are free for extensions, which a reader passes over."""

_RECORD = struct.Struct("<BQ")
_NUMBERED = struct.Struct("<BQH")
"""Head of a record, and the number that a channel and a message begin with."""
_FOOTER = struct.Struct("<BQQQI")
_CHUNK_HEAD = struct.Struct("<QQQII")
_CHANNEL_HEAD = struct.Struct("<HHI")
_IN_MESSAGE = 22
"""Bytes of a message's record before its own data: channel, sequence and two times."""


def _step_record(step: Step) -> dict[str, Any]:
    record: dict[str, Any] = {
        "number": step.number,
        "frames": {name: _frame_record(frame) for name, frame in step.frames.items()},
        "proprio": step.proprio,
        "executed": step.executed,
        "reward": step.reward,
        "done": step.done,
        "info": step.info,
        "timings": step.timings,
        "memory": step.memory,
    }
    if step.success is not None:
        record["success"] = step.success
    if step.query is not None:
        query = {
            name: value
            for name, value in vars(step.query).items()
            if value is not None and (value or name not in _OPTIONAL)
        }
        if step.query.image is not None:
            query["image"] = _frame_record(step.query.image)
        if step.query.more_images:
            query["more_images"] = {slot: _frame_record(frame) for slot, frame in step.query.more_images.items()}
        record["query"] = query
    return record


_OPTIONAL = ("boundary", "more_images", "proprio", "chunk")
"""Fields of a query that are left out of a trace where they are empty."""


def _frame_record(frame: Frame) -> dict[str, Any]:
    record: dict[str, Any] = {"height": frame.shape[0], "width": frame.shape[1]}
    if frame.minimum is not None:
        record["minimum"] = frame.minimum
    if frame.maximum is not None:
        record["maximum"] = frame.maximum
    if frame.measured is not None:
        record["statistics"] = frame.measured.to_json()
    return record


def _read_step(record: Mapping[str, Any], images: Mapping[str, _Place]) -> Step:
    query = record.get("query")
    return Step(
        number=record["number"],
        frames={
            name: frame
            for name, facts in record.get("frames", {}).items()
            if (frame := _read_frame(facts, images, f"/camera/{name}")) is not None
        },
        proprio={name: _numbers(values) for name, values in record.get("proprio", {}).items()},
        query=None if query is None else _read_query(query, images),
        executed=_numbers(record.get("executed", ())),
        reward=record.get("reward", 0.0),
        done=record.get("done", False),
        success=record.get("success"),
        info=record.get("info", {}),
        timings=record.get("timings", {}),
        memory=record.get("memory", {}),
    )


def _read_query(record: Mapping[str, Any], images: Mapping[str, _Place]) -> Query:
    def optional(name: str) -> tuple[float, ...] | None:
        return _numbers(record[name]) if name in record else None

    return Query(
        boundary=record.get("boundary", ""),
        prompt=record.get("prompt"),
        input_ids=tuple(record.get("input_ids", ())),
        image=_read_frame(record["image"], images, "/model/image") if "image" in record else None,
        more_images={
            slot: frame
            for slot, facts in record.get("more_images", {}).items()
            if (frame := _read_frame(facts, images, f"/model/{slot}")) is not None
        },
        proprio={name: _numbers(values) for name, values in record.get("proprio", {}).items()},
        pixel_stats={name: _numbers(values) for name, values in record.get("pixel_stats", {}).items()},
        ids=tuple(record.get("ids", ())),
        action_mass=_numbers(record.get("action_mass", ())),
        margin=_numbers(record.get("margin", ())),
        entropy=_numbers(record.get("entropy", ())),
        normalised=optional("normalised"),
        action=optional("action"),
        chunk=tuple(_numbers(row) for row in record.get("chunk", ())),
        options=record.get("options", {}),
        vision_calls=record.get("vision_calls"),
        model=record.get("model", {}),
    )


def _read_frame(record: Mapping[str, Any], images: Mapping[str, _Place], topic: str) -> Frame | None:
    thumbnail = images.get(f"{topic}/thumbnail")
    if thumbnail is None:
        return None
    measured = record.get("statistics")
    return _Recorded(
        (record["height"], record["width"]),
        record.get("minimum"),
        record.get("maximum"),
        PictureStatistics.from_json(measured) if measured else None,
        thumbnail,
        images.get(f"/grey{topic}"),
        images.get(f"{topic}/full"),
    )


class _Recorded(Frame):
    """A frame of a trace, whose pictures stay there until they are looked at. It can be pickled."""

    def __init__(
        self,
        shape: tuple[int, int],
        minimum: float | None,
        maximum: float | None,
        measured: PictureStatistics | None,
        thumbnail: _Place,
        grey: _Place | None,
        full: _Place | None,
    ) -> None:
        self.shape, self.minimum, self.maximum, self.measured = shape, minimum, maximum, measured
        self._thumbnail, self._grey, self._full = thumbnail, grey, full

    def load_thumbnail(self) -> np.ndarray:
        return _decode(_picture_at(self._thumbnail))

    @property
    def load_grey(self) -> Callable[[], np.ndarray] | None:  # type: ignore[override]
        return None if self._grey is None else self._read_grey

    @property
    def load_full(self) -> Callable[[], np.ndarray] | None:  # type: ignore[override]
        return None if self._full is None else self._read_full

    @cached_property
    def grey(self) -> np.ndarray:
        return greyed(self.thumbnail) if self._grey is None else _grey_at(self._grey)

    @cached_property
    def identity(self) -> bytes:
        return _picture_at(self._thumbnail)

    def forget(self) -> None:
        super().forget()
        self._thumbnail[0].forget()

    def release(self) -> None:
        self._thumbnail[0].release()
        self.forget()

    def _read_grey(self) -> np.ndarray:
        assert self._grey is not None
        return _grey_at(self._grey)

    def _read_full(self) -> np.ndarray:
        assert self._full is not None
        return _decode(_picture_at(self._full))


def _picture_at(place: _Place) -> bytes:
    """The field `data` of a `foxglove.CompressedImage`, whatever the order of its fields."""
    message = _bytes_at(place)
    return next((content for number, content in _fields(message) if number == 2), b"")


def _decode(data: bytes) -> np.ndarray:
    picture = Image.open(io.BytesIO(data))
    # Converting what is RGB already makes a copy, which takes as long as decoding a thumbnail.
    return np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))


def _numbers(values: Sequence[Any]) -> tuple[float, ...]:
    return tuple(map(float, values))


def _renumber(steps: list[Step]) -> None:
    numbers = [step.number for step in steps]
    # Counting starts again at every reset; an episode in which that happened halfway is counted straight through.
    if any(later <= earlier for earlier, later in pairwise(numbers)):
        numbers = list(range(len(steps)))
    queried = [number for number, step in zip(numbers, steps, strict=True) if step.query is not None]
    first = queried[0] if queried else (numbers[-1] + 1 if numbers else 0)
    for step, number in zip(steps, numbers, strict=True):
        step.number = number - first


def _natural(path: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path))]


def _fallback(value: Any) -> Any:
    """What to write in place of something that JSON does not know."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist() if value.size <= _LARGEST_ARRAY else f"<array {value.dtype} {value.shape}>"
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=repr)
    if type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "shape"):
        # Its repr would fetch the values, and so wait for the GPU.
        return f"<tensor {value.dtype} {tuple(value.shape)} on {value.device}>"
    return _repr(value)


def _repr(value: Any) -> str:
    try:
        return repr(value)[:_LONGEST_REPR]
    except Exception as error:
        if isinstance(error, MemoryError):
            raise
        return f"<{type(value).__name__}>"


_STRICT = json.JSONEncoder(separators=(",", ":"), allow_nan=False, default=_fallback)


def _plain(value: Any, depth: int) -> Any:
    """The same value in what strict JSON can express."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else "NaN" if math.isnan(value) else f"{'-' * (value < 0)}Infinity"
    if depth == 0:
        return _repr(value)
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else _repr(key): _plain(item, depth - 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, depth - 1) for item in value]
    return _plain(_fallback(value), depth - 1)


_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def _restore(value: Any) -> Any:
    if isinstance(value, str):
        return _NON_FINITE.get(value, value)
    if isinstance(value, list):
        return [_restore(item) for item in value]
    if isinstance(value, dict):
        return {key: _restore(item) for key, item in value.items()}
    return value


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _field(number: int, value: int | bytes | str) -> bytes:
    """One field of a Protobuf message: integers as varint, anything else length-delimited."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _encode_image(nanoseconds: int, name: str, kind: str, data: bytes) -> bytes:
    """A `foxglove.CompressedImage`. Its fields are numbered timestamp 1, data 2, format 3, frame_id 4."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return _field(1, _field(1, seconds) + _field(2, rest)) + _field(4, name) + _field(3, kind) + _field(2, data)


def _encode_raw(nanoseconds: int, name: str, grey: np.ndarray) -> bytes:
    """A `foxglove.RawImage` of uint8 (h, w).

    Its fields are numbered timestamp 1, width 2, height 3, encoding 4, step 5, data 6, frame_id 7.
    """
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    height, width = grey.shape
    return (
        _SIDES.pack(_WIDTH, width, _HEIGHT, height)
        + _FIXED.pack(5 << 3 | 5, width)
        + _field(1, _field(1, seconds) + _field(2, rest))
        + _field(7, name)
        + _field(4, "mono8")
        + _field(6, grey.tobytes())
    )


_WIDTH, _HEIGHT = 2 << 3 | 5, 3 << 3 | 5
_SIDES, _FIXED = struct.Struct("<BIBI"), struct.Struct("<BI")


def _grey_at(place: _Place) -> np.ndarray:
    """The picture of a `foxglove.RawImage` of mono8, uint8 (h, w): in place, if it was written as by `_encode_raw`."""
    data, start, stop = place
    if stop - start > _SIDES.size:
        held = data.held
        first, width, second, height = _SIDES.unpack_from(held, start)
        tag = _data_of(width * height)
        begin = stop - width * height
        if (first, second) == (_WIDTH, _HEIGHT) and held[begin - len(tag) : begin] == tag:
            return np.frombuffer(held, np.uint8, width * height, begin).reshape(height, width)
    found = dict(_fields(_bytes_at(place)))
    width, height = (int.from_bytes(found[number], "little") for number in (2, 3))
    return np.frombuffer(found[6], np.uint8).reshape(height, width)


@lru_cache(maxsize=16)
def _data_of(size: int) -> bytes:
    """What stands before so many bytes of a `foxglove.RawImage`'s field `data`."""
    return b"\x32" + _varint(size)


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and content of the fields of a Protobuf message that are length-delimited or of four bytes.

    Raises:
        ValueError: it has fields of another kind, which no picture has.
    """
    position, end = 0, len(message)
    while position < end:
        tag, position = _read_varint(message, position)
        if tag & 7 == 2:
            length, position = _read_varint(message, position)
        elif tag & 7 == 5:
            length = 4
        else:
            raise ValueError("not a picture of a trace")
        yield tag >> 3, message[position : position + length]
        position += length


def _read_varint(message: bytes, position: int) -> tuple[int, int]:
    """A number, and where it ends."""
    value = message[position]
    position += 1
    if value < 0x80:
        return value, position
    value, shift = value & 0x7F, 7
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def _image_schemas() -> dict[str, bytes]:
    """Protobuf's own description of Foxglove's messages: a FileDescriptorSet each, as MCAP asks for it."""
    integer64, integer32, fixed32, string, message, binary = 3, 5, 7, 9, 11, 12

    def member(name: str, number: int, kind: int, of: str = "") -> bytes:
        described = _field(1, name) + _field(3, number) + _field(4, 1) + _field(5, kind)
        return _field(2, described + (_field(6, of) if of else b""))

    def file(name: str, package: str, needs: str, of: str, members: bytes) -> bytes:
        dependency = _field(3, needs) if needs else b""
        described = _field(4, _field(1, of) + members)
        return _field(1, _field(1, name) + _field(2, package) + dependency + described + _field(12, "proto3"))

    timestamp = "google/protobuf/timestamp.proto"
    time = file(
        timestamp,
        "google.protobuf",
        "",
        "Timestamp",
        member("seconds", 1, integer64) + member("nanos", 2, integer32),
    )
    stamp = member("timestamp", 1, message, ".google.protobuf.Timestamp")
    members = {
        "CompressedImage": stamp
        + member("frame_id", 4, string)
        + member("data", 2, binary)
        + member("format", 3, string),
        "RawImage": stamp
        + member("frame_id", 7, string)
        + member("width", 2, fixed32)
        + member("height", 3, fixed32)
        + member("encoding", 4, string)
        + member("step", 5, fixed32)
        + member("data", 6, binary),
    }
    return {
        f"foxglove.{name}": time + file(f"foxglove/{name}.proto", "foxglove", timestamp, name, described)
        for name, described in members.items()
    }


def _object(properties: Mapping[str, Any] | None = None) -> dict[str, Any]:
    # Foxglove fails on an object without "properties", on a union of types and on arrays of arrays.
    return {"type": "object", "properties": dict(properties or {})}


def _schemas() -> dict[str, Schema]:
    number, integer, string, boolean = ({"type": kind} for kind in ("number", "integer", "string", "boolean"))
    numbers, integers = {"type": "array", "items": number}, {"type": "array", "items": integer}
    of_picture = {name: numbers if name == "colour" else number for name in PictureStatistics._fields}
    sides = {"height": integer, "width": integer}
    frame = _object({**sides, "minimum": number, "maximum": number, "statistics": _object(of_picture)})
    query = _object(
        {
            "boundary": string,
            "prompt": string,
            "input_ids": integers,
            "image": frame,
            "more_images": _object(),
            "proprio": _object(),
            "pixel_stats": _object({"mean": numbers, "min": numbers, "max": numbers}),
            "ids": integers,
            "action_mass": numbers,
            "margin": numbers,
            "entropy": numbers,
            "normalised": numbers,
            "action": numbers,
            "options": _object(),
            "vision_calls": integer,
            "model": _object(),
        }
    )
    step = _object(
        {
            "number": number,
            "frames": _object(),
            "proprio": _object(),
            "query": query,
            "executed": numbers,
            "reward": number,
            "done": boolean,
            "success": boolean,
            "info": _object(),
            "timings": _object(),
            "memory": _object(),
        }
    )
    outcome = _object(
        {
            "ended": string,
            "success": boolean,
            "steps": integer,
            "error": string,
            "notes": {"type": "array", "items": string},
        }
    )
    described = {"Run": _object(), "Task": _object(), "Step": step, "Outcome": outcome}
    schemas = [(name, "protobuf", described) for name, described in _image_schemas().items()]
    schemas += [(f"vladoctor.{name}", "jsonschema", json.dumps(of).encode()) for name, of in described.items()]
    return {
        name: Schema(data=data, encoding=encoding, id=index, name=name)
        for index, (name, encoding, data) in enumerate(schemas, start=1)
    }


_COMPRESSED, _RAW = "foxglove.CompressedImage", "foxglove.RawImage"
_SCHEMAS = _schemas()
