"""A consumer whose `getmany` yields whole record batches, checked but not opened: `kafka.fetch: raw`.

What is done here, on the loop, and per batch only: framing and checksum, aborted transactions and
control batches left out, a position inside a batch noted. Decompressing and finding the records is
the kernel threads' work. Batches of formats before version 2 go through the stock reader and are
written again in version 2 (`raw_legacy.py`), so that everything behind sees one kind.

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
from aiokafka.record.util import calc_crc32c

from agent.decode.kernels import crc
from agent.ingest.batches import CorruptRange, Frame, FramedRecords, ToleratedRecords, with_globals
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
_TRANSACTIONAL = 0x10
_CONTROL = 0x20


class RawFrames(FramedRecords):
    """The frames of a buffer, and where each lies in memory."""

    def __init__(self, buffer: bytes) -> None:
        super().__init__(buffer)
        self._address = np.frombuffer(buffer, np.uint8).ctypes.data if len(buffer) else 0

    def address(self, frame: Frame) -> int:
        """Where the frame lies in memory; it must be the last one taken."""
        return self._address + self._at - len(frame.data)


def _checksum(data: memoryview, address: int) -> int:
    """CRC-32C of what the checksum of a version 2 batch covers."""
    if crc.HAS_INSTRUCTION:
        return int(crc.crc32c(address + _CHECKED_AT, len(data) - _CHECKED_AT))
    return int(calc_crc32c(data[_CHECKED_AT:]))


class RawRecords(ToleratedRecords):
    """Iterates `RawBatch`es and, in the place of a damaged batch, one `CorruptRange`."""

    def _unpack_records(self) -> Iterator[Any]:
        self._frames: RawFrames = self._records
        return super()._unpack_records()

    def _read(self, frame: Frame) -> Iterator[RawBatch | CorruptRange]:
        if frame.magic < 2:
            yield from self._legacy(frame)
            return
        (checksum, attributes, _, first_ms, max_ms, producer, _, _, n) = _HEADER.unpack_from(
            frame.data, _HEADER_AT
        )
        address = self._frames.address(frame)
        if self._check_crcs and _checksum(frame.data, address) != checksum:
            raise CorruptRecordException(f"Invalid CRC - {self._tp}")
        if not self._left_out(frame, attributes, producer):
            if attributes & _CODEC >= _N_CODECS:
                raise UnsupportedCodecError(f"Unknown compression codec {attributes & _CODEC:#04x}")
            if n or len(frame.data) > _RECORDS_AT:
                begin = self.next_fetch_offset
                self.next_fetch_offset = frame.next_offset
                yield RawBatch(
                    frame.data,
                    frame.base_offset,
                    frame.next_offset,
                    attributes,
                    first_ms,
                    max_ms,
                    n,
                    max(begin, frame.base_offset),
                    address,
                )
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

    def _legacy(self, frame: Frame) -> Iterator[RawBatch | CorruptRange]:
        """Records of an old format as one batch; what of it cannot be read behind them."""
        records: list[Record] = []
        damage: Exception | None = None
        try:
            records.extend(self._stock_records(frame))
        except Exception as error:
            damage = error
        if records:
            yield rewritten(records)
        if damage is not None:
            raise damage


class RawFetcher(_stock.Fetcher):  # type: ignore[misc]
    """A fetcher that hands over batches."""

    _proc_fetch_request = with_globals(
        _stock.Fetcher._proc_fetch_request, MemoryRecords=RawFrames, PartitionRecords=RawRecords
    )


class RawConsumer(AIOKafkaConsumer):  # type: ignore[misc]
    """An AIOKafkaConsumer whose `getmany` yields `RawBatch` and `CorruptRange`."""

    start = with_globals(AIOKafkaConsumer.start, Fetcher=RawFetcher)
