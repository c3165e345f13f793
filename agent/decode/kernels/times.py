"""Event times in kernels: what `agent.decode.times` says, for numbers and strict RFC 3339.

Strict: `2026-01-31T23:59:58`, then a fraction of 1 to 9 digits or none, then `Z`, `+hh:mm` or
`-hh:mm`. Everything else (numeric text, no offset, leap seconds, lower case, years before 1) is left
to the definition.
"""

from __future__ import annotations

import numpy as np

from agent.decode.kernels.row_layout import TIME_ABSENT
from agent.sketch.kernels.compile import inlined, outlined
from agent.sketch.kernels.memory import load_u8

_DAYS_BEFORE_MONTH = np.array([0, 0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334], np.int64)
_DAYS_IN_MONTH = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31], np.int64)
_EPOCH_DAY = 719_162  # of 1970-01-01, counted from 0001-01-01


@inlined
def epoch_ms_of_integer(value):
    """Epoch milliseconds of an int64 count of seconds, ms, us or ns, by its magnitude."""
    size = -value if value < 0 else value
    if size < 100_000_000_000:
        return value * 1000
    if size < 100_000_000_000_000:
        return value
    if size < 100_000_000_000_000_000:
        return value // 1000
    return value // 1_000_000


@outlined
def epoch_ms_of_float(value):
    """The same of a float64; TIME_ABSENT beyond what an event time may be."""
    size = abs(value)
    if size < 1e11:
        return np.int64(np.rint(value * 1000.0))
    if size < 1e14:
        return np.int64(np.floor(value))
    if not size < 9e18:  # beyond int64: the definition knows larger numbers
        return TIME_ABSENT
    if size < 1e17:
        return np.int64(np.floor(value)) // 1000
    return np.int64(np.floor(value)) // 1_000_000


@inlined
def _two_digits(address):
    """The number of two digits, or -1."""
    tens, ones = load_u8(address) - 48, load_u8(address + 1) - 48
    if tens < 0 or tens > 9 or ones < 0 or ones > 9:
        return -1
    return tens * 10 + ones


@outlined
def rfc3339_ms(address, length):
    """Epoch milliseconds of the text, rounded down; TIME_ABSENT when it is not strict RFC 3339.

    Reads 32 bytes at most.
    """
    if length < 20 or length > 35:
        return TIME_ABSENT
    century, years = _two_digits(address), _two_digits(address + 2)
    month, day = _two_digits(address + 5), _two_digits(address + 8)
    hour, minute = _two_digits(address + 11), _two_digits(address + 14)
    second = _two_digits(address + 17)
    if (
        load_u8(address + 4) != 45
        or load_u8(address + 7) != 45
        or load_u8(address + 10) != 84
        or load_u8(address + 13) != 58
        or load_u8(address + 16) != 58
        or century < 0
        or years < 0
        or century + years == 0
        or month < 1
        or month > 12
        or day < 1
        or hour < 0
        or hour > 23
        or minute < 0
        or minute > 59
        or second < 0
        or second > 59
    ):
        return TIME_ABSENT
    year = century * 100 + years
    is_leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    if day > _DAYS_IN_MONTH[month] + np.int64(is_leap and month == 2):
        return TIME_ABSENT

    at = 19
    ms = 0
    if load_u8(address + 19) == 46:
        weight = 100
        at = 20
        while at < length:
            digit = load_u8(address + at) - 48
            if digit < 0 or digit > 9:
                break
            ms += digit * weight
            weight //= 10
            at += 1
        if at == 20 or at > 29:
            return TIME_ABSENT
    zone = load_u8(address + at)
    offset = 0
    if zone == 90:
        at += 1
    elif zone == 43 or zone == 45:
        hours, minutes = _two_digits(address + at + 1), _two_digits(address + at + 4)
        if (
            hours < 0
            or hours > 23
            or minutes < 0
            or minutes > 59
            or load_u8(address + at + 3) != 58
        ):
            return TIME_ABSENT
        offset = (hours * 60 + minutes) * (1 if zone == 43 else -1)
        at += 6
    else:
        return TIME_ABSENT
    if at != length:
        return TIME_ABSENT

    past = year - 1
    days = past * 365 + past // 4 - past // 100 + past // 400 - _EPOCH_DAY
    days += _DAYS_BEFORE_MONTH[month] + day - 1 + np.int64(is_leap and month > 2)
    return (((days * 24 + hour) * 60 + minute - offset) * 60 + second) * 1000 + ms
