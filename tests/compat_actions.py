"""Prints greedy ids and actions of the tiny checkpoint as JSON, to be compared between transformers versions.

python tests/compat_actions.py [FOLDER] > actions.json
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image

PROMPT = "In: What action should the robot take to {}?\nOut:"
INSTRUCTIONS = (
    "pick up the alphabet soup and place it in the basket",
    "pick up the tomato sauce and place it in the basket",
    "open the drawer",
)


def load(folder: Path) -> tuple[Any, Any]:
    """Return processor and float32 model through the auto classes of whichever version is installed."""
    old = not hasattr(transformers, "AutoModelForImageTextToText")
    auto = transformers.AutoModelForVision2Seq if old else transformers.AutoModelForImageTextToText
    dtype = {"torch_dtype" if old else "dtype": torch.float32}
    processor = transformers.AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    return processor, auto.from_pretrained(folder, trust_remote_code=True, **dtype).eval()


def smooth_image(seed: int) -> Image.Image:
    """A seeded 128 px image with structure at several scales, in integers only so that it is the same everywhere."""
    rng = np.random.default_rng(seed)
    image = np.zeros((128, 128, 3), dtype=np.int64)
    for cells in (2, 8, 32):
        blocks = rng.integers(0, 85, size=(cells, cells, 3))
        image += np.kron(blocks, np.ones((128 // cells, 128 // cells, 1), dtype=np.int64))
    return Image.fromarray(image.astype(np.uint8))


def main() -> None:
    torch.set_num_threads(1)
    default = Path(__file__).resolve().parents[1] / "fixtures" / "tiny-openvla"
    processor, model = load(Path(sys.argv[1]) if len(sys.argv) > 1 else default)
    rows = []
    seconds = []
    for seed in range(4):
        for instruction in INSTRUCTIONS:
            inputs = processor(PROMPT.format(instruction), smooth_image(seed))
            mask = torch.ones(1, inputs["input_ids"].shape[1] + 1, dtype=torch.int64)
            ids = torch.cat([inputs["input_ids"], torch.tensor([[29871]])], dim=1)
            generated = model.generate(
                ids, attention_mask=mask, pixel_values=inputs["pixel_values"], max_new_tokens=7, do_sample=False
            )
            start = time.perf_counter()
            action = model.predict_action(**inputs, unnorm_key="libero_object", do_sample=False)
            seconds.append(time.perf_counter() - start)
            rows.append(
                {
                    "image_seed": seed,
                    "prompt_ids": inputs["input_ids"][0].tolist(),
                    "ids": generated[0, -7:].tolist(),
                    "action": [round(float(value), 9) for value in action],
                }
            )
    print(json.dumps(rows, indent=1))
    print(f"transformers {transformers.__version__}: median {1e3 * float(np.median(seconds)):.1f} ms", file=sys.stderr)


if __name__ == "__main__":
    main()
