"""Sums that say which columns move together: a score for each value, and products of scores added up.

Before adding, a value becomes a *normal score* u: the normal quantile of its mid-rank in a baseline, clipped at
+-3.7. A numeric column has two scores, u and (|u| - .798) / .603, so that spreads which move together
show too; a boolean has one, a text one for each of its three most frequent categories. A `ScoreTable`
says how; it is made once for a baseline and has its id. `PairSums` adds (1, scores)(1, scores)' over rows.

Scores are whole sixteenths, so sums are whole numbers: adding is exact, in any order, on any machine, and a
union's sums are the sum of its parts'. The rounding makes correlations smaller by 3 in 10,000.

A row that lacks a value has score 0 there, as one in the middle has.

Bytes of sums: table id (8), rows as in the first entry, then the upper triangle of the matrix as whole
numbers of 1, 2, 4 or 8 bytes: what the largest needs. 3.4 kB for 20 numeric columns and 10,000 rows.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.errors import DecodeError
from agent.types import Column, Group, JsonType

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
#: Scores are stored as whole multiples of 1 / UNIT.
UNIT: Final = 16
#: Largest |u|, and mean and standard deviation of |u| of a normal.
MOST_SCORE: Final = 3.7
MEAN_ABS: Final = 0.798
SD_ABS: Final = 0.603
#: Largest score of all, in units: that of |u|.
MOST_UNITS: Final = round(UNIT * (MOST_SCORE - MEAN_ABS) / SD_ABS)
#: Scores of a table at most: its sums take 38 kB then.
MOST_SCORES: Final = 96
#: Cells of a numeric column to either side of zero at most.
MOST_CELLS: Final = 1024
_HEAD = struct.Struct("<8sHBB")
_WIDTHS: Final = {width: np.dtype(f"<i{width}") for width in (1, 2, 4, 8)}


class ScoredColumn(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """One column of a table: which cell a value falls into, and the scores of that cell.

    type    only values of this type are scored
    centre, shift, low   numbers: |x - centre|, rounded to 52 - `shift` bits behind the leading one, is
            (its 64 bits >> shift); less `low` that is the cell from 0 (near the centre) up, and its
            negative below. Cells are 1 / 2^(52 - shift) wide, relative, with round values in the middle
    keys    texts: hashes that have a cell; the cell behind theirs is all others'
    levels  int8[scores, cells] in units, cells ascending; a row without a value has none
    peaks   of each score its kurtosis in the baseline: 3 for a normal, 1/p for a rare category
    """

    column: Column
    type: JsonType
    centre: float
    shift: int
    low: int
    keys: list[int]
    levels: bytes
    peaks: list[float]

    @property
    def n_scores(self) -> int:
        return len(self.peaks)

    @property
    def cells(self) -> NDArray[np.int8]:
        """int8[scores, cells]."""
        return np.frombuffer(self.levels, np.int8).reshape(self.n_scores, -1)

    def problem(self) -> str:
        """What is wrong with it; "" when nothing is."""
        n = len(self.levels) // max(1, self.n_scores)
        if not 1 <= self.n_scores <= 4 or not n or n * self.n_scores != len(self.levels):
            return f"{len(self.levels)} levels of {self.n_scores} scores"
        if self.type is JsonType.STRING:
            sound = n == len(self.keys) + 1 and all(1 < key < 1 << 64 for key in self.keys)
        else:
            sound = n % 2 == 1 and n <= 2 * MOST_CELLS + 1 and 40 <= self.shift <= 52
            sound = sound and abs(self.low) < 1 << 24 and self.n_scores <= 2
        sound = sound and math.isfinite(self.centre) and all(1.0 <= p < 1e6 for p in self.peaks)
        if int(np.abs(self.cells.astype(np.int16)).max()) > MOST_UNITS:
            sound = False
        return "" if sound else "cells"


class ScoreTable(
    msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, dict=True
):
    """How the rows of one model are scored. One row in 2^sample_bits is taken.

    Scores are in this order: the first of each column of numbers, then their second, then those of texts.
    """

    columns: list[ScoredColumn]
    sample_bits: int = 0

    @cached_property
    def id(self) -> bytes:
        """8 bytes: tables that score alike have the same."""
        return hashlib.blake2b(self.to_bytes(), digest_size=8).digest()

    @cached_property
    def numbers(self) -> list[ScoredColumn]:
        return [c for c in self.columns if c.type is not JsonType.STRING]

    @cached_property
    def texts(self) -> list[ScoredColumn]:
        return [c for c in self.columns if c.type is JsonType.STRING]

    @cached_property
    def owners(self) -> list[ScoredColumn]:
        """The column of each score."""
        second = [c for c in self.numbers if c.n_scores > 1]
        return [*self.numbers, *second, *(c for c in self.texts for _ in c.peaks)]

    @cached_property
    def spreads(self) -> slice:
        """Which scores are spreads: the second ones."""
        first = len(self.numbers)
        return slice(first, first + sum(c.n_scores > 1 for c in self.numbers))

    @cached_property
    def peaks(self) -> Floats:
        """Kurtosis of each score, float64[n_scores]."""
        first = [c.peaks[0] for c in self.numbers]
        second = [c.peaks[1] for c in self.numbers if c.n_scores > 1]
        return np.array([*first, *second, *(peak for c in self.texts for peak in c.peaks)])

    @property
    def n_scores(self) -> int:
        return len(self.peaks)

    def to_bytes(self) -> bytes:
        return msgspec.msgpack.encode(self)

    @staticmethod
    def from_bytes(data: bytes) -> ScoreTable:
        """Raises DecodeError for bytes that are not a table."""
        try:
            read = msgspec.msgpack.decode(data, type=ScoreTable)
        except (msgspec.DecodeError, ValueError) as error:
            raise DecodeError(f"score table: {error}") from None
        for column in read.columns:
            if problem := column.problem():
                raise DecodeError(f"score table: {problem} of {column.column.name!r} do not match")
        if not 0 < read.n_scores <= MOST_SCORES or not 0 <= read.sample_bits <= 8:
            raise DecodeError(
                f"score table: {read.n_scores} scores of one row in 2^{read.sample_bits}"
            )
        return read


@dataclass(frozen=True, slots=True, eq=False)
class PairSums:
    """Sums of (1, scores)(1, scores)' over rows. `triangle`: int64[(d + 1)(d + 2) / 2], row by row."""

    table_id: bytes
    triangle: Ints

    @property
    def rows(self) -> int:
        """Rows added up: of a sample, where the table says so."""
        return int(self.triangle[0])

    @property
    def n_scores(self) -> int:
        return _order(len(self.triangle)) - 1

    def __add__(self, other: PairSums) -> PairSums:
        """All rows of both. Raises ValueError for sums of other scores."""
        if self.table_id != other.table_id or len(self.triangle) != len(other.triangle):
            raise ValueError(
                f"sums of table {other.table_id.hex()} do not add to those of {self.table_id.hex()}"
            )
        return PairSums(self.table_id, self.triangle + other.triangle)

    def __sub__(self, other: PairSums) -> PairSums:
        """The rows of `self` that are not in `other`, which is part of it. Raises ValueError."""
        return self + PairSums(other.table_id, -other.triangle)

    def moments(self) -> tuple[Floats, Floats]:
        """Mean float64[d] and covariance float64[d, d] of the scores, in units of 1 and 1. Needs rows."""
        n = self.n_scores + 1
        whole = np.zeros((n, n))
        whole[np.triu_indices(n)] = self.triangle
        whole /= self.rows
        mean = whole[0, 1:]
        upper = whole[1:, 1:] - np.triu(np.outer(mean, mean))
        covariance = upper + np.triu(upper, 1).T
        return mean / UNIT, covariance / UNIT**2

    def to_bytes(self) -> bytes:
        most = int(np.abs(self.triangle).max())
        width = next(w for w in (1, 2, 4, 8) if most < 1 << (8 * w - 1))
        head = _HEAD.pack(self.table_id, self.n_scores, width, 0)
        return head + self.triangle.astype(_WIDTHS[width]).tobytes()

    @staticmethod
    def from_bytes(data: bytes) -> PairSums:
        """Raises DecodeError for bytes that are not exactly what `to_bytes` wrote."""
        if len(data) < _HEAD.size:
            raise DecodeError(f"pair sums: {len(data)} bytes")
        table_id, n_scores, width, reserved = _HEAD.unpack_from(data)
        entries = (n_scores + 1) * (n_scores + 2) // 2
        if reserved or width not in _WIDTHS or not 0 < n_scores <= MOST_SCORES:
            raise DecodeError(f"pair sums: {n_scores} scores of {width} bytes")
        if len(data) != _HEAD.size + entries * width:
            raise DecodeError(f"pair sums: {len(data)} bytes for {n_scores} scores of {width}")
        triangle = np.frombuffer(data, _WIDTHS[width], entries, _HEAD.size).astype(np.int64)
        # Diagonals add squares: only a made-up one is negative, and only that has no rows.
        order = n_scores + 1
        diagonal = np.cumsum(np.r_[0, np.arange(order, 1, -1)])
        if triangle[0] <= 0 or triangle[diagonal].min() < 0:
            raise DecodeError("pair sums: a sum of squares is negative, or there are no rows")
        return PairSums(table_id, triangle)


