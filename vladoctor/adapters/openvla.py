"""An OpenVLA checkpoint from a local snapshot, loaded and asked as the official evaluation does it.

Source: openvla/openvla@c8f03f4, experiments/robot/openvla_utils.py. Torch and transformers are imported in the
functions that need them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vladoctor.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

_STATISTICS = (
    "copy the file again from the snapshot; it maps a data set's name to {action: {q01: [...], q99: [...]}, ...}"
)

INSTALL = 'run: pip install "vladoctor[torch]"'


@dataclass
class OpenVLAPolicy:
    """A loaded checkpoint.

    Attributes:
        model: the remote-code model, with `predict_action`, in eval mode.
        processor: the remote-code processor, `(text, PIL image) -> input_ids, attention_mask, pixel_values`.
        device, dtype: as torch names them, e.g. "cuda:0", "bfloat16".
        unnorm_key: statistics that `predict_action` is asked to use.
        image_size: side of the model's square input in pixels.
        options: further keyword arguments of `predict_action`.
        prepare_inputs: applied to the processor's output before the model is asked; the identity.
    """

    model: Any
    processor: Any
    path: Path
    device: str
    dtype: str
    unnorm_key: str
    image_size: int
    options: dict[str, Any] = field(default_factory=lambda: {"do_sample": False})
    prepare_inputs: Callable[[Any], Any] = field(default=lambda inputs: inputs)

    def query(self, prompt: str, image: Image.Image) -> np.ndarray:
        """Ask for one action: float64 (7,), un-normalised, gripper 0 = closed, 1 = open."""
        import torch

        inputs = self.processor(prompt, image).to(self.device, dtype=getattr(torch, self.dtype))
        action: np.ndarray = self.model.predict_action(
            **self.prepare_inputs(inputs), unnorm_key=self.unnorm_key, **self.options
        )
        return action

    def prompt_ids(self, prompt: str) -> list[int]:
        """The ids that the checkpoint's own tokenizer makes of a prompt, BOS included."""
        return [int(token) for token in self.processor.tokenizer(prompt)["input_ids"]]

    def facts(self) -> dict[str, Any]:
        """What the checkpoint says of itself, for the trace (see `records.Episode.run`)."""
        from vladoctor.taps.checkpoint import checkpoint_facts
        from vladoctor.taps.processors import normalisation_of

        return {
            "pixel_mean": [],
            "pixel_std": [],
            **checkpoint_facts(self.model, normalisation_of(self.processor.image_processor)),
            "name": self.path.name,
            "unnorm_key": self.unnorm_key,
            "image_size": self.image_size,
            "dtype": self.dtype,
        }


