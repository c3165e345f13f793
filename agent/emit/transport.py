"""OTLP requests to a receiver: bytes over gRPC or HTTP, and what its answers mean.

One class per protocol, one contract:

  send(body) -> Accepted                    taken; `n_rejected` of its items refused for good
             raises TransientExportError    may be sent again unchanged, `retry_after_s` if told
             raises PermanentExportError    will be refused again
  close()                                   ends connections; a later send opens new ones

A send never lasts longer than `timeout_s`, also when the receiver says nothing at all. Certificates
and `headers_file` are read at each connect, and again when the receiver refuses our credentials.
No message carries a header's value, or more of an endpoint than scheme, host, port and path.

Which answers may be retried: opentelemetry.io/docs/specs/otlp (failures, throttling).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from agent import __version__
from agent.emit.environment import SignalSettings, header_pairs
from agent.errors import ConfigError, PermanentExportError, TransientExportError

USER_AGENT = f"inferometer/{__version__}"

#: Longest part of a receiver's text that is shown, and longest answer that is read.
MAX_TEXT = 200
MAX_ANSWER_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Accepted:
    """The receiver took the request. Rejected items must not be sent again."""

    n_rejected: int = 0
    message: str = ""


class UncertainExportError(TransientExportError):
    """No answer came: the receiver may or may not have taken the request."""


class OtlpTransport(Protocol):
    """What exporters need of a client."""

    settings: SignalSettings

    async def send(self, body: bytes) -> Accepted: ...

    async def close(self) -> None: ...


def OtlpClient(settings: SignalSettings) -> OtlpTransport:
    """A client for one signal; connects at the first send."""
    if settings.protocol == "grpc":
        from agent.emit.transport_grpc import GrpcClient

        return GrpcClient(settings)
    from agent.emit.transport_http import HttpClient

    return HttpClient(settings)


def read_headers(settings: SignalSettings) -> tuple[tuple[str, str], ...]:
    """Headers of the settings and of `headers_file` (`name: value` lines, `#` comments), revealed.

    The file wins over a header of the same name. Raises TransientExportError while the file cannot be read.
    """
    headers = dict(settings.headers)
    if settings.headers_file is not None:
        try:
            lines = Path(settings.headers_file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise TransientExportError(
                f"export.otlp.headers_file {settings.headers_file} cannot be read ({type(error).__name__}); correct it"
            ) from None
        pairs = {}
        for line in lines:
            if line.strip() and not line.lstrip().startswith("#"):
                name, _, value = line.partition(":")
                pairs[name.strip()] = value.strip()
        try:
            headers.update(header_pairs(pairs, f"export.otlp.headers_file {settings.headers_file}"))
        except ConfigError as error:
            raise PermanentExportError(str(error)) from None
    return tuple((name, secret.reveal()) for name, secret in headers.items())


def shown(text: str, headers: tuple[tuple[str, str], ...]) -> str:
    """A receiver's text fit for a log: one line, cut, without the values of our headers."""
    for _, value in headers:
        for part in (value, value.rpartition(" ")[2]):
            if len(part) >= 4:
                text = text.replace(part, "***")
    text = " ".join(text.split())
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "..."


def read_answer(
    settings: SignalSettings, data: bytes, headers: tuple[tuple[str, str], ...]
) -> Accepted:
    """The partial success of an Export response; an answer that cannot be read counts as full success."""
    try:
        if settings.signal == "metrics":
            points = ExportMetricsServiceResponse.FromString(data).partial_success
            n_rejected, message = points.rejected_data_points, points.error_message
        elif settings.signal == "logs":
            records = ExportLogsServiceResponse.FromString(data).partial_success
            n_rejected, message = records.rejected_log_records, records.error_message
        else:
            spans = ExportTraceServiceResponse.FromString(data).partial_success
            n_rejected, message = spans.rejected_spans, spans.error_message
    except DecodeError:
        return Accepted()
    return Accepted(max(0, n_rejected), shown(message, headers))
