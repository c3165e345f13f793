"""Event-time clocks of the partitions, and which windows may seal.

Invariants
 1. `sealed_until` never falls. A window below it is sealed; a row is late if and only if its window is.
 2. Windows seal oldest first.
 3. Wall time never moves a partition's clock. It only decides who is waited for.
 4. Labels neither move nor hold a clock: label topics are not tracked at all.

A partition *holds* the low watermark unless it is
    idle       caught up, and no row for `idle_timeout`; its word counts until there is no news (see below)
    finished   a file that was read to its end
    gone       revoked, and not back after `owner_timeout` (until then it holds, so a rebalance that gives
               it back seals nothing). In memory mode it is then another agent's, and never comes back by itself
Of those that hold, one without any news for `owner_timeout` (not named by a chunk, or neither moving nor
caught up) is *silent*: when only silent ones are left to wait for, a window waits `max_wait` for them,
then a tick seals it as partial.

Coverage of a seal is the share of partitions that had reached the window's end: their clock passed it, or they
were idle or finished. A partition that went away counts when it may have had rows of the window.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from agent.config import Windows
from agent.types import Partition, PartitionRange

_NS = 1_000_000_000
NEVER = -(1 << 61)
_ALWAYS = 1 << 61


@dataclass(slots=True)
class Clock:
    """One partition as last heard of."""

    since_ns: int  # known since
    news_ns: int  # last moved or caught up
    max_event_time_ms: int = -1
    to_offset: int = -1
    caught_up: bool = False
    last_row_ns: int = 0
    gone_ns: int = 0  # revoked at; 0: owned
    finished: bool = False


@dataclass(slots=True)
class Open:
    """An open window. `waiting_ns`: since when only silent partitions are waited for; 0: they are not."""

    waiting_ns: int = 0


@dataclass(frozen=True, slots=True)
class Seal:
    """A window that seals now."""

    window: int
    coverage: float  # 0..1; below 1 the seal is partial


class MarksState(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Clocks and windows, as they are kept."""

    sealed_until: int
    open: list[tuple[int, Open]]
    clocks: list[tuple[Partition, Clock]]


