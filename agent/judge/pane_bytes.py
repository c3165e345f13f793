"""A pane's bytes while it waits: what tells one row's noise from another's, and no more.

Calibration asks how much panes differ, not what is in them. So registers of numeric columns (how many values differ)
are left out, and buckets are joined in pairs until a sketch has few; at the scale that is left a pane is compared
with the baseline at the same scale, as any window of another scale is. What remains is compressed.
"""

from __future__ import annotations

from dataclasses import replace

import cramjam
import numpy as np

from agent.errors import DecodeError
from agent.fold.kinds import is_string_kind
from agent.fold.profile import Profile, ProfileColumn
from agent.sketch.cells import NUMERIC_WIDE_CELL_BYTES, Bytes
from agent.sketch.codec import numeric_from_bytes, numeric_to_bytes
from agent.sketch.kernels import layout

_LEVEL = 3


def packed(pane: Profile, most_buckets: int = 2 * layout.RING) -> bytes:
    """A pane as bytes that `unpacked` reads. `most_buckets` of a numeric column may be in use; the coarsest scale
    (8 buckets an octave) is kept however many that has."""
    columns = {}
    for name, column in pane.columns.items():
        sketch = column.sketch
        if sketch and column.kind is not None and not is_string_kind(column.kind):
            record = numeric_from_bytes(sketch)
            record[layout.NUMERIC_REGISTERS : layout.BUCKETS] = 0
            _coarsen(record, most_buckets)
            sketch = numeric_to_bytes(record)
        columns[name] = ProfileColumn(column.kind, column.present, sketch)
    return bytes(cramjam.zstd.compress(replace(pane, columns=columns).to_bytes(), _LEVEL))


def unpacked(data: bytes) -> Profile:
    """What `packed` made. Raises DecodeError."""
    try:
        raw = bytes(cramjam.zstd.decompress(data))
    except cramjam.DecompressionError as error:
        raise DecodeError(f"pane: {error}") from None
    return Profile.from_bytes(raw)


def _coarsen(record: Bytes, most: int) -> None:
    """Lower the scale of a numeric record until at most so many buckets are in use, in place."""
    wide = len(record) == NUMERIC_WIDE_CELL_BYTES
    rings = record[layout.BUCKETS :].view(np.uint64 if wide else np.uint32).reshape(2, layout.RING)
    extents = record[layout.EXTENTS : layout.SHIFT].view(np.int32).reshape(2, 2)
    shift = record[layout.SHIFT : layout.SHIFT + 4].view(np.int32)
    while np.count_nonzero(rings) > most and shift[0] < layout.MAX_SCALE - layout.MIN_SCALE:
        for ring, extent in zip(rings, extents, strict=True):
            first, span = int(extent[0]), int(extent[1])
            buckets = np.arange(first, first + span)
            counts = ring[buckets & (layout.RING - 1)]
            ring[:] = 0
            np.add.at(ring, (buckets >> 1) & (layout.RING - 1), counts)
            if span:
                extent[:] = first >> 1, ((first + span - 1) >> 1) - (first >> 1) + 1
        shift[0] += 1
