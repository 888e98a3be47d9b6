"""Policies in another process: real clients (openpi-client, requests, httpx) against real local servers.

What cannot be installed here, openpi itself (jax) and vLLM (a GPU), is a stand-in of the same module path and shape.
"""

from __future__ import annotations

import base64
import copy
import importlib
import io
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

pytest.importorskip("openpi_client")
requests = pytest.importorskip("requests")
json_numpy = pytest.importorskip("json_numpy")

from openpi_client.action_chunk_broker import ActionChunkBroker  # noqa: E402
from openpi_client.base_policy import BasePolicy  # noqa: E402
from openpi_client.websocket_client_policy import WebsocketClientPolicy  # noqa: E402
from PIL import Image  # noqa: E402
from programs import watched  # noqa: E402

from vladoctor.facts.serving import merge_server  # noqa: E402
from vladoctor.records import Episode, Frame, Outcome, Query, Step  # noqa: E402
from vladoctor.taps.given import as_picture, given, rows, sort  # noqa: E402
from vladoctor.taps.watch import ALONE, Watch  # noqa: E402
from vladoctor.trace import find_traces, read_episode  # noqa: E402

CLIENTS = Path(__file__).parent / "clients"
CHECKPOINT = Path(__file__).parents[1] / "fixtures" / "tiny-openvla"
TASK = "pick up the alphabet soup and place it in the basket"
ACTION = [0.1, -0.2, 0.3, 0.0, 0.25, -0.125, 1.0]

WATCHED = """
import os, runpy, signal, sys
from pathlib import Path
from vladoctor.taps.watch import Watch
folder, script = sys.argv[1:3]
watch = Watch(Path(folder))
watch.process = "server-"
watch.start()
sys.argv = sys.argv[2:]
runpy.run_path(script, run_name="__main__")
"""
"""Runs a script under a watch, and leaves it to whoever ends the process."""


def frame(seed: int = 0, side: int = 64) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((side, side)))


def observation(seed: int = 0) -> dict[str, Any]:
    return {
        "observation/image": frame(seed),
        "observation/wrist_image": frame(seed + 100).transpose(2, 0, 1),
        "observation/state": np.array([-0.05, -0.2 + 0.01 * seed, 1.1, 0.1, 0.2, 0.3, 0.04, -0.04]),
        "prompt": TASK,
    }


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Watch]:
    watch = Watch(tmp_path / "out")
    watch.start()
    yield watch
    watch.close()


def recorded(watch: Watch) -> list[Step]:
    """Close the watch and read what it has written."""
    watch.close()
    assert not [error for error in watch.errors if "stopped" in error]
    return [step for path in find_traces(watch.folder, missing_ok=True) for step in read_episode(path).steps]


def queries(watch: Watch) -> list[Query]:
    return [step.query for step in recorded(watch) if step.query is not None]


