"""Values as JSON text, sound or nearly so: fixed ones that decoders are known to get wrong, and random ones."""

from __future__ import annotations

import math
import random
from decimal import Decimal

NUMBERS: tuple[bytes, ...] = tuple(
    b"""0 -0 0.0 -0.0 00 01 -01 1. .5 -.5 0.5e 1e 1e+ 1e5 1E5 1e+5 1e-5 1e400 -1e400 1e-400 1e308 1e309
    1.7976931348623157e308 1.7976931348623159e308 5e-324 2e-324 3e-324 2.2250738585072014e-308
    2.2250738585072011e-308 4.9406564584124654e-324 9007199254740992 9007199254740993 9007199254740994
    9007199254740993.0 -9007199254740993 9223372036854775807 9223372036854775808 -9223372036854775808
    -9223372036854775809 18446744073709551615 18446744073709551616 9999999999999999999 999999999999999999
    10000000000000000000 100000000000000000000 123456789012345678901234567890 1234567890123456789012.5
    0.1 0.3 0.30000000000000004 0.1000000000000000055511151231257827 1.0000000000000002 1e22 1e23
    8.5 7.2057594037927933e16 72057594037927933 72057594037927945 9007199254740992.5 4503599627370497.5
    4503599627370496.5 1.00000000000000011102230246251565 0.000000000000000000000001
    0.0000000000000000000000001 1000000000000000000000000.0 --1 +1 1_0 0x1 NaN Infinity -Infinity 1e0005
    1e00000000000000000005 0e5 0e400 0.0e-400 -0e0 1e-0 1767225600123 1767225600 1767225600.123 1767225600123456
    1767225600123456789 99999999999 100000000000 -1 200 299 300 1.5e300 1e160 1e-160 1e-141 1e140""".split()
)
STRINGS: tuple[bytes, ...] = (
    b"", b"a", b"x" * 7, b"x" * 8, b"x" * 15, b"y" * 16, b"y" * 17, b"x" * 31, b"x" * 32, b"x" * 33, b"z" * 49,
    b"x" * 50, b"x" * 51, b"x" * 64, b"x" * 100, b"w" * 200, b"q" * 3000, b"\xc3\xa9t\xc3\xa9", b"\xff", b"\xed\xa0\x80",
    b"a\\nb", b"\\n", b"a\\u0000", b"\\u0041", b"\\u00e9", b"\\u20AC", b"\\ud83d\\ude00", b"\\uD83D", b"\\uDE00", b"\\ud83d\\u0041",
    b"\\ud83d\\ud83d", b"\\ud83dx", b"\\ude00\\ud83d", b"\\u12", b"\\u12G4", b"\\u", b"\\x41", b"\\/", b"\\\\", b"\\\"", b"\\b\\f\\r\\t",
    b"\\", b"\\'", b"\x1f", b"\x00", b"\x7f", b"a\nb", b"\xf0\x9f\x98\x80", b"\xf4\x90\x80\x80", b"\xf4\x8f\xbf\xbf", b"\xc0\x80",
    b"\xe0\x80\x80", b"\xe0\xa0\x80", b"\xef\xbf\xbf", b"\xe2\x82", b"\xe2\x82\xac", b"\x80", b"\xf8\x88\x80\x80\x80", b"a\"b",
    b"x" * 30 + b"\xc3\xa9", b"x" * 31 + b"\xc3\xa9", b"x" * 31 + b"\\n", b"x" * 32 + b"\\u0041" + b"x" * 40, b"x" * 31 + b"\xff",
    b"2026-01-01T00:00:00Z", b"2026-01-01T00:00:00.123456789+05:30", b"2026-02-30T00:00:00Z", b"2026-01-01 00:00:00",
    b"2026-01-01T24:00:00Z", b"2016-12-31T23:59:60Z", b"2026-01-01t00:00:00z", b"2026-01-01T00:00Z", b"20260101T000000Z",
    b"2026-01-01T00:00:00.5Z", b"2026-01-01T00:00:00,5Z", b"0001-01-01T00:00:00Z", b"9999-12-31T23:59:59.999-23:59",
    b"2026-01-01T00:00:00+0000", b"1767225600123", b"1e5", b"007", b"-5", b"7", b"200", b"ok", b"OK", b"true", b"null",
    b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", b"00-00000000000000000000000000000000-00f067aa0ba902b7-01",
    b"zz-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", b"01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
)  # fmt: skip
VALUES: tuple[bytes, ...] = (
    b"null", b"true", b"false", b"[]", b"{}", b"[1]", b"[1,2.5,-3e2]", b"[1,\"a\"]", b"[[1]]", b"[{}]", b"[null]", b"[1,]", b"[,1]",
    b"[1 2]", b"[1", b"{\"a\":1}", b"{\"a\":{\"b\":2}}", b"{\"a\":1,\"a\":2}", b"[{\"a\":1,\"a\":2}]", b"[{\"a\":1},{\"a\":2}]", b"{\"\":1}",
    b"{\"a\" : 1 }", b"[ 1 , 2 ]", b"[ ]", b"{ }", b"tru", b"truex", b"nul", b"nulll", b"False", b"[1e200,1e200]", b"[1e-200]", b"[0,-0.0]",
    b"[1e140,1e140]", b"[1e-140,0]", b"[9007199254740993,1]", b"[18446744073709551616]", b"[" * 20 + b"]" * 20, b"[" * 40 + b"]" * 40,
    b"{\"a\":" * 29 + b"1" + b"}" * 29, b"{\"a\":" * 34 + b"1" + b"}" * 34, b"[true]", b"[\"\\ud800\"]", b"[\"\xff\"]", b"7", b"\"7\"",
    b"\"text\"",
)  # fmt: skip
KEYS: tuple[bytes, ...] = (
    b"model", b"version", b"ts", b"id", b"features", b"prediction", b"usage", b"label", b"latency_ms", b"status", b"segment", b"tags",
    b"traceparent", b"tracestate", b"f0", b"x1", b"a", b"b", b"a.b", b"score", b"value", b"vector", b"ttft_ms", b"ttft", b"region", b"",
    b"m\\u006fdel", b"\\u0066eatures", b"gr\xc3\xb6\xc3\x9fe", b"\\ud83d\\ude00", b"\\ud83d", b"\xff", b"k" * 31, b"k" * 32, b"k" * 70,
    b"k" * 201, b"k" * 3000, b"new", b"country", b"a\x00", b"a\\n", b"meta", b"out", b"in.put", b"input_tokens", b"__proto__", b"0",
)  # fmt: skip

