"""run.yaml: what it means, and what each mistake in it is answered with."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from vladoctor import check, runspec
from vladoctor.check import Check, Fault, Stage
from vladoctor.errors import UserError
from vladoctor.runspec import load_run, shipped_runs
from vladoctor.schemas import NAMES, load_schema

MINIMAL = "model: {path: m}\nenv: {suite: libero_object}\n"


def _judge(_: Any, __: Any) -> Any:
    return iter(())


CHECKS = (
    Check("VD201", "image-orientation", Stage.IMAGE, _judge, faults=(Fault("flip-vertical", "mirrors the frame"),)),
    Check("VD301", "prompt-template", Stage.PROMPT, _judge),
    Check("VD402", "bin-saturation", Stage.DECODE, _judge, thresholds={"share": 0.5, "run_length": 20.0}),
)


@pytest.fixture(autouse=True)
def _known_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "all_checks", lambda: CHECKS)


def _write(folder: Path, text: str | bytes, name: str = "run.yaml") -> Path:
    file = folder / name
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


def _message(folder: Path, text: str | bytes) -> str:
    with pytest.raises(UserError) as caught:
        load_run(_write(folder, text))
    assert caught.value.remedy
    return str(caught.value)


BAD = [
    # Not a run file at all.
    ("", ["run.yaml", "empty", "model"]),
    ("# only a comment\n", ["empty"]),
    ("- model\n- env\n", ["run.yaml:1", "a list", "mapping"]),
    ("hello\n", ["'hello'", "mapping"]),
    (b"\x89PNG\r\n\x1a\n\x00\x00", ["not a text file", "vladoctor replay"]),
    (b"model: \x00", ["binary"]),
    ("model: {path: m}\n---\nenv: {suite: libero_object}\n", ["run.yaml:2:1", "second document"]),
    # YAML.
    ("model:\n\tpath: m\n", ["run.yaml:2:1", "tab", "spaces"]),
    ("model: {path: m\nenv: {suite: libero_object}\n", ["line 1", "brackets"]),
    ("model: {path: m}\nmodel: {path: n}\n", ["run.yaml:2:1", "`model`", "second time", "line 1", "one of the two"]),
    ("model:\n  path: m\n  path: n\n", ["run.yaml:3:3", "`path`", "line 2"]),
    ("model: path: m\n", ["run.yaml:1:12", "colon"]),
    ("model: *m\n", ["run.yaml:1", "undefined alias", "quotes"]),
    ("model: {path: m}\nenv: {suite: libero_object, tasks: &t [0, *t]}\n", ["env.tasks[1]"]),
    ("model:{path: m}\nenv: {suite: libero_object}\n", ["run.yaml:1", "colon", "space after the colon"]),
    # Keys.
    (MINIMAL + "modle: {}\n", ["run.yaml:3:1: modle", "no such key", "`model`"]),
    ("model: {path: m, devise: cpu}\nenv: {suite: libero_object}\n", ["run.yaml:1:18: model.devise", "`device`"]),
    (MINIMAL + "unnorm_key: x\n", ["run.yaml:3:1: unnorm_key", "belongs under `model`"]),
    ("model:\n  path: m\n  env: {suite: libero_object}\n", ["model.env", "take it out of the indentation"]),
    ("model: {path: m, zzz: 1}\nenv: {suite: libero_object}\n", ["model.zzz", "path, device, dtype"]),
    ("model: {path:m}\nenv: {suite: libero_object}\n", ["model.path:m", "space after the colon"]),
    ("modle: {path: m}\nenv: {suite: libero_object}\n", ["run.yaml:1:1: modle: there is no such key", "`model`"]),
    ("env: {suite: libero_object}\n", ["run.yaml:1:1: model", "missing", "add `model: {path: ...}`"]),
    ("model: {}\nenv: {suite: libero_object}\n", ["run.yaml:1:1: model.path", "missing", "snapshot"]),
    ("model:\nenv: {suite: libero_object}\n", ["model", "a mapping", "nothing (null)", "indent"]),
    ("model: {path: m}\nenv: {tasks: [0]}\n", ["env.suite", "missing", "libero_object"]),
    # Values.
    ("model: {path: }\nenv: {suite: libero_object}\n", ["model.path", "folder of a snapshot", "nothing (null)"]),
    ("model: {path: m, device: gpu}\nenv: {suite: libero_object}\n", ["model.device", "cpu, cuda, cuda:N", "'gpu'"]),
    ("model: {path: m, dtype: bf16}\nenv: {suite: libero_object}\n", ["model.dtype", "did you mean `bfloat16`"]),
    ("model: {path: m, center_crop: yes}\nenv: {suite: libero_object}\n", ["center_crop", "'yes'", "write true"]),
    ("model: {path: m, threads: 0}\nenv: {suite: libero_object}\n", ["model.threads", "at least 1", "not 0"]),
    ("model: {path: m}\nenv: {suite: libero_objects}\n", ["run.yaml:2:7: env.suite", "did you mean `libero_object`"]),
    ("model: {path: m}\nenv: {suite: libero_object, seed: '7'}\n", ["env.seed", "remove the quotes"]),
    ("model: {path: m}\nenv: {suite: libero_object, seed: true}\n", ["env.seed", "not true"]),
    ("model: {path: m}\nenv: {suite: libero_object, seed: 1.5}\n", ["env.seed", "whole number", "not 1.5"]),
    ("model: {path: m}\nenv: {suite: libero_object, seed: -1}\n", ["env.seed", "not -1"]),
    ("model: {path: m}\nenv: {suite: libero_object, seed: 2024-01-01}\n", ["env.seed", "2024-01-01"]),
    ("model: {path: m}\nenv: {suite: libero_object, tasks: []}\n", ["env.tasks", "empty", "all"]),
    ("model: {path: m}\nenv: {suite: libero_object, tasks: [0, [1]]}\n", ["env.tasks[1]", "task number", "a list"]),
    ("model: {path: m}\nenv: {suite: libero_object, tasks: [all]}\n", ["env.tasks", "`tasks: all`"]),
    ("model: {path: m}\nenv: {suite: libero_object, tasks: -1}\n", ["env.tasks", "not -1"]),
    ("model: {path: m}\nenv: {suite: libero_object, tasks: {a: 1}}\n", ["env.tasks", '"all", or a list', "a mapping"]),
    (
        "model: {path: m}\nenv:\n  suite: libero_object\n  init_states:\n    - 30\n    - x\n",
        ["run.yaml:6:7: env.init_states[1]", "whole number", "'x'"],
    ),
    ("model: {path: m}\nenv: {suite: libero_object, init_states: all}\n", ["env.init_states", "{first: N, count: N}"]),
    (
        "model: {path: m}\nenv: {suite: libero_object, init_states: {first: 30, cuont: 5}}\n",
        ["env.init_states.cuont", "`count`"],
    ),
    ("model: {path: m}\nenv: {suite: libero_object, init_states: {first: 30}}\n", ["init_states.count", "missing"]),
    (MINIMAL + "report: {fail_on: warning}\n", ["run.yaml:3:10: report.fail_on", "stop, fix or look"]),
    (MINIMAL + "report: {html: 'no'}\n", ["report.html", "write false"]),
    (MINIMAL + "trace: {full_every: 0}\n", ["trace.full_every", "at least 1"]),
    (MINIMAL + "checks: [VD201]\n", ["checks", "a mapping", "a list"]),
    (MINIMAL + "checks: {select: VD201}\n", ["checks.select", "write a list: [VD201]"]),
    # Names that only the program knows.
    (
        MINIMAL + "checks: {select: [VD201, VD210]}\n",
        ["run.yaml:3:26: checks.select[1]", "did you mean VD201"],
    ),
    (MINIMAL + "checks: {ignore: [image-orientaton]}\n", ["checks.ignore[0]", "VD201 (image-orientation)"]),
    (MINIMAL + "checks: {select: [VD201], ignore: [VD2]}\n", ["no check is left"]),
    (MINIMAL + "checks: {thresholds: {VD402: {shaer: 1}}}\n", ["run.yaml:3:31", "VD402", "did you mean `share`"]),
    (MINIMAL + "checks: {thresholds: {VD301: {share: 1}}}\n", ["VD301", "`share`", "it has none"]),
    (MINIMAL + "checks: {thresholds: {VD403: {share: 1}}}\n", ["checks.thresholds.VD403", "VD402"]),
    (MINIMAL + "checks: {thresholds: {VD402: {share: .nan}}}\n", ["VD402.share", "nan", "vladoctor explain VD402"]),
    (MINIMAL + "checks: {thresholds: {VD402: 0.5}}\n", ["checks.thresholds.VD402", "limit's name", "0.5"]),
    (MINIMAL + "fault: [flip-vertical, flip-vertcal]\n", ["run.yaml:3:1: fault", "did you mean flip-vertical"]),
    (MINIMAL + "fault: flip-vertcal\n", ["run.yaml:3:1: fault", "did you mean flip-vertical", "faults --list"]),
    (MINIMAL + "profile: {name: openvla-libreo}\n", ["profile.name", "did you mean openvla-libero"]),
    (
        MINIMAL + "profile:\n  overrides:\n    image: {orientaton: rot180}\n",
        ["run.yaml:5:13: profile.overrides.image.orientaton", "`image.orientation`"],
    ),
]


@pytest.mark.parametrize(("text", "parts"), BAD, ids=[repr(text)[:60] for text, _ in BAD])
def test_a_mistake_names_place_key_and_nearest(tmp_path: Path, text: str | bytes, parts: list[str]) -> None:
    message = _message(tmp_path, text)
    for part in parts:
        assert part in message, message


def test_all_mistakes_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    message = _message(tmp_path, "model: {path: m, devise: cpu}\nenv: {suit: libero_object}\nreport: {html: 3}\n")
    assert "3 things are wrong" in message
    places = [message.index(key) for key in ("model.devise", "env.suit", "report.html")]
    assert places == sorted(places)


def test_minimal_file_gets_the_documented_defaults(tmp_path: Path) -> None:
    spec = load_run(_write(tmp_path, MINIMAL))
    assert spec.model.path == (tmp_path / "m").resolve()
    assert (spec.env.tasks, spec.env.init_states, spec.env.episodes) == ((0,), (0,), None)
    assert spec.report.folder == Path("reports/run")
    assert spec.report.fail_on == "look"
    assert spec.fault == ()
    assert (spec.checks.select, spec.checks.ignore, spec.checks.thresholds) == ((), (), {})


def test_defaults_of_schema_and_program_are_the_same() -> None:
    schema = load_schema("run")["properties"]
    for section, kind in {
        "model": runspec.ModelSpec,
        "env": runspec.EnvSpec,
        "profile": runspec.ProfileSpec,
        "checks": runspec.ChecksSpec,
        "trace": runspec.TraceSpec,
        "report": runspec.ReportSpec,
    }.items():
        properties = schema[section]["properties"]
        assert set(properties) == {entry.name for entry in fields(kind)}
        for entry in fields(kind):
            if "default" not in properties[entry.name] or properties[entry.name]["default"] is None:
                assert entry.default in (MISSING, None)
                continue
            default = entry.default
            if callable(entry.default_factory):
                default = entry.default_factory()
            assert properties[entry.name]["default"] == (list(default) if isinstance(default, tuple) else default)


@pytest.mark.parametrize("written", ["flip-vertical", "[flip-vertical]", "[flip-vertical, flip-vertical]"])
def test_a_fault_is_one_name_or_a_list(written: str, tmp_path: Path) -> None:
    assert load_run(_write(tmp_path, MINIMAL + f"fault: {written}\n")).fault == ("flip-vertical",)


def test_empty_sections_are_defaults(tmp_path: Path) -> None:
    spec = load_run(_write(tmp_path, MINIMAL + "checks:\n  # select: [VD201]\nreport:\n"))
    assert spec == load_run(_write(tmp_path, MINIMAL))


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("tasks: 3", (3,)),
        ("tasks: all", "all"),
        ("tasks: [0, some_task]", (0, "some_task")),
        ("tasks: some_task", ("some_task",)),
    ],
)
def test_tasks(tmp_path: Path, written: str, meant: Any) -> None:
    spec = load_run(_write(tmp_path, f"model: {{path: m}}\nenv: {{suite: libero_object, {written}}}\n"))
    assert spec.env.tasks == meant


@pytest.mark.parametrize(
    ("written", "meant"),
    [("[30, 31]", (30, 31)), ("{first: 30, count: 3}", (30, 31, 32)), ("4", (4,)), ("[3.0]", (3,))],
)
def test_init_states(tmp_path: Path, written: str, meant: tuple[int, ...]) -> None:
    spec = load_run(_write(tmp_path, f"model: {{path: m}}\nenv: {{suite: libero_object, init_states: {written}}}\n"))
    assert spec.env.init_states == meant


def test_checks_by_code_name_and_beginning(tmp_path: Path) -> None:
    spec = load_run(
        _write(
            tmp_path,
            MINIMAL + "checks:\n  select: [vd201, Prompt-Template, VD4, VD201]\n"
            "  thresholds: {bin-saturation: {share: 0.7}}\n",
        )
    )
    assert spec.checks.select == ("VD201", "VD301", "VD402")
    assert spec.checks.thresholds == {"VD402": {"share": 0.7}}


@pytest.mark.parametrize("written", ["{image.orientation: rot180}", "{image: {orientation: rot180}}"])
def test_overrides_dotted_or_nested(tmp_path: Path, written: str) -> None:
    spec = load_run(_write(tmp_path, MINIMAL + f"profile: {{overrides: {written}}}\n"))
    assert spec.profile.overrides == {"image.orientation": "rot180"}


def test_inputs_are_beside_the_run_file_else_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "m").mkdir(parents=True)
    there.mkdir()
    file = _write(there, MINIMAL)
    monkeypatch.chdir(here)
    assert load_run(file).model.path == here / "m"
    (there / "m").mkdir()
    assert load_run(file).model.path == there / "m"


def test_bddl_files_and_assets_are_paths(tmp_path: Path) -> None:
    (tmp_path / "own.bddl").touch()
    (tmp_path / "assets").mkdir()
    spec = load_run(
        _write(tmp_path, "model: {path: .}\nenv: {suite: libero_object, tasks: [own.bddl], assets: assets}\n")
    )
    assert spec.env.tasks == (str(tmp_path / "own.bddl"),)
    assert spec.env.assets == str(tmp_path / "assets")
    spec.require_files()


def test_files_that_are_not_there_are_named_with_line_and_nearest(tmp_path: Path) -> None:
    (tmp_path / "tiny-openvla").mkdir()
    text = (
        "model:\n  path: tiny-openvl\nenv:\n  suite: libero_object\n  tasks:\n  - 0\n  - no.bddl\n  assets: nowhere\n"
    )
    spec = load_run(_write(tmp_path, text))
    with pytest.raises(UserError) as caught:
        spec.require_files()
    message = str(caught.value)
    for part in (
        "run.yaml:2:3: model.path",
        "did you mean",
        "tiny-openvla",
        "run.yaml:7:5: env.tasks[1]",
        "env.assets",
    ):
        assert part in message


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_files_written_on_windows(tmp_path: Path, encoding: str) -> None:
    text = MINIMAL.replace("\n", "\r\n")
    assert load_run(_write(tmp_path, text.encode(encoding))).env.suite == "libero_object"


def test_anchors_and_merge_keys(tmp_path: Path) -> None:
    text = "env: &e {suite: libero_object, seed: 3}\nmodel: {path: m}\n"
    assert load_run(_write(tmp_path, text)).env.seed == 3
    message = _message(tmp_path, "model: {path: m}\nenv:\n  <<: {suite: libero_object, sede: 3}\n")
    assert "env.sede" in message
    assert "`seed`" in message


def test_missing_file_and_folder(tmp_path: Path) -> None:
    _write(tmp_path, MINIMAL, "demo_run.yaml")
    with pytest.raises(UserError, match=r"no such run file(?s:.*)demo_run\.yaml"):
        load_run(tmp_path / "demo_rnu.yaml")
    with pytest.raises(UserError, match=r"a folder(?s:.*)demo_run\.yaml"):
        load_run(tmp_path)
    with pytest.raises(UserError, match="did you mean demo"):
        load_run("dmeo")
    with pytest.raises(UserError, match="did you mean demo"):
        load_run(tmp_path / "nowhere" / "demo.yaml")


def test_spec_knows_where_things_stand(tmp_path: Path) -> None:
    file = _write(tmp_path, "model:\n  path: m\nenv:\n  suite: libero_object\n")
    spec = load_run(file)
    assert spec.where("model.path") == f"{file}:2:3: model.path"
    assert spec.where("model.device") == f"{file}:1:1: model.device"
    assert spec.where("report.folder") == f"{file}:1:1: report.folder"


def test_options_of_the_command_line(tmp_path: Path) -> None:
    spec = load_run(_write(tmp_path, MINIMAL + "checks: {ignore: [VD301]}\n"))
    changed = spec.with_options(
        fault=["flip-vertical"], device="cuda:1", episodes=3, select=["vd4", "VD201"], folder=Path("x")
    )
    assert (changed.fault, changed.model.device, changed.env.episodes) == (("flip-vertical",), "cuda:1", 3)
    assert (changed.checks.select, changed.checks.ignore) == (("VD402", "VD201"), ("VD301",))
    assert changed.report.folder == Path("x")
    assert spec.fault == ()
    for options, part in [
        ({"fault": ["flip"]}, "--fault: there is no fault 'flip'"),
        ({"device": "gpu"}, "--device: must be cpu"),
        ({"select": ["VD999"]}, "--select: there is no check 'VD999'"),
        ({"select": ["VD301"]}, "--select: no check is left"),
    ]:
        with pytest.raises(UserError) as caught:
            spec.with_options(**options)  # type: ignore[arg-type]
        assert part in str(caught.value)


def test_spec_as_plain_data_is_a_run_file_again(tmp_path: Path) -> None:
    text = MINIMAL + "checks: {thresholds: {VD402: {share: 0.7}}}\nprofile: {overrides: {image.orientation: rot180}}\n"
    spec = load_run(_write(tmp_path, text))
    plain = json.dumps(spec.to_json())
    again = load_run(_write(tmp_path, plain, "again.yaml"))
    assert again.to_json() == spec.to_json()


@pytest.mark.parametrize("name", sorted(shipped_runs()))
def test_shipped_runs_are_right(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    spec = load_run(name)
    assert spec.report.folder.parts[0] == "reports"
    if "openvla-7b" not in name:
        spec.require_files()


def test_demo_is_two_instructions_from_held_out_states() -> None:
    spec = load_run("demo")
    assert spec.env.tasks == (0, "pick_up_the_tomato_sauce_and_place_it_in_the_basket_scene0")
    assert spec.env.init_states == (30, 31)
    assert spec.env.assets == "stand-in"
    assert spec.model.path.name == "tiny-openvla"


def test_weights_of_a_shipped_run_are_looked_for_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = load_run("openvla-7b-libero-object")
    assert spec.model.path == tmp_path / "weights" / "openvla-7b-finetuned-libero-object"
    with pytest.raises(UserError, match="hf download"):
        spec.require_files()


@pytest.mark.parametrize("name", NAMES)
def test_schemas_are_schemas(name: str) -> None:
    schema = load_schema(name)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["description"]


def test_every_key_is_described_and_every_example_valid() -> None:
    def walk(schema: dict[str, Any], path: str) -> None:
        for key, inner in schema.get("properties", {}).items():
            where = f"{path}.{key}"
            assert inner.get("title"), where
            assert inner.get("description"), where
            validator = jsonschema.Draft202012Validator({"$ref": "#/x", "x": inner})
            for example in [*inner.get("examples", []), *([inner["default"]] if "default" in inner else [])]:
                validator.validate(example)
            walk(inner, where)
            for branch in inner.get("anyOf", []):
                walk(branch, where)

    walk(load_schema("run"), "")
