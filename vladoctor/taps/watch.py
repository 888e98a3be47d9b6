"""Watches a program that nobody here wrote: attaches taps as libraries are imported, sorts what they see by episode.

    taps of environments ──> Stream (one an environment, or one a place in a vector environment) ──> Recorder ──> trace
    taps of policies ──> queries that wait ──^ taken by the stream that executes what they answered

The rules of `vladoctor.taps.recorder` hold here as well. What makes a foreign program different:

* Environments are wrapped in each other, and every layer is tapped. Of calls that lie inside one another the innermost
  one that a tap knows is the simulator: its frames, its action and its result are recorded; the layers above add what
  it did not say (success, say, or frames where it had none).
* Nothing says which query belongs to which environment. A step takes the waiting query that answered its action, by
  value; else, of a batch, the row of its own place; else the latest. What was *really* executed, and which frame a
  model's image was made of, is measured from the trace afterwards (`vladoctor.facts.links`).
* An episode goes from one reset that is followed by steps to the next one.
* A process that is forked records for itself, into files of its own.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from types import ModuleType
from typing import Any

import numpy as np

from vladoctor.records import Outcome, Query
from vladoctor.taps.environments import EnvAdapter, Transition
from vladoctor.taps.patch import Undo, on_import
from vladoctor.taps.recorder import Guard, Recorder, describe, log, numbers
from vladoctor.trace import FULL_EVERY, THUMBNAIL, Picture, TraceWriter, capture

_SAME = 1e-5
"""Two actions are the same if no value differs by more than this share of the larger one, or of 1."""

_MOST_WAITING = 256
"""Queries that wait for a step, after which they are written without one: nobody here steps an environment."""

_current: Watch | None = None


def current() -> Watch | None:
    """The watch that is attached and still records, or None. Wrappers of classes ask here at every call."""
    return _current if _current is not None and _current.active else None


class Watch:
    """All that is watched in one process.

    Attributes:
        folder: traces go to `folder`/traces.
        run: what holds for the whole run, as in `records.Episode.run`; taps add to it as they learn more.
        active: whether it is attached and still records.
        errors: why recording stopped, or what could not be recorded; one sentence each.
        tap: context of the taps' own code.
        thumbnail, full_every: see `trace.TraceWriter`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        run: Mapping[str, Any] | None = None,
        thumbnail: int = THUMBNAIL,
        full_every: int = FULL_EVERY,
    ) -> None:
        self.folder = Path(folder)
        self.run: dict[str, Any] = dict(run or {})
        self.active = False
        self.errors: list[str] = []
        self.tap = Guard(self._failed)
        self.thumbnail = thumbnail
        self.full_every = full_every
        self.process = ""
        self._undo: list[Undo] = []
        self._streams: dict[int, Stream] = {}
        self._places: dict[tuple[int, int], Stream] = {}
        self._alone: Stream | None = None
        self._used: set[str] = set()
        self._calls = threading.local()
        self._pending: list[_Pending] = []
        self._prompt: str | None = None
        self._timings: dict[str, float] = {}
        self._said: list[dict[str, Any]] = []
        self._marks: dict[str, float] = {}

    # Attaching.

    def start(self) -> None:
        """Put the taps on all libraries that are imported, and on others as they are.

        Raises:
            RuntimeError: another watch is attached in this process.
        """
        global _current
        if _current is not None:
            raise RuntimeError("this process is being watched already")
        from vladoctor.taps.libraries import hooks

        _current = self
        self.active = True
        _watch_forks()
        for module, hook in hooks():
            on_import(module, partial(self._attach_to, hook))

    def _attach_to(self, hook: Callable[[ModuleType], Sequence[Undo]], module: ModuleType) -> None:
        if current() is not self:
            return
        try:
            self._undo.extend(hook(module))
        except Exception as error:  # noqa: BLE001 - an import of the program must not fail for our sake
            self.note(f"{module.__name__} is not watched: {describe(error)}")

    def close(self, ended: str = "", error: str = "") -> None:
        """End all episodes and take all taps away.

        Args:
            ended: how episodes end that are still going on; by default "horizon", or "exception" where the interpreter
                is ending with one.
            error: what to say of that.
        """
        global _current
        if _current is not self:
            return
        if not ended:
            last = getattr(sys, "last_value", None)
            ended = "" if last is None else "exception" if isinstance(last, Exception) else "interrupted"
            error = describe(last) if ended else ""
        with self.tap:
            self._flush_alone()
            for stream in self.streams():
                stream.flush()
                stream.end(ended, error)
            self._streams.clear()
            self._places.clear()
        self.active = False
        self._detach()
        _current = None

    def stop(self, reason: str) -> None:
        """Record nothing more, and say why."""
        if self.active:
            self.active = False
            self.errors.append(reason)
            log.warning(reason)
            for stream in self.streams():
                stream.stop(reason)
        self._detach()

    def note(self, problem: str) -> None:
        """Say, once, that something cannot be recorded, and go on."""
        if problem not in self.errors:
            self.errors.append(problem)
            log.info(problem)

    def learn(self, **facts: Any) -> None:
        """Add to what holds for the whole run; mappings are merged."""
        for name, value in facts.items():
            old = self.run.get(name)
            self.run[name] = {**old, **value} if isinstance(old, Mapping) and isinstance(value, Mapping) else value

    def attach(self, undo: Undo) -> Undo:
        """Register how to remove a tap; returns a call that does it, once."""

        def detach() -> None:
            if detach in self._undo:
                self._undo.remove(detach)
                undo()

        self._undo.append(detach)
        return detach

    def _detach(self) -> None:
        for undo in reversed(self._undo):
            with contextlib.suppress(Exception):
                undo()
        self._undo = []

    def _failed(self, error: Exception) -> None:
        self.stop(f"recording stopped: {describe(error)}")

    # What taps of policies report. The same calls as a `Recorder`'s.

    @property
    def full_due(self) -> bool:
        """Whether the next query's full frames will be kept."""
        recorders = [stream.recorder for stream in self.streams() if stream.recorder is not None]
        return not recorders or any(recorder.full_due for recorder in recorders)

    def prompted(self, prompt: str | None) -> None:
        """The text that a processor is given."""
        self._since("observed", "observe->process")
        self._prompt = prompt

    def asked(
        self, query: Query, *, complete: Callable[[], bool] | None = None, memory: Mapping[str, int] | None = None
    ) -> None:
        """The policy has answered; see `Recorder.asked`."""
        self.asked_all([query], complete=complete, memory=memory)

    def asked_all(
        self,
        queries: Sequence[Query],
        *,
        complete: Callable[[], bool] | None = None,
        memory: Mapping[str, int] | None = None,
    ) -> None:
        """The policy has answered a batch; its rows in order."""
        for row, query in enumerate(queries):
            if query.prompt is None:
                query.prompt = self._prompt
            place = row if len(queries) > 1 else None
            timings, said = (self._timings, self._said) if row == 0 else ({}, [])
            self._pending.append(_Pending(query, place, complete, memory or {}, timings, said))
        self._prompt, self._timings, self._said = None, {}, []
        if len(self._pending) > _MOST_WAITING:
            self._flush_alone()

    def waiting(self) -> Iterator[Query]:
        """Queries that no step has taken yet, the latest first; taps that see more of one may add to it."""
        return (pending.query for pending in reversed(self._pending))

    def called(self, call: str, **facts: Any) -> None:
        """A call of the policy's side that is worth knowing: something that raised, a policy's reset."""
        self._said.append({"call": call, **facts})

    def took(self, stage: str, seconds: float) -> None:
        """Add to the time of a stage."""
        self._timings[stage] = round(self._timings.get(stage, 0.0) + seconds * 1e3, 3)

    def mark(self, moment: str) -> None:
        """Remember when control went back to the program."""
        self._marks[moment] = perf_counter()

    def _since(self, moment: str, stage: str) -> None:
        began = self._marks.pop(moment, None)
        if began is not None:
            self.took(stage, self.tap.began - began)

    # What taps of environments report.

    def env_call(
        self,
        adapter: EnvAdapter,
        kind: str,
        env: Any,
        original: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        name: str = "",
    ) -> Any:
        """Call a method of an environment for the program, and record it.

        Args:
            kind: "reset", "step", "observe" (returns an observation, as LIBERO's `set_init_state`), "render" (returns a
                picture), or "call" (none of these: `seed`, `check_success`).
            original: takes `args` and `kwargs`.
            name: of the method, where it is not `kind`.
        """
        stack = self._stack
        if stack and (stack[-1].env is env or kind in ("call", "render")):
            # A class that calls its parent's method or another one of its own: no call of the program's.
            stack[-1].reset_inside |= kind == "reset" and stack[-1].kind == "step"
            return original(*args, **kwargs)
        call = _Call(adapter, kind, name or kind, env, args, kwargs)
        with self.tap:
            call.action = _action(args, kwargs) if kind == "step" else None
        stack.append(call)
        call.began = perf_counter()
        try:
            result = original(*args, **kwargs)
        except BaseException as error:
            call.elapsed = perf_counter() - call.began
            stack.pop()
            with self.tap:
                self._raised(call, error, stack)
            raise
        call.elapsed = perf_counter() - call.began
        stack.pop()
        if self.active:
            with self.tap:
                self._returned(call, result, stack)
            if kind in ("reset", "step", "observe"):
                self.mark("observed")
        return result

    def streams(self) -> list[Stream]:
        """All streams, each once."""
        found = dict.fromkeys([*self._streams.values(), *self._places.values()])
        return [*found, *([self._alone] if self._alone else [])]

    @property
    def _stack(self) -> list[_Call]:
        try:
            return self._calls.stack  # type: ignore[no-any-return]
        except AttributeError:
            self._calls.stack = []
            return self._calls.stack

    def _returned(self, call: _Call, result: Any, stack: list[_Call]) -> None:
        adapter, kind = call.adapter, call.kind
        if adapter.split is not None:
            if not call.inner and kind in ("reset", "step"):
                self._returned_batch(call, result)
        elif len(call.inner) == 1:
            # A layer around an environment that has spoken already: from now on they are one.
            stream = call.inner[0]
            self._tie(call.env, stream)
            if kind == "step":
                stream.add(adapter.read_step(result), adapter)
            elif kind == "reset":
                stream.look_again(adapter.read_reset(result), adapter)
        elif not call.inner:
            stream = self._stream(call.env, adapter)
            call.inner.append(stream)
            self._record(stream, call, result)
        if stack:
            stack[-1].inner.extend(stream for stream in call.inner if stream not in stack[-1].inner)
        else:
            for stream in call.inner:
                stream.flush()

    def _record(self, stream: Stream, call: _Call, result: Any) -> None:
        adapter = call.adapter
        if call.kind == "step":
            transition = adapter.read_step(result)
            stream.stepped(call.action or (), transition, adapter, call.began, call.elapsed)
            if call.reset_inside:
                stream.reset()
                stream.observed(transition.observation, adapter)
        elif call.kind == "reset":
            stream.reset()
            stream.observed(adapter.read_reset(result), adapter)
        elif call.kind == "observe":
            stream.called(call.name, state=_state(call.args, call.kwargs))
            stream.observed(adapter.read_reset(result), adapter)
        elif call.kind == "render":
            stream.rendered(result, adapter)
        else:
            stream.called(call.name, **_facts(call, result))

    def _returned_batch(self, call: _Call, result: Any) -> None:
        """A vector environment whose single ones are in other processes."""
        assert call.adapter.split is not None
        action = call.args[0] if call.args else call.kwargs.get("actions", call.kwargs.get("action"))
        size = _size(call.env, action)
        for place, one in enumerate(call.adapter.split(result, size)):
            stream = self._place(call.env, place, call.adapter)
            call.inner.append(stream)
            if call.kind == "reset":
                stream.reset()
                stream.observed(one, call.adapter)
            else:
                row = _row(action, place)
                stream.stepped(numbers(row) if row is not None else (), one, call.adapter, call.began, call.elapsed)

    def _raised(self, call: _Call, error: BaseException, stack: list[_Call]) -> None:
        if not call.inner and call.adapter.split is None:
            stream = self._stream(call.env, call.adapter)
            call.inner.append(stream)
            stream.called(call.name, raised=describe(error))
            if call.kind == "step":
                stream.stepped(call.action or (), Transition(None), call.adapter, call.began, call.elapsed)
                stream.error = describe(error)
        if stack:
            stack[-1].inner.extend(stream for stream in call.inner if stream not in stack[-1].inner)
        else:
            for stream in call.inner:
                stream.flush()

    def _stream(self, env: Any, adapter: EnvAdapter) -> Stream:
        stream = self._streams.get(id(env))
        if stream is not None and stream.is_of(env):
            return stream
        inner = adapter.inner(env) if adapter.inner is not None else None
        if inner is not None and inner is not env:
            stream = self._stream(inner, adapter)
        else:
            stream = Stream(self, env, adapter, None)
        self._tie(env, stream)
        return stream

    def _place(self, env: Any, place: int, adapter: EnvAdapter) -> Stream:
        stream = self._places.get((id(env), place))
        if stream is None or not stream.is_of(env):
            stream = self._places[id(env), place] = Stream(self, env, adapter, place)
        return stream

    def _tie(self, env: Any, stream: Stream) -> None:
        if self._streams.get(id(env)) is stream:
            return
        self._streams[id(env)] = stream
        stream.keep(env)

    def take(self, stream: Stream, executed: Sequence[float]) -> _Pending | None:
        """The waiting query that a step executes, and what waits no longer with it."""
        if not self._pending:
            return None
        same = [pending for pending in self._pending if pending.answers(executed)]
        own = [pending for pending in same if pending.place == stream.place]
        rest = [pending for pending in self._pending if pending.place in (None, stream.place)]
        found = next((group[-1] for group in (own, same, rest) if group), None)
        if found is None:
            return None
        self._pending.remove(found)
        if found.place is None:
            # Whatever was asked before it will not be executed any more.
            for pending in [one for one in self._pending if one.place is None]:
                self._pending.remove(pending)
                stream.called(pending.query.boundary or "predict_action", superseded=True)
        return found

    def _flush_alone(self) -> None:
        """Write queries that no step has taken: of a policy without environment, in a server, say."""
        if not self._pending:
            return
        if self._alone is None:
            self._alone = Stream(self, self, EnvAdapter("policy alone"), None)
        for pending in list(self._pending):
            self._pending.remove(pending)
            self._alone.queried(pending)
            self._alone.flush()

    def _trace(self, label: str) -> Path:
        number = 0
        while (name := f"{self.process}{label}-ep{number}") in self._used:
            number += 1
        self._used.add(name)
        return self.folder / "traces" / f"{name}.mcap"

    def fork(self) -> None:
        """In a process that was just forked: leave the parent's recordings alone and begin one's own."""
        for stream in self.streams():
            stream.abandon()
        self.tap = Guard(self._failed)
        self._streams, self._places, self._alone, self._pending = {}, {}, None, []
        self._calls = threading.local()
        self._used = set()
        self.process = f"process{os.getpid()}-"
        self.run["process"] = os.getpid()
        self.run["parent"] = os.getppid()
        from multiprocessing import util

        # Processes of multiprocessing end without atexit.
        util.Finalize(None, self.close, exitpriority=100)


