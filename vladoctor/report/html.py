"""One self-contained HTML page per run: the verdict, the episodes, and for each what broke first, with what was seen.

The page is made to be attached to an issue: no script, no network (a content security policy in it says so to the
browser), everything inlined, the same bytes for the same run. What grows with the number of episodes is bounded: past
`DETAILED` episodes only the row in the table remains.
"""

from __future__ import annotations

import base64
import io
import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

from vladoctor import __version__
from vladoctor.check import Severity, all_checks
from vladoctor.diagnosis import CheckResult, Diagnosis, Finding, RunDiagnosis
from vladoctor.facts import registration
from vladoctor.facts.coverage import PARTLY, SEEN, UNSEEN, Coverage
from vladoctor.records import Episode, Frame
from vladoctor.report import acquittal, markup, seen
from vladoctor.report.json import CONFIDENCE, success_interval, trials, write_atomically
from vladoctor.report.reported import short_way, shown
from vladoctor.report.seen import INCLUDED
from vladoctor.report.svg import Mark, Series, line_chart, number
from vladoctor.result import RunResult

DETAILED = 20
"""Episodes shown in full; about 0.25 MB each."""

STRIP = 9
STRIP_PIXELS = 96
FRAME_PIXELS = 288

DIMENSIONS = ("Δx", "Δy", "Δz", "Δroll", "Δpitch", "Δyaw", "gripper")

NOTABLE = ("vladoctor", "torch", "transformers", "robosuite", "mujoco")

SEVERITIES = {
    Severity.STOP: "the numbers of this run mean nothing",
    Severity.FIX: "it costs success",
    Severity.LOOK: "it may be meant",
}

ENDINGS = {
    "success": "success",
    "horizon": "horizon reached",
    "exception": "ended by an exception",
    "interrupted": "interrupted",
}


def write_html(result: RunResult, path: Path) -> None:
    """Write the page of a run to `path`, in one piece or not at all."""
    write_atomically(path, render(result).encode("utf-8", "backslashreplace").decode("utf-8"))


def render(result: RunResult) -> str:
    """The page of a run as text; the same for the same run."""
    numbered = list(enumerate(result.diagnoses, 1))
    shown = _chosen(result.diagnoses)
    details = [_episode(number, diagnosis, result.folder) for number, diagnosis in numbered if number in shown]
    details.sort(key=lambda episode: shown.index(episode["number"]))
    opened: set[str] = set()
    for episode in details:
        # One of a kind stands open; twenty episodes with the same finding are not twenty things to read.
        episode["open"] = episode["kind"] != "" and episode["kind"] not in opened
        opened.add(episode["kind"])
    if details and opened == {""}:
        details[0]["open"] = True
    codes = sorted({finding.code for finding in result.findings})
    return (
        _environment()
        .get_template("page.html.jinja")
        .render(
            version=__version__,
            verdict=_verdict(result),
            notices=_notices(result),
            rate=_success_rate(result.diagnoses),
            facts=_facts(result),
            versions=_flat(result.run.get("versions")),
            notable=[entry for entry in _flat(result.run.get("versions")) if entry[0] in NOTABLE],
            against=_against(result),
            seen=_seen(result),
            processes=seen.processes(seen.program(result) or {}),
            chain=acquittal.stages(result),
            healthy=not codes,
            overall=_overall(result),
            rows=[_row(number, diagnosis, number in shown) for number, diagnosis in numbered],
            details=details,
            hidden=len(numbered) - len(shown),
            pages=[
                (check, markup.prose(check.page.strip().removeprefix(check.summary), "h3"))
                for check in all_checks()
                if check.code in codes and check.page
            ],
            spec=_spec_text(result.spec.to_json() if result.spec else result.run.get("spec")),
            exit_status=result.exit_status,
        )
    )


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vladoctor.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        place=shown,
        way=short_way,
        prose=markup.prose,
        inline=markup.inline,
        value=markup.value,
        plain=markup.plain,
        visible=markup.visible,
    )
    environment.globals.update(severities=SEVERITIES)
    return environment


# The run


@dataclass(frozen=True)
class Verdict:
    """The page's first sentence; `tone` is a severity, "ok" or "none" (no verdict)."""

    tone: str
    sentence: str
    more: Sequence[str] = ()
    finding: Finding | None = None
    target: int | None = None


