"""What `vladoctor lint` says of public evaluation scripts whose bugs are known: the section `lint-corpus`.

    python benchmarks/lint_corpus.py FOLDER [--labels FILE] [--script PART] [--json] [--write docs/evidence.md]
    python benchmarks/lint_corpus.py FOLDER --labels benchmarks/lint_unlabelled.json   # the section `lint-unlabelled`

FOLDER holds the repositories that `lint_labels.json` names, each as `owner+name` or `owner/name`: a working tree, a
repository with its history, or a folder with a bare one in `repo`. Of a repository with history the labelled commit is
read, and of that only text that a loop is made of. Nothing of it is run.

A label counts as found if a finding of one of its class's codes stands in the labelled file. Findings that answer to no
label are wrong unless `unlabelled` in the labels says why they are right; labels that we think wrong are argued under
`arguments`. Neither changes the recall.

`lint_unlabelled.json` names scripts in which nobody had looked for bugs before. What is found there was judged by
reading the code: "right", "wrong" or "doubtful", and why. It says nothing of what was missed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evidence import interval, write_section

from vladoctor.check import Severity, all_checks
from vladoctor.diagnosis import Finding
from vladoctor.lint.run import lint_paths

LABELS = Path(__file__).with_name("lint_labels.json")

CODES: Mapping[str, tuple[str, ...]] = {
    "orientation_partial": ("VD201",),
    "center_crop_missing": ("VD202",),
    "resize_resolution": ("VD204",),
    "resize_interpolation": ("VD204",),
    "prompt_template_missing": ("VD301",),
    "prompt_template_mismatch": ("VD301",),
    "special_token_missing": ("VD303",),
    "bin_decode_wrong": ("VD405",),
    "unnorm_fallback": ("VD501",),
    "unnorm_key_wrong": ("VD501",),
    "unnorm_mask_ignored": ("VD501", "VD405"),
    "gripper_not_converted": ("VD502",),
    "gripper_absolute_as_delta": ("VD502",),
    "gripper_threshold": ("VD502",),
    "sticky_gripper_delta": ("VD502",),
    "rotation_repr": ("VD503",),
    "policy_reset_missing": ("VD505",),
    "wait_steps_missing": ("VD601",),
    "init_state_missing": ("VD602",),
    "init_state_clobbered": ("VD602",),
    "max_steps_nonstandard": ("VD603",),
    "exception_swallowed": ("VD604",),
    "result_default": ("VD604", "VD605"),
    "base_ckpt_not_finetuned": ("VD704", "VD501"),
    "strict_false": ("VD704",),
    "seed_missing": ("VD801",),
    "seed_wrong": ("VD801",),
}
"""Class of a label -> codes that name this bug."""

NEAR = 3
"""Lines between a label and a finding that is at the right line."""

READ = (".py", ".ipynb", ".yaml", ".yml", ".toml", ".json", ".cfg")
MOST_BYTES = 1_000_000


@dataclass(frozen=True)
class Label:
    """A bug as it was labelled, and the finding that names it, if one does."""

    script: str
    file: str
    line: int
    kind: str
    confidence: str
    in_scope: bool
    found: Finding | None
    lines_off: int | None

    @property
    def wanted(self) -> bool:
        """It is one of those of which nine in ten must be found."""
        return self.confidence == "certain" and self.in_scope

    @property
    def name(self) -> str:
        return f"{self.script}: {self.file}:{self.line} {self.kind}"


@dataclass(frozen=True)
class Script:
    """One labelled script, linted. `others`: findings that answer to no label."""

    name: str
    clean: bool
    loops: int
    labels: tuple[Label, ...]
    findings: tuple[Finding, ...]
    others: tuple[Finding, ...]


def tree(folder: Path, repository: str, commit: str, spare: Path) -> Path:
    """The labelled commit's files: in place, or written to `spare` from the repository's history."""
    owner, name = repository.split("/")
    for place in (folder / f"{owner}+{name}", folder / owner / name):
        bare = place / "repo"
        if (bare / "HEAD").is_file():
            return _from_history(bare, commit, spare / f"{owner}+{name}")
        if (place / ".git").exists():
            return _from_history(place, commit, spare / f"{owner}+{name}")
        if place.is_dir():
            return place
    raise SystemExit(f"{folder} has no {owner}+{name}: fetch github.com/{repository} there")


def _from_history(repository: Path, commit: str, target: Path) -> Path:
    if target.is_dir():
        return target
    listing = _git(repository, "ls-tree", "-r", "-l", "-z", commit).decode("utf-8", "replace")
    wanted: list[tuple[str, str]] = []
    for line in filter(None, listing.split("\0")):
        kind, path = line.split("\t", 1)
        _, what, blob, length = kind.split()
        if what == "blob" and path.endswith(READ) and length.isdigit() and int(length) <= MOST_BYTES:
            wanted.append((blob, path))
    contents = _git(repository, "cat-file", "--batch", stdin="\n".join(blob for blob, _ in wanted).encode())
    at = 0
    for _, path in wanted:
        end = contents.index(b"\n", at)
        header = contents[at:end].split()
        if header[-1] == b"missing":
            at = end + 1
            continue
        size = int(header[2])
        file = target / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(contents[end + 1 : end + 1 + size])
        at = end + 2 + size
    return target


def _git(repository: Path, *arguments: str, stdin: bytes = b"") -> bytes:
    return subprocess.run(
        ["git", "-C", str(repository), *arguments], input=stdin, capture_output=True, check=True
    ).stdout


def linted(folder: Path, labels: Mapping[str, Any], part: str) -> Iterator[Script]:
    """Every labelled script whose name has `part` in it, with what is said of it."""
    with tempfile.TemporaryDirectory() as spare:
        for entry in labels["scripts"]:
            name = f"{entry['repository']} {entry['script']}"
            if part not in name:
                continue
            root = tree(folder, entry["repository"], entry["commit"], Path(spare))
            result = lint_paths([root / entry["script"]], all_checks(), {}, root)
            findings = tuple(finding for finding in result.findings if finding.place is not None)
            yield answered(name, entry, root, findings, len(result.loops))


def answered(name: str, entry: Mapping[str, Any], root: Path, findings: Sequence[Finding], loops: int) -> Script:
    """Lay findings beside labels: each finding answers to one label of its code and file, the nearest first."""
    bugs = entry["bugs"]
    pairs = sorted(
        (abs(_line(finding) - bug["line"]), index, number)
        for index, bug in enumerate(bugs)
        for number, finding in enumerate(findings)
        if finding.code in CODES[bug["class"]] and _relative(finding, root) == bug["file"]
    )
    chosen: dict[int, tuple[Finding, int]] = {}
    taken: set[int] = set()
    for off, index, number in pairs:
        if index not in chosen and number not in taken:
            chosen[index] = findings[number], off
            taken.add(number)
    labels = tuple(
        Label(
            name,
            bug["file"],
            bug["line"],
            bug["class"],
            bug["confidence"],
            bug["in_scope"],
            *chosen.get(index, (None, None)),
        )
        for index, bug in enumerate(bugs)
    )
    # Several findings of a code in the labelled file are about the same thing, said of several loops.
    answering = {id(findings[number]) for _, _, number in pairs}
    others = tuple(finding for finding in findings if id(finding) not in answering)
    return Script(name, entry["clean"], loops, labels, tuple(findings), others)


def _relative(finding: Finding, root: Path) -> str:
    file = Path(finding.place.file if finding.place else "")
    whole = file if file.is_absolute() else Path.cwd() / file
    try:
        return whole.resolve().relative_to(root.resolve()).as_posix()
    except ValueError:
        return file.as_posix()


def _line(finding: Finding) -> int:
    return finding.place.line if finding.place else 0


def _key(script: Script, finding: Finding) -> str:
    file = Path(finding.place.file).name if finding.place else ""
    return f"{script.name}: {file} {finding.code}"


def grave(finding: Finding) -> bool:
    return finding.severity.at_least(Severity.FIX)


def section(scripts: Sequence[Script], labels: Mapping[str, Any]) -> str:
    """Tables for docs/evidence.md."""
    unlabelled: Mapping[str, Any] = labels["unlabelled"]
    arguments: Mapping[str, str] = labels["arguments"]
    every = [label for script in scripts for label in script.labels]
    wanted = [label for label in every if label.wanted]
    found = [label for label in wanted if label.found]
    near = [label for label in found if label.lines_off is not None and label.lines_off <= NEAR]
    clean = [script for script in scripts if script.clean]
    on_clean = [finding for script in clean for finding in script.findings if grave(finding)]
    stated = [(script, finding) for script in scripts for finding in script.findings if grave(finding)]
    wrong = [
        (script, finding)
        for script in scripts
        for finding in script.others
        if grave(finding) and not str(unlabelled.get(_key(script, finding), "")).startswith("right")
    ]
    lines = [
        f"{len(scripts)} scripts, {len(clean)} of them labelled clean. Certain bugs in scope found: "
        f"{interval(len(found), len(wanted))}; of those, at most {NEAR} lines off: {interval(len(near), len(found))}. "
        f"Findings *stop* or *fix* on clean scripts: {len(on_clean)}. Of {len(stated)} findings *stop* or *fix*, "
        f"{len(stated) - len(wrong)} are right: {interval(len(stated) - len(wrong), len(stated))}.",
        "",
        "| class | codes | certain, found | others, found | lines off, median (max) | stop or fix | of them right |",
        "|---|---|---|---|---|---|---|",
    ]
    wrong_ids = {id(finding) for _, finding in wrong}
    for kind in sorted({label.kind for label in every}, key=lambda kind: CODES[kind]):
        mine = [label for label in every if label.kind == kind]
        certain = [label for label in mine if label.wanted]
        rest = [label for label in mine if not label.wanted]
        offs = sorted(label.lines_off for label in mine if label.lines_off is not None)
        off = f"{offs[len(offs) // 2]} ({offs[-1]})" if offs else "–"
        said = [finding for _, finding in stated if finding.code in CODES[kind]]
        right = [finding for finding in said if id(finding) not in wrong_ids]
        lines.append(
            f"| {kind} | {', '.join(CODES[kind])} | {_share(certain)} | {_share(rest)} | {off} | "
            f"{len(said)} | {len(right)} |"
        )
    labelled_codes = {code for label in every for code in CODES[label.kind]}
    for code in sorted({finding.code for _, finding in stated} - labelled_codes):
        said = [finding for _, finding in stated if finding.code == code]
        right = [finding for finding in said if id(finding) not in wrong_ids]
        lines.append(f"| (not labelled) | {code} | – | – | – | {len(said)} | {len(right)} |")
    lines += [
        "",
        "| script | labelled | loops | certain found | stop | fix | look | not labelled |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for script in scripts:
        counts = [sum(one.severity is grade for one in script.findings) for grade in Severity]
        certain = [label for label in script.labels if label.wanted]
        others = sum(grave(finding) for finding in script.others)
        lines.append(
            f"| {script.name} | {'clean' if script.clean else 'bugs'} | {script.loops} | {_share(certain)} | "
            f"{' | '.join(map(str, counts))} | {others} |"
        )
    lines += ["", "Certain labels that were not found, or are more than three lines off:", ""]
    missed = [label for label in wanted if not label.found or (label.lines_off or 0) > NEAR]
    for label in missed:
        where = f"found at line {_line(label.found)}" if label.found else "not found"
        lines.append(f"- {label.name}: {where}. {arguments.get(label.name, '')}".rstrip())
    if not missed:
        lines.append("- none")
    lines += ["", "Findings *stop* or *fix* that answer to no label:", ""]
    by_key: dict[str, list[Finding]] = defaultdict(list)
    for script in scripts:
        for finding in script.others:
            if grave(finding):
                by_key[_key(script, finding)].append(finding)
    for key, findings in sorted(by_key.items()):
        places = ", ".join(sorted({str(_line(finding)) for finding in findings}))
        lines.append(f"- {key} (line {places}): {unlabelled.get(key, 'wrong, or not judged yet')}")
    if not by_key:
        lines.append("- none")
    disputed = [label for label in every if label.name in arguments and not label.found and label not in missed]
    if disputed:
        lines += ["", "Labels that are not certain, or out of scope, and were not found:", ""]
        lines += [f"- {label.name}: {arguments[label.name]}" for label in disputed]
    return "\n".join(lines)


def judged_section(scripts: Sequence[Script], labels: Mapping[str, Any]) -> str:
    """The same for scripts without labels: what was found, and how it was judged."""
    verdicts: Mapping[str, str] = labels["unlabelled"]
    said = [(script, finding) for script in scripts for finding in script.findings if grave(finding)]
    by_code: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(VERDICTS, 0))
    not_right: dict[str, tuple[str, set[int]]] = {}
    for script, finding in said:
        key = _key(script, finding)
        text = verdicts.get(key, "not judged")
        verdict = next((one for one in VERDICTS if text.startswith(one)), "not judged")
        by_code[finding.code][verdict] += 1
        if verdict != "right":
            not_right.setdefault(key, (text, set()))[1].add(_line(finding))
    total = {verdict: sum(counts[verdict] for counts in by_code.values()) for verdict in VERDICTS}
    repositories = {script.name.split()[0] for script in scripts}
    lines = [
        f"{len(scripts)} scripts of {len(repositories)} repositories, {sum(one.loops for one in scripts)} loops. "
        f"Findings *stop* or *fix*: {len(said)}, on {len({script.name for script, _ in said})} scripts. Right: "
        f"{interval(total['right'], len(said))}; "
        + ", ".join(f"{verdict}: {total[verdict]}" for verdict in VERDICTS[1:])
        + ".",
        "",
        f"| code | {' | '.join(VERDICTS)} |",
        "|---|---|---|---|---|",
        *(f"| {code} | {' | '.join(str(by_code[code][one]) for one in VERDICTS)} |" for code in sorted(by_code)),
    ]
    if not_right:
        lines += ["", "Not right:", ""]
    for key, (text, places) in sorted(not_right.items()):
        lines.append(f"- {key} (line {', '.join(map(str, sorted(places)))}): {text}")
    return "\n".join(lines)


VERDICTS = ("right", "doubtful", "wrong", "not judged")


def _share(labels: Sequence[Label]) -> str:
    return f"{sum(label.found is not None for label in labels)}/{len(labels)}" if labels else "–"


def as_json(scripts: Sequence[Script]) -> list[dict[str, Any]]:
    return [
        {
            "script": script.name,
            "clean": script.clean,
            "loops": script.loops,
            "labels": [
                {
                    "name": label.name,
                    "wanted": label.wanted,
                    "found": label.found.to_json() if label.found else None,
                    "lines_off": label.lines_off,
                }
                for label in script.labels
            ],
            "findings": [finding.to_json() for finding in script.findings],
        }
        for script in scripts
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the repositories were fetched")
    parser.add_argument("--labels", type=Path, default=LABELS)
    parser.add_argument("--script", default="", help="only scripts with this in repository or path")
    parser.add_argument("--json", action="store_true", help="every finding, as JSON")
    parser.add_argument("--write", type=Path, help="Markdown file whose section is replaced")
    arguments = parser.parse_args()
    labels = json.loads(arguments.labels.read_text("utf-8"))
    scripts = list(linted(arguments.folder, labels, arguments.script))
    if arguments.json:
        print(json.dumps(as_json(scripts), indent=1))
        return
    labelled = any(script.labels for script in scripts)
    text = section(scripts, labels) if labelled else judged_section(scripts, labels)
    if arguments.write:
        write_section(arguments.write, "lint-corpus" if labelled else "lint-unlabelled", text)
    print(text)


if __name__ == "__main__":
    main()
