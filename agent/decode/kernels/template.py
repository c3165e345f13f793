"""Template tier: rows that are spelled as others before them, decoded by learned automata.

A *template* is the spelling of a producer's events: a graph whose states are "the value at path p has
been read" and whose edges are a run of constant bytes with the kind of value that follows. Optional
fields, null and other variants are further edges of a state, tried in turn. Edges only lead forward
(`agent.decode.templates` sees to it), so no run through a template loops or meets a key twice.

Node, 64 bytes, one cache line: up to 32 constant bytes, then what follows them

    TEXT    uint8[32]   MASK  uint32, one bit for each constant byte
    NEXT    int32       node to go on with         OTHER  int32, node to try instead; -1 none
    LANE    int32       SIZE  uint8, constant bytes          STEP  uint8, of `values`, or:
    FLAGS   uint8       INSIDE  uint8, 1: the bytes begin inside of a key       STATE  uint32, hash of the state
    OPERAND  uint64                                ANY  a value that nobody reads, LANE levels deep at most,
                                                   that begins with the byte OPERAND (0: any)
                                                   ONWARD  more constant bytes   END  the record's end

NEXT and OTHER are byte offsets from the template's first node. The nodes of one edge share OTHER.

Which template? The one that fitted last; a fetch has few producers. When it fails, the place of the
failure tells templates apart: behind the value at path p, instead of what was expected, there stood w,
say a key. A small table keyed by (p, w) remembers which template fitted the last time that happened; if
that one fails too, it does so further on, and its own (p, w) is looked up. Only when the table knows
nothing all others are tried, most used first; where that keeps failing, it is done more and more rarely.

Bounds: at every node at <= end, so that constants are compared with at most end + 32, and values are
parsed within the bounds of `values`.
"""

from __future__ import annotations

import numpy as np

from agent.decode.kernels.hashing import keyed_hash
from agent.decode.kernels.simd import different32, quotes32
from agent.decode.kernels.skip import skip_value
from agent.decode.kernels.values import (
    BEGIN,
    MARKS,
    MARKS_STRIDE,
    N_STEPS,
    NAME_KEY,
    RECORD_LIMIT,
    SKIP_STRING,
    STRING,
    begin_rows,
    close_row,
    leave_row,
    mark_record,
    open_row,
    past,
    take,
    take_exponent,
)
from agent.sketch.kernels.compile import inlined, kernel, outlined
from agent.sketch.kernels.memory import (
    load_i32,
    load_i64,
    load_u8,
    load_u32,
    load_u64,
    multiply_fold,
    store_i64,
    store_u64,
    trailing_zeros,
)

U = np.uint64
#: Masks of the first k bytes of a word, k = 0..8.
_FIRST = np.array([(1 << 8 * k) - 1 for k in range(9)], np.uint64)

# Byte offsets in a node.
TEXT, MASK, NEXT, OTHER, LANE, SIZE, STEP = 0, 32, 36, 40, 44, 48, 49
FLAGS, INSIDE, STATE, OPERAND = 50, 51, 52, 56
NODE_BYTES = 64
NODE_TEXT = 32
ANY, ONWARD, END = range(N_STEPS, N_STEPS + 3)

# Slots of TEMPLATES, int64[n, N_TEMPLATE_SLOTS]: address of the nodes; lanes; number of the shape; rows
# that fitted; the last row that it was tried for.
NODES, N_NUMBERS, N_STRINGS, SHAPE, USES, TRIED = range(6)
N_TEMPLATE_SLOTS = 8

# Slots of TABLE, int64[N_TABLE_SLOTS]. SKIP_TABLES, ZONE: what `skip_value` works with. ROWS: rows so far.
TEMPLATES, N_TEMPLATES, CURRENT, PLACES, FRAME, SKIP_TABLES, ZONE, ROWS, ATTEMPTS = range(9)
N_TABLE_SLOTS = 9

#: PLACES, uint64[N_LINES, WAYS, 2]: (place, answer); a place belongs to one line. Answer: template, or
#: SEARCHED + number of searches in vain << 32 + times seen since.
N_LINES, WAYS = 512, 4
PLACES_LINE = 16 * WAYS
SEARCHED = 1 << 31
_MAX_SEARCHES = 10
UNKNOWN, HOPELESS = -1, -2
_DIGIT, _VALUE = U(48), U(1 << 32)


