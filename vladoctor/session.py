"""Runs the reference loop as a run.yaml asks for it, watches it, and judges every episode from its trace."""

from __future__ import annotations

import gc
import multiprocessing
import random
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vladoctor.check import Check, Fault, all_checks, all_faults
from vladoctor.diagnosis import Diagnosis, RunDiagnosis, diagnose, diagnose_run
from vladoctor.errors import UserError
from vladoctor.facts import Facts
from vladoctor.facts.registration import ELEMENTS
from vladoctor.facts.serving import join_servers, policy_alone
from vladoctor.profiles import Profile, find_profile, load_profile
from vladoctor.records import Episode, Outcome
from vladoctor.result import Progress, RunResult, Silent
from vladoctor.runspec import ReportSpec, RunSpec, recorded_run
from vladoctor.trace import TraceWriter, find_traces, pictures_of, read_episode
from vladoctor.versions import device_name, versions

Parents = Mapping[int, int]
"""Process id -> that of the process that started it."""

Task = tuple[Episode, Profile, RunSpec | None]
"""An episode, and by what it is to be judged."""

_forked: Sequence[Task] = ()
"""What forked processes are to judge."""

_HELD = 256 * 2**20
"""Bytes of traces that are kept in memory between reading and judging; others are read again."""

if TYPE_CHECKING:
    from vladoctor.adapters.libero import LiberoTask
    from vladoctor.adapters.openvla import OpenVLAPolicy
    from vladoctor.loop import Loop
    from vladoctor.runspec import EnvSpec, ModelSpec


def run_session(
    spec: RunSpec,
    *,
    fault: str | Sequence[str] | None = None,
    out: Path,
    progress: Progress | None = None,
    policy: OpenVLAPolicy | None = None,
) -> RunResult:
    """Run every episode of `spec` under the taps and judge it.

    Args:
        fault: name of a fault to apply to the running loop, or several; overrides the run.yaml's.
        out: folder for traces; reports are written by the caller. Existing traces in it are refused.
        policy: a policy that is loaded already; otherwise `spec.model` says which to load.

    Raises:
        UserError: something that the run needs is missing or wrong; nothing has been written then.
    """
    progress = progress or Silent()
    faults = spec.fault if fault is None else (fault,) if isinstance(fault, str) else tuple(fault)
    diagnoses: list[Diagnosis] = []
    failures: list[str] = []
    with ExitStack() as cleanup:
        cleanup.callback(progress.finish)
        runner = _Runner.open(spec, faults, out, progress, cleanup, policy)
        episodes = list(runner.episodes())
        progress.start(len(episodes))
        for task, init_state, number in episodes:
            try:
                diagnoses.append(runner.run(task, init_state, number, failures))
            except UserError as error:
                failures.append(f"{task.name}, init state {init_state}: {error}")
                break
            except Exception as error:  # noqa: BLE001 - one episode must not cost the report of all others
                progress.note(traceback.format_exc())
                failures.append(f"{task.name}, init state {init_state}: {type(error).__name__}: {error}")
    return RunResult(
        spec=runner.spec,
        run={**runner.run_info, "fault": ", ".join(faults), "profile": _profile_info(runner.profile)},
        diagnoses=tuple(diagnoses),
        folder=out,
        failures=tuple(failures),
        overall=judge_run(diagnoses, [runner.profile] * len(diagnoses), runner.spec),
    )


def replay_session(
    traces: Sequence[Path],
    *,
    spec: RunSpec | None = None,
    out: Path | None = None,
    workers: int = 1,
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
) -> RunResult:
    """Judge recorded episodes again, with the checks, thresholds and profile of `spec`, or of their own run.

    Args:
        traces: trace files or folders of them.
        workers: see `judge_traces`.
        select: codes of the checks to run, in the place of those that `spec` or their own run selects.
        ignore: likewise, those to leave out.

    Raises:
        UserError: there is no trace at the place named, or no such check.
    """
    found = [one for trace in traces for one in find_traces(trace)]
    return judge_traces(found, spec=spec, out=out, workers=workers, select=select, ignore=ignore)


