"""Profiles: what a sealed window says, and merging two of them."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from agent.config import Config, Feature, Windows
from agent.fold.base import MIN_LATENCIES, Fold
from agent.fold.profile import Profile, merge
from agent.sketch.cardinality import estimate, estimates
from agent.state.chunk import merge_digest
from agent.types import Kind, StreamKey
from tests.support.blocks import LATENCY, Row, chunk_of, feature, range_of

CONFIG = Config()
KEY = StreamKey("m", "1")
T0 = 1_700_000_000_000 // 60_000 * 60_000
X, C, F = feature("x"), feature("c"), feature("f")


def profile_of(rows: list[Row], config: Config = CONFIG) -> Profile:
    fold = Fold(config, start_ns=1)
    chunk = chunk_of(
        [[rows]], digest=merge_digest(config), ranges=[range_of(0, max_event_time_ms=1)]
    )
    fold.apply(chunk, 2)
    (profile,) = fold.seal_all(3).sealed
    return profile


def some_rows(n: int, seed: int) -> list[Row]:
    rng = random.Random(seed)
    return [
        Row(
            KEY,
            T0 + rng.randrange(60_000),
            {X: rng.lognormvariate(0, 2), C: rng.choice("abc"), F: rng.random() < 0.5},
            is_error=rng.random() < 0.1,
        )
        for _ in range(n)
    ]


def test_merged_profiles_equal_the_profile_of_all_rows() -> None:
    a_rows, b_rows = some_rows(300, 1), some_rows(200, 2)
    a, b, both = profile_of(a_rows), profile_of(b_rows), profile_of(a_rows + b_rows)
    kept = a.to_bytes(), b.to_bytes()
    merged = merge(a, b)
    assert (a.to_bytes(), b.to_bytes()) == kept, "merging leaves its arguments alone"
    assert (merged.rows, merged.errors, merged.coverage) == (500, both.errors, 1.0)
    for name, column in both.columns.items():
        found = merged.columns[name]
        assert (found.kind, found.present) == (column.kind, column.present)
        x, y = found.numbers or found.texts, column.numbers or column.texts
        assert x is not None and y is not None
        assert x.count == y.count and np.array_equal(x.registers, y.registers)
    x, y = merged.columns[X].numbers, both.columns[X].numbers
    assert x is not None and y is not None
    assert np.array_equal(x.positive, y.positive)
    assert x.sum == pytest.approx(y.sum, rel=1e-12)
    assert (x.min, x.max) == (y.min, y.max)
    texts = merged.columns[C].texts
    assert texts is not None
    assert sorted(texts.top(3)) == sorted(
        (text, sum(row.values[C] == text for row in a_rows + b_rows), 0) for text in "abc"
    )


def rows_with(*values: Any) -> list[Row]:
    return [Row(KEY, T0, {F: v}) for v in values]


def test_merging_different_kinds_keeps_the_one_with_more_values() -> None:
    numbers, texts = profile_of(rows_with(1.0, 2.0, 3.0)), profile_of(rows_with("a", "b"))
    for merged in (merge(numbers, texts), merge(texts, numbers)):
        column = merged.columns[F]
        assert (column.kind, column.violations(), merged.missing(column)) == (Kind.NUMERIC, 2, 0)
        assert column.numbers is not None and column.numbers.sum == 6.0


def test_merging_with_a_column_that_only_had_nulls_or_is_absent() -> None:
    numbers, nulls, empty = (
        profile_of(rows_with(1.0, 2.0)),
        profile_of(rows_with(None)),
        profile_of([Row(KEY, T0, {})]),
    )
    for other in (nulls, empty):
        for merged in (merge(numbers, other), merge(other, numbers)):
            column = merged.columns[F]
            assert (column.kind, merged.missing(column)) == (Kind.NUMERIC, 1)
    assert merge(nulls, nulls).columns[F].kind is None


def test_profiles_of_different_windows_do_not_merge() -> None:
    a = profile_of(rows_with(1.0))
    b = profile_of([Row(KEY, T0 + 60_000, {F: 1.0})])
    with pytest.raises(ValueError, match="cannot merge window"):
        merge(a, b)


def test_a_column_without_a_value_in_the_window_is_missing_in_it() -> None:
    fold = Fold(CONFIG, start_ns=1)
    rows = [Row(KEY, T0, {F: 1.0}), Row(KEY, T0 + 60_000, {}), Row(KEY, T0 + 60_000, {})]
    at = range_of(0, max_event_time_ms=1)
    fold.apply(chunk_of([[rows]], digest=merge_digest(CONFIG), ranges=[at]), 2)
    _, second = fold.seal_all(3).sealed
    column = second.columns[F]
    assert (column.kind, second.missing(column), column.sketch) == (Kind.NUMERIC, 2, b"")
    assert column.facts == (None, None, None)


def test_facts_read_in_bulk_equal_those_of_the_decoded_sketch() -> None:
    profile = profile_of(some_rows(500, 3))
    again = Profile.from_bytes(profile.to_bytes())
    for name, column in profile.columns.items():
        assert column.facts == again.columns[name].facts


def test_estimates_of_many_sets_are_those_of_each() -> None:
    rng = np.random.default_rng(4)
    sets = []
    for n in (1, 2, 10, 300, 3000):
        values = rng.normal(size=n).tolist()
        view = profile_of([Row(KEY, T0, {X: v}) for v in values]).columns[X].numbers
        assert view is not None
        sets.append(view.registers)
    sets.append(np.zeros_like(sets[0]))
    # Registers of very many values, and values that no register has, must not stop the others.
    sets.append(np.full_like(sets[0], 160))
    sets.append(np.full_like(sets[0], 255))
    found = estimates(np.stack(sets))
    assert found.tolist() == pytest.approx([estimate(s) for s in sets], rel=1e-9)
    assert estimates(np.stack(sets)[:0]).tolist() == []


def test_slow_is_what_the_last_sealed_window_with_enough_latencies_says() -> None:
    fold = Fold(Config(windows=Windows(out_of_orderness_s=0)), start_ns=1)

    def read(minute: int, latencies: list[float]) -> dict[StreamKey, float]:
        rows = [Row(KEY, T0 + 60_000 * minute, {LATENCY: x}) for x in latencies]
        rows.append(Row(KEY, T0 + 60_000 * (minute + 1), {}))
        at = range_of(0, rows, to_offset=minute)
        chunk = chunk_of([[rows]], digest=merge_digest(fold._config), ranges=[at])
        return fold.apply(chunk, minute).slow_above_s

    slow = read(0, [i / 1000 for i in range(1, 1001)])
    assert slow[KEY] == pytest.approx(0.990, rel=0.011)
    assert read(1, [9.0] * (MIN_LATENCIES - 1)) == slow
    assert read(2, [9.0] * MIN_LATENCIES)[KEY] == pytest.approx(9.0, rel=0.011)


def test_windows_of_a_day_count_in_wide_cells() -> None:
    config = Config(windows=Windows(width_s=3600), features={"f": Feature(kind=Kind.NUMERIC)})
    rows = [Row(KEY, T0, {F: 1.5})]
    fold = Fold(config, start_ns=1)
    at = range_of(0, max_event_time_ms=1)
    fold.apply(chunk_of([[rows]], digest=merge_digest(config), ranges=[at], width_ms=3_600_000), 2)
    (profile,) = fold.seal_all(3).sealed
    view = profile.columns[F].numbers
    assert view is not None and view.sum == 1.5
    merged = merge(profile, profile).columns[F].numbers
    assert merged is not None and merged.sum == 3.0


# ---------------------------------------------------------------- foreign chunks


def foreign(rows: list[Row], digest: str) -> tuple[Fold, Any]:
    fold = Fold(CONFIG, start_ns=1)
    at = range_of(0, max_event_time_ms=1)
    return fold, fold.apply(chunk_of([[rows]], digest=digest, ranges=[at]), 2)


def test_a_chunk_of_another_window_width_feeds_totals_only() -> None:
    digest = "30000;" + merge_digest(CONFIG).partition(";")[2]
    fold, effects = foreign(rows_with(1.0, 2.0), digest)
    assert (effects.n_foreign, fold.n_foreign) == (1, 1)
    (stream,) = fold.report()["streams"]
    assert (stream["rows"], stream["features"]["f"]["mean"]) == (2, 1.5)
    assert fold.seal_all(3).sealed == []


def test_a_chunk_of_other_sketches_feeds_row_counts_only() -> None:
    fold, effects = foreign(rows_with(1.0, 2.0), "60000;hash99")
    assert effects.n_foreign == 1
    (stream,) = fold.report()["streams"]
    assert (stream["rows"], stream["features"]) == (2, {})
    assert fold.seal_all(3).sealed == []
