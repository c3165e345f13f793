"""Waves: random Fourier features of directions, which show a change of a cloud of vectors that keeps its centre.

A wave is cos(w . u + b) of a direction u. Means of many waves with random w tell clouds apart as a Gaussian
kernel does (Rahimi and Recht 2007; Gretton et al. 2012), and are sums over rows: they add. w has the
bandwidth of a baseline, so sums belong to the baseline's `WaveTable`, and those of two tables do not add.

All is in whole numbers, so that adding is exact in any order and on any machine. w comes from a hash of the
seed: each entry is the sum of four uniform numbers, which is near enough to a normal for a kernel.
Phases are whole parts of a turn, 2^PHASE_BITS of them, and cosines come from a table of 1,024, in units.
"""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache
from typing import Annotated, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
N_WAVES: Final = 256
#: Height of a wave, in units.
HEIGHT: Final = 1 << 10
#: Parts of a turn that phases are counted in: partial sums of products stay below 2^53.
PHASE_BITS: Final = 26
_TABLE_BITS: Final = 10
_COSINES: Final = np.rint(
    HEIGHT * np.cos(2.0 * math.pi * np.arange(1 << _TABLE_BITS) / (1 << _TABLE_BITS))
)
_ID_BYTES: Final = 8
#: Standard deviation of the sum of four uniform numbers of 16 bits.
_SD: Final = math.sqrt(4.0 * ((1 << 32) - 1) / 12.0)


class WaveTable(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The waves of one column: `seed` says which; `bandwidth` in lengths of a direction."""

    dimension: Annotated[int, msgspec.Meta(ge=1)]
    bandwidth: Annotated[float, msgspec.Meta(gt=0)]
    seed: bytes

    @property
    def id(self) -> bytes:
        """8 bytes: tables of the same waves have the same."""
        return hashlib.blake2b(msgspec.msgpack.encode(self), digest_size=_ID_BYTES).digest()

    def sums(self, units: Floats, unit: int) -> tuple[Ints, int]:
        """Sums of waves int64[N_WAVES] and of their squares, over directions float64[n, d] of length `unit`."""
        weights, offsets = _weights(self, unit)
        phase = (units @ weights + offsets).astype(np.int64)
        place = (phase >> (PHASE_BITS - _TABLE_BITS)) & ((1 << _TABLE_BITS) - 1)
        waves = _COSINES[place]
        return waves.sum(axis=0).astype(np.int64), int((waves * waves).sum())


@lru_cache(maxsize=16)
def _weights(table: WaveTable, unit: int) -> tuple[Floats, Floats]:
    """w float64[d, N_WAVES] and b float64[N_WAVES], whole numbers, in parts of a turn by unit."""
    d = table.dimension
    drawn = hashlib.shake_256(table.seed + b"waves").digest(8 * d * N_WAVES + 4 * N_WAVES)
    uniform = np.frombuffer(drawn, "<u2", 4 * d * N_WAVES).reshape(d, N_WAVES, 4)
    normal = (uniform.sum(axis=2, dtype=np.int64) - 2 * ((1 << 16) - 1)) / _SD
    scale = (1 << PHASE_BITS) / (2.0 * math.pi * table.bandwidth * unit)
    offsets = np.frombuffer(drawn, "<u4", N_WAVES, 8 * d * N_WAVES) >> (32 - PHASE_BITS)
    return np.rint(normal * scale), offsets.astype(np.float64)


class WaveSums(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Waves of `rows` directions: `packed` int64[N_WAVES] sums in units; `power` sum of all squares."""

    table_id: bytes
    rows: Annotated[int, msgspec.Meta(ge=1)]
    packed: bytes
    power: Annotated[int, msgspec.Meta(ge=0)]

    @staticmethod
    def of(table_id: bytes, rows: int, sums: Ints, power: int) -> WaveSums:
        return WaveSums(table_id, rows, sums.astype("<i8").tobytes(), power)

    @property
    def sums(self) -> Ints:
        """int64[N_WAVES] in units."""
        return np.frombuffer(self.packed, "<i8").astype(np.int64)

    def __add__(self, other: WaveSums) -> WaveSums:
        """All rows of both, which are of one table."""
        both = self.sums + other.sums
        return WaveSums.of(self.table_id, self.rows + other.rows, both, self.power + other.power)

    def problem(self) -> str:
        """What is wrong with it; "" when nothing is."""
        if len(self.table_id) != _ID_BYTES or len(self.packed) != 8 * N_WAVES:
            return f"waves of {len(self.packed)} bytes"
        return ""
