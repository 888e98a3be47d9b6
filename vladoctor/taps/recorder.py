"""Puts together what the taps see of one step, and writes it as soon as `env.step` has returned.

Rules that hold for every tap:

* A tap reads. What it wraps is called with the very arguments it was given and its result returned as the same object.
* An exception of the program passes through untouched. It is noted and raised on.
* An exception of ours never reaches the program: recording stops, all taps are removed, and `Recorder.errors` says why.
* Taps attach to instances, and what they change is put back by `detach`. A wrapper that somebody else has kept, or has
  wrapped in turn, stays in place as a plain call of the original.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from time import perf_counter, sleep
from types import TracebackType
from typing import Any

import numpy as np

from vladoctor.records import Outcome, Query, Step
from vladoctor.trace import Picture, TraceWriter, capture

CALLS = "vladoctor"
"""Key of `Step.info` under which calls other than `step` and `predict_action` are kept: {"calls": [{"call": ...}]}."""

_PATIENCE = 2.0
"""Seconds to wait at the end of the episode for values that are still on their way from the GPU."""

log = logging.getLogger("vladoctor")


class Recorder:
    """Collects steps from the taps of one episode.

    Attributes:
        writer: where the steps go. Its `close` is called by the recorder's.
        errors: why recording stopped, or what could not be recorded; one sentence each.
        active: whether the taps still record.
        tap: context for a tap's own code: measures its time and keeps its exceptions from the program.
        own_seconds: time spent in taps so far.
    """

    def __init__(self, writer: TraceWriter) -> None:
        self.writer = writer
        self.errors: list[str] = []
        self.active = True
        self.tap = _Guard(self)
        self.own_seconds = 0.0
        self._counted_seconds = 0.0
        self._detach: list[Callable[[], None]] = []
        self._marks: dict[str, float] = {}
        self._statm = _open_statm()
        self._number = 0
        self._frames: dict[str, Picture] = {}
        self._proprio: dict[str, tuple[float, ...]] = {}
        self._calls: list[dict[str, Any]] = []
        self._prompt: str | None = None
        self._query: Query | None = None
        self._complete: Callable[[], bool] | None = None
        self._executed: tuple[float, ...] = ()
        self._timings: dict[str, float] = {}
        self._memory: dict[str, int] = {}
        self._waiting: list[tuple[Step, Callable[[], bool]]] = []

    def attach(self, undo: Callable[[], None]) -> Callable[[], None]:
        """Register how to remove a tap; returns a call that does it, once."""

        def detach() -> None:
            if detach in self._detach:
                self._detach.remove(detach)
                undo()

        self._detach.append(detach)
        return detach

    def stop(self, reason: str) -> None:
        """Record nothing more, and say why."""
        if self.active:
            self.active = False
            self.errors.append(reason)
            log.warning(reason)
        for detach in reversed(self._detach):
            # What cannot be put back has become a plain call of the original.
            with suppress(Exception):
                detach()

    def note(self, problem: str) -> None:
        """Say, once, that something cannot be recorded, and go on."""
        if problem not in self.errors:
            self.errors.append(problem)
            log.warning(problem)

    def close(self, outcome: Outcome) -> None:
        """End the recording. If it stopped early, it ends without an outcome and will count as truncated."""
        with self.tap:
            if self.active and (self._query is not None or self._prompt is not None):
                # What the program was at when it ended, an exception most likely: nothing was executed.
                self._query = self._query or Query(prompt=self._prompt)
                self.stepped()
            give_up = perf_counter() + _PATIENCE
            while self._waiting and perf_counter() < give_up and not self._write_finished():
                sleep(0.001)
            for step, _ in self._waiting:
                self.writer.write_step(step)
            self._waiting.clear()
        with self.tap:
            self.writer.close(outcome if self.active else None)
        self.active = False
        if self._statm is not None:
            os.close(self._statm)
            self._statm = None

    # What the taps report, in the order of a step.

    def called(self, call: str, **facts: Any) -> None:
        """A call worth knowing that is no step: a reset, an init state, something that raised."""
        self._calls.append({"call": call, **facts})
        if call == "reset":
            self._number = 0

    def observed(self, frames: Mapping[str, np.ndarray], proprio: Mapping[str, Any]) -> None:
        """The observation that the environment is about to return.

        Args:
            frames: camera -> uint8 (H, W, 3).
            proprio: name -> numbers.
        """
        self._frames = {}
        for camera, frame in frames.items():
            try:
                self._frames[camera] = capture(frame, self.writer.thumbnail, keep=self.writer.full_due)
            except (ValueError, AttributeError) as error:
                self.note(f"camera {camera} is not recorded: {error}")
        self._proprio = {name: numbers(values) for name, values in proprio.items()}

    def prompted(self, prompt: str | None) -> None:
        """The text that the processor is given."""
        self._since("observed", "observe->process")
        self._prompt = prompt

    def asked(
        self, query: Query, *, complete: Callable[[], bool] | None = None, memory: Mapping[str, int] | None = None
    ) -> None:
        """The policy has answered.

        Args:
            complete: fills in what is still on its way from the GPU, and says whether it could; asked again later.
            memory: name -> bytes.
        """
        if self._query is not None:
            self._calls.append({"call": "predict_action", "superseded": True})
        query.prompt, self._prompt = self._prompt, None
        self._query, self._complete = query, complete
        self._memory.update(memory or {})

    def acting(self, action: Any) -> None:
        """The program is about to execute an action."""
        self._since("answered", "post-process")
        try:
            self._executed = numbers(() if action is None else action)
        except (TypeError, ValueError) as error:
            self._executed = ()
            self.note(f"the executed action is not recorded: {error}")

    def stepped(
        self, *, reward: float = 0.0, done: bool = False, success: bool | None = None, info: Any = None
    ) -> None:
        """The action has been executed: write the step."""
        facts: dict[Any, Any] = dict(info) if isinstance(info, Mapping) else {} if info is None else {"info": info}
        if self._calls:
            facts[CALLS] = {"calls": self._calls}
        if self._statm is not None:
            self._memory["rss"] = int(os.pread(self._statm, 64, 0).split()[1]) * _PAGE
        own = self.tap.spent()
        self._timings["taps"] = round((own - self._counted_seconds) * 1e3, 3)
        step = Step(
            number=self._number,
            frames=self._frames,
            proprio=self._proprio,
            query=self._query,
            executed=self._executed,
            reward=reward,
            done=done,
            success=success,
            info=facts,
            timings=self._timings,
            memory=self._memory,
        )
        complete = self._complete
        self._counted_seconds = own
        self._number += 1
        self._frames, self._proprio = {}, {}
        self._query = self._complete = self._prompt = None
        self._executed = ()
        self._calls, self._timings, self._memory = [], {}, {}
        if complete is None and not self._waiting:
            self.writer.write_step(step)
        else:
            self._waiting.append((step, complete or _at_once))
            self._write_finished()

    def took(self, stage: str, seconds: float) -> None:
        """Add to the time of a stage in this step."""
        self._timings[stage] = round(self._timings.get(stage, 0.0) + seconds * 1e3, 3)

    def mark(self, moment: str) -> None:
        """Remember when control went back to the program."""
        self._marks[moment] = perf_counter()

    def _since(self, moment: str, stage: str) -> None:
        began = self._marks.pop(moment, None)
        if began is not None:
            self.took(stage, self.tap.began - began)

    def _write_finished(self) -> bool:
        """Write the waiting steps in order, up to the first whose values are not there yet."""
        while self._waiting and self._waiting[0][1]():
            self.writer.write_step(self._waiting.pop(0)[0])
        return not self._waiting


class _Guard:
    """Context of a tap's own code. Not to be nested."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self.began = 0.0

    def spent(self) -> float:
        """Seconds in taps, up to now."""
        return self._recorder.own_seconds + perf_counter() - self.began

    def __enter__(self) -> None:
        self.began = perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self._recorder.own_seconds += perf_counter() - self.began
        # KeyboardInterrupt and SystemExit are meant for the program, wherever they strike.
        if not isinstance(error, Exception):
            return False
        self._recorder.stop(f"recording stopped after {self._recorder.writer.steps} steps: {describe(error)}")
        return True


def wrap(owner: Any, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Callable[[], None]:
    """Replace an attribute of one object by `make(attribute)`; returns the call that puts it back."""
    absent = object()
    before = vars(owner).get(name, absent)
    original = getattr(owner, name)
    wrapper = functools.wraps(original)(make(original))
    setattr(owner, name, wrapper)

    def undo() -> None:
        if vars(owner).get(name) is not wrapper:
            return
        if before is absent:
            delattr(owner, name)
        else:
            setattr(owner, name, before)

    return undo


def numbers(values: Any) -> tuple[float, ...]:
    """Flatten numbers of any shape."""
    array = values if isinstance(values, np.ndarray) else np.asarray(values)
    return tuple(array.astype(np.float64, copy=False).ravel().tolist())


def describe(error: BaseException) -> str:
    """An exception in one line."""
    return f"{type(error).__name__}: {error}"


def undo_all(undo: Sequence[Callable[[], None]]) -> None:
    """Undo in the reverse order."""
    for call in reversed(undo):
        call()


def _at_once() -> bool:
    return True


def _open_statm() -> int | None:
    with suppress(OSError):
        return os.open("/proc/self/statm", os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    return None


_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
