"""All tiers, spans and sketches over text that ends where memory does: `python -m tests.fuzz.guarded_whole CASES SEED [PADDING]`.

As `whole`, with the records of each fetch moved so that the padding behind them (64 bytes unless told) ends
before an unreadable page, or that before them begins behind one; often without any room for text that had
escapes. What is decoded also goes through the sketches, which read texts again. First come checksums and
hashes of texts at the edge. Dies of a signal when a kernel reads further; exits 1 when anything differs;
prints how many rows the compiled tiers made.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from aiokafka.record.util import calc_crc32c

import agent.decode.fast
from agent.config import Config, Traces
from agent.decode.events import Decoded
from agent.decode.fast import FastDecoder
from agent.decode.indexed import Indexed
from agent.decode.kernels.crc import checksum_by_tables, crc32c
from agent.decode.laid import lay_out
from agent.sketch.delta import Delta
from agent.sketch.hash import merge_hash
from agent.sketch.kernels.hashing import hash_spans
from agent.types import Fetch, RawFetch, Record
from tests.fuzz.configurations import ALL
from tests.fuzz.guard import PAGE, GuardedRoom
from tests.fuzz.mutations import Base, mutate
from tests.fuzz.run import shapes_for
from tests.fuzz.shapes import base_records
from tests.fuzz.whole import Side, WholeSubject

PADDING = 64
#: Records decoded together: few, so that most lie near an edge.
_MOST = 30


class Mover:
    """`lay_out`, with the text at an edge of readable memory."""

    def __init__(self, rng: random.Random, padding: int) -> None:
        self._rng, self._padding = rng, padding

    def __call__(self, records: Sequence[Record], to_offset: int) -> Indexed:
        index = lay_out(records, to_offset)
        last = len(records) - 1
        end = int(index.hpos[last] + index.hlen[last])
        free = self._rng.choice((0, 0, 0, PADDING + 10, PADDING + 1000))
        size = end + free + self._padding
        room = GuardedRoom(-(-size // PAGE))
        room.bytes[:] = self._rng.randrange(256)
        begin = 0 if self._rng.random() < 0.2 else len(room.bytes) - size
        text = room.bytes[begin : begin + size]
        text[:end] = index.text[:end]
        index.text, index.address = text, text.ctypes.data
        return index


class SketchedSide(Side):
    """Adds all blocks to a delta before anybody else sees them."""

    def __init__(self, decoder: Any, config: Config, traces: Traces) -> None:
        super().__init__(decoder, config, traces)
        self._delta = Delta(self.table)

    def start_over(self) -> None:
        super().start_over()
        self._delta = Delta(self.table)

    def parts(self, fetch: Fetch | RawFetch) -> Iterator[Decoded]:
        for part in super().parts(fetch):
            for block in part.blocks:
                self._delta.add(block)
            yield part


class GuardedSubject(WholeSubject):
    """Decodes record objects alone: their text can be moved."""

    raw_share = 0.0

    def fast_side(self, config: Config, traces: Traces) -> Side:
        return SketchedSide(FastDecoder, config, traces)


def check_sums(rng: random.Random) -> None:
    """Checksums read nothing but their bytes; hashes 16 bytes more."""
    room = GuardedRoom(3)
    start, length, found = np.zeros(1, np.int64), np.zeros(1, np.int32), np.zeros(1, np.uint64)
    address = room.bytes.ctypes.data
    for size in (*range(100), 1023, 1024, 3072, 3080, 6144, 6151, 9000, len(room.bytes)):
        data = rng.randbytes(size)
        for put in (room.put_at_end, room.put_at_start):
            at = put(data, 0)
            for checksum in (crc32c, checksum_by_tables):
                assert int(checksum(address + at, size)) == calc_crc32c(data), size
        if size <= 6151:
            start[0], length[0] = room.put_at_end(data, 16), size
            hash_spans(address, start.ctypes.data, length.ctypes.data, 1, found.ctypes.data)
            assert int(found[0]) == merge_hash(data), size


def main(n_cases: int, seed: int, padding: int) -> int:
    rng = random.Random(seed)
    check_sums(rng)
    # The name under which the decoder knows it.
    agent.decode.fast.lay_out = Mover(rng, padding)  # type: ignore[assignment]
    n_accepted = done = 0
    while done < n_cases:
        for name in ALL:
            subject = GuardedSubject(name, f"{seed}/{done}")
            bases = [Base(record) for record in base_records(rng, 100, shapes_for(name))]
            for _ in range(100):
                n = rng.randrange(1, _MOST)
                records: list[bytes | None] = [
                    mutate(rng, rng.choice(bases), gentle=True) for _ in range(n)
                ]
                differences = subject.check(records, b"")
                if differences:
                    print(differences, file=sys.stderr)
                    return 1
                done += n
            accepted = subject.accepted()
            n_accepted += accepted["scan"] + accepted["template"]
    print(n_accepted)
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), int((*sys.argv, PADDING)[3])))
