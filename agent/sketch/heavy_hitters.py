"""Reading the table of heavy hitters (`kernels.heavy_hitters` has the algorithm and its bound)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from agent.sketch.cells import Bytes
from agent.sketch.kernels import layout

SLOTS = layout.SETS * layout.WAYS


class Hitter(NamedTuple):
    """count - overestimate <= true count <= count."""

    text: str
    count: int
    overestimate: int


class Named(NamedTuple):
    """A hitter with what only some readers want."""

    hitter: Hitter
    key: int  # merge_hash of the full text
    length: int  # bytes of the full text; the text is cut at 56


def read_table(record: Bytes) -> list[Named]:
    """All keys whose text is known, largest guaranteed count (count - overestimate) first.

    Ties: larger count, then smaller hash; so the order does not depend on how the cell came about.
    """
    words = record[layout.COUNTS : layout.OVERS].view(np.uint64)
    keys = record[layout.KEYS : layout.COUNTS].view(np.uint64)
    overs = record[layout.OVERS : layout.HASHED].view(np.uint64)
    found: list[Named] = []
    for way in np.flatnonzero(words & np.uint64(1)).tolist():
        slot = record[layout.TEXTS + way * layout.TEXT_SLOT :][: layout.TEXT_SLOT]
        length, kept = slot[:8].view(np.uint32).tolist()
        text = slot[8 : 8 + kept].tobytes().decode("utf-8", "replace")
        hitter = Hitter(text, int(words[way]) >> 1, int(overs[way]))
        found.append(Named(hitter, int(keys[way]), length))
    found.sort(key=lambda n: (n.hitter.overestimate - n.hitter.count, -n.hitter.count, n.key))
    return found


def unlisted_bound(record: Bytes) -> int:
    """A key that is not in the table has occurred at most this often."""
    words = record[layout.COUNTS : layout.OVERS].view(np.uint64)
    return int((words >> np.uint64(1)).reshape(layout.SETS, layout.WAYS).min(axis=1).max())