STATUSES: tuple[bytes, ...] = (
    b'"ok"', b'"OK"', b'"oK"', b'"Ok "', b'"o\xe2\x84\xaa"', b'"O\xe2\x84\xaa"', b'"o\xe2\x84\xab"', b'"success"', b'"SUCCESS"', b'"Succes\xc5\xbf"',
    b'"succesS"', b'"successs"', b'"sUcCeSs\\n"', b'""', b'"0"', b'"00"', b'"200"', b'"299"', b'"2a0"', b'"300"', b'"2000"', b'"20"', b'"1"', b"0", b"0.0",
    b"-0", b"200", b"299", b"299.5", b"200.0", b"199", b"300", b"2000", b"-200", b"1", b"true", b"false", b"null", b"[]", b"{}", b'"o\\u006b"',
    b'"\xd9\xa2\xd9\xa0\xd9\xa0"', b'"true"', b'"/:;"', b'"2/0"', b'"2:0"', b"20e1", b"2e2", b'"k\xc3\xb6"', b'"' + b"e" * 300 + b'"',
)  # fmt: skip


def random_number(rng: random.Random) -> bytes:
    """Text of a number, JSON's or nearly: of all lengths, points and exponents."""
    dice = rng.randrange(10)
    if dice == 0:
        return rng.choice(NUMBERS)
    if dice == 8:
        return _near_half_way(rng) if rng.random() < 0.6 else _half_way(rng)
    if dice == 1:
        return repr(rng.uniform(-1, 1) * 10.0 ** rng.randrange(-330, 309)).encode()
    if dice == 2:
        # half way between two doubles, or a digit beside it
        value = rng.getrandbits(53) | 1 << 52
        text = str(2 * value + 1)
        if rng.random() < 0.5:
            return text.encode()
        cut = rng.randrange(1, len(text))
        return f"{text[:cut]}.{text[cut:]}".encode()
    if dice == 3 and rng.random() < 0.5:  # integers that are taken as text, or nearly
        return rng.choice(INTEGERS)
    if dice == 3:
        return str(rng.getrandbits(rng.randrange(1, 70)) * rng.choice((1, -1))).encode()
    if dice == 9 and rng.random() < 0.5:
        return _near_half_way(rng)
    n = rng.randrange(1, 27) if dice < 6 else rng.randrange(14, 20)
    digits = str(rng.randrange(10**n)).zfill(n if rng.random() < 0.2 else 0)
    sign = "-" if rng.random() < 0.4 else ""
    if rng.random() < 0.8:
        cut = rng.randrange(len(digits) + 1)
        digits = f"{digits[:cut] or '0'}.{digits[cut:] or '0'}"
    if rng.random() < 0.15:
        digits += f"{rng.choice('eE')}{rng.choice(('', '-', '+'))}{rng.randrange(340)}"
    return (sign + digits).encode()


