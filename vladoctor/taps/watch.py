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
* An episode goes from one reset that is followed by steps to the next one, or to the environment's `close`.
* A process that is forked records for itself, into files of its own.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from vladoctor.records import Query
from vladoctor.taps.budget import Budget
from vladoctor.taps.environments import (
    EnvAdapter,
    Part,
    Transition,
    action_values,
    instruction_in,
    row,
)
from vladoctor.taps.patch import Undo, is_wrapped, on_import, wrap
from vladoctor.taps.recorder import Guard, describe, log
from vladoctor.taps.stream import Pending, Stream, reference_to
from vladoctor.taps.worker import Worker
from vladoctor.trace import FULL_EVERY, THUMBNAIL

_MOST_WAITING = 256
"""Queries that wait for a step, after which they are written without one: nobody here steps an environment."""

ALONE = "policy alone"
"""`Episode.task["environment"]` of queries that no environment of their process has executed."""

_PATIENCE = 2.0
"""Seconds to wait at the end for what is still to be written."""

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
        worker: writes what the taps took.
        budget: what they may still take.
        hooked: modules on which there are taps.
        process: what the names of its traces begin with, to tell processes apart.
        serving: whether the process answers others, which may end it at any moment: without an environment, its queries
            are then written at once.
        thumbnail, full_every: see `trace.TraceWriter`.

    Args:
        facts: more of `run`, asked for once, before the first trace is begun.
    """

    def __init__(
        self,
        folder: Path,
        *,
        run: Mapping[str, Any] | None = None,
        facts: Callable[[], Mapping[str, Any]] | None = None,
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
        self.worker = Worker()
        self.budget = Budget()
        self.hooked: list[str] = []
        self.process = ""
        self.serving = False
        self._facts = facts
        self._undo: list[Undo] = []
        self._streams: dict[int, Stream] = {}
        self._places: dict[tuple[int, int], Stream] = {}
        self._alone: Stream | None = None
        self._used: set[str] = set()
        self._sent: dict[int, tuple[Callable[[], Any], dict[str, Any]]] = {}
        self._calls = threading.local()
        self._pending: list[Pending] = []
        self._prompt: str | None = None
        self._timings: dict[str, float] = {}
        self._said: list[dict[str, Any]] = []
        self._marks: dict[str, float] = {}
        self._last_value: Any = None

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
        self._last_value = getattr(sys, "last_value", None)
        _watch_forks()
        for module, hook in hooks():
            on_import(module, partial(_attach_to_current, hook))

    def _attach_to(self, hook: Callable[[ModuleType], Sequence[Undo]], module: ModuleType) -> None:
        try:
            self._undo.extend(hook(module))
            self.hooked.append(module.__name__)
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
            # A notebook keeps the exception of some earlier cell there.
            last = getattr(sys, "last_value", None)
            ended, error = _ending(last if last is not self._last_value else None)
        with self.tap:
            self._flush_alone()
            for stream in self.streams():
                stream.flush()
                stream.end(ended, error)
            self._streams.clear()
            self._places.clear()
            self._sent.clear()
        self.worker.finish(_PATIENCE)
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
        for number, query in enumerate(queries):
            if query.prompt is None:
                query.prompt = self._prompt
            place = number if len(queries) > 1 else None
            timings = self._timings if number == 0 else {}
            self._pending.append(Pending(query, place, complete, memory or {}, timings, self._said))
        self._prompt, self._timings, self._said = None, {}, []
        inside = getattr(self._calls, "boundary", None)
        if inside is not None:
            inside.queries.extend(queries)
        if len(self._pending) > _MOST_WAITING or (inside is None and self._is_server):
            self._flush_alone()

    def serve(self) -> None:
        """Know that the process answers others from now on; see `serving`."""
        self.serving = True
        if self._is_server:
            self._flush_alone()

    def boundary(self) -> Boundary:
        """Context of a call of a policy in which there may be others that are watched; see `Boundary`."""
        return Boundary(self, self._calls)

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

    def take_timings(self) -> dict[str, float]:
        """Milliseconds by stage since they were last taken."""
        timings, self._timings = self._timings, {}
        return timings

    def take_mark(self, moment: str) -> float | None:
        """When control went back to the program, said once; None where it did not."""
        return self._marks.pop(moment, None)

    def _since(self, moment: str, stage: str) -> None:
        began = self.take_mark(moment)
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
                picture), "send" (gives a vector environment actions whose results a later "step" returns), "close", or
                "call" (none of these: `seed`, `check_success`).
            original: takes `args` and `kwargs`.
            name: of the method, where it is not `kind`.
        """
        calls = self._stack
        own = next((call for call in reversed(calls) if call.env is env), None)
        if own is not None or (calls and kind in ("call", "render") and not calls[-1].drives(kind)):
            # A class that calls its parent's method or another one of its own: no call of the program's.
            if own is not None:
                own.reset_inside |= kind == "reset" and own.kind == "step"
            result = original(*args, **kwargs)
            if own is not None:
                own.saw(name, result)
            return result
        parent = calls[-1] if calls else None
        call = _Call(adapter, kind, name or kind, env, args, kwargs)
        call.resetting = parent is not None and (parent.resetting or parent.kind == "reset" or parent.reset_inside)
        with self.tap:
            self._begins(call, original)
        calls.append(call)
        call.began = perf_counter()
        try:
            result = original(*args, **kwargs)
        except BaseException as error:
            call.elapsed = perf_counter() - call.began
            if self.active:
                with self.tap:
                    self._raised(call, error, parent)
            raise
        else:
            call.elapsed = perf_counter() - call.began
        finally:
            # By identity and not the last: an exception may have struck on the way in or out.
            calls[:] = [one for one in calls if one is not call]
        if self.active:
            with self.tap:
                self._returned(call, result, parent)
            if kind in ("reset", "step", "observe"):
                self.mark("observed")
        return result

    def watch_env(self, env: Any, adapter: EnvAdapter) -> Any:
        """Watch an environment that no tap knows, or read one of a known library in another way.

        Its class is tapped and with it all other environments of that class, because they may be copied, pickled and
        sent to other processes; only methods that this very object was given are wrapped on it.

        Args:
            env: has `step` and mostly `reset`; `render`, `seed`, `check_success` and `close` are seen where it has
                them.
            adapter: how to read it.

        Returns:
            The same object.
        """
        from vladoctor.taps.libraries.environment import specialise, tap, tap_object

        kind = type(env)
        try:
            for name, what in _METHODS.items():
                found = getattr(kind, name, None)
                if name in getattr(env, "__dict__", {}):
                    self.attach(wrap(env, name, tap_object(env, adapter, what, name)))
                elif callable(found) and not is_wrapped(found):
                    self.attach(wrap(kind, name, tap(adapter, what, name)))
            self.attach(specialise(kind, adapter))
        except Exception as error:  # noqa: BLE001 - a class of C, say
            self.note(f"{kind.__name__} is not watched: {describe(error)}")
        return env

    def watch_calls(
        self, reset: Callable[..., Any], step: Callable[..., Any], adapter: EnvAdapter
    ) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """Watch an environment that consists of two functions.

        Args:
            reset: begins an episode and returns an observation.
            step: takes an action, as its first argument.
            adapter: how to read what they return; its `describe` is given an object with `reset` and `step`.

        Returns:
            What to call in their place; after `close` they are plain calls.
        """
        from vladoctor.taps.libraries.environment import tap_object

        env = SimpleNamespace(reset=reset, step=step)
        for name in ("reset", "step"):
            wrap(env, name, tap_object(env, adapter, name))
        return env.reset, env.step

    def streams(self) -> list[Stream]:
        """All streams, each once."""
        found = dict.fromkeys([*self._streams.values(), *self._places.values()])
        return [*found, *([self._alone] if self._alone else [])]

    @property
    def _stack(self) -> list[_Call]:
        try:
            return self._calls.stack
        except AttributeError:
            self._calls.stack = []
            return self._calls.stack

    def _begins(self, call: _Call, original: Callable[..., Any]) -> None:
        """Take what the call is given, before the environment or the program can change it."""
        kind, adapter = call.kind, call.adapter
        if kind == "close":
            self._closes(call.env)
        elif adapter.split is None:
            action = call.args[0] if call.args else call.kwargs.get("action", call.kwargs.get("actions"))
            call.action = action_values(action) if kind == "step" else None
            if kind == "step" and action is not None and call.action is None:
                self.note("an action is not recorded: it is on a GPU, or no numbers")
        elif kind in ("reset", "step", "send", "observe"):
            call.given = _given(original, call.args, call.kwargs)
            sent = self._sent.pop(id(call.env), None) if kind == "step" and not call.given else None
            if sent is not None and sent[0]() is call.env:
                call.given = sent[1]
            if kind == "send":
                self._sent[id(call.env)] = (reference_to(call.env), call.given)
            if kind == "step":
                self._spread(adapter.size(call.env))

    def _returned(self, call: _Call, result: Any, parent: _Call | None) -> None:
        adapter, kind = call.adapter, call.kind
        if adapter.split is not None:
            self._returned_batch(call, result)
        elif len(call.inner) == 1:
            # A layer around an environment that has spoken already: from now on they are one.
            stream = call.inner[0]
            self._tie(call.env, stream)
            if kind == "step":
                # If it has reset the environment, what it says is of the episode that is over, and was written.
                if not call.reset_inside:
                    stream.add(adapter.read_step(result), adapter)
            elif kind in ("reset", "observe"):
                stream.look_again(adapter.read_reset(result), adapter)
                stream.tell(instruction_in(result))
                stream.learn(adapter.describe(call.env))
        elif not call.inner and kind != "close":
            stream = self._stream(call.env, adapter)
            if kind in ("reset", "step", "observe"):
                call.inner.append(stream)
            self._record(stream, call, result)
        self._hand_up(call, parent)

    def _hand_up(self, call: _Call, parent: _Call | None) -> None:
        for stream in call.inner:
            if parent is None:
                stream.flush()
            elif stream not in parent.inner:
                parent.inner.append(stream)

    def _record(self, stream: Stream, call: _Call, result: Any) -> None:
        """What the innermost layer did."""
        adapter, kind = call.adapter, call.kind
        if kind == "step":
            transition = adapter.read_step(result)
            if transition.success is None and call.answer is not None:
                transition = transition._replace(success=call.answer)
            self._stepped(stream, call, transition, call.action or (), asked=not call.resetting)
        elif kind == "reset":
            stream.reset(**_seed(call.kwargs))
            stream.observed(adapter.read_reset(result), adapter)
            stream.tell(instruction_in(result))
        elif kind == "observe":
            stream.called(call.name, state=_state(call.args, call.kwargs))
            stream.observed(adapter.read_reset(result), adapter)
        elif kind == "render":
            stream.rendered(result, adapter)
        elif call.name == "get_language_instruction":
            stream.tell(result if isinstance(result, str) else None)
        else:
            stream.called(call.name, **_facts(call, result))

    def _stepped(
        self, stream: Stream, call: _Call, transition: Transition, action: Sequence[float], *, asked: bool = True
    ) -> None:
        autoreset = call.adapter.autoreset(call.env) if call.adapter.split is not None else ""
        over = stream.over and (autoreset == "next" or call.reset_inside)
        if transition.restarted or (over and not transition.done):
            # The action was ignored, and so was the query that answered it.
            pending = self.take(stream, action)
            if pending is not None:
                stream.ignored(pending)
            stream.reset()
            stream.observed(transition.observation, call.adapter)
            stream.tell(instruction_in((transition.observation, transition.info)))
            return
        stream.stepped(action, transition, call.adapter, call.began, call.elapsed, asked=asked)
        if call.reset_inside or (autoreset == "same" and transition.done):
            stream.reset()
            stream.observed(transition.observation, call.adapter)
            stream.tell(instruction_in((transition.observation, transition.info)))

    def _returned_batch(self, call: _Call, result: Any) -> None:
        """A vector environment: its single ones have spoken already, or they are in other processes."""
        adapter = call.adapter
        assert adapter.split is not None
        if call.inner:
            if len(call.inner) > 1 and len(call.inner) == adapter.size(call.env):
                for place, stream in enumerate(call.inner):
                    stream.place = place
                    stream.restarts = bool(adapter.autoreset(call.env))
        elif call.kind in ("reset", "step", "observe"):
            for part in adapter.split(call.env, call.kind, call.given, result):
                stream = self._place(call.env, part.place, adapter)
                call.inner.append(stream)
                self._record_part(stream, call, part)
        if call.kind == "step":
            # Rows of the batch that nobody executed: their environments were beginning another episode.
            for pending in [one for one in self._pending if one.place is not None]:
                self._pending.remove(pending)
                for stream in call.inner:
                    if stream.place == pending.place:
                        stream.ignored(pending)

    def _record_part(self, stream: Stream, call: _Call, part: Part) -> None:
        adapter, observation = call.adapter, part.transition.observation
        if call.kind == "step":
            self._stepped(stream, call, part.transition, action_values(part.action) or ())
        elif call.kind == "reset":
            stream.reset(**_seed(call.given, part.place))
            stream.observed(observation, adapter)
            stream.tell(instruction_in((observation, part.transition.info)))
        else:
            stream.called(call.name, state=action_values(part.action))
            stream.observed(observation, adapter)

    def _raised(self, call: _Call, error: BaseException, parent: _Call | None) -> None:
        if call.inner or call.kind == "close":
            found = []
        elif call.adapter.split is not None:
            found = [stream for stream in self.streams() if stream.is_of(call.env)]
        else:
            found = [self._stream(call.env, call.adapter)]
        for stream in found:
            call.inner.append(stream)
            stream.called(call.name, raised=describe(error))
            if call.kind == "step":
                stream.stepped(call.action or (), Transition(None), call.adapter, call.began, call.elapsed)
                stream.raised = _ending(error)
        self._hand_up(call, parent)

    def _closes(self, env: Any) -> None:
        """An environment is about to be closed: its episodes end here, with the exception that the program is in."""
        found = [stream for stream in self.streams() if stream.is_of(env)]
        ended, error = _ending(sys.exc_info()[1])
        for stream in found:
            stream.flush()
            stream.end(ended, error)
        self._forget(found)

    def _forget(self, streams: Sequence[Stream]) -> None:
        tables: tuple[dict[Any, Stream], ...] = (self._streams, self._places)
        for table in tables:
            for key in list(table):
                if table.get(key) in streams:
                    table.pop(key, None)

    def _sweep(self) -> None:
        """End the episodes of environments that are no more; programs make one for each task, or for each episode."""
        gone = [stream for stream in self.streams() if stream.gone and stream is not self._alone]
        for stream in gone:
            stream.flush()
            stream.end()
        self._forget(gone)

    def _stream(self, env: Any, adapter: EnvAdapter) -> Stream:
        stream = self._streams.get(id(env))
        if stream is not None and stream.is_of(env):
            return stream
        inner = adapter.inner(env) if adapter.inner is not None else None
        if inner is not None and inner is not env:
            stream = self._stream(inner, adapter)
        else:
            self._sweep()
            stream = Stream(self, env, adapter, None)
        self._tie(env, stream)
        return stream

    def _place(self, env: Any, place: int, adapter: EnvAdapter) -> Stream:
        stream = self._places.get((id(env), place))
        if stream is None or not stream.is_of(env):
            self._sweep()
            stream = self._places[id(env), place] = Stream(self, env, adapter, place)
            stream.restarts = bool(adapter.autoreset(env))
        return stream

    def _tie(self, env: Any, stream: Stream) -> None:
        if self._streams.get(id(env)) is stream:
            return
        self._streams[id(env)] = stream
        stream.keep(env)

    def take(self, stream: Stream, executed: Sequence[float]) -> Pending | None:
        """The waiting query that a step executes, and what waits no longer with it."""
        if not self._pending:
            return None
        same = [pending for pending in self._pending if pending.answers(executed)]
        own = [pending for pending in same if pending.place == stream.place]
        rest = [pending for pending in self._pending if pending.place in (None, stream.place)]
        here = [pending for pending in rest if pending.thread == threading.get_ident()]
        found = next((group[-1] for group in (own, same, here, rest) if group), None)
        if found is None:
            return None
        # Whatever was asked for the same place before it, in the same thread, will not be executed any more.
        for old in self._pending[: self._pending.index(found)]:
            if old.place in (None, found.place) and old.thread == found.thread:
                self._pending.remove(old)
                stream.ignored(old)
        self._pending.remove(found)
        return found

    def failed_queries(self, stream: Stream) -> list[dict[str, Any]]:
        """What the policy's side raised since the stream's last step, when its episode ends: no step will take it."""
        if len(self.streams()) > 1:
            return []
        failed = [one for one in self._pending if any("raised" in said for said in one.said)]
        self._pending = [one for one in self._pending if one not in failed]
        found = [said for one in failed for said in one.said] + [said for said in self._said if "raised" in said]
        self._said = [said for said in self._said if "raised" not in said]
        return found

    def _spread(self, size: int | None) -> None:
        """Before a vector environment steps: as many queries as it has places, asked one by one, are its rows."""
        alone = [pending for pending in self._pending if pending.place is None]
        if size is not None and 1 < size <= len(alone):
            for place, pending in enumerate(alone[-size:]):
                pending.place = place

    @property
    def _is_server(self) -> bool:
        return self.serving and not self._streams and not self._places

    def _flush_alone(self) -> None:
        """Write queries that no step has taken: of a policy without environment, in a server, say."""
        if not self._pending:
            return
        if self._alone is None:
            self._alone = Stream(self, self, EnvAdapter(ALONE, describe=lambda _: {"label": "policy-alone"}), None)
        for pending in list(self._pending):
            self._pending.remove(pending)
            self._alone.queried(pending)
            self._alone.flush()

    def name_trace(self, label: str) -> tuple[Path, int]:
        """A file that is not there yet, and the number of the episode in its name."""
        number = 0
        folder = self.folder / "traces"
        # A process that calls `exec`, or has the number of an earlier one, finds traces there.
        while (name := f"{self.process}{label}-ep{number}") in self._used or (folder / f"{name}.mcap").exists():
            number += 1
        self._used.add(name)
        return folder / f"{name}.mcap", number

    def forget_name(self, name: str) -> None:
        """Give the name of a file that was not kept to the next one."""
        self._used.discard(name)

    def complete_run(self) -> None:
        """Add the facts that are asked for once."""
        facts, self._facts = self._facts, None
        if facts is not None:
            self.run = {**facts(), **self.run}

    def fork(self) -> None:
        """In a process that was just forked: leave the parent's recordings alone and begin one's own."""
        for stream in self.streams():
            stream.abandon()
        self.tap, self.worker, self.budget = Guard(self._failed), Worker(), Budget()
        self._streams, self._places, self._sent, self._alone, self._pending = {}, {}, {}, None, []
        self._calls = threading.local()
        self._used = set()
        self.process = f"process{os.getpid()}-"
        self.run["process"] = os.getpid()
        self.run["parent"] = os.getppid()
        from multiprocessing import util

        # Processes of multiprocessing end without atexit, and forget at their start what was registered before it.
        util.register_after_fork(self, _close_at_end)


