"""From sums of powers about a pivot to the mean and central moments."""

from __future__ import annotations

from typing import NamedTuple


class Moments(NamedTuple):
    """Of values inside the domain. m2, m3, m4: sums of powers of (value - mean). NaN when n == 0."""

    sum: float
    mean: float
    m2: float
    m3: float
    m4: float


def central(n: int, pivot: float, sums: tuple[float, ...], rests: tuple[float, ...]) -> Moments:
    """Moments about the mean; bounds as in `kernels.moments`.

    sums, rests  sum and surplus (Kahan) of d, d^2, d^3, d^4, d = value - pivot
    """
    if n == 0:
        nan = float("nan")
        return Moments(0.0, nan, nan, nan, nan)
    s1, s2, s3, s4 = (a - b for a, b in zip(sums, rests, strict=True))
    r = s1 / n
    return Moments(
        n * pivot + s1,
        pivot + r,
        max(0.0, s2 - s1 * r),
        s3 - 3.0 * r * s2 + 2.0 * s1 * r * r,
        max(0.0, s4 - 4.0 * r * s3 + 6.0 * r * r * s2 - 3.0 * s1 * r * r * r),
    )
