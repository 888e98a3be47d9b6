"""Run a Python program and note when its environment is stepped; knows nothing of vladoctor, so that both can be timed.

    python benchmarks/step_timer.py MODULE:CLASS OUT.json SCRIPT ARGUMENTS...

Writes the moments (seconds) at which CLASS.step was entered, in steps of the outermost call.
"""

from __future__ import annotations

import atexit
import functools
import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from types import ModuleType
from typing import Any

from wrapt import register_post_import_hook


def main() -> None:
    target, out, script = sys.argv[1:4]
    module, _, name = target.partition(":")
    moments: list[float] = []

    def hook(loaded: ModuleType) -> None:
        cls = getattr(loaded, name)
        original: Callable[..., Any] = cls.step

        @functools.wraps(original)
        def step(self: Any, *args: Any, **kwargs: Any) -> Any:
            moments.append(perf_counter())
            return original(self, *args, **kwargs)

        cls.step = step

    register_post_import_hook(hook, module)
    atexit.register(lambda: Path(out).write_text(json.dumps(moments), encoding="utf-8"))
    sys.argv = sys.argv[3:]
    sys.path[0] = str(Path(script).resolve().parent)
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
