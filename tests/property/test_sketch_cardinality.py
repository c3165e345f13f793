"""Distinct counts: registers against a plain reference, estimates against the stated standard error."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.sketch import cardinality
from agent.sketch.kernels import layout
from agent.sketch.views import numeric_view, string_view
from tests.reference.merge_hash import merge_hash, value_hash
from tests.reference.sketching import numeric, numeric_records, strings
from tests.reference.ultraloglog import likely_count, registers

SEEDS = 40


def assert_within_standard_error(estimates: list[float], n: int, precision: int) -> None:
    """Five sigma on the mean and on the spread of the relative errors."""
    error = np.array(estimates) / n - 1
    sigma = 0.761 / sqrt(1 << precision)  # Ertl, PVLDB 17(7), 2024
    assert abs(error.mean()) <= 5 * sigma / sqrt(len(error)) + 1 / (1 << precision)
    assert sqrt((error**2).mean()) <= sigma * sqrt(1 + 5 * sqrt(2 / len(error)))


@pytest.mark.parametrize("n", [1, 2, 10, 100, 1000, 10_000, 100_000])
def test_distinct_numbers_are_within_the_standard_error(n: int) -> None:
    columns = np.random.default_rng(n).normal(size=(n, SEEDS))
    found = [numeric_view(r).distinct() for r in numeric_records(columns, 1 << 15)]
    assert_within_standard_error(found, n, layout.PRECISION)


def test_a_million_distinct_numbers_are_within_the_standard_error() -> None:
    columns = np.random.default_rng(1).normal(size=(1_000_000, 6))
    found = [numeric_view(r).distinct() for r in numeric_records(columns, 1 << 16)]
    assert_within_standard_error(found, 1_000_000, layout.PRECISION)


@pytest.mark.parametrize("step", [1.0, 0.1, 1e-3, 2.0**20, -1.0, 1 / 3])
@pytest.mark.parametrize("n", [1000, 100_000])
def test_regular_numbers_are_counted_as_well_as_random_ones(step: float, n: int) -> None:
    columns = np.array([np.arange(1, n + 1) * step + k * n * step for k in range(16)]).T
    found = [numeric_view(r).distinct() for r in numeric_records(np.ascontiguousarray(columns))]
    assert_within_standard_error(found, n, layout.PRECISION)


@pytest.mark.parametrize("n", [1, 10, 100, 1000, 10_000, 100_000])
def test_distinct_texts_are_within_the_standard_error(n: int) -> None:
    found = []
    for seed in range(SEEDS if n < 100_000 else 8):
        texts = [b"%d:%d" % (seed, i) for i in range(n)]
        found.append(string_view(strings(texts)).distinct())
    assert_within_standard_error(found, n, layout.PRECISION)


def test_a_million_distinct_texts_are_within_the_standard_error() -> None:
    texts = [b"user-%d" % i for i in range(1_000_000)]
    assert abs(string_view(strings(texts)).distinct() / 1e6 - 1) <= 4 * 0.0168


def test_repeats_do_not_count() -> None:
    values = np.random.default_rng(0).integers(0, 300, 100_000).astype(float)
    once = np.unique(values)
    assert numeric_view(numeric(values)).distinct() == numeric_view(numeric(once)).distinct()
    assert numeric_view(numeric([0.0, -0.0, 0.0])).distinct() == pytest.approx(1, rel=0.01)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=200))
def test_registers_of_numbers_equal_the_reference(values: list[float]) -> None:
    bits = np.array([v + 0.0 for v in values], np.float64).view(np.uint64).tolist()
    want = registers((value_hash(b) for b in bits), layout.PRECISION)
    assert numeric_view(numeric(values)).registers.tolist() == want


@settings(max_examples=40, deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=400))
def test_registers_of_texts_equal_the_reference(texts: list[bytes]) -> None:
    want = registers((merge_hash(t) for t in texts), layout.PRECISION)
    assert string_view(strings(texts)).registers.tolist() == want


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([4, 8, layout.PRECISION]),
    st.floats(0.0, 7.0),
    st.integers(0, 2**32),
)
def test_the_estimate_is_the_maximum_of_the_likelihood(p: int, exponent: float, seed: int) -> None:
    n = min(round(10**exponent), 20_000) - 1
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2**64, n, np.uint64).tolist()
    if exponent > 5:  # as if there had been many more: leading zeros behind the register's bits
        hashes = [h >> (64 - p) << (64 - p) | (h & ((1 << (64 - p)) - 1)) >> 12 for h in hashes]
    found = registers(hashes, p)
    want = likely_count(found, p)
    both = np.array([found, found], np.uint8)
    for got in (cardinality.estimate(both[0]), *cardinality.estimates(both)):
        assert got == pytest.approx(want, rel=1e-8)


def test_full_registers_do_not_overflow() -> None:
    top = (64 - 9 + 1 + 9 - 2) << 2 | 3
    assert cardinality.estimate(np.full(512, top, np.uint8)) == 2.0**64
