"""Filling the open-addressing tables of the scan tier (`scan_layout`)."""

from __future__ import annotations

import numpy as np

from agent.decode.kernels.hashing import keyed_hash
from agent.decode.kernels.scan_layout import (
    LEAF_BYTES,
    MIX,
    S32,
    SLOT_BYTES,
    SLOT_PARENT,
    SLOT_PATH,
)
from agent.sketch.kernels.compile import kernel
from agent.sketch.kernels.memory import load_i64, load_u64, store_i64, store_u64

U = np.uint64


@kernel("void(int64, int64, int64, int64)")
def insert_paths(entries, n, slots, mask):
    """Put n paths into SLOTS, which has room for them, or anew. entries int64[n][16], as slots."""
    for i in range(n):
        entry = entries + SLOT_BYTES * i
        h = load_u64(entry) ^ U(load_i64(entry + SLOT_PARENT)) * MIX
        place = h & U(mask)
        while True:
            slot = slots + SLOT_BYTES * np.int64(place)
            path = load_i64(slot + SLOT_PATH)
            if path == 0 or path == load_i64(entry + SLOT_PATH):
                break
            place = (place + U(1)) & U(mask)
        for k in range(0, SLOT_BYTES, 8):
            store_u64(slot + k, load_u64(entry + k))


@kernel("void(int64, int64, int64, int64)")
def insert_models(entries, n, models, mask):
    """Put n models into MODELS, or their new shape. entries int64[n][2], as slots."""
    for i in range(n):
        model = load_u64(entries + 16 * i)
        place = model & U(mask)
        while True:
            slot = models + 16 * np.int64(place)
            if load_i64(slot + 8) == 0 or load_u64(slot) == model:
                break
            place = (place + U(1)) & U(mask)
        store_u64(slot, model)
        store_i64(slot + 8, load_i64(entries + 16 * i + 8))


@kernel("void(int64, int64, int64, int64)")
def insert_leaves(entries, n, leaves, mask):
    """Put n leaves into LEAVES, which has room for them. entries int64[n][4], as slots."""
    for i in range(n):
        entry = entries + LEAF_BYTES * i
        place = (load_u64(entry) * MIX >> S32) & U(mask)
        while load_i64(leaves + LEAF_BYTES * np.int64(place)) != 0:
            place = (place + U(1)) & U(mask)
        for k in range(0, LEAF_BYTES, 8):
            store_u64(leaves + LEAF_BYTES * np.int64(place) + k, load_u64(entry + k))


@kernel("uint64(int64, int64, int64)")
def hash_text(at, length, key):
    """`keyed_hash` of one text, for tables that are filled from Python."""
    return keyed_hash(at, length, key)