class Boundary:
    """Context of a call of a policy that may ask another one: a broker a client, a server's policy a model.

    Attributes:
        queries: that were reported in this thread since it was entered, the outermost call's own included.
    """

    def __init__(self, watch: Watch, calls: threading.local) -> None:
        self.queries: list[Query] = []
        self._watch, self._calls = watch, calls
        self._outer: Boundary | None = None

    def __enter__(self) -> Boundary:
        self._outer = getattr(self._calls, "boundary", None)
        self._calls.boundary = self
        return self

    def __exit__(self, *_: object) -> None:
        self._calls.boundary = self._outer
        if self._outer is not None:
            self._outer.queries.extend(self.queries)
        elif self._watch.active and self._watch._is_server:
            with self._watch.tap:
                self._watch._flush_alone()


@dataclass
class _Call:
    """A call of an environment's method that is going on.

    Attributes:
        resetting: it lies within the reset of a layer above, which settles the scene: no policy's doing.
        action: what a single environment's step was given; given: all that a vector environment was.
        inner: streams of the environments below that have spoken already.
        reset_inside, answer: the environment has reset itself in its step, or asked itself whether the task is done.
    """

    adapter: EnvAdapter
    kind: str
    name: str
    env: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    resetting: bool = False
    action: tuple[float, ...] | None = None
    given: dict[str, Any] = field(default_factory=dict)
    began: float = 0.0
    elapsed: float = 0.0
    inner: list[Stream] = field(default_factory=list)
    reset_inside: bool = False
    answer: bool | None = None

    def drives(self, kind: str) -> bool:
        """Whether a call within this one is worth recording: a wrapper seeds or asks the environment below it."""
        return kind == "call" and (self.kind in ("reset", "step") or self.adapter.split is not None)

    def saw(self, name: str, result: Any) -> None:
        """The environment has called another method of its own."""
        if name == "check_success" and isinstance(result, (bool, np.bool_)):
            self.answer = bool(result)


