"""What the README says of the checks is what the registry has."""

from __future__ import annotations

from pathlib import Path

from vladoctor.check import all_checks

README = Path(__file__).resolve().parents[1] / "README.md"


def test_every_check_stands_in_the_readme() -> None:
    rows = [line for line in README.read_text("utf-8").splitlines() if line.startswith("| VD")]
    assert rows == [f"| {check.code} | {check.name} | {check.summary} |" for check in all_checks()]
