"""The observer's promise (docs/observer.md): a program does the same, watched and unwatched."""

from __future__ import annotations

import gc
import inspect
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from programs import DISC, Ended, bare, watched, write

import vladoctor
from vladoctor.taps.watch import current
from vladoctor.trace import find_traces, read_episode

gymnasium = pytest.importorskip("gymnasium")

CLIENTS = Path(__file__).resolve().parent / "clients"


def both(tmp_path: Path, program: str, *arguments: str, **options: Any) -> tuple[Ended, Ended]:
    """A program's end without and with the taps."""
    write(tmp_path, program)
    words = [sys.executable, "program.py", *arguments]
    return bare(words, tmp_path, **options), watched(words, tmp_path, "--exit-status", "program", **options)


def steps(folder: Path) -> int:
    return sum(len(read_episode(trace).steps) for trace in find_traces(folder))


# --- What it computes, prints and raises ---


def test_random_states_and_actions_are_equal_after_every_step(tmp_path: Path) -> None:
    program = """
        import random
        import gymnasium
        import numpy as np
        from disc import Disc, roll_out, states

        random.seed(1), np.random.seed(2)
        for env in roll_out(gymnasium.wrappers.TimeLimit(Disc(), 4), episodes=3):
            print(env.unwrapped.place.tobytes().hex(), env.unwrapped.draw().sum(), random.random(), states())
    """
    alone, with_taps = both(tmp_path, program)
    assert alone.out == with_taps.out
    assert alone.out.count("\n") == 12
    assert alone.status == with_taps.status == 0
    assert steps(with_taps.folder) == 12


@pytest.mark.torch
def test_torchs_random_state_is_equal_after_every_step(tmp_path: Path) -> None:
    program = """
        import random
        import numpy as np
        import torch
        from disc import Disc, roll_out, states

        random.seed(1), np.random.seed(2), torch.manual_seed(3)
        for env in roll_out(Disc()):
            print(torch.rand(()).item(), states())
    """
    alone, with_taps = both(tmp_path, program)
    assert alone.out == with_taps.out
    assert alone.out.count("\n") == 5


def test_bytes_on_stdout_stdin_and_stderr(tmp_path: Path) -> None:
    program = """
        import logging, os, sys
        from disc import Disc, roll_out

        logging.basicConfig(stream=sys.stdout, level=logging.DEBUG)
        for _ in roll_out(Disc()):
            sys.stdout.buffer.write(b"\\xff\\x00\\r\\n")
        os.write(1, b"from below\\n")
        print(sys.stdin.read(), file=sys.stderr)
    """
    write(tmp_path, program)
    command = [sys.executable, "program.py"]
    alone = subprocess.run(command, cwd=tmp_path, input=b"given\n", capture_output=True, check=True)
    diagnose = [
        sys.executable,
        "-m",
        "vladoctor",
        "diagnose",
        "--exit-status",
        "program",
        "--out",
        "watched",
        "--",
        *command,
    ]
    with_taps = subprocess.run(diagnose, cwd=tmp_path, input=b"given\n", capture_output=True, check=True)
    assert alone.stdout == with_taps.stdout
    assert with_taps.stderr.startswith(alone.stderr)


def test_exceptions_arrive_with_type_traceback_and_context(tmp_path: Path) -> None:
    """The wrappers' frames stand between the program's; nothing else is different."""
    program = """
        from disc import Disc, roll_out

        class Broken(KeyError):
            pass

        try:
            list(roll_out(Disc(fail_at=2)))
        except RuntimeError as error:
            raise Broken("seen") from error
    """
    alone, with_taps = both(tmp_path, program)
    assert alone.status == with_taps.status == 1
    assert alone.err == "".join(_without_our_frames(with_taps.err))
    (episode,) = [read_episode(trace) for trace in find_traces(with_taps.folder)]
    assert (episode.outcome.ended, episode.outcome.error) == ("exception", "RuntimeError: the arm fell off")


def _without_our_frames(text: str) -> list[str]:
    """A traceback and nothing behind it; two frames of vladoctor for every call that is watched are taken out."""
    lines = text[: text.index("\nvladoctor ")].splitlines(keepends=True)
    kept: list[str] = []
    ours = False
    for line in lines:
        if line.startswith("  File "):
            ours = "/vladoctor/taps/" in line
        elif not line.startswith("    "):
            ours = False
        if not ours:
            kept.append(line)
    return kept


