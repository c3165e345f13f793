"""Spans -> bytes of ExportTraceServiceRequest, split below the receiver's limit.

Two kinds: request spans rebuilt from events (`types.RequestSpan`), and the agent's own spans, made
by the OpenTelemetry SDK's tracer. Both are encoded here: the SDK's encoder leaves out the sampled
flag and the links' trace state.

Cost: about 9 us a request span with ten attributes (`docs/decisions/0004-export.md`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1 import trace_pb2 as pb
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, StatusCode

from agent.emit.wire import (
    FIXED32,
    FIXED64,
    LENGTH,
    MAX_LENGTH_PREFIX,
    VARINT,
    Value,
    attribute,
    attributes,
    delimited,
    fixed32,
    fixed64,
    tag,
    text,
    varint,
)
from agent.types import RequestSpan

#: Marks spans that were made from an event after the fact, not by the service itself.
RECONSTRUCTED = "inferometer.reconstructed"

SAMPLED: Final = 0x1
HAS_IS_REMOTE: Final = int(pb.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK)
IS_REMOTE: Final = int(pb.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK)

_RESOURCE_SPANS = tag(ExportTraceServiceRequest, "resource_spans", LENGTH)
_RESOURCE = tag(pb.ResourceSpans, "resource", LENGTH)
_SCOPE_SPANS = tag(pb.ResourceSpans, "scope_spans", LENGTH)
_SCOPE = tag(pb.ScopeSpans, "scope", LENGTH)
_SPANS = tag(pb.ScopeSpans, "spans", LENGTH)

_S = pb.Span
_TRACE_ID = tag(_S, "trace_id", LENGTH)
_SPAN_ID = tag(_S, "span_id", LENGTH)
_TRACE_STATE = tag(_S, "trace_state", LENGTH)
_PARENT = tag(_S, "parent_span_id", LENGTH)
_FLAGS = tag(_S, "flags", FIXED32)
_NAME = tag(_S, "name", LENGTH)
_KIND = tag(_S, "kind", VARINT)
_START = tag(_S, "start_time_unix_nano", FIXED64)
_END = tag(_S, "end_time_unix_nano", FIXED64)
_ATTRIBUTES = tag(_S, "attributes", LENGTH)
_EVENTS = tag(_S, "events", LENGTH)
_LINKS = tag(_S, "links", LENGTH)
_STATUS = tag(_S, "status", LENGTH)
_L_TRACE_ID = tag(_S.Link, "trace_id", LENGTH)
_L_SPAN_ID = tag(_S.Link, "span_id", LENGTH)
_L_TRACE_STATE = tag(_S.Link, "trace_state", LENGTH)
_L_ATTRIBUTES = tag(_S.Link, "attributes", LENGTH)
_L_FLAGS = tag(_S.Link, "flags", FIXED32)
_E_TIME = tag(_S.Event, "time_unix_nano", FIXED64)
_E_NAME = tag(_S.Event, "name", LENGTH)
_E_ATTRIBUTES = tag(_S.Event, "attributes", LENGTH)
_STATUS_MESSAGE = tag(pb.Status, "message", LENGTH)
_STATUS_CODE = tag(pb.Status, "code", VARINT)

_INTERNAL = _KIND + varint(int(_S.SPAN_KIND_INTERNAL))
_ERROR = _STATUS_CODE + varint(int(pb.Status.STATUS_CODE_ERROR))
_OK = _STATUS_CODE + varint(int(pb.Status.STATUS_CODE_OK))
_MARK = attribute(_ATTRIBUTES, RECONSTRUCTED, True)
_REMOTE_PARENT_FLAGS = _FLAGS + fixed32(SAMPLED | HAS_IS_REMOTE | IS_REMOTE)
_NO_PARENT_FLAGS = _FLAGS + fixed32(SAMPLED | HAS_IS_REMOTE)
_REMOTE_LINK_FLAGS = _L_FLAGS + fixed32(HAS_IS_REMOTE | IS_REMOTE)


def encode_request_span(span: RequestSpan) -> bytes:
    """The `Span` message of a request rebuilt from an event. It carries no feature or prediction value."""
    stream = span.stream
    pairs: dict[str, Value] = {
        "inference.model.name": stream.model,
        "inferometer.why": span.why.value,
        "messaging.destination.name": span.partition.topic,
        "messaging.destination.partition.id": str(span.partition.partition),
        "messaging.kafka.offset": span.offset,
        "inferometer.row": span.row,
    }
    if stream.version:
        pairs["inference.model.version"] = stream.version
    for name, value in stream.segment:
        pairs[f"inference.segment.{name}"] = value
    if span.request_id:
        pairs["inference.request.id"] = span.request_id
    if span.out_of_range:
        pairs["inference.out_of_range"] = tuple(
            f"{column.role.value}.{column.name}" for column in span.out_of_range
        )
    if span.status:
        pairs["error.type"] = span.status
    parts = [
        delimited(_TRACE_ID, span.trace_id),
        delimited(_SPAN_ID, span.span_id),
        text(_TRACE_STATE, span.trace_state),
        delimited(_PARENT, span.parent_span_id) + _REMOTE_PARENT_FLAGS
        if span.parent_span_id
        else _NO_PARENT_FLAGS,
        text(_NAME, f"inference {stream.model}"),
        _INTERNAL,
        _START + fixed64(max(0, span.start_ns)),
        _END + fixed64(max(0, span.end_ns)),
        _MARK,
        attributes(_ATTRIBUTES, pairs),
    ]
    if span.link is not None:
        trace_id, span_id = span.link
        link = delimited(_L_TRACE_ID, trace_id) + delimited(_L_SPAN_ID, span_id)
        parts.append(delimited(_LINKS, link + _REMOTE_LINK_FLAGS))
    if span.status:
        parts.append(delimited(_STATUS, text(_STATUS_MESSAGE, span.status) + _ERROR))
    return b"".join(parts)


def encode_own_span(span: ReadableSpan) -> bytes:
    """The `Span` message of a finished span of the SDK's tracer."""
    context, parent = span.get_span_context(), span.parent
    assert context is not None
    parts = [
        _ids(_TRACE_ID, _SPAN_ID, context),
        text(_TRACE_STATE, context.trace_state.to_header()),
        b"" if parent is None else delimited(_PARENT, parent.span_id.to_bytes(8, "big")),
        _FLAGS + fixed32(int(context.trace_flags) | _remote(parent)),
        text(_NAME, span.name),
        _KIND + varint(span.kind.value + 1),  # the message's enumeration begins with UNSPECIFIED
        _START + fixed64(span.start_time or 0),
        _END + fixed64(span.end_time or 0),
        attributes(_ATTRIBUTES, _values(span.attributes)),
    ]
    for event in span.events:
        payload = _E_TIME + fixed64(event.timestamp) + text(_E_NAME, event.name)
        parts.append(
            delimited(_EVENTS, payload + attributes(_E_ATTRIBUTES, _values(event.attributes)))
        )
    for link in span.links:
        payload = (
            _ids(_L_TRACE_ID, _L_SPAN_ID, link.context)
            + text(_L_TRACE_STATE, link.context.trace_state.to_header())
            + attributes(_L_ATTRIBUTES, _values(link.attributes))
            + _L_FLAGS
            + fixed32(int(link.context.trace_flags) | _remote(link.context))
        )
        parts.append(delimited(_LINKS, payload))
    if span.status.status_code is not StatusCode.UNSET:
        code = _ERROR if span.status.status_code is StatusCode.ERROR else _OK
        parts.append(
            delimited(_STATUS, text(_STATUS_MESSAGE, span.status.description or "") + code)
        )
    return b"".join(parts)


