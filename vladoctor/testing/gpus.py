"""A GPU for each worker of pytest-xdist, by the variables that CUDA and MuJoCo's EGL read when they are first used.

Workers take turns over the GPUs that this process may use. Where there is one or none, nothing is set: an empty
CUDA_VISIBLE_DEVICES, the usual way to say "none", would keep robosuite from drawing, on the CPU too.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Mapping

import pytest

OPTIONS = ("report_dir", "profile", "select", "ignore", "fail_on")
DEVICES = "/dev"

_asked_late = pytest.StashKey[bool]()


def assign(config: pytest.Config) -> None:
    """Give this worker its GPU, in its environment, if the suite is one of vladoctor's or asks for it."""
    asked = wanted(config)
    if asked == "worker" or (asked == "auto" and any(_said(config, name) for name in OPTIONS)):
        os.environ.update(of_worker(config))


def assign_late(config: pytest.Config) -> None:
    """Give this worker its GPU where nothing was said before, if it is not too late; else say so, once."""
    if config.stash.get(_asked_late, False):
        return
    config.stash[_asked_late] = True
    variables = of_worker(config)
    late = [name for name in ("torch", "mujoco", "jax") if name in sys.modules]
    if variables and late and not all(os.environ.get(name) == value for name, value in variables.items()):
        warnings.warn(
            f"this worker has no GPU of its own, because {', '.join(late)} was imported before vladoctor was asked: "
            "say `vladoctor_gpus = worker` in the ini file, or `off`",
            pytest.PytestWarning,
            stacklevel=2,
        )
    else:
        os.environ.update(variables)


def of_worker(config: pytest.Config) -> dict[str, str]:
    """The variables that give this worker its GPU.

    Empty outside of pytest-xdist and where nothing is to be shared: a worker that has its GPU sees no other.
    """
    worker = getattr(config, "workerinput", {}).get("workerid", "")
    if not worker.startswith("gw") or wanted(config) == "off":
        return {}
    return for_number(int(worker[2:]), os.environ)


def for_number(number: int, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables for a worker by its number, from 0."""
    devices = visible(environment)
    if len(devices) < 2:
        return {}
    device = devices[number % len(devices)]
    found = {"CUDA_VISIBLE_DEVICES": device}
    if device.isdigit():
        # robosuite wants it to be one of CUDA_VISIBLE_DEVICES (robosuite 1.4.0, utils/binding_utils.py:29-35).
        found["MUJOCO_EGL_DEVICE_ID"] = device
    return found


def visible(environment: Mapping[str, str]) -> list[str]:
    """Names of the GPUs that a process with these variables may use, as CUDA_VISIBLE_DEVICES names them."""
    listed = environment.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        # A container has files only for the devices that it was given, and CUDA counts those from 0.
        files = [name for name in os.listdir(DEVICES) if name.startswith("nvidia") and name[6:].isdigit()]  # noqa: PTH208
        return [str(number) for number in range(len(files))]
    devices = [name.strip() for name in listed.split(",") if name.strip()]
    # CUDA reads the list up to the first device that does not exist.
    return devices[: devices.index("-1")] if "-1" in devices else devices


def wanted(config: pytest.Config) -> str:
    """What was said of GPUs: "auto", "worker" or "off"."""
    return config.getoption("vladoctor_gpus") or config.getini("vladoctor_gpus") or "auto"


def _said(config: pytest.Config, name: str) -> bool:
    return bool(config.getoption(f"vladoctor_{name}") or config.getini(f"vladoctor_{name}"))
