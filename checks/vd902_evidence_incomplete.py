"""Something of the loop could not be seen, and some checks therefore say nothing.

## What it looks at

For every stage of the loop whether anything of it was recorded, at how many steps, and through which boundary: frames
and observations of the environment, the image and the prompt that the policy was given, what its processor made of
them, its forward pass, the ids, what it answered, what was executed, what the environment said of success. Beside that
the recorder's own remarks, whether the recording ends as it should, whether the executed actions are those that the
policy answered, and whether the images that it was given are of a camera's frames at all: one that fits none, however
it is turned, cropped or late, no check of images can judge.

What nobody sees from where the taps are is no finding: a policy in another process, of which the client shows what is
sent and answered; a policy that answers in numbers and makes no ids; an environment that knows no success. That is
said, and the checks concerned abstain.

## Why it is bad

A check that saw nothing is silent, and so is one that found everything right. A green page over a recording without
frames is worth nothing: whoever reads "no finding" has to know of what.

## Evidence

`stages` says of each stage what was seen. `silent_checks` are the checks that need one of those that were not.

Such a finding is always a *look*, as it says nothing against the loop, and makes the exit status 3 (evidence
incomplete) and not 1.

## Fix

It depends on what is missing; the finding says which adapter, option or call would show it. Most often one of these:

```python
env = doctor.watch_env(env, vladoctor.EnvAdapter("mine", frames=lambda obs: {"front": obs["front_rgb"]}))
doctor.asked(prompt=prompt, image=image, action=action)  # right after the policy has answered
```

For a policy behind a socket, run its server under `vladoctor diagnose -- ...` too, and judge both recordings together.

## Known gaps

A stage counts as seen if something of it was recorded at all but one of the steps; whether that is all of it cannot be
known: a second camera that is given to the policy and is in no observation, a wrapper below the innermost tap. A
program of which nothing at all was recorded has no episode to judge; the report says so by itself.

## References

- ros2/ros2cli ros2doctor/api/__init__.py: a check that raises is dropped from the total, so that "all passed" can mean
  that half of them crashed.
- Farama-Foundation/Gymnasium gymnasium/utils/env_checker.py: looks at the first step only, and passes.
- MCAP's closing record, by which a recording that was cut off is told, and the checksums of its chunks, by which one
  that is damaged is: https://mcap.dev/spec#data-end-op0x0f
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vladoctor.check import Abstention, Check, Clear, Fault, Problem, Severity, Stage, Verdict, all_checks
from vladoctor.facts.coverage import COPY, ROOM, RUN_ON, SEEN, STOPPED, UNSEEN, Coverage, coverage, sentence
from vladoctor.facts.following import IMAGE
from vladoctor.facts.links import ImageLink, action_links, image_links
from vladoctor.facts.registration import MIN_CONTRAST
from vladoctor.facts.serving import policy_alone

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.loop import Loop


_OF_IMAGES = ("VD103", "VD105", "VD201", "VD202", "VD203", "VD204", "VD205")
"""Checks that lay the model's image over a frame."""


def judge(facts: Facts, limits: Mapping[str, float]) -> Iterator[Verdict]:
    """Say what could not be seen: holes as findings, what lies in how the loop is built as abstentions."""
    covered = coverage(facts)
    if policy_alone(facts.episode):
        # A server is killed when it is no longer needed: that its recording just ends says nothing.
        yield Abstention(sentence(covered))
        return
    cut = _cut_off(facts)
    # Where it ends before its first step, that is why there is nothing, whatever else there might have been.
    holes = () if cut is not None and not facts.episode.steps else _holes(facts, covered)
    problems = [problem for problem in (cut, *holes) if problem is not None]
    yield from problems
    for why, stages in _by_reason(one for one in covered if one.state != SEEN and not one.hole).items():
        yield Abstention(f"{_listed(stages)}: {why}{_therefore(stages)}")
    unfit = _images_of_no_frame(facts, limits)
    if unfit is not None:
        problems.append(unfit)
        yield unfit
    unlinked = _unlinked(facts, limits)
    if unlinked:
        yield Abstention(unlinked)
    if not problems:
        seen = [one for one in covered if one.state == SEEN]
        yield Clear(
            f"seen: {', '.join(one.stage for one in seen)}",
            {one.stage: f"{one.steps} of {one.total} {one.unit}" for one in seen},
        )


