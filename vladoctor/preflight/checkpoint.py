"""Level 1, the checkpoint: complete, of this suite, with its tokenizer, its code and the memory for it, all without
loading its weights. The model is made on torch's meta device, where tensors have names and shapes and no memory.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vladoctor.check import Severity
from vladoctor.facts import statistics as st
from vladoctor.facts.tokens import bin_numbers, decode, token_layout
from vladoctor.preflight import known, memory
from vladoctor.preflight.looks import IMPORTING, Context, Look, TroubleError
from vladoctor.preflight.memory import GIB
from vladoctor.preflight.result import ABSTAINED, OK, Item, judged
from vladoctor.records import Episode, Query
from vladoctor.session import expected_prompt
from vladoctor.snapshot import AGAIN, Snapshot, Weights, check_hashes

HASHING = 2.0
"""Seconds for files' hashes at level 1; at level 2 all of them are read."""

SIMULATORS = ("robosuite", "bddl", "mujoco", "libero")
"""Libraries that a profile pins and a checkpoint's code does not use."""

PLACEHOLDER = "pick up the alphabet soup and place it in the basket"
"""An instruction for the tokenizer, where the task's own is not known yet."""


POINTER = "In a clone, `git lfs pull` fetches what a pointer stands for. Otherwise copy"


def looks(context: Context) -> list[Look]:
    """What is looked at, of this run."""
    return [
        Look(1, "weights", "VD704", _weights, "model.path"),
        Look(1, "hashes", "VD704", _hashes, "model.path"),
        Look(1, "statistics", "VD501", _statistics, "model.unnorm_key"),
        Look(1, "device and memory", "VD701", _memory, "model.dtype", limit=IMPORTING),
        Look(1, "processor", "VD303", _processor, "model.path", limit=IMPORTING),
        Look(1, "prompt ids", "VD303", _prompt, "model.path"),
        Look(1, "action tokens", "VD405", _tokens, "model.path"),
        Look(1, "model code and weights", "VD704", _code, "model.path"),
    ]


def _snapshot(context: Context) -> Snapshot:
    found: Snapshot = context.have.setdefault("snapshot", Snapshot(context.spec.own_loop()[0].path))
    return found


def _weights(context: Context) -> Iterator[Item]:
    weights = _snapshot(context).weights
    if weights.problems:
        raise TroubleError(
            "VD704",
            f"The weights are not complete: {'; '.join(weights.problems)}.",
            f"{POINTER if any('git-lfs' in one for one in weights.problems) else 'Copy'}"
            " or download those files again and compare their sizes with the published ones:\n"
            f"```\nhf download REPOSITORY --local-dir {_snapshot(context).path}\n```",
            evidence={"seen": "; ".join(weights.problems), "expected": "every file as long as its header says"},
        )
    names = f"{len(weights.files)} file{'s' if len(weights.files) > 1 else ''}"
    if not weights.complete:
        yield Item(
            1, "weights", ABSTAINED, reason=f"what is in {names} that are not safetensors is seen on loading only"
        )
        return
    kinds = ", ".join(f"{count:,} values in {name}" for name, count in weights.dtypes.items())
    yield Item(1, "weights", OK, f"{names} whole, {len(weights.tensors)} tensors, {kinds}")


def _hashes(context: Context) -> Iterator[Item]:
    yield from hashes(_snapshot(context).path, HASHING, 1)


def hashes(folder: Path, seconds: float, level: int) -> Iterator[Item]:
    """Hold files against the hashes that the folder has of them."""
    found = check_hashes(folder, seconds=seconds)
    if found is None:
        yield Item(level, "hashes", ABSTAINED, reason="the folder has none (a download by `hf download` leaves some)")
        return
    if found.wrong:
        raise TroubleError(
            "VD704",
            f"{', '.join(found.wrong[:5])} {'is' if len(found.wrong) == 1 else 'are'} not as published: the content "
            f"has another hash than {found.source} say.",
            "Download these files again, unless you have changed them yourself.",
            severity=Severity.FIX if all(not name.endswith((".safetensors", ".bin")) for name in found.wrong)
            else Severity.STOP,
            evidence={"seen": ", ".join(found.wrong), "expected": f"as {found.source} say"},
        )  # fmt: skip
    left = f"; {found.skipped_bytes / GIB:.1f} GiB are left for level 2" if found.skipped_bytes else ""
    yield Item(level, "hashes", OK, f"{found.checked} of {found.known} files as {found.source} say{left}")


