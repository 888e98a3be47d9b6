"""Loops that know nothing of vladoctor, run as they are: what is seen of each, what is said, what watching costs.

    python benchmarks/clients.py --write docs/evidence.md [--python clients=PYTHON] [--python lerobot=PYTHON]

The programs are those of tests/clients, whose NOTES.md and README.md say what they need; `--python NAME=PYTHON` names
the interpreter of an environment that has it. Each is run bare and under `vladoctor diagnose --`, in turns; step times
are taken by `step_timer.py` in both, from one entry of the environment's `step` to the next. What has its result below
--out is not run again. `--faults` runs `official`, `one_file` and `openpi` with every fault that `with_fault.py` can
make there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from evidence import write_section

ROOT = Path(__file__).resolve().parents[1]
CLIENTS = ROOT / "tests" / "clients"
CHECKPOINT = ROOT / "fixtures" / "tiny-openvla"
TIMER = Path(__file__).resolve().parent / "step_timer.py"
LIBERO = "libero.libero.envs.env_wrapper:ControlEnv"
VECTOR = "gymnasium.vector.sync_vector_env:SyncVectorEnv"


@dataclass(frozen=True)
class Client:
    """A program and how to run it.

    Attributes:
        python: name of the environment that has its packages.
        command: script and arguments; a script without folder is a console script of that environment.
        server: script and arguments of a server that it needs; it prints "serving on ..." with its port.
        timed: module:class of the environment whose `step` is timed; "" for none.
        steps: number of steps of the environment in which nothing is asked of the policy, at the start of an episode.
    """

    name: str
    what: str
    command: Sequence[str]
    python: str = "main"
    server: Sequence[str] = ()
    timed: str = LIBERO
    settle: int = 10
    needs: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


def clients(steps: int, folder: Path) -> list[Client]:
    """All clients, each for `steps` policy steps."""
    checkpoint, most = str(CHECKPOINT), str(steps)
    lerobot = ["--policy.device=cpu", "--env.type=libero", "--env.task=libero_object", "--env.task_ids=[0]"]
    lerobot += [f"--env.episode_length={steps}"]

    def eval_of(kind: str, size: int) -> list[str]:
        return [
            "lerobot-eval",
            f"--policy.path={folder / f'policy-{kind}'}",
            *lerobot,
            f"--eval.batch_size={size}",
            f"--eval.n_episodes={size}",
            "--output_dir={out}",
        ]

    official = ["official/run_libero_eval.py", "--pretrained_checkpoint", checkpoint, "--task_id", "0"]
    official += ["--num_trials", "1", "--init_offset", "30", "--max_steps", most]
    slurm = {"SLURM_JOB_ID": "1"}  # lerobot-eval draws no progress bars then
    return [
        Client("official", "official OpenVLA evaluation's shape, three helper modules", official),
        Client(
            "one_file",
            "one file, `generate` and decoding by hand",
            ["one_file.py", "--checkpoint", checkpoint, "--first", "30", "--max-steps", most],
        ),
        Client(
            "gym-vector-sync",
            "Gymnasium SyncVectorEnv, 4 pixel environments, scripted policy",
            ["gym_vector.py", "--episodes", "4"],
            timed=VECTOR,
            settle=0,
        ),
        Client(
            "gym-vector-async",
            "Gymnasium AsyncVectorEnv, 2 LIBERO environments in processes of their own",
            [
                "gym_vector.py",
                "--env",
                "libero",
                "--num-envs",
                "2",
                "--vectorization",
                "async",
                "--policy",
                "openvla",
                "--checkpoint",
                checkpoint,
                "--episodes",
                "2",
                "--max-steps",
                most,
            ],
            timed="gymnasium.vector.async_vector_env:AsyncVectorEnv",
            settle=0,
        ),
        Client("old-gym", "gym 0.26, four values from `step`", ["old_gym.py"], "clients", timed="", needs="gym"),
        Client("dm_env", "dm_env, two pictures a step", ["dm_env_loop.py"], "clients", timed="", needs="dm_env"),
        Client(
            "openpi",
            "openpi-client against a websocket server in another process; the client is watched",
            ["openpi_eval.py", "--port", "{port}", "--max-steps", most],
            "clients",
            ["openpi_server.py", "--policy", "openvla", "--checkpoint", checkpoint, "--port", "0"],
            needs="openpi_client",
        ),
        Client(
            "act",
            "REST /act with requests and json_numpy; the client is watched",
            ["act_eval.py", "--url", "http://127.0.0.1:{port}/act", "--max-steps", most],
            "clients",
            ["act_server.py", "--checkpoint", checkpoint, "--port", "0"],
            needs="json_numpy",
        ),
        Client(
            "lerobot-smolvla",
            "`lerobot-eval` 0.4.4, SmolVLA with random weights",
            eval_of("smolvla", 1),
            "lerobot",
            needs="lerobot",
            environment=slurm,
        ),
        Client(
            "lerobot-smolvla-2",
            "the same, two environments in a vector",
            eval_of("smolvla", 2),
            "lerobot",
            timed=VECTOR,
            settle=0,
            needs="lerobot",
            environment=slurm,
        ),
        Client(
            "lerobot-act",
            "`lerobot-eval` 0.4.4, ACT with random weights",
            eval_of("act", 1),
            "lerobot",
            needs="lerobot",
            environment=slurm,
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="clients; all by default")
    parser.add_argument("--python", action="append", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--steps", type=int, default=40, help="policy steps of a run")
    parser.add_argument("--repeats", type=int, default=3, help="bare and watched runs of each, in turns")
    parser.add_argument("--faults", action="store_true", help="the faults instead of the healthy clients")
    parser.add_argument("--workers", type=int, default=1, help="programs at a time, for the faults")
    parser.add_argument("--out", type=Path, default=Path("reports/clients"))
    parser.add_argument("--write", type=Path, help="Markdown file whose sections are replaced")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    pythons = {"main": sys.executable, **dict(pair.split("=", 1) for pair in arguments.python)}
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(out, pythons, Path(scratch), arguments.steps)
        if arguments.faults:
            text, name = fault_table(bench, arguments.workers), "client-faults"
        else:
            chosen = [
                one for one in clients(arguments.steps, out) if not arguments.names or one.name in arguments.names
            ]
            text, name = table([bench.client(one, arguments.repeats) for one in chosen], arguments), "clients"
    print(text)
    if arguments.write:
        write_section(arguments.write, name, text)


class Bench:
    """Runs clients, each result once."""

    def __init__(self, out: Path, pythons: Mapping[str, str], scratch: Path, steps: int) -> None:
        self.out, self.pythons, self.steps = out, dict(pythons), steps
        out.mkdir(parents=True, exist_ok=True)
        home = subprocess.run(
            [self.pythons["main"], str(CLIENTS / "libero_home.py"), str(scratch / "home")],
            capture_output=True,
            text=True,
            check=True,
        )
        pairs = (line.removeprefix("export ").split("=", 1) for line in home.stdout.splitlines() if "=" in line)
        threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        self.environment = {**os.environ, **threads, **{name: value.strip("'\"") for name, value in pairs}}

    def client(self, client: Client, repeats: int) -> dict[str, Any]:
        """The result of a client, from an earlier run if there is one."""
        path = self.out / f"{client.name}.json"
        if path.is_file():
            return dict(json.loads(path.read_text("utf-8")))
        python = self.pythons.get(client.python)
        lacking = not python or (client.needs and not self.has(python, client.needs))
        if lacking:
            return {"name": client.name, "what": client.what, "not_run": f"needs {client.needs or client.python}"}
        assert python is not None
        if client.python == "lerobot":
            self.make_policy(python, client.command)
        periods: dict[bool, list[list[float]]] = {False: [], True: []}
        report: dict[str, Any] = {}
        for turn in range(repeats):
            for watched in (False, True) if turn % 2 == 0 else (True, False):
                moments, found = self.run(client, python, watched, f"{client.name}-{turn}")
                periods[watched].append(steps_of(moments, client.settle))
                report = found or report
        result = {
            "name": client.name,
            "what": client.what,
            "machine": machine(),
            "runs": repeats,
            "report": report,
            **compare(periods),
        }
        path.write_text(json.dumps(result, indent=1), "utf-8")
        return result

    def run(
        self,
        client: Client,
        python: str,
        watched: bool,
        name: str,
        before: Sequence[str] = (),
        *,
        must: bool = True,
    ) -> tuple[list[float], dict[str, Any]]:
        """Run a client once: the moments of its steps, and the report where it was watched."""
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.out))
        moments = folder / "moments.json"
        timed = [str(TIMER), client.timed, str(moments)] if client.timed else []
        with self.server(client, python) as port:
            script, *rest = (part.format(port=port, out=folder / "output") for part in client.command)
            place = Path(python).parent / script if script == "lerobot-eval" else CLIENTS / script
            command = [python, *timed, *before, str(place), *rest]
            if watched:
                command = [python, "-m", "vladoctor", "diagnose", "--out", str(folder / "report"), "--", *command]
            done = subprocess.run(
                command,
                env={**self.environment, **client.environment},
                cwd=folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
        (folder / "log.txt").write_text(done.stdout + done.stderr, "utf-8")
        report = folder / "report" / "report.json"
        if must and ((not watched and done.returncode) or (watched and not report.is_file())):
            raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
        found = json.loads(report.read_text("utf-8")) if report.is_file() else {}
        return json.loads(moments.read_text("utf-8")) if client.timed else [], found

    @contextmanager
    def server(self, client: Client, python: str) -> Iterator[str]:
        """The client's server while it is needed; its port."""
        if not client.server:
            yield ""
            return
        script, *rest = client.server
        command = [python, "-u", str(CLIENTS / script), *rest]
        with subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    if "serving on" in line:
                        yield "".join(c for c in line.strip().rstrip("/").rsplit(":", 1)[-1] if c.isdigit())
                        break
            finally:
                process.terminate()

    def has(self, python: str, module: str) -> bool:
        """Whether an interpreter has a module."""
        call = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
        return subprocess.run([python, "-c", call], check=False).returncode == 0

    def make_policy(self, python: str, command: Sequence[str]) -> None:
        """Make the random checkpoint that a LeRobot client names."""
        folder = Path(next(part for part in command if part.startswith("--policy.path=")).partition("=")[2])
        if not folder.is_dir():
            kind = folder.name.partition("-")[2]
            maker = str(CLIENTS / "make_lerobot_policy.py")
            subprocess.run([python, maker, str(folder), "--type", kind], env=self.environment, check=True)


