"""Changes of a JSON text, of bytes and of tokens: what makes a decoder wrong, or a producer strange.

A base record is cut into tokens once (`Base`) and changed many times, so a case costs a few
microseconds. Most changes leave JSON valid and its meaning near the base, where tiers accept and can
be wrong; the rest break it anywhere.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from decimal import Decimal

_TOKEN = re.compile(
    rb'"(?:[^"\\]|\\.)*"|-?[0-9][0-9.eE+-]*|true|false|null|[{}\[\],:]|[^\s]', re.DOTALL
)
_SPACE = (b" ", b"\n", b"\t", b"\r", b"  ", b" \n\t ", b" " * 40, b"\x0b", b"\x00", b"\xa0")
_STRUCTURE = b'0123456789.eE+-",:{}[] \\tfn\n/u'

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
    b"k" * 201, b"new", b"country", b"a\x00", b"a\\n", b"meta", b"out", b"in.put", b"input_tokens", b"__proto__", b"0",
)  # fmt: skip


#: Permutations of the digits.
_DIGITS = [
    bytes.maketrans(b"0123456789", bytes(order))
    for seed in range(256)
    for order in [random.Random(seed).sample(b"0123456789", 10)]
]


class Base:
    """A record cut into tokens.

    numbers, strings, values, keys   spans (start, end): numbers; string bodies; any scalar; key bodies
    pairs                            spans of `"key": scalar`
    gaps                             positions between two tokens
    """

    def __init__(self, text: bytes) -> None:
        self.text = text
        spans = [found.span() for found in _TOKEN.finditer(text)]
        self.gaps = [start for start, _ in spans] + [len(text)]
        self.numbers: list[tuple[int, int]] = []
        self.strings: list[tuple[int, int]] = []
        self.values: list[tuple[int, int]] = []
        self.keys: list[tuple[int, int]] = []
        self.pairs: list[tuple[int, int]] = []
        last = len(spans) - 1
        for i, (start, end) in enumerate(spans):
            first = text[start]
            if first == 34:
                if end - start < 2:  # a quote that nothing closes
                    continue
                if i < last and text[spans[i + 1][0]] == 58:
                    self.keys.append((start + 1, end - 1))
                    continue
                self.strings.append((start + 1, end - 1))
            elif first == 45 or 48 <= first <= 57:
                self.numbers.append((start, end))
            elif first not in b"tfn":
                continue
            self.values.append((start, end))
            if i >= 2 and text[spans[i - 1][0]] == 58:
                self.pairs.append((spans[i - 2][0], end))


Mutation = Callable[[random.Random, Base], bytes]


def _put(text: bytes, span: tuple[int, int], new: bytes) -> bytes:
    return text[: span[0]] + new + text[span[1] :]


def random_number(rng: random.Random) -> bytes:
    """Text of a number, JSON's or nearly: of all lengths, points and exponents."""
    dice = rng.randrange(10)
    if dice == 0:
        return rng.choice(NUMBERS)
    if dice == 8:
        return _near_half_way(rng)
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


def _near_half_way(rng: random.Random) -> bytes:
    """17 to 19 digits as near as they come to half way between two doubles: a bit too few decides wrong."""
    value = rng.uniform(0.5, 1.0) * 10.0 ** rng.choice((0, 0, 1, 2, 3, 6, 12, -3, -6))
    middle = (Decimal(value) + Decimal(math.nextafter(value, 2 * value))) / 2
    text = f"{middle:.{rng.randrange(17, 20)}g}" if rng.random() < 0.7 else f"{middle:.20f}"[:20]
    return text.encode()


def _renumber(rng: random.Random, base: Base) -> bytes:
    """The same event with other decimals: digits behind every point are swapped for others."""
    text = base.text
    digits = _DIGITS[int(rng.random() * len(_DIGITS))]
    pieces = []
    at = 0
    for start, end in base.numbers:
        point = text.find(b".", start, end)
        if point >= 0:
            pieces += (text[at:point], text[point:end].translate(digits))
            at = end
    return b"".join(pieces) + text[at:]


def _number(rng: random.Random, base: Base) -> bytes:
    return _put(base.text, rng.choice(base.numbers or base.values or [(0, 0)]), random_number(rng))


def _digit(rng: random.Random, base: Base) -> bytes:
    if not base.numbers:
        return _byte(rng, base)
    start, end = rng.choice(base.numbers)
    at = rng.randrange(start, end)
    return _put(
        base.text,
        (at, at + rng.randrange(2)),
        b"%d" % rng.randrange(10 ** rng.choice((1, 1, 1, 9))),
    )


def _string(rng: random.Random, base: Base) -> bytes:
    if not base.strings:
        return _byte(rng, base)
    start, end = rng.choice(base.strings)
    new = rng.choice(STRINGS)
    dice = rng.randrange(4)
    if dice == 0:  # in the middle
        at = rng.randrange(start, end + 1)
        return _put(base.text, (at, at), new)
    if dice == 1:
        new += rng.choice(STRINGS)
    return _put(base.text, (start, end), new)


