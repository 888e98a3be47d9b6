"""What a run would run on, to paste into an issue: no names of people or hosts, no paths but the run file's own."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vladoctor.preflight import memory
from vladoctor.preflight.memory import GIB
from vladoctor.report.reported import without_paths
from vladoctor.runspec import RunSpec
from vladoctor.taps.rendering import gl_facts
from vladoctor.versions import versions

SHOWN = ("CUDA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", "LIBGL_ALWAYS_SOFTWARE", "OMP_NUM_THREADS")
"""Variables of the environment that decide how a run computes and draws; none holds a path or a secret. Those that
`taps.rendering` reads come to them."""


def machine(spec: RunSpec | None = None) -> dict[str, Any]:
    """System, processor, memory, GPUs, versions and the variables that decide how a run computes and draws."""
    found = versions()
    room = memory.available()
    gl = gl_facts()
    variables = {name: os.environ[name] for name in SHOWN if name in os.environ} | dict(gl["asked"])
    facts: dict[str, Any] = {
        "system": found.pop("platform"),
        "distribution": _distribution(),
        "python": found.pop("python"),
        "container": _container(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory": f"{room[0] / GIB:.1f} GiB {room[1]}" if room else None,
        "gpus": _gpus(),
        "variables": {name: without_paths(value) for name, value in variables.items()},
        "versions": found,
    }
    if spec is not None and spec.model is not None:
        facts["checkpoint"] = spec.model.path.name
    return {name: value for name, value in facts.items() if value not in (None, "", [], {})}


def markdown(facts: Mapping[str, Any]) -> str:
    """The same as a list for an issue."""
    lines = ["### Machine", ""]
    for name, value in facts.items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{key} {one}" if name == "versions" else f"{key}={one}" for key, one in value.items())
        elif isinstance(value, list):
            value = "; ".join(map(str, value))
        lines.append(f"- {name}: {value}")
    return "\n".join(lines)


def _distribution() -> str:
    try:
        return str(platform.freedesktop_os_release().get("PRETTY_NAME", ""))
    except (OSError, AttributeError):
        return ""


def _container() -> str:
    if Path("/.dockerenv").exists():
        return "docker"
    return "singularity" if "SINGULARITY_NAME" in os.environ or "APPTAINER_NAME" in os.environ else ""


def _cpu() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return platform.processor()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.M)
    return found[1].strip() if found else platform.machine()


def _gpus() -> list[str]:
    """As nvidia-smi names them; asks no library, since one that is imported here would stay."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = "--query-gpu=name,memory.total,memory.free,driver_version"
    try:
        done = subprocess.run(
            [program, query, "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=10,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []
