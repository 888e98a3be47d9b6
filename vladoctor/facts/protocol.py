"""How an episode was begun, ended and counted: calls besides `step`, settle steps, init states, success, exceptions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vladoctor.facts.serving import policy_alone

if TYPE_CHECKING:
    from vladoctor.records import Episode, Step

OWN_CALLS = "vladoctor"
"""Key of `Step.info` under which the taps keep calls; see `taps.recorder.CALLS`."""

SAME_STATE = 1e-6
"""Metres, radians, seconds and their rates: two simulator states that differ by no more are one."""

TERMINATED = "terminated episode"
"""Part of what robosuite says to a step after its own horizon (robosuite 1.4.0 environments/base.py:375-376)."""


@dataclass(frozen=True)
class Call:
    """A call that is no step: its name, the step that came after it, and what was recorded of it."""

    name: str
    step: int
    facts: Mapping[str, Any]

    @property
    def raised(self) -> str:
        """The exception that it ended with, or ""."""
        return str(self.facts.get("raised") or "")


@dataclass(frozen=True, eq=False)
class Beginning:
    """An episode up to its first query.

    Attributes:
        seen: whether the recording shows the reset or the init state with which the episode begins.
        settled: steps since the last of these, before the first query.
        set_state: the init state that was set last, as given; None where none was, or a reset came after it.
        wiped: an init state had been set, and a reset came after it.
        state: the simulator's state in which the episode began, as measured; None where it was not.
    """

    seen: bool
    settled: tuple[Step, ...]
    set_state: np.ndarray | None
    wiped: bool
    state: np.ndarray | None

    @property
    def in_force(self) -> bool | None:
        """Whether the state that was set is the one in which the episode began; None where that is not known."""
        if self.set_state is None or self.state is None or self.set_state.shape != self.state.shape:
            return None
        return bool(np.abs(self.set_state - self.state).max(initial=0.0) <= SAME_STATE)

    @property
    def known_state(self) -> np.ndarray | None:
        """The state in which the episode began: measured, else as it was set."""
        return self.state if self.state is not None else self.set_state


def calls_of(step: Step) -> list[Call]:
    """The calls that were made since the step before, in order, and what this step itself raised."""
    if not step.info:
        return []
    kept = step.info.get(OWN_CALLS) if isinstance(step.info, Mapping) else None
    listed = kept.get("calls") if isinstance(kept, Mapping) else None
    found = []
    for entry in listed if isinstance(listed, Sequence) else ():
        if isinstance(entry, Mapping) and "call" in entry:
            facts = {name: value for name, value in entry.items() if name != "call"}
            found.append(Call(str(entry["call"]), step.number, facts))
    return found


def calls(episode: Episode) -> Iterator[Call]:
    """All calls of an episode in order, those behind its last step included."""
    last = 0
    for step in episode.steps:
        last = step.number
        yield from calls_of(step)
    after = episode.task.get("calls_after")
    for entry in after if isinstance(after, Sequence) else ():
        if isinstance(entry, Mapping) and "call" in entry:
            facts = {name: value for name, value in entry.items() if name != "call"}
            yield Call(str(entry["call"]), last + 1, facts)


def beginning(episode: Episode) -> Beginning | None:
    """What came before the first query; None where the episode has no query, or no environment."""
    if policy_alone(episode) or not any(True for _ in episode.queries()):
        return None
    seen, wiped = False, False
    settled: list[Step] = []
    set_state: np.ndarray | None = None
    state = _vector(episode.task.get("start_state"))
    for step in episode.steps:
        for call in calls_of(step):
            if call.raised:
                continue
            if call.name == "reset":
                seen, settled = True, []
                wiped, set_state = wiped or set_state is not None, None
            elif call.name == "set_init_state":
                seen, settled, wiped = True, [], False
                set_state = _vector(call.facts.get("state"))
            elif call.name == "start_state":
                state = _vector(call.facts.get("state"))
        if step.query is not None:
            break
        settled.append(step)
    return Beginning(seen, tuple(settled), set_state, wiped, state)


def policy_steps(episode: Episode) -> list[Step]:
    """Steps from the first query on that executed something."""
    return [step for step in episode.policy_steps() if step.executed]


def own_loop(episode: Episode) -> bool:
    """Whether this project's loop made the episode, so that it knows its own limit and what it counted."""
    return "environment" not in episode.task and isinstance(episode.task.get("horizon"), int)


def suite_of(episode: Episode) -> str:
    """LIBERO's suite, or ""."""
    return str(episode.task.get("suite") or "")


def task_key(episode: Episode) -> tuple[str, str]:
    """What tells one task of a run from another."""
    task = episode.task
    return suite_of(episode), str(task.get("name") or task.get("label") or task.get("language") or "")


ENVIRONMENTS = ("reset", "seed", "close", "set_init_state", "render", "check_success", "get_language_instruction")
"""Calls whose exceptions are none of a step's: LIBERO's reset draws placements until one fits, and raises meanwhile."""


def swallowed(episode: Episode) -> list[Call]:
    """What `step` or the policy's side raised without ending the loop, but for what was tried again with success."""
    found = []
    steps = {step.number: step for step in episode.steps}
    last = max(steps, default=0)
    for call in calls(episode):
        if not call.raised or call.name in ENVIRONMENTS:
            continue
        if call.step >= last and episode.outcome.ended in ("exception", "interrupted"):
            continue
        step = steps.get(call.step)
        answered = step is not None and step.query is not None and step.query.action is not None
        if call.name != "step" and answered:
            continue
        found.append(call)
    return found


def successes(episode: Episode) -> list[int]:
    """Steps after which the environment said that the task is done."""
    return [step.number for step in episode.steps if step.success]


def _vector(values: Any) -> np.ndarray | None:
    if values is None or isinstance(values, (str, bytes)):
        return None
    try:
        array = np.asarray(values, np.float64).ravel()
    except (TypeError, ValueError):
        return None
    return array if array.size and bool(np.isfinite(array).all()) else None
