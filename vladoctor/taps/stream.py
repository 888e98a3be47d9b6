"""The episodes of one environment: where one begins and ends, which query belongs to which step, what is written.

`vladoctor.taps.watch` sorts what the taps see by environment and hands it on to the `Stream` of each.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vladoctor.records import Outcome, Query
from vladoctor.taps.budget import FULL_FRAMES, PICTURES
from vladoctor.taps.environments import EnvAdapter, Transition, as_picture, frozen, remarks
from vladoctor.taps.recorder import Recorder, describe, numbers
from vladoctor.trace import Picture, TraceWriter, capture

if TYPE_CHECKING:
    from vladoctor.taps.watch import Watch

_SAME = 1e-5
"""Two actions are the same if no value differs by more than this share of the larger one, or of 1."""


_BEFORE = ("seed", "set_init_state", "reset")
"""Calls that are meant for what comes after them."""


class Stream:
    """The episodes of one environment.

    Attributes:
        place: in a vector environment; None otherwise.
        recorder: of the episode that is going on; None between episodes.
        raised: how the episode ends if it ends here, as the last step raised: (ended, error); else ("", "").
        over: whether the last step ended the episode, by what the environment says.
        restarts: whether every episode goes on until the environment ends it, as another one then begins by itself.
    """

    def __init__(self, watch: Watch, env: Any, adapter: EnvAdapter, place: int | None) -> None:
        self.watch = watch
        self.adapter = adapter
        self.place = place
        self.recorder: Recorder | None = None
        self.raised = ("", "")
        self.over = self.restarts = False
        self._kept: list[Callable[[], Any]] = [reference_to(env)]
        self._env = self._kept[0]
        self._facts: dict[str, Any] | None = None
        self._task: dict[str, Any] = {}
        self._said: list[dict[str, Any]] = []
        self._held: Transition | None = None
        self._frames: dict[str, Picture] = {}
        self._proprio: dict[str, tuple[float, ...]] = {}
        self._before: dict[str, Picture] = {}
        self._before_proprio: dict[str, tuple[float, ...]] = {}
        self._queries = 0
        self._steps = self._acted = 0
        self._success: bool | None = None
        self._known: tuple[Any, ...] = ()
        self._looked = False

    def is_of(self, env: Any) -> bool:
        """Whether it belongs to this object, and not to one that had its address before."""
        return any(reference() is env for reference in self._kept)

    @property
    def gone(self) -> bool:
        """Whether nothing that it belongs to is left."""
        return all(reference() is None for reference in self._kept)

    def keep(self, env: Any) -> None:
        if not self.is_of(env):
            self._kept = [*(reference for reference in self._kept if reference() is not None), reference_to(env)]

    def reset(self, **facts: Any) -> None:
        """The environment was reset: where steps were made, a new episode begins."""
        self.flush()
        carried: list[dict[str, Any]] = []
        if self._steps:
            # A seed or an init state that was set since the last step is meant for what comes.
            meant = next((i for i, said in enumerate(self._said) if said["call"] in _BEFORE), len(self._said))
            carried, self._said = self._said[meant:], self._said[:meant]
            self.end(*self.raised)
        self.over = False
        self._said = [*carried, *self._said, {"call": "reset", **facts}]

    def called(self, call: str, **facts: Any) -> None:
        """A call that is no step."""
        self._said.append({"call": call, **facts})
        if call == "check_success" and "answer" in facts and (self._steps or self._held):
            self._success = bool(self._success or facts["answer"])

    def ignored(self, pending: Pending) -> None:
        """A query whose answer is never executed."""
        self.called(pending.query.boundary or "predict_action", superseded=True)

    def observed(self, observation: Any, adapter: EnvAdapter) -> None:
        """The observation that the environment is about to return, not after a step: an episode may begin here."""
        self._look(observation, adapter)
        # Cameras on a robot move with the first step.
        self._facts = None
        if self.recorder is None:
            self._facts = self._describe(self._env())

    def tell(self, language: str | None) -> None:
        """What a layer says of the task at a reset, for where the environment itself has no words for it."""
        facts = self._facts if self.recorder is None else self._task
        if language and facts is not None and not facts.get("language"):
            facts["language"] = language

    def learn(self, facts: Mapping[str, Any]) -> None:
        """What a layer above knows of the episode and the environment itself does not."""
        known = self._facts if self.recorder is None else self._task
        if known is not None:
            known.update({name: value for name, value in facts.items() if known.get(name) is None})

    def look_again(self, observation: Any, adapter: EnvAdapter) -> None:
        """The observation of a layer above: what the one below did not show."""
        if not self._frames:
            proprio = self._proprio
            self._look(observation, adapter)
            self._proprio = {**self._proprio, **proprio}

    def rendered(self, result: Any, adapter: EnvAdapter) -> None:
        """A picture that the program asked for; it counts where the observation shows none."""
        if not any(name != "render" for name in self._frames):
            for frame in adapter.frames(result).values():
                self._frames = self._capture({"render": frame})

    def stepped(
        self,
        action: Sequence[float],
        transition: Transition,
        adapter: EnvAdapter,
        began: float,
        elapsed: float,
        *,
        asked: bool = True,
    ) -> None:
        """The environment has executed an action. The step is written when the outermost layer has returned.

        Args:
            asked: whether the action may be a policy's.
        """
        self.flush()
        recorder = self._begin()
        pending = self.watch.take(self, action) if asked else None
        if pending is not None:
            self._ask(recorder, pending)
        elif asked:
            # What was done for an action that needed no query: it came out of a queue.
            for stage, milliseconds in self.watch.take_timings().items():
                recorder.took(stage, milliseconds / 1e3)
        answered = self.watch.take_mark("answered") if asked else None
        if answered is not None:
            recorder.took("post-process", began - answered)
        recorder.acting(action)
        recorder.took("execute", elapsed)
        self._held = transition
        self._before, self._before_proprio = self._frames, self._proprio
        self._frames, self._proprio = {}, {}
        if transition.observation is not None:
            self._look(transition.observation, adapter)
        self._acted += asked
        self.raised = ("", "")
        self.over = bool(transition.done)

    def add(self, transition: Transition, adapter: EnvAdapter) -> None:
        """What a layer above says of the same step."""
        held = self._held
        if held is not None:
            mapping = isinstance(held.info, Mapping) and isinstance(transition.info, Mapping)
            self._held = Transition(
                held.observation,
                held.reward if held.reward is not None else transition.reward,
                # A layer above may have a time limit of its own.
                held.done or transition.done,
                held.success if held.success is not None else transition.success,
                {**transition.info, **held.info} if mapping else held.info or transition.info,
            )
            self.over = self.over or bool(transition.done)
        self.look_again(transition.observation, adapter)

    def queried(self, pending: Pending) -> None:
        """A query that no step has executed."""
        self._ask(self._begin(), pending)
        self._held = Transition(None)
        self._acted += 1
        self._before, self._before_proprio = {}, {}

    def flush(self) -> None:
        """Write the step that is held."""
        held, recorder = self._held, self.recorder
        if held is None or recorder is None:
            return
        self._held = None
        recorder.see(self._before, self._before_proprio)
        for said in self._said:
            recorder.called(said["call"], **{name: value for name, value in said.items() if name != "call"})
        self._said = []
        if held.success is not None:
            self._success = bool(self._success or held.success)
        self._steps += 1
        recorder.stepped(
            reward=held.reward if held.reward is not None else 0.0,
            done=bool(held.done),
            success=held.success,
            info=frozen(held.info),
        )

    def end(self, ended: str = "", error: str = "") -> None:
        """End the episode; one in which nothing was done leaves no trace.

        Nothing is done by steps of a reset, which settle the scene. An environment that resets itself at an episode's
        end is reset once more by its program; that it was shows in the calls of the next episode.
        """
        recorder, self.recorder = self.recorder, None
        if recorder is None:
            return
        settled = not self._acted and ended in ("", "horizon") and not self.raised[0]
        recorder.errors += [problem for problem in self.watch.errors if problem not in recorder.errors]
        if self._success is None:
            recorder.errors.append("the environment says nothing of success; it counts as not reached")
        self._said += self.watch.failed_queries(self)
        if self._said:
            self._task["calls_after"], self._said = self._said, []
        self.watch.budget.pause()
        self.watch.learn(budget=self.watch.budget.facts())
        if (self.watch.run, self._task) != self._known:
            recorder.describe(dict(self.watch.run), self._task)
        if self._success:
            ended, error = "success", ""
        elif self.raised[0]:
            ended, error = self.raised
        elif ended in ("", "horizon") and self.restarts and not self.over and not self._at_horizon:
            ended = "interrupted"
        recorder.close(Outcome(ended or "horizon", bool(self._success), self._steps, error))
        if not recorder.writer.steps or settled:
            recorder.writer.path.unlink(missing_ok=True)
            self.watch.forget_name(recorder.writer.path.stem)
        if settled:
            self._said = [{"call": "abandoned", "steps": self._steps, "init_state": self._task.get("init_state")}]
        self._steps = self._acted = self._queries = 0
        self._success, self.raised, self._task, self._facts = None, ("", ""), {}, None

    @property
    def _at_horizon(self) -> bool:
        """Whether the program has stepped as often as an episode may last."""
        horizon = self._task.get("horizon")
        return isinstance(horizon, int) and self._acted >= horizon

    def stop(self, reason: str) -> None:
        """End the recording without an outcome."""
        if self.recorder is not None:
            self.recorder.active = False
            self.recorder.errors.append(reason)
            with contextlib.suppress(Exception):
                self.recorder.close(Outcome("interrupted", False, self._steps))
            self.recorder = None

    def abandon(self) -> None:
        """In a forked process: the file is the parent's."""
        if self.recorder is not None:
            self.recorder.writer.abandon()
            self.recorder = None

    def _begin(self) -> Recorder:
        if self.recorder is None:
            self._task = dict(self._facts or self._describe(self._env()))
            if self.place is not None:
                self._task.update(place=self.place, label=f"{self._task['label']}-env{self.place}")
            self.watch.complete_run()
            path, self._task["episode"] = self.watch.name_trace(self._task["label"])
            writer = TraceWriter(
                path, self.watch.run, self._task, thumbnail=self.watch.thumbnail, full_every=self.watch.full_every
            )
            self._known = (dict(self.watch.run), dict(self._task))
            self.recorder = Recorder(writer, self.watch.tap, self.watch.worker, self.watch.budget)
        return self.recorder

    def _describe(self, env: Any) -> dict[str, Any]:
        try:
            facts = dict(self.adapter.describe(env))
        except Exception as error:  # noqa: BLE001 - without these facts the episode can still be judged
            self.watch.note(f"the environment could not be described: {describe(error)}")
            facts = {}
        label = str(facts.get("label") or facts.get("name") or self.adapter.name)
        label = "".join(c if c.isalnum() or c in "-_." else "-" for c in label)[:80]
        return {"environment": self.adapter.name, **facts, "label": label}

    def _ask(self, recorder: Recorder, pending: Pending) -> None:
        for stage, milliseconds in pending.timings.items():
            recorder.took(stage, milliseconds / 1e3)
        recorder.asked(pending.query, complete=pending.complete, memory=pending.memory)
        self._said = [*self._said, *pending.said]
        self._queries += 1

    def _look(self, observation: Any, adapter: EnvAdapter) -> None:
        self._frames, self._proprio = {}, {}
        try:
            frames, proprio = adapter.frames(observation), adapter.proprio(observation)
            self._proprio = {name: numbers(values) for name, values in proprio.items()}
            self._frames = self._capture(frames)
            if not self._looked:
                self._looked = True
                for remark in remarks(observation):
                    self.watch.note(remark)
        except Exception as error:  # noqa: BLE001 - an adapter may be the user's own
            self.watch.note(f"an observation could not be read: {describe(error)}")

    def _capture(self, frames: Mapping[str, Any]) -> dict[str, Picture]:
        if not self.watch.budget.keeps(PICTURES):
            return {}
        # Of the query that comes next; the one of the step that is held is not written yet.
        every = self.watch.full_every
        keep = self._queries % every == 0 if every > 0 else self._queries == 0
        keep = keep and self.watch.budget.keeps(FULL_FRAMES)
        taken: dict[str, Picture] = {}
        for name, frame in frames.items():
            picture = as_picture(frame)
            if picture is not None:
                taken[name] = capture(picture, self.watch.thumbnail, keep=keep, later=True)
            else:
                self.watch.note(f"{name} is not recorded: it is no picture of at least 16 pixels")
        return taken


@dataclass(eq=False)
class Pending:
    """A query that waits for the step that executes it; `place` is its row in a batch."""

    query: Query
    place: int | None
    complete: Callable[[], bool] | None
    memory: Mapping[str, int]
    timings: dict[str, float]
    said: list[dict[str, Any]]
    thread: int = field(default_factory=threading.get_ident)

    def answers(self, executed: Sequence[float]) -> bool:
        """Whether the action is one of its own, but for the last value: grippers are mapped after the model."""
        rows = self.query.chunk or ((self.query.action,) if self.query.action else ())
        return any(
            len(row) == len(executed) > 1
            and all(
                abs(one - two) <= _SAME * max(1.0, abs(one)) for one, two in zip(row[:-1], executed[:-1], strict=True)
            )
            for row in rows
        )


def reference_to(env: Any) -> Callable[[], Any]:
    """A weak reference, or where there can be none a call that keeps the object."""
    try:
        return weakref.ref(env)
    except TypeError:
        return lambda: env
