"""`vladoctor diagnose -- COMMAND` from outside: which programs are watched, what is said, and the exit status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from programs import watched, write

from vladoctor.errors import UserError
from vladoctor.runspec import load_run, recorded_run
from vladoctor.schemas import load_schema
from vladoctor.trace import find_traces, read_episode

pytest.importorskip("gymnasium")

VD101 = ("--select", "VD101")
"""The one check that has something to look at where there is no policy."""

PROGRAM = """
    import sys
    from disc import Disc, roll_out

    print("arguments", sys.argv[1:], "name", __name__)
    for _ in roll_out(Disc(), episodes=2):
        pass
    print("done")
"""


def traces(folder: Path) -> list[str]:
    return [file.stem for file in find_traces(folder, missing_ok=True)]


def report(folder: Path) -> Any:
    return json.loads((folder / "report.json").read_text())


@pytest.mark.parametrize(
    "words",
    [
        ["program.py", "--their", "-x", "--", "args"],
        [sys.executable, "program.py", "--their", "-x", "--", "args"],
        ["-m", "program", "--their", "-x", "--", "args"],
        [sys.executable, "-u", "-m", "program", "--their", "-x", "--", "args"],
        ["bash", "-c", f"{sys.executable} program.py --their -x -- args"],
    ],
    ids=["script", "python script", "-m", "python -m", "shell"],
)
def test_every_way_to_name_a_program(tmp_path: Path, words: list[str]) -> None:
    write(tmp_path, PROGRAM)
    ended = watched(words, tmp_path, *VD101)
    assert ended.status == 0, ended.err
    assert ended.out == "arguments ['--their', '-x', '--', 'args'] name __main__\ndone\n"
    assert len(traces(ended.folder)) == 2
    assert (ended.folder / "report.html").is_file()
    assert "2 episodes" in ended.err
    found = report(ended.folder)
    jsonschema.Draft202012Validator(load_schema("report")).validate(found)
    assert found["run"]["program"]["status"] == 0
    assert found["run"]["versions"]["gymnasium"]


@pytest.mark.parametrize(
    ("form", "file", "in_err"),
    [
        ("sarif", "report.sarif", "2 episodes"),
        ("junit", "junit.xml", "junit.xml"),
        ("github", "report.json", "2 episodes"),
    ],
)
def test_stdout_stays_the_programs_in_every_format(tmp_path: Path, form: str, file: str, in_err: str) -> None:
    write(tmp_path, PROGRAM)
    ended = watched(["program.py"], tmp_path, *VD101, "--output-format", form)
    assert ended.out == "arguments [] name __main__\ndone\n"
    assert (ended.folder / file).stat().st_size > 100
    assert in_err in ended.err


def test_a_console_script_beside_the_interpreter(tmp_path: Path) -> None:
    ended = watched(["vladoctor", "checks"], tmp_path, env={"PATH": "/usr/bin:/bin"})
    assert "VD101" in ended.out


def test_the_main_process_has_plain_names_and_others_their_number(tmp_path: Path) -> None:
    write(tmp_path, PROGRAM)
    write(
        tmp_path,
        """
        import subprocess, sys
        from disc import Disc, roll_out
        subprocess.run([sys.executable, "program.py"], check=True)
        for _ in roll_out(Disc()):
            pass
        """,
        "parent.py",
    )
    ended = watched(["parent.py"], tmp_path)
    names = traces(ended.folder)
    assert [name for name in names if not name.startswith("process")] == ["Disc-ep0"]
    numbers = {name.partition("-")[0] for name in names if name.startswith("process")}
    assert len(names) == 3
    assert len(numbers) == 1


def test_what_exec_started_does_not_overwrite_what_was_before(tmp_path: Path) -> None:
    write(tmp_path, PROGRAM)
    write(
        tmp_path,
        """
        import os, sys
        from disc import Disc, roll_out
        for _ in roll_out(Disc()):
            pass
        os.execv(sys.executable, [sys.executable, "program.py", "second"])
        """,
        "first.py",
    )
    ended = watched(["first.py"], tmp_path)
    assert ended.out == "arguments ['second'] name __main__\ndone\n"
    assert traces(ended.folder) == ["Disc-ep0", "Disc-ep1", "Disc-ep2"]


@pytest.mark.parametrize(
    ("ending", "status"),
    [("sys.exit(7)", 7), ("os._exit(9)", 9), ("os.kill(os.getpid(), 15)", 143), ("1 / 0", 1), ("os.abort()", 134)],
)
def test_the_exit_status_is_the_programs_where_it_fails(tmp_path: Path, ending: str, status: int) -> None:
    # What a program does between its last step and such an end: the thread that writes has to catch up.
    text = "import os, sys, time\nfrom disc import Disc, roll_out\nlist(roll_out(Disc()))\ntime.sleep(0.5)\n"
    write(tmp_path, f"{text}{ending}\n")
    ended = watched(["program.py"], tmp_path)
    assert ended.status == status, ended.err
    (trace,) = find_traces(ended.folder)
    assert len(read_episode(trace).steps) == 5
    assert report(ended.folder)["run"]["program"]["status"] == status
    assert f"Exit status {status}: " in ended.err


def test_findings_are_the_exit_status_unless_the_programs_is_asked_for(tmp_path: Path) -> None:
    write(
        tmp_path,
        """
        import numpy as np
        from disc import Disc, roll_out

        class Dark(Disc):
            def draw(self):
                return np.zeros((48, 48, 3), np.uint8)

        list(roll_out(Dark()))
        """,
    )
    ended = watched(["program.py"], tmp_path)
    assert ended.status == 1
    assert "VD101" in ended.err
    again = watched(["program.py"], tmp_path, *VD101, "--exit-status", "program", out="again")
    assert again.status == 0
    assert "VD101" in again.err
    unseen = watched(["program.py"], tmp_path, "--ignore", "VD101", "--format", "json", out="unseen")
    assert unseen.status in (0, 3)
    assert unseen.out == ""
    assert unseen.err.splitlines() == ["Report: unseen/report.html", "Report: unseen/report.json"]


def test_a_python_that_ignores_its_environment(tmp_path: Path) -> None:
    write(tmp_path, PROGRAM)
    ended = watched([sys.executable, "-I", "-c", "print('hello')"], tmp_path)
    assert (ended.status, ended.out) == (3, "hello\n")
    assert "nothing was attached" in ended.err
    assert "vladoctor.watch()" in " ".join(ended.err.split())


def test_a_python_without_vladoctor(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    ended = watched([python, "-c", "print('hello')"], tmp_path)
    assert (ended.status, ended.out) == (3, "hello\n")
    said = " ".join(ended.err.split())
    assert f"{python} is not watched: it has no vladoctor" in said
    assert f"{python} -m pip install vladoctor" in said


@pytest.mark.parametrize(
    ("program", "said"),
    [("print(1)", "without numpy"), ("import gymnasium", "taps were on gymnasium.core"), ("import numpy", "numpy; no")],
)
def test_nothing_recorded_says_what_was_seen(tmp_path: Path, program: str, said: str) -> None:
    write(tmp_path, program)
    ended = watched(["program.py"], tmp_path)
    assert ended.status == 3
    assert said in " ".join(ended.err.split())


def test_environments_in_worker_processes_are_set_aside(tmp_path: Path) -> None:
    """The policy's process sees every step of them."""
    write(
        tmp_path,
        """
        import gymnasium, numpy as np
        from disc import Disc
        from vladoctor.records import Query
        from vladoctor.taps.watch import current

        if __name__ == "__main__":
            envs = gymnasium.vector.AsyncVectorEnv([Disc, Disc])
            envs.reset(seed=0)
            for _ in range(4):
                current().asked_all([Query(action=(0.1, 0.2)), Query(action=(0.3, 0.4))])
                envs.step(np.array([[0.1, 0.2], [0.3, 0.4]], np.float32))
            envs.close()
        """,
    )
    ended = watched(["program.py"], tmp_path)
    assert ended.status in (0, 3), ended.err
    found = report(ended.folder)
    judged = [episode["trace"] for episode in found["episodes"]]
    assert len(judged) == 2
    assert not any("process" in name for name in judged)
    recorded = [read_episode(file) for file in find_traces(ended.folder)]
    assert len([episode for episode in recorded if "process" in Path(episode.source).stem]) == 2
    assert not any(episode.truncated for episode in recorded)
    assert any("2 recordings of environments in processes below" in note for note in found["notes"])


