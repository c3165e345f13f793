"""Points -> their OTLP bytes, many at a time.

A number's and a histogram's fixed-size fields are packed by one `struct` each, bucket counts by one
compiled pass over a slice of points, and attributes are encoded once for as long as a series lives.

Invariants
1. Points are `as_int` exactly when their value is an int; counts are fixed64; an ended series is
   one point with the no-recorded-value flag and no value.
2. No min, max on histograms: they freeze in a cumulative stream.
3. At most SLICE histograms are in hand at once, whatever an export holds.

Cost: 0.8 us a number, 2.5 us a histogram of 170 buckets (`docs/decisions/0004-export.md`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from opentelemetry.proto.metrics.v1 import metrics_pb2 as pb

from agent.emit.kernels.buckets import (
    COUNTS_KEY,
    MAX_AROUND,
    MAX_VARINT,
    OFFSET_KEY,
    write_buckets,
)
from agent.emit.wire import (
    FIXED64,
    LENGTH,
    VARINT,
    attribute,
    delimited,
    double,
    fixed64,
    tag,
    varint,
    zigzag,
)
from agent.sketch.arrays import address_of
from agent.types import Attributes, Exemplar, HistogramPoint, NumberPoint

#: Histograms whose buckets are encoded by one call, which holds some 100 kB.
SLICE: Final = 256

#: Flag of the one point that ends a series.
NO_RECORDED_VALUE: Final = int(pb.DATA_POINT_FLAGS_NO_RECORDED_VALUE_MASK)

_N = pb.NumberDataPoint
_N_ATTRIBUTES = tag(_N, "attributes", LENGTH)
_N_START = tag(_N, "start_time_unix_nano", FIXED64)
_N_TIME = tag(_N, "time_unix_nano", FIXED64)
_N_DOUBLE = tag(_N, "as_double", FIXED64)
_N_INT = tag(_N, "as_int", FIXED64)
_N_FLAGS = tag(_N, "flags", VARINT)

_H = pb.ExponentialHistogramDataPoint
_H_ATTRIBUTES = tag(_H, "attributes", LENGTH)
_H_START = tag(_H, "start_time_unix_nano", FIXED64)
_H_TIME = tag(_H, "time_unix_nano", FIXED64)
_H_COUNT = tag(_H, "count", FIXED64)
_H_SUM = tag(_H, "sum", FIXED64)
_H_SCALE = tag(_H, "scale", VARINT)
_H_ZERO_COUNT = tag(_H, "zero_count", FIXED64)
_H_ZERO_THRESHOLD = tag(_H, "zero_threshold", FIXED64)
_H_POSITIVE = tag(_H, "positive", LENGTH)
_H_NEGATIVE = tag(_H, "negative", LENGTH)
_H_EXEMPLARS = tag(_H, "exemplars", LENGTH)
_H_FLAGS = tag(_H, "flags", VARINT)
assert tag(_H.Buckets, "offset", VARINT) == bytes((OFFSET_KEY,))
assert tag(_H.Buckets, "bucket_counts", LENGTH) == bytes((COUNTS_KEY,))

_E_TIME = tag(pb.Exemplar, "time_unix_nano", FIXED64)
_E_DOUBLE = tag(pb.Exemplar, "as_double", FIXED64)
_E_SPAN = tag(pb.Exemplar, "span_id", LENGTH)
_E_TRACE = tag(pb.Exemplar, "trace_id", LENGTH)

# Runs of (key of one byte, fixed-size value). A time of 0 is left out: the first or the first two runs.
_pack_int = struct.Struct("<cQcQcq").pack
_pack_double = struct.Struct("<cQcQcd").pack
_pack_head = struct.Struct("<cQcQcQcBcQcd").pack
_pack_head_with_sum = struct.Struct("<cQcQcQcdcBcQcd").pack
_TIME_BYTES = 9

_NONE: Final = np.zeros(0, np.uint64)

#: id of attributes -> the attributes, kept alive so that the id stays theirs, and their encoding.
_Known = dict[int, tuple[Attributes, bytes]]


class PointEncoder:
    """Encodes the points of one export after another.

    Attributes are remembered by identity, from one export to the next that still has them: a series
    keeps one tuple for life. Memory: about 150 bytes a series. Used by one thread at a time.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, _Known] = {_N_ATTRIBUTES: {}, _H_ATTRIBUTES: {}}
        self._fresh: dict[bytes, _Known] = {_N_ATTRIBUTES: {}, _H_ATTRIBUTES: {}}

    def begin(self) -> None:
        """A new export: what it does not use is forgotten at the next one."""
        self._known, self._fresh = self._fresh, {_N_ATTRIBUTES: {}, _H_ATTRIBUTES: {}}

    def encode(
        self, points: Sequence[NumberPoint] | Sequence[HistogramPoint]
    ) -> Iterator[tuple[NumberPoint | HistogramPoint, bytes]]:
        """Each point, all of one kind, with its encoding."""
        for low in range(0, len(points), SLICE):
            part = points[low : low + SLICE]
            if isinstance(part[0], HistogramPoint):
                yield from self._histograms(part)  # type: ignore[arg-type]
            else:
                yield from self._numbers(part)  # type: ignore[arg-type]

    def _attributes(self, key: bytes, attributes: Attributes) -> bytes:
        entry = self._known[key].get(id(attributes)) or self._fresh[key].get(id(attributes))
        if entry is None:
            encoded = b"".join(attribute(key, name, value) for name, value in attributes)
            entry = attributes, encoded
        self._fresh[key][id(attributes)] = entry
        return entry[1]

    def _numbers(self, points: Sequence[NumberPoint]) -> Iterator[tuple[NumberPoint, bytes]]:
        for point in points:
            yield point, self._attributes(_N_ATTRIBUTES, point.attributes) + _number(point)

    def _histograms(
        self, points: Sequence[HistogramPoint]
    ) -> Iterator[tuple[HistogramPoint, bytes]]:
        buckets, ends = _buckets(points)
        begin = 0
        for point, end in zip(points, ends, strict=True):
            parts = [
                self._attributes(_H_ATTRIBUTES, point.attributes),
                _head(point),
                buckets[begin:end],
            ]
            begin = end
            if point.exemplars:
                parts += [delimited(_H_EXEMPLARS, _exemplar(e)) for e in point.exemplars]
            yield point, b"".join(parts)


