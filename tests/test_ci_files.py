"""The GitHub Action and the pre-commit hook: what they say is what the command line takes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from vladoctor.cli import cli

ROOT = Path(__file__).resolve().parents[1]


def _yaml(name: str) -> Any:
    return YAML(typ="safe").load((ROOT / name).read_text(encoding="utf-8"))


def _step(name: str) -> dict[str, Any]:
    (step,) = (step for step in _yaml("action.yml")["runs"]["steps"] if step.get("name") == name)
    return dict(step)


def _look(folder: Path, said: dict[str, int], **variables: str) -> tuple[list[str], dict[str, str]]:
    """Run the action's script with a vladoctor that notes how it is called; returns that and the step's outputs."""
    program = folder / "vladoctor"
    cases = " ".join(f"{command}) exit {status} ;;" for command, status in said.items())
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >> "{folder}/calls"\ncase "$1" in {cases} esac\n')
    program.chmod(0o755)
    defaults = {"LINT_PATHS": ".", "LINT_ARGS": "", "RUN_FILE": "", "LEVEL": "0", "SARIF": "out/v.sarif"}
    environment = {
        **defaults,
        **variables,
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "GITHUB_OUTPUT": str(folder / "outputs"),
    }
    done = subprocess.run(["bash", "-e", "-c", _step("Look")["run"]], cwd=folder, env=environment, check=True)
    assert done.returncode == 0
    outputs = dict(line.split("=", 1) for line in (folder / "outputs").read_text().splitlines())
    return (folder / "calls").read_text().splitlines(), outputs


def test_the_action_calls_lint_and_preflight(tmp_path: Path) -> None:
    calls, outputs = _look(
        tmp_path, {"lint": 0}, LINT_PATHS="a b", LINT_ARGS="--fail-on fix", RUN_FILE="my run.yaml", LEVEL="1"
    )
    assert calls == [
        "lint a b --fail-on fix --output-format github --sarif out/v.sarif",
        "preflight my run.yaml --level 1 --output-format github --sarif out/v-preflight.sarif",
    ]
    assert outputs == {"status": "0", "stem": "out/v"}
    assert (tmp_path / "out").is_dir()


@pytest.mark.parametrize(
    ("lint", "preflight", "status"),
    [(0, 0, 0), (1, 0, 1), (0, 3, 3), (1, 3, 1), (1, 2, 2), (2, 1, 2), (0, 1, 1)],
)
def test_the_gravest_status_is_the_actions(tmp_path: Path, lint: int, preflight: int, status: int) -> None:
    _, outputs = _look(tmp_path, {"lint": lint, "preflight": preflight}, RUN_FILE="run.yaml")
    assert outputs["status"] == str(status)


def test_only_what_was_written_is_uploaded(tmp_path: Path) -> None:
    """The step that uploads fails where its file is missing, and hides why."""
    (tmp_path / "out").mkdir()
    _, outputs = _look(tmp_path, {"lint": 2, "preflight": 1}, RUN_FILE="run.yaml")
    assert set(outputs) == {"status", "stem"}
    (tmp_path / "out" / "v-preflight.sarif").write_text("{}")
    _, outputs = _look(tmp_path, {"lint": 2, "preflight": 1}, RUN_FILE="run.yaml")
    assert outputs["preflight"] == "true"
    assert "lint" not in outputs
    for name, output in (("Upload what lint found", "lint"), ("Upload what preflight found", "preflight")):
        assert f"steps.vladoctor.outputs.{output} == 'true'" in _step(name)["if"]


def test_inputs_are_never_part_of_a_script() -> None:
    for step in _yaml("action.yml")["runs"]["steps"]:
        assert "${{" not in step.get("run", "")


@pytest.mark.parametrize("command", ["lint", "preflight"])
def test_the_actions_options_exist(command: str) -> None:
    options = {name for option in cli.commands[command].params for name in option.opts}
    assert {"--output-format", "--sarif"} <= options


def test_the_hook_is_a_command() -> None:
    (hook,) = _yaml(".pre-commit-hooks.yaml")
    program, command = hook["entry"].split()
    assert (program, hook["language"], hook["pass_filenames"]) == ("vladoctor", "python", False)
    assert command in cli.commands
    shown = subprocess.run([sys.executable, "-m", "vladoctor", command, "--help"], capture_output=True, check=True)
    assert b"PATH" in shown.stdout