def _verdict(result: RunResult) -> Verdict:
    diagnoses = result.diagnoses
    total = len(diagnoses)
    if not diagnoses:
        return Verdict("none", "No episode was recorded, so nothing can be said about this loop.")
    episodes = "1 episode" if total == 1 else f"{total} episodes"
    headlines = [diagnosis.headline for diagnosis in diagnoses if diagnosis.headline]
    overall = result.overall.headline
    incomplete = sum(1 for diagnosis in diagnoses if diagnosis.evidence_missing or diagnosis.crashed)
    if not headlines and overall is not None:
        return _of_the_run(overall, episodes)
    if not headlines:
        if result.failed:
            return Verdict("none", f"The run broke off; in {episodes} recorded there is no finding.")
        if result.incomplete:
            return Verdict(
                "none",
                f"No finding in {episodes}, but in {incomplete or total} of them not all could be looked at.",
            )
        return _acquittal(result)
    counts = Counter(headline.code for headline in headlines)
    grades = list(Severity)
    gravest = {code: min(grades.index(h.severity) for h in headlines if h.code == code) for code in counts}
    code = min(counts, key=lambda code: (gravest[code], -counts[code], code))
    finding = next(headline for headline in headlines if headline.code == code)
    target = next(n for n, diagnosis in enumerate(diagnoses, 1) if diagnosis.headline is finding)
    what = _brief(finding.message, 130)
    advice = "Look at this first." if finding.severity is Severity.LOOK else "Fix this first."
    if finding.about_evidence:
        advice = "So not everything could be judged."
    more = [
        f"{counts[other]} of {episodes} otherwise: {other} "
        + next(headline.name for headline in headlines if headline.code == other)
        for other in sorted(counts, key=lambda other: (gravest[other], -counts[other], other))
        if other != code
    ]
    if len(headlines) < total:
        more.append(f"{total - len(headlines)} of {episodes} without a finding")
    if overall is not None:
        more.append(f"over the run as a whole: {overall.code} {overall.name}")
    return Verdict(
        finding.severity.value,
        f"{counts[code]} of {episodes}: {_lower_first(what)} ({code}). {advice}",
        more,
        finding,
        target,
    )


def _of_the_run(finding: Finding, episodes: str) -> Verdict:
    """The verdict where no episode shows anything, and all of them together do."""
    advice = "Look at this first." if finding.severity is Severity.LOOK else "Fix this first."
    sentence = f"The run as a whole: {_lower_first(_brief(finding.message, 130))} ({finding.code}). {advice}"
    return Verdict(finding.severity.value, sentence, [f"{episodes} without a finding"], finding)


def _acquittal(result: RunResult) -> Verdict:
    """The verdict where nothing was found: the whole loop is acquitted only if every stage of it was judged."""
    if result.accepted:
        known = ", ".join(sorted({finding.code for _, finding in result.accepted}))
        return Verdict("none", f"Nothing but what the baseline accepts: {known}.", [_coverage(result.diagnoses)])
    found = acquittal.stages(result)
    if acquittal.acquitted(result, found):
        return Verdict("ok", f"Healthy: {acquittal.ACQUITTED}.", [_coverage(result.diagnoses)])
    return Verdict(
        "ok",
        "Nothing wrong in what was looked at.",
        [_coverage(result.diagnoses), acquittal.lacking(result, found)],
    )


def _coverage(diagnoses: Sequence[Diagnosis]) -> str:
    """How much stands behind a healthy verdict."""
    results = [result for diagnosis in diagnoses for result in diagnosis.results if not result.about_evidence]
    codes = {result.code for result in results}
    passed = {result.code for result in results if result.state == "passed"}
    silent = f"; {len(codes - passed)} had nothing to say" if codes - passed else ""
    return f"{len(passed)} of {len(codes)} checks found what they looked at right{silent}"


def _lower_first(text: str) -> str:
    first = text.split(" ", 1)[0]
    return text[0].lower() + text[1:] if first in _SENTENCE_STARTS else text


