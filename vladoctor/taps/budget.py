"""Keeps the taps' time small against the program's: measures it step by step, and leaves out what is not needed most.

Only the program's own thread counts, in which the taps delay it. What is left out is left out to the end of the run, is
said in the trace, and costs sharpness, not verdicts: full frames are thumbnails then, probabilities of tokens are not
recorded, pictures of every fifth step only. Also when the worker cannot keep up with a loop of fast steps, since frames
that wait fill the memory.
"""

from __future__ import annotations

from statistics import median
from time import perf_counter
from typing import Any

LIMIT = 0.01
"""Share of a step's time that the taps may take."""

FREE = 0.0005
"""Seconds a step that are never too much: a loop with steps this short is no closed loop of a large model."""

WINDOW = 20
"""Steps over which the median is taken."""

MOST_WAITING = 64
"""Steps that may wait for the worker; with two cameras of 256 px they are 25 MB."""

FULL_FRAMES = "full frames"
TOKENS = "probabilities of tokens"
PICTURES = "pictures of four steps in five"
ORDER = (FULL_FRAMES, TOKENS, PICTURES)
"""What is left out, first to last."""

_EVERY = 5


class Budget:
    """What the taps of a program may still do.

    Attributes:
        limit: share of a step's time, the taps' own not counted.
        shed: what is left out by now.
        steps, own, taken: steps counted, and the seconds that taps and program took for them.
    """

    def __init__(self, limit: float = LIMIT) -> None:
        self.limit = limit
        self.shed: tuple[str, ...] = ()
        self.steps = 0
        self.own = self.taken = 0.0
        self._window: list[tuple[float, float]] = []
        self._last: float | None = None

    def keeps(self, what: str) -> bool:
        """Whether something is still recorded, at this step."""
        return what not in self.shed or (what == PICTURES and self.steps % _EVERY == 0)

    def step(self, own: float, backlog: int) -> str | None:
        """Count a step.

        Args:
            own: seconds that the taps took in it.
            backlog: steps that wait for the worker.

        Returns:
            What is left out from now on, if anything new is.
        """
        now = perf_counter()
        last, self._last = self._last, now
        self.steps += 1
        if last is None:
            return None
        self.own += own
        self.taken += now - last - own
        self._window.append((own, now - last - own))
        too_many = backlog > MOST_WAITING
        if self.steps % WINDOW and not too_many:
            return None
        # Medians: the first query loads kernels, and a reset between two steps is no step's.
        taps, program = (median(column) for column in zip(*self._window, strict=True))
        self._window.clear()
        too_much = taps > max(self.limit * program, FREE)
        if not (too_much or too_many) or len(self.shed) == len(ORDER):
            return None
        self.shed = ORDER[: len(self.shed) + 1]
        return self.shed[-1]

    def pause(self) -> None:
        """An episode ends: what lies between two is no step."""
        self._last = None

    def facts(self) -> dict[str, Any]:
        """For the report: the limit, milliseconds a step of taps and program, and what was left out."""
        steps = max(self.steps, 1)
        return {
            "limit": self.limit,
            "ms_taps": round(1e3 * self.own / steps, 3),
            "ms_program": round(1e3 * self.taken / steps, 3),
            "shed": list(self.shed),
        }
