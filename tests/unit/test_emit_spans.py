"""Spans as bytes, read back by opentelemetry-proto's parser; the queue they wait in."""

import asyncio
import logging
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from agent.config import Export, Otlp, Service
from agent.emit.environment import resolve
from agent.emit.otlp_traces import encode_request_span, pack_spans
from agent.emit.resource import make_resource
from agent.emit.spans import SpanExporter, self_tracer
from agent.emit.transport import Accepted, UncertainExportError
from agent.errors import PermanentExportError, TransientExportError
from agent.telemetry import Telemetry
from agent.types import Column, Partition, RequestSpan, Role, SpanWhy, StreamKey
from tests.support.otlp_points import attributes_of
from tests.support.wait import eventually

RESOURCE = make_resource(Service(), {})
SETTINGS = resolve(
    Export(otlp=Otlp(endpoint="http://127.0.0.1:1", retry_initial_s=0.01, retry_max_s=0.02)), {}
)


def span(**changes: Any) -> RequestSpan:
    fields: dict[str, Any] = {
        "trace_id": bytes(range(16)),
        "span_id": bytes(range(8)),
        "parent_span_id": b"",
        "link": None,
        "trace_state": "",
        "start_ns": 10,
        "end_ns": 30,
        "stream": StreamKey("m", "7", (("region", "eu"),)),
        "why": SpanWhy.ERROR,
        "status": "",
        "request_id": "r-1",
        "partition": Partition("events", 3),
        "offset": 42,
        "row": 0,
        "sampling_threshold": None,
        "out_of_range": (),
    }
    return RequestSpan(**{**fields, **changes})


def read(one: RequestSpan) -> Span:
    return Span.FromString(encode_request_span(one))


def test_a_request_span_is_internal_reconstructed_and_names_its_place() -> None:
    found = read(span())
    assert found.kind == Span.SPAN_KIND_INTERNAL
    assert found.name == "inference m"
    assert (found.trace_id, found.span_id) == (bytes(range(16)), bytes(range(8)))
    assert (found.start_time_unix_nano, found.end_time_unix_nano) == (10, 30)
    assert found.status.code == Status.STATUS_CODE_UNSET
    assert attributes_of(found.attributes) == {
        "inferometer.reconstructed": True,
        "inferometer.why": "error",
        "inferometer.row": 0,
        "inference.model.name": "m",
        "inference.model.version": "7",
        "inference.segment.region": "eu",
        "inference.request.id": "r-1",
        "messaging.destination.name": "events",
        "messaging.destination.partition.id": "3",
        "messaging.kafka.offset": 42,
    }


def test_a_child_says_that_its_parent_is_remote() -> None:
    found = read(span(parent_span_id=b"12345678", trace_state="ot=th:8,v=x"))
    assert found.parent_span_id == b"12345678" and found.trace_state == "ot=th:8,v=x"
    assert found.flags == 0x301 and not found.links
    assert read(span()).flags == 0x101


def test_a_row_of_a_batch_has_a_link_to_a_remote_context() -> None:
    (link,) = read(span(link=(b"t" * 16, b"s" * 8))).links
    assert (link.trace_id, link.span_id, link.flags) == (b"t" * 16, b"s" * 8, 0x300)


def test_an_error_has_its_status_and_type() -> None:
    found = read(span(status="timeout"))
    assert (found.status.code, found.status.message) == (Status.STATUS_CODE_ERROR, "timeout")
    assert attributes_of(found.attributes)["error.type"] == "timeout"


def test_out_of_range_columns_are_named_without_their_values() -> None:
    columns = (Column(Role.FEATURE, "distance"), Column(Role.PREDICTION, "score"))
    found = attributes_of(read(span(out_of_range=columns)).attributes)
    assert list(found["inference.out_of_range"]) == ["feature.distance", "prediction.score"]


def test_times_before_the_epoch_do_not_fail() -> None:
    assert read(span(start_ns=-5, end_ns=3)).start_time_unix_nano == 0


