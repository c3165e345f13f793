"""Base -> points: which series a stream has, and what they say now.

stream        rows, errors, late, future; of the last sealed window: rows, start, coverage
column        missing; once its kind is decided the counters, histogram and gauges of that kind
model         labels

The fold's own numbers are in `account`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

import numpy as np

from agent.fold.head import Head, read_heads
from agent.fold.histograms import HistogramSeries
from agent.fold.kinds import is_string_kind
from agent.fold.profile import Facts
from agent.fold.series import Ended, Out, Phases, Series
from agent.fold.shown import Shown
from agent.fold.store import Store
from agent.fold.streams import ColumnTotals, Stream
from agent.sketch.cells import CellPages
from agent.sketch.histogram import ZERO_THRESHOLD
from agent.types import (
    Attributes,
    Column,
    HistogramPoint,
    Kind,
    Metric,
    NumberPoint,
    Role,
    StreamKey,
)

STREAM_COUNTERS: Final = (
    "inference.rows",
    "inference.errors",
    "inference.rows.late",
    "inference.rows.future",
)
STREAM_GAUGES: Final = (
    "inference.window.rows",
    "inference.window.start",
    "inference.window.coverage",
)
_COUNTERS: Final = {
    Kind.NUMERIC: ("violations", "non_finite", "over_range"),
    Kind.VECTOR: ("violations", "non_finite", "over_range"),
    Kind.BOOLEAN: ("violations", "true"),
    Kind.CATEGORICAL: ("violations",),
    Kind.TEXT: ("violations",),
}
# In the order of `profile.Facts`.
_GAUGES: Final = {
    Kind.NUMERIC: ("distinct", "min", "max"),
    Kind.VECTOR: ("min", "max"),
    Kind.CATEGORICAL: ("distinct",),
    Kind.TEXT: ("distinct",),
}
_FAMILY: Final = {Role.FEATURE: "inference.feature", Role.PREDICTION: "inference.prediction"}
_OWN_ATTRIBUTE: Final = {
    Role.FEATURE: "inference.feature.name",
    Role.PREDICTION: "inference.prediction.output",
}


def stream_attributes(key: StreamKey) -> Attributes:
    """Sorted attributes of a stream; the version is left out when there is none."""
    named = {"inference.model.name": key.model}
    if key.version:
        named["inference.model.version"] = key.version
    for name, value in key.segment:
        named[f"inference.segment.{name}"] = value
    return tuple(sorted(named.items()))


def _with(attributes: Attributes, name: str, value: str) -> Attributes:
    return tuple(sorted((*attributes, (name, value))))


def column_attributes(stream: Attributes, column: Column) -> Attributes:
    """Sorted attributes of a column's series."""
    own = _OWN_ATTRIBUTE.get(column.role)
    if own is not None:
        return _with(stream, own, column.name)
    if column.role is Role.USAGE and column.name != "ttft":
        return _with(stream, "inference.usage.type", column.name.removesuffix("_tokens"))
    return stream


def histogram_name(column: Column) -> tuple[str, str | None]:
    """Names of a column's histogram, and of the sum beside it."""
    match column.role:
        case Role.LATENCY:
            return "inference.latency", None
        case Role.USAGE:
            usage = "ttft" if column.name == "ttft" else "tokens"
            return f"inference.usage.{usage}", None
        case _:
            family = _FAMILY[column.role]
            return f"{family}.value", f"{family}.sum"


