"""The state that the policy is given is not the robot's, or is not written as in training.

## What it looks at

The vector that the policy was given at each query, against what the environment's own observation of that step makes of
the layout in the profile: hand position in metres, orientation as axis times angle of the quaternion xyzw, both
fingers. Where they differ, every mistake that is known here is made on purpose from the same observation, part by part,
and compared: wxyz for xyzw, Euler angles, degrees, millimetres, the antipodal axis-angle, a frame turned by 90 degrees,
fingers as one width, zeros, elements exchanged, an older step's.

## Why it is bad

Nothing checks a state vector. A policy that was trained with it moves by it: with zeros it is always in one place, with
a state one chunk old it corrects what it has corrected already. In LIBERO the hand points down, where w of the
quaternion is close to 0 and changes its sign: one library's axis-angle then jumps by 2 pi where the training data went
on.

## Evidence

`parts` says of each part what it is and at how many queries; `given` and `expected` are the vectors of the first query
concerned. Two values count as one to within 1e-4 (metres, radians): in healthy episodes of an openpi client the largest
difference was 4e-16. A form has to reproduce the part at every query. A difference that no known form explains
is for a look only, and if it lies on a line over what was expected (as a normalised state does) nothing is said.

## Fix

```python
state = np.concatenate((
    obs["robot0_eef_pos"],                       # metres
    quat2axisangle(obs["robot0_eef_quat"]),      # xyzw; 2 * arccos(w), no other library's
    obs["robot0_gripper_qpos"],                  # both fingers
))
```

from the observation of this very step, whenever the policy is asked.

## Known gaps

Needs the state as it was handed over: a policy in the same process whose state is normalised before the tap is not
judged. rot6d states and those of two arms are not known here. openvla-7b takes no state. A healthy vector in front of a
checkpoint that was trained without the antipodal sign is not known to be wrong.

## References

- allenai/vla-evaluation-harness#16: orientation read from another frame, 90 degrees off: 42 % for 98 %. Its
  docs/reproductions/common-pitfalls.md: the antipodal sign alone takes OpenVLA-OFT from 97 to 83 % (Goal), 95 to 56
  (Long).
- strands-labs/robots#168: the orientation of the site in the place of the body's, yaw -1.588 for -0.024: 0 %.
- 2toinf/X-VLA#21: the gripper's element constantly 0.
- moojink/openvla-oft#33: joint angles on one robot, hand pose on the other.
- ARISE-Initiative/robosuite#298, ARISE-Initiative/robosuite#685: two orientations that differ by 90 degrees; xyzw and
  wxyz.
- NVIDIA/Isaac-GR00T#136: the fingers' state as one key of two numbers.
- Lifelong-Robot-Learning/LIBERO#72: what the gripper's state means.
- The layout: Physical-Intelligence/openpi@15a9616 examples/libero/main.py:133-138.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from vladoctor.check import Abstention, Check, Clear, Problem, Severity, Stage, Verdict
from vladoctor.facts import proprio as pr
from vladoctor.lint.judging import unseen

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.lint.facts import SourceFacts

WHOLE = ("openpi.infer",)
"""Boundaries at which everything that the policy is given passes: what is not seen there was not given."""

FROM_NOW = "Build the state from the observation that the last env.step or reset returned, at every query."


def judge(facts: Facts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Compare the state that was given with what the environment said."""
    layout = pr.layout_of(facts.profile)
    if layout is None:
        yield Abstention(f"profile {facts.profile.name} does not say what state the policy is given")
        return
    if not layout:
        if pr.given_slots(facts.episode):
            yield Abstention("the policy is given a state, though this checkpoint takes none")
        elif any(True for _ in facts.episode.queries()):
            yield Clear("the policy takes no state, and none is given")
        else:
            yield Abstention("no query was recorded", missing=True)
        return
    if not pr.known(layout):
        yield Abstention(
            f"profile {facts.profile.name} has a state that is not known here: {', '.join(layout[:12])} ..."
        )
        return
    slots = pr.given_slots(facts.episode)
    if not slots:
        yield _no_state(facts, layout)
        return
    fitting = [slot for slot, size in slots.items() if size == len(layout)]
    if not fitting:
        yield _another_size(facts, slots, layout)
        return
    # The one that is called a state, if several have as many values.
    slot = max(fitting, key=lambda name: "state" in name)
    seen = pr.states(facts.episode, layout, slot)
    if seen is None:
        yield Abstention(
            f"the environment's own observation has not what it takes to make {', '.join(layout)} of it", missing=True
        )
        return
    right = pr.same(seen.given, seen.expected)
    if right.all():
        off = float(np.abs(seen.given - seen.expected).max())
        yield Clear(
            f"the state is the environment's own of the same step at all {len(seen.steps)} queries",
            {"largest_difference": float(f"{off:.2g}")},
        )
        return
    yield _whole(seen) or _by_parts(seen, limits)


def _no_state(facts: Facts, layout: list[str]) -> Verdict:
    queries = list(facts.episode.queries())
    if not queries or not all(query.boundary in WHOLE for _, query in queries):
        return Abstention("no state was recorded with any query", missing=not queries)
    return Problem(
        message=f"The policy is given no state at all; this checkpoint was trained with {len(layout)} values: "
        f"{', '.join(layout)}. What a server puts in its place, zeros most likely, is one and the same robot always.",
        remedy=FROM_NOW,
        severity=Severity.FIX,
        first_step=queries[0][0],
        last_step=queries[-1][0],
        evidence={"expected": f"{len(layout)} values", "seen": "none"},
    )


