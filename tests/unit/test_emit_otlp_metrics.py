"""Encoded metrics, read back by opentelemetry-proto's own parser."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.metrics.v1 import metrics_pb2 as pb

from agent.config import Service
from agent.emit import otlp_points
from agent.emit.otlp_metrics import Encoded, MetricEncoder
from agent.emit.otlp_points import SLICE
from agent.emit.registry import METRICS, RegistryError
from agent.emit.resource import make_resource
from agent.types import (
    Attributes,
    Column,
    Exemplar,
    HistogramPoint,
    Metric,
    NumberPoint,
    Role,
    StreamKey,
)
from tests.support.otlp_points import Points, read_points

RESOURCE = make_resource(Service(), {})
CUMULATIVE = pb.AGGREGATION_TEMPORALITY_CUMULATIVE
DELTA = pb.AGGREGATION_TEMPORALITY_DELTA
EMPTY = np.zeros(0, np.uint64)


def encode(*metrics: Metric, max_bytes: int = 3_500_000, is_delta: bool = False) -> Encoded:
    encoder = MetricEncoder(RESOURCE.encoded, RESOURCE.scope, max_bytes=max_bytes)
    return encoder.encode(metrics, is_delta=is_delta)


def decoded(encoded: Encoded) -> Points:
    return Points(
        point
        for body in encoded.bodies
        for point in read_points(ExportMetricsServiceRequest.FromString(body.data))
    )


def stream(name: str = "m", **more: str) -> Attributes:
    pairs = {"inference.model.name": name, **{f"inference.segment.{k}": v for k, v in more.items()}}
    return tuple(sorted(pairs.items()))


def histogram(positive: list[int], negative: list[int] = [], **changes: object) -> HistogramPoint:  # noqa: B006
    fields: dict[str, object] = {
        "attributes": stream(),
        "start_ns": 10,
        "time_ns": 20,
        "count": sum(positive) + sum(negative) + 2,
        "sum": None if negative else 1.5,
        "scale": 3,
        "zero_count": 2,
        "zero_threshold": 2.0**-64,
        "positive_offset": -5,
        "positive": np.array(positive, np.uint64),
        "negative_offset": 7,
        "negative": np.array(negative, np.uint64),
    }
    return HistogramPoint(**{**fields, **changes})  # type: ignore[arg-type]


def test_a_request_has_one_resource_and_one_scope() -> None:
    encoded = encode(
        Metric("inference.rows", [NumberPoint(stream(), 1, 1, 2)]),
        Metric("inference.errors", [NumberPoint(stream(), 1, 1, 2)]),
    )
    (body,) = encoded.bodies
    message = ExportMetricsServiceRequest.FromString(body.data)
    assert len(message.resource_metrics) == 1
    assert len(message.resource_metrics[0].scope_metrics) == 1
    scope = message.resource_metrics[0].scope_metrics[0].scope
    assert (scope.name, scope.version) == ("inferometer", RESOURCE.attributes["service.version"])
    found = {a.key: a.value.string_value for a in message.resource_metrics[0].resource.attributes}
    assert found == dict(RESOURCE.attributes)


def test_name_unit_and_kind_come_from_the_registry() -> None:
    encoded = encode(
        Metric("inference.rows", [NumberPoint(stream(), 1, 1, 2)]),
        Metric("inference.feature.sum", [NumberPoint(stream(), -1.5, 1, 2)]),
        Metric("inference.window.start", [NumberPoint(stream(), 1.5, 0, 2)]),
        Metric("inference.latency", [histogram([1])]),
    )
    found = {p.name: (p.kind, p.monotonic, p.temporality, p.unit) for p in decoded(encoded)}
    assert found == {
        "inference.rows": ("sum", True, CUMULATIVE, "{row}"),
        "inference.feature.sum": ("sum", False, CUMULATIVE, "{value}"),
        "inference.window.start": ("gauge", False, 0, "s"),
        "inference.latency": ("exponential_histogram", False, CUMULATIVE, "s"),
    }
    message = ExportMetricsServiceRequest.FromString(encoded.bodies[0].data)
    for metric in message.resource_metrics[0].scope_metrics[0].metrics:
        assert metric.description == METRICS[metric.name].description


@pytest.mark.parametrize("value", [0, 1, -1, 2**62, -(2**63), 0.0, -0.0, 0.1, 1e308, math.inf])
def test_ints_go_out_as_ints_and_floats_as_doubles(value: int | float) -> None:
    (point,) = decoded(
        encode(Metric("inference.window.rows", [NumberPoint(stream(), value, 0, 2)]))
    )
    which = point.data.WhichOneof("value")
    assert which == ("as_int" if isinstance(value, int) else "as_double")
    read = getattr(point.data, which)
    assert read == value and math.copysign(1, read) == math.copysign(1, value)


def test_a_gauge_has_no_start_time() -> None:
    (point,) = decoded(encode(Metric("inference.window.rows", [NumberPoint(stream(), 1, 0, 2)])))
    assert (point.start_ns, point.time_ns) == (0, 2)


def test_an_ended_series_is_a_point_with_the_flag_and_no_value() -> None:
    flag = pb.DATA_POINT_FLAGS_NO_RECORDED_VALUE_MASK
    number, distribution = decoded(
        encode(
            Metric("inference.rows", [NumberPoint(stream(), 5, 1, 2, ended=True)]),
            Metric("inference.latency", [histogram([1, 2], ended=True)]),
        )
    )
    assert number.data.flags == flag and number.data.WhichOneof("value") is None
    assert distribution.data.flags == flag and distribution.data.count == 0
    assert not distribution.data.positive.bucket_counts


counts = st.lists(st.integers(0, 2**64 - 1), max_size=200)


@settings(deadline=None)
@given(
    positive=counts,
    negative=counts,
    scale=st.integers(-10, 20),
    offsets=st.tuples(st.integers(-(2**31), 2**31 - 1), st.integers(-(2**31), 2**31 - 1)),
    zero_count=st.integers(0, 2**64 - 1),
    count=st.integers(0, 2**64 - 1),
    total=st.none() | st.floats(allow_nan=False),
    times=st.tuples(st.integers(1, 2**64 - 1), st.integers(1, 2**64 - 1)),
)
def test_every_field_of_a_histogram_comes_back(
    positive: list[int],
    negative: list[int],
    scale: int,
    offsets: tuple[int, int],
    zero_count: int,
    count: int,
    total: float | None,
    times: tuple[int, int],
) -> None:
    point = histogram(
        positive,
        negative,
        scale=scale,
        positive_offset=offsets[0],
        negative_offset=offsets[1],
        zero_count=zero_count,
        count=count,
        sum=total,
        start_ns=times[0],
        time_ns=times[1],
    )
    (read,) = decoded(encode(Metric("inference.latency", [point])))
    data = read.data
    assert list(data.positive.bucket_counts) == positive
    assert list(data.negative.bucket_counts) == negative
    assert not positive or data.positive.offset == offsets[0]
    assert not negative or data.negative.offset == offsets[1]
    assert (data.scale, data.zero_count, data.count) == (scale, zero_count, count)
    assert data.zero_threshold == 2.0**-64
    assert (data.sum if data.HasField("sum") else None) == total
    assert (data.start_time_unix_nano, data.time_unix_nano) == times
    assert not data.HasField("min") and not data.HasField("max")


@pytest.mark.parametrize("n", [1, SLICE - 1, SLICE, SLICE + 1, 2 * SLICE + 3])
def test_histograms_in_slices_keep_their_own_buckets(n: int) -> None:
    rng = np.random.default_rng(n)
    points = []
    for i in range(n):
        sizes = rng.integers(0, 20, 2)
        drawn = [
            (rng.integers(0, 2**63, size) >> rng.integers(0, 63, size)).tolist() for size in sizes
        ]
        ended = i % 7 == 3
        points.append(
            histogram(
                *drawn,
                count=1,
                attributes=stream(f"m{i}"),
                positive_offset=-i,
                negative_offset=i,
                ended=ended,
            )
        )
    read = decoded(encode(Metric("inference.latency", points)))
    assert len(read) == n
    for point, found in zip(points, read, strict=True):
        assert found.attributes["inference.model.name"] == point.attributes[0][1]
        for sign in ("positive", "negative"):
            counts = [] if point.ended else getattr(point, sign).tolist()
            buckets = getattr(found.data, sign)
            assert list(buckets.bucket_counts) == counts
            assert not counts or buckets.offset == getattr(point, f"{sign}_offset")


def test_no_more_than_a_slice_of_histograms_is_in_hand_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What one call works on is bounded by count, not by what an export holds."""
    seen: list[int] = []
    write = otlp_points.write_buckets

    def watch(n: int, *rest: int) -> None:
        seen.append(n)
        write(n, *rest)

    monkeypatch.setattr(otlp_points, "write_buckets", watch)
    encode(Metric("inference.latency", [histogram([1, 2, 3]) for _ in range(5 * SLICE)]))
    assert seen == [2 * SLICE] * 5