INTEGERS = tuple(
    b"""0 -0 00 -00 01 -01 1 -1 7 10 -10 007 200 0.0 -0.0 1.0 1e0 0e0 -0e0 999999999999999999 -999999999999999999
    1000000000000000000 -1000000000000000000 9223372036854775807 -9223372036854775808""".split()
)


def _half_way(rng: random.Random) -> bytes:
    """All digits of the middle between two doubles, at most 19 of them; or the last digit one off."""
    odd = rng.getrandbits(53) | 1 << 53 | 1
    text = f"{Decimal(odd) / (1 << rng.randrange(5)):f}"
    if rng.random() < 0.2:
        text = text[:-1] + rng.choice("123456789")
    return f"{rng.choice(('', '-'))}{text}".encode()


def _near_half_way(rng: random.Random) -> bytes:
    """17 to 19 digits as near as they come to half way between two doubles: a bit too few decides wrong."""
    value = rng.uniform(0.5, 1.0) * 10.0 ** rng.choice((0, 0, 1, 2, 3, 6, 12, -3, -6))
    middle = (Decimal(value) + Decimal(math.nextafter(value, 2 * value))) / 2
    text = f"{middle:.{rng.randrange(17, 20)}g}" if rng.random() < 0.7 else f"{middle:.20f}"[:20]
    return text.encode()


def random_string(rng: random.Random) -> bytes:
    """Body of a JSON string, sound or nearly so: runs of all lengths between characters of every kind.

    Parsers look at 32 bytes at a time, so what is odd stands at any place in them.
    """
    pieces = []
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        pieces.append(
            b"abcdefghijklmnop"[rng.randrange(15) :][:1] * rng.randrange(rng.choice((4, 40, 70)))
        )
        dice = rng.randrange(16)
        if dice < 4:
            pieces.append(_character(rng).encode("utf-8", "surrogatepass"))
        elif dice < 8:
            units = _character(rng).encode("utf-16-be", "surrogatepass")
            form = rng.choice(("\\u%04x", "\\u%04X"))
            pieces += [
                (form % int.from_bytes(units[i : i + 2], "big")).encode()
                for i in range(0, len(units), 2)
            ]
        elif dice < 10:
            pieces.append(
                b"\\"
                + bytes((rng.choice(b'"\\/bfnrtu') if rng.random() < 0.9 else rng.randrange(256),))
            )
        elif dice == 10:  # a character cut short, or with a byte that is not its own
            raw = bytearray(_character(rng).encode("utf-8", "surrogatepass"))
            at = rng.randrange(len(raw))
            if rng.random() < 0.5:
                del raw[at]
            else:
                raw[at] = rng.choice(
                    (0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, rng.randrange(256))
                )
            pieces.append(bytes(raw))
        elif dice == 11:
            pieces.append(
                bytes((rng.choice((0, 1, 9, 10, 13, 0x1F, 0x20, 0x22, 0x7F, 0x80, 0xFF)),))
            )
        elif dice == 12:  # two surrogates, or what is next to them, in the right order or not
            high, low = rng.choice(_HIGH), rng.choice(_LOW)
            pieces.append(f"\\u{high:04x}\\u{low:04X}".encode())
        elif dice == 13:  # what is next to the hexadecimal digits in ASCII
            text = bytearray(b"\\u%04x" % rng.randrange(0xD800))
            text[rng.randrange(2, 6)] = rng.choice(b"/:@Gg`")
            pieces.append(bytes(text))
        elif dice == 14:
            pieces.append(rng.choice(_UTF8_EDGES))
    return b"".join(pieces)


#: The first and last characters of each length in UTF-8, and the nearest bytes that are none.
_UTF8_EDGES = (
    b"\x80", b"\xbf", b"\xc1\xbf", b"\xc2\x80", b"\xc2\x7f", b"\xdf\xbf", b"\xdf\xc0", b"\xe0\x9f\xbf", b"\xe0\xa0\x80", b"\xec\xbf\xbf",
    b"\xed\x9f\xbf", b"\xed\xa0\x80", b"\xee\x80\x80", b"\xef\xbf\xbf", b"\xef\xbf\x7f", b"\xf0\x8f\xbf\xbf", b"\xf0\x90\x80\x80",
    b"\xf4\x8f\xbf\xbf", b"\xf4\x90\x80\x80", b"\xf4\x8f\xbf\xc0", b"\xf5\x80\x80\x80", b"\xf0\x90\x80", b"\xe1\x80", b"\xc3",
)  # fmt: skip
_EDGES = (
    0,
    0x7F,
    0x80,
    0x7FF,
    0x800,
    0xD7FF,
    0xD800,
    0xDBFF,
    0xDC00,
    0xDFFF,
    0xE000,
    0xFEFF,
    0xFFFF,
    0x10000,
    0x10FFFF,
)
_HIGH = (0xD7FF, 0xD800, 0xD801, 0xD83D, 0xDBFE, 0xDBFF, 0xDC00)
_LOW = (0xDBFF, 0xDC00, 0xDC01, 0xDE00, 0xDFFE, 0xDFFF, 0xE000, 0x0041)
_PLANES = (0x80, 0x800, 0xD800, 0xE000, 0x10000, 0x110000)


