"""Bounds of monitors learned from a healthy stretch of history, at a set budget of false pages.

A monitor pages when its worst feature is beyond the bound for `for` windows in a row, so what is learned from
is the series S of the worst value's minimum (maximum, for `below`) over so many windows. The bound is the
level that S passes once in A windows: its empirical quantile while A is less than a tenth of the history, and
beyond that an exponential tail over the highest twentieth, whose mean excess is stated one standard
error high.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from agent.config import Monitor
from agent.judge.rules import target_windows
from agent.types import Column, Json, StreamKey
from agent.verdict import stream_json

#: Fewer windows say nothing of a tail.
LEAST_WINDOWS: Final = 30
_TAIL: Final = 0.05
_LEAST_TAIL: Final = 10

Values = Mapping[Column | None, float]


class Learned(msgspec.Struct, frozen=True, kw_only=True):
    """One bound. `bound` is None where there was too little to learn from."""

    monitor: str
    metric: str
    stream: StreamKey
    side: str  # above, below
    bound: float | None
    windows: int
    before: float


class Learning:
    """Gathers values of monitors by stream and window; told in the order of windows."""

    def __init__(self) -> None:
        self._series: dict[tuple[str, StreamKey], list[tuple[float, float]]] = {}
        self._monitors: dict[str, Monitor] = {}

    def see(self, monitor: Monitor, stream: StreamKey, values: Values) -> None:
        """The values of one window."""
        finite = [v for v in values.values() if math.isfinite(v)]
        if finite:
            self._monitors[monitor.name] = monitor
            series = self._series.setdefault((monitor.name, stream), [])
            series.append((min(finite), max(finite)))

    def bounds(self, days: float, width_s: float) -> list[Learned]:
        """For each monitor and stream: the bound that healthy windows like these pass once in `days`."""
        target = target_windows(days, width_s)
        found = []
        for (name, stream), series in sorted(self._series.items(), key=lambda item: item[0]):
            monitor = self._monitors[name]
            assert monitor.when is not None
            for side in ("above", "below"):
                before = getattr(monitor.when, side)
                if before is None:
                    continue
                values = [high if side == "above" else -low for low, high in series]
                level = passed_once_in(target, lasting(values, monitor.for_windows))
                if level is not None and side == "below":
                    level = -level
                found.append(
                    Learned(
                        monitor=name,
                        metric=monitor.metric,
                        stream=stream,
                        side=side,
                        bound=level,
                        windows=len(series),
                        before=before,
                    )
                )
        return found


def lasting(values: Sequence[float], windows: int) -> list[float]:
    """The smallest of each `windows` values in a row: what lasted so long."""
    return [min(values[i : i + windows]) for i in range(len(values) - windows + 1)]


def passed_once_in(target: float, values: Sequence[float]) -> float | None:
    """The level that the series passes once in `target` windows; None with too few values."""
    ordered = sorted(values)
    n = len(ordered)
    if n < LEAST_WINDOWS:
        return None
    if target <= n / 10:
        return ordered[min(n - 1, math.ceil(n * (1.0 - 1.0 / target)))]
    k = min(n // 2, max(_LEAST_TAIL, round(_TAIL * n)))
    base = ordered[n - k - 1]
    excess = sum(v - base for v in ordered[n - k :]) / k
    # The error of a mean of k exponential values is mean / sqrt(k).
    return base + excess * (1.0 + 1.0 / math.sqrt(k)) * math.log(target * k / n)


def learned_json(learned: Sequence[Learned]) -> list[Json]:
    """As the document shows them."""
    return [
        {
            "monitor": one.monitor,
            "metric": one.metric,
            "stream": stream_json(one.stream),
            "side": one.side,
            "bound": one.bound,
            "configured": one.before,
            "windows": one.windows,
        }
        for one in learned
    ]


def learned_lines(learned: Sequence[Learned], days: float) -> list[str]:
    """As people read them."""
    if not learned:
        return ["no monitor has bounds to learn: `when.above` or `when.below`"]
    lines = [f"bounds that this stretch, were it healthy, would pass once in {days:g} days:"]
    for one in learned:
        where = f"{one.stream.model} {one.stream.version}".strip()
        where += "".join(f" {k}={v}" for k, v in one.stream.segment)
        if one.bound is None:
            said = f"too few windows ({one.windows:,}; at least {LEAST_WINDOWS})"
        else:
            said = f"{one.side}: {one.bound:.4g}  (now {one.before:.4g}; {one.windows:,} windows)"
        lines.append(f"  {one.monitor} on {where}: {said}")
    return lines
