"""However rows are split over threads and chunks, the base is the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.config import Budget, Config, Windows
from agent.fold.base import Fold
from agent.sketch.views import NumericView, StringView
from agent.state.chunk import merge_digest
from agent.types import Column, StreamKey
from tests.support.blocks import (
    LATENCY,
    LaneTable,
    Row,
    TwinTable,
    chunk_of,
    feature,
    prediction,
    range_of,
)

CONFIG = Config(
    windows=Windows(width_s=60, max_open=1000),
    budget=Budget(max_streams=2, max_features_per_stream=4),
)
T0_MS = 1_700_000_000_000
KEYS = [StreamKey(m, "", s) for m in "abc" for s in ((), (("region", "eu"),))]
NUMBERS = st.floats(-1e6, 1e6).filter(lambda x: x == 0 or abs(x) > 1e-9)

#: Columns whose values all have one type: their kind does not depend on which chunk is the first.
PLAIN: dict[Column, st.SearchStrategy[Any]] = {
    LATENCY: st.floats(0, 100),
    prediction("score"): NUMBERS,
    feature("carrier"): st.sampled_from(["UA", "AA", "DL", "B6"]),
    feature("weekend"): st.booleans(),
}
MIXED = st.one_of(st.none(), NUMBERS, st.booleans(), st.sampled_from(["a", "b" * 100]))


@st.composite
def rows(draw: st.DrawFn, mixed: bool) -> list[Row]:
    out = []
    for _ in range(draw(st.integers(1, 40))):
        values: dict[Column, Any] = {}
        for column, plain in PLAIN.items():
            if draw(st.integers(0, 4)):
                values[column] = draw(MIXED if mixed else plain)
        out.append(
            Row(
                draw(st.sampled_from(KEYS)),
                T0_MS + draw(st.integers(0, 300_000)),
                values,
                is_error=draw(st.booleans()),
                future=draw(st.integers(0, 9)) == 0,
            )
        )
    return out


def folded(chunks: list[list[list[Row]]], table_of: type[LaneTable] = LaneTable) -> Fold:
    """A fold of chunks, each given as the rows of its threads."""
    fold = Fold(CONFIG, start_ns=1)
    for number, threads in enumerate(chunks, 1):
        # The clock stays far behind, so nothing seals and no row is late.
        at = range_of(0, to_offset=number, max_event_time_ms=1)
        chunk = chunk_of(
            [[thread] for thread in threads],
            digest=merge_digest(CONFIG),
            ranges=[at],
            number=number,
            table_of=table_of,
        )
        fold.apply(chunk, number)
    return fold


def assert_equal_views(a: NumericView | StringView, b: NumericView | StringView) -> None:
    """Exact where the sketches are exact, within their bounds elsewhere."""
    assert type(a) is type(b)
    # Not nulls: a null goes to the lane its column had first in that thread. The fold counts missing values.
    assert a.count == b.count
    assert np.array_equal(a.registers, b.registers)
    if isinstance(a, StringView) and isinstance(b, StringView):
        assert np.array_equal(a.hashed_buckets, b.hashed_buckets)
        assert sorted(a.top(100)) == sorted(b.top(100))  # fewer values than places: exact
        return
    assert isinstance(a, NumericView) and isinstance(b, NumericView)
    assert (a.zeros, a.non_finite, a.over_range) == (b.zeros, b.non_finite, b.over_range)
    if a.count:
        assert (a.min, a.max) == (b.min, b.max)
        assert a.scale == b.scale
        bound = 1e-12 * a.count * max(abs(a.min), abs(a.max))
        assert a.sum == pytest.approx(b.sum, rel=1e-12, abs=bound)
    for x, y in ((a.positive, b.positive), (a.negative, b.negative)):
        assert np.array_equal(x, y)
    assert (a.positive_offset, a.negative_offset) == (b.positive_offset, b.negative_offset)


def assert_equal_bases(a: Fold, b: Fold) -> None:
    assert a.streams.keys() == b.streams.keys()
    for key, x in a.streams.items():
        y = b.streams[key]
        assert (x.rows, x.errors, x.late, x.future) == (y.rows, y.errors, y.late, y.future)
        assert (x.first_event_ms, x.last_event_ms) == (y.first_event_ms, y.last_event_ms)
        assert x.unsketched_values == y.unsketched_values
        assert {c: (t.kind, t.present) for c, t in x.columns.items()} == {
            c: (t.kind, t.present) for c, t in y.columns.items()
        }
    sealed = [sorted(f.seal_all(2).sealed, key=lambda p: (p.window, p.stream)) for f in (a, b)]
    assert len(sealed[0]) == len(sealed[1])
    for p, q in zip(*sealed, strict=True):
        assert (p.stream, p.window, p.rows, p.errors) == (q.stream, q.window, q.rows, q.errors)
        assert p.columns.keys() == q.columns.keys()
        for name, c in p.columns.items():
            d = q.columns[name]
            assert (c.kind, c.present) == (d.kind, d.present)
            for left, right in ((c.numbers, d.numbers), (c.texts, d.texts)):
                assert (left is None) == (right is None)
                if left is not None and right is not None:
                    assert_equal_views(left, right)
    documents = [f.report() for f in (a, b)]
    assert documents[0]["rows"] == documents[1]["rows"]


@settings(max_examples=60, deadline=None)
@given(rows(mixed=True), st.integers(2, 4), st.randoms(use_true_random=False))
def test_threads_within_a_chunk_do_not_show(every: list[Row], n: int, random: Any) -> None:
    threads: list[list[Row]] = [[] for _ in range(n)]
    for row in every:
        random.choice(threads).append(row)
    random.shuffle(threads)
    assert_equal_bases(folded([[every]]), folded([threads]))


@settings(max_examples=60, deadline=None)
@given(rows(mixed=False), st.integers(2, 5), st.data())
def test_cuts_do_not_show_where_kinds_agree(every: list[Row], n: int, data: st.DataObject) -> None:
    # One row of each stream and column first, so that admission sees the same streams either way.
    seeds = [
        Row(
            key,
            T0_MS,
            {
                c: ("UA" if c.name == "carrier" else True if c.name == "weekend" else 1.0)
                for c in PLAIN
            },
        )
        for key in KEYS
    ]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(every)), min_size=n, max_size=n)))
    parts = [every[i:j] for i, j in zip([0, *cuts], [*cuts, len(every)], strict=True)]
    assert_equal_bases(folded([[seeds], [every]]), folded([[seeds], *([part] for part in parts)]))


@settings(max_examples=60, deadline=None)
@given(rows(mixed=True))
def test_two_numbers_of_one_stream_do_not_show(every: list[Row]) -> None:
    """A stream number stands for a stream and a shape: one stream may have several in a delta."""
    assert_equal_bases(folded([[every]]), folded([[every]], TwinTable))
