"""Writes a user's own profile: what recorded episodes of a loop that works show of its conventions.

Only what all queries of all episodes agree on is written, with what it was measured on as its source; everything else
is inherited from the profile that fits the checkpoint, or null, and a comment in the file says why. A trace can show
what a loop does, not that it is right: the episodes have to be healthy, and whoever keeps the file has to believe them.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vladoctor.errors import UserError
from vladoctor.facts import Facts
from vladoctor.facts.camera import raw_view, usual_view
from vladoctor.facts.following import matches
from vladoctor.facts.prompt import SLOT
from vladoctor.facts.registration import between, compose
from vladoctor.profiles.files import UNKNOWN, is_file_name, load_profile, profile_keys, profile_names
from vladoctor.profiles.find import find_profile
from vladoctor.trace import find_traces, read_episode

if TYPE_CHECKING:
    from vladoctor.profiles.profile import Profile
    from vladoctor.records import Episode, Query

MIN_QUERIES = 5
"""Queries from which something counts as seen throughout. Not a measurement."""

MIN_SHARE = 0.5
"""Share of the queries whose image has to have been registered decisively, all to the same element."""

MOST_VALUES = 3
"""Different gripper commands up to which they are listed: open, closed and hold."""

MODEL_BOUNDARIES = ("", "predict_action", "generate")
"""Where a recorded prompt is what the model's tokenizer is given; elsewhere it is what the loop hands over."""


@dataclass(frozen=True)
class Written:
    """A profile that was written.

    Attributes:
        measured: key -> value of what the file holds itself.
        unmeasured: key -> why it does not hold it.
        warnings: what should be known before it is believed.
    """

    file: Path
    measured: Mapping[str, Any]
    unmeasured: Mapping[str, str]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Unseen:
    """Why a key could not be measured."""

    why: str


def write_profile(traces: Sequence[Path], name: str, out: Path | None = None) -> Written:
    """Measure traces and write the profile that they show.

    Args:
        traces: trace files or folders of them, of one checkpoint in one environment.
        name: of the profile; letters, digits, dots, hyphens and underscores.
        out: file to write; `<name>.yaml` in the current folder by default. An existing file is not replaced.

    Raises:
        UserError: no traces, several checkpoints, a name or file that cannot be taken.
    """
    _check_name(name)
    file = out or Path(f"{name}.yaml")
    if not is_file_name(str(file)):
        raise UserError(f"{file} would not be taken for a file", where="--out", remedy=f"end it in .yaml: {file}.yaml")
    if file.exists():
        raise UserError("the file exists already", where=str(file), remedy="name another with -o, or remove it")
    episodes = [read_episode(path) for trace in traces for path in find_traces(trace)]
    parent = _parent(episodes)
    facts = [Facts(episode, parent) for episode in episodes]
    measured: dict[str, Any] = {}
    unmeasured: dict[str, str] = {}
    for measure in _MEASURES:
        for key, value in measure(facts, parent):
            if isinstance(value, _Unseen):
                unmeasured[key] = value.why
            else:
                measured[key] = value
    order = list(profile_keys())
    measured = {key: measured[key] for key in order if key in measured}
    text = _render(name, episodes, parent, measured, unmeasured)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return Written(file, measured, unmeasured, tuple(_warnings(episodes, parent, measured)))


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise UserError(
            f"{name!r} is no name for a profile", where="--name", remedy="use letters, digits, dots and hyphens"
        )
    if name in (*profile_names(), "auto", "new", "show"):
        raise UserError(f"the name {name} is taken", where="--name", remedy="choose another, such as my-robot")


def _parent(episodes: Sequence[Episode]) -> Profile:
    """The profile that fits the checkpoint of all episodes; one named in their run file counts before."""
    found: dict[str, Profile] = {}
    for episode in episodes:
        asked = ((episode.run.get("spec") or {}).get("profile") or {}).get("name") or "auto"
        suite = str(episode.task.get("suite") or "")
        named = asked in profile_names()
        profile = load_profile(asked) if named else find_profile(episode.run.get("checkpoint") or {}, suite)
        found[profile.name] = profile
    if len(found) > 1:
        raise UserError(
            f"the traces are of different kinds: {', '.join(found)}",
            where="TRACE",
            remedy="give traces of one checkpoint in one environment",
        )
    return next(iter(found.values()))


# What is measured. Each yields (key, value), or (key, _Unseen) with the reason.

_Found = Iterator[tuple[str, Any]]


