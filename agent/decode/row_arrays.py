"""The arrays that a compiled tier fills with the rows of a block; used again for every block."""

from __future__ import annotations

import numpy as np

from agent.decode.kernels.row_layout import N_SLOTS
from agent.decode.leaves import N_FIELDS

#: Rows of a block, at most.
MAX_ROWS = 4096
#: Lanes of all rows of a block, at most. Only what is used is ever touched.
MAX_NUMBERS = 1 << 21
MAX_STRINGS = 1 << 20


class RowArrays:
    """One set of arrays (`kernels.row_layout`) and their addresses. One owner.

    Memory: 1.3 MB in use for rows of 16 numbers and 4 strings; 40 MB of address space.
    """

    def __init__(self) -> None:
        self.numbers = np.empty(MAX_NUMBERS, np.float64)
        self.number_start = np.zeros(MAX_ROWS + 1, np.int64)
        self.string_hash = np.empty(MAX_STRINGS, np.uint64)
        self.string_start = np.empty(MAX_STRINGS, np.int64)
        self.string_length = np.empty(MAX_STRINGS, np.int32)
        self.string_first = np.zeros(MAX_ROWS + 1, np.int64)
        self.event_time = np.zeros(MAX_ROWS, np.int64)
        self.shape = np.zeros(MAX_ROWS, np.int32)
        self.status = np.zeros(MAX_ROWS, np.uint8)
        self.flags = np.zeros(MAX_ROWS, np.uint8)
        self.field_start = np.zeros((MAX_ROWS, N_FIELDS), np.int64)
        self.field_length = np.zeros((MAX_ROWS, N_FIELDS), np.int32)
        self.key_hash = np.zeros(MAX_ROWS, np.uint64)
        self.model_hash = np.zeros(MAX_ROWS, np.uint64)
        #: int64[N_SLOTS], addresses in the order of `row_layout`; its own address is `address`.
        self.table = np.array(
            [
                array.ctypes.data
                for array in (
                    self.numbers,
                    self.number_start,
                    self.string_hash,
                    self.string_start,
                    self.string_length,
                    self.string_first,
                    self.event_time,
                    self.shape,
                    self.status,
                    self.flags,
                    self.field_start,
                    self.field_length,
                    self.key_hash,
                    self.model_hash,
                )
            ],
            np.int64,
        )
        assert len(self.table) == N_SLOTS
        self.address: int = self.table.ctypes.data