class Lives:
    """Begins series: at the last export's time, each with a phase of its own."""

    def __init__(self, start_ns: int, resend_interval_s: float) -> None:
        self.start_ns = start_ns
        self.phases = Phases(resend_interval_s)

    def counters(self, names: tuple[str, ...], attributes: Attributes) -> Series:
        return Series(names, attributes, self.start_ns, self.phases.next())

    def gauges(self, names: tuple[str, ...], attributes: Attributes) -> Series:
        return Series(names, attributes, 0, self.phases.next())

    def begin_stream(self, stream: Stream) -> None:
        stream.counters = self.counters(STREAM_COUNTERS, stream.attributes)
        stream.gauges = self.gauges(STREAM_GAUGES, stream.attributes)

    def begin_column(self, stream: Stream, total: ColumnTotals) -> None:
        """A column has been found: its missing values are counted."""
        total.attributes = column_attributes(stream.attributes, total.column)
        family = _FAMILY.get(total.column.role)
        if family is not None:
            total.missing = self.counters((f"{family}.missing",), total.attributes)

    def begin_kind(self, total: ColumnTotals) -> None:
        """A column's kind is decided."""
        kind = total.kind
        assert kind is not None
        family = _FAMILY.get(total.column.role)
        if kind in (Kind.NUMERIC, Kind.VECTOR):
            name, sum_name = histogram_name(total.column)
            total.histogram = HistogramSeries(
                name,
                sum_name if kind is Kind.NUMERIC else None,
                total.attributes,
                self.start_ns,
                self.phases.next(),
            )
        if family is not None:
            total.counters = self.counters(
                tuple(f"{family}.{name}" for name in _COUNTERS[kind]), total.attributes
            )
            if kind in _GAUGES:
                total.gauges = self.gauges(
                    tuple(f"{family}.{name}" for name in _GAUGES[kind]), total.attributes
                )

    def category(self, total: ColumnTotals, value: str) -> Series:
        return category_gauge(total, value, self.phases.next())


def category_gauge(total: ColumnTotals, value: str, period_ns: int = 0) -> Series:
    name = f"{_FAMILY[total.column.role]}.category"
    attributes = _with(total.attributes, "inference.category.value", value)
    return Series((name,), attributes, 0, period_ns)


class Writer:
    """Writes one export or scrape of all streams."""

    def __init__(
        self, out: Out, lives: Lives, max_buckets: int, top_categories: int, shown: Shown
    ) -> None:
        self._out = out
        self._lives = lives
        self._max_buckets = max_buckets
        self._top = top_categories
        self._shown = shown
        self._histograms: dict[str, list[HistogramPoint]] = {}
        self.n_series = 0

    def streams(self, streams: Iterable[Stream], store: Store) -> None:
        """All points of all streams."""
        streams = list(streams)
        heads = _heads(streams, store.totals, self._max_buckets)
        for stream in streams:
            self._stream(stream)
            for total in stream.columns.values():
                self._column(stream, total, heads.get(id(total)))

    def series(self, series: Series | None, values: tuple[int | float | None, ...]) -> None:
        if series is not None:
            self.n_series += series.write(values, self._out)

    def _stream(self, stream: Stream) -> None:
        self.series(stream.counters, _counts(stream))
        if stream.sealed:
            last = stream.sealed[-1]
            self.series(stream.gauges, (last.rows, last.start_ms / 1000.0, last.coverage))

    def _column(self, stream: Stream, total: ColumnTotals, head: Head | None) -> None:
        self.series(total.missing, (stream.rows - sum(total.present),))
        kind = total.kind
        if kind is None:
            return
        violated = total.violations()
        if head is not None and total.histogram is not None:
            points = self._histograms.setdefault(total.histogram.name, [])
            exemplars = total.exemplars if self._out.is_export else total.recent
            self.n_series += total.histogram.write(head, exemplars, self._out, points)
        if kind is Kind.BOOLEAN:
            true = head.count - head.zeros if head is not None else 0
            self.series(total.counters, (violated, true))
        elif is_string_kind(kind):
            self.series(total.counters, (violated,))
        else:
            bad, over = (head.non_finite, head.over_range) if head is not None else (0, 0)
            self.series(total.counters, (violated, bad, over))
        self._sealed(stream, total)

    def _sealed(self, stream: Stream, total: ColumnTotals) -> None:
        """Gauges of the last sealed window."""
        if not stream.sealed:
            return
        kind = total.kind
        in_window = stream.sealed[-1].columns.get(total.column)
        if in_window is not None and in_window.kind is not kind:
            in_window = None  # sealed before the kind was decided
        facts = in_window.facts if in_window is not None else Facts()
        if total.gauges is not None:
            match kind:
                case Kind.NUMERIC:
                    self.series(total.gauges, facts)
                case Kind.VECTOR:
                    self.series(total.gauges, facts[1:])
                case _:
                    self.series(total.gauges, facts[:1])
        if kind is Kind.CATEGORICAL and self._top:
            top = in_window.top(self._top, self._shown.at_least) if in_window is not None else []
            self._categories(total, self._shown.texts(total.column, top))

    def _categories(self, total: ColumnTotals, top: list[tuple[str, int]]) -> None:
        counts: dict[str, int] = {}
        for text, count in top:  # texts cut to the same 56 bytes are one category here
            counts[text] = counts.get(text, 0) + count
        if not self._out.is_export:  # without an exporter nothing would ever take an entry away
            for text, count in counts.items():
                self.series(category_gauge(total, text), (count,))
            return
        for text in counts:
            if text not in total.categories:
                total.categories[text] = self._lives.category(total, text)
        for text, series in list(total.categories.items()):
            self.series(series, (counts.get(text),))
            if text not in counts and series.is_over:
                del total.categories[text]

    def metrics(self, ended: Collection[Ended]) -> list[Metric]:
        """What was written, and (in an export) the ends of series that have not come back."""
        out = self._out
        if out.is_export and ended:
            back = {
                (name, point.attributes) for name, points in out.points.items() for point in points
            }
            back |= {
                (name, point.attributes)
                for name, histograms in self._histograms.items()
                for point in histograms
            }
            for end in ended:
                end.offered = True
                if (end.name, end.attributes) in back:
                    continue
                if end.name in _HISTOGRAM_NAMES:
                    self._histograms.setdefault(end.name, []).append(_ended(end, out.time_ns))
                else:
                    out.add(
                        end.name,
                        NumberPoint(end.attributes, 0, end.start_ns, out.time_ns, ended=True),
                    )
        metrics = [Metric(name, points) for name, points in out.points.items()]
        metrics += [Metric(name, points) for name, points in self._histograms.items() if points]
        return metrics


