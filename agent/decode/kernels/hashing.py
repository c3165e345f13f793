"""The two hashes of decoded text: merge_hash, fast for short text, and the keyed hash of stream keys.

merge_hash is fixed for ever and public (`agent.sketch.kernels.hashing` defines it). The keyed hash
fills tables that producers name things in, so it is keyed with random words of this process: nobody
outside can make names collide. It must never leave the process.

    F = multiply_fold, K = the key
    text         as merge_hash, with the words xored with K instead
    stream       F(F(model ^ K0, K1) ^ version, K2) + sum over segments of F(value ^ salt, K3)

where an absent part counts as 0 and a segment's salt is that of its name, so the order of segments
does not matter.
"""

from __future__ import annotations

import os

import numpy as np

from agent.sketch.kernels.compile import inlined, outlined
from agent.sketch.kernels.hashing import H0, H1, H2, hash_span
from agent.sketch.kernels.memory import load_u64, multiply_fold

U = np.uint64
#: Key of this process, uint64[4]. Kernels get its address: what is compiled is kept on disk.
PROCESS_KEY = np.frombuffer(os.urandom(32), np.uint64).copy()
#: Masks of the first and the second word of a text of 0 to 16 bytes.
_FIRST = np.array([(1 << 8 * min(k, 8)) - 1 for k in range(17)], np.uint64)
_SECOND = np.array([(1 << 8 * max(k - 8, 0)) - 1 for k in range(17)], np.uint64)


@outlined
def _merge_hash_long(address, length):
    return hash_span(address, length)


@inlined
def merge_hash(address, length):
    """merge_hash of the text at `address`. Reads 16 bytes, or up to 15 past the end of a longer text."""
    if length > 16:
        return _merge_hash_long(address, length)
    a = load_u64(address) & _FIRST[U(length)]
    b = load_u64(address + 8) & _SECOND[U(length)]
    h = multiply_fold(multiply_fold(a ^ H0, b ^ H1) ^ U(length), H2)
    return h if h > U(1) else h + U(2)


@outlined
def _keyed_hash_long(address, length, key):
    first, second = load_u64(key), load_u64(key + 8)
    h = U(0)
    left = length
    while left >= 16:
        h = multiply_fold(load_u64(address) ^ first ^ h, load_u64(address + 8) ^ second)
        address += 16
        left -= 16
    if left > 0:
        a = load_u64(address) & _FIRST[U(left)]
        b = load_u64(address + 8) & _SECOND[U(left)]
        h = multiply_fold(a ^ first ^ h, b ^ second)
    return multiply_fold(h ^ U(length), load_u64(key + 16))


@inlined
def keyed_hash(address, length, key):
    """Hash of a text under the key at address `key`. Reads as `merge_hash` does."""
    if length > 16:
        return _keyed_hash_long(address, length, key)
    a = load_u64(address) & _FIRST[U(length)]
    b = load_u64(address + 8) & _SECOND[U(length)]
    h = multiply_fold(a ^ load_u64(key), b ^ load_u64(key + 8))
    return multiply_fold(h ^ U(length), load_u64(key + 16))


@inlined
def segment_hash(value, salt, key):
    """One segment's part of a stream's hash."""
    return multiply_fold(value ^ salt, load_u64(key + 24))


@inlined
def stream_hash(model, version, segments, key):
    """Hash of a stream: of its model and version (0 when absent), and the sum of its segments' parts."""
    h = multiply_fold(model ^ load_u64(key), load_u64(key + 8))
    return multiply_fold(h ^ version, load_u64(key + 16)) + segments
