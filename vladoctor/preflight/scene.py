"""Level 1, the scene: the environment is made, drawn, reset into an init state and probed. In a child process, since a
GL driver can end it, LIBERO's import asks a question, and its reset can go on for ever.

The scripted motion is recorded by the taps and judged by the checks, as a policy's episode would be.
"""

from __future__ import annotations

import shutil
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vladoctor.check import Abstention, Clear, Problem
from vladoctor.errors import UserError
from vladoctor.preflight import known, probes
from vladoctor.preflight.looks import IMPORTING, Context, Look, TroubleError, finding
from vladoctor.preflight.result import ABSTAINED, OK, Item, judged, problem
from vladoctor.records import Episode, Outcome, Query
from vladoctor.trace import read_episode

MOTION = (1.0, 0.0, 1.0, 0.0, 0.0, 0.0)
"""What the arm is told while frames are taken: forward and up, away from the table."""

FRAMES = 8
"""Steps of it: 8 to 9 cm on LIBERO's arm, and VD101 wants 5."""


def looks(context: Context) -> list[Look]:
    """What is looked at, of this run."""
    if context.spec.loop is not None:
        return [Look(1, "drawing", "VD607", _draws, "loop", limit=IMPORTING)]
    found = [
        Look(1, "tasks and init states", "VD602", _tasks, "env.init_states", limit=IMPORTING),
        Look(1, "environment", "VD607", _environment, "env", limit=IMPORTING),
        Look(1, "GL backend", "VD607", _backend, "env"),
        Look(1, "frames under motion", "VD101", _frames, "env.camera"),
        Look(1, "init state", "VD602", _init_state, "env.init_states"),
        Look(1, "control rate", "VD606", _rate, "env"),
        Look(1, "probes", "VD503", _probes, "env"),
    ]
    return found


def _tasks(context: Context) -> Iterator[Item]:
    from vladoctor.adapters import libero

    _, env = context.spec.own_loop()
    libero.prepare(env.assets)
    names = range(len(libero.suite_tasks(env.suite))) if env.tasks == "all" else env.tasks
    tasks = []
    for name in names:
        try:
            tasks.append(libero.load_task(env.suite, name))
        except UserError as error:
            if error.where in ("task", "suite") or "task" in error.where:
                error.code = "VD302"  # type: ignore[attr-defined]
            raise
    for task in tasks:
        wrong = [state for state in env.init_states if not 0 <= state < len(task.init_states)]
        if wrong:
            raise TroubleError(
                "VD602",
                f"Task {task.name} has no init state {wrong[0]}; it has {len(task.init_states)}.",
                f"Use 0 to {len(task.init_states) - 1} in env.init_states.",
                evidence={"seen": wrong[0], "expected": f"0 to {len(task.init_states) - 1}"},
            )
    context.have |= {"tasks": tasks, "task": tasks[0]}
    asked = f"{len(env.init_states)} of {len(tasks[0].init_states)} init states"
    yield Item(1, "tasks and init states", OK, f"{len(tasks)} task{'s' if len(tasks) > 1 else ''}, {asked}")


def _environment(context: Context) -> Iterator[Item]:
    from vladoctor.adapters import libero

    task, (_, spec) = context.need("task"), context.spec.own_loop()
    _fault(context)
    try:
        env = libero.make_env(task, resolution=spec.size, cameras=(spec.camera,), seed=spec.env_seed)
    except UserError as error:
        # Which of the things that making an environment needs is not there.
        place = error.where.partition(":")[0]
        error.code = "VD103" if place == "env.camera" else "VD607" if "MUJOCO_GL" in place else "VD104"  # type: ignore[attr-defined]
        raise
    except Exception as error:
        raise TroubleError(
            "VD703",
            f"The environment cannot be made: {type(error).__name__}: {str(error).strip()[:300] or 'no message'}",
            "docs/install.md lists the versions of mujoco, robosuite and numpy that LIBERO runs on, and those that it "
            "does not.",
            evidence={"seen": traceback.format_exc()[-2000:]},
        ) from error
    context.have["close"] = lambda: libero.close_env(env)
    _require_size(probes.arm_of(env), context)
    context.have["environment"] = env
    yield Item(1, "environment", OK, f"{type(env).__name__} of {task.name[:60]}, {spec.size} px")


def _require_size(arm: probes.Arm | None, context: Context) -> None:
    """An environment whose actions have another length can be told nothing."""
    names = tuple(context.profile.get("action.dimensions") or ())
    if arm is not None and names and arm.size != len(names):
        raise TroubleError(
            "VD503",
            f"The environment takes actions of {arm.size} values, and this checkpoint's have {len(names)} "
            f"({', '.join(map(str, names))}).",
            "Make the environment with the controller of the data; LIBERO's are of OSC_POSE.",
            evidence={"seen": f"{arm.size} values", "expected": f"{len(names)} values"},
        )


