"""Template decoding at the edge of readable memory: `python -m tests.fuzz.guarded_templates CASES SEED`.

As `guarded_scan`: every truncation of an event of each shape, then mutated ones, with exactly 64 bytes
before or behind each, of every kind of garbage, also of what the record would have gone on with. Dies of
a signal when the kernel reads further; prints how many it accepted.
"""

from __future__ import annotations

import random
import sys

import numpy as np

from agent.decode.kernels.template import decode_templates
from tests.fuzz.configurations import DEFAULT
from tests.fuzz.guard import GuardedRoom
from tests.fuzz.guarded_scan import GARBAGE, PADDING
from tests.fuzz.mutations import Base, mutate
from tests.fuzz.shapes import SHAPES, text
from tests.fuzz.template_tier import TemplateTier


def main(n_cases: int, seed: int) -> None:
    rng = random.Random(seed)
    tier = TemplateTier(DEFAULT)
    samples = [text(rng, shape(rng), plain=True) for shape in dict.fromkeys(SHAPES)]
    for _ in range(30):
        for shape in SHAPES:
            tier.learn(text(rng, shape(rng), plain=True))
    cases = [
        (sample[:end], sample[end : end + PADDING])
        for sample in samples
        for end in range(1, len(sample) + 1)
    ]
    bases = [Base(sample) for sample in samples]
    cases += [(mutate(rng, rng.choice(bases)), b"") for _ in range(n_cases)]
    room = GuardedRoom(2)
    misfits = np.zeros(1, np.int64)
    position, length = np.zeros(1, np.int64), np.zeros(1, np.int64)
    n_accepted = 0
    for i, (case, rest) in enumerate(cases):
        if not 0 < len(case) <= len(room.bytes) - 2 * PADDING:
            continue
        room.bytes[:] = GARBAGE[i % len(GARBAGE)][0]
        if i % 7 == 0:
            position[0] = room.put_at_start(case, PADDING)
        else:
            position[0] = room.put_at_end(case, PADDING)
            if i % 2:
                at = len(room.bytes) - PADDING
                room.bytes[at : at + len(rest)] = np.frombuffer(rest, np.uint8)
        length[0] = len(case)
        n_accepted += 1 - decode_templates(
            tier.templates.address,
            tier.rows.address,
            room.bytes.ctypes.data,
            position.ctypes.data,
            length.ctypes.data,
            1,
            misfits.ctypes.data,
        )
    print(n_accepted)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