def _statistics(context: Context) -> Iterator[Item]:
    from vladoctor.adapters.openvla import choose_unnorm_key

    snapshot, (model, env) = _snapshot(context), context.spec.own_loop()
    table, file = snapshot.statistics
    key = choose_unnorm_key(table, model.unnorm_key, env.suite, file or "config.json, dataset_statistics.json")
    wrong = _wrong_statistics(table[key], context)
    if wrong:
        raise TroubleError(
            "VD501",
            f"The statistics {key} in {file} cannot be used: {wrong}.",
            "Copy the file again from the snapshot; it maps a data set's name to {action: {q01: [...], q99: [...]}}.",
            evidence={"seen": wrong, "expected": "q01 and q99, one number for each dimension"},
        )
    episode = known.episode(context.spec, run={"checkpoint": {**snapshot.facts(), "unnorm_key": key}})
    result = known.ask("VD704", episode, context.profile, context.spec)
    yield from judged(1, "trained for", result, quiet=True)
    _require_suites_statistics(key, episode, context)
    yield Item(1, "statistics", OK, f"{key}, in {file}", f"statistics of {env.suite}")


def _require_suites_statistics(key: str, episode: Episode, context: Context) -> None:
    """Hold what `unnorm_key` names against what VD501 expects of this suite and checkpoint.

    Raises:
        TroubleError: they are others. That the checkpoint has none of the suite's is VD704's to say.
    """
    if context.profile.get("unnorm.method") != "q01_q99":
        return
    own = st.checkpoint_statistics(episode)
    used = own.get(key)
    expected = st.expectation(episode, context.profile, own, used.q01.size) if used is not None else None
    if used is None or expected is None or expected.lacking:
        return
    way = st.use(used)
    if any(way.equals(one, expected.arm) for one in expected.ways):
        return
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.abs(way.span / expected.ways[0].span)[expected.arm]
        worst = np.nanmax(np.maximum(ratio, 1 / ratio), initial=1.0)
    limits = {**known.thresholds("VD501"), **context.spec.checks.thresholds.get("VD501", {})}
    wanted = expected.statistics.key
    raise TroubleError(
        "VD501",
        f"Actions would be un-normalised with the statistics of {key}, as `unnorm_key` says; {expected.reason}.",
        f"Write `unnorm_key: {wanted}`.",
        severity=Severity.STOP if worst >= limits["stop_ratio"] else Severity.FIX,
        evidence={"seen": f"the statistics of {key}", "expected": f"the statistics of {wanted}"},
    )


def _wrong_statistics(entry: Any, context: Context) -> str:
    action = entry.get("action") if isinstance(entry, Mapping) else None
    if not isinstance(action, Mapping):
        return "they have no `action`"
    method = str(context.profile.get("unnorm.method") or "q01_q99")
    sides = {"q01_q99": ("q01", "q99"), "min_max": ("min", "max"), "mean_std": ("mean", "std")}.get(method)
    if sides is None:
        return ""
    size = context.profile.get("tokens.action_dim")
    for side in sides:
        values = action.get(side)
        if not isinstance(values, list) or not all(
            isinstance(one, (int, float)) and math.isfinite(one) for one in values
        ):
            return f"{side} is not a list of numbers"
        if size and len(values) != size:
            return f"{side} has {len(values)} numbers for {size} dimensions"
    low, high = (np.asarray(action[side], dtype=np.float64) for side in sides)
    mask = np.asarray(action.get("mask", [True] * len(low)), dtype=bool)
    if method != "mean_std" and bool((high < low)[mask[: len(low)]].any()):
        return f"{sides[1]} is smaller than {sides[0]}"
    return ""


def _memory(context: Context) -> Iterator[Item]:
    torch, _ = _import(context)
    from vladoctor.adapters.openvla import choose_device

    (model, _env), weights = context.spec.own_loop(), _snapshot(context).weights
    device = choose_device(torch, model.device)
    dtype = model.dtype or ("bfloat16" if device.startswith("cuda") else "float32")
    context.have |= {"device": device, "dtype": dtype}
    if not weights.complete:
        yield Item(1, "device and memory", ABSTAINED, reason="the number of weights is not known from the files")
        return
    size = memory.needed(weights, dtype)
    rooms = [(size + memory.BESIDE, memory.available(), "main memory")]
    if device.startswith("cuda"):
        free, _total = torch.cuda.mem_get_info(device)
        rooms.insert(0, (size + memory.ON_GPU, (free, f"free on {torch.cuda.get_device_name(device)}"), "GPU memory"))
    told = []
    for need, room, what in rooms:
        if room is None:
            continue
        if need > room[0]:
            raise _too_little(weights, dtype, device, need, room, what)
        told.append(f"{room[0] / GIB:.1f} GiB {room[1]}")
    if device.startswith("cuda") and dtype == "bfloat16" and not torch.cuda.is_bf16_supported():
        raise TroubleError(
            "VD701",
            f"{torch.cuda.get_device_name(device)} has no bfloat16, in which the weights are to be kept.",
            "Say `model: {dtype: float32}`; float16 ends at 65504, and what was trained in bfloat16 can go beyond.",
            severity=Severity.FIX,
            evidence={"seen": "no bfloat16", "expected": "bfloat16"},
        )
    yield Item(
        1,
        "device and memory",
        OK,
        f"{device}, {dtype}: {size / GIB:.2f} GiB of weights; {', '.join(told)}",
        _usual_dtype(context),
    )


