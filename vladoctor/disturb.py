"""What faults of several checks do to the reference loop alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vladoctor.loop import Loop


def never_done(loop: Loop) -> None:
    """Have episodes fail, as those of any policy do now and then: the goal asks for another object of the scene.

    For what shows in episodes without success only: how long they go on, and how they are counted.
    """
    inner = loop.env.env
    goal = inner.parsed_problem["goal_state"]
    asked = {word for condition in goal for word in condition}
    fetched = next(word for word in asked if word in inner.objects_dict)
    # Not the basket either, which goes by the name of a region in it.
    other = next(name for name in inner.objects_dict if not any(word.startswith(name) for word in asked))
    inner.parsed_problem["goal_state"] = [
        [other if word == fetched else word for word in condition] for condition in goal
    ]
