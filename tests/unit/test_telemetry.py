"""Self-telemetry: what is added is what comes out, by the rules of the registry."""

import math
import threading
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import telemetry as module
from agent.emit.registry import RegistryError, check
from agent.telemetry import TIMING_FIRST, TIMING_SCALE, Telemetry
from agent.types import HistogramPoint, Metric, NumberPoint


def points(telemetry: Telemetry, name: str, now_ns: int = 0) -> list[NumberPoint | HistogramPoint]:
    found = [metric for metric in telemetry.metrics(now_ns) if metric.name == name]
    for metric in found:
        check(metric)
    return [point for metric in found for point in metric.points]


def test_what_many_threads_add_is_all_there() -> None:
    telemetry = Telemetry()

    def work() -> None:
        for _ in range(1000):
            telemetry.add("inferometer.dropped", 2, reason="empty")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert telemetry.value("inferometer.dropped", reason="empty") == 8000
    assert [p.value for p in points(telemetry, "inferometer.dropped")] == [8000]  # type: ignore[union-attr]


def test_series_are_kept_apart_by_their_attributes() -> None:
    telemetry = Telemetry()
    telemetry.add("inferometer.dropped", 1, reason="empty")
    telemetry.add("inferometer.dropped", 2, reason="too_deep")
    found = {p.attributes: p.value for p in points(telemetry, "inferometer.dropped")}  # type: ignore[union-attr]
    assert found == {
        (("inferometer.reason", "empty"),): 1,
        (("inferometer.reason", "too_deep"),): 2,
    }
    assert telemetry.total("inferometer.dropped") == 3


def test_constant_attributes_are_set_by_themselves() -> None:
    telemetry = Telemetry()
    telemetry.set("messaging.kafka.consumer.lag", 7, topic="t", partition=3)
    (point,) = points(telemetry, "messaging.kafka.consumer.lag")
    assert dict(point.attributes) == {
        "messaging.destination.name": "t",
        "messaging.destination.partition.id": "3",
        "messaging.system": "kafka",
    }


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda t: t.add("inferometer.nothing"), "not in agent/emit/registry.py"),
        (lambda t: t.add("inferometer.dropped"), "reason= is missing"),
        (lambda t: t.add("inferometer.dropped", 1, cause="x"), "no attribute 'cause'"),
        (lambda t: t.add("inferometer.records", -1), "cannot take -1"),
        (lambda t: t.add("inferometer.rss", 1), "add\\(\\) takes counters"),
        (lambda t: t.set("inferometer.export.duration", 1), "use record"),
        (lambda t: t.record("inferometer.rss", 1), "takes histograms"),
        (lambda t: t.end("inferometer.records"), "only gauges end"),
    ],
)
def test_what_the_registry_does_not_know_raises(call: object, why: str) -> None:
    with pytest.raises(RegistryError, match=why):
        call(Telemetry())  # type: ignore[operator]


def test_point_times_rise_strictly_although_the_clock_stands_still() -> None:
    telemetry = Telemetry(start_ns=1_000)
    telemetry.add("inferometer.records")
    times = [points(telemetry, "inferometer.records", 5_000)[0].time_ns for _ in range(3)]
    times.append(points(telemetry, "inferometer.records", 10)[0].time_ns)
    assert times == sorted(set(times)) and times[0] == 5_000


def test_a_clock_that_was_set_back_since_the_process_before_lays_no_period_over_its_last() -> None:
    telemetry = Telemetry(start_ns=1000)
    telemetry.add("inferometer.cuts")
    telemetry.start_after(500)
    assert telemetry.start_ns == 1000
    telemetry.start_after(5000)
    ((metric,), (again,)) = telemetry.metrics(1100), telemetry.metrics(1200)
    starts = [point.start_ns for point in (*metric.points, *again.points)]  # type: ignore[union-attr]
    times = [point.time_ns for point in (*metric.points, *again.points)]
    assert starts == [5000, 5000]
    assert 5000 < times[0] < times[1]


def test_a_start_that_is_put_off_lies_behind_what_went_out_before() -> None:
    telemetry = Telemetry(start_ns=1000)
    telemetry.add("inferometer.cuts")
    (before,) = points(telemetry, "inferometer.cuts", 9000)
    telemetry.start_after(5000)
    (after,) = points(telemetry, "inferometer.cuts", 9500)
    assert (before.start_ns, before.time_ns) == (1000, 9000)
    assert before.time_ns <= after.start_ns < after.time_ns


