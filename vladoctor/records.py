"""What a trace holds, as plain data: the meeting point of the taps that write it and the facts that are measured on it.

Frames are uint8 RGB of shape (H, W, 3) in the row order in which the program had them. Actions are float64 of shape
(action_dim,). Times are milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from vladoctor.pictures import PictureStatistics, greyed, measure


@dataclass
class Frame:
    """One picture at one step: always a thumbnail, at chosen steps also the full frame.

    Attributes:
        shape: (H, W) of the full frame.
        minimum, maximum: smallest and largest value over the *full* frame, 0..255 (None where not measured).
        load_thumbnail: returns uint8 (h, w, 3), an area average of the full frame (JPEG, so off by a few levels).
        load_full: returns the full frame, lossless, or None where it was not kept.
        load_grey: returns `pictures.greyed` of the thumbnail before its JPEG, uint8 (h, w), no side above 64; None
            where it was not recorded.
        measured: `pictures.measure` of the thumbnail before its JPEG; None where that was not recorded.
    """

    shape: tuple[int, int]
    load_thumbnail: Callable[[], np.ndarray]
    load_full: Callable[[], np.ndarray] | None = None
    minimum: float | None = None
    maximum: float | None = None
    load_grey: Callable[[], np.ndarray] | None = None
    measured: PictureStatistics | None = None

    @cached_property
    def thumbnail(self) -> np.ndarray:
        return self.load_thumbnail()

    @cached_property
    def grey(self) -> np.ndarray:
        """Mean of the channels, uint8 (h, w); where it was not recorded, of the thumbnail."""
        return greyed(self.thumbnail) if self.load_grey is None else self.load_grey()

    @cached_property
    def statistics(self) -> PictureStatistics:
        """The thumbnail in numbers, measured now where that was not done when it was recorded."""
        return measure(self.thumbnail) if self.measured is None else self.measured

    @property
    def identity(self) -> bytes:
        """The same of two pictures of one recording if they are the same, value by value, as recorded."""
        return self.thumbnail.tobytes()

    @cached_property
    def full(self) -> np.ndarray | None:
        return self.load_full() if self.load_full else None

    def forget(self) -> None:
        """Drop the decoded pictures; they are loaded again where they are looked at again."""
        for name in ("thumbnail", "grey", "full", "identity"):
            self.__dict__.pop(name, None)

    def release(self) -> None:
        """Keep nothing of the pictures in memory that stands in a file, which has to stay where it is."""
        self.forget()

    @property
    def best(self) -> np.ndarray:
        """The full frame where it was kept, else the thumbnail."""
        return self.thumbnail if self.full is None else self.full


@dataclass
class Query:
    """One call of the policy, as seen at the outermost boundary that a tap knows, and at those inside it.

    Attributes:
        boundary: where it was seen: "predict_action", "generate", "lerobot.select_action", "openpi.infer", "/act" ...
        prompt: text given to the processor; None where only ids could be seen.
        input_ids: ids given to the model (before it appends anything), shape (T,).
        image: what the model was given, un-normalised from `pixel_values` with the first tower's mean and std. Where
            these are not known, its values are stretched to 0..255, and `options["image_scale"]` is "relative".
        more_images: further images of the same query, by the name of their slot.
        proprio: name -> state values that the policy was given, as given.
        pixel_stats: per channel of `pixel_values` (6 for a fused tower): mean, min, max.
        ids: every id that the model generated in this query, in order.
        action_mass: per generated token, probability mass on the family's action ids.
        margin: per generated token, log-probability of the best id minus that of the second best.
        entropy: per generated token, entropy in nats of the distribution *within* the action ids.
        normalised: what the model's own bin centres give for the last `action_dim` ids, shape (action_dim,).
        action: what the boundary returned, shape (action_dim,); of a chunk the first row.
        chunk: all rows of a returned action chunk, shape (rows, action_dim); empty where one action was returned.
        options: keyword arguments of the call that are not tensors (unnorm_key, do_sample ...).
        vision_calls: how often the vision tower ran during this query.
        model: how the model stood: at the first query, and where that has changed; see `taps.checkpoint.model_state`.
    """

    boundary: str = ""
    prompt: str | None = None
    input_ids: tuple[int, ...] = ()
    image: Frame | None = None
    more_images: Mapping[str, Frame] = field(default_factory=dict)
    proprio: Mapping[str, Sequence[float]] = field(default_factory=dict)
    pixel_stats: Mapping[str, Sequence[float]] = field(default_factory=dict)
    ids: tuple[int, ...] = ()
    action_mass: tuple[float, ...] = ()
    margin: tuple[float, ...] = ()
    entropy: tuple[float, ...] = ()
    normalised: tuple[float, ...] | None = None
    action: tuple[float, ...] | None = None
    chunk: tuple[tuple[float, ...], ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    vision_calls: int | None = None
    model: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Step:
    """One control step: the observation before it, the query (if any) and what was executed.

    Attributes:
        number: control step counted from the episode's first query, which is 0; settle steps are negative.
        frames: camera name -> raw frame as the environment returned it, before any rotation.
        proprio: name -> values, in the environment's own units (LIBERO: metres, quaternion xyzw).
        executed: the action that `env.step` received.
        timings: stage -> milliseconds; memory: name -> bytes.
    """

    number: int
    frames: Mapping[str, Frame] = field(default_factory=dict)
    proprio: Mapping[str, Sequence[float]] = field(default_factory=dict)
    query: Query | None = None
    executed: tuple[float, ...] = ()
    reward: float = 0.0
    done: bool = False
    success: bool | None = None
    info: Mapping[str, Any] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    memory: Mapping[str, int] = field(default_factory=dict)


@dataclass
class Outcome:
    """How an episode ended: `success`, `horizon`, `exception` or `interrupted` (the recording just stops)."""

    ended: str
    success: bool
    steps: int
    error: str = ""


@dataclass
class Episode:
    """One recorded episode.

    Attributes:
        run: what holds for the whole run: `versions`, `spec` (the resolved run.yaml), `assets`, `device`, and
            `checkpoint`: name, model_type, norm_stats, unnorm_key, n_action_bins, vocab_size, image_size,
            pixel_mean, pixel_std (per channel of pixel_values), center_crop, parameters, dtype.
        task: suite, task_id, name, language, suite_languages (those of all tasks of the suite), init_state, seed,
            episode, horizon, fault (name or ""), and `cameras`: name -> {"position": 3 metres, "rotation": 9 (row-major
            camera-to-world, MuJoCo axes: x right, y up, looking along -z), "fovy_deg": vertical field of view,
            "height", "width"}, from the simulator.
        notes: what could not be recorded and why, one sentence each.
        truncated: the recording ends without its closing record (killed, or the disk was full), or does not hold
            everything that was recorded.
        damage: what is wrong with the recording's file where it is not just cut off: "is damaged at byte 9,000 of
            20,000". Empty where nothing is; never without `truncated`.
    """

    run: Mapping[str, Any]
    task: Mapping[str, Any]
    steps: Sequence[Step]
    outcome: Outcome
    truncated: bool = False
    source: str = ""
    notes: Sequence[str] = ()
    damage: str = ""

    @property
    def name(self) -> str:
        """For example "task0-init30-ep0"; own tasks are labelled with their BDDL file's name.

        Episodes of a loop that is not ours have no number of an init state: "alphabet-soup-ep3".
        """
        label = self.task.get("label") or f"task{self.task.get('task_id', '?')}"
        start = f"-init{self.task['init_state']}" if self.task.get("init_state") is not None else ""
        return f"{label}{start}-ep{self.task.get('episode', 0)}"

    def policy_steps(self) -> Iterator[Step]:
        """Steps from the first query on."""
        return (step for step in self.steps if step.number >= 0)

    def queries(self) -> Iterator[tuple[int, Query]]:
        """(step number, query) for every step at which the policy was asked."""
        return ((step.number, step.query) for step in self.steps if step.query is not None)
