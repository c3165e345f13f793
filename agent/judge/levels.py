"""One size of a history's blocks: what all cells together say of the noise of each.

Estimates of single cells are noisy, those of 60 together are not: each is shrunk toward the mean of its statistic
as far as noise explains their spread (empirical Bayes), and stated one error high, less what the detector's own
caution covers. Blocks in which a stream wanders repeat each other, and say less than their number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.judge.cells import CellKey, Statistic
from agent.judge.special import trigamma

Floats = NDArray[np.float64]
#: Windows over which evidence of a change adds up before it pages, and over which that of a level that wanders may.
HORIZON: Final = 4
LONG_HORIZON: Final = 64
#: Over the long one by how much the detector's kappa of .5 covers what repeats itself: a slow excursion feeds slope
#: 1 alone, where l^2 / 2 (2 - 1) = l kappa.
LASTING_COVERED: Final = 2.0
#: Error of phi that the detector's kappa of .5 covers: at slope 4, l^2 .15 / 2 = 1.2 of l kappa = 2.
_COVERED: Final = 0.15
#: Fewer groups of neighbours say nothing of how they repeat each other.
_MIN_GROUPS: Final = 8


class Level(msgspec.Struct):
    """All cells at one size: per cell its standardised deviations, one for each block that has it.

    values  loc, missing: float64[blocks], mean 0 and variance phi; shape: PSI over its expectation, mean phi;
            unseen: shares of rows
    df      degrees of freedom (shape)
    counts  values of each block
    smallest  expected hits or misses of a block, whichever are fewer (missing)
    """

    rows: float
    values: dict[CellKey, Floats]
    df: dict[CellKey, float]
    counts: dict[CellKey, Floats]
    smallest: dict[CellKey, float]


class Terms(NamedTuple):
    """One cell at one size: what it adds to phi in each block, and the variance of that by chance at phi 1."""

    values: Floats
    variance: float


def terms_of(level: Level, key: CellKey) -> Terms:
    values = level.values[key]
    match key.statistic:
        case Statistic.SHAPE | Statistic.CENTROID | Statistic.RFF:
            return Terms(values, 2.0 / level.df[key])
        case Statistic.UNSEEN:
            counts = values * level.counts[key]
            mean = float(counts.mean())
            return Terms((counts - mean) ** 2 / mean if mean else np.ones(len(counts)), 2.0)
        case _:
            return Terms(values**2, 2.0)


def distinct_of(terms: Sequence[Terms]) -> float:
    """How many cells of one statistic are worth together, 1 for cells that move as one: from how much
    their mean varies between the smallest blocks, of which there are most."""
    n = min(len(t.values) for t in terms)
    mean = np.mean([t.values[:n] for t in terms], axis=0)
    each = float(np.mean([t.values[:n].var() for t in terms]))
    together = float(mean.var())
    return min(float(len(terms)), max(1.0, each / together)) if together > 0.0 else 1.0


def phi_of(terms: Sequence[Terms], distinct: float) -> list[float]:
    """phi of each cell: shrunk, one error high less what is covered, at least 1.

    Blocks that repeat each other say less than as many that do not, by as much as their sums vary more.
    """
    estimates = np.array([float(t.values.mean()) for t in terms])
    noise = np.array(
        [
            t.variance / len(t.values) * max(1.0, e) ** 2
            for t, e in zip(terms, estimates.tolist(), strict=True)
        ]
    ) * _repeated([t.values for t in terms])
    mean = float(estimates.mean())
    between = max(0.0, float(estimates.var()) - float(noise.mean()))
    weight = between / (between + noise)
    shrunk = mean + weight * (estimates - mean)
    error = np.sqrt(weight * noise) + (1.0 - weight) * math.sqrt(float(noise.mean()) / distinct)
    high: list[float] = np.maximum(
        1.0, shrunk + error - _COVERED * np.maximum(1.0, shrunk)
    ).tolist()
    return high


def _groups(values: Floats, k: int) -> Floats:
    """k times the squared mean of each k neighbours, over the variance: 1 in the mean where none repeats another."""
    n = len(values) // k
    variance = float(values.var())
    if variance <= 0.0:
        return np.ones(n)
    means = (values - values.mean())[: n * k].reshape(n, k).mean(axis=1)
    found: Floats = k * means**2 / variance * n / (n - 1)
    return found


def _joined(n_blocks: int) -> list[int]:
    """Numbers of neighbours that are looked at together; a few groups say nothing."""
    return [k for k in (HORIZON, 4 * HORIZON, LONG_HORIZON) if n_blocks // k >= _MIN_GROUPS]


def _repeated(cells: Sequence[Floats]) -> float:
    """By how much the blocks of a size repeat each other, over all cells of a statistic; 1 where they do not."""
    sizes = _joined(min(len(values) for values in cells))
    return max([1.0, *(float(np.mean([_groups(v, k).mean() for v in cells])) for k in sizes)])


def repeats_of(level: Level, group: Sequence[CellKey], distinct: float) -> list[float]:
    """`CellNoise.repeats` of each cell at one size."""
    logs = [np.log(np.maximum(level.values[key], 1e-12)) for key in group]
    out = [1.0] * len(group)
    for k in _joined(min(len(values) for values in logs)):
        found = phi_of([Terms(_groups(values, k), 2.0) for values in logs], distinct)
        covered = 1.0 if k == HORIZON else LASTING_COVERED
        out = [max(a, b / covered) for a, b in zip(out, found, strict=True)]
    return out


def spread_of(level: Level, group: Sequence[CellKey]) -> list[float]:
    """Standard deviation of log phi between blocks beyond what sampling alone makes, pooled over cells."""
    excess = []
    for key in group:
        logs = np.log(np.maximum(level.values[key], 1e-12))
        excess.append(float(logs.var(ddof=1)) - trigamma(max(0.5, level.df[key] / 2.0)))
    n = min(len(level.values[key]) for key in group)
    noise = 2.0 / n * float(np.mean([trigamma(max(0.5, level.df[k] / 2.0)) for k in group])) ** 2
    mean = float(np.mean(excess))
    between = max(0.0, float(np.var(excess)) - noise)
    weight = between / (between + noise) if noise else 1.0
    return [math.sqrt(max(0.0, mean + weight * (e - mean))) for e in excess]


def unseen_rate(level: Level, key: CellKey) -> float:
    """Share of rows without precedent that blocks showed, three errors high."""
    if key not in level.values:
        return 0.0
    shares = level.values[key]
    return float(shares.mean() + 3.0 * shares.std() / math.sqrt(len(shares)))
