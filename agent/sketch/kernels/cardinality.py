"""UltraLogLog registers: one byte that keeps the largest rank seen and whether the two ranks below it were.

A hash's first P bits choose the register, the number of leading zeros of the rest, plus one, is the
rank. Register r = (rank + P - 2) << 2 | two bits; 0 = nothing seen. Exact under any order of merging.

Ertl. UltraLogLog: A Practical and More Space-Efficient Alternative to HyperLogLog for Approximate
Distinct Counting. PVLDB 17(7), 2024.
"""

from __future__ import annotations

import numpy as np

from agent.sketch.kernels.compile import inlined
from agent.sketch.kernels.layout import PRECISION as P
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


def _updates() -> np.ndarray:
    """uint8[256 * 64]: the new register by old register and leading zeros of the hash's rest.

    A register's upper six bits are the place of the largest rank's bit, P - 1 at least.
    """
    out = np.zeros((256, 64), np.uint8)
    for old in (0, *range(4 * (P - 1), 256)):
        seen = (4 | old & 3) << (old >> 2) - 2 if old else 0
        for zeros in range(64 - P + 1):
            ranks = seen | 1 << zeros + P - 1
            largest = ranks.bit_length() - 1
            out[old, zeros] = largest << 2 | (ranks >> largest - 2) & 3
    return out.ravel()


UPDATES = _updates()


@inlined
def add_hash(registers, h):
    """Add a hash to the 2^P registers, in place.

    By a table of all updates (16 kB, of which few lines are used) and without a branch: whether a
    register changes is a coin toss in a young cell, and a wrong guess costs more than the store.
    """
    address = registers + np.int64(h >> U(64 - P))
    zeros = leading_zeros((h << U(P)) | U((1 << P) - 1))
    store_u8(address, UPDATES[U((load_u8(address) << 6) | zeros)])


@inlined
def merge_register(address, register):
    """Unite one register, not 0, in place."""
    old = load_u8(address)
    store_u8(address, packed(unpacked(old) | unpacked(register)) if old else register)


@inlined
def merge_registers(target, source, size):
    """Unite `size` registers (a multiple of 8), in place."""
    for i in range(0, size, 8):
        word = load_u64(source + i)
        if word != U(0) and word != load_u64(target + i):
            for j in range(i, i + 8):
                register = load_u8(source + j)
                if register and register != load_u8(target + j):
                    merge_register(target + j, register)
