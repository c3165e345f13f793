"""Which rows' vectors are looked at as a whole, and where they are in an event: one row in 16.

A row's vectors cost more to add up than all of its numbers, so a sample of rows stands for all. Which rows
is decided by a fixed hash of a row's place (partition, offset, row): the same in every tier, in every run,
however partitions are spread over threads and agents, and for a file wherever it lies.

The compiled tiers keep the norm of a vector and not its elements. So a sampled record of theirs that has
vectors is parsed once more, by orjson: a parse in 16 records, and none for streams without vectors.
Elements wait until their block is sketched, so a slice's bytes bound them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.decode.span_ids import GOLDEN, MIX_1, MIX_2
from agent.types import Column, Partition, Role

#: One row in 2^SAMPLE_BITS.
SAMPLE_BITS: Final = 4
_WORD: Final = (1 << 64) - 1
_NUMBER_TYPES: Final = frozenset((int, float))


class RowSample:
    """Says which rows of one partition are sampled."""

    def __init__(self, partition: Partition) -> None:
        self._salt = _mixed((partition.partition + 1) * GOLDEN & _WORD)

    def takes(self, offset: int, row: int) -> bool:
        """Row `row` of the record at `offset`."""
        mixed = _mixed((offset * GOLDEN & _WORD) ^ self._salt)
        return _mixed(mixed + row * GOLDEN & _WORD) >> (64 - SAMPLE_BITS) == 0

    def taken(self, offsets: NDArray[np.int64]) -> NDArray[np.bool_]:
        """bool[n]: the first rows of the records at these offsets."""
        words = (offsets.astype(np.uint64) * np.uint64(GOLDEN)) ^ np.uint64(self._salt)
        taken: NDArray[np.bool_] = _all_mixed(_all_mixed(words)) >> np.uint64(64 - SAMPLE_BITS) == 0
        return taken


def _mixed(x: int) -> int:
    """The finaliser of SplitMix64."""
    x = (x ^ x >> 30) * MIX_1 & _WORD
    x = (x ^ x >> 27) * MIX_2 & _WORD
    return x ^ x >> 31


def _all_mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(MIX_1)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(MIX_2)
    return x ^ (x >> np.uint64(31))


def is_vector(value: Any) -> bool:
    """Whether a value is an array of numbers, possibly empty."""
    return type(value) is list and set(map(type, value)) <= _NUMBER_TYPES


def vectors_of(
    features: Mapping[str, Any], predictions: Any
) -> Iterator[tuple[Column, list[int | float]]]:
    """Vectors of a row: of flattened features, and of a prediction that is one or holds some (flattened)."""
    for name, value in features.items():
        if is_vector(value):
            yield Column(Role.FEATURE, name), value
    if type(predictions) is dict:
        for name, value in predictions.items():
            if is_vector(value):
                yield Column(Role.PREDICTION, name), value
    elif is_vector(predictions):
        yield Column(Role.PREDICTION, "vector"), predictions
