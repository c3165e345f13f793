"""Distances between a window and its baseline, each with bounds that are certain.

Shown, never tested (`cells` says what is). What a sketch hides is bounded: rows inside one bucket are in
an order that nobody knows, and each value is known within the bucket's relative error.

    ks           sup |F - G| at bucket bounds is at most the true one; inside a bucket either CDF can lead by
                 no more than its rise there. Values nearer to zero than 2^-64 are zero: no interior
    wasserstein  each value moves by at most eps |x|, so the mean distance by eps (E|X| + E|Y|)
    auc          P(window > baseline) + ties / 2, unknown by half the pairs that share a bucket
    psi, js, hellinger   exact for the baseline's cells, hence lower bounds for any finer partition; from
                 counts nobody has an upper bound below the distance's own maximum (ln 2 and 1 of the last two), which
                 says nothing: none is given
    chi2         two-sample Pearson statistic over the cells of a categorical column
    unseen       share of rows whose text the baseline never held; a lower bound where it does not list all
    missing, true_rate, violations   shares of rows: exact

PSI is less its expectation under no change, (B-1) / N (Yurdakul and Naranjo 2020). js is in nats.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from agent.fold.profile import Profile, violations
from agent.judge.cells import MIN_VALUES, Prepared, psi_of
from agent.judge.counted import CountedColumn, counted
from agent.judge.numeric_cells import NumericBaseline, Sides
from agent.judge.sketch_counts import Counts, Numbers, Texts
from agent.judge.text_cells import TextBaseline
from agent.sketch.histogram import ZERO_THRESHOLD, relative_error, representatives
from agent.types import Kind
from agent.verdict import Drift


class Distance(NamedTuple):
    metric: str
    value: float
    low: float
    high: float
    unit: str = "1"


def drifts(baseline: Profile | Prepared, window: Profile) -> list[Drift]:
    """All distances of a window, in the baseline's order of columns.

    Columns that the window lacks or holds as another kind have none but `missing` and `violations`.
    """
    known = baseline if isinstance(baseline, Prepared) else Prepared(baseline)
    seen = counted(window)
    out: list[Drift] = []
    for column, before in known.columns.items():
        now = seen.columns.get(column)
        held = window.columns.get(column)
        found: list[Distance] = []
        if now is not None and now.kind is before.kind:
            if before.numbers is not None and now.numbers is not None:
                found += numeric_distances(before.at(now.numbers.scale), now.numbers, before.kind)
            elif before.texts is not None and now.texts is not None:
                found += text_distances(before.texts, now.texts)
        found += _rates(window.rows, now, violations(before.kind, held.present) if held else 0)
        out += [
            Drift(
                stream=window.stream,
                column=column,
                window_start_ms=window.start_ms,
                window_end_ms=window.end_ms,
                metric=d.metric,
                value=d.value,
                low=d.low,
                high=d.high,
                unit=d.unit,
            )
            for d in found
        ]
    return out


def _rates(rows: int, now: CountedColumn | None, wrong: int) -> Iterator[Distance]:
    missing = 1.0 if now is None else now.missing / rows if rows else math.nan
    yield Distance("missing", missing, missing, missing)
    if now is not None and rows:
        yield Distance("violations", wrong / rows, wrong / rows, wrong / rows)


# ---------------------------------------------------------------- numbers


def numeric_distances(
    base: NumericBaseline, window: Numbers, kind: Kind | None = Kind.NUMERIC
) -> list[Distance]:
    """Of a column that both sides hold as numbers, at the scale of `base`, which the window's is not below."""
    if window.count < MIN_VALUES:
        return []
    sides = Sides.of(window, base.sides.scale)
    if kind is Kind.BOOLEAN:
        share = 1.0 - sides.masses[sides.n_negative] / window.count
        return [Distance("true_rate", float(share), float(share), float(share))]
    p, q, values = _on_one_axis(base.sides, sides)
    is_zero = values == 0.0
    starts, shares = base.grouping(window.count)
    found = [
        _ks(p, q, is_zero),
        _wasserstein(p, q, values, base.sides.scale, base.has_over or window.over > 0),
        _auc(p, q, is_zero),
    ]
    if len(starts) > 1:
        counts = np.add.reduceat(base.placed(window), starts)
        found += _partitioned(shares * base.count, counts)
    return found


