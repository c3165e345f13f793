"""Scrape texts, read back by prometheus_client's own parsers."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import Metric as Family
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as read_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as read_classic

from agent.config import Service
from agent.emit.prometheus import labels, metric_name, power_of_two_buckets, render
from agent.emit.registry import METRICS, Instrument, MetricSpec
from agent.emit.resource import make_resource
from agent.types import (
    Column,
    Exemplar,
    HistogramPoint,
    Metric,
    NumberPoint,
    Role,
    StreamKey,
)

MODEL = (("inference.model.name", "m"),)
FEATURE = (("inference.feature.name", "f"), ("inference.model.name", "m"))


def exponential(values: list[float], scale: int, **changes: Any) -> HistogramPoint:
    """The histogram of `values`; their buckets by exact arithmetic: b^i < |x| <= b^(i+1)."""
    positive = [bucket_of(v, scale) for v in values if v > 0]
    negative = [bucket_of(-v, scale) for v in values if v < 0]
    fields: dict[str, Any] = {
        "attributes": FEATURE,
        "start_ns": 1_500_000_000,
        "time_ns": 2_000_000_000,
        "count": len(values),
        "sum": None if negative else math.fsum(values),
        "scale": scale,
        "zero_count": sum(v == 0 for v in values),
        "zero_threshold": 2.0**-64,
    }
    for side, found in (("positive", positive), ("negative", negative)):
        first = min(found, default=0)
        counts = np.zeros(max(found, default=-1) - first + 1, np.uint64)
        for index in found:
            counts[index - first] += np.uint64(1)
        fields[f"{side}_offset"], fields[side] = first, counts
    return HistogramPoint(**{**fields, **changes})


def bucket_of(value: float, scale: int) -> int:
    """The i with b^i < value <= b^(i+1), b = 2^(2^-scale), by exact powers and bisection."""
    power = Fraction(value) ** (
        1 << max(scale, 0)
    )  # value <= 2^((i+1)/2^s) <=> value^(2^s) <= 2^(i+1)
    exponent = math.ceil(math.log2(value) * 2.0 ** max(scale, 0)) - 2
    while Fraction(2) ** (exponent + 1) < power:
        exponent += 1
    return exponent >> max(-scale, 0)


def families(text: bytes, *, openmetrics: bool) -> dict[str, Family]:
    reader = read_openmetrics if openmetrics else read_classic
    return {family.name: family for family in reader(text.decode())}


def both(*metrics: Metric) -> list[dict[str, Family]]:
    return [
        families(render(metrics, openmetrics=openmetrics), openmetrics=openmetrics)
        for openmetrics in (False, True)
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("inference.rows", "inference_rows"),
        ("inference.latency", "inference_latency_seconds"),
        ("inference.window.start", "inference_window_start_seconds"),
        ("inference.window.coverage", "inference_window_coverage_ratio"),
        ("inference.feature.value", "inference_feature_value"),
        ("inferometer.rss", "inferometer_rss_bytes"),
        ("inferometer.fetch.bytes", "inferometer_fetch_bytes"),
        ("inferometer.export.duration", "inferometer_export_duration_seconds"),
        ("messaging.client.consumed.messages", "messaging_client_consumed_messages"),
    ],
)
def test_names_take_their_unit_once(name: str, expected: str) -> None:
    assert metric_name(METRICS[name]) == expected


def test_no_two_metrics_fall_on_one_name() -> None:
    names = []
    for spec in METRICS.values():
        name = metric_name(spec)
        names += [f"{name}_total"] if spec.instrument is Instrument.COUNTER else [name]
        if spec.instrument is Instrument.EXP_HISTOGRAM:
            names += [f"{name}_{suffix}" for suffix in ("bucket", "sum", "count")]
    assert len(names) == len(set(names))


def test_a_dimensionless_unit_is_a_ratio_on_gauges_only() -> None:
    assert metric_name(MetricSpec("a.b", Instrument.GAUGE, "1", "")) == "a_b_ratio"
    assert metric_name(MetricSpec("a.b", Instrument.COUNTER, "1", "")) == "a_b"


def test_counters_gauges_and_sums_keep_their_kind_and_value() -> None:
    for found in both(
        Metric("inference.rows", [NumberPoint(MODEL, 12345678901234567890, 1, 2)]),
        Metric("inference.feature.sum", [NumberPoint(FEATURE, -0.1, 1, 2)]),
        Metric("inference.window.rows", [NumberPoint(MODEL, math.inf, 0, 2)]),
    ):
        assert found["inference_rows"].type == "counter"
        sample = next(
            s for s in found["inference_rows"].samples if s.name == "inference_rows_total"
        )
        assert sample.value == 12345678901234567890 and sample.timestamp is None
        assert sample.labels == {"inference_model_name": "m"}
        assert found["inference_feature_sum"].type == "gauge"
        assert found["inference_feature_sum"].samples[0].value == -0.1
        assert found["inference_window_rows"].samples[0].value == math.inf


def test_openmetrics_says_when_a_series_began() -> None:
    _, found = both(Metric("inference.rows", [NumberPoint(MODEL, 1, 1_767_225_600_123_456_789, 2)]))
    created = [s for s in found["inference_rows"].samples if s.name == "inference_rows_created"]
    assert created[0].value == pytest.approx(1_767_225_600.123456789, abs=1e-6)


@settings(deadline=None)
@given(st.text(max_size=30), st.text(max_size=30))
def test_any_text_survives_as_a_label_value(feature: str, model: str) -> None:
    pairs = (("inference.feature.name", feature), ("inference.model.name", model))
    text = render([Metric("inference.feature.missing", [NumberPoint(pairs, 1, 1, 2)])])
    if any(c in feature + model for c in "\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"):
        return  # the reader splits lines there; Prometheus splits at \n alone
    (family,) = read_classic(text.decode())
    assert family.samples[0].labels == {
        "inference_feature_name": feature,
        "inference_model_name": model,
    }


def test_attributes_that_fall_on_one_label_share_it() -> None:
    found = labels((("inference.segment.a-b", "1"), ("inference.segment.a_b", "2"), ("x", True)))
    assert found == 'inference_segment_a_b="1;2",x="true"'


def test_ended_series_are_not_shown() -> None:
    metrics = [Metric("inference.window.rows", [NumberPoint(MODEL, 1, 0, 2, ended=True)])]
    assert render(metrics) == b""


def test_points_of_one_metric_from_two_sources_are_one_family() -> None:
    point = NumberPoint((), 1, 0, 2)
    text = render([Metric("inferometer.rss", [point]), Metric("inferometer.rss", [point])])
    assert text.count(b"# TYPE") == 1


def test_the_resource_is_the_target() -> None:
    resource = make_resource(Service(name="svc", attributes={"k8s.pod.name": 'a"b'}), {})
    for openmetrics in (False, True):
        text = render([], resource, openmetrics=openmetrics).decode()
        reader = read_openmetrics if openmetrics else read_classic
        (family,) = reader(text)
        (sample,) = family.samples
        assert sample.name == "target_info" and sample.value == 1
        assert sample.labels["service_name"] == "svc" and sample.labels["k8s_pod_name"] == 'a"b'


def test_openmetrics_ends_with_eof_and_classic_does_not() -> None:
    assert render([], openmetrics=True) == b"# EOF\n"
    assert render([]) == b""


finite = st.floats(min_value=2.0**-60, max_value=2.0**60)
powers = st.integers(-60, 60).map(lambda k: 2.0**k)
magnitudes = finite | powers | powers.map(lambda x: math.nextafter(x, math.inf))
signed = st.builds(lambda x, negative: -x if negative else x, magnitudes, st.booleans())


@settings(deadline=None)
@given(st.lists(signed | st.just(0.0), min_size=1, max_size=40), st.integers(-2, 5))
def test_bounds_are_exact_at_every_scale(values: list[float], scale: int) -> None:
    buckets = power_of_two_buckets(exponential(values, scale))
    assert [b for b, _ in buckets] == sorted({b for b, _ in buckets})
    for bound, n in buckets:
        assert n == sum(v <= bound for v in values), bound
    for bound, _ in buckets:
        if bound > 0:
            assert math.frexp(bound)[0] == 0.5
        elif bound < 0:
            assert math.frexp(math.nextafter(bound, math.inf))[0] == -0.5
    if buckets and max(values) > 0:
        assert buckets[-1][1] == len(values)


@settings(deadline=None, max_examples=50)
@given(st.lists(signed | st.just(0.0), min_size=1, max_size=40), st.integers(0, 4))
def test_both_formats_give_the_histogram_back(values: list[float], scale: int) -> None:
    point = exponential(values, scale)
    for openmetrics, found in zip(
        (False, True), both(Metric("inference.feature.value", [point])), strict=True
    ):
        family = found["inference_feature_value"]
        assert family.type == "histogram"
        read = {
            float(s.labels["le"]): s.value for s in family.samples if s.name.endswith("_bucket")
        }
        assert read == {**dict(power_of_two_buckets(point)), math.inf: len(values)}
        total = [s.value for s in family.samples if s.name.endswith("_sum")]
        assert total == ([] if point.sum is None else [point.sum])
        count = [s.value for s in family.samples if s.name.endswith("_count")]
        assert count == ([] if openmetrics and point.sum is None else [len(values)])


def test_bounds_of_a_series_only_widen() -> None:
    few = {b for b, _ in power_of_two_buckets(exponential([1.5, 3.0], 4))}
    more = {b for b, _ in power_of_two_buckets(exponential([1.5, 3.0, 0.1, 900.0], 4))}
    assert few < more


def test_values_at_the_ends_of_the_double_range_do_not_fail() -> None:
    point = exponential([5e-324, 1e308], 0)
    buckets = power_of_two_buckets(point)
    assert all(math.isfinite(b) for b, _ in buckets)
    for bound, n in buckets:
        assert n == sum(v <= bound for v in (5e-324, 1e308))


def test_an_empty_histogram_has_its_last_bucket() -> None:
    for found in both(Metric("inference.feature.value", [exponential([], 3)])):
        (bucket,) = [
            s for s in found["inference_feature_value"].samples if s.name.endswith("_bucket")
        ]
        assert (bucket.labels["le"], bucket.value) == ("+Inf", 0)


def test_exemplars_stand_in_their_bucket_in_openmetrics_alone() -> None:
    def exemplar(value: float, time_ns: int) -> Exemplar:
        return Exemplar(
            StreamKey("m", ""),
            Column(Role.FEATURE, "f"),
            value,
            time_ns,
            bytes(range(16)),
            time_ns.to_bytes(8, "big"),
        )

    point = exponential(
        [-3.0, 1.5, 1.7, 900.0],
        2,
        exemplars=(exemplar(1.5, 10), exemplar(1.7, 20), exemplar(900.0, 5), exemplar(-3.0, 6)),
    )
    classic, openmetrics = both(Metric("inference.feature.value", [point]))
    assert not any(s.exemplar for s in classic["inference_feature_value"].samples)
    found = {
        float(s.labels["le"]): s.exemplar
        for s in openmetrics["inference_feature_value"].samples
        if s.exemplar
    }
    assert {bound: e.value for bound, e in found.items()} == {
        math.nextafter(-2.0, -math.inf): -3.0,
        2.0: 1.7,
        1024.0: 900.0,
    }
    assert found[2.0].labels == {
        "trace_id": bytes(range(16)).hex(),
        "span_id": (20).to_bytes(8, "big").hex(),
    }
