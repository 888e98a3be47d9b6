"""Which looks are taken at which level, and where."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from vladoctor.check import Severity
from vladoctor.preflight import checkpoint, looks, scene, source, trial
from vladoctor.preflight.looks import Context, Look
from vladoctor.preflight.machine import machine
from vladoctor.preflight.result import ABSTAINED, CRASHED, Item, Preflight
from vladoctor.profiles import Profile
from vladoctor.runspec import RunSpec
from vladoctor.session import choose_profile
from vladoctor.snapshot import Snapshot

LEVELS = (0, 1, 2, 3)


def run_preflight(spec: RunSpec, level: int, note: Callable[[str], None] = lambda _: None) -> Preflight:
    """Look at a run, level by level; what would stop it stops the levels above.

    Args:
        level: 0 (files and versions), 1 (GPU, drawing, environment, checkpoint, without its weights), 2 (weights, a
            query, a short episode) or 3 (whole episodes).
        note: told what is being looked at.

    Raises:
        UserError: the program of a run with `loop` is not there.
    """
    source.require_program(spec)
    profile = _profile(spec)
    context = Context(spec, profile, {"level": level})
    seconds: dict[int, float] = {}
    items: list[Item] = []
    for current in LEVELS[: min(level, 2) + 1]:
        began = time.perf_counter()
        blocked = _blocked(items)
        if blocked:
            items.append(Item(current, f"level {current}", ABSTAINED, reason=blocked, missing=True))
            break
        for item in _level(current, context, note):
            ignored = item.finding is not None and item.finding.code in spec.checks.ignore
            items.append(item.accepted("the run file") if ignored else item)
        seconds[current] = time.perf_counter() - began
    if 2 in seconds and level > 2:
        # One child does both, so that weights are loaded once.
        seconds[3] = sum(item.seconds for item in items if item.level == 3)
        seconds[2] -= seconds[3]
    return Preflight(
        source=spec.source,
        level=level,
        items=tuple(items),
        profile={"name": profile.name, "reason": profile.reason},
        seconds=seconds,
        fail_on=Severity(spec.report.fail_on),
        machine=machine(spec),
    )


def _level(level: int, context: Context, note: Callable[[str], None]) -> list[Item]:
    if level == 0:
        return [item for look in source.looks(context) for item in looks.take(look, context)]
    if level == 1:
        groups: dict[str, Sequence[Look]] = {"scene": scene.looks(context)}
        if context.spec.loop is None:
            groups = {"checkpoint": checkpoint.looks(context), **groups}
        return looks.in_children(groups, context, note)
    if context.spec.loop is not None:
        return [Item(level, "episodes", ABSTAINED, reason=f"a pre-flight starts no program; {source.OWN}")]
    return looks.in_children({"trial": trial.looks(context)}, context, note)


def _blocked(items: Sequence[Item]) -> str:
    """Why going on would only say the same once more; "" where it would not."""
    stopping = next((item for item in items if item.stops), None)
    if stopping is not None and stopping.finding is not None:
        return f"not looked at: {stopping.finding.code} ({stopping.what}) would stop it"
    crashed = next((item for item in items if item.state == CRASHED), None)
    return f"not looked at: the look at {crashed.what} crashed" if crashed is not None else ""


def _profile(spec: RunSpec) -> Profile:
    """The profile that the run will be judged by, as far as the checkpoint's files tell it."""
    described: dict[str, Any] = {}
    if spec.model is not None:
        try:
            described = Snapshot(spec.model.path).facts()
        except Exception:  # noqa: BLE001 - the look at the model folder reads the same files, and says what is wrong
            described = {"name": spec.model.path.name}
    return choose_profile({"checkpoint": described}, spec)