class Stream:
    """The episodes of one environment.

    Attributes:
        place: in a vector environment whose single ones cannot be seen; None otherwise.
        recorder: of the episode that is going on; None between episodes.
        error: of the last step, if it raised.
    """

    def __init__(self, watch: Watch, env: Any, adapter: EnvAdapter, place: int | None) -> None:
        self.watch = watch
        self.adapter = adapter
        self.place = place
        self.recorder: Recorder | None = None
        self.error = ""
        self._kept: list[Callable[[], Any]] = [_reference(env)]
        self._env = self._kept[0]
        self._episode = 0
        self._task: dict[str, Any] = {}
        self._said: list[dict[str, Any]] = []
        self._held: Transition | None = None
        self._frames: dict[str, Picture] = {}
        self._proprio: dict[str, tuple[float, ...]] = {}
        self._before: dict[str, Picture] = {}
        self._before_proprio: dict[str, tuple[float, ...]] = {}
        self._queries = 0
        self._steps = 0
        self._success = False
        self._known: tuple[Any, ...] = ()

    def is_of(self, env: Any) -> bool:
        """Whether it belongs to this object, and not to one that had its address before."""
        return any(reference() is env for reference in self._kept)

    def keep(self, env: Any) -> None:
        if not self.is_of(env):
            self._kept.append(_reference(env))

    def reset(self) -> None:
        """The environment was reset: where steps were made, a new episode begins."""
        self.flush()
        carried: list[dict[str, Any]] = []
        if self._steps or self.error:
            # A seed or an init state that was set since the last step is meant for what comes.
            meant = next((i for i, said in enumerate(self._said) if said["call"] in _BEFORE), len(self._said))
            carried, self._said = self._said[meant:], self._said[:meant]
            self.end("exception" if self.error else "", self.error)
        self._said = [*carried, *self._said, {"call": "reset"}]

    def called(self, call: str, **facts: Any) -> None:
        """A call that is no step."""
        self._said.append({"call": call, **facts})

    def observed(self, observation: Any, adapter: EnvAdapter) -> None:
        """The observation that the environment is about to return."""
        self._look(observation, adapter)

    def look_again(self, observation: Any, adapter: EnvAdapter) -> None:
        """The observation of a layer above: what the one below did not show."""
        if not self._frames:
            proprio = self._proprio
            self._look(observation, adapter)
            self._proprio = {**self._proprio, **proprio}

    def rendered(self, result: Any, adapter: EnvAdapter) -> None:
        """A picture that the program asked for; it counts where the observation shows none."""
        if not any(name != "render" for name in self._frames):
            for name, frame in adapter.frames(result).items():
                self._frames = {"render" if name == "image" else name: self._capture(frame)}

    def stepped(
        self,
        action: Sequence[float],
        transition: Transition,
        adapter: EnvAdapter,
        began: float,
        elapsed: float,
    ) -> None:
        """The environment has executed an action. The step is written when the outermost layer has returned."""
        self.flush()
        recorder = self._begin()
        pending = self.watch.take(self, action)
        if pending is not None:
            self._ask(recorder, pending)
        answered = self.watch._marks.pop("answered", None)
        if answered is not None:
            recorder.took("post-process", began - answered)
        recorder.acting(action)
        recorder.took("execute", elapsed)
        self._held = transition
        self._before, self._before_proprio = self._frames, self._proprio
        self._frames, self._proprio = {}, {}
        if transition.observation is not None:
            self._look(transition.observation, adapter)
        self.error = ""

    def add(self, transition: Transition, adapter: EnvAdapter) -> None:
        """What a layer above says of the same step."""
        held = self._held
        if held is None:
            return
        mapping = isinstance(held.info, Mapping) and isinstance(transition.info, Mapping)
        self._held = Transition(
            held.observation,
            held.reward if held.reward is not None else transition.reward,
            held.done if held.done is not None else transition.done,
            held.success if held.success is not None else transition.success,
            {**transition.info, **held.info} if mapping else held.info or transition.info,
        )
        self.look_again(transition.observation, adapter)

    def queried(self, pending: _Pending) -> None:
        """A query that no step has executed."""
        self._ask(self._begin(), pending)
        self._held = Transition(None)
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
        self._success = self._success or bool(held.success)
        self._steps += 1
        recorder.stepped(
            reward=held.reward if held.reward is not None else 0.0,
            done=bool(held.done),
            success=held.success,
            info=held.info,
        )

    def end(self, ended: str = "", error: str = "") -> None:
        """End the episode; one in which nothing was done leaves no trace."""
        recorder, self.recorder = self.recorder, None
        if recorder is None:
            return
        for problem in self.watch.errors:
            recorder.note(problem)
        if self._said:
            self._task["calls_after"], self._said = self._said, []
        if (self.watch.run, self._task) != self._known:
            recorder.writer.describe(self.watch.run, self._task)
        if self._success:
            ended, error = "success", ""
        recorder.close(Outcome(ended or "horizon", self._success, self._steps, error))
        if not recorder.writer.steps:
            recorder.writer.path.unlink(missing_ok=True)
        self._steps = self._queries = 0
        self._success, self.error, self._task = False, "", {}
        self._episode += 1

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
            self._task = self._describe(self._env())
            path = self.watch._trace(self._task["label"])
            writer = TraceWriter(
                path, self.watch.run, self._task, thumbnail=self.watch.thumbnail, full_every=self.watch.full_every
            )
            self._known = (dict(self.watch.run), dict(self._task))
            self.recorder = Recorder(writer, self.watch.tap)
        return self.recorder

    def _describe(self, env: Any) -> dict[str, Any]:
        try:
            facts = dict(self.adapter.describe(env))
        except Exception as error:  # noqa: BLE001 - without these facts the episode can still be judged
            self.watch.note(f"the environment could not be described: {describe(error)}")
            facts = {}
        label = str(facts.get("label") or facts.get("name") or type(env).__name__)
        if self.place is not None:
            label = f"{label}-env{self.place}"
            facts["place"] = self.place
        label = "".join(c if c.isalnum() or c in "-_." else "-" for c in label)[:80]
        return {"environment": self.adapter.name, **facts, "label": label, "episode": self._episode}

    def _ask(self, recorder: Recorder, pending: _Pending) -> None:
        for stage, milliseconds in pending.timings.items():
            recorder.took(stage, milliseconds / 1e3)
        recorder.asked(pending.query, complete=pending.complete, memory=pending.memory)
        self._said = [*self._said, *pending.said]
        self._queries += 1

    def _look(self, observation: Any, adapter: EnvAdapter) -> None:
        try:
            frames, proprio = adapter.frames(observation), adapter.proprio(observation)
        except Exception as error:  # noqa: BLE001 - an adapter may be the user's own
            self.watch.note(f"an observation could not be read: {describe(error)}")
            return
        self._frames = {name: self._capture(frame) for name, frame in frames.items()}
        self._proprio = {name: numbers(values) for name, values in proprio.items()}

    def _capture(self, frame: np.ndarray) -> Picture:
        keep = self.recorder is None or self.recorder.full_due
        return capture(np.ascontiguousarray(frame), self.watch.thumbnail, keep=keep)


