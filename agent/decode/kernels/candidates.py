"""One pass over a block that finds the rows whose requests may become spans.

Decides exactly as `tests/reference/sampling.py` does row by row; what it finds is then only cut to
the budget. The common row costs a compare of its trace id's digits, or 6 multiplications without a
trace context, one compare of its latency and one for each declared range.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir

from agent.decode.span_ids import GOLDEN, MIX_1, MIX_2
from agent.sketch.kernels.compile import inlined, kernel, outlined
from agent.sketch.kernels.memory import (
    load_f64,
    load_i32,
    load_i64,
    load_u8,
    load_u64,
    store_i64,
    store_u8,
)
from agent.sketch.kernels.toolchain import intrinsic, types

U = np.uint64
ERROR, SLOW, OUT_OF_RANGE, BASE_RATE = 1, 2, 3, 4

#: One record for each stream: its lanes, and how slow is slow (infinity: never).
STREAM_RULE = np.dtype([("shape", "<i8"), ("slow_above", "<f8")])
#: One record for each list of lanes that streams share. `n_lanes`: as many as had been seen when the
#: record was made. Ranges are those from `first` on: declared ones up to `end_declared`, those of the
#: histogram's domain behind them up to `end`.
SHAPE_RULE = np.dtype(
    [
        ("n_lanes", "<i8"),
        ("latency_lane", "<i8"),
        ("first", "<i8"),
        ("end_declared", "<i8"),
        ("end", "<i8"),
    ]
)
#: A lane and the range outside of which its values are odd.
RANGE = np.dtype([("lane", "<i8"), ("low", "<f8"), ("high", "<f8")])

_GOLDEN, _MIX_1, _MIX_2 = U(GOLDEN), U(MIX_1), U(MIX_2)
_S27, _S30, _S31 = U(27), U(30), U(31)
_LOW_48, _LOW_56 = U((1 << 48) - 1), U((1 << 56) - 1)
_V8 = ir.VectorType(ir.IntType(64), 8)
#: Float64 bits of 2^64, where the domain of histograms ends, and of infinity.
_DOMAIN, _INFINITY = (1023 + 64) << 52, 2047 << 52
_REJECT_ALL = U(1 << 56)
_MAX_TRACE_STATE = 512


@intrinsic
def byte_swap(typingctx, x):
    """The word with its bytes in reverse: eight bytes of text as a number that sorts as the text does."""
    return types.uint64(types.uint64), lambda context, builder, signature, args: builder.bswap(
        args[0]
    )


@inlined
def mix(x):
    """SplitMix64's finaliser."""
    x = (x ^ (x >> _S30)) * _MIX_1
    x = (x ^ (x >> _S27)) * _MIX_2
    return x ^ (x >> _S31)


@inlined
def word(seed, offset, row):
    """`span_ids._word`."""
    return mix(mix(seed + U(offset) * _GOLDEN) + U(row + 1) * _GOLDEN)


@outlined
def hex_value(address, n_digits):
    """The number in `n_digits` lower-case hexadecimal digits; -1 when they are not."""
    value = 0
    for i in range(n_digits):
        c = load_u8(address + i)
        if 48 <= c <= 57:
            value = value * 16 + c - 48
        elif 97 <= c <= 102:
            value = value * 16 + c - 87
        else:
            return -1
    return value


@outlined
def ends_part(address, at, length):
    """Whether text[at] ends a part of a trace state's member: `;`, `,`, a space, or the end."""
    if at >= length:
        return True
    c = load_u8(address + at)
    return c == 59 or c == 44 or c == 32


@outlined
def explicit_randomness(address, length):
    """The `rv` of the `ot` member of a trace state, or -1: `trace_context.randomness_in` of a sound one.

    The first member that has one counts, and in it the last part that is one; that directly
    behind `ot=` is the last choice.
    """
    if length <= 0 or length > _MAX_TRACE_STATE:
        return -1
    for i in range(length):
        c = load_u8(address + i)
        if c < 32 or c > 126:
            return -1
    at = 0
    while at + 20 <= length:  # ot=rv: and 14 digits
        begins = at == 0 or load_u8(address + at - 1) == 44 or load_u8(address + at - 1) == 32
        if (
            begins
            and load_u8(address + at) == 111
            and load_u8(address + at + 1) == 116
            and load_u8(address + at + 2) == 61
        ):
            found = -1
            i = at + 3
            while i + 17 <= length:
                c = load_u8(address + i)
                if c == 44:
                    break
                behind = i == at + 3 or load_u8(address + i - 1) == 59
                if (
                    behind
                    and c == 114
                    and load_u8(address + i + 1) == 118
                    and load_u8(address + i + 2) == 58
                    and ends_part(address, i + 17, length)
                ):
                    value = hex_value(address + i + 3, 14)
                    if value >= 0:
                        found = value
                i += 1
            if found >= 0:
                return found
        at += 1
    return -1


@intrinsic
def beyond8(typingctx, address):
    """Bit mask of the eight float64 at `address` that are beyond 2^64; infinities are, NaNs are not.

    A loop over addresses alone would be compiled to gathers, four times as slow.
    """

    def codegen(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], _V8.as_pointer())
        magnitude = builder.and_(
            builder.load(pointer, align=1), ir.Constant(_V8, [(1 << 63) - 1] * 8)
        )
        above = builder.sub(magnitude, ir.Constant(_V8, [_DOMAIN + 1] * 8))
        is_beyond = builder.icmp_unsigned("<", above, ir.Constant(_V8, [_INFINITY - _DOMAIN] * 8))
        return builder.zext(builder.bitcast(is_beyond, ir.IntType(8)), ir.IntType(64))

    return types.int64(types.int64), codegen


