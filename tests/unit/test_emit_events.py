"""Verdicts as OpenTelemetry events, read back by opentelemetry-proto's parser; the queue they wait in."""

import math

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.logs.v1 import logs_pb2 as pb

from agent.config import Export, Otlp, Service
from agent.emit.environment import resolve
from agent.emit.events import EventExporter
from agent.emit.otlp_logs import (
    RECORD_FRAME,
    LogEvent,
    encode_event,
    pack_records,
    room_for_records,
)
from agent.emit.resource import make_resource
from agent.emit.transport import Accepted
from agent.emit.verdict_events import iso, verdict_event
from agent.telemetry import Telemetry
from agent.verdict import Severity, State, identity
from tests.support.otlp_points import attributes_of
from tests.support.verdicts import HOUR_MS, START_MS, verdict

RESOURCE = make_resource(Service(), {})


def read(event: LogEvent) -> pb.LogRecord:
    return pb.LogRecord.FromString(encode_event(event))


def test_a_verdict_is_an_event_with_all_it_says_in_attributes() -> None:
    record = read(verdict_event(verdict(), 77))
    assert record.event_name == "inference.verdict"
    assert record.time_unix_nano == (START_MS + HOUR_MS) * 1_000_000
    assert record.observed_time_unix_nano == 77
    assert (record.severity_number, record.severity_text) == (pb.SEVERITY_NUMBER_ERROR, "ERROR")
    assert record.body.string_value.startswith("distance is missing")
    assert attributes_of(record.attributes) == {
        "log.record.uid": identity(verdict()),
        "inference.model.name": "flight-delay",
        "inference.model.version": "7",
        "inference.segment.region": "eu",
        "inference.monitor.name": "drift",
        "inference.feature.name": "distance",
        "inference.source.name": "weather",
        "inference.verdict.state": "firing",
        "inference.verdict.previous_state": "pending",
        "inference.verdict.severity": "page",
        "inference.verdict.alarm": "a-1",
        "inference.verdict.metric": "change",
        "inference.verdict.value": 2500.0,
        "inference.verdict.threshold": 2016.0,
        "inference.verdict.unit": "1",
        "inference.verdict.minimum_effect": 0.02,
        "inference.verdict.rows": 10_000,
        "inference.verdict.baseline": "january",
        "inference.verdict.window_start": "2026-01-05T10:00:00.000Z",
        "inference.verdict.window_end": "2026-01-05T11:00:00.000Z",
        "inference.verdict.trace_ids": ["0af7651916cd43dd8448eb211c80319c"],
        "inference.verdict.attribution": [
            {
                "statistic": "missing",
                "score": math.inf,
                "feature": "distance",
                "source": "weather",
                "segment": {"region": "eu"},
                "share": 0.9,
                "trace_ids": ["0af7651916cd43dd8448eb211c80319c"],
            },
            {"statistic": "loc", "score": 4.5, "feature": "dep_hour", "detail": "bins 3 to 5"},
        ],
    }


@pytest.mark.parametrize(
    ("state", "severity", "expected"),
    [
        (State.FIRING, Severity.PAGE, "ERROR"),
        (State.FIRING, Severity.TICKET, "WARN"),
        (State.FIRING, Severity.INFO, "INFO"),
        (State.BLIND, Severity.PAGE, "WARN"),
        (State.BLIND, Severity.INFO, "INFO"),
        (State.PENDING, Severity.PAGE, "INFO"),
        (State.RESOLVED, Severity.PAGE, "INFO"),
        (State.OK, Severity.PAGE, "INFO"),
        (State.LEARNING, Severity.TICKET, "INFO"),
    ],
)
def test_the_severity_says_who_should_look(state: State, severity: Severity, expected: str) -> None:
    record = read(verdict_event(verdict(state, severity=severity), 1))
    assert record.severity_text == expected


def test_the_same_verdict_has_the_same_id_and_another_has_another() -> None:
    assert identity(verdict()) == identity(verdict(value=9.0, why="other words", rows=3))
    others = [
        verdict(monitor="quality"),
        verdict(window_start_ms=START_MS + 1),
        verdict(State.RESOLVED),
        verdict(previous=State.OK),
        verdict(source=None),
        verdict(alarm="a-2"),
        verdict(alarm="", feature="distance"),
        verdict(alarm="", feature="dep_hour"),
    ]
    assert len({identity(other) for other in [verdict(), *others]}) == len(others) + 1


@pytest.mark.parametrize(
    ("time_ms", "expected"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1, "1970-01-01T00:00:00.001Z"),
        (-1, "1969-12-31T23:59:59.999Z"),
        (1 << 62, "9999-12-31T23:59:59.999Z"),
        (-(1 << 62), "0001-01-01T00:00:00.000Z"),
    ],
)
def test_times_are_written_for_every_window_there_can_be(time_ms: int, expected: str) -> None:
    assert iso(time_ms) == expected


def test_a_request_holds_its_records_and_keeps_to_the_room_it_promised() -> None:
    record = encode_event(verdict_event(verdict(), 1))
    data = pack_records([record] * 3, RESOURCE.encoded, RESOURCE.scope)
    message = ExportLogsServiceRequest.FromString(data)
    (of_resource,) = message.resource_logs
    (of_scope,) = of_resource.scope_logs
    assert attributes_of(of_resource.resource.attributes)["service.name"] == "inferometer"
    assert of_scope.scope.name == "inferometer" and len(of_scope.log_records) == 3
    room = room_for_records(RESOURCE.encoded, RESOURCE.scope, len(data))
    assert 0 <= 3 * (len(record) + RECORD_FRAME) - room <= 40, "an upper bound, and a close one"


# ---------------------------------------------------------------- the queue


class Nobody:
    """A client that is never asked."""

    async def send(self, body: bytes) -> Accepted:
        raise AssertionError("nothing is sent here")

    async def close(self) -> None:
        pass


def waiting(
    telemetry: Telemetry, max_events: int, max_request_bytes: int = 3_500_000
) -> EventExporter:
    otlp = Otlp(endpoint="http://127.0.0.1:1", max_request_bytes=max_request_bytes)
    settings = resolve(Export(otlp=otlp), {}).logs
    client = Nobody()
    client.settings = settings  # type: ignore[attr-defined]
    return EventExporter(client, settings, RESOURCE, telemetry, max_events=max_events)  # type: ignore[arg-type]


def dropped(telemetry: Telemetry) -> float:
    return telemetry.value("inferometer.export.points", signal="logs", outcome="dropped")


async def test_a_crowd_of_ordinary_events_leaves_room_for_a_page() -> None:
    telemetry, settled = Telemetry(), []
    exporter = waiting(telemetry, 100)
    for _ in range(100_000):
        exporter.put(verdict_event(verdict(State.LEARNING), 1), lambda: settled.append(1))
    assert len(exporter) == 75 and dropped(telemetry) == len(settled) == 99_925
    for _ in range(30):
        exporter.put(verdict_event(verdict(), 1))
    assert len(exporter) == 100 and dropped(telemetry) == 99_930


async def test_an_event_that_fits_no_request_is_dropped_when_it_is_put() -> None:
    telemetry, settled = Telemetry(), []
    exporter = waiting(telemetry, 100, max_request_bytes=4096)
    exporter.put(verdict_event(verdict(why="x" * 5000), 1), lambda: settled.append(1))
    assert len(exporter) == 0 and dropped(telemetry) == len(settled) == 1
    exporter.put(verdict_event(verdict(), 1))
    assert len(exporter) == 1
