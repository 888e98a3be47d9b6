"""Policies behind HTTP: requests that carry a picture, sent by requests or httpx.

The payload is taken from the arguments of the call, the answer from the response once the library has read it: a
streamed response is left alone. A request is a query if a picture goes out with an instruction, or an action comes
back; all others pass.
"""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from vladoctor.taps.given import Question, Sorted, parse, rows, sort
from vladoctor.taps.patch import Undo, wrap_classes
from vladoctor.taps.recorder import describe
from vladoctor.taps.watch import Watch, current

_BODIES = ("json", "data", "content", "files")
_LARGEST_ANSWER = 1 << 20


def _tap(original: Callable[..., Any]) -> Callable[..., Any]:
    names = list(inspect.signature(original).parameters)[1:]

    def request(self: Any, *args: Any, **kwargs: Any) -> Any:
        watch = current()
        if watch is None:
            return original(self, *args, **kwargs)
        arguments = {**dict(zip(names, args, strict=False)), **kwargs}
        if all(arguments.get(name) is None for name in _BODIES):
            return original(self, *args, **kwargs)
        found = None
        with watch.tap:
            found = sort(_payload(arguments))
        if found is None or not found.pictures:
            return original(self, *args, **kwargs)
        question: _Asked | None = None
        with watch.tap:
            question = _Asked(watch, found, str(arguments.get("method")).upper(), str(arguments.get("url")))
        began = perf_counter()
        try:
            response = original(self, *args, **kwargs)
        except BaseException as error:
            if question is not None:
                with watch.tap:
                    question.raised(error, perf_counter() - began)
            raise
        elapsed = perf_counter() - began
        if question is not None and watch.active:
            with watch.tap:
                question.responded(response, elapsed)
            watch.mark("answered")
        return response

    return request


class _Asked:
    """A request that carries a picture."""

    def __init__(self, watch: Watch, found: Sorted, method: str, url: str) -> None:
        parts = urlsplit(url)
        instruction = found.instruction()
        self.watch = watch
        self.instructed = instruction is not None
        self.boundary = f"{method} {parts.path or '/'}"
        self.question = Question(watch, self.boundary, found, server=f"{parts.hostname}:{parts.port or parts.scheme}")
        if instruction is not None:
            # It is no prompt: that is made by the server.
            options = {name: value for name, value in self.question.query.options.items() if name != instruction[0]}
            self.question.query.options = {"instruction": instruction[1], **options}

    def raised(self, error: BaseException, elapsed: float) -> None:
        if self.instructed:
            self.watch.called(self.boundary, raised=describe(error))
            self.watch.took("forward", elapsed)
            self.question.answered(())

    def responded(self, response: Any, elapsed: float) -> None:
        status = getattr(response, "status_code", None)
        # The attribute of both libraries that `content` fills; asking for `content` would read a stream.
        content = getattr(response, "_content", None)
        if not isinstance(content, bytes):
            answer, problem = None, "not read"
        else:
            answer = parse(content) if len(content) <= _LARGEST_ANSWER else None
            problem = repr(answer)[:200] if isinstance(answer, str) else ""
        actions = rows(answer)
        if not actions and status is not None and status >= 400:
            problem = f"status {status}"
        if not actions and not (self.instructed and problem):
            return
        self.watch.took("forward", elapsed)
        if not actions:
            self.watch.called(self.boundary, answered=problem)
        self.question.answered(actions)


def _payload(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What goes out, as one dict."""
    payload: dict[str, Any] = {}
    for name in _BODIES:
        body = arguments.get(name)
        if name == "files":
            items = list(body.items() if isinstance(body, Mapping) else body or ())
            body = {str(item[0]): _file(item[1]) for item in items}
        elif isinstance(body, (bytes, str)) and body[:1] in ("{", b"{"):
            body = parse(body)
        if isinstance(body, Mapping):
            payload.update(body)
    return payload


def _file(value: Any) -> bytes | None:
    """The content of a file that is sent; one that would have to be read is left alone."""
    if isinstance(value, (tuple, list)) and len(value) > 1:
        value = value[1]
    return value.getvalue() if isinstance(value, io.BytesIO) else value if isinstance(value, bytes) else None


def _hook(name: str) -> Callable[[ModuleType], Sequence[Undo]]:
    return lambda module: [wrap_classes(getattr(module, name), {"request": _tap})]


HOOKS = {
    "requests.sessions": _hook("Session"),
    "httpx._client": _hook("Client"),
    "httpx2._client": _hook("Client"),
}
