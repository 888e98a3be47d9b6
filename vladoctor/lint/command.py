"""`vladoctor lint` without its command line: settings to checks, the engine, what is accepted, what is mended."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vladoctor.baseline import known_in_source, read_baseline, write_baseline
from vladoctor.check import Check, all_checks
from vladoctor.diagnosis import Finding, SourceDiagnosis, diagnose_source
from vladoctor.errors import UserError
from vladoctor.lint.cells import is_notebook
from vladoctor.lint.config import LintConfig
from vladoctor.lint.fixes import Mended, plan_fixes
from vladoctor.lint.result import LintResult
from vladoctor.lint.run import lint_paths
from vladoctor.lint.suppress import Ignores, matches
from vladoctor.profiles import load_profile
from vladoctor.report.reported import BASELINE, COMMENT, CONFIGURATION, Report, Trouble, of_lint

ROUNDS = 10
"""A fix can uncover another one; more rounds than this are two that undo each other."""


@dataclass(frozen=True)
class Linted:
    """Paths, linted, with everything that people accept taken into account.

    Attributes:
        report: as every format is made from it.
        exit_status: of the result, and 1 where comments accept nothing.
    """

    result: LintResult
    report: Report

    @property
    def exit_status(self) -> int:
        return self.result.exit_status or (1 if self.report.warnings else 0)


def lint(paths: Sequence[Path], config: LintConfig, *, baseline: bool = True) -> Linted:
    """Read the paths, judge the loops in them, and leave out what is accepted.

    Args:
        baseline: whether to use the settings' baseline.

    Raises:
        UserError: a path is not there, or the baseline or a profile is none.
    """
    for path in paths:
        if not path.exists():
            raise UserError(
                "there is no such file or folder", where=str(path), remedy="name a script, notebook or folder"
            )
    checks = selected(config)
    found = judge(paths, checks, config.thresholds, config.root, config.profile_of, config.excluded)
    return accept(found, config, checks, baseline=baseline)


def judge(
    paths: Sequence[Path],
    checks: Sequence[Check],
    thresholds: Mapping[str, Mapping[str, float]],
    root: Path,
    profile_of: Callable[[str], str],
    excluded: Callable[[str], bool] | None = None,
) -> LintResult:
    """What the engine finds, held against another profile where one is named.

    Args:
        profile_of: file of a loop -> the profile that is wanted for it, or "".
        excluded: file -> whether the settings leave it out.

    Raises:
        UserError: a profile is none.
    """
    result = lint_paths(paths, checks, thresholds, root, excluded=excluded)
    loops = []
    for loop in result.loops:
        name = profile_of(loop.facts.place.file)
        if name and name != loop.facts.profile.name:
            loop = diagnose_source(replace(loop.facts, profile=load_profile(name)), checks, thresholds)
        loops.append(loop)
    named = {finding.place.file for loop in loops for finding in loop.findings if finding.place is not None}
    return replace(result, loops=loops, texts={**_read(named - {*result.texts}), **result.texts})


def selected(config: LintConfig) -> list[Check]:
    """The checks that read source and are wanted."""

    def named(check: Check, written: Sequence[str]) -> bool:
        return any(matches(one, check.code, check.name) for one in written)

    wanted = [check for check in all_checks() if not config.select or named(check, config.select)]
    return [check for check in wanted if check.judge_source and not named(check, config.ignore)]


def accept(found: LintResult, config: LintConfig, checks: Sequence[Check], *, baseline: bool = True) -> Linted:
    """The result without what a comment, the settings or the baseline accept."""
    result = replace(found, fail_on=config.fail_on, texts=_whole_texts(found.texts))
    ignores = Ignores(result.texts)
    accepted: dict[int, str] = {id(finding): COMMENT for finding in result.suppressed}
    everything: dict[int, Finding] = {id(finding): finding for finding in result.suppressed}
    for loop, finding in _findings(result):
        place = finding.place or loop.facts.place
        everything[id(finding)] = finding
        if ignores.accept(finding.code, finding.name, place):
            accepted[id(finding)] = COMMENT
        elif any(matches(written, finding.code, finding.name) for written in config.ignored(place.file)):
            accepted[id(finding)] = CONFIGURATION
    result = replace(result, suppressed=[everything[key] for key in accepted])
    base = config.baseline.parent if config.baseline else config.root
    report = of_lint(result, accepted, base=base)
    if baseline and config.baseline is not None:
        known = read_baseline(config.baseline)
        same = {
            (one.finding.code, one.place, one.finding.message) for one in report.counted if one.fingerprint in known
        }
        for loop, finding in _findings(result):
            if (finding.code, finding.place or loop.facts.place, finding.message) in same:
                accepted[id(finding)] = BASELINE
        result = replace(result, suppressed=[everything[key] for key in accepted])
        report = of_lint(result, accepted, base=base)
    if config.warn_unused_ignores:
        files = {loop.facts.place.file for loop in result.loops} | {
            file for loop in result.loops for file in _followed(loop)
        }
        texts = {**_read(files), **result.texts}
        every = Ignores(texts)
        for loop, finding in _findings(result):
            every.accept(finding.code, finding.name, finding.place or loop.facts.place)
        unused = every.unused(sorted(texts), [(check.code, check.name) for check in checks])
        report = replace(report, warnings=[Trouble(what, place) for place, what in unused])
    return Linted(result, report)


def write_known(linted: Linted, file: Path) -> int:
    """Write what was found as the baseline; returns how much that is."""
    return write_baseline(file, known_in_source(replace(linted.report, found=linted.report.counted)))


def plan(linted: Linted, *, unsafe: bool = False) -> Mended:
    """What the fixes of everything that counts would make of the files."""
    return plan_fixes((one.finding for one in linted.report.counted), linted.result.texts, unsafe=unsafe)


def mend(paths: Sequence[Path], config: LintConfig, linted: Linted, *, unsafe: bool = False) -> tuple[Linted, Mended]:
    """Mend the files, and lint again until nothing is left to mend.

    Raises:
        OSError: a file cannot be written.
    """
    done = Mended()
    for _ in range(ROUNDS):
        planned = plan(linted, unsafe=unsafe)
        done.refused = planned.refused
        if not planned.files:
            break
        planned.write()
        done.fixed += planned.fixed
        for file, (before, after) in planned.files.items():
            done.files[file] = (done.files[file][0] if file in done.files else before, after)
        linted = lint(paths, config)
    return linted, done


def _findings(result: LintResult) -> list[tuple[SourceDiagnosis, Finding]]:
    return [(loop, finding) for loop in result.loops for finding in loop.findings]


def _followed(loop: SourceDiagnosis) -> Sequence[str]:
    return tuple(getattr(loop.facts, "files", ()))


def _whole_texts(texts: Mapping[str, str]) -> dict[str, str]:
    """The texts, of notebooks as they stand in the file: places count in their cells."""
    return {**texts, **_read(file for file in texts if is_notebook(file))}


def _read(files: Iterable[str]) -> dict[str, str]:
    found = {}
    for file in files:
        try:
            found[file] = Path(file).read_text(encoding="utf-8")
        except (OSError, UnicodeError):
            continue
    return found
