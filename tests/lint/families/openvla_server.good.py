"""A server of OpenVLA: what it is sent is upright already, and its client maps the gripper."""

import json_numpy
import torch
import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from PIL import Image
from transformers import AutoModelForVision2Seq, AutoProcessor

json_numpy.patch()


class Server:
    def __init__(self, path):
        self.processor = AutoProcessor.from_pretrained(path, trust_remote_code=True)
        self.vla = AutoModelForVision2Seq.from_pretrained(path, torch_dtype=torch.bfloat16, trust_remote_code=True)
        self.vla = self.vla.to("cuda").eval()

    def act(self, payload):
        image, instruction = payload["image"], payload["instruction"]
        prompt = f"In: What action should the robot take to {instruction.lower()}?\nOut:"
        inputs = self.processor(prompt, Image.fromarray(image).convert("RGB")).to("cuda", dtype=torch.bfloat16)
        action = self.vla.predict_action(**inputs, unnorm_key=payload.get("unnorm_key"), do_sample=False)
        return JSONResponse(action.tolist())

    def run(self):
        app = FastAPI()
        app.post("/act")(self.act)
        uvicorn.run(app, port=8000)


if __name__ == "__main__":
    Server("openvla/openvla-7b").run()