def machine() -> str:
    """What it was run on, in words."""
    gpu = "NVIDIA GPU" if Path("/dev/nvidia0").exists() else "no GPU"
    return f"{os.cpu_count()} cores, {gpu}, Python {platform.python_version()}"


def steps_of(moments: Sequence[float], settle: int) -> list[float]:
    """Seconds from one step to the next, without the settle steps and what lies between episodes."""
    periods = [later - earlier for earlier, later in itertools.pairwise(moments)][settle:]
    if not periods:
        return []
    usual = statistics.median(periods)
    return [period for period in periods if period < 5 * usual]


def compare(periods: Mapping[bool, Sequence[Sequence[float]]]) -> dict[str, Any]:
    """Medians of the periods, bare and watched, and their ratio."""
    bare, watched = ([period for run in periods[which] for period in run] for which in (False, True))
    if not bare or not watched:
        return {}
    fastest = []
    for group in (periods[False], periods[True]):
        least = min(len(run) for run in group)
        fastest.append([min(run[index] for run in group) for index in range(least)])
    pairs = list(zip(*fastest, strict=False))
    return {
        "ms_bare": 1e3 * statistics.median(bare),
        "ms_watched": 1e3 * statistics.median(watched),
        "ratio": statistics.median(watched) / statistics.median(bare),
        "ratio_of_fastest": statistics.median(two / one for one, two in pairs),
        "periods": len(bare),
    }


