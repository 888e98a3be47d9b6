"""Puts a loop together again whose policy ran in another process: the client's episode, and what its server recorded.

Queries are matched by content, never by order alone: first by the actions that were answered, then, where no action is
equal, by what was sent (picture, state and text). Order decides only among queries that agree in all of that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

import numpy as np
from PIL import Image

from vladoctor.records import Episode, Frame, Query, Step

SAME = 1e-5
"""Two values are the same if they differ by no more than this share of the larger one, or of 1: float32 on the way."""

SAME_PICTURE = 1.5
"""Mean difference of two thumbnails in levels up to which they show the same frame: each is JPEG, off by 2 at most."""

_SIDE = 32

_OUTER = "openpi"
"""Start of the boundaries of servers' policies, in which a model may be."""


def policy_alone(episode: Episode) -> bool:
    """Whether it holds queries that no environment of their process has executed: a server's, say."""
    return episode.task.get("environment") == "policy alone"


def join_servers(episodes: Sequence[Episode]) -> list[Episode]:
    """Every episode, with what the policies that were recorded alone saw of its queries added (`merge_server`)."""
    servers = [episode for episode in episodes if policy_alone(episode)]
    return [one if policy_alone(one) else reduce(merge_server, servers, one) for one in episodes]


def merge_server(client: Episode, server: Episode) -> Episode:
    """Add to a client's queries what only the server saw of them.

    What the model was given and made is the server's: prompt, ids, image, `normalised`, and `action` and `chunk`, so
    that all of it is of one boundary, in the model's own convention. What the program sent is kept in `more_images`
    ("sent/<slot>"), `proprio` and the option `instruction`, what it was answered, where that differs, in the option
    `answered`: (rows, action_dim).

    Args:
        client: its steps were executed.
        server: recorded where the policy ran; may hold the queries of many episodes and clients.

    Returns:
        Another episode, with a note on how many queries were found, or `client` itself where none was.
    """
    asked = [(index, step.query) for index, step in enumerate(client.steps) if step.query is not None]
    answers = [step for step in server.steps if step.query is not None]
    steps = list(client.steps)
    matched: set[int] = set()
    # The outermost boundary of the server first: what is nearer to the model is to have the last word.
    for boundary in sorted({_query(step).boundary for step in answers}, key=lambda name: not name.startswith(_OUTER)):
        group = [step for step in answers if _query(step).boundary == boundary]
        for index, found in _pairs([query for _, query in asked], group):
            at = asked[index][0]
            steps[at] = _fill(steps[at], found)
            matched.add(index)
    if not matched:
        return client
    note = (
        f"{len(matched)} of {len(asked)} queries were found in what the server recorded ({server.source or 'a trace'})"
    )
    return replace(client, steps=steps, run=_run(client.run, server.run), notes=(*client.notes, *server.notes, note))


def _pairs(asked: Sequence[Query], answers: Sequence[Step]) -> Iterator[tuple[int, Step]]:
    """(index in `asked`, its answer), each answer once."""
    free = dict(enumerate(answers))
    for index, query in enumerate(asked):
        place = _find(query, free)
        if place is not None:
            yield index, free.pop(place)


def _find(query: Query, free: Mapping[int, Step]) -> int | None:
    rows = _rows(query)
    same = [place for place, step in free.items() if rows and _same_rows(rows, _rows(_query(step)))]
    if not same:
        return next((place for place, step in free.items() if _same_question(query, _query(step))), None)
    if len(same) == 1:
        return same[0]
    differences = {place: _difference(query.image, _query(free[place]).image) for place in same}
    nearest = min(differences.values())
    return next(place for place in same if differences[place] <= nearest + 0.1)