def _fault(context: Context) -> None:
    """Faults of the run file that are made before the environment: here too. They go with the process."""
    from vladoctor.check import all_faults

    for name in context.spec.fault:
        before = all_faults()[name][0].before_env
        if before is not None:
            before()


def _backend(context: Context) -> Iterator[Item]:
    from vladoctor.taps.env import environment_facts

    env = context.need("environment")
    facts = environment_facts(env)
    context.have["facts"] = facts
    result = known.ask("VD607", known.episode(context.spec, task=facts), context.profile, context.spec)
    yield from judged(1, "GL backend", result, expected="a GPU where there is one")


def _frames(context: Context) -> Iterator[Item]:
    env, task, (_, spec) = context.need("environment"), context.need("task"), context.spec.own_loop()
    try:
        recorded = record_motion(env, task.init_states[spec.init_states[0]], spec.camera, context)
    except UserError:
        raise
    except Exception as error:
        raise TroubleError(
            "VD604",
            f"The environment raises when it is reset or stepped: {type(error).__name__}: {str(error).strip()[:300]}",
            "Every episode would end here, or be papered over. See where it comes from in the JSON output.",
            evidence={"seen": traceback.format_exc()[-2000:]},
        ) from error
    context.have["motion"] = recorded
    for code in ("VD101", "VD102"):
        yield from judged(
            1, "frames under motion", known.ask(code, recorded, context.profile, context.spec), expected=_scene(code)
        )


def _scene(code: str) -> str:
    return "a scene" if code == "VD101" else "another frame whenever the hand moves"


def record_motion(env: Any, init_state: np.ndarray, camera: str, context: Context) -> Episode:
    """Reset, set the init state, move for a few steps; as the taps record it, with a question that nobody answered."""
    from vladoctor.adapters import libero
    from vladoctor.taps.env import watch_env
    from vladoctor.taps.recorder import Recorder
    from vladoctor.trace import TraceWriter

    opens = float(context.profile.get("gripper.environment_open") or -1.0)
    folder = Path(tempfile.mkdtemp(prefix="vladoctor-preflight-"))
    try:
        facts = {"camera": camera, **context.have.get("facts", {}), "suite": context.spec.own_loop()[1].suite}
        writer = TraceWriter(folder / "motion.mcap", {"spec": context.spec.to_json()}, facts, full_every=1)
        recorder = Recorder(writer)
        try:
            watch_env(env, recorder, [camera])
            libero.reset_to(env, init_state)
            for _ in range(FRAMES):
                env.step([*MOTION, opens])
        finally:
            recorder.close(Outcome("interrupted", False, FRAMES))
        read = read_episode(folder / "motion.mcap")
        for step in read.steps:
            for frame in step.frames.values():
                frame.best  # noqa: B018 - decoded now, as the file goes
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    first = read.steps[0].number if read.steps else 0
    steps = [
        replace(step, number=step.number - first, query=Query(known.BOUNDARY) if index == 0 else None)
        for index, step in enumerate(read.steps)
    ]
    return replace(read, steps=steps)


def _init_state(context: Context) -> Iterator[Item]:
    recorded = context.need("motion")
    yield from judged(
        1, "init state", known.ask("VD602", recorded, context.profile, context.spec), expected="set after the reset"
    )


def _rate(context: Context) -> Iterator[Item]:
    """Control steps a second, by the simulator's own clock rather than by what the environment says."""
    recorded, env = context.need("motion"), context.need("environment")
    arm = probes.arm_of(env)
    task = dict(recorded.task)
    told = task.get("control_freq")
    if arm is not None:
        began = arm.seconds()
        for _ in range(4):
            arm.step([0.0] * arm.size)
        took = arm.seconds() - began
        if took > 0:
            task["control_freq"] = 4 / took
    result = known.ask("VD606", replace(recorded, task=task), context.profile, context.spec)
    expected = context.profile.get("loop.control_freq")
    yield from judged(1, "control rate", result, expected=f"{expected} Hz" if expected else "")
    if told is not None and task.get("control_freq") and abs(told - task["control_freq"]) > 0.01 * told:
        yield Item(1, "control rate", ABSTAINED, reason=f"the environment itself says {told:g} Hz")


def _probes(context: Context) -> Iterator[Item]:
    from vladoctor.adapters import libero

    env, task, (_, spec) = context.need("environment"), context.need("task"), context.spec.own_loop()
    libero.reset_to(env, task.init_states[spec.init_states[0]])
    yield from probe(env, context)