def load_policy(
    path: Path,
    *,
    device: str = "auto",
    dtype: str | None = None,
    unnorm_key: str | None = None,
    suite: str = "",
    attention: str | None = None,
    threads: int | None = None,
) -> OpenVLAPolicy:
    """Load a snapshot folder. Nothing is fetched from a hub.

    Args:
        path: folder with config.json, weights, tokenizer and the checkpoint's own modelling files.
        device: "cpu", "cuda", "cuda:1", or "auto": the first GPU if there is one.
        dtype: of the weights and the floating-point inputs; by default bfloat16 on a GPU, float32 on a CPU.
        unnorm_key: statistics to un-normalise with; by default the suite's name, or that with "_no_noops".
        attention: transformers' `attn_implementation`; by default what transformers chooses.
        threads: torch's CPU threads; by default torch's own choice.

    Raises:
        UserError: the folder, a file in it, the GPU, a library or the statistics are missing.
    """
    from vladoctor.taps.checkpoint import loaded

    torch, transformers = import_torch()
    _check_snapshot(path)
    statistics = _read_statistics(path / "dataset_statistics.json")
    device = choose_device(torch, device)
    dtype = dtype or ("bfloat16" if device.startswith("cuda") else "float32")
    if threads:
        torch.set_num_threads(threads)
    arguments: dict[str, Any] = {
        "trust_remote_code": True,
        "local_files_only": True,
        _dtype_argument(transformers): getattr(torch, dtype),
        "output_loading_info": True,
    }
    if attention:
        arguments["attn_implementation"] = attention
    try:
        processor = load_processor(transformers, path)
        with _remote_code_lock(transformers):
            _import_model_code(transformers, path)
        model, said = auto_class(transformers).from_pretrained(path, **arguments)
    except ImportError as error:
        raise UserError(
            f"the checkpoint's code needs a library that is missing: {error}",
            where=str(path),
            remedy="install it; OpenVLA's own files need timm==0.9.10 and transformers==4.40.1",
        ) from error
    except Exception as error:
        # Damaged files raise many things, SafetensorError and UnpicklingError among them; a checkpoint's code anything.
        raise UserError(
            f"the checkpoint cannot be loaded: {type(error).__name__}: {str(error).strip() or 'no message'}",
            where=str(path),
            remedy=f"compare the folder with the published snapshot (all files, full size); this is transformers "
            f"{transformers.__version__}",
        ) from error
    try:
        model = model.to(device).eval()
    except torch.cuda.OutOfMemoryError as error:
        raise UserError(
            f"the GPU has too little memory for the weights in {dtype}: {error}",
            where=f"model.device: {device}",
            remedy="free the GPU, or use dtype bfloat16 (OpenVLA-7B: 14.0 GiB in bfloat16, 28.0 GiB in float32)",
        ) from error
    loaded(model, *(said.get(name, ()) for name in ("missing_keys", "unexpected_keys", "mismatched_keys")))
    if statistics is not None:
        model.norm_stats = statistics
    return OpenVLAPolicy(
        model=model,
        processor=processor,
        path=path.resolve(),
        device=device,
        dtype=dtype,
        unnorm_key=choose_unnorm_key(model.norm_stats, unnorm_key, suite, str(path)),
        image_size=int(model.config.image_sizes[0]),
    )


def load_processor(transformers: Any, path: Path) -> Any:
    """The snapshot's own processor. Raises whatever its code and transformers raise."""
    with _remote_code_lock(transformers):
        return transformers.AutoProcessor.from_pretrained(path, trust_remote_code=True, local_files_only=True)


def empty_model(torch: Any, transformers: Any, path: Path) -> Any:
    """The snapshot's model with its parameters on torch's meta device: names and shapes, no weights and no memory.

    Raises:
        Exception: whatever its code and transformers raise.
    """
    with _remote_code_lock(transformers):
        _import_model_code(transformers, path)
        config = transformers.AutoConfig.from_pretrained(path, trust_remote_code=True, local_files_only=True)
    with _parameters_on_meta(torch):
        return auto_class(transformers).from_config(config, trust_remote_code=True)


@contextmanager
def _parameters_on_meta(torch: Any) -> Iterator[None]:
    """As accelerate's init_empty_weights. `torch.device("meta")` would also catch what code computes with (timm's)."""
    original = torch.nn.Module.register_parameter

    def register(module: Any, name: str, parameter: Any) -> None:
        original(module, name, parameter)
        # One that is there already is tied to another, and stays the same object.
        if parameter is not None and parameter.device.type != "meta":
            there = module._parameters[name]
            module._parameters[name] = type(there)(there.to("meta"), requires_grad=there.requires_grad)

    torch.nn.Module.register_parameter = register
    try:
        yield
    finally:
        torch.nn.Module.register_parameter = original


def auto_class(transformers: Any) -> Any:
    """The Auto class under which OpenVLA registers: AutoModelForVision2Seq, on 5.x its successor."""
    if int(transformers.__version__.split(".")[0]) >= 5:
        return transformers.AutoModelForImageTextToText
    return transformers.AutoModelForVision2Seq


