"""Sums of powers about a pivot: no division per value, and still well conditioned.

The pivot is the first value; whenever n has grown eightfold it moves to the mean, so it always is the
mean of a part m >= n/8 of the data. Then n (pivot - mean)^2 <= 8 M2, that is, the sum of squares about
the pivot is at most 9 M2 (fourth powers: 72 M4; after a merge up to twice that): taking the mean out at the end cancels at most that
much, and n |pivot| <= 8 sum |x| bounds the sum likewise. All sums are compensated (Kahan), so rounding
does not grow with n. Bounds: sum within 1e-12 of sum |x|, M2 and M4 within 1e-9 relative, M3 within
1e-9 of sum |x - mean|^3.
"""

from __future__ import annotations

from agent.sketch.kernels.compile import inlined, outlined
from agent.sketch.kernels.layout import (
    MAX,
    MIN,
    OVER_NEGATIVE,
    OVER_POSITIVE,
    PIVOT,
    RESTS,
    SUMS,
    THRESHOLD,
    N,
)
from agent.sketch.kernels.memory import (
    add_powers,
    load_f64,
    load_i64,
    store_f64,
    store_i64,
)

GROWTH = 8


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


@outlined
def move_pivot(cell):
    """Move the pivot to the mean, in place; the cell has values."""
    n = load_i64(cell + N)
    pivot = load_f64(cell + PIVOT)
    new = pivot + (load_f64(cell + SUMS) - load_f64(cell + RESTS)) / float(n)
    sums = translated(cell, pivot - new)
    for k in range(4):
        store_f64(cell + SUMS + 8 * k, sums[k])
        store_f64(cell + RESTS + 8 * k, 0.0)
    store_f64(cell + PIVOT, new)
    store_i64(cell + THRESHOLD, n * GROWTH)


@outlined
def reach_threshold(cell, value):
    """n is at the threshold: take the first value as pivot, or move the pivot to the mean."""
    if load_i64(cell + N) == 0:
        store_f64(cell + PIVOT, value)
        store_i64(cell + THRESHOLD, GROWTH)
        if load_i64(cell + OVER_POSITIVE) + load_i64(cell + OVER_NEGATIVE) == 0:
            store_f64(cell + MIN, value)
            store_f64(cell + MAX, value)
    else:
        move_pivot(cell)


@inlined
def add_value(cell, value):
    """Count a value inside the domain (zeros too). Returns the new n."""
    n = load_i64(cell + N)
    if n >= load_i64(cell + THRESHOLD):
        reach_threshold(cell, value)
    add_powers(cell + SUMS, value - load_f64(cell + PIVOT))
    low, high = load_f64(cell + MIN), load_f64(cell + MAX)
    store_f64(cell + MIN, value if value < low else low)
    store_f64(cell + MAX, value if value > high else high)
    store_i64(cell + N, n + 1)
    return n + 1


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
