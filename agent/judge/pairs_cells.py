"""The cell `pairs`: whether two columns still move together as they did.

For every pair of scores of different columns the correlation in the window is compared with that of the baseline,
in standard deviations that the baseline's own blocks showed (`pairs_noise`). The largest of them is the
cell; which pair it is is named. Correlations are of the window's own scores, so a column that shifts or
widens without losing its partners moves its own cells and not this one.

x is the normal deviate of min(1, K p), K pairs, p the tail of the largest: on the scale of other cells, whatever
the number of columns. (Log of the largest, as first thought of, needs a null of its own for every number of
pairs that a window's rows allow.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.errors import DecodeError
from agent.fold.profile import Profile
from agent.judge.cells import TOLERANCE, CellKey, CellValue, Statistic
from agent.judge.pairs_noise import PairBaseline, calibrate_pairs, correlations
from agent.judge.special import log_normal_tail, normal_quantile
from agent.sketch.pair_sums import PairSums, ScoreTable
from agent.types import Column, Role
from agent.verdict import shown_name

Floats = NDArray[np.float64]
#: A score that keeps less of its variance has no correlation to speak of; its column's own cells speak.
MIN_VARIANCE: Final = 0.1
#: Chance that chance in the baseline exceeds the margin of any pair.
_MARGIN_RISK: Final = 0.05
#: Pairs this unlikely stand behind the worst.
_LISTED_LOG_P: Final = math.log(1e-3)
_LEAST_Z: Final = -4.0
_MOST_BROKEN: Final = 5
_ABOUT_EQUAL: Final = 0.7


@dataclass(frozen=True, slots=True)
class BrokenPair:
    """Two columns whose correlation changed, that of values or of spreads (distances from the middle), and by how
    many deviations past tolerance and margin."""

    columns: tuple[Column, Column]
    spread: tuple[bool, bool]
    before: float
    now: float
    z: float

    @property
    def text(self) -> str:
        a, b = (
            f"{'spread of ' if is_spread else ''}{shown_name(column)}"
            for column, is_spread in zip(self.columns, self.spread, strict=True)
        )
        return f"{a} x {b}: correlation {self.before:.2f} -> {self.now:.2f}"


@dataclass(frozen=True, slots=True)
class PairsFound:
    """broken  pairs past chance, at least the worst of all; the worst first, but those with an output of the model
            last, since it follows its input
    culprit  the column that most of them have in common
    """

    value: CellValue
    broken: tuple[BrokenPair, ...]

    @property
    def culprit(self) -> Column:
        """Of two that are about equal the same one in every window."""
        sums: dict[Column, float] = {}
        for pair in self.broken:
            for column in pair.columns:
                sums[column] = sums.get(column, 0.0) + max(1e-9, pair.z) ** 2
        inputs = [c for c in sums if c.role is Role.FEATURE] or list(sums)
        most = max(sums[c] for c in inputs)
        return min(c for c in inputs if sums[c] >= _ABOUT_EQUAL * most)

    @property
    def detail(self) -> str:
        return "; ".join(pair.text for pair in self.broken[:3])


def measure_pairs(baseline: PairBaseline, window: Profile) -> PairsFound | None:
    """The cell of a window; None where it has no sums of this baseline's scores or too few rows of them, or the
    baseline too few blocks to say what is noise."""
    if not window.pairs or not baseline.levels:
        return None
    try:
        sums = PairSums.from_bytes(window.pairs)
    except DecodeError:  # a profile of this process is sound
        return None
    if sums.table_id != baseline.table.id or sums.n_scores != baseline.table.n_scores:
        return None
    return measured(baseline, sums, present_shares(baseline.table, window))


def paired(table: ScoreTable, profile: Profile, blocks: Sequence[Profile]) -> PairBaseline | None:
    """What `profile`'s rows do in pairs: from its blocks in order, which were sketched under the table. None
    where no block has sums of it."""
    sums = [PairSums.from_bytes(block.pairs) for block in blocks if block.pairs]
    sums = [block for block in sums if block.table_id == table.id]
    if not sums:
        return None
    whole = reduce(PairSums.__add__, sums)
    return calibrate_pairs(table, whole, present_shares(table, profile).tolist(), sums)


def present_shares(table: ScoreTable, profile: Profile) -> Floats:
    """float64[scores]: share of the rows that have a value of the score's column."""
    shares: Mapping[Column, float] = {
        scored.column: column.present[scored.type] / max(1, profile.rows)
        for scored in table.columns
        if (column := profile.columns.get(scored.column)) is not None
    }
    return np.array([shares.get(c.column, 0.0) for c in table.owners])


def measured(baseline: PairBaseline, sums: PairSums, present: Floats) -> PairsFound | None:
    """`measure_pairs` of sums; `present` as `present_shares` gives it."""
    n, m = float(sums.rows), float(baseline.rows)
    pairs = baseline.pairs
    now, variances = correlations(sums, pairs)
    usable = (
        pairs.normal(n)
        & (variances >= MIN_VARIANCE * baseline.variances).all(axis=0)
        & np.isfinite(now - baseline.before)
    )
    places = np.flatnonzero(usable)
    if not len(places):
        return None
    before, now = baseline.before[places], now[places]
    own = baseline.sd_at(n)[places] ** 2 / n
    theirs = baseline.sd_at(m)[places] ** 2 / m
    error = np.sqrt(own + theirs)
    # Missing rows, which score 0, take off up to this much of a correlation.
    ratio = np.clip(present, 0.01, 1.0) / np.clip(baseline.present, 0.01, 1.0)
    kept = np.sqrt(ratio[pairs.first] * ratio[pairs.second])[places]
    allowed = TOLERANCE[Statistic.PAIRS] + np.abs(before) * np.abs(1.0 - kept)
    log_k = math.log(len(places))
    reach = normal_quantile(math.log(_MARGIN_RISK / 2.0) - log_k)
    margin = reach * np.sqrt(theirs / (own + theirs))
    past = np.abs(now - before) / error - np.hypot(allowed / error, margin)
    z = past / baseline.stretch_at(n)
    order = np.argsort(-z, kind="stable")[:_MOST_BROKEN]
    broken: list[BrokenPair] = []
    for at in order.tolist():
        log_p = math.log(2.0) + log_k + log_normal_tail(float(z[at]))
        if broken and log_p > _LISTED_LOG_P:
            break
        i, j = int(pairs.first[places[at]]), int(pairs.second[places[at]])
        owners = baseline.table.owners
        columns = owners[i].column, owners[j].column
        if not any(set(columns) == set(pair.columns) for pair in broken):
            spread = bool(pairs.is_spread[i]), bool(pairs.is_spread[j])
            changed = float(before[at]), float(now[at]), float(z[at])
            broken.append(BrokenPair(columns, spread, *changed))
    worst = int(order[0])
    log_p = math.log(2.0) + log_k + log_normal_tail(float(z[worst]))
    x = max(_LEAST_Z, normal_quantile(log_p)) if log_p < -1e-9 else _LEAST_Z
    value = CellValue(
        CellKey(None, Statistic.PAIRS),
        x,
        n,
        m,
        float(now[worst] - before[worst]),
        float(len(places)),
        "upper",
        float(error[worst] * math.sqrt(n)),
        0.5 * math.erfc(x / 2**0.5),
    )
    broken.sort(key=lambda pair: any(c.role is not Role.FEATURE for c in pair.columns))
    return PairsFound(value, tuple(broken))
