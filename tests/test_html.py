"""The HTML page of a run: self-contained, escaped, bounded, complete."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vladoctor.check import Abstention, Clear, Severity, Stage
from vladoctor.diagnosis import CheckResult, Diagnosis, Finding
from vladoctor.records import Episode, Frame, Outcome, Query, Step
from vladoctor.report import acquittal, html, markup
from vladoctor.report.acquittal import StageView
from vladoctor.report.svg import MAX_POINTS, Series, line_chart, number
from vladoctor.result import RunResult

VOID = {"br", "img", "meta", "wbr", "link", "input", "hr", "path"}
HOSTILE = "<script>alert(\"1\")</script> & 'quoted' 🤖 ضع الكوب </td>"

RUN: dict[str, Any] = {
    "versions": {
        "vladoctor": "0.1.0",
        "torch": "2.2.0",
        "transformers": "4.40.1",
        "mujoco": "3.8.1",
        "numpy": "1.26.4",
    },
    "spec": {"model": {"path": "fixtures/tiny-openvla", "device": "cpu"}, "suite": "libero_object", "seed": 7},
    "assets": {"kind": "stand-in", "note": "Procedural shapes of this project in the place of LIBERO's meshes."},
    "device": "cpu",
    "checkpoint": {
        "name": "tiny-openvla",
        "model_type": "openvla",
        "unnorm_key": "libero_object",
        "parameters": 7_541_237_184,
        "dtype": "bfloat16",
    },
    "profile": {"name": "openvla-libero", "reason": "unnorm_key libero_object and a fused vision tower"},
    "fault": "",
}


@cache
def scene(step: int, size: int = 128) -> np.ndarray:
    """A table with a basket, two cans and a gripper that moves, upside down as LIBERO has it."""
    rows, cols = np.mgrid[0:size, 0:size] / size
    frame = np.stack([190 - 60 * rows, 190 - 60 * rows, 186 - 60 * rows], axis=2)
    for top, left, height, width, colour in (
        (0.42, 0.68, 0.2, 0.22, (110, 70, 30)),
        (0.3, 0.48, 0.1, 0.07, (160, 30, 30)),
        (0.45, 0.2, 0.1, 0.07, (40, 70, 190)),
        (0.75 - 0.002 * step, 0.3 + 0.003 * step, 0.12, 0.2, (215, 215, 220)),
    ):
        inside = (abs(rows - top) < height / 2) & (abs(cols - left) < width / 2)
        frame[inside] = colour
    noise = np.random.default_rng(step).normal(0, 2, frame.shape)
    return np.clip(frame + noise, 0, 255).astype(np.uint8)[::-1]


def thumb(array: np.ndarray, size: int = 64) -> np.ndarray:
    return np.asarray(Image.fromarray(np.ascontiguousarray(array)).resize((size, size), Image.Resampling.BOX))


def frame(array: np.ndarray, full: bool = False) -> Frame:
    return Frame(array.shape[:2], lambda: thumb(array), (lambda: array) if full else None, 0.0, 255.0)


def steps(count: int, seed: int, pictures: Sequence[np.ndarray] | None = None, success: bool = False) -> list[Step]:
    """Steps of an episode whose model is given the raw frame flipped top to bottom."""
    noise = np.random.default_rng(seed)
    made = []
    for t in range(count):
        raw = pictures[t % len(pictures)] if pictures is not None else scene(t)
        wave = 0.6 * np.sin(np.arange(6) + t / 15) * np.exp(-t / 150) + noise.normal(0, 0.04, 6)
        grip = float(t < count * 0.4)
        action = (*(wave * (1, 1, 1, 0.1, 0.1, 0.1)).tolist(), grip)
        made.append(
            Step(
                t,
                frames={"agentview": frame(raw, full=t == 0)},
                query=Query(
                    prompt="In: What action should the robot take to pick up the can?\nOut:",
                    image=frame(raw[::-1], full=t == 0),
                    action_mass=tuple(1 - noise.random(7) * 0.01),
                    margin=tuple(noise.gamma(2, 0.8, 7)),
                    entropy=tuple(noise.gamma(3, 0.5, 7)),
                    action=action,
                ),
                executed=(*action[:6], -1.0 if grip else 1.0),
                reward=float(success and t == count - 1),
                done=success and t == count - 1,
                timings={
                    "render": 6.1 + noise.random(),
                    "image": 2.2,
                    "forward": 37 + noise.random() * 9,
                    "execute": 11.0,
                },
                memory={"cpu_rss": 1_300_000_000 + 1000 * t},
            )
        )
    return made


MIRRORED = Finding(
    "VD201",
    "image-orientation",
    Stage.IMAGE,
    Severity.STOP,
    0,
    None,
    "The model sees a mirrored scene: the raw frame was only flipped top to bottom. This checkpoint was trained on a "
    "180-degree rotation, so left and right are swapped.",
    "Turn the frame by 180 degrees before it is resized:\n\n"
    '    frame = obs["agentview_image"][::-1, ::-1]\n\nNothing else needs to change.',
    evidence={
        "found": "flip-vertical",
        "wanted": "rot180",
        "correlation": 0.9973,
        "next_best": 0.4312,
        "steps_agreeing": 24,
    },
    frames=(
        {"title": "What the model saw", "step": 0, "model": True},
        {"title": "What it should have seen", "step": 0, "camera": "agentview", "transform": "rot180"},
        {"title": "Raw camera frame", "step": 0, "camera": "agentview", "transform": ""},
    ),
)

SATURATED = Finding(
    "VD402",
    "bin-saturation",
    Stage.DECODE,
    Severity.LOOK,
    14,
    60,
    "`Δy` sits in an extreme bin in 38 % of the steps; the training statistics make 3 % likely.",
    "Look at the findings before this one first.",
    evidence={
        "per_dimension": {
            "share_of_extreme_bins": [0.02, 0.38, 0.01, 0, 0, 0.004, 0.99],
            "longest_run": [1, 17, 1, 0, 0, 1, 60],
        }
    },
    explained_by="VD201",
    symptom=True,
)

PROMPT = Finding(
    "VD301",
    "prompt-template",
    Stage.PROMPT,
    Severity.FIX,
    0,
    None,
    "The prompt lacks the newline before `Out:` and ends in two spaces, which gives other ids than in training.",
    "Build the prompt as\n```python\n"
    'prompt = f"In: What action should the robot take to {instruction.lower()}?\\nOut:"\n```',
    evidence={
        "diff": [
            ["=", "In: What action should the robot take to pick up the <can>?"],
            ["-", "\n"],
            ["+", " "],
            ["=", "Out:"],
            ["+", "  "],
        ],
        "expected": "drawn by diff",
        "seen": "drawn by diff",
    },
)

CHECKS = (
    CheckResult(
        "VD101", "black-image", "passed", clears=(Clear("every frame has content", {"frames": 114, "darkest": 31}),)
    ),
    CheckResult("VD501", "unnorm-scale", "abstained", abstentions=(Abstention("no ids were recorded", missing=True),)),
    CheckResult("VD403", "constant-action", "abstained", abstentions=(Abstention("the scene does not change"),)),
    CheckResult(
        "VD401", "non-action-token", "crashed", error="Traceback (most recent call last):\nKeyError: 'ids <b>'\n"
    ),
)


def diagnosis(
    findings: Sequence[Finding] = (),
    *,
    number_: int = 0,
    count: int = 60,
    ended: str = "horizon",
    checks: Sequence[CheckResult] = CHECKS[:1],
    pictures: Sequence[np.ndarray] | None = None,
    language: str = "pick up the alphabet soup and place it in the basket",
    **more: Any,
) -> Diagnosis:
    success = ended == "success"
    task = {"suite": "libero_object", "task_id": 0, "name": "soup", "language": language, "init_state": 30 + number_}
    episode = Episode(
        RUN,
        {**task, "seed": 7, "episode": number_, "horizon": 280},
        steps(count, number_, pictures, success),
        Outcome(ended, success, count),
        **{"source": f"/somewhere/private/traces/episode-{number_:03d}.mcap", **more},
    )
    failed = [CheckResult(f.code, f.name, "failed", (f,)) for f in findings]
    return Diagnosis(episode, (*failed, *checks), tuple(findings))


def result(*diagnoses: Diagnosis, **run: Any) -> RunResult:
    return RunResult(spec=None, run={**RUN, **run}, diagnoses=diagnoses)


def broken(number_: int = 0, **more: Any) -> Diagnosis:
    return diagnosis([MIRRORED, SATURATED, PROMPT], number_=number_, checks=CHECKS, **more)


class Page(HTMLParser):
    """Well-formed or an error; collects tags, text and what is loaded from where."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert all(name.replace("-", "").isalpha() for name, _ in attrs), f"{attrs} at {self.getpos()}"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open[-1:] == [tag], f"</{tag}> closes {self.open[-3:]} at {self.getpos()}"
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_verdict_names_the_root_cause_of_most_episodes() -> None:
    page = Page(html.render(result(broken(0), broken(1), diagnosis(ended="success", number_=2))))
    assert page.words.startswith("2 of 3 episodes: the model sees a mirrored scene")
    assert "flipped top to bottom (VD201). Fix this first." in page.words
    assert MIRRORED.message in page.words
    assert "1 of 3 episodes without a finding" in page.words


