"""Clouds of vectors compared: by their centre (`centroid`), and by waves (`rff`) that see what keeps its centre.

    centroid  |mean - mean'|^2 of directions, over what independent rows would make of it:
              (1 - |mean'|^2) (1/n + 1/n'), since directions have length 1
    rff       the same of the means of 256 waves (`sketch.waves`), the squared distance of two clouds by a
              Gaussian kernel (maximum mean discrepancy)

Both are logs of a ratio whose mean is 1 while nothing changes, like `shape`; how far it wanders, history says
(`calibration`). Elements of an embedding move together, so a ratio is worth few degrees of freedom: no more
than MOST_DF and MOST_WAVE_DF are claimed, and what history shows beyond is added.

A vector's length is not in here: it has the cells of a number. Vectors of another dimension than the
baseline's are the contract's to speak of.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agent.sketch.vector_sums import UNIT, VectorSums, from_bytes
from agent.sketch.waves import HEIGHT
from agent.types import Column, Json

Floats = NDArray[np.float64]
#: Fewer sampled directions are not compared.
MIN_DIRECTIONS: Final = 8
MOST_DF: Final = 4.0
MOST_WAVE_DF: Final = 8.0
#: A cloud that is one point, or nearly, has no spread to measure by.
_LEAST_SPREAD: Final = 1e-6


@dataclass(slots=True, eq=False)
class Cloud:
    """Sampled vectors of one dimension; counts may be fractions, of windows that count less.

    rows    vectors      n  those with a direction      sums  float64[d] of their directions; None: not kept
    table_id, n_waves, waves, power   of their waves; b"" for none
    """

    rows: float
    n: float
    sums: Floats | None
    table_id: bytes = b""
    n_waves: float = 0.0
    waves: Floats = field(default_factory=lambda: np.zeros(0))
    power: float = 0.0

    @classmethod
    def of(cls, sums: VectorSums) -> Cloud:
        """Directions and waves in units of 1."""
        found = cls(float(sums.rows), float(sums.rows - sums.undirected), None)
        if (directions := sums.sums) is not None:
            found.sums = directions / UNIT
        if (held := sums.waves) is not None:
            found.table_id, found.n_waves = held.table_id, float(held.rows)
            found.waves, found.power = held.sums / HEIGHT, held.power / HEIGHT**2
        return found

    def times(self, factor: float) -> Cloud:
        """The same over another number of rows."""
        return Cloud(
            self.rows * factor,
            self.n * factor,
            None if self.sums is None else self.sums * factor,
            self.table_id,
            self.n_waves * factor,
            self.waves * factor,
            self.power * factor,
        )

    def plus(self, other: Cloud) -> Cloud:
        """All rows of both; waves of two tables do not add: those of more rows stay."""
        sums = None if self.sums is None or other.sums is None else self.sums + other.sums
        found = Cloud(self.rows + other.rows, self.n + other.n, sums)
        waves = [part for part in (self, other) if part.table_id]
        if len({part.table_id for part in waves}) > 1:
            waves = [max(waves, key=lambda part: part.n_waves)]
        if waves:
            found.table_id = waves[0].table_id
            found.n_waves = sum(part.n_waves for part in waves)
            found.waves = np.sum([part.waves for part in waves], axis=0)
            found.power = sum(part.power for part in waves)
        return found


#: Clouds of one column by dimension.
Vectors = dict[int, Cloud]


def read_vectors(data: bytes) -> dict[Column, Vectors]:
    """Of a profile's `vectors`. Raises DecodeError."""
    found: dict[Column, Vectors] = {}
    for sums in from_bytes(data):
        found.setdefault(sums.column, {})[sums.dimension] = Cloud.of(sums)
    return found


def scaled_vectors(a: Vectors, factor: float) -> Vectors:
    return {dimension: cloud.times(factor) for dimension, cloud in a.items()}


