"""Episodes built by hand, as if they had been recorded: what facts and checks are tested on.

Ids, centres and statistics are written out here from the sources that are named, not taken from the code under test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from vladoctor.records import Episode, Outcome, Query, Step

LANGUAGE = "pick up the alphabet soup and place it in the basket"
PROMPT = f"In: What action should the robot take to {LANGUAGE}?\nOut:"
MASK = [True, True, True, True, True, True, False]

LIBERO_OBJECT: dict[str, Any] = {
    "q01": [-0.5383928418, -0.8758928776, -0.9375, -0.0696428567, -0.1167857125, -0.1596428603, 0.0],
    "q99": [0.8464285731, 0.84375, 0.9375, 0.0814285725, 0.1489285678, 0.0867857113, 1.0],
    "min": [-0.8839285970, -0.9375, -0.9375, -0.1500000060, -0.2903571427, -0.3289285600, 0.0],
    "max": [0.9375, 0.8919642568, 0.9375, 0.1767857075, 0.3503571451, 0.1810714304, 1.0],
    "mean": [0.0709652901, 0.1349885166, -0.0460138284, 0.0012352004, 0.0069988393, -0.0150276124, 0.4642899930],
    "std": [0.2681235373, 0.4384682477, 0.4474974275, 0.0244465508, 0.0493555106, 0.0421071984, 0.4987914860],
    "mask": MASK,
}
"""Source: zhoujiahuan1991/CVPR2026-PDF@992756c pdflibero/utils/libero_utils.py."""

BRIDGE: dict[str, Any] = {
    "q01": [-0.0287272531, -0.0417034996, -0.0260938588, -0.0809210508, -0.0928869951, -0.2071827638, 0.0],
    "q99": [0.0283096784, 0.0408552546, 0.0401615866, 0.0819204776, 0.0779285052, 0.2038257450, 1.0],
    "mask": MASK,
}
"""Source: OpenHelix-Team/VLA-Adapter@838a36d pretrained_models/configs/config.json."""

Unnormalise = Callable[[np.ndarray], np.ndarray]


def bin_centres(ids: np.ndarray) -> np.ndarray:
    """OpenVLA's decoding, as in openvla/openvla@c8f03f4 prismatic/extern/hf/modeling_prismatic.py:500-524."""
    edges = np.linspace(-1, 1, 256)
    centres = (edges[:-1] + edges[1:]) / 2.0
    return np.asarray(centres[np.clip(32000 - np.asarray(ids) - 1, 0, centres.shape[0] - 1)])


def unnormalise(stats: Mapping[str, Any]) -> Unnormalise:
    """OpenVLA's un-normalisation, as in openvla/openvla@c8f03f4 prismatic/extern/hf/modeling_prismatic.py:527-534."""
    mask = np.array(stats.get("mask", [True] * len(stats["q01"])))
    high, low = np.array(stats["q99"]), np.array(stats["q01"])
    return lambda normalised: np.where(mask, 0.5 * (normalised + 1) * (high - low) + low, normalised)


def libero_command(action: np.ndarray) -> np.ndarray:
    """What the official evaluation executes: gripper by 2g - 1, sign, negate.

    As in openvla/openvla@c8f03f4 experiments/robot/robot_utils.py:75-102.
    """
    command = np.array(action)
    command[-1] = -np.sign(2 * command[-1] - 1)
    return command


def some_ids(queries: int = 30, seed: int = 0) -> np.ndarray:
    """Action ids of a lively episode, int (queries, 7); the gripper is open or closed as a trained model says it."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(31760, 31990, size=(queries, 7))
    ids[:, 6] = np.where(np.arange(queries) < queries // 2, 31744, 31872)
    return np.asarray(ids)


def episode(
    ids: Any = None,
    *,
    returned: Unnormalise | None = None,
    executed: Callable[[np.ndarray], np.ndarray] | None = libero_command,
    norm_stats: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    prompt: str | None = PROMPT,
    input_ids: Sequence[int] = (),
    task: Mapping[str, Any] | None = None,
    checkpoint: Mapping[str, Any] | None = None,
) -> Episode:
    """An episode with one query a step.

    Args:
        ids: generated ids, one row a query.
        returned: from bin centres of the last seven ids to what predict_action returned; None records nothing.
        executed: from what was returned (or, where nothing was, from the bin centres) to what was executed.
        norm_stats: the checkpoint's, key -> action statistics; libero_object's published ones by default.
        options: of the query, besides unnorm_key="libero_object".
    """
    rows = some_ids() if ids is None else ids
    steps = []
    for number, row in enumerate(rows):
        centres = bin_centres(np.array(((0,) * 7 + tuple(row))[-7:]))
        action = None if returned is None else returned(centres)
        done = None if executed is None else executed(centres if action is None else action)
        query = Query(
            prompt=prompt,
            input_ids=tuple(input_ids),
            ids=tuple(int(value) for value in row),
            action=None if action is None else tuple(float(value) for value in action),
            options={"unnorm_key": "libero_object", **(options or {})},
        )
        command = () if done is None else tuple(float(value) for value in done)
        steps.append(Step(number, query=query, executed=command))
    stats = {"libero_object": LIBERO_OBJECT} if norm_stats is None else norm_stats
    return Episode(
        run={
            "checkpoint": {
                "name": "openvla-7b-finetuned-libero-object",
                "model_type": "openvla",
                "architectures": ["OpenVLAForActionPrediction"],
                "norm_stats": {key: {"action": dict(action)} for key, action in stats.items()},
                **(checkpoint or {}),
            }
        },
        task={"suite": "libero_object", "task_id": 0, "init_state": 0, "language": LANGUAGE, **(task or {})},
        steps=steps,
        outcome=Outcome("horizon", False, len(steps)),
    )


RIGHT_STATE: dict[str, Any] = {
    "training": False,
    "training_modules": 0,
    "modules": 169,
    "active": {},
    "dtypes": {"float32": 7_022_336},
    "devices": {"cpu": 7_022_336},
    "attention": "sdpa",
    "loading": {
        "missing": [], "missing_count": 0, "missing_values": 0, "unexpected": [], "unexpected_count": 0,
        "adapter_keys": 0, "mismatched": [], "mismatched_count": 0,
    },
}  # fmt: skip
"""How the demo's model stands at its first query, as recorded; see `taps.checkpoint.model_state`."""


def standing(*, model: bool = True, at: int = 0, task: Mapping[str, Any] | None = None, **state: Any) -> Episode:
    """An episode whose model stands as recorded, but for `state`, from the query `at` on; None takes a fact away."""
    found = episode(some_ids(6), returned=unnormalise(LIBERO_OBJECT), task=task)
    if model:
        for place in {0, at}:
            query = found.steps[place].query
            assert query is not None
            changed = {**RIGHT_STATE, **state} if place == at else RIGHT_STATE
            query.model = {name: value for name, value in changed.items() if value is not None}
    return found
