"""Measuring: what really happened at each stage, taken from a recorded episode.

One module per kind of fact; each measures and none judges. `Facts` is what a check is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vladoctor.records import Episode

if TYPE_CHECKING:
    from vladoctor.profiles import Profile


@dataclass(frozen=True, eq=False)
class Facts:
    """A recorded episode, and the profile of what its checkpoint expects."""

    episode: Episode
    profile: Profile
