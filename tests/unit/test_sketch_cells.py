"""Pages of cells, routing of rows to cells, refusals, and no write outside a cell."""

from __future__ import annotations

import numpy as np
import pytest

from agent.sketch import update
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
from agent.sketch.update import (
    missing_numbers,
    missing_strings,
    update_numbers,
    update_strings,
)
from agent.sketch.views import numeric_view, string_view
from tests.reference.sketching import merged, numeric, spans, starts, strings

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


def test_rows_go_to_the_cells_of_their_group_and_lane() -> None:
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(5000, 3))
    group = rng.integers(-1, 7, 5000).astype(np.int32)
    pages = CellPages(NUMERIC_CELL_BYTES, 8)
    lane_cell = np.full((7, 3), -1, np.int32)
    pairs = missing_numbers(numbers.ravel(), starts(5000, 3), group, lane_cell)
    assert len(pairs) == 21
    lane_cell[pairs[:, 0], pairs[:, 1]] = pages.alloc_many(len(pairs))
    lane_cell[2, 1] = -1  # no cell: not counted anywhere
    update_numbers(numbers.ravel(), starts(5000, 3), group, lane_cell, pages.addresses)
    for g in range(7):
        for lane in range(3):
            if lane_cell[g, lane] < 0:
                continue
            want = numbers[group == g, lane]
            view = numeric_view(pages.record(int(lane_cell[g, lane])))
            assert (view.count, view.min, view.max) == (len(want), want.min(), want.max())


def test_missing_pairs_are_those_with_a_value_each_once() -> None:
    numbers = np.array([1.0, ABSENT, NULL, 2.0, 3.0, 4.0, 5.0])
    first = np.array([0, 3, 4, 7])  # the second row is narrower
    group = np.array([1, 1, -1], np.int32)
    lane_cell = np.full((3, 3), -1, np.int32)
    assert missing_numbers(numbers, first, group, lane_cell).tolist() == [[1, 0], [1, 2]]
    assert (lane_cell == -1).all()
    lane_cell[1, 0] = 0
    assert missing_numbers(numbers, first, group, lane_cell).tolist() == [[1, 2]]
    hashes = np.array([HASH_ABSENT, HASH_NULL, 9, HASH_ABSENT], np.uint64)
    group = np.array([0, 2], np.int32)
    table = np.full((3, 2), -1, np.int32)
    assert missing_strings(hashes, starts(2, 2), group, table).tolist() == [[0, 1], [2, 0]]
    nothing, no_rows = np.empty(0), np.empty(0, np.int32)
    assert missing_numbers(nothing, starts(0, 3), no_rows, lane_cell).shape == (0, 2)


def test_nulls_and_absent_strings_are_told_apart() -> None:
    text, start, length = spans([b"", b"abc", b"\xc3\xa9"])
    hashes = np.empty(3, np.uint64)
    hash_spans(text, start, length, hashes)
    lanes = np.concatenate((hashes, [HASH_ABSENT, HASH_NULL, HASH_NULL])).astype(np.uint64)
    pages = CellPages(STRING_CELL_BYTES, 2)
    table = np.array([[pages.alloc()]], np.int32)
    update_strings(
        lanes,
        np.append(start, [0, 0, 0]),
        np.append(length, np.zeros(3, np.int32)).astype(np.int32),
        text,
        starts(6, 1),
        np.zeros(6, np.int32),
        table,
        pages.addresses,
    )
    view = string_view(pages.record(0))
    assert (view.count, view.nulls) == (3, 2)
    assert (view.length_sum, view.length_min, view.length_max) == (5, 0, 3)
    assert sorted(view.top(9)) == [("", 1, 0), ("abc", 1, 0), ("é", 1, 0)]


def test_a_span_outside_the_text_is_counted_without_its_text() -> None:
    pages = CellPages(STRING_CELL_BYTES, 2)
    table = np.array([[pages.alloc()]], np.int32)
    update_strings(
        np.array([5, 6, 7], np.uint64),
        np.array([1 << 60, -5, 90], np.int64),
        np.array([4, 4, 20], np.int32),
        np.zeros(100, np.uint8),
        starts(3, 1),
        np.zeros(3, np.int32),
        table,
        pages.addresses,
    )
    assert string_view(pages.record(0)).top(3) == [("", 1, 0)] * 3