def _usual_dtype(context: Context) -> str:
    usual = context.profile.get("weights.dtype")
    return f"{usual} on a GPU" if usual else ""


def _too_little(
    weights: Weights, dtype: str, device: str, need: float, room: tuple[int, str], what: str
) -> TroubleError:
    less = next(
        (
            name
            for name in ("bfloat16",)
            if dtype == "float32" and memory.needed(weights, name) + memory.BESIDE < room[0]
        ),
        "",
    )
    remedy = (
        f"Load the weights in bfloat16, which takes {memory.needed(weights, less) / GIB:.1f} GiB: "
        "`model: {dtype: bfloat16}`."
        if less
        else "Free some, or run on a larger machine; ask the scheduler for more (`--mem`, or a GPU with more memory)."
    )
    if what == "main memory" and device.startswith("cuda"):
        remedy += " On the way to the GPU the weights are in main memory once."
    return TroubleError(
        "VD701",
        f"Too little {what}: the weights take {memory.needed(weights, dtype) / GIB:.1f} GiB in {dtype}, about "
        f"{need / GIB:.1f} GiB with the rest, and {room[0] / GIB:.1f} GiB are {room[1]}.",
        remedy,
        evidence={"seen": f"{room[0] / GIB:.1f} GiB {room[1]}", "expected": f"{need / GIB:.1f} GiB", "dtype": dtype},
        key="model.dtype",
    )


def _import(context: Context) -> tuple[Any, Any]:
    from vladoctor.adapters.openvla import import_torch

    return import_torch()


def _processor(context: Context) -> Iterator[Item]:
    from vladoctor.adapters.openvla import load_processor

    _, transformers = _import(context)
    path = _snapshot(context).path
    try:
        processor = load_processor(transformers, path)
    except ImportError as error:
        raise _needs_library(error, transformers, context) from error
    except Exception as error:
        raise TroubleError(
            "VD303",
            f"The processor cannot be loaded under transformers {transformers.__version__}: "
            f"{type(error).__name__}: {_first_line(error)}",
            f"{AGAIN.capitalize()}; the family's own versions are {_pins(context) or 'not known'}.",
            evidence={"seen": f"transformers {transformers.__version__}", "expected": _pins(context)},
        ) from error
    context.have["processor"] = processor
    size = getattr(processor.image_processor, "input_sizes", None)
    side = size[0][-1] if size else _snapshot(context).image_size
    if _snapshot(context).image_size not in (None, side):
        raise TroubleError(
            "VD204",
            f"The processor makes images of {side} pixels, and the model is made for {_snapshot(context).image_size}.",
            "Take preprocessor_config.json from the same snapshot as config.json.",
            evidence={"seen": f"{side} px", "expected": f"{_snapshot(context).image_size} px"},
        )
    yield Item(1, "processor", OK, f"{type(processor).__name__}, images of {side} px")


def _needs_library(error: ImportError, transformers: Any, context: Context) -> TroubleError:
    pins, missing = _pins(context), isinstance(error, ModuleNotFoundError)
    here = f"transformers {transformers.__version__}"
    if missing:
        told, todo = f"needs a library that is not installed: {_first_line(error)}", f"Run: pip install {error.name}."
    else:
        told, todo = f"is written for other versions than are installed ({here}): {_first_line(error)}", ""
    asked = f" The family's own versions: {pins}. Install them into an environment of their own." if pins else ""
    return TroubleError(
        "VD703",
        f"The checkpoint's code {told}",
        f"{todo}{asked}".strip() or "Install the versions that its documentation names.",
        evidence={"seen": f"no {error.name}" if missing else here, "expected": pins},
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or "no message").splitlines()[0][:300]


def _pins(context: Context) -> str:
    """What the family asks of the libraries that a checkpoint's code is run with."""
    profile = context.profile
    asked = {key.partition(".")[2]: profile.get(key) for key in profile.values if key.startswith("versions.")}
    return ", ".join(f"{name}{pin}" for name, pin in asked.items() if pin and name not in SIMULATORS)


