"""Behavioural probes on LIBERO's own environment: the healthy one is left in peace, each broken one named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vladoctor.adapters import libero
from vladoctor.check import Abstention, Clear, Problem, Verdict
from vladoctor.preflight import probes
from vladoctor.preflight.looks import Context
from vladoctor.preflight.probes import Probed, RobosuiteArm, arm_of, judge, measure
from vladoctor.preflight.scene import probe
from vladoctor.profiles import load_profile
from vladoctor.runspec import load_run

PROFILE = load_profile("openvla-libero")


class Changed:
    """An environment behind a wrapper that does something to actions."""

    def __init__(self, env: Any, change: Callable[[np.ndarray], np.ndarray]) -> None:
        self.inner, self.change = env, change

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def step(self, action: Any) -> Any:
        return self.inner.step(list(self.change(np.array(action, dtype=float))))


@pytest.fixture(scope="module")
def healthy_arm() -> Iterator[Any]:
    """An environment of this module's own: probing leaves nothing that others could use."""
    libero.prepare("stand-in")
    task = libero.load_task("libero_object", 0)
    env = libero.make_env(task, resolution=64)
    yield env, task
    libero.close_env(env)


def seen_of(healthy_arm: Any, change: Callable[[np.ndarray], np.ndarray]) -> list[tuple[str, Verdict]]:
    env, task = healthy_arm
    libero.reset_to(env, task.init_states[30])
    arm = RobosuiteArm(Changed(env, change))
    arm.without_cameras()
    seen = measure(arm, PROFILE)
    assert seen is not None
    return verdicts(seen)


def swapped(action: np.ndarray) -> np.ndarray:
    return action[[1, 0, 2, 3, 4, 5, 6]]


@pytest.mark.simulator
@pytest.mark.parametrize(
    ("change", "wrong", "words"),
    [
        (lambda action: action, None, ""),
        (lambda action: action * [1, 1, 1, 1, 1, 1, -1], "gripper", "turned round"),
        (swapped, "arm", "x goes along +y"),
        (lambda action: action + np.array([0, 0, 0.5, 0, 0, 0, 0]), "hold", "while it is commanded zeros"),
    ],
    ids=["healthy", "gripper", "swapped", "offset"],
)
def test_on_libero(healthy_arm: Any, change: Callable[[np.ndarray], np.ndarray], wrong: str | None, words: str) -> None:
    said = seen_of(healthy_arm, change)
    problems = {what: verdict for what, verdict in said if isinstance(verdict, Problem)}
    assert set(problems) == ({wrong} if wrong else set())
    if wrong:
        assert words in problems[wrong].message
        assert problems[wrong].remedy
    else:
        assert all(isinstance(verdict, Clear) for _, verdict in said)


# Without a simulator: what is measured, judged.


def probed(**changed: Any) -> Probed:
    """What a healthy arm does, exactly."""
    moved, turned = np.zeros((6, 2, 3)), np.zeros((6, 2, 3))
    for dim, share in enumerate(probes.RESPONSE):
        for side, sign in enumerate((1.0, -1.0)):
            if dim < 3:
                moved[dim, side, dim] = sign * probes.PUSH * 0.05 * share
            else:
                turned[dim, side, dim - 3] = sign * probes.TURN * 0.5 * share
    down = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
    return replace(
        Probed(7, moved, turned, down, 0.003, (0.08, 0.002, 0.078), 20.0, (0.05,) * 3 + (0.5,) * 3, 166), **changed
    )


def verdicts(seen: Probed, profile: Any = PROFILE) -> list[tuple[str, Verdict]]:
    return [(what, verdict) for what, _, verdict in judge(seen, profile)]


def test_the_hands_frame_is_told_from_other_mistakes() -> None:
    healthy = probed()
    turned = np.einsum("ij,dsj->dsi", healthy.hand, healthy.moved)
    messages = [verdict.message for _, verdict in verdicts(probed(moved=turned)) if isinstance(verdict, Problem)]
    assert len(messages) == 1
    assert "frame of the hand" in messages[0]


def test_a_profile_that_says_less_is_judged_less() -> None:
    silent = PROFILE.with_overrides({"environment.action_scale": None, "gripper.environment_open": None})
    small = probed(moved=probed().moved * 3)
    found = dict(verdicts(small, silent))
    assert isinstance(found["arm"], Clear)
    assert isinstance(found["gripper"], Abstention)


def test_at_another_control_rate_distances_are_not_compared() -> None:
    far = probed(moved=probed().moved * 2, turned=probed().turned * 2)
    assert isinstance(dict(verdicts(far))["arm"], Problem)
    assert isinstance(dict(verdicts(replace(far, frequency=10.0)))["arm"], Clear)


def test_the_controllers_own_word_is_told() -> None:
    far = probed(moved=probed().moved * 3, scale=(0.15, 0.15, 0.15, 0.5, 0.5, 0.5))
    (problem,) = [verdict for _, verdict in verdicts(far) if isinstance(verdict, Problem)]
    assert "its controller says that 1 means 0.15 m" in problem.message


def test_a_gripper_that_does_nothing() -> None:
    (problem,) = [
        verdict for _, verdict in verdicts(probed(apertures=(0.04, 0.04, 0.04))) if isinstance(verdict, Problem)
    ]
    assert "does not heed" in problem.message
    assert isinstance(dict(verdicts(probed(apertures=None)))["gripper"], Abstention)


def test_an_unknown_environment_is_not_probed() -> None:
    env = SimpleNamespace(step=lambda action: None)
    assert arm_of(env) is None
    (item,) = probe(env, Context(load_run("demo"), PROFILE))
    assert item.state == "abstained"
    assert item.finding is None


def test_actions_of_which_nothing_is_known_are_not_probed() -> None:
    class Joints:
        name, size = "joints", 8

    assert measure(Joints(), PROFILE) is None  # type: ignore[arg-type]
    unknown = load_profile("unknown")
    assert measure(SimpleNamespace(size=7), unknown) is None  # type: ignore[arg-type]
