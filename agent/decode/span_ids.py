"""Ids of rows: a fixed hash of (lineage, topic, partition, offset, row), the same in every run.

    seed[0..2]   24 bytes of BLAKE2b over lineage, topic and partition, as big-endian words
    word[i]      M(M(seed[i] + offset * G) + (row + 1) * G)   in 64 bits
    trace id     words 0 and 1, big-endian; span id: word 2

G is the golden ratio's odd 64-bit fraction and M the finaliser of SplitMix64, a bijection: two
offsets of a partition never share a word (rows of one event neither). All-zero ids are not
valid: when words 0 and 1 are both 0, word 1 is 1; a word 2 of 0 is 1.

Sampling decides by the low 56 bits of word 1. `decode/kernels/candidates.py` computes the same.

Steele, Lea, Flood. Fast splittable pseudorandom number generators. OOPSLA 2014.
"""

from __future__ import annotations

import hashlib
import struct

from agent.types import Partition

GOLDEN = 0x9E3779B97F4A7C15
MIX_1, MIX_2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_WORD = (1 << 64) - 1

Seeds = tuple[int, int, int]


def seeds(lineage: str, partition: Partition) -> Seeds:
    """What all rows of one partition share; 2 us."""
    state = hashlib.blake2b(digest_size=24, person=b"inferometer span")
    for part in (lineage.encode("utf-8", "replace"), partition.topic.encode("utf-8", "replace")):
        state.update(struct.pack(">I", len(part)) + part)
    state.update(struct.pack(">i", partition.partition))
    first, second, third = struct.unpack(">3Q", state.digest())
    return first, second, third


def ids(of: Seeds, offset: int, row: int) -> tuple[bytes, bytes]:
    """(trace id of 16 bytes, span id of 8 bytes) of a row; 2 us."""
    first, second, third = (_word(seed, offset, row) for seed in of)
    if not first and not second:
        second = 1
    return struct.pack(">2Q", first, second), struct.pack(">Q", third or 1)


def _word(seed: int, offset: int, row: int) -> int:
    return _mix(_mix(seed + offset * GOLDEN & _WORD) + (row + 1) * GOLDEN & _WORD)


def _mix(x: int) -> int:
    x = (x ^ x >> 30) * MIX_1 & _WORD
    x = (x ^ x >> 27) * MIX_2 & _WORD
    return x ^ x >> 31
