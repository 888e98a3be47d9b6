"""What a person sees: progress while episodes run, then what was found, root causes first.

Episodes with the same headline are told once, with the evidence of the first of them; every episode's own evidence is
in the JSON and HTML reports. Nothing here relies on colour: with NO_COLOR or in a log file the text says the same.
"""

from __future__ import annotations

import io
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

import vladoctor
from vladoctor.check import Severity
from vladoctor.facts.coverage import sentence
from vladoctor.report import acquittal, seen
from vladoctor.report.console import (
    COLOURS,
    Glyphs,
    glyphs_for,
    hang,
    make_console,
    plural,
    prose,
    short,
    table,
    visible,
)
from vladoctor.report.json import success_interval, trials
from vladoctor.report.reported import short_way, shown
from vladoctor.result import FAILED, FINDINGS, INCOMPLETE, Progress, RunResult

if TYPE_CHECKING:
    from rich.progress import TaskID

    from vladoctor.diagnosis import CheckResult, Diagnosis, Finding
    from vladoctor.records import Outcome

DIMENSIONS = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
"""Names of a 7-dimensional action's components, in the order of the OpenVLA family."""

EPISODE_LINES = 20
NARROW = 76
READABLE_EDITS = 6
"""Texts that differ in more places are shown one under the other; between the marks nobody would find them."""
NAMES_SHOWN = 3
LOG_EVERY_S = 30.0


# --- The summary ---


def print_summary(
    result: RunResult,
    *,
    reports: Sequence[Path] = (),
    stream: TextIO | None = None,
    width: int | None = None,
    colour: bool | None = None,
    status: tuple[int, str] | None = None,
) -> None:
    """Print what was found.

    Args:
        status: exit status and the reason for it, where it is not the result's.
        reports: files that were written, named at the end.
        width: columns; by default the terminal's, or 80.
        colour: by default as the terminal and NO_COLOR say.
    """
    console = make_console(stream or sys.stdout, width=width, colour=colour)
    for part in _Summary(result, glyphs_for(console), narrow=console.width < NARROW).parts():
        console.print(part)
    for path in reports:
        # Whole on one line however long, so that it can be clicked or copied.
        console.print(Text(f"Report: {short(path)}"), soft_wrap=True)
    number, reason = status or (result.exit_status, _status_reason(result))
    if reason:
        console.print(Text(f"Exit status {number}: {reason}", style="dim"))


def summary_text(result: RunResult, width: int = 100) -> str:
    """What was found as plain text, `width` columns wide."""
    stream = io.StringIO()
    print_summary(result, stream=stream, width=width, colour=False)
    return _trimmed(stream)


def finding_text(finding: Finding, width: int = 100) -> str:
    """One finding with its evidence and its remedy as plain text, `width` columns wide."""
    stream = io.StringIO()
    console = make_console(stream, width=width, colour=False)
    console.print(_Summary(RunResult(None, {}), glyphs_for(console))._body(finding))
    return _trimmed(stream)


def _trimmed(stream: io.StringIO) -> str:
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()).strip("\n")