def serve(*words: str | Path, watched: Path | None = None) -> tuple[subprocess.Popen[str], int]:
    """Start a server in a process of its own; returns it and its port."""
    before = [sys.executable, *(["-c", WATCHED, str(watched)] if watched else [])]
    process = subprocess.Popen(
        [*before, *map(str, words), "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    line = next((line for line in process.stdout if line.startswith("serving on ")), "")
    assert line, "the server has not started"
    return process, int(line.strip().removesuffix("/act").rpartition(":")[2])


@pytest.fixture
def openpi_server() -> Iterator[tuple[subprocess.Popen[str], int]]:
    process, port = serve(CLIENTS / "openpi_server.py", "--policy", "scripted")
    yield process, port
    process.kill()
    process.wait()


# openpi's client.


def test_the_program_gets_from_openpi_what_it_got_before(
    openpi_server: tuple[subprocess.Popen[str], int], tmp_path: Path
) -> None:
    client = WebsocketClientPolicy("127.0.0.1", openpi_server[1])
    plain = [client.infer(observation(seed)) for seed in range(3)]
    watch = Watch(tmp_path / "out")
    watch.start()
    asked = [observation(seed) for seed in range(3)]
    before = copy.deepcopy(asked)
    watched = [client.infer(one) for one in asked]
    assert len(queries(watch)) == 3
    for one, two in zip(plain, watched, strict=True):
        assert one["actions"].tobytes() == two["actions"].tobytes()
        assert one["actions"].flags.writeable == two["actions"].flags.writeable
    for one, two in zip(before, asked, strict=True):
        assert list(one) == list(two)
        assert all(np.array_equal(one[name], two[name]) for name in one)
    after = client.infer(observation(0))
    assert after["actions"].tobytes() == plain[0]["actions"].tobytes()


def test_a_query_of_openpi_is_seen_from_the_client(
    openpi_server: tuple[subprocess.Popen[str], int], watch: Watch
) -> None:
    client = WebsocketClientPolicy("127.0.0.1", openpi_server[1])
    answer = client.infer(observation(1))
    (step,) = recorded(watch)
    query = step.query
    assert query is not None
    assert query.boundary == "openpi.infer"
    assert query.prompt == TASK
    assert query.image is not None
    np.testing.assert_array_equal(query.image.full, frame(1))
    np.testing.assert_array_equal(query.more_images["observation/wrist_image"].full, frame(101))
    assert next(iter(query.options["given"])) == "observation/image"
    assert query.options["given"]["observation/wrist_image"] == "uint8 (3, 64, 64)"
    assert query.proprio == {"observation/state": tuple(observation(1)["observation/state"])}
    assert query.chunk == tuple(map(tuple, answer["actions"].tolist()))
    assert query.action == query.chunk[0]
    assert query.options["server_timing"]["infer_ms"] == answer["server_timing"]["infer_ms"]
    assert step.timings["forward"] > 0
    assert watch.run["checkpoint"]["family_hint"] == "openpi"
    assert watch.run["checkpoint"]["server_metadata"] == client.get_server_metadata()


def test_a_broker_that_hands_out_what_it_has_asks_nothing(
    openpi_server: tuple[subprocess.Popen[str], int], watch: Watch
) -> None:
    broker = ActionChunkBroker(WebsocketClientPolicy("127.0.0.1", openpi_server[1]), 3)
    taken = [broker.infer(observation(seed))["actions"] for seed in range(7)]
    found = queries(watch)
    assert len(found) == 3
    assert [len(query.chunk) for query in found] == [10, 10, 10]
    assert [tuple(row) for row in taken[3:6]] == list(found[1].chunk[:3])


def test_a_subclass_counts_once_with_what_it_sends(
    openpi_server: tuple[subprocess.Popen[str], int], watch: Watch
) -> None:
    class Turned(WebsocketClientPolicy):
        def infer(self, obs: dict[str, Any]) -> dict[str, Any]:
            return super().infer({**obs, "observation/image": np.ascontiguousarray(obs["observation/image"][::-1])})

    Turned("127.0.0.1", openpi_server[1]).infer(observation())
    (query,) = queries(watch)
    assert query.image is not None
    np.testing.assert_array_equal(query.image.full, frame()[::-1])


def test_errors_of_the_server_arrive_as_they_are(
    openpi_server: tuple[subprocess.Popen[str], int], watch: Watch
) -> None:
    process, port = openpi_server
    client, second = WebsocketClientPolicy("127.0.0.1", port), WebsocketClientPolicy("127.0.0.1", port)
    with pytest.raises(RuntimeError, match="Error in inference server") as error:
        client.infer({"observation/image": frame(), "prompt": TASK})
    assert error.traceback[-1].path.name == "websocket_client_policy.py"
    process.kill()
    process.wait()
    from websockets.exceptions import ConnectionClosed

    with pytest.raises(ConnectionClosed):
        second.infer(observation())
    steps = recorded(watch)
    assert [step.query is not None and step.query.action for step in steps] == [None, None]
    said = [step.info["vladoctor"]["calls"][0] for step in steps]
    assert said[0]["call"] == "openpi.infer"
    assert said[0]["raised"].startswith("RuntimeError: Error in inference server")
    assert "KeyError" in said[0]["raised"]
    assert said[1]["raised"].startswith("ConnectionClosed")


def test_all_taps_are_taken_away(watch: Watch) -> None:
    assert hasattr(WebsocketClientPolicy.infer, "__wrapped__")
    assert hasattr(requests.Session.request, "__wrapped__")
    watch.close()
    for function in (WebsocketClientPolicy.infer, BasePolicy.infer, ActionChunkBroker.reset, requests.Session.request):
        assert not hasattr(function, "__wrapped__")


# openpi's server: a stand-in package.

STAND_IN = {
    "openpi/__init__.py": "",
    "openpi/policies/__init__.py": "",
    "openpi/transforms.py": """
import dataclasses

@dataclasses.dataclass(frozen=True)
class CompositeTransform:
    transforms: tuple

    def __call__(self, data):
        for transform in self.transforms:
            data = transform(data)
        return data
""",
    "openpi/policies/policy.py": """
import numpy as np
from openpi_client import base_policy
from openpi.transforms import CompositeTransform

class Policy(base_policy.BasePolicy):
    def __init__(self, sample, transforms, metadata):
        self._sample, self._metadata = sample, metadata
        self._input_transform = CompositeTransform(transforms)

    def infer(self, obs, *, noise=None):
        inputs = self._input_transform(dict(obs))
        return {"actions": self._sample(inputs), "policy_timing": {"infer_ms": 1.5}}
""",
}


@pytest.fixture
def openpi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    for name, text in STAND_IN.items():
        path = tmp_path / "package" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path / "package"))
    yield importlib.import_module
    for name in [name for name in sys.modules if name.partition(".")[0] == "openpi"]:
        del sys.modules[name]


