"""What pairs of columns do in the baseline: their correlations, and how much those vary from block to block.

The baseline's rows in order, as blocks with pair sums; neighbours are merged again and again, as in
`calibration`. At each size every pair has a standard deviation, from the *even* blocks, drawn toward what all pairs
have in common as far as noise explains their spread (Smyth 2004). Then the *odd* blocks say by how much the
largest of all deviations reaches further than of that many normals (`stretch`): on the blocks that gave the
deviations themselves it seems to reach less far, and a test at 1 % fires in 5 % of windows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.errors import DecodeError
from agent.judge.special import two_sided
from agent.sketch.pair_sums import PairSums, ScoreTable

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
#: Fewer blocks say nothing of a deviation, and sizes with fewer odd blocks nothing of a tail.
MIN_BLOCKS: Final = 16
MIN_TAIL_BLOCKS: Final = 16
#: Blocks wanted; more are merged in pairs first.
MOST_BLOCKS: Final = 512
#: A correlation of fewer rows is hardly one.
MIN_ROWS: Final = 60
#: Rows times 9 over both scores' kurtosis: a normal's tail describes the correlation from here on.
MIN_NORMAL_ROWS: Final = 50.0
#: Of the variance, given the value that a spread belongs to: less says nothing.
_MIN_LEFT: Final = 0.2
_MOST_STRETCH: Final = 4.0


class Pairs:
    """The pairs of scores of different columns.

    first, second  int64[K]
    peaks   float64[K], products of kurtosis
    given   int64[K]: where `second` is a spread and `first` is none, the value that it is the spread of, which is
            held fixed (else a column that shifts would seem to spread with its partners); -1 elsewhere
    """

    def __init__(self, table: ScoreTable) -> None:
        owner = {id(column): i for i, column in enumerate(table.columns)}
        owners = np.array([owner[id(column)] for column in table.owners])
        first, second = np.triu_indices(table.n_scores, 1)
        others = owners[first] != owners[second]
        first, second = first[others], second[others]
        values = np.full(table.n_scores, -1)  # of each spread, its value
        values[table.spreads] = np.flatnonzero([c.n_scores > 1 for c in table.numbers])
        self.is_spread = values >= 0
        swapped = self.is_spread[first] & ~self.is_spread[second]
        self.first = np.where(swapped, second, first)
        self.second = np.where(swapped, first, second)
        self.given = np.where(self.is_spread[self.first], -1, values[self.second])
        self.peaks: Floats = table.peaks[self.first] * table.peaks[self.second]

    def normal(self, rows: float) -> NDArray[np.bool_]:
        """bool[K]: whose correlation over so many rows has a normal's tails."""
        found: NDArray[np.bool_] = rows * 9.0 >= MIN_NORMAL_ROWS * self.peaks
        return found

    def __len__(self) -> int:
        return len(self.first)


def correlations(sums: PairSums, pairs: Pairs) -> tuple[Floats, Floats]:
    """Correlation of each pair, float64[K], given the value where one is (`Pairs.given`); nan where a score does not
    vary by itself. And both variances, float64[2, K]."""
    _, covariance = sums.moments()
    variance = np.diag(covariance)
    with np.errstate(invalid="ignore", divide="ignore"):
        every = covariance / np.sqrt(np.outer(variance, variance))
        found: Floats = every[pairs.first, pairs.second]
        held = pairs.given >= 0
        one, two = every[pairs.first, pairs.given][held], every[pairs.second, pairs.given][held]
        left = (1.0 - one**2) * (1.0 - two**2)
        found[held] = np.where(left >= _MIN_LEFT, (found[held] - one * two) / np.sqrt(left), np.nan)
    found[~np.isfinite(found)] = np.nan
    both = np.stack((variance[pairs.first], variance[pairs.second]))
    return found, both