def test_a_counter_that_is_set_never_falls() -> None:
    telemetry = Telemetry()
    telemetry.set("inferometer.fetch.bytes", 10)
    telemetry.set("inferometer.fetch.bytes", 4)
    assert telemetry.value("inferometer.fetch.bytes") == 10


def test_an_ended_gauge_says_so_to_every_reader_for_a_while_and_is_gone() -> None:
    telemetry = Telemetry(start_ns=1_000)
    for partition in (0, 1):
        telemetry.set("messaging.kafka.consumer.lag", 7, topic="t", partition=partition)
    telemetry.end("messaging.kafka.consumer.lag", topic="t", partition=1)

    def ended(now_ns: int) -> list[bool]:
        return [p.ended for p in points(telemetry, "messaging.kafka.consumer.lag", now_ns)]

    assert ended(2_000) == [False, True]
    assert ended(3_000) == [False, True]  # the first reader may have been a scrape
    assert ended(100_000_000_000) == [False]


def test_a_gauge_that_comes_back_is_not_ended() -> None:
    telemetry = Telemetry(start_ns=1_000)
    telemetry.set("inferometer.paused", 1, reason="memory")
    telemetry.end("inferometer.paused")
    telemetry.set("inferometer.paused", 2, reason="memory")
    assert [p.ended for p in points(telemetry, "inferometer.paused", 2_000)] == [False]


def test_series_of_one_metric_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SERIES", 10)
    telemetry = Telemetry()
    for i in range(100):
        telemetry.add("inferometer.dropped", 1, reason=f"r{i}")
    found = points(telemetry, "inferometer.dropped")
    assert len(found) == 11
    overflow = [p.value for p in found if p.attributes == (("otel.metric.overflow", True),)]  # type: ignore[union-attr]
    assert overflow == [90]
    assert telemetry.total("inferometer.dropped") == 100


@settings(deadline=None)
@given(st.lists(st.floats(2.0**-19, 2.0**11), min_size=1, max_size=50))
def test_timings_lie_in_the_buckets_that_bound_them(values: list[float]) -> None:
    telemetry = Telemetry()
    for value in values:
        telemetry.record("inferometer.export.duration", value, signal="metrics", outcome="accepted")
    (point,) = points(telemetry, "inferometer.export.duration")
    assert isinstance(point, HistogramPoint)
    assert point.count == len(values) and point.sum == pytest.approx(math.fsum(values))
    for i, n in enumerate(point.positive.tolist()):
        # (2^(index/8), 2^((index+1)/8)], compared in eighth powers, which are exact.
        index = point.positive_offset + i
        inside = [
            v
            for v in values
            if Fraction(2) ** index < Fraction(v) ** 8 <= Fraction(2) ** (index + 1)
        ]
        assert n == len(inside), index


def test_a_power_of_two_is_the_upper_bound_of_its_bucket() -> None:
    telemetry = Telemetry()
    telemetry.record("inferometer.export.duration", 0.25, signal="metrics", outcome="accepted")
    (point,) = points(telemetry, "inferometer.export.duration")
    assert isinstance(point, HistogramPoint)
    assert point.positive_offset == (-2 << TIMING_SCALE) - 1


def test_odd_timings_neither_fail_nor_grow_memory() -> None:
    telemetry = Telemetry()
    for value in (0.0, -1.0, 1e-300, 1e300, 5e-324):
        telemetry.record("inferometer.export.duration", value, signal="metrics", outcome="accepted")
    (point,) = points(telemetry, "inferometer.export.duration")
    assert isinstance(point, HistogramPoint)
    assert point.zero_count == 2 and point.count == 5
    assert point.positive_offset == TIMING_FIRST


def test_copies_are_given_out() -> None:
    telemetry = Telemetry()
    telemetry.add("inferometer.records")
    before = telemetry.metrics(1)
    telemetry.add("inferometer.records")
    assert isinstance(before[0], Metric)
    assert before[0].points[0].value == 1  # type: ignore[union-attr]
