"""A verdict as an OpenTelemetry event: `inference.verdict`.

All that programs read is in the attributes, as the semantic conventions for events ask; the body is one
sentence for people. The attribute names are those of the metrics where both have them.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from agent.emit.otlp_logs import ERROR, INFO, WARN, LogEvent, LogValue
from agent.types import StreamKey
from agent.verdict import Cause, Severity, State, Verdict, identity

VERDICT_EVENT: Final = "inference.verdict"
#: Of semantic conventions: a consumer may remove records whose uid it has seen.
UID: Final = "log.record.uid"

_FIRING: Final = {Severity.PAGE: ERROR, Severity.TICKET: WARN, Severity.INFO: INFO}


def verdict_event(verdict: Verdict, observed_ns: int) -> LogEvent:
    """The event of a verdict. Its time is the end of the window that was judged."""
    return LogEvent(
        VERDICT_EVENT,
        time_ns=verdict.window_end_ms * 1_000_000,
        observed_ns=observed_ns,
        severity=severity_number(verdict),
        body=verdict.why,
        attributes=_attributes(verdict),
    )


def severity_number(verdict: Verdict) -> int:
    """ERROR for what pages, WARN for what makes a ticket or can no longer be seen, else INFO."""
    if verdict.state is State.FIRING:
        return _FIRING[verdict.severity]
    if verdict.state is State.BLIND and verdict.severity is not Severity.INFO:
        return WARN
    return INFO


def stream_attributes(stream: StreamKey) -> dict[str, str]:
    """Attributes that name a stream, as on metrics."""
    found = {"inference.model.name": stream.model}
    if stream.version:
        found["inference.model.version"] = stream.version
    return found | {f"inference.segment.{name}": value for name, value in stream.segment}


def iso(time_ms: int) -> str:
    """Epoch milliseconds as RFC 3339 in UTC; a time that no calendar has becomes its nearest end."""
    bounded = min(max(time_ms, -62_135_596_800_000), 253_402_300_799_999)
    at = datetime.fromtimestamp(bounded // 1000, UTC).replace(microsecond=bounded % 1000 * 1000)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _attributes(verdict: Verdict) -> dict[str, LogValue]:
    own = "inference.verdict"
    found: dict[str, LogValue | None] = {
        UID: identity(verdict),
        **stream_attributes(verdict.stream),
        "inference.monitor.name": verdict.monitor,
        "inference.feature.name": verdict.feature,
        "inference.source.name": verdict.source,
        f"{own}.state": verdict.state.value,
        f"{own}.previous_state": verdict.previous.value,
        f"{own}.severity": verdict.severity.value,
        f"{own}.alarm": verdict.alarm or None,
        f"{own}.metric": verdict.metric or None,
        f"{own}.value": verdict.value,
        f"{own}.threshold": verdict.threshold,
        f"{own}.unit": verdict.unit,
        f"{own}.minimum_effect": verdict.minimum_effect,
        f"{own}.rows": verdict.rows,
        f"{own}.baseline": verdict.baseline or None,
        f"{own}.window_start": iso(verdict.window_start_ms),
        f"{own}.window_end": iso(verdict.window_end_ms),
        f"{own}.trace_ids": list(trace_ids(verdict)) or None,
        f"{own}.attribution": [_cause(cause) for cause in verdict.attribution] or None,
    }
    return {name: value for name, value in found.items() if value is not None}


def trace_ids(verdict: Verdict) -> tuple[str, ...]:
    """Requests to look at, those of the best cause first. A log record has room for one trace only, the one that it
    was written in; so they are an attribute of their own, where a viewer can make links of them."""
    return tuple(dict.fromkeys(id for cause in verdict.attribution for id in cause.trace_ids))


def _cause(cause: Cause) -> dict[str, LogValue]:
    found: dict[str, LogValue | None] = {
        "statistic": cause.statistic,
        "score": cause.score,
        "feature": cause.feature,
        "source": cause.source,
        "segment": dict(cause.segment) if cause.segment is not None else None,
        "share": cause.share,
        "detail": cause.detail or None,
        "trace_ids": list(cause.trace_ids) or None,
    }
    return {name: value for name, value in found.items() if value is not None}
