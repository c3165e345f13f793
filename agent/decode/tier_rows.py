"""The rows of one compiled tier and of one block: what the tier wrote, and what `kernels.finish` adds."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.decode.candidates import Facts, RowView
from agent.decode.indexed import Indexed
from agent.decode.kernels.finish import (
    AGAIN_ROWS,
    FRESH_ROWS,
    LAST_ROW,
    LEFT_ROWS,
    MAX_FRESH,
    N_AGAIN,
    N_LEFT,
    N_OUT,
    N_ROWS,
    close_rows,
    finish_rows,
    settle_rows,
)
from agent.decode.leaves import ID, MODEL, STATUS, TRACEPARENT
from agent.decode.row_arrays import MAX_ROWS, RowArrays
from agent.decode.rows import LATENCY
from agent.decode.scalars import error_text
from agent.sketch.arrays import address_of
from agent.types import Block, BlockAddresses, Column, JsonType, Tier

_REQUEST_ID_CHARS = 200


class TierRows:
    """Arrays of one tier, used again for every block. One owner.

    record   int64[MAX_ROWS], which record of the block each row is; None: rows are records
    n        rows finished in the block in hand
    """

    def __init__(self, tier: Tier, *, is_listed: bool) -> None:
        self.tier = tier
        self.arrays = RowArrays()
        self.record = np.zeros(MAX_ROWS, np.int64) if is_listed else None
        self.record_address: int = 0 if self.record is None else self.record.ctypes.data
        self.misfits = np.zeros(MAX_ROWS, np.int64)
        self.misfits_address: int = self.misfits.ctypes.data
        self.stream = np.full(MAX_ROWS, -1, np.int32)
        self.window = np.zeros(MAX_ROWS, np.int64)
        self.is_error = np.zeros(MAX_ROWS, np.uint8)
        self.fate = np.zeros(MAX_ROWS, np.uint8)
        self.trace_start = np.zeros(MAX_ROWS, np.int64)
        self.state_start = np.zeros(MAX_ROWS, np.int64)
        self.state_length = np.zeros(MAX_ROWS, np.int32)
        self.left = np.zeros(MAX_ROWS, np.int64)
        self.fresh = np.zeros(MAX_FRESH, np.int64)
        self.again = np.zeros(MAX_ROWS, np.int64)
        self._out = np.zeros(N_OUT, np.int64)
        arrays: tuple[NDArray[Any], ...] = (
            self.stream,
            self.window,
            self.is_error,
            self.fate,
            self.trace_start,
            self.state_start,
            self.state_length,
            self.left,
            self.fresh,
            self.again,
        )
        self._out[: len(arrays)] = [array.ctypes.data for array in arrays]
        assert self._out[LEFT_ROWS] == self.left.ctypes.data
        assert self._out[FRESH_ROWS] == self.fresh.ctypes.data
        assert self._out[AGAIN_ROWS] == self.again.ctypes.data
        self._out_address: int = self._out.ctypes.data
        rows = self.arrays
        self._row_addresses = (
            address_of(self.stream),
            address_of(self.window),
            address_of(rows.event_time),
            address_of(self.is_error),
            address_of(rows.numbers),
            address_of(rows.number_start),
            len(rows.numbers),
        )
        self._string_addresses = (
            address_of(rows.string_hash),
            address_of(rows.string_start),
            address_of(rows.string_length),
        )
        self._string_first = address_of(rows.string_first), len(rows.string_hash)
        self.empty()

    def empty(self) -> None:
        """Nothing of the block in hand is this tier's."""
        self.n = self.n_misfits = 0
        self.n_left = self.n_fresh = self.n_again = 0
        self.n_rows = self.n_labels = self.n_alone = self.n_bad_trace = 0
        self.last_row = -1

    def finish(
        self,
        n: int,
        index: Indexed,
        at: int,
        bindings: Any,
        *,
        is_label_topic: bool,
        width_ms: int,
        budget: int,
    ) -> int:
        """Finish rows 0..n-1, of records from `at` on; how many were done."""
        columns = index.at
        skip = 8 * at
        self.n = int(
            finish_rows(
                n,
                self.arrays.address,
                self.record_address,
                columns.timestamp_ms + skip,
                columns.hpos + skip,
                columns.hcount + skip,
                columns.tpos + skip,
                columns.tlen + skip,
                index.address,
                int(is_label_topic),  # a bool would be compiled for
                bindings.address,
                bindings.mask,
                bindings.seen_address,
                bindings.n_seen,
                width_ms,
                budget,
                self._out_address,
            )
        )
        self.n_left, self.n_fresh, self.n_again = self._out[N_LEFT : N_AGAIN + 1].tolist()
        if self.n_fresh:
            bindings.note_fresh(self.n_fresh)
        return self.n

    def settle(self, n_again: int, bindings: Any) -> int:
        """Give the first n_again rows of `again` their streams; the number of `left` that have none."""
        return int(
            settle_rows(
                n_again, self.arrays.address, bindings.address, bindings.mask, self._out_address
            )
        )

    def close(
        self,
        index: Indexed,
        at: int,
        sealed_until: int,
        skew_ms: int,
        latest_ms: int,
        untimed_latest_ms: int,
        labels_address: int,
    ) -> int:
        """Mark late and future rows, and count; the largest admissible event time, -1 none."""
        newest = int(
            close_rows(
                self.n,
                self.arrays.address,
                self.record_address,
                index.at.timestamp_ms + 8 * at,
                sealed_until,
                skew_ms,
                latest_ms,
                untimed_latest_ms,
                labels_address,
                self._out_address,
            )
        )
        counts = self._out[N_ROWS : LAST_ROW + 1].tolist()
        self.n_rows, self.n_labels, self.n_alone, self.n_bad_trace, self.last_row = counts
        return newest

    def records(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which records of the block these rows are."""
        return rows if self.record is None else self.record[rows]

    def record_of(self, row: int) -> int:
        return row if self.record is None else int(self.record[row])

    # ------------------------------------------------------------ for the sketches

    def block(self, index: Indexed) -> Block:
        """The rows, as views: good until the next block is decoded."""
        n, rows = self.n, self.arrays
        return Block(
            n,
            self.stream[:n],
            rows.event_time[:n],
            self.window[:n],
            self.is_error[:n],
            rows.numbers,
            rows.number_start[: n + 1],
            rows.string_hash,
            rows.string_start,
            rows.string_length,
            rows.string_first[: n + 1],
            index.text,
            BlockAddresses(
                self._row_addresses,
                (*self._string_addresses, index.address, len(index.text), *self._string_first),
            ),
        )

    # ------------------------------------------------------------ for request spans

    def view(
        self,
        block: Block,
        index: Indexed,
        at: int,
        numeric_lanes: list[list[tuple[Column, JsonType]]],
    ) -> RowView:
        """The rows, as sampling sees them."""
        n = self.n
        offset = index.offset[at : at + n]
        if self.record is not None:
            offset = index.offset[at + self.record[:n]]

        def facts(row: int) -> Facts:
            return self._facts(row, index, at, numeric_lanes)

        return RowView(
            block,
            offset,
            None,
            None,
            index.text,
            self.trace_start[:n],
            self.state_start[:n],
            self.state_length[:n],
            facts,
        )

    def _facts(
        self,
        row: int,
        index: Indexed,
        at: int,
        numeric_lanes: list[list[tuple[Column, JsonType]]],
    ) -> Facts:
        record = at + (row if self.record is None else int(self.record[row]))
        traceparent, tracestate = None, ""
        start = int(self.trace_start[row])
        if start >= 0:
            is_header = start == int(index.tpos[record])
            length = int(index.tlen[record])
            if not is_header:
                length = int(self.arrays.field_length[row, TRACEPARENT])
            raw = index.text[start : start + length].tobytes()
            traceparent = raw.decode("utf-8", "replace")
            start = int(self.state_start[row])
            if start >= 0:
                raw = index.text[start : start + int(self.state_length[row])].tobytes()
                tracestate = raw.decode("ascii" if is_header else "utf-8", "replace")
        return Facts(
            offset=int(index.offset[record]),
            row=0,
            n_rows=1,
            latency_s=self._latency(row, numeric_lanes),
            status=error_text(self.field(row, STATUS, index)),
            request_id=(self.field(row, ID, index) or "")[:_REQUEST_ID_CHARS],
            traceparent=traceparent,
            tracestate=tracestate,
        )

    def _latency(
        self, row: int, numeric_lanes: list[list[tuple[Column, JsonType]]]
    ) -> float | None:
        first, end = self.arrays.number_start[row : row + 2].tolist()
        for lane, (column, _) in enumerate(numeric_lanes[int(self.stream[row])][: end - first]):
            if column == LATENCY:
                value = float(self.arrays.numbers[first + lane])
                return value if value == value else None
        return None

    def field(self, row: int, field: int, index: Indexed) -> str | None:
        """Text of a field of the row; None when absent."""
        start = int(self.arrays.field_start[row, field])
        if start < 0:
            return None
        length = int(self.arrays.field_length[row, field])
        return index.text[start : start + length].tobytes().decode()

    def model_name(self, row: int, index: Indexed) -> str | None:
        return self.field(row, MODEL, index)
