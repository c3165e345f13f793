"""A categorical column of the baseline, cut into cells that windows are counted in.

A text whose count is exact on both sides is a cell of its own; all others are counted in the 256 hashed
buckets, which are exact whatever the column holds. Overestimates of the table of heavy hitters never
enter: they only name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from agent.judge.drift import MIN_EXPECTED
from agent.judge.numeric_cells import Indices
from agent.judge.sketch_counts import Counts, Texts, bucket_of, set_of

#: Texts that are named as new.
MAX_NAMED: Final = 5


@dataclass(slots=True, eq=False)
class _Partition:
    """keys, buckets  texts that are cells of their own, and their hashed buckets
    group    int64[own + 256], group of each cell: own texts, then hashed buckets without them
    masses   float64[groups], counts of the baseline
    """

    keys: list[int]
    buckets: Indices
    group: Indices
    masses: Counts


@dataclass(slots=True, eq=False)
class TextBaseline:
    """What windows of a categorical column are compared with.

    singletons  texts that were seen once: their share of rows estimates that of texts never seen (Good
                1953). An upper bound where not every text is listed
    """

    texts: Texts
    singletons: float
    _partitions: dict[tuple[int, tuple[bool, ...]], _Partition] = field(default_factory=dict)

    @classmethod
    def of(cls, texts: Texts, distinct: float) -> TextBaseline:
        """`distinct`: estimated number of different texts, used where not all are listed."""
        repeated = sum(n > 1 for n in texts.named.values())
        if texts.is_exact:
            return cls(texts, float(len(texts.named) - repeated))
        return cls(texts, max(0.0, distinct - repeated))

    def partition(self, window: Texts) -> tuple[Counts, Counts]:
        """Counts of baseline and window in the same cells, float64[k] each, thin cells pooled into one."""
        rows = min(self.texts.count, window.count)
        step = math.floor(4 * math.log2(max(1.0, rows)))
        full = tuple(bool(a or b) for a, b in zip(self.texts.bounds, window.bounds, strict=True))
        found = self._partitions.get((step, full))
        if found is None:
            found = self._partitions[step, full] = self._cut(2.0 ** (step / 4), full)
        own = np.array([window.named.get(key, 0.0) for key in found.keys])
        others = window.hashed - np.bincount(found.buckets, own, len(window.hashed))
        counts = np.bincount(found.group, np.concatenate((own, others)), len(found.masses))
        return found.masses, counts.astype(np.float64)

    def _cut(self, rows: float, full: tuple[bool, ...]) -> _Partition:
        """Cells that expect MIN_EXPECTED of `rows`. Sets of the table that are `full` list no exact counts."""
        share = rows / self.texts.count
        keys = [
            key
            for key, n in self.texts.named.items()
            if n * share >= MIN_EXPECTED and not full[set_of(key)]
        ]
        buckets = np.array([bucket_of(key) for key in keys], np.int64)
        own = np.array([self.texts.named[key] for key in keys])
        others = self.texts.hashed - np.bincount(buckets, own, len(self.texts.hashed))
        masses = np.concatenate((own, others))
        thick = masses * share >= MIN_EXPECTED
        group = np.where(thick, np.cumsum(thick) - 1, int(thick.sum()))
        pooled = np.bincount(group, masses, int(thick.sum()) + 1)
        if pooled[-1] * share < MIN_EXPECTED and len(pooled) > 1:
            # Too thin for a cell of its own: the smallest takes it.
            group[~thick] = int(pooled[:-1].argmin())
            pooled = np.bincount(group, masses)
        return _Partition(keys, buckets, group, pooled.astype(np.float64))

    def unseen(self, window: Texts) -> tuple[float, list[tuple[str, float]]]:
        """Rows of the window whose text the baseline never held, and the texts among them that are named,
        most frequent first.

        Certain: rows in hashed buckets that are empty in the baseline, and of listed texts that a full list of
        the baseline lacks. Where the list is not full, a text that it lacks may be rare instead of
        new: then rows count beyond those that the largest unlisted count explains, with three errors.
        """
        empty = self.texts.hashed == 0
        ratio = window.count / self.texts.count
        rows = float(window.hashed[empty].sum())
        found: list[tuple[str, float]] = []
        for key in window.named.keys() - self.texts.named.keys():
            n = new = window.named[key]
            if not empty[bucket_of(key)]:
                rare = self.texts.bound(key) * ratio
                new = max(0.0, n - rare - 3.0 * math.sqrt(rare))
                rows += new
            if new and key in window.names:
                found.append((window.names[key], n))
        found.sort(key=lambda item: (-item[1], item[0]))
        return rows, found[:MAX_NAMED]

    def held_alone(self, window: Texts) -> float:
        """Rows of a window inside the baseline whose text no other window holds: what `unseen` would have
        found, had the window come after."""
        alone = (self.texts.hashed == window.hashed) & (window.hashed > 0)
        rows = float(window.hashed[alone].sum())
        for key, n in window.named.items():
            is_exact = not self.texts.bound(key) and not window.bound(key)
            if is_exact and not alone[bucket_of(key)] and self.texts.named.get(key) == n:
                rows += n
        return rows
