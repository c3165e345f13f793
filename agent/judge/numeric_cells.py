"""A numeric column of the baseline, cut into cells that windows are counted in.

The cells are cut at the baseline's quantiles, snapped to bucket bounds, so that counting a window's
buckets in them is exact. A window at another scale is compared at the coarser of the two; what is
derived from the baseline at a scale is kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.judge.drift import CUTS, pooled
from agent.judge.sketch_counts import Counts, Numbers, lowered
from agent.sketch.histogram import ZERO_THRESHOLD, representatives

Indices = NDArray[np.int64]
#: Shares that add up to this are all of them, but for rounding.
_ALL: Final = 1.0 - 1e-12


@dataclass(slots=True, eq=False)
class Sides:
    """Numbers in the order of their values, at one scale.

    masses  float64[k]: negative buckets from the largest |x| on, the zero bucket, positive buckets
    """

    scale: int
    first_positive: int
    first_negative: int
    n_positive: int
    n_negative: int
    masses: Counts

    @classmethod
    def of(cls, numbers: Numbers, scale: int) -> Sides:
        """At a scale that is not above the sketch's."""
        steps = numbers.scale - scale
        positive, first_positive = lowered(numbers.positive, numbers.first_positive, steps)
        negative, first_negative = lowered(numbers.negative, numbers.first_negative, steps)
        masses = np.concatenate((negative[::-1], (float(numbers.zeros),), positive))
        return cls(scale, first_positive, first_negative, len(positive), len(negative), masses)


@dataclass(slots=True, eq=False)
class NumericBaseline:
    """What windows of a numeric, boolean or vector column are compared with.

    Places are the baseline's buckets in the order of their values, with one before and one behind each
    sign's for values that the baseline does not reach: before, negative, behind, zero, before, positive, behind.

    ranks    float64[k], mid-rank 0..1 of each place
    starts   int64[cells], first place of each cell
    masses   float64[cells], share of the baseline's rows in each cell
    ties     sum of cubed bucket shares: what equal ranks take off the variance of a rank
    has_over  whether a value lies beyond 2^64, where buckets end
    """

    sides: Sides
    count: float
    ranks: Counts
    starts: Indices
    masses: Counts
    ties: float
    has_over: bool
    _groups: dict[int, tuple[Indices, Counts]] = field(default_factory=dict)
    _axis: Axis | None = None

    @classmethod
    def at(cls, numbers: Numbers, scale: int) -> NumericBaseline:
        """Of a sketch that has values, at a scale that is not above its own."""
        sides = Sides.of(numbers, scale)
        n = sides.n_negative
        none, held = (0.0,), sides.masses / numbers.count
        shares = np.concatenate((none, held[:n], none, held[n : n + 1], none, held[n + 1 :], none))
        upto = np.cumsum(shares)
        # A cut is the bucket in which the quantile lies, and ends its cell.
        ends = np.unique(np.searchsorted(upto, np.asarray(CUTS) - 1e-12))
        starts = np.concatenate(((0,), ends + 1))
        return cls(
            sides,
            numbers.count,
            upto - shares / 2,
            starts,
            np.add.reduceat(shares, starts),
            float((shares**3).sum()),
            numbers.over > 0,
        )

    def placed(self, window: Numbers) -> Counts:
        """float64[k]: a window's values by place. Its scale must not be below the baseline's."""
        out = np.zeros(len(self.ranks))
        self.place(window, out)
        return out

    def place(self, window: Numbers, out: Counts) -> None:
        """Write a window's values by place to float64[k] zeros, in place."""
        sides = self.sides
        steps = window.scale - sides.scale
        zero = sides.n_negative + 2
        out[zero] = window.zeros
        positive, first = lowered(window.positive, window.first_positive, steps)
        if len(positive):
            _place(out[zero + 1 :], positive, first - sides.first_positive)
        negative, first = lowered(window.negative, window.first_negative, steps)
        if len(negative):
            _place(out[zero - 1 :: -1], negative, first - sides.first_negative)

    @property
    def axis(self) -> Axis:
        """Where its places lie, and what it has there."""
        if self._axis is None:
            self._axis = Axis.of(self)
        return self._axis

    def is_beyond(self, placed: Counts) -> bool:
        """Whether values of a window lie where the baseline has no bucket."""
        return any(placed[place] for place in self.axis.empty)

    def beyond(self, window: Numbers) -> tuple[float, float]:
        """Of values where the baseline has no bucket, added up: how far they are from the values of their places,
        and by how much their |x| exceeds those."""
        sides, values = self.sides, np.abs(self.axis.values)
        n, steps = sides.n_negative, window.scale - sides.scale
        positive = sides.first_positive, sides.n_positive, values[n + 3], values[-1]
        negative = sides.first_negative, n, values[n + 1], values[0]
        distance = size = 0.0
        for (own_first, own_n, inner, outer), (counts, first) in (
            (positive, lowered(window.positive, window.first_positive, steps)),
            (negative, lowered(window.negative, window.first_negative, steps)),
        ):
            k = len(counts)
            low = min(k, max(0, own_first - first)) if own_n else k
            high = max(low, min(k, own_first + own_n - first))
            for start, end, edge in ((0, low, inner), (high, k, outer)):
                if start < end:
                    off = representatives(sides.scale, first + start, end - start) - edge
                    distance += float(counts[start:end] @ np.abs(off))
                    size += float(counts[start:end] @ off)
        return distance, size

    def place_of(self, value: float) -> int:
        """The place of one value, |value| up to 2^64: as `placed` puts it where it is not at a bucket's bound."""
        sides = self.sides
        zero = sides.n_negative + 2
        size = abs(value)
        if size <= ZERO_THRESHOLD:
            return zero
        bucket = math.ceil(math.log2(size) * 2.0**sides.scale) - 1
        first, n = (
            (sides.first_positive, sides.n_positive)
            if value > 0.0
            else (sides.first_negative, sides.n_negative)
        )
        behind = 1 + min(max(bucket - first, -1), n)
        return zero + 1 + behind if value > 0.0 else zero - 1 - behind

    def grouping(self, rows: float) -> tuple[Indices, Counts]:
        """First place of each group of cells, int64[g], and the groups' shares of the baseline, so that each
        expects MIN_EXPECTED of `rows`. Kept for steps of a quarter octave."""
        step = math.floor(4 * math.log2(max(1.0, min(rows, self.count))))
        found = self._groups.get(step)
        if found is None:
            groups = np.asarray(pooled(self.masses * 2.0 ** (step / 4)), np.int64)
            found = self._groups[step] = self.starts[groups], np.add.reduceat(self.masses, groups)
        return found