def _value(rng: random.Random, base: Base) -> bytes:
    if not base.values:
        return _byte(rng, base)
    return _put(base.text, rng.choice(base.values), rng.choice(VALUES))


def _key(rng: random.Random, base: Base) -> bytes:
    if not base.keys:
        return _byte(rng, base)
    start, end = rng.choice(base.keys)
    if rng.random() < 0.5 and end > start:  # the same key, written otherwise
        at = rng.randrange(start, end)
        return _put(base.text, (at, at + 1), b"\\u%04x" % base.text[at])
    return _put(base.text, (start, end), rng.choice(KEYS))


def _delete_pair(rng: random.Random, base: Base) -> bytes:
    if not base.pairs:
        return _byte(rng, base)
    start, end = rng.choice(base.pairs)
    text = base.text
    comma = text.find(b",", end, end + 4)
    return _put(text, (start, comma + 1 if comma >= 0 else end), b"")


def _add_pair(rng: random.Random, base: Base) -> bytes:
    if not base.pairs:
        return _byte(rng, base)
    start, end = rng.choice(base.pairs)
    text = base.text
    dice = rng.randrange(4)
    if dice == 0:  # twice the same
        new = text[start:end]
    elif dice == 1:  # the same key, another value
        new = text[start : text.index(b":", start) + 1] + rng.choice(VALUES)
    elif dice == 2:
        new = b'"%b":%b' % (rng.choice(KEYS), rng.choice(VALUES))
    else:
        new = b'"%b":%b' % (rng.choice(KEYS), random_number(rng))
    where = rng.choice(base.pairs)[0]
    return _put(text, (where, where), new + b",")


def _swap_pairs(rng: random.Random, base: Base) -> bytes:
    if len(base.pairs) < 2:
        return _byte(rng, base)
    (a, b), (c, d) = sorted(rng.sample(base.pairs, 2))
    text = base.text
    return text[:a] + text[c:d] + text[b:c] + text[a:b] + text[d:]


def _copy_object(rng: random.Random, base: Base) -> bytes:
    """The whole of the record's inside once more: objects with the same key."""
    text = base.text
    at = text.rfind(b"}")
    start = text.find(b"{") + 1
    return text[:at] + b"," + text[start:] if 0 < start < at else text


def _space(rng: random.Random, base: Base) -> bytes:
    text = base.text
    for at in sorted(rng.sample(base.gaps, min(len(base.gaps), rng.randrange(1, 4))), reverse=True):
        text = text[:at] + rng.choice(_SPACE[: rng.choice((7, 7, 10))]) + text[at:]
    return text


def _byte(rng: random.Random, base: Base) -> bytes:
    text = bytearray(base.text)
    at = rng.randrange(len(text)) if text else 0
    dice = rng.randrange(6)
    if not text or dice == 0:
        text.insert(at, rng.choice(_STRUCTURE))
    elif dice == 1:
        text[at] = rng.randrange(256)
    elif dice == 2:
        text[at] = rng.choice(_STRUCTURE)
    elif dice == 3:
        text[at] ^= 1 << rng.randrange(8)
    elif dice == 4:
        del text[at : at + rng.choice((1, 1, 2, 5, 40))]
    else:
        n = rng.choice((1, 2, 8, 40))
        text[at:at] = text[at : at + n]
    return bytes(text)


def _truncate(rng: random.Random, base: Base) -> bytes:
    return base.text[: rng.randrange(len(base.text) + 1)]


def _tail(rng: random.Random, base: Base) -> bytes:
    return base.text + rng.choice((b"}", b" ", b"\n", b"x", b"\0", b"1", b",", b"{}", b" \t\r\n "))


def _same(rng: random.Random, base: Base) -> bytes:
    return base.text


_MUTATIONS: tuple[Mutation, ...] = (
    _same, *(_renumber,) * 6, *(_number,) * 5, *(_digit,) * 2, *(_string,) * 4, *(_value,) * 2, *(_key,) * 2, _delete_pair, *(_add_pair,) * 2,
    *(_swap_pairs,) * 2, *(_space,) * 2, *(_byte,) * 3, _truncate, _tail, _copy_object,
)  # fmt: skip


#: Those that hardly ever change which keys there are, so that compiled tiers take nearly all.
_GENTLE: tuple[Mutation, ...] = (
    *(_same,) * 3, *(_renumber,) * 8, *(_number,) * 5, *(_digit,) * 2, *(_string,) * 4, _byte, _truncate,
)  # fmt: skip


def mutate(rng: random.Random, base: Base, *, gentle: bool = False) -> bytes:
    """One case: the base with one change, now and then with some more."""
    mutations = _GENTLE if gentle else _MUTATIONS
    text = mutations[int(rng.random() * len(mutations))](rng, base)
    while rng.random() < 0.15:
        text = mutations[int(rng.random() * len(mutations))](rng, Base(text))
    return text
