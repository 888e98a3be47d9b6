"""One broken loop, shown to the other tools: what each says, as JSON. Started by peers.py, a process a fault.

    python benchmarks/peers_shown.py FAULT OUT.json

Everything is done the way that is best for the tool:

* Gymnasium and Stable-Baselines3 see LIBERO as an environment whose observation is what the model is given (picture,
  prompt, state) and whose action is what the model answers, so that the loop's own stages lie inside; the passive
  checker stays on while the policy acts. SB3 knows no texts and gets no prompt.
* vla-eval and inspect-robots compare declarations. They are given those of the loop as it really is, mistake included,
  in every word that the tool has for it; nobody who makes the mistake would declare it so. The rate and the cameras
  are read from the running environment.
* lerobot-doctor looks at data sets: it gets the loop's own episodes as one, with the statistics of the checkpoint.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from clients import machine
from gymnasium import spaces

from vladoctor.adapters import libero
from vladoctor.adapters.openvla import load_policy
from vladoctor.check import all_faults
from vladoctor.loop import HORIZONS, Loop, reference_stages

CHECKPOINT = Path(__file__).resolve().parents[1] / "fixtures" / "tiny-openvla"
SUITE = "libero_object"
INIT_STATES = (30, 31)
STEPS = 48
"""Policy steps in front of the passive checker: past the step at which the last fault begins."""
RECORDED_STEPS = 104
"""Policy steps of an episode for lerobot-doctor, which wants a hundred."""


class UnfitError(Exception):
    """The tool has no way to be shown this fault; the message says why."""


class LoopEnv(gymnasium.Env[dict[str, Any], np.ndarray]):
    """The loop's environment and stages behind Gymnasium's interface; see the module.

    The loop's `act` makes the picture and the prompt, so that a mistake in it shows; its `command` maps the action.
    """

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, loop: Loop, *, texts: bool) -> None:
        self.loop, self.texts = loop, texts
        self.query, self.command = loop.stages.query, loop.stages.command
        loop.stages.query, loop.stages.command = self._asked, list
        side = loop.policy.image_size
        known: dict[str, gymnasium.Space[Any]] = {
            "image": spaces.Box(0, 255, (side, side, 3), np.uint8),
            "state": spaces.Box(-10.0, 10.0, (8,), np.float64),
        }
        if texts:
            letters = "".join(map(chr, range(32, 127))) + "\n“”"
            known["prompt"] = spaces.Text(400, min_length=1, charset=letters)
        self.observation_space = spaces.Dict(known)
        self.action_space = spaces.Box(-1.0, 1.0, (7,), np.float32)

    def _asked(self, prompt: str, picture: Any) -> np.ndarray:
        self.prompt, self.picture = prompt, picture
        return np.zeros(7)

    def policy(self) -> np.ndarray:
        """What the policy answers to the last observation."""
        return np.asarray(self.query(self.prompt, self.picture), dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        number = INIT_STATES[0] if seed is None else seed % len(self.loop.task.init_states)
        return self._seen(self.loop.begin(self.loop.task.init_states[number])), {}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        self.steps += 1
        raw, done = self.loop.execute(self.command(np.asarray(action, dtype=np.float64)))
        return self._seen(raw), float(done), done, self.steps >= self.loop.horizon, {"success": done}

    def _seen(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        self.loop.act(raw)
        seen: dict[str, Any] = {"image": np.asarray(self.picture), "state": state(raw)}
        return seen | ({"prompt": self.prompt} if self.texts else {})

    def undo(self) -> None:
        self.loop.stages.query, self.loop.stages.command = self.query, self.command


def state(raw: Mapping[str, Any]) -> np.ndarray:
    """Proprioception as LIBERO's data have it, float64 (8,)."""
    from robosuite.utils.transform_utils import quat2axisangle

    turned = quat2axisangle(np.array(raw["robot0_eef_quat"]))
    return np.concatenate([raw["robot0_eef_pos"], turned, raw["robot0_gripper_qpos"]]).astype(np.float64)


def main() -> None:
    name, out = sys.argv[1], Path(sys.argv[2])
    with broken_loop("" if name == "healthy" else name) as loop:
        said: dict[str, Any] = {}
        for tool, show in TOOLS.items():
            try:
                said[tool] = {"said": show(loop, name)}
            except UnfitError as reason:
                said[tool] = {"not_shown": str(reason)}
            except ImportError as error:
                said[tool] = {"not_run": str(error)}
            except Exception as error:  # noqa: BLE001 - the tool's verdict, or that it broke on it
                last = "".join(traceback.format_exception_only(error)).strip()
                said[tool] = {"said": [f"raised {last}"], "traceback": traceback.format_exc()}
    packages = ("gymnasium", "stable_baselines3", "vla-eval", "inspect-robots", "lerobot-doctor")
    found = {one.metadata["Name"]: one.version for one in distributions()}
    result = {
        "fault": name,
        "tools": said,
        "versions": {package: found.get(package) for package in packages},
        "machine": machine(),
    }
    out.write_text(json.dumps(result, indent=1), "utf-8")


