"""The engine of `vladoctor lint`: files, imports, branches, loops, and the facts that come of them."""

from __future__ import annotations

import json
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from vladoctor.check import all_checks
from vladoctor.lint.facts import SourceFacts
from vladoctor.lint.fixes import plan_fixes
from vladoctor.lint.result import Skipped
from vladoctor.lint.run import lint_paths, read_paths
from vladoctor.lint.sources import SourceFile, Sources, imports, may_lead, may_matter, parse, walk

LOOP = """
import numpy as np
import torch
from libero.libero import benchmark, get_libero_path
from libero.libero.envs import OffScreenRenderEnv
from PIL import Image
from transformers import AutoModelForVision2Seq, AutoProcessor
import os

CHECKPOINT = "openvla/openvla-7b-finetuned-libero-spatial"
{top}

def main():
    processor = AutoProcessor.from_pretrained(CHECKPOINT, trust_remote_code=True)
    vla = AutoModelForVision2Seq.from_pretrained(CHECKPOINT, torch_dtype=torch.bfloat16, trust_remote_code=True)
    suite = benchmark.get_benchmark_dict()["libero_spatial"]()
    task = suite.get_task(0)
    bddl = os.path.join(get_libero_path("bddl_files"), task.problem_folder, task.bddl_file)
    env = OffScreenRenderEnv(bddl_file_name=bddl, camera_heights=256, camera_widths=256)
    env.seed(0)
    states = suite.get_task_init_states(0)
    for episode in range(50):
        env.reset()
        obs = env.set_init_state(states[episode])
        for _ in range(10):
            obs, *_ = env.step([0, 0, 0, 0, 0, 0, -1])
        for t in range(220):
            x = obs["agentview_image"]
            frame = {frame}
            prompt = {prompt}
            inputs = processor(prompt, Image.fromarray(frame)).to("cuda", dtype=torch.bfloat16)
            action = vla.predict_action(**inputs, unnorm_key="libero_spatial", do_sample=False)
            {action}
            obs, reward, done, info = env.step(action)
            if done:
                break


main()
"""
PROMPT = 'f"In: What action should the robot take to {task.language.lower()}?\\nOut:"'


def facts_of(tmp_path: Path, text: str, **others: str) -> list[SourceFacts]:
    """The facts of a program and the modules beside it."""
    (tmp_path / "run.py").write_text(textwrap.dedent(text), "utf-8")
    for name, other in others.items():
        path = tmp_path / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(other), "utf-8")
    return read_paths([tmp_path / "run.py"], tmp_path)


def loop(tmp_path: Path, **changes: str) -> SourceFacts:
    parts = {"top": "", "frame": "x[::-1, ::-1]", "prompt": PROMPT, "action": "pass", **changes}
    text = LOOP
    for name, part in parts.items():
        text = text.replace(f"{{{name}}}", part)
    (facts,) = facts_of(tmp_path, text)
    return facts


# -- facts ---------------------------------------------------------------------------------------------------------


def test_a_whole_loop_is_read(tmp_path: Path) -> None:
    facts = loop(tmp_path, action="action[-1] = -np.sign(2 * action[-1] - 1)")
    assert (facts.kind, facts.family, facts.environment, facts.suites) == (
        "loop",
        "openvla",
        "libero",
        ("libero_spatial",),
    )
    assert facts.profile.name == "openvla-libero"
    (slot,) = facts.images
    way = slot.way.value
    assert way is not None
    assert (way.camera, way.element, way.crop_area, way.channels, way.rendered) == (
        "agentview", "rot180", 1.0, "RGB", (256, 256),
    )  # fmt: skip
    prompt = facts.prompt.value
    assert prompt is not None
    assert prompt.text == "In: What action should the robot take to {instruction}?\nOut:"
    assert prompt.lowercase
    assert facts.settle.value is not None
    assert (facts.settle.value.steps, facts.settle.value.action) == (10, (0, 0, 0, 0, 0, 0, -1))
    assert (facts.init_state.value, facts.environment_seed.value, facts.trials.value) == ("set", 0, 50)
    assert facts.horizon.value == {"libero_spatial": 220}
    assert facts.bddl.value == "path"


