"""Calls a function as a program of its own: `python -m vladoctor.launch.call package.module:function '{"seed": 1}'`.

`-m` puts the current folder on the path, so that modules are found there. What the function returns does not matter.
"""

from __future__ import annotations

import json
import sys
from functools import reduce
from importlib import import_module


def main(target: str, arguments: str) -> None:
    """Import the module, find the function in it and call it."""
    module, _, name = target.partition(":")
    reduce(getattr, name.split("."), import_module(module))(**json.loads(arguments))  # type: ignore[operator]


if __name__ == "__main__":
    main(*sys.argv[1:])
