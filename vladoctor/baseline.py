"""Known findings that are accepted, so that only new ones count: a file that is kept beside the code.

A finding in the source is known by its check, its file and its line's text without white space; one of a run by its
check, its task and what was seen. So it stays known when lines move, and is a new one when the line changes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vladoctor.errors import UserError
from vladoctor.report.json import write_atomically
from vladoctor.report.reported import WHOLE_RUN, fingerprint, preflight_identity, run_identity

if TYPE_CHECKING:
    from vladoctor.diagnosis import Finding
    from vladoctor.preflight.result import Item, Preflight
    from vladoctor.report.reported import Report
    from vladoctor.result import RunResult

SCHEMA = "urn:vladoctor:schema:baseline:1"


@dataclass(frozen=True)
class Known:
    """One finding of a baseline; all but the fingerprint is for people."""

    fingerprint: str
    code: str
    name: str
    where: str
    message: str

    @classmethod
    def of(cls, finding: Finding, identity: tuple[str, ...]) -> Known:
        """What is kept of a finding."""
        return cls(fingerprint(identity), finding.code, finding.name, identity[1], finding.message)


def read_baseline(path: Path) -> frozenset[str]:
    """The fingerprints of a baseline.

    Raises:
        UserError: it is not there, or is none.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["schema"] != SCHEMA:
            raise ValueError("another schema")
        return frozenset(str(entry["fingerprint"]) for entry in document["findings"])
    except FileNotFoundError as error:
        raise UserError(
            "there is no such baseline",
            where=str(path),
            remedy="write it first, with the same call and --write-baseline",
        ) from error
    except OSError as error:
        raise UserError(
            f"the baseline cannot be read: {error.strerror}", where=str(path), remedy="check its permissions"
        ) from error
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(
            "this is no baseline of vladoctor", where=str(path), remedy="write it anew with --write-baseline"
        ) from error


def write_baseline(path: Path, known: Iterable[Known]) -> int:
    """Write a baseline, sorted so that it changes little; returns how many findings it holds.

    Raises:
        OSError: it cannot be written.
    """
    entries = sorted(
        {one.fingerprint: one for one in known}.values(), key=lambda one: (one.where, one.code, one.fingerprint)
    )
    document = {"schema": SCHEMA, "findings": [vars(one) for one in entries]}
    write_atomically(path, json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    return len(entries)


def known_in_source(report: Report) -> Iterator[Known]:
    """What the linter found, as a baseline holds it."""
    for one in report.found:
        yield Known.of(one.finding, one.identity)


def known_in_run(result: RunResult) -> Iterator[Known]:
    """What was found in a run, accepted or not, as a baseline holds it."""
    for diagnosis in result.diagnoses:
        for finding in diagnosis.findings:
            yield Known.of(finding, run_identity(finding, diagnosis.episode))
    for finding in result.overall.findings:
        yield Known.of(finding, run_identity(finding, None))


def known_in_preflight(done: Preflight) -> Iterator[Known]:
    """What a pre-flight found, as a baseline holds it."""
    for item in done.items:
        if item.finding is not None:
            yield Known.of(item.finding, preflight_identity(item.finding, item.what))


def accept_known_items(done: Preflight, baseline: frozenset[str]) -> Preflight:
    """The pre-flight, in which what the baseline accepts is no finding any more."""

    def accepted(item: Item) -> Item:
        known = item.finding is not None and fingerprint(preflight_identity(item.finding, item.what)) in baseline
        return item.accepted("the baseline") if known else item

    return replace(done, items=tuple(map(accepted, done.items)))


def accept_known(result: RunResult, baseline: frozenset[str]) -> RunResult:
    """The run without what the baseline accepts, which then stands in `accepted`.

    What follows from an accepted finding and is not accepted itself counts, as a root of its own.
    """
    accepted: list[tuple[str, Finding]] = []

    def kept(name: str, findings: tuple[Finding, ...], episode: object) -> tuple[Finding, ...]:
        known = [one for one in findings if fingerprint(run_identity(one, episode)) in baseline]  # type: ignore[arg-type]
        accepted.extend((name, one) for one in known)
        left = [one for one in findings if not any(one is other for other in known)]
        roots = {one.code for one in left if not one.explained_by}
        gone = {one.code for one in known} - roots
        return tuple(replace(one, explained_by="") if one.explained_by in gone else one for one in left)

    diagnoses = [replace(one, findings=kept(one.episode.name, one.findings, one.episode)) for one in result.diagnoses]
    overall = replace(result.overall, findings=kept(WHOLE_RUN, result.overall.findings, None))
    if not accepted:
        return result
    count = len(accepted)
    note = (
        f"{count} finding{'s' if count > 1 else ''} that the baseline accepts {'are' if count > 1 else 'is'} left out"
    )
    return replace(
        result,
        diagnoses=diagnoses,
        overall=overall,
        accepted=(*result.accepted, *accepted),
        notes=(*result.notes, note),
    )
