"""Shown distances against the exact ones of the raw values: inside their bounds, every time."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from agent.judge.drift_shown import in_bulk, numeric_distances
from agent.judge.numeric_cells import NumericBaseline
from benchmarks.verdicts.windows import numbers_of

SHAPES = {
    "normal": lambda r, n: r.normal(size=n),
    "normal_far_from_zero": lambda r, n: r.normal(1000.0, 1.0, n),
    "normal_negative": lambda r, n: r.normal(-40.0, 15.0, n),
    "lognormal_2": lambda r, n: np.exp(2.0 * r.normal(size=n)),
    "lognormal_5": lambda r, n: np.exp(5.0 * r.normal(size=n)),
    "t5": lambda r, n: r.standard_t(5, n),
    "cauchy": lambda r, n: r.standard_cauchy(n),
    "pareto": lambda r, n: r.pareto(1.5, n) + 1.0,
    "exponential": lambda r, n: r.exponential(3.0, n),
    "uniform": lambda r, n: r.random(n),
    "zero_inflated": lambda r, n: np.where(r.random(n) < 0.7, 0.0, np.exp(r.normal(size=n))),
    "counts": lambda r, n: r.poisson(4.0, n).astype(float),
    "beta_of_a_tenth": lambda r, n: r.beta(0.1, 0.1, n),
    "either_side_of_zero": lambda r, n: r.choice([-1.0, 1.0], n) * r.uniform(5.0, 10.0, n),
    "outliers": lambda r, n: r.normal(1000.0, 1.0, n) * np.where(r.random(n) < 0.001, 1e6, 1.0),
}
#: A change of the second sample: none, a shift, a stretch.
CHANGES = {
    "same": lambda x: x,
    "moved": lambda x: x + 0.3 * x.std(),
    "stretched": lambda x: x * 1.3,
}


def exact_auc(baseline: np.ndarray, window: np.ndarray) -> float:
    return stats.mannwhitneyu(window, baseline).statistic / (len(window) * len(baseline))


@pytest.mark.parametrize("shape", SHAPES)
def test_exact_distances_lie_within_their_certified_bounds(shape: str) -> None:
    rng = np.random.default_rng(11)
    for sizes in ((100, 100), (1_000, 4_000), (20_000, 5_000)):
        for change in CHANGES.values():
            baseline, window = (SHAPES[shape](rng, n) for n in sizes)
            window = change(window)
            a, b = numbers_of(baseline), numbers_of(window)
            base = NumericBaseline.at(a, min(a.scale, b.scale))
            found = {d.metric: d for d in numeric_distances(base, b)}
            exact = {
                "ks": stats.ks_2samp(baseline, window).statistic,
                "wasserstein": stats.wasserstein_distance(baseline, window),
                "auc": exact_auc(baseline, window),
            }
            for metric, value in exact.items():
                d = found[metric]
                slack = 1e-9 * max(1.0, abs(value))
                assert d.low - slack <= value <= d.high + slack, (metric, sizes, d, value)
                assert d.low <= d.value <= d.high


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


@pytest.mark.parametrize("name", ["normal", "lognormal_2", "counts", "zero_inflated"])
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