_METHODS = {
    "reset": "reset",
    "step": "step",
    "set_init_state": "observe",
    "render": "render",
    "seed": "call",
    "check_success": "call",
    "close": "close",
}
"""Methods of environments, and what they are to `Watch.env_call`."""


def _facts(call: _Call, result: Any) -> dict[str, Any]:
    if call.name == "seed":
        return {"seed": call.args[0] if call.args else next(iter(call.kwargs.values()), None)}
    if isinstance(result, (bool, np.bool_)):
        return {"answer": bool(result)}
    return {}


def _state(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[float] | None:
    state = args[0] if args else next(iter(kwargs.values()), None)
    values = None if state is None else action_values(state)
    return None if values is None else list(values)


def _seed(arguments: Mapping[str, Any], place: int = 0) -> dict[str, Any]:
    seed = arguments.get("seed")
    if isinstance(seed, (list, tuple)):
        return {"seed": row(seed, place)}
    return {"seed": int(seed) + place} if isinstance(seed, (int, np.integer)) else {}


def _given(original: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """A vector environment's arguments by name, arrays and dicts as they are now."""
    try:
        arguments = dict(inspect.signature(original).bind(*args, **kwargs).arguments)
    except (TypeError, ValueError):
        # The call will say so itself.
        return {}
    return {name: _copy(value) for name, value in arguments.items()}


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    return value.copy() if isinstance(value, (np.ndarray, list)) else value


def _ending(error: BaseException | None) -> tuple[str, str]:
    """How an episode ended and what to say of it, by what was raised, if anything."""
    if error is None:
        return "", ""
    return "exception" if isinstance(error, Exception) else "interrupted", describe(error)


def _attach_to_current(hook: Callable[[ModuleType], Sequence[Undo]], module: ModuleType) -> None:
    watch = current()
    if watch is not None:
        watch._attach_to(hook, module)


def _before_fork() -> None:
    if _current is not None:
        with contextlib.suppress(Exception):
            _current.worker.pause(_PATIENCE)


def _forked() -> None:
    if _current is not None:
        _current.fork()


def _close_at_end(watch: Watch) -> None:
    from multiprocessing import util

    util.Finalize(None, watch.close, exitpriority=100)


_forks_watched = False


def _watch_forks() -> None:
    global _forks_watched
    if not _forks_watched and hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_before_fork, after_in_child=_forked)
        _forks_watched = True
