"""Opens record batches into one reused piece of memory and finds their records: a mebibyte at a time.

Invariants
1. Nothing is written, and no kernel that keeps to 64 bytes of over-read reads, outside of the arena: 64
   bytes lie before the first and behind the last record, zero after every load.
2. What a load returns is good until the next load: arrays and text are used again.
3. Memory has a bound, whatever a batch claims or unpacks to; a batch past it is counted as unread.
"""

from __future__ import annotations

import numpy as np

from agent.decode.decompress import BadPayload, NoRoom, open_payload
from agent.decode.indexed import Columns, Indexed, Unread
from agent.decode.kernels.batch_table import (
    BATCH_CODEC,
    BATCH_COUNT,
    BATCH_DAMAGE,
    BATCH_END,
    BATCH_FIELDS,
    BATCH_MIN_OFFSET,
    BATCH_MOST,
    BATCH_NEXT_OFFSET,
    BATCH_REACHED,
    BATCH_SOURCE_BYTES,
    BATCH_START,
    BATCH_STATE,
    BROKEN,
    DAMAGE_TEXT,
    GIVEN_FIELDS,
    NO_ROOM,
    SMALLEST_RECORD,
)
from agent.decode.kernels.open_batches import open_batches
from agent.decode.kernels.record_index import N_COLUMNS, index_records
from agent.decode.raw_batches import RawBatches

#: Readable bytes before the first and behind the last record.
PADDING = 64
LOAD_BYTES = 2 << 20
#: A load also ends at this many records and batches: small ones would need more index than text.
LOAD_RECORDS = 1 << 15
LOAD_BATCHES = 1 << 10
MAX_BATCH_BYTES = 32 << 20
#: Room behind the records of a full arena, for what others make of them: text without its escapes.
FREE_BYTES = 64 << 10
#: Memory for larger batches is given back after so many loads that did not need it.
KEEP_LOADS = 64


