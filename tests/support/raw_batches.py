"""Record batches as bytes, whole or broken, and two ways to read a buffer of them: ours and the stock one.

Batches are built by aiokafka's builder, or byte by byte from the format's definition (`encode`) where
the builder would refuse.
"""

import ctypes
import struct
from collections.abc import Iterable, Sequence

from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c
from aiokafka.structs import TopicPartition

from agent.decode.arena import RecordArena
from agent.decode.kernels.batch_table import (
    BATCH_MIN_OFFSET,
    BATCH_NEXT_OFFSET,
    BATCH_SOURCE,
    BATCH_SOURCE_BYTES,
)
from agent.decode.raw_batches import RawBatches, table_of
from agent.ingest.batches import CorruptRange, FramedRecords, ToleratedRecords
from agent.ingest.raw import RawFrames, RawRecords
from agent.types import Fetch, RawBatch, RawFetch, Record

NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)
CODECS = {"none": NONE, "gzip": GZIP, "snappy": SNAPPY, "lz4": LZ4, "zstd": ZSTD}
LOG_APPEND_TIME, TRANSACTIONAL, CONTROL = 0x08, 0x10, 0x20
HEADER_BYTES = 61
_TP = TopicPartition("t", 0)


def record(
    offset: int,
    value: bytes | None = b"value",
    *,
    key: bytes | None = None,
    timestamp_ms: int = 1_700_000_000_000,
    headers: Sequence[tuple[str, bytes | None]] = (),
) -> Record:
    return Record(offset, timestamp_ms, key, value, tuple(headers))


def built(
    records: Sequence[Record],
    *,
    codec: int = NONE,
    attributes: int = 0,
    producer: int = -1,
    base_offset: int | None = None,
) -> bytearray:
    """The batch that aiokafka's builder makes of these records, with attributes set as a broker does."""
    builder = DefaultRecordBatchBuilder(
        2, codec, bool(attributes & TRANSACTIONAL), producer, 0, 0, 1 << 28
    )
    base = records[0].offset if base_offset is None else base_offset
    for one in records:
        assert builder.append(
            one.offset - base, one.timestamp_ms, one.key, one.value, list(one.headers)
        )
    data = bytearray(builder.build())
    data[0:8] = struct.pack(">q", base)
    data[22] |= attributes
    return signed(data)


def signed(data: bytearray) -> bytearray:
    """`data` with its checksum made right."""
    data[17:21] = struct.pack(">I", calc_crc32c(bytes(data[21:])))
    return data


def encoded(
    body: bytes,
    *,
    base_offset: int = 0,
    n_records: int = 1,
    last_offset_delta: int | None = None,
    attributes: int = 0,
    first_timestamp: int = 0,
    max_timestamp: int = 0,
    producer: int = -1,
) -> bytearray:
    """A batch around `body` (the records section as it is, compressed if `attributes` say so)."""
    delta = n_records - 1 if last_offset_delta is None else last_offset_delta
    header = struct.pack(
        ">qiibIhiqqqhii",
        base_offset,
        HEADER_BYTES - 12 + len(body),
        -1,
        2,
        0,
        attributes,
        delta,
        first_timestamp,
        max_timestamp,
        producer,
        0,
        0,
        n_records,
    )
    return signed(bytearray(header + body))


def control(base_offset: int, producer: int, *, commit: bool) -> bytearray:
    """A transaction marker, as brokers write it."""
    key, value = struct.pack(">hh", 0, int(commit)), struct.pack(">hi", 0, 0)
    marker = Record(base_offset, 0, key, value, ())
    return built([marker], attributes=TRANSACTIONAL | CONTROL, producer=producer)


def varint(value: int) -> bytes:
    """Zigzag, seven bits a byte."""
    bits = (value << 1) ^ (value >> 63)
    out = bytearray()
    while bits > 127:
        out.append(bits & 127 | 128)
        bits >>= 7
    out.append(bits)
    return bytes(out)


def body_of(one: Record, base_offset: int = 0, first_timestamp: int = 0) -> bytes:
    """One record of the records section, length and all."""

    def sized(value: bytes | None) -> bytes:
        return varint(-1) if value is None else varint(len(value)) + value

    inner = b"\0" + varint(one.timestamp_ms - first_timestamp) + varint(one.offset - base_offset)
    inner += sized(one.key) + sized(one.value) + varint(len(one.headers))
    inner += b"".join(sized(name.encode()) + sized(value) for name, value in one.headers)
    return varint(len(inner)) + inner


Seen = Record | tuple[int, int]