_SENTENCE_STARTS = (
    "A",
    "All",
    "An",
    "At",
    "Each",
    "Every",
    "In",
    "It",
    "Its",
    "No",
    "Not",
    "Nothing",
    "One",
    "The",
    "There",
    "This",
)


def _brief(message: str, limit: int) -> str:
    """A message's first sentence; of a long one what stands before its first semicolon or colon."""
    text = markup.first_sentence(message)
    for stop in ("; ", ": "):
        if len(text) > limit:
            text = text.split(stop, 1)[0]
    return _short(text, limit)


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[:limit].rsplit(" ", 1)[0] + " …"


def _notices(result: RunResult) -> list[tuple[str, str]]:
    """(what, sentence): what a reader must know before any number."""
    notices = []
    fault = result.run.get("fault")
    if fault:
        notices.append((f"Fault injected: {fault}", "This loop was changed on purpose, to see what that does."))
    assets = result.run.get("assets") or {}
    if assets.get("kind") not in (None, "real"):
        notices.append((f"Assets: {assets['kind']}", str(assets.get("note") or "")))
    notices += [("The run is not complete", failure) for failure in result.failures]
    notices += [("Note", note) for note in result.notes]
    crashed = Counter(f"{check.code} {check.name}" for diagnosis in result.diagnoses for check in diagnosis.crashed)
    notices += [
        (f"{check} crashed", f"In {count} of {len(result.diagnoses)} episodes; a crash is neither a pass nor a finding")
        for check, count in sorted(crashed.items())
    ]
    notices += [
        (f"{check.code} {check.name} crashed", "Over the run; a crash is neither a pass nor a finding")
        for check in result.overall.crashed
    ]
    return notices


def _success_rate(diagnoses: Sequence[Diagnosis]) -> Mapping[str, Any] | None:
    counted = trials(diagnoses)
    successes = sum(diagnosis.episode.outcome.success for diagnosis in counted)
    interval = success_interval(successes, len(counted))
    if interval is None:
        return None
    return {
        "successes": successes,
        "total": len(counted),
        "rate": 100 * successes / len(counted),
        "low": 100 * interval[0],
        "high": 100 * interval[1],
        "confidence": round(100 * CONFIDENCE),
        "left_out": len(diagnoses) - len(counted),
    }


def _facts(result: RunResult) -> list[tuple[str, str, str]]:
    """(label, value, note) of what was run."""
    run = result.run
    checkpoint = run.get("checkpoint") or {}
    tasks = [diagnosis.episode.task for diagnosis in result.diagnoses]
    suites = sorted({str(task["suite"]) for task in tasks if task.get("suite")})
    ids = sorted({str(task.get("task_id", "?")) for task in tasks}, key=lambda task: (len(task), task))
    environments = sorted({str(task["environment"]) for task in tasks if task.get("environment")})
    instructions = len({task.get("language") for task in tasks})
    asked = f"task {', '.join(ids)}" + (f", {instructions} instructions" if instructions > len(ids) else "")
    profile = run.get("profile") or {}
    assets = run.get("assets") or {}
    parameters = checkpoint.get("parameters")
    size = f"{parameters / 1e9:.2f} B parameters" if parameters and parameters >= 1e8 else None
    if parameters and size is None:
        size = f"{parameters / 1e6:.1f} M parameters"
    key = checkpoint.get("unnorm_key")
    model_notes = [checkpoint.get("model_type"), size, checkpoint.get("dtype"), f"unnorm_key {key}" if key else None]
    device = run.get("device")
    facts = [
        ("Model", str(checkpoint.get("name") or "not recorded"), ", ".join(str(note) for note in model_notes if note)),
        ("Suite", ", ".join(suites), asked)
        if suites or not environments
        else ("Environment", ", ".join(environments), ""),
        ("Profile", str(profile.get("name") or "none"), ""),
    ]
    program = seen.program(result)
    if program is not None:
        ended = f"ended by {program['signal']}" if program.get("signal") else f"exit status {program.get('status')}"
        facts.insert(0, ("Program", seen.command_line(program.get("command", ())), ended))
    else:
        facts += [
            (
                "Assets",
                {"real": "real (LIBERO's own)"}.get(str(assets.get("kind")), str(assets.get("kind") or "not recorded")),
                str(assets.get("note") or "") if assets.get("kind") == "real" else "",
            ),
            ("Fault injected", str(run.get("fault") or "none"), ""),
        ]
    if device:
        facts.append(("Device", markup.value(device), ""))
    return facts