def table(rows: Sequence[Mapping[str, Any]], arguments: argparse.Namespace) -> str:
    lines = [
        f"At most {arguments.steps} policy steps an episode; bare and watched runs in turns, as many of one as of the "
        "other. In brackets: stages that were seen at some steps only.",
        "",
        "| client | profile | episodes | stages seen | not seen | findings | step bare → watched, ms | ratio (fastest) "
        "| runs, machine |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if "not_run" in row:
            lines.append(f"| {row['name']}: {row['what']} | not run: {row['not_run']} | | | | | | | |")
            continue
        report = row["report"]
        episodes = report["episodes"]
        found = sorted({f"{one['code']} {one['severity']}" for episode in episodes for one in episode["findings"]})
        seen, unseen = stages(report)
        cost = f"{row['ms_bare']:.1f} → {row['ms_watched']:.1f}" if "ratio" in row else "–"
        ratio = f"{row['ratio']:.3f} ({row['ratio_of_fastest']:.3f})" if "ratio" in row else "–"
        profile = report["run"].get("profile", {}).get("name", "?")
        lines.append(
            f"| {row['name']}: {row['what']} | {profile} | {len(episodes)} | {seen} | {unseen} | "
            f"{', '.join(found) or 'none'} | {cost} | {ratio} | {row['runs']}, {row['machine']} |"
        )
    return "\n".join(lines)


def stages(report: Mapping[str, Any]) -> tuple[str, str]:
    """Which stages were seen, in brackets those that were not at every step, and which were not."""
    states: dict[str, set[str]] = {}
    for episode in report["episodes"]:
        for stage in episode.get("seen", ()):
            states.setdefault(stage["stage"], set()).add(stage["state"])
    whole = [stage for stage, found in states.items() if found == {"seen"}]
    unseen = [stage for stage, found in states.items() if found == {"not"}]
    partly = [f"({stage})" for stage in states if stage not in whole and stage not in unseen]
    return "all" if len(whole) == len(states) else ", ".join([*whole, *partly]), ", ".join(unseen) or "–"


def fault_table(bench: Bench, workers: int) -> str:
    """Every fault that can be made from outside: the root causes that are named in each client, own code first."""
    listing = subprocess.run(
        [bench.pythons["main"], str(CLIENTS / "with_fault.py"), "--list"], capture_output=True, text=True, check=True
    )
    faults = {line.split()[0]: line.split()[1].strip("-") for line in listing.stdout.splitlines()}
    chosen = [one for one in clients(bench.steps, bench.out) if one.name in ("official", "one_file", "openpi")]
    jobs = [(client, fault) for fault in faults for client in chosen]
    with ThreadPoolExecutor(workers) as pool:
        roots_found = pool.map(lambda job: roots_of(bench, *job), jobs)
        found = {(client.name, fault): roots for (client, fault), roots in zip(jobs, roots_found, strict=True)}
    lines = [
        f"{bench.steps} policy steps an episode, from init state 30 of task 0. –: cannot be made in that program.",
        "",
        f"| fault | its code | {' | '.join(client.name for client in chosen)} |",
        f"|---|---|{'---|' * len(chosen)}",
    ]
    right = wrong = total = 0
    for fault, code in faults.items():
        cells = []
        for client in chosen:
            roots = found[client.name, fault]
            cells.append("–" if roots is None else " + ".join(roots) or "nothing")
            if roots is not None and code:
                total += 1
                right += roots[:1] == [code]
                wrong += sum(root != code for root in roots)
        lines.append(f"| {fault} | {code or 'none'} | {' | '.join(cells)} |")
    return "\n".join(
        [*lines, "", f"Own code first: {right} of {total}; other root codes beside or before it: {wrong}."]
    )


def roots_of(bench: Bench, client: Client, fault: str) -> list[str] | None:
    """Codes of the root causes that are named; None where the fault cannot be made in this client."""
    path = bench.out / f"fault-{client.name}-{fault}.json"
    if not path.is_file():
        python = bench.pythons.get(client.python)
        if not python or (client.needs and not bench.has(python, client.needs)):
            return None
        # What a policy's queue carries over shows in the second episode.
        twice = ["--episodes", "2"] if fault == "chunk-tail" else []
        untimed = replace(client, command=[*client.command, *twice], timed="")
        _, report = bench.run(untimed, python, True, path.stem, [str(CLIENTS / "with_fault.py"), fault], must=False)
        path.write_text(json.dumps(report), "utf-8")
    report = json.loads(path.read_text("utf-8"))
    if not report.get("episodes"):
        return None
    findings = [one for episode in report["episodes"] for one in episode["findings"]]
    findings += (report.get("overall") or {}).get("findings", ())
    return list(dict.fromkeys(one["code"] for one in findings if not one.get("explained_by")))


if __name__ == "__main__":
    main()
