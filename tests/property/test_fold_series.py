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
from agent.emit.delta import DeltaConverter
from agent.emit.otlp_metrics import MetricEncoder
from agent.emit.otlp_points import NO_RECORDED_VALUE
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


#: What happens: rows arrive; an export arrives, or is lost, or arrives and its answer is lost, or only some
#: of its requests arrive; a scrape; windows seal; time passes.
#: First without, then with negative numbers, so that the histogram's period may end in between.
def happenings(numbers: st.SearchStrategy[float]) -> st.SearchStrategy[list[Any]]:
    others = st.sampled_from(
        ["export", "export", "lost", "answer lost", "first half", "second half", "scrape", "seal"]
    )
    step = st.one_of(rows(numbers), others, others, st.integers(1, 70))
    return st.lists(step, min_size=3, max_size=15)


steps = st.builds(lambda a, b: a + b, happenings(POSITIVE), happenings(NUMBERS))


def heard(
    snapshot: Snapshot, arrival: str = "export", delta: DeltaConverter | None = None
) -> Points:
    """What a receiver decodes of the requests that arrive; ends of series left out."""
    points = Points()
    for metric in snapshot.metrics:
        check(metric)
    metrics = snapshot.metrics if delta is None else delta.convert(snapshot.metrics)
    encoded = MetricEncoder(b"", b"", max_bytes=2000).encode(
        metrics, is_delta=delta is not None, keep_points=True
    )
    assert not encoded.n_dropped
    middle = len(encoded.bodies) // 2
    bodies = {
        "lost": [],
        "first half": encoded.bodies[:middle],
        "second half": encoded.bodies[middle:],
    }.get(arrival, encoded.bodies)
    for body in bodies:
        message = ExportMetricsServiceRequest.FromString(body.data)
        points += [p for p in read_points(message) if not p.data.flags & NO_RECORDED_VALUE]
        if delta is not None:
            delta.accept(body.points)
    return Points(p for p in points if p.name.startswith("inference."))


@settings(max_examples=80, deadline=None)
@given(steps)
def test_a_lossy_receiver_sees_no_reset_and_the_right_totals(every_step: list[Any]) -> None:
    fold, every, received = played(every_step, None)
    assert_series_never_reset(received)
    if not {"lost", "first half", "second half"} & {s for s in every_step if isinstance(s, str)}:
        assert_first_points_are_zero(received)
    assert_totals(fold, every, received)


@settings(max_examples=80, deadline=None)
@given(steps)
def test_deltas_add_up_to_the_truth_when_every_arrival_is_answered(every_step: list[Any]) -> None:
    """A lost answer is left out: the receiver has those rows twice then, as documented."""
    answered = [step for step in every_step if step != "answer lost"]
    _, every, received = played(answered, DeltaConverter())
    assert_series_never_reset(received)
    for model, of_model in by_model(every).items():
        mine = Points(p for p in received if p.attributes.get("inference.model.name") == model)
        assert mine.named("inference.rows").total() == len(of_model)
        x = mine.with_attributes({"inference.feature.name": "x"}).named("inference.feature.value")
        numbers = [row.values.get(X) for row in of_model]
        if x:
            assert x.total() == sum(isinstance(v, float) and math.isfinite(v) for v in numbers)


def played(every_step: list[Any], delta: DeltaConverter | None) -> tuple[Fold, list[Row], Points]:
    """The fold, all rows, and what the receiver heard; the last export arrives and is accepted."""
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
            snapshot = fold.export(now_s * S, zeros=delta is None)
            received += heard(snapshot, step, delta)
            if step == "export":
                fold.accepted(snapshot)
    return fold, every, received


def by_model(rows: list[Row]) -> dict[str, list[Row]]:
    out: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        out[row.stream.model].append(row)
    return out


def assert_totals(fold: Fold, every: list[Row], received: Points) -> None:
    for model, of_model in by_model(every).items():
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
        assert (point.time_ns, point.value) == (point.start_ns + 1_000_000, 0)


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
