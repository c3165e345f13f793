"""Streams of normal scores, and the columns that are made of them.

A score becomes a value of one of eight kinds of column, always the same one for the same score; so dependence
between rows and between columns is made once, of normals, and every kind of column has it. Scores are rounded to
1 / 1024 and end at +-4.5: each kind's sketch bucket is then looked up, not worked out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.judge.counted import Counted
from benchmarks.verdicts.coded import Coding, Codings, coded

Array = NDArray[Any]
Table = dict[str, Array]
Generator = np.random.Generator
#: Windows float64[rows, columns] of normal scores, one after another, forever.
Draw = Callable[[Generator, int], Iterator[Array]]
LETTERS: Final = np.array([f"k{i}" for i in range(60)])
KINDS: Final = ("normal", "lognormal", "heavy", "zeros", "beta", "zipf", "flag", "gaps")
#: Share of rows in which a column with gaps has none.
GAPS: Final = 0.04
STEPS, MOST = 1024, 4.5
_CELLS: Final = round(2 * MOST * STEPS)


def values_of(kind: str, z: Array) -> Array:
    """The values of a column of that kind; `gaps` without its gaps."""
    match kind:
        case "normal":
            return np.asarray(50.0 + 10.0 * z)
        case "lognormal":
            return np.exp(2.0 * z)
        case "heavy":
            return np.sign(z) * np.expm1(np.abs(z)) * 3.0
        case "zeros":
            return np.where(z < 0.5, 0.0, np.exp(z))
        case "beta":
            return np.asarray(1.0 / (1.0 + np.exp(-2.0 * z)))
        case "zipf":
            return np.asarray(LETTERS[np.minimum(59, np.expm1(np.abs(z) * 1.6).astype(int))])
        case "flag":
            return np.asarray(z > 1.2)
        case _:
            return z


def names_of(n_features: int) -> list[str]:
    return [f"{KINDS[j % len(KINDS)]}{j}" for j in range(n_features)]


def features(z: Array, rng: Generator) -> Table:
    """Columns from scores, float64[rows, columns]."""
    table: Table = {}
    for j, name in enumerate(names_of(z.shape[1])):
        kind = KINDS[j % len(KINDS)]
        values = values_of(kind, z[:, j])
        if kind == "gaps":
            values = np.where(rng.random(len(z)) < GAPS, np.nan, values)
        table[name] = values
    return table


# ---------------------------------------------------------------- the same, counted


@dataclass(frozen=True, slots=True, eq=False)
class _Looked:
    """One kind: its coding, the code of each rounded score, and the share of rows of each code."""

    coding: Coding
    codes: Array
    shares: Array


@lru_cache(maxsize=1)
def _looked_up() -> dict[str, _Looked]:
    centres = (np.arange(_CELLS) + 0.5) / STEPS - MOST
    edges = np.arange(_CELLS + 1) / STEPS - MOST
    below = np.array([0.5 * math.erfc(-edge / math.sqrt(2.0)) for edge in edges])
    below[0], below[-1] = 0.0, 1.0
    masses = np.diff(below)
    found = {}
    for kind in KINDS:
        coding, codes = coded(values_of(kind, centres))
        shares: Array = np.bincount(codes, masses, coding.size)
        if kind == "gaps":
            shares = shares * (1.0 - GAPS)
            shares[-1] = GAPS
        found[kind] = _Looked(coding, codes, shares / shares.sum())
    return found


class Columns:
    """So many columns, to be counted from scores or drawn."""

    def __init__(self, n_features: int) -> None:
        looked, names = _looked_up(), names_of(n_features)
        kinds = [KINDS[j % len(KINDS)] for j in range(n_features)]
        self._looked = [looked[kind] for kind in kinds]
        self.codings = Codings(
            {name: own.coding for name, own in zip(names, self._looked, strict=True)}
        )
        self._table = np.concatenate([looked[kind].codes for kind in KINDS]).astype(np.int32)
        self._kind_at = np.array([KINDS.index(kind) * _CELLS for kind in kinds], np.int32)
        self._gaps = np.flatnonzero([kind == "gaps" for kind in kinds])
        self._missing = self.codings.offsets[1:] - 1

    def codes(self, z: Array, rng: Generator) -> Array:
        """int32[rows, columns] of scores, past each column's offset."""
        cells = ((z + MOST) * STEPS).astype(np.int32)
        np.clip(cells, 0, _CELLS - 1, out=cells)
        cells += self._kind_at
        codes = self._table[cells] + self.codings.offsets[:-1]
        for j in self._gaps.tolist():
            codes[rng.random(len(z)) < GAPS, j] = self._missing[j]
        return codes

    def counted(self, z: Array, rng: Generator) -> Counted:
        return self.codings.counted(self.codes(z, rng))

    def drawn(self, rows: int, rng: Generator) -> Counted:
        """A window of so many independent rows of independent columns: the counts at once, at any size."""
        counts = np.concatenate([rng.multinomial(rows, own.shares) for own in self._looked])
        return self.codings.of_counts(rows, counts.astype(np.float64))


