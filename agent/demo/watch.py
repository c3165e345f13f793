"""What the demo shows of the agent's sealed windows: January beside the last seven days.

Fed with `/v1/state` documents, and with the reference that the agent judges against. Sketches of a stream's
daily windows are merged. Nothing is judged here: alarms are the agent's, and come through its webhook.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from agent.demo.flights import DAY_MS, FEATURES
from agent.demo.model import CANARY_VERSION
from agent.judge import drift
from agent.judge.drift import Histogram, Psi

RECENT_DAYS: Final = 7
COARSE_VALUES: Final = 3  # different values a bucket, at most,
COARSE_BUCKETS: Final = 16  # in a histogram of so few
SCORE: Final = "score"


@dataclass(frozen=True)
class Values:
    """One column of one or more windows."""

    rows: int = 0
    missing: int = 0
    histogram: Histogram = field(default_factory=Histogram.empty)
    top: Mapping[str, int] = field(default_factory=dict)
    distinct: int = 0

    @classmethod
    def from_json(cls, column: Mapping[str, Any] | None, rows: int) -> Values:
        """A column that a window does not have at all is missing in all its rows."""
        if column is None:
            return cls(rows, rows)
        return cls(
            rows,
            min(rows, int(column.get("missing") or 0)),
            Histogram.from_json(column.get("histogram")),
            {str(value): int(count) for value, count in column.get("top") or ()},
            round(column.get("distinct") or 0),
        )

    @property
    def present(self) -> int:
        return self.rows - self.missing

    @property
    def is_coarse(self) -> bool:
        """Do many values share each of few buckets? Then a small step moves all of them at once."""
        n_buckets = max(1, len(self.histogram.keys))
        is_shared = self.distinct > COARSE_VALUES * n_buckets and not self.top
        return is_shared and n_buckets < COARSE_BUCKETS

    @property
    def missing_rate(self) -> float:
        return self.missing / self.rows if self.rows else 0.0


def merge(parts: Iterable[Values]) -> Values:
    """All rows together. Distinct values do not add; the largest count is a lower bound."""
    parts = list(parts)
    top: dict[str, int] = {}
    for part in parts:
        for value, count in part.top.items():
            top[value] = top.get(value, 0) + count
    return Values(
        sum(p.rows for p in parts),
        sum(p.missing for p in parts),
        drift.merge(p.histogram for p in parts),
        top,
        max((p.distinct for p in parts), default=0),
    )


def compare(baseline: Values, window: Values) -> Psi:
    """PSI of the values present; by category where there is no histogram."""
    if baseline.histogram.total:
        return drift.numeric_psi(baseline.histogram, window.histogram)
    return drift.categorical_psi(baseline.top, baseline.present, window.top, window.present)


@dataclass(frozen=True)
class Day:
    """One sealed window of one stream."""

    start_ms: int
    rows: int
    columns: Mapping[str, Values]
    latency: Histogram
    late: int


@dataclass
class Stream:
    """What is kept of one airport's flights under one version: seven days."""

    version: str
    origin: str
    days: deque[Day] = field(default_factory=lambda: deque(maxlen=RECENT_DAYS))
    rows: int = 0

    def recent(self, name: str) -> Values:
        return merge(d.columns[name] for d in self.days if name in d.columns)


class Watch:
    """Feed it states in order; it keeps a few hundred kilobytes whatever the length of the run."""

    def __init__(self, *, start_ms: int) -> None:
        self.reference: dict[str, Values] = {}
        self.streams: dict[tuple[str, str], Stream] = {}
        self.newest_ms = start_ms
        self.late_by_week: dict[int, tuple[int, int]] = {}  # week -> late, rows
        self._start_ms = start_ms

    def refer_to(self, path: Path) -> None:
        """Take all traffic of a reference (`inferometer profile build`) as what values are compared with."""
        from agent.commands.profile import reference_document
        from agent.config import Config
        from agent.judge.reference import read_reference

        for stream in reference_document(read_reference(path), Config())["streams"]:
            if not stream["stream"]["segment"]:
                columns = {n.removeprefix("prediction."): c for n, c in stream["columns"].items()}
                for name in (*FEATURES, SCORE):
                    self.reference[name] = Values.from_json(columns.get(name), stream["rows"])

    def feed(self, state: Mapping[str, Any]) -> None:
        """Take in the windows sealed since the last state."""
        for body in sorted(state.get("streams", ()), key=_key):
            stream = self.streams.setdefault(_key(body), Stream(*_key(body)))
            stream.rows = int(body["rows"])
            seen_ms = stream.days[-1].start_ms if stream.days else -1
            for window in body["windows"]:
                if window["start_ms"] > seen_ms and window["rows"]:
                    self._take(stream, _day(window))

    def groups(self) -> dict[str, list[Stream]]:
        """Streams under the names that they are shown by: airports, and the canary as a whole."""
        found: dict[str, list[Stream]] = {}
        for (version, origin), stream in sorted(self.streams.items()):
            name = f"canary v{version}" if version == CANARY_VERSION else f"origin {origin}"
            found.setdefault(name, []).append(stream)
        return found

    def overall(self, feature: str) -> tuple[Values, Values]:
        """Reference and last seven days of all streams together."""
        recent = merge(s.recent(feature) for s in self.streams.values())
        return self.reference.get(feature, Values()), recent

    def _take(self, stream: Stream, day: Day) -> None:
        stream.days.append(day)
        self.newest_ms = max(self.newest_ms, day.start_ms + DAY_MS)
        week = (day.start_ms - self._start_ms) // (7 * DAY_MS)
        late, rows = self.late_by_week.get(week, (0, 0))
        self.late_by_week[week] = (late + day.late, rows + day.rows)


def _key(stream: Mapping[str, Any]) -> tuple[str, str]:
    """Version and airport."""
    return str(stream["version"]), str(stream["segment"].get("origin", ""))


def _day(window: Mapping[str, Any]) -> Day:
    rows = int(window["rows"])
    columns = window["features"]
    taken = {name: Values.from_json(columns.get(name), rows) for name in FEATURES}
    predictions = window.get("predictions") or {}
    taken[SCORE] = Values.from_json(predictions.get("score"), rows)
    labels = dict((predictions.get("label") or {}).get("top") or ())
    return Day(
        int(window["start_ms"]),
        rows,
        taken,
        Histogram.from_json((window.get("latency") or {}).get("histogram")),
        int(labels.get("late", 0)),
    )


def latency_quantile(streams: Iterable[Stream], q: float) -> float:
    """Seconds, over the last seven days; nan without data."""
    return drift.quantile(drift.merge(d.latency for s in streams for d in s.days), q)


def late_share(streams: Iterable[Stream]) -> float:
    """Share of the last seven days' flights predicted late; nan without data."""
    days = [day for stream in streams for day in stream.days]
    rows = sum(d.rows for d in days)
    return sum(d.late for d in days) / rows if rows else math.nan
