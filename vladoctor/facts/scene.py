"""What a scene looks like when nothing has moved yet: coarse fingerprints of first frames, and how far a frame is off.

A fingerprint is the mean colour in each of 16 x 16 cells of an episode's first frame. References are made of healthy
traces (`vladoctor fingerprint`), one for each suite, task, camera and kind of assets, with several init states each;
one of the stand-in assets is shipped. A frame is compared with the nearest of them:

* first as it is, then with a gain and an offset for each channel taken away: light and exposure are one thing, what is
  in the picture another;
* in all eight ways to lay it onto itself, and with red and blue exchanged: a frame that fits then shows the right
  scene, and the way it comes is not for this module to judge.

Measured on 20 init states of libero_object, task 0 (stand-in assets, llvmpipe): the same init state gives the same
fingerprint to the last level, in other processes and under another instruction too; the nearest other one is 0.5 to 1.2
levels away on average, 11 to 22 in the cell that differs most, and correlates to 0.996 and more.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vladoctor.facts.registration import ELEMENTS, apply

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.records import Episode, Frame

CELLS = 16
"""Cells along each side of a fingerprint."""

REFERENCE = "environment.scenes"
"""Key of a profile that names a file of references of one's own."""

_FORMAT = 1
_SHIPPED = "scenes.json"
_GAINS = (0.2, 5.0)

_FAR = 30.0
"""Levels by which a cell differs where other objects, or another robot, are in it. 22 at most between init states."""


_SAME_SCENE = 0.97
"""Correlation from which a frame shows the scene, whatever its light. Other init states: 0.996 and more."""


@dataclass(frozen=True, eq=False)
class Reference:
    """How a scene looked in a healthy run.

    Attributes:
        suite, camera, assets: as recorded; "" where not known.
        tasks: names of the tasks that begin like this.
        mujoco: the version that rendered it; "" where not known.
        states: names of the init states, one a fingerprint.
        colours: uint8 (states, 16, 16, 3).
        source: where it stands.
    """

    suite: str
    tasks: tuple[str, ...]
    camera: str
    assets: str
    mujoco: str
    states: tuple[str, ...]
    colours: np.ndarray
    source: str

    @cached_property
    def levels(self) -> np.ndarray:
        """The colours as float64."""
        return self.colours.astype(np.float64)

    @cached_property
    def centred(self) -> tuple[np.ndarray, np.ndarray]:
        """The same, each state's channel means taken away, and the sum of squares of each: float64 (states,)."""
        others = self.levels - self.levels.mean(axis=(1, 2), keepdims=True)
        return others, (others**2).sum(axis=(1, 2, 3))


@dataclass(frozen=True)
class Likeness:
    """How a frame compares with the nearest state of a reference.

    Attributes:
        state: its name.
        difference: mean over cells and channels, in levels.
        correlation: of the cells' colours, channel means taken away; 1 for the same scene in any light.
        gain, offset: from the reference to the frame, mean over the channels; the offset in levels.
        far: share of the cells that differ by `_FAR` levels and more once gain and offset are taken away.
        turned: how the frame has to be laid to be compared; "identity" as it is, "BGR" with red and blue exchanged.
    """

    state: str
    difference: float
    correlation: float
    gain: float
    offset: float
    far: float
    turned: str = "identity"


