"""Panes: a model's windows one after another in bounded memory, and what they say of single windows.

A pane is a Profile. Two keepers: `Panes` joins neighbours while they are too small or too many, so that
any number of rows becomes a few hundred panes of similar size, in order; `WindowFacts` adds up what
single windows show and keeps numbers only.

Panes wait compressed (`pane_bytes`), since a model that learns has 64 of them for hours.
"""

from __future__ import annotations

import statistics
from array import array
from dataclasses import dataclass, field
from typing import Final

import msgspec

from agent.fold.profile import Profile
from agent.judge.pane_bytes import packed, unpacked
from agent.judge.reference import ColumnFacts
from agent.judge.sizes import profile_bytes
from agent.judge.union import united
from agent.sketch.kernels import layout
from agent.types import Column, StreamKey

#: Windows with fewer rows say nothing about rates.
MIN_ROWS: Final = 20
HOUR_MS: Final = 3_600_000
DAY_MS: Final = 86_400_000
#: Of what is kept of a column's rates, by estimate.
BYTES_RATES: Final = 300


class PanesKept(msgspec.Struct, array_like=True):
    target: int
    panes: list[bytes]
    open: list[bytes]


class FactsKept(msgspec.Struct, array_like=True):
    rows: list[int]
    starts_ms: list[int]
    end_ms: int
    columns: list[tuple[Column, ColumnFacts]]


class Panes:
    """Consecutive profiles of a model, at most `most`, each of `target_rows` or more (but the last).

    Past `most` neighbours are joined in pairs and the target doubles. `most_buckets` of a numeric column are
    in use in one pane.
    """

    def __init__(
        self,
        stream: StreamKey,
        target_rows: int,
        most: int,
        most_buckets: int = 2 * layout.RING,
    ) -> None:
        self._most_buckets = most_buckets
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
                self._panes = [packed(pane, self._most_buckets) for pane in panes]
                # A pane of twice the rows from here on; windows of time vary, so some need two.
                typical = int(statistics.median(pane.rows for pane in panes))
                self._target = max(2 * self._target, 3 * typical // 4)

    @property
    def size_bytes(self) -> int:
        """Memory, by estimate."""
        return sum(map(len, self._panes)) + sum(map(profile_bytes, self._open))

    def kept(self) -> PanesKept:
        """All there is, to go on from."""
        return PanesKept(self._target, list(self._panes), [p.to_bytes() for p in self._open])

    def restore(self, kept: PanesKept) -> None:
        """Go on from `kept`, in place. Raises DecodeError."""
        self._target = kept.target
        for data in kept.panes:
            unpacked(data)  # what cannot be read is found now
        self._panes = list(kept.panes)
        self._open = [Profile.from_bytes(data) for data in kept.open]
        self._open_rows = sum(p.rows for p in self._open)

    def _close(self) -> None:
        pane = united(self._open, self._stream)
        self._panes.append(packed(pane, self._most_buckets))
        self._open, self._open_rows = [], 0

    def snapshot(self) -> list[Profile]:
        """The panes that are whole; more may follow."""
        return [unpacked(data) for data in self._panes]

    def take(self) -> list[Profile]:
        """All panes; a rest of less than half the target joins the last."""
        if self._open:
            if self._panes and self._open_rows < self._target / 2:
                self._open.insert(0, unpacked(self._panes.pop()))
            self._close()
        return self.snapshot()


def joined(panes: list[Profile], stream: StreamKey, n: int = 2) -> list[Profile]:
    """Each `n` neighbours as one; the last may have fewer."""
    return [united(panes[at : at + n], stream) for at in range(0, len(panes), n)]


@dataclass(slots=True)
class _Rates:
    windows: int = 0
    missing: float = 0.0
    violations: float = 0.0


def _numbers() -> array[int]:
    return array("q")


@dataclass
class WindowFacts:
    """What single windows of one stream showed. Windows are told in order, each once."""

    rows: array[int] = field(default_factory=_numbers)
    starts_ms: array[int] = field(default_factory=_numbers)
    end_ms: int = 0
    n_rows: int = 0
    gap_ms: int = 0  # longest time between the starts of two windows with rows
    _columns: dict[Column, _Rates] = field(default_factory=dict)

    def add(self, profile: Profile) -> None:
        if self.starts_ms:
            self.gap_ms = max(self.gap_ms, profile.start_ms - self.starts_ms[-1])
        self.rows.append(profile.rows)
        self.n_rows += profile.rows
        self.starts_ms.append(profile.start_ms)
        self.end_ms = max(self.end_ms, profile.end_ms)
        for name, column in profile.columns.items():
            rates = self._columns.setdefault(name, _Rates())
            rates.windows += any(column.present)
            if profile.rows >= MIN_ROWS:
                rates.missing = max(rates.missing, profile.missing(column) / profile.rows)
                rates.violations = max(rates.violations, column.violations() / profile.rows)

    @property
    def n_columns(self) -> int:
        """Columns that any window had."""
        return len(self._columns)

    @property
    def inner_rows(self) -> list[int]:
        """Rows by window without the first and the last, which are cut by where the data begins and ends."""
        return list(self.rows[1:-1] if len(self.rows) > 2 else self.rows)

    @property
    def size_bytes(self) -> int:
        """Memory, by estimate."""
        return 16 * len(self.rows) + BYTES_RATES * len(self._columns)

    def kept(self) -> FactsKept:
        """All there is, to go on from."""
        columns = list(self.columns().items())
        return FactsKept(list(self.rows), list(self.starts_ms), self.end_ms, columns)

    def restore(self, kept: FactsKept) -> None:
        """Go on from `kept`, in place."""
        self.rows, self.starts_ms = array("q", kept.rows), array("q", kept.starts_ms)
        self.end_ms, self.n_rows = kept.end_ms, sum(kept.rows)
        pairs = zip(kept.starts_ms, kept.starts_ms[1:], strict=False)
        self.gap_ms = max((after - before for before, after in pairs), default=0)
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
