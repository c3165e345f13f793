"""Moments in rational arithmetic (small inputs) and by exact summation of rounded powers (large ones)."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import fsum


def moments(values: Sequence[float]) -> tuple[float, float, float, float, float, float]:
    """Sum, mean, M2, M3, M4 and sum |x - mean|^3, each rounded once."""
    exact = [Fraction(v) for v in values]
    total = sum(exact, Fraction(0))
    mean = total / len(exact)
    powers = [sum(((x - mean) ** k for x in exact), Fraction(0)) for k in (2, 3, 4)]
    cubes = sum((abs(x - mean) ** 3 for x in exact), Fraction(0))
    return (float(total), float(mean), *(float(p) for p in powers), float(cubes))


def large_moments(values: Sequence[float]) -> tuple[float, float, float, float, float, float]:
    """The same with a mean rounded to float64 and exactly rounded sums: good to about 1e-14."""
    total = fsum(values)
    mean = total / len(values)
    d = [x - mean for x in values]
    return (
        total,
        mean,
        fsum(x * x for x in d),
        fsum(x * x * x for x in d),
        fsum(x * x * x * x for x in d),
        fsum(abs(x * x * x) for x in d),
    )