def test_the_servers_policy_shows_what_the_model_was_given(watch: Watch, openpi: Callable[[str], ModuleType]) -> None:
    def prepare(data: dict[str, Any]) -> dict[str, Any]:
        small = np.asarray(Image.fromarray(data["observation/image"]).resize((32, 32)))
        return {
            "image": {"base_0_rgb": small, "right_wrist_0_rgb": np.zeros_like(small)},
            "image_mask": {"base_0_rgb": np.True_, "right_wrist_0_rgb": np.False_},
            "state": np.linspace(-1, 1, 32),
            "tokenized_prompt": np.array([2, 7, 9, 0, 0]),
            "tokenized_prompt_mask": np.array([True, True, True, False, False]),
        }

    chunk = np.arange(21.0).reshape(3, 7)
    policy = openpi("openpi.policies.policy").Policy(lambda inputs: chunk, (prepare,), {"config": "pi0_libero"})
    assert policy.infer(observation())["actions"] is chunk
    (query,) = queries(watch)
    assert query.boundary == "openpi.policy"
    assert query.prompt == TASK
    assert query.input_ids == (2, 7, 9)
    assert query.image is not None
    assert query.image.shape == (64, 64)
    assert query.more_images["model/image/base_0_rgb"].shape == (32, 32)
    assert query.more_images["model/image/right_wrist_0_rgb"].maximum == 0
    assert len(query.proprio["model/state"]) == 32
    assert query.options["policy_timing"] == {"infer_ms": 1.5}
    assert watch.run["checkpoint"]["server_metadata"] == {"config": "pi0_libero"}


def test_a_policy_around_a_watched_one_is_one_query(watch: Watch) -> None:
    class Outer(BasePolicy):
        def infer(self, obs: dict[str, Any]) -> dict[str, Any]:
            # What a tap on a model does in the middle of it.
            watch.asked(Query(boundary="predict_action", ids=(1, 2), action=(0.5, 0.25)))
            return {"actions": np.array([[0.5, 0.25], [0.4, 0.2]])}

    watch.serve()
    Outer().infer(observation())
    (query,) = queries(watch)
    assert query.boundary == "predict_action"
    assert query.ids == (1, 2)
    assert query.chunk == ((0.5, 0.25), (0.4, 0.2))
    assert query.options["instruction"] == TASK
    assert "observation/state" in query.proprio


# POST /act.