def _orientation(facts: Sequence[Facts], parent: Profile) -> _Found:
    """Element from the raw frame, as the environment is shipped, to the model's image."""
    key = "image.orientation"
    seen = [(one, match) for one in facts for match in matches(one)]
    decided = [(one, match) for one, match in seen if match.registration.decisive]
    elements = {match.registration.element for _, match in decided}
    cameras = sorted({match.camera for _, match in decided})
    views = {
        (raw_view(one, match.camera).element, usual_view(one)) for one, match in decided if _sees(one, match.camera)
    }
    if not seen:
        yield key, _Unseen("the model's image and the raw frame of the same step were not both recorded")
    elif len(decided) < max(MIN_QUERIES, MIN_SHARE * len(seen)):
        yield key, _Unseen(f"only {len(decided)} of {len(seen)} images could be told apart from their mirrored selves")
    elif len(elements) > 1 or len(cameras) > 1:
        yield key, _Unseen(f"the images do not agree: {', '.join(sorted(elements))} of {', '.join(cameras)}")
    elif len(views) > 1:
        yield key, _Unseen("the raw frames themselves do not agree on which way up they are")
    else:
        (element,) = elements
        view, usual = next(iter(views), ("", None))
        if usual and view:
            # The frames may come another way up than usual, and the loop be right for that.
            yield key, between(usual, compose(view, element))
        else:
            yield key, element
        if parent.get("image.orientations") is not None and parent.get("image.orientations").get(cameras[0]) != element:
            yield "image.orientations", _Unseen(f"only {cameras[0]} was seen, and the profile inherited says otherwise")
        if not usual and view:
            yield "environment.raw_view", view
        elif not usual:
            yield (
                "environment.raw_view",
                _Unseen("the gripper's way through the frames does not tell which way up they are"),
            )


def _sees(facts: Facts, camera: str) -> bool:
    return raw_view(facts, camera).decisive


def _prompt(facts: Sequence[Facts], parent: Profile) -> _Found:
    asked = [(one.episode, query) for one in facts for _, query in one.episode.queries() if query.prompt is not None]
    inside = {query.boundary in MODEL_BOUNDARIES for _, query in asked}
    key = "prompt.request" if inside == {False} else "prompt.template"
    if not asked:
        yield key, _Unseen("no prompt was recorded")
        return
    if len(inside) > 1:
        yield key, _Unseen("prompts were recorded at different places")
        return
    found = {_template(str(query.prompt), str(episode.task.get("language") or "")) for episode, query in asked}
    if len(found) > 1:
        yield key, _Unseen("the prompts follow no single template")
        return
    template, lowered = next(iter(found))
    if not template:
        yield key, _Unseen("the task's instruction does not stand in the prompt, once and in full")
    elif "{" in template.replace(SLOT, "") or "}" in template.replace(SLOT, ""):
        yield key, _Unseen("the prompt has braces of its own")
    else:
        yield key, template
        capitals = any(
            str(one.episode.task.get("language")) != str(one.episode.task.get("language")).lower() for one in facts
        )
        if capitals:
            yield "prompt.lowercase", lowered
        else:
            yield "prompt.lowercase", _Unseen("no instruction had capitals")


def _template(prompt: str, language: str) -> tuple[str, bool]:
    """The prompt with the instruction taken out, and whether that was lower-cased; "" where it is not there once."""
    for said, lowered in ((language, False), (language.lower(), language != language.lower())):
        if said and prompt.count(said) == 1:
            return prompt.replace(said, SLOT), lowered
    return "", False


def _unnorm_keys(facts: Sequence[Facts], parent: Profile) -> _Found:
    used: dict[str, set[str]] = {}
    for one in facts:
        suite = str(one.episode.task.get("suite") or "")
        for _, query in one.episode.queries():
            if suite and isinstance(query.options.get("unnorm_key"), str):
                used.setdefault(suite, set()).add(query.options["unnorm_key"])
    if not used:
        yield "unnorm.keys", _Unseen("no query names the statistics that it uses")
    elif any(len(keys) > 1 for keys in used.values()):
        yield "unnorm.keys", _Unseen("queries of one suite use different statistics")
    else:
        known = parent.get("unnorm.keys") or {}
        own = {suite: known[suite] if keys <= set(known.get(suite) or ()) else [*keys] for suite, keys in used.items()}
        yield "unnorm.keys", {**known, **own}