def judge_traces(
    paths: Sequence[Path],
    *,
    spec: RunSpec | None = None,
    out: Path | None = None,
    processes: Parents | None = None,
    workers: int = 1,
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
) -> RunResult:
    """Judge recorded episodes, of one process or of several that belong together.

    Of a vector environment with its single ones in processes of their own, the policy's process sees every step as
    well: what the others recorded is set aside where no policy was asked in it; where no policy was seen at all, it is
    the vector environment's own, which knows less. So is what a policy's own process recorded, a server's say, where
    the program that asked it recorded its answers.

    Args:
        paths: trace files.
        processes: process id -> that of its parent, beside what the traces say.
        workers: so many processes judge, each some of the episodes, where processes can be forked.
        select: see `replay_session`; so is `ignore`.
    """

    def chosen(asked: RunSpec | None) -> RunSpec | None:
        if not select and not ignore:
            return asked
        # A recording that holds no run is judged by nothing but these.
        return (asked or RunSpec(None, None, ReportSpec(Path()))).with_options(select=select, ignore=ignore)

    with _uncollected():
        return _judge_traces(paths, chosen(spec) if spec else None, out, processes, workers, chosen)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without collections of garbage: recordings are a million objects and more, of which none is any."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _judge_traces(
    paths: Sequence[Path],
    spec: RunSpec | None,
    out: Path | None,
    processes: Parents | None,
    workers: int,
    chosen: Callable[[RunSpec | None], RunSpec | None],
) -> RunResult:
    profiles: list[Profile] = []
    failures: list[str] = []
    run: dict[str, Any] = {}
    shown = spec
    episodes: list[Episode] = []
    # A loop's own recording is judged at once, while it is in the processor's cache; few are set aside afterwards.
    at_once = workers < 2 and processes is None
    judged: dict[int, tuple[Task, Diagnosis]] = {}
    held = 0
    for path in paths:
        try:
            episode = read_episode(path)
        except UserError as error:
            failures.append(str(error))
            continue
        episodes.append(episode)
        if at_once and not policy_alone(episode) and any(True for _ in episode.queries()):
            task = _task(episode, spec, chosen)
            judged[id(episode)] = task, judge(*task)
        held += path.stat().st_size
        if held > _HELD:
            for step in episode.steps:
                for frame in pictures_of(step):
                    frame.release()
    kept, notes = _set_aside(join_servers(episodes), processes or {})
    tasks = [judged[id(episode)][0] if id(episode) in judged else _task(episode, spec, chosen) for episode in kept]
    for episode, profile, asked in tasks:
        shown = shown or asked
        run = run or {**episode.run, "fault": episode.task.get("fault", ""), "profile": _profile_info(profile)}
        profiles.append(profile)
    others = iter(_judged([task for task in tasks if id(task[0]) not in judged], workers))
    diagnoses = [judged[id(task[0])][1] if id(task[0]) in judged else next(others) for task in tasks]
    return RunResult(
        spec=shown,
        run=run,
        diagnoses=tuple(diagnoses),
        folder=out,
        failures=tuple(failures),
        notes=tuple(notes),
        overall=judge_run(diagnoses, profiles, shown),
    )


def _task(episode: Episode, spec: RunSpec | None, chosen: Callable[[RunSpec | None], RunSpec | None]) -> Task:
    """By what an episode is to be judged: what `spec` says, else its own run, with the checks that were chosen."""
    asked = spec or chosen(recorded_run(episode.run.get("spec") or {}))
    return episode, choose_profile(episode.run, asked, str(episode.task.get("suite") or "")), asked


def _set_aside(episodes: Sequence[Episode], parents: Parents) -> tuple[list[Episode], list[str]]:
    """The episodes to judge, and what is said of the others; see `judge_traces`."""
    above = {**parents, **{one.run["process"]: one.run.get("parent") for one in episodes if "process" in one.run}}
    alone = [one for one in episodes if policy_alone(one)]
    loops = [one for one in episodes if not policy_alone(one)]
    asked = [one for one in loops if any(True for _ in one.queries())]
    asking = {one.run["process"] for one in asked if "process" in one.run}

    def started_by(episode: Episode) -> set[int]:
        """The processes above the one that recorded it."""
        found: set[int] = set()
        process = above.get(episode.run.get("process"))
        while process is not None and process not in found:
            found.add(process)
            process = above.get(process)
        return found

    silent = [one for one in loops if not any(True for _ in one.queries())]
    workers = [one for one in silent if started_by(one) & asking]
    single = {process for one in loops if "place" not in one.task for process in started_by(one)} - asking
    vectors = [one for one in silent if "place" in one.task and one.run.get("process") in single]
    notes: list[str] = []
    aside: set[int] = set()
    for group, what in (
        (workers, "of environments in processes below the policy's, which recorded the same steps"),
        (vectors, "of a vector environment whose environments recorded the same steps in processes of their own"),
        (alone if asked else [], "of the policy alone, whose answers stand in the recordings of the loop"),
    ):
        aside.update(map(id, group))
        if group:
            plural = f"{len(group)} recordings" if len(group) > 1 else "1 recording"
            notes.append(f"not judged: {plural} {what}")
    return [one for one in episodes if id(one) not in aside], notes