# ---------------------------------------------------------------- streams


def independent(n_features: int, correlation: float = 0.0) -> Draw:
    """Independent rows; columns share a factor."""

    def draw(rng: Generator, rows: int) -> Iterator[Array]:
        own, shared = np.sqrt(1.0 - correlation), np.sqrt(correlation)
        while True:
            z = rng.standard_normal((rows, n_features))
            yield own * z + shared * rng.standard_normal((rows, 1)) if correlation else z

    return draw


def sessions(n_features: int, length: int = 10) -> Draw:
    """Rows come in sessions that share half of their variance."""

    def draw(rng: Generator, rows: int) -> Iterator[Array]:
        while True:
            n = -(-rows // length)
            common = np.repeat(rng.standard_normal((n, n_features)), length, axis=0)[:rows]
            yield np.sqrt(0.5) * (common + rng.standard_normal((rows, n_features)))

    return draw


def minutes(n_features: int, per_minute: int = 100, share: float = 0.02) -> Draw:
    """A common state that lasts: autoregressive by the minute at .9, with some of the variance."""
    return _states(n_features, per_minute, ((0.9, share),))


def wander(n_features: int, per_minute: int = 100, lasting: int = 500) -> Draw:
    """Minutes at .3 with 2 % of the variance, and a level of 1 % that forgets itself over `lasting` minutes."""
    return _states(n_features, per_minute, ((0.3, 0.02), (math.exp(-1.0 / lasting), 0.01)))


def _states(n_features: int, per_minute: int, parts: tuple[tuple[float, float], ...]) -> Draw:
    """(coefficient, share of the variance) of autoregressive states that change by the minute."""

    def draw(rng: Generator, rows: int) -> Iterator[Array]:
        states = [rng.standard_normal(n_features) for _ in parts]
        done = 0  # rows of the minute that goes on
        while True:
            n = -(-(done + rows) // per_minute)
            common = np.zeros((n, n_features))
            for at, (kept, share) in enumerate(parts):
                noise = math.sqrt(1.0 - kept**2) * rng.standard_normal((n, n_features))
                state = states[at]
                for i in range(n):
                    if i or not done:
                        state = kept * state + noise[i]
                    common[i] += math.sqrt(share) * state
                states[at] = state
            rest = math.sqrt(1.0 - sum(share for _, share in parts))
            whole = np.repeat(common, per_minute, axis=0)[done : done + rows]
            yield whole + rest * rng.standard_normal((rows, n_features))
            done = (done + rows) % per_minute

    return draw


def days(n_features: int, rows_a_day: int = 24_000, share: float = 0.01) -> Draw:
    """A daily curve and an effect of each day, with some of the variance each."""

    def draw(rng: Generator, rows: int) -> Iterator[Array]:
        phase = rng.random(n_features) * 2 * np.pi
        at = 0
        day = rng.standard_normal(n_features)
        while True:
            hour = np.sqrt(2.0) * np.sin(2 * np.pi * (at + rows / 2) / rows_a_day + phase)
            own = rng.standard_normal((rows, n_features))
            yield np.sqrt(share) * (hour + day) + np.sqrt(1 - 2 * share) * own
            at += rows
            if at >= rows_a_day:
                at -= rows_a_day
                day = rng.standard_normal(n_features)

    return draw
