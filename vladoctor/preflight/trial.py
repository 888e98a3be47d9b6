"""Levels 2 and 3: the weights are loaded, the policy is asked, a short episode, then whole ones are watched and judged.

A short episode is no trial of the policy: what only a whole one, or a whole run, can show is not asked for there.
"""

from __future__ import annotations

import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vladoctor.check import Severity
from vladoctor.diagnosis import CheckResult
from vladoctor.preflight import memory
from vladoctor.preflight.checkpoint import hashes
from vladoctor.preflight.looks import Context, Look, TroubleError
from vladoctor.preflight.memory import GIB
from vladoctor.preflight.result import ABSTAINED, CRASHED, OK, Item, problem
from vladoctor.result import RunResult, Silent
from vladoctor.runspec import RunSpec

SHORT = 30
"""Policy steps of the short episode: enough for checks that want some centimetres of motion and 20 commands."""

EPISODES = 3
"""Whole episodes at level 3."""

WHOLE_RUN = ("VD802", "VD803")
"""Checks of how many trials a run makes, and of its protocol: a pre-flight makes fewer on purpose."""


def looks(context: Context) -> list[Look]:
    """What is looked at, of this run, at the levels above 1."""
    found = [
        Look(2, "hashes", "VD704", _hashes, "model.path", limit=120),
        Look(2, "loading", "VD704", _load, "model.path", limit=600),
        Look(2, "one query", "VD705", _query, "model.path", limit=120),
        Look(2, "short episode", "VD604", _short, "env", limit=300),
    ]
    if context.have.get("level", 2) > 2:
        found += [
            Look(3, "other tasks", "VD602", _others, "env.tasks", limit=600),
            Look(3, "episodes", "VD604", _episodes, "env", limit=3600),
        ]
    return found


def _hashes(context: Context) -> Iterator[Item]:
    yield from hashes(context.spec.own_loop()[0].path, 60.0, 2)


def _load(context: Context) -> Iterator[Item]:
    from vladoctor.adapters import libero
    from vladoctor.adapters.openvla import load_policy

    model, env = context.spec.own_loop()
    # Before anything imports mujoco: the backend is chosen then.
    libero.prepare(env.assets)
    began = time.perf_counter()
    policy = load_policy(
        model.path,
        device=model.device,
        dtype=model.dtype,
        unnorm_key=model.unnorm_key,
        suite=env.suite,
        attention=model.attention,
        threads=model.threads,
    )
    took = time.perf_counter() - began
    context.have |= {"policy": policy}
    free = memory.available()
    room = f"; {free[0] / GIB:.1f} GiB {free[1]}" if free else ""
    yield Item(2, "loading", OK, f"{policy.dtype} on {policy.device} in {took:.1f} s{_gpu(policy.device)}{room}")


def _gpu(device: str) -> str:
    if not device.startswith("cuda"):
        return ""
    import torch

    free, total = torch.cuda.mem_get_info(device)
    used = torch.cuda.max_memory_allocated(device)
    return f"; GPU: {used / GIB:.1f} GiB used, {free / GIB:.1f} of {total / GIB:.1f} free"


def _query(context: Context) -> Iterator[Item]:
    import numpy as np
    from PIL import Image

    from vladoctor.loop import PROMPT

    policy = context.need("policy")
    picture = Image.fromarray(np.full((policy.image_size, policy.image_size, 3), 127, dtype=np.uint8))
    times = []
    action: Any = None
    for _ in range(2):
        began = time.perf_counter()
        try:
            action = policy.query(PROMPT.format(instruction="stand still"), picture)
        except Exception as error:
            raise TroubleError(
                "VD703",
                f"The policy raises when it is asked: {type(error).__name__}: {str(error).strip()[:300]}",
                "The checkpoint's code is most often written for another version of transformers: see the line "
                "`versions`. The traceback is in the JSON output.",
                evidence={"seen": traceback.format_exc()[-2000:]},
            ) from error
        times.append(time.perf_counter() - began)
    values = np.asarray(action, dtype=np.float64)
    wanted = context.profile.get("tokens.action_dim") or len(values)
    if values.shape != (wanted,) or not np.isfinite(values).all():
        raise TroubleError(
            "VD503",
            f"The policy answers with {values.shape} values, of which {int((~np.isfinite(values)).sum())} are no "
            f"numbers; {wanted} are expected.",
            "NaN comes of float16 in the place of bfloat16, or of damaged weights.",
            evidence={"seen": str(values.tolist()), "expected": f"{wanted} finite numbers"},
        )
    yield Item(
        2, "one query", OK, f"{wanted} finite values in {1e3 * times[1]:.0f} ms (the first took {1e3 * times[0]:.0f})"
    )


