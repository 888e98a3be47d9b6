"""The weights are not those of the checkpoint, or the checkpoint is not one for this environment.

## What it looks at

What the library said when the weights were put into the model: names that the file lacked (they keep what they were
made with: noise), names in the file that the model has no place for, shapes that differ. Whether these are an
adapter's. Whether LoRA layers are in the model and switched off, or an adapter's configuration lies beside the weights
and no layer of it is in the model. Which environment the checkpoint was trained for, by its own statistics and by its
name, against the suite.

## Why it is bad

`load_state_dict(..., strict=False)` returns what it could not do, and nobody looks; transformers logs a warning between
others. A model of which a part is noise answers as readily as a trained one. An adapter that was not merged leaves the
base model, which has never seen the environment. A checkpoint of another suite moves well and does another task.

## Evidence

`missing` (with the number of values in them and their share of the model), `unexpected`, `mismatched`: names as the
library gave them, at most ten of each. Tied weights that stand in the file under their other name are not missing.

Severity is stop for missing or mismatched weights and for an adapter's weights that were not taken: then the numbers of
this run are none of the checkpoint's; likewise where the checkpoint's statistics are all of other robots. It is fix
where they are of other LIBERO suites. A name alone, an adapter's file beside the weights, and layers that are switched
off may be meant: *look*.

## Fix

```python
model, said = AutoModelForVision2Seq.from_pretrained(path, trust_remote_code=True, output_loading_info=True)
assert not said["missing_keys"] and not said["mismatched_keys"], said
model = PeftModel.from_pretrained(base, adapter).merge_and_unload()  # and only then save_pretrained
```

## Known gaps

Loading is seen where it goes through transformers or `torch.nn.Module.load_state_dict`, in this process and after
vladoctor was attached. No value of a weight is read: a file that holds noise, or a "merged" file that is the base's,
byte for byte (verl-project/verl#7285), looks like any other. Parts that are loaded apart (an action head, a projector
of the state) are seen only if they are modules of the model that is asked.

## References

- OpenDriveLab/UniVLA#35: the state's projector is not in the checkpoint and random at every start.
- huggingface/lerobot#4713, hexgrad/kokoro#368, vllm-project/speculators#1131: what `strict=False` returns is thrown
  away.
- strands-labs/robots#1096: normaliser's buffers dropped as unexpected keys.
- openvla/openvla#54, openvla/openvla#221, verl-project/verl#7285: merged or not.
- openvla/openvla#118, Physical-Intelligence/openpi#415, OpenDriveLab/UniVLA#31: the base checkpoint in LIBERO.
- huggingface/lerobot#2533, starVLA/starVLA#47, allenai/vla-evaluation-harness#16, buaa-colalab/RoboCerebra#10: a
  checkpoint of something else.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vladoctor.check import Abstention, Check, Clear, Fault, Problem, Severity, Stage, Verdict
from vladoctor.facts import system
from vladoctor.facts.statistics import published_statistics
from vladoctor.lint.families import BASE_CHECKPOINTS

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.lint.facts import SourceFacts
    from vladoctor.loop import Loop

SHOWN = 10

LOAD_ALL = (
    "Load it so that nothing can be missing, and compare the folder with the published one:\n```python\n"
    "model, said = AutoModelForVision2Seq.from_pretrained(path, trust_remote_code=True, output_loading_info=True)\n"
    'assert not said["missing_keys"] and not said["mismatched_keys"], said\n```\nWith `load_state_dict(..., '
    "strict=False)` look "
    "at what it returns."
)
MERGE = (
    "Put the adapter on the base model, merge it, and save that:\n```python\n"
    "model = PeftModel.from_pretrained(base_model, "
    "adapter_folder).merge_and_unload()\nmodel.save_pretrained(merged_folder)\n```"
)


def judge(facts: Facts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Look at what was said on loading, at adapters, and at what the checkpoint was trained for."""
    standings = system.standings(facts.episode)
    first = standings[0] if standings else None
    loading = first.state.get("loading") if first is not None else None
    found = [
        *(_loading(first, loading) if first is not None and loading else ()),
        *(_adapters(facts, first, loading) if first is not None else ()),
        *_trained_for(facts),
    ]
    yield from found
    if found:
        return
    suite = str(facts.episode.task.get("suite") or "")
    said = []
    if loading:
        said.append("all weights of the model were in the checkpoint, and nothing else")
    if suite and any(suite in system.suites_in(key) for key in system.statistics_keys(facts.episode)):
        said.append(f"it has statistics of {suite}")
    if said:
        total = sum(first.dtypes.values()) if first is not None else 0
        yield Clear("; ".join(said), {"values": total} if total else {})
    else:
        yield Abstention(
            "how the weights were loaded was not seen, and nothing says what the checkpoint was trained for"
        )


