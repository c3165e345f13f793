"""The agent's own counters, gauges and timings, added to from any thread.

Invariants
1. Only metrics and attributes of `emit.registry` exist; anything else raises, so tests find it.
2. A counter never falls; a point's time rises strictly from one `metrics()` to the next.
3. Series of one metric are bounded; what is past the limit goes to one overflow series.
"""

from __future__ import annotations

import math
import threading
import time
from bisect import bisect_left
from fractions import Fraction
from functools import lru_cache

import numpy as np

from agent.emit.registry import (
    OVERFLOW_ATTRIBUTE,
    Instrument,
    MetricSpec,
    RegistryError,
    spec_of,
)
from agent.types import Attributes, HistogramPoint, Metric, NumberPoint

#: Series of one metric: partitions of a large group fit; a runaway attribute does not.
MAX_SERIES = 2000

#: How long an ended series says so; longer than an export interval.
ENDED_FOR_S = 60

#: Timings are kept at scale 3 (8 buckets a doubling, relative error 4.3%), from 2^-20 s (1 us) to
#: 2^12 s (68 min): 256 buckets; what lies outside shares the end buckets.
TIMING_SCALE = 3
TIMING_FIRST = -20 << TIMING_SCALE
TIMING_BUCKETS = 32 << TIMING_SCALE


def _floor_root(numerator: int) -> float:
    """The largest double not above 2^(numerator / 8), exactly."""
    guess = math.exp2(numerator / 8)
    exact = Fraction(2) ** numerator
    while Fraction(guess) ** 8 > exact:
        guess = math.nextafter(guess, 0.0)
    while Fraction(math.nextafter(guess, 2.0)) ** 8 <= exact:
        guess = math.nextafter(guess, 2.0)
    return guess


#: Upper bounds, inclusive, of the buckets of [0.5, 1], where `frexp` leaves a mantissa. A logarithm
#: would put values next to a bound on its wrong side.
_BOUNDS = [_floor_root(j - 8) for j in range(9)]

_OVERFLOW: Attributes = ((OVERFLOW_ATTRIBUTE, True),)


class _Timing:
    """One exponential histogram of durations; at most `TIMING_BUCKETS` ints."""

    __slots__ = ("buckets", "count", "sum", "zero")

    def __init__(self) -> None:
        self.buckets: dict[int, int] = {}
        self.count = 0
        self.zero = 0
        self.sum = 0.0

    def add(self, value: float) -> None:
        self.count += 1
        if value <= 0:
            self.zero += 1
            return
        self.sum += value
        mantissa, exponent = math.frexp(value)
        index = ((exponent - 1) << TIMING_SCALE) + bisect_left(_BOUNDS, mantissa) - 1
        index = min(max(index, TIMING_FIRST), TIMING_FIRST + TIMING_BUCKETS - 1)
        self.buckets[index] = self.buckets.get(index, 0) + 1


