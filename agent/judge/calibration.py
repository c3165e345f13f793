"""What history says of noise: how much more windows of a healthy stream differ than independent rows would.

The baseline's own rows, in order, are cut into blocks; blocks are merged in pairs, again and again, down
to eight. At each size a cell's variance is compared with that of independent rows. The ratio, `phi`,
is 1 for rows that are, constant for rows that come in clusters, and grows with the size where the stream itself
wanders. So a file whose blocks are smaller than the windows judged later still says what to expect of
those; beyond its largest size phi is taken to go on growing as it grew. `docs/decisions/0011` has the experiment.

Estimates of single cells are noisy, those of 60 together are not: each is shrunk toward the mean of
its statistic as far as noise explains their spread (empirical Bayes), and stated one error high, less
what the detector's own caution covers.

A block lies inside the baseline, so the two differ by 1/n - 1/m in place of 1/n + 1/m.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.errors import DecodeError
from agent.fold.profile import Profile
from agent.judge.cells import LOG_RATIOS, CellKey, CellValue, Prepared, Statistic, measure
from agent.judge.counted import Counted, counted, merged
from agent.judge.special import spread_chi2_z, trigamma, two_sided

Floats = NDArray[np.float64]
#: Fewer blocks say nothing of a variance.
MIN_BLOCKS: Final = 8
#: Sizes with fewer blocks say nothing of a tail.
MIN_TAIL_BLOCKS: Final = 32
#: Blocks wanted; more are merged in pairs first.
MOST_BLOCKS: Final = 512
#: Windows over which evidence adds up before it pages or is gone.
HORIZON: Final = 4
_LASTING_COVERED: Final = 1.2
#: Rarer missing values than so many a block have tails of counts, not of a normal.
_COMMON: Final = 5.0
#: Error of phi that the detector's kappa of .5 covers: at slope 4, l^2 .15 / 2 = 1.2 of l kappa = 2.
_COVERED: Final = 0.15
#: No stretch of the tail beyond: the data are not a stream then.
_MOST_STRETCH: Final = 4.0


class CellNoise(msgspec.Struct, frozen=True, array_like=True):
    """One cell's noise by size of the window.

    sizes   rows, ascending
    phi     variance over that of independent rows, at each size, never falling
    spread  standard deviation of log phi from window to window (shape, centroid, rff), at each size
    rate    unseen: largest believable share of rows without precedent; volume: mean of log(1 + rows)
    """

    key: CellKey
    sizes: list[float]
    phi: list[float]
    spread: list[float]
    rate: float = 0.0

    def phi_at(self, rows: float) -> float:
        """phi for windows of so many rows."""
        if self.phi[0] == self.phi[-1] and len(self.phi) > 1:  # most cells: it never falls
            return self.phi[0]
        beyond = rows - self.sizes[-1]
        if beyond > 0.0:
            return self.phi[-1] + self._growth() * beyond
        return _between(rows, self.sizes, self.phi)

    def lasting_at(self, rows: float) -> float:
        """By how much neighbouring windows repeat each other: the variance of the mean of HORIZON of them over
        that of as many that are independent; 1 for those."""
        return self.phi_at(HORIZON * rows) / self.phi_at(rows)

    def _growth(self) -> float:
        """phi per row beyond the largest size: as over all sizes, or over the last three if that is more."""
        sizes, phi = self.sizes, self.phi
        if len(sizes) == 1:
            return (phi[0] - 1.0) / sizes[0]
        last = max(0, len(sizes) - 3)
        return max((phi[-1] - phi[i]) / (sizes[-1] - sizes[i]) for i in (0, last))

    def spread_at(self, rows: float) -> float:
        return _between(rows, self.sizes, self.spread)


def _between(at: float, xs: list[float], ys: list[float]) -> float:
    """Piecewise linear, constant beyond the ends; a microsecond where numpy takes ten."""
    i = bisect_right(xs, at)
    if i == 0:
        return ys[0]
    if i == len(xs):
        return ys[-1]
    return ys[i - 1] + (ys[i] - ys[i - 1]) * (at - xs[i - 1]) / (xs[i] - xs[i - 1])


class Calibration(msgspec.Struct, frozen=True):
    """What the change detector knows of a model's healthy windows; travels with the baseline.

    windows   blocks or windows that it was learned from
    rows      rows that they hold
    stretch   (size, factor): by how much tails are longer than a normal's, at sizes
    guard     factor on the budget, from replaying history: 1 where history would not have paged
    """

    windows: int
    rows: float
    cells: list[CellNoise]
    stretch: list[tuple[float, float]] = []
    guard: float = 1.0

    @property
    def is_learning(self) -> bool:
        """Whether there is too little history to call a change."""
        return self.windows < MIN_BLOCKS

    def stretch_at(self, rows: float) -> float:
        """By how much tails of windows of so many rows are longer than a normal's."""
        below = [factor for size, factor in self.stretch if size <= rows * 1.01]
        if below:
            return below[-1]
        return self.stretch[0][1] if self.stretch else 1.0

    def to_bytes(self) -> bytes:
        return msgspec.msgpack.encode(self)

    @staticmethod
    def from_bytes(data: bytes) -> Calibration:
        """Raises DecodeError for bytes that are not a calibration."""
        try:
            read = msgspec.msgpack.decode(data, type=Calibration)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise DecodeError(f"calibration: {error}") from None
        for cell in read.cells:
            n = len(cell.sizes)
            if not n or len(cell.phi) != n or len(cell.spread) != n:
                raise DecodeError(f"calibration: sizes of {cell.key} do not match")
            if any(b <= a for a, b in zip(cell.sizes, cell.sizes[1:], strict=False)):
                raise DecodeError(f"calibration: sizes of {cell.key} do not rise")
        return read


