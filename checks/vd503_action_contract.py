"""What is executed is not the action that the policy answered with: scaled, swapped, dropped, late, or of another kind.

## What it looks at

The arm's values of each answer beside those that `env.step` received at the same step, dimension by dimension: the
same, another dimension's, the negative, a constant, or on a line with another slope; all of them those of an earlier
query; or the hand's position plus the action. Then how much of what was executed lies outside of what the controller
heeds. And from the hand's motion: whether the environment takes commands as displacements or as places.

## Why it is bad

Every motion is a wrong one, and the loop goes on. Two axes exchanged, a rotation left out, a factor made up by hand, an
action executed a step later: the policy sees the consequences, cannot correct them, and the success rate is near 0 %
with an arm that looks busy. A controller that takes places drives a displacement of 0.3 to a point 30 cm in front of
the base, without a word.

## Evidence

`per_dimension` names what each value was made of and the measured slope. A relation counts if it holds at every query
to 0.4 % (values that went through bfloat16), another dimension's or a negated value to 1e-5, and if the values took
three or more levels. `clipped_share` is the share of steps at which a value lay outside of the controller's range by
more than 10 %: severity is look from a fifth of the steps on, fix where in half of them the value is twice the range.

Motion: `as_displacement` and `as_place` are the shares of the hand's motion that each reading explains with one factor.
In LIBERO healthy episodes reach 0.93 to 0.98 as displacement (42 episodes); a reading is taken only at 0.75 or more,
with the other below half, and at least 5 cm moved. A hand that is told zeros while objects settle moves by less than
2 cm (40 episodes); 5 cm count.

## Fix

```python
obs, reward, done, info = env.step(action)      # the action as predict_action returned it, but for the gripper
```

## Known gaps

Averages over several answers (temporal ensembles, smoothing) are no relation to one of them: nothing is said. A
rotation converted between Euler angles and axis-angle differs from the identity only in second order, and is not seen
for small rotations. What is changed behind `env.step` shows in the motion only, and there only displacement against
place. A profile that was made from healthy episodes has their range instead: commands far outside of it are for a look.
Where the profile does not know whether the loop must still un-normalise what the policy returned, scaling is not
judged.

## References

- 4paradigm/phanthymotus#248: absolute poses accepted as joint positions; only the number of values had been compared.
- ARISE-Initiative/robosuite#562, ARISE-Initiative/robosuite#693: a renamed setting, ignored: the controller still takes
  displacements (or the other way round).
- openvla/openvla#43: the action taken for the final position.
- ARISE-Initiative/robosuite#707, Lifelong-Robot-Learning/LIBERO#43: factors 0.05 and 0.5 applied by hand.
- UT-Austin-RPL/deoxys_control#40: a hidden factor of 10 and a clip.
- thu-ml/RoboticsDiffusionTransformer#102, Lifelong-Robot-Learning/LIBERO#40: LIBERO's rotation is axis-angle.
- Physical-Intelligence/openpi#416: a delta transform that subtracts rotations.
- strands-labs/robots#896: names of action values that resolve to no actuator: one joint of six is driven, or none.
- strands-labs/robots#704: an action of another length is filled up with zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vladoctor.check import Abstention, Check, Clear, Fault, Problem, Severity, Stage, Verdict
from vladoctor.facts import actions as ac
from vladoctor.facts.gripper import gripper_place
from vladoctor.lint.judging import unseen

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.lint.facts import SourceFacts
    from vladoctor.loop import Loop

NOT_NORMALISED = ("predict_action", "openpi.infer", "openpi.policy")
"""Boundaries whose answers are in the environment's units: nothing may be scaled behind them."""

SLOPED = ("same", "line", "ratio", "constant")
"""Kinds of relation of a dimension to itself, which have a slope."""

AS_DISPLACEMENTS = (
    "Set the controller to displacements (robosuite 1.4: control_delta; 1.5: input_type). A key that the installed "
    "version does not know is ignored without a word: read it back from the controller, robot.controller.use_delta."
)

