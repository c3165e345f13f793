"""Metrics -> text for a Prometheus scrape, classic or OpenMetrics.

Exponential histograms become classic ones with explicit bounds at powers of two: every scale has a
bucket bound there, so the counts are exact. Both forms are upper-inclusive on the positive side. A
negative bucket holds [-2^(k+1), -2^k), so the bound above it is the number just below -2^k: as text
`-1.0000000000000002` for k = 0, and exact, where `-1` would miss the values that are -1.

The range of bounds of a series is the range of values it has seen; it only widens. Native histograms
go through OTLP alone. Points carry no timestamp, so Prometheus sees a target that is gone.

Names and units: opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.emit.registry import Instrument, MetricSpec, spec_of
from agent.emit.resource import AgentResource
from agent.types import Attributes, Exemplar, HistogramPoint, Metric, NumberPoint

#: UCUM units in the registry, as Prometheus writes them. `{...}` is an annotation: no suffix.
_UNITS: Final = {"s": "seconds", "By": "bytes", "ms": "milliseconds", "%": "percent"}
_BAD = re.compile(r"[^a-zA-Z0-9_]+")
_ESCAPES: Final = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})
_HELP_ESCAPES: Final = str.maketrans({"\\": r"\\", "\n": r"\n"})


def render(
    metrics: Iterable[Metric], resource: AgentResource | None = None, *, openmetrics: bool = False
) -> bytes:
    """The exposition of all metrics; ended series are left out."""
    return b"".join(render_pieces(metrics, resource, openmetrics=openmetrics))


def render_pieces(
    metrics: Iterable[Metric], resource: AgentResource | None = None, *, openmetrics: bool = False
) -> list[bytes]:
    """The same in pieces, whole lines each: one text of 10,000 histograms is 30 MB, and a copy holds the GIL."""
    lines = _Lines()
    by_name: dict[str, list[NumberPoint | HistogramPoint]] = {}
    for metric in metrics:  # one block for each name, also when two sources give points for it
        by_name.setdefault(metric.name, []).extend(p for p in metric.points if not p.ended)
    for name, points in by_name.items():
        if points:
            _family(lines, spec_of(name), points, openmetrics)
    if resource is not None:
        _target(lines, resource.attributes, openmetrics)
    if openmetrics:
        lines.append("# EOF")
    return lines.close()


class _Lines:
    """Lines that become bytes as they come."""

    _AT_ONCE = 2048  # some 200 kB

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._lines: list[str] = []

    def append(self, line: str) -> None:
        self._lines.append(line)
        if len(self._lines) >= self._AT_ONCE:
            self._pack()

    def close(self) -> list[bytes]:
        if self._lines:
            self._pack()
        return self._pieces

    def _pack(self) -> None:
        self._lines.append("")
        self._pieces.append("\n".join(self._lines).encode())
        self._lines.clear()


def metric_name(spec: MetricSpec) -> str:
    """The family's name: characters replaced, unit appended, `_total` not yet."""
    name = _BAD.sub("_", spec.name).strip("_")
    unit = unit_name(spec)
    return name if not unit or name.endswith(f"_{unit}") else f"{name}_{unit}"


def unit_name(spec: MetricSpec) -> str:
    """Prometheus' word for the unit; `ratio` for dimensionless gauges, "" for annotations."""
    if spec.unit == "1":
        return "ratio" if spec.instrument is Instrument.GAUGE else ""
    if spec.unit.startswith("{") or not spec.unit:
        return ""
    return _UNITS.get(spec.unit, _BAD.sub("_", spec.unit))


def labels(attributes: Attributes | Iterable[tuple[str, object]]) -> str:
    """`a="b",c="d"`. Attributes that fall on one label share it, their values joined by `;`."""
    found: dict[str, str] = {}
    for name, value in attributes:
        label = _BAD.sub("_", name)
        if label[:1].isdigit():
            label = f"_{label}"
        given = ("true" if value else "false") if isinstance(value, bool) else str(value)
        found[label] = f"{found[label]};{given}" if label in found else given
    return ",".join(f'{label}="{value.translate(_ESCAPES)}"' for label, value in found.items())


def power_of_two_buckets(point: HistogramPoint) -> list[tuple[float, int]]:
    """(upper bound, values at or below it), rising in both, exact; without the last one, +Inf.

    Bounds: just below -2^k for the negative side, 0 (values that count as zero included), 2^k.
    """
    out: list[tuple[float, int]] = []
    exponents, above = _above_powers(point.negative_offset, point.negative, point.scale)
    for k, n in zip(reversed(exponents), reversed(above), strict=True):
        bound = _power(k)
        if math.isfinite(bound):
            out.append((math.nextafter(-bound, -math.inf), n))
    total = int(point.negative.sum()) + point.zero_count
    if point.negative.size or point.zero_count:
        out.append((0.0, total))
    exponents, above = _above_powers(point.positive_offset, point.positive, point.scale)
    n_positive = int(point.positive.sum())
    for k, n in zip(exponents, above, strict=True):
        bound = _power(k)
        if math.isfinite(bound) and bound > 0.0:
            out.append((bound, total + n_positive - n))
    return out