@dataclass
class _Summary:
    result: RunResult
    glyphs: Glyphs
    narrow: bool = False

    def parts(self) -> Iterable[RenderableType]:
        diagnoses = self.result.diagnoses
        yield from self._heading()
        yield from self._failures()
        for group in _groups(diagnoses):
            yield from self._group(group)
        yield from self._overall()
        yield from self._right()
        yield from self._seen()
        yield from self._silent()
        yield from self._crashed()
        yield from self._notes()
        yield from self._episodes()
        yield Text("")
        yield from self._verdict()

    def _heading(self) -> Iterable[RenderableType]:
        run, spec = self.result.run, self.result.spec
        checkpoint = run.get("checkpoint", {})
        assets, profile = run.get("assets") or {}, run.get("profile") or {}
        yield Text("")
        yield Text(f"vladoctor {vladoctor.__version__}" + (f"  {spec.source}" if spec else ""), style="bold")
        program = seen.program(self.result)
        rows = [
            ("program", _program(program) if program else ""),
            ("model", _join(checkpoint.get("name"), checkpoint.get("dtype"), run.get("device"))),
            ("profile", _with_note(profile.get("name"), profile.get("reason"))),
            ("assets", _with_note(assets.get("kind"), assets.get("note"))),
            ("fault", f"{run['fault']} (applied on purpose)" if run.get("fault") else ""),
        ]
        yield table([(label, Text(value)) for label, value in rows if value])

    def _failures(self) -> Iterable[RenderableType]:
        for failure in self.result.failures:
            yield Text("")
            yield hang(f"{self.glyphs.wrong} ", Text(str(failure)), style="bold red")
        ended: dict[str, list[Diagnosis]] = {}
        for diagnosis in self.result.diagnoses:
            if diagnosis.episode.outcome.ended == "exception":
                ended.setdefault(diagnosis.episode.outcome.error, []).append(diagnosis)
        for error, group in ended.items():
            yield Text("")
            steps = group[0].episode.outcome.steps
            count = _count(len(group), len(self.result.diagnoses))
            head = f"{self.glyphs.wrong} {count}: the loop raised an exception after {_steps(steps)}"
            yield Text(head, style="bold red")
            yield Padding(Text(error or "no message", overflow="fold"), (0, 0, 0, 4))
            yield Padding(Text(f"in {_names(group)}; what was recorded until then is kept", style="dim"), (0, 0, 0, 4))

    def _group(self, group: Sequence[Diagnosis]) -> Iterable[RenderableType]:
        """Episodes with the same headline: their root causes, each with what follows from it."""
        roots: dict[str, list[tuple[Diagnosis, Finding]]] = {}
        for diagnosis in group:
            for finding in diagnosis.findings:
                if not finding.explained_by:
                    roots.setdefault(finding.code, []).append((diagnosis, finding))
        for index, found in enumerate(roots.values()):
            episodes = list({id(diagnosis): diagnosis for diagnosis, _ in found}.values())
            total = len(self.result.diagnoses) if index == 0 else len(group)
            yield Text("")
            yield self._title(found[0][1], episodes, total, also=index > 0)
            shown, finding = found[0]
            yield Padding(self._body(finding), (0, 0, 0, 4))
            consequences = self._consequences(finding.code, group)
            if consequences:
                yield Padding(Group(Text("What follows from it:", style="dim"), *consequences), (0, 0, 0, 4))
            if len(episodes) > 1:
                where = f"numbers of {shown.episode.name}; also found in {_names(episodes[1:])}"
                yield Padding(Text(where, style="dim"), (0, 0, 0, 4))

    def _overall(self) -> Iterable[RenderableType]:
        """What the episodes say together: root causes, each with what follows from it."""
        findings = self.result.overall.findings
        roots = [finding for finding in findings if not finding.explained_by]
        for finding in roots:
            title = Text(f"{self.glyphs.wrong} ", style=COLOURS[finding.severity])
            title.append("the run as a whole: ", style="default").append(f"{finding.code} {finding.name}")
            yield Text("")
            yield title
            yield Padding(self._body(finding), (0, 0, 0, 4))
            yield from self._following(finding.code, [one for one in findings if one.explained_by == finding.code])
        elsewhere = {one.explained_by for one in findings if one.explained_by} - {root.code for root in roots}
        for code in sorted(elsewhere):
            yield Text("")
            yield Text(f"Over the run as a whole follows from {code}:", style="dim")
            yield from self._following("", [one for one in findings if one.explained_by == code])

    def _following(self, root: str, findings: Sequence[Finding]) -> Iterable[RenderableType]:
        if root and findings:
            yield Padding(Text("What follows from it:", style="dim"), (0, 0, 0, 4))
        for finding in findings:
            text = Text(f"{finding.code} {finding.name}", style=COLOURS[finding.severity], overflow="fold")
            text.append(f" ({finding.severity.value}): {finding.message}", style="default")
            yield Padding(hang(self.glyphs.follows, text), (0, 0, 0, 4))

    def _title(self, finding: Finding, episodes: Sequence[Diagnosis], total: int, *, also: bool) -> Text:
        title = Text()
        title.append(f"{self.glyphs.wrong} ", style=COLOURS[finding.severity])
        title.append(f"{'also in ' if also else ''}{_count(len(episodes), total, episodes[0].episode.name)}: ")
        title.append(f"{finding.code} {finding.name}", style=COLOURS[finding.severity])
        return title

    def _body(self, finding: Finding) -> RenderableType:
        dot = f" {self.glyphs.dot} "
        where = dot.join((finding.severity.value, f"stage {finding.stage.value}", _since(finding)))
        parts: list[RenderableType] = [Text(where, style=COLOURS[finding.severity])]
        parts += [prose(finding.message), *self._evidence(finding.evidence)]
        if finding.place is not None:
            rows = [("in", Text(shown(finding.place)))]
            rows += [("way", Text(short_way(finding.trail), overflow="fold"))] if finding.trail else []
            parts.append(Padding(table(rows), (0, 0, 0, 2)))
        parts.append(hang(self.glyphs.do, prose(finding.remedy), style="bold green"))
        parts.append(Text(f"more: vladoctor explain {finding.code}", style="dim"))
        return Group(*parts)

    def _evidence(self, evidence: Mapping[str, Any]) -> Iterable[RenderableType]:
        diff = evidence.get("diff") or ()
        rows: list[tuple[str, RenderableType]] = []
        if 0 < sum(op != "=" for op, _ in diff) <= READABLE_EDITS:
            rows.append(("prompt", self._diff(diff)))
            legend = Text()
            legend.append("[-expected, not sent-]", style="red").append(" ")
            legend.append("{+sent, not expected+}", style="green")
            rows.append(("", legend))
        else:
            for key in ("expected", "seen"):
                if evidence.get(key) is not None:
                    rows.append((key, Text(visible(str(evidence[key]), self.glyphs, spaces=False), overflow="fold")))
        if rows:
            yield Padding(table(rows), (0, 0, 0, 2))
        dimensions = evidence.get("per_dimension")
        if isinstance(dimensions, Mapping) and dimensions:
            yield Padding(_dimension_table(dimensions), (0, 0, 0, 2))

    def _diff(self, diff: Sequence[Sequence[str]]) -> Text:
        """As one line in the manner of wdiff: [-expected, not sent-]{+sent, not expected+}."""
        line = Text(overflow="fold")
        for op, text in diff:
            if op == "=":
                line.append(visible(text, self.glyphs, spaces=False))
            elif op == "-":
                line.append(f"[-{visible(text, self.glyphs)}-]", style="bold red")
            else:
                line.append(f"{{+{visible(text, self.glyphs)}+}}", style="bold green")
        return line

    def _consequences(self, root: str, group: Sequence[Diagnosis]) -> list[RenderableType]:
        found: dict[str, list[Finding]] = {}
        for diagnosis in group:
            codes: set[str] = set()
            for finding in diagnosis.findings:
                if finding.explained_by == root and finding.code not in codes:
                    codes.add(finding.code)
                    found.setdefault(finding.code, []).append(finding)
        lines: list[RenderableType] = []
        for findings in found.values():
            first = findings[0]
            text = Text(overflow="fold")
            text.append(f"{first.code} {first.name}", style=COLOURS[first.severity])
            if len(findings) < len(group):
                text.append(f" in {len(findings)} of {len(group)} episodes")
            text.append(f" ({first.severity.value}, {_since(first)}): {first.message}")
            lines.append(hang(self.glyphs.follows, text))
        return lines

    def _right(self) -> Iterable[RenderableType]:
        """What was looked at and found right: in full for a healthy run, else only named."""
        total = len(self.result.diagnoses)
        stages = [stage for stage in acquittal.stages(self.result) if stage.looked]
        if not stages:
            return
        yield Text("")
        if any(self.result.findings):
            always = [one for stage in stages for one in stage.looked if one.episodes in (None, total)]
            names = [f"{one.code} {one.name}{'' if one.episodes else ' over the run'}" for one in always]
            if names:
                yield hang("Found right: ", Text(", ".join(names)))
            return
        several = f" in {total} episodes (numbers of the first)" if total > 1 else ""
        yield Text(f"Looked at and found right{several}:")
        for stage in stages:
            yield Text(f"  {stage.stage.value}", style="bold")
            for one in stage.looked:
                text = Text(f"{one.code} {one.name}", style="green", overflow="fold")
                where = " over the run" if one.episodes is None else ""
                where = f" in {one.episodes} of {total} episodes" if one.episodes and one.episodes < total else where
                text.append(f"{where}: {one.said}", style="default")
                yield hang(f"    {self.glyphs.right} ", text, style="green")

    def _seen(self) -> Iterable[RenderableType]:
        """Which stages were seen at all, and what that cost."""
        covered = seen.of_run(self.result.diagnoses)
        if covered:
            yield Text("")
            words = sentence(covered, brief=True)
            yield hang("Seen: ", Text(words.removeprefix("seen: "), overflow="fold"))
        cost = seen.cost(diagnosis.episode for diagnosis in self.result.diagnoses)
        if cost is not None:
            budget = seen.budget_in_words(self.result.run.get("budget"))
            yield hang("Cost: ", Text(cost.sentence + (f"; {budget}" if budget else ""), overflow="fold"))

    def _silent(self) -> Iterable[RenderableType]:
        silent = _by_check(self.result.diagnoses, "abstained")
        partly = Counter(reason for diagnosis in self.result.diagnoses for reason in diagnosis.evidence_missing)
        told = {
            f"{code} {check.name}: {note.reason}"
            for code, found in silent.items()
            for check in found
            for note in check.abstentions
        }
        missing = {reason: count for reason, count in partly.items() if reason not in told}
        overall = [check for check in self.result.overall.results if check.state == "abstained" and check.abstentions]
        if not silent and not missing and not overall:
            return
        yield Text("")
        yield Text("Not judged:")
        total = len(self.result.diagnoses)
        for code, found in silent.items():
            notes = found[0].abstentions
            text = Text(f"{code} {found[0].name}", style="yellow", overflow="fold")
            reasons = "; ".join(dict.fromkeys(note.reason for note in notes)) or "it had nothing to look at"
            lacking = " (evidence missing)" if any(note.missing for note in notes) else ""
            some = f" in {len(found)} of {total} episodes" if len(found) < total else ""
            text.append(f"{some}: {reasons}{lacking}", style="default")
            yield hang(f"  {self.glyphs.silent} ", text, style="yellow")
        for reason, count in missing.items():
            text = Text(f"{reason} ({_count(count, total)}; evidence missing)", overflow="fold")
            yield hang(f"  {self.glyphs.silent} ", text, style="yellow")
        for check in overall:
            text = Text(f"{check.code} {check.name}", style="yellow", overflow="fold")
            reasons = "; ".join(dict.fromkeys(note.reason for note in check.abstentions))
            lacking = " (evidence missing)" if any(note.missing for note in check.abstentions) else ""
            text.append(f" over the run: {reasons}{lacking}", style="default")
            yield hang(f"  {self.glyphs.silent} ", text, style="yellow")

    def _crashed(self) -> Iterable[RenderableType]:
        crashed = [
            (found[0], f"in {_count(len(found), len(self.result.diagnoses))}")
            for found in _by_check(self.result.diagnoses, "crashed").values()
        ]
        for check, where in [*crashed, *((check, "over the run") for check in self.result.overall.crashed)]:
            yield Text("")
            last = check.error.strip().rsplit("\n", 1)[-1]
            text = Text(f"{check.code} {check.name} crashed {where}: {last}", overflow="fold")
            yield hang("! ", text, style="bold magenta")
            advice = (
                "This is a defect of the check, not of your loop; its traceback is in the JSON report. "
                "more: vladoctor explain VD901"
            )
            yield Padding(Text(advice, style="dim"), (0, 0, 0, 2))

    def _notes(self) -> Iterable[RenderableType]:
        if self.result.notes:
            yield Text("")
            for note in self.result.notes:
                yield hang("Note: ", Text(note, overflow="fold"), style="yellow")

    def _episodes(self) -> Iterable[RenderableType]:
        diagnoses = self.result.diagnoses
        if not diagnoses:
            return
        by_task: dict[str, list[Diagnosis]] = {}
        for diagnosis in diagnoses[:EPISODE_LINES]:
            by_task.setdefault(str(diagnosis.episode.task.get("language") or ""), []).append(diagnosis)
        for instruction, group in by_task.items():
            yield Text("")
            if instruction:
                yield Text(f'"{instruction}"', style="italic")
            table = Table.grid(padding=(0, 2))
            table.add_column(overflow="fold")
            table.add_column(no_wrap=True)
            table.add_column(no_wrap=True, justify="right")
            table.add_column(overflow="fold")
            for diagnosis in group:
                outcome = diagnosis.episode.outcome
                table.add_row(
                    diagnosis.episode.name,
                    Text(_OUTCOMES[outcome.ended], style="green" if outcome.success else "red"),
                    _steps(outcome.steps),
                    self._headline(diagnosis),
                )
            yield table
        if len(diagnoses) > EPISODE_LINES:
            yield Text(f"... and {len(diagnoses) - EPISODE_LINES} more: see the report", style="dim")

    def _headline(self, diagnosis: Diagnosis) -> Text:
        headline = diagnosis.headline
        if headline is None:
            judged = any(check.judged for check in diagnosis.results)
            whole = diagnosis.episode.outcome.ended in ("success", "horizon")
            return Text(("nothing found" if whole else "nothing found until then") if judged else "not judged", "dim")
        name = "" if self.narrow else f" {headline.name}"
        text = Text(f"{headline.code}{name}", style=COLOURS[headline.severity])
        more = len(diagnosis.findings) - 1
        return text.append(f" +{more}", style="dim") if more else text

    def _verdict(self) -> Iterable[RenderableType]:
        diagnoses = self.result.diagnoses
        counted = trials(diagnoses)
        successes = sum(diagnosis.episode.outcome.success for diagnosis in counted)
        interval = success_interval(successes, len(counted))
        if interval:
            rest = len(diagnoses) - len(counted)
            yield Text(
                f"Success: {successes} of {plural(len(counted), 'episode')} = {_percent(successes / len(counted))} "
                f"(95 % interval {_percent(interval[0])} to {_percent(interval[1])})"
                + (f"; {rest} more did not run to an end and are not counted" if rest else "")
            )
        broken = [d for d in diagnoses if any(not finding.about_evidence for finding in d.findings)]
        overall = [finding for finding in self.result.overall.findings if not finding.about_evidence]
        judged = [d for d in diagnoses if any(check.judged for check in d.results)]
        if broken:
            codes = Counter(diagnosis.findings[0].code for diagnosis in broken)
            found = (f.severity for d in broken for f in d.findings if not f.about_evidence)
            worst = min(found, key=list(Severity).index)
            named = ", ".join(f"{code} ({count})" if len(codes) > 1 else code for code, count in codes.most_common())
            causes = "root cause" if len(codes) == 1 else "root causes"
            wrong = "There is something to look at" if worst is Severity.LOOK else "Something is wrong"
            yield Text(
                f"{wrong} in {_count(len(broken), len(diagnoses))}; {causes}: {named}. {_MEANING[worst]}",
                style=COLOURS[worst],
            )
        elif overall:
            worst = min((finding.severity for finding in overall), key=list(Severity).index)
            wrong = "There is something to look at" if worst is Severity.LOOK else "Something is wrong"
            named = ", ".join(dict.fromkeys(finding.code for finding in overall))
            yield Text(f"{wrong} in the run as a whole: {named}. {_MEANING[worst]}", style=COLOURS[worst])
        elif not judged:
            yield Text("Nothing could be judged.", style="bold yellow")
        elif self.result.exit_status == INCOMPLETE or self.result.failed:
            yield Text("Nothing wrong was found, but not everything could be judged.", style="bold yellow")
        elif self.result.accepted:
            known = ", ".join(sorted({finding.code for _, finding in self.result.accepted}))
            yield Text(f"Nothing was found but what the baseline accepts: {known}.", style="bold yellow")
        else:
            checks = {check.code for diagnosis in judged for check in diagnosis.results if check.judged}
            yield Text(
                f"Healthy: {plural(len(checks), 'check')} looked at {plural(len(judged), 'episode')} "
                "and found nothing wrong.",
                style="bold green",
            )
            stages = acquittal.stages(self.result)
            if acquittal.acquitted(self.result, stages):
                yield Text(f"At every stage {acquittal.ACQUITTED}.", style="bold green")
            else:
                said = acquittal.lacking(self.result, stages)
                yield Text(f"{said[0].upper()}{said[1:]}.", style="dim", overflow="fold")
                if counted and successes < len(counted):
                    yield Text("Where it failed, the cause is not among what these checks can see.", style="dim")


