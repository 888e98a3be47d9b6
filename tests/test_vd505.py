"""VD505 action-chunk: which rows are executed, when the policy is asked again, what stands before the first answer."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from protocols import action, episode, only_problem, verdicts
from recorded import changed, executing, recorded

from vladoctor.check import Abstention, Clear, Problem, Severity, Verdict
from vladoctor.checks.vd505_action_chunk import CHECK
from vladoctor.profiles import Profile, load_profile
from vladoctor.records import Episode, Query, Step

OPENPI, OPENVLA, UNKNOWN = (load_profile(name) for name in ("openpi-libero", "openvla-libero", "unknown"))


def judge(episode: Episode, profile: Profile = OPENPI) -> list[Verdict]:
    return verdicts(CHECK, episode, profile)


def problem(episode: Episode, profile: Profile = OPENPI) -> Problem:
    return only_problem(CHECK, episode, profile)


def chunked(every: int, take: Callable[[deque[Any]], Any], rows: Callable[[Any], Any] = lambda chunk: chunk) -> Episode:
    """A client's loop over a policy whose plan is the recorded episode's next ten actions.

    Args:
        every: how many rows go into the queue.
        take: how one comes out of it.
        rows: what is made of an answer before.
    """
    source = recorded("openvla")
    numbered = {step.number: step for step in source.steps}

    def answer(number: int) -> tuple[tuple[float, ...], ...]:
        ahead = [numbered[min(number + row, max(numbered))].executed for row in range(10)]
        # No two rows alike, as of a policy that answers in numbers.
        return tuple((*action[:3], 1e-3 * (number + row), *action[4:]) for row, action in enumerate(ahead))

    plan: deque[Any] = deque()
    steps = []
    for step in source.steps:
        if not 0 <= step.number < 60:
            steps.extend([step] if step.number < 0 else [])
            continue
        query: Query | None = None
        if not plan:
            chunk = answer(step.number)
            query = Query(boundary="openpi.infer", action=chunk[0], chunk=chunk)
            plan.extend(list(rows(list(chunk)))[:every])
        steps.append(replace(step, query=query, executed=tuple(take(plan))))
    return replace(source, steps=steps)


def popleft(plan: deque[Any]) -> Any:
    return plan.popleft()


# Must not fire.


@pytest.mark.parametrize(("name", "profile"), [("openpi", OPENPI), ("openvla", OPENVLA)])
def test_healthy_episodes_are_clear(name: str, profile: Profile) -> None:
    assert [type(verdict) for verdict in judge(recorded(name), profile)] == [Clear]


def test_five_rows_of_ten_in_their_order_are_as_published() -> None:
    (verdict,) = judge(chunked(5, popleft))
    assert isinstance(verdict, Clear)
    assert "rows of 10 in their order" in verdict.message


def test_rows_that_are_alike_are_in_order() -> None:
    episode = chunked(5, popleft, lambda chunk: chunk)

    def still(step: Step) -> Step:
        rows = tuple(((0.0,) * 6 + (-1.0,),) * 10)
        query = replace(step.query, action=rows[0], chunk=rows) if step.query else None
        return replace(step, query=query, executed=rows[0])

    assert [type(verdict) for verdict in judge(changed(episode, still))] == [Clear]


def test_averages_over_chunks_are_no_rows_in_disorder() -> None:
    def loop(steps: Iterator[Step]) -> Iterator[Any]:
        last: Any = None
        for step in steps:
            action = np.array(step.executed)
            last = action if last is None else 0.5 * (action + last)
            yield last

    assert not any(isinstance(verdict, Problem) for verdict in judge(executing(chunked(5, popleft), loop)))


def test_the_first_episode_of_a_process_has_nothing_left_over() -> None:
    moves = changed(chunked(5, popleft), lambda step: step)
    early = replace(moves, steps=[_moving(step) if step.number in (-1, -2) else step for step in moves.steps])
    assert [type(verdict) for verdict in judge(early)] == [Clear]


# Must fire.


def test_all_rows_executed() -> None:
    found = problem(chunked(10, popleft))
    assert "all of its 10 rows are executed without another look" in found.message
    assert found.severity is Severity.FIX
    assert found.evidence["asked_every"] == 10


@pytest.mark.parametrize(("every", "severity"), [(1, Severity.LOOK), (3, Severity.LOOK), (7, Severity.LOOK)])
def test_another_number_of_rows_may_be_meant(every: int, severity: Severity) -> None:
    assert problem(chunked(every, popleft)).severity is severity


def test_the_first_row_again_and_again() -> None:
    found = problem(chunked(5, popleft, lambda chunk: [chunk[0]] * 10))
    assert "Only row 0 of 10 is executed" in found.message


def test_rows_from_the_wrong_end() -> None:
    found = problem(chunked(5, lambda plan: plan.pop()))
    assert "in the order 4, 3, 2, 1, 0" in found.message
    assert "popleft" in found.remedy


def test_the_first_row_left_out() -> None:
    found = problem(chunked(5, popleft, lambda chunk: chunk[1:]))
    assert "The rows begin with row 1" in found.message
    assert found.first_step == 0


def test_rows_of_an_older_answer() -> None:
    def loop(steps: Iterator[Step]) -> Iterator[Any]:
        # The queue is filled at every fifth step and never cleared: it was two answers long from the start.
        plan: deque[Any] = deque()
        for step in steps:
            if step.query is not None:
                plan.extend(step.query.chunk[: 10 if step.number == 0 else 5])
            yield plan.popleft()

    found = problem(executing(chunked(5, popleft), loop))
    assert "a row of an older answer is executed though a newer one was there" in found.message


def _moving(step: Step) -> Step:
    return replace(step, executed=(0.1 * step.number, -0.3, 0.2, 0.0, 0.0, 0.0, 1.0))


def test_a_queue_that_outlives_the_episode() -> None:
    episode = chunked(5, popleft)
    episode = replace(
        episode,
        task={**episode.task, "episode": 1},
        steps=[_moving(step) if step.number in (-1, -2) else step for step in episode.steps],
    )
    found = problem(episode)
    assert "2 actions were executed in this episode before the policy was asked" in found.message
    assert found.first_step == -2


def repeated(times: int = 2, answers: int = 15) -> Episode:
    """A policy that answers with single actions, each of which is executed several times."""
    steps = times * answers
    silent = [number for number in range(steps) if number % times]
    return episode(steps, silent=silent, executed={n: action(n // times) for n in range(steps)}, control_freq=20.0)


@pytest.mark.parametrize("times", [2, 4])
def test_single_actions_that_are_executed_again(times: int) -> None:
    found = problem(repeated(times), OPENVLA)
    assert f"executed {times} times" in found.message
    assert found.severity is Severity.FIX
    assert problem(repeated(times), UNKNOWN).severity is Severity.LOOK


def test_chunks_and_short_episodes_are_no_repetition() -> None:
    assert not [one for one in judge(repeated(2, 5), UNKNOWN) if isinstance(one, Problem)]
    chunked = repeated()
    for step in chunked.steps:
        if step.query is not None:
            step.query = replace(step.query, chunk=(action(1), action(2)))
    assert not [one for one in judge(chunked, UNKNOWN) if isinstance(one, Problem)]
    asked_for_more = UNKNOWN.with_overrides({"action": {"execute": 8}})
    assert not [one for one in judge(repeated(), asked_for_more) if isinstance(one, Problem)]


def test_a_single_action_asked_for_now_and_then() -> None:
    def loop(steps: Iterator[Step]) -> Iterator[Any]:
        last: Any = None
        for step in steps:
            last = step.executed if step.number % 4 == 0 else last
            yield last

    episode = executing(recorded("openvla"), loop)
    episode = changed(episode, lambda step: step if step.number % 4 == 0 else replace(step, query=None))
    found = problem(episode, OPENVLA)
    assert "Each answer of the policy is executed 4 times" in found.message
    assert found.severity is Severity.FIX


def test_asked_once_and_never_again() -> None:
    episode = chunked(10, popleft)
    once = replace(episode, steps=[step for step in episode.steps if step.number < 10])
    found = problem(once)
    assert found.first_step == 5


# Cannot tell.


def test_a_profile_that_does_not_say() -> None:
    assert [type(verdict) for verdict in judge(recorded("openpi"), UNKNOWN)] == [Abstention]


def test_without_queries() -> None:
    (verdict,) = judge(changed(recorded("openpi"), lambda step: replace(step, query=None)))
    assert isinstance(verdict, Abstention)
    assert verdict.missing


def test_queries_that_were_not_all_seen() -> None:
    # Every other one is missing: what is executed in between is no row of those that were seen.
    seen = changed(recorded("openvla"), lambda step: step if step.number % 3 == 0 else replace(step, query=None))
    assert [type(verdict) for verdict in judge(seen, OPENVLA)] == [Abstention]


@pytest.mark.parametrize("last", [0, 2, 6])
def test_a_short_episode_is_left_in_peace(last: int) -> None:
    for name, profile in (("openpi", OPENPI), ("openvla", OPENVLA)):
        episode = recorded(name)
        short = replace(episode, steps=[step for step in episode.steps if step.number <= last])
        assert not any(isinstance(verdict, Problem) for verdict in judge(short, profile))


def test_of_a_single_step_policy_the_ids_are_enough() -> None:
    def silent(step: Step) -> Step:
        return replace(step, query=replace(step.query, action=None)) if step.query else step

    assert [type(verdict) for verdict in judge(changed(recorded("openvla"), silent), OPENVLA)] == [Clear]


# The fault, on the loop's own stage.


def test_the_fault_asks_at_every_fourth_step() -> None:
    asked = 0

    def query(prompt: str, image: Any) -> np.ndarray:
        nonlocal asked
        asked += 1
        return np.full(7, float(asked))

    loop: Any = SimpleNamespace(stages=SimpleNamespace(query=query))
    fault = next(fault for fault in CHECK.faults if fault.name == "action-repeated")
    assert fault.apply is not None
    fault.apply(loop)
    answers = [loop.stages.query("", None)[0] for _ in range(9)]
    assert answers == [1, 1, 1, 1, 2, 2, 2, 2, 3]
