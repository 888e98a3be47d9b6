"""run.yaml: what to run and how to judge it, checked before anything is loaded.

The shape (keys, types, ranges, defaults as documented to editors) is `schemas/run.schema.json`; names that only the
installed program knows (checks, thresholds, faults, profiles) are looked up here. Every mistake in a file is reported at
once, each with line, column, key and the nearest thing that would have been right.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vladoctor.errors import UserError

if TYPE_CHECKING:
    from vladoctor.check import Check

ROOT = ""
"""Key path of the whole file."""

Positions = Mapping[str, tuple[int, int]]
"""Dotted key path -> (line, column) of the key, both from 1."""


@dataclass(frozen=True)
class ModelSpec:
    """The checkpoint, and how it is loaded; `dtype`, `attention`, `threads` of None are the loader's choice."""

    path: Path
    device: str = "auto"
    dtype: str | None = None
    unnorm_key: str | None = None
    center_crop: bool = True
    attention: str | None = None
    threads: int | None = None


@dataclass(frozen=True)
class EnvSpec:
    """The simulator, and which episodes to run in it.

    Attributes:
        tasks: "all", or numbers, names, and absolute paths of BDDL files.
        init_states: numbers, in the order in which they are run.
        episodes: of each task; None is one for each init state.
        assets: "auto", "real", "stand-in" or an absolute folder.
        size: height and width of the frames in pixels.
        horizon: policy steps; None is the suite's.
    """

    suite: str
    tasks: tuple[int | str, ...] | str = (0,)
    init_states: tuple[int, ...] = (0,)
    episodes: int | None = None
    seed: int = 7
    env_seed: int = 0
    camera: str = "agentview"
    size: int = 256
    assets: str = "auto"
    settle_steps: int = 10
    horizon: int | None = None


@dataclass(frozen=True)
class ProfileSpec:
    """What the checkpoint expects: a profile's name or "auto", and values (by dotted key) that replace the profile's."""

    name: str = "auto"
    overrides: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ChecksSpec:
    """Codes of the checks to run (none selected: all) and to leave out, and limits by code."""

    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    thresholds: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class TraceSpec:
    """What is kept: longer side of the thumbnails in pixels, and every how many steps a full frame."""

    thumbnail: int = 64
    full_every: int = 25


@dataclass(frozen=True)
class ReportSpec:
    """Where the outcome goes; `folder` is relative to the current folder."""

    folder: Path
    fail_on: str = "look"
    html: bool = True


@dataclass(frozen=True)
class RunSpec:
    """A run.yaml, complete and checked.

    Attributes:
        source: the file as it was named, for messages.
        positions: where each key stands in it.
    """

    model: ModelSpec
    env: EnvSpec
    report: ReportSpec
    profile: ProfileSpec = ProfileSpec()
    checks: ChecksSpec = ChecksSpec()
    fault: str | None = None
    trace: TraceSpec = TraceSpec()
    source: str = ""
    positions: Positions = field(default_factory=dict, repr=False, compare=False)

    def where(self, key: str) -> str:
        """Place of a key for `UserError(where=...)`: "run.yaml:3:10: model.path", or of what it stands in."""
        return _where(self.source, self.positions, key)

    def to_json(self) -> dict[str, Any]:
        """Everything that was asked for, defaults included, as plain data in the layout of run.yaml."""
        return {name: _jsonable(value) for name, value in asdict(self).items() if name not in ("source", "positions")}

    def with_options(
        self,
        *,
        fault: str | None = None,
        device: str | None = None,
        episodes: int | None = None,
        select: Sequence[str] = (),
        ignore: Sequence[str] = (),
        folder: Path | None = None,
    ) -> RunSpec:
        """The same run with options of the command line in place of what the file says.

        Raises:
            UserError: an unknown fault or check; names the option.
        """
        problems: list[_Problem] = []
        spec = self
        if fault is not None:
            problems += _check_fault(fault, "--fault")
            spec = replace(spec, fault=fault)
        if device is not None:
            spec = replace(spec, model=replace(spec.model, device=device))
        if episodes is not None:
            spec = replace(spec, env=replace(spec.env, episodes=episodes))
        if folder is not None:
            spec = replace(spec, report=replace(spec.report, folder=folder))
        checks = spec.checks
        if select:
            checks = replace(checks, select=_codes(select, "--select", problems))
        if ignore:
            checks = replace(checks, ignore=_codes(ignore, "--ignore", problems))
        if not problems:
            problems += _check_selection(checks, "--select" if select else "--ignore")
        if problems:
            problem = problems[0]
            raise UserError(problem.what, where=problem.key, remedy=problem.remedy)
        return replace(spec, checks=checks)

    def require_files(self) -> None:
        """Check that what the file points at is there.

        Raises:
            UserError: with line and key, and the nearest name that is there.
        """
        problems = [] if self.model.path.is_dir() else [_missing(self.model.path, "model.path", "model folder")]
        tasks = () if isinstance(self.env.tasks, str) else self.env.tasks
        for index, task in enumerate(tasks):
            if isinstance(task, str) and task.endswith(".bddl") and not Path(task).is_file():
                problems.append(_missing(Path(task), f"env.tasks[{index}]", "BDDL file"))
        if self.env.assets not in ("auto", "real", "stand-in") and not Path(self.env.assets).is_dir():
            problems.append(_missing(Path(self.env.assets), "env.assets", "folder of assets"))
        _raise(problems, self.source, self.positions)


