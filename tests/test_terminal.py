"""What a person reads at the end of a run, and while it runs."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from diagnoses import ORIENTATION, PROMPT, SATURATION, SCALE, diagnosis, result
from rich.console import Console

from vladoctor.check import Abstention
from vladoctor.records import Outcome
from vladoctor.report.console import ASCII, Glyphs, visible
from vladoctor.report.terminal import Bars, Lines, make_progress, print_summary
from vladoctor.result import RunResult

WIDTHS = (60, 80, 120)
MIXED = result(
    diagnosis(30, [PROMPT, SCALE, SATURATION]),
    diagnosis(31, [ORIENTATION]),
    diagnosis(32, outcome=Outcome("exception", False, 12, "RuntimeError: CUDA out of memory [tried 20 MiB]")),
    diagnosis(33, abstained={"VD201": Abstention("the frames look the same")}, crashed=["VD501"]),
    diagnosis(34, truncated=True, outcome=Outcome("interrupted", False, 40)),
    failures=["task 3, init state 77: there is no such init state"],
)


def _text(run: RunResult, width: int = 80, *, colour: bool = False, reports: tuple[Path, ...] = ()) -> str:
    stream = io.StringIO()
    print_summary(run, reports=reports, stream=stream, width=width, colour=colour)
    return stream.getvalue()


def _joined(text: str) -> str:
    """Without line breaks, so that wrapping does not matter."""
    return " ".join(text.split())


def test_root_cause_first_then_what_follows_then_what_to_do() -> None:
    text = _joined(_text(result(diagnosis(findings=[ORIENTATION, SATURATION]))))
    parts = [
        "task0-init30-ep0: VD201 image-orientation",
        "stop · stage image · from step 0 on",
        "flipped vertically only",
        "expected rot180",
        "seen flip-vertical",
        "→ Rotate by 180 degrees: `frame = frame[::-1, ::-1]`.",
        "vladoctor explain VD201",
        "What follows from it:",
        "└ VD402 bin-saturation (look, steps 14 to 63)",
        "Found right: VD101 black-image, VD301 prompt-template",
        "Success: 0 of 1 episode = 0 %",
        "root cause: VD201. Stop: the numbers of this run mean nothing.",
        "Exit status 1",
    ]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)


def test_prompt_difference_shows_its_white_space_without_colour() -> None:
    text = _joined(_text(result(diagnosis(findings=[PROMPT])), 120))
    assert "to pick up the soup?[-↵-]{+·+}Out:" in text
    assert "[-expected, not sent-] {+sent, not expected+}" in text


def test_texts_with_little_in_common_are_shown_one_under_the_other() -> None:
    diff = [["=", "a"], ["-", "b"], ["=", "c"], ["+", "d"]] * 4
    evidence = {"expected": "acac\n", "seen": "acd acd", "diff": diff}
    text = _text(result(diagnosis(findings=[replace(PROMPT, evidence=evidence)])))
    assert re.search(r"^ +expected acac↵ *\n +seen +acd acd *$", text, re.MULTILINE)
    assert "[-" not in text


def test_code_in_a_remedy_is_indented() -> None:
    remedy = 'Build it as\n```python\nprompt = f"In: {x}"\nif y:\n    z()\n```\nand no other way.'
    text = _text(result(diagnosis(findings=[replace(PROMPT, remedy=remedy)])))
    lines = [line.rstrip() for line in text.splitlines()]
    start = lines.index("    → Build it as")
    assert lines[start + 1 : start + 5] == [
        '          prompt = f"In: {x}"',
        "          if y:",
        "              z()",
        "      and no other way.",
    ]


def test_dimensions_of_an_action_have_their_names() -> None:
    text = _text(result(diagnosis(findings=[SCALE])))
    assert re.search(r"^ +x +0\.0358 *$", text, re.MULTILINE)
    assert re.search(r"^ +gripper +1 *$", text, re.MULTILINE)


def test_healthy_run_says_what_was_found_right() -> None:
    text = _joined(_text(result(diagnosis(30), diagnosis(31))))
    assert "✓ VD201 image-orientation: the model's image is the frame rotated by 180 degrees, as expected" in text
    assert "Healthy: 6 checks looked at 2 episodes and found nothing wrong." in text
    assert "Success: 2 of 2 episodes = 100 % (95 % interval 34 % to 100 %)" in text
    assert "Exit status" not in text


def test_healthy_loop_with_a_policy_that_fails_is_told_apart() -> None:
    text = _joined(_text(result(diagnosis(30, outcome=Outcome("horizon", False, 280)))))
    assert "Healthy" in text
    assert "not among what these checks can see" in text


def test_same_headline_is_told_once() -> None:
    text = _text(result(*(diagnosis(state, [ORIENTATION, SATURATION]) for state in range(60))))
    assert text.count("flipped vertically only") == 1
    assert "60 of 60 episodes: VD201 image-orientation" in text
    assert "and 40 more" in text
    assert len(text.splitlines()) < 60


def test_one_episode_alone_is_named() -> None:
    text = _joined(_text(result(diagnosis(30), diagnosis(31, [SCALE]))))
    assert "1 of 2 episodes (task0-init31-ep0): VD501 unnorm-scale" in text


def test_everything_that_went_wrong_is_told() -> None:
    text = _joined(_text(MIXED))
    for part in [
        "task 3, init state 77: there is no such init state",
        "1 of 5 episodes: the loop raised an exception after 12 steps",
        "RuntimeError: CUDA out of memory [tried 20 MiB]",
        "also in task0-init30-ep0: VD501 unnorm-scale",
        "? VD201 image-orientation in 1 of 5 episodes: the frames look the same",
        "? the recording ends without its closing record",
        "! VD501 unnorm-scale crashed in 1 of 5 episodes: ZeroDivisionError: division by zero",
        "a defect of the check, not of your loop",
        "2 more did not run to an end and are not counted",
        "Exit status 2",
    ]:
        assert part in text


def test_nothing_judged_is_not_healthy() -> None:
    silent = dict.fromkeys(("VD101", "VD201", "VD301", "VD401", "VD402", "VD501"), Abstention("nothing to see"))
    for run in (result(), result(diagnosis(abstained=silent))):
        text = _text(run)
        assert "Nothing could be judged" in text
        assert "Healthy" not in text


def test_crashed_check_is_not_healthy() -> None:
    text = _text(result(diagnosis(crashed=["VD501"])))
    assert "Healthy" not in text
    assert "not everything could be judged" in text


@pytest.mark.parametrize("width", WIDTHS)
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    for run in (MIXED, result(diagnosis())):
        assert max(map(len, _text(run, width).splitlines())) <= width


def test_report_path_stands_whole_on_one_line() -> None:
    path = Path("/a/very/long/path/that/does/not/fit/into/sixty/columns/at/all/report.html")
    assert f"Report: {path}\n" in _text(result(diagnosis()), 60, reports=(path,))


def test_colour_only_where_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b[" not in _text(MIXED)
    assert "\x1b[1;31m" in _text(MIXED, colour=True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[1;31m" not in _text(MIXED, colour=True)


def test_same_words_with_and_without_colour() -> None:
    assert re.sub(r"\x1b\[[0-9;]*m", "", _text(MIXED, colour=True)) == _text(MIXED)


def test_terminal_without_unicode() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    print_summary(result(diagnosis(findings=[PROMPT, SATURATION])), stream=stream, width=80)
    stream.flush()
    text = stream.buffer.getvalue().decode("ascii")
    assert "[-\\n-]{+_+}" in _joined(text)


def test_invisible_characters_become_visible() -> None:
    assert visible("a b\n\tc\r\u200b\x1b", Glyphs()) == "a·b↵⇥c\\r\\u200b\\u001b"
    assert visible("a b\n", ASCII, spaces=False) == "a b\\n"


def test_progress_in_a_log_file_is_lines() -> None:
    stream = io.StringIO()
    progress = make_progress(stream)
    assert isinstance(progress, Lines)
    progress.note("assets: stand-in")
    progress.start(2)
    progress.episode_start("task0-init30-ep0")
    for step in range(93):
        progress.step(step, 280, 37.0)
    progress.episode_end("task0-init30-ep0", Outcome("success", True, 93), [])
    progress.episode_start("task0-init31-ep0")
    progress.episode_end("task0-init31-ep0", Outcome("horizon", False, 280), [ORIENTATION, SATURATION])
    progress.finish()
    assert stream.getvalue().splitlines() == [
        "assets: stand-in",
        "episode 1 of 2: task0-init30-ep0: success after 93 steps, nothing found",
        "episode 2 of 2: task0-init31-ep0: failed after 280 steps, VD201 image-orientation and 1 more",
    ]


def test_long_episode_gives_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr("vladoctor.report.terminal.time.monotonic", lambda: next(clock))
    stream = io.StringIO()
    progress = make_progress(stream)
    progress.start(1)
    progress.episode_start("task0-init30-ep0")
    for step in range(9):
        progress.step(step, 280, 500.0)
    assert "episode 1 of 1: step 3 of 280, 500 ms" in stream.getvalue()
    assert len(stream.getvalue().splitlines()) <= 3


@pytest.mark.parametrize("width", WIDTHS)
def test_progress_on_a_terminal_is_bars(width: int) -> None:
    stream = io.StringIO()
    bars = Bars(Console(file=stream, force_terminal=True, width=width))
    bars.note("loading tiny-openvla")
    bars.start(2)
    bars.episode_start("task0-init30-ep0")
    for step in range(20):
        bars.step(step, 280, 37.0)
    bars.bars.refresh()
    bars.episode_end("task0-init30-ep0", Outcome("success", True, 93), [])
    bars.bars.refresh()
    bars.finish()
    text = stream.getvalue()
    for part in ("loading tiny-openvla", "20/280", "37 ms/step", "success after 93 steps", "1/1 success"):
        assert part in text
    assert text.endswith("\x1b[2K") or "\x1b[?25h" in text


def test_bars_that_were_never_started_can_finish() -> None:
    Bars(Console(file=io.StringIO(), force_terminal=True)).finish()
