"""What a loaded checkpoint says of itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from vladoctor.taps.measure import Normalisation


def checkpoint_facts(model: Any, normalisation: Normalisation | None = None) -> dict[str, Any]:
    """Facts of a transformers model, as `records.Episode.run["checkpoint"]` holds them; what is not known is left out.

    Reads attributes of the model and of its configuration only: no value of a parameter, and nothing on a GPU.
    """
    config = getattr(model, "config", None)
    parameters = list(model.parameters())
    found = {
        "name": getattr(config, "_name_or_path", None) or getattr(model, "name_or_path", None),
        "revision": getattr(config, "_commit_hash", None),
        "class": f"{type(model).__module__}.{type(model).__qualname__}",
        "model_type": getattr(config, "model_type", None),
        "architectures": list(getattr(config, "architectures", None) or []) or None,
        "norm_stats": _plain(getattr(model, "norm_stats", None)),
        "n_action_bins": _whole(getattr(config, "n_action_bins", None)),
        "vocab_size": _first(_whole(getattr(owner, "vocab_size", None)) for owner in (model, config, _text(config))),
        "image_size": _image_size(config),
        "pixel_mean": list(normalisation.mean) if normalisation is not None else None,
        "pixel_std": list(normalisation.std) if normalisation is not None else None,
        "parameters": sum(parameter.numel() for parameter in parameters),
        "dtype": str(parameters[0].dtype).removeprefix("torch.") if parameters else None,
        "device": str(parameters[0].device) if parameters else None,
        "training": bool(model.training),
    }
    return {name: value for name, value in found.items() if value is not None}


def action_bins(model: Any) -> tuple[list[float], int] | None:
    """(bin centres, vocabulary size) of a model that makes actions of ids as OpenVLA does; None for all others.

    Id `vocabulary size - 1 - k` stands for the k-th centre. Source: openvla/openvla@c8f03f4,
    prismatic/extern/hf/modeling_prismatic.py:518-524; in the native code, prismatic/vla/action_tokenizer.py.
    """
    for owner in (model, getattr(model, "action_tokenizer", None)):
        centers = getattr(owner, "bin_centers", None)
        sizes = (owner, getattr(owner, "tokenizer", None))
        size = _first(_whole(getattr(one, "vocab_size", None)) for one in sizes)
        if isinstance(centers, np.ndarray) and centers.ndim == 1 and len(centers) and size is not None:
            return centers.tolist(), size
    return None


def _image_size(config: Any) -> int | None:
    """Side of the square input in pixels."""
    for value in (
        getattr(config, "image_sizes", None),
        getattr(config, "image_size", None),
        getattr(getattr(config, "vision_config", None), "image_size", None),
    ):
        side = value[0] if isinstance(value, (list, tuple)) and value else value
        if isinstance(side, int):
            return side
    return None


def _text(config: Any) -> Any:
    return getattr(config, "text_config", None)


def _first(values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _whole(value: Any) -> int | None:
    return int(value) if isinstance(value, (int, np.integer)) else None


def _plain(value: Any) -> Any:
    """As JSON would have it; None where that cannot be."""
    if not isinstance(value, Mapping) or not value:
        return None
    try:
        return json.loads(json.dumps(value, default=lambda array: np.asarray(array).tolist()))
    except (TypeError, ValueError):
        return None
