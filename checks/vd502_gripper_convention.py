"""What the policy says of the gripper is not what the fingers do.

## What it looks at

Three things of the same step: the model's gripper value, the command that `env.step` received, and the two finger
positions in the observations. The first against the second gives the mapping that was really applied, whatever the code
calls it; it is compared with the one that the profile names, by what it means (open, closed, hold) and not by its
numbers, since LIBERO heeds nothing but the sign. The second against the third gives the sign that really opens the
fingers, and whether they follow at all.

## Why it is bad

The arm goes to the object and does not take it. OpenVLA answers with 0 (closed) to 1 (open), LIBERO wants -1 (open) or
+1 (closed), and 0 is no command: it holds. A value of 0..1 that is passed on closes where the model opens and never
opens again; one that is normalised but not negated does the opposite of what was meant at every step. Nothing is
raised.

## Evidence

`expected` and `seen` say what open and closed became. `per_intent` counts, for each thing that the model said, how
often it was commanded so (right), the other way (opposite) or not at all (held). `aperture_mm` is the distance between
the fingers, first and last, over the steps concerned.

Within the middle 2 % of its range the model's value counts as undecided. A class of values (open, closed) is wrong
where at least 80 % of three or more steps are; single steps around a change are not, so that a late loop (VD503) is
left alone. In 40 healthy episodes of the reference loop no step was wrong. Fingers are judged after five steps of one
sign, by more than 4 mm: they move 17 to 26 mm in that time and are at rest to within 0.5 mm; in LIBERO they need 15
steps to close. One finger counts as going the wrong way if it is 15 mm from where the other is after the first eight
commands to open, and at 80 % of all such moments: a finger that an object or the table blocks is apart too, by up to 23
mm, but later and for a while. How often the command changed stands under `changes`; a policy that changes its mind at
every step is a symptom of something earlier, and no finding here.

## Fix

```python
action[-1] = -np.sign(2.0 * action[-1] - 1.0)    # OpenVLA in LIBERO: [0, 1], 1 = open  ->  -1 = open, +1 = closed
```

once, behind un-normalisation and before `env.step`, and only for checkpoints that answer with 0..1. openpi's and
LeRobot's LIBERO checkpoints answer with LIBERO's own sign: pass it on.

## Known gaps

Where the profile names no rule, the mapping is not judged, only fingers that do not follow the command; a profile that
was made from healthy episodes knows the commands that occur in them, and others are named. A gripper that closes on an
object which fills it is not told from one that is stuck, as long as it moves by less than 1.5 mm; LIBERO's widest
objects leave it 15. A policy that says the wrong thing is not seen: what is compared is what it said.

## References

- openvla/openvla#320: WidowX reproduced, google_robot near 0 %; the gripper flickers.
- openvla/openvla#303: the gripper wrong at 46 % of the steps of a replay.
- NVIDIA/Isaac-GR00T#136: the arm goes to the object, the gripper stays closed, all fail.
- allenai/vla-evaluation-harness#16: 2x - 1 for 1 - 2x, and an inversion that was missing: 1 % success, then 94.9 %.
- huggingface/lerobot#1316, huggingface/lerobot#952: data with 1 = open in a simulator with -1 = open; 41.8 % for 98.8
  %.
- 2toinf/X-VLA#69: 0/1 mapped to 1/-1 where 1/0 was meant.
- strands-labs/robots#168: the command written to the actuators as it is; one finger goes the wrong way, 0 %.
- simpler-env/SimplerEnv#10: the sticky gripper of one robot ported to another.
- The rule: openvla/openvla@c8f03f4 experiments/robot/robot_utils.py:75-102. The environment: robosuite 1.4.0
  models/grippers/panda_gripper.py:43-62.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vladoctor.check import Abstention, Check, Clear, Fault, Problem, Severity, Stage, Verdict
from vladoctor.facts import gripper as gr
from vladoctor.lint.judging import open_command, unseen

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.lint.facts import SourceFacts
    from vladoctor.loop import Loop

AS_IS = "as is"
TWO_SIDED = "2g-1, sign, negate"
NOT_NEGATED = "2g-1, sign"  # where the environment opens at +1, as SimplerEnv's WidowX does

MEANING = {1.0: "open", -1.0: "closed"}


def judge(facts: Facts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Follow the gripper from the model to the fingers."""
    seen = gr.fingers(facts.episode, facts.profile)
    yield from _mapping(facts, seen, limits)
    yield from _fingers(facts, seen, limits)


