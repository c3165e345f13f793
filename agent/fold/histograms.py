"""Cumulative histograms: read in bulk, at a scale that never rises, with or without a sum.

Rules, on top of those of `series`
 1. Scale: the largest at which each sign spans at most `max_buckets`, and never above the scale of an
    earlier point of the series. Extremes only widen, so it is a function of the data's extremes.
 2. Sum: a column is *unsigned* when its first exported point has no value below zero; its points carry a sum. A
    *signed* one carries none, and a sum that may fall stands beside it (`<name>.sum`).
 3. The first negative value of an unsigned column ends its period: one last point, without a sum, holds all up
    to now. Until it is accepted each export holds such a point; once it is, the series starts anew,
    from zero, at its time. So no export holds points of two periods, no count is seen twice, and the
    sum over all periods is the total. The sum beside it begins with that last point, and holds the
    values of both periods: no part of a sum is in no last point.
 4. No min and max: they would freeze. Over-range values are in the count and the top bucket, not in the sum.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from agent.errors import DecodeError
from agent.fold.head import NO_COUNTS, Counts, Head, HeadState
from agent.fold.series import ZERO_AFTER_NS, Ended, Out, Series, SeriesState
from agent.sketch.histogram import MAX_SCALE, ZERO_THRESHOLD, lowered
from agent.types import Attributes, Exemplar, HistogramPoint

#: Two buckets a sign hold all that is in range at this scale, so nothing is exported at a lower one.
_LOWEST_SCALE = -8


class HistogramState(msgspec.Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    """What a histogram's series knows beside its names and attributes."""

    start_ns: int
    scale: int
    is_signed: bool | None
    base: HeadState | None
    closing: tuple[HeadState, int] | None
    period_ns: int
    due_ns: int
    sent: int
    offered: int
    whole: bool
    wants_zero: bool
    largest_sum: float
    exemplars: tuple[Exemplar, ...]
    sums: SeriesState | None


class HistogramSeries:
    """One exported histogram, and the sum beside it once it is signed. See the module's rules."""

    __slots__ = (
        "_base",
        "_closing",
        "_due_ns",
        "_exemplars",
        "_largest_sum",
        "_offered",
        "_period_ns",
        "_sent",
        "_shown_sum",
        "_sum_name",
        "_sums",
        "_wants_zero",
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
        self._wants_zero = True  # nothing of this period has been exported
        self._largest_sum = 0.0  # in an export
        self._shown_sum = 0.0  # in a scrape
        self._exemplars: tuple[Exemplar, ...] = ()

    def write(
        self, head: Head, exemplars: Sequence[Exemplar], out: Out, points: list[HistogramPoint]
    ) -> int:
        """Points of this cell; returns how many series have a value."""
        if not out.is_export:
            signed = bool(self.is_signed) or head.is_signed
            shown = None if signed else max(self._shown_sum, self._largest_sum, head.sum)
            self._shown_sum = shown or self._shown_sum
            points.append(self._point(head, out.time_ns, shown, tuple(exemplars)))
            return 1 + self._write_sum(head, out, signed)
        self.scale = min(self.scale, head.scale)
        if self.is_signed is None:
            if head.count:
                self.is_signed = head.is_signed
        elif not self.is_signed and head.is_signed:
            self._exemplars = tuple(exemplars)
            self._closing = head, out.time_ns
            points.append(self._point(head, out.time_ns, None, self._exemplars))
            return 1 + self._write_sum(head, out, True)
        signed = bool(self.is_signed)
        count = head.count - (self._base.count if self._base else 0)
        self._whole = out.time_ns >= self._due_ns
        if self._wants_zero and out.zeros:
            points.append(self._zero(signed))
        self._wants_zero = False
        if self._whole or count != self._sent:
            self._exemplars = tuple(exemplars)
            total: float | None = None
            if not signed:
                # Rounding of pivot and sums may wobble in the last digit; a sum of a counter never falls.
                total = self._largest_sum = max(self._largest_sum, head.sum)
            points.append(self._point(head, out.time_ns, total, self._exemplars))
        self._offered = count
        return 1 + self._write_sum(head, out, signed)

    def _restart(self, head: Head, time_ns: int) -> None:
        self._base = head
        self.start_ns = time_ns
        self._due_ns = time_ns + self._period_ns
        self.is_signed = True
        self._wants_zero = True
        self._sent = self._offered = -1

    def _write_sum(self, head: Head, out: Out, signed: bool) -> int:
        if not signed or self._sum_name is None:
            return 0
        total = head.sum
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
            positive=NO_COUNTS,
            negative_offset=0,
            negative=NO_COUNTS,
        )

    def _point(
        self, head: Head, time_ns: int, total: float | None, exemplars: tuple[Exemplar, ...]
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

    def renew(self, start_ns: int) -> None:
        """As `Series.renew`; an end of a period that was not accepted is offered again."""
        self.start_ns = self._due_ns = start_ns
        self._closing = None
        self._sent = self._offered = -1
        self._whole = self._wants_zero = False
        self._exemplars = ()
        if self._sums is not None:
            self._sums.renew(start_ns)

    def state(self) -> HistogramState:
        return HistogramState(
            self.start_ns,
            self.scale,
            self.is_signed,
            None if self._base is None else self._base.state(),
            None if self._closing is None else (self._closing[0].state(), self._closing[1]),
            self._period_ns,
            self._due_ns,
            self._sent,
            self._offered,
            self._whole,
            self._wants_zero,
            self._largest_sum,
            self._exemplars,
            None if self._sums is None else self._sums.state(),
        )

    def restore(self, state: HistogramState) -> None:
        """Raises DecodeError when it cannot be the state of this histogram."""
        if not _LOWEST_SCALE <= state.scale <= MAX_SCALE:
            raise DecodeError(f"histogram {self.name} has scale {state.scale}")
        self.start_ns = state.start_ns
        self.scale = state.scale
        self.is_signed = state.is_signed
        self._base = None if state.base is None else Head.restored(state.base)
        self._closing = None
        if state.closing is not None:
            self._closing = Head.restored(state.closing[0]), state.closing[1]
        self._period_ns = state.period_ns
        self._due_ns = state.due_ns
        self._sent = state.sent
        self._offered = state.offered
        self._whole = state.whole
        self._wants_zero = state.wants_zero
        self._largest_sum = self._shown_sum = state.largest_sum
        self._exemplars = state.exemplars
        if state.sums is not None:
            if self._sum_name is None:
                raise DecodeError(f"histogram {self.name} has a sum beside it")
            self._sums = Series((self._sum_name,), self.attributes, state.sums.start_ns, 0)
            self._sums.restore(state.sums)


def _minus(counts: Counts, offset: int, base: Counts, base_offset: int, steps: int) -> Counts:
    """counts - base, bucket by bucket; base lies `steps` scales above and within counts."""
    if not len(base):
        return counts
    low, first = lowered(base, base_offset, steps)
    out = counts.copy()
    at = first - offset
    out[at : at + len(low)] -= low
    return out
