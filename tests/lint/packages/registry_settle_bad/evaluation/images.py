"""Pictures, as the checkpoint wants them."""

import io

import numpy as np
from PIL import Image


def through_jpeg(image):
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=95)
    buffer.seek(0)
    return Image.open(buffer).convert("RGB")


def centre_crop(image, area=0.9):
    width, height = image.size
    new_width, new_height = int(width * area**0.5), int(height * area**0.5)
    left, top = (width - new_width) // 2, (height - new_height) // 2
    return image.crop((left, top, left + new_width, top + new_height)).resize((width, height), Image.BILINEAR)


def frame_of(obs, camera="agentview"):
    frame = obs[f"{camera}_image"]
    return frame[::-1, ::-1]


def prepare(obs, size=224):
    return through_jpeg(Image.fromarray(frame_of(obs))).resize((size, size), Image.LANCZOS)
