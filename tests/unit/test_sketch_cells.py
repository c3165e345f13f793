"""Pages of cells, what is told apart, refusals, and no write outside a cell."""

from __future__ import annotations

import numpy as np
import pytest

from agent.sketch.cells import (
    ABSENT_BITS,
    HASH_ABSENT,
    HASH_NULL,
    NULL_BITS,
    NUMERIC_CELL_BYTES,
    NUMERIC_WIDE_CELL_BYTES,
    STRING_CELL_BYTES,
    CellPages,
)
from agent.sketch.hash import hash_spans
from agent.sketch.kernels import layout
from agent.sketch.merge import merge_numeric, merge_strings
from agent.sketch.packed import pack
from agent.sketch.views import numeric_view, string_view
from tests.reference.sketching import (
    block_of_lanes,
    merged,
    numeric,
    packed,
    sketched,
    spans,
    strings,
)

ABSENT, NULL = np.array([ABSENT_BITS, NULL_BITS], np.uint64).view(np.float64).tolist()


def test_growth_never_moves_a_cell() -> None:
    pages = CellPages(128, page_cells=4)
    first = pages.alloc_many(3)
    before = pages.addresses[first].copy()
    pages.record(1)[:] = 7
    pages.alloc_many(100)
    assert np.array_equal(pages.addresses[first], before)
    assert (pages.copy_out([1]) == 7).all()
    assert (pages.used, pages.size_bytes) == (103, 26 * 4 * 128)
    assert len(np.unique(pages.addresses)) == len(pages.addresses)
    assert (pages.addresses % 64 == 0).all()


def test_a_cell_given_out_again_is_empty() -> None:
    pages = CellPages(128, page_cells=4)
    ids = pages.alloc_many(6)
    for cell in ids.tolist():
        pages.record(cell)[:] = 255
    pages.free(ids[:3])
    again = pages.alloc_many(5)
    assert set(ids[:3].tolist()) <= set(again.tolist())
    assert not pages.copy_out(again).any()
    pages.reset()
    assert pages.used == 0
    assert not pages.copy_out(pages.alloc_many(8)).any()


def test_a_reset_gives_pages_back_beyond_its_bound() -> None:
    pages = CellPages(128, page_cells=4)
    pages.alloc_many(20)
    pages.reset(keep_pages=2)
    assert (pages.used, pages.size_bytes) == (0, 2 * 4 * 128)
    assert sorted(pages.alloc_many(9).tolist()) == list(range(9))
    assert pages.size_bytes == 3 * 4 * 128


def test_a_cell_that_is_not_in_use_is_refused() -> None:
    pages = CellPages(128, page_cells=4)
    cell = pages.alloc()
    pages.free([cell])
    for wrong in ([cell], [-1], [99]):
        with pytest.raises(ValueError, match="a cell id is not in use"):
            pages.free(wrong)
        with pytest.raises(ValueError, match="a cell id is not in use"):
            pages.copy_out(wrong)
    cell = pages.alloc()
    with pytest.raises(ValueError, match="a cell id is given twice"):
        pages.free([cell, cell])
    with pytest.raises(ValueError, match="cell_bytes is 100"):
        CellPages(100)


def test_absent_null_and_non_finite_are_told_apart() -> None:
    record = numeric(
        [1.0, ABSENT, NULL, float("nan"), float("inf"), -float("inf"), 0.0, -0.0, NULL]
    )
    view = numeric_view(record)
    assert (view.count, view.nulls, view.non_finite, view.zeros) == (3, 2, 3, 2)
    assert (view.min, view.max, view.sum) == (0.0, 1.0, 1.0)


def test_nulls_and_absent_strings_are_told_apart() -> None:
    text, start, length = spans([b"", b"abc", b"\xc3\xa9"])
    hashes = np.empty(3, np.uint64)
    hash_spans(text, start, length, hashes)
    block = block_of_lanes(
        np.empty((6, 0)),
        np.concatenate((hashes, [HASH_ABSENT, HASH_NULL, HASH_NULL])).astype(np.uint64),
        np.append(start, [0, 0, 0]),
        np.append(length, np.zeros(3, np.int32)).astype(np.int32),
        text,
    )
    view = string_view(sketched([block], 0, 1)[1])
    assert (view.count, view.nulls) == (3, 2)
    assert (view.length_sum, view.length_min, view.length_max) == (5, 0, 3)
    assert sorted(view.top(9)) == [("", 1, 0), ("abc", 1, 0), ("é", 1, 0)]


def test_a_span_outside_the_text_is_counted_without_its_text() -> None:
    block = block_of_lanes(
        np.empty((3, 0)),
        np.array([5, 6, 7], np.uint64),
        np.array([1 << 60, -5, 90], np.int64),
        np.array([4, 4, 20], np.int32),
        np.zeros(100, np.uint8),
    )
    assert string_view(sketched([block], 0, 1)[1]).top(3) == [("", 1, 0)] * 3


