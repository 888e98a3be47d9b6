"""What was found, in one shape for the formats that machines read, whoever found it: diagnose, preflight or lint.

Each producer has a function that makes a `Report` of its result; each format has a module that takes one.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vladoctor.check import Severity
from vladoctor.places import Hop, Place

if TYPE_CHECKING:
    from vladoctor.diagnosis import CheckResult, Finding
    from vladoctor.errors import UserError
    from vladoctor.lint.result import LintResult
    from vladoctor.preflight.result import Preflight
    from vladoctor.records import Episode
    from vladoctor.result import RunResult

COMMENT, CONFIGURATION, BASELINE = "comment", "configuration", "baseline"
"""By what a finding is accepted."""

WHOLE_RUN = "the run as a whole"

NAMED = (".json", ".yaml", ".yml", ".safetensors", ".bin", ".py", ".bddl", ".xml", ".txt")
"""Endings of files whose names are told where their folders are not."""


@dataclass(frozen=True)
class Reported:
    """A finding, told once however often it was found.

    Attributes:
        subjects: what it was found in: names of episodes, of loops, of a level of preflight.
        place: where it is shown; None where it has none in the source.
        accepted: one of COMMENT, CONFIGURATION, BASELINE where it does not count; or "".
        identity: what makes it the same finding tomorrow: it survives that lines move. See `fingerprint`.
        home: the recording that it was found in, where it is shown if neither it nor the run has a file.
    """

    finding: Finding
    subjects: tuple[str, ...] = ()
    place: Place | None = None
    accepted: str = ""
    identity: tuple[str, ...] = ()
    home: Place | None = None

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.identity)

    @property
    def where(self) -> str:
        """As editors read it, "eval.py:57:9", or else what it was found in."""
        if self.place is not None:
            return shown(self.place)
        more = len(self.subjects) - 1
        return (self.subjects[0] if self.subjects else "") + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True)
class Looked:
    """What one check said of one subject: a test case.

    Attributes:
        state: as of `diagnosis.CheckResult`.
        notes: what was found right, or why nothing was said.
        found: findings that count.
        accepted: findings that do not.
    """

    subject: str
    code: str
    name: str
    state: str
    notes: tuple[str, ...] = ()
    error: str = ""
    found: tuple[Finding, ...] = ()
    accepted: tuple[Finding, ...] = ()
    file: str = ""


@dataclass(frozen=True)
class Trouble:
    """Something that kept the tool from looking: a file that does not parse, an episode that could not start."""

    message: str
    place: Place | None = None


@dataclass(frozen=True)
class Report:
    """All of it.

    Attributes:
        command: "diagnose", "preflight" or "lint".
        found: in the order in which they are told, accepted ones too.
        looked: every check of every subject.
        troubles: what could not be looked at. warnings: of what people accept: comments that accept nothing.
        home: where that is shown which has no place in the source, because GitHub shows nothing else: the run file, or
            the script.
        fail_on: the mildest severity that counts for the exit status.
    """

    command: str
    found: Sequence[Reported] = ()
    looked: Sequence[Looked] = ()
    troubles: Sequence[Trouble] = ()
    exit_status: int = 0
    fail_on: Severity = Severity.LOOK
    home: Place | None = None
    texts: Mapping[str, str] = field(default_factory=dict)
    warnings: Sequence[Trouble] = ()

    @property
    def counted(self) -> list[Reported]:
        """What is not accepted."""
        return [one for one in self.found if not one.accepted]


def of_lint(result: LintResult, accepted: Mapping[int, str] | None = None, *, base: Path | None = None) -> Report:
    """What the linter found; a finding in a helper that several loops use is told once.

    Args:
        accepted: id of a finding in `result.suppressed` -> by what.
        base: folder that files are named relative to in fingerprints; the current one by default.
    """
    why = accepted or {}
    hidden = {id(finding) for finding in result.suppressed}
    merged: dict[tuple[object, ...], Reported] = {}
    looked: list[Looked] = []
    for loop in result.loops:
        subject = shown(loop.facts.place)
        for finding in loop.findings:
            place = finding.place or loop.facts.place
            key = (finding.code, place, finding.message, id(finding) in hidden)
            before = merged.get(key)
            if before is None:
                by = why.get(id(finding), COMMENT) if id(finding) in hidden else ""
                identity = _in_source(finding, place, result.texts, base)
                merged[key] = Reported(finding, (subject,), place, by, identity)
            else:
                merged[key] = replace(before, subjects=(*before.subjects, subject))
        counted = [finding for finding in loop.findings if id(finding) not in hidden]
        known = [finding for finding in loop.findings if id(finding) in hidden]
        file = relative(loop.facts.place.file)
        looked += [_looked(check, subject, counted, known, file) for check in loop.results]
    found = _numbered(sorted(merged.values(), key=lambda one: (one.place or Place(""), one.finding.code)))
    troubles = [Trouble(skipped.reason, skipped.place) for skipped in result.skipped]
    troubles += [
        Trouble(f"{check.code} {check.name} crashed: {_last_line(check.error)}", loop.facts.place)
        for loop in result.loops
        for check in loop.crashed
    ]
    return Report("lint", found, looked, troubles, result.exit_status, result.fail_on, texts=result.texts)


def of_run(result: RunResult) -> Report:
    """What was found in a run: one finding for all episodes that it was found in."""
    merged: dict[tuple[object, ...], Reported] = {}
    looked: list[Looked] = []
    groups = [(one.episode.name, one.episode, one.findings, one.results) for one in result.diagnoses]
    overall, own = result.overall, _own_file(result)
    for name, episode, findings, results in [*groups, (WHOLE_RUN, None, overall.findings, overall.results)]:
        known = tuple(finding for subject, finding in result.accepted if subject == name)
        for finding in [*findings, *known]:
            accepted = BASELINE if any(finding is one for one in known) else ""
            key = (finding.code, finding.severity, kind(finding), finding.place, accepted)
            before = merged.get(key)
            if before is None:
                identity, home = run_identity(finding, episode), _recording(episode) if own is None else None
                merged[key] = Reported(finding, (name,), finding.place, accepted, identity, home)
            elif name not in before.subjects:
                merged[key] = replace(before, subjects=(*before.subjects, name))
        looked += [_looked(check, name, findings, known) for check in results]
    troubles = [Trouble(failure) for failure in result.failures]
    troubles += [
        Trouble(f"{one.episode.name}: the loop raised an exception: {one.episode.outcome.error or 'no message'}")
        for one in result.diagnoses
        if one.episode.outcome.ended == "exception"
    ]
    troubles += [
        Trouble(f"{name}: {check.code} {check.name} crashed: {_last_line(check.error)}")
        for name, _, _, results in [*groups, (WHOLE_RUN, None, (), overall.results)]
        for check in results
        if check.state == "crashed"
    ]
    return Report(
        "diagnose",
        _numbered(merged.values()),
        looked,
        troubles,
        result.exit_status,
        result.fail_on,
        home=own or next(filter(None, (_recording(one.episode) for one in result.diagnoses)), Place("run.yaml", 1)),
        texts=result.texts,
    )


def of_preflight(result: Preflight) -> Report:
    """What a pre-flight found, each level a subject and each look a test case."""
    merged: dict[tuple[object, ...], Reported] = {}
    looked: list[Looked] = []
    for item in result.items:
        subject, finding = f"level {item.level}", item.finding
        if finding is not None:
            key = (finding.code, finding.message, finding.place)
            identity = preflight_identity(finding, item.what)
            merged.setdefault(key, Reported(finding, (f"{subject}: {item.what}",), finding.place, "", identity))
        state = {"ok": "passed", "problem": "failed"}.get(item.state, item.state)
        notes = tuple(note for note in (item.value, item.reason if state == "abstained" else "") if note)
        error = item.reason if state == "crashed" else ""
        found = (finding,) if finding is not None else ()
        looked.append(Looked(subject, finding.code if finding else "", item.what, state, notes, error, found))
    troubles = [Trouble(f"{one.what}: {_last_line(one.reason)}") for one in result.items if one.state == "crashed"]
    return Report(
        "preflight",
        _numbered(merged.values()),
        looked,
        troubles,
        result.exit_status,
        result.fail_on,
        home=Place(result.source, 1) if Path(result.source).is_file() else Place("run.yaml", 1),
    )


def of_refusal(command: str, error: UserError, file: str) -> Report:
    """That there was nothing to look at, because of what is wrong with a file that was named."""
    at = re.match(r"(.+?):(\d+):(\d+)(?:: )?", error.where)
    place = Place(at[1], int(at[2]), int(at[3])) if at else None
    told = str(error).removeprefix(at[0]).removeprefix(": ") if at else str(error)
    home = Place(file if Path(file).is_file() else "run.yaml", 1)
    return Report(command, troubles=[Trouble(told, place)], exit_status=2, home=home)


def preflight_identity(finding: Finding, what: str) -> tuple[str, ...]:
    """Of a finding of a pre-flight's: at what it was found, and what; where only words say that, by the words."""
    seen, wanted = finding.evidence.get("seen"), finding.evidence.get("expected")
    told = f"{kind(finding)}\0{wanted}" if isinstance(seen, str) and isinstance(wanted, str) else finding.message
    # Paths differ from machine to machine.
    return (finding.code, "preflight", what, _without_measurements(without_paths(told)))