@outlined
def any_beyond(numbers, n):
    """Whether one of `n` float64 is beyond 2^64."""
    found = 0
    whole = n & ~7
    for i in range(0, whole, 8):
        found |= beyond8(numbers + 8 * i)
    for i in range(whole, n):
        found |= abs(load_f64(numbers + 8 * i)) > 2.0**64
    return found != 0


@inlined
def is_sampled(trace):
    """The lowest bit of a traceparent's flags. Letters are 61..66 in hexadecimal: odd where the digit is even."""
    flags = load_u8(trace + 54)
    return ((flags ^ (flags >> 6)) & 1) == 1


@inlined
def is_traced_kept(trace, state, state_length, threshold, high, low):
    """The base rate's word on a row alone in its event: by the randomness of its trace, if that is sampled.

    `trace`: address of a valid traceparent; `high`, `low`: the threshold's first 8 and last 6 digits.
    """
    if not is_sampled(trace):
        return False
    if state_length > 0:
        value = explicit_randomness(state, state_length)
        if value >= 0:
            return U(value) >= threshold
    digits = byte_swap(load_u64(trace + 21))
    if digits != high:
        return digits > high
    return (byte_swap(load_u64(trace + 27)) & _LOW_48) >= low


@inlined
def is_odd(numbers, width, ranges, first, end):
    """Whether a value of the row is outside one of these ranges; NaNs (absent, null) never are."""
    odd = False
    for i in range(first, end):
        lane = load_i64(ranges + 24 * i)
        if lane < width:
            x = load_f64(numbers + 8 * lane)
            odd |= x < load_f64(ranges + 24 * i + 8)
            odd |= x > load_f64(ranges + 24 * i + 16)
    return odd


@kernel(f"int64({', '.join(['int64'] * 25)})")
def find_candidates(
    n,
    stream,
    is_error,
    numbers,
    number_start,
    offset,
    row,
    n_rows,
    text,
    trace,
    trace_stride,
    state,
    state_stride,
    state_length,
    length_stride,
    n_streams,
    streams,
    shapes,
    ranges,
    threshold,
    high,
    low,
    seed,
    out_row,
    out_why,
):
    """Rows that may become spans, in order: out_row int64[n], out_why uint8[n] (ERROR, SLOW ...); their number.

    stream int32[n], is_error uint8[n], numbers float64[...], number_start int64[n + 1]: the block's
    offset int64[n]; row, n_rows int32[n], or both 0: every event is one row
    text                 address that positions count from
    trace, state         int64[n], `*_stride` bytes apart: position of the valid traceparent and of the
                         tracestate, -1 where there is none; state_length int32[n] likewise
    streams, shapes, ranges   STREAM_RULE[n_streams], SHAPE_RULE[...], RANGE[...]
    threshold            56 bits, 2^56: no base rate; high, low: its first 8 and last 6 digits as text
    seed                 of word 1 of the ids (`span_ids`), its bits as an int64

    Rows of stream -1 are passed over. Returns -1 when a row has a stream or a lane that the rules do
    not know yet.
    """
    limit, high_text, low_text, seed_word = U(threshold), U(high), U(low), U(seed)
    found = 0
    # Beyond 2^64 is rare: only then are all ranges looked at, else the declared ones.
    begin = load_i64(number_start)
    is_wild = any_beyond(numbers + 8 * begin, load_i64(number_start + 8 * n) - begin)
    for r in range(n):
        s = load_i32(stream + 4 * r)
        if s < 0:
            continue
        if s >= n_streams:
            return -1
        shape = shapes + 40 * load_i64(streams + 16 * s)
        first = load_i64(number_start + 8 * r)
        width = load_i64(number_start + 8 * r + 8) - first
        if width > load_i64(shape):
            return -1
        values = numbers + 8 * first
        why = 0
        lane = load_i64(shape + 8)
        if load_u8(is_error + r) != 0:
            why = ERROR
        elif 0 <= lane < width and load_f64(values + 8 * lane) > load_f64(streams + 16 * s + 8):
            why = SLOW
        elif is_odd(
            values,
            width,
            ranges,
            load_i64(shape + 16),
            load_i64(shape + 32) if is_wild else load_i64(shape + 24),
        ):
            why = OUT_OF_RANGE
        elif limit < _REJECT_ALL:
            place = 0
            alone = True
            if n_rows != 0:
                place = load_i32(row + 4 * r)
                alone = load_i32(n_rows + 4 * r) == 1
            at = load_i64(trace + trace_stride * r)
            if at >= 0 and alone:
                behind = load_i64(state + state_stride * r)
                length = load_i32(state_length + length_stride * r) if behind >= 0 else 0
                if is_traced_kept(text + at, text + behind, length, limit, high_text, low_text):
                    why = BASE_RATE
            elif (
                at < 0
                or is_sampled(text + at)  # of a batch: nothing for a trace not sampled either
            ) and word(seed_word, load_i64(offset + 8 * r), place) & _LOW_56 >= limit:
                why = BASE_RATE
        if why != 0:
            store_i64(out_row + 8 * found, r)
            store_u8(out_why + found, why)
            found += 1
    return found
