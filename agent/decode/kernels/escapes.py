"""Text with escapes: unescaped and checked as orjson would."""

from __future__ import annotations

from agent.decode.kernels.scan_layout import FOUND_TEXT
from agent.decode.kernels.simd import special32
from agent.decode.kernels.values import past, text_end
from agent.sketch.kernels.compile import inlined, outlined
from agent.sketch.kernels.memory import load_i64, load_u8, store_i64, store_u8


@inlined
def _hex4(at):
    """Four hexadecimal digits, or -1."""
    value = 0
    for k in range(4):
        c = load_u8(at + k)
        low = c | 32
        if 48 <= c <= 57:
            value = value * 16 + c - 48
        elif 97 <= low <= 102:
            value = value * 16 + low - 87
        else:
            return -1
    return value


@inlined
def _escaped(c):
    """The byte that backslash and `c` stand for, 0 when they stand for none."""
    if c == 34 or c == 92 or c == 47:
        return c
    if c == 110:
        return 10
    if c == 116:
        return 9
    if c == 114:
        return 13
    if c == 98:
        return 8
    if c == 102:
        return 12
    return 0


@outlined
def unescape(at, end, out, out_end):
    """Text from behind its opening quote up to its closing one, as UTF-8 to `out`.

    Returns (address of the closing quote, length); (0, 0) when it is not valid, does not end before
    `end`, or does not fit before `out_end`.
    """
    start = out
    while at < end and out + 4 <= out_end:
        c = load_u8(at)
        if c == 34:
            return at, out - start
        if c < 32:
            return 0, 0
        if c < 0x80 and c != 92:
            store_u8(out, c)
            out += 1
            at += 1
            continue
        if c != 92:
            size = utf8_size(at, c)
            if size == 0:
                return 0, 0
            for k in range(size):
                store_u8(out + k, load_u8(at + k))
            out += size
            at += size
            continue
        if at + 1 >= end:
            return 0, 0
        c = load_u8(at + 1)
        at += 2
        if c != 117:
            byte = _escaped(c)
            if byte == 0:
                return 0, 0
            store_u8(out, byte)
            out += 1
            continue
        code = _hex4(at)
        at += 4
        if code < 0 or 0xDC00 <= code <= 0xDFFF:
            return 0, 0
        if 0xD800 <= code <= 0xDBFF:
            if load_u8(at) != 92 or load_u8(at + 1) != 117:
                return 0, 0
            low = _hex4(at + 2)
            if low < 0xDC00 or low > 0xDFFF:
                return 0, 0
            code = 0x10000 + ((code - 0xD800) << 10) + low - 0xDC00
            at += 6
        if code < 0x80:
            store_u8(out, code)
            out += 1
        elif code < 0x800:
            store_u8(out, 0xC0 | code >> 6)
            store_u8(out + 1, 0x80 | (code & 63))
            out += 2
        elif code < 0x10000:
            store_u8(out, 0xE0 | code >> 12)
            store_u8(out + 1, 0x80 | (code >> 6 & 63))
            store_u8(out + 2, 0x80 | (code & 63))
            out += 3
        else:
            store_u8(out, 0xF0 | code >> 18)
            store_u8(out + 1, 0x80 | (code >> 12 & 63))
            store_u8(out + 2, 0x80 | (code >> 6 & 63))
            store_u8(out + 3, 0x80 | (code & 63))
            out += 4
    return 0, 0


@outlined
def utf8_size(at, c):
    """Bytes of the character at `at` whose first byte is c >= 0x80; 0 when it is not valid."""
    second = load_u8(at + 1)
    if second >> 6 != 2:
        return 0
    if 0xC2 <= c <= 0xDF:
        return 2
    if load_u8(at + 2) >> 6 != 2:
        return 0
    if c >> 4 == 14:
        # Overlong forms, surrogates.
        return 0 if (c == 0xE0 and second < 0xA0) or (c == 0xED and second >= 0xA0) else 3
    if c < 0xF0 or c > 0xF4 or load_u8(at + 3) >> 6 != 2:
        return 0
    return 0 if (c == 0xF0 and second < 0x90) or (c == 0xF4 and second >= 0x90) else 4


@outlined
def text_any(at, end, zone, scratch):
    """Any text from behind its opening quote: start and length to FOUND_TEXT; address of its closing quote, or 0.

    Text with escapes goes to the free part of the zone, which stays free: `keep_text` takes it.
    """
    stop = text_end(at, end, special32(at))
    if past(stop, end):
        out = load_i64(zone)
        stop, length = unescape(at, end, out, load_i64(zone + 8))
        if stop == 0:
            return 0
        store_i64(scratch + FOUND_TEXT, out)
        store_i64(scratch + FOUND_TEXT + 8, length)
        return stop
    store_i64(scratch + FOUND_TEXT, at)
    store_i64(scratch + FOUND_TEXT + 8, stop - at)
    return stop


@inlined
def keep_text(zone, scratch):
    """Make the zone begin behind the text at FOUND_TEXT, if it lies there."""
    if load_i64(scratch + FOUND_TEXT) == load_i64(zone):
        store_i64(zone, load_i64(zone) + load_i64(scratch + FOUND_TEXT + 8))