def choose_unnorm_key(norm_stats: dict[str, Any], asked: str | None, suite: str, where: str) -> str:
    """The key to un-normalise with, by the official evaluation's rule.

    Raises:
        UserError: the checkpoint has no such statistics; names those it has.
    """
    keys = sorted(norm_stats)
    wanted = asked or suite
    candidates = [wanted, f"{wanted}_no_noops"]
    for key in candidates:
        if key in norm_stats:
            return str(key)
    near = get_close_matches(candidates[0] or "", keys, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UserError(
        f"the checkpoint has no statistics for unnorm_key {candidates[0]!r}",
        where=where,
        remedy=f"{hint}it has those of {', '.join(keys)}; statistics of another robot or camera set-up make every "
        "motion wrong, so use a checkpoint that was trained for this suite"
        if keys
        else "it has none at all: training writes dataset_statistics.json into the run's folder; copy it from there, "
        "or from the published snapshot, into the model folder",
    )


def _remote_code_lock(transformers: Any) -> AbstractContextManager[Any]:
    """Lets one process at a time load.

    transformers copies a snapshot's modules into a shared cache without one, and a second process that loads meanwhile
    imports half a file: AttributeError, module has no attribute (seen with 16 processes under transformers 5.17).
    """
    from filelock import FileLock

    folder = Path(transformers.utils.hub.HF_MODULES_CACHE)
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / "vladoctor.lock")


def _import_model_code(transformers: Any, path: Path) -> None:
    """Have the modelling file copied and imported, so that the weights can be loaded without the lock."""
    auto_map = json.loads((path / "config.json").read_text("utf-8")).get("auto_map", {})
    reference = auto_map.get(auto_class(transformers).__name__)
    if reference:
        transformers.dynamic_module_utils.get_class_from_dynamic_module(reference, str(path), local_files_only=True)


def import_torch() -> tuple[Any, Any]:
    """Torch and transformers. Raises UserError where one is not installed."""
    try:
        import torch
        import transformers
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed", where="model", remedy=INSTALL) from error
    return torch, transformers


def _check_snapshot(path: Path) -> None:
    if not path.is_dir():
        raise UserError(
            "the model folder does not exist",
            where=str(path),
            remedy="download a snapshot into it, e.g. "
            "`hf download openvla/openvla-7b-finetuned-libero-object --local-dir weights/openvla-7b-libero-object`, "
            "or correct `model.path` (relative to the run file)",
        )
    if not (path / "config.json").is_file():
        raise UserError("no config.json in the model folder", where=str(path), remedy="name the snapshot's own folder")
    if not any(path.glob("*.safetensors")) and not any(path.glob("*.bin")):
        raise UserError(
            "no weights in the model folder (*.safetensors)",
            where=str(path),
            remedy="download the whole snapshot; a git clone without git-lfs leaves the weights out",
        )
    for file in path.glob("*.safetensors"):
        with file.open("rb") as stream:
            if stream.read(40).startswith(b"version https://git-lfs"):
                raise UserError(
                    "the weights file is a git-lfs pointer, not weights", where=str(file), remedy="run: git lfs pull"
                )


def _read_statistics(file: Path) -> dict[str, Any] | None:
    """What un-normalises actions, where a fine-tune has put it beside its weights."""
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"this is not JSON: {error}", where=str(file), remedy=_STATISTICS) from error
    if not isinstance(content, dict) or not content:
        raise UserError("no statistics are in this file", where=str(file), remedy=_STATISTICS)
    for key, entry in content.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("action"), dict):
            raise UserError(f"the statistics {key!r} have no `action`", where=str(file), remedy=_STATISTICS)
    return content


def choose_device(torch: Any, device: str) -> str:
    """The device that a run file's `model.device` means here.

    Raises:
        UserError: there is no such GPU.
    """
    available = torch.cuda.is_available()
    if device == "auto":
        return "cuda" if available else "cpu"
    if device.startswith("cuda"):
        index = int(device.partition(":")[2] or 0)
        if not available:
            reason = "this PyTorch was built without CUDA" if torch.version.cuda is None else "no usable GPU was found"
            raise UserError(
                f"device {device} was asked for, but {reason}",
                where="model.device",
                remedy="check nvidia-smi, CUDA_VISIBLE_DEVICES and the PyTorch build, or say `device: cpu`",
            )
        if index >= torch.cuda.device_count():
            raise UserError(
                f"device {device} does not exist",
                where="model.device",
                remedy=f"use cuda:0 to cuda:{torch.cuda.device_count() - 1}",
            )
    return device


def _dtype_argument(transformers: Any) -> str:
    return "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"