def test_a_scale_that_no_field_holds_is_refused() -> None:
    with pytest.raises(ValueError, match=r"scale is 64; must be in -64\.\.63"):
        encode(Metric("inference.latency", [histogram([1], scale=64)]))


def test_exemplars_point_to_their_span() -> None:
    exemplar = Exemplar(
        StreamKey("m", ""), Column(Role.LATENCY, "latency"), 0.25, 77, bytes(range(16)), b"12345678"
    )
    (point,) = decoded(encode(Metric("inference.latency", [histogram([1], exemplars=(exemplar,))])))
    (read,) = point.data.exemplars
    assert (read.as_double, read.time_unix_nano) == (0.25, 77)
    assert (read.trace_id, read.span_id) == (bytes(range(16)), b"12345678")


@settings(deadline=None)
@given(
    name=st.text(max_size=50),
    value=st.text(max_size=50) | st.integers(-(2**63), 2**63 - 1) | st.booleans() | st.floats(),
)
def test_attributes_of_every_kind_come_back(name: str, value: str | int | bool | float) -> None:
    point = NumberPoint(((name, value),), 1, 1, 2)
    (read,) = decoded(encode(Metric("inference.rows", [point])))
    assert list(read.attributes) == [name]
    found = read.attributes[name]
    assert type(found) is type(value)
    assert found == value or (found != found and value != value)


