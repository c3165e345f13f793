"""Start times, zeros, changes, resends, ends, exemplars."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import pytest

from agent.config import Budget, Config, Export
from agent.emit.delta import DeltaConverter
from agent.emit.prometheus import render
from agent.emit.registry import METRICS, Instrument, check
from agent.fold.base import Fold
from agent.fold.head import read_heads
from agent.fold.streams import MAX_EXEMPLARS
from agent.sketch.cells import NUMERIC_WIDE_CELL_BYTES
from agent.sketch.histogram import ZERO_THRESHOLD
from agent.sketch.views import numeric_view
from agent.state.chunk import merge_digest
from agent.types import (
    Exemplar,
    HistogramPoint,
    Partition,
    Snapshot,
    StreamKey,
)
from tests.support.blocks import LATENCY, Row, chunk_of, feature, range_of

S = 1_000_000_000
MS = 1_000_000
T0 = 1_700_000_000_000 // 60_000 * 60_000
KEY = StreamKey("m", "1", (("region", "eu"),))
X = feature("x")


class Driver:
    def __init__(self, config: Config | None = None) -> None:
        self.config = config or Config()
        self.fold = Fold(self.config, start_ns=1000 * S)
        self.now_s = 1000
        self.number = 0

    def read(
        self,
        *values: Any,
        column: Any = X,
        key: StreamKey = KEY,
        exemplars: list[Exemplar] | None = None,
    ) -> None:
        self.number += 1
        rows = [Row(key, T0 + i, {} if v is ... else {column: v}) for i, v in enumerate(values)]
        chunk = chunk_of(
            [[rows]],
            digest=merge_digest(self.config),
            ranges=[range_of(0, to_offset=self.number * 10, max_event_time_ms=1)],
            exemplars=exemplars or [],
        )
        self.fold.apply(chunk, self.now_s * S)

    def export(self, after_s: int = 10, *, accept: bool = True, zeros: bool = True) -> Snapshot:
        self.now_s += after_s
        snapshot = self.fold.export(self.now_s * S, zeros=zeros)
        for metric in snapshot.metrics:
            check(metric)
        if accept:
            self.fold.accepted(snapshot)
        return snapshot


def points(snapshot: Snapshot, name: str) -> list[Any]:
    return [p for metric in snapshot.metrics if metric.name == name for p in metric.points]


def values(snapshot: Snapshot, name: str) -> list[tuple[Any, int, int]]:
    """(value or count, start, time) in seconds where they are whole."""
    return [
        (p.count if isinstance(p, HistogramPoint) else p.value, p.start_ns, p.time_ns)
        for p in points(snapshot, name)
    ]


def test_a_new_series_starts_at_the_last_export_with_an_explicit_zero() -> None:
    d = Driver()
    d.export()  # at 1010
    d.now_s += 3
    d.read(1.0, 2.0)
    snapshot = d.export()  # at 1023
    start, now = 1010 * S, 1023 * S
    for name, value in (("inference.rows", 2), ("inference.feature.value", 2)):
        assert values(snapshot, name) == [(0, start, start + MS), (value, start, now)]
    assert values(snapshot, "inference.errors") == [(0, start, start + MS), (0, start, now)]


def test_before_any_export_series_start_with_the_fold() -> None:
    d = Driver()
    d.read(1.0)
    assert values(d.export(), "inference.rows")[0] == (0, 1000 * S, 1000 * S + MS)


def test_a_column_found_later_starts_later_than_its_stream() -> None:
    d = Driver()
    d.read(1.0)
    d.export()
    d.read(5.0, column=feature("y"))
    snapshot = d.export()
    (zero, value) = values(snapshot, "inference.feature.value")
    assert zero == (0, 1010 * S, 1010 * S + MS)
    assert value == (1, 1010 * S, 1020 * S)
    # Rows before the column was known lack it too, and the series says so from its start on.
    missing = [p for p in points(snapshot, "inference.feature.missing") if p.value]
    assert [(p.value, dict(p.attributes)["inference.feature.name"]) for p in missing] == [
        (1, "x"),
        (1, "y"),
    ]


def test_an_export_holds_changes_only_and_a_scrape_everything() -> None:
    d = Driver()
    d.read(1.0, "wrong")
    d.export()
    assert points(d.export(), "inference.rows") == []
    d.read(...)
    snapshot = d.export()
    assert [p.value for p in points(snapshot, "inference.rows")] == [3]
    assert [p.value for p in points(snapshot, "inference.feature.missing")] == [1]
    assert points(snapshot, "inference.feature.violations") == []
    assert points(snapshot, "inference.feature.value") == []
    scrape = d.fold.snapshot(d.now_s * S)
    assert [p.value for p in points(scrape, "inference.feature.violations")] == [1]
    assert [p.count for p in points(scrape, "inference.feature.value")] == [1]


def test_what_was_not_accepted_is_exported_again_but_for_the_zero() -> None:
    d = Driver()
    d.read(1.0, 2.0)
    first = d.export(accept=False)
    second = d.export(accept=False)
    for name in ("inference.rows", "inference.feature.value"):
        assert [v[0] for v in values(first, name)] == [0, 2]
        assert values(second, name) == [(2, 1000 * S, 1020 * S)]
    d.fold.accepted(first)  # an answer that comes too late changes nothing
    third = d.export()
    assert values(third, "inference.rows") == [(2, 1000 * S, 1030 * S)]
    assert points(d.export(), "inference.rows") == []


def test_a_scrape_between_changes_nothing_of_the_next_export() -> None:
    d, e = Driver(), Driver()
    for driver in (d, e):
        driver.read(1.0)
    d.fold.snapshot(d.now_s * S)
    a, b = d.export(), e.export()
    assert [m.name for m in a.metrics] == [m.name for m in b.metrics]
    assert values(a, "inference.rows") == values(b, "inference.rows")


def test_unchanged_series_are_sent_again_within_one_to_two_intervals_and_not_all_at_once() -> None:
    d = Driver(Config(export=Export(resend_interval_s=60)))
    for i in range(20):
        d.read(*[float(j) for j in range(3)], key=StreamKey(f"m{i}", ""))
    d.export(after_s=0)
    sent: dict[str, list[int]] = {f"m{i}": [] for i in range(20)}
    for _ in range(240):
        for point in points(d.export(after_s=1), "inference.rows"):
            sent[dict(point.attributes)["inference.model.name"]].append(d.now_s - 1000)
    for times in sent.values():
        gaps = [b - a for a, b in zip([0, *times], times, strict=False)]
        assert all(60 <= gap <= 121 for gap in gaps)
        assert len(times) >= 1
    firsts = [times[0] for times in sent.values()]
    assert max(firsts) - min(firsts) > 40, "they rotate"


def test_delta_exports_carry_no_zeros() -> None:
    d = Driver()
    d.read(1.0)
    snapshot = d.export(zeros=False)
    assert [v[0] for v in values(snapshot, "inference.rows")] == [1]
    assert [v[0] for v in values(snapshot, "inference.feature.value")] == [1]


def test_times_rise_even_when_the_clock_does_not() -> None:
    d = Driver()
    d.read(1.0)
    times = [d.export(after_s=0).time_ns for _ in range(3)]
    times.append(d.fold.snapshot(0).time_ns)
    assert all(b > a for a, b in pairwise(times))


def test_a_snapshot_says_up_to_which_offsets_it_holds_rows() -> None:
    d = Driver()
    d.read(1.0)
    d.read(1.0)
    assert d.export().covers == {Partition("events", 0): 20}
    d.fold.forget([Partition("events", 0)])
    assert d.export().covers == {}


def test_gauges_of_the_last_sealed_window_come_with_the_seal_and_end_with_their_values() -> None:
    d = Driver()
    d.read(3.0, 4.0, 3.0)
    assert points(d.export(), "inference.feature.max") == []
    d.fold.seal_all(d.now_s * S)
    snapshot = d.export()
    found = {
        name: points(snapshot, name)[0].value
        for name in (
            "inference.feature.min",
            "inference.feature.max",
            "inference.feature.distinct",
            "inference.window.rows",
            "inference.window.start",
            "inference.window.coverage",
        )
    }
    assert list(found.values()) == [3.0, 4.0, 2, 3, T0 / 1000, 1.0]
    assert all(p.start_ns == 0 for p in points(snapshot, "inference.window.rows"))

    # The next window has rows, but no value of x: its extremes have nothing to say.
    d.number += 1
    rows = [Row(KEY, T0 + 60_000, {})]
    at = range_of(0, to_offset=99, max_event_time_ms=1)
    d.fold.apply(chunk_of([[rows]], digest=merge_digest(d.config), ranges=[at]), d.now_s * S)
    d.fold.seal_all(d.now_s * S)
    snapshot = d.export()
    assert [p.value for p in points(snapshot, "inference.window.rows")] == [1]
    assert [p.ended for p in points(snapshot, "inference.feature.max")] == [True]
    assert points(d.export(), "inference.feature.max") == []


def test_categories_are_exported_by_name_only_when_asked_and_end_when_they_fall_out() -> None:
    name = "inference.feature.category"
    column = feature("carrier")
    quiet, d = Driver(), Driver(Config(export=Export(top_categories=2)))
    for driver in (quiet, d):
        driver.read("UA", "UA", "AA", "DL", "UA", "AA", column=column)
        driver.fold.seal_all(driver.now_s * S)
    assert points(quiet.export(), name) == []
    assert {
        dict(p.attributes)["inference.category.value"]: p.value for p in points(d.export(), name)
    } == {"UA": 3, "AA": 2}
    rows = [Row(KEY, T0 + 60_000, {column: v}) for v in ["B6", "B6", "UA"]]
    at = range_of(0, to_offset=99, max_event_time_ms=1)
    d.fold.apply(chunk_of([[rows]], digest=merge_digest(d.config), ranges=[at]), d.now_s * S)
    d.fold.seal_all(d.now_s * S)
    after = {
        dict(p.attributes)["inference.category.value"]: (p.value, p.ended)
        for p in points(d.export(), name)
    }
    assert after == {"B6": (2, False), "UA": (1, False), "AA": (0, True)}
    assert set(d.fold.streams[KEY].columns[column].categories) == {"UA", "B6", "AA"}
    d.export()
    assert set(d.fold.streams[KEY].columns[column].categories) == {"UA", "B6"}


def test_scrapes_remember_no_categories() -> None:
    column = feature("user")
    d = Driver(Config(export=Export(top_categories=3)))
    for window in range(20):
        rows = [Row(KEY, T0 + window * 60_000, {column: f"u{window}-{i}"}) for i in range(3)]
        at = range_of(0, rows, to_offset=window)
        d.fold.apply(chunk_of([[rows]], digest=merge_digest(d.config), ranges=[at]), d.now_s * S)
        d.fold.seal_all(d.now_s * S)
        scrape = d.fold.snapshot(d.now_s * S)
        assert {
            dict(p.attributes)["inference.category.value"]: p.value
            for p in points(scrape, "inference.feature.category")
        } == {f"u{window}-{i}": 1 for i in range(3)}
    assert d.fold.streams[KEY].columns[column].categories == {}


def test_ends_that_no_receiver_accepts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.fold.base.MAX_ENDED", 30)
    d = Driver(Config(budget=Budget(max_streams=5)))
    for n in range(5):
        d.read(1.0, key=StreamKey(f"m{n}", ""))
    d.fold.seal_all(d.now_s * S)
    known = sum(m.name.startswith("inference.") for m in d.export().metrics) * 5
    d.now_s += 90_000
    d.read(1.0, key=StreamKey("refused", ""))  # somebody wants room
    d.fold.tick(d.now_s * S)
    ends = [
        point for metric in d.export(accept=False).metrics for point in metric.points if point.ended
    ]
    assert len(ends) == 30 < known


def test_a_stream_does_not_end_before_its_last_rows_were_accepted() -> None:
    d = Driver(Config(budget=Budget(max_streams=1)))
    d.read(1.0)
    d.fold.seal_all(d.now_s * S)
    d.export()
    d.read(2.0)
    d.export(accept=False)
    for accepted in (False, True):
        d.now_s += 90_000
        d.read(..., key=StreamKey("new", ""))
        d.fold.tick(d.now_s * S)
        assert (KEY in d.fold.streams) is not accepted
        found = [
            (p.value, p.ended)
            for p in points(d.export(), "inference.rows")
            if ("inference.model.name", "m") in p.attributes
        ]
        assert found == ([(0, True)] if accepted else [(2, False)])


def test_an_ended_stream_says_so_once_and_a_return_is_a_new_start() -> None:
    d = Driver(Config(budget=Budget(max_streams=1)))
    d.read(-1.0)
    d.fold.seal_all(d.now_s * S)
    before = d.export()
    series = {
        (metric.name, point.attributes)
        for metric in before.metrics
        for point in metric.points
        if metric.name.startswith("inference.")
    }
    d.now_s += 90_000
    d.read(..., key=StreamKey("new", ""))
    d.fold.tick(d.now_s * S)
    lost = d.export(accept=False)
    ended = d.export()
    for snapshot in (lost, ended):
        ends = {
            (metric.name, point.attributes)
            for metric in snapshot.metrics
            for point in metric.points
            if point.ended
        }
        assert ends == series
    ended_at = d.now_s
    assert not any(p.ended for metric in d.export().metrics for p in metric.points)

    d.read(-5.0)
    snapshot = d.export()
    mine = [
        p
        for p in points(snapshot, "inference.rows")
        if ("inference.model.name", "m") in p.attributes
    ]
    assert [p.value for p in mine] == [0, 1]
    assert mine[0].start_ns == (ended_at + 10) * S


def test_every_point_stands_under_the_attributes_of_its_stream() -> None:
    d = Driver()
    d.read(1.0)
    (point,) = points(d.fold.snapshot(d.now_s * S), "inference.feature.value")
    assert point.attributes == (
        ("inference.feature.name", "x"),
        ("inference.model.name", "m"),
        ("inference.model.version", "1"),
        ("inference.segment.region", "eu"),
    )
    d.read(1.0, key=StreamKey("bare", ""))
    bare = [
        p.attributes
        for p in points(d.fold.snapshot(d.now_s * S), "inference.rows")
        if ("inference.model.name", "bare") in p.attributes
    ]
    assert bare == [(("inference.model.name", "bare"),)]


def test_labels_are_counted_by_model() -> None:
    d = Driver()
    chunk = chunk_of([[[]]], digest=merge_digest(d.config), labels_by_model={"m": 3, "n": 1, "": 2})
    d.fold.apply(chunk, d.now_s * S)
    found = {
        dict(p.attributes)["inference.model.name"]: p.value
        for p in points(d.fold.snapshot(d.now_s * S), "inference.labels")
    }
    assert found == {"m": 3, "n": 1, "": 2}


# ---------------------------------------------------------------- histograms


def test_the_exported_buckets_are_those_of_the_view_at_the_same_limit() -> None:
    d = Driver(Config(export=Export(max_buckets=33)))
    d.read(0.0, 1e-9, 0.001, 0.5, 1.0, 2.0, 3.0, 1e6, -0.25, -7.0, -1e3)
    (point,) = points(d.fold.snapshot(d.now_s * S), "inference.feature.value")
    cell = d.fold.streams[KEY].columns[X].cell
    record = d.fold._store.totals.record(cell)
    assert len(record) == NUMERIC_WIDE_CELL_BYTES
    view = numeric_view(record).downscaled(33)
    assert (point.scale, point.count, point.zero_count) == (view.scale, 11, 1)
    assert point.zero_threshold == ZERO_THRESHOLD
    assert (point.positive_offset, point.negative_offset) == (
        view.positive_offset,
        view.negative_offset,
    )
    assert point.positive.tolist() == view.positive.tolist()
    assert point.negative.tolist() == view.negative.tolist()
    assert len(point.positive) <= 33


@pytest.mark.parametrize("max_buckets", [20, 160, 896])
def test_the_scale_never_rises_and_is_a_function_of_the_extremes(max_buckets: int) -> None:
    config = Config(export=Export(max_buckets=max_buckets))
    orders = [[1.0, 1.1, 1e3, 1e-6, 5.0], [1e-6, 1e3, 5.0, 1.1, 1.0]]
    last = []
    for order in orders:
        d = Driver(config)
        scales = []
        for value in order:
            d.read(value)
            scales.append(points(d.export(), "inference.feature.value")[-1].scale)
        assert scales == sorted(scales, reverse=True)
        last.append(scales[-1])
    assert last[0] == last[1]


def test_an_unsigned_column_carries_a_sum_and_a_signed_one_has_it_beside() -> None:
    d = Driver()
    d.read(1.5, 2.5)
    d.read(-1.5, 1.0, column=feature("y"))
    snapshot = d.export()
    by_name = {
        dict(p.attributes)["inference.feature.name"]: p.sum
        for p in points(snapshot, "inference.feature.value")
    }
    assert by_name == {"x": 4.0, "y": None}
    assert [
        (dict(p.attributes)["inference.feature.name"], p.value)
        for p in points(snapshot, "inference.feature.sum")
    ] == [("y", 0), ("y", -0.5)]


def test_a_negative_value_closes_the_period_and_begins_one_without_a_sum() -> None:
    d = Driver()
    d.read(1.0, 2.0)
    d.export()  # 1010
    d.read(3.0, -1.0)
    lost = d.export(accept=False)  # 1020
    (closing,) = points(lost, "inference.feature.value")
    assert (closing.start_ns, closing.count, closing.sum) == (1000 * S, 4, None)
    # The sum beside it takes over: of all values, from the column's own start.
    sums = points(lost, "inference.feature.sum")
    assert [(p.start_ns, p.value) for p in sums] == [(1000 * S, 0), (1000 * S, 5.0)]
    d.read(7.0)
    snapshot = d.export()  # 1030
    (closing,) = points(snapshot, "inference.feature.value")
    assert points(snapshot, "inference.feature.sum")[-1].value == 12.0
    assert (closing.start_ns, closing.time_ns) == (1000 * S, 1030 * S)
    assert (closing.count, closing.sum) == (5, None)
    d.read(8.0, -2.0)
    snapshot = d.export()  # 1040
    zero, value = points(snapshot, "inference.feature.value")
    assert (zero.start_ns, zero.time_ns, zero.count) == (1030 * S, 1030 * S + MS, 0)
    assert (value.start_ns, value.time_ns, value.count, value.sum) == (1030 * S, 1040 * S, 2, None)
    assert (int(value.positive.sum()), int(value.negative.sum())) == (1, 1)
    (total,) = points(snapshot, "inference.feature.sum")
    assert (total.start_ns, total.value) == (1000 * S, 18.0)
    assert points(d.export(), "inference.feature.value") == []


def test_deltas_around_the_first_negative_value_hold_every_row_once() -> None:
    """One export is refused and of the next only the first request is accepted, in one-point requests."""
    d, converter = Driver(), DeltaConverter()
    received = 0
    given = [[1.0] * 10, [1.0] * 5 + [-1.0], [2.0] * 7, [2.0], []]
    for numbers, n_accepted in zip(given, [99, 0, 1, 99, 99], strict=True):
        d.read(*numbers)
        snapshot = d.export(accept=False, zeros=False)
        deltas = [
            (metric.name, point)
            for metric in converter.convert(snapshot.metrics)
            for point in metric.points
            if metric.name == "inference.feature.value"
        ]
        taken = deltas[:n_accepted]
        converter.accept(taken)
        received += sum(p.count for _, p in taken if isinstance(p, HistogramPoint))
        if n_accepted == 99:
            d.fold.accepted(snapshot)
    assert received == sum(map(len, given))


def test_a_column_that_is_negative_before_its_first_export_needs_no_new_period() -> None:
    d = Driver()
    d.read(1.0)
    d.read(-1.0)
    found = points(d.export(), "inference.feature.value")
    assert [(p.start_ns, p.count, p.sum) for p in found] == [
        (1000 * S, 0, None),
        (1000 * S, 2, None),
    ]


def test_over_range_and_non_finite_values_are_counted_and_do_not_ruin_the_sum() -> None:
    d = Driver()
    d.read(1.0, 1e300, float("inf"), float("nan"))
    snapshot = d.fold.snapshot(d.now_s * S)
    (point,) = points(snapshot, "inference.feature.value")
    assert (point.count, point.sum) == (2, 1.0)
    assert [p.value for p in points(snapshot, "inference.feature.over_range")] == [1]
    assert [p.value for p in points(snapshot, "inference.feature.non_finite")] == [2]


def test_booleans_count_what_is_true() -> None:
    d = Driver()
    d.read(True, False, True, None, "yes")
    snapshot = d.fold.snapshot(d.now_s * S)
    assert [p.value for p in points(snapshot, "inference.feature.true")] == [2]
    assert [p.value for p in points(snapshot, "inference.feature.violations")] == [1]
    assert [p.value for p in points(snapshot, "inference.feature.missing")] == [1]
    assert points(snapshot, "inference.feature.value") == []


def test_reading_no_cells_gives_no_heads() -> None:
    assert read_heads(Fold(Config(), start_ns=1)._store.totals, [], [], 160) == []


# ---------------------------------------------------------------- exemplars


def exemplar(value: float, n: int, key: StreamKey = KEY, column: Any = X) -> Exemplar:
    return Exemplar(key, column, value, n, n.to_bytes(16, "big"), n.to_bytes(8, "big"))


def test_exemplars_are_bounded_kept_until_accepted_and_then_dropped() -> None:
    d = Driver()
    d.read(1.0, exemplars=[exemplar(float(n), n) for n in range(MAX_EXEMPLARS + 3)])
    for accept in (False, True):
        point = points(d.export(accept=accept), "inference.feature.value")[-1]
        assert [e.time_ns for e in point.exemplars] == list(range(3, MAX_EXEMPLARS + 3))
    d.read(2.0, exemplars=[exemplar(9.0, 99)])
    point = points(d.export(), "inference.feature.value")[-1]
    assert [e.time_ns for e in point.exemplars] == [99]


def test_a_scrape_still_shows_the_last_exemplars_when_an_export_has_taken_them() -> None:
    d = Driver()
    for n in range(MAX_EXEMPLARS + 3):
        d.read(1.0, exemplars=[exemplar(1.0, n)])
        d.export()
    for _ in range(2):
        snapshot = d.fold.snapshot(d.now_s * S)
        (point,) = points(snapshot, "inference.feature.value")
        assert [e.time_ns for e in point.exemplars] == list(range(3, MAX_EXEMPLARS + 3))
    page = render(snapshot.metrics, openmetrics=True).decode()
    newest = (MAX_EXEMPLARS + 2).to_bytes(16, "big").hex()
    assert f'# {{trace_id="{newest}"' in page
    assert "trace_id" not in render(snapshot.metrics).decode()
    assert not points(d.export(), "inference.feature.value"), "exported once"


def test_exemplars_of_a_folded_stream_go_to_its_overflow_stream() -> None:
    d = Driver(Config(budget=Budget(max_streams=1)))
    d.read(1.0)
    other = StreamKey("m", "2", (("region", "us"),))
    d.read(2.0, key=other, exemplars=[exemplar(2.0, 7, other)])
    attached = {
        dict(p.attributes).get("inference.model.version"): [e.time_ns for e in p.exemplars]
        for p in points(d.export(), "inference.feature.value")
    }
    assert attached == {"1": [], "_overflow": [7]}


def test_exemplars_of_columns_that_have_no_histogram_are_dropped() -> None:
    d = Driver()
    d.read("text", exemplars=[exemplar(1.0, 1), exemplar(1.0, 2, column=LATENCY)])
    assert not any(
        point.exemplars
        for metric in d.export().metrics
        for point in metric.points
        if isinstance(point, HistogramPoint)
    )


def test_gauges_never_carry_a_start_and_everything_else_does() -> None:
    d = Driver()
    d.read(1.0, "x", -1.0)
    d.fold.seal_all(d.now_s * S)
    for metric in d.export().metrics:
        is_gauge = METRICS[metric.name].instrument is Instrument.GAUGE
        assert all((point.start_ns == 0) == is_gauge for point in metric.points)


def test_ten_thousand_series_are_written_within_their_budget() -> None:
    """Budget: 150 ms of CPU for 10,000 series, encoding included; the best of several runs counts here."""
    config = Config(budget=Budget(max_series=100_000, max_memory_bytes=1 << 30))
    fold = Fold(config, start_ns=1)
    wide = {feature(f"x{i}"): 1.5 * i - 3.0 for i in range(20)} | {LATENCY: 0.1}
    times = []
    for n in range(6):
        rows = [Row(StreamKey(f"m{i}", "1"), T0 + n, wide) for i in range(60)]
        at = range_of(0, to_offset=n, max_event_time_ms=1)
        fold.apply(chunk_of([[rows]], digest=merge_digest(config), ranges=[at]), n * S)
        if n == 0:
            fold.seal_all(n)
        began = time.process_time()
        snapshot = fold.snapshot(n * S)
        times.append(time.process_time() - began)
        fold.accepted(fold.export(n * S))
    written = sum(len(m.points) for m in snapshot.metrics if m.name.startswith("inference."))
    assert written == fold.n_series >= 10_000
    assert min(times) < 0.150