def _prompt(context: Context) -> Iterator[Item]:
    """Ask VD303 about the ids that the checkpoint's own processor makes of the expected prompt."""
    processor = context.need("processor")
    instruction = str(context.have.get("language") or PLACEHOLDER)
    text = expected_prompt(context.profile, instruction)
    if text is None:
        yield Item(1, "prompt ids", ABSTAINED, reason=f"profile {context.profile.name} does not say what prompts are")
        return
    ids = tuple(int(one) for one in processor.tokenizer(text)["input_ids"])
    query = Query(known.BOUNDARY, prompt=text, input_ids=ids)
    episode = known.episode(context.spec, task={"language": instruction, "expected_prompt_ids": list(ids)}, query=query)
    yield from judged(1, "prompt ids", known.ask("VD303", episode, context.profile, context.spec))
    again = processor.tokenizer.decode(ids, skip_special_tokens=True)
    if again.strip() != text.strip():
        raise TroubleError(
            "VD303",
            f"The tokenizer does not give the prompt back that it was given: {text!r} became {again!r}.",
            "Take the tokenizer's files (tokenizer.json, tokenizer.model, tokenizer_config.json) from the checkpoint's "
            "own snapshot, and the version of tokenizers that the family asks for.",
            severity=Severity.FIX,
            evidence={"seen": again, "expected": text},
        )


def _tokens(context: Context) -> Iterator[Item]:
    """All action bins, from value to id, to text, to id, to value."""
    processor = context.need("processor")
    layout, profile = token_layout(context.profile), context.profile
    if layout is None:
        yield Item(1, "action tokens", ABSTAINED, reason=f"profile {profile.name} says nothing of action tokens")
        return
    tokenizer = processor.tokenizer
    size = len(tokenizer)
    base = _vocabulary(_snapshot(context).config)
    if base is not None and base != layout.vocabulary:
        raise TroubleError(
            "VD405",
            f"The model decodes ids from the vocabulary's end at {base}, and this family's is {layout.vocabulary}: "
            "every bin means another value.",
            "Take config.json (`text_config.vocab_size`, `pad_to_multiple_of`) from the checkpoint's own snapshot.",
            evidence={"seen": base, "expected": layout.vocabulary},
        )
    bins = _snapshot(context).config.get("n_action_bins")
    if bins is not None and bins != layout.bins:
        raise TroubleError(
            "VD405",
            f"The checkpoint has {bins} action bins; this family has {layout.bins}.",
            "Name the right profile (`profile: {name: ...}`), or take config.json from the checkpoint's own snapshot.",
            evidence={"seen": bins, "expected": layout.bins},
        )
    wrong = _round_trips(tokenizer, layout.first, layout.last)
    if wrong:
        raise TroubleError(
            "VD401",
            f"{len(wrong)} of {layout.last - layout.first + 1} action ids do not survive the tokenizer: "
            f"{_listed_ids(wrong)}. It has {size} tokens.",
            "Take the tokenizer's files from the checkpoint's own snapshot: tokens were added to it, or it is another "
            "model's.",
            severity=Severity.FIX,
            evidence={"seen": f"{len(wrong)} lost", "expected": f"ids {layout.first} to {layout.last}"},
        )
    ids = np.arange(layout.first, layout.last + 1)
    values = decode(ids, layout)
    back = layout.vocabulary - 1 - np.clip(np.digitize(values, np.linspace(-1.0, 1.0, layout.bins)) - 1, 0, None)
    # 256 ids, 255 centres: the lowest two ids mean the same.
    if not (bin_numbers(back, layout) == bin_numbers(ids, layout)).all():
        raise TroubleError(
            "VD405",
            "Bins do not come back from their centres.",
            "Report this: it is a defect of the profile, or of vladoctor.",
            severity=Severity.FIX,
        )
    yield Item(
        1,
        "action tokens",
        OK,
        f"all {len(ids)} ids ({layout.first} to {layout.last}) through text and back, {layout.bins - 1} centres in "
        f"[{values.min():.4f}, {values.max():.4f}]",
        f"{layout.bins} bins below {layout.vocabulary}",
    )


def _vocabulary(config: Mapping[str, Any]) -> int | None:
    """`predict_action`'s base: the padded vocabulary without its padding; None where the config does not say."""
    padded = (config.get("text_config") or {}).get("vocab_size")
    multiple = config.get("pad_to_multiple_of")
    return int(padded) - int(multiple) if isinstance(padded, int) and isinstance(multiple, int) else None


