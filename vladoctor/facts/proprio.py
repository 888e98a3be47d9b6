"""The state that the policy was given, beside what the environment said of the same step.

A state vector is described by its layout, element by element (`proprio.layout` of a profile). What each element should
have been is made of the environment's own observation; and so is what it becomes by every mistake that is known here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vladoctor.facts.actions import POSITION
from vladoctor.facts.gripper import FINGERS

if TYPE_CHECKING:
    from vladoctor.profiles import Profile
    from vladoctor.records import Episode

QUATERNION = ("robot0_eef_quat", "eef_quat")
"""Names of the hand's orientation in an observation, xyzw."""

MODEL_SLOT = "model/"
"""How the names begin under which a server records what its transforms made of a state: normalised, padded."""

CLOSE = 1e-4
"""Difference that counts as none, metres or radians: float32 is off by 3e-7, text of six digits by 1e-6."""

PARTS: Mapping[str, tuple[str, ...]] = {
    "position": ("x", "y", "z"),
    "rotation": ("ax", "ay", "az"),
    "quaternion": ("qx", "qy", "qz", "qw"),
    "gripper": ("gripper_0", "gripper_1"),
}
"""Elements that belong together, by what they are."""


@dataclass(frozen=True, eq=False)
class States:
    """The states of an episode's queries.

    Attributes:
        steps: int (queries,).
        slot: the name under which the state was given.
        given: float64 (queries, size), as the policy was given it.
        expected: float64 (queries, size), what the layout makes of the environment's observation of that step.
        layout: names of the elements.
        observed: float64 per raw quantity, (queries, n): "position" 3, "quaternion" 4 (xyzw), "gripper" 2.
        before: step distance k -> float64 (queries, size), what was expected k steps before; NaN where not recorded.
    """

    steps: np.ndarray
    slot: str
    given: np.ndarray
    expected: np.ndarray
    layout: tuple[str, ...]
    observed: Mapping[str, np.ndarray]
    before: Mapping[int, np.ndarray]

    def places(self, part: str) -> list[int]:
        """Indices of a part's elements in the vector; empty where the layout has not all of them."""
        names = PARTS[part]
        return [self.layout.index(name) for name in names] if set(names) <= set(self.layout) else []


@dataclass(frozen=True)
class Form:
    """One way to write a part of the state.

    Attributes:
        what: in words, to follow "is".
        remedy: what to do about it.
    """

    what: str
    remedy: str


def axis_angle(quaternions: np.ndarray) -> np.ndarray:
    """Axis times angle of quaternions xyzw, float64 (n, 4) -> (n, 3) radians, as robosuite and openpi write it.

    Angles lie in 0..2 pi: a quaternion and its negative, which are one rotation, give two vectors. Source:
    Physical-Intelligence/openpi@15a9616 examples/libero/main.py (quat2axisangle, after robosuite's transform_utils).
    """
    w = np.clip(quaternions[:, 3], -1.0, 1.0)
    length = np.sqrt(1.0 - w * w)
    safe = np.where(length < 1e-9, 1.0, length)
    turned: np.ndarray = np.where(
        (length < 1e-9)[:, None], 0.0, quaternions[:, :3] * (2.0 * np.arccos(w) / safe)[:, None]
    )
    return turned


def known(layout: Sequence[str]) -> bool:
    """Whether every element of a layout can be made of an observation here."""
    return set(layout) <= {name for names in PARTS.values() for name in names} | {"0"}


def given_slots(episode: Episode) -> dict[str, int]:
    """Names of the vectors that queries were given -> their sizes, those of a server's own transforms left out."""
    slots: dict[str, int] = {}
    for _, query in episode.queries():
        for name, values in query.proprio.items():
            if not name.startswith(MODEL_SLOT):
                slots.setdefault(name, len(values))
    return slots


