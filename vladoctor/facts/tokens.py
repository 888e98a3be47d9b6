"""Which ids an action was decoded from, and what they mean.

OpenVLA's `predict_action` generates one id for each dimension, takes the *last* `action_dim` ids of prompt and answer
together, and maps whatever it finds there to bin centres, clipping what is no action id. Source:
openvla/openvla@c8f03f4 prismatic/extern/hf/modeling_prismatic.py:500-524.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from vladoctor.facts import Facts
    from vladoctor.profiles import Profile
    from vladoctor.records import Episode, Query

UNKNOWN_ID = -1
"""Stands for an id of the prompt that was not recorded. Decodes as every text id does."""

DECODES = {
    "centres": "255 bin centres, as OpenVLA",
    "edges": "bin edges k/255, as RT-1",
    "256 centres": "256 bin centres",
    "padded vocabulary": "255 bin centres, counted down from the padded vocabulary",
    "ascending": "255 bin centres, counted up from the first action id",
    "ascending edges": "bin edges k/255, counted up from the first action id, as RT-1",
    "one bin up": "255 bin centres, one bin too high (vocabulary - id)",
    "one bin down": "255 bin centres, one bin too low (vocabulary - id - 2)",
}
"""Ways from ids to normalised values that are found in the wild. Sources of the wrong ones:
google-research/robotics_transformer@4569641 tokenizers/action_tokenizer.py:150-153 (edges), a LIBERO decoder that
builds linspace(-1, 1, 257) (256 centres), openvla/openvla#267 and #290 (padded vocabulary)."""


@dataclass(frozen=True)
class TokenLayout:
    """Where a family keeps its action ids; ids fall as values rise.

    Attributes:
        first, last: smallest and largest action id.
        vocabulary: the tokenizer's size; bin k has the id vocabulary - 1 - k.
        rows: rows of the embedding, padding included.
        bins: number of bin edges; there is one centre less.
        dimensions: names of the action's dimensions, in order.
        append_id: id that `predict_action` puts behind a prompt that does not end with it, or None.
        eos: id that ends a text, or None.
    """

    first: int
    last: int
    vocabulary: int
    rows: int
    bins: int
    dimensions: tuple[str, ...]
    append_id: int | None
    eos: int | None

    def is_action(self, token_id: int) -> bool:
        return self.first <= token_id <= self.last


@dataclass(eq=False)
class ActionTokens:
    """The ids that one action was decoded from.

    Attributes:
        step: step number.
        ids: the ids decoded, (action_dim,); `UNKNOWN_ID` where they come from a prompt that was not recorded.
        generated: how many ids the model generated.
        from_prompt: how many of `ids`, at the front, were not generated but belong to the prompt.
        ended: the model generated the id that ends a text.
        outside: positions in `ids` that hold no action id.
        centres: float64 (action_dim,): normalised values as OpenVLA decodes them, in [-0.9961, 0.9961].
        bins: int (action_dim,): number of the bin, 0 for the lowest value, 254 for the highest.
    """

    step: int
    ids: tuple[int, ...]
    generated: int
    from_prompt: int
    ended: bool
    outside: tuple[int, ...]
    centres: np.ndarray
    bins: np.ndarray


def token_layout(profile: Profile) -> TokenLayout | None:
    """The layout that the profile describes; None where it describes none."""
    first, last, vocabulary, bins = (profile.get(f"tokens.{key}") for key in ("first", "last", "vocabulary", "bins"))
    dimensions = profile.get("action.dimensions")
    if None in (first, last, vocabulary, bins) or not dimensions:
        return None
    rows = profile.get("tokens.embedding_rows") or vocabulary
    append_id, eos = profile.get("prompt.append_id"), profile.get("tokens.eos")
    return TokenLayout(first, last, vocabulary, rows, bins, tuple(dimensions), append_id, eos)


def bin_numbers(ids: np.ndarray, layout: TokenLayout) -> np.ndarray:
    """Bin numbers as OpenVLA clips them: int, 0 (lowest value) to bins - 2 (highest), in the shape of `ids`."""
    return np.clip(layout.vocabulary - 1 - np.asarray(ids), 0, layout.bins - 2)


def decode(ids: np.ndarray, layout: TokenLayout, how: str = "centres") -> np.ndarray:
    """Normalised values of ids, float64 in [-1, 1], in the shape of `ids`, by one of `DECODES`."""
    steps = layout.bins - 1
    if how == "edges":
        return -1.0 + 2.0 * np.clip(layout.vocabulary - 1 - np.asarray(ids), 0, steps) / steps
    if how == "256 centres":
        return -1.0 + (2.0 * np.clip(layout.vocabulary - 1 - np.asarray(ids), 0, steps) + 1.0) / layout.bins
    if how == "ascending edges":
        return -1.0 + 2.0 * np.clip(np.asarray(ids) - layout.first, 0, steps) / steps
    if how == "ascending":
        return -1.0 + (2.0 * np.clip(np.asarray(ids) - layout.first, 0, steps - 1) + 1.0) / steps
    start = {
        "padded vocabulary": layout.rows,
        "one bin up": layout.vocabulary + 1,
        "one bin down": layout.vocabulary - 1,
    }
    if how in start:
        return -1.0 + (2.0 * np.clip(start[how] - 1 - np.asarray(ids), 0, steps - 1) + 1.0) / steps
    return -1.0 + (2.0 * bin_numbers(ids, layout) + 1.0) / steps


