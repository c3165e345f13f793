"""What history says of noise: how much more windows of a healthy stream differ than independent rows would.

The baseline's own rows, in order, are cut into blocks; blocks are merged in pairs, again and again, down
to eight. At each size a cell's variance is compared with that of independent rows. The ratio, `phi`,
is 1 for rows that are, constant for rows that come in clusters, and grows with the size where the stream itself
wanders. So a file whose blocks are smaller than the windows judged later still says what to expect of
those; beyond its largest size phi is taken to go on growing as it grew. `docs/decisions/0011` has the experiment.

What one size says is in `levels`.

A block lies inside the baseline, so the two differ by 1/n - 1/m in place of 1/n + 1/m.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.errors import DecodeError
from agent.fold.profile import Profile
from agent.judge.cells import LOG_RATIOS, CellKey, CellValue, Prepared, Statistic, measure
from agent.judge.counted import Counted, counted, merged, scaled
from agent.judge.levels import (
    HORIZON,
    LASTING_COVERED,
    LONG_HORIZON,
    Level,
    distinct_of,
    phi_of,
    repeats_of,
    spread_of,
    terms_of,
    unseen_rate,
)
from agent.judge.special import spread_chi2_z, two_sided
from agent.types import Column

Floats = NDArray[np.float64]
#: Fewer blocks say nothing of a variance.
MIN_BLOCKS: Final = 8
#: Sizes with fewer blocks say nothing of a tail.
MIN_TAIL_BLOCKS: Final = 32
#: Blocks wanted; more are merged in pairs first.
MOST_BLOCKS: Final = 512
#: Rarer missing values than so many a block have tails of counts, not of a normal.
_COMMON: Final = 5.0
#: What location leaves of a chi-square at least: it is worked out from finer buckets, and may be more.
_LEAST_REST: Final = 0.05
#: No stretch of the tail beyond: the data are not a stream then.
_MOST_STRETCH: Final = 4.0


class CellNoise(msgspec.Struct, frozen=True, array_like=True):
    """One cell's noise by size of the window.

    sizes   rows, ascending
    phi     variance over that of independent rows, at each size, never falling
    spread  standard deviation of log phi from window to window (shape, centroid, rff), at each size
    rate    unseen: largest believable share of rows without precedent; volume: mean of log(1 + rows)
    repeats  of distances, by how much neighbours of each size repeat each other: their mean grows little where one
             direction of many wanders, and its excess lasts all the same. Where it is known, noise is that of the
             distance `without_location`
    """

    key: CellKey
    sizes: list[float]
    phi: list[float]
    spread: list[float]
    rate: float = 0.0
    repeats: list[float] = []

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
        that of as many that are independent; 1 for those. Or of LONG_HORIZON, less what is covered: as far as the
        history reaches, since what it has not shown would make everything blind."""
        wandering = 1.0
        if self.phi[0] < self.phi[-1] or len(self.phi) == 1:  # it never falls
            reach = min(LONG_HORIZON * rows, self.sizes[-1])
            reached = max(self.phi_at(HORIZON * rows), self.phi_at(reach) / LASTING_COVERED)
            wandering = reached / self.phi_at(rows)
        if not self.repeats or self.repeats[-1] <= wandering:
            return wandering
        return max(wandering, _between(rows, self.sizes, self.repeats))

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
    together  rows of the baseline that follow each other, where it is of separate stretches (the same hour of many
              days); 0: all of them
    """

    windows: int
    rows: float
    cells: list[CellNoise]
    stretch: list[tuple[float, float]] = []
    guard: float = 1.0
    together: float = 0.0

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
            if (
                not n
                or len(cell.phi) != n
                or len(cell.spread) != n
                or len(cell.repeats) not in (0, n)
            ):
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
    levels: list[Level] = []
    while len(blocks) >= MIN_BLOCKS:
        if len(blocks) <= MOST_BLOCKS:
            levels.append(_level([(known, block) for block in blocks]))
        blocks = [merged(a, b) for a, b in zip(blocks[::2], blocks[1::2], strict=False)]
    if not levels:
        return Calibration(n_blocks, rows, [])
    cells = _noise(levels)
    if volume is not None:
        cells.append(volume)
    return Calibration(n_blocks, rows, cells, _stretch(levels, cells))


def calibrate_by_hour(
    hours: Mapping[int, Counted], history: Sequence[tuple[int, Counted]]
) -> Calibration:
    """Learn from windows in the order of time, each with its hour of the day, how they differ from their own hours.

    hours  the baseline of each hour: the union of its windows in `history`

    Neighbours are joined across hours, and compared with the baselines of these hours in the same shares: so what
    the hour explains is no noise, and what a whole day does to all its windows is one thing that lasts. The baseline
    of an hour is of as many days, which do not repeat each other. Of more than MOST_BLOCKS the last are compared.
    """
    blocks = [(Counter({hour: 1}), window) for hour, window in history if hour in hours]
    n_blocks, rows = len(blocks), float(sum(window.rows for _, window in blocks))
    prepared: dict[frozenset[tuple[int, int]], Prepared] = {}
    levels: list[Level] = []
    while len(blocks) >= MIN_BLOCKS:
        pairs = []
        for held, block in blocks[-MOST_BLOCKS:]:
            key = frozenset(held.items())
            if key not in prepared:
                prepared[key] = Prepared(_in_shares(hours, held))
            pairs.append((prepared[key], block))
        levels.append(_level(pairs))
        joined = zip(blocks[::2], blocks[1::2], strict=False)
        blocks = [(a + b, merged(x, y)) for (a, x), (b, y) in joined]
    if not levels:
        return Calibration(n_blocks, rows, [])
    cells = _noise(levels)
    days = max(Counter(hour for hour, _ in history).values())
    together = rows / len(hours) / days
    return Calibration(n_blocks, rows, cells, _stretch(levels, cells), together=together)


def _in_shares(hours: Mapping[int, Counted], held: Counter[int]) -> Counted:
    """The baselines of some hours as one, each as often as it is held."""
    most = max(held.values())
    return reduce(
        merged, (scaled(hours[h], hours[h].rows * n / most) for h, n in sorted(held.items()))
    )


# ---------------------------------------------------------------- one size


def _level(blocks: Sequence[tuple[Prepared, Counted]]) -> Level:
    """Of blocks, each with the baseline that it is inside of."""
    found: dict[CellKey, list[tuple[float, float, float, float]]] = {}
    for known, block in blocks:
        for cell in without_location(measure(known, block, is_inside=True)):
            value = deviation(cell, is_inside=True)
            if not math.isnan(value):
                found.setdefault(cell.key, []).append(
                    (value, cell.df, cell.n, cell.n * cell.spread**2)
                )
    kept = {key: np.array(rows) for key, rows in found.items() if len(rows) >= MIN_BLOCKS}
    return Level(
        float(np.mean([b.rows for _, b in blocks])),
        {key: rows[:, 0] for key, rows in kept.items()},
        {key: float(rows[:, 1].mean()) for key, rows in kept.items()},
        {key: rows[:, 2] for key, rows in kept.items()},
        {key: float(rows[:, 3].mean()) for key, rows in kept.items()},
    )


def without_location(cells: Sequence[CellValue]) -> list[CellValue]:
    """Cells in their order, with what `shape` has in common with the `loc` before it taken off.

    N PSI is about the chi-square of B cells, of which one degree of freedom is location: the square of its standard
    errors. Where a location wanders, its cell knows how far and how long; a distance that includes it has a tail
    that its own mean and spread do not tell.
    """
    location: dict[Column | None, CellValue] = {}
    out = []
    for cell in cells:
        if cell.key.statistic is Statistic.LOC:
            location[cell.key.column] = cell
        loc = location.get(cell.key.column) if cell.key.statistic is Statistic.SHAPE else None
        if loc is not None and loc.n == cell.n and cell.df >= 2.0:
            along = (loc.effect / loc.spread) ** 2 / (1.0 / loc.n + 1.0 / loc.m)
            rest = max(_LEAST_REST, math.exp(cell.x) * cell.df - along) / (cell.df - 1.0)
            cell = msgspec.structs.replace(cell, x=math.log(rest), df=cell.df - 1.0)
        out.append(cell)
    return out


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


def _noise(levels: Sequence[Level]) -> list[CellNoise]:
    keys = list(dict.fromkeys(key for level in levels for key in level.values))
    sizes: dict[CellKey, list[float]] = {key: [] for key in keys}
    phis: dict[CellKey, list[float]] = {key: [] for key in keys}
    spreads: dict[CellKey, list[float]] = {key: [] for key in keys}
    repeats: dict[CellKey, list[float]] = {key: [] for key in keys}
    # One column of vectors is too few to learn from by itself: shapes of the same rows stand by it.
    for alike in ({Statistic.LOC}, {Statistic.MISSING}, LOG_RATIOS, {Statistic.UNSEEN}):
        distinct = 0.0
        for level in levels:
            group = [key for key in level.values if key.statistic in alike]
            if not group:
                continue
            terms = [terms_of(level, key) for key in group]
            distinct = distinct or distinct_of(terms)
            phi = phi_of(terms, distinct)
            spread = spread_of(level, group) if alike is LOG_RATIOS else [0.0] * len(group)
            for key, value, wide in zip(group, phi, spread, strict=True):
                sizes[key].append(level.rows)
                phis[key].append(max([value, *phis[key][-1:]]))
                spreads[key].append(wide)
            lasting = repeats_of(level, group, distinct) if alike is LOG_RATIOS else []
            for key, value in zip(group, lasting, strict=False):
                repeats[key].append(max([value, *repeats[key][-1:]]))
    return [
        CellNoise(
            key,
            sizes[key],
            phis[key],
            spreads[key],
            unseen_rate(levels[0], key) if key.statistic is Statistic.UNSEEN else 0.0,
            repeats[key],
        )
        for key in keys
    ]


def _stretch(levels: Sequence[Level], cells: Sequence[CellNoise]) -> list[tuple[float, float]]:
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