def load_run(path: str | Path) -> RunSpec:
    """Read and check a run file.

    Args:
        path: a YAML file, or the bare name of a run that comes with vladoctor ("demo").

    Raises:
        UserError: everything that is wrong with it, each with line, column and key.
    """
    file, shown = _find(path)
    plain, positions = _read_yaml(file, shown)
    plain = {key: {} if value is None and key in _SECTIONS else value for key, value in plain.items()}
    _raise(_shape_problems(plain), shown, positions)
    return _build(plain, file, shown, positions)


def shipped_runs() -> dict[str, Path]:
    """Name -> file of the runs that come with vladoctor."""
    import vladoctor.fixtures

    folder = Path(str(vladoctor.fixtures.__file__)).resolve().parent / "runs"
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


_SECTIONS = ("profile", "checks", "trace", "report")


@dataclass(frozen=True)
class _Problem:
    key: str
    what: str
    remedy: str


def _find(path: str | Path) -> tuple[Path, str]:
    """The file, and how to name it in messages."""
    text = str(path)
    file = Path(text).expanduser()
    runs = shipped_runs()
    if file.is_file():
        return file, text
    if text in runs:
        return runs[text], str(runs[text])
    if file.is_dir():
        inside = sorted(file.glob("*.yaml")) + sorted(file.glob("*.yml"))
        hint = f"did you mean {inside[0]}?" if inside else "it holds no YAML file"
        raise UserError("this is a folder, not a run file", where=text, remedy=f"name the file itself; {hint}")
    if file.exists():
        raise UserError("this is not a regular file", where=text, remedy="name a YAML file")
    near = get_close_matches(text, runs, n=1, cutoff=0.7)
    if not near and file.parent.is_dir():
        beside = {entry.name: str(entry) for entry in file.parent.iterdir() if entry.suffix in (".yaml", ".yml")}
        near = [beside[name] for name in get_close_matches(file.name, beside, n=1)]
    if not near and file.stem in runs:
        near = [file.stem]
    hint = f"did you mean {near[0]}? " if near else ""
    raise UserError(
        "there is no such run file",
        where=text,
        remedy=f"{hint}name a YAML file, or a run that comes with vladoctor: {', '.join(runs)}",
    )


def _read_yaml(file: Path, shown: str) -> tuple[dict[str, Any], Positions]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    text = _read_text(file, shown)
    try:
        document = YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        raise _syntax_error(error, text, shown) from error
    except YAMLError as error:
        raise UserError(
            f"this is not YAML: {' '.join(str(error).split())}",
            where=shown,
            remedy="remove the control characters, or name another file",
        ) from error
    if document is None:
        raise UserError(
            "the file is empty",
            where=shown,
            remedy="it needs at least `model: {path: ...}` and `env: {suite: ...}`; see: vladoctor schema",
        )
    if not isinstance(document, dict):
        kind = "a list" if isinstance(document, list) else f"the single value {_show(document)}"
        raise UserError(
            f"a run file is a mapping with the keys {', '.join(_properties(ROOT))}; this file holds {kind}",
            where=f"{shown}:1",
            remedy="begin with `model:`, indent what belongs to it, and put a space after every colon",
        )
    positions: dict[str, tuple[int, int]] = {ROOT: (document.lc.line + 1, document.lc.col + 1)}
    try:
        plain = dict(_plain(document, ROOT, positions))
    except RecursionError:
        raise UserError("an alias contains itself", where=shown, remedy="remove the `*alias`") from None
    return plain, positions