@contextlib.contextmanager
def broken_loop(fault: str) -> Iterator[Loop]:
    """The reference loop with a fault in it, made as `vladoctor diagnose` makes it."""
    libero.prepare("stand-in")
    task = libero.load_task(SUITE, 0)
    policy = load_policy(CHECKPOINT, device="cpu", dtype="float32", unnorm_key=SUITE, suite=SUITE, threads=1)
    undo = None
    if fault and (before := all_faults()[fault][0].before_env):
        undo = before()
    env = libero.make_env(task)
    try:
        loop = Loop(env, policy, task, reference_stages(policy), horizon=HORIZONS[SUITE])
        if fault and (apply := all_faults()[fault][0].apply):
            apply(loop)
        yield loop
    finally:
        libero.close_env(env)
        if undo is not None:
            undo()


# --- The tools ---


def heard(call: Callable[[], Any]) -> list[str]:
    """What a call warns, logs, prints and raises."""
    lines: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler, printed = Handler(level=logging.WARNING), io.StringIO()
    logging.getLogger().addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(printed):
            warnings.simplefilter("always")
            try:
                call()
            except Exception as error:  # noqa: BLE001 - that is how these tools speak
                lines.append("raised " + "".join(traceback.format_exception_only(error)).strip())
    finally:
        logging.getLogger().removeHandler(handler)
    lines += [str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)]
    return list(dict.fromkeys(line.removeprefix("\x1b[33mWARN: ").removesuffix("\x1b[0m").strip() for line in lines))


def in_the_environment(loop: Loop) -> None:
    if "run_episode" in vars(loop):
        raise UnfitError("the mistake is in the code that runs episodes, outside of any environment")


def gymnasium_check(loop: Loop, _: str) -> list[str]:
    from gymnasium.utils.env_checker import check_env

    in_the_environment(loop)
    env = LoopEnv(loop, texts=True)
    try:
        return heard(lambda: check_env(env, skip_render_check=True))
    finally:
        env.undo()


def gymnasium_passive(loop: Loop, _: str) -> list[str]:
    from gymnasium.wrappers import PassiveEnvChecker

    in_the_environment(loop)
    env = LoopEnv(loop, texts=True)

    def act() -> None:
        checked = PassiveEnvChecker(env)
        checked.reset(seed=INIT_STATES[0])
        for _ in range(STEPS):
            *_, terminated, truncated, _ = checked.step(env.policy())
            if terminated or truncated:
                return

    try:
        return heard(act)
    finally:
        env.undo()


def sb3_check(loop: Loop, _: str) -> list[str]:
    from stable_baselines3.common.env_checker import check_env

    in_the_environment(loop)
    env = LoopEnv(loop, texts=False)
    try:
        return heard(lambda: check_env(env, warn=True))
    finally:
        env.undo()


def vla_eval_specs(loop: Loop, fault: str) -> list[str]:
    """The spec check at the start of a run, on the package's own LIBERO and OpenVLA; and its check of values."""
    from vla_eval import specs
    from vla_eval.benchmarks.libero.benchmark import LIBEROBenchmark
    from vla_eval.model_servers.openvla import OpenVLAModelServer

    server, benchmark = OpenVLAModelServer.__new__(OpenVLAModelServer), LIBEROBenchmark(suite=SUITE)
    gives, takes = dict(server.get_action_spec()), dict(benchmark.get_action_spec())
    wants, offers = dict(server.get_observation_spec()), dict(benchmark.get_observation_spec())
    shown = True
    if fault == "gripper-not-inverted":
        gives["gripper"] = specs.GRIPPER_CLOSE_NEG
    elif fault == "gripper-raw":
        gives["gripper"] = specs.GRIPPER_01
    elif fault == "action-absolute-target":
        gives["position"] = specs.POSITION_ABSOLUTE
    elif fault == "controller-absolute":
        takes["position"] = specs.POSITION_ABSOLUTE
    elif fault == "action-rotation-dropped":
        del gives["rotation"]
    elif loop.camera != "agentview":
        wants = {"agentview": wants["image"], "language": wants["language"]}
        offers = {loop.camera: offers["agentview"], "language": offers["language"]}
    else:
        shown = fault == "healthy"
    said = specs.check_specs(gives, takes, wants, offers)
    values = []
    for command in (one.command for episode in episodes(loop) for one in episode):
        for spec, part in ((takes["position"], command[:3]), (takes["rotation"], command[3:6]),
                           (takes["gripper"], command[6:])):  # fmt: skip
            values += spec.validate(np.asarray(part))
    said += [f"validate: {line}" for line in dict.fromkeys(values)]
    if not shown and not values:
        raise UnfitError("its declarations have no word for it, and all values lie in their ranges")
    return said