def _another_size(facts: Facts, slots: Mapping[str, int], layout: list[str]) -> Verdict:
    named = ", ".join(f"{name} ({size})" for name, size in slots.items())
    if len(slots) > 1 or not any("state" in name for name in slots):
        return Abstention(f"none of the vectors given has {len(layout)} values: {named}")
    (size,) = slots.values()
    return Problem(
        message=f"The policy is given a state of {size} values; this checkpoint was trained with {len(layout)}: "
        f"{', '.join(layout)}. A server pads or broadcasts what is missing without a word.",
        remedy="Give it all of them, in this order, from the observation of the step.",
        severity=Severity.FIX,
        first_step=next(step for step, _ in facts.episode.queries()),
        evidence={"expected": f"{len(layout)} values", "seen": f"{size} values"},
    )


def _whole(seen: pr.States) -> Problem | None:
    """A mistake that the whole vector shares."""
    if not seen.given.any():
        return _problem(
            seen,
            np.ones(len(seen.steps), dtype=bool),
            "The state is all zeros: to the policy, the robot is always in one and the same place",
            FROM_NOW,
            {"state": "all zeros"},
        )
    rows = ~pr.same(seen.given, seen.expected)
    back = pr.stale(seen)
    if back is not None:
        when = f"of {back} {'step' if back == 1 else 'steps'} before" if back else "the same at every query"
        what = f"The state is {when}, and the image is of now" if back else f"The state is {when}: it is never renewed"
        return _problem(seen, rows, what, FROM_NOW, {"state": when})
    exchanged = pr.moved(seen)
    if exchanged:
        told = ", ".join(f"{name} has {source}" for name, source in exchanged.items())
        return _problem(
            seen,
            rows,
            f"The state's elements stand in another order: {told}",
            f"The order is {', '.join(seen.layout)}.",
            {"state": told},
        )
    return None


def _by_parts(seen: pr.States, limits: Mapping[str, float]) -> Verdict:
    said: dict[str, str] = {}
    remedies: list[str] = []
    rows = np.zeros(len(seen.steps), dtype=bool)
    unknown: list[str] = []
    for part, wrong in pr.wrong_parts(seen).items():
        places = seen.places(part)
        given, expected = seen.given[:, places], seen.expected[:, places]
        rows |= wrong
        form = next((form for form, values in pr.forms(seen, part) if pr.same(given, values).all()), None)
        if form is not None:
            said[part] = form.what
            remedies.append(form.remedy)
        elif pr.constant(given, expected):
            said[part] = "the same at every query, while the robot moves"
            remedies.append(FROM_NOW)
        else:
            unknown.append(part)
    if not said:
        if not unknown:
            return Clear("but for elements that are always 0, the state is the environment's own")
        places = [place for part in unknown for place in seen.places(part)]
        off = float(np.abs(seen.given - seen.expected)[:, places].max())
        if pr.on_lines(seen.given, seen.expected) or rows.sum() < limits["queries"]:
            return Abstention("the state is a scaled copy of the environment's own: normalised before it could be seen")
        return _problem(
            seen,
            rows,
            f"The state's {' and '.join(unknown)} differ from the environment's own by up to {off:.3g}, in no way "
            "that is known here",
            FROM_NOW,
            dict.fromkeys(unknown, "something else"),
            Severity.LOOK,
        )
    told = "; ".join(f"{part} is {what}" for part, what in said.items())
    return _problem(
        seen, rows, f"In the state that the policy is given, {told}", " ".join(dict.fromkeys(remedies)), said
    )


def _problem(
    seen: pr.States,
    rows: np.ndarray,
    what: str,
    remedy: str,
    parts: Mapping[str, str],
    severity: Severity = Severity.FIX,
) -> Problem:
    first = int(np.flatnonzero(rows)[0])
    evidence: dict[str, Any] = {
        "expected": ", ".join(f"{value:.4g}" for value in seen.expected[first]),
        "seen": ", ".join(f"{value:.4g}" for value in seen.given[first]),
        "parts": dict(parts),
        "queries_concerned": int(rows.sum()),
        "largest_difference": {
            name: float(f"{value:.4g}")
            for name, value in zip(seen.layout, np.abs(seen.given - seen.expected).max(axis=0), strict=True)
        },
    }
    return Problem(
        message=f"{what} ({int(rows.sum())} of {len(rows)} queries).",
        remedy=remedy,
        severity=severity,
        first_step=int(seen.steps[rows][0]),
        last_step=int(seen.steps[rows][-1]),
        evidence=evidence,
    )


def judge_source(facts: SourceFacts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Compare the elements of the state that the policy is given, told by their values, with the profile's."""
    layout = facts.profile.get("proprio.layout")
    if not layout or not facts.proprio.known:
        yield (
            unseen(facts.proprio, "the state") if layout else Abstention(f"profile {facts.profile.name} names no state")
        )
        return
    wrong = facts.proprio.wrong(lambda names: list(names) != list(layout))
    if wrong is None:
        yield Clear(f"the state is {' '.join(layout)}")
        return
    yield Problem(
        message=f"The policy is given the state {' '.join(wrong.value)}; it was trained on {' '.join(layout)}.",
        remedy="Put it together as in training, the rotation as an axis times its angle:\n```python\nstate = "
        'np.concatenate((obs["robot0_eef_pos"], quat2axisangle(obs["robot0_eef_quat"]), '
        'obs["robot0_gripper_qpos"]))\n```',
        severity=Severity.STOP if len(wrong.value) == len(layout) else Severity.FIX,
        evidence={"expected": " ".join(layout), "seen": " ".join(wrong.value)},
        place=wrong.place,
        trail=wrong.trail,
    )


CHECK = Check(
    code="VD504",
    name="proprio-contract",
    stage=Stage.OBSERVE,
    judge=judge,
    judge_source=judge_source,
    needs=(Stage.OBSERVE,),
    thresholds={"queries": 3},
)
