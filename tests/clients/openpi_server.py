"""A policy server that speaks openpi's websocket protocol.

    python openpi_server.py --policy scripted --port 8000
    python openpi_server.py --policy openvla --checkpoint PATH --port 8000

Protocol: on connection the server sends its metadata; then every binary message is an observation (msgpack with numpy
arrays) and is answered by a dict with "actions", float64 (horizon, 7). An error goes back as text, before the close.
GET /healthz answers OK.
"""

from __future__ import annotations

import argparse
import asyncio
import http
import logging
import time
import traceback
from typing import Any, Protocol

import numpy as np
from openpi_client import msgpack_numpy
from PIL import Image
from websockets.asyncio.server import Request, Response, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

log = logging.getLogger("policy-server")


class Policy(Protocol):
    metadata: dict[str, Any]

    def infer(self, obs: dict[str, Any]) -> dict[str, Any]: ...


class Waypoints:
    """Moves the hand along four fixed points, from the proprioceptive state alone."""

    POINTS = np.array([[-0.05, -0.24, 1.15], [-0.05, -0.24, 1.02], [-0.05, 0.0, 1.2], [0.0, 0.25, 1.2]])

    def __init__(self, horizon: int) -> None:
        self.horizon, self.target = horizon, 0
        self.metadata = {"policy": "waypoints", "action_horizon": horizon, "action_dim": 7}

    def infer(self, obs: dict[str, Any]) -> dict[str, Any]:
        hand = np.asarray(obs["observation/state"], dtype=np.float64)[:3].copy()
        actions = np.zeros((self.horizon, 7))
        for row in actions:
            gap = self.POINTS[self.target] - hand
            if np.linalg.norm(gap) < 0.02:
                self.target = (self.target + 1) % len(self.POINTS)
            row[:3] = np.clip(8.0 * gap, -1.0, 1.0)
            row[6] = 1.0 if self.target in (2, 3) else -1.0
            hand += 0.012 * row[:3]
        return {"actions": actions}


class OpenVLA:
    """A single-step policy behind a chunked interface: its action, repeated with less and less confidence."""

    def __init__(self, checkpoint: str, unnorm_key: str, horizon: int, fade: float) -> None:
        import transformers

        auto = getattr(transformers, "AutoModelForVision2Seq", None) or transformers.AutoModelForImageTextToText
        self.processor = transformers.AutoProcessor.from_pretrained(checkpoint, trust_remote_code=True)
        self.model = auto.from_pretrained(checkpoint, trust_remote_code=True).float().eval()
        self.side = int(self.model.config.image_sizes[0])
        self.unnorm_key, self.horizon, self.fade = unnorm_key, horizon, fade
        self.metadata = {"policy": "openvla", "action_horizon": horizon, "action_dim": 7, "unnorm_key": unnorm_key}

    def infer(self, obs: dict[str, Any]) -> dict[str, Any]:
        frame = np.asarray(obs["observation/image"])
        width = frame.shape[1]
        margin = width * (1 - 0.9**0.5) / 2
        box = (margin, margin, width - margin, width - margin)
        picture = Image.fromarray(frame).resize((self.side, self.side), Image.Resampling.LANCZOS, box=box)
        prompt = f"In: What action should the robot take to {obs['prompt'].lower()}?\nOut:"
        action = self.model.predict_action(
            **self.processor(prompt, picture), unnorm_key=self.unnorm_key, do_sample=False
        )
        chunk = np.repeat(np.asarray(action, dtype=np.float64)[None], self.horizon, axis=0)
        chunk[:, :6] *= self.fade ** np.arange(self.horizon)[:, None]
        chunk[:, 6] = np.where(chunk[:, 6] > 0.5, -1.0, 1.0)
        return {"actions": chunk}


class Server:
    def __init__(self, policy: Policy, host: str, port: int) -> None:
        self.policy, self.host, self.port = policy, host, port

    async def run(self) -> None:
        settings: dict[str, Any] = {"compression": None, "max_size": None, "process_request": self._health}
        async with serve(self._talk, self.host, self.port, **settings) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            print(f"serving on ws://{self.host}:{port}", flush=True)
            await server.serve_forever()

    async def _talk(self, connection: ServerConnection) -> None:
        log.info("connected: %s", connection.remote_address)
        packer = msgpack_numpy.Packer()
        await connection.send(packer.pack(self.policy.metadata))
        whole = None
        while True:
            try:
                message = await connection.recv()
                begun = time.monotonic()
                answer = self.policy.infer(msgpack_numpy.unpackb(message))
                answer["server_timing"] = {"infer_ms": (time.monotonic() - begun) * 1e3}
                if whole is not None:
                    answer["server_timing"]["prev_total_ms"] = whole * 1e3
                await connection.send(packer.pack(answer))
                whole = time.monotonic() - begun
            except ConnectionClosed:
                log.info("gone: %s", connection.remote_address)
                return
            except Exception:
                await connection.send(traceback.format_exc())
                await connection.close(CloseCode.INTERNAL_ERROR, "see the message before")
                raise

    @staticmethod
    def _health(connection: ServerConnection, request: Request) -> Response | None:
        return connection.respond(http.HTTPStatus.OK, "OK\n") if request.path == "/healthz" else None


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--policy", choices=["scripted", "openvla"], default="scripted")
    parser.add_argument("--checkpoint", default="")
    parser.add_argument("--unnorm-key", default="libero_object")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0: any free one, printed")
    parser.add_argument("--horizon", type=int, default=10)
    parser.add_argument("--fade", type=float, default=0.8, help="factor from one action of a chunk to the next")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    policy: Policy = Waypoints(args.horizon)
    if args.policy == "openvla":
        policy = OpenVLA(args.checkpoint, args.unnorm_key, args.horizon, args.fade)
    asyncio.run(Server(policy, args.host, args.port).run())


if __name__ == "__main__":
    main()
