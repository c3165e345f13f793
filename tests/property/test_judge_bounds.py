"""Shown distances against the exact ones of the raw values: inside their bounds, every time."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from agent.judge.drift_shown import in_bulk, numeric_distances
from agent.judge.numeric_cells import NumericBaseline
from benchmarks.verdicts.bounds import CHANGES, SHAPES, SIZES, compared
from benchmarks.verdicts.windows import numbers_of


@pytest.mark.parametrize("shape", SHAPES)
def test_exact_distances_lie_within_their_certified_bounds(shape: str) -> None:
    rng = np.random.default_rng(11)
    for n_baseline, n_window in SIZES[:3]:
        for change in CHANGES:
            baseline, window = SHAPES[shape](rng, n_baseline), change(SHAPES[shape](rng, n_window))
            found = list(compared(baseline, window))
            assert {one.metric for one in found} == {"ks", "wasserstein", "auc"}
            assert not any(one.is_outside for one in found), (n_baseline, n_window, found)


def test_columns_compared_together_are_compared_as_each_is_alone() -> None:
    rng = np.random.default_rng(21)
    bases, window = [], []
    for make in SHAPES.values():
        a, b = numbers_of(make(rng, 4_000)), numbers_of(make(rng, 1_000) * 1.4)
        bases.append(NumericBaseline.at(a, min(a.scale, b.scale)))
        window.append(b)
    together = in_bulk(bases, window)
    for base, numbers, found in zip(bases, window, together, strict=True):
        alone = numeric_distances(base, numbers)
        assert [d.metric for d in found] == [d.metric for d in alone]
        for one, other in zip(found, alone, strict=True):
            assert one[1:4] == pytest.approx(other[1:4], rel=1e-9, abs=1e-12)


def test_where_buckets_resolve_the_data_the_bounds_are_tight() -> None:
    rng = np.random.default_rng(3)
    baseline, window = rng.normal(size=20_000), rng.normal(0.1, 1.0, 5_000)
    base = NumericBaseline.at(numbers_of(baseline), 5)
    found = {d.metric: d for d in numeric_distances(base, numbers_of(window))}
    assert found["ks"].high - found["ks"].low < 0.02
    assert found["auc"].high - found["auc"].low < 0.01
    assert found["wasserstein"].high - found["wasserstein"].low < 0.06


def test_swapping_the_sides_mirrors_the_auc() -> None:
    rng = np.random.default_rng(5)
    a, b = numbers_of(rng.normal(size=3_000)), numbers_of(rng.normal(0.2, 1.1, 2_000))
    scale = min(a.scale, b.scale)
    one = {d.metric: d.value for d in numeric_distances(NumericBaseline.at(a, scale), b)}
    other = {d.metric: d.value for d in numeric_distances(NumericBaseline.at(b, scale), a)}
    assert one["auc"] == pytest.approx(1.0 - other["auc"], abs=1e-12)
    assert one["ks"] == pytest.approx(other["ks"], abs=1e-12)
    assert one["wasserstein"] == pytest.approx(other["wasserstein"], abs=1e-12)


@pytest.mark.parametrize("name", ["normal", "lognormal(2)", "counts", "zero-inflated"])
def test_psi_js_and_hellinger_are_exact_for_the_baselines_cells(name: str) -> None:
    """The oracle counts raw values between the cells' bounds."""
    rng = np.random.default_rng(9)
    baseline, window = SHAPES[name](rng, 20_000), SHAPES[name](rng, 10_000) * 1.1
    a, b = numbers_of(baseline), numbers_of(window)
    base = NumericBaseline.at(a, min(a.scale, b.scale))
    found = {d.metric: d.value for d in numeric_distances(base, b)}
    starts, shares = base.grouping(len(window))
    # Bounds of groups: the value below which a group of the baseline ends.
    edges = np.sort(baseline)[np.round(np.cumsum(shares[:-1]) * len(baseline)).astype(int) - 1]
    upper = base_bound(edges, base.sides.scale)
    p = np.bincount(np.searchsorted(upper, baseline * (1 - 1e-12)), minlength=len(starts))
    q = np.bincount(np.searchsorted(upper, window * (1 - 1e-12)), minlength=len(starts))
    cells, m, n = len(starts), len(baseline), len(window)
    ps, qs = (p + 0.5) / (m + cells / 2), (q + 0.5) / (n + cells / 2)
    psi = float(((qs - ps) * np.log(qs / ps)).sum())
    assert found["psi"] == pytest.approx(max(0.0, psi - (cells - 1) * (1 / n + 1 / m)), abs=1e-9)
    p, q = p / m, q / n
    middle = (p + q) / 2
    js = (stats.entropy(p, middle) + stats.entropy(q, middle)) / 2
    assert found["js"] == pytest.approx(js, abs=1e-9)
    hellinger = np.sqrt(((np.sqrt(p) - np.sqrt(q)) ** 2).sum() / 2)
    assert found["hellinger"] == pytest.approx(hellinger, abs=1e-9)


def base_bound(values: np.ndarray, scale: int) -> np.ndarray:
    """Upper bound of the bucket of each value, by definition."""
    out = []
    for v in values:
        if v == 0:
            out.append(0.0)
        elif v > 0:
            out.append(2.0 ** (np.ceil(np.log2(v) * 2**scale - 1e-9) / 2**scale))
        else:
            out.append(-(2.0 ** ((np.ceil(np.log2(-v) * 2**scale - 1e-9) - 1) / 2**scale)))
    return np.array(out)
