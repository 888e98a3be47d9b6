"""Recomputing actions from ids: against OpenVLA's formula, written out in `episodes`, and against printed numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from episodes import BRIDGE, LIBERO_OBJECT, MASK, bin_centres, episode, some_ids, unnormalise

from vladoctor.facts import statistics as st
from vladoctor.facts.tokens import (
    UNKNOWN_ID,
    TokenLayout,
    action_tokens,
    bin_numbers,
    decode,
    longest_run,
    prompt_ids,
    token_layout,
)
from vladoctor.profiles import Profile, find_profile, load_profile

PROFILE = load_profile("openvla-libero")


def layout_of(profile: Profile) -> TokenLayout:
    found = token_layout(profile)
    assert found is not None
    return found


LAYOUT = layout_of(PROFILE)

IDS = np.array([31882, 31894, 31881, 31905, 31888, 31875, 31999])
"""The ids of a tutorial's example, and what they decode to: measured with the published modelling file."""

NORMALISED = [-0.0784, -0.1725, -0.0706, -0.2588, -0.1255, -0.0235, -0.9961]
BY_BRIDGE = [-0.0024, -0.0075, 0.0047, -0.0206, -0.0182, -0.0065, -0.996]
BY_LIBERO_OBJECT = [0.0997, -0.1644, -0.0662, -0.0137, -0.0006, -0.0393, -0.996]


def statistics(key: str, action: dict[str, Any]) -> st.Statistics:
    found = st.read_statistics(key, action, st.OWN)
    assert found is not None
    return found


def action_of(way: st.Candidate, ids: np.ndarray) -> np.ndarray:
    return way.values({way.how: decode(ids[None], LAYOUT, way.how)})[0]


def test_printed_example() -> None:
    np.testing.assert_allclose(decode(IDS, LAYOUT), NORMALISED, atol=5e-5)
    np.testing.assert_allclose(action_of(st.use(st.published_statistics()["bridge_orig"]), IDS), BY_BRIDGE, atol=1e-4)
    np.testing.assert_allclose(
        action_of(st.use(st.published_statistics()["libero_object"]), IDS), BY_LIBERO_OBJECT, atol=1e-4
    )


def test_every_id_decodes_as_in_openvla() -> None:
    ids = np.concatenate([np.arange(31700, 32064), [0, 1, 2, 13, 259, 29871]])
    np.testing.assert_allclose(decode(ids, LAYOUT), bin_centres(ids), atol=1e-15)
    np.testing.assert_array_equal(bin_numbers(np.array([31999, 31745, 31744, 2, 32063]), LAYOUT), [0, 254, 254, 254, 0])


@pytest.mark.parametrize(
    ("how", "lowest", "middle", "highest"),
    [
        ("centres", -254 / 255, 0.0, 254 / 255),
        ("edges", -1.0, -1 / 255, 1.0),
        ("256 centres", -255 / 256, -1 / 256, 255 / 256),
        ("padded vocabulary", -1 + 129 / 255, 128 / 255, 254 / 255),
    ],
)
def test_ways_of_decoding(how: str, lowest: float, middle: float, highest: float) -> None:
    expected = np.array([lowest, middle, highest])
    np.testing.assert_allclose(decode(np.array([31999, 31872, 31744]), LAYOUT, how), expected)


def test_unnormalising_as_in_openvla() -> None:
    for table in (LIBERO_OBJECT, BRIDGE, {key: BRIDGE[key] for key in ("q01", "q99")}):
        way = st.use(statistics("x", table))
        for ids in some_ids(50):
            np.testing.assert_allclose(
                action_of(way, ids), unnormalise(table)(bin_centres(ids)), rtol=1e-12, atol=1e-15
            )


def test_misuses() -> None:
    ids = some_ids(1)[0]
    n, right = bin_centres(ids), unnormalise(LIBERO_OBJECT)
    low, high = np.array(LIBERO_OBJECT["min"]), np.array(LIBERO_OBJECT["max"])
    expected = {
        st.DOUBLED: np.where(MASK, right(np.where(MASK, right(n), n)), n),
        st.UNMASKED: unnormalise({**LIBERO_OBJECT, "mask": [True] * 7})(n),
        st.MINMAX: np.where(MASK, 0.5 * (n + 1) * (high - low) + low, n),
        st.ZSCORE: np.where(MASK, n * np.array(LIBERO_OBJECT["std"]) + np.array(LIBERO_OBJECT["mean"]), n),
    }
    ways = {way.rule: way for way in st.misuses(statistics("libero_object", LIBERO_OBJECT))}
    assert set(ways) == set(expected)
    for rule, way in ways.items():
        np.testing.assert_allclose(action_of(way, ids), expected[rule], rtol=1e-12, atol=1e-15)