def _against(result: RunResult) -> tuple[str, str]:
    """(profile, why it and no other); ("", "") where there was nothing to compare."""
    profile = result.run.get("profile") or {}
    return (str(profile.get("name") or ""), str(profile.get("reason") or "")) if result.diagnoses else ("", "")


_STATES = {SEEN: "seen", PARTLY: "partly", UNSEEN: "not seen"}


def _seen(result: RunResult) -> Mapping[str, Any]:
    """What was seen of each stage, how the stages hang together, and what the taps cost."""
    covered = seen.of_run(result.diagnoses)
    cost = seen.cost(diagnosis.episode for diagnosis in result.diagnoses)
    whys = ["", *(one.why for one in covered)]
    return {
        "rows": [
            (one, _STATES[one.state], _brief_count(one), "the same" if one.why and one.why == before else one.why)
            for one, before in zip(covered, whys, strict=False)
        ],
        "cost": cost.sentence if cost else "",
        "budget": seen.budget_in_words(result.run.get("budget")),
        "links": _common([diagnosis.links for diagnosis in result.diagnoses]),
    }


def _brief_count(one: Coverage) -> str:
    return f"{one.steps} of {one.total} {one.unit}" if one.total else ""


def _common(told: Sequence[Sequence[str]]) -> Sequence[str]:
    """Of one episode all sentences; of several those stand with the episodes."""
    return told[0] if len(told) == 1 else ()


