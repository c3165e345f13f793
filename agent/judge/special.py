"""Probabilities that judging needs: tails and quantiles of the distributions that counts follow.

Only `math` and numpy, so that an agent needs no scipy; scipy is the oracle in the tests. Errors stated
are relative to the probability unless said otherwise, and hold for the arguments that are named.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

_FLOATS = NDArray[np.float64]
_SQRT2: Final = math.sqrt(2.0)
_LOG_SQRT_TAU: Final = 0.5 * math.log(2.0 * math.pi)
#: Below it log10 p is a tail so far out that only its order matters; keeps exp and log finite.
_FAR: Final = 30.0
_TINY: Final = 1e-300


# ---------------------------------------------------------------- normal


def normal_tail(z: float) -> float:
    """P(Z > z); within 1e-14, 0 beyond z = 38."""
    return 0.5 * math.erfc(z / _SQRT2)


def log_normal_tail(z: float) -> float:
    """ln P(Z > z) at any z, absolute error below 1e-9.

    Beyond 30 by the asymptotic series of Mills' ratio (DLMF 7.12.1), whose first term left out is
    105 / z^8.
    """
    if z < _FAR:
        return math.log(normal_tail(z))
    s = 1.0 / (z * z)
    return (
        -0.5 * z * z - _LOG_SQRT_TAU - math.log(z) + math.log1p(-s * (1.0 - s * (3.0 - 15.0 * s)))
    )


def normal_quantile(log_tail: float) -> float:
    """The z with ln P(Z > z) = `log_tail`, which must be below 0; absolute error below 1e-9.

    Newton's method on the log of the tail, which is concave: from a start on either side it converges.
    """
    if log_tail > math.log(0.5):
        return -normal_quantile(math.log(-math.expm1(log_tail))) if log_tail < 0.0 else -math.inf
    z = math.sqrt(max(0.0, -2.0 * (log_tail + math.log(2.0))))
    for _ in range(60):
        tail = log_normal_tail(z)
        # d ln tail / dz = -density / tail
        slope = -math.exp(-0.5 * z * z - _LOG_SQRT_TAU - tail)
        step = (tail - log_tail) / slope
        z -= step
        if abs(step) < 1e-12 * max(1.0, z):
            break
    return z


def two_sided(p: float) -> float:
    """The z >= 0 with P(|Z| > z) = p, for p in (0, 1]."""
    return max(0.0, normal_quantile(math.log(max(p, _TINY)) - math.log(2.0)))


# ---------------------------------------------------------------- gamma, chi-square, Poisson


def log_gamma_tail(a: float, x: float) -> float:
    """ln Q(a, x), the log of the upper regularised incomplete gamma function; a > 0, x >= 0.

    Absolute error below 1e-10 for a up to 1e6. Series DLMF 8.11.4 below the mean, continued fraction
    DLMF 8.9.2 (Lentz) above it.
    """
    if x <= 0.0:
        return 0.0
    log_front = a * math.log(x) - x - math.lgamma(a)
    if x < a + 1.0:
        term = total = 1.0 / a
        n = a
        while abs(term) > abs(total) * 1e-16:
            n += 1.0
            term *= x / n
            total += term
        lower = math.exp(log_front + math.log(total))
        return math.log1p(-min(lower, 1.0 - 1e-16))
    b = x + 1.0 - a
    c = 1.0 / _TINY
    d = 1.0 / b
    fraction = d
    for i in range(1, 100_000):
        numerator = -i * (i - a)
        b += 2.0
        d = numerator * d + b
        d = 1.0 / (d if abs(d) > _TINY else _TINY)
        c = b + numerator / c
        c = c if abs(c) > _TINY else _TINY
        fraction *= d * c
        if abs(d * c - 1.0) < 1e-15:
            break
    return log_front + math.log(fraction)


def noncentral_chi2_log_tail(x: float, df: float, noncentrality: float) -> float:
    """ln P(noncentral chi-square > x), by Sankaran's power transformation; log10 p within 10 % below .1.

    Sankaran, Approximations to the non-central chi-square distribution, Biometrika 50, 1963. Exact tail
    where the noncentrality is 0.
    """
    if noncentrality <= 0.0:
        return log_gamma_tail(df / 2.0, x / 2.0)
    if x <= 0.0:
        return 0.0
    mean = df + noncentrality
    spread = df + 2.0 * noncentrality
    h = 1.0 - 2.0 / 3.0 * mean * (df + 3.0 * noncentrality) / spread**2
    p = spread / mean**2
    m = (h - 1.0) * (1.0 - 3.0 * h)
    top = (x / mean) ** h - (1.0 + h * p * (h - 1.0 - 0.5 * (2.0 - h) * m * p))
    return log_normal_tail(top / (h * math.sqrt(2.0 * p) * (1.0 + 0.5 * m * p)))


def log_poisson_tail(count: int, mean: float) -> float:
    """ln P(Poisson(mean) >= count)."""
    if count <= 0:
        return 0.0
    if mean <= 0.0:
        return -math.inf
    # P(N >= k) = P(k, mean), the lower incomplete gamma function.
    upper = log_gamma_tail(float(count), mean)
    if upper < -1e-3:
        return math.log(-math.expm1(upper))
    # The upper tail is nearly 1: sum the lower one directly, where the first terms dominate.
    term = total = 1.0
    k = count
    while term > total * 1e-16:
        k += 1
        term *= mean / k
        total += term
    return count * math.log(mean) - mean - math.lgamma(count + 1.0) + math.log(total)


# ---------------------------------------------------------------- beta-binomial


def log_beta_binomial_tail(count: int, rows: int, a: float, b: float) -> float:
    """ln P(X >= count) where X ~ binomial(rows, p) and p ~ beta(a, b): the predictive tail of a rate
    seen before with a - 1/2 hits and b - 1/2 misses.

    Sums from the first term until the terms no longer matter; absolute error below 1e-9, or, beyond 4,000
    terms, at most a term's worth.
    """
    if count <= 0:
        return 0.0
    if count > rows:
        return -math.inf
    mean = rows * a / (a + b)
    if count <= mean:  # the other side is the shorter sum
        below = log_beta_binomial_tail(rows - count + 1, rows, b, a)
        return math.log1p(-min(math.exp(below), 1.0 - 1e-16))
    log_first = (
        math.lgamma(rows + 1.0)
        - math.lgamma(count + 1.0)
        - math.lgamma(rows - count + 1.0)
        + math.lgamma(a + b)
        - math.lgamma(a)
        - math.lgamma(b)
        + math.lgamma(count + a)
        + math.lgamma(rows - count + b)
        - math.lgamma(rows + a + b)
    )
    k = np.arange(count, min(rows, count + 4000), dtype=np.float64)
    ratios = (rows - k) / (k + 1.0) * (k + a) / (rows - k - 1.0 + b)
    total = 1.0 + float(np.cumprod(ratios).sum())
    return min(0.0, log_first + math.log(total))


def beta_binomial_z(hits: float, rows: float, baseline_hits: float, baseline_rows: float) -> float:
    """How surprising `hits` of `rows` are after `baseline_hits` of `baseline_rows`, as a signed z.

    Two-sided by doubling the smaller predictive tail under Jeffreys' prior, so never above its level
    for rows that fail independently; 0 where either tail is above one half. Counts may be fractions (a
    tolerance was taken off): rounded toward the mean.
    """
    a, b = baseline_hits + 0.5, max(0.0, baseline_rows - baseline_hits) + 0.5
    mean = rows * a / (a + b)
    if hits > mean:
        log_tail = log_beta_binomial_tail(math.floor(hits + 1e-9), int(rows), a, b)
        sign = 1.0
    else:
        log_tail = log_beta_binomial_tail(int(rows) - math.ceil(hits - 1e-9), int(rows), b, a)
        sign = -1.0
    log_p = min(0.0, log_tail + math.log(2.0))
    return 0.0 if log_p >= 0.0 else sign * normal_quantile(log_p - math.log(2.0))


# ---------------------------------------------------------------- of arrays


def chi2_z(ratio: _FLOATS, df: _FLOATS) -> _FLOATS:
    """A chi-square over its degrees of freedom as a standard normal, float64[n] each.

    The cube root of Wilson and Hilferty (PNAS 17, 1931): up to z 6 too small by at most .1 for df >= 23, .2 for
    10, .6 for 1, and never too large by more than .025.
    """
    h = 2.0 / (9.0 * df)
    return (np.cbrt(np.maximum(ratio, 0.0)) - (1.0 - h)) / np.sqrt(h)


def spread_chi2_z(ratio: _FLOATS, df: _FLOATS, spread: _FLOATS) -> _FLOATS:
    """`chi2_z` where the chi-square's scale itself varies: its log is normal with deviation `spread`.

    First-order reliability: the tail is that of the likeliest way to reach the ratio, partly by scale and
    partly by chance, min over y of chi2_z(ratio exp(-y))^2 + (y / spread)^2. `chi2_z` below 1.
    """
    by_chance = chi2_z(ratio, df)
    if not spread.any():
        return by_chance
    share = np.linspace(0.0, 1.0, 33)[:, None]
    log_ratio = np.log(np.maximum(ratio, 1.0))
    by_scale = share * log_ratio
    chance = np.maximum(0.0, chi2_z(np.exp(log_ratio - by_scale), df))
    both = np.sqrt((chance**2 + (by_scale / np.maximum(spread, 1e-9)) ** 2).min(axis=0))
    return np.where(by_chance > 0.0, np.minimum(by_chance, both), by_chance)


def trigamma(x: float) -> float:
    """Variance of the log of a gamma variable of shape x > 0; within 1e-10."""
    total = 0.0
    while x < 10.0:
        total += 1.0 / (x * x)
        x += 1.0
    s = 1.0 / (x * x)
    return total + 1.0 / x + s / 2.0 + s / x * (1 / 6 - s * (1 / 30 - s * (1 / 42 - s / 30)))
