"""What a cell says. Views are copies: they stay as they are when the cell goes on."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from math import ceil, nan, sqrt

import numpy as np
from numpy.typing import NDArray

from agent.sketch import cardinality, histogram
from agent.sketch.cells import (
    NUMERIC_CELL_BYTES,
    NUMERIC_WIDE_CELL_BYTES,
    STRING_CELL_BYTES,
    Bytes,
)
from agent.sketch.heavy_hitters import Hitter, frequent, read_table, unlisted_bound
from agent.sketch.kernels import layout
from agent.sketch.moments import central

_NUMERIC_HEAD = struct.Struct("<4d 4d d QQ 2d 4i ii 5Q")
_STRING_HEAD = struct.Struct("<QQQII")
assert _NUMERIC_HEAD.size <= layout.NUMERIC_REGISTERS


@dataclass(frozen=True, slots=True, eq=False)
class NumericView:
    """A column of numbers.

    count          finite values = zeros + positive.sum() + negative.sum(); over_range is part of it
    nulls, non_finite   apart from count
    over_range     |x| > 2^64: in the top bucket and in min/max, not in sum, mean and moments
    sum            within 1e-12 of sum |x|         mean, m2, m4   within 1e-9 relative
    m3             within 1e-9 of sum |x - mean|^3
    min, max       exact; NaN when count is 0
    positive       uint64[...], counts of buckets positive_offset, ...; first and last are not 0
    negative       the same for -x
    """

    count: int
    nulls: int
    non_finite: int
    zeros: int
    over_range: int
    over_positive: int
    over_negative: int
    sum: float
    mean: float
    m2: float
    m3: float
    m4: float
    min: float
    max: float
    scale: int
    positive_offset: int
    positive: NDArray[np.uint64]
    negative_offset: int
    negative: NDArray[np.uint64]
    registers: NDArray[np.uint8] = field(repr=False)

    @property
    def in_domain(self) -> int:
        """Values that sum, mean and moments are made of."""
        return self.count - self.over_range

    @property
    def relative_error(self) -> float | None:
        """Bound of a quantile's relative error, (base - 1) / (base + 1), for |x| in 2^-64..2^64.

        Values that are closer to zero count as zero: the answer's absolute error is at most 2^-64.
        None where nothing can be said: no values, values beyond 2^64 (answered by min or max), or
        values other than zero that are all below 2^-64.
        """
        if not self.count or self.over_range:
            return None
        if self.zeros == self.count and (self.min != 0.0 or self.max != 0.0):
            return None
        return histogram.relative_error(self.scale)

    def variance(self) -> float:
        """Sample variance, n - 1 below the line; NaN for fewer than two values."""
        return self.m2 / (self.in_domain - 1) if self.in_domain > 1 else nan

    def stddev(self) -> float:
        """Square root of `variance`."""
        return sqrt(self.variance()) if self.in_domain > 1 else nan

    def distinct(self) -> float:
        """Estimated number of distinct finite values; standard error 1.68 %."""
        return cardinality.estimate(self.registers)

    def quantile(self, q: float) -> float:
        """The smallest value x with at least q * count values <= x, within `relative_error`; NaN when
        empty. Raises ValueError for q outside 0..1."""
        return self.quantiles((q,))[0]

    def quantiles(self, qs: Iterable[float]) -> list[float]:
        """`quantile` of each q."""
        wanted = list(qs)
        for q in wanted:
            if not 0.0 <= q <= 1.0:
                raise ValueError(f"quantile is {q}; must be in 0..1")
        if self.count == 0:
            return [nan] * len(wanted)
        values = np.concatenate(
            (
                -histogram.representatives(self.scale, self.negative_offset, len(self.negative))[
                    ::-1
                ],
                (0.0,),
                histogram.representatives(self.scale, self.positive_offset, len(self.positive)),
            )
        )
        counts = np.concatenate(
            (self.negative[::-1], np.array([self.zeros], np.uint64), self.positive)
        )
        upto = np.cumsum(counts)
        ranks = [max(1, min(self.count, ceil(q * self.count))) for q in wanted]
        places = np.searchsorted(upto, np.array(ranks, np.uint64))
        out: list[float] = []
        for rank, place in zip(ranks, places.tolist(), strict=True):
            if rank == 1 or rank <= self.over_negative:
                out.append(self.min)
            elif rank == self.count or rank > self.count - self.over_positive:
                out.append(self.max)
            else:
                out.append(float(min(max(values[place], self.min), self.max)))
        return out

    def downscaled(self, max_buckets: int, at_most_scale: int | None = None) -> NumericView:
        """A copy whose signs each span at most `max_buckets` buckets, at the largest such scale that is
        not above `at_most_scale`. Raises ValueError for max_buckets below 2."""
        if max_buckets < 2:  # -1 and 0 never become one bucket
            raise ValueError(f"max_buckets is {max_buckets}; must be at least 2")
        steps = 0 if at_most_scale is None else max(0, self.scale - at_most_scale)
        while (
            histogram.span_at(self.positive_offset, len(self.positive), steps) > max_buckets
            or histogram.span_at(self.negative_offset, len(self.negative), steps) > max_buckets
        ):
            steps += 1
        if steps == 0:
            return self
        positive, positive_offset = histogram.lowered(self.positive, self.positive_offset, steps)
        negative, negative_offset = histogram.lowered(self.negative, self.negative_offset, steps)
        return replace(
            self,
            scale=self.scale - steps,
            positive=positive,
            positive_offset=positive_offset,
            negative=negative,
            negative_offset=negative_offset,
        )


def _contiguous(record: Bytes, sizes: tuple[int, ...]) -> Bytes:
    if record.dtype != np.uint8 or record.ndim != 1 or len(record) not in sizes:
        raise ValueError(f"record is {record.dtype}{list(record.shape)}; must be uint8 of {sizes}")
    return np.ascontiguousarray(record)


def numeric_view(record: Bytes) -> NumericView:
    """Read a narrow or wide numeric record, uint8[...]. Raises ValueError for another size."""
    data = _contiguous(record, (NUMERIC_CELL_BYTES, NUMERIC_WIDE_CELL_BYTES))
    head = _NUMERIC_HEAD.unpack(data[: _NUMERIC_HEAD.size].tobytes())
    pivot, n, _, low, high = head[8:13]
    lows, spans, shift = (head[13], head[15]), (head[14], head[16]), head[17]
    nulls, non_finite, zeros, over_positive, over_negative = head[19:24]
    rings = data[layout.BUCKETS :].view(np.uint32 if len(data) == NUMERIC_CELL_BYTES else np.uint64)
    sides: list[NDArray[np.uint64]] = []
    for sign, (first, span) in enumerate(zip(lows, spans, strict=True)):
        places = (np.arange(first, first + span) & (layout.RING - 1)) + sign * layout.RING
        sides.append(rings[places].astype(np.uint64))
    over_range = over_positive + over_negative
    count = n + over_range
    moments = central(n, pivot, head[0:4], head[4:8])
    return NumericView(
        count=count,
        nulls=nulls,
        non_finite=non_finite,
        zeros=zeros,
        over_range=over_range,
        over_positive=over_positive,
        over_negative=over_negative,
        sum=moments.sum,
        mean=moments.mean,
        m2=moments.m2,
        m3=moments.m3,
        m4=moments.m4,
        min=low if count else nan,
        max=high if count else nan,
        scale=layout.MAX_SCALE - shift,
        positive_offset=lows[0],
        positive=sides[0],
        negative_offset=lows[1],
        negative=sides[1],
        registers=data[layout.NUMERIC_REGISTERS : layout.BUCKETS].copy(),
    )


@dataclass(frozen=True, slots=True, eq=False)
class StringView:
    """A column of texts.

    count           texts; nulls apart
    length_sum, length_min, length_max   bytes of UTF-8; 0 when empty
    hashed_buckets  uint64[256], counts by a slice of the hash: categories nobody has named show up here
    named           keys whose text is known, as `top` orders them
    unlisted_bound  a text that is not in the table has occurred at most this often
    """

    count: int
    nulls: int
    length_sum: int
    length_min: int
    length_max: int
    hashed_buckets: NDArray[np.uint64] = field(repr=False)
    named: tuple[Hitter, ...]
    unlisted_bound: int
    registers: NDArray[np.uint8] = field(repr=False)

    def distinct(self) -> float:
        """Estimated number of distinct texts; standard error 1.68 %."""
        return cardinality.estimate(self.registers)

    def top(self, k: int) -> list[tuple[str, int, int]]:
        """Up to k (text, count, overestimate), largest count - overestimate first.

        count - overestimate <= true count <= count. Texts are cut at 56 bytes, between characters. A
        high-cardinality column fills up with keys of small count - overestimate: chance, not heavy.
        """
        return [(h.text, h.count, h.overestimate) for h in self.named[:k]]

    def frequent(self, k: int) -> list[tuple[str, int]]:
        """Up to k (text, count) to be shown: of `top`, those with at most 5 % overestimate. Empty when
        no text stands out of a column of many."""
        return frequent(self.named, k)


def string_view(record: Bytes) -> StringView:
    """Read a string record, uint8[STRING_CELL_BYTES]. Raises ValueError for another size."""
    data = _contiguous(record, (STRING_CELL_BYTES,))
    count, nulls, length_sum, length_min, length_max = _STRING_HEAD.unpack(
        data[: _STRING_HEAD.size].tobytes()
    )
    return StringView(
        count=count,
        nulls=nulls,
        length_sum=length_sum,
        length_min=length_min,
        length_max=length_max,
        hashed_buckets=data[layout.HASHED : layout.STRING_REGISTERS].view(np.uint64).copy(),
        named=tuple(read_table(data)),
        unlisted_bound=unlisted_bound(data),
        registers=data[layout.STRING_REGISTERS : layout.TEXTS].copy(),
    )