_HISTOGRAM_NAMES: Final = frozenset(
    (
        "inference.latency",
        "inference.usage.tokens",
        "inference.usage.ttft",
        "inference.feature.value",
        "inference.prediction.value",
    )
)


_NONE: Final = np.zeros(0, np.uint64)


def _ended(end: Ended, time_ns: int) -> HistogramPoint:
    """The no-recorded-value point of a histogram."""
    return HistogramPoint(
        attributes=end.attributes,
        start_ns=end.start_ns,
        time_ns=time_ns,
        count=0,
        sum=None,
        scale=0,
        zero_count=0,
        zero_threshold=ZERO_THRESHOLD,
        positive_offset=0,
        positive=_NONE,
        negative_offset=0,
        negative=_NONE,
        ended=True,
    )


def _heads(streams: list[Stream], pages: CellPages, max_buckets: int) -> dict[int, Head]:
    """Every wide cell, read at once; by id() of its column."""
    totals = [
        total
        for stream in streams
        for total in stream.columns.values()
        if total.cell >= 0 and total.kind is not None and not is_string_kind(total.kind)
    ]
    scales = [t.histogram.scale if t.histogram is not None else 0 for t in totals]
    heads = read_heads(pages, [t.cell for t in totals], scales, max_buckets)
    return {id(total): head for total, head in zip(totals, heads, strict=True)}


def series_of(stream: Stream) -> list[Series | HistogramSeries]:
    """Every series of a stream, columns included."""
    out: list[Series | HistogramSeries | None] = [stream.counters, stream.gauges]
    for total in stream.columns.values():
        out += [total.missing, total.counters, total.histogram, total.gauges]
        out += total.categories.values()
    return [series for series in out if series is not None]


def _counts(stream: Stream) -> tuple[int, int, int, int]:
    """In the order of `STREAM_COUNTERS`."""
    return stream.rows, stream.errors, stream.late, stream.future


def is_owed(stream: Stream) -> bool:
    """Whether an export is still to bring rows of this stream; never without an exporter."""
    return stream.counters is not None and stream.counters.is_owed(_counts(stream))


def accept_stream(stream: Stream, time_ns: int) -> None:
    """The last export of this stream has arrived."""
    for series in (stream.counters, stream.gauges):
        if series is not None:
            series.accepted(time_ns)
    for total in stream.columns.values():
        for series in (total.missing, total.counters, total.gauges, *total.categories.values()):
            if series is not None:
                series.accepted(time_ns)
        if total.histogram is not None:
            for exemplar in total.histogram.accepted(time_ns):
                if exemplar in total.exemplars:
                    total.exemplars.remove(exemplar)
