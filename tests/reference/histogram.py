"""The exponential histogram by integer arithmetic: no logarithm, no table, no rounding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite

MAX_SCALE, MIN_SCALE, BUCKETS = 8, 3, 1024
ZERO, LIMIT = 2.0**-64, 2.0**64


def bucket_index(magnitude: float, scale: int) -> int:
    """The i with base^i < magnitude <= base^(i+1), base = 2^(2^-scale), scale >= 0.

    magnitude^(2^scale) <= 2^(i+1) is a comparison of integers.
    """
    top, bottom = magnitude.as_integer_ratio()  # bottom is a power of two
    power = top ** (1 << scale)
    return (power - 1).bit_length() - (bottom.bit_length() - 1) * (1 << scale) - 1


@dataclass
class Histogram:
    """Counts by index at `scale`; the scale is the largest at which both signs fit."""

    zeros: int
    over_range: int
    scale: int
    positive: Counter[int]
    negative: Counter[int]


def histogram(values: Iterable[float]) -> Histogram:
    """Of the finite values."""
    found: tuple[Counter[int], Counter[int]] = (Counter(), Counter())
    zeros = over = 0
    for value in values:
        if not isfinite(value):
            continue
        if abs(value) <= ZERO:
            zeros += 1
            continue
        over += abs(value) > LIMIT
        found[value < 0][bucket_index(min(abs(value), LIMIT), MAX_SCALE)] += 1
    scale = MAX_SCALE
    while any(
        (max(side) >> MAX_SCALE - scale) - (min(side) >> MAX_SCALE - scale) >= BUCKETS
        for side in found
        if side
    ):
        scale -= 1
    assert scale >= MIN_SCALE
    sides = []
    for side in found:
        lower: Counter[int] = Counter()
        for index, count in side.items():
            lower[index >> MAX_SCALE - scale] += count
        sides.append(lower)
    return Histogram(zeros, over, scale, sides[0], sides[1])