def test_an_exception_object_is_passed_on_itself() -> None:
    error = RuntimeError("mine")

    class Raising(_disc()):  # type: ignore[misc]
        def step(self, action: Any) -> Any:
            raise error

    with vladoctor.watch() as doctor:
        env = Raising()
        env.reset(seed=0)
        with pytest.raises(RuntimeError) as caught:
            env.step(np.zeros(2))
    assert caught.value is error
    assert error.__cause__ is None
    assert error.__context__ is None
    assert [frame.name for frame in caught.traceback][-1] == "step"
    assert len(doctor.diagnoses) == 1


def test_results_are_the_same_objects() -> None:
    answer = (np.zeros((32, 32, 3), np.uint8), 1.0, False, False, {})

    class Same(_disc()):  # type: ignore[misc]
        def step(self, action: Any) -> Any:
            self.given = action
            return answer

    with vladoctor.watch():
        env, action = Same(), np.zeros(2)
        env.reset(seed=0)
        assert env.step(action) is answer
        assert env.given is action


# --- What it sees of itself ---


def test_what_python_tells_a_program_of_itself(tmp_path: Path) -> None:
    program = """
        import os, sys
        print(sys.path, sys.argv, __name__, __file__, sys.flags, sys.gettrace(), sys.getprofile())
        print([name for name in ("numpy", "wrapt", "logging", "multiprocessing") if name in sys.modules])
        print({name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VLADOCTOR_WATCH")})
        try:
            import sitecustomize
        except ImportError as error:
            print(repr(error), error.name)
        from disc import Disc, roll_out
        import importlib.resources, inspect, pkgutil
        print(importlib.resources.files("numpy"), inspect.getsourcefile(gymnasium.Env), np.__spec__, np.__loader__.path)
        print(inspect.signature(Disc.step), Disc.step.__qualname__, Disc.step.__doc__, Disc.step.__module__)
        print(inspect.getsource(Disc.step))
        list(roll_out(Disc()))
    """.replace("from disc import", "import gymnasium, numpy as np\n        from disc import")
    write(tmp_path, program)
    words = [sys.executable, "program.py", "x"]
    # A variable that vladoctor sets for its own process must not be passed on.
    shell = ["env", "-u", "OPENBLAS_NUM_THREADS"]
    alone = bare([*shell, *words], tmp_path)
    run = [*shell, sys.executable, "-m", "vladoctor", "diagnose", "--out", "watched", "--", *words]
    with_taps = bare(run, tmp_path)
    assert "OPENBLAS_NUM_THREADS" not in with_taps.out
    assert re.sub("0x[0-9a-f]+", "", alone.out) == re.sub("0x[0-9a-f]+", "", with_taps.out)


def test_a_sitecustomize_of_the_users_own_is_run(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text("import sys\nsys.mark = __file__\n")
    write(tmp_path, "import sys, sitecustomize\nprint(sys.mark, sitecustomize.__file__, sys.path)\n")
    words, env = [sys.executable, "program.py"], {"PYTHONPATH": "site"}
    alone, with_taps = bare(words, tmp_path, env=env), watched(words, tmp_path, env=env)
    assert alone.out == with_taps.out
    assert alone.out.count(str(Path("site") / "sitecustomize.py")) == 2


def test_an_empty_pythonpath_stays_empty(tmp_path: Path) -> None:
    """An empty entry would be the current folder."""
    (tmp_path / "elsewhere").mkdir()
    write(tmp_path, "import sys\nprint(sys.path)\n", "elsewhere/program.py")
    words, env = [sys.executable, "elsewhere/program.py"], {"PYTHONPATH": ""}
    assert bare(words, tmp_path, env=env).out == watched(words, tmp_path, env=env).out


def test_a_terminal_stays_a_terminal(tmp_path: Path) -> None:
    write(tmp_path, "import os\nprint([os.isatty(n) for n in range(3)], os.getpgrp() == os.getpgid(os.getppid()))\n")
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "vladoctor", "diagnose", "--out", "watched", "--", "program.py"]
    process = subprocess.Popen(command, cwd=tmp_path, stdin=follower, stdout=follower, stderr=subprocess.PIPE)
    process.communicate(timeout=60)
    os.close(follower)
    assert os.read(leader, 1000) == b"[True, True, False] True\r\n"
    os.close(leader)


