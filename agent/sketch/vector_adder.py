"""Adds up the sampled vectors of one kernel thread, by stream, window, column and dimension.

Invariants
 1. One owner, the kernel thread; nothing is counted here, so what is left out is only not compared.
 2. A vector's sums are in one (stream, window): late and future rows are in none.
 3. Bounded: at most `max_bytes` of sums; what would need more is left out until the next freeze.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.sketch.pair_sums import ScoreTable
from agent.sketch.sampled_block import SampledBlock
from agent.sketch.vector_sums import (
    MOST_DIMENSIONS,
    UNIT,
    VectorSums,
    directions,
    packed,
    to_bytes,
    united_vectors,
)
from agent.sketch.waves import N_WAVES, WaveSums, WaveTable
from agent.types import WINDOW_FUTURE, WINDOW_LATE, Column, StreamKey

Ints = NDArray[np.int64]
#: Tables of waves by (model, version), (model, None) for versions that have none of their own; by column.
_Model = tuple[str, str | None]
WaveTables = Mapping[_Model, Mapping[Column, WaveTable]]
_MAX_BYTES: Final = 32 << 20
#: What an entry costs apart from its sums.
_ENTRY_BYTES: Final = 512


class BaselineTables(dict[_Model, ScoreTable]):
    """How a baseline has rows scored: its score tables, as `pair_scorer.Tables`, and beside them its waves."""

    def __init__(self, scores: Mapping[_Model, ScoreTable], waves: WaveTables) -> None:
        super().__init__(scores)
        self.waves = waves

    def __bool__(self) -> bool:
        return bool(len(self) or self.waves)


#: Stream number, window, column, dimension.
_Key = tuple[int, int, Column, int]


@dataclass(slots=True)
class _Sums:
    """`sums` None: only counted. `waves`: their table, sums int64[N_WAVES] and sum of squares."""

    sums: Ints | None
    rows: int = 0
    undirected: int = 0
    table: WaveTable | None = None
    waves: Ints | None = None
    power: int = 0


class VectorAdder:
    """See the module. `keys`: of streams by number, as the stream table has them."""

    def __init__(
        self,
        keys: Sequence[StreamKey],
        tables: WaveTables | None = None,
        max_bytes: int = _MAX_BYTES,
    ) -> None:
        self._keys = keys
        self._tables = tables or {}
        self._max_bytes = max_bytes
        self._held: dict[_Key, _Sums] = {}
        self.size_bytes = 0

    def add(self, block: SampledBlock) -> None:
        """The sampled vectors of a block that was found sound."""
        waiting: dict[_Key, list[list[int | float]]] = {}
        for row, column, elements in block.vectors:
            stream, window = int(block.stream[row]), int(block.window[row])
            if stream >= 0 and window not in (WINDOW_LATE, WINDOW_FUTURE):
                waiting.setdefault((stream, window, column, len(elements)), []).append(elements)
        for key, vectors in waiting.items():
            held = self._held.get(key) or self._new(key)
            if held is not None:
                _add(held, vectors)

    def _new(self, key: _Key) -> _Sums | None:
        """Room for a new entry; None where there is none."""
        stream, _, column, dimension = key
        is_kept = 0 < dimension <= MOST_DIMENSIONS
        made = _Sums(np.zeros(dimension, np.int64) if is_kept else None)
        if is_kept:
            table = self._table(self._keys[stream], column)
            if table is not None and table.dimension == dimension:
                made.table, made.waves = table, np.zeros(N_WAVES, np.int64)
        size = _ENTRY_BYTES + sum(a.nbytes for a in (made.sums, made.waves) if a is not None)
        if self.size_bytes + size > self._max_bytes:
            return None
        self.size_bytes += size
        self._held[key] = made
        return made

    def _table(self, stream: StreamKey, column: Column) -> WaveTable | None:
        own = self._tables.get((stream.model, stream.version))
        if own is None:
            own = self._tables.get((stream.model, None), {})
        return own.get(column)

    def freeze(self) -> dict[tuple[StreamKey, int], bytes]:
        """Sums by stream and window (`vector_sums.to_bytes`); nothing is held then."""
        groups: dict[tuple[int, int], list[VectorSums]] = {}
        for (stream, window, column, dimension), held in self._held.items():
            waves = None
            if held.table is not None and held.waves is not None and held.rows > held.undirected:
                n = held.rows - held.undirected
                waves = WaveSums.of(held.table.id, n, held.waves, held.power)
            sums = packed(held.sums) if held.sums is not None else b""
            groups.setdefault((stream, window), []).append(
                VectorSums(column, dimension, held.rows, held.undirected, sums, waves)
            )
        self._held, self.size_bytes = {}, 0
        found: dict[tuple[StreamKey, int], bytes] = {}
        for (stream, window), parts in groups.items():
            # A model that moved has two numbers for one stream.
            key = self._keys[stream], window
            found[key] = united_vectors((found.get(key, b""), to_bytes(parts)))
        return found


def _add(held: _Sums, vectors: list[list[int | float]]) -> None:
    """Vectors of one dimension, in place."""
    held.rows += len(vectors)
    if held.sums is None:
        held.undirected += sum(not any(vector) for vector in vectors)
        return
    units, is_blank = directions(np.array(vectors, np.float64))
    held.undirected += int(is_blank.sum())
    held.sums += units.sum(axis=0).astype(np.int64)
    if held.table is not None and held.waves is not None:
        waves, power = held.table.sums(units[~is_blank], UNIT)
        held.waves += waves
        held.power += power