def _same_rows(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> bool:
    """Whether the first rows are the same but for the gripper, which servers map, or all rows are where both have some.

    A server may shorten or extend what its model answered, so that the lengths say nothing.
    """
    if not theirs or len(ours[0]) != len(theirs[0]):
        return False
    count = min(len(ours), len(theirs))
    one, two = (np.asarray(rows[:count], np.float64)[:, :-1] for rows in (ours, theirs))
    return one.shape == two.shape and bool(np.all(np.abs(one - two) <= SAME * np.maximum(1.0, np.abs(one))))


def _same_question(one: Query, two: Query) -> bool:
    """Whether both were asked the same: the same picture, and what both know of state and text agrees."""
    if one.image is None or two.image is None or one.image.shape != two.image.shape:
        return False
    both = set(one.proprio) & set(two.proprio)
    if any(not np.array_equal(one.proprio[name], two.proprio[name]) for name in both):
        return False
    if one.prompt is not None and two.prompt is not None and one.prompt != two.prompt:
        return False
    # Frames of neighbouring steps look the same at the size of a thumbnail: the state tells them apart.
    return bool(both) and _difference(one.image, two.image) <= SAME_PICTURE


def _difference(one: Frame | None, two: Frame | None) -> float:
    """Mean difference of two pictures in levels; infinite where there are not two."""
    if one is None or two is None:
        return float("inf")
    small = [
        np.asarray(Image.fromarray(frame.thumbnail).resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float64)
        for frame in (one, two)
    ]
    return float(np.abs(small[0] - small[1]).mean())


def _fill(step: Step, answer: Step) -> Step:
    ours, theirs = step.query, _query(answer)
    assert ours is not None
    options: dict[str, Any] = {**theirs.options, **ours.options}
    if ours.prompt is not None and theirs.prompt is not None and ours.prompt != theirs.prompt:
        options.setdefault("instruction", ours.prompt)
    # Of what was sent, the server's own model may use a part: what it was really given stands in its queries.
    sent = ours.more_images if theirs.image is None else {f"sent/{slot}": one for slot, one in ours.more_images.items()}
    image, more = ours.image, {**sent, **theirs.more_images}
    if theirs.image is not None and (image is None or not _same_frame(image, theirs.image)):
        if image is not None:
            more[f"sent/{next(iter(ours.options.get('given', {})), 'image')}"] = image
        image = theirs.image
    action, chunk = ours.action, ours.chunk
    if theirs.action is not None and (action is None or not theirs.boundary.startswith(_OUTER)):
        if _rows(ours) and _rows(ours) != _rows(theirs):
            options["answered"] = [list(row) for row in _rows(ours)]
        action, chunk = theirs.action, theirs.chunk
    query = replace(
        ours,
        prompt=theirs.prompt if theirs.prompt is not None else ours.prompt,
        input_ids=theirs.input_ids or ours.input_ids,
        image=image,
        more_images=more,
        proprio={**theirs.proprio, **ours.proprio},
        pixel_stats=theirs.pixel_stats or ours.pixel_stats,
        ids=theirs.ids or ours.ids,
        action_mass=theirs.action_mass or ours.action_mass,
        margin=theirs.margin or ours.margin,
        entropy=theirs.entropy or ours.entropy,
        normalised=theirs.normalised if theirs.normalised is not None else ours.normalised,
        action=action,
        chunk=chunk,
        options=options,
        vision_calls=theirs.vision_calls if theirs.vision_calls is not None else ours.vision_calls,
        model=theirs.model or ours.model,
    )
    timings = {**step.timings, **{f"server {stage}": value for stage, value in answer.timings.items()}}
    return replace(step, query=query, timings=timings)


def _same_frame(one: Frame, two: Frame) -> bool:
    return one.shape == two.shape and _difference(one, two) <= SAME_PICTURE


def _run(client: Mapping[str, Any], server: Mapping[str, Any]) -> dict[str, Any]:
    """What holds for the run: the checkpoint and its device are the server's."""
    ours, theirs = client.get("checkpoint") or {}, server.get("checkpoint") or {}
    known = any(theirs.get(name) for name in ("model_type", "class", "architectures"))
    # The way in which a policy is served is no hint at its family where the model itself was seen.
    ours = {name: value for name, value in ours.items() if not known or name != "family_hint"}
    merged = {**server, **client, "checkpoint": {**ours, **theirs}}
    if "device" in server:
        merged["device"] = server["device"]
    if "versions" in server:
        merged["server"] = {"versions": server["versions"]}
    return merged


def _rows(query: Query) -> Sequence[Sequence[float]]:
    return query.chunk or ((query.action,) if query.action else ())


def _query(step: Step) -> Query:
    assert step.query is not None
    return step.query