def inspect_robots_check(loop: Loop, fault: str) -> list[str]:
    """Compatibility of policy and embodiment, and `doctor` on the embodiment."""
    from inspect_robots import cli
    from inspect_robots.compat import check_compatibility
    from inspect_robots.embodiment import EmbodimentBase, EmbodimentInfo
    from inspect_robots.policy import PolicyInfo
    from inspect_robots.registry import embodiment
    from inspect_robots.spaces import ActionSemantics, Box, CameraSpec, ObservationSpace

    labels = ("x", "y", "z", "rx", "ry", "rz", "gripper")
    ones = np.ones(7)
    made_for = ActionSemantics("eef_delta_pose", "axis_angle", "binary", "base", dim_labels=labels)
    gives = takes = made_for
    if fault == "gripper-raw":
        gives = replace(gives, gripper="continuous")
    elif fault == "action-absolute-target":
        gives = replace(gives, control_mode="eef_abs_pose")
    elif fault == "controller-absolute":
        takes = replace(takes, control_mode="eef_abs_pose")
    elif fault == "action-rotation-dropped":
        gives = replace(gives, control_mode="eef_delta_pos", rotation_repr="none")
    rate = float(loop.env.env.control_freq)
    policy_rate = {"action-repeated": 5.0}.get(fault, 20.0)
    if fault == "action-repeat":
        rate /= 2
    cameras = (CameraSpec(loop.camera, 256, 256),)
    if gives is takes and rate == policy_rate and loop.camera == "agentview" and fault != "healthy":
        raise UnfitError("its declarations have no word for it")

    class Libero(EmbodimentBase):
        info = EmbodimentInfo(
            "libero", Box((7,), -ones, ones, takes), ObservationSpace(cameras), control_hz=rate, is_simulated=True
        )

        def reset(self, scene: Any, *, seed: int | None = None) -> Any:
            raise NotImplementedError

        def step(self, action: Any) -> Any:
            raise NotImplementedError

    class Policy:
        info = PolicyInfo(
            "openvla",
            Box((7,), -ones, ones, gives),
            ObservationSpace((CameraSpec("agentview", 256, 256),)),
            control_hz=policy_rate,
        )

    report = check_compatibility(Policy(), Libero())
    embodiment("libero")(Libero)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        cli.main(["doctor", "--embodiment", "libero"])
    said = [f"{issue.severity} {issue.code}: {issue.message}" for issue in report.issues]
    return said + [f"doctor: {line.strip()}" for line in printed.getvalue().splitlines() if "[" in line]


def lerobot_doctor(loop: Loop, _: str) -> list[str]:
    """`lerobot-doctor check` on the loop's episodes, as a data set."""
    from lerobot_doctor import cli

    with tempfile.TemporaryDirectory() as folder:
        write_dataset(Path(folder), episodes(loop), loop)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            cli.main(["check", folder, "--json"])
    report = json.loads(printed.getvalue())
    return [
        f"{message['severity']} {check['name']}: {message['message']}"
        for check in report["checks"]
        for message in check["messages"]
        if message["severity"] not in ("PASS", "INFO")
    ]


TOOLS: dict[str, Callable[[Loop, str], list[str]]] = {
    "Gymnasium check_env": gymnasium_check,
    "Gymnasium passive checker": gymnasium_passive,
    "SB3 check_env": sb3_check,
    "vla-eval specs": vla_eval_specs,
    "inspect-robots": inspect_robots_check,
    "lerobot-doctor": lerobot_doctor,
}


# --- The loop's own episodes ---


@dataclass(frozen=True)
class Shown:
    """A policy step: state and frame before it, the command, and whether the task was done then."""

    state: np.ndarray
    frame: np.ndarray
    command: list[float]
    done: bool