def test_requests_of_spans_stay_below_the_limit() -> None:
    spans = [encode_request_span(span(offset=i, request_id="r" * (i % 97))) for i in range(200)]
    spans.append(encode_request_span(span(request_id="x" * 9000)))
    requests, n_dropped = pack_spans(spans, RESOURCE.encoded, RESOURCE.scope, max_bytes=4096)
    assert n_dropped == 1 and all(len(data) <= 4096 for data, _ in requests)
    offsets = []
    for data, n in requests:
        message = ExportTraceServiceRequest.FromString(data)
        (of_resource,) = message.resource_spans
        (of_scope,) = of_resource.scope_spans
        assert of_scope.scope.name == "inferometer" and len(of_scope.spans) == n
        assert attributes_of(of_resource.resource.attributes) == dict(RESOURCE.attributes)
        offsets += [attributes_of(s.attributes)["messaging.kafka.offset"] for s in of_scope.spans]
    assert offsets == list(range(200))


# ---------------------------------------------------------------- the queue


class Receiver:
    """A client that answers as told and keeps what it accepted."""

    def __init__(self, *answers: Exception | Accepted) -> None:
        self.settings = SETTINGS.traces
        self.answers = list(answers)
        self.accepted: list[Span] = []
        self.n_sends = 0

    async def send(self, body: bytes) -> Accepted:
        self.n_sends += 1
        answer = self.answers.pop(0) if self.answers else Accepted()
        if isinstance(answer, Exception):
            raise answer
        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for of_scope in of_resource.scope_spans:
                self.accepted += of_scope.spans
        return answer

    async def close(self) -> None:
        pass


def exporter(receiver: Receiver, **more: Any) -> tuple[SpanExporter, Telemetry]:
    telemetry = Telemetry()
    return SpanExporter(receiver, SETTINGS, RESOURCE, telemetry, **more), telemetry


def ends(telemetry: Telemetry) -> dict[str, int]:
    outcomes = ("accepted", "rejected", "dropped")
    return {
        outcome: int(telemetry.value("inferometer.export.points", signal="traces", outcome=outcome))
        for outcome in outcomes
    }


async def test_what_is_queued_is_sent_by_the_running_task() -> None:
    receiver = Receiver()
    of, telemetry = exporter(receiver)
    task = asyncio.ensure_future(of.run())
    of.put([span(offset=i) for i in range(700)])
    await eventually(lambda: len(receiver.accepted) == 700)
    task.cancel()
    assert receiver.n_sends == 2
    assert ends(telemetry) == {"accepted": 700, "rejected": 0, "dropped": 0}


async def test_a_full_queue_drops_and_counts_by_why(caplog: pytest.LogCaptureFixture) -> None:
    receiver = Receiver()
    of, telemetry = exporter(receiver, max_spans=10)
    with caplog.at_level(logging.WARNING):
        of.put([span(offset=i, why=SpanWhy.SLOW) for i in range(25)])
    assert len(of) == 10
    assert telemetry.value("inferometer.spans", outcome="queue_full", why="slow") == 15
    assert caplog.text.count("queue of 10 spans is full") == 1
    await of.flush()
    assert ends(telemetry) == {"accepted": 10, "rejected": 0, "dropped": 0}


async def test_a_request_that_may_have_arrived_is_not_repeated() -> None:
    receiver = Receiver(UncertainExportError("no answer"))
    of, telemetry = exporter(receiver)
    of.put([span()])
    task = asyncio.ensure_future(of.run())
    await eventually(lambda: ends(telemetry)["dropped"])
    task.cancel()
    assert receiver.n_sends == 1


