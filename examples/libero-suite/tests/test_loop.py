import evaluate
import pytest

from fixtures import STATES


def test_the_loop_is_healthy(vla_doctor, vla_trace, policy, task):
    env, instruction, init_states = task
    with vla_doctor.watch():
        evaluate.evaluate(policy, env, instruction, init_states[STATES[0]], max_steps=12)
    vla_doctor.assert_healthy(ignore=["VD603", "VD803"])  # cut short on purpose
    assert len(list(vla_trace.episode.queries())) == 12


@pytest.mark.vla(select=["VD2"])
def test_a_picture_that_is_only_flipped_would_be_noticed(vla_doctor, policy, task, monkeypatch):
    env, instruction, init_states = task
    prepare = evaluate.prepare
    monkeypatch.setattr(evaluate, "prepare", lambda frame, size: prepare(frame[:, ::-1], size))
    with vla_doctor.watch():
        evaluate.evaluate(policy, env, instruction, init_states[STATES[0]], max_steps=12)
    (finding,) = vla_doctor.findings("VD201")
    assert finding.evidence["seen"] == "flip-vertical"
