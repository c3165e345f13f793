"""Learner: a baseline from a model's own first windows, where none is given.

It stands after a few windows already, and again whenever their number has doubled, so that a new model is
watched within minutes and judged finely within hours; later after each day. It is fixed once the windows
asked for were seen, and of them a day, or a week where the hour of the day may explain what they show
(`docs/decisions/0014`): what comes later is judged, not learned. Once it stands, windows of an open alarm of quality, drift, state or freshness are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import msgspec

from agent.fold.profile import Profile
from agent.judge.detector import Segment
from agent.judge.history import calibrated
from agent.judge.panes import DAY_MS, MIN_ROWS, Panes
from agent.judge.reference import ModelKey, Reference, ReferenceStream
from agent.judge.seen import SeenKept, SeenStream
from agent.judge.union import united
from agent.types import StreamKey

#: Windows after which a model is first judged.
FIRST_WINDOWS: Final = 12
#: Rows that it must have by then.
FIRST_ROWS: Final = 500
#: Windows with rows after which a silence says something, and how many times the longest gap it then lasts.
HEARD_WINDOWS: Final = 3
GAPS: Final = 3
#: Panes kept until learning is over, and buckets in use of a numeric column in each.
MOST_PANES: Final = 64
MOST_BUCKETS: Final = 128
WEEK_MS: Final = 7 * DAY_MS


class LearnerKept(msgspec.Struct, array_like=True):
    n: int
    next: int
    whole: SeenKept
    segments: list[tuple[Segment, SeenKept]]


class Learner:
    """One model's. `reference` is None until there is enough."""

    def __init__(self, key: ModelKey, learn_windows: int) -> None:
        self._key = key
        self._most = learn_windows
        self._next = min(FIRST_WINDOWS, learn_windows)
        self._n = 0
        stream = StreamKey(key.model, key.version)
        self._whole = SeenStream(stream, Panes(stream, 1, MOST_PANES, MOST_BUCKETS))
        self._segments: dict[Segment, SeenStream] = {}

    @property
    def is_done(self) -> bool:
        """Whether what was seen tells a change from another hour, or another day."""
        if self._n < self._most:
            return False
        seen_ms = self._whole.facts.end_ms - self._whole.facts.starts_ms[0]
        return seen_ms >= WEEK_MS or (seen_ms >= DAY_MS and self._whole.is_steady())

    @property
    def progress(self) -> float:
        """Share of the windows to learn from that were seen."""
        return min(1.0, self._n / self._most)

    @property
    def n_columns(self) -> int:
        """Columns seen of all traffic."""
        return self._whole.facts.n_columns

    @property
    def n_segments(self) -> int:
        """Segments seen."""
        return len(self._segments)

    @property
    def size_bytes(self) -> int:
        """Memory, by estimate."""
        return self._whole.size_bytes + sum(s.size_bytes for s in self._segments.values())

    @property
    def silence_s(self) -> float | None:
        """Seconds without a row that are more than chance, as far as is known: thrice the longest gap so far,
        three windows at least. None for a model that was hardly heard of."""
        facts = self._whole.facts
        if len(facts.rows) < HEARD_WINDOWS or facts.n_rows < FIRST_ROWS:
            return None
        return GAPS * facts.gap_ms / 1000

    def add(self, whole: Profile, profiles: Sequence[Profile]) -> bool:
        """A healthy window; whether it is time to stand anew."""
        if self.is_done or whole.rows < MIN_ROWS:
            return False
        self._n += 1
        self._whole.add(whole)
        for profile in profiles:
            segment = profile.stream.segment
            if segment:
                if segment not in self._segments:
                    self._segments[segment] = SeenStream(profile.stream, None)
                self._segments[segment].add(profile)
        enough = self._whole.facts.n_rows >= FIRST_ROWS
        if not enough or (self._n < self._next and not self.is_done):
            return False
        if self._n < self._most:
            self._next = min(self._most, max(2 * self._n, self._next))
        else:
            self._next = self._n + max(1, DAY_MS // whole.width_ms)
        return True

    def kept(self) -> LearnerKept:
        """All there is, to go on from."""
        segments = [(segment, seen.kept()) for segment, seen in self._segments.items()]
        return LearnerKept(self._n, self._next, self._whole.kept(), segments)

    def restore(self, kept: LearnerKept) -> None:
        """Go on from `kept`, in place. Raises DecodeError."""
        self._n, self._next = kept.n, kept.next
        self._whole.restore(kept.whole)
        for segment, seen in kept.segments:
            stream = StreamKey(self._key.model, self._key.version, segment)
            self._segments[segment] = SeenStream(stream, None)
            self._segments[segment].restore(seen)

    def reference(self, width_ms: int) -> Reference:
        """What was seen so far, as if it had been a file; learning may go on."""
        whole = self._whole.reference(by_time=True)
        assert self._whole.panes is not None
        blocks = self._whole.panes.snapshot()
        rows = self._whole.facts.inner_rows
        whole.calibration = calibrated(whole.profile, blocks, rows).to_bytes()
        segments: dict[StreamKey, ReferenceStream] = {
            seen.stream: seen.reference(by_time=True) for seen in self._segments.values()
        }
        return Reference(
            width_ms=width_ms,
            created_ms=whole.end_ms,
            models={self._key: whole},
            segments=segments,
        )


def whole_of(key: ModelKey, profiles: Sequence[Profile]) -> Profile:
    """A window of all traffic of a model."""
    return united(profiles, StreamKey(key.model, key.version))


def cut(profiles: Sequence[Profile]) -> list[Profile]:
    """The same windows as some of whose rows are elsewhere: how many there are is not judged."""
    return [replace(profile, coverage=0.0) for profile in profiles]
