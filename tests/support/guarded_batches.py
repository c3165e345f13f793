"""Opens and indexes batches between unreadable pages: `python -m tests.support.guarded_batches CASES SEED`.

A payload ends right before an unreadable page, the room it is opened into 64 bytes before another, and so
does a records section. Whatever is wrong with them, a kernel that reads or writes further ends this
process. What the kernels accept is compared with what cramjam makes of it. Prints a count of each
outcome as JSON; exits 1 with the case at the first difference.
"""

import json
import random
import struct
import sys
from collections import Counter

import cramjam
import numpy as np

from agent.decode.kernels.batch_table import (
    BATCH_CODEC,
    BATCH_COUNT,
    BATCH_DAMAGE,
    BATCH_END,
    BATCH_FIELDS,
    BATCH_NEXT_OFFSET,
    BATCH_OFFSET,
    BATCH_SOURCE,
    BATCH_SOURCE_BYTES,
    BATCH_START,
    BATCH_STATE,
    GIVEN_FIELDS,
    HEADER_BYTES,
    NO_ROOM,
    OPENED,
)
from agent.decode.kernels.frames import find_frames
from agent.decode.kernels.open_batches import LZ4, NONE, SNAPPY, open_batches
from agent.decode.kernels.record_index import N_COLUMNS, VALUE, VALUE_LENGTH, index_records
from agent.types import Record
from tests.fuzz.guard import GuardedRoom
from tests.support.raw_batches import body_of, built

PADDING = 64


def some_bytes(pick: random.Random) -> bytes:
    """Text with repetitions near and far, runs, and noise."""
    out = bytearray()
    for _ in range(pick.randrange(1, 12)):
        match pick.randrange(5):
            case 0:
                out += pick.randbytes(pick.randrange(1, 300))
            case 1:
                out += pick.randbytes(pick.randrange(1, 20)) * pick.randrange(1, 60)
            case 2 if out:
                at = pick.randrange(len(out))
                out += out[at : at + pick.randrange(1, 400)]
            case 3:
                out += b'{"name":%d,"other":%r}' % (pick.randrange(10**6), pick.random())
            case _:
                out += bytes([pick.randrange(256)]) * pick.randrange(1, 700)
    return bytes(out)


def spoiled(pick: random.Random, data: bytes, keep: int) -> bytes:
    """`data` with a few bytes changed behind the first `keep`, or cut, or lengthened; or as it is."""
    out = bytearray(data)
    for _ in range(pick.choice((0, 1, 1, 2, 5))):
        if len(out) > keep:
            out[pick.randrange(keep, len(out))] = pick.choice(
                (0, 1, 15, 16, 127, 240, 255, pick.randrange(256))
            )
    if pick.random() < 0.2:
        del out[pick.randrange(keep, len(out) + 1) :]
    if pick.random() < 0.1:
        out += pick.randbytes(pick.randrange(1, 9))
    return bytes(out)


def payload(pick: random.Random, body: bytes, codec: int) -> tuple[bytes, int]:
    """The body compressed, and the length of what is not to be spoiled at its start."""
    if codec == NONE:
        return body, 0
    if codec == SNAPPY:
        block = bytes(cramjam.snappy.compress_raw(body))
        if pick.random() < 0.5:
            return block, 0
        return b"\x82SNAPPY\0" + struct.pack(">iii", 1, 1, len(block)) + block, 16
    block = bytes(cramjam.lz4.compress_block(body, store_size=False))
    return struct.pack("<IBBBI", 0x184D2204, 0x60, 0x40, 0, len(block)) + block + bytes(4), 7


def by_library(codec: int, data: bytes) -> bytes | None:
    """What cramjam makes of a payload of one block; None when it refuses it."""
    try:
        if codec == NONE:
            return data
        if codec == SNAPPY:
            if data[:8] == b"\x82SNAPPY\0":
                (size,) = struct.unpack_from(">i", data, 16)
                return (
                    bytes(cramjam.snappy.decompress_raw(data[20:]))
                    if size == len(data) - 20
                    else None
                )
            return bytes(cramjam.snappy.decompress_raw(data))
        (size,) = struct.unpack_from("<I", data, 7)
        if size != len(data) - 15 or data[-4:] != bytes(4):
            return None
        if has_zero_distance(data[11:-4]):
            return None  # invalid by the format; the library writes zeros
        out = bytearray(1 << 16)
        n = cramjam.lz4.decompress_block_into(data[11:-4], out, output_len=len(out))
        return bytes(out[:n])
    except (cramjam.DecompressionError, struct.error, ValueError, OverflowError, IndexError):
        return None


def has_zero_distance(block: bytes) -> bool:
    """Whether a match of an LZ4 block has a distance of zero. IndexError where the block is cut."""

    def length(at: int, bits: int) -> tuple[int, int]:
        more = 255 if bits == 15 else 0
        while more == 255:
            more = block[at]
            at += 1
            bits += more
        return bits, at

    at = 0
    while at < len(block):
        token = block[at]
        literals, at = length(at + 1, token >> 4)
        at += literals
        if at >= len(block):
            break
        if block[at] == block[at + 1] == 0:
            return True
        _, at = length(at + 2, token & 15)
    return False


