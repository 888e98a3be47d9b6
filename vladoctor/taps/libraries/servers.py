"""Servers, of which one thing is to be known: that this process answers others, who may end it at any moment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from vladoctor.taps.patch import Undo, wrap_classes
from vladoctor.taps.watch import current


def _tap(original: Callable[..., Any]) -> Callable[..., Any]:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        watch = current()
        if watch is not None:
            with watch.tap:
                watch.serve()
        return original(self, *args, **kwargs)

    return call


def _hook(name: str, method: str) -> Callable[[ModuleType], Sequence[Undo]]:
    return lambda module: [wrap_classes(getattr(module, name), {method: _tap})]


HOOKS = {
    "socketserver": _hook("BaseServer", "serve_forever"),  # http.server, Flask
    "uvicorn.config": _hook("Config", "load"),  # FastAPI; called by `Server.serve`, which is a coroutine
    "websockets.asyncio.server": _hook("Server", "__init__"),
    "websockets.sync.server": _hook("Server", "__init__"),
}