def stock(
    buffer: bytes,
    offset: int = 0,
    *,
    committed_only: bool = False,
    aborted: Iterable[tuple[int, int]] = (),
) -> tuple[list[Seen], int]:
    """Records and (from, to) of what was given up, in order, as the stock path has them; next offset."""
    reader = ToleratedRecords(
        _TP,
        FramedRecords(bytes(buffer)),
        list(aborted),
        offset,
        None,
        None,
        True,
        int(committed_only),
    )
    seen = [
        (item.offset, item.to_offset) if isinstance(item, CorruptRange) else item for item in reader
    ]
    return seen, reader.next_fetch_offset


def batches_of(
    buffer: bytes,
    offset: int = 0,
    *,
    committed_only: bool = False,
    aborted: Iterable[tuple[int, int]] = (),
) -> tuple[list[RawBatch | CorruptRange], int]:
    """What the raw consumer hands over, its tables taken apart; and the offset to fetch next."""
    items, next_offset = tables_of(buffer, offset, committed_only=committed_only, aborted=aborted)
    apart: list[RawBatch | CorruptRange] = []
    for item in items:
        apart += [item] if isinstance(item, CorruptRange) else taken_apart(item)
    return apart, next_offset


def tables_of(
    buffer: bytes,
    offset: int = 0,
    *,
    committed_only: bool = False,
    aborted: Iterable[tuple[int, int]] = (),
) -> tuple[list[RawBatches | CorruptRange], int]:
    """What the raw consumer hands over, as it is; and the offset to fetch next."""
    reader = RawRecords(
        _TP, RawFrames(bytes(buffer)), list(aborted), offset, None, None, True, int(committed_only)
    )
    return list(reader), reader.next_fetch_offset


def taken_apart(batches: RawBatches) -> list[RawBatch]:
    """Each batch as its header in memory says, with the least offset that its table gives."""
    apart = []
    for row in batches.table.tolist():
        size = HEADER_BYTES + row[BATCH_SOURCE_BYTES]
        data = ctypes.string_at(row[BATCH_SOURCE] - HEADER_BYTES, size)
        base, _, _, _, _, attributes, delta, first_ms, max_ms, _, _, _, n = struct.unpack_from(
            ">qiibIhiqqqhii", data
        )
        least = row[BATCH_MIN_OFFSET]
        one = RawBatch(
            memoryview(data), base, base + delta + 1, attributes, first_ms, max_ms, n, least
        )
        assert table_of([one]).table[0, 1:].tolist() == row[1:], "as the header says"
        apart.append(one)
    return apart


def raw(
    buffer: bytes,
    offset: int = 0,
    *,
    committed_only: bool = False,
    aborted: Iterable[tuple[int, int]] = (),
    arena: RecordArena | None = None,
) -> tuple[list[Seen], int]:
    """The same as `stock`, by the raw path: batches, opened in an arena."""
    items, next_offset = tables_of(buffer, offset, committed_only=committed_only, aborted=aborted)
    arena = arena or RecordArena()
    seen: list[Seen] = []
    for item in items:
        if isinstance(item, CorruptRange):
            seen.append((item.offset, item.to_offset))
        else:
            seen += opened(arena, item)
    return seen, next_offset


def opened(arena: RecordArena, given: Sequence[RawBatch] | RawBatches) -> list[Seen]:
    """All records of the batches, and behind those of each load what of it could not be read."""
    batches = given if isinstance(given, RawBatches) else table_of(given)
    seen: list[Seen] = []
    lo = 0
    while lo < len(batches):
        index = arena.load(batches, lo)
        assert lo < index.hi <= len(batches)
        assert index.to_offset == batches.table[index.hi - 1, BATCH_NEXT_OFFSET]
        lo = index.hi
        seen += [index.record(row) for row in range(index.n)]
        seen += [(one.offset, one.to_offset) for one in index.unread]
    return seen


def warm_fetch_kernels() -> None:
    """Compile what reading raw batches takes, as the agent does before it joins its group: a loop that
    compiles misses its heartbeats."""
    assert raw(bytes(built([record(0)], codec=LZ4)))[0] == [record(0)]


def opened_fetch(fetch: Fetch | RawFetch, arena: RecordArena) -> Fetch:
    """The same range as records; what of it could not be opened counts as corrupt."""
    if isinstance(fetch, Fetch):
        return fetch
    seen = opened(arena, fetch.batches)
    lost = sum(one[1] - one[0] for one in seen if not isinstance(one, Record))
    return Fetch(
        fetch.epoch,
        fetch.partition,
        fetch.from_offset,
        fetch.to_offset,
        [one for one in seen if isinstance(one, Record)],
        fetch.high_watermark,
        fetch.size_bytes,
        fetch.is_label_topic,
        fetch.n_corrupt + lost,
    )
