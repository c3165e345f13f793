"""Opens record batches into one reused piece of memory and finds their records: a mebibyte at a time.

Invariants
1. Nothing is written, and no kernel that keeps to 64 bytes of over-read reads, outside of the arena: 64
   bytes lie before the first and behind the last record, zero after every load.
2. What a load returns is good until the next load: arrays and text are used again.
3. Memory has a bound, whatever a batch claims or unpacks to; a batch past it is counted as unread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from struct import Struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from agent.decode.decompress import NONE, BadPayload, NoRoom, open_payload
from agent.decode.kernels.record_index import (
    BATCH_DAMAGE,
    BATCH_FIELDS,
    BATCH_REACHED,
    DAMAGE_TEXT,
    N_COLUMNS,
    SMALLEST_BODY,
    index_records,
)
from agent.types import RawBatch, Record

#: Readable bytes before the first and behind the last record.
PADDING = 64
LOAD_BYTES = 1 << 20
#: A load also ends at this many records and batches: small ones would need more index than text.
LOAD_RECORDS = 1 << 15
LOAD_BATCHES = 1 << 10
MAX_BATCH_BYTES = 32 << 20
#: Memory for larger batches is given back after so many loads that did not need it.
KEEP_LOADS = 64

_HEADER_BYTES = 61
_CODEC = 0x07
_LOG_APPEND_TIME = 0x08
_META = Struct("=8q")
_META_BYTES = 8 * BATCH_FIELDS


class Unread(NamedTuple):
    """Offsets [offset, to_offset) that could not be read: at most that many records."""

    offset: int
    to_offset: int
    why: str


class Columns(NamedTuple):
    """Addresses (int64) of the columns of `Indexed`, for kernels."""

    offset: int
    timestamp_ms: int
    vpos: int
    vlen: int
    kpos: int
    klen: int
    hpos: int
    hlen: int
    hcount: int
    tpos: int
    tlen: int


@dataclass(slots=True)
class Indexed:
    """Records of batches[lo:hi], in offset order. int64[n] each; positions count from the arena's start.

    A length of -1 is null (a tombstone, no key). `tpos` is where the value of the last header
    `traceparent`, of any case, that is not empty begins; -1 without one.
    """

    n: int
    hi: int  # the next load begins with this batch
    to_offset: int  # end of what batches[lo:hi] cover
    offset: NDArray[np.int64]
    timestamp_ms: NDArray[np.int64]
    vpos: NDArray[np.int64]
    vlen: NDArray[np.int64]
    kpos: NDArray[np.int64]
    klen: NDArray[np.int64]
    hpos: NDArray[np.int64]
    hlen: NDArray[np.int64]  # bytes of all headers
    hcount: NDArray[np.int64]
    tpos: NDArray[np.int64]
    tlen: NDArray[np.int64]
    address: int  # of the arena
    text: NDArray[np.uint8]  # the arena
    at: Columns
    unread: list[Unread] = field(default_factory=list)

    @property
    def n_corrupt(self) -> int:
        """Offsets that could not be read."""
        return sum(one.to_offset - one.offset for one in self.unread)

    def record(self, row: int) -> Record:
        """A copy of one record; a header name that is not UTF-8 has U+FFFD in its place."""
        text = self.text
        klen, vlen = int(self.klen[row]), int(self.vlen[row])
        kpos, vpos = int(self.kpos[row]), int(self.vpos[row])
        return Record(
            int(self.offset[row]),
            int(self.timestamp_ms[row]),
            None if klen < 0 else text[kpos : kpos + klen].tobytes(),
            None if vlen < 0 else text[vpos : vpos + vlen].tobytes(),
            self.headers(row) if self.hcount[row] else (),
        )

    def headers(self, row: int) -> tuple[tuple[str, bytes | None], ...]:
        """The headers of one record."""
        start = int(self.hpos[row])
        raw = self.text[start : start + int(self.hlen[row])].tobytes()
        at = 0
        headers: list[tuple[str, bytes | None]] = []
        for _ in range(int(self.hcount[row])):
            size, at = _varint(raw, at)
            name = raw[at : at + size].decode("utf-8", "replace")
            at += size
            size, at = _varint(raw, at)
            if size < 0:
                headers.append((name, None))
            else:
                headers.append((name, raw[at : at + size]))
                at += size
        return tuple(headers)


class RecordArena:
    """The arena of one kernel thread, and the index of what is in it.

    Memory: `load_bytes` (1 MiB) and 88 bytes a record of a load; up to `max_batch_bytes` and what its
    records need for as long as such large batches come. Belongs to one thread.
    """

    def __init__(
        self, *, load_bytes: int = LOAD_BYTES, max_batch_bytes: int = MAX_BATCH_BYTES
    ) -> None:
        self._load_bytes = load_bytes
        self._max_batch_bytes = max(max_batch_bytes, load_bytes)
        self._unused_loads = 0
        self._expansion = 4.0  # decompressed by compressed bytes, of the last batch
        self._meta = np.zeros((LOAD_BATCHES, BATCH_FIELDS), np.int64)
        self._meta_bytes = memoryview(self._meta).cast("B")
        self._meta_address = self._meta.ctypes.data
        self._resize(load_bytes)
        self._resize_columns(4096)

    @property
    def size_bytes(self) -> int:
        """Memory held."""
        return self._text.nbytes + self._rows.nbytes + self._meta.nbytes

    def load(self, batches: Sequence[RawBatch], lo: int) -> Indexed:
        """Open batches[lo:hi], as many as fit a load (at least one), and find their records.

        Never raises on what is in them: damage is in `unread` of the result.
        """
        self._shrink()
        unread: list[Unread] = []
        n_batches = n_rows = 0
        end = PADDING
        hi = lo
        while hi < len(batches) and n_batches < LOAD_BATCHES:
            batch = batches[hi]
            try:
                size = self._open(batch, end)
            except NoRoom:
                break  # the first of the next load
            except BadPayload as error:
                unread.append(Unread(batch.min_offset, batch.next_offset, str(error)))
                hi += 1
                continue
            most = min(max(batch.n_records, 0), size // (SMALLEST_BODY + 1))
            if n_batches and n_rows + most > LOAD_RECORDS:
                break
            n_rows += most
            append_time = batch.attributes & _LOG_APPEND_TIME
            _META.pack_into(
                self._meta_bytes,
                _META_BYTES * n_batches,
                end,
                end + size,
                batch.n_records,
                batch.base_offset,
                batch.next_offset,
                batch.min_offset,
                batch.max_timestamp if append_time else batch.first_timestamp,
                0 if append_time else -1,
            )
            end += size
            n_batches += 1
            hi += 1
        self._text[end : end + PADDING] = 0
        if n_rows > self._capacity:
            self._resize_columns(n_rows)
        n = int(
            index_records(
                self._address, self._meta_address, n_batches, self._at.offset, self._capacity
            )
        )
        self._note_damage(n_batches, unread)
        to_offset = batches[hi - 1].next_offset if hi > lo else 0
        offset, timestamp_ms, vpos, vlen, kpos, klen, hpos, hlen, hcount, tpos, tlen = self._rows[
            :, :n
        ]
        return Indexed(
            n=n,
            hi=hi,
            to_offset=to_offset,
            offset=offset,
            timestamp_ms=timestamp_ms,
            vpos=vpos,
            vlen=vlen,
            kpos=kpos,
            klen=klen,
            hpos=hpos,
            hlen=hlen,
            hcount=hcount,
            tpos=tpos,
            tlen=tlen,
            address=self._address,
            text=self._text,
            at=self._at,
            unread=unread,
        )

    def _open(self, batch: RawBatch, end: int) -> int:
        """Decompress a batch to `end`; the bytes it has. Grows the arena when it is empty.

        Raises NoRoom when it does not fit behind what is there, BadPayload when it cannot be opened.
        """
        payload = batch.data[_HEADER_BYTES:]
        codec = batch.attributes & _CODEC
        is_first = end == PADDING
        if not is_first:
            likely = len(payload) * (1.0 if codec == NONE else self._expansion)
            if end + likely > PADDING + self._load_bytes:
                raise NoRoom
        elif not len(payload):
            return 0
        while True:
            try:
                size = open_payload(codec, payload, self._room[end:-PADDING])
            except NoRoom:
                if not is_first:
                    raise
                self._grow(len(payload))
            else:
                if codec != NONE and size:
                    self._expansion = size / len(payload)
                return size

    def _grow(self, payload_bytes: int) -> None:
        """Make room for a batch that needs more than there is.

        A batch may be as large as what came over the wire, and up to `max_batch_bytes`.
        """
        room_bytes = len(self._text) - 2 * PADDING
        most = max(self._max_batch_bytes, payload_bytes)
        if room_bytes >= most:
            raise BadPayload(f"more than {most} bytes when decompressed")
        self._resize(min(max(2 * room_bytes, payload_bytes), most))

    def _shrink(self) -> None:
        """Give back what large batches needed, when none has come for a while."""
        self._unused_loads += 1
        if self._unused_loads <= KEEP_LOADS:
            return
        if len(self._text) > self._load_bytes + 2 * PADDING:
            self._resize(self._load_bytes)
        if self._capacity > LOAD_RECORDS:
            self._resize_columns(LOAD_RECORDS)

    def _resize(self, room_bytes: int) -> None:
        self._text = np.empty(room_bytes + 2 * PADDING, np.uint8)
        self._text[:PADDING] = 0
        self._room = memoryview(self._text)
        self._address = self._text.ctypes.data
        self._unused_loads = 0

    def _resize_columns(self, capacity: int) -> None:
        self._capacity = 1 << (capacity - 1).bit_length()
        self._rows = np.empty((N_COLUMNS, self._capacity), np.int64)
        first = self._rows.ctypes.data
        self._at = Columns(*(first + 8 * self._capacity * column for column in range(N_COLUMNS)))
        self._unused_loads = 0

    def _note_damage(self, n_batches: int, unread: list[Unread]) -> None:
        meta = self._meta[:n_batches]
        for idx in np.flatnonzero(meta[:, BATCH_DAMAGE]).tolist():
            fields = meta[idx].tolist()
            reached, next_offset = fields[BATCH_REACHED], fields[4]
            if reached < next_offset:  # else every offset of the batch has been read
                unread.append(Unread(reached, next_offset, DAMAGE_TEXT[fields[BATCH_DAMAGE]]))


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    """The zigzag varint at `at` and the position behind it; the index has checked that it is there."""
    bits = shift = 0
    while True:
        byte = raw[at]
        at += 1
        bits |= (byte & 127) << shift
        if byte < 128:
            return (bits >> 1) ^ -(bits & 1), at
        shift += 7
