"""How much of the loop was seen: for every stage whether, through which boundary, at how many steps, and if not why.

Two kinds of not seeing are told apart. One lies in how the loop is built: of a policy in another process its client
shows what is sent and what comes back; of an environment that knows no success nobody sees any. The other is a hole:
something that a tap would have seen if it had not been somewhere else. Only a hole has a remedy.
"""

from __future__ import annotations

import re
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vladoctor.facts.serving import policy_alone

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.records import Episode, Query, Step

STAGES = (
    "render",
    "observe",
    "image",
    "prompt",
    "process",
    "forward",
    "decode",
    "un-normalise",
    "post-process",
    "execute",
    "score",
)
"""The loop's stages, as `check.Stage` names them."""

SEEN, PARTLY, UNSEEN = "seen", "partly", "not"

CLIENTS = ("openpi.infer", "POST ", "GET ")
"""How boundaries begin at which another process is asked."""

ELSEWHERE = (
    "the policy runs in another process: from its client only what is sent (image, prompt, state) and what is answered "
    "(actions) can be seen"
)
BY_DATA = "the query was told of by hand (doctor.asked), with what the program itself knows of it"
CUT_OFF = "the recording was cut off or damaged, and with it what it says of pictures that were left out"
NO_QUERY = "no policy that vladoctor knows was asked"
NO_ENVIRONMENT = "no environment was stepped in this process: it is the policy's alone"
NOT_IDS = "no ids of an action were seen: the policy answers in numbers, or decodes where there is no tap"
NO_SUCCESS = "the environment says nothing of success"

WATCH_SERVER = (
    "Watch the server as well: start it with `vladoctor diagnose -- <its command>`, and judge both folders with "
    "`vladoctor replay`."
)
NAME_POLICY = (
    "Tell of every query, right after it, from inside the program:\n```python\nwith vladoctor.watch() as doctor:\n"
    "    ...\n    action = my_policy(image, prompt)\n    doctor.asked(prompt=prompt, image=image, action=action)\n```\n"
    "A policy that is loaded with `from_pretrained` and asked by `predict_action` or `generate`, an openpi client, a "
    "LeRobot policy and POST /act are seen without it. If the loop asks none, this is as it should be."
)
NAME_FRAMES = (
    "Say where the pictures are in an observation:\n```python\nadapter = vladoctor.EnvAdapter(\n"
    '    "my environment", frames=lambda obs: {"front": obs["front_rgb"]}  # uint8 (H, W, 3)\n)\n'
    "env = doctor.watch_env(env, adapter)\n```\nor, in vladoctor's own loop, leave the observation's camera at "
    '"<camera>_image". An environment that draws nothing has to be asked to: robosuite\'s by '
    '`use_camera_obs=True`, Gymnasium\'s by `render_mode="rgb_array"`.'
)
ON_CPU = "Pass it on as an array, or copy the tensor to the CPU before: fetching it from the GPU would slow the loop."
ROOM = (
    "Make room, or raise the limit (`df -h`, `ulimit -f`, quota) where the report is written, and run again; or record "
    "less: `trace: {full_every: 0}`."
)
RUN_ON = "Let the program end by itself, or end it with SIGTERM or Ctrl-C: then the recording is closed."
COPY = (
    "Copy the recording again from where it was made and compare the sizes; if it is the original, its disk is not to "
    "be trusted. What stands before the damage is judged."
)
STOPPED = "This is a defect of a tap, not of your loop. Please report it with the line above."


@dataclass(frozen=True)
class Coverage:
    """What was seen of one stage.

    Attributes:
        stage: one of `STAGES`.
        state: "seen", "partly" or "not".
        through: the boundary at which it was seen, in words; "" where it was not.
        steps, total: at how many steps, or queries, of those that there were.
        unit: "steps" or "queries".
        why: what is missing and why, one clause; "" where nothing is.
        remedy: what to do to see it; "" where that lies in how the loop is built.
    """

    stage: str
    state: str
    through: str = ""
    steps: int = 0
    total: int = 0
    unit: str = "steps"
    why: str = ""
    remedy: str = ""

    @property
    def hole(self) -> bool:
        """Whether a tap would have seen it."""
        return bool(self.remedy)


_coverage: weakref.WeakKeyDictionary[Facts, tuple[Coverage, ...]] = weakref.WeakKeyDictionary()


def coverage(facts: Facts) -> tuple[Coverage, ...]:
    """What was seen of every stage, in causal order. Computed once for each `Facts`."""
    if facts not in _coverage:
        _coverage[facts] = cover(facts.episode)
    return _coverage[facts]


def cover(episode: Episode) -> tuple[Coverage, ...]:
    """As `coverage`, of an episode."""
    seen = _Seen(episode)
    return tuple(getattr(seen, stage.replace("-", ""))(stage) for stage in STAGES)