def _read_text(file: Path, shown: str) -> str:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UserError(
            f"the file cannot be read: {error.strerror}", where=shown, remedy="check its permissions"
        ) from error
    # PowerShell's `>` and Notepad write UTF-16 or a byte-order mark.
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(
            f"this is not a text file in UTF-8 (byte {error.start}, line {line})",
            where=shown,
            remedy="name a YAML file; a trace (.mcap) goes to: vladoctor replay",
        ) from error
    if "\0" in text:
        raise UserError(
            "this is a binary file", where=shown, remedy="name a YAML file; a trace (.mcap) goes to: vladoctor replay"
        )
    return text


def _syntax_error(error: Any, text: str, shown: str) -> UserError:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line, mark.column) if mark else (0, 0)
    problem = str(error.problem or error.context or "it cannot be read")
    lines = text.splitlines() or [""]
    source = lines[min(line, len(lines) - 1)]
    if type(error).__name__ == "DuplicateKeyError":
        key = problem.partition('"')[2].partition('"')[0]
        first = _first_line_of(key, lines, line)
        what = f"the key `{key}` stands here a second time" + (f" (first in line {first})" if first else "")
        remedy = "keep one of the two"
    elif "\t" in source[: column + 1] or "\\t" in problem:
        what, remedy = "a tab; YAML allows only spaces here", "replace tabs by spaces"
    elif "another document" in problem:
        what, remedy = "a second document begins here (`---`)", "put each run in a file of its own"
    elif "undefined alias" in problem:
        what, remedy = problem, "a value that begins with * needs quotes"
    elif "mapping values are not allowed" in problem:
        what = "a colon where none can stand"
        remedy = "put a space after the colon that ends a key, quote values that contain one, and align the keys"
    else:
        what = f"this is not YAML: {problem}" + (f" {error.context}" if error.context else "")
        remedy = "check brackets, quotes and indentation here and in the line above"
        if error.context_mark is not None and error.context_mark.line != line:
            remedy = f"what began in line {error.context_mark.line + 1} does not end properly; {remedy}"
    return UserError(f"{what}\n    {source.strip()}", where=f"{shown}:{line + 1}:{column + 1}", remedy=remedy)


def _first_line_of(key: str, lines: Sequence[str], before: int) -> int | None:
    """Line (from 1) of the nearest line above that begins with the same key at the same depth."""
    depth = len(lines[before]) - len(lines[before].lstrip()) if before < len(lines) else 0
    for number in range(min(before, len(lines)) - 1, -1, -1):
        line = lines[number]
        if line.strip() and len(line) - len(line.lstrip()) < depth:
            return None
        if line[depth:].startswith((f"{key}:", f'"{key}":', f"'{key}':")) and not line[:depth].strip():
            return number + 1
    return None


