"""Directions and waves of vectors, added up: exact in any order, and near what real numbers say."""

from __future__ import annotations

import numpy as np
import pytest

from agent.errors import DecodeError
from agent.sketch.vector_sums import (
    MOST_DIMENSIONS,
    OTHERS,
    UNIT,
    VectorSums,
    directions,
    from_bytes,
    packed,
    to_bytes,
    united_vectors,
)
from agent.sketch.waves import N_WAVES, WaveSums, WaveTable
from agent.types import Column, Role

EMB = Column(Role.FEATURE, "emb")
OTHER = Column(Role.PREDICTION, "vector")


def sums(vectors: np.ndarray, column: Column = EMB) -> VectorSums:
    units, is_blank = directions(vectors)
    total = units.sum(axis=0).astype(np.int64)
    return VectorSums(column, vectors.shape[1], len(vectors), int(is_blank.sum()), packed(total))


@pytest.mark.parametrize("size", [1e-300, 1e-9, 1.0, 1e9, 1e300])
def test_a_direction_is_the_vector_over_its_length(size: float) -> None:
    vectors = np.random.default_rng(1).normal(size=(50, 33))
    units, is_blank = directions(vectors * size)
    assert not is_blank.any()
    expected = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    # Half a unit of rounding, and parts of the largest element before.
    assert np.abs(units / UNIT - expected).max() < 0.51 / UNIT


def test_a_direction_does_not_depend_on_what_else_is_in_the_batch() -> None:
    vectors = np.random.default_rng(2).lognormal(size=(40, MOST_DIMENSIONS))
    whole, _ = directions(vectors)
    assert all((directions(vectors[i : i + 1])[0] == whole[i]).all() for i in range(40))


def test_zeros_and_what_is_not_finite_point_nowhere() -> None:
    vectors = np.array([[0.0, 0.0], [np.nan, 1.0], [np.inf, 1.0], [0.0, -2.0]])
    units, is_blank = directions(vectors)
    assert is_blank.tolist() == [True, True, True, False]
    assert units.tolist() == [[0.0, 0.0]] * 3 + [[0.0, -UNIT]]


def test_a_union_has_the_sums_of_all_rows_whatever_the_order() -> None:
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(90, 7))
    parts = [to_bytes([sums(part), sums(part[:, :3], OTHER)]) for part in np.split(vectors, 9)]
    expected = to_bytes([sums(vectors), sums(vectors[:, :3], OTHER)])
    for _ in range(5):
        rng.shuffle(parts)
        assert united_vectors(parts) == expected
        assert (
            united_vectors([united_vectors(parts[:4]), b"", united_vectors(parts[4:])]) == expected
        )


def test_dimensions_past_the_fourth_are_only_counted() -> None:
    parts = [to_bytes([sums(np.ones((10 + d, d)))]) for d in range(1, 7)]
    found = {part.dimension: part.rows for part in from_bytes(united_vectors(parts))}
    assert found == {3: 13, 4: 14, 5: 15, 6: 16, OTHERS: 11 + 12}


def test_damaged_bytes_are_refused() -> None:
    data = to_bytes([sums(np.ones((3, 4)))])
    assert from_bytes(data)[0].rows == 3
    bad = [
        data[:-1],
        data + b"\0",
        to_bytes([VectorSums(EMB, 4, 3, 4, b"")]),
        to_bytes([VectorSums(EMB, 4, 3, 0, b"12345")]),
        to_bytes([VectorSums(EMB, 4, 3, 0, b"", WaveSums(b"12345678", 3, b"", 0))]),
    ]
    for damaged in bad:
        with pytest.raises(DecodeError, match="vector sums"):
            from_bytes(damaged)


def test_waves_add_up_exactly_and_measure_by_a_gaussian_kernel() -> None:
    rng = np.random.default_rng(4)
    units, _ = directions(rng.normal(size=(64, 24)) + 0.5)
    table = WaveTable(24, 0.8, b"seed")
    whole, power = table.sums(units, UNIT)
    first, first_power = table.sums(units[:11], UNIT)
    rest, rest_power = table.sums(units[11:], UNIT)
    assert (whole == first + rest).all()
    assert power == first_power + rest_power

    # Squared distance of the means of two halves: by waves, and by the kernel itself.
    a, b = units[:32] / UNIT, units[32:] / UNIT

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        squares = ((x[:, None] - y[None]) ** 2).sum(axis=2)
        return float(np.exp(-squares / (2 * 0.8**2)).mean())

    expected = kernel(a, a) + kernel(b, b) - 2 * kernel(a, b)
    means = [table.sums(part * UNIT, UNIT)[0] / 32 / (1 << 10) for part in (a, b)]
    found = 2.0 / N_WAVES * float(((means[0] - means[1]) ** 2).sum())
    assert found == pytest.approx(expected, rel=0.5)
    assert WaveTable(24, 0.8, b"other").id != table.id
