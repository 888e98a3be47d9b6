"""LIBERO's environments: `reset`, `seed`, `set_init_state`, `step`, `check_success`; tasks by BDDL file.

LIBERO's `ControlEnv` holds a robosuite environment, which is tapped as well (`robosuite.py`): the two are one stream.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from vladoctor.taps.environments import EnvAdapter, Transition, gym_transition, pictures
from vladoctor.taps.libraries import robosuite
from vladoctor.taps.libraries.environment import specialise, tap
from vladoctor.taps.patch import Undo, wrap_classes


def read_step(result: Any) -> Transition:
    """`done` is LIBERO's success predicate and nothing else.

    Source: Lifelong-Robot-Learning/LIBERO@8f1084e, libero/libero/envs/bddl_base_domain.py:800-809.
    """
    found = gym_transition(result)
    return found._replace(success=found.done)


def describe(env: Any) -> Mapping[str, Any]:
    """Suite, task and instruction, from the BDDL file; the rest is robosuite's."""
    inner = getattr(env, "env", env)
    file = Path(str(getattr(env, "bddl_file_name", None) or getattr(inner, "bddl_file_name", "")))
    suite = file.parent.name
    facts = {**robosuite.describe(inner), "name": file.stem, "suite": suite if suite.startswith("libero") else ""}
    # The domain's property of that name raises where the file names no language.
    with suppress(KeyError):
        facts["bddl_language"] = str(getattr(env, "language_instruction", None) or "") or None
    facts["language"] = _language(file) or facts.get("bddl_language")
    facts["task_id"] = _number(suite, file.stem)
    facts["label"] = f"{suite}-task{facts['task_id']}" if facts["task_id"] is not None else file.stem[:48]
    return facts


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


def _number(suite: str, name: str) -> int | None:
    """The task's number in its suite, in the order that evaluations use; None for other files."""
    tasks = getattr(sys.modules.get("libero.libero.benchmark.libero_suite_task_map"), "libero_task_map", {})
    names = list(tasks.get(suite, ()))
    return names.index(name) if name in names else None


def _inside(env: Any) -> Any:
    return getattr(env, "env", None)


DOMAIN = EnvAdapter("libero", read_step=read_step, frames=pictures, proprio=robosuite.proprio, describe=describe)
"""The robosuite environment inside."""

ADAPTER = EnvAdapter(
    "libero", read_step=read_step, frames=pictures, proprio=robosuite.proprio, describe=describe, inner=_inside
)


def _hook_domain(module: ModuleType) -> Sequence[Undo]:
    return [specialise(module.BDDLBaseDomain, DOMAIN)]


def _hook(module: ModuleType) -> Sequence[Undo]:
    makers = {
        "reset": tap(ADAPTER, "reset"),
        "seed": tap(ADAPTER, "call", "seed"),
        "set_init_state": tap(ADAPTER, "observe", "set_init_state"),
        "step": tap(ADAPTER, "step"),
        "check_success": tap(ADAPTER, "call", "check_success"),
    }
    return [wrap_classes(module.ControlEnv, makers)]


HOOKS = {"libero.libero.envs.bddl_base_domain": _hook_domain, "libero.libero.envs.env_wrapper": _hook}
