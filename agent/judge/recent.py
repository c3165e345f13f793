"""Recent: what the last windows say of the next one, for models of which less than their cycle is known.

A stream that was seen for some hours may swing with the hour of the day, and windows of the evening then differ
from a baseline of the morning without anything being broken. What swings moves slowly, what breaks jumps. So
each cell is compared with the last windows, of which older ones count less and less, and of its deviations
the part that lasts (how far a swing runs ahead of the last windows) is taken off; what is left over, the
innovation, is judged by its own variance, as it was so far.

    r      a cell's deviation from the last windows, in errors of independent rows (log of a ratio for `shape` and
           `volume`, a share for `unseen`)
    level  <- level + (r - level) / K        var <- var + ((r - level)^2 - var) / 32, both clipped at 3 deviations

K is 8 windows, fewer where windows are long: 3 of half an hour, in which a day moves on far enough.

The change detector reads the result like any other: values with their level taken off, and a calibration of
the variances. Nothing moves while an alarm is open. One window's counts and four numbers a cell are kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import msgspec

from agent.judge.calibration import Calibration, CellNoise
from agent.judge.cells import CellKey, CellValue, Prepared, Statistic, measure
from agent.judge.counted import Counted, CountedColumn, merged, scaled
from agent.judge.counted_bytes import from_bytes, to_bytes
from agent.judge.sketch_counts import Texts, set_of
from agent.judge.special import trigamma

#: Windows that the baseline and the level remember: so many as this time has, within these; and that variances do.
MEMORY_MS: Final = 5_400_000
LEAST_MEMORY, MOST_MEMORY = 3, 8
NOISE_MEMORY: Final = 32
#: Windows before anything is compared, and innovations before anything is called a change.
_LEAST_WINDOWS: Final = 4
_LEAST_INNOVATIONS: Final = 8
_CLIP: Final = 3.0
_LEAST_SD: Final = 0.02  # of the log of rows
#: The largest of two hundred normal innovations is 2.8 deviations; what is larger makes the cell duller, by a
#: factor of 4 at most, and is forgotten by half in 140 windows.
_USUAL_TOP, _MOST_TOP, _FADING = 2.8, 11.2, 0.995
_EVER: Final = 1e18  # rows: no window is larger
#: Texts listed of a column, before half of them are dropped: every window may bring new ones.
_MOST_NAMES: Final = 512
_WORTH: Final = 4


class Track(msgspec.Struct, array_like=True):
    """One cell's deviations so far: how many, their level, the variance of innovations and the covariance of
    neighbours, the last innovation, and the largest of late in standard deviations."""

    n: int = 0
    level: float = 0.0
    var: float = 0.0
    next: float = 0.0
    last: float = 0.0
    top: float = 0.0

    def see(self, value: float, memory: int) -> None:
        """The next deviation, in place."""
        if not self.n:
            self.n, self.level = 1, value
            return
        error = value - self.level
        if self.n >= _LEAST_INNOVATIONS:
            most = _CLIP * math.sqrt(self.var)
            away = abs(error) / math.sqrt(self.var) if self.var else 0.0
            self.top = min(_MOST_TOP, max(self.top * _FADING, away))
            error = min(most, max(-most, error))
        self.n += 1
        gain = max(1.0 / NOISE_MEMORY, 1.0 / (self.n - 1))
        self.var += gain * (error * error - self.var)
        self.next += gain * (error * self.last - self.next)
        self.level += max(1.0 / memory, 1.0 / self.n) * error
        self.last = error

    @property
    def high(self) -> float:
        """The variance, one error of its own high, and as wide as the largest innovation of late asks for."""
        n = min(self.n, 2 * NOISE_MEMORY)
        tail = max(1.0, self.top / _USUAL_TOP)
        return self.var * (1.0 + math.sqrt(2.0 / max(1, n))) * tail * tail

    @property
    def lasting(self) -> float:
        """Variance of the mean of four innovations over that of as many that are independent."""
        if not self.var:
            return 1.0
        rho = min(0.9, max(0.0, self.next / self.var))
        return 1.0 + 1.5 * rho + rho**2 + 0.5 * rho**3


class RecentKept(msgspec.Struct, array_like=True):
    base: bytes  # b"": no window yet
    rows: float
    n_rows: int
    n: int
    tracks: list[tuple[CellKey, Track]]


class Recent:
    """See the module. Told of each window, once."""

    def __init__(self, width_ms: int) -> None:
        """`width_ms`: of windows."""
        self._memory = min(MOST_MEMORY, max(LEAST_MEMORY, MEMORY_MS // width_ms))
        self._base: Counted | None = None
        self._rows = 0.0  # log of a window's rows
        self._n_rows = 0  # windows whose rows say something
        self._n = 0
        self._tracks: dict[CellKey, Track] = {}
        self._prepared: Prepared | None = None

    @property
    def prepared(self) -> Prepared | None:
        """The last windows as a baseline; None before there are enough."""
        if self._prepared is None and self._base is not None and self._n >= _LEAST_WINDOWS:
            self._prepared = Prepared(self._base)
        return self._prepared

    def measured(self, window: Counted, *, with_volume: bool) -> list[CellValue]:
        """The window's cells against the last windows, as they are."""
        if self.prepared is None:
            return []
        return measure(self.prepared, window, self.expected_rows if with_volume else None)

    @property
    def expected_rows(self) -> float | None:
        """Rows of a window like the last ones; None before there are enough."""
        return math.expm1(self._rows) if self._n_rows >= _LEAST_WINDOWS else None

    def judged(self, cells: Sequence[CellValue]) -> tuple[list[CellValue], Calibration]:
        """The cells without what lasts, and what to expect of the rest."""
        values: list[CellValue] = []
        noise: list[CellNoise] = []
        for cell in cells:
            track = self._tracks.get(cell.key)
            if track is not None and track.n >= _LEAST_INNOVATIONS:
                value, own = _innovation(cell, track)
                values.append(value)
                noise.append(own)
        n = max((t.n for t in self._tracks.values()), default=0)
        # Variances are stated high, so scarcity is accounted for but for the far tail.
        windows = _WORTH * n if values else 0
        return values, Calibration(windows, sum((c.n for c in values[:1]), 0.0), noise)

    def learn(self, window: Counted, cells: Sequence[CellValue], *, with_volume: bool) -> None:
        """A healthy window and its `measured` cells."""
        for cell in cells:
            self._tracks.setdefault(cell.key, Track()).see(deviation(cell), self._memory)
        self._n += 1
        window = _kept_of(window)
        if self._base is None:
            self._base = window
        else:
            older = scaled(self._base, self._base.rows * (1.0 - 1.0 / self._memory))
            _foresee(older, window)
            self._base = merged(older, window)
            for held in self._base.columns.values():
                if held.texts is not None and len(held.texts.named) > _MOST_NAMES:
                    held.texts = _fewer(held.texts)
        if with_volume:
            self._n_rows += 1
            share = max(1.0 / self._memory, 1.0 / self._n_rows)
            self._rows += share * (math.log1p(window.rows) - self._rows)
        self._prepared = None

    def kept(self) -> RecentKept:
        """All there is, to go on from."""
        base = to_bytes(self._base) if self._base is not None else b""
        return RecentKept(base, self._rows, self._n_rows, self._n, list(self._tracks.items()))

    def restore(self, kept: RecentKept) -> None:
        """Go on from `kept`, in place. Raises DecodeError."""
        self._base = from_bytes(kept.base) if kept.base else None
        self._rows, self._n_rows, self._n = kept.rows, kept.n_rows, kept.n
        self._tracks = dict(kept.tracks)
        self._prepared = None


