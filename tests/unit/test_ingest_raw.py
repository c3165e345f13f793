"""Whole batches as the raw consumer hands them over, and that they hold what the stock path reads."""

import itertools
import struct

import pytest
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder

from agent.decode.arena import RecordArena
from agent.ingest.batches import CorruptRange
from agent.types import RawBatch, Record
from tests.support.raw_batches import (
    CODECS,
    LOG_APPEND_TIME,
    TRANSACTIONAL,
    batches_of,
    built,
    control,
    encoded,
    raw,
    record,
    signed,
    stock,
)

T0 = 1_700_000_000_000


def several(base: int, n: int, name: str = "v") -> list[Record]:
    """Records of many kinds: without key, without value, empty, with headers."""
    kinds = itertools.cycle(
        [
            (None, b"text of %d", ()),
            (b"key", None, (("traceparent", b"00-x"), ("none", None), ("", b""))),
            (b"", b"", ()),
            (None, b"{%d}" * 20, (("caf\xe9 \u20ac", b"\xff\x00"),)),
        ]
    )
    return [
        record(
            base + i,
            None if value is None else value.replace(b"%d", b"%s%d" % (name.encode(), base + i)),
            key=key,
            timestamp_ms=T0 + 7 * i * (-1) ** i,
            headers=headers,
        )
        for i, (key, value, headers) in zip(range(n), kinds, strict=False)
    ]


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
@pytest.mark.parametrize("attributes", [0, LOG_APPEND_TIME], ids=["create", "append"])
def test_all_codecs_and_both_times_at_every_offset(codec: int, attributes: int) -> None:
    """Whatever offset inside a batch is asked for, both paths give the same records."""
    log = [
        (base + n, bytes(built(several(base, n), codec=codec, attributes=attributes)))
        for base, n in ((10, 5), (15, 1), (20, 9))
    ]
    offsets = [*range(10, 16), *range(20, 29)]
    for offset in range(8, 30):
        # A broker sends from the batch on that has the offset, or comes behind it.
        buffer = b"".join(data for end, data in log if end > offset)
        seen, next_offset = raw(buffer, offset)
        assert (seen, next_offset) == stock(buffer, offset), offset
        assert [one.offset for one in seen] == [one for one in offsets if one >= offset]
    buffer = b"".join(data for _, data in log)
    if attributes:
        records = [item for item in raw(buffer)[0] if isinstance(item, Record)]
        assert {one.timestamp_ms for one in records[:5]} == {T0 + 28}, "the largest, for all"


def test_batch_says_what_its_header_says() -> None:
    data = built(several(40, 4), codec=CODECS["lz4"], attributes=LOG_APPEND_TIME, producer=9)
    (batch,), next_offset = batches_of(bytes(data), 42)
    assert isinstance(batch, RawBatch)
    assert bytes(batch.data) == bytes(data)
    assert next_offset == batch.next_offset == 44
    assert (batch.base_offset, batch.min_offset, batch.n_records) == (40, 42, 4)
    assert batch.attributes == CODECS["lz4"] | LOG_APPEND_TIME
    assert (batch.first_timestamp, batch.max_timestamp) == (T0, T0 + 14)


def log_with_transactions() -> tuple[bytes, list[tuple[int, int]]]:
    """Two transactions that overlap, one of them aborted, plain batches between; and a marker alone."""
    tx = TRANSACTIONAL
    parts = [
        built(several(0, 2, "plain")),
        built(several(2, 3, "a"), attributes=tx, producer=1),
        built(several(5, 2, "b"), attributes=tx, producer=2, codec=CODECS["zstd"]),
        built(several(7, 1, "plain")),
        built(several(8, 2, "a"), attributes=tx, producer=1, codec=CODECS["lz4"]),
        control(10, 1, commit=False),
        built(several(11, 1, "a again"), attributes=tx, producer=1),
        control(12, 2, commit=True),
        control(13, 1, commit=True),
        control(14, 77, commit=False),
        built(several(15, 2, "plain")),
    ]
    return b"".join(parts), [(1, 2)]  # (producer, first offset), as brokers send them


@pytest.mark.parametrize("committed_only", [True, False])
def test_aborted_transactions_are_left_out_as_the_stock_path_does(committed_only: bool) -> None:
    buffer, aborted = log_with_transactions()
    for offset in range(18):
        theirs = stock(buffer, offset, committed_only=committed_only, aborted=aborted)
        ours = raw(buffer, offset, committed_only=committed_only, aborted=aborted)
        assert ours == theirs, offset
    offsets = [
        item.offset
        for item in raw(buffer, committed_only=committed_only, aborted=aborted)[0]
        if isinstance(item, Record)
    ]
    everything = [*range(10), 11, 15, 16]
    assert offsets == ([0, 1, 5, 6, 7, 11, 15, 16] if committed_only else everything)


def test_marker_that_cannot_be_read_is_given_up() -> None:
    bad = control(3, 1, commit=False)
    bad[61:] = b"\x10" + bytes(len(bad) - 62)
    signed(bad)
    buffer = built(several(0, 3)) + bad + built(several(4, 1))
    for committed_only in (True, False):
        assert raw(buffer, committed_only=committed_only) == stock(
            buffer, committed_only=committed_only
        )