def test_gravest_finding_leads_even_where_a_milder_one_is_more_frequent() -> None:
    mild = replace(SATURATED, explained_by="")
    page = Page(html.render(result(diagnosis([mild]), diagnosis([mild], number_=1), diagnosis([MIRRORED], number_=2))))
    assert "1 of 3 episodes: the model sees a mirrored scene" in page.words
    assert "2 of 3 episodes otherwise: VD402 bin-saturation" in page.words


def test_only_a_loop_judged_at_every_stage_is_acquitted_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    judged = [StageView(stage, "right", ("VD000",), (), 1) for stage in Stage]
    monkeypatch.setattr(acquittal, "stages", lambda result: judged)
    page = Page(html.render(result(diagnosis(ended="success"))))
    assert "the loop is as this checkpoint expects; what is left is the policy" in page.words


def test_healthy_run_says_so_and_shows_frames_and_actions() -> None:
    page = Page(html.render(result(diagnosis(ended="success"))))
    assert "Nothing wrong in what was looked at." in page.words
    assert "judged by no check:" in page.words
    assert "what is left is the policy" not in page.words
    assert len(page.all("img")) == 2 * html.STRIP
    assert len([a for a in page.all("svg") if a.get("role") == "img"]) == 7 + 3
    assert "1 of 1 succeeded" in page.words
    assert "every frame has content frames 114, darkest 31" in page.words


