"""What differs between two sketched distributions: pure functions, no thresholds, no state.

Histograms are the base-2 exponential histograms of `/v1/state` and of profiles. Two of them are
compared at the coarser of their scales, where merging buckets is exact addition.

PSI (population stability index) is shown bias-corrected: between two samples of one distribution
the plain index averages (B-1)/N over B cells, N = n*m/(n+m), which is .09 for 10 cells and 100 rows
(Yurdakul and Naranjo, Statistical properties of the population stability index, J. Risk Model
Validation 14(4), 2020). It is exact for the partition used and a lower bound for any refinement.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Baseline quantiles at which cells are cut. The outer ones give tails a voice of their own.
CUTS: Final = (0.001, 0.01, *(k / 100 for k in range(5, 100, 5)), 0.99, 0.999)
#: Cells with fewer expected rows than this are pooled with their outer neighbours.
MIN_EXPECTED: Final = 5.0
_DOMAIN_EXPONENT: Final = 64  # |x| in (2^-64, 2^64]; closer to zero is zero


@dataclass(frozen=True)
class Histogram:
    """A signed exponential histogram as sorted sparse cells.

    scale   base = 2^(2^-scale)
    keys    int64[k], ascending in value: 0 is the zero bucket; bucket i of a sign has key
            +-(i + 1 + 64 * 2^scale), so sorting keys sorts values. Bucket i holds
            (base^i, base^(i+1)]
    counts  int64[k], > 0
    """

    scale: int
    keys: NDArray[np.int64]
    counts: NDArray[np.int64]

    @classmethod
    def empty(cls, scale: int = 8) -> Histogram:
        return cls(scale, np.zeros(0, np.int64), np.zeros(0, np.int64))

    @classmethod
    def from_json(cls, body: Mapping[str, Any] | None) -> Histogram:
        """From the "histogram" object of a column; None is an empty one."""
        if body is None:
            return cls.empty()
        scale = int(body["scale"])
        shift = 1 + (_DOMAIN_EXPONENT << scale)
        positive = np.asarray(body["positive"]["counts"], np.int64)
        negative = np.asarray(body["negative"]["counts"], np.int64)
        keys = np.concatenate(
            [
                -(np.arange(len(negative))[::-1] + int(body["negative"]["offset"]) + shift),
                [0],
                np.arange(len(positive)) + int(body["positive"]["offset"]) + shift,
            ]
        ).astype(np.int64)
        counts = np.concatenate([negative[::-1], [int(body["zero"])], positive]).astype(np.int64)
        return cls(scale, keys[counts > 0], counts[counts > 0])

    @property
    def total(self) -> int:
        return int(self.counts.sum())

    def at_scale(self, scale: int) -> Histogram:
        """The same counts in wider buckets; `scale` must not be above the own one."""
        if scale > self.scale:
            raise ValueError(f"scale {scale} is finer than the histogram's ({self.scale})")
        if scale == self.scale:
            return self
        magnitude = np.abs(self.keys) - 1 - (_DOMAIN_EXPONENT << self.scale)
        wide = (magnitude >> (self.scale - scale)) + 1 + (_DOMAIN_EXPONENT << scale)
        keys, inverse = np.unique(np.sign(self.keys) * wide, return_inverse=True)
        counts = np.bincount(inverse, self.counts, len(keys)).astype(np.int64)
        return Histogram(scale, keys, counts)

    def bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Lower and upper bound of each cell, float64[k] each; the zero cell is (0, 0)."""
        index = np.abs(self.keys) - 1 - (_DOMAIN_EXPONENT << self.scale)
        inner = np.where(self.keys == 0, 0.0, np.exp2(index / 2.0**self.scale))
        outer = np.where(self.keys == 0, 0.0, np.exp2((index + 1) / 2.0**self.scale))
        negative = self.keys < 0
        return np.where(negative, -outer, inner), np.where(negative, -inner, outer)


