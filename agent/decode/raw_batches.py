"""Batches of a range as one table, and the buffers that they lie in: what goes from the loop to a kernel thread.

A producer's batch may hold some forty records, so nothing between socket and record index costs Python
by the batch. Only odd batches (markers, damage, gaps, old formats) are looked at one by one.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.decode.kernels.batch_table import (
    BATCH_CODEC,
    BATCH_COUNT,
    BATCH_MIN_OFFSET,
    BATCH_NEXT_OFFSET,
    BATCH_OFFSET,
    BATCH_SOURCE,
    BATCH_SOURCE_BYTES,
    GIVEN_FIELDS,
    HEADER_BYTES,
)
from agent.types import RawBatch

_CODEC = 0x07
_LOG_APPEND_TIME = 0x08


@dataclass(slots=True, eq=False)
class RawBatches:
    """Batches in offset order, of one partition; nothing changes them.

    table  int64[n, GIVEN_FIELDS] (`batch_table`): addresses of the payloads, and what the headers say
    held   what keeps the addresses good: the fetched buffers
    """

    table: NDArray[np.int64]
    held: tuple[Any, ...]

    def __len__(self) -> int:
        return len(self.table)

    @property
    def next_offset(self) -> int:
        """Behind the last batch; there must be one."""
        return int(self.table[-1, BATCH_NEXT_OFFSET])

    @property
    def n_records(self) -> int:
        """Records that the batches claim, without those below a position inside a batch (a guess when
        such a batch was compacted)."""
        table = self.table
        below = table[:, BATCH_MIN_OFFSET] - table[:, BATCH_OFFSET]
        return int(np.maximum(table[:, BATCH_COUNT] - below, 0).sum())

    @property
    def sizes(self) -> tuple[int, int]:
        """Bytes of the batches as they lie in the log, and of those the bytes of compressed ones."""
        size = self.table[:, BATCH_SOURCE_BYTES] + HEADER_BYTES
        return int(size.sum()), int(size[self.table[:, BATCH_CODEC] != 0].sum())

    def payload(self, idx: int) -> memoryview:
        """The records section of one batch as it arrived; good for as long as this object."""
        row = self.table[idx]
        n_bytes = int(row[BATCH_SOURCE_BYTES])
        return memoryview((ctypes.c_char * n_bytes).from_address(int(row[BATCH_SOURCE]))).cast("B")


NO_BATCHES = RawBatches(np.empty((0, GIVEN_FIELDS), np.int64), ())


def table_of(batches: Iterable[RawBatch]) -> RawBatches:
    """Single batches as one table."""
    rows, held = [], []
    for one in batches:
        append_time = one.attributes & _LOG_APPEND_TIME
        whole = np.frombuffer(one.data, np.uint8)
        rows.append(
            (
                whole.ctypes.data + HEADER_BYTES,
                len(one.data) - HEADER_BYTES,
                one.attributes & _CODEC,
                one.n_records,
                one.base_offset,
                one.next_offset,
                one.min_offset,
                one.max_timestamp if append_time else one.first_timestamp,
                0 if append_time else -1,
            )
        )
        held.append(whole)
    return RawBatches(np.array(rows, np.int64).reshape(len(rows), GIVEN_FIELDS), tuple(held))


def joined(parts: Sequence[RawBatches]) -> RawBatches:
    """One table of several, in this order."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return NO_BATCHES
    held = tuple(buffer for part in parts for buffer in part.held)
    return RawBatches(np.concatenate([part.table for part in parts]), held)