def test_without_a_known_policy_an_episode_of_a_vector_environment_counts_once(tmp_path: Path) -> None:
    write(
        tmp_path,
        """
        import gymnasium, numpy as np
        from disc import Disc

        if __name__ == "__main__":
            envs = gymnasium.vector.AsyncVectorEnv([Disc, Disc])
            envs.reset(seed=0)
            for _ in range(4):
                envs.step(np.array([[0.1, 0.2], [0.3, 0.4]], np.float32))
            envs.close()
        """,
    )
    found = report(watched(["program.py"], tmp_path).folder)
    assert len(found["episodes"]) == 2
    assert all("process" in episode["trace"] for episode in found["episodes"])
    assert any("2 recordings of a vector environment whose" in note for note in found["notes"])


def test_a_run_file_with_a_command(tmp_path: Path) -> None:
    write(tmp_path, PROGRAM)
    (tmp_path / "run.yaml").write_text("loop: {command: [program.py, --x]}\nchecks: {select: [VD101]}\n")
    ended = diagnose(tmp_path, "run.yaml")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "arguments ['--x'] name __main__\ndone\n"
    found = report(tmp_path / "reports" / "run")
    assert found["run"]["spec"]["loop"]["command"] == ["program.py", "--x"]
    again = subprocess.run(
        [sys.executable, "-m", "vladoctor", "replay", "reports/run/traces", "--format", "json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 0, again.stderr
    assert len(json.loads(again.stdout)["episodes"]) == 2


def test_a_run_file_with_a_callable(tmp_path: Path) -> None:
    write(
        tmp_path,
        """
        from disc import Disc, roll_out

        class Evaluation:
            @staticmethod
            def run(episodes, name="nobody"):
                print(name, sum(1 for _ in roll_out(Disc(), episodes)))
                return {"this": "does not matter"}
        """,
        "mine.py",
    )
    text = "loop: {callable: 'mine:Evaluation.run', arguments: {episodes: 3, name: disc}}\nchecks: {select: [VD101]}\n"
    (tmp_path / "run.yaml").write_text(text)
    ended = diagnose(tmp_path, "run.yaml")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "disc 15\n"
    assert [check["code"] for check in report(tmp_path / "reports" / "run")["summary"]["checks"]] == ["VD101"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("loop: {command: [a], callable: 'a:b'}", "loop: a loop is either a `command` or a `callable`"),
        ("loop: {}", "loop: a loop is either a `command` or a `callable`"),
        ("loop: {command: [a]}\nmodel: {path: m}", "model: this cannot stand beside `loop`"),
        ("loop: {command: [a]}\nfault: flip-vertical", "fault: this cannot stand beside `loop`"),
        ("loop: {command: [a, 1]}", 'quote it: "1"'),
        ("loop: {command: a b}", "loop.command: must be a list of words"),
        ("loop: {callable: abc}", "loop.callable: must be package.module:function"),
        ("lop: {command: [a]}", "did you mean `loop`?"),
        ("profile: {}", "model: this key is missing"),
    ],
)
def test_mistakes_in_a_loop(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        load_run(tmp_path / "run.yaml")
    assert said in str(caught.value)


def test_a_loop_is_recorded_as_it_was_read(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("loop: {callable: 'a.b:c.d', arguments: {x: [1, null]}}\nchecks: {ignore: [VD402]}\n")
    spec = load_run(file)
    recorded = recorded_run(spec.to_json())
    assert recorded is not None
    assert recorded.loop == spec.loop
    assert recorded.to_json() == spec.to_json()
    with pytest.raises(UserError, match="a loop of its own"):
        spec.own_loop()
    with pytest.raises(UserError, match="cannot be said of a loop"):
        spec.with_options(episodes=3)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--", "no-such-program"], "there is no program no-such-program"),
        (["--", "./notes.txt"], "./notes.txt is not a program"),
        (["--"], "name a run file, or a command"),
        ([], "name a run file, or a command"),
        (["eval.py"], "vladoctor diagnose -- eval.py"),
        (["demo", "--", "eval.py"], "a run file and a command"),
        (["--device", "cuda", "--", "eval.py"], "--device"),
        (["--profile", "nobody", "--", "eval.py"], "--profile"),
    ],
)
def test_mistakes_on_the_command_line(tmp_path: Path, words: list[str], said: str) -> None:
    (tmp_path / "notes.txt").write_text("notes")
    ended = diagnose(tmp_path, *words)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


def test_signals_reach_the_program(tmp_path: Path) -> None:
    write(
        tmp_path,
        """
        import signal, sys, time
        from disc import Disc, roll_out

        def leave(number, frame):
            print("asked to leave", flush=True)
            sys.exit(5)

        signal.signal(signal.SIGTERM, leave)
        list(roll_out(Disc()))
        print("ready", flush=True)
        for _ in range(600):
            time.sleep(0.1)  # a signal that comes just before one long sleep would wait for its end
        """,
    )
    process = start(tmp_path, "--", "program.py")
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (out, process.returncode) == ("asked to leave\n", 5), err


def test_the_keyboards_interrupt_is_the_programs(tmp_path: Path) -> None:
    write(
        tmp_path,
        """
        import time
        from disc import Disc, roll_out

        env = Disc()
        steps = roll_out(env)
        next(steps), next(steps)
        print("ready", flush=True)
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            print("interrupted once", flush=True)
        print(sum(1 for _ in steps))
        """,
    )
    process = start(tmp_path, *VD101, "--", "program.py", start_new_session=True)
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert out == "interrupted once\n3\n"
    assert process.returncode == 0, err


def diagnose(cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vladoctor", "diagnose", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def start(cwd: Path, *words: str, **options: Any) -> Any:
    command = [sys.executable, "-m", "vladoctor", "diagnose", *words]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