def pack_spans(
    spans: Iterable[bytes], resource: bytes, scope: bytes, *, max_bytes: int
) -> tuple[list[tuple[bytes, int]], int]:
    """Encoded spans -> requests below `max_bytes`, each with its number of spans; and how many were too large."""
    head = delimited(_RESOURCE, resource)
    around = delimited(_SCOPE, scope)
    room = max_bytes - len(head) - len(around) - 2 * (1 + MAX_LENGTH_PREFIX)
    requests: list[tuple[bytes, int]] = []
    open_spans: list[bytes] = []
    used = n_dropped = 0

    def close() -> None:
        if open_spans:
            scope_spans = delimited(_SCOPE_SPANS, b"".join((around, *open_spans)))
            requests.append((delimited(_RESOURCE_SPANS, head + scope_spans), len(open_spans)))
            open_spans.clear()

    for span in spans:
        payload = delimited(_SPANS, span)
        if len(payload) > room:
            n_dropped += 1
            continue
        if used + len(payload) > room:
            close()
            used = 0
        open_spans.append(payload)
        used += len(payload)
    close()
    return requests, n_dropped


def _ids(trace_key: bytes, span_key: bytes, context: SpanContext) -> bytes:
    return delimited(trace_key, context.trace_id.to_bytes(16, "big")) + delimited(
        span_key, context.span_id.to_bytes(8, "big")
    )


def _remote(context: SpanContext | None) -> int:
    return HAS_IS_REMOTE | (IS_REMOTE if context is not None and context.is_remote else 0)


def _values(given: object) -> dict[str, Value]:
    """Attributes of the SDK as values of `wire`: sequences become texts."""
    out: dict[str, Value] = {}
    for name, value in dict(given or {}).items():  # type: ignore[call-overload]
        if isinstance(value, str | bool | int | float):
            out[name] = value
        elif isinstance(value, Sequence):
            out[name] = tuple(str(item) for item in value)
    return out
