"""Cumulative histograms: read in bulk, at a scale that never rises, with or without a sum.

Rules, on top of those of `series`
 1. Scale: the largest at which each sign spans at most `max_buckets`, and never above the scale of an
    earlier point of the series. Extremes only widen, so it is a function of the data's extremes.
 2. Sum: a column is *unsigned* when its first exported point has no value below zero; its points carry a sum. A
    *signed* one carries none, and a sum that may fall stands beside it (`<name>.sum`).
 3. The first negative value of an unsigned column ends its period: one last point, without a sum, holds all up
    to now. Until it is accepted each export holds such a point; once it is, the series starts anew,
    from zero, at its time. So no export holds points of two periods, no count is seen twice, and the
    sum over all periods is the total.
 4. No min and max: they would freeze. Over-range values are in the count and the top bucket, not in the sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.fold.series import ZERO_AFTER_NS, Ended, Out, Series
from agent.sketch.cells import CellPages
from agent.sketch.histogram import MAX_SCALE, ZERO_THRESHOLD, lowered
from agent.sketch.kernels import export
from agent.types import Attributes, Exemplar, HistogramPoint

Counts = NDArray[np.uint64]
_NONE: Counts = np.zeros(0, np.uint64)


@dataclass(slots=True)
class Head:
    """A wide cell as read for export. `positive` and `negative` are owned by the reading."""

    scale: int
    in_domain: int
    zeros: int
    non_finite: int
    over_range: int
    positive_offset: int
    positive: Counts
    negative_offset: int
    negative: Counts
    sum: float
    min: float
    max: float

    @property
    def count(self) -> int:
        return self.in_domain + self.over_range

    @property
    def is_signed(self) -> bool:
        """Whether any value is below zero, however close to it."""
        return self.count > 0 and self.min < 0.0


def read_heads(
    pages: CellPages, cells: Sequence[int], highest_scale: Sequence[int], max_buckets: int
) -> list[Head]:
    """Read wide numeric cells, each at a scale of at most `highest_scale` and `max_buckets` a sign."""
    n = len(cells)
    if not n:
        return []
    addresses = pages.addresses[np.array(cells, np.int64)]
    scales = np.array(highest_scale, np.int64)
    heads = np.empty((n, export.HEAD_FIELDS), np.int64)
    values = np.empty((n, export.VALUE_FIELDS), np.float64)
    counts = np.empty(n * 2 * max_buckets, np.uint64)
    used = int(
        export.read_totals(
            addresses.ctypes.data,
            n,
            scales.ctypes.data,
            max_buckets,
            heads.ctypes.data,
            values.ctypes.data,
            counts.ctypes.data,
        )
    )
    counts = counts[:used].copy()
    out = []
    for (scale, inside, zeros, bad, above, below, po, pn, no, nn, at), (total, low, high) in zip(
        heads.tolist(), values.tolist(), strict=True
    ):
        middle = at + pn
        out.append(
            Head(
                scale,
                inside,
                zeros,
                bad,
                above + below,
                po,
                counts[at:middle],
                no,
                counts[middle : middle + nn],
                total,
                low,
                high,
            )
        )
    return out


class HistogramSeries:
    """One exported histogram, and the sum beside it once it is signed. See the module's rules."""

    __slots__ = (
        "_base",
        "_closing",
        "_due_ns",
        "_exemplars",
        "_is_new",
        "_largest_sum",
        "_offered",
        "_period_ns",
        "_sent",
        "_sum_name",
        "_sums",
        "_whole",
        "attributes",
        "is_signed",
        "name",
        "scale",
        "start_ns",
    )

    def __init__(
        self,
        name: str,
        sum_name: str | None,
        attributes: Attributes,
        start_ns: int,
        period_ns: int,
    ) -> None:
        """`sum_name` None: no sum stands beside it (a latency, a norm: not negative by nature)."""
        self.name = name
        self.attributes = attributes
        self.start_ns = start_ns
        self.scale = MAX_SCALE
        self.is_signed: bool | None = None
        self._sum_name = sum_name
        self._sums: Series | None = None
        self._base: Head | None = None  # what earlier periods held
        self._closing: tuple[Head, int] | None = (
            None  # last of its period, and when; in the last export
        )
        self._period_ns = period_ns
        self._due_ns = start_ns + period_ns
        self._sent = -1
        self._offered = -1
        self._whole = False
        self._is_new = True
        self._largest_sum = 0.0
        self._exemplars: tuple[Exemplar, ...] = ()

    def write(
        self, head: Head, exemplars: Sequence[Exemplar], out: Out, points: list[HistogramPoint]
    ) -> int:
        """Points of this cell; returns how many series have a value."""
        self.scale = min(self.scale, head.scale)
        if not out.is_export:
            signed = bool(self.is_signed) or head.is_signed
            points.append(self._point(head, out.time_ns, signed, tuple(exemplars)))
            return 1 + self._write_sum(head, out, signed)
        if self.is_signed is None:
            if head.count:
                self.is_signed = head.is_signed
        elif not self.is_signed and head.is_signed:
            self._exemplars = tuple(exemplars)
            self._closing = head, out.time_ns
            points.append(self._point(head, out.time_ns, True, self._exemplars))
            return 1
        signed = bool(self.is_signed)
        count = head.count - (self._base.count if self._base else 0)
        self._whole = out.time_ns >= self._due_ns
        if self._is_new and out.zeros:
            points.append(self._zero(signed))
        self._is_new = False
        if self._whole or count != self._sent:
            self._exemplars = tuple(exemplars)
            points.append(self._point(head, out.time_ns, signed, self._exemplars))
        self._offered = count
        return 1 + self._write_sum(head, out, signed)

    def _restart(self, head: Head, time_ns: int) -> None:
        self._base = head
        self.start_ns = time_ns
        self._due_ns = time_ns + self._period_ns
        self.is_signed = True
        self._is_new = True
        self._sent = self._offered = -1

    def _write_sum(self, head: Head, out: Out, signed: bool) -> int:
        if not signed or self._sum_name is None:
            return 0
        total = head.sum - (self._base.sum if self._base else 0.0)
        if not out.is_export and self._sums is None:
            return Series((self._sum_name,), self.attributes, self.start_ns, 0).write((total,), out)
        if self._sums is None:
            self._sums = Series((self._sum_name,), self.attributes, self.start_ns, self._period_ns)
        return self._sums.write((total,), out)

    def _zero(self, signed: bool) -> HistogramPoint:
        return HistogramPoint(
            attributes=self.attributes,
            start_ns=self.start_ns,
            time_ns=self.start_ns + ZERO_AFTER_NS,
            count=0,
            sum=None if signed else 0.0,
            scale=MAX_SCALE,
            zero_count=0,
            zero_threshold=ZERO_THRESHOLD,
            positive_offset=0,
            positive=_NONE,
            negative_offset=0,
            negative=_NONE,
        )

    def _point(
        self, head: Head, time_ns: int, signed: bool, exemplars: tuple[Exemplar, ...]
    ) -> HistogramPoint:
        count, zeros = head.count, head.zeros
        positive_offset, positive = head.positive_offset, head.positive
        negative_offset, negative = head.negative_offset, head.negative
        if head.scale > self.scale:  # never: read at this scale
            raise ValueError(f"read at scale {head.scale}, exported at {self.scale}")
        base = self._base
        if base is not None:
            steps = base.scale - head.scale
            count -= base.count
            zeros -= base.zeros
            positive = _minus(positive, positive_offset, base.positive, base.positive_offset, steps)
            negative = _minus(negative, negative_offset, base.negative, base.negative_offset, steps)
        total: float | None = None
        if not signed:
            # Rounding of pivot and sums may wobble in the last digit; a sum of a counter never falls.
            total = self._largest_sum = max(self._largest_sum, head.sum)
        return HistogramPoint(
            attributes=self.attributes,
            start_ns=self.start_ns,
            time_ns=time_ns,
            count=count,
            sum=total,
            scale=head.scale,
            zero_count=zeros,
            zero_threshold=ZERO_THRESHOLD,
            positive_offset=positive_offset,
            positive=positive,
            negative_offset=negative_offset,
            negative=negative,
            exemplars=exemplars,
        )

    def accepted(self, time_ns: int) -> tuple[Exemplar, ...]:
        """The last export that was written has arrived; returns the exemplars that were in it."""
        arrived, self._exemplars = self._exemplars, ()
        if self._closing is not None:
            self._restart(*self._closing)
            self._closing = None
        elif self._offered >= 0:
            self._sent = self._offered
            self._offered = -1
            if self._whole:
                self._due_ns = time_ns + self._period_ns
        if self._sums is not None:
            self._sums.accepted(time_ns)
        return arrived

    def ends(self) -> list[Ended]:
        """The series that a receiver may know, which now end."""
        out = []
        if self._sent >= 0 or self._offered >= 0:
            out.append(Ended(self.name, self.attributes, self.start_ns))
        if self._sums is not None:
            out += self._sums.ends()
        return out


def _minus(counts: Counts, offset: int, base: Counts, base_offset: int, steps: int) -> Counts:
    """counts - base, bucket by bucket; base lies `steps` scales above and within counts."""
    if not len(base):
        return counts
    low, first = lowered(base, base_offset, steps)
    out = counts.copy()
    at = first - offset
    out[at : at + len(low)] -= low
    return out
