"""Every point that a receiver got, held against the registry of metrics."""

from collections.abc import Iterable

from agent.emit.registry import METRICS, Instrument
from tests.support.otlp_points import Point

_KIND = {
    Instrument.COUNTER: ("sum", True),
    Instrument.UPDOWNCOUNTER: ("sum", False),
    Instrument.GAUGE: ("gauge", False),
    Instrument.EXP_HISTOGRAM: ("exponential_histogram", False),
}


def assert_registered(points: Iterable[Point]) -> set[str]:
    """Name, unit, kind, monotonicity and attribute names are the registry's; returns the names met."""
    met: set[str] = set()
    for point in points:
        spec = METRICS[point.name]
        assert point.unit == spec.unit, point
        assert (point.kind, point.monotonic) == _KIND[spec.instrument], point
        allowed = {attribute.name for attribute in spec.attributes} | {n for n, _ in spec.constants}
        families = tuple(name[:-1] for name in allowed if name.endswith(".*"))
        for name in point.attributes:
            assert name in allowed or name.startswith(families), (point.name, name)
        required = {a.name for a in spec.attributes if a.required and not a.name.endswith(".*")}
        assert required <= set(point.attributes), point
        met.add(point.name)
    return met