def probe(env: Any, context: Context) -> Iterator[Item]:
    """Probe an environment that is at rest in an init state; it is no good for anything else afterwards."""
    arm, profile = probes.arm_of(env), context.profile
    if arm is None:
        yield Item(1, "probes", ABSTAINED, reason=f"nobody has said how to probe a {type(env).__name__}")
        return
    if isinstance(arm, probes.RobosuiteArm):
        arm.without_cameras()
    seen = probes.measure(arm, profile)
    if seen is None:
        yield Item(1, "probes", ABSTAINED, reason=f"profile {profile.name} does not say what its actions do")
        return
    for what, code, verdict in probes.judge(seen, profile):
        if isinstance(verdict, Problem):
            found = finding(code, verdict.message, verdict.remedy, verdict.severity, verdict.evidence)
            yield problem(1, what, found)
        elif isinstance(verdict, Clear):
            yield Item(1, what, OK, verdict.message, _expected(what, context))
        elif isinstance(verdict, Abstention):
            yield Item(1, what, ABSTAINED, reason=verdict.reason)


def _expected(what: str, context: Context) -> str:
    profile = context.profile
    if what == "gripper":
        return f"{profile.get('gripper.environment_open'):+g} opens"
    if what == "hold":
        return "displacements, so nothing at zero"
    scale = profile.get("environment.action_scale") or {}
    sizes = [f"{scale[kind]} {unit}" for kind, unit in (("translation", "m"), ("rotation", "rad")) if kind in scale]
    return f"displacements in the base's frame{', 1 = ' if sizes else ''}{', '.join(sizes)}"


DRAW = """
<mujoco>
  <visual><headlight ambient=".4 .4 .4" diffuse=".6 .6 .6"/></visual>
  <worldbody>
    <light pos="0 0 3"/><camera name="camera" pos="0 -1.5 .5" xyaxes="1 0 0 0 .3 1"/>
    <geom type="plane" size="2 2 .1" rgba=".3 .4 .5 1"/>
    <body name="ball" pos="0 0 .5">
      <joint type="slide" axis="1 0 0"/><geom type="sphere" size=".2" rgba=".9 .2 .1 1"/>
    </body>
  </worldbody>
</mujoco>
"""


def _draws(context: Context) -> Iterator[Item]:
    """For a program of one's own: whether MuJoCo draws here at all, under the variables as they are."""
    import importlib.util

    if importlib.util.find_spec("mujoco") is None:
        yield Item(1, "drawing", ABSTAINED, reason="MuJoCo is not installed here")
        return
    frames = draw()
    if max(int(frame.max()) for frame in frames) <= 10:
        raise TroubleError(
            "VD101",
            "MuJoCo draws black frames here.",
            "Try MUJOCO_GL=egl, then MUJOCO_GL=osmesa; in a container GL needs NVIDIA_DRIVER_CAPABILITIES=all.",
            evidence={"seen": "black", "expected": "a scene"},
        )
    if (frames[0] == frames[1]).all():
        raise TroubleError(
            "VD102",
            "MuJoCo draws the same frame before and after a ball was moved across it.",
            "Try MUJOCO_GL=egl, then MUJOCO_GL=osmesa.",
            evidence={"seen": "one frame", "expected": "two"},
        )
    from vladoctor.taps.rendering import gl_facts

    yield from judged(
        1,
        "drawing",
        known.ask("VD607", known.episode(context.spec, task={"gl": gl_facts()}), context.profile, context.spec),
    )


def draw() -> Sequence[np.ndarray]:
    """Two frames of a ball that is moved in between, uint8 (64, 64, 3), through robosuite's context if it is there.

    Raises:
        TroubleError: MuJoCo cannot draw.
    """
    import os

    try:
        # What LIBERO's environments do: robosuite chooses EGL where nothing is chosen.
        if "MUJOCO_GL" not in os.environ:
            os.environ["MUJOCO_GL"] = "egl"
        import mujoco

        model = mujoco.MjModel.from_xml_string(DRAW)
        data = mujoco.MjData(model)
        frames = []
        with mujoco.Renderer(model, 64, 64) as renderer:
            for place in (-0.3, 0.3):
                data.qpos[0] = place
                mujoco.mj_forward(model, data)
                renderer.update_scene(data, camera="camera")
                frames.append(renderer.render().copy())
    except Exception as error:
        from vladoctor.adapters.libero import GL_PACKAGES

        chosen = os.environ.get("MUJOCO_GL", "")
        raise TroubleError(
            "VD607",
            f"MuJoCo cannot draw without a display (MUJOCO_GL={chosen}): {type(error).__name__}: {error}",
            f"{'' if chosen == 'egl' else 'Set MUJOCO_GL=egl; if that fails too, '}on Debian or Ubuntu: "
            f"apt-get install --no-install-recommends {GL_PACKAGES}; without root, a container that has them",
            evidence={"seen": f"{type(error).__name__}", "expected": "frames"},
        ) from error
    return frames
