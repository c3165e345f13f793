"""A consumer that survives damaged record batches and hands over `Record`s: the seam in aiokafka 0.14.

Stock aiokafka raises from `getmany` at a damaged batch. That loses what the same call had drained
from other partitions, and the next call meets the same batch. Here the batch becomes a
`CorruptRange` in the list of records, in its place, and reading goes on behind it.

How: two names that `Fetcher._proc_fetch_request` sees are replaced in a private copy of its globals
(nothing is patched for other users of aiokafka). Import fails when aiokafka no longer has them.

What is damaged: a checksum that does not match, a record structure or codec that cannot be read, an
unknown format version (magic, not covered by the checksum), a length that cannot be (framing).
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.consumer import fetcher as _stock
from aiokafka.record.memory_records import MemoryRecords

from agent.types import Record

# Start of a batch, the same in all versions up to the magic; what follows is version 2.
_HEAD = Struct(">qiib")  # base offset, length of what follows, (leader epoch or checksum), magic
_LOG_OVERHEAD = 12  # base offset and length: not counted in the length
_LAST_OFFSET_DELTA = Struct(">i")
_LAST_OFFSET_DELTA_AT = 23
_HEADER_V2 = 61
_MIN_BATCH = {0: 26, 1: 34, 2: _HEADER_V2}  # smallest batch of each magic, bytes
#: A batch that claims more records than this has a damaged header.
_MAX_DELTA = 1 << 24


@dataclass(frozen=True, slots=True)
class CorruptRange:
    """Offsets [offset, to_offset) that could not be read. At most that many records: compaction
    may have removed some, and the end is a guess when the header itself is damaged."""

    offset: int
    to_offset: int
    why: str


class Frame:
    """One batch inside a fetched buffer, found by its length field; `damage` says why it is none."""

    __slots__ = ("base_offset", "damage", "data", "following", "magic", "next_offset")

    def __init__(self, data: memoryview, damage: str, following: int | None) -> None:
        """`following` is the base offset of the batch behind, when there is one."""
        self.base_offset, _, _, self.magic = _HEAD.unpack_from(data)
        self.data = data
        self.damage = damage
        self.following = following
        delta = 0
        if self.magic >= 2 and len(data) >= _LAST_OFFSET_DELTA_AT + 4:
            (delta,) = _LAST_OFFSET_DELTA.unpack_from(data, _LAST_OFFSET_DELTA_AT)
        self.next_offset: int = self.base_offset + (delta if 0 <= delta < _MAX_DELTA else 0) + 1

    def misplaced(self, begin: int) -> str:
        """Why the base offset cannot be, as the batch to read from `begin` on; "" when it can.

        The checksum does not cover it. A batch that joins on to the one before is trusted.
        """
        if self.magic < 2:
            return ""
        if self.next_offset <= begin:
            return "its offsets lie before what was asked for"
        if (
            self.following is not None
            and begin < self.base_offset
            and begin <= self.following < self.next_offset
        ):
            return "its offsets reach into the next batch"
        return ""

    def end(self, begin: int) -> int:
        """Where to go on when this batch is given up from `begin` on; beyond it in any case.

        The batch behind bounds this one, whatever its own header says.
        """
        if self.following is not None and self.following > begin:
            return self.following
        return max(self.next_offset, begin + 1)


class FramedRecords:
    """The batches of a fetched buffer, framed but not parsed. O(1) a batch; copies nothing.

    Has the methods that the fetcher asks of aiokafka's `MemoryRecords`. A batch cut short at the end
    of the buffer is the tail of a fetch, unless it is the only one: brokers send the first whole.
    """

    def __init__(self, buffer: bytes) -> None:
        self._buffer = memoryview(buffer)
        self._at = 0

    def size_in_bytes(self) -> int:
        """0 for a buffer too short for any batch: the fetcher then asks again, instead of skipping."""
        return len(self._buffer) if len(self._buffer) >= _HEAD.size else 0

    def has_next(self) -> bool:
        remaining = len(self._buffer) - self._at
        if remaining < _HEAD.size:
            return False
        return self._at == 0 or self._length(self._at) <= remaining

    def next_frame(self) -> Frame:
        at, remaining = self._at, len(self._buffer) - self._at
        length = self._length(at)
        magic = _HEAD.unpack_from(self._buffer, at)[3]
        damage = ""
        if magic not in _MIN_BATCH:
            damage = f"unknown format version {magic}"
        if length < _MIN_BATCH.get(magic, _HEAD.size) or length > remaining:
            # Where the next batch begins is not known: nothing else of this buffer can be used.
            self._at = len(self._buffer)
            return Frame(self._buffer[at:], f"impossible batch length {length}", None)
        self._at = at + length
        following = self._base_offset() if self.has_next() else None
        return Frame(self._buffer[at : at + length], damage, following)

    def _length(self, at: int) -> int:
        return _LOG_OVERHEAD + int(_HEAD.unpack_from(self._buffer, at)[1])

    def _base_offset(self) -> int:
        return int(_HEAD.unpack_from(self._buffer, self._at)[0])


class ToleratedRecords(_stock.PartitionRecords):  # type: ignore[misc]
    """Iterates `Record`s and, in the place of a damaged batch, one `CorruptRange`.

    Aborted transactions, control batches and offsets below the position are the stock iterator's
    work: each sound frame is given to it alone.
    """

    _records: Any
    next_fetch_offset: int

    def _unpack_records(self) -> Iterator[Any]:
        frames = self._records
        while frames.has_next():
            yield from self._take(frames.next_frame())

    def _take(self, frame: Frame) -> Iterator[Any]:
        """What one frame holds, and what of it is damaged."""
        begin = self.next_fetch_offset
        why = frame.damage or frame.misplaced(begin)
        if not why:
            try:
                yield from self._read(frame)
            except Exception as error:
                if begin < self.next_fetch_offset >= frame.next_offset:
                    return  # all its offsets have been read: nothing to give up
                why = str(error) or type(error).__name__
        if why:
            begin = self.next_fetch_offset
            self.next_fetch_offset = frame.end(begin)
            yield CorruptRange(begin, self.next_fetch_offset, why)

    def _read(self, frame: Frame) -> Iterator[Any]:
        """What a sound frame holds; leaves the position behind what it yields. Raises at damage."""
        return self._stock_records(frame)

    def _stock_records(self, frame: Frame) -> Iterator[Record]:
        self._records = MemoryRecords(bytes(frame.data))  # its C part takes only bytes
        yield from super()._unpack_records()

    def _consumer_record(self, tp: Any, record: Any) -> Record:
        timestamp = record.timestamp
        return Record(
            record.offset,
            -1 if timestamp is None else timestamp,
            record.key,
            record.value,
            tuple(record.headers),
        )


def with_globals(function: Any, **names: Any) -> Any:
    """A copy of `function` that sees other objects under some global names; the original is left alone."""
    missing = names.keys() - set(function.__code__.co_names)
    if missing:
        raise ImportError(
            f"aiokafka's {function.__qualname__} no longer uses {sorted(missing)}; "
            "install aiokafka==0.14.0"
        )
    copy = types.FunctionType(
        function.__code__,
        {**function.__globals__, **names},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


class ToleratingFetcher(_stock.Fetcher):  # type: ignore[misc]
    """A fetcher whose buffers are framed here."""

    _proc_fetch_request = with_globals(
        _stock.Fetcher._proc_fetch_request,
        MemoryRecords=FramedRecords,
        PartitionRecords=ToleratedRecords,
    )


class ToleratingConsumer(AIOKafkaConsumer):  # type: ignore[misc]
    """An AIOKafkaConsumer whose `getmany` yields `Record` and `CorruptRange`."""

    start = with_globals(AIOKafkaConsumer.start, Fetcher=ToleratingFetcher)
