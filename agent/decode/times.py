"""Event times: epoch numbers of four units, numeric text, RFC 3339, and datetimes of tables.

The unit of an epoch number is read off its magnitude:

    |x| < 1e11          seconds        (until the year 5138)
    |x| < 1e14          milliseconds   (1e11 ms is March 1973)
    |x| < 1e17          microseconds
    otherwise           nanoseconds

so a millisecond count before March 1973 reads as seconds. Text without an offset is read as UTC.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, date, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: float() alone would also take "1_000", "inf" and spaces.
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_MILLISECOND = timedelta(milliseconds=1)
_SECONDS_BELOW = 1e11
_MS_BELOW = 1e14
_US_BELOW = 1e17
#: Event times stay well within int64 milliseconds, so that adding a skew cannot wrap around.
LIMIT_MS = 1 << 62


def event_time_ms(value: object) -> int | None:
    """Epoch milliseconds of `value`, rounded down below a millisecond; None when it is no time."""
    kind = type(value)
    if kind is int or kind is float:
        return _from_number(value)  # type: ignore[arg-type]
    if kind is str:
        return _from_text(value)  # type: ignore[arg-type]
    if isinstance(value, datetime):
        return _from_datetime(value)
    if isinstance(value, date):
        return _from_datetime(datetime(value.year, value.month, value.day))
    return None


def _from_number(value: int | float) -> int | None:
    size = -value if value < 0 else value
    if size < _SECONDS_BELOW:
        # A float second has 52 bits: 1767225600.123 * 1000 may be a hair below the millisecond.
        return value * 1000 if type(value) is int else round(value * 1000)
    if size < _MS_BELOW:
        return math.floor(value)
    if not size < math.inf:
        return None
    if size < _US_BELOW:
        return math.floor(value) // 1000
    ms = math.floor(value) // 1_000_000
    return ms if -LIMIT_MS <= ms <= LIMIT_MS else None


def _from_text(text: str) -> int | None:
    if len(text) > 64:
        return None
    if len(text) >= 19 and text[4] == "-" and text[10] in "Tt ":
        return _from_rfc3339(text)
    if not _NUMBER.fullmatch(text):
        return None
    return _from_number(int(text) if text.lstrip("-").isdigit() else float(text))


def _from_rfc3339(text: str) -> int | None:
    text = text.upper()  # RFC 3339 allows "t" and "z"
    leap = text[17:19] == "60"
    if leap:  # a leap second is the first moment of the next minute
        text = text[:17] + "59" + text[19:]
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    ms = _from_datetime(at)
    return ms + 1000 if leap else ms


def _from_datetime(at: datetime) -> int:
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return (at - _EPOCH) // _MILLISECOND
