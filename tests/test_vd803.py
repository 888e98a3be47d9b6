"""VD803 protocol: a run over a whole suite, and how it is published."""

from __future__ import annotations

import pytest
from episodes import episode, some_ids

from vladoctor.check import Abstention, Clear, Problem, Severity, Verdict
from vladoctor.checks.vd803_protocol import CHECK
from vladoctor.facts import Facts
from vladoctor.profiles import load_profile
from vladoctor.records import Episode


def one(task: int, number: int = 0, *, success_at: int | None = None, suite: str = "libero_object") -> Episode:
    steps = 3 if success_at is None else success_at + 1
    found = episode(
        some_ids(steps),
        task={"suite": suite, "task_id": task, "label": f"task{task}", "name": f"task_{task}", "episode": number},
    )
    if success_at is not None:
        found.steps[success_at].success = True
    return found


def judge(episodes: list[Episode], profile: str = "openvla-libero") -> list[Verdict]:
    assert CHECK.judge_run is not None
    return list(CHECK.judge_run([Facts(each, load_profile(profile)) for each in episodes], dict(CHECK.thresholds)))


def suite(trials: int, tasks: int = 10) -> list[Episode]:
    return [one(task, number) for task in range(tasks) for number in range(trials)]


def test_a_suite_with_fewer_episodes_than_published() -> None:
    (verdict,) = judge(suite(5))
    assert isinstance(verdict, Problem)
    assert verdict.severity is Severity.LOOK
    assert "all 10 tasks of libero_object with 5 episodes each where 50 are published" in verdict.message


def test_tasks_that_were_not_tried_as_often() -> None:
    (verdict,) = judge([*suite(2), one(0, 2)])
    assert isinstance(verdict, Problem)
    assert "not each as often (2 to 3)" in verdict.message


def test_as_published_is_clear() -> None:
    assert isinstance(judge(suite(50))[0], Clear)


@pytest.mark.parametrize("episodes", [[], suite(20, 2), [one(0, suite="")]])
def test_tries_say_nothing(episodes: list[Episode]) -> None:
    assert isinstance(judge(episodes)[0], Abstention)


def test_a_family_whose_protocol_is_not_known_says_nothing() -> None:
    assert isinstance(judge(suite(1), "unknown")[0], Abstention)


def test_successes_after_the_published_limit() -> None:
    (verdict,) = judge([one(0, 0, success_at=150), one(0, 1, success_at=300)])
    assert isinstance(verdict, Problem)
    assert "1 of 2 successes in libero_object came after step 280" in verdict.message
    assert list(verdict.evidence["late_successes"].values()) == [300]


def test_the_last_step_within_the_limit_is_in_time() -> None:
    assert isinstance(judge([one(0, 0, success_at=279)])[0], Abstention)
