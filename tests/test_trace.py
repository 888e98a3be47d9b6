from __future__ import annotations

import io
import json
import math
import os
import re
import resource
import signal
import struct
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mcap.exceptions import McapError
from mcap.reader import NonSeekingReader, make_reader
from PIL import Image

from vladoctor.errors import UserError
from vladoctor.records import Frame, Outcome, Query, Step
from vladoctor.trace import (
    PROFILE,
    TraceWriter,
    area_average,
    capture,
    decode_json,
    encode_json,
    encode_png,
    find_traces,
    read_episode,
)

RUN = {"versions": {"numpy": "2"}, "checkpoint": {"name": "tiny", "n_action_bins": 256}}
TASK = {"suite": "libero_object", "task_id": 0, "init_state": 3, "episode": 1}


def frame(seed: int, height: int = 32, width: int = 32) -> np.ndarray:
    rows, cols = np.mgrid[:height, :width]
    channels = [seed + 3 * rows + cols, seed + 2 * cols, 200 - 2 * rows - cols]
    return np.clip(np.stack(channels, -1), 0, 255).astype(np.uint8)


def query(seed: int) -> Query:
    return Query(
        prompt=f"In: do it {seed}?\nOut:",
        input_ids=(1, 512, 29871),
        image=capture(frame(seed, 16, 16), 8),
        pixel_stats={"mean": (0.1, 0.2), "min": (-1.0, -2.0), "max": (1.0, 2.0)},
        ids=(31744, 31999),
        action_mass=(0.25, 1.0),
        margin=(1.5, 0.1 + 0.2),
        entropy=(0.0, 5.5),
        normalised=(0.99, -0.99),
        action=(1e-300, -0.1),
        options={"unnorm_key": "libero_object", "do_sample": False},
        vision_calls=1,
    )


def step(number: int, *, asked: bool = True) -> Step:
    return Step(
        number=number,
        frames={"agentview": capture(frame(number), 16)},
        proprio={"robot0_eef_pos": (0.1, 0.2, float(number))},
        query=query(number) if asked else None,
        executed=(0.5, -1.0),
        reward=0.25,
        done=False,
        success=False,
        info={"note": "x"},
        timings={"execute": 26.125},
        memory={"rss": 123},
    )


def write(path: Path, steps: int = 4, settle: int = 1, **options: Any) -> Path:
    with TraceWriter(path, RUN, TASK, thumbnail=16, **options) as writer:
        for number in range(settle + steps):
            writer.write_step(step(number, asked=number >= settle))
        writer.close(Outcome("success", True, steps))
    return path


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = write(tmp_path / "deep" / "down" / "episode.mcap", steps=3, settle=2)
    episode = read_episode(path)
    assert (episode.run, episode.task) == (RUN, TASK)
    assert episode.outcome == Outcome("success", True, 3)
    assert not episode.truncated
    assert episode.source == str(path)
    assert [one.number for one in episode.steps] == [-2, -1, 0, 1, 2]
    assert [one.query is None for one in episode.steps] == [True, True, False, False, False]
    for number, one in enumerate(episode.steps):
        expected = step(number, asked=number >= 2)
        for name in ("proprio", "executed", "reward", "done", "success", "info", "timings", "memory"):
            assert getattr(one, name) == getattr(expected, name), name
        if one.query is not None and expected.query is not None:
            for name in vars(Query()):
                if name != "image":
                    assert getattr(one.query, name) == getattr(expected.query, name), name


def test_pictures(tmp_path: Path) -> None:
    steps = read_episode(write(tmp_path / "episode.mcap", steps=6, settle=1, full_every=3)).steps
    kept = [one.number for one in steps if one.frames["agentview"].full is not None]
    assert kept == [0, 3]
    for number, one in enumerate(steps):
        picture, original = one.frames["agentview"], frame(number)
        assert picture.shape == (32, 32)
        assert (picture.minimum, picture.maximum) == (original.min(), original.max())
        assert picture.thumbnail.shape == (16, 16, 3)
        assert np.abs(picture.thumbnail.astype(int) - area_average(original, 16)).mean() < 3
        if picture.full is not None:
            np.testing.assert_array_equal(picture.full, original)
        if one.query is not None:
            assert one.query.image is not None
            assert one.query.image.shape == (16, 16)
            assert one.query.image.thumbnail.shape == (8, 8, 3)
            assert (one.query.image.full is None) == (one.number not in kept)


