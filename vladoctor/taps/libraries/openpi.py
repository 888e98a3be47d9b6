"""openpi's policies: its websocket client, and in a server's process `openpi.policies.policy.Policy`.

All of them are `openpi_client.base_policy.BasePolicy`s that hold each other: a broker that hands out a chunk row by row
holds the client that asks for chunks. The one that holds no other is the one that is asked; what the others make of its
answer shows in the actions that are executed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import perf_counter
from types import ModuleType
from typing import Any

import numpy as np

from vladoctor.records import Query
from vladoctor.taps.given import Question, rows, sort
from vladoctor.taps.patch import Undo, wrap_classes
from vladoctor.taps.recorder import describe
from vladoctor.taps.watch import Watch, current

_TIMINGS = ("server_timing", "policy_timing")

_inputs: dict[int, Callable[[Any], None]] = {}
"""Input transform (by its id) -> who wants to see what it makes: policies that are just being asked."""


def _found(cls: type) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The maker of a wrapper of `infer`."""

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def infer(self: Any, *args: Any, **kwargs: Any) -> Any:
            watch = current()
            if watch is None or _holds_another(self, cls):
                return original(self, *args, **kwargs)
            return _ask(watch, self, original, args, kwargs)

        return infer

    return make


def _ask(watch: Watch, policy: Any, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    transform = getattr(policy, "_input_transform", None)
    boundary = "openpi.infer" if transform is None else "openpi.policy"
    question: Question | None = None
    with watch.tap:
        question = _question(watch, boundary, policy, args[0] if args else kwargs.get("obs"))
    if question is None:
        return original(policy, *args, **kwargs)
    if transform is not None:
        _inputs[id(transform)] = partial(_model_input, watch, question.query)
    with watch.boundary() as asked:
        began = perf_counter()
        try:
            result = original(policy, *args, **kwargs)
        except BaseException as error:
            with watch.tap:
                watch.called(boundary, raised=describe(error))
                if not asked.queries:
                    watch.took("forward", perf_counter() - began)
                    question.answered(())
            raise
        finally:
            _inputs.pop(id(transform), None)
        elapsed = perf_counter() - began
        if watch.active:
            with watch.tap:
                answer = result if isinstance(result, Mapping) else {}
                actions = rows(answer, ("actions", "action"))
                if asked.queries:
                    _complete(asked.queries[-1], question, actions)
                else:
                    watch.took("forward", elapsed)
                    question.answered(actions, **{name: answer[name] for name in _TIMINGS if name in answer})
            watch.mark("answered")
    return result


def _question(watch: Watch, boundary: str, policy: Any, observation: Any) -> Question:
    found = sort(observation)
    instruction = found.instruction()
    question = Question(watch, boundary, found, **{"class": type(policy).__qualname__})
    if instruction is not None:
        key, question.query.prompt = instruction
        question.query.options = {name: value for name, value in question.query.options.items() if name != key}
    if not watch.run.get("checkpoint"):
        # Plain attributes of both classes: asking a subclass's method might do anything.
        metadata = getattr(policy, "_server_metadata", None) or getattr(policy, "_metadata", None) or {}
        watch.learn(checkpoint={"family_hint": "openpi", "server_metadata": dict(metadata)})
    return question


def _complete(query: Query, question: Question, actions: Sequence[Sequence[float]]) -> None:
    """A policy that asked one that is watched as well, a model of transformers, say: one query, seen twice."""
    if len(actions) > 1 and not query.chunk:
        query.chunk = tuple(map(tuple, actions))
    if not query.proprio:
        query.proprio = question.query.proprio
    if question.query.prompt is not None:
        query.options = {**query.options, "instruction": question.query.prompt}


def _model_input(watch: Watch, query: Query, made: Any) -> None:
    """What the policy's own transforms have made: images by the model's slots, the ids of the prompt.

    Source: Physical-Intelligence/openpi@15a9616, src/openpi/models/model.py:111-133 (`Observation.from_dict`).
    """
    if not isinstance(made, Mapping):
        return
    with watch.tap:
        tokens, mask = made.get("tokenized_prompt"), made.get("tokenized_prompt_mask")
        if isinstance(tokens, np.ndarray) and tokens.ndim == 1:
            keep = np.asarray(mask, bool) if isinstance(mask, np.ndarray) else np.ones(len(tokens), bool)
            query.input_ids = tuple(int(token) for token in tokens[keep])
        slots = Question(watch, "", sort({"image": made.get("image"), "state": made.get("state")}))
        images = dict(slots.query.more_images)
        if slots.query.image is not None:
            images[next(iter(slots.query.options["given"]))] = slots.query.image
        query.more_images = {**query.more_images, **{f"model/{slot}": picture for slot, picture in images.items()}}
        query.proprio = {**query.proprio, **{f"model/{name}": one for name, one in slots.query.proprio.items()}}


def _tap_transform(original: Callable[..., Any]) -> Callable[..., Any]:
    def call(self: Any, data: Any, *args: Any, **kwargs: Any) -> Any:
        made = original(self, data, *args, **kwargs)
        if current() is not None and (see := _inputs.get(id(self))) is not None:
            see(made)
        return made

    return call


def _tap_reset(original: Callable[..., Any]) -> Callable[..., Any]:
    def reset(self: Any, *args: Any, **kwargs: Any) -> Any:
        watch = current()
        if watch is not None:
            with watch.tap:
                watch.called("policy.reset", of=type(self).__qualname__)
        return original(self, *args, **kwargs)

    return reset


def _holds_another(policy: Any, cls: type) -> bool:
    return any(isinstance(value, cls) for value in getattr(policy, "__dict__", {}).values())


def _hook(module: ModuleType) -> Sequence[Undo]:
    return [wrap_classes(module.BasePolicy, {"infer": _found(module.BasePolicy), "reset": _tap_reset})]


def _hook_transforms(module: ModuleType) -> Sequence[Undo]:
    return [wrap_classes(module.CompositeTransform, {"__call__": _tap_transform})]


HOOKS = {"openpi_client.base_policy": _hook, "openpi.transforms": _hook_transforms}
