"""How much of what a stream's windows show the hour of the day explains.

Of each numeric column the window means; of each column of texts the share of the most frequent one would do, but
numbers are enough to see a day. Kept are sums by column and hour (Welford 1962), 24 bytes each, not the means.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.fold.kinds import is_string_kind
from agent.fold.profile import Profile
from agent.judge.panes import DAY_MS, HOUR_MS, MIN_ROWS, hour_of
from agent.types import Column

Floats = NDArray[np.float64]
#: Share of the variance between windows from which on the hour matters.
EXPLAINED: Final = 0.2
#: Days that must have been seen, and windows an hour: with fewer, chance explains a fifth.
_DAYS, _WINDOWS = 3, 5
_PART_HOURS: Final = 3


class HoursKept(msgspec.Struct, array_like=True):
    columns: list[Column]
    hours: list[tuple[int, list[tuple[float, float, float]]]]
    days: dict[int, int]


class HourShare:
    """Told of each window of one stream, in order. `matters` after three days at the earliest.

    24 bytes a column for each hour of the day that was seen.
    """

    def __init__(self) -> None:
        self._slots: dict[Column, int] = {}
        self._sums: dict[
            int, Floats
        ] = {}  # by hour float64[columns, 3]: n, mean, squares around it
        self._days: Counter[int] = Counter()

    @property
    def size_bytes(self) -> int:
        """Memory, by estimate."""
        return 24 * len(self._slots) * len(self._sums)

    def add(self, profile: Profile) -> None:
        """The next window; one of few rows, or longer than an hour, says nothing of hours."""
        if profile.rows < MIN_ROWS or profile.width_ms > HOUR_MS:
            return
        self._days[profile.start_ms // DAY_MS] += 1
        slots: list[int] = []
        means: list[float] = []
        for name, column in profile.columns.items():
            if column.kind is None or is_string_kind(column.kind):
                continue
            view = column.numbers
            if view is not None and view.in_domain >= MIN_ROWS:
                slots.append(self._slots.setdefault(name, len(self._slots)))
                means.append(view.mean)
        self._count(hour_of(profile.start_ms), slots, np.array(means))

    def _count(self, hour: int, slots: list[int], means: Floats) -> None:
        sums = self._sums.get(hour, np.zeros((0, 3)))
        if len(sums) < len(self._slots):
            more = np.zeros((len(self._slots) - len(sums), 3))
            sums = self._sums[hour] = np.concatenate((sums, more))
        own = sums[slots]
        n = own[:, 0] + 1.0
        away = means - own[:, 1]
        middle = own[:, 1] + away / n
        sums[slots] = np.stack((n, middle, own[:, 2] + away * (means - middle)), axis=1)

    def matters(self) -> bool:
        """Whether the hour explains more than a fifth of any column."""
        if len(self._days) < _DAYS:
            return False
        return any(
            explained(sums[slot].tolist() for sums in self._sums.values() if slot < len(sums))
            > EXPLAINED
            for slot in self._slots.values()
        )

    def is_steady(self) -> bool:
        """Whether it is known that the time of day explains little of any column: of parts of a day of three
        hours, which tell a day sooner than hours do. Not before each part has had a few windows."""
        parts: dict[int, list[Floats]] = {}
        for hour, sums in self._sums.items():
            parts.setdefault(hour // _PART_HOURS, []).append(sums)
        for slot in self._slots.values():
            groups = [
                together(tuple(sums[slot].tolist()) for sums in held if slot < len(sums))
                for held in parts.values()
            ]
            is_known = sum(n for n, _, _ in groups) >= _WINDOWS * len(groups)
            if not is_known or explained(groups) > EXPLAINED:
                return False
        return True

    def kept(self) -> HoursKept:
        """All there is, to go on from."""
        hours = [
            (hour, [(n, m, s) for n, m, s in sums.tolist()]) for hour, sums in self._sums.items()
        ]
        return HoursKept(list(self._slots), hours, dict(self._days))

    def restore(self, kept: HoursKept) -> None:
        """Go on from `kept`, in place."""
        self._slots = {column: slot for slot, column in enumerate(kept.columns)}
        self._sums = {hour: np.array(sums).reshape(-1, 3) for hour, sums in kept.hours}
        self._days = Counter(kept.days)


def is_steady(starts_ms: Sequence[int], rows: Sequence[int]) -> bool:
    """The same of rows by window. The first and the last are cut by where the data begin and end."""
    parts = np.array(starts_ms[1:-1]) // HOUR_MS % 24 // _PART_HOURS
    logs = np.log1p(np.array(rows[1:-1]))
    held = [logs[parts == part] for part in np.unique(parts)]
    groups = [(float(len(v)), float(v.mean()), float(((v - v.mean()) ** 2).sum())) for v in held]
    return len(logs) >= _WINDOWS * len(groups) and explained(groups) <= EXPLAINED


def together(groups: Iterable[tuple[float, float, float]]) -> tuple[float, float, float]:
    """One group of several: number of values, their mean, sum of squares around it (Chan 1979)."""
    n, mean, squares = 0.0, 0.0, 0.0
    for size, middle, own in groups:
        if size:
            n += size
            away = middle - mean
            mean += away * size / n
            squares += own + away * away * size * (n - size) / n
    return n, mean, squares


def explained(groups: Iterable[tuple[float, float, float]]) -> float:
    """Share of the variance of values that their group explains, adjusted for the number of groups.

    groups  of each: number of values, their mean, sum of squares around it

    1 - (within / (n - k)) / (total / (n - 1)); 0 where there is nothing to explain, or fewer than five
    values a group.
    """
    held = [group for group in groups if group[0]]
    n, k = sum(g[0] for g in held), len(held)
    if n < _WINDOWS * k or k < 2:
        return 0.0
    mean = sum(size * middle for size, middle, _ in held) / n
    within = sum(squares for _, _, squares in held)
    total = within + sum(size * (middle - mean) ** 2 for size, middle, _ in held)
    if total <= 0.0:
        return 0.0
    return 1.0 - (within / (n - k)) / (total / (n - 1))
