"""LIBERO's environments: `reset`, `seed`, `set_init_state`, `step`, `check_success`; tasks by BDDL file.

LIBERO's `ControlEnv` holds a robosuite environment, which is tapped as well (`robosuite.py`): the two are one stream.
Its vector environments are known by those in this process, or taken apart where they are in other ones.
"""

from __future__ import annotations

import io
import pickle
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from vladoctor.taps.environments import EnvAdapter, Part, Transition, first, gym_transition, row
from vladoctor.taps.libraries import robosuite
from vladoctor.taps.libraries.environment import specialise, tap
from vladoctor.taps.patch import Maker, Undo, wrap_classes


def read_step(result: Any) -> Transition:
    """`done` is LIBERO's success predicate and nothing else.

    Source: Lifelong-Robot-Learning/LIBERO@8f1084e, libero/libero/envs/bddl_base_domain.py:800-809.
    """
    found = gym_transition(result)
    return found._replace(success=found.done)


def describe(env: Any) -> Mapping[str, Any]:
    """Suite, task, instruction and init state, from the BDDL file; the rest is robosuite's.

    `language` is what LIBERO's benchmark gives to policies, `bddl_language` what stands in the file.
    """
    inner = getattr(env, "env", env)
    file = Path(str(getattr(inner, "bddl_file_name", "")))
    suite = file.parent.name
    task = _number(suite, file.stem)
    own = _own_language(inner)
    return {
        **robosuite.describe(inner),
        "name": file.stem,
        "suite": suite if suite.startswith("libero") else "",
        "task_id": task,
        "label": f"{suite}-task{task}" if task is not None else file.stem[:48],
        "language": _language(file) or own,
        "bddl_language": own,
        "suite_languages": _suite_languages(suite),
        "init_state": None if task is None else _init_state(inner, suite, file.stem),
    }


def split(env: Any, kind: str, given: Mapping[str, Any], result: Any) -> Iterator[Part]:
    """One part for each environment that a call of LIBERO's vector environments was meant for.

    Source: Lifelong-Robot-Learning/LIBERO@8f1084e, libero/libero/envs/venv.py, `BaseVectorEnv`.
    """
    chosen = given.get("id")
    places = range(size(env) or 0) if chosen is None else [chosen] if isinstance(chosen, int) else list(chosen)
    if kind != "step":
        states = given.get("init_state")
        for index, place in enumerate(places):
            yield Part(int(place), Transition(row(first(result), index)), row(states, index))
        return
    observations, rewards, *ends, infos = result
    for index, info in enumerate(infos):
        # Those that have answered, in the order in which they did.
        place = int(info.get("env_id", places[index]))
        found = read_step((row(observations, index), row(rewards, index), *(row(end, index) for end in ends), info))
        action = row(given.get("action"), list(places).index(place)) if place in places else None
        yield Part(place, found, action)


def size(env: Any) -> int | None:
    """How many environments there are."""
    return len(env)


def describe_vector(env: Any) -> Mapping[str, Any]:
    """Its class: which task its processes run is known to them alone."""
    return {"name": type(env).__name__, "label": type(env).__name__}


def _own_language(env: Any) -> str | None:
    """The instruction in the BDDL file: words, or one text."""
    words = (getattr(env, "parsed_problem", None) or {}).get("language_instruction")
    return (words if isinstance(words, str) else " ".join(map(str, words))) if words else None


def _init_state(env: Any, suite: str, name: str) -> int | None:
    """The number of the suite's init state that the simulator is in right now, if any."""
    states = _init_states(suite, name)
    now = np.asarray(env.sim.get_state().flatten())
    if states is None or states.shape[1:] != now.shape:
        return None
    same = np.flatnonzero(np.abs(states - now).max(1) < _SAME_STATE)
    return int(same[0]) if len(same) else None


@lru_cache(maxsize=16)
def _init_states(suite: str, name: str) -> np.ndarray | None:
    """A task's init states, float64 (n, 1 + nq + nv), or None; read without torch, which saved them."""
    path = getattr(sys.modules.get("libero.libero"), "get_libero_path", None)
    if path is None:
        return None
    try:
        with zipfile.ZipFile(Path(path("init_states")) / suite / f"{name}.pruned_init") as archive:
            data = archive.read(next(entry for entry in archive.namelist() if entry.endswith("data.pkl")))
        states = np.asarray(_Arrays(io.BytesIO(data)).load(), np.float64)
    except Exception:  # noqa: BLE001 - another form, or not there
        return None
    return states if states.ndim == 2 else None


class _Arrays(pickle.Unpickler):
    """Reads numpy arrays and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if name == "_reconstruct" and module.startswith("numpy."):
            return np.empty(0).__reduce__()[0]
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name}")


def _language(file: Path) -> str | None:
    """The instruction as LIBERO's benchmark gives it: the words of the file's name."""
    benchmark = sys.modules.get("libero.libero.benchmark")
    grab = getattr(benchmark, "grab_language_from_filename", None)
    if grab is None or not file.parent.name.startswith("libero"):
        return None
    try:
        return str(grab(file.name))
    except Exception:  # noqa: BLE001 - a file of the user's own, whose name says nothing
        return None


@lru_cache(maxsize=16)
def _suite_languages(suite: str) -> list[str] | None:
    """The instructions of all tasks of a suite, in its order; None for files of the user's own."""
    names = getattr(sys.modules.get("libero.libero.benchmark.libero_suite_task_map"), "libero_task_map", {}).get(suite)
    found = [_language(Path(suite) / f"{name}.bddl") for name in names or ()]
    return [one for one in found if one] or None


def _number(suite: str, name: str) -> int | None:
    """The task's number in its suite, in the order that evaluations use; None for other files."""
    tasks = getattr(sys.modules.get("libero.libero.benchmark.libero_suite_task_map"), "libero_task_map", {})
    names = list(tasks.get(suite, ()))
    return names.index(name) if name in names else None


def _inside(env: Any) -> Any:
    return getattr(env, "env", None)


_SAME_STATE = 1e-6
"""Metres, radians and their rates."""

DOMAIN = EnvAdapter("libero", read_step=read_step, proprio=robosuite.proprio, describe=describe)
"""The robosuite environment inside."""

ADAPTER = replace(DOMAIN, inner=_inside)
VECTOR = replace(DOMAIN, describe=describe_vector, split=split, size=size)


def _hook_domain(module: ModuleType) -> Sequence[Undo]:
    return [specialise(module.BDDLBaseDomain, DOMAIN)]


def _makers(adapter: EnvAdapter) -> dict[str, Maker]:
    return {
        "reset": tap(adapter, "reset"),
        "seed": tap(adapter, "call", "seed"),
        "set_init_state": tap(adapter, "observe", "set_init_state"),
        "step": tap(adapter, "step"),
        "check_success": tap(adapter, "call", "check_success"),
        "close": tap(adapter, "close"),
    }


def _hook(module: ModuleType) -> Sequence[Undo]:
    return [wrap_classes(module.ControlEnv, _makers(ADAPTER))]


def _hook_vector(module: ModuleType) -> Sequence[Undo]:
    return [wrap_classes(module.BaseVectorEnv, _makers(VECTOR)), specialise(module.BaseVectorEnv, VECTOR)]


HOOKS = {
    "libero.libero.envs.bddl_base_domain": _hook_domain,
    "libero.libero.envs.env_wrapper": _hook,
    "libero.libero.envs.venv": _hook_vector,
}