def _number(point: NumberPoint) -> bytes:
    value = point.value
    if point.ended:
        times = _N_START + fixed64(point.start_ns) + _N_TIME + fixed64(point.time_ns)
        found = times + _N_FLAGS + varint(NO_RECORDED_VALUE)
    elif isinstance(value, int):
        found = _pack_int(_N_START, point.start_ns, _N_TIME, point.time_ns, _N_INT, value)
    else:
        found = _pack_double(_N_START, point.start_ns, _N_TIME, point.time_ns, _N_DOUBLE, value)
    return found if point.start_ns else found[_TIME_BYTES:]


def _head(point: HistogramPoint) -> bytes:
    """A histogram's fields of fixed size."""
    scale = zigzag(point.scale)
    if point.ended:
        times = _H_START + fixed64(point.start_ns) + _H_TIME + fixed64(point.time_ns)
        found = times + _H_FLAGS + varint(NO_RECORDED_VALUE)
    elif scale > 0x7F:
        raise ValueError(f"scale is {point.scale}; must be in -64..63")
    elif point.sum is None:
        found = _pack_head(
            _H_START,
            point.start_ns,
            _H_TIME,
            point.time_ns,
            _H_COUNT,
            point.count,
            _H_SCALE,
            scale,
            _H_ZERO_COUNT,
            point.zero_count,
            _H_ZERO_THRESHOLD,
            point.zero_threshold,
        )
    else:
        found = _pack_head_with_sum(
            _H_START,
            point.start_ns,
            _H_TIME,
            point.time_ns,
            _H_COUNT,
            point.count,
            _H_SUM,
            point.sum,
            _H_SCALE,
            scale,
            _H_ZERO_COUNT,
            point.zero_count,
            _H_ZERO_THRESHOLD,
            point.zero_threshold,
        )
    return found if point.start_ns else found[_TIME_BYTES:]


def _buckets(points: Sequence[HistogramPoint]) -> tuple[bytes, list[int]]:
    """Positive and negative buckets of all points, one behind the other, and where each point's end."""
    counts: list[NDArray[np.uint64]] = []
    offsets: list[int] = []
    for point in points:
        counts += (_NONE, _NONE) if point.ended else (point.positive, point.negative)
        offsets += (point.positive_offset, point.negative_offset)
    n = len(counts)
    start = np.zeros(n + 1, np.int64)
    np.cumsum(np.fromiter(map(len, counts), np.int64, n), out=start[1:])
    joined = np.concatenate(counts).astype(np.uint64, copy=False)
    offset = np.array(offsets, np.int64)
    out = np.empty(MAX_VARINT * len(joined) + MAX_AROUND * n, np.uint8)
    end = np.empty(n, np.int64)
    write_buckets(
        n,
        address_of(joined),
        address_of(start),
        address_of(offset),
        _H_POSITIVE[0],
        _H_NEGATIVE[0],
        address_of(out),
        address_of(end),
    )
    return out[: end[-1]].tobytes(), end[1::2].tolist()


def _exemplar(exemplar: Exemplar) -> bytes:
    return (
        _E_TIME
        + fixed64(exemplar.time_ns)
        + _E_DOUBLE
        + double(float(exemplar.value))
        + delimited(_E_SPAN, exemplar.span_id)
        + delimited(_E_TRACE, exemplar.trace_id)
    )
