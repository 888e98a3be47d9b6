"""The benchmark that lays findings beside labels: from a repository's history to recall and precision."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import lint_corpus  # noqa: E402 - a script beside the package

from vladoctor.check import all_checks  # noqa: E402

LINT = Path(__file__).parent / "lint"
LABELS = json.loads((BENCHMARKS / "lint_labels.json").read_text("utf-8"))


def test_labels_are_of_known_classes_and_codes() -> None:
    codes = {check.code for check in all_checks()}
    assert {code for named in lint_corpus.CODES.values() for code in named} <= codes
    bugs = [bug for entry in LABELS["scripts"] for bug in entry["bugs"]]
    assert {bug["class"] for bug in bugs} <= set(lint_corpus.CODES)
    assert all(bug["line"] > 0 and bug["confidence"] in ("certain", "likely", "debatable") for bug in bugs)
    assert all(len(entry["commit"]) == 40 for entry in LABELS["scripts"])


def test_a_clean_script_has_no_certain_bug_in_scope() -> None:
    for entry in LABELS["scripts"]:
        certain = [bug for bug in entry["bugs"] if bug["confidence"] == "certain" and bug["in_scope"]]
        assert not (entry["clean"] and certain)


def test_arguments_name_labels_that_exist() -> None:
    names = {
        f"{entry['repository']} {entry['script']}: {bug['file']}:{bug['line']} {bug['class']}"
        for entry in LABELS["scripts"]
        for bug in entry["bugs"]
    }
    assert set(LABELS["arguments"]) <= names


@pytest.fixture
def fetched(tmp_path: Path) -> tuple[Path, str]:
    """A folder with a bare repository of two of our loops, and its commit."""
    work = tmp_path / "work"
    (work / "scripts").mkdir(parents=True)
    for name in ("vd201/flipped_only.bad.py", "vd201/rot180.good.py"):
        (work / "scripts" / Path(name).name.replace(".", "_", 1)).write_bytes((LINT / name).read_bytes())
    (work / "notes.bin").write_bytes(bytes(100))
    git = ["git", "-C", str(work), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "loops"]):
        subprocess.run([*git, *command], check=True, capture_output=True)
    bare = tmp_path / "fetched" / "somebody+loops" / "repo"
    subprocess.run(["git", "clone", "-q", "--bare", str(work), str(bare)], check=True, capture_output=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    return tmp_path / "fetched", head.stdout.strip()


def labelled(commit: str, line: int, kind: str = "orientation_partial") -> dict[str, object]:
    bug = {
        "file": "scripts/flipped_only_bad.py",
        "line": line,
        "class": kind,
        "confidence": "certain",
        "in_scope": True,
    }
    entry = {"repository": "somebody/loops", "commit": commit}
    return {
        "scripts": [
            {**entry, "script": "scripts/flipped_only_bad.py", "clean": False, "bugs": [bug]},
            {**entry, "script": "scripts/rot180_good.py", "clean": True, "bugs": []},
        ],
        "arguments": {},
        "unlabelled": {},
    }


def marked_line() -> int:
    lines = (LINT / "vd201" / "flipped_only.bad.py").read_text("utf-8").splitlines()
    return next(number for number, line in enumerate(lines, 1) if "expect: VD201" in line)


def test_from_history_to_recall(fetched: tuple[Path, str]) -> None:
    folder, commit = fetched
    labels = labelled(commit, marked_line() + 2)
    bad, good = lint_corpus.linted(folder, labels, "")
    (label,) = bad.labels
    assert label.found is not None
    assert label.lines_off == 2
    assert not any(map(lint_corpus.grave, bad.others))
    assert not any(map(lint_corpus.grave, good.findings))
    text = lint_corpus.section([bad, good], labels)
    assert "scope found: 1/1 = 100 %" in text
    assert "clean scripts: 0." in text


def test_what_answers_to_no_label_counts_as_wrong(fetched: tuple[Path, str]) -> None:
    folder, commit = fetched
    labels = labelled(commit, 1, "gripper_not_converted")
    (bad,) = lint_corpus.linted(folder, labels, "flipped")
    assert bad.labels[0].found is None
    assert [finding.code for finding in bad.others if lint_corpus.grave(finding)] == ["VD201"]
    text = lint_corpus.section([bad], labels)
    assert "scope found: 0/1" in text
    assert "0 are right" in text


def test_a_repository_that_was_not_fetched_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"fetch github\.com/somebody/loops there"):
        list(lint_corpus.linted(tmp_path, labelled("0" * 40, 1), ""))
