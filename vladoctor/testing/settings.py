"""How a suite, a test or a run file wants to be judged: options before markers before the suite's ini file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pytest

from vladoctor.check import Severity
from vladoctor.errors import UserError
from vladoctor.runspec import RunSpec

KEYS = ("profile", "select", "ignore", "thresholds", "fail_on", "complete", "watch")


@dataclass(frozen=True)
class Settings:
    """What is asked for; None or empty where nothing is said.

    Attributes:
        complete: whether a test also fails where something could not be judged because it was not seen.
        report: folder in which everything is kept; None is pytest's temporary one.
    """

    profile: str | None = None
    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    thresholds: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    fail_on: str | None = None
    complete: bool = True
    report: Path | None = None

    @classmethod
    def of_suite(cls, config: pytest.Config) -> Settings:
        """What the ini file says."""
        return cls(
            profile=config.getini("vladoctor_profile") or None,
            select=codes(config.getini("vladoctor_select")),
            ignore=codes(config.getini("vladoctor_ignore")),
            fail_on=config.getini("vladoctor_fail_on") or None,
            report=report_folder(config),
        )

    def with_options(self, config: pytest.Config) -> Settings:
        """What the command line says, in place of what was said before; codes to ignore add up."""
        option = config.getoption
        return replace(
            self,
            profile=option("vladoctor_profile") or self.profile,
            select=codes(option("vladoctor_select") or ()) or self.select,
            ignore=self.ignore + codes(option("vladoctor_ignore") or ()),
            fail_on=option("vladoctor_fail_on") or self.fail_on,
        )

    @classmethod
    def of_item(cls, item: pytest.Item) -> Settings:
        """Those of a test: its markers, the nearest last.

        Raises:
            UserError: a marker says something that there is not.
        """
        settings = cls.of_suite(item.config)
        for marker in reversed(list(item.iter_markers("vla"))):
            said = _marker(marker, item.nodeid)
            settings = replace(
                settings,
                profile=said.get("profile", settings.profile),
                select=codes(said.get("select", ())) or settings.select,
                ignore=settings.ignore + codes(said.get("ignore", ())),
                thresholds={**settings.thresholds, **said.get("thresholds", {})},
                fail_on=said.get("fail_on", settings.fail_on),
                complete=said.get("complete", settings.complete),
            )
        return settings.with_options(item.config).checked(item.nodeid)

    def checked(self, where: str) -> Settings:
        """The same.

        Raises:
            UserError: there is no such severity.
        """
        severities = [one.value for one in Severity]
        if self.fail_on is not None and self.fail_on not in severities:
            raise UserError(
                f"there is no severity {self.fail_on!r}",
                where=where,
                remedy=f"fail_on is one of {', '.join(severities)}",
            )
        return self

    def over(self, spec: RunSpec, options: Settings) -> RunSpec:
        """A run file's spec with what the suite says where the file is silent, and with what the options say.

        Args:
            options: `Settings().with_options(config)`.

        Raises:
            UserError: there is no such profile, check or severity.
        """
        silent = spec.profile.name == "auto" and "profile.name" not in spec.positions
        fail_on = options.fail_on or (None if "report.fail_on" in spec.positions else self.fail_on)
        self.checked("vladoctor_fail_on")
        spec = spec.with_options(
            profile=options.profile or (self.profile if silent else None),
            select=options.select or (() if spec.checks.select else self.select),
            ignore=(*spec.checks.ignore, *self.ignore, *options.ignore),
        )
        return replace(spec, report=replace(spec.report, fail_on=fail_on or spec.report.fail_on))


def codes(said: str | Iterable[str]) -> tuple[str, ...]:
    """("VD201", "VD3") of "VD201,VD3", or of a list of such texts."""
    texts = [said] if isinstance(said, str) else said
    return tuple(part.strip() for text in texts for part in str(text).split(",") if part.strip())


def require_checks(said: tuple[str, ...], where: str) -> tuple[str, ...]:
    """The same, if each is the code or the name of a check, or the beginning of codes.

    Raises:
        UserError: one is not; a test that asks for it would always pass.
    """
    from vladoctor.check import all_checks
    from vladoctor.runspec import find_check
    from vladoctor.testing.report import named

    __tracebackhide__ = True
    for one in said:
        if not any(named(check.code, check.name, (one,)) for check in all_checks()):
            try:
                find_check(one)
                remedy = "write it as `vladoctor checks` does"
            except UserError as error:
                remedy = error.remedy
            raise UserError(f"there is no check {one!r}", where=where, remedy=remedy)
    return said


def report_folder(config: pytest.Config) -> Path | None:
    """Where reports are kept: the option is relative to where pytest was started, the ini file's to its root."""
    option = config.getoption("vladoctor_report_dir")
    if option:
        return Path(config.invocation_params.dir, option).absolute()
    said = config.getini("vladoctor_report_dir")
    return (config.rootpath / said).absolute() if said else None


def require_folder(config: pytest.Config) -> None:
    """Say it at once, and once, if reports cannot be kept where they are to be.

    Raises:
        pytest.UsageError: it is a file.
    """
    folder = report_folder(config)
    if folder is not None and folder.exists() and not folder.is_dir():
        raise pytest.UsageError(f"vladoctor's reports: {folder} is a file, name a folder")


def _marker(marker: pytest.Mark, where: str) -> Mapping[str, Any]:
    if marker.args:
        raise UserError(
            "the marker `vla` takes no values without a name",
            where=where,
            remedy=f"for example @pytest.mark.vla(profile={marker.args[0]!r}); it knows {', '.join(KEYS)}",
        )
    for name in marker.kwargs:
        if name not in KEYS:
            near = get_close_matches(name, KEYS, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"it knows {', '.join(KEYS)}"
            raise UserError(f"the marker `vla` knows no `{name}`", where=where, remedy=hint)
    return marker.kwargs
