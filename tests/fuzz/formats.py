"""Mutated bytes for every reader of a binary format: refused as a DecodeError (a state also as a foreign one), or
read; nothing else, and soon.

    python -m tests.fuzz.formats --cases 1000000 --seed 1 [--only chunk] [--json]

Half of the cases get a right checksum again, so that what lies behind it is reached. Of record batches, as
they come from a broker, every offset must be accounted for: read as a record, or told as unreadable.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import struct
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from aiokafka.record.util import calc_crc32c

from agent.aggregate.intake import Intake, Seek
from agent.config import Config
from agent.decode.arena import RecordArena
from agent.errors import DecodeError
from agent.fold.base import Fold
from agent.fold.persist import ForeignStateError, dump, load
from agent.fold.profile import Profile
from agent.ingest.batches import CorruptRange
from agent.sketch.codec import numeric_from_bytes, string_from_bytes
from agent.state.chunk import MAGIC, from_bytes, merge_digest, to_bytes
from agent.state.entries import ChunkWritten, Forget, Tick, entry_from_bytes, entry_to_bytes
from agent.state.files import Files
from agent.state.heads import Head
from agent.state.journal import JournalWriter, Origin, journal_path, read_journal
from agent.state.parts import read_record, records_of
from agent.state.snapshots import Heading, read_snapshot, snapshot_path, write_snapshot
from agent.types import Chunk, Partition, Record, StreamKey
from tests.support.blocks import Row, chunk_of, feature, range_of
from tests.support.raw_batches import CODECS, built, opened, tables_of

T0_MS = 1_767_225_600_000
#: No case may take longer: the largest sample has some kilobytes.
SLOW_S = 1.0
_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 62, (1 << 64) - 1)
_ARENA = RecordArena()


class Wrong(AssertionError):
    """A reader did what it must not."""


@dataclass(frozen=True)
class Format:
    """Samples, a reader that raises DecodeError alone, and what makes the checksum right, in place."""

    samples: Callable[[], list[bytes]]
    read: Callable[[bytes], object]
    sign: Callable[[bytearray], None]


def _sign_end(data: bytearray) -> None:
    """crc32 of all before it, in the last four bytes."""
    if len(data) >= 4:
        data[-4:] = struct.pack("<I", zlib.crc32(memoryview(data)[:-4]))


def _sign_record(data: bytearray) -> None:
    """That of the chunk in a manifest, then that of the record."""
    at = data.find(MAGIC, 4)
    if at >= 0 and len(data) >= at + 8:
        inner = bytearray(data[at:-4])
        _sign_end(inner)
        data[at:-4] = inner
    _sign_end(data)


def _sign_cell(data: bytearray) -> None:
    """`sketch.codec`: the head, its crc with the payload, the payload; the length is made right, too."""
    if len(data) >= 16:
        struct.pack_into("<I", data, 8, len(data) - 16)
        struct.pack_into("<I", data, 12, zlib.crc32(data[16:], zlib.crc32(data[:12])))


def _sign_journal(data: bytearray) -> None:
    """The header's crc32, and that of every entry that is found by its marker and length."""
    if len(data) < 16:
        return
    _, _, _, salt, length = struct.unpack_from("<4sHHII", data)
    at = 16 + length
    if at + 4 > len(data):
        return
    struct.pack_into("<I", data, at, zlib.crc32(memoryview(data)[:at]))
    at = data.find(b"IFJE", at)
    while at >= 0 and at + 28 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        payload = memoryview(data)[at + 28 : at + 28 + size]
        checksum = zlib.crc32(payload, zlib.crc32(data[at + 4 : at + 24], salt))
        payload.release()
        struct.pack_into("<I", data, at + 24, checksum)
        at = data.find(b"IFJE", at + 28)


def _sign_batch(data: bytearray) -> None:
    """Format version 2: crc32c behind the attributes' place, of the first batch of the buffer."""
    if len(data) >= 61:
        end = min(len(data), 12 + max(0, int.from_bytes(data[8:12], "big", signed=True)))
        data[17:21] = struct.pack(">I", calc_crc32c(bytes(data[21:end])))


def _unsigned(data: bytearray) -> None:
    """It has none."""