def _cut_off(facts: Facts) -> Problem | None:
    """A recording that ends before the episode does."""
    episode = facts.episode
    if not episode.truncated:
        return None
    last = episode.steps[-1].number if episode.steps else 0
    stopped = next((note for note in episode.notes if "recording stopped" in note), "")
    if "recording stopped" in stopped:
        full = any(word in stopped for word in ("OSError", "No space", "too large", "quota"))
        what, remedy = f"The {stopped}", ROOM if full else STOPPED
    elif "damaged" in episode.damage:
        last_read = f" (the last step that could be read is {last})" if episode.steps else ""
        what, remedy = f"The recording {episode.damage}{last_read}", COPY
    elif episode.damage:
        what, remedy = f"The recording {episode.damage}", f"{RUN_ON} {ROOM}"
    else:
        ends = f"after step {last}" if episode.steps else "before its first step"
        what, remedy = f"The recording ends {ends} without its closing record", f"{RUN_ON} {ROOM}"
    return Problem(
        message=f"{what}; nothing is known of {'what was lost' if episode.damage else 'what came after'}.",
        remedy=remedy,
        severity=Severity.LOOK,
        first_step=last,
        evidence={"expected": "a recording up to the episode's end", "seen": f"{len(episode.steps)} steps"},
        stage=Stage.SCORE,
    )


def _holes(facts: Facts, covered: Sequence[Coverage]) -> Iterator[Problem]:
    """A finding for each reason for which something was not seen that a tap would have shown."""
    table = {one.stage: f"{one.state}, {one.steps} of {one.total} {one.unit}" for one in covered}
    numbers = [step.number for step in facts.episode.steps] or [0]
    for why, stages in _by_reason(one for one in covered if one.hole).items():
        remedy = next(one.remedy for one in covered if one.why == why and one.hole)
        whole = all(one.state == UNSEEN for one in covered if one.stage in stages)
        silent = _silent(stages)
        yield Problem(
            message=f"{why[0].upper()}{why[1:]}; {'nothing' if whole else 'not all'} of {_listed(stages)} was seen."
            f"{f' {_checks(silent)} therefore.' if silent else ''}",
            remedy=remedy,
            severity=Severity.LOOK,
            first_step=numbers[0],
            last_step=numbers[-1],
            evidence={
                "expected": "something of every stage",
                "seen": sentence(covered).removeprefix("seen: "),
                "stages": table,
            }
            | ({"silent_checks": ", ".join(silent)} if silent else {}),
            stage=Stage(stages[0]),
        )


