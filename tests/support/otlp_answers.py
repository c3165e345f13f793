"""OTLP's three services and the answers a receiver may give, in the form of both transports."""

from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as logs
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as traces


@dataclass(frozen=True)
class Answer:
    """How to answer one request. Use the functions below, not the fields."""

    grpc_code: grpc.StatusCode = grpc.StatusCode.OK
    http_status: int = 200
    message: str = ""
    retry_after_s: float | None = None
    n_rejected: int = 0
    silent: bool = False

    @property
    def accepts(self) -> bool:
        return self.grpc_code is grpc.StatusCode.OK and not self.silent


ACCEPT = Answer()
SILENCE = Answer(silent=True)  # takes the request and never answers


def transient(retry_after_s: float | None = None) -> Answer:
    """UNAVAILABLE / 503; with a delay also RetryInfo / Retry-After."""
    return Answer(grpc.StatusCode.UNAVAILABLE, 503, "try again", retry_after_s)


def overloaded(retry_after_s: float | None = 0.05) -> Answer:
    """RESOURCE_EXHAUSTED / 429. Without a delay gRPC clients must not send it again."""
    return Answer(grpc.StatusCode.RESOURCE_EXHAUSTED, 429, "too much", retry_after_s)


def permanent(message: str = "bad data") -> Answer:
    """INVALID_ARGUMENT / 400."""
    return Answer(grpc.StatusCode.INVALID_ARGUMENT, 400, message)


def partial(n_rejected: int, message: str = "some were refused") -> Answer:
    """Success that says how many points, spans or records were refused."""
    return Answer(n_rejected=n_rejected, message=message)


@dataclass(frozen=True)
class Signal:
    name: str
    grpc_method: str
    http_path: str
    request: Any
    response: Any
    partial: Any
    rejected_field: str


_SERVICE = "/opentelemetry.proto.collector."
SIGNALS = [
    Signal(
        "metrics",
        f"{_SERVICE}metrics.v1.MetricsService/Export",
        "/v1/metrics",
        metrics.ExportMetricsServiceRequest,
        metrics.ExportMetricsServiceResponse,
        metrics.ExportMetricsPartialSuccess,
        "rejected_data_points",
    ),
    Signal(
        "traces",
        f"{_SERVICE}trace.v1.TraceService/Export",
        "/v1/traces",
        traces.ExportTraceServiceRequest,
        traces.ExportTraceServiceResponse,
        traces.ExportTracePartialSuccess,
        "rejected_spans",
    ),
    Signal(
        "logs",
        f"{_SERVICE}logs.v1.LogsService/Export",
        "/v1/logs",
        logs.ExportLogsServiceRequest,
        logs.ExportLogsServiceResponse,
        logs.ExportLogsPartialSuccess,
        "rejected_log_records",
    ),
]


def encoded_response(signal: Signal, answer: Answer) -> bytes:
    response = signal.response()
    if answer.n_rejected or answer.message:
        fields = {signal.rejected_field: answer.n_rejected, "error_message": answer.message}
        response.partial_success.CopyFrom(signal.partial(**fields))
    return response.SerializeToString()


def encoded_status(answer: Answer) -> bytes:
    """A google.rpc.Status {1: code, 2: message, 3: details}, with RetryInfo {1: delay} if asked.

    By hand: its generated classes are in a package that nothing else here needs.
    """
    code: int = answer.grpc_code.value[0]
    text = answer.message.encode()
    status = bytes([0x08, code]) + b"\x12" + _varint(len(text)) + text
    if answer.retry_after_s is not None:
        delay = Duration()
        delay.FromNanoseconds(round(answer.retry_after_s * 1e9))
        encoded = delay.SerializeToString()
        detail = AnyMessage(
            type_url="type.googleapis.com/google.rpc.RetryInfo",
            value=b"\x0a" + _varint(len(encoded)) + encoded,
        ).SerializeToString()
        status += b"\x1a" + _varint(len(detail)) + detail
    return status


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])
