"""A verdict as a CloudEvent 1.0 in structured JSON: what every action sends, and what recipes read.

`deploy/response/verdict.schema.json` is its schema. `id` is the verdict's identity: the same after a
crash, and from every agent that may take this one's place, so long as `source` is the same for them.

Source: CloudEvents specification 1.0.2, JSON event format, partitioning extension.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import orjson

from agent.emit.verdict_events import iso
from agent.types import Json
from agent.verdict import Cause, Verdict, identity, stream_json

#: Content type of one event in structured mode.
CONTENT_TYPE: Final = "application/cloudevents+json; charset=utf-8"
#: Followed by the state: receivers choose by type what they want to hear.
TYPE_PREFIX: Final = "inference.verdict."
#: Causes that are sent; the first one explains best.
MAX_CAUSES: Final = 20


@dataclass(frozen=True, slots=True)
class Event:
    """What an action sends. `body`: the CloudEvent's bytes, which signatures are made of."""

    id: str
    verdict: Verdict
    body: bytes


def event_of(verdict: Verdict, source: str) -> Event:
    """The event of a verdict. Numbers that JSON has no word for (infinite, NaN) are null."""
    document = cloud_event(verdict, source)
    return Event(document["id"], verdict, orjson.dumps(document))


def alarm_of(verdict: Verdict) -> str:
    """What all verdicts of one alarm share; of a verdict without one, what its monitor judges."""
    if verdict.alarm:
        return verdict.alarm
    parts = (verdict.monitor, *verdict.stream[:2], *(value for _, value in verdict.stream.segment))
    return "/".join(parts)


def cloud_event(verdict: Verdict, source: str) -> Json:
    """The CloudEvent as plain data. Extension attributes have names of lower-case letters alone."""
    stream = verdict.stream
    return {
        "specversion": "1.0",
        "id": identity(verdict),
        "source": source,
        "type": TYPE_PREFIX + verdict.state.value,
        "subject": "/".join(filter(None, (stream.model, stream.version))) or "unknown",
        "time": iso(verdict.window_end_ms),
        "datacontenttype": "application/json",
        "partitionkey": stream.model or "unknown",
        "severity": verdict.severity.value,
        "data": verdict_json(verdict),
    }


def verdict_json(verdict: Verdict) -> Json:
    """Everything a verdict says. Keys are always there; what has no value is null."""
    return {
        "monitor": verdict.monitor,
        "stream": stream_json(verdict.stream),
        "state": verdict.state.value,
        "previous": verdict.previous.value,
        "severity": verdict.severity.value,
        "alarm": verdict.alarm or None,
        "why": verdict.why,
        "window_start": iso(verdict.window_start_ms),
        "window_end": iso(verdict.window_end_ms),
        "metric": verdict.metric or None,
        "value": _number(verdict.value),
        "threshold": _number(verdict.threshold),
        "unit": verdict.unit,
        "feature": verdict.feature,
        "source": verdict.source,
        "rows": verdict.rows,
        "baseline": verdict.baseline or None,
        "minimum_effect": _number(verdict.minimum_effect),
        "attribution": [_cause(cause) for cause in verdict.attribution[:MAX_CAUSES]],
    }


def _cause(cause: Cause) -> Json:
    return {
        "statistic": cause.statistic,
        "score": _number(cause.score),
        "feature": cause.feature,
        "source": cause.source,
        "segment": dict(cause.segment) if cause.segment is not None else None,
        "share": _number(cause.share),
        "detail": cause.detail,
        "trace_ids": list(cause.trace_ids),
    }


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
