"""What judging reads of a profile: for each column its kind, its missing rows and the counts of its sketch.

Read once, compared and merged often: adding counts takes microseconds where merging sketches takes a
tenth of a millisecond, since registers and moments play no part.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from agent.fold.profile import Profile, ProfileColumn
from agent.judge.sketch_counts import (
    Numbers,
    Texts,
    merged_numbers,
    merged_texts,
    read_numbers,
    read_texts,
    scaled_numbers,
    scaled_texts,
)
from agent.judge.vector_cells import Vectors, merged_vectors, read_vectors, scaled_vectors
from agent.types import Column, Kind

#: Kinds that are compared as numbers; a vector by its norm.
NUMBERS: Final = (Kind.NUMERIC, Kind.BOOLEAN, Kind.VECTOR)


@dataclass(slots=True, eq=False)
class CountedColumn:
    """missing  rows without a usable value: absent, null, NaN or infinite. Values of another type than the
             column's are the contract's to speak of
    distinct  estimated different texts; 0 where `texts` lists all
    vectors   where sampled vectors point, by dimension
    """

    kind: Kind | None
    missing: float
    numbers: Numbers | None = None
    texts: Texts | None = None
    distinct: float = 0.0
    vectors: Vectors | None = None

    def is_absent(self, rows: float) -> bool:
        """Whether none of so many rows has a usable value; counts that were scaled are rounded."""
        return self.missing >= rows * (1.0 - 1e-9)


@dataclass(slots=True, eq=False)
class Counted:
    rows: float
    columns: dict[Column, CountedColumn] = field(default_factory=dict)


def counted(profile: Profile) -> Counted:
    """Read all columns of a profile."""
    columns = {column: _column(profile, held) for column, held in profile.columns.items()}
    if profile.vectors:
        for column, vectors in read_vectors(profile.vectors).items():
            if column in columns and columns[column].kind is Kind.VECTOR:
                columns[column].vectors = vectors
    return Counted(profile.rows, columns)


def _column(profile: Profile, held: ProfileColumn) -> CountedColumn:
    read = CountedColumn(held.kind, float(profile.missing(held)))
    if not held.sketch:
        return read
    if held.kind in NUMBERS:
        read.numbers = read_numbers(held.sketch)
        read.missing += read.numbers.non_finite
    elif held.kind is Kind.CATEGORICAL:
        read.texts = read_texts(held.sketch)
        read.distinct = 0.0 if read.texts.is_exact else float(held.facts.distinct or 0)
    return read


def scaled(a: Counted, rows: float) -> Counted:
    """The same distributions over another number of rows; counts become fractions."""
    factor = rows / a.rows if a.rows else 0.0
    columns = {
        column: CountedColumn(
            held.kind,
            held.missing * factor,
            scaled_numbers(held.numbers, factor) if held.numbers is not None else None,
            scaled_texts(held.texts, factor) if held.texts is not None else None,
            held.distinct,
            scaled_vectors(held.vectors, factor) if held.vectors is not None else None,
        )
        for column, held in a.columns.items()
    }
    return Counted(rows, columns)


def merged(a: Counted, b: Counted) -> Counted:
    """All rows of both; a column that only one has is missing in the other's rows.

    Where kinds differ, the kind with more values stays, and the other's values count as missing.
    """
    columns = {}
    for column in [*a.columns, *(c for c in b.columns if c not in a.columns)]:
        x = a.columns.get(column) or CountedColumn(None, float(a.rows))
        y = b.columns.get(column) or CountedColumn(None, float(b.rows))
        columns[column] = _merged(x, a.rows, y, b.rows)
    return Counted(a.rows + b.rows, columns)


def _merged(x: CountedColumn, x_rows: float, y: CountedColumn, y_rows: float) -> CountedColumn:
    if x.kind is not None and y.kind is not None and x.kind is not y.kind:
        if y_rows - y.missing > x_rows - x.missing:
            y, x, x_rows, y_rows = x, y, y_rows, x_rows
        y = CountedColumn(None, y_rows)
    numbers = x.numbers or y.numbers
    if x.numbers is not None and y.numbers is not None:
        numbers = merged_numbers(x.numbers, y.numbers)
    texts = x.texts or y.texts
    if x.texts is not None and y.texts is not None:
        texts = merged_texts(x.texts, y.texts)
    vectors = x.vectors or y.vectors
    if x.vectors is not None and y.vectors is not None:
        vectors = merged_vectors(x.vectors, y.vectors)
    # Union bound of both sides' estimates, used only as an upper bound of texts seen once.
    return CountedColumn(
        x.kind or y.kind,
        x.missing + y.missing,
        numbers,
        texts,
        x.distinct + y.distinct,
        vectors,
    )
