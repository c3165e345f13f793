"""Cells of a window: what is read of a profile, and what is measured against the baseline."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from agent.config import Config
from agent.fold.base import Fold
from agent.fold.profile import Profile, merge
from agent.judge.cells import CellKey, Prepared, Statistic, measure
from agent.judge.counted import Counted, counted, merged, scaled
from agent.judge.drift_shown import drifts
from agent.state.chunk import merge_digest
from agent.types import StreamKey
from benchmarks.verdicts.windows import column, counted_of, numbers_of
from tests.support.blocks import Row, chunk_of, feature, range_of

KEY = StreamKey("m", "1")
T0 = 1_700_000_000_000 // 60_000 * 60_000


def profile_of(table: dict[str, list]) -> Profile:
    """The agent's own profile of these rows; None is an absent value."""
    n = len(next(iter(table.values())))
    rows = [
        Row(KEY, T0, {feature(k): v[i] for k, v in table.items() if v[i] is not None})
        for i in range(n)
    ]
    fold = Fold(Config(), start_ns=1)
    ranges = [range_of(0, max_event_time_ms=1)]
    fold.apply(chunk_of([[rows]], digest=merge_digest(Config()), ranges=ranges), 2)
    (profile,) = fold.seal_all(3).sealed
    return profile


def table(seed: int, n: int) -> dict[str, list]:
    rng = np.random.default_rng(seed)
    return {
        "x": rng.normal(3.0, 2.0, n).tolist(),
        "z": np.where(rng.random(n) < 0.4, 0.0, rng.lognormal(0, 2, n)).tolist(),
        "c": rng.choice(list("abcdefgh"), n).tolist(),
        "t": (rng.random(n) < 0.2).tolist(),
        "m": [1.5 if u < 0.9 else None for u in rng.random(n)],
    }


def cell(cells: list, name: str, statistic: Statistic):
    return next(c for c in cells if c.key == CellKey(column(name), statistic))


def same(a: Counted, b: Counted) -> None:
    assert a.rows == b.rows
    assert a.columns.keys() == b.columns.keys()
    for name, x in a.columns.items():
        y = b.columns[name]
        assert (x.kind, x.missing) == (y.kind, y.missing)
        if x.numbers is not None and x.numbers.count:
            assert y.numbers is not None
            for field in ("count", "zeros", "scale", "low", "high"):
                assert getattr(x.numbers, field) == getattr(y.numbers, field), (name, field)
            for side in ("positive", "negative"):
                assert np.array_equal(getattr(x.numbers, side), getattr(y.numbers, side)), name
        if x.texts is not None:
            assert y.texts is not None
            assert (x.texts.named, x.texts.count) == (y.texts.named, y.texts.count)
            assert np.array_equal(x.texts.hashed, y.texts.hashed)


def test_counts_are_read_from_a_profiles_bytes_as_its_views_say() -> None:
    profile = profile_of(table(1, 700))
    read = counted(profile)
    for name, held in profile.columns.items():
        if (view := held.numbers) is not None:
            numbers = read.columns[name].numbers
            assert numbers is not None
            assert (numbers.count, numbers.zeros, numbers.scale) == (
                view.count,
                view.zeros,
                view.scale,
            )
            assert numbers.positive.tolist() == view.positive.tolist()
            assert numbers.negative.tolist() == view.negative.tolist()
        if (texts := held.texts) is not None:
            found = read.columns[name].texts
            assert found is not None and found.is_exact
            assert found.hashed.tolist() == texts.hashed_buckets.tolist()
            assert found.named == {h.key: h.count for h in texts.named}
            assert found.names == {h.key: h.text for h in texts.named}
    assert read.columns[feature("m")].missing == table(1, 700)["m"].count(None)


