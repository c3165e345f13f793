"""A consumer whose `getmany` yields tables of record batches, checked but not opened: `kafka.fetch: raw`.

What is done here, on the loop: framing and checksum, aborted transactions and control batches left
out, a position inside a batch noted. Plain batches, nearly all, are done by one kernel call for a run
of them. Decompressing and finding the records is the kernel threads' work. Batches of formats before
version 2 go through the stock reader and are written again in version 2 (`raw_legacy.py`), so that
everything behind sees one kind.

Damage is told as in `batches.py`, which also has the seam. What only shows when a batch is opened (a
checksum that is right over content that is not) is found and counted by whoever opens it.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Any

import numpy as np
from aiokafka import AIOKafkaConsumer
from aiokafka.consumer import fetcher as _stock
from aiokafka.errors import CorruptRecordException, UnsupportedCodecError
from aiokafka.record.default_records import DefaultRecordBatch

from agent.decode.kernels.batch_table import BATCH_SOURCE, BATCH_SOURCE_BYTES, GIVEN_FIELDS
from agent.decode.kernels.crc import crc32c
from agent.decode.kernels.frames import find_frames
from agent.decode.raw_batches import RawBatches, table_of
from agent.ingest.batches import CorruptRange, Frame, FramedRecords, ToleratedRecords, with_globals
from agent.ingest.direct import DirectClient
from agent.ingest.raw_legacy import rewritten
from agent.types import RawBatch, Record

# What follows the magic: checksum, attributes, last offset delta, first and largest timestamp,
# producer id and epoch, base sequence, number of records.
_HEADER = Struct(">Ihiqqqhii")
_HEADER_AT = 17
_CHECKED_AT = 21  # the checksum covers everything from here on
_RECORDS_AT = 61
_CODEC = 0x07
_N_CODECS = 5  # none, gzip, snappy, lz4, zstd
#: Batches, and about as many bytes, that are found at once.
_FRAMES = 256
_FRAMED_BYTES = 4 << 20
_TRANSACTIONAL = 0x10
_CONTROL = 0x20


class RawFrames(FramedRecords):
    """The frames of a buffer: runs of plain ones at once, or one by one."""

    def __init__(self, buffer: bytes) -> None:
        super().__init__(buffer)
        self._whole = np.frombuffer(buffer, np.uint8)
        self._address = self._whole.ctypes.data if len(buffer) else 0

    def plain(self, begin: int, shown: int) -> RawBatches | None:
        """The batches from here on, up to one that needs a second look; None when the first does.

        begin  offset to read from
        shown  attributes with which a batch needs a second look
        """
        rest = len(self._buffer) - self._at
        if rest < _RECORDS_AT:
            return None
        found = np.empty((min(_FRAMES, rest // _RECORDS_AT), GIVEN_FIELDS), np.int64)
        n = find_frames(
            self._address + self._at,
            rest,
            begin,
            shown,
            found.ctypes.data,
            len(found),
            _FRAMED_BYTES,
        )
        if not n:
            return None
        table = found[:n].copy()  # what waits to be decoded is no larger than it has to be
        last = table[-1]
        self._at = int(last[BATCH_SOURCE] + last[BATCH_SOURCE_BYTES]) - self._address
        return RawBatches(table, (self._whole,))

    def address_of(self, frame: Frame) -> int:
        """Where the frame lies in memory; it must be the last one taken."""
        return self._address + self._at - len(frame.data)


class RawRecords(ToleratedRecords):
    """Iterates `RawBatches` and, in the place of a damaged batch, one `CorruptRange`.

    Checksums are verified whatever `check_crcs` says: kernels that trust a length follow.
    """

    def __iter__(self) -> Iterator[Any]:
        return self._records_iterator  # type: ignore[no-any-return]  # one call less for each item

    def _unpack_records(self) -> Iterator[Any]:
        frames = self._frames = self._records
        shown = _CONTROL
        if self._isolation_level == _stock.READ_COMMITTED:
            shown |= _TRANSACTIONAL
        while frames.has_next():
            plain = frames.plain(self.next_fetch_offset, shown)
            if plain is None:
                yield from self._take(frames.next_frame())
            else:
                self.next_fetch_offset = plain.next_offset
                yield plain

    def _read(self, frame: Frame) -> Iterator[RawBatches | CorruptRange]:
        if frame.magic < 2:
            yield from self._legacy(frame)
            return
        (checksum, attributes, _, first_ms, max_ms, producer, _, _, n) = _HEADER.unpack_from(
            frame.data, _HEADER_AT
        )
        address = self._frames.address_of(frame)
        if checksum != crc32c(address + _CHECKED_AT, len(frame.data) - _CHECKED_AT):
            raise CorruptRecordException(f"Invalid CRC - {self._tp}")
        if not self._left_out(frame, attributes, producer):
            if attributes & _CODEC >= _N_CODECS:
                raise UnsupportedCodecError(f"Unknown compression codec {attributes & _CODEC:#04x}")
            if n or len(frame.data) > _RECORDS_AT:
                begin = self.next_fetch_offset
                self.next_fetch_offset = frame.next_offset
                one = RawBatch(
                    frame.data,
                    frame.base_offset,
                    frame.next_offset,
                    attributes,
                    first_ms,
                    max_ms,
                    n,
                    max(begin, frame.base_offset),
                )
                yield table_of([one])
        self.next_fetch_offset = frame.next_offset

    def _left_out(self, frame: Frame, attributes: int, producer: int) -> bool:
        """Whether the batch is a marker, or belongs to a transaction that was aborted."""
        is_control = bool(attributes & _CONTROL)
        if self._isolation_level == _stock.READ_COMMITTED:
            self._consume_aborted_up_to(frame.base_offset)
            if is_control and self._contains_abort_marker(
                iter(DefaultRecordBatch(bytes(frame.data)))
            ):
                # Brokers send an abort marker without records before it, too.
                self._aborted_producers.discard(producer)
            if attributes & _TRANSACTIONAL and producer in self._aborted_producers:
                return True
        return is_control

    def _legacy(self, frame: Frame) -> Iterator[RawBatches | CorruptRange]:
        """Records of an old format as one batch; what of it cannot be read behind them."""
        records: list[Record] = []
        damage: Exception | None = None
        try:
            records.extend(self._stock_records(frame))
        except Exception as error:
            damage = error
        if records:
            yield table_of([rewritten(records)])
        if damage is not None:
            raise damage


class RawFetcher(_stock.Fetcher):  # type: ignore[misc]
    """A fetcher that hands over batches."""

    _proc_fetch_request = with_globals(
        _stock.Fetcher._proc_fetch_request, MemoryRecords=RawFrames, PartitionRecords=RawRecords
    )


class RawConsumer(AIOKafkaConsumer):  # type: ignore[misc]
    """An AIOKafkaConsumer whose `getmany` yields `RawBatches` and `CorruptRange`."""

    __init__ = with_globals(AIOKafkaConsumer.__init__, AIOKafkaClient=DirectClient)
    start = with_globals(AIOKafkaConsumer.start, Fetcher=RawFetcher)