def _judged(tasks: Sequence[Task], workers: int) -> list[Diagnosis]:
    if min(workers, len(tasks)) < 2 or "fork" not in multiprocessing.get_all_start_methods():
        return [judge(*task) for task in tasks]
    # A forked process has the episodes already, and sends back what it says of them, without them.
    global _forked
    _forked = tasks
    try:
        with multiprocessing.get_context("fork").Pool(min(workers, len(tasks))) as pool:
            found = pool.map(_judge_forked, range(len(tasks)), chunksize=max(1, len(tasks) // (8 * workers)))
    finally:
        _forked = ()
    return [replace(diagnosis, episode=task[0]) for diagnosis, task in zip(found, tasks, strict=True)]


def _judge_forked(place: int) -> Diagnosis:
    nothing = Episode({}, {}, (), Outcome("interrupted", False, 0))
    return replace(judge(*_forked[place]), episode=nothing)


def judge(episode: Episode, profile: Profile, spec: RunSpec | None = None) -> Diagnosis:
    """Judge one recorded episode."""
    diagnosis = diagnose(Facts(episode, profile), selected_checks(spec), spec.checks.thresholds if spec else None)
    _forget_pictures(episode)
    return diagnosis


def judge_run(diagnoses: Sequence[Diagnosis], profiles: Sequence[Profile], spec: RunSpec | None = None) -> RunDiagnosis:
    """Judge a run as a whole, after its episodes; `profiles` are those by which these were judged."""
    # Facts of their own: what was measured of an episode goes with it, and a run can have thousands.
    facts = [Facts(one.episode, profile) for one, profile in zip(diagnoses, profiles, strict=True)]
    found = diagnose_run(facts, diagnoses, selected_checks(spec), spec.checks.thresholds if spec else None)
    for one in diagnoses:
        _forget_pictures(one.episode)
    return found


def _forget_pictures(episode: Episode) -> None:
    """Decoded pictures are some 7 MB an episode, and a run can have hundreds; reports decode the few that they show."""
    for step in episode.steps:
        for frame in pictures_of(step):
            frame.forget()


def selected_checks(spec: RunSpec | None) -> tuple[Check, ...]:
    """The checks that a run asks for; all of them unless it selects or ignores some."""
    checks = all_checks()
    if spec is None:
        return checks
    chosen = spec.checks.select or [check.code for check in checks]
    return tuple(check for check in checks if check.code in chosen and check.code not in spec.checks.ignore)


def choose_profile(run: Mapping[str, Any], spec: RunSpec | None = None, suite: str = "") -> Profile:
    """The profile that the run.yaml names, else the one that fits the recorded checkpoint; overrides applied.

    Args:
        suite: the episode's, where the run does not say which one it is of.
    """
    if spec is not None and spec.profile.name != "auto":
        profile = load_profile(spec.profile.name)
    else:
        named = spec.env.suite if spec is not None and spec.env is not None else suite
        recorded = (run.get("spec") or {}).get("env") or {}
        profile = find_profile(run.get("checkpoint", {}), named or recorded.get("suite", ""))
    if spec is not None and spec.profile.overrides:
        profile = profile.with_overrides(spec.profile.overrides)
    orientation = profile.get("image.orientation")
    if orientation is not None and orientation not in ELEMENTS:
        raise UserError(
            f"there is no orientation {orientation!r}",
            where="profile.overrides",
            remedy=f"image.orientation is one of {', '.join(ELEMENTS)}",
        )
    return profile


@dataclass
class _Runner:
    """What stays the same from one episode to the next."""

    spec: RunSpec
    model: ModelSpec
    env: EnvSpec
    faults: Sequence[Fault]
    out: Path
    progress: Progress
    policy: OpenVLAPolicy
    tasks: Sequence[LiberoTask]
    profile: Profile
    run_info: Mapping[str, Any]
    cleanup: ExitStack
    loop: Loop | None = None

    @classmethod
    def open(
        cls,
        spec: RunSpec,
        faults: Sequence[str],
        out: Path,
        progress: Progress,
        cleanup: ExitStack,
        policy: OpenVLAPolicy | None,
    ) -> _Runner:
        """Find and load everything the run needs; what is missing ends it before anything is written."""
        from vladoctor.adapters import libero
        from vladoctor.adapters.openvla import load_policy

        known = all_faults()
        for name in faults:
            if name not in known:
                raise UserError(f"there is no fault {name!r}", where="fault", remedy="see: vladoctor faults --list")
        applied = [known[name][0] for name in faults]
        for fault in applied:
            spec = fault.configure(spec) if fault.configure is not None else spec
        if find_traces(out, missing_ok=True):
            raise UserError(
                "the folder already holds traces of an earlier run",
                where=str(out),
                remedy="name another with --out, or remove it",
            )
        model, env = spec.own_loop()
        assets = libero.prepare(env.assets)
        progress.note(f"assets: {assets.kind} ({assets.note})")
        tasks = [libero.load_task(env.suite, task) for task in _task_names(env)]
        for task in tasks:
            _check_init_states(task, env.init_states)
        if policy is None:
            progress.note(f"loading {model.path}")
            policy = load_policy(
                model.path,
                device=model.device,
                dtype=model.dtype,
                unnorm_key=model.unnorm_key,
                suite=env.suite,
                attention=model.attention,
                threads=model.threads,
            )
        _seed_everything(env.seed)
        run_info: dict[str, Any] = {
            "versions": versions(),
            "spec": spec.to_json(),
            "assets": {"kind": assets.kind, "note": assets.note},
            "device": device_name(policy.device),
            "checkpoint": {**policy.facts(), "center_crop": model.center_crop},
        }
        for fault in applied:
            if fault.before_env is not None:
                cleanup.callback(fault.before_env())
        profile = choose_profile(run_info, spec)
        runner = cls(spec, model, env, applied, out, progress, policy, tasks, profile, run_info, cleanup)
        cleanup.callback(runner.close)
        return runner

    def episodes(self) -> Iterator[tuple[LiberoTask, int, int]]:
        """(task, init state index, episode number) in the order in which the official evaluation runs them."""
        for task in self.tasks:
            states = self.env.init_states
            for number in range(self.env.episodes or len(states)):
                yield task, states[number % len(states)], number

    def run(self, task: LiberoTask, init_state: int, number: int, failures: list[str]) -> Diagnosis:
        """Run, record and judge one episode. What the program raises ends up in its outcome, what we do in failures."""
        from vladoctor.adapters.libero import suite_languages
        from vladoctor.taps.env import camera_geometry, environment_facts, watch_env
        from vladoctor.taps.policy import watch_policy
        from vladoctor.taps.recorder import Recorder

        name = f"{task_label(task)}-init{init_state}-ep{number}"
        self.progress.episode_start(name)
        loop = self._loop_for(task)
        run_info = self.run_info
        if loop.policy.model is not self.policy.model:
            # A fault has loaded another one.
            run_info = {
                **run_info,
                "checkpoint": {**loop.policy.facts(), "center_crop": self.model.center_crop},
            }
        checkpoint = run_info["checkpoint"]
        expected = expected_prompt(self.profile, task.language)
        facts = {
            "suite": task.suite,
            "task_id": task.task_id,
            "label": task_label(task),
            "name": task.name,
            "language": task.language,
            "suite_languages": suite_languages(task.suite),
            "init_state": init_state,
            "episode": number,
            "seed": self.env.seed,
            "horizon": loop.horizon,
            "settle_steps": loop.settle_steps,
            "camera": loop.camera,
            "fault": ", ".join(fault.name for fault in self.faults),
            "cameras": camera_geometry(loop.env, loop.cameras),
            **environment_facts(loop.env),
            "real_time": bool(getattr(loop.env, "real_time", False)),
            "expected_prompt_ids": self.policy.prompt_ids(expected) if expected is not None else None,
        }
        path = self.out / "traces" / f"{name}.mcap"
        writer = TraceWriter(
            path,
            run_info,
            facts,
            thumbnail=self.spec.trace.thumbnail,
            full_every=self.spec.trace.full_every,
        )
        recorder = Recorder(writer)
        outcome = Outcome("interrupted", False, 0)
        steps = 0

        def on_step(step: int, milliseconds: float) -> None:
            nonlocal steps
            steps = step + 1
            self.progress.step(step, loop.horizon, milliseconds)

        detach: list[Callable[[], None]] = []
        try:
            detach.append(watch_env(loop.env, recorder, loop.cameras))
            detach.append(
                watch_policy(
                    loop.policy.model,
                    loop.policy.processor,
                    recorder,
                    pixel_mean=checkpoint["pixel_mean"],
                    pixel_std=checkpoint["pixel_std"],
                )
            )
            outcome = loop.run_episode(task.init_states[init_state], on_step)
        except Exception as error:  # noqa: BLE001 - the program's own; kept with its trace and reported
            outcome = Outcome("exception", False, steps, error=f"{type(error).__name__}: {error}")
            self.progress.note(traceback.format_exc())
        finally:
            if outcome.ended == "interrupted":
                outcome = Outcome("interrupted", False, steps)
            recorder.close(outcome)
            for undo in reversed(detach):
                undo()
        episode = read_episode(path)
        problems = [f"{name}: {problem}" for problem in recorder.errors]
        if episode.truncated:
            # Recording stopped, the program did not; the file can no longer say why.
            episode.outcome, episode.notes = outcome, (*episode.notes, *recorder.errors)
            failures.extend(problems)
        else:
            for problem in problems:
                self.progress.note(problem)
        diagnosis = judge(episode, self.profile, self.spec)
        self.progress.episode_end(name, outcome, diagnosis.findings)
        return diagnosis

    def close(self) -> None:
        """Close the environment, if one is open."""
        from vladoctor.adapters import libero

        if self.loop is not None:
            libero.close_env(self.loop.env)
            self.loop = None

    def _loop_for(self, task: LiberoTask) -> Loop:
        """The loop for a task: LIBERO's env is bound to one, so a new task needs a new env."""
        from vladoctor.adapters import libero
        from vladoctor.loop import HORIZONS, Loop, reference_stages

        if self.loop is not None and self.loop.task is task:
            return self.loop
        self.close()
        env = libero.make_env(task, resolution=self.env.size, cameras=(self.env.camera,), seed=self.env.env_seed)
        # A copy, so that what a fault changes on it does not pile up from task to task.
        policy = replace(self.policy, options=dict(self.policy.options))
        self.loop = Loop(
            env=env,
            policy=policy,
            task=task,
            stages=reference_stages(policy, center_crop=self.model.center_crop),
            camera=self.env.camera,
            settle_steps=self.env.settle_steps,
            horizon=self.env.horizon or HORIZONS.get(task.suite, 280),
        )
        for fault in self.faults:
            if fault.apply is not None:
                fault.apply(self.loop)
        return self.loop


def expected_prompt(profile: Profile, instruction: str) -> str | None:
    """The prompt that the profile calls for, or None where it does not say."""
    template = profile.get("prompt.template")
    if template is None:
        return None
    return str(template).format(instruction=instruction.lower() if profile.get("prompt.lowercase") else instruction)


def task_label(task: LiberoTask) -> str:
    """A short name for a task: "task0" for a suite's own, the BDDL file's name for others."""
    if task.bddl_file.parent.name == task.suite:
        return f"task{task.task_id}"
    return f"task{task.task_id}-{task.name.replace('_', '-')[:40].strip('-')}"


def _profile_info(profile: Profile) -> dict[str, str]:
    return {"name": profile.name, "reason": profile.reason}


def _task_names(env: EnvSpec) -> Sequence[int | str]:
    from vladoctor.adapters import libero

    if env.tasks == "all":
        return range(len(libero.suite_tasks(env.suite)))
    return env.tasks


def _check_init_states(task: LiberoTask, states: Sequence[int]) -> None:
    wrong = [state for state in states if not 0 <= state < len(task.init_states)]
    if wrong:
        raise UserError(
            f"task {task.name} has no init state {wrong[0]}",
            where="env.init_states",
            remedy=f"use 0 to {len(task.init_states) - 1}",
        )


def _seed_everything(seed: int) -> None:
    import torch

    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - LIBERO and robosuite draw from the global generator
    torch.manual_seed(seed)
