"""Counts, scale and quantiles of numeric cells against exact answers."""

from __future__ import annotations

from math import inf, nan, nextafter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.sketch import histogram
from agent.sketch.views import NumericView, numeric_view
from tests.reference import histogram as reference
from tests.reference.sketching import SHAPES, exact_part, merged, numeric

#: Exact in binary, so that q * n has no rounding and every convention agrees on the rank.
QS = (0.0, 1 / 64, 1 / 8, 0.25, 0.5, 0.75, 7 / 8, 63 / 64, 1.0)
#: One NaN for all: two payloads mean "absent" and "null".
ANY_FLOAT = st.floats(allow_subnormal=True).map(lambda value: value if value == value else nan)
FLOATS = st.one_of(
    ANY_FLOAT,
    st.floats(-1e6, 1e6),
    st.sampled_from(
        [0.0, -0.0, 1.0, -1.0, 2.0**64, -(2.0**64), 2.0**-64, 5e-324, 1.7e308, inf, nan]
    ),
)


def assert_same_as_reference(view: NumericView, values: list[float]) -> None:
    want = reference.histogram(values)
    finite = [v for v in values if np.isfinite(v)]
    assert view.count == len(finite)
    assert view.non_finite == len(values) - len(finite)
    assert (view.zeros, view.over_range, view.scale) == (want.zeros, want.over_range, want.scale)
    for counts, offset, side in (
        (view.positive, view.positive_offset, want.positive),
        (view.negative, view.negative_offset, want.negative),
    ):
        assert {offset + i: c for i, c in enumerate(counts.tolist()) if c} == dict(side)
        if len(counts):
            assert counts[0]
            assert counts[-1]
    if finite:
        assert (view.min, view.max) == (min(finite), max(finite))
    else:
        assert np.isnan(view.min)


@settings(max_examples=200, deadline=None)
@given(st.lists(FLOATS, max_size=60))
def test_any_floats_are_counted_as_integer_arithmetic_says(values: list[float]) -> None:
    assert_same_as_reference(numeric_view(numeric(values)), values)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [0, 1, 2, 3, 17, 1500])
def test_every_shape_is_counted_as_integer_arithmetic_says(shape: str, n: int) -> None:
    values = SHAPES[shape](np.random.default_rng(n), n)
    assert_same_as_reference(numeric_view(numeric(values)), values.tolist())


def test_bounds_and_their_neighbours_fall_into_the_right_bucket() -> None:
    values = []
    for exponent in (-64, -63, -40, -1, 0, 1, 7, 52, 63):
        for step in range(256):
            bound = 2.0 ** (exponent + step / 256)
            values += [nextafter(bound, 0), bound, nextafter(bound, inf)]
    values += [2.0**e for e in range(-64, 65)]
    values += [nextafter(2.0**-64, 0), nextafter(2.0**64, inf), 2.0**64, 2.0**-64]
    for value in values:
        assert_same_as_reference(numeric_view(numeric([value])), [value])
        assert_same_as_reference(numeric_view(numeric([-value])), [-value])


@pytest.mark.parametrize("scale", [8, 7, 6, 5, 4, 3])
def test_indices_at_lower_scales_are_exact_as_well(scale: int) -> None:
    octaves = (
        0 if scale == 8 else 1.5 * 2 ** (9 - scale)
    )  # between what this and the next scale hold
    wide = [2.0 ** -(octaves / 2), 2.0 ** (octaves / 2)]
    for step in range(256):
        bound = 2.0 ** (step / 256)
        values = [*wide, nextafter(bound, 0), bound, nextafter(bound, inf)]
        view = numeric_view(numeric(values))
        assert view.scale == scale
        assert_same_as_reference(view, values)


def assert_quantiles(view: NumericView, values: np.ndarray) -> None:
    finite = values[np.isfinite(values)]
    exact = np.quantile(finite, QS, method="inverted_cdf")
    assert view.min == finite.min()
    assert view.max == finite.max()
    bound = histogram.relative_error(view.scale)
    assert view.relative_error in (bound, None)
    inside = (np.abs(finite) <= histogram.DOMAIN_LIMIT) & (np.abs(finite) > 2.0**-64)
    if (inside | (finite == 0.0)).all():
        assert view.relative_error == bound
    for q, want, got in zip(QS, exact.tolist(), view.quantiles(QS), strict=True):
        if abs(want) > histogram.DOMAIN_LIMIT:
            assert view.min <= got <= view.max
            continue
        allowed = bound * abs(want) * (1 + 1e-12) + histogram.ZERO_THRESHOLD
        assert abs(got - want) <= allowed, (q, want, got)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [1, 2, 10, 1000, 100_000])
