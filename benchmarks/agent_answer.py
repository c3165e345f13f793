"""Is what the agent exported right? Distributions, rows by model and distinct values against the truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.stream import QUANTILES, Stream, Truth

#: Windows of the agent by default.
WINDOW_MS = 60_000
#: Estimates of distinct values may be off by so much.
DISTINCT_SHARE = 0.08
_HISTOGRAMS = {"inference.latency": "latency_ms", "inference.prediction.value": "prediction"}
#: What one unit of the agent is in the event's: it exports seconds.
_UNITS = {"latency_ms": 1000.0}


@dataclass
class Answers:
    """The latest data point of every series that the job asks for."""

    #: name of the number in the event -> series -> data point of an exponential histogram
    histograms: dict[str, dict[Any, Any]] = field(default_factory=dict)
    #: (model, feature) -> distinct values in the last sealed window
    distinct: dict[tuple[str, str], float] = field(default_factory=dict)
    #: model -> start of that window, Unix ms
    window_ms: dict[str, int] = field(default_factory=dict)

    def take(self, name: str, at: Any, data: Any) -> None:
        """One data point with its attributes; those of other metrics are left."""
        model = at.get("inference.model.name")
        feature = at.get("inference.feature.name")
        number = feature if name == "inference.feature.value" else _HISTOGRAMS.get(name)
        if number is not None:
            self.histograms.setdefault(number, {})[model] = data
        elif name == "inference.feature.distinct":
            self.distinct[model, feature] = _number(data)
        elif name == "inference.window.start":
            self.window_ms[model] = round(_number(data) * 1000)

    def differences(self, stream: Stream, truth: Truth) -> list[str]:
        """What is not so. A quantile must lie in the bucket that the exact one lies in."""
        wrong = []
        for name in truth.sorted_values:
            buckets = merged(self.histograms.get(name, {}).values())
            n = sum(count for _, _, count in buckets)
            if n != truth.rows:
                wrong.append(f"{name}: {n} values of {truth.rows}")
                continue
            for q in QUANTILES:
                low, high = bucket_of(buckets, q)
                unit = _UNITS.get(name, 1.0)
                # A value at a bound may lie on either side of it after the division by the unit.
                slack = 2e-6
                if not (
                    truth.rank(name, low * unit) <= q + slack
                    and truth.rank(name, high * unit) >= q - slack
                ):
                    wrong.append(f"{name}: its quantile {q} is not in {low} to {high}")
        for (model, feature), estimate in self.distinct.items():
            if feature == "country":
                true = 4
            elif feature == "session":
                true = stream.distinct_in_window(
                    model, self.window_ms[model], WINDOW_MS, truth.rows
                )
            else:
                continue
            if abs(estimate - true) > DISTINCT_SHARE * true:
                wrong.append(f"{model} {feature}: {estimate} distinct of {true}")
        return wrong


def merged(points: Iterable[Any]) -> list[tuple[float, float, int]]:
    """Buckets (low, high, count) of exponential histograms added up, in order, at the least scale."""
    points = list(points)
    if not points:
        return []
    scale = min(point.scale for point in points)
    above: Counter[int] = Counter()
    below: Counter[int] = Counter()
    zeros = 0
    for point in points:
        zeros += point.zero_count
        for side, into in ((point.positive, above), (point.negative, below)):
            for at, count in enumerate(side.bucket_counts, side.offset):
                into[at >> (point.scale - scale)] += count
    growth = 2.0 ** (2.0**-scale)
    out = [(-(growth ** (at + 1)), -(growth**at), below[at]) for at in sorted(below, reverse=True)]
    if zeros:
        out.append((0.0, 0.0, zeros))
    out += [(growth**at, growth ** (at + 1), above[at]) for at in sorted(above)]
    return out


def bucket_of(buckets: list[tuple[float, float, int]], q: float) -> tuple[float, float]:
    """Bounds of the bucket in which the quantile lies."""
    left = q * sum(count for _, _, count in buckets)
    for low, high, count in buckets:
        left -= count
        if left <= 0:
            return low, high
    raise ValueError("no values")


def _number(data: Any) -> float:
    return float(getattr(data, data.WhichOneof("value")))