def test_the_way_is_told_with_places(tmp_path: Path) -> None:
    facts = loop(tmp_path, frame="np.flipud(x)")
    labels = [hop.label for hop in facts.images[0].way.trail]
    assert labels == ["agentview_image", "flipud", "processor", "the policy"]
    assert all(hop.place is not None and hop.place.line for hop in facts.images[0].way.trail)


@pytest.mark.parametrize(
    ("action", "open_command"),
    [
        ("pass", 1.0),
        ("action[-1] = 2 * action[-1] - 1", 1.0),
        ("action = action * np.array([1, 1, 1, 1, 1, 1, -1])", -1.0),
        ("action[6] = -1.0 if action[6] > 0.5 else 1.0", -1.0),
        ("action = np.where(np.arange(7) == 6, np.sign(0.5 - action), action)", -1.0),
        ("action = torch.cat([torch.tensor(action[:6]), torch.tensor([-1.0 if action[6] > .5 else 1.0])])", -1.0),
    ],
)
def test_what_becomes_of_an_open_gripper(tmp_path: Path, action: str, open_command: float) -> None:
    found = loop(tmp_path, action=action).action.value
    assert found is not None
    assert found.gripper is not None
    assert dict(found.gripper)[1.0] == pytest.approx(open_command)


def test_a_helper_that_writes_into_the_action(tmp_path: Path) -> None:
    top = "def convert(a):\n    a[..., -1] = 1 - 2 * a[..., -1]\n"
    found = loop(tmp_path, top=top, action="convert(action)").action.value
    assert found is not None
    assert found.gripper is not None
    assert dict(found.gripper)[1.0] == -1.0


def test_an_action_given_to_unknown_code_is_not_known(tmp_path: Path) -> None:
    facts = loop(tmp_path, top="from elsewhere import polish", action="action = polish(action)")
    assert not facts.action.known
    assert facts.action.wrong(lambda _: True) is None


@pytest.mark.parametrize(
    ("prompt", "text", "lower"),
    [
        ('"In: {}?\\nOut:".format(task.language)', "In: {instruction}?\nOut:", True),
        ('"In: {x}?".format(x=task.language.lower())', "In: {instruction}?", True),
        ('"In: %s?" % task.language', "In: {instruction}?", True),
        ('"In: " + task.language + "?"', "In: {instruction}?", True),
        ('"\\n".join(["In: " + task.language, "Out:"])', "In: {instruction}\nOut:", True),
        ('"In: <x>?".replace("<x>", task.language)', "In: {instruction}?", True),
        ('f"In: {task.language.capitalize()}?"', "In: {instruction.capitalize()}?", True),
        ("TEMPLATE.format(task.language)", "Q {instruction}", True),
    ],
)
def test_prompts(tmp_path: Path, prompt: str, text: str, lower: bool) -> None:
    found = loop(tmp_path, top='TEMPLATE = "Q {}"', prompt=prompt).prompt.value
    assert found is not None
    assert (found.text, found.lowercase) == (text, lower)


def test_a_branch_that_is_not_known_gives_both(tmp_path: Path) -> None:
    facts = loop(tmp_path, frame="x[::-1] if os.environ['MODE'] else x[::-1, ::-1]")
    seen = {one.value.element for one in facts.images[0].way.seen}
    assert seen == {"flip-vertical", "rot180"}
    assert facts.images[0].way.wrong(lambda way: way.element != "rot180") is None
    assert all(one.when for one in facts.images[0].way.seen)


def test_a_default_decides(tmp_path: Path) -> None:
    top = "class Args:\n    rotate: bool = False\nargs = Args()\n"
    way = loop(tmp_path, top=top, frame="x[::-1, ::-1] if args.rotate else x[::-1]").images[0].way
    assert way.value is not None
    assert way.value.element == "flip-vertical"


def test_settling_counted_in_the_loop_is_no_policy_step(tmp_path: Path) -> None:
    text = (
        LOOP.replace(
            "        for _ in range(10):\n            obs, *_ = env.step([0, 0, 0, 0, 0, 0, -1])\n", "        t = 0\n"
        )
        .replace(
            "for t in range(220):",
            "while t < 230:\n            if t < 10:\n                obs, *_ = env.step([0] * 6 + [-1])\n"
            "                t += 1\n"
            "                continue\n            t += 1",
        )
        .replace("{top}", "")
        .replace("{frame}", "x")
        .replace("{prompt}", PROMPT)
        .replace("{action}", "pass")
    )
    (facts,) = facts_of(tmp_path, text)
    assert facts.settle.value is not None
    assert facts.settle.value.steps == 10
    assert facts.horizon.value == {"libero_spatial": 220}