def test_wrong_merges_are_refused() -> None:
    pages = CellPages(NUMERIC_CELL_BYTES, 2)
    ids = pages.alloc_many(1)
    cell = pages.addresses[ids]
    with pytest.raises(ValueError, match="a row is outside the source's 1 cells"):
        merge_numeric(cell, packed([numeric([1.0])]), np.ones(1, np.int64))
    with pytest.raises(ValueError, match=r"\[1\] targets for \[2\] rows"):
        merge_numeric(cell, packed([numeric([1.0])]), np.zeros(2, np.int64))
    with pytest.raises(ValueError, match="numeric and string cells do not merge"):
        merge_numeric(cell, packed([strings([b"a"])]), np.zeros(1, np.int64))
    with pytest.raises(ValueError, match="do not merge into cells of 15424 bytes"):
        merge_numeric(cell, packed([numeric([1.0])]), np.zeros(1, np.int64), STRING_CELL_BYTES)
    with pytest.raises(ValueError, match="a cell has 100 bytes; must be one of"):
        pack(cell, 100)
    with pytest.raises(ValueError, match="must be"):
        numeric_view(np.zeros(5, np.uint8))


def _with_count(record: np.ndarray, count: int) -> np.ndarray:
    """The record as if its one bucket had been counted `count` times."""
    out = record.copy()
    view = out[layout.BUCKETS :].view(np.uint32)
    view[np.flatnonzero(view)] = count & 0xFFFFFFFF
    out[layout.N : layout.N + 8].view(np.uint64)[0] = count
    out[layout.THRESHOLD : layout.THRESHOLD + 8].view(np.uint64)[0] = count * 8
    return out


def test_a_narrow_cell_refuses_to_wrap_around_and_a_wide_one_takes_it() -> None:
    half = packed([_with_count(numeric([1.0]), 1 << 31)])
    narrow, wide = CellPages(NUMERIC_CELL_BYTES, 2), CellPages(NUMERIC_WIDE_CELL_BYTES, 2)
    ids = narrow.alloc_many(2)
    row = np.zeros(1, np.int64)
    merge_numeric(narrow.addresses[ids[:1]], half, row)
    before = narrow.copy_out(ids)
    with pytest.raises(
        OverflowError, match="narrow cell of pair 1 would hold more than 4294967295"
    ):
        merge_numeric(narrow.addresses[ids[::-1]], half, np.zeros(2, np.int64))
    assert np.array_equal(narrow.copy_out(ids), before)  # checked before anything was merged
    cell = wide.alloc()
    for _ in range(4):
        merge_numeric(wide.addresses[[cell]], half, row, NUMERIC_WIDE_CELL_BYTES)
    view = numeric_view(wide.record(cell))
    assert view.count == 1 << 33
    assert view.positive.tolist() == [1 << 33]
    with pytest.raises(OverflowError, match="cell 0 holds more than 4294967295 values"):
        packed([wide.record(cell)])[0]


@pytest.mark.parametrize("size", [NUMERIC_CELL_BYTES, NUMERIC_WIDE_CELL_BYTES, STRING_CELL_BYTES])
def test_a_merge_writes_nothing_outside_its_cell(size: int) -> None:
    """The cell lies between canaries; extremes of every kind are merged into it."""
    guard = 65536
    memory = np.full(guard + size + guard, 0xA5, np.uint8)
    memory[guard : guard + size] = 0
    address = np.array([memory.ctypes.data + guard], np.int64)
    rng = np.random.default_rng(1)
    values = np.concatenate(
        (
            rng.normal(size=3000),
            np.exp2(rng.uniform(-1074, 1023, 3000)) * rng.choice([-1, 1], 3000),
            rng.integers(0, 1 << 64, 3000, dtype=np.uint64).view(np.float64),
            [0.0, -0.0, 5e-324, 1.7e308, -1.7e308, 2.0**64, -(2.0**64), 2.0**-64],
        )
    )
    texts = [rng.bytes(int(n)) for n in rng.integers(0, 200, 3000)]
    row = np.zeros(1, np.int64)
    if size == STRING_CELL_BYTES:
        for part in (texts[:5], texts[5:500], texts[500:]):
            merge_strings(address, packed([strings(part)]), row)
    else:
        parts = [numeric(values[:3000]), numeric(values[3000:6000]), numeric(values[6000:])]
        for part in parts:
            merge_numeric(address, packed([part]), row, size)
        if size == NUMERIC_WIDE_CELL_BYTES:
            merge_numeric(address, packed([merged(parts, wide=True)]), row, size)
    assert memory[guard : guard + size].any()
    assert (memory[:guard] == 0xA5).all()
    assert (memory[guard + size :] == 0xA5).all()
