"""Rows into groups and cells."""

from __future__ import annotations

import math
import random
from collections import defaultdict

import numpy as np
import pytest

from agent.sketch.delta import Delta, concat
from agent.sketch.views import numeric_view, string_view
from agent.types import WINDOW_FUTURE, WINDOW_LATE, JsonType, StreamKey, Tally
from tests.support.blocks import (
    WIDTH_MS,
    LaneTable,
    PartOfChunk,
    Row,
    TwinTable,
    block_of,
    feature,
    range_of,
)

A, B = StreamKey("a", "1"), StreamKey("b", "", (("region", "eu"),))
T0 = 1_700_000_000_000 // WIDTH_MS * WIDTH_MS


def filled(rows: list[Row], block_rows: int = 100) -> Delta:
    table = LaneTable()
    delta = Delta(table)
    for i in range(0, len(rows), block_rows):
        delta.add(block_of(table, rows[i : i + block_rows]))
    return delta


def test_rows_errors_and_times_are_those_of_each_stream_and_window() -> None:
    rng = random.Random(1)
    rows = [
        Row(
            rng.choice([A, B]),
            T0 + rng.randrange(5 * WIDTH_MS),
            {},
            is_error=rng.random() < 0.3,
        )
        for _ in range(1000)
    ]
    expected: dict[tuple[StreamKey, int], list[Row]] = defaultdict(list)
    for row in rows:
        expected[row.stream, row.time_ms // WIDTH_MS].append(row)

    delta = filled(rows)
    assert delta.rows == 1000
    assert delta.n_groups == len(expected)
    assert delta.n_windows == 5
    groups, numeric, strings = delta.freeze()

    assert len(groups) == len(expected)
    for group in groups:
        of_group = expected[group.stream, group.window]
        assert group.rows == len(of_group)
        assert group.errors == sum(row.is_error for row in of_group)
        assert group.min_event_time_ms == min(row.time_ms for row in of_group)
        assert group.max_event_time_ms == max(row.time_ms for row in of_group)
    assert (len(numeric), len(strings)) == (0, 0)


def test_each_type_of_a_column_has_a_cell_of_its_own_with_its_values() -> None:
    values = [1.5, -2.0, None, True, "x", "yy", [3.0, 4.0], ["no", "numbers"], math.nan, 7.0]
    groups, numeric, strings = filled([Row(A, T0, {feature("f"): v}) for v in values]).freeze()
    (group,) = groups
    cells = {ref.type: ref.cell for ref in group.cells}
    numbers = numeric_view(numeric[cells[JsonType.NUMBER]])
    assert (numbers.count, numbers.sum, numbers.nulls, numbers.non_finite) == (3, 6.5, 1, 1)
    assert numeric_view(numeric[cells[JsonType.BOOLEAN]]).count == 1
    assert numeric_view(numeric[cells[JsonType.VECTOR]]).max == 5.0
    assert numeric_view(numeric[cells[JsonType.OTHER]]).non_finite == 1
    texts = string_view(strings[cells[JsonType.STRING]])
    assert (texts.count, texts.length_sum) == (2, 3)


def test_a_column_without_values_in_a_group_has_no_cell_there() -> None:
    rows = [Row(A, T0, {feature("x"): 1.0}), Row(A, T0 + WIDTH_MS, {feature("y"): "t"})]
    groups, _, _ = filled(rows).freeze()
    assert [[ref.column.name for ref in group.cells] for group in groups] == [["x"], ["y"]]


def test_blocks_may_grow_wider_and_be_narrower_again() -> None:
    table = LaneTable()
    delta = Delta(table)
    narrow = block_of(table, [Row(A, T0, {feature("x"): 1.0, feature("s"): "a"})])
    wide = block_of(
        table,
        [Row(A, T0, {feature(f"x{i}"): 2.0 for i in range(30)} | {feature("s2"): "b"})],
    )
    for block in (narrow, wide, narrow, wide):
        delta.add(block)
    ((group,), numeric, strings) = delta.freeze()
    sums = {
        ref.column.name: numeric_view(numeric[ref.cell]).sum
        for ref in group.cells
        if ref.type is JsonType.NUMBER
    }
    assert sums == {"x": 2.0} | {f"x{i}": 4.0 for i in range(30)}
    counts = {
        ref.column.name: string_view(strings[ref.cell]).count
        for ref in group.cells
        if ref.type is JsonType.STRING
    }
    assert counts == {"s": 2, "s2": 2}


def test_a_freeze_empties_the_delta_and_cells_start_anew() -> None:
    table = LaneTable()
    delta = Delta(table)
    empty = delta.size_bytes
    first = block_of(table, [Row(A, T0, {feature("x"): 5.0})] * 10)
    delta.add(first)
    assert delta.size_bytes > empty
    _, kept, _ = delta.freeze()
    assert (delta.rows, delta.n_groups, delta.n_windows) == (0, 0, 0)
    assert delta.size_bytes == empty

    delta.add(block_of(table, [Row(A, T0, {feature("x"): 1.0})]))
    _, again, _ = delta.freeze()
    assert numeric_view(again[0]).sum == 1.0
    assert numeric_view(kept[0]).sum == 50.0, "what was handed out is a copy"


def test_rows_without_a_stream_are_skipped() -> None:
    table = LaneTable()
    delta = Delta(table)
    values = {feature("x"): 1.0, feature("s"): "t"}
    block = block_of(table, [Row(A, T0 + n, values, is_error=True) for n in range(6)])
    block.stream[[0, 3, 5]] = -1
    block.window[[0, 3, 5]] = 77
    delta.add(block)
    assert (delta.rows, delta.n_groups, delta.n_windows) == (3, 1, 1)
    ((group,), numeric, strings) = delta.freeze()
    assert (group.rows, group.errors) == (3, 3)
    assert (group.min_event_time_ms, group.max_event_time_ms) == (T0 + 1, T0 + 4)
    assert numeric_view(numeric[0]).count == 3
    assert string_view(strings[0]).count == 3

    block.stream[:] = -1
    delta.add(block)
    assert (delta.rows, delta.n_groups) == (0, 0)


def test_rows_of_one_stream_may_differ_in_width() -> None:
    table = LaneTable()
    delta = Delta(table)
    rows = [
        Row(A, T0, {feature(f"x{i}"): 1.0 for i in range(width)} | {feature("s"): "t"})
        for width in (5, 0, 3, 1, 5, 2)
    ]
    block = block_of(table, rows)
    assert np.diff(block.number_start).tolist() == [5, 0, 3, 1, 5, 2]
    delta.add(block)
    ((group,), numeric, _) = delta.freeze()
    counts = {
        ref.column.name: numeric_view(numeric[ref.cell]).count
        for ref in group.cells
        if ref.type is JsonType.NUMBER
    }
    assert counts == {"x0": 5, "x1": 4, "x2": 3, "x3": 2, "x4": 2}


def test_two_numbers_of_one_stream_are_two_groups() -> None:
    table = TwinTable()
    delta = Delta(table)
    delta.add(block_of(table, [Row(A, T0, {feature("x"): float(n)}) for n in range(5)]))
    groups, numeric, _ = delta.freeze()
    assert [(group.stream, group.window) for group in groups] == [(A, T0 // WIDTH_MS)] * 2
    assert sorted(group.rows for group in groups) == [2, 3]
    assert sorted(numeric_view(numeric[g.cells[0].cell]).sum for g in groups) == [4.0, 6.0]


def test_numbers_may_begin_anywhere_in_their_array() -> None:
    table = LaneTable()
    delta = Delta(table)
    block = block_of(table, [Row(A, T0, {feature("x"): float(n)}) for n in range(3)])
    block.numbers = np.array([9.0, 0.0, 1.0, 2.0, 9.0])
    block.number_start = block.number_start + 1
    delta.add(block)
    _, numeric, _ = delta.freeze()
    assert numeric_view(numeric[0]).sum == 3.0


def test_an_empty_delta_freezes_to_nothing() -> None:
    groups, numeric, strings = Delta(LaneTable()).freeze()
    assert (groups, len(numeric), len(strings)) == ([], 0, 0)


def test_late_and_future_rows_are_groups_but_no_windows() -> None:
    table = LaneTable()
    delta = Delta(table)
    rows = [Row(A, T0, {}), Row(A, T0 + 10 * WIDTH_MS, {}), Row(A, T0, {}, future=True)]
    delta.add(block_of(table, rows, sealed_until=T0 // WIDTH_MS + 1))
    assert delta.n_windows == 1
    groups, _, _ = delta.freeze()
    assert {group.window for group in groups} == {
        WINDOW_LATE,
        WINDOW_FUTURE,
        T0 // WIDTH_MS + 10,
    }


def test_ten_thousand_groups_lose_no_row() -> None:
    keys = [StreamKey(f"m{i}", "") for i in range(2500)]
    rows = [Row(key, T0 + w * WIDTH_MS, {}) for w in range(4) for key in keys]
    random.Random(3).shuffle(rows)
    groups, _, _ = filled(rows * 2, block_rows=2048).freeze()
    assert len(groups) == 10_000
    assert {group.rows for group in groups} == {2}
    assert len({(group.stream, group.window) for group in groups}) == 10_000


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("stream", np.zeros(2, np.int64), r"stream is int64\[2\]; must be int32\[2\]"),
        ("window", np.zeros(3, np.int64), r"window is int64\[3\]; must be int64\[2\]"),
        ("number_start", np.zeros(2, np.int64), r"number_start is int64\[2\]; must be int64\[3\]"),
        ("number_start", np.array([0, 1, 3]), "row 1 does not lie in the 2 numbers"),
        ("number_start", np.array([0, 2, 1]), "row 1 does not lie in the 2 numbers"),
        ("number_start", np.array([-1, 1, 2]), "row 0 does not lie in the 2 numbers"),
        ("string_first", np.array([0, 1, 3]), "row 1 does not lie in the 2 strings"),
        ("string_first", np.array([0, 2, 1]), "row 1 does not lie in the 2 strings"),
        ("string_first", np.array([-1, 1, 2]), "row 0 does not lie in the 2 strings"),
        ("numbers", np.zeros(4)[::2], r"numbers is float64\[2\]"),
        ("string_start", np.zeros(1, np.int64), r"string_start is int64\[1\]; must be int64\[2\]"),
        ("stream", np.full(2, 7, np.int32), "row 0 has stream 7; the table has 1 streams"),
    ],
)
def test_arrays_that_are_not_a_block_are_refused(
    field: str, value: np.ndarray, message: str
) -> None:
    table = LaneTable()
    delta = Delta(table)
    block = block_of(table, [Row(A, T0, {feature("x"): 1.0, feature("s"): "t"})] * 2)
    setattr(block, field, value)
    with pytest.raises(ValueError, match=message):
        delta.add(block)


def part(rows: list[Row], number: int) -> PartOfChunk:
    groups, numeric, strings = filled(rows).freeze()
    return PartOfChunk(groups, numeric, strings, [range_of(number, rows)], Tally(rows=len(rows)))


def test_parts_of_several_threads_become_one_chunk() -> None:
    rows = [
        [Row(A, T0, {feature("x"): float(n), feature("s"): f"t{n}"})] * (n + 1) for n in range(3)
    ]
    chunk = concat(
        [part(of_thread, n) for n, of_thread in enumerate(rows)],
        run_id="r",
        number=4,
        epoch=2,
        digest="d",
    )
    assert (chunk.run_id, chunk.number, chunk.epoch, chunk.digest) == ("r", 4, 2, "d")
    assert [r.partition.partition for r in chunk.ranges] == [0, 1, 2]
    assert chunk.tally.rows == 6
    for n, group in enumerate(chunk.groups):
        number, text = sorted(group.cells, key=lambda ref: ref.type)
        assert numeric_view(chunk.numeric[number.cell]).sum == n * (n + 1)
        assert string_view(chunk.strings[text.cell]).top(1) == [(f"t{n}", n + 1, 0)]