# -- following -----------------------------------------------------------------------------------------------------


def test_imports_are_followed_across_modules(tmp_path: Path) -> None:
    body = LOOP.replace("{top}", "from helpers.images import turn").replace("{frame}", "turn(x)")
    text = body.replace("{prompt}", PROMPT).replace("{action}", "pass")
    helper = "import numpy as np\nfrom . import base\n\ndef turn(x):\n    return base.mirror(np.flipud(x))\n"
    base = "def mirror(x):\n    return x[:, ::-1]\n"
    (facts,) = facts_of(tmp_path, text, helpers____init__="", helpers__images=helper, helpers__base=base)
    way = facts.images[0].way
    assert way.value is not None
    assert way.value.element == "rot180"
    assert way.place is not None
    assert way.place.file.endswith("base.py")


@pytest.mark.parametrize(
    "top",
    [
        "import functools\nturn = functools.partial(lambda k, x: np.rot90(x, k), 2)",
        "TURNS = {'libero': lambda x: x[::-1, ::-1]}\nturn = TURNS['libero']",
        "class T:\n    def __call__(self, x):\n        return x[::-1, ::-1]\nturn = T()",
        "class A:\n    def go(self, x):\n        return x[::-1]\nclass B(A):\n    def go(self, x):\n"
        "        return super().go(x)[:, ::-1]\nturn = B().go",
        "R = {}\ndef add(name):\n    def wrap(f):\n        R[name] = f\n        return f\n    return wrap\n"
        "@add('a')\ndef f(x):\n    return x[::-1, ::-1]\ndef turn(x):\n    return R['a'](x)",
        "def outer(n):\n    def inner(x):\n        for _ in range(n):\n            x = np.rot90(x)\n        return x\n"
        "    return inner\nturn = outer(2)",
    ],
)
def test_ways_to_reach_a_function(tmp_path: Path, top: str) -> None:
    way = loop(tmp_path, top=top, frame="turn(x)").images[0].way
    assert way.value is not None
    assert way.value.element == "rot180"


def test_recursion_and_endless_loops_end(tmp_path: Path) -> None:
    top = "def f(x):\n    return f(g(x))\ndef g(x):\n    while True:\n        x = f(x)\n    return x\n"
    facts = loop(tmp_path, top=top, frame="f(x)")
    assert not facts.images or not facts.images[0].way.known


def test_time_is_bounded(tmp_path: Path) -> None:
    calls = [f"def f{i}(x):\n    return [f{i + 1}(x) for _ in range(8)]" for i in range(30)]
    deep = "\n".join([*calls, "def f30(x):\n    return x", ""])
    text = LOOP.replace("{top}", deep).replace("{frame}", "f0(x)").replace("{prompt}", PROMPT).replace("{action}", "0")
    start = time.process_time()
    facts_of(tmp_path, text)
    assert time.process_time() - start < 3