def _flat(mapping: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    return [(str(key), markup.value(item)) for key, item in (mapping or {}).items()]


def _spec_text(spec: Any) -> str:
    """The resolved run.yaml; JSON, which is YAML too."""
    return json.dumps(spec, indent=2, default=str, ensure_ascii=False) if spec else ""


# The episodes


def _chosen(diagnoses: Sequence[Diagnosis]) -> list[int]:
    """Numbers of the episodes to show in full, in the order in which to show them.

    Broken ones come before healthy ones, and each kind of breakage before a second one of the same kind.
    """
    seen: Counter[str] = Counter()
    keys = {}
    for number_, diagnosis in enumerate(diagnoses, 1):
        kind = _kind(diagnosis)
        keys[number_] = (not kind, seen[kind] if kind else int(diagnosis.episode.outcome.success), number_)
        seen[kind] += 1
    return sorted(keys, key=keys.__getitem__)[:DETAILED]


def _kind(diagnosis: Diagnosis) -> str:
    """What sets a broken episode apart from others; "" for a healthy one."""
    if diagnosis.headline:
        return diagnosis.headline.code
    if diagnosis.crashed or diagnosis.episode.outcome.ended in ("exception", "interrupted"):
        return diagnosis.episode.outcome.ended
    return ""


def _row(number_: int, diagnosis: Diagnosis, linked: bool) -> Mapping[str, Any]:
    episode, headline = diagnosis.episode, diagnosis.headline
    return {
        "number": number_,
        "task": episode.task,
        "title": _title(episode),
        "outcome": episode.outcome,
        "ended": ENDINGS.get(episode.outcome.ended, episode.outcome.ended),
        "headline": headline,
        "sentence": _brief(headline.message, 160) if headline else "",
        "more": sum(not finding.explained_by for finding in diagnosis.findings) - 1,
        "crashed": len(diagnosis.crashed),
        "missing": len(diagnosis.evidence_missing),
        "linked": linked,
    }


def _title(episode: Episode) -> str:
    """ "task 0, init state 30", or an episode's name, where a task has no number."""
    task, state = episode.task.get("task_id"), episode.task.get("init_state")
    if task is None:
        return episode.name
    return f"task {task}" + (f", init state {state}" if state is not None else "")


def _episode(number_: int, diagnosis: Diagnosis, folder: Path | None) -> dict[str, Any]:
    episode = diagnosis.episode
    return {
        **_row(number_, diagnosis, True),
        "kind": _kind(diagnosis),
        "asked": _short(str(episode.task.get("language", "")), 60),
        "name": episode.name,
        "truncated": episode.truncated,
        "source": _source(episode, folder),
        "findings": _findings(diagnosis),
        "checks": _checks(diagnosis),
        "missing_reasons": diagnosis.evidence_missing,
        "links": diagnosis.links,
        "notes": episode.notes,
        "strip": _strip(diagnosis),
        "camera": next(iter(_cameras(episode)), ""),
        "actions": _action_charts(diagnosis),
        "tokens": _token_charts(diagnosis),
        "marks": _marks(diagnosis),
        "events": _events(episode),
        "timings": _timings(episode),
        "memory": _memory(episode),
        "action_unit": "1 is 5 cm or 0.5 rad" if str(episode.task.get("suite", "")).startswith("libero") else "",
    }


def _source(episode: Episode, folder: Path | None) -> str:
    """The trace's place below the report's folder; never a path of the machine that made it."""
    if not episode.source:
        return ""
    source = Path(episode.source)
    if folder is not None:
        try:
            return source.resolve().relative_to(folder.resolve()).as_posix()
        except ValueError:
            pass
    return source.name


def _overall(result: RunResult) -> Mapping[str, Any]:
    """What the episodes say together."""
    return {"findings": _findings(result.overall), "checks": _checks(result.overall)}


def _findings(diagnosis: Diagnosis | RunDiagnosis) -> list[dict[str, Any]]:
    """Root causes in order, each with its consequences."""
    roots: list[dict[str, Any]] = []
    episode = getattr(diagnosis, "episode", None)
    for finding in diagnosis.findings:
        view = {
            "finding": finding,
            "frames": [_picture(episode, dict(frame)) for frame in finding.frames] if episode is not None else [],
            "evidence": _evidence(finding),
            "page": any(check.code == finding.code and check.page for check in all_checks()),
            "consequences": [],
        }
        root = next((root for root in reversed(roots) if root["finding"].code == finding.explained_by), None)
        (root["consequences"] if root else roots).append(view)
    return roots


def _evidence(finding: Finding) -> Mapping[str, Any]:
    known = ("diff", "expected", "seen", "per_dimension")
    evidence = {key: markup.plain(item) for key, item in finding.evidence.items()}
    diff = evidence.get("diff")
    table = {str(name): markup.plain(row) for name, row in (evidence.get("per_dimension") or {}).items()}
    rows = {name: row if isinstance(row, list | tuple) else [row] for name, row in table.items()}
    width = max((len(row) for row in rows.values()), default=0)
    return {
        "diff": markup.difference(diff) if diff else None,
        "expected": None if diff else evidence.get("expected"),
        "seen": None if diff else evidence.get("seen"),
        "dimensions": DIMENSIONS if width == len(DIMENSIONS) else tuple(str(index) for index in range(width)),
        "per_dimension": {name: [*row, *[""] * (width - len(row))] for name, row in rows.items()},
        "rest": [(key.replace("_", " "), markup.value(item)) for key, item in evidence.items() if key not in known],
    }


def _checks(diagnosis: Diagnosis | RunDiagnosis) -> Mapping[str, Any]:
    """What each check said, apart from its findings."""
    said: list[tuple[str, CheckResult, str, str]] = []
    for result in diagnosis.results:
        if result.error:
            said.append(("crashed", result, result.error, ""))
        said += [
            ("no evidence" if abstention.missing else "abstained", result, abstention.reason, "")
            for abstention in result.abstentions
        ]
        said += [("right", result, clear.message, markup.value(clear.evidence)) for clear in result.clears]
    order = ("crashed", "no evidence", "abstained", "right")
    said.sort(key=lambda entry: order.index(entry[0]))
    states = Counter(result.state for result in diagnosis.results)
    return {"said": said, "states": [(states[s], s) for s in ("passed", "failed", "abstained", "crashed") if states[s]]}


# Pictures


@dataclass(frozen=True)
class Picture:
    """A picture to show, or why there is none. `size` is the full frame's, also where its thumbnail stands in."""

    title: str
    step: int | None
    uri: str = ""
    absent: str = ""
    pixelated: bool = False
    thumbnail: bool = False
    size: str = ""
    note: str = ""


def _picture(episode: Episode, wanted: Mapping[str, Any]) -> Picture:
    """The picture that a finding asks for; see `check.Problem.frames`."""
    step_number, title = wanted.get("step"), str(wanted.get("title") or "frame")
    camera, transform = wanted.get("camera"), str(wanted.get("transform") or "")
    step = next((step for step in episode.steps if step.number == step_number), None)
    if step is None:
        return Picture(title, step_number, absent="this step was not recorded")
    frame = (step.query.image if step.query else None) if wanted.get("model") else step.frames.get(str(camera))
    source = "model input" if wanted.get("model") else f"{camera}, raw"
    if transform and not wanted.get("model"):
        source = f"{camera}, {'as it is' if transform == 'identity' else transform}"
    return _show(frame, title, step_number, source, transform, FRAME_PIXELS)


def _show(
    frame: Frame | None, title: str, step: int | None, note: str, transform: str = "", pixels: int = FRAME_PIXELS
) -> Picture:
    if frame is None:
        return Picture(title, step, absent="not recorded", note=note)
    if transform and transform not in registration.ELEMENTS:
        return Picture(title, step, absent=f"unknown transform {transform}", note=note)
    small = pixels <= STRIP_PIXELS
    try:
        array = registration.apply(transform or "identity", frame.thumbnail if small else frame.best)
        uri = data_uri(array, pixels)
    except Exception as error:  # noqa: BLE001
        # A damaged picture in a trace must not cost the reader the rest of the report.
        return Picture(title, step, absent=f"cannot be read: {error}", note=note)
    height, width = frame.shape
    if transform in ("rot90", "rot270", "transpose", "anti-transpose"):
        height, width = width, height
    thumbnail = not small and frame.full is None
    coarse = not small and max(array.shape[:2]) < FRAME_PIXELS // 2
    return Picture(title, step, uri, "", coarse, thumbnail, f"{width} × {height}", note)


def data_uri(array: np.ndarray, pixels: int) -> str:
    """A JPEG of at most `pixels` on its longer side, as a data URI. `array`: uint8 (h, w, 3) or (h, w)."""
    picture = Image.fromarray(np.ascontiguousarray(array)).convert("RGB")
    if max(picture.size) > pixels:
        picture.thumbnail((pixels, pixels), Image.Resampling.BOX)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _cameras(episode: Episode) -> list[str]:
    return list(dict.fromkeys(name for step in episode.steps for name in step.frames))


def _strip(diagnosis: Diagnosis) -> list[dict[str, Any]]:
    """Moments of the episode, evenly spread and with the first steps of its findings: raw frame and model's image."""
    episode = diagnosis.episode
    steps = [step for step in episode.policy_steps() if step.query is not None and step.query.image is not None]
    steps = steps or [step for step in episode.policy_steps() if step.frames]
    if not steps:
        return []
    wanted = {finding.first_step: finding.code for finding in reversed(diagnosis.findings)}
    index_of = {step.number: index for index, step in enumerate(steps)}
    starts = [index_of[finding.first_step] for finding in diagnosis.findings if finding.first_step in index_of][:3]
    chosen = {len(steps) - 1, *starts}
    for near in np.linspace(0, len(steps) - 1, min(STRIP, len(steps))).round().astype(int).tolist():
        if len(chosen) < STRIP and all(abs(near - index) > len(steps) // (2 * STRIP) for index in chosen):
            chosen.add(near)
    cameras = _cameras(episode)
    moments: list[dict[str, Any]] = []
    for index in sorted(chosen):
        step = steps[index]
        image = step.query.image if step.query else None
        raw = step.frames.get(cameras[0]) if cameras else None
        moments.append(
            {
                "step": step.number,
                "code": wanted.get(step.number, ""),
                "model": _show(image, "what the model saw", step.number, "", "", STRIP_PIXELS),
                "raw": _show(raw, f"raw {cameras[0]} frame", step.number, "", "", STRIP_PIXELS) if cameras else None,
            }
        )
    return moments


# Charts


def _marks(diagnosis: Diagnosis) -> list[dict[str, Any]]:
    """Where findings begin: one entry a step."""
    starts: dict[int, list[Finding]] = {}
    for finding in diagnosis.findings:
        starts.setdefault(finding.first_step, []).append(finding)
    marks: list[dict[str, Any]] = []
    for step in sorted(starts):
        codes = ", ".join(dict.fromkeys(finding.code for finding in starts[step]))
        grave = min(starts[step], key=lambda finding: list(Severity).index(finding.severity))
        marks.append({"step": step, "codes": codes, "severity": grave.severity.value})
    return marks


def _events(episode: Episode) -> list[tuple[int, str]]:
    """(step, what) where the environment gave a reward or said done."""
    events = []
    for step in episode.policy_steps():
        said = []
        if step.reward:
            said.append(f"reward {number(float(step.reward))}")
        if step.done:
            said.append("done")
        if said:
            events.append((step.number, " and ".join(said)))
    return events


def _chart_marks(diagnosis: Diagnosis) -> list[Mark]:
    marks = [
        Mark(mark["step"], f"mark {mark['severity']}", f"{mark['codes']} from step {mark['step']}")
        for mark in _marks(diagnosis)
    ]
    return marks + [Mark(step, "event", f"{what} at step {step}", True) for step, what in _events(diagnosis.episode)]


def _action_charts(diagnosis: Diagnosis) -> list[Markup]:
    """One panel a dimension: the action that the policy returned, and the one that the environment received."""
    steps = list(diagnosis.episode.policy_steps())
    returned = [step.query.action if step.query and step.query.action is not None else () for step in steps]
    executed = [step.executed for step in steps]
    width = max((len(action) for action in [*returned, *executed]), default=0)
    names = DIMENSIONS if width == len(DIMENSIONS) else tuple(f"dimension {index}" for index in range(width))
    numbers = [step.number for step in steps]
    marks = _chart_marks(diagnosis)
    panels = []
    for index, name in enumerate(names):
        lines = [
            Series(
                label,
                style,
                numbers,
                [float(action[index]) if index < len(action) else None for action in actions],
                stepped=name == "gripper",
            )
            for label, style, actions in (("returned", "line-a", returned), ("executed", "line-b", executed))
        ]
        panels.append(line_chart(name, lines, marks=marks))
    return [panel for panel in panels if panel]


def _token_charts(diagnosis: Diagnosis) -> list[Markup]:
    """How sure the model was of its tokens, per query: its least sure token."""
    queries = list(diagnosis.episode.queries())
    numbers = [number_ for number_, _ in queries]
    marks = _chart_marks(diagnosis)
    panels = []
    for title, unit, pick, values in (
        ("least margin", "nats", min, [query.margin for _, query in queries]),
        ("largest entropy", "nats", max, [query.entropy for _, query in queries]),
        ("least mass on action ids", "0 to 1", min, [query.action_mass for _, query in queries]),
    ):
        line = [float(pick(tokens)) if len(tokens) else None for tokens in values]
        panels.append(line_chart(title, [Series("of the tokens", "line-c", numbers, line)], unit=unit, marks=marks))
    return [panel for panel in panels if panel]


def _timings(episode: Episode) -> Mapping[str, Any] | None:
    """Milliseconds per stage, over the policy's steps."""
    steps = [step for step in episode.policy_steps() if step.timings]
    stages: dict[str, list[float]] = {}
    for step in steps:
        for stage, milliseconds in step.timings.items():
            stages.setdefault(stage, []).append(float(milliseconds))
    if not stages:
        return None
    spent = {stage: sum(values) for stage, values in stages.items()}
    total = sum(time for stage, time in spent.items() if stage not in INCLUDED) or 1.0
    rows = [
        {
            "stage": stage.replace("->", " to "),
            "included": INCLUDED.get(stage, ""),
            "median": number(statistics.median(values)),
            "high": number(float(np.percentile(values, 95))),
            "share": 100 * spent[stage] / total,
        }
        for stage, values in sorted(stages.items(), key=lambda entry: entry[0] in INCLUDED)
    ]
    return {"rows": rows, "per_step": number(total / len(steps)), "steps": len(steps)}


def _memory(episode: Episode) -> list[tuple[str, str]]:
    peaks: dict[str, int] = {}
    for step in episode.steps:
        for name, size in step.memory.items():
            peaks[name] = max(peaks.get(name, 0), int(size))
    return [
        (name, f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB")
        for name, size in peaks.items()
    ]