def _loading(standing: system.Standing, loading: Mapping[str, Any]) -> Iterator[Problem]:
    """Weights that the file did not have."""
    missing, mismatched, adapter = (
        int(loading.get(n, 0)) for n in ("missing_count", "mismatched_count", "adapter_keys")
    )
    if not missing and not mismatched and not adapter:
        return
    values, total = int(loading.get("missing_values", 0)), max(sum(standing.dtypes.values()), 1)
    evidence = {
        "expected": "every weight of the model in the checkpoint's files",
        "seen": f"{missing} missing, {loading.get('unexpected_count', 0)} unexpected, {mismatched} of another shape",
        "missing": list(loading.get("missing", ()))[:SHOWN],
        "missing_values": values,
        "missing_share": round(values / total, 4),
        "unexpected": list(loading.get("unexpected", ()))[:SHOWN],
        "mismatched": list(loading.get("mismatched", ()))[:SHOWN],
    }
    if adapter:
        rest = (
            f", and {_count(missing)} that {'it' if missing == 1 else 'they'} would have replaced {_are(missing)} noise"
            if missing
            else ": what acts is the base model"
        )
        yield Problem(
            message=f"The checkpoint's file holds {_count(adapter)} of a LoRA adapter that was not merged; the model "
            f"has no place for {'it' if adapter == 1 else 'them'}, and they were left out{rest}.",
            remedy=MERGE,
            severity=Severity.STOP,
            first_step=standing.step,
            evidence=evidence,
        )
        return
    lacking = [*loading.get("missing", ()), *loading.get("mismatched", ())]
    what = "not in the checkpoint's files" if missing else "there in another shape"
    yield Problem(
        message=f"{_count(missing or mismatched).capitalize()} of the model {_are(missing or mismatched)} {what} and "
        f"kept what {'it was' if (missing or mismatched) == 1 else 'they were'} made with, noise: {_some(lacking)} "
        f"({values / total:.1%} of its values). Nothing raises; the actions mean nothing.",
        remedy=LOAD_ALL,
        severity=Severity.STOP,
        first_step=standing.step,
        evidence=evidence,
    )


def _adapters(facts: Facts, standing: system.Standing, loading: Mapping[str, Any] | None) -> Iterator[Problem]:
    """An adapter that does nothing."""
    adapters = standing.state.get("adapters") or {}
    layers, disabled = int(adapters.get("layers", 0)), int(adapters.get("disabled", 0))
    file = (facts.episode.run.get("checkpoint") or {}).get("adapter_file")
    if layers and (disabled == layers or not (adapters.get("names") or adapters.get("merged"))):
        yield Problem(
            message=f"All {layers} LoRA layers of the model are switched off: what acts is the base model.",
            remedy='Switch the adapter on (`model.enable_adapters()`, `model.set_adapter("default")`), or merge it:\n'
            "```python\nmodel = model.merge_and_unload()\n```",
            severity=Severity.LOOK,
            first_step=standing.step,
            evidence={"expected": "an active or a merged adapter", "seen": f"{disabled} of {layers} layers disabled"},
        )
    elif file and not layers and not (loading or {}).get("adapter_keys"):
        yield Problem(
            message=f"Beside the weights lies {file}, and no layer of an adapter is in the model: either it was merged "
            "already, or what acts is the base model.",
            remedy=f"If the weights are merged, take {file} and the adapter's weights out of the folder. Else:\n"
            + MERGE,
            severity=Severity.LOOK,
            first_step=standing.step,
            evidence={"expected": "LoRA layers, or no adapter's file", "seen": str(file)},
        )


def _trained_for(facts: Facts) -> Iterator[Problem]:
    """Whether the checkpoint is one for this suite."""
    suite = str(facts.episode.task.get("suite") or "")
    name = str((facts.episode.run.get("checkpoint") or {}).get("name") or "")
    if suite not in system.SUITES:
        return
    keys = system.statistics_keys(facts.episode)
    accepted = facts.profile.get("unnorm.keys")
    listed = accepted.get(suite) if isinstance(accepted, Mapping) else None
    others = list(system.other_sets(keys, listed or (suite, f"{suite}_no_noops"), published_statistics()))
    if keys and len(others) == len(keys):
        few = len(others) <= 3
        near = any(system.suites_in(key) for key in others)
        yield Problem(
            message=f"The checkpoint {_quoted(name)}was not trained for {suite}: its own statistics are of "
            f"{', '.join(others) if few else f'{len(others)} other data sets'} and none of this suite.",
            remedy=f"Use a checkpoint that was trained for {suite}, "
            f"`openvla/openvla-7b-finetuned-{suite.replace('_', '-')}` "
            "for example, or fine-tune this one. Another data set's `unnorm_key` only removes the error.",
            severity=Severity.FIX if near else Severity.STOP,
            evidence={"expected": f"statistics of {suite}", "seen": ", ".join(others[:SHOWN]), "checkpoint": name},
        )
        return
    named = system.suites_in(name)
    if len(named) == 1 and named[0] != suite and not any(suite in system.suites_in(key) for key in keys):
        yield Problem(
            message=f"The checkpoint {_quoted(name)}is named after {named[0]}, and the environment is of {suite}.",
            remedy="If this is no test of how it generalises, use the checkpoint of this suite.",
            severity=Severity.LOOK,
            evidence={"expected": suite, "seen": name},
        )


def _count(number: int) -> str:
    return "one weight" if number == 1 else f"{number} weights"


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