def _kept_of(window: Counted) -> Counted:
    """What the baseline adds up: vectors are compared by their norm."""
    columns = {name: replace(held, vectors=None) for name, held in window.columns.items()}
    return Counted(window.rows, columns)


def _foresee(older: Counted, window: Counted) -> None:
    """Columns that are new in a window miss as many rows of those before it, in place: else each would come back from
    all missing for as long as those are remembered."""
    for column, held in window.columns.items():
        known = older.columns.get(column)
        if known is None or known.is_absent(older.rows):
            missing = older.rows * held.missing / window.rows
            older.columns[column] = CountedColumn(held.kind, missing)


def _fewer(texts: Texts) -> Texts:
    """The most frequent half of _MOST_NAMES texts; of the rest a bound is kept."""
    ordered = sorted(texts.named, key=lambda key: (-texts.named[key], key))
    kept, dropped = ordered[: _MOST_NAMES // 2], ordered[_MOST_NAMES // 2 :]
    bounds = list(texts.bounds)
    for key in dropped:
        bounds[set_of(key)] = max(bounds[set_of(key)], texts.named[key])
    return replace(
        texts,
        named={key: texts.named[key] for key in kept},
        names={key: texts.names[key] for key in kept if key in texts.names},
        bounds=tuple(bounds),
    )


def deviation(cell: CellValue) -> float:
    """What a track follows of a cell."""
    match cell.key.statistic:
        case Statistic.LOC:
            return cell.effect / (cell.spread * math.sqrt(1.0 / cell.n + 1.0 / cell.m))
        case Statistic.UNSEEN | Statistic.VOLUME:
            return cell.effect
        case _:
            return cell.x


def _innovation(cell: CellValue, track: Track) -> tuple[CellValue, CellNoise]:
    key, var, lasting = cell.key, track.high, track.lasting
    match key.statistic:
        case Statistic.LOC:
            error = cell.spread * math.sqrt(1.0 / cell.n + 1.0 / cell.m)
            value = msgspec.structs.replace(cell, m=_EVER, effect=cell.effect - track.level * error)
            var *= 1.0 + cell.n / cell.m
        case Statistic.SHAPE:
            value = msgspec.structs.replace(cell, m=_EVER, x=cell.x - max(0.0, track.level))
            spread = math.sqrt(max(0.0, var - trigamma(max(0.5, cell.df / 2.0))))
            phis = [1.0, lasting, lasting]
            return value, CellNoise(key, [cell.n, 4.0 * cell.n, _EVER], phis, [spread] * 3)
        case Statistic.UNSEEN:
            rate = max(0.0, track.level) + 3.0 * math.sqrt(var)
            return cell, CellNoise(key, [1.0, _EVER], [1.0, 1.0], [0.0, 0.0], rate)
        case Statistic.VOLUME:
            sd = max(_LEAST_SD, math.sqrt(var * lasting), cell.n**-0.5)
            usual = cell.x - cell.effect + track.level
            return cell, CellNoise(key, [1.0], [sd * sd], [0.0], usual)
        case _:
            value = msgspec.structs.replace(cell, m=_EVER, x=cell.x - track.level)
    phi = max(1.0, var)
    sizes, phis = [cell.n, 4.0 * cell.n, _EVER], [phi, phi * lasting, phi * lasting]
    return value, CellNoise(key, sizes, phis, [0.0, 0.0, 0.0])