def test_batch_emptied_by_compaction_only_moves_the_position() -> None:
    empty = encoded(b"", base_offset=3, n_records=0, last_offset_delta=4)
    assert batches_of(bytes(empty), 3) == ([], 8)
    buffer = built(several(0, 3)) + empty + built(several(8, 1))
    assert raw(buffer) == stock(buffer)
    assert len(batches_of(buffer)[0]) == 2


def test_batch_with_gaps_keeps_its_offsets() -> None:
    thinned = [record(100), record(105), record(1_000_000)]
    buffer = bytes(built(thinned))
    assert raw(buffer, 100) == stock(buffer, 100) == (thinned, 1_000_001)
    assert raw(buffer, 103) == stock(buffer, 103)
    # A compacted batch keeps its last offset, though the record is gone.
    kept = built(thinned[:2])
    kept[23:27] = struct.pack(">i", 30)
    assert raw(signed(kept), 100) == stock(kept, 100) == (thinned[:2], 131)


@pytest.mark.parametrize("magic", [0, 1])
@pytest.mark.parametrize("codec", [0, 1, 2], ids=["none", "gzip", "snappy"])
def test_old_formats_are_read_by_the_stock_reader_and_handed_over_in_the_new_one(
    magic: int, codec: int
) -> None:
    builder = LegacyRecordBatchBuilder(magic, codec, 1 << 20)
    for i in range(5):
        builder.append(i, T0 - i if magic else None, b"k" if i % 2 else None, b"v%d" % i)
    buffer = bytes(builder.build())
    for offset in range(6):
        assert raw(buffer, offset) == stock(buffer, offset)
    assert all(isinstance(item, RawBatch) for item in batches_of(buffer)[0])
    old_and_new = buffer + bytes(built(several(5, 4)))
    assert raw(old_and_new) == stock(old_and_new)
    assert len(raw(old_and_new)[0]) == 9


def test_old_format_with_damage_gives_what_lies_before_it() -> None:
    builder = LegacyRecordBatchBuilder(1, 0, 1 << 20)
    for i in range(3):
        builder.append(i, T0, None, b"v%d" % i)
    bad = bytearray(builder.build())
    bad[-1] ^= 1
    assert raw(bytes(bad)) == stock(bytes(bad))
    assert raw(bytes(bad))[0][-1] == (2, 3)


def test_codec_that_does_not_exist_is_told_before_a_batch_is_handed_over() -> None:
    for codec in (5, 6, 7):
        (damage,), next_offset = batches_of(bytes(encoded(b"x" * 40, attributes=codec)))
        assert isinstance(damage, CorruptRange)
        assert "codec" in damage.why
        assert next_offset == 1


def test_long_runs_of_batches_with_damage_here_and_there() -> None:
    """More than are found at once, and every kind of second look between plain ones."""
    parts, offset = [], 0
    for i in range(700):
        data = built(several(offset, 2), attributes=LOG_APPEND_TIME if i % 50 == 7 else 0)
        offset += 2
        if i % 97 == 3:
            data[-1] ^= 1
        if i % 89 == 5:
            data[22] = 6
            signed(data)
        if i % 83 == 2:
            data = control(offset - 2, 5, commit=True)
            offset -= 1
        if i % 71 == 6:
            offset += 3  # compacted away
        parts.append(bytes(data))
    buffer = b"".join(parts)
    expected = stock(buffer)
    assert raw(buffer) == expected
    assert len([one for one in expected[0] if isinstance(one, Record)]) > 1300
    assert raw(buffer, 1001) == stock(buffer, 1001)


def test_truncated_at_every_byte_both_paths_agree() -> None:
    whole = bytes(built(several(0, 3)))
    for codec in CODECS.values():
        last = bytes(built(several(3, 4), codec=codec))
        for length in range(len(last)):
            assert raw(whole + last[:length]) == stock(whole + last[:length]), (codec, length)


def test_flipped_bytes_both_paths_agree() -> None:
    """Any byte of the batch in the middle, its checksum left as it was."""
    before, after = bytes(built(several(0, 2))), bytes(built(several(6, 2)))
    middle = built(several(2, 4))
    for position in range(len(middle)):
        for flip in (0x01, 0x80, 0xFF):
            bad = bytearray(middle)
            bad[position] ^= flip
            assert raw(before + bad + after) == stock(before + bad + after), (position, flip)


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_flipped_bytes_under_a_right_checksum_cost_at_most_their_batch(codec: int) -> None:
    """What no broker accepts. The paths need not agree on it: the stock reader hands over records whose
    offsets lie outside of their batch, and gives one up for a header name that is not UTF-8."""
    before, after = bytes(built(several(0, 2))), bytes(built(several(6, 2)))
    middle = built(several(2, 4), codec=codec)
    arena = RecordArena()
    for position in [*range(16), *range(21, len(middle))]:
        if 8 <= position < 12 or 23 <= position < 27:
            continue  # length and last offset: where the batch ends
        for flip in (0x01, 0x10, 0x80, 0xFF):
            bad = bytearray(middle)
            bad[position] ^= flip
            seen, next_offset = raw(before + signed(bad) + after, arena=arena)
            assert next_offset >= 8
            records = [one for one in seen if isinstance(one, Record)]
            assert [one.offset for one in records[:2]] == [0, 1]
            offsets = [one.offset for one in records]
            assert offsets == sorted(set(offsets))
            if position >= 21:
                assert offsets[-2:] == [6, 7]
                lost = sum(one[1] - one[0] for one in seen if not isinstance(one, Record))
                assert len(records) + lost <= 8
