"""Sums of sampled vectors: for each column and dimension where the vectors point, added up.

A vector (an array of numbers: an embedding) has a length and a direction. Its length, the Euclidean norm, goes
into the column's histogram, of every row. Its direction is the vector over its length, in whole units of
2^-15; directions of one row in 16 (`decode.vector_sample`) are added up here.

All is in whole numbers, so adding is exact in any order and on any machine, and a union's sums are the
sum of its parts'. Rounding moves a direction by less than 2^-16 an element. Directions have length 1,
so their total variance needs no sum of its own: it is 1 less the squared length of their mean.

Bytes of a group: msgpack of its `VectorSums`, by column and dimension. 1.6 kB for 768 dimensions and 100
sampled rows, 4 bytes an element at most until 65,536.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Annotated, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.errors import DecodeError
from agent.sketch.waves import WaveSums
from agent.types import Column

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
#: Length of a direction, in units.
UNIT: Final = 1 << 15
#: Longer vectors are counted, and not added up.
MOST_DIMENSIONS: Final = 4096
#: Dimensions that one column may have in a group; of more, those with fewest rows are only counted.
MOST_KINDS: Final = 4
#: In place of a dimension: vectors of dimensions past MOST_KINDS.
OTHERS: Final = -1
#: Elements are whole parts of the largest one, so that squares add up to less than 2^53.
_PARTS: Final = float(1 << 20)
_WIDTHS: Final = {width: np.dtype(f"<i{width}") for width in (1, 2, 4, 8)}


class VectorSums(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The sampled vectors of one column that have one dimension.

    rows    vectors     undirected  those of them that are all zero (or not finite), and point nowhere
    packed  int64[dimension], sum of directions in units, as whole numbers of 1, 2, 4 or 8 bytes; b"": not kept
    waves   sums of waves (`sketch.waves`), where the column's baseline says which
    """

    column: Column
    dimension: Annotated[int, msgspec.Meta(ge=OTHERS)]
    rows: Annotated[int, msgspec.Meta(ge=1)]
    undirected: Annotated[int, msgspec.Meta(ge=0)]
    packed: bytes = b""
    waves: WaveSums | None = None

    @property
    def sums(self) -> Ints | None:
        """int64[dimension] in units; None: only counted."""
        return unpacked(self.packed, self.dimension) if self.packed else None

    def __add__(self, other: VectorSums) -> VectorSums:
        """All rows of both, which are of one column and dimension."""
        mine, theirs = self.sums, other.sums
        both = b"" if mine is None or theirs is None else packed(mine + theirs)
        return VectorSums(
            self.column,
            self.dimension,
            self.rows + other.rows,
            self.undirected + other.undirected,
            both,
            _united_waves(self.waves, other.waves),
        )

    def problem(self) -> str:
        """What is wrong with it; "" when nothing is."""
        if self.undirected > self.rows:
            return f"{self.undirected} of {self.rows} vectors point nowhere"
        width, rest = divmod(len(self.packed), max(1, self.dimension))
        is_sound = not self.packed or (0 < self.dimension <= MOST_DIMENSIONS and not rest)
        if not is_sound or (self.packed and width not in _WIDTHS):
            return f"{len(self.packed)} bytes for {self.dimension} dimensions"
        return self.waves.problem() if self.waves is not None else ""


def directions(vectors: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Directions of vectors float64[n, d] in units, whole numbers float64[n, d], and bool[n] which have none.

    Those are rows of zeros, and rows with NaN or infinity; their direction is 0. Each element is worked out
    by itself, by operations that round alike everywhere.
    """
    largest = np.abs(vectors).max(axis=1, keepdims=True)
    is_blank = ~((largest > 0.0) & np.isfinite(largest))
    with np.errstate(invalid="ignore"):
        parts = np.rint(vectors / np.where(is_blank, 1.0, largest) * _PARTS)
    parts[is_blank[:, 0]] = 0.0
    length = np.sqrt(
        (parts * parts).sum(axis=1, keepdims=True)
    )  # of whole numbers: exact in any order
    return np.rint(parts / np.where(is_blank, 1.0, length) * UNIT), is_blank[:, 0]


def packed(sums: Ints) -> bytes:
    """As whole numbers of as many bytes as the largest needs."""
    most = int(np.abs(sums).max())
    width = next(w for w in (1, 2, 4, 8) if most < 1 << (8 * w - 1))
    return sums.astype(_WIDTHS[width]).tobytes()


def unpacked(data: bytes, n: int) -> Ints:
    """int64[n] of what `packed` wrote."""
    return np.frombuffer(data, _WIDTHS[len(data) // n]).astype(np.int64)


def to_bytes(parts: Iterable[VectorSums]) -> bytes:
    """Of one group, in order; b"" for none."""
    held = sorted(parts, key=lambda p: (p.column, p.dimension))
    return msgspec.msgpack.encode(held) if held else b""


def from_bytes(data: bytes) -> list[VectorSums]:
    """Raises DecodeError for bytes that `to_bytes` cannot have written."""
    if not data:
        return []
    try:
        read = msgspec.msgpack.decode(data, type=list[VectorSums])
    except (msgspec.DecodeError, ValueError) as error:
        raise DecodeError(f"vector sums: {error}") from None
    keys = [(part.column, part.dimension) for part in read]
    if any(b <= a for a, b in pairwise(keys)):
        raise DecodeError("vector sums: columns are not in order")
    for part in read:
        if problem := part.problem():
            raise DecodeError(f"vector sums: {problem} of {part.column.name!r}")
    return read


def united_vectors(parts: Iterable[bytes]) -> bytes:
    """All rows of these sums (`to_bytes`, or b"" for none) as one."""
    given = [part for part in parts if part]
    if len(given) < 2:
        return given[0] if given else b""
    found: dict[tuple[Column, int], VectorSums] = {}
    for part in given:
        for sums in from_bytes(part):
            key = sums.column, sums.dimension
            found[key] = found[key] + sums if key in found else sums
    return to_bytes(_bounded(found))


def _bounded(found: dict[tuple[Column, int], VectorSums]) -> list[VectorSums]:
    """MOST_KINDS dimensions of each column, those with most rows; the rest together, without their sums."""
    by_column: dict[Column, list[VectorSums]] = {}
    for sums in found.values():
        by_column.setdefault(sums.column, []).append(sums)
    kept: list[VectorSums] = []
    for column, held in by_column.items():
        ranked = sorted(held, key=lambda p: (p.dimension == OTHERS, -p.rows, p.dimension))
        kept += ranked[:MOST_KINDS]
        rest = ranked[MOST_KINDS:]
        if rest:
            rows, undirected = sum(p.rows for p in rest), sum(p.undirected for p in rest)
            kept.append(VectorSums(column, OTHERS, rows, undirected))
    return kept


def _united_waves(a: WaveSums | None, b: WaveSums | None) -> WaveSums | None:
    """Waves of two tables do not add: those with more rows stay (ties: the first)."""
    if a is None or b is None:
        return a if b is None else b
    if a.table_id == b.table_id:
        return a + b
    return a if a.rows >= b.rows else b