def test_text_that_is_not_unicode_does_not_stop_an_export() -> None:
    point = NumberPoint(stream("\ud800x"), 1, 1, 2)
    (read,) = decoded(encode(Metric("inference.rows", [point])))
    assert read.attributes["inference.model.name"] == "?x"


@settings(deadline=None)
@given(
    max_bytes=st.integers(700, 6000),
    sizes=st.lists(st.tuples(st.integers(0, 300), st.booleans()), min_size=1, max_size=60),
)
def test_requests_stay_below_the_limit_and_lose_nothing_that_fits(
    max_bytes: int, sizes: list[tuple[int, bool]]
) -> None:
    rows = [NumberPoint(stream("m" * size, i=str(i)), i, 1, 2) for i, (size, _) in enumerate(sizes)]
    errors = [p for p, (_, both) in zip(rows, sizes, strict=True) if both]
    encoded = encode(
        Metric("inference.rows", rows),  # type: ignore[arg-type]
        Metric("inference.errors", errors),  # type: ignore[arg-type]
        max_bytes=max_bytes,
    )
    read = decoded(encoded)
    assert all(len(body.data) <= max_bytes for body in encoded.bodies)
    assert len(read) == encoded.n_points
    assert len(read) + encoded.n_dropped == len(rows) + len(errors)
    assert [body.n_points for body in encoded.bodies] == [
        len(Points(read_points(ExportMetricsServiceRequest.FromString(body.data))))
        for body in encoded.bodies
    ]
    wanted = [("inference.rows", p.value) for p in rows]
    wanted += [("inference.errors", p.value) for p in errors]
    sent = [(p.name, int(p.value)) for p in read]
    assert set(sent) <= set(wanted) and len(set(sent)) == len(sent)
    if max_bytes > 1500:
        assert encoded.n_dropped == 0