async def test_a_request_that_did_not_arrive_is_repeated() -> None:
    receiver = Receiver(TransientExportError("later", 0.02), TransientExportError("later"))
    of, telemetry = exporter(receiver)
    of.put([span()])
    task = asyncio.ensure_future(of.run())
    await eventually(lambda: receiver.accepted)
    await eventually(lambda: ends(telemetry)["accepted"])
    task.cancel()
    assert receiver.n_sends == 3
    failures = telemetry.value("inferometer.export.failures", signal="traces", outcome="transient")
    assert failures == 2


async def test_refused_spans_are_counted_in_whole_and_in_part() -> None:
    receiver = Receiver(PermanentExportError("no"), Accepted(1, "one was bad"))
    of, telemetry = exporter(receiver)
    of.put([span(offset=i) for i in range(3)])
    await of.flush()
    of.put([span(offset=i) for i in range(3)])
    await of.flush()
    assert ends(telemetry) == {"accepted": 2, "rejected": 4, "dropped": 0}


async def test_a_flush_ends_in_time_and_counts_what_is_left() -> None:
    class Silent(Receiver):
        async def send(self, body: bytes) -> Accepted:
            await asyncio.Event().wait()
            raise AssertionError

    of, telemetry = exporter(Silent())
    of.put([span(offset=i) for i in range(700)])
    began = asyncio.get_running_loop().time()
    await of.flush(0.2)
    assert asyncio.get_running_loop().time() - began < 2
    assert ends(telemetry) == {"accepted": 0, "rejected": 0, "dropped": 700}
    assert len(of) == 0


# ---------------------------------------------------------------- own spans


async def test_own_spans_come_through_the_same_queue_with_links_and_events() -> None:
    receiver = Receiver()
    of, telemetry = exporter(receiver)
    tracer = self_tracer(of)
    remote = SpanContext(
        0x1234, 0x56, True, TraceFlags(TraceFlags.SAMPLED), TraceState([("v", "x")])
    )
    with tracer.start_as_current_span("cut", links=[Link(remote, {"n": 1})]) as parent:
        parent.set_attribute("rows", 5)
        parent.set_attribute("topics", ["a", "b"])
        parent.add_event("sealed", {"windows": 2})
        with tracer.start_as_current_span("export", kind=SpanKind.CLIENT) as child:
            child.set_status(StatusCode.ERROR, "refused")
    await of.flush()
    export, cut = receiver.accepted
    assert (cut.name, cut.kind) == ("cut", Span.SPAN_KIND_INTERNAL)
    assert cut.flags & ~0x2 == 0x101  # the SDK's ids are random, and its flags may say so
    assert attributes_of(cut.attributes)["rows"] == 5
    assert list(attributes_of(cut.attributes)["topics"]) == ["a", "b"]
    (link,) = cut.links
    assert int.from_bytes(link.trace_id, "big") == 0x1234
    assert int.from_bytes(link.span_id, "big") == 0x56
    assert (link.trace_state, link.flags) == ("v=x", 0x301)
    assert cut.events[0].name == "sealed" and cut.events[0].time_unix_nano > 0
    assert (export.kind, export.parent_span_id) == (Span.SPAN_KIND_CLIENT, cut.span_id)
    assert export.trace_id == cut.trace_id
    assert (export.status.code, export.status.message) == (Status.STATUS_CODE_ERROR, "refused")
    assert cut.start_time_unix_nano <= export.start_time_unix_nano <= export.end_time_unix_nano
    assert telemetry.value("inferometer.spans", outcome="kept", why="self") == 2


async def test_own_spans_of_a_remote_parent_say_so() -> None:
    receiver = Receiver()
    of, _ = exporter(receiver)
    remote = SpanContext(0x1234, 0x56, True, TraceFlags(TraceFlags.SAMPLED))
    self_tracer(of).start_span("x", set_span_in_context(NonRecordingSpan(remote))).end()
    await of.flush()
    assert receiver.accepted[0].flags & ~0x2 == 0x301


def test_without_an_exporter_the_tracer_does_nothing() -> None:
    with self_tracer(None).start_as_current_span("cut") as one:
        assert not one.is_recording()