@pytest.mark.parametrize(
    ("diagnoses", "failures", "sentence"),
    [
        ([], ["task 3 could not start"], "No episode was recorded"),
        (
            [diagnosis(count=3)],
            ["task 3 could not start"],
            "The run broke off; in 1 episode recorded there is no finding",
        ),
        (
            [diagnosis(count=3, checks=CHECKS[1:2])],
            [],
            "No finding in 1 episode, but in 1 of them not all could be looked at",
        ),
    ],
)
def test_a_run_without_verdict_is_not_called_healthy(
    diagnoses: list[Diagnosis], failures: list[str], sentence: str
) -> None:
    page = Page(html.render(RunResult(None, RUN, diagnoses, failures=failures)))
    assert sentence in page.words
    assert "Healthy" not in page.words
    for failure in failures:
        assert failure in page.words


def test_every_finding_and_everything_said_about_it_is_there() -> None:
    page = Page(html.render(result(broken())))
    for finding in (MIRRORED, SATURATED, PROMPT):
        assert f"{finding.code} {finding.name}" in page.words
        assert f"stage {finding.stage.value}, from step {finding.first_step}" in page.words
    assert "from step 14 to 60" in page.words
    assert 'frame = obs["agentview_image"][::-1, ::-1]' in page.words
    assert "correlation" in page.words
    assert "0.997" in page.words
    assert "share of extreme bins 0.02 0.38 0.01" in page.words
    assert "What follows from it" in page.words
    assert page.words.index("What follows from it") < page.words.index("VD402 bin-saturation stage decode")
    assert "drawn by diff" not in page.words
    assert "no ids were recorded" in page.words
    assert "the scene does not change" in page.words
    assert "KeyError: 'ids <b>'" in page.words
    assert "VD401 non-action-token crashed" in page.words
    titles = [image["alt"] for image in page.all("img")]
    assert titles[:3] == ["What the model saw, step 0", "What it should have seen, step 0", "Raw camera frame, step 0"]