def test_only_a_point_that_alone_exceeds_the_limit_is_dropped() -> None:
    points = [
        NumberPoint(stream("a"), 1, 1, 2),
        NumberPoint(stream("x" * 5000), 2, 1, 2),
        NumberPoint(stream("b"), 3, 1, 2),
    ]
    encoded = encode(Metric("inference.rows", points), max_bytes=4096)
    assert encoded.n_dropped == 1
    assert [p.value for p in decoded(encoded)] == [1, 3]


def test_splitting_packs_requests_full() -> None:
    points = [NumberPoint(stream(f"model-{i:04}"), 1, 1, 2) for i in range(1000)]
    encoded = encode(Metric("inference.rows", points), max_bytes=10_000)
    assert all(len(body.data) > 9_800 for body in encoded.bodies[:-1])


def test_nothing_to_send_makes_no_request() -> None:
    assert encode().bodies == []
    assert encode(Metric("inference.rows", [])).bodies == []


def test_an_unknown_metric_raises() -> None:
    with pytest.raises(RegistryError, match=r"inference\.nothing"):
        encode(Metric("inference.nothing", [NumberPoint((), 1, 1, 2)]))


def test_delta_is_said_of_counters_and_histograms_only() -> None:
    encoded = encode(
        Metric("inference.rows", [NumberPoint(stream(), 1, 1, 2)]),
        Metric("inference.feature.sum", [NumberPoint(stream(), 1, 1, 2)]),
        Metric("inference.latency", [histogram([1])]),
        is_delta=True,
    )
    assert {p.name: p.temporality for p in decoded(encoded)} == {
        "inference.rows": DELTA,
        "inference.feature.sum": CUMULATIVE,
        "inference.latency": DELTA,
    }


def test_an_encoder_gives_the_same_bytes_again_and_forgets_series_that_are_gone() -> None:
    encoder = MetricEncoder(RESOURCE.encoded, RESOURCE.scope, max_bytes=100_000)
    many = [Metric("inference.rows", [NumberPoint(stream(f"m{i}"), 1, 1, 2) for i in range(50)])]
    few = [Metric("inference.rows", many[0].points[:3])]
    first = encoder.encode(many).bodies[0].data
    assert encoder.encode(many).bodies[0].data == first
    encoder.encode(few)
    assert [len(known) for known in encoder._points._fresh.values()] == [3, 0]
    assert encoder.encode(many).bodies[0].data == first


def test_an_attribute_that_equals_another_but_for_its_type_is_encoded_by_its_type() -> None:
    encoder = MetricEncoder(RESOURCE.encoded, RESOURCE.scope, max_bytes=100_000)
    for value in (1, True, 1.0):
        encoded = encoder.encode(
            [Metric("inference.rows", [NumberPoint((("a", value),), 1, 1, 2)])]
        )
        (read,) = decoded(encoded)
        assert type(read.attributes["a"]) is type(value)


def test_a_target_closes_requests_early_and_drops_nothing() -> None:
    points = [
        NumberPoint(stream("m" * (5000 if i == 7 else 10), i=str(i)), i, 1, 2) for i in range(50)
    ]
    encoder = MetricEncoder(RESOURCE.encoded, RESOURCE.scope, max_bytes=100_000, target_bytes=2000)
    encoded = encoder.encode([Metric("inference.rows", points)])  # type: ignore[arg-type]
    assert encoded.n_dropped == 0
    assert [p.value for p in decoded(encoded)] == list(range(50))
    large = [body for body in encoded.bodies if len(body.data) > 2000]
    assert [body.n_points for body in large] == [1], "only the point that does not fit is above"
