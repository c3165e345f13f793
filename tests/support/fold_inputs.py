"""A fold that only remembers its inputs: what a journal must hand it again, in order."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from typing import Any

import msgspec

from agent.errors import DecodeError
from agent.fold.effects import Effects
from agent.sketch.packed import no_cells
from agent.state.recovery import FoldCodec
from agent.types import Chunk, Partition, PartitionRange, Snapshot, Tally

LINEAGE = "00000000000000aa"


class Inputs:
    """Stands in for `Fold`: the same inputs, kept as plain tuples."""

    def __init__(self, start_ns: int) -> None:
        self.tally = Tally()
        self.seen: list[list[Any]] = [["start", start_ns]]

    def apply(self, chunk: Chunk, now_ns: int) -> Effects:
        ranges = [
            [at.partition.partition, at.from_offset, at.to_offset, at.lineage]
            for at in chunk.ranges
        ]
        self.seen.append(["chunk", chunk.run_id, chunk.number, ranges, chunk.tally.rows, now_ns])
        return Effects()

    def tick(self, now_ns: int) -> Effects:
        self.seen.append(["tick", now_ns])
        return Effects()

    def export(self, now_ns: int, *, zeros: bool = True) -> Snapshot:
        self.seen.append(["export", now_ns, zeros])
        return Snapshot(now_ns, [], {})

    def snapshot(self, now_ns: int) -> Snapshot:
        return Snapshot(now_ns, [], {})

    def accepted(self, snapshot: Snapshot) -> None:
        self.seen.append(["accepted", snapshot.time_ns])

    def forget(self, partitions: Iterable[Partition]) -> None:
        self.seen.append(["forget", [list(p) for p in partitions]])

    def renew(self, now_ns: int) -> None:
        self.seen.append(["renew", now_ns])


_MAGIC = b"SEEN"


def dump(fold: Any) -> bytes:
    data = _MAGIC + msgspec.msgpack.encode(fold.seen)
    return data + struct.pack("<I", zlib.crc32(data))


def load(data: bytes) -> Any:
    if data[:4] != _MAGIC or struct.unpack("<I", data[-4:])[0] != zlib.crc32(data[:-4]):
        raise DecodeError("not what dump wrote")
    fold = Inputs(0)
    fold.seen = msgspec.msgpack.decode(data[4:-4])
    return fold


CODEC: Any = FoldCodec(make=Inputs, dump=dump, load=load)  # type: ignore[arg-type]


def chunk(
    run_id: str, number: int, first: int, last: int, *, rows: int | None = None, partition: int = 0
) -> Chunk:
    """An empty chunk that covers `[first, last)` of a partition."""
    at = PartitionRange(Partition("t", partition), first, last, LINEAGE, "", -1, last, True, 0)
    tally = Tally(records=last - first, rows=last - first if rows is None else rows)
    return Chunk(run_id, number, 1, "d", [at], [], no_cells(False), no_cells(True), tally, [], [])