_OUTCOMES = {"success": "success", "horizon": "failed", "exception": "exception", "interrupted": "interrupted"}
_MEANING = {
    Severity.STOP: "Stop: the numbers of this run mean nothing.",
    Severity.FIX: "Fix: it costs success.",
    Severity.LOOK: "Look: it may be meant.",
}


def _groups(diagnoses: Sequence[Diagnosis]) -> list[list[Diagnosis]]:
    """Episodes with findings, by headline: the gravest first, then the most frequent."""
    groups: dict[str, list[Diagnosis]] = {}
    for diagnosis in diagnoses:
        if diagnosis.findings:
            groups.setdefault(diagnosis.findings[0].code, []).append(diagnosis)

    def rank(group: Sequence[Diagnosis]) -> tuple[int, int]:
        return min(list(Severity).index(d.findings[0].severity) for d in group), -len(group)

    return sorted(groups.values(), key=rank)


def _by_check(diagnoses: Sequence[Diagnosis], state: str) -> dict[str, list[CheckResult]]:
    found: dict[str, list[CheckResult]] = {}
    for diagnosis in diagnoses:
        for check in diagnosis.results:
            if check.state == state:
                found.setdefault(check.code, []).append(check)
    return dict(sorted(found.items()))


def _dimension_table(dimensions: Mapping[str, Sequence[Any]]) -> Table:
    """Dimensions down, quantities across: there are seven of those and two or three of these."""
    length = max(len(values) for values in dimensions.values())
    names = DIMENSIONS if length == len(DIMENSIONS) else tuple(str(index) for index in range(length))
    table = Table.grid(padding=(0, 1))
    table.add_column(overflow="fold")
    for _ in dimensions:
        table.add_column(justify="right", overflow="fold")
    table.add_row("", *(Text(str(name), style="dim") for name in dimensions))
    for index, name in enumerate(names):
        values = (values[index] if index < len(values) else None for values in dimensions.values())
        table.add_row(Text(name, style="dim"), *(_number(value) for value in values))
    return table


