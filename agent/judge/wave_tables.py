"""Which waves the vectors of a baseline are compared by (`sketch.waves`): one table for each of its columns.

A table follows from the sums of the baseline's directions alone, so agents, `profile build` and the judge all
come to the same one, and nothing of it needs to be stored. The bandwidth is half the distance that two
directions typically have: the root of its mean square, 2 (1 - |mean|^2), where a median would need pairs
of rows. In many dimensions the two are nearly the same.
"""

from __future__ import annotations

import hashlib
import math
from typing import Final

import msgspec

from agent.fold.profile import Profile
from agent.judge.vector_cells import MIN_DIRECTIONS, Cloud
from agent.sketch.vector_sums import VectorSums, from_bytes, to_bytes
from agent.sketch.waves import WaveTable
from agent.types import Column

#: Directions that agree so much have no bandwidth to speak of.
_LEAST_SPREAD: Final = 1e-4
_SEED_BYTES: Final = 16


def wave_tables(profile: Profile) -> dict[Column, WaveTable]:
    """Of each column of vectors with enough directions, in the dimension that most of them have."""
    found: dict[Column, WaveTable] = {}
    most: dict[Column, int] = {}
    for sums in from_bytes(profile.vectors):
        if sums.rows > most.get(sums.column, 0):
            most[sums.column] = sums.rows
            found.pop(sums.column, None)
            table = _table(sums)
            if table is not None:
                found[sums.column] = table
    return found


def _table(sums: VectorSums) -> WaveTable | None:
    cloud = Cloud.of(sums)
    if cloud.sums is None or cloud.n < MIN_DIRECTIONS:
        return None
    mean = cloud.sums / cloud.n
    spread = 1.0 - float(mean @ mean)
    if spread < _LEAST_SPREAD:
        return None
    own = msgspec.structs.replace(sums, waves=None)
    seed = hashlib.blake2b(msgspec.msgpack.encode(own), digest_size=_SEED_BYTES).digest()
    # A few digits, so that an order of adding up that differs in the last bit makes no other table.
    bandwidth = float(f"{math.sqrt(2.0 * spread) / 2.0:.3g}")
    return WaveTable(sums.dimension, bandwidth, seed)


def with_waves(vectors: bytes, waves: bytes) -> bytes:
    """Sums of a baseline, with the waves of the same rows, which were read once more."""
    read = {(sums.column, sums.dimension): sums.waves for sums in from_bytes(waves)}
    return to_bytes(
        msgspec.structs.replace(sums, waves=read.get((sums.column, sums.dimension)))
        for sums in from_bytes(vectors)
    )