def test_nothing_is_executed(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    top = f"open({str(mark)!r}, 'w').write('x')\n__import__('os').system('touch {mark}')\n"
    loop(tmp_path, top=top)
    assert not mark.exists()


def test_numbers_that_explode_are_left_alone(tmp_path: Path) -> None:
    facts = loop(tmp_path, top="BIG = 10 ** 10 ** 10\nLONG = 'x' * 10 ** 12\nZ = np.zeros((10 ** 9, 10 ** 9))")
    assert facts.images[0].way.known


# -- files ---------------------------------------------------------------------------------------------------------


def source(path: Path, data: bytes) -> SourceFile:
    found = parse(path, data)
    assert isinstance(found, SourceFile)
    return found


def test_encodings(tmp_path: Path) -> None:
    text = '# -*- coding: latin-1 -*-\nname = "\xe9\xe8"\nvalue = obs\n'
    found = source(tmp_path / "a.py", text.encode("latin-1"))
    place = found.place(found.tree.body[1])
    assert (place.line, place.column) == (3, 1)
    assert isinstance(parse(tmp_path / "a.py", b"# coding: no-such\n"), Skipped)
    assert isinstance(parse(tmp_path / "a.py", b"x = '\xff\xfe'"), Skipped)
    assert source(tmp_path / "a.py", b"\xef\xbb\xbfx = 1\r\ny = 2\r\n").lines[1] == "y = 2"


def test_columns_count_characters(tmp_path: Path) -> None:
    found = source(tmp_path / "a.py", 'a = "äöü"; b = 1\n'.encode())
    place = found.place(found.tree.body[1])
    assert (place.column, place.end_column) == (12, 17)


def test_a_file_that_is_no_python_is_skipped_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("import libero  # predict_action\n\ndef f(:\n", "utf-8")
    result = lint_paths([path], all_checks(), {}, tmp_path)
    (skipped,) = result.skipped
    assert skipped.place.line == 3
    assert result.exit_status == 2


def notebook(*cells: str | list[str]) -> bytes:
    kinds: list[dict[str, Any]] = [{"cell_type": "markdown", "source": "# text"}]
    kinds += [{"cell_type": "code", "source": cell} for cell in cells]
    return json.dumps({"cells": kinds}).encode()


def test_notebook_places_count_in_their_cell(tmp_path: Path) -> None:
    data = notebook("%pip install x\na = 1", ["b = 2\n", "!ls\n", "c = 3"], "%%bash\nrm -rf x", "def broken(:", "d = 4")
    found = source(tmp_path / "a.ipynb", data)
    places = [found.place(node) for node in found.tree.body if type(node).__name__ == "Assign"]
    assert [(place.cell, place.line) for place in places] == [(1, 2), (2, 1), (2, 3), (5, 1)]
    assert isinstance(parse(tmp_path / "a.ipynb", b"{}"), Skipped)
    assert isinstance(parse(tmp_path / "a.ipynb", b"[" * 100_000), Skipped)


def test_the_byte_search(tmp_path: Path) -> None:
    assert may_matter(b"import lerobot\npolicy.select_action(batch)")
    assert not may_matter(b"optimizer.step()\nimport torch")
    assert may_lead(b"from evaluation import run\nif __name__ == '__main__': run()")
    assert set(imports(b"import a.b\nfrom . import c\nfrom ..d import (e, f)\n")) >= {
        ("a.b", 0), ("c", 1), ("d", 2), ("d.e", 2),
    }  # fmt: skip


def test_modules_are_found_beside_above_and_in_src(tmp_path: Path) -> None:
    for name in ("top.py", "src/inner/__init__.py", "scripts/deep/run.py", "scripts/deep/near.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1\n", "utf-8")
    sources = Sources(tmp_path)
    run = sources.get(tmp_path / "scripts/deep/run.py")
    assert run is not None
    for name in ("top", "inner", "near"):
        assert sources.module(name, run) is not None
    assert sources.module("near", run, 1) is not None
    assert sources.module("run", run) is None
    assert sources.module("absent", run) is None


def test_folders_that_are_left_out(tmp_path: Path) -> None:
    for name in ("a.py", ".venv/b.py", "x/node_modules/c.py", "x/d.ipynb", "x/e.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("", "utf-8")
    assert [path.name for path in walk([tmp_path, tmp_path / "a.py"])] == ["a.py", "d.ipynb"]


def test_a_profile_that_is_named(tmp_path: Path) -> None:
    loop(tmp_path, frame="x[::-1]")
    path = tmp_path / "run.py"
    asked: list[str] = []

    def profile_of(file: str) -> str:
        asked.append(file)
        return "octo"

    result = lint_paths([path], all_checks(), {}, tmp_path, profile_of)
    assert asked == [str(path)]
    assert [one.facts.profile.name for one in result.loops] == ["octo"]
    assert "VD201" not in {finding.code for finding in result.findings}


def test_what_two_loops_share_is_said_once(tmp_path: Path) -> None:
    helper = "import numpy as np\n\ndef turn(x):\n    return np.flipud(x)\n"
    body = LOOP.replace("{top}", "from images import turn").replace("{frame}", "turn(x)")
    text = body.replace("{prompt}", PROMPT).replace("{action}", "action[-1] = 1 - 2 * action[-1]")
    for name, content in (("a.py", text), ("b.py", text), ("images.py", helper)):
        (tmp_path / name).write_text(content, "utf-8")
    result = lint_paths([tmp_path], all_checks(), {}, tmp_path)
    assert len(result.loops) == 2
    assert [finding.code for finding in result.findings].count("VD201") == 1


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("import robosuite\nimport os\nos.environ['MUJOCO_GL'] = 'egl'", ["late-gl"]),
        ("import os\nos.environ['MUJOCO_GL'] = 'egl'\nimport robosuite", []),
        ("from libero.libero import benchmark\nimport os\nos.environ['MUJOCO_GL'] = 'egl'", []),
        ("if TYPE_CHECKING:\n    import mujoco\nimport os\nos.environ['MUJOCO_GL'] = 'egl'", []),
        ("def f():\n    import mujoco\ndef g():\n    os.environ['MUJOCO_GL'] = 'egl'", []),
        ("import torch\ntorch.load = partial(torch.load, weights_only=False)", ["permissive-torch-load"]),
        ("x = torch.load(path, weights_only=False)", []),
        ("model.load_state_dict(state, strict=False)", ["strict-false"]),
        ("print(model.load_state_dict(state, strict=False))", []),
        ("setattr(Model, '_supports_sdpa', True)", ["patched-attention"]),
    ],
)
def test_workarounds(tmp_path: Path, text: str, kinds: list[str]) -> None:
    from vladoctor.lint.workarounds import found

    assert [one.kind for one in found([source(tmp_path / "a.py", text.encode())])] == kinds


