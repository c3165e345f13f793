"""What a back end may hold against a series: the rules that tell growth from a counter reset.

A series that breaks one of these reads as restarted (Prometheus' `rate` then counts the whole value
again) or as written by two. The histogram rules are those by which Prometheus detects a reset of a
native histogram, applied to OTLP points: a finer scale, a narrower zero bucket, a zero bucket that
cuts a populated bucket, or a bucket that held more before.
"""

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from tests.support.otlp_points import CUMULATIVE, DELTA, Point, Points


def broken_rules(points: Iterable[Point]) -> list[str]:
    """One line for each rule that consecutive points of one series break, in order of arrival."""
    found: list[str] = []
    for series in Points(points).by_series().values():
        for point in series:
            found += [f"{point}: {text}" for text in _alone(point)]
        for before, after in pairwise(series):
            found += [f"{after}: {text}" for text in _in_turn(before, after)]
    return found


def assert_series_never_reset(points: Iterable[Point]) -> None:
    broken = broken_rules(points)
    assert not broken, f"{len(broken)} broken rules:\n" + "\n".join(broken[:20])


def _alone(point: Point) -> list[str]:
    found = []
    if point.time_ns <= 0:
        found.append("has no time")
    if point.kind != "gauge":
        if point.temporality not in (CUMULATIVE, DELTA):
            found.append("has no temporality")
        if not 0 < point.start_ns <= point.time_ns:
            found.append(f"starts at {point.start_ns}, ends at {point.time_ns}")
    data = point.data
    if point.kind == "exponential_histogram":
        inside = sum(data.positive.bucket_counts) + sum(data.negative.bucket_counts)
        if inside + data.zero_count != data.count:
            found.append(f"buckets hold {inside + data.zero_count}, count says {data.count}")
    elif point.kind == "histogram" and data.bucket_counts:
        if sum(data.bucket_counts) != data.count:
            found.append(f"buckets hold {sum(data.bucket_counts)}, count says {data.count}")
        if len(data.bucket_counts) != len(data.explicit_bounds) + 1:
            found.append(f"{len(data.explicit_bounds)} bounds, {len(data.bucket_counts)} buckets")
    return found


def _in_turn(before: Point, after: Point) -> list[str]:
    found = []
    if after.time_ns <= before.time_ns:
        found.append(f"time goes from {before.time_ns} to {after.time_ns}")
    if after.kind == "gauge":
        return found
    if after.temporality != before.temporality:
        return [*found, f"temporality goes from {before.temporality} to {after.temporality}"]
    if after.temporality == DELTA or after.start_ns != before.start_ns:
        # A new period: it must not lie over the last one.
        if after.start_ns < before.time_ns:
            found.append(f"starts at {after.start_ns}, the period before ended {before.time_ns}")
        return found
    if after.kind == "sum":
        if after.monotonic and after.value < before.value:
            found.append(f"falls from {before.value} to {after.value}")
        return found
    if after.data.count < before.data.count:
        found.append(f"count falls from {before.data.count} to {after.data.count}")
    if after.kind == "histogram":
        return found + _explicit(before.data, after.data)
    if after.kind == "exponential_histogram":
        return found + _exponential(before.data, after.data)
    return found


def _explicit(before: Any, after: Any) -> list[str]:
    if list(before.explicit_bounds) != list(after.explicit_bounds):
        return ["bounds change"]
    pairs = zip(before.bucket_counts, after.bucket_counts, strict=True)
    return [f"bucket {i} falls from {b} to {a}" for i, (b, a) in enumerate(pairs) if a < b]


def _exponential(before: Any, after: Any) -> list[str]:
    if after.scale > before.scale:
        return [f"scale rises from {before.scale} to {after.scale}"]
    if after.zero_threshold < before.zero_threshold:
        return [f"zero threshold falls from {before.zero_threshold} to {after.zero_threshold}"]
    found = []
    zeros = before.zero_count
    for side in ("positive", "negative"):
        # A wider zero bucket swallows whole buckets, at the scale at which they were sent.
        kept, swallowed, cut = _outside(_buckets(getattr(before, side)), before.scale, after)
        zeros += swallowed
        found += [f"zero threshold {after.zero_threshold} cuts {side} bucket {i}" for i in cut]
        expected: Counter[int] = Counter()
        for index, count in kept.items():
            expected[index >> (before.scale - after.scale)] += count
        now = _buckets(getattr(after, side))
        found += [
            f"{side} bucket {i} at scale {after.scale} falls from {count} to {now[i]}"
            for i, count in sorted(expected.items())
            if now[i] < count
        ]
    if after.zero_count < zeros:
        found.append(f"zero count falls from {zeros} to {after.zero_count}")
    return found


def _buckets(side: Any) -> Counter[int]:
    counts = enumerate(side.bucket_counts, side.offset)
    return Counter({index: count for index, count in counts if count})


def _outside(buckets: Counter[int], scale: int, after: Any) -> tuple[Counter[int], int, list[int]]:
    """Split by the new zero threshold: buckets outside of it, counts inside, buckets it cuts.

    Bucket i covers (b**i, b**(i + 1)] with b = 2**(2**-scale).
    """
    kept: Counter[int] = Counter()
    swallowed, cut = 0, []
    for index, count in buckets.items():
        lower, upper = (2.0 ** min((index + k) * 2.0**-scale, 1023.0) for k in (0, 1))
        if upper <= after.zero_threshold:
            swallowed += count
        else:
            kept[index] = count
            if lower < after.zero_threshold:
                cut.append(index)
    return kept, swallowed, cut