class RecordArena:
    """The arena of one kernel thread, and the index of what is in it.

    Memory: `load_bytes` (2 MiB) and 88 bytes a record of a load; up to `max_batch_bytes` and what its
    records need for as long as such large batches come. Belongs to one thread.
    """

    def __init__(
        self, *, load_bytes: int = LOAD_BYTES, max_batch_bytes: int = MAX_BATCH_BYTES
    ) -> None:
        self._load_bytes = load_bytes
        self._max_batch_bytes = max(max_batch_bytes, load_bytes)
        self._idle_loads = 0
        self._table = np.zeros((LOAD_BATCHES, BATCH_FIELDS), np.int64)
        self._table_address = self._table.ctypes.data
        self._resize(load_bytes)
        self._resize_columns(4096)

    @property
    def size_bytes(self) -> int:
        """Memory held."""
        return self._whole.nbytes + self._rows.nbytes + self._table.nbytes

    def load(self, batches: RawBatches, lo: int) -> Indexed:
        """Open batches[lo:hi], as many as fit a load (at least one), and find their records.

        Never raises on what is in them: damage is in `unread` of the result.
        """
        self._shrink()
        unread: list[Unread] = []
        n_batches = self._open(batches, lo, self._take(batches, lo), unread)
        end, most = PADDING, 0
        if n_batches:
            last = self._table[n_batches - 1]
            end, most = int(last[BATCH_END]), int(last[BATCH_MOST])
        self._text[end : end + PADDING] = 0
        if most > self._capacity:
            self._resize_columns(most)
        n = int(
            index_records(
                self._address, self._table_address, n_batches, self._at.offset, self._capacity
            )
        )
        self._note_damage(n_batches, unread)
        hi = lo + n_batches
        to_offset = int(batches.table[hi - 1, BATCH_NEXT_OFFSET]) if n_batches else 0
        return Indexed(
            n=n,
            hi=hi,
            to_offset=to_offset,
            rows=self._rows,
            address=self._address,
            text=self._whole,
            at=self._at,
            unread=unread,
        )

    def _take(self, batches: RawBatches, lo: int) -> int:
        """Put as many batches into the table as a load may have; their number."""
        rows = batches.table[lo : lo + LOAD_BATCHES]
        self._table[: len(rows), :GIVEN_FIELDS] = rows
        return len(rows)

    def _open(self, batches: RawBatches, lo: int, n_batches: int, unread: list[Unread]) -> int:
        """Open what the table describes, one behind the other; the number of batches done with.

        What cannot be opened is noted in `unread`, and has no bytes. Ends early when the arena is full.
        """
        table = self._table
        done = 0
        while True:
            end = int(table[done - 1, BATCH_END]) if done else PADDING
            done = int(
                open_batches(
                    self._address,
                    self._table_address,
                    done,
                    n_batches,
                    end,
                    len(self._text) - PADDING,
                    LOAD_RECORDS,
                )
            )
            if done == n_batches:
                break
            end = int(table[done - 1, BATCH_END]) if done else PADDING
            state = int(table[done, BATCH_STATE])
            size = 0
            try:
                if state == BROKEN:
                    raise BadPayload("its compressed data is broken")
                if state == NO_ROOM:
                    if end > PADDING:
                        break  # the first of the next load
                    self._grow(int(table[done, BATCH_SOURCE_BYTES]))
                    continue
                size = self._open_by_library(
                    int(table[done, BATCH_CODEC]), batches.payload(lo + done), end
                )
            except NoRoom:
                break
            except BadPayload as error:
                least, next_offset = table[done, [BATCH_MIN_OFFSET, BATCH_NEXT_OFFSET]].tolist()
                unread.append(Unread(least, next_offset, str(error)))
                table[done, BATCH_COUNT] = 0
            self._note_opened(done, end, size)
            done += 1
        return done

    def _open_by_library(self, codec: int, payload: memoryview, end: int) -> int:
        """Open a payload to `end`; the bytes it has. Raises NoRoom behind others, BadPayload."""
        while True:
            try:
                return open_payload(codec, payload, self._room[end:-PADDING])
            except NoRoom:
                if end > PADDING:
                    raise
                self._grow(len(payload))

    def _note_opened(self, idx: int, end: int, size: int) -> None:
        row = self._table[idx]
        before = int(self._table[idx - 1, BATCH_MOST]) if idx else 0
        row[BATCH_START], row[BATCH_END] = end, end + size
        row[BATCH_MOST] = before + min(max(int(row[BATCH_COUNT]), 0), size // SMALLEST_RECORD)

    def _grow(self, payload_bytes: int) -> None:
        """Make room for a batch that needs more than there is; the arena is empty.

        A batch may be as large as what came over the wire, and up to `max_batch_bytes`. Raises BadPayload.
        """
        room_bytes = len(self._text) - 2 * PADDING
        most = max(self._max_batch_bytes, payload_bytes)
        if room_bytes >= most:
            raise BadPayload(f"more than {most} bytes when decompressed")
        self._resize(min(max(2 * room_bytes, payload_bytes), most))

    def _shrink(self) -> None:
        """Give back what large batches needed, when none has come for a while."""
        self._idle_loads += 1
        if self._idle_loads <= KEEP_LOADS:
            return
        if len(self._text) > self._load_bytes + 2 * PADDING:
            self._resize(self._load_bytes)
        if self._capacity > LOAD_RECORDS:
            self._resize_columns(LOAD_RECORDS)

    def _resize(self, room_bytes: int) -> None:
        self._whole = np.empty(room_bytes + 2 * PADDING + FREE_BYTES, np.uint8)
        self._text = self._whole[: room_bytes + 2 * PADDING]
        self._text[:PADDING] = 0
        self._room = self._text.data
        self._address = self._text.ctypes.data
        self._idle_loads = 0

    def _resize_columns(self, capacity: int) -> None:
        self._capacity = 1 << (capacity - 1).bit_length()
        self._rows = np.empty((N_COLUMNS, self._capacity), np.int64)
        first = self._rows.ctypes.data
        self._at = Columns(*(first + 8 * self._capacity * column for column in range(N_COLUMNS)))
        self._idle_loads = 0

    def _note_damage(self, n_batches: int, unread: list[Unread]) -> None:
        table = self._table[:n_batches]
        damage = table[:, BATCH_DAMAGE].tolist()
        if not any(damage):
            return
        for idx in np.flatnonzero(damage).tolist():
            fields = table[idx].tolist()
            reached, next_offset = fields[BATCH_REACHED], fields[BATCH_NEXT_OFFSET]
            if reached < next_offset:  # else every offset of the batch has been read
                unread.append(Unread(reached, next_offset, DAMAGE_TEXT[fields[BATCH_DAMAGE]]))
