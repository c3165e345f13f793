"""The counts of a column's sketch, read straight from its compact bytes.

Judging needs buckets and counts, not registers and moments: skipping those takes 10 us where a whole view
takes 75. The bytes were checked when the profile was read or made.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.sketch.codec import payload_of
from agent.sketch.kernels import layout
from agent.sketch.kernels.pack import SPARSE

Counts = NDArray[np.float64]
_PART = struct.Struct("<BBH")  # form, bytes per count, entries
_WIDTHS: Final[dict[int, np.dtype[Any]]] = {w: np.dtype(f"<u{w}") for w in (1, 2, 4, 8)}
_FINITE = struct.Struct("<Q")
_EXTREMES = struct.Struct("<2d")
_AFTER_EXTREMES = struct.Struct("<5i")
_REST = struct.Struct("<5Q")


@dataclass(slots=True, eq=False)
class Numbers:
    """A numeric sketch's buckets. Bucket i of a sign holds |x| in (base^i, base^(i+1)].

    count, non_finite   finite values; NaN and infinite ones
    zeros               values with |x| <= 2^-64
    over                |x| > 2^64, in the last bucket
    low, high           exact extremes
    positive, negative  float64[...], counts of the buckets from first_positive, first_negative on
    """

    count: float
    non_finite: int
    zeros: float
    low: float
    high: float
    scale: int
    first_positive: int
    positive: Counts
    first_negative: int
    negative: Counts
    over: int = 0


def lowered(counts: Counts, first: int, steps: int) -> tuple[Counts, int]:
    """Bucket counts and their first index at a scale lower by `steps`: bucket i goes to i >> steps."""
    if not steps or not len(counts):
        return counts, first >> steps
    low = first >> steps
    places = ((np.arange(len(counts)) + first) >> steps) - low
    return np.bincount(places, counts).astype(np.float64), low


def scaled_numbers(a: Numbers, factor: float) -> Numbers:
    """The same distribution as so many times the values; counts become fractions."""
    return replace(
        a,
        count=a.count * factor,
        zeros=a.zeros * factor,
        positive=a.positive * factor,
        negative=a.negative * factor,
    )


def merged_numbers(a: Numbers, b: Numbers) -> Numbers:
    """Both inputs' values, at the coarser scale of the two."""
    if not a.count or not b.count:
        full, other = (b, a) if not a.count else (a, b)
        return replace(full, non_finite=full.non_finite + other.non_finite)
    scale = min(a.scale, b.scale)
    positive, first_positive = _added(a, b, scale, is_negative=False)
    negative, first_negative = _added(a, b, scale, is_negative=True)
    return Numbers(
        a.count + b.count,
        a.non_finite + b.non_finite,
        a.zeros + b.zeros,
        min(a.low, b.low),
        max(a.high, b.high),
        scale,
        first_positive,
        positive,
        first_negative,
        negative,
        a.over + b.over,
    )


def _added(a: Numbers, b: Numbers, scale: int, *, is_negative: bool) -> tuple[Counts, int]:
    sides = [
        lowered(
            x.negative if is_negative else x.positive,
            x.first_negative if is_negative else x.first_positive,
            x.scale - scale,
        )
        for x in (a, b)
    ]
    sides = [side for side in sides if len(side[0])]
    if not sides:
        return np.zeros(0), 0
    if len(sides) == 2 and sides[0][1] == sides[1][1] and len(sides[0][0]) == len(sides[1][0]):
        return sides[0][0] + sides[1][0], sides[0][1]
    low = min(first for _, first in sides)
    out = np.zeros(max(first + len(counts) for counts, first in sides) - low)
    for counts, first in sides:
        out[first - low : first - low + len(counts)] += counts
    return out, low


def read_numbers(sketch: bytes) -> Numbers:
    """The buckets of a compact numeric sketch (`sketch.codec`)."""
    body = payload_of(sketch)
    (finite,) = _FINITE.unpack_from(body, layout.N)
    low, high = _EXTREMES.unpack_from(body, layout.MIN)
    first_positive, n_positive, first_negative, n_negative, shift = _AFTER_EXTREMES.unpack_from(
        body, layout.EXTENTS
    )
    _, non_finite, zeros, over_positive, over_negative = _REST.unpack_from(body, layout.NULLS)
    at = _skipped(body, layout.NUMERIC_REGISTERS)
    positive, at = _counts(body, at, n_positive)
    negative, _ = _counts(body, at, n_negative)
    return Numbers(
        finite + over_positive + over_negative,
        non_finite,
        zeros,
        low,
        high,
        layout.MAX_SCALE - shift,
        first_positive,
        positive,
        first_negative,
        negative,
        over_positive + over_negative,
    )


