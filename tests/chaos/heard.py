"""What the collector accepted: the rules of series, point by point, and the totals over all starts."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from tests.chaos.ledger import FEATURES, SLOTS, Account
from tests.support.otlp_points import Point, SeriesKey, read_points
from tests.support.otlp_receiver import OtlpReceiver
from tests.support.series_rules import broken_rules

_NO_RECORDED_VALUE = 1


class Heard:
    """Takes what has arrived since the last time; keeps the newest point of each (series, start)."""

    def __init__(self, receiver: OtlpReceiver) -> None:
        self._receiver = receiver
        self._last: dict[SeriesKey, Point] = {}
        self._of_start: dict[tuple[SeriesKey, int], Point] = {}
        self.broken: list[str] = []
        self.clock_went_back = False  # of an agent, in this life
        self.n_points = 0

    def take(self, *, out_of_order: bool = False) -> None:
        """Hold what has come against the rules of series.

        `out_of_order`: the collector was at fault. What it answered too late was sent again, and a
        request that the agent had given up may have been worked on last.
        """
        requests = self._receiver.requests
        news = requests[: len(requests)]
        del requests[: len(news)]
        points = [
            point
            for request in news
            if request.signal == "metrics" and request.answer.accepts
            for point in read_points(request.message)
            if not point.data.flags & _NO_RECORDED_VALUE
        ]
        self.n_points += len(points)
        of_series: dict[SeriesKey, list[Point]] = {}
        for point in points:
            of_series.setdefault(point.series, []).append(point)
        for key, series in of_series.items():
            before = [self._last[key]] if key in self._last else []
            if out_of_order:
                series.sort(key=lambda point: point.time_ns)
            series = _without_repeats([*before, *series])
            broken = broken_rules(series)
            if self.clock_went_back:
                # What an agent counts of itself lives with the process: the next one's clock may be
                # behind the last one's points. What is kept, `inference.*`, must not show it.
                broken = [line for line in broken if line.startswith("inference.")]
            self.broken += broken
            self._last[key] = series[-1]
            for point in series:
                newest = self._of_start.get((key, point.start_ns))
                if newest is None or point.time_ns >= newest.time_ns:
                    self._of_start[key, point.start_ns] = point

    def starts(self) -> int:
        """Different start times of the counters of rows."""
        return len({s for (_, s), p in self._of_start.items() if p.name == "inference.rows"})

    def told(self, metric: str) -> float:
        """A counter of the agents themselves, `name` or `name;reason`, over all instances and starts."""
        name, _, reason = metric.partition(";")
        return sum(
            point.value
            for point in self._of_start.values()
            if point.name == name and reason in ("", point.attributes.get("inferometer.reason"))
        )

    def account(self) -> Account:
        """The totals, over all instances and starts. Values of signed columns have their sum beside them."""
        out = Account()
        for point in self._of_start.values():
            at = point.attributes
            stream = (
                str(at.get("inference.model.name")),
                str(at.get("inference.model.version")),
            )
            name = str(at.get("inference.feature.name"))
            if point.name == "inference.rows":
                out.of[stream, "rows"] += int(point.value)
            elif point.name == "inference.errors":
                out.of[stream, "errors"] += int(point.value)
            elif point.name == "inference.feature.missing" and name in FEATURES:
                out.of[stream, f"{name} missing"] += int(point.value)
            elif point.name == "inference.feature.value" and name in FEATURES:
                out.of[stream, f"{name} values"] += int(point.value)
                if point.data.HasField("sum"):
                    out.of[stream, f"{name} sum"] += round(point.data.sum * 4)
            elif point.name == "inference.feature.sum" and name in FEATURES:
                out.of[stream, f"{name} sum"] += round(point.value * 4)
            elif point.name == "inference.feature.value" and name == "slot":
                for slot, n in _slots(point):
                    out.of[stream, f"slot {slot}"] += n
        return out


def _without_repeats(series: list[Point]) -> list[Point]:
    """A request that was sent again, byte for byte, is one."""
    out: list[Point] = []
    for _, group in groupby(series, key=lambda point: point.data.SerializeToString()):
        out.append(next(group))
    return out


def _slots(point: Point) -> Iterable[tuple[int, int]]:
    """2**k stands at the upper end of bucket k * 2**scale - 1."""
    side = point.data.positive
    for index, n in enumerate(side.bucket_counts, side.offset):
        if n:
            at, rest = divmod(index + 1, 1 << point.data.scale)
            yield (at if not rest and at in SLOTS else 1000 + index), n