def _mapping(facts: Facts, fingers: gr.Fingers | None, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """The model's value against the command."""
    profile = facts.profile
    rule, model_open = profile.get("gripper.rule"), profile.get("gripper.model_open")
    opens = profile.get("gripper.environment_open")
    if rule is None and profile.get("gripper.values"):
        yield _among(facts, [float(value) for value in profile.get("gripper.values")], limits)
        return
    if rule not in (AS_IS, TWO_SIDED) or model_open is None or opens is None:
        yield Abstention(f"profile {profile.name} does not say what becomes of the model's gripper")
        return
    seen = gr.commands(facts.episode, profile)
    if seen is None:
        yield Abstention("no step was recorded with both the model's gripper and the executed one")
        return
    meant = gr.says_open(seen.model, float(model_open))
    told = np.where(np.abs(seen.executed) < gr.HOLDS, 0.0, np.sign(seen.executed) * np.sign(float(opens)))
    decided = meant != 0
    wrong = decided & (told != meant)
    table = {
        MEANING[intent]: {
            "right": int((told[rows] == intent).sum()),
            "opposite": int((told[rows] == -intent).sum()),
            "held": int((told[rows] == 0).sum()),
        }
        for intent in (1.0, -1.0)
        if (rows := meant == intent).any()
    }
    if not decided.any():
        yield Abstention("the model never says clearly whether the gripper is to be open or closed")
        return
    broken = [
        intent
        for intent in (1.0, -1.0)
        if (rows := meant == intent).sum() >= limits["steps"] and wrong[rows].mean() >= limits["share"]
    ]
    if not broken:
        apart = float(wrong[decided].mean())
        if apart >= limits["astray"] and decided.sum() >= limits["astray_steps"] and not _lags(meant, told, limits):
            yield _astray(seen, meant, told, wrong, table)
        else:
            yield Clear(
                f"the gripper is commanded as the model says at {decided.sum() - wrong.sum()} of {decided.sum()} steps "
                f"({', '.join(table)})",
                {"per_intent": table, "changes": gr.changes(told)},
            )
        return
    rows = wrong & np.isin(meant, broken)
    opposite = bool((told[rows] == -meant[rows]).mean() > 0.5)
    first, last = int(seen.steps[rows][0]), int(seen.steps[rows][-1])
    evidence: dict[str, Any] = {
        "expected": _sentence(1.0, float(opens)) if rule == AS_IS else f"{TWO_SIDED}: {_sentence(1.0, float(opens))}",
        "seen": _seen(seen, meant),
        "per_intent": table,
    }
    moved = _aperture(fingers, first, last)
    if moved is not None:
        evidence["aperture_mm"] = [round(1e3 * value, 1) for value in moved]
    yield Problem(
        message=f"{_what(seen, meant, broken)}{_effect(broken, opposite, moved)}",
        remedy=_remedy(str(rule)),
        severity=Severity.STOP,
        first_step=first,
        last_step=last,
        evidence=evidence,
    )


def _among(facts: Facts, known: list[float], limits: Mapping[str, float]) -> Verdict:
    """Commands against those of healthy episodes, of a profile that was made from some."""
    place = gr.gripper_place(facts.profile)
    steps = [step for step in facts.episode.policy_steps() if place is not None and len(step.executed) > place]
    if place is None or len(steps) < limits["steps"]:
        return Abstention("too few gripper commands were recorded, or the profile does not say which value they are")
    values = np.array([step.executed[place] for step in steps])
    strange = np.abs(values[:, None] - np.array(known)).min(axis=1) > gr.HOLDS
    listed = ", ".join(f"{value:+.3g}" for value in known)
    if strange.sum() < limits["steps"] or strange.mean() < limits["astray"]:
        return Clear(f"the gripper is commanded as in healthy episodes: {listed}")
    seen = np.unique(np.round(values[strange], 3))
    done = ", ".join(f"{value:+.3g}" for value in seen[:4]) + (" ..." if len(seen) > 4 else "")
    return Problem(
        message=f"The gripper is commanded {done} at {int(strange.sum())} of {len(steps)} steps; in the healthy "
        f"episodes of this profile it is {listed} and nothing else.",
        remedy="Look for what became of the line that maps the model's gripper to the environment's.",
        severity=Severity.FIX,
        first_step=steps[int(strange.argmax())].number,
        last_step=steps[-1].number,
        evidence={"expected": listed, "seen": done},
    )


def _what(seen: gr.Commands, meant: np.ndarray, broken: list[float]) -> str:
    parts = []
    for intent in broken:
        rows = meant == intent
        model, done = float(np.median(seen.model[rows])), float(np.median(seen.executed[rows]))
        parts.append(f"where the model says {MEANING[intent]} ({model:.3g}), {done:+.3g} is executed")
    return _capital("; ".join(parts)) + f"{_how(seen)}. "


def _how(seen: gr.Commands) -> str:
    """The mapping in words, where it is one that people write."""
    m, x = seen.model, seen.executed
    ways = {
        "the value is passed on as it is": m,
        "2g - 1 without being negated": 2.0 * m - 1.0,
        "2g - 1 and its sign, without being negated": np.sign(2.0 * m - 1.0),
        "the sign of the value itself, negated, without 2g - 1 before": -np.sign(m),
        "the value negated, without 2g - 1 before": -m,
        "2g - 1, sign, negate, for a model that answers with a sign already": -np.sign(2.0 * m - 1.0),
        "the value negated and nothing else": -np.sign(m),
    }
    telling = np.ptp(m) > 0.5
    for words, values in ways.items():
        # Of one value alone, many mappings make the same sign.
        if np.allclose(values, x, atol=1e-4) and (telling or not np.isin(np.round(x, 6), (-1.0, 0.0, 1.0)).all()):
            return f": {words}"
    return f": always {x[0]:+.3g}" if np.ptp(x) < gr.HOLDS and len(np.unique(np.round(m, 2))) > 1 else ""


def _effect(broken: list[float], opposite: bool, moved: tuple[float, float] | None) -> str:
    fingers = "" if moved is None else f" The fingers went from {1e3 * moved[0]:.0f} to {1e3 * moved[1]:.0f} mm."
    if len(broken) == 2:
        return f"The gripper does the opposite of what the policy wants.{fingers}" if opposite else fingers.strip()
    name = MEANING[broken[0]]
    if opposite:
        other = "closes" if name == "open" else "opens"
        return f"This environment opens at -1 and closes at +1, so the gripper {other} instead.{fingers}"
    verb = "opens" if name == "open" else "closes"
    return f"To this environment 0 is no command: the gripper holds and never {verb}.{fingers}"


def _sentence(intent: float, opens: float) -> str:
    return f"open becomes {opens:+.0f}, closed {-opens:+.0f}"


def _seen(seen: gr.Commands, meant: np.ndarray) -> str:
    parts = [
        f"{MEANING[intent]} becomes {float(np.median(seen.executed[rows])):+.3g}"
        for intent in (1.0, -1.0)
        if (rows := meant == intent).any()
    ]
    return ", ".join(parts)


def _remedy(rule: str) -> str:
    if rule == AS_IS:
        return (
            "This checkpoint answers with the environment's own sign: pass its last value on as it is, without 2g - "
            "1 and without negating it."
        )
    if rule == NOT_NEGATED:
        return (
            "Map the gripper once, behind un-normalisation and before env.step:\n```python\n"
            "action[-1] = np.sign(2.0 * action[-1] - 1.0)    # [0, 1], 1 = open  ->  +1 = open, -1 = closed\n```"
        )
    return (
        "Map the gripper once, behind un-normalisation and before env.step:\n```python\n"
        "action[-1] = -np.sign(2.0 * action[-1] - 1.0)    # [0, 1], 1 = open  ->  -1 = open, +1 = closed\n```"
    )


def _lags(meant: np.ndarray, told: np.ndarray, limits: Mapping[str, float]) -> bool:
    """Whether the command is what the model said a few steps before: that is a late loop and no gripper's matter."""
    return any((told[by:] == meant[:-by]).mean() > 1.0 - limits["astray"] / 4 for by in range(1, 6) if len(told) > by)


def _astray(
    seen: gr.Commands, meant: np.ndarray, told: np.ndarray, wrong: np.ndarray, table: Mapping[str, Any]
) -> Problem:
    more = gr.changes(told) - gr.changes(meant)
    how = f", and changes {more} times more often" if more > 2 else ""
    return Problem(
        message=f"The executed gripper is not what the model says at {int(wrong.sum())} of {int((meant != 0).sum())} "
        f"steps{how}: something in between keeps it, averages it or switches it. It opens and closes at the "
        f"wrong moment.",
        remedy="Take out what stands between: sticky grippers (a change is repeated for 15 steps) and relative "
        "grippers belong to SimplerEnv's google_robot only; averaging over chunks must leave the gripper alone.",
        severity=Severity.FIX,
        first_step=int(seen.steps[wrong][0]),
        last_step=int(seen.steps[wrong][-1]),
        evidence={"per_intent": dict(table)},
    )


def _fingers(facts: Facts, seen: gr.Fingers | None, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """The command against the fingers."""
    opens = facts.profile.get("gripper.environment_open")
    if seen is None:
        yield Abstention("the fingers' positions, or what they were told, were not recorded")
        return
    if opens is None:
        yield Abstention(f"profile {facts.profile.name} does not say which sign opens the gripper")
        return
    wrong_way = _one_finger(seen, float(opens), limits)
    sign, first, change = gr.opening_sign(seen)
    if wrong_way is not None:
        yield wrong_way
    elif sign is not None and sign != np.sign(float(opens)):
        yield Problem(
            message=f"The fingers {'open' if change > 0 else 'close'} (by {abs(1e3 * change):.0f} mm in {gr.WINDOW} "
            f"steps) at a command that {'closes' if change > 0 else 'opens'} them in this environment as it is "
            "shipped: something behind env.step turns the sign round.",
            remedy="Look for a wrapper around the environment, or a gripper model, that negates the last value. The "
            "environment wants -1 for open and +1 for closed.",
            severity=Severity.STOP,
            stage=Stage.EXECUTE,
            first_step=first,
            evidence={"expected": f"{opens:+.0f} opens", "seen": f"{sign:+.0f} opens"},
        )
    else:
        stuck = _stuck(seen, float(opens), limits)
        if stuck is not None:
            yield stuck
        elif sign is not None:
            yield Clear(f"the fingers open at {sign:+.0f}, as this environment has it", {"opens_at": sign})
        else:
            yield Abstention("the fingers hardly moved, so which sign opens them cannot be told")


def _one_finger(seen: gr.Fingers, opens: float, limits: Mapping[str, float]) -> Problem | None:
    """Told to open for a while, one finger is where the other is not."""
    length = int(limits["settled"])
    ends = np.flatnonzero(gr.kept(seen.signs)[:-1] >= length)
    ends = ends[seen.signs[ends - 1] == np.sign(opens)]
    sides = np.abs(seen.qpos[ends])
    apart = np.abs(sides[:, 0] - sides[:, 1]) > limits["apart_m"]
    # From the first time on, and nearly always: a finger that something blocks is apart as well, for a while.
    if not len(ends) or not apart[0] or apart.mean() < limits["share"]:
        return None
    end, (left, right) = ends[0], map(float, sides[0])
    return Problem(
        message=f"After {length} commands to open, one finger is at {1e3 * left:.0f} mm and the other at "
        f"{1e3 * right:.0f} mm: one of them goes the wrong way, so that nothing can be held.",
        remedy="Give the command to the gripper's own mapping (robosuite: gripper.format_action), which makes "
        "two actuator values of opposite sign of it, and do not write it to the actuators yourself.",
        severity=Severity.STOP,
        stage=Stage.EXECUTE,
        first_step=int(seen.steps[end]),
        evidence={"finger_mm": [round(1e3 * left, 1), round(1e3 * right, 1)]},
    )


def _stuck(seen: gr.Fingers, opens: float, limits: Mapping[str, float]) -> Problem | None:
    """Told to open or close for long, from a position where they could, the fingers stay where they are."""
    length, width = int(limits["long"]), seen.aperture
    widest = float(limits["widest_m"])
    for end in np.flatnonzero(gr.kept(seen.signs)[:-1] >= length):
        opening = seen.signs[end - 1] == np.sign(opens)
        start = float(width[end - length])
        room = widest - start if opening else start
        if room < limits["room_m"] or np.ptp(width[end - length : end + 1]) > limits["still_m"]:
            continue
        # Held: it closed before, and on something.
        if not opening and start < widest - limits["room_m"] / 4:
            continue
        # Blocked, by an object or the table: at another time they did go that way.
        if (
            (width.max() > start + limits["room_m"] / 4)
            if opening
            else (width[end:].min() < start - limits["room_m"] / 4)
        ):
            continue
        return Problem(
            message=f"Told to {'open' if opening else 'close'} for {length} steps, the fingers stay "
            f"{1e3 * start:.0f} mm apart: they do not follow the command.",
            remedy="Look behind env.step: a wrapper that drops the last value, a gripper that is not driven "
            "(control_freq, actuators), or a simulator that is not stepped.",
            severity=Severity.FIX,
            stage=Stage.EXECUTE,
            first_step=int(seen.steps[end - length]),
            last_step=int(seen.steps[end]),
            evidence={"aperture_mm": [round(1e3 * start, 1), round(1e3 * float(width[end]), 1)]},
        )
    return None


def _aperture(seen: gr.Fingers | None, first: int, last: int) -> tuple[float, float] | None:
    if seen is None:
        return None
    rows = np.flatnonzero((seen.steps >= first) & (seen.steps <= last + 1))
    return (float(seen.aperture[rows[0]]), float(seen.aperture[rows[-1]])) if len(rows) > 1 else None


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _command(change: Callable[[float], float]) -> Callable[[Loop], None]:
    """A loop whose own line for the gripper is another one: value of the model -> command."""

    def apply(loop: Loop) -> None:
        def command(action: np.ndarray) -> list[float]:
            values = [float(value) for value in action]
            return [*values[:-1], change(values[-1])]

        loop.stages.command = command

    return apply


def _sticky(loop: Loop) -> None:
    """SimplerEnv's google_robot branch: the difference to the last value, and a change repeated for 15 steps."""
    last: float | None = None
    stuck, left = 0.0, 0

    def relative(value: float) -> float:
        nonlocal last, stuck, left
        change = 0.0 if last is None else last - value
        last = value
        if abs(change) > 0.5 and not left:
            stuck, left = float(np.sign(change)), 15
        if left:
            left -= 1
            return stuck
        return change

    _command(relative)(loop)


def _turned_round(loop: Loop) -> None:
    """A wrapper between loop and environment that has a convention of its own."""
    gripper = _gripper_model(loop)
    original = type(gripper).format_action
    gripper.format_action = lambda action: original(gripper, -np.asarray(action))


def _raw_actuators(loop: Loop) -> None:
    """Both actuators are given the same value: the fingers' joints have opposite axes."""
    gripper = _gripper_model(loop)
    original = type(gripper).format_action
    gripper.format_action = lambda action: np.repeat(np.asarray(original(gripper, action))[:1], 2)


def _gripper_model(loop: Loop) -> Any:
    """The gripper of the robot; a reset makes a new one, so it is changed after each."""
    return loop.env.env.robots[0].gripper


def _after_reset(change: Callable[[Loop], None]) -> Callable[[Loop], None]:
    def apply(loop: Loop) -> None:
        inner = loop.env.env
        original = inner.reset

        def reset(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            change(loop)
            return result

        inner.reset = reset

    return apply


def judge_source(facts: SourceFacts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Follow sample values of the gripper to env.step and compare what they ask for with what the model means."""
    action, model_open = facts.action, facts.profile.get("gripper.model_open")
    if model_open is None or not action.seen or (not action.complete and not action.seen[0].value.accumulated):
        yield (
            unseen(action, "the gripper's way")
            if model_open is not None
            else Abstention(f"profile {facts.profile.name} does not say what the gripper's values mean")
        )
        return
    first = action.seen[0]
    if first.value.accumulated and model_open == 1:
        yield Problem(
            message="The gripper's value is added up from step to step; it is absolute (0 closed, 1 open), so the sum "
            "only ever opens.",
            remedy="Command it as it is: `position = value * full_opening`.",
            severity=Severity.STOP,
            place=first.place,
            trail=first.trail,
        )
        return
    opens = open_command(facts)
    if opens is None or any(one.value.gripper is None for one in action.seen):
        yield Abstention("the gripper's way, or the environment's convention, is not known")
        return
    wrong = action.wrong(lambda one: _mistaken(one.gripper or (), model_open, opens))
    if wrong is None and not action.right(lambda one: _mistaken(one.gripper or (), model_open, opens)):
        yield Abstention("the gripper is mapped on some ways through the code, on others not")
        return
    if wrong is None:
        yield Clear("the gripper does what the policy says")
        return
    pairs = wrong.value.gripper or ()
    executed = {round(value, 3) + 0.0 for _, value in pairs}  # no -0
    as_is = all(abs(a - b) < 1e-6 for a, b in pairs)
    rule = facts.profile.get("gripper.rule") or (NOT_NEGATED if opens == model_open == 1 else TWO_SIDED)
    half = as_is and opens == model_open == 1
    yield Problem(
        message=(
            "The policy's gripper value goes to the environment as it is"
            if as_is
            else f"The gripper's value arrives as {min(executed):g} to {max(executed):g}, and what the policy means by "
            "open does not open"
        )
        + (
            "; the policy says 0 for closed, the environment closes at -1."
            if half
            else f"; the policy says {model_open:g} for open, the environment opens at {opens:g}."
        ),
        remedy=_remedy(str(rule)),
        severity=Severity.STOP,
        evidence={
            "expected": str(rule),
            "seen": ", ".join(f"{value:g} -> {command:g}" for value, command in dict.fromkeys(pairs)),
        },
        place=wrong.place,
        trail=wrong.trail,
    )


def _mistaken(pairs: Sequence[tuple[float, float]], model_open: float, opens: float) -> bool:
    """Whether some value that means open or closed asks for something else."""
    low = 0.0 if model_open == 1 else -1.0
    middle = (low + 1) / 2
    for value, command in pairs:
        if abs(value - middle) < 0.05 or not low - 0.01 <= value <= 1.01:
            continue
        means_open = (value > middle) == (model_open == 1)
        if command * (opens if means_open else -opens) <= 0:
            return True
    return False


CHECK = Check(
    code="VD502",
    name="gripper-convention",
    stage=Stage.POSTPROCESS,
    judge=judge,
    judge_source=judge_source,
    needs=(Stage.EXECUTE,),
    thresholds={
        "steps": 3,
        "share": 0.8,
        "astray": 0.2,
        "astray_steps": 40,
        "settled": 8,
        "apart_m": 0.015,
        "long": 20,
        "room_m": 0.02,
        "still_m": 0.0015,
        "widest_m": 0.08,
    },
    faults=(
        Fault(
            "gripper-not-inverted",
            "2g - 1 and its sign are sent on without being negated",
            _command(lambda value: float(np.sign(2.0 * value - 1.0))),
            reports=("allenai/vla-evaluation-harness#16", "huggingface/lerobot#1316"),
        ),
        Fault(
            "gripper-raw",
            "the model's 0..1 goes to env.step as it is",
            _command(lambda value: value),
        ),
        Fault(
            "gripper-equals-one",
            "the gripper opens where the value is 1.0, which the last bin's centre, 0.996, never is",
            _command(lambda value: -1.0 if value == 1.0 else 1.0),
        ),
        Fault(
            "gripper-sticky",
            "relative and sticky gripper of SimplerEnv's google_robot, ported along",
            _sticky,
            reports=("simpler-env/SimplerEnv#10",),
        ),
        Fault(
            "gripper-wrapper",
            "the gripper model below env.step negates the command: LIBERO's sign is taken for the other one",
            _after_reset(_turned_round),
        ),
        Fault(
            "gripper-one-finger",
            "the command is written to both actuators with one sign",
            _after_reset(_raw_actuators),
            reports=("strands-labs/robots#168",),
        ),
    ),
)
