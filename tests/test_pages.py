"""Every check's page has what a reader needs, in the same order, and its limits say where they come from."""

from __future__ import annotations

import inspect
import re
import sys

import pytest

from vladoctor.check import Check, all_checks

HEADINGS = ["What it looks at", "Why it is bad", "Evidence", "Fix", "Known gaps", "References"]

SOURCE = re.compile(r"(?<![\w.-])[\w-]+/[\w.-]+(#[1-9]\d*|@[0-9a-f]{7,40}| \S+\.py)|https://\S+")
"""A thread, a file at a commit, or an address."""

MEASURED = re.compile(
    r"measur|healthy|recorded|published|seen|convention|choice|by right|\bof \d|\d+ (episode|frame|quer|recording)",
    re.IGNORECASE,
)


@pytest.mark.parametrize("check", all_checks(), ids=lambda check: check.code)
def test_a_page_has_every_heading_and_text_below_each(check: Check) -> None:
    assert re.findall(r"^## (.+)$", check.page, re.M) == HEADINGS
    assert all(text.strip() for text in re.split(r"^## .+$", check.page, flags=re.M))
    assert check.summary.endswith(".")
    assert len(check.summary) <= 120


@pytest.mark.parametrize("check", all_checks(), ids=lambda check: check.code)
def test_a_page_refers_to_what_it_rests_on(check: Check) -> None:
    assert SOURCE.search(check.page.partition("## References")[2])


@pytest.mark.parametrize("check", [each for each in all_checks() if each.thresholds], ids=lambda check: check.code)
def test_limits_say_where_they_come_from(check: Check) -> None:
    judge = check.judge or check.judge_run or check.judge_checks
    assert judge is not None
    code = inspect.getsource(sys.modules[judge.__module__]).split('"""', 2)[2]
    beside = " ".join(line.partition("#")[2] for line in code.splitlines() if "#" in line)
    evidence = check.page.partition("## Evidence")[2].partition("## Fix")[0]
    assert MEASURED.search(evidence + beside), f"what were the limits of {check.code} measured on?"
