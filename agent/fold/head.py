"""A wide cell as exports need it: read in bulk, at a scale that fits.

One compiled call reads all cells; what it gives is copied, so it may be kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.errors import DecodeError
from agent.sketch.cells import CellPages
from agent.sketch.kernels import export

Counts = NDArray[np.uint64]
NO_COUNTS: Counts = np.zeros(0, np.uint64)

#: Cells read at once: their buckets take some 2 MB, and no step here holds the GIL for long.
_AT_ONCE = 1024


class HeadState(msgspec.Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    """A `Head`; counts as little-endian uint64."""

    scale: int
    in_domain: int
    zeros: int
    non_finite: int
    over_range: int
    positive_offset: int
    positive: bytes
    negative_offset: int
    negative: bytes
    sum: float
    min: float
    max: float


@dataclass(slots=True)
class Head:
    """A wide cell as read for export. `positive` and `negative` are owned by the reading."""

    scale: int
    in_domain: int
    zeros: int
    non_finite: int
    over_range: int
    positive_offset: int
    positive: Counts
    negative_offset: int
    negative: Counts
    sum: float
    min: float
    max: float

    @property
    def count(self) -> int:
        return self.in_domain + self.over_range

    @property
    def is_signed(self) -> bool:
        """Whether any value is below zero, however close to it."""
        return self.count > 0 and self.min < 0.0

    def state(self) -> HeadState:
        return HeadState(
            self.scale,
            self.in_domain,
            self.zeros,
            self.non_finite,
            self.over_range,
            self.positive_offset,
            self.positive.astype("<u8").tobytes(),
            self.negative_offset,
            self.negative.astype("<u8").tobytes(),
            self.sum,
            self.min,
            self.max,
        )

    @staticmethod
    def restored(state: HeadState) -> Head:
        """Raises DecodeError when it is not the state of a reading."""
        return Head(
            state.scale,
            state.in_domain,
            state.zeros,
            state.non_finite,
            state.over_range,
            state.positive_offset,
            _counts(state.positive),
            state.negative_offset,
            _counts(state.negative),
            state.sum,
            state.min,
            state.max,
        )


def _counts(data: bytes) -> Counts:
    if len(data) % 8:
        raise DecodeError(f"counts of a histogram take {len(data)} bytes")
    return np.frombuffer(data, "<u8").astype(np.uint64)


def read_heads(
    pages: CellPages, cells: Sequence[int], highest_scale: Sequence[int], max_buckets: int
) -> list[Head]:
    """Read wide numeric cells, each at a scale of at most `highest_scale` and `max_buckets` a sign."""
    out: list[Head] = []
    for low in range(0, len(cells), _AT_ONCE):
        part = slice(low, low + _AT_ONCE)
        out += _read(pages, cells[part], highest_scale[part], max_buckets)
    return out


def _read(
    pages: CellPages, cells: Sequence[int], highest_scale: Sequence[int], max_buckets: int
) -> list[Head]:
    n = len(cells)
    addresses = pages.addresses[np.array(cells, np.int64)]
    scales = np.array(highest_scale, np.int64)
    heads = np.empty((n, export.HEAD_FIELDS), np.int64)
    values = np.empty((n, export.VALUE_FIELDS), np.float64)
    counts = np.empty(n * 2 * max_buckets, np.uint64)
    used = int(
        export.read_totals(
            addresses.ctypes.data,
            n,
            scales.ctypes.data,
            max_buckets,
            heads.ctypes.data,
            values.ctypes.data,
            counts.ctypes.data,
        )
    )
    counts = counts[:used].copy()
    out = []
    for (scale, inside, zeros, bad, above, below, po, pn, no, nn, at), (total, low, high) in zip(
        heads.tolist(), values.tolist(), strict=True
    ):
        middle = at + pn
        out.append(
            Head(
                scale,
                inside,
                zeros,
                bad,
                above + below,
                po,
                counts[at:middle],
                no,
                counts[middle : middle + nn],
                total,
                low,
                high,
            )
        )
    return out