@dataclass(slots=True)
class ScoredGroup(Group):
    """A group with its rows' pair sums (`PairSums.to_bytes`), b"" where its model has no score table, and its
    sampled vectors (`vector_sums.to_bytes`), b"" where it has none."""

    pairs: bytes = b""
    vectors: bytes = b""


def pairs_of(group: Group) -> bytes:
    """The group's pair sums, b"" for none."""
    return group.pairs if isinstance(group, ScoredGroup) else b""


def vectors_of(group: Group) -> bytes:
    """The sums of the group's sampled vectors, b"" for none."""
    return group.vectors if isinstance(group, ScoredGroup) else b""


def with_sums(group: Group, pairs: bytes, vectors: bytes) -> Group:
    """The group with these sums, if there are any; as it is elsewhere, and in bytes, without."""
    has_sums = bool(pairs or vectors)
    kind: Any = partial(ScoredGroup, pairs=pairs, vectors=vectors) if has_sums else Group
    made: Group = kind(
        group.stream,
        group.window,
        group.rows,
        group.errors,
        group.min_event_time_ms,
        group.max_event_time_ms,
        group.cells,
    )
    return made


def _order(entries: int) -> int:
    """n for n (n + 1) / 2 entries."""
    return int((8 * entries + 1) ** 0.5 - 1) // 2


def united_pairs(parts: Iterable[bytes]) -> bytes:
    """All rows of these sums (`PairSums.to_bytes`, or b"" for none) as one.

    Sums under different tables do not add: those of the table with most rows stay (ties: the earlier one's).
    """
    given = [part for part in parts if part]
    if len(given) < 2:
        return given[0] if given else b""
    found: dict[bytes, PairSums] = {}
    for part in given:
        sums = PairSums.from_bytes(part)
        known = found.get(sums.table_id)
        if known is None:
            found[sums.table_id] = sums
        elif known.n_scores == sums.n_scores:
            found[sums.table_id] = known + sums
    return max(found.values(), key=lambda sums: sums.rows).to_bytes()
