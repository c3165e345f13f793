"""Probabilities of judging against scipy."""

import math

import numpy as np
import pytest
from scipy import special as oracle
from scipy import stats

from agent.judge import special


@pytest.mark.parametrize("z", [-6.0, -0.3, 0.0, 1.0, 4.0, 12.0, 29.9, 30.1, 37.0])
def test_the_log_of_the_normal_tail_is_scipys(z):
    assert special.log_normal_tail(z) == pytest.approx(stats.norm.logsf(z), abs=1e-9, rel=1e-12)


@pytest.mark.parametrize("z", [-7.0, -1.0, 0.0, 0.5, 3.0, 9.0, 36.0])
def test_the_normal_quantile_inverts_the_log_tail(z):
    assert special.normal_quantile(stats.norm.logsf(z)) == pytest.approx(z, abs=1e-8)


@pytest.mark.parametrize("p", [1.0, 0.3, 1e-3, 1e-9])
def test_a_two_sided_quantile_leaves_half_in_each_tail(p):
    assert special.two_sided(p) == pytest.approx(stats.norm.isf(p / 2), abs=1e-8)


@pytest.mark.parametrize("a", [0.5, 1.0, 11.5, 300.0, 1e5])
@pytest.mark.parametrize("factor", [0.01, 0.7, 1.0, 1.3, 3.0])
def test_the_gamma_tail_is_scipys(a, factor):
    x = a * factor
    expected = stats.gamma.logsf(x, a)
    if expected == -math.inf:  # below what scipy can say
        assert special.log_gamma_tail(a, x) < -700.0
        return
    assert special.log_gamma_tail(a, x) == pytest.approx(expected, abs=1e-9, rel=1e-9)


@pytest.mark.parametrize("df", [1.0, 7.0, 23.0])
@pytest.mark.parametrize("noncentrality", [0.0, 5.0, 80.0, 2000.0])
@pytest.mark.parametrize("tail", [0.1, 1e-3, 1e-6])
def test_the_noncentral_tail_is_within_a_tenth_in_its_logarithm(df, noncentrality, tail):
    x = stats.ncx2.isf(tail, df, noncentrality) if noncentrality else stats.chi2.isf(tail, df)
    found = special.noncentral_chi2_log_tail(x, df, noncentrality)
    assert found == pytest.approx(math.log(tail), rel=0.1)


@pytest.mark.parametrize("mean", [0.01, 3.0, 250.0])
@pytest.mark.parametrize("count", [0, 1, 4, 200, 400])
def test_the_poisson_tail_is_scipys(mean, count):
    terms = stats.poisson.logpmf(np.arange(count, count + 2000), mean)
    expected = oracle.logsumexp(terms)
    assert special.log_poisson_tail(count, mean) == pytest.approx(expected, abs=1e-9, rel=1e-9)


@pytest.mark.parametrize("rows, a, b", [(100, 0.5, 200.5), (10_000, 20.5, 980.5), (50, 3.5, 1.5)])
def test_the_beta_binomial_tail_is_scipys(rows, a, b):
    for count in {0, 1, 3, rows // 50, rows // 10, rows // 2, rows - 1, rows}:
        expected = oracle.logsumexp(stats.betabinom.logpmf(np.arange(count, rows + 1), rows, a, b))
        found = special.log_beta_binomial_tail(count, rows, a, b)
        assert found == pytest.approx(expected, abs=1e-7, rel=1e-6), count


def test_a_rate_like_before_has_no_deviation_and_sides_mirror():
    assert special.beta_binomial_z(50, 1000, 500, 10_000) == 0.0
    up = special.beta_binomial_z(90, 1000, 500, 10_000)
    down = special.beta_binomial_z(910, 1000, 9500, 10_000)
    assert up > 4.0
    assert down == pytest.approx(-up)


def test_a_rate_is_never_above_its_level():
    """P(|z| > z0) under the predictive distribution itself is at most its nominal value."""
    rows, a, b = 400, 10.5, 990.5
    z = np.array([special.beta_binomial_z(k, rows, 10, 1000) for k in range(60)])
    weights = stats.betabinom.pmf(np.arange(60), rows, a, b)
    for level in (2.0, 3.0, 4.0):
        assert weights[np.abs(z) > level].sum() <= 2 * stats.norm.sf(level)


@pytest.mark.parametrize("df, off", [(10, 0.2), (23, 0.1), (4, 0.31), (1, 0.6)])
def test_the_cube_root_of_a_chi_square_is_nearly_normal_and_never_much_too_large(df, off):
    z = np.linspace(2.0, 6.0, 9)
    ratio = stats.chi2.isf(stats.norm.sf(z), df) / df
    found = special.chi2_z(ratio, np.full(9, float(df)))
    assert (found <= z + 0.025).all()
    assert (found >= z - off).all()


def test_a_chi_square_of_varying_scale_keeps_its_level():
    """Against the exact convolution: tail of chi-square times a lognormal."""
    df, spread = 20, 0.3
    y, w = np.polynomial.hermite_e.hermegauss(80)
    w = w / w.sum()
    for ratio in (1.5, 2.0, 3.0, 4.0):
        exact = float(w @ stats.chi2.sf(df * ratio * np.exp(-spread * y), df))
        z = special.spread_chi2_z(*(np.array([v]) for v in (ratio, float(df), spread)))[0]
        assert z == pytest.approx(stats.norm.isf(exact), abs=0.35)
    same = special.spread_chi2_z(*(np.array([v]) for v in (2.0, 20.0, 0.0)))
    assert same == special.chi2_z(np.array([2.0]), np.array([20.0]))


@pytest.mark.parametrize("x", [0.5, 1.0, 3.3, 12.0, 500.0])
def test_the_trigamma_function_is_scipys(x):
    assert special.trigamma(x) == pytest.approx(float(oracle.polygamma(1, x)), rel=1e-9)
