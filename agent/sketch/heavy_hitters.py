"""Reading the table of heavy hitters (`kernels.heavy_hitters` has the algorithm and its bound)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from agent.sketch.cells import Bytes
from agent.sketch.kernels import layout

SLOTS = layout.SETS * layout.WAYS


@dataclass(frozen=True, slots=True)
class Hitter:
    """count - overestimate <= true count <= count."""

    text: str  # cut at 56 bytes, between characters
    count: int
    overestimate: int
    key: int  # merge_hash of the full text
    length: int  # bytes of the full text


def read_table(record: Bytes) -> list[Hitter]:
    """All keys whose text is known, largest guaranteed count (count - overestimate) first.

    Ties: larger count, then smaller hash; so the order does not depend on how the cell came about.
    """
    words = record[layout.COUNTS : layout.OVERS].view(np.uint64)
    keys = record[layout.KEYS : layout.COUNTS].view(np.uint64)
    overs = record[layout.OVERS : layout.HASHED].view(np.uint64)
    found: list[Hitter] = []
    for way in np.flatnonzero(words & np.uint64(1)).tolist():
        slot = record[layout.TEXTS + way * layout.TEXT_SLOT :][: layout.TEXT_SLOT]
        length, kept = slot[:8].view(np.uint32).tolist()
        text = slot[8 : 8 + kept].tobytes().decode("utf-8", "replace")
        found.append(Hitter(text, int(words[way]) >> 1, int(overs[way]), int(keys[way]), length))
    found.sort(key=lambda h: (h.overestimate - h.count, -h.count, h.key))
    return found


def unlisted_bound(record: Bytes) -> int:
    """A key that is not in the table has occurred at most this often."""
    words = record[layout.COUNTS : layout.OVERS].view(np.uint64)
    return int((words >> np.uint64(1)).reshape(layout.SETS, layout.WAYS).min(axis=1).max())
