"""VD502 gripper-convention: from the model's value over the command to the fingers."""

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
from vladoctor.checks.vd502_gripper_convention import CHECK
from vladoctor.profiles import Profile, load_profile
from vladoctor.records import Episode, Step

OPENVLA, OPENPI, UNKNOWN = (load_profile(name) for name in ("openvla-libero", "openpi-libero", "unknown"))
FAULTS = {fault.name: fault for fault in CHECK.faults}


def judge(episode: Episode, profile: Profile = OPENVLA) -> list[Verdict]:
    return verdicts(CHECK, episode, profile)


def problem(episode: Episode, profile: Profile = OPENVLA) -> Problem:
    return only_problem(CHECK, episode, profile)


def with_gripper(command: Callable[[float], float]) -> Episode:
    """The recorded episode of the reference loop, its own line for the gripper replaced."""

    def loop(steps: Iterator[Step]) -> Iterator[Any]:
        for step in steps:
            assert step.query is not None
            assert step.query.action is not None
            yield [*step.query.action[:6], command(step.query.action[6])]

    return fingerless(executing(recorded("openvla"), loop))


def fingerless(episode: Episode) -> Episode:
    """Without what the fingers did, where they were told something else."""
    return changed(episode, lambda step: replace(step, proprio={}), first=-10)


def fingers(step: Step, left: float, right: float) -> Step:
    return replace(step, proprio={**step.proprio, "robot0_gripper_qpos": (left, right)})


# Must not fire.


@pytest.mark.parametrize(("name", "profile"), [("openvla", OPENVLA), ("openpi", OPENPI)])
def test_healthy_episodes_are_clear_in_command_and_fingers(name: str, profile: Profile) -> None:
    verdicts = judge(recorded(name), profile)
    assert [type(verdict) for verdict in verdicts] == [Clear, Clear]


@pytest.mark.parametrize(
    "command",
    [lambda g: 1.0 - 2.0 * g, lambda g: -1.0 if g > 0.5 else 1.0, lambda g: 0.2 if g < 0.5 else -0.3],
    ids=["without sign", "by a threshold", "of another size"],
)
def test_any_command_of_the_right_sign_is_right(command: Callable[[float], float]) -> None:
    assert isinstance(judge(with_gripper(command))[0], Clear)


def test_a_loop_that_is_a_step_late_is_left_to_another_check() -> None:
    def loop(steps: Iterator[Step]) -> Iterator[Any]:
        last: Any = [0.0] * 6 + [-1.0]
        for step in steps:
            yield last
            last = step.executed

    assert not any(isinstance(verdict, Problem) for verdict in judge(executing(recorded("openvla"), loop)))


def test_a_value_in_the_middle_says_nothing() -> None:
    def middle(step: Step) -> Step:
        assert step.query is not None
        assert step.query.action is not None
        return replace(step, query=replace(step.query, action=(*step.query.action[:6], 0.5)))

    verdict = judge(changed(recorded("openvla"), middle))[0]
    assert isinstance(verdict, Abstention)


def test_fingers_that_hold_an_object_are_not_stuck() -> None:
    # They rest on the can, 63 mm apart, for 70 steps of the recorded episode.
    assert not any(isinstance(verdict, Problem) for verdict in judge(recorded("openvla")))


# Must fire.


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (lambda g: float(np.sign(2 * g - 1)), "2g - 1 and its sign, without being negated"),
        (lambda g: 2 * g - 1, "2g - 1 without being negated"),
        (lambda g: g, "the value is passed on as it is"),
        (lambda g: float(-np.sign(g)), "without 2g - 1 before"),
        (lambda g: -1.0 if g == 1.0 else 1.0, "always +1"),
    ],
)
def test_the_mapping_is_named(command: Callable[[float], float], said: str) -> None:
    found = problem(with_gripper(command))
    assert said in found.message
    assert found.severity is Severity.STOP
    assert "-np.sign(2.0 * action[-1] - 1.0)" in found.remedy


def test_zero_holds() -> None:
    found = problem(with_gripper(lambda g: float(-np.sign(g))))
    assert "the gripper holds and never closes" in found.message
    assert found.first_step == 41
    assert found.evidence["per_intent"]["closed"] == {"right": 0, "opposite": 0, "held": 78}