def _by_reason(covered: Iterator[Coverage]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for one in covered:
        found.setdefault(one.why, []).append(one.stage)
    return found


def _silent(stages: Sequence[str]) -> list[str]:
    """Codes of the checks that need one of the stages."""
    return [check.code for check in all_checks() if any(stage.value in stages for stage in check.needs)]


def _checks(codes: Sequence[str]) -> str:
    return f"{', '.join(codes)} {'says' if len(codes) == 1 else 'say'} nothing"


def _therefore(stages: Sequence[str]) -> str:
    silent = _silent(stages)
    return f"; {_checks(silent)} of it" if silent else ""


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _unlinked(facts: Facts, limits: Mapping[str, float]) -> str:
    """What to say where executed actions are not the policy's answers."""
    links = action_links(facts).links
    lost = [link for link in links if link.query is None]
    if not links or len(lost) <= limits["unlinked_share"] * len(links):
        return ""
    return (
        f"{len(lost)} of {len(links)} executed actions, the first at step {lost[0].step}, could not be linked to a "
        f"query: {lost[0].reason}"
    )


def _images_of_no_frame(facts: Facts, limits: Mapping[str, float]) -> Problem | None:
    """The policy's images are of no frame that was recorded, so that no check can say what was done to them."""
    links = [link for link in image_links(facts) if link.slot == IMAGE and _shows_something(link)]
    lost = [link for link in links if not link.found]
    if len(lost) < limits["images_of_no_frame"] or len(lost) <= limits["images_share"] * len(links):
        return None
    best = max(lost, key=lambda link: (link.lies.score, -link.step))
    return Problem(
        message=f"In {len(lost)} of {len(links)} queries the model's image fits no camera frame that was recorded, "
        "however it is turned or cropped: it is of a camera that no observation shows, or so much was done to it that "
        f"it cannot be compared. {_checks(_OF_IMAGES)} of it.",
        remedy="Look at the two pictures side by side. If the image is of another camera, let vladoctor see its "
        "frames; if it is of this one, look for what stands between frame and processor: a signed 8-bit type, in which "
        "bright values wrap around, an inverted scale, a rotation by some degrees.\n```python\n"
        'env = doctor.watch_env(env, vladoctor.EnvAdapter("mine", frames=lambda obs: {"front": obs["front_rgb"]}))\n'
        "```",
        severity=Severity.LOOK,
        first_step=lost[0].step,
        last_step=lost[-1].step,
        evidence={
            "expected": "a picture of a recorded frame",
            "seen": f"a correlation of {best.lies.score:.2f} at most",
            "silent_checks": ", ".join(_OF_IMAGES),
        },
        frames=(
            {"title": "what the model was given", "step": lost[0].step, "model": True},
            *(
                {"title": f"the {camera} frame of that step", "step": step.number, "camera": camera}
                for step in facts.episode.steps
                if step.number == lost[0].step
                for camera in sorted(step.frames)
            ),
        ),
        stage=Stage.IMAGE,
    )


def _shows_something(link: ImageLink) -> bool:
    return link.registration is not None and link.registration.contrast >= MIN_CONTRAST


def _wrapped_around(loop: Loop) -> None:
    """Levels are brought to -127..127 and kept as signed bytes, which are taken for unsigned ones further on."""
    prepare = loop.stages.orient

    def signed(frame: np.ndarray) -> np.ndarray:
        return prepare(((frame / 127.5 - 1.0) * 127.0).astype(np.int8).view(np.uint8))

    loop.stages.orient = signed


def _other_name(loop: Loop) -> None:
    """Observations that call the camera's picture "front_rgb", and a loop that knows that."""
    env, act, camera = loop.env, loop.act, f"{loop.camera}_image"

    def renamed(obs: Mapping[str, Any]) -> dict[str, Any]:
        return {"front_rgb" if name == camera else name: value for name, value in obs.items()}

    for name in ("step", "reset", "set_init_state"):
        setattr(env, name, _first(getattr(env, name), renamed))
    loop.act = lambda obs: act({**obs, camera: obs["front_rgb"]})  # type: ignore[method-assign]


def _first(call: Callable[..., Any], change: Callable[[Any], Any]) -> Callable[..., Any]:
    """The call with what it returns, or the first part of it, changed."""

    def changed(*args: Any, **kwargs: Any) -> Any:
        result = call(*args, **kwargs)
        return (change(result[0]), *result[1:]) if isinstance(result, tuple) else change(result)

    return changed


def _small_files() -> Callable[[], None]:
    """No file of this process may grow past 256 KiB: a real OSError (EFBIG) in the midst of an episode."""
    import resource
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Python ignores this signal by default; a program around it may not.
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (256 * 1024, before[1]))

    def undo() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)

    return undo


CHECK = Check(
    code="VD902",
    name="evidence-incomplete",
    stage=Stage.OBSERVE,
    judge=judge,
    about_evidence=True,
    # Share of the executed actions without a link from which that is said. Not a measurement: a step or two at the
    # seams of episodes and queues are nobody's business. Images that fit no frame: 39 episodes of 362 of healthy loops
    # have some, 3 of 80 at most.
    thresholds={"unlinked_share": 0.1, "images_of_no_frame": 5.0, "images_share": 0.5},
    faults=(
        Fault(
            "image-signed",
            "the frame is scaled to -127..127, kept as int8 and read as uint8: bright and dark change places",
            _wrapped_around,
        ),
        Fault(
            "frames-unseen",
            "the observation holds the camera's frame under another name, which the loop knows and vladoctor does not",
            _other_name,
        ),
        Fault(
            "tap-stopped",
            "no file may grow past 256 KiB, as under `ulimit -f` or a full quota: recording stops, the loop runs on",
            before_env=_small_files,
            steps=60,
        ),
    ),
)
