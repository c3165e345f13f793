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
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from agent.fold.profile import Profile, violations
from agent.judge.cells import MIN_VALUES, Prepared, psi_of
from agent.judge.counted import Counted, CountedColumn, counted
from agent.judge.numeric_bulk import Bulk
from agent.judge.numeric_cells import NumericBaseline, Sides
from agent.judge.sketch_counts import Counts, Numbers, Texts
from agent.judge.text_cells import TextBaseline
from agent.sketch.histogram import ZERO_THRESHOLD, relative_error, representatives
from agent.types import Column, Kind
from agent.verdict import Drift


class Distance(NamedTuple):
    metric: str
    value: float
    low: float
    high: float
    unit: str = "1"


def drifts(
    baseline: Profile | Prepared, window: Profile, read: Counted | None = None
) -> list[Drift]:
    """All distances of a window, in the baseline's order of columns. `read`: the window, where it is read already.

    Columns that the window lacks or holds as another kind have none but `missing` and `violations`.
    """
    known = baseline if isinstance(baseline, Prepared) else Prepared(baseline)
    seen = read or counted(window)
    by_column = _of_numbers(known, seen)
    out: list[Drift] = []
    for column, before in known.columns.items():
        now = seen.columns.get(column)
        held = window.columns.get(column)
        found: list[Distance] = list(by_column.get(column, ()))
        if now is not None and now.kind is before.kind and before.texts and now.texts:
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


def _of_numbers(known: Prepared, seen: Counted) -> dict[Column, list[Distance]]:
    """Those of the columns that both sides hold as numbers."""
    found: dict[Column, list[Distance]] = {}
    columns: list[Column] = []
    bases: list[NumericBaseline] = []
    window: list[Numbers] = []
    for column, before in known.columns.items():
        now = seen.columns.get(column)
        if now is None or now.kind is not before.kind or before.numbers is None:
            continue
        if now.numbers is None or now.numbers.count < MIN_VALUES:
            continue
        if before.kind is Kind.BOOLEAN:
            share = 1.0 - now.numbers.zeros / now.numbers.count
            found[column] = [Distance("true_rate", share, share, share)]
            continue
        columns.append(column)
        bases.append(before.at(now.numbers.scale))
        window.append(now.numbers)
    if columns:
        found.update(zip(columns, in_bulk(bases, window), strict=True))
    return found


def numeric_distances(base: NumericBaseline, window: Numbers) -> list[Distance]:
    """Of one column of numbers, at the scale of `base`, which the window's is not below."""
    return in_bulk([base], [window])[0] if window.count >= MIN_VALUES else []


def in_bulk(bases: Sequence[NumericBaseline], window: Sequence[Numbers]) -> list[list[Distance]]:
    """Of several columns, in their order."""
    bulk = Bulk.of(bases, window)
    axes = [base.axis for base in bases]
    q, g = bulk.shares()
    p = np.concatenate([axis.shares for axis in axes])
    f = np.concatenate([axis.upto for axis in axes])
    ties = np.concatenate([axis.ties for axis in axes])
    lead = f - g
    apart = np.abs(lead)
    ks = np.maximum.reduceat(apart, bulk.first)
    # Inside of a bucket each side may rise before the other does; the zero bucket has no inside.
    inside = np.maximum(lead + q, p - lead)
    zeros = bulk.first + np.array([base.sides.n_negative + 2 for base in bases])
    inside[zeros] = 0.0
    most = np.minimum(1.0, np.maximum(ks, np.maximum.reduceat(inside, bulk.first)))
    auc, unknown = bulk.locations(), 0.5 * bulk.total(ties * q)
    distances, errors = _moved(bulk, window, apart, q)
    found: list[list[Distance]] = []
    parts = np.minimum(1.0, ks), most, auc, unknown, distances, errors
    rows = zip(*(part.tolist() for part in parts), strict=True)
    for base, numbers, row in zip(bases, window, rows, strict=True):
        value, highest, middle, off, distance, error = row
        high = math.inf if base.has_over or numbers.over else distance + error
        found.append(
            [
                Distance("ks", value, value, highest),
                Distance("wasserstein", distance, max(0.0, distance - error), high),
                Distance("auc", middle, middle - off, middle + off),
            ]
        )
    groups = bulk.groups()
    by_chance = (groups.sizes - 1.0) * (groups.n + groups.m) / (groups.n * groups.m)
    psi = np.maximum(0.0, groups.psi() - by_chance)
    for name, values in (("psi", psi), ("js", groups.js()), ("hellinger", groups.hellinger())):
        for own, x, cells in zip(found, values.tolist(), groups.sizes.tolist(), strict=True):
            if cells > 1.0:
                own.append(Distance(name, x, x, math.inf))
    return found


def _moved(
    bulk: Bulk, window: Sequence[Numbers], apart: Counts, q: Counts
) -> tuple[Counts, Counts]:
    """Wasserstein distances and their errors, float64[k] each."""
    axes = [base.axis for base in bulk.bases]
    values = np.concatenate([axis.values for axis in axes])
    steps = np.concatenate([axis.steps for axis in axes])
    sizes = np.array([axis.mean_size for axis in axes]) + bulk.total(q * np.abs(values))
    eps = np.array([relative_error(base.sides.scale) for base in bulk.bases])
    factor = eps / (1.0 - eps)
    distances, errors = bulk.total(apart * steps), factor * sizes + 2.0 * ZERO_THRESHOLD
    for i, first in enumerate(bulk.first.tolist()):
        base = bulk.bases[i]
        placed = bulk.counts[first : first + len(base.ranks)]
        if base.is_beyond(placed):
            if base.axis.has_between(placed):
                distances[i], errors[i] = _wasserstein(base.sides, window[i])
            else:
                further, larger = base.beyond(window[i])
                distances[i] += further / window[i].count
                errors[i] += factor[i] * larger / window[i].count
    return distances, errors


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


def _wasserstein(base: Sides, window: Numbers) -> tuple[float, float]:
    """The distance and its error of a window that has values beyond the baseline's buckets."""
    p, q, values = _on_one_axis(base, Sides.of(window, base.scale))
    value = float(np.abs(np.cumsum(p - q)[:-1]) @ np.diff(values))
    eps = relative_error(base.scale)
    error = eps / (1.0 - eps) * float((p + q) @ np.abs(values)) + 2.0 * ZERO_THRESHOLD
    return value, error


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
    certain = sum(window.named[key] for key in window.named.keys() & base.texts.named.keys())
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