def fingerprint(frame: Frame) -> np.ndarray:
    """Mean colours of the cells of a frame: uint8 (16, 16, 3)."""
    picture = frame.thumbnail.astype(np.float64)
    height, width = picture.shape[:2]
    if width > height:
        # MuJoCo's field of view is the vertical one: the middle of a wide frame is what a square one shows.
        picture = picture[:, (width - height) // 2 : (width + height) // 2]
    for axis in (0, 1):
        parts = np.array_split(picture, CELLS, axis=axis)
        picture = np.stack([part.mean(axis=axis) for part in parts], axis=axis)
    return np.asarray(np.rint(picture).astype(np.uint8))


def first_frame(episode: Episode, camera: str) -> Frame | None:
    """The frame of a camera before anything was done; None where recording began later."""
    first = episode.steps[0] if episode.steps else None
    return None if first is None or first.number > 0 else first.frames.get(camera)


def scene_of(episode: Episode) -> tuple[str, str, str]:
    """Suite, task and kind of assets of an episode; "" where not known."""
    task = episode.task
    name = task.get("name") or task.get("label") or task.get("language") or ""
    return str(task.get("suite") or ""), str(name), str((episode.run.get("assets") or {}).get("kind") or "")


def references(facts: Facts) -> list[Reference]:
    """References of an episode's scene, of all cameras: a user's own first, then the shipped one.

    Raises:
        OSError, ValueError: the user's file cannot be read.
    """
    own = facts.profile.get(REFERENCE) if REFERENCE in facts.profile.values else None
    known = [*(read_references(Path(str(own)).expanduser()) if own else ()), *shipped()]
    suite, task, assets = scene_of(facts.episode)
    return [one for one in known if (one.suite, one.assets) == (suite, assets) and task and task in one.tasks]


@cache
def shipped() -> tuple[Reference, ...]:
    """The references that come with vladoctor."""
    file = resources.files(__package__) / _SHIPPED
    return _parse(json.loads(file.read_text("utf-8")), "shipped") if file.is_file() else ()


@cache
def read_references(file: Path) -> tuple[Reference, ...]:
    """Read a file that `vladoctor fingerprint` wrote.

    Raises:
        OSError, ValueError: there is none, or it is another file.
    """
    return _parse(json.loads(file.read_text("utf-8")), str(file))


def _parse(document: Any, source: str) -> tuple[Reference, ...]:
    if not isinstance(document, Mapping) or document.get("format") != _FORMAT:
        raise ValueError(f"{source}: no fingerprints of scenes, or of another version")
    try:
        return tuple(
            Reference(
                suite=entry["suite"],
                tasks=tuple(entry["tasks"]),
                camera=entry["camera"],
                assets=entry["assets"],
                mujoco=entry["mujoco"],
                states=tuple(entry["states"]),
                colours=np.stack([_decode(text) for text in entry["states"].values()]),
                source=source,
            )
            for entry in document["scenes"]
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{source}: these are no fingerprints of scenes ({error!r})") from error


def _decode(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(CELLS, CELLS, 3)


def document(episodes: Iterable[Episode]) -> dict[str, Any]:
    """Make references of healthy episodes, as JSON; tasks that begin alike share an entry.

    Pictures that show nothing (black, one colour) are left out.
    """
    found: dict[tuple[str, str, str, str, str], dict[str, str]] = {}
    for episode in episodes:
        suite, task, assets = scene_of(episode)
        mujoco = str((episode.run.get("versions") or {}).get("mujoco") or "")
        for camera in episode.steps[0].frames if episode.steps else ():
            frame = first_frame(episode, camera)
            if frame is None or not task or float(frame.thumbnail.std()) < 5.0:
                continue
            states = found.setdefault((suite, task, camera, assets, mujoco), {})
            state = episode.task.get("init_state")
            name = str(episode.task.get("episode", len(states)) if state is None else state)
            states[name] = base64.b64encode(fingerprint(frame).tobytes()).decode("ascii")
    scenes: list[dict[str, Any]] = []
    for (suite, task, camera, assets, mujoco), states in found.items():
        same = {"suite": suite, "camera": camera, "assets": assets, "mujoco": mujoco, "states": states}
        known = next((one for one in scenes if {**one, "tasks": None} == {**same, "tasks": None}), None)
        if known is None:
            scenes.append({**same, "tasks": [task]})
        else:
            known["tasks"].append(task)
    return {"format": _FORMAT, "scenes": scenes}


def compare(frame: Frame, reference: Reference) -> Likeness:
    """How a frame compares with the nearest state: as it is if that is the scene, else in the way that fits best."""
    seen = fingerprint(frame)
    plain = _nearest(seen, reference, "identity")
    if plain.correlation >= _SAME_SCENE:
        return plain
    others = [
        *(_nearest(apply(element, seen), reference, element) for element in ELEMENTS[1:]),
        _nearest(seen[..., ::-1], reference, "BGR"),
    ]
    best = max(others, key=lambda likeness: likeness.correlation)
    return best if best.correlation >= _SAME_SCENE else plain


def _nearest(seen: np.ndarray, reference: Reference, turned: str) -> Likeness:
    values = seen.astype(np.float64)
    known = reference.levels
    correlations = _correlations(values, reference)
    differences = np.abs(known - values).mean(axis=(1, 2, 3))
    # In the same light the nearest one is the one that differs least; in another, the one that correlates best.
    place = int(np.lexsort((differences, -np.round(correlations, 3)))[0])
    near = known[place]
    gains, offsets, left = [], [], np.zeros_like(values)
    for channel in range(3):
        x, y = near[..., channel], values[..., channel]
        spread = float(((x - x.mean()) ** 2).sum())
        gain = float(((x - x.mean()) * (y - y.mean())).sum()) / max(spread, 1e-6)
        gain = min(max(gain, _GAINS[0]), _GAINS[1])
        offset = float(y.mean() - gain * x.mean())
        left[..., channel] = y - gain * x - offset
        gains.append(gain)
        offsets.append(offset)
    return Likeness(
        state=reference.states[place],
        difference=float(differences[place]),
        correlation=float(correlations[place]),
        gain=float(np.mean(gains)),
        offset=float(np.mean(offsets)),
        far=float((np.abs(left).max(axis=-1) >= _FAR).mean()),
        turned=turned,
    )


def _correlations(values: np.ndarray, reference: Reference) -> np.ndarray:
    centred = values - values.mean(axis=(0, 1))
    others, squares = reference.centred
    products = others.reshape(len(others), -1) @ centred.ravel()
    return np.asarray(products / np.maximum(np.sqrt((centred**2).sum() * squares), 1e-6))


def cameras_of(known: Sequence[Reference]) -> list[str]:
    """Cameras that references are of, each once."""
    return list(dict.fromkeys(one.camera for one in known))
