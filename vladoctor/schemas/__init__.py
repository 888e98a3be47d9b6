"""The JSON Schemas (draft 2020-12) of what vladoctor reads and writes."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

NAMES = ("run", "report", "finding", "matrix", "preflight", "config", "lint")


def load_schema(name: str) -> dict[str, Any]:
    """One of `NAMES`, complete in itself: the schemas that it refers to are bundled in its `$defs`."""
    schema: dict[str, Any] = json.loads(files(__name__).joinpath(f"{name}.schema.json").read_text(encoding="utf-8"))
    if name in ("report", "preflight", "lint"):
        schema.setdefault("$defs", {})["finding"] = load_schema("finding")
    return schema
