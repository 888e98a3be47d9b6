"""What a test says of a run: the failure's text with its evidence, JUnit's properties, a line for the summary.

Everything is made from the run report (`vladoctor.report.json`), so that a run which another process made is told in
the same words.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vladoctor.check import Severity, Stage
from vladoctor.diagnosis import Finding

if TYPE_CHECKING:
    from vladoctor.records import Episode

Report = Mapping[str, Any]
Found = list[tuple[Mapping[str, Any] | None, Finding]]
"""(episode of the report, or None for the run as a whole; what was found)."""

NO_QUERY = (
    "an environment was stepped, but no policy was asked that vladoctor knows, so that nothing can be said of one; "
    "name yours with `run.asked(...)` (docs/policies.md), or look whether the test asks it inside of the block"
)


def findings(report: Report, ignore: Sequence[str] = ()) -> Found:
    """All findings, of each episode and then of the run as a whole."""
    found: Found = [(episode, finding(one)) for episode in report["episodes"] for one in episode["findings"]]
    found += [(None, finding(one)) for one in report["overall"]["findings"]]
    return [(episode, one) for episode, one in found if not named(one.code, one.name, ignore)]


def finding(data: Mapping[str, Any]) -> Finding:
    """A finding as it was before `Finding.to_json`, but for its places in the source."""
    return Finding(
        code=data["code"],
        name=data["name"],
        stage=Stage(data["stage"]),
        severity=Severity(data["severity"]),
        first_step=data["first_step"],
        last_step=data["last_step"],
        message=data["message"],
        remedy=data["remedy"],
        evidence=data["evidence"],
        frames=tuple(data["frames"]),
        explained_by=data["explained_by"] or "",
        whole_run=data["scope"] == "run",
    )


def named(code: str, name: str, codes: Sequence[str]) -> bool:
    """Whether a check is among these: by its code, its name or the beginning of its code."""
    return any(name == one or (one[2:].isdigit() and code.startswith(one.upper())) for one in codes)


def grave(found: Found, fail_on: str) -> Found:
    """Those that fail a test."""
    return [(episode, one) for episode, one in found if one.severity.at_least(Severity(fail_on))]


def broken(report: Report) -> list[str]:
    """What kept the run from being judged as a whole: failures, exceptions of the loop, checks that crashed."""
    said = [str(failure) for failure in report["failures"]]
    for episode in report["episodes"]:
        if episode["outcome"] == "exception":
            said.append(f"{episode['name']}: the loop raised an exception: {episode['error'] or 'no message'}")
        said += [f"{episode['name']}: {text}" for text in map(crash, episode["checks"]) if text]
    return said + [text for text in map(crash, report["overall"]["checks"]) if text]


def crash(check: Mapping[str, Any]) -> str:
    """What a check raised; empty if it did not."""
    if check["state"] != "crashed":
        return ""
    last = str(check["error"] or "").strip().rpartition("\n")[2]
    return f"{check['code']} {check['name']} crashed, which is a defect of vladoctor: {last}"


def unseen(report: Report, ignore: Sequence[str] = ()) -> list[str]:
    """What could not be judged because it was not recorded, a sentence each."""
    said: dict[str, None] = {}

    def add(missing: Sequence[str]) -> None:
        said.update((text, None) for text in missing if not named(*_code_and_name(text), ignore))

    for episode in report["episodes"]:
        add(episode["missing"])
        if episode["outcome"] == "interrupted":
            said[f"{episode['name']}: the recording ends before the episode does"] = None
        if not any(check["state"] in ("passed", "failed") for check in episode["checks"]):
            said[f"{episode['name']}: no check could judge anything"] = None
    add(report["overall"]["missing"])
    return list(said)


def _code_and_name(text: str) -> tuple[str, str]:
    words = text.partition(":")[0].split(" ", 1)
    return words[0], words[-1]


def explain(found: Found, folder: Path, *, episodes: Sequence[Episode] = (), most: int = 5) -> str:
    """Findings as text with their evidence, root causes first, and the pictures that they name, which are written.

    Args:
        folder: of the run; traces are looked for in it.
        episodes: as recorded, where they are at hand.
        most: how many are told in full.
    """
    from vladoctor.report.terminal import finding_text

    groups: dict[str, Found] = {}
    for episode, one in found:
        groups.setdefault(one.code, []).append((episode, one))
    roots = [group for group in groups.values() if not all(one.explained_by for _, one in group)] or [*groups.values()]
    lines: list[str] = []
    for group in roots[:most]:
        episode, one = next(((e, f) for e, f in group if not f.explained_by), group[0])
        where = f" in {episode['name']}" if episode else " in the run as a whole"
        follows = f", which follows from {one.explained_by}" if one.explained_by else ""
        lines += ["", f"{one.code} {one.name}{where}{follows}", *indented(finding_text(one))]
        others = list(dict.fromkeys(e["name"] for e, _ in group if e and e is not episode))
        if others:
            more = f" and {len(others) - 3} more" if len(others) > 3 else ""
            lines.append(f"    also in {', '.join(others[:3])}{more}")
        if episode is not None and one.frames:
            recorded = next((each for each in episodes if each.name == episode["name"]), None)
            lines += indented("\n".join(pictures(one, episode, folder, recorded)))
    rest = [group[0][1] for group in groups.values() if group not in roots[:most]]
    for one in rest:
        lines.append(
            f"and {one.code} {one.name}" + (f", which follows from {one.explained_by}" if one.explained_by else "")
        )
    return "\n".join(lines)


def indented(text: str, width: int = 4) -> list[str]:
    """Its lines, moved to the right."""
    return [f"{' ' * width}{line}".rstrip() for line in text.splitlines()]


def pictures(one: Finding, told: Mapping[str, Any], folder: Path, episode: Episode | None = None) -> list[str]:
    """Write the frames that a finding names as PNG; a line for each, with its path or why there is none."""
    try:
        if episode is None:
            from vladoctor.trace import read_episode

            episode = read_episode(folder / (told["trace"] or ""))
        return ["pictures:", *(_picture(one, wanted, episode, folder) for wanted in one.frames)]
    except Exception as error:  # noqa: BLE001 - a damaged picture must not cost the verdict
        return [f"pictures: none ({(str(error) or type(error).__name__).splitlines()[0]})"]


def _picture(one: Finding, wanted: Mapping[str, Any], episode: Episode, folder: Path) -> str:
    from PIL import Image

    from vladoctor.facts import registration

    title = f"{wanted.get('title') or 'frame'}, step {wanted.get('step')}"
    step = next((step for step in episode.steps if step.number == wanted.get("step")), None)
    if step is None:
        return f"  {title}: this step was not recorded"
    asked = step.query.image if step.query is not None else None
    frame = asked if wanted.get("model") else step.frames.get(str(wanted.get("camera")))
    if frame is None:
        return f"  {title}: not recorded"
    array = registration.apply(wanted.get("transform") or "identity", frame.best)
    path = folder / "frames" / f"{slug(f'{one.code}-{episode.name}-{title}')}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    frame.forget()
    return f"  {title}: {path}"


def properties(found: Found, folder: Path, report: Report, code: str = "") -> list[tuple[str, str]]:
    """What JUnit's XML is told of a test: of the first finding, whose codes there are, and where the evidence is.

    Args:
        code: of the check that the test is about, where it is about one.
    """
    said = [("vladoctor_code", code or ",".join(dict.fromkeys(one.code for _, one in found)))]
    if found:
        _, first = found[0]
        said += [("vladoctor_severity", first.severity.value), ("vladoctor_stage", first.stage.value)]
    told = [episode for episode, _ in found if episode is not None] or report["episodes"]
    traces = list(dict.fromkeys(episode["trace"] for episode in told if episode["trace"]))
    said += [("vladoctor_trace", str(folder / traces[0] if len(traces) == 1 else folder))] if traces else []
    return [(name, value) for name, value in said if value]


def told(report: Report, name: str, folder: Path, page: Path | None, fail_on: str) -> dict[str, Any]:
    """A run in a few words, as plain data: for the summary, and for the index of all runs."""
    found = findings(report)
    counted: dict[str, dict[str, Any]] = {}
    for episode, one in found:
        entry = counted.setdefault(
            one.code,
            {"code": one.code, "name": one.name, "severity": one.severity.value, "episodes": [], "fails": False},
        )
        entry["fails"] = entry["fails"] or one.severity.at_least(Severity(fail_on))
        if episode is not None and episode["name"] not in entry["episodes"]:
            entry["episodes"].append(episode["name"])
    return {
        "name": name,
        "episodes": len(report["episodes"]),
        "trials": report["summary"]["trials"],
        "successes": report["summary"]["successes"],
        "findings": [{**entry, "episodes": len(entry["episodes"])} for entry in counted.values()],
        "broken": broken(report),
        "unseen": unseen(report),
        "folder": str(folder),
        "page": str(page) if page is not None else None,
    }


def in_words(run: Mapping[str, Any]) -> str:
    """What was found in a run, in a line; see `told`."""
    count = run["episodes"]
    if not count:
        return f"nothing was recorded{''.join(f'; {text.splitlines()[0]}' for text in run['broken'][:1])}"
    parts = ["1 episode" if count == 1 else f"{count} episodes"]
    if run["trials"]:
        parts[0] += f", {run['successes']} of {run['trials']} succeeded"
    for entry in run["findings"]:
        where = f" in {entry['episodes']} of {count}" if entry["episodes"] and count > 1 else ""
        parts.append(f"{entry['code']} {entry['name']}{where} ({entry['severity']})")
    if run["broken"]:
        parts.append(f"broken: {run['broken'][0].splitlines()[0]}")
    if len(parts) == 1:
        parts.append("nothing found")
    if run["unseen"]:
        more = f" and {len(run['unseen']) - 1} more" if len(run["unseen"]) > 1 else ""
        parts.append(f"not seen: {run['unseen'][0]}{more}")
    return "; ".join(parts)


def slug(text: str, most: int = 100) -> str:
    """A name for a file or folder; another one for another text, as far as test ids differ."""
    name = re.sub(r"[^\w.=-]+", "-", text, flags=re.ASCII).strip("-.")
    if len(name) > most or re.search(r"[^\w.:/=\[\] ,-]|\[.*[/:].*\]", text, flags=re.ASCII):
        name = f"{name[: most - 9]}-{zlib.crc32(text.encode()):08x}"
    return name


def fresh(folder: Path) -> Path:
    """The folder without what an earlier run of the same name left in it; files that vladoctor did not write stay."""
    leftovers: Iterable[Path] = ()
    if folder.is_dir():
        names = ("report.json", "report.html", "run.log", "traces/*.mcap", "frames/VD*.png")
        leftovers = [path for name in names for path in folder.glob(name)]
    for path in leftovers:
        path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    return folder
