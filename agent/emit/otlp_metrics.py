"""Metrics -> bytes of ExportMetricsServiceRequest, split below the receiver's limit.

Invariants
1. A request has one ResourceMetrics with one ScopeMetrics (equal ones would overwrite each other in
   some receivers), and never more than `max_bytes`. A point that alone exceeds it is dropped, counted.
2. Sizes are upper bounds until a request is closed, so that no point is encoded twice.

Points themselves are `otlp_points`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.metrics.v1 import metrics_pb2 as pb

from agent.emit.otlp_points import PointEncoder
from agent.emit.registry import Instrument, MetricSpec, spec_of
from agent.emit.wire import LENGTH, MAX_LENGTH_PREFIX, VARINT, delimited, tag, text, varint
from agent.types import HistogramPoint, Metric, NumberPoint

Point = NumberPoint | HistogramPoint

_RESOURCE_METRICS = tag(ExportMetricsServiceRequest, "resource_metrics", LENGTH)
_RESOURCE = tag(pb.ResourceMetrics, "resource", LENGTH)
_SCOPE_METRICS = tag(pb.ResourceMetrics, "scope_metrics", LENGTH)
_SCOPE = tag(pb.ScopeMetrics, "scope", LENGTH)
_METRICS = tag(pb.ScopeMetrics, "metrics", LENGTH)
_NAME = tag(pb.Metric, "name", LENGTH)
_DESCRIPTION = tag(pb.Metric, "description", LENGTH)
_UNIT = tag(pb.Metric, "unit", LENGTH)
_SUM = tag(pb.Metric, "sum", LENGTH)
_GAUGE = tag(pb.Metric, "gauge", LENGTH)
_HISTOGRAM = tag(pb.Metric, "exponential_histogram", LENGTH)

_DATA: Final = {
    Instrument.COUNTER: tag(pb.Sum, "data_points", LENGTH),
    Instrument.UPDOWNCOUNTER: tag(pb.Sum, "data_points", LENGTH),
    Instrument.GAUGE: tag(pb.Gauge, "data_points", LENGTH),
    Instrument.EXP_HISTOGRAM: tag(pb.ExponentialHistogram, "data_points", LENGTH),
}
_KIND: Final = {
    Instrument.COUNTER: _SUM,
    Instrument.UPDOWNCOUNTER: _SUM,
    Instrument.GAUGE: _GAUGE,
    Instrument.EXP_HISTOGRAM: _HISTOGRAM,
}
_SUM_TEMPORALITY = tag(pb.Sum, "aggregation_temporality", VARINT)
_SUM_MONOTONIC = tag(pb.Sum, "is_monotonic", VARINT)
_HISTOGRAM_TEMPORALITY = tag(pb.ExponentialHistogram, "aggregation_temporality", VARINT)


@dataclass(slots=True)
class Body:
    """One request: its bytes, and what is in it.

    `points` are the (metric name, point) pairs in it, kept only when asked for (delta temporality
    must know which series a receiver accepted).
    """

    data: bytes
    n_points: int
    points: list[tuple[str, Point]] = field(default_factory=list)


@dataclass(slots=True)
class Encoded:
    """All requests of one export. `n_dropped` points were larger than a request may be."""

    bodies: list[Body]
    n_dropped: int = 0

    @property
    def n_points(self) -> int:
        """Points in the requests."""
        return sum(body.n_points for body in self.bodies)

    @property
    def size_bytes(self) -> int:
        """Bytes of all requests."""
        return sum(len(body.data) for body in self.bodies)


class MetricEncoder:
    """Encodes exports of one process; remembers the encoding of attributes from one to the next.

    `target_bytes` is where a request is closed when it can be, `max_bytes` what it never exceeds.
    Used by one thread at a time. Memory: about 150 bytes a series.
    """

    def __init__(
        self, resource: bytes, scope: bytes, *, max_bytes: int, target_bytes: int | None = None
    ) -> None:
        self._head = delimited(_RESOURCE, resource)
        self._scope = delimited(_SCOPE, scope)
        self._max_bytes = max_bytes
        self._target_bytes = max_bytes if target_bytes is None else min(target_bytes, max_bytes)
        self._points = PointEncoder()

    def encode(
        self, metrics: Iterable[Metric], *, is_delta: bool = False, keep_points: bool = False
    ) -> Encoded:
        """Encode `metrics`; raises RegistryError on a name that is not registered."""
        self._points.begin()
        packer = _Packer(self._head, self._scope, self._max_bytes, self._target_bytes)
        for metric in metrics:
            spec = spec_of(metric.name)
            packer.begin(_metric_frame(spec, is_delta))
            key = _DATA[spec.instrument]
            for point, payload in self._points.encode(metric.points):
                packer.add(delimited(key, payload), (spec.name, point) if keep_points else None)
        return Encoded(packer.close(), packer.n_dropped)


def is_delta_instrument(instrument: Instrument) -> bool:
    """Whether `delta` applies: a sum that may fall stays cumulative, as in the SDK's preference."""
    return instrument in (Instrument.COUNTER, Instrument.EXP_HISTOGRAM)


