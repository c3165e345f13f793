"""Columns as bucket numbers: a window is counted by one `bincount`, whatever its columns are.

A value's code says where the agent's sketch would count it; so a table that is coded once gives windows of any of
its rows for the price of a look-up. All windows of a table are at one scale: that of all its rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.judge.counted import Counted, CountedColumn
from agent.judge.sketch_counts import Numbers
from agent.sketch.kernels import layout
from agent.types import Kind
from benchmarks.verdicts.windows import column, numbers_of, texts_of

Array = NDArray[Any]
Codes = NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Coding:
    """What a column's codes stand for; the last of `size` codes is a missing value.

    like   numbers and booleans: negative buckets from the smallest |x| on, zero, positive buckets, in that order
    texts  categories: one code each
    """

    kind: Kind
    size: int
    like: Numbers | None = None
    texts: tuple[str, ...] = ()

    def counted(self, counts: Array) -> CountedColumn:
        """float64[size] counts of codes, as a sealed profile would have them."""
        missing = float(counts[-1])
        if self.like is None:
            held = {t: int(n) for t, n in zip(self.texts, counts[:-1].tolist(), strict=True) if n}
            return CountedColumn(
                self.kind, missing, texts=texts_of(held), distinct=float(len(held))
            )
        n = len(self.like.negative)
        numbers = replace(
            self.like,
            count=float(counts[:-1].sum()),
            zeros=float(counts[n]),
            negative=counts[:n],
            positive=counts[n + 1 : -1],
        )
        return CountedColumn(self.kind, missing, numbers=numbers)


def coded(values: Array) -> tuple[Coding, Codes]:
    """One column and its codes, int32[rows]. Floats (NaN is missing), booleans, or texts ("" is missing)."""
    if values.dtype.kind in "US":
        texts, codes = np.unique(values, return_inverse=True)
        known = [t for t in texts.tolist() if t]
        places = np.array([known.index(t) if t else len(known) for t in texts.tolist()], np.int32)
        return Coding(Kind.CATEGORICAL, len(known) + 1, texts=tuple(known)), places[codes]
    kind = Kind.BOOLEAN if values.dtype.kind == "b" else Kind.NUMERIC
    numbers = np.asarray(values, np.float64)
    is_held = np.isfinite(numbers)
    held = numbers[is_held]
    like = numbers_of(held)
    n, k = len(like.negative), len(like.positive)
    found = np.full(len(held), n, np.int32)  # zero
    for sign, first, to in ((-1.0, like.first_negative, 0), (1.0, like.first_positive, n + 1)):
        side = sign * held > 0
        found[side] = _buckets(sign * held[side], like.scale) - first + to
    codes = np.full(len(numbers), n + 1 + k, np.int32)
    codes[is_held] = found
    return Coding(kind, n + k + 2, like), codes.astype(np.int32)


def _buckets(values: Array, scale: int) -> Array:
    """The sketch's bucket of each value above 0."""
    finest = np.ceil(np.log2(values) * 2.0**layout.MAX_SCALE).astype(np.int64) - 1
    return finest >> (layout.MAX_SCALE - scale)


@dataclass(frozen=True, eq=False)
class Codings:
    """The codings of a table's columns, in order."""

    columns: Mapping[str, Coding]

    @cached_property
    def offsets(self) -> Codes:
        """int32[columns + 1]: the first code of each column when all are in one row of counts."""
        sizes = [coding.size for coding in self.columns.values()]
        return np.cumsum([0, *sizes]).astype(np.int32)

    def counted(self, codes: Codes) -> Counted:
        """int32[rows, columns], each column's codes past its offset, as a window."""
        counts = np.bincount(codes.ravel(), minlength=int(self.offsets[-1])).astype(np.float64)
        return self.of_counts(len(codes), counts)

    def of_counts(self, rows: int, counts: Array) -> Counted:
        at = self.offsets.tolist()
        return Counted(
            rows,
            {
                column(name): coding.counted(counts[low:high])
                for (name, coding), low, high in zip(self.columns.items(), at, at[1:], strict=False)
            },
        )


def coded_table(table: Mapping[str, Array]) -> tuple[Codings, Codes]:
    """All columns, and their codes past each column's offset, int32[rows, columns]."""
    found = [coded(np.asarray(values)) for values in table.values()]
    codings = Codings(dict(zip(table, (coding for coding, _ in found), strict=True)))
    return codings, _stacked(codings, [codes for _, codes in found])


def _stacked(codings: Codings, columns: Sequence[Codes]) -> Codes:
    return np.ascontiguousarray(np.stack(columns, axis=1) + codings.offsets[:-1], np.int32)
