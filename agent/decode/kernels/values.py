"""JSON values in kernels: parse one in place, and store it where its leaf says. Shared by both tiers.

Every parser takes the address of a value and the address of the record's end, and returns the address
behind the value, or 0: *misfit*, not for a compiled tier, whatever is wrong with it. What is accepted
is exactly what orjson accepts, with the same meaning.

Bounds. A parser may be called at any address up to end + 32 and reads at most up to end + 64, and
back to 33 bytes before itself. What it returns may lie behind the record's end when the bytes there
happen to go on with the value: the caller checks `past(at, end)` after every value, and in the end that
the record stops exactly at its end.

What a row puts out goes through two small tables of addresses:

rows   int64[N_SLOTS]: where the arrays of a block lie (`row_layout`)
frame  int64[N_FRAME_SLOTS], from `new_frame`: limits, the row in hand, where the next one begins.
       Scratch of one tier; `begin_rows` and `open_row` fill in the rest
"""

from __future__ import annotations

import numpy as np

from agent.decode.kernels.digits import OUT_OF_RANGE, decimal_bits, float_bits
from agent.decode.kernels.hashing import (
    PROCESS_KEY,
    keyed_hash,
    merge_hash,
    segment_hash,
    stream_hash,
)
from agent.decode.kernels.row_layout import (
    EVENT_TIME,
    FIELD_LENGTH,
    FIELD_START,
    FITS,
    FLAGS,
    KEY_HASH,
    MISFIT,
    MODEL_HASH,
    NUMBER_START,
    NUMBERS,
    SHAPE,
    STATUS,
    STRING_FIRST,
    STRING_HASH,
    STRING_LENGTH,
    STRING_START,
    TIME_ABSENT,
)
from agent.decode.kernels.simd import (
    bits_of,
    digits32,
    fill32,
    nondigit32,
    nondigit64,
    prefetch_read,
    special32,
    special64,
)
from agent.decode.kernels.times import (
    epoch_ms_of_float,
    epoch_ms_of_integer,
    rfc3339_ms,
)
from agent.decode.leaves import MODEL, N_FIELDS, VERSION, Leaf, Op, WireKind
from agent.sketch.kernels.compile import inlined, outlined
from agent.sketch.kernels.layout import ABSENT_BITS, HASH_ABSENT, HASH_NULL, NULL_BITS
from agent.sketch.kernels.memory import (
    f64_of,
    load_f64,
    load_i64,
    load_u8,
    load_u32,
    load_u64,
    store_f64,
    store_i32,
    store_i64,
    store_u8,
    store_u64,
    trailing_zeros,
)

U = np.uint64
_ALL_MARKED = U((1 << 64) - 1)
assert N_FIELDS == 6

# Byte offsets in a frame.
(
    NAME_KEY,  # address of the process's key
    NAME_LIMIT,  # longest model, version or segment text, bytes
    RECORD_LIMIT,  # longest record, bytes
    TEXT,  # address that text positions count from
    NUMBER_END,  # lanes written so far: where the next row begins
    STRING_END,
    LANES,  # the row in hand: addresses of its numeric lanes, string lanes and fields
    HASHES,
    STARTS,
    LENGTHS,
    FIELD_STARTS,
    FIELD_LENGTHS,
    TIME,  # its event time
    NAME_HASHES,  # two: of its model and its version
    _,
    SEGMENTS,  # sum of its segments' hashes
    TRASH,  # where numbers go that nobody wants
    MARKS,  # template tier: address of four rows of marks (`mark_record`), and bytes from one to the next
    MARKS_STRIDE,
    BEGIN,  # address of the record in hand
) = range(0, 8 * 20, 8)
N_FRAME_SLOTS = 20