def kind(finding: Finding) -> str:
    """Of findings with one code, which one: what was seen, or how the text differed from the expected one."""
    diff = finding.evidence.get("diff")
    if diff:
        return "".join(f"{op}{text}" for op, text in diff if op != "=")
    seen = finding.evidence.get("seen")
    return _without_measurements(seen) if isinstance(seen, str) else ""


def _without_measurements(text: str) -> str:
    """A text without what differs from run to run; whole numbers are what somebody chose."""
    return re.sub(r"\d+\.\d+", "#", text)


def run_identity(finding: Finding, episode: Episode | None) -> tuple[str, ...]:
    """Of a finding in a run: which task, not which of its episodes."""
    task = episode.task if episode is not None else {}
    name = "/".join(str(task[key]) for key in ("suite", "name") if task.get(key))
    return finding.code, name or ("episode" if episode is not None else "run"), kind(finding)


def fingerprint(identity: Iterable[str]) -> str:
    """Sixteen hexadecimal digits of what makes a finding the same tomorrow."""
    return hashlib.sha256("\0".join(identity).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def relative(file: str, base: Path | None = None) -> str:
    """A file's name as seen from a folder (the current one), with slashes; absolute where it lies outside."""
    path = Path(file).absolute()
    try:
        return path.relative_to((base or Path.cwd()).absolute()).as_posix()
    except ValueError:
        resolved = path.resolve()
        try:
            return resolved.relative_to((base or Path.cwd()).resolve()).as_posix()
        except ValueError:
            return resolved.as_posix()


def checkout() -> Path:
    """What machines name files relative to: in a workflow of GitHub's the repository, wherever in it the step works.

    Source: docs.github.com, "Workflow commands" and "SARIF support for code scanning": paths from the root of the
    repository. Elsewhere the current folder.
    """
    here, workspace = Path.cwd(), os.environ.get("GITHUB_WORKSPACE", "")
    return Path(workspace) if workspace and here.is_relative_to(workspace) else here


def without_paths(text: str) -> str:
    """A text in which paths from the root or the home folder are left out, as they can hold a user's name.

    The name of a file stays where its ending says that it is one. Addresses ("https://...") are no paths.
    """

    def name_alone(found: re.Match[str]) -> str:
        path = Path(found[0].rstrip("."))
        return f"<path>/{path.name}" if path.suffix in NAMED else "<path>"

    home = str(Path.home())
    if len(home) > 1:  # with a blank in it, it would not be seen whole
        text = text.replace(f"{home}/", "~/")
    return re.sub(r"""(?<![\w./~])~?/(?!/)[^\s:;,()\[\]'"`|]+""", name_alone, text)


def shown(place: Place) -> str:
    """A place as editors and other linters write it: "eval.py:57:9", "demo.ipynb:cell 3:4:1"."""
    cell = f":cell {place.cell}" if place.cell is not None else ""
    return f"{relative(place.file)}{cell}" + (f":{place.line}:{place.column}" if place.line else "")


def short_way(trail: Sequence[Hop]) -> str:
    """The way that data took, each place by its file's name alone, as people say it."""
    hops = []
    for hop in trail:
        name = Path(hop.place.file).name if hop.place else ""
        hops.append(f"{hop.label} {name}:{hop.place.line}" if hop.place and hop.place.line else hop.label)
    return " -> ".join(hops)


def line_of(place: Place, texts: Mapping[str, str]) -> str:
    """The source line that a place names, or "" where its text is not at hand."""
    from vladoctor.lint.cells import text_at

    lines = text_at(place, texts).splitlines()
    return lines[place.line - 1] if 0 < place.line <= len(lines) else ""


def _in_source(finding: Finding, place: Place, texts: Mapping[str, str], base: Path | None) -> tuple[str, ...]:
    # Without white space, so that another indentation or a formatter's run makes no new finding.
    line = "".join(line_of(place, texts).split())
    return finding.code, relative(place.file, base), line or kind(finding)


def _numbered(found: Iterable[Reported]) -> list[Reported]:
    """The same line twice in a file is two findings: number what would else have the same identity."""
    seen: Counter[tuple[str, ...]] = Counter()
    numbered = []
    for one in found:
        number = seen[one.identity]
        seen[one.identity] += 1
        numbered.append(replace(one, identity=(*one.identity, str(number))) if number else one)
    return numbered


def _looked(
    check: CheckResult, subject: str, counted: Sequence[Finding], accepted: Sequence[Finding], file: str = ""
) -> Looked:
    notes = (*(clear.message for clear in check.clears), *(note.reason for note in check.abstentions))
    return Looked(
        subject,
        check.code,
        check.name,
        check.state,
        notes,
        check.error,
        tuple(finding for finding in counted if finding.code == check.code),
        tuple(finding for finding in accepted if finding.code == check.code),
        file,
    )


def _own_file(result: RunResult) -> Place | None:
    """The run file, or the program's script: GitHub takes no finding without a file."""
    words = result.spec.loop.words if result.spec and result.spec.loop else ()
    files = [result.spec.source if result.spec else "", *(word for word in words if word.endswith(".py"))]
    return next((Place(file, 1) for file in files if file and Path(file).is_file()), None)


def _recording(episode: Episode | None) -> Place | None:
    source = episode.source if episode is not None else ""
    return Place(source, 1) if source and Path(source).is_file() else None


def _last_line(error: str) -> str:
    return error.strip().rpartition("\n")[2]