def merge(histograms: Iterable[Histogram]) -> Histogram:
    """The histogram of all rows together, at the coarsest scale among those that are not empty."""
    parts = [h for h in histograms if len(h.keys)]
    if not parts:
        return Histogram.empty()
    scale = min(h.scale for h in parts)
    parts = [h.at_scale(scale) for h in parts]
    keys, inverse = np.unique(np.concatenate([h.keys for h in parts]), return_inverse=True)
    weights = np.concatenate([h.counts for h in parts])
    return Histogram(scale, keys, np.bincount(inverse, weights, len(keys)).astype(np.int64))


def align(a: Histogram, b: Histogram) -> tuple[Histogram, Histogram]:
    """Both at the coarser scale of the two."""
    scale = min(a.scale, b.scale)
    return a.at_scale(scale), b.at_scale(scale)


@dataclass(frozen=True)
class Psi:
    """`corrected` is what to show: PSI less its expectation under no change, at least 0."""

    raw: float
    corrected: float
    n_cells: int
    effective_rows: float


NO_DATA: Final = Psi(math.nan, math.nan, 0, 0.0)


def numeric_psi(baseline: Histogram, window: Histogram) -> Psi:
    """PSI over at most 24 cells cut at the baseline's quantiles, snapped to bucket bounds.

    NO_DATA when either is empty.
    """
    if not baseline.total or not window.total:
        return NO_DATA
    baseline, window = align(baseline, window)
    cumulative = np.cumsum(baseline.counts) / baseline.total
    last = np.searchsorted(cumulative, np.asarray(CUTS) - 1e-12)
    cuts = np.unique(baseline.keys[last])  # a cell ends with, and includes, its cut
    n_cells = len(cuts) + 1
    counts = [
        np.bincount(np.searchsorted(cuts, h.keys), h.counts, n_cells) for h in (baseline, window)
    ]
    return psi(*counts)


def categorical_psi(
    baseline: Mapping[str, int], baseline_rows: int, window: Mapping[str, int], window_rows: int
) -> Psi:
    """PSI over the values that both sides know, and one cell for all others.

    A list of heavy hitters is not all there is: a value that the window does not list has none of its
    rows only when the listed ones are all rows. Otherwise it goes to the others, which is a coarser
    partition, so a lower bound. Counts may be 5 % overestimates: to be shown, not tested. NO_DATA when
    either side has no rows.
    """
    if baseline_rows <= 0 or window_rows <= 0:
        return NO_DATA
    is_whole = sum(window.values()) >= window_rows
    names = sorted(
        (name for name in baseline if is_whole or name in window), key=lambda name: baseline[name]
    )
    counts = []
    for values, rows in ((baseline, baseline_rows), (window, window_rows)):
        known = [float(values.get(name, 0)) for name in names]
        counts.append(np.array([max(0.0, rows - sum(known)), *known]))
    return psi(*counts)


def psi(baseline: NDArray[Any], window: NDArray[Any]) -> Psi:
    """PSI of counts in the same ordered cells, each float64[k] or int64[k]; thin cells are pooled.

    Counts are smoothed by (c + 1/2) / (n + B/2), so that an empty cell is not an infinity.
    """
    m, n = float(baseline.sum()), float(window.sum())
    if not m or not n:
        return NO_DATA
    groups = pooled(baseline / m * min(m, n))
    p, q = (np.add.reduceat(np.asarray(c, np.float64), groups) for c in (baseline, window))
    n_cells = len(groups)
    p = (p + 0.5) / (m + n_cells / 2)
    q = (q + 0.5) / (n + n_cells / 2)
    raw = float(((q - p) * np.log(q / p)).sum())
    effective = n * m / (n + m)
    return Psi(raw, max(0.0, raw - (n_cells - 1) / effective), n_cells, effective)


def pooled(expected: NDArray[np.float64]) -> list[int]:
    """First cell of each group of at least MIN_EXPECTED rows, thin cells going outward from the median."""
    left, held = [0], 0.0
    values = expected
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