def test_published_statistics() -> None:
    published = st.published_statistics()
    assert len(published) == 31
    assert all(len(found.source) > 10 and found.q01.shape == (7,) for found in published.values())
    for key, table in (("libero_object", LIBERO_OBJECT), ("bridge_orig", BRIDGE)):
        np.testing.assert_allclose(published[key].q01, table["q01"], atol=1e-9)
        np.testing.assert_allclose(published[key].q99, table["q99"], atol=1e-9)
        assert published[key].mask.tolist() == MASK
    # Ratios of the published spans, as printed with the published statistics.
    np.testing.assert_allclose(
        (published["libero_object"].span / published["bridge_orig"].span)[:6],
        [24.28, 20.83, 28.3, 0.93, 1.56, 0.6],
        atol=0.006,
    )


@pytest.mark.parametrize(
    "table",
    [{}, {"q01": [0.0]}, {"q01": [0.0], "q99": [1.0, 2.0]}, {"q01": [0.0], "q99": [1.0], "mask": [True, False]}],
)
def test_broken_statistics_are_left_out(table: dict[str, Any]) -> None:
    assert st.read_statistics("x", table, st.OWN) is None
    assert st.checkpoint_statistics(episode(norm_stats={"x": table})) == {}


def ways(*tables: tuple[str, dict[str, Any]]) -> list[st.Candidate]:
    return list(st.candidates([statistics(*table) for table in tables], st.published_statistics().values(), 7))


def reproduced(returned: Any, ids: np.ndarray, known: list[st.Candidate]) -> list[tuple[str, str, str]]:
    seen = st.observe(episode(ids, returned=returned), LAYOUT)
    assert seen is not None
    found = st.reproducing(known, seen.normalised, seen.returned, np.ones(7, dtype=bool))
    return [(way.statistics.label if way.statistics else "", way.rule, way.how) for way in found]


def test_the_set_is_found_among_all() -> None:
    known = ways(("libero_object", LIBERO_OBJECT), ("bridge_orig", BRIDGE))
    ids = some_ids(20)
    assert reproduced(unnormalise(BRIDGE), ids, known) == [
        ("bridge_orig", st.MASKED, "centres"),
        ("bridge_orig (published)", st.MASKED, "centres"),
    ]
    assert reproduced(lambda n: n, ids, known) == [("", st.IDENTITY, "centres")]
    assert reproduced(lambda n: unnormalise(LIBERO_OBJECT)(n).astype(np.float32), ids, known)[0][0] == "libero_object"


def test_a_single_query_can_fit_several_and_more_queries_decide() -> None:
    # Statistics that differ in x only, and a first query whose x is in the middle of both.
    narrow = {**LIBERO_OBJECT, "q01": [-0.1, *LIBERO_OBJECT["q01"][1:]], "q99": [0.1, *LIBERO_OBJECT["q99"][1:]]}
    wide = {**LIBERO_OBJECT, "q01": [-0.9, *LIBERO_OBJECT["q01"][1:]], "q99": [0.9, *LIBERO_OBJECT["q99"][1:]]}
    ids = some_ids(10)
    ids[:3, 0] = 31872
    known = ways(("narrow", narrow), ("wide", wide))
    assert {name for name, _, _ in reproduced(unnormalise(wide), ids[:3], known)} == {"narrow", "wide"}
    assert {name for name, _, _ in reproduced(unnormalise(wide), ids, known)} == {"wide"}


def test_degenerate_dimensions_do_not_decide() -> None:
    # q01 = q99 gives the same value whatever the id; the other dimensions still tell the sets apart.
    flat = {
        **LIBERO_OBJECT,
        "q01": [*LIBERO_OBJECT["q01"][:3], 0, 0, 0, 0],
        "q99": [*LIBERO_OBJECT["q99"][:3], 0, 0, 0, 1],
    }
    known = ways(("flat", flat), ("libero_object", LIBERO_OBJECT))
    assert {name for name, _, _ in reproduced(unnormalise(flat), some_ids(10), known)} == {"flat"}


def test_measured_line() -> None:
    rng = np.random.default_rng(1)
    inputs = rng.uniform(-1, 1, (12, 3))
    inputs[:, 2] = 0.25
    line = st.measure(inputs, inputs * [2.0, -0.5, 9.0] + [1.0, 0.0, 0.0])
    np.testing.assert_allclose(line.slope[:2], [2.0, -0.5])
    np.testing.assert_allclose(line.offset[:2], [1.0, 0.0], atol=1e-12)
    assert line.known.tolist() == [True, True, False]
    assert line.holds(np.array([True, True, True]))
    assert not line.holds(np.array([False, False, True])), "nothing measured"
    noise = st.measure(inputs, rng.normal(size=(12, 3)))
    assert not noise.holds(np.array([True, True, False]))