@pytest.mark.parametrize(
    ("code", "old", "new"),
    [
        ("VD204", "camera_heights=256, camera_widths=256", "camera_heights=224, camera_widths=224"),
        ("VD701", "torch_dtype=torch.bfloat16", "torch_dtype=torch.float16"),
        ("VD801", "    env.seed(0)\n", ""),
    ],
)
def test_what_only_asks_for_a_look(tmp_path: Path, code: str, old: str, new: str) -> None:
    """It fires where it should, does not where not, and says nothing where the source does not show it."""
    text = LOOP.replace("{top}", "").replace("{frame}", "x[::-1, ::-1]").replace("{prompt}", PROMPT)
    text = text.replace("{action}", "action[-1] = 1 - 2 * action[-1]")
    hidden = text.replace("torch_dtype=torch.bfloat16, ", "").replace(
        "env = OffScreenRenderEnv(bddl_file_name=bddl, camera_heights=256, camera_widths=256)\n    env.seed(0)",
        "env = elsewhere(bddl)",
    )
    states = []
    for name, program in (("bad", text.replace(old, new)), ("good", text), ("hidden", hidden)):
        (tmp_path / f"{name}.py").write_text(program, "utf-8")
        result = lint_paths([tmp_path / f"{name}.py"], all_checks(), {}, tmp_path)
        (found,) = [one for loop in result.loops for one in loop.results if one.code == code]
        states.append((found.state, [one.severity.value for one in found.findings]))
    assert states[0] == ("failed", ["look"])
    assert states[1][1] == []
    assert states[2] == ("abstained", [])


LIMITED = (Path(__file__).parent / "lint" / "vd603" / "too_short_for_long.bad.py").read_text("utf-8")
"""SmolVLA, for which libero_spatial and libero_object end at 280 steps, libero_10 at 520."""


def _limited(suites: str, call: str = "evaluate(SUITE)", top: str = "") -> str:
    """The loop with 280 steps for whatever `suites` names, run by `call`."""
    text = LIMITED.replace('SUITE = "libero_10"', f"{top}SUITE = {suites}").replace("LIMIT = 200", "LIMIT = 280")
    return (
        text.replace("def main():", "def evaluate(name):")
        .replace("[SUITE]", "[name]")
        .replace("    main()", f"    {call}")
    )


OPTION = "import argparse\nparser = argparse.ArgumentParser()\n"
EACH = "for name in SUITE:\n        evaluate(name)"


