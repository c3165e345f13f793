"""Panes: a model's windows one after another in bounded memory, and what they say of single windows.

A pane is a Profile. Two keepers: `Panes` joins neighbours while they are too small or too many, so that
any number of rows becomes a few hundred panes of similar size, in order; `WindowFacts` adds up what
single windows show and keeps numbers only.

Panes wait compressed, since a model that learns has 64 of them for hours.
"""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Final

import cramjam
import msgspec

from agent.errors import DecodeError
from agent.fold.kinds import is_string_kind
from agent.fold.profile import Profile, ProfileColumn
from agent.judge.reference import ColumnFacts
from agent.judge.union import united
from agent.sketch.codec import numeric_from_bytes, numeric_to_bytes
from agent.sketch.kernels import layout
from agent.types import Column, StreamKey

#: Windows with fewer rows say nothing about rates.
MIN_ROWS: Final = 20
HOUR_MS: Final = 3_600_000
DAY_MS: Final = 86_400_000


class PanesKept(msgspec.Struct, array_like=True):
    target: int
    panes: list[bytes]
    open: list[bytes]


class FactsKept(msgspec.Struct, array_like=True):
    rows: list[int]
    starts_ms: list[int]
    end_ms: int
    columns: list[tuple[Column, ColumnFacts]]


class HoursKept(msgspec.Struct, array_like=True):
    means: list[tuple[Column, list[tuple[int, float]]]]
    days: dict[int, int]