NOTHING_LEARNED: Final = Calibration(0, 0.0, [])


def calibrate(
    baseline: Profile | Prepared,
    history: Sequence[Profile | Counted],
    *,
    is_windows: bool = False,
) -> Calibration:
    """Learn from a baseline's own rows: `history` holds them in order, as blocks of about equal size.

    is_windows  the blocks are windows of time, so their rows say what `volume` to expect

    History that does not lie inside the baseline is not foreseen. With fewer than MIN_BLOCKS blocks the
    result `is_learning`.
    """
    known = baseline if isinstance(baseline, Prepared) else Prepared(baseline)
    blocks = [h if isinstance(h, Counted) else counted(h) for h in history]
    blocks = [b for b in blocks if b.rows]
    n_blocks, rows = len(blocks), float(sum(b.rows for b in blocks))
    volume = _volume(blocks) if is_windows and n_blocks >= MIN_BLOCKS else None
    levels: list[_Level] = []
    while len(blocks) >= MIN_BLOCKS:
        if len(blocks) <= MOST_BLOCKS:
            levels.append(_level(known, blocks))
        blocks = [merged(a, b) for a, b in zip(blocks[::2], blocks[1::2], strict=False)]
    if not levels:
        return Calibration(n_blocks, rows, [])
    cells = _noise(levels)
    if volume is not None:
        cells.append(volume)
    return Calibration(n_blocks, rows, cells, _stretch(levels, cells))


# ---------------------------------------------------------------- one size


class _Level(msgspec.Struct):
    """All cells at one size: per cell its standardised deviations, one for each block that has it.

    values  loc, missing: float64[blocks], mean 0 and variance phi; shape: PSI over its expectation, mean phi;
            unseen: shares of rows
    df      degrees of freedom (shape)
    counts  values of each block
    smallest  expected hits or misses of a block, whichever are fewer (missing)
    """

    rows: float
    values: dict[CellKey, Floats]
    df: dict[CellKey, float]
    counts: dict[CellKey, Floats]
    smallest: dict[CellKey, float]