def test_a_checkpoint_that_answers_with_the_sign_must_not_be_mapped() -> None:
    def loop(steps: Iterator[Step]) -> Iterator[Any]:
        for step in steps:
            yield [*step.executed[:6], -np.sign(2 * step.executed[6] - 1)]

    found = problem(fingerless(executing(recorded("openpi"), loop)), OPENPI)
    assert found.first_step == 0
    assert "pass its last value on as it is" in found.remedy


def test_a_gripper_that_goes_its_own_way_for_a_part_of_the_time() -> None:
    def loop(steps: Iterator[Step]) -> Iterator[Any]:
        for step in steps:
            flip = -1.0 if step.number % 3 == 0 else 1.0
            yield [*step.executed[:6], flip * step.executed[6]]

    found = problem(fingerless(executing(recorded("openvla"), loop)))
    assert found.severity is Severity.FIX
    assert "times more often" in found.message


def test_fingers_that_turn_the_sign_round() -> None:
    def closes(step: Step) -> Step:
        left, right = step.proprio["robot0_gripper_qpos"]
        return fingers(step, 0.04 - left, -0.04 - right)

    found = problem(changed(recorded("openvla"), closes, first=-10))
    assert found.stage is Stage.EXECUTE
    assert "something behind env.step turns the sign round" in found.message


def test_one_finger_that_goes_the_other_way() -> None:
    found = problem(changed(recorded("openvla"), lambda step: fingers(step, 0.038, -0.002), first=-8))
    assert "one finger is at 38 mm and the other at 2 mm" in found.message


def test_fingers_that_do_not_follow() -> None:
    found = problem(changed(recorded("openvla"), lambda step: fingers(step, 0.0397, -0.0399), first=0))
    assert "Told to close for 20 steps, the fingers stay 80 mm apart" in found.message


def test_a_finger_that_is_blocked_for_a_while_goes_no_wrong_way() -> None:
    pressed = changed(
        recorded("openvla"), lambda step: fingers(step, 0.018, -0.04) if step.number < 41 else step, first=20
    )
    assert not any(isinstance(verdict, Problem) for verdict in judge(pressed))


def test_commands_that_a_profile_of_healthy_episodes_does_not_know() -> None:
    own = UNKNOWN.with_overrides({"action.dimensions": [*"xyzabc", "gripper"], "gripper.values": [-1.0, 1.0]})
    assert isinstance(judge(recorded("openvla"), own)[0], Clear)
    found = problem(with_gripper(lambda g: g), own)
    assert "The gripper is commanded +0, +0.996 at 128 of 128 steps" in found.message


# Cannot tell.


def test_nothing_is_expected_by_a_profile_that_does_not_know() -> None:
    assert all(
        isinstance(verdict, Abstention) and not verdict.missing for verdict in judge(recorded("openvla"), UNKNOWN)
    )


def test_without_answers_only_the_fingers_are_judged() -> None:
    verdicts = judge(changed(recorded("openvla"), lambda step: replace(step, query=None)))
    assert [type(verdict) for verdict in verdicts] == [Abstention, Clear]


def test_without_proprio_only_the_command_is_judged() -> None:
    verdicts = judge(changed(recorded("openvla"), lambda step: replace(step, proprio={}), first=-10))
    assert [type(verdict) for verdict in verdicts] == [Clear, Abstention]


def test_a_loop_that_decodes_the_ids_itself() -> None:
    def decoded(step: Step) -> Step:
        if step.query is None or step.query.action is None:
            return step
        ids = (31800,) * 6 + (31744 if step.query.action[6] > 0.5 else 31872,)
        return replace(step, query=replace(step.query, action=None, ids=ids))

    verdict = judge(changed(recorded("openvla"), decoded))[0]
    assert isinstance(verdict, Clear)
    assert "at 128 of 128 steps" in verdict.message


# The faults, on the loop's own line.


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("gripper-not-inverted", "without being negated"),
        ("gripper-raw", "passed on as it is"),
        ("gripper-equals-one", "always +1"),
        ("gripper-sticky", "+0 is executed"),
    ],
)
def test_faults_fire(fault: str, said: str) -> None:
    loop: Any = SimpleNamespace(stages=SimpleNamespace())
    apply = FAULTS[fault].apply
    assert apply is not None
    apply(loop)

    def run(steps: Iterator[Step]) -> Iterator[Any]:
        for step in steps:
            assert step.query is not None
            yield loop.stages.command(np.array(step.query.action))

    assert said in problem(fingerless(executing(recorded("openvla"), run))).message
