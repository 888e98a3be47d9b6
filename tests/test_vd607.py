"""VD607 gl-backend: asked for, in use, and by what; and how that is read."""

from __future__ import annotations

from typing import Any

import pytest
from protocols import abstains, episode, is_clear, problem, verdicts

from vladoctor.check import Severity
from vladoctor.checks.vd607_gl_backend import CHECK
from vladoctor.taps.rendering import gl_facts

GPU = ["/dev/nvidia0"]
H200, LLVMPIPE = "NVIDIA H200/PCIe/SSE2", "llvmpipe (LLVM 15.0.6, 256 bits)"


def drawn(
    renderer: str = H200, backend: str = "egl", asked: str = "egl", gpus: list[str] | None = None, **misspelt: str
) -> Any:
    gl = {
        "asked": {"MUJOCO_GL": asked} if asked else {},
        "backend": backend,
        "renderer": renderer,
        "vendor": "",
        "gpus": GPU if gpus is None else gpus,
        "misspelt": misspelt,
    }
    return episode(gl=gl)


@pytest.mark.parametrize(
    "recorded",
    [
        drawn(),
        drawn(asked=""),
        drawn(LLVMPIPE, gpus=[]),
        drawn("", backend="osmesa", asked="osmesa"),
        drawn("", backend="glfw", asked="glx"),
        drawn("", asked="on"),
    ],
)
def test_what_was_asked_for_is_clear(recorded: Any) -> None:
    assert is_clear(CHECK, recorded)


@pytest.mark.parametrize(
    ("recorded", "words"),
    [
        (drawn(asked="osmesa"), "had been imported already"),
        (drawn(LLVMPIPE), "by the CPU, egl (llvmpipe"),
        (drawn("", backend="osmesa", asked=""), "by the CPU, osmesa"),
        (drawn(MUJUCO_GL="MUJOCO_GL"), "MUJUCO_GL is set, which nothing reads"),
    ],
)
def test_what_is_otherwise_is_worth_a_look(recorded: Any, words: str) -> None:
    found = problem(CHECK, recorded)
    assert found.severity is Severity.LOOK
    assert words in found.message
    assert len(verdicts(CHECK, recorded)) == 1


def test_nothing_is_said_of_what_was_not_recorded() -> None:
    assert abstains(CHECK, episode())
    assert abstains(CHECK, drawn(backend=""))


def test_variables_and_their_misspellings_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setenv("MUJUCO_GL", "osmesa")
    monkeypatch.setenv("MUJOCO_PATH", "/opt/mujoco")
    found = gl_facts()
    assert found["asked"]["MUJOCO_GL"] == "egl"
    assert found["misspelt"] == {"MUJUCO_GL": "MUJOCO_GL"}


@pytest.mark.simulator
def test_the_renderer_in_use_is_read(libero_env: Any) -> None:
    from vladoctor.adapters import libero
    from vladoctor.taps.env import environment_facts, simulator_state

    env, task = libero_env()
    libero.reset_to(env, task.init_states[3])
    facts = environment_facts(env)
    assert (facts["control_freq"], facts["environment_horizon"]) == (20.0, 1000.0)
    assert facts["gl"]["backend"] in ("egl", "osmesa")
    assert facts["gl"]["backend"] == "osmesa" or facts["gl"]["renderer"]
    assert simulator_state(env.env) == pytest.approx(task.init_states[3].tolist())


def test_an_object_that_is_no_environment_has_no_facts_of_one() -> None:
    from vladoctor.taps.env import environment_facts, simulator_state

    assert set(environment_facts(object())) == {"gl"}
    assert simulator_state(object()) is None
