"""Damaged batches inside a fetched buffer: what is skipped, and that everything else arrives."""

import struct
from typing import Any

import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from aiokafka.structs import TopicPartition

from agent.ingest.batches import CorruptRange, FramedRecords, ToleratedRecords, with_globals
from agent.types import Record
from tests.support.raw_batches import raw, stock


def batch(base_offset: int, n: int, *, codec: int = 0, size: int = 10) -> bytearray:
    """A version 2 batch as a broker would store it: `n` records from `base_offset` on."""
    builder = DefaultRecordBatchBuilder(2, codec, 0, -1, -1, -1, 1 << 20)
    for i in range(n):
        builder.append(i, 1000 + i, None, b"%d:" % (base_offset + i) + b"v" * size, [])
    data = bytearray(builder.build())
    data[0:8] = struct.pack(">q", base_offset)  # the broker assigns it; not under the checksum
    return data


def read(buffer: bytes, offset: int = 0) -> tuple[list[int | tuple[int, int]], int]:
    """Offsets read and ranges given up, in order; and the offset to fetch next. By both paths alike."""
    seen, next_offset = stock(buffer, offset)
    found, end = raw(buffer, offset)  # what was given up apart from the records
    found = sorted(found, key=lambda item: item.offset if isinstance(item, Record) else item[0])
    assert (found, end) == (seen, next_offset)
    return [item.offset if isinstance(item, Record) else item for item in seen], next_offset


def why(buffer: bytes) -> list[str]:
    records = ToleratedRecords(
        TopicPartition("t", 0), FramedRecords(bytes(buffer)), None, 0, None, None, True, 0
    )
    return [item.why for item in records if isinstance(item, CorruptRange)]


def test_sound_batches_are_read_whole() -> None:
    assert read(batch(0, 3) + batch(3, 2)) == ([0, 1, 2, 3, 4], 5)
    assert read(batch(0, 3) + batch(3, 2), offset=2) == ([2, 3, 4], 5)
    assert read(batch(0, 2) + batch(7, 2)) == ([0, 1, 7, 8], 9)
    assert read(b"") == ([], 0)


def test_batch_cut_short_by_the_end_of_the_fetch_is_left_for_the_next() -> None:
    whole, cut = batch(0, 3), batch(3, 3)
    for length in (1, 11, 12, 16, 17, 40, len(cut) - 1):
        assert read(whole + cut[:length]) == ([0, 1, 2], 3), length


@pytest.mark.parametrize("codec", [0, 1, 2, 3, 4])
def test_wrong_checksum_gives_up_that_batch_alone(codec: int) -> None:
    bad = batch(3, 4, codec=codec)
    bad[-3] ^= 0xFF
    assert read(batch(0, 3) + bad + batch(7, 2)) == ([0, 1, 2, (3, 7), 7, 8], 9)
    assert "Invalid CRC" in why(bad)[0]


def test_first_and_last_batch_of_a_fetch_may_be_the_damaged_one() -> None:
    bad = batch(0, 4)
    bad[-1] ^= 1
    assert read(bad) == ([(0, 4)], 4)
    assert read(bad + batch(4, 1)) == ([(0, 4), 4], 5)
    # Asked for an offset inside the batch: what lies before it was read earlier.
    assert read(bad + batch(4, 1), offset=2) == ([(2, 4), 4], 5)


def test_damaged_header_is_bounded_by_the_batch_behind_it() -> None:
    bad = batch(3, 4)
    bad[23:27] = struct.pack(">i", 1_000_000)  # last offset delta
    assert read(batch(0, 3) + bad + batch(7, 2)) == ([0, 1, 2, (3, 7), 7, 8], 9)
    bad[23:27] = struct.pack(">i", -5)
    assert read(batch(0, 3) + bad + batch(7, 2)) == ([0, 1, 2, (3, 7), 7, 8], 9)
    assert read(batch(0, 3) + bad) == ([0, 1, 2, (3, 4)], 4)


