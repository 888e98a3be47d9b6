"""A thread beside the program's, which develops, encodes and writes what the taps took.

Taps only copy. What costs time (thumbnails, statistics over the vocabulary, JPEG, JSON, writing) is done while the
program's own thread waits for its GPU, or runs in numpy, torch and MuJoCo, which let other threads run meanwhile. What
a killed process had not written yet is lost: a step or two.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from time import perf_counter, sleep, thread_time

_POLL = 0.001
"""Seconds after which a job that could not be done yet (values on their way from a GPU) is tried again."""

_NICE = 5
"""By how much the thread yields to the program's."""


class Worker:
    """Does jobs one after the other, in a thread that lives from the first job to `finish`.

    A job returns whether it could be done; if not, it is tried again, and the ones behind it wait. The exception that a
    job raises ends all work: `failed` is that exception, and further jobs are dropped.

    Attributes:
        failed: what a job raised.
        seconds: CPU time spent in jobs.
        hurried: set while `finish` has run out of patience: jobs are to do what can be done at once.
    """

    def __init__(self) -> None:
        self.failed: Exception | None = None
        self.seconds = 0.0
        self.hurried = False
        self._jobs: SimpleQueue[Callable[[], bool] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    @property
    def backlog(self) -> int:
        """Jobs that wait."""
        return self._jobs.qsize()

    def put(self, job: Callable[[], bool]) -> None:
        """Have a job done."""
        self._jobs.put(job)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="vladoctor", daemon=True)
            self._thread.start()

    def finish(self, patience: float) -> None:
        """Wait until everything is done, and end the thread.

        Args:
            patience: seconds until `hurried` is set.
        """
        if self._thread is None:
            return
        self._jobs.put(None)
        self._thread.join(patience)
        self.hurried = True
        self._thread.join()
        self._thread = None
        self.hurried = False

    def pause(self, patience: float) -> None:
        """As `finish`, before the process is forked; the next job begins a new thread.

        A child that was forked while it worked would inherit its locks, and Python 3.12 warns of a fork where
        there are threads, which it counts in the kernel: one that was joined may live there a moment longer.
        """
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return
        self.finish(patience)
        give_up = perf_counter() + _POLL * 100
        while os.path.exists(f"/proc/self/task/{thread.native_id}") and perf_counter() < give_up:  # noqa: PTH110
            sleep(_POLL / 10)

    def wait(self, until: Callable[[], bool], patience: float) -> None:
        """Wait until something holds that jobs bring about, or one has failed.

        Args:
            patience: seconds until `hurried` is set.
        """
        give_up = perf_counter() + patience
        while not until() and self.failed is None and self._thread is not None:
            self.hurried = perf_counter() > give_up
            sleep(_POLL)
        self.hurried = False

    def _run(self) -> None:
        if hasattr(os, "setpriority"):
            with suppress(OSError):
                # On Linux this is a thread's, elsewhere the whole process's and better left alone.
                if os.uname().sysname == "Linux":
                    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        while (job := self._jobs.get()) is not None:
            if self.failed is not None:
                continue
            began = thread_time()
            try:
                while not job():
                    sleep(_POLL)
            except Exception as error:  # noqa: BLE001 - the taps ask for it, and stop
                self.failed = error
            self.seconds += thread_time() - began