def states(episode: Episode, layout: Sequence[str], slot: str) -> States | None:
    """The states given under a name, beside those expected; None where the observation has not what it takes.

    Args:
        layout: names of the elements: x y z, ax ay az, qx qy qz qw, gripper_0 gripper_1, "0".
    """
    if not known(layout):
        return None
    made = {step.number: _observed(step.proprio) for step in episode.steps}
    full = {number: _lay_out(layout, one) for number, one in made.items() if one is not None}
    rows = [
        (step, np.asarray(query.proprio[slot], dtype=np.float64))
        for step, query in episode.queries()
        if step in full and len(query.proprio.get(slot, ())) == len(layout)
    ]
    if not rows:
        return None
    numbers = np.array([step for step, _ in rows])
    nothing = np.full(len(layout), np.nan)
    observed = {
        part: np.array([made[step][part] for step, _ in rows])  # type: ignore[index]
        for part in ("position", "quaternion", "gripper")
    }
    return States(
        steps=numbers,
        slot=slot,
        given=np.array([values for _, values in rows]),
        expected=np.array([full[step] for step, _ in rows]),
        layout=tuple(layout),
        observed=observed,
        before={
            back: np.array([full.get(int(step) - back, nothing) for step in numbers]) for back in (1, 2, 3, 5, 8, 10)
        },
    )