def episodes(loop: Loop) -> list[list[Shown]]:
    """The policy steps of an episode from each init state, as the loop runs it; made once."""
    kept: Any = getattr(loop, "shown_episodes", None)
    if kept is not None:
        return list(kept)
    kept, step, begin, horizon = [], loop.env.step, loop.begin, loop.horizon
    before: list[Mapping[str, Any]] = []

    def begun(init_state: np.ndarray) -> dict[str, Any]:
        before.clear()
        raw = begin(init_state)
        before.append(raw)
        return raw

    def recorded(action: Any) -> Any:
        answer = step(action)
        if before:  # it is past settling
            seen = before.pop()
            command = [float(value) for value in action]
            kept[-1].append(Shown(state(seen), picture_of(seen), command, bool(answer[2])))
            before.append(answer[0])
        return answer

    loop.env.step, loop.begin = recorded, begun  # type: ignore[method-assign]
    loop.horizon = min(horizon, RECORDED_STEPS)
    try:
        for number in INIT_STATES:
            kept.append([])
            with contextlib.suppress(Exception):  # what an episode raises ends it, as in the loop
                loop.run_episode(loop.task.init_states[number])
    finally:
        loop.env.step, loop.begin, loop.horizon = step, begin, horizon  # type: ignore[method-assign]
    loop.shown_episodes = kept  # type: ignore[attr-defined]
    return list(kept)


def picture_of(raw: Mapping[str, Any]) -> np.ndarray:
    """The first picture of an observation, uint8 (H, W, 3), with its sides even for the encoder."""
    frame = next(np.asarray(value) for value in raw.values() if np.ndim(value) == 3)
    return np.ascontiguousarray(frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2])


def write_dataset(root: Path, runs: list[list[Shown]], loop: Loop) -> None:
    """Episodes as a LeRobot data set, version 2.1."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    camera = f"observation.images.{loop.camera}"
    data, videos = root / "data" / "chunk-000", root / "videos" / "chunk-000" / camera
    for folder in (root / "meta", data, videos):
        folder.mkdir(parents=True)
    rate = int(loop.env.env.control_freq)
    index = 0
    for number, run in enumerate(runs):
        count = len(run)
        table = {
            "observation.state": [one.state.astype(np.float32).tolist() for one in run],
            "action": [np.asarray(one.command, np.float32).tolist() for one in run],
            "next.done": [one.done for one in run],
            "timestamp": (np.arange(count, dtype=np.float32) / rate).tolist(),
            "frame_index": list(range(count)),
            "episode_index": [number] * count,
            "index": list(range(index, index + count)),
            "task_index": [0] * count,
        }
        index += count
        pq.write_table(pa.table(table), data / f"episode_{number:06d}.parquet")
        write_video(videos / f"episode_{number:06d}.mp4", [one.frame for one in run], rate)
    single = {"dtype": "int64", "shape": [1], "names": None}
    side = next((list(one.frame.shape) for run in runs for one in run), [256, 256, 3])
    video = {
        "dtype": "video",
        "shape": side,
        "names": ["height", "width", "channels"],
        "info": {"video.fps": rate, "video.codec": "mpeg4", "video.pix_fmt": "yuv420p", "has_audio": False},
    }
    info = {
        "codebase_version": "v2.1",
        "robot_type": "panda",
        "total_episodes": len(runs),
        "total_frames": index,
        "total_tasks": 1,
        "total_videos": len(runs),
        "total_chunks": 1,
        "chunks_size": 1000,
        "fps": rate,
        "splits": {"train": f"0:{len(runs)}"},
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": {
            camera: video,
            "observation.state": {"dtype": "float32", "shape": [8], "names": None},
            "action": {"dtype": "float32", "shape": [7], "names": None},
            "next.done": {"dtype": "bool", "shape": [1], "names": None},
            "timestamp": {"dtype": "float32", "shape": [1], "names": None},
            **dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), single),
        },
    }
    task = loop.task.language
    lines = [{"episode_index": n, "tasks": [task], "length": len(run)} for n, run in enumerate(runs)]
    trained = json.loads((CHECKPOINT / "dataset_statistics.json").read_text("utf-8"))[SUITE]["action"]
    values = {
        "observation.state": np.array([one.state for run in runs for one in run]).reshape(-1, 8),
        "next.done": np.array([[float(one.done)] for run in runs for one in run]).reshape(-1, 1),
    }
    statistics = {
        name: {how: list(getattr(found, how)(axis=0)) for how in ("mean", "std", "min", "max")}
        for name, found in values.items()
        if len(found)
    }
    statistics["action"] = {how: trained[how] for how in ("mean", "std", "min", "max")}
    (root / "meta" / "info.json").write_text(json.dumps(info), "utf-8")
    (root / "meta" / "tasks.jsonl").write_text(json.dumps({"task_index": 0, "task": task}) + "\n", "utf-8")
    (root / "meta" / "episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    (root / "meta" / "stats.json").write_text(json.dumps(statistics), "utf-8")


def write_video(path: Path, frames: Sequence[np.ndarray], rate: int) -> None:
    import cv2

    height, width = frames[0].shape[:2] if frames else (0, 0)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), rate, (width, height))
    for frame in frames:
        writer.write(frame[:, :, ::-1])
    writer.release()


if __name__ == "__main__":
    main()
