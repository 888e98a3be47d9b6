"""How much memory a checkpoint takes, and how much this process may have."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from vladoctor.facts.system import BYTES
from vladoctor.snapshot import SIZES, Weights

GIB = 2**30

BESIDE = 0.75 * GIB
"""What a process takes beside the weights, with torch, transformers and a simulator in it. Measured: 0.95 GB with the
stand-ins and two cameras, of which some is the fixture's weights; 2 GB with LIBERO's own assets (docs/install.md)."""

ON_GPU = 0.5 * GIB
"""What a query takes on a GPU beside the weights. Measured: 14.1 GiB in use for 14.0 GiB of weights (7.5 B parameters,
bfloat16, one image, H200), and the CUDA context, which is not in that number."""


def needed(weights: Weights, dtype: str) -> int:
    """Bytes of the weights once they are loaded in `dtype`; integers stay as they are."""
    fixed = sum(count * SIZES.get(name, 1) for name, count in weights.dtypes.items() if "float" not in name)
    return weights.floats * BYTES.get(dtype, 4) + fixed


def available() -> tuple[int, str] | None:
    """Bytes of main memory that this process can still get, and what limits it; None where that is not known."""
    found = [one for one in (_machine(), _group(), _limit()) if one is not None]
    return min(found) if found else None


def _machine() -> tuple[int, str] | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024, "free in the machine"
    return None


def _group() -> tuple[int, str] | None:
    """The limit of a container or of a job's control group."""
    for limit, used, inactive in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
            "/sys/fs/cgroup/memory/memory.stat",
        ),
    ):
        with contextlib.suppress(OSError, ValueError):
            most = Path(limit).read_text("ascii").strip()
            if most == "max" or int(most) >= 1 << 60:
                continue
            counted = _table(Path(inactive).read_text("ascii"))
            # Pages of files can be given back.
            cached = counted.get("inactive_file", counted.get("total_inactive_file", 0))
            return int(most) - int(Path(used).read_text("ascii")) + cached, "left of the container's limit"
    return None


def _table(text: str) -> Mapping[str, int]:
    rows = (line.split() for line in text.splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) == 2}


def _limit() -> tuple[int, str] | None:
    """The shell's own limit (`ulimit -v`), less what this process has mapped."""
    try:
        import resource

        most = resource.getrlimit(resource.RLIMIT_AS)[0]
        if most == resource.RLIM_INFINITY:
            return None
        mapped = int(Path("/proc/self/statm").read_text("ascii").split()[0]) * os.sysconf("SC_PAGE_SIZE")
        return most - mapped, "left of the limit that ulimit -v sets"
    except (ImportError, OSError, ValueError):
        return None
