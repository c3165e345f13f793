"""UltraLogLog registers: one byte that keeps the largest rank seen and whether the two ranks below it were.

A hash's first p bits choose the register, the number of leading zeros of the rest, plus one, is the
rank. Register r = (rank + p - 2) << 2 | two bits; 0 = nothing seen. Exact under any order of merging.

Ertl. UltraLogLog: A Practical and More Space-Efficient Alternative to HyperLogLog for Approximate
Distinct Counting. PVLDB 17(7), 2024.
"""

from __future__ import annotations

import numpy as np

from agent.sketch.kernels.compile import inlined
from agent.sketch.kernels.memory import (
    leading_zeros,
    load_u8,
    load_u64,
    multiply_fold,
    store_u8,
)

U = np.uint64
V0, V1, V2 = U(0x9E3779B97F4A7C15), U(0xD6E8FEB86659FD93), U(0xA0761D6478BD642F)


@inlined
def hash_value(bits):
    """64-bit hash of a float64's bits (fixed: HASH_VERSION 1). The caller makes -0.0 and 0.0 equal."""
    return multiply_fold(multiply_fold(bits ^ V0, V1) ^ bits, V2)


@inlined
def unpacked(register):
    """The ranks known to have been seen, as a bit set; register int64, not 0."""
    return U(4 | (register & 3)) << U((register >> 2) - 2)


@inlined
def packed(ranks):
    """The register of a bit set of ranks (not empty): its highest bit and the two below."""
    gap = leading_zeros(ranks) + 1
    return (64 - gap) << 2 | np.int64((ranks << U(gap)) >> U(62))


@inlined
def add_hash(registers, h, p):
    """Add a hash to the 2^p registers, in place; without a branch.

    An empty register has no rank: 4 << 62 leaves no bit. The register is always stored: whether it
    changes is a coin toss in a young cell, and a wrong guess costs more than the store.
    """
    address = registers + np.int64(h >> U(64 - p))
    rank_bit = leading_zeros((h << U(p)) | U((1 << p) - 1)) + p - 1
    old = load_u8(address)
    ranks = U(4 | (old & 3)) << U(((old >> 2) - 2) & 63)
    store_u8(address, packed(ranks | (U(1) << U(rank_bit))))


@inlined
def merge_registers(target, source, size):
    """Unite `size` registers (a multiple of 8), in place."""
    for i in range(0, size, 8):
        word = load_u64(source + i)
        if word != U(0) and word != load_u64(target + i):
            for j in range(i, i + 8):
                a, b = load_u8(target + j), load_u8(source + j)
                if a != b and b:
                    store_u8(target + j, packed(unpacked(a) | unpacked(b)) if a else b)