def _quoted(name: str) -> str:
    return f"{name} " if name else ""


Weights = dict[str, Any]


def _loaded_from(change: Callable[[Weights], Weights]) -> Callable[[Loop], None]:
    """Ask a model that was loaded from a copy of the snapshot whose file of weights is another."""

    def apply(loop: Loop) -> None:
        from safetensors.torch import load_file, save_file

        from vladoctor.adapters.openvla import load_policy

        policy = loop.policy
        with tempfile.TemporaryDirectory(prefix="vladoctor-") as folder:
            copy = Path(folder) / policy.path.name
            shutil.copytree(policy.path, copy)
            for file in copy.glob("*.safetensors"):
                # In a file of its own first: the old one is mapped into memory.
                weights = change(load_file(file))
                save_file(weights, f"{file}.new", metadata={"format": "pt"})
                Path(f"{file}.new").replace(file)
            other = load_policy(copy, device=policy.device, dtype=policy.dtype, unnorm_key=policy.unnorm_key)
        policy.model = other.model

    return apply


def _of_another_suite(loop: Loop) -> None:
    """The checkpoint of LIBERO-Spatial, by its folder's name and its statistics, asked with them in LIBERO-Object."""
    from vladoctor.adapters.openvla import load_policy

    policy = loop.policy
    spatial = published_statistics()["libero_spatial"]
    table = {name: getattr(spatial, name).tolist() for name in ("q01", "q99", "mask")}
    with tempfile.TemporaryDirectory(prefix="vladoctor-") as folder:
        copy = Path(folder) / "openvla-7b-finetuned-libero-spatial"
        shutil.copytree(policy.path, copy)
        (copy / "dataset_statistics.json").write_text(json.dumps({"libero_spatial": {"action": table}}))
        other = load_policy(copy, device=policy.device, dtype=policy.dtype, unnorm_key="libero_spatial")
    policy.model, policy.path, policy.unnorm_key = other.model, other.path, other.unnorm_key


def _without_projector(weights: Weights) -> Weights:
    return {name: value for name, value in weights.items() if not name.startswith("projector.")}


def _unmerged(weights: Weights) -> Weights:
    """Saved from PEFT's model without `merge_and_unload`: base_layer, lora_A and lora_B in the place of a weight."""
    import torch

    found: Weights = {}
    for name, value in weights.items():
        if name.endswith((".q_proj.weight", ".v_proj.weight")):
            stem = name.removesuffix(".weight")
            found[f"{stem}.base_layer.weight"] = value
            found[f"{stem}.lora_A.default.weight"] = torch.full((8, value.shape[1]), 0.01)
            found[f"{stem}.lora_B.default.weight"] = torch.zeros(value.shape[0], 8)
        else:
            found[name] = value
    return found


def judge_source(facts: SourceFacts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Look for the base checkpoint where a fine-tuned one is needed, and for loading that forgives what is missing."""
    said = False
    if facts.environment == "libero" and facts.checkpoint.wrong(lambda name: name in BASE_CHECKPOINTS):
        said = True
        yield Problem(
            message=f"{facts.checkpoint.value} is the base checkpoint: it was not trained on LIBERO, and hardly ever "
            "succeeds there.",
            remedy="Evaluate a checkpoint fine-tuned on the suite: `openvla/openvla-7b-finetuned-libero-spatial`, for "
            "one.",
            severity=Severity.STOP,
            evidence={"seen": facts.checkpoint.value},
            place=facts.checkpoint.place,
        )
    for one in facts.workarounds:
        if one.kind == "strict-false":
            said = True
            yield Problem(
                message=f"`{one.detail}` with strict=False: weights that are missing keep their random values, and "
                "nothing says so.",
                remedy="Load strictly, or look at the missing and unexpected keys that are returned.",
                severity=Severity.FIX,
                place=one.place,
            )
        elif one.kind == "permissive-torch-load":
            said = True
            yield Problem(
                message="torch.load is made permissive for the whole process: any file that is loaded later may run "
                "code.",
                remedy="Give `weights_only=False` to the one call that needs it, or use "
                "`torch.serialization.add_safe_globals`.",
                severity=Severity.FIX,
                evidence={"seen": one.detail},
                place=one.place,
            )
    if not said:
        yield Abstention("the source shows nothing wrong with the weights")


CHECK = Check(
    code="VD704",
    name="wrong-weights",
    stage=Stage.FORWARD,
    judge=judge,
    judge_source=judge_source,
    faults=(
        Fault(
            "missing-tensors",
            "the projector is not in the checkpoint's file and is random at every start",
            _loaded_from(_without_projector),
            reports=("OpenDriveLab/UniVLA#35", "huggingface/lerobot#4713"),
        ),
        Fault(
            "lora-unmerged",
            "the checkpoint was saved from a PEFT model that had not been merged",
            _loaded_from(_unmerged),
            reports=("verl-project/verl#7285",),
        ),
        Fault(
            "wrong-suite",
            "the checkpoint of another LIBERO suite, asked with its own statistics",
            _of_another_suite,
            reports=("starVLA/starVLA#47",),
        ),
    ),
)