AS_IT_IS = "Pass the policy's action on as it is: its arm values already are what the environment takes."


@dataclass(frozen=True, eq=False)
class _Arm:
    """The queries whose answer and command are known, without the gripper.

    Attributes:
        steps: int (queries,).
        planned, executed: float64 (queries, dim), all dimensions.
        dims: indices of the arm's.
        names: of all dimensions.
        limits: what the controller heeds.
        known: the profile says what is to be executed.
    """

    steps: np.ndarray
    planned: np.ndarray
    executed: np.ndarray
    dims: list[int]
    names: tuple[str, ...]
    limits: tuple[float, float]
    known: bool

    @property
    def alike(self) -> np.ndarray:
        """Bool (queries, arm)."""
        return ac.same(self.planned[:, self.dims], self.executed[:, self.dims], self.limits, ac.ROUNDED)


def judge(facts: Facts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Compare answers with commands, and commands with motion."""
    yield from _answers(facts, limits)
    yield from _clipping(facts, limits)
    yield from _motion(facts, limits)


def _answers(facts: Facts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    counted = _count(facts)
    if counted is not None:
        yield counted
        return
    arm = _arm(facts)
    if arm is None:
        # Of a loop that decodes the ids itself, VD501 compares what was executed with the ids.
        yield Abstention("no query was recorded with both its action and what was executed")
        return
    if len(arm.steps) < limits["queries"]:
        yield Abstention(f"{len(arm.steps)} queries are too few to tell what became of their actions")
        return
    if arm.alike.all():
        yield Clear(f"what is executed is the policy's action at all {len(arm.steps)} queries, but for the gripper")
        return
    if _other_rows(facts, arm):
        yield Abstention("what is executed at a query is another row of its answer than the first: VD505's to say")
        return
    yield _late(arm) or _absolute(arm, facts) or _dimensions(arm, facts)


def _count(facts: Facts) -> Problem | None:
    names, wide = facts.profile.get("action.dimensions"), ac.answer_size(facts.episode)
    size = ac.executed_size(facts.episode)
    if not names or wide != len(names) or size is None or size == wide:
        return None
    first = next(step.number for step in facts.episode.policy_steps() if step.executed)
    return Problem(
        message=f"The policy answers with {wide} values ({', '.join(map(str, names))}), and env.step is given {size}.",
        remedy=f"{AS_IT_IS} Do not cut or pad it.",
        severity=Severity.STOP,
        first_step=first,
        evidence={"expected": f"{wide} values", "seen": f"{size} values"},
    )


def _arm(facts: Facts) -> _Arm | None:
    laid = ac.plan(facts.episode)
    if laid is None:
        return None
    rows = laid.comparable & laid.asked
    if not rows.any():
        return None
    size = laid.planned.shape[1]
    place = gripper_place(facts.profile)
    place = size - 1 if place is None else place
    low, high = facts.profile.get("environment.input_range") or (-np.inf, np.inf)
    boundaries = {query.boundary for _, query in facts.episode.queries()}
    return _Arm(
        laid.steps[rows],
        laid.planned[rows],
        laid.executed[rows],
        [dim for dim in range(size) if dim != place],
        ac.dimensions(facts.profile, size),
        (float(low), float(high)),
        boundaries <= set(NOT_NORMALISED) and bool(facts.profile.get("action.dimensions")),
    )


def _other_rows(facts: Facts, arm: _Arm) -> bool:
    """Whether the commands at the queries are rows of the answers, but not the first ones."""
    at = set(map(int, arm.steps))
    found = [one for one in ac.origins(facts.episode, arm.dims, arm.limits) if one.step in at]
    other = [one for one in found if one.query is not None and (one.query != one.step or one.row > 0)]
    long = any(len(query.chunk) > 1 for _, query in facts.episode.queries())
    return long and bool(found) and len(other) >= 0.5 * len(found)


def _late(arm: _Arm) -> Problem | None:
    found = ac.late(arm.planned[:, arm.dims], arm.executed[:, arm.dims], arm.limits)
    if found is None:
        return None
    by = f"{found.by} {'query' if found.by == 1 else 'queries'}"
    return Problem(
        message=f"What is executed is the action of {by} before: the arm does what the policy said about an older "
        "frame, and the policy corrects what it can no longer see.",
        remedy="Execute the answer of the frame that was just taken. Look for a queue that is filled before it is "
        "emptied, a thread that answers for the next step, or `action` assigned after env.step.",
        severity=Severity.FIX if arm.known else Severity.LOOK,
        stage=Stage.EXECUTE,
        first_step=int(arm.steps[0]),
        last_step=int(arm.steps[-1]),
        evidence={"expected": "the action of the same query", "seen": f"the action of {by} before"},
    )


def _absolute(arm: _Arm, facts: Facts) -> Problem | None:
    if facts.profile.get("action.frame") != "delta" or len(arm.dims) < 3 or list(arm.dims[:3]) != [0, 1, 2]:
        return None
    where = ac.positions(facts.episode, arm.steps)
    scale = ac.absolute(arm.planned[:, :3], arm.executed[:, :3], where)
    if scale is None:
        return None
    return Problem(
        message=f"What is executed is the hand's position plus {scale:.3g} times the action: a place to go to. This "
        "environment takes displacements, so a place 30 cm from the base is a motion of 30 % of full speed, again and "
        "again, whatever the policy says.",
        remedy=f"{AS_IT_IS} The controller adds it to the pose of the moment itself (use_delta / control_delta).",
        severity=Severity.STOP,
        first_step=int(arm.steps[0]),
        last_step=int(arm.steps[-1]),
        evidence={"expected": "a displacement", "seen": f"position + {scale:.3g} * action"},
    )


def _dimensions(arm: _Arm, facts: Facts) -> Verdict:
    wrong_rows = ~arm.alike
    dims = [dim for dim, column in zip(arm.dims, wrong_rows.T, strict=True) if column.any()]
    made = ac.made_of(arm.planned, arm.executed, arm.limits, arm.dims)
    found = {dim: made[dim] for dim in dims}
    first = int(arm.steps[wrong_rows.any(axis=1)][0])
    unknown = [dim for dim in dims if found[dim].kind == "unknown"]
    scaled = [dim for dim in dims if found[dim].kind == "line"]
    guessed = [dim for dim in dims if found[dim].kind == "ratio"]
    slopes = {round(found[dim].slope, 3) for dim in guessed}
    if guessed and len(guessed) > 1 and len(slopes) == 1 and _named(arm, guessed, slopes.pop()):
        scaled, guessed = [*scaled, *guessed], []
    if len(unknown) + len(guessed) == len(dims) or (scaled and not arm.known):
        return Abstention(
            f"at {int(wrong_rows.any(axis=1).sum())} of {len(arm.steps)} queries, first at step {first}, what was "
            "executed follows from no answer in a way that is known to be wrong"
        )
    small = all(found[dim].kind == "constant" and np.abs(arm.planned[:, dim]).max() < 0.01 for dim in dims)
    exact = any(found[dim].kind in ("moved", "negated", "constant") for dim in dims)
    severity = Severity.LOOK if small or not arm.known else Severity.FIX
    if arm.known and _gross(found):
        severity = Severity.STOP
    return Problem(
        message=f"{_what(arm, found)}.{_effect(arm, found, small)}",
        remedy=AS_IT_IS
        + (" Look for an action that is taken apart and put together again by hand." if exact else "")
        + (" Factors of the controller are its own business." if scaled else ""),
        severity=severity,
        first_step=first,
        last_step=int(arm.steps[wrong_rows.any(axis=1)][-1]),
        evidence={
            "expected": "each value as the policy answered it",
            "seen": "; ".join(_words(arm, dim, one) for dim, one in found.items()),
            "per_dimension": {
                "slope": [
                    float(f"{made[dim].slope:.4g}") if dim in made and made[dim].kind in SLOPED else None
                    for dim in range(len(arm.names))
                ]
            },
        },
    )


def _what(arm: _Arm, found: Mapping[int, ac.Dimension]) -> str:
    groups: list[str] = []
    constant = [dim for dim, one in found.items() if one.kind == "constant"]
    if constant:
        values = {one.offset for dim, one in found.items() if dim in constant}
        value = f"{values.pop():.3g}" if len(values) == 1 else "the same"
        verb = "is" if len(constant) == 1 else "are"
        groups.append(f"{_listed(arm, constant)} {verb} executed as {value} whatever the policy says")
    lines = {dim: one for dim, one in found.items() if one.kind in ("line", "ratio")}
    while lines:
        slope = next(iter(lines.values())).slope
        alike = [dim for dim, one in lines.items() if abs(one.slope - slope) <= 0.02 * abs(slope)]
        named = _named(arm, alike, slope)
        offset = lines[alike[0]].offset
        groups.append(
            f"{_listed(arm, alike)} {'is' if len(alike) == 1 else 'are'} multiplied by {slope:.4g}"
            + (f" ({named})" if named else "")
            + (f", and {offset:.3g} is added" if offset else "")
        )
        lines = {dim: one for dim, one in lines.items() if dim not in alike}
    rest = {dim: one for dim, one in found.items() if one.kind in ("moved", "negated")}
    for dim, one in rest.items():
        back = rest.get(one.source)
        if one.kind == "moved" and back is not None and back.kind == "moved" and back.source == dim:
            if dim < one.source:
                groups.append(f"{arm.names[dim]} and {arm.names[one.source]} are exchanged")
        else:
            groups.append(f"{arm.names[dim]} is negated" if one.source == dim else _words(arm, dim, one))
    text = "; ".join(groups)
    return text[:1].upper() + text[1:]


def _named(arm: _Arm, dims: list[int], slope: float) -> str:
    """What a factor is known as, for these dimensions; "" for any other."""
    rotation = {arm.names[dim] for dim in dims} <= {"roll", "pitch", "yaw"}
    for name, value in ac.FACTORS.items():
        if abs(slope / value - 1.0) < 0.01 and rotation == any(word in name for word in ("rad", "pi/")):
            return name
    return ""


def _words(arm: _Arm, dim: int, one: ac.Dimension) -> str:
    name, source = arm.names[dim], arm.names[one.source]
    if one.kind == "moved":
        return f"{name} is executed with the policy's {source}"
    if one.kind == "negated":
        return f"{name} is executed with the policy's {source} negated"
    if one.kind == "constant":
        return f"{name} is {one.offset:.3g} throughout"
    if one.kind in ("line", "ratio"):
        return f"{name} is {one.slope:.3g} times the policy's" + (f" plus {one.offset:.3g}" if one.offset else "")
    return f"{name} is something else"


def _listed(arm: _Arm, dims: list[int]) -> str:
    names = [arm.names[dim] for dim in dims]
    if len(dims) == len(arm.dims):
        return "all arm values"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _effect(arm: _Arm, found: Mapping[int, ac.Dimension], small: bool) -> str:
    if small:
        return " In this episode the policy hardly uses them (all below 0.01), so nothing came of it yet."
    if any(one.kind in ("moved", "negated") for one in found.values()):
        return " The arm moves along other axes than the policy means."
    return "" if any(one.kind == "constant" for one in found.values()) else " Motions have another size than meant."


def _gross(found: Mapping[int, ac.Dimension]) -> bool:
    """Nothing of the policy is left, or motions are 3 times too large or small."""
    return (all(one.kind == "constant" for one in found.values()) and len(found) >= 6) or any(
        one.kind == "line" and (abs(one.slope) >= 3.0 or abs(one.slope) <= 1.0 / 3.0) for one in found.values()
    )


def _clipping(facts: Facts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    heeded, names = facts.profile.get("environment.input_range"), facts.profile.get("action.dimensions")
    if not heeded or not names:
        yield from _beyond(facts, limits)
        return
    place = gripper_place(facts.profile)
    steps = [step for step in facts.episode.policy_steps() if len(step.executed) == len(names)]
    if len(steps) < limits["clip_steps"]:
        return
    low, high = float(heeded[0]), float(heeded[1])
    values = np.array([step.executed for step in steps])
    values[:, place if place is not None else len(names) - 1] = 0.0
    half, middle = (high - low) / 2.0, (high + low) / 2.0
    excess = np.abs(values - middle) / half
    outside = excess > 1.0 + limits["clip_excess"]
    share = float(outside.any(axis=1).mean())
    if share < limits["clip_share"]:
        yield Clear(
            f"{share:.0%} of {len(steps)} commands lie outside of what the controller heeds, {low:g} to {high:g}",
            {"clipped_share": round(share, 3)},
        )
        return
    gross = float((excess > 2.0).any(axis=1).mean()) >= 0.5
    worst = int(outside.mean(axis=0).argmax())
    yield Problem(
        message=f"At {share:.0%} of {len(steps)} steps a command lies outside of {low:g} to {high:g}, where the "
        f"controller cuts it off ({names[worst]} most often, up to {excess[:, worst].max():.1f} times the range): "
        "large and larger motions become the same.",
        remedy="Actions in this environment's units stay within that range. Look at the statistics they were "
        "un-normalised with, and for a factor that was applied twice.",
        severity=Severity.FIX if gross else Severity.LOOK,
        stage=Stage.EXECUTE,
        first_step=steps[int(outside.any(axis=1).argmax())].number,
        last_step=steps[-1].number,
        evidence={
            "clipped_share": round(share, 3),
            "per_dimension": {"share_clipped": [round(float(value), 3) for value in outside.mean(axis=0)]},
        },
    )


def _beyond(facts: Facts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Commands against the range of those in healthy episodes, of a profile that was made from some."""
    table = facts.profile.get("action.range") or {}
    low, high = (np.asarray(table.get(side) or (), dtype=np.float64) for side in ("low", "high"))
    steps = [step for step in facts.episode.policy_steps() if len(step.executed) == len(low)]
    if not len(low) or len(low) != len(high) or len(steps) < limits["clip_steps"]:
        return
    values, span = np.array([step.executed for step in steps]), np.maximum(high - low, 1e-9)
    excess = np.maximum(values - high, low - values) / span
    outside = (excess > limits["beyond"]).any(axis=1)
    share = float(outside.mean())
    if share < limits["clip_share"]:
        yield Clear(f"{share:.0%} of {len(steps)} commands lie far outside of the range of healthy episodes")
        return
    name = ac.dimensions(facts.profile, len(low))[int(excess.max(axis=0).argmax())]
    yield Problem(
        message=f"At {share:.0%} of {len(steps)} steps a command lies outside of the healthy episodes' range by more "
        f"than {limits['beyond']:.0%} of its width, {name} by {excess.max():.0%}.",
        remedy="Look at the statistics that actions are un-normalised with, and for a factor on the way.",
        severity=Severity.LOOK,
        first_step=steps[int(outside.argmax())].number,
        last_step=steps[-1].number,
        evidence={"share_outside": round(share, 3)},
    )


def _motion(facts: Facts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    frame = facts.profile.get("action.frame")
    if frame not in ("delta", "absolute"):
        yield Abstention(f"profile {facts.profile.name} does not say whether actions are displacements or places")
        return
    drift = ac.drift(facts.episode) if frame == "delta" else None
    if drift is not None and drift.metres >= limits["drift_m"]:
        yield Problem(
            message=f"The hand moves by {100 * drift.metres:.0f} cm while it is commanded zeros (steps {drift.first} "
            f"to {drift.last}): the environment takes a command as a place to go to, and this checkpoint answers with "
            "displacements.",
            remedy=AS_DISPLACEMENTS,
            severity=Severity.STOP,
            stage=Stage.EXECUTE,
            first_step=drift.first,
            evidence={"expected": "displacement", "seen": "place", "drift_cm": round(100 * drift.metres, 1)},
        )
        return
    low, high = facts.profile.get("environment.input_range") or (-np.inf, np.inf)
    seen = ac.motion(facts.episode, (float(low), float(high)))
    if seen is None or seen.moved < limits["moved_m"]:
        yield Abstention("the hand's position was not recorded, or it hardly moved", missing=seen is None)
        return
    evidence = {"as_displacement": round(seen.delta, 3), "as_place": round(seen.absolute, 3)}
    right, wrong = (seen.delta, seen.absolute) if frame == "delta" else (seen.absolute, seen.delta)
    if wrong < limits["explains"] or right > wrong / 2:
        if right >= limits["explains"]:
            kind = "displacements" if frame == "delta" else "places"
            yield Clear(f"the hand's motion follows the commands as {kind} ({right:.0%} of it explained)", evidence)
        return
    meant, done = ("displacement", "place") if frame == "delta" else ("place", "displacement")
    yield Problem(
        message=f"The environment takes each command as a {done}: that explains {wrong:.0%} of the hand's motion, "
        f"and as a {meant}, which this checkpoint answers with, {right:.0%}.",
        remedy=AS_DISPLACEMENTS
        if frame == "delta"
        else "Set the controller to absolute poses, and read it back from it.",
        severity=Severity.STOP,
        stage=Stage.EXECUTE,
        first_step=min(int(facts.episode.steps[0].number), 0),
        evidence={"expected": meant, "seen": done, **evidence},
    )


def _change(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Loop], None]:
    """A loop that does something to the arm's six values before it sends them."""

    def apply(loop: Loop) -> None:
        command = loop.stages.command

        def changed(action: np.ndarray) -> list[float]:
            values = np.array(command(action))
            values[:6] = change(values[:6])
            return [float(value) for value in values]

        loop.stages.command = changed

    return apply


def _one_late(loop: Loop) -> None:
    """The step is sent what was computed during the one before, as in a loop that overlaps the two."""
    command, waiting = loop.stages.command, [[0.0] * 6 + [-1.0]]

    def late(action: np.ndarray) -> list[float]:
        waiting.append(command(action))
        return waiting.pop(0)

    loop.stages.command = late


def _to_places(loop: Loop) -> None:
    """Displacements are added to the hand's pose, for a controller that is believed to take places."""
    act, command = loop.act, loop.stages.command
    place = np.zeros(3)

    def looks(obs: Mapping[str, Any]) -> list[float]:
        place[:] = obs["robot0_eef_pos"]
        return act(obs)

    def target(action: np.ndarray) -> list[float]:
        values = np.array(command(action))
        values[:3] = place + 0.05 * values[:3]
        return [float(value) for value in values]

    loop.act, loop.stages.command = looks, target  # type: ignore[method-assign]


def _send_by_name(loop: Loop) -> None:
    """The action is sent by names, of which the robot's own list has only the gripper's; the rest stays zero."""
    command = loop.stages.command
    sent = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
    known = ("ee_x", "ee_y", "ee_z", "ee_rx", "ee_ry", "ee_rz", "gripper")

    def by_name(action: np.ndarray) -> list[float]:
        values = dict(zip(sent, command(action), strict=True))
        return [float(values.get(name, 0.0)) for name in known]

    loop.stages.command = by_name


def _controller_takes_places(loop: Loop) -> None:
    """A controller configuration whose key for displacements this version does not read."""
    inner = loop.env.env
    original = inner.reset

    def reset(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        inner.robots[0].controller.use_delta = False
        return result

    inner.reset = reset


def judge_source(facts: SourceFacts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Compare the arm's dimensions that env.step receives with those that the policy answered."""
    action = facts.action
    if not action.known or any(one.value.arm is None for one in action.seen):
        yield unseen(action, "the action's way") if not action.known else Abstention("the arm's way is not known")
        return
    if facts.environment != "libero" or facts.profile.get("action.frame") != "delta":
        yield Abstention("in which units the environment takes actions is not known")
        return
    wrong = action.wrong(lambda one: any(arm != (dim, 1.0, 0.0) for dim, arm in enumerate(one.arm or ())))
    if wrong is None:
        yield Clear("the arm's dimensions are executed as answered")
        return
    names = facts.profile.get("action.dimensions") or [str(dim) for dim in range(7)]
    said = []
    for dim, (source, factor, offset) in enumerate(wrong.value.arm or ()):
        if (source, factor, offset) != (dim, 1.0, 0.0):
            what = names[source] if source != dim else ""
            said.append(
                f"{names[dim]} is {what or 'its value'}"
                + (f" times {factor:g}" if factor != 1 else "")
                + (f" plus {offset:g}" if offset else "")
            )
    yield Problem(
        message=f"What is executed is not what the policy answered: {'; '.join(said)}.",
        remedy="Execute the un-normalised action as it is: its units are the environment's.",
        severity=Severity.STOP,
        evidence={"expected": "each value as the policy answered it", "seen": "; ".join(said)},
        place=wrong.place,
        trail=wrong.trail,
    )


CHECK = Check(
    code="VD503",
    name="action-contract",
    stage=Stage.POSTPROCESS,
    judge=judge,
    judge_source=judge_source,
    needs=(Stage.EXECUTE,),
    thresholds={
        "queries": 3,
        "clip_steps": 20,
        "clip_excess": 0.1,
        "clip_share": 0.2,
        "beyond": 0.5,
        "explains": 0.75,
        "moved_m": 0.05,
        "drift_m": 0.05,
    },
    explained_by=("VD501",),
    faults=(
        Fault(
            "action-scaled",
            "the loop multiplies by the controller's 0.05 m and 0.5 rad, which the controller applies itself",
            _change(lambda arm: arm * np.array([0.05, 0.05, 0.05, 0.5, 0.5, 0.5])),
        ),
        Fault(
            "action-dims-swapped",
            "x and y exchanged, the convention of another robot's base",
            _change(lambda arm: arm[[1, 0, 2, 3, 4, 5]]),
        ),
        Fault(
            "action-axis-negated",
            "y negated, as for a camera that looks at the robot from the other side",
            _change(lambda arm: arm * np.array([1.0, -1.0, 1.0, 1.0, 1.0, 1.0])),
        ),
        Fault(
            "action-rotation-dropped",
            "the loop sends position and gripper only, and zeros for the rotation",
            _change(lambda arm: np.concatenate([arm[:3], np.zeros(3)])),
        ),
        Fault(
            "action-names-unresolved",
            "the action is sent by names that the robot does not know, but for the gripper's, and zeros for the rest",
            _send_by_name,
            reports=("strands-labs/robots#896", "strands-labs/robots#704"),
        ),
        Fault("action-late", "each step executes the answer of the query before", _one_late),
        Fault(
            "action-absolute-target",
            "the action is taken for a place: the hand's position is added to it",
            _to_places,
            reports=("ARISE-Initiative/robosuite#562", "ARISE-Initiative/robosuite#693"),
        ),
        Fault(
            "controller-absolute",
            "the environment's controller takes places, its setting ignored",
            _controller_takes_places,
            reports=("openvla/openvla#43",),
        ),
    ),
)