def sentence(covered: Sequence[Coverage], *, brief: bool = False) -> str:
    """All of it in a line: "seen: render, observe; partly: process (...); not seen: forward (the policy runs ...)".

    Args:
        brief: of a reason only what stands before its colon.
    """
    parts: list[str] = []
    for state, label in ((SEEN, "seen"), (PARTLY, "partly"), (UNSEEN, "not seen")):
        by_reason: dict[str, list[str]] = {}
        for one in covered:
            if one.state == state:
                why = one.why.partition(":")[0] if brief else one.why
                by_reason.setdefault(why if state != SEEN else "", []).append(one.stage)
        if by_reason:
            named = [", ".join(stages) + (f" ({why})" if why else "") for why, stages in by_reason.items()]
            parts.append(f"{label}: {', '.join(named)}")
    return "; ".join(parts)


def remote(query: Query) -> bool:
    """Whether a query went to another process of which nothing else was recorded."""
    return query.boundary.startswith(CLIENTS) and not query.ids and query.vision_calls is None


class _Seen:
    """Looks at an episode, a stage a method."""

    def __init__(self, episode: Episode) -> None:
        self.episode = episode
        self.notes = list(episode.notes)
        self.queries = [query for _, query in episode.queries()]
        # Settling has nothing to do with the policy; where none was asked, all of it is what there is.
        self.steps: list[Step] = list(episode.policy_steps()) or list(episode.steps)
        self.alone = policy_alone(episode)
        self.elsewhere = bool(self.queries) and all(map(remote, self.queries))
        self.boundary = _joined(query.boundary or "predict_action" for query in self.queries)

    def render(self, stage: str) -> Coverage:
        cameras = _joined(name for step in self.steps for name in step.frames)
        through = f"frames of {cameras}"
        return self._of_steps(stage, lambda step: bool(step.frames), through, self._no_frames())

    def observe(self, stage: str) -> Coverage:
        through = "observations of " + ("reset and step" if not self.episode.task.get("environment") else self._env)
        return self._of_steps(stage, lambda step: bool(step.frames or step.proprio), through, self._no_frames())

    def image(self, stage: str) -> Coverage:
        if any(query.pixel_stats for query in self.queries):
            through = "pixel_values"
        else:
            through = f"what {self.boundary} was given"
        left_out = self._left_out(any(query.image is not None for query in self.queries))
        why = left_out or self._note(
            r"(model's|image|picture).*(not recorded|could not be decoded)", r"no picture among"
        )
        return self._of_queries(
            stage,
            lambda query: query.image is not None or bool(query.more_images),
            through,
            (why or "no image was found in what the policy was given", "" if left_out else _remedy_for(why)),
        )

    def prompt(self, stage: str) -> Coverage:
        through = "the text that the processor was given" if not self.elsewhere else f"what {self.boundary} was sent"
        found = self._of_queries(
            stage, lambda query: query.prompt is not None, through, ("no text was given to a processor", "")
        )
        if found.state == SEEN or not self.queries:
            return found
        if all(query.options.get("instruction") for query in self.queries):
            why = f"the instruction was seen ({self.boundary}); the prompt is made of it on the other side"
        elif any(query.input_ids for query in self.queries):
            why = "only its ids were seen: the program tokenises it by itself"
        else:
            return found
        return Coverage(stage, PARTLY, self.boundary, len(self.queries), len(self.queries), "queries", why)

    def process(self, stage: str) -> Coverage:
        ids = [bool(query.input_ids) for query in self.queries]
        pixels = [bool(query.pixel_stats) for query in self.queries]
        both = "input_ids and pixel_values" if any(ids) else "pixel_values"
        found = self._of_queries(
            stage,
            lambda query: bool(query.input_ids or query.pixel_stats),
            both if any(pixels) else "input_ids",
            (ELSEWHERE if self.elsewhere else "what the model itself was given was not seen", ""),
        )
        if found.state == SEEN and any(ids) and not any(pixels):
            why = "ids were seen, pixel_values were not"
            return Coverage(stage, PARTLY, "input_ids", found.steps, found.total, "queries", why)
        return found

    def forward(self, stage: str) -> Coverage:
        return self._of_queries(
            stage,
            lambda query: not remote(query) and query.boundary != "given",
            self.boundary,
            (ELSEWHERE if self.elsewhere else BY_DATA, ""),
        )

    def decode(self, stage: str) -> Coverage:
        why = ELSEWHERE if self.elsewhere else NOT_IDS
        return self._of_queries(stage, lambda query: bool(query.ids), "generated ids", (why, ""))

    def unnormalise(self, stage: str) -> Coverage:
        def told(query: Query) -> bool:
            return bool(query.ids or query.normalised) and bool(query.action or query.chunk)

        answered = any(query.action or query.chunk for query in self.queries)
        why = ELSEWHERE if self.elsewhere else "of the policy's answer what comes before un-normalising was not seen"
        if any(query.ids for query in self.queries) and not answered:
            why = "the program un-normalises by itself: ids and executed actions were seen, and nothing in between"
            ids = sum(bool(query.ids) for query in self.queries)
            return Coverage(stage, PARTLY, "ids and env.step", ids, len(self.queries), "queries", why)
        return self._of_queries(stage, told, "ids and what was returned", (why, ""))

    def postprocess(self, stage: str) -> Coverage:
        answered = any(query.action or query.chunk for query in self.queries)
        executed = any(step.executed for step in self.steps)
        if self.queries and executed and not answered and any(query.ids for query in self.queries):
            return self._of_steps(stage, lambda step: bool(step.executed), "ids and env.step", ("", ""))
        if self.queries and not self.alone and not answered:
            return Coverage(stage, UNSEEN, why="what the policy answered was not seen", remedy=NAME_POLICY)
        if self.alone or not self.queries:
            return self._nothing(stage)
        return self._of_steps(
            stage, lambda step: bool(step.executed), "answers and executed actions", self._no_action()
        )

    def execute(self, stage: str) -> Coverage:
        return self._of_steps(stage, lambda step: bool(step.executed), "what env.step was given", self._no_action())

    def score(self, stage: str) -> Coverage:
        if self.alone or not self.steps:
            return self._nothing(stage)
        told = sum(step.success is not None for step in self.steps)
        if told or self.episode.outcome.success:
            return Coverage(stage, SEEN, "what the environment says of success", told, len(self.steps))
        return Coverage(stage, UNSEEN, total=len(self.steps), why=NO_SUCCESS)

    # Helpers.

    @property
    def _env(self) -> str:
        return f"the environment ({self.episode.task.get('environment')})"

    def _note(self, *patterns: str) -> str:
        """The first of the recorder's own remarks that fits."""
        return next((note for pattern in patterns for note in self.notes if re.search(pattern, note)), "")

    def _left_out(self, some: bool) -> str:
        """The remark that pictures were left out, to take no more than the budget of a step.

        Remarks are written when a recording is closed. One that was cut off has what the run had left out when the
        episode began; where there are some pictures, it cannot be told whether the others were left out.
        """
        remark = self._note(r"to stay within .*no pictures")
        if remark or not self.episode.truncated:
            return remark
        budget = self.episode.run.get("budget") or {}
        shed = next((what for what in budget.get("shed", ()) if what.startswith("pictures")), "")
        if shed:
            return f"to stay within {budget['limit']:.0%} of a step: no {shed}"
        return CUT_OFF if some else ""

    def _no_frames(self) -> tuple[str, str]:
        left_out = self._left_out(any(step.frames for step in self.steps))
        if left_out:
            return left_out, ""
        why = self._note(r"(camera|observation|pixels|picture|frame).*not recorded", r"could not be read")
        return why or "no picture was found in the observations", ON_CPU if "GPU" in why else NAME_FRAMES

    def _no_action(self) -> tuple[str, str]:
        why = self._note(r"action is not recorded")
        return why or "no action was given to the environment", ON_CPU

    def _nothing(self, stage: str) -> Coverage:
        if self.alone:
            return Coverage(stage, UNSEEN, why=NO_ENVIRONMENT)
        if not self.episode.steps:
            return Coverage(stage, UNSEEN, why="nothing was recorded", remedy=NAME_FRAMES)
        return Coverage(stage, UNSEEN, why=NO_QUERY, remedy=NAME_POLICY)

    def _of_steps(self, stage: str, told: Callable[[Step], bool], through: str, lacking: tuple[str, str]) -> Coverage:
        if self.alone or not self.steps:
            return self._nothing(stage)
        count, total = sum(map(told, self.steps)), len(self.steps)
        # An episode that an exception ended may end with a step that was never made.
        enough = count >= total - 1 and count > 0
        return _judged(stage, count, total, enough, through, "steps", lacking)

    def _of_queries(
        self, stage: str, told: Callable[[Query], bool], through: str, lacking: tuple[str, str]
    ) -> Coverage:
        if not self.queries:
            return Coverage(stage, UNSEEN, why=NO_QUERY, remedy=NAME_POLICY)
        count, total = sum(map(told, self.queries)), len(self.queries)
        return _judged(stage, count, total, count >= max(1, total - 1), through, "queries", lacking)


def _judged(
    stage: str, count: int, total: int, enough: bool, through: str, unit: str, lacking: tuple[str, str]
) -> Coverage:
    if enough:
        return Coverage(stage, SEEN, through, count, total, unit)
    why, remedy = lacking
    if count:
        return Coverage(
            stage, PARTLY, through, count, total, unit, f"not at {total - count} of {total} {unit}: {why}", remedy
        )
    return Coverage(stage, UNSEEN, "", 0, total, unit, why, remedy)


def _remedy_for(why: str) -> str:
    return (ON_CPU if "GPU" in why else NAME_POLICY) if why else ""


def _joined(names: Iterable[str]) -> str:
    return ", ".join(name for name, _ in Counter(names).most_common(3))