@pytest.mark.parametrize(
    ("norm_stats", "suite", "asked", "key", "lacking"),
    [
        ({"libero_object": LIBERO_OBJECT}, "libero_object", "libero_object", "libero_object", False),
        ({"libero_object_no_noops": LIBERO_OBJECT}, "libero_object", "x", "libero_object_no_noops", False),
        ({"libero_object": BRIDGE, "b": LIBERO_OBJECT}, "libero_object", "b", "libero_object", False),
        ({"mine": LIBERO_OBJECT, "bridge_orig": BRIDGE}, "libero_object", "bridge_orig", "mine", False),
        ({"mine": {**BRIDGE, "q01": [-0.5] * 7}}, "libero_object", "mine", "mine", False),
        ({"mine": {**BRIDGE, "q01": [-0.5] * 7}, "bridge_orig": BRIDGE}, "libero_object", "mine", "mine", False),
        (
            {"bridge_orig": BRIDGE, "o": {**BRIDGE, "q01": [-0.5] * 7}},
            "libero_object",
            "bridge_orig",
            "libero_object",
            True,
        ),
        ({"bridge_orig": BRIDGE}, "libero_object", "bridge_orig", "libero_object", True),
        ({"bridge_orig": BRIDGE}, "simpler_bridge", "bridge_orig", "bridge_orig", False),
    ],
)
def test_expectation(norm_stats: dict[str, Any], suite: str, asked: str, key: str, lacking: bool) -> None:
    recorded = episode(norm_stats=norm_stats, task={"suite": suite}, options={"unnorm_key": asked})
    profile = find_profile(recorded.run["checkpoint"], suite)
    expected = st.expectation(recorded, profile, st.checkpoint_statistics(recorded), 7)
    assert expected is not None
    assert (expected.statistics.key, expected.lacking) == (key, lacking)


def test_expectation_takes_the_profiles_mask_where_none_is_stored() -> None:
    recorded = episode(norm_stats={"libero_object": {key: LIBERO_OBJECT[key] for key in ("q01", "q99")}})
    expected = st.expectation(recorded, PROFILE, st.checkpoint_statistics(recorded), 7)
    assert expected is not None
    assert expected.arm.tolist() == MASK


def test_no_expectation_without_statistics() -> None:
    assert st.expectation(episode(norm_stats={}), PROFILE, {}, 7) is None


@pytest.mark.parametrize("key", ["libero_spatial", "libero_object", "libero_goal", "libero_10", "bridge_orig"])
def test_likely_extremes_of_published_statistics(key: str) -> None:
    found = st.published_statistics()[key]
    likely = st.likely_extremes(found, 256)
    assert likely is not None
    assert found.minimum is not None
    assert found.maximum is not None
    inside = (found.minimum < found.q01) & (found.q99 < found.maximum)
    np.testing.assert_allclose(likely[:6][inside[:6]], 0.02, atol=1e-6)
    assert (likely[:6] < 0.35).all()


def test_likely_extremes_hold_for_any_data() -> None:
    # Actions clipped at full speed, as in demonstrations: the share in the outermost bins stays below the bound.
    rng = np.random.default_rng(0)
    for scale in (0.3, 0.8, 2.0):
        data = np.clip(rng.normal(rng.uniform(-0.5, 0.5, 7), scale, (20000, 7)), -1.0, 1.0)
        table = {
            "q01": np.quantile(data, 0.01, axis=0),
            "q99": np.quantile(data, 0.99, axis=0),
            "min": data.min(axis=0),
            "max": data.max(axis=0),
            "mean": data.mean(axis=0),
            "std": data.std(axis=0),
        }
        found = statistics("x", table)
        normalised = np.clip(2 * (data - found.q01) / found.span - 1, -1, 1)
        likely = st.likely_extremes(found, 256)
        assert likely is not None
        # A side that ends at its quantile holds 1 % there; the bin itself has a width, which adds a little.
        assert ((np.abs(normalised) >= 1 - 2 / 255).mean(axis=0) <= likely + 0.01).all()


def test_likely_extremes_of_labels_that_never_get_there() -> None:
    zero = {"q01": [-0.1], "q99": [0.1], "min": [0.0], "max": [0.0], "mean": [0.0], "std": [0.0]}
    assert st.likely_extremes(statistics("x", zero), 256) == pytest.approx([0.0])
    flat = {"q01": [0.0], "q99": [0.0], "min": [0.0], "max": [0.0], "mean": [0.0], "std": [0.0]}
    assert st.likely_extremes(statistics("x", flat), 256) == pytest.approx([1.0])
    assert st.likely_extremes(statistics("x", BRIDGE), 256) is None


def test_longest_run() -> None:
    assert longest_run(np.array([0, 1, 1, 0, 1, 1, 1], dtype=bool)) == (4, 3)
    assert longest_run(np.zeros(3, dtype=bool)) == (0, 0)
    assert longest_run(np.ones(3, dtype=bool)) == (0, 3)


def test_tokens_of_a_cut_answer_come_from_the_prompt() -> None:
    recorded = episode([[31900, 2]], returned=lambda n: n, input_ids=[1, 512, 29901])
    (tokens,) = action_tokens(recorded, LAYOUT)
    assert tokens.ids == (UNKNOWN_ID, 1, 512, 29901, 29871, 31900, 2)
    assert (tokens.generated, tokens.from_prompt, tokens.ended) == (2, 5, True)
    assert tokens.outside == (0, 1, 2, 3, 4, 6)
    np.testing.assert_allclose(tokens.centres, bin_centres(np.array(tokens.ids)), atol=1e-15)


def test_prompt_ids_are_appended_to_once() -> None:
    assert prompt_ids((1, 2), 29871) == (1, 2, 29871)
    assert prompt_ids((1, 29871), 29871) == (1, 29871)
    assert prompt_ids((1, 2), None) == (1, 2)