@pytest.mark.parametrize(
    ("program", "severities"),
    [
        (_limited('["libero_spatial", "libero_object", "libero_10"]', EACH), ["fix"]),
        (_limited("benchmark.get_benchmark_dict()", EACH), ["fix"]),
        (
            _limited(
                "parser.parse_args().suites",
                EACH,
                f'{OPTION}parser.add_argument("--suites", nargs="+", default=["libero_object", "libero_10"])\n',
            ),
            ["fix"],
        ),
        (
            _limited(
                "parser.parse_args().suite",
                top=f'{OPTION}parser.add_argument("--suite", default="libero_object", '
                'choices=["libero_object", "libero_10"])\n',
            ),
            ["look"],
        ),
        (
            _limited("len(os.listdir())", 'evaluate("libero_10") if SUITE else evaluate("libero_object")'),
            ["look"],
        ),
        (_limited('["libero_spatial", "libero_object"]', EACH), []),
        (_limited('"libero_object"'), []),
    ],
    ids=["literals", "the benchmark", "several by default", "an option", "a branch", "right for both", "only one"],
)
def test_a_limit_is_wrong_for_sure_where_a_suite_runs_by_default(
    tmp_path: Path, program: str, severities: list[str]
) -> None:
    """The first suite's limit is right in each of them."""
    (tmp_path / "loop.py").write_text(program, "utf-8")
    result = lint_paths([tmp_path / "loop.py"], all_checks(), {}, tmp_path)
    assert [one.severity.value for one in result.findings if one.code == "VD603"] == severities


UNKNOWN_POLICY = """
import os

from libero.libero import benchmark, get_libero_path
from libero.libero.envs import OffScreenRenderEnv
from ours import load, policy


def main():
    suite = benchmark.get_benchmark_dict()["libero_object"]()
    task = suite.get_task(0)
    path = os.path.join(get_libero_path("bddl_files"), task.problem_folder, task.bddl_file)
    env = OffScreenRenderEnv(bddl_file_name=path, camera_heights=256, camera_widths=256)
    env.reset()
    obs = env.set_init_state(suite.get_task_init_states(0)[0])
    actions = load("demonstration")
{body}

main()
"""


@pytest.mark.parametrize(
    ("body", "asked"),
    [
        ("for action in actions:\n print(policy.predict(obs))\n obs, *_ = env.step(action)", False),
        ("for sample in load('a'):\n a = sample['action']\n print(policy.predict(obs))\n obs, *_ = env.step(a)", False),
        ("for t, a in enumerate(actions):\n print(policy.predict(obs) - a)\n obs, *_ = env.step(a)", False),
        ("for t in range(len(actions)):\n policy.predict(obs)\n obs, *_ = env.step(actions[t])", False),
        ("for one in load('all'):\n for a in one['actions']:\n  policy.predict(obs)\n  obs, *_ = env.step(a)", False),
        ("for t in range(280):\n policy.see()\n obs, *_ = env.step(policy.queue.get())", True),
        ("for t in range(280):\n for a in policy.predict():\n  obs, *_ = env.step(a)", True),
        ("for t in range(280):\n chunk = policy.predict()\n for k in range(5):\n  obs, *_ = env.step(chunk[k])", True),
        ("for a in policy.rollout():\n obs, *_ = env.step(a)", True),
    ],
)
def test_replayed_actions_are_no_policys(tmp_path: Path, body: str, asked: bool) -> None:
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    (tmp_path / "loop.py").write_text(UNKNOWN_POLICY.replace("{body}", lines), "utf-8")
    result = lint_paths([tmp_path / "loop.py"], all_checks(), {}, tmp_path)
    assert any(one.code == "VD601" for one in result.findings) == asked


@pytest.mark.parametrize(
    ("call", "mended"),
    [
        ("cv2.flip(x, 0)", "cv2.flip(x, -1)"),
        ("cv2.flip(x, flipCode=+1)", "cv2.flip(x, flipCode=-1)"),
        ("cv2.flip(x, CODE)", None),  # what else the constant means is not known
    ],
)
def test_a_flip_of_opencv_can_be_mended(tmp_path: Path, call: str, mended: str | None) -> None:
    text = LOOP.replace("{top}", "import cv2\nCODE = 0\n").replace("{frame}", call).replace("{prompt}", PROMPT)
    text = text.replace("{action}", "action[-1] = 1 - 2 * action[-1]")
    (tmp_path / "loop.py").write_text(text, "utf-8")
    result = lint_paths([tmp_path / "loop.py"], all_checks(), {}, tmp_path)
    (found,) = [one for one in result.findings if one.code == "VD201"]
    planned = plan_fixes([found], result.texts, unsafe=True)
    assert [after.decode() for _, after in planned.files.values()] == ([text.replace(call, mended)] if mended else [])
