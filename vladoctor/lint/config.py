"""`[tool.vladoctor]` of the nearest pyproject.toml: what people set once for their repository.

The shape is `schemas/config.schema.json`; names of checks, limits and profiles are looked up here. All mistakes are
told at once, each with its line and the nearest thing that would have been right.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from vladoctor.check import Severity
from vladoctor.errors import UserError
from vladoctor.report.reported import relative
from vladoctor.yamlfile import Problem, show


@dataclass(frozen=True)
class LintConfig:
    """Settings; see `schemas/config.schema.json` for what each means.

    Attributes:
        root: folder that patterns and paths are relative to: that of the file, else the current one.
        source: the file, or "".
    """

    root: Path
    source: str = ""
    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    per_file_ignores: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    fail_on: Severity = Severity.LOOK
    profile: str = ""
    profiles: Mapping[str, str] = field(default_factory=dict)
    thresholds: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    baseline: Path | None = None
    warn_unused_ignores: bool = False

    def profile_of(self, file: str) -> str:
        """Name of the profile that is set for a file, or ""."""
        fitting = [profile for pattern, profile in self.profiles.items() if self._fits(pattern, file)]
        return fitting[-1] if fitting else self.profile

    def ignored(self, file: str) -> tuple[str, ...]:
        """What is accepted in a file."""
        return tuple(
            code for pattern, codes in self.per_file_ignores.items() if self._fits(pattern, file) for code in codes
        )

    def excluded(self, file: str) -> bool:
        """Whether a file is not looked at."""
        return any(self._fits(pattern, file) for pattern in self.exclude)

    def _fits(self, pattern: str, file: str) -> bool:
        return fits(pattern, relative(file, self.root))


def fits(pattern: str, file: str) -> bool:
    """Whether a pattern means a file, or a folder around it. One without a slash means that name at any depth.

    >>> fits("third_party", "src/third_party/a.py"), fits("tests/*", "tests/deep/a.py"), fits("tests/*", "a/tests/b.py")
    (True, True, False)
    """
    pattern = pattern.removeprefix("./").rstrip("/")
    path = PurePosixPath(file)
    around = [path, *path.parents]
    if "/" not in pattern:
        return any(fnmatchcase(part.name, pattern) for part in around)
    return any(fnmatchcase(str(part), pattern) for part in around)


def find_config(paths: Sequence[Path]) -> Path | None:
    """The nearest pyproject.toml with a [tool.vladoctor] in it, from the folder that all paths lie in upwards."""
    folders = [path.absolute() if path.is_dir() else path.absolute().parent for path in paths] or [Path.cwd()]
    common = folders[0]
    while any(common != folder and common not in folder.parents for folder in folders):
        common = common.parent
    for folder in (common, *common.parents):
        file = folder / "pyproject.toml"
        # Most have none of ours: parsing them would cost more than this look.
        if file.is_file() and b"vladoctor" in file.read_bytes() and "vladoctor" in _tool(file):
            return file
    return None


def load_config(file: Path | None) -> LintConfig:
    """Settings from a file; the defaults without one.

    Raises:
        UserError: everything that is wrong with it.
    """
    if file is None:
        return LintConfig(Path.cwd())
    shown = relative(str(file))
    table = _tool(file).get("vladoctor")
    if table is None:
        raise UserError("there is no [tool.vladoctor] in it", where=shown, remedy="add the table, or name another file")
    lines = file.read_text(encoding="utf-8").splitlines()
    if not isinstance(table, dict):
        raise UserError(
            "[tool.vladoctor] has to be a table", where=shown, remedy="begin it with a line [tool.vladoctor]"
        )
    problems = list(_shape(table)) or list(_names(table))
    if problems:
        places = [f"{shown}:{_line(problem.key, lines)}: tool.vladoctor.{problem.key}" for problem in problems]
        if len(problems) == 1:
            raise UserError(problems[0].what, where=places[0], remedy=problems[0].remedy)
        told = "\n".join(f"  {place}: {p.what}\n      {p.remedy}" for place, p in zip(places, problems, strict=True))
        raise UserError(
            f"{len(problems)} things are wrong in {shown}\n{told}",
            remedy="all keys, with what they mean: vladoctor schema config",
        )
    profile, profiles = table.get("profile", ""), table.get("profiles", {})
    return LintConfig(
        root=file.absolute().parent,
        source=shown,
        select=tuple(table.get("select", ())),
        ignore=tuple(table.get("ignore", ())),
        exclude=tuple(table.get("exclude", ())),
        per_file_ignores={pattern: tuple(codes) for pattern, codes in table.get("per-file-ignores", {}).items()},
        fail_on=Severity(table.get("fail-on", Severity.LOOK)),
        profile=_profile_name(profile, file.parent),
        profiles={pattern: _profile_name(name, file.parent) for pattern, name in profiles.items()},
        thresholds=_thresholds(table.get("thresholds", {})),
        baseline=file.parent / table["baseline"] if "baseline" in table else None,
        warn_unused_ignores=table.get("warn-unused-ignores", False),
    )


def with_options(
    config: LintConfig,
    *,
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    fail_on: str | None = None,
    profile: str | None = None,
    baseline: Path | None = None,
    warn_unused_ignores: bool = False,
) -> LintConfig:
    """The settings with options of the command line in place of what the file says.

    Raises:
        UserError: an unknown check or profile; names the option.
    """
    problems = [*_unknown("--select", select), *_unknown("--ignore", ignore)]
    if profile is not None:
        problems += _profile_problems("--profile", profile)
    if problems:
        raise UserError(problems[0].what, where=problems[0].key, remedy=problems[0].remedy)
    return replace(
        config,
        select=tuple(select) or config.select,
        ignore=tuple(ignore) or config.ignore,
        fail_on=Severity(fail_on) if fail_on else config.fail_on,
        profile=profile or config.profile,
        # Said on the command line, it holds for all files.
        profiles={} if profile else config.profiles,
        baseline=baseline or config.baseline,
        warn_unused_ignores=warn_unused_ignores or config.warn_unused_ignores,
    )


def _read(file: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"the file cannot be read: {error.strerror}", where=str(file), remedy="check its permissions"
        ) from error
    except ValueError as error:
        raise UserError(f"this is not TOML: {error}", where=relative(str(file)), remedy="correct that line") from error


def _tool(file: Path) -> dict[str, Any]:
    tool = _read(file).get("tool", {})
    return tool if isinstance(tool, dict) else {}


def _shape(table: Mapping[str, Any]) -> Iterator[Problem]:
    """What does not fit the schema."""
    import jsonschema

    from vladoctor.schemas import load_schema

    schema = load_schema("config")
    for error in jsonschema.Draft202012Validator(schema).iter_errors(table):
        key = ".".join(str(part) for part in error.absolute_path if not isinstance(part, int))
        if error.validator == "additionalProperties":
            known = schema["properties"]
            for name in table:
                if name not in known:
                    near = get_close_matches(name.lower().replace("_", "-"), known, n=1)
                    hint = f"did you mean `{near[0]}`?" if near else f"the keys are {', '.join(known)}"
                    yield Problem(name, "there is no such key", hint)
            continue
        expected = error.schema.get("title", "something else")
        example = schema["properties"].get(key, {}).get("examples")
        hint = f"for example {example[0]}" if example else "see: vladoctor schema config"
        if "enum" in error.schema:
            near = get_close_matches(str(error.instance).lower(), error.schema["enum"], n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(error.schema['enum'])}"
        yield Problem(key, f"must be {expected}, not {show(error.instance)}", hint)


def _names(table: Mapping[str, Any]) -> Iterator[Problem]:
    """Names of checks, limits and profiles that there are not."""
    for key in ("select", "ignore"):
        yield from _unknown(key, table.get(key, ()))
    for pattern, codes in table.get("per-file-ignores", {}).items():
        yield from _unknown(f"per-file-ignores.{pattern}", codes)
    for code, limits in table.get("thresholds", {}).items():
        yield from _unknown(f"thresholds.{code}", [code], single=True)
        check = _check(code)
        for name in limits if check else ():
            assert check is not None
            if name not in check.thresholds:
                near = get_close_matches(name, check.thresholds, n=1)
                known = ", ".join(check.thresholds)
                hint = f"did you mean `{near[0]}`?" if near else f"it has {known}" if known else "it has none"
                yield Problem(f"thresholds.{code}.{name}", f"{check.code} {check.name} has no limit `{name}`", hint)
    if "profile" in table:
        yield from _profile_problems("profile", table["profile"])
    for pattern, name in table.get("profiles", {}).items():
        yield from _profile_problems(f"profiles.{pattern}", name)


def _unknown(key: str, asked: Sequence[str], *, single: bool = False) -> Iterator[Problem]:
    from vladoctor.check import all_checks
    from vladoctor.lint.suppress import matches

    checks = all_checks()
    for written in asked:
        if any(matches(written, check.code, check.name) for check in checks) and not (
            single and _check(written) is None
        ):
            continue
        names = {name.casefold(): check for check in checks for name in (check.code, check.name)}
        near = get_close_matches(written.casefold(), names, n=1)
        hint = f"did you mean {names[near[0]].code} ({names[near[0]].name})? " if near else ""
        yield Problem(key, f"there is no check {written!r}", f"{hint}see: vladoctor checks")


def _check(written: str) -> Any:
    from vladoctor.check import all_checks

    text = written.strip().casefold()
    return next((one for one in all_checks() if text in (one.code.casefold(), one.name.casefold())), None)


def _thresholds(asked: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    return {_check(code).code: {name: float(value) for name, value in limits.items()} for code, limits in asked.items()}


def _profile_name(name: str, folder: Path) -> str:
    """A profile's name, or its file as seen from the settings' folder."""
    from vladoctor.profiles import is_file_name

    return str(folder / name) if name and is_file_name(name) else name


def _profile_problems(key: str, name: str) -> Iterator[Problem]:
    from vladoctor.profiles import is_file_name, profile_names

    if is_file_name(name):
        return  # loaded, and complained of, when it is needed
    names = profile_names()
    if name not in names:
        near = get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        yield Problem(key, f"there is no profile {name!r}", f"{hint}see: vladoctor profiles")


def _line(key: str, lines: Sequence[str]) -> int:
    """The line of a key in [tool.vladoctor], or of what it stands in: TOML's reader keeps none."""
    first, _, rest = key.partition(".")
    places: dict[str, int] = {}
    table = None
    for number, line in enumerate(lines, 1):
        head = re.match(r"\s*\[\s*tool\s*\.\s*vladoctor\b\.?(?P<rest>.*)\]", line)
        if head or re.match(r"\s*\[[^\[\],]*\]\s*(#.*)?$", line):
            table = head["rest"].strip() if head else None
            if table is not None:
                places.setdefault(table, number)
        elif table is not None:
            name = re.match(r"\s*([\"']?)(?P<name>[^\"'=]+?)\1\s*=", line)
            if name:
                places.setdefault(f"{table}.{name['name']}" if table else name["name"], number)
    inner = rest.rpartition(".")[0]
    near = (key, f"{first}.{rest}", f"{first}.{inner}", first, "")
    return next((places[name] for name in near if name in places), 1)
