"""Cells as compact bytes, and back into cells: the payload of `sketch.codec`, which describes the format.

A packed cell is as long as what the cell has seen: 200 bytes for one value, 3 to 5 kB for many. It is
merged as it lies; the bytes were packed here, or checked when they were read.
"""

from __future__ import annotations

import numpy as np

from agent.sketch.kernels.cardinality import merge_register, merge_registers
from agent.sketch.kernels.compile import inlined, outlined
from agent.sketch.kernels.heavy_hitters import merge_tables
from agent.sketch.kernels.histogram import (
    count_address,
    load_count,
    make_room,
    store_count,
)
from agent.sketch.kernels.layout import (
    COUNT,
    COUNTS,
    EXTENTS,
    FORM,
    HASHED,
    HASHED_BUCKETS,
    KEYS,
    LENGTH_MAX,
    LENGTH_MIN,
    LENGTH_SUM,
    MAX,
    MIN,
    NON_FINITE,
    NULLS,
    NUMERIC_REGISTERS,
    OVER_NEGATIVE,
    OVER_POSITIVE,
    OVERS,
    PRECISION,
    RING,
    SETS,
    SHIFT,
    STRING_CELL_BYTES,
    STRING_FORM,
    STRING_NULLS,
    STRING_REGISTERS,
    TEXT_SLOT,
    TEXTS,
    WAYS,
    ZEROS,
    N,
)
from agent.sketch.kernels.memory import (
    load_f64,
    load_i32,
    load_i64,
    load_u8,
    load_u16,
    load_u32,
    load_u64,
    store_i64,
    store_u8,
    store_u16,
    store_u32,
    store_u64,
    trailing_zeros,
)
from agent.sketch.kernels.moments import merge_moments, take_extremes
from agent.sketch.kernels.vectors import (
    any_bits,
    copy_bytes,
    fill_words,
    set_bits,
    set_u8,
    set_u16,
    set_u32,
    set_u64,
)

U = np.uint64
DENSE, SPARSE = 0, 1
PART = 4  #: uint8 form, uint8 bytes per count, uint16 entries
REGISTERS = 1 << PRECISION
BLOCK = 64  #: bytes looked at at once
WAY = 32  #: uint8 way, uint8 text kept, uint64 key, count, overestimate, uint32 length, uint16 kept length

#: A packed cell is never longer, whatever it has seen.
MAX_PACKED_NUMERIC = NUMERIC_REGISTERS + PART + REGISTERS + 2 * (PART + 8 * RING)
MAX_PACKED_STRING = (
    KEYS + 1 + SETS * WAYS * (WAY + TEXT_SLOT) + PART + 8 * HASHED_BUCKETS + PART + REGISTERS
)


@inlined
def write_part(out, form, width, entries):
    store_u8(out, form)
    store_u8(out + 1, width)
    store_u16(out + 2, entries)


@inlined
def count_width(largest):
    """Bytes that hold this count: 1, 2, 4 or 8."""
    if U(largest) < U(1 << 16):
        return 1 if U(largest) < U(1 << 8) else 2
    return 4 if U(largest) < U(1 << 32) else 8


@inlined
def store_width(address, width, count):
    if width == 1:
        store_u8(address, count)
    else:
        store_count(address, width, count)


@inlined
def load_width(address, width):
    return load_u8(address) if width == 1 else load_count(address, width)


@outlined
def pack_bytes(source, n, out):
    """n register bytes, a multiple of 64, as a part; returns the end of it."""
    used = 0
    for at in range(source, source + n, BLOCK):
        used += set_bits(set_u8(at))
    if used * 3 >= n:
        write_part(out, DENSE, 1, n)
        copy_bytes(out + PART, source, n)
        return out + PART + n
    write_part(out, SPARSE, 1, used)
    place, value = out + PART, out + PART + 2 * used
    for at in range(0, n, BLOCK):
        mask = set_u8(source + at)
        while mask:
            i = at + trailing_zeros(mask)
            store_u16(place, i)
            store_u8(value, load_u8(source + i))
            place += 2
            value += 1
            mask &= mask - U(1)
    return value


@inlined
def set_counts(address, size):
    """Bit mask of the counts of `size` bytes in a 64-byte block that are not zero."""
    if size == 2:
        return set_u16(address)
    return set_u32(address) if size == 4 else set_u64(address)


