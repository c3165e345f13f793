"""Reading OTLP metrics back: one flat `Point` per data point, with the queries that tests ask."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AggregationTemporality,
    Metric,
    MetricsData,
)

CUMULATIVE = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
DELTA = AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA

SeriesKey = tuple[Any, ...]


@dataclass(frozen=True)
class Point:
    """One data point with everything that stands around it.

    `kind` is the name of the metric's field: sum, gauge, histogram, exponential_histogram, summary.
    `data` is the protobuf data point itself. `temporality` is 0 where the kind has none.
    """

    name: str
    unit: str
    kind: str
    temporality: int
    monotonic: bool
    attributes: Mapping[str, Any]
    resource: Mapping[str, Any]
    scope: str
    data: Any

    @property
    def series(self) -> SeriesKey:
        """Identity of the series: resource, scope, metric and attributes; not the start time."""
        return (
            _hashable(self.resource),
            self.scope,
            self.name,
            self.kind,
            _hashable(self.attributes),
        )

    @property
    def value(self) -> float:
        """The number of a sum or gauge; the count of a histogram."""
        if self.kind in ("sum", "gauge"):
            return float(getattr(self.data, self.data.WhichOneof("value")))
        return float(self.data.count)

    @property
    def start_ns(self) -> int:
        return int(self.data.start_time_unix_nano)

    @property
    def time_ns(self) -> int:
        return int(self.data.time_unix_nano)

    def __str__(self) -> str:
        labels = ",".join(f"{k}={v}" for k, v in sorted(self.attributes.items()))
        return f"{self.name}{{{labels}}}"


class Points(list[Point]):
    """Points in the order of arrival; every filter returns the same kind of list."""

    def named(self, name: str, **attributes: Any) -> "Points":
        """Those of one metric. Attribute names have `__` for `.`; the point may have more."""
        return self.with_attributes(
            {key.replace("__", "."): value for key, value in attributes.items()}, name=name
        )

    def with_attributes(self, wanted: Mapping[str, Any], *, name: str | None = None) -> "Points":
        return Points(
            point
            for point in self
            if (name is None or point.name == name)
            and all(point.attributes.get(key) == value for key, value in wanted.items())
        )

    def of_kind(self, kind: str) -> "Points":
        return Points(point for point in self if point.kind == kind)

    def sums(self) -> "Points":
        return self.of_kind("sum")

    def gauges(self) -> "Points":
        return self.of_kind("gauge")

    def histograms(self) -> "Points":
        return self.of_kind("histogram")

    def exponential_histograms(self) -> "Points":
        return self.of_kind("exponential_histogram")

    def names(self) -> set[str]:
        return {point.name for point in self}

    def by_series(self) -> dict[SeriesKey, "Points"]:
        found: dict[SeriesKey, Points] = {}
        for point in self:
            found.setdefault(point.series, Points()).append(point)
        return found

    def latest(self) -> "Points":
        """The newest point of each series, by its own time."""
        return Points(max(s, key=lambda p: p.time_ns) for s in self.by_series().values())

    def only(self) -> Point:
        """The newest point of the one series that is left; AssertionError when there is not one."""
        latest = self.latest()
        assert len(latest) == 1, f"{len(latest)} series, not one: {[str(p) for p in latest]}"
        return latest[0]

    def total(self) -> float:
        """What was counted in all: sum of deltas; of cumulative series the last of each start."""
        last: dict[tuple[SeriesKey, int], Point] = {}
        total = 0.0
        for point in self:
            if point.temporality == DELTA:
                total += point.value
                continue
            key = (point.series, point.start_ns)
            if key not in last or point.time_ns >= last[key].time_ns:
                last[key] = point
        return total + sum(point.value for point in last.values())


def read_points(message: ExportMetricsServiceRequest | MetricsData) -> Iterator[Point]:
    for of_resource in message.resource_metrics:
        resource = attributes_of(of_resource.resource.attributes)
        for of_scope in of_resource.scope_metrics:
            for metric in of_scope.metrics:
                yield from _points_of(metric, resource, of_scope.scope.name)


def _points_of(metric: Metric, resource: Mapping[str, Any], scope: str) -> Iterator[Point]:
    kind = metric.WhichOneof("data")
    if kind is None:
        return
    body = getattr(metric, kind)
    for data in body.data_points:
        yield Point(
            name=metric.name,
            unit=metric.unit,
            kind=kind,
            temporality=getattr(body, "aggregation_temporality", 0),
            monotonic=getattr(body, "is_monotonic", False),
            attributes=attributes_of(data.attributes),
            resource=resource,
            scope=scope,
            data=data,
        )


def attributes_of(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    """Attributes as plain Python; AssertionError for a repeated key, which OTLP forbids."""
    found: dict[str, Any] = {}
    for pair in pairs:
        assert pair.key not in found, f"attribute {pair.key} is given twice"
        found[pair.key] = any_value(pair.value)
    return found


def any_value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [any_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return attributes_of(value.kvlist_value.values)
    return getattr(value, kind)


def _hashable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return tuple(sorted((key, _hashable(item)) for key, item in value.items()))
    if isinstance(value, list):
        return tuple(_hashable(item) for item in value)
    return value