def merged_vectors(a: Vectors, b: Vectors) -> Vectors:
    """All rows of both."""
    found = dict(a)
    for dimension, cloud in b.items():
        found[dimension] = found[dimension].plus(cloud) if dimension in found else cloud
    return found


def main_dimension(vectors: Vectors) -> int:
    """The dimension that most vectors have (ties: the smallest)."""
    return min(vectors, key=lambda dimension: (-vectors[dimension].rows, dimension))


def vectors_json(vectors: Vectors) -> Json:
    """For documents: the dimension that most have, how many were sampled, and the length of their mean direction
    (1: all point one way; null: not known)."""
    dimension = main_dimension(vectors)
    cloud = vectors[dimension]
    mean = cloud.sums / cloud.n if cloud.sums is not None and cloud.n else None
    return {
        "dimension": dimension,
        "others": sorted(d for d in vectors if d != dimension),
        "sampled": round(sum(c.rows for c in vectors.values())),
        "agreement": None if mean is None else math.sqrt(float(mean @ mean)),
        "waves": round(cloud.n_waves),
    }


class Moved(NamedTuple):
    """How far a cloud moved: `log_ratio` over what chance makes of it; `effect` in total variances, less that."""

    is_centre: bool
    log_ratio: float
    effect: float
    df: float
    by_chance: float  # expectation of the effect before chance is taken off


def moved(before: Vectors, now: Vectors) -> list[Moved]:
    """The distances that two sides have, in the baseline's dimension."""
    dimension = main_dimension(before)
    old, new = before[dimension], now.get(dimension)
    if new is None:
        return []
    found: list[Moved] = []
    if old.sums is not None and new.sums is not None and min(old.n, new.n) >= MIN_DIRECTIONS:
        centre = old.sums / old.n
        spread = 1.0 - float(centre @ centre)
        found += _moved(True, centre, new.sums / new.n, spread, old.n, new.n, dimension)
    same_waves = old.table_id and old.table_id == new.table_id
    if same_waves and min(old.n_waves, new.n_waves) >= MIN_DIRECTIONS:
        mean = old.waves / old.n_waves
        spread = old.power / old.n_waves - float(mean @ mean)
        after = new.waves / new.n_waves
        found += _moved(False, mean, after, spread, old.n_waves, new.n_waves, len(mean))
    return found


def _moved(
    is_centre: bool, before: Floats, now: Floats, spread: float, m: float, n: float, dimension: int
) -> Sequence[Moved]:
    if spread < _LEAST_SPREAD:
        return []
    change = now - before
    by_chance = 1.0 / n + 1.0 / m
    distance = float(change @ change) / spread
    ratio = math.log(max(distance / by_chance, 1e-12))
    effect = max(0.0, distance - by_chance)
    df = min(MOST_DF if is_centre else MOST_WAVE_DF, dimension)
    return [Moved(is_centre, ratio, effect, df, by_chance)]


def described(before: Vectors, now: Vectors) -> str:
    """What moved, in words; "" where there is nothing to compare."""
    dimension = main_dimension(before)
    old, new = before[dimension], now.get(dimension)
    if new is None:
        return f"vectors of {main_dimension(now)} elements now, of {dimension} before"
    if old.sums is None or new.sums is None or not old.n or not new.n:
        return ""
    a, b = old.sums / old.n, new.sums / new.n
    lengths = math.sqrt(float(a @ a) * float(b @ b))
    spread = math.sqrt(max(_LEAST_SPREAD, 1.0 - float(a @ a)))
    distance = math.sqrt(float((a - b) @ (a - b))) / spread
    angle = f", cosine {float(a @ b) / lengths:.2f} to the one before" if lengths else ""
    return (
        f"mean direction moved by {distance:.2g} of the spread{angle}; "
        f"agreement {math.sqrt(float(a @ a)):.2f} before, {math.sqrt(float(b @ b)):.2f} now"
    )