def test_quantiles_are_within_the_stated_error(shape: str, n: int) -> None:
    values = SHAPES[shape](np.random.default_rng(n + 1), n)
    view = numeric_view(numeric(values))
    assert view.count == n
    assert view.zeros + int(view.positive.sum()) + int(view.negative.sum()) == n
    assert_quantiles(view, values)


@pytest.mark.parametrize("shape", ["normal", "lognormal", "mostly zero", "whole domain"])
def test_a_million_values_are_counted_and_answered(shape: str) -> None:
    values = SHAPES[shape](np.random.default_rng(5), 1_000_000)
    view = numeric_view(numeric(values, block=1 << 20))
    assert view.count == 1_000_000
    assert view.zeros == int((np.abs(values) <= histogram.ZERO_THRESHOLD).sum())
    assert int(view.positive.sum()) == int((values > histogram.ZERO_THRESHOLD).sum())
    assert int(view.negative.sum()) == int((values < -histogram.ZERO_THRESHOLD).sum())
    assert_quantiles(view, values)


def test_four_decades_keep_one_percent_and_eight_keep_two() -> None:
    rng = np.random.default_rng(3)
    assert numeric_view(numeric(1013 + rng.normal(size=10_000))).relative_error <= 0.0014
    assert numeric_view(numeric(10.0 ** rng.uniform(-2, 2, 10_000))).relative_error <= 0.011
    assert numeric_view(numeric(10.0 ** rng.uniform(-4, 4, 10_000))).relative_error <= 0.022


@settings(max_examples=60, deadline=None)
@given(st.lists(FLOATS, max_size=50), st.randoms(use_true_random=False))
def test_scale_and_counts_do_not_depend_on_the_path(values: list[float], random) -> None:  # type: ignore[no-untyped-def]
    want = exact_part(numeric_view(numeric(values)))
    shuffled = values[:]
    random.shuffle(shuffled)
    assert exact_part(numeric_view(numeric(shuffled, block=random.randint(1, 7)))) == want
    at = random.randint(0, len(values))
    parts = [numeric(shuffled[:at]), numeric(shuffled[at:])]
    random.shuffle(parts)
    for wide in (False, True):
        assert exact_part(numeric_view(merged(parts, wide))) == want


@pytest.mark.parametrize("shape", SHAPES)
def test_a_downscaled_copy_keeps_counts_and_its_own_error(shape: str) -> None:
    values = SHAPES[shape](np.random.default_rng(8), 5000)
    view = numeric_view(numeric(values))
    for limit, most in ((160, None), (160, 2), (20, None), (2, None)):
        small = view.downscaled(limit, most)
        assert len(small.positive) <= limit
        assert len(small.negative) <= limit
        assert most is None or small.scale <= most
        assert small.positive.sum() == view.positive.sum()
        assert small.negative.sum() == view.negative.sum()
        for side, offset, full, full_offset in (
            (small.positive, small.positive_offset, view.positive, view.positive_offset),
            (small.negative, small.negative_offset, view.negative, view.negative_offset),
        ):
            want: dict[int, int] = {}
            for i, count in enumerate(full.tolist()):
                key = (full_offset + i) >> (view.scale - small.scale)
                want[key] = want.get(key, 0) + count
            got = {offset + i: c for i, c in enumerate(side.tolist()) if c}
            assert got == {k: c for k, c in want.items() if c}
        if small.scale >= 0:
            assert_quantiles(small, values)
    if view.downscaled(160).scale < view.scale:  # no finer scale would have fitted
        finer = view.downscaled(10_000, view.downscaled(160).scale + 1)
        assert max(len(finer.positive), len(finer.negative)) > 160


def test_an_empty_cell_says_nothing() -> None:
    view = numeric_view(numeric([]))
    assert (view.count, view.sum, view.scale, view.distinct()) == (0, 0.0, 8, 0.0)
    assert np.isnan(view.quantile(0.5))
    assert np.isnan(view.mean)
    assert np.isnan(view.stddev())


def test_a_quantile_outside_its_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"quantile is 1\.5; must be in 0\.\.1"):
        numeric_view(numeric([1.0])).quantile(1.5)
    with pytest.raises(ValueError, match="max_buckets is 1; must be at least 2"):
        numeric_view(numeric([1.0])).downscaled(1)