@outlined
def _place(node, at, end, is_value, key):
    """What tells this failure from those of rows of other templates: the state, and what stood there. Never 0.

    node      address of the node that failed
    at        what was compared with it, at <= end; or the value, when is_value: its constants fitted
    key       address of the process's key: nobody outside can make places meet

    What stood there is the whole key, where a key was expected; else the bytes up to the next quote. Of
    values only the kind counts, so that there are not as many places as there are values.
    """
    w = U(0)
    if is_value:
        if not STRING <= load_u8(node + STEP) <= SKIP_STRING:
            w = U(load_u8(at))
            w = _DIGIT if _begins_number(w) else w
        w = w | _VALUE
    else:
        mask = different32(at, node) & U(load_u32(node + MASK))
        skip = trailing_zeros(mask) if mask != U(0) else load_u8(node + SIZE)
        # Quotes of the constants before the first difference: an odd number leads into a key.
        is_key = load_u8(node + INSIDE)
        start = at
        quotes = quotes32(node) & ((U(1) << U(skip)) - U(1))
        while quotes != U(0):
            is_key = 1 - is_key
            start = at + trailing_zeros(quotes) + 1
            quotes = quotes & (quotes - U(1))
        if is_key == 1:
            size = min(trailing_zeros(quotes32(start)), 32, max(end - start, 0))
            w = keyed_hash(start, size, key)
        else:
            at += skip
            left = max(min(end - at, 8), 0)
            w = load_u64(at) & _FIRST[left]
            size = trailing_zeros(quotes32(at))
            if size < 8:
                w = w & _FIRST[size + 1]
            w = _DIGIT if _begins_number(w) else w
    return multiply_fold(w ^ load_u64(key), U(load_u32(node + STATE)) ^ load_u64(key + 8)) | U(1)


@inlined
def _begins_number(w):
    first = w & U(0xFF)
    return (first >= U(48) and first <= U(57)) or first == U(45) or first == U(46)


@outlined
def _entry(places, place, is_needed):
    """Address of the entry of this place; without one 0, or, when it is needed, that of one to be given up."""
    line = places + PLACES_LINE * np.int64((place >> U(20)) & U(N_LINES - 1))
    for way in range(WAYS):
        entry = line + 16 * way
        found = load_u64(entry)
        if found == place or (found == U(0) and is_needed):
            return entry
    return line + 16 * np.int64(place >> U(62)) if is_needed else 0


@outlined
def _answer(places, place):
    """The template that fitted after a failure at this place; UNKNOWN; or HOPELESS: no search now."""
    entry = _entry(places, place, False)
    if entry == 0:
        return UNKNOWN
    answer = load_i64(entry + 8)
    if answer < SEARCHED:
        return answer
    # Searched in vain k times: again after 2^k rows like this.
    k = answer >> 32
    seen = (answer & (SEARCHED - 1)) + 1
    if seen >= 1 << k:
        return UNKNOWN
    store_i64(entry + 8, (k << 32) | SEARCHED | seen)
    return HOPELESS


@outlined
def _note(places, place, template):
    """After a failure at this place, this template fitted."""
    entry = _entry(places, place, True)
    store_u64(entry, place)
    store_i64(entry + 8, template)


@outlined
def _note_in_vain(places, place):
    """After a failure at this place, no template fitted."""
    entry = _entry(places, place, True)
    k = 0
    if load_u64(entry) == place and load_i64(entry + 8) >= SEARCHED:
        k = load_i64(entry + 8) >> 32
    store_u64(entry, place)
    store_i64(entry + 8, (min(k + 1, _MAX_SEARCHES) << 32) | SEARCHED)


@outlined
def _next_untried(templates, n_templates, row):
    """The first template that was not tried for this row yet; UNKNOWN: none."""
    for t in range(n_templates):
        if load_i64(templates + 8 * (N_TEMPLATE_SLOTS * t + TRIED)) != row:
            return t
    return UNKNOWN


