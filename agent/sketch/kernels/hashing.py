"""merge_hash: the fixed hash behind everything that merges (HASH_VERSION 1).

Text is read as little-endian 64-bit words a, b in steps of 16 bytes, zero bytes past its end; at
least one step. With h = 0 at the start and F = multiply_fold:

    each step  h = F(a ^ H0 ^ h, b ^ H1)
    result     F(h ^ length, H2);  0 and 1 mean "absent" and "null", so they become 2 and 3

The steps are wyhash's (public domain). Not keyed: never use it for a table that an adversary fills.
"""

from __future__ import annotations

import numpy as np

from agent.sketch.kernels.compile import inlined, kernel
from agent.sketch.kernels.memory import (
    load_i32,
    load_i64,
    load_u64,
    multiply_fold,
    store_u64,
)

U = np.uint64
H0, H1, H2 = U(0xA0761D6478BD642F), U(0xE7037ED1A0B428DB), U(0x8EBC6AF09C88C6E3)
#: MASKS[k]: the low k bytes of a word, for k = 0..8
MASKS = np.array([(1 << 8 * k) - 1 for k in range(9)], np.uint64)


@inlined
def hash_span(address, length):
    """Hash of `length` bytes at `address` (addresses as int64). Reads up to 15 bytes past the end."""
    h = U(0)
    left = length
    while left >= 16:
        h = multiply_fold(load_u64(address) ^ H0 ^ h, load_u64(address + 8) ^ H1)
        address += 16
        left -= 16
    if left > 0 or length == 0:
        a = load_u64(address) & MASKS[U(min(left, 8))]
        b = load_u64(address + 8) & MASKS[U(max(left - 8, 0))]
        h = multiply_fold(a ^ H0 ^ h, b ^ H1)
    h = multiply_fold(h ^ U(length), H2)
    return h if h > U(1) else h + U(2)


@kernel("void(int64, int64, int64, int64, int64)")
def hash_spans(text, start, length, n, out):
    """out uint64[n] = hash of text[start : start + length]; start int64[n], length int32[n]; addresses."""
    for i in range(n):
        store_u64(out + 8 * i, hash_span(text + load_i64(start + 8 * i), load_i32(length + 4 * i)))
