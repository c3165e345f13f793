"""Packed cells into cells: `merge(a, b)` equals one sketch of both inputs.

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
    zeroed,
)
from agent.sketch.kernels import merge_cells
from agent.sketch.packed import PackedCells

_COUNT_BYTES = {NUMERIC_CELL_BYTES: 4, NUMERIC_WIDE_CELL_BYTES: 8}


def _sources(
    targets: NDArray[np.int64], source: PackedCells, rows: NDArray[np.int64], is_string: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Addresses of targets and of cells `rows` of the source, both int64[k]."""
    to = np.ascontiguousarray(targets, np.int64)
    picked = np.ascontiguousarray(rows, np.int64)
    if source.is_string is not is_string:
        raise ValueError("numeric and string cells do not merge")
    if to.ndim != 1 or to.shape != picked.shape:
        raise ValueError(f"{list(to.shape)} targets for {list(picked.shape)} rows")
    if len(picked) and not (int(picked.min()) >= 0 and int(picked.max()) < len(source)):
        raise ValueError(f"a row is outside the source's {len(source)} cells")
    return to, source.address[picked]


def merge_numeric(
    targets: NDArray[np.int64],
    source: PackedCells,
    rows: NDArray[np.int64],
    target_bytes: int = NUMERIC_CELL_BYTES,
) -> None:
    """Merge numeric cell rows[i] of the source into the cell at address targets[i], in place.

    targets       int64[k], addresses (`pages.addresses[ids]`); one may occur more than once
    rows          int64[k]
    target_bytes  NUMERIC_CELL_BYTES or NUMERIC_WIDE_CELL_BYTES: what lies at the targets

    Raises OverflowError when a narrow target would hold more than 2^32 - 1 values (no count wraps
    around), ValueError for wrong shapes.
    """
    to, at = _sources(targets, source, rows, is_string=False)
    size = _COUNT_BYTES.get(target_bytes)
    if size is None:
        raise ValueError(f"numeric cells do not merge into cells of {target_bytes} bytes")
    refused = int(merge_cells.merge_numeric(address_of(to), address_of(at), len(to), size))
    if refused >= 0:
        raise OverflowError(
            f"narrow cell of pair {refused} would hold more than {2**32 - 1} values; use wide cells"
        )


def merge_strings(targets: NDArray[np.int64], source: PackedCells, rows: NDArray[np.int64]) -> None:
    """Merge string cell rows[i] of the source into the cell at address targets[i], in place.

    targets  int64[k], addresses; one may occur more than once      rows  int64[k]

    Raises ValueError for wrong shapes.
    """
    to, at = _sources(targets, source, rows, is_string=True)
    scratch = zeroed(STRING_CELL_BYTES)
    merge_cells.merge_strings(address_of(to), address_of(at), len(to), address_of(scratch))
