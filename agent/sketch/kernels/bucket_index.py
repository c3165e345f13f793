"""Exact index of a value in the base-2 exponential histogram of OpenTelemetry.

Bucket i at scale s holds (b^i, b^(i+1)], b = 2^(2^-s): lower-exclusive, upper-inclusive. The mantissa
is cut into 2^(s+1) equal intervals; each holds at most one bucket bound (bounds are at least
ln 2 / 2^s apart, more than half of 1 / 2^s), so the index is a table look-up and one compare. All
bounds but powers of two are irrational: comparing with the bound rounded down to 52 bits is exact, and
2^e falls into the bucket below by the same compare. An index at a lower scale is index >> (difference).
"""

from __future__ import annotations

from math import isqrt

import numpy as np

from agent.sketch.kernels.compile import inlined
from agent.sketch.kernels.layout import DOMAIN_EXPONENT, MAX_SCALE

U = np.uint64


def bounds(scale: int) -> list[int]:
    """floor(2^(j / 2^scale) * 2^52) - 2^52 for j = 0 .. 2^scale - 1, by integer square roots."""
    n = 1 << scale
    found = []
    for j in range(n):
        x = 1 << (j + 52 * n)  # the bound to the power n; n is a power of two
        for _ in range(scale):
            x = isqrt(x)  # the floor of a root of a floor is the floor of the root
        found.append(x - (1 << 52))
    return found


def _tables() -> tuple[np.ndarray, np.ndarray]:
    limit = bounds(MAX_SCALE)
    n = 2 << MAX_SCALE
    index, inside = np.zeros(n, np.int64), np.full(n, (1 << 63) - 1, np.int64)
    width = 51 - MAX_SCALE
    for t in range(n):
        low, high = t << width, (t + 1) << width
        within = [b for b in limit if low <= b < high]
        assert len(within) <= 1
        # exponent bias and half of the table's own index are taken off here, once
        index[t] = sum(b < low for b in limit) - 1 - t // 2 - (1023 << MAX_SCALE)
        if within:
            inside[t] = within[0]
    return index, inside


INDEX, INSIDE = _tables()
SHIFT_BITS = U(51 - MAX_SCALE)
TABLE_MASK = U((2 << MAX_SCALE) - 1)
#: Masks are arguments of the kernels: as constants LLVM makes a partial-register write of them, which
#: chains every value to the one before.
MAGNITUDE_MASK = U(0x7FFFFFFFFFFFFFFF)
MANTISSA_MASK = U((1 << 52) - 1)

#: Bits of the domain's ends: magnitudes in (LOW_BITS, LOW_BITS + DOMAIN_SPAN] have a bucket of their own.
LOW_BITS = U((1023 - DOMAIN_EXPONENT) << 52)
HIGH_BITS = U((1023 + DOMAIN_EXPONENT) << 52)
DOMAIN_SPAN = U(HIGH_BITS - LOW_BITS)
INFINITY_BITS = U(0x7FF << 52)
#: Index at MAX_SCALE of the domain's last bucket, where over-range values are counted.
TOP_INDEX = DOMAIN_EXPONENT * (1 << MAX_SCALE) - 1


@inlined
def bucket_index(magnitude, mantissa_mask):
    """Index at MAX_SCALE of a normal |value|, given as its bits (uint64)."""
    q = magnitude >> SHIFT_BITS
    t = q & TABLE_MASK
    return (
        np.int64(q >> U(1)) + INDEX[t] + np.int64(np.int64(magnitude & mantissa_mask) > INSIDE[t])
    )