def test_frames_that_were_not_captured_are_encoded(tmp_path: Path) -> None:
    large = frame(1, 128, 96)
    plain = Frame((128, 96), lambda: large, lambda: large)
    with TraceWriter(tmp_path / "a.mcap", {}, {}) as writer:
        writer.write_step(Step(0, {"wrist": plain}, query=Query()))
        writer.close(Outcome("horizon", False, 1))
    picture = read_episode(tmp_path / "a.mcap").steps[0].frames["wrist"]
    assert picture.thumbnail.shape == (64, 48, 3)
    assert picture.minimum is None
    np.testing.assert_array_equal(picture.best, large)


def test_a_trace_can_be_written_again_without_loss(tmp_path: Path) -> None:
    first = read_episode(write(tmp_path / "first.mcap"))
    with TraceWriter(tmp_path / "second.mcap", first.run, first.task) as writer:
        for one in first.steps:
            writer.write_step(one)
        writer.close(first.outcome)
    second = read_episode(tmp_path / "second.mcap")
    assert [one.number for one in second.steps] == [one.number for one in first.steps]
    for one, other in zip(first.steps, second.steps, strict=True):
        np.testing.assert_array_equal(one.frames["agentview"].thumbnail, other.frames["agentview"].thumbnail)
        assert one.query is None or (other.query is not None and one.query.action == other.query.action)


def test_numbers_when_nothing_was_asked_or_a_reset_came_halfway(tmp_path: Path) -> None:
    for name, numbers, asked, expected in (
        ("never", [0, 1, 2], [], [-3, -2, -1]),
        ("late", [0, 1, 2, 3], [2], [-2, -1, 0, 1]),
        ("gap", [0, 5, 6], [1], [-5, 0, 1]),
        ("reset", [0, 1, 0, 1], [1], [-1, 0, 1, 2]),
        ("empty", [], [], []),
    ):
        with TraceWriter(tmp_path / f"{name}.mcap", {}, {}) as writer:
            for index, number in enumerate(numbers):
                writer.write_step(Step(number, query=Query() if index in asked else None))
        episode = read_episode(tmp_path / f"{name}.mcap")
        assert [one.number for one in episode.steps] == expected, name
        assert episode.truncated


class Odd:
    def __repr__(self) -> str:
        return "Odd()"


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def test_values_that_json_does_not_know(tmp_path: Path) -> None:
    circle: dict[str, Any] = {"deep": 1}
    circle["self"] = circle
    info: dict[Any, Any] = {
        "nan": math.nan,
        "inf": [math.inf, -math.inf, 1.5],
        "odd": Odd(),
        "broken": Broken(),
        "array": np.arange(3, dtype=np.int64),
        "floats": np.array([0.5, np.nan]),
        "huge": np.zeros(10_000),
        "number": np.float32(0.5),
        "flag": np.bool_(True),
        "path": Path("a/b"),
        ("a", 1): "key",
        3: "three",
        "set": {"b", "a"},
        "circle": circle,
        "text": "ü\ud800\n",
    }
    one = Step(0, proprio={"p": (math.nan, -math.inf)}, executed=(math.nan, 1.0), reward=math.inf, info=info)
    with TraceWriter(tmp_path / "a.mcap", {"x": math.nan}, {}) as writer:
        writer.write_step(one)
        writer.write_step(Step(1, query=Query(margin=(math.inf,), action=(math.nan, 2.0))))
    episode = read_episode(tmp_path / "a.mcap")
    back = episode.steps[0]
    assert math.isnan(episode.run["x"])
    assert math.isnan(back.proprio["p"][0])
    assert back.proprio["p"][1] == -math.inf
    assert math.isnan(back.executed[0])
    assert back.executed[1] == 1.0
    assert back.reward == math.inf
    assert math.isnan(back.info["nan"])
    assert back.info["inf"] == [math.inf, -math.inf, 1.5]
    assert back.info["odd"] == "Odd()"
    assert back.info["broken"] == "<Broken>"
    assert back.info["array"] == [0, 1, 2]
    assert back.info["floats"][0] == 0.5
    assert math.isnan(back.info["floats"][1])
    assert back.info["huge"] == "<array float64 (10000,)>"
    assert back.info["number"] == 0.5
    assert back.info["flag"] is True
    assert "a/b" in back.info["path"]
    assert back.info["('a', 1)"] == "key"
    assert back.info["3"] == "three"
    assert back.info["set"] == ["a", "b"]
    assert back.info["text"] == "ü\ud800\n"
    second = episode.steps[1].query
    assert second is not None
    assert second.margin == (math.inf,)
    assert second.action is not None
    assert math.isnan(second.action[0])


