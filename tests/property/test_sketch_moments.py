"""Sums and moments of numeric cells against rational arithmetic and exact summation."""

from __future__ import annotations

from math import fsum

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.sketch.views import NumericView, numeric_view
from tests.reference.moments import large_moments, moments
from tests.reference.sketching import SHAPES, merged, numeric

LIMIT = 2.0**64


def assert_moments(view: NumericView, values: list[float], large: bool = False) -> None:
    inside = [v for v in values if abs(v) <= LIMIT]
    assert view.in_domain == len(inside)
    if not inside:
        return
    total, mean, m2, m3, m4, cubes = (large_moments if large else moments)(inside)
    magnitude = fsum(abs(v) for v in inside)
    assert abs(view.sum - total) <= 1e-12 * magnitude
    assert abs(view.mean - mean) <= 1e-12 * magnitude / len(inside)
    spread = m2 / len(inside)
    if spread < 1e-140:  # squares of such differences leave the range of float64
        return
    rounding = len(inside) * (2.0**-52 * max(abs(v) for v in inside)) ** 2
    assert abs(view.m2 - m2) <= 1e-9 * m2 + rounding
    assert abs(view.m3 - m3) <= 1e-9 * cubes + rounding * spread**0.5
    assert abs(view.m4 - m4) <= 1e-9 * m4 + rounding * spread
    if len(inside) > 1:
        assert abs(view.variance() - m2 / (len(inside) - 1)) <= 1e-9 * view.variance() + rounding


@settings(max_examples=150, deadline=None)
@given(st.lists(st.floats(-1e9, 1e9), max_size=80))
def test_moments_equal_rational_arithmetic(values: list[float]) -> None:
    assert_moments(numeric_view(numeric(values)), values)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=40))
def test_huge_and_tiny_values_leave_moments_finite(values: list[float]) -> None:
    view = numeric_view(numeric(values))
    if view.in_domain:
        assert np.isfinite([view.sum, view.mean, view.m2, view.m3, view.m4]).all()
    assert_moments(view, values)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [1, 2, 9, 64, 65, 500])
def test_moments_of_every_shape_equal_rational_arithmetic(shape: str, n: int) -> None:
    values = SHAPES[shape](np.random.default_rng(n), n).tolist()
    assert_moments(numeric_view(numeric(values)), values)


@pytest.mark.parametrize("shape", SHAPES)
def test_moments_of_many_values_and_merges_stay_within_bounds(shape: str) -> None:
    values = SHAPES[shape](np.random.default_rng(4), 50_000)
    assert_moments(numeric_view(numeric(values)), values.tolist(), large=True)
    parts = [numeric(part) for part in np.array_split(values, 97)]
    for wide in (False, True):
        assert_moments(numeric_view(merged(parts, wide)), values.tolist(), large=True)


@pytest.mark.parametrize("shape", ["normal", "timestamps", "outlier first"])
def test_moments_of_a_million_values_stay_within_bounds(shape: str) -> None:
    values = SHAPES[shape](np.random.default_rng(6), 1_000_000)
    assert_moments(numeric_view(numeric(values, 1 << 20)), values.tolist(), large=True)


def test_an_outlier_as_first_value_does_not_spoil_the_rest() -> None:
    values = [1e18, *([1.0, 2.0, 3.0] * 20_000)]
    view = numeric_view(numeric(values))
    assert_moments(view, values, large=True)
    rest = numeric_view(merged([numeric(values[:1]), numeric(values[1:])]))
    assert_moments(rest, values, large=True)


def test_one_sentinel_beyond_the_domain_stays_out_of_sum_and_moments() -> None:
    view = numeric_view(numeric([1.0, 3.0, 1e308, -1e308]))
    assert (view.count, view.over_range, view.in_domain) == (4, 2, 2)
    assert (view.sum, view.mean, view.variance()) == (4.0, 2.0, 2.0)
    assert (view.min, view.max) == (-1e308, 1e308)
