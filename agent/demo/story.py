"""What has happened in a demo so far: counts, faults and findings, for the view and the report."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from agent.demo.flights import DAY_MS, FEATURES, FEEDS
from agent.demo.watch import Finding

_RATE_SPAN_S: Final = 3.0


@dataclass
class Injected:
    """An upstream fault that the model server made; the watch knows nothing of it."""

    what: str
    at_s: float
    sim_ms: int
    streams: frozenset[str]
    features: frozenset[str]
    after_s: float | None = None  # seconds until a sealed window showed it; None while it has not


@dataclass
class Entry:
    """One line of the event log: findings of one kind that came together."""

    at_s: float
    sim_ms: int
    kind: str
    streams: list[str]
    features: list[str]
    text: str = ""
    injected: Injected | None = None


@dataclass
class Story:
    """Filled by the demo's loop; times are seconds since the model server's clock began."""

    days: int
    duration_s: float
    start_ms: int
    sim_ms: int = 0
    produced: int = 0
    labels_produced: int = 0
    injected: list[Injected] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    state: Mapping[str, Any] = field(default_factory=dict)
    _history: deque[tuple[float, int, int]] = field(default_factory=deque)

    def take_state(self, state: Mapping[str, Any], at_s: float) -> None:
        self.state = state
        self._history.append((at_s, self.rows, self.labels))
        while len(self._history) > 2 and at_s - self._history[0][0] > _RATE_SPAN_S:
            self._history.popleft()

    def take_message(self, message: Mapping[str, Any]) -> None:
        """`tick`, `injected` or `done` of the model server."""
        if message["event"] == "injected":
            self.injected.append(
                Injected(
                    message["what"],
                    message["at_s"],
                    message["sim_ms"],
                    frozenset(message["streams"]),
                    frozenset(message["features"]),
                )
            )
            return
        self.produced = message["produced"]
        self.labels_produced = message["labels"]
        self.sim_ms = message.get("sim_ms", self.sim_ms)

    def take_findings(self, findings: Iterable[Finding], at_s: float) -> None:
        """Join findings that came together into lines, and see which fault they uncover."""
        lines: dict[tuple[str, str], list[Finding]] = {}
        for finding in findings:
            lines.setdefault((finding.kind, _feed(finding.feature)), []).append(finding)
        for (kind, _), members in lines.items():
            entry = Entry(
                at_s,
                min(f.from_ms for f in members),
                kind,
                sorted({f.stream for f in members}),
                sorted({f.feature for f in members}, key=FEATURES.index),
            )
            entry.text = _sentence(entry, members)
            entry.injected = self._fault_behind(entry)
            if entry.injected is not None and entry.injected.after_s is None:
                entry.injected.after_s = round(at_s - entry.injected.at_s, 3)
            self.entries.append(entry)

    def _fault_behind(self, entry: Entry) -> Injected | None:
        """The fault that touched these features of these streams before the first window ended."""
        for fault in self.injected:
            touched = fault.features.issuperset(entry.features) and fault.streams.issuperset(
                entry.streams
            )
            if touched and entry.sim_ms + DAY_MS > fault.sim_ms:
                return fault
        return None

    @property
    def rows(self) -> int:
        return int(self._tally("rows"))

    @property
    def labels(self) -> int:
        return int(self._tally("labels"))

    @property
    def dropped(self) -> int:
        return sum((self.state.get("tally") or {}).get("dropped", {}).values())

    def _tally(self, name: str) -> int:
        return int((self.state.get("tally") or {}).get(name, 0))

    def rates(self) -> tuple[float, float]:
        """Rows and labels a second that the agent counted, over the last three seconds."""
        if len(self._history) < 2:
            return 0.0, 0.0
        (t0, r0, l0), (t1, r1, l1) = self._history[0], self._history[-1]
        span_s = max(t1 - t0, 1e-3)
        return (r1 - r0) / span_s, (l1 - l0) / span_s


def _feed(feature: str) -> str:
    return next(feed for feed, names in FEEDS.items() if feature in names)


def _sentence(entry: Entry, members: list[Finding]) -> str:
    who = ", ".join(entry.streams)
    names = ", ".join(entry.features[:3])
    if len(entry.features) > 3:
        names += f" +{len(entry.features) - 3}"
    before = _mean(f.before for f in members)
    after = _mean(f.after for f in members)
    if entry.kind == "null":
        return f"{who}: {names} turned null, missing {before:.0%} → {after:.0%}"
    change = "" if math.isnan(before) else f", median {before:,.0f} → {after:,.0f}"
    return f"{who}: {names} shifted{change}, PSI {_mean(f.psi for f in members):.1f}"


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)
