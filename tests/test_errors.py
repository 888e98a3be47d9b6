"""Mistakes that once ended in a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from vladoctor.errors import UserError
from vladoctor.runspec import load_run

RUN = "model: {{path: '{path}'}}\nenv: {{suite: libero_object, {env}}}\n{more}\n"


def load(folder: Path, path: str = ".", env: str = "horizon: 5", more: str = "") -> None:
    file = folder / "run.yaml"
    file.write_text(RUN.format(path=path, env=env, more=more), encoding="utf-8")
    load_run(file).require_files()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"path": "~nobody-of-this-name/x"}, "there is no model folder"),
        ({"path": "run.yaml"}, "is not a folder"),
        ({"env": "tasks: [0, 0]"}, "stands here twice"),
        ({"env": "init_states: {first: 0, count: 1000000000}"}, "at most 10000"),
        ({"env": "seed: 99999999999"}, "at most 4294967295"),
        ({"more": "profile: {overrides: {prompt.template: 'do {foo}'}}"}, "is no template"),
    ],
)
def test_is_said(tmp_path: Path, wrong: dict[str, str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        load(tmp_path, **wrong)


def test_a_whole_float_is_an_integer(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(RUN.format(path=".", env="horizon: 5.0", more=""), encoding="utf-8")
    assert isinstance(load_run(file).env.horizon, int)