def _settling(facts: Sequence[Facts], parent: Profile) -> _Found:
    before = [[step for step in one.episode.steps if step.number < 0] for one in facts]
    counts = {len(steps) for steps in before}
    said = {one.episode.task.get("settle_steps") for one in facts} - {None}
    if len(counts) > 1:
        yield "loop.settle_steps", _Unseen(f"between {min(counts)} and {max(counts)} steps ran before the first query")
        return
    (count,) = counts
    if said and said != {count}:
        yield "loop.settle_steps", _Unseen(f"{count} steps were recorded, and the loop says {_listed(said)}")
        return
    if not count and not said:
        yield "loop.settle_steps", _Unseen("no step before the first query was recorded; there may have been none")
        return
    yield "loop.settle_steps", count
    actions = {step.executed for steps in before for step in steps}
    if len(actions) == 1 and next(iter(actions)):
        yield "loop.settle_action", [_plain(value) for value in next(iter(actions))]
    elif count:
        yield "loop.settle_action", _Unseen("the settle steps did not all execute the same action")


def _horizon(facts: Sequence[Facts], parent: Profile) -> _Found:
    found: dict[str, set[int]] = {}
    for one in facts:
        suite, horizon = str(one.episode.task.get("suite") or ""), one.episode.task.get("horizon")
        if suite and isinstance(horizon, int):
            found.setdefault(suite, set()).add(horizon)
    if not found:
        yield "loop.horizon", _Unseen("it was not recorded")
    elif any(len(values) > 1 for values in found.values()):
        yield "loop.horizon", _Unseen("episodes of one suite had different ones")
    else:
        own = {suite: next(iter(values)) for suite, values in found.items()}
        yield "loop.horizon", {**(parent.get("loop.horizon") or {}), **own}


def _actions(facts: Sequence[Facts], parent: Profile) -> _Found:
    """Dimensions of what was returned; range and gripper commands of what was executed, from the first query on."""
    returned = [query.action for one in facts for _, query in one.episode.queries() if query.action is not None]
    executed = [step.executed for one in facts for step in one.episode.policy_steps() if step.executed]
    names: list[str] = []
    key, sizes = "action.dimensions", {len(action) for action in returned}
    if len(sizes) != 1:
        yield key, _Unseen("actions of different lengths were returned" if sizes else "no action was recorded")
    else:
        names = list(parent.get(key) or ())
        if len(names) != (size := sizes.pop()):
            names = [f"d{number}" for number in range(size)]
        yield key, names
    sizes = {len(action) for action in executed}
    if len(sizes) != 1 or len(executed) < MIN_QUERIES:
        why = "too few actions were recorded" if len(sizes) < 2 else "actions of different lengths were executed"
        yield "action.range", _Unseen(why)
        yield "gripper.values", _Unseen(why)
        return
    rows = np.array(executed, dtype=np.float64)
    if not np.isfinite(rows).all():
        yield "action.range", _Unseen("some executed values are not finite")
        yield "gripper.values", _Unseen("some executed values are not finite")
        return
    low, high = np.floor(rows.min(axis=0) * 1e6) / 1e6, np.ceil(rows.max(axis=0) * 1e6) / 1e6
    yield "action.range", {"low": [_plain(value) for value in low], "high": [_plain(value) for value in high]}
    if "gripper" not in names or len(names) != rows.shape[1]:
        yield "gripper.values", _Unseen("which executed dimension is the gripper is not known")
        return
    values = sorted({float(value) for value in rows[:, names.index("gripper")]})
    if len(values) == 1:
        yield "gripper.values", _Unseen(f"the gripper was never told anything but {_plain(values[0])}")
    elif len(values) > MOST_VALUES:
        yield "gripper.values", _Unseen(f"{len(values)} different values were executed")
    else:
        yield "gripper.values", [_plain(value) for value in values]


def _chunks(facts: Sequence[Facts], parent: Profile) -> _Found:
    rows = {_rows(query) for one in facts for _, query in one.episode.queries()} - {0}
    if len(rows) == 1:
        yield "action.chunk", next(iter(rows))
    else:
        why = f"queries answered {_listed(rows)} actions" if rows else "what the queries returned was not recorded"
        yield "action.chunk", _Unseen(why)
    numbers = [[number for number, _ in one.episode.queries()] for one in facts]
    gaps = {later - earlier for steps in numbers for earlier, later in pairwise(steps)}
    if len(gaps) == 1:
        yield "action.execute", next(iter(gaps))
    else:
        why = "queries follow each other at different distances" if gaps else "an episode had only one query"
        yield "action.execute", _Unseen(why)


