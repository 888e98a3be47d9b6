"""What checks share when they judge a loop's source."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from vladoctor.check import Abstention
from vladoctor.lint.facts import Fact, ImageSlot, SourceFacts
from vladoctor.places import Edit, Fix, Hop, Place
from vladoctor.profiles import Profile

LONGEST_DEMONSTRATION: Mapping[str, int] = {
    "libero_spatial": 193,
    "libero_object": 254,
    "libero_goal": 270,
    "libero_10": 505,
    "libero_90": 373,
}
"""Steps of the longest demonstration of each suite (openvla/openvla@c8f03f4 libero/run_libero_eval.py:165-175)."""

OPENS: Mapping[str, int] = {"widowx": 1}
"""Robot of SimplerEnv -> the command that opens its gripper, -1 or 1, where that is absolute
(simpler-env/SimplerEnv@4ab7178 simpler_env/policies/octo/octo_model.py:33-40)."""


def unseen(fact: Fact[Any], what: str) -> Abstention:
    """Nothing is said of what the source does not show."""
    return Abstention(f"{what}: {fact.reason or 'not every way through the code is known'}")


def open_command(facts: SourceFacts) -> float | None:
    """The command that opens the environment's gripper; None where it is not known."""
    known = facts.profile.get("gripper.environment_open")
    if known is None and facts.environment == "libero":
        return -1  # robosuite 1.4.0 models/grippers/panda_gripper.py:43-62
    return known if known is not None else OPENS.get(facts.robot)


def wanted_element(profile: Profile, camera: str) -> str | None:
    """What is to be done to a camera's raw frame; None where nothing is expected of it."""
    table = profile.get("image.orientations")
    if isinstance(table, Mapping) and camera in table:
        return str(table[camera])
    expected, cameras = profile.get("image.orientation"), profile.get("image.cameras") or ()
    if expected is None or (cameras and camera and camera != cameras[0]):
        return None
    return str(expected)


def wanted_area(facts: SourceFacts) -> float | None:
    """The share of the frame that the centre crop is to keep; None where nothing is expected."""
    area = facts.profile.get("image.center_crop_area")
    if area is None and facts.family in ("openvla", "openvla-oft") and "image_aug" in (facts.checkpoint.value or ""):
        return 0.9  # openvla/openvla@c8f03f4 experiments/robot/libero/run_libero_eval.py:90-91
    return float(area) if area is not None else None


def camera_of(slot: ImageSlot) -> str:
    """The camera whose frame is in a slot; empty where it is not known, or differs from way to way."""
    cameras = {one.value.camera for one in slot.way.seen}
    return cameras.pop() if slot.way.complete and len(cameras) == 1 else ""


def last_place(trail: tuple[Hop, ...], other: Place | None) -> Place | None:
    """Where the last thing was done, the query itself left out."""
    return next((hop.place for hop in reversed(trail[:-1]) if hop.place is not None), other)


def longest_side(area: float) -> float:
    """The side of a square crop of that area."""
    return math.sqrt(area)


def replaced(place: Place | None, text: str, summary: str, safe: bool = False) -> Fix | None:
    """A fix that puts a text in the place of an expression; None where that is not known."""
    return Fix(summary, (Edit(place, text),), safe) if place is not None and place.line else None
