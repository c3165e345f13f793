"""Kafka -> agent -> a real OpenTelemetry Collector: what it writes down equals what was sent."""

from __future__ import annotations

import random
import urllib.request
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support.agent_process import AgentProcess
from tests.support.collector_real import Collector
from tests.support.kafka_real import RealKafka, unique
from tests.support.produce import produce
from tests.support.sent import Sent, assert_arrived
from tests.support.series_rules import assert_series_never_reset
from tests.support.wait import eventually_sync


def config_for(kafka: RealKafka, topic: str, endpoint: str, **more: Any) -> dict[str, Any]:
    return {
        "kafka": {
            "bootstrap_servers": [kafka.bootstrap],
            "topics": [topic],
            "group_id": unique("group"),
        },
        "export": {"otlp": {"endpoint": endpoint}},
        **more,
    }


@pytest.mark.timeout(180)
def test_the_collectors_files_hold_what_was_sent(
    real_kafka: RealKafka, collector: Collector, tmp_path: Path
) -> None:
    topic = real_kafka.fresh_topic(partitions=2)
    sent = Sent(5000, seed=21)
    produce(real_kafka.bootstrap, topic, sent.values, partitions=2)
    with AgentProcess(tmp_path, config_for(real_kafka, topic, collector.otlp_grpc)) as agent:
        agent.wait_rows(sent.total)
        assert agent.stop() == 0
    rows = eventually_sync(
        lambda: (
            written
            if (written := collector.read_metrics().named("inference.rows")).total() == sent.total
            else None
        )
    )
    assert rows
    points = collector.read_metrics()
    assert_arrived(points, sent)
    assert_series_never_reset(points)
    with urllib.request.urlopen(collector.prometheus_url, timeout=10) as page:
        text = page.read().decode()
    shown = sum(
        float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line.startswith("inference_rows_total{")
    )
    assert shown == sent.total


@pytest.mark.timeout(180)
def test_request_spans_arrive_under_the_producers_trace(
    real_kafka: RealKafka, collector: Collector, tmp_path: Path
) -> None:
    """Every error is kept: as a child of the producer's span, or, where the producer did not sample
    its trace, in a trace of its own, for nothing may be added to that one."""
    rnd = random.Random(22)
    values: list[bytes] = []
    n_errors = 0
    errors: dict[str, tuple[str, float]] = {}  # sampled: trace id -> parent span id, latency
    unsampled: set[str] = set()
    for i in range(400):
        trace_id, parent = f"{rnd.getrandbits(128) | 1:032x}", f"{rnd.getrandbits(64) | 1:016x}"
        is_error, flags = i % 20 == 0, "00" if i % 40 == 0 else "01"
        latency_ms = 5 + rnd.random()
        n_errors += is_error
        if is_error and flags == "01":
            errors[trace_id] = parent, latency_ms
        if flags == "00":
            unsampled.add(trace_id)
        values.append(
            orjson.dumps(
                {
                    "id": f"r-{i}",
                    "model": "m",
                    "version": "1",
                    "features": {"x": rnd.random()},
                    "prediction": rnd.random(),
                    "latency_ms": latency_ms,
                    "status": "timeout" if is_error else "ok",
                    "traceparent": f"00-{trace_id}-{parent}-{flags}",
                }
            )
        )
    topic = real_kafka.fresh_topic()
    produce(real_kafka.bootstrap, topic, values)
    traces = {"base_rate": 0.0, "max_per_s": 1000}
    config = config_for(real_kafka, topic, collector.otlp_http, traces=traces)
    config["export"]["otlp"]["protocol"] = "http/protobuf"
    with AgentProcess(tmp_path, config) as agent:
        agent.wait_rows(len(values))
        assert agent.stop() == 0
    own = {"consume", "cut", "seal", "export"}
    eventually_sync(lambda: len(request_spans(collector, own)) >= n_errors)
    spans = request_spans(collector, own)
    by_trace = {span.trace_id.hex(): span for span in spans}
    assert len(spans) == len(by_trace) == n_errors
    for trace_id, (parent, latency_ms) in errors.items():
        span = by_trace[trace_id]
        assert span.parent_span_id.hex() == parent
        took_ms = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6
        assert took_ms == pytest.approx(latency_ms, abs=1e-3)
    assert not unsampled & by_trace.keys()
    # The agent's own spans: each cut hangs under a consume, and exports link to cuts.
    everything = collector.read_traces()
    named = {name: [s for s in everything if s.name == name] for name in own}
    assert named["consume"] and named["cut"] and named["export"]
    consumed = {span.span_id for span in named["consume"]}
    assert all(span.parent_span_id in consumed for span in named["cut"])
    cuts = {span.span_id for span in named["cut"]}
    assert any(link.span_id in cuts for span in named["export"] for link in span.links)
    # A histogram's exemplar leads to a kept request.
    exemplars = {
        exemplar.trace_id.hex()
        for point in collector.read_metrics().named("inference.latency")
        for exemplar in point.data.exemplars
    }
    assert exemplars and exemplars <= by_trace.keys()


def request_spans(collector: Collector, own: set[str]) -> list[Any]:
    return [span for span in collector.read_traces() if span.name not in own]