@inlined
def copy_counts(out, width, source, size, n):
    """n neighbouring counts, `width` bytes each instead of `size`; returns the end of them."""
    if width == size:
        copy_bytes(out, source, n * size)
    elif size == 2:  # young cells, most of all that are packed
        for i in range(n):
            store_u8(out + i, load_u16(source + 2 * i))
    else:
        for i in range(n):
            store_width(out + i * width, width, load_count(source + i * size, size))
    return out + n * width


@outlined
def pack_counts(base, length, first, n, size, out):
    """Counts first..first+n-1 of a ring of `length` at `base` as a part; returns the end of it.

    All others are zero, and the ring is a multiple of 64 bytes: whole blocks of it are looked at.
    """
    begin = first & (length - 1)
    straight = min(n, length - begin)  # the others are at the beginning of the ring
    low, high = begin * size & -BLOCK, (begin + straight) * size + BLOCK - 1 & -BLOCK
    if straight < n:
        low, high = 0, length * size
    used = 0
    for at in range(base + low, base + high, BLOCK):
        used += set_bits(set_counts(at, size))
    largest = any_bits(base + low, (high - low) // BLOCK)  # as long as the largest, in bits
    if size < 8:
        largest |= largest >> U(32)
        if size == 2:
            largest |= largest >> U(16)
        largest &= U((1 << 8 * size) - 1)
    width = count_width(largest)
    if used * (2 + width) >= n * width:
        write_part(out, DENSE, width, n)
        end = copy_counts(out + PART, width, base + begin * size, size, straight)
        return copy_counts(end, width, base, size, n - straight)
    write_part(out, SPARSE, width, used)
    place, value = out + PART, out + PART + 2 * used
    for part in range(2):
        low, high = (begin, begin + straight) if part == 0 else (0, n - straight)
        offset = -begin if part == 0 else straight
        step = BLOCK // size
        block = low & -step
        while block < high:
            mask = set_counts(base + block * size, size)
            if block < low:
                mask &= ~U(0) << U(low - block)
            if block + step > high:
                mask &= (U(1) << U(high - block)) - U(1)
            while mask:
                i = block + trailing_zeros(mask)
                store_u16(place, i + offset)
                store_width(value, width, load_count(base + i * size, size))
                place += 2
                value += width
                mask &= mask - U(1)
            block += step
    return value


@outlined
def pack_numeric(cell, size, out):
    """A numeric cell, `size` bytes a bucket count, at `out`; returns the length, at most MAX_PACKED_NUMERIC."""
    copy_bytes(out, cell, NUMERIC_REGISTERS)
    store_i64(out + FORM, 0)
    end = pack_bytes(cell + NUMERIC_REGISTERS, REGISTERS, out + NUMERIC_REGISTERS)
    for negative in range(2):
        extent = cell + EXTENTS + 8 * negative
        ring = count_address(cell, 0, negative, size)
        end = pack_counts(ring, RING, load_i32(extent), load_i32(extent + 4), size, end)
    return end - out


@outlined
def pack_string(cell, out):
    """A full string cell at `out`; returns the length, at most MAX_PACKED_STRING."""
    copy_bytes(out, cell, KEYS)
    store_i64(out + STRING_FORM, 0)
    end = out + KEYS + 1
    ways = 0
    for way in range(SETS * WAYS):
        word = load_i64(cell + COUNTS + 8 * way)
        if word == 0:
            continue
        ways += 1
        slot = cell + TEXTS + way * TEXT_SLOT
        kept = load_u32(slot + 4) if word & 1 else 0
        store_u8(end, way)
        store_u8(end + 1, word & 1)
        store_u64(end + 2, load_u64(cell + KEYS + 8 * way))
        store_i64(end + 10, word >> 1)
        store_i64(end + 18, load_i64(cell + OVERS + 8 * way))
        store_u32(end + 26, load_u32(slot) if word & 1 else 0)
        store_u16(end + 30, kept)
        copy_bytes(end + WAY, slot + 8, kept)
        end += WAY + kept
    store_u8(out + KEYS, ways)
    end = pack_counts(cell + HASHED, HASHED_BUCKETS, 0, HASHED_BUCKETS, 8, end)
    return pack_bytes(cell + STRING_REGISTERS, REGISTERS, end) - out


# ---------------------------------------------------------------- back into cells


@inlined
def part_bytes(part):
    """Length of a part."""
    width, entries = load_u8(part + 1), load_u16(part + 2)
    return PART + entries * (width + (2 if load_u8(part) == SPARSE else 0))


@outlined
def merge_packed_registers(registers, part):
    """Unite the registers of a part into `registers`, in place."""
    entries = load_u16(part + 2)
    if load_u8(part) == DENSE:
        merge_registers(registers, part + PART, entries)
        return
    values = part + PART + 2 * entries
    for i in range(entries):
        merge_register(registers + load_u16(part + PART + 2 * i), load_u8(values + i))


@outlined
def merge_packed_counts(base, mask, part, low, steps, size):
    """Add the counts of a part: entry i goes to bucket (low + i) >> steps of a ring at `base`, in place."""
    width, entries = load_u8(part + 1), load_u16(part + 2)
    if load_u8(part) == DENSE:
        at = part + PART
        for i in range(low, low + entries):
            p = base + ((i >> steps) & mask) * size
            store_count(p, size, load_count(p, size) + load_width(at, width))
            at += width
        return
    at = part + PART + 2 * entries
    for i in range(entries):
        k = low + load_u16(part + PART + 2 * i)
        p = base + ((k >> steps) & mask) * size
        store_count(p, size, load_count(p, size) + load_width(at, width))
        at += width


@inlined
def finite_values(cell):
    """Of a cell, or of a packed one: they begin alike."""
    return load_i64(cell + N) + load_i64(cell + OVER_POSITIVE) + load_i64(cell + OVER_NEGATIVE)


@outlined
def merge_packed_numeric(cell, packed, size):
    """Add a packed cell to a cell with both signs and `size` bytes a bucket count, in place."""
    if finite_values(packed):
        first = finite_values(cell) == 0
        take_extremes(cell, load_f64(packed + MIN), first)
        take_extremes(cell, load_f64(packed + MAX), False)
        shift = load_i32(packed + SHIFT)
        lp, sp = load_i32(packed + EXTENTS), load_i32(packed + EXTENTS + 4)
        ln, sn = load_i32(packed + EXTENTS + 8), load_i32(packed + EXTENTS + 12)
        steps = make_room(cell, lp, lp + sp - 1, ln, ln + sn - 1, shift, size) - shift
        merge_moments(cell, packed)
        part = packed + NUMERIC_REGISTERS
        merge_packed_registers(cell + NUMERIC_REGISTERS, part)
        for negative in range(2):
            part += part_bytes(part)
            ring = count_address(cell, 0, negative, size)
            merge_packed_counts(ring, RING - 1, part, ln if negative else lp, steps, size)
    for field in (NULLS, NON_FINITE, ZEROS, OVER_POSITIVE, OVER_NEGATIVE):
        store_i64(cell + field, load_i64(cell + field) + load_i64(packed + field))


@inlined
def unpack_way(way, cell):
    """Enter a packed way in a cell's table; returns the end of it."""
    place = load_u8(way)
    store_u64(cell + KEYS + 8 * place, load_u64(way + 2))
    store_i64(cell + COUNTS + 8 * place, load_i64(way + 10) << 1 | load_u8(way + 1))
    store_i64(cell + OVERS + 8 * place, load_i64(way + 18))
    slot = cell + TEXTS + place * TEXT_SLOT
    kept = load_u16(way + 30)
    store_u32(slot, load_u32(way + 26))
    store_u32(slot + 4, kept)
    copy_bytes(slot + 8, way + WAY, kept)
    return way + WAY + kept


@outlined
def merge_packed_string(cell, packed, scratch):
    """Add a packed cell to a full string cell, in place; scratch: uint8[STRING_CELL_BYTES], overwritten."""
    if load_i64(packed + COUNT):
        low, high = load_u32(packed + LENGTH_MIN), load_u32(packed + LENGTH_MAX)
        if load_i64(cell + COUNT) == 0 or low < load_u32(cell + LENGTH_MIN):
            store_u32(cell + LENGTH_MIN, low)
        if high > load_u32(cell + LENGTH_MAX):
            store_u32(cell + LENGTH_MAX, high)
        is_empty = load_i64(cell + COUNT) == 0
        table = cell if is_empty else scratch
        if not is_empty:
            fill_words(scratch, U(0), STRING_CELL_BYTES >> 3)
        way = packed + KEYS + 1
        for _ in range(load_u8(packed + KEYS)):
            way = unpack_way(way, table)
        if not is_empty:
            merge_tables(cell, scratch)
        merge_packed_counts(cell + HASHED, HASHED_BUCKETS - 1, way, 0, 0, 8)
        merge_packed_registers(cell + STRING_REGISTERS, way + part_bytes(way))
    for field in (COUNT, STRING_NULLS, LENGTH_SUM):
        store_i64(cell + field, load_i64(cell + field) + load_i64(packed + field))
