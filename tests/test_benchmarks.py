"""The commands that write docs/evidence.md: what they count, and that every section of the page has one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_matrix import CROP, SATURATION, counted, episode, report

from vladoctor.check import Stage, all_faults
from vladoctor.matrix import upper_bound

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"
sys.path.append(str(BENCHMARKS))

import evidence  # noqa: E402
import healthy  # noqa: E402
import peers  # noqa: E402


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "evidence.md"
    path.write_text((ROOT / "docs" / "evidence.md").read_text("utf-8"), "utf-8")
    return path


def write_evidence(*options: str | Path) -> str:
    command = [sys.executable, BENCHMARKS / "evidence.py", *options]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# The page.


def test_every_section_of_the_page_has_its_command() -> None:
    text = (ROOT / "docs" / "evidence.md").read_text("utf-8")
    begun, ended = (re.findall(rf"<!-- {which}: (.+?) -->", text) for which in ("begin", "end"))
    assert begun == ended
    assert sorted(begun) == sorted(section.name for section in evidence.SECTIONS)
    for section in evidence.SECTIONS:
        assert (BENCHMARKS / section.command.split()[0]).is_file()


def test_the_catalogue_is_rendered_from_a_matrix(page: Path, tmp_path: Path) -> None:
    (tmp_path / "matrix.json").write_text(json.dumps(counted()), "utf-8")
    before = page.read_text("utf-8")
    options = ("--only", "catalogue", "--matrix", tmp_path, "--page", page, "--keep-results", tmp_path / "kept")
    assert "catalogue: written" in write_evidence(*options)
    text = evidence.read_section(page, "catalogue")
    assert "recall: its code is found | 4/6 = 67 %" in text
    assert text == evidence.read_section(page, "catalogue")
    assert page.read_text("utf-8").split("<!-- begin: catalogue -->")[0] == before.split("<!-- begin: catalogue -->")[0]


def test_what_is_kept_is_written_again_and_what_is_lacking_is_told(page: Path, tmp_path: Path) -> None:
    (tmp_path / "overhead.md").write_text("An earlier measurement.", "utf-8")
    lacking = tmp_path / "nowhere"
    told = write_evidence(
        "--only", "overhead", "lint-corpus", "--page", page, "--keep-results", tmp_path, "--sources", lacking
    )
    assert evidence.read_section(page, "overhead") == "An earlier measurement."
    assert "overhead: written again from what was kept" in told
    assert f"lint-corpus: not run: {lacking} is not there" in told


# Healthy loops.


def test_the_campaign_is_large_and_varied_enough() -> None:
    without_lerobot = [loop for loop in healthy.LOOPS if loop.from_first]
    jobs = [job for loop in without_lerobot for job in loop.jobs(1.0)]
    count = sum(job.count for job in jobs)
    bound = upper_bound(0, count)
    assert bound is not None
    assert bound < 0.01
    assert len(without_lerobot) >= 3
    assert len({job.task for job in jobs}) == 11
    assert len({job.name for job in jobs}) == len(jobs)
    for job in jobs:
        assert job.first >= 0
        assert job.first + job.count <= healthy.INIT_STATES
        assert job.task not in (healthy.SOLVED, healthy.TOMATO) or job.first in healthy.HELD_OUT
    assert len({(job.loop.name, job.task, job.first + number) for job in jobs for number in range(job.count)}) == count


def row(loop: str, *episodes: Any, task: str = "0") -> dict[str, Any]:
    told = report(*episodes)
    for each in told["episodes"]:
        each["findings"] = [{"name": "n", "message": "m", **one} for one in each["findings"]]
    told["run"]["profile"] = {"name": "p"}
    job = {"task": task, "first": 30, "count": len(episodes), "seed": 7, "steps": 280}
    return {"loop": loop, "job": job, "machine": "one core", "report": told}


def test_an_unfinished_episode_counts_only_where_something_was_found() -> None:
    quiet, loud = episode(outcome="interrupted"), episode(CROP, outcome="interrupted", number=1)
    trials = healthy.counted(row("official", episode(success=True, number=2), quiet, loud))
    assert [trial["severity"] for trial in trials] == [None, "fix"]


def test_all_that_is_found_in_healthy_loops_is_listed() -> None:
    rows = [
        row("official", episode(success=True), episode(CROP, SATURATION, number=1)),
        row("one_file", *(episode(success=True, number=number) for number in range(3))),
    ]
    text = healthy.section(rows, healthy.LOOPS)
    assert "5 episodes in 2 processes" in text
    assert "**1 (at 95 % confidence at most 66 % of episodes)**" in text
    assert "- official, VD202 n, fix, 1 times. The first: task 0, task0-init31-ep1: m" in text
    assert "- official, VD402 n, look, 1 times (under another)." in text
    assert re.search(
        r"\| one_file: .* \| 3 \(1\) \| 1 \| 3 \| 1 \| 3/3 = 100 % .* \| 0 of 0 \| 0 \| 0 \| 0 \| 63 % \|", text
    )
    assert "| openpi: openpi's client and a server in another process | not run |" in text


# Peers.


def shown(**said: list[str] | None) -> dict[str, Any]:
    tools = {tool: {"said": lines} if lines is not None else {"not_shown": "no word"} for tool, lines in said.items()}
    return {"tools": tools, "versions": {"tool": "1.0"}, "machine": "a machine"}


def test_what_a_tool_says_of_the_healthy_loop_counts_for_nothing() -> None:
    usual = shown(a=["3 of 9 values are odd", "action[6]: 3 jumps"], b=[])
    found = shown(a=["7 of 8 values are odd", "action[5]: 3 jumps"], b=["the gripper is upside down"])
    cells = peers.verdicts("gripper-raw", found, usual)
    assert cells["a"] == {"verdict": peers.WARNS, "new": ["action[5]: 3 jumps"]}
    assert cells["b"]["verdict"] == peers.NAMES
    quiet = peers.verdicts("flip-vertical", shown(a=["1 of 2 values are odd"], b=None), usual)
    assert (quiet["a"]["verdict"], quiet["b"]["verdict"]) == (peers.SILENT, peers.NOT_SHOWN)


def test_a_tool_that_is_not_installed_says_nothing_of_a_fault() -> None:
    lacking: dict[str, Any] = {
        "tools": {"a": {"not_run": "No module named 'a'"}},
        "versions": {"a": None},
        "machine": "one",
    }
    cells = {name: peers.verdicts(name, lacking, lacking) for name in ("healthy", "flip-vertical")}
    text = peers.section(dict.fromkeys(cells, lacking), cells, None, {})
    assert "| flip-vertical | image, VD201 | not run | – | – |" in text
    assert "- Not run on this machine: a: No module named 'a'" in text


def test_the_peers_table_has_our_column_and_that_of_the_success_rate() -> None:
    results = {"healthy": shown(a=["odd"]), "flip-vertical": shown(a=["odd"]), "unnorm-bridge": shown(a=["very odd"])}
    cells = {name: peers.verdicts(name, result, results["healthy"]) for name, result in results.items()}
    text = peers.section(results, cells, counted(), {})
    assert "| (healthy) | | 1 said | 9/10" in text
    assert "| flip-vertical | image, VD201 | silent | drops | 3/4 = 75 % (30–95) |" in text
    assert "| unnorm-bridge | un-normalise, VD501 | warns | does not drop | 1/2 = 50 % (9–91) |" in text
    assert "- unnorm-bridge, a: `very odd`" in text


def test_the_faults_shown_to_others_cover_the_loop() -> None:
    assert len(peers.FAULTS) >= 25
    stages = {all_faults()[name][1].stage for name in peers.FAULTS}
    assert stages == {check.stage for _, check in all_faults().values()} >= set(Stage) - {Stage.POSTPROCESS}
    assert {*peers.SPEAKS_OF} <= {check.code for _, check in all_faults().values()} | {"VD504"}
