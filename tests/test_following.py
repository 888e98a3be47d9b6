"""A single odd step in the middle of an episode is found, at its step, although queries are judged together.

Episodes go through a trace, so that what is judged is what was measured when they were recorded, and once without that,
as older recordings are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rendered import LIBERO, RIGHT, Rendered, facts, model_image, recorded, rendered, turned

from vladoctor import session
from vladoctor.check import Problem
from vladoctor.checks import (
    vd101_black_image,
    vd102_frozen_image,
    vd201_image_orientation,
    vd202_center_crop,
    vd203_channel_order,
    vd205_pixel_normalisation,
)
from vladoctor.errors import UserError
from vladoctor.facts import Facts
from vladoctor.facts.following import matches, track
from vladoctor.facts.lags import image_ages
from vladoctor.facts.links import image_links
from vladoctor.facts.registration import register
from vladoctor.facts.sampling import spread
from vladoctor.records import Episode, Outcome
from vladoctor.trace import TraceWriter, capture, pictures_of, read_episode

BETWEEN = 8
ODD = (1, 41, 86)
"""Steps at which something is odd; episodes have 88."""

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def moving() -> list[Rendered]:
    """Frames of an episode, blended between those that were rendered, so that no two are the same."""
    shots: list[Rendered] = []
    for one, other in pairwise(rendered("agentview")):
        for part in np.arange(BETWEEN) / BETWEEN:
            frame = np.rint((1 - part) * one.frame + part * other.frame).astype(np.uint8)
            eef = tuple((1 - part) * np.array(one.eef) + part * np.array(other.eef))
            shots.append(Rendered(frame, len(shots), eef))
    return shots


SHOTS = moving()
IMAGES = [model_image(shot.frame, RIGHT) for shot in SHOTS]


def stats_of(image: np.ndarray) -> dict[str, Any]:
    values = (image.reshape(-1, 3) / 255.0 - MEAN) / STD
    return {name: getattr(values, name)(axis=0).tolist() for name in ("mean", "min", "max")}


STATS = [stats_of(image) for image in IMAGES]


@pytest.fixture(params=["measured when recorded", "measured when judged"])
def judged(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Facts]:
    """Makes the facts of an episode, of frames, images and statistics that a test has changed."""

    def make(
        shots: Sequence[Rendered] = SHOTS, images: Sequence[np.ndarray] = IMAGES, stats: Sequence[Any] = STATS
    ) -> Facts:
        episode = recorded(shots, images=images, stats=stats)
        if request.param == "measured when judged":
            return facts(episode)
        return facts(through_a_trace(episode, tmp_path / "episode.mcap"))

    return make


def through_a_trace(episode: Episode, path: Path) -> Episode:
    with TraceWriter(path, episode.run, episode.task, full_every=0) as writer:
        for step in episode.steps:
            writer.write_step(step)
        writer.close(Outcome("horizon", False, len(episode.steps)))
    return read_episode(path)


def problems(check: Any, made: Facts) -> list[Problem]:
    return [verdict for verdict in check.judge(made, check.thresholds) if isinstance(verdict, Problem)]


def changed(values: Sequence[Any], at: int, value: Any) -> list[Any]:
    return [*values[:at], value, *values[at + 1 :]]


def test_nothing_is_odd_in_a_healthy_episode(judged: Callable[..., Facts]) -> None:
    made = judged()
    for check in (vd101_black_image, vd102_frozen_image, vd201_image_orientation, vd203_channel_order):
        assert problems(check.CHECK, made) == []
    assert {(link.first, link.last) == (link.step, link.step) for link in image_links(made)} == {True}
    (ages,) = image_ages(made)
    assert (len(ages.decided) >= len(SHOTS) - 2, ages.stale) == (True, [])


@pytest.mark.parametrize("odd", ODD)
def test_one_black_frame(judged: Callable[..., Facts], odd: int) -> None:
    made = judged(shots=changed(SHOTS, odd, replace(SHOTS[odd], frame=np.zeros_like(SHOTS[odd].frame))))
    (found,) = problems(vd101_black_image.CHECK, made)
    assert (found.first_step, found.last_step) == (odd, odd)


@pytest.mark.parametrize("odd", ODD)
def test_one_black_image(judged: Callable[..., Facts], odd: int) -> None:
    black = np.zeros_like(IMAGES[odd])
    made = judged(images=changed(IMAGES, odd, black), stats=changed(STATS, odd, stats_of(black)))
    (found,) = problems(vd101_black_image.CHECK, made)
    assert (found.first_step, found.last_step) == (odd, odd)


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("element", ["flip-vertical", "identity", "transpose"])
def test_one_turned_image(judged: Callable[..., Facts], odd: int, element: str) -> None:
    made = judged(images=changed(IMAGES, odd, model_image(SHOTS[odd].frame, turned(element))))
    found = {match.step: match.registration.element for match in matches(made)}
    assert found == {step: element if step == odd else "rot180" for step in range(len(SHOTS))}


def test_two_turned_images_are_named_at_the_first(judged: Callable[..., Facts]) -> None:
    images = list(IMAGES)
    for odd in (41, 60):
        images[odd] = model_image(SHOTS[odd].frame, turned("flip-vertical"))
    (found,) = problems(vd201_image_orientation.CHECK, judged(images=images))
    assert (found.first_step, found.last_step) == (41, 60)


@pytest.mark.parametrize("odd", ODD)
def test_one_other_crop(judged: Callable[..., Facts], odd: int) -> None:
    made = judged(images=changed(IMAGES, odd, model_image(SHOTS[odd].frame, RIGHT, area=0.75)))
    areas = {match.step: match.registration.scale**2 for match in matches(made)}
    assert areas == pytest.approx({step: 0.75 if step == odd else 0.9 for step in range(len(SHOTS))}, abs=0.02)


@pytest.mark.parametrize("odd", [41, 86])
def test_one_stale_image(judged: Callable[..., Facts], odd: int) -> None:
    made = judged(images=changed(IMAGES, odd, IMAGES[odd - 5]))
    stale = [link for link in image_links(made) if not link.fresh]
    assert [(link.step, link.first <= odd - 5 <= link.last) for link in stale] == [(odd, True)]
    (ages,) = image_ages(made)
    assert [(age.step, age.first <= odd - 5 <= age.last) for age in ages.stale] == [(odd, True)]


def test_one_image_of_the_other_camera(tmp_path: Path) -> None:
    wrist = rendered("wrist")
    episode = recorded(SHOTS, images=changed(IMAGES, 41, model_image(wrist[1].frame, RIGHT)), stats=STATS)
    for number, step in enumerate(episode.steps):
        step.frames = {**step.frames, "robot0_eye_in_hand": capture(wrist[number % len(wrist)].frame, keep=False)}
    made = facts(through_a_trace(episode, tmp_path / "episode.mcap"))
    assert [link.step for link in image_links(made) if link.camera != "agentview"] == [41]


@pytest.mark.parametrize("odd", [1, 41, 84])
def test_three_frozen_frames(judged: Callable[..., Facts], odd: int) -> None:
    shots = list(SHOTS)
    for place in (1, 2, 3):
        # The robot goes on.
        eef = (shots[odd].eef[0] + 0.05 * place, *shots[odd].eef[1:])
        shots[odd + place : odd + place + 1] = [Rendered(shots[odd].frame, odd + place, eef)]
    (found,) = problems(vd102_frozen_image.CHECK, judged(shots=shots[: len(SHOTS)]))
    # The first of them is the one that was drawn.
    assert found.first_step == odd + 1


@pytest.mark.parametrize("first", [2, 41, 70])
def test_exchanged_channels_from_some_step_on(judged: Callable[..., Facts], first: int) -> None:
    images = [image[..., ::-1] if step >= first else image for step, image in enumerate(IMAGES)]
    (found,) = problems(vd203_channel_order.CHECK, judged(images=[np.ascontiguousarray(image) for image in images]))
    assert (found.first_step, found.last_step) == (first, len(SHOTS) - 1)


@pytest.mark.parametrize("first", [2, 41, 70])
def test_values_without_normalisation_from_some_step_on(judged: Callable[..., Facts], first: int) -> None:
    raw = [{name: (np.array(one[name]) * STD + MEAN).tolist() for name in one} for one in STATS]
    profile = LIBERO.with_overrides({"image": {"pixel_mean": MEAN.tolist(), "pixel_std": STD.tolist()}})
    made = judged(stats=[*STATS[:first], *raw[first:]])
    (found,) = problems(vd205_pixel_normalisation.CHECK, Facts(made.episode, profile))
    assert found.first_step == first


def test_queries_together_say_what_each_would_say_by_itself(judged: Callable[..., Facts]) -> None:
    """Scores and windows are those of a search, to what thumbnails can tell."""
    made = judged()
    for match in matches(made)[:: len(SHOTS) // 8]:
        step, image = track(made).asked[match.step]
        alone = register(step.frames["agentview"].grey, image.grey)
        assert (match.registration.element, match.camera) == (alone.element, "agentview")
        assert match.registration.score == pytest.approx(alone.score, abs=0.01)
        assert match.registration.scales == pytest.approx(alone.scales, abs=0.012)


def test_what_is_recorded_of_a_picture_spares_decoding_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    episode = through_a_trace(recorded(SHOTS, images=IMAGES, stats=STATS), tmp_path / "episode.mcap")
    decoded: list[int] = []
    for step in episode.steps:
        for frame in pictures_of(step):
            load = frame.load_thumbnail
            monkeypatch.setattr(
                frame, "load_thumbnail", lambda load=load, step=step: (decoded.append(step.number), load())[1]
            )
    made = facts(episode)
    for check in (vd101_black_image, vd102_frozen_image, vd201_image_orientation):
        assert problems(check.CHECK, made) == []
    assert image_ages(made)
    assert decoded == []


def test_pictures_are_read_from_the_file_once_they_were_let_go(tmp_path: Path) -> None:
    episode = through_a_trace(recorded(SHOTS[:3], images=IMAGES[:3]), tmp_path / "episode.mcap")
    frames = [frame for step in episode.steps for frame in pictures_of(step)]
    before = [(frame.thumbnail.copy(), frame.grey.copy(), frame.identity) for frame in frames]
    for frame in frames:
        frame.release()
    for frame, (thumbnail, grey, identity) in zip(frames, before, strict=True):
        np.testing.assert_array_equal(frame.thumbnail, thumbnail)
        np.testing.assert_array_equal(frame.grey, grey)
        assert frame.identity == identity


def test_several_processes_say_what_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = recorded(SHOTS[:24], orient=turned("flip-vertical"), stats=STATS[:24])
    for number in range(4):
        episode = recorded(SHOTS[:24], images=IMAGES[:24], stats=STATS[:24]) if number % 2 else odd
        task = {**episode.task, "episode": number, "language": "pick up the soup"}
        through_a_trace(
            replace(episode, run={"checkpoint": {"name": "openvla"}}, task=task), tmp_path / f"{number}.mcap"
        )
    monkeypatch.setattr(session, "_HELD", 0)
    one, two = (session.replay_session([tmp_path], workers=workers) for workers in (1, 2))
    assert [diagnosis.episode.name for diagnosis in two.diagnoses] == [f"task?-ep{number}" for number in range(4)]
    assert [diagnosis.findings for diagnosis in one.diagnoses] == [diagnosis.findings for diagnosis in two.diagnoses]
    assert [diagnosis.results for diagnosis in one.diagnoses] == [diagnosis.results for diagnosis in two.diagnoses]
    assert two.diagnoses[0].episode.steps[3].frames["agentview"].thumbnail.shape == (64, 64, 3)


def test_recordings_are_judged_by_the_checks_that_are_asked_for(tmp_path: Path) -> None:
    """In the place of what the run itself selected; of a recording that holds no run too."""
    flipped = recorded(SHOTS[:24], orient=turned("flip-vertical"), stats=STATS[:24])
    own = {"loop": {"command": ["eval.py"]}, "checks": {"select": ["VD101"], "ignore": ["VD201"]}}
    for name, spec in (("own", own), ("none", {})):
        run = {"checkpoint": {"name": "openvla"}, "spec": spec}
        through_a_trace(replace(flipped, run=run), tmp_path / name / "0.mcap")

    def judged_by(name: str, **asked: list[str]) -> list[str]:
        result = session.replay_session([tmp_path / name], **asked)
        return [each.code for each in result.diagnoses[0].results]

    assert judged_by("own") == ["VD101"]
    assert judged_by("own", select=["image-orientation", "VD202"], ignore=["VD202"]) == ["VD201"]
    assert judged_by("none", select=["VD201", "VD101"]) == ["VD101", "VD201"]
    everything = judged_by("none")
    assert judged_by("none", ignore=["VD2"]) == [code for code in everything if not code.startswith("VD2")]
    with pytest.raises(UserError, match="--select"):
        judged_by("none", select=["VD999"])
    with pytest.raises(UserError, match="no check is left"):
        judged_by("none", select=["VD201"], ignore=["VD201"])


def test_a_stretch_is_looked_at_where_it_changed() -> None:
    changes = np.zeros(100, bool)
    changes[[30, 33, 70]] = True
    assert spread(100, 5) == [0, 24, 49, 74, 99]
    assert spread(100, 5, changes) == [0, 24, 30, 70, 99]
    assert spread(3, 5, changes[:3]) == [0, 1, 2]
    assert spread(0, 5) == []


def test_images_that_are_cropped_at_random_take_no_more_memory_the_more_there_are() -> None:
    """Each has windows of its own, and each window an outline of every frame."""
    draw = np.random.default_rng(0)
    count = 24
    images = []
    for shot in SHOTS[:count]:
        frame, side = RIGHT(shot.frame), int(draw.uniform(0.75, 1.0) * len(shot.frame))
        top, left = draw.integers(0, len(frame) - side + 1, 2)
        images.append(np.asarray(Image.fromarray(frame[top : top + side, left : left + side]).resize((128, 128))))
    made = facts(recorded(SHOTS[:count], images=images, stats=STATS[:count]))
    windows = {match.registration.offset for match in matches(made)}
    assert len(windows) > count // 2
    camera = track(made).camera("agentview")
    assert 0 < len(camera._outlines) <= 32


def test_an_image_of_another_moment_gives_no_window_to_those_after_it(judged: Callable[..., Facts]) -> None:
    """As of the last frame of the episode before, in the first query."""
    made = judged(images=changed(IMAGES, 0, IMAGES[-1]))
    windows = np.array([(*match.registration.scales, *match.registration.offset) for match in matches(made)[1:]])
    assert np.abs(windows - (0.9487, 0.9487, 0.0257, 0.0257)).max() < 0.012
    assert problems(vd202_center_crop.CHECK, made) == []
