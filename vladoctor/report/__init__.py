"""One renderer per file: JSON, terminal, HTML. Each takes a `RunResult` and judges nothing."""

from __future__ import annotations
