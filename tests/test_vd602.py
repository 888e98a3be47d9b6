"""VD602 initial-state: set, wiped, never set; and how many there are over a run."""

from __future__ import annotations

from typing import Any

import pytest
from protocols import (
    BEGIN,
    FOREIGN,
    OTHER,
    STATE,
    UNKNOWN,
    abstains,
    episode,
    is_clear,
    over_run,
    problem,
    without_policy,
)

from vladoctor.check import Clear, Problem, Severity
from vladoctor.checks.vd602_initial_state import CHECK

RESET, SET = {"call": "reset"}, {"call": "set_init_state", "state": STATE}


def start(state: list[float]) -> dict[str, Any]:
    return {"call": "start_state", "state": state}


def test_a_state_set_after_the_reset_is_clear() -> None:
    assert is_clear(CHECK, episode())
    assert is_clear(CHECK, episode(calls=[SET, *BEGIN]))
    assert is_clear(CHECK, episode(calls=[RESET, SET], **FOREIGN))


def test_a_state_that_is_set_by_other_means_is_clear() -> None:
    assert is_clear(CHECK, episode(calls=[RESET], environment="libero", init_state=7))


def test_a_reset_behind_it_wipes_it() -> None:
    found = problem(CHECK, episode(calls=[SET, RESET, start(OTHER)]))
    assert found.severity is Severity.FIX
    assert found.evidence["seen"] == "set_init_state, reset"


def test_a_reset_that_raised_wipes_nothing() -> None:
    calls = [RESET, SET, {"call": "reset", "raised": "RandomizationError: no place"}, start(STATE)]
    assert is_clear(CHECK, episode(calls=calls))


def test_a_state_that_is_not_in_force() -> None:
    found = problem(CHECK, episode(calls=[RESET, SET, start(OTHER)]))
    assert "is in another one" in found.message
    assert found.evidence["largest_difference"] == pytest.approx(0.1)


def test_never_set() -> None:
    assert problem(CHECK, episode(calls=[RESET])).severity is Severity.FIX
    assert problem(CHECK, episode(calls=[RESET], task_id=None)).severity is Severity.LOOK
    assert problem(CHECK, episode(calls=[RESET], environment="libero", init_state=None)).severity is Severity.FIX


def test_nothing_is_said_of_what_is_not_known() -> None:
    assert abstains(CHECK, episode(calls=[]))
    assert abstains(CHECK, episode(calls=[RESET]), UNKNOWN)
    assert abstains(CHECK, episode(calls=[RESET], suite=""))
    assert abstains(CHECK, without_policy())


def begun(state: list[float], **task: Any) -> Any:
    calls = [RESET, {"call": "set_init_state", "state": state}]
    return episode(3, calls=calls, **{"environment": "libero", **task})


def states(count: int) -> list[list[float]]:
    return [[0.0, float(number), *STATE] for number in range(count)]


def test_one_state_for_all_episodes() -> None:
    (found,) = over_run(CHECK, [begun(STATE) for _ in range(50)])
    assert isinstance(found, Problem)
    assert found.severity is Severity.FIX
    assert "All 50 episodes" in found.message


def test_a_batch_that_begins_anew_has_few_states() -> None:
    (found,) = over_run(CHECK, [begun(state) for state in states(5) * 10])
    assert isinstance(found, Problem)
    assert found.severity is Severity.LOOK
    assert "only 5 different states" in found.message


def test_different_states_are_clear_and_tasks_are_counted_apart() -> None:
    (found,) = over_run(CHECK, [begun(state) for state in states(10)])
    assert isinstance(found, Clear)
    assert over_run(CHECK, [begun(STATE, name=f"task{number}") for number in range(10)]) == []


def test_few_episodes_or_unknown_states_say_nothing() -> None:
    assert over_run(CHECK, [begun(STATE)] * 3) == []
    assert over_run(CHECK, [episode(calls=[RESET], environment="libero")] * 9) == []
    assert over_run(CHECK, [without_policy()] * 9) == []


def test_what_a_run_file_asks_for_is_meant() -> None:
    own = [episode(3, init_state=30, episode=number) for number in range(6)]
    assert over_run(CHECK, own) == []
    stuck = [episode(3, init_state=number, episode=number) for number in range(6)]
    assert isinstance(over_run(CHECK, stuck)[0], Problem)


def test_what_an_episode_shows_itself_is_not_said_again() -> None:
    wiped = [episode(3, calls=[SET, RESET, start(OTHER)], init_state=number) for number in range(6)]
    assert over_run(CHECK, wiped) == []