def _number(value: Any) -> str:
    if isinstance(value, float) or hasattr(value, "dtype"):
        return f"{float(value):.3g}"
    return "" if value is None else str(value)


def _since(finding: Finding) -> str:
    if finding.whole_run:
        return "the run as a whole"
    if finding.last_step is None:
        return f"from step {finding.first_step} on"
    if finding.last_step == finding.first_step:
        return f"step {finding.first_step}"
    return f"steps {finding.first_step} to {finding.last_step}"


def _names(diagnoses: Sequence[Diagnosis]) -> str:
    names = [diagnosis.episode.name for diagnosis in diagnoses]
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _program(program: Mapping[str, Any]) -> str:
    count = len(program.get("processes", ()))
    return _with_note(seen.command_line(program.get("command", ())), f"{count} processes" if count > 1 else "")


def _count(count: int, total: int, name: str = "") -> str:
    if total == 1:
        return name or "the episode"
    return f"{count} of {total} episodes" if count != 1 or not name else f"1 of {total} episodes ({name})"


def _steps(count: int) -> str:
    return plural(count, "step")


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _join(*parts: Any) -> str:
    return ", ".join(str(part) for part in parts if part)


def _with_note(name: Any, note: Any) -> str:
    return f"{name} ({note})" if name and note else str(name or "")


