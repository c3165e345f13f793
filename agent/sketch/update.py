"""Rows into cells: one compiled call per block and kind. The GIL is free while it runs.

Arrays are checked here, once per block; the kernels check nothing.

    pairs = missing_numbers(numbers, first, group, lane_cell)   # unique (group, lane) without a cell
    lane_cell[pairs[:, 0], pairs[:, 1]] = pages.alloc_many(len(pairs))
    update_numbers(numbers, first, group, lane_cell, pages.addresses)

Values lie row by row: those of row r are values[first[r] : first[r + 1]], lane by lane.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.sketch.arrays import address_of, check
from agent.sketch.kernels import layout
from agent.sketch.kernels.bucket_index import MAGNITUDE_MASK, MANTISSA_MASK
from agent.sketch.kernels.missing import find_missing
from agent.sketch.kernels.numbers import PENDING
from agent.sketch.kernels.numbers import update_numbers as _update_numbers
from agent.sketch.kernels.strings import update_strings as _update_strings

#: A narrow cell that reaches this many values is full: half of what uint32 holds, so that a block
#: (at most MAX_BLOCK_ROWS) and over-range values can never make a count wrap around.
FULL: Final = 1 << 31
MAX_BLOCK_ROWS: Final = 1 << 24

_F64, _U64, _I64 = np.dtype(np.float64), np.dtype(np.uint64), np.dtype(np.int64)
_I32, _U8 = np.dtype(np.int32), np.dtype(np.uint8)
_ABSENT = np.uint64(layout.ABSENT_BITS)
_HASH_ABSENT = np.uint64(layout.HASH_ABSENT)


def _check_routing(
    values: NDArray[Any],
    first: NDArray[np.int64],
    group: NDArray[np.int32],
    lane_cell: NDArray[np.int32],
    addresses: NDArray[np.int64] | None,
) -> tuple[int, int]:
    """Rows, and lanes of `lane_cell`."""
    n = len(first) - 1
    check(first, "first", _I64, (n + 1,))
    check(group, "group", _I32, (n,))
    check(lane_cell, "lane_cell", _I32, (None, None))
    lanes = lane_cell.shape[1]
    if n < 0 or int(first[0]) < 0 or int(first[-1]) > len(values):
        raise ValueError(f"first must lie in 0..{len(values)}, for n + 1 rows")
    widths = np.diff(first)
    if n and int(widths.min()) < 0:
        raise ValueError("first must ascend")
    widest = int(widths.max(initial=0, where=group >= 0))
    if widest > lanes:
        raise ValueError(f"a row has {widest} lanes; lane_cell has {lanes}")
    if n and int(group.max()) >= len(lane_cell):
        raise ValueError(f"group has {int(group.max())}; lane_cell has {len(lane_cell)} rows")
    if n > MAX_BLOCK_ROWS:
        raise ValueError(f"a block has {n} rows; at most {MAX_BLOCK_ROWS}")
    if addresses is not None:
        check(addresses, "addresses", _I64, (None,))
        if lane_cell.size and int(lane_cell.max()) >= len(addresses):
            raise ValueError(
                f"lane_cell has cell {int(lane_cell.max())}; there are {len(addresses)} cells"
            )
    return n, lanes


def update_numbers(
    numbers: NDArray[np.float64],
    first: NDArray[np.int64],
    group: NDArray[np.int32],
    lane_cell: NDArray[np.int32],
    addresses: NDArray[np.int64],
) -> int:
    """Count a block's numbers in their narrow numeric cells, in place.

    numbers    float64[...]; ABSENT_BITS is skipped, NULL_BITS counts as null, other NaN and infinity
               as non-finite
    first      int64[n + 1], ascending: where each row begins
    group      int32[n], row of lane_cell; -1 skips the row
    lane_cell  int32[groups, lanes of the widest row or more], cell id or -1: values without a cell are not counted anywhere
    addresses  int64[cells], `CellPages.addresses` of narrow numeric cells

    Returns the number of values in the fullest cell touched. A cell must be cut and emptied before it
    holds FULL (2^31) values. Raises OverflowError once a cell has reached that (the block is counted, and
    no count has wrapped around), ValueError for a wrong shape, dtype or index.
    """
    check(numbers, "numbers", _F64, (None,))
    n, lanes = _check_routing(numbers, first, group, lane_cell, addresses)
    pending = np.empty(PENDING + lanes, np.int64)
    peak = int(
        _update_numbers(
            address_of(numbers),
            address_of(first),
            n,
            lanes,
            address_of(group),
            address_of(lane_cell),
            address_of(addresses),
            address_of(pending),
            MAGNITUDE_MASK,
            MANTISSA_MASK,
        )
    )
    if peak >= FULL:
        raise OverflowError(f"a cell holds {peak} values; it must be cut before {FULL}")
    return peak


def update_strings(
    string_hash: NDArray[np.uint64],
    start: NDArray[np.int64],
    length: NDArray[np.int32],
    text: NDArray[np.uint8],
    first: NDArray[np.int64],
    group: NDArray[np.int32],
    lane_cell: NDArray[np.int32],
    addresses: NDArray[np.int64],
) -> None:
    """Count a block's strings in their string cells, in place.

    string_hash  uint64[...]: HASH_ABSENT, HASH_NULL or `merge_hash` of the text
    start        int64[...], length int32[...]: where the text lies in `text`, uint8[...];
                 not looked at where the hash is HASH_ABSENT or HASH_NULL
    first, group, lane_cell, addresses: as in `update_numbers`, of string cells

    A span outside `text` is counted, but its text is not kept. Raises ValueError for a wrong shape, dtype
    or index.
    """
    check(string_hash, "string_hash", _U64, (None,))
    check(start, "start", _I64, (len(string_hash),))
    check(length, "length", _I32, (len(string_hash),))
    check(text, "text", _U8, (None,))
    n, lanes = _check_routing(string_hash, first, group, lane_cell, addresses)
    _update_strings(
        address_of(string_hash),
        address_of(start),
        address_of(length),
        address_of(text),
        len(text),
        address_of(first),
        n,
        lanes,
        address_of(group),
        address_of(lane_cell),
        address_of(addresses),
    )


def _missing(
    values: NDArray[Any],
    first: NDArray[np.int64],
    group: NDArray[np.int32],
    lane_cell: NDArray[np.int32],
    absent: np.uint64,
) -> NDArray[np.int64]:
    n, lanes = _check_routing(values, first, group, lane_cell, None)
    if not n or not lanes:
        return np.empty((0, 2), np.int64)
    pairs = np.empty(min(lane_cell.size, values.size), np.int64)
    state = np.zeros(len(lane_cell), np.uint8)
    found = int(
        find_missing(
            address_of(values),
            address_of(first),
            n,
            lanes,
            address_of(group),
            address_of(lane_cell),
            address_of(state),
            address_of(pairs),
            len(pairs),
            absent,
        )
    )
    out = np.empty((found, 2), np.int64)
    out[:, 0] = pairs[:found] >> 32
    out[:, 1] = pairs[:found] & 0xFFFFFFFF
    lane_cell[out[:, 0], out[:, 1]] = -1  # the kernel's marks
    return out


def missing_numbers(
    numbers: NDArray[np.float64],
    first: NDArray[np.int64],
    group: NDArray[np.int32],
    lane_cell: NDArray[np.int32],
) -> NDArray[np.int64]:
    """(group, lane) pairs, int64[k, 2], that have a value (null counts as one) but no cell; each once,
    in order of appearance. `lane_cell` is unchanged on return."""
    check(numbers, "numbers", _F64, (None,))
    return _missing(numbers, first, group, lane_cell, _ABSENT)


def missing_strings(
    string_hash: NDArray[np.uint64],
    first: NDArray[np.int64],
    group: NDArray[np.int32],
    lane_cell: NDArray[np.int32],
) -> NDArray[np.int64]:
    """As `missing_numbers`, for string lanes."""
    check(string_hash, "string_hash", _U64, (None,))
    return _missing(string_hash, first, group, lane_cell, _HASH_ABSENT)