def test_windows_of_benchmarks_have_the_counts_of_the_agents_own() -> None:
    rows = table(2, 900)
    made = counted_of(
        {
            "x": np.array(rows["x"]),
            "z": np.array(rows["z"]),
            "c": np.array(rows["c"]),
            "t": np.array(rows["t"]),
            "m": np.array([math.nan if v is None else v for v in rows["m"]]),
        }
    )
    same(counted(profile_of(rows)), made)


def test_merged_counts_are_the_counts_of_merged_profiles() -> None:
    a, b = profile_of(table(3, 400)), profile_of(table(4, 300))
    same(counted(merge(a, b)), merged(counted(a), counted(b)))


def test_a_window_like_its_baseline_deviates_by_one_standard_error() -> None:
    """loc and missing have variance 1, shape mean 1 over many windows of independent rows."""
    rng = np.random.default_rng(6)

    def window(n: int) -> Counted:
        return counted_of(
            {
                "x": rng.normal(size=n),
                "z": np.where(rng.random(n) < 0.7, 0.0, 1.0 + rng.poisson(2.0, n)),
                "t": rng.random(n) < 0.1,
                "m": np.where(rng.random(n) < 0.2, np.nan, 1.0),
            }
        )

    found: dict[tuple[str, Statistic], list[float]] = {}
    for _ in range(300):  # a fresh baseline each time: its error is part of the deviation
        for c in measure(Prepared(window(2000)), window(1000)):
            assert c.key.column is not None
            found.setdefault((c.key.column.name, c.key.statistic), []).append(
                math.exp(c.x)
                if c.key.statistic is Statistic.SHAPE
                else c.effect / c.spread / math.sqrt(1 / c.n + 1 / c.m)
            )
    for name in ("x", "z", "t"):
        z = np.array(found[name, Statistic.LOC])
        assert z.mean() == pytest.approx(0.0, abs=0.2)
        assert z.std() == pytest.approx(1.0, abs=0.13)
    for name in ("x", "z"):
        assert np.mean(found[name, Statistic.SHAPE]) == pytest.approx(1.0, abs=0.08)
    assert np.std(found["m", Statistic.MISSING]) == pytest.approx(1.0, abs=0.13)


def test_the_location_of_a_window_is_the_probability_of_being_larger() -> None:
    rng = np.random.default_rng(7)
    a, b = rng.normal(size=4000), rng.normal(0.3, 1.0, 3000)
    cells = measure(Prepared(counted_of({"x": a})), counted_of({"x": b}))
    exact = stats.mannwhitneyu(b, a).statistic / (len(a) * len(b))
    assert cell(cells, "x", Statistic.LOC).effect + 0.5 == pytest.approx(exact, abs=0.002)


def test_a_boolean_has_no_shape_and_its_location_is_half_its_change() -> None:
    a, b = np.arange(1000) < 200, np.arange(500) < 150
    cells = measure(Prepared(counted_of({"t": a})), counted_of({"t": b}))
    assert [c.key.statistic for c in cells] == [Statistic.LOC, Statistic.MISSING]
    assert cell(cells, "t", Statistic.LOC).effect == pytest.approx(0.05)


def test_a_new_category_is_unseen_and_a_rare_known_one_is_not() -> None:
    base = Prepared(counted_of({"c": np.array(["a"] * 5000 + ["b"] * 4000 + ["r"] * 30)}))
    quiet = measure(base, counted_of({"c": np.array(["a"] * 500 + ["b"] * 400 + ["r"] * 9)}))
    assert cell(quiet, "c", Statistic.UNSEEN).x == 0.0
    loud = measure(base, counted_of({"c": np.array(["a"] * 500 + ["b"] * 400 + ["new"] * 20)}))
    found = cell(loud, "c", Statistic.UNSEEN)
    assert found.effect == pytest.approx(20 / 920)
    assert found.x > 4.0