def test_run_is_described() -> None:
    page = Page(html.render(result(broken(), fault="flip-vertical")))
    for words in (
        "Fault injected: flip-vertical.",
        "Assets: stand-in.",
        "Procedural shapes of this project",
        "tiny-openvla openvla, 7.54 B parameters, bfloat16, unnorm_key libero_object",
        "Compared with the profile openvla-libero",
        "unnorm_key libero_object and a fused vision tower",
        "transformers 4.40.1",
        "0 %, 95 % interval 0 to 79 % (Wilson, n = 1)",
    ):
        assert words in page.words


def test_page_is_self_contained_and_inert() -> None:
    text = html.render(result(broken(), diagnosis(number_=1)))
    page = Page(text)
    assert not [name for name, _ in page.tags if name in ("script", "link", "iframe", "object", "base")]
    assert not re.search(r"""(?:src|href|url)\s*[=(]\s*["']?\s*(?:https?:)?//""", text)
    assert all((image["src"] or "").startswith("data:image/") for image in page.all("img"))
    assert all(image["alt"] for image in page.all("img"))
    assert all((link["href"] or "").startswith("#") for link in page.all("a"))
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert {(link["href"] or "")[1:] for link in page.all("a")} <= ids
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "/somewhere/private" not in text
    style = text[text.index("<style>") : text.index("</style>")]
    assert style.count("{") == style.count("}")


def test_nothing_of_the_run_is_read_as_markup() -> None:
    finding = replace(
        PROMPT,
        message=HOSTILE,
        remedy=f"{HOSTILE}\n\n    {HOSTILE}\n\n`{HOSTILE}`",
        evidence={
            "diff": [["-", HOSTILE], ["+", HOSTILE]],
            "other <i>": HOSTILE,
            "per_dimension": {HOSTILE: [HOSTILE]},
        },
        frames=({"title": HOSTILE, "step": 0, "model": True}, {"title": HOSTILE, "step": 9999, "model": True}),
    )
    seen = CheckResult("VD101", HOSTILE, "passed", clears=(Clear(HOSTILE, {HOSTILE: HOSTILE}),))
    text = html.render(
        result(
            diagnosis([finding], language=HOSTILE, checks=[seen], source=HOSTILE),
            versions={HOSTILE: HOSTILE},
            fault=HOSTILE,
            spec={HOSTILE: HOSTILE},
        )
    )
    page = Page(text)
    assert not page.all("script")
    assert "<script" not in text
    assert HOSTILE in page.words


def test_missing_and_broken_pictures_are_named_not_fatal() -> None:
    def damaged() -> np.ndarray:
        raise OSError("truncated")

    made = diagnosis([MIRRORED], count=4)
    made.episode.steps[0].frames = {"agentview": Frame((128, 128), damaged)}
    page = Page(html.render(result(made)))
    assert "cannot be read: truncated" in page.words
    page = Page(html.render(result(Diagnosis(replace(made.episode, steps=[]), (), (MIRRORED,)))))
    assert "this step was not recorded" in page.words


