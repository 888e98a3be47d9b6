"""How to read an environment: what its `reset` and `step` return, and where the pictures are in it.

`EnvAdapter` is the one place where environments differ for the taps. Those of the libraries that are known stand in
`vladoctor.taps.libraries`; one for an environment of your own is a few lines:

    import vladoctor

    adapter = vladoctor.EnvAdapter(
        "my robot",
        read_step=lambda result: vladoctor.Transition(result["camera"], done=result["over"]),
        frames=lambda camera: {"front": camera},
    )
    with vladoctor.watch(out="reports/own") as doctor:
        env = doctor.watch_env(MyEnv(), adapter)      # or: reset, step = doctor.watch_calls(reset, step, adapter)
        evaluate(env)                                 # your loop, as it is
    print(doctor.summary())
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

_SMALLEST_PICTURE = 16
"""Shorter side in pixels from which an array is taken for a picture."""

_LARGEST_VECTOR = 64
"""Values up to which an array is taken for proprioception."""

_LARGEST_FACT = 256
"""Values up to which an array in an `info` is kept."""

_DEEPEST = 4

INSTRUCTIONS = ("language_instruction", "instruction", "task_description")
"""Names under which environments keep what is to be done, as text."""


class Transition(NamedTuple):
    """What a step returned.

    Attributes:
        observation: as the environment returned it.
        reward: a number; None where it is not one.
        done: the episode is over, for whatever reason; None where the environment does not say.
        success: the task is done; None where the environment does not say.
        info: what else it said.
        restarted: the environment began a new episode instead of executing the action, as dm_env's do after an end.
    """

    observation: Any
    reward: float | None = None
    done: bool | None = None
    success: bool | None = None
    info: Any = None
    restarted: bool = False


class Part(NamedTuple):
    """What a call of a vector environment came to in one of its environments.

    Attributes:
        place: number of that environment.
        transition: what its `step` returned; of a reset the observation alone counts.
        action: what its `step` was given.
    """

    place: int
    transition: Transition
    action: Any = None


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
    """What an `info` says of success, under one of the names in use; None where it says nothing.

    Vector environments that begin the next episode in the same step keep what the last one said as "final_info".
    """
    if not isinstance(info, Mapping):
        return None
    for name in ("is_success", "success", "task_success"):
        value = scalar(info.get(name))
        if value is not None:
            return bool(value)
    return success_in(info.get("final_info"))


def instruction_in(result: Any) -> str | None:
    """The instruction in what `reset` returned, in its observation or its info; None where there is none."""
    for part in result if isinstance(result, tuple) else (result,):
        for name in INSTRUCTIONS if isinstance(part, Mapping) else ():
            text = part.get(name)
            if isinstance(text, str) and text:
                return text
    return None


def array_of(value: Any) -> np.ndarray | None:
    """A numpy array, a PIL image, or a tensor in the CPU's memory, as an array; None for anything else.

    Nothing is fetched from a GPU and no method of an unknown class is called.
    """
    if isinstance(value, np.ndarray):
        return value
    library = type(value).__module__.partition(".")[0]
    if library == "PIL" and hasattr(value, "convert"):
        return np.asarray(value.convert("RGB"))
    if library == "torch" and hasattr(value, "detach") and not on_gpu(value):
        try:
            return np.asarray(value.detach().numpy())
        except (TypeError, RuntimeError):  # bfloat16, sparse
            return None
    return None


def scalar(value: Any) -> float | None:
    """A number, alone or the only one in an array, or None; nothing is fetched from a GPU for it."""
    if isinstance(value, (bool, int, float, np.number, np.bool_)):
        return float(value)
    array = array_of(value)
    return float(array.item()) if array is not None and array.size == 1 and array.dtype.kind in "biuf" else None


def truth(value: Any) -> bool:
    """Whether something is true, of an array all of it; what lies on a GPU counts as not: asking would wait for it."""
    if isinstance(value, (bool, np.bool_, int, float)):
        return bool(value)
    array = array_of(value)
    return array is not None and bool(np.all(array))


def on_gpu(value: Any) -> bool:
    """Whether a value is a tensor that is not in the CPU's memory."""
    if getattr(value, "is_cuda", False) is True:
        return True
    if type(value).__module__.partition(".")[0] != "torch":
        return False
    return getattr(getattr(value, "device", None), "type", "cpu") != "cpu"