# ---------------------------------------------------------------- frames and requests


@dataclass(frozen=True, slots=True)
class _Frame:
    """What surrounds the points of one metric: `head` (name ...), then `kind` around points and `tail`."""

    head: bytes
    kind: bytes
    tail: bytes

    @property
    def size_bytes(self) -> int:
        """Upper bound of the bytes around the points."""
        keys = len(_METRICS) + len(self.kind) + 2 * MAX_LENGTH_PREFIX
        return keys + len(self.head) + len(self.tail)

    def close(self, points: list[bytes]) -> bytes:
        data = delimited(self.kind, b"".join((*points, self.tail)))
        return delimited(_METRICS, self.head + data)


def _metric_frame(spec: MetricSpec, is_delta: bool) -> _Frame:
    is_delta = is_delta and is_delta_instrument(spec.instrument)
    temporality = varint(
        int(pb.AGGREGATION_TEMPORALITY_DELTA if is_delta else pb.AGGREGATION_TEMPORALITY_CUMULATIVE)
    )
    tail = b""
    if spec.instrument is Instrument.EXP_HISTOGRAM:
        tail = _HISTOGRAM_TEMPORALITY + temporality
    elif spec.instrument is not Instrument.GAUGE:
        tail = _SUM_TEMPORALITY + temporality
        if spec.instrument is Instrument.COUNTER:
            tail += _SUM_MONOTONIC + b"\x01"
    head = text(_NAME, spec.name) + text(_DESCRIPTION, spec.description) + text(_UNIT, spec.unit)
    return _Frame(head, _KIND[spec.instrument], tail)


class _Packer:
    """Fills requests greedily. Sizes are upper bounds, so a closed request never exceeds the limit."""

    def __init__(self, head: bytes, scope: bytes, max_bytes: int, target_bytes: int) -> None:
        self._head, self._scope = head, scope
        keys = len(_RESOURCE_METRICS) + len(_SCOPE_METRICS) + 2 * MAX_LENGTH_PREFIX
        self._room = max_bytes - len(head) - len(scope) - keys
        self._target = target_bytes - len(head) - len(scope) - keys
        self._bodies: list[Body] = []
        self._closed: list[bytes] = []  # metrics of the open request
        self._open: list[bytes] = []  # points of the open metric
        self._frame: _Frame | None = None
        self._used = 0  # bytes of the open request, open metric included
        self._n_points = 0
        self._kept: list[tuple[str, Point]] = []
        self.n_dropped = 0

    def begin(self, frame: _Frame) -> None:
        self._close_metric()
        self._frame = frame

    def add(self, payload: bytes, kept: tuple[str, Point] | None) -> None:
        assert self._frame is not None
        needed = len(payload) + (0 if self._open else self._frame.size_bytes)
        if self._used + needed > self._target:
            frame = self._frame
            needed = len(payload) + frame.size_bytes
            if needed > self._room:
                self.n_dropped += 1
                return
            self._close_request()
            self._frame = frame
        self._open.append(payload)
        self._used += needed
        self._n_points += 1
        if kept is not None:
            self._kept.append(kept)

    def close(self) -> list[Body]:
        self._close_request()
        return self._bodies

    def _close_metric(self) -> None:
        if self._open and self._frame is not None:
            self._closed.append(self._frame.close(self._open))
        self._open, self._frame = [], None

    def _close_request(self) -> None:
        self._close_metric()
        if self._closed:
            scope_metrics = delimited(_SCOPE_METRICS, b"".join((self._scope, *self._closed)))
            data = delimited(_RESOURCE_METRICS, self._head + scope_metrics)
            self._bodies.append(Body(data, self._n_points, self._kept))
        self._closed, self._kept = [], []
        self._used = self._n_points = 0
