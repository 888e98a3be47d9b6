"""Which way up the raw frame itself is, against the true view through the simulator's own camera.

Registration says how the model's image lies on the raw frame; it cannot say whether the raw frame was upside down to
begin with. That is a convention of the renderer (OpenGL counts rows from the bottom), and one line elsewhere in the
program can change it. The evidence is in the trace already, so nothing is rendered again:

* The camera's position, rotation and field of view place the gripper, whose position is recorded, in the true view.
* Where a fixed camera's frame changes from one moment to a later one, the arm moved. Of the eight elements, the one
  under which the changes fall on the projected gripper (and on the hand and wrist above it) carries the true view to
  the raw frame.

The gripper has to move far enough, and not only along the middle of the picture, or elements cannot be told apart; then
there is no answer. The same holds for a camera on the robot, to which everything moves.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from vladoctor.facts.following import greys
from vladoctor.facts.frames import EEF
from vladoctor.facts.registration import ELEMENTS, folded, inverse, under_elements
from vladoctor.profiles import ENVIRONMENTS, environment_profile, load_profile

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.records import Step

MIN_PAIRS = 5
"""Pairs of moments from which there is an answer."""

MIN_SCORE = 0.6
"""Nats per changed pixel over a picture in which changes fall anywhere. Right elements of agentview, where decided: 0.7
to 2.5 over an episode; any element of the wrist camera: below -0.5."""

MIN_MARGIN = 0.5
"""Lead over the runner-up, in nats. Wrong elements led by up to 0.58, but only over few pairs, hence the next one."""

MIN_EVIDENCE = 2.0
"""Lead times the square root of the number of pairs. Measured on 28 episodes of libero_object (own and stand-in assets,
lights on and off; scripted, random and failing policies), both cameras, and 3,800 stretches of them from 8 steps on:
1,652 answers, none wrong. Without it, 1 of 1,722 was. 21 of the 24 episodes in which robot and frames moved got one."""

_SIZE = 48
_STRIDE = 0.03
"""Distance that the gripper has to move in the picture between the moments of a pair, as a fraction of its side."""

_MOST_PAIRS = 60
_HAND = (0.0, 0.06, 0.12, 0.18)
"""Metres above the point between the fingertips at which hand and wrist of a tool that points down are."""

_SPREAD = 0.07
"""Standard deviation of the changes around each of these points, as a fraction of the picture's side."""

_ELSEWHERE = 0.15
"""Share of the changes that may be anywhere: shadows, objects, the rest of the arm."""

_NOISE = 3.0
"""Levels of change that JPEG alone makes in a thumbnail."""

_LEAST_CHANGE = 40.0
"""Sum of changes, in levels times pixels of a 48 x 48 picture, under which nothing moved."""


@dataclass(frozen=True)
class RawView:
    """Which element carries the true view, upright and not mirrored, to the raw frame.

    Attributes:
        element: the best one; "" where nothing could be measured.
        score, runner_up, runner_up_score: mean log-likelihood ratio (nats) of the changes under it and the next best.
        pairs: how many pairs of moments were compared.
        reason: why there is no answer; "" where there is one.
    """

    element: str = ""
    score: float = 0.0
    runner_up: str = ""
    runner_up_score: float = 0.0
    pairs: int = 0
    reason: str = ""

    @property
    def margin(self) -> float:
        return self.score - self.runner_up_score

    @property
    def decisive(self) -> bool:
        return not self.reason


_views: weakref.WeakKeyDictionary[Facts, dict[str, RawView]] = weakref.WeakKeyDictionary()


def usual_view(facts: Facts) -> str | None:
    """The element that carries the true view to the raw frame as the environment is shipped; None where not known.

    Profiles state `image.orientation` against that frame. It is `environment.raw_view`: of a user's own profile or
    override if that says anything, else of the suite's environment, whichever environment the profile was made for.
    """
    key, profile = "environment.raw_view", facts.profile
    shipped = {load_profile(name).source(key) for name in ENVIRONMENTS.values()}
    if not profile.states(key) or profile.source(key) in shipped:
        name = environment_profile(facts.episode.task.get("suite"))
        if not name:
            return None
        profile = load_profile(name)
    element: str | None = profile.get(key)
    return element


def raw_view(facts: Facts, camera: str) -> RawView:
    """Find which way up a camera's raw frames are over an episode. Computed once for each `Facts` and camera."""
    known = _views.setdefault(facts, {})
    if camera not in known:
        geometry = (facts.episode.task.get("cameras") or {}).get(camera)
        known[camera] = find_view(facts.episode.steps, camera, geometry)
    return known[camera]