def test_settings_that_no_trace_must_have() -> None:
    bare = Diagnosis(Episode({}, {}, [Step(0)], Outcome("exception", False, 1, "ValueError: <x>"), True), (), ())
    page = Page(html.render(RunResult(None, {}, [bare])))
    assert "ValueError: <x>" in page.words
    assert "the recording ends without its closing record" in page.words


def test_size_of_four_episodes() -> None:
    pictures = [scene(t, 256) for t in range(0, 280, 4)]
    text = html.render(result(*(broken(n, count=280, pictures=pictures) for n in range(4))))
    assert len(text) < 2_000_000


def test_many_episodes_do_not_explode() -> None:
    many = [diagnosis([], number_=n, count=12, ended="success") for n in range(470)]
    many += [diagnosis([MIRRORED], number_=n, count=12) for n in range(470, 499)]
    many += [diagnosis([PROMPT], number_=499, count=12)]
    text = html.render(result(*many))
    page = Page(text)
    assert len(text) < 2_500_000
    details = [a for a in page.all("details") if a.get("class") == "episode"]
    assert len(details) == html.DETAILED
    assert len(re.findall(r"<td data-label=\"Init state\">", text)) == 500
    assert "Of the other 480 only the row is here" in page.words
    assert 'id="episode-500"' in text, "a kind of finding is shown before the repetitions of another"


def test_output_is_deterministic_and_written_in_one_piece(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "report.html"
    html.write_html(result(broken()), path)
    first = path.read_bytes()
    html.write_html(result(broken()), path)
    assert path.read_bytes() == first
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]


def test_the_expected_frame_is_the_raw_one_transformed() -> None:
    page = Page(html.render(result(diagnosis([MIRRORED], count=2))))
    saw, should, raw = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode((image["src"] or "").split(",")[1]))), dtype=float)
        for image in page.all("img")[:3]
    )
    assert abs(should - raw[::-1, ::-1]).mean() < 6 < abs(saw - should).mean()


def test_prompt_difference_shows_whitespace() -> None:
    expected, given = markup.difference([["=", "a b"], ["-", "\n"], ["+", "\t\u200b<"]])
    assert str(expected) == ('a<span class="ws">·</span><wbr>b<del><span class="ws">↵</span>\n</del>')
    assert str(given) == (
        'a<span class="ws">·</span><wbr>b<ins><span class="ws">⇥</span><span class="ws">⟨U+200B⟩</span>&lt;</ins>'
    )


def test_prose_knows_code_lists_and_headings() -> None:
    text = markup.prose(
        "Do *it* `a<b`:\n    x = 1\n    y = 2\nThen\n- one\n- two\n  more\n\n## Why\nBecause.\n```\n# c\n```"
    )
    assert str(text) == (
        '<p>Do <em>it</em> <code>a&lt;b</code>:</p><pre class="code"><code>x = 1\ny = 2</code></pre><p>Then</p>'
        "<ul><li>one</li><li>two more</li></ul><h4>Why</h4><p>Because.</p>"
        '<pre class="code"><code># c</code></pre>'
    )


def test_chart_breaks_at_gaps_and_keeps_peaks_when_thinned() -> None:
    chart = str(line_chart("Δx", [Series("returned", "line-a", range(5), [0.0, 1.0, None, float("nan"), 0.5])]))
    assert chart.count("M") == 2
    assert line_chart("Δx", [Series("returned", "line-a", [0], [None])]) == ""
    values = [0.0] * 10_000
    values[7777] = 1.0
    chart = str(line_chart("Δx", [Series("returned", "line-a", range(10_000), values)]))
    assert len(chart) < 12 * MAX_POINTS
    assert re.search(r"l\d+ -1\d\d", chart), "the one peak is drawn"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.99734, "0.997"),
        (-12.345, "-12.3"),
        (123456.7, "123457"),
        (1e-7, "1.00e-7"),
        (float("nan"), "NaN"),
    ],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert number(value) == text