class Act(BaseHTTPRequestHandler):
    """Answers as its path says; `answers` is what the deployments in use send."""

    protocol_version = "HTTP/1.1"
    answers: ClassVar[dict[str, Any]] = {
        "/act": ACTION,
        "/array": json.loads(json_numpy.dumps(np.array(ACTION))),
        "/double": json_numpy.dumps(np.array(ACTION)),
        "/chunk": {"actions": [ACTION, ACTION[::-1]]},
        "/error": "error",
        "/caption": {"text": "a bowl on a table"},
    }

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.answer(500 if self.path == "/broken" else 200)

    def do_GET(self) -> None:
        self.answer(200)

    def answer(self, status: int) -> None:
        body = json.dumps(self.answers.get(self.path, {})).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Act) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("dump", "dumps", "load", "loads"):
        monkeypatch.setattr(json, name, getattr(json, name))
    json_numpy.patch()


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def payloads() -> dict[str, dict[str, Any]]:
    picture = frame()
    words = {"instruction": TASK, "unnorm_key": "bridge_orig"}
    encoded = base64.b64encode(png(picture)).decode()
    return {
        "array": {"json": {"image": picture, **words}},
        "json_numpy": {"json": {"image": json.loads(json_numpy.dumps(picture)), **words}},
        "double": {"json": {"encoded": json_numpy.dumps({"image": picture, **words})}},
        "base64": {"json": {"image": encoded, **words}},
        "data URI": {"json": {"observation": {"image": f"data:image/png;base64,{encoded}"}, **words}},
        "lists": {"json": {"image": picture.tolist(), **words}},
        "text": {"data": json_numpy.dumps({"image": picture, **words})},
        "files": {"files": {"image": ("a.png", png(picture), "image/png")}, "data": words},
        "buffer": {"files": [("image", ("a.png", io.BytesIO(png(picture))))], "data": {"json": json.dumps(words)}},
    }


@pytest.mark.usefixtures("patched")
@pytest.mark.parametrize("kind", payloads())
def test_a_picture_that_is_posted_is_seen(kind: str, url: str, watch: Watch) -> None:
    arguments = payloads()[kind]
    before = copy.deepcopy(arguments)
    answer = requests.post(f"{url}/act", **arguments)
    assert answer.json() == ACTION
    if kind != "buffer":
        assert repr(arguments) == repr(before)
    (query,) = queries(watch)
    assert query.boundary == "POST /act"
    # The server makes the prompt.
    assert query.prompt is None
    assert query.options["instruction"] == TASK
    assert query.options["unnorm_key"] == "bridge_orig"
    assert query.action == tuple(ACTION)
    assert query.image is not None
    np.testing.assert_array_equal(query.image.full, frame())


@pytest.mark.usefixtures("patched")
@pytest.mark.parametrize(("path", "count"), [("/act", 1), ("/array", 1), ("/double", 1), ("/chunk", 2)])
def test_actions_are_read_as_they_are_answered(path: str, count: int, url: str, watch: Watch) -> None:
    session = requests.Session()
    reply = session.post(url + path, json={"image": frame(), "instruction": TASK, "state": [0.1, 0.2]})
    assert reply.content == json_numpy.dumps(Act.answers[path]).encode()
    (query,) = queries(watch)
    assert query.action == tuple(ACTION)
    assert len(query.chunk) == (count if count > 1 else 0)
    assert query.proprio == {"state": (0.1, 0.2)}


@pytest.mark.usefixtures("patched")
def test_other_requests_are_left_alone(url: str, watch: Watch) -> None:
    requests.get(f"{url}/act")
    requests.post(f"{url}/act", json={"instruction": TASK})
    requests.post(f"{url}/caption", json={"image": frame(), "prompt": "what is there?"})
    requests.post(f"{url}/act", data=b"\x00\x01{")
    assert queries(watch) == []


