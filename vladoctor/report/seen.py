"""What every report says of the observing itself: which stages were seen, and what the taps cost."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vladoctor.facts.coverage import PARTLY, SEEN, STAGES, Coverage

if TYPE_CHECKING:
    from vladoctor.diagnosis import Diagnosis
    from vladoctor.records import Episode
    from vladoctor.result import RunResult

INCLUDED = {"vision": "part of forward", "taps": "vladoctor's own"}
"""Timings that lie within other ones, and so do not add to the step's."""


@dataclass(frozen=True)
class Cost:
    """What the taps took, in milliseconds a policy step, over `steps` of them; `step` is the loop's own time."""

    taps: float
    step: float
    steps: int

    @property
    def share(self) -> float:
        return self.taps / self.step if self.step else 0.0

    @property
    def sentence(self) -> str:
        return f"the taps took {self.taps:.2g} ms of a {self.step:.3g} ms step ({100 * self.share:.1f} %)"


def of_run(diagnoses: Sequence[Diagnosis]) -> tuple[Coverage, ...]:
    """What was seen of each stage over all episodes; empty where that was not looked at."""
    table = [diagnosis.covered for diagnosis in diagnoses if diagnosis.covered]
    if not table:
        return ()
    return tuple(_merged([covered[place] for covered in table]) for place in range(len(STAGES)))


def _merged(found: Sequence[Coverage]) -> Coverage:
    states = {one.state for one in found}
    state = states.pop() if len(states) == 1 else PARTLY
    lacking = [one for one in found if one.state != SEEN]
    why = _first(one.why for one in lacking)
    if lacking and len(lacking) < len(found):
        why = f"in {len(lacking)} of {len(found)} episodes, {why}"
    return Coverage(
        found[0].stage,
        state,
        _first(one.through for one in found),
        sum(one.steps for one in found),
        sum(one.total for one in found),
        found[0].unit,
        why,
        _first(one.remedy for one in lacking),
    )


def _first(texts: Iterable[str]) -> str:
    """The most frequent text that says something."""
    counted = Counter(text for text in texts if text).most_common(1)
    return counted[0][0] if counted else ""


def cost(episodes: Iterable[Episode]) -> Cost | None:
    """What the taps cost; None where it was not recorded."""
    taps, own, count = 0.0, 0.0, 0
    for episode in episodes:
        for step in episode.policy_steps():
            if "taps" in step.timings:
                count += 1
                taps += step.timings["taps"]
                own += sum(value for name, value in step.timings.items() if name not in INCLUDED)
    return Cost(taps / count, own / count, count) if count and own else None


def program(result: RunResult) -> Mapping[str, Any] | None:
    """The watched program, where the loop was not vladoctor's own."""
    found = result.run.get("program")
    return found if isinstance(found, dict) else None


def command_line(words: Sequence[str]) -> str:
    """A command as it is typed."""
    return " ".join(shlex.quote(word) for word in words)


def processes(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(command, what was watched in it) of each process of a program."""
    rows = []
    for process in found.get("processes", ()):
        words = [str(word) for word in process.get("arguments") or [process.get("executable", "?")]]
        if process.get("missing") or process.get("error"):
            said = f"not watched: {process.get('error') or 'it has no ' + str(process['missing'])}"
        elif process.get("hooked"):
            said = f"taps on {', '.join(_packages(process['hooked']))}"
        else:
            said = "nothing in it to watch"
        rows.append((command_line(words), said))
    return rows


def _packages(modules: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(module.partition(".")[0] for module in modules))


def budget_in_words(budget: Any) -> str:
    """What the instrument says of its own limit: {"limit": share of a step, "shed": what was left out ...}."""
    if not isinstance(budget, dict) or not budget:
        return ""
    parts = []
    if isinstance(budget.get("limit"), (int, float)):
        parts.append(f"limit {100 * budget['limit']:.3g} %")
    shed = budget.get("shed")
    if shed:
        parts.append(f"left out to keep it: {', '.join(map(str, shed)) if isinstance(shed, (list, tuple)) else shed}")
    return "; ".join(parts)
