"""The image pipeline of the official OpenVLA evaluation, without TensorFlow.

Source of every constant: openvla/openvla@c8f03f4, experiments/robot/libero/libero_utils.py:33-60 (rotation, JPEG,
Lanczos) and experiments/robot/openvla_utils.py:81-155 (crop). Frames are uint8 RGB arrays of shape (H, W, 3), row 0
at the top of the array; what is "up" in them is the renderer's business.
"""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image

CENTER_CROP_AREA = 0.9
"""Share of the *area* that the crop keeps; the side is sqrt(0.9) = 0.9487 of the image's."""

JPEG_QUALITY = 95
"""Default of tf.image.encode_jpeg, which the official evaluation calls without a quality."""


def rotate_180(frame: np.ndarray) -> np.ndarray:
    """Turn the frame by 180 degrees: LIBERO's raw frame to what OpenVLA's LIBERO fine-tunes were trained on."""
    return frame[::-1, ::-1]


def jpeg_round_trip(frame: np.ndarray) -> np.ndarray:
    """Encode as JPEG (quality 95, 4:2:0) and decode again, as the training data were stored."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(frame)).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling="4:2:0")
    return np.asarray(Image.open(buffer))


def resize_lanczos3(frame: np.ndarray, size: int) -> np.ndarray:
    """Resize to (size, size, 3) with an antialiased Lanczos kernel of 3 lobes."""
    image = Image.fromarray(np.ascontiguousarray(frame))
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS))


def center_crop(frame: np.ndarray, area: float = CENTER_CROP_AREA) -> np.ndarray:
    """Keep the central `area` share of the frame and resample it bilinearly to the frame's own size.

    Follows tf.image.crop_and_resize: corner-aligned sampling, i.e. output row 0 is input row `(1 - s) / 2 * (H - 1)`
    and the last one `(1 + s) / 2 * (H - 1)`, with s = sqrt(area). Values are rounded, where TensorFlow's conversion to
    integers cuts off after adding a little: they differ by one level at most.
    """
    side = math.sqrt(min(max(area, 0.0), 1.0))
    return crop_at(frame, (1.0 - side) / 2.0, (1.0 - side) / 2.0, side)


def crop_at(frame: np.ndarray, top: float, left: float, side: float) -> np.ndarray:
    """Crop a square window given in fractions of the frame and resample it bilinearly to the frame's own size."""
    height, width = frame.shape[:2]
    rows = (top + side * np.linspace(0.0, 1.0, height)) * (height - 1)
    cols = (left + side * np.linspace(0.0, 1.0, width)) * (width - 1)
    values = _interpolate(_interpolate(frame.astype(np.float32), rows, 0), cols, 1)
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _interpolate(values: np.ndarray, positions: np.ndarray, axis: int) -> np.ndarray:
    low = np.clip(np.floor(positions).astype(int), 0, values.shape[axis] - 1)
    high = np.minimum(low + 1, values.shape[axis] - 1)
    shape = [1] * values.ndim
    shape[axis] = -1
    weight = (positions - low).astype(np.float32).reshape(shape)
    return np.take(values, low, axis) * (1 - weight) + np.take(values, high, axis) * weight