@pytest.mark.usefixtures("patched")
def test_a_stream_is_not_read(url: str, watch: Watch) -> None:
    payload = {"image": frame(), "instruction": TASK}
    reply = requests.post(f"{url}/act", json=payload, stream=True)
    assert reply._content is False
    assert reply.raw.tell() == 0
    assert reply.json() == ACTION
    (step,) = recorded(watch)
    assert step.query is not None
    assert step.query.action is None
    assert step.info["vladoctor"]["calls"] == [{"call": "POST /act", "answered": "not read"}]


@pytest.mark.usefixtures("patched")
@pytest.mark.parametrize(("path", "said"), [("/error", "'error'"), ("/broken", "status 500")])
def test_a_servers_error_is_a_query_without_an_answer(path: str, said: str, url: str, watch: Watch) -> None:
    reply = requests.post(url + path, json={"image": frame(), "instruction": TASK})
    assert reply.status_code == (500 if path == "/broken" else 200)
    (step,) = recorded(watch)
    assert step.query is not None
    assert step.query.action is None
    assert step.info["vladoctor"]["calls"] == [{"call": f"POST {path}", "answered": said}]


@pytest.mark.usefixtures("patched")
def test_a_server_that_is_down_raises_what_it_raised(watch: Watch) -> None:
    with pytest.raises(requests.exceptions.ConnectionError):
        requests.post("http://127.0.0.1:9/act", json={"image": frame(), "instruction": TASK})
    (step,) = recorded(watch)
    assert step.info["vladoctor"]["calls"][0]["raised"].startswith("ConnectionError")


def test_a_payload_that_cannot_be_sent_raises_what_it_raised(url: str, watch: Watch) -> None:
    with pytest.raises(TypeError):
        requests.post(f"{url}/act", json={"image": frame(), "instruction": TASK})
    assert watch.active


def test_a_picture_that_is_none_is_only_noted(url: str, watch: Watch) -> None:
    requests.post(f"{url}/act", json={"image": "iVBORw0KGgo" + "A" * 100, "instruction": TASK})
    (query,) = queries(watch)
    assert query.image is None
    assert query.action == tuple(ACTION)
    assert any("could not be decoded" in error for error in watch.errors)


@pytest.mark.may_skip
def test_httpx_is_seen_as_well(url: str, watch: Watch) -> None:
    for name in ("httpx", "httpx2"):
        try:
            httpx = importlib.import_module(name)
        except ImportError:
            continue
        with httpx.Client() as client:
            encoded = base64.b64encode(png(frame())).decode()
            assert client.post(f"{url}/act", json={"image": encoded, "instruction": TASK}).json() == ACTION
        query = queries(watch)[-1]
        assert query.action == tuple(ACTION)
        assert query.image is not None
        return
    pytest.skip("neither httpx nor httpx2 is here: transformers 4.40 brings requests along")


# Both ends.