def test_unknown_format_version_is_given_up() -> None:
    """The checksum does not cover the version, so aiokafka would read it as version 2."""
    strange = batch(3, 4)
    strange[16] = 9
    assert read(batch(0, 3) + strange + batch(7, 1)) == ([0, 1, 2, (3, 7), 7], 8)
    assert why(strange) == ["unknown format version 9"]
    strange[16] = 0xFF
    assert why(strange) == ["unknown format version -1"]


@pytest.mark.parametrize("length", [-1, -(2**31), 0, 5, 20, 2**31 - 1])
def test_impossible_length_ends_the_buffer_and_reading_goes_on_behind_it(length: int) -> None:
    bad = batch(0, 4)
    bad[8:12] = struct.pack(">i", length)
    items, next_offset = read(bad + batch(4, 1))
    assert items == [(0, 4)]
    assert next_offset == 4


def test_codec_that_does_not_exist_is_given_up_although_the_checksum_is_right() -> None:
    bad = batch(0, 3)
    bad[22] = 6
    bad[17:21] = struct.pack(">I", _crc32c(bytes(bad[21:])))
    assert read(bad + batch(3, 1)) == ([(0, 3), 3], 4)
    assert "codec" in why(bad)[0]


def test_records_that_lie_about_their_count_are_given_up_from_there_on() -> None:
    bad = batch(0, 3)
    bad[57:61] = struct.pack(">i", 9)
    bad[17:21] = struct.pack(">I", _crc32c(bytes(bad[21:])))
    assert read(bad + batch(3, 1)) == ([0, 1, 2, 3], 4), "every offset it has was read"
    bad[23:27] = struct.pack(">i", 8)
    bad[17:21] = struct.pack(">I", _crc32c(bytes(bad[21:])))
    assert read(bad + batch(9, 1)) == ([0, 1, 2, (3, 9), 9], 10)


def test_compressed_garbage_with_a_right_checksum_is_given_up() -> None:
    bad = batch(0, 3, codec=4, size=200)
    bad[61:] = b"\x00" * (len(bad) - 61)
    bad[17:21] = struct.pack(">I", _crc32c(bytes(bad[21:])))
    assert read(bad + batch(3, 2)) == ([(0, 3), 3, 4], 5)


def test_oldest_format_is_still_read() -> None:
    builder = LegacyRecordBatchBuilder(1, 0, 1 << 20)
    for i in range(3):
        builder.append(i, 1000 + i, None, b"v%d" % i)
    assert read(bytes(builder.build())) == ([0, 1, 2], 3)


def test_every_flipped_bit_costs_at_most_its_own_batch() -> None:
    """Whatever bit of the middle batch is wrong, the batches around it arrive, and reading ends."""
    before, middle, after = batch(0, 2), batch(2, 3), batch(5, 2)
    for position in range(len(middle)):
        for bit in range(8):
            bad = bytearray(middle)
            bad[position] ^= 1 << bit
            items, next_offset = read(before + bad + after)
            kept = [item for item in items if isinstance(item, int)]
            assert kept[:2] == [0, 1]
            assert kept == sorted(set(kept)), "never backwards, never twice"
            if position >= 16:
                assert kept == [0, 1, 5, 6], (position, bit)
                assert items[2] == (2, 5)
            elif position >= 12:  # leader epoch: nobody looks at it
                assert kept == [0, 1, 2, 3, 4, 5, 6]
            elif position >= 8 and next_offset == 2:  # longer than the buffer: left for the next
                assert read(bad + after, offset=2) == ([(2, 5)], 5)
            assert next_offset >= 2


def test_records_are_ours_with_their_headers() -> None:
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 20)
    builder.append(0, 1234, b"k", None, [("a", b"1"), ("b", None)])
    records = ToleratedRecords(
        TopicPartition("t", 0), FramedRecords(builder.build()), None, 0, None, None, True, 0
    )
    assert list(records) == [Record(0, 1234, b"k", None, (("a", b"1"), ("b", None)))]


def test_seam_says_so_when_aiokafka_has_changed() -> None:
    def changed() -> Any:
        return None

    with pytest.raises(
        ImportError, match=r"no longer uses \['Fetcher'\]; install aiokafka==0.14.0"
    ):
        with_globals(changed, Fetcher=object)


def _crc32c(data: bytes) -> int:
    """Castagnoli's polynomial, bit by bit: an oracle of its own."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF
