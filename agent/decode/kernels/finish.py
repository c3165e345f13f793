"""What the compiled tiers leave open about a row that fits: its stream, status, trace context, time, window.

Rows are finished in two passes, with the orjson tier in between: `finish_rows` does all but the rows of
streams seen for the first time in the block; the orjson tier decodes one row of each such stream, which
binds it; `settle_rows` gives the others their number. `close_rows` comes last, when all times are known.

Bindings are an open-addressing table of 16-byte slots

    uint64 key hash | int32 shape | int32 state

state: 0 free, PENDING (in `fresh` of this block), REFUSED (the orjson tier made no row of it), FORGOTTEN
(as if free: the block ended before its row), else the stream's number + BOUND. The key hash is keyed (`hashing`), so nobody can make keys collide.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir

from agent.decode.kernels.row_layout import (
    EVENT_TIME,
    FIELD_LENGTH,
    FIELD_START,
    FITS,
    FLAGS,
    KEY_HASH,
    NUMBER_START,
    SHAPE,
    STATUS,
    STRING_FIRST,
    TIME_ABSENT,
)
from agent.decode.leaves import CONTENT, LABEL, N_FIELDS, TRACEPARENT, TRACESTATE
from agent.decode.leaves import STATUS as STATUS_FIELD
from agent.decode.times import LIMIT_MS
from agent.sketch.kernels.compile import inlined, kernel, outlined
from agent.sketch.kernels.memory import (
    load_i32,
    load_i64,
    load_u8,
    load_u32,
    load_u64,
    store_i32,
    store_i64,
    store_u8,
    store_u64,
)
from agent.sketch.kernels.toolchain import intrinsic, types
from agent.types import WINDOW_FUTURE, WINDOW_LATE

U = np.uint64

SLOT_BYTES = 16
PENDING, REFUSED, FORGOTTEN, BOUND = 1, 2, 3, 4

#: Fate of a row: what it was counted as.
LEFT, ROW, LABEL_ONLY, WAITS = range(4)
#: Set in the flags of a row whose traceparent is not valid: the highest bit.
BAD_TRACE = 128

#: Windows of a stream that are remembered as seen: int64[streams][SEEN], by window & (SEEN - 1).
SEEN = 4

# Slots of `out`, int64[N_OUT]: addresses of arrays that a pass writes, and counts.
(
    STREAM,  # int32[n]
    WINDOW,  # int64[n]
    IS_ERROR,  # uint8[n]
    FATE,  # uint8[n]
    TRACE_START,  # int64[n], position of the valid traceparent, -1 none
    STATE_START,  # int64[n], position of its tracestate, -1 none
    STATE_LENGTH,  # int32[n]
    LEFT_ROWS,  # int64[n], rows for the orjson tier
    FRESH_ROWS,  # int64[MAX_FRESH], first rows of streams that are not bound
    AGAIN_ROWS,  # int64[n], further rows of those
    N_LEFT,
    N_FRESH,
    N_AGAIN,
    # Of `close_rows`:
    N_ROWS,  # rows with a stream
    N_LABELS,  # of those, with a label
    N_ALONE,  # labels that are no row
    N_BAD_TRACE,  # rows whose trace context is not valid
    LAST_ROW,  # the last with a stream; -1 none
    SCRATCH,
) = range(19)
N_OUT = 19
#: Streams that one block may bring; it ends before the next.
MAX_FRESH = 128

_TRACEPARENT_BYTES = 55
_ZEROS_8 = U(int.from_bytes(b"0" * 8, "little"))
#: Letters of `tracestate` as little-endian words.
_TRACESTA, _TE = U(int.from_bytes(b"tracesta", "little")), U(int.from_bytes(b"te", "little"))
_SUCCESS = U(int.from_bytes(b"\0success", "little"))
_LOWER = U(0x2020202020202020)


@intrinsic
def not_hex32(typingctx, address):
    """Bit mask of the 32 bytes at `address` that are not 0-9 or a-f."""

    def codegen(context, builder, signature, args):
        kind = ir.VectorType(ir.IntType(8), 32)
        x = builder.load(builder.inttoptr(args[0], kind.as_pointer()), align=1)

        def beyond(first, n):
            less = builder.sub(x, ir.Constant(kind, [first] * 32))
            return builder.icmp_unsigned(">=", less, ir.Constant(kind, [n] * 32))

        both = builder.and_(beyond(48, 10), beyond(97, 6))
        return builder.zext(builder.bitcast(both, ir.IntType(32)), ir.IntType(64))

    return types.uint64(types.int64), codegen


@inlined
def is_traceparent(at, length):
    """Whether the text is a W3C trace context: `scalars.valid_traceparent`. Reads its first 56 bytes."""
    valid = False
    # Hexadecimal but for dashes at 2, 35 and 52: bytes 0 to 31, then 23 to 54.
    if (
        length >= _TRACEPARENT_BYTES
        and not_hex32(at) == U(1 << 2)
        and not_hex32(at + 23) == U((1 << 12) | (1 << 29))
        and load_u8(at + 2) == 45
        and load_u8(at + 35) == 45
        and load_u8(at + 52) == 45
    ):
        version = load_u8(at) * 256 + load_u8(at + 1)
        ends = length == _TRACEPARENT_BYTES or (version != 0x3030 and load_u8(at + 55) == 45)
        is_zero = is_zero_text(at + 3) or (
            load_u64(at + 36) == _ZEROS_8 and load_u64(at + 44) == _ZEROS_8
        )
        valid = ends and version != 0x6666 and not is_zero
    return valid


@inlined
def is_zero_text(at):
    """Whether 32 bytes are all the digit 0."""
    return (
        load_u64(at) == _ZEROS_8
        and load_u64(at + 8) == _ZEROS_8
        and load_u64(at + 16) == _ZEROS_8
        and load_u64(at + 24) == _ZEROS_8
    )


@outlined
def read_status(at, length):
    """0 success, 1 error: whether `scalars.error_text` of a status text is empty."""
    if length == 0:
        return 0
    if length == 1:
        return 0 if load_u8(at) == 48 else 1
    if length == 2:
        return 0 if load_u8(at) | 32 == 111 and load_u8(at + 1) | 32 == 107 else 1
    if length == 4:  # OK with the Kelvin sign, whose lower case is k
        return 0 if load_u32(at) | 32 == 0xAA84E26F else 1
    if length == 3:
        first, second, third = load_u8(at), load_u8(at + 1), load_u8(at + 2)
        return 0 if first == 50 and 48 <= second <= 57 and 48 <= third <= 57 else 1
    if length == 7:
        return 0 if (load_u64(at) | _LOWER) << U(8) == _SUCCESS else 1
    return 1


@inlined
def varint(at):
    """A zigzag varint: (value, address behind it). Reads at most 10 bytes."""
    b = load_u8(at)
    at += 1
    if b > 127:
        shift = 7
        b &= 127
        while shift < 70:
            c = load_u8(at)
            at += 1
            b |= (c & 127) << shift
            shift += 7
            if c < 128:
                break
    return np.int64((U(b) >> U(1)) ^ U(-(b & 1))), at


@inlined
def is_name_10(at):
    """Whether 10 bytes are `tracestate` in any case."""
    return (load_u64(at) | _LOWER) == _TRACESTA and ((load_u64(at + 2) | _LOWER) >> U(48)) == _TE


@outlined
def find_trace_state(at, n_headers, found):
    """The last header `tracestate`, in any case, that is not empty: its address (0 none); its length to `found`.

    at  address of n_headers headers, well formed; found  address of an int64
    """
    state = np.int64(0)
    for _ in range(n_headers):
        size, at = varint(at)
        name = at
        length, at = varint(at + size)
        if length > 0:
            if size == 10 and is_name_10(name):
                state = at
                store_i64(found, length)
            at += length
    return state


@inlined
def slot_for(slots, mask, key, shape):
    """Address of the slot of (key, shape), or of the free one where it belongs."""
    at = np.int64(key) & mask
    slot = slots + SLOT_BYTES * at
    while load_i32(slot + 12) != 0 and (load_u64(slot) != key or load_i32(slot + 8) != shape):
        at = (at + 1) & mask
        slot = slots + SLOT_BYTES * at
    return slot


@inlined
def new_lanes(seen, stream, window, n_lanes):
    """n_lanes when this window of the stream is not remembered, and from now on 0."""
    place = seen + 8 * (SEEN * stream + (window & (SEEN - 1)))
    if load_i64(place) == window:
        return 0
    store_i64(place, window)
    return n_lanes


@inlined
def row_lanes(number_start, string_first, r):
    """How many lanes row r has."""
    return (
        load_i64(number_start + 8 * r + 8)
        - load_i64(number_start + 8 * r)
        + load_i64(string_first + 8 * r + 8)
        - load_i64(string_first + 8 * r)
    )


@kernel("void(int64, int64, uint64, int64, int64)")
def bind(slots, mask, key, shape, state):
    """Write the state of (key, shape) into its slot, in place; a free slot must be left afterwards."""
    slot = slot_for(slots, mask, key, shape)
    store_u64(slot, key)
    store_i32(slot + 8, shape)
    store_i32(slot + 12, state)


@kernel("int64(int64, int64, int64, int64)")
def move_slots(old, n_old, slots, mask):
    """Enter all slots of `old` that are bound or refused into empty `slots`; returns their number."""
    moved = 0
    for i in range(n_old):
        slot = old + SLOT_BYTES * i
        if load_i32(slot + 12) > PENDING:
            to = slot_for(slots, mask, load_u64(slot), load_i32(slot + 8))
            store_u64(to, load_u64(slot))
            store_i64(to + 8, load_i64(slot + 8))
            moved += 1
    return moved


@kernel(f"int64({', '.join(['int64'] * 17)})")
def finish_rows(
    n,
    rows,
    record,
    timestamp,
    headers,
    n_headers,
    parent,
    parent_length,
    arena,
    is_label_topic,
    slots,
    mask,
    seen,
    n_seen,
    width_ms,
    budget,
    out,
):
    """Finish rows 0..n-1 of one tier, in place; returns how many were done.

    rows          address of `RowArrays.table`
    record        int64[n], index of each row's record, or 0: the row's own
    timestamp     int64[records], Kafka's time, -1 none
    headers, n_headers      int64[records], position of the record's headers, well formed, and their number
    parent, parent_length   int64[records], value of the header `traceparent`; position -1 none
    slots, mask   bindings; at least MAX_FRESH free slots more than it must keep
    seen, n_seen  int64[n_seen, SEEN], windows that streams have had since the last cut
    budget        lanes of (stream, window) pairs not in `seen`, at which to stop before a row
    out           int64[N_OUT], addresses; counts are set to those of this pass

    Stops early before a row that would exceed the budget (never before row 0), or be one more than
    MAX_FRESH. All but
    numbers are addresses.
    """
    event_time = load_i64(rows + 8 * EVENT_TIME)
    shapes, status, flags = (
        load_i64(rows + 8 * SHAPE),
        load_i64(rows + 8 * STATUS),
        load_i64(rows + 8 * FLAGS),
    )
    field_start, field_length = load_i64(rows + 8 * FIELD_START), load_i64(rows + 8 * FIELD_LENGTH)
    key_hash = load_i64(rows + 8 * KEY_HASH)
    number_start, string_first = (
        load_i64(rows + 8 * NUMBER_START),
        load_i64(rows + 8 * STRING_FIRST),
    )
    stream_of, window_of = load_i64(out + 8 * STREAM), load_i64(out + 8 * WINDOW)
    is_error, fate = load_i64(out + 8 * IS_ERROR), load_i64(out + 8 * FATE)
    trace_start, state_start = load_i64(out + 8 * TRACE_START), load_i64(out + 8 * STATE_START)
    state_length = load_i64(out + 8 * STATE_LENGTH)
    left, fresh = load_i64(out + 8 * LEFT_ROWS), load_i64(out + 8 * FRESH_ROWS)
    again = load_i64(out + 8 * AGAIN_ROWS)
    n_left = n_fresh = n_again = cells = 0
    low = high = window = np.int64(0)
    done = n
    for r in range(n):
        store_i32(stream_of + 4 * r, -1)
        store_u8(fate + r, LEFT)
        if load_u8(status + r) != FITS:
            continue
        flag = load_u8(flags + r)
        fields = field_start + 8 * N_FIELDS * r
        lengths = field_length + 4 * N_FIELDS * r
        i = r if record == 0 else load_i64(record + 8 * r)
        t = load_i64(event_time + 8 * r)
        stamp = load_i64(timestamp + 8 * i)
        is_left = False
        if is_label_topic != 0 or flag & CONTENT == 0:
            if flag & LABEL != 0:
                store_u8(fate + r, LABEL_ONLY)
                continue
            is_left = True  # no content
        if t == TIME_ABSENT:
            if stamp >= 0:
                t = min(stamp, LIMIT_MS)
                store_i64(event_time + 8 * r, t)
            else:
                is_left = True

        failed = 0
        at = load_i64(fields + 8 * STATUS_FIELD)
        if at >= 0:
            failed = read_status(arena + at, load_i32(lengths + 4 * STATUS_FIELD))
        store_u8(is_error + r, failed)

        trace = load_i64(parent + 8 * i)
        is_header = trace >= 0
        if is_header:
            length = load_i64(parent_length + 8 * i)
            state = np.int64(-1)
            if load_i64(n_headers + 8 * i) > 1:
                at = arena + load_i64(headers + 8 * i)
                at = find_trace_state(at, load_i64(n_headers + 8 * i), out + 8 * SCRATCH)
                if at != 0:
                    state = at - arena
                    store_i32(state_length + 4 * r, load_i64(out + 8 * SCRATCH))
        else:
            trace = load_i64(fields + 8 * TRACEPARENT)
            length = load_i32(lengths + 4 * TRACEPARENT)
            state = load_i64(fields + 8 * TRACESTATE)
            store_i32(state_length + 4 * r, load_i32(lengths + 4 * TRACESTATE))
        if trace >= 0 and not is_traceparent(arena + trace, length):
            trace = np.int64(-1)
            store_u8(flags + r, flag | BAD_TRACE)
        store_i64(trace_start + 8 * r, trace)
        store_i64(state_start + 8 * r, state if trace >= 0 else -1)

        if is_left:
            store_i64(left + 8 * n_left, r)
            n_left += 1
            continue
        if t < low or t >= high:
            window = t // width_ms
            low = window * width_ms
            high = low + width_ms
        store_i64(window_of + 8 * r, window)

        slot = slot_for(slots, mask, load_u64(key_hash + 8 * r), load_i32(shapes + 4 * r))
        bound = load_i32(slot + 12)
        if bound >= BOUND:
            stream = bound - BOUND
            n_lanes = row_lanes(number_start, string_first, r)
            if stream < n_seen:
                cells += new_lanes(seen, stream, window, n_lanes)
            else:
                cells += n_lanes
            if cells > budget and r > 0:
                done = r
                break
            store_i32(stream_of + 4 * r, stream)
            store_u8(fate + r, ROW)
        elif bound == PENDING:
            store_u8(fate + r, WAITS)
            store_i64(again + 8 * n_again, r)
            n_again += 1
            cells += row_lanes(number_start, string_first, r)  # of whatever stream
        elif bound == REFUSED:
            store_i64(left + 8 * n_left, r)
            n_left += 1
        else:
            if n_fresh == MAX_FRESH:
                done = r
                break
            store_u64(slot, load_u64(key_hash + 8 * r))
            store_i32(slot + 8, load_i32(shapes + 4 * r))
            store_i32(slot + 12, PENDING)
            store_i64(fresh + 8 * n_fresh, r)
            n_fresh += 1
    store_i64(out + 8 * N_LEFT, n_left)
    store_i64(out + 8 * N_FRESH, n_fresh)
    store_i64(out + 8 * N_AGAIN, n_again)
    return done


@kernel("int64(int64, int64, int64, int64, int64)")
def settle_rows(n_again, rows, slots, mask, out):
    """Give rows 0..n_again-1 of AGAIN_ROWS the streams that were bound meanwhile, in place.

    Those of streams that were refused are put to LEFT_ROWS, from its start; returns their number.
    """
    shapes, key_hash = load_i64(rows + 8 * SHAPE), load_i64(rows + 8 * KEY_HASH)
    stream_of, fate = load_i64(out + 8 * STREAM), load_i64(out + 8 * FATE)
    left, again = load_i64(out + 8 * LEFT_ROWS), load_i64(out + 8 * AGAIN_ROWS)
    n_left = 0
    for i in range(n_again):
        r = load_i64(again + 8 * i)
        slot = slot_for(slots, mask, load_u64(key_hash + 8 * r), load_i32(shapes + 4 * r))
        bound = load_i32(slot + 12)
        if bound >= BOUND:
            store_i32(stream_of + 4 * r, bound - BOUND)
            store_u8(fate + r, ROW)
        else:
            store_u8(fate + r, LEFT)
            store_i64(left + 8 * n_left, r)
            n_left += 1
    return n_left


@kernel(f"int64({', '.join(['int64'] * 10)})", nogil=False)
def close_rows(
    n,
    rows,
    record,
    timestamp,
    sealed_until,
    skew_ms,
    latest_ms,
    untimed_latest_ms,
    labels,
    out,
):
    """Mark late and future rows, as `RowBuffer.blocks` does, and count all rows, in place.

    sealed_until       windows below are late
    skew_ms            how far an event may be ahead of its record's timestamp
    latest_ms          no event later is admissible, whatever the timestamp claims
    untimed_latest_ms  the same for rows of records without timestamp
    labels             int64[streams], added to: rows with a label

    Writes N_ROWS, N_LABELS, N_ALONE, N_BAD_TRACE and LAST_ROW. Returns the largest admissible event
    time of rows with a stream; -1 none.
    """
    event_time, flags = load_i64(rows + 8 * EVENT_TIME), load_i64(rows + 8 * FLAGS)
    stream_of, window_of = load_i64(out + 8 * STREAM), load_i64(out + 8 * WINDOW)
    fate = load_i64(out + 8 * FATE)
    newest = np.int64(-1)
    last = -1
    n_rows = n_labels = n_alone = n_bad = 0
    for r in range(n):
        stream = load_i32(stream_of + 4 * r)
        if stream < 0:
            n_alone += load_u8(fate + r) == LABEL_ONLY
            continue
        n_rows += 1
        last = r
        flag = load_u8(flags + r)
        if flag & LABEL != 0:
            n_labels += 1
            store_i64(labels + 8 * stream, load_i64(labels + 8 * stream) + 1)
        n_bad += flag >> 7
        i = r if record == 0 else load_i64(record + 8 * r)
        t = load_i64(event_time + 8 * r)
        stamp = load_i64(timestamp + 8 * i)
        latest = min(stamp + skew_ms, latest_ms) if stamp >= 0 else untimed_latest_ms
        if t > latest:
            store_i64(window_of + 8 * r, WINDOW_FUTURE)
            continue
        newest = max(newest, t)
        if load_i64(window_of + 8 * r) < sealed_until:
            store_i64(window_of + 8 * r, WINDOW_LATE)
    store_i64(out + 8 * N_ROWS, n_rows)
    store_i64(out + 8 * N_LABELS, n_labels)
    store_i64(out + 8 * N_ALONE, n_alone)
    store_i64(out + 8 * N_BAD_TRACE, n_bad)
    store_i64(out + 8 * LAST_ROW, last)
    return newest


@kernel("int64(int64, int64)", nogil=False)
def sum_sizes(length, n):
    """Sum of int64[n] lengths, those below 0 left out."""
    total = 0
    for i in range(n):
        total += max(load_i64(length + 8 * i), 0)
    return total