@dataclass(slots=True, eq=False)
class Axis:
    """The places of a baseline as values, float64[k]. A place between or beyond buckets has its neighbour's value.

    shares   of the baseline      upto  their sums up to and with the place
    ties     the shares, 0 for the zero bucket, whose values are known
    values   what stands for the place's values      steps  from each to the next, 0 behind the last
    mean_size  mean of |x| of the baseline
    empty    the four places that have no bucket of the baseline
    """

    shares: Counts
    upto: Counts
    ties: Counts
    values: Counts
    steps: Counts
    mean_size: float
    empty: tuple[int, ...]

    def has_between(self, placed: Counts) -> bool:
        """Whether values of a window lie in a place without a bucket that has baseline on both of its sides."""
        return any(placed[place] and 0.0 < self.upto[place] < _ALL for place in self.empty)

    @classmethod
    def of(cls, base: NumericBaseline) -> Axis:
        sides = base.sides
        n = sides.n_negative
        held = sides.masses / base.count
        none = (0.0,)
        shares = np.concatenate((none, held[:n], none, held[n : n + 1], none, held[n + 1 :], none))
        upto = np.cumsum(shares)
        ties = shares.copy()
        ties[n + 2] = 0.0
        negative = -representatives(sides.scale, sides.first_negative, n)[::-1]
        positive = representatives(sides.scale, sides.first_positive, sides.n_positive)
        zero = np.zeros(1)
        ends = (negative[:1], negative, negative[-1:], zero, positive[:1], positive, positive[-1:])
        wanted = (1, n, 1, 1, 1, sides.n_positive, 1)
        values = np.concatenate(
            [part if len(part) == k else np.zeros(k) for part, k in zip(ends, wanted, strict=True)]
        )
        steps = np.append(np.diff(values), 0.0)
        mean_size = float(shares @ np.abs(values))
        empty = 0, n + 1, n + 3, len(shares) - 1
        return cls(shares, upto, ties, values, steps, mean_size, empty)


def _place(out: Counts, counts: Counts, at: int) -> None:
    """Put the counts of one sign's buckets into `out`, in place: one place, the buckets, one place.

    at  the bucket of `out` that the first count belongs to; what lies before or behind all goes to the ends
    """
    low, high = max(0, -at), min(len(counts), len(out) - 2 - at)
    if low >= high:
        out[0 if at < 0 else -1] += counts.sum()
        return
    out[1 + at + low : 1 + at + high] = counts[low:high]
    if low:
        out[0] = counts[:low].sum()
    if high < len(counts):
        out[-1] = counts[high:].sum()
