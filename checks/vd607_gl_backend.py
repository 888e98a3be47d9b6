"""Frames are drawn by another backend than was asked for, or by the CPU although there is a GPU.

## What it looks at

The variables of the environment that choose how MuJoCo draws, as they are and as they may be misspelt; the backend
that robosuite or mujoco took when it was imported; and what GL says of itself in the thread that draws.

## Why it is bad

Backends differ in speed by a factor of four and in single pixels; a run that was meant for the GPU and is drawn by the
CPU takes hours longer, and an OpenGL that was not chosen is the first suspect where frames are black or noise.
`MUJOCO_GL` is read once, at import: set later it changes nothing, without a word. So does a name with a typing error.

## Evidence

`asked`, `backend`, `renderer`. Severity is always look: policies bear other pixels well, and all backends draw the
same scene (EGL on the CPU and OSMesa to the bit). Software rendering is reported only where NVIDIA's devices are
visible in /dev.

## Fix

Set the variable in the shell, or before anything is imported:

```python
import os
os.environ["MUJOCO_GL"] = "egl"      # first of all
import libero, robosuite, mujoco
```
In a container GL needs its own permission besides CUDA: `NVIDIA_DRIVER_CAPABILITIES=all` (or
`graphics,compute,utility`).

## Known gaps

GPUs of other makers, and other simulators than MuJoCo. What GL says is read only where its context is current in the
thread that resets the environment.

## References

- google-deepmind/mujoco#863: `MUJUCO_GL`; noise on the second run.
- ARISE-Initiative/robosuite#393: the variable set in the script, the GPU unused.
- ARISE-Initiative/robosuite#616: would glx in place of egl change the result?
- openvla/openvla#223, lovellai-dev/odyssey#61: the backend blamed, and not guilty.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from vladoctor.check import Abstention, Check, Clear, Fault, Problem, Severity, Stage, Verdict

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.lint.facts import SourceFacts

SOFTWARE = ("llvmpipe", "softpipe", "swrast", "swr ", "software", "osmesa")
"""Parts of the names of renderers that draw on the CPU."""

BACKENDS = {"egl": "egl", "osmesa": "osmesa", "glfw": "glfw", "glx": "glfw"}
"""Values of MUJOCO_GL -> the backend that they stand for; robosuite opens GLFW's windows for glx."""


def judge(facts: Facts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Compare what was asked for with what is in use."""
    gl: Any = facts.episode.task.get("gl")
    if not isinstance(gl, Mapping) or not gl.get("backend"):
        yield Abstention("how frames are drawn was not recorded, or not by MuJoCo")
        return
    backend, renderer = str(gl["backend"]), str(gl.get("renderer") or "")
    in_use = f"{backend} ({renderer})" if renderer else backend
    found = list(_problems(gl, backend, renderer, in_use, facts))
    yield from found
    if not found:
        yield Clear(f"frames are drawn by {in_use}", {"backend": backend, "renderer": renderer})


def _problems(gl: Mapping[str, Any], backend: str, renderer: str, in_use: str, facts: Facts) -> Iterator[Problem]:
    first = facts.episode.steps[0].number if facts.episode.steps else 0
    asked = gl.get("asked") or {}
    wanted = BACKENDS.get(str(asked.get("MUJOCO_GL", "")).strip().lower())
    for name, meant in (gl.get("misspelt") or {}).items():
        yield Problem(
            message=f"The variable {name} is set, which nothing reads; {meant} may be meant. Frames are drawn by "
            f"{in_use}.",
            remedy=f"Write `{meant}`, or take {name} away.",
            severity=Severity.LOOK,
            first_step=first,
            evidence={"expected": str(meant), "seen": str(name), "backend": backend, "renderer": renderer},
        )
    if wanted is not None and wanted != backend:
        yield Problem(
            message=f"MUJOCO_GL asks for {asked['MUJOCO_GL']}, and frames are drawn by {in_use}: it was set when "
            "MuJoCo had been imported already, and is read only then.",
            remedy='Set it in the shell, or before any import: `os.environ["MUJOCO_GL"] = ...` in the first lines of '
            "the program.",
            severity=Severity.LOOK,
            first_step=first,
            evidence={"expected": wanted, "seen": backend, "renderer": renderer},
        )
    software = backend == "osmesa" or any(name in renderer.lower() for name in SOFTWARE)
    if software and gl.get("gpus") and wanted != "osmesa":
        yield Problem(
            message=f"Frames are drawn by the CPU, {in_use}, although there is a GPU ({', '.join(gl['gpus'][:4])}): "
            "several times slower, and a few pixels differ.",
            remedy="Where that is not meant, give GL access to the GPU: `MUJOCO_GL=egl`, NVIDIA's libEGL "
            "(libnvidia-gl or the driver's own), and in a container `NVIDIA_DRIVER_CAPABILITIES=all`.",
            severity=Severity.LOOK,
            first_step=first,
            evidence={"expected": "the GPU", "seen": in_use},
        )


def _set_variable(name: str, value: str) -> Callable[[], Callable[[], None]]:
    """Set a variable where scripts often do: behind the imports."""

    def before() -> Callable[[], None]:
        import robosuite  # noqa: F401

        old = os.environ.get(name)
        os.environ[name] = value

        def undo() -> None:
            if old is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = old

        return undo

    return before


def judge_source(facts: SourceFacts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Look for a backend that is asked for after the simulator has read the variable."""
    late = [one for one in facts.workarounds if one.kind == "late-gl"]
    for one in late:
        yield Problem(
            message=f"{one.detail}: the backend was chosen on import, and this changes nothing.",
            remedy="Set it before the first import of the simulator, or in the shell.",
            severity=Severity.FIX,
            place=one.place,
        )
    if not late:
        yield Abstention("the source asks for no backend too late")


CHECK = Check(
    code="VD607",
    name="gl-backend",
    stage=Stage.RENDER,
    judge=judge,
    judge_source=judge_source,
    needs=(Stage.RENDER,),
    faults=(
        Fault(
            "gl-late",
            "MUJOCO_GL set behind the imports",
            before_env=_set_variable("MUJOCO_GL", "osmesa"),
        ),
        Fault(
            "gl-misspelt",
            "the variable's name misspelt",
            before_env=_set_variable("MUJUCO_GL", "osmesa"),
            reports=("google-deepmind/mujoco#863",),
        ),
    ),
)
