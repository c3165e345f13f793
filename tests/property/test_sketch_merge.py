"""Merging: commutative, associative, equal to one sketch of both inputs, and only the target changes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.sketch.cells import NULL_BITS, NUMERIC_WIDE_CELL_BYTES
from agent.sketch.views import numeric_view, string_view
from tests.reference.sketching import (
    SHAPES,
    exact_part,
    exact_string_part,
    merged,
    numeric,
    strings,
)

NULL = float(np.array([NULL_BITS], np.uint64).view(np.float64)[0])
VALUES = st.lists(
    st.one_of(
        st.floats(allow_nan=False),
        st.floats(-10, 10),
        st.just(float("nan")),
        st.sampled_from([0.0, -0.0, 1e308, -1e308, 5e-324, 2.0**64, float("inf")]),
    ),
    max_size=30,
)
WORDS = st.lists(st.sampled_from([f"word {i}".encode() for i in range(300)]), max_size=200)


@settings(max_examples=80, deadline=None)
@given(VALUES, VALUES, VALUES)
def test_numeric_merges_commute_and_associate(
    a: list[float], b: list[float], c: list[float]
) -> None:
    ra, rb, rc = numeric(a), numeric(b), numeric(c)
    whole = exact_part(numeric_view(numeric(a + b + c)))
    for wide in (False, True):
        assert exact_part(numeric_view(merged([ra, rb, rc], wide))) == whole
        assert exact_part(numeric_view(merged([rc, rb, ra], wide))) == whole
        assert exact_part(numeric_view(merged([ra, merged([rb, rc])], wide))) == whole
    wide_parts = [merged([ra], True), merged([rb, rc], True)]
    assert len(wide_parts[0]) == NUMERIC_WIDE_CELL_BYTES
    assert exact_part(numeric_view(merged(wide_parts, True))) == whole


@pytest.mark.parametrize("shape", SHAPES)
def test_merging_pieces_equals_one_sketch(shape: str) -> None:
    values = SHAPES[shape](np.random.default_rng(2), 20_000)
    whole = numeric_view(numeric(values))
    for pieces in (2, 7, 100):
        parts = [numeric(part) for part in np.array_split(values, pieces)]
        got = numeric_view(merged(parts))
        assert exact_part(got) == exact_part(whole)
        assert got.quantiles((0.1, 0.5, 0.9)) == whole.quantiles((0.1, 0.5, 0.9))


def test_merging_leaves_its_source_alone_and_an_empty_cell_changes_nothing() -> None:
    record = numeric([1.0, -2.0, 0.0, 1e300, float("nan")])
    before = record.copy()
    again = merged([record, numeric([])])
    assert np.array_equal(record, before)
    assert np.array_equal(again, record)
    assert np.array_equal(merged([numeric([]), record]), record)
    texts = strings([b"a", b"b", b"a"])
    before = texts.copy()
    assert np.array_equal(merged([texts, strings([])]), texts)
    assert np.array_equal(texts, before)


@settings(max_examples=60, deadline=None)
@given(WORDS, WORDS, WORDS)
def test_string_merges_are_exact_but_for_bounded_hitters(
    a: list[bytes], b: list[bytes], c: list[bytes]
) -> None:
    whole = a + b + c
    want = exact_string_part(string_view(strings(whole)))
    for order in ([a, b, c], [c, a, b]):
        view = string_view(merged([strings(part) for part in order]))
        assert exact_string_part(view) == want
        for text, count, over in view.top(200):
            assert count - over <= whole.count(text.encode()) <= count
    left, right = merged([strings(a), strings(b)]), merged([strings(b), strings(a)])
    assert string_view(left).named == string_view(right).named
