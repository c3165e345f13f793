"""The Collector configurations of `deploy/collector` are valid, and carry what they say."""

from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiokafka import AIOKafkaProducer
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as traces

from tests.support.built import REPOSITORY
from tests.support.collector_real import Collector, validate
from tests.support.kafka_real import RealKafka, unique
from tests.support.otlp_points import CUMULATIVE
from tests.support.otlp_receiver import OtlpReceiver, transient
from tests.support.wait import eventually

CONFIGS = REPOSITORY / "deploy" / "collector"
GATEWAY, KAFKA = CONFIGS / "gateway.yaml", CONFIGS / "kafka.yaml"
PROTOBUF = {"Content-Type": "application/x-protobuf"}
NATIVE_HISTOGRAMS = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
)


def _metrics(instance: str, rows: int, time_ns: int = 2) -> bytes:
    request = metrics.ExportMetricsServiceRequest()
    of_resource = request.resource_metrics.add()
    for key, text in (("service.name", "inferometer"), ("service.instance.id", instance)):
        of_resource.resource.attributes.add(key=key).value.string_value = text
    scope = of_resource.scope_metrics.add()
    metric = scope.metrics.add(name="inference.rows", unit="{row}")
    metric.sum.aggregation_temporality = CUMULATIVE
    metric.sum.is_monotonic = True
    metric.sum.data_points.add(as_int=rows, start_time_unix_nano=1, time_unix_nano=time_ns)
    values = scope.metrics.add(name="inference.feature", unit="1")
    values.exponential_histogram.aggregation_temporality = CUMULATIVE
    point = values.exponential_histogram.data_points.add(
        count=rows, scale=3, start_time_unix_nano=1, time_unix_nano=time_ns
    )
    point.positive.bucket_counts.append(rows)
    return request.SerializeToString()


async def _post(collector: Collector, signal: str, body: bytes) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{collector.otlp_http}/v1/{signal}", data=body, headers=PROTOBUF) as response,
    ):
        assert response.status == 200


async def _page(collector: Collector, accept: str) -> tuple[str, bytes]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(collector.prometheus_url, headers={"Accept": accept}) as page,
    ):
        return page.headers["Content-Type"], await page.read()


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
@pytest.mark.usefixtures("collector_program")
def test_configuration_is_accepted_by_the_collector(config: Path) -> None:
    assert validate(config, env={"GATEWAY_ENDPOINT": "gateway:4317"}) == ""


@pytest.mark.usefixtures("collector_program")
def test_validation_refuses_a_misspelt_option(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(GATEWAY.read_text().replace("metric_expiration", "metric_expiry"))
    assert "metric_expiry" in validate(wrong)


@pytest.mark.usefixtures("collector_program")
async def test_gateway_shows_two_agents_apart_and_histograms_natively() -> None:
    names = ["OTLP_GRPC_ADDRESS", "OTLP_HTTP_ADDRESS", "PROMETHEUS_ADDRESS"]
    gateway = Collector(configs=[GATEWAY], addresses=names)
    try:
        gateway.start()
        for instance, rows in (("one", 3), ("two", 4)):
            await _post(gateway, "metrics", _metrics(instance, rows))
        spans = traces.ExportTraceServiceRequest()
        spans.resource_spans.add().scope_spans.add().spans.add(
            name="cut", trace_id=b"t" * 16, span_id=b"s" * 8
        )
        await _post(gateway, "traces", spans.SerializeToString())
        kind, text = await _page(gateway, "text/plain")
        assert kind.startswith("text/plain")
        rows_by_agent = {
            line.split('instance="')[1].split('"')[0]: line.rsplit(" ", 1)[1]
            for line in text.decode().splitlines()
            if line.startswith("inference_rows_total{")
        }
        assert rows_by_agent == {"one": "3", "two": "4"}
        kind, _ = await _page(gateway, NATIVE_HISTOGRAMS)
        assert kind.startswith("application/vnd.google.protobuf")
        await eventually(lambda: "Traces" in gateway.log_text())
    finally:
        gateway.close()


@pytest.mark.usefixtures("collector_program")
async def test_records_of_the_topic_and_direct_exports_reach_the_gateway_once_each(
    real_kafka: RealKafka, otlp_receiver: OtlpReceiver
) -> None:
    topic = real_kafka.fresh_topic("inference.otlp", partitions=2)
    beside = Collector(
        configs=[KAFKA],
        addresses=["OTLP_GRPC_ADDRESS", "OTLP_HTTP_ADDRESS"],
        env={
            "GATEWAY_ENDPOINT": otlp_receiver.grpc_endpoint.removeprefix("http://"),
            "KAFKA_BROKERS": real_kafka.bootstrap,
            "KAFKA_TOPIC": topic,
            "KAFKA_GROUP": unique("collector"),
        },
    )
    otlp_receiver.first(transient(0.05), transient(0.05))
    try:
        async with AIOKafkaProducer(bootstrap_servers=real_kafka.bootstrap) as producer:
            await producer.send_and_wait(topic, b"not OTLP at all", key=b"x", partition=0)
            for time_ns, rows in ((2, 5), (3, 6), (4, 9)):
                body = _metrics("by-kafka", rows, time_ns)
                await producer.send_and_wait(topic, body, key=b"s", partition=0)
        beside.start()
        await _post(beside, "metrics", _metrics("direct", 7))

        def arrived() -> dict[Any, list[float]]:
            found: dict[Any, list[float]] = {}
            for point in otlp_receiver.sums("inference.rows"):
                found.setdefault(point.resource["service.instance.id"], []).append(point.value)
            return found

        await eventually(lambda: sum(map(len, arrived().values())) >= 4, timeout_s=60)
        assert arrived() == {"by-kafka": [5, 6, 9], "direct": [7]}
    finally:
        beside.close()