def test_wrong_arrays_are_refused() -> None:
    pages = CellPages(NUMERIC_CELL_BYTES, 2)
    table = np.array([[pages.alloc()]], np.int32)
    numbers, group, first = np.zeros(4), np.zeros(4, np.int32), starts(4, 1)
    with pytest.raises(ValueError, match=r"numbers is float32\[4\]; must be C-ordered float64"):
        update_numbers(numbers.astype(np.float32), first, group, table, pages.addresses)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"group is int32\[3\]"):
        update_numbers(numbers, first, group[:3], table, pages.addresses)
    with pytest.raises(ValueError, match="group has 1; lane_cell has 1 rows"):
        update_numbers(numbers, first, group + 1, table, pages.addresses)
    with pytest.raises(ValueError, match="lane_cell has cell 2; there are 2 cells"):
        update_numbers(numbers, first, group, table + 2, pages.addresses)
    with pytest.raises(ValueError, match="C-ordered"):
        update_numbers(np.zeros(8)[::2], first, group, table, pages.addresses)
    with pytest.raises(ValueError, match=r"first must lie in 0\.\.4"):
        update_numbers(numbers, first + 1, group, table, pages.addresses)
    with pytest.raises(ValueError, match="first must ascend"):
        update_numbers(numbers, np.array([0, 2, 1, 2, 3]), group, table, pages.addresses)
    with pytest.raises(ValueError, match="a row has 2 lanes; lane_cell has 1"):
        update_numbers(numbers, np.array([0, 2, 3, 4, 4]), group, table, pages.addresses)
    with pytest.raises(ValueError, match="a row is outside the source's 1 cells"):
        merge_numeric(pages.addresses[:1], numeric([1.0]).reshape(1, -1), np.ones(1, np.int64))
    with pytest.raises(ValueError, match="do not merge into"):
        merge_numeric(pages.addresses[:1], strings([b"a"]).reshape(1, -1), np.zeros(1, np.int64))
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
    half = _with_count(numeric([1.0]), 1 << 31).reshape(1, -1)
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


def test_an_update_says_when_a_cell_is_full() -> None:
    pages = CellPages(NUMERIC_CELL_BYTES, 2)
    cell = pages.alloc()
    pages.record(cell)[:] = _with_count(numeric([1.0]), update.FULL - 2)
    table = np.array([[cell]], np.int32)
    one, group, first = np.ones(1), np.zeros(1, np.int32), starts(1, 1)
    assert update_numbers(one, first, group, table, pages.addresses) == update.FULL - 1
    with pytest.raises(OverflowError, match="a cell holds 2147483648 values"):
        update_numbers(one, first, group, table, pages.addresses)
    assert numeric_view(pages.record(cell)).positive.tolist() == [update.FULL]


@pytest.mark.parametrize("size", [NUMERIC_CELL_BYTES, NUMERIC_WIDE_CELL_BYTES, STRING_CELL_BYTES])
def test_nothing_is_written_outside_a_cell(size: int) -> None:
    """The cell lies between canaries; extremes of every kind go through update and merge."""
    guard = 65536
    memory = np.full(guard + size + guard, 0xA5, np.uint8)
    memory[guard : guard + size] = 0
    address = np.array([memory.ctypes.data + guard], np.int64)
    table = np.zeros((1, 1), np.int32)
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
    group = np.zeros(len(values), np.int32)
    if size == NUMERIC_CELL_BYTES:
        update_numbers(values, starts(len(values), 1), group, table, address)
    if size == STRING_CELL_BYTES:
        text, start, length = spans(texts)
        hashes = rng.integers(2, 1 << 64, len(texts), dtype=np.uint64)
        update_strings(
            hashes,
            start,
            length,
            text,
            starts(len(texts), 1),
            np.zeros(len(texts), np.int32),
            table,
            address,
        )
        for part in (texts[:5], texts[5:500], texts[500:]):
            merge_strings(address, strings(part).reshape(1, -1), np.zeros(1, np.int64))
    else:
        parts = [numeric(values[:3000]), numeric(values[3000:6000]), numeric(values[6000:])]
        for part in parts:
            merge_numeric(address, part.reshape(1, -1), np.zeros(1, np.int64), size)
        if size == NUMERIC_WIDE_CELL_BYTES:
            source = merged(parts, wide=True).reshape(1, -1)
            merge_numeric(address, source, np.zeros(1, np.int64), size)
    assert memory[guard : guard + size].any()
    assert (memory[:guard] == 0xA5).all()
    assert (memory[guard + size :] == 0xA5).all()