@kernel("int64(int64, int64, int64, int64, int64, int64, int64)")
def decode_templates(table, rows, arena, position, length, n, misfits):
    """Decode n records of an arena into `rows` (`row_layout`), as far as a template fits.

    table     int64[N_TABLE_SLOTS]; the templates' counts of use are written
    arena     address of the text, 64 readable bytes at both ends
    position  int64[n], of each record in the arena     length  int64[n]; below 0: tombstone
    misfits   int64[n]; written: which records fit no template

    All as addresses. Returns the number of misfits.
    """
    templates = load_i64(table + 8 * TEMPLATES)
    n_templates = load_i64(table + 8 * N_TEMPLATES)
    current = load_i64(table + 8 * CURRENT)
    places = load_i64(table + 8 * PLACES)
    frame = load_i64(table + 8 * FRAME)
    skip_tables, zone = load_i64(table + 8 * SKIP_TABLES), load_i64(table + 8 * ZONE)
    limit, key = load_i64(frame + RECORD_LIMIT), load_i64(frame + NAME_KEY)
    row = load_i64(table + 8 * ROWS)
    begin_rows(rows, frame, arena)
    stride = load_i64(frame + MARKS_STRIDE)
    marks = load_i64(frame + MARKS)
    other_marks = marks + 2 * stride
    if n > 0 and 0 <= load_i64(length) <= limit:
        mark_record(other_marks, stride, arena + load_i64(position), load_i64(length))
    attempts = 0
    n_misfits = 0
    place = U(0)
    first = U(0)
    for r in range(n):
        row += 1
        size = load_i64(length + 8 * r)
        begin = arena + load_i64(position + 8 * r)
        end = begin + size
        marks, other_marks = other_marks, marks
        store_i64(frame + BEGIN, begin)
        # One row ahead: what was just stored in words cannot be loaded across them at once.
        if r + 1 < n and 0 <= load_i64(length + 8 * r + 8) <= limit:
            mark_record(
                other_marks,
                stride,
                arena + load_i64(position + 8 * r + 8),
                load_i64(length + 8 * r + 8),
            )
        fits = False
        n_failures = 0
        is_search = False
        t = current if n_templates > 0 and 0 <= size <= limit else UNKNOWN
        while t >= 0:
            # ------------------------------------------------ one attempt
            template = templates + 8 * N_TEMPLATE_SLOTS * t
            nodes = load_i64(template + 8 * NODES)
            n_numbers = load_i64(template + 8 * N_NUMBERS)
            n_strings = load_i64(template + 8 * N_STRINGS)
            open_row(rows, frame, r, n_numbers, n_strings)
            flags = 0
            at = start = last_value = begin  # here; where the state began; where the last value did
            node = nodes
            last = 0  # the node of the last value
            value = begin
            is_value = False  # the constants fitted, the value behind them did not
            while True:
                if different32(at, node) & U(load_u32(node + MASK)):
                    other = load_i32(node + OTHER)
                    if other >= 0:
                        at = start
                        node = nodes + other
                        continue
                    stop = 0
                    if last != 0 and (load_u8(start) | 32) == 101:
                        # The last number has an exponent. Tried once, so that it ends.
                        stop = take_exponent(
                            load_u8(last + STEP),
                            last_value,
                            end,
                            load_i32(last + LANE),
                            load_u64(last + OPERAND),
                            frame,
                        )
                    if past(stop, end):
                        break
                    at = start = stop
                    node = nodes + load_i32(last + NEXT)
                    last = 0
                    continue
                step = load_u8(node + STEP)
                value = at + load_u8(node + SIZE)
                if step < ANY:
                    lane, operand = load_i32(node + LANE), load_u64(node + OPERAND)
                    stop = take(step, value, end, marks, lane, operand, frame)
                elif step == ANY:
                    stop = 0
                    if load_u64(node + OPERAND) in (U(0), U(load_u8(value))):
                        stop = skip_value(value, end, load_i32(node + LANE), zone, skip_tables)
                elif step == ONWARD and value <= end:
                    at = value
                    node = nodes + load_i32(node + NEXT)
                    continue
                elif step == END and value == end:
                    # The one look at the record's end that it needs: whatever ran past it is not at it.
                    fits = True
                    break
                else:
                    stop = 0
                if past(stop, end):
                    # `"a":` fits before `"a":null` does.
                    other = load_i32(node + OTHER)
                    if other < 0:
                        is_value = True
                        break
                    at = start
                    node = nodes + other
                    continue
                flags |= load_u8(node + FLAGS)
                last_value = value
                at = start = stop
                last = node
                node = nodes + load_i32(node + NEXT)
            if fits:
                shape = load_i64(template + 8 * SHAPE)
                close_row(rows, frame, r, n_numbers, n_strings, shape, flags)
                store_i64(template + 8 * USES, load_i64(template + 8 * USES) + 1)
                current = t
                if n_failures > 0:
                    _note(places, first, t)
                    _note(places, place, t)
                break
            # ------------------------------------------------ which one next
            attempts += 1
            n_failures += 1
            store_i64(template + 8 * TRIED, row)
            t = UNKNOWN
            if not is_search and n_templates > 1:
                place = _place(node, value if is_value else at, end, is_value, key)
                if n_failures == 1:
                    first = place
                t = _answer(places, place)
                if t >= 0 and load_i64(templates + 8 * (N_TEMPLATE_SLOTS * t + TRIED)) == row:
                    t = UNKNOWN
                is_search = t == UNKNOWN
            if is_search:
                t = _next_untried(templates, n_templates, row)
                if t == UNKNOWN:
                    _note_in_vain(places, place)
        if not fits:
            leave_row(rows, frame, r)
            store_i64(misfits + 8 * n_misfits, r)
            n_misfits += 1
    store_i64(table + 8 * CURRENT, current)
    store_i64(table + 8 * ROWS, row)
    store_i64(table + 8 * ATTEMPTS, load_i64(table + 8 * ATTEMPTS) + attempts)
    return n_misfits
