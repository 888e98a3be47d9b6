"""Behavioural probes: what an arm does when it is told one thing at a time, against what the profile says of it.

Invasive: the environment is stepped about 150 times, so it has to be one of its own. `measure` measures, `judge`
judges; between them stands `Probed`, plain numbers. An environment is probed through an `Arm`; robosuite's (LIBERO)
is here, another simulator's is one more class. Of what has no `Arm` nothing is said.

Each dimension of the arm is told +1 for a few steps and nothing for a few more, then -1. What the hand did, halved and
signed, is a row of a matrix: its direction says which axis the dimension moves, and in which frame; its length, how
far.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from vladoctor.check import Abstention, Clear, Problem, Severity, Verdict
from vladoctor.profiles import Profile

PUSH, TURN, REST = 4, 2, 6
"""Steps that a translation and a rotation are commanded for, and steps of nothing behind each."""

HOLD, GRIP = 10, 16
"""Steps of nothing at the start; steps of each gripper command. LIBERO's Panda takes about 15 to close."""

RESPONSE = (0.230, 0.263, 0.257, 0.477, 0.329, 0.381)
"""Share of what each dimension was commanded that the hand has done at the end of PUSH + REST (TURN + REST) steps, by
robosuite's OSC_POSE as shipped (kp 150) on LIBERO's Panda; see `WITHIN`."""

WITHIN = (0.6, 1.6)
"""Multiples of that within which a response counts as the same. Measured: see docs/evidence.md, section probes, where
healthy environments stay within 0.02 of 1; other scenes hold the arm otherwise, hence the width."""

ALONG = 0.85
"""Cosine from which a motion is along an axis. Measured as above: 0.99 and more."""

STILL_M, STILL_RAD = 0.004, 0.03
"""Motion below which a command did nothing; a unit command does more than ten times as much."""

DRIFT_M = 0.05
"""As VD503: a hand that is told nothing moves by less than 2 cm."""

GAPE_M = 0.01
"""Change of the distance between the fingers that counts; the Panda's is 0.08 m wide."""

NAMES = ("x", "y", "z", "roll", "pitch", "yaw")
AXES = ("x", "y", "z")


class Arm(Protocol):
    """What a probe needs of an environment."""

    name: str
    size: int
    """Length of an action."""

    def step(self, action: Sequence[float]) -> None: ...

    def hand(self) -> tuple[np.ndarray, np.ndarray]:
        """Position (3,) in metres and rotation (3, 3) of the hand in the frame of the arm's base."""

    def aperture(self) -> float | None:
        """Distance between the fingers in metres; None where there are none."""

    def seconds(self) -> float:
        """The simulator's time."""

    def scale(self) -> tuple[float, ...] | None:
        """What 1 means to the controller by its own word, in metres and radians; None where it says nothing."""


class RobosuiteArm:
    """A single-armed robosuite environment, or LIBERO's wrapper of one."""

    name = "robosuite"

    def __init__(self, env: Any) -> None:
        self.env, self._below = env, getattr(env, "env", env)
        self.robot = self._below.robots[0]
        self.size = int(self._below.action_dim)
        self._site = self.robot.sim.model.site_name2id(self.robot.gripper.important_sites["grip_site"])

    def step(self, action: Sequence[float]) -> None:
        self.env.step(list(action))

    def hand(self) -> tuple[np.ndarray, np.ndarray]:
        data = self._below.sim.data
        base = np.array(self.robot.base_ori if hasattr(self.robot, "base_ori") else np.eye(3), dtype=np.float64)
        base = base if base.shape == (3, 3) else np.eye(3)
        place = np.array(data.site_xpos[self._site], dtype=np.float64)
        turn = np.array(data.site_xmat[self._site], dtype=np.float64).reshape(3, 3)
        return base.T @ place, base.T @ turn

    def aperture(self) -> float | None:
        fingers = self._below.sim.data.qpos[self.robot._ref_gripper_joint_pos_indexes]
        return float(abs(fingers[0] - fingers[1])) if len(fingers) == 2 else None

    def seconds(self) -> float:
        return float(self._below.sim.data.time)

    def scale(self) -> tuple[float, ...] | None:
        most = getattr(self.robot.controller, "output_max", None)
        return None if most is None else tuple(float(value) for value in np.ravel(most))

    def without_cameras(self) -> None:
        """Draw nothing from here on: a step then takes a quarter of the time."""
        for name in list(getattr(self._below, "_observables", {})):
            if name.endswith("_image"):
                self._below.modify_observable(name, "enabled", False)
                self._below.modify_observable(name, "active", False)


