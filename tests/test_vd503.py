"""VD503 action-contract: what becomes of an answer on its way to the environment, and how that takes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from protocols import only_problem, verdicts
from recorded import changed, executing, recorded

from vladoctor.check import Abstention, Clear, Problem, Severity, Stage, Verdict
from vladoctor.checks.vd503_action_contract import CHECK
from vladoctor.profiles import Profile, load_profile
from vladoctor.records import Episode, Step

OPENVLA, OPENPI, UNKNOWN = (load_profile(name) for name in ("openvla-libero", "openpi-libero", "unknown"))
FAULTS = {fault.name: fault for fault in CHECK.faults}


def judge(episode: Episode, profile: Profile = OPENVLA) -> list[Verdict]:
    return verdicts(CHECK, episode, profile)


def problem(episode: Episode, profile: Profile = OPENVLA) -> Problem:
    return only_problem(CHECK, episode, profile)


def with_arm(change: Callable[[np.ndarray], Any], name: str = "openvla") -> Episode:
    """A recorded episode whose loop does something to the arm's values."""

    def loop(steps: Iterator[Step]) -> Iterator[Any]:
        for step in steps:
            yield [*change(np.array(step.executed[:6])), *step.executed[6:]]

    return executing(recorded(name), loop)


# Must not fire.


@pytest.mark.parametrize(("name", "profile"), [("openvla", OPENVLA), ("openpi", OPENPI)])
def test_healthy_episodes_are_clear_throughout(name: str, profile: Profile) -> None:
    assert [type(verdict) for verdict in judge(recorded(name), profile)] == [Clear, Clear, Clear]


def test_bfloat16_on_the_way_is_no_change() -> None:
    def rounded(arm: np.ndarray) -> np.ndarray:
        mantissa, exponent = np.frexp(arm)
        return np.ldexp(np.round(mantissa * 256) / 256, exponent)

    assert not any(isinstance(verdict, Problem) for verdict in judge(with_arm(rounded)))


def test_answers_that_are_longer_than_the_action_are_cut() -> None:
    def padded(step: Step) -> Step:
        if step.query is None:
            return step
        rows = tuple((*row, *(0.0,) * 25) for row in step.query.chunk)
        return replace(step, query=replace(step.query, chunk=rows, action=rows[0]))

    assert isinstance(judge(changed(recorded("openpi"), padded), OPENPI)[0], Clear)


def test_averages_over_answers_are_nothing_that_is_known() -> None:
    def loop(steps: Iterator[Step]) -> Iterator[Any]:
        mean: Any = None
        for step in steps:
            action = np.array(step.executed)
            mean = action if mean is None else 0.5 * mean + 0.5 * action
            yield mean

    verdict = judge(executing(recorded("openvla"), loop))[0]
    assert isinstance(verdict, Abstention)


def test_a_scale_that_may_be_un_normalising_is_not_judged() -> None:
    def normalised(step: Step) -> Step:
        if step.query is None:
            return step
        return replace(step, query=replace(step.query, boundary="lerobot.select_action"))

    episode = changed(with_arm(lambda arm: 0.5 * arm + 0.1), normalised)
    assert isinstance(judge(episode)[0], Abstention)


# Must fire.


@pytest.mark.parametrize(
    ("change", "said", "severity"),
    [
        (lambda arm: 0.05 * arm, "All arm values are multiplied by 0.05", Severity.STOP),
        (lambda arm: 2.0 * arm, "All arm values are multiplied by 2", Severity.FIX),
        (lambda arm: [*arm[:3], *np.degrees(arm[3:])], "radians taken for degrees", Severity.FIX),
        (lambda arm: arm[[1, 0, 2, 3, 4, 5]], "X and y are exchanged", Severity.FIX),
        (lambda arm: arm[[2, 1, 0, 3, 4, 5]], "X and z are exchanged", Severity.FIX),
        (lambda arm: [arm[0], -arm[1], *arm[2:]], "Y is negated", Severity.FIX),
        (lambda arm: [*arm[:2], 0.0, *arm[3:]], "Z is executed as 0 whatever the policy says", Severity.FIX),
        (lambda arm: np.zeros(6), "All arm values are executed as 0", Severity.STOP),
    ],
)
def test_what_became_of_the_action_is_named(change: Callable[[np.ndarray], Any], said: str, severity: Severity) -> None:
    found = [verdict for verdict in judge(with_arm(change)) if isinstance(verdict, Problem)]
    assert said in found[0].message
    assert found[0].first_step == 0
    if "degrees" not in said:
        assert found[0].severity is severity


def test_a_rotation_that_the_policy_hardly_uses_is_for_a_look() -> None:
    found = problem(with_arm(lambda arm: [*arm[:3], 0.0, 0.0, 0.0]))
    assert "Roll, pitch and yaw are executed as 0" in found.message
    assert found.severity is Severity.LOOK


@pytest.mark.parametrize("by", [1, 2])
def test_late_actions(by: int) -> None:
    def loop(steps: Iterator[Step]) -> Iterator[Any]:
        waiting: list[Any] = [(0.0,) * 6 + (-1.0,)] * by
        for step in steps:
            waiting.append(step.executed)
            yield waiting.pop(0)

    found = problem(executing(recorded("openvla"), loop))
    assert f"the action of {by} quer" in found.message
    assert (found.stage, found.first_step) == (Stage.EXECUTE, 0)


