"""Windows made without an agent: columns of numbers to the counts that a sealed profile would hold.

The same buckets and scales as the agent's sketches (a test compares them), made by numpy, so that a
hundred thousand windows fit in minutes. For the largest, bucket counts are drawn, not values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.judge.counted import Counted, CountedColumn
from agent.judge.sketch_counts import Numbers, Texts, bucket_of
from agent.sketch.hash import merge_hash
from agent.sketch.kernels import layout
from agent.types import Column, Kind, Role

Floats = NDArray[np.float64]


def column(name: str) -> Column:
    return Column(Role.FEATURE, name)


def numbers_of(values: Floats) -> Numbers:
    """Finite values, |x| in 2^-64..2^64 or 0, as the agent's histogram."""
    positive, negative = values[values > 0], -values[values < 0]
    scale = layout.MAX_SCALE
    sides = []
    for side in (positive, negative):
        indices = np.ceil(np.log2(side) * 2.0**scale).astype(np.int64) - 1
        sides.append(indices)
    while any(len(i) and int(i.max()) - int(i.min()) >= layout.RING for i in sides):
        scale -= 1
        sides = [i >> 1 for i in sides]
    first, counts = [], []
    for indices in sides:
        first.append(int(indices.min()) if len(indices) else 0)
        counts.append(np.bincount(indices - first[-1]).astype(np.float64))
    return Numbers(
        len(values),
        0,
        int((values == 0).sum()),
        float(values.min(initial=np.inf)),
        float(values.max(initial=-np.inf)),
        scale,
        first[0],
        counts[0] if len(positive) else np.zeros(0),
        first[1],
        counts[1] if len(negative) else np.zeros(0),
    )


_HASHES: dict[str, int] = {}


def _hash(name: str) -> int:
    if name not in _HASHES:
        _HASHES[name] = merge_hash(name.encode())
    return _HASHES[name]


def texts_of(counts: Mapping[str, int]) -> Texts:
    """Texts with their exact counts; a set of the table keeps its eight most frequent."""
    hashed = np.zeros(layout.HASHED_BUCKETS)
    sets: list[list[tuple[int, str]]] = [[] for _ in range(layout.SETS)]
    for name, n in counts.items():
        if n:
            key = _hash(name)
            hashed[bucket_of(key)] += n
            sets[key & layout.SETS - 1].append((int(n), name))
    named: dict[int, float] = {}
    names = {}
    bounds = []
    for held in sets:
        held.sort(reverse=True)
        # What space-saving may have overestimated by is taken off every count of a full set.
        bound = float(held[layout.WAYS][0]) if len(held) > layout.WAYS else 0.0
        for n, name in held[: layout.WAYS]:
            named[_hash(name)], names[_hash(name)] = max(0.0, n - bound), name
        bounds.append(float(held[layout.WAYS - 1][0]) if bound else 0.0)
    return Texts(float(hashed.sum()), named, hashed, names, tuple(bounds))


def counted_of(table: Mapping[str, NDArray[Any]]) -> Counted:
    """Columns of equal length: floats (NaN is missing), booleans, or texts ("" is missing)."""
    rows = len(next(iter(table.values())))
    columns: dict[Column, CountedColumn] = {}
    for name, values in table.items():
        values = np.asarray(values)
        if values.dtype.kind in "US":
            texts, counts = np.unique(values, return_counts=True)
            held = dict(zip(texts.tolist(), counts.tolist(), strict=True))
            missing = held.pop("", 0)
            read = CountedColumn(
                Kind.CATEGORICAL,
                float(missing),
                texts=texts_of(held),
                distinct=float(len(held)),
            )
        elif values.dtype.kind == "b":
            read = CountedColumn(Kind.BOOLEAN, 0.0, numbers=numbers_of(values.astype(np.float64)))
        else:
            finite = values[np.isfinite(values)]
            read = CountedColumn(
                Kind.NUMERIC, float(rows - len(finite)), numbers=numbers_of(finite)
            )
        columns[column(name)] = read
    return Counted(rows, columns)


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """A distribution by its buckets, to draw a histogram of any number of rows from."""

    numbers: Numbers
    shares: Floats

    @classmethod
    def of(cls, values: Floats) -> Drawn:
        numbers = numbers_of(values)
        counts = np.concatenate((numbers.negative, [numbers.zeros], numbers.positive))
        return cls(numbers, counts / counts.sum())

    def draw(self, rng: np.random.Generator, rows: int) -> Numbers:
        """`rows` independent values."""
        like = self.numbers
        counts = rng.multinomial(rows, self.shares).astype(np.float64)
        n = len(like.negative)
        return Numbers(
            rows,
            0,
            int(counts[n]),
            like.low,
            like.high,
            like.scale,
            like.first_positive,
            counts[n + 1 :],
            like.first_negative,
            counts[:n],
        )


def shapes_of(table: Mapping[str, Floats]) -> dict[str, Drawn]:
    """Distributions of the numeric columns of a table."""
    return {
        name: Drawn.of(values[np.isfinite(values)])
        for name, values in table.items()
        if values.dtype.kind == "f"
    }


def drawn_windows(
    shapes: Mapping[str, Drawn],
) -> Callable[[np.random.Generator, int], Iterator[Counted]]:
    """Independent columns by their bucket counts: any number of rows for the same price."""

    def windows(rng: np.random.Generator, rows: int) -> Iterator[Counted]:
        while True:
            columns: dict[Column, CountedColumn] = {
                column(name): CountedColumn(Kind.NUMERIC, 0.0, numbers=shape.draw(rng, rows))
                for name, shape in shapes.items()
            }
            yield Counted(rows, columns)

    return windows