def _status_reason(result: RunResult) -> str:
    status = result.exit_status
    if status == FINDINGS:
        return f"findings of severity {result.fail_on.value} or graver" if result.spec else "there are findings"
    if status == FAILED:
        return "the loop or a check failed, so that the verdicts do not cover the whole run"
    return "evidence is incomplete" if status == INCOMPLETE else ""


# --- Progress ---


def make_progress(stream: TextIO | None = None) -> Progress:
    """Bars on a terminal, lines in a log file or pipe."""
    console = make_console(stream or sys.stderr)
    return Bars(console) if console.is_terminal and not console.is_dumb_terminal else Lines(console)


@dataclass
class Lines:
    """A line when an episode ends, and now and then in a long one: for log files."""

    console: Console
    total: int = 0
    number: int = 0
    said: float = 0.0

    def start(self, total_episodes: int) -> None:
        self.total = total_episodes

    def episode_start(self, name: str) -> None:
        self.number += 1
        self.said = time.monotonic()

    def step(self, number: int, horizon: int, milliseconds: float) -> None:
        if time.monotonic() - self.said > LOG_EVERY_S:
            self.said = time.monotonic()
            self._line(f"episode {self.number} of {self.total}: step {number} of {horizon}, {milliseconds:.0f} ms")

    def episode_end(self, name: str, outcome: Outcome, findings: Sequence[Finding]) -> None:
        self._line(f"episode {self.number} of {self.total}: {name}: {_ended(outcome, findings)}")

    def note(self, text: str) -> None:
        self._line(text)

    def finish(self) -> None:
        self.console.file.flush()

    def _line(self, text: str) -> None:
        self.console.print(Text(text), soft_wrap=True)
        self.console.file.flush()


