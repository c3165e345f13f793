"""The checker of series finds every kind of reset, and lets honest growth pass."""

from typing import Any

import pytest
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    ExponentialHistogramDataPoint,
    HistogramDataPoint,
    NumberDataPoint,
)

from tests.support.otlp_points import CUMULATIVE, DELTA, Point
from tests.support.series_rules import assert_series_never_reset, broken_rules


def _point(kind: str, data: Any, *, temporality: int = CUMULATIVE, monotonic: bool = True) -> Point:
    return Point("m", "1", kind, temporality, monotonic, {}, {}, "scope", data)


def _sum(value: int, time_ns: int = 10, start_ns: int = 1, **more: Any) -> Point:
    data = NumberDataPoint(as_int=value, time_unix_nano=time_ns, start_time_unix_nano=start_ns)
    return _point("sum", data, **more)


def _exponential(
    positive: list[int],
    time_ns: int,
    *,
    offset: int = 0,
    scale: int = 3,
    zeros: int = 0,
    threshold: float = 0.0,
    negative: tuple[int, ...] = (),
) -> Point:
    data = ExponentialHistogramDataPoint(
        start_time_unix_nano=1,
        time_unix_nano=time_ns,
        count=sum(positive) + sum(negative) + zeros,
        scale=scale,
        zero_count=zeros,
        zero_threshold=threshold,
    )
    data.positive.offset = offset
    data.positive.bucket_counts.extend(positive)
    data.negative.bucket_counts.extend(negative)
    return _point("exponential_histogram", data)


def _explicit(buckets: list[int], time_ns: int, bounds: tuple[float, ...] = (1.0,)) -> Point:
    data = HistogramDataPoint(
        start_time_unix_nano=1,
        time_unix_nano=time_ns,
        count=sum(buckets),
        bucket_counts=buckets,
        explicit_bounds=bounds,
    )
    return _point("histogram", data)


HONEST = [
    [_sum(1, 10), _sum(1, 11), _sum(5, 12)],
    [_sum(9, 10), _sum(0, 20, start_ns=15)],  # a restart with a new start time
    [_sum(9, 10, monotonic=False), _sum(2, 11, monotonic=False)],
    [_sum(9, 10, temporality=DELTA), _sum(2, 20, 10, temporality=DELTA)],
    [_exponential([1, 2], 10), _exponential([1, 3, 1], 11)],
    # Scale 3 to 2 halves the indices: -1, 0, 1 become -1, 0, 0.
    [_exponential([1, 2, 3], 10, offset=-1), _exponential([1, 5], 11, offset=-1, scale=2)],
    # Bucket 0 at scale 0 is (1, 2]: a threshold of 2 takes it in whole.
    [
        _exponential([4, 1], 10, scale=0, zeros=1),
        _exponential([1], 11, scale=0, offset=1, zeros=5, threshold=2.0),
    ],
    [_explicit([1, 2], 10), _explicit([1, 3], 11)],
]


@pytest.mark.parametrize("points", HONEST)
def test_honest_series_pass(points: list[Point]) -> None:
    assert_series_never_reset(points)


BROKEN = [
    ([_sum(5, 10), _sum(4, 11)], "falls from 5.0 to 4.0"),
    ([_sum(5, 10), _sum(6, 10)], "time goes from 10 to 10"),
    ([_sum(5, 10), _sum(1, 20, start_ns=9)], "starts at 9, the period before ended 10"),
    ([_sum(5, 10), _sum(5, 11, temporality=DELTA)], "temporality goes"),
    ([_sum(5, 10, start_ns=11)], "starts at 11, ends at 10"),
    ([_exponential([2], 10), _exponential([1, 1], 11)], "bucket 0 at scale 3 falls from 2 to 1"),
    ([_exponential([2], 10), _exponential([1], 11)], "count falls from 2 to 1"),
    ([_exponential([2], 10, scale=2), _exponential([2], 11, scale=3)], "scale rises from 2 to 3"),
    (
        [_exponential([2], 10, threshold=0.5), _exponential([2], 11, threshold=0.25)],
        "zero threshold falls from 0.5 to 0.25",
    ),
    (
        [_exponential([], 10, zeros=3), _exponential([4], 11, zeros=2)],
        "zero count falls from 3 to 2",
    ),
    (
        [_exponential([3], 10, scale=0), _exponential([], 11, scale=0, zeros=3, threshold=1.5)],
        "zero threshold 1.5 cuts positive bucket 0",
    ),
    (
        [_exponential([], 10, negative=(2,)), _exponential([2], 11, negative=(1,))],
        "negative bucket 0 at scale 3 falls from 2 to 1",
    ),
    ([_explicit([2, 1], 10), _explicit([1, 2], 11)], "bucket 0 falls from 2 to 1"),
    ([_explicit([2, 1], 10), _explicit([2, 1], 11, (2.0,))], "bounds change"),
]


@pytest.mark.parametrize(("points", "text"), BROKEN)
def test_broken_series_are_named(points: list[Point], text: str) -> None:
    assert any(text in line for line in broken_rules(points)), broken_rules(points)


def test_count_that_the_buckets_do_not_hold_is_found() -> None:
    point = _exponential([1, 2], 10)
    point.data.count = 4
    assert broken_rules([point]) == ["m{}: buckets hold 3, count says 4"]


def test_a_scale_that_falls_by_two_adds_four_buckets_into_one() -> None:
    before = _exponential([1, 1, 1, 1], 10, offset=4)
    assert broken_rules([before, _exponential([4], 11, offset=1, scale=1)]) == []
    assert broken_rules([before, _exponential([3, 1], 11, offset=1, scale=1)]) == [
        "m{}: positive bucket 1 at scale 1 falls from 4 to 3"
    ]
