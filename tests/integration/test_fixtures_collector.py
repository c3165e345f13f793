"""The real Collector takes OTLP, writes down exactly what came, and shows it to Prometheus."""

import asyncio
from typing import Any

import aiohttp
import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as traces

from tests.support.collector_real import GO_MOD, Collector, manifest_modules
from tests.support.otlp_points import CUMULATIVE, read_points
from tests.support.otlp_receiver import MAX_GRPC_BYTES, MAX_HTTP_BYTES
from tests.support.series_rules import assert_series_never_reset
from tests.support.wait import eventually

METRICS = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"
PROTOBUF = {"Content-Type": "application/x-protobuf"}


def _metrics(time_ns: int = 2_000_000_000) -> Any:
    request = metrics.ExportMetricsServiceRequest()
    of_resource = request.resource_metrics.add()
    of_resource.resource.attributes.add(key="service.name").value.string_value = "agent"
    scope = of_resource.scope_metrics.add()
    scope.scope.name = "tests"
    rows = scope.metrics.add(name="inference.rows", unit="{row}")
    rows.sum.aggregation_temporality = CUMULATIVE
    rows.sum.is_monotonic = True
    rows.sum.data_points.add(as_int=7, start_time_unix_nano=1, time_unix_nano=time_ns)
    values = scope.metrics.add(name="inference.feature.value", unit="1")
    values.exponential_histogram.aggregation_temporality = CUMULATIVE
    point = values.exponential_histogram.data_points.add(
        count=6, sum=11.5, scale=2, zero_count=1, start_time_unix_nano=1, time_unix_nano=time_ns
    )
    point.attributes.add(key="feature").value.string_value = "distance"
    point.positive.offset = 3
    point.positive.bucket_counts.extend([1, 0, 2])
    point.negative.offset = -4
    point.negative.bucket_counts.extend([2])
    point.exemplars.add(
        as_double=1.5, time_unix_nano=time_ns, trace_id=bytes(range(16)), span_id=bytes(range(8))
    )
    return request


async def _post(collector: Collector, path: str, body: bytes) -> int:
    async with aiohttp.ClientSession() as session:
        url = f"{collector.otlp_http}{path}"
        async with session.post(url, data=body, headers=PROTOBUF) as response:
            return response.status


async def test_metrics_over_grpc_are_written_field_for_field(collector: Collector) -> None:
    request = _metrics()
    async with grpc.aio.insecure_channel(collector.otlp_grpc.removeprefix("http://")) as channel:
        await channel.unary_unary(METRICS)(request.SerializeToString(), timeout=10)
    written = await eventually(collector.read_metrics)
    sent = {point.series: point for point in read_points(request)}
    assert {point.series: point.data for point in written} == {
        series: point.data for series, point in sent.items()
    }
    assert_series_never_reset(written)


async def test_spans_over_http_keep_their_identifiers(collector: Collector) -> None:
    request = traces.ExportTraceServiceRequest()
    span = (
        request.resource_spans.add()
        .scope_spans.add()
        .spans.add(
            name="predict",
            trace_id=bytes(range(1, 17)),
            span_id=bytes(range(1, 9)),
            parent_span_id=bytes(range(2, 10)),
            start_time_unix_nano=1,
            end_time_unix_nano=2,
            kind=2,
        )
    )
    span.links.add(trace_id=bytes(range(16)), span_id=bytes(range(8)))
    assert await _post(collector, "/v1/traces", request.SerializeToString()) == 200
    [written] = await eventually(collector.read_traces)
    for field in ("name", "trace_id", "span_id", "parent_span_id", "kind"):
        assert getattr(written, field) == getattr(span, field)
    assert written.links[0].trace_id == bytes(range(16))


async def test_prometheus_page_shows_what_came(collector: Collector) -> None:
    assert await _post(collector, "/v1/metrics", _metrics().SerializeToString()) == 200
    async with aiohttp.ClientSession() as session, session.get(collector.prometheus_url) as page:
        lines = (await page.text()).splitlines()
    rows = [line for line in lines if line.startswith("inference_rows_total{")]
    assert len(rows) == 1
    assert rows[0].endswith(" 7")
    assert any(line.startswith("inference_feature_value") for line in lines)


async def test_collector_comes_back_on_its_ports_with_its_files(collector: Collector) -> None:
    body = _metrics().SerializeToString()
    assert await _post(collector, "/v1/metrics", body) == 200
    await asyncio.to_thread(collector.stop)
    assert len(collector.read_metrics()) == 2
    collector.start()
    assert await _post(collector, "/v1/metrics", _metrics(3_000_000_000).SerializeToString()) == 200
    await eventually(lambda: len(collector.read_metrics()) == 4)


async def test_receiver_for_tests_has_the_collectors_limits(collector: Collector) -> None:
    """The stand-in of the unit tests refuses the sizes that the real one refuses, in its way."""
    request = _metrics()
    filler = request.resource_metrics[0].resource.attributes.add(key="filler").value
    filler.string_value = "x" * MAX_GRPC_BYTES
    async with grpc.aio.insecure_channel(collector.otlp_grpc.removeprefix("http://")) as channel:
        try:
            await channel.unary_unary(METRICS)(request.SerializeToString(), timeout=30)
            code = grpc.StatusCode.OK
        except grpc.aio.AioRpcError as refused:
            code = refused.code()
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await _post(collector, "/v1/metrics", request.SerializeToString()) == 200
    filler.string_value = "x" * MAX_HTTP_BYTES
    assert await _post(collector, "/v1/metrics", request.SerializeToString()) == 400


def test_lock_holds_the_versions_of_the_manifest() -> None:
    locked = dict(
        line.split()[:2]
        for line in GO_MOD.read_text().splitlines()
        if line.startswith("\t") and "// indirect" not in line
    )
    assert manifest_modules().items() <= locked.items()
