"""Changes of a JSON text, of bytes and of tokens: what makes a decoder wrong, or a producer strange.

A base record is cut into tokens once (`Base`) and changed many times, so a case costs a few
microseconds. Most changes leave JSON valid and its meaning near the base, where tiers accept and can
be wrong; the rest break it anywhere.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from tests.fuzz.spellings import (
    INTEGERS,
    KEYS,
    STATUSES,
    STRINGS,
    VALUES,
    crowded,
    nesting,
    random_number,
    random_string,
    random_time,
    random_trace_parent,
)

_TOKEN = re.compile(
    rb'"(?:[^"\\]|\\.)*"|-?[0-9][0-9.eE+-]*|true|false|null|[{}\[\],:]|[^\s]', re.DOTALL
)
_SPACE = (b" ", b"\n", b"\t", b"\r", b"  ", b" \n\t ", b" " * 40, b"\x0b", b"\x00", b"\xa0")
_STRUCTURE = b'0123456789.eE+-",:{}[] \\tfn\n/u'

#: Permutations of the digits.
_DIGITS = [
    bytes.maketrans(b"0123456789", bytes(order))
    for seed in range(256)
    for order in [random.Random(seed).sample(b"0123456789", 10)]
]


#: Keys of fields that have a form of their own, in all configurations; and of what is not read.
_KNOWN = (
    *(b"ts", b"at", b"status", b"traceparent", b"model", b"version", b"name", b"release"),
    *(b"tier", b"where", b"region", b"code", b"carrier", b"f1", b"x1", b"age"),
)
_UNREAD = (b"country", b"pod", b"cached", b"n")


class Base:
    """A record cut into tokens.

    numbers, strings, values, keys   spans (start, end): numbers; string bodies; any scalar; key bodies
    pairs                            spans of `"key": scalar`
    gaps                             positions between two tokens
    named                            spans of scalars, by the last key of that name as written
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
        self.named: dict[bytes, tuple[int, int]] = {}
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
                key, key_end = spans[i - 2]
                self.pairs.append((key, end))
                self.named[text[key + 1 : key_end - 1]] = (start, end)


Mutation = Callable[[random.Random, Base], bytes]


def _put(text: bytes, span: tuple[int, int], new: bytes) -> bytes:
    return text[: span[0]] + new + text[span[1] :]


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
    new = random_string(rng) if rng.random() < 0.5 else rng.choice(STRINGS)
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
    dice = rng.randrange(20)
    new = nesting(rng) if dice == 0 else crowded(rng) if dice == 1 else rng.choice(VALUES)
    return _put(base.text, rng.choice(base.values), new)


def _known(rng: random.Random, base: Base) -> bytes:
    """Another value of a field that has a form of its own: a time, a status, a name, a code."""
    found = [name for name in _KNOWN if name in base.named]
    if not found:
        return _value(rng, base)
    name = rng.choice(found)
    if name in (b"ts", b"at"):
        new = random_time(rng)
    elif name == b"status":
        new = rng.choice(STATUSES)
    elif name == b"traceparent":
        new = b'"%b"' % random_trace_parent(rng)
    elif rng.random() < 0.6:
        new = rng.choice(INTEGERS)
    else:
        new = rng.choice((b"true", b"false", b"null", b'"%b"' % random_string(rng)))
    return _put(base.text, base.named[name], new)


def _unread(rng: random.Random, base: Base) -> bytes:
    """Another value where nobody reads one: all of it is checked nevertheless."""
    found = [name for name in _UNREAD if name in base.named]
    if not found:
        return _value(rng, base)
    dice = rng.randrange(4)
    new = (nesting, crowded, random_number)[dice](rng) if dice < 3 else rng.choice(VALUES)
    return _put(base.text, base.named[rng.choice(found)], new)


def _key(rng: random.Random, base: Base) -> bytes:
    if not base.keys:
        return _byte(rng, base)
    start, end = rng.choice(base.keys)
    if rng.random() < 0.5 and end > start:  # the same key, written otherwise
        at = rng.randrange(start, end)
        return _put(base.text, (at, at + 1), b"\\u%04x" % base.text[at])
    new = random_string(rng) if rng.random() < 0.2 else rng.choice(KEYS)
    return _put(base.text, (start, end), new)


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
    dice = rng.randrange(5)
    if dice == 0:  # twice the same
        new = text[start:end]
    elif dice == 4:  # and once with an escape
        at = max(text.find(b'"', start + 1, end), start + 1)
        at = rng.randrange(start + 1, at) if at > start + 1 else at
        new = text[start:at] + b"\\u%04x" % text[at] + text[at + 1 : end]
    elif dice == 1:  # the same key, another value
        new = text[start : text.index(b":", start) + 1] + rng.choice(VALUES)
    elif dice == 2:
        new = b'"%b":%b' % (rng.choice(KEYS), rng.choice(VALUES))
    else:
        new = b'"%b":%b' % (rng.choice(KEYS), random_number(rng))
    # In the same object, or in any other.
    where = start if dice in (0, 1, 4) and rng.random() < 0.7 else rng.choice(base.pairs)[0]
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
    """Cut anywhere; or without what closes it, so that what comes behind it in memory goes on with it."""
    text = base.text
    dice = rng.random()
    if dice < 0.2:
        return text.rstrip(b"} \r\n")
    if dice < 0.5:
        return text[: -rng.randrange(1, 5)]
    return text[: rng.randrange(len(text) + 1)]


def _around(rng: random.Random, base: Base) -> bytes:
    """Something before or behind the whole of it; or another encoding."""
    text = base.text
    dice = rng.randrange(8)
    if dice == 0:
        return b"\xef\xbb\xbf" + text
    if dice == 1:
        return rng.choice((b" ", b"\r\n\t", b"\0", b"\x1e", b"\xa0", b",", b"{", b"[")) + text
    if dice == 2:
        encoding = rng.choice(("utf-16", "utf-16-le", "utf-32-be", "latin-1"))
        return text.decode("utf-8", "replace").encode(encoding, "replace")
    if dice == 3:
        return b"[" + text + b"]"
    return text + rng.choice((b"}", b" ", b"\n", b"x", b"\0", b"1", b",", b"{}", b" \t\r\n "))


def _same(rng: random.Random, base: Base) -> bytes:
    return base.text


_MUTATIONS: tuple[Mutation, ...] = (
    _same, *(_renumber,) * 6, *(_number,) * 5, *(_digit,) * 2, *(_string,) * 4, *(_value,) * 2, *(_key,) * 2, _delete_pair, *(_add_pair,) * 2,
    *(_swap_pairs,) * 2, *(_space,) * 2, *(_byte,) * 3, _truncate, _around, _copy_object, *(_known,) * 3, _unread,
)  # fmt: skip


#: Those that hardly ever change which keys there are, so that compiled tiers take nearly all.
_GENTLE: tuple[Mutation, ...] = (
    *(_same,) * 3, *(_renumber,) * 8, *(_number,) * 5, *(_digit,) * 2, *(_string,) * 4, *(_known,) * 3, _unread, _byte, _truncate,
)  # fmt: skip


def mutate(rng: random.Random, base: Base, *, gentle: bool = False) -> bytes:
    """One case: the base with one change, now and then with some more."""
    mutations = _GENTLE if gentle else _MUTATIONS
    text = mutations[int(rng.random() * len(mutations))](rng, base)
    while rng.random() < 0.06:
        text = mutations[int(rng.random() * len(mutations))](rng, Base(text))
    return text