def arm_of(env: Any) -> Arm | None:
    """How to probe an environment; None where nobody has said."""
    below = getattr(env, "env", env)
    if len(getattr(below, "robots", ()) or ()) == 1 and hasattr(below, "sim"):
        try:
            return RobosuiteArm(env)
        except (AttributeError, KeyError, ValueError):
            return None
    return None


@dataclass(frozen=True, eq=False)
class Probed:
    """What an arm did.

    Attributes:
        size: length of an action.
        moved: float64 (arm dimensions, 2, 3): metres, of each dimension told +1 and -1.
        turned: the same, rotation vectors in radians, in the frame of the base.
        hand: float64 (3, 3), the hand's rotation in the base's frame at the start.
        drift: metres that it moved while it was told nothing.
        apertures: metres after the command that opens by the profile, after the one that closes, after opening again.
        frequency: control steps a second of simulated time.
        scale: what the controller says that 1 means to it.
        steps: how many were made.
    """

    size: int
    moved: np.ndarray
    turned: np.ndarray
    hand: np.ndarray
    drift: float
    apertures: tuple[float, float, float] | None
    frequency: float
    scale: tuple[float, ...] | None
    steps: int


def measure(arm: Arm, profile: Profile) -> Probed | None:
    """Probe an arm at rest; None where the profile does not say what its actions are, or they have another size.

    The environment is not usable for anything else afterwards without a reset.
    """
    names = tuple(profile.get("action.dimensions") or ())
    if names[:6] != NAMES or arm.size != len(names) or profile.get("action.frame") != "delta":
        return None
    opens = float(profile.get("gripper.environment_open") or 0.0)
    steps = 0

    def told(values: Mapping[int, float], gripper: float, times: int) -> None:
        nonlocal steps
        action = [0.0] * arm.size
        for place, value in values.items():
            action[place] = value
        if len(names) > 6:
            action[6] = gripper
        for _ in range(times):
            arm.step(action)
            steps += 1

    start, began = arm.hand(), arm.seconds()
    told({}, opens, HOLD)
    place, hand = arm.hand()
    drift = float(np.linalg.norm(place - start[0]))
    moved, turned = np.zeros((6, 2, 3)), np.zeros((6, 2, 3))
    for dim in range(6):
        for side, sign in enumerate((1.0, -1.0)):
            before = arm.hand()
            told({dim: sign}, opens, PUSH if dim < 3 else TURN)
            told({}, opens, REST)
            after = arm.hand()
            moved[dim, side] = after[0] - before[0]
            turned[dim, side] = rotation_vector(after[1] @ before[1].T)
    apertures = None
    if len(names) > 6 and opens and arm.aperture() is not None:
        found = []
        for sign in (opens, -opens, opens):
            told({}, sign, GRIP)
            found.append(float(arm.aperture() or 0.0))
        apertures = (found[0], found[1], found[2])
    took = arm.seconds() - began
    frequency = steps / took if took > 0 else float("nan")
    return Probed(arm.size, moved, turned, hand, drift, apertures, frequency, arm.scale(), steps)


def rotation_vector(rotation: np.ndarray) -> np.ndarray:
    """Axis times angle in radians of a rotation matrix (3, 3)."""
    from scipy.spatial.transform import Rotation

    vector: np.ndarray = Rotation.from_matrix(rotation).as_rotvec()
    return vector


