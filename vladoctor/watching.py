"""`vladoctor.watch()`: watches what is done inside a `with` block, and judges it at the block's end.

    import vladoctor

    with vladoctor.watch() as doctor:
        evaluate(policy, env)          # your loop, as it is
    print(doctor.summary())

For scripts, tests and notebook cells. Libraries may be imported already and environments and models made before: taps
sit on classes. What no tap knows is named by hand: `Doctor.watch_env`, `Doctor.watch_calls`, `Doctor.asked`.
"""

from __future__ import annotations

import html
import os
import shutil
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import vladoctor
from vladoctor.errors import UserError
from vladoctor.launch.attach import run_facts, silence
from vladoctor.runspec import ChecksSpec, LoopSpec, ProfileSpec, ReportSpec, RunSpec
from vladoctor.taps.environments import EnvAdapter
from vladoctor.taps.given import given
from vladoctor.taps.recorder import describe
from vladoctor.taps.watch import Watch

if TYPE_CHECKING:
    from vladoctor.diagnosis import Diagnosis, Finding
    from vladoctor.result import RunResult

E = TypeVar("E")

_FORMATS = {".sarif": "sarif", ".xml": "junit"}

NOTHING_SEEN = (
    "nothing was recorded: no environment that vladoctor knows was stepped and no policy asked; "
    "name yours with doctor.watch_env or doctor.watch_calls"
)


def watch(
    profile: str | None = None,
    out: str | Path | None = None,
    *,
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
    thresholds: Mapping[str, Mapping[str, float]] | None = None,
) -> Doctor:
    """Watch a `with` block and judge it.

    Args:
        profile: what the checkpoint expects: a profile's name, or a YAML file of your own; by default the one that fits
            the checkpoint.
        out: folder in which traces and reports are kept; by default they are gone after the block.
        select, ignore: codes of the checks to run, and to leave out.
        overrides: values by dotted key that replace the profile's.
        thresholds: limits by code.

    Raises:
        UserError: there is no such profile or check, or the folder holds traces already. Entering the block raises it
            where this process is being watched already.
    """
    spec = RunSpec(
        model=None,
        env=None,
        loop=LoopSpec(),
        report=ReportSpec(Path(out) if out is not None else Path("reports")),
        profile=ProfileSpec(overrides=dict(overrides or {})),
        checks=ChecksSpec(thresholds={code: dict(limits) for code, limits in (thresholds or {}).items()}),
        source="vladoctor.watch()",
    ).with_options(profile=profile, select=select, ignore=ignore)
    return Doctor(spec, Path(out) if out is not None else None)