class Bars:
    """A bar for the episodes and one for the steps of the present one; ended episodes scroll by above."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as RichProgress

        self.console = console
        # Four times a second: the drawing thread competes with the loop that is being timed.
        self.bars = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[info]}", markup=False),
            console=console,
            refresh_per_second=4,
            transient=True,
            expand=True,
        )
        self.episodes: TaskID | None = None
        self.steps: TaskID | None = None
        self.milliseconds: float | None = None
        self.successes = 0
        self.ended = 0

    def start(self, total_episodes: int) -> None:
        self.episodes = self.bars.add_task("episodes", total=total_episodes, info="")
        self.steps = self.bars.add_task("steps", total=None, info="")
        self.bars.start()

    def episode_start(self, name: str) -> None:
        self.milliseconds = None
        if self.steps is not None:
            self.bars.reset(self.steps, total=None, description=_clip(name, self.console.width // 3), info="")

    def step(self, number: int, horizon: int, milliseconds: float) -> None:
        mean = self.milliseconds
        self.milliseconds = milliseconds if mean is None else 0.9 * mean + 0.1 * milliseconds
        if self.steps is not None:
            self.bars.update(self.steps, completed=number + 1, total=horizon, info=f"{self.milliseconds:.0f} ms/step")

    def episode_end(self, name: str, outcome: Outcome, findings: Sequence[Finding]) -> None:
        self.ended += 1
        self.successes += outcome.success
        self.console.print(Text(f"{name}: {_ended(outcome, findings)}"))
        if self.episodes is not None:
            self.bars.update(self.episodes, completed=self.ended, info=f"{self.successes}/{self.ended} success")

    def note(self, text: str) -> None:
        self.console.print(Text(text, style="dim"))

    def finish(self) -> None:
        self.bars.stop()


def _ended(outcome: Outcome, findings: Sequence[Finding]) -> str:
    word = _OUTCOMES[outcome.ended]
    found = f"{findings[0].code} {findings[0].name}" if findings else "nothing found"
    more = f" and {len(findings) - 1} more" if len(findings) > 1 else ""
    error = f" ({outcome.error})" if outcome.error else ""
    return f"{word} after {_steps(outcome.steps)}{error}, {found}{more}"


def _clip(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(width - 3, 1)] + "..."