def judge(seen: Probed, profile: Profile) -> Iterator[tuple[str, str, Verdict]]:
    """(what was looked at, code, verdict), of every probe."""
    hold = _hold(seen)
    yield "hold", "VD503", hold
    if isinstance(hold, Problem):
        yield "arm", "VD503", Abstention("an arm that does not stand still at zero does not show what a command does")
    else:
        for verdict in _arm(seen, profile):
            yield "arm", "VD503", verdict
    yield "gripper", "VD502", _gripper(seen, profile)


def _arm(seen: Probed, profile: Profile) -> Iterator[Verdict]:
    said: list[str] = []
    evidence: dict[str, Any] = {}
    expected = profile.get("loop.control_freq")
    # At another rate every command lasts longer or shorter, which VD606 says.
    comparable = expected is None or abs(seen.frequency - expected) <= 0.01 * expected
    for kind, motion, first, unit in (("translation", seen.moved, 0, PUSH), ("rotation", seen.turned, 3, TURN)):
        rows = (motion[first : first + 3, 0] - motion[first : first + 3, 1]) / 2.0
        still = STILL_M if kind == "translation" else STILL_RAD
        problem = _silent(rows, kind, still) or _directions(rows, kind, seen.hand)
        if problem is not None:
            yield problem
            continue
        scale = (profile.get("environment.action_scale") or {}).get(kind)
        if scale is None or not comparable:
            said.append(f"{kind}s along their own axes")
            continue
        usual = np.array(RESPONSE[first : first + 3])
        ratios = np.linalg.norm(rows, axis=1) / (unit * float(scale) * usual)
        evidence[kind] = [round(float(value), 3) for value in ratios]
        far = _far(ratios, kind, float(scale), seen)
        if far is not None:
            yield far
        else:
            said.append(f"{kind}s along their own axes, {ratios.min():.2f} to {ratios.max():.2f} of the usual way")
    if said:
        yield Clear("; ".join(said), evidence)


def _silent(rows: np.ndarray, kind: str, still: float) -> Problem | None:
    """Dimensions that do nothing."""
    names = NAMES[:3] if kind == "translation" else NAMES[3:]
    silent = [name for name, row in zip(names, rows, strict=True) if np.linalg.norm(row) < still]
    if not silent:
        return None
    whole = len(silent) == 3
    return Problem(
        message=f"The environment does not heed {'the ' + kind if whole else ', '.join(silent)}: told +1 and -1, the "
        "hand stays as it is.",
        remedy="Look at the controller that the environment was made with: LIBERO's data are of OSC_POSE, which has "
        "three translations and three rotations; and for a wrapper that drops values.",
        severity=Severity.STOP,
        evidence={"expected": f"{', '.join(names)} move the hand", "seen": f"{', '.join(silent)} do nothing"},
    )


def _directions(rows: np.ndarray, kind: str, hand: np.ndarray) -> Problem | None:
    """Dimensions that move the hand along another axis than their own, in the base's frame."""
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    if (np.diag(units) >= ALONG).all():
        return None
    names = NAMES[:3] if kind == "translation" else NAMES[3:]
    about = "along" if kind == "translation" else "about"
    words = [f"{name} {_axis(unit, about)}" for name, unit in zip(names, units, strict=True)]
    in_hand = bool((np.sum(units * hand.T, axis=1) >= ALONG).all())
    what = (
        f"{kind.capitalize()}s are taken in the frame of the hand, and this checkpoint's are in the frame of the base"
        if in_hand
        else f"{kind.capitalize()}s go elsewhere than they are meant to: {'; '.join(words)}"
    )
    return Problem(
        message=f"{what}. The arm moves along other axes than the policy means.",
        remedy="Look for a wrapper that reorders or negates values, and at the controller's configuration; robosuite's "
        "OSC_POSE takes both in the frame of the base.",
        severity=Severity.STOP,
        evidence={
            "expected": f"each {kind} {about} its own axis of the base",
            "seen": "; ".join(words),
            "per_dimension": {name: [round(float(v), 3) for v in row] for name, row in zip(names, rows, strict=True)},
        },
    )