def project(points: np.ndarray, geometry: Mapping[str, Any]) -> np.ndarray:
    """Project points into the true view of a pinhole camera.

    Args:
        points: float (..., 3), metres, world frame.
        geometry: as in `records.Episode.task["cameras"]`: MuJoCo axes, x right, y up, looking along -z.

    Returns:
        float (..., 2): row and column as fractions of height and width, from the top left; nan behind the camera.
    """
    rotation = np.asarray(geometry["rotation"], dtype=np.float64).reshape(3, 3)
    local = (np.asarray(points, dtype=np.float64) - np.asarray(geometry["position"], dtype=np.float64)) @ rotation
    depth = np.where(local[..., 2] < -1e-6, -local[..., 2], np.nan)
    focal = 0.5 / np.tan(np.radians(float(geometry["fovy_deg"])) / 2.0)
    aspect = float(geometry.get("width") or 1.0) / float(geometry.get("height") or 1.0)
    row = 0.5 - focal * local[..., 1] / depth
    column = 0.5 + focal * local[..., 0] / depth / aspect
    return np.stack([row, column], axis=-1)


def find_view(steps: Sequence[Step], camera: str, geometry: Mapping[str, Any] | None) -> RawView:
    """Compare where the frames of one camera change with where the gripper is.

    Args:
        steps: steps in the order in which they ran; those without this camera's frame or `robot0_eef_pos` are skipped.
        geometry: see `project`; None where it was not recorded.
    """
    if not geometry:
        return RawView(reason=f"the geometry of camera {camera} was not recorded")
    seen = [step for step in steps if camera in step.frames and len(step.proprio.get(EEF, ())) == 3]
    if not seen:
        return RawView(reason=f"the gripper's position ({EEF}) was not recorded")
    hand = np.array([step.proprio[EEF] for step in seen])[:, None] + np.array([(0.0, 0.0, up) for up in _HAND])
    points = project(hand, geometry)
    pairs = _pairs(points[:, 0])
    useful = _scores(seen, camera, pairs, points) if pairs else np.empty((0, len(ELEMENTS)))
    if len(useful) < MIN_PAIRS:
        what = "the gripper did not move enough before" if len(pairs) < MIN_PAIRS else "hardly anything changed in"
        return RawView(pairs=len(useful), reason=f"{what} camera {camera}")
    means = useful.mean(axis=0)
    best, second = np.argsort(-means)[:2]
    found = RawView(ELEMENTS[best], float(means[best]), ELEMENTS[second], float(means[second]), len(useful))
    if found.score < MIN_SCORE:
        return replace(found, reason=f"the changes in camera {camera} do not follow the gripper")
    if found.margin < max(MIN_MARGIN, MIN_EVIDENCE / np.sqrt(found.pairs)):
        return replace(found, reason=f"the gripper's motion fits {found.element} and {found.runner_up} alike")
    return found


def _pairs(path: np.ndarray) -> list[tuple[int, int]]:
    """Consecutive moments between which the gripper moved by `_STRIDE` in the picture; none outside it."""
    moments: list[int] = []
    pairs: list[tuple[int, int]] = []
    # Number by number: arrays of two take ten times as long.
    points = path.tolist()
    for index, (row, column) in enumerate(points):
        if not (0.0 <= row <= 1.0 and 0.0 <= column <= 1.0):
            moments.clear()
        elif not moments:
            moments.append(index)
        elif math.dist((row, column), points[moments[-1]]) >= _STRIDE:
            pairs.append((moments[-1], index))
            moments.append(index)
    keep = np.unique(np.linspace(0, len(pairs) - 1, min(len(pairs), _MOST_PAIRS)).astype(int))
    return [pairs[index] for index in keep]


def _scores(seen: Sequence[Step], camera: str, pairs: Sequence[tuple[int, int]], points: np.ndarray) -> np.ndarray:
    """Mean log-likelihood ratio of the changed pixels of each pair under each element; pairs without changes left out.

    Args:
        points: float64 (steps, heights, 2), where hand and wrist are.
    """
    chosen = sorted({index for pair in pairs for index in pair})
    pictures = greys([seen[index].frames[camera] for index in chosen], _SIZE)
    place = {index: row for row, index in enumerate(chosen)}
    before, after = (np.array([place[pair[end]] for pair in pairs]) for end in (0, 1))
    change = np.abs(pictures[after] - pictures[before])
    noise = _NOISE + 2.0 * np.median(change.reshape(len(pairs), -1), axis=1)
    change = np.maximum(change - noise[:, None, None], 0.0).astype(np.float64)
    around = np.concatenate([points[[first for first, _ in pairs]], points[[last for _, last in pairs]]], axis=1)
    centres = (np.arange(_SIZE) + 0.5) / _SIZE
    # Nothing is expected of points behind the camera.
    spreads = np.exp(-0.5 * ((centres - around[..., None]) / _SPREAD) ** 2)
    across, along = np.moveaxis(np.where(np.isfinite(spreads), spreads, 0.0), 2, 0)
    expected = across.transpose(0, 2, 1) @ along
    total, whole = change.sum(axis=(1, 2)), expected.sum(axis=(1, 2))
    told = (total >= _LEAST_CHANGE) & (whole >= 1e-6)
    if not told.any():
        return np.empty((0, len(ELEMENTS)))
    change, expected = change[told] / total[told, None, None], expected[told] / whole[told, None, None]
    density = (1.0 - _ELSEWHERE) * expected + _ELSEWHERE / _SIZE**2
    gains = np.log(density * _SIZE**2)
    return under_elements(folded(change), folded(gains), [ELEMENTS.index(inverse(element)) for element in ELEMENTS]).T
