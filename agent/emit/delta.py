"""Cumulative points -> delta points: what was added since the receiver last accepted the series.

Invariants
1. Only `accept` moves a series' reference, and it is called with points of requests that a receiver
   accepted. A refused or abandoned export changes nothing: its rows are in the next delta.
2. A delta's start is the time of the last accepted point, or the series' own start before the first.
   So the accepted points of a series neither overlap nor leave a gap.
3. An export holds points of one start time a series: a new period is begun by the fold once the last
   point of the one before was accepted. So one reference a series is enough.
4. Buckets are compared at one scale: the reference is downscaled first. Scales never rise.

At least once: when a receiver took a request and its answer was lost, the same rows are sent again.
Sums that may fall, and gauges, pass through unchanged.

Memory: one reference point a series (a histogram's buckets included).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from agent.emit.otlp_metrics import Point, is_delta_instrument
from agent.emit.registry import spec_of
from agent.types import Attributes, HistogramPoint, Metric, NumberPoint

log = logging.getLogger(__name__)

Series = tuple[str, Attributes]


class DeltaConverter:
    """Holds the last accepted cumulative point of every series. Used by one owner at a time."""

    def __init__(self) -> None:
        self._accepted: dict[Series, Point] = {}
        self._sent: dict[Series, Point] = {}

    def convert(self, metrics: Iterable[Metric]) -> list[Metric]:
        """Delta points of `metrics`; series without news since the last acceptance are left out."""
        self._sent = {}
        out: list[Metric] = []
        for metric in metrics:
            if not is_delta_instrument(spec_of(metric.name).instrument):
                out.append(metric)
                continue
            points: list[Point] = []
            for point in metric.points:
                series = (metric.name, point.attributes)
                try:
                    delta = difference(point, self._accepted.get(series))
                except ValueError as error:  # a mistake of ours: lose this step, not the export
                    log.error("series %s is begun again: %s", series, error)
                    self._accepted[series] = _bare(point)
                    continue
                if delta is not None:
                    self._sent[series] = point
                    points.append(delta)
            if points:
                out.append(Metric(metric.name, points))  # type: ignore[arg-type]
        return out

    def accept(self, points: Iterable[tuple[str, Point]]) -> None:
        """The receiver took these delta points, which the last `convert` made."""
        for name, delta in points:
            series = (name, delta.attributes)
            cumulative = self._sent.pop(series, None)
            if cumulative is None:
                continue
            if cumulative.ended:
                self._accepted.pop(series, None)
            else:
                self._accepted[series] = _bare(cumulative)

    def __len__(self) -> int:
        return len(self._accepted)


def difference(point: Point, before: Point | None) -> Point | None:
    """What `point` has above `before`; None when nothing. A new start time begins again from zero.

    Raises ValueError when a count fell, or a scale rose, within one start time.
    """
    if point.ended:
        return point
    if before is None or before.start_ns != point.start_ns:
        return point
    if isinstance(point, HistogramPoint):
        assert isinstance(before, HistogramPoint)
        return _histogram_difference(point, before)
    assert isinstance(before, NumberPoint)
    value = point.value - before.value
    if value == 0:
        return None
    if value < 0:
        raise ValueError(f"value fell from {before.value} to {point.value} within one start time")
    return replace(point, value=value, start_ns=before.time_ns)


def _histogram_difference(point: HistogramPoint, before: HistogramPoint) -> HistogramPoint | None:
    if point.count == before.count:
        return None
    steps = before.scale - point.scale
    if steps < 0:
        raise ValueError(f"scale rose from {before.scale} to {point.scale} within one start time")
    positive_offset, positive = _subtract(
        point.positive_offset,
        point.positive,
        *downscale(before.positive_offset, before.positive, steps),
    )
    negative_offset, negative = _subtract(
        point.negative_offset,
        point.negative,
        *downscale(before.negative_offset, before.negative, steps),
    )
    total = None if point.sum is None or before.sum is None else point.sum - before.sum
    return replace(
        point,
        start_ns=before.time_ns,
        count=point.count - before.count,
        sum=total,
        zero_count=point.zero_count - before.zero_count,
        positive_offset=positive_offset,
        positive=positive,
        negative_offset=negative_offset,
        negative=negative,
    )


def downscale(
    offset: int, counts: NDArray[np.uint64], steps: int
) -> tuple[int, NDArray[np.uint64]]:
    """Buckets of a scale lower by `steps`: bucket i goes to i >> steps, exactly."""
    if steps == 0 or counts.size == 0:
        return offset >> steps, counts
    first = offset >> steps
    index = ((np.arange(counts.size) + offset) >> steps) - first
    out = np.zeros(int(index[-1]) + 1, np.uint64)
    np.add.at(out, index, counts)
    return first, out


def _subtract(
    offset: int, counts: NDArray[np.uint64], before_offset: int, before: NDArray[np.uint64]
) -> tuple[int, NDArray[np.uint64]]:
    """Bucket-wise `counts - before`, trimmed of empty ends. Counts never fall, so none is negative."""
    out = counts.copy()
    occupied = np.flatnonzero(before)
    if occupied.size:
        at = occupied + (before_offset - offset)
        if at[0] < 0 or at[-1] >= out.size or bool((out[at] < before[occupied]).any()):
            raise ValueError("bucket counts fell within one start time")
        out[at] -= before[occupied]
    occupied = np.flatnonzero(out)
    if occupied.size == 0:
        return 0, np.zeros(0, np.uint64)
    first, last = int(occupied[0]), int(occupied[-1])
    return offset + first, out[first : last + 1]


def _bare(point: Point) -> Point:
    return replace(point, exemplars=()) if isinstance(point, HistogramPoint) else point
