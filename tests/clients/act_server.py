"""OpenVLA behind POST /act, as its deployment script does it.

    python act_server.py --checkpoint PATH --port 8001

Takes {"image": uint8 array, "instruction": str, "unnorm_key": str}, arrays encoded by json_numpy, or all of it as one
string under "encoded"; answers with the action, or with the string "error" (and a traceback in its log).
"""

from __future__ import annotations

import argparse
import json
import logging
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import json_numpy
import torch
import transformers
from PIL import Image


class OpenVLAServer:
    def __init__(self, checkpoint: str) -> None:
        self.checkpoint = checkpoint
        self.device = "cuda:0" if torch.cuda.is_available() else "cpu"
        self.dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
        auto = getattr(transformers, "AutoModelForVision2Seq", None) or transformers.AutoModelForImageTextToText
        self.processor = transformers.AutoProcessor.from_pretrained(checkpoint, trust_remote_code=True)
        self.vla = auto.from_pretrained(checkpoint, trust_remote_code=True).to(self.device, self.dtype).eval()
        statistics = Path(checkpoint) / "dataset_statistics.json"
        if statistics.is_file():
            self.vla.norm_stats = json.loads(statistics.read_text())

    def act(self, payload: dict[str, Any]) -> Any:
        try:
            encoded = "encoded" in payload
            if encoded:
                payload = json.loads(payload["encoded"])
            prompt = self.prompt(payload["instruction"])
            picture = Image.fromarray(payload["image"]).convert("RGB")
            inputs = self.processor(prompt, picture).to(self.device, dtype=self.dtype)
            action = self.vla.predict_action(**inputs, unnorm_key=payload.get("unnorm_key"), do_sample=False)
            return json_numpy.dumps(action) if encoded else action
        except Exception:  # noqa: BLE001
            logging.error(traceback.format_exc())
            return "error"

    def prompt(self, instruction: str) -> str:
        return f"In: What action should the robot take to {instruction.lower()}?\nOut:"

    def serve(self, host: str, port: int) -> None:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if self.path != "/act":
                    self.send_error(404)
                    return
                answer = json.dumps(owner.act(json.loads(body))).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                pass

        with ThreadingHTTPServer((host, port), Handler) as server:
            print(f"serving on http://{host}:{server.server_address[1]}/act", flush=True)
            server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8001, help="0: any free one, printed")
    args = parser.parse_args()
    server = OpenVLAServer(args.checkpoint)
    json_numpy.patch()  # not earlier: json_numpy 2.1 breaks the import of scipy, and with it of transformers
    server.serve(args.host, args.port)


if __name__ == "__main__":
    main()