def _character(rng: random.Random) -> str:
    """A character of any length in UTF-8, a surrogate among them now and then."""
    if rng.random() < 0.2:
        return chr(rng.choice(_EDGES))
    return chr(rng.randrange(rng.choice(_PLANES)))


def random_time(rng: random.Random) -> bytes:
    """An event time as JSON: an epoch number in any unit, as text too, or RFC 3339, all nearly sound."""
    dice = rng.randrange(8)
    if dice < 3:
        number = random_epoch(rng)
        return number if dice else b'"%b"' % number
    year = rng.choice((2026, 2026, 2024, 2000, 1900, 1970, 1969, 1, 9999, rng.randrange(10_000)))
    month, day = rng.randrange(1, 13), rng.choice((1, 28, 29, 30, 31, rng.randrange(1, 29)))
    clock = f"{rng.randrange(24):02}:{rng.randrange(60):02}:{rng.randrange(60):02}"
    fraction = f".{rng.randrange(10**9):09}"[: rng.randrange(2, 11)] if rng.random() < 0.6 else ""
    zone = rng.choice(
        ("Z", "Z", "", f"{rng.choice('+-')}{rng.randrange(24):02}:{rng.randrange(60):02}")
    )
    text = bytearray(f"{year:04}-{month:02}-{day:02}T{clock}{fraction}{zone}".encode())
    if rng.random() < 0.3:
        at = rng.randrange(len(text))
        match rng.randrange(3):
            case 0:
                text[at] = rng.choice(b"0123456789:-+.,TtZz 6")
            case 1:
                del text[at]
            case _:
                text.insert(at, rng.choice(b"0123456789:-+.,TtZz "))
    return b'"%b"' % bytes(text)


def random_epoch(rng: random.Random) -> bytes:
    """An epoch number: of this year in any unit, or about where its unit changes, whole or not."""
    if rng.random() < 0.6:
        whole = 1_767_225_600_000_000_000 + rng.randrange(3_600_000_000_000)
        whole //= 10 ** rng.choice((0, 3, 6, 9))
    else:
        whole = 10 ** rng.choice((11, 14, 17, 18, 19)) + rng.randrange(-2, 3)
    if rng.random() < 0.15:
        whole = -whole
    decimals = f".{rng.randrange(10**7):07}"[: rng.randrange(2, 9)] if rng.random() < 0.4 else ""
    exponent = rng.choice(("e0", "E-3", "e3")) if rng.random() < 0.05 else ""
    return f"{whole}{decimals}{exponent}".encode()


def random_trace_parent(rng: random.Random) -> bytes:
    """A W3C trace context, or nearly: of any version, with something behind it or not."""
    trace = rng.getrandbits(128) if rng.random() < 0.9 else rng.choice((0, 1, 1 << 127))
    span = rng.getrandbits(64) if rng.random() < 0.9 else rng.choice((0, 1, 1 << 63))
    version = rng.choice((0, 0, 0, 1, 0xFE, 0xFF))
    text = bytearray(f"{version:02x}-{trace:032x}-{span:016x}-{rng.randrange(256):02x}".encode())
    if rng.random() < 0.3:
        text += rng.choice((b"-", b"-a", b"x", b" ", b"-" + b"0" * 40))
    if rng.random() < 0.3:
        text[rng.randrange(len(text))] = rng.choice(b"0fFg- G/:@`")
    if rng.random() < 0.1:
        del text[rng.randrange(len(text)) :]
    return bytes(text)


def nesting(rng: random.Random) -> bytes:
    """Objects and arrays in each other, about as deep as is allowed."""
    inner = rng.choice((b"1", b'"a"', b"null", b"{}", b"[]"))
    for _ in range(rng.choice((2, 3, 4, 5, 29, 30, 31, 32, 33, 64))):
        inner = b"[%b]" % inner if rng.random() < 0.4 else b'{"a":%b}' % inner
    return inner


def crowded(rng: random.Random) -> bytes:
    """An object of many keys, or a long array: more than tables have room for, with a key twice or not."""
    n = rng.choice((20, 100, 255, 256, 257, 300))
    if rng.random() < 0.4:
        return b"[%b]" % b",".join(b"%d.5" % i for i in range(n))
    keys = [b"n%d" % i for i in range(n)]
    if rng.random() < 0.5:
        keys[rng.randrange(n)] = rng.choice(keys)
    return b"{%b}" % b",".join(b'"%b":%d' % (key, i) for i, key in enumerate(keys))