def test_a_server_that_is_killed_has_written_every_query(tmp_path: Path) -> None:
    script = tmp_path / "server.py"
    script.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(CLIENTS)!r})\n"
        "import openpi_server\n"
        "from openpi_client.base_policy import BasePolicy\n"
        "class Policy(openpi_server.Waypoints, BasePolicy):\n"
        "    def infer(self, obs): return super().infer(obs)\n"
        "openpi_server.Waypoints = Policy\n"
        "openpi_server.main()\n"
    )
    process, port = serve(script, "--policy", "scripted", watched=tmp_path / "out")
    client = WebsocketClientPolicy("127.0.0.1", port)
    answers = [client.infer(observation(seed))["actions"] for seed in range(4)]
    time.sleep(0.5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (path,) = find_traces(tmp_path / "out")
    episode = read_episode(path)
    assert episode.truncated
    assert episode.task["environment"] == ALONE
    found = [query for _, query in episode.queries()]
    assert [query.chunk for query in found] == [tuple(map(tuple, one.tolist())) for one in answers]


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["openpi", "act"])
def test_what_the_server_saw_is_added_to_the_clients_queries(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--policy", "openvla"] if kind == "openpi" else []
    script = CLIENTS / f"{kind}_server.py"
    process, port = serve(script, *words, "--checkpoint", CHECKPOINT, watched=tmp_path / "out" / "server")
    watch = Watch(tmp_path / "out" / "client")
    watch.start()
    try:
        sent = [frame(seed, side=224) for seed in range(3)]
        if kind == "openpi":
            client = WebsocketClientPolicy("127.0.0.1", port)
            got = [client.infer({**observation(), "observation/image": one})["actions"][0] for one in sent]
        else:
            monkeypatch.setattr(json, "dumps", json_numpy.dumps)
            monkeypatch.setattr(json, "loads", json_numpy.loads)
            payload = [{"image": one, "instruction": TASK, "unnorm_key": "libero_object"} for one in sent]
            got = [requests.post(f"http://127.0.0.1:{port}/act", json=one).json() for one in payload]
        time.sleep(0.5)
    finally:
        process.terminate()
        process.wait()
        watch.close()
    client_side, server_side = (read_episode(find_traces(tmp_path / "out" / side)[0]) for side in ("client", "server"))
    # In another order than they were asked: content decides.
    merged = merge_server(client_side, Episode({}, {}, server_side.steps[::-1], server_side.outcome))
    found = [query for _, query in merged.queries()]
    assert len(found) == 3
    for (_, before), query, answer in zip(client_side.queries(), found, got, strict=True):
        assert not before.ids
        assert len(query.ids) == 7
        assert query.normalised is not None
        assert query.vision_calls == 1
        assert query.input_ids
        assert query.prompt == f"In: What action should the robot take to {TASK}?\nOut:"
        assert query.options["instruction"] == TASK
        assert query.action is not None
        np.testing.assert_allclose(query.action[:6], np.asarray(answer)[:6], rtol=0, atol=1e-6)
        answered = query.options["answered"][0] if kind == "openpi" else query.action
        np.testing.assert_array_equal(answered, np.asarray(answer, np.float64))
    assert "3 of 3 queries" in merged.notes[-1]


BOTH = """
{python} {folder}/{kind}_server.py {options} --checkpoint {checkpoint} --port 0 > server.log 2>&1 &
trap "kill $!" EXIT
until port=$(grep -oE '^serving on .*' server.log | grep -oE '[0-9]{{4,5}}'); do kill -0 $! && sleep 0.1 || exit 9; done
{python} {folder}/{kind}_eval.py {client} --max-steps 6
"""


@pytest.mark.simulator
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "fault", "code"),
    [
        ("openpi", None, None),
        ("openpi", ("openpi_server.py", "?\\nOut:", "? Out:"), "VD301"),
        ("act", ("act_eval.py", '["agentview_image"][::-1, ::-1]', '["agentview_image"][::-1]'), "VD201"),
    ],
    ids=["healthy", "in the server", "in the client"],
)
def test_a_loop_in_two_processes_is_judged_as_one(
    kind: str, fault: tuple[str, str, str] | None, code: str | None, tmp_path: Path
) -> None:
    folder = tmp_path / "clients"
    shutil.copytree(CLIENTS, folder)
    if fault is not None:
        path, healthy, broken = folder / fault[0], fault[1], fault[2]
        assert path.read_text().count(healthy) == 1
        path.write_text(path.read_text().replace(healthy, broken))
    home = subprocess.run(
        [sys.executable, CLIENTS / "libero_home.py", tmp_path / "home"], capture_output=True, text=True, check=True
    )
    variables = dict(line.removeprefix("export ").split("=", 1) for line in home.stdout.splitlines())
    script = tmp_path / "both.sh"
    script.write_text(
        BOTH.format(
            python=sys.executable,
            folder=folder,
            kind=kind,
            checkpoint=CHECKPOINT,
            options="--policy openvla" if kind == "openpi" else "",
            client="--port $port" if kind == "openpi" else "--url http://127.0.0.1:$port/act",
        )
    )
    ended = watched(["bash", script], tmp_path, env={name: value.strip("'") for name, value in variables.items()})
    found = json.loads((ended.folder / "report.json").read_text())
    assert ended.status == (0 if code is None else 1), ended.err
    assert found["run"]["profile"]["name"] == "openvla-libero"
    (one,) = found["episodes"]
    assert [finding["code"] for finding in one["findings"]] == ([] if code is None else [code])
    assert "1 recording of the policy alone" in ended.err


