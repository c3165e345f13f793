"""The value parsers of the compiled tiers, one value at a time: bytes in, Python values out."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numba import njit

from agent.decode.kernels import values
from agent.decode.kernels.digits import decimal_bits
from agent.decode.kernels.hashing import PROCESS_KEY, keyed_hash, merge_hash
from agent.decode.kernels.row_layout import TIME_ABSENT
from agent.decode.kernels.simd import nondigit32, special32
from agent.decode.kernels.times import epoch_ms_of_float, epoch_ms_of_integer, rfc3339_ms

_compiled: Any = njit(nogil=True, error_model="numpy")
#: What lies around every value: what a parser that runs on would take for a part of it.
BEHIND = (b",", b"}", b" ", b"\0", b'"', b"\xff", b"0", b"e", b".")
#: How many of them do not go on with a number.
N_APART = 6


@_compiled
def _number(at, end, out):
    return values.number(at, nondigit32(at), out)


@_compiled
def _with_exponent(at, end, out):
    return values.number_with_exponent(at, end, out)


@_compiled
def _text_end(at, end):
    return values.text_end(at, end, special32(at))


@_compiled
def _vector(at, end, out):
    return values.vector(at, end, out)


@_compiled
def _canonical_integer(at):
    return values.canonical_integer(at)


@_compiled
def _merge_hash(at, length):
    return merge_hash(at, length)


@_compiled
def _keyed_hash(at, length, key):
    return keyed_hash(at, length, key)


@_compiled
def _decimal_bits(digits, power):
    return decimal_bits(digits, power)


@_compiled
def _rfc3339(at, length):
    return rfc3339_ms(at, length)


@_compiled
def _epoch_of_integer(value):
    return epoch_ms_of_integer(value)


@_compiled
def _epoch_of_float(value):
    return epoch_ms_of_float(value)


class Laid:
    """A text with 64 bytes of `behind` around it. Keep it as long as its addresses are used."""

    def __init__(self, text: bytes, behind: bytes = b"\0") -> None:
        self.bytes = np.frombuffer(behind * 64 + text + behind * 64, np.uint8)
        self.at = self.bytes.ctypes.data + 64 * len(behind)
        self.end = self.at + len(text)


def _read(parse: Any, text: bytes, behind: bytes) -> tuple[int, float] | None:
    laid, out = Laid(text, behind), np.zeros(1)
    stop = parse(laid.at, laid.end, out.ctypes.data)
    if stop == 0 or stop > laid.end:
        return None
    return stop - laid.at, float(out[0])


def number(text: bytes, behind: bytes = b"\0") -> tuple[int, float] | None:
    """(bytes read, value) of the JSON number that the text begins with; None: a misfit."""
    found = _read(_number, text, behind)
    if found is not None and text[found[0] : found[0] + 1] in (b"e", b"E"):
        return _read(_with_exponent, text, behind)
    return found


def vector(text: bytes, behind: bytes = b"\0") -> tuple[int, float] | None:
    """(bytes read, norm) of an array without its opening bracket; None: a misfit."""
    return _read(_vector, text, behind)


def text_length(text: bytes, behind: bytes = b"\0") -> int | None:
    """Bytes before the quote that closes the text; None: a misfit."""
    laid = Laid(text, behind)
    stop = _text_end(laid.at, laid.end)
    return None if stop == 0 or stop >= laid.end else stop - laid.at


def integer_length(text: bytes, behind: bytes = b"\0") -> int | None:
    """Bytes of the canonical integer that the text begins with; None: there is none."""
    laid = Laid(text, behind)
    stop = _canonical_integer(laid.at)
    return None if stop == 0 else stop - laid.at


def merge_hash_of(text: bytes) -> int:
    laid = Laid(text, b"\xaa")
    return int(_merge_hash(laid.at, len(text)))


def keyed_hash_of(text: bytes, behind: bytes = b"\0") -> int:
    laid = Laid(text, behind)
    return int(_keyed_hash(laid.at, len(text), PROCESS_KEY.ctypes.data))


def decimal(digits: int, power: int) -> float | None:
    """digits * 10^power; None: out of range."""
    bits = int(_decimal_bits(np.uint64(digits), power))
    return None if bits >> 52 == 0xFFF else struct.unpack("<d", struct.pack("<Q", bits))[0]


def _time(ms: int) -> int | None:
    return None if ms == TIME_ABSENT else int(ms)


def time_of_text(text: bytes) -> int | None:
    laid = Laid(text, b"0")
    return _time(_rfc3339(laid.at, len(text)))


def time_of_integer(value: int) -> int | None:
    return _time(_epoch_of_integer(value))


def time_of_float(value: float) -> int | None:
    return _time(_epoch_of_float(value))
