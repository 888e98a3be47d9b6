"""What watching costs: the reference loop bare and watched, in turns, from the same init state.

    python benchmarks/overhead.py [--json] [--steps N] [--repeats R] [--model FOLDER] [--write docs/evidence.md]

Prints the ratio of the median step times, the taps' own time per step, and whether both loops executed the same
actions. A neighbour on the machine is felt in both, but not evenly: then `ratio_of_fastest`, which compares every step
of the episode at its fastest, says more than `ratio`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from vladoctor.adapters import libero
from vladoctor.adapters.openvla import OpenVLAPolicy, load_policy
from vladoctor.loop import Loop, reference_stages
from vladoctor.records import Outcome
from vladoctor.taps.env import watch_env
from vladoctor.taps.policy import watch_policy
from vladoctor.taps.recorder import Recorder
from vladoctor.trace import TraceWriter

MODEL = Path(__file__).resolve().parents[1] / "fixtures" / "tiny-openvla"
SUITE, TASK, INIT_STATE = "libero_object", 0, 30


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--steps", type=int, default=20, help="policy steps in a row")
    parser.add_argument("--repeats", type=int, default=10, help="times that both loops are run")
    parser.add_argument("--model", type=Path, default=MODEL, help="snapshot folder")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=None, help="torch's CPU threads")
    parser.add_argument("--write", type=Path, help="Markdown file whose section `overhead` is replaced")
    arguments = parser.parse_args()
    libero.prepare("stand-in")
    policy = load_policy(arguments.model, device=arguments.device, suite=SUITE, threads=arguments.threads)
    result = measure(policy, arguments.steps, arguments.repeats)
    if arguments.write:
        from evidence import write_section

        write_section(arguments.write, "overhead", section(result, policy))
    if arguments.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:20s} {value:.4f}" if isinstance(value, float) else f"{name:20s} {value}")


def section(result: dict[str, Any], policy: OpenVLAPolicy) -> str:
    low, high = result["us_added_quartiles"]
    own, least = result["us_per_step"], result["us_per_step_least"]
    rows = {
        "a bare step, median": f"{result['ms_bare']:.1f} ms",
        "a watched step, median": f"{result['ms_watched']:.1f} ms",
        "ratio of the medians": f"{result['ratio']:.4f}",
        "ratio, every step at its fastest": f"{result['ratio_of_fastest']:.4f}",
        "the taps' own time a step, median (least)": f"{own:.0f} us ({least:.0f})",
        "added to a step, median (quartiles)": f"{result['us_added_median']:.0f} us ({low} to {high})",
        "the same actions": "yes" if result["identical_actions"] else "NO",
        "trace": f"{result['bytes_per_step'] / 1000:.1f} KB a step",
    }
    return "\n".join(
        [
            f"{policy.path.name} ({policy.image_size} px) on {policy.device}, one camera of 256 px; "
            f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}; "
            f"{result['steps']} policy steps bare and as many watched, in turns.",
            "",
            "| | |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in rows.items()),
        ]
    )


def measure(policy: OpenVLAPolicy, steps: int, repeats: int) -> dict[str, Any]:
    """Run the loop `repeats` times bare and watched, `steps` policy steps each; `libero.prepare` comes before."""
    task = libero.load_task(SUITE, TASK)
    env = libero.make_env(task, resolution=256)
    loop = Loop(env, policy, task, reference_stages(policy))
    state = task.init_states[INIT_STATE]
    times: dict[bool, list[list[float]]] = {False: [], True: []}
    actions: list[list[list[float]]] = []
    own: list[float] = []
    size = 0
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(-1, repeats):
            # Bare first, then watched first, so that a drift of the machine's speed cancels out; turn -1 warms up.
            for watched in (False, True) if turn % 2 else (True, False):
                path = Path(folder) / f"{turn}.mcap"
                recorder = Recorder(TraceWriter(path, {}, {})) if watched else None
                detach = []
                if recorder is not None:
                    detach = [
                        watch_env(env, recorder, [loop.camera]),
                        watch_policy(policy.model, policy.processor, recorder),
                    ]
                taken, executed, spent = run(loop, state, steps, recorder)
                for undo in reversed(detach):
                    undo()
                actions.append(executed)
                if recorder is not None:
                    recorder.close(Outcome("horizon", False, steps))
                    if recorder.errors:
                        raise SystemExit(f"recording failed: {recorder.errors}")
                    size = path.stat().st_size
                if turn >= 0:
                    times[watched].append(taken)
                    own.extend(spent)
    libero.close_env(env)
    bare, with_taps = (sorted(time for run in times[watched] for time in run) for watched in (False, True))
    # Every step at its fastest: what is left when a neighbour has taken the processor for some of the runs.
    least = {watched: [min(column) for column in zip(*times[watched], strict=True)] for watched in (False, True)}
    pairs = [
        two - one
        for first, second in zip(times[False], times[True], strict=True)
        for one, two in zip(first, second, strict=True)
    ]
    quartiles = statistics.quantiles(pairs, n=4)
    return {
        "ratio": statistics.median(with_taps) / statistics.median(bare),
        "us_per_step": statistics.median(own) * 1e6,
        "identical_actions": all(one == actions[0] for one in actions),
        "ratio_of_fastest": statistics.median(two / one for one, two in zip(least[False], least[True], strict=True)),
        "ms_bare": statistics.median(bare) * 1e3,
        "ms_watched": statistics.median(with_taps) * 1e3,
        "us_added_median": quartiles[1] * 1e6,
        "us_added_quartiles": [round(quartiles[0] * 1e6), round(quartiles[2] * 1e6)],
        "us_per_step_least": min(own) * 1e6,
        "us_per_step_mean": statistics.fmean(own) * 1e6,
        "bytes_per_step": size / (steps + loop.settle_steps),
        "steps": len(bare),
    }


def run(
    loop: Loop, state: Any, steps: int, recorder: Recorder | None
) -> tuple[list[float], list[list[float]], list[float]]:
    """Seconds of each policy step, the actions, and seconds spent in taps in each of them."""
    obs = libero.settle(loop.env, libero.reset_to(loop.env, state), loop.settle_steps)
    taken, executed, own = [], [], []
    for _ in range(steps):
        before = recorder.own_seconds if recorder is not None else 0.0
        began = time.perf_counter()
        action = loop.act(obs)
        obs = loop.env.step(action)[0]
        taken.append(time.perf_counter() - began)
        executed.append(action)
        if recorder is not None:
            own.append(recorder.own_seconds - before)
    return taken, executed, own


if __name__ == "__main__":
    main()