def _short(context: Context) -> Iterator[Item]:
    _, env = context.spec.own_loop()
    steps = min(SHORT, env.horizon or SHORT)
    spec = _only(context.spec, tasks=_first(env.tasks), states=env.init_states[:1], episodes=1, ignore=WHOLE_RUN)
    assert spec.env is not None
    spec = replace(spec, env=replace(spec.env, horizon=steps))
    yield from _judged(2, "short episode", _run(spec, context), f"{steps} steps")


def _others(context: Context) -> Iterator[Item]:
    """Each further task's environment is made, reset and put into its first init state."""
    from vladoctor.adapters import libero

    _, env = context.spec.own_loop()
    names: Sequence[int | str] = range(len(libero.suite_tasks(env.suite))) if isinstance(env.tasks, str) else env.tasks
    if len(names) < 2:
        yield Item(3, "other tasks", ABSTAINED, reason="the run has one task")
        return
    for name in names[1:]:
        task = libero.load_task(env.suite, name)
        env_of = libero.make_env(task, resolution=env.size, cameras=(env.camera,), seed=env.env_seed)
        try:
            libero.reset_to(env_of, task.init_states[env.init_states[0]])
        finally:
            libero.close_env(env_of)
    made = f"{len(names) - 1} more environment{'s' if len(names) > 2 else ''}"
    yield Item(3, "other tasks", OK, f"{made} made, reset, and put into an init state")


def _episodes(context: Context) -> Iterator[Item]:
    _, env = context.spec.own_loop()
    states = env.init_states[:EPISODES]
    spec = _only(context.spec, tasks=_first(env.tasks), states=states, episodes=len(states), ignore=WHOLE_RUN)
    yield from _judged(3, "episodes", _run(spec, context), f"{len(states)} episodes", whole=True)


def _first(tasks: Sequence[int | str] | str) -> tuple[int | str, ...]:
    return (0,) if isinstance(tasks, str) else tuple(tasks[:1])


def _only(
    spec: RunSpec, *, tasks: tuple[int | str, ...], states: Sequence[int], episodes: int, ignore: Sequence[str]
) -> RunSpec:
    """A part of the run, without the checks that a part says nothing about."""
    assert spec.env is not None
    env = replace(spec.env, tasks=tasks, init_states=tuple(states), episodes=episodes)
    checks = replace(spec.checks, ignore=tuple(dict.fromkeys([*spec.checks.ignore, *ignore])))
    return replace(spec, env=env, checks=checks)


def _run(spec: RunSpec, context: Context) -> RunResult:
    from vladoctor.session import run_session

    with tempfile.TemporaryDirectory(prefix="vladoctor-preflight-") as folder:
        result = run_session(spec, fault=spec.fault, out=Path(folder), progress=Silent(), policy=context.need("policy"))
    return result


def _judged(level: int, what: str, result: RunResult, told: str, *, whole: bool = False) -> Iterator[Item]:
    """The episodes' findings, each once, and one line of what else they came to."""
    said: set[tuple[str, str]] = set()
    roots = [one for one in result.findings if not one.explained_by]
    for found in roots:
        if (found.code, found.message) not in said:
            said.add((found.code, found.message))
            yield problem(level, what, found)
    for failure in result.failures:
        raise TroubleError(
            "VD604", f"The loop failed: {failure}", "See what it printed; run it with: vladoctor diagnose"
        )
    for diagnosis in result.diagnoses:
        outcome = diagnosis.episode.outcome
        if outcome.ended == "exception":
            raise TroubleError(
                "VD604",
                f"The episode ended with an exception after {outcome.steps} steps: {outcome.error}",
                "Run it with `vladoctor diagnose --traceback` to see where it comes from.",
                evidence={"seen": outcome.error},
            )
    results: list[CheckResult] = [one for diagnosis in result.diagnoses for one in diagnosis.results]
    for crashed in [one for one in [*results, *result.overall.results] if one.state == "crashed"]:
        yield Item(level, what, CRASHED, reason=f"{crashed.code} {crashed.name}: {crashed.error}")
    passed = len({one.code for one in results if one.state == "passed"})
    abstained = len({one.code for one in results if one.state == "abstained"})
    wins = sum(diagnosis.episode.outcome.success for diagnosis in result.diagnoses)
    score = f"{wins} of {len(result.diagnoses)} successful; " if whole else ""
    value = f"{told}: {score}{passed} checks passed, {abstained} had nothing to say"
    if not any(one.severity is not Severity.LOOK for one in roots):
        yield Item(level, what, OK, value, "no finding")
    elif score:
        yield Item(level, what, ABSTAINED, value, reason=value)