def test_files_that_the_shell_opens_for_it_stay_open(tmp_path: Path) -> None:
    write(tmp_path, "import sys\nfrom pathlib import Path\nprint(Path(sys.argv[1]).read_text())\n")
    line = f"{sys.executable} -m vladoctor diagnose --out watched -- {sys.executable} program.py <(echo through a pipe)"
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "through a pipe\n\n"


# --- Its end ---


@pytest.mark.parametrize("ending", ["sys.exit(7)", "os._exit(9)", "sys.exit('a sentence')", "raise KeyboardInterrupt"])
def test_how_it_ends(tmp_path: Path, ending: str) -> None:
    program = f"import os, sys\nfrom disc import Disc, roll_out\nlist(roll_out(Disc()))\n{ending}\n"
    alone, with_taps = both(tmp_path, program)
    assert alone.out == with_taps.out
    expected = alone.status if alone.status >= 0 else 128 - alone.status
    assert with_taps.status == expected
    assert with_taps.err.startswith(alone.err)


def test_sigterm_ends_it_as_ever_and_the_trace_is_readable(tmp_path: Path) -> None:
    process = _started(tmp_path, "")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, err
    assert "ended by SIGTERM" in err
    (trace,) = find_traces(tmp_path / "watched")
    episode = read_episode(trace)
    assert episode.truncated
    assert len(episode.steps) == 3


def test_handlers_of_its_own_are_kept(tmp_path: Path) -> None:
    process = _started(
        tmp_path,
        """
        def leave(number, frame):
            print(frame.f_code.co_name, signal.Signals(number).name)
            sys.exit(3)

        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, leave)
        """,
    )
    process.send_signal(signal.SIGHUP)
    out, err = process.communicate(timeout=60)
    assert (out, process.returncode) == ("<module> SIGHUP\n", 3), err