class Watermarks:
    """See the module. Windows are numbered: window w is [w, w + 1) * width_ms."""

    def __init__(self, windows: Windows, label_topics: Iterable[str] = ()) -> None:
        self.width_ms = int(windows.width_s * 1000)
        self.sealed_until = NEVER
        self.open: dict[int, Open] = {}
        self._clocks: dict[Partition, Clock] = {}
        self._label_topics = frozenset(label_topics)
        self._lateness_ms = int(windows.out_of_orderness_s * 1000)
        self._idle_ns = int(windows.idle_timeout_s * _NS)
        self._owner_ns = int(windows.owner_timeout_s * _NS)
        self._max_wait_ns = int(windows.max_wait_s * _NS)
        self._max_open = windows.max_open

    # -- kept

    def state(self) -> MarksState:
        return MarksState(self.sealed_until, list(self.open.items()), list(self._clocks.items()))

    def restore(self, state: MarksState) -> None:
        """Clocks of topics that hold labels by now are left out."""
        self.sealed_until = state.sealed_until
        self.open = dict(state.open)
        self._clocks = {p: c for p, c in state.clocks if p.topic not in self._label_topics}

    # -- inputs

    def own(self, partitions: Iterable[Partition], now_ns: int) -> None:
        """These partitions are ours from now on: they hold until they have said how far they are."""
        for partition in partitions:
            if partition.topic in self._label_topics:
                continue
            clock = self._clocks.get(partition)
            if clock is None:
                self._clocks[partition] = Clock(since_ns=now_ns, news_ns=now_ns)
            elif clock.gone_ns:
                clock.gone_ns = 0
                clock.since_ns = clock.news_ns = now_ns
                clock.caught_up = False

    def observe(self, ranges: Iterable[PartitionRange], now_ns: int) -> None:
        """Take the clocks of a chunk. A clock never goes back."""
        for r in ranges:
            if r.partition.topic in self._label_topics:
                continue
            self.own((r.partition,), now_ns)
            clock = self._clocks[r.partition]
            if r.caught_up or r.to_offset != clock.to_offset:
                clock.news_ns = now_ns
            clock.to_offset = r.to_offset
            clock.caught_up = r.caught_up
            clock.last_row_ns = max(clock.last_row_ns, r.last_row_ns)
            clock.max_event_time_ms = max(clock.max_event_time_ms, r.max_event_time_ms)

    def forget(self, partitions: Iterable[Partition], now_ns: int) -> None:
        """Revoked. See *gone* above."""
        for partition in partitions:
            clock = self._clocks.get(partition)
            if clock is not None and not clock.gone_ns:
                clock.gone_ns = max(now_ns, 1)

    def finish(self, partitions: Iterable[Partition]) -> None:
        """Read to their end: nothing more will come, so they are waited for no more."""
        for partition in partitions:
            clock = self._clocks.get(partition)
            if clock is not None:
                clock.finished = True

    # -- state

    def is_sealed(self, window: int) -> bool:
        return window < self.sealed_until

    @property
    def partitions(self) -> list[Partition]:
        """Partitions that are ours."""
        return [p for p, clock in self._clocks.items() if not clock.gone_ns]

    def low_ms(self, now_ns: int) -> int | None:
        """The low watermark; None when nobody holds it, NEVER when somebody has not said anything yet."""
        held = [self._mark(c) for c in self._clocks.values() if self._holds(c, now_ns)]
        return min(held) if held else None

    def _mark(self, clock: Clock) -> int:
        if clock.max_event_time_ms < 0:
            return NEVER
        return clock.max_event_time_ms - self._lateness_ms

    def _is_idle(self, clock: Clock, now_ns: int) -> bool:
        quiet_since = max(clock.last_row_ns, clock.since_ns)
        is_quiet = clock.caught_up and now_ns - quiet_since >= self._idle_ns
        return is_quiet and not self._is_silent(clock, now_ns)

    def _holds(self, clock: Clock, now_ns: int) -> bool:
        if clock.finished:
            return False
        if clock.gone_ns:
            return now_ns - clock.gone_ns < self._owner_ns
        return not self._is_idle(clock, now_ns)

    def _is_silent(self, clock: Clock, now_ns: int) -> bool:
        return not clock.gone_ns and now_ns - clock.news_ns >= self._owner_ns

    def coverage(self, window: int, now_ns: int) -> float:
        """Share of the partitions that have reached the window's end; 1 when there is none to ask."""
        start, end = window * self.width_ms, (window + 1) * self.width_ms
        asked = reached = 0
        for clock in self._clocks.values():
            if clock.gone_ns and clock.max_event_time_ms < start:
                continue  # it left before it came here
            asked += 1
            if (
                clock.finished
                or self._mark(clock) >= end
                or (not clock.gone_ns and self._is_idle(clock, now_ns))
            ):
                reached += 1
        return reached / asked if asked else 1.0

    # -- seals

    def touch(self, window: int) -> None:
        """Open a window that is not sealed."""
        self.open.setdefault(window, Open())

    def excess(self, now_ns: int) -> list[Seal]:
        """Seal the oldest windows past `max_open`."""
        return [self.seal(window, now_ns) for window in sorted(self.open)[: self._n_excess()]]

    def _n_excess(self) -> int:
        return max(0, len(self.open) - self._max_open)

    def due(self, now_ns: int, *, tick: bool) -> list[Seal]:
        """Seal what may seal. Waiting ends, and silence seals, on ticks only."""
        low = self.low_ms(now_ns)
        if low is None:
            # Nobody holds: all are idle, finished or gone for good. Only a tick may take that as an end.
            if not tick or not self._clocks:
                return []
            seals = [self.seal(window, now_ns) for window in sorted(self.open)]
            self._drop_gone(now_ns)
            return seals
        seals = []
        moving = [
            self._mark(c)
            for c in self._clocks.values()
            if self._holds(c, now_ns) and not self._is_silent(c, now_ns)
        ]
        low_moving = min(moving, default=_ALWAYS)
        blocked = False  # by an older window that stays open
        for window in sorted(self.open):
            end = (window + 1) * self.width_ms
            state = self.open[window]
            if low >= end:
                seals.append(self.seal(window, now_ns))
            elif low_moving >= end:
                state.waiting_ns = state.waiting_ns or now_ns
                if not tick or now_ns - state.waiting_ns < self._max_wait_ns:
                    blocked = True
                if not blocked:
                    seals.append(self.seal(window, now_ns))
            else:
                state.waiting_ns = 0
                blocked = True
        if low > NEVER:
            self.sealed_until = max(self.sealed_until, low // self.width_ms)
        self._drop_gone(now_ns)
        return seals

    def all(self) -> list[Seal]:
        """Seal everything: all input has ended. Complete by definition."""
        seals = []
        for window in sorted(self.open):
            del self.open[window]
            self.sealed_until = max(self.sealed_until, window + 1)
            seals.append(Seal(window, 1.0))
        return seals

    def seal(self, window: int, now_ns: int) -> Seal:
        """Seal the oldest window, open or about to be, whatever the clocks say."""
        seal = Seal(window, self.coverage(window, now_ns))
        self.open.pop(window, None)
        self.sealed_until = max(self.sealed_until, window + 1)
        return seal

    def _drop_gone(self, now_ns: int) -> None:
        """Forget partitions that are gone for good once no open window can count them."""
        first = min(self.open, default=_ALWAYS) * self.width_ms
        for partition, clock in list(self._clocks.items()):
            if (
                clock.gone_ns
                and now_ns - clock.gone_ns >= self._owner_ns
                and clock.max_event_time_ms < first
            ):
                del self._clocks[partition]
