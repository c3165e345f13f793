"""Log events -> bytes of ExportLogsServiceRequest, split below the receiver's limit.

Attributes of a log record may be maps and lists, which those of a metric point may not.

Source: opentelemetry.io/docs/specs/otel/logs/data-model; field numbers from `opentelemetry-proto`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.logs.v1 import logs_pb2 as pb

from agent.emit.wire import (
    FIXED64,
    LENGTH,
    MAX_LENGTH_PREFIX,
    VARINT,
    any_value,
    delimited,
    fixed64,
    tag,
    text,
    varint,
)

LogValue: TypeAlias = "str | bool | int | float | Sequence[LogValue] | Mapping[str, LogValue]"

#: `SeverityNumber` of the words that are used here.
INFO: Final = int(pb.SEVERITY_NUMBER_INFO)
WARN: Final = int(pb.SEVERITY_NUMBER_WARN)
ERROR: Final = int(pb.SEVERITY_NUMBER_ERROR)
_TEXT: Final = {INFO: "INFO", WARN: "WARN", ERROR: "ERROR"}

_RESOURCE_LOGS = tag(ExportLogsServiceRequest, "resource_logs", LENGTH)
_RESOURCE = tag(pb.ResourceLogs, "resource", LENGTH)
_SCOPE_LOGS = tag(pb.ResourceLogs, "scope_logs", LENGTH)
_SCOPE = tag(pb.ScopeLogs, "scope", LENGTH)
_RECORDS = tag(pb.ScopeLogs, "log_records", LENGTH)

_R = pb.LogRecord
_TIME = tag(_R, "time_unix_nano", FIXED64)
_OBSERVED = tag(_R, "observed_time_unix_nano", FIXED64)
_SEVERITY = tag(_R, "severity_number", VARINT)
_SEVERITY_TEXT = tag(_R, "severity_text", LENGTH)
_BODY = tag(_R, "body", LENGTH)
_ATTRIBUTES = tag(_R, "attributes", LENGTH)
_EVENT_NAME = tag(_R, "event_name", LENGTH)

_KEY = tag(KeyValue, "key", LENGTH)
_VALUE = tag(KeyValue, "value", LENGTH)
_ARRAY = tag(AnyValue, "array_value", LENGTH)
_VALUES = tag(ArrayValue, "values", LENGTH)
_MAP = tag(AnyValue, "kvlist_value", LENGTH)
_PAIRS = tag(KeyValueList, "values", LENGTH)

#: Bytes around a record in its request, at most.
RECORD_FRAME: Final = len(_RECORDS) + MAX_LENGTH_PREFIX


@dataclass(frozen=True, slots=True)
class LogEvent:
    """A named occurrence: OpenTelemetry's Event, a log record with an event name.

    time_ns      when it happened; observed_ns: when this agent first knew of it. Epoch ns
    body         one sentence for people; what programs read is in the attributes
    attributes   `log.record.uid` among them: records with the same one are one
    """

    name: str
    time_ns: int
    observed_ns: int
    severity: int  # INFO, WARN or ERROR
    body: str
    attributes: Mapping[str, LogValue]


def encode_event(event: LogEvent) -> bytes:
    """The `LogRecord` message."""
    return b"".join(
        (
            _TIME + fixed64(max(0, event.time_ns)),
            _OBSERVED + fixed64(max(0, event.observed_ns)),
            _SEVERITY + varint(event.severity),
            text(_SEVERITY_TEXT, _TEXT[event.severity]),
            delimited(_BODY, any_value(event.body)) if event.body else b"",
            *(
                delimited(_ATTRIBUTES, _pair(name, value))
                for name, value in event.attributes.items()
            ),
            text(_EVENT_NAME, event.name),
        )
    )


def _pair(name: str, value: LogValue) -> bytes:
    return delimited(_KEY, name.encode("utf-8", "replace")) + delimited(_VALUE, _any(value))


def _any(value: LogValue) -> bytes:
    """An `AnyValue`, nested ones included."""
    if isinstance(value, (str, bool, int, float)):
        return any_value(value)
    if isinstance(value, Mapping):
        pairs = (delimited(_PAIRS, _pair(name, item)) for name, item in value.items())
        return delimited(_MAP, b"".join(pairs))
    return delimited(_ARRAY, b"".join(delimited(_VALUES, _any(item)) for item in value))


def room_for_records(resource: bytes, scope: bytes, max_bytes: int) -> int:
    """Bytes that encoded records may take together in one request; each costs `RECORD_FRAME` more."""
    keys = len(_RESOURCE_LOGS) + len(_RESOURCE) + len(_SCOPE_LOGS) + len(_SCOPE)
    return max_bytes - len(resource) - len(scope) - keys - 4 * MAX_LENGTH_PREFIX


def pack_records(records: Sequence[bytes], resource: bytes, scope: bytes) -> bytes:
    """One request of encoded records."""
    own_scope = delimited(_SCOPE, scope)
    scope_logs = b"".join((own_scope, *(delimited(_RECORDS, record) for record in records)))
    body = delimited(_RESOURCE, resource) + delimited(_SCOPE_LOGS, scope_logs)
    return delimited(_RESOURCE_LOGS, body)