class Doctor:
    """Watches while its block runs; afterwards it tells what was found.

    Attributes:
        folder: of traces and reports; None where none was named.
        result: the whole outcome, as the reports are made of it; None until the block has ended.
    """

    def __init__(self, spec: RunSpec, folder: Path | None) -> None:
        self.spec = spec
        self.folder = folder
        self.result: RunResult | None = None
        self._watch: Watch | None = None
        self._place = Path()
        self._speak: Callable[[], None] = _nothing

    # Watching.

    def __enter__(self) -> Doctor:
        __tracebackhide__ = True
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tracing: TracebackType | None
    ) -> None:
        self.close(error)

    def start(self) -> None:
        """Begin to watch; for notebooks in which the loop is spread over several cells. `close` ends it.

        Raises:
            UserError: this process is being watched already, or the folder holds traces of an earlier run.
        """
        __tracebackhide__ = True
        if self._watch is not None or self.result is not None:
            raise UserError("this doctor has been used", where="vladoctor.watch()", remedy="make another for each run")
        if self.folder is not None:
            from vladoctor.launch.command import refuse_recordings

            refuse_recordings(self.folder)
        place = self.folder or Path(tempfile.mkdtemp(prefix="vladoctor-"))
        run = {
            "process": os.getpid(),
            "parent": os.getppid(),
            "spec": self.spec.to_json(),
            "vladoctor": vladoctor.__version__,
        }
        watch = Watch(place, run=run, facts=run_facts)
        try:
            watch.start()
        except RuntimeError:
            if self.folder is None:
                shutil.rmtree(place, ignore_errors=True)
            raise UserError(
                "this process is being watched already",
                where="vladoctor.watch()",
                remedy="end the other one first: one `with vladoctor.watch()` at a time, and none in a program that "
                "`vladoctor diagnose -- ...` runs",
            ) from None
        self._watch, self._place = watch, place
        self._speak = silence()

    def close(self, error: BaseException | None = None) -> None:
        """End the watching and judge what was recorded. Nothing that goes wrong in it is raised.

        Args:
            error: with which the loop ended.
        """
        watch, self._watch = self._watch, None
        if watch is None:
            return
        watch.close(*_end(error))
        self._speak()
        try:
            self.result = self._judge(watch)
        except Exception:  # noqa: BLE001 - the program goes on, and learns it from the result
            from vladoctor.result import RunResult

            problem = f"the recordings could not be judged\n{traceback.format_exc()}"
            self.result = RunResult(self.spec, watch.run, folder=self.folder, failures=(problem,))
        if self.folder is None:
            shutil.rmtree(self._place, ignore_errors=True)

    def _judge(self, watch: Watch) -> RunResult:
        from dataclasses import replace

        from vladoctor.session import judge_traces
        from vladoctor.trace import find_traces

        traces = find_traces(self._place, missing_ok=True)
        result = judge_traces(traces, spec=self.spec, out=self.folder)
        if self.folder is None:
            for diagnosis in result.diagnoses:
                # It is about to be removed.
                diagnosis.episode.source = ""
        notes = dict.fromkeys([*result.notes, *watch.errors, *([] if traces else [NOTHING_SEEN])])
        return replace(result, notes=tuple(notes))

    # What no tap can see by itself.

    def watch_env(self, env: E, adapter: EnvAdapter | None = None) -> E:
        """Watch an environment of a kind that vladoctor does not know. Returns the same object.

        Args:
            env: anything with `reset` and `step`. Its class is tapped, and with it all others of that class.
            adapter: how to read it; by default as Gymnasium's: see `vladoctor.EnvAdapter`.
        """
        if self._watch is not None:
            self._watch.watch_env(env, adapter or EnvAdapter(type(env).__name__))
        return env

    def watch_calls(
        self, reset: Callable[..., Any], step: Callable[..., Any], adapter: EnvAdapter | None = None
    ) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """Watch an environment that consists of two functions. Returns what to call in their place."""
        if self._watch is None:
            return reset, step
        return self._watch.watch_calls(reset, step, adapter or EnvAdapter(getattr(step, "__name__", "step")))

    def asked(
        self,
        *,
        prompt: str | Sequence[str] | None = None,
        image: Any = None,
        images: Mapping[str, Any] | Sequence[Any] | None = None,
        state: Any = None,
        input_ids: Any = None,
        token_ids: Any = None,
        action: Any = None,
        chunk: Any = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Tell of a query of the policy that no tap can see, right after it: of an engine that returns lists, say.

        A batch is given as lists, a row for each query.

        Args:
            prompt: text that the policy was given.
            image: picture that it was given: uint8 (H, W, 3) or (3, H, W), floats in 0..1, or a PIL image.
            images: slot -> further pictures.
            state: numbers, or name -> numbers.
            input_ids: ids of the prompt.
            token_ids: ids that were generated.
            action: what the policy made of it, (action_dim,).
            chunk: or several actions, (rows, action_dim).
            options: whatever else is known of the call: unnorm_key, temperature.
        """
        watch = self._watch
        if watch is not None and watch.active:
            with watch.tap:
                given(
                    watch,
                    prompt=prompt,
                    image=image,
                    images=images,
                    state=state,
                    input_ids=input_ids,
                    token_ids=token_ids,
                    action=action,
                    chunk=chunk,
                    options=options,
                )

    def learn(self, **facts: Any) -> None:
        """Tell what no tap can read: facts for `records.Episode.run`, such as checkpoint={"norm_stats": {...}}."""
        if self._watch is not None:
            self._watch.learn(**facts)

    # What was found.

    @property
    def diagnoses(self) -> Sequence[Diagnosis]:
        """One for each episode; empty until the block has ended."""
        return self.result.diagnoses if self.result is not None else ()

    def findings(self, code: str | None = None) -> list[Finding]:
        """All findings: of each episode, root causes first, then of the run; those of one check by its code or name."""
        found = list(self.result.findings) if self.result is not None else []
        return found if code is None else [one for one in found if code in (one.code, one.name)]

    def summary(self, width: int = 100) -> str:
        """What was found, as text, `width` columns wide."""
        if self.result is None:
            return "watching" if self._watch is not None else "not watching yet"
        from vladoctor.report.terminal import summary_text

        return summary_text(self.result, width)

    def report(self, path: str | Path) -> Path:
        """Write the report: a page for a name that ends in .html, data for .json, SARIF for .sarif, JUnit for .xml.

        Raises:
            UserError: the block has not ended, or the name ends otherwise.
            OSError: the file cannot be written.
        """
        path = Path(path)
        if self.result is None:
            raise UserError("there is nothing to report yet", where=str(path), remedy="call it behind the `with` block")
        if path.suffix == ".html":
            from vladoctor.report.html import write_html

            write_html(self.result, path)
        elif path.suffix == ".json":
            from vladoctor.report.json import write_json

            write_json(self.result, path)
        elif path.suffix in _FORMATS:
            from vladoctor.report.formats import write_files
            from vladoctor.report.reported import of_run

            write_files(of_run(self.result), {_FORMATS[path.suffix]: path})
        else:
            known = ", ".join((".html", ".json", *_FORMATS))
            raise UserError("a report has a format by its name", where=str(path), remedy=f"end it in one of {known}")
        return path

    def track(self, *, tensorboard: str | Path | None = None, wandb: str | bool | None = None, step: int = 0) -> None:
        """Give experiment trackers a summary.

        Args:
            tensorboard: folder of its event files. step: where on its axis this run stands.
            wandb: True for the run that is active in this process; a project's name for one of its own where none is.

        Raises:
            UserError: the block has not ended, or the tracker is not installed.
        """
        if self.result is None:
            raise UserError("there is nothing to track yet", where="track", remedy="call it behind the `with` block")
        if tensorboard is not None:
            from vladoctor.report.tensorboard import write_tensorboard

            write_tensorboard(self.result, Path(tensorboard), step=step)
        if wandb:
            from vladoctor.report.wandb import log_wandb

            log_wandb(self.result, wandb if isinstance(wandb, str) else None)

    def __repr__(self) -> str:
        if self.result is None:
            return f"<Doctor: {self.summary()}>"
        codes = ", ".join(dict.fromkeys(finding.code for finding in self.findings()))
        return f"<Doctor: {len(self.diagnoses)} episodes, {codes or 'nothing found'}>"

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.summary())}</pre>"


def _end(error: BaseException | None) -> tuple[str, str]:
    """How episodes end that are going on when the block does."""
    if error is None:
        return "horizon", ""
    return ("exception" if isinstance(error, Exception) else "interrupted"), describe(error)


def _nothing() -> None:
    return None