def test_floats_keep_every_digit() -> None:
    values = np.random.default_rng(0).standard_normal(1000).tolist()
    values += [5e-324, 1.7976931348623157e308, -0.0]
    assert decode_json(encode_json(values)) == values


@pytest.mark.parametrize("reader", ["json", *(["orjson"] if find_spec("orjson") else [])])
def test_records_read_the_same_with_and_without_the_faster_reader(reader: str) -> None:
    """The extra `fast` is a matter of time alone; what orjson is too strict for is read by Python's own reader.

    Of the two environments in which the tests run, that of the versions that OpenVLA pins has no orjson.
    """
    values = {"plain": [0.1, -0.0, 1e-300, 1, True, None, "é\u2028"], "half": "\ud800", "large": [2**53 + 1, math.inf]}
    program = "import sys; sys.modules.setdefault('orjson', None)\n" if reader == "json" else ""
    program += (
        f"from vladoctor.trace import decode_json, encode_json, READ_JSON\nvalues = {values!r}\n".replace(
            "inf]", "float('inf')]"
        )
        + "for one in values.values():\n    assert repr(decode_json(encode_json(one))) == repr(one)\n"
        "print(READ_JSON.__module__)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == reader


def test_cut_at_any_byte_it_reads_up_to_the_last_whole_step(tmp_path: Path) -> None:
    path = write(tmp_path / "episode.mcap", steps=2, settle=1, full_every=1)
    data = path.read_bytes()
    ends = chunk_ends(data)
    assert len(ends) == 5
    for size in range(len(data) - 1, -1, -1):
        os.truncate(path, size)
        episode = read_episode(path)
        whole = sum(end <= size for end in ends)
        assert len(episode.steps) == max(0, min(whole, 4) - 1), size
        assert episode.truncated == (whole < 5), size
        assert episode.outcome.ended == ("interrupted" if whole < 5 else "success"), size
        assert episode.run == (RUN if whole else {}), size
        if size in ends:
            for one in episode.steps:
                assert one.frames["agentview"].thumbnail.shape == (16, 16, 3)
                assert (one.query is None) == (one.frames["agentview"].full is None)


def chunk_ends(data: bytes) -> list[int]:
    """Offsets after every chunk, by walking the file's records."""
    ends, position = [], 8
    while position + 9 <= len(data):
        opcode, end = data[position], position + 9 + int.from_bytes(data[position + 1 : position + 9], "little")
        if opcode == 6:
            ends.append(end)
        position = end
    return ends


def chunk_starts(data: bytes) -> list[int]:
    starts, position = [], 8
    while position + 9 <= len(data):
        if data[position] == 6:
            starts.append(position)
        position += 9 + int.from_bytes(data[position + 1 : position + 9], "little")
    return starts


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("place", ["content", "checksum", "kind", "length", "overwritten"])
def test_a_damaged_chunk_ends_the_trace(tmp_path: Path, place: str, closed: bool) -> None:
    """At the byte where it begins; whether the recording was closed is seen at its end, and not here."""
    path = write(tmp_path / "episode.mcap", steps=4, settle=0)
    data = bytearray(path.read_bytes())
    start = chunk_starts(bytes(data))[3]
    if not closed:
        del data[chunk_ends(bytes(data))[3] :]
    size = len(data)
    match place:
        case "content":
            data[start + 400] ^= 0x40
        case "checksum":
            data[start + 9 + 24] ^= 1
        case "kind":
            data[start] = 0x46
        case "length":
            data[start + 7] ^= 1  # longer than the file
        case "overwritten":
            data[start : start + 200] = bytes(200)
    path.write_bytes(data)
    episode = read_episode(path)
    assert [one.number for one in episode.steps] == [0, 1]
    assert episode.truncated
    # Of a file that nobody closed it is not known how long it was, so a record may as well have been cut.
    cut = place == "length" and not closed
    assert episode.damage == ("" if cut else f"is damaged at byte {start:,} of {size:,}")
    assert episode.outcome.ended == "interrupted"


def test_messages_that_are_gone_are_missed(tmp_path: Path) -> None:
    """A chunk that reads as another kind of record is passed over; the closing knows how many messages there were."""
    path = write(tmp_path / "episode.mcap", steps=4, settle=0)
    data = bytearray(path.read_bytes())
    before = len(read_episode(path).steps)
    data[chunk_starts(bytes(data))[2]] = 7
    path.write_bytes(data)
    episode = read_episode(path)
    assert len(episode.steps) == before - 1
    assert episode.truncated
    assert re.fullmatch(r"is damaged: \d+ of its messages are missing", episode.damage)


def test_any_bit_that_flips_is_told_or_does_no_harm(tmp_path: Path) -> None:
    path = write(tmp_path / "episode.mcap", steps=2, settle=0)
    data, whole = path.read_bytes(), read_episode(path)
    header = data.index(b"vladoctor/") + 11
    for place in range(header, len(data), 7):
        changed = bytearray(data)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        episode = read_episode(path)
        same = [one.executed for one in episode.steps] == [one.executed for one in whole.steps]
        assert episode.damage or (same and (episode.run, episode.task) == (whole.run, whole.task)), place
        assert episode.truncated == bool(episode.damage), place


@pytest.mark.parametrize("room", [0, 1, 9, 4096])
def test_a_cut_with_room_behind_it_is_no_damage(tmp_path: Path, room: int) -> None:
    """A file system that lost power can leave zeros where nothing was written."""
    path = write(tmp_path / "episode.mcap", steps=4, settle=0)
    data = path.read_bytes()
    path.write_bytes(data[: chunk_ends(data)[2]] + bytes(room))
    episode = read_episode(path)
    assert (len(episode.steps), episode.truncated, episode.damage) == (2, True, "")


def test_an_empty_file_is_said_to_be_empty(tmp_path: Path) -> None:
    path = tmp_path / "episode.mcap"
    path.touch()
    episode = read_episode(path)
    assert episode.truncated
    assert episode.damage == "is empty: its file has no bytes"


def test_a_killed_process_loses_nothing_that_was_written(tmp_path: Path) -> None:
    path = tmp_path / "episode.mcap"
    script = f"""
        import sys
        sys.path[:0] = {[str(Path(__file__).parent)]!r}
        from test_trace import RUN, TASK, TraceWriter, step
        writer = TraceWriter({str(path)!r}, RUN, TASK, thumbnail=16)
        number = 0
        while True:
            writer.write_step(step(number))
            number += 1
            print(number, flush=True)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        reported = 0
        while reported < 20:
            reported = int(child.stdout.readline())
        os.kill(child.pid, signal.SIGKILL)
        rest = child.stdout.read().split()
        child.wait()
    reported = int(rest[-1]) if rest else reported
    episode = read_episode(path)
    assert episode.truncated
    assert len(episode.steps) in (reported, reported + 1)
    assert episode.outcome == Outcome("interrupted", False, len(episode.steps))
    assert episode.steps[-1].frames["agentview"].thumbnail.shape == (16, 16, 3)
    with path.open("rb") as stream:
        os.truncate(path, chunk_ends(stream.read())[-1])
    assert len(read_episode(path).steps) == len(episode.steps)


def test_a_full_disk_ends_the_trace_after_the_last_whole_step(tmp_path: Path) -> None:
    path = tmp_path / "episode.mcap"
    writer = TraceWriter(path, RUN, TASK, thumbnail=16)
    writer.write_step(step(0))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 1000, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            writer.write_step(step(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with pytest.raises(OSError, match="no more steps"):
        writer.write_step(step(2))
    writer.close(Outcome("success", True, 3))
    writer.close()
    assert chunk_ends(path.read_bytes())[-1] <= path.stat().st_size
    episode = read_episode(path)
    assert len(episode.steps) == 1
    assert episode.truncated


def test_no_room_at_the_start_is_the_users_to_solve(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(UserError, match="cannot be written"):
            TraceWriter(tmp_path / "a.mcap", RUN, TASK)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "a.mcap").exists()


def test_a_trace_is_never_overwritten(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mcap")
    before = path.read_bytes()
    with pytest.raises(UserError, match="never overwritten"):
        TraceWriter(path, RUN, TASK)
    assert path.read_bytes() == before


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be written"):
        TraceWriter(tmp_path / "file" / "a.mcap", RUN, TASK)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a trace at all", "not a trace"),
        (b"\x89MCAP0\r\n\x01" + (12).to_bytes(8, "little") + b"\x04\0\0\0ros2\0\0\0\0", "not a trace"),
        (
            b"\x89MCAP0\r\n\x01" + (20).to_bytes(8, "little") + b"\x0c\0\0\0vladoctor/99\0\0\0\0",
            "has format 99",
        ),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "not a trace"),
    ],
)
def test_files_that_are_no_traces(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.mcap"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_episode(path)


def test_places_where_no_trace_is(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.mcap", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            read_episode(path)
    with pytest.raises(UserError, match="no trace"):
        find_traces(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        find_traces(tmp_path / "absent")
    assert find_traces(tmp_path, missing_ok=True) == find_traces(tmp_path / "absent", missing_ok=True) == []


def test_traces_are_found_in_natural_order(tmp_path: Path) -> None:
    names = ["b/ep1.mcap", "a/ep2.mcap", "a/ep10.mcap", "a/ep1.mcap", "a/notes.txt", "a/7.mcap"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [str(path.relative_to(tmp_path)) for path in find_traces(tmp_path)]
    assert found == ["a/7.mcap", "a/ep1.mcap", "a/ep2.mcap", "a/ep10.mcap", "b/ep1.mcap"]
    assert find_traces(tmp_path / "b" / "ep1.mcap") == [tmp_path / "b" / "ep1.mcap"]


def test_other_tools_can_read_it(tmp_path: Path) -> None:
    path = write(tmp_path / "episode.mcap", steps=3, settle=1, full_every=2)
    with path.open("rb") as stream:
        reader = make_reader(stream, validate_crcs=True)
        assert reader.get_header().profile == PROFILE
        summary = reader.get_summary()
        assert summary is not None
        assert len(summary.chunk_indexes) == 6
        messages = list(reader.iter_messages())
        backwards = list(reader.iter_messages(topics=["/step"], reverse=True))
    by_topic: dict[str, list[Any]] = {}
    for schema, channel, message in messages:
        assert schema is not None
        by_topic.setdefault(channel.topic, []).append((schema, channel, message))
    assert {topic: len(found) for topic, found in by_topic.items()} == {
        "/run": 1,
        "/task": 1,
        "/camera/agentview/thumbnail": 4,
        "/grey/camera/agentview": 4,
        "/camera/agentview/full": 2,
        "/model/image/thumbnail": 3,
        "/grey/model/image": 3,
        "/model/image/full": 2,
        "/step": 4,
        "/outcome": 1,
    }
    assert summary.statistics is not None
    assert summary.statistics.message_count == len(messages)
    for topic, found in by_topic.items():
        schema, channel, _ = found[0]
        if topic.startswith(("/camera", "/model", "/grey")):
            assert (schema.name, schema.encoding, channel.message_encoding) == (
                "foxglove.RawImage" if topic.startswith("/grey") else "foxglove.CompressedImage",
                "protobuf",
                "protobuf",
            )
        else:
            assert (schema.name, schema.encoding, channel.message_encoding) == (
                f"vladoctor.{topic[1:].title()}",
                "jsonschema",
                "json",
            )
    record = json.loads(by_topic["/step"][1][2].data)
    assert record["executed"] == [0.5, -1.0]
    assert record["query"]["action"] == [1e-300, -0.1]
    times = [message.log_time for _, _, message in messages]
    assert times == sorted(times)
    assert [message.sequence for _, _, message in backwards] == [3, 2, 1, 0]


def test_pictures_are_foxglove_images(tmp_path: Path) -> None:
    """Read with an independent decoder of Protobuf's wire format, following the schema in the file."""
    path = write(tmp_path / "episode.mcap", steps=1, settle=0)
    with path.open("rb") as stream:
        found = {
            channel.topic: (schema, message)
            for schema, channel, message in make_reader(stream).iter_messages()
            if schema is not None and schema.name.startswith("foxglove.")
        }
    descriptors = [wire(file) for number, file in wire_items(found["/camera/agentview/full"][0].data) if number == 1]
    assert [file[1] for file in descriptors] == [b"google/protobuf/timestamp.proto", b"foxglove/CompressedImage.proto"]
    members = {
        member[1]: (member[3], member[5])
        for member in (wire(item) for number, item in wire_items(descriptors[1][4]) if number == 2)
    }
    # Numbers and types as in foxglove-sdk's CompressedImage.proto; 11 is a message, 9 a string, 12 bytes.
    assert members == {b"timestamp": (1, 11), b"frame_id": (4, 9), b"data": (2, 12), b"format": (3, 9)}
    for topic, name, kind, shape in (
        ("/camera/agentview/thumbnail", b"agentview", b"jpeg", (16, 16)),
        ("/camera/agentview/full", b"agentview", b"png", (32, 32)),
        ("/model/image/thumbnail", b"model", b"jpeg", (8, 8)),
        ("/model/image/full", b"model", b"png", (16, 16)),
    ):
        message = found[topic][1]
        fields = wire(message.data)
        stamp = wire(fields[1])
        assert stamp[1] * 10**9 + stamp[2] == message.log_time
        assert (fields[4], fields[3]) == (name, kind)
        assert Image.open(io.BytesIO(fields[2])).size == shape


def wire_items(data: bytes) -> list[tuple[int, Any]]:
    items, stream = [], io.BytesIO(data)

    def varint() -> int:
        value, shift = 0, 0
        while True:
            byte = stream.read(1)[0]
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while stream.tell() < len(data):
        tag = varint()
        items.append((tag >> 3, varint() if tag & 7 == 0 else stream.read(varint())))
    return items


def wire(data: bytes) -> dict[int, Any]:
    return dict(wire_items(data))


def test_schemas_stay_within_what_foxglove_parses(tmp_path: Path) -> None:
    """Objects with properties, arrays of plain types, no unions: its parser raises on anything else."""

    def check(schema: Mapping[str, Any]) -> None:
        assert schema["type"] == "object"
        for one in schema["properties"].values():
            if one["type"] == "object":
                check(one)
            elif one["type"] == "array":
                assert one["items"]["type"] in ("boolean", "string", "number", "integer")
            else:
                assert one["type"] in ("boolean", "string", "number", "integer")

    with write(tmp_path / "a.mcap").open("rb") as stream:
        summary = make_reader(stream).get_summary()
    assert summary is not None
    schemas = [json.loads(schema.data) for schema in summary.schemas.values() if schema.encoding == "jsonschema"]
    assert len(schemas) == 4
    for schema in schemas:
        check(schema)


def test_other_tools_can_read_a_trace_that_was_cut(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mcap", steps=3, settle=0)
    os.truncate(path, chunk_ends(path.read_bytes())[2] + 100)
    topics = []
    with path.open("rb") as stream, suppress(McapError, ValueError, struct.error):
        for _, channel, _ in NonSeekingReader(stream).iter_messages(log_time_order=False):
            topics.append(channel.topic)
    assert [topics.count(topic) for topic in ("/run", "/task", "/step", "/camera/agentview/thumbnail")] == [1, 1, 2, 2]


@pytest.mark.parametrize("shape", [(64, 64), (48, 80), (37, 53), (300, 200), (1, 1), (5, 400)])
def test_area_average(shape: tuple[int, int]) -> None:
    original = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    small = area_average(original, 16)
    factor = -(-max(shape) // 16)
    assert max(small.shape) <= 17
    if shape[0] % factor == 0 and shape[1] % factor == 0:
        blocks = original.reshape(shape[0] // factor, factor, shape[1] // factor, factor, 3)
        np.testing.assert_array_equal(small, np.floor(blocks.mean((1, 3)) + 0.5))
        # A view is averaged by other code than its copy.
        np.testing.assert_allclose(area_average(original[::-1, ::-1], 16), small[::-1, ::-1], atol=1)
    assert abs(float(small.mean()) - float(original.mean())) < 1.5


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (256, 256), (3, 1000)])
def test_png_is_lossless(shape: tuple[int, int]) -> None:
    original = np.random.default_rng(2).integers(0, 256, (*shape, 3), dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(encode_png(original)))), original)
    flipped = original[::-1, ::-1]
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(encode_png(flipped)))), flipped)


def test_capture_keeps_what_the_frame_was() -> None:
    original = frame(0)
    picture = capture(original, 16)
    before = original.copy()
    original[:] = 0
    np.testing.assert_array_equal(picture.full, before)
    assert picture.thumbnail.max() > 100
    assert capture(before, 16, keep=False).full is None


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((4, 4, 4), np.uint8), np.zeros((3, 4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)],
)
def test_capture_refuses_what_is_no_frame(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="must be uint8"):
        capture(wrong)
