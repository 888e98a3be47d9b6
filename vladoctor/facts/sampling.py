"""Which few of an episode's queries to look at closely, where all of them would take too long."""

from __future__ import annotations

import numpy as np


def spread(count: int, most: int, changed: np.ndarray | None = None) -> list[int]:
    """Places spread over `count` queries, at most `most` of them and one more; the first and the last always.

    Args:
        changed: bool (count,), where a cheap sign says that something is other than in the query before. Of every
            stretch between two places the first such query stands for it, so that what begins somewhere is looked at
            where it begins.
    """
    places = np.unique(np.linspace(0, count - 1, min(count, most)).astype(int)).tolist() if count else []
    if changed is None:
        return places
    signs = np.flatnonzero(changed)
    at = np.searchsorted(signs, places, side="right")
    found = places[:1]
    for before, place, first, last in zip(places, places[1:], at, at[1:], strict=False):
        sign = int(signs[first]) if first < last else place
        found.append(sign if sign > before else place)
    return sorted({*found, *places[-1:]})