# ---------------------------------------------------------------- samples


@cache
def _chunk() -> Chunk:
    key = StreamKey("m", "1", (("region", "eu"),))
    rows = [
        Row(
            key, T0_MS + i, {feature("x"): float(i), feature("c"): f"v{i % 3}", feature("b"): i > 3}
        )
        for i in range(40)
    ]
    return chunk_of([[rows]], digest=merge_digest(Config()), ranges=[range_of(0, rows)])


_RUN = "ab" * 8


@cache
def _records() -> list[bytes]:
    """Two chunks of a run as the one shard of a chunk topic has them."""
    (at,) = _chunk().ranges
    first = replace(at, lineage="cd" * 8, prev="")
    second = replace(first, from_offset=at.to_offset, to_offset=at.to_offset + 40, prev=f"{_RUN};1")
    one = replace(_chunk(), run_id=_RUN, number=1, ranges=[first])
    two = replace(one, number=2, ranges=[second])
    return [*records_of(one, 0, 1, ()), *records_of(two, 0, 1, [f"{_RUN};1"])]


def _take_in(data: bytes) -> None:
    """An aggregator between records that are whole. Raises Wrong when it gives out what it may not."""
    intake = Intake(0, 1, max_bytes=1 << 20, missing_timeout_s=1.0)
    partition = _chunk().ranges[0].partition
    for position, value in enumerate([*_records()[:2], data, *_records()[2:]]):
        intake.record(position, value, position * 2.0)
        intake.heads({partition: Head("cd" * 8, 80, _RUN, 2)}, position + 1, position * 2.0)
        while (what := intake.next(position * 2.0)) is not None:
            if isinstance(what, Seek):
                raise Wrong(f"read again from {what.position}")
            intake.settle(what)
    if intake.n_foreign:
        raise DecodeError("a record that is not ours")


@cache
def _fold() -> Fold:
    fold = Fold(Config(), start_ns=1)
    fold.apply(_chunk(), 2)
    return fold


def _cells(*, strings: bool) -> list[bytes]:
    fold = Fold(Config(), start_ns=1)
    fold.apply(_chunk(), 2)
    (profile,) = fold.seal_all(3).sealed
    kinds = {"c"} if strings else {"x", "b"}
    return [at.sketch for column, at in profile.columns.items() if column.name in kinds]


def _profiles() -> list[bytes]:
    fold = Fold(Config(), start_ns=1)
    fold.apply(_chunk(), 2)
    return [profile.to_bytes() for profile in fold.seal_all(3).sealed]


def _files() -> tuple[bytes, bytes]:
    """A journal of some entries, and a snapshot."""
    origin = Origin("g", ["t"], "instance", "run", 1)
    with TemporaryDirectory() as folder:
        writer = JournalWriter(Files(), Path(folder), origin)
        for entry in _entries():
            writer.append([entry])
        writer.close()
        heading = Heading(origin, 5, ["run"], [])
        write_snapshot(Files(), Path(folder), heading, dump(_fold()))
        return (
            journal_path(Path(folder), 1).read_bytes(),
            snapshot_path(Path(folder), 1).read_bytes(),
        )


def _entries() -> list[bytes]:
    entries = [Tick(5), ChunkWritten(to_bytes(_chunk())), Forget([Partition("t", 0)])]
    return [entry_to_bytes(entry) for entry in entries]  # type: ignore[arg-type]


def _batches() -> list[bytes]:
    out = []
    for codec in CODECS.values():
        parts = []
        for first in (0, 7, 20):
            records = [
                Record(first + i, T0_MS + i, b"k%d" % i, b'{"a":%d}' % i, (("h", b"v"),))
                for i in range(5)
            ]
            parts.append(bytes(built(records, codec=codec)))
        out.append(b"".join(parts))
    return out