class Panes:
    """Consecutive profiles of a model, at most `most`, each of `target_rows` or more (but the last).

    Past `most` neighbours are joined in pairs and the target doubles.
    """

    def __init__(self, stream: StreamKey, target_rows: int, most: int) -> None:
        self._stream = stream
        self._target = target_rows
        self._most = most
        self._panes: list[bytes] = []
        self._open: list[Profile] = []
        self._open_rows = 0

    def add(self, profile: Profile) -> None:
        """The next in order."""
        self._open.append(profile)
        self._open_rows += profile.rows
        if self._open_rows >= self._target:
            self._close()
            if len(self._panes) >= self._most:
                panes = joined(self.snapshot(), self._stream)
                self._panes = [_packed(pane) for pane in panes]
                # A pane of twice the rows from here on; windows of time vary, so some need two.
                typical = int(statistics.median(pane.rows for pane in panes))
                self._target = max(2 * self._target, 3 * typical // 4)

    def kept(self) -> PanesKept:
        """All there is, to go on from."""
        return PanesKept(self._target, list(self._panes), [p.to_bytes() for p in self._open])

    def restore(self, kept: PanesKept) -> None:
        """Go on from `kept`, in place. Raises DecodeError."""
        self._target = kept.target
        for data in kept.panes:
            _unpacked(data)  # what cannot be read is found now
        self._panes = list(kept.panes)
        self._open = [Profile.from_bytes(data) for data in kept.open]
        self._open_rows = sum(p.rows for p in self._open)

    def _close(self) -> None:
        self._panes.append(_packed(united(self._open, self._stream)))
        self._open, self._open_rows = [], 0

    def snapshot(self) -> list[Profile]:
        """The panes that are whole; more may follow."""
        return [_unpacked(data) for data in self._panes]

    def take(self) -> list[Profile]:
        """All panes; a rest of less than half the target joins the last."""
        if self._open:
            if self._panes and self._open_rows < self._target / 2:
                self._open.insert(0, _unpacked(self._panes.pop()))
            self._close()
        return self.snapshot()


def _packed(pane: Profile) -> bytes:
    """A third of its bytes. What tells how many numbers differ is left out: noise does not ask."""
    columns = {}
    for name, column in pane.columns.items():
        sketch = column.sketch
        if sketch and column.kind is not None and not is_string_kind(column.kind):
            record = numeric_from_bytes(sketch)
            record[layout.NUMERIC_REGISTERS : layout.BUCKETS] = 0
            sketch = numeric_to_bytes(record)
        columns[name] = ProfileColumn(column.kind, column.present, sketch)
    return bytes(cramjam.zstd.compress(replace(pane, columns=columns).to_bytes(), 3))


def _unpacked(data: bytes) -> Profile:
    """What `_packed` made. Raises DecodeError."""
    try:
        raw = bytes(cramjam.zstd.decompress(data))
    except cramjam.DecompressionError as error:
        raise DecodeError(f"pane: {error}") from None
    return Profile.from_bytes(raw)


def joined(panes: list[Profile], stream: StreamKey, n: int = 2) -> list[Profile]:
    """Each `n` neighbours as one; the last may have fewer."""
    return [united(panes[at : at + n], stream) for at in range(0, len(panes), n)]


@dataclass(slots=True)
class _Rates:
    windows: int = 0
    missing: float = 0.0
    violations: float = 0.0


@dataclass
class WindowFacts:
    """What single windows of one stream showed. Windows are told in order, each once."""

    rows: list[int] = field(default_factory=list)
    starts_ms: list[int] = field(default_factory=list)
    end_ms: int = 0
    _columns: dict[Column, _Rates] = field(default_factory=dict)

    def add(self, profile: Profile) -> None:
        self.rows.append(profile.rows)
        self.starts_ms.append(profile.start_ms)
        self.end_ms = max(self.end_ms, profile.end_ms)
        for name, column in profile.columns.items():
            rates = self._columns.setdefault(name, _Rates())
            rates.windows += any(column.present)
            if profile.rows >= MIN_ROWS:
                rates.missing = max(rates.missing, profile.missing(column) / profile.rows)
                rates.violations = max(rates.violations, column.violations() / profile.rows)

    @property
    def inner_rows(self) -> list[int]:
        """Rows by window without the first and the last, which are cut by where the data begins and ends."""
        return self.rows[1:-1] if len(self.rows) > 2 else self.rows

    @property
    def gap_s(self) -> float:
        """Longest time between the starts of two windows with rows."""
        pairs = zip(self.starts_ms, self.starts_ms[1:], strict=False)
        return max((after - before for before, after in pairs), default=0) / 1000

    def kept(self) -> FactsKept:
        """All there is, to go on from."""
        return FactsKept(self.rows, self.starts_ms, self.end_ms, list(self.columns().items()))

    def restore(self, kept: FactsKept) -> None:
        """Go on from `kept`, in place."""
        self.rows, self.starts_ms, self.end_ms = kept.rows, kept.starts_ms, kept.end_ms
        self._columns = {
            name: _Rates(facts.windows, facts.missing_high, facts.violations_high)
            for name, facts in kept.columns
        }

    def columns(self) -> dict[Column, ColumnFacts]:
        return {
            name: ColumnFacts(rates.windows, rates.missing, rates.violations)
            for name, rates in self._columns.items()
        }

    def hour_rows(self) -> dict[int, float]:
        """Median rows of a window by hour of the day (UTC)."""
        hours: dict[int, list[int]] = {}
        for start, rows in zip(self.starts_ms[1:-1], self.rows[1:-1], strict=True):
            hours.setdefault(hour_of(start), []).append(rows)
        return {hour: float(statistics.median(rows)) for hour, rows in sorted(hours.items())}


def hour_of(start_ms: int) -> int:
    """Hour of the day (UTC) in which a window starts."""
    return start_ms // HOUR_MS % 24


class HourShare:
    """How much of a column's variance between windows the hour of the day explains.

    Of each numeric column the window means, of each column of texts the share of the most frequent one
    would do; numbers are enough to see a day. `matters` when over three days or more the adjusted
    share is above a fifth for any column.
    """

    EXPLAINED: Final = 0.2

    def __init__(self) -> None:
        self._means: dict[Column, list[tuple[int, float]]] = {}
        self._days: Counter[int] = Counter()

    def add(self, profile: Profile) -> None:
        if profile.rows < MIN_ROWS or profile.width_ms > HOUR_MS:
            return
        self._days[profile.start_ms // DAY_MS] += 1
        hour = hour_of(profile.start_ms)
        for name, column in profile.columns.items():
            if column.kind is None or is_string_kind(column.kind):
                continue
            view = column.numbers
            if view is not None and view.in_domain >= MIN_ROWS:
                self._means.setdefault(name, []).append((hour, view.mean))

    def kept(self) -> HoursKept:
        """All there is, to go on from."""
        return HoursKept(list(self._means.items()), dict(self._days))

    def restore(self, kept: HoursKept) -> None:
        """Go on from `kept`, in place."""
        self._means = {name: list(pairs) for name, pairs in kept.means}
        self._days = Counter(kept.days)

    def matters(self) -> bool:
        return len(self._days) >= 3 and any(
            explained(pairs) > self.EXPLAINED for pairs in self._means.values()
        )


def explained(pairs: list[tuple[int, float]]) -> float:
    """Share of the variance of the values that their group explains, adjusted for the number of groups.

    1 - (within / (n - k)) / (total / (n - 1)); 0 where there is nothing to explain, or fewer than five
    values a group.
    """
    groups: dict[int, list[float]] = {}
    for group, value in pairs:
        groups.setdefault(group, []).append(value)
    n, k = len(pairs), len(groups)
    if n < 5 * k or k < 2:  # with fewer, chance explains a fifth
        return 0.0
    mean = statistics.fmean(value for _, value in pairs)
    total = sum((value - mean) ** 2 for _, value in pairs)
    if total <= 0.0:
        return 0.0
    within = 0.0
    for values in groups.values():
        middle = statistics.fmean(values)
        within += sum((value - middle) ** 2 for value in values)
    return 1.0 - (within / (n - k)) / (total / (n - 1))
