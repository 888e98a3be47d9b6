"""Puts together what the taps see of one step, and writes it as soon as `env.step` has returned.

Rules that hold for every tap:

* A tap reads. What it wraps is called with the very arguments it was given and its result returned as the same object.
* An exception of the program passes through untouched. It is noted and raised on.
* An exception of ours never reaches the program: recording stops, all taps are removed, and `Recorder.errors` says why.
* Taps attach to instances, and what they change is put back by `detach`. A wrapper that somebody else has kept, or has
  wrapped in turn, stays in place as a plain call of the original.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from threading import RLock
from time import perf_counter
from types import TracebackType
from typing import Any

import numpy as np

from vladoctor.records import Outcome, Query, Step
from vladoctor.taps.budget import FULL_FRAMES, PICTURES, Budget
from vladoctor.taps.worker import Worker
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

    Args:
        tap, worker, budget: of several recorders in one program, which share them; a recorder of one episode has its
            own.
    """

    def __init__(
        self,
        writer: TraceWriter,
        tap: Guard | None = None,
        worker: Worker | None = None,
        budget: Budget | None = None,
    ) -> None:
        self.writer = writer
        self.budget = budget or Budget()
        self._worker = worker or Worker()
        self._own_worker = worker is None
        self.errors: list[str] = []
        self.active = True
        self.tap = tap or Guard(self._failed)
        self._counted_seconds = self.tap.seconds
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
        self._queries = 0
        self._timings_own = 0.0
        self._left_out = 0
        # Each counted by one thread alone: the taps', and the worker's.
        self._put = self._done = 0

    @property
    def own_seconds(self) -> float:
        """Time spent in taps so far."""
        return self.tap.seconds

    @property
    def thumbnail(self) -> int:
        """Longest side of a thumbnail in pixels."""
        return self.writer.thumbnail

    @property
    def full_due(self) -> bool:
        """Whether the next query's full frames will be kept."""
        every = self.writer.full_every
        due = self._queries % every == 0 if every > 0 else self._queries == 0
        return due and self.budget.keeps(FULL_FRAMES)

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
            log.info(problem)

    def close(self, outcome: Outcome) -> None:
        """End the recording. If it stopped early, it ends without an outcome and will count as truncated."""
        with self.tap:
            if self.active and (self._query is not None or self._prompt is not None):
                # What the program was at when it ended, an exception most likely: nothing was executed.
                self._query = self._query or Query(prompt=self._prompt)
                self.stepped()
        # Outside of the guard: the last jobs may take a moment, and are none of the program's steps.
        if self._own_worker:
            self._worker.finish(_PATIENCE)
        else:
            self._worker.wait(lambda: self._done == self._put, _PATIENCE)
        with self.tap:
            self._check_worker()
        with self.tap:
            self.writer.close(outcome if self.active else None, self.errors)
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
        for camera, frame in frames.items() if self.budget.keeps(PICTURES) else ():
            try:
                self._frames[camera] = capture(frame, self.thumbnail, keep=self.full_due, later=True)
            except (ValueError, AttributeError) as error:
                self.note(f"camera {camera} is not recorded: {error}")
        self._proprio = {name: numbers(values) for name, values in proprio.items()}

    def see(self, frames: Mapping[str, Picture], proprio: Mapping[str, tuple[float, ...]]) -> None:
        """The observation before the step that is going on, taken already."""
        self._frames, self._proprio = dict(frames), dict(proprio)

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
        query.prompt, self._prompt = (query.prompt if self._prompt is None else self._prompt), None
        self._query, self._complete = query, complete
        self._memory.update(memory or {})

    def asked_all(
        self,
        queries: Sequence[Query],
        *,
        complete: Callable[[], bool] | None = None,
        memory: Mapping[str, int] | None = None,
    ) -> None:
        """The policy has answered a batch, of which the first is the environment's that is recorded here."""
        self.asked(queries[0], complete=complete, memory=memory)
        if len(queries) > 1:
            self.note(f"of {len(queries)} queries at once the first is recorded")

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
        self._timings_own = own - self._counted_seconds
        self._timings["taps"] = round(self._timings_own * 1e3, 3)
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
        self._queries += step.query is not None
        self._check_worker()
        self._put += 1
        self._worker.put(lambda: self._write(step, complete))
        self.budget.step(self._timings_own, self._worker.backlog)
        # Of a budget that several share, another one's step may have been the last straw.
        for left_out in self.budget.shed[self._left_out :]:
            self.note(f"from step {self._number} on, to stay within {self.budget.limit:.0%} of a step: no {left_out}")
        self._left_out = len(self.budget.shed)

    def describe(self, run: Mapping[str, Any], task: Mapping[str, Any]) -> None:
        """Say again what holds for run and episode; see `TraceWriter.describe`."""
        self._put += 1
        self._worker.put(lambda: self._describe(run, task))

    def took(self, stage: str, seconds: float) -> None:
        """Add to the time of a stage in this step."""
        self._timings[stage] = round(self._timings.get(stage, 0.0) + seconds * 1e3, 3)

    def mark(self, moment: str) -> None:
        """Remember when control went back to the program."""
        self._marks[moment] = perf_counter()

    def _failed(self, error: Exception) -> None:
        self.stop(f"recording stopped after {self.writer.steps} steps: {describe(error)}")

    def _since(self, moment: str, stage: str) -> None:
        began = self._marks.pop(moment, None)
        if began is not None:
            self.took(stage, self.tap.began - began)

    def _write(self, step: Step, complete: Callable[[], bool] | None) -> bool:
        """In the worker: write a step, if all of it is there."""
        if complete is not None and not complete() and not self._worker.hurried:
            return False
        self.writer.write_step(step)
        self._done += 1
        return True

    def _describe(self, run: Mapping[str, Any], task: Mapping[str, Any]) -> bool:
        self.writer.describe(run, task)
        self._done += 1
        return True

    def _check_worker(self) -> None:
        if self._worker.failed is not None:
            raise self._worker.failed


class Guard:
    """Context of the taps' own code: measures its time, keeps its exceptions from the program, lets in one thread.

    Not to be nested.

    Attributes:
        seconds: spent inside so far.
        began: when the last one began, by `perf_counter`.
    """

    def __init__(self, failed: Callable[[Exception], None]) -> None:
        self._failed = failed
        self._lock = RLock()
        self.seconds = 0.0
        self.began = 0.0

    def spent(self) -> float:
        """Seconds up to now, from inside."""
        return self.seconds + perf_counter() - self.began

    def __enter__(self) -> None:
        self._lock.acquire()
        self.began = perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self.seconds += perf_counter() - self.began
        try:
            # KeyboardInterrupt and SystemExit are meant for the program, wherever they strike.
            if not isinstance(error, Exception):
                return False
            self._failed(error)
            return True
        finally:
            self._lock.release()


def numbers(values: Any) -> tuple[float, ...]:
    """Flatten numbers of any shape."""
    array = values if isinstance(values, np.ndarray) else np.asarray(values)
    return tuple(array.astype(np.float64, copy=False).ravel().tolist())


def describe(error: BaseException) -> str:
    """An exception in one line."""
    return f"{type(error).__name__}: {error}"


def _open_statm() -> int | None:
    with suppress(OSError):
        return os.open("/proc/self/statm", os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    return None


_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