def _above_powers(
    offset: int, counts: NDArray[np.uint64], scale: int
) -> tuple[list[int], list[int]]:
    """Exponents k that span the occupied buckets, and how many values have |x| > 2^k, for each.

    Bucket i covers (2^(i / 2^scale), 2^((i+1) / 2^scale)]; at negative scales only every
    2^-scale-th power is a bound.
    """
    occupied = np.flatnonzero(counts)
    if occupied.size == 0:
        return [], []
    first, last = offset + int(occupied[0]), offset + int(occupied[-1])
    if scale >= 0:
        exponents = list(range(first >> scale, -(-(last + 1) >> scale) + 1))
        starts = [k << scale for k in exponents]  # first bucket above 2^k
    else:
        step = 1 << -scale
        exponents = [i * step for i in range(first, last + 2)]
        starts = list(range(first, last + 2))
    behind = np.concatenate(([0], np.cumsum(counts, dtype=np.uint64)))
    at = np.clip(np.array(starts) - offset, 0, counts.size)
    return exponents, [int(n) for n in behind[-1] - behind[at]]


def _power(k: int) -> float:
    try:
        return math.ldexp(1.0, k)
    except OverflowError:
        return math.inf


# ---------------------------------------------------------------- text


def _family(
    lines: _Lines,
    spec: MetricSpec,
    points: list[NumberPoint | HistogramPoint],
    openmetrics: bool,
) -> None:
    name, unit = metric_name(spec), unit_name(spec)
    kind = {Instrument.COUNTER: "counter", Instrument.EXP_HISTOGRAM: "histogram"}.get(
        spec.instrument, "gauge"
    )
    sample = f"{name}_total" if kind == "counter" else name
    family = name if openmetrics else sample
    lines.append(f"# HELP {family} {spec.description.translate(_HELP_ESCAPES)}")
    lines.append(f"# TYPE {family} {kind}")
    if openmetrics and unit:
        lines.append(f"# UNIT {family} {unit}")
    for point in points:
        text = labels(point.attributes)
        if isinstance(point, HistogramPoint):
            _histogram(lines, name, text, point, openmetrics)
        else:
            lines.append(f"{sample}{_braced(text)} {number(point.value)}")
        if openmetrics and kind != "gauge":
            lines.append(f"{name}_created{_braced(text)} {point.start_ns / 1e9:.9f}")


def _histogram(
    lines: _Lines, name: str, text: str, point: HistogramPoint, openmetrics: bool
) -> None:
    comma = "," if text else ""
    buckets = [*power_of_two_buckets(point), (math.inf, point.count)]
    waiting = sorted(point.exemplars, key=lambda e: (e.value, e.time_ns)) if openmetrics else []
    for bound, n in buckets:
        inside = [e for e in waiting if e.value <= bound]
        waiting = waiting[len(inside) :]
        lines.append(f'{name}_bucket{{{text}{comma}le="{number(bound)}"}} {n}{_exemplar(inside)}')
    # Columns that may be negative have no sum here (`inference.*.sum` stands beside them), and
    # OpenMetrics wants sum and count together or not at all: there the +Inf bucket is the count.
    if point.sum is not None:
        lines.append(f"{name}_sum{_braced(text)} {number(point.sum)}")
    if point.sum is not None or not openmetrics:
        lines.append(f"{name}_count{_braced(text)} {point.count}")


def _exemplar(inside: list[Exemplar]) -> str:
    """The newest exemplar of a bucket, in OpenMetrics' form; "" when there is none."""
    if not inside:
        return ""
    newest = max(inside, key=lambda e: e.time_ns)
    ids = f'trace_id="{newest.trace_id.hex()}",span_id="{newest.span_id.hex()}"'
    return f" # {{{ids}}} {number(newest.value)} {newest.time_ns / 1e9:.3f}"


def _target(lines: _Lines, attributes: Mapping[str, str], openmetrics: bool) -> None:
    family = "target" if openmetrics else "target_info"
    lines.append(f"# HELP {family} Who this agent is.")
    lines.append(f"# TYPE {family} {'info' if openmetrics else 'gauge'}")
    lines.append(f"target_info{_braced(labels(attributes.items()))} 1")


def _braced(text: str) -> str:
    return f"{{{text}}}" if text else ""


def number(value: int | float) -> str:
    """A number as both formats write it: shortest text that reads back the same."""
    if isinstance(value, int):
        return str(value)
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(value)
