"""A delta of random blocks says what plain Python says of their rows, however they were cut and merged."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from fractions import Fraction
from math import isfinite, nan
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.sketch.cells import NUMERIC_CELL_BYTES, STRING_CELL_BYTES, CellPages
from agent.sketch.codec import (
    numeric_from_bytes,
    numeric_to_bytes,
    string_from_bytes,
    string_to_bytes,
)
from agent.sketch.delta import Delta
from agent.sketch.merge import merge_numeric, merge_strings
from agent.sketch.views import NumericView, StringView, numeric_view, string_view
from agent.types import Column, JsonType, StreamKey
from tests.reference.histogram import histogram
from tests.reference.sketching import exact_part, exact_string_part, merged, numeric
from tests.support.blocks import WIDTH_MS, LaneTable, Row, block_of, feature, type_of

LIMIT, ZERO = 2.0**64, 2.0**-64
Key = tuple[StreamKey, int, Column, JsonType]
ODD = [0.0, -0.0, 5e-324, -1e-30, 1e300, -1e300, LIMIT, -LIMIT, ZERO, nan, float("inf")]


def random_rows(rng: random.Random, n: int, streams: int, columns: int, odd: float) -> list[Row]:
    """Rows of one pace: the further on, the more columns a row may have, so streams widen."""
    rows = []
    for i in range(n):
        width = rng.randint(0, 1 + columns * (i + 1) // n)
        values: dict[Column, Any] = {}
        for j in rng.sample(range(columns), min(width, columns)):
            kind = rng.random()
            if kind < odd:
                values[feature(f"c{j}")] = rng.choice([*ODD, None, True, False, [3.0, 4.0], ["x"]])
            elif j % 4 == 3:
                values[feature(f"c{j}")] = f"wörd {min(int(rng.paretovariate(0.5)), 10**6)}"
            elif j % 4 == 2:
                values[feature(f"c{j}")] = rng.choice(["", "a", "b" * 70])
            else:
                values[feature(f"c{j}")] = rng.lognormvariate(0, 3) - (j % 4 == 1) * 2.0
        key = StreamKey(f"m{min(int(rng.paretovariate(1.0)), streams)}", "1")
        window = rng.choice((0, 0, 0, 1, 2))
        rows.append(Row(key, (1000 + window) * WIDTH_MS + i, values, is_error=rng.random() < 0.1))
    return rows


class Totals:
    """What frozen deltas add up to, by group and by column: merged by the code under test."""

    def __init__(self) -> None:
        self.rows: Counter[tuple[StreamKey, int]] = Counter()
        self.errors: Counter[tuple[StreamKey, int]] = Counter()
        self.numeric = CellPages(NUMERIC_CELL_BYTES, 16)
        self.strings = CellPages(STRING_CELL_BYTES, 16)
        self._cells: dict[Key, int] = {}

    def take(self, delta: Delta) -> None:
        groups, numbers, texts = delta.freeze()
        for group in groups:
            place = group.stream, group.window
            self.rows[place] += group.rows
            self.errors[place] += group.errors
            for ref in group.cells:
                is_string = ref.type is JsonType.STRING
                pages = self.strings if is_string else self.numeric
                key = (*place, ref.column, ref.type)
                if key not in self._cells:
                    self._cells[key] = pages.alloc()
                target = pages.addresses[[self._cells[key]]]
                merge = merge_strings if is_string else merge_numeric
                merge(target, texts if is_string else numbers, np.array([ref.cell]))

    def views(self) -> dict[Key, NumericView | StringView]:
        return {
            key: string_view(self.strings.record(cell))
            if key[3] is JsonType.STRING
            else numeric_view(self.numeric.record(cell))
            for key, cell in self._cells.items()
        }


def number_of(value: Any) -> float:
    if isinstance(value, list):
        return nan if type_of(value) is JsonType.OTHER else sum(x * x for x in value) ** 0.5
    return float(value)


def assert_numbers(view: NumericView, values: list[float]) -> None:
    finite = [v for v in values if isfinite(v)]
    inside = [v for v in finite if abs(v) <= LIMIT]
    want = histogram(finite)
    assert view.count == len(finite)
    assert view.non_finite == len(values) - len(finite)
    assert (view.zeros, view.over_range, view.scale) == (want.zeros, want.over_range, want.scale)
    for counts, offset, side in (
        (view.positive, view.positive_offset, want.positive),
        (view.negative, view.negative_offset, want.negative),
    ):
        assert {offset + i: c for i, c in enumerate(counts.tolist()) if c} == dict(side)
    if finite:
        assert (view.min, view.max) == (min(finite), max(finite))
    total = sum(map(Fraction, inside), Fraction(0))
    assert abs(Fraction(view.sum) - total) <= Fraction(1, 10**12) * sum(map(abs, inside))
    assert abs(view.distinct() - len(set(finite))) <= 0.10 * len(set(finite)) + 1


def assert_texts(view: StringView, texts: list[str]) -> None:
    true = Counter(text.encode() for text in texts)
    lengths = [len(text.encode()) for text in texts]
    assert view.count == len(texts)
    assert view.length_sum == sum(lengths)
    if lengths:
        assert (view.length_min, view.length_max) == (min(lengths), max(lengths))
    assert abs(view.distinct() - len(true)) <= 0.10 * len(true) + 1
    known = {text[:56]: n for text, n in true.items()}
    for text, count, over in view.top(200):
        assert count - over <= known[text.encode()] <= count


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 1 << 32),
    st.sampled_from([1, 9, 300, 1500]),
    st.sampled_from([1, 4, 40]),
    st.sampled_from([1, 5, 23]),
    st.sampled_from([0.0, 0.05, 0.5]),
)
def test_random_blocks_cut_anywhere_give_the_totals_of_plain_python(
    seed: int, n: int, streams: int, columns: int, odd: float
) -> None:
    rng = random.Random(seed)
    rows = random_rows(rng, n, streams, columns, odd)
    values: dict[Key, list[Any]] = defaultdict(list)
    nulls: Counter[tuple[StreamKey, int, Column]] = Counter()
    for row in rows:
        for column, value in row.values.items():
            window = row.time_ms // WIDTH_MS
            if value is None:
                nulls[row.stream, window, column] += 1
            else:
                values[row.stream, window, column, type_of(value)].append(value)
    table = LaneTable()
    delta, totals = Delta(table), Totals()
    at = 0
    while at < n:
        size = rng.choice((1, 7, 300, 2048))
        delta.add(block_of(table, rows[at : at + size]))
        at += size
        if rng.random() < 0.1:
            totals.take(delta)
    totals.take(delta)

    places = [(row.stream, row.time_ms // WIDTH_MS) for row in rows]
    assert totals.rows == Counter(places)
    assert +totals.errors == Counter(p for p, row in zip(places, rows, strict=True) if row.is_error)
    seen_nulls: Counter[tuple[StreamKey, int, Column]] = Counter()
    views = totals.views()
    assert values.keys() <= views.keys()
    for key, view in views.items():
        seen_nulls[key[:3]] += view.nulls
        if isinstance(view, StringView):
            assert_texts(view, values[key])
        else:
            assert_numbers(view, [number_of(v) for v in values[key]])
    assert +seen_nulls == +nulls


@pytest.mark.parametrize("n", [1, 7, 8, 9, 64, 65, 255, 256, 257, 512, 513, 70_000])
@pytest.mark.parametrize("absent", [0.0, 0.7])
def test_every_fill_of_a_buffer_counts_each_value_once(n: int, absent: float) -> None:
    rng = np.random.default_rng(n)
    values = rng.normal(size=n)
    kept = values[rng.random(n) >= absent]
    missing = np.array([0x7FF8000000000001], np.uint64).view(np.float64)[0]
    given_values = np.where(np.isin(values, kept), values, missing)
    for block in (1, 50, 2048):
        if n // block > 2000:
            continue
        view = numeric_view(numeric(given_values, block))
        assert view.count == len(kept)
        assert int(view.positive.sum()) == int((kept > 0).sum())
        assert int(view.negative.sum()) == int((kept < 0).sum())


def test_a_sign_that_comes_late_and_counts_beyond_sixteen_bits_lose_nothing() -> None:
    values = np.concatenate((np.full(66_000, 3.0), np.full(300, -5.0), np.full(66_000, -5.0)))
    view = numeric_view(numeric(values))
    assert (view.positive.tolist(), view.negative.tolist()) == ([66_000], [66_300])
    assert view.sum == 3.0 * 66_000 - 5.0 * 66_300


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(1, 400))
def test_what_leaves_a_delta_survives_its_bytes_and_merges_in_any_order(seed: int, n: int) -> None:
    rng = random.Random(seed)
    table = LaneTable()
    records: dict[Column, list[Any]] = defaultdict(list)
    for _ in range(3):
        delta = Delta(table)
        delta.add(block_of(table, random_rows(rng, n, 1, 4, 0.2)))
        groups, numbers, texts = delta.freeze()
        for group in groups:
            for ref in group.cells:
                is_string = ref.type is JsonType.STRING
                record = (texts if is_string else numbers)[ref.cell]
                write, read = (
                    (string_to_bytes, string_from_bytes)
                    if is_string
                    else (numeric_to_bytes, numeric_from_bytes)
                )
                assert write(read(write(record))) == write(record)
                records[feature(f"{ref.column.name} {ref.type}")].append(record)
    for found in records.values():
        exact: Any = exact_part if len(found[0]) == NUMERIC_CELL_BYTES else exact_string_part
        view: Any = numeric_view if len(found[0]) == NUMERIC_CELL_BYTES else string_view
        left = exact(view(merged(found)))
        shuffled = found[:]
        rng.shuffle(shuffled)
        half = len(found) // 2
        tree = [merged(part) for part in (shuffled[:half], shuffled[half:]) if part]
        assert exact(view(merged(tree))) == left


def test_the_size_that_cuts_a_delta_is_what_its_arenas_have_handed_out() -> None:
    rng = random.Random(5)
    table = LaneTable()
    delta = Delta(table)
    before = 0
    for _ in range(60):
        delta.add(block_of(table, random_rows(rng, 200, 30, 12, 0.05)))
        handed_out = delta._numbers.used_bytes + delta._strings.used_bytes
        assert delta.size_bytes == handed_out + 1024 * delta.n_groups
        assert handed_out <= delta._numbers.size_bytes + delta._strings.size_bytes
        assert delta.size_bytes >= before
        before = delta.size_bytes
    delta.freeze()
    assert delta.size_bytes == 0
    assert delta._numbers.size_bytes > 0  # kept for the next cut,
    delta.freeze()
    assert delta._numbers.size_bytes == 0  # and given back when that did not need it


def test_rows_without_values_cost_their_group_alone() -> None:
    table = LaneTable()
    delta = Delta(table)
    delta.add(block_of(table, [Row(StreamKey(f"m{i}", ""), 0, {}) for i in range(300)]))
    assert delta.size_bytes == 300 * 1024
