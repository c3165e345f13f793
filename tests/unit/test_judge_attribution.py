"""What is blamed for an alarm, and how it is put."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from agent.judge.attribution import causes, segment_causes
from agent.judge.cells import CellKey, CellValue, Prepared, Statistic
from agent.judge.counted import merged
from agent.judge.detector import CellId, Evidence
from agent.judge.explanation import explain, quantiles, shift
from agent.judge.pairs_cells import BrokenPair, PairsFound
from agent.types import Column, Role
from benchmarks.verdicts.windows import column, counted_of, numbers_of


def evidence(
    name: str | None,
    statistic: Statistic,
    score: float,
    *,
    role=Role.FEATURE,
    segment=None,
    effect=0.2,
    share=0.1,
    z=5.0,
) -> Evidence:
    owner = None if name is None else Column(role, name)
    return Evidence(
        id=CellId(segment, CellKey(owner, statistic)),
        score=score,
        share=share,
        z=z,
        effect=effect,
        minimum=0.01,
        rows=1000.0,
    )


LOC, SHAPE, MISSING = Statistic.LOC, Statistic.SHAPE, Statistic.MISSING
PAIRS = Statistic.PAIRS
SCORE, LABEL = Column(Role.PREDICTION, "score"), Column(Role.PREDICTION, "label")


def pair_of(a: Column, b: Column) -> PairsFound:
    value = CellValue(CellKey(None, PAIRS), 9.0, 1000.0, 9000.0, 0.2, 30.0, "upper")
    return PairsFound(value, (BrokenPair((a, b), (False, False), -0.7, -0.5, 9.0),))


def test_a_feature_stands_for_its_best_cell() -> None:
    found = causes([evidence("a", SHAPE, 9.0), evidence("b", LOC, 30.0), evidence("a", LOC, 40.0)])
    assert [(c.feature, c.statistic, c.score) for c in found] == [
        ("a", "loc", 40.0),
        ("b", "loc", 30.0),
    ]


def test_a_prediction_never_outranks_a_feature() -> None:
    found = causes([evidence("score", LOC, 300.0, role=Role.PREDICTION), evidence("a", SHAPE, 8.0)])
    assert [c.feature for c in found] == ["a", "prediction.score"]


def test_a_feature_that_chance_listed_is_not_named_beside_an_output_that_broke() -> None:
    output = evidence("score", LOC, 67.8, role=Role.PREDICTION, share=0.5)
    found = causes([output, evidence("amount", SHAPE, 2.4, share=4e-10)])
    assert [c.feature for c in found] == ["prediction.score"]


def test_features_of_a_broad_break_share_the_evidence_and_are_all_named() -> None:
    features = [evidence(f"f{i}", LOC, 20.0, share=1 / 200) for i in range(15)]
    score = evidence("score", LOC, 300.0, role=Role.PREDICTION, share=1 / 200)
    found = causes([score, *features])
    assert len(found) == 16
    assert found[-1].feature == "prediction.score"


def test_a_pair_of_outputs_comes_behind_the_output_that_moved() -> None:
    listed = [
        evidence(None, PAIRS, 90.0, share=0.5),
        evidence("score", LOC, 30.0, role=Role.PREDICTION, share=0.5),
    ]
    found = causes(listed, pairs=pair_of(LABEL, SCORE))
    assert [(c.feature, c.statistic) for c in found] == [
        ("prediction.score", "loc"),
        ("prediction.label", "pairs"),
    ]


def test_a_pair_of_features_comes_before_an_output_and_behind_a_feature_that_moved() -> None:
    listed = [
        evidence("score", LOC, 99.0, role=Role.PREDICTION),
        evidence(None, PAIRS, 90.0),
        evidence("c", LOC, 9.0),
    ]
    found = causes(listed, pairs=pair_of(column("a"), column("b")))
    assert [c.feature for c in found] == ["c", "a", "prediction.score"]


def test_pairs_that_are_back_blame_no_column() -> None:
    back = evidence(None, PAIRS, 160.0, share=0.9, z=0.3)
    score = evidence("score", LOC, 200.0, role=Role.PREDICTION, share=0.1)
    found = causes([back, score], pairs=pair_of(column("a"), column("b")))
    assert [(c.feature, c.detail) for c in found] == [("prediction.score", ""), (None, "")]


def test_a_feature_that_is_gone_outranks_one_that_moved() -> None:
    gone, moved = evidence("a", MISSING, 10.0, effect=0.9), evidence("b", LOC, 99.0)
    assert [c.feature for c in causes([moved, gone])] == ["a", "b"]
    few = evidence("a", MISSING, 10.0, effect=0.02)
    assert [c.feature for c in causes([moved, few])] == ["b", "a"]


def test_a_broken_feed_is_named_once_before_its_features() -> None:
    sources = {column(n): "vendor" if n in "abc" else "shop" for n in "abcxyz"}
    found = causes([evidence(n, LOC, 20.0) for n in "abc"], sources=sources)
    assert (found[0].source, found[0].feature) == ("vendor", None)
    assert found[0].detail == "3 of its 3 features moved: a, b, c"
    assert [c.feature for c in found[1:]] == ["a", "b", "c"]
    assert all(c.source == "vendor" for c in found)


def test_one_feature_of_a_large_source_is_blamed_itself() -> None:
    sources = {column(n): "vendor" for n in "abcdef"}
    found = causes([evidence("a", LOC, 20.0)], sources=sources)
    assert (found[0].feature, found[0].source) == ("a", "vendor")


def test_what_all_traffic_shows_comes_before_a_segment() -> None:
    eu = (("region", "eu"),)
    found = causes([evidence("a", LOC, 90.0, segment=eu), evidence("b", LOC, 20.0)])
    assert [(c.feature, c.segment) for c in found] == [("b", None), ("a", eu)]


def test_nothing_is_blamed_for_nothing() -> None:
    assert causes([]) == []


def test_the_segment_that_changed_explains_the_change() -> None:
    rng = np.random.default_rng(1)
    regions = ("eu", "us", "asia")
    keys = {r: (("region", r),) for r in regions}
    before = {keys[r]: counted_of({"x": rng.normal(size=4000)}) for r in regions}
    now = {
        keys[r]: counted_of({"x": rng.normal(1.0 if r == "us" else 0.0, 1.0, 1000)})
        for r in regions
    }
    base = Prepared(merged(merged(*list(before.values())[:2]), before[keys["asia"]]))
    key = CellKey(column("x"), LOC)
    found = segment_causes(key, base, now, before)
    assert found[0].segment == keys["us"]
    assert found[0].share == pytest.approx(1.0, abs=0.1)
    assert all((c.share or 0.0) < 0.2 for c in found[1:])


def test_without_a_baseline_a_segments_rows_are_taken_out() -> None:
    rng = np.random.default_rng(2)
    a, b = (("s", "a"),), (("s", "b"),)
    now = {
        a: counted_of({"x": rng.normal(size=3000)}),
        b: counted_of({"x": rng.normal(2.0, 1.0, 500)}),
    }
    base = Prepared(counted_of({"x": rng.normal(size=9000)}))
    found = segment_causes(CellKey(column("x"), LOC), base, now, {})
    assert found[0].segment == b


def test_one_segment_alone_is_all_traffic_and_explains_nothing() -> None:
    base = Prepared(counted_of({"x": np.arange(100.0)}))
    now = {(("s", "a"),): counted_of({"x": np.arange(50.0)})}
    assert segment_causes(CellKey(column("x"), LOC), base, now, {}) == []


def says(before: np.ndarray, now: np.ndarray, statistic: Statistic) -> str:
    base = Prepared(counted_of({"x": before}))
    return explain(CellKey(column("x"), statistic), base, counted_of({"x": now}))


def test_a_change_of_unit_is_put_as_one() -> None:
    rng = np.random.default_rng(3)
    miles = rng.gamma(4.0, 3.0, 20_000)
    assert "another unit" in says(miles, rng.gamma(4.0, 3.0, 10_000) * 0.621371, LOC)
    assert "times 0.62" in says(miles, miles * 0.621371, LOC)
    assert "another unit" not in says(miles, miles + 4.0, LOC)
    assert "median" in says(miles, miles + 4.0, LOC)


def test_rates_and_texts_are_put_in_words() -> None:
    some = np.where(np.arange(100) < 40, np.nan, 1.0)
    assert says(np.ones(200), some, MISSING) == "missing in 0 of rows before, 0.4 now"
    a = np.array(["a"] * 80 + ["b"] * 20)
    assert says(a, np.array(["a"] * 50 + ["b"] * 50), SHAPE).startswith("'a' 0.8 before, 0.5 now")
    new = np.array(["a"] * 60 + ["new"] * 40)
    assert says(a, new, Statistic.UNSEEN) == "new in 0.4 of rows: 'new' 0.4"
    assert (
        says(np.arange(100) < 20, np.arange(100) < 50, LOC) == "true in 0.2 of rows before, 0.5 now"
    )


def test_a_shift_is_told_in_deviations_and_points_too() -> None:
    """Of two normal values d deviations apart P(new > old) is the normal distribution at d / sqrt(2)."""
    effect = NormalDist().cdf(0.3 / math.sqrt(2)) - 0.5
    assert shift(effect) == (
        "a shift of 0.084 (P(new > old) - 1/2; 0.3 sd of a normal value, 17 points of a rate)"
    )
    assert shift(0.5) == shift(0.65) == "no shift of any size"


def test_a_column_that_is_gone_is_in_no_row() -> None:
    base = Prepared(counted_of({"x": np.arange(100.0)}))
    assert explain(CellKey(column("x"), MISSING), base, counted_of({"y": np.ones(9)})) == (
        "not in any row"
    )


def test_quantiles_of_counts_are_within_a_bucket_of_numpys() -> None:
    values = np.random.default_rng(4).normal(3.0, 2.0, 5_000)
    found = quantiles(numbers_of(values), (0.1, 0.5, 0.9))
    assert found == pytest.approx(np.quantile(values, (0.1, 0.5, 0.9)), rel=0.02)