def _read_batches(data: bytes) -> None:
    """Raises Wrong unless records and unreadable ranges follow one another and nothing is told twice."""
    items, next_offset = tables_of(data)
    reached = 0
    for item in items:
        if isinstance(item, CorruptRange):
            spans = [(item.offset, item.to_offset)]
        else:
            spans = sorted(
                (one.offset, one.offset + 1) if isinstance(one, Record) else one
                for one in opened(_ARENA, item)
            )
        for low, high in spans:
            if not reached <= low < high:
                raise Wrong(f"{low} to {high} behind {reached}")
            reached = high
    if reached > next_offset:
        raise Wrong(f"read up to {reached}, next is {next_offset}")
    if any(isinstance(item, CorruptRange) for item in items):
        raise DecodeError("a damaged batch")


FORMATS: dict[str, Format] = {
    "chunk": Format(lambda: [to_bytes(_chunk())], from_bytes, _sign_end),
    "profile": Format(_profiles, Profile.from_bytes, _sign_end),
    "state": Format(lambda: [dump(_fold())], lambda data: load(Config(), data), _sign_end),
    "journal": Format(
        lambda: [_files()[0]], lambda data: read_journal(data, "j", None), _sign_journal
    ),
    "snapshot": Format(lambda: [_files()[1]], lambda data: read_snapshot(data, "s"), _sign_end),
    "entry": Format(_entries, entry_from_bytes, _unsigned),
    "part": Format(_records, read_record, _sign_record),
    "intake": Format(_records, _take_in, _sign_record),
    "numbers": Format(lambda: _cells(strings=False), numeric_from_bytes, _sign_cell),
    "texts": Format(lambda: _cells(strings=True), string_from_bytes, _sign_cell),
    "batches": Format(_batches, _read_batches, _sign_batch),
}


# ---------------------------------------------------------------- running


def mutated(data: bytes, rng: random.Random) -> bytearray:
    """One to four changes: a bit, a byte, an extreme integer, bytes cut, left out, doubled or put in."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if not out:
            break
        at = rng.randrange(len(out))
        match rng.randrange(8):
            case 0 | 1:
                out[at] ^= 1 << rng.randrange(8)
            case 2:
                out[at] = rng.randrange(256)
            case 3 | 4:
                size = rng.choice((1, 2, 4, 8))
                value = rng.choice(_EXTREMES) & ((1 << 8 * size) - 1)
                out[at : at + size] = value.to_bytes(size, rng.choice(("little", "big")))
            case 5:
                del out[at : at + rng.randrange(1, 40)]
            case 6:
                out[at:at] = rng.choice((rng.randbytes(rng.randrange(1, 40)), out[at : at + 30]))
            case _:
                if rng.random() < 0.3:
                    del out[at:]
    return out


@dataclass
class Report:
    cases: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    read: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    seconds: float = 0.0

    def document(self) -> dict[str, Any]:
        return {**vars(self), "refused": dict(self.refused), "read": dict(self.read)}


def run(names: list[str], n_cases: int, seed: int) -> Report:
    """`n_cases` cases over these formats by turns; the same arguments give the same cases."""
    report = Report()
    rng = random.Random(seed)
    samples = {name: FORMATS[name].samples() for name in names}
    for name in names:  # compiles what reads them: no case is to be blamed for that
        for sample in samples[name]:
            FORMATS[name].read(sample)
    began = time.perf_counter()
    for number in range(n_cases):
        name = names[number % len(names)]
        of = FORMATS[name]
        data = mutated(rng.choice(samples[name]), rng)
        if rng.random() < 0.5:
            of.sign(data)
        at = time.thread_time()
        try:
            of.read(bytes(data))
        except (DecodeError, ForeignStateError):
            report.refused[name] += 1
        except Exception as error:
            report.wrong.append(f"{name}: {type(error).__name__}: {error}: {bytes(data)[:200]!r}")
            if len(report.wrong) >= 10:
                break
        else:
            report.read[name] += 1
        used_s = time.thread_time() - at
        report.slowest_s = max(report.slowest_s, used_s)
        if used_s > SLOW_S:
            report.wrong.append(f"{name}: {used_s:.1f} s: {bytes(data)[:200]!r}")
        report.cases += 1
    report.seconds = round(time.perf_counter() - began, 1)
    return report


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.formats", description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=sorted(FORMATS), action="append")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # of each record that is left out
    report = run(options.only or list(FORMATS), options.cases, options.seed)
    document = report.document()
    print(json.dumps(document) if options.json else document)
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
