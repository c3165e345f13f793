"""What stands of verdicts, as points of metrics: computed anew for each export from `Standing`.

Invariants
1. A series that was written and is no more is ended once by a point without a value, for `ENDED_FOR_NS`.
2. Counters start where the fold's do, so they are as exact, and reset with them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final, Literal

from agent.emit.registry import DRIFTS
from agent.emit.verdict_events import stream_attributes
from agent.respond.standing import Standing
from agent.types import Attributes, Metric, NumberPoint, Role
from agent.verdict import Drift, shown_name

#: Longer than an export interval: a scrape in between must not take the news from the exporter.
ENDED_FOR_NS: Final = 60_000_000_000
#: Series of one distance: its estimate, and the bounds on either side.
SERIES_WITH_BOUNDS: Final = 3

Shown = Literal["none", "values", "bounds"]
_Series = tuple[str, Attributes]


class VerdictPoints:
    """Remembers the series it has written, to end them. `shown`: how much of drift is exported."""

    def __init__(self, shown: Shown, max_drift_series: int) -> None:
        self.shown = shown
        self._max_drift_series = max_drift_series
        self._written: set[_Series] = set()
        self._ended: dict[_Series, int] = {}

    @property
    def max_drift(self) -> int:
        """Distances that may stand, so that their series keep within the budget."""
        each = {"none": 0, "values": 1, "bounds": SERIES_WITH_BOUNDS}[self.shown]
        return self._max_drift_series // each if each else 0

    def metrics(self, standing: Standing, start_ns: int, time_ns: int) -> list[Metric]:
        """Points of everything that stands."""
        points: dict[str, list[NumberPoint]] = {}
        for name, attributes, value in _values(standing, self.shown):
            starts_ns = start_ns if name in _SUMS else 0
            points.setdefault(name, []).append(NumberPoint(attributes, value, starts_ns, time_ns))
        written = {(name, p.attributes) for name, found in points.items() for p in found}
        for series in self._written - written:
            self._ended[series] = time_ns + ENDED_FOR_NS
        self._written = written
        for series, until in list(self._ended.items()):
            if until < time_ns or series in written:
                del self._ended[series]
                continue
            name, attributes = series
            starts_ns = start_ns if name in _SUMS else 0
            ended = NumberPoint(attributes, 0, starts_ns, time_ns, ended=True)
            points.setdefault(name, []).append(ended)
        n_drift = sum(1 for name, _ in written if name.startswith("inference.drift."))
        points["inferometer.budget.drift"] = [
            NumberPoint((("inferometer.budget.state", state),), n, 0, time_ns)
            for state, n in (("used", n_drift), ("limit", self._max_drift_series))
        ]
        return [Metric(name, found) for name, found in points.items()]


_STATUS: Final = "inference.verdict.status"
_TRANSITIONS: Final = "inference.verdict.transitions"
_SUMS: Final = frozenset((_STATUS, _TRANSITIONS))


def _values(standing: Standing, shown: Shown) -> Iterator[tuple[str, Attributes, int | float]]:
    for key, subject in standing.subjects.items():
        what = stream_attributes(key.stream) | {"inference.monitor.name": key.monitor}
        now = subject.shown()
        for state, severity in subject.seen:
            is_now = (state, severity) == (now.state, now.severity)
            words = {
                "inference.verdict.state": state.value,
                "inference.verdict.severity": severity.value,
            }
            yield _STATUS, _sorted(what | words), int(is_now)
        for name, value in (("value", now.value), ("threshold", now.threshold)):
            if math.isfinite(value):
                yield f"inference.verdict.{name}", _sorted(what), value
    for count, n in standing.counts.items():
        words = {
            "inference.model.name": count.model,
            "inference.monitor.name": count.monitor,
            "inference.verdict.state": count.state.value,
            "inference.verdict.severity": count.severity.value,
        }
        yield _TRANSITIONS, _sorted(words), n
    if shown == "none":
        return
    for drift in standing.drift.values():
        if drift.metric in DRIFTS and math.isfinite(drift.value):
            where = _where(drift)
            for bound, value in _bounds(drift, shown):
                words = where | {"inference.drift.bound": bound}
                yield f"inference.drift.{drift.metric}", _sorted(words), value


def _bounds(drift: Drift, shown: Shown) -> Iterator[tuple[str, float]]:
    """The estimate, and with `bounds` those of its bounds that say more."""
    yield "value", drift.value
    if shown == "bounds":
        for bound, value in (("low", drift.low), ("high", drift.high)):
            if math.isfinite(value) and value != drift.value:
                yield bound, value


def _where(drift: Drift) -> dict[str, str]:
    """The stream and the column, a feature under the same attribute as its values have."""
    where = stream_attributes(drift.stream)
    if drift.column.role is Role.FEATURE:
        where["inference.feature.name"] = drift.column.name
    elif drift.column.role is Role.PREDICTION:
        where["inference.prediction.output"] = drift.column.name
    else:
        where["inference.column.name"] = shown_name(drift.column)
    return where


def _sorted(words: dict[str, str]) -> Attributes:
    return tuple(sorted(words.items()))