def test_a_displacement_made_into_a_place() -> None:
    def target(step: Step) -> Step:
        place = np.array(step.proprio["robot0_eef_pos"]) + 0.05 * np.array(step.executed[:3])
        return replace(step, executed=(*map(float, place), *step.executed[3:]))

    found = next(v for v in judge(changed(recorded("openvla"), target)) if isinstance(v, Problem))
    assert "the hand's position plus 0.05 times the action" in found.message
    assert found.severity is Severity.STOP


def test_a_value_that_is_missing() -> None:
    found = problem(changed(recorded("openvla"), lambda step: replace(step, executed=step.executed[:6]), first=-10))
    assert "answers with 7 values" in found.message
    assert "given 6" in found.message


def test_commands_that_the_controller_cuts_off() -> None:
    def large(step: Step) -> Step:
        action = tuple(3.0 * np.array(step.executed))
        query = replace(step.query, action=action) if step.query else None
        return replace(step, executed=action, query=query)

    found = next(v for v in judge(changed(recorded("openvla"), large)) if isinstance(v, Problem))
    assert "the controller cuts it off" in found.message
    assert found.severity in (Severity.FIX, Severity.LOOK)


def test_an_environment_that_goes_where_it_is_told() -> None:
    def goes(step: Step) -> Step:
        # A tenth of the way to the commanded place at every step, from the first settling one on.
        way = (step.number + 10) / 10.0
        place = np.array([-0.14, -0.01, 0.27]) * max(1.0 - way, 0.0)
        return replace(step, proprio={**step.proprio, "robot0_eef_pos": tuple(place)})

    found = problem(changed(recorded("openvla"), goes, first=-10))
    assert "while it is commanded zeros" in found.message
    assert found.stage is Stage.EXECUTE


def test_an_environment_that_takes_displacements_for_a_policy_that_answers_with_places() -> None:
    profile = OPENVLA.with_overrides({"action.frame": "absolute"})
    # The recorded hand follows both readings, 0.98 and 0.85 of its motion: nothing is said without a clear one.
    assert not any(isinstance(verdict, Problem) for verdict in judge(recorded("openvla"), profile))


def test_commands_far_outside_of_what_healthy_episodes_have() -> None:
    values = np.array([step.executed for step in recorded("openvla").policy_steps()])
    ends = {"low": values.min(axis=0).tolist(), "high": values.max(axis=0).tolist()}
    own = UNKNOWN.with_overrides({"action.range": ends})
    assert [type(verdict) for verdict in judge(recorded("openvla"), own)][:2] == [Clear, Clear]

    def large(step: Step) -> Step:
        return replace(step, executed=tuple(5.0 * np.array(step.executed)), query=None)

    found = problem(changed(recorded("openvla"), large), own)
    assert found.severity is Severity.LOOK


# Cannot tell.


def test_no_profile_no_expectation_but_an_exchange_is_seen() -> None:
    assert isinstance(judge(recorded("openvla"), UNKNOWN)[0], Clear)
    found = problem(with_arm(lambda arm: arm[[1, 0, 2, 3, 4, 5]]), UNKNOWN)
    assert found.severity is Severity.LOOK


def test_without_answers_nothing_is_compared() -> None:
    verdict = judge(changed(recorded("openvla"), lambda step: replace(step, query=None)))[0]
    assert isinstance(verdict, Abstention)


def test_without_positions_the_motion_is_not_judged() -> None:
    verdict = judge(changed(recorded("openvla"), lambda step: replace(step, proprio={}), first=-10))[-1]
    assert isinstance(verdict, Abstention)


def test_too_few_queries() -> None:
    episode = recorded("openvla")
    short = replace(episode, steps=[step for step in episode.steps if step.number < 2])
    assert isinstance(judge(short)[0], Abstention)


# The faults, on the loop's own line.


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("action-scaled", "are multiplied by 0.05"),
        ("action-dims-swapped", "X and y are exchanged"),
        ("action-axis-negated", "Y is negated"),
        ("action-rotation-dropped", "executed as 0"),
        ("action-late", "the action of 1 query before"),
        ("action-absolute-target", "the hand's position plus 0.05 times"),
    ],
)
def test_faults_fire(fault: str, said: str) -> None:
    stages = SimpleNamespace(command=lambda action: [*action[:6], 1.0 - 2.0 * action[6]])
    loop: Any = SimpleNamespace(stages=stages, act=lambda obs: [])
    apply = FAULTS[fault].apply
    assert apply is not None
    apply(loop)

    def run(steps: Iterator[Step]) -> Iterator[Any]:
        for step in steps:
            assert step.query is not None
            loop.act({"robot0_eef_pos": np.array(step.proprio["robot0_eef_pos"])})
            yield loop.stages.command(np.array(step.query.action))

    found = [v for v in judge(executing(recorded("openvla"), run)) if isinstance(v, Problem)]
    assert said in found[0].message