def _level(known: Prepared, blocks: Sequence[Counted]) -> _Level:
    found: dict[CellKey, list[tuple[float, float, float, float]]] = {}
    for block in blocks:
        for cell in measure(known, block, is_inside=True):
            value = deviation(cell, is_inside=True)
            if not math.isnan(value):
                found.setdefault(cell.key, []).append(
                    (value, cell.df, cell.n, cell.n * cell.spread**2)
                )
    kept = {key: np.array(rows) for key, rows in found.items() if len(rows) >= MIN_BLOCKS}
    return _Level(
        float(np.mean([b.rows for b in blocks])),
        {key: rows[:, 0] for key, rows in kept.items()},
        {key: float(rows[:, 1].mean()) for key, rows in kept.items()},
        {key: rows[:, 2] for key, rows in kept.items()},
        {key: float(rows[:, 3].mean()) for key, rows in kept.items()},
    )


def deviation(cell: CellValue, *, is_inside: bool = False) -> float:
    """What independent rows would have with variance 1 (loc, missing) or mean 1 (shape); nan where nothing
    can differ."""
    sign = -1.0 if is_inside else 1.0
    variance = 1.0 / cell.n + sign / cell.m
    if variance <= 0.05 / cell.n:
        return math.nan
    match cell.key.statistic:
        case Statistic.LOC | Statistic.MISSING:
            return cell.effect / (cell.spread * math.sqrt(variance))
        case Statistic.SHAPE | Statistic.CENTROID | Statistic.RFF:
            return math.exp(cell.x) * (1.0 / cell.n + 1.0 / cell.m) / variance
        case Statistic.UNSEEN:
            return cell.effect
        case _:
            return math.nan


# ---------------------------------------------------------------- all sizes


def _noise(levels: Sequence[_Level]) -> list[CellNoise]:
    keys = list(dict.fromkeys(key for level in levels for key in level.values))
    sizes: dict[CellKey, list[float]] = {key: [] for key in keys}
    phis: dict[CellKey, list[float]] = {key: [] for key in keys}
    spreads: dict[CellKey, list[float]] = {key: [] for key in keys}
    # One column of vectors is too few to learn from by itself: shapes of the same rows stand by it.
    for alike in ({Statistic.LOC}, {Statistic.MISSING}, LOG_RATIOS, {Statistic.UNSEEN}):
        distinct = 0.0
        for level in levels:
            group = [key for key in level.values if key.statistic in alike]
            if not group:
                continue
            terms = [_terms(level, key) for key in group]
            distinct = distinct or _distinct(terms)
            phi = _phi(terms, distinct)
            spread = _spread(level, group) if alike is LOG_RATIOS else [0.0] * len(group)
            for key, value, wide in zip(group, phi, spread, strict=True):
                sizes[key].append(level.rows)
                phis[key].append(max([value, *phis[key][-1:]]))
                spreads[key].append(wide)
    return [
        CellNoise(
            key,
            sizes[key],
            phis[key],
            spreads[key],
            _unseen_rate(levels[0], key) if key.statistic is Statistic.UNSEEN else 0.0,
        )
        for key in keys
    ]


class _Terms(NamedTuple):
    """One cell at one size: what it adds to phi in each block, and the variance of that by chance at phi 1."""

    values: Floats
    variance: float


def _terms(level: _Level, key: CellKey) -> _Terms:
    values = level.values[key]
    match key.statistic:
        case Statistic.SHAPE | Statistic.CENTROID | Statistic.RFF:
            return _Terms(values, 2.0 / level.df[key])
        case Statistic.UNSEEN:
            counts = values * level.counts[key]
            mean = float(counts.mean())
            return _Terms((counts - mean) ** 2 / mean if mean else np.ones(len(counts)), 2.0)
        case _:
            return _Terms(values**2, 2.0)


def _distinct(terms: Sequence[_Terms]) -> float:
    """How many cells of one statistic are worth together, 1 for cells that move as one: from how much
    their mean varies between the smallest blocks, of which there are most."""
    n = min(len(t.values) for t in terms)
    mean = np.mean([t.values[:n] for t in terms], axis=0)
    each = float(np.mean([t.values[:n].var() for t in terms]))
    together = float(mean.var())
    return min(float(len(terms)), max(1.0, each / together)) if together > 0.0 else 1.0