def episode(queries: list[Query]) -> Episode:
    steps = [Step(number, query=query, timings={"forward": 1.0}) for number, query in enumerate(queries)]
    return Episode({}, {}, steps, Outcome("horizon", False, len(steps)))


def picture(seed: int) -> Frame:
    return Frame((64, 64), lambda: frame(seed))


def distance(picture: Frame, array: np.ndarray) -> float:
    return float(np.abs(picture.thumbnail.astype(float) - array).mean())


def test_queries_are_matched_by_content() -> None:
    actions = [tuple(np.random.default_rng(seed).normal(size=7)) for seed in range(5)]
    client = episode([Query(action=action) for action in actions])
    order = [3, 1, 4, 0]
    # The gripper was mapped on the way, and the fifth was never seen.
    server = episode([Query(action=(*actions[n][:6], 0.0), ids=(n, n), vision_calls=1) for n in order])
    merged = merge_server(client, server)
    assert [query.ids for _, query in merged.queries()] == [(0, 0), (1, 1), (), (3, 3), (4, 4)]
    assert [query.vision_calls for _, query in merged.queries()] == [1, 1, None, 1, 1]
    assert merged.notes[-1].startswith("4 of 5")
    assert merged.steps[0].timings == {"forward": 1.0, "server forward": 1.0}
    # ids and action are of the same boundary, what the program got stays.
    query = merged.steps[0].query
    assert query is not None
    assert query.action == (*actions[0][:6], 0.0)
    assert query.chunk == ()
    assert query.options["answered"] == [list(actions[0])]


def test_equal_answers_are_told_apart_by_their_pictures() -> None:
    client = episode([Query(action=(0.0, 0.0), image=picture(seed)) for seed in range(4)])
    server = episode([Query(action=(0.0, 0.0), image=picture(seed), ids=(seed,)) for seed in (2, 0, 3, 1)])
    assert [query.ids for _, query in merge_server(client, server).queries()] == [(0,), (1,), (2,), (3,)]


def test_without_an_equal_action_the_same_question_matches() -> None:
    client = episode([Query(action=(9.0, 9.0), image=picture(n), proprio={"state": (n,)}) for n in range(3)])
    server = episode([Query(image=picture(n), proprio={"state": (n,)}, input_ids=(n,)) for n in (2, 1)])
    assert [query.input_ids for _, query in merge_server(client, server).queries()] == [(), (1,), (2,)]


def test_another_servers_trace_changes_nothing() -> None:
    client = episode([Query(action=(0.5, 0.25), image=picture(0), prompt="one")])
    server = episode([Query(action=(0.1, 0.25), image=picture(0), prompt="two", ids=(1,))])
    assert merge_server(client, server) is client


# Given as data.


def test_token_lists_are_queries(watch: Watch) -> None:
    given(watch, prompt=TASK, image=frame(), token_ids=[31800, 31900], action=ACTION, state={"joints": [1, 2]})
    (query,) = queries(watch)
    assert query.boundary == "given"
    assert (query.prompt, query.ids, query.action) == (TASK, (31800, 31900), tuple(ACTION))
    assert query.normalised is None
    assert query.proprio == {"joints": (1.0, 2.0)}
    assert query.image is not None
    np.testing.assert_array_equal(query.image.full, frame())


def test_a_batch_of_token_lists_is_several_queries(watch: Watch) -> None:
    given(
        watch,
        prompt=["one", "two"],
        image=np.stack([frame(0), frame(1)]),
        images={"wrist": [frame(2), frame(3)]},
        token_ids=[[1, 2], [3]],
        action=np.array([ACTION, ACTION[::-1]]),
        options={"temperature": 0},
    )
    found = queries(watch)
    assert [query.prompt for query in found] == ["one", "two"]
    assert [query.ids for query in found] == [(1, 2), (3,)]
    assert [query.action for query in found] == [tuple(ACTION), tuple(ACTION[::-1])]
    for seed, query in enumerate(found):
        assert query.options["temperature"] == 0
        assert query.image is not None
        assert distance(query.image, frame(seed)) < 3 < distance(query.image, frame(1 - seed))
        assert distance(query.more_images["wrist"], frame(seed + 2)) < 3


