"""run.yaml: what to run and how to judge it, checked before anything is loaded.

The shape (keys, types, ranges) is `schemas/run.schema.json`; names that only the installed program knows (checks,
thresholds, faults, profiles) are looked up here. Every mistake in a file is reported at once, each with line, column,
key and the nearest thing that would have been right.
"""

from __future__ import annotations

import json
import math
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vladoctor.errors import UserError
from vladoctor.yamlfile import ROOT, Positions, Problem, place_of, raise_problems, read_mapping, show

if TYPE_CHECKING:
    from vladoctor.check import Check


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
class LoopSpec:
    """A loop of one's own, run as it is: a command, or a function with its keyword arguments.

    Attributes:
        command: the words; empty where there is a function. A first word that ends in .py or begins with a dash goes to
            the Python that runs vladoctor.
        callable: "package.module:function".
    """

    command: tuple[str, ...] = ()
    callable: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def words(self) -> tuple[str, ...]:
        """The command that runs it."""
        if self.command:
            return self.command
        return ("-m", "vladoctor.launch.call", self.callable, json.dumps(self.arguments))


@dataclass(frozen=True)
class ProfileSpec:
    """What the checkpoint expects: a profile's name or "auto", and values by dotted key that replace the profile's."""

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
    """What is kept: longer side of the thumbnails in pixels, and every how many queries a full frame."""

    thumbnail: int = 64
    full_every: int = 25


@dataclass(frozen=True)
class ReportSpec:
    """Where the outcome goes; folders are relative to the current one.

    Attributes:
        tensorboard, wandb: folder and project of experiment trackers that get a summary; None for none.
    """

    folder: Path
    fail_on: str = "look"
    html: bool = True
    tensorboard: Path | None = None
    wandb: str | None = None


