"""How to read an environment: what its `reset` and `step` return, and where the pictures are in it.

`EnvAdapter` is the one place where environments differ for the taps. Those of the libraries that are known stand in
`vladoctor.taps.libraries`; one for an environment of your own is a few lines:

    import vladoctor

    adapter = vladoctor.EnvAdapter(
        "my robot",
        read_step=lambda result: vladoctor.Transition(result["camera"], done=result["over"]),
        frames=lambda camera: {"front": camera},
    )
    with vladoctor.watch() as doctor:
        env = doctor.watch_env(MyEnv(), adapter)      # or: reset, step = doctor.watch_calls(reset, step, adapter)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

_SMALLEST_PICTURE = 16
"""Shorter side in pixels from which an array is taken for a picture."""

_LARGEST_VECTOR = 64
"""Values up to which an array is taken for proprioception."""

_DEEPEST = 4


class Transition(NamedTuple):
    """What a step returned.

    Attributes:
        observation: as the environment returned it.
        reward: a number; None where it is not one.
        done: the episode is over, for whatever reason; None where the environment does not say.
        success: the task is done; None where the environment does not say.
        info: what else it said.
    """

    observation: Any
    reward: float | None = None
    done: bool | None = None
    success: bool | None = None
    info: Any = None


def first(result: Any) -> Any:
    """The observation in what `reset` returned: alone, or with an info behind it, as in Gymnasium."""
    pair = isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Mapping)
    return result[0] if pair else result


def gym_transition(result: Any) -> Transition:
    """What `step` of Gymnasium (5 values) or of old Gym (4 values) returned; success is what `info` says of it."""
    if not isinstance(result, tuple) or len(result) not in (4, 5):
        return Transition(result)
    observation, reward, *ends, info = result
    return Transition(observation, scalar(reward), any(truth(end) for end in ends), success_in(info), info)


def success_in(info: Any) -> bool | None:
    """What an `info` says of success, under one of the names in use; None where it says nothing."""
    if isinstance(info, Mapping):
        for name in ("is_success", "success", "task_success"):
            value = info.get(name)
            if isinstance(value, (bool, np.bool_, int, float, np.number)):
                return bool(value)
    return None


def scalar(value: Any) -> float | None:
    """A number, or None; nothing is fetched from a GPU for it."""
    if on_gpu(value):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def truth(value: Any) -> bool:
    """Whether something is true; what lies on a GPU counts as not, as asking would wait for it."""
    return not on_gpu(value) and bool(np.all(value))


def on_gpu(value: Any) -> bool:
    """Whether a value is a tensor on a GPU."""
    return bool(getattr(value, "is_cuda", False))


def pictures(observation: Any) -> dict[str, np.ndarray]:
    """Every picture in an observation: path of its keys ("pixels/agentview") -> uint8 (H, W, 3), rows as they come.

    A picture is an array of uint8, (H, W, 3 or 4), (3, H, W), (H, W) or (H, W, 1), not smaller than 16 pixels, or a PIL
    image; a bare one is called "image". LIBERO's and robosuite's "<camera>_image" go by the camera's name.
    """
    found: dict[str, np.ndarray] = {}
    for path, value in _leaves(observation):
        picture = _picture(value)
        if picture is not None:
            found[path.removesuffix("_image") or "image"] = picture
    return found


def vectors(observation: Any) -> dict[str, Any]:
    """Every short array of numbers in an observation: path of its keys -> the array, in the environment's own units."""
    found: dict[str, Any] = {}
    for path, value in _leaves(observation):
        if isinstance(value, (np.ndarray, np.number, float, int)) and not isinstance(value, (bool, str)):
            array = np.asarray(value)
            if array.dtype.kind in "fiu" and 0 < array.size <= _LARGEST_VECTOR:
                found[path or "state"] = array
    return found


def nothing(_: Any) -> Mapping[str, Any]:
    """No facts."""
    return {}


@dataclass(frozen=True)
class EnvAdapter:
    """How to read one kind of environment.

    All of it only reads. It has to be made of functions of modules where environments are sent to other processes.

    Attributes:
        name: the library or the environment, for reports.
        read_reset: what `reset` returned -> observation.
        read_step: what `step` returned -> `Transition`.
        frames: observation -> camera -> uint8 (H, W, 3), RGB, rows as they come.
        proprio: observation -> name -> numbers.
        describe: environment -> facts for `records.Episode.task`: suite, name, label, language, horizon, cameras ...
        inner: environment -> the one inside it that counts as the same, or None where calls show it.
        split: for a vector environment: (what `reset` or `step` returned, size) -> observations or `Transition`s of the
            single ones; None for a single environment.
    """

    name: str
    read_reset: Callable[[Any], Any] = first
    read_step: Callable[[Any], Transition] = gym_transition
    frames: Callable[[Any], Mapping[str, np.ndarray]] = pictures
    proprio: Callable[[Any], Mapping[str, Any]] = vectors
    describe: Callable[[Any], Mapping[str, Any]] = nothing
    inner: Callable[[Any], Any] | None = None
    split: Callable[[Any, int], Sequence[Any]] | None = None


def _leaves(value: Any, path: str = "", depth: int = 0) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping) and depth < _DEEPEST:
        return [
            leaf
            for key, item in value.items()
            for leaf in _leaves(item, f"{path}/{key}" if path else str(key), depth + 1)
        ]
    return [(path, value)]


def _picture(value: Any) -> np.ndarray | None:
    if type(value).__module__.partition(".")[0] == "PIL":
        value = np.asarray(value.convert("RGB"))
    if not isinstance(value, np.ndarray) or value.dtype != np.uint8 or value.ndim not in (2, 3):
        return None
    if value.ndim == 3 and value.shape[0] == 3 and value.shape[2] not in (3, 4):
        value = value.transpose(1, 2, 0)
    if min(value.shape[:2]) < _SMALLEST_PICTURE:
        return None
    if value.ndim == 2 or value.shape[2] == 1:
        return np.repeat(value.reshape(*value.shape[:2], 1), 3, axis=2)
    return value[:, :, :3] if value.shape[2] in (3, 4) else None