def _rows(query: Query) -> int:
    return len(query.chunk) or (1 if query.action is not None else 0)


_MEASURES = (_orientation, _prompt, _unnorm_keys, _settling, _horizon, _actions, _chunks)


# How it is written.


def _render(
    name: str,
    episodes: Sequence[Episode],
    parent: Profile,
    measured: Mapping[str, Any],
    unmeasured: Mapping[str, str],
) -> str:
    known = parent.name != UNKNOWN
    queries = sum(1 for episode in episodes for _ in episode.queries())
    more = f" and {len(episodes) - 1} more" if len(episodes) > 1 else ""
    source = f"measured on {episodes[0].name}{more}, {_count(queries, 'query', 'queries')}"
    successes = sum(episode.outcome.success for episode in episodes)
    lines = _comment(
        f"What {name} expects, measured by `vladoctor profiles new` on {_count(len(episodes), 'episode', 'episodes')} "
        f"({_listed(episode.name for episode in episodes)}), of which {successes} succeeded. Read it before you trust "
        "it: a trace shows what a loop does, not that it is right. Use it with `profile: {name: <this file>}` in a run "
        "file."
    )
    lines += _comment(
        f"Inherited: {parent.name} ({parent.reason})." if known else f"Nothing is inherited: {parent.reason}."
    )
    lines += [f"summary: {json.dumps(_summary(name, episodes), ensure_ascii=False)}"]
    lines += [f"inherits: {parent.name}"] if known else []
    group = ""
    for key, value in measured.items():
        if key.partition(".")[0] != group:
            group = key.partition(".")[0]
            lines += ["", f"{group}:"]
        inherited = parent.get(key)
        if inherited is not None:
            note = f"; as in {parent.name}" if inherited == value else f"; {parent.name} has another value"
        else:
            note = ""
        if key == "action.dimensions" and value and value[0] == "d0":
            lines.append("  # Give them their names: x, y, z, roll, pitch, yaw, gripper.")
        lines += [f"  {key.partition('.')[2]}:"]
        if note.endswith("another value"):
            lines += [f"    {line}" for line in _comment(f"{parent.name} has {_yaml(inherited)}")]
        if isinstance(value, Mapping):
            lines += ["    value:", *(f"      {_word(inner)}: {_yaml(item)}" for inner, item in value.items())]
        else:
            lines.append(f"    value: {_yaml(value)}")
        lines.append(f"    source: {json.dumps(source + note, ensure_ascii=False)}")
    if unmeasured:
        lines += ["", f"# Not measured, and therefore {'as inherited' if known else 'null'}:"]
        for key, why in unmeasured.items():
            lines += _comment(f"{key}: {why}", indent="  ")
    return "\n".join(lines) + "\n"


def _summary(name: str, episodes: Sequence[Episode]) -> str:
    suites = sorted({str(episode.task.get("suite")) for episode in episodes if episode.task.get("suite")})
    return f"{name}, measured on {_count(len(episodes), 'episode', 'episodes')}" + (
        f" of {_listed(suites)}" if suites else ""
    )


def _warnings(episodes: Sequence[Episode], parent: Profile, measured: Mapping[str, Any]) -> Iterator[str]:
    if not any(episode.outcome.success for episode in episodes):
        yield "none of the episodes succeeded, so what was measured may be what is wrong"
    faults = {str(episode.task.get("fault")) for episode in episodes if episode.task.get("fault")}
    if faults:
        yield f"the loop was disturbed on purpose ({_listed(sorted(faults))})"
    for key in measured:
        inherited = parent.get(key)
        if inherited is not None and inherited != measured[key] and not isinstance(inherited, Mapping):
            yield f"{key} is {measured[key]!r} in these traces, and {inherited!r} in {parent.name}"


def _comment(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(
        text,
        116,
        initial_indent=f"# {indent}",
        subsequent_indent=f"# {indent * 2}",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _yaml(value: Any) -> str:
    """A value in YAML's flow style, which JSON is."""
    return json.dumps(value, ensure_ascii=False)


def _word(key: str) -> str:
    """A key, in quotes where YAML could take it for something else."""
    return key if re.fullmatch(r"[A-Za-z][A-Za-z0-9]*_[A-Za-z0-9_]+|low|high", key) else _yaml(key)


def _plain(value: float) -> int | float:
    """Whole numbers without a point, as profiles have them."""
    return int(value) if float(value).is_integer() else float(value)


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _listed(names: Iterable[Any], most: int = 5) -> str:
    listed = [str(name) for name in names]
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