@dataclass(frozen=True)
class RunSpec:
    """A run.yaml, complete and checked: of the reference loop (`model` and `env`), or of one's own (`loop`).

    Attributes:
        source: the file as it was named, for messages.
        positions: where each key stands in it.
    """

    model: ModelSpec | None
    env: EnvSpec | None
    report: ReportSpec
    profile: ProfileSpec = ProfileSpec()
    checks: ChecksSpec = ChecksSpec()
    fault: tuple[str, ...] = ()
    trace: TraceSpec = TraceSpec()
    loop: LoopSpec | None = None
    source: str = ""
    positions: Positions = field(default_factory=dict, repr=False, compare=False)

    def where(self, key: str) -> str:
        """Place of a key for `UserError(where=...)`: "run.yaml:3:10: model.path", or of what it stands in."""
        return place_of(self.source, self.positions, key)

    def own_loop(self) -> tuple[ModelSpec, EnvSpec]:
        """Model and environment of the reference loop.

        Raises:
            UserError: this run has none; it runs a program.
        """
        if self.model is None or self.env is None:
            raise UserError(
                "this run has a loop of its own, where one of `model` and `env` is needed",
                where=self.source,
                remedy="name a run file without `loop`",
            )
        return self.model, self.env

    def to_json(self) -> dict[str, Any]:
        """Everything that was asked for, defaults included, as plain data in the layout of run.yaml."""
        left_out = {"source", "positions", *(name for name in ("model", "env", "loop") if getattr(self, name) is None)}
        return {name: _jsonable(value) for name, value in asdict(self).items() if name not in left_out}

    def with_options(
        self,
        *,
        fault: Sequence[str] = (),
        device: str | None = None,
        episodes: int | None = None,
        tasks: Sequence[str] = (),
        horizon: int | None = None,
        profile: str | None = None,
        select: Sequence[str] = (),
        ignore: Sequence[str] = (),
        folder: Path | None = None,
    ) -> RunSpec:
        """The same run with options of the command line in place of what the file says.

        Raises:
            UserError: an unknown fault, check or profile; names the option.
        """
        problems: list[Problem] = []
        spec = self
        given = {"--fault": fault, "--device": device, "--episodes": episodes, "--task": tasks, "--horizon": horizon}
        if any(given.values()) and self.loop is not None:
            option = next(name for name, value in given.items() if value)
            raise UserError(
                "this cannot be said of a loop that is not vladoctor's",
                where=option,
                remedy="leave it out, and give your program its own options",
            )
        model: dict[str, Any] = {}
        env: dict[str, Any] = {}
        if fault:
            spec = replace(spec, fault=tuple(dict.fromkeys(fault)))
            problems += [problem for name in spec.fault for problem in _check_fault(name, "--fault")]
        if device is not None:
            schema = _properties("model")["device"]
            if not re.match(schema["pattern"], device):
                problems.append(Problem("--device", f"must be {schema['title']}, not {device!r}", "for example cpu"))
            model["device"] = device
        if episodes is not None:
            env["episodes"] = episodes
        if tasks:
            chosen = tuple(int(task) if task.isdigit() else task for task in dict.fromkeys(tasks))
            problems += [
                replace(_missing(Path(task), "--task", "BDDL file"), remedy="paths are relative to the current folder")
                for task in chosen
                if isinstance(task, str) and task.endswith(".bddl") and not Path(task).is_file()
            ]
            env["tasks"] = chosen
        if horizon is not None:
            env["horizon"] = horizon
        if spec.model is not None and spec.env is not None:
            spec = replace(spec, model=replace(spec.model, **model), env=replace(spec.env, **env))
        if profile is not None:
            problems += [replace(problem, key="--profile") for problem in _check_profile(profile, {})]
            spec = replace(spec, profile=replace(spec.profile, name=profile))
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
            OSError: it may not be looked at.
            UserError: with line and key, and the nearest name that is there.
        """
        if self.model is None or self.env is None:
            return
        problems = [] if _is_folder(self.model.path) else [_missing(self.model.path, "model.path", "model folder")]
        tasks = () if isinstance(self.env.tasks, str) else self.env.tasks
        for index, task in enumerate(tasks):
            if isinstance(task, str) and task.endswith(".bddl") and not Path(task).is_file():
                problems.append(_missing(Path(task), f"env.tasks[{index}]", "BDDL file"))
        if self.env.assets not in ("auto", "real", "stand-in") and not Path(self.env.assets).is_dir():
            problems.append(_missing(Path(self.env.assets), "env.assets", "folder of assets"))
        raise_problems(problems, self.source, self.positions)


def load_run(path: str | Path) -> RunSpec:
    """Read and check a run file.

    Args:
        path: a YAML file, or the bare name of a run that comes with vladoctor ("demo").

    Raises:
        UserError: everything that is wrong with it, each with line, column and key.
    """
    file, shown = _find(path)
    plain, positions = read_mapping(file, shown, list(_properties(ROOT)))
    plain = {key: {} if value is None and key in _SECTIONS else value for key, value in plain.items()}
    raise_problems(_shape_problems(plain), shown, positions)
    return _build(plain, file, shown, positions)


def command_run(words: Sequence[str]) -> RunSpec:
    """The run of a command that stands on the command line, everything else by default."""
    return RunSpec(
        model=None,
        env=None,
        loop=LoopSpec(command=tuple(words)),
        report=ReportSpec(Path("reports") / _name_of(words)),
        source=" ".join(words),
    )


def recorded_run(plain: Mapping[str, Any]) -> RunSpec | None:
    """The run that a trace was made by, from what it holds of `RunSpec.to_json`; None where it holds none.

    Keys that another version knew and this one does not are left out.
    """

    def part(kind: Any, values: Mapping[str, Any]) -> Any:
        known = {each.name for each in fields(kind)}
        return kind(**{name: value for name, value in values.items() if name in known})

    loop, model, env = plain.get("loop"), plain.get("model"), plain.get("env")
    if not loop and not (model and env):
        return None
    return RunSpec(
        model=None if loop or not model else part(ModelSpec, {**model, "path": Path(model["path"])}),
        env=None if loop or not env else part(EnvSpec, env),
        loop=part(LoopSpec, {**loop, "command": tuple(loop.get("command") or ())}) if loop else None,
        profile=part(ProfileSpec, plain.get("profile") or {}),
        checks=part(ChecksSpec, plain.get("checks") or {}),
        fault=_names(plain.get("fault")),
        trace=part(TraceSpec, plain.get("trace") or {}),
        report=part(ReportSpec, {"folder": Path("reports"), **(plain.get("report") or {})}),
    )


def shipped_runs() -> dict[str, Path]:
    """Name -> file of the runs that come with vladoctor."""
    from importlib.resources import files

    folder = Path(str(files("vladoctor.fixtures"))).resolve() / "runs"
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


_MOST_STATES = 10_000

_SECTIONS = ("profile", "checks", "trace", "report")


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


def _properties(section: str) -> dict[str, Any]:
    schema = _schema()
    return dict((schema["properties"][section] if section else schema)["properties"])


@cache
def _schema() -> dict[str, Any]:
    from vladoctor.schemas import load_schema

    return load_schema("run")


def _shape_problems(plain: Mapping[str, Any]) -> list[Problem]:
    import jsonschema

    errors = jsonschema.Draft202012Validator(_schema()).iter_errors(plain)
    problems = [problem for error in errors if "then" not in error.schema_path for problem in _explain(error)]
    excluded = [key for key in _schema()["then"]["properties"] if "loop" in plain and plain.get(key) is not None]
    problems += [
        Problem(key, "this cannot stand beside `loop`", f"take out one of the two: `{key}` is for vladoctor's own loop")
        for key in excluded
    ]
    return problems


def _explain(error: Any, whole: str = "something else") -> Iterator[Problem]:
    """What a schema error means to the reader; `whole` is what the value is to be where its schema does not say."""
    key = _dotted(error.absolute_path)
    # What is needed without `loop` stands apart from the keys themselves.
    schema, value = (error.schema if key else _schema()), error.instance
    if error.validator == "oneOf":
        yield Problem(key, "a loop is either a `command` or a `callable`", "give it one of the two")
        return
    expected = schema.get("title", whole)
    if error.validator == "anyOf":
        # Speak of the element that is wrong if the value is of the right kind, else of the value as a whole.
        branches: dict[int, list[Any]] = {}
        for inner in error.context:
            branches.setdefault(inner.relative_schema_path[0], []).append(inner)
        for inners in branches.values():
            if not any(inner.validator == "type" and not inner.relative_path for inner in inners):
                for inner in inners:
                    yield from _explain(inner, expected)
                return
    if error.validator == "additionalProperties" and isinstance(value, dict) and "properties" in schema:
        for name in value:
            if name not in schema["properties"]:
                yield _unknown_key(key, name, schema["properties"])
        return
    if error.validator == "required":
        for name in error.validator_value:
            # jsonschema raises one error per missing name, each with the whole list; report each name once.
            if name not in value and error.message.startswith(repr(name)) and not _misspelt(name, value, schema):
                yield _missing_key(key, name, schema["properties"][name])
        return
    if error.validator == "minItems":
        yield Problem(key, "the list is empty", f"it must be {expected}")
    elif error.validator == "maximum" and str(error.validator_value) not in expected:
        yield Problem(key, f"must be at most {error.validator_value}, not {show(value)}", "use a smaller one")
    else:
        yield Problem(key, f"must be {expected}, not {show(value)}", _nearest_value(value, schema))


def _misspelt(name: str, value: Mapping[str, Any], schema: Mapping[str, Any]) -> bool:
    """Whether a missing key is there under a wrong name, which is reported by itself."""
    known = schema["properties"]
    unknown = [str(key) for key in value if key not in known]
    return any(key.lower().startswith(name) or get_close_matches(key.lower(), known, n=1) == [name] for key in unknown)


def _unknown_key(parent: str, name: str, known: Mapping[str, Any]) -> Problem:
    key = f"{parent}.{name}" if parent else name
    sections = _schema()["properties"]
    places = [section for section, schema in sections.items() if name in schema.get("properties", {})]
    head, colon, _ = name.partition(":")
    near = get_close_matches(name.lower(), known, n=1)
    if name in sections:
        hint = f"`{name}` does not belong inside `{parent}`: take it out of the indentation"
    elif colon and head in known:
        hint = f"put a space after the colon: `{head}: ...`"
    elif places:
        hint = f"`{name}` belongs under `{places[0]}`"
    elif near or (near := [word for word in known if name.lower().startswith(word)]):
        hint = f"did you mean `{near[0]}`?"
    else:
        hint = f"the keys here are {', '.join(known)}"
    return Problem(key, "there is no such key", hint)


def _missing_key(parent: str, name: str, schema: Mapping[str, Any]) -> Problem:
    required = schema.get("required", ())
    examples = schema.get("examples", ["..."])
    example = f"{name}: {{{required[0]}: ...}}" if required else f"{name}: {examples[0]}"
    inside = f" inside `{parent}`" if parent else ""
    return Problem(
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
    if value is None and "object" in types:
        return "indent the lines that belong to it"
    if value is None:
        return "give it a value" + (", or delete the key to get the default" if "default" in schema else "")
    if "string" in types and isinstance(value, (int, float)) and "pattern" not in schema:
        return f'quote it: "{value}"'
    advice = [schema["description"].partition(". ")[0].rstrip(".")] if "description" in schema else []
    advice += [f"for example {_yaml(schema['examples'][0])}"] if schema.get("examples") else []
    return "; ".join(advice) or "see: vladoctor schema"


def _build(plain: Mapping[str, Any], file: Path, shown: str, positions: Positions) -> RunSpec:
    problems: list[Problem] = []
    base = file.resolve().parent
    shipped = file.resolve() in shipped_runs().values()
    model, env, loop = plain.get("model"), plain.get("env"), plain.get("loop")
    if model is not None:
        model = {key: _whole(value) for key, value in model.items()}
        model["path"] = _input_path(model["path"], base, prefer_current=shipped)
    if env is not None:
        env = {key: _whole(value) for key, value in env.items()}
        if "tasks" in env:
            env["tasks"] = _tasks(env["tasks"], base, problems)
        if "init_states" in env:
            env["init_states"] = _init_states(env["init_states"], problems)
        if env.get("assets", "auto") not in ("auto", "real", "stand-in"):
            env["assets"] = str(_input_path(env["assets"], base))
    if loop is not None:
        loop = {**loop, "command": tuple(loop.get("command") or ()), "arguments": loop.get("arguments") or {}}
    profile = dict(plain.get("profile", {}))
    profile["overrides"] = dict(_flat(profile.get("overrides") or {}))
    problems += _check_profile(profile.get("name", "auto"), profile["overrides"])
    asked = plain.get("checks", {})
    checks = ChecksSpec(
        select=_codes(asked.get("select") or (), "checks.select", problems),
        ignore=_codes(asked.get("ignore") or (), "checks.ignore", problems),
        thresholds=_thresholds(asked.get("thresholds") or {}, problems),
    )
    if not problems:
        problems += _check_selection(checks, "checks.select" if checks.select else "checks.ignore")
    faults = _names(plain.get("fault"))
    problems += [problem for name in faults for problem in _check_fault(name, "fault")]
    report = dict(plain.get("report", {}))
    report["folder"] = _expanded(report.get("folder") or str(Path("reports") / file.stem))
    if report.get("tensorboard"):
        report["tensorboard"] = _expanded(report["tensorboard"])
    raise_problems(problems, shown, positions)
    return RunSpec(
        model=None if model is None else ModelSpec(**model),
        env=None if env is None else EnvSpec(**env),
        loop=None if loop is None else LoopSpec(**loop),
        profile=ProfileSpec(**profile),
        checks=checks,
        fault=faults,
        trace=TraceSpec(**{key: _whole(value) for key, value in plain.get("trace", {}).items()}),
        report=ReportSpec(**report),
        source=shown,
        positions=positions,
    )


def _name_of(words: Sequence[str]) -> str:
    """What to call a program: its script, its module, or itself."""
    modules = [words[index + 1] for index, word in enumerate(words[:-1]) if word == "-m"]
    scripts = [Path(word).stem for word in words if word.endswith(".py")]
    name = (modules + scripts + [Path(words[0]).stem])[0]
    return "".join(sign if sign.isalnum() or sign in "-_." else "-" for sign in name).strip("-.") or "program"


def _input_path(text: str, base: Path, *, prefer_current: bool = False) -> Path:
    """A path beside the run file; where nothing is there, one in the current folder.

    Shipped runs live in site-packages, so that a path which is in neither place is reported as in the current folder.
    """
    path = _expanded(text)
    beside, current = base / path, Path.cwd() / path
    found = current if not _is_there(beside) and (prefer_current or _is_there(current)) else beside
    return found.resolve()


def _expanded(text: str) -> Path:
    """The path with `~` replaced where there is such a user; a NUL, which no path can hold, is spelt out."""
    path = Path(text.replace("\0", "\\0"))
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def _tasks(tasks: Any, base: Path, problems: list[Problem]) -> tuple[int | str, ...] | str:
    if tasks == "all":
        return "all"
    listed = tasks if isinstance(tasks, list) else [tasks]
    if "all" in listed:
        problems.append(Problem("env.tasks", "`all` cannot stand in a list", "write `tasks: all`"))
    if len({str(_whole(task)) for task in listed}) < len(listed):
        problems.append(Problem("env.tasks", "a task stands here twice", "for more of its episodes use env.episodes"))
    return tuple(
        str(_input_path(task, base)) if isinstance(task, str) and task.endswith(".bddl") else _whole(task)
        for task in listed
    )


def _init_states(states: Any, problems: list[Problem]) -> tuple[int, ...]:
    if isinstance(states, dict):
        if states["count"] > _MOST_STATES:
            key = "env.init_states.count"
            problems.append(Problem(key, f"must be at most {_MOST_STATES}", "LIBERO ships 50 for each task"))
            return ()
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


def _thresholds(asked: Mapping[str, Mapping[str, float]], problems: list[Problem]) -> dict[str, dict[str, float]]:
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
                problems.append(Problem(key, f"{check.code} {check.name} has no limit `{name}`", hint))
            elif not math.isfinite(value):
                problems.append(Problem(key, f"must be a number, not {value}", f"see: vladoctor explain {check.code}"))
            else:
                result.setdefault(check.code, {})[name] = value
    return result


def _codes(asked: Sequence[str], key: str, problems: list[Problem]) -> tuple[str, ...]:
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


def _unknown_check(written: str, key: str) -> Problem:
    checks = _checks()
    names = {name.casefold(): check for check in checks for name in (check.code, check.name)}
    near = get_close_matches(written.casefold(), names, n=1)
    hint = f"did you mean {names[near[0]].code} ({names[near[0]].name})? " if near else ""
    if re.fullmatch(r"vd\d{1,2}", written.casefold()):
        family = [check.code for check in checks if check.code.startswith(written.upper())]
        hint = f"that is the beginning of {', '.join(family)}; " if family else ""
    known = ", ".join(check.code for check in checks)
    return Problem(key, f"there is no check {written!r}", f"{hint}there are {known}; see: vladoctor checks")


def _check_selection(checks: ChecksSpec, key: str) -> list[Problem]:
    chosen = set(checks.select or [check.code for check in _checks()]) - set(checks.ignore)
    if chosen or not _checks():
        return []
    return [Problem(key, "no check is left to run", "select more, or ignore fewer")]


def _names(value: str | Sequence[str] | None) -> tuple[str, ...]:
    """One name, several, or none, as they can stand in a run file."""
    return (value,) if isinstance(value, str) else tuple(dict.fromkeys(value or ()))


def _check_fault(name: str, key: str) -> list[Problem]:
    from vladoctor.check import all_faults

    faults = all_faults()
    if name in faults:
        return []
    start = name.casefold()
    near = get_close_matches(start, faults, n=1) or [known for known in faults if start and known.startswith(start)]
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return [Problem(key, f"there is no fault {name!r}", f"{hint}see: vladoctor faults --list")]


def _check_profile(name: str, overrides: Mapping[str, Any]) -> Iterator[Problem]:
    from vladoctor.profiles import is_file_name, load_profile, profile_names

    names = profile_names()
    if is_file_name(name):
        try:
            load_profile(name)
        except UserError as error:
            yield Problem("profile.name", f"{error.where}: {error.what}", error.remedy)
            return
    elif name != "auto" and name not in names:
        near = get_close_matches(name, ["auto", *names], n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        yield Problem("profile.name", f"there is no profile {name!r}", f"{hint}there are auto, {', '.join(names)}")
        return
    # All profiles have the same keys; which one `auto` takes is known only once the model is loaded, minutes later.
    profile = load_profile(names[0] if name == "auto" else name)
    for key, value in overrides.items():
        if key == "prompt.template" and isinstance(value, str) and not _is_template(value):
            hint = "write {instruction} where the instruction goes, and {{ and }} for braces"
            yield Problem(f"profile.overrides.{key}", f"{show(value)} is no template", hint)
            continue
        try:
            profile.get(key) if name == "auto" else profile.with_overrides({key: value})
        except KeyError:
            near = get_close_matches(key, profile.keys(), n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"the keys are {', '.join(profile.keys())}"
            yield Problem(f"profile.overrides.{key}", "no profile has such a key", hint)
        except UserError as error:
            yield Problem(f"profile.overrides.{key}", error.what, error.remedy)


def _is_template(text: str) -> bool:
    try:
        text.format(instruction="")
    except (LookupError, ValueError, AttributeError):
        return False
    return True


def _is_there(path: Path) -> bool:
    """What may not be looked at is no mistake of the run file's: it is said where the path is used."""
    try:
        return path.exists()
    except OSError:
        return False


def _is_folder(path: Path) -> bool:
    """`path.is_dir()` of newer Pythons says False of what may not be looked at, too."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False


def _missing(path: Path, key: str, kind: str) -> Problem:
    if path.exists():
        return Problem(key, f"{path} is not a {'folder' if path.is_file() else 'file'}", f"name the {kind}")
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
    return Problem(key, f"there is no {kind} {path}", hint)


def _dotted(path: Sequence[str | int]) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _yaml(value: Any) -> str:
    """A schema's example in YAML's flow style."""
    if isinstance(value, list):
        return f"[{', '.join(_yaml(item) for item in value)}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_yaml(item)}' for key, item in value.items())}}}"
    return str(value) if isinstance(value, str) else show(value)


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    return str(value) if isinstance(value, Path) else value
