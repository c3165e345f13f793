"""JSON values that nobody reads: checked as orjson would, keys that come twice included."""

from __future__ import annotations

from agent.decode.kernels.escapes import text_any
from agent.decode.kernels.hashing import keyed_hash
from agent.decode.kernels.scan_layout import (
    FOUND_TEXT,
    FRAME,
    MAX_LEVELS,
    MAX_SKIPPED_KEYS,
    SCRATCH,
    SKIPPED_FIRST,
    SKIPPED_KEYS,
    WORD,
)
from agent.decode.kernels.values import (
    NAME_KEY,
    literal_bool,
    number_far,
    number_with_exponent,
    past,
)
from agent.sketch.kernels.compile import outlined
from agent.sketch.kernels.memory import load_i64, load_u8, load_u32, load_u64, store_i64, store_u64


@outlined
def behind_space(at, end):
    while at < end:
        c = load_u8(at)
        if c != 32 and c != 10 and c != 13 and c != 9:
            break
        at += 1
    return at


@outlined
def skip_value(at, end, levels, zone, tables):
    """Any JSON value at `at`, checked as orjson would: the address behind it.

    0 when it is not valid, has more than `levels` levels of brackets, an object with a key twice, or
    more keys than are compared here.
    """
    scratch = load_i64(tables + SCRATCH)
    key = load_i64(load_i64(tables + FRAME) + NAME_KEY)
    first = scratch + SKIPPED_FIRST  # of each open bracket: its first key, -1 for an array
    depth = 0
    n_keys = 0
    while at < end:
        # ---- a value, or before it the key of an object
        c = load_u8(at)
        if depth > 0 and load_i64(first + 8 * depth) >= 0:
            if c != 34:
                return 0
            at = text_any(at + 1, end, zone, scratch)
            if past(at, end) or n_keys >= MAX_SKIPPED_KEYS:
                return 0
            h = keyed_hash(load_i64(scratch + FOUND_TEXT), load_i64(scratch + FOUND_TEXT + 8), key)
            for k in range(load_i64(first + 8 * depth), n_keys):
                if load_u64(scratch + SKIPPED_KEYS + 8 * k) == h:
                    return 0
            store_u64(scratch + SKIPPED_KEYS + 8 * n_keys, h)
            n_keys += 1
            at = behind_space(at + 1, end)
            if at >= end or load_u8(at) != 58:
                return 0
            at = behind_space(at + 1, end)
            if at >= end:
                return 0
            c = load_u8(at)
        if c == 34:
            at = text_any(at + 1, end, zone, scratch)
            if past(at, end):
                return 0
            at += 1
        elif c == 123 or c == 91:
            depth += 1
            if depth > levels or depth >= MAX_LEVELS:
                return 0
            store_i64(first + 8 * depth, n_keys if c == 123 else -1)
            at = behind_space(at + 1, end)
            # `{` and `}`, `[` and `]` are two apart
            if at >= end or load_u8(at) != c + 2:
                continue
            depth -= 1
            at += 1
        elif c == 110:
            if load_u32(at) != 0x6C6C756E:
                return 0
            at += 4
        elif c == 116 or c == 102:
            at = literal_bool(at)
            if past(at, end):
                return 0
        else:
            start = at
            at = number_far(start, end, scratch + WORD)
            if past(at, end) or (load_u8(at) | 32) == 101:
                at = number_with_exponent(start, end, scratch + WORD)
                if past(at, end):
                    return 0
        # ---- behind a value
        while depth > 0:
            at = behind_space(at, end)
            if at >= end:
                return 0
            c = load_u8(at)
            at += 1
            if c == 44:
                at = behind_space(at, end)
                break
            first_key = load_i64(first + 8 * depth)
            if c != (93 if first_key < 0 else 125):
                return 0
            if first_key >= 0:
                n_keys = first_key
            depth -= 1
        if depth == 0:
            return at if at <= end else 0
    return 0