def same(given: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Row by row, whether two vectors are one: bool (queries,)."""
    close = np.abs(given - expected) <= CLOSE * (1.0 + np.abs(expected))
    alike: np.ndarray = close.all(axis=1)
    return alike


def wrong_parts(seen: States) -> dict[str, np.ndarray]:
    """Part -> at which queries it is not as expected, bool (queries,); parts that are right are left out."""
    found = {}
    for part in PARTS:
        places = seen.places(part)
        if places:
            rows = ~same(seen.given[:, places], seen.expected[:, places])
            if rows.any():
                found[part] = rows
    return found


def stale(seen: States) -> int | None:
    """By how many steps all states lag behind, 0 for those of the first query throughout; None where they do not."""
    rows = ~same(seen.given, seen.expected)
    if rows.sum() < 2:
        return None
    for back, before in seen.before.items():
        there = np.isfinite(before).all(axis=1)
        if there[rows].all() and same(seen.given[rows], before[rows]).all():
            return back
    return 0 if len(rows) > 2 and (np.ptp(seen.given, axis=0) <= 1e-12).all() and seen.given.any() else None


def moved(seen: States) -> dict[str, str] | None:
    """Element -> the element whose value stands in its place, where all of them are only exchanged; else None."""
    found: dict[str, str] = {}
    left = list(range(len(seen.layout)))
    for place, name in enumerate(seen.layout):
        column = seen.given[:, place]
        fits = [
            other
            for other in left
            if (np.abs(column - seen.expected[:, other]) <= CLOSE * (1.0 + np.abs(column))).all()
        ]
        if not fits:
            return None
        source = place if place in fits else fits[0]
        left.remove(source)
        if source != place:
            found[name] = seen.layout[source]
    return found or None


def forms(seen: States, part: str) -> Iterator[tuple[Form, np.ndarray]]:
    """Every known wrong way to write a part: its description and its values, float64 (queries, size of the part)."""
    size = len(PARTS[part])
    expected = seen.expected[:, seen.places(part)]
    yield Form("all zeros", "Fill it from the observation of the step."), np.zeros((len(seen.steps), size))
    if part == "position":
        yield Form("in millimetres", "Divide by 1000."), 1000.0 * expected
        yield Form("in centimetres", "Divide by 100."), 100.0 * expected
    elif part == "rotation":
        yield from _rotations(seen.observed["quaternion"])
    elif part == "quaternion":
        q = seen.observed["quaternion"]
        yield Form("in the order wxyz", "This state wants xyzw: np.roll(quat, -1)."), np.roll(q, 1, axis=1)
        yield Form("negated (the same rotation, another vector)", "Leave the sign as the environment gives it."), -q
    elif part == "gripper":
        q = seen.observed["gripper"]
        width = np.abs(q[:, :1] - q[:, 1:])
        pairs = {
            "the two fingers exchanged": q[:, ::-1],
            "the fingers' magnitudes, without the second one's sign": np.abs(q),
            "the distance between the fingers and a zero": np.hstack([width, 0.0 * width]),
            "the distance between the fingers, twice": np.hstack([width, width]),
            "the first finger, twice": np.hstack([q[:, :1], q[:, :1]]),
            "half of the distance between the fingers, and its negative": np.hstack([width / 2, -width / 2]),
            "a share of the widest opening, 0 to 1": np.hstack([width / 0.08, width / 0.08]),
        }
        for what, values in pairs.items():
            yield Form(what, "Pass on robot0_gripper_qpos as it is: both fingers, metres, of opposite sign."), values


def constant(values: np.ndarray, expected: np.ndarray) -> bool:
    """Whether what was given never changes although it should have, by more than a hair."""
    return len(values) >= 3 and bool((np.ptp(values, axis=0) <= 1e-12).all() and np.ptp(expected, axis=0).max() > 0.002)


def on_lines(given: np.ndarray, expected: np.ndarray) -> bool:
    """Whether each element is on a line over what was expected, as normalised states are."""
    for x, y in zip(expected.T, given.T, strict=True):
        spread = np.ptp(x)
        if spread < 1e-4 or len(x) < 3:
            continue
        slope, offset = np.polyfit(x, y, 1)
        if np.abs(slope * x + offset - y).max() > 0.02 * max(float(np.ptp(y)), 1e-6):
            return False
    return len(given) >= 3


def _rotations(q: np.ndarray) -> Iterator[tuple[Form, np.ndarray]]:
    from scipy.spatial.transform import Rotation

    want = "This state wants axis times angle of the quaternion xyzw"
    wxyz = np.roll(q, 1, axis=1)
    yield Form("axis-angle of a quaternion wxyz taken for xyzw", f"{want}; LIBERO's is xyzw."), axis_angle(wxyz)
    back = np.roll(q, -1, axis=1)
    yield Form("axis-angle of the quaternion xyzw taken for wxyz", f"{want}; LIBERO's is xyzw."), axis_angle(back)
    rotation = Rotation.from_quat(q)
    flipped = (
        "axis-angle with the angle kept within pi: where the quaternion's w is negative it is the antipode of what the "
        "training data have"
    )
    keep = (
        f"{want} as it stands, with angles up to 2 pi (2 * arccos(w), robosuite's quat2axisangle): "
        "scipy's as_rotvec and a quaternion made positive give another vector for the same rotation."
    )
    yield Form(flipped, keep), rotation.as_rotvec()
    yield Form("axis-angle of the negated quaternion", keep), axis_angle(-q)
    for order in ("xyz", "zyx", "XYZ", "ZYX"):
        euler = rotation.as_euler(order)
        yield Form(f"Euler angles ({order}) in radians", f"{want}."), euler
        yield Form(f"Euler angles ({order}) in degrees", f"{want}."), np.degrees(euler)
        # Roll, pitch, yaw whatever the order of the rotations.
        yield Form(f"Euler angles ({order}) in reverse", f"{want}."), euler[:, ::-1]
    yield Form("axis-angle in degrees", "Radians are wanted."), np.degrees(axis_angle(q))
    yield Form("the first three numbers of the quaternion", f"{want}."), q[:, :3]
    for angle in (90.0, -90.0, 180.0):
        turn = Rotation.from_euler("z", angle, degrees=True)
        told = (
            f"{want}, read where the data's was: robosuite takes the position from the site and the quaternion from "
            "the body."
        )
        for values in ((rotation * turn).as_quat(), (turn * rotation).as_quat()):
            for sign in (1.0, -1.0):
                yield Form(f"that of a frame turned by {angle:.0f} degrees about z", told), axis_angle(sign * values)


def _observed(proprio: Mapping[str, Sequence[float]]) -> dict[str, np.ndarray] | None:
    parts = {}
    for part, names, size in (("position", POSITION, 3), ("quaternion", QUATERNION, 4), ("gripper", FINGERS, 2)):
        values = next((proprio[name] for name in names if len(proprio.get(name, ())) == size), None)
        if values is None:
            return None
        parts[part] = np.asarray(values, dtype=np.float64)
    return parts


def _lay_out(layout: Sequence[str], observed: Mapping[str, np.ndarray]) -> np.ndarray:
    """What a layout makes of an observation: float64 (len(layout),)."""
    values = dict(zip(PARTS["position"], observed["position"], strict=True))
    values.update(zip(PARTS["rotation"], axis_angle(observed["quaternion"][None])[0], strict=True))
    values.update(zip(PARTS["quaternion"], observed["quaternion"], strict=True))
    values.update(zip(PARTS["gripper"], observed["gripper"], strict=True))
    values["0"] = 0.0
    return np.array([values[name] for name in layout], dtype=np.float64)


def layout_of(profile: Profile) -> list[str] | None:
    """The profile's layout; None where it says nothing, empty where the policy is given no state."""
    layout = profile.get("proprio.layout")
    return None if layout is None else [str(name) for name in layout]