def _round_trips(tokenizer: Any, first: int, last: int) -> list[int]:
    """Ids that do not come back from their token, are special, or are nobody's."""
    ids = list(range(first, last + 1))
    special = set(getattr(tokenizer, "all_special_ids", ()) or ())
    tokens = tokenizer.convert_ids_to_tokens(ids)
    back = tokenizer.convert_tokens_to_ids(tokens)
    unknown = getattr(tokenizer, "unk_token_id", None)
    return [
        one
        for one, token, again in zip(ids, tokens, back, strict=True)
        if token is None or again != one or one in special or again == unknown
    ]


def _listed_ids(ids: list[int]) -> str:
    return ", ".join(map(str, ids[:4])) + (" ..." if len(ids) > 4 else "")


def _code(context: Context) -> Iterator[Item]:
    """The model made without memory, and its names and shapes held against the files' headers."""
    from vladoctor.adapters.openvla import empty_model

    torch, transformers = _import(context)
    snapshot = _snapshot(context)
    dtype = context.have.get("dtype", "bfloat16")
    try:
        model = empty_model(torch, transformers, snapshot.path)
    except ImportError as error:
        raise _needs_library(error, transformers, context) from error
    except Exception as error:
        raise TroubleError(
            "VD703",
            f"The checkpoint's code does not run under transformers {transformers.__version__}: "
            f"{type(error).__name__}: {_first_line(error)}",
            f"Install the versions that it is written for: {_pins(context) or 'its own documentation says which'}.",
            evidence={"seen": f"transformers {transformers.__version__}", "expected": _pins(context)},
        ) from error
    if not snapshot.weights.complete:
        yield Item(1, "model code and weights", ABSTAINED, reason="the weights' names are seen on loading only")
        return
    loading = held_against(model, snapshot.weights)
    if loading is None:
        reason = "the files name the weights otherwise than the model does; whether loading renames them, level 2 says"
        yield Item(1, "model code and weights", ABSTAINED, reason=reason)
        return
    total = {dtype: sum(parameter.numel() for parameter in model.parameters())}
    device = str(context.have.get("device", "cpu"))
    state = {"training": False, "loading": loading, "dtypes": total, "devices": {device: total[dtype]}}
    episode = known.episode(
        context.spec,
        run={"checkpoint": {"name": snapshot.path.name, "adapter_file": snapshot.facts().get("adapter_file")}},
        query=Query(known.BOUNDARY, model=state),
    )
    yield from judged(1, "model code and weights", known.ask("VD704", episode, context.profile, context.spec))
    yield from judged(
        1, "dtype", known.ask("VD701", episode, context.profile, context.spec),
        expected=_usual_dtype(context),
    )  # fmt: skip


def held_against(model: Any, weights: Weights) -> dict[str, Any] | None:
    """What loading these files into this model would say, in the shape of `taps.checkpoint.loaded`.

    None where transformers renames weights on the way, or is likely to: the model's class says so, or most names differ
    on both sides.
    """
    from vladoctor.taps.checkpoint import loaded, model_state

    names = {name: tuple(value.shape) for name, value in model.state_dict(keep_vars=True).items()}
    prefix = str(getattr(model, "base_model_prefix", "") or "")
    listed = {_in_model(name, names, prefix): tensor for name, tensor in weights.tensors.items()}
    missing = _heeded([name for name in names if name not in listed], model, "missing")
    unexpected = _heeded([name for name in listed if name not in names], model, "unexpected")
    renamed = bool(getattr(model, "_checkpoint_conversion_mapping", None))
    if missing and (renamed or min(len(missing) / len(names), len(unexpected) / len(listed)) > 0.5):
        return None
    mismatched = [name for name in names if name in listed and names[name] != listed[name].shape]
    loaded(model, missing, unexpected, mismatched)
    state: dict[str, Any] = model_state(model)["loading"]
    return state


def _heeded(names: list[str], model: Any, kind: str) -> list[str]:
    """Names without those that the model's class says need not be there (`_keys_to_ignore_on_load_missing`)."""
    patterns = list(getattr(model, f"_keys_to_ignore_on_load_{kind}", None) or ())
    return [name for name in names if not any(re.search(pattern, name) for pattern in patterns)]


def _in_model(name: str, names: Mapping[str, Any], prefix: str) -> str:
    """A file's name as the model has it: with or without the prefix of its base model, as transformers takes it."""
    if name in names or not prefix:
        return name
    other = name.removeprefix(f"{prefix}.") if name.startswith(f"{prefix}.") else f"{prefix}.{name}"
    return other if other in names else name