def _started(tmp_path: Path, text: str) -> Any:
    """A watched program in the middle of an episode, three steps of which it has made."""
    write(
        tmp_path,
        f"import signal, sys, time\nfrom disc import Disc, roll_out\n{inspect.cleandoc(text)}\n"
        "steps = roll_out(Disc())\nnext(steps), next(steps), next(steps)\n"
        "time.sleep(0.5)\nprint('ready', flush=True)\ntime.sleep(60)\n",
    )
    command = [sys.executable, "-m", "vladoctor", "diagnose", "--out", "watched", "--", "program.py"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


# --- What is left of it ---


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    kind = _disc()
    wrapper, vector = gymnasium.wrappers.TimeLimit, gymnasium.vector.SyncVectorEnv
    classes = [kind, gymnasium.Env, gymnasium.Wrapper, wrapper, vector, gymnasium.vector.VectorEnv]
    gc.collect()
    before = [dict(vars(one)) for one in classes]
    threads, handles, hook = threading.enumerate(), _handles(), sys.excepthook
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    for folder in (None, tmp_path / "kept"):
        with vladoctor.watch(out=folder) as doctor:
            assert vars(kind)["step"] is not before[0]["step"]
            _roll(wrapper(kind(), 4))

            class Later(kind):  # type: ignore[misc, valid-type]
                def step(self, action: Any) -> Any:
                    return super().step(action)

            _roll(Later())
        assert len(doctor.diagnoses) == 2
        assert [dict(vars(one)) for one in classes] == before
        assert not hasattr(Later.step, "__wrapped__")
        assert current() is None
        assert threading.enumerate() == threads
        assert _handles() == handles
    assert sys.excepthook is hook
    assert {number: signal.getsignal(number) for number in signal.valid_signals()} == handlers
    assert len(find_traces(tmp_path / "kept")) == 2


def _handles() -> list[str]:
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.append(f"{entry.name} {entry.readlink()}")
        except OSError:
            continue
    return sorted(found)


def test_a_reference_kept_to_a_wrapper_is_a_plain_call_afterwards() -> None:
    kind = _disc()
    with vladoctor.watch() as doctor:
        kept = kind.step
        env = kind()
        bound = env.step
        env.reset(seed=0)
        bound(np.zeros(2))
    recorded = len(doctor.diagnoses[0].episode.steps)
    assert bound(np.zeros(2))[4] == {"count": 2}
    assert kept(env, np.zeros(2))[4] == {"count": 3}
    assert recorded == len(doctor.diagnoses[0].episode.steps) == 1


def test_methods_look_the_same_while_they_are_watched() -> None:
    kind = _disc()
    before = [(inspect.signature(f), f.__qualname__, f.__doc__, f.__module__) for f in (kind.step, kind.reset)]
    with vladoctor.watch():
        assert inspect.isfunction(kind.step)
        assert inspect.ismethod(kind().step)
        during = [(inspect.signature(f), f.__qualname__, f.__doc__, f.__module__) for f in (kind.step, kind.reset)]
        assert set(kind.__dict__) == set(vars(kind))
    assert during == before


def test_environments_are_copied_and_pickled_while_they_are_watched(tmp_path: Path) -> None:
    program = """
        import copy, pickle, sys
        import cloudpickle
        from disc import Disc, roll_out

        class Mine(Disc):
            def step(self, action):
                return super().step(action)

        env = Mine()
        list(roll_out(env))
        for kind, make in (("pickle", pickle), ("cloudpickle", cloudpickle)):
            again = make.loads(make.dumps(env))
            print(kind, type(again) is Mine, sum(1 for _ in roll_out(again)))
            print(kind, make.loads(make.dumps(env.step))([0, 0])[4], make.loads(make.dumps(Mine)) is Mine)
        print(sum(1 for _ in roll_out(copy.deepcopy(env))), len(pickle.dumps(env)))
        # By value, as a class of __main__ goes to a process that cannot import it.
        sys.modules["__main__"].Mine = None
        print(sum(1 for _ in roll_out(cloudpickle.loads(cloudpickle.dumps(env)))))
    """
    pytest.importorskip("cloudpickle")
    alone, with_taps = both(tmp_path, program)
    assert alone.err == ""
    assert with_taps.out == alone.out
    assert steps(with_taps.folder) > 25


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes_of_multiprocessing(tmp_path: Path, method: str) -> None:
    program = """
        import multiprocessing, sys
        from disc import Disc, roll_out

        class Mine(Disc):
            pass

        def work(env, queue):
            queue.put([float(one.place[0]) for one in roll_out(env)])

        if __name__ == "__main__":
            context = multiprocessing.get_context(sys.argv[1])
            queue = context.Queue()
            list(roll_out(Mine()))
            workers = [context.Process(target=work, args=(Mine(), queue)) for _ in range(2)]
            for worker in workers:
                worker.start()
            print([queue.get() for _ in workers])
            for worker in workers:
                worker.join()
            print([worker.exitcode for worker in workers])
    """
    alone, with_taps = both(tmp_path, program, method)
    assert with_taps.out == alone.out
    assert with_taps.err.startswith(alone.err)
    episodes = [read_episode(trace) for trace in find_traces(with_taps.folder)]
    assert [len(episode.steps) for episode in episodes] == [5, 5, 5]
    assert not any(episode.truncated for episode in episodes)
    assert len({episode.run["process"] for episode in episodes}) == 3


def test_a_fork_finds_no_thread_of_ours(tmp_path: Path) -> None:
    """Python 3.12 and later warn of it, and a child would inherit the locks that it holds."""
    program = """
        import os
        from disc import Disc, roll_out

        threads = len(os.listdir("/proc/self/task"))
        seen = []
        os.register_at_fork(after_in_parent=lambda: seen.append(len(os.listdir("/proc/self/task")) - threads))
        for _ in range(5):
            list(roll_out(Disc()))
            child = os.fork()
            if not child:
                print(sum(1 for _ in roll_out(Disc())), flush=True)
                os._exit(0)
            os.waitpid(child, 0)
        print(seen)
    """
    alone, with_taps = both(tmp_path, program)
    assert alone.out == with_taps.out == "5\n" * 5 + "[0, 0, 0, 0, 0]\n"
    assert with_taps.err.startswith(alone.err)
    assert "Warning" not in with_taps.err.partition("vladoctor 0")[0]


# --- What goes wrong on our side ---


def test_an_adapter_that_raises_does_not_reach_the_program() -> None:
    def broken(value: Any) -> Any:
        raise ValueError("the adapter is broken")

    kind = _disc()
    for part in ("read_step", "read_reset", "frames", "proprio", "describe"):
        adapter = vladoctor.EnvAdapter("mine", **{part: broken})
        with vladoctor.watch() as doctor:
            env = doctor.watch_env(kind(), adapter)
            assert _roll(env) == [1, 2, 3, 4, 5]
        assert doctor.result is not None
        assert any("the adapter is broken" in note for note in (*doctor.result.notes, *_notes(doctor))), part
        assert "__wrapped__" not in vars(kind.step)


def _notes(doctor: Any) -> list[str]:
    return [note for diagnosis in doctor.diagnoses for note in diagnosis.episode.notes]


def test_a_check_that_raises_does_not_reach_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    def judge(*_: Any) -> Any:
        raise ValueError("judging is broken")

    monkeypatch.setattr("vladoctor.session.judge", judge)
    with vladoctor.watch() as doctor:
        _roll(_disc()())
    assert doctor.result is not None
    assert "judging is broken" in doctor.result.failures[0]
    assert doctor.diagnoses == ()


@pytest.mark.parametrize("limit", [0, 1000, 20_000])
def test_a_full_disk_does_not_reach_the_program(tmp_path: Path, limit: int) -> None:
    """A limit on the size of files, from the first import on or from the first trace on."""
    program = f"""
        import resource
        import numpy as np
        from disc import Disc, roll_out

        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
        print(sum(1 for _ in roll_out(Disc(), episodes=40)))
    """
    alone, with_taps = both(tmp_path, program)
    assert (with_taps.out, with_taps.status) == (alone.out, 0) == ("200\n", 0)


def test_a_folder_that_cannot_be_written_to_does_not_reach_the_program(tmp_path: Path) -> None:
    program = """
        from pathlib import Path
        import shutil
        shutil.rmtree("watched")
        Path("watched").write_text("a file")
        from disc import Disc, roll_out
        print(sum(1 for _ in roll_out(Disc())))
    """
    write(tmp_path, program)
    ended = watched(["program.py"], tmp_path, "--exit-status", "program")
    assert ended.out == "5\n"
    assert "Traceback" not in ended.err.partition("vladoctor 0")[0]


# --- In a real loop ---


@pytest.mark.simulator
@pytest.mark.torch
@pytest.mark.slow
def test_the_official_evaluation_does_the_same_to_the_bit(tmp_path: Path) -> None:
    """The client in `clients/official`, with what it executes and the random states printed at every step."""
    made = [sys.executable, CLIENTS / "libero_home.py", tmp_path / "home"]
    exports = bare(made, tmp_path).out.splitlines()
    env = dict(shlex.split(line)[1].split("=", 1) for line in exports)
    env["PYTHONPATH"] = str(CLIENTS / "official")
    write(
        tmp_path,
        """
        import hashlib
        import numpy as np
        from disc import states
        import run_libero_eval as client
        from libero.libero.envs import OffScreenRenderEnv

        step = OffScreenRenderEnv.step

        def shown(self, action):
            result = step(self, action)
            frame = result[0]["agentview_image"]
            print(np.asarray(action, np.float64).tobytes().hex(), hashlib.sha256(frame.tobytes()).hexdigest(), states())
            return result

        OffScreenRenderEnv.step = shown
        client.eval_libero(client.parse_args())
        """,
    )
    arguments = [
        "--pretrained_checkpoint",
        CLIENTS.parents[1] / "fixtures" / "tiny-openvla",
        "--task_id",
        "0",
        "--num_trials",
        "1",
        "--max_steps",
        "4",
    ]
    words = [sys.executable, "program.py", *arguments]
    alone = bare(words, tmp_path, env=env)
    with_taps = watched(words, tmp_path, "--exit-status", "program", env=env)
    assert alone.status == with_taps.status == 0, with_taps.err

    def lines(text: str) -> list[str]:
        return [line for line in text.splitlines() if re.match("[0-9a-f]{64} ", line) or len(line) > 200]

    assert len(lines(alone.out)) >= 14
    assert lines(alone.out) == lines(with_taps.out)
    (trace,) = find_traces(with_taps.folder)
    assert sum(1 for _ in read_episode(trace).queries()) == 4


def _disc() -> Any:
    """The class of `programs.DISC`, made anew, so that no test sees another's wrappers."""
    module: dict[str, Any] = {"__name__": __name__}
    exec(compile(DISC, "disc.py", "exec"), module)
    return module["Disc"]


def _roll(env: Any) -> list[int]:
    env.reset(seed=0)
    counts, over = [], False
    while not over:
        *_, terminated, truncated, info = env.step(np.zeros(2))
        counts.append(info["count"])
        over = terminated or truncated
    return counts