def _plain(node: Any, key: str, positions: dict[str, tuple[int, int]]) -> Any:
    """The node as plain Python data; notes on the way where each key and item stands."""
    if isinstance(node, Mapping):
        for name in node:
            child = f"{key}.{name}" if key else str(name)
            positions[child] = _position(node, "key", name, positions[key])
        return {str(name): _plain(item, f"{key}.{name}" if key else str(name), positions) for name, item in node.items()}
    if isinstance(node, list):
        for index in range(len(node)):
            positions[f"{key}[{index}]"] = _position(node, "item", index, positions[key])
        return [_plain(item, f"{key}[{index}]", positions) for index, item in enumerate(node)]
    if isinstance(node, bool) or node is None:
        return node
    for kind in (int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return getattr(node, "value", node)


def _position(node: Any, kind: str, index: Any, default: tuple[int, int]) -> tuple[int, int]:
    try:
        line, column = getattr(node.lc, kind)(index)
    except (KeyError, TypeError, AttributeError):  # merged in from elsewhere (`<<`)
        return default
    return line + 1, column + 1


def _properties(section: str) -> dict[str, Any]:
    schema = _schema()
    return dict((schema["properties"][section] if section else schema)["properties"])


@cache
def _schema() -> dict[str, Any]:
    from vladoctor.schemas import load_schema

    return load_schema("run")


def _shape_problems(plain: Mapping[str, Any]) -> list[_Problem]:
    import jsonschema

    errors = jsonschema.Draft202012Validator(_schema()).iter_errors(plain)
    return [problem for error in errors for problem in _explain(error)]


def _explain(error: Any) -> Iterator[_Problem]:
    key = _dotted(error.absolute_path)
    schema, value = error.schema, error.instance
    if error.validator == "anyOf":
        # Speak of the element that is wrong if the value is of the right kind, else of the value as a whole.
        branches: dict[int, list[Any]] = {}
        for inner in error.context:
            branches.setdefault(inner.relative_schema_path[0], []).append(inner)
        for inners in branches.values():
            if not any(inner.validator == "type" and not inner.relative_path for inner in inners):
                for inner in inners:
                    yield from _explain(inner)
                return
    if error.validator == "additionalProperties" and isinstance(value, dict) and "properties" in schema:
        for name in value:
            if name not in schema["properties"]:
                yield _unknown_key(key, name, schema["properties"])
        return
    if error.validator == "required":
        for name in error.validator_value:
            # jsonschema raises one error per missing name, each with the whole list; report each name once.
            if name not in value and error.message.startswith(repr(name)):
                yield _missing_key(key, name, schema["properties"][name])
        return
    expected = schema.get("title", "something else")
    remedy = _nearest_value(value, schema)
    if error.validator == "minItems":
        yield _Problem(key, "the list is empty", f"it must be {expected}")
    else:
        yield _Problem(key, f"must be {expected}, not {_show(value)}", remedy)


def _unknown_key(parent: str, name: str, known: Mapping[str, Any]) -> _Problem:
    key = f"{parent}.{name}" if parent else name
    places = [section for section in _schema()["properties"] if name in _schema()["properties"][section].get("properties", {})]
    head, colon, _ = name.partition(":")
    near = get_close_matches(name.lower(), known, n=1)
    if name in _schema()["properties"]:
        hint = f"`{name}` does not belong inside `{parent}`: take it out of the indentation"
    elif colon and head in known:
        hint = f"put a space after the colon: `{head}: ...`"
    elif places:
        hint = f"`{name}` belongs under `{places[0]}`"
    elif near:
        hint = f"did you mean `{near[0]}`?"
    else:
        hint = f"the keys here are {', '.join(known)}"
    return _Problem(key, "there is no such key", hint)


def _missing_key(parent: str, name: str, schema: Mapping[str, Any]) -> _Problem:
    required = schema.get("required", ())
    examples = schema.get("examples", ["..."])
    example = f"{name}: {{{required[0]}: ...}}" if required else f"{name}: {examples[0]}"
    inside = f" inside `{parent}`" if parent else ""
    return _Problem(
        f"{parent}.{name}" if parent else name,
        "this key is missing",
        f"add `{example}`{inside}: {schema['description'].partition('. ')[0].rstrip('.')}",
    )


def _nearest_value(value: Any, schema: Mapping[str, Any]) -> str:
    types = schema.get("type", ())
    types = {types} if isinstance(types, str) else set(types)
    if isinstance(value, str):
        choices = [choice for choice in schema.get("enum", ()) if isinstance(choice, str)]
        near = get_close_matches(value.lower(), choices, n=1, cutoff=0.5)
        if near:
            return f"did you mean `{near[0]}`?"
        if "boolean" in types and value.lower() in ("yes", "no", "on", "off", "y", "n"):
            return f"YAML 1.2 takes this as text: write {'true' if value.lower() in ('yes', 'on', 'y') else 'false'}"
        if types & {"integer", "number"} and value.replace(".", "", 1).isdigit():
            return f"remove the quotes: {value}"
        if "array" in types:
            return f"write a list: [{value}]"
        if choices:
            return f"use one of {', '.join(choices)}"
    if value is None:
        return "give it a value, or delete the key to get the default"
    if "string" in types and isinstance(value, (int, float)):
        return f'quote it: "{value}"' if "pattern" not in schema else "see: vladoctor schema"
    return f"for example {_yaml(schema['examples'][0])}" if schema.get("examples") else "see: vladoctor schema"


def _build(plain: Mapping[str, Any], file: Path, shown: str, positions: Positions) -> RunSpec:
    problems: list[_Problem] = []
    base = file.resolve().parent
    shipped = file.resolve() in shipped_runs().values()
    model = dict(plain["model"])
    model["path"] = _input_path(model["path"], base, prefer_current=shipped)
    env = dict(plain["env"])
    if "tasks" in env:
        env["tasks"] = _tasks(env["tasks"], base, problems)
    if "init_states" in env:
        env["init_states"] = _init_states(env["init_states"])
    if env.get("assets", "auto") not in ("auto", "real", "stand-in"):
        env["assets"] = str(_input_path(env["assets"], base))
    profile = dict(plain.get("profile", {}))
    profile["overrides"] = dict(_flat(profile.get("overrides") or {}))
    problems += _check_profile(profile.get("name", "auto"))
    asked = plain.get("checks", {})
    checks = ChecksSpec(
        select=_codes(asked.get("select") or (), "checks.select", problems),
        ignore=_codes(asked.get("ignore") or (), "checks.ignore", problems),
        thresholds=_thresholds(asked.get("thresholds") or {}, problems),
    )
    if not problems:
        problems += _check_selection(checks, "checks.select" if checks.select else "checks.ignore")
    if plain.get("fault"):
        problems += _check_fault(plain["fault"], "fault")
    report = dict(plain.get("report", {}))
    report["folder"] = Path(report.get("folder") or Path("reports") / file.stem).expanduser()
    _raise(problems, shown, positions)
    return RunSpec(
        model=ModelSpec(**model),
        env=EnvSpec(**env),
        profile=ProfileSpec(**profile),
        checks=checks,
        fault=plain.get("fault"),
        trace=TraceSpec(**plain.get("trace", {})),
        report=ReportSpec(**report),
        source=shown,
        positions=positions,
    )


def _input_path(text: str, base: Path, *, prefer_current: bool = False) -> Path:
    """A path beside the run file; where nothing is there, one in the current folder.

    Shipped runs live in site-packages, so that a path which is in neither place is reported as in the current folder.
    """
    path = Path(text).expanduser()
    beside, current = base / path, Path.cwd() / path
    found = current if not beside.exists() and (prefer_current or current.exists()) else beside
    return found.resolve()


def _tasks(tasks: Any, base: Path, problems: list[_Problem]) -> tuple[int | str, ...] | str:
    if tasks == "all":
        return "all"
    listed = tasks if isinstance(tasks, list) else [tasks]
    if "all" in listed:
        problems.append(_Problem("env.tasks", "`all` cannot stand in a list", "write `tasks: all`"))
    return tuple(
        str(_input_path(task, base)) if isinstance(task, str) and task.endswith(".bddl") else _whole(task)
        for task in listed
    )


def _init_states(states: Any) -> tuple[int, ...]:
    if isinstance(states, dict):
        return tuple(range(int(states["first"]), int(states["first"]) + int(states["count"])))
    return tuple(int(state) for state in (states if isinstance(states, list) else [states]))


def _whole(value: Any) -> Any:
    """JSON Schema takes 3.0 for an integer."""
    return int(value) if isinstance(value, float) else value


def _flat(overrides: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys, whether they were written dotted or nested."""
    for key, value in overrides.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _thresholds(asked: Mapping[str, Mapping[str, float]], problems: list[_Problem]) -> dict[str, dict[str, float]]:
    result: dict[str, dict[str, float]] = {}
    for written, limits in asked.items():
        check = _one_check(written)
        if check is None:
            problems.append(_unknown_check(written, f"checks.thresholds.{written}"))
            continue
        for name, value in limits.items():
            key = f"checks.thresholds.{written}.{name}"
            if name not in check.thresholds:
                near = get_close_matches(name, check.thresholds, n=1)
                known = ", ".join(check.thresholds)
                hint = f"did you mean `{near[0]}`?" if near else f"it has {known}" if known else "it has none"
                problems.append(_Problem(key, f"{check.code} {check.name} has no limit `{name}`", hint))
            elif not math.isfinite(value):
                problems.append(_Problem(key, f"must be a number, not {value}", f"see: vladoctor explain {check.code}"))
            else:
                result.setdefault(check.code, {})[name] = value
    return result


def _codes(asked: Sequence[str], key: str, problems: list[_Problem]) -> tuple[str, ...]:
    """Codes for codes, names and beginnings of codes; without repetition."""
    codes: dict[str, None] = {}
    for index, written in enumerate(asked):
        check = _one_check(written)
        start = written.strip().upper()
        family = [c.code for c in _checks() if len(start) > 2 and start[2:].isdigit() and c.code.startswith(start)]
        if check is None and not family:
            problems.append(_unknown_check(written, key if key.startswith("--") else f"{key}[{index}]"))
        codes.update(dict.fromkeys([check.code] if check else family))
    return tuple(codes)


def _checks() -> Sequence[Check]:
    from vladoctor.check import all_checks

    return all_checks()


def _one_check(written: str) -> Check | None:
    """The check with this code or name."""
    text = written.strip().casefold()
    return next((check for check in _checks() if text in (check.code.casefold(), check.name.casefold())), None)


def find_check(written: str) -> Check:
    """The check with this code or name, in capitals or not.

    Raises:
        UserError: there is none; names the nearest.
    """
    check = _one_check(written)
    if check is None:
        problem = _unknown_check(written, "")
        raise UserError(problem.what, remedy=problem.remedy)
    return check


def _unknown_check(written: str, key: str) -> _Problem:
    checks = _checks()
    names = {name.casefold(): check for check in checks for name in (check.code, check.name)}
    near = get_close_matches(written.casefold(), names, n=1)
    hint = f"did you mean {names[near[0]].code} ({names[near[0]].name})? " if near else ""
    known = ", ".join(check.code for check in checks)
    return _Problem(key, f"there is no check {written!r}", f"{hint}there are {known}; see: vladoctor checks")


def _check_selection(checks: ChecksSpec, key: str) -> list[_Problem]:
    chosen = set(checks.select or [check.code for check in _checks()]) - set(checks.ignore)
    if chosen or not _checks():
        return []
    return [_Problem(key, "no check is left to run", "select more, or ignore fewer")]


def _check_fault(name: str, key: str) -> list[_Problem]:
    from vladoctor.check import all_faults

    faults = all_faults()
    if name in faults:
        return []
    near = get_close_matches(name.casefold(), faults, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return [_Problem(key, f"there is no fault {name!r}", f"{hint}see: vladoctor faults --list")]


def _check_profile(name: str) -> list[_Problem]:
    from vladoctor.profiles import profile_names

    names = list(profile_names())
    if name == "auto" or name in names:
        return []
    near = get_close_matches(name, ["auto", *names], n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return [_Problem("profile.name", f"there is no profile {name!r}", f"{hint}there are auto, {', '.join(names)}")]


def _missing(path: Path, key: str, kind: str) -> _Problem:
    beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = get_close_matches(path.name, beside, n=1, cutoff=0.7)
    if near:
        hint = f"did you mean {path.parent / near[0]}?"
    elif key == "model.path":
        hint = (
            "paths are relative to the run file, else to the current folder; to download a snapshot: "
            "hf download openvla/openvla-7b-finetuned-libero-object "
            "--local-dir weights/openvla-7b-finetuned-libero-object"
        )
    else:
        hint = "paths are relative to the run file, else to the current folder"
    return _Problem(key, f"there is no {kind} {path}", hint)


def _raise(problems: Sequence[_Problem], shown: str, positions: Positions) -> None:
    """Raise what is wrong: one mistake as it is, several as a list in the order of the file."""
    unique = sorted(dict.fromkeys(problems), key=lambda problem: _nearest_position(positions, problem.key))
    if not unique:
        return
    if len(unique) == 1:
        problem = unique[0]
        raise UserError(problem.what, where=_where(shown, positions, problem.key), remedy=problem.remedy)
    lines = [f"  {_where(shown, positions, p.key)}: {p.what}\n      {p.remedy}" for p in unique]
    raise UserError(
        f"{len(unique)} things are wrong in {shown}\n" + "\n".join(lines),
        remedy="all keys, with what they mean: vladoctor schema",
    )


def _where(shown: str, positions: Positions, key: str) -> str:
    line, column = _nearest_position(positions, key)
    return f"{shown}:{line}:{column}: {key}" if key else f"{shown}:{line}:{column}"


def _nearest_position(positions: Positions, key: str) -> tuple[int, int]:
    """Position of the key, or of the nearest thing around it that stands in the file."""
    while key not in positions and key:
        cut = max(key.rfind("."), key.rfind("["))
        key = key[:cut] if cut > 0 else ROOT
    return positions.get(key, (1, 1))


def _dotted(path: Sequence[str | int]) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _show(value: Any) -> str:
    """A value as the reader wrote it."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:57] + "...")
    return str(value)


def _yaml(value: Any) -> str:
    """A schema's example in YAML's flow style."""
    if isinstance(value, list):
        return f"[{', '.join(_yaml(item) for item in value)}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_yaml(item)}' for key, item in value.items())}}}"
    return str(value) if isinstance(value, str) else _show(value)


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    return str(value) if isinstance(value, Path) else value
