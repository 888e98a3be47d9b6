"""What was seen of each stage, and why not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from episodes import LIBERO_OBJECT, unnormalise
from episodes import episode as acted
from rendered import recorded, rendered

from vladoctor.check import Stage
from vladoctor.facts.coverage import PARTLY, SEEN, STAGES, UNSEEN, Coverage, cover, sentence
from vladoctor.records import Episode, Outcome, Query, Step

SHOTS = rendered("agentview")


def table(episode: Episode) -> dict[str, Coverage]:
    return {one.stage: one for one in cover(episode)}


def states(episode: Episode) -> dict[str, str]:
    return {one.stage: one.state for one in cover(episode)}


def whole(**changes: Any) -> Episode:
    """A loop of which everything was seen: real frames, ids, actions."""
    acts = acted(returned=unnormalise(LIBERO_OBJECT), input_ids=(1, 2)).steps
    steps = []
    for shot, act in zip(recorded(SHOTS).steps, acts, strict=False):
        assert shot.query is not None
        assert act.query is not None
        query = replace(
            act.query, image=shot.query.image, pixel_stats={"mean": (0.0,)}, vision_calls=1, boundary="predict_action"
        )
        steps.append(replace(shot, query=replace(query, **changes), executed=act.executed, success=False))
    return Episode({}, {"environment": "libero"}, steps, Outcome("horizon", False, len(steps)))


CLIENT: dict[str, Any] = {
    "boundary": "openpi.infer",
    "ids": (),
    "input_ids": (),
    "pixel_stats": {},
    "vision_calls": None,
}


def test_the_stages_are_those_of_the_checks() -> None:
    assert tuple(stage.value for stage in Stage) == STAGES


def test_a_loop_that_is_seen_whole() -> None:
    covered = cover(whole())
    assert {one.state for one in covered} == {SEEN}
    assert {(one.steps, one.total) for one in covered} == {(12, 12)}
    assert sentence(covered) == f"seen: {', '.join(STAGES)}"


def test_a_client_of_another_process_is_no_hole() -> None:
    found = table(whole(**CLIENT))
    unseen = [name for name, one in found.items() if one.state == UNSEEN]
    assert unseen == ["process", "forward", "decode", "un-normalise"]
    assert all("another process" in found[name].why for name in unseen)
    assert not any(one.hole for one in found.values())
    assert sentence(cover(whole(**CLIENT)), brief=True).endswith(
        "not seen: process, forward, decode, un-normalise (the policy runs in another process)"
    )


def test_a_client_whose_server_was_recorded_too_is_seen_whole() -> None:
    found = states(whole(boundary="openpi.infer"))
    assert set(found.values()) == {SEEN}


def test_an_instruction_in_the_place_of_a_prompt_is_a_part() -> None:
    found = table(whole(**{**CLIENT, "boundary": "POST /act", "prompt": None, "options": {"instruction": "pick"}}))
    assert found["prompt"].state == PARTLY
    assert "made of it on the other side" in found["prompt"].why


def test_ids_without_an_answer_are_unnormalised_by_the_program() -> None:
    found = table(whole(action=None))
    assert (found["un-normalise"].state, found["post-process"].state) == (PARTLY, SEEN)
    assert "by itself" in found["un-normalise"].why
    assert not any(one.hole for one in found.values())


def test_no_policy_is_a_hole_with_a_remedy() -> None:
    episode = whole()
    steps = [replace(step, number=step.number - 12, query=None) for step in episode.steps]
    found = table(replace(episode, steps=steps))
    assert [name for name, one in found.items() if one.state == SEEN] == ["render", "observe", "execute", "score"]
    assert all("doctor.asked" in found[name].remedy for name in ("image", "forward", "post-process"))


def test_no_frames_are_a_hole_that_the_recorder_s_note_explains() -> None:
    episode = whole()
    steps = [replace(step, frames={}, proprio={}) for step in episode.steps]
    bare = replace(episode, steps=steps)
    assert table(bare)["render"].why == "no picture was found in the observations"
    noted = replace(bare, notes=("camera agentview is not recorded: the observation has no agentview_image",))
    assert table(noted)["render"].why == noted.notes[0]
    assert "EnvAdapter" in table(noted)["render"].remedy
    gpu = replace(
        bare, notes=("pixels is not recorded: it lies on a GPU, and fetching it would make the program wait",)
    )
    assert "CPU" in table(gpu)["observe"].remedy


def test_frames_at_some_steps_only() -> None:
    episode = whole()
    steps = [step if step.number < 6 else replace(step, frames={}) for step in episode.steps]
    found = table(replace(episode, steps=steps))["render"]
    assert (found.state, found.steps, found.total) == (PARTLY, 6, 12)
    assert found.why.startswith("not at 6 of 12 steps")
    # The last one may be a step that an exception kept from being made.
    steps = [*episode.steps[:-1], replace(episode.steps[-1], frames={})]
    assert table(replace(episode, steps=steps))["render"].state == SEEN


def test_an_environment_that_knows_no_success_is_no_hole() -> None:
    episode = whole()
    found = table(replace(episode, steps=[replace(step, success=None) for step in episode.steps]))["score"]
    assert (found.state, found.hole) == (UNSEEN, False)


def test_a_policy_alone_has_no_environment() -> None:
    steps = [Step(0, query=Query(prompt="p", ids=(1,), action=(0.0,), vision_calls=1))]
    alone = Episode({}, {"environment": "policy alone"}, steps, Outcome("interrupted", False, 1), truncated=True)
    found = table(alone)
    assert (
        found["render"].why
        == found["execute"].why
        == "no environment was stepped in this process: it is the policy's alone"
    )
    assert found["decode"].state == SEEN


def test_nothing_at_all() -> None:
    assert {one.state for one in cover(Episode({}, {}, [], Outcome("interrupted", False, 0)))} == {UNSEEN}


def test_pictures_left_out_for_the_budgets_sake_are_no_hole() -> None:
    episode = whole()
    steps = [
        step
        if step.number % 5 == 0 or step.query is None
        else replace(step, frames={}, query=replace(step.query, image=None))
        for step in episode.steps
    ]
    note = "from step 20 on, to stay within 1% of a step: no pictures of four steps in five"
    found = table(replace(episode, steps=steps, notes=(note,)))
    assert (found["render"].state, found["image"].state) == (PARTLY, PARTLY)
    assert note in found["render"].why
    assert note in found["image"].why
    assert not any(one.hole for one in found.values())


def test_a_recording_that_was_cut_off_has_lost_its_remarks_on_what_was_left_out() -> None:
    """As under a program that was killed on a machine with too much to do."""
    episode = replace(whole(), truncated=True, outcome=Outcome("interrupted", False, 12))
    rare = [step if step.number % 5 == 0 else replace(step, frames={}) for step in episode.steps]
    budget = {"limit": 0.01, "shed": ["full frames", "probabilities of tokens", "pictures of four steps in five"]}
    known = table(replace(episode, steps=rare, run={"budget": budget}))["render"]
    assert "to stay within 1% of a step: no pictures of four steps in five" in known.why
    unknown = table(replace(episode, steps=rare))["render"]
    assert "cut off" in unknown.why
    assert (known.state, unknown.state, known.hole, unknown.hole) == (PARTLY, PARTLY, False, False)
    never = table(replace(episode, steps=[replace(step, frames={}) for step in episode.steps]))["render"]
    assert never.hole
    assert "no picture was found" in never.why