class PairLevel(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Noise at one size: rows of a block, standard deviation of sqrt(rows) r of each pair as float32[K], and the
    stretch of the largest."""

    rows: float
    sd: bytes
    stretch: float


class PairBaseline(
    msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, dict=True
):
    """What windows' pairs are compared with; part of a reference.

    sums   of all rows (`PairSums.to_bytes`), under `table`
    shares  share of rows that have a value, by score
    levels  noise by size, ascending; none: too little history, and no window is compared
    """

    table: ScoreTable
    sums: bytes
    shares: list[float]
    levels: list[PairLevel]

    @cached_property
    def pairs(self) -> Pairs:
        return Pairs(self.table)

    @cached_property
    def read(self) -> PairSums:
        return PairSums.from_bytes(self.sums)

    @property
    def rows(self) -> int:
        """Rows in the sums."""
        return self.read.rows

    @cached_property
    def before(self) -> Floats:
        """Correlation of each pair, float64[K]."""
        return correlations(self.read, self.pairs)[0]

    @cached_property
    def variances(self) -> Floats:
        """Of both scores of each pair, float64[2, K]."""
        return correlations(self.read, self.pairs)[1]

    @cached_property
    def present(self) -> Floats:
        return np.array(self.shares)

    @cached_property
    def _sds(self) -> Floats:
        return np.array([np.frombuffer(level.sd, np.float32) for level in self.levels], np.float64)

    def sd_at(self, rows: float) -> Floats:
        """Standard deviation of sqrt(rows) r of each pair. Beyond the largest size what a stream wanders is
        taken to grow in proportion to the rows."""
        sizes = [level.rows for level in self.levels]
        variances = self._sds**2
        if rows >= sizes[-1]:
            grown = (variances[-1] - variances[0]) * rows / sizes[-1]
            return np.sqrt(variances[0] + grown)  # type: ignore[no-any-return]
        i = int(np.searchsorted(sizes, rows, side="right"))
        if i == 0:
            return self._sds[0]  # type: ignore[no-any-return]
        part = (rows - sizes[i - 1]) / (sizes[i] - sizes[i - 1])
        return np.sqrt(variances[i - 1] + part * (variances[i] - variances[i - 1]))  # type: ignore[no-any-return]

    def stretch_at(self, rows: float) -> float:
        """By how much the largest deviation reaches further than that of normals."""
        below = [level.stretch for level in self.levels if level.rows <= 1.01 * rows]
        return below[-1] if below else self.levels[0].stretch

    def check(self) -> None:
        """Raises DecodeError where parts do not match."""
        ScoreTable.from_bytes(self.table.to_bytes())
        sums, k = self.read, len(self.pairs)
        if (
            sums.table_id != self.table.id
            or sums.n_scores != self.table.n_scores
            or len(self.shares) != self.table.n_scores
            or not k
            or not all(0.0 <= share <= 1.0 for share in self.shares)
            or any(len(level.sd) != 4 * k for level in self.levels)
            or not all(0.0 < level.rows < 1e15 for level in self.levels)
            or not all(1.0 <= level.stretch <= _MOST_STRETCH for level in self.levels)
            or (self.levels and not (1e-4 < self._sds.min() <= self._sds.max() < 1e6))
            or any(a.rows >= b.rows for a, b in zip(self.levels, self.levels[1:], strict=False))
        ):
            raise DecodeError("pairs of a reference: table, sums and noise do not match")


def calibrate_pairs(
    table: ScoreTable, sums: PairSums, shares: Sequence[float], blocks: Sequence[PairSums]
) -> PairBaseline:
    """From the baseline's sums and those of its blocks, in order and of about equal size. Blocks of other
    tables are left out."""
    baseline = PairBaseline(table, sums.to_bytes(), list(shares), [])
    held = [block for block in blocks if block.table_id == table.id]
    levels: list[PairLevel] = []
    before: Floats | None = None
    while len(held) >= MIN_BLOCKS:
        rows = float(np.mean([block.rows for block in held]))
        if len(held) <= MOST_BLOCKS and rows >= MIN_ROWS:
            level, before = _level(baseline, held, rows, before, levels[-1:])
            levels.append(level)
        held = [a + b for a, b in zip(held[::2], held[1::2], strict=False)]
    return PairBaseline(table, baseline.sums, baseline.shares, levels)


def _level(
    baseline: PairBaseline,
    blocks: Sequence[PairSums],
    rows: float,
    before: Floats | None,
    smaller: Sequence[PairLevel],
) -> tuple[PairLevel, Floats]:
    """Noise of blocks of one size; and the variances, float64[K]. `before`: those of the next smaller size."""
    m = float(baseline.rows)
    pairs = baseline.pairs
    off = np.zeros((len(blocks), len(pairs)))
    for i, block in enumerate(blocks):
        n = float(block.rows)
        if n <= 0.95 * m:  # a block lies inside the baseline
            off[i] = (correlations(block, pairs)[0] - baseline.before) / math.sqrt(1 / n - 1 / m)
    held = np.isfinite(off[::2]).sum(axis=0)
    np.nan_to_num(off, copy=False)
    even, odd = off[::2], off[1::2]
    # By theory (1 - r^2)^2 for normals; then what the next smaller size showed.
    model = before if before is not None else np.maximum(0.05, 1.0 - _square(baseline.before)) ** 2
    variance = _moderated((even**2).sum(axis=0) / np.maximum(1, held), model, len(even))
    if before is not None:
        variance = np.maximum(before, variance)
    sd = np.sqrt(variance)
    normal = pairs.normal(rows)
    stretch = smaller[-1].stretch if smaller else 1.0
    if len(odd) >= MIN_TAIL_BLOCKS and normal.any():
        largest = np.sort((np.abs(odd) / sd)[:, normal].max(axis=1))
        stretch = _tail_ratio(largest, int(normal.sum()))
    return PairLevel(rows, sd.astype(np.float32).tobytes(), stretch), variance


def _square(values: Floats) -> Floats:
    return np.nan_to_num(values) ** 2


def _moderated(found: Floats, model: Floats, n: int) -> Floats:
    """Variances from n values each, drawn toward their model times one factor as far as noise explains how
    they differ from it."""
    ratio = found / model
    factor = float(np.median(ratio)) or 1.0
    between = max(0.0, float(np.var(np.minimum(ratio, 10.0 * factor))) - 2.0 / n * factor**2)
    weight = between / (between + 2.0 / n * factor**2)
    drawn: Floats = model * (factor + weight * (ratio - factor))
    return np.maximum(drawn, 1e-6)


def _tail_ratio(ordered: Floats, k: int) -> float:
    """The largest ratio of an upper quantile of the maximum of k deviations to that by Bonferroni, from 10 % to the
    third largest."""
    n = len(ordered)
    ranks = {max(3, round(n * share)) for share in (0.1, 0.05, 0.02, 0.01)}
    ratios = [
        float(ordered[-rank]) / two_sided((rank - 0.5) / n / k) for rank in ranks if rank < n / 3
    ]
    return min(_MOST_STRETCH, max([1.0, *ratios]))
