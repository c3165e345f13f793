"""What is known of one stream: totals, open windows, the last sealed profiles."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from agent.fold.costs import Cost
from agent.fold.histograms import HistogramSeries
from agent.fold.profile import Profile, violations
from agent.fold.series import Series
from agent.types import Attributes, Column, Exemplar, Kind, StreamKey

#: Exemplars kept for one histogram: the last ones, and those that no accepted export holds yet.
MAX_EXEMPLARS = 4

N_TYPES = 5


@dataclass(slots=True)
class ColumnTotals:
    """One column of one stream, since the stream was admitted."""

    column: Column
    cost: Cost
    kind: Kind | None = None
    present: list[int] = field(default_factory=lambda: [0] * N_TYPES)  # values by JsonType
    cell: int = -1  # totals: a wide numeric or a string cell
    # Until an export that holds them is accepted.
    exemplars: deque[Exemplar] = field(default_factory=lambda: deque(maxlen=MAX_EXEMPLARS))
    recent: tuple[Exemplar, ...] = ()  # the last ones, for scrapes: whether exported or not
    attributes: Attributes = ()
    missing: Series | None = None
    counters: Series | None = None
    histogram: HistogramSeries | None = None
    gauges: Series | None = None
    categories: dict[str, Series] = field(default_factory=dict)

    def keep(self, exemplar: Exemplar) -> None:
        """For the next export, and for scrapes."""
        self.exemplars.append(exemplar)
        self.recent = (*self.recent, exemplar)[-MAX_EXEMPLARS:]

    def violations(self) -> int:
        """Values of another type than the kind's."""
        return violations(self.kind, self.present)


@dataclass(slots=True)
class WindowColumn:
    """One column of one stream in one open window."""

    present: list[int] = field(default_factory=lambda: [0] * N_TYPES)
    cell: int = -1


@dataclass(slots=True)
class StreamWindow:
    """One stream in one open window. `unseen`: see `Stream`; `pairs`, `vectors`: see `Profile`."""

    rows: int = 0
    errors: int = 0
    unseen: int = 0
    columns: dict[Column, WindowColumn] = field(default_factory=dict)
    pairs: bytes = b""
    vectors: bytes = b""


@dataclass(slots=True)
class Stream:
    """One admitted or overflow stream. Times of events in ms, -1 none; wall times in ns.

    `unseen`: rows that load shedding left out, by estimate: 2^bits - 1 for each row counted at a level.
    """

    key: StreamKey
    attributes: Attributes
    seen_ns: int  # an input last had rows of it
    granted: Cost
    rows: int = 0
    errors: int = 0
    late: int = 0
    future: int = 0
    unseen: int = 0
    first_event_ms: int = -1
    last_event_ms: int = -1
    columns: dict[Column, ColumnTotals] = field(default_factory=dict)
    open: dict[int, StreamWindow] = field(default_factory=dict)
    sealed: deque[Profile] = field(default_factory=deque)
    unsketched: set[Column] = field(default_factory=set)  # past a limit; bounded by the fold
    unsketched_values: int = 0
    counters: Series | None = None
    gauges: Series | None = None

    def saw_events(self, first_ms: int, last_ms: int) -> None:
        """Widen the span of event times."""
        if self.first_event_ms < 0 or first_ms < self.first_event_ms:
            self.first_event_ms = first_ms
        self.last_event_ms = max(self.last_event_ms, last_ms)