def action_values(action: Any) -> tuple[float, ...] | None:
    """An action as numbers, flat, those of a dict in its order; None where it is none, or lies on a GPU."""
    if isinstance(action, Mapping):
        parts = [action_values(part) for part in action.values()]
        return None if None in parts else tuple(value for part in parts if part is not None for value in part)
    array = action if isinstance(action, (bool, int, float, list, tuple, np.number, np.bool_)) else array_of(action)
    try:
        found: list[float] = np.asarray(array).astype(np.float64).ravel().tolist() if array is not None else []
    except (TypeError, ValueError):
        return None
    return tuple(found) if array is not None else None


def frozen(value: Any, depth: int = _DEEPEST) -> Any:
    """What an `info` said, as it was: the program may change it before it is written. Large arrays are named only."""
    if value is None or isinstance(value, (bool, int, float, str, np.number, np.bool_)):
        return value
    if isinstance(value, Mapping) and depth:
        return {str(key): frozen(item, depth - 1) for key, item in list(value.items())}
    if isinstance(value, (list, tuple)) and depth and len(value) <= _LARGEST_FACT:
        return [frozen(item, depth - 1) for item in value]
    array = array_of(value)
    if array is not None and array.dtype != object and array.size <= _LARGEST_FACT:
        return array.tolist()
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else f"{type(value).__name__} of shape {tuple(shape)}"


def row(batch: Any, place: int) -> Any:
    """One environment's share of what a vector environment was given or returned: arrays, and dicts of them."""
    if isinstance(batch, Mapping):
        return {key: row(value, place) for key, value in batch.items()}
    try:
        return batch[place]
    except (TypeError, LookupError):
        return None


def pictures(observation: Any) -> dict[str, np.ndarray]:
    """Every picture in an observation: path of its keys ("pixels/agentview") -> uint8 (H, W, 3), rows as they come.

    A picture is an array or a CPU tensor of uint8, (H, W, 3 or 4), (3, H, W), (H, W) or (H, W, 1), not smaller than 16
    pixels, or a PIL image; a batch of one counts as its only member. Three channels of floats count where all of them
    lie within 0..1 or within 0..255, and are brought to 0..255 (`remarks` says so). A bare picture is called "image".
    LIBERO's and robosuite's "<camera>_image" go by the camera's name.
    """
    found: dict[str, np.ndarray] = {}
    for path, value in _leaves(observation):
        picture = as_picture(value)
        if picture is not None:
            found[path.removesuffix("_image") or "image"] = picture
    return found


def remarks(observation: Any) -> list[str]:
    """What of an observation is not recorded, or not as it was; one sentence each."""
    found: list[str] = []
    for path, value in _leaves(observation):
        name, shape = path or "the observation", tuple(getattr(value, "shape", ()) or ())
        if on_gpu(value):
            if len(shape) >= 3:
                found.append(f"{name} is not recorded: it lies on a GPU, and fetching it would make the program wait")
            continue
        array = array_of(value)
        if array is None:
            continue
        if array.ndim >= 4 and array.dtype == np.uint8 and shape[0] > 1 and as_picture(array[0]) is not None:
            found.append(f"{name} is not recorded: it is a batch of {shape[0]} pictures")
        elif array.dtype.kind == "f" and as_picture(array) is not None:
            top = 1 if float(array.max()) <= 1.0 else 255
            found.append(f"{name} is {array.dtype} from 0 to {top}; it is recorded as uint8 from 0 to 255")
    return found