def _axis(unit: np.ndarray, about: str) -> str:
    place = int(np.abs(unit).argmax())
    sign = "-" if unit[place] < 0 else "+"
    if abs(unit[place]) < ALONG:
        return f"goes {about} [{', '.join(f'{value:.2f}' for value in unit)}]"
    return f"goes {about} {sign}{AXES[place]}"


def _far(ratios: np.ndarray, kind: str, scale: float, seen: Probed) -> Problem | None:
    low, high = WITHIN
    if ((ratios >= low) & (ratios <= high)).all():
        return None
    unit = "m" if kind == "translation" else "rad"
    # What the controller says itself is exact where it is another number.
    place = 0 if kind == "translation" else 3
    own = seen.scale[place] if seen.scale is not None and len(seen.scale) > place else None
    known = f"; its controller says that 1 means {own:g} {unit}" if own is not None and own != scale else ""
    names = NAMES[:3] if kind == "translation" else NAMES[3:]
    listed = ", ".join(f"{name} {ratio:.2f}" for name, ratio in zip(names, ratios, strict=True))
    return Problem(
        message=f"A unit {kind} takes the hand {float(np.median(ratios)):.2g} times as far as in this environment as "
        f"it is shipped, where 1 means {scale:g} {unit}{known}. Every motion has another size than the policy means.",
        remedy="Make the environment with the controller of the data (LIBERO: OSC_POSE, kp 150, output_max 0.05 and "
        "0.5, at 20 Hz), and look for a factor in a wrapper.",
        severity=Severity.FIX,
        evidence={
            "expected": f"{scale:g} {unit} for 1",
            "seen": f"{listed} times as far",
            "ratios": [round(float(value), 3) for value in ratios],
            "controller_scale": list(seen.scale or ()),
        },
    )


def _hold(seen: Probed) -> Verdict:
    if seen.drift < DRIFT_M:
        return Clear(f"told nothing for {HOLD} steps, the hand moves by {1e3 * seen.drift:.0f} mm", {"m": seen.drift})
    return Problem(
        message=f"The hand moves by {100 * seen.drift:.0f} cm while it is commanded zeros: the environment takes a "
        "command as a place to go to, and this checkpoint answers with displacements.",
        remedy="Set the controller to displacements (robosuite 1.4: control_delta; 1.5: input_type), and read it back "
        "from it: robot.controller.use_delta.",
        severity=Severity.STOP,
        evidence={"expected": "displacement", "seen": "place", "drift_cm": round(100 * seen.drift, 1)},
    )


def _gripper(seen: Probed, profile: Profile) -> Verdict:
    opens = profile.get("gripper.environment_open")
    if opens is None:
        return Abstention(f"profile {profile.name} does not say which sign opens the gripper")
    if seen.apertures is None:
        return Abstention("the environment has no two fingers whose distance could be measured")
    opened, closed, again = seen.apertures
    told = f"{1e3 * opened:.0f}, {1e3 * closed:.0f} and {1e3 * again:.0f} mm"
    sequence = f"{opens:+.0f}, {-opens:+.0f}, {opens:+.0f}"
    evidence = {"aperture_mm": [round(1e3 * value, 1) for value in seen.apertures]}
    if min(opened, again) - closed >= GAPE_M:
        return Clear(f"at {sequence} the fingers are {told} apart", evidence)
    if closed - max(opened, again) >= GAPE_M:
        return Problem(
            message=f"The gripper is turned round: at {sequence} the fingers are {told} apart. {opens:+.0f} opens this "
            "environment's gripper as it is shipped.",
            remedy="Look for a wrapper around the environment, or a gripper model, that negates the last value.",
            severity=Severity.STOP,
            evidence={"expected": f"{opens:+.0f} opens", "seen": f"{-opens:+.0f} opens", **evidence},
        )
    return Problem(
        message=f"The gripper does not heed its command: at {sequence} the fingers are {told} apart.",
        remedy="Look for a wrapper that drops the last value or writes 0 into it, and for a robot without a gripper.",
        severity=Severity.STOP,
        evidence={"expected": "fingers that open and close", "seen": told, **evidence},
    )
