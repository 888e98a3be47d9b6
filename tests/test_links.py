"""Links by content: which frame an image is, which query's row was executed; and what cannot be told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from episodes import LIBERO_OBJECT, bin_centres, libero_command, some_ids, unnormalise
from episodes import episode as acted
from rendered import LIBERO, RIGHT, model_image, picture, recorded, rendered, turned

from vladoctor.facts import Facts
from vladoctor.facts.links import ImageLink, action_links, executed_by_query, image_links, summary
from vladoctor.profiles import Profile, load_profile
from vladoctor.records import Episode, Outcome, Query, Step

SHOTS = rendered("agentview")
WRIST = rendered("wrist")
UNKNOWN = load_profile("unknown")


def facts(episode: Episode, profile: Profile = LIBERO) -> Facts:
    return Facts(episode, profile)


def images(episode: Episode) -> tuple[ImageLink, ...]:
    return image_links(facts(episode))


def late(delay: int, shots: Sequence[Any] = SHOTS) -> Episode:
    """A loop that gives the model the frame of some steps ago."""
    given = [model_image(shots[max(0, number - delay)].frame, RIGHT) for number in range(len(shots))]
    return recorded(shots, images=given)


# Images.


def test_the_frame_of_the_own_step() -> None:
    found = images(recorded(SHOTS))
    assert [link.step for link in found] == list(range(len(SHOTS)))
    assert all(link.fresh and link.camera == "agentview" and not link.reason for link in found)
    assert {link.lies.element for link in found} == {"rot180"}
    assert max(link.last - link.first for link in found) == 0
    assert abs(found[0].lies.scale - 0.9**0.5) < 0.02


@pytest.mark.parametrize("delay", [1, 3])
def test_an_older_frame_is_found_and_its_step(delay: int) -> None:
    found = images(late(delay))
    assert [(link.first, link.last) for link in found[delay:]] == [
        (number - delay, number - delay) for number in range(delay, len(SHOTS))
    ]
    assert not any(link.fresh for link in found[delay:])
    assert "of an earlier step in 11 of them" in summary(facts(late(delay)))[0]


def test_frames_that_do_not_differ_are_named_together() -> None:
    still = [SHOTS[0]] * 4 + list(SHOTS[1:4])
    found = images(recorded(still))
    assert (found[3].first, found[3].last) == (0, 3)
    assert found[3].where == "agentview, one of steps 0 to 3"
    assert (found[5].first, found[5].last) == (5, 5)
    assert all(link.fresh for link in found)


def test_the_other_camera_and_further_images() -> None:
    episode = recorded(SHOTS[:4])
    steps = []
    for step, wrist in zip(episode.steps, WRIST, strict=False):
        assert step.query is not None
        assert step.query.image is not None
        query = replace(
            step.query,
            image=picture(model_image(wrist.frame, turned("flip-vertical"))),
            more_images={
                "observation/image": step.query.image,
                "goal": picture(np.full((64, 64, 3), 90, np.uint8)),
            },
        )
        steps.append(replace(step, frames={**step.frames, "wrist": picture(wrist.frame)}, query=query))
    found = images(replace(episode, steps=steps))
    by_slot = {slot: [link for link in found if link.slot == slot] for slot in ("", "observation/image", "goal")}
    assert {(link.camera, link.lies.element) for link in by_slot[""]} == {("wrist", "flip-vertical")}
    assert {(link.camera, link.lies.element) for link in by_slot["observation/image"]} == {("agentview", "rot180")}
    assert {link.reason for link in by_slot["goal"]} == {"the pictures show too little"}
    assert not any(link.found for link in by_slot["goal"])


def test_another_scene_is_linked_to_nothing() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (112, 112, 3), dtype=np.uint8)
    found = images(recorded(SHOTS[:6], images=[noise] * 6))
    assert not any(link.found for link in found)
    assert all("fits no frame that was recorded" in link.reason for link in found)
    assert (
        "6 of 6 model images could not be linked to a frame"
        in summary(facts(recorded(SHOTS[:6], images=[noise] * 6)))[0]
    )


def test_an_image_whose_own_step_has_no_frame_is_found_at_an_earlier_one() -> None:
    episode = recorded(SHOTS[:5])
    given = picture(model_image(SHOTS[2].frame, RIGHT))
    query = Query(image=given)
    steps = [replace(step, query=None) for step in episode.steps[:4]] + [Step(4, query=query)]
    (found,) = images(replace(episode, steps=steps))
    assert (found.camera, found.first, found.last) == ("agentview", 2, 2)
    (lost,) = images(replace(episode, steps=steps[-1:]))
    assert lost.reason == "no frame was recorded at its step or before"


# Actions.

Execute = Callable[[int, np.ndarray], "np.ndarray | None"]


def chunked(
    rows: int, every: int, execute: Execute, *, steps: int = 40, seed: int = 0, delay: int = 0, size: int = 7
) -> Episode:
    """A policy that answers `rows` rows every `every` steps; `execute`: (step, row due) -> what was executed."""
    rng = np.random.default_rng(seed)
    made: list[Step] = []
    chunks: dict[int, np.ndarray] = {}
    for number in range(steps):
        query = None
        if number % every == 0:
            chunks[number] = rng.uniform(-0.9, 0.9, (rows, size))
            query = Query(boundary="openpi.infer", chunk=tuple(map(tuple, chunks[number].tolist())))
        due = max(0, number - delay)
        row = chunks[due - due % every][due % every]
        done = execute(number, row)
        made.append(Step(number, query=query, executed=() if done is None else tuple(done.tolist())))
    return Episode({}, {}, made, Outcome("horizon", False, steps))


def test_one_answer_a_step_with_a_mapped_gripper() -> None:
    found = action_links(facts(acted(returned=unnormalise(LIBERO_OBJECT))))
    assert [(link.query, link.row, link.relation) for link in found.links] == [(n, 0, "mapped") for n in range(30)]
    assert [relation.kind for relation in found.relations] == ["same"] * 6 + ["two"]
    assert (found.relations[6].low, found.relations[6].high) == (1.0, -1.0)
    said = summary(facts(acted(returned=unnormalise(LIBERO_OBJECT))))
    assert "30 of 30 executed actions are the answer of the query of the same step" in said
    assert any("gripper becomes 1 up to" in sentence for sentence in said)


def test_rows_of_a_queue() -> None:
    episode = chunked(8, 5, lambda _, row: row)
    found = action_links(facts(episode, UNKNOWN))
    assert [(link.query, link.row) for link in found.links] == [(n - n % 5, n % 5) for n in range(40)]
    assert {link.relation for link in found.links} == {"same"}
    assert "40 of 40 executed actions are rows of an answer; 5 of every 8 rows were executed" in summary(facts(episode))


def test_unnormalised_outside_of_the_model() -> None:
    slope, offset = np.array([0.05, 0.05, 0.05, 0.5, 0.5, 0.5, 1.0]), np.linspace(-0.1, 0.1, 7)
    found = action_links(facts(chunked(8, 5, lambda _, row: slope * row + offset), UNKNOWN))
    assert len(found.explained) == 40
    assert [relation.kind for relation in found.relations] == ["line"] * 7
    assert np.allclose([relation.slope for relation in found.relations], slope)


def test_an_answer_that_comes_a_step_late() -> None:
    episode = chunked(1, 1, lambda _, row: row, delay=1)
    found = action_links(facts(episode, UNKNOWN))
    assert [(link.step, link.query) for link in found.links][1:] == [(n, n - 1) for n in range(1, 40)]
    assert any("the latest answer, 1 step late" in sentence for sentence in summary(facts(episode, UNKNOWN)))


def test_values_are_cut_to_what_the_environment_takes() -> None:
    found = action_links(facts(chunked(4, 4, lambda _, row: np.clip(1.3 * row / 0.9, -1, 1)), UNKNOWN))
    wide = action_links(facts(chunked(4, 4, lambda _, row: row), UNKNOWN))
    assert {link.relation for link in found.explained} == {"mapped", "clipped"}
    assert len(found.explained) == 40
    assert {link.relation for link in wide.explained} == {"same"}


def test_averages_over_several_rows_come_from_none() -> None:
    """A temporal ensemble: every step executes the mean of what the last answers say of it."""
    before: list[np.ndarray] = []

    def mean(_: int, row: np.ndarray) -> np.ndarray:
        before.append(row)
        return np.asarray(np.mean(before[-4:], axis=0))

    found = action_links(facts(chunked(1, 1, mean), UNKNOWN))
    assert [link.step for link in found.explained] == [0]
    assert "averaged over several" in found.links[-1].reason


def test_an_executed_action_that_depends_on_nothing() -> None:
    constant = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0])
    found = action_links(facts(chunked(1, 1, lambda _, row: constant), UNKNOWN))
    assert not found.explained
    assert "does not depend on what the policy answered" in found.links[0].reason


def test_only_ids_are_known() -> None:
    ids = some_ids()
    right = unnormalise(LIBERO_OBJECT)
    episode = acted(ids, executed=lambda centres: libero_command(right(centres)))
    found = action_links(facts(episode))
    assert (found.source, len(found.explained)) == ("normalised", 30)
    assert np.allclose(
        [relation.slope for relation in found.relations[:6]],
        [(high - low) / 2 for low, high in zip(LIBERO_OBJECT["q01"][:6], LIBERO_OBJECT["q99"][:6], strict=True)],
        atol=1e-4,
    )
    assert bin_centres(ids).shape == (30, 7)


def test_nothing_to_compare_is_said() -> None:
    bare = Episode({}, {}, [Step(0, query=Query(), executed=(0.0,) * 7)], Outcome("horizon", False, 1))
    assert action_links(facts(bare, UNKNOWN)).links[0].reason == "neither an answer nor the ids of one were recorded"
    short = chunked(1, 1, lambda _, row: np.append(row, 0.0))
    assert "an answer has 7 values, the environment takes 8" in action_links(facts(short, UNKNOWN)).links[0].reason
    assert action_links(facts(Episode({}, {}, [], Outcome("horizon", False, 0)), UNKNOWN)).links == ()


def test_padded_answers_are_compared_in_front() -> None:
    episode = chunked(8, 8, lambda _, row: row[:7], size=32)
    assert len(action_links(facts(episode, UNKNOWN)).explained) == 40


def test_what_was_executed_of_a_query_follows_the_links() -> None:
    episode = chunked(1, 1, lambda _, row: row, delay=1)
    done = executed_by_query(facts(episode, UNKNOWN))
    for number in range(39):
        assert done[number] == pytest.approx(episode.steps[number].query.chunk[0])  # type: ignore[union-attr]
    assert 39 not in done
