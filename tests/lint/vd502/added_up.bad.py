"""OpenVLA on an xArm, absolute gripper positions."""

import math

import cv2
import torch
from PIL import Image
from transformers import AutoModelForVision2Seq, AutoProcessor
from xarm.wrapper import XArmAPI

processor = AutoProcessor.from_pretrained("openvla/openvla-7b", trust_remote_code=True)
vla = AutoModelForVision2Seq.from_pretrained("openvla/openvla-7b", torch_dtype=torch.bfloat16, trust_remote_code=True)
vla = vla.to("cuda").eval()
arm = XArmAPI("192.168.1.10")
camera = cv2.VideoCapture(0)
pose = [300.0, 0.0, 300.0, 180.0, 0.0, 0.0]
opening = 850.0
prompt = "In: What action should the robot take to pick up the blue cube?\nOut:"

while True:
    ok, frame = camera.read()
    if not ok:
        continue
    image = Image.fromarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
    inputs = processor(prompt, image).to("cuda", dtype=torch.bfloat16)
    action = vla.predict_action(**inputs, unnorm_key="bridge_orig", do_sample=False)
    for i in range(3):
        pose[i] += action[i] * 1000
        pose[3 + i] += action[3 + i] * 180 / math.pi
    opening += action[6] * 850  # expect: VD502
    arm.set_position(*pose, wait=False)
    arm.set_gripper_position(opening, wait=False)