def _on_one_axis(a: Sides, b: Sides) -> tuple[Counts, Counts, Counts]:
    """Shares of both in the same buckets, and the buckets' values, ascending; float64[k] each."""

    def extent(first_a: int, n_a: int, first_b: int, n_b: int) -> tuple[int, int]:
        spans = [(f, f + n) for f, n in ((first_a, n_a), (first_b, n_b)) if n]
        return (min(s[0] for s in spans), max(s[1] for s in spans)) if spans else (0, 0)

    low_n, high_n = extent(a.first_negative, a.n_negative, b.first_negative, b.n_negative)
    low_p, high_p = extent(a.first_positive, a.n_positive, b.first_positive, b.n_positive)
    n_negative = high_n - low_n
    out = []
    for sides in (a, b):
        masses = np.zeros(n_negative + 1 + high_p - low_p)
        n = sides.n_negative
        at = high_n - (sides.first_negative + n)
        masses[at : at + n] = sides.masses[:n]
        masses[n_negative] = sides.masses[n]
        at = n_negative + 1 + sides.first_positive - low_p
        masses[at : at + sides.n_positive] = sides.masses[n + 1 :]
        out.append(masses / masses.sum())
    values = np.concatenate(
        (
            -representatives(a.scale, low_n, n_negative)[::-1],
            (0.0,),
            representatives(a.scale, low_p, high_p - low_p),
        )
    )
    return out[0], out[1], values


def _ks(p: Counts, q: Counts, is_zero: np.ndarray) -> Distance:
    f, g = np.cumsum(p), np.cumsum(q)
    value = min(1.0, float(np.abs(f - g).max()))
    inside = np.where(is_zero, 0.0, np.maximum(f - (g - q), g - (f - p)))
    return Distance("ks", value, value, min(1.0, max(value, float(inside.max()))))


def _wasserstein(p: Counts, q: Counts, values: Counts, scale: int, has_over: bool) -> Distance:
    value = float(np.abs(np.cumsum(p - q)[:-1]) @ np.diff(values))
    eps = relative_error(scale)
    moved = eps / (1.0 - eps) * float((p + q) @ np.abs(values)) + 2.0 * ZERO_THRESHOLD
    high = math.inf if has_over else value + moved
    return Distance("wasserstein", value, max(0.0, value - moved), high)


def _auc(p: Counts, q: Counts, is_zero: np.ndarray) -> Distance:
    value = float(q @ (np.cumsum(p) - p / 2.0))
    unknown = 0.5 * float(np.where(is_zero, 0.0, p * q).sum())
    return Distance("auc", value, value - unknown, value + unknown)


# ---------------------------------------------------------------- cells


def _partitioned(p: Counts, q: Counts) -> list[Distance]:
    """PSI, Jensen-Shannon and Hellinger of counts in the same cells."""
    m, n = float(p.sum()), float(q.sum())
    psi = max(0.0, psi_of(p, q, m, n) - (len(p) - 1) * (n + m) / (n * m))
    p, q = p / m, q / n
    middle = (p + q) / 2.0
    js = 0.5 * (_relative_entropy(p, middle) + _relative_entropy(q, middle))
    hellinger = math.sqrt(max(0.0, 1.0 - float(np.sqrt(p * q).sum())))
    return [
        Distance("psi", psi, psi, math.inf),
        Distance("js", js, js, math.inf),
        Distance("hellinger", hellinger, hellinger, math.inf),
    ]


def _relative_entropy(p: Counts, q: Counts) -> float:
    held = p > 0
    return max(0.0, float(p[held] @ np.log(p[held] / q[held])))


def text_distances(base: TextBaseline, window: Texts) -> list[Distance]:
    """Of a column that both sides hold as categories."""
    if window.count < MIN_VALUES:
        return []
    found: list[Distance] = []
    p, q = base.partition(window)
    if len(p) > 1:
        found = _partitioned(p, q)
        chi2 = pearson(p, q)
        found.append(Distance("chi2", chi2, chi2, chi2))
    rows, _ = base.unseen(window)
    certain = sum(
        min(n, window.count) for key, n in window.named.items() if key in base.texts.named
    )
    found.append(
        Distance("unseen", rows / window.count, rows / window.count, 1.0 - certain / window.count)
    )
    return found


def pearson(p: Counts, q: Counts) -> float:
    """Pearson's statistic of a 2 x k table, chi-square with k - 1 degrees of freedom under no change."""
    m, n = float(p.sum()), float(q.sum())
    both = p + q
    difference = q / n - p / m
    held = both > 0
    return float((difference[held] ** 2 / both[held]).sum()) * n * m
