"""VD501 unnorm-scale: which statistics were used, and whether they are the right ones."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from episodes import (
    BRIDGE,
    LIBERO_OBJECT,
    MASK,
    bin_centres,
    episode,
    libero_command,
    some_ids,
    unnormalise,
)

from vladoctor.check import Abstention, Clear, Problem, Severity, Verdict
from vladoctor.checks.vd501_unnorm_scale import CHECK
from vladoctor.facts import Facts
from vladoctor.profiles import Profile, find_profile, load_profile
from vladoctor.records import Episode

LIBERO = load_profile("openvla-libero")
RIGHT = unnormalise(LIBERO_OBJECT)
BOTH = {"libero_object": LIBERO_OBJECT, "bridge_orig": BRIDGE}
FAULTS = {fault.name: fault for fault in CHECK.faults}
SPAN = np.array(LIBERO_OBJECT["q99"]) - np.array(LIBERO_OBJECT["q01"])


def verdicts(recorded: Episode, profile: Profile = LIBERO) -> list[Verdict]:
    return list(CHECK.judge(Facts(recorded, profile), dict(CHECK.thresholds)))


def judge(profile: Profile = LIBERO, **arguments: Any) -> Verdict:
    (verdict,) = verdicts(episode(**arguments), profile)
    return verdict


def problem(profile: Profile = LIBERO, **arguments: Any) -> Problem:
    verdict = judge(profile, **arguments)
    assert isinstance(verdict, Problem)
    return verdict


def ratios(found: Problem) -> list[float]:
    return found.evidence["per_dimension"]["scale_ratio"][:6]


def keep_gripper(change: Any) -> Any:
    return lambda action: libero_command(np.where(MASK, change(action), action))


# Must not fire.


@pytest.mark.parametrize(
    "returned",
    [RIGHT, lambda n: RIGHT(n).astype(np.float32), lambda n: RIGHT(n) + 0.5e-8 * (n + 1)],
    ids=["float64", "float32", "with OFT's epsilon"],
)
def test_the_right_statistics_are_clear(returned: Any) -> None:
    verdict = judge(returned=returned)
    assert isinstance(verdict, Clear)
    assert "libero_object reproduces all 30 actions" in verdict.message


def test_bfloat16_arithmetic_is_clear() -> None:
    def rounded(values: np.ndarray) -> np.ndarray:
        mantissa, exponent = np.frexp(values)
        return np.ldexp(np.round(mantissa * 256) / 256, exponent)

    verdict = judge(returned=lambda n: rounded(RIGHT(rounded(n))))
    assert isinstance(verdict, Clear)
    assert "to within a bin" in verdict.message


def test_another_key_with_the_same_numbers_is_right() -> None:
    stats = {"my_data": LIBERO_OBJECT, "bridge_orig": BRIDGE}
    assert isinstance(judge(returned=RIGHT, norm_stats=stats, options={"unnorm_key": "my_data"}), Clear)


def test_a_checkpoints_own_data_set_is_right() -> None:
    own = {**LIBERO_OBJECT, "q01": [-0.4] * 6 + [0.0]}
    stats = {"my_robot": own, "bridge_orig": BRIDGE}
    asked = {"unnorm_key": "my_robot"}
    assert isinstance(judge(returned=unnormalise(own), norm_stats=stats, options=asked), Clear)


def test_the_fixture_that_differs_from_the_published_set_of_its_name_is_right() -> None:
    own = {**LIBERO_OBJECT, "q01": [-1.0] * 3 + [-0.1] * 3 + [0.0], "q99": [1.0] * 3 + [0.1] * 3 + [1.0]}
    assert isinstance(judge(returned=unnormalise(own), norm_stats={"libero_object": own, "bridge_orig": BRIDGE}), Clear)


def test_clipped_ids_still_decode() -> None:
    ids = some_ids()
    ids[4, 2], ids[5, 0] = 2, 32010
    assert isinstance(judge(ids=ids, returned=RIGHT), Clear)


def test_what_the_controller_clips_anyway_may_be_clipped_before() -> None:
    wide = {**LIBERO_OBJECT, "q01": [-1.5] * 6 + [0.0], "q99": [1.5] * 6 + [1.0]}
    stats = {"libero_object": wide}
    clipped = keep_gripper(lambda action: np.clip(action, -1.0, 1.0))
    assert isinstance(judge(returned=unnormalise(wide), executed=clipped, norm_stats=stats), Clear)


def test_a_loop_that_puts_right_what_the_key_got_wrong_is_right() -> None:
    bridge, size = unnormalise(BRIDGE), np.array(BRIDGE["q99"]) - np.array(BRIDGE["q01"])
    back = keep_gripper(lambda action: RIGHT(2 * (action - np.array(BRIDGE["q01"])) / size - 1))
    assert isinstance(judge(returned=bridge, executed=back, norm_stats=BOTH), Clear)


def test_actions_that_are_only_returned_are_judged() -> None:
    assert isinstance(judge(returned=RIGHT, executed=None), Clear)


def test_other_changes_of_the_gripper_are_left_to_another_check() -> None:
    assert isinstance(judge(returned=lambda n: np.append(RIGHT(n)[:6], 7.0)), Clear)


def test_noise_on_the_executed_action_is_not_about_statistics() -> None:
    rng = np.random.default_rng(0)
    noisy = keep_gripper(lambda action: action + rng.normal(0.0, 0.05, 7))
    verdict = judge(returned=RIGHT, executed=noisy)
    assert isinstance(verdict, Clear)
    assert "what predict_action returned" in verdict.message


@pytest.mark.parametrize("change", [lambda action: 0.5 * action, lambda action: 0.0 * action])
def test_what_the_loop_does_to_a_right_action_is_left_to_another_check(change: Any) -> None:
    assert isinstance(judge(returned=RIGHT, executed=keep_gripper(change)), Clear)


# Must fire.


def test_bridge() -> None:
    found = problem(returned=unnormalise(BRIDGE), norm_stats=BOTH, options={"unnorm_key": "bridge_orig"})
    assert found.severity is Severity.STOP
    assert found.first_step == 0
    assert "was un-normalised with the statistics of bridge_orig, as `unnorm_key` says" in found.message
    assert 'unnorm_key="libero_object"' in found.remedy
    assert [1 / ratio for ratio in ratios(found)] == pytest.approx([24.28, 20.83, 28.3, 0.93, 1.56, 0.6], rel=0.01)
    assert found.evidence["per_dimension"]["span_expected"][:6] == pytest.approx(list(SPAN[:6]), rel=1e-3)


def test_a_set_that_only_was_published_is_named() -> None:
    found = problem(returned=unnormalise(BRIDGE))
    assert "bridge_orig (published)" in found.message


def test_another_suites_statistics_are_to_be_fixed() -> None:
    # libero_spatial's quantiles, same source as LIBERO_OBJECT.
    spatial = {
        "q01": [-0.7454732114, -0.6616071463, -0.9375, -0.1071428582, -0.2067857087, -0.1842857152, 0.0],
        "q99": [0.9375, 0.8758928776, 0.9321428537, 0.1039285734, 0.1767857075, 0.1457142830, 1.0],
        "mask": MASK,
    }
    found = problem(returned=unnormalise(spatial))
    assert "libero_spatial (published)" in found.message
    assert found.severity is Severity.FIX
    assert max(ratios(found)) == pytest.approx(1.444, abs=0.01)


def test_identity() -> None:
    found = problem(returned=lambda n: n)
    assert found.severity is Severity.STOP
    assert "it was never un-normalised" in found.message
    assert ratios(found) == pytest.approx(list(2 / SPAN[:6]), rel=1e-3)
    assert "bin_centers" in found.remedy
    beyond = found.evidence["per_dimension"]["share_beyond_reach"]
    assert min(beyond[3:6]) > 0.3
    assert beyond[6] is None


def test_doubled_in_the_loop() -> None:
    found = problem(returned=RIGHT, executed=keep_gripper(RIGHT))
    assert found.severity is Severity.STOP
    assert (
        "`predict_action` returned the right action, but the executed action was un-normalised a second time"
        in found.message
    )
    assert "Pass `predict_action`'s result on as it is" in found.remedy
    assert ratios(found) == pytest.approx(list(SPAN[:6] / 2), rel=1e-3)


def test_doubled_in_the_loop_with_another_set() -> None:
    found = problem(returned=RIGHT, executed=keep_gripper(unnormalise(BRIDGE)))
    assert "a second time, with the statistics of bridge_orig (published)" in found.message


def test_doubled_by_the_model() -> None:
    found = problem(returned=lambda n: np.where(MASK, RIGHT(np.where(MASK, RIGHT(n), n)), n))
    assert "The returned action was un-normalised twice" in found.message


def test_mask_ignored() -> None:
    found = problem(returned=unnormalise({**LIBERO_OBJECT, "mask": [True] * 7}))
    assert found.severity is Severity.STOP
    assert "the mask ignored" in found.message
    assert "never closes" in found.message
    assert ratios(found) == pytest.approx([1.0] * 6)


def test_mask_missing_from_the_checkpoint() -> None:
    bare = {key: LIBERO_OBJECT[key] for key in ("q01", "q99")}
    found = problem(returned=unnormalise(bare), norm_stats={"libero_object": bare})
    assert "the mask ignored" in found.message


def test_min_and_max() -> None:
    found = problem(returned=unnormalise({**LIBERO_OBJECT, "q01": LIBERO_OBJECT["min"], "q99": LIBERO_OBJECT["max"]}))
    assert "by min/max in the place of q01/q99" in found.message
    assert found.severity is Severity.FIX


def test_mean_and_standard_deviation() -> None:
    mean, std = np.array(LIBERO_OBJECT["mean"]), np.array(LIBERO_OBJECT["std"])
    found = problem(returned=lambda n: np.where(MASK, n * std + mean, n))
    assert "by mean and standard deviation" in found.message


def test_statistics_that_nobody_knows_are_measured() -> None:
    own = {**LIBERO_OBJECT, "q01": [-0.3] * 6 + [0.0], "q99": [0.5] * 6 + [1.0]}
    found = problem(returned=unnormalise(own))
    assert "known from nowhere" in found.message
    assert found.evidence["per_dimension"]["span_used"][:6] == pytest.approx([0.8] * 6, rel=1e-3)
    assert "dataset_statistics.json" in found.remedy


def test_wrong_statistics_in_bfloat16() -> None:
    def rounded(values: np.ndarray) -> np.ndarray:
        mantissa, exponent = np.frexp(values)
        return np.ldexp(np.round(mantissa * 256) / 256, exponent)

    found = problem(returned=lambda n: rounded(unnormalise(BRIDGE)(n)), norm_stats=BOTH)
    assert "bridge_orig" in found.message


@pytest.mark.parametrize(
    ("key", "said"), [("libero_object", "the key was ignored"), ("bridge_orig", "as `unnorm_key`")]
)
def test_a_key_that_was_ignored_is_told_from_a_wrong_one(key: str, said: str) -> None:
    found = problem(returned=unnormalise(BRIDGE), norm_stats=BOTH, options={"unnorm_key": key})
    assert said in found.message
    assert ("**kwargs" in found.remedy) == (key == "libero_object")


def test_a_key_that_nothing_consumed() -> None:
    found = problem(returned=lambda n: n)
    assert "never un-normalised, although `unnorm_key` asks for libero_object: nothing consumed it" in found.message


def test_a_key_that_is_not_there_and_was_passed_over() -> None:
    found = problem(returned=lambda n: n, options={"unnorm_key": "libero_object_no_noops"})
    assert "names libero_object_no_noops, which the checkpoint does not have (it has libero_object)" in found.message
    assert "no `.get`" in found.remedy


def test_without_a_key_nothing_is_said_of_one() -> None:
    found = problem(returned=lambda n: n, options={"unnorm_key": None})
    assert "unnorm_key`" not in found.message


def test_mask_ignored_with_a_gripper_of_another_convention() -> None:
    profile = LIBERO.with_overrides({"gripper.rule": None})
    found = problem(profile, returned=unnormalise({**LIBERO_OBJECT, "mask": [True] * 7}))
    assert found.severity is Severity.FIX
    assert "never closes" not in found.message


def test_decoded_by_hand_and_never_unnormalised() -> None:
    found = problem(returned=None)
    assert "The executed action is the normalised one" in found.message


@pytest.mark.parametrize(
    ("values", "how"),
    [
        (lambda k: -1 + 2 * np.clip(k, 0, 255) / 255, "bin edges k/255"),
        (lambda k: -1 + (2 * np.clip(k, 0, 255) + 1) / 256, "256 bin centres"),
        (lambda k: -1 + (2 * np.clip(k + 64, 0, 254) + 1) / 255, "padded vocabulary"),
    ],
)
def test_other_ways_of_decoding_are_left_to_another_check(values: Any, how: str) -> None:
    ids = some_ids()
    rows = iter(RIGHT(values(31999 - row)) for row in ids)
    found = judge(ids=ids, returned=lambda n: next(rows))
    assert isinstance(found, Clear)
    assert how in found.message


def test_a_base_checkpoint_has_no_statistics_for_the_suite() -> None:
    stats = {"bridge_orig": BRIDGE, "viola": {**BRIDGE, "q01": [-1.0] * 7}}
    recorded = episode(returned=unnormalise(BRIDGE), norm_stats=stats, options={"unnorm_key": "bridge_orig"})
    profile = find_profile(recorded.run["checkpoint"], "libero_object")
    assert profile.name == "openvla-libero", "by its name; a base checkpoint's own name leads to openvla"
    for chosen in (profile, load_profile("openvla")):
        (found,) = verdicts(recorded, chosen)
        assert isinstance(found, Problem)
        assert "of which this checkpoint has no statistics" in found.message
        assert "openvla-7b-finetuned-libero" in found.remedy
        assert found.severity is Severity.STOP


def test_the_first_step_is_the_first_at_which_the_right_way_is_excluded() -> None:
    calls = iter(range(99))
    found = problem(returned=lambda n: (RIGHT if next(calls) < 12 else unnormalise(BRIDGE))(n), norm_stats=BOTH)
    assert (found.first_step, found.last_step) == (12, 29)
    assert found.evidence["queries_concerned"] == 18


def test_equal_values_do_not_accuse_and_the_first_unequal_one_does() -> None:
    # Spans of the fixture's kind: +-1 in translation, where the identity gives the same; rotation stays at 0 at first.
    own = {**LIBERO_OBJECT, "q01": [-1.0] * 3 + [-0.1] * 3 + [0.0], "q99": [1.0] * 3 + [0.1] * 3 + [1.0]}
    ids = some_ids()
    ids[:, 3:6] = 31872
    stats = {"libero_object": own}
    assert isinstance(judge(ids=ids, returned=lambda n: n, norm_stats=stats), Clear)
    ids[9, 4] = 31871
    assert problem(ids=ids, returned=lambda n: n, norm_stats=stats).first_step == 9


# Cannot tell.


def test_no_statistics_recorded() -> None:
    verdict = judge(returned=RIGHT, norm_stats={})
    assert isinstance(verdict, Abstention)
    assert verdict.missing


def test_no_ids_recorded() -> None:
    verdict = judge(ids=[[]] * 4, returned=RIGHT)
    assert isinstance(verdict, Abstention)
    assert verdict.missing


def test_neither_returned_nor_executed_recorded() -> None:
    verdict = judge(returned=None, executed=None)
    assert isinstance(verdict, Abstention)
    assert verdict.missing


def test_no_method_expected() -> None:
    verdict = judge(find_profile({"model_type": "octo"}, "libero_object"), returned=RIGHT)
    assert isinstance(verdict, Abstention)
    assert not verdict.missing


def test_actions_that_do_not_follow_from_the_ids() -> None:
    rng = np.random.default_rng(0)
    verdict = judge(returned=lambda n: rng.normal(size=7))
    assert isinstance(verdict, Abstention)
    assert not verdict.missing


# The faults, on a model that has nothing but statistics.


class Model:
    def __init__(self) -> None:
        self.norm_stats: dict[str, Any] = {"libero_object": {"action": LIBERO_OBJECT}}

    def get_action_stats(self, key: str) -> dict[str, Any]:
        return dict(self.norm_stats[key]["action"])

    def predict_action(self, ids: np.ndarray, unnorm_key: str) -> np.ndarray:
        return np.asarray(unnormalise(self.get_action_stats(unnorm_key))(bin_centres(ids)))


def recorded_under(fault: str, times: int = 1) -> Episode:
    policy = SimpleNamespace(model=Model(), unnorm_key="libero_object")
    stages = SimpleNamespace(command=lambda action: [float(value) for value in libero_command(action)])
    loop: Any = SimpleNamespace(policy=policy, stages=stages)
    apply = FAULTS[fault].apply
    assert apply is not None
    for _ in range(times):
        apply(loop)
    ids = iter(some_ids())
    return episode(
        returned=lambda n: loop.policy.model.predict_action(next(ids), unnorm_key=loop.policy.unnorm_key),
        executed=lambda action: np.array(loop.stages.command(action)),
        norm_stats={key: entry["action"] for key, entry in policy.model.norm_stats.items()},
        options={"unnorm_key": policy.unnorm_key},
    )


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        ("unnorm-bridge", "the statistics of bridge_orig"),
        ("unnorm-identity", "never un-normalised"),
        ("unnorm-doubled", "the executed action was un-normalised a second time, with the statistics of libero_object"),
        ("unnorm-mask-ignored", "the mask ignored"),
        ("unnorm-key-ignored", "although `unnorm_key` asks for libero_object: the key was ignored"),
        ("unnorm-key-passed-over", "a lookup that finds nothing was passed over in silence"),
        ("unnorm-mean-std", "by mean and standard deviation"),
    ],
)
def test_faults_fire(fault: str, what: str) -> None:
    (found,) = verdicts(recorded_under(fault))
    assert isinstance(found, Problem)
    assert what in found.message


@pytest.mark.parametrize("fault", ["unnorm-bridge", "unnorm-identity", "unnorm-mask-ignored"])
def test_faults_of_a_shared_model_are_the_same_when_made_twice(fault: str) -> None:
    once, twice = recorded_under(fault), recorded_under(fault, times=2)
    for a, b in zip(once.steps, twice.steps, strict=True):
        assert a.query is not None
        assert b.query is not None
        assert a.query.action == b.query.action
