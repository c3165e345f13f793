"""Drift functions against numpy and scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from agent.judge import drift
from agent.judge.drift import Histogram


def bucket_of(value: float, scale: int) -> int:
    """Upper-inclusive bucket by definition: base^i < |value| <= base^(i+1)."""
    base = 2.0 ** (2.0**-scale)
    index = math.ceil(math.log2(abs(value)) * 2**scale) - 1
    assert base**index <= abs(value) * (1 + 1e-12)
    assert abs(value) <= base ** (index + 1) * (1 + 1e-12)
    return index


def histogram_json(values: np.ndarray, scale: int) -> dict:
    def side(part: np.ndarray) -> dict:
        if not len(part):
            return {"offset": 0, "counts": []}
        indices = [bucket_of(v, scale) for v in part]
        low = min(indices)
        counts = [0] * (max(indices) - low + 1)
        for index in indices:
            counts[index - low] += 1
        return {"offset": low, "counts": counts}

    return {
        "scale": scale,
        "zero": int((values == 0).sum()),
        "positive": side(values[values > 0]),
        "negative": side(values[values < 0]),
    }


def histogram(values: np.ndarray, scale: int = 6) -> Histogram:
    return Histogram.from_json(histogram_json(np.asarray(values, float), scale))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def test_cells_are_in_order_of_value_and_hold_every_row(rng):
    values = np.concatenate([rng.normal(0, 5, 500), np.zeros(20), rng.lognormal(3, 1, 200)])
    cells = histogram(values)
    lower, upper = cells.bounds()
    assert (np.diff(cells.keys) > 0).all()
    assert (lower <= upper).all()
    assert (np.diff(upper) > 0).all()
    assert cells.total == len(values)
    for low, high, count in zip(lower, upper, cells.counts, strict=True):
        inside = values[np.isclose(values, 0, atol=0)] if low == high else values
        if low == high:
            assert count == len(inside)
        elif low >= 0:
            assert count == ((values > low * (1 + 1e-12)) & (values <= high * (1 + 1e-12))).sum()
        else:
            assert count == ((values >= low * (1 + 1e-12)) & (values < high * (1 + 1e-12))).sum()


@pytest.mark.parametrize("coarse", [5, 3, 2])
def test_downscaled_equals_one_built_at_the_coarse_scale(rng, coarse):
    values = np.concatenate([rng.normal(0, 50, 400), [0.0, 1.0, 2.0, -4.0, 1024.0]])
    fine, direct = histogram(values, 7).at_scale(coarse), histogram(values, coarse)
    assert fine.scale == direct.scale
    assert fine.keys.tolist() == direct.keys.tolist()
    assert fine.counts.tolist() == direct.counts.tolist()


def test_a_finer_scale_than_the_own_one_is_refused():
    with pytest.raises(ValueError, match="finer"):
        histogram(np.ones(3), 4).at_scale(5)


def test_merged_histogram_equals_that_of_all_rows(rng):
    a, b = rng.normal(1, 3, 300), rng.lognormal(0, 2, 200)
    merged = drift.merge([histogram(a, 7), Histogram.empty(), histogram(b, 4)])
    whole = histogram(np.concatenate([a, b]), 4)
    assert merged.scale == 4
    assert merged.keys.tolist() == whole.keys.tolist()
    assert merged.counts.tolist() == whole.counts.tolist()


def test_nothing_merges_to_an_empty_histogram_without_a_psi():
    empty = drift.merge([])
    assert empty.total == 0
    assert math.isnan(drift.numeric_psi(empty, histogram(np.ones(9))).corrected)
    assert math.isnan(drift.quantile(empty, 0.5))
    assert math.isnan(drift.outside(empty, empty))


def test_psi_equals_its_definition_on_given_cells():
    p, q = np.array([100, 300, 600]), np.array([400, 300, 300])
    share_p = (p + 0.5) / (1000 + 1.5)
    share_q = (q + 0.5) / (1000 + 1.5)
    expected = np.sum((share_q - share_p) * np.log(share_q / share_p))
    result = drift.psi(p, q)
    assert result.raw == pytest.approx(expected, rel=1e-12)
    assert result.n_cells == 3
    assert result.corrected == pytest.approx(expected - 2 / 500, rel=1e-12)


def test_cells_with_few_expected_rows_are_pooled():
    p = np.array([1, 1, 3, 500, 2, 500, 1, 1])
    result = drift.psi(p, p)
    assert result.n_cells == 3
    assert result.raw == pytest.approx(0.0, abs=1e-12)
    assert drift.psi(np.array([2, 1]), np.array([1, 1])).n_cells == 1


@pytest.mark.parametrize("shape", ["normal", "lognormal", "uniform"])
@pytest.mark.parametrize("rows", [200, 1000])
def test_corrected_psi_of_undrifted_samples_is_near_zero_on_average(rng, shape, rows):
    draw = {
        "normal": lambda n: rng.normal(10, 2, n),
        "lognormal": lambda n: rng.lognormal(0, 1, n),
        "uniform": lambda n: rng.uniform(-5, 5, n),
    }[shape]
    raw, ratio = [], []
    for _ in range(60):
        result = drift.numeric_psi(histogram(draw(2000), 5), histogram(draw(rows), 5))
        raw.append(result.raw)
        ratio.append(result.raw * result.effective_rows / (result.n_cells - 1))
    # N * PSI / (B - 1) has mean 1 and standard deviation sqrt(2 / (B - 1)) about; 60 runs.
    assert np.mean(ratio) == pytest.approx(1.0, abs=0.2)
    assert np.mean(raw) > 0


def test_a_unit_change_is_a_large_psi(rng):
    miles = rng.choice([94, 187, 229, 502, 719, 944, 1089, 1400, 2475], 3000)
    week = rng.choice([94, 187, 229, 502, 719, 944, 1089, 1400, 2475], 300)
    assert drift.numeric_psi(histogram(miles), histogram(week)).corrected < 0.05
    assert drift.numeric_psi(histogram(miles), histogram(week * 1.609344)).corrected > 1.0


def test_numeric_psi_matches_cells_cut_by_hand(rng):
    """Atoms far apart: the partition is the set of atoms, so PSI is that of their counts."""
    atoms = np.array([1.0, 10.0, 100.0, 1000.0])
    a = rng.choice(atoms, 2000, p=[0.4, 0.3, 0.2, 0.1])
    b = rng.choice(atoms, 1000, p=[0.1, 0.2, 0.3, 0.4])
    counts = [np.array([(x == v).sum() for v in atoms]) for x in (a, b)]
    assert drift.numeric_psi(histogram(a), histogram(b)).raw == pytest.approx(
        drift.psi(*counts).raw, rel=1e-9
    )


def test_categorical_psi_puts_unknown_values_into_one_cell():
    known = {"UA": 500, "B6": 300, "DL": 200}
    same = drift.categorical_psi(known, 1000, {"UA": 50, "B6": 30, "DL": 20}, 100)
    new = drift.categorical_psi(known, 1000, {"UA": 5, "XX": 60, "YY": 35}, 100)
    assert same.corrected < 0.01
    assert new.corrected > 0.5
    assert math.isnan(drift.categorical_psi(known, 1000, {}, 0).corrected)


def test_a_value_that_a_partial_list_leaves_out_has_not_vanished():
    known = {"UA": 500, "B6": 300, "DL": 100}
    cut = drift.categorical_psi(known, 1000, {"UA": 500, "B6": 300}, 1000)
    whole = drift.categorical_psi(known, 1000, {"UA": 600, "B6": 400}, 1000)
    assert cut.corrected < 0.01
    assert whole.corrected > 0.1
    assert drift.categorical_psi({}, 1000, {}, 1000).corrected == 0.0


def test_outside_sees_what_a_constant_baseline_cannot():
    constant, moved = histogram(np.full(500, 3.0)), histogram(np.array([3.0] * 25 + [9.0] * 75))
    assert drift.outside(constant, moved) == pytest.approx(0.75)
    assert drift.outside(constant, constant) == 0.0


@pytest.mark.parametrize(
    ("hits", "rows"), [(0, 1), (0, 300), (1, 300), (17, 40), (300, 300), (30_000, 330_000)]
)
@pytest.mark.parametrize("alpha", [0.05, 1e-6])
def test_binomial_bounds_equal_clopper_pearson(hits, rows, alpha):
    low, high = drift.binomial_bounds(hits, rows, alpha)
    exact = stats.binomtest(hits, rows).proportion_ci(1 - alpha, method="exact")
    assert low == pytest.approx(exact.low, abs=1e-9)
    assert high == pytest.approx(exact.high, abs=1e-9)


def test_no_rows_bound_nothing():
    assert drift.binomial_bounds(0, 0, 0.05) == (0.0, 1.0)


def test_rebin_keeps_rows_and_splits_wide_buckets_evenly():
    wide = Histogram.from_json(
        {
            "scale": 0,
            "zero": 4,
            "positive": {"offset": 2, "counts": [8]},  # (4, 8]
            "negative": {"offset": 0, "counts": []},
        }
    )
    assert drift.rebin(wide, [0, 2, 4, 5, 6, 8]).tolist() == [4, 0, 2, 2, 4]
    assert drift.rebin(Histogram.empty(), [0, 1]).tolist() == [0]


def test_quantile_is_within_a_bucket_of_the_exact_one(rng):
    values = rng.lognormal(2, 1, 4001)
    cells = histogram(values, 6)
    base = 2.0 ** (2.0**-6)
    for q in (0.01, 0.25, 0.5, 0.9, 0.99):
        exact = float(np.quantile(values, q, method="inverted_cdf"))
        assert exact <= drift.quantile(cells, q) * (1 + 1e-12)
        assert drift.quantile(cells, q) <= exact * base * (1 + 1e-12)
