"""What a loaded checkpoint says of itself."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import weakref
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
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
        "state": model_state(model),
        "adapter_file": _adapter_file(getattr(config, "_name_or_path", None)),
    }
    return {name: value for name, value in found.items() if value is not None}


def model_state(model: Any) -> dict[str, Any]:
    """How a model stands: modes, numbers, adapters, code. Walks its modules once, and reads no value on any device.

    Returns:
        training: of the model itself; training_modules, modules: how many modules are in train mode, of how many.
        active: what acts only in train mode and is in it -> how often: {"Dropout(p=0.1)": 4}.
        dtypes, devices: name -> number of values in parameters.
        attention: what computes it, as the language model's configuration says.
        adapters: layers, disabled, merged (how many), names (those that are active); absent without PEFT's layers.
        code: of the files of the model's classes, by the module's name: {"sha256": its first 16 characters, "bytes"},
            and "both_directions" where attention in it is not causal.
        loading: see `loaded`; absent where it was not seen.
    """
    modes: Counter[bool] = Counter()
    active: Counter[str] = Counter()
    layers: list[Any] = []
    files: dict[str, None] = {}
    for module in model.modules():
        modes[bool(module.training)] += 1
        if module.training:
            active.update(_random_parts(module))
        if "lora_A" in module._modules:
            layers.append(module)
        name = type(module).__module__
        if name.startswith(_CODE) and len(files) < _MOST_FILES:
            files[name] = None
    dtypes: Counter[str] = Counter()
    devices: Counter[str] = Counter()
    for parameter in model.parameters():
        dtypes[str(parameter.dtype).removeprefix("torch.")] += parameter.numel()
        devices[str(parameter.device)] += parameter.numel()
    found: dict[str, Any] = {
        "training": bool(model.training),
        "training_modules": modes[True],
        "modules": sum(modes.values()),
        "active": dict(active),
        "dtypes": dict(dtypes),
        "devices": dict(devices),
        "attention": _attention(model),
        "adapters": _adapters(layers) if layers else None,
        "code": {name: identity for name in files if (identity := _identity(name)) is not None} or None,
        "loading": _loadings.get(model),
    }
    return {name: value for name, value in found.items() if value is not None}


def inputs_state(model: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What numbers a query is computed in: `inputs`, name -> dtype of its tensors of floats, and `autocast`."""
    import torch

    given = {
        name: str(value.dtype).removeprefix("torch.")
        for name, value in arguments.items()
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    }
    parameter = next(model.parameters(), None)
    cast = _autocast(parameter.device.type) if parameter is not None else None
    return {**({"inputs": given} if given else {}), **({"autocast": cast} if cast else {})}


def _autocast(device: str) -> str | None:
    import torch

    try:
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    except (TypeError, AttributeError):
        # Before torch 2.4 the question was one of the GPU only.
        dtype = torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None
    return str(dtype).removeprefix("torch.") if dtype is not None else None


def loaded(model: Any, missing: Iterable[str], unexpected: Iterable[str], mismatched: Iterable[Any] = ()) -> None:
    """Remember what was said when weights were put into a model: `model_state` tells it.

    Args:
        missing: names that the file had no weights for; those of parameters only are kept, and of several files those
            that none of them had.
        unexpected: names in the file that the model has no place for.
        mismatched: names, or tuples that begin with one, whose shapes differed.
    """
    names = dict(model.named_parameters(remove_duplicate=False))
    lacking = sorted(name for name in missing if name in names)
    if lacking:
        gone = set(lacking)
        # A tied weight stands in the file under its other name.
        there = {id(parameter) for name, parameter in names.items() if name not in gone}
        lacking = [name for name in lacking if id(names[name]) not in there]
    before = _loadings.get(model)
    if before is not None:
        # A list that was cut short is no set to intersect with.
        still = set(before["missing"])
        lacking = [name for name in lacking if name in still] if before["missing_count"] <= _MOST_NAMES else lacking
    extra = sorted(str(name) for name in unexpected)
    shapes = [str(one[0] if isinstance(one, (list, tuple)) else one) for one in mismatched]
    _loadings[model] = {
        "missing": lacking[:_MOST_NAMES],
        "missing_count": len(lacking),
        "missing_values": sum(names[name].numel() for name in lacking),
        "unexpected": extra[:_MOST_NAMES],
        "unexpected_count": len(extra),
        "adapter_keys": sum("lora_" in name or ".base_layer." in name for name in extra),
        "mismatched": shapes[:_MOST_NAMES],
        "mismatched_count": len(shapes),
    }


_loadings: weakref.WeakKeyDictionary[Any, dict[str, Any]] = weakref.WeakKeyDictionary()

_MOST_NAMES = 64
"""Names of weights that are kept."""

_MOST_FILES = 12
"""Files of code that are hashed."""

_CODE = ("transformers.models.", "transformers_modules.", "prismatic.", "lerobot.policies.", "lerobot.common.policies.")
"""What names of modules begin with in which the classes of such models are."""

_BOTH_DIRECTIONS = re.compile(rb"\bis_causal\s*=\s*False\b")
"""How code is written whose attention looks ahead. In no release of transformers' Llama from 4.40.1 to 5.23.0."""

_FUNCTIONAL = (
    "attention_dropout",
    "attn_dropout",
    "dropout",
    "dropout_p",
    "dropout_prob",
    "drop_prob",
    "hidden_dropout",
)
"""Attributes in which modules hold the probability of a dropout that is no module."""


def _random_parts(module: Any) -> list[str]:
    """What of a module in train mode does otherwise than in eval mode."""
    kind = type(module).__name__
    if "BatchNorm" in kind:
        return [kind]
    own = vars(module)
    if "Dropout" in kind and isinstance(own.get("p"), float):
        return [f"{kind}(p={own['p']:g})"] if own["p"] > 0 else []
    return [
        f"{kind}.{name}={own[name]:g}" for name in _FUNCTIONAL if isinstance(own.get(name), float) and own[name] > 0
    ]


def _adapters(layers: list[Any]) -> dict[str, Any]:
    """Of PEFT's LoRA layers. Source: huggingface/peft, src/peft/tuners/tuners_utils.py, BaseTunerLayer."""
    names = sorted({str(name) for layer in layers for name in _listed(getattr(layer, "active_adapters", None))})
    return {
        "layers": len(layers),
        "disabled": sum(bool(getattr(layer, "disable_adapters", False)) for layer in layers),
        "merged": sum(bool(getattr(layer, "merged", False)) for layer in layers),
        "names": names,
    }


def _listed(value: Any) -> list[Any]:
    return [value] if isinstance(value, str) else list(value or ())


def _adapter_file(folder: Any) -> str | None:
    """The file beside the weights that says that they are only the base of an adapter."""
    file = Path(str(folder)) / "adapter_config.json" if folder else None
    try:
        return file.name if file is not None and file.is_file() else None
    except OSError:
        return None


def _attention(model: Any) -> str | None:
    config = getattr(model, "config", None)
    found = [getattr(one, "_attn_implementation", None) for one in (_text(config), config)]
    return next((value for value in found if isinstance(value, str)), None)


def _identity(module: str) -> dict[str, Any] | None:
    """A file of code as it is on the disk now: some 70 kB, a tenth of a millisecond."""
    file = getattr(sys.modules.get(module), "__file__", None)
    try:
        content = Path(file).read_bytes() if file else None
    except OSError:
        return None
    if content is None:
        return None
    found = {"sha256": hashlib.sha256(content).hexdigest()[:16], "bytes": len(content)}
    return {**found, "both_directions": True} if _BOTH_DIRECTIONS.search(content) else found


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