def test_what_cannot_be_read_is_noted(watch: Watch) -> None:
    given(watch, image="no picture", token_ids=[1], action="none")
    (query,) = queries(watch)
    assert (query.image, query.action, query.ids) == (None, None, (1,))
    assert watch.errors == ["given: no picture among what was given as one"]


def test_vllm_of_the_same_shape(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("vllm.entrypoints.llm")

    class LLM:
        def generate(self, prompts: Any, sampling_params: Any = None) -> list[Any]:
            return [
                SimpleNamespace(
                    prompt=one["prompt"], prompt_token_ids=[1, 2], outputs=[SimpleNamespace(token_ids=(31800 + n,))]
                )
                for n, one in enumerate(prompts)
            ]

    module.LLM = LLM  # type: ignore[attr-defined]
    from vladoctor.taps.libraries.vllm import HOOKS

    for undo in HOOKS["vllm.entrypoints.llm"](module):
        watch.attach(undo)
    prompts = [{"prompt": f"task {n}", "multi_modal_data": {"image": Image.fromarray(frame(n))}} for n in range(2)]
    LLM().generate(prompts)
    LLM().generate([{"prompt": "no picture"}])
    found = queries(watch)
    assert [(query.prompt, query.ids, query.input_ids) for query in found] == [
        ("task 0", (31800,), (1, 2)),
        ("task 1", (31801,), (1, 2)),
    ]
    assert all(query.image is not None and query.image.shape == (64, 64) for query in found)
    watch.close()
    assert not hasattr(LLM.generate, "__wrapped__")


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (frame(), frame()),
        (frame().transpose(2, 0, 1), frame()),
        (frame() / np.float32(255), frame()),
        (frame().transpose(2, 0, 1) / 255.0, frame()),
        (frame() / 127.5 - 1.0, frame()),
        (frame().astype(np.float32), frame()),
        (frame().astype(np.int64), frame()),
        (np.zeros((32, 32, 3), np.float32), np.zeros((32, 32, 3), np.uint8)),
        ((frame() / 255.0 - 0.45) / 0.22, None),
        (np.full((32, 32, 3), np.nan), None),
        (frame().astype(np.int64) * 2, None),
        (np.zeros((32, 32)), None),
        (np.zeros((8, 8, 3), np.uint8), None),
    ],
)
def test_pictures_come_in_many_forms(array: np.ndarray, expected: np.ndarray | None) -> None:
    found = as_picture(array)
    if expected is None:
        assert found is None
    else:
        np.testing.assert_array_equal(found, expected)


def test_sorting_takes_nothing_for_what_it_is_not() -> None:
    found = sort(
        {
            "video": {"ego": frame()[None, None]},
            "state.arm": np.zeros((1, 7)),
            "depth": np.zeros((64, 64), np.float32),
            "annotation.task_description": ["pick"],
            "reset": False,
            "words": ["a", "b"],
            "bytes": b"abc",
            "nothing": None,
            "object": object(),
        }
    )
    assert list(found.pictures) == ["video/ego"]
    assert found.vectors == {"state.arm": (0.0,) * 7}
    assert found.instruction() == ("annotation.task_description", "pick")
    assert found.others == {"reset": False}


@pytest.mark.parametrize("answer", ["error", None, {}, [], [[]], [1], {"text": "a"}, [True, False], "[1", [["a", "b"]]])
def test_what_is_no_action_is_none(answer: Any) -> None:
    assert rows(answer) == ()


def test_the_watch_costs_little(openpi_server: tuple[subprocess.Popen[str], int], watch: Watch) -> None:
    client = WebsocketClientPolicy("127.0.0.1", openpi_server[1])
    client.infer(observation())
    before, count = watch.tap.seconds, 50
    for seed in range(count):
        client.infer(observation(seed))
    assert (watch.tap.seconds - before) / count < 0.002
