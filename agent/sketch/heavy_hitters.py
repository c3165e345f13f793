"""Reading the table of heavy hitters (`kernels.heavy_hitters` has the algorithm and its bound)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from agent.sketch.cells import Bytes
from agent.sketch.kernels import layout

#: Largest share of a listed count that may be overestimate.
MAX_OVERESTIMATE: Final = 0.05


@dataclass(frozen=True, slots=True)
class Hitter:
    """count - overestimate <= true count <= count."""

    text: str  # cut at 56 bytes, between characters
    count: int
    overestimate: int
    key: int  # merge_hash of the full text
    length: int  # bytes of the full text

    @property
    def is_certain(self) -> bool:
        """Is the count within MAX_OVERESTIMATE of the true one? Chance fills a table too: without this
        the keys of a column of many equally likely values would be listed with counts that mean nothing."""
        return self.overestimate <= MAX_OVERESTIMATE * self.count


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


def frequent(hitters: Iterable[Hitter], k: int) -> list[tuple[str, int]]:
    """Up to k (text, count) in the given order, only those whose count is certain: what may be shown."""
    found = [(h.text, h.count) for h in hitters if h.is_certain]
    return found[:k]
