"""What the source of one loop says: what a check's `judge_source` is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vladoctor.places import Place

if TYPE_CHECKING:
    from vladoctor.profiles import Profile


@dataclass(frozen=True)
class SourceFacts:
    """One evaluation loop, as its source shows it, and the profile of what its checkpoint expects."""

    place: Place
    profile: Profile
