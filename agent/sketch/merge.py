"""Cells into cells: `merge(a, b)` equals one sketch of both inputs.

Exact, in any order: all counts, buckets, scale, extremes, cardinality registers, hashed buckets, string
lengths. Within bounds: sum 1e-12 of sum |x|, moments 1e-9, heavy hitters (their bounds add).
Sources are only read.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agent.sketch.arrays import address_of
from agent.sketch.cells import (
    NUMERIC_CELL_BYTES,
    NUMERIC_WIDE_CELL_BYTES,
    STRING_CELL_BYTES,
    Bytes,
)
from agent.sketch.kernels.merge_cells import merge_numeric as _merge_numeric
from agent.sketch.kernels.merge_cells import merge_strings as _merge_strings

_WIDTHS = {
    (NUMERIC_CELL_BYTES, NUMERIC_CELL_BYTES): 0,
    (NUMERIC_WIDE_CELL_BYTES, NUMERIC_CELL_BYTES): 1,
    (NUMERIC_WIDE_CELL_BYTES, NUMERIC_WIDE_CELL_BYTES): 2,
}


def _sources(
    targets: NDArray[np.int64], source: Bytes, rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Addresses of targets and of source[rows], both int64[k]."""
    to = np.ascontiguousarray(targets, np.int64)
    picked = np.ascontiguousarray(rows, np.int64)
    if source.dtype != np.uint8 or source.ndim != 2 or not source.flags.c_contiguous:
        raise ValueError(f"source is {source.dtype}{list(source.shape)}; must be uint8[m, bytes]")
    if to.ndim != 1 or to.shape != picked.shape:
        raise ValueError(f"{list(to.shape)} targets for {list(picked.shape)} rows")
    if len(picked) and not (int(picked.min()) >= 0 and int(picked.max()) < len(source)):
        raise ValueError(f"a row is outside the source's {len(source)} cells")
    return to, address_of(source) + picked * source.shape[1]


def merge_numeric(
    targets: NDArray[np.int64],
    source: Bytes,
    rows: NDArray[np.int64],
    target_bytes: int = NUMERIC_CELL_BYTES,
) -> None:
    """Merge numeric cell source[rows[i]] into the cell at address targets[i], in place.

    targets       int64[k], addresses (`pages.addresses[ids]`); one may occur more than once
    source        uint8[m, NUMERIC_CELL_BYTES or NUMERIC_WIDE_CELL_BYTES]
    rows          int64[k]
    target_bytes  NUMERIC_CELL_BYTES or NUMERIC_WIDE_CELL_BYTES: what lies at the targets

    Narrow into narrow, narrow into wide, wide into wide. Raises OverflowError when a narrow target would
    hold more than 2^32 - 1 values (no count wraps around), ValueError for wrong shapes.
    """
    to, at = _sources(targets, source, rows)
    widths = _WIDTHS.get((target_bytes, source.shape[1]))
    if widths is None:
        raise ValueError(f"cells of {source.shape[1]} bytes do not merge into {target_bytes}")
    refused = int(_merge_numeric(address_of(to), address_of(at), len(to), widths))
    if refused >= 0:
        raise OverflowError(
            f"narrow cell of pair {refused} would hold more than {2**32 - 1} values; use wide cells"
        )


def merge_strings(targets: NDArray[np.int64], source: Bytes, rows: NDArray[np.int64]) -> None:
    """Merge string cell source[rows[i]] into the cell at address targets[i], in place.

    targets  int64[k], addresses; one may occur more than once   source  uint8[m, STRING_CELL_BYTES]
    rows     int64[k]

    Raises ValueError for wrong shapes.
    """
    to, at = _sources(targets, source, rows)
    if source.shape[1] != STRING_CELL_BYTES:
        raise ValueError(f"a source cell has {source.shape[1]} bytes; must be {STRING_CELL_BYTES}")
    _merge_strings(address_of(to), address_of(at), len(to))