class Telemetry:
    """Self-telemetry of the process. Every method may be called from any thread.

    Attributes are given by the keywords of the registry: `add("inferometer.dropped", 3, reason="empty")`.
    About 1 us for an `add`: call it per block or per request, not per row.
    """

    def __init__(self, *, start_ns: int | None = None) -> None:
        self.start_ns = time.time_ns() if start_ns is None else start_ns
        self._lock = threading.Lock()
        self._numbers: dict[str, dict[Attributes, int | float]] = {}
        self._timings: dict[str, dict[Attributes, _Timing]] = {}
        self._ended: dict[str, dict[Attributes, int]] = {}  # when to stop saying so
        self._last_ns = self.start_ns

    def start_after(self, time_ns: int) -> None:
        """Begin no series before this time, when the clock says an earlier one.

        For a process that goes on under the name of one before it, whose last points were of that time: a
        clock that was set back meanwhile must not lay one period over the other. Nor over points of this process
        that went out before it knew.
        """
        with self._lock:
            if self.start_ns < time_ns:
                self.start_ns = self._last_ns = max(self._last_ns, time_ns)

    def add(self, name: str, value: int | float = 1, **attributes: str | int) -> None:
        """Add to a counter (`value` >= 0) or an updowncounter."""
        spec = spec_of(name)
        if spec.instrument not in (Instrument.COUNTER, Instrument.UPDOWNCOUNTER):
            raise RegistryError(f"{name} is a {spec.instrument}; add() takes counters")
        if value < 0 and spec.instrument is Instrument.COUNTER:
            raise RegistryError(f"{name} is a counter; it cannot take {value}")
        key = _key(name, tuple(attributes.items()))
        with self._lock:
            series = self._numbers.setdefault(name, {})
            key = _bounded(series, key)
            series[key] = series.get(key, 0) + value

    def set(self, name: str, value: int | float, **attributes: str | int) -> None:
        """Set a gauge, or a counter that is counted elsewhere (it keeps its largest value)."""
        spec = spec_of(name)
        if spec.instrument is Instrument.EXP_HISTOGRAM:
            raise RegistryError(f"{name} is a histogram; use record()")
        key = _key(name, tuple(attributes.items()))
        with self._lock:
            series = self._numbers.setdefault(name, {})
            key = _bounded(series, key)
            if spec.instrument is Instrument.COUNTER:
                value = max(value, series.get(key, 0))
            series[key] = value

    def record(self, name: str, value: float, **attributes: str | int) -> None:
        """Record one duration in a histogram."""
        spec = spec_of(name)
        if spec.instrument is not Instrument.EXP_HISTOGRAM:
            raise RegistryError(f"{name} is a {spec.instrument}; record() takes histograms")
        key = _key(name, tuple(attributes.items()))
        with self._lock:
            series = self._timings.setdefault(name, {})
            key = _bounded(series, key)
            series.setdefault(key, _Timing()).add(value)

    def end(self, name: str, **attributes: str | int) -> None:
        """End all series of a gauge that carry these attributes.

        Each is one no-recorded-value point in everything read within `ENDED_FOR_S`, then gone: a
        scrape in between must not take the news from the exporter.
        """
        spec = spec_of(name)
        if spec.instrument is not Instrument.GAUGE:
            raise RegistryError(f"{name} is a {spec.instrument}; only gauges end")
        wanted = set(_named(spec, tuple(attributes.items())))
        with self._lock:
            series = self._numbers.get(name, {})
            for key in [key for key in series if wanted.issubset(key)]:
                del series[key]
                self._ended.setdefault(name, {})[key] = self._last_ns + ENDED_FOR_S * 1_000_000_000

    def value(self, name: str, **attributes: str | int) -> int | float:
        """Current value of one series, 0 when it does not exist. For pages and tests."""
        key = _key(name, tuple(attributes.items()))
        with self._lock:
            return self._numbers.get(name, {}).get(key, 0)

    def total(self, name: str) -> int | float:
        """Sum over all series of one metric."""
        with self._lock:
            return sum(self._numbers.get(name, {}).values())

    def metrics(self, now_ns: int) -> list[Metric]:
        """Points of everything, copied. Times rise strictly, also when the clock does not."""
        with self._lock:
            now_ns = self._last_ns = max(now_ns, self._last_ns + 1)
            out: list[Metric] = []
            for name, series in self._numbers.items():
                start_ns = 0 if spec_of(name).instrument is Instrument.GAUGE else self.start_ns
                points = [
                    NumberPoint(key, value, start_ns, now_ns) for key, value in series.items()
                ]
                points += self._ends(name, now_ns)
                if points:
                    out.append(Metric(name, points))
            for name, timings in self._timings.items():
                out.append(
                    Metric(
                        name,
                        [
                            _histogram_point(key, timing, self.start_ns, now_ns)
                            for key, timing in timings.items()
                        ],
                    )
                )
            return out

    def _ends(self, name: str, now_ns: int) -> list[NumberPoint]:
        ended = self._ended.get(name, {})
        for key in [k for k, until in ended.items() if now_ns > until or k in self._numbers[name]]:
            del ended[key]
        return [NumberPoint(key, 0, 0, now_ns, ended=True) for key in ended]


def _bounded(
    series: dict[Attributes, int | float] | dict[Attributes, _Timing], key: Attributes
) -> Attributes:
    return key if key in series or len(series) < MAX_SERIES else _OVERFLOW


@lru_cache(maxsize=8192)
def _key(name: str, attributes: tuple[tuple[str, str | int], ...]) -> Attributes:
    """The sorted attributes of a series, constants included; checks them against the registry."""
    spec = spec_of(name)
    named = _named(spec, attributes)
    given = {name for name, _ in named}
    for attribute in spec.attributes:
        if attribute.required and attribute.name not in given:
            raise RegistryError(f"{name}: argument {attribute.keyword}= is missing")
    return tuple(sorted((*named, *spec.constants)))


def _named(
    spec: MetricSpec, attributes: tuple[tuple[str, str | int], ...]
) -> tuple[tuple[str, str], ...]:
    names = {attribute.keyword: attribute.name for attribute in spec.attributes}
    for keyword, _ in attributes:
        if keyword not in names:
            raise RegistryError(
                f"{spec.name} has no attribute {keyword!r}; it has {sorted(names) or 'none'}"
            )
    return tuple((names[keyword], str(value)) for keyword, value in attributes)


def _histogram_point(
    key: Attributes, timing: _Timing, start_ns: int, now_ns: int
) -> HistogramPoint:
    first = min(timing.buckets, default=0)
    counts = np.zeros(max(timing.buckets, default=-1) - first + 1, np.uint64)
    for index, n in timing.buckets.items():
        counts[index - first] = n
    return HistogramPoint(
        attributes=key,
        start_ns=start_ns,
        time_ns=now_ns,
        count=timing.count,
        sum=timing.sum,
        scale=TIMING_SCALE,
        zero_count=timing.zero,
        zero_threshold=0.0,
        positive_offset=first,
        positive=counts,
        negative_offset=0,
        negative=np.zeros(0, np.uint64),
    )