def vectors(observation: Any) -> dict[str, Any]:
    """Every short array of numbers in an observation: path of its keys -> the array, in the environment's own units."""
    found: dict[str, Any] = {}
    for path, value in _leaves(observation):
        number = isinstance(value, (np.number, float, int)) and not isinstance(value, bool)
        array = np.asarray(value) if number else array_of(value)
        if array is not None and array.dtype.kind in "fiu" and 0 < array.size <= _LARGEST_VECTOR:
            found[path or "state"] = array
    return found


def nothing(_: Any) -> Mapping[str, Any]:
    """No facts."""
    return {}


def nothing_of(_: Any) -> None:
    """No value."""


def no_name(_: Any) -> str:
    """An empty name."""
    return ""


@dataclass(frozen=True)
class EnvAdapter:
    """How to read one kind of environment.

    All of it only reads. It has to be made of functions of modules where environments are sent to other processes.

    Attributes:
        name: the library or the environment, for reports.
        read_reset: what `reset` returned -> observation.
        read_step: what `step` returned -> `Transition`.
        frames: observation -> camera -> picture, RGB, rows as they come; of any form that `pictures` knows.
        proprio: observation -> name -> numbers.
        describe: environment -> facts for `records.Episode.task`: suite, name, label, language, horizon, cameras ...
        inner: environment -> the one inside it that counts as the same, or None where calls show it.
        split: for a vector environment: (environment, "reset", "step" or "observe", name -> argument of that call, what
            it returned) -> a `Part` for each of its environments that took part; None for a single environment.
        size: for a vector environment: how many it holds.
        autoreset: for a vector environment: "next" where it begins the next episode in the step after the last one's
            end, whose action it ignores; "same" where it does in the step that ends it; "" where the program resets.
    """

    name: str
    read_reset: Callable[[Any], Any] = first
    read_step: Callable[[Any], Transition] = gym_transition
    frames: Callable[[Any], Mapping[str, np.ndarray]] = pictures
    proprio: Callable[[Any], Mapping[str, Any]] = vectors
    describe: Callable[[Any], Mapping[str, Any]] = nothing
    inner: Callable[[Any], Any] | None = None
    split: Callable[[Any, str, Mapping[str, Any], Any], Iterable[Part]] | None = None
    size: Callable[[Any], int | None] = nothing_of
    autoreset: Callable[[Any], str] = no_name


def _leaves(value: Any, path: str = "", depth: int = 0) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping) and depth < _DEEPEST:
        return [
            leaf
            for key, item in value.items()
            for leaf in _leaves(item, f"{path}/{key}" if path else str(key), depth + 1)
        ]
    return [(path, value)]


def as_picture(value: Any) -> np.ndarray | None:
    """One picture, of any form that `pictures` knows, as uint8 (H, W, 3); None for anything else."""
    array = array_of(value)
    if array is None or array.dtype.kind not in "uf":
        return None
    while array.ndim > 3 and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 3 and array.shape[0] == 3 and array.shape[2] not in (3, 4):
        array = array.transpose(1, 2, 0)
    if array.ndim not in (2, 3) or min(array.shape[:2]) < _SMALLEST_PICTURE:
        return None
    if array.dtype.kind == "f":
        return _levels(array) if array.ndim == 3 and array.shape[2] == 3 else None
    if array.dtype != np.uint8:
        return None
    if array.ndim == 2 or array.shape[2] == 1:
        return np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2)
    return array[:, :, :3] if array.shape[2] in (3, 4) else None


def _levels(array: np.ndarray) -> np.ndarray | None:
    """Floats of 0..1 or 0..255 to uint8; None where they are neither, as depths or coordinates are."""
    low, high = float(array.min()), float(array.max())
    if not (low >= 0.0 and high <= 255.0):
        return None
    levels: np.ndarray = np.rint(array * 255.0 if high <= 1.0 else array).astype(np.uint8)
    return levels