def extreme_bins(actions: Sequence[ActionTokens], layout: TokenLayout) -> np.ndarray:
    """Which values lie in an outermost bin: int8 (queries, action_dim), -1 in the lowest, +1 in the highest, else 0."""
    bins = np.array([tokens.bins for tokens in actions])
    return ((bins == layout.bins - 2).astype(np.int8) - (bins == 0)).astype(np.int8)


def longest_run(flags: np.ndarray) -> tuple[int, int]:
    """Start and length of the longest run of true values in bool (queries,); (0, 0) if there is none."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    starts, ends = edges[::2], edges[1::2]
    if not len(starts):
        return 0, 0
    best = int((ends - starts).argmax())
    return int(starts[best]), int(ends[best] - starts[best])


def prompt_ids(ids: Sequence[int], append_id: int | None) -> tuple[int, ...]:
    """Ids of a prompt as `predict_action` passes them on: with `append_id` behind them unless they end with it."""
    ends = append_id is None or (len(ids) > 0 and ids[-1] == append_id)
    return tuple(ids) if ends else (*ids, int(append_id or 0))


_tokens: weakref.WeakKeyDictionary[Facts, list[ActionTokens]] = weakref.WeakKeyDictionary()


def tokens_of(facts: Facts) -> list[ActionTokens]:
    """`action_tokens` by the profile's layout, none where it has none. Computed once for each `Facts`."""
    if facts not in _tokens:
        layout = token_layout(facts.profile)
        _tokens[facts] = [] if layout is None else action_tokens(facts.episode, layout)
    return _tokens[facts]


def action_tokens(episode: Episode, layout: TokenLayout) -> list[ActionTokens]:
    """The ids behind each action of an episode; queries of which no generated id was recorded are left out."""
    size = len(layout.dimensions)
    asked = [(step, query) for step, query in episode.queries() if query.ids]
    decoded = [_decoded(query, size, layout.append_id) for _, query in asked]
    if not asked:
        return []
    table = np.array(decoded)
    outside: np.ndarray = (table < layout.first) | (table > layout.last)
    wrong = np.asarray(outside.any(axis=1)).tolist()
    found = zip(asked, decoded, decode(table, layout), bin_numbers(table, layout), outside, wrong, strict=True)
    return [
        ActionTokens(
            step=step,
            ids=ids,
            generated=len(query.ids),
            from_prompt=max(0, size - len(query.ids)),
            ended=layout.eos in query.ids,
            outside=tuple(np.flatnonzero(flags).tolist()) if any_wrong else (),
            centres=centres,
            bins=bins,
        )
        for (step, query), ids, centres, bins, flags, any_wrong in found
    ]


def _decoded(query: Query, size: int, append_id: int | None) -> tuple[int, ...]:
    """The ids that an action was decoded from, (size,); those that were not generated are the prompt's last ones."""
    if len(query.ids) >= size:
        return tuple(query.ids[-size:])
    before = prompt_ids(query.input_ids, append_id) if query.input_ids else ()
    return ((UNKNOWN_ID,) * size + before + tuple(query.ids))[-size:]


@dataclass(frozen=True)
class PromptIds:
    """The ids of one prompt, as they were given to the model and as the model's own code passed them on.

    Attributes:
        text: what the processor was given; None where only ids were seen.
        given: ids without masked ones.
        added: what the model's code put behind them before it generated; None where that was not seen.
        padding: how many ids were masked: in front, between others, behind.
        steps: numbers of the steps.
    """

    text: str | None
    given: tuple[int, ...]
    added: tuple[int, ...] | None
    padding: tuple[int, int, int]
    steps: tuple[int, ...]

    @property
    def final(self) -> tuple[int, ...] | None:
        """What the model generated from; None where that was not seen."""
        return None if self.added is None else (*self.given, *self.added)


def prompts_given(episode: Episode) -> list[PromptIds]:
    """The distinct prompts of an episode of which ids were recorded, in order of their first use."""
    steps: dict[tuple[str | None, tuple[int, ...], tuple[int, ...] | None, tuple[int, int, int]], list[int]] = {}
    for step, query in episode.queries():
        if not query.input_ids:
            continue
        added = query.options.get("prompt_ids_added")
        if added is None and query.boundary == "generate":
            added = ()
        left, inside, right = query.options.get("padding") or (0, 0, 0)
        key = (query.prompt, tuple(query.input_ids), None if added is None else tuple(added), (left, inside, right))
        steps.setdefault(key, []).append(step)
    return [PromptIds(*key, tuple(numbers)) for key, numbers in steps.items()]