@dataclass
class _Call:
    """A call of an environment's method that is going on."""

    adapter: EnvAdapter
    kind: str
    name: str
    env: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    action: tuple[float, ...] | None = None
    began: float = 0.0
    elapsed: float = 0.0
    inner: list[Stream] = field(default_factory=list)
    reset_inside: bool = False


@dataclass(eq=False)
class _Pending:
    """A query that waits for the step that executes it; `place` is its row in a batch."""

    query: Query
    place: int | None
    complete: Callable[[], bool] | None
    memory: Mapping[str, int]
    timings: dict[str, float]
    said: list[dict[str, Any]]

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


_BEFORE = ("seed", "set_init_state", "reset")


def _facts(call: _Call, result: Any) -> dict[str, Any]:
    if call.name == "seed":
        return {"seed": call.args[0] if call.args else next(iter(call.kwargs.values()), None)}
    if isinstance(result, (bool, np.bool_)):
        return {"answer": bool(result)}
    return {}


def _state(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[float] | None:
    state = args[0] if args else next(iter(kwargs.values()), None)
    return None if state is None else list(numbers(state))


def _action(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[float, ...] | None:
    action = args[0] if args else kwargs.get("action", kwargs.get("actions"))
    if action is None or getattr(action, "is_cuda", False):
        return None
    try:
        return numbers(action)
    except (TypeError, ValueError):
        return None


def _size(env: Any, action: Any) -> int:
    for name in ("num_envs", "env_num"):
        value = getattr(env, name, None)
        if isinstance(value, int):
            return value
    return len(env) if hasattr(env, "__len__") else len(action)


def _row(action: Any, place: int) -> Any:
    try:
        return action[place]
    except (TypeError, LookupError):
        return None


def _reference(env: Any) -> Callable[[], Any]:
    try:
        return weakref.ref(env)
    except TypeError:
        return lambda: env


def _forked() -> None:
    if _current is not None:
        _current.fork()


_forks_watched = False


def _watch_forks() -> None:
    global _forks_watched
    if not _forks_watched and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forked)
        _forks_watched = True
