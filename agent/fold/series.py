"""Exported number series: own start times, explicit zeros, ends, and resends.

Rules
 1. A series starts at the time of the last export before it was admitted: there its value was 0. Its first
    export sends that 0, one millisecond behind the start, and then the value. Only the first: when its
    answer is lost, the receiver may hold later points already, and the start time says the same.
 2. An export sends what has changed since the last export that was *accepted*, and, once in
    `resend_interval` to twice that (by a phase of its own, so that they rotate), everything.
 3. A series that ends sends one no-recorded-value point. One that comes back has a new start time.
 4. Gauges have no start and no zero. One whose value is gone (None) ends, and may come back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from agent.errors import DecodeError
from agent.types import Attributes, NumberPoint

#: Distance of the explicit zero from the start: distinct also where times have milliseconds.
ZERO_AFTER_NS = 1_000_000

#: Ends of series that wait for an accepted export. Of more, the oldest are never told.
MAX_ENDED = 50_000

Number = int | float

_GOLDEN = 0.6180339887498949


class Phases:
    """Periods between `interval` and twice that, evenly spread: 1.618..., 1.236..., ... times."""

    def __init__(self, interval_s: float) -> None:
        self.taken = 0
        self._interval_ns = interval_s * 1e9

    def next(self) -> int:
        self.taken += 1
        return int(self._interval_ns * (1.0 + (self.taken * _GOLDEN) % 1.0))


@dataclass(slots=True)
class Out:
    """Where points go: one export or scrape.

    is_export   changes only, with zeros and ends, to be accepted or not; else a scrape: every series'
                value, and nothing is remembered
    zeros       send explicit zeros (a delta stream has no use for them)
    """

    time_ns: int
    is_export: bool
    zeros: bool
    points: dict[str, list[NumberPoint]]

    def add(self, name: str, point: NumberPoint) -> None:
        self.points.setdefault(name, []).append(point)


@dataclass(slots=True)
class Ended:
    """A series that a receiver may know and that is no more. `offered`: its end is in the last export."""

    name: str
    attributes: Attributes
    start_ns: int
    offered: bool = False


class SeriesState(msgspec.Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    """What a series knows beside its names and attributes."""

    start_ns: int
    period_ns: int
    due_ns: int
    sent: tuple[Number | None, ...]
    offered: tuple[Number | None, ...] | None
    whole: bool
    is_new: bool
    wants_zero: bool


class Series:
    """Number series that share attributes, start and life: the counters of a column, say.

    About 300 bytes for a handful of series.
    """

    __slots__ = (
        "_due_ns",
        "_is_new",
        "_offered",
        "_period_ns",
        "_sent",
        "_wants_zero",
        "_whole",
        "attributes",
        "names",
        "start_ns",
    )

    def __init__(
        self, names: tuple[str, ...], attributes: Attributes, start_ns: int, period_ns: int
    ) -> None:
        """`start_ns` 0: gauges."""
        self.names = names
        self.attributes = attributes
        self.start_ns = start_ns
        self._period_ns = period_ns
        self._due_ns = start_ns + period_ns
        self._sent: Sequence[Number | None] = (None,) * len(names)
        self._offered: Sequence[Number | None] | None = None
        self._whole = False
        self._is_new = start_ns > 0  # never exported
        self._wants_zero = self._is_new

    def write(self, values: Sequence[Number | None], out: Out) -> int:
        """Points of these values, in order of `names`; returns how many series have a value."""
        live = 0
        sent = self._sent
        start_ns, time_ns, attributes = self.start_ns, out.time_ns, self.attributes
        if not out.is_export:
            for name, value in zip(self.names, values, strict=True):
                if value is not None:
                    live += 1
                    out.add(name, NumberPoint(attributes, value, start_ns, time_ns))
            return live
        whole = time_ns >= self._due_ns
        for name, value, old in zip(self.names, values, sent, strict=True):
            if value is None:
                if old is not None:
                    out.add(name, NumberPoint(attributes, 0, start_ns, time_ns, ended=True))
                continue
            live += 1
            if self._wants_zero and out.zeros:
                out.add(name, NumberPoint(attributes, 0, start_ns, start_ns + ZERO_AFTER_NS))
            if whole or value != old:
                out.add(name, NumberPoint(attributes, value, start_ns, time_ns))
        self._is_new = self._wants_zero = False
        self._offered = values
        self._whole = whole
        return live

    def accepted(self, time_ns: int) -> None:
        """The last export that was written has arrived."""
        if self._offered is None:
            return
        self._sent = self._offered
        self._offered = None
        if self._whole:
            self._due_ns = time_ns + self._period_ns

    @property
    def is_over(self) -> bool:
        """A gauge without a value that no receiver knows of."""
        return all(value is None for value in self._sent)

    def is_owed(self, values: Sequence[Number | None]) -> bool:
        """Whether these counters have been exported, but no receiver has accepted these values."""
        return not self._is_new and tuple(self._sent) != tuple(values)

    def ends(self) -> list[Ended]:
        """The series that a receiver may know, which now end."""
        known = self._offered or self._sent
        return [
            Ended(name, self.attributes, self.start_ns)
            for name, value, old in zip(self.names, known, self._sent, strict=True)
            if value is not None or old is not None
        ]

    def renew(self, start_ns: int) -> None:
        """Nothing is known of what a receiver has: all is due, counters from a new start and without a zero."""
        self._offered = None
        self._whole = False
        self._due_ns = start_ns
        if self.start_ns > 0:
            self.start_ns = start_ns
            self._sent = (None,) * len(self.names)
            self._wants_zero = False

    def state(self) -> SeriesState:
        return SeriesState(
            self.start_ns,
            self._period_ns,
            self._due_ns,
            tuple(self._sent),
            None if self._offered is None else tuple(self._offered),
            self._whole,
            self._is_new,
            self._wants_zero,
        )

    def restore(self, state: SeriesState) -> None:
        """Raises DecodeError when it is the state of other series."""
        for values in (state.sent, state.offered):
            if values is not None and len(values) != len(self.names):
                raise DecodeError(f"series {self.names} have {len(values)} values")
        if (state.start_ns > 0) != (self.start_ns > 0):
            raise DecodeError(f"series {self.names} start at {state.start_ns}")
        self.start_ns = state.start_ns
        self._period_ns = state.period_ns
        self._due_ns = state.due_ns
        self._sent = state.sent
        self._offered = state.offered
        self._whole = state.whole
        self._is_new = state.is_new
        self._wants_zero = state.wants_zero
