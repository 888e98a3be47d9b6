"""OpenVLA behind a USB camera, on a WidowX."""

import cv2
import torch
from PIL import Image
from transformers import AutoModelForVision2Seq, AutoProcessor
from widowx_envs.widowx_env_service import WidowXClient

CHECKPOINT = "openvla/openvla-7b"
INSTRUCTION = "put the carrot on the plate"  # expect: VD301


def main(steps=60):
    processor = AutoProcessor.from_pretrained(CHECKPOINT, trust_remote_code=True)
    vla = AutoModelForVision2Seq.from_pretrained(CHECKPOINT, torch_dtype=torch.bfloat16, trust_remote_code=True)
    vla = vla.to("cuda").eval()
    robot = WidowXClient(host="localhost", port=5556)
    robot.reset()
    camera = cv2.VideoCapture(0)
    prompt = INSTRUCTION
    for _ in range(steps):
        ok, frame = camera.read()
        if not ok:
            break
        image = Image.fromarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
        inputs = processor(prompt, image).to("cuda", dtype=torch.bfloat16)
        action = vla.predict_action(**inputs, unnorm_key="bridge_orig", do_sample=False)
        robot.step_action(action, blocking=False)


if __name__ == "__main__":
    main()
