"""Linting paths: which files are read, where a program is followed from, and what the checks say of it."""

from __future__ import annotations

import ast
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vladoctor.check import Check
from vladoctor.diagnosis import SourceDiagnosis, diagnose_source
from vladoctor.lint import roots
from vladoctor.lint.facts import SourceFacts
from vladoctor.lint.interpret import SECONDS, Interpreter, OutOfBudget
from vladoctor.lint.read import loops
from vladoctor.lint.result import LintResult, Skipped
from vladoctor.lint.sources import SourceFile, Sources, absolute, imports, may_lead, may_matter, parse, read_bytes, walk
from vladoctor.places import Place
from vladoctor.profiles.files import load_profile

PER_FILE = 1.0
"""Seconds of computing for one file, whatever stands in it."""


def lint_paths(
    paths: Sequence[Path],
    checks: Sequence[Check],
    thresholds: Mapping[str, Mapping[str, float]] | None = None,
    root: Path | None = None,
    profile_of: Callable[[str], str] | None = None,
    excluded: Callable[[str], bool] | None = None,
) -> LintResult:
    """Lint scripts, packages and notebooks.

    Args:
        paths: files and folders.
        checks: those whose `judge_source` is asked.
        thresholds: code -> overridden limits.
        root: the project's folder, up to which imports are looked for; by default the working folder.
        profile_of: file of a loop -> name of the profile that it is judged by, "" where that is to be inferred.
        excluded: file -> whether it is not even looked at.
    """
    reading = _Reading(root or Path.cwd(), excluded)
    facts = [_with_profile(one, profile_of) for one in reading.facts(paths)]
    diagnoses = [diagnose_source(one, checks, thresholds) for one in facts]
    diagnoses = list(_once(diagnoses))
    named = {place.file for one in diagnoses for finding in one.findings if (place := finding.place) is not None}
    named |= {hop.place.file for one in diagnoses for f in one.findings for hop in f.trail if hop.place is not None}
    texts = {name: reading.texts[name] for name in sorted(named) if name in reading.texts}
    return LintResult(tuple(diagnoses), reading.files, tuple(reading.skipped), tuple(reading.left_out), texts=texts)


def _with_profile(facts: SourceFacts, profile_of: Callable[[str], str] | None) -> SourceFacts:
    name = profile_of(facts.place.file) if profile_of is not None else ""
    return replace(facts, profile=load_profile(name)) if name else facts


def read_paths(paths: Sequence[Path], root: Path | None = None) -> list[SourceFacts]:
    """The facts of every loop below some paths."""
    return list(_Reading(root or Path.cwd()).facts(paths))


def _once(diagnoses: Sequence[SourceDiagnosis]) -> Iterator[SourceDiagnosis]:
    """What several loops share, a helper's mistake, is reported with the first of them."""
    said: set[tuple[str, Place, str]] = set()
    for one in diagnoses:
        kept = []
        for finding in one.findings:
            key = (finding.code, finding.place or one.facts.place, finding.message)
            if key not in said:
                said.add(key)
                kept.append(finding)
        yield one if len(kept) == len(one.findings) else replace(one, findings=tuple(kept))


def _failed(file: SourceFile, error: Exception) -> Skipped:
    return Skipped(Place(str(file.path)), f"could not be followed: {type(error).__name__}: {error}")


class _Reading:
    """One run over some paths."""

    def __init__(self, root: Path, excluded: Callable[[str], bool] | None = None) -> None:
        self.sources = Sources(root)
        self.excluded = excluded or (lambda _: False)
        self.skipped: list[Skipped] = []
        self.left_out: list[Skipped] = []
        self.files = 0
        self.texts: dict[str, str] = {}
        self._matters: dict[str, bool] = {}

    def facts(self, paths: Sequence[Path]) -> Iterator[SourceFacts]:
        """Loops in the order of their files: programs first, then what no program reached."""
        named = {absolute(path) for path in paths}
        wanted = [path for path in walk(paths) if not self.excluded(str(path))]
        candidates = [file for path in wanted if (file := self._candidate(path, absolute(path) in named)) is not None]
        visited: set[int] = set()
        found: list[tuple[int, SourceFacts]] = []
        order = {absolute(file.path): index for index, file in enumerate(candidates)}
        for index, file in enumerate(candidates):
            for one in self._follow(file, visited, program=True):
                found.append((order.get(absolute(Path(one.place.file)), index), one))
        for index, file in enumerate(candidates):
            for one in self._follow(file, visited, program=False):
                found.append((order.get(absolute(Path(one.place.file)), index), one))
        seen: set[tuple[str, int]] = set()
        for _, one in sorted(found, key=lambda pair: (pair[0], pair[1].place.line)):
            if (one.place.file, one.place.line) not in seen or one.kind == "loop":
                seen.add((one.place.file, one.place.line))
                yield one

    def _candidate(self, path: Path, named: bool) -> SourceFile | None:
        """A file that can hold a loop; of those that cannot, one that somebody named is at least parsed."""
        self.files += 1
        data = read_bytes(path)
        if isinstance(data, Skipped):
            self.skipped.append(data)
            return None
        matters = may_matter(data) or (may_lead(data) and self._leads(path, data))
        if not matters and not named:
            return None
        file = parse(path, data)
        if isinstance(file, Skipped):
            self.skipped.append(file)
            return None
        self.left_out += file.left_out
        if not matters:
            return None
        self.sources.add(file)
        return file

    def _leads(self, path: Path, data: bytes) -> bool:
        """Whether a program imports a module of the project that can hold a loop."""
        draft = SourceFile(path, "", ast.Module([], []))
        for name, level in imports(data):
            found = self.sources.find(name, draft, level)
            if found is None:
                continue
            key = str(found)
            if key not in self._matters:
                text = read_bytes(found)
                self._matters[key] = isinstance(text, bytes) and may_matter(text)
            if self._matters[key]:
                return True
        return False

    def _follow(self, file: SourceFile, visited: set[int], program: bool) -> Iterator[SourceFacts]:
        deadline = time.process_time() + PER_FILE
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's, of numbers that are the program's
            yield from self._entries(file, visited, program, deadline)

    def _entries(self, file: SourceFile, visited: set[int], program: bool, deadline: float) -> Iterator[SourceFacts]:
        entries = roots.programs(file) if program else roots.parts(file, visited)
        for entry in entries:
            left = deadline - time.process_time()
            if left <= 0.02:
                return
            interp = Interpreter(self.sources, min(left, SECONDS))
            try:
                entry(interp)
            except (OutOfBudget, RecursionError):
                pass  # what was seen until then is judged
            except Exception as error:  # noqa: BLE001 - a mistake of ours in one file is said, and ends no run
                self.skipped.append(_failed(file, error))
                continue
            visited |= interp.visited
            self.texts.update({path: one.text for path, one in interp.files.items()})
            try:
                found = loops(interp)
            except Exception as error:  # noqa: BLE001 - likewise
                self.skipped.append(_failed(file, error))
                continue
            yield from found