def _skipped(body: bytes, at: int) -> int:
    form, width, entries = _PART.unpack_from(body, at)
    return int(at + _PART.size + entries * (width + 2 * (form == SPARSE)))


def _counts(body: bytes, at: int, n: int) -> tuple[Counts, int]:
    form, width, entries = _PART.unpack_from(body, at)
    at += _PART.size
    if form != SPARSE:
        values = np.frombuffer(body, _WIDTHS[width], entries, at).astype(np.float64)
        return values, at + entries * width
    places = np.frombuffer(body, "<u2", entries, at)
    out = np.zeros(n)
    out[places] = np.frombuffer(body, _WIDTHS[width], entries, at + 2 * entries)
    return out, at + entries * (2 + width)


#: `Texts.bounds` of a table that lists all.
NOT_FULL: Final = (0.0,) * layout.SETS


@dataclass(slots=True, eq=False)
class Texts:
    """A string sketch's counts.

    named   hash -> rows that it has at least: what the table counts less its overestimate
    hashed  float64[256], exact counts by `bucket_of(hash)`
    names   hash -> text, cut at 56 bytes; not every listed hash has one
    bounds  by set of the table: a text of that set that is not listed has at most so many rows; 0: all
            texts of the set are listed, with exact counts
    """

    count: float
    named: dict[int, float]
    hashed: Counts
    names: dict[int, str]
    bounds: tuple[float, ...] = NOT_FULL

    @property
    def is_exact(self) -> bool:
        """Whether every row's text is listed, so that `named` are the exact counts of all texts."""
        return not any(self.bounds)

    def bound(self, key: int) -> float:
        """Rows at most, of a hash that is not listed."""
        return self.bounds[set_of(key)]


def scaled_texts(a: Texts, factor: float) -> Texts:
    """The same distribution as so many times the texts; counts become fractions."""
    named = {key: n * factor for key, n in a.named.items()}
    return replace(
        a,
        count=a.count * factor,
        named=named,
        hashed=a.hashed * factor,
        bounds=tuple(bound * factor for bound in a.bounds),
    )


def merged_texts(a: Texts, b: Texts) -> Texts:
    """Both inputs' texts. Counts of listed texts stay lower bounds, and exact where both inputs are."""
    named = dict(a.named)
    for key, n in b.named.items():
        named[key] = named.get(key, 0) + n
    return Texts(
        a.count + b.count,
        named,
        a.hashed + b.hashed,
        a.names | b.names,
        tuple(x + y for x, y in zip(a.bounds, b.bounds, strict=True)),
    )


def bucket_of(key: int) -> int:
    """The hashed bucket of a hash: its bits 4 to 11."""
    return key >> 4 & layout.HASHED_BUCKETS - 1


def set_of(key: int) -> int:
    """The set of the table that a hash belongs to: its bits 0 to 3."""
    return key & layout.SETS - 1


_WAY = struct.Struct("<BBQQQIH")  # way, text kept, key, count, overestimate, full and kept length
_TEXT_COUNT = struct.Struct("<Q")


def read_texts(sketch: bytes) -> Texts:
    """The counts of a compact string sketch (`sketch.codec`)."""
    body = payload_of(sketch)
    (count,) = _TEXT_COUNT.unpack_from(body, layout.COUNT)
    at = layout.KEYS
    listed = body[at]
    at += 1
    named: dict[int, float] = {}
    names: dict[int, str] = {}
    smallest = [0.0] * layout.SETS
    ways = [0] * layout.SETS
    certain = 0
    for _ in range(listed):
        way, has_text, key, n, over, _, kept = _WAY.unpack_from(body, at)
        at += _WAY.size
        if has_text:
            names[key] = body[at : at + kept].decode("utf-8", "replace")
        at += kept
        named[key] = n - over
        certain += n - over
        group = way // layout.WAYS
        smallest[group] = min(smallest[group], n) if ways[group] else n
        ways[group] += 1
    hashed, _ = _counts(body, at, layout.HASHED_BUCKETS)
    bounds = tuple(low if n == layout.WAYS else 0.0 for low, n in zip(smallest, ways, strict=True))
    return Texts(count, named, hashed, names, bounds if certain < count else NOT_FULL)
