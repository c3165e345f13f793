"""Sums of powers about a pivot: no division per value, and still well conditioned.

The pivot is the mean of the first batch; whenever n has grown eightfold it moves to the mean of what there is, or
of the batch to come if that is more. So it always is the mean of a part m >= n/8 of the data, but for
rounding by at most an 11th of that part's standard deviation. Then n (pivot - mean)^2 <= 9.6 M2, that is,
the sum of squares about the pivot is at most 10.6 M2 (fourth powers: 110 M4; after a merge up to twice
that): taking the mean out at the end cancels at most that much. Rounding at most doubles the pivot, so
n |pivot| <= 16 sum |x| bounds the sum likewise.

A batch of up to 256 values is summed plainly, in eight parts, and batches are added with compensation (Kahan), so rounding does
not grow with n. Bounds: sum within 1e-12 of sum |x|, M2 and M4 within 1e-9 relative, M3 within 1e-9 of
sum |x - mean|^3.
"""

from __future__ import annotations

from math import floor, sqrt

import numpy as np

from agent.sketch.kernels.compile import inlined, outlined
from agent.sketch.kernels.layout import (
    MAX,
    MIN,
    PIVOT,
    RESTS,
    SUMS,
    THRESHOLD,
    N,
)
from agent.sketch.kernels.memory import (
    bits_of,
    f64_of,
    load_f64,
    load_i64,
    store_f64,
    store_i64,
)

GROWTH = 8
EXPONENT = np.uint64(0x7FF << 52)


@inlined
def take_extremes(cell, value, first):
    """Minimum and maximum, in place; `first`: there is none yet."""
    if first or value < load_f64(cell + MIN):
        store_f64(cell + MIN, value)
    if first or value > load_f64(cell + MAX):
        store_f64(cell + MAX, value)


@inlined
def translated(cell, delta):
    """n and the sums of powers about pivot - delta: d becomes d + delta."""
    n = float(load_i64(cell + N))
    s1 = load_f64(cell + SUMS) - load_f64(cell + RESTS)
    s2 = load_f64(cell + SUMS + 8) - load_f64(cell + RESTS + 8)
    s3 = load_f64(cell + SUMS + 16) - load_f64(cell + RESTS + 16)
    s4 = load_f64(cell + SUMS + 24) - load_f64(cell + RESTS + 24)
    d2 = delta * delta
    t1 = s1 + n * delta
    t2 = s2 + 2.0 * delta * s1 + n * d2
    t3 = s3 + 3.0 * delta * s2 + 3.0 * d2 * s1 + n * d2 * delta
    t4 = s4 + 4.0 * delta * s3 + 6.0 * d2 * s2 + 4.0 * d2 * delta * s1 + n * d2 * d2
    return t1, t2, t3, t4


@inlined
def rounded(mean, spread):
    """The mean to a 64th of the spread's power of two: differences of short numbers stay short, hence exact."""
    quantum = f64_of(bits_of(spread) & EXPONENT) * 2.0**-6
    if quantum < 2.0**-900 or abs(mean) > quantum * 2.0**52:
        return mean
    return floor(mean / quantum + 0.5) * quantum


@inlined
def carry_to(cell, pivot, m):
    """Translate the sums to a new pivot, the mean of m values or near it."""
    if load_i64(cell + N) > 0:
        sums = translated(cell, load_f64(cell + PIVOT) - pivot)
        for k in range(4):
            store_f64(cell + SUMS + 8 * k, sums[k])
            store_f64(cell + RESTS + 8 * k, 0.0)
    store_f64(cell + PIVOT, pivot)
    store_i64(cell + THRESHOLD, m * GROWTH)


@outlined
def move_pivot(cell):
    """Move the pivot to the mean, in place; the cell has values."""
    n = load_i64(cell + N)
    s1 = load_f64(cell + SUMS) - load_f64(cell + RESTS)
    m2 = load_f64(cell + SUMS + 8) - load_f64(cell + RESTS + 8) - s1 * (s1 / float(n))
    mean = load_f64(cell + PIVOT) + s1 / float(n)
    carry_to(cell, rounded(mean, 4.0 * sqrt(max(m2, 0.0) / float(n))), n)


@outlined
def move_pivot_for(cell, values, n):
    """Move the pivot to the mean of the larger part, in place: of the cell, or of the n >= 1 values to come."""
    if load_i64(cell + N) >= n:
        move_pivot(cell)
        return
    first = load_f64(values)
    low, high, total = 0.0, 0.0, 0.0
    for i in range(1, n):
        d = load_f64(values + 8 * i) - first
        low, high, total = min(low, d), max(high, d), total + d
    carry_to(cell, rounded(first + total / float(n), high - low), n)


@inlined
def add_compensated(address, value):
    """Add to the sum at `address`, whose rest lies 32 bytes behind it (Kahan)."""
    old = load_f64(address)
    y = value - load_f64(address + RESTS - SUMS)
    new = old + y
    store_f64(address, new)
    store_f64(address + RESTS - SUMS, (new - old) - y)


@inlined
def copy_moments(target, source):
    for k in range(8):
        store_f64(target + SUMS + 8 * k, load_f64(source + SUMS + 8 * k))
    store_f64(target + PIVOT, load_f64(source + PIVOT))
    store_i64(target + THRESHOLD, load_i64(source + THRESHOLD))


@outlined
def merge_moments(target, source):
    """Add the moments of `source` to `target`, in place; `source` is only read. Extremes are not touched.

    The side with more values keeps its pivot, so n stays below 16 m until the pivot moves: taking the
    smaller side's would carry many values over a distance that few of them have.
    """
    n, other = load_i64(target + N), load_i64(source + N)
    if other == 0:
        return
    distance = load_f64(source + PIVOT) - load_f64(target + PIVOT)
    if n == 0:
        copy_moments(target, source)
    elif other > n:
        sums = translated(target, -distance)
        copy_moments(target, source)
        for k in range(4):
            add_compensated(target + SUMS + 8 * k, sums[k])
    else:
        sums = translated(source, distance)
        for k in range(4):
            add_compensated(target + SUMS + 8 * k, sums[k])
    store_i64(target + N, n + other)
    if n + other >= load_i64(target + THRESHOLD):
        move_pivot(target)
