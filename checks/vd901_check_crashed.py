"""A check raised, and says nothing.

## What it looks at

What all other checks did when they were asked about an episode: whether each of them came to its end.

## Why it is bad

A check that raises found neither a fault nor that something is right. If it were left out, a report of which half is
missing would look like a clean one.

## Evidence

The report names the check and the exception; its traceback is in the JSON report (`checks[].error`). It is no finding
about the loop: never a finding, never a pass. The exit status is 2, as after every failure of the tool.

## Fix

It is a defect of the check, not of the loop. Please report it with the traceback and, if it may be given away, the
trace. Until then the run can be judged without that check:

```yaml
checks:
  ignore: [VD501]
```

`vladoctor replay <folder>` judges a recording again, with a newer vladoctor for example.

## Known gaps

A check that ends with a wrong answer is not seen. What raises while the whole run is judged is shown beside it, not
counted here.

## References

- ros2/ros2cli ros2doctor/api/__init__.py: a check that raises is dropped from the total, so that "all passed" can mean
  that half of them crashed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from vladoctor.check import Abstention, Check, Clear, Stage, Verdict

if TYPE_CHECKING:
    from vladoctor.diagnosis import CheckResult


def judge_checks(results: Sequence[CheckResult], limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Say which checks raised."""
    crashed = [result for result in results if result.state == "crashed"]
    for result in crashed:
        last = result.error.strip().rsplit("\n", 1)[-1]
        yield Abstention(f"{result.code} {result.name} raised {last}", missing=True)
    if not crashed:
        yield Clear(f"all {len(results)} checks came to their end")


CHECK = Check(
    code="VD901",
    name="check-crashed",
    stage=Stage.SCORE,
    judge_checks=judge_checks,
    about_evidence=True,
)
