"""A receiver that hears some exports and misses others never sees a reset, and ends up with the truth."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from agent.config import Config, Export
from agent.emit.otlp_metrics import NO_RECORDED_VALUE, MetricEncoder
from agent.emit.registry import check
from agent.fold.base import Fold
from agent.state.chunk import merge_digest
from agent.types import Snapshot, StreamKey
from tests.support.blocks import LATENCY, Row, chunk_of, feature, prediction, range_of
from tests.support.otlp_points import Points, read_points
from tests.support.series_rules import assert_series_never_reset

S = 1_000_000_000
T0 = 1_700_000_000_000
CONFIG = Config(export=Export(max_buckets=20, top_categories=2, resend_interval_s=60))
KEYS = [StreamKey("a", "1"), StreamKey("b", "", (("region", "eu"),))]
MAGNITUDES = st.one_of(
    st.floats(1e-12, 1e12), st.sampled_from([0.0, 1e-30, 1e300, 1.0, 2.0, math.nan, math.inf])
)
POSITIVE = MAGNITUDES
NUMBERS = st.builds(lambda x, sign: sign * x, MAGNITUDES, st.sampled_from([1, 1, -1]))
X, C, B, SCORE = feature("x"), feature("c"), feature("b"), prediction("score")


def rows(numbers: st.SearchStrategy[float]) -> st.SearchStrategy[list[Row]]:
    values = st.fixed_dictionaries(
        {X: st.one_of(numbers, numbers, numbers, st.none(), st.just("wrong"))},
        optional={
            C: st.sampled_from(["u", "v", "w"]),
            B: st.booleans(),
            SCORE: st.floats(0, 1),
            LATENCY: st.floats(0, 60),
        },
    )
    row = st.builds(
        Row, st.sampled_from(KEYS), st.integers(T0, T0 + 100_000), values, st.booleans()
    )
    return st.lists(row, min_size=1, max_size=12)


#: What happens: rows arrive; an export arrives, or is lost; a scrape; windows seal; time passes.
#: First without, then with negative numbers, so that the histogram's period may end in between.
def happenings(numbers: st.SearchStrategy[float]) -> st.SearchStrategy[list[Any]]:
    others = st.sampled_from(["export", "export", "lost", "scrape", "seal"])
    step = st.one_of(rows(numbers), others, others, st.integers(1, 70))
    return st.lists(step, min_size=3, max_size=15)


steps = st.builds(lambda a, b: a + b, happenings(POSITIVE), happenings(NUMBERS))


def heard(snapshot: Snapshot) -> Points:
    """What a receiver decodes; ends of series left out."""
    points = Points()
    for metric in snapshot.metrics:
        check(metric)
    for body in MetricEncoder(b"", b"", max_bytes=1 << 22).encode(snapshot.metrics).bodies:
        message = ExportMetricsServiceRequest.FromString(body.data)
        points += [p for p in read_points(message) if not p.data.flags & NO_RECORDED_VALUE]
    return Points(p for p in points if p.name.startswith("inference."))


@settings(max_examples=80, deadline=None)
@given(steps)
def test_a_lossy_receiver_sees_no_reset_and_the_right_totals(every_step: list[Any]) -> None:
    fold = Fold(CONFIG, start_ns=1000 * S)
    now_s, number = 1000, 0
    every: list[Row] = []
    received = Points()
    for step in [*every_step, "export"]:
        now_s += 1
        if isinstance(step, int):
            now_s += step
        elif isinstance(step, list):
            number += 1
            every += step
            fold.apply(
                chunk_of(
                    [[step]],
                    digest=merge_digest(CONFIG),
                    ranges=[range_of(0, to_offset=number, max_event_time_ms=1)],
                ),
                now_s * S,
            )
        elif step == "seal":
            fold.seal_all(now_s * S)
        elif step == "scrape":
            heard(fold.snapshot(now_s * S))
        else:
            snapshot = fold.export(now_s * S)
            points = heard(snapshot)
            if step == "export":
                received += points
                fold.accepted(snapshot)

    assert_series_never_reset(received)
    assert_first_points_are_zero(received)
    by_model: dict[str, list[Row]] = defaultdict(list)
    for row in every:
        by_model[row.stream.model].append(row)
    for model, of_model in by_model.items():
        mine = Points(p for p in received if p.attributes.get("inference.model.name") == model)
        assert mine.named("inference.rows").total() == len(of_model)
        assert mine.named("inference.errors").total() == sum(r.is_error for r in of_model)
        latencies = [r.values[LATENCY] for r in of_model if LATENCY in r.values]
        assert mine.named("inference.latency").total() == len(latencies)
        assert_feature(fold, mine, of_model)


def assert_first_points_are_zero(received: Points) -> None:
    """Of every start of a series the first point is the explicit zero, one millisecond after it."""
    first: dict[Any, Any] = {}
    for point in received:
        if point.kind != "gauge":
            first.setdefault((point.series, point.start_ns), point)
    for point in first.values():
        last_of_unsigned = point.kind == "exponential_histogram" and not point.data.HasField("sum")
        if point.time_ns == point.start_ns + 1_000_000:
            assert point.value == 0
        else:  # only the last point of a period whose other points were all lost
            assert last_of_unsigned


def assert_feature(fold: Fold, mine: Points, of_model: list[Row]) -> None:
    name = "inference.feature.name"
    if not any(X in row.values for row in of_model):
        return
    x = mine.with_attributes({name: "x"})
    values = [row.values.get(X) for row in of_model]
    assert x.named("inference.feature.missing").total() == values.count(None)
    column = fold.streams[of_model[0].stream].columns[X]
    if column.kind is None or column.kind != "numeric":
        return
    numbers = [v for v in values if isinstance(v, float)]
    finite = [v for v in numbers if math.isfinite(v)]
    assert x.named("inference.feature.violations").total() == values.count("wrong")
    assert x.named("inference.feature.non_finite").total() == len(numbers) - len(finite)
    assert x.named("inference.feature.value").total() == len(finite)
    # The histograms of all periods hold each value once: counts by sign.
    last: dict[int, Any] = {}
    for point in x.named("inference.feature.value"):
        last[point.start_ns] = point.data
    sides: Counter[str] = Counter()
    for data in last.values():
        sides["positive"] += sum(data.positive.bucket_counts)
        sides["negative"] += sum(data.negative.bucket_counts)
        sides["zero"] += data.zero_count
        assert len(data.positive.bucket_counts) <= 20
        assert len(data.negative.bucket_counts) <= 20
    small = 2.0**-64
    assert sides["positive"] == sum(v > small for v in finite)
    assert sides["negative"] == sum(v < -small for v in finite)
    assert sides["zero"] == sum(abs(v) <= small for v in finite)