def test_a_part_of_the_baseline_is_unseen_by_the_rest_of_it() -> None:
    part = counted_of({"c": np.array(["a"] * 50 + ["mine"] * 7)})
    rest = counted_of({"c": np.array(["a"] * 500)})
    base = Prepared(merged(part, rest))
    inside = measure(base, part, is_inside=True)
    assert cell(inside, "c", Statistic.UNSEEN).effect == pytest.approx(7 / 57)
    assert cell(measure(base, part), "c", Statistic.UNSEEN).effect == 0.0


def test_a_column_that_a_window_lacks_is_missing_in_all_its_rows() -> None:
    base = Prepared(counted_of({"x": np.arange(100.0), "y": np.arange(100.0)}))
    cells = measure(base, counted_of({"x": np.arange(50.0)}))
    gone = cell(cells, "y", Statistic.MISSING)
    assert gone.effect == 1.0
    assert gone.x > 10.0
    assert not [c for c in cells if c.key == CellKey(column("y"), Statistic.LOC)]


def test_missing_rates_within_the_tolerance_say_nothing() -> None:
    base = Prepared(counted_of({"x": np.where(np.arange(10_000) < 500, np.nan, 1.0)}))
    for missing, is_quiet in ((52_400, True), (60_000, False)):
        window = counted_of({"x": np.where(np.arange(1_000_000) < missing, np.nan, 1.0)})
        found = cell(measure(base, window), "x", Statistic.MISSING)
        assert (found.x == 0.0) == is_quiet


def test_volume_is_compared_only_where_rows_are_expected() -> None:
    window = counted_of({"x": np.arange(50.0)})
    base = Prepared(window)
    assert not [c for c in measure(base, window) if c.key.column is None]
    volume = measure(base, window, 100.0)[-1]
    assert volume.key == CellKey(None, Statistic.VOLUME)
    assert volume.effect == pytest.approx(math.log(51 / 101))


def test_nothing_is_measured_of_an_empty_window_or_against_an_empty_baseline() -> None:
    some = counted_of({"x": np.arange(50.0)})
    assert measure(Prepared(Counted(0)), some) == []
    assert measure(Prepared(some), Counted(0)) == []
    few = measure(Prepared(some), counted_of({"x": np.arange(5.0)}))
    assert [c.key.statistic for c in few] == [Statistic.MISSING]


def test_a_column_of_another_kind_is_left_to_the_contract() -> None:
    base = Prepared(counted_of({"x": np.arange(50.0)}))
    assert measure(base, counted_of({"x": np.array(["a"] * 50)})) == []


def test_scaled_counts_measure_the_same_effect() -> None:
    rng = np.random.default_rng(8)
    base = Prepared(counted_of({"x": rng.normal(size=5000)}))
    window = counted_of({"x": rng.normal(0.2, 1.0, 2000)})
    a, b = measure(base, window), measure(base, scaled(window, 500))
    assert a[0].effect == pytest.approx(b[0].effect, abs=1e-12)
    assert b[0].n == 500


def test_drifts_of_a_profile_name_stream_and_window() -> None:
    base, window = profile_of(table(9, 1500)), profile_of(table(10, 800))
    found = drifts(base, window)
    assert {d.metric for d in found if d.column == feature("c")} == {
        "psi",
        "js",
        "hellinger",
        "chi2",
        "unseen",
        "missing",
        "violations",
    }
    assert all(d.stream == KEY and d.window_start_ms == window.start_ms for d in found)
    rate = next(d for d in found if d.metric == "true_rate")
    assert rate.value == pytest.approx(np.mean(table(10, 800)["t"]))
    c = next(d for d in found if d.metric == "chi2")
    a, b = table(9, 1500)["c"], table(10, 800)["c"]
    counts = [[side.count(text) for text in "abcdefgh"] for side in (a, b)]
    assert c.value == pytest.approx(stats.chi2_contingency(counts).statistic)


def test_a_histogram_keeps_its_scale_with_its_range() -> None:
    assert numbers_of(np.array([1.0, 2.0])).scale == 8
    assert numbers_of(np.array([1e-9, 1e9])).scale == 4
