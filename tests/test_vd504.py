"""VD504 proprio-contract: the state that was given, against the environment's own of the same step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from recorded import changed, recorded
from scipy.spatial.transform import Rotation

from vladoctor.check import Abstention, Clear, Problem, Severity, Stage, Verdict
from vladoctor.checks.vd504_proprio_contract import CHECK
from vladoctor.facts import Facts
from vladoctor.facts.proprio import axis_angle
from vladoctor.profiles import Profile, load_profile
from vladoctor.records import Episode, Step

OPENPI, OPENVLA, UNKNOWN = (load_profile(name) for name in ("openpi-libero", "openvla-libero", "unknown"))
SLOT = "observation/state"


def judge(episode: Episode, profile: Profile = OPENPI) -> Verdict:
    (verdict,) = CHECK.judge(Facts(episode, profile), dict(CHECK.thresholds))
    return verdict


def problem(episode: Episode) -> Problem:
    verdict = judge(episode)
    assert isinstance(verdict, Problem)
    return verdict


def stating(state: Callable[[np.ndarray, np.ndarray, np.ndarray], Any], slot: str = SLOT) -> Episode:
    """The recorded episode as if the loop had put its state together otherwise, from what the environment said.

    Args:
        state: (position, quaternion xyzw, fingers) -> what the policy is given.
    """

    def give(step: Step) -> Step:
        if step.query is None:
            return step
        names = ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos")
        parts = [np.ravel(part) for part in state(*(np.array(step.proprio[name]) for name in names))]
        given = {slot: tuple(map(float, np.hstack(parts)))} if parts else {}
        return replace(step, query=replace(step.query, proprio=given))

    return changed(recorded("openpi"), give)


def turn(quaternion: np.ndarray) -> np.ndarray:
    return axis_angle(quaternion[None])[0]


# Must not fire.


def test_a_healthy_episode_is_clear() -> None:
    verdict = judge(recorded("openpi"))
    assert isinstance(verdict, Clear)
    assert verdict.evidence["largest_difference"] < 1e-5


def test_axis_angle_is_openpis() -> None:
    quaternions = Rotation.random(50, rng=np.random.default_rng(0)).as_quat()
    own = axis_angle(quaternions)
    assert np.allclose(Rotation.from_rotvec(own).as_matrix(), Rotation.from_quat(quaternions).as_matrix())
    assert np.allclose(np.linalg.norm(own, axis=1), 2 * np.arccos(quaternions[:, 3]))
    assert np.allclose(axis_angle(np.array([[0.0, 0.0, 0.0, 1.0]])), 0.0)


def test_float32_on_the_way_is_no_difference() -> None:
    assert isinstance(judge(stating(lambda p, q, g: [np.float32(p), np.float32(turn(q)), np.float32(g)])), Clear)


def test_a_state_that_was_normalised_before_it_could_be_seen() -> None:
    verdict = judge(stating(lambda p, q, g: (np.hstack([p, turn(q), g]) - 0.3) / 0.7, "state"))
    assert isinstance(verdict, Abstention)


def test_the_states_of_a_servers_own_transforms_are_left_alone() -> None:
    def more(step: Step) -> Step:
        if step.query is None:
            return step
        return replace(step, query=replace(step.query, proprio={"model/state": (0.0,) * 32, **step.query.proprio}))

    assert isinstance(judge(changed(recorded("openpi"), more)), Clear)


# Must fire.


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (lambda p, q, g: np.zeros(8), "all zeros"),
        (lambda p, q, g: [p, turn(q), 0 * g], "gripper is all zeros"),
        (lambda p, q, g: [p, 0 * p, g], "rotation is all zeros"),
        (lambda p, q, g: [p, turn(np.roll(q, 1)), g], "wxyz taken for xyzw"),
        (lambda p, q, g: [p, turn(np.roll(q, -1)), g], "xyzw taken for wxyz"),
        (lambda p, q, g: [p, Rotation.from_quat(q).as_euler("xyz"), g], "Euler angles (xyz) in radians"),
        (lambda p, q, g: [p, Rotation.from_quat(q).as_euler("zyx")[::-1], g], "Euler angles"),
        (lambda p, q, g: [p, Rotation.from_quat(q).as_euler("xyz", degrees=True), g], "in degrees"),
        (lambda p, q, g: [p, Rotation.from_quat(q).as_rotvec(), g], "the antipode"),
        (lambda p, q, g: [p, turn(-q), g], "axis-angle of the negated quaternion"),
        (lambda p, q, g: [p, q[:3], g], "the first three numbers of the quaternion"),
        (lambda p, q, g: [1000 * p, turn(q), g], "position is in millimetres"),
        (lambda p, q, g: [p, turn(q), [g[0] - g[1], 0.0]], "the distance between the fingers and a zero"),
        (lambda p, q, g: [p, turn(q), np.abs(g)], "without the second one's sign"),
        (lambda p, q, g: [g, p, turn(q)], "x has gripper_0"),
        (lambda p, q, g: [p[[1, 0, 2]], turn(q), g], "x has y, y has x"),
        (lambda p, q, g: [1000 * p, turn(np.roll(q, 1)), g], "position is in millimetres; rotation is axis-angle of"),
    ],
)
def test_what_the_state_is_is_named(state: Any, said: str) -> None:
    found = problem(stating(state))
    assert said in found.message
    assert (found.severity, found.first_step) == (Severity.FIX, 0)


@pytest.mark.parametrize("degrees", [90, -90, 180])
def test_a_frame_that_is_turned(degrees: float) -> None:
    turned = Rotation.from_euler("z", degrees, degrees=True)
    found = problem(stating(lambda p, q, g: [p, turn((Rotation.from_quat(q) * turned).as_quat()), g]))
    assert "of a frame turned by" in found.message


@pytest.mark.parametrize(("back", "said"), [(1, "of 1 step before"), (5, "of 5 steps before")])
def test_a_state_of_before(back: int, said: str) -> None:
    own = {step.number: step for step in recorded("openpi").steps}
    states = {
        number: [step.proprio["robot0_eef_pos"], turn(np.array(step.proprio["robot0_eef_quat"])),
                 step.proprio["robot0_gripper_qpos"]]
        for number, step in own.items()
    }  # fmt: skip

    def give(step: Step) -> Step:
        if step.query is None:
            return step
        values = tuple(map(float, np.concatenate([np.ravel(part) for part in states[step.number - back]])))
        return replace(step, query=replace(step.query, proprio={SLOT: values}))

    assert said in problem(changed(recorded("openpi"), give)).message


def test_a_state_that_is_never_renewed() -> None:
    first = next(query for _, query in recorded("openpi").queries()).proprio

    def keep(step: Step) -> Step:
        return replace(step, query=replace(step.query, proprio=first)) if step.query else step

    found = problem(changed(recorded("openpi"), keep))
    assert "never renewed" in found.message
    assert found.first_step == 5


def test_a_part_that_stands_still() -> None:
    found = problem(stating(lambda p, q, g: [[0.1, 0.2, 0.3], turn(q), g]))
    assert "position is the same at every query, while the robot moves" in found.message


def test_a_state_of_another_size() -> None:
    found = problem(stating(lambda p, q, g: [p, turn(q), g[:1]]))
    assert "a state of 7 values" in found.message
    assert CHECK.stage is Stage.OBSERVE


def test_what_nobody_knows_is_for_a_look() -> None:
    rng = np.random.default_rng(0)
    found = problem(stating(lambda p, q, g: [p + rng.normal(0, 0.1, 3), turn(q), g]))
    assert found.severity is Severity.LOOK
    assert "position differ" in found.message


# Cannot tell.


@pytest.mark.parametrize(("profile", "said"), [(UNKNOWN, "does not say"), (OPENVLA, "takes none")])
def test_a_profile_without_a_layout(profile: Profile, said: str) -> None:
    verdict = judge(recorded("openpi"), profile)
    assert isinstance(verdict, Abstention)
    assert said in verdict.reason


def test_a_policy_without_a_state_that_is_given_none_is_right() -> None:
    assert isinstance(judge(recorded("openvla"), OPENVLA), Clear)


def test_no_state_recorded() -> None:
    # Of a model's own method the state may well be given elsewhere; a websocket client hands over all there is.
    assert isinstance(judge(recorded("openvla")), Abstention)
    found = problem(stating(lambda p, q, g: []))
    assert "no state at all" in found.message


def test_no_observation_to_compare_with() -> None:
    verdict = judge(changed(recorded("openpi"), lambda step: replace(step, proprio={}), first=-10))
    assert isinstance(verdict, Abstention)
    assert verdict.missing


def test_a_layout_that_is_not_known_here() -> None:
    verdict = judge(recorded("openpi"), load_profile("lerobot-xvla-libero"))
    assert isinstance(verdict, Abstention)
