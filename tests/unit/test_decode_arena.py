"""Loads of the arena: what fits, what grows, what is refused, and where the records lie."""

from __future__ import annotations

import itertools
import struct
import zlib

import cramjam
import numpy as np
import pytest

from agent.decode import arena as arena_module
from agent.decode.arena import KEEP_LOADS, LOAD_BYTES, PADDING, RecordArena
from agent.decode.decompress import BadPayload, open_payload
from agent.decode.raw_batches import joined, table_of
from agent.types import RawBatch, Record
from tests.support.raw_batches import (
    CODECS,
    GZIP,
    LZ4,
    NONE,
    SNAPPY,
    ZSTD,
    batches_of,
    body_of,
    built,
    encoded,
    opened,
    record,
)

MIB = 1 << 20


def batch(data: bytes) -> RawBatch:
    (one,), _ = batches_of(bytes(data))
    assert isinstance(one, RawBatch)
    return one


def batches(n: int, records_each: int, value_bytes: int, codec: int = LZ4) -> list[RawBatch]:
    random = np.random.default_rng(7)
    base = itertools.count(0, records_each)
    return [
        batch(
            built(
                [
                    record(first + i, random.integers(0, 16, value_bytes, np.uint8).tobytes())
                    for i in range(records_each)
                ],
                codec=codec,
            )
        )
        for first in itertools.islice(base, n)
    ]


def compressed(codec: int, body: bytes) -> bytes:
    match codec:
        case 0:
            return body
        case 1:
            return bytes(cramjam.gzip.compress(body))
        case 2:
            return bytes(cramjam.snappy.compress_raw(body))
        case 3:
            return bytes(cramjam.lz4.compress(body))
        case _:
            return bytes(cramjam.zstd.compress(body))


def hand_made(payload: bytes, codec: int, n_records: int = 1, base: int = 0) -> RawBatch:
    """A batch with this payload, whatever it is."""
    return batch(encoded(payload, attributes=codec, n_records=n_records, base_offset=base))


# ---------------------------------------------------------------- loads


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_many_batches_come_in_loads_of_about_a_mebibyte(codec: int) -> None:
    given = table_of(batches(60, 40, 1500, codec))
    arena = RecordArena()
    lo, offsets, sizes = 0, [], []
    while lo < len(given):
        index = arena.load(given, lo)
        assert index.hi > lo
        lo = index.hi
        assert not index.unread
        assert (index.vpos >= PADDING).all()
        sizes.append(int(index.vpos[-1] + index.vlen[-1]) - PADDING)
        offsets += index.offset.tolist()
    assert offsets == list(range(2400))
    assert max(sizes) <= LOAD_BYTES
    assert len(sizes) <= 6, sizes


def test_addresses_are_those_of_the_arrays() -> None:
    index = RecordArena().load(table_of(batches(2, 10, 100)), 0)
    assert index.address == index.text.ctypes.data
    for name in index.at._fields:
        assert getattr(index.at, name) == getattr(index, name).ctypes.data, name


def test_range_is_read_again_as_before() -> None:
    """The table of a range is nobody's to write to."""
    values = [b"a" * 5000, b"b", b"c" * 100]
    given = table_of(batch(built([record(i, v)], codec=LZ4)) for i, v in enumerate(values))
    broken = table_of([hand_made(b"\xff" * 50, SNAPPY, n_records=4, base=3)])
    given = joined([given, broken])
    given.table.flags.writeable = False
    arena = RecordArena()
    for _ in range(2):
        assert opened(arena, given) == [*(record(i, v) for i, v in enumerate(values)), (3, 7)]


def test_no_batches_are_an_empty_load() -> None:
    index = RecordArena().load(joined([]), 0)
    assert (index.n, index.hi, index.to_offset, index.unread) == (0, 0, 0, [])


def test_batch_larger_than_a_load_is_read_and_its_memory_given_back() -> None:
    values = [np.random.default_rng(i).bytes(1000) * 3000 for i in range(3)]
    large = [batch(built([record(i, value)], codec=GZIP)) for i, value in enumerate(values)]
    arena = RecordArena()
    at_first = arena.size_bytes
    assert [one.value for one in opened(arena, large) if isinstance(one, Record)] == values
    assert arena.size_bytes <= 3 * 3_000_000
    small = batch(built([record(0, b"small")]))
    for _ in range(KEEP_LOADS + 1):
        assert opened(arena, [small]) == [record(0, b"small")]
    assert arena.size_bytes == at_first


