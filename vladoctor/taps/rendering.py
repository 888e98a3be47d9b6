"""How MuJoCo draws in this process: what was asked for, what is in use, and on what. Only reads."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any

VARIABLES = ("MUJOCO_GL", "PYOPENGL_PLATFORM", "MUJOCO_EGL_DEVICE_ID")
"""Variables of the environment that choose how MuJoCo and robosuite draw."""

_GL_LIBRARIES = ("libOpenGL.so.0", "libGL.so.1")
"""GLVND's: without a current context `glGetString` gives nothing there."""

_VENDOR, _RENDERER = 0x1F00, 0x1F01

_ALIKE = 0.85
"""Names of variables this much alike are taken for one misspelt."""


def gl_facts() -> dict[str, Any]:
    """How this process draws.

    Returns:
        asked: the variables that are set now; misspelt: name of a variable -> the one that may be meant; backend:
        "egl", "osmesa", "glfw" or "" (not known); renderer, vendor: what GL says, where a context is current in this
        thread, or ""; gpus: device files of NVIDIA's GPUs.
    """
    backend = _backend()
    names = {} if backend == "osmesa" else _strings()
    return {
        "asked": {name: os.environ[name] for name in VARIABLES if os.environ.get(name)},
        "misspelt": _misspelt(),
        "backend": backend,
        "renderer": names.get(_RENDERER, ""),
        "vendor": names.get(_VENDOR, ""),
        "gpus": sorted(str(device) for device in Path("/dev").glob("nvidia[0-9]*")),
    }


def _misspelt() -> dict[str, str]:
    """Variables whose names are nearly those of `VARIABLES`."""
    found = {}
    for name in os.environ:
        if "GL" in name.upper() and name not in VARIABLES:
            near = get_close_matches(name.upper(), VARIABLES, 1, _ALIKE)
            if near:
                found[name] = near[0]
    return found


def _backend() -> str:
    """The one whose context class was chosen when robosuite, or else mujoco, was imported."""
    for module in ("robosuite.utils.binding_utils", "mujoco.gl_context"):
        chosen = getattr(getattr(sys.modules.get(module), "GLContext", None), "__module__", "")
        name = str(chosen).rsplit(".", 1)[-1].removesuffix("_context")
        if name in ("egl", "osmesa", "glfw"):
            return name
    return ""


def _strings() -> dict[int, str]:
    """What GL says of itself in this thread; no library is loaded for it."""
    for library in _GL_LIBRARIES:
        with suppress(OSError, AttributeError):
            get = ctypes.CDLL(library, mode=os.RTLD_NOLOAD | os.RTLD_LAZY).glGetString
            get.restype, get.argtypes = ctypes.c_char_p, (ctypes.c_uint,)
            found = {name: get(name) for name in (_VENDOR, _RENDERER)}
            if all(found.values()):
                return {name: text.decode("ascii", "replace") for name, text in found.items()}
    return {}
