"""Scan records that lie at the edge of readable memory: `python -m tests.fuzz.guarded_scan CASES SEED`.

Every truncation of an event of each shape, then mutated ones, each with exactly 64 bytes before or behind
it, of every kind of garbage; unescaped text goes to a zone that ends 64 bytes before the edge. Dies of a
signal when the kernel reads or writes further; prints how many it accepted.
"""

from __future__ import annotations

import random
import sys

import numpy as np

from agent.decode.kernels.scan import scan
from tests.fuzz.configurations import DEFAULT
from tests.fuzz.guard import GuardedRoom
from tests.fuzz.mutations import Base, mutate
from tests.fuzz.scan_tier import ScanTier
from tests.fuzz.shapes import SHAPES, text

PADDING = 64
GARBAGE = (b"\0", b" ", b'"', b"1", b"\\", b"{", b"}", b"\xff", b"\xe2", b"a", b"[", b"-", b",")


def main(n_cases: int, seed: int) -> None:
    rng = random.Random(seed)
    tier = ScanTier(DEFAULT)
    samples = [text(rng, shape(rng), plain=True) for shape in dict.fromkeys(SHAPES)]
    for _ in range(30):
        for shape in SHAPES:
            tier.learn(text(rng, shape(rng), plain=True))
    cases = [sample[:end] for sample in samples for end in range(1, len(sample) + 1)]
    bases = [Base(sample) for sample in samples]
    cases += [mutate(rng, rng.choice(bases)) for _ in range(n_cases)]
    room, zone = GuardedRoom(2), GuardedRoom(1)
    zones, misfits = np.zeros(2, np.int64), np.zeros(1, np.int64)
    position, length, wanted = np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros(1, np.int64)
    zone_end = zone.bytes.ctypes.data + len(zone.bytes) - PADDING
    n_accepted = 0
    for i, case in enumerate(cases):
        if not 0 < len(case) <= len(room.bytes) - 2 * PADDING:
            continue
        room.bytes[:] = GARBAGE[i % len(GARBAGE)][0]
        put = room.put_at_start if i % 7 == 0 else room.put_at_end
        position[0], length[0] = put(case, PADDING), len(case)
        # Now and then no room for text, or hardly any.
        zones[:] = zone_end - rng.choice((0, 3, 40, 2000, 2000)), zone_end
        n_accepted += 1 - scan(
            room.bytes.ctypes.data,
            position.ctypes.data,
            length.ctypes.data,
            wanted.ctypes.data,
            1,
            tier.paths.address,
            zones.ctypes.data,
            tier.rows.address,
            misfits.ctypes.data,
        )
    print(n_accepted)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