def _phi(terms: Sequence[_Terms], distinct: float) -> list[float]:
    """phi of each cell: shrunk, one error high less what is covered, at least 1."""
    estimates = np.array([float(t.values.mean()) for t in terms])
    noise = np.array(
        [
            t.variance / len(t.values) * max(1.0, e) ** 2
            for t, e in zip(terms, estimates.tolist(), strict=True)
        ]
    )
    mean = float(estimates.mean())
    between = max(0.0, float(estimates.var()) - float(noise.mean()))
    weight = between / (between + noise)
    shrunk = mean + weight * (estimates - mean)
    error = np.sqrt(weight * noise) + (1.0 - weight) * math.sqrt(float(noise.mean()) / distinct)
    high: list[float] = np.maximum(
        1.0, shrunk + error - _COVERED * np.maximum(1.0, shrunk)
    ).tolist()
    return high


def _spread(level: _Level, group: Sequence[CellKey]) -> list[float]:
    """Standard deviation of log phi between blocks beyond what sampling alone makes, pooled over cells."""
    excess = []
    for key in group:
        logs = np.log(np.maximum(level.values[key], 1e-12))
        excess.append(float(logs.var(ddof=1)) - trigamma(max(0.5, level.df[key] / 2.0)))
    n = min(len(level.values[key]) for key in group)
    noise = 2.0 / n * float(np.mean([trigamma(max(0.5, level.df[k] / 2.0)) for k in group])) ** 2
    mean = float(np.mean(excess))
    between = max(0.0, float(np.var(excess)) - noise)
    weight = between / (between + noise) if noise else 1.0
    return [math.sqrt(max(0.0, mean + weight * (e - mean))) for e in excess]


def _unseen_rate(level: _Level, key: CellKey) -> float:
    """Share of rows without precedent that blocks showed, three errors high."""
    if key not in level.values:
        return 0.0
    shares = level.values[key]
    return float(shares.mean() + 3.0 * shares.std() / math.sqrt(len(shares)))


def _stretch(levels: Sequence[_Level], cells: Sequence[CellNoise]) -> list[tuple[float, float]]:
    """At each size with enough blocks, by how much pooled deviations reach further than a normal's.

    Rare missing values are left out: counts are skewed, and their cell has an exact tail.
    """
    known = {cell.key: cell for cell in cells}
    found = []
    for level in levels:
        pool = []
        for key, values in level.values.items():
            noise, statistic = known[key], key.statistic
            if len(values) < MIN_TAIL_BLOCKS or statistic is Statistic.UNSEEN:
                continue
            if statistic in LOG_RATIOS:
                ratio = values / noise.phi_at(level.rows)
                df = np.full(len(values), level.df[key])
                z = spread_chi2_z(ratio, df, np.full(len(values), noise.spread_at(level.rows)))
                pool.append(np.abs(z[z > 0]))
            elif statistic is Statistic.LOC or level.smallest[key] >= _COMMON:
                pool.append(np.abs(values) / math.sqrt(noise.phi_at(level.rows)))
        if pool:
            found.append((level.rows, _tail_ratio(np.sort(np.concatenate(pool)))))
    return found


def _tail_ratio(ordered: Floats) -> float:
    """The largest ratio of an upper quantile of |z| to a normal's, from 95 % to the third largest."""
    n = len(ordered)
    ranks = {max(3, round(n * share)) for share in (0.05, 0.01, 0.003, 0.001)}
    ratios = [float(ordered[-rank]) / two_sided((rank - 0.5) / n) for rank in ranks if rank < n / 4]
    return min(_MOST_STRETCH, max([1.0, *ratios]))


def _volume(blocks: Sequence[Counted]) -> CellNoise:
    logs = np.log1p([b.rows for b in blocks])
    # The median absolute deviation: a window that was cut off must not hide others.
    middle = float(np.median(logs))
    sd = max(0.02, 1.4826 * float(np.median(np.abs(logs - middle))), float(logs.std()) / 2.0)
    key = CellKey(None, Statistic.VOLUME)
    return CellNoise(key, [1.0], [sd * sd], [0.0], middle)
