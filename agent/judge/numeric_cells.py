"""A numeric column of the baseline, cut into cells that windows are counted in.

The cells are cut at the baseline's quantiles, snapped to bucket bounds, so that counting a window's
buckets in them is exact. A window at another scale is compared at the coarser of the two; what is
derived from the baseline at a scale is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.judge.drift import CUTS
from agent.judge.sketch_counts import Counts, Numbers, lowered

Indices = NDArray[np.int64]
#: Cells with fewer expected rows are pooled with their outer neighbours.
MIN_EXPECTED: Final = 5.0


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

    def places_in(self, other: Sides) -> Indices:
        """int64[k]: where each bucket lies among `other`'s, which has one place before its first bucket of
        a sign and one behind the last: 2 * negative side, zero, positive side.

        A place p of the result indexes `other.padded(...)`.
        """
        positive = np.arange(self.n_positive) + (self.first_positive - other.first_positive)
        negative = np.arange(self.n_negative) + (self.first_negative - other.first_negative)
        zero = other.n_negative + 2
        return np.concatenate(
            (
                zero - 2 - np.clip(negative, -1, other.n_negative)[::-1],
                (zero,),
                zero + 2 + np.clip(positive, -1, other.n_positive),
            )
        )

    def padded(self) -> Counts:
        """`masses` with an empty bucket before and behind each sign's, where other data may fall."""
        n = self.n_negative
        none = (0.0,)
        return np.concatenate(
            (none, self.masses[:n], none, self.masses[n : n + 1], none, self.masses[n + 1 :], none)
        )


@dataclass(slots=True, eq=False)
class NumericBaseline:
    """What windows of a numeric, boolean or vector column are compared with.

    ranks    float64[k], mid-rank 0..1 of each padded place
    cell_of  int64[k], cell of each padded place
    masses   float64[cells], share of the baseline's rows in each cell
    ties     sum of cubed bucket shares: what equal ranks take off the variance of a rank
    has_over  whether a value lies beyond 2^64, where buckets end
    """

    sides: Sides
    count: float
    ranks: Counts
    cell_of: Indices
    masses: Counts
    ties: float
    has_over: bool
    _groups: dict[int, tuple[Indices, Counts]] = field(default_factory=dict)

    @classmethod
    def at(cls, numbers: Numbers, scale: int) -> NumericBaseline:
        """Of a sketch that has values, at a scale that is not above its own."""
        sides = Sides.of(numbers, scale)
        shares = sides.padded() / numbers.count
        upto = np.cumsum(shares)
        # A cut is the bucket in which the quantile lies, and ends its cell.
        ends = np.unique(np.searchsorted(upto, np.asarray(CUTS) - 1e-12))
        cell_of = np.searchsorted(ends, np.arange(len(shares)))
        masses = np.bincount(cell_of, shares, len(ends) + 1).astype(np.float64)
        return cls(
            sides,
            numbers.count,
            upto - shares / 2,
            cell_of,
            masses,
            float((shares**3).sum()),
            numbers.over > 0,
        )

    def grouping(self, rows: float) -> tuple[Indices, Counts]:
        """First cell of each group, int64[g], and the groups' shares of the baseline, so that each expects
        MIN_EXPECTED of `rows`. Kept for steps of a quarter octave."""
        step = int(np.floor(4 * np.log2(max(1.0, min(rows, self.count)))))
        found = self._groups.get(step)
        if found is None:
            starts = np.asarray(pooled(self.masses * 2.0 ** (step / 4)), np.int64)
            found = self._groups[step] = starts, np.add.reduceat(self.masses, starts)
        return found


def pooled(expected: Sequence[float] | Counts) -> list[int]:
    """First cell of each group of at least MIN_EXPECTED rows, thin cells going outward from the median."""
    left, held = [0], 0.0
    values = np.asarray(expected, np.float64)
    middle = int(np.searchsorted(np.cumsum(values), values.sum() / 2)) + 1
    for i, value in enumerate(values[:middle].tolist()):
        held += value
        if held >= MIN_EXPECTED and i + 1 < middle:
            left.append(i + 1)
            held = 0.0
    if held < MIN_EXPECTED and len(left) > 1:
        left.pop()
    right: list[int] = []
    held = 0.0
    for i in range(len(values) - 1, middle - 1, -1):
        held += float(values[i])
        if held >= MIN_EXPECTED:
            right.append(i)
            held = 0.0
    return left + right[::-1]
