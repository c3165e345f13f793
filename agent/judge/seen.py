"""What was seen of one stream, window by window, until it becomes a ReferenceStream.

Used for files and for a model that has no baseline yet: what its first windows show is the same thing.
"""

from __future__ import annotations

import statistics

import msgspec

from agent.fold.profile import Profile
from agent.judge.hour_share import HourShare, HoursKept, is_steady
from agent.judge.pane_bytes import packed, unpacked
from agent.judge.panes import FactsKept, Panes, PanesKept, WindowFacts, hour_of
from agent.judge.reference import ReferenceStream
from agent.judge.sizes import profile_bytes
from agent.judge.union import united
from agent.types import StreamKey

#: Profiles gathered before they are joined. Of 14 columns one takes 40 kB to keep, and 1.3 ms to join by itself, 0.5
#: where four are joined at once, 0.3 where sixteen are.
_AT_ONCE = 4


class SeenKept(msgspec.Struct, array_like=True):
    facts: FactsKept
    panes: PanesKept | None
    hour_share: HoursKept
    hours: list[tuple[int, bytes]]
    parts: list[bytes]
    total: bytes = b""
    open: bytes = b""
    open_hour: int = -1


class SeenStream:
    """One stream's windows: their facts, their union, and where asked for the panes that calibrate.

    The hour that is seen now is one profile; when it is over, it is added to the union, and what windows of that
    hour of the day are compared with waits packed: a day would else be 24 profiles.
    """

    def __init__(self, stream: StreamKey, panes: Panes | None) -> None:
        self.facts = WindowFacts()
        self.panes = panes
        self.stream = stream
        self._hour_share = HourShare()
        self._hours: dict[int, bytes] = {}  # that are over, packed
        self._total: Profile | None = None  # of these
        self._open: Profile | None = None
        self._open_hour = -1
        self._parts: list[Profile] = []

    def add(self, profile: Profile) -> None:
        self.facts.add(profile)
        if self.panes is not None:
            self.panes.add(profile)
        self._hour_share.add(profile)
        self._parts.append(profile)
        if len(self._parts) >= _AT_ONCE:
            self._join()

    def _join(self) -> None:
        """The parts gathered so far into the hours of the day that they lie in."""
        hours: dict[int, list[Profile]] = {}
        for part in self._parts:
            hours.setdefault(hour_of(part.start_ms), []).append(part)
        for hour, parts in hours.items():
            if hour != self._open_hour:
                self._close()
                self._open_hour = hour
            self._open = self._united(self._open, *parts)
        self._parts = []

    def _close(self) -> None:
        """The open hour is over."""
        if self._open is not None:
            self._hours[self._open_hour] = packed(self._of_hour(self._open_hour))
            self._total = self._united(self._total, self._open)
            self._open = None

    def _of_hour(self, hour: int) -> Profile:
        """All windows of an hour of the day."""
        known = unpacked(self._hours[hour]) if hour in self._hours else None
        return self._united(known, self._open if hour == self._open_hour else None)

    def _united(self, *profiles: Profile | None) -> Profile:
        return united([profile for profile in profiles if profile is not None], self.stream)

    @property
    def size_bytes(self) -> int:
        """Memory, by estimate."""
        profiles = [p for p in (self._total, self._open, *self._parts) if p is not None]
        panes = self.panes.size_bytes if self.panes is not None else 0
        hours = sum(map(len, self._hours.values()))
        own = self.facts.size_bytes + self._hour_share.size_bytes
        return panes + own + hours + sum(map(profile_bytes, profiles))

    def is_steady(self) -> bool:
        """Whether it is known that the time of day explains little of what windows hold, and of how many rows."""
        return self._hour_share.is_steady() and is_steady(self.facts.starts_ms, self.facts.rows)

    def kept(self) -> SeenKept:
        """All there is, to go on from."""
        return SeenKept(
            self.facts.kept(),
            self.panes.kept() if self.panes is not None else None,
            self._hour_share.kept(),
            list(self._hours.items()),
            [profile.to_bytes() for profile in self._parts],
            self._total.to_bytes() if self._total is not None else b"",
            self._open.to_bytes() if self._open is not None else b"",
            self._open_hour,
        )

    def restore(self, kept: SeenKept) -> None:
        """Go on from `kept`, in place. Raises DecodeError."""
        self.facts.restore(kept.facts)
        if self.panes is not None and kept.panes is not None:
            self.panes.restore(kept.panes)
        self._hour_share.restore(kept.hour_share)
        for _, data in kept.hours:
            unpacked(data)  # what cannot be read is found now
        self._hours = dict(kept.hours)
        self._total = Profile.from_bytes(kept.total) if kept.total else None
        self._open = Profile.from_bytes(kept.open) if kept.open else None
        self._open_hour = kept.open_hour
        self._parts = [Profile.from_bytes(data) for data in kept.parts]

    def reference(self, *, by_time: bool) -> ReferenceStream:
        self._join()
        facts = self.facts
        found = ReferenceStream(
            profile=self._united(self._total, self._open),
            columns=facts.columns(),
        )
        if not by_time:
            return found
        inner = facts.inner_rows
        found.windows = len(facts.rows)
        found.start_ms, found.end_ms = facts.starts_ms[0], facts.end_ms
        found.rows_low, found.rows_high = min(inner), max(inner)
        found.rows_median = float(statistics.median(inner))
        found.gap_s = facts.gap_ms / 1000
        if self._hour_share.matters():
            hours = sorted({*self._hours, self._open_hour})
            found.hours = {hour: self._of_hour(hour) for hour in hours}
            found.hour_rows = facts.hour_rows()
        return found
