"""What was seen of one stream, window by window, until it becomes a ReferenceStream.

Used for files and for a model that has no baseline yet: what its first windows show is the same thing.
"""

from __future__ import annotations

import statistics

import msgspec

from agent.fold.profile import Profile
from agent.judge.hour_share import HourShare, HoursKept, is_steady
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


class SeenStream:
    """One stream's windows: their facts, their union, and where asked for the panes that calibrate."""

    def __init__(self, stream: StreamKey, panes: Panes | None) -> None:
        self.facts = WindowFacts()
        self.panes = panes
        self.stream = stream
        self._hour_share = HourShare()
        self._hours: dict[int, Profile] = {}
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
        """The parts gathered so far into one for each hour of the day."""
        hours: dict[int, list[Profile]] = {}
        for part in self._parts:
            hours.setdefault(hour_of(part.start_ms), []).append(part)
        for hour, parts in hours.items():
            known = [self._hours[hour]] if hour in self._hours else []
            self._hours[hour] = united([*known, *parts], self.stream)
        self._parts = []

    @property
    def size_bytes(self) -> int:
        """Memory, by estimate."""
        profiles = [*self._hours.values(), *self._parts]
        panes = self.panes.size_bytes if self.panes is not None else 0
        own = self.facts.size_bytes + self._hour_share.size_bytes
        return panes + own + sum(map(profile_bytes, profiles))

    def is_steady(self) -> bool:
        """Whether it is known that the time of day explains little of what windows hold, and of how many rows."""
        return self._hour_share.is_steady() and is_steady(self.facts.starts_ms, self.facts.rows)

    def kept(self) -> SeenKept:
        """All there is, to go on from."""
        return SeenKept(
            self.facts.kept(),
            self.panes.kept() if self.panes is not None else None,
            self._hour_share.kept(),
            [(hour, profile.to_bytes()) for hour, profile in self._hours.items()],
            [profile.to_bytes() for profile in self._parts],
        )

    def restore(self, kept: SeenKept) -> None:
        """Go on from `kept`, in place. Raises DecodeError."""
        self.facts.restore(kept.facts)
        if self.panes is not None and kept.panes is not None:
            self.panes.restore(kept.panes)
        self._hour_share.restore(kept.hour_share)
        self._hours = {hour: Profile.from_bytes(data) for hour, data in kept.hours}
        self._parts = [Profile.from_bytes(data) for data in kept.parts]

    def reference(self, *, by_time: bool) -> ReferenceStream:
        self._join()
        facts = self.facts
        found = ReferenceStream(
            profile=united([self._hours[h] for h in sorted(self._hours)], self.stream),
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
            found.hours = dict(sorted(self._hours.items()))
            found.hour_rows = facts.hour_rows()
        return found