def outside(baseline: Histogram, window: Histogram) -> float:
    """Share of the window's rows in buckets beyond both ends of the baseline's; nan without data.

    PSI pools the cells where a constant baseline expects nothing; this does not.
    """
    if not baseline.total or not window.total:
        return math.nan
    baseline, window = align(baseline, window)
    beyond = (window.keys < baseline.keys[0]) | (window.keys > baseline.keys[-1])
    return float(window.counts[beyond].sum()) / window.total


def rebin(histogram: Histogram, edges: Sequence[float]) -> NDArray[np.float64]:
    """Rows in each [edges[j], edges[j+1]), a bucket's rows spread evenly over it; for display.

    Returns float64[len(edges) - 1]; rows beyond the edges are left out.
    """
    result = np.zeros(len(edges) - 1)
    if not histogram.total:
        return result
    lower, upper = histogram.bounds()
    grid = np.asarray(edges, np.float64)
    width = upper - lower
    atoms = width <= 0
    spread = np.where(atoms, 1.0, width)
    for j in range(len(result)):
        overlap = np.minimum(upper, grid[j + 1]) - np.maximum(lower, grid[j])
        share = np.where(
            atoms, (lower >= grid[j]) & (lower < grid[j + 1]), np.clip(overlap / spread, 0.0, 1.0)
        )
        result[j] = float((share * histogram.counts).sum())
    return result


def quantile(histogram: Histogram, q: float) -> float:
    """Upper bound of the bucket that holds the q-quantile; nan when empty."""
    if not histogram.total:
        return math.nan
    at = int(np.searchsorted(np.cumsum(histogram.counts), q * histogram.total))
    return float(histogram.bounds()[1][min(at, len(histogram.keys) - 1)])


def binomial_bounds(hits: int, rows: int, alpha: float) -> tuple[float, float]:
    """Exact (Clopper-Pearson) two-sided bounds of a rate at confidence 1 - alpha.

    Clopper and Pearson, The use of confidence or fiducial limits, Biometrika 26, 1934. Solved by
    bisection to 1e-12. (0, 1) without rows.
    """
    if rows <= 0:
        return 0.0, 1.0
    low = 0.0 if hits <= 0 else _solve(lambda x: _beta_cdf(x, hits, rows - hits + 1), alpha / 2)
    high = 1.0
    if hits < rows:
        high = _solve(lambda x: _beta_cdf(x, hits + 1, rows - hits), 1.0 - alpha / 2)
    return low, high


def _solve(cdf: Any, target: float) -> float:
    """x in [0, 1] where a rising function reaches `target`."""
    low, high = 0.0, 1.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        if cdf(middle) < target:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _beta_cdf(x: float, a: float, b: float) -> float:
    """Regularised incomplete beta I_x(a, b), a, b > 0; relative error about 1e-12.

    Continued fraction DLMF 8.17.22, evaluated by Lentz's method (Thompson and Barnett 1986), on
    the side where it converges in O(sqrt(max(a, b))) steps.
    """
    if x <= 0.0:
        return 0.0
    if x >= 1.0:
        return 1.0
    if x > (a + 1.0) / (a + b + 2.0):
        return 1.0 - _beta_cdf(1.0 - x, b, a)
    log_front = (
        math.lgamma(a + b)
        - math.lgamma(a)
        - math.lgamma(b)
        + a * math.log(x)
        + b * math.log1p(-x)
        - math.log(a)
    )
    tiny = 1e-300
    fraction, c, d = 1.0, 1.0, 0.0
    for step in range(1, 20_000):
        m, odd = divmod(step, 2)
        if odd:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1.0 + term * d
        d = 1.0 / (d if abs(d) > tiny else tiny)
        c = 1.0 + term / c
        c = c if abs(c) > tiny else tiny
        fraction *= c * d
        if abs(c * d - 1.0) < 1e-14:
            break
    return math.exp(log_front) / fraction