def new_frame(max_name_bytes, max_record_bytes):
    """int64[N_FRAME_SLOTS] for one tier of one kernel thread.

    Names longer than a quarter of max_name_bytes are left to the orjson tier, which counts characters
    first; so are records longer than max_record_bytes.
    """
    frame = np.zeros(N_FRAME_SLOTS, np.int64)
    frame[NAME_KEY // 8] = PROCESS_KEY.ctypes.data
    frame[NAME_LIMIT // 8] = max_name_bytes // 4
    frame[RECORD_LIMIT // 8] = max_record_bytes
    return frame


# Steps: an Op together with the kind of its value. `step_of` gives them; `take` does them.
(
    NUMBER,
    SCALED,
    SKIP_NUMBER,
    TIME_NUMBER,
    STRING,
    FIELD_STRING,
    NAME_STRING,  # model or version
    SKIP_STRING,
    BOOLEAN,
    NOTHING,  # null and the like: the text has been checked already
    SKIP_BOOL,
    SEGMENT_STRING,
    TIME_STRING,
    VECTOR,
    CODE_NUMBER,
    CODE_BOOL,
    FIELD_NUMBER,
    NAME_NUMBER,
    SEGMENT_NUMBER,
    SEGMENT_BOOL,
    NULL_NUMBER,
    NULL_STRING,
) = range(22)
N_STEPS = 22

_STEPS = {
    (Op.NUMBER, WireKind.NUMBER): NUMBER,
    (Op.SCALED, WireKind.NUMBER): SCALED,
    (Op.BOOLEAN, WireKind.BOOL): BOOLEAN,
    (Op.STRING, WireKind.STRING): STRING,
    (Op.CODE, WireKind.NUMBER): CODE_NUMBER,
    (Op.CODE, WireKind.BOOL): CODE_BOOL,
    (Op.CODE, WireKind.STRING): STRING,
    (Op.NULL_NUMBER, WireKind.NULL): NULL_NUMBER,
    (Op.NULL_STRING, WireKind.NULL): NULL_STRING,
    (Op.VECTOR, WireKind.VECTOR): VECTOR,
    (Op.FIELD, WireKind.STRING): FIELD_STRING,
    (Op.FIELD, WireKind.NUMBER): FIELD_NUMBER,
    (Op.SEGMENT, WireKind.STRING): SEGMENT_STRING,
    (Op.SEGMENT, WireKind.NUMBER): SEGMENT_NUMBER,
    (Op.SEGMENT, WireKind.BOOL): SEGMENT_BOOL,
    (Op.TIME, WireKind.NUMBER): TIME_NUMBER,
    (Op.TIME, WireKind.STRING): TIME_STRING,
}
_SKIPS = {
    WireKind.NULL: NOTHING,
    WireKind.EMPTY: NOTHING,
    WireKind.BOOL: SKIP_BOOL,
    WireKind.NUMBER: SKIP_NUMBER,
    WireKind.STRING: SKIP_STRING,
}
_NAMES = {FIELD_STRING: NAME_STRING, FIELD_NUMBER: NAME_NUMBER}


def step_of(leaf: Leaf, kind: WireKind) -> int | None:
    """The step for a value of this kind; None: kernels cannot do it, so the row is a misfit.

    `take` gets the leaf's lane as its `lane`, and as `operand` `operand_of(leaf)`.
    """
    if leaf.op in (Op.SKIP, Op.LABEL):
        return _SKIPS.get(kind)
    step = _STEPS.get((leaf.op, kind))
    if step is not None and leaf.op is Op.FIELD and leaf.lane in (MODEL, VERSION):
        return _NAMES[step]
    return step


def operand_of(leaf: Leaf) -> int:
    """The leaf's divisor or salt as the bits that `take` wants: uint64."""
    if leaf.op is Op.SCALED:
        return int(np.float64(leaf.divisor).view(np.uint64))
    return leaf.salt


# ---------------------------------------------------------------- parsers


@inlined
def mark_record(marks, stride, begin, size):
    """Find all that may end a number or a text in a record, 64 bytes at a time.

    marks  address of a bit for each byte that is no digit; `stride` further on, one for each that ends or
           spoils plain text (`nondigit64`, `special64`)

    To find it here, and not from each value on, frees values from waiting for the one before. Reads up to
    63 bytes past the record; the 128 bytes behind those are marked, whatever they are. Asks for memory 2 kB
    further on: cold then costs as little as hot.
    """
    word = 0
    for at in range(0, size, 64):
        prefetch_read(begin + at + 2048)
        store_u64(marks + word, nondigit64(begin + at))
        store_u64(marks + stride + word, special64(begin + at))
        word += 8
    for _ in range(2):
        store_u64(marks + word, _ALL_MARKED)
        store_u64(marks + stride + word, _ALL_MARKED)
        word += 8


@inlined
def marks_at(marks, at, frame):
    """At least 57 bits of `marks`, the first that of the byte at `at`, zeros above. Up to 71 bytes past the record."""
    place = at - load_i64(frame + BEGIN)
    return load_u64(marks + (place >> 3)) >> U(place & 7)


@inlined
def past(at, end):
    """Whether `at`, as a parser returned it, is a misfit (0) or lies behind the end."""
    return U(at - 1) >= U(end)


@outlined
def text_end_long(at, end):
    """`text_end` for text that is long or not ASCII: byte by byte, UTF-8 as orjson validates it."""
    while at < end:
        c = load_u8(at)
        if c < 0x80:
            if c == 34:
                return at
            if c < 32 or c == 92:
                return 0
            at += 1
            continue
        second = load_u8(at + 1)
        if second >> 6 != 2:
            return 0
        if 0xC2 <= c <= 0xDF:
            at += 2
        elif c >> 4 == 14:
            if load_u8(at + 2) >> 6 != 2:
                return 0
            # Overlong forms below U+0800, and surrogates.
            if (c == 0xE0 and second < 0xA0) or (c == 0xED and second >= 0xA0):
                return 0
            at += 3
        elif 0xF0 <= c <= 0xF4:
            if load_u8(at + 2) >> 6 != 2 or load_u8(at + 3) >> 6 != 2:
                return 0
            # Overlong forms below U+10000, and beyond U+10FFFF.
            if (c == 0xF0 and second < 0x90) or (c == 0xF4 and second >= 0x90):
                return 0
            at += 4
        else:
            return 0
    return 0


@inlined
def text_end(at, end, special):
    """Address of the quote that closes the text at `at` (behind its opening quote).

    special  uint64, `special32(at)` or more bits of it; 0 above those that are known

    0 for an escape, a control character, bad UTF-8, no end: text without escapes only.
    """
    size = trailing_zeros(special)
    if size < 64 and load_u8(at + size) == 34:
        return at + size
    return text_end_long(at + min(size, 32), end)


@outlined
def begins_with_zeros(at, n):
    """Whether the first n digits at `at` are zeros; a decimal point between them is passed over."""
    while n > 0:
        c = load_u8(at)
        if c != 46:
            if c != 48:
                return False
            n -= 1
        at += 1
    return True


@inlined
def number(at, nondigit, out):
    """A JSON number without exponent to a float64 at address `out`.

    nondigit  uint64, `nondigit32(at)` or more bits of it; 0 above those that are known

    At most 19 significant digits and, with a decimal point, 24 digits. What follows the number is for
    the caller to look at: with an `e` it is `number_with_exponent` that must read it.
    """
    # The sign without a branch: one would be wrong for every second value.
    is_negative = U(load_u8(at) == 45)
    sign = is_negative << U(63)
    skip = np.int64(is_negative)
    mask = nondigit & ~is_negative
    point = trailing_zeros(mask)
    n_whole = point - skip
    if U(n_whole - 1) >= U(19) or (load_u8(at + skip) == 48 and n_whole > 1):
        return 0
    if load_u8(at + point) == 46:
        stop = trailing_zeros(mask & (mask - U(1)))
        n_decimals = stop - point - 1
        if n_decimals == 0:
            return 0
        n_digits = n_whole + n_decimals
        # More than 24 also when no end is in sight: then stop is 64.
        if n_digits > 19 and (n_digits > 24 or not begins_with_zeros(at + skip, n_digits - 19)):
            return 0
        at += stop
        digits = digits32(at, n_decimals, n_digits)
        store_u64(out, float_bits(digits, n_decimals) | sign)
        return at
    at += point
    digits = digits32(at, n_whole, n_whole)
    # "-0" is the integer 0, as in orjson; "-0.0" is not.
    store_u64(out, bits_of(np.float64(digits)) | (sign if digits != U(0) else U(0)))
    return at


@outlined
def number_far(at, end, out):
    """`number`, as a call."""
    return number(at, nondigit32(at), out)


@outlined
def number_with_exponent(at, end, out):
    """The same for a number with an exponent (rare), of at most 19 significant digits; normal, or 0."""
    is_negative = U(load_u8(at) == 45)
    at += np.int64(is_negative)
    start = at
    digits = U(0)
    n_significant = np.int64(0)
    n_decimals = np.int64(0)
    point = 0
    while at < end:
        c = load_u8(at)
        if 48 <= c <= 57:
            if n_significant == 19:
                return 0
            digits = digits * U(10) + U(c - 48)
            n_significant += np.int64(digits != U(0))
            n_decimals += np.int64(point != 0)
        elif c == 46 and point == 0 and at > start:
            point = at
        else:
            break
        at += 1
    n_whole = (point if point != 0 else at) - start
    if at >= end or n_whole == 0 or (n_whole > 1 and load_u8(start) == 48):
        return 0
    if (point != 0 and n_decimals == 0) or (load_u8(at) | 32) != 101:
        return 0
    at += 1
    sign = load_u8(at)
    if sign == 43 or sign == 45:
        at += 1
    start = at
    power = 0
    while at < end and 48 <= load_u8(at) <= 57:
        if at - start == 4:
            return 0
        power = power * 10 + load_u8(at) - 48
        at += 1
    if at == start:
        return 0
    if sign == 45:
        power = -power
    bits = decimal_bits(digits, power - n_decimals)
    if bits == OUT_OF_RANGE:
        return 0
    store_u64(out, bits | (is_negative << U(63)))
    return at


@inlined
def literal_bool(at):
    """Behind `true` or `false`, or 0."""
    word = load_u32(at)
    if word == 0x65757274:
        return at + 4
    if word == 0x736C6166 and load_u8(at + 4) == 101:
        return at + 5
    return 0


@inlined
def canonical_integer(at):
    """Behind an integer that is its own shortest text: 0, or up to 18 digits with no leading zero or -0.

    What follows is for the caller: a point or an exponent is no integer.
    """
    is_negative = U(load_u8(at) == 45)
    skip = np.int64(is_negative)
    size = trailing_zeros(nondigit32(at) & ~is_negative)
    n_digits = size - skip
    if n_digits == 0 or n_digits > 18:
        return 0
    if load_u8(at + skip) == 48 and size > 1:
        return 0
    at += size
    after = load_u8(at)
    if after == 46 or (after | 32) == 101:
        return 0
    return at


@inlined
def _behind_space(at, end):
    while at < end and load_u8(at) <= 32:
        c = load_u8(at)
        if c != 32 and c != 10 and c != 13 and c != 9:
            break
        at += 1
    return at


@outlined
def vector(at, end, out):
    """An array of numbers, from behind its bracket, to its Euclidean norm at address `out`.

    A plain sum of squares from the left; 0 (a misfit) where that would overflow or lose digits.
    """
    total = 0.0
    is_zero = True
    at = _behind_space(at, end)
    if at < end and load_u8(at) == 93:
        store_f64(out, 0.0)
        return at + 1
    while at < end:
        start = at
        at = number_far(start, end, out)
        if past(at, end) or (load_u8(at) | 32) == 101:
            at = number_with_exponent(start, end, out)
            if past(at, end):
                return 0
        value = load_f64(out)
        is_zero = is_zero and value == 0.0
        total += value * value
        at = _behind_space(at, end)
        if at >= end:
            return 0
        c = load_u8(at)
        if c == 93:
            if is_zero:
                store_f64(out, 0.0)
                return at + 1
            if not (1e-280 < total < 1e280):
                return 0
            store_f64(out, np.sqrt(total))
            return at + 1
        if c != 44:
            return 0
        at = _behind_space(at + 1, end)
    return 0


# ---------------------------------------------------------------- storing


@inlined
def store_string(lane, at, length, frame):
    """A text into a string lane of the row."""
    store_u64(load_i64(frame + HASHES) + 8 * lane, merge_hash(at, length))
    store_i64(load_i64(frame + STARTS) + 8 * lane, at - load_i64(frame + TEXT))
    store_i32(load_i64(frame + LENGTHS) + 4 * lane, length)


@inlined
def store_field(field, at, length, frame):
    """Where the text of a field lies."""
    store_i64(load_i64(frame + FIELD_STARTS) + 8 * field, at - load_i64(frame + TEXT))
    store_i32(load_i64(frame + FIELD_LENGTHS) + 4 * field, length)


@inlined
def store_name(field, at, length, frame):
    """The same for model (0) and version (1), with its hash; 0 when the text is too long, else 1."""
    if length > load_i64(frame + NAME_LIMIT):
        return 0
    store_field(field, at, length, frame)
    store_u64(frame + NAME_HASHES + 8 * field, keyed_hash(at, length, load_i64(frame + NAME_KEY)))
    return 1


@inlined
def store_segment(salt, at, length, frame):
    """A segment's value; 0 when the text is too long, else 1."""
    if length > load_i64(frame + NAME_LIMIT):
        return 0
    key = load_i64(frame + NAME_KEY)
    part = segment_hash(keyed_hash(at, length, key), salt, key)
    store_u64(frame + SEGMENTS, load_u64(frame + SEGMENTS) + part)
    return 1


@inlined
def store_scaled(lane, operand, frame):
    """The number in TRASH, over the divisor, into a lane; 0 when it is below zero, else 1."""
    value = load_f64(frame + TRASH)
    if not value >= 0.0:
        return 0
    store_f64(load_i64(frame + LANES) + 8 * lane, value / f64_of(operand))
    return 1


@outlined
def take_rare(step, at, end, lane, operand, frame):
    """`take` for the steps that are not worth a place in a hot loop."""
    if step == SKIP_BOOL:
        return literal_bool(at)
    if step == NULL_NUMBER:
        store_u64(load_i64(frame + LANES) + 8 * lane, U(NULL_BITS))
        return at
    if step == NULL_STRING:
        store_u64(load_i64(frame + HASHES) + 8 * lane, U(HASH_NULL))
        return at
    if step == VECTOR:
        return vector(at, end, load_i64(frame + LANES) + 8 * lane)
    if step in (SEGMENT_STRING, TIME_STRING):
        stop = text_end(at, end, special32(at))
        if past(stop, end):
            return 0
        if step == SEGMENT_STRING:
            return (stop + 1) * store_segment(operand, at, stop - at, frame)
        ms = rfc3339_ms(at, stop - at)
        store_i64(frame + TIME, ms)
        return stop + 1 if ms != TIME_ABSENT else 0
    if step == TIME_NUMBER:  # with a decimal point
        at = number_far(at, end, frame + TRASH)
        ms = epoch_ms_of_float(load_f64(frame + TRASH)) if at != 0 else TIME_ABSENT
        store_i64(frame + TIME, ms)
        return at if ms != TIME_ABSENT else 0

    # Integers and literals that are taken as text.
    is_bool = step in (CODE_BOOL, SEGMENT_BOOL)
    stop = literal_bool(at) if is_bool else canonical_integer(at)
    if past(stop, end):
        return 0
    length = stop - at
    if step in (CODE_BOOL, CODE_NUMBER):
        store_string(lane, at, length, frame)
    elif step == FIELD_NUMBER:
        store_field(lane, at, length, frame)
    elif step == NAME_NUMBER:
        return stop * store_name(lane, at, length, frame)
    elif step in (SEGMENT_BOOL, SEGMENT_NUMBER):
        return stop * store_segment(operand, at, length, frame)
    else:
        return 0
    return stop


@inlined
def _time_integer(at, end, nondigit, frame):
    is_negative = U(load_u8(at) == 45)
    skip = np.int64(is_negative)
    size = trailing_zeros(nondigit & ~is_negative)
    n_digits = size - skip
    if n_digits == 0 or n_digits > 19 or (n_digits > 1 and load_u8(at + skip) == 48):
        return 0
    if load_u8(at + size) == 46:
        return take_rare(TIME_NUMBER, at, end, 0, U(0), frame)
    at += size
    value = np.int64(digits32(at, n_digits, n_digits))
    if value < 0:  # 2^63 and above
        return 0
    store_i64(frame + TIME, epoch_ms_of_integer((value ^ -skip) + skip))
    return at


@inlined
def take(step, at, end, marks, lane, operand, frame):
    """Parse the value at `at` and store it as its step says: the address behind it, or 0.

    at       of a string or vector: behind its opening quote or bracket; it returns behind the closing one
    marks    the record's, from `mark_record`
    lane     lane of the row, or number of the field
    operand  uint64: bits of the divisor (SCALED), salt (segments)
    frame    address of FRAME

    A number may be followed by an exponent, which this leaves standing: see `take_exponent`.
    """
    if step == NUMBER:
        return number(at, marks_at(marks, at, frame), load_i64(frame + LANES) + 8 * lane)
    if step <= SKIP_NUMBER:
        stop = number(at, marks_at(marks, at, frame), frame + TRASH)
        # Nothing is stored of what is no number: null may be tried next. Below zero is a misfit, and
        # stays so with the exponent that may stand behind it.
        if step == SCALED and (stop == 0 or store_scaled(lane, operand, frame) == 0):
            return 0
        return stop
    if step == TIME_NUMBER:
        return _time_integer(at, end, marks_at(marks, at, frame), frame)
    if STRING <= step <= SKIP_STRING:
        special = marks_at(marks + load_i64(frame + MARKS_STRIDE), at, frame)
        stop = text_end(at, end, special)
        if past(stop, end):
            return 0
        if step == STRING:
            store_string(lane, at, stop - at, frame)
        elif step == FIELD_STRING:
            store_field(lane, at, stop - at, frame)
        elif step == NAME_STRING:
            return (stop + 1) * store_name(lane, at, stop - at, frame)
        return stop + 1
    if step == BOOLEAN:
        stop = literal_bool(at)
        if stop != 0:  # another kind of value may be next to be tried, with another lane
            store_f64(load_i64(frame + LANES) + 8 * lane, np.float64(stop - at == 4))
        return stop
    if step == NOTHING:
        return at
    return take_rare(step, at, end, lane, operand, frame)


@outlined
def take_exponent(step, at, end, lane, operand, frame):
    """`take` for a number at `at` that turned out to have an exponent; 0 for steps that take none."""
    if step == NUMBER:
        return number_with_exponent(at, end, load_i64(frame + LANES) + 8 * lane)
    if step != SCALED and step != SKIP_NUMBER:
        return 0
    stop = number_with_exponent(at, end, frame + TRASH)
    if stop != 0 and step == SCALED and store_scaled(lane, operand, frame) == 0:
        return 0
    return stop


# ---------------------------------------------------------------- rows


@inlined
def _slot(rows, slot):
    return load_i64(rows + 8 * slot)


@inlined
def _fill(address, n, value):
    """Store n uint64, and up to three behind them."""
    at = 0
    while at < n:
        fill32(address + 8 * at, value)
        at += 4


@inlined
def begin_rows(rows, frame, text):
    """Before row 0: nothing is written yet. `text`: address that positions count from (the arena)."""
    store_i64(frame + TEXT, text)
    store_i64(frame + NUMBER_END, 0)
    store_i64(frame + STRING_END, 0)
    store_i64(_slot(rows, NUMBER_START), 0)
    store_i64(_slot(rows, STRING_FIRST), 0)


@inlined
def open_row(rows, frame, r, n_numbers, n_strings):
    """Begin row r, or begin it again, with all its lanes and fields absent.

    n_numbers  numeric lanes that the row may write, n_strings string lanes: behind those of the row before
    """
    lanes = _slot(rows, NUMBERS) + 8 * load_i64(frame + NUMBER_END)
    first = load_i64(frame + STRING_END)
    hashes = _slot(rows, STRING_HASH) + 8 * first
    starts = _slot(rows, FIELD_START) + 8 * N_FIELDS * r
    store_i64(frame + LANES, lanes)
    store_i64(frame + HASHES, hashes)
    store_i64(frame + STARTS, _slot(rows, STRING_START) + 8 * first)
    store_i64(frame + LENGTHS, _slot(rows, STRING_LENGTH) + 4 * first)
    store_i64(frame + FIELD_STARTS, starts)
    store_i64(frame + FIELD_LENGTHS, _slot(rows, FIELD_LENGTH) + 4 * N_FIELDS * r)
    store_i64(frame + TIME, TIME_ABSENT)
    store_u64(frame + NAME_HASHES, U(0))
    store_u64(frame + NAME_HASHES + 8, U(0))
    store_u64(frame + SEGMENTS, U(0))
    _fill(lanes, n_numbers, U(ABSENT_BITS))
    _fill(hashes, n_strings, U(HASH_ABSENT))
    fill32(starts, U(0xFFFFFFFFFFFFFFFF))
    fill32(starts + 8 * (N_FIELDS - 4), U(0xFFFFFFFFFFFFFFFF))


@inlined
def close_row(rows, frame, r, n_numbers, n_strings, shape, flags):
    """Row r fits: write all that is known of it, and move on behind its lanes."""
    number_end = load_i64(frame + NUMBER_END) + n_numbers
    string_end = load_i64(frame + STRING_END) + n_strings
    store_i64(frame + NUMBER_END, number_end)
    store_i64(frame + STRING_END, string_end)
    store_i64(_slot(rows, NUMBER_START) + 8 * (r + 1), number_end)
    store_i64(_slot(rows, STRING_FIRST) + 8 * (r + 1), string_end)
    store_i64(_slot(rows, EVENT_TIME) + 8 * r, load_i64(frame + TIME))
    store_i32(_slot(rows, SHAPE) + 4 * r, shape)
    store_u8(_slot(rows, STATUS) + r, FITS)
    store_u8(_slot(rows, FLAGS) + r, flags)
    model = load_u64(frame + NAME_HASHES)
    version = load_u64(frame + NAME_HASHES + 8)
    store_u64(_slot(rows, MODEL_HASH) + 8 * r, model)
    whole = stream_hash(model, version, load_u64(frame + SEGMENTS), load_i64(frame + NAME_KEY))
    store_u64(_slot(rows, KEY_HASH) + 8 * r, whole)


@inlined
def leave_row(rows, frame, r):
    """Row r is a misfit: status 0 and no lanes. Nothing else of it is to be read."""
    store_i64(_slot(rows, NUMBER_START) + 8 * (r + 1), load_i64(frame + NUMBER_END))
    store_i64(_slot(rows, STRING_FIRST) + 8 * (r + 1), load_i64(frame + STRING_END))
    store_u8(_slot(rows, STATUS) + r, MISFIT)