@pytest.mark.parametrize("codec", [GZIP, SNAPPY, LZ4, ZSTD], ids=["gzip", "snappy", "lz4", "zstd"])
def test_batch_that_opens_into_too_much_is_counted_and_takes_no_more_memory(codec: int) -> None:
    bomb = hand_made(compressed(codec, bytes(40 * MIB)), codec, n_records=9, base=10)
    assert len(bomb.data) < 3 * MIB
    before, after = batch(built([record(9)])), batch(built([record(19)]))
    arena = RecordArena(max_batch_bytes=8 * MIB)
    seen = opened(arena, [before, bomb, after])
    assert sorted(seen, key=lambda one: one[0]) == [record(9), (10, 19), record(19)]
    assert arena.size_bytes <= 10 * MIB
    assert opened(arena, [bomb]) == [(10, 19)]


def test_batch_that_came_uncompressed_may_be_larger_than_the_bound() -> None:
    value = bytes(3 * MIB)
    arena = RecordArena(max_batch_bytes=2 * MIB)
    assert opened(arena, [batch(built([record(0, value)]))]) == [record(0, value)]


def test_claimed_number_of_records_takes_no_memory() -> None:
    liar = batch(encoded(body_of(record(0)), n_records=2**31 - 1, last_offset_delta=0))
    arena = RecordArena()
    before = arena.size_bytes
    assert opened(arena, [liar]) == [record(0)]
    assert arena.size_bytes == before


