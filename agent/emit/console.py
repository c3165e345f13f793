"""A summary of each export as a short table on stderr: for a first look, not for machines."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from typing import Final, TextIO

import numpy as np

from agent.types import Attributes, HistogramPoint, Metric, NumberPoint, Snapshot

#: Streams shown; the busiest come first.
MAX_ROWS: Final = 20

_HEADER: Final = ("model", "version", "segment", "rows", "+rows", "errors", "p50 ms", "p99 ms")
_SEGMENT = "inference.segment."


class Console:
    """Prints snapshots; remembers the row counts of the last one, to show what was added."""

    def __init__(self, write: Callable[[str], object] | None = None) -> None:
        self._write = write or _stderr(sys.stderr)
        self._rows: dict[Attributes, int | float] = {}

    def show(self, snapshot: Snapshot) -> None:
        """Print one table."""
        self._write(self.table(snapshot))

    def table(self, snapshot: Snapshot) -> str:
        """The table as text, ending in a line end."""
        rows, errors = _values(snapshot, "inference.rows"), _values(snapshot, "inference.errors")
        latency = {
            p.attributes: p
            for p in _points(snapshot.metrics, "inference.latency")
            if isinstance(p, HistogramPoint)
        }
        lines = [_HEADER]
        busiest = sorted(rows, key=lambda stream: -rows[stream])
        for stream in busiest[:MAX_ROWS]:
            names = dict(stream)
            segment = ",".join(
                f"{name.removeprefix(_SEGMENT)}={value}"
                for name, value in stream
                if name.startswith(_SEGMENT)
            )
            point = latency.get(stream)
            lines.append(
                (
                    str(names.get("inference.model.name", "")),
                    str(names.get("inference.model.version", "")),
                    segment,
                    f"{rows[stream]:,}",
                    f"{rows[stream] - self._rows.get(stream, 0):,}",
                    f"{errors.get(stream, 0):,}",
                    _milliseconds(point, 0.5),
                    _milliseconds(point, 0.99),
                )
            )
        self._rows = rows
        widths = [max(len(line[i]) for line in lines) for i in range(len(_HEADER))]
        text = "\n".join(
            "  ".join(
                cell.ljust(width) if i < 3 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )
        if len(busiest) > MAX_ROWS:
            text += f"\n... and {len(busiest) - MAX_ROWS} more streams"
        if not busiest:
            text += "\n(no rows yet)"
        return text + "\n"


def quantile(point: HistogramPoint, q: float) -> float | None:
    """The value below which a share `q` lies: the middle of its bucket; None when empty.

    Relative error at most (base - 1) / (base + 1), base = 2^(2^-scale). Buckets of negative values
    count from the far end.
    """
    if point.count == 0:
        return None
    rank = q * (point.count - 1)
    n = 0
    for i in range(point.negative.size - 1, -1, -1):
        n += int(point.negative[i])
        if n > rank:
            return -_middle(point.negative_offset + i, point.scale)
    n += point.zero_count
    if n > rank:
        return 0.0
    behind = n + np.cumsum(point.positive, dtype=np.float64)
    i = min(int(np.searchsorted(behind, rank, side="right")), point.positive.size - 1)
    return _middle(point.positive_offset + i, point.scale)


def _middle(index: int, scale: int) -> float:
    width = math.ldexp(1.0, -scale)
    low, high = math.exp2(index * width), math.exp2((index + 1) * width)
    return 2 * low * high / (low + high)  # the point of least relative error


def _milliseconds(point: HistogramPoint | None, q: float) -> str:
    value = None if point is None else quantile(point, q)
    return "-" if value is None else f"{value * 1000:.3g}"


def _points(metrics: list[Metric], name: str) -> Iterator[NumberPoint | HistogramPoint]:
    for metric in metrics:
        if metric.name == name:
            yield from (point for point in metric.points if not point.ended)


def _values(snapshot: Snapshot, name: str) -> dict[Attributes, int | float]:
    return {
        point.attributes: point.value
        for point in _points(snapshot.metrics, name)
        if isinstance(point, NumberPoint)
    }


def _stderr(stream: TextIO) -> Callable[[str], object]:
    def write(text: str) -> None:
        stream.write(text)
        stream.flush()

    return write
