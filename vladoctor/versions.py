"""Which versions a loop ran with, and on what: read from metadata, without importing any of it."""

from __future__ import annotations

import importlib.metadata
import platform
import sys

LIBRARIES = (
    "vladoctor", "torch", "transformers", "tokenizers", "numpy", "mujoco", "robosuite", "hf-libero", "libero", "bddl",
    "pillow", "opencv-python", "opencv-python-headless", "timm", "gymnasium", "gym", "lerobot", "openpi-client", "jax",
    "dm-env", "dm-control", "json-numpy", "vllm",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of Python, the platform and the libraries that decide what a loop does."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for library in LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            # Put on the path by hand, as a copy without metadata.
            version = getattr(sys.modules.get(library), "__version__", None)
            if isinstance(version, str):
                found[library] = version
    return found


def device_name(device: str) -> str:
    """The device as a person would name it, e.g. "cuda (NVIDIA H200)"."""
    torch = sys.modules.get("torch")
    if torch is not None and device.startswith("cuda"):
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return device


def device_in_use() -> str | None:
    """What torch computes on in this process, as far as that can be seen from outside; None where there is no torch."""
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    return device_name("cuda") if torch.cuda.is_available() and torch.cuda.is_initialized() else "cpu"