def test_many_tiny_records_and_many_tiny_batches_end_a_load(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(arena_module, "LOAD_RECORDS", 100)
    arena = RecordArena()
    tiny = batches(30, 40, 1)
    index = arena.load(table_of(tiny), 0)
    assert (index.n, index.hi) == (80, 2)
    assert len(opened(arena, tiny)) == 1200
    one_that_is_more = batches(1, 5000, 1)
    assert arena.load(table_of(one_that_is_more), 0).n == 5000
    assert len(opened(arena, one_that_is_more + tiny[:1])) == 5040
    monkeypatch.undo()
    many = table_of(batches(1500, 1, 1))
    index = arena.load(many, 0)
    assert (index.n, index.hi) == (1024, 1024)
    assert arena.load(many, index.hi).n == 476


def test_damaged_batch_does_not_touch_its_neighbours() -> None:
    """Garbage under a right checksum, in every codec, first, last and in the middle."""
    good = [batch(built([record(i, b"good%d" % i)], codec=i % 5)) for i in range(0, 40, 10)]
    arena = RecordArena()
    for codec in CODECS.values():
        for garbage in (b"", b"\0", b"\xff" * 100, bytes(range(256)), bytes(3000)):
            bad = hand_made(garbage, codec, n_records=5, base=5)
            for place in range(4):
                seen = opened(arena, [*good[:place], bad, *good[place:]])
                kept = [one for one in seen if isinstance(one, Record)]
                assert [one.value for one in kept] == [b"good%d" % i for i in range(0, 40, 10)]
                lost = [one for one in seen if not isinstance(one, Record)]
                assert lost == [(5, 10)], (codec, garbage[:3])


def test_why_a_batch_was_not_read_is_said() -> None:
    arena = RecordArena()
    (damage,) = arena.load(table_of([hand_made(b"\xff" * 50, SNAPPY)]), 0).unread
    assert damage == (0, 1, "its compressed data is broken")
    (damage,) = arena.load(table_of([hand_made(b"\xff" * 50, ZSTD)]), 0).unread
    assert damage.why == "Unknown frame descriptor"
    (damage,) = arena.load(table_of([hand_made(b"\x7f" * 50, NONE)]), 0).unread
    assert damage.why == "a record's length is wrong"


# ---------------------------------------------------------------- payloads as other clients write them


def lz4_frame(body: bytes, *, block_code: int = 4, flags: int = 0x60) -> bytes:
    """A frame by the format's definition. The checksums in it are zero: they are passed over."""
    block_bytes = 1 << (2 * block_code + 8)
    header = struct.pack("<IBB", 0x184D2204, flags, block_code << 4)
    if flags & 0x08:
        header += struct.pack("<Q", len(body))
    out = header + b"\0"
    behind = bytes(4) if flags & 0x10 else b""
    for at in range(0, len(body), block_bytes):
        part = body[at : at + block_bytes]
        block = bytes(cramjam.lz4.compress_block(part, store_size=False))
        if len(block) < len(part):
            out += struct.pack("<I", len(block)) + block + behind
        else:
            out += struct.pack("<I", len(part) | 1 << 31) + part + behind
    return out + bytes(4) + (bytes(4) if flags & 0x04 else b"")


def test_frames_of_lz4_with_and_without_sizes_and_checksums() -> None:
    random = np.random.default_rng(3)
    value = b"abc" * 40_000 + random.bytes(150_000) + b"\0" * 100_000
    body = body_of(record(0, value))
    arena = RecordArena()
    for block_code in (4, 5, 6, 7):
        for flags in range(0x60, 0x80, 4):
            frame = lz4_frame(body, block_code=block_code, flags=flags)
            assert opened(arena, [hand_made(frame, LZ4)]) == [record(0, value)], (block_code, flags)


def test_frames_of_lz4_whose_blocks_build_on_each_other() -> None:
    value = np.random.default_rng(3).bytes(50_000) * 5
    compressor = cramjam.lz4.Compressor(block_linked=True)
    compressor.compress(body_of(record(0, value)))
    frame = bytes(compressor.finish())
    assert len(frame) < 150_000, "matches reach into the blocks before"
    assert not frame[4] & 0x20
    assert opened(RecordArena(), [hand_made(frame, LZ4)]) == [record(0, value)]


def test_two_frames_of_lz4_are_left_to_the_library() -> None:
    first, second = body_of(record(0, b"a" * 500)), body_of(record(1, b"b" * 500))
    payload = bytes(cramjam.lz4.compress(first)) + bytes(cramjam.lz4.compress(second))
    assert opened(RecordArena(), [hand_made(payload, LZ4, 2)]) == [
        record(0, b"a" * 500),
        record(1, b"b" * 500),
    ]


def xerial(body: bytes, block_bytes: int) -> bytes:
    out = b"\x82SNAPPY\0" + struct.pack(">ii", 1, 1)
    for at in range(0, len(body), block_bytes):
        block = bytes(cramjam.snappy.compress_raw(body[at : at + block_bytes]))
        out += struct.pack(">i", len(block)) + block
    return out


def test_snappy_bare_and_framed() -> None:
    random = np.random.default_rng(5)
    value = b"abcdefgh" * 9000 + random.bytes(70_000) + b"\0" * 70_000
    body = body_of(record(0, value))
    arena = RecordArena()
    bare = bytes(cramjam.snappy.compress_raw(body))
    for payload in (bare, xerial(body, 1000), xerial(body, 32 << 10), xerial(body, len(body))):
        assert opened(arena, [hand_made(payload, SNAPPY)]) == [record(0, value)]


def test_gzip_and_zstd_as_streams_without_a_size() -> None:
    value = b"stream " * 30_000
    body = body_of(record(0, value))
    deflate = zlib.compressobj(9, wbits=31)
    zstd = cramjam.zstd.Compressor()
    zstd.compress(body)
    arena = RecordArena()
    for codec, payload in (
        (GZIP, deflate.compress(body) + deflate.flush()),
        (ZSTD, bytes(zstd.finish())),
    ):
        assert opened(arena, [hand_made(payload, codec)]) == [record(0, value)]


def test_message_of_the_library_that_says_no_room_is_still_the_same() -> None:
    """The one thing by which output that does not fit is told from input that is broken."""
    for codec in (GZIP, LZ4, ZSTD):
        payload = memoryview(compressed(codec, bytes(5000)))
        with pytest.raises(arena_module.NoRoom):
            open_payload(codec, payload, memoryview(bytearray(100)))
        with pytest.raises(BadPayload):
            open_payload(codec, payload[:-5], memoryview(bytearray(6000)))