class Bench:
    """The guarded rooms, and one call of each kernel."""

    def __init__(self) -> None:
        self._source, self._target = GuardedRoom(4), GuardedRoom(24)
        self._table = np.zeros((1, BATCH_FIELDS), np.int64)
        self._rows = np.zeros((N_COLUMNS, 4096), np.int64)

    def open(self, codec: int, data: bytes, room: int) -> tuple[int, bytes]:
        """State and what was written, with `room` bytes of room and 64 behind them."""
        source, target = self._source.bytes, self._target.bytes
        start = self._source.put_at_end(data, 0)
        row = self._table[0]
        row[:] = 0
        row[BATCH_SOURCE] = source.ctypes.data + start
        row[BATCH_SOURCE_BYTES], row[BATCH_CODEC] = len(data), codec
        begin = len(target) - PADDING - room
        target[:] = 0xA5
        open_batches(
            target.ctypes.data, self._table.ctypes.data, 0, 1, begin, begin + room, 1 << 15
        )
        assert (target[:begin] == 0xA5).all(), "written before the room"
        written = row[BATCH_END] - row[BATCH_START] if row[BATCH_STATE] == OPENED else 0
        assert 0 <= written <= room
        return int(row[BATCH_STATE]), target[begin : begin + written].tobytes()

    def find(self, data: bytes) -> list[list[int]]:
        """The batches found in a buffer that ends before the page: position, size, offsets."""
        start = self._source.put_at_end(data, 0)
        found = np.zeros((8, GIVEN_FIELDS), np.int64)
        address = self._source.bytes.ctypes.data + start
        n = find_frames(address, len(data), 0, 0x20, found.ctypes.data, len(found), 1 << 20)
        return [
            [
                row[BATCH_SOURCE] - HEADER_BYTES - address,
                row[BATCH_SOURCE_BYTES] + HEADER_BYTES,
                row[BATCH_OFFSET],
                row[BATCH_NEXT_OFFSET],
            ]
            for row in found[:n].tolist()
        ]

    def index(self, body: bytes, count: int) -> tuple[int, int]:
        """Rows and damage of a section that ends 64 bytes before the page; its values lie inside."""
        for filler in (0, 0xFF):
            self._target.bytes[:] = filler
            start = self._target.put_at_end(body, PADDING)
            row = self._table[0]
            row[:] = 0
            row[BATCH_START], row[BATCH_END] = start, start + len(body)
            row[BATCH_COUNT], row[BATCH_NEXT_OFFSET] = count, 1 << 40
            n = index_records(
                self._target.bytes.ctypes.data,
                self._table.ctypes.data,
                1,
                self._rows.ctypes.data,
                self._rows.shape[1],
            )
            low, size = self._rows[VALUE, :n], self._rows[VALUE_LENGTH, :n]
            assert (low >= start).all()
            assert (low + np.maximum(size, 0) <= start + len(body)).all()
        return int(n), int(row[BATCH_DAMAGE])


def run(cases: int, seed: int) -> Counter[str]:
    pick = random.Random(seed)
    bench = Bench()
    seen: Counter[str] = Counter()
    for case in range(cases):
        codec = pick.choice((LZ4, SNAPPY, NONE))
        body = some_bytes(pick)[:8000]
        whole, keep = payload(pick, body, codec)
        data = spoiled(pick, whole, keep)[:16000]
        expected = by_library(codec, data)
        size = len(body) if expected is None else len(expected)
        room = pick.choice(
            (size, size, size + pick.randrange(100), pick.randrange(size + 1), 70_000)
        )
        state, text = bench.open(codec, data, room)
        context = (seed, case, codec, room, data.hex())
        if data == whole and room >= len(body) and (state, text) != (OPENED, body):
            raise SystemExit(f"sound, but {state}: {context}")
        if expected is not None and room >= len(expected) and text != expected:
            raise SystemExit(f"{state}, but the library reads it: {context}")
        if state == OPENED and expected is None and codec == SNAPPY:
            raise SystemExit(f"opened, but the library refuses it: {context}")
        if state == NO_ROOM and room == 70_000 and codec == LZ4:
            raise SystemExit(f"no room: {context}")
        seen[f"codec {codec}: {state}"] += 1

        n_records = pick.randrange(1, 6)
        section = b"".join(
            body_of(
                Record(
                    i,
                    pick.randrange(-9, 9),
                    pick.choice((None, b"k" * 70)),
                    body[:90],
                    (("traceparent", b"x" * 55),) * pick.randrange(3),
                )
            )
            for i in range(n_records)
        )
        rows, damage = bench.index(spoiled(pick, section, 0), n_records)
        assert rows <= n_records
        seen[f"index: {damage}"] += 1
    # Every prefix of two batches.
    first = bytes(built([Record(0, 0, None, b"x" * 90, ())]))
    second = bytes(built([Record(1, 0, b"k", b"y", ())]))
    for end in range(len(first + second) + 1):
        found = bench.find((first + second)[:end])
        both = [[0, len(first), 0, 1], [len(first), len(second), 1, 2]]
        assert found == both[: (end >= len(first)) + (end >= len(first + second))], end
    for _ in range(1000):
        assert len(bench.find(spoiled(pick, first + second, 0))) <= 2
    # Every prefix of one section and one payload of each codec.
    for end in range(len(section)):
        rows, damage = bench.index(section[:end], n_records)
        assert rows < n_records
        assert damage
    for codec in (LZ4, SNAPPY):
        whole, _ = payload(pick, body, codec)
        for end in range(len(whole)):
            state, _ = bench.open(codec, whole[:end], len(body))
            assert state != OPENED, (codec, end)
    return seen


if __name__ == "__main__":
    print(json.dumps(dict(sorted(run(int(sys.argv[1]), int(sys.argv[2])).items()))))
