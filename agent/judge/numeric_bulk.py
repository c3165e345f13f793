"""Columns of numbers of one window compared with their baselines all at once.

A column has some hundreds of buckets, on which numpy spends less than on being called. So the places
(`NumericBaseline`) of all columns lie one behind the other, and each step is done once for all of them:
a window of 20 columns takes a quarter of the time that 20 windows of one would.

Between the baseline's buckets and beyond them a place holds all that falls there. The baseline's CDF does not move
inside such a place, so what the window's does there is told by its two ends: KS and AUC are those of the
buckets themselves. Only the Wasserstein distance must know how far away such values lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agent.judge.numeric_cells import Indices, NumericBaseline
from agent.judge.sketch_counts import Counts, Numbers


@dataclass(slots=True, eq=False)
class Bulk:
    """k columns. float64[places] where not said otherwise.

    counts   of the window, by place
    n        float64[k], values of the window
    first    int64[k], where each column's places begin
    sizes    int64[k], how many those are
    """

    bases: Sequence[NumericBaseline]
    counts: Counts
    n: Counts
    first: Indices
    sizes: Indices

    @classmethod
    def of(cls, bases: Sequence[NumericBaseline], window: Sequence[Numbers]) -> Bulk:
        """Baselines (at least one) and as many columns of a window, each at a scale that is not below its
        baseline's."""
        sizes = np.array([len(base.ranks) for base in bases], np.int64)
        ends: Indices = np.cumsum(sizes)
        counts = np.zeros(int(ends[-1]))
        at = 0
        for base, numbers, size in zip(bases, window, sizes.tolist(), strict=True):
            base.place(numbers, counts[at : at + size])
            at += size
        n = np.array([numbers.count for numbers in window], np.float64)
        return cls(bases, counts, n, ends - sizes, sizes)

    def total(self, values: Counts) -> Counts:
        """float64[k]: sums of each column's values."""
        return np.add.reduceat(values, self.first)

    def locations(self) -> Counts:
        """float64[k]: P(window > baseline) + ties / 2."""
        ranks = np.concatenate([base.ranks for base in self.bases])
        return self.total(self.counts * ranks) / self.n

    def shares(self) -> tuple[Counts, Counts]:
        """The window's shares by place, and their sums up to and with the place."""
        upto = np.cumsum(self.counts)  # of whole numbers: exact
        before = upto[self.first] - self.counts[self.first]
        upto -= np.repeat(before, self.sizes)
        n = np.repeat(1.0 / self.n, self.sizes)
        upto *= n
        return self.counts * n, upto

    def groups(self) -> Groups:
        """The cells that PSI is of. A column with a single one has nothing to compare: its distances are 0."""
        grouped = [base.grouping(n) for base, n in zip(self.bases, self.n.tolist(), strict=True)]
        sizes = np.array([len(starts) for starts, _ in grouped], np.int64)
        first: Indices = np.cumsum(sizes) - sizes
        owner = np.repeat(np.arange(len(sizes)), sizes)
        starts = np.concatenate([starts for starts, _ in grouped]) + self.first[owner]
        m = np.array([base.count for base in self.bases])
        p = np.concatenate([shares for _, shares in grouped]) * m[owner]
        q = np.add.reduceat(self.counts, starts)
        return Groups(first, sizes.astype(np.float64), owner, p, q, m, self.n)


@dataclass(slots=True, eq=False)
class Groups:
    """Counts in the cells of k columns, one column behind the other.

    first    int64[k], where each column's cells begin    owner  int64[cells], the column of each cell
    sizes    float64[k], cells of each column
    p, q     float64[cells], of baseline and window      m, n  float64[k], values of both
    """

    first: Indices
    sizes: Counts
    owner: Indices
    p: Counts
    q: Counts
    m: Counts
    n: Counts

    def _total(self, values: Counts) -> Counts:
        return np.add.reduceat(values, self.first)

    def psi(self) -> Counts:
        """float64[k]: PSI as `cells.psi_of` has it."""
        half = self.sizes / 2.0
        p = (self.p + 0.5) / (self.m + half)[self.owner]
        q = (self.q + 0.5) / (self.n + half)[self.owner]
        return self._total((q - p) * np.log(q / p))

    def js(self) -> Counts:
        """float64[k]: Jensen-Shannon divergence, nats."""
        p, q = self.p / self.m[self.owner], self.q / self.n[self.owner]
        middle = (p + q) / 2.0
        found = np.zeros(len(self.first))
        for side in (p, q):
            with np.errstate(divide="ignore", invalid="ignore"):
                terms = np.where(side > 0.0, side * np.log(side / middle), 0.0)
            found += 0.5 * np.maximum(0.0, self._total(terms))
        return found

    def hellinger(self) -> Counts:
        """float64[k]."""
        p, q = self.p / self.m[self.owner], self.q / self.n[self.owner]
        return np.sqrt(np.maximum(0.0, 1.0 - self._total(np.sqrt(p * q))))
