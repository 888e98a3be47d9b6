"""What the policy says of the gripper, what was commanded, and what the fingers did.

Fingers are measured, not declared: which sign opens them is read off their positions after commands that stayed the
same for a while.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vladoctor.facts.actions import GRIPPER, plan
from vladoctor.facts.tokens import action_tokens, token_layout

if TYPE_CHECKING:
    from vladoctor.profiles import Profile
    from vladoctor.records import Episode

FINGERS = ("robot0_gripper_qpos", "gripper_qpos")
"""Names of the finger positions in an observation: two, metres, of opposite sign (robosuite's Panda: 0.04 is open)."""

UNDECIDED = 0.02
"""Distance from the middle of the model's range within which its value says neither open nor closed."""

HOLDS = 1e-3
"""Magnitude of a command below which it is none: robosuite's Panda takes the sign (panda_gripper.py:43-62)."""

WINDOW = 5
"""Control steps over which fingers are watched. LIBERO's Panda needs one to begin and about 15 to close."""

MOVED = 0.004
"""Change of the aperture within a window that counts as motion, metres. At rest it is below 0.0005."""


@dataclass(frozen=True, eq=False)
class Commands:
    """The gripper's part of each action from the first query on, where both are known.

    Attributes:
        steps: int (n,).
        model: float64 (n,), as the policy returned it.
        executed: float64 (n,), as env.step received it.
    """

    steps: np.ndarray
    model: np.ndarray
    executed: np.ndarray


@dataclass(frozen=True, eq=False)
class Fingers:
    """The fingers before each step, settling included.

    Attributes:
        steps: int (n,).
        qpos: float64 (n, 2), metres.
        command: float64 (n,), the command of that step.
    """

    steps: np.ndarray
    qpos: np.ndarray
    command: np.ndarray

    @property
    def aperture(self) -> np.ndarray:
        """Distance between the fingers, float64 (n,), metres."""
        width: np.ndarray = np.abs(self.qpos[:, 0] - self.qpos[:, 1])
        return width

    @property
    def signs(self) -> np.ndarray:
        """Sign of each command, 0 where it holds: float64 (n,)."""
        signs: np.ndarray = np.where(np.abs(self.command) < HOLDS, 0.0, np.sign(self.command))
        return signs


def commands(episode: Episode, profile: Profile) -> Commands | None:
    """The model's gripper beside the executed one; None where either was not recorded."""
    place = gripper_place(profile)
    if place is None:
        return None
    laid = plan(episode)
    if laid is not None and laid.comparable.any() and place < laid.planned.shape[1]:
        rows = laid.comparable
        return Commands(laid.steps[rows], laid.planned[rows, place], laid.executed[rows, place])
    return _decoded(episode, profile, place)


def gripper_place(profile: Profile) -> int | None:
    """Index of the gripper in an action; None where the profile does not say."""
    names = list(profile.get("action.dimensions") or ())
    return names.index(GRIPPER) if GRIPPER in names else None


def says_open(values: np.ndarray, model_open: float) -> np.ndarray:
    """What the model's values mean: +1 open, -1 closed, 0 neither; float64 (n,).

    Args:
        model_open: 1 where values lie in 0..1 with 1 open (their middle is 0.5), -1 where in -1..1 with -1 open.
    """
    low = 0.0 if model_open == 1 else -1.0
    middle, half = (low + 1.0) / 2.0, (1.0 - low) / 2.0
    away = (values - middle) / half
    meant = np.sign(away) if model_open == 1 else -np.sign(away)
    decided: np.ndarray = np.where(np.abs(away) > UNDECIDED, meant, 0.0)
    return decided


def fingers(episode: Episode, profile: Profile) -> Fingers | None:
    """Positions of the fingers; None where they were not recorded at two steps at least."""
    place = gripper_place(profile)
    if place is None:
        return None
    rows = []
    for step in episode.steps:
        qpos = next((step.proprio[name] for name in FINGERS if len(step.proprio.get(name, ())) == 2), None)
        if qpos is not None and len(step.executed) > place:
            rows.append((step.number, *qpos, step.executed[place]))
    if len(rows) < 2:
        return None
    table = np.array(rows, dtype=np.float64)
    return Fingers(table[:, 0].astype(int), table[:, 1:3], table[:, 3])


def opening_sign(seen: Fingers) -> tuple[float | None, int, float]:
    """Which sign of the command opens the fingers: (+1, -1 or None, first step that tells, aperture's change there).

    Told by windows in which the command kept its sign and the aperture changed; None where none does, or they differ.
    """
    signs, width = seen.signs, seen.aperture
    if len(signs) <= WINDOW:
        return None, 0, 0.0
    starts = np.flatnonzero(kept(signs)[WINDOW:-1] >= WINDOW)
    change = width[starts + WINDOW] - width[starts]
    # What an earlier command began is not to count for this one: right behind a change it has to be more.
    before = signs[np.maximum(starts - 1, 0)]
    telling = np.abs(change) > np.where(before == signs[starts], MOVED, 2 * MOVED)
    votes = (np.sign(change) * signs[starts])[telling]
    if not len(votes) or abs(votes.mean()) < 0.6:
        return None, 0, 0.0
    sign = float(np.sign(votes.mean()))
    first = int(starts[telling][votes == sign][0])
    return sign, int(seen.steps[first]), float(width[first + WINDOW] - width[first])


def kept(signs: np.ndarray) -> np.ndarray:
    """For how many steps the command had kept its sign before each step, and behind the last: int (n + 1,)."""
    runs = np.zeros(len(signs) + 1, dtype=int)
    for place, sign in enumerate(signs.tolist()):
        same_sign = place and sign == signs[place - 1]
        runs[place + 1] = 0 if sign == 0 else runs[place] + 1 if same_sign else 1
    return runs


def changes(signs: np.ndarray) -> int:
    """How often a command changes between opening and closing; holding in between does not count."""
    moving = signs[signs != 0]
    return int((np.diff(moving) != 0).sum())


def _decoded(episode: Episode, profile: Profile, place: int) -> Commands | None:
    """From the bins of the ids, of a loop that decodes them itself: the gripper is not un-normalised."""
    mask, layout = profile.get("unnorm.mask") or (), token_layout(profile)
    if place >= len(mask) or mask[place] or layout is None:
        return None
    executed = {step.number: step.executed for step in episode.policy_steps()}
    rows = [
        (tokens.step, tokens.centres[place], executed[tokens.step][place])
        for tokens in action_tokens(episode, layout)
        if not tokens.outside and len(executed.get(tokens.step, ())) > place
    ]
    if not rows:
        return None
    table = np.array(rows, dtype=np.float64)
    return Commands(table[:, 0].astype(int), table[:, 1], table[:, 2])
